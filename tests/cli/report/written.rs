//! Run directories written by hand, with known numbers.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::sandbox::{SMALL, Sandbox};

/// A row of predictions: image, target, prediction, group.
pub(super) type Row<'a> = (&'a str, f64, f64, &'a str);

/// A finished run; `test` are its test images, and `set` overrides keys of the small config.
pub(super) struct Run<'a> {
    pub set: &'a str,
    pub seed: u64,
    pub val: &'a [Row<'a>],
    pub test: Option<&'a [Row<'a>]>,
}

impl Run<'_> {
    /// Writes the run into a folder of the sandbox.
    pub(super) fn write(&self, sandbox: &Sandbox, folder: &str) {
        let folder = sandbox.path(folder);
        fs::create_dir_all(&folder).unwrap();
        write_config(&folder, self.set, self.seed);
        predictions(&folder, "val", self.val);
        if let Some(test) = self.test {
            predictions(&folder, "test", test);
        }
        let baseline = json!({
            "constant": {"pc": null, "mae": 0.75, "rmse": 0.8, "srcc": null, "n": 4},
            "group": {"pc": 0.125, "mae": 0.75, "rmse": 0.8, "srcc": 0.1, "n": 4},
            "linear": {"pc": 0.25, "mae": 0.7, "rmse": 0.75, "srcc": 0.2, "n": 4},
        });
        let metrics = json!({"pc": 0.5, "mae": 0.5, "rmse": 0.5, "srcc": 0.5, "n": 4});
        let mut summary = json!({
            "val": metrics,
            "baselines": {"val": baseline},
            "epochs": 2, "best_epoch": 2, "monitor": "pc", "stopped_early": false, "seconds": 90.0,
            "skipped_steps": 0, "images_per_second": 12.5,
            "parameters": 4321, "images": [8, self.val.len(), self.test.map_or(0, <[Row]>::len)], "skipped_rows": 0,
            "seed": self.seed, "version": "0.1.0", "commit": "abc", "libtorch": "2.13.0",
            "host": "host", "system": "linux x86_64", "device": "cpu", "threads": 1,
        });
        if self.test.is_some() {
            summary["test"] = metrics;
            summary["baselines"]["test"] = baseline;
        }
        fs::write(folder.join("summary.json"), summary.to_string()).unwrap();
        let epochs: String = (1..=2).map(|epoch| epoch_line(epoch) + "\n").collect();
        fs::write(folder.join("metrics.jsonl"), epochs).unwrap();
    }
}

/// Writes the config of a run that has started.
pub(super) fn write_config(folder: &Path, set: &str, seed: u64) {
    fs::create_dir_all(folder).unwrap();
    let mut config: serde_yaml::Value = serde_yaml::from_str(SMALL).unwrap();
    config["seed"] = seed.into();
    config["data"]["seed"] = 7.into();
    for pair in set.split_whitespace() {
        let (key, value) = pair.split_once('=').unwrap();
        let mut place = &mut config;
        for part in key.split('.') {
            place = &mut place[part];
        }
        *place = serde_yaml::from_str(value).unwrap();
    }
    let text = serde_yaml::to_string(&config).unwrap();
    fs::write(folder.join("config.yaml"), text).unwrap();
}

fn epoch_line(epoch: usize) -> String {
    json!({
        "epoch": epoch, "step": epoch, "train_loss": 1.0 / epoch as f64,
        "val_loss": 1.5 / epoch as f64,
        "val": {"pc": 0.1 * epoch as f64, "mae": 0.5, "rmse": 0.6, "srcc": 0.1, "n": 4},
        "lr": 0.001, "backbone_lr": 0.001, "fusion_weights": null, "images_per_second": 12.5, "data_wait": 0.0,
        "seconds": 1.0, "skipped_steps": 0, "best": true,
    })
    .to_string()
}

fn predictions(folder: &Path, split: &str, rows: &[Row]) {
    let mut csv = csv::Writer::from_path(folder.join(format!("predictions_{split}.csv"))).unwrap();
    let grouped = rows.iter().any(|row| !row.3.is_empty());
    let group = grouped.then_some("group");
    let header = ["image", "target", "prediction"].into_iter().chain(group);
    csv.write_record(header).unwrap();
    for (image, target, prediction, group) in rows {
        let mut record = vec![image.to_string(), target.to_string(), prediction.to_string()];
        record.extend(grouped.then(|| group.to_string()));
        csv.write_record(record).unwrap();
    }
    csv.flush().unwrap();
}

/// Four validation images.
pub(super) const VAL: [Row; 4] = [
    ("val_a.png", 1.0, 1.5, ""),
    ("val_b.png", 2.0, 2.0, ""),
    ("val_c.png", 3.0, 2.5, ""),
    ("val_d.png", 4.0, 4.0, ""),
];

/// Twenty-four test images of four groups, whose predictions are `off` too high for women and too
/// low for men.
pub(super) fn grouped(off: f64) -> Vec<Row<'static>> {
    const NAMES: [&str; 24] = [
        "t00", "t01", "t02", "t03", "t04", "t05", "t06", "t07", "t08", "t09", "t10", "t11", "t12",
        "t13", "t14", "t15", "t16", "t17", "t18", "t19", "t20", "t21", "t22", "t23",
    ];
    const GROUPS: [&str; 4] = ["female/asian", "male/asian", "female/black", "male/black"];
    let row = |(at, name): (usize, &'static str)| {
        let target = 1.0 + at as f64 / 6.0;
        let sign = if at % 2 == 0 { 1.0 } else { -1.0 };
        (name, target, target + sign * off, GROUPS[at % 4])
    };
    NAMES.into_iter().enumerate().map(row).collect()
}

/// Reads a table's rows as maps from column to text.
pub(super) fn csv_rows(path: &Path) -> Vec<std::collections::HashMap<String, String>> {
    let mut csv =
        csv::Reader::from_path(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    csv.deserialize().map(Result::unwrap).collect()
}

/// Returns a model of the first leaderboard by name.
pub(super) fn model<'a>(report: &'a Value, name: &str) -> &'a Value {
    let models = report["leaderboards"][0]["models"].as_array().unwrap();
    let found = models.iter().find(|model| model["name"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {report:#}"))
}
