//! The monitored metric: which epoch is the best, and when early stopping ends a run.

use crate::config::{EarlyStoppingConfig, Monitor};
use crate::eval::predictions::Predictions;
use crate::run::EpochRecord;

/// Returns the score of an epoch by the monitored metric ([`Monitor::score`]). `None` where the
/// metric is undefined, as the PC of one image is, or that of a model that predicts a constant.
pub fn score(monitor: Monitor, record: &EpochRecord) -> Option<f64> {
    let score = monitor.score(record.monitored(monitor));
    score.is_finite().then_some(score)
}

/// Returns the metric that tells epochs like this one apart: the monitored one, or where that is
/// undefined MAE; `None` if both are.
pub fn deciding(monitor: Monitor, record: &EpochRecord) -> Option<Monitor> {
    [monitor, Monitor::Mae].into_iter().find(|&monitor| score(monitor, record).is_some())
}

/// Returns whether an epoch is better than another by more than `min_delta`. An epoch with the
/// monitored metric is better than one without; two without it are compared by MAE.
fn is_better(monitor: Monitor, record: &EpochRecord, than: &EpochRecord, min_delta: f64) -> bool {
    for monitor in [monitor, Monitor::Mae] {
        match (score(monitor, record), score(monitor, than)) {
            (None, None) => {}
            (Some(new), Some(old)) => return new > old + min_delta,
            (new, _) => return new.is_some(),
        }
    }
    false
}

/// Returns whether an epoch is better than all `before` it; the first one is. Where there is
/// nothing to compare, the last epoch counts as the best.
pub fn is_best(monitor: Monitor, record: &EpochRecord, before: &[EpochRecord]) -> bool {
    let best = before.iter().rev().find(|record| record.best);
    best.is_none_or(|best| {
        is_better(monitor, record, best, 0.0) || deciding(monitor, best).is_none()
    })
}

/// Returns whether early stopping ends the run after these epochs: `patience` of them in a row were
/// not better than the best before by more than `min_delta`. It follows from the epochs' metrics
/// alone, so a resumed run ends where an uninterrupted one does.
pub fn stops_early(
    monitor: Monitor,
    stopping: &EarlyStoppingConfig,
    records: &[EpochRecord],
) -> bool {
    let Some(patience) = stopping.patience else {
        return false;
    };
    let mut best: Option<&EpochRecord> = None;
    let mut waited = 0;
    for record in records {
        let better = match best {
            Some(best) => is_better(monitor, record, best, stopping.min_delta),
            None => deciding(monitor, record).is_some(),
        };
        if better {
            best = Some(record);
            waited = 0;
        } else {
            waited += 1;
        }
        if waited >= patience {
            return true;
        }
    }
    false
}

