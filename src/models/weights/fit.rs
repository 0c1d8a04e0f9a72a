//! Loads a weights file into a network: which names it must hold, and what may differ.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use tch::{Kind, Tensor};

use super::architecture;
use super::locate::{Located, locate};
use super::resample::{self, Grids};
use super::{StateDict, WeightsFile, printable_start};
use crate::config::{BackboneConfig, BackboneShape, Branch, preset};
use crate::models::head::BRANCH_HEADS;
use crate::models::tokens::TokenLayout;

const MAX_LISTED: usize = 20;
const QUANTIZED: &str =
    "quantized weights are not read; use those of the same model in floating-point numbers";
/// Prefixes that PyTorch's wrappers add to every name.
const WRAPPERS: [&str; 2] = ["module.", "_orig_mod."];
/// Prefixes of what is skipped: a published backbone's classifiers, and the token that masked
/// patches in its pretraining.
const SKIPPED: [&str; 3] = ["head.", "head_dist.", "mask_token"];

/// A note on a weights file that was loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The note, one line that begins with the config's key.
    pub text: String,
    /// Whether the features differ from those of the published model.
    pub is_warning: bool,
}

impl std::fmt::Display for Note {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}", if self.is_warning { "warning: " } else { "" }, self.text)
    }
}

/// Loads all `parameters` from a file with exactly their names and shapes: a run's own weights.
/// Returns an error with the file, and the names that are missing, unexpected or of another shape.
pub fn load(parameters: &[(String, Tensor)], path: &Path) -> Result<()> {
    load_with(parameters, path, |_| {})
}

/// As [`load`], for a network that starts from another one's weights: of the branches' own heads,
/// which a network has for its training, those that either lacks are skipped.
pub fn load_model(parameters: &[(String, Tensor)], path: &Path) -> Result<()> {
    load_with(parameters, path, |matching| {
        for names in [&mut matching.missing, &mut matching.unexpected] {
            names.retain(|name| !name.starts_with(BRANCH_HEADS));
        }
    })
}

fn load_with(
    parameters: &[(String, Tensor)],
    path: &Path,
    permit: impl Fn(&mut Matching),
) -> Result<()> {
    let mut file = WeightsFile::open(path)?;
    let mut matching = Matching::new(&file.shapes(), parameters, None)?;
    permit(&mut matching);
    matching
        .require_exact(None)
        .and_then(|()| matching.load(&mut file))
        .with_context(|| format!("cannot use weights {}", path.display()))
}

/// Loads the published weights that a branch's config names, if any, into the backbone's
/// `parameters`, which have their published names, and downloads them before if need be. The file's
/// names may have a prefix; its classifier (`head.*`) is skipped, and position and patch embeddings
/// of another size are resampled. Returns notes: what was resampled, skipped or dropped. Returns an
/// error with the config's key and the file, and the architecture or the names that differ, or the
/// parameter that is not of finite floating-point numbers.
pub fn load_backbone(
    parameters: &[(String, Tensor)],
    branch: Branch,
    config: &BackboneConfig,
) -> Result<Vec<Note>> {
    let Some(Located { path, source, .. }) = locate(branch, config, &mut |_| Ok(()))? else {
        return Ok(Vec::new());
    };
    let key = format!("model.{branch}.weights");
    let notes = load_published(parameters, branch, config, &path)
        .with_context(|| format!("{key}: {source} does not load into {}", config.name))?;
    let keyed = |note: Note| Note { text: format!("{key}: {}", note.text), ..note };
    Ok(notes.into_iter().map(keyed).collect())
}

