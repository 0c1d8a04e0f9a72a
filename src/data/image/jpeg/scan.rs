//! The blocks of a JPEG's frame and scans.

use anyhow::{Result, ensure};

use super::bits::{Bits, Codes, Fault};
use crate::data::image::format::unsupported;

/// The four tables for either kind of coefficient.
pub(super) type Tables<'a> = (&'a [Option<Codes>; 4], &'a [Option<Codes>; 4]);

/// The quantization steps of a table, in the order of the coefficients.
pub(super) type Steps = [i64; 64];

/// The most bits of the difference of two first coefficients of 8-bit pixels.
const MAX_CATEGORY: u8 = 11;
/// The coefficients of 8-bit pixels reach 1024, and some encoders overshoot; out of step, the bits
/// of a damaged file soon decode to more.
const MAX_COEFFICIENT: i64 = 1280;

/// The image that the scans fill.
pub(super) struct Frame {
    progressive: bool,
    width: usize,
    height: usize,
    components: Vec<Component>,
    /// The largest sampling factors, and the number of units of 8 by 8 times that.
    max: (usize, usize),
    units: (usize, usize),
}

struct Component {
    id: u8,
    /// Horizontal and vertical sampling factors, from 1 to 4.
    factors: (usize, usize),
    quantization: usize,
    seen: bool,
    /// For progressive images: which coefficients of each block are not zero, a bit each.
    nonzero: Vec<u64>,
}

impl Frame {
    /// Reads a frame's segment; `None` if it is not one of 8 bits with a valid size and sampling.
    pub(super) fn new(segment: &[u8], progressive: bool) -> Option<Self> {
        let (header, rest) = segment.split_first_chunk::<6>()?;
        let [precision, h1, h0, w1, w0, count] = *header;
        let height = usize::from(u16::from_be_bytes([h1, h0]));
        let width = usize::from(u16::from_be_bytes([w1, w0]));
        let mut components = Vec::new();
        for part in rest.get(..3 * usize::from(count))?.chunks_exact(3) {
            let factors = (usize::from(part[1] >> 4), usize::from(part[1] & 15));
            let valid = (1..=4).contains(&factors.0) && (1..=4).contains(&factors.1);
            let quantization = usize::from(part[2]);
            if !valid || quantization > 3 {
                return None;
            }
            let (seen, nonzero) = (false, Vec::new());
            components.push(Component { id: part[0], factors, quantization, seen, nonzero });
        }
        if precision != 8 || width == 0 || height == 0 || !(1..=4).contains(&count) {
            return None;
        }
        // A single component has no sampling: its blocks are in order.
        if let [only] = &mut components[..] {
            only.factors = (1, 1);
        }
        let max = components.iter().fold((1, 1), |max, component| {
            (max.0.max(component.factors.0), max.1.max(component.factors.1))
        });
        let units = (width.div_ceil(8 * max.0), height.div_ceil(8 * max.1));
        Some(Self { progressive, width, height, components, max, units })
    }

    /// Returns the number of pixels.
    pub(super) fn pixels(&self) -> u64 {
        self.width as u64 * self.height as u64
    }

    /// Makes room for what later scans need of earlier ones.
    pub(super) fn prepare(&mut self) {
        for component in self.components.iter_mut().filter(|_| self.progressive) {
            let (across, down) = component.factors;
            component.nonzero = vec![0; self.units.0 * across * self.units.1 * down];
        }
    }

    /// Returns an error for a sampling of which the decoder makes black lines, or nothing: it
    /// upsamples to the resolution of the first component, by powers of two.
    pub(super) fn ensure_sampling_is_supported(&self) -> Result<()> {
        let all = || self.components.iter().map(|component| component.factors);
        ensure!(
            self.components[0].factors == self.max && all().all(|(h, v)| h != 3 && v != 3),
            unsupported(&format!(
                "a JPEG with the color sampling {}",
                all().map(|(h, v)| format!("{h}x{v}")).collect::<Vec<_>>().join(", ")
            ))
        );
        Ok(())
    }

    /// Returns whether the image is complete at the file's end. Only the end marker says that no
    /// scan follows that would refine a progressive image.
    pub(super) fn is_complete(&self, marked: bool) -> bool {
        self.components.iter().all(|component| component.seen) && (marked || !self.progressive)
    }
}

