//! The `vmbeauty` program: see [`vm_beautynet::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    vm_beautynet::cli::main()
}
