//! The check of a JPEG before it is decoded.
//!
//! The decoder fills what a damaged or truncated file lacks with gray and reports success, which
//! would train on half a face. So all scans are read here as a decoder does, to the last block,
//! without computing pixels. The syntax is that of ITU-T T.81; what is beyond it, such as
//! arithmetic coding, is left to the decoder, which names what it does not support.

mod bits;
mod scan;

use anyhow::{Result, bail, ensure};

use bits::{Bits, Codes, Fault};
use scan::{Frame, Scan, Steps};

/// The most scans of a file; encoders write about ten.
const MAX_SCANS: usize = 100;
/// The most bytes between the last block of a scan and the next marker that may be anything, or a
/// sixteenth of the scan's bytes if that is more. Some cameras and editors leave them behind; what
/// damage leaves over is mostly more.
const MAX_EXTRA: usize = 64;
const MAX_EXTRA_PART: usize = 16;

/// Returns an error if the decoder would return wrong pixels without a word: the file is truncated
/// or damaged, or has a sampling that the decoder does not support. An image of more than
/// `max_pixels` is left to the decoder.
pub(super) fn check(bytes: &[u8], max_pixels: u64) -> Result<()> {
    let mut reader = Reader { bytes, max_pixels, ..Reader::default() };
    let mut at = 2;
    let mut scans = 0;
    // Whatever is between segments is skipped, as decoders do.
    while let Some((marker, start)) = next_marker(bytes, at) {
        match marker {
            END => return reader.ended(true),
            0x01 | 0xd0..=0xd8 => at = start,
            _ => {
                let Some(segment) = segment(bytes, start) else {
                    return reader.ended(false);
                };
                at = start + 2 + segment.len();
                if marker == START_OF_SCAN {
                    scans += 1;
                    ensure!(
                        scans <= MAX_SCANS,
                        "the JPEG has over {MAX_SCANS} scans; save it again"
                    );
                    let Some(marker) = reader.scan(segment, at)? else {
                        return Ok(());
                    };
                    at = marker;
                } else if reader.segment(marker, segment)?.is_none() {
                    return Ok(());
                }
            }
        }
    }
    reader.ended(false)
}

const END: u8 = 0xd9;
const START_OF_SCAN: u8 = 0xda;

/// Returns the first marker at or after `at`, and where its segment starts.
fn next_marker(bytes: &[u8], mut at: usize) -> Option<(u8, usize)> {
    loop {
        at += bytes.get(at..)?.iter().position(|&byte| byte == 0xff)?;
        match *bytes.get(at + 1)? {
            0xff => at += 1,
            0x00 => at += 2,
            marker => return Some((marker, at + 2)),
        }
    }
}

/// Returns the content of the segment that starts with its length at `at`.
fn segment(bytes: &[u8], at: usize) -> Option<&[u8]> {
    let length = usize::from(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?));
    bytes.get(at + 2..at + length.max(2))
}

/// What the segments before a scan say.
#[derive(Default)]
struct Reader<'a> {
    bytes: &'a [u8],
    max_pixels: u64,
    frame: Option<Frame>,
    dc_codes: [Option<Codes>; 4],
    ac_codes: [Option<Codes>; 4],
    quantization: [Option<Steps>; 4],
    /// The number of units between restart markers; 0 without any.
    restart_interval: usize,
}

