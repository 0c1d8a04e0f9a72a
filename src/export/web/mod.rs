//! A web page that scores photos in the browser, with ONNX Runtime Web. It needs no server: the
//! model and the runtime are scripts, and the page's security policy lets nothing out.

use std::{fs, slice};

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use maud::{DOCTYPE, Markup, html};
use serde_json::{Value, json};

use super::Writer;
use super::onnx::convert;
use crate::data::Split;
use crate::eval::conformal::{Conformal, images_needed};
use crate::files::fetched_folder;
use crate::models::onnx::OnnxOptions;
use crate::run::{Run, calibrate, finished_predictions};

/// What the page may load: its own scripts and what they hold. Nothing can be sent.
const POLICY: &str = "default-src 'none'; script-src 'self' blob: 'wasm-unsafe-eval'; \
                      style-src 'self'; img-src blob: data:; base-uri 'none'; form-action 'none'";
/// ONNX Runtime Web as scripts/setup.py fetches it: a folder of the cache and the script in it.
const RUNTIME: [&str; 2] = ["onnxruntime-web-1.30.0", "onnxruntime.js"];
const SCRIPTS: [(&str, &str); 2] =
    [("resample.js", include_str!("resample.js")), ("page.js", include_str!("page.js"))];
/// The fraction of ratings that the page's intervals cover.
const LEVEL: f64 = 0.9;
/// Bytes of the model in each of its scripts, whose length browsers limit.
const PIECE: usize = 3 << 24;

/// Writes the page, its scripts and the model.
pub(super) fn write(run: &Run, writer: &mut Writer) -> Result<()> {
    let runtime = runtime()?;
    let (model, preprocess) = convert(run, OnnxOptions::default())?;
    let interval = interval(run)?.map(|of| json!({"level": LEVEL, "half": of.interval(&[0.0]).hi}));
    let pieces = model.chunks(PIECE);
    let names: Vec<String> = (0..pieces.len()).map(script_name).collect();
    let page = page(&run.config.name, &names, interval.is_some()).into_string();
    let about = json!({"preprocess": preprocess, "interval": interval});
    writer.write("index.html", page)?;
    writer.write("style.css", include_str!("style.css"))?;
    writer.write(RUNTIME[1], runtime)?;
    for (at, (name, piece)) in names.iter().zip(pieces).enumerate() {
        writer.write(name, script((at == 0).then_some(&about), piece))?;
    }
    SCRIPTS.iter().try_for_each(|(name, text)| writer.write(name, text))
}

/// Calibrates the page's intervals; `None` if the run is not finished or has too few validation
/// images.
fn interval(run: &Run) -> Result<Option<Conformal>> {
    let Some(folder) = run.finished_folder() else { return Ok(None) };
    if finished_predictions(&folder, Split::Val)?.images.len() < images_needed(LEVEL) {
        return Ok(None);
    }
    calibrate(slice::from_ref(run), LEVEL).map(Some)
}

/// Returns the name of one of the model's scripts.
fn script_name(at: usize) -> String {
    if at == 0 { "model.js".to_string() } else { format!("model-{}.js", at + 1) }
}

/// Returns the script that holds a piece of the model; the first one describes the run too.
fn script(about: Option<&Value>, piece: &[u8]) -> String {
    let first = about.map(|about| format!("const RUN = {about};\nconst MODEL = [];\n"));
    first.unwrap_or_default() + &format!("MODEL.push(\"{}\");\n", BASE64_STANDARD.encode(piece))
}

fn page(name: &str, model: &[String], has_interval: bool) -> Markup {
    let rest = SCRIPTS.map(|(name, _)| name);
    let scripts = [RUNTIME[1]].into_iter().chain(model.iter().map(String::as_str)).chain(rest);
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="viewport" content="width=device-width,initial-scale=1";
                meta name="referrer" content="no-referrer";
                link rel="icon" href="data:,";
                link rel="stylesheet" href="style.css";
                title { (name) ": predicted ratings" }
            }
            body {
                header {
                    h1 { (name) }
                    p {
                        "Predicts the mean rating that the raters of its training images would \
                        give a photo. Ratings are opinions; they are not a property of a face. \
                        This page must not be used to evaluate or identify anyone."
                    }
                }
                main {
                    label #drop {
                        b { "Drop photos here" }
                        span { "or choose files" }
                        input #files type="file" accept="image/*" multiple;
                    }
                    p #status role="status" { "Loading the model…" }
                    noscript { p { "This page needs JavaScript." } }
                    ol #results aria-live="polite" {}
                    p.note {
                        "The photos stay in this browser. Crop the faces as those of the training \
                        images are: the whole photo is resized to the model's input. "
                        @if has_interval {
                            "An interval holds for photos like the validation images, nine in \
                            ten of whose ratings it covers."
                        } @else {
                            "There are no intervals: the run is not finished, or has too few \
                            validation images."
                        }
                    }
                }
                footer {
                    "Written by vmbeauty " (env!("CARGO_PKG_VERSION"))
                    "; the model runs in ONNX Runtime Web. README.md is the model's card."
                }
                @for script in scripts { script src=(script) {} }
            }
        }
    }
}

/// Reads ONNX Runtime Web.
fn runtime() -> Result<String> {
    let remedy = "`make web-runtime` fetches it";
    let folder = fetched_folder(RUNTIME[0]).with_context(|| format!("no home folder: {remedy}"))?;
    let script = folder.join(RUNTIME[1]);
    let shown = script.display();
    ensure!(script.exists(), "the page needs ONNX Runtime Web, there is no {shown}: {remedy}");
    fs::read_to_string(&script).with_context(|| format!("cannot read {shown}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_script_of_a_model_describes_the_run_and_each_adds_one_piece() {
        assert_eq!([0, 1, 9].map(script_name), ["model.js", "model-2.js", "model-10.js"]);
        let about = json!({"interval": null});
        let first = "const RUN = {\"interval\":null};\nconst MODEL = [];\nMODEL.push(\"YWI=\");\n";
        assert_eq!(script(Some(&about), b"ab"), first);
        assert_eq!(script(None, b"abc"), "MODEL.push(\"YWJj\");\n");
        let page = page("big", &[0, 1].map(script_name), true).into_string();
        let scripts = "<script src=\"model.js\"></script><script src=\"model-2.js\"></script>";
        assert!(page.contains(scripts), "{page}");
    }
}
