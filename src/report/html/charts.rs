//! The report's charts.

use indexmap::IndexSet;
use maud::{Markup, html};

use super::chart::{Chart, DASHES, series_class};
use crate::eval::comparison::{Leaderboard, RankedModel};
use crate::eval::evaluate::BRANCH_WEIGHTS;
use crate::eval::metrics::Metric;
use crate::eval::statistics::Interval;
use crate::report::assemble::{DetailedModel, MAX_DETAILED, RunReport};
use crate::report::axis::Axis;
use crate::report::breakdown::{Breakdown, Estimate, Subset};
use crate::report::compare::TwoModels;
use crate::run::EpochRecord;

const MAX_ROWS: usize = 40;
/// Maximum number of points of one model; more are thinned out evenly.
const MAX_POINTS: usize = 1500;
const BINS: usize = 25;

/// Returns the indices of the models that have colors: the best first, those without results last.
fn colored(report: &RunReport) -> IndexSet<usize> {
    let ranked = report.leaderboards.iter().flat_map(|board| &board.models);
    let ranked = ranked.map(|ranked| ranked.candidate);
    let mut order: IndexSet<usize> = ranked.chain(0..report.models.len()).collect();
    order.truncate(MAX_DETAILED);
    order
}

fn class_of(report: &RunReport, ranked: &RankedModel) -> String {
    series_class(colored(report).get_index_of(&ranked.candidate))
}

pub(super) fn legend(report: &RunReport) -> Markup {
    html! {
        ul.legend {
            @for (i, model) in colored(report).into_iter().enumerate() {
                li {
                    svg.key viewBox="0 0 28 10" aria-hidden="true" {
                        path class={ "l s" (i) } d="M1 5H27" stroke-dasharray=(DASHES[i]) {}
                        circle class={ "d s" (i) } cx="14" cy="5" r="3.2" {}
                    }
                    (report.models[model].name)
                }
            }
        }
    }
}

pub(super) fn row_of(charts: &[Markup]) -> Markup {
    html! { div.charts { @for chart in charts { (chart) } } }
}

/// The ends of an interval, NaN if there is none, to include in the range of an axis.
fn ends(ci: Option<Interval>) -> [f64; 2] {
    ci.map_or([f64::NAN; 2], <[f64; 2]>::from)
}

fn with_interval(text: String, ci: Option<Interval>) -> String {
    match ci {
        Some(Interval { lo, hi }) => format!("{text} ({lo:.4} to {hi:.4})"),
        None => text,
    }
}

struct Row {
    label: String,
    value: f64,
    ci: Option<Interval>,
    class: String,
}

fn intervals(caption: &str, title: &str, rows: &[Row], zero_line: bool) -> Markup {
    let zero = if zero_line { 0.0 } else { f64::NAN };
    let values = rows.iter().flat_map(|row| [row.value, zero].into_iter().chain(ends(row.ci)));
    let mut chart = Chart::rows(caption, Axis::around(values), title, rows.len(), 34.0);
    if zero_line {
        chart.reference_line((0.0, -0.5), (0.0, rows.len() as f64 - 0.5));
    }
    for (i, row) in rows.iter().enumerate() {
        let y = i as f64 + 0.18;
        let title = with_interval(format!("{}: {:.4}", row.label, row.value), row.ci);
        if let Some(Interval { lo, hi }) = row.ci {
            chart.line(&[(lo, y), (hi, y)], &row.class, "", &title);
        }
        chart.dot((row.value, y), 4.0, &row.class, &title);
        chart.row_label(i as f64, &row.label);
    }
    chart.finish()
}

/// Draws PC and MAE of every model with their intervals.
pub(super) fn metrics(report: &RunReport, board: &Leaderboard) -> Markup {
    let chart = |metric: Metric, unit: &str| {
        let rows = board.models.iter().take(MAX_ROWS).filter_map(|ranked| {
            let over_seeds = ranked.metric(metric);
            Some(Row {
                label: ranked.name.clone(),
                value: over_seeds.mean?,
                ci: over_seeds.ci_over_images,
                class: class_of(report, ranked),
            })
        });
        let name = metric.name().to_uppercase();
        let title = format!("{name} ({unit}), 95 % CI over images");
        let caption = format!("{name} on {} images", report.split);
        intervals(&caption, &title, &rows.collect::<Vec<_>>(), false)
    };
    row_of(&[chart(Metric::Pc, "correlation"), chart(Metric::Mae, "score units")])
}

