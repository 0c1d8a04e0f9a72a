//! Gradient norms by module, for TensorBoard and for reports of gradients that are not finite.

use std::collections::BTreeMap;

use tch::{Kind, Tensor};

use crate::models::summary::module_of;

/// Returns the 2-norm of the gradients of each module that has some.
pub fn gradient_norms(parameters: &[(String, Tensor)]) -> BTreeMap<String, f64> {
    let mut squares: BTreeMap<String, f64> = BTreeMap::new();
    for (name, parameter) in parameters {
        let gradient = parameter.grad();
        if gradient.defined() {
            let norm = gradient.to_kind(Kind::Double).norm().double_value(&[]);
            *squares.entry(module_of(name).to_string()).or_default() += norm * norm;
        }
    }
    for norm in squares.values_mut() {
        *norm = norm.sqrt();
    }
    squares
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn norms_are_over_all_of_a_modules_gradients() {
        let leaf = |values: &[f32]| Tensor::from_slice(values).set_requires_grad(true);
        let (a, b, c) = (leaf(&[1.0]), leaf(&[1.0]), leaf(&[1.0]));
        (&a * 3.0 + &b * 4.0).sum(Kind::Float).backward();
        let named = [("head.a", a), ("head.b", b), ("fusion.c", c)];
        let named = named.map(|(name, tensor)| (name.to_string(), tensor));
        assert_eq!(gradient_norms(&named), BTreeMap::from([("head".to_string(), 5.0)]));
    }
}
