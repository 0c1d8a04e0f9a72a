//! MTCNN (Zhang et al. 2016, arXiv 1604.02878): three small networks, of which each sees only what
//! the one before it took for a face.

use std::borrow::Cow;
use std::path::Path;

use anyhow::{Context, Result, bail};
use fast_image_resize::images::Image;
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use image::RgbImage;
use tch::{Kind, Tensor};

use super::boxes::{Candidate, FaceBox, Overlap, suppress};
use super::nets::{Net, OUTPUT, PROPOSAL, REFINEMENT};

/// The least side of a face that is found, in pixels.
const LEAST_FACE: f64 = 20.0;
/// The image's shorter side in units of the least face that is found: in a photograph of one
/// person, what is smaller is somebody or something else.
const FACES_ACROSS: f64 = 25.0;
/// The ratio of the sides of successive levels of the pyramid.
const FACTOR: f64 = 0.709;
/// The least probability that each network asks for.
const PROBABILITIES: [f32; 3] = [0.6, 0.7, 0.7];
/// Pixels beyond which an image is reduced before faces are looked for: the networks see a face at
/// 48 pixels a side.
const MOST_PIXELS: f64 = 1.5e6;
/// Boxes in a forward pass.
const BATCH: usize = 512;

/// A face in an image. Coordinates are in pixels from the image's left and upper edge.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Face {
    /// The box of the face, from the forehead to the chin.
    pub bounds: FaceBox,
    /// The probability that it is one.
    pub probability: f32,
    /// Left eye, right eye, nose, left and right corner of the mouth, as the image shows them.
    pub landmarks: [[f32; 2]; 5],
}

/// Finds faces and five landmarks of each. Threads may share it.
#[derive(Debug)]
pub struct Detector {
    proposal: Net,
    refinement: Net,
    output: Net,
}

impl Detector {
    /// Reads the weights pnet.pt, rnet.pt and onet.pt in a folder. Returns an error with the file
    /// if one is not there or not what it should be.
    pub fn open(folder: &Path) -> Result<Self> {
        Ok(Self {
            proposal: Net::open(folder, &PROPOSAL)?,
            refinement: Net::open(folder, &REFINEMENT)?,
            output: Net::open(folder, &OUTPUT)?,
        })
    }

    /// Finds the faces in an image, the most probable one first. Returns an error if a network
    /// fails.
    pub fn detect(&self, image: &RgbImage) -> Result<Vec<Face>> {
        let (reduced, scale) = reduce(image)?;
        let shorter = f64::from(reduced.width().min(reduced.height()));
        let mut faces = self.detect_from(&reduced, LEAST_FACE.max(shorter / FACES_ACROSS))?;
        for Face { bounds: FaceBox { left, top, right, bottom }, landmarks, .. } in &mut faces {
            let edges = [left, top, right, bottom];
            edges.into_iter().chain(landmarks.as_flattened_mut()).for_each(|at| *at *= scale);
        }
        Ok(faces)
    }

    /// Finds the faces of at least this side in an image of moderate size, the most probable one
    /// first.
    pub(super) fn detect_from(&self, image: &RgbImage, least: f64) -> Result<Vec<Face>> {
        let _guard = tch::no_grad_guard();
        let (width, height) = image.dimensions();
        let pixels = Tensor::f_from_data_size(
            image,
            &[1, i64::from(height), i64::from(width), 3],
            Kind::Uint8,
        )?;
        let pixels = pixels.f_permute([0, 3, 1, 2])?.f_to_kind(Kind::Float)?;
        let candidates = self.propose(&pixels, pyramid(width, height, least))?;
        let candidates = self.refine(&pixels, candidates)?;
        let faces = self.finish(&pixels, candidates)?;
        let face = |Candidate { bounds, probability, landmarks, .. }| Face {
            bounds,
            probability,
            landmarks,
        };
        Ok(faces.into_iter().map(face).collect())
    }

