//! What is told on stderr while a command trains: to a person, or a line of JSON at a time to a
//! program.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::ValueEnum;
use indicatif::ProgressBar;
use serde::Serialize;
use serde_json::{Value, json};

use super::output::say;

/// How much is told, and in what form.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub struct ConsoleArgs {
    /// Only warnings and errors on stderr; the results on stdout stay
    #[arg(long, short)]
    quiet: bool,
    /// What stderr is written as: text with a progress bar, or a JSON object a line
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    log_format: LogFormat,
}

/// What stderr is written as.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// Tells on stderr what a command does; clones share the bar, above which lines of text appear.
#[derive(Debug, Clone)]
pub struct Console {
    args: ConsoleArgs,
    bar: ProgressBar,
}

impl From<ConsoleArgs> for Console {
    fn from(args: ConsoleArgs) -> Self {
        Self { args, bar: ProgressBar::hidden() }
    }
}

impl Console {
    /// Whether lines are JSON.
    pub fn is_json(&self) -> bool {
        self.args.log_format == LogFormat::Json
    }

    /// Whether there is a person to draw a bar for.
    pub fn draws(&self) -> bool {
        !self.args.quiet && !self.is_json()
    }

    /// The bar; hidden until someone lets it be drawn.
    pub fn bar(&self) -> &ProgressBar {
        &self.bar
    }

    /// Tells a person.
    pub fn tell(&self, text: &str) {
        if self.draws() {
            self.line(text);
        }
    }

    /// Tells a program: one object, with `event` and `time` (seconds since 1970) before the fields
    /// of `about`.
    pub fn event(&self, event: &str, about: &impl Serialize) {
        if self.is_json() && !self.args.quiet {
            self.write_event(event, about);
        }
    }

    /// As [`event`](Self::event), however quiet it is to be.
    pub fn loud_event(&self, event: &str, about: &impl Serialize) {
        if self.is_json() {
            self.write_event(event, about);
        }
    }

    /// Tells a person or a program, however quiet it is to be.
    pub fn warn(&self, text: &str) {
        if self.is_json() {
            self.write_event("warning", &json!({"message": text}))
        } else {
            self.line(&format!("warning: {text}"))
        }
    }

    /// Warns that rows of the data set are not trained on, where there are some.
    pub fn warn_of_skipped_rows(&self, rows: usize) {
        if rows > 0 {
            self.warn(&format!(
                "{rows} rows of the data set were skipped: `vmbeauty data check` lists them"
            ));
        }
    }

    /// Why the command ends: what went wrong, or who stopped it. The exit code is in a program's
    /// line.
    pub fn end_with(&self, status: &str, text: &str, code: u8) -> ExitCode {
        match (self.is_json(), status) {
            (true, _) => self
                .write_event("end", &json!({"status": status, "message": text, "exit_code": code})),
            (false, "stopped") => say(text),
            (false, _) => say(&format!("error: {text}")),
        }
        ExitCode::from(code)
    }

    fn line(&self, text: &str) {
        if self.bar.is_hidden() { say(text) } else { self.bar.println(text) }
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
