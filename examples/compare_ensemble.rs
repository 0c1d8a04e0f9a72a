//! Compares the ensemble with its branches: pooled test predictions of the runs of a sweep, the mean
//! of the two branches that were trained separately, and each branch's own head within the ensemble.
//!
//! ```sh
//! cargo run --release --example compare_ensemble -- runs/ensemble_synthetic-sweep
//! ```
//!
//! The runs differ in model, seed and fold. The folds of a seed are pooled. Intervals and p are of
//! the paired bootstrap, over images and, of three and more, seeds.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use vm_beautynet::config::{Branch, Config, FusionStrategy};
use vm_beautynet::data::Split;
use vm_beautynet::eval::comparison::{Candidate, EvaluatedRun, Leaderboard, rank};
use vm_beautynet::eval::ensemble::mean_predictions;
use vm_beautynet::eval::evaluate::BRANCH_PREDICTIONS;
use vm_beautynet::eval::metrics::Metric;
use vm_beautynet::eval::statistics::Interval;
use vm_beautynet::run::{CONFIG_FILE, FoundRuns, Summary, evaluated_run};

const VIT: &str = "ViT alone";
const MAMBA: &str = "Mamba alone";
const BOTH: &str = "mean of both, trained separately";

/// The finished runs of a model by seed and fold.
type Runs = BTreeMap<(u64, String), EvaluatedRun>;

/// Returns what the table calls a model. A branch with another width than in the ensemble has it in
/// its name.
fn name(config: &Config, ensemble: &Config) -> String {
    let alone = |name: &str, branch: fn(&Config) -> Option<i64>| match branch(config) {
        Some(width) if branch(ensemble) != Some(width) => format!("{name}, {width} wide"),
        _ => name.to_string(),
    };
    let fusion = &config.model.fusion;
    match fusion.strategy {
        FusionStrategy::VitOnly => alone(VIT, |config| config.model.vit.embed_dim),
        FusionStrategy::MambaOnly => alone(MAMBA, |config| config.model.mamba.embed_dim),
        strategy => {
            let mut name = strategy.to_string();
            for (key, value) in [
                ("branch loss", config.train.branch_loss),
                ("branch dropout", fusion.branch_dropout),
            ] {
                if value > 0.0 {
                    name += &format!(", {key} {value}");
                }
            }
            name
        }
    }
}

/// Reads the finished runs below a folder, and adds what is made of them: the heads of the branches,
/// and the mean of the branches that were trained separately.
fn read(root: &Path) -> Result<BTreeMap<String, (Config, Runs)>> {
    let mut models: BTreeMap<String, (Config, Runs)> = BTreeMap::new();
    let mut finished = Vec::new();
    for folder in FoundRuns::below(root)?.folders {
        if Summary::exists(&folder) {
            finished.push((Config::load(&folder.join(CONFIG_FILE), &[])?, folder));
        } else {
            eprintln!("{} is skipped: it is not finished", folder.display());
        }
    }
    let has_both =
        |config: &Config| Branch::ALL.iter().all(|&of| config.model.fusion.strategy.uses(of));
    let ensemble = finished.iter().map(|(config, _)| config).find(|config| has_both(config));
    let ensemble = ensemble.context("no run with both branches is finished")?.clone();
    for (config, folder) in finished {
        let run = evaluated_run(&folder, &Summary::read(&folder)?, Split::Test)?;
        let (name, key) = (name(&config, &ensemble), (config.seed, config.data.split.clone()));
        for (head, branch) in BRANCH_PREDICTIONS.iter().zip(["ViT", "Mamba"]) {
            let Some(own) = run.predictions.column(head).map(<[f64]>::to_vec) else { continue };
            let mut of_head = run.clone();
            of_head.predictions.predictions = own;
            let name = format!("{branch} within {name}");
            let runs = &mut models.entry(name).or_insert_with(|| (config.clone(), Runs::new())).1;
            runs.insert(key.clone(), of_head);
        }
        let runs = &mut models.entry(name.clone()).or_insert_with(|| (config, Runs::new())).1;
        let replaced = runs.insert(key, run).is_some();
        ensure!(!replaced, "{} has a second run of {name}", root.display());
    }
    let means = match (models.get(VIT), models.get(MAMBA)) {
        (Some((config, vit)), Some((_, mamba))) => {
            let both = vit.iter().filter_map(|(key, vit)| Some((key, vit, mamba.get(key)?)));
            let mean = |(key, vit, mamba): (&(u64, String), &EvaluatedRun, &EvaluatedRun)| {
                let predictions =
                    mean_predictions(&[vit.predictions.clone(), mamba.predictions.clone()]);
                let run = EvaluatedRun {
                    predictions,
                    parameters: vit.parameters + mamba.parameters,
                    seconds: vit.seconds + mamba.seconds,
                    images_per_second: None,
                    ..*vit
                };
                (key.clone(), run)
            };
            Some((config.clone(), both.map(mean).collect()))
        }
        _ => None,
    };
    models.extend(means.map(|mean| (BOTH.to_string(), mean)));
    Ok(models)
}

