//! Eyes, brows, nose, mouth and glasses.

use super::canvas::{
    Canvas, Color, Point, blend, coverage, ellipse, line, mix, scaled, smooth, soft_coverage, spot,
    tint,
};
use super::head::{Skin, shadow_tint};
use super::layout::{Eye, Layout};
use super::nuisance::Look;

/// Paints one eye: white, iris, pupil, a catch light, lids and lashes.
pub(super) fn paint_eye(canvas: &mut Canvas, look: &Look, eye: &Eye, skin: &Skin) {
    let px = canvas.pixel();
    let Eye { center: [cx, cy], half_width: a, upper, lower, slope, side, .. } = *eye;
    let iris_radius = 0.48 * a;
    let iris = [look.gaze[0] * a, look.gaze[1] * a - 0.05 * a];
    let lash: Color = mix([0.07, 0.05, 0.05], skin.color, 0.06);
    let reach = 1.5 * a;
    canvas.paint([cx - reach, cy - reach, cx + reach, cy + reach], |at, pixel| {
        let (x, y) = (at[0] - cx, at[1] - cy - slope * (at[0] - cx));
        let local = [x, y];
        let u = x / a;
        let arch = 1.0 - u * u;
        // Vertical distance to the lid, turned into a distance across it.
        let steep = |height: f32| (1.0 + (2.0 * height * u / a) * (2.0 * height * u / a)).sqrt();
        let over = (-upper * arch - y) / steep(upper);
        let under = (y - lower * arch) / steep(lower);
        let opening = over.max(under);

        let mut color = [0.93, 0.92, 0.90];
        tint(&mut color, [0.80, 0.72, 0.70], smooth(u.abs().min(1.0)));
        let ring = ellipse(local, iris, [iris_radius, iris_radius]);
        let glow = spot(local, [iris[0], iris[1] + 0.3 * iris_radius], [iris_radius, iris_radius]);
        let iris_color = mix(scaled(look.iris_color, 0.75), scaled(look.iris_color, 1.5), glow);
        blend(&mut color, scaled(look.iris_color, 0.35), coverage(ring, px));
        blend(&mut color, iris_color, coverage(ring + 0.14 * iris_radius, px));
        let pupil = ellipse(local, iris, [0.45 * iris_radius, 0.45 * iris_radius]);
        blend(&mut color, [0.03, 0.02, 0.03], coverage(pupil, px));
        // The upper lid keeps light off the top of the eyeball.
        tint(&mut color, [0.55, 0.50, 0.50], soft_coverage(-over - 0.10 * a, 0.5 * a));
        let shine = [
            iris[0] + 0.3 * iris_radius * (0.4 + skin.light.direction[0]),
            iris[1] - 0.35 * iris_radius,
        ];
        let shine = ellipse(local, shine, [0.24 * iris_radius, 0.24 * iris_radius]);
        blend(&mut color, [1.0, 1.0, 1.0], 0.95 * coverage(shine, px));

        // The fold of the upper lid, then the eye, then the lashes over its edge.
        let taper = (1.25 - u.abs()).clamp(0.0, 1.0);
        let crease = line(over - 0.26 * a, 0.07 * a + 0.006, px);
        tint(pixel, shadow_tint(), 0.85 * crease * taper.min(arch.max(0.0) * 2.0));
        let pouch = line(under - 0.20 * a, 0.10 * a, px.max(0.05 * a));
        tint(pixel, shadow_tint(), 0.25 * pouch * arch.max(0.0));
        blend(pixel, color, coverage(opening, px));
        if arch > -0.25 {
            let outer = smooth((0.5 + 0.5 * u * side).clamp(0.0, 1.0));
            let width = 0.10 * a + 0.10 * a * outer + 0.006;
            // Above the corners the lid's line continues into a small wing on the outer side.
            let wing = if arch < 0.0 { (u * side).max(0.0) } else { 1.0 };
            let lashes = line(over, width, px) * wing;
            let lashes = lashes * coverage(u.abs() * a - 1.12 * a, px);
            let above_lower = soft_coverage(under - 0.05 * a, 0.08 * a + px);
            blend(pixel, lash, 0.95 * lashes * above_lower);
            let rim = line(under, 0.05 * a + 0.004, px) * arch.max(0.0);
            blend(pixel, scaled(lash, 1.4), 0.5 * rim);
        }
    });
}

