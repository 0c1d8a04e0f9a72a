//! Event files for TensorBoard.

use std::fmt::Display;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Cursor, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use image::{ImageFormat, ImageResult, RgbImage};
use protobuf::{Message, RepeatedField};
use tensorboard_proto::event::{Event, SessionLog, SessionLog_SessionStatus};
use tensorboard_proto::summary::{
    Summary, Summary_Image, Summary_Value, SummaryMetadata, SummaryMetadata_PluginData,
};
use tensorboard_proto::tensor::TensorProto;
use tensorboard_proto::tensor_shape::{TensorShapeProto, TensorShapeProto_Dim};
use tensorboard_proto::types::DataType;
use tensorboard_rs::record_writer::RecordWriter;
use tensorboard_rs::summary;

/// Writes one event file. A failure never reaches the training loop: the first one
/// is reported on stderr, and after it nothing more is written.
///
/// Built from the record writer, the summaries and the messages of tensorboard-rs,
/// but not on its `SummaryWriter`: that one (0.5.9) writes from a thread of its own
/// which panics on any I/O error, and then panics in `drop`, so that a full disk
/// aborts the whole process; it also truncates an event file of the same second.
///
/// Events are buffered; [`flush`](Self::flush) hands them to the operating system.
/// Dropping flushes too.
pub struct TensorBoard {
    /// None once a write has failed, and where TensorBoard is switched off.
    records: Option<RecordWriter<Box<dyn Write + Send>>>,
    path: PathBuf,
}

impl TensorBoard {
    /// Starts a new event file in `dir`, which is made if need be. Files that are
    /// there already stay, and TensorBoard shows them all as one run: a resumed run
    /// calls this with the same folder, then [`restart`](Self::restart).
    ///
    /// # Errors
    /// If the folder or the file cannot be made.
    pub fn create(dir: &Path) -> Result<Self> {
        let cannot = || format!("cannot write TensorBoard events in {}", dir.display());
        fs::create_dir_all(dir).with_context(cannot)?;
        let (path, file) = create_event_file(dir).with_context(cannot)?;
        Ok(Self::over(Box::new(BufWriter::new(file)), path))
    }

    /// As [`create`](Self::create), but if that fails, says so on stderr and writes
    /// nothing: a training run is worth more than its curves.
    pub fn create_or_warn(dir: &Path) -> Self {
        Self::create(dir).unwrap_or_else(|error| {
            warn(&format_args!("{error:#}"));
            Self::off()
        })
    }

    /// Writes nothing at all.
    pub fn off() -> Self {
        Self {
            records: None,
            path: PathBuf::new(),
        }
    }

    /// Whether events are still being written.
    pub fn is_on(&self) -> bool {
        self.records.is_some()
    }

    /// Adds a point to the curve `tag` (a slash groups curves: `train/loss`). Stored
    /// as float32, as TensorBoard does.
    pub fn scalar(&mut self, tag: &str, step: u64, value: f64) {
        self.add(summary_event(step, summary::scalar(tag, value as f32)));
    }

    /// Adds a text, which TensorBoard shows as Markdown.
    pub fn text(&mut self, tag: &str, step: u64, text: &str) {
        self.add(summary_event(step, text_summary(tag, text)));
    }

    /// Adds a picture. One that cannot be encoded (without pixels, say) is left out, with a warning.
    pub fn image(&mut self, tag: &str, step: u64, image: &RgbImage) {
        if !self.is_on() {
            return;
        }
        match image_summary(tag, image) {
            Ok(summary) => self.add(summary_event(step, summary)),
            Err(error) => warn(&format_args!(
                "the picture {tag} is missing in TensorBoard: {error}"
            )),
        }
    }

    /// Says that the run continues from `step`: TensorBoard's data server drops the
    /// points at and after it that an interrupted run wrote into earlier files of the
    /// folder.
    pub fn restart(&mut self, step: u64) {
        let mut log = SessionLog::new();
        log.set_status(SessionLog_SessionStatus::START);
        let mut event = event_at(step);
        event.set_session_log(log);
        self.add(event);
    }

    /// Hands all events so far to the operating system.
    pub fn flush(&mut self) {
        if let Some(records) = &mut self.records {
            let flushed = records.flush();
            self.keep_on_if(flushed);
        }
    }

