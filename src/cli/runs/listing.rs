//! The list of runs as text and as JSON.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::SystemTime;

use clap::ValueEnum;
use serde_json::{Value, json};

use super::List;
use crate::cli::output::{cut, duration, metric, shorten};
use crate::config::Monitor;
use crate::files::printable;
use crate::report::text_table;
use crate::run::{Best, Course, Overview, Status};

/// The least width of the column of names.
const MIN_NAME: usize = 12;
/// The maximum number of failed runs whose errors follow the list.
const MAX_ERRORS: usize = 10;

/// The order of the runs, after those that are running.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Order {
    /// The run that was written to last comes first.
    #[default]
    Updated,
    /// The best comes first, by the monitored metric.
    Metric,
    /// By the path.
    Name,
}

/// A run in the list.
pub(super) struct Listed {
    pub name: String,
    pub folder: PathBuf,
    /// The run, or why it cannot be read.
    pub run: Result<Overview, String>,
    /// The keys in which the runs differ, with this run's values.
    pub differs: Vec<(String, String)>,
}

impl Listed {
    fn status(&self) -> &str {
        match &self.run {
            Ok(run) => match run.status.summary() {
                Some(summary) if summary.stopped_early => "finished early",
                _ => run.status.name(),
            },
            Err(_) => "unreadable",
        }
    }

    fn is_running(&self) -> bool {
        self.run.as_ref().is_ok_and(|run| run.status == Status::Running)
    }

    fn best(&self) -> Option<Best> {
        self.run.as_ref().ok()?.course.best
    }

    fn updated(&self) -> Option<SystemTime> {
        self.run.as_ref().ok()?.course.updated
    }

    fn seconds_since(&self, now: SystemTime) -> Option<f64> {
        Some(now.duration_since(self.updated()?).unwrap_or_default().as_secs_f64())
    }

    /// Returns the first line of why it failed or cannot be read.
    fn error(&self) -> Option<&str> {
        let error = match &self.run {
            Ok(Overview { status: Status::Failed(failure), .. }) => &failure.error,
            Ok(_) => return None,
            Err(error) => error,
        };
        error.lines().next()
    }
}

impl Order {
    /// Sorts runs, those that are running first; equal ones by name.
    pub(super) fn sort(self, runs: &mut [Listed]) {
        runs.sort_by(|a, b| {
            let order = match self {
                Self::Updated => b.updated().cmp(&a.updated()),
                Self::Metric => by_metric(a.best(), b.best()),
                Self::Name => Ordering::Equal,
            };
            b.is_running().cmp(&a.is_running()).then(order).then_with(|| a.name.cmp(&b.name))
        });
    }
}

/// Compares the best epochs: runs of the same metric are together, the better one first.
fn by_metric(a: Option<Best>, b: Option<Best>) -> Ordering {
    let (Some(a), Some(b)) = (a, b) else { return b.is_some().cmp(&a.is_some()) };
    let score = |best: &Best| best.monitor.score(best.value);
    a.monitor.name().cmp(b.monitor.name()).then(score(&b).total_cmp(&score(&a)))
}

/// Returns the output of `--json`.
pub(super) fn as_json(list: &List) -> Value {
    let run = |listed: &Listed| {
        let mut about = json!({
            "name": listed.name,
            "run": listed.folder,
            "status": listed.status(),
            "error": listed.error(),
            "differs": listed.differs.iter().cloned().collect::<BTreeMap<_, _>>(),
            "seconds_since_update": listed.seconds_since(list.now),
        });
        if let Ok(run) = &listed.run {
            let Course { epoch, best, seconds, .. } = &run.course;
            about["epoch"] = json!(epoch);
            about["epochs"] = json!(run.epochs());
            about["monitor"] = json!(best.map(|best| best.monitor.name()));
            about["best"] = json!(best.map(|best| best.value));
            about["best_epoch"] = json!(best.map(|best| best.epoch));
            about["test"] = json!(run.status.summary().and_then(|summary| summary.test));
            about["seconds"] = json!(seconds);
            about["seconds_left"] = json!(run.seconds_left(list.now));
        }
        about
    };
    let runs: Vec<Value> = list.runs.iter().map(run).collect();
    json!({"folder": list.folder, "runs": runs, "incomplete": list.incomplete})
}

