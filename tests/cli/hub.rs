//! Weights by their name on the Hugging Face hub, from a server on this machine.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use tch::{Device, Kind, Tensor};
use vm_beautynet::config::{Branch, Config};
use vm_beautynet::models::BeautyNet;
use vm_beautynet::models::weights::{save, sha256};

use crate::sandbox::{SMALL, Sandbox};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const NOWHERE: &str = "http://127.0.0.1:1";

/// What is wrong with a server.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    None,
    /// It wants a token.
    Private,
    /// It sends half of each file.
    Truncated,
    /// It sends another byte than the file has.
    Damaged,
    /// It sends the file at once, without the hub's headers.
    Foreign,
    /// It never answers.
    Silent,
}

/// A server that answers as the hub does: with a redirection to where the file is.
struct Hub {
    endpoint: String,
    /// The paths that were asked for, with the ranges.
    asked: Arc<Mutex<Vec<String>>>,
}

impl Hub {
    /// Serves files under their paths in the repository `org/tiny`.
    fn new(fault: Fault, files: &[(&str, &[u8])]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let files: HashMap<String, Vec<u8>> =
            files.iter().map(|(name, bytes)| (name.to_string(), bytes.to_vec())).collect();
        let (own, log) = (endpoint.clone(), Arc::clone(&asked));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (own, log, files) = (own.clone(), Arc::clone(&log), files.clone());
                thread::spawn(move || answer(stream.unwrap(), fault, &own, &files, &log));
            }
        });
        Self { endpoint, asked }
    }

    /// Returns how often the content of a file was asked for.
    fn downloads(&self, name: &str) -> usize {
        let start = format!("/cdn/{name} bytes=");
        let asked = self.asked.lock().unwrap();
        let content = asked.iter().filter(|line| line.starts_with(&start));
        content.filter(|line| !line.ends_with("=0-0")).count()
    }
}

fn answer(
    stream: TcpStream,
    fault: Fault,
    endpoint: &str,
    files: &HashMap<String, Vec<u8>>,
    asked: &Mutex<Vec<String>>,
) {
    let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
    let Some(first) = lines.next() else { return };
    let path = first.split(' ').nth(1).unwrap().to_string();
    let head: Vec<String> =
        lines.take_while(|line| !line.is_empty()).map(|line| line.to_lowercase()).collect();
    let header = |name: &str| head.iter().find_map(|line| line.strip_prefix(name));
    let range = header("range: bytes=").unwrap_or("0-").to_string();
    asked.lock().unwrap().push(format!("{path} bytes={range}"));
    let send = |status: &str, headers: &str, body: &[u8]| {
        let length = body.len();
        let sent = if fault == Fault::Truncated && length > 1 { &body[..length / 2] } else { body };
        let head = format!(
            "HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n"
        );
        let _ = (&stream).write_all(head.as_bytes()).and_then(|()| (&stream).write_all(sent));
    };
    if fault == Fault::Silent {
        return thread::sleep(Duration::from_secs(60));
    }
    if fault == Fault::Private && header("authorization: ") != Some("bearer secret") {
        return send("401 Unauthorized", "", b"");
    }
    let start = "/org/tiny/resolve/main/";
    let name = path.strip_prefix(start).or_else(|| path.strip_prefix("/cdn/")).unwrap_or("");
    let Some(bytes) = files.get(name) else {
        return send("404 Not Found", "X-Error-Code: EntryNotFound\r\n", b"");
    };
    if path.starts_with(start) && fault != Fault::Foreign {
        let hash = hash(bytes);
        let headers = format!(
            "Location: {endpoint}/cdn/{name}\r\nX-Repo-Commit: {COMMIT}\r\n\
             X-Linked-Etag: \"{hash}\"\r\n"
        );
        return send("302 Found", &headers, b"");
    }
    let mut bytes = bytes.clone();
    if fault == Fault::Damaged {
        *bytes.last_mut().unwrap() ^= 1;
    }
    let (from, to) = range.split_once('-').unwrap();
    let from: usize = from.parse().unwrap();
    let to = to.parse().unwrap_or(bytes.len() - 1);
    let headers = format!("Content-Range: bytes {from}-{to}/{}\r\n", bytes.len());
    send("206 Partial Content", &headers, &bytes[from..=to]);
}

