//! The metadata at the head of a model card, as the Hugging Face hub reads them.

use anyhow::Result;
use serde_json::{Value, json};

use crate::config::{Config, DatasetName};
use crate::eval::metrics::Metric;
use crate::eval::statistics::MetricsWithCi;
use crate::run::Summary;

/// Writes the metadata, between lines of dashes.
pub(super) fn front_matter(config: &Config, summary: Option<&Summary>) -> Result<String> {
    let mut metadata = license(config, summary);
    metadata["library_name"] = json!("vm-beautynet");
    metadata["tags"] = json!(tags(config));
    if published_dataset(config.data.dataset).is_some() {
        metadata["datasets"] = json!([config.data.dataset.name()]);
    }
    let base_models = base_models(summary);
    if !base_models.is_empty() {
        metadata["base_model"] = json!(base_models);
    }
    if let Some(summary) = summary {
        metadata["metrics"] = json!(Metric::ALL.map(|of| hub_metric(of).0));
        let evaluated = [("validation", Some(&summary.val)), ("test", summary.test.as_ref())];
        let results = evaluated.into_iter();
        let results = results.filter_map(|(split, of)| Some(result(config, split, of?)));
        let model = json!({"name": config.name, "results": results.collect::<Vec<_>>()});
        metadata["model-index"] = json!([model]);
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
fn license(config: &Config, summary: Option<&Summary>) -> Value {
    if let Some((_, address)) = published_dataset(config.data.dataset) {
        let name = "non-commercial-research-only";
        return json!({"license": "other", "license_name": name, "license_link": address});
    }
    let own = summary.is_some_and(|summary| summary.starting_weights.is_empty());
    let synthetic = config.data.dataset == DatasetName::Synthetic;
    json!({"license": if own && synthetic { "mit" } else { "unknown" }})
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
