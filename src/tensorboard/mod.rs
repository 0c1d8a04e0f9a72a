//! TensorBoard: event files, and the observer that logs a training run to one.

mod histogram;
mod hparams;
mod largest_errors;
mod run_texts;
mod scatter;
pub mod training_log;
mod validation_maps;

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Cursor, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process;
use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Error, Result};
use image::{ImageFormat, ImageResult, RgbImage};
use protobuf::{Message, RepeatedField};
use tch::Tensor;
use tensorboard_proto::event::{Event, SessionLog, SessionLog_SessionStatus};
use tensorboard_proto::summary::{
    Summary, Summary_Image, Summary_Value, SummaryMetadata, SummaryMetadata_PluginData,
};
use tensorboard_proto::tensor::TensorProto;
use tensorboard_proto::tensor_shape::{TensorShapeProto, TensorShapeProto_Dim};
use tensorboard_proto::types::DataType;
use tensorboard_rs::record_writer::RecordWriter;
use tensorboard_rs::summary;

use self::histogram::histogram;

/// A callback for warnings about what is missing in TensorBoard, and why.
pub type Warn = Rc<dyn Fn(&str)>;

/// Writes one event file. A failure never reaches the training loop: the first one is reported as a
/// warning, and nothing more is written.
///
/// It uses the record writer, the summaries and the messages of tensorboard-rs, but not its
/// `SummaryWriter` (0.5.9), which writes from a thread that panics on any I/O error, and then
/// panics in `drop`, so that a full disk aborts the process. It also truncates an event file of the
/// same second.
///
/// Events are buffered; [`flush`](Self::flush) and dropping write them.
pub struct TensorBoard {
    /// `None` after a failed write, and if TensorBoard is off.
    records: Option<RecordWriter<Box<dyn Write + Send>>>,
    path: PathBuf,
    warn: Warn,
}

impl TensorBoard {
    /// Starts a new event file in `dir`, which is created if necessary; warnings go to `warn`.
    /// Existing event files are kept, and TensorBoard shows all of them as one run: a resumed run
    /// calls this with the same folder, then [`restart`](Self::restart).
    pub fn create(dir: &Path, warn: Warn) -> Result<Self> {
        let cannot = || format!("cannot write TensorBoard events in {}", dir.display());
        fs::create_dir_all(dir).with_context(cannot)?;
        let (path, file) = create_event_file(dir).with_context(cannot)?;
        Ok(Self::over(Box::new(BufWriter::new(file)), path, warn))
    }

    /// Does the same as [`create`](Self::create), but a failure only turns TensorBoard off.
    pub fn create_or_warn(dir: &Path, warn: Warn) -> Self {
        Self::create(dir, Rc::clone(&warn)).unwrap_or_else(|error| {
            warn(&format!("TensorBoard is off, training continues: {error:#}"));
            Self::off()
        })
    }

    /// Returns a log that writes nothing.
    pub fn off() -> Self {
        Self { records: None, path: PathBuf::new(), warn: Rc::new(|_| {}) }
    }

    /// Whether events are written.
    pub fn is_on(&self) -> bool {
        self.records.is_some()
    }

    /// Adds a point to the curve `tag`, as float32. A slash groups curves: `train/loss`.
    pub fn scalar(&mut self, tag: &str, step: u64, value: f64) {
        self.add(summary_event(step, summary::scalar(tag, value as f32)));
    }

    /// Adds a text, which TensorBoard shows as Markdown.
    pub fn text(&mut self, tag: &str, step: u64, text: &str) {
        let mut tensor = vector(DataType::DT_STRING, 1);
        tensor.set_string_val(RepeatedField::from_vec(vec![text.as_bytes().to_vec()]));
        let summary = summary_of(tag, |value| {
            value.set_metadata(metadata_of("text", Vec::new()));
            value.set_tensor(tensor);
        });
        self.add(summary_event(step, summary));
    }

    /// Adds an image; one that cannot be encoded is skipped with a warning.
    pub fn image(&mut self, tag: &str, step: u64, image: &RgbImage) {
        self.add_summary(tag, step, || Ok(Some(image_summary(tag, image)?)));
    }

    /// Adds a histogram of the finite values of some tensors, if there are any.
    pub fn histogram(&mut self, tag: &str, step: u64, tensors: &[Tensor]) {
        let of = |found| summary_of(tag, |value| value.set_histo(found));
        self.add_summary(tag, step, || Ok(histogram(tensors)?.map(of)));
    }

    /// Logs the start of the run and its hyperparameters, for the HPARAMS tab.
    pub fn session_start(&mut self, hparams: &[(String, serde_yaml::Value)]) {
        self.add_summary("hparams", 0, || Ok(Some(hparams::session_start(hparams)?)));
    }

    /// Logs the end of the run. A stopped run must not call it: it may be resumed, and TensorBoard
    /// keeps the first status that it reads.
    pub fn session_end(&mut self, step: u64) {
        self.add_summary("hparams", step, || Ok(Some(hparams::session_end()?)));
    }

