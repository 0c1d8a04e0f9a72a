//! The table of the ranked points of a sweep.

use crate::cli::output::{interval, metric, table, thousands};
use crate::eval::metrics::Metric;
use crate::sweep::{Point, Results};

/// Formats the points, the best first, with p of the differences from the best.
pub(super) fn points_table(results: &Results) -> String {
    let Some(Point { model: best, .. }) = results.points.first() else {
        let text = "no point of the sweep has all runs of a seed finished\n".to_string();
        return text + &search_line(results);
    };
    let with_best = |name: &str| {
        let mut all = results.comparisons.iter();
        all.find(|c| c.metric == Metric::Pc && c.first == best.name && c.second == name)
    };
    let rows = results.points.iter().map(|Point { model: point, .. }| {
        let [pc, mae, rmse, srcc] =
            Metric::ALL.map(|of| metric(point.metric(of).mean.unwrap_or(f64::NAN)));
        let over = point.metric(Metric::Pc);
        let p = with_best(&point.name).and_then(|comparison| comparison.p_holm);
        [
            point.name.clone(),
            point.seeds.len().to_string(),
            pc,
            interval(over.ci_over_images),
            metric(over.sd_over_seeds.unwrap_or(f64::NAN)),
            p.map(|p| format!("{p:.4}")).unwrap_or_default(),
            mae,
            rmse,
            srcc,
            thousands(point.parameters),
            format!("{:.1}", point.flops as f64 / 1e6),
            point.images_per_second.map(|speed| format!("{speed:.0}")).unwrap_or_default(),
        ]
    });
    let metrics = ["point", "seeds", "PC", "95 % over images", "sd over seeds", "p"];
    let others = ["MAE", "RMSE", "SRCC", "parameters", "MFLOPs", "images/s"];
    let mut text = table(&[metrics, others].concat(), rows);
    text += &format!("ranked by validation PC; on {} {} images", best.images, results.split);
    if let Some(note) = &results.note {
        text += &format!("; {note}");
    } else if results.points.len() > 1 {
        text += &format!(
            "; p: no difference in PC from {}, paired bootstrap, corrected for all comparisons \
             (Holm)",
            best.name
        );
    }
    text + "\n" + &search_line(results)
}

fn search_line(results: &Results) -> String {
    let statement = results.search.statement();
    if statement.is_empty() { statement } else { format!("search: {statement}\n") }
}
