//! Label files with an image's name and its score on each line.

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};

use crate::files::read_regular;

/// The largest label file that is read, in bytes: millions of lines.
const MAX_FILE: u64 = 256 << 20;

/// Reads a label file with an image's name and its score on each line, separated by white space; a
/// name that holds spaces may be quoted. Empty lines are skipped.
pub(crate) fn read_scores(file: &Path) -> Result<Vec<(String, f32)>> {
    let bytes = read_regular(file, MAX_FILE)
        .with_context(|| format!("{}: cannot be read", file.display()))?;
    let mut rows = Vec::new();
    for (index, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
        let parsed = std::str::from_utf8(line)
            .map_err(|_| anyhow!("is not UTF-8; save the file as UTF-8"))
            .and_then(|line| parse_line(line.trim_start_matches('\u{feff}').trim()));
        match parsed {
            Ok(row) => rows.extend(row),
            Err(error) => bail!("{}:{}: {error:#}", file.display(), index + 1),
        }
    }
    if rows.is_empty() {
        bail!("{}: names no image; expected lines of a name and a score", file.display());
    }
    Ok(rows)
}

fn parse_line(line: &str) -> Result<Option<(String, f32)>> {
    if line.is_empty() {
        return Ok(None);
    }
    let (name, score) = match line.strip_prefix('"') {
        Some(rest) => rest.rsplit_once('"').context("the quote around the name does not end")?,
        None => line
            .rsplit_once(char::is_whitespace)
            .context("expected a name, white space and a score")?,
    };
    // A quote within a quoted name is written twice.
    let name = if line.starts_with('"') {
        name.replace("\"\"", "\"")
    } else {
        name.trim_end().to_string()
    };
    if name.is_empty() {
        bail!("the name is empty");
    }
    Ok(Some((name, parse_score(score)?)))
}

pub(crate) fn parse_score(text: &str) -> Result<f32> {
    match text.trim().parse::<f32>() {
        Ok(score) if score.is_finite() => Ok(score),
        _ => bail!("the score {:?} is not a finite number", text.trim()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn read(text: impl AsRef<[u8]>) -> Result<Vec<(String, f32)>> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("list.txt");
        fs::write(&file, text).unwrap();
        read_scores(&file)
    }

    #[test]
    fn names_with_spaces_and_quotes_are_read() {
        let rows = read(
            "\u{feff}./a/b.jpg 3.5\r\n\n\"a/with space (1).jpg\" 7\n\
             unquoted with space.jpg\t2e0\n\"say \"\"hi\"\".jpg\" 1\n",
        )
        .unwrap();
        let expected = [
            ("./a/b.jpg", 3.5),
            ("a/with space (1).jpg", 7.0),
            ("unquoted with space.jpg", 2.0),
            ("say \"hi\".jpg", 1.0),
        ];
        assert_eq!(rows, expected.map(|(name, score)| (name.to_string(), score)));
    }

    #[test]
    fn a_bad_line_is_named_by_file_and_line() {
        for (text, complaint) in [
            ("a.jpg 1\nb.jpg many\n", "list.txt:2: the score \"many\" is not a finite number"),
            ("a.jpg NaN", "list.txt:1: the score \"NaN\" is not a finite number"),
            ("a.jpg 1\n\nlonely\n", "list.txt:3: expected a name, white space and a score"),
            ("\"open.jpg 3\n", "list.txt:1: the quote around the name does not end"),
            ("\"\" 3\n", "list.txt:1: the name is empty"),
            ("\n\n", "names no image"),
        ] {
            let error = format!("{:#}", read(text).unwrap_err());
            assert!(error.contains(complaint), "{text:?}: {error}");
        }
        assert!(
            format!("{:#}", read(b"caf\xe9.jpg 3").unwrap_err())
                .contains("list.txt:1: is not UTF-8")
        );
    }
}
