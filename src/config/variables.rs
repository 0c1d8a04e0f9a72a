//! Variables of the environment in a config's texts: `${env:NAME}`, or `${env:NAME:default}`.
//!
//! `$${env:` is the text `${env:` itself.

/// The text that begins a variable.
const START: &str = "${env:";

/// A text with its variables expanded.
#[derive(Debug, PartialEq)]
pub(super) struct Expanded {
    pub(super) text: String,
    /// The names of the variables.
    pub(super) names: Vec<String>,
    /// Whether the text was one variable and nothing else.
    pub(super) alone: bool,
}

/// Expands the variables of a text; `None` if it has none. Returns an error that says what is
/// wrong with one, or that it is not set.
pub(super) fn expand(
    text: &str,
    lookup: impl Fn(&str) -> Option<String>,
) -> Result<Option<Expanded>, String> {
    if !text.contains(START) {
        return Ok(None);
    }
    let (mut expanded, mut names, mut rest) = (String::new(), Vec::new(), text);
    while let Some(at) = rest.find(START) {
        let (before, variable) = rest.split_at(at);
        if let Some(before) = before.strip_suffix('$') {
            expanded += before;
            expanded += START;
            rest = &variable[START.len()..];
            continue;
        }
        let (content, after) = variable[START.len()..].split_once('}').ok_or_else(|| {
            "${env: has no }: write ${env:NAME} or ${env:NAME:default}".to_owned()
        })?;
        let (name, default) = match content.split_once(':') {
            Some((name, default)) => (name, Some(default)),
            None => (content, None),
        };
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            let is = format!("${{env:{content}}}");
            return Err(format!(
                "{is} names no variable: write ${{env:NAME}}, or $${{env: for the \
                                text itself"
            ));
        }
        if default.is_some_and(|default| default.contains("${")) {
            return Err(format!("the default of {name} cannot have a variable of its own"));
        }
        expanded += before;
        match (lookup(name), default) {
            (Some(value), _) => expanded += &value,
            (None, Some(default)) => expanded += default,
            (None, None) => {
                return Err(format!(
                    "the environment variable {name} is not set: set it (export {name}=...), or \
                     give a default, ${{env:{name}:default}}"
                ));
            }
        }
        names.push(name.to_owned());
        rest = after;
    }
    let alone = names.len() == 1 && text.starts_with(START) && text.ends_with('}') && {
        // A default has no closing brace.
        text.matches('}').count() == 1
    };
    expanded += rest;
    Ok(Some(Expanded { text: expanded, names, alone }))
}

/// Returns a text that [`expand`] changes to this one.
pub(super) fn escape(text: &str) -> String {
    text.replace(START, "$${env:")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(name: &str) -> Option<String> {
        match name {
            "DATA" => Some("/faces".into()),
            "EMPTY" => Some(String::new()),
            _ => None,
        }
    }

    #[test]
    fn variables_and_defaults_are_expanded_and_the_escape_is_the_text() {
        for (text, expected, alone) in [
            ("${env:DATA}", "/faces", true),
            ("${env:DATA}/a.csv", "/faces/a.csv", false),
            ("${env:DATA:x}${env:NONE:y}", "/facesy", false),
            ("${env:NONE:a:b c}", "a:b c", true),
            ("${env:NONE:}", "", true),
            ("${env:EMPTY:x}", "", true),
            ("$${env:DATA}", "${env:DATA}", false),
            ("$${env:", "${env:", false),
            ("$$${env:DATA}", "$${env:DATA}", false),
            ("a$${env:X}${env:DATA}", "a${env:X}/faces", false),
        ] {
            let expanded = expand(text, lookup).unwrap().unwrap();
            assert_eq!((expanded.text.as_str(), expanded.alone), (expected, alone), "{text}");
            let escaped = escape(expected);
            let back = expand(&escaped, lookup).unwrap().map_or(escaped, |found| found.text);
            assert_eq!(back, expected);
        }
        for text in ["$HOME", "${DATA}", "$", "a}b"] {
            assert_eq!(expand(text, lookup), Ok(None));
        }
    }

    #[test]
    fn what_is_wrong_with_a_variable_is_said_with_the_remedy() {
        for (text, words) in [
            (
                "${env:NONE}",
                "the environment variable NONE is not set: set it (export NONE=...), \
                             or give a default, ${env:NONE:default}",
            ),
            ("${env:DATA", "has no }"),
            ("${env:}", "${env:} names no variable"),
            ("${env:A B}", "names no variable"),
            ("${env:NONE:${env:DATA}}", "cannot have a variable of its own"),
        ] {
            let error = expand(text, lookup).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }
}
