//! The messages on stderr while a command trains: text for people, or JSON lines for programs.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::ValueEnum;
use indicatif::ProgressBar;
use serde::Serialize;
use serde_json::{Value, json};

use super::output::say;
use crate::files::printable_lines;

/// The options of the messages on stderr.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub(super) struct ConsoleArgs {
    /// Write only warnings and errors to stderr; results stay on stdout
    #[arg(long, short)]
    quiet: bool,
    /// The format of stderr: text with a progress bar, or one JSON object per line
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    log_format: LogFormat,
    /// Seconds between two lines within an epoch where there is no progress bar, the first after 5
    /// at most; 0 writes one for each step
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    log_every: u16,
}

/// The format of stderr.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// Text for people.
    #[default]
    Text,
    /// JSON lines for programs.
    Json,
}

/// The console of a command; clones share the progress bar, above which lines of text appear.
#[derive(Debug, Clone)]
pub(super) struct Console {
    args: ConsoleArgs,
    bar: ProgressBar,
}

impl From<ConsoleArgs> for Console {
    fn from(args: ConsoleArgs) -> Self {
        Self { args, bar: ProgressBar::hidden() }
    }
}

impl Console {
    /// Returns whether lines are JSON.
    pub(super) fn is_json(&self) -> bool {
        self.args.log_format == LogFormat::Json
    }

    /// Returns whether messages and a progress bar are shown.
    pub(super) fn is_verbose(&self) -> bool {
        !self.args.quiet && !self.is_json()
    }

    /// Returns the time between two lines within an epoch.
    pub(super) fn log_every(&self) -> Duration {
        Duration::from_secs(self.args.log_every.into())
    }

    /// Returns the progress bar, which is hidden until it gets a draw target.
    pub(super) fn bar(&self) -> &ProgressBar {
        &self.bar
    }

    /// Writes a line of text, unless lines are JSON or only warnings are wanted.
    pub(super) fn info(&self, text: &str) {
        if self.is_verbose() {
            self.line(text);
        }
    }

    /// Writes an event as a line of JSON, with `event` and `time` (seconds since 1970) before the
    /// fields of `about`, unless lines are text or only warnings are wanted.
    pub(super) fn event(&self, event: &str, about: &impl Serialize) {
        if self.is_json() && !self.args.quiet {
            self.write_event(event, about);
        }
    }

    /// Writes an [`event`](Self::event) even with `--quiet`.
    pub(super) fn warning_event(&self, event: &str, about: &impl Serialize) {
        if self.is_json() {
            self.write_event(event, about);
        }
    }

    /// Writes a warning, even with `--quiet`.
    pub(super) fn warn(&self, text: &str) {
        if self.is_json() {
            self.write_event("warning", &json!({"message": text}))
        } else {
            self.line(&format!("warning: {text}"))
        }
    }

    /// Warns of skipped rows of the dataset, if there are any.
    pub(super) fn warn_of_skipped_rows(&self, rows: usize) {
        if rows > 0 {
            self.warn(&format!(
                "{rows} rows of the dataset were skipped: `vmbeauty data check` lists them"
            ));
        }
    }

    /// Writes why the command failed or was stopped, and returns the exit code, which a line of
    /// JSON has as well.
    pub(super) fn end_with(&self, status: &str, text: &str, code: u8) -> ExitCode {
        match (self.is_json(), status) {
            (true, _) => self
                .write_event("end", &json!({"status": status, "message": text, "exit_code": code})),
            (false, "stopped") => say(text),
            (false, _) => say(&format!("error: {text}")),
        }
        ExitCode::from(code)
    }

    fn line(&self, text: &str) {
        if self.bar.is_hidden() { say(text) } else { self.bar.println(printable_lines(text)) }
    }

    fn write_event(&self, event: &str, about: &impl Serialize) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let mut line = json!({
            "event": event,
            "time": now.map_or(0.0, |since| since.as_secs_f64()),
        });
        // An object that JSON cannot express is skipped; NaN becomes null.
        if let (Some(line), Ok(Value::Object(about))) =
            (line.as_object_mut(), serde_json::to_value(about))
        {
            line.extend(about);
        }
        let _ = writeln!(io::stderr(), "{line}");
    }
}
