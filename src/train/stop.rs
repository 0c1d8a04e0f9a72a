//! Stopping a run early by a signal, and the error that it then ends with.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::run::RunKind;

/// Shells add this to a signal's number for the exit code of a process that the signal ended.
const SIGNAL_BASE: i32 = 128;

/// A request that a run stop after its current step; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicUsize>);

impl Stop {
    /// Creates a stop that SIGINT (Ctrl-C) and SIGTERM (a scheduler) request from now on. A second
    /// signal ends the process at once, which loses no more than the steps since the last
    /// checkpoint. Returns an error if the system does not let the signals be caught.
    pub fn on_signals() -> Result<Self> {
        let stop = Self::default();
        let requested = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            let again = Arc::clone(&requested);
            // Actions run in the order in which they are registered: at the first signal, nothing
            // is requested yet.
            flag::register_conditional_shutdown(signal, SIGNAL_BASE + signal, again)
                .and_then(|_| flag::register(signal, Arc::clone(&requested)))
                .and_then(|_| flag::register_usize(signal, Arc::clone(&stop.0), signal as usize))
                .context("cannot catch SIGINT and SIGTERM")?;
        }
        Ok(stop)
    }

    /// Requests the stop, as SIGTERM does.
    pub fn request(&self) {
        self.0.store(SIGTERM as usize, Ordering::SeqCst);
    }

    /// Refuses to start a run if a stop was requested before its first step. Returns [`Stopped`] if
    /// it was requested.
    pub(crate) fn check(&self, kind: RunKind) -> Result<()> {
        let (signal, command) = (self.signal(), kind.command());
        let stopped = Stopped { signal, steps: 0, epoch: 0, config: None, command };
        if signal > 0 { Err(stopped.into()) } else { Ok(()) }
    }

    /// Returns the signal's number; 0 if no stop was requested.
    pub(crate) fn signal(&self) -> i32 {
        self.0.load(Ordering::SeqCst) as i32
    }
}

/// The error of a run that was stopped, with all of its steps in its checkpoint.
#[derive(Debug, thiserror::Error)]
#[error("stopped by {}{}", self.name(), self.remedy())]
pub struct Stopped {
    pub(crate) signal: i32,
    pub(crate) steps: u64,
    pub(crate) epoch: usize,
    /// The resolved config in the run directory, if there is one already.
    pub(crate) config: Option<PathBuf>,
    /// The subcommand that resumes.
    pub(crate) command: &'static str,
}

impl Stopped {
    /// Returns 130 after SIGINT, 143 after SIGTERM.
    pub fn exit_code(&self) -> u8 {
        (SIGNAL_BASE + self.signal) as u8
    }

    /// Returns whether a process that ended with this code was stopped by a signal.
    pub fn is_exit_code(code: i32) -> bool {
        [SIGINT, SIGTERM].contains(&(code - SIGNAL_BASE))
    }

    fn remedy(&self) -> String {
        match &self.config {
            Some(config) => format!(
                " after {} steps, in epoch {}; resume with: vmbeauty {} {} --output {} --resume",
                self.steps,
                self.epoch,
                self.command,
                config.display(),
                config.parent().unwrap_or(Path::new(".")).display()
            ),
            None => " before the first step".to_string(),
        }
    }

    fn name(&self) -> &'static str {
        match self.signal {
            SIGINT => "SIGINT",
            _ => "SIGTERM",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_names_the_resume_command_and_the_exit_code_the_signal() {
        let stopped = |signal| Stopped {
            signal,
            steps: 12,
            epoch: 2,
            config: Some(PathBuf::from("runs/a/config.yaml")),
            command: "train",
        };
        assert_eq!(
            stopped(SIGINT).to_string(),
            "stopped by SIGINT after 12 steps, in epoch 2; resume with: \
             vmbeauty train runs/a/config.yaml --output runs/a --resume"
        );
        assert_eq!(stopped(SIGINT).exit_code(), 130);
        assert_eq!(stopped(SIGTERM).exit_code(), 143);
        assert!(Stopped::is_exit_code(130) && Stopped::is_exit_code(143));
        assert!(!Stopped::is_exit_code(1));
    }

    #[test]
    fn clones_share_a_request() {
        let stop = Stop::default();
        let clone = stop.clone();
        assert_eq!(clone.signal(), 0);
        stop.request();
        assert_eq!(clone.signal(), SIGTERM);
    }
}
