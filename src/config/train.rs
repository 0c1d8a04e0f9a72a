//! `train`: loss, optimizer, schedule and the training loop.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::checks::Checks;
use super::loss::{LabelDistributionConfig, Loss};
use super::names::names;
use super::optimizer::OptimizerConfig;
use super::schedule::ScheduleConfig;
use super::section::{flow, section};
use super::stopping::{EarlyStoppingConfig, Monitor};

section! {
    /// The training.
    pub struct TrainConfig {
        /// Passes over the training images.
        pub epochs: usize = 30,
        /// Images per forward and backward pass, and per optimizer step unless `accumulate` is more
        /// than 1.
        pub batch_size: usize = 16,
        /// Batches per optimizer step. Their gradients add up to that of the mean loss over all
        /// their images: the same as one larger batch, except for rounding and random numbers, in
        /// the memory of one. The `pearson` loss, which is no such mean, is averaged over the
        /// batches.
        pub accumulate: usize = 1,
        /// `mse`, `huber`, `l1`, `pearson` (1 - PC over the batch) or `label_distribution` (from
        /// the raters' votes). All but `pearson` are means over the images, weighted by the images'
        /// weights.
        pub loss: Loss = Loss::Mse,
        /// Error above which `huber` grows linearly, in standard deviations of the training scores.
        pub huber_delta: f64 = 1.0,
        /// The `label_distribution` loss.
        pub label_distribution: LabelDistributionConfig = LabelDistributionConfig::default(),
        /// The optimizer and its learning rates.
        pub optimizer: OptimizerConfig = OptimizerConfig::default(),
        /// The learning-rate schedule.
        pub schedule: ScheduleConfig = ScheduleConfig::default(),
        /// The frozen layers.
        pub freeze: FreezeConfig = FreezeConfig::default(),
        /// Decay of an exponential moving average (EMA) of the weights, for example 0.999 (less in
        /// the first steps). The EMA weights are evaluated and saved in place of the trained ones;
        /// `null` keeps none.
        pub ema_decay: Option<f64> = None,
        /// Largest norm of all gradients together; `null` does not clip.
        pub clip_grad_norm: Option<f64> = Some(1.0),
        /// Activation checkpointing: store only the tokens between the backbones' blocks, and run
        /// each block again in backward. Less memory, more time, the same results.
        pub checkpoint_activations: bool = false,
        /// `float32`; `bf16` or `fp16` (mixed precision: matrix products in it, the rest and all
        /// weights in float32; fp16 with a loss scale); `auto`: bf16 on GPUs and on CPUs with
        /// AVX512-BF16, float32 on others. Validation is always in float32.
        pub precision: Precision = Precision::Float32,
        /// What happens when a loss or gradient is not finite: `stop` with a report of where it
        /// began, or `skip` the step.
        pub on_nan: OnNan = OnNan::Stop,
        /// Minutes between checkpoints within an epoch; `null` writes them at its end only.
        pub checkpoint_minutes: Option<f64> = Some(10.0),
        /// Monitored metric, whose best epoch is kept: `pc`, `mae`, `rmse` or `srcc` on the
        /// validation images, or `train_loss`.
        pub monitor: Monitor = Monitor::Pc,
        /// When the run ends before its last epoch.
        pub early_stopping: EarlyStoppingConfig = EarlyStoppingConfig::default(),
        /// Evaluate the best weights on the test images at the end. `false` leaves the test images
        /// unread, so that nothing is chosen by them: `vmbeauty evaluate RUN --split test` reads
        /// them once the choice is made.
        pub evaluate_test: bool = true,
        /// Write TensorBoard event files.
        pub tensorboard: bool = true,
        /// Epochs between explanations in TensorBoard: one figure of four validation images each
        /// time; `null` writes none.
        pub explain_every: Option<usize> = None,
        /// Threads for computing on the CPU; `null` is one per core.
        pub threads: Option<usize> = None,
    }
}

section! {
    /// The frozen layers.
    pub struct FreezeConfig {
        /// Frozen layers of the ViT: `all`, or a number of blocks from the first on, with the
        /// embeddings below them; 0 freezes nothing.
        pub vit: FrozenBlocks = FrozenBlocks::First(0),
        /// Frozen layers of the Vision Mamba, likewise.
        pub mamba: FrozenBlocks = FrozenBlocks::First(0),
        /// Epochs after which the layers are unfrozen; `null` keeps them frozen for the entire run.
        pub epochs: Option<usize> = None,
    }
}

/// The frozen layers of a backbone, from its embeddings upwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrozenBlocks {
    /// This many blocks and the embeddings below them; 0 freezes nothing.
    First(usize),
    /// The entire backbone.
    All,
}

impl Serialize for FrozenBlocks {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::First(blocks) => serializer.serialize_u64(*blocks as u64),
            Self::All => serializer.serialize_str("all"),
        }
    }
}

impl<'de> Deserialize<'de> for FrozenBlocks {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = serde_yaml::Value::deserialize(deserializer)?;
        match (value.as_u64(), value.as_str()) {
            (Some(blocks), _) => Ok(Self::First(blocks as usize)),
            (_, Some("all")) => Ok(Self::All),
            _ => Err(de::Error::custom(format!(
                "must be all or a number of blocks, is {}",
                flow(&value)
            ))),
        }
    }
}

names! {
    /// The type that the forward pass computes in.
    pub enum Precision {
        /// float32 throughout.
        Float32 = "float32",
        /// Matrix products in bfloat16.
        Bf16 = "bf16",
        /// Matrix products in float16, with a loss scale.
        Fp16 = "fp16",
        /// bfloat16 where it is faster.
        Auto = "auto",
    }
}

names! {
    /// What happens when a loss or gradient is not finite.
    pub enum OnNan {
        /// The run ends, with an error.
        Stop = "stop",
        /// The step is skipped and counted.
        Skip = "skip",
    }
}

impl TrainConfig {
    pub(super) fn check(&self, checks: &mut Checks) {
        checks.size("epochs", self.epochs);
        checks.size("batch_size", self.batch_size);
        checks.size("accumulate", self.accumulate);
        checks.positive("huber_delta", self.huber_delta);
        checks.within("label_distribution", |checks| self.label_distribution.check(checks));
        checks.within("optimizer", |checks| self.optimizer.check(checks));
        checks.within("schedule", |checks| self.schedule.check(&self.optimizer, checks));
        if let Some(decay) = self.ema_decay {
            checks.fraction("ema_decay", decay);
        }
        if let Some(norm) = self.clip_grad_norm {
            checks.positive("clip_grad_norm", norm);
        }
        if let Some(minutes) = self.checkpoint_minutes {
            checks.positive("checkpoint_minutes", minutes);
        }
        checks.within("early_stopping", |checks| self.early_stopping.check(checks));
        if let Some(epochs) = self.explain_every {
            checks.size("explain_every", epochs);
            if !self.tensorboard {
                checks.fail(
                    "explain_every",
                    " renders figures for TensorBoard, and train.tensorboard is false: set that to \
                     true, or remove this key",
                );
            }
        }
        if let Some(threads) = self.threads {
            checks.size("threads", threads);
        }
    }
}