/// Returns the list as text, in lines of at most `width` and at most `height` of them.
pub(super) fn as_text(list: &List, width: Option<usize>, height: Option<usize>) -> String {
    let footer = footer(list, height.is_none());
    // The header and the footer.
    let room = height.map(|height| height.saturating_sub(1 + footer.len()));
    let shown = match room {
        // One line says how many are not shown.
        Some(room) if list.runs.len() > room => room.saturating_sub(1),
        _ => list.runs.len(),
    };
    let table = match shown {
        0 => String::new(),
        _ => as_table(list, &list.runs[..shown], width),
    };
    let hidden = list.runs.len() - shown;
    let more = (hidden > 0).then(|| format!("… and {hidden} more"));
    let mut text = String::new();
    for line in table.lines().map(str::to_string).chain(more).chain(footer) {
        let line = printable(line);
        text += &width.map_or(line.clone(), |width| cut(&line, width));
        text += "\n";
    }
    text
}

fn as_table(list: &List, shown: &[Listed], width: Option<usize>) -> String {
    let mut monitors: Vec<Monitor> =
        list.runs.iter().filter_map(|run| Some(run.best()?.monitor)).collect();
    monitors.dedup();
    let heading = match monitors[..] {
        [only] => only.heading(),
        _ => "best",
    };
    let mut rows: Vec<Vec<String>> =
        shown.iter().map(|run| row(run, list.now, heading == "best")).collect();
    let mut header = vec!["run", "status", "epoch", heading, "test PC", "time", "age", "differs"];
    if let Some(width) = width {
        fit(&mut header, &mut rows, width);
    }
    text_table(&header, &rows, |column| matches!(column, 0 | 1 | 7))
}

fn row(listed: &Listed, now: SystemTime, names_metric: bool) -> Vec<String> {
    let differs = listed.differs.iter().map(|(key, value)| format!("{key}={value}"));
    let best = listed.best().map(|best| {
        let name = if names_metric { best.monitor.heading() } else { "" };
        format!("{name} {}", metric(best.value)).trim_start().to_string()
    });
    let run = listed.run.as_ref().ok();
    let epoch = run.map(|run| match run.epochs() {
        Some(epochs) => format!("{}/{epochs}", run.course.epoch),
        None => String::new(),
    });
    let test = run.and_then(|run| run.status.summary()?.test);
    let time = run.map(|run| run.course.seconds).filter(|seconds| *seconds > 0.0);
    vec![
        printable(&listed.name),
        listed.status().to_string(),
        epoch.unwrap_or_default(),
        best.unwrap_or_default(),
        test.map(|test| metric(test.metrics.pc)).unwrap_or_default(),
        time.map(duration).unwrap_or_default(),
        listed.seconds_since(now).map(age).unwrap_or_default(),
        printable(differs.collect::<Vec<_>>().join(" ")),
    ]
}

/// Shortens the names, and what differs or omits it, to a table of this width. Names come first:
/// those of a sweep's runs say what differs.
fn fit(header: &mut Vec<&str>, rows: &mut [Vec<String>], width: usize) {
    let widest = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([header[column].len()]).max().unwrap_or(0)
    };
    let last = header.len() - 1;
    let others: usize = (1..last).map(|column| widest(column) + 2).sum();
    let room = width.saturating_sub(others);
    let name = widest(0).min(room.max(MIN_NAME));
    let differs = room.saturating_sub(name + 2);
    let omitted = differs < header[last].len();
    for row in rows {
        row[0] = shorten(&row[0], name);
        if omitted {
            row.pop();
        } else {
            row[last] = cut(&row[last], differs);
        }
    }
    if omitted {
        header.pop();
    }
}

