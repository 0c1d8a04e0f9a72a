//! The hair behind the head and on it.

use super::canvas::{
    Canvas, Color, Noise, Point, blend, coverage, ellipse, scaled, smooth, soft_coverage, tint,
};
use super::head::{Light, shadow_tint};
use super::layout::{Layout, skull};
use super::nuisance::{HairStyle, Look};

/// The measures of a cut: all lengths in face units, heights in half heights of the head.
struct Cut {
    /// Thickness over the top of the head and at its sides.
    top: f32,
    side: f32,
    /// Height of the hairline over the center of the head, in the middle of the forehead.
    line: f32,
    /// The drop of the hairline at the temples.
    drop: f32,
    /// The lowest point of the hair at the sides of the face.
    end: f32,
    /// Roughness of the outline.
    curl: f32,
    /// The visibility of the skin through the hair, 0 (none) to 1.
    bare: f32,
}

impl Cut {
    fn new(look: &Look) -> Option<Self> {
        let volume = look.hair_volume;
        let short = Self {
            top: 0.06 + 0.07 * volume,
            side: 0.02 + 0.03 * volume,
            line: 0.62,
            drop: 0.50,
            end: 0.02,
            curl: 0.008,
            bare: 0.0,
        };
        Some(match look.hair_style {
            HairStyle::Bald => return None,
            HairStyle::Buzz => Self { top: 0.012, side: 0.008, bare: 0.35, curl: 0.0, ..short },
            HairStyle::Short => short,
            HairStyle::SideParting => Self { top: 0.09 + 0.07 * volume, line: 0.60, ..short },
            HairStyle::Fringe => {
                Self { line: 0.40, drop: 0.22, side: 0.05 + 0.04 * volume, end: 0.10, ..short }
            }
            HairStyle::Bob | HairStyle::Long => Self {
                top: 0.08 + 0.06 * volume,
                side: 0.05 + 0.05 * volume,
                drop: 0.62,
                end: 0.35,
                ..short
            },
            HairStyle::Curly => Self {
                top: 0.13 + 0.14 * volume,
                side: 0.07 + 0.12 * volume,
                end: 0.15,
                curl: 0.05,
                ..short
            },
            HairStyle::Bun => Self { top: 0.04 + 0.02 * volume, side: 0.015, line: 0.66, ..short },
        })
    }
}

/// Hair in strands that run away from `crown`.
struct Strands<'a> {
    crown: Point,
    look: &'a Look,
    light: &'a Light,
    half: [f32; 2],
    noise: [Noise; 2],
}

impl<'a> Strands<'a> {
    fn new(crown: Point, look: &'a Look, light: &'a Light, half: [f32; 2]) -> Self {
        let seed = look.grain_seed ^ 0x4a1;
        Self { crown, look, light, half, noise: [seed, seed ^ 7].map(Noise::new) }
    }

    /// Computes the color of hair at `at`.
    fn color(&self, at: Point) -> Color {
        let [x, y] = at;
        let (dx, dy) = (x - self.crown[0], y - self.crown[1]);
        let reach = dx.abs() + dy.abs() + 0.05;
        // Constant along a ray from the crown, like an angle, but cheap and the same everywhere.
        let ray = dx / reach + if dy < 0.0 { 4.0 } else { 0.0 };
        let [coarse, fine] = &self.noise;
        let streak = if self.look.hair_style == HairStyle::Curly {
            coarse.at([15.0 * x, 15.0 * y]) + 0.5 * fine.at([31.0 * x, 31.0 * y])
        } else {
            coarse.at([17.0 * ray, 2.5 * reach]) + 0.6 * fine.at([41.0 * ray, 4.0 * reach])
        };
        let (u, v) = (x / (self.half[0] + 0.2), y / (self.half[1] + 0.2));
        let facing = (1.0 - (0.8 * u * u + 0.7 * v * v)).max(0.1).sqrt();
        let lit = self.light.lambert([0.9 * u, 0.8 * v, facing]);
        // A band of gloss half way down from the crown.
        let band = (1.0 - ((reach - 0.32) / 0.16).abs()).max(0.0);
        let gloss = 0.16 * smooth(band) * (1.0 + 0.6 * streak) * lit;
        let base = scaled(self.look.hair_color, lit * (1.0 + 0.20 * streak));
        base.map(|channel| channel + gloss * (0.35 + channel))
    }
}

