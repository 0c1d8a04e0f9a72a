//! Faces pasted into scenes at known places, scales and angles: what is found there, by the
//! published detector and by facenet-pytorch: `make test-faces`.
//!
//! The faces are synthetic. VMB_FACES_DIR names a folder of square crops of real faces instead,
//! VMB_FACES_CONVENTION the convention of the crops (mebeauty, scut), which is measured on the
//! faces without it, and VMB_FACES_RUN a run whose scores of the faces, of the faces cropped
//! without a scene, and of the crops out of the scenes are compared.

use std::env;
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use image::{Rgb, RgbImage};
use serde_json::Value;
use vm_beautynet::data::synthetic::{FaceSeed, render};
use vm_beautynet::data::{image_tree, read_image};

use super::rows;
use crate::sandbox::Sandbox;

const FACES: usize = 100;
/// The sides of a scene, in pixels.
const SCENE: [u32; 2] = [640, 520];

/// Where a face is in a scene.
struct Place {
    center: [f64; 2],
    side: f64,
    degrees: f64,
}

impl Place {
    /// The place of a face: one of many sides and angles, within the scene.
    fn of(index: usize) -> Self {
        // Steps of the golden ratio are spread evenly.
        let spread = |salt: f64| (index as f64 * 0.618_033_988_75 + salt * index as f64).fract();
        let side = 110.0 + 190.0 * spread(0.0);
        let room = SCENE.map(|of| f64::from(of) - 1.5 * side);
        let center = [0, 1].map(|axis| 0.75 * side + room[axis] * spread([0.149, 0.371][axis]));
        Self { center, side, degrees: -20.0 + 40.0 * spread(0.263) }
    }

    /// Returns the point of the face, in fractions of its side, that a point of the scene shows.
    fn in_face(&self, x: f64, y: f64) -> [f64; 2] {
        let (sin, cos) = self.degrees.to_radians().sin_cos();
        let (dx, dy) = ((x - self.center[0]) / self.side, (y - self.center[1]) / self.side);
        [cos * dx + sin * dy + 0.5, cos * dy - sin * dx + 0.5]
    }
}

/// Pastes a face into a scene of gradients, stripes and noise.
fn scene(index: usize, face: &RgbImage) -> RgbImage {
    const SUB: u32 = 2;
    let place = Place::of(index);
    let side = f64::from(face.width());
    let at = |x: f64, y: f64| {
        let [u, v] = place.in_face(x, y);
        let inside = (0.0..1.0).contains(&u) && (0.0..1.0).contains(&v);
        if inside {
            return face.get_pixel((u * side) as u32, (v * side) as u32).0.map(f64::from);
        }
        let noise = ((x * 12.9898 + y.floor() * 78.233).sin() * 43758.5453).fract().abs();
        let stripes = if index.is_multiple_of(3) && ((x / 23.0) as u32).is_multiple_of(2) {
            30.0
        } else {
            0.0
        };
        let level = 60.0 + 80.0 * x / 640.0 + stripes;
        [level, level + 20.0 * y / 520.0, 90.0 + 40.0 * noise]
    };
    RgbImage::from_fn(SCENE[0], SCENE[1], |x, y| {
        let mut sums = [0.0; 3];
        for sub in 0..SUB * SUB {
            let offset = |sub: u32| (f64::from(sub) + 0.5) / f64::from(SUB);
            let color = at(f64::from(x) + offset(sub % SUB), f64::from(y) + offset(sub / SUB));
            sums.iter_mut().zip(color).for_each(|(sum, color)| *sum += color);
        }
        Rgb(sums.map(|sum| (sum / f64::from(SUB * SUB)).round() as u8))
    })
}

fn faces() -> Vec<RgbImage> {
    let Some(folder) = env::var_os("VMB_FACES_DIR") else {
        return (0..FACES as u64).map(|index| render(FaceSeed { seed: 28, index }, 224)).collect();
    };
    let files = image_tree(&PathBuf::from(folder)).unwrap().images;
    let step = (files.len() / FACES).max(1);
    files.iter().step_by(step).take(FACES).map(|file| read_image(file).unwrap()).collect()
}

