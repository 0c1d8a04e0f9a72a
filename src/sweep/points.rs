//! The points of a sweep: combinations of its axes' values.

use std::collections::HashSet;

use serde_yaml::Value;

use super::axis;
use super::config::{MAX_RUNS, SweepFile};
use super::naming::{axis_names, pairs, run_name, sampled_name, value_names};
use crate::config::ConfigError;
use crate::config::document::Document;
use crate::data::random_stream::RandomStream;

/// A point of the axes.
pub(super) struct GridPoint {
    /// `axis=value` for each axis, joined; `base` without axes.
    pub(super) name: String,
    /// The value of each axis.
    pub(super) values: Vec<Value>,
    /// What sets the axes to them.
    pub(super) overrides: Vec<Document>,
}

impl GridPoint {
    /// Returns the name of this point's run with a seed on a fold.
    pub(super) fn run_name(&self, seed: Option<u64>, fold: Option<&str>) -> String {
        let seed = seed.map(|seed| format!("seed={seed}"));
        let fold = fold.map(|fold| {
            let number = fold.trim_start_matches("fold_");
            format!("fold={}", number.replace("_of_", "of"))
        });
        let rest: Vec<String> = seed.into_iter().chain(fold).collect();
        let alone = self.values.is_empty() && !rest.is_empty();
        if alone { rest.join(",") } else { run_name(&self.name, &rest) }
    }
}

/// Returns the points that are run: all combinations of the axes or a sample of them, in the order
/// of the combinations; or a sample of their distributions.
pub(super) fn points(file: &SweepFile) -> Result<Vec<GridPoint>, ConfigError> {
    let sweep = &file.config;
    let axes: Vec<(&str, &[Value])> = pairs(&sweep.axes)
        .filter_map(|(key, values)| Some((key, values.as_sequence()?.as_slice())))
        .collect();
    let sizes = axes.iter().map(|(_, values)| values.len());
    let size = sizes.fold(1usize, |size, values| size.saturating_mul(values));
    let search = &sweep.search;
    let chosen: Vec<usize> = match search.points() {
        Some(count) if sweep.is_sampled() => return sampled_points(file, count.min(MAX_RUNS + 1)),
        Some(count) => sample(size, count, search.seed),
        None if size > MAX_RUNS => {
            let message = format!(
                "the grid has {size} points: use search: {{name: random, budget: N}} or {{name: \
                 asha, max_runs: N}}"
            );
            return Err(ConfigError::at(file.place(&["search"]), "search", message));
        }
        None => (0..size).collect(),
    };
    let keys: Vec<&str> = axes.iter().map(|(key, _)| *key).collect();
    let axis_names = axis_names(&keys);
    let value_names: Vec<Vec<String>> =
        axes.iter().map(|(_, values)| value_names(values)).collect();
    let set =
        |&(key, values): &(&str, &[Value])| file.assigned("axes", key, values.iter().cloned());
    let set: Vec<Vec<Document>> = axes.iter().map(set).collect::<Result<_, _>>()?;
    Ok(chosen
        .into_iter()
        .map(|mut index| {
            // The last axis varies fastest.
            let mut indices = vec![0; axes.len()];
            for axis in (0..axes.len()).rev() {
                indices[axis] = index % axes[axis].1.len();
                index /= axes[axis].1.len();
            }
            let each = || indices.iter().enumerate();
            let parts: Vec<String> = each()
                .map(|(axis, &index)| format!("{}={}", axis_names[axis], value_names[axis][index]))
                .collect();
            GridPoint {
                name: if parts.is_empty() { "base".to_string() } else { parts.join(",") },
                values: each().map(|(axis, &index)| axes[axis].1[index].clone()).collect(),
                overrides: each().map(|(axis, &index)| set[axis][index].clone()).collect(),
            }
        })
        .collect())
}

