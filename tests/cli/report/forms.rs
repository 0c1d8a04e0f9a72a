//! The page, Markdown and LaTeX: a name is never taken for markup.

use std::fs;

use super::written::{Row, Run, VAL, csv_rows};
use crate::sandbox::Sandbox;

const NAME: &str = "<script>alert(1)<|script>_50%&$\"'";

#[test]
fn hostile_names_stay_names_in_every_format() {
    let sandbox = Sandbox::new();
    let test: Vec<Row> = vec![
        ("\"><img src=x onerror=alert(2)>.png", 1.0, 3.0, "<b>g</b>|\\"),
        ("b.png", 2.0, 2.5, "plain"),
        ("c.png", 3.0, 2.0, "plain"),
    ];
    for (folder, set) in [(NAME, ""), ("other", "model.fusion.strategy=sum")] {
        let run = Run { set, seed: 1, val: &VAL, test: Some(&test) };
        run.write(&sandbox, folder);
    }
    sandbox.done(&[
        "report",
        NAME,
        "other",
        "-o",
        "r.html",
        "--no-images",
        "--title",
        "</title><script>alert(3)</script>",
    ]);
    let page = fs::read_to_string(sandbox.path("r.html")).unwrap();
    assert!(
        !page.contains("<script") && !page.contains("<img") && !page.contains("<b>g"),
        "{page}"
    );
    assert!(page.contains("&lt;script&gt;alert(1)&lt;|script&gt;_50%&amp;$&quot;'"));
    // Nothing is fetched.
    for word in ["http:", "https:", "src=\"//", "@import", "url("] {
        assert!(!page.contains(word), "{word}");
    }
    let markdown = fs::read_to_string(sandbox.path("r.md")).unwrap();
    assert!(
        markdown.contains("| &lt;script&gt;alert(1)&lt;\\|script&gt;\\_50%&amp;$\"' | 1 |"),
        "{markdown}"
    );
    let latex = fs::read_to_string(sandbox.path("r.tex")).unwrap();
    let text = latex.replace("\\allowbreak{}", "");
    assert!(text.contains("\\_50\\%\\&\\$\\textquotedbl{}\\textquotesingle{} & 1 & "), "{latex}");
    assert_eq!(latex.matches("\\begin{table}").count(), latex.matches("\\bottomrule").count());
}

#[test]
fn no_name_reaches_the_terminal_as_a_control_character() {
    let sandbox = Sandbox::new();
    let test: Vec<Row> = vec![("a", 1.0, 3.0, ""), ("b", 2.0, 2.5, "")];
    let other: Vec<Row> = vec![("\u{1b}[2Ja", 1.0, 3.0, ""), ("b", 2.0, 2.5, "")];
    let hostile = "\u{1b}]0;title\u{7}run";
    Run { set: "", seed: 1, val: &VAL, test: Some(&test) }.write(&sandbox, hostile);
    let set = "model.fusion.strategy=sum";
    Run { set, seed: 1, val: &VAL, test: Some(&other) }.write(&sandbox, "other");
    for more in ["--no-images", "--json"] {
        let output = sandbox.run(&["report", hostile, "other", "-o", "r.html", more]);
        for text in [output.stdout, output.stderr] {
            let text = String::from_utf8(text).unwrap();
            let control = text.chars().find(|c| c.is_control() && *c != '\n');
            assert_eq!(control, None, "{text:?}");
        }
    }
    // An error names the folder.
    std::fs::write(sandbox.path(&format!("{hostile}/summary.json")), "{}").unwrap();
    let (_, error) = sandbox.fails(&["report", hostile, "-o", "r.html"]);
    assert!(!error.contains('\u{1b}') && error.contains("summary.json"), "{error:?}");
}

#[test]
fn no_name_is_a_formula_in_a_csv_file_and_none_starts_a_line_break_option_in_latex() {
    let sandbox = Sandbox::new();
    let test: Vec<Row> = vec![
        ("=cmd|' /C calc'!A0.png", 1.0, 3.0, "@group"),
        ("b.png", 2.0, 2.5, "-group"),
        ("c.png", 3.0, 2.0, "[group"),
    ];
    for (folder, set) in [("=1+1", ""), ("[9em]", "model.fusion.strategy=sum")] {
        let run = Run { set, seed: 1, val: &VAL, test: Some(&test) };
        run.write(&sandbox, folder);
    }
    sandbox.done(&["report", "=1+1", "[9em]", "-o", "r.html", "--no-images"]);
    for file in fs::read_dir(sandbox.path(".")).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "csv") {
            continue;
        }
        let mut csv = csv::ReaderBuilder::new().has_headers(false).from_path(&path).unwrap();
        for cell in csv
            .records()
            .flat_map(|row| row.unwrap().iter().map(str::to_string).collect::<Vec<_>>())
        {
            let formula = cell.starts_with(['=', '+', '-', '@', '\t', '\r']);
            assert!(!formula || cell.parse::<f64>().is_ok(), "{}: {cell}", path.display());
        }
    }
    let rows = csv_rows(&sandbox.path("r.by-group.csv"));
    assert_eq!(rows[0]["group"], "'-group");
    let latex = fs::read_to_string(sandbox.path("r.tex")).unwrap();
    assert!(latex.contains("    {[}9em]"), "{latex}");
}

#[test]
fn paths_are_without_the_working_folder_and_home_folders() {
    let sandbox = Sandbox::new();
    let folder = sandbox.path("").canonicalize().unwrap().display().to_string();
    for (name, root) in [("a", "/home/anna/a.csv".to_owned()), ("b", format!("{folder}/b.csv"))] {
        let set = format!("data.dataset=csv data.root={root}");
        let run = Run { set: &set, seed: 1, val: &VAL, test: None };
        run.write(&sandbox, name);
    }
    let [a, b] = ["a", "b"].map(|name| format!("{folder}/{name}"));
    sandbox.done(&["report", &a, &b, "-o", "r.html", "--no-images"]);
    for file in ["r.html", "r.md", "r.tex"] {
        let text = fs::read_to_string(sandbox.path(file)).unwrap();
        for path in [&folder, "/home/anna"] {
            assert!(!text.contains(path), "{path} is in {file}");
        }
        if file == "r.html" {
            assert!(text.contains("~/a.csv") && text.contains("./b.csv"), "{text}");
        }
    }
}
