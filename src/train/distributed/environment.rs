//! This process's place in a job, read from torchrun's environment variables.

use std::env;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::ops::distributed::StoreAddress;

/// Seconds that the ranks wait for each other at the start, unless VMB_JOIN_TIMEOUT is set.
const JOIN_TIMEOUT: u64 = 45;
/// The variable that is `True` if torchrun itself serves the ranks' store.
const AGENT_STORE: &str = "TORCHELASTIC_USE_AGENT_STORE";

/// The place of one process in a job of several.
#[derive(Debug, Clone)]
pub(super) struct Environment {
    /// The process's number, from 0 (RANK).
    pub rank: usize,
    /// The number of processes (WORLD_SIZE).
    pub size: usize,
    /// The process's number on its host, from 0 (LOCAL_RANK), which is the index of its GPU.
    pub local_rank: usize,
    /// The store's address (MASTER_ADDR, MASTER_PORT).
    pub address: StoreAddress,
    /// Whether this process serves the store.
    pub serves: bool,
    /// The time to wait for the other ranks at the start.
    pub join_timeout: Duration,
}

impl Environment {
    /// Reads this process's environment; `None` if it is the only process (WORLD_SIZE is 1 or not
    /// set).
    pub(super) fn of_process() -> Result<Option<Self>> {
        Self::read(|name| env::var(name).ok())
    }

    fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Self>> {
        let number = |name: &str| -> Result<Option<usize>> {
            let Some(text) = variable(name) else {
                return Ok(None);
            };
            let number = text.trim().parse();
            number.map(Some).with_context(|| {
                format!("the environment variable {name} is {text:?}, not a number")
            })
        };
        let Some(size) = number("WORLD_SIZE")?.filter(|&size| size != 1) else {
            return Ok(None);
        };
        let missing = |name: &str| {
            format!(
                "WORLD_SIZE is {size}, but {name} is not set: torchrun sets RANK, WORLD_SIZE, \
                 LOCAL_RANK, MASTER_ADDR and MASTER_PORT"
            )
        };
        let rank = number("RANK")?.with_context(|| missing("RANK"))?;
        ensure!(rank < size, "RANK is {rank}, but WORLD_SIZE is {size}: ranks count from 0");
        let port = number("MASTER_PORT")?.with_context(|| missing("MASTER_PORT"))?;
        let port = u16::try_from(port)
            .with_context(|| format!("MASTER_PORT is {port}, which is no TCP port"))?;
        let agent = variable(AGENT_STORE).as_deref() == Some("True");
        // A job that torchrun restarts must not see the keys of the attempt before.
        let attempt = number("TORCHELASTIC_RESTART_COUNT")?.unwrap_or(0);
        let join_timeout = number("VMB_JOIN_TIMEOUT")?.map_or(JOIN_TIMEOUT, |n| n as u64);
        Ok(Some(Self {
            rank,
            size,
            local_rank: number("LOCAL_RANK")?.unwrap_or(0),
            address: StoreAddress {
                host: variable("MASTER_ADDR").with_context(|| missing("MASTER_ADDR"))?,
                port,
                prefix: format!("vmbeauty/{attempt}"),
            },
            serves: rank == 0 && !agent,
            join_timeout: Duration::from_secs(join_timeout),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Option<Environment>> {
        Environment::read(|name| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| value.to_string())
        })
    }

    #[test]
    fn a_process_without_the_variables_is_alone() {
        assert!(read(&[]).unwrap().is_none());
        assert!(read(&[("WORLD_SIZE", "1"), ("RANK", "0")]).unwrap().is_none());
    }

    #[test]
    fn torchruns_variables_are_read() {
        let job = [
            ("WORLD_SIZE", "4"),
            ("RANK", "2"),
            ("LOCAL_RANK", "1"),
            ("MASTER_ADDR", "node7"),
            ("MASTER_PORT", "29500"),
        ];
        let environment = read(&job).unwrap().unwrap();
        assert_eq!((environment.rank, environment.size, environment.local_rank), (2, 4, 1));
        assert_eq!(environment.address.host, "node7");
        assert!(!environment.serves);
        let first = [&job[2..], &[("WORLD_SIZE", "2"), ("RANK", "0")]].concat();
        assert!(read(&first).unwrap().unwrap().serves);
        let agent = [&first[..], &[(AGENT_STORE, "True")]].concat();
        assert!(!read(&agent).unwrap().unwrap().serves);
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        for (variables, expected) in [
            (vec![("WORLD_SIZE", "2")], "RANK is not set"),
            (vec![("WORLD_SIZE", "two")], "WORLD_SIZE is \"two\""),
            (vec![("WORLD_SIZE", "2"), ("RANK", "2")], "RANK is 2"),
            (vec![("WORLD_SIZE", "2"), ("RANK", "1")], "MASTER_PORT is not set"),
            (vec![("WORLD_SIZE", "2"), ("RANK", "1"), ("MASTER_PORT", "70000")], "no TCP port"),
        ] {
            let error = read(&variables).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
