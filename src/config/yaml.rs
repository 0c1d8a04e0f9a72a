//! Reads YAML within bounds.
//!
//! A file may be anything: of any size, nested to any depth, or no YAML at all. What a config can
//! honestly need is read; for the rest the error says what the file looks like.

use std::io::ErrorKind;
use std::path::Path;

use serde_yaml::Value;

use super::error::ConfigError;
use super::locate::line_of;
use super::section::join;
use crate::files;

/// Maximum size of a file, in bytes.
const MAX_BYTES: u64 = 1 << 20;
/// Maximum depth of brackets; the parser's time grows with it.
const MAX_DEPTH: usize = 64;

/// Returns whether a file is a config, or meant as one, by its name.
pub fn names_config(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "yaml" || ending == "yml")
}

/// Reads the text of a config or a sweep. Returns an error that says what the file is instead if it
/// is a folder, too large, not text, or no regular file; a shell's pipe is read.
pub(crate) fn read(path: &Path) -> Result<String, ConfigError> {
    files::read_given_text(path, MAX_BYTES).map_err(|error| {
        let reason = match error.kind() {
            ErrorKind::NotFound => "there is no such file".to_string(),
            ErrorKind::IsADirectory => folder_hint(path),
            _ => match ending_hint(path) {
                Some(hint) => format!("{error}; {hint}"),
                None => error.to_string(),
            },
        };
        ConfigError::Read { path: path.to_owned(), reason }
    })
}

/// Parses a config or a sweep, which errors call `origin`, and applies its merge keys.
pub(crate) fn parse(text: &str, origin: &str) -> Result<Value, ConfigError> {
    let problem = |line: Option<usize>, message: String| {
        let place = line.map_or(origin.to_owned(), |line| format!("{origin}:{line}"));
        ConfigError::at(place, "", message)
    };
    let value = parse_bounded(text);
    let scalar = matches!(value, Ok(Value::String(_) | Value::Number(_) | Value::Bool(_)));
    if (scalar || value.is_err()) && is_table(text) {
        let hint = "this is a table, not a config; a config names it: data: {dataset: csv, root: \
                    FILE}";
        return Err(problem(None, hint.into()));
    }
    if scalar {
        let line = text.trim_start().lines().next().unwrap_or_default();
        let start: String = line.chars().take(40).collect();
        let message = format!("a config is a map of keys (key: value), this begins with {start}");
        return Err(problem(None, message));
    }
    let mut value = value.map_err(|(line, message)| problem(line, message))?;
    apply_merges(&mut value, "").map_err(|path| {
        let line = line_of(text, &path.split('.').collect::<Vec<_>>());
        let rule = "must name a map, or a list of maps, whose keys are added, as in <<: *defaults";
        problem(line, format!("{path} {rule}"))
    })?;
    Ok(value)
}

/// Parses a value on one line. Returns an error that says why it is not YAML.
pub(super) fn parse_value(text: &str) -> Result<Value, String> {
    parse_bounded(text).map_err(|(_, message)| message)
}

/// Parses YAML; errors have their line.
fn parse_bounded(text: &str) -> Result<Value, (Option<usize>, String)> {
    if let Some(line) = too_deep(text) {
        return Err((Some(line), format!("brackets are nested more than {MAX_DEPTH} deep")));
    }
    serde_yaml::from_str(text).map_err(|error| {
        let line = error.location().map(|location| location.line());
        match line.and_then(|line| tab_indented(text, line)) {
            Some(line) => (Some(line), "a tab indents the line; YAML indents with spaces".into()),
            None if error.to_string().contains("more than one document") => {
                (line, "a line --- begins a second document; a config is one".into())
            }
            None if text.contains("${env:") => {
                let hint = "a value with ${env:NAME} needs quotes within {...} and [...]";
                (line, format!("not valid YAML: {error}; {hint}"))
            }
            None => (line, format!("not valid YAML: {error}")),
        }
    })
}

/// Adds the keys of the maps in a merge key (`<<: *defaults`) to the map around it, which keeps its
/// own. Returns the dotted path of one that names no map.
fn apply_merges(value: &mut Value, path: &str) -> Result<(), String> {
    match value {
        Value::Mapping(map) => {
            for (key, inner) in map.iter_mut() {
                apply_merges(inner, &join(path, key.as_str().unwrap_or_default()))?;
            }
            let Some(merged) = map.remove("<<") else {
                return Ok(());
            };
            let sources = match merged {
                Value::Sequence(sources) => sources,
                source => vec![source],
            };
            for source in sources {
                let Value::Mapping(source) = source else {
                    return Err(join(path, "<<"));
                };
                for (key, value) in source {
                    map.entry(key).or_insert(value);
                }
            }
            Ok(())
        }
        Value::Sequence(items) => items.iter_mut().try_for_each(|item| apply_merges(item, path)),
        _ => Ok(()),
    }
}

