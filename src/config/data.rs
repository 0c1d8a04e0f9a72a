//! `data`: the images, their splits and their preprocessing.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::augment::AugmentConfig;
use super::checks::{Checks, MAX_SIDE};
use super::names::{self, names};
use super::section::{KeyType, section};

section! {
    /// The images and their ratings, and how an image becomes the model's input.
    pub struct DataConfig {
        /// `synthetic` (synthetic faces, no file needed), `mebeauty`, `scut_fbp5500`, or your own
        /// images: `csv` (a table) or `folder` (folders named for their score, `3.5/anna.jpg` or
        /// `train/3.5/anna.jpg`).
        pub dataset: DatasetName = DatasetName::Synthetic,
        /// Folder of the dataset; for `csv` the CSV file or the folder that holds it. Required by
        /// all but `synthetic`.
        pub root: PathBuf = PathBuf::new(),
        /// Published split: `official`; for `scut_fbp5500` one of `fold_1` to `fold_5` and
        /// `split_60_40`. For any dataset also a fold sampled with the seed, as `fold_2_of_10`. For
        /// a `csv` also a fold of its column `data.csv.fold_column`: `fold_a` tests on the images
        /// of fold `a`.
        pub split: String = "official".into(),
        /// Seed of what the dataset does not fix: folds, hold-outs and synthetic faces; `null` uses
        /// `seed`. Set it to vary only the seed of the training.
        pub seed: Option<u64> = None,
        /// Fraction of the training images held out for validation where the dataset defines none.
        pub val_fraction: f64 = 0.1,
        /// Fraction of all images held out for the test, only for a `csv` or `folder` without
        /// splits.
        pub test_fraction: f64 = 0.1,
        /// Read each rater's score from the dataset's spreadsheet (`scut_fbp5500`:
        /// `All_Ratings.xlsx`; `mebeauty`: `scores/generic_scores_all_2022.xlsx`), for `train.loss:
        /// label_distribution`. A `csv` names its columns in `data.csv.votes_columns`.
        pub votes: bool = false,
        /// An image that is in two splits: `error` refuses to train, `drop` removes it from train
        /// (and from val, if test has it), `allow` keeps it.
        pub overlap: Overlap = Overlap::Error,
        /// Decode every file once before training. Unreadable ones are skipped and counted.
        pub verify: bool = true,
        /// Side of the square image that the model sees, in pixels.
        pub image_size: i64 = 224,
        /// How an image becomes square: `squash`, `crop` (short side, then center) or `pad`.
        pub resize: Resize = Resize::Squash,
        /// Length, in pixels, to which `crop` scales the short side before it cuts out the center,
        /// for example 256 for 224; `null` uses `image_size`.
        pub short_side: Option<u32> = None,
        /// Color of the border of padded images and behind transparent pixels: red, green and blue
        /// from 0 to 255.
        pub background: [u8; 3] = [124, 116, 104],
        /// `bicubic` or `bilinear`, both antialiased.
        pub interpolation: Interpolation = Interpolation::Bicubic,
        /// How the faces in the images are aligned, as `--convention` of `vmbeauty data crop` names
        /// it: `mebeauty`, `scut` or `tight`. `predict --crop` crops alike, and exports say so.
        /// `null` is how the dataset's own crops are.
        pub face_alignment: Option<FaceAlignment> = None,
        /// `{mean: [r, g, b], std: [r, g, b]}` for pixels from 0 to 1; `null` uses what each
        /// backbone's preset was trained with.
        pub normalize: Option<Normalize> = None,
        /// Threads that decode and augment. The images and their order do not depend on the number.
        pub workers: usize = 2,
        /// Where decoded images are kept between epochs: `none`, `memory`, or `disk`, which other
        /// runs use too.
        pub cache: Cache = Cache::None,
        /// Folder of the `disk` cache, and of the features of frozen backbones (`features/` in it);
        /// several processes may use the same one. `null` is `vm-beautynet/images` and
        /// `vm-beautynet/features` in the user's cache folder.
        pub cache_dir: Option<PathBuf> = None,
        /// In evaluation, average the predictions of each image and its mirror image.
        pub test_time_flip: bool = false,
        /// Random changes to training images.
        pub augment: AugmentConfig = AugmentConfig::default(),
        /// Columns of a `csv` dataset.
        pub csv: CsvConfig = CsvConfig::default(),
        /// Sizes of the `synthetic` dataset.
        pub synthetic: SyntheticConfig = SyntheticConfig::default(),
    }
}