/// Paints the brow over an eye. Brows keep their length whatever the size of the eye, so that
/// they do not give the eye's size away.
pub(super) fn paint_brow(canvas: &mut Canvas, look: &Look, eye: &Eye) {
    let px = canvas.pixel();
    let half = 0.155;
    let thick = 0.030 + 0.030 * look.brow;
    let center = [eye.center[0] + 0.012 * eye.side, eye.center[1] - 0.185 - eye.raise];
    let [cx, cy] = center;
    let color = mix(scaled(look.hair_color, 0.75), [0.16, 0.11, 0.09], 0.45);
    let bounds = [cx - half - 0.03, cy - 0.12, cx + half + 0.03, cy + 0.12];
    canvas.paint(bounds, |at, pixel| {
        // From the nose (0) to the temple (1).
        let t = (0.5 + 0.5 * eye.side * (at[0] - cx) / half).clamp(0.0, 1.0);
        let peak = t - 0.62;
        let arch = (0.02 + 0.05 * look.brow_arch) * (1.0 - 1.8 * peak * peak);
        let middle =
            cy + 0.02 - arch - 0.10 * look.slant.max(-0.3) * (t - 0.5) * 0.2 + eye.knit * (0.5 - t);
        let width = thick * (0.65 + 0.9 * t * (1.0 - t) - 0.45 * t * t);
        let past = (at[0] - cx).abs() - half;
        let distance = ((at[1] - middle).abs() - 0.5 * width).max(past);
        blend(pixel, color, 0.88 * soft_coverage(distance, px.max(0.014)));
    });
}

/// Paints the nose: a bridge between light and shade, wings, nostrils, a bright tip.
pub(super) fn paint_nose(canvas: &mut Canvas, layout: &Layout, skin: &Skin) {
    let px = canvas.pixel();
    let nose = layout.nose;
    let ([rx, ry], [tx, ty], half) = (nose.root, nose.tip, nose.half_width);
    let length = ty - ry;
    let lit_side = if skin.light.direction[0] < 0.0 { -1.0 } else { 1.0 };
    let contrast = 0.35 + 0.65 * skin.light.direction[0].abs();
    let bounds = [tx.min(rx) - 2.2 * half, ry - 0.08, tx.max(rx) + 2.2 * half, ty + 0.16];
    canvas.paint(bounds, |at, pixel| {
        let [x, y] = at;
        let t = ((y - ry) / length).clamp(0.0, 1.0);
        let bend = t * t;
        let middle = rx + (tx - rx) * bend;
        let across = (x - middle) / (0.034 + (half - 0.05) * 0.62 * bend);
        let along = soft_coverage(ry - y, 0.16) * soft_coverage(y - ty - 0.01, 0.05);
        // Flanks: the one away from the light in shade, the other fainter.
        let flank = |side: f32| {
            let d = (across - 1.15 * side).abs();
            smooth((1.0 - d / 0.95).max(0.0)) * along
        };
        tint(pixel, shadow_tint(), 0.62 * contrast * flank(-lit_side));
        tint(pixel, shadow_tint(), 0.22 * flank(lit_side));
        let ridge = smooth((1.0 - across.abs() / 0.75).max(0.0)) * along;
        blend(pixel, [1.0, 0.97, 0.93], 0.17 * ridge);
        // The shadow under the tip, thrown away from the light.
        let cast = [tx - 0.03 * skin.light.direction[0], ty + 0.052];
        tint(pixel, shadow_tint(), 0.75 * spot(at, cast, [half + 0.05, 0.075]));
        for side in [-1.0, 1.0] {
            let wing = [tx + side * 0.70 * half, ty - 0.005];
            let radii = [0.40 * half, 0.052];
            let rim = ellipse(at, wing, radii);
            let outer = soft_coverage(-(x - wing[0]) * side, 0.05);
            tint(pixel, shadow_tint(), 0.80 * line(rim, 0.022, px.max(0.012)) * outer);
            let nostril = [tx + side * 0.48 * half, ty + 0.028];
            let hole = ellipse(at, nostril, [0.26 * half, 0.019]);
            blend(pixel, scaled(skin.color, 0.22), 0.9 * soft_coverage(hole, px.max(0.014)));
        }
        let ball = spot(at, [tx + 0.015 * lit_side, ty - 0.035], [0.055, 0.05]);
        blend(pixel, [1.0, 0.97, 0.93], 0.30 * ball);
    });
}

