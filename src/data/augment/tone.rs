//! Changes of an image's levels that TrivialAugment samples from, as in PIL's ImageOps and
//! ImageEnhance.

/// A change of levels, on 8-bit RGB.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Tone {
    /// Keeps the leading N bits of a level.
    Posterize(u32),
    /// Inverts the levels from this one on.
    Solarize(u16),
    /// Stretches each color to the full range.
    AutoContrast,
    /// Flattens each color's histogram.
    Equalize,
    /// Mixes the image with a smoothed one: 0 smooths, 1 changes nothing, 2 sharpens.
    Sharpness(f32),
}

impl Tone {
    /// Changes an image (size, size, 3) in place; `spare` is overwritten.
    pub(super) fn apply(self, image: &mut [u8], size: usize, spare: &mut Vec<u8>) {
        match self {
            Tone::Posterize(bits) => {
                let mask = (0xff00u16 >> bits.min(8)) as u8;
                image.iter_mut().for_each(|level| *level &= mask);
            }
            Tone::Solarize(threshold) => image
                .iter_mut()
                .filter(|level| u16::from(**level) >= threshold)
                .for_each(|level| *level = 255 - *level),
            Tone::AutoContrast => by_histogram(image, auto_contrast),
            Tone::Equalize => by_histogram(image, equalize),
            Tone::Sharpness(factor) => sharpen(image, size, factor, spare),
        }
    }
}

/// Maps each color through a table computed from its histogram.
fn by_histogram(image: &mut [u8], table: impl Fn(&[u32; 256]) -> Option<[u8; 256]>) {
    let mut histograms = [[0u32; 256]; 3];
    for pixel in image.chunks_exact(3) {
        for (histogram, &level) in histograms.iter_mut().zip(pixel) {
            histogram[usize::from(level)] += 1;
        }
    }
    for (channel, histogram) in histograms.iter().enumerate() {
        if let Some(table) = table(histogram) {
            let levels = image.iter_mut().skip(channel).step_by(3);
            levels.for_each(|level| *level = table[usize::from(*level)]);
        }
    }
}

fn auto_contrast(histogram: &[u32; 256]) -> Option<[u8; 256]> {
    let low = histogram.iter().position(|&count| count > 0)?;
    let high = histogram.iter().rposition(|&count| count > 0)?;
    if high <= low {
        return None;
    }
    let scale = 255.0 / (high - low) as f64;
    Some(std::array::from_fn(|level| {
        (level as f64 * scale - low as f64 * scale).clamp(0.0, 255.0) as u8
    }))
}

fn equalize(histogram: &[u32; 256]) -> Option<[u8; 256]> {
    let last = histogram.iter().rposition(|&count| count > 0)?;
    let others: u32 = histogram[..last].iter().sum();
    let step = others / 255;
    if step == 0 {
        return None;
    }
    let mut below = step / 2;
    Some(std::array::from_fn(|level| {
        let out = (below / step).min(255) as u8;
        below += histogram[level];
        out
    }))
}

/// Blends the image with a smoothed one: the mean of 3x3 pixels of which the middle one counts five
/// times. The border is unchanged.
fn sharpen(image: &mut [u8], size: usize, factor: f32, spare: &mut Vec<u8>) {
    spare.clear();
    spare.extend_from_slice(image);
    let row = size * 3;
    for y in 1..size.saturating_sub(1) {
        let [above, here, below] = [y - 1, y, y + 1].map(|y| &spare[y * row..(y + 1) * row]);
        let out = &mut image[y * row..(y + 1) * row];
        for x in 3..row.saturating_sub(3) {
            let sum: u32 = [above, here, below]
                .iter()
                .flat_map(|line| [line[x - 3], line[x], line[x + 3]])
                .map(u32::from)
                .sum();
            let smooth = ((sum + 4 * u32::from(here[x])) as f32 / 13.0).round();
            let level = smooth + factor * (f32::from(here[x]) - smooth);
            out[x] = level.round().clamp(0.0, 255.0) as u8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(tone: Tone, image: &[u8]) -> Vec<u8> {
        let mut image = image.to_vec();
        let size = (image.len() / 3).isqrt();
        tone.apply(&mut image, size, &mut Vec::new());
        image
    }

    /// One color's levels as a gray image.
    fn gray(levels: &[u8]) -> Vec<u8> {
        levels.iter().flat_map(|&level| [level; 3]).collect()
    }

    #[test]
    fn posterize_keeps_leading_bits_and_solarize_inverts_the_bright() {
        assert_eq!(run(Tone::Posterize(2), &[255, 130, 63]), [192, 128, 0]);
        assert_eq!(run(Tone::Posterize(8), &[255, 130, 63]), [255, 130, 63]);
        assert_eq!(run(Tone::Solarize(128), &[127, 128, 255]), [127, 127, 0]);
        assert_eq!(run(Tone::Solarize(256), &[127, 128, 255]), [127, 128, 255]);
    }

    #[test]
    fn auto_contrast_stretches_each_color_by_itself() {
        let out = run(Tone::AutoContrast, &[50, 9, 0, 100, 9, 255, 150, 9, 7, 75, 9, 9]);
        assert_eq!(out, [0, 9, 0, 127, 9, 255, 255, 9, 7, 63, 9, 9]);
    }

    #[test]
    fn equalize_spreads_levels_by_their_rank() {
        // 600 pixels in 0..=99, six each: step (600 - 6) / 255 = 2, so level i becomes (1 + 6 i) /
        // 2.
        let levels: Vec<u8> = (0..600).map(|i| (i % 100) as u8).collect();
        let out = run(Tone::Equalize, &gray(&levels));
        assert_eq!([out[0], out[30], out[84 * 3], out[99 * 3]], [0, 30, 252, 255]);
        assert_eq!(run(Tone::Equalize, &gray(&[5; 300])), gray(&[5; 300]));
    }

    #[test]
    fn sharpness_mixes_with_the_smoothed_image_and_keeps_the_border() {
        let mut levels = [100u8; 25];
        levels[12] = 230;
        let smooth = run(Tone::Sharpness(0.0), &gray(&levels));
        // (5 · 230 + 8 · 100) / 13 and (230 + 12 · 100) / 13.
        assert_eq!([smooth[12 * 3], smooth[6 * 3], smooth[0]], [150, 110, 100]);
        assert_eq!(run(Tone::Sharpness(1.0), &gray(&levels)), gray(&levels));
        let sharp = run(Tone::Sharpness(1.5), &gray(&levels));
        assert_eq!([sharp[12 * 3], sharp[6 * 3]], [255, 95]);
    }
}