/// Ranks the models of a sweep's folder by PC on their pooled test images. Seeds that lack a fold
/// are skipped.
pub(crate) fn compare(root: &Path) -> Result<Leaderboard> {
    let models = read(root)?;
    let folds = models.values().map(|(_, runs)| {
        let mut folds: Vec<&String> = runs.keys().map(|(_, fold)| fold).collect();
        folds.sort();
        folds.dedup();
        folds.len()
    });
    let folds = folds.max().context("there is no finished run")?;
    let mut named = Vec::new();
    for (name, (config, runs)) in models {
        let mut by_seed: BTreeMap<u64, Vec<EvaluatedRun>> = BTreeMap::new();
        for ((seed, _), run) in runs {
            by_seed.entry(seed).or_default().push(run);
        }
        named.push((name, config, by_seed));
    }
    let candidates = named.iter_mut().map(|(name, config, by_seed)| Candidate {
        name,
        config,
        folds: if folds > 1 { folds } else { 0 },
        seeds: std::mem::take(by_seed).into_iter().filter(|(_, of)| of.len() == folds).collect(),
    });
    let ranked = rank(candidates.collect(), Split::Test, Split::Test)?;
    ranked.notes.iter().for_each(|note| eprintln!("{note}"));
    ranked.boards.into_iter().next().context("no seed of a model has all folds")
}

fn interval(of: Option<Interval>) -> String {
    of.map(|of| format!("{:.4} to {:.4}", of.lo, of.hi)).unwrap_or_default()
}

fn print(board: &Leaderboard) {
    println!("| model | seeds | PC | 95 % over images | sd over seeds | MAE | parameters | min |");
    println!("| --- | ---: | ---: | --- | ---: | ---: | ---: | ---: |");
    for model in &board.models {
        let (pc, mae) = (model.metric(Metric::Pc), model.metric(Metric::Mae));
        let sd = pc.sd_over_seeds.map(|sd| format!("{sd:.4}")).unwrap_or_default();
        println!(
            "| {} | {} | {:.4} | {} | {sd} | {:.4} | {} | {:.1} |",
            model.name,
            model.seeds.len(),
            pc.mean.unwrap_or(f64::NAN),
            interval(pc.ci_over_images),
            mae.mean.unwrap_or(f64::NAN),
            model.parameters,
            model.seconds / 60.0,
        );
    }
    println!("\n{} images\n", board.images);
    println!("| model | compared with | difference in PC | 95 % | p | p, Holm |");
    println!("| --- | --- | ---: | --- | ---: | ---: |");
    for of in board.comparisons.iter().filter(|of| of.metric == Metric::Pc) {
        let p = |p: Option<f64>| p.map(|p| format!("{p:.4}")).unwrap_or_default();
        let difference = of.difference.difference.unwrap_or(f64::NAN);
        let ci = interval(of.difference.ci);
        let (p, holm) = (p(of.difference.p), p(of.p_holm));
        println!("| {} | {} | {difference:+.4} | {ci} | {p} | {holm} |", of.first, of.second);
    }
}

fn main() -> Result<()> {
    let root = std::env::args_os().nth(1).map(PathBuf::from);
    print(&compare(&root.context("usage: compare_ensemble FOLDER")?)?);
    Ok(())
}