fn load_published(
    parameters: &[(String, Tensor)],
    branch: Branch,
    config: &BackboneConfig,
    path: &Path,
) -> Result<Vec<Note>> {
    let state_dict = if config.weights_ema { StateDict::Ema } else { StateDict::Model };
    let mut file = WeightsFile::open_state_dict(path, state_dict)?;
    if let Some((name, kind)) = file.quantized() {
        bail!("{} is stored as {kind}: {QUANTIZED}", printable_start(name));
    }
    if branch == Branch::Vit {
        file.rename_clip();
    }
    let preset = preset(&config.name).with_context(|| format!("no preset {}", config.name))?;
    let matching = Matching::new(&file.shapes(), parameters, Some(&preset.shape))?;
    if config.strict {
        matching.require_exact(Some(branch))?;
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
    let outside = format!("skipped without the prefix {}", printable_start(&matching.prefix));
    let chosen = file.note.clone().into_iter().chain(matching.chosen.clone());
    let notes = chosen.chain(resampled).chain(listed(&outside, &matching.outside));
    let mut notes: Vec<Note> = notes.map(|text| Note { text, is_warning: false }).collect();
    if let Some(text) = matching.changed_features(branch) {
        notes.push(Note { text, is_warning: true });
    }
    Ok(notes)
}

/// The tensors of a file that fit the network's parameters, and the names that do not.
#[derive(Default)]
struct Matching {
    matched: Vec<Match>,
    /// Presets with the width, the number of blocks and the variant of a published file.
    presets: Vec<&'static str>,
    /// The prefix of the network's names in the file.
    prefix: String,
    /// Which of several networks in the file the prefix is of.
    chosen: Option<String>,
    /// Names in the file without the prefix.
    outside: Vec<String>,
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
    /// Matches names and shapes. With the shape of a `preset`, the file is a published one, which
    /// may have a classifier, a prefix and embeddings of other sizes. Returns an error if it has
    /// several such networks.
    fn new(
        shapes: &BTreeMap<String, Vec<i64>>,
        parameters: &[(String, Tensor)],
        preset: Option<&BackboneShape>,
    ) -> Result<Self> {
        let expected: BTreeSet<&str> = parameters.iter().map(|(name, _)| name.as_str()).collect();
        let (prefix, chosen) = match preset {
            Some(_) => prefix(shapes, &expected)?.unwrap_or_else(|| (wrapper(shapes), None)),
            None => Default::default(),
        };
        let mut matching = Self { chosen, ..Self::default() };
        for (name, parameter) in parameters {
            let stored = format!("{prefix}{name}");
            let Some(shape) = shapes.get(&stored) else {
                matching.missing.push(name.clone());
                continue;
            };
            let expected = parameter.size();
            match change(name, shape, &expected, preset) {
                Some(change) => {
                    let (name, parameter) = (name.clone(), parameter.shallow_clone());
                    matching.matched.push(Match { name, stored, parameter, change });
                }
                None => matching
                    .misshaped
                    .push(format!("{name} ({shape:?} in the file, {expected:?} in the model)")),
            }
        }
        for stored in shapes.keys() {
            let Some(name) = stored.strip_prefix(&prefix) else {
                matching.outside.push(printable_start(stored));
                continue;
            };
            let is_skipped = SKIPPED.iter().any(|prefix| name.starts_with(prefix));
            if !expected.contains(name) && (preset.is_none() || !is_skipped) {
                matching.unexpected.push(printable_start(name));
            }
        }
        if let Some(preset) = preset {
            let named = shapes
                .iter()
                .filter_map(|(name, shape)| Some((name.strip_prefix(&prefix)?, shape.as_slice())));
            matching.presets = architecture::presets(preset.branch, named);
        }
        matching.prefix = prefix;
        Ok(matching)
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

    /// Returns an error if a name or shape differs: with the parts that the backbone of `branch`
    /// does not have, if the names show them, or else with the names.
    fn require_exact(&self, branch: Option<Branch>) -> Result<()> {
        let presets = self.presets.join(" or ");
        if let Some((branch, architecture)) =
            branch.and_then(|branch| Some((branch, self.architecture(branch)?)))
        {
            let other = match &presets[..] {
                "" => String::new(),
                presets => format!(", or set model.{branch}.name to {presets}"),
            };
            bail!("{architecture}; use weights that were published for this preset{other}");
        }
        let differences = self.differences();
        if differences.is_empty() {
            return Ok(());
        }
        let remedy = match (branch, presets) {
            (Some(branch), presets) if !presets.is_empty() => {
                format!("its sizes are those of {presets}: set model.{branch} to what the file is")
            }
            _ => "check the preset and its sizes".to_string(),
        };
        bail!("the names do not fit: {}; {remedy}", differences.join("; "))
    }

    fn architecture(&self, branch: Branch) -> Option<String> {
        // What a file lacks says something only where most of it is ours.
        let is_ours = self.matched.len() > self.missing.len();
        let missing = if is_ours { &self.missing[..] } else { &[] };
        let parts = architecture::differences(branch, missing, &self.unexpected).join("; ");
        (!parts.is_empty())
            .then(|| format!("it is of another architecture than model.{branch} ({parts})"))
    }

    /// Returns what changes the features, if something does: every parameter but the classifier's
    /// is on the way to them.
    fn changed_features(&self, branch: Branch) -> Option<String> {
        let differences = self.differences();
        if differences.is_empty() {
            return None;
        }
        let what: Vec<String> = self.architecture(branch).into_iter().chain(differences).collect();
        Some(format!(
            "the features are not the published model's: strict is false, {} of the file's \
             parameters were dropped, and {} of the model's keep random values; {}",
            self.unexpected.len() + self.misshaped.len(),
            self.missing.len() + self.misshaped.len(),
            what.join("; ")
        ))
    }

    fn load(&self, file: &mut WeightsFile) -> Result<()> {
        let _guard = tch::no_grad_guard();
        for Match { name, stored, parameter, change } in &self.matched {
            let tensor = file.tensor(stored)?;
            ensure!(
                tensor.is_floating_point(),
                "{name} is stored as {:?}: {QUANTIZED}",
                tensor.kind()
            );
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
            ensure!(
                is_finite(parameter)?,
                "{name} has NaN or infinity: the file is damaged, or its training diverged; use \
                 other weights"
            );
        }
        Ok(())
    }
}

fn is_finite(tensor: &Tensor) -> Result<bool> {
    if tensor.numel() == 0 {
        return Ok(true);
    }
    // NaN is the least and the largest value; unlike `isfinite`, this allocates nothing.
    let (least, largest) = tensor.f_aminmax(None::<i64>, false)?;
    Ok(least.double_value(&[]).is_finite() && largest.double_value(&[]).is_finite())
}

/// Returns the change from a tensor of shape `stored` to one of shape `wanted`; `None` if there is
/// none.
fn change(
    name: &str,
    stored: &[i64],
    wanted: &[i64],
    preset: Option<&BackboneShape>,
) -> Option<Change> {
    if stored == wanted {
        return Some(Change::None);
    }
    match (preset?, name, stored, wanted) {
        (preset, "pos_embed", &[1, from, width], &[1, to, same]) if width == same => {
            let grids = Grids::new(TokenLayout::of_positions(preset), from, to)?;
            Some(Change::Positions(grids))
        }
        (_, "patch_embed.proj.weight", &[a, b, from, side], &[c, d, to, _])
            if [a, b] == [c, d] && from == side && resample::are_patches(from, to) =>
        {
            Some(Change::Patches { from, to })
        }
        _ => None,
    }
}

/// Returns the prefix under which a file has most of the `expected` names, as training frameworks
/// and wrappers save the attributes that hold the network; `None` if it has less than half of them.
/// Where several have as many, that of a teacher is meant, with a note; otherwise returns an error.
fn prefix(
    shapes: &BTreeMap<String, Vec<i64>>,
    expected: &BTreeSet<&str>,
) -> Result<Option<(String, Option<String>)>> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for name in shapes.keys() {
        let dots = name.match_indices('.').map(|(at, _)| at + 1);
        for (prefix, rest) in std::iter::once(0).chain(dots).map(|at| name.split_at(at)) {
            if expected.contains(rest) {
                *counts.entry(prefix).or_default() += 1;
            }
        }
    }
    let most = counts.values().max().copied().unwrap_or(0);
    if 2 * most <= expected.len() {
        return Ok(None);
    }
    let prefixes = counts.into_iter().filter(|(_, count)| *count == most).map(|(prefix, _)| prefix);
    let prefixes: Vec<&str> = prefixes.collect();
    if let [only] = prefixes[..] {
        return Ok(Some((only.to_string(), None)));
    }
    let is_teacher = |prefix: &&&str| prefix.split('.').any(|attribute| attribute == "teacher");
    let mut teachers = prefixes.iter().filter(is_teacher);
    let all: Vec<String> = prefixes.iter().map(|prefix| printable_start(prefix)).collect();
    let listed = listed("it holds several networks", &all).unwrap_or_default();
    match (teachers.next(), teachers.next()) {
        (Some(teacher), None) => {
            let note = format!("{listed}; loaded {}", printable_start(teacher));
            Ok(Some((teacher.to_string(), Some(note))))
        }
        _ => bail!("{listed}: save the state dict of one of them with torch.save"),
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
