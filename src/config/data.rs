//! `data`: which images, and what is done to them.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::augment::AugmentConfig;
use super::checks::Checks;
use super::names::{self, names};
use super::section::section;

section! {
    /// The images and their ratings, and what is done to an image on its way to
    /// the model.
    pub struct DataConfig {
        /// `synthetic` (synthetic faces, no file needed), `mebeauty`, `scut_fbp5500`, or your own
        /// images: `csv` (a table), or `folder` (in folders named for their score, `3.5/anna.jpg`
        /// or `train/3.5/anna.jpg`).
        pub dataset: DatasetName = DatasetName::Synthetic,
        /// Folder of the data set; for `csv` the CSV file, or the folder that holds it. Needed
        /// by all but `synthetic`.
        pub root: PathBuf = PathBuf::new(),
        /// Which published split: `official`; for `scut_fbp5500` one of `fold_1` to `fold_5`
        /// and `split_60_40`. Or, of any data set, a fold drawn from the seed: `fold_2_of_10`.
        pub split: String = "official".into(),
        /// Seed of what the data set leaves open: folds, hold-outs and synthetic faces; `null`
        /// takes `seed`. Set it to change the seed of the training alone.
        pub seed: Option<u64> = None,
        /// Part of the training images held out for validation, where the data set names
        /// none.
        pub val_fraction: f64 = 0.1,
        /// Part of all images held out for the test: `csv` and `folder` that name no splits only.
        pub test_fraction: f64 = 0.1,
        /// Read what each rater gave from the data set's spreadsheet (`scut_fbp5500`:
        /// `All_Ratings.xlsx`; `mebeauty`: `scores/generic_scores_all_2022.xlsx`), for `train.loss:
        /// label_distribution`. A `csv` names its columns in `data.csv.votes_columns`.
        pub votes: bool = false,
        /// An image in two parts of the split: `error` refuses to train, `drop` takes it from
        /// train (and val, if test has it), `allow` leaves it.
        pub overlap: Overlap = Overlap::Error,
        /// Decode every file once before training. Unreadable ones are skipped and counted.
        pub verify: bool = true,
        /// Side of the square image that the model sees, in pixels.
        pub image_size: i64 = 224,
        /// How an image that is not square becomes so: `squash`, `crop` (short side, then
        /// center) or `pad`.
        pub resize: Resize = Resize::Squash,
        /// What `crop` brings the short side to before it takes the center, in pixels, as 256 for
        /// 224; `null` is `image_size`.
        pub short_side: Option<u32> = None,
        /// Color, red, green and blue from 0 to 255, of the border of padded images and behind
        /// transparent pixels.
        pub background: [u8; 3] = [124, 116, 104],
        /// `bicubic` or `bilinear`, both antialiased.
        pub interpolation: Interpolation = Interpolation::Bicubic,
        /// `{mean: [r, g, b], std: [r, g, b]}` for pixels from 0 to 1; `null` takes what each
        /// backbone's preset was trained with.
        pub normalize: Option<Normalize> = None,
        /// Threads that decode and augment. The images and their order do not depend on it.
        pub workers: usize = 2,
        /// Keeps decoded images from one epoch to the next: `none`, `memory`, or `disk`, also for
        /// other runs.
        pub cache: Cache = Cache::None,
        /// Folder of the `disk` cache; several processes may share it. `null` is
        /// `vm-beautynet/images` in the user's cache folder.
        pub cache_dir: Option<PathBuf> = None,
        /// Evaluation shows the model each image and its mirror image, and takes the mean of the
        /// two predictions.
        pub test_time_flip: bool = false,
        /// Random changes to training images.
        pub augment: AugmentConfig = AugmentConfig::default(),
        /// Columns of a `csv` data set.
        pub csv: CsvConfig = CsvConfig::default(),
        /// Sizes of the `synthetic` data set.
        pub synthetic: SyntheticConfig = SyntheticConfig::default(),
    }
}

section! {
    /// Column names of a `csv` data set.
    pub struct CsvConfig {
        /// Path of the image, relative to the CSV file.
        pub image_column: String = "image".into(),
        /// The rating.
        pub score_column: String = "score".into(),
        /// `train`, `val` or `test`. Without this column the split is drawn from the seed.
        pub split_column: String = "split".into(),
        /// What the image's group is called in results by group. May be missing.
        pub group_column: String = "group".into(),
        /// Who is in the image: nobody is on both sides of a split that is drawn from the seed.
        /// May be missing.
        pub person_column: String = "person".into(),
        /// How much the image counts, 0 or more. May be missing. Every loss weighs images by it.
        pub weight_column: String = "weight".into(),
        /// Columns with what each rater gave the image; `rater_*` stands for all that begin so.
        /// Empty cells are raters who gave nothing. Their mean is the score where there is no score
        /// column.
        pub votes_columns: Vec<String> = Vec::new(),
    }
}

section! {
    /// Sizes of the `synthetic` data set.
    pub struct SyntheticConfig {
        /// Training images.
        pub train: usize = 1600,
        /// Validation images.
        pub val: usize = 200,
        /// Test images.
        pub test: usize = 400,
        /// Standard deviation of the noise on the ratings, in score units.
        pub rater_noise: f64 = 0.2,
    }
}

/// Mean and standard deviation by channel (red, green, blue) of pixels from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Normalize {
    /// Subtracted first.
    pub mean: [f32; 3],
    /// Then divided by.
    pub std: [f32; 3],
}

names! {
    /// Where the images come from.
    pub enum DatasetName {
        /// Faces drawn from the seed.
        Synthetic = "synthetic",
        /// MEBeauty, release of 2021.
        Mebeauty = "mebeauty",
        /// SCUT-FBP5500 v2.
        ScutFbp5500 = "scut_fbp5500",
        /// A CSV file of `image,score`.
        Csv = "csv",
        /// Folders named for the score of the images in them.
        Folder = "folder",
    }
}

