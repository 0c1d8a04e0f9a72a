//! The result of a check as one self-contained HTML page with images.

use std::collections::HashMap;
use std::path::Path;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::findings::{DatasetCheck, SplitCheck, SplitImage};
use super::table::list;
use crate::data::dataset::{Skipped, Split};
use crate::data::embed::embedded;
use crate::data::image::read_image;

const SIDE: u32 = 112;
/// The number of findings of one kind that are shown with their images; all of them are counted.
const MAX_SHOWN: usize = 200;
/// The number of images, or of scores, of one finding that are shown.
const MAX_OF_ONE: usize = 20;

const STYLE: &str = "\
:root{color-scheme:light dark;--text:#222;--back:#fff;--line:#ddd;--bar:#47a;--leak:#a00}\
@media(prefers-color-scheme:dark){:root{--text:#ddd;--back:#161616;--line:#444;--bar:#7ad;\
--leak:#f88}}\
body{font:14px/1.5 system-ui,sans-serif;margin:2em auto;max-width:70em;padding:0 1em;\
color:var(--text);background:var(--back);overflow-wrap:anywhere}\
.wide{overflow-x:auto}table{border-collapse:collapse;margin:1em 0;overflow-wrap:normal}\
th,td{padding:.2em .8em;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}\
th:first-child,td:first-child{text-align:left}\
figure{display:inline-block;margin:0 .6em .6em 0;max-width:12em;vertical-align:top;font-size:12px}\
img{display:block}.pair{border-bottom:1px solid var(--line);padding:.5em 0}\
.leak{color:var(--leak)}\
.histograms{display:grid;gap:1em;grid-template-columns:repeat(auto-fill,minmax(16em,1fr))}\
.histograms figure{max-width:none;margin:0}svg{display:block;width:100%}\
svg rect{fill:var(--bar)}svg line{stroke:var(--line)}svg text{fill:var(--text);font-size:10px}";

impl DatasetCheck {
    /// Renders a page of HTML: the counts, the groups, a histogram of the scores, and each finding
    /// with its image.
    pub fn to_html(&self, title: &str) -> String {
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    title { (title) }
                    style { (PreEscaped(STYLE)) }
                }
                body {
                    h1 { (title) }
                    (self.counts_table())
                    (self.groups_table())
                    (self.histograms())
                    @if self.is_clean() { p { "No problems found." } }
                    (self.findings())
                }
            }
        };
        page.into_string()
    }

    fn findings(&self) -> Markup {
        let files = self.files.iter();
        let images = Images(
            files
                .map(|file| ((file.image.split, file.image.id.as_str()), file.path.as_path()))
                .collect(),
        );
        html! {
            (section("Images in more than one split", &self.overlaps, |image| {
                html! { p class="leak" { (image.to_string()) } }
            }))
            (section("Files with the same content", &self.duplicates, |found| {
                images.group(&found.images, found.across_splits, "")
            }))
            (section("Files that look the same", &self.near_duplicates, |found| {
                let note = format!("{} of 256 bits differ", found.distance);
                images.group(&found.images, found.across_splits, &note)
            }))
            (section("Rows whose image is missing", &self.missing, |row| images.row(row)))
            (section("Rows whose image cannot be read", &self.unreadable, |row| images.row(row)))
            (section("Images listed more than once in a split", &self.repeated, |image| {
                let scores = list(&image.scores, MAX_OF_ONE, ", ");
                let rows = image.scores.len();
                html! { p { (image.split) ": " (image.id) ": " (rows) " rows, scores " (scores) } }
            }))
            (section("Outliers", &self.outliers, |row| images.row(row)))
            (section("Notes", &self.notes, |note| html! { p { (note) } }))
        }
    }

    fn counts_table(&self) -> Markup {
        html! {
            div class="wide" { table {
                tr {
                    th { "split" } th { "rows" } th { "usable" } th { "missing" }
                    th { "unreadable" } th { "lowest" } th { "highest" } th { "mean" } th { "sd" }
                }
                @for split in &self.splits {
                    tr {
                        td { (split.split) } td { (split.rows) } td { (split.usable) }
                        td { (split.missing) } td { (split.unreadable) }
                        @if let Some(score) = split.score {
                            @for value in [score.min, score.max, score.mean, score.sd] {
                                td { (format!("{value:.3}")) }
                            }
                        } @else {
                            td {} td {} td {} td {}
                        }
                    }
                }
            } }
        }
    }

    fn groups_table(&self) -> Markup {
        let count = |split: &SplitCheck, group: &str| {
            let count = split.groups.get(group).copied().unwrap_or(0);
            format!("{count} ({:.1} %)", 100.0 * count as f64 / split.usable.max(1) as f64)
        };
        html! {
            @if !self.group_scores.is_empty() {
                h2 { "Groups" }
                div class="wide" { table {
                    tr {
                        th { "group" } th { "train" } th { "val" } th { "test" }
                        th { "mean score" } th { "sd" }
                    }
                    @for (group, score) in &self.group_scores {
                        tr {
                            td { (group) }
                            @for split in &self.splits { td { (count(split, group)) } }
                            td { (format!("{:.3}", score.mean)) }
                            td { (format!("{:.3}", score.sd)) }
                        }
                    }
                } }
            }
        }
    }

    fn histograms(&self) -> Markup {
        html! {
            @if !self.score_bins.is_empty() {
                h2 { "Scores" }
                div class="histograms" {
                    @for split in self.splits.iter().filter(|split| split.usable > 0) {
                        figure {
                            figcaption { (split.split) ": " (split.usable) " images by score" }
                            (plot(&split.histogram, &self.score_bins))
                        }
                    }
                }
            }
        }
    }
}