/// Samples points of axes of which some are distributions: each by its index, so that more points
/// do not change the first ones. Returns an error if the axes do not have as many.
fn sampled_points(file: &SweepFile, count: usize) -> Result<Vec<GridPoint>, ConfigError> {
    /// How often a point is sampled again that was sampled before.
    const TRIES: usize = 1000;
    let axes: Vec<(&str, &Value)> = pairs(&file.config.axes).collect();
    let keys: Vec<&str> = axes.iter().map(|(key, _)| *key).collect();
    let axis_names = axis_names(&keys);
    let seed = file.config.search.seed;
    let (mut names, mut known) = (Vec::new(), HashSet::new());
    let mut values: Vec<Vec<Value>> = vec![Vec::new(); axes.len()];
    for index in 0..count {
        let mut streams: Vec<RandomStream> =
            keys.iter().map(|key| stream(seed, key, index)).collect();
        let mut sampled = || {
            let values = axes.iter().zip(&mut streams);
            let values: Vec<Value> =
                values.map(|((_, axis), stream)| axis::sample(axis, stream)).collect();
            let parts = axis_names.iter().zip(&values);
            let parts = parts.map(|(name, value)| format!("{name}={}", sampled_name(value)));
            (parts.collect::<Vec<_>>().join(","), values)
        };
        let found = (0..TRIES).map(|_| sampled()).find(|(name, _)| known.insert(name.clone()));
        let Some((name, point)) = found else {
            let message = format!(
                "the axes have too few values for {count} different points, after {index} no other \
                 is found: lower the number, or widen the axes"
            );
            return Err(ConfigError::at(file.place(&["search"]), "search", message));
        };
        names.push(name);
        values.iter_mut().zip(point).for_each(|(values, value)| values.push(value));
    }
    let set = keys.iter().zip(&values);
    let set = set.map(|(key, values)| file.assigned("axes", key, values.iter().cloned()));
    let set: Vec<Vec<Document>> = set.collect::<Result<_, _>>()?;
    let point = |(index, name): (usize, String)| GridPoint {
        name,
        values: values.iter().map(|values| values[index].clone()).collect(),
        overrides: set.iter().map(|set| set[index].clone()).collect(),
    };
    Ok(names.into_iter().enumerate().map(point).collect())
}

/// Returns the random stream of an axis for a point. Each axis has its own, so that another one
/// more changes none of its values.
fn stream(seed: u64, key: &str, index: usize) -> RandomStream {
    let hash = blake3::hash(key.as_bytes());
    let number = hash.as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    RandomStream::new(seed, number, index as u64, "axis")
}

/// Samples `budget` different numbers below `size`, sorted; a larger budget holds those of a
/// smaller one.
fn sample(size: usize, budget: usize, seed: u64) -> Vec<usize> {
    if budget >= size {
        return (0..size).collect();
    }
    let mut stream = RandomStream::new(seed, 0, 0, "sweep");
    let mut sampled = HashSet::new();
    while sampled.len() < budget {
        sampled.insert(stream.below(size));
    }
    let mut sampled: Vec<usize> = sampled.into_iter().collect();
    sampled.sort_unstable();
    sampled
}

#[cfg(test)]
mod tests {
    use super::super::grid::tests::{names, sweep};

    #[test]
    fn distributions_are_sampled_by_index_so_that_more_points_do_not_change_the_first() {
        let runs = |search: &str, axes: &str| {
            let rest = format!(
                "axes: {{train.optimizer.lr: {{log_uniform: [1e-5, 1e-3]}}{axes}}}\n\
                 search: {search}\n"
            );
            sweep(&rest).unwrap()
        };
        let few = runs("{name: random, budget: 5}", "");
        let many = runs("{name: random, budget: 20}", "");
        assert_eq!(names(&few), names(&many)[..5]);
        assert!(names(&few)[0].starts_with("lr="), "{:?}", names(&few));
        let lr = few.runs[3].config.train.optimizer.lr;
        assert_eq!(few.runs[3].values[0].as_f64(), Some(lr));
        let asha = runs("{name: asha, max_runs: 5}", ", model.fusion.strategy: [gated, sum]");
        for (asha, random) in asha.runs.iter().zip(&few.runs) {
            assert_eq!(asha.config.train.optimizer.lr, random.config.train.optimizer.lr);
        }
        assert!(asha.runs[0].name.contains(",strategy="), "{}", asha.runs[0].name);
        let other = runs("{name: random, budget: 5, seed: 1}", "");
        assert_ne!(names(&few), names(&other));
        let rest = "axes: {train.epochs: {int: [1, 3]}}\nsearch: {name: random, budget: 4}\n";
        let error = sweep(rest).unwrap_err().to_string();
        assert!(error.contains("sweep.yaml:4: the axes have too few values for 4"), "{error}");
        let three = sweep(&rest.replace("budget: 4", "budget: 3")).unwrap();
        assert_eq!(three.runs.len(), 3);
    }

    #[test]
    fn a_list_of_maps_sets_several_keys_at_once() {
        let axes = "axes: {train.optimizer: [{name: adamw, lr: {log_uniform: [1e-4, 1e-3]}}, \
                    {name: sgd, lr: 0.5, momentum: 0.5}]}\nsearch: {name: random, budget: 9}\n";
        let runs = sweep(axes).unwrap().runs;
        let optimizers = runs.iter().map(|run| &run.config.train.optimizer);
        let (sgd, adamw): (Vec<_>, Vec<_>) =
            optimizers.partition(|optimizer| optimizer.name.name() == "sgd");
        assert!(sgd.iter().all(|sgd| sgd.lr == 0.5 && sgd.momentum == 0.5) && sgd.len() == 1);
        assert!(adamw.iter().all(|adamw| adamw.lr <= 1e-3) && adamw.len() == 8);
    }
}
