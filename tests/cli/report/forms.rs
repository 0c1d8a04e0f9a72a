//! The page, Markdown and LaTeX: a name is never taken for markup.

use std::fs;

use super::written::{Row, Run, VAL};
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
    assert!(latex.contains("\\_50\\%\\&\\$\\textquotedbl{}\\textquotesingle{} & 1 & "), "{latex}");
    assert_eq!(latex.matches("\\begin{tabular}").count(), latex.matches("\\bottomrule").count());
}
