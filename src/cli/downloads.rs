//! Downloads of pretrained weights on stderr: a line each, and a bar on a terminal.

use indicatif::{ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use super::console::Console;
use crate::models::weights::Download;

const BAR: &str = "{bar:30} {bytes}/{total_bytes}  {bytes_per_sec}  eta {eta}";

/// Shows downloads on a console.
pub(super) struct Downloads {
    console: Console,
    /// The address of the last file.
    url: String,
}

impl Downloads {
    pub(super) fn new(console: &Console) -> Self {
        Self { console: console.clone(), url: String::new() }
    }

    /// Shows the progress of a download, once its size is known.
    pub(super) fn show(&mut self, download: &Download) {
        let Download { url, done, total } = *download;
        if total == 0 {
            return;
        }
        let bar = self.console.bar();
        if self.url != url {
            self.url = url.to_owned();
            self.console.event("download", &json!({"url": url, "bytes": total}));
            self.console.info(&format!("downloading {url} ({:.1} MB)", total as f64 / 1e6));
            if self.console.is_verbose() {
                bar.reset();
                bar.set_length(total);
                if let Ok(style) = ProgressStyle::with_template(BAR) {
                    bar.set_style(style);
                }
                // The bar stays hidden if stderr is not a terminal.
                bar.set_draw_target(ProgressDrawTarget::stderr());
            }
        }
        bar.set_position(done);
        if done >= total {
            bar.finish_and_clear();
        }
    }
}
