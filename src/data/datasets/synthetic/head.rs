//! Skin: its color under the light, the head, the ears, and facial hair.

use super::canvas::{
    Canvas, Clouds, Color, Noise, Point, blend, coverage, ellipse, mix, scaled, smooth,
    soft_coverage, spot, tint,
};
use super::face::Face;
use super::layout::Layout;
use super::nuisance::{Beard, Look};

/// Skin from fair to deep, sRGB.
#[rustfmt::skip]
const SKIN_COLORS: [Color; 7] = [
    [0.95, 0.82, 0.73], [0.92, 0.74, 0.62], [0.88, 0.69, 0.54], [0.78, 0.57, 0.42],
    [0.66, 0.45, 0.32], [0.51, 0.34, 0.23], [0.38, 0.25, 0.18],
];

/// Returns the color that a deep shadow multiplies skin by: less blue and green than red, as light
/// that passed through skin has.
pub(super) fn shadow_tint() -> Color {
    [0.62, 0.50, 0.46]
}

/// Light from one direction and from all around.
#[derive(Clone, Copy, Debug)]
pub(super) struct Light {
    pub(super) direction: [f32; 3],
    ambient: f32,
}

impl Light {
    /// Brightness of a surface whose normal points along `normal` (of about length one).
    pub(super) fn lambert(&self, normal: [f32; 3]) -> f32 {
        let cosine: f32 = (0..3).map(|i| normal[i] * self.direction[i]).sum();
        // Wrapped around the edge: faces have no hard terminator.
        let wrapped = ((cosine + 0.35) / 1.35).max(0.0);
        self.ambient + 1.15 * (1.0 - self.ambient) * wrapped
    }
}

#[derive(Debug)]
pub(super) struct Skin {
    pub(super) color: Color,
    pub(super) light: Light,
    texture: f32,
    blotches: Clouds,
}

impl Skin {
    pub(super) fn new(face: &Face) -> Self {
        let last = SKIN_COLORS.len() - 1;
        let position = face.look.tone.clamp(0.0, 1.0) * last as f32;
        let first = (position as usize).min(last - 1);
        let color = mix(SKIN_COLORS[first], SKIN_COLORS[first + 1], position - first as f32);
        Self {
            color,
            light: Light { direction: face.scene.light, ambient: face.scene.ambient },
            texture: face.look.texture,
            blotches: Clouds::new(face.look.grain_seed ^ 0x91),
        }
    }

    /// Computes the color at `at` of skin that faces along `normal`.
    pub(super) fn lit(&self, at: Point, normal: [f32; 3]) -> Color {
        let blotches = self.blotches.at([11.0 * at[0], 11.0 * at[1]]);
        let brightness = self.light.lambert(normal) * (1.0 + 0.05 * self.texture * blotches);
        let mut color = scaled(self.color, brightness.max(0.97));
        // Shade turns redder as it deepens.
        tint(&mut color, shadow_tint(), (1.6 * (1.0 - brightness)).clamp(0.0, 1.0));
        color
    }
}

pub(super) fn paint_ears(canvas: &mut Canvas, look: &Look, layout: &Layout, skin: &Skin) {
    let px = canvas.pixel();
    let [w, h] = layout.half;
    let out = 0.035 + 0.045 * look.ears;
    for side in [-1.0, 1.0] {
        let center = [side * (w + out - 0.06), 0.07 * h];
        let radii = [0.085, 0.17];
        let [x, y] = center;
        let bounds = [x - 0.12, y - 0.2, x + 0.12, y + 0.2];
        canvas.paint(bounds, |at, pixel| {
            let rim = ellipse(at, center, radii);
            let mut color = skin.lit(at, [0.75 * side, 0.0, 0.6]);
            let hollow = soft_coverage(ellipse(at, [x + 0.012 * side, y], [0.045, 0.115]), 0.05);
            tint(&mut color, shadow_tint(), 0.75 * hollow);
            blend(pixel, color, coverage(rim, px));
        });
    }
}