/// Renders a histogram with its axes: the scores below, the numbers of images to the left.
fn plot(histogram: &[usize], bounds: &[f64]) -> Markup {
    let (left, top, right, bottom) = (34.0, 8.0, 282.0, 132.0);
    let most = histogram.iter().copied().max().unwrap_or(0).max(1);
    let step = (right - left) / histogram.len().max(1) as f64;
    let y = |count: usize| bottom - (bottom - top) * count as f64 / most as f64;
    let x = |bin: usize| left + step * bin as f64;
    let mut counts = vec![0, most / 2, most];
    counts.dedup();
    let number = |value: f64| format!("{value:.1}");
    html! {
        svg viewBox="0 0 300 156" role="img" {
            @for &count in &counts {
                line x1=(left) x2=(right) y1=(number(y(count))) y2=(number(y(count))) {}
                text x=(left - 4.0) y=(number(y(count) + 3.5)) text-anchor="end" { (count) }
            }
            @for (bin, (&count, range)) in histogram.iter().zip(bounds.windows(2)).enumerate() {
                rect x=(number(x(bin) + 1.0)) y=(number(y(count))) width=(number(step - 2.0))
                    height=(number(bottom - y(count))) {
                    title { (short(range[0])) " to " (short(range[1])) ": " (count) }
                }
            }
            @for (bin, &bound) in bounds.iter().enumerate().filter(|(bin, _)| bin % 2 == 0) {
                text x=(number(x(bin))) y="146" text-anchor="middle" { (short(bound)) }
            }
        }
    }
}

/// Formats a score with up to two decimals.
fn short(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_string()
}

struct Images<'a>(HashMap<(Split, &'a str), &'a Path>);

impl Images<'_> {
    fn figure(&self, split: Split, id: &str, note: &str) -> Markup {
        let path = self.0.get(&(split, id));
        // An image that cannot be read is among the findings already.
        let image = path.and_then(|path| read_image(path).ok());
        html! {
            figure {
                (image.and_then(|image| embedded(&image, SIDE, 80, "")).unwrap_or_default())
                (id) br; (split) @if !note.is_empty() { ": " (note) }
            }
        }
    }

    fn group(&self, images: &[SplitImage], leak: bool, note: &str) -> Markup {
        html! {
            div class="pair" {
                p { @if leak { strong class="leak" { "in more than one split" } " " } (note) }
                @for image in images.iter().take(MAX_OF_ONE) {
                    (self.figure(image.split, &image.id, ""))
                }
                @if images.len() > MAX_OF_ONE { "and " (images.len() - MAX_OF_ONE) " more" }
            }
        }
    }

    fn row(&self, row: &Skipped) -> Markup {
        self.figure(row.split, &row.id, &row.reason)
    }
}

/// Renders a heading with the count and up to [`MAX_SHOWN`] findings; nothing if there are none.
fn section<T>(title: &str, findings: &[T], render: impl Fn(&T) -> Markup) -> Markup {
    html! {
        @if !findings.is_empty() {
            h2 {
                (title) ": " (findings.len())
                @if findings.len() > MAX_SHOWN { ", of which " (MAX_SHOWN) " are shown" }
            }
            @for finding in findings.iter().take(MAX_SHOWN) { (render(finding)) }
        }
    }
}
