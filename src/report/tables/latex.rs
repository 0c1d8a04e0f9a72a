//! Tables in LaTeX, in the text width of an A4 page: a table that is wider or longer continues in
//! another one.

use std::collections::HashSet;

use super::{Cell, Column, Table};

pub(crate) const LATEX_PREAMBLE: &str = "\
% \\usepackage[T1]{fontenc} and \\usepackage{booktabs} in the preamble; then \\input{this file}, \
or copy a table.\n% Names in other than Latin letters need XeLaTeX or LuaLaTeX.\n";

/// The text width and the height of a table in points: those of `article` on A4, less a caption.
const PAGE: (f64, f64) = (345.0, 470.0);
/// The fraction of the text width that columns may take which identify a row, and their number.
const LABELS: (f64, usize) = (0.6, 3);
/// Space on both sides of a column, the widest column of text, and the height of a line, in points.
const PADDING: f64 = 7.0;
const TEXT: f64 = 88.0;
const LINE: f64 = 11.5;
/// Mean width of a character in `\small` and in `\scriptsize`, in points.
const SMALL: f64 = 4.6;
const SCRIPT: f64 = 3.4;
/// Titles of columns beyond this number of characters have two lines.
const TITLE: usize = 10;
/// Number of characters after which a text may be broken where it has no punctuation.
const UNBROKEN: usize = 12;

impl Table {
    /// Writes `table` environments for the package booktabs. The columns that do not fit follow in
    /// another table with the same first ones, which identify a row; the rows likewise.
    pub fn to_latex(&self) -> String {
        let labels = self.labels();
        let text = (LABELS.0 * PAGE.0 / labels as f64 - PADDING).min(TEXT);
        let widths: Vec<f64> = (0..self.columns.len())
            .map(|column| self.width(column, if column < labels { text } else { TEXT }))
            .collect();
        let mut tables = String::new();
        for columns in fitting(&widths, labels) {
            for rows in self.pages(&columns, &widths) {
                tables += &self.latex_part(&columns, &rows, &widths, tables.is_empty());
            }
        }
        tables
    }

    /// Returns the number of first columns without which rows are the same.
    fn labels(&self) -> usize {
        let distinct = |count: &usize| {
            let mut seen = HashSet::new();
            self.rows.iter().all(|row| {
                let labels = row.iter().take(*count).map(Cell::shown);
                seen.insert(labels.collect::<Vec<String>>())
            })
        };
        (1..LABELS.1).find(distinct).unwrap_or(LABELS.1).min(self.columns.len())
    }

    /// Estimates the width of a column, at most `text` for one of text.
    fn width(&self, column: usize, text: f64) -> f64 {
        let cells = self.rows.iter().map(|row| row[column].width());
        let title = title_lines(&self.columns[column].title);
        let title = title.iter().map(|line| line.chars().count() as f64 * SMALL);
        let width = cells.chain(title).fold(0.0, f64::max);
        if self.columns[column].text { width.min(text) } else { width }
    }

    /// Whether a column of text is narrower than its widest cell.
    fn wraps(&self, column: usize, widths: &[f64]) -> bool {
        self.columns[column].text && self.width(column, f64::INFINITY) > widths[column]
    }

    /// Splits the rows into tables that fit on a page; one without rows is a page too.
    fn pages(&self, columns: &[usize], widths: &[f64]) -> Vec<Vec<&Vec<Cell>>> {
        let (mut pages, mut height) = (vec![Vec::new()], 0.0);
        for row in &self.rows {
            // Baselines have metrics only.
            if columns.len() > 1 && columns.iter().skip(1).all(|&column| row[column] == Cell::Empty)
            {
                continue;
            }
            let lines = columns.iter().map(|&column| row[column].lines(widths[column]));
            let lines = lines.max().unwrap_or(1);
            if height + lines as f64 * LINE > PAGE.1 {
                pages.push(Vec::new());
                height = 0.0;
            }
            height += lines as f64 * LINE;
            pages.last_mut().into_iter().for_each(|page| page.push(row));
        }
        pages
    }

