//! Results of `vmbeauty explain` in run directories and other folders.

use std::collections::HashMap;
use std::fs;

use image::RgbImage;
use tch::Tensor;
use vm_beautynet::models::weights;

use super::written::{Run, VAL, csv_rows, grouped};
use crate::sandbox::Sandbox;

fn explained() -> Sandbox {
    let sandbox = Sandbox::new();
    let test = grouped(0.5);
    let run = Run { set: "", seed: 1, val: &VAL, test: Some(&test) };
    run.write(&sandbox, "run");
    for folder in ["run/explain", "given"] {
        fs::create_dir_all(sandbox.path(folder)).unwrap();
        for name in ["val_a.png", "t00.png", "contact_sheet_1.png"] {
            let file = sandbox.path(&format!("{folder}/{name}"));
            RgbImage::new(8, 8).save(file).unwrap();
        }
    }
    fs::create_dir_all(sandbox.path("run/explain/maps")).unwrap();
    let maps = sandbox.path("run/explain/maps/val_a.safetensors");
    let image = HashMap::from([("image".to_string(), "/faces/val_a.png".to_string())]);
    weights::save(&maps, &[("score".to_string(), Tensor::from(1f32))], image).unwrap();
    sandbox
}

const METRICS: &str = r#"{"split": "SPLIT", "method": "grad-cam <last>", "images": 9, "agreement": {
    "spearman": {"mean": 0.25, "ci": [0.125, 0.5], "n": 8}, "top20_overlap": {"mean": 0.3, "ci": null, "n": 8},
    "top20_overlap_by_chance": 0.2}, "curves": [{"map": "vit", "insertion": {"mean": 3.0, "ci": null, "n": 9},
    "insertion_over_random": {"mean": 0.1, "ci": [0.0, 0.2], "n": 9},
    "deletion": {"mean": 3.0, "ci": null, "n": 9},
    "deletion_over_random": {"mean": null, "ci": null, "n": 0}}], "regions": [], "sanity": null}"#;

fn metrics_of(split: &str) -> String {
    METRICS.replace("SPLIT", split)
}

#[test]
fn metrics_and_figures_of_the_maps_are_shown() {
    let sandbox = explained();
    fs::write(sandbox.path("run/explain_evaluate.json"), metrics_of("test")).unwrap();
    sandbox.done(&["report", "run", "--explain", "given", "-o", "r.html"]);
    let rows = csv_rows(&sandbox.path("r.maps.csv"));
    let agreement = &rows[0];
    assert_eq!(agreement["metric"], "ViT and Mamba: rank correlation");
    assert_eq!((agreement["mean"].as_str(), agreement["mean_lo"].as_str()), ("0.25", "0.125"));
    assert_eq!(rows[2]["metric"], "vit: insertion over random");
    assert_eq!(rows[3]["mean"], "");
    let page = fs::read_to_string(sandbox.path("r.html")).unwrap();
    assert!(page.contains("grad-cam &lt;last&gt;"));
    let maps = page.split("id=\"maps\"").nth(1).unwrap();
    let maps = maps.split("</section>").next().unwrap();
    // Two figures of each folder, and no contact sheet.
    assert_eq!(maps.matches("data:image/jpeg").count(), 4);
}

#[test]
fn on_val_only_figures_of_its_images_are_shown() {
    let sandbox = explained();
    fs::write(sandbox.path("run/explain_evaluate.json"), metrics_of("test")).unwrap();
    fs::write(sandbox.path("run/explain_test.json"), "damaged").unwrap();
    let report = sandbox.json(&["report", "run", "-o", "r.html", "--split", "val", "--json"]);
    assert!(report["notes"].to_string().contains("1 explained images are skipped"), "{report:#}");
    let page = fs::read_to_string(sandbox.path("r.html")).unwrap();
    assert!(page.contains("<figcaption>val_a.png</figcaption>") && !page.contains("t00"));
    assert!(!sandbox.path("r.maps.csv").exists());
    fs::write(sandbox.path("run/explain_val.json"), metrics_of("val")).unwrap();
    sandbox.done(&["report", "run", "-o", "r.html", "--split", "val"]);
    assert_eq!(csv_rows(&sandbox.path("r.maps.csv")).len(), 4);
}

#[test]
fn a_folder_without_figures_and_a_wrong_file_are_errors_that_name_them() {
    let sandbox = explained();
    fs::create_dir(sandbox.path("empty")).unwrap();
    let (_, error) = sandbox.fails(&["report", "run", "--explain", "empty", "-o", "r.html"]);
    assert!(error.contains("empty holds no figure"), "{error}");
    fs::write(sandbox.path("run/explain_test.json"), "{}").unwrap();
    let (_, error) = sandbox.fails(&["report", "run", "-o", "r.html"]);
    assert!(
        error.contains("run/explain_test.json is not a result of `vmbeauty explain"),
        "{error}"
    );
}
