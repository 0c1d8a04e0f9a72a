//! The rows of predictions, written as they come.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde::Serialize;
use serde_json::json;

use crate::data::csv_cell;
use crate::eval::conformal::Conformal;
use crate::report::text_table;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// Columns for people, at the end.
    Table,
    /// A header and a line per image.
    Csv,
    /// One object.
    Json,
    /// An object per line and image.
    Jsonl,
}

/// The prediction for an image, or why there is none. In JSON, what is `None` is omitted.
#[derive(Debug, Default, Serialize)]
pub(super) struct Row {
    pub(super) image: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) score: Option<f64>,
    /// The standard deviation over the runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) sd: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) lower: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) upper: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) weight_vit: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) weight_mamba: Option<f64>,
    /// Each run's score.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) scores: Option<Vec<f64>>,
    /// The number of faces, where one was cropped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) faces: Option<usize>,
    /// Left, upper, right and lower edge of the face that was cropped, in pixels.
    #[serde(rename = "box", skip_serializing_if = "Option::is_none")]
    pub(super) bounds: Option<[f64; 4]>,
    /// Whether the image is like the training images, if a run knows those.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) in_distribution: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<String>,
}

impl Row {
    /// Returns the numbers that the row has, with their columns.
    fn numbers(&self) -> impl Iterator<Item = (&'static str, f64)> {
        let edge = |edge: usize| self.bounds.map(|bounds| bounds[edge]);
        let all = [
            ("score", self.score),
            ("sd", self.sd),
            ("lower", self.lower),
            ("upper", self.upper),
            ("weight_vit", self.weight_vit),
            ("weight_mamba", self.weight_mamba),
            ("faces", self.faces.map(|faces| faces as f64)),
            ("left", edge(0)),
            ("top", edge(1)),
            ("right", edge(2)),
            ("bottom", edge(3)),
        ];
        all.into_iter().filter_map(|(name, number)| Some((name, number?)))
    }

    fn number(&self, column: &str) -> Option<f64> {
        self.numbers().find(|(name, _)| *name == column).map(|(_, number)| number)
    }

    fn in_distribution(&self) -> String {
        self.in_distribution.map(|within| within.to_string()).unwrap_or_default()
    }
}

/// Returns the digits behind the point that a table shows of a column's numbers.
fn digits(column: &str) -> usize {
    match column {
        "faces" => 0,
        "left" | "top" | "right" | "bottom" => 1,
        _ => 3,
    }
}
const IN_DISTRIBUTION: &str = "in_distribution";

/// Writes rows: CSV and JSON at once, a table at the end.
pub(super) struct RowWriter<'a> {
    out: &'a mut dyn Write,
    format: Format,
    /// The columns of numbers, those of the first scored row; empty before it.
    columns: Vec<&'static str>,
    /// Rows before the columns are known; of a table, all.
    held: Vec<Row>,
    /// What is between two objects of a JSON list.
    comma: &'static str,
}

impl<'a> RowWriter<'a> {
    /// Starts the output for these runs.
    pub(super) fn new(
        out: &'a mut dyn Write,
        format: Format,
        runs: &[PathBuf],
        interval: Option<&Conformal>,
    ) -> Result<Self> {
        let mut writer = Self { out, format, columns: Vec::new(), held: Vec::new(), comma: "  " };
        if format == Format::Json {
            let runs: Vec<_> = runs.iter().map(|run| run.display().to_string()).collect();
            writer.line(format!("{{\"runs\": {},", json!(runs)))?;
            if let Some(of) = interval {
                let (level, method, images) = (of.level(), of.method(), of.images());
                let about = json!({"level": level, "method": method, "calibration_images": images});
                writer.line(format!("\"interval\": {about},"))?;
            }
            writer.line("\"predictions\": [".to_string())?;
        }
        Ok(writer)
    }

    /// Writes a row.
    pub(super) fn add(&mut self, row: Row) -> Result<()> {
        let json = |row: &Row| serde_json::to_string(row).context("a row is not JSON");
        match self.format {
            Format::Jsonl => self.line(json(&row)?),
            Format::Json => {
                let comma = std::mem::replace(&mut self.comma, ", ");
                self.line(format!("{comma}{}", json(&row)?))
            }
            Format::Csv | Format::Table => {
                let begins = self.columns.is_empty() && row.score.is_some();
                if begins {
                    self.columns = row.numbers().map(|(name, _)| name).collect();
                }
                if self.format == Format::Table || self.columns.is_empty() {
                    self.held.push(row);
                    return Ok(());
                }
                if begins {
                    self.begin_csv()?;
                }
                self.csv_row(&row)
            }
        }
    }

    /// Writes the end.
    pub(super) fn finish(mut self) -> Result<()> {
        match self.format {
            Format::Jsonl => Ok(()),
            Format::Json => self.line("]}".to_string()),
            Format::Csv if self.columns.is_empty() => {
                self.columns = vec!["score"];
                self.begin_csv()
            }
            Format::Csv => Ok(()),
            Format::Table => {
                let text = self.table();
                self.write(text.as_bytes())
            }
        }
    }

