//! The columns of a table, and which of them can be meant.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use csv::StringRecord;

use crate::config::Delimiter;
use crate::data::dataset::Split;
use crate::data::datasets::csv::text::{Separator, Table};
use crate::data::datasets::locate::is_image_name;
use crate::files::printable;

/// Maximum number of rows that are read.
const MAX_ROWS: usize = 20_000;
/// The fewest columns of votes.
const MIN_RATERS: usize = 3;
/// The most groups that a column has whose name says nothing.
const MAX_GROUPS: usize = 12;

const IMAGE: &[&str] = &["image", "img", "filename", "file", "path", "photo", "picture", "face"];
const SCORE: &[&str] = &[
    "score",
    "rating",
    "mos",
    "attractiveness",
    "beauty",
    "mean",
    "average",
    "avg",
    "target",
    "label",
    "value",
    "y",
];
const NO_SCORE: &[&str] = &[
    "std",
    "sd",
    "var",
    "stdev",
    "deviation",
    "count",
    "n",
    "num",
    "number",
    "id",
    "index",
    "age",
    "width",
    "height",
    "weight",
    "fold",
    "unnamed",
];
const SPLIT: &[&str] = &["split", "set", "subset", "partition", "phase"];
const PERSON: &[&str] = &["person", "subject", "identity", "participant", "people", "individual"];
const GROUP: &[&str] = &["group", "ethnicity", "race", "gender", "sex", "country", "category"];
/// Who rated, which says nothing of who is shown.
const RATER: &[&str] = &["rater", "judge", "annotator", "user", "worker"];

/// The first rows of a table, by column.
pub(super) struct Sheet {
    pub(super) columns: Vec<Column>,
    pub(super) separator: Separator,
    rows: usize,
}

pub(super) struct Column {
    pub(super) name: String,
    /// The words of the name in lower case, and the name without what separates them.
    words: Vec<String>,
    values: Vec<String>,
    /// The values that are numbers; `None` if one is not, or few rows have one.
    numbers: Option<Vec<f64>>,
}

impl Sheet {
    pub(super) fn read(file: &Path) -> Result<Self> {
        let mut table = Table::open(file, Delimiter::Auto, |_| false)?;
        let separator = table.header.separator;
        let names: Vec<String> = table.header.names.iter().map(str::to_owned).collect();
        let mut values = vec![Vec::new(); names.len()];
        let (mut record, mut rows) = (StringRecord::new(), 0);
        while rows < MAX_ROWS && table.next(&mut record)?.is_some() {
            for (column, values) in values.iter_mut().enumerate() {
                values.push(record.get(column).unwrap_or_default().to_owned());
            }
            rows += 1;
        }
        ensure!(rows > 0, "{}: has a header but no rows", file.display());
        let no_header = names.iter().any(|name| is_image_name(name));
        ensure!(
            !no_header,
            "{}: its first line is an image, not the names of the columns: add a line such as \
             image,score above it",
            file.display()
        );
        let decimal_comma = separator != Separator(b',');
        let column = |(name, values)| Column::new(name, values, decimal_comma);
        let columns = names.into_iter().zip(values).map(column).collect();
        Ok(Self { columns, separator, rows })
    }

    /// Returns the columns whose name has one of the words, those of an earlier word first.
    pub(super) fn named(&self, words: &[&str]) -> Vec<&Column> {
        let mut found: Vec<(usize, &Column)> =
            self.columns.iter().filter_map(|column| Some((column.rank(words)?, column))).collect();
        found.sort_by_key(|(rank, _)| *rank);
        found.into_iter().map(|(_, column)| column).collect()
    }

