//! The report's files: the HTML page, and its tables for documents and programs.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::assemble::RunReport;
use super::html::EmbeddedImages;
use super::selection::selection;
use super::tables::{LATEX_PREAMBLE, Table, escape_markdown};
use crate::files::write_atomic;

/// Writes `NAME.html`, `NAME.md` and `NAME.tex`, and a CSV file for each table: `NAME.csv` holds
/// the leaderboard, `NAME.TABLE.csv` any other table. Returns the files' paths.
pub fn write(report: &RunReport, page: &Path, images: &EmbeddedImages) -> Result<Vec<PathBuf>> {
    check_name(page)?;
    if let Some(folder) = page.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::create_dir_all(folder)
            .with_context(|| format!("cannot create the folder {}", folder.display()))?;
    }
    let tables = report.tables()?;
    let mut files = vec![
        (page.to_path_buf(), report.to_html(images)?.into_bytes()),
        (page.with_extension("md"), markdown(report, &tables).into_bytes()),
        (page.with_extension("tex"), latex(&tables).into_bytes()),
    ];
    for table in &tables {
        let extension = match table.key.as_str() {
            "leaderboard" => "csv".to_string(),
            key => format!("{key}.csv"),
        };
        files.push((page.with_extension(extension), table.to_csv()?));
    }
    for (path, bytes) in &files {
        write_atomic(path, |out| Ok(out.write_all(bytes)?))?;
    }
    Ok(files.into_iter().map(|(path, _)| path).collect())
}

/// Checks that a page is named `NAME.html`, before any work is done.
pub fn check_name(page: &Path) -> Result<()> {
    ensure!(
        page.extension().is_some_and(|extension| extension == "html"),
        "--output must name a file that ends in .html, is {}",
        page.display()
    );
    Ok(())
}

fn markdown(report: &RunReport, tables: &[Table]) -> String {
    let mut text = format!("# {}\n\n", escape_markdown(&report.title));
    let selected = report.leaderboards.iter().flat_map(|board| selection(report, board));
    for note in selected.chain(report.notes.iter().cloned()) {
        text += &format!("- {}\n", escape_markdown(&note));
    }
    if text.ends_with("\n") && !text.ends_with("\n\n") {
        text += "\n";
    }
    let short = tables.iter().filter(|table| table.is_short());
    text + &short.map(Table::to_markdown).collect::<String>()
}

fn latex(tables: &[Table]) -> String {
    let short = tables.iter().filter(|table| table.is_short());
    short.fold(LATEX_PREAMBLE.to_string(), |text, table| text + "\n" + &table.to_latex())
}