fn hash(bytes: &[u8]) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), bytes).unwrap();
    sha256(file.path()).unwrap()
}

/// Returns the content of a weights file for the ViT of `small.yaml`, and writes it to `vit.safetensors`.
fn weights(sandbox: &Sandbox) -> Vec<u8> {
    let config = Config::from_yaml(SMALL, "small.yaml", &[]).unwrap();
    let net = BeautyNet::new(&config, Device::Cpu).unwrap();
    let path = sandbox.path("vit.safetensors");
    save(&path, &net.branch_parameters(Branch::Vit), HashMap::new()).unwrap();
    let input = [("input", Tensor::zeros([1, 3, 32, 32], (Kind::Float, Device::Cpu)))];
    Tensor::write_safetensors(&input, sandbox.path("input.safetensors")).unwrap();
    fs::read(path).unwrap()
}

/// Returns a command in which only the test's variables of the hub are set.
fn command(sandbox: &Sandbox, endpoint: &str, arguments: &[&str]) -> Command {
    let mut command = sandbox.command(arguments);
    let proxies = ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "HF_HUB_CACHE"];
    for name in ["HF_TOKEN", "HF_TOKEN_PATH", "HF_HUB_OFFLINE"].into_iter().chain(proxies) {
        command.env_remove(name);
    }
    // A slash at its end is not doubled.
    command.env("HF_HOME", sandbox.path("hf")).env("HF_ENDPOINT", format!("{endpoint}/"));
    command
}

/// Returns the command that computes features with the weights of this name.
fn features(sandbox: &Sandbox, endpoint: &str, weights: &str) -> Command {
    let set = format!("model.vit.weights={weights}");
    let arguments = ["features", "small.yaml", "--set", &set, "--input-tensor"];
    let files = ["input.safetensors", "--output", "features.safetensors"];
    command(sandbox, endpoint, &[&arguments[..], &files].concat())
}

/// Returns stderr, and whether the command succeeded; a failure has the exit code 1 and one line.
fn outcome(output: Output) -> (bool, String) {
    let errors = String::from_utf8(output.stderr).unwrap();
    if !output.status.success() {
        assert_eq!(output.status.code(), Some(1), "{errors}");
        assert_eq!(errors.lines().filter(|line| line.starts_with("error: ")).count(), 1);
    }
    (output.status.success(), errors)
}

fn refusal(command: &mut Command) -> String {
    let (done, errors) = outcome(command.output().unwrap());
    assert!(!done, "{errors}");
    errors
}

fn done(command: &mut Command) -> String {
    let (done, errors) = outcome(command.output().unwrap());
    assert!(done, "{errors}");
    errors
}

#[test]
fn weights_of_the_hub_are_downloaded_once_and_recorded_in_the_run() {
    let sandbox = Sandbox::new();
    let bytes = weights(&sandbox);
    let hub = Hub::new(Fault::None, &[("model.safetensors", &bytes)]);
    let name = "hf://org/tiny";
    let errors = done(&mut features(&sandbox, &hub.endpoint, name));
    let url = format!("downloading {}/org/tiny/resolve/main/model.safetensors", hub.endpoint);
    assert!(errors.contains(&url), "{errors}");
    let ours = fs::read(sandbox.path("features.safetensors")).unwrap();
    done(&mut features(&sandbox, NOWHERE, "vit.safetensors"));
    assert_eq!(fs::read(sandbox.path("features.safetensors")).unwrap(), ours);

    // Without the server, and where its name is that of a commit.
    let set = format!("model.vit.weights={name}");
    let mut arguments = vec!["train", "small.yaml", "--output", "run", "--set", &set];
    arguments.extend(["--set", "train.epochs=1"]);
    let errors = done(&mut command(&sandbox, NOWHERE, &arguments));
    assert!(!errors.contains("downloading"), "{errors}");
    let summary = fs::read_to_string(sandbox.path("run/summary.json")).unwrap();
    let summary: serde_json::Value = serde_json::from_str(&summary).unwrap();
    let began = &summary["starting_weights"]["vit"];
    assert_eq!(began["file"], name);
    let expected = serde_json::json!({
        "repository": "org/tiny", "revision": COMMIT, "sha256": hash(&bytes),
    });
    assert_eq!(began["hub"], expected);
    sandbox.done(&["export", "run", "--format", "safetensors", "--output", "exported"]);
    let card = fs::read_to_string(sandbox.path("exported/README.md")).unwrap();
    assert!(card.contains("initialized from `hf://org/tiny`"), "{card}");
    done(&mut features(&sandbox, NOWHERE, &format!("{name}@{COMMIT}")));
    assert_eq!(hub.downloads("model.safetensors"), 1);
    // A cache anywhere else, and without a network.
    let mut elsewhere = features(&sandbox, NOWHERE, name);
    elsewhere.env("HF_HOME", sandbox.path("other")).env("HF_HUB_CACHE", sandbox.path("hf/hub"));
    done(elsewhere.env("HF_HUB_OFFLINE", "1"));
}

