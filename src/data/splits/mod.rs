//! Splits from a seed, and leakage between splits.

pub(super) mod folds;
pub(super) mod holdout;
pub(super) mod leakage;
pub(super) mod units;

pub use leakage::LeakedImage;

/// Rows for the tests of splits.
#[cfg(test)]
mod test_rows {
    use std::ops::Range;

    use crate::data::listing::Row;
    use crate::data::{Sample, Source};

    fn row(id: &str, score: f32) -> Row {
        Row::new(Sample::new(id, Source::File(id.into()), score, None), id.to_string())
    }

    pub(super) fn rows(range: Range<u32>) -> Vec<Row> {
        // Scores in an order that differs from that of the names.
        range.map(|index| row(&format!("{index:04}"), (index * 37 % 101) as f32)).collect()
    }
}
