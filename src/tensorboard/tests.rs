use std::cell::RefCell;
use std::sync::{Arc, Mutex};

use tensorboard_proto::api::Status;
use tensorboard_proto::plugin_hparams::HParamsPluginData;
use tensorboard_rs::masked_crc32c::masked_crc32c;

use super::*;

fn silent() -> Warn {
    Rc::new(|_| {})
}

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
    let mut board = TensorBoard::create(&dir, silent()).unwrap();
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
    assert_eq!((value.get_tag(), value.get_simple_value()), ("train/loss", 0.25));
    assert_eq!(events[1].get_step(), 7);
    assert!((before..=wall_time()).contains(&events[1].get_wall_time()));
    assert_eq!(events[2].get_step(), i64::MAX);
    let text = &events[3].get_summary().get_value()[0];
    assert_eq!(text.get_tensor().get_string_val()[0], b"name: quickstart");
    assert_eq!(events[4].get_session_log().get_status(), SessionLog_SessionStatus::START);
}

#[test]
fn an_image_is_a_png_of_its_size_and_an_empty_one_is_skipped() {
    let dir = tempfile::tempdir().unwrap();
    let mut board = TensorBoard::create(dir.path(), silent()).unwrap();
    let image = RgbImage::from_fn(3, 2, |x, y| image::Rgb([x as u8, y as u8, 9]));
    board.image("empty", 4, &RgbImage::new(0, 0));
    assert!(board.is_on());
    board.image("grid", 4, &image);
    drop(board);
    let events = events(&fs::read(&event_files(dir.path())[0]).unwrap());
    assert_eq!(events.len(), 2);
    let value = &events[1].get_summary().get_value()[0];
    let written = value.get_image();
    assert_eq!((value.get_tag(), events[1].get_step()), ("grid", 4));
    assert_eq!((written.get_width(), written.get_height()), (3, 2));
    let read = image::load_from_memory(written.get_encoded_image_string()).unwrap();
    assert_eq!(read.to_rgb8(), image);
}

#[test]
fn a_histogram_is_of_all_tensors_and_skipped_if_nothing_is_finite() {
    let dir = tempfile::tempdir().unwrap();
    let mut board = TensorBoard::create(dir.path(), silent()).unwrap();
    let tensors = [Tensor::from_slice(&[1.0f32, f32::NAN]), Tensor::from(3.0)];
    board.histogram("weights/head", 5, &tensors);
    board.histogram("gradients/head", 5, &[Tensor::from(f64::NAN)]);
    assert!(board.is_on());
    drop(board);
    let events = events(&fs::read(&event_files(dir.path())[0]).unwrap());
    assert_eq!(events.len(), 2);
    let value = &events[1].get_summary().get_value()[0];
    let histogram = value.get_histo();
    assert_eq!((value.get_tag(), events[1].get_step()), ("weights/head", 5));
    assert_eq!((histogram.get_min(), histogram.get_max()), (1.0, 3.0));
    assert_eq!((histogram.get_num(), histogram.get_sum()), (2.0, 4.0));
    assert_eq!(histogram.get_bucket().len(), 64);
    assert_eq!(histogram.get_bucket_limit()[63], 3.0);
}

