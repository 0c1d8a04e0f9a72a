//! The learning rate at each optimizer step.

use std::f64::consts::PI;

use crate::config::{ScheduleConfig, ScheduleName};

/// A linear warm-up from 0 to the full learning rate, then the schedule that the config names.
#[derive(Debug, Clone)]
pub struct Schedule {
    config: ScheduleConfig,
    steps_per_epoch: f64,
    total_steps: f64,
}

impl Schedule {
    /// Creates the schedule of a run of `epochs` with `steps_per_epoch` optimizer steps each. A
    /// warm-up longer than the run never ends.
    pub fn new(config: &ScheduleConfig, epochs: usize, steps_per_epoch: usize) -> Self {
        Self {
            config: config.clone(),
            steps_per_epoch: steps_per_epoch as f64,
            total_steps: (epochs * steps_per_epoch) as f64,
        }
    }

    /// Returns the learning rate at `step` (from 0) for a group whose full one is `base`; 0 stays
    /// 0.
    pub fn lr(&self, base: f64, step: u64) -> f64 {
        if base == 0.0 {
            return 0.0;
        }
        // The first step already has a learning rate above 0, the last step has the last one.
        let done = step as f64 + 1.0;
        let warmup_steps = self.config.warmup_epochs * self.steps_per_epoch;
        if done < warmup_steps {
            return base * done / warmup_steps;
        }
        let span = (self.total_steps - warmup_steps).max(1.0);
        let progress = ((done - warmup_steps) / span).clamp(0.0, 1.0);
        let min_lr = self.config.min_lr;
        match self.config.name {
            ScheduleName::Cosine => min_lr + (base - min_lr) * 0.5 * (1.0 + (PI * progress).cos()),
            ScheduleName::Linear => min_lr + (base - min_lr) * (1.0 - progress),
            ScheduleName::Step => {
                let decays = self.milestones_reached(step);
                (base * self.config.gamma.powi(decays)).max(min_lr)
            }
            ScheduleName::Constant => base,
        }
    }

    /// Counts the milestones that a step has reached. The first step of epoch e (from 0) is at e.
    fn milestones_reached(&self, step: u64) -> i32 {
        let ScheduleConfig { milestones, step_epochs, .. } = &self.config;
        let step = step as f64;
        match &milestones[..] {
            [] => (step / (step_epochs * self.steps_per_epoch)).floor() as i32,
            milestones => milestones.partition_point(|at| at * self.steps_per_epoch <= step) as i32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(warmup_epochs: f64) -> Schedule {
        named(ScheduleName::Cosine, warmup_epochs)
    }

    /// 10 epochs of 20 steps.
    fn named(name: ScheduleName, warmup_epochs: f64) -> Schedule {
        with(ScheduleConfig { name, warmup_epochs, ..ScheduleConfig::default() })
    }

    fn with(config: ScheduleConfig) -> Schedule {
        let min_lr = 1e-6;
        Schedule::new(&ScheduleConfig { min_lr, ..config }, 10, 20)
    }

    #[test]
    fn the_learning_rate_rises_to_the_full_one_and_falls_to_the_minimum() {
        for name in [ScheduleName::Cosine, ScheduleName::Linear] {
            let schedule = named(name, 2.0);
            assert_eq!(schedule.lr(1e-3, 0), 1e-3 / 40.0);
            assert!((schedule.lr(1e-3, 39) - 1e-3).abs() < 1e-12);
            assert!((schedule.lr(1e-3, 199) - 1e-6).abs() < 1e-12);
            let lrs: Vec<f64> = (39..200).map(|step| schedule.lr(1e-3, step)).collect();
            assert!(lrs.windows(2).all(|pair| pair[1] < pair[0]));
        }
    }

    #[test]
    fn cosine_and_linear_are_equal_halfway_and_differ_at_a_quarter() {
        let (cosine, linear) = (named(ScheduleName::Cosine, 0.0), named(ScheduleName::Linear, 0.0));
        let middle = (1e-3 + 1e-6) / 2.0;
        assert!((cosine.lr(1e-3, 99) - middle).abs() < 1e-9);
        assert!((linear.lr(1e-3, 99) - middle).abs() < 1e-9);
        // A quarter of the way: cos(π/4) against a straight line.
        let quarter = |factor: f64| 1e-6 + (1e-3 - 1e-6) * factor;
        let cosines = (1.0 + (PI / 4.0).cos()) / 2.0;
        assert!((cosine.lr(1e-3, 49) - quarter(cosines)).abs() < 1e-9);
        assert!((linear.lr(1e-3, 49) - quarter(0.75)).abs() < 1e-9);
    }

    #[test]
    fn steps_decay_every_step_epochs_down_to_the_minimum() {
        let config = ScheduleConfig {
            name: ScheduleName::Step,
            warmup_epochs: 0.5,
            step_epochs: 2.5,
            gamma: 0.1,
            ..ScheduleConfig::default()
        };
        let schedule = with(config);
        assert_eq!(schedule.lr(1e-3, 4), 1e-3 * 5.0 / 10.0);
        for (step, expected) in [(10, 1e-3), (49, 1e-3), (50, 1e-4), (99, 1e-4), (150, 1e-6)] {
            let lr = schedule.lr(1e-3, step);
            assert!((lr - expected).abs() < 1e-12, "{step}: {lr}");
        }
        assert_eq!(schedule.lr(1e-5, 199), 1e-6);
    }

    #[test]
    fn milestones_replace_even_steps() {
        let config = ScheduleConfig {
            name: ScheduleName::Step,
            warmup_epochs: 0.0,
            milestones: vec![1.0, 4.5],
            gamma: 0.5,
            step_epochs: 0.1,
            ..ScheduleConfig::default()
        };
        let schedule = with(config);
        let lrs = [19, 20, 89, 90, 199].map(|step| schedule.lr(1.0, step));
        assert_eq!(lrs, [1.0, 0.5, 0.5, 0.25, 0.25]);
    }

    #[test]
    fn a_constant_learning_rate_stays_after_its_warm_up() {
        let schedule = named(ScheduleName::Constant, 1.0);
        let lrs = [0, 9, 19, 20, 199].map(|step| schedule.lr(1.0, step));
        assert_eq!(lrs, [0.05, 0.5, 1.0, 1.0, 1.0]);
    }

    #[test]
    fn a_warm_up_longer_than_the_run_only_rises() {
        let schedule = schedule(20.0);
        assert_eq!(schedule.lr(1.0, 199), 0.5);
    }

    #[test]
    fn without_warm_up_the_first_learning_rate_is_nearly_the_full_one() {
        assert!(schedule(0.0).lr(1.0, 0) > 0.999);
    }

    #[test]
    fn a_learning_rate_of_0_stays_0() {
        assert_eq!(schedule(2.0).lr(0.0, 100), 0.0);
    }
}
