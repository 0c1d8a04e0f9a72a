//! Charts as inline SVG: axes and marks, without scripts, in the colors of the page's style sheet.

use maud::{Markup, PreEscaped, html};

use crate::report::axis::{Axis, short};

/// Width of every chart in SVG units, which are pixels on a phone.
const WIDTH: f64 = 360.0;
const HEIGHT: f64 = 250.0;
const LEFT: f64 = 50.0;
const RIGHT: f64 = WIDTH - 16.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 40.0;
/// Characters that fit above a row or below the x axis.
const LABEL_LENGTH: usize = 56;
/// Characters that fit beside the y axis.
const Y_TITLE_LENGTH: usize = 34;

/// Dash patterns of the series' lines, which distinguish them in addition to their colors.
pub(super) const DASHES: [&str; 8] = ["", "6 3", "2 2", "8 3 2 3", "", "6 3", "2 2", "8 3 2 3"];

/// Returns the CSS class that colors a series; all beyond the eighth are gray.
pub(super) fn series_class(index: Option<usize>) -> String {
    format!("s{}", index.unwrap_or(DASHES.len()).min(DASHES.len()))
}

pub(super) struct Chart {
    height: f64,
    left: f64,
    x: Axis,
    y: Axis,
    body: String,
    caption: String,
}

impl Chart {
    /// Creates a chart with two numeric axes, whose titles state the units.
    pub(super) fn new(caption: &str, x: Axis, y: Axis, titles: [&str; 2]) -> Self {
        let mut chart = Self::without_axes(caption, x, y, HEIGHT, LEFT);
        chart.x_axis(&x.ticks(6), titles[0]);
        chart.y_axis(titles[1]);
        chart
    }

    /// Creates a chart whose x axis is logarithmic: `x` and the points have decimal logarithms.
    pub(super) fn logarithmic(caption: &str, x: Axis, y: Axis, titles: [&str; 2]) -> Self {
        let mut chart = Self::without_axes(caption, x, y, HEIGHT, LEFT);
        let powers = (x.from.ceil() as i64)..=(x.to.floor() as i64);
        let ticks = powers.map(|power| (power as f64, format!("1e{power}").replace('-', "−")));
        chart.labeled_x_axis(ticks.collect(), titles[0]);
        chart.y_axis(titles[1]);
        chart
    }

    /// Creates a chart over epochs, from 1 to `last`.
    pub(super) fn epochs(caption: &str, last: usize, y: Axis, title: &str) -> Self {
        let x = if last == 1 { Axis::new(0.5, 1.5) } else { Axis::new(1.0, last as f64) };
        let mut chart = Self::without_axes(caption, x, y, HEIGHT, LEFT);
        let ticks = x.ticks(6).into_iter().filter(|tick| tick.fract() == 0.0);
        chart.x_axis(&ticks.collect::<Vec<_>>(), "epoch");
        chart.y_axis(title);
        chart
    }

    /// Creates a chart of rows on a common axis, each with its label above; row `i` is at y = `i`.
    pub(super) fn rows(caption: &str, x: Axis, title: &str, rows: usize, row_height: f64) -> Self {
        let y = Axis::new(rows as f64 - 0.5, -0.5);
        let height = TOP + BOTTOM + row_height * rows as f64;
        let mut chart = Self::without_axes(caption, x, y, height, 16.0);
        chart.x_axis(&x.ticks(6), title);
        chart
    }

    /// Creates a chart over categories; category `i` is at x = `i`.
    pub(super) fn categories(caption: &str, names: &[&str], y: Axis, titles: [&str; 2]) -> Self {
        let x = Axis::new(-0.5, names.len() as f64 - 0.5);
        let mut chart = Self::without_axes(caption, x, y, HEIGHT, LEFT);
        chart.y_axis(titles[1]);
        for (i, name) in names.iter().enumerate() {
            let (x, y) = (px(chart.x(i as f64)), px(chart.floor() + 15.0));
            chart.add(html! { text x=(x) y=(y) text-anchor="middle" { (name) } });
        }
        chart.x_axis(&[], titles[0]);
        chart
    }

    fn without_axes(caption: &str, x: Axis, y: Axis, height: f64, left: f64) -> Self {
        Self { height, left, x, y, body: String::new(), caption: caption.to_string() }
    }

    fn add(&mut self, mark: Markup) {
        self.body += &mark.into_string();
    }

    fn x(&self, value: f64) -> f64 {
        self.left + self.x.position(value) * (RIGHT - self.left)
    }

    fn y(&self, value: f64) -> f64 {
        self.floor() - self.y.position(value) * (self.floor() - TOP)
    }

    fn floor(&self) -> f64 {
        self.height - BOTTOM
    }

    fn x_axis(&mut self, ticks: &[f64], title: &str) {
        self.labeled_x_axis(ticks.iter().map(|&tick| (tick, tick_label(tick))).collect(), title);
    }

    fn labeled_x_axis(&mut self, ticks: Vec<(f64, String)>, title: &str) {
        let floor = self.floor();
        for (tick, label) in ticks {
            let x = px(self.x(tick));
            self.add(html! {
                path.g d={ "M" (x) " " (TOP) "V" (px(floor)) } {}
                text x=(x) y=(px(floor + 15.0)) text-anchor="middle" { (label) }
            });
        }
        self.add(html! {
            path.ax d={ "M" (self.left) " " (px(floor)) "H" (RIGHT) } {}
            text.t x=(px((self.left + RIGHT) / 2.0)) y=(px(floor + 33.0)) text-anchor="middle" {
                (shortened(title, LABEL_LENGTH)) title { (title) }
            }
        });
    }

