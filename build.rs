//! Compiles csrc with `cc` against the libtorch that torch-sys found, and makes the binaries find it by rpath.

use std::env;
use std::path::{Path, PathBuf};

/// Instruction sets whose kernels are compiled apart, each with its own flags and chosen at run time.
const X86_KERNELS: [(&str, &[&str]); 2] = [
    ("avx2", &["-mavx2", "-mfma"]),
    (
        "avx512",
        &[
            "-mavx512f",
            "-mavx512dq",
            "-mavx512vl",
            "-mavx512bw",
            "-mfma",
            // GCC 12 warns about its own avx512fintrin.h.
            "-Wno-uninitialized",
            "-Wno-maybe-uninitialized",
        ],
    ),
];

fn main() {
    println!("cargo:rerun-if-changed=csrc");
    println!("cargo:rerun-if-env-changed=LIBTORCH_INCLUDE");
    let lib =
        PathBuf::from(env::var_os("DEP_TCH_LIBTORCH_LIB").expect("torch-sys names its libtorch"));
    let lib = lib.canonicalize().unwrap_or(lib);
    compile_kernels();
    compile_bindings(&lib);
    // ATen's parallel_for is OpenMP; libtorch brings its own libgomp, found by the same rpath.
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display());
}

/// What every C++ file is compiled with. Always optimised: a debug build of the kernels would be of no use.
fn cpp() -> cc::Build {
    let mut build = cc::Build::new();
    build
        .cpp(true)
        .std("c++17")
        .opt_level(3)
        .pic(true)
        .flag("-fopenmp")
        .flag_if_supported("-Wno-psabi")
        .flag_if_supported("-Wno-ignored-attributes");
    build
}

fn compile_kernels() {
    cpp()
        .file("csrc/kernels_portable.cpp")
        .compile("vmb_portable");
    if env::var("CARGO_CFG_TARGET_ARCH").as_deref() == Ok("x86_64") {
        for (name, flags) in X86_KERNELS {
            let mut build = cpp();
            for flag in flags {
                build.flag(flag);
            }
            build
                .file(format!("csrc/kernels_{name}.cpp"))
                .compile(&format!("vmb_{name}"));
        }
    }
}

/// The side that knows ATen. Linked whole: the operators register themselves from static constructors that nothing names.
fn compile_bindings(lib: &Path) {
    let include = match env::var_os("LIBTORCH_INCLUDE") {
        Some(root) => PathBuf::from(root).join("include"),
        None => lib.with_file_name("include"),
    };
    let mut build = cpp();
    for folder in [include.clone(), include.join("torch/csrc/api/include")] {
        // As system headers: their warnings are not ours.
        build.flag("-isystem").flag(folder.display().to_string());
    }
    build
        .files(
            [
                "abi",
                "autocast",
                "benchmark",
                "dispatch",
                "selective_scan",
                "causal_conv1d",
            ]
            .map(|name| format!("csrc/{name}.cpp")),
        )
        .link_lib_modifier("+whole-archive")
        .compile("vmb_bindings");
}