/// Returns the line on which brackets are nested too deep. Brackets in quotes count, those in
/// comments do not.
fn too_deep(text: &str) -> Option<usize> {
    let (mut depth, mut line, mut before, mut comment) = (0usize, 1, b'\n', false);
    for byte in text.bytes() {
        match byte {
            b'\n' => (line, comment) = (line + 1, false),
            _ if comment => {}
            b'#' => comment = before.is_ascii_whitespace(),
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        before = byte;
        if depth > MAX_DEPTH {
            return Some(line);
        }
    }
    None
}

/// Returns the line of a parser's error, or the one before it, if a tab is in its indentation.
fn tab_indented(text: &str, line: usize) -> Option<usize> {
    let indentation = |line: &str| line.len() - line.trim_start().len();
    [line, line.saturating_sub(1), line + 1].into_iter().find(|line| {
        let text = text.lines().nth(line.wrapping_sub(1)).unwrap_or_default();
        !text.trim().is_empty() && text[..indentation(text)].contains('\t')
    })
}

/// Returns whether the first two lines have the same number of delimiters, as those of a table.
fn is_table(text: &str) -> bool {
    let mut lines = text.lines().filter(|line| !line.trim().is_empty()).take(2);
    let (Some(header), row) = (lines.next(), lines.next()) else {
        return false;
    };
    let count = |line: &str, delimiter| line.matches(delimiter).count();
    !header.contains([':', '{', '[', '#'])
        && [',', ';', '\t'].into_iter().any(|delimiter| {
            let columns = count(header, delimiter);
            columns > 0 && row.is_none_or(|row| count(row, delimiter) >= columns)
        })
}

/// Describes a folder that is given in place of a config.
fn folder_hint(path: &Path) -> String {
    let named = |name: &str| path.join(name).is_file().then(|| path.join(name));
    match ["config.yaml", "pretrain.yaml"].into_iter().find_map(named) {
        Some(config) => {
            let (config, run) = (config.display(), path.display());
            format!(
                "is a run directory; its config is {config} (--output {run} --resume continues \
                 the run)"
            )
        }
        None => "is a folder, expected a YAML file; a config names a folder of images in \
                 data.root"
            .into(),
    }
}

/// Suggests what to do with a file that is no text, by the ending of its name.
fn ending_hint(path: &Path) -> Option<&'static str> {
    let ending = path.extension()?.to_str()?.to_ascii_lowercase();
    match ending.as_str() {
        "csv" | "tsv" | "xlsx" | "xls" | "ods" => {
            Some("a config names a table, saved as CSV, in data.root")
        }
        "safetensors" | "pth" | "pt" | "bin" | "ckpt" => {
            Some("a config names weights in model.vit.weights and model.mamba.weights")
        }
        "yaml" | "yml" => None,
        _ => Some("expected a YAML file"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::config::Config;

    fn error(text: &str) -> String {
        parse(text, "a.yaml").unwrap_err().to_string()
    }

    #[test]
    fn deep_nesting_is_refused_at_once() {
        for text in ["[".repeat(200_000), "{a: ".repeat(200_000), "- ".repeat(200_000)] {
            assert!(error(&text).starts_with("a.yaml:1: "));
        }
        let text = format!("a: {}1{}", "[".repeat(MAX_DEPTH), "]".repeat(MAX_DEPTH));
        assert!(parse(&text, "a.yaml").is_ok());
    }

    #[test]
    fn brackets_in_comments_are_not_nested() {
        let comments = "# crop in [0, 1)\n".repeat(MAX_DEPTH + 1);
        assert!(parse(&format!("{comments}a: 1\n"), "a.yaml").is_ok());
        let values: String = (0..=MAX_DEPTH).map(|i| format!("a{i}: 1  # in [0, 1)\n")).collect();
        assert!(parse(&values, "a.yaml").is_ok());
        let deep = format!("# [\na: x#{}", "[".repeat(MAX_DEPTH + 1));
        assert!(error(&deep).starts_with("a.yaml:2: brackets are nested"), "{}", error(&deep));
    }

    #[test]
    fn many_unknown_keys_are_counted_and_the_first_are_listed() {
        let text: String = (0..20_000).map(|key| format!("key_{key}: 1\n")).collect();
        let error = Config::from_yaml(&text, "a.yaml", &[]).unwrap_err().to_string();
        assert_eq!(error.lines().count(), 21);
        assert!(error.starts_with("a.yaml:1: unknown key key_0; "), "{error}");
        assert!(error.ends_with("a.yaml: and 19980 more problems"), "{error}");
    }

    #[test]
    fn a_long_key_or_value_is_cut_in_the_message() {
        let long = "x".repeat(500_000);
        for text in [format!("{long}: 1"), format!("train: {{loss: {long}}}"), long.clone()] {
            let error = Config::from_yaml(&text, "a.yaml", &[]).unwrap_err().to_string();
            let error = files::printable_lines(&error);
            assert!(error.len() < 2000, "{}", error.len());
        }
    }

    #[test]
    fn a_tab_in_the_indentation_is_named() {
        let expected = "a.yaml:2: a tab indents the line; YAML indents with spaces";
        assert_eq!(error("train:\n\tepochs: 3\n"), expected);
        assert_eq!(error("train:\n  \tepochs: 3\n  seed: 1\n"), expected);
    }

    #[test]
    fn a_second_document_is_named() {
        let expected = "a.yaml: a line --- begins a second document; a config is one";
        assert_eq!(error("name: a\n---\nname: b\n"), expected);
    }

    #[test]
    fn a_table_is_recognized_and_not_printed() {
        let rows = "p/a.png,3.5\n".repeat(1000);
        for text in [
            format!("image,score\n{rows}"),
            format!("image;score\n{}", rows.replace(',', ";")),
            format!("image\tscore\n{}", rows.replace(',', "\t")),
            format!("\"image\",\"score\"\n{rows}"),
        ] {
            let error = error(&text);
            assert!(error.starts_with("a.yaml: this is a table, not a config"), "{error}");
        }
        let found = error("hello\nthere\n");
        assert!(found.ends_with("this begins with hello"), "{found}");
    }

    #[test]
    fn what_is_no_config_file_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path();
        fs::write(folder.join("weights.pth"), b"PK\x03\x04\xff").unwrap();
        fs::write(folder.join("utf16.yaml"), b"\xff\xfen\0").unwrap();
        let huge = fs::File::create(folder.join("huge.yaml")).unwrap();
        huge.set_len(1 << 40).unwrap();
        for (name, words) in [
            ("none.yaml", "none.yaml: there is no such file"),
            (".", "is a folder, expected a YAML file"),
            ("weights.pth", "is not text in UTF-8; a config names weights in model.vit.weights"),
            ("utf16.yaml", "is text in UTF-16: save it as UTF-8"),
            ("huge.yaml", "more than the limit of 1 MiB"),
        ] {
            let error = read(&folder.join(name)).unwrap_err().to_string();
            assert!(
                error.starts_with("cannot read the config ") && error.contains(words),
                "{error}"
            );
        }
        #[cfg(unix)]
        {
            let error = read(Path::new("/dev/zero")).unwrap_err().to_string();
            assert!(error.contains("is a pipe, a socket or a device"), "{error}");
        }
        fs::write(folder.join("config.yaml"), "").unwrap();
        let error = read(folder).unwrap_err().to_string();
        assert!(error.contains("is a run directory; its config is "), "{error}");
    }

    #[test]
    fn a_merge_key_adds_the_keys_that_a_map_does_not_have() {
        let text = "\
a: &a {x: 1, y: 1}
b: &b {<<: *a, y: 2, z: 2}
c:
  <<: *b
  z: 3
d: [{<<: [*c, *a], w: 4}]
c2: &c {}
";
        let text = text.replace("c:\n", "c: &c\n").replace("c2: &c {}\n", "");
        let value = parse(&text, "a.yaml").unwrap();
        let expected = "{x: 1, y: 2, z: 3}";
        let expected: Value = serde_yaml::from_str(expected).unwrap();
        assert_eq!(value["c"], expected);
        let expected: Value = serde_yaml::from_str("{w: 4, x: 1, y: 2, z: 3}").unwrap();
        assert_eq!(value["d"][0], expected);
        assert_eq!(
            error("a: 1\nb:\n  <<: 3\n"),
            "a.yaml:3: b.<< must name a map, or a list of maps, whose keys are added, as in \
             <<: *defaults"
        );
    }

    #[test]
    fn a_problem_of_a_merged_key_is_at_the_map_that_merges_it() {
        let text = "model:\n  vit: &small {name: vit_micro_patch8_64, num_heads: 3}\n  \
                    mamba:\n    <<: *small\n    name: vim_micro_patch8_64\n";
        let found = Config::from_yaml(text, "a.yaml", &[]).unwrap_err().to_string();
        assert!(found.starts_with("a.yaml:3: model.mamba.num_heads does not apply"), "{found}");
        let text = text.replace("num_heads: 3", "depth: 2");
        let config = Config::from_yaml(&text, "a.yaml", &["data.image_size=64".into()]).unwrap();
        assert_eq!(config.model.mamba.depth, Some(2));
        assert_eq!(config.model.mamba.name, "vim_micro_patch8_64");
    }
}
