//! The text of a table: its encoding, what precedes its header, and what separates its columns.
//!
//! Spreadsheet programs write tables in many forms: UTF-16, semicolons where the comma is the
//! decimal point, a first line `sep=;`. All that is unambiguous is read.

use std::fmt;
use std::fs::File;
use std::io::{Cursor, Read, Seek, SeekFrom};
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};
use csv::{ReaderBuilder, StringRecord, Trim};

use crate::config::Delimiter;
use crate::data::datasets::votes::{self, Cell};
use crate::files::{open_regular, printable};

/// The bytes in which the header has to end.
const HEAD: u64 = 1 << 16;
/// The most columns of a spreadsheet.
const MAX_COLUMNS: u32 = 4096;
/// The most empty rows in a row of a spreadsheet that are kept.
const MAX_GAP: u32 = 1000;
/// The largest UTF-16 file, which is converted in memory.
const MAX_UTF16: u64 = 256 << 20;

/// A table that is open at its header.
pub(super) struct Table {
    /// Its path, for messages.
    name: String,
    pub(super) reader: csv::Reader<Box<dyn Read>>,
    pub(super) header: Header,
    /// The number of lines before the header.
    lines_before: u64,
}

/// The names of the columns, and what separates them.
#[derive(Debug, Default)]
pub(super) struct Header {
    pub(super) names: StringRecord,
    pub(super) separator: Separator,
}

impl Header {
    fn read(text: impl Read, separator: Separator) -> Self {
        let names = builder(separator).from_reader(text).headers().cloned().unwrap_or_default();
        Self { names, separator }
    }
}

/// Lists the columns, the first ones where there are many.
impl fmt::Display for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MAX_LISTED: usize = 12;
        let short = |name: &str| printable(name.chars().take(60).collect::<String>());
        let names: Vec<String> = self.names.iter().take(MAX_LISTED).map(short).collect();
        let more = if self.names.len() > MAX_LISTED { ", ..." } else { "" };
        let columns = if self.names.len() == 1 { "column" } else { "columns" };
        let names = names.join(", ");
        write!(f, "separated by {}, the file has the {columns} {names}{more}", self.separator)
    }
}

/// The byte that separates columns.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Separator(pub(super) u8);

impl Default for Separator {
    fn default() -> Self {
        Self(b',')
    }
}

impl fmt::Display for Separator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            b',' => f.write_str("commas"),
            b';' => f.write_str("semicolons"),
            b'\t' => f.write_str("tabs"),
            b'|' => f.write_str("vertical bars"),
            other => write!(f, "{:?}", char::from(other)),
        }
    }
}

impl Table {
    /// Opens a table. Where the delimiter is to be found out, it is the one by which the header has
    /// the columns that `is_complete` wants, or else the most columns. Returns an error, which
    /// names the file, if it is not a text.
    pub(super) fn open(
        file: &Path,
        delimiter: Delimiter,
        is_complete: impl Fn(&Header) -> bool,
    ) -> Result<Self> {
        let name = file.display().to_string();
        let mut text = Text::open(file).with_context(|| name.clone())?;
        if text.is_spreadsheet() {
            text = Text::Sheet(sheet_text(file)?);
        }
        let head = text.head().with_context(|| name.clone())?;
        ensure!(!head.trim_ascii().is_empty(), "{name}: is empty; it needs a header and rows");
        let start = Start::of(&head, &is_complete);
        let separator = match (delimiter, start.separator) {
            _ if text.is_spreadsheet() => Separator(b'\t'),
            (Delimiter::Comma, _) => Separator(b','),
            (Delimiter::Semicolon, _) => Separator(b';'),
            (Delimiter::Tab, _) => Separator(b'\t'),
            (Delimiter::Bar, _) => Separator(b'|'),
            (Delimiter::Auto, Some(stated)) => stated,
            (Delimiter::Auto, None) => detect(&head[start.bytes..], is_complete).separator,
        };
        let text = text.from(start.bytes).with_context(|| name.clone())?;
        let mut reader = builder(separator).from_reader(text);
        let lines_before = start.lines;
        let names = reader.headers().cloned();
        let names = names.map_err(|error| explain(&name, lines_before, &error))?;
        Ok(Self { name, reader, header: Header { names, separator }, lines_before })
    }

