//! `results.csv`: a sweep's runs as a table.

use std::path::Path;

use anyhow::Result;

use super::naming::text;
use super::results::{Results, RunResult};
use crate::eval::metrics::Metric;
use crate::files::write_atomic;

impl Results {
    /// Writes `results.csv`: a line per run. The axes' columns have their keys as names; a value
    /// that a run does not have is empty.
    pub(super) fn write_csv(&self, path: &Path) -> Result<()> {
        write_atomic(path, |out| {
            let mut csv = csv::Writer::from_writer(out);
            for (index, run) in self.runs.iter().enumerate() {
                let (header, record): (Vec<String>, Vec<String>) =
                    self.cells(run).into_iter().unzip();
                if index == 0 {
                    csv.write_record(header)?;
                }
                csv.write_record(record)?;
            }
            Ok(csv.flush()?)
        })
    }

    /// Returns the names of the columns with a run's values.
    fn cells(&self, run: &RunResult) -> Vec<(String, String)> {
        let mut cells = vec![column("run", Some(&run.name)), column("status", Some(&run.status))];
        cells.extend(self.axes.iter().map(|axis| column(axis, run.values.get(axis).map(text))));
        cells.extend([column("seed", Some(run.seed)), column("fold", run.fold.as_ref())]);
        for (split, metrics) in [("val", &run.val), ("test", &run.test)] {
            cells.push(column(&format!("{split}_n"), metrics.map(|metrics| metrics.metrics.n)));
            for metric in Metric::ALL {
                let name = format!("{split}_{}", metric.name());
                let value = metrics.map(|metrics| metric.of(&metrics.metrics));
                let ci = metrics.and_then(|metrics| metrics.interval(metric));
                cells.extend([
                    column(&name, value.filter(|value| value.is_finite())),
                    column(&format!("{name}_lo"), ci.map(|ci| ci.lo)),
                    column(&format!("{name}_hi"), ci.map(|ci| ci.hi)),
                ]);
            }
        }
        cells.extend([
            column("best_epoch", run.best_epoch),
            column("seconds", run.seconds),
            column("images_per_second", run.images_per_second),
            column("parameters", run.parameters),
            column("error", run.error.as_ref()),
        ]);
        cells
    }
}

fn column(name: &str, value: Option<impl ToString>) -> (String, String) {
    (name.to_string(), value.map(|value| value.to_string()).unwrap_or_default())
}