pub(super) fn paint_mouth(canvas: &mut Canvas, look: &Look, layout: &Layout, skin: &Skin) {
    let px = canvas.pixel();
    let mouth = layout.mouth;
    let ([cx, cy], half) = (mouth.center, mouth.half_width);
    let lip = mix(scaled(skin.color, 0.86), [0.72, 0.27, 0.30], 0.42 + 0.35 * look.blush);
    let drop = mouth.lift.abs() + mouth.slope.abs() * half + mouth.open + 0.13;
    let bounds = [cx - 1.3 * half, cy - drop, cx + 1.3 * half, cy + drop];
    canvas.paint(bounds, |at, pixel| {
        let x = at[0] - cx;
        let u = x / half;
        let fall = (1.0 - u * u).max(0.0);
        let middle = cy + mouth.slope * x - mouth.lift * (u * u).min(1.3);
        let y = at[1] - middle;
        let tangent = mouth.slope - 2.0 * mouth.lift * u / half;
        let steep = (1.0 + tangent * tangent).sqrt();
        // Two peaks with a dip between them; the lower lip is one full curve.
        let dip = (1.0 - (u / 0.28).abs()).max(0.0);
        let top = mouth.upper * fall * (1.0 - 0.30 * smooth(dip));
        let bottom = mouth.lower * fall.sqrt() * (0.45 + 0.55 * fall);
        let ends = x.abs() - half;
        let open = mouth.open * fall;
        let upper_lip = ((-top - y).max(y) / steep).max(ends);
        let lower_lip = ((y - bottom - open).max(open - y) / steep).max(ends);
        let lit = skin.light.lambert([0.3 * u, 0.0, 0.9]);
        let fullness = ((y - open) / bottom.max(0.01)).clamp(0.0, 1.0);
        let lower_color = scaled(lip, lit * (1.10 - 0.30 * fullness));
        blend(pixel, lower_color, coverage(lower_lip, px));
        blend(pixel, scaled(lip, 0.80 * lit), coverage(upper_lip, px));
        let shine = [0.02 * skin.light.direction[0], mouth.open + 0.45 * mouth.lower];
        let gloss = spot([x, y], shine, [0.4 * half, 0.35 * mouth.lower]);
        blend(pixel, [1.0, 0.93, 0.92], 0.30 * gloss);
        // The line between the lips, a little longer than they are, with dimples at its ends.
        let reach = coverage(x.abs() - 1.04 * half, px.max(0.02));
        let gap = line(y / steep, 0.020, px).max(line((y - open) / steep, 0.016, px)) * reach;
        blend(pixel, scaled(lip, 0.22), 0.92 * gap);
        // Between parted lips: teeth, and the dark of the mouth under them.
        let inside = (-y).max(y - open).max(ends) / steep;
        let teeth = scaled([0.95, 0.94, 0.90], lit * (1.0 - 0.35 * u * u));
        let depth = coverage(0.62 * open - y, px.max(0.02));
        blend(pixel, mix(teeth, [0.22, 0.06, 0.07], depth), coverage(inside, px));
        let corner = [half * u.signum(), 0.0];
        tint(pixel, shadow_tint(), 0.6 * spot([x, y], corner, [0.05, 0.04]));
    });
}

/// Paints round glasses in front of the eyes; their size does not depend on the eyes'.
pub(super) fn paint_glasses(canvas: &mut Canvas, look: &Look, layout: &Layout) {
    let Some(frame_color) = look.glasses else {
        return;
    };
    let px = canvas.pixel();
    let w = layout.half[0];
    let radii = [0.205, 0.165];
    let width = 0.026;
    let lenses: [Point; 2] =
        [-1.0, 1.0].map(|side: f32| [side * 0.245, layout.nose.root[1] + 0.02]);
    let y0 = lenses[0][1];
    canvas.paint([-w - 0.05, y0 - 0.25, w + 0.05, y0 + 0.25], |at, pixel| {
        let [x, y] = at;
        let nearest = if x < 0.0 { lenses[0] } else { lenses[1] };
        let rim = ellipse(at, nearest, radii);
        // A faint reflection across the glass.
        let glare = line(x - nearest[0] + 0.7 * (y - nearest[1]) + 0.05, 0.05, 0.04);
        blend(pixel, [1.0, 1.0, 1.0], 0.10 * glare * coverage(rim, px));
        let mut cover = line(rim, width, px);
        let inner_edge = lenses[1][0] - radii[0];
        if x.abs() < inner_edge {
            let bow = y - y0 + 0.03 - 2.0 * x * x;
            cover = cover.max(line(bow, width, px));
        }
        if x.abs() > lenses[1][0] + radii[0] {
            cover = cover.max(line(y - y0 + 0.01, 0.8 * width, px));
        }
        blend(pixel, frame_color, 0.95 * cover);
    });
}
