//! Logging of a training run to TensorBoard.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use tch::{Kind, Tensor};

use super::largest_errors::largest_errors;
use super::run_texts::{hparams, run_texts};
use super::scatter::scatter;
use super::validation_maps::ValidationMaps;
use super::{TensorBoard, Warn};
use crate::data::{HostBatch, preview};
use crate::eval::metrics::{Metric, Metrics};
use crate::models::BeautyNet;
use crate::models::summary::module_of;
use crate::run::memory::resident_bytes;
use crate::run::{EpochRecord, RunDir, link_tensorboard};
use crate::train::{AfterEpoch, Observer, Start, StepRecord, Validated};

/// Maximum number of images of the first batch that are shown, and their number in a row.
const TILES: usize = 32;
const TILE_COLUMNS: usize = 8;

/// Logs the scalars of every step and epoch, the first batch, the predictions and the largest
/// errors as images, weights and gradients as histograms, config, data and environment as texts,
/// the config as hyperparameters and, if `train.explain_every` is set, attribution maps of
/// validation images.
pub struct TrainingLog {
    root: PathBuf,
    /// A folder that holds the run's, where it is linked from.
    above: Option<PathBuf>,
    warn: Warn,
    board: TensorBoard,
    steps: u64,
    epochs: usize,
    maps: Option<ValidationMaps>,
    /// Epochs between images of the largest errors; `None` writes none.
    errors_every: Option<usize>,
}

impl TrainingLog {
    /// Logs to an event file in the run directory `root`, with a link in a folder `above` it, if
    /// one is given; a failure is reported to `warn`, once.
    pub fn new(root: &Path, above: Option<&Path>, warn: Warn) -> Self {
        Self {
            root: root.to_path_buf(),
            above: above.map(Path::to_path_buf),
            warn,
            board: TensorBoard::off(),
            steps: 0,
            epochs: 0,
            maps: None,
            errors_every: None,
        }
    }

    /// Logs metrics as `PREFIXpc` and so on, but for undefined ones.
    fn metrics(&mut self, prefix: &str, metrics: &Metrics) {
        for metric in Metric::ALL {
            self.finite(&format!("{prefix}{}", metric.name()), metric.of(metrics));
        }
    }

    fn finite(&mut self, tag: &str, value: f64) {
        if value.is_finite() {
            self.board.scalar(tag, self.steps, value);
        }
    }

    /// Logs the images with the largest errors, if they are due. A failure is a warning, and turns
    /// them off, so that training continues.
    fn largest_errors(&mut self, validated: &Validated) {
        let Some(every) = self.errors_every.filter(|_| self.board.is_on()) else { return };
        if !validated.epoch.is_multiple_of(every.max(1)) && validated.epoch != self.epochs {
            return;
        }
        match largest_errors(validated) {
            Ok(image) => self.board.image("val/largest_errors", validated.step, &image),
            Err(error) => {
                self.errors_every = None;
                self.board.missing("val/largest_errors", &error);
            }
        }
    }

    /// Logs weights and gradients by module.
    fn histograms(&mut self, net: &BeautyNet) {
        let (mut weights, mut gradients) = (BTreeMap::new(), BTreeMap::<_, Vec<Tensor>>::new());
        for (name, parameter) in net.parameters() {
            // Frozen weights do not change, and neither does the scale of the scores.
            if parameter.kind() != Kind::Float || !parameter.requires_grad() {
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
        let folder = RunDir::tensorboard_in(&self.root);
        self.board = TensorBoard::create_or_warn(&folder, Rc::clone(&self.warn));
        if let Some(above) = self.above.as_ref().filter(|_| self.board.is_on()) {
            link_tensorboard(above, &self.root);
        }
        self.steps = start.steps_done;
        self.epochs = start.epochs;
        self.maps = (start.config.train.explain_every).map(|every| ValidationMaps { every });
        self.errors_every = start.config.train.errors_every;
        if start.resumed {
            // The interrupted run may have logged steps after its last checkpoint.
            self.board.restart(self.steps + 1);
        }
        if self.steps == 0 {
            for (tag, text) in run_texts(start) {
                self.board.text(tag, 0, &text);
            }
            match hparams(start.config) {
                Ok(keys) => self.board.session_start(&keys),
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
        self.largest_errors(validated);
        if let Some(maps) = &mut self.maps {
            maps.log(&mut self.board, validated);
        }
    }

    fn epoch(&mut self, record: &EpochRecord) {
        self.steps = record.step;
        self.metrics("val/", &record.val);
        self.finite("val/loss", record.val_loss);
        if let Some([vit, mamba]) = record.branch_pc {
            self.finite("branches/pc_vit", vit);
            self.finite("branches/pc_mamba", mamba);
        }
        self.finite("system/memory_gib", resident_bytes().map_or(f64::NAN, gibibytes));
        let board = &mut self.board;
        board.scalar("train/epoch_loss", record.step, record.train_loss);
        board.scalar("system/images_per_second", record.step, record.images_per_second);
        board.scalar("system/data_wait", record.step, record.data_wait);
        board.scalar("system/epoch_seconds", record.step, record.seconds);
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
            // Validation has a curve of the epochs, too.
            let prefix = if *split == "val" { "val/best_" } else { "test/" };
            self.metrics(prefix, metrics);
        }
        self.board.session_end(self.steps);
        self.board.flush();
    }
}

fn gibibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1u32 << 30)
}
