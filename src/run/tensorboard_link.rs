//! Links that give runs plain names in TensorBoard.

use std::fs;
use std::path::Path;

use super::directory::RunDir;

/// Links TensorBoard's event files of the run in `root` from the folder `tensorboard/` in `above`,
/// a folder that holds the run: TensorBoard names a run by its path, which would end in
/// `/tensorboard`, and in that folder it is the run's name alone. Does nothing where there is such
/// a link already, or the file system has no links: only names depend on them.
pub fn link_tensorboard(above: &Path, root: &Path) {
    let links = RunDir::tensorboard_in(above);
    let (Ok(below), Some(name)) = (root.strip_prefix(above), root.file_name()) else { return };
    // A run may be called tensorboard.
    if RunDir::holds_run(&links) || fs::create_dir_all(&links).is_err() {
        return;
    }
    let target = RunDir::tensorboard_in(&Path::new("..").join(below));
    #[cfg(unix)]
    let _ = std::os::unix::fs::symlink(target, links.join(name));
    #[cfg(windows)]
    let _ = std::os::windows::fs::symlink_dir(target, links.join(name));
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_link_has_the_runs_name_and_moves_with_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        let sweep = dir.path().join("sweep");
        let events = sweep.join("runs/lr=0.1,seed=1/tensorboard");
        fs::create_dir_all(&events).unwrap();
        fs::write(events.join("events.out.tfevents.1"), "").unwrap();
        for _ in 0..2 {
            link_tensorboard(&sweep, &sweep.join("runs/lr=0.1,seed=1"));
        }
        let moved = dir.path().join("moved");
        fs::rename(&sweep, &moved).unwrap();
        assert!(moved.join("tensorboard/lr=0.1,seed=1/events.out.tfevents.1").exists());
        assert_eq!(fs::read_dir(moved.join("tensorboard")).unwrap().count(), 1);
    }

    #[test]
    fn a_run_that_is_called_tensorboard_gets_no_links() {
        let dir = tempfile::tempdir().unwrap();
        let named = dir.path().join("tensorboard");
        fs::create_dir_all(&named).unwrap();
        fs::write(named.join("config.yaml"), "").unwrap();
        link_tensorboard(dir.path(), &dir.path().join("other"));
        assert_eq!(fs::read_dir(&named).unwrap().count(), 1);
    }
}