/// What facenet-pytorch finds in each image.
fn reference(images: &[PathBuf]) -> Vec<Vec<Value>> {
    let python = env::var("VMB_FACENET_PYTHON").expect("run `make test-faces`");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/faces/facenet.py");
    let mut command = Command::new(python);
    if let Some(path) = env::var_os("VMB_FACENET_PATH") {
        command.env("PYTHONPATH", path);
    }
    let pipes = command.args(["-B", script]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = pipes.spawn().unwrap();
    let list: String = images.iter().map(|image| format!("{}\n", image.display())).collect();
    child.stdin.take().unwrap().write_all(list.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Our row of an image compared with a face of the reference: the largest differences of the box
/// and of the landmarks, and the distance of the eyes, in pixels.
fn compare(row: &std::collections::HashMap<String, String>, face: &Value) -> [f64; 3] {
    let ours = |column: &str| row[column].parse::<f64>().unwrap();
    let edges = ["left", "top", "right", "bottom"].iter().enumerate();
    let edges = edges.map(|(edge, name)| (ours(name) - face["box"][edge].as_f64().unwrap()).abs());
    let points = ["left_eye", "right_eye", "nose", "mouth_left", "mouth_right"].iter().enumerate();
    let points = points.map(|(point, name)| {
        let of = |axis: usize| {
            let column = format!("{name}_{}", ["x", "y"][axis]);
            ours(&column) - face["landmarks"][point][axis].as_f64().unwrap()
        };
        of(0).hypot(of(1))
    });
    let eyes =
        (ours("right_eye_x") - ours("left_eye_x")).hypot(ours("right_eye_y") - ours("left_eye_y"));
    [edges.fold(0.0, f64::max), points.fold(0.0, f64::max), eyes]
}

fn correlation(pairs: &[(f64, f64)]) -> f64 {
    let mean = |of: fn(&(f64, f64)) -> f64| pairs.iter().map(of).sum::<f64>() / pairs.len() as f64;
    let (x, y) = (mean(|pair| pair.0), mean(|pair| pair.1));
    let sum =
        |of: &dyn Fn(f64, f64) -> f64| pairs.iter().map(|&(a, b)| of(a - x, b - y)).sum::<f64>();
    sum(&|a, b| a * b) / (sum(&|a, _| a * a) * sum(&|_, b| b * b)).sqrt()
}

/// Returns the correlation of a run's scores of images in two folders.
fn correlation_of_scores(
    sandbox: &Sandbox,
    run: &str,
    folders: [&str; 2],
    names: &[String],
) -> f64 {
    let [first, second] = folders.map(|folder| {
        let files: Vec<String> = names.iter().map(|name| format!("{folder}/{name}")).collect();
        let files: Vec<&str> = files.iter().map(String::as_str).collect();
        let json = sandbox.json(&[&["predict", run, "--format", "json"], &files[..]].concat());
        let rows = json["predictions"].as_array().unwrap().clone();
        rows.iter().map(|row| row["score"].as_f64().unwrap()).collect::<Vec<f64>>()
    });
    correlation(&first.into_iter().zip(second).collect::<Vec<_>>())
}

/// Crops a folder with the detector of the set-up: the sandbox has a cache of its own. Returns what
/// was said.
fn crop(sandbox: &Sandbox, folder: &str, output: &str) -> String {
    let convention = env::var("VMB_FACES_CONVENTION").unwrap_or_else(|_| "faces".to_string());
    let crop = ["data", "crop", folder, "--output", output, "--convention", &convention];
    let mut crop = sandbox.command(&crop);
    match env::var_os("XDG_CACHE_HOME") {
        Some(cache) => crop.env("XDG_CACHE_HOME", cache),
        None => crop.env_remove("XDG_CACHE_HOME"),
    };
    let output = crop.output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

#[test]
#[ignore = "needs facenet-pytorch: make test-faces"]
fn faces_in_scenes_are_found_where_facenet_finds_them_and_their_crops_are_rated_the_same() {
    let sandbox = Sandbox::new();
    for folder in ["faces", "scenes"] {
        fs::create_dir_all(sandbox.path(folder)).unwrap();
    }
    let mut scenes = Vec::new();
    for (index, face) in faces().iter().enumerate() {
        let name = format!("{index:03}.png");
        face.save(sandbox.path("faces").join(&name)).unwrap();
        let path = sandbox.path("scenes").join(&name);
        scene(index, face).save(&path).unwrap();
        scenes.push(path);
    }
    let start = Instant::now();
    println!("{}", crop(&sandbox, "scenes", "crops").trim());
    let seconds = start.elapsed().as_secs_f64();
    println!("{:.1} images/s", scenes.len() as f64 / seconds);

    let rows = rows(&sandbox, "crops/faces.csv");
    let (mut found, mut apart) = (Vec::new(), 0);
    let (mut boxes, mut landmarks, mut of_eyes) = (0.0_f64, 0.0_f64, 0.0_f64);
    for (index, (row, reference)) in rows.iter().zip(reference(&scenes)).enumerate() {
        let place = Place::of(index);
        assert_eq!(row["faces"], reference.len().to_string(), "{}", row["image"]);
        if row["status"] != "cropped" {
            println!("{}: {}", row["image"], row["status"]);
            continue;
        }
        let middle = |from: &str, to: &str| {
            row[from].parse::<f64>().unwrap() / 2.0 + row[to].parse::<f64>().unwrap() / 2.0
        };
        let at = place.in_face(middle("left", "right"), middle("top", "bottom"));
        if at.iter().any(|at| (at - 0.5).abs() > 0.25) {
            println!("{}: found elsewhere, {at:.2?}", row["image"]);
            continue;
        }
        found.push(row["image"].clone());
        let compared = reference.iter().map(|face| compare(row, face));
        let [bounds, points, eyes] = compared.min_by(|a, b| a[0].total_cmp(&b[0])).unwrap();
        if bounds >= 1.0 || points >= 1.0 {
            println!("{}: box {bounds:.3} px, landmarks {points:.3} px apart", row["image"]);
            apart += 1;
            continue;
        }
        (boxes, landmarks) = (boxes.max(bounds), landmarks.max(points));
        of_eyes = of_eyes.max(points / eyes);
    }
    println!(
        "found {} of {}; {apart} apart from facenet-pytorch's; largest difference of the others: \
         boxes {boxes:.3} px, landmarks {landmarks:.3} px, {:.2} % of the eyes' distance",
        found.len(),
        rows.len(),
        100.0 * of_eyes
    );
    assert!(100 * found.len() >= 95 * rows.len());
    // Of overlapping candidates whose probabilities round to the same number, either may be kept.
    assert!(100 * apart <= rows.len() && of_eyes < 0.05);
    let Ok(run) = env::var("VMB_FACES_RUN") else {
        return;
    };
    crop(&sandbox, "faces", "upright");
    for first in ["faces", "upright"] {
        let correlation = correlation_of_scores(&sandbox, &run, [first, "crops"], &found);
        println!("scores of {first} and of the crops from the scenes: PC {correlation:.4}");
    }
}