/// Returns the lines below the list: how many runs there are by status, and why runs failed.
fn footer(list: &List, with_errors: bool) -> Vec<String> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for run in &list.runs {
        *counts.entry(run.status()).or_default() += 1;
    }
    let counted: Vec<String> = counts.iter().map(|(name, n)| format!("{n} {name}")).collect();
    let folder = list.folder.display();
    let mut lines = vec![match list.runs.len() {
        0 => format!("no run in {folder} or below"),
        1 => format!("1 run: {}", counted.join(", ")),
        n => format!("{n} runs: {}", counted.join(", ")),
    }];
    let errors = list.runs.iter().filter_map(|run| Some((run, run.error()?)));
    if with_errors {
        lines.extend(errors.take(MAX_ERRORS).map(|(run, error)| {
            let status = run.status();
            format!("{status}: {}: {error}", run.name)
        }));
    }
    if list.incomplete {
        lines.push("some folders were not searched: name one with fewer folders".to_string());
    }
    lines
}

/// Formats the time since a moment as `40 s`, `3 min`, `5 h` or `2 d`.
fn age(seconds: f64) -> String {
    let seconds = seconds as u64;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86_400 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn listed(name: &str, status: Status, best: Option<f64>, age: u64, now: SystemTime) -> Listed {
        let best = best.map(|value| Best { monitor: Monitor::Pc, value, epoch: 1 });
        let updated = Some(now - Duration::from_secs(age));
        let course = Course { epoch: 1, best, seconds: 61.0, updated };
        let run = Overview { status, config: Vec::new(), course };
        let differs = vec![("strategy".to_string(), "cross_attention".to_string())];
        Listed { name: name.to_string(), folder: name.into(), run: Ok(run), differs }
    }

    fn list() -> List {
        let now = SystemTime::now();
        let runs = vec![
            listed("old", Status::Stopped, Some(0.5), 7300, now),
            listed("new", Status::Stopped, Some(0.25), 61, now),
            listed("none", Status::Pending, None, 9, now),
            listed(&"long,".repeat(20), Status::Running, Some(0.1), 90_000, now),
        ];
        List { folder: "runs".into(), runs, incomplete: false, now }
    }

    fn names(order: Order) -> Vec<String> {
        let mut list = list();
        order.sort(&mut list.runs);
        list.runs.iter().skip(1).map(|run| run.name.clone()).collect()
    }

    #[test]
    fn running_runs_come_first_then_the_newest_or_the_best() {
        assert_eq!(names(Order::Updated), ["none", "new", "old"]);
        assert_eq!(names(Order::Metric), ["old", "new", "none"]);
        let mae = |value| Some(Best { monitor: Monitor::Mae, value, epoch: 1 });
        assert_eq!(by_metric(mae(0.25), mae(0.5)), Ordering::Less);
        assert_eq!(names(Order::Name), ["new", "none", "old"]);
    }

    #[test]
    fn no_line_is_wider_than_the_terminal_and_no_list_higher() {
        let list = list();
        let text = as_text(&list, None, None);
        assert!(text.contains(&"long,".repeat(20)) && text.contains("strategy=cross_attention"));
        assert!(text.contains("1 min 1 s") && text.contains("2 h") && text.contains("1 d"));
        assert!(text.ends_with("4 runs: 1 pending, 1 running, 2 stopped\n"), "{text}");
        for width in [40, 80, 100, 200] {
            let text = as_text(&list, Some(width), None);
            let widest = text.lines().map(|line| line.chars().count()).max();
            assert!(widest <= Some(width), "{text}");
        }
        assert!(!as_text(&list, Some(80), None).contains("differs"));
        assert!(as_text(&list, Some(200), None).contains("differs"));
        let text = as_text(&list, Some(80), Some(5));
        assert_eq!(text.lines().count(), 5, "{text}");
        assert!(text.contains("… and 2 more"), "{text}");
    }
}
