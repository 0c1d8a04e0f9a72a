//! TensorBoard's event files, read again.

use std::fs;
use std::path::Path;

use protobuf::Message;
use tensorboard_proto::event::Event;
use tensorboard_proto::summary::Summary_Value;

/// All events of a run directory, file by file in their order.
pub(crate) fn events(run: &Path) -> Vec<Event> {
    let entries = fs::read_dir(run.join("tensorboard")).unwrap();
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut events = Vec::new();
    for file in files {
        let bytes = fs::read(file).unwrap();
        let mut rest = &bytes[..];
        // Length, its checksum, the event, its checksum.
        while let Some((length, tail)) = rest.split_first_chunk::<8>() {
            let size = u64::from_le_bytes(*length) as usize;
            events.push(Event::parse_from_bytes(&tail[4..4 + size]).unwrap());
            rest = &tail[4 + size + 4..];
        }
    }
    events
}

/// The values under a tag, each with its step.
pub(crate) fn values(events: &[Event], tag: &str) -> Vec<(i64, Summary_Value)> {
    let all = events.iter().flat_map(|event| {
        let values = event.get_summary().get_value().iter();
        values.map(|value| (event.get_step(), value.clone()))
    });
    all.filter(|(_, value)| value.get_tag() == tag).collect()
}
