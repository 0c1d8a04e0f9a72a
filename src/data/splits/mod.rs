//! Splits from a seed, and leakage between splits.

pub(super) mod contents;
pub(super) mod folds;
pub(super) mod holdout;
pub(super) mod leakage;
pub(super) mod shortage;
pub(super) mod units;

pub use leakage::LeakedImage;

/// Rows for the tests of splits.
#[cfg(test)]
mod test_rows {
    use std::ops::Range;
    use std::path::Path;

    use super::units;
    use crate::data::listing::{Row, RowImage};

    pub(super) fn row(id: &str, score: f32) -> Row {
        Row::new(id, RowImage::File(Path::new("/nowhere").join(id).into()), id.into(), score)
    }

    pub(super) fn rows(range: Range<u32>) -> Vec<Row> {
        // Scores in an order that differs from that of the names.
        let row = |index: u32| row(&format!("{index:04}"), (index * 37 % 101) as f32);
        let mut rows: Vec<Row> = range.map(row).collect();
        units::bind(&mut rows);
        rows
    }
}
