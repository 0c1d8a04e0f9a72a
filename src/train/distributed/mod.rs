//! Data-parallel training over several processes and hosts, one process per device: each has its
//! shard of every batch, gradients are summed, on GPUs while backward runs (arXiv 2006.15704), and
//! together they compute what one process would with the global batch.

mod environment;
mod gather;
mod heartbeat;
mod job;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use tch::{Device, Tensor};

use self::environment::Environment;
pub use self::heartbeat::OnLost;
use self::job::{Broken, COLLECTIVE_TIMEOUT, Job};
use crate::data::RankShard;
use crate::ops::distributed::{Backend, ProcessGroup, Reducer, has_nccl};
use crate::ops::gpu;

/// Bytes of a gradient bucket: small enough that a small model has several, large enough that
/// latency does not matter.
const BUCKET_BYTES: usize = 4 << 20;

/// The processes that train together; often a single one.
#[derive(Clone)]
pub struct World(Option<Arc<Job>>);

impl World {
    /// Creates the world of a single process, which exchanges nothing.
    pub fn single() -> Self {
        Self(None)
    }

    /// Joins the job that torchrun's environment variables describe; without them, the world is
    /// this process alone. `lost` is called, from another thread, when a rank is lost later on: it
    /// must end the process. Returns an error if variables are missing or wrong, if ranks do not
    /// join in time, or if the program was built without the feature `distributed`.
    pub fn of_job(lost: OnLost) -> Result<Self> {
        let Some(environment) = Environment::of_process()? else {
            return Ok(Self::single());
        };
        let Environment { rank, size, .. } = environment;
        Job::join(environment, lost)
            .map(|job| Self(Some(Arc::new(job))))
            .with_context(|| format!("rank {rank} of {size}"))
    }

    /// Refuses a command that every process of a job would run in full, in the same folders.
    /// Returns an error if the environment describes several processes.
    pub fn refuse_job(command: &str) -> Result<()> {
        let job = Environment::of_process()?;
        ensure!(
            job.is_none(),
            "WORLD_SIZE says that several processes train together, which `vmbeauty train` \
             supports, but not `vmbeauty {command}`: unset it, or divide the runs by \
             `sweep --shard`"
        );
        Ok(())
    }

    /// Returns this process's rank, from 0.
    pub fn rank(&self) -> usize {
        self.0.as_ref().map_or(0, |job| job.environment.rank)
    }

    /// Returns the number of processes.
    pub fn size(&self) -> usize {
        self.0.as_ref().map_or(1, |job| job.environment.size)
    }

    /// Returns whether this is rank 0, which writes files and the console.
    pub fn is_first(&self) -> bool {
        self.rank() == 0
    }

    /// Returns this process's shard of the batches.
    pub fn shard(&self) -> RankShard {
        RankShard::new(self.rank(), self.size()).unwrap_or(RankShard::SINGLE)
    }

    /// Connects the ranks for tensors on `device`. Of several GPUs each process uses the one of its
    /// LOCAL_RANK, of one that one; it is returned. Returns an error if the GPU does not exist or a
    /// rank cannot be reached.
    pub fn connect(&self, device: Device) -> Result<Device> {
        let Some(job) = &self.0 else {
            return Ok(device);
        };
        let Environment { rank, size, local_rank, .. } = job.environment;
        let (device, card) = match device {
            Device::Cuda(_) => {
                let gpus = gpu::gpus()?;
                let index = gpu_of_rank(local_rank, gpus.len())?;
                (Device::Cuda(index), gpus[index].uuid.clone())
            }
            other => (other, format!("the CPU of rank {rank}")),
        };
        // Connecting waits for the others without noticing that they fail, so all get ready first.
        let ready = |rank: usize| format!("ready/{rank}");
        job.store.set(&ready(rank), card.as_bytes()).map_err(Broken)?;
        let mut cards = BTreeSet::new();
        for other in 0..size {
            cards.insert(job.wait_for(&ready(other))?);
        }
        // NCCL refuses two ranks on one GPU.
        let nccl = device.is_cuda() && has_nccl() && cards.len() == size;
        let backend = if nccl { Backend::Nccl } else { Backend::Gloo };
        let group = ProcessGroup::join(&job.store, rank, size, backend, COLLECTIVE_TIMEOUT)
            .map_err(Broken)
            .context(
                "cannot connect the ranks with each other; GLOO_SOCKET_IFNAME (NCCL_SOCKET_IFNAME) \
                 names the network interface to use",
            )?;
        let _ = job.group.set((group, device));
        Ok(device)
    }