/// One of several folds that are drawn from the seed: in a config, `fold_2_of_10`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fold {
    /// Which one, from 1.
    pub number: usize,
    /// How many there are.
    pub of: usize,
}

impl fmt::Display for Fold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "fold_{}_of_{}", self.number, self.of)
    }
}

impl FromStr for Fold {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text.strip_prefix("fold_").and_then(|rest| {
            let (number, of) = rest.split_once("_of_")?;
            Some((number.parse().ok()?, of.parse().ok()?))
        });
        match numbers {
            Some((number, of)) if 1 <= number && number <= of && of >= 2 => Ok(Self { number, of }),
            _ => Err(format!("must be fold_K_of_N with K from 1 to N and N at least 2, is {text}")),
        }
    }
}

impl DatasetName {
    /// The splits that can be named for this data set.
    pub fn splits(self) -> &'static [&'static str] {
        match self {
            Self::ScutFbp5500 => &["fold_1", "fold_2", "fold_3", "fold_4", "fold_5", "split_60_40"],
            Self::Synthetic | Self::Mebeauty | Self::Csv | Self::Folder => &["official"],
        }
    }
}

names! {
    /// What to do with an image that stands in two parts of a split.
    pub enum Overlap {
        /// Refuse to train.
        Error = "error",
        /// Take it from train if val or test holds it, from val if test does.
        Drop = "drop",
        /// Leave it in both.
        Allow = "allow",
    }
}

names! {
    /// How an image becomes square.
    pub enum Resize {
        /// Scale each side by itself.
        Squash = "squash",
        /// Scale the short side, cut the center.
        Crop = "crop",
        /// Scale the long side, fill up the rest.
        Pad = "pad",
    }
}

names! {
    /// Resampling filter, antialiased.
    pub enum Interpolation {
        /// Cubic, as timm's presets use.
        Bicubic = "bicubic",
        /// Linear.
        Bilinear = "bilinear",
    }
}

names! {
    /// What is kept of images between epochs.
    pub enum Cache {
        /// Nothing: decode again.
        None = "none",
        /// Decoded images, in memory.
        Memory = "memory",
        /// Decoded images, in files.
        Disk = "disk",
    }
}

impl DataConfig {
    /// The fold that `split` names, if it is one that is drawn from the seed.
    pub fn fold(&self) -> Option<Fold> {
        self.split.parse().ok()
    }

    pub(super) fn check(&self, checks: &mut Checks) {
        let dataset = self.dataset;
        if dataset != DatasetName::Synthetic && self.root == Path::new("") {
            checks.fail(
                "data.root",
                format!("data.root is missing: the data set {dataset} needs its folder"),
            );
        }
        let splits = dataset.splits();
        if self.split.starts_with("fold_") && self.split.contains("_of_") {
            if let Err(problem) = self.split.parse::<Fold>() {
                checks.fail("data.split", format!("data.split {problem}"));
            }
        } else if !splits.contains(&self.split.as_str()) {
            let problem = names::unknown(&self.split, splits);
            checks.fail("data.split", format!("data.split of {dataset} {problem}"));
        }
        checks.fraction("data.val_fraction", self.val_fraction);
        checks.fraction("data.test_fraction", self.test_fraction);
        if self.val_fraction + self.test_fraction >= 1.0 {
            checks.fail(
                "data.test_fraction",
                "data.test_fraction and data.val_fraction leave nothing to train on: \
                 their sum must be less than 1"
                    .into(),
            );
        }
        checks.size("data.image_size", self.image_size);
        if let Some(short_side) = self.short_side {
            checks.require(
                i64::from(short_side) >= self.image_size && short_side <= 16_384,
                "data.short_side",
                "between data.image_size and 16384",
                short_side,
            );
        }
        checks.size("data.workers", self.workers);
        if let Some(Normalize { mean, std }) = self.normalize {
            for (key, values, least) in [
                ("data.normalize.mean", mean, f32::MIN),
                ("data.normalize.std", std, f32::MIN_POSITIVE),
            ] {
                for value in values {
                    let rule =
                        if least > 0.0 { "finite numbers above 0" } else { "finite numbers" };
                    let holds = value >= least && value.is_finite();
                    checks.require(holds, key, rule, format_args!("{values:?}"));
                }
            }
        }
        self.augment.check(checks);
        self.csv.check(checks);
        checks.size("data.synthetic.train", self.synthetic.train);
        checks.size("data.synthetic.val", self.synthetic.val);
        checks.size("data.synthetic.test", self.synthetic.test);
        checks.not_negative("data.synthetic.rater_noise", self.synthetic.rater_noise);
    }
}

impl CsvConfig {
    fn check(&self, checks: &mut Checks) {
        let columns = [
            ("data.csv.image_column", &self.image_column),
            ("data.csv.score_column", &self.score_column),
            ("data.csv.split_column", &self.split_column),
            ("data.csv.group_column", &self.group_column),
            ("data.csv.person_column", &self.person_column),
            ("data.csv.weight_column", &self.weight_column),
        ];
        for (index, (key, column)) in columns.iter().enumerate() {
            checks.require(!column.is_empty(), key, "the name of a column", "empty");
            for (other, name) in &columns[..index] {
                if name == column {
                    checks.fail(key, format!("{key} and {other} are the same column, {column}"));
                }
            }
        }
        for column in &self.votes_columns {
            checks.require(
                !column.is_empty(),
                "data.csv.votes_columns",
                "names of columns",
                "empty",
            );
        }
    }
}
