//! Checks that the values of a config are in range and fit each other.

use super::checks::Checks;
use super::names::is_plain;
use super::{
    BackboneShape, Branch, Config, ConfigError, DataConfig, DatasetName, FusionStrategy,
    HeadOutput, Loss, Normalize,
};

impl Config {
    /// Returns the shape of a branch; `None` if the fusion strategy does not use it. Returns an
    /// error that names the key whose value does not fit the preset.
    pub fn shape(&self, branch: Branch) -> Result<Option<BackboneShape>, ConfigError> {
        if !self.model.fusion.strategy.uses(branch) {
            return Ok(None);
        }
        let (key, backbone) = (format!("model.{branch}"), self.model.backbone(branch));
        let mut shape = backbone.resolve_as(&key, self.data.image_size)?;
        if let Some(Normalize { mean, std }) = self.data.normalize {
            (shape.mean, shape.std) = (mean, std);
        }
        Ok(Some(shape))
    }

    /// Returns what the head predicts, which the fusion strategy and the loss decide.
    pub fn head_output(&self) -> HeadOutput {
        match (self.model.fusion.strategy, self.train.loss) {
            (FusionStrategy::Score, _) => HeadOutput::Fused,
            (_, Loss::LabelDistribution) => {
                HeadOutput::Distribution { bins: self.train.label_distribution.bins }
            }
            _ => HeadOutput::Score,
        }
    }

    /// Returns whether each branch has its own head, which `train.branch_loss` trains.
    pub fn has_branch_heads(&self) -> bool {
        let strategy = self.model.fusion.strategy;
        self.train.branch_loss > 0.0 && Branch::ALL.iter().all(|&branch| strategy.uses(branch))
    }

    /// Checks that the branches take images of `data.image_size`, which the dataset provides. Not
    /// part of [`validate`](Self::validate), because `--input-tensor` takes other sizes. Returns an
    /// error that names the branch's key.
    pub fn check_image_sizes(&self) -> Result<(), ConfigError> {
        let mut checks = Checks::default();
        for &branch in Branch::ALL {
            let (key, shape) = (format!("model.{branch}.image_size"), self.shape(branch)?);
            let size = shape.map_or(self.data.image_size, |shape| shape.image_size);
            let rule = format!("data.image_size, {}", self.data.image_size);
            checks.require(size == self.data.image_size, &key, rule, size);
        }
        checks.finish()
    }

