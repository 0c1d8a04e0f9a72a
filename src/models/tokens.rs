//! The order of a backbone's tokens.

use anyhow::Result;
use tch::{Kind, Tensor};

use super::onnx::{Graph, Value};
use crate::config::{BackboneShape, Branch, Features};

/// Where the special tokens are among those of the patches: in front in a ViT, first the class
/// tokens, then the registers; spread evenly in a Vision Mamba, so that a single one is in the
/// middle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenLayout {
    branch: Branch,
    patches: i64,
    class_tokens: i64,
    special_tokens: i64,
    features: Features,
}

impl TokenLayout {
    /// Returns the layout of a backbone's tokens.
    pub fn new(shape: &BackboneShape) -> Self {
        let patches = shape.patches();
        Self {
            branch: shape.branch,
            patches,
            class_tokens: shape.variant.class_tokens,
            special_tokens: shape.tokens() - patches,
            features: shape.features,
        }
    }

    /// Returns the layout of a backbone's position embedding, which may have no special tokens.
    pub fn of_positions(shape: &BackboneShape) -> Self {
        let layout = Self::new(shape);
        if shape.variant.patch_positions {
            Self { class_tokens: 0, special_tokens: 0, ..layout }
        } else {
            layout
        }
    }

    /// Returns the same layout for another number of patches.
    pub fn with_patches(self, patches: i64) -> Self {
        Self { patches, ..self }
    }

    /// Returns the number of tokens.
    pub fn count(self) -> i64 {
        self.patches + self.special_tokens
    }

    /// Returns the index of each special token, in increasing order.
    fn special(self) -> impl Iterator<Item = i64> {
        let run = match self.branch {
            Branch::Vit => 0,
            Branch::Mamba => self.patches / (self.special_tokens + 1),
        };
        (0..self.special_tokens).map(move |token| run + token * (run + 1))
    }

    /// Returns the runs of patch tokens before, between and after the special ones: start and
    /// length.
    fn runs(self) -> impl Iterator<Item = (i64, i64)> {
        let mut start = 0;
        self.special().chain([self.count()]).map(move |end| {
            let run = (start, end - start);
            start = end + 1;
            run
        })
    }

    /// Puts special tokens (b, special, d) among patches (b, patches, d): (b, tokens, d). Returns
    /// libtorch's error if the shapes do not match.
    pub fn join(self, special: &Tensor, patches: &Tensor) -> Result<Tensor> {
        let (mut parts, mut taken) = (Vec::new(), 0);
        for (index, (_, length)) in self.runs().enumerate() {
            if length > 0 {
                parts.push(range(patches, taken, length)?);
                taken += length;
            }
            if (index as i64) < self.special_tokens {
                parts.push(range(special, index as i64, 1)?);
            }
        }
        Ok(Tensor::f_cat(&parts, 1)?)
    }

    /// Puts special tokens (1, special, d) among patches (b, patches, d), at these positions
    /// (1, …, d) of all tokens, or of the patches alone: (b, tokens, d). Returns libtorch's error
    /// if the shapes do not match.
    pub fn embed(self, special: &Tensor, patches: &Tensor, positions: &Tensor) -> Result<Tensor> {
        let special = special.f_expand([patches.size()[0], -1, -1], false)?;
        if positions.size()[1] == self.count() {
            return Ok(self.join(&special, patches)?.f_add(positions)?);
        }
        self.join(&special, &patches.f_add(positions)?)
    }

    /// Returns the special tokens (b, special, d) among tokens (b, tokens, d). Returns libtorch's
    /// error if the shape does not match.
    pub fn special_of(self, tokens: &Tensor) -> Result<Tensor> {
        take(tokens, self.special().map(|index| (index, 1)))
    }

    /// Returns the patch tokens (b, patches, …) among tokens (b, tokens, …). Returns libtorch's
    /// error if the shape does not match.
    pub fn patches_of(self, tokens: &Tensor) -> Result<Tensor> {
        take(tokens, self.runs().filter(|(_, length)| *length > 0))
    }

    /// Returns the class tokens' mean (b, d) of tokens (b, tokens, d). Returns libtorch's error if
    /// the shape does not match.
    pub fn class_mean(self, tokens: &Tensor) -> Result<Tensor> {
        let mut classes = self.special().take(self.class_tokens as usize);
        if let (Some(only), None) = (classes.next(), classes.next()) {
            return Ok(tokens.f_select(1, only)?);
        }
        let classes = self.special_of(tokens)?.f_narrow(1, 0, self.class_tokens)?;
        Ok(classes.f_mean_dim(1, false, Kind::Float)?)
    }