    /// Writes the header and the rows before the columns were known.
    fn begin_csv(&mut self) -> Result<()> {
        let header = ["image"].iter().chain(&self.columns).chain(&[IN_DISTRIBUTION, "error"]);
        let header: Vec<String> = header.map(ToString::to_string).collect();
        self.record(header.into_iter())?;
        let held = std::mem::take(&mut self.held);
        held.iter().try_for_each(|row| self.csv_row(row))
    }

    fn csv_row(&mut self, row: &Row) -> Result<()> {
        let number = |column: &&str| row.number(column).map(|number| number.to_string());
        let numbers = self.columns.iter().map(|column| number(column).unwrap_or_default());
        let numbers: Vec<String> = numbers.collect();
        let text = |text: &str| csv_cell(text).into_owned();
        let end = [row.in_distribution(), text(row.error.as_deref().unwrap_or_default())];
        self.record([text(&row.image)].into_iter().chain(numbers).chain(end))
    }

    fn record(&mut self, cells: impl Iterator<Item = String>) -> Result<()> {
        let mut csv = csv::WriterBuilder::new().buffer_capacity(512).from_writer(Vec::new());
        csv.write_record(cells.map(String::into_bytes))?;
        let record = csv.into_inner()?;
        self.write(&record)
    }

    fn table(&self) -> String {
        let columns = &self.columns;
        let failed = self.held.iter().any(|row| row.error.is_some());
        let known = self.held.iter().any(|row| row.in_distribution.is_some());
        let header = ["image"].into_iter().chain(columns.iter().copied());
        let header = header.chain(known.then_some(IN_DISTRIBUTION));
        let header: Vec<&str> = header.chain(failed.then_some("error")).collect();
        let cells = |row: &Row| {
            let number = |column: &&str| match row.number(column) {
                Some(number) => format!("{number:.*}", digits(column)),
                None => "-".to_string(),
            };
            let known = known.then(|| row.in_distribution());
            let end =
                known.into_iter().chain(failed.then(|| row.error.clone().unwrap_or_default()));
            [row.image.clone()].into_iter().chain(columns.iter().map(number)).chain(end).collect()
        };
        let rows: Vec<Vec<String>> = self.held.iter().map(cells).collect();
        text_table(&header, &rows, |column| column == 0 || column > columns.len())
    }

    fn line(&mut self, text: String) -> Result<()> {
        self.write((text + "\n").as_bytes())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let written = self.out.write_all(bytes).and_then(|()| self.out.flush());
        written.context("cannot write the predictions")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(format: Format, scored: bool) -> String {
        let mut out = Vec::new();
        let mut rows = RowWriter::new(&mut out, format, &["a".into(), "b".into()], None).unwrap();
        let unread = |image: &str| Row {
            image: image.into(),
            error: Some("empty, or \"gone\"".into()),
            ..Row::default()
        };
        rows.add(unread("=x.png")).unwrap();
        if scored {
            let scores = Some(vec![2.5, 3.5]);
            let (score, sd, in_distribution) = (Some(3.0), Some(0.5), Some(false));
            let row = Row { image: "a.png".into(), score, sd, scores, ..Row::default() };
            rows.add(Row { in_distribution, ..row }).unwrap();
            rows.add(unread("b.png")).unwrap();
        }
        rows.finish().unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_csv_has_the_columns_of_the_first_scored_image_and_the_rows_in_order() {
        let error = "\"empty, or \"\"gone\"\"\"";
        let expected = format!(
            "image,score,sd,in_distribution,error\n'=x.png,,,,{error}\na.png,3,0.5,false,\n\
             b.png,,,,{error}\n"
        );
        assert_eq!(written(Format::Csv, true), expected);
        let expected = format!("image,score,in_distribution,error\n'=x.png,,,{error}\n");
        assert_eq!(written(Format::Csv, false), expected);
    }

    #[test]
    fn json_is_one_object_and_json_lines_are_one_each() {
        for scored in [true, false] {
            let all: serde_json::Value =
                serde_json::from_str(&written(Format::Json, scored)).unwrap();
            let lines = written(Format::Jsonl, scored);
            let lines = lines.lines().map(|line| serde_json::from_str(line).unwrap());
            let lines: Vec<serde_json::Value> = lines.collect();
            assert_eq!(all["predictions"], json!(lines));
            assert_eq!(all["runs"], json!(["a", "b"]));
            assert_eq!(lines[0], json!({"image": "=x.png", "error": "empty, or \"gone\""}));
            let scores = [2.5, 3.5];
            let row = json!({
                "image": "a.png", "score": 3.0, "sd": 0.5, "scores": scores,
                "in_distribution": false
            });
            assert!(!scored || (lines[1] == row && lines.len() == 3));
        }
    }

    #[test]
    fn a_table_has_a_column_of_errors_where_there_are_some() {
        let table = written(Format::Table, true);
        assert!(table.lines().next().unwrap().contains("error"), "{table}");
        assert!(table.contains("3.000") && table.contains("empty, or"), "{table}");
        assert!(table.contains("in_distribution") && table.contains("false"), "{table}");
    }
}
