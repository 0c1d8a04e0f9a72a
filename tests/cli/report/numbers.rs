//! The numbers in the tables.

use serde_json::Value;
use vm_beautynet::eval::predictions::Predictions;
use vm_beautynet::eval::statistics::MetricsWithCi;

use super::written::{Run, VAL, csv_rows, grouped, model};
use crate::sandbox::Sandbox;

fn close(text: &str, expected: f64) {
    let value: f64 = text.parse().unwrap_or_else(|_| panic!("{text:?} is no number"));
    assert!((value - expected).abs() < 1e-9, "{value} is not {expected}");
}

/// Two seeds of one model, whose errors are 0.25 and 0.75, and another model with 1.0.
fn three_runs() -> Sandbox {
    let sandbox = Sandbox::new();
    for (folder, set, seed, off) in [
        ("good-1", "", 1, 0.25),
        ("good-2", "", 2, 0.75),
        ("bad", "model.fusion.strategy=sum", 1, 1.0),
    ] {
        let test = grouped(off);
        let run = Run { set, seed, val: &VAL, test: Some(&test) };
        run.write(&sandbox, folder);
    }
    sandbox
}

/// The JSON of a report on the three runs, whose page is also written.
fn report_of_three(sandbox: &Sandbox, page: &str) -> Value {
    sandbox.json(&["report", "good-1", "good-2", "bad", "-o", page, "--no-images", "--json"])
}

#[test]
fn a_model_has_the_mean_and_the_sd_over_its_seeds_and_an_interval_over_images() {
    let sandbox = three_runs();
    let report = report_of_three(&sandbox, "out/report.html");
    assert_eq!(report["split"], "test");
    let rows = csv_rows(&sandbox.path("out/report.csv"));
    let (good, bad) = (&rows[0], &rows[1]);
    assert_eq!((good["model"].as_str(), good["seeds"].as_str()), ("good", "2"));
    assert_eq!(bad["model"], "bad");
    close(&good["mae"], 0.5);
    close(&good["mae_sd_over_seeds"], 0.5 / 2f64.sqrt());
    close(&good["rmse"], 0.5);
    close(&bad["mae"], 1.0);
    assert_eq!(bad["mae_sd_over_seeds"], "");
    // Every image of a model has the same error, so that no choice of images changes its mean.
    close(&good["mae_lo"], 0.5);
    close(&good["mae_hi"], 0.5);
    assert_eq!((good["parameters"].as_str(), good["images_per_second"].as_str()), ("4321", "12.5"));
    close(&good["seconds"], 90.0);
    // Pearson by hand: prediction is target ± off with alternating sign.
    let pc = |off: f64| {
        let n = 24.0;
        let mean = |f: &dyn Fn(f64) -> f64| (0..24).map(|i| f(f64::from(i))).sum::<f64>() / n;
        let sign = |i: f64| if i % 2.0 == 0.0 { 1.0 } else { -1.0 };
        let t = |i: f64| 1.0 + i / 6.0;
        let p = |i: f64| t(i) + sign(i) * off;
        let (mt, mp) = (mean(&t), mean(&p));
        let cov = mean(&|i| (t(i) - mt) * (p(i) - mp));
        cov / (mean(&|i| (t(i) - mt).powi(2)) * mean(&|i| (p(i) - mp).powi(2))).sqrt()
    };
    close(&good["pc"], (pc(0.25) + pc(0.75)) / 2.0);
    assert_eq!(rows[2]["model"], "linear model on 16×16 gray pixels");
    close(&rows[2]["pc"], 0.25);
    assert_eq!(rows[3]["model"], "mean of the group's training scores");
    close(&rows[3]["pc"], 0.125);
    assert_eq!((rows[4]["pc"].as_str(), rows[4]["mae"].as_str()), ("", "0.75"));
}

#[test]
fn differences_are_from_the_best_model_and_corrected_for_their_number() {
    let sandbox = three_runs();
    let report = report_of_three(&sandbox, "report.html");
    let rows = csv_rows(&sandbox.path("report.differences.csv"));
    assert_eq!(rows.len(), 1);
    close(&rows[0]["mae"], 0.5);
    let comparisons = report["leaderboards"][0]["comparisons"].as_array().unwrap();
    assert_eq!(comparisons.len(), 4);
    for comparison in comparisons {
        assert_eq!(comparison["first"], "good");
        // One comparison of each metric: nothing to correct for.
        assert_eq!(comparison["p"], comparison["p_holm"]);
    }
}

