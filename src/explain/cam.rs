//! Class activation maps on the tokens of a block.
//!
//! They are taken where a block's mixer receives its tokens: of the last block's output only the
//! class token's row is used, so the gradient at its patch tokens is zero and a map taken there is
//! blank. Grad-CAM is compared with pytorch-grad-cam's maps in the golden tests; the other three
//! follow its formulas, but for the sign of [`Method::EigenCam`], which is not left to the
//! decomposition.

use anyhow::{Context, Result, bail};
use tch::{Kind, Tensor};

use super::Method;

/// Keeps a weight of Grad-CAM++ from being divided by nothing; pytorch-grad-cam's value.
const EPS: f64 = 1e-6;

/// The map (b, patches) of patch tokens and the score's gradients with regard to them, both (b,
/// patches, d); `gradients` may be missing for Eigen-CAM.
pub(super) fn cam(method: Method, tokens: &Tensor, gradients: Option<&Tensor>) -> Result<Tensor> {
    let gradients = || gradients.with_context(|| format!("{method} got no gradients"));
    let map = match method {
        Method::GradCam => weighted(tokens, &gradients()?.f_mean_dim(1, true, Kind::Float)?)?,
        Method::GradCamPlusPlus => weighted(tokens, &plus_plus_weights(tokens, gradients()?)?)?,
        Method::LayerCam => weighted(tokens, &gradients()?.f_relu()?)?,
        Method::EigenCam => first_component(tokens)?,
        _ => bail!("{method} is no map of one block's tokens"),
    };
    Ok(map.f_relu()?)
}

/// Σ over channels of tokens and weights (b, patches or 1, d).
fn weighted(tokens: &Tensor, weights: &Tensor) -> Result<Tensor> {
    Ok((tokens * weights).f_sum_dim_intlist(-1, false, Kind::Float)?)
}

/// Equation 19 of arXiv 1710.11063 with its sum of positive gradients: (b, 1, d).
fn plus_plus_weights(tokens: &Tensor, gradients: &Tensor) -> Result<Tensor> {
    let (squares, cubes) = (gradients.square(), gradients.pow_tensor_scalar(3));
    let sums = tokens.f_sum_dim_intlist(1, true, Kind::Float)?;
    let alpha = &squares / (&squares * 2.0 + sums * cubes + EPS);
    let alpha = alpha * gradients.ne(0.0).to_kind(Kind::Float);
    Ok((gradients.f_relu()? * alpha).f_sum_dim_intlist(1, true, Kind::Float)?)
}

/// The projection of the tokens on the direction in which they vary most. Of its two signs, the one
/// under which tokens of large norm are positive.
fn first_component(tokens: &Tensor) -> Result<Tensor> {
    let centered = tokens - tokens.f_mean_dim(1, true, Kind::Float)?;
    let covariance = centered.f_transpose(1, 2)?.f_matmul(&centered)?; // (b, d, d)
    let (_, directions) = covariance.f_linalg_eigh("L")?; // columns, by rising variance
    let direction = directions.f_select(2, -1)?.f_unsqueeze(1)?; // (b, 1, d)
    let projection = weighted(&centered, &direction)?; // (b, patches)
    let norms = tokens.f_norm_scalaropt_dim(2.0, [-1], false)?;
    let norms = &norms - norms.f_mean_dim(1, true, Kind::Float)?;
    let agreement = (&projection * norms).f_sum_dim_intlist(1, true, Kind::Float)?;
    let sign = agreement.ge(0.0).to_kind(Kind::Float) * 2.0 - 1.0;
    Ok(projection * sign)
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    const OPTIONS: (Kind, Device) = (Kind::Float, Device::Cpu);

    fn list(tensor: &Tensor) -> Vec<f64> {
        Vec::try_from(tensor.reshape([-1]).to_kind(Kind::Double)).unwrap()
    }

    /// Three patches of two channels.
    fn tokens() -> Tensor {
        Tensor::from_slice(&[1f32, 2.0, 3.0, -1.0, 0.5, 4.0]).view([1, 3, 2])
    }

    fn gradients() -> Tensor {
        Tensor::from_slice(&[0.5f32, -1.0, 0.0, 2.0, 1.0, 0.2]).view([1, 3, 2])
    }

    #[test]
    fn maps_are_those_worked_out_by_hand() {
        let of = |method| list(&cam(method, &tokens(), Some(&gradients())).unwrap());
        let close = |ours: Vec<f64>, theirs: [f64; 3]| {
            let apart = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs());
            assert!(apart.fold(0.0, f64::max) < 1e-4, "{ours:?} {theirs:?}");
        };
        // Mean gradients 0.5 and 0.4.
        close(of(Method::GradCam), [1.3, 1.1, 1.85]);
        // 0.5·1, 2·(-1) clamped, 1·0.5 + 0.2·4.
        close(of(Method::LayerCam), [0.5, 0.0, 1.3]);
        // Sums of channels 4.5 and 5. Channel 1: 0.5·0.25/(0.5 + 4.5/8) + 1/(2 + 4.5);
        // channel 2: 2·4/(8 + 40) + 0.2·0.04/(0.08 + 0.04).
        let (a, b) = (0.125 / 1.0625 + 1.0 / 6.5, 8.0 / 48.0 + 0.008 / 0.12);
        close(of(Method::GradCamPlusPlus), [a + 2.0 * b, 3.0 * a - b, 0.5 * a + 4.0 * b]);
    }

    #[test]
    fn eigen_cam_finds_the_tokens_that_stand_out_whatever_the_decompositions_sign() {
        tch::manual_seed(3);
        let noise = Tensor::randn([2, 9, 5], OPTIONS) * 0.01;
        for sign in [1.0, -1.0] {
            let tokens = noise.shallow_clone() + 1.0;
            let _ = tokens.get(0).get(4).g_add_(&Tensor::from(7.0 * sign));
            let _ = tokens.get(1).get(8).g_add_(&Tensor::from(7.0 * sign));
            let map = cam(Method::EigenCam, &tokens, None).unwrap();
            assert_eq!(list(&map.argmax(1, false)), [4.0, 8.0]);
        }
    }

    #[test]
    fn a_method_without_its_gradients_is_an_error() {
        assert!(cam(Method::GradCam, &tokens(), None).is_err());
        assert!(cam(Method::Occlusion, &tokens(), Some(&gradients())).is_err());
    }
}