/// The mean of several runs by epoch, up to the last epoch that all of them have.
fn mean_curve(runs: &[&[EpochRecord]], value: fn(&EpochRecord) -> f64) -> Vec<(f64, f64)> {
    let shared = runs.iter().map(|epochs| epochs.len()).min().unwrap_or(0);
    let mean = |at: usize| {
        let sum: f64 = runs.iter().map(|epochs| value(&epochs[at])).sum();
        (runs[0][at].epoch as f64, sum / runs.len() as f64)
    };
    (0..shared).map(mean).collect()
}

/// Draws validation PC and MAE, the losses, the PC of the branches' own heads and the ViT's weight
/// by epoch: a thin line for each run, and a thick one for the mean of a model's runs.
pub(super) fn curves(report: &RunReport) -> Option<Markup> {
    let mut lines: Vec<(usize, &str, &[EpochRecord])> = Vec::new();
    for (i, model) in colored(report).into_iter().enumerate() {
        let runs = report.models[model].runs.iter().filter(|run| !run.epochs.is_empty());
        lines.extend(runs.map(|run| (i, run.name.as_str(), run.epochs.as_slice())));
    }
    let last = lines.iter().map(|(_, _, epochs)| epochs.len()).max()?;
    let chart = |caption: &str, title: &str, value: fn(&EpochRecord) -> f64| {
        let values = lines.iter().flat_map(|(_, _, epochs)| epochs.iter().map(value));
        let mut chart = Chart::epochs(caption, last, Axis::around(values), title);
        for &(i, name, epochs) in &lines {
            let class = series_class(Some(i));
            let points: Vec<_> = epochs.iter().map(|e| (e.epoch as f64, value(e))).collect();
            let alone = lines.iter().filter(|(model, ..)| *model == i).count() == 1;
            let thin = if alone { class.clone() } else { format!("thin {class}") };
            chart.line(&points, &thin, DASHES[i], name);
            // The best weights are those of the last epoch that was the best so far.
            if let Some(best) = epochs.iter().rev().find(|epoch| epoch.best) {
                let title = format!("{name}: best epoch {}, {:.4}", best.epoch, value(best));
                chart.dot((best.epoch as f64, value(best)), 3.0, &thin, &title);
            }
        }
        for (i, model) in colored(report).into_iter().enumerate() {
            let runs: Vec<&[EpochRecord]> =
                lines.iter().filter(|(own, ..)| *own == i).map(|(_, _, epochs)| *epochs).collect();
            if runs.len() > 1 {
                let title = format!("{}: mean of {} runs", report.models[model].name, runs.len());
                let class = series_class(Some(i));
                chart.line(&mean_curve(&runs, value), &class, DASHES[i], &title);
            }
        }
        chart.finish()
    };
    let mut charts = vec![
        chart("Validation PC", "PC", |epoch| epoch.val.pc),
        chart("Validation MAE", "MAE (score units)", |epoch| epoch.val.mae),
        chart("Training loss", "loss (scaled scores)", |epoch| epoch.train_loss),
        chart("Validation loss", "loss (scaled scores)", |epoch| epoch.val_loss),
    ];
    let any = |of: fn(&EpochRecord) -> Option<[f64; 2]>| {
        lines.iter().flat_map(|(_, _, epochs)| *epochs).any(|epoch| of(epoch).is_some())
    };
    if any(|epoch| epoch.branch_pc) {
        let [vit, mamba]: [fn(&EpochRecord) -> f64; 2] = [
            |epoch| epoch.branch_pc.map_or(f64::NAN, |[vit, _]| vit),
            |epoch| epoch.branch_pc.map_or(f64::NAN, |[_, mamba]| mamba),
        ];
        charts.push(chart("Validation PC of the ViT's own head", "PC", vit));
        charts.push(chart("Validation PC of the Mamba's own head", "PC", mamba));
    }
    if any(|epoch| epoch.fusion_weights) {
        charts.push(chart("Mean weight of the ViT", "weight (1 − weight of Mamba)", |epoch| {
            epoch.fusion_weights.map_or(f64::NAN, |[vit, _]| vit)
        }));
    }
    Some(row_of(&charts))
}

