//! Loads a weights file into a network: which names it must hold, and what may differ.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use tch::{Kind, Tensor};

use super::resample::{self, Grids};
use super::{StateDict, WeightsFile};
use crate::config::{BackboneConfig, Branch};

const MAX_LISTED: usize = 20;
/// Prefixes that PyTorch's wrappers add to every name.
const WRAPPERS: [&str; 2] = ["module.", "_orig_mod."];
/// Prefix of a published backbone's classifier, which is skipped.
const CLASSIFIER: &str = "head.";

/// Loads all `parameters` from a file with exactly their names and shapes: a run's own weights.
/// Returns an error with the file, and the names that are missing, unexpected or of another shape.
pub fn load(parameters: &[(String, Tensor)], path: &Path) -> Result<()> {
    let mut file = WeightsFile::open(path)?;
    let matching = Matching::new(&file.shapes(), parameters, None);
    matching
        .require_exact()
        .and_then(|()| matching.load(&mut file))
        .with_context(|| format!("cannot use weights {}", path.display()))
}

/// Loads the published weights file that a branch's config names, if any, into the backbone's
/// `parameters`, which have their published names. The file's names may have a wrapper's prefix;
/// its classifier (`head.*`) is skipped, and position and patch embeddings of another size are
/// resampled. Returns notes, a line each: what was resampled or skipped. Returns an error with the
/// config's key and the file, and the names that are missing, unexpected or of another shape.
pub fn load_backbone(
    parameters: &[(String, Tensor)],
    branch: Branch,
    config: &BackboneConfig,
) -> Result<Vec<String>> {
    let Some(path) = &config.weights else {
        return Ok(Vec::new());
    };
    let (key, file) = (format!("model.{branch}.weights"), path.display());
    let notes = load_published(parameters, branch, config, path)
        .with_context(|| format!("{key}: {file} does not load into {}", config.name))?;
    Ok(notes.into_iter().map(|note| format!("{key}: {note}")).collect())
}

fn load_published(
    parameters: &[(String, Tensor)],
    branch: Branch,
    config: &BackboneConfig,
    path: &Path,
) -> Result<Vec<String>> {
    let state_dict = if config.weights_ema { StateDict::Ema } else { StateDict::Model };
    let mut file = WeightsFile::open_state_dict(path, state_dict)?;
    let matching = Matching::new(&file.shapes(), parameters, Some(branch));
    if config.strict {
        matching.require_exact()?;
    }
    ensure!(
        !matching.matched.is_empty(),
        "none of its names and shapes is one of this backbone's: {}",
        matching.differences().join("; ")
    );
    matching.load(&mut file)?;
    let resampled = matching.matched.iter().filter_map(|matched| match matched.change {
        Change::None => None,
        change => Some(format!("{} was resampled {change}", matched.name)),
    });
    Ok(resampled.chain(matching.differences()).collect())
}

/// The tensors of a file that fit the network's parameters, and the names that do not.
#[derive(Default)]
struct Matching {
    matched: Vec<Match>,
    missing: Vec<String>,
    unexpected: Vec<String>,
    misshaped: Vec<String>,
}

struct Match {
    /// Name in the network.
    name: String,
    /// Name in the file.
    stored: String,
    parameter: Tensor,
    change: Change,
}

#[derive(Debug, Clone, Copy)]
enum Change {
    None,
    Positions(Grids),
    Patches { from: i64, to: i64 },
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::None => Ok(()),
            Self::Positions(Grids { from, to, .. }) => {
                write!(f, "from {from}x{from} to {to}x{to} patches")
            }
            Self::Patches { from, to } => write!(f, "from {from}x{from} to {to}x{to} pixels"),
        }
    }
}

