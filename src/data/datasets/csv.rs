//! A table of the user's own images: a CSV (or, by its extension, TSV) file with a header.
//!
//! Columns: the image's path (relative to the file's folder, or absolute), its score, and
//! optionally its split, its group, its person, its weight and its raters' votes; `data.csv`
//! renames them. Without a split column, test and validation rows are held out by the seed; with
//! one that has no validation rows, those are held out of train.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use csv::{ReaderBuilder, StringRecord, Trim};

use super::locate::Locator;
use super::score_list::parse_score;
use crate::config::{CsvConfig, DataConfig};
use crate::data::dataset::Split;
use crate::data::listing::{Listing, Row};
use crate::data::splits::holdout::complete_splits;

/// Reads the table that `data.root` names: the file, or the folder that holds one such file.
pub(crate) fn read(config: &DataConfig, seed: u64) -> Result<Listing> {
    if config.split != "official" {
        bail!(
            "data.split: a csv dataset has no split {:?}; remove the key, and name each row's \
             split in the column {:?}",
            config.split,
            config.csv.split_column
        );
    }
    let file = find_table(&config.root)?;
    let (rows, has_splits) = read_table(&file, &config.csv)?;
    let listing = complete_splits(rows, has_splits, config, seed);
    ensure_weights(&listing, &file, &config.csv)?;
    Ok(listing)
}

/// Returns an error if no training image would count, so that nothing would be learned.
fn ensure_weights(listing: &Listing, file: &Path, config: &CsvConfig) -> Result<()> {
    let mut weights = listing.rows(Split::Train).iter().map(|row| row.sample.weight).peekable();
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

/// Returns the rows by split, all in train if there is no split column, and whether there is one.
fn read_table(file: &Path, config: &CsvConfig) -> Result<([Vec<Row>; 3], bool)> {
    let mut reader = ReaderBuilder::new()
        .trim(Trim::All)
        .delimiter(if has_extension(file, "tsv") { b'\t' } else { b',' })
        .from_path(file)
        .with_context(|| format!("{}: cannot be read", file.display()))?;
    let header = reader.headers().map_err(|error| explain(file, &error))?.clone();
    let columns =
        Columns::find(&header, config).with_context(|| format!("{}:1", file.display()))?;
    let folder = file.parent().unwrap_or(Path::new(""));
    let mut locator = Locator::default();
    let mut rows: [Vec<Row>; 3] = Default::default();
    for record in reader.records() {
        let record = record.map_err(|error| explain(file, &error))?;
        let line = record.position().map_or(0, |position| position.line());
        let (split, row) = columns
            .parse(&record, folder, &mut locator)
            .with_context(|| format!("{}:{line}", file.display()))?;
        rows[split as usize].push(row);
    }
    if rows.iter().all(Vec::is_empty) {
        bail!("{}: has a header but no rows", file.display());
    }
    Ok((rows, columns.split.is_some()))
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
}

impl Columns {
    fn find(header: &StringRecord, config: &CsvConfig) -> Result<Self> {
        let position = |name: &str| header.iter().position(|column| column == name);
        let required =
            |key: &str, name: &str| position(name).ok_or_else(|| missing_column(header, key, name));
        // Only a configured name must exist.
        let optional = |key: &str, name: &str, default: &str| {
            if name == default { Ok(position(name)) } else { required(key, name).map(Some) }
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
        })
    }

    fn parse(
        &self,
        record: &StringRecord,
        folder: &Path,
        locator: &mut Locator,
    ) -> Result<(Split, Row)> {
        let field = |column: usize| record.get(column).unwrap_or_default();
        let image = field(self.image);
        if image.is_empty() {
            bail!("the image's name is empty");
        }
        let votes = self.votes.iter().map(|&column| field(column)).filter(|vote| !vote.is_empty());
        let votes: Vec<f32> =
            votes.map(|vote| parse_score(vote).context("a vote")).collect::<Result<_>>()?;
        let score = match self.score {
            Some(column) => parse_score(field(column))?,
            None if votes.is_empty() => bail!("{image}: no votes; remove the row"),
            None => mean(&votes),
        };
        let weight = self.weight.map_or(Ok(1.0), |column| parse_weight(field(column)))?;
        let split = self.split.map_or(Ok(Split::Train), |column| field(column).parse())?;
        let named = |column: Option<usize>| {
            let name = column.map(field).filter(|name| !name.is_empty());
            name.map(str::to_string)
        };
        let found = locator.find(folder, image);
        let mut row = Row::file(image, folder.join(image), found, score, named(self.group));
        row.person = named(self.person);
        (row.sample.weight, row.sample.votes) = (weight, votes);
        Ok((split, row))
    }
}

