//! `vmbeauty data` and `vmbeauty benchmark data`, as a user runs them.

use std::fs;

use serde_json::Value;

use crate::sandbox::Sandbox;
use crate::sandbox::run::train_arguments;

#[test]
fn a_preview_is_the_same_grid_each_time_and_says_where_it_is() {
    let sandbox = Sandbox::new();
    let preview = |name: &str, more: &[&str]| {
        let arguments =
            ["data", "preview", "small.yaml", "--images", "3", "--epochs", "2", "--output", name];
        sandbox.done(&[&arguments, more].concat());
        fs::read(sandbox.path(name)).unwrap()
    };
    let first = preview("grid.png", &[]);
    assert_eq!(image::load_from_memory(&first).unwrap().width(), 3 * 164 + 4);
    assert_eq!(first, preview("again.png", &[]));
    assert_ne!(first, preview("other.png", &["--set", "seed=8"]));
    assert_ne!(first, preview("val.png", &["--split", "val"]));
    preview("with_gallery.jpg", &["--gallery", "gallery"]);
    assert_eq!(fs::read_dir(sandbox.path("gallery")).unwrap().count(), 11);
    let (_, message) = sandbox.fails(&["data", "preview", "small.yaml", "--output", "grid.txt"]);
    assert!(message.contains("grid.txt"), "{message}");
}

#[test]
fn a_check_is_printed_as_table_json_or_page() {
    let sandbox = Sandbox::new();
    for score in ["1", "2", "4.5"] {
        fs::create_dir_all(sandbox.path("faces").join(score)).unwrap();
        for index in 0..4u8 {
            let shade = index * 40 + score.len() as u8;
            image::RgbImage::from_fn(40, 40, |x, y| {
                image::Rgb([shade, x as u8, (x * y) as u8 ^ index])
            })
            .save(sandbox.path("faces").join(score).join(format!("{index}.png")))
            .unwrap();
        }
    }
    let check = |more: &[&str]| {
        let set = "data={dataset: folder, root: faces}";
        let arguments = ["data", "check", "small.yaml", "--set", set];
        sandbox.done(&[&arguments, more].concat())
    };
    let table = check(&["--manifest", "manifest.csv"]);
    assert!(table.contains("4.150 to 4.500"), "{table}");
    assert_eq!(fs::read_to_string(sandbox.path("manifest.csv")).unwrap().lines().count(), 13);
    let json: Value = serde_json::from_str(&check(&["--format", "json"])).unwrap();
    assert_eq!(json, serde_json::from_str::<Value>(&check(&["--json"])).unwrap());
    let counts = json["splits"].as_array().unwrap().iter();
    assert_eq!(counts.map(|split| split["usable"].as_u64().unwrap()).sum::<u64>(), 12);
    assert!(check(&["--format", "html"]).starts_with("<!DOCTYPE html>"));
}

