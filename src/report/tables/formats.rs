//! The formats of a table: CSV, HTML, Markdown and text.

use anyhow::Result;
use maud::{Markup, html};

use super::{Cell, Table};
use crate::data::csv_cell;
use crate::eval::statistics::Interval;
use crate::files::printable;

impl Cell {
    /// Formats the value without its interval and standard deviation.
    pub(super) fn shown(&self) -> String {
        let or_dash = |value: &Option<f64>, format: &dyn Fn(f64) -> String| {
            value.filter(|v| v.is_finite()).map_or("–".to_string(), format)
        };
        match self {
            Cell::Text(text) => text.clone(),
            Cell::Count(count) => group_thousands(*count as f64, 0),
            Cell::Number { value, per, digits } => {
                or_dash(value, &|value| group_thousands(value / per, *digits))
            }
            Cell::Metric { value, .. } => or_dash(value, &|value| self.four_decimals(value)),
            Cell::P(Some(p)) if *p < 0.001 => "< 0.001".to_string(),
            Cell::P(p) => or_dash(p, &|p| format!("{p:.3}")),
            Cell::Empty => String::new(),
        }
    }

    fn four_decimals(&self, value: f64) -> String {
        let signed = matches!(self, Cell::Metric { signed: true, .. });
        if signed { format!("{value:+.4}") } else { format!("{value:.4}") }
    }

    fn interval(&self) -> Option<(String, String)> {
        self.ci().map(|ci| (self.four_decimals(ci.lo), self.four_decimals(ci.hi)))
    }

    pub(super) fn ci(&self) -> Option<Interval> {
        let Cell::Metric { ci, .. } = self else { return None };
        *ci
    }

    pub(super) fn sd(&self) -> Option<f64> {
        let Cell::Metric { sd, .. } = self else { return None };
        *sd
    }

    pub(super) fn is_best(&self) -> bool {
        matches!(self, Cell::Metric { best: true, .. })
    }

    pub(super) fn is_text(&self) -> bool {
        matches!(self, Cell::Text(_))
    }

    /// Writes the value with all digits, a text so that no spreadsheet takes it for a formula.
    fn exact(&self) -> String {
        match self {
            Cell::Text(text) => csv_cell(text).into_owned(),
            Cell::Count(count) => count.to_string(),
            Cell::Number { value, .. } | Cell::Metric { value, .. } | Cell::P(value) => {
                exact(*value)
            }
            Cell::Empty => String::new(),
        }
    }

    fn to_html(&self) -> Markup {
        // A minus sign as wide as a plus sign.
        let minus = |text: String| text.replace('-', "−");
        let shown = match self {
            Cell::Text(text) => breakable(text),
            _ => html! { (minus(self.shown())) },
        };
        html! {
            @if self.is_best() { strong { (shown) } } @else { (shown) }
            @if let Some((lo, hi)) = self.interval() {
                small { "[" (minus(lo)) ", " (minus(hi)) "]" }
            }
            @if let Some(sd) = self.sd() { small { "sd " (format!("{sd:.4}")) } }
        }
    }

    fn to_markdown(&self) -> String {
        let mut text = escape_markdown(&self.shown());
        if self.is_best() {
            text = format!("**{text}**");
        }
        if let Some((lo, hi)) = self.interval() {
            text += &format!(" ({lo} to {hi})");
        }
        if let Some(sd) = self.sd() {
            text += &format!(" sd {sd:.4}");
        }
        text
    }
}

/// Lets the lines of a name end after its punctuation, and not within a word.
fn breakable(text: &str) -> Markup {
    let ends = |c: char| c.is_ascii_punctuation() && !"\"'([{<#$".contains(c);
    html! {
        @for (at, piece) in text.split_inclusive(ends).enumerate() {
            @if at > 0 { wbr; }
            (piece)
        }
    }
}

