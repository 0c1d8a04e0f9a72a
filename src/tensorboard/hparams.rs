//! Summaries of TensorBoard's hparams plugin, whose HPARAMS tab compares runs.
//!
//! There is none of the experiment, which would list hyperparameters and metrics: TensorBoard takes
//! that of any one run for all, and cannot know from it what differs between them. Without it,
//! TensorBoard looks at all runs, shows what differs first, and offers every curve's last point as
//! a metric.

use std::collections::HashMap;

use protobuf::well_known_types::Value;
use protobuf::{Message, ProtobufResult, RepeatedField};
use tensorboard_proto::api::Status;
use tensorboard_proto::plugin_hparams::{HParamsPluginData, SessionEndInfo, SessionStartInfo};
use tensorboard_proto::summary::Summary;
use tensorboard_proto::tensor::TensorProto;
use tensorboard_proto::tensor_shape::{TensorShapeProto, TensorShapeProto_Dim};
use tensorboard_proto::types::DataType;

use super::{metadata_of, summary_of, wall_time};

/// A hyperparameter's value.
#[derive(Debug, Clone, PartialEq)]
pub enum Hparam {
    /// Yes or no.
    Bool(bool),
    /// Of any kind of number.
    Number(f64),
    /// Of anything else.
    Text(String),
}

impl Hparam {
    fn value(&self) -> Value {
        let mut value = Value::new();
        match self {
            Self::Bool(yes) => value.set_bool_value(*yes),
            Self::Number(number) => value.set_number_value(*number),
            Self::Text(text) => value.set_string_value(text.clone()),
        }
        value
    }
}

/// The run begins. Without a group's name, every run is a row of its own.
pub(super) fn session_start(hparams: &[(String, Hparam)]) -> ProtobufResult<Summary> {
    let values = hparams.iter().map(|(name, value)| (name.clone(), value.value()));
    let mut start = SessionStartInfo::new();
    start.set_hparams(values.collect::<HashMap<_, _>>());
    start.set_start_time_secs(wall_time());
    let mut data = HParamsPluginData::new();
    data.set_session_start_info(start);
    summary("session_start_info", &data)
}

/// The run has come to its end.
pub(super) fn session_end() -> ProtobufResult<Summary> {
    let mut end = SessionEndInfo::new();
    end.set_status(Status::STATUS_SUCCESS);
    end.set_end_time_secs(wall_time());
    let mut data = HParamsPluginData::new();
    data.set_session_end_info(end);
    summary("session_end_info", &data)
}

/// What counts is in the metadata; the value is a float32 tensor without items.
fn summary(name: &str, data: &HParamsPluginData) -> ProtobufResult<Summary> {
    let mut shape = TensorShapeProto::new();
    shape.set_dim(RepeatedField::from_vec(vec![TensorShapeProto_Dim::new()]));
    let mut nothing = TensorProto::new();
    nothing.set_dtype(DataType::DT_FLOAT);
    nothing.set_tensor_shape(shape);
    let metadata = metadata_of("hparams", data.write_to_bytes()?);
    Ok(summary_of(&format!("_hparams_/{name}"), |value| {
        value.set_metadata(metadata);
        value.set_tensor(nothing);
    }))
}
