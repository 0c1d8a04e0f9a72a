//! Rewords serde's errors for people who do not write Rust.

use serde_path_to_error::Segment;

use super::names::nearest;
use super::section::join;

/// Returns the key of a value that cannot be deserialized, and a sentence that begins with it:
/// `train.epochs must be a whole number, is "many"`.
pub(crate) fn describe(error: &serde_path_to_error::Error<serde_yaml::Error>) -> (String, String) {
    let mut key = String::new();
    let mut item = String::new();
    for segment in error.path() {
        match segment {
            Segment::Map { key: name } => key = join(&key, name),
            Segment::Seq { index } => item = format!("[{index}]"),
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    let message = error.inner().to_string();
    if let Some(missing) = message.strip_prefix("missing field ") {
        let message = format!("{} is missing", join(&key, &missing.replace('`', "")));
        return (key, message);
    }
    if let Some(hint) = unknown_key(&message) {
        let message = format!("unknown key {key}; {hint}");
        return (key, message);
    }
    let message = match plain_words(&message) {
        Some(words) => format!("{key}{item} {words}"),
        None if message.starts_with("must be") => format!("{key}{item} {message}"),
        None => format!("{key}{item}: {message}"),
    };
    (key, message)
}

/// Rewords "unknown field `means`, expected `mean` or `std`" as a suggestion.
fn unknown_key(message: &str) -> Option<String> {
    let (name, known) = message.strip_prefix("unknown field `")?.split_once("`, expected ")?;
    let known: Vec<&str> = known.split('`').skip(1).step_by(2).collect();
    Some(match nearest(name, known.iter().copied()) {
        Some(known) => format!("did you mean {known}?"),
        None => format!("known here are {}", known.join(", ")),
    })
}

/// Rewords `invalid type: string "many", expected usize`. Returns `None` for a message of another
/// kind.
fn plain_words(message: &str) -> Option<String> {
    if let Some((name, known)) =
        message.strip_prefix("unknown variant `").and_then(|rest| rest.split_once("`, expected "))
    {
        let known = known.strip_prefix("one of ").unwrap_or(known);
        return Some(format!("must be {}, is {name}", known.replace('`', "")));
    }
    let (found, expected) = message.strip_prefix("invalid ")?.split_once(", expected ")?;
    // A wrong length has no kind: "length 3".
    let found =
        ["type: ", "value: "].iter().find_map(|kind| found.strip_prefix(kind)).unwrap_or(found);
    let kinds = ["integer ", "floating point ", "string ", "boolean "];
    let found = match found {
        "unit value" => "empty".to_owned(),
        "map" => "a map".to_owned(),
        "sequence" => "a list".to_owned(),
        found => match found.strip_prefix("length ") {
            Some(length) => format!("a list of {length}"),
            None => {
                let value = kinds.iter().find_map(|kind| found.strip_prefix(kind));
                value.unwrap_or(found).replace('`', "")
            }
        },
    };
    if found.starts_with('-') && ["usize", "u64", "u32", "u8"].contains(&expected) {
        return Some(format!("must not be negative, is {found}"));
    }
    let expected = match expected {
        "u8" => "a whole number from 0 to 255",
        "usize" | "u64" | "u32" | "i64" => "a whole number",
        "f64" | "f32" => "a number",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        "a YAML mapping" => "a map of keys",
        "a string" | "path string" => "a text (in quotes if it looks like something else)",
        "struct Normalize" => "{mean: [red, green, blue], std: [red, green, blue]}",
        other => match other.strip_prefix("an array of length ") {
            Some(length) => return Some(format!("must be a list of {length}, is {found}")),
            None => other,
        },
    };
    Some(format!("must be {expected}, is {found}"))
}
