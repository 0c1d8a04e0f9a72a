//! The monitored metric: which epoch is the best, and when early stopping ends a run.

use crate::config::{EarlyStoppingConfig, Monitor};
use crate::run::EpochRecord;

/// The score of an epoch whose metric is not defined, for example the PC of a model that predicts a
/// constant; it is worse than any other.
const UNDEFINED: f64 = f64::MIN;

/// Returns the score of an epoch by the monitored metric: more is better, so a metric of which less
/// is better is negated.
pub fn score(monitor: Monitor, record: &EpochRecord) -> f64 {
    let score = match monitor {
        Monitor::Pc => record.val.pc,
        Monitor::Srcc => record.val.srcc,
        Monitor::Mae => -record.val.mae,
        Monitor::Rmse => -record.val.rmse,
        Monitor::TrainLoss => -record.train_loss,
    };
    if score.is_finite() { score } else { UNDEFINED }
}

/// Returns whether an epoch is better than all `before` it; the first one is.
pub fn is_best(monitor: Monitor, record: &EpochRecord, before: &[EpochRecord]) -> bool {
    let best = before.iter().rev().find(|record| record.best);
    best.is_none_or(|best| score(monitor, record) > score(monitor, best))
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
    let mut best = UNDEFINED;
    let mut waited = 0;
    for record in records {
        let score = score(monitor, record);
        if score > best + stopping.min_delta {
            best = score;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::metrics::Metrics;

    fn record(metric: f64) -> EpochRecord {
        EpochRecord {
            epoch: 1,
            step: 1,
            train_loss: 4.0 * metric,
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
        let of = |monitor| score(monitor, &record(0.25));
        assert_eq!((of(Monitor::Pc), of(Monitor::Srcc)), (0.25, 0.125));
        assert_eq!((of(Monitor::Mae), of(Monitor::Rmse)), (-0.5, -0.75));
        assert_eq!(of(Monitor::TrainLoss), -1.0);
    }

    #[test]
    fn a_metric_that_is_not_defined_is_worse_than_any() {
        for monitor in Monitor::ALL {
            let undefined = score(*monitor, &record(f64::NAN));
            assert!(undefined < score(*monitor, &record(1e300)));
            assert!(undefined < score(*monitor, &record(-1.0)));
        }
        assert!(!over(Monitor::Pc, 2, 0.0, &[f64::NAN, 0.1]));
        assert!(over(Monitor::Pc, 2, 0.0, &[f64::NAN, f64::NAN]));
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
