//! `train`: loss, optimizer, schedule and the training loop.

use super::checks::Checks;
use super::freeze::FreezeConfig;
use super::names::names;
use super::optimizer::{OptimizerConfig, ScheduleConfig};
use super::section::section;

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
        /// the memory of one. The `pearson` loss, which is not such a mean, is averaged over the
        /// batches.
        pub accumulate: usize = 1,
        /// `mse`, `huber`, `l1`, `pearson` (1 - PC over the batch) or `label_distribution` (from
        /// the raters' votes). All but `pearson` are means over the images, weighted by the images'
        /// weights.
        pub loss: Loss = Loss::Mse,
        /// Error above which `huber` grows linearly, in standard deviations of the training scores.
        pub huber_delta: f64 = 1.0,
        /// Weight of each branch's own loss, which is added to that of the ensemble: the same loss
        /// of a linear head on the branch's feature vector (the losses of Gradient-Blending, arXiv
        /// 1905.12681, with one weight for both branches). Each branch then trains on its own, even
        /// where the fusion prefers the other, and the run reports the PC of both. With 0, and in a
        /// model of one branch, there are no such heads.
        pub branch_loss: f64 = 0.0,
        /// Gradient modulation (OGM-GE, arXiv 2203.15332), which slows down the branch that is
        /// ahead: where the loss of a branch's own head is lower than the other's by a factor ρ >
        /// 1, its backbone's gradient is multiplied by 1 − tanh(α ρ), and noise is added to the
        /// gradients of both. The value is α. It needs `branch_loss`, and an optimizer that does
        /// not normalize gradients, as `sgd`. `null` leaves gradients as they are.
        pub gradient_modulation: Option<f64> = None,
        /// The `label_distribution` loss.
        pub label_distribution: LabelDistributionConfig = LabelDistributionConfig::default(),
        /// The optimizer and its learning rates.
        pub optimizer: OptimizerConfig = OptimizerConfig::default(),
        /// The learning-rate schedule.
        pub schedule: ScheduleConfig = ScheduleConfig::default(),
        /// The frozen layers.
        pub freeze: FreezeConfig = FreezeConfig::default(),
        /// Decay of an exponential moving average (EMA) of the weights, for example 0.999 (less in
        /// the first steps). The EMA weights are evaluated and saved instead of the trained ones;
        /// `null` keeps none.
        pub ema_decay: Option<f64> = None,
        /// Largest norm of all gradients together; `null` does not clip.
        pub clip_grad_norm: Option<f64> = Some(1.0),
        /// Activation checkpointing: store only the tokens between the backbones' blocks, and run
        /// each block again in backward. Less memory, more time, the same results.
        pub checkpoint_activations: bool = false,
        /// `float32`; `bf16` or `fp16` (mixed precision: most matrix products in it, the rest and
        /// all weights in float32; fp16 with a loss scale); `auto`: bf16 where it is faster, on
        /// GPUs of compute capability 8.0 or later (older ones have no tensor cores for it) and on
        /// CPUs with AVX512-BF16 if a backbone's `embed_dim` is 192 or more and feature vectors are
        /// not cached; float32 elsewhere. Validation is always in float32.
        pub precision: Precision = Precision::Float32,
        /// Let GPUs round the operands of float32 products to TF32, with 10 bits after the point
        /// instead of 23, for their tensor cores. `false`: float32 is float32, on every device.
        pub tf32: bool = false,
        /// Train the same weights bit for bit in every run on one GPU, also when resumed: cuDNN and
        /// the ViT's attention use only algorithms that add in a fixed order. They are slower, and
        /// attention then stores its weights, batch × heads × tokens² numbers in each block. The
        /// selective scan always adds in a fixed order, and so does everything on a CPU.
        pub deterministic: bool = false,
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
        /// Epochs between images of the largest errors in TensorBoard: up to twelve validation
        /// images each time, and once more after the last of `epochs`; `null` writes none.
        pub errors_every: Option<usize> = Some(10),
        /// Threads for computing on the CPU; `null` is one per core.
        pub threads: Option<usize> = None,
        /// Images that one CPU thread computes at a time: a batch is divided into slices of this
        /// size, and their gradients are added in order, so that weights do not depend on the
        /// number of threads. Smaller slices occupy more threads and need less memory, larger ones
        /// less overhead. `null` is a quarter of a batch of up to 16 images, 4 up to 256, and a
        /// 64th of a larger one; 64 where cached feature vectors are trained on.
        pub slice: Option<usize> = None,
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
        checks.not_negative("branch_loss", self.branch_loss);
        if let Some(alpha) = self.gradient_modulation {
            checks.positive("gradient_modulation", alpha);
            if self.branch_loss == 0.0 {
                let rest = format_args!(
                    " {alpha} compares the losses of the branches' own heads, and \
                     train.branch_loss is 0: set that to 1, or remove this key"
                );
                checks.fail("gradient_modulation", rest);
            }
        }
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
        checks.within("freeze", |checks| self.freeze.check(checks));
        if let Some(epochs) = self.explain_every {
            checks.size("explain_every", epochs);
            if !self.tensorboard {
                let rest = " renders figures for TensorBoard, and train.tensorboard is false: set \
                            that to true, or remove this key";
                checks.fail("explain_every", rest);
            }
        }
        if let Some(epochs) = self.errors_every {
            checks.size("errors_every", epochs);
        }
        if let Some(threads) = self.threads {
            checks.threads("threads", threads);
        }
        if let Some(slice) = self.slice {
            checks.size("slice", slice);
        }
    }
}

