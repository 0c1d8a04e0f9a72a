//! The two branches of the network.

use super::names::names;

names! {
    /// A branch of the network, by its key in the config, in file names and in the names of the
    /// parameters. Each has one architecture.
    pub enum Branch {
        /// Vision Transformer.
        Vit = "vit",
        /// Vision Mamba.
        Mamba = "mamba",
    }
}

impl Branch {
    /// Returns the name for tables and figures.
    pub fn title(self) -> &'static str {
        match self {
            Self::Vit => "ViT",
            Self::Mamba => "Mamba",
        }
    }
}
