//! Tests that run the program, `vmbeauty`, as a user does.

mod branches;
mod commands;
mod completions;
mod config;
mod damage;
mod data;
mod devices;
#[cfg(feature = "distributed")]
mod distributed;
mod examples;
mod explain;
mod explain_faces;
mod faces;
mod frozen;
#[path = "../gpu/mod.rs"]
mod gpu;
mod hub;
mod images;
mod init;
#[cfg(unix)]
mod interrupted;
mod mistakes;
mod model_card;
mod observe;
mod out_of_distribution;
mod paper;
mod precision;
mod predict;
mod pretrain;
mod probe;
mod readme;
mod recipe;
mod report;
mod resumed;
mod runs;
mod sandbox;
#[cfg(target_os = "linux")]
mod spinning;
mod sweep;
#[cfg(not(feature = "distributed"))]
mod without_distributed;
mod wrong_config;