/// Paints the head without features: rounded by light, with cheeks, sockets, chin, freckles.
pub(super) fn paint_head(canvas: &mut Canvas, look: &Look, layout: &Layout, skin: &Skin) {
    let px = canvas.pixel();
    let [w, h] = layout.half;
    let mouth = layout.mouth;
    let bounds = [-w - 0.15, -h - 0.05, w + 0.15, h + 0.05];
    let freckles = Noise::new(look.grain_seed ^ 0x1f);
    canvas.paint(bounds, |at, pixel| {
        let distance = layout.head_distance(at);
        let edge = coverage(distance, px);
        if edge == 0.0 {
            return;
        }
        let [x, y] = at;
        let (u, v) = (x / w, y / h);
        let flat = (1.0 - 0.80 * u * u - 0.55 * v * v).max(0.08);
        let mut color = skin.lit(at, [0.89 * u, 0.74 * v, flat.sqrt()]);
        // The outline turns away from the viewer: a soft darker rim.
        tint(&mut color, shadow_tint(), 0.38 * soft_coverage(-distance - 0.03, 0.12));
        for (eye, side) in layout.eyes.iter().zip([-1.0, 1.0]) {
            let [ex, ey] = eye.center;
            let socket = spot(at, [ex, ey - 0.02], [0.24, 0.17]);
            tint(&mut color, shadow_tint(), 0.26 * socket);
            let inner = spot(at, [ex - 0.14 * side, ey - 0.03], [0.10, 0.15]);
            tint(&mut color, shadow_tint(), 0.30 * inner);
            let cheek = [side * 0.56 * w, 0.32 * h];
            let flush = spot(at, cheek, [0.27, 0.22]);
            tint(&mut color, [1.06, 0.80, 0.80], (0.25 + 0.75 * look.blush) * flush);
            let bone = spot(at, [side * 0.54 * w, 0.20 * h], [0.19, 0.10]);
            blend(&mut color, [1.0, 0.97, 0.93], 0.10 * bone);
            let fold = nasolabial(at, layout, side);
            tint(&mut color, shadow_tint(), 0.55 * look.lines * fold);
        }
        let [mx, my] = mouth.center;
        let forehead = spot(at, [-0.12 + 0.3 * skin.light.direction[0], -0.50 * h], [0.38, 0.24]);
        blend(&mut color, [1.0, 0.97, 0.93], 0.12 * forehead);
        let under_lip = spot(at, [mx, my + mouth.open + mouth.lower + 0.055], [0.15, 0.05]);
        tint(&mut color, shadow_tint(), 0.45 * under_lip);
        let chin = spot(at, [layout.chin, 0.86 * h], [0.16, 0.10]);
        blend(&mut color, [1.0, 0.96, 0.92], 0.10 * chin);
        if look.freckles > 0.0 {
            let where_ = spot(at, [0.0, 0.2 * h], [0.95 * w, 0.38]);
            let dots = freckles.at([34.0 * x, 34.0 * y]) - 0.35;
            let dots = (3.0 * dots).clamp(0.0, 1.0) * where_;
            tint(&mut color, [0.72, 0.58, 0.48], look.freckles * dots);
        }
        blend(pixel, color, edge);
    });
}

/// Returns the strength of the fold that runs from the wing of the nose to the corner of the mouth.
fn nasolabial([x, y]: Point, layout: &Layout, side: f32) -> f32 {
    let nose = layout.nose;
    let from = [nose.tip[0] + side * (nose.half_width + 0.03), nose.tip[1] - 0.02];
    let to = [
        layout.mouth.center[0] + side * (layout.mouth.half_width + 0.05),
        layout.mouth.center[1] - layout.mouth.lift,
    ];
    let drop = (to[1] - from[1]).max(0.02);
    let t = (y - from[1]) / drop;
    if !(0.0..=1.0).contains(&t) {
        return 0.0;
    }
    let middle = from[0] + (to[0] - from[0]) * t + side * 0.04 * t * (1.0 - t);
    let across = (1.0 - ((x - middle) / 0.035).abs()).max(0.0);
    smooth(across) * 4.0 * t * (1.0 - t)
}

/// Paints stubble or a beard over jaw, chin and upper lip; the mouth is painted over it.
pub(super) fn paint_beard(canvas: &mut Canvas, look: &Look, layout: &Layout, skin: &Skin) {
    let (strength, fringe) = match look.beard {
        Beard::None => return,
        Beard::Stubble => (0.36, 0.0),
        Beard::Full => (0.90, 0.035),
    };
    let px = canvas.pixel();
    let [w, h] = layout.half;
    let [mx, my] = layout.mouth.center;
    let nose_tip = layout.nose.tip;
    let bounds = [-w - 0.2, 0.0, w + 0.2, h + 0.15];
    let (fine, coarse) = (Noise::new(look.grain_seed ^ 0xbe), Noise::new(look.grain_seed ^ 0xbd));
    canvas.paint(bounds, |at, pixel| {
        let [x, y] = at;
        let hairs = 0.7 * fine.at([61.0 * x, 23.0 * y]) + 0.4 * coarse.at([23.0 * x, 9.0 * y]);
        let outside = layout.head_distance(at) - fringe * (1.0 + 0.5 * hairs);
        let edge = coverage(outside, px);
        if edge == 0.0 {
            return;
        }
        // The upper border hangs from the ears to below the cheeks and rises to the moustache.
        let across = ((x - mx) / w).abs().min(1.0);
        let cheek = 0.62 * h - 0.55 * h * smooth(across);
        let jaw = soft_coverage(cheek + 0.02 * hairs - y, 0.14);
        let lip_top = 0.5 * (nose_tip[1] + 0.03 + my);
        let half_height = (0.5 * (my - nose_tip[1]) + 0.01).max(0.04);
        let moustache =
            ellipse(at, [mx, lip_top + 0.01], [layout.mouth.half_width + 0.09, half_height]);
        let covered = jaw.max(soft_coverage(moustache, 0.06));
        let lit = skin.light.lambert([x / w, 0.3, 0.7]);
        let color = scaled(look.hair_color, lit * (0.85 + 0.22 * hairs));
        let density = strength * (1.0 + 0.15 * hairs);
        blend(pixel, color, (density * covered * edge).min(1.0));
    });
}