    fn latex_part(
        &self,
        columns: &[usize],
        rows: &[&Vec<Cell>],
        widths: &[f64],
        first: bool,
    ) -> String {
        // `\raggedright` in a cell changes `\\`.
        let line = |cells: Vec<String>| format!("    {} \\tabularnewline\n", cells.join(" & "));
        let title = escape_latex(&self.title);
        let notes: String =
            self.notes.iter().map(|note| format!(" {}", escape_latex(note))).collect();
        let caption = if first {
            format!("\\caption{{{title}.{notes}}}\n  \\label{{tab:{}}}", self.key)
        } else {
            format!("\\caption{{{title}, continued.}}")
        };
        let layout = columns.iter().map(|&at| match &self.columns[at] {
            Column { text: true, .. } if self.wraps(at, widths) => format!("p{{{}pt}}", widths[at]),
            Column { text: true, .. } => "l".to_string(),
            Column { text: false, .. } => "r".to_string(),
        });
        let layout: String = layout.collect();
        let header = columns.iter().map(|&at| {
            let Column { title, text, .. } = &self.columns[at];
            let lines: Vec<String> =
                title_lines(title).iter().map(|line| escape_latex(line)).collect();
            stacked(&lines, if *text { 'l' } else { 'r' }, 'b')
        });
        let header = line(header.collect());
        let cell = |row: &[Cell], at: usize| {
            if self.wraps(at, widths) {
                format!("\\raggedright {}", breakable(&row[at].shown()))
            } else {
                row[at].to_latex()
            }
        };
        let rows: String = rows
            .iter()
            .map(|row| line(columns.iter().map(|&at| cell(row, at)).collect()))
            .collect();
        format!(
            "\\begin{{table}}[!htbp]\n  \\centering\\small\\setlength{{\\tabcolsep}}{{{}pt}}%\n  \
             \\setlength{{\\belowcaptionskip}}{{4pt}}\n  \
             {caption}\n  \\begin{{tabular}}{{{layout}}}\n    \\toprule\n{header}    \
             \\midrule\n{rows}    \\bottomrule\n  \\end{{tabular}}\n\\end{{table}}\n",
            PADDING / 2.0
        )
    }
}

/// Groups columns so that each group fits on the page; each begins with the first `labels` columns.
fn fitting(widths: &[f64], labels: usize) -> Vec<Vec<usize>> {
    let first = || (0..labels).collect::<Vec<usize>>();
    let mut groups = vec![first()];
    for column in labels..widths.len() {
        let group = &groups[groups.len() - 1];
        let used: f64 = group.iter().chain([&column]).map(|&at| widths[at] + PADDING).sum();
        if group.len() > labels && used > PAGE.0 {
            groups.push(first());
        }
        groups.last_mut().into_iter().for_each(|group| group.push(column));
    }
    groups
}

impl Cell {
    /// Estimates the width in points.
    fn width(&self) -> f64 {
        let small = self.small_lines().into_iter().map(|line| line.chars().count() as f64 * SCRIPT);
        small.fold(self.shown().chars().count() as f64 * SMALL, f64::max)
    }

    /// Estimates the number of lines in a column of this width.
    fn lines(&self, width: f64) -> usize {
        match self {
            Cell::Text(text) => {
                ((text.chars().count() as f64 * SMALL / width).ceil() as usize).max(1)
            }
            _ => 1 + self.small_lines().len(),
        }
    }

    /// Returns what is below a metric: its interval, with three decimals, and its standard
    /// deviation.
    fn small_lines(&self) -> Vec<String> {
        let interval = self.ci().map(|ci| format!("[{:.3}, {:.3}]", ci.lo, ci.hi));
        interval.into_iter().chain(self.sd().map(|sd| format!("sd {sd:.4}"))).collect()
    }

    fn to_latex(&self) -> String {
        let sign = |text: &str| text.replace('-', "$-$").replace('+', "$+$");
        let shown = escape_latex(&self.shown());
        let mut shown = match (self.is_text(), shown.as_str()) {
            (false, "--") | (true, _) => shown, // a dash is no sign
            (false, number) => sign(number),
        };
        if self.is_best() {
            shown = format!("\\textbf{{{shown}}}");
        }
        let small = self.small_lines();
        let small = small.iter().map(|line| format!("{{\\scriptsize {}}}", sign(line)));
        stacked(&std::iter::once(shown).chain(small).collect::<Vec<_>>(), 'r', 't')
    }
}

/// Writes lines one above the other.
fn stacked(lines: &[String], align: char, position: char) -> String {
    match lines {
        [one] => one.clone(),
        lines => {
            let lines = lines.join("\\\\");
            format!("\\begin{{tabular}}[{position}]{{@{{}}{align}@{{}}}}{lines}\\end{{tabular}}")
        }
    }
}

/// Splits a long title at the space nearest to its middle.
fn title_lines(title: &str) -> Vec<&str> {
    let middle = title.len() / 2;
    let spaces = title.match_indices(' ').map(|(at, _)| at);
    match spaces.min_by_key(|at| at.abs_diff(middle)) {
        Some(at) if title.chars().count() > TITLE => vec![&title[..at], &title[at + 1..]],
        _ => vec![title],
    }
}

/// Escapes a text that may be broken after punctuation, and anywhere if it has none.
fn breakable(text: &str) -> String {
    let (mut escaped, mut piece) = (String::new(), String::new());
    for c in text.chars() {
        piece.push(c);
        if !c.is_alphanumeric() || piece.chars().count() == UNBROKEN {
            escaped += &escape_latex(&piece);
            if c != ' ' {
                escaped += "\\allowbreak{}";
            }
            piece.clear();
        }
    }
    escaped + &escape_latex(&piece)
}

