//! Requests to a run: to stop early, by a signal, and to write a checkpoint.

use std::io::BufRead;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::flag;

use crate::ops;

/// Shells add this to a signal's number for the exit code of a process that the signal ended.
const SIGNAL_BASE: i32 = 128;
/// The signals that stop a run: from a terminal or a scheduler. The first [`URGENT`] ones come from
/// someone who waits.
const STOPPING: [(i32, &str); 5] = [
    (SIGINT, "SIGINT"),
    (SIGTERM, "SIGTERM"),
    (SIGHUP, "SIGHUP"),
    (SIGUSR2, "SIGUSR2"),
    (libc::SIGXCPU, "SIGXCPU"),
];
const URGENT: usize = 2;

/// What a sweep asks of its runs through their stdin, a byte each; its end asks to stop, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Request {
    /// Stop after the current step.
    Stop = b's',
    /// Write a checkpoint after the current step, and continue.
    Checkpoint = b'c',
}

/// A request that a run stop after its current step, or write a checkpoint; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    /// The number of the signal; 0 if no stop was requested.
    signal: Arc<AtomicUsize>,
    checkpoint: Arc<AtomicBool>,
}

impl Stop {
    /// Creates a stop that SIGINT (Ctrl-C), SIGTERM, SIGHUP, SIGUSR2 and SIGXCPU request from now
    /// on; SIGUSR1 requests a checkpoint. A second SIGINT or SIGTERM ends the process at once, and
    /// loses no more than the steps since the last checkpoint; the others never do. SIGHUP,
    /// SIGUSR1, SIGUSR2 and SIGXCPU stay ignored where the process was started so, for example by
    /// `nohup`. Returns an error if the system does not let the signals be caught.
    pub fn on_signals() -> Result<Self> {
        let stop = Self::default();
        let urged = Arc::new(AtomicBool::new(false));
        for (index, (signal, name)) in STOPPING.into_iter().enumerate() {
            let urgent = index < URGENT;
            if !urgent && ops::ignores_signal(signal) {
                continue;
            }
            let caught = || -> std::io::Result<()> {
                // Actions run in the order in which they are registered: at the first signal,
                // nothing is urged yet. The others come twice without being meant so: SIGHUP from
                // a terminal and from the kernel, or after SIGTERM from a service manager; SIGXCPU
                // each second.
                if urgent {
                    let again = Arc::clone(&urged);
                    flag::register_conditional_shutdown(signal, SIGNAL_BASE + signal, again)?;
                    flag::register(signal, Arc::clone(&urged))?;
                }
                flag::register_usize(signal, Arc::clone(&stop.signal), signal as usize)?;
                Ok(())
            };
            caught().with_context(|| format!("cannot catch {name}"))?;
        }
        if !ops::ignores_signal(SIGUSR1) {
            flag::register(SIGUSR1, Arc::clone(&stop.checkpoint))
                .context("cannot catch SIGUSR1")?;
        }
        Ok(stop)
    }

    /// Requests the stop, as SIGTERM does.
    pub fn request(&self) {
        self.signal.store(SIGTERM as usize, Ordering::SeqCst);
    }

    /// Obeys the [`Request`]s in `input` until its end.
    pub fn obey(&self, input: impl BufRead) {
        for byte in input.bytes().map_while(Result::ok) {
            if byte == Request::Stop as u8 {
                self.request();
            } else if byte == Request::Checkpoint as u8 {
                self.checkpoint.store(true, Ordering::SeqCst);
            }
        }
    }

    /// Refuses to start a run if a stop was requested before its first step. Returns [`Stopped`] if
    /// it was requested.
    pub(crate) fn check(&self) -> Result<()> {
        self.check_in(" before the first step")
    }

    /// Returns [`Stopped`] if a stop was requested, with a message that ends in `place`: after what
    /// the run stopped, and what resumes it.
    pub(crate) fn check_in(&self, place: &str) -> Result<()> {
        let stopped = Stopped { signal: self.signal(), place: place.to_string() };
        if stopped.signal > 0 { Err(stopped.into()) } else { Ok(()) }
    }

    /// Returns the signal's number; 0 if no stop was requested.
    pub(crate) fn signal(&self) -> i32 {
        self.signal.load(Ordering::SeqCst) as i32
    }

    /// Returns whether a checkpoint was requested since the last call.
    pub(crate) fn take_checkpoint(&self) -> bool {
        self.checkpoint.swap(false, Ordering::SeqCst)
    }
}

/// The error of a run that was stopped, with all of its steps in its checkpoint.
#[derive(Debug, thiserror::Error)]
#[error("stopped{}{place}", self.by())]
pub struct Stopped {
    /// The number of the signal; 0 for a run that was to stop after this epoch.
    signal: i32,
    /// The rest of the message.
    place: String,
}

