//! What a run is, as texts: its config, its data and its environment; and its hyperparameters.

use serde_yaml::Value;

use crate::config::{Config, ConfigError};
use crate::report::affects_results;
use crate::run::Provenance;
use crate::train::Start;

/// Keys that are compared even where they have their default.
const ALWAYS: [&str; 10] = [
    "seed",
    "data.dataset",
    "data.image_size",
    "model.vit.name",
    "model.mamba.name",
    "model.fusion.strategy",
    "train.epochs",
    "train.batch_size",
    "train.loss",
    "train.optimizer.lr",
];

/// Returns the hyperparameters of a run: the keys by which experiments are usually compared, and
/// those that do not have their default. Returns an error if a path is not Unicode.
pub(super) fn hparams(config: &Config) -> Result<Vec<(String, Value)>, ConfigError> {
    let defaults = Config::default().flat_keys()?;
    let mut keys = config.flat_keys()?;
    keys.retain(|key| {
        let name = key.0.as_str();
        // Another sampling of the splits is no other model, but it changes the metrics.
        let affects = affects_results(name) || name == "data.seed";
        let compared = affects && name != "data.root";
        compared && (ALWAYS.contains(&name) || !defaults.contains(key))
    });
    Ok(keys)
}

/// Returns texts by tag, in Markdown.
pub(super) fn run_texts(start: &Start) -> Vec<(&'static str, String)> {
    let yaml = start.config.to_yaml().unwrap_or_else(|error| error.to_string());
    vec![
        ("run/config", format!("```yaml\n{yaml}```")),
        ("run/data", data(start)),
        ("run/environment", environment(start)),
    ]
}

fn data(start: &Start) -> String {
    let [train, val, test] = start.images;
    let mut rows = vec![
        ("training images", train.to_string()),
        ("validation images", val.to_string()),
        ("test images", test.to_string()),
        ("skipped rows", start.skipped_rows.to_string()),
        ("steps per epoch", start.steps_per_epoch.to_string()),
    ];
    rows.extend(start.warnings.iter().map(|warning| ("warning", warning.clone())));
    table("data", &rows)
}

fn environment(start: &Start) -> String {
    let compute = start.compute;
    let Provenance { version, commit, libtorch, host, system, .. } =
        Provenance::collect(&compute.device);
    let mut rows = vec![
        ("vmbeauty", version),
        ("commit", commit.unwrap_or_default()),
        ("libtorch", libtorch),
        ("host", host),
        ("system", system),
        ("device", compute.device.clone()),
    ];
    rows.extend(compute.gpu.clone().map(|gpu| ("GPU", gpu)));
    rows.extend([
        ("threads", compute.threads.to_string()),
        ("precision", compute.precision.clone()),
        ("selective scan", compute.selective_scan.clone().unwrap_or_default()),
        ("trained parameters", start.parameters.to_string()),
    ]);
    rows.retain(|(_, value)| !value.is_empty());
    table("environment", &rows)
}

fn table(title: &str, rows: &[(&str, String)]) -> String {
    let cell = |text: &str| text.replace('|', "\\|").replace(['\n', '\r'], " ");
    let row = |(name, value): &(&str, String)| format!("| {name} | {} |\n", cell(value));
    format!("| {title} | |\n| --- | --- |\n") + &rows.iter().map(row).collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hyperparameters_are_the_usual_keys_and_those_without_their_default() {
        let names = |config: &Config| -> Vec<String> {
            hparams(config).unwrap().into_iter().map(|(key, _)| key).collect()
        };
        let mut default = names(&Config::default());
        let mut always = ALWAYS.map(str::to_string);
        default.sort();
        always.sort();
        assert_eq!(default, always);

        let mut config = Config { name: "x".to_string(), ..Config::default() };
        config.train.ema_decay = Some(0.9);
        config.train.threads = Some(3);
        config.train.evaluate_test = !config.train.evaluate_test;
        config.data.seed = Some(3);
        let added: Vec<String> =
            names(&config).into_iter().filter(|key| !default.contains(key)).collect();
        assert_eq!(added, ["data.seed", "train.ema_decay"]);
    }

    #[test]
    fn a_value_cannot_break_its_table() {
        assert_eq!(
            table("t", &[("a", "b|c\nd".into())]),
            "| t | |\n| --- | --- |\n| a | b\\|c d |\n"
        );
    }
}
