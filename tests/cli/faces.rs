//! `vmbeauty data crop` and `predict --crop`: with a made-up detector what becomes of each image,
//! and with the published one (`make test-faces`) agreement with facenet-pytorch.

mod detector;
mod scenes;

use std::fs;

use image::{Rgb, RgbImage};

use crate::sandbox::Sandbox;

use self::detector::{finds_everywhere, finds_nothing};

/// The rows of a table of crops, by column.
fn rows(sandbox: &Sandbox, path: &str) -> Vec<std::collections::HashMap<String, String>> {
    let mut table = csv::Reader::from_path(sandbox.path(path)).unwrap();
    table.deserialize().map(Result::unwrap).collect()
}

#[test]
fn each_image_of_a_folder_has_a_row_and_each_face_a_crop_under_the_images_name() {
    let sandbox = Sandbox::new();
    finds_everywhere(&sandbox.path("detector"));
    for name in ["set/b.png", "set/deep/er/a.jpg", "set/z.webp"] {
        sandbox.image(name, 7);
    }
    fs::write(sandbox.path("set/c.png"), "no image").unwrap();
    RgbImage::from_pixel(19, 400, Rgb([9; 3])).save(sandbox.path("set/thin.png")).unwrap();
    let crop = ["data", "crop", "set", "--output", "out", "--detector", "detector"];
    let errors = sandbox.log(&crop);
    assert!(errors.contains("skipped: c.png: not an image"), "{errors}");
    assert!(
        errors.contains("cropped 3 of 5 images, 1 without a face, 1 not readable; of the crops"),
        "{errors}"
    );
    let rows = rows(&sandbox, "out/faces.csv");
    let named: Vec<_> = rows.iter().map(|row| (&row["image"][..], &row["status"][..])).collect();
    let expected = [
        ("b.png", "cropped"),
        ("c.png", "unreadable"),
        ("deep/er/a.jpg", "cropped"),
        ("thin.png", "no_face"),
        ("z.webp", "cropped"),
    ];
    assert_eq!(named, expected);
    for row in rows.iter().filter(|row| row["status"] == "cropped") {
        let crop = image::open(sandbox.path("out").join(&row["image"])).unwrap();
        assert_eq!((crop.width(), crop.height()), (224, 224));
        assert!(row["faces"].parse::<usize>().unwrap() > 1);
        assert!(row["warning"].starts_with("several faces; small: enlarged"), "{row:?}");
        let at = |column: &str| row[column].parse::<f64>().unwrap();
        assert!(at("left") < at("left_eye_x") && at("right_eye_x") < at("right"), "{row:?}");
        assert!(at("top") < at("left_eye_y") && at("mouth_left_y") < at("bottom"), "{row:?}");
    }
    assert!(rows[1]["error"].starts_with("not an image"), "{:?}", rows[1]);
    assert_eq!(fs::read_dir(sandbox.path("out")).unwrap().count(), 4);
    let (code, error) = sandbox.fails(&crop);
    assert!(code == 2 && error.contains("out is not empty"), "{error}");
}

#[test]
fn the_crops_of_a_table_train_with_its_copy() {
    let sandbox = Sandbox::new();
    finds_everywhere(&sandbox.path("detector"));
    let mut table = "file;rating\n".to_string();
    for index in 0..12u8 {
        sandbox.image(&format!("in/photos/{index}.png"), index * 20);
        table += &format!("{index}.png;{},5\n", index % 4);
    }
    table += "gone.png;2\n0.png;3,5\n";
    fs::write(sandbox.path("in/ratings.csv"), &table).unwrap();
    let crop = ["data", "crop", "in/ratings.csv", "--output", "out", "--detector", "detector"];
    sandbox.done(&[&crop[..], &["--convention", "scut"]].concat());
    let rows = rows(&sandbox, "out/faces.csv");
    assert_eq!(rows.len(), 13);
    assert_eq!((&rows[12]["status"][..], &rows[12]["error"][..]), ("unreadable", "no such file"));
    assert_eq!(image::open(sandbox.path("out/photos/3.png")).unwrap().width(), 350);
    assert_eq!(fs::read_to_string(sandbox.path("out/ratings.csv")).unwrap(), table);
    sandbox.done(&["init", "out/ratings.csv", "--output", "mine.yaml"]);
    let check = sandbox.json(&["data", "check", "mine.yaml", "--json"]);
    let splits = check["splits"].as_array().unwrap().iter();
    assert_eq!(splits.map(|split| split["usable"].as_u64().unwrap()).sum::<u64>(), 13);

    // A table of absolute paths would train on the photographs.
    let absolute = sandbox.path("in/photos/1.png");
    fs::write(sandbox.path("absolute.csv"), format!("image,score\n{},1\n", absolute.display()))
        .unwrap();
    let crop = ["data", "crop", "absolute.csv", "--output", "other", "--detector", "detector"];
    let errors = sandbox.log(&crop);
    assert!(errors.contains("absolute.csv is not copied"), "{errors}");
    assert!(!sandbox.path("other/absolute.csv").exists());
}

