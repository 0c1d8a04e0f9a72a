//! A batch of images with their scores, votes and weights, on the host.

/// A batch in host memory. The model normalizes it on the device, so that only 8-bit pixels are
/// copied there.
#[derive(Debug, Clone, PartialEq)]
pub struct HostBatch {
    /// (len, 3, size, size), RGB, 0..=255; empty in a batch of labels.
    pub pixels: Vec<u8>,
    /// The number of images.
    pub len: usize,
    /// The side of an image, in pixels.
    pub size: usize,
    /// (len): the scores, on the dataset's own scale; mixed with the images by mixup and cutmix.
    pub targets: Vec<f32>,
    /// (len): the index of each image among the samples.
    pub indices: Vec<usize>,
    /// (len): the weight of each image in the loss.
    pub weights: Vec<f32>,
    /// (len): the ratings of each image by its raters, whose probabilities add up to 1; empty if
    /// only the mean score is known.
    pub votes: Vec<Vec<Vote>>,
    /// The number of images in the global batch, over all processes that divide it; equal to `len`
    /// in a single process.
    pub global_len: usize,
}

impl HostBatch {
    pub(super) fn remove_first(&mut self) {
        self.pixels.drain(..3 * self.size * self.size);
        self.targets.remove(0);
        self.indices.remove(0);
        self.weights.remove(0);
        self.votes.remove(0);
        self.len -= 1;
    }
}

/// One rating among those of an image.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Vote {
    /// The rating, on the dataset's own scale.
    pub rating: f32,
    /// Its probability among the votes on the image.
    pub probability: f32,
}

impl Vote {
    pub(super) fn with_equal_probabilities(ratings: &[f32]) -> Vec<Self> {
        let probability = 1.0 / ratings.len() as f32;
        ratings.iter().map(|&rating| Self { rating, probability }).collect()
    }
}