#[test]
fn groups_of_sex_and_ethnicity_have_tables_of_their_own() {
    let sandbox = three_runs();
    let report = sandbox.json(&["report", "good-1", "-o", "report.html", "--no-images", "--json"]);
    let by_sex = csv_rows(&sandbox.path("report.by-sex.csv"));
    let women = &by_sex[0];
    assert_eq!((women["sex"].as_str(), women["n"].as_str()), ("female", "12"));
    close(&women["mae"], 0.25);
    close(&women["bias"], 0.25);
    close(&by_sex[1]["bias"], -0.25);
    // Within a sex every prediction has the same error.
    close(&women["pc"], 1.0);
    let by_group = csv_rows(&sandbox.path("report.by-group.csv"));
    let labels: Vec<&str> = by_group.iter().map(|row| row["group"].as_str()).collect();
    assert_eq!(labels, ["female/asian", "female/black", "male/asian", "male/black"]);
    // Six images are too few for a correlation or an interval.
    assert_eq!((by_group[0]["n"].as_str(), by_group[0]["pc"].as_str()), ("6", ""));
    assert_eq!(by_group[0]["mae_lo"], "");
    close(&by_group[0]["bias"], 0.25);
    let ethnicity = csv_rows(&sandbox.path("report.by-ethnicity.csv"));
    close(&ethnicity[0]["bias"], 0.0);
    close(&ethnicity[0]["mae"], 0.25);
    let groups = model(&report, "good-1")["by_group"].as_array().unwrap();
    let by: Vec<&Value> = groups.iter().map(|breakdown| &breakdown["by"]).collect();
    assert_eq!(by, ["group", "sex", "ethnicity"]);
}

#[test]
fn score_ranges_have_round_ends_and_hold_every_image() {
    let sandbox = three_runs();
    sandbox.done(&["report", "bad", "-o", "report.html", "--no-images"]);
    let rows = csv_rows(&sandbox.path("report.by-score.csv"));
    let ranges: Vec<&str> = rows.iter().map(|row| row["score_range"].as_str()).collect();
    assert_eq!(ranges, ["1 to 2", "2 to 3", "3 to 4", "4 to 5"]);
    let n: Vec<&str> = rows.iter().map(|row| row["n"].as_str()).collect();
    assert_eq!(n, ["6", "6", "6", "6"]);
    close(&rows[0]["mae"], 1.0);
    close(&rows[0]["bias"], 0.0);
}

#[test]
fn on_val_nothing_about_the_test_images_is_read_or_shown() {
    let sandbox = three_runs();
    // A file that cannot be read would be an error.
    std::fs::write(sandbox.path("bad/predictions_test.csv"), "damaged").unwrap();
    let maps = r#"{"split": "test", "method": "m", "images": 1, "agreement": null, "curves": [], "regions": [], "sanity": null}"#;
    std::fs::write(sandbox.path("bad/explain_test.json"), "damaged").unwrap();
    std::fs::write(sandbox.path("bad/explain_evaluate.json"), maps).unwrap();
    let report = sandbox.json(&[
        "report",
        "good-1",
        "bad",
        "-o",
        "report.html",
        "--split",
        "val",
        "--no-images",
        "--json",
    ]);
    assert_eq!(report["split"], "val");
    close(&model(&report, "bad")["metrics"]["mae"]["mean"].to_string(), 0.25);
    for file in report["files"].as_array().unwrap() {
        let text = std::fs::read_to_string(sandbox.path(file.as_str().unwrap())).unwrap();
        for word in ["t00", "female", "test images"] {
            let found =
                text.lines().find(|line| line.contains(word) && !line.starts_with("<!DOCTYPE"));
            assert!(found.is_none(), "{file}: {word}: {found:?}");
        }
    }
    assert!(!sandbox.path("report.by-sex.csv").exists());
}

