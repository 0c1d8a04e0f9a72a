//! Data-parallel training over several processes and hosts, one process per device: each has its
//! part of every batch, gradients are summed while backward runs (arXiv 2006.15704), and together
//! they compute what one process would with the whole batch.

mod environment;
mod gather;
mod monitor;

use std::collections::BTreeMap;
use std::mem;
use std::sync::{Arc, OnceLock};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, bail, ensure};
use tch::{Cuda, Device, Tensor};

use self::environment::Environment;
use self::monitor::Monitor;
pub use self::monitor::OnLost;
use crate::data::RankShard;
use crate::ops::OpError;
use crate::ops::distributed::{Backend, ProcessGroup, Reducer, Store, has_nccl};

/// How long a collective waits for a rank that lives but is late: it may have images to decode, or
/// a checkpoint to write.
const COLLECTIVE_TIMEOUT: Duration = Duration::from_secs(1800);
/// How long a rank that ends waits for the others to have heard why.
const FAREWELL: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(50);
/// Small enough that there are several in a small model, large enough that latency does not count.
const BUCKET_BYTES: usize = 4 << 20;

/// A collective broke: another rank is gone, or has ended with an error of its own.
#[derive(Debug, thiserror::Error)]
#[error("the connection to another rank is broken: {0}")]
struct Broken(OpError);

/// The process group that trains together; often one process alone.
#[derive(Clone)]
pub struct World(Option<Arc<Job>>);

struct Job {
    environment: Environment,
    store: Store,
    group: OnceLock<(ProcessGroup, Device)>,
    monitor: Monitor,
}

impl World {
    /// Creates the world of one process alone: nothing is exchanged.
    pub fn single() -> Self {
        Self(None)
    }

    /// Those of the job that this process is started in, as torchrun's environment variables say;
    /// without them, this one alone. `lost` is called when a rank is missed later on, from another
    /// thread: it must end the process.
    ///
    /// # Errors
    /// Variables that are missing or wrong, ranks that do not come, or a build without the feature
    /// `distributed`.
    pub fn of_job(lost: OnLost) -> Result<Self> {
        let Some(environment) = Environment::of_process()? else {
            return Ok(Self::single());
        };
        let Environment { rank, size, .. } = environment;
        Job::join(environment, lost)
            .map(|job| Self(Some(Arc::new(job))))
            .with_context(|| format!("rank {rank} of {size}"))
    }

    /// For commands that every process of a job would run whole, in the same folders.
    ///
    /// # Errors
    /// The environment says that there are several processes.
    pub fn refuse_job(command: &str) -> Result<()> {
        let job = Environment::of_process()?;
        ensure!(
            job.is_none(),
            "WORLD_SIZE says that several processes train together, which `vmbeauty train` knows, but not `vmbeauty {command}`: unset it, or share the runs by `sweep --shard`"
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

    /// This process's part of a pass.
    pub fn shard(&self) -> RankShard {
        RankShard::new(self.rank(), self.size()).unwrap_or(RankShard::SINGLE)
    }

    /// Connects the ranks for tensors on `device`. Of several GPUs each process takes the one of
    /// its LOCAL_RANK, which is returned.
    ///
    /// # Errors
    /// A GPU that is not there, or ranks that cannot be reached.
    pub fn connect(&self, device: Device) -> Result<Device> {
        let Some(job) = &self.0 else {
            return Ok(device);
        };
        let Environment { rank, size, local_rank, .. } = job.environment;
        let device = match device {
            Device::Cuda(_) => Device::Cuda(local_rank),
            other => other,
        };
        let gpus = Cuda::device_count();
        ensure!(
            !device.is_cuda() || (local_rank as i64) < gpus,
            "LOCAL_RANK is {local_rank}, but libtorch sees {gpus} GPUs here: start one process per GPU"
        );
        // Who connects waits for the others without hearing whether they fail: so all meet before.
        let ready = |rank: usize| format!("ready/{rank}");
        job.store.set(&ready(rank), b"").map_err(Broken)?;
        for other in 0..size {
            job.wait_for(&ready(other))?;
        }
        let backend = if device.is_cuda() && has_nccl() { Backend::Nccl } else { Backend::Gloo };
        let group = ProcessGroup::join(&job.store, rank, size, backend, COLLECTIVE_TIMEOUT)
            .map_err(Broken)
            .context(
                "cannot connect the ranks with each other; GLOO_SOCKET_IFNAME (NCCL_SOCKET_IFNAME) names the network interface to use",
            )?;
        let _ = job.group.set((group, device));
        Ok(device)
    }

    /// Refuses ranks that were not started alike: `facts` are named texts, which must be the same
    /// on all. Every rank gets the error.
    ///
    /// # Errors
    /// Names the fact, and the first line that differs.
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
                    .with_context(|| format!("what rank {rank} says of itself cannot be read"))?;
            match &first {
                None => first = Some(facts),
                Some(first) => compare(first, &facts, rank)?,
            }
        }
        Ok(())
    }