/// Paints the hair behind head and neck: long hair, a bob, a bun.
pub(super) fn paint_back_hair(canvas: &mut Canvas, look: &Look, layout: &Layout, light: &Light) {
    let px = canvas.pixel();
    let half = layout.half;
    let [w, h] = half;
    let volume = 0.10 + 0.10 * look.hair_volume;
    let seed = look.grain_seed ^ 0xb0b;
    let bottom = match look.hair_style {
        HairStyle::Long => 1.5,
        HairStyle::Bob => 0.80 * h,
        HairStyle::Bun => {
            let center = [0.0, -h - 0.10];
            let radius = 0.19 + 0.05 * look.hair_volume;
            let swirl = [center[0] + 0.05, center[1] - 0.04];
            let strands = Strands::new(swirl, look, light, half);
            canvas.paint([-0.4, -h - 0.5, 0.4, -h + 0.2], |at, pixel| {
                let distance = ellipse(at, center, [radius, 0.85 * radius]);
                blend(pixel, scaled(strands.color(at), 0.9), coverage(distance, px));
            });
            return;
        }
        _ => return,
    };
    // The same noise in three places, each of which remembers its own cell.
    let [waves, ends, streaks] = [seed; 3].map(Noise::new);
    let fine = Noise::new(seed ^ 5);
    canvas.paint([-w - 0.4, -h - 0.3, w + 0.4, bottom + 0.1], |at, pixel| {
        let [x, y] = at;
        let t = ((y + 0.3 * h) / (bottom + 0.3 * h)).clamp(0.0, 1.0);
        let wave = 0.02 * waves.at([3.0, 4.0 * y]);
        // Falls from the crown, a little wider towards the ends, which are rounded.
        let half_width = (w + volume) * (0.94 + 0.14 * smooth(t)) + wave;
        let crown = ellipse(at, [0.0, -0.1 * h], [w + volume - 0.02, 0.95 * h]);
        let ragged = 0.03 * ends.at([14.0 * x, 0.0]);
        let corner = (x.abs() - half_width + 0.12).max(0.0);
        let foot = (y - bottom + ragged + 0.12).max(0.0);
        let curtain = (corner * corner + foot * foot).sqrt() - 0.12;
        let distance = crown.min(curtain.max(-0.1 * h - y));
        let edge = coverage(distance, px);
        if edge == 0.0 {
            return;
        }
        let streak = streaks.at([22.0 * x, 1.5 * y]) + 0.5 * fine.at([47.0 * x, 2.0 * y]);
        let shade = light.lambert([0.9 * x / (w + 0.3), 0.0, 0.6]) * (0.80 + 0.17 * streak);
        let mut color = scaled(look.hair_color, shade);
        // Darker where the head and the neck keep the light off.
        let inner = soft_coverage(x.abs() - w * 0.9, 0.3) * soft_coverage(-y, 0.5);
        tint(&mut color, shadow_tint(), 0.8 * inner);
        blend(pixel, color, edge);
    });
}

/// Paints the hair on the head, over the forehead and at the sides of the face.
pub(super) fn paint_front_hair(canvas: &mut Canvas, look: &Look, layout: &Layout, light: &Light) {
    let Some(cut) = Cut::new(look) else { return };
    let px = canvas.pixel();
    let half = layout.half;
    let [w, h] = half;
    let seed = look.grain_seed ^ 0xf00;
    let part = 0.35 * w * look.parting;
    let crown = [part, -0.98 * h];
    let reach = cut.top.max(cut.side) + 2.0 * cut.curl + 0.02;
    let bounds = [-w - reach, -h - reach, w + reach, cut.end * h + 0.1];
    let (outline, tips) = (Noise::new(seed), Noise::new(seed ^ 3));
    let strands = Strands::new(crown, look, light, half);
    canvas.paint(bounds, |at, pixel| {
        let [x, y] = at;
        let rough = cut.curl * outline.at([11.0 * x, 11.0 * y]);
        let thick = [w + cut.side, h + cut.top];
        let outer = cap(at, thick) + rough;
        // Under the equator the hair hugs the face down to where it ends.
        let below = y - cut.end * h;
        let line = hairline(x, &cut, look, w, h, part) + 0.4 * rough;
        let tufts = 0.025 * tips.at([26.0 * x, 0.5]);
        let inside = outer.max(y - line - tufts).max(below);
        let alpha = 1.0 - cut.bare;
        // The hair throws a soft shadow on the forehead.
        let shadow = soft_coverage(outer.max(y - line - 0.05).max(below), 0.08);
        if shadow > 0.0 {
            let on_head = coverage(layout.head_distance(at), px);
            tint(pixel, shadow_tint(), 0.45 * alpha * shadow * on_head);
        }
        let edge = if cut.bare > 0.0 { soft_coverage(inside, 0.06) } else { coverage(inside, px) };
        if edge > 0.0 {
            blend(pixel, strands.color(at), alpha * edge);
        }
    });
}

/// Returns the signed distance to the skull's outline with the given half axes.
fn cap([x, y]: Point, [w, h]: [f32; 2]) -> f32 {
    let (u, t) = (x / w, y / h);
    let (round, round_slope) = skull(t);
    let gradient = [2.0 * u / w, round_slope / h];
    let length = (gradient[0] * gradient[0] + gradient[1] * gradient[1]).sqrt();
    (u * u + round - 1.0) / length.max(0.5)
}

/// Returns the height (y, down) of the lower border of the hair at `x`.
fn hairline(x: f32, cut: &Cut, look: &Look, w: f32, h: f32, part: f32) -> f32 {
    let u = (x / w).clamp(-1.0, 1.0);
    match look.hair_style {
        // Two curtains that fall from the parting.
        HairStyle::Long | HairStyle::Bob => {
            let away = ((x - part) / w).abs().min(1.5);
            let outer = u * u * u * u;
            -cut.line * h - 0.10 * h
                + 0.35 * h * away * (1.0 - 0.3 * away)
                + 0.85 * h * outer * outer
        }
        // Higher on the side of the parting.
        HairStyle::SideParting => {
            let sweep = if part > 0.0 { u } else { -u };
            -cut.line * h + 0.16 * h * (-sweep).max(0.0) + cut.drop * h * u * u * u * u
        }
        // A fringe hides the temples before it drops at the sides.
        HairStyle::Fringe => {
            let outer = u * u * u * u;
            -cut.line * h + cut.drop * h * u * u + 0.45 * h * outer * outer * outer
        }
        _ => -cut.line * h + cut.drop * h * u * u * u * u + 0.06 * h * u * u,
    }
}
