//! From a table, as people have it, to a trained model: `vmbeauty init`, then `vmbeauty train`.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use image::{Rgb, RgbImage};

use crate::sandbox::Sandbox;

/// Saves images of different content in a folder, and returns their names.
fn save_images(folder: &Path, count: u32) -> Vec<String> {
    fs::create_dir_all(folder).unwrap();
    let save = |index: u32| {
        let name = format!("face {index:02}.png");
        let pixel = |x: u32, y: u32| Rgb([(x * index) as u8, (y * 5) as u8, index as u8]);
        RgbImage::from_fn(40, 40, pixel).save(folder.join(&name)).unwrap();
        name
    };
    (0..count).map(save).collect()
}

/// Runs `init` and then `train` on what it wrote, and returns what `init` printed.
fn init_and_train(sandbox: &Sandbox, table: &str) -> String {
    let printed = sandbox.done(&["init", table, "--output", "exp.yaml"]);
    sandbox.done(&["train", "exp.yaml", "--output", "run", "--set", "train.epochs=1"]);
    assert!(sandbox.path("run/summary.json").exists());
    printed
}

fn config(sandbox: &Sandbox) -> serde_yaml::Value {
    serde_yaml::from_str(&fs::read_to_string(sandbox.path("exp.yaml")).unwrap()).unwrap()
}

#[test]
fn an_export_of_excel_with_semicolons_and_decimal_commas_trains() {
    let sandbox = Sandbox::new();
    let mut table = "\u{feff}sep=;\r\nfilename;mean_rating;SD;gender;subject\r\n".to_string();
    for (index, name) in save_images(&sandbox.path("."), 16).iter().enumerate() {
        let gender = ["female", "male"][index % 2];
        write!(table, "{name};{},5;0,{index};{gender};p{}\r\n", index % 5, index / 2).unwrap();
    }
    fs::write(sandbox.path("ratings.csv"), table).unwrap();
    let printed = init_and_train(&sandbox, "ratings.csv");
    for words in [
        "columns separated by semicolons, numbers with a decimal comma",
        "column mean_rating, from 0.5 to 4.5",
        "column gender: 2 values, female, male",
        "column subject: 8 values",
        "12 train, 2 val, 2 test",
        "vmbeauty train exp.yaml",
    ] {
        assert!(printed.contains(words), "{words} is not in\n{printed}");
    }
    let config = config(&sandbox);
    assert_eq!(config["data"]["csv"]["score_column"], "mean_rating");
    assert_eq!(config["data"]["csv"]["group_column"], "gender");
    assert_eq!(config["data"]["csv"]["person_column"], "subject");
    let recipe = fs::read_to_string("configs/mebeauty_micro.yaml").unwrap();
    let recipe: serde_yaml::Value = serde_yaml::from_str(&recipe).unwrap();
    assert_eq!([&config["model"], &config["train"]], [&recipe["model"], &recipe["train"]]);
}

#[test]
fn a_table_of_absolute_paths_trains() {
    let sandbox = Sandbox::new();
    let folder = sandbox.path("elsewhere/faces");
    let mut table = "id,path,rater_1,rater_2,rater_3,rating,set,cv_fold\n".to_string();
    for (index, name) in save_images(&folder, 12).iter().enumerate() {
        let (path, split) = (folder.join(name), ["train", "train", "Val", "test"][index % 4]);
        let (score, fold) = (index % 5, index % 3);
        writeln!(table, "{index},{},{score},1,2,{score}.25,{split},{fold}", path.display())
            .unwrap();
    }
    fs::create_dir(sandbox.path("tables")).unwrap();
    fs::write(sandbox.path("tables/all.csv"), table).unwrap();
    let printed = init_and_train(&sandbox, "tables/all.csv");
    assert!(printed.contains("column rating, from 0.25 to 4.25"), "{printed}");
    assert!(printed.contains("the paths are absolute"), "{printed}");
    assert!(printed.contains("3 columns: rater_*") && printed.contains("6 train, 3 val, 3 test"));
    assert_eq!(config(&sandbox)["data"]["csv"]["fold_column"], "cv_fold");
    assert!(config(&sandbox)["data"]["csv"].get("image_dir").is_none());
    let folds = ["cross-validate", "exp.yaml", "--folds", "column", "--output", "folds"];
    sandbox.done(&[&folds[..], &["--set", "train.epochs=1"]].concat());
    for fold in ["fold_0", "fold_1", "fold_2"] {
        let predictions = sandbox.path(&format!("folds/{fold}/predictions_test.csv"));
        assert_eq!(fs::read_to_string(predictions).unwrap().lines().count(), 5);
    }
}

