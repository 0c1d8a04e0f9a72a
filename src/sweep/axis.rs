//! The values of an axis: a list, or a distribution that they are sampled from.

use serde_json::json;
use serde_yaml::{Mapping, Value};

use super::naming;
use crate::config::as_json;
use crate::config::names::nearest;
use crate::data::random_stream::RandomStream;

/// The names of the distributions.
const NAMES: [&str; 4] = ["uniform", "log_uniform", "int", "choice"];
/// Significant digits of a sampled number: more would only make names long.
const DIGITS: usize = 4;

/// A distribution of values: a map with one key, `{log_uniform: [1e-5, 1e-3]}`.
enum Distribution<'a> {
    /// Numbers between two others.
    Uniform([f64; 2]),
    /// Numbers whose logarithms are uniform.
    LogUniform([f64; 2]),
    /// Whole numbers, both ends included.
    Int([i64; 2]),
    /// The values of a list, all equally likely.
    Choice(&'a [Value]),
}

impl<'a> Distribution<'a> {
    /// Returns the distribution that a value is, if it is one. Returns an error that says how its
    /// bounds must be.
    fn of(value: &'a Value) -> Option<Result<Self, String>> {
        let map = value.as_mapping().filter(|map| map.len() == 1)?;
        let (name, bounds) = naming::pairs(map).next().filter(|(name, _)| NAMES.contains(name))?;
        Some(Self::parse(name, bounds))
    }

    fn parse(name: &str, bounds: &'a Value) -> Result<Self, String> {
        let list = bounds.as_sequence().map_or(&[][..], Vec::as_slice);
        let numbers = || {
            let [low, high] = ascending(list, Value::as_f64)?;
            (low.is_finite() && high.is_finite()).then_some([low, high])
        };
        let (parsed, rule) = match name {
            "choice" => ((!list.is_empty()).then_some(Self::Choice(list)), "a list of values"),
            "int" => {
                let bounds = ascending(list, Value::as_i64);
                (bounds.map(Self::Int), "two whole numbers, the smaller first")
            }
            "uniform" => (numbers().map(Self::Uniform), "two numbers, the smaller first"),
            _ => {
                let bounds = numbers().filter(|[low, _]| *low > 0.0);
                (bounds.map(Self::LogUniform), "two numbers above 0, the smaller first")
            }
        };
        parsed.ok_or_else(|| format!("{name} must be {rule}, is {}", as_json(bounds)))
    }

    fn sample(&self, stream: &mut RandomStream) -> Value {
        match self {
            Self::Uniform([low, high]) => number(stream.uniform(*low, *high), *low, *high),
            Self::LogUniform([low, high]) => {
                let logarithm = stream.uniform(libm::log(*low), libm::log(*high));
                number(libm::exp(logarithm), *low, *high)
            }
            Self::Int([low, high]) => {
                let count = high.abs_diff(*low).saturating_add(1);
                let offset = stream.below(usize::try_from(count).unwrap_or(usize::MAX));
                low.wrapping_add(offset as i64).into()
            }
            Self::Choice(values) => sample_within(&values[stream.below(values.len())], stream),
        }
    }

    /// Returns the `index`-th of the values that a check is made with.
    fn example(&self, index: usize) -> Value {
        match self {
            Self::Uniform(bounds) | Self::LogUniform(bounds) => bounds[index % 2].into(),
            Self::Int(bounds) => bounds[index % 2].into(),
            Self::Choice(values) => example(&values[index % values.len()], index),
        }
    }
}

/// Returns the two numbers of a list, if the first is the smaller one.
fn ascending<T: PartialOrd>(list: &[Value], number: fn(&Value) -> Option<T>) -> Option<[T; 2]> {
    let [low, high] = list else { return None };
    let bounds = [number(low)?, number(high)?];
    (bounds[0] < bounds[1]).then_some(bounds)
}

/// Rounds a number to a few digits, within its bounds.
fn number(value: f64, low: f64, high: f64) -> Value {
    let rounded = format!("{value:.0$e}", DIGITS - 1).parse().unwrap_or(value);
    rounded.clamp(low, high).into()
}

