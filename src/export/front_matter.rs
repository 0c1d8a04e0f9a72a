//! The metadata at the head of a model card, as the Hugging Face hub reads them.

use anyhow::Result;
use serde_json::{Map, Value, json};

use crate::config::{Config, DatasetName};
use crate::eval::metrics::Metric;
use crate::eval::statistics::MetricsWithCi;
use crate::run::Summary;

/// Writes the metadata, between lines of dashes.
pub(super) fn front_matter(config: &Config, summary: Option<&Summary>) -> Result<String> {
    let mut metadata = Map::new();
    metadata.insert("library_name".to_string(), json!("vm-beautynet"));
    metadata.insert("tags".to_string(), json!(tags(config)));
    metadata.extend(license(config, summary));
    let published = published_dataset(config.data.dataset);
    if published.is_some() {
        metadata.insert("datasets".to_string(), json!([config.data.dataset.name()]));
    }
    let base_models = base_models(summary);
    if !base_models.is_empty() {
        metadata.insert("base_model".to_string(), json!(base_models));
    }
    if let Some(summary) = summary {
        metadata.insert("metrics".to_string(), json!(Metric::ALL.map(|of| hub_metric(of).0)));
        let evaluated = [("validation", Some(&summary.val)), ("test", summary.test.as_ref())];
        let results = evaluated.into_iter();
        let results = results.filter_map(|(split, of)| Some(result(config, split, of?)));
        let model = json!({"name": config.name, "results": results.collect::<Vec<_>>()});
        metadata.insert("model-index".to_string(), json!([model]));
    }
    Ok(format!("---\n{}---\n", serde_yaml::to_string(&metadata)?))
}

fn tags(config: &Config) -> Vec<&'static str> {
    use crate::config::Branch;
    let strategy = config.model.fusion.strategy;
    let mut tags = vec!["facial-beauty-prediction", "image-regression", "arxiv:2510.16220"];
    tags.extend(strategy.uses(Branch::Vit).then_some("vision-transformer"));
    tags.extend(strategy.uses(Branch::Mamba).then_some("vision-mamba"));
    tags
}

/// Returns the name and the address of a published dataset.
fn published_dataset(dataset: DatasetName) -> Option<(&'static str, &'static str)> {
    match dataset {
        DatasetName::Mebeauty => Some(("MEBeauty", "https://github.com/fbplab/MEBeauty-database")),
        DatasetName::ScutFbp5500 => {
            Some(("SCUT-FBP5500", "https://github.com/HCIILAB/SCUT-FBP5500-Database-Release"))
        }
        DatasetName::Synthetic | DatasetName::Csv | DatasetName::Folder => None,
    }
}

/// Returns the license of the weights, which is that of what they were trained on: that of this
/// program for its synthetic faces, unless they began as others' weights.
fn license(config: &Config, summary: Option<&Summary>) -> Vec<(String, Value)> {
    let keys: &[(&str, &str)] = match published_dataset(config.data.dataset) {
        Some((_, address)) => &[
            ("license", "other"),
            ("license_name", "non-commercial-research-only"),
            ("license_link", address),
        ],
        None => {
            let own = summary.is_some_and(|summary| summary.starting_weights.is_empty());
            let synthetic = config.data.dataset == DatasetName::Synthetic;
            &[("license", if own && synthetic { "mit" } else { "unknown" })]
        }
    };
    keys.iter().map(|&(key, value)| (key.to_string(), json!(value))).collect()
}

/// Returns the repositories on the hub whose weights training started from.
fn base_models(summary: Option<&Summary>) -> Vec<&str> {
    let starting = summary.into_iter().flat_map(|summary| summary.starting_weights.values());
    let repositories =
        starting.filter_map(|weights| Some(weights.hub.as_ref()?.repository.as_str()));
    let mut repositories: Vec<&str> = repositories.collect();
    repositories.dedup();
    repositories
}

/// Returns the hub's name of a metric, and whether its value is the root of it.
fn hub_metric(metric: Metric) -> (&'static str, bool) {
    match metric {
        Metric::Pc => ("pearsonr", false),
        Metric::Mae => ("mae", false),
        Metric::Rmse => ("mse", true),
        Metric::Srcc => ("spearmanr", false),
    }
}

/// Returns the results on a split; undefined metrics are omitted.
fn result(config: &Config, split: &str, evaluated: &MetricsWithCi) -> Value {
    let metrics = Metric::ALL.into_iter().filter_map(|metric| {
        let value = metric.of(&evaluated.metrics);
        let (name, root) = hub_metric(metric);
        let title = metric.name().to_uppercase();
        let mut about = json!({"type": name, "name": title, "value": value});
        if root {
            about["args"] = json!({"squared": false});
        }
        value.is_finite().then_some(about)
    });
    let dataset = config.data.dataset;
    json!({
        "task": {"type": "image-regression", "name": "Facial beauty prediction"},
        "dataset": {
            "type": dataset.name(),
            "name": published_dataset(dataset).map_or(dataset.name(), |(name, _)| name),
            "config": config.data.split,
            "split": split,
        },
        "metrics": metrics.collect::<Vec<_>>(),
    })
}
