//! The entropy-coded bits of a JPEG's scan, and their Huffman codes.

/// Why a scan cannot be decoded to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// A marker or the file's end where more blocks should be.
    Ended,
    /// Bits that no encoder writes.
    Invalid,
}

/// Reads bits up to the next marker.
pub(super) struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
    /// The next bits, from the highest on; zeros follow them.
    buffer: u64,
    count: u32,
}

impl<'a> Bits<'a> {
    pub(super) fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at, buffer: 0, count: 0 }
    }

    /// Fills the buffer to more than 56 bits, unless a marker comes before.
    #[inline]
    fn fill(&mut self) {
        while self.count <= 56 {
            let Some((byte, length)) = data_byte(self.bytes, self.at) else {
                return;
            };
            self.at += length;
            self.buffer |= u64::from(byte) << (56 - self.count);
            self.count += 8;
        }
    }

    /// Skips up to 64 bits.
    #[inline]
    pub(super) fn skip(&mut self, count: u32) -> Result<(), Fault> {
        if count > 32 {
            self.skip(count - 32)?;
            return self.skip(32);
        }
        self.take(count).map(|_| ())
    }

    /// Returns the next bits, 32 at most.
    #[inline]
    pub(super) fn take(&mut self, count: u32) -> Result<u32, Fault> {
        if self.count < count {
            self.fill();
            if self.count < count {
                return Err(Fault::Ended);
            }
        }
        if count == 0 {
            return Ok(0);
        }
        let bits = (self.buffer >> (64 - count)) as u32;
        self.buffer <<= count;
        self.count -= count;
        Ok(bits)
    }

    /// Returns the next symbol.
    #[inline]
    pub(super) fn symbol(&mut self, codes: &Codes) -> Result<u8, Fault> {
        if self.count < 16 {
            self.fill();
        }
        let next = (self.buffer >> 48) as u16;
        let Some((length, symbol)) = codes.find(next) else {
            return Err(if self.count < 16 { Fault::Ended } else { Fault::Invalid });
        };
        self.take(length)?;
        Ok(symbol)
    }

    /// Returns the difference that `category` bits encode.
    #[inline]
    pub(super) fn difference(&mut self, category: u8) -> Result<i32, Fault> {
        let bits = self.take(category.into())? as i32;
        let half = (1i32 << category) >> 1;
        Ok(if bits < half { bits - (1 << category) + 1 } else { bits })
    }

    /// Returns where the next marker is, or the file's end, and the bytes before it that were not
    /// decoded, without the bits that fill the last byte. Where two bytes encode one, they may be a
    /// byte too few.
    pub(super) fn remainder(&self) -> (usize, &'a [u8]) {
        let mut end = self.at;
        while let Some((_, length)) = data_byte(self.bytes, end) {
            end += length;
        }
        (end, &self.bytes[self.at.saturating_sub(self.count as usize / 8)..end])
    }

    /// Returns whether the last byte was filled with ones, as encoders do.
    pub(super) fn is_filled(&self) -> bool {
        self.buffer.leading_ones() >= self.count % 8
    }
}

/// Returns the byte of data at `at` with its encoded length: 0xff is followed by a zero, and may be
/// repeated. `None` at a marker or the end.
#[inline]
fn data_byte(bytes: &[u8], at: usize) -> Option<(u8, usize)> {
    let byte = *bytes.get(at)?;
    if byte != 0xff {
        return Some((byte, 1));
    }
    let repeated = bytes[at..].iter().take_while(|&&byte| byte == 0xff).count();
    (bytes.get(at + repeated) == Some(&0)).then_some((0xff, repeated + 1))
}

/// A Huffman table.
pub(super) struct Codes {
    /// Length and symbol by the first eight bits; a length of 0 where the code is longer.
    short: [(u8, u8); 256],
    /// For each length: the first code beyond those of that length, in 16 bits, and the index of
    /// its first symbol less its first code.
    long: [(u32, i32); 16],
    symbols: Vec<u8>,
}

impl Codes {
    /// Creates the table from the number of codes of each length from 1 to 16 bits, and their
    /// symbols; `None` if there are more codes than the lengths have.
    pub(super) fn new(counts: &[u8; 16], symbols: &[u8]) -> Option<Self> {
        let mut codes =
            Self { short: [(0, 0); 256], long: [(0, 0); 16], symbols: symbols.to_vec() };
        let (mut code, mut index) = (0u32, 0);
        for (bits, &count) in (1u32..).zip(counts) {
            let first = code;
            for &symbol in symbols.get(index..index + usize::from(count))? {
                if bits <= 8 {
                    let from = (code << (8 - bits)) as usize;
                    let same = codes.short.get_mut(from..from + (1 << (8 - bits)))?;
                    same.fill((bits as u8, symbol));
                }
                code += 1;
            }
            if code > 1 << bits {
                return None;
            }
            codes.long[bits as usize - 1] = (code << (16 - bits), index as i32 - first as i32);
            index += usize::from(count);
            code <<= 1;
        }
        Some(codes)
    }

    /// Returns the length and the symbol of the code that the bits begin with.
    #[inline]
    fn find(&self, bits: u16) -> Option<(u32, u8)> {
        let (length, symbol) = self.short[usize::from(bits >> 8)];
        if length > 0 {
            return Some((length.into(), symbol));
        }
        let bits = u32::from(bits);
        let length = (9..=16).find(|&length: &u32| bits < self.long[length as usize - 1].0)?;
        let code = (bits >> (16 - length)) as i32;
        let index = usize::try_from(code + self.long[length as usize - 1].1).ok()?;
        Some((length, *self.symbols.get(index)?))
    }
}