impl Table {
    /// Writes a CSV file with all digits; undefined values are empty. After a metric come the ends
    /// of its interval and, if any row has one, its standard deviation over seeds.
    pub fn to_csv(&self) -> Result<Vec<u8>> {
        let any =
            |column: usize, test: fn(&Cell) -> bool| self.rows.iter().any(|row| test(&row[column]));
        type Format = fn(&Cell) -> String;
        let mut fields: Vec<(usize, &str, Format)> = Vec::new();
        for i in 0..self.columns.len() {
            fields.push((i, "", Cell::exact));
            if any(i, |cell| matches!(cell, Cell::Metric { .. })) {
                fields.push((i, "_lo", |cell| exact(cell.ci().map(|ci| ci.lo))));
                fields.push((i, "_hi", |cell| exact(cell.ci().map(|ci| ci.hi))));
            }
            if any(i, |cell| cell.sd().is_some()) {
                fields.push((i, "_sd_over_seeds", |cell| exact(cell.sd())));
            }
        }
        let mut csv = csv::Writer::from_writer(Vec::new());
        let header = fields.iter().map(|(i, suffix, _)| self.columns[*i].key.clone() + suffix);
        csv.write_record(header.map(|name| csv_cell(&name).into_owned()))?;
        for row in &self.rows {
            csv.write_record(fields.iter().map(|(i, _, field)| field(&row[*i])))?;
        }
        Ok(csv.into_inner().map_err(|error| error.into_error())?)
    }

    /// Renders the table, in a box that scrolls on a narrow page, and its notes.
    pub fn to_html(&self) -> Markup {
        let class = |text: bool| text.then_some("w");
        html! {
            div.scroll role="region" tabindex="0" aria-label=(self.title) {
                table {
                    thead { tr { @for column in &self.columns {
                        th scope="col" class=[class(column.text)] { (column.title) }
                    } } }
                    tbody { @for row in &self.rows { tr {
                        @for (i, (cell, column)) in row.iter().zip(&self.columns).enumerate() {
                            @if i == 0 {
                                th scope="row" class=[class(column.text)] { (cell.to_html()) }
                            } @else {
                                td class=[class(column.text)] { (cell.to_html()) }
                            }
                        }
                    } } }
                }
            }
            @for note in &self.notes { p.note { (note) } }
        }
    }

    /// Writes the title, the table as GitHub's Markdown, and the notes.
    pub fn to_markdown(&self) -> String {
        let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
        let rule = |text: bool| if text { "---" } else { "---:" }.to_string();
        let mut text = format!("## {}\n\n", escape_markdown(&self.title));
        text += &line(self.columns.iter().map(|c| escape_markdown(&c.title)).collect());
        text += &line(self.columns.iter().map(|column| rule(column.text)).collect());
        for row in &self.rows {
            text += &line(row.iter().map(Cell::to_markdown).collect());
        }
        for note in &self.notes {
            text += &format!("\n{}\n", escape_markdown(note));
        }
        text + "\n"
    }

    /// Writes the table for a terminal, without intervals, title and notes.
    pub fn to_text(&self) -> String {
        let header: Vec<&str> = self.columns.iter().map(|column| column.title.as_str()).collect();
        let rows = self.rows.iter().map(|row| row.iter().map(Cell::shown).collect());
        text_table(&header, &rows.collect::<Vec<_>>(), |column| self.columns[column].text)
    }
}

/// Aligns cells for a terminal in columns, two spaces apart, to the left in columns of text. A cell
/// stays on its line and holds no command.
pub(crate) fn text_table(
    header: &[&str],
    rows: &[Vec<String>],
    is_text: impl Fn(usize) -> bool,
) -> String {
    let title = header.iter().map(printable).collect();
    let rows = rows.iter().map(|row| row.iter().map(printable).collect());
    let lines: Vec<Vec<String>> = std::iter::once(title).chain(rows).collect();
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max();
    let widths: Vec<usize> = (0..header.len()).filter_map(width).collect();
    let padded = |(i, cell): (usize, &String)| match (is_text(i), widths[i]) {
        (true, width) => format!("{cell:<width$}"),
        (false, width) => format!("{cell:>width$}"),
    };
    let line = |line: &Vec<String>| {
        let cells: Vec<String> = line.iter().enumerate().map(padded).collect();
        cells.join("  ").trim_end().to_string() + "\n"
    };
    lines.iter().map(line).collect()
}

fn exact(value: Option<f64>) -> String {
    let value = value.filter(|value| value.is_finite());
    value.map(|value| value.to_string()).unwrap_or_default()
}