#[test]
fn the_file_of_a_repository_is_its_safetensors_else_its_bin_or_the_one_named() {
    let sandbox = Sandbox::new();
    let bytes = weights(&sandbox);
    let hub = Hub::new(Fault::None, &[("pytorch_model.bin", &bytes), ("more/w.pth", &bytes)]);
    done(&mut features(&sandbox, &hub.endpoint, "hf://org/tiny"));
    done(&mut features(&sandbox, &hub.endpoint, "hf://org/tiny/more/w.pth"));
    assert_eq!((hub.downloads("pytorch_model.bin"), hub.downloads("more/w.pth")), (1, 1));
    let errors = refusal(&mut features(&sandbox, &hub.endpoint, "hf://org/tiny/other.pth"));
    for words in
        ["model.vit.weights: hf://org/tiny/other.pth", "has no other.pth", "check the name"]
    {
        assert!(errors.contains(words), "{errors}");
    }
}

#[test]
fn a_repository_that_needs_a_token_gets_the_users_or_is_refused_with_the_remedy() {
    let sandbox = Sandbox::new();
    let bytes = weights(&sandbox);
    let hub = Hub::new(Fault::Private, &[("model.safetensors", &bytes)]);
    let name = "hf://org/tiny";
    let errors = refusal(&mut features(&sandbox, &hub.endpoint, name));
    assert!(errors.contains("HTTP 401") && errors.contains("set HF_TOKEN"), "{errors}");
    done(features(&sandbox, &hub.endpoint, name).env("HF_TOKEN", "secret"));
    fs::remove_dir_all(sandbox.path("hf")).unwrap();
    fs::create_dir(sandbox.path("hf")).unwrap();
    fs::write(sandbox.path("hf/token"), "secret\n").unwrap();
    done(&mut features(&sandbox, &hub.endpoint, name));
}

#[test]
fn a_download_that_is_cut_short_or_damaged_leaves_nothing_that_loads() {
    let sandbox = Sandbox::new();
    let bytes = weights(&sandbox);
    let files = [("model.safetensors", &bytes[..])];
    for (fault, words) in [(Fault::Truncated, "cannot download"), (Fault::Damaged, "damaged")] {
        let hub = Hub::new(fault, &files);
        let errors = refusal(&mut features(&sandbox, &hub.endpoint, "hf://org/tiny"));
        assert!(errors.contains(words) && errors.contains("run the command again"), "{errors}");
        let errors = refusal(&mut features(&sandbox, NOWHERE, "hf://org/tiny"));
        assert!(errors.contains("set weights to the file"), "{errors}");
    }
    // More than the file has, to which nothing can be added.
    let part = sandbox.path(&format!("hf/hub/models--org--tiny/blobs/{}.part", hash(&bytes)));
    fs::write(&part, [&bytes[..], b"more"].concat()).unwrap();
    let hub = Hub::new(Fault::None, &files);
    let errors = refusal(&mut features(&sandbox, &hub.endpoint, "hf://org/tiny"));
    assert!(errors.contains("an earlier download of"), "{errors}");
    assert!(!part.exists());
    done(&mut features(&sandbox, &hub.endpoint, "hf://org/tiny"));
}

#[test]
fn a_download_that_was_cut_short_continues_where_it_ended() {
    let sandbox = Sandbox::new();
    let bytes = weights(&sandbox);
    let files = [("model.safetensors", &bytes[..])];
    let hub = Hub::new(Fault::Truncated, &files);
    refusal(&mut features(&sandbox, &hub.endpoint, "hf://org/tiny"));
    let hub = Hub::new(Fault::None, &files);
    done(&mut features(&sandbox, &hub.endpoint, "hf://org/tiny"));
    let rest = format!("/cdn/model.safetensors bytes={}-", bytes.len() / 2);
    assert!(hub.asked.lock().unwrap().contains(&rest), "{:?}", hub.asked);
}