    fn over(out: Box<dyn Write + Send>, path: PathBuf) -> Self {
        let mut board = Self {
            records: Some(RecordWriter::new(out)),
            path,
        };
        // Every event file starts with its format's version.
        let mut event = event_at(0);
        event.set_file_version("brain.Event:2".into());
        board.add(event);
        board.flush();
        board
    }

    fn add(&mut self, event: Event) {
        if let Some(records) = &mut self.records {
            let written = event
                .write_to_bytes()
                .map_err(io::Error::other)
                .and_then(|bytes| records.write(&bytes));
            self.keep_on_if(written);
        }
    }

    fn keep_on_if(&mut self, outcome: io::Result<()>) {
        if let Err(error) = outcome {
            self.records = None;
            let path = self.path.display();
            warn(&format_args!(
                "TensorBoard is off from here on, training goes on: cannot write {path}: {error}"
            ));
        }
    }
}

/// stderr may be closed; `eprintln!` would panic then.
fn warn(message: &dyn Display) {
    let _ = writeln!(io::stderr(), "warning: {message}");
}

/// A new file under a name that TensorBoard takes for an event file and that sorts
/// after those of earlier starts, since it reads a folder's files in that order.
fn create_event_file(dir: &Path) -> io::Result<(PathBuf, File)> {
    let seconds = wall_time() as u64;
    let mut number = 0u64;
    loop {
        let name = format!(
            "events.out.tfevents.{seconds:010}.vmbeauty.{}.{number}",
            process::id()
        );
        let path = dir.join(name);
        match OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(file) => return Ok((path, file)),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => number += 1,
            Err(error) => return Err(error),
        }
    }
}

/// Seconds since 1970; 0 on a machine whose clock stands before.
fn wall_time() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
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

/// A string tensor of one item, marked for TensorBoard's text plugin.
fn text_summary(tag: &str, text: &str) -> Summary {
    let mut dim = TensorShapeProto_Dim::new();
    dim.set_size(1);
    let mut shape = TensorShapeProto::new();
    shape.set_dim(RepeatedField::from_vec(vec![dim]));
    let mut tensor = TensorProto::new();
    tensor.set_dtype(DataType::DT_STRING);
    tensor.set_tensor_shape(shape);
    tensor.set_string_val(RepeatedField::from_vec(vec![text.as_bytes().to_vec()]));

    let mut plugin = SummaryMetadata_PluginData::new();
    plugin.set_plugin_name("text".into());
    let mut metadata = SummaryMetadata::new();
    metadata.set_plugin_data(plugin);

    let mut value = Summary_Value::new();
    value.set_tag(tag.to_owned());
    value.set_metadata(metadata);
    value.set_tensor(tensor);
    let mut summary = Summary::new();
    summary.set_value(RepeatedField::from_vec(vec![value]));
    summary
}

