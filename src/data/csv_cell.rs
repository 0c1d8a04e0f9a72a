//! Names in CSV files that people open in a spreadsheet: none is a formula.

use std::borrow::Cow;

/// Returns a text as a cell of a CSV file in which no spreadsheet takes it for a formula: unless it
/// is a number, one that begins with `=`, `+`, `-`, `@`, a tab or a carriage return gets an
/// apostrophe in front. [`csv_text`] reads it back.
pub fn csv_cell(text: &str) -> Cow<'_, str> {
    if is_formula(text) { Cow::Owned(format!("'{text}")) } else { Cow::Borrowed(text) }
}

/// Returns the text of a cell that [`csv_cell`] wrote.
pub fn csv_text(cell: &str) -> &str {
    cell.strip_prefix('\'').filter(|text| is_formula(text)).unwrap_or(cell)
}

/// Whether a spreadsheet may take a text for a formula, also behind apostrophes: a name that has
/// some of its own gets one more, so that it reads back.
fn is_formula(text: &str) -> bool {
    let text = text.trim_start_matches('\'');
    text.starts_with(['=', '+', '-', '@', '\t', '\r']) && text.parse::<f64>().is_err()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_is_a_formula_and_each_reads_back() {
        for (text, cell) in [
            ("=1+1", "'=1+1"),
            ("+a.png", "'+a.png"),
            ("-a.png", "'-a.png"),
            ("@SUM(A1)", "'@SUM(A1)"),
            ("\t=1", "'\t=1"),
            ("\r=1", "'\r=1"),
            ("'=1", "''=1"),
            ("''-a", "'''-a"),
            ("-1.5e-3", "-1.5e-3"),
            ("a=b", "a=b"),
            ("'tis.png", "'tis.png"),
            ("", ""),
        ] {
            assert_eq!(csv_cell(text), cell);
            assert_eq!(csv_text(cell), text);
        }
    }
}
