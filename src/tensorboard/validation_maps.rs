//! Attribution maps of validation images during training.

use anyhow::Result;
use image::RgbImage;

use super::TensorBoard;
use crate::data::Sample;
use crate::explain::{ExplainOptions, InputImage, Method, draw_figure, explain, explained_images};
use crate::models::Images;
use crate::train::Validated;

/// Number of images that are explained.
const SHOWN: usize = 4;

/// Logs figures of the same validation images every N-th epoch (never after a failure), by the
/// default method at the last blocks.
pub(super) struct ValidationMaps {
    pub every: usize,
}

impl ValidationMaps {
    /// Logs the figures as `explain/1` to `explain/4`, from the lowest score to the highest, if
    /// they are due after this epoch. A failure is a warning, and turns further figures off, so
    /// that training continues.
    pub(super) fn log(&mut self, board: &mut TensorBoard, validated: &Validated) {
        if !board.is_on() || self.every == 0 || !validated.epoch.is_multiple_of(self.every) {
            return;
        }
        match figures(validated) {
            Ok(figures) => {
                for (at, figure) in figures.iter().enumerate() {
                    board.image(&format!("explain/{}", at + 1), validated.step, figure);
                }
            }
            Err(error) => {
                self.every = 0;
                board.missing("every further figure of train.explain_every", &error);
            }
        }
    }
}

fn figures(validated: &Validated) -> Result<Vec<RgbImage>> {
    let Validated { net, images, .. } = *validated;
    let options = ExplainOptions::new(Method::DEFAULT);
    let originals = shown(images.samples())
        .into_iter()
        .map(|index| {
            let score = images.samples()[index].score;
            let mut original = InputImage::read(images, index)?;
            original.name = format!("{} (rated {score:.2})", original.name);
            Ok(original)
        })
        .collect::<Result<Vec<_>>>()?;
    let pixels = InputImage::stack(&originals, images.size(), net.device())?;
    let explanation = explain(net, Images::Pixels(&pixels), &options)?;
    let pieces = explained_images(net, &options, "", originals, &explanation)?;
    Ok(pieces.iter().map(|(explained, _)| draw_figure(explained, None).to_image()).collect())
}

/// Returns evenly spaced images in the order of their scores: the middles of equal ranges of ranks.
fn shown(samples: &[Sample]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..samples.len()).collect();
    let key = |&at: &usize| (samples[at].score, samples[at].id.as_str());
    order.sort_by(|a, b| {
        let ((a_score, a_id), (b_score, b_id)) = (key(a), key(b));
        a_score.total_cmp(&b_score).then_with(|| a_id.cmp(b_id))
    });
    let count = SHOWN.min(order.len());
    let middle = |range: usize| (2 * range + 1) * order.len() / (2 * count);
    (0..count).map(|range| order[middle(range)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Source;

    #[test]
    fn images_are_evenly_spaced_by_score_whatever_their_order() {
        let sample = |score: u8| {
            let source = Source::File("face.png".into());
            Sample::new(format!("{score}"), source, f32::from(score), None)
        };
        let mut samples: Vec<Sample> = (0..16).rev().map(sample).collect();
        let scores = |samples: &[Sample]| -> Vec<f32> {
            let shown = shown(samples);
            shown.into_iter().map(|at| samples[at].score).collect()
        };
        assert_eq!(scores(&samples), [2.0, 6.0, 10.0, 14.0]);
        samples.rotate_left(5);
        assert_eq!(scores(&samples), [2.0, 6.0, 10.0, 14.0]);
        assert_eq!(scores(&samples[..2]).len(), 2);
        assert!(shown(&[]).is_empty());
    }
}