    /// Slides the first network over each level of the pyramid. Returns squares about what may be
    /// faces.
    fn propose(&self, pixels: &Tensor, scales: Vec<f64>) -> Result<Vec<Candidate>> {
        let (_, _, height, width) = pixels.size4()?;
        let mut all = Vec::new();
        for scale in scales {
            let side = |side: i64| (side as f64 * scale + 1.0) as i64;
            let level = levels(&pixels.f_adaptive_avg_pool2d([side(height), side(width)])?)?;
            let outputs = self.proposal.forward(&level)?;
            let [classes, offsets] = &outputs[..] else {
                bail!("internal: the network has {} outputs", outputs.len());
            };
            let columns = *classes.size().last().unwrap_or(&1) as usize;
            let probabilities = values(&classes.f_select(1, 1)?)?;
            let offsets = values(&offsets.f_permute([0, 2, 3, 1])?)?;
            let cells = probabilities.into_iter().zip(offsets.as_chunks::<4>().0).enumerate();
            let found = cells.filter(|(_, (probability, _))| *probability >= PROBABILITIES[0]);
            let found = found.map(|(cell, (probability, &offsets))| {
                let bounds = cell_bounds(cell % columns, cell / columns, scale as f32);
                Candidate { bounds, probability, offsets, ..Candidate::default() }
            });
            all.extend(suppress(found.collect(), 0.5, Overlap::Union));
        }
        Ok(best_squares(all, 0.0))
    }

    fn refine(&self, pixels: &Tensor, candidates: Vec<Candidate>) -> Result<Vec<Candidate>> {
        let kept = classify(&self.refinement, pixels, &candidates, PROBABILITIES[1])?;
        Ok(best_squares(kept.into_iter().map(|(candidate, _)| candidate).collect(), 1.0))
    }

    fn finish(&self, pixels: &Tensor, candidates: Vec<Candidate>) -> Result<Vec<Candidate>> {
        let kept = classify(&self.output, pixels, &candidates, PROBABILITIES[2])?;
        let face = |(candidate, outputs): (Candidate, Vec<f32>)| {
            let bounds = candidate.bounds;
            // Five columns, then five rows, as fractions of the box, whose edges count from 1.
            let landmarks = std::array::from_fn(|point| {
                let (x, y) = (outputs[6 + point], outputs[11 + point]);
                [
                    (bounds.width() + 1.0) * x + bounds.left - 1.0,
                    (bounds.height() + 1.0) * y + bounds.top - 1.0,
                ]
            });
            let bounds = bounds.moved(candidate.offsets, 1.0);
            Candidate { bounds, landmarks, ..candidate }
        };
        Ok(suppress(kept.into_iter().map(face).collect(), 0.7, Overlap::Smaller))
    }
}

/// Returns the best of candidates that overlap, as the squares about what their offsets make of
/// their boxes, which are `more` pixels longer than they look.
fn best_squares(candidates: Vec<Candidate>, more: f32) -> Vec<Candidate> {
    let mut best = suppress(candidates, 0.7, Overlap::Union);
    for candidate in &mut best {
        candidate.bounds = candidate.bounds.moved(candidate.offsets, more).square();
    }
    best
}

/// Returns the candidates that a network takes for faces with more than the probability `least`,
/// with that probability and its offsets, and its outputs for each, all in a row.
fn classify(
    net: &Net,
    pixels: &Tensor,
    candidates: &[Candidate],
    least: f32,
) -> Result<Vec<(Candidate, Vec<f32>)>> {
    let (_, _, height, width) = pixels.size4()?;
    let window = |candidate: &Candidate| {
        let window = candidate.bounds.window(width as usize, height as usize)?;
        Some((*candidate, window.map(|at| at as i64)))
    };
    let windows: Vec<_> = candidates.iter().filter_map(window).collect();
    let mut kept = Vec::new();
    for batch in windows.chunks(BATCH) {
        let cut = |(_, [x, x_end, y, y_end]): &(Candidate, [i64; 4])| {
            let part = pixels.f_narrow(2, *y, y_end - y)?.f_narrow(3, *x, x_end - x)?;
            part.f_adaptive_avg_pool2d([net.side, net.side])
        };
        let parts = batch.iter().map(cut).collect::<Result<Vec<_>, _>>()?;
        let outputs = net.forward(&levels(&Tensor::f_cat(&parts, 0)?)?)?;
        let outputs = Tensor::f_cat(&outputs, 1)?;
        let (_, columns) = outputs.size2()?;
        let outputs = values(&outputs)?;
        let rows = outputs.chunks_exact(columns as usize);
        for ((candidate, _), row) in batch.iter().zip(rows).filter(|(_, row)| row[1] > least) {
            let offsets = std::array::from_fn(|edge| row[2 + edge]);
            kept.push((Candidate { probability: row[1], offsets, ..*candidate }, row.to_vec()));
        }
    }
    Ok(kept)
}