    /// Returns the column that names the images, which are files, not addresses on the web.
    pub(super) fn image(&self, file: &Path) -> Result<&Column> {
        let is_file = |value: &&String| is_image_name(value) && !value.contains("://");
        let images = |column: &&Column| column.values.iter().filter(is_file).count();
        let most = self.columns.iter().rev().max_by_key(images);
        match most.filter(|column| 2 * images(column) > self.rows) {
            Some(column) => Ok(column),
            None => {
                self.named(IMAGE).into_iter().find(|column| column.numbers.is_none()).with_context(
                    || {
                        format!(
                            "{}: no column names image files, as anna.jpg or faces/anna.png: \
                             download images that are named by a web address, and write the \
                             ending of the files in each row",
                            file.display()
                        )
                    },
                )
            }
        }
    }

    /// Returns the columns that the score may be in, the likeliest first.
    pub(super) fn score(&self, votes: &[&Column], image: &Column) -> Vec<&Column> {
        let is_free = |column: &&Column| {
            column.name != image.name
                && column.rank(NO_SCORE).is_none()
                && votes.iter().all(|vote| vote.name != column.name)
        };
        let numeric = |column: &&Column| {
            is_free(column)
                && column.numbers.as_ref().is_some_and(|numbers| numbers.len() == self.rows)
        };
        let mut named: Vec<&Column> = self.named(SCORE).into_iter().filter(is_free).collect();
        if named.iter().any(numeric) || !votes.is_empty() {
            named.retain(numeric);
            return named;
        }
        // Reading it fails at the first row without a number, which says what is wrong there.
        named.retain(|column| column.is_mostly_numbers());
        if !named.is_empty() {
            return named;
        }
        let is_fraction =
            |column: &&Column| column.numbers.iter().flatten().any(|number| number.fract() != 0.0);
        let mut others: Vec<&Column> = self.columns.iter().filter(numeric).collect();
        others.sort_by_key(|column| !is_fraction(column));
        others
    }

    /// Returns the columns of the raters: numbers, under names that differ in a number alone.
    pub(super) fn votes(&self) -> Vec<&Column> {
        let numbered = |column: &&Column| {
            let is_number = |value: &String| value.is_empty() || column.numbers.is_some();
            column.stem() != column.name && column.values.iter().all(is_number)
        };
        let all: Vec<&Column> = self.columns.iter().filter(numbered).collect();
        let of = |stem: &str| all.iter().filter(|column| column.stem() == stem).count();
        let largest = all.iter().rev().max_by_key(|column| of(column.stem()));
        let Some(stem) = largest.map(|column| column.stem()).filter(|stem| of(stem) >= MIN_RATERS)
        else {
            return Vec::new();
        };
        all.iter().copied().filter(|column| column.stem() == stem).collect()
    }

    /// Returns what matches the columns of the votes, and no other.
    pub(super) fn pattern(&self, votes: &[&Column]) -> Vec<String> {
        let stem = votes[0].stem();
        let starting = self.columns.iter().filter(|column| column.name.starts_with(stem)).count();
        if !stem.is_empty() && starting == votes.len() {
            return vec![format!("{stem}*")];
        }
        votes.iter().map(|column| column.name.clone()).collect()
    }

    /// Returns the columns that may state the split.
    pub(super) fn split(&self) -> Vec<&Column> {
        let is_split =
            |column: &&Column| column.values.iter().all(|value| value.parse::<Split>().is_ok());
        let named = self.named(SPLIT).into_iter().filter(is_split);
        let mut found: Vec<&Column> = named.collect();
        found.extend(self.columns.iter().filter(is_split));
        let mut seen = BTreeSet::new();
        found.retain(|column| seen.insert(&column.name));
        found
    }

    /// Returns the columns that may state the fold.
    pub(super) fn fold(&self) -> Vec<&Column> {
        let named = self.named(&["fold", "folds", "cv"]).into_iter();
        named.filter(|column| (2..=50).contains(&column.distinct().len())).collect()
    }

    /// Returns the columns that may name the person.
    pub(super) fn person(&self) -> Vec<&Column> {
        let named = self.named(PERSON).into_iter();
        // Where each image shows another person, the column says nothing.
        named.filter(|column| (2..self.rows).contains(&column.distinct().len())).collect()
    }

