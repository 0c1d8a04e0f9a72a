//! Charts of a search: a scatter plot for each axis.

use maud::{Markup, html};

use super::chart::Chart;
use super::charts::row_of;
use crate::report::axis::Axis;
use crate::report::search::{SearchAxis, SearchOverview};

/// Axes that have a chart.
const MAX_CHARTS: usize = 9;
/// Values of an axis that are not numbers, and the length of their names.
const MAX_VALUES: usize = 8;
const NAME_LENGTH: usize = 44;

/// Draws the best validation PC of every run over each axis; runs that were not trained to the end
/// are gray.
pub(super) fn search_charts(search: &SearchOverview) -> Markup {
    let axes = search.axes.iter().take(MAX_CHARTS);
    let charts: Vec<Markup> = axes.filter_map(|axis| axis_chart(search, axis)).collect();
    html! {
        (row_of(&charts))
        p.note {
            "A point for each run, at its best epoch so far: blue where it was trained to its end, \
             gray where it was not. The most important axis comes first. Hover over a point for \
             its run."
        }
    }
}

fn axis_chart(search: &SearchOverview, axis: &SearchAxis) -> Option<Markup> {
    let y = Axis::around(search.points.iter().map(|point| point.val_pc));
    let importance = axis.importance.map(|value| format!(", importance {value:.2}"));
    let caption = format!("{}{}", axis.key, importance.unwrap_or_default());
    let titles = [axis.key.as_str(), "validation PC"];
    let (mut chart, places) = match &axis.numbers {
        Some(numbers) if axis.is_logarithmic() => {
            let logs: Vec<f64> = numbers.iter().map(|value| value.log10()).collect();
            let x = Axis::around(logs.iter().copied());
            (Chart::logarithmic(&caption, x, y, titles), logs)
        }
        Some(numbers) => {
            let x = Axis::around(numbers.iter().copied());
            (Chart::new(&caption, x, y, titles), numbers.clone())
        }
        None => {
            let values = axis.distinct();
            if values.len() > MAX_VALUES {
                return None;
            }
            let room = NAME_LENGTH / values.len();
            let short = |value: &&str| value.chars().take(room).collect::<String>();
            let names: Vec<String> = values.iter().map(short).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let mut seen = vec![0usize; values.len()];
            // Points of one value are spread so that equal results are seen.
            let place = |value: &String| {
                let at = values.iter().position(|other| other == value).unwrap_or(0);
                seen[at] += 1;
                at as f64 + ((seen[at] * 5) % 9) as f64 / 18.0 - 2.0 / 9.0
            };
            let places = axis.values.iter().map(place).collect();
            (Chart::categories(&caption, &names, y, titles), places)
        }
    };
    for ((point, place), value) in search.points.iter().zip(places).zip(&axis.values) {
        let class = if point.finished { "p s0" } else { "p s8" };
        let (name, pc, epochs) = (&point.name, point.val_pc, point.epochs);
        let title = format!("{name}: {value}, PC {pc:.4} after {epochs} epochs");
        chart.dot((place, pc), 3.2, class, &title);
    }
    Some(chart.finish())
}