#[test]
fn names_without_a_folder_are_found_in_the_folder_of_images() {
    let sandbox = Sandbox::new();
    let mut table = "Image\tAge\tAttractiveness\n".to_string();
    for (index, name) in save_images(&sandbox.path("set 1/images"), 14).iter().enumerate() {
        writeln!(table, "{name}\t{}\t{}", 20 + index, index % 5).unwrap();
    }
    writeln!(table, "gone.png\t20\t3").unwrap();
    fs::write(sandbox.path("set 1/faces.tsv"), table).unwrap();
    let printed = init_and_train(&sandbox, "set 1/faces.tsv");
    assert!(printed.contains("images, next to the table"), "{printed}");
    assert!(printed.contains("? 1 of 15 images were not found there"), "{printed}");
    assert!(printed.contains("guesses are uncertain (?)"), "{printed}");
    assert_eq!(config(&sandbox)["data"]["csv"]["image_dir"], "images");
    assert_eq!(config(&sandbox)["data"]["csv"]["score_column"], "Attractiveness");
}

/// Writes the least that is a spreadsheet.
fn write_xlsx(file: &Path, rows: &[[String; 2]]) {
    let mut archive = zip::ZipWriter::new(File::create(file).unwrap());
    let mut part = |name: &str, text: &str| {
        archive.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
        archive.write_all(text.as_bytes()).unwrap();
    };
    let types = "http://schemas.openxmlformats.org/package/2006";
    let office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships";
    let main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main";
    part("[Content_Types].xml", &format!("<Types xmlns=\"{types}/content-types\"/>"));
    let relations = |kind: &str, target: &str| {
        format!(
            "<Relationships xmlns=\"{types}/relationships\"><Relationship Id=\"r1\" \
             Type=\"{office}/{kind}\" Target=\"{target}\"/></Relationships>"
        )
    };
    part("_rels/.rels", &relations("officeDocument", "xl/workbook.xml"));
    part("xl/_rels/workbook.xml.rels", &relations("worksheet", "worksheets/sheet1.xml"));
    let sheet = "<sheets><sheet name=\"a\" sheetId=\"1\" r:id=\"r1\"/></sheets>";
    part(
        "xl/workbook.xml",
        &format!("<workbook xmlns=\"{main}\" xmlns:r=\"{office}\">{sheet}</workbook>"),
    );
    let mut cells = String::new();
    for (index, row) in rows.iter().enumerate() {
        let number = index + 1;
        write!(cells, "<row r=\"{number}\">").unwrap();
        for (column, text) in ["A", "B"].iter().zip(row) {
            match text.parse::<f64>() {
                Ok(_) => write!(cells, "<c r=\"{column}{number}\"><v>{text}</v></c>"),
                Err(_) => write!(
                    cells,
                    "<c r=\"{column}{number}\" t=\"inlineStr\"><is><t>{text}</t></is></c>"
                ),
            }
            .unwrap();
        }
        cells += "</row>";
    }
    part(
        "xl/worksheets/sheet1.xml",
        &format!("<worksheet xmlns=\"{main}\"><sheetData>{cells}</sheetData></worksheet>"),
    );
    archive.finish().unwrap();
}

#[test]
fn a_spreadsheet_trains_as_it_is() {
    let sandbox = Sandbox::new();
    let names = save_images(&sandbox.path("faces"), 12);
    let rows =
        names.iter().enumerate().map(|(i, name)| [format!("faces/{name}"), format!("{}.5", i % 4)]);
    let header = ["photo", "MOS"].map(String::from);
    write_xlsx(&sandbox.path("r.xlsx"), &[vec![header], rows.collect()].concat());
    let printed = init_and_train(&sandbox, "r.xlsx");
    assert!(printed.contains("a spreadsheet") && printed.contains("column MOS, from 0.5 to 3.5"));
}

