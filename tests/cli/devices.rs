//! Which device computes, and what is said of it.

use serde_json::Value;
use vm_beautynet::ops::Path;
use vm_beautynet::ops::gpu::architectures;

use crate::sandbox::Sandbox;
use crate::sandbox::run::train_arguments;

/// Whether this build has CUDA; its sandboxes see no GPU.
fn has_cuda() -> bool {
    !architectures().is_empty()
}

#[test]
fn training_says_first_which_device_precision_and_kernels_compute() {
    let sandbox = Sandbox::new();
    let one = ["train.epochs=1", "train.precision=bf16"];
    let output = sandbox.run(&train_arguments("run", &one));
    let lines = String::from_utf8(output.stderr).unwrap();
    let best = Path::best();
    let first = format!("device cpu (1 thread), bf16, selective scan: {best}");
    assert_eq!(lines.lines().next(), Some(first.as_str()), "{lines}");
    // CUDA_VISIBLE_DEVICES hides GPUs from a sandbox, so that their absence is not worth a warning.
    assert!(!lines.contains("GPU"), "{lines}");

    let json = [&train_arguments("json", &one)[..], &["--log-format", "json"]].concat();
    let lines = String::from_utf8(sandbox.run(&json).stderr).unwrap();
    let start: Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    assert_eq!(start["event"], "start");
    for (key, value) in [("device", "cpu"), ("precision", "bf16"), ("selective_scan", &best)] {
        assert_eq!(start[key], value, "{key}");
    }
    assert_eq!((&start["threads"], &start["gpu"]), (&1.into(), &Value::Null));
}

#[test]
fn a_gpu_that_is_not_there_is_refused_in_one_line_with_the_remedy() {
    let sandbox = Sandbox::new();
    let remedy = if has_cuda() {
        "error: device: cuda:0: no GPU found (CUDA: "
    } else {
        "error: device: cuda:0 needs a build with CUDA, and this one is for the CPU: run `make cuda`"
    };
    let set = train_arguments("run", &["device=cuda"]);
    for arguments in [&set[..], &["benchmark", "scan", "--device", "cuda"]] {
        let (code, errors) = sandbox.fails(arguments);
        assert_eq!((code, errors.lines().count()), (1, 1), "{errors}");
        assert!(errors.starts_with(remedy), "{errors}");
    }
    assert!(!sandbox.path("run").exists());
}

#[test]
fn doctor_reports_devices_and_kernels_and_tests_every_type() {
    let sandbox = Sandbox::new();
    let doctor = sandbox.json(&["doctor", "--json"]);
    assert_eq!((&doctor["passed"], &doctor["tf32"]), (&true.into(), &false.into()));
    assert!(doctor["libtorch"].as_str().unwrap().starts_with("2."));
    assert_eq!(doctor["gpus"].as_array().map(Vec::len), Some(0));
    assert_eq!(doctor["cuda"].is_null(), !has_cuda());
    let checks = doctor["checks"].as_array().unwrap();
    for dtype in ["float32", "bf16", "fp16"] {
        let tested = checks.iter().filter(|check| check["dtype"] == dtype).count();
        assert_eq!(tested, checks.len() / 3, "{dtype}");
    }
    let text = sandbox.done(&["doctor"]);
    let cuda: Vec<String> = architectures().iter().map(|arch| format!("sm_{arch}")).collect();
    let cuda = if has_cuda() { cuda.join(", ") } else { "none".to_string() };
    let kernels = format!("CPU: {}; CUDA kernels: {cuda}\n", Path::best());
    for part in [kernels.as_str(), "no GPU found", "all kernels passed"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
}
