//! Attention multiplied through the blocks (Abnar and Zuidema, arXiv 2005.00928).

use anyhow::Result;
use rayon::prelude::*;
use tch::{Kind, Tensor};

use super::hidden_attention::HiddenAttention;
use crate::config::BackboneKind;
use crate::models::BeautyNet;

/// What the class token reads of the patches after each block, each (b, patches), given what every
/// block's mixer received.
///
/// A block passes on half of its input and half of what its attention mixes. A ViT's attention is
/// the mean over its heads; a Vision Mamba's is the magnitude of its scans' hidden attention, mean
/// over channels and both directions, each row scaled to the sum of 1.
pub(super) fn rollout(
    net: &BeautyNet,
    branch: BackboneKind,
    class: i64,
    inputs: &[Tensor],
) -> Result<Vec<Tensor>> {
    let mut rolled: Option<Tensor> = None; // (b, l, l)
    let mut maps = Vec::with_capacity(inputs.len());
    for (layer, input) in inputs.iter().enumerate() {
        let attention = match branch {
            BackboneKind::Vit => net.attention(layer, input)?.f_mean_dim(1, false, Kind::Float)?,
            BackboneKind::Vim => scan_attention(net, layer, input)?,
        };
        let length = attention.size3()?.2;
        let itself = Tensor::f_eye(length, (Kind::Float, attention.device()))?;
        let passed_on = (attention + itself) * 0.5;
        let through = match &rolled {
            Some(rolled) => passed_on.f_matmul(rolled)?,
            None => passed_on,
        };
        maps.push(
            super::without_class(&through.f_select(1, class)?.f_unsqueeze(-1)?, class)?
                .f_squeeze_dim(-1)?,
        );
        rolled = Some(through);
    }
    Ok(maps)
}

/// The hidden attention of a Vision Mamba's block: (b, l, l), rows sum to 1.
fn scan_attention(net: &BeautyNet, layer: usize, input: &Tensor) -> Result<Tensor> {
    let operands = net.scan_operands(layer, input)?;
    let (batch, length, _) = input.size3()?;
    let directions = (0..batch)
        .map(|image| {
            Ok([
                HiddenAttention::new(&operands[0], image)?,
                HiddenAttention::new(&operands[1], image)?,
            ])
        })
        .collect::<Result<Vec<_>>>()?;
    let images: Vec<Vec<f32>> = directions
        .par_iter()
        .map(|[forward, backward]| {
            let (mut sum, back) =
                rayon::join(|| forward.mean_magnitude(), || backward.mean_magnitude());
            sum.iter_mut().zip(back).for_each(|(a, b)| *a += b);
            sum
        })
        .collect();
    let matrices = Tensor::from_slice(&images.concat())
        .f_view([batch, length, length])?
        .f_to_device(input.device())?;
    let sums = matrices.f_sum_dim_intlist(-1, true, Kind::Float)?;
    Ok(matrices / sums.f_clamp_min(f64::from(f32::MIN_POSITIVE))?)
}
