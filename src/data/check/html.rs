//! The result of a check as one self-contained HTML page with images.

use std::collections::HashMap;
use std::path::Path;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::findings::{DatasetCheck, SplitCheck, SplitImage};
use crate::data::dataset::{Skipped, Split};
use crate::data::embed::embedded;
use crate::data::image::read_image;

const SIDE: u32 = 112;
/// The number of findings of one kind that are shown with their images; all of them are counted.
const MAX_SHOWN: usize = 200;

const STYLE: &str = "\
body{font:14px/1.5 system-ui,sans-serif;margin:2em auto;max-width:70em;padding:0 1em;color:#222;\
background:#fff}table{border-collapse:collapse;margin:1em 0}\
th,td{padding:.2em .8em;text-align:right;border-bottom:1px solid #ddd}\
th:first-child,td:first-child{text-align:left}\
figure{display:inline-block;margin:0 .6em .6em 0;max-width:12em;vertical-align:top;font-size:12px;\
overflow-wrap:anywhere}img{display:block}.pair{border-bottom:1px solid #ddd;padding:.5em 0}\
.leak{color:#a00}svg rect{fill:#47a}";

impl DatasetCheck {
    /// Renders a page of HTML: the counts, the groups, a histogram of the scores, and each finding
    /// with its image.
    pub fn to_html(&self, title: &str) -> String {
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head { meta charset="utf-8"; title { (title) } style { (PreEscaped(STYLE)) } }
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
            (section("Files with the same content", &self.duplicates, |found| {
                images.group(&found.images, found.across_splits, "")
            }))
            (section("Files that look the same", &self.near_duplicates, |found| {
                let note = format!("{} of 256 bits differ", found.distance);
                images.group(&found.images, found.across_splits, &note)
            }))
            (section("Outliers", &self.outliers, |row| images.row(row)))
            (section("Rows whose image cannot be read", &self.unreadable, |row| images.row(row)))
            (section("Rows whose image is missing", &self.missing, |row| images.row(row)))
            (section("Images in more than one split", &self.overlaps, |image| {
                html! { p { (image.to_string()) } }
            }))
            (section("Images listed more than once in a split", &self.repeated, |image| {
                let scores = format!("{:?}", image.scores);
                html! { p { (image.split) ": " (image.id) ": scores " (scores) } }
            }))
            (section("Notes", &self.notes, |note| html! { p { (note) } }))
        }
    }

    fn counts_table(&self) -> Markup {
        html! {
            table {
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
            }
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
                table {
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
                }
            }
        }
    }

    fn histograms(&self) -> Markup {
        html! {
            @if let (Some(first), Some(last)) = (self.score_bins.first(), self.score_bins.last()) {
                h2 { "Scores" }
                @for split in self.splits.iter().filter(|split| split.usable > 0) {
                    figure {
                        svg width="220" height="80" { (bars(&split.histogram)) }
                        (split.split) ": " (first) " to " (last)
                    }
                }
            }
        }
    }
}

fn bars(histogram: &[usize]) -> Markup {
    let max = histogram.iter().copied().max().unwrap_or(0).max(1);
    let height = |count: usize| 80.0 * count as f64 / max as f64;
    html! {
        @for (bin, &count) in histogram.iter().enumerate() {
            rect x=(22 * bin) y=(format!("{:.1}", 80.0 - height(count))) width="20"
                height=(format!("{:.1}", height(count))) { title { (count) } }
        }
    }
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
                (id) br; (split) " " (note)
            }
        }
    }

    fn group(&self, images: &[SplitImage], leak: bool, note: &str) -> Markup {
        html! {
            div class="pair" {
                p { @if leak { strong class="leak" { "in more than one split" } " " } (note) }
                @for image in images { (self.figure(image.split, &image.id, "")) }
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
