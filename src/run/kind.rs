//! The kinds of run directories.

use std::path::{Path, PathBuf};

/// The resolved config of a run.
pub const CONFIG_FILE: &str = "config.yaml";
/// The resolved config of a pretraining.
const PRETRAIN_CONFIG_FILE: &str = "pretrain.yaml";

/// The subcommand that writes a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunKind {
    /// `vmbeauty train`.
    Train,
    /// `vmbeauty pretrain`.
    Pretrain,
}

impl RunKind {
    /// Returns the name of the subcommand.
    pub fn command(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Pretrain => "pretrain",
        }
    }

    pub(super) fn noun(self) -> &'static str {
        match self {
            Self::Train => "run",
            Self::Pretrain => "pretraining",
        }
    }

    /// Returns the path of the resolved config in a folder.
    pub fn config_in(self, root: &Path) -> PathBuf {
        root.join(self.config_file())
    }

    pub(super) fn config_file(self) -> &'static str {
        match self {
            Self::Train => CONFIG_FILE,
            Self::Pretrain => PRETRAIN_CONFIG_FILE,
        }
    }
}
