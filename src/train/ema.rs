//! An exponential moving average of the weights (Polyak averaging), which generalizes better than
//! the last step's weights.

use std::collections::HashMap;

use anyhow::{Context, Result, ensure};
use tch::Tensor;

use crate::ops;

/// The EMA weights, with the network's weights that they follow.
#[derive(Debug)]
pub struct Ema {
    decay: f64,
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    name: String,
    /// The weight; it shares its storage with the network.
    weight: Tensor,
    average: Tensor,
}

impl Ema {
    /// Starts the average at the current weights.
    pub fn new(parameters: &[(String, Tensor)], decay: f64) -> Self {
        let entries = parameters.iter().map(|(name, weight)| Entry {
            name: name.clone(),
            weight: weight.shallow_clone(),
            average: weight.detach().copy(),
        });
        Self { decay, entries: entries.collect() }
    }

    /// Updates the average after optimizer step `steps` (from 1): `average ← d average + (1 - d)
    /// weight`, where d is `(1 + steps) / (10 + steps)` until that exceeds the decay, so that the
    /// first weights are soon forgotten. Returns libtorch's error.
    pub fn update(&mut self, steps: u64) -> Result<()> {
        let steps = steps as f64;
        let decay = self.decay.min((1.0 + steps) / (10.0 + steps));
        let tensors = |of: fn(&Entry) -> &Tensor| -> Vec<Tensor> {
            self.entries.iter().map(|entry| of(entry).shallow_clone()).collect()
        };
        let (averages, weights) = (tensors(|entry| &entry.average), tensors(|entry| &entry.weight));
        ops::ema_update(&averages, &weights, 1.0 - decay)?;
        Ok(())
    }

    /// Exchanges the network's weights and the EMA weights: once to evaluate and save the EMA
    /// weights, once more to resume training. Returns libtorch's error if memory runs out.
    pub fn exchange(&mut self) -> Result<()> {
        let _guard = tch::no_grad_guard();
        for Entry { weight, average, .. } in &mut self.entries {
            let held = weight.f_detach()?.copy();
            weight.f_copy_(average)?;
            average.f_copy_(&held)?;
        }
        Ok(())
    }

    /// Returns the EMA weights by name; the tensors share their storage.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        let entries = self.entries.iter();
        entries.map(|entry| (entry.name.clone(), entry.average.shallow_clone())).collect()
    }

    /// Restores what [`state`](Self::state) returned. Returns an error that names a tensor if it is
    /// missing or has another shape.
    pub fn restore(&mut self, saved: &HashMap<String, Tensor>) -> Result<()> {
        let _guard = tch::no_grad_guard();
        for entry in &mut self.entries {
            let name = &entry.name;
            let tensor =
                saved.get(name).with_context(|| format!("the EMA weights have no {name}"))?;
            ensure!(
                tensor.size() == entry.average.size(),
                "the EMA weight {name} has shape {:?}, not {:?}",
                tensor.size(),
                entry.average.size()
            );
            entry.average.f_copy_(tensor)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;
    use crate::test_gpu::gpu;

    fn parameter(value: f32) -> (String, Tensor) {
        parameter_on(Device::Cpu, value)
    }

    fn parameter_on(device: Device, value: f32) -> (String, Tensor) {
        ("w".to_string(), Tensor::from_slice(&[value]).to_device(device))
    }

    fn value(list: &[(String, Tensor)]) -> f64 {
        list[0].1.double_value(&[0])
    }

    #[test]
    fn the_average_follows_the_weights_slowly_but_for_the_first_steps() {
        check_average(Device::Cpu);
    }

    #[test]
    fn on_a_gpu_the_average_follows_the_weights_and_is_exchanged_with_them() {
        if let Some(device) = gpu() {
            check_average(device);
            check_exchange(device);
        }
    }

    fn check_average(device: Device) {
        let parameters = [parameter_on(device, 0.0)];
        let mut ema = Ema::new(&parameters, 0.5);
        let _ = parameters[0].1.shallow_clone().fill_(1.0);
        ema.update(1).unwrap(); // decay 2/11
        assert!((value(&ema.state()) - 9.0 / 11.0).abs() < 1e-6);
        ema.update(100).unwrap(); // decay 0.5
        assert!((value(&ema.state()) - 10.0 / 11.0).abs() < 1e-6);
    }

    #[test]
    fn exchanging_twice_changes_nothing() {
        check_exchange(Device::Cpu);
    }

    fn check_exchange(device: Device) {
        let parameters = [parameter_on(device, 0.1)];
        let mut ema = Ema::new(&parameters, 0.9);
        let _ = parameters[0].1.shallow_clone().fill_(0.7);
        ema.exchange().unwrap();
        assert_eq!((value(&parameters) as f32, value(&ema.state()) as f32), (0.1, 0.7));
        ema.exchange().unwrap();
        assert_eq!((value(&parameters) as f32, value(&ema.state()) as f32), (0.7, 0.1));
    }

    #[test]
    fn a_restored_average_is_the_saved_one() {
        let mut ema = Ema::new(&[parameter(3.0)], 0.9);
        ema.restore(&HashMap::from([parameter(5.0)])).unwrap();
        assert_eq!(value(&ema.state()), 5.0);
        let error = ema.restore(&HashMap::new()).unwrap_err().to_string();
        assert!(error.contains("have no w"), "{error}");
    }
}