#[test]
fn hyperparameters_and_the_end_are_in_the_metadata_of_two_summaries() {
    let dir = tempfile::tempdir().unwrap();
    let mut board = TensorBoard::create(dir.path(), silent()).unwrap();
    let hparams = [
        ("train.lr".to_string(), 0.5.into()),
        ("train.loss".to_string(), "mse".into()),
        ("train.nesterov".to_string(), true.into()),
    ];
    board.session_start(&hparams);
    board.session_end(9);
    drop(board);
    let events = events(&fs::read(&event_files(dir.path())[0]).unwrap());
    let data: Vec<(String, HParamsPluginData)> = events[1..]
        .iter()
        .map(|event| {
            let value = &event.get_summary().get_value()[0];
            let plugin = value.get_metadata().get_plugin_data();
            assert_eq!(plugin.get_plugin_name(), "hparams");
            let content = HParamsPluginData::parse_from_bytes(plugin.get_content()).unwrap();
            (value.get_tag().to_string(), content)
        })
        .collect();
    let tags: Vec<&str> = data.iter().map(|(tag, _)| tag.as_str()).collect();
    assert_eq!(
        tags,
        ["session_start_info", "session_end_info"].map(|name| format!("_hparams_/{name}"))
    );
    let values = data[0].1.get_session_start_info().get_hparams();
    assert_eq!(values["train.lr"].get_number_value(), 0.5);
    assert_eq!(values["train.loss"].get_string_value(), "mse");
    assert!(values["train.nesterov"].get_bool_value());
    let end = data[1].1.get_session_end_info();
    assert_eq!(end.get_status(), Status::STATUS_SUCCESS);
    assert_eq!(events[2].get_step(), 9);
}

#[test]
fn a_second_start_in_a_folder_adds_a_file_and_keeps_the_first() {
    let dir = tempfile::tempdir().unwrap();
    TensorBoard::create(dir.path(), silent()).unwrap().scalar("a", 1, 1.0);
    let first = event_files(dir.path()).remove(0);
    let bytes = fs::read(&first).unwrap();
    TensorBoard::create(dir.path(), silent()).unwrap().scalar("a", 2, 2.0);
    assert_eq!(event_files(dir.path()).len(), 2);
    assert_eq!(fs::read(&first).unwrap(), bytes);
    assert!(event_files(dir.path())[1] > first);
}

/// Returns a list of warnings, and the callback that fills it.
fn collected() -> (Rc<RefCell<Vec<String>>>, Warn) {
    let warnings = Rc::new(RefCell::new(Vec::new()));
    let list = Rc::clone(&warnings);
    let warn = move |text: &str| list.borrow_mut().push(text.to_string());
    (warnings, Rc::new(warn))
}

#[test]
fn a_folder_that_cannot_be_created_is_an_error_or_one_warning() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let folder = file.join("tensorboard");
    let error = TensorBoard::create(&folder, silent()).err().unwrap();
    assert!(format!("{error:#}").contains("tensorboard"), "{error:#}");

    let (warnings, warn) = collected();
    let mut board = TensorBoard::create_or_warn(&folder, warn);
    assert!(!board.is_on());
    board.scalar("a", 1, 1.0);
    board.image("b", 1, &RgbImage::new(1, 1));
    board.histogram("c", 1, &[Tensor::from(1.0)]);
    board.session_start(&[]);
    board.flush();
    let warnings = warnings.borrow();
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].contains("training continues"), "{warnings:?}");
    assert!(warnings[0].contains("file/tensorboard"), "{warnings:?}");
}

/// A disk that is full after `room` bytes; counts the refused writes.
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
fn a_full_disk_turns_writing_off_for_good() {
    let refused = Arc::new(Mutex::new(0));
    let disk = SmallDisk { room: 100, refused: Arc::clone(&refused) };
    let (warnings, warn) = collected();
    let mut board = TensorBoard::over(Box::new(disk), "events".into(), warn);
    for step in 0..50 {
        board.scalar("loss", step, 1.0);
        board.histogram("weights", step, &[Tensor::from(1.0)]);
        board.flush();
    }
    assert!(!board.is_on());
    assert_eq!(*refused.lock().unwrap(), 1);
    assert_eq!(warnings.borrow().len(), 1);
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_device_does_not_stop_training() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let (warnings, warn) = collected();
    let mut board = TensorBoard::over(Box::new(BufWriter::new(full)), "/dev/full".into(), warn);
    board.scalar("loss", 1, 1.0);
    board.flush();
    assert!(!board.is_on());
    assert_eq!(warnings.borrow().len(), 1);
}
