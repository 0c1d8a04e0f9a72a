//! Finding and reading reference files.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use tch::{Device, Kind, Tensor};

/// A reference file: its tensors by name (float32) and its metadata.
pub(crate) struct Reference {
    pub path: PathBuf,
    tensors: HashMap<String, Tensor>,
    metadata: HashMap<String, String>,
}

/// Returns the folder of the reference files.
pub(crate) fn folder() -> PathBuf {
    match std::env::var_os("VMB_GOLDEN_DIR") {
        Some(folder) => PathBuf::from(folder),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden"),
    }
}

/// Returns every `.safetensors` file whose name has the prefix and suffix, except the `_weights`
/// files; there must be at least one.
pub(crate) fn matching(prefix: &str, suffix: &str) -> Vec<Reference> {
    let folder = folder();
    let mut paths: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let stem = name.strip_suffix(".safetensors").unwrap_or("");
            stem.starts_with(prefix) && stem.ends_with(suffix) && !stem.contains("_weights")
        })
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "{}: no file {prefix}*{suffix}.safetensors", folder.display());
    paths.into_iter().map(Reference::read).collect()
}

impl Reference {
    fn read(path: PathBuf) -> Self {
        let bytes = std::fs::read(&path).unwrap();
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let metadata = header.metadata().clone().unwrap_or_default();
        let tensors = SafeTensors::deserialize(&bytes)
            .unwrap()
            .tensors()
            .into_iter()
            .map(|(name, view)| {
                let shape: Vec<i64> = view.shape().iter().map(|&n| n as i64).collect();
                (name, Tensor::from_data_size(view.data(), &shape, Kind::Float))
            })
            .collect();
        Self { path, tensors, metadata }
    }

    /// Returns a model's weights under their published names: from this file, or from the
    /// `_weights` file next to it.
    pub(crate) fn weights(&self) -> Vec<(String, Tensor)> {
        let own = self.with_prefix("model.");
        if !own.is_empty() {
            return own;
        }
        let stem = self.path.file_stem().unwrap().to_string_lossy();
        let path = self.path.with_file_name(format!("{stem}_weights.safetensors"));
        Self::read(path).with_prefix("")
    }

    /// Returns the tensor of that name; a missing one fails the test.
    pub(crate) fn tensor(&self, name: &str) -> Tensor {
        self.optional(name).unwrap_or_else(|| panic!("{}: no tensor {name}", self.path.display()))
    }

    /// Returns the tensor of that name, if the file has it.
    pub(crate) fn optional(&self, name: &str) -> Option<Tensor> {
        self.tensors.get(name).map(|tensor| tensor.shallow_clone())
    }

    /// Returns the tensors whose names have a prefix, under the names without it.
    pub(crate) fn with_prefix(&self, prefix: &str) -> Vec<(String, Tensor)> {
        let mut found: Vec<_> = self
            .tensors
            .iter()
            .filter_map(|(name, t)| {
                Some((name.strip_prefix(prefix)?.to_string(), t.shallow_clone()))
            })
            .collect();
        found.sort_by(|a, b| a.0.cmp(&b.0));
        found
    }

    /// Returns a value of the file's metadata.
    pub(crate) fn meta(&self, key: &str) -> Option<&str> {
        self.metadata.get(key).map(String::as_str)
    }
}

/// Asserts that two tensors differ by at most `tolerance` of the largest expected value.
pub(crate) fn assert_close(what: &str, found: &Tensor, expected: &Tensor, tolerance: f64) {
    assert_eq!(found.size(), expected.size(), "{what}: shape");
    if expected.numel() == 0 {
        return;
    }
    let found = found.to_device(Device::Cpu).to_kind(Kind::Double);
    let expected = expected.to_kind(Kind::Double);
    let error = (&found - &expected).abs().max().double_value(&[]);
    let scale = expected.abs().max().double_value(&[]).max(1e-30);
    assert!(
        error <= tolerance * scale,
        "{what}: off by {error:.3e}, largest expected value {scale:.3e}"
    );
}