/// Formats 1234567.8 as `1,234,567.8`.
pub(crate) fn group_thousands(value: f64, digits: usize) -> String {
    let text = format!("{:.digits$}", value.abs());
    let (integer, decimals) = text.split_at(text.find('.').unwrap_or(text.len()));
    let mut shown = String::from(if value < 0.0 { "-" } else { "" });
    for (i, digit) in integer.chars().enumerate() {
        if i > 0 && (integer.len() - i).is_multiple_of(3) {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown + decimals
}

/// Escapes a text for Markdown, on one line.
pub(crate) fn escape_markdown(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        match c {
            '\\' | '|' | '`' | '*' | '_' | '[' | ']' | '#' | '~' => escaped.extend(['\\', c]),
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '&' => escaped += "&amp;",
            c if c.is_control() => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::Column;
    use super::*;

    /// One row with every kind of cell, and with names that no format may take for markup.
    pub(in crate::report::tables) fn hostile() -> Table {
        let ci = Some(Interval { lo: -0.5, hi: 0.25 });
        Table {
            key: "t".into(),
            title: "A & B".into(),
            columns: vec![
                Column::named("model"),
                Column::numbers("n", "n"),
                Column::numbers("pc", "PC"),
                Column::numbers("p", "p"),
                Column::numbers("flops", "MFLOPs"),
            ],
            rows: vec![vec![
                Cell::text("<script>alert(\"1\")</script>|`a`_b%$#{}~^\\ 'x'\nnext"),
                Cell::Count(12345),
                Cell::Metric { value: Some(0.125), ci, sd: Some(0.01), best: true, signed: false },
                Cell::P(Some(0.00001)),
                Cell::Number { value: Some(2_500_000.0), per: 1e6, digits: 1 },
            ]],
            notes: vec!["100 % of <all>".into()],
        }
    }

    #[test]
    fn numbers_are_rounded_and_grouped() {
        assert_eq!(Cell::Count(-1234567).shown(), "-1,234,567");
        assert_eq!(Cell::number(Some(1234.56), 1).shown(), "1,234.6");
        assert_eq!(Cell::number(Some(f64::NAN), 1).shown(), "–");
        assert_eq!(Cell::P(Some(0.0312)).shown(), "0.031");
        assert_eq!(Cell::P(Some(0.0001)).shown(), "< 0.001");
        assert_eq!(Cell::difference(Some(0.1), None).shown(), "+0.1000");
    }

    #[test]
    fn csv_values_have_all_digits_and_names_read_back() {
        let table = hostile();
        let bytes = table.to_csv().unwrap();
        let mut csv = csv::Reader::from_reader(&bytes[..]);
        let header: Vec<String> = csv.headers().unwrap().iter().map(str::to_string).collect();
        let expected = ["model", "n", "pc", "pc_lo", "pc_hi", "pc_sd_over_seeds", "p", "flops"];
        assert_eq!(header, expected);
        let row = csv.records().next().unwrap().unwrap();
        assert_eq!(&row[0], "<script>alert(\"1\")</script>|`a`_b%$#{}~^\\ 'x'\nnext");
        let numbers: Vec<&str> = row.iter().skip(1).collect();
        assert_eq!(numbers, ["12345", "0.125", "-0.5", "0.25", "0.01", "0.00001", "2500000"]);
    }

    #[test]
    fn a_name_is_no_html_element() {
        // A browser may break a name's line at <wbr>.
        let text = hostile().to_html().into_string().replace("<wbr>", "");
        assert!(!text.contains("<script>"), "{text}");
        let name = "&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;|`a`_b%$#{}~^\\ 'x'";
        let metric = "<strong>0.1250</strong><small>[−0.5000, 0.2500]</small>\
                      <small>sd 0.0100</small></td>";
        for expected in [name, metric, "<p class=\"note\">100 % of &lt;all&gt;</p>"] {
            assert!(text.contains(expected), "{text}");
        }
    }

    #[test]
    fn a_name_stays_in_its_markdown_cell() {
        let text = hostile().to_markdown();
        let row = text.lines().nth(4).unwrap();
        assert_eq!(
            row,
            "| &lt;script&gt;alert(\"1\")&lt;/script&gt;\\|\\`a\\`\\_b%$\\#{}\\~^\\\\ 'x' next | \
             12,345 | **0.1250** (-0.5000 to 0.2500) sd 0.0100 | &lt; 0.001 | 2.5 |"
        );
        let bars = |line: &str| line.replace("\\|", "").matches('|').count();
        assert!(text.lines().skip(2).take(3).all(|line| bars(line) == 6), "{text}");
    }

    #[test]
    fn columns_of_text_line_up() {
        let table = Table {
            columns: vec![Column::named("name"), Column::numbers("n", "n")],
            rows: vec![
                vec![Cell::text("a"), Cell::Count(1)],
                vec![Cell::text("l\u{1b}"), Cell::Count(22)],
            ],
            ..hostile()
        };
        assert_eq!(table.to_text(), "name      n\na         1\nl\\u{1b}  22\n");
    }
}