impl Reader<'_> {
    /// Reads a segment other than a scan's. Returns `None` if only the decoder can say what is
    /// wrong.
    fn segment(&mut self, marker: u8, segment: &[u8]) -> Result<Option<()>> {
        Ok(match marker {
            // Baseline, extended and progressive Huffman coding.
            0xc0..=0xc2 => match Frame::new(segment, marker == 0xc2) {
                Some(mut frame) if frame.pixels() <= self.max_pixels => {
                    frame.ensure_sampling_is_supported()?;
                    frame.prepare();
                    self.frame.replace(frame).is_none().then_some(())
                }
                _ => None,
            },
            0xc4 => self.huffman_tables(segment),
            // Other coding.
            0xc3 | 0xc5..=0xcf => None,
            0xdb => self.quantization_tables(segment),
            0xdd => segment.first_chunk().map(|&interval| {
                self.restart_interval = usize::from(u16::from_be_bytes(interval));
            }),
            _ => Some(()),
        })
    }

    fn huffman_tables(&mut self, mut segment: &[u8]) -> Option<()> {
        while let Some((&target, rest)) = segment.split_first() {
            let (counts, rest) = rest.split_first_chunk::<16>()?;
            let length = counts.iter().map(|&count| usize::from(count)).sum();
            let symbols = rest.get(..length)?;
            let codes = if target < 16 { &mut self.dc_codes } else { &mut self.ac_codes };
            *codes.get_mut(usize::from(target & 15))? = Some(Codes::new(counts, symbols)?);
            segment = &rest[length..];
        }
        Some(())
    }

    fn quantization_tables(&mut self, mut segment: &[u8]) -> Option<()> {
        while let Some((&target, rest)) = segment.split_first() {
            let width = if target >> 4 == 0 { 1 } else { 2 };
            let (steps, rest) = rest.split_at_checked(64 * width)?;
            let mut table = [0; 64];
            for (to, from) in table.iter_mut().zip(steps.chunks_exact(width)) {
                *to = from.iter().fold(0, |step, &byte| step << 8 | i64::from(byte));
            }
            *self.quantization.get_mut(usize::from(target & 15))? = Some(table);
            segment = rest;
        }
        Some(())
    }

    /// Reads a scan, whose data start at `at`. Returns where the next marker is; `None` if only the
    /// decoder can say what is wrong.
    fn scan(&mut self, header: &[u8], at: usize) -> Result<Option<usize>> {
        let Some(frame) = &mut self.frame else {
            return Ok(None);
        };
        let Some(mut scan) = Scan::new(header, frame, &self.quantization) else {
            return Ok(None);
        };
        if !scan.has_codes(&self.dc_codes, &self.ac_codes) {
            return Ok(None);
        }
        let units = scan.units(frame);
        let interval = if self.restart_interval == 0 { units } else { self.restart_interval };
        let mut bits = Bits::new(self.bytes, at);
        for first in (0..units).step_by(interval) {
            if first > 0 {
                let marker = end_of_data(&bits, at)?;
                let expected = 0xd0 + ((first / interval - 1) % 8) as u8;
                match next_marker(self.bytes, marker) {
                    Some((found, start)) if found == expected => {
                        bits = Bits::new(self.bytes, start);
                    }
                    found => return Err(damage(Fault::Invalid, found.is_none(), first, units)),
                }
            }
            scan.restart();
            for unit in first..units.min(first + interval) {
                let read = scan.unit(&mut bits, frame, unit, (&self.dc_codes, &self.ac_codes));
                if let Err(fault) = read {
                    let at_end = next_marker(self.bytes, bits.remainder().0).is_none();
                    return Err(damage(fault, at_end, unit, units));
                }
            }
        }
        scan.finish(frame);
        end_of_data(&bits, at).map(Some)
    }

    /// Returns an error if what was read up to the end does not make an image.
    fn ended(&self, marked: bool) -> Result<()> {
        match &self.frame {
            Some(frame) if frame.is_complete(marked) => Ok(()),
            None if marked => bail!("damaged: the JPEG has no image; {REMEDY}"),
            _ if marked => bail!("damaged: a color of the JPEG is missing; {REMEDY}"),
            _ => bail!("truncated: the JPEG's end is missing; {REMEDY}"),
        }
    }
}

/// Returns where the next marker is, in the scan whose data start at `start`. Returns an error if
/// data are before it that cannot be padding or what a careless encoder left behind: then blocks
/// are missing from what was read.
fn end_of_data(bits: &Bits, start: usize) -> Result<usize> {
    let (marker, extra) = bits.remainder();
    let is_padding = extra.iter().all(|byte| *byte == extra[0]);
    let most = MAX_EXTRA.max((marker - start) / MAX_EXTRA_PART);
    ensure!(
        is_padding || (extra.len() <= most && bits.is_filled()),
        "damaged: data are left over after the JPEG's last block; {REMEDY}"
    );
    Ok(marker)
}

const REMEDY: &str = "download it again or remove it";

fn damage(fault: Fault, at_end: bool, unit: usize, units: usize) -> anyhow::Error {
    let percent = 100 * unit / units.max(1);
    if fault == Fault::Ended && at_end {
        return anyhow::anyhow!(
            "truncated: the JPEG ends after {percent} % of its blocks; {REMEDY}"
        );
    }
    anyhow::anyhow!("damaged: only {percent} % of the JPEG's blocks can be read; {REMEDY}")
}

#[cfg(test)]
mod tests;
