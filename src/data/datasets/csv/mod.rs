//! A table of the user's own images: a CSV file with a header, as spreadsheet programs write it.
//!
//! Columns: the image's path (relative to the file's folder, or absolute), its score, and
//! optionally its split, its group, its person, its weight and its raters' votes; `data.csv`
//! renames them. Without a split column, test and validation rows are held out by the seed; with
//! one that has no validation rows, those are held out of train.

pub(in crate::data) mod guess;
#[cfg(test)]
mod tests;
mod text;

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail, ensure};
use csv::StringRecord;

use self::text::{Header, Separator, Table};
use super::locate::Locator;
use super::score_list::parse_score;
use crate::config::names::is_plain;
use crate::config::{CsvConfig, DataConfig, Fold};
use crate::data::csv_cell::csv_text;
use crate::data::dataset::Split;
use crate::data::listing::{Labels, Listing, Row};
use crate::data::splits::holdout::complete_splits;
use crate::files::printable;

/// Reads the table that `data.root` names: the file, or the folder that holds one such file.
pub(crate) fn read(config: &DataConfig, seed: u64) -> Result<Listing> {
    let fold = match config.split.strip_prefix("fold_") {
        Some(fold) => Some(fold),
        None if config.split == "official" => None,
        None => bail!(
            "data.split: a csv dataset has no split {:?}; remove the key, and name each row's \
             split in the column {:?}",
            config.split,
            config.csv.split_column
        ),
    };
    let file = find_table(&config.root)?;
    let (rows, has_splits) = read_table(&file, &config.csv, fold)?;
    if fold.is_some() && rows[Split::Test as usize].is_empty() {
        bail!(
            "data.split: no row has the fold {:?} in the column {:?}, which has {}",
            config.split,
            config.csv.fold_column,
            fold_names(config)?.join(", ")
        );
    }
    let listing = complete_splits(rows, has_splits, config, seed);
    ensure_weights(&listing, &file, &config.csv)?;
    Ok(listing)
}

/// Maximum number of folds in a column; each is a training.
const MAX_FOLDS: usize = 1000;

/// Returns the names in `data.split` of the folds that the table's column `data.csv.fold_column`
/// has. Returns an error if there is no such column, or if it has no folds.
pub(crate) fn fold_names(config: &DataConfig) -> Result<Vec<String>> {
    let file = find_table(&config.root)?;
    let (mut table, columns) = open_table(&file, &config.csv)?;
    let key = &config.csv.fold_column;
    let column = columns.fold.ok_or_else(|| missing_column(&table.header, "fold_column", key))?;
    let (mut names, mut record) = (BTreeSet::new(), StringRecord::new());
    while let Some(place) = table.next(&mut record)? {
        let name = record.get(column).unwrap_or_default();
        let text = format!("fold_{}", name.strip_prefix("fold_").unwrap_or(name));
        ensure!(
            !name.is_empty() && name.chars().all(is_plain) && text.parse::<Fold>().is_err(),
            "{place}: the fold {name:?} must be named by letters, digits, -, _ or ."
        );
        names.insert((name.parse::<u32>().unwrap_or(u32::MAX), text));
        ensure!(names.len() <= MAX_FOLDS, "{place}: {key:?} has more than {MAX_FOLDS} folds");
    }
    ensure!(
        names.len() > 1,
        "{}: the column {key:?} has {} fold: two are the fewest",
        file.display(),
        names.len()
    );
    Ok(names.into_iter().map(|(_, name)| name).collect())
}

/// Returns an error if no training image would count, so that nothing would be learned.
fn ensure_weights(listing: &Listing, file: &Path, config: &CsvConfig) -> Result<()> {
    let mut weights = listing.rows(Split::Train).iter().map(Row::weight).peekable();
    ensure!(
        weights.peek().is_none() || weights.any(|weight| weight > 0.0),
        "{}: all training images have the weight 0 in the column {:?}; give some a larger weight, \
         or set data.csv.weight_column to another column",
        file.display(),
        config.weight_column
    );
    Ok(())
}

