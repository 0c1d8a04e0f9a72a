//! Guesses what a table of rated images, or a folder of a known dataset, means.

mod images;
mod sheet;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use self::images::find_images;
pub use self::images::{TableImages, table_images};
use self::sheet::{Column, Sheet, others};
use super::find_table;
use crate::config::{CsvConfig, DataConfig, DatasetName, Overlap};
use crate::data::dataset::Split;
use crate::data::datasets::{image_folder, scut_fbp5500};
use crate::files::printable;

/// What a table or a folder was understood as.
#[derive(Debug, Clone)]
pub struct Guess {
    /// The section `data` of a config.
    pub data: DataConfig,
    /// What was found, in the order in which it is shown.
    pub findings: Vec<Finding>,
    /// The smallest and the largest score, where a table states them.
    pub scores: Option<[f64; 2]>,
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What it is, `score`.
    pub what: &'static str,
    /// Where it is.
    pub found: String,
    /// What is not certain about it; empty if it is.
    pub unsure: String,
}

/// Guesses the dataset that a table or a folder holds. Images are looked for in `image_dir`, or in
/// the table's folder and those in it. Returns an error that says what is missing if it cannot be
/// trained on.
pub fn guess(path: &Path, image_dir: Option<&Path>) -> Result<Guess> {
    let is_folder = fs::metadata(path).with_context(|| path.display().to_string())?.is_dir();
    let known = if is_folder { known_folder(path) } else { None };
    match known {
        Some((dataset, split, overlap)) => {
            let root = path.to_path_buf();
            let split = split.to_owned();
            let data = DataConfig { dataset, root, split, overlap, ..DataConfig::default() };
            let found = format!("{dataset}, in {}", path.display());
            let findings = vec![Finding { what: "dataset", found, unsure: String::new() }];
            Ok(Guess { data, findings, scores: None })
        }
        None => {
            let file = find_table(path).with_context(|| {
                format!(
                    "{} is no table (.csv, .tsv, .xlsx), and no folder of MEBeauty, of \
                     SCUT-FBP5500, or of folders that are named for the score of their images: \
                     name the table of the scores",
                    path.display()
                )
            })?;
            let sheet = &Sheet::read(&file)?;
            let (csv, findings, taken) = (CsvConfig::default(), Vec::new(), Vec::new());
            Guesser { sheet, file: &file, csv, findings, taken }.guess(image_dir)
        }
    }
}

/// Returns the dataset that is in a folder, its split, and how its overlaps are treated.
fn known_folder(root: &Path) -> Option<(DatasetName, &'static str, Overlap)> {
    let has = |name: &str| root.join(name).is_file();
    if Split::ALL.iter().all(|split| has(&format!("scores/{split}_2022.txt"))) {
        // The published lists have one image in two splits.
        return Some((DatasetName::Mebeauty, "official", Overlap::Drop));
    }
    for split in DatasetName::ScutFbp5500.splits() {
        if scut_fbp5500::find_lists(root, split).is_ok() {
            return Some((DatasetName::ScutFbp5500, split, Overlap::Error));
        }
    }
    let config = DataConfig { root: root.to_path_buf(), ..DataConfig::default() };
    let is_scored = image_folder::read(&config, 0).is_ok();
    is_scored.then_some((DatasetName::Folder, "official", Overlap::Error))
}

/// Collects what is found in a table.
struct Guesser<'a> {
    sheet: &'a Sheet,
    file: &'a Path,
    csv: CsvConfig,
    findings: Vec<Finding>,
    /// The columns whose meaning is known.
    taken: Vec<&'a str>,
}

impl<'a> Guesser<'a> {
    fn add(&mut self, what: &'static str, found: String, unsure: String) {
        self.findings.push(Finding { what, found, unsure });
    }

