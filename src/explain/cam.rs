//! Class activation maps (CAM) on the tokens of a block.
//!
//! The maps are computed on the input of a block's mixer: what `norm1` returns in a block of the
//! ViT, where pytorch-grad-cam's examples for ViTs take theirs, and `norm` in one of the Vision
//! Mamba. If the feature vector is the class token of the last block's output, the gradient at its
//! patch tokens is zero and a map computed there is blank. The golden tests compare Grad-CAM with
//! pytorch-grad-cam; the other three methods follow its formulas, except that the sign of
//! [`Method::EigenCam`] does not depend on the decomposition.

use anyhow::{Result, bail};
use tch::{Kind, Tensor};

use super::options::Method;

/// Avoids a division by zero in the weights of Grad-CAM++; pytorch-grad-cam's value.
const EPS: f64 = 1e-6;

/// Computes the map (b, patches) from patch tokens and the score's gradients with regard to them,
/// both (b, patches, d).
pub(super) fn cam(method: Method, tokens: &Tensor, gradients: &Tensor) -> Result<Tensor> {
    let map = match method {
        Method::GradCam => weighted(tokens, &gradients.f_mean_dim(1, true, Kind::Float)?)?,
        Method::GradCamPlusPlus => weighted(tokens, &plus_plus_weights(tokens, gradients)?)?,
        Method::LayerCam => weighted(tokens, &gradients.f_relu()?)?,
        Method::EigenCam => first_component(tokens, gradients)?,
        _ => bail!("{method} is not a class activation map"),
    };
    Ok(map.f_relu()?)
}

/// Computes the sum over channels of tokens times weights (b, patches or 1, d): (b, patches).
fn weighted(tokens: &Tensor, weights: &Tensor) -> Result<Tensor> {
    Ok((tokens * weights).f_sum_dim_intlist(-1, false, Kind::Float)?)
}

/// Computes the weights (b, 1, d) of Grad-CAM++: equation 19 of arXiv 1710.11063 and its sum of
/// positive gradients.
fn plus_plus_weights(tokens: &Tensor, gradients: &Tensor) -> Result<Tensor> {
    let (squares, cubes) = (gradients.square(), gradients.pow_tensor_scalar(3));
    let sums = tokens.f_sum_dim_intlist(1, true, Kind::Float)?;
    let alpha = &squares / (&squares * 2.0 + sums * cubes + EPS);
    let alpha = alpha * gradients.ne(0.0).to_kind(Kind::Float);
    Ok((gradients.f_relu()? * alpha).f_sum_dim_intlist(1, true, Kind::Float)?)
}

/// Projects the tokens on their first principal component. A decomposition leaves its sign open: it
/// is the one along which the mean gradient raises the score.
fn first_component(tokens: &Tensor, gradients: &Tensor) -> Result<Tensor> {
    let centered = tokens - tokens.f_mean_dim(1, true, Kind::Float)?;
    let covariance = centered.f_transpose(1, 2)?.f_matmul(&centered)?; // (b, d, d)
    let (_, directions) = covariance.f_linalg_eigh("L")?; // columns, by increasing variance
    let direction = directions.f_select(2, -1)?.f_unsqueeze(1)?; // (b, 1, d)
    let projection = weighted(&centered, &direction)?; // (b, patches)
    let slope = weighted(&gradients.f_mean_dim(1, true, Kind::Float)?, &direction)?; // (b, 1)
    Ok(projection * slope.f_sign()?)
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    const OPTIONS: (Kind, Device) = (Kind::Float, Device::Cpu);

    fn list(tensor: &Tensor) -> Vec<f64> {
        Vec::try_from(tensor.reshape([-1]).to_kind(Kind::Double)).unwrap()
    }

    /// Tokens of three patches with two channels.
    fn tokens() -> Tensor {
        Tensor::from_slice(&[1f32, 2.0, 3.0, -1.0, 0.5, 4.0]).view([1, 3, 2])
    }

    fn gradients() -> Tensor {
        Tensor::from_slice(&[0.5f32, -1.0, 0.0, 2.0, 1.0, 0.2]).view([1, 3, 2])
    }

    #[test]
    fn maps_equal_values_computed_by_hand() {
        let of = |method| list(&cam(method, &tokens(), &gradients()).unwrap());
        let close = |ours: Vec<f64>, theirs: [f64; 3]| {
            let errors = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs());
            assert!(errors.fold(0.0, f64::max) < 1e-4, "{ours:?} {theirs:?}");
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
    fn the_sign_of_eigen_cam_is_that_with_which_the_score_rises() {
        tch::manual_seed(3);
        let noise = Tensor::randn([2, 9, 5], OPTIONS) * 0.01;
        // One token of each image is far from the others, on either side of them.
        for side in [1.0, -1.0] {
            let tokens = noise.shallow_clone() + 1.0;
            let _ = tokens.get(0).get(4).g_add_(&Tensor::from(7.0 * side));
            let _ = tokens.get(1).get(8).g_add_(&Tensor::from(7.0 * side));
            let map = |slope: f64| {
                let gradients = Tensor::full([2, 9, 5], slope, OPTIONS);
                cam(Method::EigenCam, &tokens, &gradients).unwrap()
            };
            assert_eq!(list(&map(0.5 * side).argmax(1, false)), [4.0, 8.0]);
            let others = map(-0.5 * side);
            assert_eq!([[0, 4], [1, 8]].map(|at| others.double_value(&at)), [0.0, 0.0]);
            assert!(others.amax([1], false).min().double_value(&[]) > 0.1);
            // Without a gradient nothing raises the score.
            assert_eq!(map(0.0).abs().max().double_value(&[]), 0.0);
        }
    }

    #[test]
    fn another_method_is_an_error() {
        assert!(cam(Method::Occlusion, &tokens(), &gradients()).is_err());
    }
}
