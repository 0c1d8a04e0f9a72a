//! What a check found, as one page with images that needs no other file.

use std::collections::HashMap;
use std::fmt::Write;
use std::path::Path;

use super::{DatasetCheck, SplitImage};
use crate::data::dataset::{Skipped, Split};
use crate::data::embed::{embedded, escape};
use crate::data::image::read_image;

/// The longer side of an image on the page, in pixels.
const SIDE: u32 = 112;
/// Findings of one kind that are shown with their images; all of them are counted.
const SHOWN: usize = 200;

const STYLE: &str = "body{font:14px/1.5 system-ui,sans-serif;margin:2em auto;max-width:70em;padding:0 1em;color:#222;background:#fff}\
table{border-collapse:collapse;margin:1em 0}th,td{padding:.2em .8em;text-align:right;border-bottom:1px solid #ddd}\
th:first-child,td:first-child{text-align:left}figure{display:inline-block;margin:0 .6em .6em 0;max-width:12em;vertical-align:top;\
font-size:12px;overflow-wrap:anywhere}img{display:block}.pair{border-bottom:1px solid #ddd;padding:.5em 0}.leak{color:#a00}\
svg rect{fill:#47a}";

impl DatasetCheck {
    /// A page of HTML: the counts, the groups, a histogram of the scores, and each finding with its
    /// image.
    pub fn to_html(&self, title: &str) -> String {
        let files = self.files.iter();
        let files: HashMap<(Split, &str), &Path> = files
            .map(|file| ((file.name.split, file.name.id.as_str()), file.path.as_path()))
            .collect();
        let page = Page { files };
        let title = escape(title);
        let mut body = format!("<h1>{title}</h1>\n");
        body += &self.counts_table();
        body += &self.groups_table();
        body += &self.histogram_chart();
        if self.is_clean() {
            body += "<p>No problems found.</p>\n";
        }
        let pairs = self.duplicates.iter().map(|found| {
            let leak = found.across_splits;
            (found.images.as_slice(), leak, String::new())
        });
        body += &page.groups("Files with the same content", pairs);
        let pairs = self.near_duplicates.iter().map(|found| {
            let note = format!("{} of 256 bits differ", found.distance);
            (found.images.as_slice(), found.across_splits, note)
        });
        body += &page.groups("Files that look the same", pairs);
        body += &page.rows("Outliers", &self.outliers);
        body += &page.rows("Rows whose image cannot be read", &self.unreadable);
        body += &page.rows("Rows whose image is missing", &self.missing);
        body += &list("Images in more than one split", self.overlaps.iter());
        let repeated = self.repeated.iter();
        body += &list(
            "Images listed more than once in a split",
            repeated
                .map(|found| format!("{}: {}: scores {:?}", found.split, found.id, found.scores)),
        );
        body += &list("Notes", self.notes.iter());
        format!(
            "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title><style>{STYLE}</style></head>\n\
             <body>\n{body}</body></html>\n"
        )
    }

    fn counts_table(&self) -> String {
        let mut table = String::from(
            "<table><tr><th>split</th><th>rows</th><th>usable</th><th>missing</th><th>unreadable</th><th>lowest</th><th>highest</th>\
             <th>mean</th><th>sd</th></tr>\n",
        );
        for split in &self.splits {
            let score = split.score.map_or("<td></td>".repeat(4), |score| {
                [score.min, score.max, score.mean, score.sd]
                    .map(|value| format!("<td>{value:.3}</td>"))
                    .concat()
            });
            let _ = writeln!(
                table,
                "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td>{score}</tr>",
                split.split, split.rows, split.usable, split.missing, split.unreadable
            );
        }
        table + "</table>\n"
    }

    fn groups_table(&self) -> String {
        if self.group_scores.is_empty() {
            return String::new();
        }
        let mut table = String::from(
            "<h2>Groups</h2>\n<table><tr><th>group</th><th>train</th><th>val</th><th>test</th><th>mean score</th><th>sd</th></tr>\n",
        );
        for (group, score) in &self.group_scores {
            let counts: String = self
                .splits
                .iter()
                .map(|split| {
                    let count = split.groups.get(group).copied().unwrap_or_default();
                    let part = 100.0 * count as f64 / split.usable.max(1) as f64;
                    format!("<td>{count} ({part:.1} %)</td>")
                })
                .collect();
            let _ = writeln!(
                table,
                "<tr><td>{}</td>{counts}<td>{:.3}</td><td>{:.3}</td></tr>",
                escape(group),
                score.mean,
                score.sd
            );
        }
        table + "</table>\n"
    }

    fn histogram_chart(&self) -> String {
        let (Some(first), Some(last)) = (self.score_bins.first(), self.score_bins.last()) else {
            return String::new();
        };
        let mut chart = String::from("<h2>Scores</h2>\n");
        for split in self.splits.iter().filter(|split| split.usable > 0) {
            let most = split.histogram.iter().copied().max().unwrap_or(0).max(1);
            let bars: String = split
                .histogram
                .iter()
                .enumerate()
                .map(|(bin, &count)| {
                    let height = 80.0 * count as f64 / most as f64;
                    let (x, y) = (bin * 22, 80.0 - height);
                    format!("<rect x=\"{x}\" y=\"{y:.1}\" width=\"20\" height=\"{height:.1}\"><title>{count}</title></rect>")
                })
                .collect();
            let _ = writeln!(
                chart,
                "<figure><svg width=\"220\" height=\"80\">{bars}</svg>{}: {first} to {last}</figure>",
                split.split
            );
        }
        chart
    }
}

/// Where the rows' images are.
struct Page<'a> {
    files: HashMap<(Split, &'a str), &'a Path>,
}

impl Page<'_> {
    fn figure(&self, split: Split, id: &str, note: &str) -> String {
        let file = self.files.get(&(split, id));
        let image = file.and_then(|path| thumbnail(path)).unwrap_or_default();
        format!("<figure>{image}{}<br>{split} {}</figure>\n", escape(id), escape(note))
    }

    fn groups<'b>(
        &self,
        title: &str,
        found: impl ExactSizeIterator<Item = (&'b [SplitImage], bool, String)>,
    ) -> String {
        let mut text = heading(title, found.len());
        for (images, leak, note) in found.take(SHOWN) {
            let leak =
                if leak { "<strong class=\"leak\">in more than one split</strong> " } else { "" };
            let figures: String =
                images.iter().map(|named| self.figure(named.split, &named.id, "")).collect();
            text += &format!("<div class=\"pair\"><p>{leak}{}</p>{figures}</div>\n", escape(&note));
        }
        text
    }

    fn rows(&self, title: &str, rows: &[Skipped]) -> String {
        let figures =
            rows.iter().take(SHOWN).map(|row| self.figure(row.split, &row.id, &row.reason));
        heading(title, rows.len()) + &figures.collect::<String>()
    }
}

/// Nothing where nothing was found.
fn heading(title: &str, count: usize) -> String {
    match count {
        0 => String::new(),
        count if count > SHOWN => {
            format!("<h2>{title}: {count}, of which {SHOWN} are shown</h2>\n")
        }
        count => format!("<h2>{title}: {count}</h2>\n"),
    }
}

fn list(title: &str, found: impl ExactSizeIterator<Item = impl ToString>) -> String {
    let mut text = heading(title, found.len());
    for line in found.take(SHOWN) {
        text += &format!("<p>{}</p>\n", escape(&line.to_string()));
    }
    text
}

/// The image within the page itself; nothing where it cannot be read.
fn thumbnail(path: &Path) -> Option<String> {
    embedded(&read_image(path).ok()?, SIDE, 80, "")
}
