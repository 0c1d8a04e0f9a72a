//! Logging of a training run to TensorBoard.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;

use tch::{Kind, Tensor};

use super::scatter::scatter;
use super::validation_maps::ValidationMaps;
use super::{TensorBoard, Warn};
use crate::data::{HostBatch, preview};
use crate::eval::metrics::{Metric, Metrics};
use crate::models::BeautyNet;
use crate::models::summary::module_of;
use crate::run::EpochRecord;
use crate::train::{AfterEpoch, Observer, Start, StepRecord, Validated};

/// Maximum number of images of the first batch that are shown, and their number in a row.
const TILES: usize = 32;
const TILE_COLUMNS: usize = 8;
/// Keys that affect where and how a run is trained, but not its result.
const NOT_COMPARED: [&str; 13] = [
    "name",
    "device",
    "data.root",
    "data.workers",
    "data.cache",
    "data.cache_dir",
    "train.evaluate_test",
    "train.explain_every",
    "train.tensorboard",
    "train.threads",
    "train.checkpoint_minutes",
    "train.checkpoint_activations",
    "train.deterministic",
];

/// Logs the scalars of every step and epoch, the first batch and the predictions as images, weights
/// and gradients as histograms, the config as text and as hyperparameters and, if
/// `train.explain_every` is set, attribution maps of validation images.
pub struct TrainingLog {
    folder: PathBuf,
    warn: Warn,
    board: TensorBoard,
    steps: u64,
    maps: Option<ValidationMaps>,
}

impl TrainingLog {
    /// Logs to an event file in this folder; a failure is reported to `warn`, once.
    pub fn new(folder: PathBuf, warn: Warn) -> Self {
        Self { folder, warn, board: TensorBoard::off(), steps: 0, maps: None }
    }

    fn metrics(&mut self, split: &str, metrics: &Metrics) {
        for metric in Metric::ALL {
            let value = metric.of(metrics);
            if value.is_finite() {
                self.board.scalar(&format!("{split}/{}", metric.name()), self.steps, value);
            }
        }
    }

    /// Logs weights and gradients by module.
    fn histograms(&mut self, net: &BeautyNet) {
        let (mut weights, mut gradients) = (BTreeMap::new(), BTreeMap::<_, Vec<Tensor>>::new());
        for (name, parameter) in net.parameters() {
            // The scale of the scores and the bins of a label distribution are not trained.
            if parameter.kind() != Kind::Float || name.starts_with("head.score_") {
                continue;
            }
            let module = module_of(&name).to_string();
            let gradient = parameter.grad();
            if gradient.defined() {
                gradients.entry(module.clone()).or_default().push(gradient);
            }
            weights.entry(module).or_insert_with(Vec::new).push(parameter);
        }
        for (kind, by_module) in [("weights", weights), ("gradients", gradients)] {
            for (module, tensors) in by_module {
                self.board.histogram(&format!("{kind}/{module}"), self.steps, &tensors);
            }
        }
    }
}

impl Observer for TrainingLog {
    fn start(&mut self, start: &Start) {
        self.board = TensorBoard::create_or_warn(&self.folder, Rc::clone(&self.warn));
        self.steps = start.steps_done;
        self.maps = (start.config.train.explain_every).map(|every| ValidationMaps { every });
        if start.resumed {
            // The interrupted run may have logged steps after its last checkpoint.
            self.board.restart(self.steps + 1);
        }
        if self.steps == 0 {
            if let Ok(yaml) = start.config.to_yaml() {
                self.board.text("config", 0, &format!("```yaml\n{yaml}```"));
            }
            match start.config.flat_keys() {
                Ok(mut keys) => {
                    keys.retain(|(key, _)| !NOT_COMPARED.contains(&key.as_str()));
                    self.board.session_start(&keys);
                }
                Err(error) => self.board.missing("hparams", &error.into()),
            }
        }
        self.board.flush();
    }

    fn first_step(&mut self, batches: &[HostBatch]) {
        if let Some(batch) = batches.first()
            && self.board.is_on()
        {
            let grid = preview::tiles(batch, TILES, TILE_COLUMNS);
            self.board.image("train/first_batch", 1, &grid);
            self.board.flush();
        }
    }

    fn step(&mut self, record: &StepRecord) {
        self.steps = record.step;
        for (tag, value) in [
            ("train/loss", record.loss),
            ("train/grad_norm", record.grad_norm),
            ("lr/head", record.lr),
            ("lr/backbone", record.backbone_lr),
        ] {
            self.board.scalar(tag, record.step, value);
        }
    }

    fn validated(&mut self, validated: &Validated) {
        if let Some(maps) = &mut self.maps {
            maps.log(&mut self.board, validated);
        }
    }

    fn epoch(&mut self, record: &EpochRecord) {
        self.steps = record.step;
        self.metrics("val", &record.val);
        let board = &mut self.board;
        board.scalar("train/epoch_loss", record.step, record.train_loss);
        board.scalar("speed/images_per_second", record.step, record.images_per_second);
        board.scalar("speed/data_wait", record.step, record.data_wait);
        if let Some([vit, mamba]) = record.fusion_weights {
            board.scalar("fusion/weight_vit", record.step, vit);
            board.scalar("fusion/weight_mamba", record.step, mamba);
        }
        board.flush();
    }

    fn after_epoch(&mut self, after: &AfterEpoch) {
        if !self.board.is_on() {
            return;
        }
        let image = scatter(after.predictions);
        self.board.image("val/predicted_vs_true", self.steps, &image);
        self.histograms(after.net);
        self.board.flush();
    }

    fn finish(&mut self, metrics: &[(&str, Metrics)]) {
        for (split, metrics) in metrics {
            self.metrics(&format!("best_{split}"), metrics);
        }
        self.board.session_end(self.steps);
        self.board.flush();
    }
}
