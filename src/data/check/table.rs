//! The result of a check as text tables.

use std::collections::HashMap;
use std::fmt::{self, Write};

use super::findings::{DatasetCheck, SplitCheck, SplitImage};
use super::scores::ScoreSummary;
use crate::data::dataset::{Skipped, Split};
use crate::data::listing::repeated;
use crate::data::splits::LeakedImage;
use crate::files::printable;

/// The findings of one kind, and the scores or names of one, that are shown unless all are wanted.
const MAX_SHOWN: usize = 20;

/// The first findings of each kind; [`DatasetCheck::to_text`] shows all.
impl fmt::Display for DatasetCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_text(false))
    }
}

impl DatasetCheck {
    /// Formats the result as tables, followed by the findings, those across splits first: all of
    /// them, or the first ones of each kind.
    pub fn to_text(&self, all: bool) -> String {
        let mut text =
            Text { text: String::new(), limit: if all { usize::MAX } else { MAX_SHOWN } };
        text.write(self);
        text.text
    }

    fn write_counts(&self, f: &mut String) -> fmt::Result {
        writeln!(
            f,
            "{:<7}{:>8}{:>8}{:>9}{:>12}   {:>7}{:>8}{:>8}{:>8}",
            "split", "rows", "usable", "missing", "unreadable", "min", "max", "mean", "sd"
        )?;
        for split in &self.splits {
            write!(
                f,
                "{:<7}{:>8}{:>8}{:>9}{:>12}   ",
                split.split.name(),
                split.rows,
                split.usable,
                split.missing,
                split.unreadable
            )?;
            match split.score {
                Some(ScoreSummary { min, max, mean, sd }) => {
                    writeln!(f, "{min:>7.3}{max:>8.3}{mean:>8.3}{sd:>8.3}")?;
                }
                None => writeln!(f, "{:>7}{:>8}{:>8}{:>8}", "-", "-", "-", "-")?,
            }
        }
        Ok(())
    }
}

/// The text, and the most findings of one kind in it.
struct Text {
    text: String,
    limit: usize,
}

impl Text {
    fn write(&mut self, check: &DatasetCheck) {
        // Writing to a string does not fail.
        let _ = check.write_counts(&mut self.text);
        let _ = check.write_groups(&mut self.text);
        let _ = check.write_histogram(&mut self.text);
        let limit = self.limit;
        self.section("images in more than one split", &check.overlaps, LeakedImage::to_string);
        self.section("files with the same content", &check.duplicates, |duplicate| {
            let leak = if duplicate.across_splits { "in more than one split: " } else { "" };
            format!("{leak}{}", list(&duplicate.images, limit, " = "))
        });
        self.section("files that look the same", &check.near_duplicates, |found| {
            let leak = if found.across_splits { "in more than one split: " } else { "" };
            let [a, b] = &found.images;
            format!("{leak}{a} ~ {b}: {} of 256 bits differ", found.distance)
        });
        self.skipped("rows whose image is missing", &check.missing);
        self.skipped("rows whose image cannot be read", &check.unreadable);
        self.section("images listed more than once in a split", &check.repeated, |repeated| {
            let scores = list(&repeated.scores, limit, ", ");
            let (split, count) = (repeated.split, repeated.scores.len());
            format!("{split}: {}: {count} rows, scores {scores}", printable(&repeated.id))
        });
        self.skipped("outliers", &check.outliers);
        self.section("notes", &check.notes, |note| printable(note));
        if check.is_clean() {
            self.text.push_str("\nno problems found\n");
        }
    }

    /// Writes rows: those of one image in a split on one line.
    fn skipped(&mut self, title: &str, rows: &[Skipped]) {
        let repeated = repeated(rows.iter().map(|row| &*row.id));
        let mut at: HashMap<(Split, &str, &str), usize> = HashMap::new();
        let mut images: Vec<(&Skipped, usize)> = Vec::new();
        for row in rows {
            let next = images.len();
            let at = if repeated.contains(&*row.id) {
                *at.entry((row.split, &row.id, &row.reason)).or_insert(next)
            } else {
                next
            };
            if at == next {
                images.push((row, 0));
            }
            images[at].1 += 1;
        }
        self.lines(title, rows.len(), &images, |(Skipped { split, id, reason }, count)| {
            let rows = if *count > 1 { format!(" ({count} rows)") } else { String::new() };
            format!("{split}: {}: {}{rows}", printable(id), printable(reason))
        });
    }

    fn section<T>(&mut self, title: &str, findings: &[T], line: impl Fn(&T) -> String) {
        self.lines(title, findings.len(), findings, line);
    }

    /// Writes a heading with a count, and a line for each finding up to the limit; nothing if there
    /// are none.
    fn lines<T>(&mut self, title: &str, count: usize, of: &[T], line: impl Fn(&T) -> String) {
        let Self { text, limit } = self;
        if of.is_empty() {
            return;
        }
        text.push_str(&format!("\n{title}: {count}\n"));
        for finding in of.iter().take(*limit) {
            text.push_str(&format!("  {}\n", line(finding)));
        }
        if let Some(more) = of.len().checked_sub(*limit).filter(|&more| more > 0) {
            text.push_str(&format!("  ... and {more} more; --all lists them\n"));
        }
    }
}

/// Joins the first items.
pub(super) fn list<T: fmt::Display>(items: &[T], limit: usize, separator: &str) -> String {
    let shown: Vec<String> = items.iter().take(limit).map(T::to_string).collect();
    let more = if items.len() > limit { format!("{separator}...") } else { String::new() };
    shown.join(separator) + &more
}

impl fmt::Display for SplitImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", printable(&self.id), self.split)
    }
}

impl DatasetCheck {
    fn write_groups(&self, f: &mut String) -> fmt::Result {
        let Some(width) =
            self.group_scores.keys().map(|group| printable(group).chars().count()).max()
        else {
            return Ok(());
        };
        let width = width.max("group".len());
        write!(f, "\n{:<width$}", "group")?;
        self.write_by_split(f, |split| split.split.name())?;
        writeln!(f, "{:>12}{:>8}", "mean score", "sd")?;
        for (group, ScoreSummary { mean, sd, .. }) in &self.group_scores {
            write!(f, "{:<width$}", printable(group))?;
            self.write_by_split(f, |split| split.groups.get(group).copied().unwrap_or(0))?;
            writeln!(f, "{mean:>12.3}{sd:>8.3}")?;
        }
        Ok(())
    }

    fn write_histogram(&self, f: &mut String) -> fmt::Result {
        let Some((_, bounds)) = self.score_bins.split_first() else {
            return Ok(());
        };
        write!(f, "\n{:<20}", "scores")?;
        self.write_by_split(f, |split| split.split.name())?;
        for (bin, (low, high)) in self.score_bins.iter().zip(bounds).enumerate() {
            write!(f, "\n{:<20}", format!("{low:.3} to {high:.3}"))?;
            self.write_by_split(f, |split| split.histogram[bin])?;
        }
        writeln!(f)
    }

    fn write_by_split<'a, T: fmt::Display>(
        &'a self,
        f: &mut String,
        cell: impl Fn(&'a SplitCheck) -> T,
    ) -> fmt::Result {
        self.splits.iter().try_for_each(|split| write!(f, "{:>8}", cell(split)))
    }
}
