//! Why a split is empty, and what to do about it.

use std::collections::HashSet;

use crate::config::DataConfig;
use crate::data::dataset::Split;
use crate::data::listing::{Listing, Row};

/// Returns, for each split without rows, why it has none.
pub(crate) fn reasons(listing: &Listing, config: &DataConfig) -> [Option<String>; 3] {
    let empty = |split| listing.rows(split).is_empty();
    Split::ALL.map(|split| empty(split).then(|| reason(listing, split, config)))
}

fn reason(listing: &Listing, split: Split, config: &DataConfig) -> String {
    let train = listing.rows(Split::Train);
    match split {
        Split::Train => return "its lists name none: add some".into(),
        Split::Test => {
            return "choose another split; data.test_fraction holds images out for the test before \
                    the training"
                .into();
        }
        Split::Val if config.val_fraction == 0.0 => {
            return "data.val_fraction is 0: raise it, or add images for val to the lists".into();
        }
        Split::Val => {}
    }
    let persons = persons(Split::ALL.into_iter().flat_map(|split| listing.rows(split)));
    let all_have_one = !train.is_empty() && train.iter().all(|row| row.person().is_some());
    let has_test = config.test_fraction > 0.0 && !listing.rows(Split::Test).is_empty();
    if all_have_one && self::persons(train).len() == 1 {
        let (count, splits, test) = match (persons.len(), has_test) {
            (count, true) => (count, "train, val and test", "set data.test_fraction to 0, "),
            (count, false) => (count, "train and val", ""),
        };
        let noun = if count == 1 { "person" } else { "persons" };
        return format!(
            "the images show {count} {noun}, too few for {splits}, as the images of one stay in \
             one split: add images of others, {test}or ignore the persons (set \
             data.csv.person_column to a name that no column has)"
        );
    }
    let images: HashSet<&str> = train.iter().map(|row| &*row.key).collect();
    if images.len() < 2 {
        let test = if has_test { ", or set data.test_fraction to 0" } else { "" };
        return format!("too few images to hold some out: add images{test}");
    }
    "its lists name none: add some".into()
}

fn persons<'a>(rows: impl IntoIterator<Item = &'a Row>) -> HashSet<&'a str> {
    rows.into_iter().filter_map(Row::person).collect()
}
