//! What each rank has of a batch or a split, put together on all of them.

use anyhow::{Context, Result};
use tch::{Device, Tensor};

use super::{Broken, World};
use crate::data::{RankShard, Sample};
use crate::eval::evaluate::{BRANCH_WEIGHTS, values};
use crate::eval::predictions::Predictions;

impl World {
    /// A tensor (whole, …) of the whole batch from each rank's (len, …), of which this rank's part
    /// keeps its history: a loss over the whole batch gives each rank its part of the gradients,
    /// also where the loss is no mean over images.
    ///
    /// # Errors
    /// A rank that is gone.
    pub fn gather_batch(&self, mine: &Tensor, whole: usize) -> Result<Tensor> {
        let Some(job) = &self.0 else {
            return Ok(mine.shallow_clone());
        };
        let (group, _) = job.group()?;
        let parts: Vec<_> = self.shard().of_all_ranks().map(|shard| shard.range(whole)).collect();
        // Collectives take equal shapes.
        let longest = parts.iter().map(ExactSizeIterator::len).max().unwrap_or(0);
        let mut shape = mine.size();
        *shape.first_mut().context("a batch has a first dimension")? = longest as i64;
        let padded = Tensor::f_zeros(&shape, (mine.kind(), mine.device()))?;
        let own = parts.get(self.rank()).map_or(0, ExactSizeIterator::len) as i64;
        padded.narrow(0, 0, own).f_copy_(&mine.detach())?;
        let mut all = group.all_gather(&padded).map_err(Broken)?;
        for (tensor, part) in all.iter_mut().zip(&parts) {
            *tensor = tensor.narrow(0, 0, part.len() as i64);
        }
        if let Some(tensor) = all.get_mut(self.rank()) {
            *tensor = mine.shallow_clone();
        }
        Ok(Tensor::f_cat(&all, 0)?)
    }

    /// All predictions of a split from each rank's, which are those of its share of the batches, in
    /// order: the same numbers on every rank, as one process would have them.
    ///
    /// # Errors
    /// A rank that is gone.
    pub fn gather_predictions(
        &self,
        mine: Predictions,
        samples: &[Sample],
        batch_size: usize,
    ) -> Result<Predictions> {
        let Some(job) = &self.0 else { return Ok(mine) };
        let of_rank = |shard: RankShard| shard.image_range(samples.len(), batch_size).len();
        let counts: Vec<usize> = self.shard().of_all_ranks().map(of_rank).collect();
        let (_, device) = job.group()?;
        let predictions = self.gather_column(&mine.predictions, &counts, *device)?;
        let mut extra = Vec::new();
        for name in self.columns(&mine)? {
            let column = mine.extra.iter().find(|(own, _)| *own == name);
            let column = column.map_or(&[][..], |(_, values)| values);
            let column = self.gather_column(column, &counts, *device)?;
            extra.push((name.to_string(), column));
        }
        Ok(Predictions { predictions, extra, ..Predictions::unpredicted(samples) })
    }

    fn gather_column(&self, mine: &[f64], counts: &[usize], device: Device) -> Result<Vec<f64>> {
        let Some(job) = &self.0 else {
            return Ok(mine.to_vec());
        };
        let longest = counts.iter().copied().max().unwrap_or(0);
        let mut padded = mine.to_vec();
        padded.resize(longest, 0.0);
        let tensor = Tensor::f_from_slice(&padded)?.f_to_device(device)?;
        let (group, _) = job.group()?;
        let mut column = Vec::new();
        for (tensor, &count) in group.all_gather(&tensor).map_err(Broken)?.iter().zip(counts) {
            column.extend(values(&tensor.narrow(0, 0, count as i64))?);
        }
        Ok(column)
    }

    /// The largest of the ranks' numbers.
    ///
    /// # Errors
    /// A rank that is gone.
    pub fn largest(&self, mine: i64) -> Result<i64> {
        let Some(job) = &self.0 else { return Ok(mine) };
        let (group, device) = job.group()?;
        let own = Tensor::f_from_slice(&[mine])?.f_to_device(*device)?;
        let all = group.all_gather(&own).map_err(Broken)?;
        let largest = all.iter().map(|number| number.int64_value(&[0])).max();
        Ok(largest.unwrap_or(mine))
    }

    /// The names of the further columns. A rank without images has none itself: the others have.
    fn columns(&self, mine: &Predictions) -> Result<impl Iterator<Item = &'static str>> {
        let count = self.largest(mine.extra.len() as i64)? as usize;
        Ok(BRANCH_WEIGHTS.into_iter().take(count))
    }
}
