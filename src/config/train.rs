//! `train`: loss, optimizer, schedule, and what surrounds them.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::checks::Checks;
use super::names::names;
use super::reference::flow;
use super::section::section;

section! {
    /// The training.
    pub struct TrainConfig {
        /// Passes over the training pictures.
        pub epochs: usize = 30,
        /// Pictures per step.
        pub batch_size: usize = 16,
        /// `mse`.
        pub loss: Loss = Loss::Mse,
        /// The optimizer and its rates.
        pub optimizer: OptimizerConfig = OptimizerConfig::default(),
        /// How the rates change over the run.
        pub schedule: ScheduleConfig = ScheduleConfig::default(),
        /// What is held still at the start.
        pub freeze: FreezeConfig = FreezeConfig::default(),
        /// Weight of the past in a moving average of the weights, which is measured and kept in
        /// their place (0.999, say; less in the first steps); `null` keeps none.
        pub ema_decay: Option<f64> = None,
        /// Largest norm of all gradients together; `null` does not clip.
        pub clip_grad_norm: Option<f64> = Some(1.0),
        /// Keep only the tokens between the backbones' blocks for backward, which runs each block
        /// again: less memory, more time, the same results.
        pub checkpoint_activations: bool = false,
        /// `float32`; `bf16` or `fp16` (mixed: matrix products in it, the rest and all weights in
        /// float32; fp16 with a loss scale); `auto`: bf16 on GPUs and on CPUs with AVX512-BF16,
        /// float32 on others. Validation is always in float32.
        pub precision: Precision = Precision::Float32,
        /// What happens when a loss or gradient is not finite: `stop`, with what is needed to see
        /// why, or `skip` the step.
        pub on_nan: OnNan = OnNan::Stop,
        /// Minutes between checkpoints within an epoch; `null` writes them at its end alone.
        pub checkpoint_minutes: Option<f64> = Some(10.0),
        /// Write TensorBoard event files.
        pub tensorboard: bool = true,
        /// Threads for computing on the CPU; `null` is one per core.
        pub threads: Option<usize> = None,
    }
}

section! {
    /// The optimizer and its rates.
    pub struct OptimizerConfig {
        /// `adamw`.
        pub name: OptimizerName = OptimizerName::Adamw,
        /// Learning rate after warm-up.
        pub lr: f64 = 1e-4,
        /// Learning rate of the two backbones; `null` is `lr`.
        pub backbone_lr: Option<f64> = None,
        /// Factor on the rate from each block of a backbone to the one below it, down to the
        /// embeddings; 1 is one rate for all.
        pub layer_decay: f64 = 1.0,
        /// Decoupled weight decay. Biases, norms, tokens, position embeddings and the scan's A
        /// and D are not decayed.
        pub weight_decay: f64 = 0.05,
        /// Decay rates of the two moments.
        pub betas: [f64; 2] = [0.9, 0.999],
        /// Added to the root of the second moment.
        pub eps: f64 = 1e-8,
    }
}

section! {
    /// What is held still at the start.
    pub struct FreezeConfig {
        /// How much of the ViT is held still: `all`, or a number of blocks from the first on, with
        /// the embeddings below them; 0 is nothing.
        pub vit: FrozenBlocks = FrozenBlocks::First(0),
        /// How much of the Vision Mamba is held still, likewise.
        pub mamba: FrozenBlocks = FrozenBlocks::First(0),
        /// Epochs for which it is; `null` is the whole run.
        pub epochs: Option<usize> = None,
    }
}

/// A part of a backbone, from its embeddings upwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrozenBlocks {
    /// This many blocks and the embeddings below them; 0 is nothing.
    First(usize),
    /// The whole backbone.
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

section! {
    /// How the rates change over the run.
    pub struct ScheduleConfig {
        /// `cosine`.
        pub name: ScheduleName = ScheduleName::Cosine,
        /// Epochs, or parts of one, in which the rate rises from 0.
        pub warmup_epochs: f64 = 2.0,
        /// Rate at the end.
        pub min_lr: f64 = 1e-6,
    }
}

names! {
    /// What training makes small.
    pub enum Loss {
        /// Mean square error.
        Mse = "mse",
    }
}

names! {
    /// What the forward pass computes in.
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
        /// The step is left out and counted.
        Skip = "skip",
    }
}

names! {
    /// The optimizer.
    pub enum OptimizerName {
        /// Adam with decoupled weight decay (arXiv 1711.05101).
        Adamw = "adamw",
    }
}

names! {
    /// The schedule after warm-up.
    pub enum ScheduleName {
        /// Half a cosine down to `min_lr` (arXiv 1608.03983, without restarts).
        Cosine = "cosine",
    }
}

impl OptimizerConfig {
    /// The learning rate of the two backbones.
    pub fn backbone_lr(&self) -> f64 {
        self.backbone_lr.unwrap_or(self.lr)
    }
}

impl TrainConfig {
    pub(super) fn check(&self, checks: &mut Checks) {
        checks.size("train.epochs", self.epochs);
        checks.size("train.batch_size", self.batch_size);
        self.optimizer.check(checks);

        let ScheduleConfig {
            warmup_epochs,
            min_lr,
            ..
        } = self.schedule;
        checks.not_negative("train.schedule.warmup_epochs", warmup_epochs);
        checks.not_negative("train.schedule.min_lr", min_lr);
        // A cosine from a rate below its end would rise. A backbone at 0 is at rest.
        for (key, lr) in [
            ("train.optimizer.lr", self.optimizer.lr),
            ("train.optimizer.backbone_lr", self.optimizer.backbone_lr()),
        ] {
            if lr > 0.0 && min_lr > lr {
                let rule = format!("at most {key}, {lr}");
                checks.require(false, "train.schedule.min_lr", rule, min_lr);
                break;
            }
        }
        if let Some(decay) = self.ema_decay {
            checks.fraction("train.ema_decay", decay);
        }
        if let Some(norm) = self.clip_grad_norm {
            checks.positive("train.clip_grad_norm", norm);
        }
        if let Some(minutes) = self.checkpoint_minutes {
            checks.positive("train.checkpoint_minutes", minutes);
        }
        if let Some(threads) = self.threads {
            checks.size("train.threads", threads);
        }
    }
}

impl OptimizerConfig {
    fn check(&self, checks: &mut Checks) {
        checks.positive("train.optimizer.lr", self.lr);
        if let Some(lr) = self.backbone_lr {
            checks.not_negative("train.optimizer.backbone_lr", lr);
        }
        let decay = self.layer_decay;
        let holds = 0.0 < decay && decay <= 1.0;
        checks.require(
            holds,
            "train.optimizer.layer_decay",
            "above 0 and at most 1",
            decay,
        );
        checks.not_negative("train.optimizer.weight_decay", self.weight_decay);
        checks.require(
            self.betas.iter().all(|beta| (0.0..1.0).contains(beta)),
            "train.optimizer.betas",
            "two numbers, each at least 0 and less than 1",
            format_args!("{:?}", self.betas),
        );
        checks.positive("train.optimizer.eps", self.eps);
    }
}
