//! A batch of images with their scores, votes and weights, on the host.

/// A batch on the host. The model normalizes it, so that a quarter of the bytes move to the device.
#[derive(Debug, Clone, PartialEq)]
pub struct HostBatch {
    /// (len, 3, size, size), RGB, 0..=255.
    pub pixels: Vec<u8>,
    /// How many images there are.
    pub len: usize,
    /// The side of an image, in pixels.
    pub size: usize,
    /// (len): the scores, in the data set's own units; where images are mixed (mixup, cutmix),
    /// those of the mixtures.
    pub targets: Vec<f32>,
    /// (len): each image's index among the samples.
    pub indices: Vec<usize>,
    /// (len): how much each image counts, for losses that weigh them.
    pub weights: Vec<f32>,
    /// (len): the ratings of each image by its raters, whose probabilities add up to 1; empty for
    /// an image of which only the mean is known.
    pub votes: Vec<Vec<Vote>>,
    /// How many images the global batch holds, over all processes that divide it; equal to `len`
    /// in a single process.
    pub global_len: usize,
}

impl HostBatch {
    pub(super) fn leave_first_out(&mut self) {
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
    /// In the data set's own units.
    pub rating: f32,
    /// Its probability among the votes on the image.
    pub probability: f32,
}
