//! A training run in TensorBoard.

use std::path::PathBuf;

use super::tensorboard::TensorBoard;
use super::validation_maps::ValidationMaps;
use crate::eval::metrics::Metrics;
use crate::train::{EpochRecord, Observer, Start, StepRecord, Validated};

/// Writes the scalars of every step and epoch, the config as text, and maps of validation pictures where the config wants them.
pub struct TrainingLog {
    folder: PathBuf,
    board: TensorBoard,
    steps: u64,
    maps: Option<ValidationMaps>,
}

impl TrainingLog {
    /// Logs to an event file in this folder, which is made when the run begins.
    pub fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            board: TensorBoard::off(),
            steps: 0,
            maps: None,
        }
    }

    fn metrics(&mut self, split: &str, metrics: &Metrics) {
        let values = [
            ("pc", metrics.pc),
            ("mae", metrics.mae),
            ("rmse", metrics.rmse),
            ("srcc", metrics.srcc),
        ];
        for (name, value) in values.into_iter().filter(|(_, value)| value.is_finite()) {
            self.board
                .scalar(&format!("{split}/{name}"), self.steps, value);
        }
    }
}

impl Observer for TrainingLog {
    fn start(&mut self, start: &Start) {
        self.board = TensorBoard::create_or_warn(&self.folder);
        self.steps = start.steps_done;
        self.maps = (start.config.train.explain_every).map(ValidationMaps::every);
        if start.resumed {
            // What the killed run wrote after its last checkpoint does not count.
            self.board.restart(self.steps + 1);
        }
        if self.steps == 0
            && let Ok(yaml) = start.config.to_yaml()
        {
            self.board.text("config", 0, &format!("```yaml\n{yaml}```"));
        }
        self.board.flush();
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
        board.scalar(
            "speed/images_per_second",
            record.step,
            record.images_per_second,
        );
        board.scalar("speed/data_wait", record.step, record.data_wait);
        if let Some([vit, mamba]) = record.fusion_weights {
            board.scalar("fusion/weight_vit", record.step, vit);
            board.scalar("fusion/weight_mamba", record.step, mamba);
        }
        board.flush();
    }

    fn finish(&mut self, figures: &[(&str, Metrics)]) {
        for (split, metrics) in figures {
            self.metrics(&format!("best_{split}"), metrics);
        }
        self.board.flush();
    }
}
