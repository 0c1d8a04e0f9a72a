//! The report's files: the page, and the same tables beside it for documents and programs.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::assemble::Report;
use super::html::EmbeddedImages;
use super::tables::{PREAMBLE, Table};
use crate::files::write_whole;

/// Writes `NAME.html`, `NAME.md` and `NAME.tex`, and a CSV file for each table: `NAME.csv` has the
/// leaderboard, `NAME.TABLE.csv` the others. What was written.
///
/// # Errors
/// A name without the ending `.html`, or a file that cannot be written.
pub fn write(report: &Report, page: &Path, images: &EmbeddedImages) -> Result<Vec<PathBuf>> {
    check_name(page)?;
    if let Some(folder) = page.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make the folder {}", folder.display()))?;
    }
    let tables = report.tables()?;
    let mut files: Vec<(PathBuf, Vec<u8>)> = vec![
        (page.to_path_buf(), report.to_html(images)?.into_bytes()),
        (page.with_extension("md"), markdown(report, &tables).into_bytes()),
        (page.with_extension("tex"), latex(&tables).into_bytes()),
    ];
    for table in &tables {
        let ending = match table.key.as_str() {
            "leaderboard" => "csv".to_string(),
            key => format!("{key}.csv"),
        };
        files.push((page.with_extension(ending), table.to_csv()?));
    }
    for (path, bytes) in &files {
        write_whole(path, |out| Ok(out.write_all(bytes)?))?;
    }
    Ok(files.into_iter().map(|(path, _)| path).collect())
}

/// Refuses a page that is not called `NAME.html`, before any work is done.
///
/// # Errors
/// Another ending.
pub fn check_name(page: &Path) -> Result<()> {
    let ending = page.extension().unwrap_or_default();
    ensure!(
        ending == "html" && page.file_stem().is_some(),
        "--output must name a file that ends in .html, is {}",
        page.display()
    );
    Ok(())
}

fn markdown(report: &Report, tables: &[Table]) -> String {
    let escape = super::tables::escape_markdown;
    let mut text = format!("# {}\n\n", escape(&report.title));
    for note in &report.notes {
        text += &format!("- {}\n", escape(note));
    }
    if !report.notes.is_empty() {
        text += "\n";
    }
    for table in tables.iter().filter(|table| Report::is_for_people(table)) {
        text += &table.to_markdown();
    }
    text
}

fn latex(tables: &[Table]) -> String {
    let mut text = PREAMBLE.to_string();
    for table in tables.iter().filter(|table| Report::is_for_people(table)) {
        text += &format!("\n{}", table.to_latex());
    }
    text
}