fn find_table(root: &Path) -> Result<PathBuf> {
    if root.is_file() {
        return Ok(root.to_path_buf());
    }
    let entries = fs::read_dir(root).with_context(|| {
        format!(
            "{}: cannot be read; set data.root to a CSV file or the folder that holds it",
            root.display()
        )
    })?;
    let mut tables: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_file() && (has_extension(path, "csv") || has_extension(path, "tsv")))
        .collect();
    tables.sort();
    match tables.as_slice() {
        [table] => Ok(table.clone()),
        [] => bail!("{}: holds no CSV file; set data.root to the file", root.display()),
        [first, second, ..] => bail!(
            "{}: holds several CSV files, such as {} and {}; set data.root to one of them",
            root.display(),
            first.display(),
            second.display()
        ),
    }
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found.eq_ignore_ascii_case(extension))
}

/// Opens a table with the columns that the config names.
fn open_table(file: &Path, config: &CsvConfig) -> Result<(Table, Columns)> {
    let is_complete = |header: &Header| Columns::find(header, config).is_ok();
    let table = Table::open(file, config.delimiter, is_complete)?;
    let columns =
        Columns::find(&table.header, config).with_context(|| table.header_place().to_string())?;
    Ok((table, columns))
}

/// Returns the rows by split, all in train if there is no split column, and whether there is one.
/// With a `fold`, its rows are in test, and all others in train.
fn read_table(
    file: &Path,
    config: &CsvConfig,
    fold: Option<&str>,
) -> Result<([Vec<Row>; 3], bool)> {
    let (mut table, columns) = open_table(file, config)?;
    if fold.is_some() && columns.fold.is_none() {
        let error = missing_column(&table.header, "fold_column", &config.fold_column);
        return Err(error.context(format!("{}: data.split names a fold", table.header_place())));
    }
    let folder = file.parent().unwrap_or(Path::new(""));
    let images = config.image_dir.as_deref().unwrap_or(Path::new(""));
    let mut locator = Locator::new(&folder.join(images));
    let mut names = HashSet::new();
    let mut rows: [Vec<Row>; 3] = Default::default();
    let decimal_comma = table.header.separator != Separator(b',');
    let mut record = StringRecord::new();
    while let Some(place) = table.next(&mut record)? {
        let row = RowReader { columns: &columns, record: &record, decimal_comma };
        let (split, row) =
            row.read(fold, &mut locator, &mut names).with_context(|| place.to_string())?;
        rows[split as usize].push(row);
    }
    if rows.iter().all(Vec::is_empty) {
        bail!("{}: has a header but no rows", file.display());
    }
    Ok((rows, fold.is_some() || columns.split.is_some()))
}

struct Columns {
    image: usize,
    /// `None` if the score is the mean of the votes.
    score: Option<usize>,
    votes: Vec<usize>,
    weight: Option<usize>,
    split: Option<usize>,
    group: Option<usize>,
    person: Option<usize>,
    fold: Option<usize>,
}

impl Columns {
    fn find(header: &Header, config: &CsvConfig) -> Result<Self> {
        let required = |key: &str, name: &str| {
            unique(header, key, name)?.ok_or_else(|| missing_column(header, key, name))
        };
        // Only a configured name must exist.
        let optional = |key: &str, name: &str, default: &str| {
            if name == default { unique(header, key, name) } else { required(key, name).map(Some) }
        };
        let default = CsvConfig::default();
        let votes = votes_columns(header, &config.votes_columns)?;
        Ok(Self {
            image: required("image_column", &config.image_column)?,
            score: if votes.is_empty() {
                Some(required("score_column", &config.score_column)?)
            } else {
                optional("score_column", &config.score_column, &default.score_column)?
            },
            votes,
            weight: optional("weight_column", &config.weight_column, &default.weight_column)?,
            split: optional("split_column", &config.split_column, &default.split_column)?,
            group: optional("group_column", &config.group_column, &default.group_column)?,
            person: optional("person_column", &config.person_column, &default.person_column)?,
            fold: optional("fold_column", &config.fold_column, &default.fold_column)?,
        })
    }
}

/// Reads one row.
struct RowReader<'a> {
    columns: &'a Columns,
    record: &'a StringRecord,
    /// Whether a number may have a decimal comma: it may not where commas separate the columns.
    decimal_comma: bool,
}