fn save(sandbox: &Sandbox, name: &str, shade: u8) {
    let path = sandbox.path(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let pixel = |x: u32, y: u32| image::Rgb([shade, (x * 3) as u8, (x * y) as u8 ^ shade]);
    image::RgbImage::from_fn(40, 40, pixel).save(path).unwrap();
}

#[test]
fn copies_of_an_image_stay_in_one_split_and_in_stated_splits_they_are_warned_of() {
    let sandbox = Sandbox::new();
    let mut table = "image,score\n".to_string();
    for index in 0..20u8 {
        save(&sandbox, &format!("a{index}.png"), index * 12);
        let (image, copy) = (format!("a{index}.png"), format!("b{index}.png"));
        if index % 2 == 0 {
            fs::copy(sandbox.path(&image), sandbox.path(&copy)).unwrap();
        } else {
            fs::hard_link(sandbox.path(&image), sandbox.path(&copy)).unwrap();
        }
        table += &format!("{image},{index}\n{copy},{}\n", index * 5 % 7);
    }
    fs::write(sandbox.path("ours.csv"), table).unwrap();
    let check = |root: &str, more: &[&str]| {
        let set = format!("data={{dataset: csv, root: {root}}}");
        let arguments = ["data", "check", "small.yaml", "--set", &set];
        sandbox.done(&[&arguments, more].concat())
    };
    let json: Value = serde_json::from_str(&check("ours.csv", &["--json"])).unwrap();
    let duplicates = json["duplicates"].as_array().unwrap();
    assert_eq!(duplicates.len(), 20);
    assert!(duplicates.iter().all(|found| found["across_splits"] == false), "{duplicates:?}");

    let rows = "a0.png,1,train\nb0.png,1,train\na1.png,2,train\na2.png,2,val\na3.png,3,test\n";
    let stated = format!("image,score,split\n{rows}b1.png,2,test\nb3.png,3,test\n");
    fs::write(sandbox.path("theirs.csv"), stated).unwrap();
    let text = check("theirs.csv", &[]);
    let found = text.split_once("files with the same content: 3\n").unwrap().1;
    assert!(
        found.starts_with("  in more than one split: a1.png (train) = b1.png (test)\n"),
        "{text}"
    );
    let train = |overlap: &str| {
        let overlap = format!("data.overlap={overlap}");
        let set = ["data.dataset=csv", "data.root=theirs.csv", &overlap, "train.epochs=1"];
        sandbox.log(&[&train_arguments(&overlap, &set)[..], &["--quiet"]].concat())
    };
    let warning = train("error");
    assert!(
        warning.contains("warning: 1 image is in more than one split under different names")
            && warning.contains("a1.png (train) and b1.png (test)"),
        "{warning}"
    );
    let allowed = train("allow");
    assert!(!allowed.contains("under different names"), "{allowed}");
}

#[test]
fn a_folder_holds_every_image_whatever_its_name_and_names_those_that_cannot_be_read() {
    let sandbox = Sandbox::new();
    for (index, name) in ["a.png", "b.jfif", "c.JPE", "d"].into_iter().enumerate() {
        let path = format!("faces/3/{index}.png");
        save(&sandbox, &path, 40 * index as u8);
        fs::rename(sandbox.path(&path), sandbox.path(&format!("faces/3/{name}"))).unwrap();
    }
    for (name, brand) in [("phone", "heic"), ("web.avif", "avif")] {
        let content = format!("\0\0\0\x18ftyp{brand}\0\0\0\0mif1{brand}");
        fs::write(sandbox.path(&format!("faces/3/{name}")), content).unwrap();
    }
    fs::write(sandbox.path("faces/3/notes.txt"), "cropped by hand").unwrap();
    let set = ["--set", "data.dataset=folder", "--set", "data.root=faces"];
    let text = sandbox.done(&[&["data", "check", "small.yaml"], &set[..]].concat());
    for expected in [
        "rows whose image cannot be read: 2\n",
        "3/phone: HEIC is not supported; convert it",
        "3/web.avif: AVIF is not supported; convert it",
    ] {
        assert!(text.contains(expected), "{text}");
    }
    assert!(!text.contains("notes.txt"), "{text}");
}

#[test]
fn a_check_lists_the_first_findings_and_all_on_demand_and_fails_without_any_image() {
    let sandbox = Sandbox::new();
    let rows =
        |row: &str| (0..50).map(|index| row.replace('N', &index.to_string())).collect::<String>();
    let rows: String = [rows("goneN.png,1,train\n"), rows("lost.png,2,val\n")].concat();
    fs::write(sandbox.path("faces.csv"), format!("image,score,split\n{rows}")).unwrap();
    let check = |more: &[&str]| {
        let set = "data={dataset: csv, root: faces.csv}";
        let arguments = ["data", "check", "small.yaml", "--set", set];
        let run = sandbox.run(&[&arguments, more].concat());
        assert_eq!(run.status.code(), Some(1));
        let error = String::from_utf8(run.stderr).unwrap();
        assert_eq!(error, "error: none of the 100 images can be used\n");
        String::from_utf8(run.stdout).unwrap()
    };
    let text = check(&[]);
    assert!(text.contains("rows whose image is missing: 100\n"), "{text}");
    assert!(text.contains("  ... and 31 more; --all lists them\n"), "{text}");
    assert!(text.contains("train: gone19.png") && !text.contains("gone20.png"), "{text}");
    assert!(text.contains("val: lost.png: 50 rows, scores 2, 2, "), "{text}");
    let all = check(&["--all"]);
    assert!(all.contains("gone49.png") && all.contains("val: lost.png: no such file (50 rows)"));
    let json: Value = serde_json::from_str(&check(&["--json"])).unwrap();
    assert_eq!(json["missing"].as_array().unwrap().len(), 100);
}

#[test]
#[cfg(unix)]
fn the_name_of_a_file_cannot_command_the_terminal() {
    let sandbox = Sandbox::new();
    save(&sandbox, "faces/1/a\u{1b}]0;title\u{7}\n.png", 1);
    fs::copy(
        sandbox.path("faces/1/a\u{1b}]0;title\u{7}\n.png"),
        sandbox.path("faces/1/b\u{1b}[2J.png"),
    )
    .unwrap();
    fs::write(sandbox.path("faces/1/c\u{1b}[2J.png"), "").unwrap();
    let set = ["--set", "data.dataset=folder", "--set", "data.root=faces"];
    let run = sandbox.run(&[&["data", "check", "small.yaml"], &set[..]].concat());
    let text = String::from_utf8([run.stdout, run.stderr].concat()).unwrap();
    assert!(text.contains("1/a\\u{1b}]0;title\\u{7}\\n.png"), "{text}");
    assert!(!text.contains('\u{1b}') && !text.contains('\u{7}'), "{text:?}");
}

#[test]
fn the_benchmark_reports_its_keys_for_generated_files_and_a_folder() {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("mine")).unwrap();
    image::RgbImage::new(30, 20).save(sandbox.path("mine/a.png")).unwrap();
    // The images are small.
    let command = "benchmark data mine --config small.yaml --seconds 0 --memory-images 64 --json";
    let report = sandbox.json(&command.split(' ').collect::<Vec<_>>());
    for key in ["train_images_per_second_per_core", "eval_images_per_second_per_core", "scaling"] {
        assert!(report[key].as_f64().unwrap() > 0.0, "{report}");
    }
    assert_eq!(report["sets"].as_array().unwrap().len(), 3);
    assert!(report["memory"]["images"].as_u64().unwrap() >= 64);
    let empty = sandbox.run(&["benchmark", "data", "nowhere", "--seconds", "0"]);
    assert!(String::from_utf8_lossy(&empty.stderr).contains("nowhere"));
}

#[test]
fn test_time_flip_changes_predictions_and_mixing_trains() {
    let sandbox = Sandbox::new();
    sandbox.train("run", &["train.epochs=1", "data.augment={mixup: 0.4, cutmix: 1}"]);
    let evaluate = || sandbox.json(&["evaluate", "run", "--split", "test", "--json"]);
    let plain = evaluate();
    let config = fs::read_to_string(sandbox.path("run/config.yaml")).unwrap();
    assert!(config.contains("test_time_flip: false"));
    fs::write(
        sandbox.path("run/config.yaml"),
        config.replace("test_time_flip: false", "test_time_flip: true"),
    )
    .unwrap();
    assert_ne!(plain, evaluate());
}