    /// Returns on all ranks a text that rank 0 makes. `key` names it, and is used once.
    ///
    /// # Errors
    /// Those of `make` on rank 0; there the other ranks end, too.
    pub fn from_first(&self, key: &str, make: impl FnOnce() -> Result<String>) -> Result<String> {
        let Some(job) = &self.0 else { return make() };
        let key = format!("first/{key}");
        if job.environment.rank == 0 {
            let text = make()?;
            job.store.set(&key, text.as_bytes()).map_err(Broken)?;
            return Ok(text);
        }
        Ok(String::from_utf8(job.wait_for(&key)?)?)
    }

    /// Broadcasts rank 0's values to all ranks, in place.
    ///
    /// # Errors
    /// A rank that is gone.
    pub fn broadcast<'a>(&self, tensors: impl IntoIterator<Item = &'a Tensor>) -> Result<()> {
        let Some(job) = &self.0 else { return Ok(()) };
        let (group, _) = job.group()?;
        for tensor in tensors {
            group.broadcast(tensor, 0).map_err(Broken)?;
        }
        Ok(())
    }

    /// Waits until all ranks are here (a barrier).
    ///
    /// # Errors
    /// A rank that is gone.
    pub fn meet(&self) -> Result<()> {
        match self.0.as_ref().and_then(|job| job.group.get()) {
            Some((group, _)) => Ok(group.barrier().map_err(Broken)?),
            None => Ok(()),
        }
    }

    /// Sums the gradients of these parameters, which must want some, in every step from now on.
    /// They stand in the order in which backward reaches them.
    ///
    /// # Errors
    /// A parameter that wants no gradient.
    pub fn gradients(&self, parameters: &[Tensor]) -> Result<Gradients> {
        let Some(job) = &self.0 else {
            return Ok(Gradients(None));
        };
        let (group, _) = job.group()?;
        let reducer = Reducer::new(group, parameters, BUCKET_BYTES)?;
        Ok(Gradients(Some(reducer)))
    }

    /// The end of the job, with what it came to here. All ranks end well, or all with an error: of
    /// those that had none, each says which rank had one.
    ///
    /// # Errors
    /// The given one, or another rank's.
    pub fn end<T>(self, result: Result<T>) -> Result<T> {
        let met = result.and_then(|value| self.meet().map(|()| value));
        let Some(job) = self.0 else { return met };
        let name = format!("rank {} of {}", job.environment.rank, job.environment.size);
        match met {
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

/// All-reduce of the gradients; nothing for one process.
#[derive(Debug)]
pub struct Gradients(Option<Reducer>);

impl Gradients {
    /// Creates that of one process alone.
    pub fn single() -> Self {
        Self(None)
    }

    /// The next backward pass is the last of its optimizer step: sums what it and those before it
    /// left.
    ///
    /// # Errors
    /// libtorch's message.
    pub fn arm(&mut self) -> Result<()> {
        Ok(self.0.as_mut().map_or(Ok(()), Reducer::arm)?)
    }

    /// Waits for the sums. Must be called by every rank, also by one whose part of the batch is
    /// empty.
    ///
    /// # Errors
    /// A rank that is gone.
    pub fn finish(&mut self) -> Result<()> {
        let done = self.0.as_mut().map_or(Ok(()), Reducer::finish);
        Ok(done.map_err(Broken)?)
    }
}

impl Job {
    fn join(environment: Environment, lost: OnLost) -> Result<Self> {
        let Environment { rank, size, ref address, serves, join_timeout, .. } = environment;
        let place = format!("{}:{}", address.host, address.port);
        let store = Store::open(address, serves, join_timeout).with_context(|| {
            if serves {
                format!("cannot serve the ranks' store at {place} (MASTER_ADDR and MASTER_PORT)")
            } else {
                format!(
                    "cannot reach rank 0 at {place} within {} s (MASTER_ADDR, MASTER_PORT; \
                     VMB_JOIN_TIMEOUT for more seconds)",
                    join_timeout.as_secs()
                )
            }
        })?;
        let came = store.add(&format!("came/{rank}"), 1)?;
        ensure!(came == 1, "two processes have RANK={rank} at {place}");
        store.set(&monitor::key(rank), b"1")?;
        let asked = Instant::now();
        for other in 0..size {
            let left = join_timeout.saturating_sub(asked.elapsed());
            let beat = store.get(&monitor::key(other), left.max(POLL));
            beat.with_context(|| {
                format!(
                    "rank {other} has not come to {place} within {} s (VMB_JOIN_TIMEOUT for more seconds)",
                    join_timeout.as_secs()
                )
            })?;
        }
        let heart = Store::open(address, false, join_timeout)?;
        Ok(Self {
            monitor: Monitor::start(heart, rank, size, lost)?,
            environment,
            store,
            group: OnceLock::new(),
        })
    }

    fn group(&self) -> Result<&(ProcessGroup, Device)> {
        self.group.get().context("internal: the ranks are not connected yet")
    }

    /// A key's value once it is there; an error once a rank has failed. The monitor sees to ranks
    /// that are gone.
    fn wait_for(&self, key: &str) -> Result<Vec<u8>> {
        while !self.store.has(key).map_err(Broken)? {
            if let Some(failure) = self.failure()? {
                bail!(failure);
            }
            sleep(POLL);
        }
        Ok(self.store.get(key, COLLECTIVE_TIMEOUT).map_err(Broken)?)
    }

    /// The error of another rank, where one has told.
    fn failure(&self) -> Result<Option<String>> {
        let Environment { rank, size, .. } = self.environment;
        for other in (0..size).filter(|&other| other != rank) {
            let key = failure_key(other);
            if self.store.has(&key).map_err(Broken)? {
                let text = self.store.get(&key, FAREWELL).map_err(Broken)?;
                let text = String::from_utf8_lossy(&text);
                return Ok(Some(format!("rank {other} failed: {text}")));
            }
        }
        Ok(None)
    }

    /// Where a collective broke, the reason is another rank's: it is telling it about now, or
    /// cannot any more.
    fn explain(&self, error: Error) -> Error {
        if !error.chain().any(|cause| cause.is::<Broken>()) {
            return error;
        }
        let asked = Instant::now();
        while asked.elapsed() < FAREWELL / 2 {
            match self.failure() {
                Ok(Some(failure)) => return error.context(failure),
                Ok(None) => sleep(POLL),
                Err(_) => break,
            }
        }
        error.context("another rank is gone: its process or its host has ended")
    }

    /// After an error: tells the others, and breaks the connections, so that none waits any longer.
    fn give_up(self, error: &Error) {
        if error.chain().any(|cause| cause.is::<Broken>()) {
            // Its destructor would wait for collectives with a rank that is gone.
            mem::forget(self.group);
        } else {
            let text = format!("{error:#}");
            let key = failure_key(self.environment.rank);
            let _ = self.store.set(&key, text.as_bytes());
            drop(self.group);
        }
        drop(self.monitor);
        farewell(&self.store, self.environment.size);
    }

    /// When all are done.
    fn leave(self) {
        drop(self.monitor);
        farewell(&self.store, self.environment.size);
    }
}

/// Waits until all ranks are leaving, for the store goes with the process that serves it; not for
/// those that are gone.
fn farewell(store: &Store, size: usize) {
    const KEY: &str = "leaving";
    let asked = Instant::now();
    let mut leaving = store.add(KEY, 1);
    while asked.elapsed() < FAREWELL && leaving.is_ok_and(|ranks| ranks < size as i64) {
        sleep(POLL);
        leaving = store.add(KEY, 0);
    }
}

fn failure_key(rank: usize) -> String {
    format!("failed/{rank}")
}

fn compare(
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
            "the ranks disagree about the {name}: rank 0 has `{}`, rank {rank} has `{}`; start all with the same program, config and data",
            shown(mine),
            shown(theirs)
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disagreement_names_the_first_line_that_differs() {
        let facts = |text: &str| BTreeMap::from([("config".to_string(), text.to_string())]);
        compare(&facts("a\nb"), &facts("a\nb"), 1).unwrap();
        for (theirs, expected) in [
            ("a\nc", "rank 0 has `b`, rank 3 has `c`"),
            ("a", "rank 0 has `b`, rank 3 has `nothing more`"),
        ] {
            let error = compare(&facts("a\nb"), &facts(theirs), 3).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
    }

    #[test]
    fn one_process_alone_exchanges_nothing() {
        let world = World::single();
        assert_eq!((world.rank(), world.size()), (0, 1));
        world.agree(&[("config", "a".to_string())]).unwrap();
        assert_eq!(world.from_first("x", || Ok("y".to_string())).unwrap(), "y");
        let tensor = Tensor::from_slice(&[1.0f32, 2.0]);
        assert_eq!(world.gather_batch(&tensor, 2).unwrap(), tensor);
        assert!(world.end::<()>(Err(Error::msg("no"))).is_err());
    }
}