#[test]
fn predict_scores_the_crop_of_each_image_and_says_which_face_it_was() {
    let sandbox = Sandbox::new();
    finds_everywhere(&sandbox.path("detector"));
    finds_nothing(&sandbox.path("blind"));
    sandbox.train_one_epoch("run");
    sandbox.image("set/a.png", 7);
    sandbox.image("set/b.png", 90);
    RgbImage::from_pixel(19, 400, Rgb([9; 3])).save(sandbox.path("set/thin.png")).unwrap();
    let crop = ["data", "crop", "set", "--output", "out", "--detector", "detector", "--quiet"];
    sandbox.done(&crop);
    let cropped = ["predict", "run", "set", "--crop", "--detector", "detector", "--format", "json"];
    let json = sandbox.json(&cropped);
    let of_crops = sandbox.json(&["predict", "run", "out/a.png", "out/b.png", "--format", "json"]);
    let rows = rows(&sandbox, "out/faces.csv");
    for index in 0..2 {
        let (row, of_crop) = (&json["predictions"][index], &of_crops["predictions"][index]);
        assert_eq!(row["score"], of_crop["score"], "the crop is a PNG file");
        assert_eq!(row["faces"].to_string(), rows[index]["faces"]);
        let left: f64 = rows[index]["left"].parse().unwrap();
        assert!((row["box"][0].as_f64().unwrap() - left).abs() < 0.06, "{row}");
    }
    assert_eq!(json["predictions"][2]["error"], "no face was found");
    let csv = [&cropped[..7], &["csv"]].concat();
    let csv = sandbox.done(&csv);
    let header =
        "image,score,weight_vit,weight_mamba,faces,left,top,right,bottom,in_distribution,error\n";
    assert!(
        csv.starts_with(header) && csv.ends_with("thin.png,,,,,,,,,,no face was found\n"),
        "{csv}"
    );

    sandbox.train("tight", &["train.epochs=1", "data.face_alignment=tight"]);
    let scores = |crop: &str| {
        let predict = ["predict", "tight", "set", crop, "--detector", "detector"];
        let json = sandbox.json(&[&predict[..], &["--format", "json"]].concat());
        [0, 1].map(|index| json["predictions"][index]["score"].clone())
    };
    assert_eq!(scores("--crop"), scores("--crop=tight"), "the config says how to crop");
    assert_ne!(scores("--crop"), scores("--crop=mebeauty"));

    let blind = ["predict", "run", "set", "--crop", "--detector", "blind"];
    let (code, error) = sandbox.fails(&blind);
    assert!(code == 1 && error.contains("set/a.png: no face was found"), "{error}");
    let (code, error) =
        sandbox.fails(&["predict", "run", "set", "--crop=nobody", "--detector", "x"]);
    assert!(
        code == 2 && error.contains("name one of mebeauty, scut, tight, or a folder"),
        "{error}"
    );
    let (code, error) = sandbox.fails(&["predict", "run", "set", "--detector", "detector"]);
    assert!(code == 2 && error.contains("--crop"), "{error}");
}

#[test]
fn without_the_detector_the_error_names_the_command_that_fetches_it() {
    let sandbox = Sandbox::new();
    sandbox.image("set/a.png", 7);
    let mut crop = sandbox.command(&["data", "crop", "set", "--output", "out"]);
    let output = crop.env("VMB_CACHE_DIR", "").output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), error.trim().lines().count()), (Some(1), 1), "{error}");
    assert!(error.contains("run `python3 scripts/setup.py --faces`"), "{error}");
    assert!(!sandbox.path("out").exists());
    finds_nothing(&sandbox.path("blind"));
    fs::write(sandbox.path("blind/onet.pt"), "damaged").unwrap();
    let (_, error) =
        sandbox.fails(&["data", "crop", "set", "--output", "out", "--detector", "blind"]);
    assert!(error.contains("blind/onet.pt") && error.trim().lines().count() == 1, "{error}");
}
