//! Background, shoulders and neck.

use super::canvas::{
    Canvas, Clouds, Color, Point, blend, coverage, ellipse, lattice, mix, scaled, soft_coverage,
    spot, tint,
};
use super::face::Face;
use super::head::{Skin, shadow_tint};
use super::layout::Layout;
use super::nuisance::Look;

/// Paints a gradient with clouds and a few soft discs, like a room out of focus.
pub(super) fn paint_background(canvas: &mut Canvas, face: &Face) {
    let scene = &face.scene;
    let seed = face.look.grain_seed;
    // A disc's center, its radius, the square of the distance at which its soft edge has ended, and
    // its color.
    const BLUR: f32 = 0.16;
    let discs: [(Point, f32, f32, Color); 5] = std::array::from_fn(|i| {
        let random = |k: i32| lattice(i as i32, k, seed);
        let center = [1.1 * random(0), 1.1 * random(1)];
        let radius = 0.30 + 0.18 * random(2);
        let color =
            mix(scene.background[i % 2], [random(3).abs(), random(4).abs(), random(5).abs()], 0.5);
        // Where `ellipse`, which is (distance² - radius²) / (2 distance) there, is half the blur;
        // with a margin for rounding.
        let end = 0.5 * BLUR + (0.25 * BLUR * BLUR + radius * radius).sqrt();
        (center, radius, 1.01 * end * end, color)
    });
    let (large, small) = (Clouds::new(seed), Clouds::new(seed ^ 0x77));
    canvas.paint_all(|at, pixel| {
        let [x, y] = at;
        let t = 0.5 + 0.5 * y + 0.2 * scene.clutter * large.at([2.0 * x, 2.0 * y]);
        *pixel = mix(scene.background[0], scene.background[1], t.clamp(0.0, 1.0));
        for (center, radius, end, color) in discs {
            let (dx, dy) = (x - center[0], y - center[1]);
            if dx * dx + dy * dy > end {
                continue;
            }
            let inside = soft_coverage(ellipse(at, center, [radius, radius]), BLUR);
            blend(pixel, color, 0.35 * scene.clutter * inside);
        }
        let speckle = small.at([9.0 * x, 9.0 * y]);
        *pixel = scaled(*pixel, 1.0 + 0.08 * scene.clutter * speckle);
    });
}

/// Paints shoulders in clothes, and the neck with the shadow of the chin.
pub(super) fn paint_body(canvas: &mut Canvas, look: &Look, layout: &Layout, skin: &Skin) {
    let px = canvas.pixel();
    let [w, h] = layout.half;
    let neck = w * look.neck;
    let neck_base = h + 0.16;
    let folds = Clouds::new(look.grain_seed ^ 0x33);
    canvas.paint([-1.6, h - 0.1, 1.6, 1.6], |at, pixel| {
        let [x, y] = at;
        let distance = ellipse(at, [0.0, h + 0.75], [1.02, 0.66]);
        let edge = coverage(distance, px);
        if edge == 0.0 {
            return;
        }
        let fold = folds.at([6.0 * x, 2.0 * y]);
        let shade = skin.light.lambert([0.8 * x, -0.5, 0.6]) * (1.0 + 0.10 * fold);
        blend(pixel, scaled(look.clothes, shade), edge);
        // The seam of the collar.
        let collar = ellipse(at, [0.0, neck_base], [neck + 0.10, 0.20]);
        blend(pixel, scaled(look.clothes, 0.6 * shade), coverage(collar, px));
    });
    canvas.paint([-w, 0.3 * h, w, 1.5], |at, pixel| {
        let [x, y] = at;
        // Narrowest below the chin, wider towards the shoulders; the end is the neckline.
        let t = ((y - 0.5 * h) / (neck_base + 0.1 - 0.5 * h)).clamp(0.0, 1.2);
        let half = neck * (1.0 + 0.22 * t * t * t);
        let neckline = ellipse(at, [0.0, neck_base], [neck + 0.06, 0.16]);
        let column = (x.abs() - half).max(y - neck_base);
        let distance = column.min(neckline);
        let across = (x / (half + 0.05)).clamp(-1.0, 1.0);
        let edge = coverage(distance, px);
        if edge == 0.0 {
            return;
        }
        let mut color = skin.lit(at, [0.85 * across, 0.1, (1.0 - 0.72 * across * across).sqrt()]);
        // The head throws a shadow down and away from the light.
        let [lx, ly, _] = skin.light.direction;
        let shadow = layout.head_distance([x + 0.10 * lx, y - 0.10 + 0.06 * ly]);
        tint(&mut color, shadow_tint(), 0.75 * soft_coverage(shadow, 0.14));
        let throat = spot(at, [0.0, neck_base + 0.05], [0.10, 0.12]);
        tint(&mut color, shadow_tint(), 0.25 * throat);
        blend(pixel, color, edge);
    });
}
