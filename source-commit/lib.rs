//! The commit of the source tree that the program is built from.
//!
//! It is a package of its own because its build script runs whenever the tree's commit or a source
//! file changes: that of the program would compile the C++ anew each time.

/// The commit, which ends in `-dirty` if sources had changed; `None` without a git repository, as
/// in an unpacked archive.
pub const COMMIT: Option<&str> = option_env!("VMB_SOURCE_COMMIT");
