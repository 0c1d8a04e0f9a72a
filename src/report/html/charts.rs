//! The report's charts.

use super::chart::{Chart, DASHES, range, series};
use crate::data::embed::escape;
use crate::eval::comparison::{Leaderboard, RankedModel};
use crate::eval::evaluate::BRANCH_WEIGHTS;
use crate::eval::metrics::Metric;
use crate::eval::statistics::Interval;
use crate::report::assemble::{DETAILED, Detail, Report};
use crate::report::breakdown::{Breakdown, Estimate, Part};
use crate::train::EpochRecord;

/// More models are not drawn under each other.
const MOST_ROWS: usize = 40;
/// More points of one model are thinned out evenly.
const MOST_POINTS: usize = 1500;
const BINS: usize = 25;

/// The models that have colors, by their index, the best first; those that are not judged come
/// last.
pub fn colored(report: &Report) -> Vec<usize> {
    let judged = report.boards.iter().flat_map(|board| &board.models);
    let mut order: Vec<usize> = Vec::new();
    for model in judged.map(|judged| judged.candidate).chain(0..report.models.len()) {
        if !order.contains(&model) {
            order.push(model);
        }
    }
    order.truncate(DETAILED);
    order
}

fn color(report: &Report, model: usize) -> Option<usize> {
    colored(report).iter().position(|known| *known == model)
}

/// What the colors and dashes mean.
pub fn legend(report: &Report) -> String {
    let items = colored(report).into_iter().enumerate().map(|(at, model)| {
        format!(
            "<li><svg class=\"key\" viewBox=\"0 0 28 10\" aria-hidden=\"true\"><path class=\"l s{at}\" d=\"M1 5H27\" stroke-dasharray=\"{}\"/><circle class=\"d s{at}\" cx=\"14\" cy=\"5\" r=\"3.2\"/></svg>{}</li>",
            DASHES[at],
            escape(&report.models[model].name)
        )
    });
    format!("<ul class=\"legend\">{}</ul>\n", items.collect::<String>())
}

/// One row of a chart of intervals.
struct Row {
    label: String,
    value: f64,
    ci: Option<Interval>,
    class: String,
}

fn intervals(label: &str, title: &str, rows: &[Row], zero: bool) -> String {
    let ends = rows.iter().flat_map(|row| {
        let ci = row.ci.map_or([f64::NAN; 2], <[f64; 2]>::from);
        [row.value, ci[0], ci[1], if zero { 0.0 } else { f64::NAN }]
    });
    let mut chart = Chart::rows(label, range(ends), title, rows.len(), 34.0);
    if zero {
        chart.rule((0.0, -0.5), (0.0, rows.len() as f64 - 0.5));
    }
    for (at, row) in rows.iter().enumerate() {
        let y = at as f64 + 0.18;
        let mut title = format!("{}: {:.4}", row.label, row.value);
        if let Some(Interval { lo, hi }) = row.ci {
            title += &format!(" ({lo:.4} to {hi:.4})");
            chart.line(&[(lo, y), (hi, y)], &row.class, "", &title);
        }
        chart.dot((row.value, y), 4.0, &row.class, &title);
        chart.label(at as f64, &row.label);
    }
    chart.finish()
}

/// PC and MAE of every model with their intervals.
pub fn metrics(report: &Report, board: &Leaderboard) -> String {
    let chart = |metric: Metric| {
        let rows = board.models.iter().take(MOST_ROWS);
        let rows: Vec<Row> = rows
            .filter_map(|judged| {
                let own = judged.metric(metric);
                Some(Row {
                    label: judged.name.clone(),
                    value: own.mean?,
                    ci: own.ci_over_images,
                    class: series(color(report, judged.candidate)),
                })
            })
            .collect();
        let name = metric.name().to_uppercase();
        let unit = match metric {
            Metric::Mae | Metric::Rmse => "score units",
            Metric::Pc | Metric::Srcc => "correlation",
        };
        let title = format!("{name} ({unit}), 95 % interval over images");
        intervals(&format!("{name} on {} images", report.split), &title, &rows, false)
    };
    boxed(&[chart(Metric::Pc), chart(Metric::Mae)])
}