impl RowReader<'_> {
    /// Reads the split and the row. `names` holds the groups and persons of the rows before.
    fn read(
        &self,
        fold: Option<&str>,
        locator: &mut Locator,
        names: &mut HashSet<Arc<str>>,
    ) -> Result<(Split, Row)> {
        let columns = self.columns;
        let image = self.field(columns.image);
        if image.is_empty() {
            bail!("the image's name is empty");
        }
        let votes = columns.votes.iter().map(|&column| self.field(column));
        let votes = votes.filter(|vote| !vote.is_empty());
        let votes: Vec<f32> =
            votes.map(|vote| self.score(vote).context("a vote")).collect::<Result<_>>()?;
        let score = match columns.score {
            Some(column) => self.score(self.field(column))?,
            None if votes.is_empty() => bail!("{}: no votes; remove the row", printable(image)),
            None => mean(&votes),
        };
        let weight = columns.weight.map_or(Ok(1.0), |column| self.weight(self.field(column)))?;
        let split = match (fold, columns.fold, columns.split) {
            (Some(fold), Some(column), _) => {
                let own = self.field(column);
                let is_test = own.strip_prefix("fold_").unwrap_or(own) == fold;
                if is_test { Split::Test } else { Split::Train }
            }
            (_, _, Some(column)) => self.field(column).parse()?,
            _ => Split::Train,
        };
        let mut named = |column: Option<usize>| {
            let name = csv_text(self.field(column?));
            if name.is_empty() {
                return None;
            }
            if let Some(known) = names.get(name) {
                return Some(Arc::clone(known));
            }
            let name: Arc<str> = name.into();
            names.insert(Arc::clone(&name));
            Some(name)
        };
        let labels =
            Labels { group: named(columns.group), person: named(columns.person), weight, votes };
        let row = match locator.row(image, score) {
            // The name may be one that `csv_cell` wrote.
            row if row.path().is_none() && csv_text(image) != image => {
                locator.row(csv_text(image), score)
            }
            row => row,
        };
        let labels = (labels != Labels::default()).then(|| Box::new(labels));
        Ok((split, Row { labels, ..row }))
    }

    fn field(&self, column: usize) -> &str {
        self.record.get(column).unwrap_or_default()
    }

    fn score(&self, text: &str) -> Result<f32> {
        let with_comma = text.bytes().filter(|&byte| byte == b',').count() == 1;
        match parse_score(text) {
            Err(_) if with_comma && self.decimal_comma && !text.contains('.') => {
                parse_score(&text.replace(',', "."))
            }
            Err(error) if with_comma => bail!("{error}; write decimals with a point"),
            Err(error) => bail!("{error}; correct it, or remove the row"),
            other => other,
        }
    }

    fn weight(&self, text: &str) -> Result<f32> {
        match self.score(text) {
            _ if text.is_empty() => Ok(1.0),
            Ok(weight) if weight >= 0.0 => Ok(weight),
            _ => bail!("the weight {text:?} is not a non-negative number"),
        }
    }
}

/// Finds the configured vote columns, each once and in the order of the table.
fn votes_columns(header: &Header, wanted: &[String]) -> Result<Vec<usize>> {
    let mut found = Vec::new();
    for name in wanted {
        let fits = |column: &str| match name.strip_suffix('*') {
            Some(start) => column.starts_with(start),
            None => column == name,
        };
        let fitting: Vec<&str> = header.names.iter().filter(|column| fits(column)).collect();
        if fitting.is_empty() {
            return Err(missing_column(header, "votes_columns", name));
        }
        for column in fitting {
            found.extend(unique(header, "votes_columns", column)?);
        }
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// Returns the position of a column, if there is one. Two of one name are an error: only the user
/// knows which is meant.
fn unique(header: &Header, key: &str, name: &str) -> Result<Option<usize>> {
    let columns = header.names.iter().enumerate();
    let mut found = columns.filter(|(_, column)| *column == name).map(|(column, _)| column);
    let first = found.next();
    if found.next().is_some() {
        bail!(
            "two columns are named {name:?}; rename one of them, or set data.csv.{key} to another"
        );
    }
    Ok(first)
}

fn missing_column(header: &Header, key: &str, name: &str) -> anyhow::Error {
    anyhow!(
        "no column {name:?}; {header}. Set data.csv.{key} to one of them, or data.csv.delimiter \
         to what separates them"
    )
}

fn mean(votes: &[f32]) -> f32 {
    let sum: f64 = votes.iter().map(|&vote| f64::from(vote)).sum();
    (sum / votes.len() as f64) as f32
}