/// Draws one seed's predictions and residuals, on the same axes for all models of a leaderboard.
pub(super) fn scatter(report: &RunReport, detail: &DetailedModel) -> Markup {
    let ranked = report.ranked(detail);
    let Some(set) = ranked.predictions.first() else {
        return Markup::default();
    };
    let sets = || {
        let models = report.leaderboards[detail.board].models.iter().take(MAX_DETAILED);
        models.filter_map(|ranked| ranked.predictions.first())
    };
    let targets = || sets().flat_map(|set| set.targets.iter().copied());
    let predictions = || sets().flat_map(|set| set.predictions.iter().copied());
    let scores = Axis::around(targets().chain(predictions()));
    let true_scores = Axis::around(targets());
    let residuals = Axis::around(predictions().zip(targets()).map(|(p, t)| p - t));
    let caption = match ranked.seeds.first() {
        Some(seed) => format!("{}, seed {seed}", ranked.name),
        None => ranked.name.clone(),
    };
    let titles = ["true score", "predicted score"];
    let mut predicted = Chart::new(&caption, scores, scores, titles);
    predicted.reference_line((scores.from, scores.from), (scores.to, scores.to));
    let titles = ["true score", "predicted − true"];
    let mut residual = Chart::new(&format!("{caption}: residuals"), true_scores, residuals, titles);
    residual.reference_line((true_scores.from, 0.0), (true_scores.to, 0.0));
    let class = format!("p {}", class_of(report, ranked));
    let step = set.images.len().div_ceil(MAX_POINTS).max(1);
    for row in (0..set.images.len()).step_by(step) {
        let (target, prediction) = (set.targets[row], set.predictions[row]);
        let title = format!("{}: true {target:.2}, predicted {prediction:.2}", set.images[row]);
        predicted.dot((target, prediction), 2.2, &class, &title);
        residual.dot((target, prediction - target), 2.2, &class, &title);
    }
    html! { (predicted.finish()) (residual.finish()) }
}

/// Draws the predictions and the errors of two models against each other, means over their seeds.
pub(super) fn two_models(report: &RunReport, two: &TwoModels) -> Markup {
    let models = two.places.map(|place| &report.leaderboards[two.board].models[place]);
    let Some(set) = models[0].predictions.first() else {
        return Markup::default();
    };
    let errors = models.map(|model| model.errors(|error| error));
    let predictions =
        [0, 1].map(|at: usize| set.targets.iter().zip(&errors[at]).map(|(t, e)| t + e).collect());
    let chart = |caption: &str, what: &str, values: &[Vec<f64>; 2]| {
        let axis = Axis::around(values.iter().flatten().copied());
        let titles = [0, 1].map(|at: usize| format!("{what}, {}", two.names[at]));
        let titles = [titles[0].as_str(), titles[1].as_str()];
        let mut chart = Chart::new(caption, axis, axis, titles);
        chart.reference_line((axis.from, axis.from), (axis.to, axis.to));
        let step = set.images.len().div_ceil(MAX_POINTS).max(1);
        for row in (0..set.images.len()).step_by(step) {
            let (x, y) = (values[0][row], values[1][row]);
            let title = format!("{}: {x:.2} and {y:.2}", set.images[row]);
            chart.dot((x, y), 2.2, "p s0", &title);
        }
        chart.finish()
    };
    let absolute = models.map(|model| model.errors(f64::abs));
    row_of(&[
        chart("Predictions of both models", "predicted", &predictions),
        chart("Absolute errors of both models", "error", &absolute),
    ])
}