section! {
    /// Column names of a `csv` dataset.
    pub struct CsvConfig {
        /// What separates the columns: `auto`, `comma`, `semicolon`, `tab` or `bar`, or the quoted
        /// character. `auto` is what a first line such as `sep=;` states, or else the one with
        /// which the header has the columns below. Where it is not a comma, numbers may have a
        /// decimal comma.
        pub delimiter: Delimiter = Delimiter::Auto,
        /// Path of the image, relative to the CSV file's folder or to `image_dir`.
        pub image_column: String = "image".into(),
        /// Folder of the images, relative to the CSV file's folder; `null` is that folder.
        pub image_dir: Option<PathBuf> = None,
        /// Rating of the image.
        pub score_column: String = "score".into(),
        /// `train`, `val` or `test`. Without this column the split is sampled with the seed.
        pub split_column: String = "split".into(),
        /// Group of the image, for results by group. May be missing.
        pub group_column: String = "group".into(),
        /// Person in the image: images of one person are never on both sides of a split sampled
        /// with the seed. May be missing.
        pub person_column: String = "person".into(),
        /// Fold of the image, for `data.split: fold_NAME`, which tests on the images of the fold
        /// NAME, and for `vmbeauty cross-validate --folds column`. May be missing.
        pub fold_column: String = "fold".into(),
        /// Weight of the image in every loss, 0 or more. May be missing.
        pub weight_column: String = "weight".into(),
        /// Columns with each rater's score of the image; `rater_*` matches every column that begins
        /// with `rater_`. Empty cells are raters who gave no score. The mean of the votes is the
        /// score where there is no score column.
        pub votes_columns: Vec<String> = Vec::new(),
    }
}