#[test]
fn a_folder_of_scored_images_is_recognized_and_what_is_no_dataset_is_said() {
    let sandbox = Sandbox::new();
    for (score, count) in [("1", 5), ("2.5", 6), ("4", 7)] {
        let folder = sandbox.path(&format!("faces/{score}"));
        fs::create_dir_all(&folder).unwrap();
        for index in 0..count {
            let pixel = |x: u32, y: u32| Rgb([(x * index) as u8, (y * count) as u8, index as u8]);
            RgbImage::from_fn(40, 40, pixel).save(folder.join(format!("{index}.png"))).unwrap();
        }
    }
    let json = sandbox.json(&["init", "faces", "--output", "exp.yaml", "--json"]);
    assert_eq!(json["images"]["train"], 14);
    assert_eq!(config(&sandbox)["data"]["dataset"], "folder");

    let before = fs::read(sandbox.path("exp.yaml")).unwrap();
    let (code, error) = sandbox.fails(&["init", "faces", "--output", "exp.yaml"]);
    assert!(code == 1 && error.contains("exp.yaml exists already: name another"), "{error}");
    assert_eq!(fs::read(sandbox.path("exp.yaml")).unwrap(), before);

    fs::create_dir(sandbox.path("none")).unwrap();
    for (table, text, words) in [
        ("none", "", "is no table (.csv, .tsv, .xlsx), and no folder of MEBeauty"),
        ("gone.csv", "", "No such file"),
        ("a.csv", "a.png,3\nb.png,4\n", "its first line is an image, not the names of the columns"),
        ("b.csv", "image,score\nx.png,3\n", "none of the images in the column \"image\" is in ."),
        (
            "e.csv",
            "image,score\nanna,3\nbo,4\n",
            "write the ending of the files in each row, as anna.jpg",
        ),
        ("c.csv", "name,score\nx,3\ny,4\n", "no column names image files"),
        (
            "u.csv",
            "url,score\nhttps://a.org/1.png,3\nhttps://a.org/2.png,4\n",
            "download images that are named by a web address",
        ),
        (
            "s.csv",
            "image,score,hot\nfaces/4/1.png,3,1\nfaces/4/2.png,,2\nfaces/4/3.png,4,2\n",
            "s.csv:3: the score \"\" is not a finite number; correct it, or remove the row",
        ),
        (
            "p.csv",
            "image,score\nfaces/4/1.png,\"3,5\"\nfaces/4/2.png,\"2,5\"\n",
            "p.csv:2: the score \"3,5\" is not a finite number; write decimals with a point",
        ),
        (
            "d.csv",
            "image,note\nfaces/4/1.png,a\n",
            "the score of the images is missing; the columns",
        ),
    ] {
        if !text.is_empty() {
            fs::write(sandbox.path(table), text).unwrap();
        }
        let (code, error) = sandbox.fails(&["init", table, "--output", "new.yaml"]);
        assert!(code == 1 && error.contains(words), "{table}: {error}");
        assert!(!sandbox.path("new.yaml").exists() && error.lines().count() == 1, "{error}");
    }
}

#[test]
fn files_are_preferred_to_addresses_and_what_is_odd_in_a_table_is_said() {
    let sandbox = Sandbox::new();
    let mut table = "url,filename,rater,score\n".to_string();
    for name in save_images(&sandbox.path("a/b/c"), 12) {
        for rater in ["ann", "bo"] {
            writeln!(table, "https://a.org/{name},{name},{rater},3").unwrap();
        }
    }
    fs::write(sandbox.path("r.csv"), table).unwrap();
    let printed = sandbox.done(&["init", "r.csv", "--image-dir", "a", "--output", "exp.yaml"]);
    assert!(printed.contains("? 12 rows name an image again: each of them counts"), "{printed}");
    assert!(printed.contains("from 3 to 3") && printed.contains("? all are equal"), "{printed}");
    let config = config(&sandbox);
    assert_eq!(config["data"]["csv"]["image_column"], "filename");
    assert_eq!(config["data"]["csv"]["image_dir"], "a/b/c");
    assert!(config["data"]["csv"].get("group_column").is_none());
}