impl Stopped {
    /// The error of a run after a number of steps, with the `command` that resumes it from its
    /// resolved config.
    pub(super) fn in_run(
        signal: i32,
        steps: u64,
        epoch: usize,
        config: &Path,
        command: &str,
    ) -> Self {
        let resume = resume(config, command);
        Self { signal, place: format!(" after {steps} steps, in epoch {epoch}; {resume}") }
    }

    /// The error of a run that was to stop after an `epoch` of `epochs`, with the `command` that
    /// resumes it.
    pub(super) fn after_epoch(epoch: usize, epochs: usize, config: &Path, command: &str) -> Self {
        let resume = resume(config, command);
        Self { signal: 0, place: format!(" after epoch {epoch} of {epochs}; {resume}") }
    }

    /// Returns 128 and the signal's number, for example 130 after SIGINT and 143 after SIGTERM; 0
    /// for a run that was to stop where it did.
    pub fn exit_code(&self) -> u8 {
        if self.signal == 0 { 0 } else { (SIGNAL_BASE + self.signal) as u8 }
    }

    /// Returns whether a process was stopped by a signal, which it obeyed, or which ended it before
    /// it could. A process that starts does not obey SIGUSR1 yet either.
    pub fn ended(status: ExitStatus) -> bool {
        let signal = status.signal().or(status.code().map(|code| code - SIGNAL_BASE));
        STOPPING.iter().map(|(stopping, _)| *stopping).chain([SIGUSR1]).any(|s| signal == Some(s))
    }

    fn by(&self) -> String {
        let named = STOPPING.iter().find(|(signal, _)| *signal == self.signal);
        match named {
            Some((_, name)) => format!(" by {name}"),
            None if self.signal == 0 => String::new(),
            None => " by a signal".to_string(),
        }
    }
}

/// Returns how a run is resumed from its resolved config.
fn resume(config: &Path, command: &str) -> String {
    let folder = config.parent().unwrap_or(Path::new("."));
    let (config, folder) = (config.display(), folder.display());
    format!("resume with: vmbeauty {command} {config} --output {folder} --resume")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_names_the_resume_command_and_the_exit_code_the_signal() {
        let stopped =
            |signal| Stopped::in_run(signal, 12, 2, Path::new("runs/a/config.yaml"), "train");
        assert_eq!(
            stopped(SIGINT).to_string(),
            "stopped by SIGINT after 12 steps, in epoch 2; resume with: \
             vmbeauty train runs/a/config.yaml --output runs/a --resume"
        );
        let codes = STOPPING.map(|(signal, _)| stopped(signal).exit_code());
        assert_eq!(codes[..3], [130, 143, 129]);
        let asked = Stopped::after_epoch(3, 9, Path::new("a/config.yaml"), "train");
        assert_eq!(
            asked.to_string(),
            "stopped after epoch 3 of 9; resume with: vmbeauty train a/config.yaml --output a \
             --resume"
        );
        assert_eq!(asked.exit_code(), 0);
    }

    #[test]
    fn a_process_that_a_signal_ended_was_stopped_whether_it_caught_it_or_not() {
        for (signal, name) in STOPPING.into_iter().chain([(SIGUSR1, "SIGUSR1")]) {
            // The system's form: the signal in the lowest bits, or the exit code above them.
            for raw in [signal, (SIGNAL_BASE + signal) << 8] {
                assert!(Stopped::ended(ExitStatus::from_raw(raw)), "{name}");
            }
        }
        for raw in [0, 1 << 8, libc::SIGSEGV, libc::SIGKILL] {
            assert!(!Stopped::ended(ExitStatus::from_raw(raw)), "{raw}");
        }
    }

    #[test]
    fn clones_share_a_request() {
        let stop = Stop::default();
        let clone = stop.clone();
        assert_eq!(clone.signal(), 0);
        stop.request();
        assert_eq!(clone.signal(), SIGTERM);
    }

    #[test]
    fn a_sweeps_requests_are_obeyed_and_others_ignored() {
        let stop = Stop::default();
        stop.obey(&b"xc\n"[..]);
        assert!(stop.clone().take_checkpoint() && !stop.take_checkpoint());
        assert_eq!(stop.signal(), 0);
        stop.obey(&[Request::Stop as u8][..]);
        assert_eq!(stop.signal(), SIGTERM);
        let error = stop.check_in("; run it again").unwrap_err();
        assert_eq!(error.to_string(), "stopped by SIGTERM; run it again");
    }
}