    /// Checks that all ranks were started alike: `facts` are named texts that must be the same on
    /// all. Every rank gets the error. Returns an error that names the fact and the first line that
    /// differs.
    pub fn agree(&self, facts: &[(&str, String)]) -> Result<()> {
        let Some(job) = &self.0 else { return Ok(()) };
        let mine: BTreeMap<&str, &String> =
            facts.iter().map(|(name, text)| (*name, text)).collect();
        let key = |rank: usize| format!("facts/{rank}");
        let json = serde_json::to_vec(&mine)?;
        let Environment { rank, size, .. } = job.environment;
        job.store.set(&key(rank), &json).map_err(Broken)?;
        let mut first: Option<BTreeMap<String, String>> = None;
        for rank in 0..size {
            let facts: BTreeMap<String, String> =
                serde_json::from_slice(&job.wait_for(&key(rank))?)
                    .with_context(|| format!("the facts of rank {rank} cannot be read"))?;
            match &first {
                None => first = Some(facts),
                Some(first) => compare_facts(first, &facts, rank)?,
            }
        }
        Ok(())
    }

    /// Broadcasts a text that rank 0 makes. `key` names it, and is used once. Returns the error of
    /// `make` on rank 0, and an error on the other ranks then.
    pub fn broadcast_text(
        &self,
        key: &str,
        make: impl FnOnce() -> Result<String>,
    ) -> Result<String> {
        let Some(job) = &self.0 else { return make() };
        let key = format!("first/{key}");
        if job.environment.rank == 0 {
            let text = make()?;
            job.store.set(&key, text.as_bytes()).map_err(Broken)?;
            return Ok(text);
        }
        Ok(String::from_utf8(job.wait_for(&key)?)?)
    }

    /// Broadcasts rank 0's values to all ranks, in place. Returns an error if a rank is gone.
    pub fn broadcast<'a>(&self, tensors: impl IntoIterator<Item = &'a Tensor>) -> Result<()> {
        let Some(job) = &self.0 else { return Ok(()) };
        let (group, _) = job.group()?;
        for tensor in tensors {
            group.broadcast(tensor, 0).map_err(Broken)?;
        }
        Ok(())
    }

    /// Waits until all ranks have called this. Returns an error if a rank is gone.
    pub fn barrier(&self) -> Result<()> {
        match self.0.as_ref().and_then(|job| job.group.get()) {
            Some((group, _)) => Ok(group.barrier().map_err(Broken)?),
            None => Ok(()),
        }
    }

    /// Creates the all-reduce of these parameters' gradients, in the order in which backward
    /// reaches them. Returns an error if a parameter requires no gradient.
    pub fn gradients(&self, parameters: &[Tensor]) -> Result<Gradients> {
        let Some(job) = &self.0 else { return Ok(Gradients::single()) };
        let (group, _) = job.group()?;
        Ok(Gradients(Some(Reducer::new(group, parameters, BUCKET_BYTES)?)))
    }

    /// Ends the job with this rank's result. Either all ranks succeed, or all end with an error:
    /// one that had none itself names the rank that failed. Returns the given error, or another
    /// rank's.
    pub fn end<T>(self, result: Result<T>) -> Result<T> {
        let ended = result.and_then(|value| self.barrier().map(|()| value));
        let Some(job) = self.0 else { return ended };
        let name = format!("rank {} of {}", job.environment.rank, job.environment.size);
        match ended {
            Ok(value) => {
                if let Some(job) = Arc::into_inner(job) {
                    job.leave();
                }
                Ok(value)
            }
            Err(error) => {
                let error = job.explain(error);
                if let Some(job) = Arc::into_inner(job) {
                    job.give_up(&error);
                }
                Err(error.context(name))
            }
        }
    }
}