/// Draws MAE and bias by score range, the detailed models of a leaderboard side by side.
pub(super) fn by_score(report: &RunReport, board: usize) -> Option<Markup> {
    let details: Vec<&DetailedModel> = report.details_of(board).collect();
    let names: Vec<&str> =
        details.first()?.scores.subsets.iter().map(|subset| subset.label.as_str()).collect();
    let chart = |caption: &str, title: &str, estimate_of: fn(&Subset) -> Estimate| {
        let subsets = details.iter().flat_map(|detail| &detail.scores.subsets);
        let values = subsets.map(estimate_of).flat_map(|estimate| {
            [estimate.value.unwrap_or(f64::NAN), 0.0].into_iter().chain(ends(estimate.ci))
        });
        let titles = ["true score", title];
        let mut chart = Chart::categories(caption, &names, Axis::around(values), titles);
        chart.reference_line((-0.5, 0.0), (names.len() as f64 - 0.5, 0.0));
        let n = details.len() as f64;
        for (i, detail) in details.iter().enumerate() {
            let ranked = report.ranked(detail);
            let class = class_of(report, ranked);
            let shift = (i as f64 - (n - 1.0) / 2.0) * 0.7 / n;
            for (category, subset) in detail.scores.subsets.iter().enumerate() {
                let (Estimate { value: Some(value), ci }, x) =
                    (estimate_of(subset), category as f64 + shift)
                else {
                    continue;
                };
                let Subset { label, images, .. } = subset;
                let title = format!("{}, {label}: {value:.4}, {images} images", ranked.name);
                let title = with_interval(title, ci);
                if let Some(Interval { lo, hi }) = ci {
                    chart.line(&[(x, lo), (x, hi)], &class, "", &title);
                }
                chart.dot((x, value), 3.2, &class, &title);
            }
        }
        chart.finish()
    };
    Some(row_of(&[
        chart("MAE by score range", "MAE (score units)", |subset| subset.mae),
        chart("Bias by score range", "bias (score units)", |subset| subset.bias),
    ]))
}

/// Draws a model's PC, MAE and bias by group.
pub(super) fn by_group(report: &RunReport, detail: &DetailedModel) -> Option<Markup> {
    let ranked = report.ranked(detail);
    let chart = |by: &Breakdown, name: &str, unit: &str, estimate_of: fn(&Subset) -> Estimate| {
        let rows = by.subsets.iter().filter_map(|subset| {
            let Estimate { value, ci } = estimate_of(subset);
            let label = format!("{} ({} images)", subset.label, subset.images);
            Some(Row { label, value: value?, ci, class: class_of(report, ranked) })
        });
        let rows: Vec<Row> = rows.collect();
        let caption = format!("{}: {name} by {}", ranked.name, by.by);
        let title = format!("{name} ({unit}), 95 % CI");
        (!rows.is_empty()).then(|| intervals(&caption, &title, &rows, name == "bias"))
    };
    // Combinations of sex and ethnicity are many: only the table lists them.
    let breakdowns = match &detail.groups[..] {
        [] => return None,
        [groups] => std::slice::from_ref(groups),
        [_, by_attribute @ ..] => by_attribute,
    };
    let charts = breakdowns.iter().flat_map(|breakdown| {
        [
            chart(breakdown, "PC", "correlation", |subset| subset.pc),
            chart(breakdown, "MAE", "score units", |subset| subset.mae),
            chart(breakdown, "bias", "score units", |subset| subset.bias),
        ]
    });
    Some(row_of(&charts.flatten().collect::<Vec<_>>()))
}

/// Draws the distribution of the ViT branch's weight over images and seeds.
pub(super) fn branch_weights(report: &RunReport, ranked: &RankedModel) -> Option<Markup> {
    let columns = ranked.predictions.iter().filter_map(|set| set.column(BRANCH_WEIGHTS[0]));
    let values: Vec<f64> = columns.flatten().copied().filter(|v| v.is_finite()).collect();
    if values.is_empty() {
        return None;
    }
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let sd = (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0)).sqrt();
    let mut counts = [0usize; BINS];
    for value in &values {
        counts[((value * BINS as f64) as usize).min(BINS - 1)] += 1;
    }
    let percent = |count: usize| count as f64 / n * 100.0;
    let max = counts.map(percent).into_iter().fold(1.0, f64::max);
    let caption = format!("{}: mean {mean:.3}, sd {sd:.3}", ranked.name);
    let titles = ["weight of the ViT branch (1 − weight of Mamba)", "predictions (%)"];
    let (x, y) = (Axis::new(0.0, 1.0), Axis::new(0.0, max * 1.05));
    let mut chart = Chart::new(&caption, x, y, titles);
    let class = class_of(report, ranked);
    for (bin, &count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
        let edge = |i: usize| i as f64 / BINS as f64;
        let (lo, hi) = (edge(bin), edge(bin + 1));
        let title = format!("{lo:.2} to {hi:.2}: {count} predictions");
        chart.bar((lo, hi), percent(count), &class, &title);
    }
    Some(chart.finish())
}
