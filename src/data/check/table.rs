//! The result of a check as text tables.

use std::fmt;

use super::findings::{DatasetCheck, SplitCheck, SplitImage};
use super::scores::ScoreSummary;
use crate::data::dataset::Skipped;
use crate::data::splits::LeakedImage;

impl fmt::Display for DatasetCheck {
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
            let names: Vec<String> = duplicate.images.iter().map(SplitImage::to_string).collect();
            format!("{leak}{}", names.join(" = "))
        })?;
        section(f, "files that look the same", &self.near_duplicates, |found| {
            let leak = if found.across_splits { "in more than one split: " } else { "" };
            let [a, b] = &found.images;
            format!("{leak}{a} ~ {b}: {} of 256 bits differ", found.distance)
        })?;
        section(f, "outliers", &self.outliers, skipped)?;
        section(f, "notes", &self.notes, String::clone)?;
        if self.is_clean() {
            writeln!(f, "\nno problems found")?;
        }
        Ok(())
    }
}

impl fmt::Display for SplitImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.id, self.split)
    }
}

impl DatasetCheck {
    fn write_groups(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(width) = self.group_scores.keys().map(|group| group.chars().count()).max() else {
            return Ok(());
        };
        let width = width.max("group".len());
        write!(f, "\n{:<width$}", "group")?;
        self.write_by_split(f, |split| split.split.name())?;
        writeln!(f, "{:>12}{:>8}", "mean score", "sd")?;
        for (group, ScoreSummary { mean, sd, .. }) in &self.group_scores {
            write!(f, "{group:<width$}")?;
            self.write_by_split(f, |split| split.groups.get(group).copied().unwrap_or(0))?;
            writeln!(f, "{mean:>12.3}{sd:>8.3}")?;
        }
        Ok(())
    }

    fn write_histogram(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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
        f: &mut fmt::Formatter<'_>,
        cell: impl Fn(&'a SplitCheck) -> T,
    ) -> fmt::Result {
        self.splits.iter().try_for_each(|split| write!(f, "{:>8}", cell(split)))
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