/// Escapes a text for LaTeX, on one line.
fn escape_latex(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        match c {
            '&' | '%' | '$' | '#' | '_' | '{' | '}' => escaped.extend(['\\', c]),
            // At the start of a row they would be options of the line break before it.
            '[' | '*' => escaped.extend(['{', c, '}']),
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
            '-' if escaped.ends_with('-') => escaped += "{}-", // no dash
            'Δ' => escaped += "$\\Delta$",
            '−' => escaped += "$-$",
            '≥' => escaped += "$\\geq$",
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
    use super::super::formats::tests::hostile;
    use super::*;

    #[test]
    fn a_name_is_no_latex_command() {
        let mut table = hostile();
        table.rows[0][0] = Cell::text("[<b>|`a`_b%$#{}~^\\ 'x'\n*--");
        let text = table.to_latex();
        let row = text.lines().find(|line| line.contains("12,345")).unwrap();
        assert_eq!(
            row,
            "    \\raggedright {[}\\allowbreak{}\\textless{}\\allowbreak{}b\\textgreater{}\
             \\allowbreak{}\\textbar{}\\allowbreak{}\\textasciigrave{}\\allowbreak{}a\
             \\textasciigrave{}\\allowbreak{}\\_\\allowbreak{}b\\%\\allowbreak{}\\$\\allowbreak{}\
             \\#\\allowbreak{}\\{\\allowbreak{}\\}\\allowbreak{}\\textasciitilde{}\\allowbreak{}\
             \\textasciicircum{}\\allowbreak{}\\textbackslash{}\\allowbreak{} \
             \\textquotesingle{}\\allowbreak{}x\\textquotesingle{}\\allowbreak{} \\allowbreak{}\
             {*}\\allowbreak{}-\\allowbreak{}-\\allowbreak{} & 12,345 & \
             \\begin{tabular}[t]{@{}r@{}}\\textbf{0.1250}\\\\{\\scriptsize [$-$0.500, 0.250]}\
             \\\\{\\scriptsize sd 0.0100}\\end{tabular} & \\textless{} 0.001 & 2.5 \
             \\tabularnewline"
        );
        let caption = "\\caption{A \\& B. 100 \\% of \\textless{}all\\textgreater{}}";
        for expected in [caption, "\\begin{tabular}{p{88pt}rrrr}", "\\toprule"] {
            assert!(text.contains(expected), "{text}");
        }
        assert_eq!(Cell::number(None, 1).to_latex(), "--");
        assert_eq!(Cell::difference(Some(-0.1), None).to_latex(), "$-$0.1000");
        assert_eq!(escape_latex("a--b [c]"), "a-{}-b {[}c]");
    }

    #[test]
    fn a_table_that_does_not_fit_on_a_page_continues_with_the_same_first_column() {
        let columns = (0..9).map(|at| Column::numbers("n", &format!("count {at}")));
        let columns: Vec<Column> = [Column::named("model")].into_iter().chain(columns).collect();
        let row = |at: usize| {
            let counts = (0..9).map(|_| Cell::Count(1_000_000));
            [Cell::text(format!("m{at}"))].into_iter().chain(counts).collect::<Vec<_>>()
        };
        let table = Table { columns, rows: (0..60).map(row).collect(), ..hostile() };
        let text = table.to_latex();
        // Six columns of nine characters and three, 40 rows and 20.
        assert_eq!(text.matches("\\begin{table}").count(), 4);
        assert_eq!(text.matches(", continued.}").count(), 3);
        assert_eq!(text.matches("m59 & ").count(), 2);
        assert_eq!(text.matches("\\label{tab:t}").count(), 1);
        for line in text.lines().filter(|line| line.contains("m7 & ")) {
            let width = 3.0 + 9.0 * line.matches("1,000,000").count() as f64;
            assert!(width * SMALL < PAGE.0, "{line}");
        }
        // Where the first column does not identify a row, the second one is repeated as well.
        let columns = [Column::named("first"), Column::named("second")].into_iter();
        let columns = columns.chain((0..9).map(|_| Column::numbers("n", "count")));
        let row = |at: usize| {
            let counts = (0..9).map(|_| Cell::Count(1_000_000));
            let names = ["a".to_string(), format!("m{at}")].map(Cell::text);
            names.into_iter().chain(counts).collect::<Vec<_>>()
        };
        let rows = (0..3).map(row).collect();
        let text = Table { columns: columns.collect(), rows, ..hostile() }.to_latex();
        assert_eq!((text.matches("a & m2 & ").count(), text.matches("m2").count()), (2, 2));
        let empty = Table { rows: Vec::new(), ..hostile() };
        assert!(empty.to_latex().contains("\\bottomrule"));
    }
}