section! {
    /// Sizes of the `synthetic` dataset.
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

names! {
    /// What separates the columns of a CSV file.
    pub enum Delimiter {
        /// What the header shows.
        Auto = "auto",
        /// A comma.
        Comma = "comma" | ",",
        /// A semicolon.
        Semicolon = "semicolon" | ";",
        /// A tab.
        Tab = "tab" | "\t",
        /// A vertical bar.
        Bar = "bar" | "|",
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

impl KeyType for Normalize {
    fn schema() -> serde_json::Value {
        let channels = <[f32; 3]>::schema();
        serde_json::json!({
            "type": "object",
            "properties": {"mean": channels, "std": channels},
            "required": ["mean", "std"],
            "additionalProperties": false,
        })
    }
}

names! {
    /// The dataset.
    pub enum DatasetName {
        /// Synthetic faces.
        Synthetic = "synthetic",
        /// MEBeauty, release of 2021.
        Mebeauty = "mebeauty",
        /// SCUT-FBP5500 v2.
        ScutFbp5500 = "scut_fbp5500",
        /// A CSV file of `image,score`.
        Csv = "csv",
        /// Folders named for the score of their images.
        Folder = "folder",
    }
}

/// One of several folds sampled with the seed: in a config, `fold_2_of_10`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fold {
    /// The number of the fold, from 1.
    pub number: usize,
    /// The number of folds.
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
    /// Returns the published splits of the dataset.
    pub fn splits(self) -> &'static [&'static str] {
        match self {
            Self::ScutFbp5500 => &["fold_1", "fold_2", "fold_3", "fold_4", "fold_5", "split_60_40"],
            Self::Synthetic | Self::Mebeauty | Self::Csv | Self::Folder => &["official"],
        }
    }
}

names! {
    /// How to treat an image that is in two splits.
    pub enum Overlap {
        /// Refuse to train.
        Error = "error",
        /// Remove it from train if it is in val or test, from val if it is in test.
        Drop = "drop",
        /// Keep it in both.
        Allow = "allow",
    }
}

names! {
    /// How an image becomes square.
    pub enum Resize {
        /// Scale each side independently.
        Squash = "squash",
        /// Scale the short side, cut the center.
        Crop = "crop",
        /// Scale the long side, fill the rest.
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
    /// How a crop shows a face: `faces::Convention` has the numbers.
    pub enum FaceAlignment {
        /// As the crops of MEBeauty do.
        Mebeauty = "mebeauty",
        /// As SCUT-FBP5500 does.
        Scut = "scut",
        /// Eyes, nose and mouth fill the crop.
        Tight = "tight",
    }
}

names! {
    /// Where decoded images are kept between epochs.
    pub enum Cache {
        /// Nowhere: decode again.
        None = "none",
        /// In memory.
        Memory = "memory",
        /// In files.
        Disk = "disk",
    }
}

impl DataConfig {
    /// Returns the fold that `split` names, if it is one sampled with the seed.
    pub fn fold(&self) -> Option<Fold> {
        self.split.parse().ok()
    }

    /// Returns how the faces in the images are aligned, where the config or the dataset says so.
    pub fn face_alignment(&self) -> Option<FaceAlignment> {
        let of_dataset = match self.dataset {
            DatasetName::Mebeauty => Some(FaceAlignment::Mebeauty),
            DatasetName::ScutFbp5500 => Some(FaceAlignment::Scut),
            _ => None,
        };
        self.face_alignment.or(of_dataset)
    }

    pub(super) fn check(&self, checks: &mut Checks) {
        let dataset = self.dataset;
        if dataset != DatasetName::Synthetic && self.root == Path::new("") {
            let what = if dataset == DatasetName::Csv { "CSV file" } else { "folder" };
            let rest = format_args!(" is missing: the dataset {dataset} needs its {what}");
            checks.fail("root", rest);
        }
        let splits = dataset.splits();
        if self.split.starts_with("fold_") && self.split.contains("_of_") {
            if let Err(problem) = self.split.parse::<Fold>() {
                checks.fail("split", format_args!(" {problem}"));
            }
        } else if dataset == DatasetName::Csv && self.split.starts_with("fold_") {
            // The table has the names of its folds.
        } else if !splits.contains(&self.split.as_str()) {
            let problem = names::unknown(&self.split, splits);
            checks.fail("split", format_args!(" of {dataset} {problem}"));
        }
        checks.fraction("val_fraction", self.val_fraction);
        checks.fraction("test_fraction", self.test_fraction);
        let fractions = [self.val_fraction, self.test_fraction];
        let valid = fractions.iter().all(|fraction| (0.0..1.0).contains(fraction));
        if valid && fractions.iter().sum::<f64>() >= 1.0 {
            let rest = " and data.val_fraction leave no training images: their sum must be less \
                        than 1";
            checks.fail("test_fraction", rest);
        }
        checks.size_up_to("image_size", MAX_SIDE, self.image_size);
        if let Some(short_side) = self.short_side {
            let holds = (self.image_size..=MAX_SIDE).contains(&i64::from(short_side));
            let rule = format_args!("between data.image_size and {MAX_SIDE}");
            checks.require(holds, "short_side", rule, short_side);
        }
        checks.threads("workers", self.workers);
        if let Some(Normalize { mean, std }) = self.normalize {
            let holds = mean.iter().all(|value| value.is_finite());
            checks.require(holds, "normalize.mean", "finite numbers", format_args!("{mean:?}"));
            let holds = std.iter().all(|value| *value >= f32::MIN_POSITIVE && value.is_finite());
            let rule = "finite numbers above 0";
            checks.require(holds, "normalize.std", rule, format_args!("{std:?}"));
        }
        checks.within("augment", |checks| self.augment.check(checks));
        checks.within("csv", |checks| self.csv.check(checks));
        checks.size("synthetic.train", self.synthetic.train);
        checks.size("synthetic.val", self.synthetic.val);
        checks.size("synthetic.test", self.synthetic.test);
        checks.not_negative("synthetic.rater_noise", self.synthetic.rater_noise);
    }
}

impl CsvConfig {
    fn check(&self, checks: &mut Checks) {
        let columns = [
            ("image_column", &self.image_column),
            ("score_column", &self.score_column),
            ("split_column", &self.split_column),
            ("group_column", &self.group_column),
            ("person_column", &self.person_column),
            ("fold_column", &self.fold_column),
            ("weight_column", &self.weight_column),
        ];
        for (index, (key, column)) in columns.iter().enumerate() {
            checks.require(!column.is_empty(), key, "the name of a column", "empty");
            for (other, name) in &columns[..index] {
                if name == column {
                    let rest = format_args!(" and data.csv.{other} are the same column, {column}");
                    checks.fail(key, rest);
                }
            }
        }
        let holds = self.votes_columns.iter().all(|column| !column.is_empty());
        checks.require(holds, "votes_columns", "names of columns", "an empty one");
    }
}