/// Returns a value with others in place of the distributions within it.
fn replaced(value: &Value, by: &mut dyn FnMut(&Distribution) -> Value) -> Value {
    match (Distribution::of(value), value) {
        (Some(Ok(distribution)), _) => by(&distribution),
        (None, Value::Mapping(map)) => {
            let pairs = map.iter().map(|(key, value)| (key.clone(), replaced(value, by)));
            Value::Mapping(pairs.collect())
        }
        _ => value.clone(),
    }
}

/// Samples the distributions within a value.
fn sample_within(value: &Value, stream: &mut RandomStream) -> Value {
    replaced(value, &mut |distribution| distribution.sample(stream))
}

/// Samples a value of an axis.
pub(super) fn sample(axis: &Value, stream: &mut RandomStream) -> Value {
    match axis {
        Value::Sequence(values) if !values.is_empty() => {
            sample_within(&values[stream.below(values.len())], stream)
        }
        axis => sample_within(axis, stream),
    }
}

fn example(value: &Value, index: usize) -> Value {
    replaced(value, &mut |distribution| distribution.example(index))
}

/// Returns the values that a list has, or the one that an axis is.
fn entries(axis: &Value) -> &[Value] {
    axis.as_sequence().map_or(std::slice::from_ref(axis), Vec::as_slice)
}

/// Returns values of an axis that its checks are made with: all of a list, the bounds of a
/// distribution.
pub(super) fn examples(axis: &Value) -> Vec<Value> {
    let of = |value: &Value| -> Vec<Value> {
        let count = match Distribution::of(value) {
            Some(Ok(Distribution::Choice(values))) => values.len(),
            _ if is_sampled(value) => 2,
            _ => 1,
        };
        (0..count).map(|index| example(value, index)).collect()
    };
    entries(axis).iter().flat_map(of).collect()
}

/// Returns whether there is a distribution in the value of an axis.
pub(super) fn is_sampled(axis: &Value) -> bool {
    entries(axis).iter().any(is_sampled_within)
}

fn is_sampled_within(value: &Value) -> bool {
    let inner = || value.as_mapping().into_iter().flat_map(Mapping::values);
    Distribution::of(value).is_some() || inner().any(is_sampled_within)
}

/// Checks the form of an axis: a list, or a distribution. Returns an error that continues
/// `axes.KEY`.
pub(super) fn check(axis: &Value) -> Result<(), String> {
    match axis {
        Value::Sequence(values) if !values.is_empty() => values.iter().try_for_each(check_within),
        axis if Distribution::of(axis).is_some() => check_within(axis),
        axis => {
            let keys = axis.as_mapping().into_iter().flat_map(naming::pairs).map(|(key, _)| key);
            let meant = keys.filter_map(|key| nearest(key, NAMES.into_iter())).next();
            let hint = meant.map_or(String::new(), |name| format!("; did you mean {name}?"));
            Err(format!(
                " must be a list of values, for example [1, 2], or a distribution, \
                 {{log_uniform: [1e-5, 1e-3]}}, uniform, int or choice{hint}"
            ))
        }
    }
}

fn check_within(value: &Value) -> Result<(), String> {
    match Distribution::of(value) {
        Some(Err(reason)) => Err(format!(": {reason}")),
        Some(Ok(Distribution::Choice(values))) => values.iter().try_for_each(check_within),
        Some(Ok(_)) => Ok(()),
        None => {
            let mut inner = value.as_mapping().into_iter().flat_map(Mapping::values);
            inner.try_for_each(check_within)
        }
    }
}

/// Returns the schema of an axis whose key has the schema `of`.
pub(super) fn schema(of: &serde_json::Value) -> serde_json::Value {
    let distribution = distribution_schema(of);
    let list = json!({"type": "array", "minItems": 1, "items": sampled_schema(of)});
    either([list, distribution], of)
}

fn distribution_schema(of: &serde_json::Value) -> serde_json::Value {
    let bounds = |name: &str| {
        let item = json!({"type": name});
        json!({"type": "array", "items": item, "minItems": 2, "maxItems": 2})
    };
    json!({
        "type": "object",
        "properties": {
            "uniform": bounds("number"),
            "log_uniform": bounds("number"),
            "int": bounds("integer"),
            "choice": {"type": "array", "minItems": 1, "items": of},
        },
        "minProperties": 1,
        "maxProperties": 1,
        "additionalProperties": false,
    })
}

