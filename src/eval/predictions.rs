//! `predictions_{val,test}.csv`: a line per image, with its target and its predicted score.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::data::{Sample, csv_cell, csv_text, shortest};
use crate::eval::metrics::Metrics;
use crate::files::{read_regular, write_atomic};

const COLUMNS: [&str; 3] = ["image", "target", "prediction"];
/// Size beyond which a file is refused: ten million images have less.
pub const MAX_BYTES: u64 = 1 << 30;
/// What to do about a file that is not what was written.
const WRITE_AGAIN: &str =
    "`vmbeauty evaluate RUN --split SPLIT --predictions FILE` writes it again";
/// The column of the images' groups, where the dataset has them.
const GROUP: &str = "group";

/// Predictions for a list of images. All columns are equally long.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Predictions {
    /// Image names in the dataset.
    pub images: Vec<String>,
    /// Mean ratings, in the dataset's score units.
    pub targets: Vec<f64>,
    /// Predicted ratings, in the same units.
    pub predictions: Vec<f64>,
    /// Each image's group, such as `female/asian`, if it has one; empty where no image has one.
    pub groups: Vec<Option<String>>,
    /// Further columns of numbers by name, such as `weight_vit`.
    pub extra: Vec<(String, Vec<f64>)>,
}

impl Predictions {
    /// Returns the columns of images that are not predicted yet.
    pub fn unpredicted(samples: &[Sample]) -> Self {
        let grouped = samples.iter().any(|sample| sample.group.is_some());
        let groups = samples.iter().map(|sample| sample.group.clone());
        Self {
            images: samples.iter().map(|sample| sample.id.clone()).collect(),
            targets: samples.iter().map(Sample::target).collect(),
            groups: groups.filter(|_| grouped).collect(),
            ..Self::default()
        }
    }

    /// Appends the rows of other images; further columns that one of the two lacks are dropped.
    pub fn append(&mut self, others: Self) {
        if self.images.is_empty() {
            *self = others;
            return;
        }
        let grouped = !self.groups.is_empty() || !others.groups.is_empty();
        self.groups.resize(self.images.len(), None);
        self.groups.extend(others.groups);
        self.images.extend(others.images);
        self.groups.resize(if grouped { self.images.len() } else { 0 }, None);
        self.targets.extend(others.targets);
        self.predictions.extend(others.predictions);
        self.extra.retain_mut(|(name, column)| {
            let other = others.extra.iter().find(|(other, _)| other == name);
            if let Some((_, values)) = other {
                column.extend(values);
            }
            other.is_some()
        });
    }

    /// Returns the rows sorted by image, those of one image by target and prediction: the order in
    /// which every interval is computed, whatever the order of the rows was.
    pub fn sorted(&self) -> Self {
        let mut order: Vec<usize> = (0..self.images.len()).collect();
        order.sort_by(|&a, &b| {
            // A list may name an image twice.
            let by = |column: &[f64]| column[a].partial_cmp(&column[b]).unwrap_or(Ordering::Equal);
            let by_image = self.images[a].cmp(&self.images[b]);
            by_image.then_with(|| by(&self.targets)).then_with(|| by(&self.predictions))
        });
        let pick = |column: &[f64]| order.iter().map(|&row| column[row]).collect::<Vec<f64>>();
        let extra = self.extra.iter();
        Self {
            images: order.iter().map(|&row| self.images[row].clone()).collect(),
            targets: pick(&self.targets),
            predictions: pick(&self.predictions),
            groups: if self.groups.is_empty() {
                Vec::new()
            } else {
                order.iter().map(|&row| self.groups[row].clone()).collect()
            },
            extra: extra.map(|(name, column)| (name.clone(), pick(column))).collect(),
        }
    }

    /// Returns a further column.
    pub fn column(&self, name: &str) -> Option<&[f64]> {
        let found = self.extra.iter().find(|(known, _)| known == name);
        found.map(|(_, column)| column.as_slice())
    }

    /// Computes the metrics of these predictions.
    pub fn metrics(&self) -> Result<Metrics> {
        Metrics::new(&self.predictions, &self.targets)
    }