    /// Returns the columns that may name the group.
    pub(super) fn group(&self) -> Vec<&Column> {
        let few = |column: &Column, most: usize| (2..=most).contains(&column.distinct().len());
        let mut found: Vec<&Column> =
            self.named(GROUP).into_iter().filter(|column| few(column, 10 * MAX_GROUPS)).collect();
        if found.is_empty() {
            let is_text = |column: &&Column| column.numbers.is_none() && few(column, MAX_GROUPS);
            found.extend(self.columns.iter().filter(is_text).filter(|column| {
                2 * column.distinct().len() <= self.rows
                    && column.rank(RATER).is_none()
                    && column.values.iter().all(|value| !is_image_name(value))
                    && column.values.iter().any(|value| value.parse::<Split>().is_err())
            }));
        }
        found
    }
}

impl Column {
    fn new(name: String, values: Vec<String>, decimal_comma: bool) -> Self {
        let lower = name.to_lowercase();
        let split = lower.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
        let mut words: Vec<String> = split.map(str::to_owned).collect();
        words.push(words.concat());
        let number = |value: &String| {
            let text = if decimal_comma { value.replacen(',', ".", 1) } else { value.clone() };
            text.parse::<f64>().ok().filter(|number| number.is_finite())
        };
        let given = || values.iter().filter(|value| !value.is_empty());
        let numbers: Option<Vec<f64>> = given().map(number).collect();
        let numbers = numbers.filter(|numbers| !numbers.is_empty());
        Self { name, words, values, numbers }
    }

    /// Returns the position of the first of `words` that is in the name.
    fn rank(&self, words: &[&str]) -> Option<usize> {
        words.iter().position(|word| self.words.iter().any(|own| own == word))
    }

    /// Returns whether most values begin as numbers do, as `3,4`, `85%` and `4/5`.
    fn is_mostly_numbers(&self) -> bool {
        let begins = |value: &&String| value.starts_with(|c: char| c.is_ascii_digit());
        2 * self.values.iter().filter(begins).count() > self.values.len()
    }

    /// The name without the number at its end.
    fn stem(&self) -> &str {
        self.name.trim_end_matches(|c: char| c.is_ascii_digit())
    }

    pub(super) fn has_decimal_comma(&self) -> bool {
        self.numbers.is_some() && self.values.iter().any(|value| value.contains(','))
    }

    pub(super) fn range(&self) -> [f64; 2] {
        let numbers = || self.numbers.iter().flatten().copied();
        [numbers().fold(f64::INFINITY, f64::min), numbers().fold(f64::NEG_INFINITY, f64::max)]
    }

    pub(super) fn distinct(&self) -> BTreeSet<&str> {
        self.values.iter().map(String::as_str).filter(|value| !value.is_empty()).collect()
    }

    /// Returns the number of values that an earlier row has.
    pub(super) fn repetitions(&self) -> usize {
        let given = self.values.iter().filter(|value| !value.is_empty()).count();
        given - self.distinct().len()
    }

    pub(super) fn example(&self) -> String {
        self.values.first().map_or(String::new(), printable)
    }

    /// Lists the values, the first of them where there are many.
    pub(super) fn summary(&self) -> String {
        let distinct = self.distinct();
        let first: Vec<String> = distinct.iter().take(4).map(printable).collect();
        let more = if distinct.len() > 4 { ", ..." } else { "" };
        format!("{} values, {}{more}", distinct.len(), first.join(", "))
    }
}

/// Says which other columns could be meant than the first.
pub(super) fn others(columns: &[&Column]) -> String {
    let names: Vec<String> = columns.iter().skip(1).map(|column| printable(&column.name)).collect();
    if names.is_empty() { String::new() } else { format!("it could also be {}", names.join(", ")) }
}