/// Finds the configured vote columns, each once and in the order of the table.
fn votes_columns(header: &StringRecord, wanted: &[String]) -> Result<Vec<usize>> {
    let mut found = Vec::new();
    for name in wanted {
        let before = found.len();
        let fits = |column: &str| match name.strip_suffix('*') {
            Some(start) => column.starts_with(start),
            None => column == name,
        };
        found.extend((0..header.len()).filter(|&column| header.get(column).is_some_and(fits)));
        if found.len() == before {
            return Err(missing_column(header, "votes_columns", name));
        }
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

fn missing_column(header: &StringRecord, key: &str, name: &str) -> anyhow::Error {
    let existing = header.iter().collect::<Vec<_>>().join(", ");
    anyhow!("no column {name:?}; the file has {existing}. Set data.csv.{key} to one of them")
}

fn mean(votes: &[f32]) -> f32 {
    let sum: f64 = votes.iter().map(|&vote| f64::from(vote)).sum();
    (sum / votes.len() as f64) as f32
}

fn parse_weight(text: &str) -> Result<f32> {
    match text.parse::<f32>() {
        _ if text.is_empty() => Ok(1.0),
        Ok(weight) if weight >= 0.0 && weight.is_finite() => Ok(weight),
        _ => bail!("the weight {text:?} is not a non-negative number"),
    }
}

fn explain(file: &Path, error: &csv::Error) -> anyhow::Error {
    let line = error.position().map_or(1, |position| position.line());
    match error.kind() {
        csv::ErrorKind::Utf8 { .. } => {
            anyhow!("{}:{line}: is not UTF-8; save the file as UTF-8", file.display())
        }
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => anyhow!(
            "{}:{line}: has {len} fields, the header {expected_len}; quote fields with commas",
            file.display()
        ),
        _ => anyhow!("{}: {error}", file.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(
        name: &str,
        text: impl AsRef<[u8]>,
        change: impl Fn(&mut DataConfig),
    ) -> Result<Listing> {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(name), text).unwrap();
        let mut config = DataConfig { root: folder.path().to_path_buf(), ..DataConfig::default() };
        change(&mut config);
        read(&config, 1)
    }

    fn sizes(listing: &Listing) -> [usize; 3] {
        Split::ALL.map(|split| listing.rows(split).len())
    }

    fn complaint(name: &str, text: impl AsRef<[u8]>) -> String {
        format!("{:#}", read_text(name, text, |_| ()).unwrap_err())
    }

    fn plain(rows: usize) -> String {
        (0..rows).fold("image,score\n".to_string(), |text, row| {
            format!("{text}{row}.jpg,{}\n", row % 17)
        })
    }

    #[test]
    fn without_a_split_column_val_and_test_are_held_out() {
        let listing = read_text("faces.csv", plain(100), |_| ()).unwrap();
        assert_eq!(sizes(&listing), [80, 10, 10]);
        let listing = read_text("faces.csv", plain(100), |config| {
            (config.val_fraction, config.test_fraction) = (0.2, 0.0);
        });
        assert_eq!(sizes(&listing.unwrap()), [80, 20, 0]);
    }

    #[test]
    fn a_split_column_decides_and_val_is_held_out_where_it_names_none() {
        let text = "image,score,split\na,1,train\nb,2,Training\nc,3,val\nd,4,test\n";
        assert_eq!(sizes(&read_text("t.csv", text, |_| ()).unwrap()), [2, 1, 1]);
        let rows: String = (0..20).map(|row| format!("{row},{row},train\n")).collect();
        let text = format!("image,score,split\n{rows}x,1,test\n");
        assert_eq!(sizes(&read_text("t.csv", text, |_| ()).unwrap()), [18, 2, 1]);
    }

    #[test]
    fn a_person_is_held_out_with_all_images_or_not_at_all() {
        let rows: String =
            (0..60).map(|row| format!("{row}.jpg,{},person {}\n", row % 7, row / 4)).collect();
        let listing = read_text("t.csv", format!("image,score,person\n{rows}"), |_| ()).unwrap();
        let persons = Split::ALL.map(|split| {
            let rows = listing.rows(split).iter();
            let persons = rows.map(|row| row.person.clone());
            persons.collect::<std::collections::HashSet<_>>()
        });
        assert_eq!(persons.iter().map(|persons| persons.len()).sum::<usize>(), 15);
        assert!(persons.iter().all(|persons| !persons.is_empty()));
    }

    #[test]
    fn columns_can_be_renamed_and_reordered() {
        let text = "\u{feff}set;ignored".replace(';', ",")
            + ",Rating,face,Who\ntrain,7, 3.5 ,\"a, b.jpg\",female/asian\ntest,7,1,c.jpg,\n";
        let listing = read_text("t.csv", text, |config| {
            config.csv = CsvConfig {
                image_column: "face".into(),
                score_column: "Rating".into(),
                split_column: "set".into(),
                group_column: "Who".into(),
                ..CsvConfig::default()
            };
        })
        .unwrap();
        let sample = &listing.rows(Split::Train)[0].sample;
        assert_eq!((sample.id.as_str(), sample.score), ("a, b.jpg", 3.5));
        assert_eq!(sample.group.as_deref(), Some("female/asian"));
        assert_eq!(listing.rows(Split::Test)[0].sample.group, None);
    }

    #[test]
    fn weights_and_votes_are_read_and_votes_can_replace_the_score() {
        let text = "image,rater_1,weight,rater_2,rater_3,split\na,1,0.5,2,,train\nb,,,,4,val\n";
        let with_votes = |config: &mut DataConfig| {
            config.csv.votes_columns = vec!["rater_2".into(), "rater_*".into()];
        };
        let listing = read_text("t.csv", text, with_votes).unwrap();
        let sample = |split: Split| listing.rows(split)[0].sample.clone();
        let (train, val) = (sample(Split::Train), sample(Split::Val));
        assert_eq!((train.score, train.weight), (1.5, 0.5));
        assert_eq!(train.votes, [1.0, 2.0]);
        assert_eq!((val.score, val.weight, val.votes), (4.0, 1.0, vec![4.0]));
        for (text, expected) in [
            ("image,rater_1\na,\n", "t.csv:2: a: no votes"),
            ("image,rater_1\na,x\n", "t.csv:2: a vote: the score \"x\""),
            ("image,rater_1,weight\na,1,-1\n", "t.csv:2: the weight \"-1\""),
            ("image,score\na,1\n", "t.csv:1: no column \"rater_*\""),
        ] {
            let error = read_text("t.csv", text, |config| {
                config.csv.votes_columns = vec!["rater_*".into()];
            });
            let error = format!("{:#}", error.unwrap_err());
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn weights_of_zero_alone_are_an_error_that_names_the_column() {
        let text = "image,score,weight,split\na,1,0,train\nb,2,0,train\nc,3,1,val\n";
        let error = format!("{:#}", read_text("t.csv", text, |_| {}).unwrap_err());
        assert!(error.contains("t.csv") && error.contains("in the column \"weight\""), "{error}");
        let some = text.replace("a,1,0", "a,1,0.5");
        assert!(read_text("t.csv", &some, |_| {}).is_ok());
        let only_val = "image,score,weight,split\nc,3,0,val\n";
        assert!(read_text("t.csv", only_val, |_| {}).is_ok());
    }

    #[test]
    fn paths_are_relative_to_the_table_or_absolute() {
        let elsewhere = tempfile::tempdir().unwrap();
        let absolute = elsewhere.path().join("face.jpg");
        fs::write(&absolute, "").unwrap();
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("images")).unwrap();
        fs::write(folder.path().join("images/a.jpg"), "").unwrap();
        let table = folder.path().join("faces.tsv");
        fs::write(
            &table,
            format!(
                "image\tscore\tsplit\nimages/a.jpg\t1\ttrain\n{}\t2\ttrain\nno.jpg\t2\tval\n",
                absolute.display()
            ),
        )
        .unwrap();
        let config = DataConfig { root: table, ..DataConfig::default() };
        let listing = read(&config, 1).unwrap();
        assert!(listing.rows(Split::Train).iter().all(|row| row.missing.is_none()));
        assert!(listing.rows(Split::Val)[0].missing.is_some());
    }

    #[test]
    fn a_bad_row_is_named_by_file_and_line() {
        for (text, expected) in [
            (
                &b"image,score\na,1\nb,high\n"[..],
                "t.csv:3: the score \"high\" is not a finite number",
            ),
            (b"image,score\na,inf\n", "t.csv:2: the score \"inf\""),
            (b"image,score\n,3\n", "t.csv:2: the image's name is empty"),
            (b"image,score\na,3,4\n", "t.csv:2: has 3 fields, the header 2"),
            (b"image,score,split\na,3,holdout\n", "t.csv:2: there is no split \"holdout\""),
            (b"image,score\na,1\n\xe9,3\n", "t.csv:3: is not UTF-8"),
            (
                b"file,score\na,3\n",
                "t.csv:1: no column \"image\"; the file has file, score. Set data.csv.image_column",
            ),
            (b"image,score\n", "t.csv: has a header but no rows"),
            (b"", "t.csv:1: no column"),
        ] {
            let error = complaint("t.csv", text);
            assert!(error.contains(expected), "{error}");
        }
        let renamed = read_text("t.csv", "image,score\na,1\n", |config| {
            config.csv.split_column = "fold".into()
        });
        assert!(renamed.unwrap_err().root_cause().to_string().contains("data.csv.split_column"));
    }

    #[test]
    fn the_table_has_to_be_the_only_one_or_named() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = DataConfig { root: folder.path().to_path_buf(), ..DataConfig::default() };
        let message = |config: &DataConfig| format!("{:#}", read(config, 1).unwrap_err());
        assert!(message(&config).contains("holds no CSV file"));
        fs::write(folder.path().join("a.csv"), plain(4)).unwrap();
        fs::write(folder.path().join("b.CSV"), plain(5)).unwrap();
        assert!(message(&config).contains("holds several CSV files"));
        config.root = folder.path().join("gone.csv");
        assert!(message(&config).contains("gone.csv: cannot be read"));
        config.root = folder.path().join("b.CSV");
        assert_eq!(sizes(&read(&config, 1).unwrap()).iter().sum::<usize>(), 5);
        config.split = "fold_1".to_string();
        assert!(message(&config).contains("data.split"));
    }
}
