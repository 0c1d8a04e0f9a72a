//! MEBeauty, 2021 release (Lebedeva et al.): faces of six ethnic groups, rated from 1 to 10.
//!
//! `scores/{train,val,test}_2022.txt` name images by paths relative to the dataset's folder, as
//! `./cropped_images/images_crop_align_mtcnn/female/asian/x.jpg 6.5`. Some rows name images that
//! the release lacks, and one image is in two splits; both are as published.

use std::path::Path;

use anyhow::{Result, bail};

use super::locate::Locator;
use super::score_list::read_scores;
use crate::data::dataset::Split;
use crate::data::listing::Listing;

pub(crate) fn read(root: &Path, split: &str) -> Result<Listing> {
    if split != "official" {
        bail!("data.split: mebeauty has no split {split:?}; its one split is official");
    }
    let mut locator = Locator::new(root);
    let mut rows = |split: Split| -> Result<_> {
        let file = root.join("scores").join(format!("{split}_2022.txt"));
        if !file.is_file() {
            bail!(
                "{}: no such file; set data.root to the MEBeauty folder, which holds scores and \
                 cropped_images",
                file.display()
            );
        }
        let row = |(name, score): (String, f32)| locator.row(&name, score).with_group(group(&name));
        Ok(read_scores(&file)?.into_iter().map(row).collect())
    };
    Ok(Listing::new(rows(Split::Train)?, rows(Split::Val)?, rows(Split::Test)?))
}

/// Returns `female/asian` from `.../female/asian/x.jpg`.
fn group(name: &str) -> Option<String> {
    let mut parts = name.rsplit('/').skip(1);
    let (ethnicity, sex) = (parts.next()?, parts.next()?);
    matches!(sex, "female" | "male").then(|| format!("{sex}/{ethnicity}"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn tree(lists: [&str; 3], images: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("scores")).unwrap();
        for (split, list) in Split::ALL.iter().zip(lists) {
            fs::write(root.path().join(format!("scores/{split}_2022.txt")), list).unwrap();
        }
        for image in images {
            let path = root.path().join(image);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        root
    }

    #[test]
    fn rows_carry_score_group_and_path() {
        let root = tree(
            [
                "./crops/female/asian/h\u{1ea3}i.jpg 7.5\n./crops/male/black/gone.jpg 2\n",
                "\"./crops/male/indian/a (1).jpg\" 6.25\n",
                "./other/b.jpg 1\n",
            ],
            &["crops/female/asian/ha\u{309}i.jpg", "crops/male/indian/a (1).jpg", "other/b.jpg"],
        );
        let listing = read(root.path(), "official").unwrap();
        let train = listing.rows(Split::Train);
        assert_eq!(train.len(), 2);
        assert_eq!(&*train[0].id, "./crops/female/asian/h\u{1ea3}i.jpg");
        assert_eq!(train[0].group(), Some("female/asian"));
        assert_eq!(train[0].score, 7.5);
        assert!(train[0].path().unwrap().is_file());
        assert!(train[1].missing_reason().is_some());
        let val = &listing.rows(Split::Val)[0];
        assert_eq!((val.score, val.missing_reason()), (6.25, None));
        assert_eq!(listing.rows(Split::Test)[0].group(), None);
    }

    #[test]
    fn a_wrong_root_or_split_is_explained() {
        let empty = tempfile::tempdir().unwrap();
        let error = read(empty.path(), "official").unwrap_err().to_string();
        assert!(error.contains("train_2022.txt") && error.contains("data.root"), "{error}");
        let error = read(empty.path(), "fold_1").unwrap_err().to_string();
        assert!(error.contains("data.split"), "{error}");
    }
}
