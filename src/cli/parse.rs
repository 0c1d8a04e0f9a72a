//! Parses the command line; a key of the config in the place of an argument gets a hint.

use clap::Parser;
use clap::error::{ContextKind, ContextValue};

use super::Cli;
use crate::config;

/// Parses the process's arguments. Exits if they are wrong, or ask for help.
pub(super) fn parse() -> Cli {
    Cli::try_parse().unwrap_or_else(|mut error| {
        let tip = match error.get(ContextKind::InvalidArg) {
            Some(ContextValue::String(argument)) => tip_for(argument),
            _ => None,
        };
        if let Some(tip) = tip {
            error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
        }
        error.exit()
    })
}

/// Returns what to write for `epochs=3`, `train.epochs=3` or `--train.epochs`.
fn tip_for(argument: &str) -> Option<String> {
    let bare = argument.strip_prefix("--").unwrap_or(argument);
    let (name, value) = bare.split_once('=').unwrap_or((bare, "VALUE"));
    if bare == argument && value == "VALUE" {
        return None;
    }
    let is_key = |key: &str| key == name || key.ends_with(&format!(".{name}"));
    let keys: Vec<String> = config::reference().into_iter().map(|row| row.key).collect();
    let key =
        keys.iter().find(|key| *key == name).or_else(|| keys.iter().find(|key| is_key(key)))?;
    Some(format!("a key of the config is set with '--set {key}={value}'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_in_place_of_an_argument_is_set_with_set() {
        for (argument, expected) in [
            ("epochs=3", Some("--set train.epochs=3")),
            ("seed=1", Some("--set seed=1")),
            ("train.optimizer.lr=1e-3", Some("--set train.optimizer.lr=1e-3")),
            ("--train.epochs", Some("--set train.epochs=VALUE")),
            ("--lr=1", Some("--set train.optimizer.lr=1")),
            ("second.yaml", None),
            ("epochs", None),
            ("--verbose", None),
        ] {
            let tip = tip_for(argument);
            assert_eq!(tip.is_some(), expected.is_some(), "{argument}: {tip:?}");
            let words = expected.unwrap_or_default();
            assert!(tip.unwrap_or_default().contains(words), "{argument}");
        }
    }
}