    /// Computes the metrics of the predictions in a further column, if there is one.
    pub fn metrics_of(&self, name: &str) -> Result<Option<Metrics>> {
        self.column(name).map(|column| Metrics::new(column, &self.targets)).transpose()
    }

    /// Returns the mean of a further column, if there is one.
    pub fn mean_of(&self, name: &str) -> Option<f64> {
        self.column(name).map(|column| column.iter().sum::<f64>() / column.len() as f64)
    }

    /// Writes a CSV file atomically: `image,target,prediction`, then `group` where there are
    /// groups, then the extra columns. Numbers have all their digits; names are written as
    /// [`csv_cell`]s. Returns an error if the columns are not equally long, two have one name, or
    /// the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        self.check().with_context(|| format!("cannot write {}", path.display()))?;
        write_atomic(path, |out| {
            let mut csv = csv::Writer::from_writer(out);
            let group = (!self.groups.is_empty()).then_some(GROUP);
            let header = COLUMNS.into_iter().chain(group);
            csv.write_record(header.chain(self.extra_names()))?;
            for row in 0..self.images.len() {
                let mut record = vec![
                    csv_cell(&self.images[row]).into_owned(),
                    self.targets[row].to_string(),
                    self.predictions[row].to_string(),
                ];
                let group = self.groups.get(row).map(|group| group.as_deref().unwrap_or_default());
                record.extend(group.map(|group| csv_cell(group).into_owned()));
                record.extend(self.extra.iter().map(|(_, values)| values[row].to_string()));
                csv.write_record(&record)?;
            }
            Ok(csv.flush()?)
        })
    }

    /// Reads a file that [`write`](Self::write) wrote. The columns may be in any order; all but
    /// `image` and `group` hold numbers. Returns an error that names the file, and the line and
    /// column of what is wrong. The newline at the end may be missing.
    pub fn read(path: &Path) -> Result<Self> {
        read(path).with_context(|| format!("cannot read the predictions in {}", path.display()))
    }

    fn extra_names(&self) -> impl Iterator<Item = &str> {
        self.extra.iter().map(|(name, _)| name.as_str())
    }

    fn check(&self) -> Result<()> {
        let mut names = HashSet::from(COLUMNS);
        names.insert(GROUP);
        for name in self.extra_names() {
            ensure!(names.insert(name), "two columns are called {name}");
        }
        let groups = (!self.groups.is_empty()).then_some((GROUP, self.groups.len()));
        let columns = [("target", self.targets.len()), ("prediction", self.predictions.len())];
        let extra = self.extra.iter().map(|(name, values)| (name.as_str(), values.len()));
        let images = self.images.len();
        for (name, values) in groups.into_iter().chain(columns).chain(extra) {
            ensure!(values == images, "column {name} has {values} values for {images} images");
        }
        Ok(())
    }
}

fn read(path: &Path) -> Result<Predictions> {
    let text = read_regular(path, MAX_BYTES)?;
    parse(&text).map_err(|error| {
        if text.ends_with(b"\n") {
            return error;
        }
        error.context(format!("it is cut off or was edited: {WRITE_AGAIN}"))
    })
}

fn parse(text: &[u8]) -> Result<Predictions> {
    let mut csv = csv::Reader::from_reader(text);
    let header: Vec<String> = csv.headers()?.iter().map(str::to_owned).collect();
    let column = |name: &str| {
        header
            .iter()
            .position(|column| column == name)
            .with_context(|| format!("no column {name}; the columns are {}", header.join(", ")))
    };
    let [image, target, prediction] =
        [column(COLUMNS[0])?, column(COLUMNS[1])?, column(COLUMNS[2])?];
    let group = header.iter().position(|column| column == GROUP);
    let extra: Vec<usize> = (0..header.len())
        .filter(|index| ![image, target, prediction].contains(index) && Some(*index) != group)
        .collect();

    let mut read = Predictions {
        extra: extra.iter().map(|&index| (header[index].clone(), Vec::new())).collect(),
        ..Predictions::default()
    };
    for record in csv.records() {
        let record = record?;
        let number = |index: usize| number(&record, index, &header[index]);
        read.images.push(csv_text(&record[image]).to_owned());
        read.targets.push(number(target)?);
        read.predictions.push(number(prediction)?);
        if let Some(group) = group {
            let name = csv_text(&record[group]);
            read.groups.push((!name.is_empty()).then(|| name.to_owned()));
        }
        for ((_, values), &index) in read.extra.iter_mut().zip(&extra) {
            values.push(number(index)?);
        }
    }
    read.check()?;
    Ok(read)
}

