//! The folds of a cross-validation.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize, Serializer};
use serde_yaml::Value;

use crate::config::section::KeyType;
use crate::config::{DataConfig, DatasetName, Fold};
use crate::data::fold_names;

/// Maximum number of folds; each is a training.
const MAX_FOLDS: usize = 10_000;

/// The folds that a dataset is split into; in text `published`, `column` or their number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Value")]
pub enum Folds {
    /// The folds that come with the dataset: SCUT-FBP5500's five.
    Published,
    /// The folds in the column `data.csv.fold_column` of a table.
    Column,
    /// N folds, split at random from the seed.
    Random(usize),
}

impl Folds {
    /// Returns the published folds of SCUT-FBP5500, five random ones of other datasets.
    pub fn default_for(dataset: DatasetName) -> Self {
        match dataset {
            DatasetName::ScutFbp5500 => Self::Published,
            _ => Self::Random(5),
        }
    }

    /// Returns each fold's name in `data.split`.
    pub fn splits(self, data: &DataConfig) -> Result<Vec<String>, String> {
        match (self, data.dataset) {
            (Self::Random(of), _) => {
                Ok((1..=of).map(|number| Fold { number, of }.to_string()).collect())
            }
            (Self::Published, DatasetName::ScutFbp5500) => {
                Ok((1..=5).map(|fold| format!("fold_{fold}")).collect())
            }
            (Self::Column, DatasetName::Csv) => {
                fold_names(data).map_err(|error| format!("{error:#}"))
            }
            (Self::Published, dataset) => Err(format!(
                "the dataset {dataset} has no published folds: give their number, for example 5"
            )),
            (Self::Column, dataset) => Err(format!(
                "the dataset {dataset} has no column of folds, as a csv may: give their number, \
                 for example 5"
            )),
        }
    }
}

impl fmt::Display for Folds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Published => f.write_str("published"),
            Self::Column => f.write_str("column"),
            Self::Random(count) => write!(f, "{count}"),
        }
    }
}

impl KeyType for Folds {
    fn schema() -> serde_json::Value {
        serde_json::json!({
            "type": ["integer", "string"],
            "minimum": 2,
            "maximum": MAX_FOLDS,
            "pattern": "^(published|column)$",
        })
    }
}

impl Serialize for Folds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl FromStr for Folds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(count) if (2..=MAX_FOLDS).contains(&count) => Ok(Self::Random(count)),
            _ if text == "published" => Ok(Self::Published),
            _ if text == "column" => Ok(Self::Column),
            _ => Err(format!(
                "must be published, column or a number from 2 to {MAX_FOLDS}, is {text}"
            )),
        }
    }
}

impl TryFrom<Value> for Folds {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        match value {
            Value::String(name) => name.parse(),
            Value::Number(count) => count.to_string().parse(),
            _ => Err(format!("must be published, column or a number from 2 to {MAX_FOLDS}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folds_have_their_names_in_data_split() {
        let dataset = DatasetName::ScutFbp5500;
        let scut = &DataConfig { dataset, ..DataConfig::default() };
        assert_eq!(Folds::default_for(dataset).splits(scut).unwrap()[4], "fold_5");
        let random: Folds = "3".parse().unwrap();
        assert_eq!(random.splits(scut).unwrap(), ["fold_1_of_3", "fold_2_of_3", "fold_3_of_3"]);
        assert!(Folds::Published.splits(&DataConfig::default()).is_err());
        assert!(Folds::Column.splits(scut).is_err());
        for text in ["1", "0", "-2", "five", ""] {
            assert!(text.parse::<Folds>().is_err(), "{text}");
        }
    }
}