/// Charts beside each other where there is room.
pub fn boxed(charts: &[String]) -> String {
    format!("<div class=\"charts\">{}</div>\n", charts.concat())
}

/// Validation PC and MAE and the training loss by epoch, a line for each run of the colored models.
pub fn curves(report: &Report) -> Option<String> {
    let mut lines: Vec<(usize, String, &[EpochRecord])> = Vec::new();
    for (at, model) in colored(report).into_iter().enumerate() {
        for run in &report.models[model].runs {
            if !run.epochs.is_empty() {
                lines.push((at, run.name.clone(), &run.epochs));
            }
        }
    }
    let last = lines.iter().map(|(_, _, epochs)| epochs.len()).max()?;
    let chart = |label: &str, title: &str, of: fn(&EpochRecord) -> f64| {
        let values = lines.iter().flat_map(|(_, _, epochs)| epochs.iter().map(of));
        let mut chart = Chart::epochs(label, last, range(values), title);
        for (at, name, epochs) in &lines {
            let class = series(Some(*at));
            let points: Vec<(f64, f64)> = epochs.iter().map(|e| (e.epoch as f64, of(e))).collect();
            chart.line(&points, &class, DASHES[*at], name);
            // The epoch of the best weights is the last one that was the best so far.
            if let Some(best) = epochs.iter().rev().find(|epoch| epoch.best) {
                let title = format!("{name}: best epoch {}, {:.4}", best.epoch, of(best));
                chart.dot((best.epoch as f64, of(best)), 3.0, &class, &title);
            }
        }
        chart.finish()
    };
    Some(boxed(&[
        chart("Validation PC", "PC", |epoch| epoch.val.pc),
        chart("Validation MAE", "MAE (score units)", |epoch| epoch.val.mae),
        chart("Training loss", "loss (scaled scores)", |epoch| epoch.train_loss),
    ]))
}

/// Of one seed's predictions: predicted against true, and the residuals. All models of a board have
/// the same axes.
pub fn scatter(report: &Report, detail: &Detail) -> String {
    let judged = report.judged(detail);
    let class = series(color(report, judged.candidate));
    let sets = || {
        report.boards[detail.board]
            .models
            .iter()
            .take(DETAILED)
            .filter_map(|m| m.predictions.first())
    };
    let both = range(sets().flat_map(|set| set.targets.iter().chain(&set.predictions).copied()));
    let residual = |(p, t): (&f64, &f64)| p - t;
    let residuals =
        range(sets().flat_map(|set| set.predictions.iter().zip(&set.targets).map(residual)));
    let targets = range(sets().flat_map(|set| set.targets.iter().copied()));
    let Some(set) = judged.predictions.first() else {
        return String::new();
    };
    let label = format!("{}, seed {}", judged.name, judged.seeds.first().copied().unwrap_or(0));
    let mut predicted = Chart::new(&label, both, both, ["true score", "predicted score"]);
    predicted.rule((both.0, both.0), (both.1, both.1));
    let mut left = Chart::new(
        &format!("{label}: residuals"),
        targets,
        residuals,
        ["true score", "predicted − true"],
    );
    left.rule((targets.0, 0.0), (targets.1, 0.0));
    let every = set.images.len().div_ceil(MOST_POINTS).max(1);
    for row in (0..set.images.len()).step_by(every) {
        let (target, prediction) = (set.targets[row], set.predictions[row]);
        let title = format!("{}: true {target:.2}, predicted {prediction:.2}", set.images[row]);
        predicted.dot((target, prediction), 2.2, &format!("p {class}"), &title);
        left.dot((target, prediction - target), 2.2, &format!("p {class}"), &title);
    }
    predicted.finish() + &left.finish()
}