fn image_summary(tag: &str, image: &RgbImage) -> ImageResult<Summary> {
    const RGB: i32 = 3;
    let mut png = Cursor::new(Vec::new());
    image.write_to(&mut png, ImageFormat::Png)?;
    let side = |pixels: u32| i32::try_from(pixels).unwrap_or(i32::MAX);
    let mut picture = Summary_Image::new();
    picture.set_width(side(image.width()));
    picture.set_height(side(image.height()));
    picture.set_colorspace(RGB);
    picture.set_encoded_image_string(png.into_inner());
    let mut value = Summary_Value::new();
    value.set_tag(tag.to_owned());
    value.set_image(picture);
    let mut summary = Summary::new();
    summary.set_value(RepeatedField::from_vec(vec![value]));
    Ok(summary)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tensorboard_rs::masked_crc32c::masked_crc32c;

    use super::*;

    /// Splits a file into its records, checking lengths and checksums.
    fn events(bytes: &[u8]) -> Vec<Event> {
        let mut events = Vec::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            let (length, tail) = rest.split_at(8);
            let size = u64::from_le_bytes(length.try_into().unwrap()) as usize;
            let (length_crc, tail) = tail.split_at(4);
            let (data, tail) = tail.split_at(size);
            let (data_crc, tail) = tail.split_at(4);
            assert_eq!(length_crc, masked_crc32c(length).to_le_bytes());
            assert_eq!(data_crc, masked_crc32c(data).to_le_bytes());
            events.push(Event::parse_from_bytes(data).unwrap());
            rest = tail;
        }
        events
    }

    fn event_files(dir: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(dir).unwrap();
        let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths
    }

    #[test]
    fn scalars_and_texts_are_records_with_tag_step_and_time() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("a/tensorboard");
        let before = wall_time();
        let mut board = TensorBoard::create(&dir).unwrap();
        board.scalar("train/loss", 7, 0.25);
        board.scalar("train/loss", u64::MAX, f64::NAN);
        board.text("config", 0, "name: quickstart");
        board.restart(5);
        drop(board);

        let files = event_files(&dir);
        assert_eq!(files.len(), 1);
        let events = events(&fs::read(&files[0]).unwrap());
        assert_eq!(events.len(), 5);
        assert_eq!(events[0].get_file_version(), "brain.Event:2");
        let value = &events[1].get_summary().get_value()[0];
        assert_eq!(
            (value.get_tag(), value.get_simple_value()),
            ("train/loss", 0.25)
        );
        assert_eq!(events[1].get_step(), 7);
        assert!((before..=wall_time()).contains(&events[1].get_wall_time()));
        assert_eq!(events[2].get_step(), i64::MAX);
        let text = &events[3].get_summary().get_value()[0];
        assert_eq!(text.get_tensor().get_string_val()[0], b"name: quickstart");
        assert_eq!(
            events[4].get_session_log().get_status(),
            SessionLog_SessionStatus::START
        );
    }

    #[test]
    fn a_picture_is_a_png_of_its_size_and_one_without_pixels_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let mut board = TensorBoard::create(dir.path()).unwrap();
        let picture = RgbImage::from_fn(3, 2, |x, y| image::Rgb([x as u8, y as u8, 9]));
        board.image("empty", 4, &RgbImage::new(0, 0));
        assert!(board.is_on());
        board.image("grid", 4, &picture);
        drop(board);
        let events = events(&fs::read(&event_files(dir.path())[0]).unwrap());
        assert_eq!(events.len(), 2);
        let value = &events[1].get_summary().get_value()[0];
        let written = value.get_image();
        assert_eq!((value.get_tag(), events[1].get_step()), ("grid", 4));
        assert_eq!((written.get_width(), written.get_height()), (3, 2));
        let read = image::load_from_memory(written.get_encoded_image_string()).unwrap();
        assert_eq!(read.to_rgb8(), picture);
    }

    #[test]
    fn a_second_start_in_a_folder_adds_a_file_and_keeps_the_first() {
        let dir = tempfile::tempdir().unwrap();
        TensorBoard::create(dir.path()).unwrap().scalar("a", 1, 1.0);
        let first = event_files(dir.path()).remove(0);
        let bytes = fs::read(&first).unwrap();
        TensorBoard::create(dir.path()).unwrap().scalar("a", 2, 2.0);
        assert_eq!(event_files(dir.path()).len(), 2);
        assert_eq!(fs::read(&first).unwrap(), bytes);
        assert!(event_files(dir.path())[1] > first);
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_an_error_or_a_warning() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let error = TensorBoard::create(&file.join("tensorboard"))
            .err()
            .unwrap();
        assert!(format!("{error:#}").contains("tensorboard"), "{error:#}");

        let mut board = TensorBoard::create_or_warn(&file.join("tensorboard"));
        assert!(!board.is_on());
        board.scalar("a", 1, 1.0);
        board.flush();
    }

    /// Takes `room` bytes, then is a full disk. Counts the attempts to write.
    struct SmallDisk {
        room: usize,
        refused: Arc<Mutex<usize>>,
    }

    impl Write for SmallDisk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.room == 0 {
                *self.refused.lock().unwrap() += 1;
                return Err(ErrorKind::StorageFull.into());
            }
            let taken = bytes.len().min(self.room);
            self.room -= taken;
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_disk_that_fills_up_switches_writing_off_once_and_for_all() {
        let refused = Arc::new(Mutex::new(0));
        let disk = SmallDisk {
            room: 100,
            refused: Arc::clone(&refused),
        };
        let mut board = TensorBoard::over(Box::new(disk), "events".into());
        for step in 0..50 {
            board.scalar("loss", step, 1.0);
            board.flush();
        }
        assert!(!board.is_on());
        assert_eq!(*refused.lock().unwrap(), 1);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_device_does_not_stop_the_caller() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let mut board = TensorBoard::over(Box::new(BufWriter::new(full)), "/dev/full".into());
        board.scalar("loss", 1, 1.0);
        board.flush();
        assert!(!board.is_on());
    }
}