/// One scan: what its header says, and the state from block to block.
pub(super) struct Scan {
    parts: Vec<Part>,
    progressive: bool,
    /// The first and last coefficient.
    first: u32,
    last: u32,
    refines: bool,
    /// The bits by which coefficients are shifted.
    shift: u32,
    /// The number of blocks to come without coefficients.
    empty_blocks: u32,
}

/// A component in a scan.
struct Part {
    component: usize,
    dc: usize,
    ac: usize,
    steps: Steps,
    /// The first coefficient of the last block.
    predicted: i64,
}

impl Scan {
    /// Reads a scan's header; `None` if it is not valid for the frame.
    pub(super) fn new(header: &[u8], frame: &Frame, tables: &[Option<Steps>; 4]) -> Option<Self> {
        let (&count, rest) = header.split_first()?;
        let selected = rest.get(..2 * usize::from(count))?;
        let &[first, last, shifts] = rest.get(selected.len()..)?.first_chunk()?;
        let mut parts = Vec::new();
        for pair in selected.chunks_exact(2) {
            let component = frame.components.iter().position(|c| c.id == pair[0])?;
            let (dc, ac) = (usize::from(pair[1] >> 4), usize::from(pair[1] & 15));
            let steps = tables[frame.components[component].quantization]?;
            parts.push(Part { component, dc, ac, steps, predicted: 0 });
        }
        let (first, last) = if frame.progressive { (first, last) } else { (0, 63) };
        let (high, low) = if frame.progressive { (shifts >> 4, shifts & 15) } else { (0, 0) };
        let whole = !frame.progressive || (first == 0) == (last == 0);
        let valid = whole && first <= last && last < 64 && low < 14 && !parts.is_empty();
        let interleaved_ac = frame.progressive && first > 0 && parts.len() > 1;
        (valid && !interleaved_ac).then_some(Self {
            parts,
            progressive: frame.progressive,
            first: first.into(),
            last: last.into(),
            refines: high > 0,
            shift: low.into(),
            empty_blocks: 0,
        })
    }

    /// Returns whether the tables that the scan names are there.
    pub(super) fn has_codes(&self, dc: &[Option<Codes>; 4], ac: &[Option<Codes>; 4]) -> bool {
        let has =
            |tables: &[Option<Codes>; 4], at: usize| tables.get(at).is_some_and(Option::is_some);
        self.parts.iter().all(|part| {
            (self.first > 0 || self.refines || has(dc, part.dc))
                && (self.last == 0 || has(ac, part.ac))
        })
    }

    /// Returns the number of units: blocks of a single component, or else groups of all.
    pub(super) fn units(&self, frame: &Frame) -> usize {
        match &self.parts[..] {
            [only] => {
                let (across, down) = self.blocks(frame, only);
                across * down
            }
            _ => frame.units.0 * frame.units.1,
        }
    }

    /// Returns the blocks of a component that the image reaches into, across and down.
    fn blocks(&self, frame: &Frame, part: &Part) -> (usize, usize) {
        let factors = frame.components[part.component].factors;
        (
            (frame.width * factors.0).div_ceil(8 * frame.max.0),
            (frame.height * factors.1).div_ceil(8 * frame.max.1),
        )
    }

    /// Starts an interval.
    pub(super) fn restart(&mut self) {
        self.empty_blocks = 0;
        for part in &mut self.parts {
            part.predicted = 0;
        }
    }

    /// Records that the scan was read to its end.
    pub(super) fn finish(&self, frame: &mut Frame) {
        for part in self.parts.iter().filter(|_| self.first == 0) {
            frame.components[part.component].seen = true;
        }
    }

    /// Reads the blocks of one unit.
    pub(super) fn unit(
        &mut self,
        bits: &mut Bits,
        frame: &mut Frame,
        unit: usize,
        tables: Tables,
    ) -> Result<(), Fault> {
        if let [only] = &self.parts[..] {
            let across = self.blocks(frame, only).0;
            let component = &mut frame.components[only.component];
            let stride = frame.units.0 * component.factors.0;
            let block = unit / across * stride + unit % across;
            let nonzero = component.nonzero.get_mut(block);
            return self.block(bits, 0, nonzero, tables);
        }
        for part in 0..self.parts.len() {
            let (across, down) = frame.components[self.parts[part].component].factors;
            for _ in 0..across * down {
                // Only scans of a single component depend on earlier ones.
                self.block(bits, part, None, tables)?;
            }
        }
        Ok(())
    }