    /// Checks that every value is in range and that the values fit each other. Every config that
    /// [`Config::load`] returns has passed. Returns [`ConfigError::Invalid`] with every problem
    /// found.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let mut checks = Checks::default();
        let holds = (1..=100).contains(&self.name.len()) && self.name.chars().all(is_plain);
        let rule = "1 to 100 letters, digits, -, _ or . (not first), because it names a folder";
        checks.require(holds && !self.name.starts_with('.'), "name", rule, &self.name);
        checks.within("data", |checks| self.data.check(checks));
        checks.within("model", |checks| self.model.check(self.data.image_size, checks));
        checks.within("train", |checks| self.train.check(checks));
        checks.within("pretrain", |checks| self.pretrain.check(checks));
        let remedy = "; train.accumulate adds batches up";
        checks.batch("train.batch_size", self.train.batch_size, self.data.image_size, remedy);
        self.check_frozen(&mut checks);
        self.check_views(&mut checks);
        self.check_votes(&mut checks);
        checks.finish()
    }

    /// Checks that a loss on the raters' votes has votes, and a head that predicts a distribution.
    fn check_votes(&self, checks: &mut Checks) {
        if self.train.loss != Loss::LabelDistribution {
            return;
        }
        let DataConfig { dataset, votes, ref csv, .. } = self.data;
        let remedy = match dataset {
            DatasetName::Synthetic => None,
            DatasetName::Mebeauty | DatasetName::ScutFbp5500 => {
                (!votes).then_some("set data.votes to true")
            }
            DatasetName::Csv => (csv.votes_columns.is_empty())
                .then_some("name the raters' columns in data.csv.votes_columns"),
            DatasetName::Folder => {
                Some("list the images in a csv, and its raters' columns in data.csv.votes_columns")
            }
        };
        if let Some(remedy) = remedy {
            let rest = format_args!(
                " is label_distribution, which trains on the raters' votes, and data.dataset \
                 {dataset} has none: {remedy}, or choose another loss"
            );
            checks.fail("train.loss", rest);
        }
        if self.model.fusion.strategy == FusionStrategy::Score {
            let rest = " is label_distribution, whose distribution the head predicts, and \
                        model.fusion.strategy score has no head: change one of the two";
            checks.fail("train.loss", rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(overrides: &[&str]) -> Result<Config, ConfigError> {
        let overrides: Vec<String> = overrides.iter().map(|&text| text.to_owned()).collect();
        Config::from_yaml("", "a.yaml", &overrides)
    }

    /// The problems of the default config with these `--set`s.
    fn messages(overrides: &[&str]) -> Vec<String> {
        let error = config(overrides).unwrap_err();
        let problems = error.problems().iter();
        problems.map(|problem| problem.message.clone()).collect()
    }

    #[test]
    fn each_value_out_of_range_is_refused() {
        for bad in "\
            name=; name=../a; name=.a; name=a b; data.val_fraction=1; data.val_fraction=-0.1; \
            data.test_fraction=.nan; data={val_fraction: 0.5, test_fraction: 0.5}; \
            data.workers=0; data.image_size=0; data.image_size=9000000000000000000; \
            data.augment.horizontal_flip=1.1; data.augment.rotation=181; \
            data.augment.random_resized_crop=[0, 1]; data.augment.random_resized_crop=[0.9, 0.8]; \
            data.augment.random_resized_crop=[0.9, 1.1]; \
            data.augment.color_jitter=[0, 0, 0, 0.6]; data.augment.color_jitter=[-1, 0, 0, 0]; \
            data.normalize={mean: [0, 0, 0], std: [1, 0, 1]}; data.normalize={mean: [0, 0, 0]}; \
            data.normalize={mean: [.inf, 0, 0], std: [1, 1, 1]}; data.split=fold_0_of_5; \
            data.split=fold_6_of_5; data.split=fold_1_of_1; data.split=fold_x_of_5; \
            data.csv.image_column=score; data.csv.group_column=''; data.synthetic.train=0; \
            data.synthetic.rater_noise=-1; model.vit.drop_path=1; model.mamba.drop_path=-0.1; \
            model.vit.depth=0; model.mamba.d_state=0; model.vit.patch_size=0; \
            model.vit.patch_size=-16; model.vit.num_heads=0; model.vit.num_heads=5; \
            model.fusion.dim=0; model.fusion.branch_dropout=1; model.head.dropout=1; \
            model.head.hidden=[0]; train.freeze.vit=13; \
            train.freeze.mamba=some; train.freeze.vit=-1; train.ema_decay=1; \
            train.ema_decay=-0.1; train.optimizer.layer_decay=0; train.optimizer.layer_decay=1.1; \
            train.epochs=0; train.batch_size=0; train.threads=0; train.clip_grad_norm=0; \
            train.optimizer.lr=0; train.optimizer.lr=.inf; train.optimizer.backbone_lr=-1; \
            train.optimizer.weight_decay=-1; train.optimizer.betas=[0.9, 1]; \
            train.optimizer.eps=0; train.schedule.warmup_epochs=-1; train.huber_delta=0; \
            train.branch_loss=-1; train={branch_loss: 1, gradient_modulation: 0}; \
            train.gradient_modulation=0.1; train.label_distribution.bins=1; \
            train.label_distribution.range=[5, 1]; \
            train.label_distribution.expectation_weight=-1; train.accumulate=0; \
            train.monitor=loss; train.early_stopping.patience=0; \
            train.early_stopping.min_delta=-1; train.optimizer.momentum=1; \
            train.optimizer={nesterov: true, momentum: 0}; train.schedule.step_epochs=0; \
            train.schedule.gamma=0; train.schedule.gamma=1.1; train.schedule.milestones=[2, 1]; \
            train.schedule.milestones=[0, 1]; train.schedule.min_lr=1; \
            train.schedule.min_lr=.nan; pretrain.epochs=0; pretrain.batch_size=0; \
            pretrain.mask_ratio=0; pretrain.mask_ratio=1; pretrain.mask_patch=0; \
            pretrain.class_token_weight=-1; pretrain.lr=0; pretrain.weight_decay=-1; \
            pretrain.warmup_epochs=-1; pretrain.min_lr=1; pretrain.augment.rotation=200"
            .split("; ")
        {
            assert!(config(&[bad]).is_err(), "{bad}");
        }
    }

    #[test]
    fn values_at_the_ends_of_their_ranges_are_accepted() {
        for good in "\
            data.val_fraction=0; data.augment.horizontal_flip=1; data.augment.rotation=0; \
            data.augment.random_resized_crop=[1, 1]; data.augment.color_jitter=[0, 0, 0, 0.5]; \
            data.split=fold_1_of_2; data.split=fold_10_of_10; data.seed=0; data.normalize=null; \
            model.vit.drop_path=0; model.head.hidden=[]; train.epochs=1; \
            train.freeze={vit: all, mamba: 24, epochs: 0}; train.ema_decay=0; \
            train.optimizer.layer_decay=1; train.clip_grad_norm=null; \
            train.optimizer.backbone_lr=0; train.optimizer.betas=[0, 0]; \
            train.schedule.warmup_epochs=0; train.optimizer.betas=null; \
            train.early_stopping={patience: 1, min_delta: 0}; train.optimizer.momentum=0; \
            train.schedule.gamma=1; train.schedule.milestones=[0.5, 2]; \
            train.schedule={name: constant, min_lr: 1}"
            .split("; ")
        {
            assert!(config(&[good]).is_ok(), "{good}: {:?}", messages(&[good]));
        }
    }

    #[test]
    fn sizes_that_no_machine_has_the_memory_for_are_refused_with_the_largest() {
        assert_eq!(
            messages(&["data.image_size=8192", "model.vit.patch_size=8"]),
            [
                "data.image_size 8192 makes 1048576 patches of 8 pixels, at most 65536 fit into \
                 memory: at this patch_size the largest is 2048",
                "data.image_size 8192 makes 262144 patches of 16 pixels, at most 65536 fit into \
                 memory: at this patch_size the largest is 4096",
            ]
        );
        assert_eq!(
            messages(&["data.image_size=100000"])[0],
            "data.image_size must be at most 16384, is 100000"
        );
        assert_eq!(messages(&["data.image_size=100000"]).len(), 1);
        config(&["data.image_size=4096", "model.fusion.strategy=vit_only"]).unwrap();
        let found = messages(&["model.vit={embed_dim: 1048576, num_heads: 1}"]);
        let words = "model.vit.embed_dim 1048576 makes 158331 billion parameters, with depth 12";
        assert!(found[0].starts_with(words), "{found:?}");
        let found = messages(&["train.batch_size=1000000"]);
        let words = "train.batch_size 1000000 makes 140 GiB of pixels at an image size of 224: \
                     at most 114130 images fit into 16 GiB; train.accumulate";
        assert!(found[0].starts_with(words), "{found:?}");
        for (key, most) in [
            ("train.threads", 1024),
            ("data.workers", 1024),
            ("model.vit.depth", 1024),
            ("model.mamba.d_state", 1024),
            ("model.fusion.dim", 16_384),
            ("train.label_distribution.bins", 1024),
        ] {
            let found = messages(&[&format!("{key}=100000")]);
            assert_eq!(found, [format!("{key} must be at most {most}, is 100000")]);
        }
        let wide = format!("model.head.hidden=[{}]", ["8"; 17].join(", "));
        assert_eq!(messages(&[&wide]), ["model.head.hidden must be at most 16 widths, is 17"]);
    }

    #[test]
    fn a_loss_on_votes_needs_a_data_set_with_votes_and_names_the_remedy() {
        let loss = "train.loss=label_distribution";
        for (dataset, remedy) in [
            ("data.dataset=mebeauty", "set data.votes to true"),
            ("data.dataset=scut_fbp5500", "set data.votes to true"),
            ("data.dataset=csv", "in data.csv.votes_columns"),
            ("data.dataset=folder", "list the images in a csv"),
            ("model.fusion.strategy=score", "has no head"),
        ] {
            let found = messages(&[loss, "data.root=x", "data.split=fold_1_of_5", dataset]);
            assert!(found.len() == 1 && found[0].contains(remedy), "{found:?}");
        }
        for dataset in [
            "data.dataset=synthetic",
            "data={dataset: mebeauty, votes: true, root: x}",
            "data={dataset: csv, root: x, csv: {votes_columns: [rater_*]}}",
        ] {
            assert!(config(&[loss, dataset]).is_ok(), "{:?}", messages(&[loss, dataset]));
        }
    }

    #[test]
    fn an_image_that_patches_do_not_tile_is_refused_with_sizes_that_do() {
        let says = "must be a multiple of the patch size 16, is";
        assert_eq!(
            messages(&["data.image_size=100"]),
            [format!("data.image_size {says} 100; the nearest that fits is 96 or 112")]
        );
        assert_eq!(
            messages(&["model.vit.image_size=10"]),
            [format!("model.vit.image_size {says} 10; the nearest that fits is 16")]
        );
    }

    #[test]
    fn a_problem_of_both_branches_is_reported_once() {
        assert_eq!(messages(&["data.image_size=0"]), ["data.image_size must be at least 1, is 0"]);
    }

    #[test]
    fn branches_with_other_patches_are_told_the_sizes_that_fit_both() {
        let dinov2 = "model.vit.name=vit_small_patch14_dinov2";
        let message = |size: i64, patch: i64, nearest: &str, both: &str| {
            format!(
                "data.image_size must be a multiple of the patch size {patch}, is {size}; the \
                 nearest that fits is {nearest}; both branches take {both}"
            )
        };
        assert_eq!(
            messages(&["data.image_size=250", dinov2]),
            [
                message(250, 14, "238 or 252", "224 or 336"),
                message(250, 16, "240 or 256", "224 or 336"),
            ]
        );
        assert_eq!(messages(&["data.image_size=56", dinov2]), [message(56, 16, "48 or 64", "112")]);
        config(&["data.image_size=224", dinov2]).unwrap();
        config(&["data.image_size=518", dinov2, "model.fusion.strategy=vit_only"]).unwrap();
        // Patches of any size do not end the search.
        assert!(config(&["model.vit.patch_size=-3"]).is_err());
    }

    #[test]
    fn an_unused_branch_need_not_fit_the_images() {
        assert!(config(&["model.mamba.patch_size=15"]).is_err());
        config(&["model.mamba.patch_size=15", "model.fusion.strategy=vit_only"]).unwrap();
    }

    #[test]
    fn a_convolutional_stem_halves_the_side_down_to_a_patch() {
        config(&["model={vit: {stem: conv}, mamba: {stem: conv}}"]).unwrap();
        assert_eq!(
            messages(&[
                "data.image_size=96",
                "model.vit={stem: conv, patch_size: 12}",
                "model.mamba={stem: conv, name: vim_tiny_patch16_stride8_224}",
            ]),
            [
                "model.vit.patch_size must be a power of two of at least 2 for stem: conv, whose \
                 convolutions halve the side, is 12",
                "model.mamba.stem: conv does not apply: the patches of \
                 vim_tiny_patch16_stride8_224 overlap; choose a preset whose patches do not",
            ]
        );
    }

    #[test]
    fn num_heads_applies_to_a_vit_only_and_d_state_to_a_vim_only() {
        assert_eq!(
            messages(&["model.vit.d_state=16", "model.mamba.num_heads=3"]),
            [
                "model.vit.d_state does not apply: vit_tiny_patch16_224 is a ViT",
                "model.mamba.num_heads does not apply: vim_tiny_patch16_224 is a Vision Mamba",
            ]
        );
    }

    #[test]
    fn each_branch_takes_presets_of_its_kind_only() {
        let swapped = messages(&["model.vit.name=vim_tiny_patch16_224"]);
        assert_eq!(swapped.len(), 1);
        let expected = "model.vit.name must be one of vit_tiny_patch16_224, ";
        assert!(swapped[0].starts_with(expected), "{swapped:?}");
        assert!(!swapped[0].contains("vim_small"), "{swapped:?}");
        assert_eq!(messages(&["model.mamba.name=deit_tiny_patch16_224"]).len(), 1);
    }

    #[test]
    fn a_data_set_on_disk_needs_a_root_and_one_of_its_splits() {
        assert_eq!(
            messages(&["data.dataset=csv"]),
            ["data.root is missing: the dataset csv needs its CSV file"]
        );
        let scut = ["data.dataset=scut_fbp5500", "data.root=x"];
        config(&[scut[0], scut[1], "data.split=fold_3"]).unwrap();
        assert_eq!(
            messages(&[scut[0], scut[1], "data.split=fold1"]),
            ["data.split of scut_fbp5500 must be one of fold_1, fold_2, fold_3, fold_4, fold_5, \
              split_60_40, is fold1; did you mean fold_1?"]
        );
    }

    #[test]
    fn a_shape_is_the_preset_with_the_sizes_that_the_config_overrides() {
        let config = config(&[
            "data.image_size=96",
            "model.vit={name: vit_small_patch16_384, depth: 3, drop_path: 0.3}",
            "model.mamba={image_size: 32, patch_size: 8, d_state: 4}",
        ])
        .unwrap();
        let vit = config.shape(Branch::Vit).unwrap().unwrap();
        assert_eq!((vit.branch, vit.image_size, vit.patch_size), (Branch::Vit, 96, 16));
        assert_eq!((vit.embed_dim, vit.depth, vit.num_heads, vit.d_state), (384, 3, 6, 0));
        assert_eq!((vit.mean, vit.drop_path, vit.patches()), ([0.5; 3], 0.3, 36));
        let mamba = config.shape(Branch::Mamba).unwrap().unwrap();
        assert_eq!((mamba.branch, mamba.image_size, mamba.patch_size), (Branch::Mamba, 32, 8));
        assert_eq!((mamba.embed_dim, mamba.depth, mamba.d_state), (192, 24, 4));
        assert_eq!(mamba.mean, [0.485, 0.456, 0.406]);
    }

    #[test]
    fn a_normalization_in_the_config_holds_for_both_branches() {
        let config = config(&["data.normalize={mean: [0, 0, 0], std: [1, 1, 1]}"]).unwrap();
        for shape in [config.shape(Branch::Vit), config.shape(Branch::Mamba)] {
            let shape = shape.unwrap().unwrap();
            assert_eq!((shape.mean, shape.std), ([0.0; 3], [1.0; 3]));
        }
    }

    #[test]
    fn a_strategy_of_one_branch_has_no_shape_for_the_other() {
        for (strategy, branches) in [("vit_only", (true, false)), ("mamba_only", (false, true))] {
            let config = config(&[&format!("model.fusion.strategy={strategy}")]).unwrap();
            let vit = config.shape(Branch::Vit).unwrap().is_some();
            let mamba = config.shape(Branch::Mamba).unwrap().is_some();
            assert_eq!((vit, mamba), branches);
        }
    }

    #[test]
    fn only_the_weights_of_used_branches_must_exist() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("vit.safetensors");
        let mut config = Config::default();
        config.model.vit.weights = Some(file.clone().into());
        config.validate().unwrap();
        let error = config.model.check_weights().unwrap_err();
        assert_eq!(error.problems()[0].key, "model.vit.weights");
        assert!(error.to_string().contains("vit.safetensors"), "{error}");

        config.model.fusion.strategy = FusionStrategy::MambaOnly;
        config.model.check_weights().unwrap();
        config.model.fusion.strategy = FusionStrategy::Gated;
        std::fs::write(&file, "").unwrap();
        config.model.check_weights().unwrap();
    }
}