/// MAE and bias by range of the score, all colored models of a board beside each other.
pub fn by_score(report: &Report, board: usize) -> Option<String> {
    let details: Vec<&Detail> = report.details.iter().filter(|d| d.board == board).collect();
    let first = &details.first()?.scores;
    let names: Vec<&str> = first.parts.iter().map(|part| part.label.as_str()).collect();
    let chart = |label: &str, title: &str, of: fn(&Part) -> Estimate| {
        let parts = || details.iter().flat_map(|detail| &detail.scores.parts);
        let ends = parts().flat_map(|part| {
            let estimate = of(part);
            let ci = estimate.ci.map_or([f64::NAN; 2], <[f64; 2]>::from);
            [estimate.value.unwrap_or(f64::NAN), ci[0], ci[1], 0.0]
        });
        let mut chart = Chart::places(label, &names, range(ends), ["true score", title]);
        chart.rule((-0.5, 0.0), (names.len() as f64 - 0.5, 0.0));
        for (at, detail) in details.iter().enumerate() {
            let judged = report.judged(detail);
            let class = series(color(report, judged.candidate));
            let shift =
                (at as f64 - (details.len() as f64 - 1.0) / 2.0) * 0.7 / details.len() as f64;
            for (place, part) in detail.scores.parts.iter().enumerate() {
                let (estimate, x) = (of(part), place as f64 + shift);
                let Some(value) = estimate.value else {
                    continue;
                };
                let mut title =
                    format!("{}, {}: {value:.4}, {} images", judged.name, part.label, part.images);
                if let Some(Interval { lo, hi }) = estimate.ci {
                    title += &format!(" ({lo:.4} to {hi:.4})");
                    chart.line(&[(x, lo), (x, hi)], &class, "", &title);
                }
                chart.dot((x, value), 3.2, &class, &title);
            }
        }
        chart.finish()
    };
    Some(boxed(&[
        chart("MAE by score range", "MAE (score units)", |part| part.mae),
        chart("Bias by score range", "bias (score units)", |part| part.bias),
    ]))
}

/// Of a board's best model: PC, MAE and bias by group.
pub fn by_group(report: &Report, detail: &Detail) -> Option<String> {
    let judged = report.judged(detail);
    let class = series(color(report, judged.candidate));
    let chart =
        |breakdown: &Breakdown, name: &str, unit: &str, of: fn(&Part) -> Estimate, zero: bool| {
            let rows = breakdown.parts.iter().filter_map(|part| {
                let estimate = of(part);
                Some(Row {
                    label: format!("{} ({} images)", part.label, part.images),
                    value: estimate.value?,
                    ci: estimate.ci,
                    class: class.clone(),
                })
            });
            let rows: Vec<Row> = rows.collect();
            let label = format!("{}: {name} by {}", judged.name, breakdown.by);
            if rows.is_empty() {
                String::new()
            } else {
                intervals(&label, &format!("{name} ({unit}), 95 % interval"), &rows, zero)
            }
        };
    // Groups of a sex and an ethnicity are many, and stand in the table.
    let by = match detail.groups.len() {
        0 => return None,
        1 => &detail.groups[..],
        _ => &detail.groups[1..],
    };
    let charts: Vec<String> = by
        .iter()
        .flat_map(|breakdown| {
            [
                chart(breakdown, "PC", "correlation", |part| part.pc, false),
                chart(breakdown, "MAE", "score units", |part| part.mae, false),
                chart(breakdown, "bias", "score units", |part| part.bias, true),
            ]
        })
        .collect();
    Some(boxed(&charts))
}

/// How the share of the ViT branch is distributed over images and seeds; `None` where the model
/// defines none.
pub fn branch_weights(report: &Report, judged: &RankedModel) -> Option<String> {
    let columns = judged.predictions.iter().filter_map(|set| set.column(BRANCH_WEIGHTS[0]));
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
    let most = counts.iter().max().copied().unwrap_or(0) as f64 / n * 100.0;
    let label = format!("{}: mean {mean:.3}, sd {sd:.3}", judged.name);
    let titles = ["share of the ViT branch (the rest is Mamba's)", "predictions (%)"];
    let mut chart = Chart::new(&label, (0.0, 1.0), (0.0, most.max(1.0) * 1.05), titles);
    let class = series(color(report, judged.candidate));
    for (bin, &count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
        let ends = (bin as f64 / BINS as f64, (bin + 1) as f64 / BINS as f64);
        let title = format!("{:.2} to {:.2}: {count} predictions", ends.0, ends.1);
        chart.bar(ends, count as f64 / n * 100.0, &class, &title);
    }
    Some(chart.finish())
}