/// The all-reduce of the gradients, which does nothing for a single process.
#[derive(Debug)]
pub struct Gradients(Option<Reducer>);

impl Gradients {
    /// Creates the one of a single process.
    pub fn single() -> Self {
        Self(None)
    }

    /// Makes the next backward pass, the last of its optimizer step, sum the gradients that it and
    /// those before it accumulated. Returns libtorch's error.
    pub fn arm(&mut self) -> Result<()> {
        Ok(self.0.as_mut().map_or(Ok(()), Reducer::arm)?)
    }

    /// Waits for the sums. Every rank must call it, also one whose shard of the batch is empty.
    /// Returns an error if a rank is gone.
    pub fn finish(&mut self) -> Result<()> {
        Ok(self.0.as_mut().map_or(Ok(()), Reducer::finish).map_err(Broken)?)
    }
}

/// Returns the index of a process's GPU among those that it sees: that of its LOCAL_RANK or, where
/// each process sees its own alone, as with SLURM's `--gpus-per-task=1`, the only one.
fn gpu_of_rank(local_rank: usize, gpus: usize) -> Result<usize> {
    ensure!(
        local_rank < gpus || gpus == 1,
        "LOCAL_RANK is {local_rank}, but this process sees {gpus} GPUs: start one process per GPU, \
         or let each see its own alone (SLURM: --gpus-per-task=1; else CUDA_VISIBLE_DEVICES)"
    );
    Ok(if gpus == 1 { 0 } else { local_rank })
}

fn compare_facts(
    first: &BTreeMap<String, String>,
    other: &BTreeMap<String, String>,
    rank: usize,
) -> Result<()> {
    for (name, text) in first {
        let theirs = other.get(name).map_or("", String::as_str);
        if text == theirs {
            continue;
        }
        let lines = || text.lines().map(Some).chain(std::iter::repeat(None));
        let mut pairs = lines().zip(theirs.lines().map(Some).chain(std::iter::repeat(None)));
        let (mine, theirs) = pairs.find(|(a, b)| a != b).unwrap_or_default();
        let shown = |line: Option<&str>| line.map_or("nothing more", str::trim).to_string();
        bail!(
            "the ranks disagree about the {name}: rank 0 has `{}`, rank {rank} has `{}`; start \
             all with the same program, config and data",
            shown(mine),
            shown(theirs)
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Error;

    #[test]
    fn a_disagreement_names_the_first_line_that_differs() {
        let facts = |text: &str| BTreeMap::from([("config".to_string(), text.to_string())]);
        compare_facts(&facts("a\nb"), &facts("a\nb"), 1).unwrap();
        for (theirs, expected) in [
            ("a\nc", "rank 0 has `b`, rank 3 has `c`"),
            ("a", "rank 0 has `b`, rank 3 has `nothing more`"),
        ] {
            let error = compare_facts(&facts("a\nb"), &facts(theirs), 3).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
    }

    #[test]
    fn a_process_takes_the_gpu_of_its_local_rank_or_the_only_one() {
        assert_eq!(gpu_of_rank(3, 4).unwrap(), 3);
        assert_eq!([0, 1, 7].map(|rank| gpu_of_rank(rank, 1).unwrap()), [0; 3]);
        for gpus in [0, 2] {
            let error = gpu_of_rank(3, gpus).unwrap_err().to_string();
            assert!(error.contains(&format!("sees {gpus} GPUs")), "{error}");
            assert!(error.contains("--gpus-per-task=1"), "{error}");
        }
    }

    #[test]
    fn a_single_process_exchanges_nothing() {
        let world = World::single();
        assert_eq!((world.rank(), world.size()), (0, 1));
        world.agree(&[("config", "a".to_string())]).unwrap();
        assert_eq!(world.broadcast_text("x", || Ok("y".to_string())).unwrap(), "y");
        let tensor = Tensor::from_slice(&[1.0f32, 2.0]);
        assert_eq!(world.gather_batch(&tensor, 2).unwrap(), tensor);
        assert!(world.end::<()>(Err(Error::msg("no"))).is_err());
    }
}
