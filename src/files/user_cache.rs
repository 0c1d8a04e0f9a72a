//! The user's cache folder, and what the set-up fetches.

use std::env;
use std::path::PathBuf;

/// Returns `XDG_CACHE_HOME`, or else `.cache` in the home folder.
pub fn user_cache() -> Option<PathBuf> {
    let folder = |variable| env::var_os(variable).filter(|value| !value.is_empty());
    folder("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(folder("HOME")?).join(".cache")))
}

/// Returns where a folder is that scripts/setup.py fetches: next to a packed program, or else in
/// the set-up's cache, whether it is there or not. `None` without a home folder.
pub fn fetched_folder(name: &str) -> Option<PathBuf> {
    let program = env::current_exe().and_then(|program| program.canonicalize()).ok();
    let prefix = program.as_deref().and_then(|program| program.parent()?.parent());
    let packed = prefix.map(|prefix| prefix.join("share").join(name));
    packed.filter(|folder| folder.is_dir()).or_else(|| {
        let named = env::var_os("VMB_CACHE_DIR").filter(|folder| !folder.is_empty());
        let cache = named.map(PathBuf::from).or_else(|| Some(user_cache()?.join("vm-beautynet")));
        Some(cache?.join(name))
    })
}