section! {
    /// The `label_distribution` loss, which trains on the raters' votes.
    pub struct LabelDistributionConfig {
        /// Number of ratings, evenly spaced over `range`, whose probabilities the head predicts;
        /// their mean is the prediction. The number of choices that a rater had is enough: 5 for 1
        /// to 5. A vote between two ratings counts for both, by distance.
        pub bins: i64 = 10,
        /// The lowest and the highest rating; `null` uses those of the training images' votes.
        pub range: Option<[f64; 2]> = None,
        /// Weight of the absolute error of the mean, in standard deviations of the training scores,
        /// relative to the divergence from the votes. Images without votes have this term only.
        pub expectation_weight: f64 = 1.0,
    }
}

names! {
    /// The loss that training minimizes.
    pub enum Loss {
        /// Mean squared error.
        Mse = "mse",
        /// Squared error up to `train.huber_delta`, linear beyond (Huber 1964).
        Huber = "huber",
        /// Mean absolute error.
        L1 = "l1",
        /// One minus Pearson's correlation over the batch.
        Pearson = "pearson",
        /// Divergence of a predicted distribution from that of the raters' votes, and the error of
        /// its mean (DLDL-v2, Gao et al., IJCAI 2018, after arXiv 1611.01731).
        LabelDistribution = "label_distribution",
    }
}

impl LabelDistributionConfig {
    pub(super) fn check(&self, checks: &mut Checks) {
        checks.size_up_to("bins", 1024, self.bins);
        checks.require(self.bins != 1, "bins", "at least 2", self.bins);
        if let Some([low, high]) = self.range {
            let holds = low < high && low.is_finite() && high.is_finite();
            let rule = "two numbers, the smaller first";
            checks.require(holds, "range", rule, format_args!("[{low}, {high}]"));
        }
        checks.not_negative("expectation_weight", self.expectation_weight);
    }
}

section! {
    /// When a run ends before its last epoch.
    pub struct EarlyStoppingConfig {
        /// Ends the run after this many epochs in a row without a better `train.monitor`; `null`
        /// never does.
        pub patience: Option<usize> = None,
        /// Smallest improvement that counts, in the metric's own units.
        pub min_delta: f64 = 0.0,
    }
}

names! {
    /// The monitored metric, which chooses the best epoch.
    pub enum Monitor {
        /// Pearson correlation on the validation images; higher is better.
        Pc = "pc",
        /// Mean absolute error on them; lower is better.
        Mae = "mae",
        /// Root mean square error on them; lower is better.
        Rmse = "rmse",
        /// Spearman's rank correlation on them; higher is better.
        Srcc = "srcc",
        /// Mean loss over the epoch's training images; lower is better.
        TrainLoss = "train_loss",
    }
}

impl Monitor {
    /// Returns the score of a value, of which more is better: a metric of which less is better is
    /// negated. The score of a score is the value.
    pub fn score(self, value: f64) -> f64 {
        match self {
            Self::Pc | Self::Srcc => value,
            Self::Mae | Self::Rmse | Self::TrainLoss => -value,
        }
    }

    /// Returns the name of the metric in a sentence.
    pub fn title(self) -> &'static str {
        match self {
            Self::Pc => "validation PC",
            Self::Mae => "validation MAE",
            Self::Rmse => "validation RMSE",
            Self::Srcc => "validation SRCC",
            Self::TrainLoss => "training loss",
        }
    }

    /// Returns the name of the metric over a column.
    pub fn heading(self) -> &'static str {
        match self {
            Self::Pc => "val PC",
            Self::Mae => "val MAE",
            Self::Rmse => "val RMSE",
            Self::Srcc => "val SRCC",
            Self::TrainLoss => "train loss",
        }
    }
}

impl EarlyStoppingConfig {
    pub(super) fn check(&self, checks: &mut Checks) {
        if let Some(patience) = self.patience {
            checks.size("patience", patience);
        }
        checks.not_negative("min_delta", self.min_delta);
    }
}