/// Returns the schema of a value in which each key may be sampled.
fn sampled_schema(of: &serde_json::Value) -> serde_json::Value {
    let mut schema = of.clone();
    let Some(keys) = schema.get_mut("properties").and_then(serde_json::Value::as_object_mut) else {
        return schema;
    };
    for key in keys.values_mut() {
        *key = either([sampled_schema(key), distribution_schema(key)], key);
    }
    schema
}

/// Returns the schema of either choice, with the description of the key `of`.
fn either(choices: [serde_json::Value; 2], of: &serde_json::Value) -> serde_json::Value {
    let mut schema = json!({"anyOf": choices});
    if let Some(description) = of.get("description") {
        schema["description"] = description.clone();
    }
    schema
}

#[cfg(test)]
mod tests {
    use super::*;

    fn yaml(text: &str) -> Value {
        serde_yaml::from_str(text).unwrap()
    }

    fn samples(axis: &str) -> Vec<Value> {
        let axis = yaml(axis);
        let sampled = |index| sample(&axis, &mut RandomStream::new(3, 0, index, "axis"));
        (0..200).map(sampled).collect()
    }

    #[test]
    fn samples_fill_their_range_and_have_few_digits() {
        for (axis, low, high) in [
            ("{uniform: [-1, 1]}", -1.0, 1.0),
            ("{log_uniform: [1e-5, 1e-3]}", 1e-5, 1e-3),
            ("{int: [3, 7]}", 3.0, 7.0),
        ] {
            let values: Vec<f64> =
                samples(axis).iter().map(|value| value.as_f64().unwrap()).collect();
            assert!(values.iter().all(|value| (low..=high).contains(value)), "{axis}");
            let middle = if axis.contains("log") { 1e-4 } else { (low + high) / 2.0 };
            let below = values.iter().filter(|value| **value < middle).count();
            assert!((60..140).contains(&below), "{axis}: {below}");
            let digits = |value: &f64| format!("{value:e}").split('e').next().unwrap().len();
            assert!(values.iter().all(|value| digits(value) <= 6), "{axis}");
        }
        assert!(samples("{int: [3, 7]}").iter().all(|value| value.is_i64()));
        let ends = [3, 7].map(|end| samples("{int: [3, 7]}").contains(&end.into()));
        assert_eq!(ends, [true, true]);
    }

    #[test]
    fn an_entry_of_a_list_of_maps_sets_several_keys_each_of_which_may_be_sampled() {
        let axis = "[{name: adamw, lr: {log_uniform: [1e-4, 1e-2]}}, {name: sgd, lr: {uniform: \
                    [0.1, 1]}, momentum: {choice: [0.5, 0.9]}}]";
        for value in samples(axis) {
            let lr = value["lr"].as_f64().unwrap();
            match value["name"].as_str().unwrap() {
                "adamw" => assert!((1e-4..=1e-2).contains(&lr) && value.get("momentum").is_none()),
                _ => {
                    assert!(lr >= 0.1 && [0.5, 0.9].contains(&value["momentum"].as_f64().unwrap()))
                }
            }
        }
        assert!(is_sampled(&yaml(axis)) && !is_sampled(&yaml("[{name: adamw}, {name: sgd}]")));
        let checked = examples(&yaml(axis));
        assert_eq!((checked.len(), checked[1]["lr"].as_f64()), (4, Some(1e-2)));
    }

    #[test]
    fn a_wrong_distribution_says_how_its_bounds_must_be() {
        for (axis, words) in [
            ("{uniform: [2, 1]}", ": uniform must be two numbers, the smaller first, is [2,1]"),
            ("{log_uniform: [0, 1]}", ": log_uniform must be two numbers above 0"),
            ("{int: [1, 2.5]}", ": int must be two whole numbers, the smaller first"),
            ("{choice: 3}", ": choice must be a list of values, is 3"),
            ("[{lr: {uniform: 3}}]", ": uniform must be two numbers"),
            ("{loguniform: [1, 2]}", "or choice; did you mean log_uniform?"),
            ("3", " must be a list of values, for example [1, 2], or a distribution"),
            ("[]", " must be a list"),
        ] {
            let error = check(&yaml(axis)).unwrap_err();
            assert!(error.contains(words), "{axis}: {error}");
        }
        assert!(check(&yaml("{choice: [1, 2]}")).is_ok());
    }
}
