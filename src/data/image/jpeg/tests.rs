//! JPEGs with damage, of odd samplings and with harmless oddities.

use image::RgbImage;

use crate::data::image::decode::decode_image;

const SIZE: (u16, u16) = (100, 90);

/// Bits, from the highest of each byte on.
#[derive(Default)]
struct BitWriter(Vec<bool>);

impl BitWriter {
    fn put(&mut self, value: i32, count: u32) {
        self.0.extend((0..count).rev().map(|bit| value >> bit & 1 == 1));
    }

    /// Fills the last byte with ones and stuffs zeros.
    fn finish(mut self) -> Vec<u8> {
        self.0.resize(self.0.len().next_multiple_of(8), true);
        let byte = |bits: &[bool]| bits.iter().fold(0, |byte, &bit| byte << 1 | u8::from(bit));
        let bytes = self.0.chunks(8).map(byte);
        bytes.flat_map(|byte| if byte == 0xff { vec![0xff, 0] } else { vec![byte] }).collect()
    }
}

fn segment(marker: u8, content: &[u8]) -> Vec<u8> {
    let length = (content.len() as u16 + 2).to_be_bytes();
    [&[0xff, marker], &length[..], content].concat()
}

/// A baseline encoder of blocks that have only a mean: 128 plus that of the component's gradient.
struct Encoder<'a> {
    factors: &'a [(u8, u8)],
    /// Units between restart markers; 0 for none.
    interval: u16,
}

impl Encoder<'_> {
    const STEP: i32 = 8;

    fn headers(&self) -> Vec<u8> {
        let frame: Vec<u8> =
            (1..).zip(self.factors).flat_map(|(id, &(h, v))| [id, h << 4 | v, 0]).collect();
        let [w, h] = [SIZE.0, SIZE.1].map(u16::to_be_bytes);
        let start = [8, h[0], h[1], w[0], w[1], self.factors.len() as u8];
        let steps = [[0].as_slice(), &[Self::STEP as u8; 64]].concat();
        // Categories 0 to 11 in four bits each, and the end of the block in one.
        let means = [[0, 0, 0, 0, 12].as_slice(), &[0; 12], &Vec::from_iter(0..12)].concat();
        let others = [[0x10, 1].as_slice(), &[0; 15], &[0]].concat();
        [
            vec![0xff, 0xd8],
            segment(0xdb, &steps),
            segment(0xc0, &[start.as_slice(), &frame].concat()),
            segment(0xc4, &means),
            segment(0xc4, &others),
            segment(0xdd, &self.interval.to_be_bytes()),
        ]
        .concat()
    }

    fn scan(&self, components: &[usize]) -> Vec<u8> {
        let selected = components.iter().flat_map(|&c| [c as u8 + 1, 0]);
        let header: Vec<u8> =
            [components.len() as u8].into_iter().chain(selected).chain([0, 63, 0]).collect();
        let most = |factor: fn(&(u8, u8)) -> u8| self.factors.iter().map(factor).max().unwrap();
        let max = (usize::from(most(|f| f.0)), usize::from(most(|f| f.1)));
        // A scan of one component has its blocks in order.
        let unit = |c: usize| {
            let (h, v) = self.factors[c];
            if components.len() == 1 { (1, 1) } else { (usize::from(h), usize::from(v)) }
        };
        let pixels = |c: usize| {
            let (h, v) = self.factors[c];
            (8 * max.0 / usize::from(h), 8 * max.1 / usize::from(v))
        };
        let across = usize::from(SIZE.0).div_ceil(pixels(components[0]).0 * unit(components[0]).0);
        let down = usize::from(SIZE.1).div_ceil(pixels(components[0]).1 * unit(components[0]).1);
        let mut scan = segment(0xda, &header);
        let mut bits = BitWriter::default();
        let mut last = vec![0; self.factors.len()];
        for index in 0..across * down {
            let interval = usize::from(self.interval).max(1);
            if self.interval > 0 && index > 0 && index % interval == 0 {
                scan.extend(std::mem::take(&mut bits).finish());
                scan.extend([0xff, 0xd0 + ((index / interval - 1) % 8) as u8]);
                last.fill(0);
            }
            for &c in components {
                let (h, v) = unit(c);
                for block in 0..h * v {
                    let x = (index % across * h + block % h) * pixels(c).0 + pixels(c).0 / 2;
                    let y = (index / across * v + block / h) * pixels(c).1 + pixels(c).1 / 2;
                    let mean = gradient(c, x, y) * 8 / Self::STEP;
                    let difference = mean - std::mem::replace(&mut last[c], mean);
                    let category = 32 - difference.unsigned_abs().leading_zeros();
                    bits.put(category as i32, 4);
                    let shifted = if difference < 0 { (1 << category) - 1 } else { 0 };
                    bits.put(difference + shifted, category);
                    bits.put(0, 1);
                }
            }
        }
        scan.extend(bits.finish());
        scan
    }

    fn encode(&self) -> Vec<u8> {
        let all: Vec<usize> = (0..self.factors.len()).collect();
        [self.headers(), self.scan(&all), vec![0xff, 0xd9]].concat()
    }
}

