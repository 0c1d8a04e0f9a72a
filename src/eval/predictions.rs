//! `predictions_{val,test}.csv`: a line per image, with what the model said of it.

use std::collections::HashSet;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use crate::eval::metrics::Metrics;
use crate::files;

const COLUMNS: [&str; 3] = ["image", "target", "prediction"];

/// Predictions for a list of images. All columns are equally long.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Predictions {
    /// Image names, as the data set has them.
    pub images: Vec<String>,
    /// Mean ratings, in the data set's score units.
    pub targets: Vec<f64>,
    /// Predicted ratings, in the same units.
    pub predictions: Vec<f64>,
    /// Further columns of numbers by name, for example `weight_vit`.
    pub extra: Vec<(String, Vec<f64>)>,
}

impl Predictions {
    /// The figures of these predictions.
    ///
    /// # Errors
    /// If the columns are not equally long.
    pub fn metrics(&self) -> Result<Metrics> {
        Metrics::new(&self.predictions, &self.targets)
    }

    /// Writes a CSV file whole or not at all: `image,target,prediction`, then the
    /// extra columns. Numbers are written so that reading gives them back exactly.
    ///
    /// # Errors
    /// If the columns are not equally long, two have one name, or the file cannot
    /// be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        self.check()
            .with_context(|| format!("cannot write {}", path.display()))?;
        files::write_whole(path, |out| {
            let mut csv = csv::Writer::from_writer(out);
            csv.write_record(COLUMNS.into_iter().chain(self.extra_names()))?;
            for row in 0..self.images.len() {
                let mut record = vec![
                    self.images[row].clone(),
                    self.targets[row].to_string(),
                    self.predictions[row].to_string(),
                ];
                record.extend(self.extra.iter().map(|(_, values)| values[row].to_string()));
                csv.write_record(&record)?;
            }
            Ok(csv.flush()?)
        })
    }

    /// Reads what [`write`](Self::write) wrote. The columns may stand in any order;
    /// all but `image` hold numbers.
    ///
    /// # Errors
    /// Names the file, and the line and column of what is wrong.
    pub fn read(path: &Path) -> Result<Self> {
        read(path).with_context(|| format!("cannot read the predictions in {}", path.display()))
    }

    fn extra_names(&self) -> impl Iterator<Item = &str> {
        self.extra.iter().map(|(name, _)| name.as_str())
    }

    fn check(&self) -> Result<()> {
        let mut names = HashSet::from(COLUMNS);
        for name in self.extra_names() {
            ensure!(names.insert(name), "two columns are called {name}");
        }
        let columns = [("target", &self.targets), ("prediction", &self.predictions)];
        let extra = self
            .extra
            .iter()
            .map(|(name, values)| (name.as_str(), values));
        for (name, values) in columns.into_iter().chain(extra) {
            ensure!(
                values.len() == self.images.len(),
                "column {name} has {} values for {} images",
                values.len(),
                self.images.len()
            );
        }
        Ok(())
    }
}

fn read(path: &Path) -> Result<Predictions> {
    let mut csv = csv::Reader::from_path(path)?;
    let header: Vec<String> = csv.headers()?.iter().map(str::to_owned).collect();
    let column = |name: &str| {
        header
            .iter()
            .position(|column| column == name)
            .with_context(|| format!("no column {name}; the columns are {}", header.join(", ")))
    };
    let [image, target, prediction] = [
        column(COLUMNS[0])?,
        column(COLUMNS[1])?,
        column(COLUMNS[2])?,
    ];
    let extra: Vec<usize> = (0..header.len())
        .filter(|index| ![image, target, prediction].contains(index))
        .collect();

    let mut read = Predictions {
        extra: extra
            .iter()
            .map(|&index| (header[index].clone(), Vec::new()))
            .collect(),
        ..Predictions::default()
    };
    for record in csv.records() {
        let record = record?;
        let number = |index: usize| number(&record, index, &header[index]);
        read.images.push(record[image].to_owned());
        read.targets.push(number(target)?);
        read.predictions.push(number(prediction)?);
        for ((_, values), &index) in read.extra.iter_mut().zip(&extra) {
            values.push(number(index)?);
        }
    }
    read.check()?;
    Ok(read)
}

fn number(record: &csv::StringRecord, index: usize, column: &str) -> Result<f64> {
    let text = &record[index];
    match text.trim().parse() {
        Ok(number) => Ok(number),
        Err(_) => {
            let line = record.position().map_or(0, csv::Position::line);
            bail!("line {line}: {column} is {text:?}, not a number")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn some() -> Predictions {
        Predictions {
            images: vec!["AF1.jpg".into(), "female/asian/a, b \"c\".jpg".into()],
            targets: vec![2.5, 1.0 / 3.0],
            predictions: vec![f64::from(2.4f32), 1e-300],
            extra: vec![
                ("weight_vit".into(), vec![0.25, 0.5]),
                ("weight_mamba".into(), vec![0.75, 0.5]),
            ],
        }
    }

    #[test]
    fn a_file_reads_back_exactly_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("predictions_test.csv");
        some().write(&path).unwrap();
        assert_eq!(Predictions::read(&path).unwrap(), some());
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("image,target,prediction,weight_vit,weight_mamba\nAF1.jpg,2.5,"));
    }

    #[test]
    fn no_predictions_make_a_file_with_a_header_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.csv");
        Predictions::default().write(&path).unwrap();
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            "image,target,prediction\n"
        );
        assert_eq!(Predictions::read(&path).unwrap(), Predictions::default());
    }

    #[test]
    fn columns_of_unequal_length_are_not_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.csv");
        let mut uneven = some();
        uneven.extra[1].1.pop();
        let error = format!("{:#}", uneven.write(&path).unwrap_err());
        assert!(
            error.contains("weight_mamba has 1 values for 2 images"),
            "{error}"
        );
        assert!(!path.exists());

        let mut twice = some();
        twice.extra[1].0 = "target".into();
        assert!(twice.write(&path).is_err());
    }

    #[test]
    fn reading_errors_name_the_file_the_line_and_the_column() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.csv");
        let cases = [
            ("image,target\na,1\n", "no column prediction"),
            (
                "image,target,prediction\na,1,2\nb,1,high\n",
                "line 3: prediction is \"high\"",
            ),
            ("image,target,prediction\na,1\n", "line: 2"),
            ("image,target,prediction,x,x\n", "two columns are called x"),
        ];
        for (text, expected) in cases {
            fs::write(&path, text).unwrap();
            let error = format!("{:#}", Predictions::read(&path).unwrap_err());
            assert!(error.contains(expected), "{error}");
            assert!(error.contains("p.csv"), "{error}");
        }
        let error = Predictions::read(&dir.path().join("none.csv")).unwrap_err();
        assert!(format!("{error:#}").contains("none.csv"));
    }
}
