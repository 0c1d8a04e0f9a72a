//! Individual ratings, from the spreadsheets that datasets publish with their lists.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use calamine::{DataRef, Reader, Xlsx};
use zip::ZipArchive;

use super::locate::is_image_name;
use crate::data::dataset::Split;
use crate::data::listing::{Listing, composed};
use crate::data::panic::catch_panic;
use crate::files::open_regular;

/// The largest spreadsheet that is opened, in bytes: SCUT-FBP5500's 330,000 ratings have ten
/// megabytes.
const MAX_FILE: u64 = 32 << 20;
/// The most bytes of its sheets once they are unpacked, and of everything else in it, which the
/// reader holds in memory.
const MAX_SHEETS: u64 = 256 << 20;
const MAX_OTHERS: u64 = 48 << 20;
const MAX_CELLS: usize = 5_000_000;

#[derive(Debug, Default, PartialEq)]
pub(crate) struct Votes(HashMap<String, Vec<f32>>);

impl Votes {
    /// Reads a table with a line for each rating, under the headings `Filename`, `Rating` and, if
    /// it has one, `Rater`, as SCUT-FBP5500's `All_Ratings.xlsx`. All sheets are read; a rater's
    /// rating of an image counts once.
    pub(crate) fn read_long(file: &Path, key: impl Fn(&str) -> String) -> Result<Self> {
        let mut votes = Self::default();
        let mut seen = HashSet::new();
        each_table(file, |sheet, header, rows| {
            let column =
                |name: &str| header.iter().find(|(_, text)| text.eq_ignore_ascii_case(name));
            let (Some((&name, _)), Some((&rating, _))) = (column("filename"), column("rating"))
            else {
                return Ok(());
            };
            let rater = column("rater").map(|(&column, _)| column);
            for (number, cells) in rows {
                let Some(Cell::Text(image)) = cells.get(&name) else {
                    continue;
                };
                let place = || format!("{}: sheet {sheet:?}, row {number}", file.display());
                let Some(Cell::Number(vote)) = cells.get(&rating) else {
                    bail!("{}: {image} has no rating", place());
                };
                let image = key(image);
                let rater = rater.and_then(|column| cells.get(&column)).map(Cell::text);
                if rater.is_none_or(|rater| seen.insert((image.clone(), rater))) {
                    votes.0.entry(image).or_default().push(*vote as f32);
                }
            }
            Ok(())
        })?;
        ensure!(
            !votes.0.is_empty(),
            "{}: no sheet has the columns Filename and Rating",
            file.display()
        );
        Ok(votes)
    }

    /// Reads a table with a line for each image and a column for each rater, as MEBeauty's
    /// `generic_scores_all_2022.xlsx`: the first cell with the name of an image names it, and every
    /// integer from `range` in another column is a rating, unless the column's heading says that it
    /// is a summary.
    pub(crate) fn read_wide(
        file: &Path,
        range: std::ops::RangeInclusive<f32>,
        key: impl Fn(&str) -> String,
    ) -> Result<Self> {
        const SUMMARIES: [&str; 10] =
            ["mean", "average", "std", "sd", "var", "median", "count", "score", "index", "id"];
        let mut votes = Self::default();
        each_table(file, |_, header, rows| {
            let is_rater = |column: &u32| {
                header.get(column).is_some_and(|text| {
                    let text = text.to_lowercase();
                    !text.starts_with("unnamed") && !SUMMARIES.contains(&text.as_str())
                })
            };
            for cells in rows.values() {
                let image = cells.values().find_map(|cell| match cell {
                    Cell::Text(text) if is_image_name(text) => Some(text),
                    _ => None,
                });
                let Some(image) = image else {
                    continue;
                };
                let is_rating = |vote: f32| range.contains(&vote) && vote.fract() == 0.0;
                let given = cells.iter().filter_map(|(column, cell)| match cell {
                    Cell::Number(vote) if is_rater(column) && is_rating(*vote as f32) => {
                        Some(*vote as f32)
                    }
                    _ => None,
                });
                votes.0.entry(key(image)).or_default().extend(given);
            }
            Ok(())
        })?;
        ensure!(!votes.0.is_empty(), "{}: no row names an image", file.display());
        Ok(votes)
    }

