//! A web page that scores photos in the browser, with ONNX Runtime Web. It needs no server: the
//! model and the runtime are scripts, and the page's security policy lets nothing out.

use std::{fs, slice};

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use maud::{DOCTYPE, Markup, html};
use serde_json::json;

use super::Writer;
use super::onnx::convert;
use crate::files::fetched_folder;
use crate::models::onnx::OnnxOptions;
use crate::run::{Run, calibrate};

/// What the page may load: its own scripts and what they hold. Nothing can be sent.
const POLICY: &str = "default-src 'none'; script-src 'self' blob: 'wasm-unsafe-eval'; \
                      style-src 'self'; img-src blob: data:; base-uri 'none'; form-action 'none'";
/// ONNX Runtime Web as scripts/setup.py fetches it: a folder of the cache and the script in it.
const RUNTIME: [&str; 2] = ["onnxruntime-web-1.30.0", "onnxruntime.js"];
const SCRIPTS: [(&str, &str); 2] =
    [("resample.js", include_str!("resample.js")), ("page.js", include_str!("page.js"))];
/// The fraction of ratings that the page's intervals cover.
const LEVEL: f64 = 0.9;
/// Bytes of the model in each string of its script, whose length browsers limit; a multiple of
/// three, so that the strings can be decoded one by one.
const PIECE: usize = 3 << 24;

/// Writes the page, its scripts and the model.
pub(super) fn write(run: &Run, writer: &mut Writer) -> Result<()> {
    let runtime = runtime()?;
    let (model, preprocess) = convert(run, OnnxOptions::default())?;
    // A run that is not finished or has few validation images has none.
    let interval = calibrate(slice::from_ref(run), LEVEL).ok();
    let interval = interval.map(|of| json!({"level": LEVEL, "half": of.interval(&[0.0]).hi}));
    let page = page(&run.config.name, interval.is_some()).into_string();
    let about = json!({"preprocess": preprocess, "interval": interval});
    let mut script = format!("const RUN = {about};\nconst MODEL = [];\n");
    for piece in model.chunks(PIECE) {
        script += &format!("MODEL.push(\"{}\");\n", BASE64_STANDARD.encode(piece));
    }
    writer.text("index.html", &page)?;
    writer.text("style.css", include_str!("style.css"))?;
    writer.text(RUNTIME[1], &runtime)?;
    writer.text("model.js", &script)?;
    SCRIPTS.iter().try_for_each(|(name, text)| writer.text(name, text))
}

fn page(name: &str, has_interval: bool) -> Markup {
    let scripts = [RUNTIME[1], "model.js"].into_iter().chain(SCRIPTS.map(|(name, _)| name));
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
