//! Axes and what is drawn between them, as SVG of our own: no script, and colors from the page's
//! style.

use std::fmt::Write;

use crate::data::embed::escape;
use crate::report::breakdown::{round_step, short};

/// Width of every chart, in its own units, which are pixels on a phone.
pub const WIDTH: f64 = 360.0;
const HEIGHT: f64 = 250.0;
const LEFT: f64 = 50.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 40.0;
/// Letters of a row's label.
const LONGEST: usize = 56;

/// Dashes of the series' lines, which tell them apart beside their colors.
pub const DASHES: [&str; 8] = ["", "6 3", "2 2", "8 3 2 3", "", "6 3", "2 2", "8 3 2 3"];

/// The class that gives a series its color; all beyond the eighth are gray.
pub fn series(at: Option<usize>) -> String {
    match at {
        Some(at) if at < DASHES.len() => format!("s{at}"),
        _ => "s8".to_string(),
    }
}

/// The least range that holds all finite values, a little wider; from 0 to 1 where there are none.
pub fn range(values: impl IntoIterator<Item = f64>) -> (f64, f64) {
    let finite = values.into_iter().filter(|value| value.is_finite());
    let (lo, hi) = finite
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(lo, hi), value| (lo.min(value), hi.max(value)));
    if lo > hi {
        return (0.0, 1.0);
    }
    let around = match hi - lo {
        0.0 => lo.abs().max(1.0) * 0.05,
        width => width * 0.04,
    };
    (lo - around, hi + around)
}

/// Round values in a range.
pub fn ticks((lo, hi): (f64, f64), about: usize) -> Vec<f64> {
    let step = round_step((hi - lo) / about.max(1) as f64);
    let first = (lo / step).ceil();
    let count = ((hi / step).floor() - first).max(-1.0) as i64 + 1;
    (0..count.min(50)).map(|at| (first + at as f64) * step).collect()
}

/// A chart with its axes.
pub struct Chart {
    height: f64,
    left: f64,
    bottom: f64,
    x: (f64, f64),
    y: (f64, f64),
    body: String,
    label: String,
}

impl Chart {
    /// Two axes with round ticks; their titles say the units.
    pub fn new(label: &str, x: (f64, f64), y: (f64, f64), titles: [&str; 2]) -> Self {
        let mut chart = Self::bare(label, x, y, HEIGHT, LEFT);
        chart.x_axis(&ticks(x, 6), titles[0]);
        chart.y_axis(&ticks(y, 5), titles[1]);
        chart
    }

    /// Epochs, from 1, across.
    pub fn epochs(label: &str, last: usize, y: (f64, f64), title: &str) -> Self {
        let x = match last {
            1 => (0.5, 1.5),
            last => (1.0, last as f64),
        };
        let mut chart = Self::bare(label, x, y, HEIGHT, LEFT);
        let whole = ticks(x, 6).into_iter().filter(|tick| tick.fract() == 0.0);
        chart.x_axis(&whole.collect::<Vec<_>>(), "epoch");
        chart.y_axis(&ticks(y, 5), title);
        chart
    }

    /// Rows under each other on a common axis, each with its label above; the rows' places are 0,
    /// 1, 2, ….
    pub fn rows(label: &str, x: (f64, f64), title: &str, rows: usize, height: f64) -> Self {
        let y = (rows as f64 - 0.5, -0.5);
        let mut chart = Self::bare(label, x, y, TOP + BOTTOM + height * rows as f64, 16.0);
        chart.x_axis(&ticks(x, 6), title);
        chart
    }

    /// Named places along the axis: 0, 1, 2, ….
    pub fn places(label: &str, names: &[&str], y: (f64, f64), titles: [&str; 2]) -> Self {
        let x = (-0.5, names.len() as f64 - 0.5);
        let mut chart = Self::bare(label, x, y, HEIGHT, LEFT);
        chart.y_axis(&ticks(y, 5), titles[1]);
        for (at, name) in names.iter().enumerate() {
            let x = chart.x(at as f64);
            let y = chart.floor() + 15.0;
            let _ = write!(
                chart.body,
                "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"middle\">{}</text>",
                escape(name)
            );
        }
        chart.x_axis(&[], titles[0]);
        chart
    }

    fn bare(label: &str, x: (f64, f64), y: (f64, f64), height: f64, left: f64) -> Self {
        Self { height, left, bottom: BOTTOM, x, y, body: String::new(), label: label.to_string() }
    }

    /// Across, of a value.
    pub fn x(&self, value: f64) -> f64 {
        let part = (value - self.x.0) / (self.x.1 - self.x.0);
        self.left + part * (WIDTH - RIGHT - self.left)
    }

    /// Down, of a value.
    pub fn y(&self, value: f64) -> f64 {
        let part = (value - self.y.0) / (self.y.1 - self.y.0);
        self.floor() - part * (self.floor() - TOP)
    }

    fn floor(&self) -> f64 {
        self.height - self.bottom
    }

    fn x_axis(&mut self, ticks: &[f64], title: &str) {
        let floor = self.floor();
        for &tick in ticks {
            let x = self.x(tick);
            let _ = write!(
                self.body,
                "<path class=\"g\" d=\"M{x:.1} {TOP}V{floor:.1}\"/><text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                floor + 15.0,
                number(tick)
            );
        }
        let (left, right) = (self.left, WIDTH - RIGHT);
        let _ = write!(
            self.body,
            "<path class=\"ax\" d=\"M{left} {floor:.1}H{right}\"/><text class=\"t\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            (left + right) / 2.0,
            floor + 33.0,
            escape(title)
        );
    }

