//! Tables in Markdown, as GitHub reads it.

use super::{Cell, Table};

impl Table {
    /// The table under its title, with its notes.
    pub fn to_markdown(&self) -> String {
        let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
        let mut text = format!("## {}\n\n", escape(&self.title));
        text += &line(self.columns.iter().map(|column| escape(&column.title)).collect());
        let rule = self
            .columns
            .iter()
            .map(|column| if column.words { "---".to_string() } else { "---:".to_string() });
        text += &line(rule.collect());
        for row in &self.rows {
            text += &line(row.iter().map(cell).collect());
        }
        for note in &self.notes {
            text += &format!("\n{}\n", escape(note));
        }
        text + "\n"
    }
}

fn cell(cell: &Cell) -> String {
    let mut text = escape(&cell.shown());
    if cell.is_best() {
        text = format!("**{text}**");
    }
    if let Some((lo, hi)) = cell.ends() {
        text += &format!(" ({lo} to {hi})");
    }
    if let Some(sd) = cell.spread() {
        text += &format!(" sd {sd}");
    }
    text
}

/// A text that stands as it is, on one line.
pub fn escape(text: &str) -> String {
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
mod tests {
    use super::super::tests::hostile;

    #[test]
    fn a_name_stays_in_its_cell() {
        let text = hostile().to_markdown();
        let row = text.lines().nth(4).unwrap();
        assert_eq!(
            row,
            "| &lt;script&gt;alert(\"1\")&lt;/script&gt;\\|\\`a\\`\\_b%$\\#{}\\~^\\\\ 'x' next | 12,345 | **0.1250** (-0.5000 to 0.2500) sd 0.0100 | &lt; 0.001 | 2.5 |"
        );
        let bars = |line: &str| line.replace("\\|", "").matches('|').count();
        assert!(text.lines().skip(2).take(3).all(|line| bars(line) == 6), "{text}");
    }
}
