//! Tests of launching runs, and the runs and searches that other tests share.

use super::*;
use crate::config::Config;
use crate::sweep::SearchConfig;
use crate::sweep::search::MedianStopConfig;

pub(in super::super) fn search(config: &SearchConfig, runs: &[SweepRun]) -> Search {
    Search::new(config, runs.iter().map(|run| &run.config), &mut |_, _| ())
}

pub(in super::super) fn median_stop(margin: Option<f64>) -> SearchConfig {
    let median_stop = MedianStopConfig { margin, min_epochs: 1 };
    SearchConfig { median_stop, ..SearchConfig::default() }
}

fn launch(program: &Path, root: &Path) -> Launch {
    Launch {
        program: program.to_path_buf(),
        root: root.to_path_buf(),
        jobs: 1,
        retry_failed: false,
        stop: Stop::default(),
        command: "vmbeauty sweep".to_string(),
    }
}

pub(in super::super) fn runs(names: &[&str]) -> Vec<SweepRun> {
    let config = Config::from_yaml("seed: 1\n", "test", &[]).unwrap();
    let named = |name: &&str| SweepRun {
        name: name.to_string(),
        point: name.to_string(),
        values: Vec::new(),
        config: config.clone(),
        fold: None,
    };
    names.iter().map(named).collect()
}

#[test]
fn a_sweep_is_stopped_only_if_a_run_is_left_and_a_run_is_claimed_until_its_end_is_written() {
    for (names, stopped) in [(&["a"][..], false), (&["a", "b"], true)] {
        let dir = tempfile::tempdir().unwrap();
        let launch = launch("false".as_ref(), dir.path());
        let runs = runs(names);
        let search = search(&SearchConfig::default(), &runs);
        let ended = launch.run(&runs.iter().collect::<Vec<_>>(), &search, &|event| {
            if let Event::Failed(run, failure) = event {
                assert_eq!(failure.code, Some(1));
                let folder = run.folder(dir.path());
                assert!(Failure::exists(&folder));
                let log = File::open(folder.join(LOG_FILE)).unwrap();
                assert!(matches!(log.try_lock(), Err(TryLockError::WouldBlock)));
                launch.stop.request();
            }
        });
        assert_eq!(ended.is_err_and(|error| error.is::<Stopped>()), stopped, "{names:?}");
        assert!(!runs[names.len() - 1].folder(dir.path()).exists() || !stopped);
        if !stopped {
            // All of it has ended before the request: its results can be collected again.
            launch.run(&runs.iter().collect::<Vec<_>>(), &search, &|_| ()).unwrap();
        }
    }
}

#[cfg(unix)]
#[test]
fn the_error_of_a_retried_run_is_none_of_an_earlier_attempt() {
    let dir = tempfile::tempdir().unwrap();
    let program = script(
        dir.path(),
        "test -e $4/again && kill -9 $$\ntouch $4/again\necho error: the first\nexit 1\n",
    );
    let runs = runs(&["a"]);
    let search = search(&SearchConfig::default(), &runs);
    let launch = Launch { retry_failed: true, ..launch(&program, dir.path()) };
    for words in ["the first", "it ended without an error message: signal: 9"] {
        let errors = Mutex::new(Vec::new());
        let on_event = |event: Event| {
            if let Event::Failed(_, failure) = event {
                errors.lock().unwrap().push(failure.error.clone());
            }
        };
        launch.run(&[&runs[0]], &search, &on_event).unwrap();
        let errors = errors.into_inner().unwrap();
        assert!(errors.len() == 1 && errors[0].starts_with(words), "{errors:?}");
    }
}

/// Writes a program for the shell. Its fourth argument is the run's folder.
#[cfg(unix)]
fn script(folder: &Path, text: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let program = folder.join("program");
    fs::write(&program, format!("#!/bin/sh\n{text}")).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    program
}

#[cfg(unix)]
#[test]
fn a_run_whose_metrics_cannot_be_compared_is_stopped_and_ends_before_the_sweep() {
    let dir = tempfile::tempdir().unwrap();
    let program = script(
        dir.path(),
        "echo no metrics > $4/metrics.jsonl\nhead -c 1 > $4/request\nsleep 0.2\n\
         touch $4/ended\nexec false\n",
    );
    let runs = runs(&["a"]);
    let search = search(&median_stop(Some(0.1)), &runs);
    let launch = launch(&program, dir.path());
    let error = launch.run(&[&runs[0]], &search, &|_| ()).unwrap_err();
    assert!(format!("{error:#}").contains("metrics.jsonl:1: not an epoch's"), "{error:#}");
    let folder = runs[0].folder(dir.path());
    assert_eq!(fs::read(folder.join("request")).unwrap(), [Request::Stop as u8]);
    assert!(folder.join("ended").exists());
}