    fn y_axis(&mut self, title: &str) {
        let left = self.left;
        for tick in self.y.ticks(5) {
            let y = self.y(tick);
            self.add(html! {
                path.g d={ "M" (left) " " (px(y)) "H" (RIGHT) } {}
                text x=(px(left - 5.0)) y=(px(y + 4.0)) text-anchor="end" { (tick_label(tick)) }
            });
        }
        let middle = px((TOP + self.floor()) / 2.0);
        self.add(html! {
            path.ax d={ "M" (left) " " (TOP) "V" (px(self.floor())) } {}
            text.t transform={ "translate(11 " (middle) ") rotate(-90)" } text-anchor="middle" {
                (shortened(title, Y_TITLE_LENGTH)) title { (title) }
            }
        });
    }

    /// Draws a line through points, interrupted where one is not finite.
    pub(super) fn line(&mut self, points: &[(f64, f64)], class: &str, dash: &str, title: &str) {
        let mut path = String::new();
        let mut pen_down = false;
        for &(x, y) in points {
            let finite = x.is_finite() && y.is_finite();
            if finite {
                let command = if pen_down { 'L' } else { 'M' };
                path += &format!("{command}{:.1} {:.1}", self.x(x), self.y(y));
            }
            pen_down = finite;
        }
        if !path.is_empty() {
            let dash = (!dash.is_empty()).then_some(dash);
            self.add(html! {
                path class={ "l " (class) } d=(path) stroke-dasharray=[dash] { title { (title) } }
            });
        }
    }

    pub(super) fn dot(&mut self, (x, y): (f64, f64), radius: f64, class: &str, title: &str) {
        if x.is_finite() && y.is_finite() {
            self.add(html! {
                circle class={ "d " (class) } cx=(px(self.x(x))) cy=(px(self.y(y))) r=(radius) {
                    title { (title) }
                }
            });
        }
    }

    /// Draws a bar from the x axis up to `y`.
    pub(super) fn bar(&mut self, x: (f64, f64), y: f64, class: &str, title: &str) {
        let (left, right, top) = (self.x(x.0), self.x(x.1), self.y(y));
        let (width, height) = ((right - left - 1.0).max(0.5), (self.floor() - top).max(0.0));
        self.add(html! {
            rect class={ "d " (class) } x=(px(left)) y=(px(top)) width=(px(width))
                height=(px(height)) { title { (title) } }
        });
    }

    pub(super) fn reference_line(&mut self, from: (f64, f64), to: (f64, f64)) {
        let (x1, y1, x2, y2) = (self.x(from.0), self.y(from.1), self.x(to.0), self.y(to.1));
        self.add(html! {
            path.rule d={ "M" (px(x1)) " " (px(y1)) "L" (px(x2)) " " (px(y2)) } {}
        });
    }

    pub(super) fn row_label(&mut self, row: f64, label: &str) {
        self.add(html! {
            text.n x=(px(self.left)) y=(px(self.y(row) - 4.0)) {
                (shortened(label, LABEL_LENGTH)) title { (label) }
            }
        });
    }

    pub(super) fn finish(self) -> Markup {
        html! {
            figure.chart {
                figcaption { (self.caption) }
                svg viewBox={ "0 0 " (WIDTH) " " (self.height) } role="img"
                    aria-label=(self.caption) { (PreEscaped(self.body)) }
            }
        }
    }
}

/// Returns a label, or its beginning with an ellipsis if it has more characters than `length`.
fn shortened(label: &str, length: usize) -> String {
    if label.chars().count() > length {
        label.chars().take(length - 1).chain(['…']).collect()
    } else {
        label.to_string()
    }
}

fn px(value: f64) -> String {
    format!("{value:.1}")
}

/// Formats a tick's value with a minus sign as wide as a plus sign.
fn tick_label(value: f64) -> String {
    short(value).replace('-', "−")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_title_longer_than_its_axis_is_shortened_and_shown_whole_on_hover() {
        let axis = Axis::new(0.0, 1.0);
        let name = "predicted, lr=0.0001,backbone_lr=0.001";
        let svg = Chart::new("c", axis, axis, ["x", name]).finish().into_string();
        let title = format!("<title>{name}</title>");
        assert!(svg.contains(&format!("predicted, lr=0.0001,backbone_lr=…{title}")), "{svg}");
    }

    #[test]
    fn values_are_between_the_axes_and_non_finite_ones_are_not_drawn() {
        let (x, y) = (Axis::new(0.0, 10.0), Axis::new(0.0, 1.0));
        let mut chart = Chart::new("c", x, y, ["x", "y"]);
        assert_eq!((chart.x(0.0), chart.x(10.0)), (LEFT, RIGHT));
        assert_eq!((chart.y(0.0), chart.y(1.0)), (HEIGHT - BOTTOM, TOP));
        chart.line(&[(0.0, 0.0), (1.0, f64::NAN), (2.0, 1.0), (3.0, 1.0)], "s0", "", "<t>");
        chart.dot((f64::NAN, 1.0), 2.0, "s0", "none");
        let svg = chart.finish().into_string();
        assert!(
            svg.contains("&lt;t&gt;") && !svg.contains("NaN") && !svg.contains("none"),
            "{svg}"
        );
        let path = svg.split("class=\"l s0\" d=\"").nth(1).unwrap();
        assert_eq!(path.split('"').next().unwrap().matches('M').count(), 2);
    }
}
