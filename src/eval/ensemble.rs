//! The mean of several models' predictions.

use super::predictions::Predictions;
use super::statistics::mean_and_sd;
use crate::data::single;

/// Returns the means of several models' predictions for the same images, with their standard
/// deviation (n - 1) in a column `sd`; of the further columns those that all models have.
pub fn mean_predictions(models: &[Predictions]) -> Predictions {
    let Some(first) = models.first() else {
        return Predictions::default();
    };
    let over_models = |columns: &[&[f64]]| -> (Vec<f64>, Vec<f64>) {
        let of = |row: usize| {
            let values: Vec<f64> = columns.iter().map(|column| column[row]).collect();
            let (mean, sd) = mean_and_sd(&values);
            (single(mean.unwrap_or(f64::NAN)), single(sd.unwrap_or(f64::NAN)))
        };
        (0..first.images.len()).map(of).unzip()
    };
    let columns: Vec<&[f64]> = models.iter().map(|model| &model.predictions[..]).collect();
    let (predictions, sd) = over_models(&columns);
    let mut extra = vec![("sd".to_string(), sd)];
    for (name, _) in &first.extra {
        let columns: Option<Vec<&[f64]>> = models.iter().map(|model| model.column(name)).collect();
        extra.extend(columns.map(|columns| (name.clone(), over_models(&columns).0)));
    }
    Predictions { predictions, extra, ..first.clone() }
}

/// Returns each image's error, prediction minus target, after `map`, mean over the models.
pub fn mean_errors(models: &[Predictions], map: impl Fn(f64) -> f64) -> Vec<f64> {
    let images = models.first().map_or(0, |first| first.images.len());
    let error = |model: &Predictions, row: usize| map(model.predictions[row] - model.targets[row]);
    let sum = |row| models.iter().map(|model| error(model, row)).sum::<f64>();
    (0..images).map(|row| sum(row) / models.len() as f64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_of_models_has_their_spread_and_the_columns_that_all_have() {
        let model = |predictions: [f64; 2], extra: &[(&str, [f64; 2])]| Predictions {
            images: vec!["a".into(), "b".into()],
            targets: vec![2.0, 0.5],
            predictions: predictions.to_vec(),
            groups: Vec::new(),
            extra: extra.iter().map(|(name, of)| (name.to_string(), of.to_vec())).collect(),
        };
        let both = [("weight_vit", [0.25, 0.5]), ("weight_mamba", [0.75, 0.5])];
        let mean = mean_predictions(&[
            model([2.4, 0.0], &both),
            model([3.4, 0.5], &[("weight_vit", [0.75, 0.5])]),
        ]);
        assert_eq!((mean.images.len(), &mean.targets[..]), (2, &[2.0, 0.5][..]));
        assert_eq!(mean.predictions, [2.9, 0.25]);
        assert_eq!(mean.column("weight_vit"), Some(&[0.5, 0.5][..]));
        assert!(mean.column("weight_mamba").is_none());
        let sd = mean.column("sd").unwrap();
        assert!((sd[0] - 0.5f64.sqrt()).abs() < 1e-6 && (sd[1] - 0.125f64.sqrt()).abs() < 1e-6);
    }
}