    fn guess(mut self, image_dir: Option<&Path>) -> Result<Guess> {
        self.table();
        let image = self.image(image_dir)?;
        let scores = self.score(image)?;
        let sheet = self.sheet;
        let held_out = "no column: 10 % each are held out for validation and test";
        self.optional("split", sheet.split(), held_out, |csv| &mut csv.split_column);
        self.optional("fold", sheet.fold(), "no column", |csv| &mut csv.fold_column);
        self.optional("person", sheet.person(), "no column", |csv| &mut csv.person_column);
        self.optional("group", sheet.group(), "no column", |csv| &mut csv.group_column);
        let weight = sheet.named(&["weight"]);
        self.optional("weight", weight, "no column", |csv| &mut csv.weight_column);
        let (root, csv) = (self.file.to_path_buf(), self.csv);
        let data = DataConfig { dataset: DatasetName::Csv, root, csv, ..DataConfig::default() };
        Ok(Guess { data, findings: self.findings, scores })
    }

    fn table(&mut self) {
        let decimals = self.sheet.columns.iter().any(Column::has_decimal_comma);
        let decimals = if decimals { ", numbers with a decimal comma" } else { "" };
        let separated = if self.file.extension().is_some_and(|ending| ending == "xlsx") {
            "a spreadsheet".to_owned()
        } else {
            format!("columns separated by {}", self.sheet.separator)
        };
        let found = format!("{}: {separated}{decimals}", self.file.display());
        self.add("table", found, String::new());
    }

    /// Finds the column of the images, and their folder.
    fn image(&mut self, image_dir: Option<&Path>) -> Result<&'a Column> {
        let image = self.sheet.image(self.file)?;
        self.take(image);
        self.csv.image_column.clone_from(&image.name);
        let (folder, unsure) = find_images(image, self.file, image_dir)?;
        let example = image.example();
        let found = format!("column {}, for example {example}", image.name);
        let again = image.repetitions();
        let repeated = match again {
            0 => String::new(),
            _ => format!("{again} rows name an image again: each of them counts"),
        };
        self.add("image", found, repeated);
        let shown = match &folder {
            Some(folder) if folder.is_absolute() => folder.display().to_string(),
            Some(folder) => format!("{}, next to the table", folder.display()),
            None if Path::new(&example).is_absolute() => "the paths are absolute".into(),
            None => "that of the table".into(),
        };
        self.add("image folder", shown, unsure);
        self.csv.image_dir = folder;
        Ok(image)
    }

    /// Finds the columns of the score and the votes. Returns the smallest and the largest score.
    fn score(&mut self, image: &Column) -> Result<Option<[f64; 2]>> {
        let votes = self.sheet.votes();
        let score = self.sheet.score(&votes, image);
        let columns = || self.sheet.columns.iter().map(|column| printable(&column.name));
        ensure!(
            !score.is_empty() || !votes.is_empty(),
            "{}: no column has a number in each row: the score of the images is missing; the \
             columns are {}",
            self.file.display(),
            columns().collect::<Vec<_>>().join(", ")
        );
        let scores = score.first().map(|column| column.range());
        match score.first() {
            Some(column) => {
                self.take(column);
                self.csv.score_column.clone_from(&column.name);
                let [low, high] = column.range();
                let found = format!("column {}, from {low} to {high}", column.name);
                let unsure = if low == high { "all are equal".into() } else { others(&score) };
                self.add("score", found, unsure);
            }
            None => self.add("score", "the mean of the votes".into(), String::new()),
        }
        if !votes.is_empty() {
            votes.iter().for_each(|column| self.take(column));
            self.csv.votes_columns = self.sheet.pattern(&votes);
            let names = self.csv.votes_columns.join(", ");
            self.add("votes", format!("{} columns: {names}", votes.len()), String::new());
        }
        Ok(scores)
    }

    fn take(&mut self, column: &'a Column) {
        self.taken.push(&column.name);
    }

    /// Finds a column that a table need not have; `found` are those that it may be.
    fn optional(
        &mut self,
        what: &'static str,
        mut found: Vec<&'a Column>,
        without: &str,
        key: impl Fn(&mut CsvConfig) -> &mut String,
    ) {
        found.retain(|column| !self.taken.contains(&column.name.as_str()));
        let Some(&column) = found.first() else {
            return self.add(what, without.to_owned(), String::new());
        };
        self.take(column);
        key(&mut self.csv).clone_from(&column.name);
        let shown = format!("column {}: {}", column.name, column.summary());
        self.add(what, shown, others(&found));
    }
}