    /// Returns the patch tokens' mean (b, d) of tokens (b, tokens, d). Returns libtorch's error if
    /// the shape does not match.
    pub fn patch_mean(self, tokens: &Tensor) -> Result<Tensor> {
        Ok(self.patches_of(tokens)?.f_mean_dim(1, false, Kind::Float)?)
    }

    /// Returns the mean (b, d) of the tokens (b, tokens, d) that the feature vector is made of;
    /// class tokens and patches count the same if it is made of both. Returns libtorch's error if
    /// the shape does not match.
    pub fn feature_mean(self, tokens: &Tensor) -> Result<Tensor> {
        match self.features {
            Features::Cls => self.class_mean(tokens),
            Features::Mean | Features::Patches => self.patch_mean(tokens),
            Features::ClsMean => Ok((self.class_mean(tokens)? + self.patch_mean(tokens)?) * 0.5),
        }
    }
}

/// The same in an ONNX graph.
impl TokenLayout {
    fn join_onnx(self, graph: &mut Graph, special: &Value, patches: &Value) -> Value {
        let (mut parts, mut taken) = (Vec::new(), 0);
        for (index, (_, length)) in self.runs().enumerate() {
            if length > 0 {
                parts.push(graph.slice(patches, 1, taken, length));
                taken += length;
            }
            if (index as i64) < self.special_tokens {
                parts.push(graph.slice(special, 1, index as i64, 1));
            }
        }
        graph.concat(&parts.iter().collect::<Vec<_>>(), 1)
    }

    /// Adds [`embed`](Self::embed) to a graph. The special tokens are (1, special, d).
    pub(super) fn embed_onnx(
        self,
        graph: &mut Graph,
        special: &Value,
        patches: &Value,
        positions: &Tensor,
    ) -> Value {
        let (of_all, d) = (positions.size()[1] == self.count(), positions.size()[2]);
        let positions = graph.parameter(positions);
        let special = graph.expand_to_batch(special, patches, &[self.special_tokens, d]);
        if of_all {
            let tokens = self.join_onnx(graph, &special, patches);
            return graph.add(&tokens, &positions);
        }
        let patches = graph.add(patches, &positions);
        self.join_onnx(graph, &special, &patches)
    }

    pub(super) fn special_of_onnx(self, graph: &mut Graph, tokens: &Value) -> Value {
        take_onnx(graph, tokens, self.special().map(|index| (index, 1)))
    }

    pub(super) fn patches_of_onnx(self, graph: &mut Graph, tokens: &Value) -> Value {
        take_onnx(graph, tokens, self.runs().filter(|(_, length)| *length > 0))
    }

    pub(super) fn class_mean_onnx(self, graph: &mut Graph, tokens: &Value) -> Value {
        let classes = self.special().take(self.class_tokens as usize).map(|index| (index, 1));
        let classes = take_onnx(graph, tokens, classes);
        graph.mean(&classes, 1, false)
    }

    pub(super) fn patch_mean_onnx(self, graph: &mut Graph, tokens: &Value) -> Value {
        let patches = self.patches_of_onnx(graph, tokens);
        graph.mean(&patches, 1, false)
    }

    pub(super) fn feature_mean_onnx(self, graph: &mut Graph, tokens: &Value) -> Value {
        match self.features {
            Features::Cls => self.class_mean_onnx(graph, tokens),
            Features::Mean | Features::Patches => self.patch_mean_onnx(graph, tokens),
            Features::ClsMean => {
                let class = self.class_mean_onnx(graph, tokens);
                let patches = self.patch_mean_onnx(graph, tokens);
                let sum = graph.add(&class, &patches);
                graph.scale(&sum, 0.5)
            }
        }
    }
}

/// Adds [`take`] to a graph.
fn take_onnx(graph: &mut Graph, tokens: &Value, ranges: impl Iterator<Item = (i64, i64)>) -> Value {
    let slice = |(start, length)| graph.slice(tokens, 1, start, length);
    let mut ranges: Vec<Value> = ranges.map(slice).collect();
    match ranges.len() {
        1 => ranges.remove(0),
        _ => graph.concat(&ranges.iter().collect::<Vec<_>>(), 1),
    }
}