    #[inline]
    fn block(
        &mut self,
        bits: &mut Bits,
        part: usize,
        nonzero: Option<&mut u64>,
        (dc, ac): Tables,
    ) -> Result<(), Fault> {
        let (dc_codes, ac_codes) = (&dc[self.parts[part].dc & 3], &ac[self.parts[part].ac & 3]);
        if self.first == 0 {
            if self.refines {
                bits.skip(1)?;
            } else {
                self.first_coefficient(bits, part, dc_codes.as_ref().ok_or(Fault::Invalid)?)?;
            }
        }
        if self.last == 0 {
            return Ok(());
        }
        let codes = ac_codes.as_ref().ok_or(Fault::Invalid)?;
        match nonzero {
            Some(nonzero) if self.progressive && self.refines => self.refine(bits, codes, nonzero),
            Some(nonzero) if self.progressive => self.coefficients(bits, part, codes, nonzero),
            _ => self.coefficients(bits, part, codes, &mut 0),
        }
    }

    #[inline]
    fn first_coefficient(
        &mut self,
        bits: &mut Bits,
        part: usize,
        codes: &Codes,
    ) -> Result<(), Fault> {
        let category = bits.symbol(codes)?;
        if category > MAX_CATEGORY {
            return Err(Fault::Invalid);
        }
        let difference = bits.difference(category)?;
        let part = &mut self.parts[part];
        part.predicted += i64::from(difference) << self.shift;
        ensure_possible(part.predicted, part.steps[0])
    }

    /// Reads the coefficients of a sequential block behind the first one, or the range of a
    /// progressive block.
    #[inline]
    fn coefficients(
        &mut self,
        bits: &mut Bits,
        part: usize,
        codes: &Codes,
        nonzero: &mut u64,
    ) -> Result<(), Fault> {
        if self.empty_blocks > 0 {
            self.empty_blocks -= 1;
            return Ok(());
        }
        let mut at = self.first.max(1);
        while at <= self.last {
            let symbol = bits.symbol(codes)?;
            let (run, category) = (symbol >> 4, symbol & 15);
            match (run, category) {
                (15, 0) => at += 16,
                (_, 0) => {
                    if self.progressive {
                        self.empty_blocks = (1 << run) - 1 + bits.take(run.into())?;
                    }
                    break;
                }
                _ => {
                    at += u32::from(run);
                    let step = self.parts[part].steps.get(at as usize).ok_or(Fault::Invalid)?;
                    ensure_possible(1 << (category - 1) << self.shift, *step)?;
                    bits.skip(category.into())?;
                    *nonzero |= 1 << at;
                    at += 1;
                }
            }
        }
        Ok(())
    }

    /// Reads one more bit of the coefficients in the range, and those that become nonzero.
    fn refine(&mut self, bits: &mut Bits, codes: &Codes, nonzero: &mut u64) -> Result<(), Fault> {
        let mut at = self.first;
        while self.empty_blocks == 0 && at <= self.last {
            let symbol = bits.symbol(codes)?;
            let (mut run, category) = (symbol >> 4, symbol & 15);
            match category {
                0 if run < 15 => {
                    self.empty_blocks = (1 << run) + bits.take(run.into())?;
                    break;
                }
                0 => {}
                1 => bits.skip(1)?,
                _ => return Err(Fault::Invalid),
            }
            // The run counts coefficients that are zero still; the others have a bit each.
            while at <= self.last {
                if *nonzero & (1 << at) != 0 {
                    bits.skip(1)?;
                } else if run == 0 {
                    break;
                } else {
                    run -= 1;
                }
                at += 1;
            }
            if category == 1 && at <= self.last {
                *nonzero |= 1 << at;
            }
            at += 1;
        }
        if self.empty_blocks > 0 {
            self.empty_blocks -= 1;
            if at <= self.last {
                let range = (u64::MAX >> (63 - self.last)) & (u64::MAX << at);
                bits.skip((*nonzero & range).count_ones())?;
            }
        }
        Ok(())
    }
}

/// Returns an error for a coefficient that no pixels have.
#[inline]
fn ensure_possible(coefficient: i64, step: i64) -> Result<(), Fault> {
    if (coefficient * step).abs() > MAX_COEFFICIENT + step { Err(Fault::Invalid) } else { Ok(()) }
}