    fn y_axis(&mut self, ticks: &[f64], title: &str) {
        let (left, right) = (self.left, WIDTH - RIGHT);
        for &tick in ticks {
            let y = self.y(tick);
            let _ = write!(
                self.body,
                "<path class=\"g\" d=\"M{left} {y:.1}H{right}\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                left - 5.0,
                y + 4.0,
                number(tick)
            );
        }
        let middle = (TOP + self.floor()) / 2.0;
        let _ = write!(
            self.body,
            "<path class=\"ax\" d=\"M{left} {TOP}V{:.1}\"/><text class=\"t\" transform=\"translate(11 {middle:.1}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
            self.floor(),
            escape(title)
        );
    }

    /// A line through points, broken where one is not finite.
    pub fn line(&mut self, points: &[(f64, f64)], class: &str, dash: &str, title: &str) {
        let mut path = String::new();
        let mut begun = false;
        for &(x, y) in points {
            if !x.is_finite() || !y.is_finite() {
                begun = false;
                continue;
            }
            let letter = if begun { 'L' } else { 'M' };
            let _ = write!(path, "{letter}{:.1} {:.1}", self.x(x), self.y(y));
            begun = true;
        }
        if path.is_empty() {
            return;
        }
        let dash = match dash {
            "" => String::new(),
            dash => format!(" stroke-dasharray=\"{dash}\""),
        };
        let _ = write!(
            self.body,
            "<path class=\"l {class}\" d=\"{path}\"{dash}><title>{}</title></path>",
            escape(title)
        );
    }

    /// A dot that says what it is.
    pub fn dot(&mut self, (x, y): (f64, f64), radius: f64, class: &str, title: &str) {
        if x.is_finite() && y.is_finite() {
            let (x, y) = (self.x(x), self.y(y));
            let _ = write!(
                self.body,
                "<circle class=\"d {class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\"><title>{}</title></circle>",
                escape(title)
            );
        }
    }

    /// A bar from the floor of the chart.
    pub fn bar(&mut self, x: (f64, f64), y: f64, class: &str, title: &str) {
        let (left, right, top) = (self.x(x.0), self.x(x.1), self.y(y));
        let _ = write!(
            self.body,
            "<rect class=\"d {class}\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{:.1}\"><title>{}</title></rect>",
            (right - left - 1.0).max(0.5),
            (self.floor() - top).max(0.0),
            escape(title)
        );
    }

    /// A straight line between two points, as a rule for the eye.
    pub fn rule(&mut self, from: (f64, f64), to: (f64, f64)) {
        let (x1, y1, x2, y2) = (self.x(from.0), self.y(from.1), self.x(to.0), self.y(to.1));
        let _ = write!(self.body, "<path class=\"rule\" d=\"M{x1:.1} {y1:.1}L{x2:.1} {y2:.1}\"/>");
    }

    /// The label of a row, above its line.
    pub fn label(&mut self, row: f64, text: &str) {
        let shown: String = if text.chars().count() > LONGEST {
            text.chars().take(LONGEST - 1).chain(['…']).collect()
        } else {
            text.to_string()
        };
        let _ = write!(
            self.body,
            "<text class=\"n\" x=\"{:.1}\" y=\"{:.1}\">{}<title>{}</title></text>",
            self.left,
            self.y(row) - 4.0,
            escape(&shown),
            escape(text)
        );
    }

    /// The element.
    pub fn finish(self) -> String {
        let label = escape(&self.label);
        format!(
            "<figure class=\"chart\"><figcaption>{label}</figcaption><svg viewBox=\"0 0 {WIDTH} {}\" role=\"img\" aria-label=\"{label}\">{}</svg></figure>\n",
            self.height, self.body
        )
    }
}

/// A tick's number, with a minus as wide as a plus.
fn number(value: f64) -> String {
    short(value).replace('-', "−")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_within_the_range() {
        assert_eq!(ticks((0.0, 1.0), 5), [0.0, 0.2, 0.4, 0.6000000000000001, 0.8, 1.0]);
        assert_eq!(ticks((-3.0, 3.0), 6), [-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0]);
        assert!(ticks((5.0, 5.0), 6).len() <= 50);
    }

    #[test]
    fn values_lie_between_the_axes_and_what_is_not_finite_is_not_drawn() {
        let mut chart = Chart::new("c", (0.0, 10.0), (0.0, 1.0), ["x", "y"]);
        assert_eq!((chart.x(0.0), chart.x(10.0)), (LEFT, WIDTH - RIGHT));
        assert_eq!((chart.y(0.0), chart.y(1.0)), (HEIGHT - BOTTOM, TOP));
        chart.line(&[(0.0, 0.0), (1.0, f64::NAN), (2.0, 1.0), (3.0, 1.0)], "s0", "", "<t>");
        chart.dot((f64::NAN, 1.0), 2.0, "s0", "none");
        let svg = chart.finish();
        assert!(
            svg.contains("&lt;t&gt;") && !svg.contains("NaN") && !svg.contains("none"),
            "{svg}"
        );
        let path = svg.split("class=\"l s0\" d=\"").nth(1).unwrap();
        assert_eq!(path.split('"').next().unwrap().matches('M').count(), 2);
    }

    #[test]
    fn a_range_holds_its_values() {
        assert_eq!(range([]), (0.0, 1.0));
        let (lo, hi) = range([2.0, f64::NAN, 2.0]);
        assert!(lo < 2.0 && hi > 2.0);
    }
}
