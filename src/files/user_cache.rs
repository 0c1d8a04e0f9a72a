//! The user's cache folder.

use std::env;
use std::path::PathBuf;

/// Returns `XDG_CACHE_HOME`, or else `.cache` in the home folder.
pub fn user_cache() -> Option<PathBuf> {
    let folder = |variable| env::var_os(variable).filter(|value| !value.is_empty());
    folder("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(folder("HOME")?).join(".cache")))
}
