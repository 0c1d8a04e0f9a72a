//! Tables in HTML.

use super::{Cell, Table};
use crate::data::embed::escape;

impl Table {
    /// The table in a box of its own, which scrolls where the page is narrow, with its notes. The
    /// first column stays in sight.
    pub fn to_html(&self) -> String {
        let class = |words: bool| if words { " class=\"w\"" } else { "" };
        let head: String = self
            .columns
            .iter()
            .map(|c| format!("<th scope=\"col\"{}>{}</th>", class(c.words), escape(&c.title)))
            .collect();
        let row = |row: &Vec<Cell>| {
            let cells = row.iter().zip(&self.columns).enumerate();
            let cells = cells.map(|(at, (value, column))| match at {
                0 => format!("<th scope=\"row\"{}>{}</th>", class(column.words), cell(value)),
                _ => format!("<td{}>{}</td>", class(column.words), cell(value)),
            });
            format!("<tr>{}</tr>\n", cells.collect::<String>())
        };
        let rows: String = self.rows.iter().map(row).collect();
        let notes: String = self
            .notes
            .iter()
            .map(|note| format!("<p class=\"note\">{}</p>\n", escape(note)))
            .collect();
        format!(
            "<div class=\"scroll\" role=\"region\" tabindex=\"0\" aria-label=\"{}\"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody></table></div>\n{notes}",
            escape(&self.title)
        )
    }
}

fn cell(cell: &Cell) -> String {
    // A number's minus is as wide as its plus.
    let minus = |text: String| if cell.is_text() { text } else { text.replace('-', "−") };
    let mut text = minus(escape(&cell.shown()));
    if cell.is_best() {
        text = format!("<strong>{text}</strong>");
    }
    if let Some((lo, hi)) = cell.ends() {
        text += &format!("<small>[{}, {}]</small>", minus(lo), minus(hi));
    }
    if let Some(sd) = cell.spread() {
        text += &format!("<small>sd {sd}</small>");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::tests::hostile;

    #[test]
    fn a_name_is_no_element() {
        let text = hostile().to_html();
        assert!(!text.contains("<script>"), "{text}");
        assert!(
            text.contains(
                "&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;|`a`_b%$#{}~^\\ &#39;x&#39;"
            ),
            "{text}"
        );
        assert!(text.contains("<td><strong>0.1250</strong><small>[−0.5000, 0.2500]</small><small>sd 0.0100</small></td>"), "{text}");
        assert!(text.contains("<p class=\"note\">100 % of &lt;all&gt;</p>"));
    }
}