#[test]
fn one_number_has_one_interval_in_the_summary_and_the_report() {
    let sandbox = Sandbox::new();
    // The images of a split are not sorted by name.
    let mut rows = String::from("image,score,split\n");
    for i in 0..36u8 {
        let name = format!("{:02}.png", u16::from(i) * 23 % 36);
        sandbox.image(&name, i * 7);
        let split = ["train", "val", "test"][usize::from(i % 3)];
        rows += &format!("{name},{},{split}\n", i % 7);
    }
    std::fs::write(sandbox.path("list.csv"), rows).unwrap();
    sandbox.train("run", &["data={dataset: csv, root: list.csv}", "train.epochs=1"]);
    let summary = sandbox.read_json("run/summary.json");
    let names = csv_rows(&sandbox.path("run/predictions_test.csv"));
    assert!(!names.is_sorted_by_key(|row| &row["image"]));
    let report = sandbox.json(&["report", "run", "-o", "r.html", "--no-images", "--json"]);
    let row = &csv_rows(&sandbox.path("r.csv"))[0];
    for metric in ["pc", "mae", "rmse", "srcc"] {
        let shown = &model(&report, "run")["metrics"][metric];
        assert_eq!(shown["mean"], summary["test"][metric], "{metric}");
        let ci = &summary["test"][format!("{metric}_ci")];
        assert_eq!(&shown["ci_over_images"], ci, "{metric}");
        let written = ["lo", "hi"].map(|end| row[&format!("{metric}_{end}")].parse().unwrap());
        assert_eq!(written.map(Some), [ci[0].as_f64(), ci[1].as_f64()] as [Option<f64>; 2]);
    }
    // Written by evaluate and read again, the predictions have the intervals that it printed.
    let evaluated = sandbox.json(&["evaluate", "run", "--predictions", "asked.csv", "--json"]);
    let asked = Predictions::read(&sandbox.path("asked.csv")).unwrap();
    let asked = serde_json::to_value(MetricsWithCi::new(&asked).unwrap()).unwrap();
    for key in ["pc", "pc_ci", "mae", "mae_ci", "rmse", "rmse_ci", "srcc", "srcc_ci"] {
        assert_eq!(asked[key], evaluated[key], "{key}");
    }
}

#[test]
fn a_baseline_that_wins_is_bold_and_in_the_headline() {
    let sandbox = Sandbox::new();
    let names = ["a", "b", "c", "d"];
    let rows = names.map(|name| (name, f64::from(name.as_bytes()[0]), 0.0, ""));
    let of = |predictions: [f64; 4]| {
        rows.map(|(name, target, _, group)| {
            let at = usize::from(name.as_bytes()[0] - b'a');
            (name, target, predictions[at], group)
        })
    };
    // The linear model reaches PC 0.25 and MAE 0.7.
    let worse = of([2.0, 1.0, 2.0, 1.0]);
    Run { set: "", seed: 1, val: &VAL, test: Some(&worse) }.write(&sandbox, "worse");
    let report = ["report", "worse", "-o", "r.html", "--no-images"];
    let text = sandbox.done(&report);
    assert!(text.contains("a baseline wins: linear model on 16×16 gray pixels"), "{text}");
    let page = std::fs::read_to_string(sandbox.path("r.html")).unwrap();
    let lead = page.split("class=\"lead\"").nth(1).unwrap();
    assert!(
        lead.starts_with(
            "><strong>A baseline wins: linear model on 16×16 gray pixels</strong>: PC 0.2500."
        ),
        "{lead}"
    );
    let markdown = std::fs::read_to_string(sandbox.path("r.md")).unwrap();
    assert!(
        markdown.contains("| linear model on 16×16 gray pixels |  | **0.2500** |"),
        "{markdown}"
    );
    let better = of([97.0, 98.0, 99.0, 101.0]);
    Run { set: "", seed: 1, val: &VAL, test: Some(&better) }.write(&sandbox, "better");
    let report = ["report", "better", "worse", "-o", "r.html", "--no-images", "--json"];
    let json = sandbox.json(&report);
    assert_eq!(json["leaderboards"][0]["winning_baseline"], Value::Null);
    assert_eq!(json["leaderboards"][0]["baselines"]["linear"]["pc"], 0.25);
    let markdown = std::fs::read_to_string(sandbox.path("r.md")).unwrap();
    assert!(
        markdown.contains("| linear model on 16×16 gray pixels |  |  | 0.2500 |"),
        "{markdown}"
    );
}