#[test]
fn a_server_that_is_not_the_hub_is_refused_by_its_name() {
    let sandbox = Sandbox::new();
    let hub = Hub::new(Fault::Foreign, &[("model.safetensors", &weights(&sandbox))]);
    let errors = refusal(&mut features(&sandbox, &hub.endpoint, "hf://org/tiny"));
    let words = format!("{} does not answer as the Hugging Face hub does: check", hub.endpoint);
    assert!(errors.contains(&words), "{errors}");
}

#[test]
fn a_server_that_is_silent_ends_the_command_in_time() {
    let sandbox = Sandbox::new();
    let hub = Hub::new(Fault::Silent, &[("model.safetensors", &weights(&sandbox))]);
    let mut command = features(&sandbox, &hub.endpoint, "hf://org/tiny");
    let errors = refusal(command.env("HF_HUB_DOWNLOAD_TIMEOUT", "1"));
    assert!(errors.contains("nothing came from http://127.0.0.1"), "{errors}");
    assert!(errors.contains("for 1 s"), "{errors}");
}

#[test]
fn without_a_network_the_error_names_the_address_and_the_remedy() {
    let sandbox = Sandbox::new();
    weights(&sandbox);
    let url = format!("{NOWHERE}/org/tiny/resolve/main/model.safetensors");
    for offline in ["", "1"] {
        let mut command = features(&sandbox, NOWHERE, "hf://org/tiny");
        let errors = refusal(command.env("HF_HUB_OFFLINE", offline));
        for words in [&*url, "elsewhere and set weights to the file", "model.vit.weights: hf://org"]
        {
            assert!(errors.contains(words), "{errors}");
        }
    }
    // A preset without published weights is an error of the config.
    let set = ["--set", "model.vit.weights=pretrained"];
    let (code, errors) = sandbox.fails(&[&["summary", "small.yaml"][..], &set].concat());
    assert_eq!(code, 2, "{errors}");
    assert!(errors.contains("model.vit.weights: none are published for vit_micro"), "{errors}");
    assert!(errors.contains("vit_base_patch16_224, "), "{errors}");
}

#[test]
fn two_commands_at_once_download_a_file_once() {
    let sandbox = Sandbox::new();
    let bytes = weights(&sandbox);
    let hub = Hub::new(Fault::None, &[("model.safetensors", &bytes)]);
    let start = || {
        let mut command = features(&sandbox, &hub.endpoint, "hf://org/tiny");
        command.stderr(Stdio::null()).spawn().unwrap()
    };
    let children = [start(), start()];
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(hub.downloads("model.safetensors"), 1);
}

#[test]
fn pretrained_is_the_name_on_the_hub_of_the_preset() {
    let sandbox = Sandbox::new();
    let name = "model.vit={name: vit_tiny_patch16_224, weights: pretrained}";
    let mut command = features(&sandbox, NOWHERE, "null");
    let errors = refusal(command.args(["--set", name]));
    let hub = "model.vit.weights: hf://timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k: ";
    assert!(errors.contains(hub), "{errors}");
}

#[test]
fn a_sweep_downloads_before_its_runs_begin_and_logs_it() {
    let sandbox = Sandbox::new();
    let bytes = weights(&sandbox);
    let hub = Hub::new(Fault::None, &[("model.safetensors", &bytes)]);
    let sweep = "name: s\nbase: small.yaml\nset: {train.epochs: 1, \
                 model.vit.weights: 'hf://org/tiny'}\nseeds: [1, 2]\n";
    fs::write(sandbox.path("sweep.yaml"), sweep).unwrap();
    let arguments =
        ["sweep", "sweep.yaml", "--output", "runs", "--jobs", "2", "--log-format", "json"];
    let errors = done(&mut command(&sandbox, &hub.endpoint, &arguments));
    let events: Vec<serde_json::Value> =
        errors.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(events[0]["event"], "download", "{errors}");
    assert_eq!(events[0]["bytes"], bytes.len());
    assert_eq!(events.last().unwrap()["status"], "finished", "{errors}");
    assert_eq!(hub.downloads("model.safetensors"), 1);
}
