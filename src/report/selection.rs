//! What was selected, on which images and among how many: the sentences that keep a reader from
//! taking a lucky model for a better one.

use std::collections::BTreeSet;

use indexmap::IndexMap;

use super::assemble::RunReport;
use super::axis::short;
use crate::data::Split;
use crate::eval::comparison::Leaderboard;
use crate::eval::metrics::Metric;
use crate::eval::statistics::MIN_SEEDS;

/// The level at which a corrected p is significant.
pub(super) const SIGNIFICANT: f64 = 0.05;

/// States how a leaderboard's first model was selected, which models and baselines are better on
/// the evaluated images, and whether there are enough seeds for claims.
pub(super) fn selection(report: &RunReport, board: &Leaderboard) -> Vec<String> {
    let mut sentences = vec![how(report, board)];
    sentences.extend(better_models(board));
    sentences.extend(better_baselines(board));
    sentences.extend(too_few_seeds(board));
    sentences
}

fn how(report: &RunReport, board: &Leaderboard) -> String {
    let Some(first) = board.models.first() else {
        return String::new();
    };
    // A probe has no epochs.
    let summaries = report.runs.iter().filter_map(|run| run.summary());
    let trained = summaries.filter(|summary| summary.epochs > 0);
    let monitors: BTreeSet<&str> = trained.map(|summary| summary.monitor.title()).collect();
    let monitors: Vec<&str> = monitors.into_iter().collect();
    let epochs = match monitors[..] {
        [] => "Probes are fitted to the training images alone".to_string(),
        _ => format!("Each run's weights are those of its best epoch by {}", monitors.join(" or ")),
    };
    let (name, split, n) = (&first.name, board.split, board.models.len());
    if n == 1 {
        return format!("{epochs}.");
    }
    match (board.split, board.ranked_by) {
        (Split::Test, Split::Test) => format!(
            "{epochs}; the {n} models are ranked by PC on the {split} images. {name} is ranked \
             first because of the images that it is evaluated on, so its metrics are optimistic: \
             without --rank-by, validation ranks."
        ),
        (Split::Test, _) => {
            let pc = shown(first.val_pc);
            format!(
                "{epochs}, and {name} is selected among {n} models by its mean validation PC \
                 ({pc}). The {split} images had no part in it."
            )
        }
        _ => format!(
            "{epochs}, and {name} is selected among {n} models by PC on the same {split} images: \
             its metrics are optimistic. Images that chose nothing, as a test split, show how good \
             it is."
        ),
    }
}

/// Names the models that beat the first one on the evaluated images.
fn better_models(board: &Leaderboard) -> Option<String> {
    let first = board.models.first()?;
    let mut by_name: IndexMap<&str, Vec<String>> = IndexMap::new();
    for metric in Metric::ALL {
        let Some(place) = board.winner(metric).filter(|&place| place > 0) else { continue };
        let winner = &board.models[place];
        let p = match board.with_best(place, metric) {
            Some(pair) if !pair.has_enough_seeds() => "too few seeds to tell",
            Some(pair) if pair.p_holm.is_some_and(|p| p < SIGNIFICANT) => "significant",
            _ => "not significant",
        };
        let [value, than] = [winner, first].map(|model| shown(model.metric(metric).mean));
        let won = format!("{} ({value}, not {than}; {p})", metric.name().to_uppercase());
        by_name.entry(&winner.name).or_default().push(won);
    }
    let found =
        by_name.iter().map(|(name, won)| format!("{name} has the better {}", won.join(", ")));
    let found: Vec<String> = found.collect();
    if found.is_empty() {
        return None;
    }
    let (found, name, split) = (found.join("; "), &first.name, board.split);
    let by_pc = board.winner(Metric::Pc).is_some_and(|place| place > 0);
    Some(if board.ranked_by != split && by_pc {
        format!(
            "Validation's winner is not {split}'s: on the {split} images {found}. To choose by \
             that would be to select on the {split} images."
        )
    } else {
        format!("{name} is not the best in everything: on the {split} images {found}.")
    })
}

/// Names the baselines that beat the first model.
fn better_baselines(board: &Leaderboard) -> Option<String> {
    let first = board.models.first()?;
    let mut by_name: IndexMap<&str, Vec<String>> = IndexMap::new();
    for metric in Metric::ALL {
        let Some((name, value)) = board.winning_baseline(metric) else { continue };
        let than = shown(first.metric(metric).mean);
        let won = format!("{} ({value:.4}, not {than})", metric.name().to_uppercase());
        by_name.entry(name).or_default().push(won);
    }
    let found = by_name.iter().map(|(name, won)| format!("{name} in {}", won.join(", ")));
    let found: Vec<String> = found.collect();
    (!found.is_empty())
        .then(|| format!("A baseline is better than {}: {}.", first.name, found.join("; ")))
}

/// Returns a metric as text.
pub(super) fn shown(metric: Option<f64>) -> String {
    metric.map_or("undefined".to_string(), |value| format!("{value:.4}"))
}

fn too_few_seeds(board: &Leaderboard) -> Option<String> {
    let few = board.models.iter().filter(|model| model.seeds.len() < MIN_SEEDS).count();
    (board.models.len() > 1 && few > 0).then(|| {
        format!(
            "{few} of {} models have fewer than {MIN_SEEDS} seeds: their differences are those of \
             the trained weights, over images alone, and no claim about the models.",
            board.models.len()
        )
    })
}

/// Explains the correction for many comparisons; `None` of one or none.
pub(super) fn correction(board: &Leaderboard) -> Option<String> {
    let pc = board.comparisons.iter().filter(|comparison| comparison.metric == Metric::Pc);
    let n = pc.filter(|comparison| comparison.p_holm.is_some()).count();
    (n > 1).then(|| {
        format!(
            "Of {n} comparisons of equal models about {} would have p < 0.05 by chance; Holm's \
             correction multiplies the smallest p by {n}, the next by {}, and so on, so that among \
             all comparisons of a metric even one wrong p < 0.05 has a probability of at most 5 %.",
            short(n as f64 * SIGNIFICANT),
            n - 1
        )
    })
}