    /// Returns the file and the line of the header, for messages.
    pub(super) fn header_place(&self) -> Place<'_> {
        Place { name: &self.name, line: self.lines_before + 1 }
    }

    /// Reads the next row that is not empty into `record`, and returns its place, for messages;
    /// `None` at the end.
    pub(super) fn next(&mut self, record: &mut StringRecord) -> Result<Option<Place<'_>>> {
        loop {
            let more = self.reader.read_record(record);
            if !more.map_err(|error| explain(&self.name, self.lines_before, &error))? {
                return Ok(None);
            }
            // Spreadsheet programs write rows of delimiters below a table, and columns beside it.
            if record.iter().all(str::is_empty) {
                continue;
            }
            let line = self.lines_before + record.position().map_or(0, |at| at.line());
            let place = Place { name: &self.name, line };
            let (fields, columns) = (record.len(), self.header.names.len());
            let surplus = record.iter().skip(columns).any(|field| !field.is_empty());
            ensure!(
                fields >= columns && !surplus,
                "{place}: has {fields} fields, the header {columns}; quote fields with {}",
                self.header.separator
            );
            return Ok(Some(place));
        }
    }
}

/// A line of a file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    name: &'a str,
    line: u64,
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, self.line)
    }
}

fn builder(separator: Separator) -> ReaderBuilder {
    let mut builder = ReaderBuilder::new();
    builder.trim(Trim::All).flexible(true).delimiter(separator.0);
    builder
}

/// Returns the header by the delimiter that makes it complete, or else most columns.
fn detect(text: &[u8], is_complete: impl Fn(&Header) -> bool) -> Header {
    let [comma, others @ ..] =
        [b',', b';', b'\t', b'|'].map(|byte| Header::read(text, Separator(byte)));
    let is_better = |best: &Header, header: &Header| {
        let rank = |header: &Header| (is_complete(header), header.names.len());
        rank(header) > rank(best)
    };
    others.into_iter().fold(
        comma,
        |best, header| {
            if is_better(&best, &header) { header } else { best }
        },
    )
}

/// What precedes the header.
struct Start {
    bytes: usize,
    lines: u64,
    separator: Option<Separator>,
}

impl Start {
    fn of(head: &[u8], is_complete: impl Fn(&Header) -> bool) -> Self {
        let mut start = Self { bytes: 0, lines: 0, separator: None };
        for line in head.split_inclusive(|&byte| byte == b'\n') {
            let text = line.trim_ascii();
            let stated = stated_separator(text);
            // A comment, unless it is the header itself.
            let is_header = || is_complete(&detect(text, &is_complete));
            match stated {
                Some(separator) if start.separator.is_none() => start.separator = Some(separator),
                _ if text.is_empty() || text.starts_with(b"#") && !is_header() => {}
                _ => break,
            }
            start.bytes += line.len();
            start.lines += 1;
        }
        start
    }
}

/// Returns the delimiter that a line `sep=;` states.
fn stated_separator(line: &[u8]) -> Option<Separator> {
    let line = line.strip_prefix(b"\"").and_then(|line| line.strip_suffix(b"\"")).unwrap_or(line);
    match line {
        [s, e, p, b'=', rest @ ..] if [*s, *e, *p].eq_ignore_ascii_case(b"sep") => match rest {
            [byte] if byte.is_ascii() => Some(Separator(*byte)),
            // The trimmed line of a tab.
            [] => Some(Separator(b'\t')),
            _ => None,
        },
        _ => None,
    }
}

/// UTF-8 in a file, or what was converted to it.
enum Text {
    File {
        file: File,
        bom: u64,
    },
    /// UTF-16.
    Converted(Vec<u8>),
    /// The first sheet of a spreadsheet, its columns separated by tabs; empty until it is read.
    Sheet(Vec<u8>),
}