    /// Logs that the run resumes at `step`: TensorBoard drops the points from there on that the
    /// interrupted run wrote into earlier files of the folder.
    pub fn restart(&mut self, step: u64) {
        let mut log = SessionLog::new();
        log.set_status(SessionLog_SessionStatus::START);
        let mut event = event_at(step);
        event.set_session_log(log);
        self.add(event);
    }

    /// Writes buffered events to disk.
    pub fn flush(&mut self) {
        if let Some(records) = &mut self.records {
            let flushed = records.flush();
            self.turn_off_on_error(flushed);
        }
    }

    fn over(out: Box<dyn Write + Send>, path: PathBuf, warn: Warn) -> Self {
        let mut board = Self { records: Some(RecordWriter::new(out)), path, warn };
        // Every event file starts with the version of the format.
        let mut event = event_at(0);
        event.set_file_version("brain.Event:2".into());
        board.add(event);
        board.flush();
        board
    }

    /// Adds the summary that `make` returns, if events are written; an error is a warning.
    fn add_summary(
        &mut self,
        tag: &str,
        step: u64,
        make: impl FnOnce() -> Result<Option<Summary>>,
    ) {
        if !self.is_on() {
            return;
        }
        match make() {
            Ok(Some(summary)) => self.add(summary_event(step, summary)),
            Ok(None) => {}
            Err(error) => self.missing(tag, &error),
        }
    }

    fn missing(&self, tag: &str, error: &Error) {
        (self.warn)(&format!("{tag} is missing in TensorBoard: {error:#}"));
    }

    fn add(&mut self, event: Event) {
        if let Some(records) = &mut self.records {
            let written = event
                .write_to_bytes()
                .map_err(io::Error::other)
                .and_then(|bytes| records.write(&bytes));
            self.turn_off_on_error(written);
        }
    }

    fn turn_off_on_error(&mut self, outcome: io::Result<()>) {
        if let Err(error) = outcome {
            self.records = None;
            let path = self.path.display();
            (self.warn)(&format!(
                "TensorBoard is off from now on, training continues: cannot write {path}: {error}"
            ));
        }
    }
}

/// Creates a file with the name of an event file that sorts after those of earlier starts, for
/// TensorBoard reads a folder's files in that order.
fn create_event_file(dir: &Path) -> io::Result<(PathBuf, File)> {
    let seconds = wall_time() as u64;
    let mut number = 0u64;
    loop {
        let name = format!("events.out.tfevents.{seconds:010}.vmbeauty.{}.{number}", process::id());
        let path = dir.join(name);
        match OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(file) => return Ok((path, file)),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => number += 1,
            Err(error) => return Err(error),
        }
    }
}

/// Returns the seconds since 1970; 0 if the clock is set to an earlier time.
fn wall_time() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

fn event_at(step: u64) -> Event {
    let mut event = Event::new();
    event.set_wall_time(wall_time());
    event.set_step(i64::try_from(step).unwrap_or(i64::MAX));
    event
}

fn summary_event(step: u64, summary: Summary) -> Event {
    let mut event = event_at(step);
    event.set_summary(summary);
    event
}

fn vector(dtype: DataType, len: i64) -> TensorProto {
    let mut dim = TensorShapeProto_Dim::new();
    dim.set_size(len);
    let mut shape = TensorShapeProto::new();
    shape.set_dim(RepeatedField::from_vec(vec![dim]));
    let mut tensor = TensorProto::new();
    tensor.set_dtype(dtype);
    tensor.set_tensor_shape(shape);
    tensor
}

/// Returns the metadata of a value: the plugin that shows it, and the plugin's own content.
fn metadata_of(plugin: &str, content: Vec<u8>) -> SummaryMetadata {
    let mut data = SummaryMetadata_PluginData::new();
    data.set_plugin_name(plugin.into());
    data.set_content(content);
    let mut metadata = SummaryMetadata::new();
    metadata.set_plugin_data(data);
    metadata
}

fn image_summary(tag: &str, image: &RgbImage) -> ImageResult<Summary> {
    const RGB: i32 = 3;
    let mut png = Cursor::new(Vec::new());
    image.write_to(&mut png, ImageFormat::Png)?;
    let side = |pixels: u32| i32::try_from(pixels).unwrap_or(i32::MAX);
    let mut entry = Summary_Image::new();
    entry.set_width(side(image.width()));
    entry.set_height(side(image.height()));
    entry.set_colorspace(RGB);
    entry.set_encoded_image_string(png.into_inner());
    Ok(summary_of(tag, |value| value.set_image(entry)))
}

/// Returns a summary with one value, which `set` fills in.
fn summary_of(tag: &str, set: impl FnOnce(&mut Summary_Value)) -> Summary {
    let mut value = Summary_Value::new();
    value.set_tag(tag.to_owned());
    set(&mut value);
    let mut summary = Summary::new();
    summary.set_value(RepeatedField::from_vec(vec![value]));
    summary
}

#[cfg(test)]
mod tests;
