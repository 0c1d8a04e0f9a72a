//! Summaries of TensorBoard's hparams plugin, whose HPARAMS tab compares runs.

use std::collections::HashMap;

use protobuf::well_known_types::Value;
use protobuf::{Message, ProtobufResult, RepeatedField};
use tensorboard_proto::api::{DataType as HparamType, Experiment, HParamInfo, MetricInfo};
use tensorboard_proto::api::{MetricName, Status};
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
    fn kind(&self) -> HparamType {
        match self {
            Self::Bool(_) => HparamType::DATA_TYPE_BOOL,
            Self::Number(_) => HparamType::DATA_TYPE_FLOAT64,
            Self::Text(_) => HparamType::DATA_TYPE_STRING,
        }
    }

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

/// What is compared: the hyperparameters by name, and the curves whose last point counts, by tag and title. TensorBoard takes that of
/// any one run, so all runs of a program should say the same.
pub(super) fn experiment(
    hparams: &[(String, Hparam)],
    metrics: &[(String, String)],
) -> ProtobufResult<Summary> {
    // No domains: TensorBoard would hide runs whose value is not in that of the one run that it looks at.
    let infos = hparams.iter().map(|(name, value)| {
        let mut info = HParamInfo::new();
        info.set_name(name.clone());
        info.set_field_type(value.kind());
        info
    });
    let metrics = metrics.iter().map(|(tag, title)| {
        let mut name = MetricName::new();
        name.set_tag(tag.clone());
        let mut info = MetricInfo::new();
        info.set_name(name);
        info.set_display_name(title.clone());
        info
    });
    let mut experiment = Experiment::new();
    experiment.set_time_created_secs(wall_time());
    experiment.set_hparam_infos(infos.collect());
    experiment.set_metric_infos(metrics.collect());
    let mut data = HParamsPluginData::new();
    data.set_experiment(experiment);
    summary("experiment", &data)
}

/// The run begins. Without a group's name, every run is a row of its own.
pub(super) fn session_start(hparams: &[(String, Hparam)]) -> ProtobufResult<Summary> {
    let values = hparams
        .iter()
        .map(|(name, value)| (name.clone(), value.value()));
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
