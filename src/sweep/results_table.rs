//! A sweep's runs as a table for other programs.

use std::path::Path;

use anyhow::Result;

use super::naming::text;
use super::results::{Results, RunResult};
use crate::eval::metrics::Metric;
use crate::eval::statistics::MetricsWithCi;
use crate::files::write_atomic;

impl Results {
    /// `results.csv`: a line per run. The axes' columns are called by their keys; a metric that is
    /// not there is empty.
    pub(super) fn write_csv(&self, path: &Path) -> Result<()> {
        write_atomic(path, |out| {
            let mut csv = csv::Writer::from_writer(out);
            csv.write_record(self.header())?;
            for run in &self.runs {
                csv.write_record(self.record(run))?;
            }
            Ok(csv.flush()?)
        })
    }

    fn header(&self) -> Vec<String> {
        let mut header = vec!["run".to_string(), "status".to_string()];
        header.extend(self.axes.iter().cloned());
        header.extend(["seed", "fold"].map(str::to_string));
        for split in ["val", "test"] {
            header.push(format!("{split}_n"));
            for metric in Metric::ALL {
                let name = format!("{split}_{}", metric.name());
                header.extend([name.clone(), format!("{name}_lo"), format!("{name}_hi")]);
            }
        }
        let last = ["best_epoch", "seconds", "images_per_second", "parameters", "error"];
        header.extend(last.map(str::to_string));
        header
    }

    fn record(&self, run: &RunResult) -> Vec<String> {
        let mut record = vec![run.name.clone(), run.status.clone()];
        record.extend(
            self.axes.iter().map(|axis| run.values.get(axis).map(text).unwrap_or_default()),
        );
        record.extend([run.seed.to_string(), run.fold.clone().unwrap_or_default()]);
        for measured in [&run.val, &run.test] {
            record.push(cell(measured.as_ref().map(|measured| measured.metrics.n)));
            for metric in Metric::ALL {
                record.extend(metric_cells(measured.as_ref(), metric));
            }
        }
        record.extend([
            cell(run.best_epoch),
            cell(run.seconds),
            cell(run.images_per_second),
            cell(run.parameters),
            run.error.clone().unwrap_or_default(),
        ]);
        record
    }
}

/// A metric and the ends of its interval.
fn metric_cells(measured: Option<&MetricsWithCi>, metric: Metric) -> [String; 3] {
    let value = measured.map(|measured| metric.of(&measured.metrics));
    let interval = measured.and_then(|measured| measured.interval(metric));
    [
        cell(value.filter(|value| value.is_finite())),
        cell(interval.map(|interval| interval.lo)),
        cell(interval.map(|interval| interval.hi)),
    ]
}

fn cell(value: Option<impl ToString>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}
