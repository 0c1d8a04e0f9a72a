//! The result of a check as text tables.

use std::collections::BTreeSet;
use std::fmt::{self, Write};

use super::findings::DatasetCheck;
use super::scores::ScoreSummary;
use crate::data::dataset::Skipped;
use crate::data::splits::LeakedImage;

impl fmt::Display for DatasetCheck {
    /// Writes tables of the splits and groups, then each finding with its name and reason.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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
        self.write_groups(f)?;
        self.write_histogram(f)?;
        let skipped = |row: &Skipped| format!("{}: {}: {}", row.split, row.id, row.reason);
        section(f, "rows whose image is missing", &self.missing, skipped)?;
        section(f, "rows whose image cannot be read", &self.unreadable, skipped)?;
        section(f, "images in more than one split", &self.overlaps, LeakedImage::to_string)?;
        section(f, "images listed more than once in a split", &self.repeated, |repeated| {
            let scores: Vec<String> = repeated.scores.iter().map(f32::to_string).collect();
            format!("{}: {}: scores {}", repeated.split, repeated.id, scores.join(", "))
        })?;
        section(f, "files with the same content", &self.duplicates, |duplicate| {
            let leak = if duplicate.across_splits { "in more than one split: " } else { "" };
            let names: Vec<String> = duplicate
                .images
                .iter()
                .map(|named| format!("{} ({})", named.id, named.split))
                .collect();
            format!("{leak}{}", names.join(" = "))
        })?;
        section(f, "files that look the same", &self.near_duplicates, |found| {
            let leak = if found.across_splits { "in more than one split: " } else { "" };
            let [a, b] = &found.images;
            format!(
                "{leak}{} ({}) ~ {} ({}): {} of 256 bits differ",
                a.id, a.split, b.id, b.split, found.distance
            )
        })?;
        section(f, "outliers", &self.outliers, skipped)?;
        section(f, "notes", &self.notes, String::clone)?;
        if self.is_clean() {
            writeln!(f, "\nno problems found")?;
        }
        Ok(())
    }
}

impl DatasetCheck {
    fn write_groups(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let groups: BTreeSet<&String> =
            self.splits.iter().flat_map(|split| split.groups.keys()).collect();
        let Some(width) = groups.iter().map(|group| group.chars().count()).max() else {
            return Ok(());
        };
        let width = width.max("group".len());
        let mut line = format!("\n{:<width$}", "group");
        for split in &self.splits {
            write!(line, "{:>8}", split.split.name())?;
        }
        writeln!(f, "{line}{:>12}{:>8}", "mean score", "sd")?;
        for group in groups {
            let mut line = format!("{group:<width$}");
            for split in &self.splits {
                write!(line, "{:>8}", split.groups.get(group).copied().unwrap_or_default())?;
            }
            if let Some(ScoreSummary { mean, sd, .. }) = self.group_scores.get(group) {
                write!(line, "{mean:>12.3}{sd:>8.3}")?;
            }
            writeln!(f, "{line}")?;
        }
        Ok(())
    }

    fn write_histogram(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((_, bounds)) = self.score_bins.split_first() else {
            return Ok(());
        };
        let mut line = format!("\n{:<20}", "scores");
        for split in &self.splits {
            write!(line, "{:>8}", split.split.name())?;
        }
        writeln!(f, "{line}")?;
        for (bin, (low, high)) in self.score_bins.iter().zip(bounds).enumerate() {
            let mut line = format!("{:<20}", format!("{low:.3} to {high:.3}"));
            for split in &self.splits {
                write!(line, "{:>8}", split.histogram.get(bin).copied().unwrap_or(0))?;
            }
            writeln!(f, "{line}")?;
        }
        Ok(())
    }
}

/// Writes a heading with a count, and a line for each finding; nothing if there are none.
fn section<T>(
    f: &mut fmt::Formatter<'_>,
    title: &str,
    findings: &[T],
    line: impl Fn(&T) -> String,
) -> fmt::Result {
    if findings.is_empty() {
        return Ok(());
    }
    writeln!(f, "\n{title}: {}", findings.len())?;
    findings.iter().try_for_each(|finding| writeln!(f, "  {}", line(finding)))
}
