//! `vmbeauty completions`.

use std::process::ExitCode;

use anyhow::Result;
use clap::builder::PossibleValuesParser;
use clap::{Arg, Command, CommandFactory, ValueHint};
use clap_complete::Shell;

use super::output::print;
use crate::config;
use crate::explain::Method;

/// Print a shell's completion script
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Which shell
    shell: Shell,
}

/// Wraps the function that is generated for bash. Without it, an empty word is completed to the
/// dash that all options begin with, and the value of a key to an option.
const BASH: &str = r#"
_vmbeauty_words() {
    local previous="$3" equals=$COMP_CWORD word
    local words=()
    COMPREPLY=()
    # Bash splits words at an equals sign.
    [[ "${COMP_WORDS[equals]}" == "=" ]] || equals=$((equals - 1))
    if [[ "${COMP_WORDS[equals]}" == "=" ]]; then
        previous="${COMP_WORDS[equals-1]}"
        if [[ "$previous" != -* ]]; then
            # The value of a key, or a branch's method.
            previous="${COMP_WORDS[equals-2]}"
            [[ "$previous" == "--method" ]] || return 0
        fi
    fi
    _vmbeauty "$1" "$2" "$previous"
    for word in "${COMPREPLY[@]}"; do
        if [[ "$2" == -* || "$word" != -* ]]; then
            words+=("$word")
        fi
    done
    COMPREPLY=("${words[@]}")
}

"#;

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let mut script = Vec::new();
    let mut command = offered(&super::Cli::command());
    clap_complete::generate(args.shell, &mut command, "vmbeauty", &mut script);
    let script = String::from_utf8_lossy(&script);
    if args.shell == Shell::Bash {
        let script = script.replace("complete -F _vmbeauty ", "complete -F _vmbeauty_words ");
        print(&format!("{BASH}{script}"))?;
    } else {
        print(&script)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns a command as it is offered: without what is hidden, and with the values of arguments
/// that only the library checks.
fn offered(command: &Command) -> Command {
    let shown = command.get_arguments().filter(|argument| !argument.is_hide_set());
    let subcommands = command.get_subcommands().filter(|subcommand| !subcommand.is_hide_set());
    let mut copy = Command::new(command.get_name().to_owned())
        .args(shown.cloned().map(with_values))
        .subcommands(subcommands.map(offered));
    if let Some(about) = command.get_about() {
        copy = copy.about(about.clone());
    }
    if let Some(version) = command.get_version() {
        copy = copy.version(version.to_owned());
    }
    copy
}

fn with_values(argument: Arg) -> Arg {
    let values: Vec<String> = match argument.get_long().unwrap_or_default() {
        // No space follows: the value does.
        "set" => {
            let keys = config::reference().into_iter().map(|row| format!("{}=", row.key));
            return argument
                .value_parser(PossibleValuesParser::new(keys))
                .value_hint(ValueHint::Other);
        }
        "method" => Method::ALL.iter().map(Method::to_string).collect(),
        "split" | "evaluate" => ["train", "val", "test"].map(String::from).into(),
        "layer" => vec!["all".into()],
        "folds" => ["published", "column"].map(String::from).into(),
        _ => return argument,
    };
    argument.value_parser(PossibleValuesParser::new(values))
}
