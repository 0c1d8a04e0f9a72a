//! The outputs of frozen encoders, computed once for each image and view, and kept on disk.
//!
//! A row of numbers is found by the encoder (its weights, its shape, the transform of the images)
//! and by the image (the content of its file, the view). It is therefore never stale: an image, a
//! weight or a setting that changes has another name. Several processes may share the folder, of
//! which one at a time adds the rows of an encoder; it may be deleted whenever none is running.

mod compute;
mod fetch;
mod shard;
mod store;
mod view;

use std::ops::Range;
use std::sync::Arc;

use anyhow::{Context, Result};
use tch::{Device, Kind, Tensor};

use self::compute::{Encoder, RowKind};
use self::fetch::{Rows, fetch};
use crate::config::{BackboneShape, Branch, Config};
use crate::data::ImageDataset;
use crate::models::fusion::BranchTokens;
use crate::models::tokens::TokenLayout;
use crate::models::{BeautyNet, ForwardContext, Images, Output, Slicer, weights};

use self::view::ViewedImage;

pub use self::view::View;

/// What a fetch of features reports.
#[derive(Debug, Clone, Copy)]
pub enum Progress<'a> {
    /// Rows of an encoder have been computed.
    Computed {
        /// The encoder's name.
        name: &'a str,
        /// Rows computed so far.
        done: usize,
        /// Rows to compute.
        total: usize,
    },
    /// Another process is computing rows that are needed here.
    Waiting,
}

/// Images of a split with the views of each whose features are needed.
#[derive(Clone)]
pub struct ViewedSplit {
    /// The images.
    pub images: Arc<ImageDataset>,
    /// The views.
    pub views: Vec<View>,
}

/// What was found and computed.
#[derive(Debug)]
pub struct Fetched<T> {
    /// The rows of each split.
    pub splits: Vec<T>,
    /// Rows in all.
    pub rows: usize,
    /// Rows that were computed.
    pub computed: usize,
    /// Bytes of all rows.
    pub bytes: usize,
    /// Why rows could not be written, so that another run will compute them again.
    pub problem: Option<String>,
}

/// The features of the images of a split.
#[derive(Debug)]
pub struct SplitFeatures {
    branches: Vec<BranchRows>,
    views: usize,
}

/// The features of one branch.
#[derive(Debug)]
struct BranchRows {
    branch: Branch,
    layout: TokenLayout,
    /// Values of a feature vector.
    width: usize,
    /// The width of the tokens, if they are kept after the feature vector.
    token_width: Option<usize>,
    rows: Rows,
}

impl SplitFeatures {
    /// Returns the tokens of a branch for images with one view each, by index; `None` if the model
    /// lacks the branch. There are feature vectors only, unless the fusion needs tokens.
    pub fn tokens(
        &self,
        branch: Branch,
        images: &[(usize, usize)],
        device: Device,
    ) -> Result<Option<BranchTokens>> {
        let Some(kept) = self.branches.iter().find(|kept| kept.branch == branch) else {
            return Ok(None);
        };
        let rows: Vec<usize> =
            images.iter().map(|(image, view)| image * self.views + view).collect();
        let rows = kept.rows.tensor(&rows)?.f_to_device(device)?;
        let features = rows.f_narrow(1, 0, kept.width as i64)?;
        let Some(token_width) = kept.token_width else {
            return Ok(Some(BranchTokens::of_features(features, kept.layout)));
        };
        let tokens = rows.f_slice(1, kept.width as i64, None, 1)?;
        let tokens = tokens.f_unflatten(1, [-1, token_width as i64])?;
        Ok(Some(BranchTokens::new(tokens, kept.layout, features)))
    }

    /// Returns the feature vectors of a branch for all images in one view, in double precision:
    /// (images, width).
    pub fn features(&self, branch: Branch, view: usize) -> Result<Tensor> {
        let missing = || format!("internal: the model has no branch {branch}");
        let kept = self.branches.iter().find(|kept| kept.branch == branch);
        let len = kept.with_context(missing)?.rows.len() / self.views;
        let images: Vec<_> = (0..len).map(|image| (image, view)).collect();
        let tokens = self.tokens(branch, &images, Device::Cpu)?.with_context(missing)?;
        Ok(tokens.features().to_kind(Kind::Double))
    }

    /// Returns the branches' feature vectors of images as they are, by index: (images, d).
    pub fn vectors(&self, images: &[usize]) -> Result<Tensor> {
        let images: Vec<_> = images.iter().map(|&image| (image, 0)).collect();
        let of_branch = |kept: &BranchRows| -> Result<Tensor> {
            let tokens = self.tokens(kept.branch, &images, Device::Cpu)?;
            Ok(tokens.context("internal: a branch has no features")?.features().shallow_clone())
        };
        let branches: Vec<Tensor> = self.branches.iter().map(of_branch).collect::<Result<_>>()?;
        Ok(Tensor::f_cat(&branches, 1)?)
    }

