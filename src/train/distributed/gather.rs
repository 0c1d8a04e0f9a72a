//! Gathers the ranks' shards of a batch or a split on all ranks.

use anyhow::{Context, Result};
use tch::{Device, Tensor};

use super::World;
use super::job::Broken;
use crate::data::{RankShard, Sample};
use crate::eval::evaluate::{BRANCH_COLUMNS, values};
use crate::eval::predictions::Predictions;
use crate::ops::distributed::ProcessGroup;

impl World {
    /// Concatenates the ranks' tensors (len, …) to that of the global batch (global_len, …), in
    /// which this rank's shard keeps its autograd graph: each rank gets its shard of the gradients
    /// of a loss over the global batch, also of one that is no mean over images. Returns an error
    /// if a rank is gone.
    pub fn gather_batch(&self, mine: &Tensor, global_len: usize) -> Result<Tensor> {
        let Some(job) = &self.0 else {
            return Ok(mine.shallow_clone());
        };
        let (group, _) = job.group()?;
        let shards: Vec<_> =
            self.shard().of_all_ranks().map(|shard| shard.range(global_len)).collect();
        // Collectives need equal shapes.
        let longest = shards.iter().map(ExactSizeIterator::len).max().unwrap_or(0);
        let mut shape = mine.size();
        *shape.first_mut().context("a batch has a first dimension")? = longest as i64;
        let padded = Tensor::f_zeros(&shape, (mine.kind(), mine.device()))?;
        let own = shards.get(self.rank()).map_or(0, ExactSizeIterator::len) as i64;
        padded.narrow(0, 0, own).f_copy_(&mine.detach())?;
        let mut all = group.all_gather(&padded).map_err(Broken)?;
        for (tensor, shard) in all.iter_mut().zip(&shards) {
            *tensor = tensor.narrow(0, 0, shard.len() as i64);
        }
        if let Some(tensor) = all.get_mut(self.rank()) {
            *tensor = mine.shallow_clone();
        }
        Ok(Tensor::f_cat(&all, 0)?)
    }

    /// Gathers the predictions of a split from those that each rank made for its shard of the
    /// batches, in order. Every rank gets the same numbers that a single process would compute.
    /// Returns an error if a rank is gone.
    pub fn gather_predictions(
        &self,
        mine: Predictions,
        samples: &[Sample],
        batch_size: usize,
    ) -> Result<Predictions> {
        let Some(job) = &self.0 else { return Ok(mine) };
        let of_rank = |shard: RankShard| shard.image_range(samples.len(), batch_size).len();
        let counts: Vec<usize> = self.shard().of_all_ranks().map(of_rank).collect();
        let (group, device) = job.group()?;
        let gather = |column: &[f64]| gather_column(group, *device, column, &counts);
        let predictions = gather(&mine.predictions)?;
        // A rank without images has no extra columns, but the others do, all the same ones.
        let bit = |(at, name): (usize, &&str)| i64::from(mine.column(name).is_some()) << at;
        let present = self.max(BRANCH_COLUMNS.iter().enumerate().map(bit).sum())?;
        let mut extra = Vec::new();
        for (at, name) in BRANCH_COLUMNS.into_iter().enumerate() {
            if present >> at & 1 == 1 {
                let column = mine.column(name).unwrap_or_default();
                extra.push((name.to_string(), gather(column)?));
            }
        }
        Ok(Predictions { predictions, extra, ..Predictions::unpredicted(samples) })
    }

    /// Returns the sum of the ranks' numbers, added by rank. Returns an error if a rank is gone.
    pub fn sum(&self, mine: f64) -> Result<f64> {
        let Some(job) = &self.0 else { return Ok(mine) };
        let (group, device) = job.group()?;
        let all = gather_column(group, *device, &[mine], &vec![1; self.size()])?;
        Ok(all.iter().sum())
    }

    /// Returns the largest of the ranks' numbers. Returns an error if a rank is gone.
    pub fn max(&self, mine: i64) -> Result<i64> {
        let Some(job) = &self.0 else { return Ok(mine) };
        let (group, device) = job.group()?;
        let own = Tensor::f_from_slice(&[mine])?.f_to_device(*device)?;
        let all = group.all_gather(&own).map_err(Broken)?;
        Ok(all.iter().map(|number| number.int64_value(&[0])).max().unwrap_or(mine))
    }
}

/// Concatenates the ranks' values; `counts` are their numbers of them.
fn gather_column(
    group: &ProcessGroup,
    device: Device,
    mine: &[f64],
    counts: &[usize],
) -> Result<Vec<f64>> {
    // Collectives need equal shapes.
    let mut padded = mine.to_vec();
    padded.resize(counts.iter().copied().max().unwrap_or(0), 0.0);
    let tensor = Tensor::f_from_slice(&padded)?.f_to_device(device)?;
    let mut column = Vec::new();
    for (tensor, &count) in group.all_gather(&tensor).map_err(Broken)?.iter().zip(counts) {
        column.extend(values(&tensor.narrow(0, 0, count as i64))?);
    }
    Ok(column)
}
