//! Summaries of TensorBoard's hparams plugin, whose HPARAMS tab compares runs.
//!
//! No experiment summary is written, which would list the hyperparameters and the metrics:
//! TensorBoard applies one run's experiment summary to all runs, although it cannot state what
//! differs between them. Without it, TensorBoard reads all runs, shows first what differs, and
//! offers the last point of every curve as a metric.

use std::collections::HashMap;

use protobuf::well_known_types::Value;
use protobuf::{Message, ProtobufResult};
use tensorboard_proto::api::Status;
use tensorboard_proto::plugin_hparams::{HParamsPluginData, SessionEndInfo, SessionStartInfo};
use tensorboard_proto::summary::Summary;
use tensorboard_proto::types::DataType;

use super::{metadata_of, summary_of, vector, wall_time};
use crate::config::plain_text;

/// Converts a config's value: a bool and a number stay one, any other value becomes text.
fn proto_value(value: &serde_yaml::Value) -> Value {
    let mut proto = Value::new();
    match (value.as_bool(), value.as_f64()) {
        (Some(yes), _) => proto.set_bool_value(yes),
        (_, Some(number)) => proto.set_number_value(number),
        _ => proto.set_string_value(plain_text(value)),
    }
    proto
}

/// Returns the summary of the start of a run. Without a group name, every run has its own row.
pub(super) fn session_start(hparams: &[(String, serde_yaml::Value)]) -> ProtobufResult<Summary> {
    let values = hparams.iter().map(|(name, value)| (name.clone(), proto_value(value)));
    let mut start = SessionStartInfo::new();
    start.set_hparams(values.collect::<HashMap<_, _>>());
    start.set_start_time_secs(wall_time());
    let mut data = HParamsPluginData::new();
    data.set_session_start_info(start);
    summary("session_start_info", &data)
}

/// Returns the summary of the end of a run.
pub(super) fn session_end() -> ProtobufResult<Summary> {
    let mut end = SessionEndInfo::new();
    end.set_status(Status::STATUS_SUCCESS);
    end.set_end_time_secs(wall_time());
    let mut data = HParamsPluginData::new();
    data.set_session_end_info(end);
    summary("session_end_info", &data)
}

/// Returns a summary whose metadata hold the data; its value is an empty float32 tensor.
fn summary(name: &str, data: &HParamsPluginData) -> ProtobufResult<Summary> {
    let metadata = metadata_of("hparams", data.write_to_bytes()?);
    Ok(summary_of(&format!("_hparams_/{name}"), |value| {
        value.set_metadata(metadata);
        value.set_tensor(vector(DataType::DT_FLOAT, 0));
    }))
}