    /// Predicts images in one view, as [`BeautyNet::infer`] does from their pixels.
    pub fn infer(
        &self,
        net: &BeautyNet,
        images: Range<usize>,
        view: usize,
        slicer: &Slicer,
    ) -> Result<Output> {
        let slices = slicer.slices(images.len());
        let outputs = slicer.map(slices.len(), |slice| {
            let _guard = tch::no_grad_guard();
            let rows = slices[slice].clone().map(|row| (images.start + row, view));
            let rows: Vec<_> = rows.collect();
            let tokens = |branch| self.tokens(branch, &rows, net.device());
            let (vit, mamba) = (tokens(Branch::Vit)?, tokens(Branch::Mamba)?);
            net.join_tokens(vit, mamba, ForwardContext::eval())
        })?;
        Output::concatenate(outputs)
    }
}

/// Returns the features of images that the network's backbones compute, in float32, as in
/// evaluation; with all tokens if `with_tokens`. `report` is told of the progress, and ends it with
/// an error.
pub fn branch_features(
    net: &BeautyNet,
    config: &Config,
    splits: &[ViewedSplit],
    with_tokens: bool,
    report: &mut dyn FnMut(Progress) -> Result<()>,
) -> Result<Fetched<SplitFeatures>> {
    let slicer = Slicer::new(config.train.slice, net.device())?;
    let (mut encoders, mut empty) = (Vec::new(), Vec::new());
    for &branch in Branch::ALL {
        let (Some(shape), Some(layout)) = (net.branch(branch), net.token_layout(branch)) else {
            continue;
        };
        let width = shape.feature_width() as usize;
        let token_width = with_tokens.then_some(shape.embed_dim as usize);
        let tokens = (shape.embed_dim * layout.count()) as usize;
        let shape = BackboneShape { drop_path: 0.0, ..*shape };
        let weights = weights::content_hash(&net.branch_parameters(branch))?;
        let tf32 = config.train.tf32;
        let rows = |with_tokens: bool| RowKind {
            identity: format!("{shape:?} {weights} tokens: {with_tokens} tf32: {tf32}"),
            width: if with_tokens { width + tokens } else { width },
        };
        encoders.push(Encoder {
            name: config.model.backbone(branch).name.clone(),
            rows: rows(with_tokens),
            longer: (!with_tokens).then(|| rows(true)),
            device: net.device(),
            encode: Box::new(move |pixels| encode(net, branch, pixels, with_tokens)),
        });
        empty.push((branch, layout, width, token_width));
    }
    let Fetched { splits: fetched, rows, computed, bytes, problem } =
        fetch(&encoders, &config.data, splits, &slicer, report)?;
    let splits =
        splits.iter().zip(fetched).map(|(split, of_encoders)| {
            let branches = empty.iter().zip(of_encoders);
            let branches = branches.map(|(&(branch, layout, width, token_width), rows)| {
                BranchRows { branch, layout, width, token_width, rows }
            });
            SplitFeatures { branches: branches.collect(), views: split.views.len() }
        });
    Ok(Fetched { splits: splits.collect(), rows, computed, bytes, problem })
}

/// Encodes pixels: the feature vector of each image, then its tokens if `with_tokens`.
fn encode(net: &BeautyNet, branch: Branch, pixels: &Tensor, with_tokens: bool) -> Result<Tensor> {
    let encoded = net.encode(branch, Images::Pixels(pixels), ForwardContext::eval())?;
    let encoded = encoded.with_context(|| format!("internal: the model has no branch {branch}"))?;
    if !with_tokens {
        return Ok(encoded.features().shallow_clone());
    }
    let tokens = encoded.tokens().f_flatten(1, -1)?;
    Ok(Tensor::f_cat(&[encoded.features(), &tokens], 1)?)
}

/// Returns the pixels of a view of an image: (3, size, size). Returns an error that names the image
/// if it cannot be read.
pub fn view_pixels(images: &ImageDataset, index: usize, view: View) -> Result<Vec<u8>> {
    let sample = images.samples().get(index);
    let content = sample.with_context(|| format!("there is no image {index}"))?.content_hash()?;
    ViewedImage { images, index, content, view }.pixels()
}

/// Returns numbers that a function computes of the pixels of each image as evaluation sees it,
/// uint8 (b, 3, s, s): a tensor of (images, width) for each split. `name` is that of the function.
pub fn pixel_features(
    (name, width): (&str, usize),
    encode: fn(&Tensor) -> Result<Tensor>,
    config: &Config,
    splits: &[&Arc<ImageDataset>],
) -> Result<Vec<Tensor>> {
    let encoder = Encoder {
        name: name.to_string(),
        rows: RowKind { identity: name.to_string(), width },
        longer: None,
        device: Device::Cpu,
        encode: Box::new(encode),
    };
    let viewed = |images: &&Arc<ImageDataset>| ViewedSplit {
        images: Arc::clone(images),
        views: vec![View::Plain],
    };
    let splits: Vec<ViewedSplit> = splits.iter().map(viewed).collect();
    let whole = Slicer::whole();
    let fetched = fetch(&[encoder], &config.data, &splits, &whole, &mut |_| Ok(()))?;
    let rows = fetched.splits.into_iter().flatten();
    rows.map(|rows| rows.tensor(&Vec::from_iter(0..rows.len()))).collect()
}
