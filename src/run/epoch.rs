//! The lines of `metrics.jsonl`, one per epoch.

use serde::{Deserialize, Deserializer, Serialize};

use crate::config::{Branch, Monitor};
use crate::eval::metrics::{Metrics, nan_as_null};

/// One epoch of `vmbeauty train`: a line of `metrics.jsonl`. A number that is not finite is `null`
/// there, and NaN when it is read again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EpochRecord {
    /// The epoch, from 1.
    pub epoch: usize,
    /// Optimizer steps since the start of the run.
    pub step: u64,
    /// Mean loss over the epoch's images, on the scaled scores.
    #[serde(with = "nan_as_null")]
    pub train_loss: f64,
    /// The same loss on the validation images, with the weights after this epoch; NaN for label
    /// distributions.
    #[serde(default = "undefined", with = "nan_as_null")]
    pub val_loss: f64,
    /// Metrics on the validation images, with the weights after this epoch.
    pub val: Metrics,
    /// Learning rate of fusion and head at the epoch's last step.
    #[serde(with = "nan_as_null")]
    pub lr: f64,
    /// Learning rate of the backbones at the epoch's last step.
    #[serde(with = "nan_as_null")]
    pub backbone_lr: f64,
    /// Mean fusion weights of the ViT and the Mamba branch over the validation images; `None` for
    /// a model without both.
    #[serde(deserialize_with = "pair_or_none")]
    pub fusion_weights: Option<[f64; 2]>,
    /// PC on the validation images of the ViT's and the Mamba's own head, with the weights after
    /// this epoch; `None` without `train.branch_loss`.
    #[serde(default, deserialize_with = "pair_or_none", skip_serializing_if = "Option::is_none")]
    pub branch_pc: Option<[f64; 2]>,
    /// Training images per second, without validation.
    #[serde(with = "nan_as_null")]
    pub images_per_second: f64,
    /// Fraction of the training time that the steps waited for data.
    #[serde(with = "nan_as_null")]
    pub data_wait: f64,
    /// Wall time of the epoch with its validation, in seconds.
    #[serde(with = "nan_as_null")]
    pub seconds: f64,
    /// Steps that were skipped because their loss or gradient was not finite.
    pub skipped_steps: usize,
    /// Whether it is the best epoch so far.
    pub best: bool,
}

impl EpochRecord {
    /// Returns a metric by which epochs are compared; NaN where it is undefined.
    pub fn monitored(&self, monitor: Monitor) -> f64 {
        self.val.monitored(monitor).unwrap_or(self.train_loss)
    }
}

fn undefined() -> f64 {
    f64::NAN
}

/// Reads a pair of numbers, either of which may be `null`, or `null` for none.
fn pair_or_none<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<[f64; 2]>, D::Error> {
    let pair: Option<[Option<f64>; 2]> = Option::deserialize(deserializer)?;
    Ok(pair.map(|pair| pair.map(|number| number.unwrap_or(f64::NAN))))
}

/// One epoch of a backbone in `vmbeauty pretrain`: a line of `metrics.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PretrainEpochRecord {
    /// The backbone.
    pub branch: Branch,
    /// The epoch, from 1.
    pub epoch: usize,
    /// Optimizer steps since the start of the backbone's pretraining.
    pub step: u64,
    /// Mean squared error of the pixels of the training images' masked patches.
    #[serde(with = "nan_as_null")]
    pub train_loss: f64,
    /// The same error on the validation images after the epoch, with masks that never change.
    #[serde(with = "nan_as_null")]
    pub val_loss: f64,
    /// Mean squared error of the mean colors that the feature vector predicts, on the validation
    /// images; `None` without that task.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub val_color_loss: Option<f64>,
    /// Learning rate of the last step.
    #[serde(with = "nan_as_null")]
    pub lr: f64,
    /// Training images per second, without validation.
    #[serde(with = "nan_as_null")]
    pub images_per_second: f64,
    /// Fraction of the training time that the steps waited for data.
    #[serde(with = "nan_as_null")]
    pub data_wait: f64,
    /// Wall time of the epoch with its validation, in seconds.
    #[serde(with = "nan_as_null")]
    pub seconds: f64,
    /// Steps that were skipped because their loss or gradient was not finite.
    pub skipped_steps: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nulls_in_metrics_are_read_as_numbers_that_are_not_finite() {
        let line = r#"{"epoch":1,"step":2,"train_loss":null,"val_loss":null,
            "val":{"pc":null,"mae":null,"rmse":null,"srcc":null,"n":4},"lr":null,
            "backbone_lr":0.1,"fusion_weights":[null,0.5],
            "images_per_second":null,"data_wait":null,"seconds":null,"skipped_steps":0,
            "best":true}"#;
        let record: EpochRecord = serde_json::from_str(line).unwrap();
        assert!(record.train_loss.is_nan() && record.lr.is_nan() && record.val.mae.is_nan());
        // As versions before the validation loss wrote it.
        let older: EpochRecord =
            serde_json::from_str(&line.replacen("\"val_loss\":null,", "", 1)).unwrap();
        assert!(record.val_loss.is_nan() && older.val_loss.is_nan());
        assert!(matches!(record.fusion_weights, Some([vit, 0.5]) if vit.is_nan()));
        let written = serde_json::to_string(&record).unwrap();
        let spaces = |c: char| c == '\n' || c == ' ';
        assert_eq!(written, line.replace(spaces, ""));
        let none = line.replace("[null,0.5]", "null");
        let record: EpochRecord = serde_json::from_str(&none).unwrap();
        assert_eq!((record.fusion_weights, record.branch_pc), (None, None));
        let with_heads = none.replace("\"lr\":null,", "\"branch_pc\":[0.25,null],\"lr\":null,");
        let record: EpochRecord = serde_json::from_str(&with_heads).unwrap();
        assert!(matches!(record.branch_pc, Some([0.25, mamba]) if mamba.is_nan()));

        let line = r#"{"branch":"vit","epoch":1,"step":2,"train_loss":null,"val_loss":null,
            "lr":0.1,"images_per_second":null,"data_wait":0,"seconds":1,"skipped_steps":0}"#;
        let record: PretrainEpochRecord = serde_json::from_str(line).unwrap();
        assert!(record.train_loss.is_nan() && record.val_loss.is_nan());
    }
}
