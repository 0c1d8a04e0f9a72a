//! Learning rates over a run, by optimizer step.

use crate::config::{ScheduleConfig, ScheduleName};

/// Linear warm-up from 0, then half a cosine down to `min_lr` (arXiv 1608.03983, without restarts).
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    warmup_steps: f64,
    total_steps: f64,
    min_lr: f64,
}

impl Schedule {
    /// For a run of `epochs` with `steps_per_epoch` each. A warm-up longer than the run never ends.
    pub fn new(config: &ScheduleConfig, epochs: usize, steps_per_epoch: usize) -> Self {
        let ScheduleName::Cosine = config.name;
        Self {
            warmup_steps: config.warmup_epochs * steps_per_epoch as f64,
            total_steps: (epochs * steps_per_epoch) as f64,
            min_lr: config.min_lr,
        }
    }

    /// The rate of the step with this index (from 0), for a group whose full rate is `base`; 0 stays 0.
    pub fn lr(&self, base: f64, step: u64) -> f64 {
        if base == 0.0 {
            return 0.0;
        }
        let done = step as f64 + 1.0; // the first step already moves, the last one has the last rate
        if done < self.warmup_steps {
            return base * done / self.warmup_steps;
        }
        let span = (self.total_steps - self.warmup_steps).max(1.0);
        let progress = ((done - self.warmup_steps) / span).clamp(0.0, 1.0);
        self.min_lr + (base - self.min_lr) * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(warmup_epochs: f64) -> Schedule {
        let config = ScheduleConfig {
            warmup_epochs,
            min_lr: 1e-6,
            ..ScheduleConfig::default()
        };
        Schedule::new(&config, 10, 20)
    }

    #[test]
    fn rises_to_the_full_rate_and_falls_to_the_minimum() {
        let schedule = schedule(2.0);
        assert_eq!(schedule.lr(1e-3, 0), 1e-3 / 40.0);
        assert!((schedule.lr(1e-3, 39) - 1e-3).abs() < 1e-12);
        assert!((schedule.lr(1e-3, 199) - 1e-6).abs() < 1e-12);
        let rates: Vec<f64> = (39..200).map(|step| schedule.lr(1e-3, step)).collect();
        assert!(rates.windows(2).all(|pair| pair[1] < pair[0]));
    }

    #[test]
    fn a_warm_up_longer_than_the_run_only_rises() {
        let schedule = schedule(20.0);
        assert_eq!(schedule.lr(1.0, 199), 0.5);
    }

    #[test]
    fn without_warm_up_the_first_rate_is_nearly_the_full_one() {
        assert!(schedule(0.0).lr(1.0, 0) > 0.999);
    }

    #[test]
    fn a_group_at_rest_stays_at_rest() {
        assert_eq!(schedule(2.0).lr(0.0, 100), 0.0);
    }
}