impl Matching {
    /// Matches names and shapes. With `branch`, the file is a published one, which may have a
    /// classifier, a wrapper's prefix and embeddings of other sizes.
    fn new(
        shapes: &BTreeMap<String, Vec<i64>>,
        parameters: &[(String, Tensor)],
        branch: Option<Branch>,
    ) -> Self {
        let wrapper = if branch.is_some() { wrapper(shapes) } else { String::new() };
        let mut matching = Self::default();
        for (name, parameter) in parameters {
            let stored = format!("{wrapper}{name}");
            let Some(shape) = shapes.get(&stored) else {
                matching.missing.push(name.clone());
                continue;
            };
            let expected = parameter.size();
            match change(name, shape, &expected, branch) {
                Some(change) => {
                    let (name, parameter) = (name.clone(), parameter.shallow_clone());
                    matching.matched.push(Match { name, stored, parameter, change });
                }
                None => matching
                    .misshaped
                    .push(format!("{name} ({shape:?} in the file, {expected:?} in the model)")),
            }
        }
        let expected: BTreeSet<&str> = parameters.iter().map(|(name, _)| name.as_str()).collect();
        matching.unexpected = shapes
            .keys()
            .map(|name| name.strip_prefix(&wrapper).unwrap_or(name))
            .filter(|name| !expected.contains(name))
            .filter(|name| branch.is_none() || !name.starts_with(CLASSIFIER))
            .map(|name| name.escape_debug().take(200).collect())
            .collect();
        matching
    }

    fn differences(&self) -> Vec<String> {
        [
            ("missing", &self.missing),
            ("unexpected", &self.unexpected),
            ("of another shape", &self.misshaped),
        ]
        .into_iter()
        .filter_map(|(what, names)| listed(what, names))
        .collect()
    }

    fn require_exact(&self) -> Result<()> {
        let differences = self.differences();
        if differences.is_empty() {
            return Ok(());
        }
        bail!("the names do not fit: {}; check the preset and its sizes", differences.join("; "))
    }

    fn load(&self, file: &mut WeightsFile) -> Result<()> {
        let _guard = tch::no_grad_guard();
        for Match { name, stored, parameter, change } in &self.matched {
            let tensor = file.tensor(stored)?;
            let tensor = match *change {
                Change::None => tensor,
                Change::Positions(grids) => {
                    resample::position_embedding(&tensor.to_kind(Kind::Float), grids)?
                }
                Change::Patches { to, .. } => {
                    resample::patch_embedding(&tensor.to_kind(Kind::Float), to)?
                }
            };
            parameter.shallow_clone().f_copy_(&tensor).with_context(|| name.clone())?;
        }
        Ok(())
    }
}

/// Returns the change from a tensor of shape `stored` to one of shape `wanted`; `None` if there is
/// none.
fn change(name: &str, stored: &[i64], wanted: &[i64], branch: Option<Branch>) -> Option<Change> {
    if stored == wanted {
        return Some(Change::None);
    }
    match (branch?, name, stored, wanted) {
        (branch, "pos_embed", &[1, from, width], &[1, to, same]) if width == same => {
            let grids = Grids::new(branch, from - 1, to - 1)?;
            Some(Change::Positions(grids))
        }
        (_, "patch_embed.proj.weight", &[a, b, from, side], &[c, d, to, _])
            if [a, b] == [c, d] && from == side && from > 0 =>
        {
            Some(Change::Patches { from, to })
        }
        _ => None,
    }
}

/// Returns the wrappers' prefixes that all names begin with.
fn wrapper(shapes: &BTreeMap<String, Vec<i64>>) -> String {
    let mut found = String::new();
    while let Some(wrapper) = WRAPPERS.iter().find(|wrapper| {
        let prefix = format!("{found}{wrapper}");
        !shapes.is_empty() && shapes.keys().all(|name| name.starts_with(&prefix))
    }) {
        found += wrapper;
    }
    found
}

fn listed(what: &str, names: &[String]) -> Option<String> {
    let more = names.len().saturating_sub(MAX_LISTED);
    let shown = names[..names.len() - more].join(", ");
    match (names.len(), more) {
        (0, _) => None,
        (_, 0) => Some(format!("{what}: {shown}")),
        _ => Some(format!("{what}: {shown} and {more} more")),
    }
}
