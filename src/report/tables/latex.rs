//! Tables in LaTeX, with the rules of the package booktabs.

use super::{Cell, Table};

/// What a document needs before it takes the tables in.
pub const PREAMBLE: &str = "% \\usepackage[T1]{fontenc} and \\usepackage{booktabs,graphicx} in the preamble; then \\input{this file}, or copy a table.\n";

impl Table {
    /// A `table` environment of its own.
    pub fn to_latex(&self) -> String {
        let line = |cells: Vec<String>| format!("    {} \\\\\n", cells.join(" & "));
        let layout: String = self.columns.iter().map(|c| if c.words { 'l' } else { 'r' }).collect();
        let notes: String = self.notes.iter().map(|note| format!(" {}", escape(note))).collect();
        let mut text = format!(
            "\\begin{{table}}\n  \\centering\n  \\caption{{{}.{notes}}}\n  \\label{{tab:{}}}\n  \\resizebox{{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}}{{!}}{{%\n  \\begin{{tabular}}{{{layout}}}\n    \\toprule\n",
            escape(&self.title),
            self.key
        );
        text += &line(self.columns.iter().map(|column| escape(&column.title)).collect());
        text += "    \\midrule\n";
        for row in &self.rows {
            text += &line(row.iter().map(cell).collect());
        }
        text + "    \\bottomrule\n  \\end{tabular}}\n\\end{table}\n"
    }
}

fn cell(cell: &Cell) -> String {
    let math = |text: &str| match text.strip_prefix('-') {
        Some(rest) if !rest.starts_with('-') => format!("$-${rest}"),
        _ => text.replacen('+', "$+$", 1),
    };
    let mut text =
        if cell.is_text() { escape(&cell.shown()) } else { math(&escape(&cell.shown())) };
    if cell.is_best() {
        text = format!("\\textbf{{{text}}}");
    }
    if let Some((lo, hi)) = cell.ends() {
        text += &format!(" {{\\scriptsize[{}, {}]}}", math(&lo), math(&hi));
    }
    if let Some(sd) = cell.spread() {
        text += &format!(" {{\\scriptsize sd {sd}}}");
    }
    text
}

/// A text that stands as it is.
pub fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        match c {
            '&' | '%' | '$' | '#' | '_' | '{' | '}' => escaped.extend(['\\', c]),
            '~' => escaped += "\\textasciitilde{}",
            '^' => escaped += "\\textasciicircum{}",
            '\\' => escaped += "\\textbackslash{}",
            '<' => escaped += "\\textless{}",
            '>' => escaped += "\\textgreater{}",
            '|' => escaped += "\\textbar{}",
            '"' => escaped += "\\textquotedbl{}",
            '`' => escaped += "\\textasciigrave{}",
            '\'' => escaped += "\\textquotesingle{}",
            '–' => escaped += "--",
            'Δ' => escaped += "$\\Delta$",
            '−' => escaped += "$-$",
            '…' => escaped += "\\ldots{}",
            '×' => escaped += "$\\times$",
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
    fn a_name_is_no_command() {
        let text = hostile().to_latex();
        let row = text.lines().find(|line| line.contains("12,345")).unwrap();
        assert_eq!(
            row,
            "    \\textless{}script\\textgreater{}alert(\\textquotedbl{}1\\textquotedbl{})\\textless{}/script\\textgreater{}\\textbar{}\\textasciigrave{}a\\textasciigrave{}\\_b\\%\\$\\#\\{\\}\\textasciitilde{}\\textasciicircum{}\\textbackslash{} \\textquotesingle{}x\\textquotesingle{} next & 12,345 & \\textbf{0.1250} {\\scriptsize[$-$0.5000, 0.2500]} {\\scriptsize sd 0.0100} & \\textless{} 0.001 & 2.5 \\\\"
        );
        assert!(
            text.contains("\\caption{A \\& B. 100 \\% of \\textless{}all\\textgreater{}}"),
            "{text}"
        );
        let undefined = super::cell(&super::Cell::number(None, 1));
        assert_eq!(undefined, "--");
        assert!(text.contains("\\begin{tabular}{lrrrr}") && text.contains("\\toprule"));
    }
}