fn number(record: &csv::StringRecord, index: usize, column: &str) -> Result<f64> {
    let (text, line) = (&record[index], record.position().map_or(0, csv::Position::line));
    let number = text.trim().parse().ok().map(shortest);
    number.with_context(|| format!("line {line}: {column} is {text:?}, not a number"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn some() -> Predictions {
        Predictions {
            images: vec!["AF1.jpg".into(), "female/asian/a, b \"c\".jpg".into()],
            targets: vec![2.62, 1.0 / 3.0],
            predictions: vec![2.4, 1e-300],
            groups: Vec::new(),
            extra: vec![
                ("weight_vit".into(), vec![0.25, 0.5]),
                ("weight_mamba".into(), vec![0.75, 0.5]),
            ],
        }
    }

    #[test]
    fn a_file_reads_back_exactly() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("predictions_test.csv");
        some().write(&path).unwrap();
        assert_eq!(Predictions::read(&path).unwrap(), some());
        let text = fs::read_to_string(&path).unwrap();
        assert!(
            text.starts_with("image,target,prediction,weight_vit,weight_mamba\nAF1.jpg,2.62,2.4,")
        );
    }

    #[test]
    fn groups_read_back_and_an_image_without_one_has_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.csv");
        let grouped =
            Predictions { groups: vec![Some("female/asian, \"x\"".into()), None], ..some() };
        grouped.write(&path).unwrap();
        assert_eq!(Predictions::read(&path).unwrap(), grouped);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("image,target,prediction,group,weight_vit,weight_mamba\n"));
    }

    #[test]
    fn appended_rows_keep_their_groups_and_the_columns_that_both_have() {
        let mut rows = some();
        rows.append(Predictions {
            images: vec!["c".into()],
            targets: vec![3.0],
            predictions: vec![4.0],
            groups: vec![Some("g".into())],
            extra: vec![("weight_mamba".into(), vec![0.25])],
        });
        assert_eq!(rows.groups, [None, None, Some("g".to_string())]);
        assert_eq!(rows.extra, [("weight_mamba".to_string(), vec![0.75, 0.5, 0.25])]);
        rows.append(some());
        assert_eq!((rows.groups.len(), rows.images.len()), (5, 5));
        rows.check().unwrap();
    }

    #[test]
    fn a_file_of_no_predictions_has_a_header_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.csv");
        Predictions::default().write(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "image,target,prediction\n");
        assert_eq!(Predictions::read(&path).unwrap(), Predictions::default());
    }

    #[test]
    fn columns_of_unequal_length_are_not_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.csv");
        let mut uneven = some();
        uneven.extra[1].1.pop();
        let error = format!("{:#}", uneven.write(&path).unwrap_err());
        assert!(error.contains("weight_mamba has 1 values for 2 images"), "{error}");
        assert!(!path.exists());

        let mut twice = some();
        twice.extra[1].0 = "target".into();
        assert!(twice.write(&path).is_err());
    }

    #[test]
    fn the_last_newline_may_be_missing_and_the_last_number_may_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.csv");
        some().write(&path).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.trim_end()).unwrap();
        assert_eq!(Predictions::read(&path).unwrap(), some());
        for end in [",0.5", "0.5"] {
            fs::write(&path, text.trim_end().strip_suffix(end).unwrap()).unwrap();
            let error = format!("{:#}", Predictions::read(&path).unwrap_err());
            assert!(error.contains("p.csv: it is cut off or was edited"), "{error}");
            assert!(error.contains("writes it again: ") && error.contains("line"), "{error}");
        }
    }

    #[test]
    fn reading_errors_name_the_file_the_line_and_the_column() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.csv");
        let cases = [
            ("image,target\na,1\n", "no column prediction"),
            ("image,target,prediction\na,1,2\nb,1,high\n", "line 3: prediction is \"high\""),
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