/// Pixels from 0 to 255 to levels from -1 to 1.
fn levels(pixels: &Tensor) -> Result<Tensor> {
    Ok((pixels.f_sub_scalar(127.5)?).f_mul_scalar(0.0078125)?)
}

fn values(tensor: &Tensor) -> Result<Vec<f32>> {
    Vec::<f32>::try_from(&tensor.f_contiguous()?.f_view(-1)?).context("a network's output")
}

/// Returns the box that a cell of the first network's output sees, at a level of this scale.
fn cell_bounds(column: usize, row: usize, scale: f32) -> FaceBox {
    let stride = 2.0;
    let first = |cell: usize| ((stride * cell as f32 + 1.0) / scale).floor();
    let last = |cell: usize| ((stride * cell as f32 + PROPOSAL.side as f32) / scale).floor();
    FaceBox { left: first(column), top: first(row), right: last(column), bottom: last(row) }
}

/// Returns the scales at which the first network, which sees 12 pixels, finds faces from the least
/// side to those that fill an image of this size.
fn pyramid(width: u32, height: u32, least: f64) -> Vec<f64> {
    let shorter = f64::from(width.min(height));
    let first = PROPOSAL.side as f64 / least;
    let scales = std::iter::successors(Some(first), |scale| Some(scale * FACTOR));
    scales.take_while(|scale| shorter * scale >= PROPOSAL.side as f64).collect()
}

/// Reduces a large image, and returns by what its coordinates are to be multiplied.
fn reduce(image: &RgbImage) -> Result<(Cow<'_, RgbImage>, f32)> {
    let (width, height) = image.dimensions();
    let scale = (f64::from(width) * f64::from(height) / MOST_PIXELS).sqrt();
    if scale <= 1.0 {
        return Ok((Cow::Borrowed(image), 1.0));
    }
    let side = |side: u32| ((f64::from(side) / scale) as u32).max(1);
    Ok((Cow::Owned(shrink(image, side(width), side(height))?), scale as f32))
}

/// Shrinks an image to this size, each pixel the mean of those that it covers.
pub(super) fn shrink(image: &RgbImage, width: u32, height: u32) -> Result<RgbImage> {
    let mut shrunk = RgbImage::new(width, height);
    let pixels = fast_image_resize::images::ImageRef::new(
        image.width(),
        image.height(),
        image,
        PixelType::U8x3,
    )?;
    let mut target = Image::from_slice_u8(width, height, &mut shrunk, PixelType::U8x3)?;
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Box));
    Resizer::new().resize(&pixels, &mut target, &options)?;
    Ok(shrunk)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pyramid_ends_where_a_face_would_be_larger_than_the_image() {
        let scales = pyramid(100, 400, 20.0);
        assert_eq!(scales[0], 0.6);
        assert!(scales.windows(2).all(|pair| (pair[1] / pair[0] - FACTOR).abs() < 1e-12));
        let (last, next) =
            (scales[scales.len() - 1] * 100.0, 100.0 * scales[scales.len() - 1] * FACTOR);
        assert!(last >= 12.0 && next < 12.0);
        assert!(pyramid(19, 400, 20.0).is_empty() && pyramid(20, 20, 20.0).len() == 1);
    }

    #[test]
    fn a_cell_sees_twelve_pixels_of_its_level() {
        assert_eq!(cell_bounds(0, 0, 1.0).edges(), [1.0, 1.0, 12.0, 12.0]);
        assert_eq!(cell_bounds(3, 1, 0.5).edges(), [14.0, 6.0, 36.0, 28.0]);
    }

    #[test]
    fn a_large_image_is_reduced_and_a_small_one_is_not() {
        let small = RgbImage::new(1000, 1500);
        assert!(matches!(reduce(&small).unwrap(), (Cow::Borrowed(_), 1.0)));
        for (width, height, expected) in [(4000, 1500, (2000, 750)), (16_384, 100, (15_676, 95))] {
            let large = RgbImage::new(width, height);
            let (reduced, scale) = reduce(&large).unwrap();
            assert_eq!(reduced.dimensions(), expected);
            assert!((scale - width as f32 / expected.0 as f32).abs() < 1e-3);
        }
    }
}