/// Concatenates ranges of tokens (b, tokens, d), each a start and a length.
fn take(tokens: &Tensor, ranges: impl Iterator<Item = (i64, i64)>) -> Result<Tensor> {
    let ranges = ranges.map(|(start, length)| range(tokens, start, length));
    let mut ranges = ranges.collect::<Result<Vec<_>, _>>()?;
    match ranges.len() {
        0 => range(tokens, 0, 0),
        1 => Ok(ranges.remove(0)),
        _ => Ok(Tensor::f_cat(&ranges, 1)?),
    }
}

/// Returns a range of tokens (b, tokens, d). All of them are the tensor itself: the backward pass
/// of a slice would copy its gradient into zeros.
fn range(tokens: &Tensor, start: i64, length: i64) -> Result<Tensor> {
    if start == 0 && tokens.size()[1] == length {
        return Ok(tokens.shallow_clone());
    }
    Ok(tokens.f_narrow(1, start, length)?)
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;
    use crate::config::BackboneConfig;

    fn layout(name: &str, features: Features) -> TokenLayout {
        let config = BackboneConfig { name: name.into(), features, ..BackboneConfig::default() };
        TokenLayout::new(&config.resolve(224).unwrap())
    }

    fn special(name: &str) -> Vec<i64> {
        layout(name, Features::Cls).special().collect()
    }

    #[test]
    fn special_tokens_are_in_front_in_a_vit_and_spread_evenly_in_a_vision_mamba() {
        assert_eq!(special("vit_tiny_patch16_224"), [0]);
        assert_eq!(special("deit_tiny_distilled_patch16_224"), [0, 1]);
        assert_eq!(special("vit_small_patch14_reg4_dinov2"), [0, 1, 2, 3, 4]);
        assert_eq!(special("vim_tiny_patch16_224"), [98]);
        let spread = special("mambar_small_patch16_224");
        assert_eq!((&spread[..3], spread.len()), (&[15, 31, 47][..], 12));
        assert_eq!(spread[11], 191); // 16 of the 196 patches follow
    }

    #[test]
    fn tokens_are_taken_apart_as_they_were_joined() {
        for name in [
            "vit_tiny_patch16_224",
            "deit_tiny_distilled_patch16_224",
            "vit_small_patch14_reg4_dinov2",
            "vim_tiny_patch16_224",
            "mambar_small_patch16_224",
        ] {
            for patches in [1, 4, 9, 36] {
                let layout = layout(name, Features::Cls).with_patches(patches);
                let random = |count| Tensor::randn([2, count, 3], (Kind::Float, Device::Cpu));
                let (special, patches) = (random(layout.special_tokens), random(patches));
                let tokens = layout.join(&special, &patches).unwrap();
                assert_eq!(tokens.size()[1], layout.count(), "{name}");
                assert!(layout.special_of(&tokens).unwrap().equal(&special), "{name}");
                assert!(layout.patches_of(&tokens).unwrap().equal(&patches), "{name}");
            }
        }
    }

    #[test]
    fn tokens_of_another_number_are_an_error() {
        for name in ["vit_tiny_patch16_224", "vim_tiny_patch16_224"] {
            let layout = layout(name, Features::Cls).with_patches(16);
            // As many tokens as patches.
            let tokens = Tensor::zeros([2, 16, 3], (Kind::Float, Device::Cpu));
            assert!(layout.patches_of(&tokens).is_err(), "{name}");
        }
    }

    #[test]
    fn features_are_made_of_class_tokens_and_patches_but_not_of_registers() {
        let name = "vit_small_patch14_reg4_dinov2";
        let token =
            |value: f32| Tensor::full([1, 1, 2], f64::from(value), (Kind::Float, Device::Cpu));
        let special: Vec<Tensor> = [3.0, 100.0, 100.0, 100.0, 100.0].map(token).into();
        let patches: Vec<Tensor> = [5.0, 6.0, 7.0, 8.0].map(token).into();
        let [special, patches] = [special, patches].map(|tokens| Tensor::cat(&tokens, 1));
        for (features, mean) in [
            (Features::Cls, 3.0),
            (Features::Mean, 6.5),
            (Features::Patches, 6.5),
            (Features::ClsMean, 4.75),
        ] {
            let layout = layout(name, features).with_patches(4);
            let tokens = layout.join(&special, &patches).unwrap();
            let found = layout.feature_mean(&tokens).unwrap();
            assert_eq!(Vec::<f32>::try_from(&found.view(-1)).unwrap(), [mean, mean]);
        }
    }
}