fn gradient(component: usize, x: usize, y: usize) -> i32 {
    let (x, y) = (x as i32, y as i32);
    [x / 2 - 40, y / 2 - 40, 40 - (x + y) / 4][component]
}

fn message(bytes: &[u8]) -> String {
    format!("{:#}", decode_image(bytes).unwrap_err())
}

/// A noisy image as the usual encoder writes it.
fn noise() -> Vec<u8> {
    let image = RgbImage::from_fn(96, 96, |x, y| {
        let level = (x * 7919 + y * 104_729 + x * y * 31) % 97;
        image::Rgb([level as u8 + x as u8, level as u8 + y as u8, 160 - level as u8])
    });
    let mut bytes = Vec::new();
    let mut encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, 85);
    encoder.encode_image(&image).unwrap();
    bytes
}

fn scan_start(bytes: &[u8]) -> usize {
    bytes.windows(2).position(|marker| marker == [0xff, 0xda]).unwrap() + 14
}

fn progressive() -> Vec<u8> {
    include_bytes!("../../../../tests/fixtures/images/progressive_turned.jpg").to_vec()
}

#[test]
fn color_as_fine_as_brightness_or_coarser_is_read() {
    for (luma, chroma) in [
        ((1, 1), (1, 1)),
        ((2, 1), (1, 1)),
        ((1, 2), (1, 1)),
        ((2, 2), (1, 1)),
        ((2, 2), (2, 1)),
        ((4, 1), (1, 1)),
        ((2, 2), (2, 2)),
    ] {
        let factors = [luma, chroma, chroma];
        let image = decode_image(&Encoder { factors: &factors, interval: 0 }.encode()).unwrap();
        for (x, y) in [(20, 20), (80, 20), (20, 70), (80, 70)] {
            let [luma, cb, cr] = [0, 1, 2].map(|c| f64::from(gradient(c, x, y)));
            let green = 128.0 + luma - 0.344 * cb - 0.714 * cr;
            let found = f64::from(image.get_pixel(x as u32, y as u32).0[1]);
            assert!((green - found).abs() < 12.0, "{factors:?}, {x} {y}: {green} {found}");
        }
    }
}

#[test]
fn color_finer_than_brightness_is_refused_with_the_remedy() {
    for factors in [
        [(1, 1), (2, 2), (2, 2)],
        [(1, 1), (2, 1), (2, 1)],
        [(1, 2), (2, 1), (2, 1)],
        [(1, 1), (1, 1), (1, 2)],
        [(3, 1), (1, 1), (1, 1)],
    ] {
        let message = message(&Encoder { factors: &factors, interval: 0 }.encode());
        assert!(message.contains("color sampling") && message.contains("convert it"), "{message}");
    }
}