/// Returns a warning if the last of these epochs is the first whose monitored metric is undefined:
/// why that is, and what chooses the best epoch then. `predictions` are those of the last epoch.
pub fn warning(
    monitor: Monitor,
    records: &[EpochRecord],
    predictions: &Predictions,
) -> Option<String> {
    let (last, before) = records.split_last()?;
    let undefined = |record: &EpochRecord| score(monitor, record).is_none();
    if !undefined(last) || before.iter().any(undefined) {
        return None;
    }
    let all_equal = |values: &[f64]| values.windows(2).all(|pair| pair[0] == pair[1]);
    let cause = match predictions.images.len() {
        1 => "there is one validation image",
        _ if deciding(monitor, last).is_none() => "a prediction is not finite",
        _ if all_equal(&predictions.targets) => "the validation images have the same score",
        _ if all_equal(&predictions.predictions) => "all predictions are the same",
        _ => "it is not finite",
    };
    let choice = match deciding(monitor, last) {
        Some(_) => "epochs without it are compared by validation MAE",
        None => "of epochs without any metric, the last is kept",
    };
    Some(format!(
        "train.monitor: the {} of epoch {} is undefined, because {cause}; {choice}",
        monitor.title(),
        last.epoch
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::metrics::Metrics;

    fn record(metric: f64) -> EpochRecord {
        EpochRecord {
            epoch: 1,
            step: 1,
            train_loss: 4.0 * metric,
            val_loss: 5.0 * metric,
            val: Metrics {
                pc: metric,
                mae: 2.0 * metric,
                rmse: 3.0 * metric,
                srcc: metric / 2.0,
                n: 10,
            },
            lr: 0.1,
            backbone_lr: 0.1,
            fusion_weights: None,
            branch_pc: None,
            images_per_second: 1.0,
            data_wait: 0.0,
            seconds: 1.0,
            skipped_steps: 0,
            best: false,
        }
    }

    fn over(monitor: Monitor, patience: usize, min_delta: f64, metrics: &[f64]) -> bool {
        let stopping = EarlyStoppingConfig { patience: Some(patience), min_delta };
        let records: Vec<EpochRecord> = metrics.iter().copied().map(record).collect();
        stops_early(monitor, &stopping, &records)
    }

    #[test]
    fn smaller_errors_and_losses_have_higher_scores() {
        let of = |monitor| score(monitor, &record(0.25)).unwrap();
        assert_eq!((of(Monitor::Pc), of(Monitor::Srcc)), (0.25, 0.125));
        assert_eq!((of(Monitor::Mae), of(Monitor::Rmse)), (-0.5, -0.75));
        assert_eq!(of(Monitor::TrainLoss), -1.0);
    }

    #[test]
    fn a_metric_that_is_not_defined_is_worse_than_any() {
        for &monitor in Monitor::ALL {
            assert_eq!(score(monitor, &record(f64::NAN)), None);
            for defined in [1e300, -1.0] {
                let [undefined, defined] = [f64::NAN, defined].map(record);
                assert!(is_better(monitor, &defined, &undefined, 0.0));
                assert!(!is_better(monitor, &undefined, &defined, 0.0));
            }
        }
        assert!(!over(Monitor::Pc, 2, 0.0, &[f64::NAN, 0.1]));
        assert!(over(Monitor::Pc, 2, 0.0, &[f64::NAN, f64::NAN]));
    }

    /// An epoch without correlations, with this MAE.
    fn without_pc(mae: f64) -> EpochRecord {
        let mut record = record(f64::NAN);
        record.val.mae = mae;
        record
    }

    /// The epochs, from 1, that were the best when they ended.
    fn best(records: Vec<EpochRecord>) -> Vec<usize> {
        let mut before: Vec<EpochRecord> = Vec::new();
        for mut record in records {
            record.best = is_best(Monitor::Pc, &record, &before);
            before.push(record);
        }
        (1..).zip(&before).filter(|(_, record)| record.best).map(|(epoch, _)| epoch).collect()
    }

    #[test]
    fn epochs_without_the_monitored_metric_are_compared_by_mae_and_without_any_the_last_is_kept() {
        assert_eq!(best([0.5, 0.7, 0.3, 0.4].map(without_pc).into()), [1, 3]);
        assert_eq!(best([0.2, 0.1, 0.3].map(record).into()), [1, 3]);
        assert_eq!(best([f64::NAN; 3].map(record).into()), [1, 2, 3]);
        // One PC, however low, is better than none.
        assert_eq!(best(vec![without_pc(0.1), record(-0.9), without_pc(0.01)]), [1, 2]);
        assert_eq!(deciding(Monitor::Pc, &record(0.1)), Some(Monitor::Pc));
        assert_eq!(deciding(Monitor::Pc, &without_pc(0.1)), Some(Monitor::Mae));
        assert_eq!(deciding(Monitor::Pc, &record(f64::NAN)), None);
    }

    #[test]
    fn early_stopping_compares_epochs_without_the_monitored_metric_by_mae() {
        let stopping = EarlyStoppingConfig { patience: Some(2), min_delta: 0.0 };
        let over = |maes: &[f64]| {
            let records: Vec<EpochRecord> = maes.iter().copied().map(without_pc).collect();
            stops_early(Monitor::Pc, &stopping, &records)
        };
        assert!(!over(&[0.5, 0.4, 0.3, 0.2]));
        assert!(over(&[0.5, 0.6, 0.5]));
    }

    #[test]
    fn the_first_epoch_without_the_monitored_metric_is_warned_of_with_its_cause() {
        let warning = |records: &[EpochRecord], predictions: &[f64], targets: &[f64]| {
            let predictions = Predictions {
                images: targets.iter().map(|_| "a.png".to_string()).collect(),
                predictions: predictions.to_vec(),
                targets: targets.to_vec(),
                ..Predictions::default()
            };
            super::warning(Monitor::Pc, records, &predictions)
        };
        let undefined = without_pc(0.5);
        let first = std::slice::from_ref(&undefined);
        let text = warning(first, &[1.0], &[2.0]).unwrap();
        assert_eq!(
            text,
            "train.monitor: the validation PC of epoch 1 is undefined, because there is one \
             validation image; epochs without it are compared by validation MAE"
        );
        let text = warning(first, &[1.0, 2.0], &[3.0, 3.0]).unwrap();
        assert!(text.contains("the same score"), "{text}");
        let text = warning(first, &[1.0, 1.0], &[3.0, 4.0]).unwrap();
        assert!(text.contains("all predictions are the same"), "{text}");
        let text = warning(&[record(f64::NAN)], &[f64::NAN, 1.0], &[3.0, 4.0]).unwrap();
        assert!(text.contains("not finite") && text.contains("the last is kept"), "{text}");
        let twice = [undefined.clone(), undefined.clone()];
        assert_eq!(warning(&twice, &[1.0], &[2.0]), None);
        assert_eq!(warning(&[record(0.5)], &[1.0, 2.0], &[2.0, 3.0]), None);
        assert!(warning(&[record(0.5), undefined.clone()], &[1.0, 1.0], &[2.0, 3.0]).is_some());
    }

    #[test]
    fn a_run_is_over_after_patience_epochs_without_a_better_one() {
        assert!(!over(Monitor::Pc, 2, 0.0, &[]));
        assert!(!over(Monitor::Pc, 2, 0.0, &[0.5, 0.4]));
        assert!(over(Monitor::Pc, 2, 0.0, &[0.5, 0.4, 0.5]));
        assert!(!over(Monitor::Pc, 2, 0.0, &[0.5, 0.4, 0.6, 0.5]));
        // The same metrics as errors get better and better.
        assert!(!over(Monitor::Mae, 2, 0.0, &[0.5, 0.4, 0.3]));
        assert!(over(Monitor::Mae, 2, 0.0, &[0.3, 0.4, 0.5]));
    }

    #[test]
    fn gains_of_no_more_than_min_delta_do_not_count_but_add_up() {
        let metrics = [0.50, 0.51, 0.52];
        assert!(over(Monitor::Pc, 2, 0.05, &metrics));
        assert!(!over(Monitor::Pc, 2, 0.0, &metrics));
        // The second gain is over what the first epoch had.
        assert!(!over(Monitor::Pc, 2, 0.015, &metrics));
    }

    #[test]
    fn without_patience_no_run_is_over() {
        let records = vec![record(0.5); 100];
        assert!(!stops_early(Monitor::Pc, &EarlyStoppingConfig::default(), &records));
    }
}