impl Text {
    fn open(path: &Path) -> Result<Self> {
        let mut file = open_regular(path).context("cannot be read")?;
        let mut start = Vec::new();
        (&mut file).take(1024).read_to_end(&mut start).context("cannot be read")?;
        let decode: fn([u8; 2]) -> u16 = match start.as_slice() {
            [0xef, 0xbb, 0xbf, ..] => return Ok(Self::File { file, bom: 3 }),
            [0xff, 0xfe, ..] => u16::from_le_bytes,
            [0xfe, 0xff, ..] => u16::from_be_bytes,
            [b'P', b'K', 3, 4, ..] => return Ok(Self::Sheet(Vec::new())),
            [0xd0, 0xcf, 0x11, 0xe0, ..] => {
                bail!("is an old spreadsheet (.xls); save it as .xlsx or as CSV (UTF-8)")
            }
            [0x1f, 0x8b, ..] => bail!("is compressed; unpack it first"),
            bytes if bytes.contains(&0) => {
                bail!("is not a text file, but binary data; save the table as CSV (UTF-8)")
            }
            _ => return Ok(Self::File { file, bom: 0 }),
        };
        let size = file.metadata().map_or(0, |metadata| metadata.len());
        ensure!(size <= MAX_UTF16, "is UTF-16 of {} MiB; save it as UTF-8", size >> 20);
        file.seek(SeekFrom::Start(2)).context("cannot be read")?;
        let mut bytes = Vec::new();
        file.take(size).read_to_end(&mut bytes).context("cannot be read")?;
        let units = bytes.chunks_exact(2).map(|pair| decode([pair[0], pair[1]]));
        let text: Result<String, _> = char::decode_utf16(units).collect();
        Ok(Self::Converted(text.map_err(|_| anyhow!("is damaged UTF-16"))?.into_bytes()))
    }

    fn is_spreadsheet(&self) -> bool {
        matches!(self, Self::Sheet(_))
    }

    /// Returns the first bytes of the text.
    fn head(&mut self) -> Result<Vec<u8>> {
        let mut head = Vec::new();
        self.from(0)?.take(HEAD).read_to_end(&mut head).context("cannot be read")?;
        Ok(head)
    }

    /// Returns a reader of the text from this byte on.
    fn from(&mut self, offset: usize) -> Result<Box<dyn Read>> {
        Ok(match self {
            Self::File { file, bom } => {
                let mut file = file.try_clone().context("cannot be read")?;
                file.seek(SeekFrom::Start(*bom + offset as u64)).context("cannot be read")?;
                Box::new(file)
            }
            Self::Converted(bytes) | Self::Sheet(bytes) => {
                Box::new(Cursor::new(bytes[offset..].to_vec()))
            }
        })
    }
}

/// Returns the first sheet of a spreadsheet (.xlsx) that has cells, as text with tabs.
fn sheet_text(path: &Path) -> Result<Vec<u8>> {
    let mut writer = csv::WriterBuilder::new().delimiter(b'\t').from_writer(Vec::new());
    let mut found = false;
    votes::each_table(path, |_, header, rows| {
        let last = header.last_key_value().map_or(0, |(&column, _)| column);
        if found || last >= MAX_COLUMNS {
            ensure!(found, "{}: has more than {MAX_COLUMNS} columns", path.display());
            return Ok(());
        }
        found = true;
        let cells = |of: &dyn Fn(u32) -> String| (0..=last).map(of).collect::<Vec<_>>();
        writer.write_record(cells(&|column| header.get(&column).cloned().unwrap_or_default()))?;
        let mut line = 1;
        for (&number, row) in rows {
            // Rows keep their numbers, which messages name.
            for _ in line + 1..number.min(line + MAX_GAP) {
                writer.write_record(cells(&|_| String::new()))?;
            }
            line = number;
            writer.write_record(cells(&|column| {
                row.get(&column).map_or(String::new(), Cell::text)
            }))?;
        }
        Ok(())
    })?;
    ensure!(found, "{}: has no sheet with a table", path.display());
    writer.into_inner().map_err(|error| anyhow!("{error}"))
}

/// Explains why a row cannot be read.
fn explain(name: &str, lines_before: u64, error: &csv::Error) -> anyhow::Error {
    let line = lines_before + error.position().map_or(1, |position| position.line());
    match error.kind() {
        csv::ErrorKind::Utf8 { .. } => {
            anyhow!("{name}:{line}: is not UTF-8; save the file as UTF-8")
        }
        _ => anyhow!("{name}: {error}"),
    }
}