#[test]
fn damage_inside_is_found() {
    for complete in [noise(), progressive()] {
        let start = scan_start(&complete);
        let end = complete.len() - 2;
        let middle = (start + end) / 2;
        let zeros = [&complete[..middle], &[0; 100], &complete[middle + 100..]].concat();
        let cut = [&complete[..middle], &[0xff, 0xd9]].concat();
        let dropped = [&complete[..middle], &complete[middle + 100..]].concat();
        let marker = [&complete[..middle], &[0xff, 0xe0], &complete[middle..]].concat();
        for (index, bytes) in [zeros, cut, dropped, marker].iter().enumerate() {
            let message = message(bytes);
            let found = message.contains("damaged") || message.contains("truncated");
            assert!(found, "{index}: {message}");
        }
    }
}

#[test]
fn a_file_cut_in_its_data_is_truncated() {
    for complete in [noise(), progressive()] {
        for kept in (scan_start(&complete)..complete.len() - 3).step_by(37) {
            let message = message(&complete[..kept]);
            assert!(message.contains("truncated"), "{kept}: {message}");
        }
    }
}

#[test]
fn what_other_programs_read_is_read_to_the_same_pixels() {
    let complete = noise();
    let expected = decode_image(&complete).unwrap();
    let (data, end) = complete.split_at(complete.len() - 2);
    for (what, bytes) in [
        ("no end marker", data.to_vec()),
        ("some bytes before the end marker", [data, b"camera 1.0", end].concat()),
        (
            "a twentieth of stray bytes",
            [data, &b"stray "[..].repeat(data.len() / 120), end].concat(),
        ),
        ("zeros before the end marker", [data, &[0; 1000], end].concat()),
        ("a repeated 0xff", [data, &[0xff; 9], end].concat()),
        ("a restart marker at the end", [data, &[0xff, 0xd0], end].concat()),
        ("bytes behind the end marker", [&complete[..], &[7; 1000]].concat()),
    ] {
        match decode_image(&bytes) {
            Ok(image) => assert!(image == expected, "{what}"),
            Err(error) => panic!("{what}: {error:#}"),
        }
    }
}

#[test]
fn restart_markers_are_followed() {
    let factors = [(2, 2), (1, 1), (1, 1)];
    let plain = decode_image(&Encoder { factors: &factors, interval: 0 }.encode()).unwrap();
    let complete = Encoder { factors: &factors, interval: 3 }.encode();
    assert!(decode_image(&complete).unwrap() == plain);
    let at = complete.windows(2).position(|marker| marker == [0xff, 0xd2]).unwrap();
    let missing = [&complete[..at], &complete[at + 2..]].concat();
    let wrong = [&complete[..at], &[0xff, 0xd5], &complete[at + 2..]].concat();
    let dropped = [&complete[..at - 6], &complete[at..]].concat();
    for bytes in [missing, wrong, dropped] {
        assert!(message(&bytes).contains("damaged"), "{}", message(&bytes));
    }
}

#[test]
fn scans_of_one_component_are_read_and_a_missing_one_is_damage() {
    for factors in [[(1, 1); 3], [(2, 2), (1, 1), (1, 1)]] {
        let encoder = Encoder { factors: &factors, interval: 0 };
        let scans: Vec<Vec<u8>> = (0..3).map(|component| encoder.scan(&[component])).collect();
        let end = vec![0xff, 0xd9];
        let all = [encoder.headers(), scans.concat(), end.clone()].concat();
        assert!(decode_image(&all).is_ok());
        let two = [encoder.headers(), scans[..2].concat(), end].concat();
        assert!(message(&two).contains("a color of the JPEG is missing"), "{}", message(&two));
    }
}

#[test]
fn impossible_huffman_tables_are_refused() {
    // A table whose symbols would be differences of up to 255 bits.
    let mut bytes = Encoder { factors: &[(1, 1)], interval: 0 }.encode();
    let at = bytes.windows(12).position(|symbols| symbols == Vec::from_iter(0..12)).unwrap();
    bytes[at..at + 12].fill(255);
    assert!(message(&bytes).contains("damaged"), "{}", message(&bytes));
    assert!(
        super::Codes::new(&[3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[1, 2, 3]).is_none()
    );
    assert!(super::Codes::new(&[0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[1]).is_none());
}