    /// Attaches the votes to the rows of the listing. Returns notes about rows without votes and
    /// rows whose mean vote differs from their score.
    pub(crate) fn attach(
        &self,
        listing: &mut Listing,
        file: &Path,
        key: impl Fn(&str) -> String,
    ) -> Vec<String> {
        let (mut without, mut differing) = (Vec::new(), Vec::new());
        for split in Split::ALL {
            for row in listing.rows_mut(split) {
                match self.0.get(&key(&row.id)).filter(|votes| !votes.is_empty()) {
                    None => without.push(row.id.to_string()),
                    Some(votes) => {
                        let mean = votes.iter().sum::<f32>() / votes.len() as f32;
                        // Lists round their scores.
                        if (mean - row.score).abs() > 0.02 {
                            differing.push(row.id.to_string());
                        }
                        row.labels_mut().votes.clone_from(votes);
                    }
                }
            }
        }
        let note = |rows: &[String], what: &str| {
            let first = rows.first()?;
            Some(format!("{} rows {what} {}; the first is {first}", rows.len(), file.display()))
        };
        [
            note(&without, "have no votes in"),
            note(&differing, "have another score than the mean of their votes in"),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// Returns an image's file name without its folders, in composed Unicode form.
pub(crate) fn file_name(path: &str) -> String {
    composed(path.rsplit(['/', '\\']).next().unwrap_or(path).trim())
}

/// A cell of a spreadsheet.
pub(super) enum Cell {
    Number(f64),
    Text(String),
}

impl Cell {
    pub(super) fn text(&self) -> String {
        match self {
            Cell::Number(number) => number.to_string(),
            Cell::Text(text) => text.clone(),
        }
    }
}

/// Column -> heading.
pub(super) type Header = BTreeMap<u32, String>;
/// Row number as the spreadsheet counts -> column -> cell.
pub(super) type Rows = BTreeMap<u32, BTreeMap<u32, Cell>>;

/// Calls `take` with the name, the first row and the other rows of each sheet that is not empty.
pub(super) fn each_table(
    file: &Path,
    mut take: impl FnMut(&str, &Header, &Rows) -> Result<()>,
) -> Result<()> {
    let name = || file.display().to_string();
    let mut content = open_regular(file).with_context(name)?;
    let length = content.metadata().with_context(name)?.len();
    ensure!(
        length <= MAX_FILE,
        "{}: has {} MiB, more than the {} MiB that are read",
        file.display(),
        length >> 20,
        MAX_FILE >> 20
    );
    guarded(|| ensure_bounded(&mut content)).with_context(name)?;
    content.rewind().with_context(name)?;
    let mut book = guarded(|| Ok(Xlsx::new(BufReader::new(content))?)).with_context(name)?;
    for sheet in book.sheet_names() {
        let table = guarded(|| read_sheet(&mut book, &sheet))
            .with_context(|| format!("{}: sheet {sheet:?}", file.display()))?;
        if let Some((header, rows)) = table {
            take(&sheet, &header, &rows)?;
        }
    }
    Ok(())
}

/// Returns an error if a spreadsheet has more content than a table of ratings needs: a file of
/// three megabytes can unpack to gigabytes. What the archive states of its sizes may be false.
fn ensure_bounded(file: &mut File) -> Result<()> {
    let mut archive = ZipArchive::new(BufReader::new(file))?;
    let (mut sheets, mut others) = (MAX_SHEETS, MAX_OTHERS);
    for index in 0..archive.len() {
        let entry = archive.by_index(index)?;
        let left =
            if entry.name()?.starts_with("xl/worksheets/") { &mut sheets } else { &mut others };
        let read = io::copy(&mut entry.take(*left + 1), &mut io::sink())?;
        *left = left.checked_sub(read).context("unpacks to more than a table of ratings needs")?;
    }
    Ok(())
}

/// Treats a panic in the third-party reader as a damaged file.
fn guarded<T>(read: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_panic(read).context("is not a readable spreadsheet (.xlsx); download it again")
}

/// Reads a sheet cell by cell: one that claims a million empty rows costs nothing.
fn read_sheet<R: Read + Seek>(book: &mut Xlsx<R>, sheet: &str) -> Result<Option<(Header, Rows)>> {
    let mut cells = book.worksheet_cells_reader(sheet)?;
    let mut rows = Rows::new();
    let mut count = 0;
    while let Some(cell) = cells.next_cell()? {
        let (row, column) = cell.get_position();
        let value = match cell.get_value() {
            DataRef::Int(value) => Cell::Number(*value as f64),
            DataRef::Float(value) => Cell::Number(*value),
            DataRef::String(text) => Cell::Text(text.trim().to_string()),
            DataRef::SharedString(text) => Cell::Text(text.trim().to_string()),
            _ => continue,
        };
        count += 1;
        ensure!(count <= MAX_CELLS, "has more than {MAX_CELLS} cells");
        rows.entry(row.saturating_add(1)).or_default().insert(column, value);
    }
    let Some((_, header)) = rows.pop_first() else {
        return Ok(None);
    };
    let header = header.iter().map(|(column, cell)| (*column, cell.text())).collect();
    Ok(Some((header, rows)))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::path::PathBuf;

    use super::*;

    /// Spreadsheets that openpyxl wrote, in the forms of the two datasets.
    fn fixture(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/ratings").join(name)
    }

    #[test]
    fn a_line_per_rating_is_gathered_and_counts_once() {
        let votes = Votes::read_long(&fixture("long.xlsx"), str::to_string).unwrap();
        assert_eq!(votes.0["CF1.jpg"], [3.0, 4.0, 5.0]);
        assert_eq!(votes.0["AM2.jpg"], [1.0, 2.0]);
        assert_eq!(votes.0.len(), 2);
        let error = Votes::read_long(&fixture("wide.xlsx"), str::to_string).unwrap_err();
        assert!(format!("{error:#}").contains("Filename and Rating"), "{error:#}");
    }

    #[test]
    fn a_column_per_rater_is_gathered_without_summaries() {
        let votes = Votes::read_wide(&fixture("wide.xlsx"), 1.0..=10.0, file_name).unwrap();
        assert_eq!(votes.0["x.jpg"], [7.0, 10.0]);
        assert_eq!(votes.0["y (1).jpg"], [2.0, 3.0, 4.0]);
    }

    #[test]
    fn a_spreadsheet_that_unpacks_to_gigabytes_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("All_Ratings.xlsx");
        let mut archive = zip::ZipWriter::new(File::create(&path).unwrap());
        let options = zip::write::SimpleFileOptions::default();
        for name in ["xl/workbook.xml", "xl/sharedStrings.xml"] {
            archive.start_file(name, options).unwrap();
            for _ in 0..=MAX_OTHERS >> 20 {
                archive.write_all(&[b' '; 1 << 20]).unwrap();
            }
        }
        archive.finish().unwrap();
        assert!(std::fs::metadata(&path).unwrap().len() < 1 << 20);
        let error = format!("{:#}", Votes::read_long(&path, str::to_string).unwrap_err());
        assert!(error.contains("All_Ratings.xlsx") && error.contains("unpacks to more"), "{error}");
        assert!(!error.contains('\n'), "{error}");
    }

    #[test]
    fn a_damaged_spreadsheet_is_an_error_with_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let complete = std::fs::read(fixture("long.xlsx")).unwrap();
        let path = folder.path().join("All_Ratings.xlsx");
        for kept in (0..complete.len()).step_by(97) {
            std::fs::write(&path, &complete[..kept]).unwrap();
            let error = Votes::read_long(&path, str::to_string).unwrap_err();
            assert!(format!("{error:#}").contains("All_Ratings.xlsx"), "{error:#}");
        }
    }
}
