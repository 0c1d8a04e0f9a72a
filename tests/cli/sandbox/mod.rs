//! A place to run the program in.

pub(crate) mod events;
pub(crate) mod run;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use image::{Rgb, RgbImage};
use serde_json::Value;
use tempfile::TempDir;

use self::run::train_arguments;
use crate::gpu::gpu;

/// A model and dataset that train in a second or two.
pub(crate) const SMALL: &str = concat!("\n", include_str!("../../fixtures/small.yaml"));

/// A temporary directory with `small.yaml` in it, which the program runs in, on the CPU unless it
/// is a sandbox with a GPU.
pub(crate) struct Sandbox {
    folder: TempDir,
    gpu: bool,
}

impl Sandbox {
    pub(crate) fn new() -> Self {
        let sandbox = Self { folder: tempfile::tempdir().unwrap(), gpu: false };
        fs::write(sandbox.path("small.yaml"), SMALL).unwrap();
        sandbox
    }

    /// A sandbox whose program trains on the first GPU, in float32 and reproducibly; `None` where
    /// the test is skipped.
    pub(crate) fn on_a_gpu() -> Option<Self> {
        gpu()?;
        let sandbox = Self { gpu: true, ..Self::new() };
        let train = "train: {deterministic: true, epochs";
        let small = format!("device: cuda{}", SMALL.replace("train: {epochs", train));
        assert!(small.contains(train));
        fs::write(sandbox.path("small.yaml"), small).unwrap();
        Some(sandbox)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Saves an image of 50 x 40 pixels, another one for each shade; makes its folder.
    pub(crate) fn image(&self, name: &str, shade: u8) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let pixel = |x: u32, y: u32| Rgb([x as u8 * 5, y as u8 * 6, shade]);
        RgbImage::from_fn(50, 40, pixel).save(path).unwrap();
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vmbeauty"));
        command.args(arguments).current_dir(self.folder.path());
        command.env("XDG_CACHE_HOME", self.path(".cache")).env_remove("VMB_CACHE_DIR");
        if !self.gpu {
            command.env("CUDA_VISIBLE_DEVICES", "");
        }
        command
    }

    /// Runs the program in a terminal of this size, by `script`; `None` without it, where the test
    /// reports that and is skipped.
    #[cfg(target_os = "linux")]
    pub(crate) fn run_in_terminal(&self, columns: usize, arguments: &str) -> Option<Output> {
        let program = self.command(&[]);
        let program = program.get_program().display();
        let line = format!("stty cols {columns} rows 24; {program} {arguments}");
        let output = Command::new("script")
            .args(["--quiet", "--return", "--command", &line, "/dev/null"])
            .current_dir(self.path("."))
            .stdin(Stdio::null())
            .env("TERM", "xterm")
            .output();
        if output.is_err() {
            eprintln!("not tested: there is no `script`");
        }
        output.ok()
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// stdout and stderr of a run that must succeed.
    pub(crate) fn succeeds(&self, arguments: &[&str]) -> [String; 2] {
        let output = self.run(arguments);
        let [text, errors] =
            [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        assert!(output.status.success(), "vmbeauty {arguments:?}: {errors}");
        [text, errors]
    }

    /// stdout of a run that must succeed.
    pub(crate) fn done(&self, arguments: &[&str]) -> String {
        let [text, _] = self.succeeds(arguments);
        text
    }

    /// stderr of a run that must succeed.
    pub(crate) fn log(&self, arguments: &[&str]) -> String {
        let [_, errors] = self.succeeds(arguments);
        errors
    }

    /// Trains `small.yaml` in the folder `run`, with these keys set; returns stdout.
    pub(crate) fn train(&self, run: &str, set: &[&str]) -> String {
        self.done(&train_arguments(run, set))
    }

    /// A run directory with everything in it, as soon as can be.
    pub(crate) fn train_one_epoch(&self, run: &str) {
        self.train(run, &["train.epochs=1"]);
    }

    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.done(arguments)).unwrap()
    }

    /// The content of a file in JSON.
    pub(crate) fn read_json(&self, name: &str) -> Value {
        serde_json::from_slice(&fs::read(self.path(name)).unwrap()).unwrap()
    }

    /// The exit code and stderr of a run that must fail.
    pub(crate) fn fails(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.run(arguments);
        assert!(!output.status.success(), "vmbeauty {arguments:?} did not fail");
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(!errors.contains("panicked"), "{errors}");
        (output.status.code().unwrap(), errors)
    }
}
