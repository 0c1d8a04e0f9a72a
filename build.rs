//! Compiles csrc with `cc` against the libtorch that torch-sys found, and makes the binaries find
//! it by rpath.

use std::ffi::OsStr;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::{env, fs, thread};

/// Instruction sets whose kernels are compiled apart and chosen at run time: name, floats in a
/// vector, compiler flags.
const X86_KERNELS: [(&str, usize, &[&str]); 2] = [
    ("avx2", 8, &["-mavx2", "-mfma"]),
    (
        "avx512",
        16,
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

const CUDA_KERNELS: [&str; 4] = ["scan_forward", "scan_backward", "conv", "sum_parts"];
/// From Turing to Blackwell.
const CUDA_ARCHITECTURES: &str = "75,80,86,89,90,100,120";

fn main() {
    println!("cargo:rerun-if-changed=csrc");
    println!("cargo:rustc-check-cfg=cfg(vmb_cuda)");
    let variables = ["LIBTORCH_INCLUDE", "CUDA_HOME", "NVCC", ARCHITECTURES_KEY, "GLOO_INCLUDE"];
    for variable in variables {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    let lib =
        PathBuf::from(env::var_os("DEP_TCH_LIBTORCH_LIB").expect("torch-sys names its libtorch"));
    let lib = lib.canonicalize().unwrap_or(lib);
    // The libtorch decides: one with CUDA would run the scan step by step without the kernels.
    let cuda = lib.join("libtorch_cuda.so").exists().then(Cuda::find);
    // At the same time: the compiler's headers of libtorch keep one core busy as long as the
    // kernels keep another.
    let objects = thread::scope(|scope| {
        let kernels = scope.spawn(kernel_objects);
        let distributed = scope.spawn(|| distributed_objects(&lib, cuda.as_ref()));
        let mut objects = operator_objects(&lib, cuda.as_ref());
        for compiled in [kernels, distributed] {
            objects.extend(compiled.join().expect("the compiler's error is printed above"));
        }
        objects
    });
    // With +whole-archive: the operators register themselves in static constructors that nothing
    // refers to.
    cpp().objects(objects).link_lib_modifier("+whole-archive").compile("vmb_ops");
    bound_spinning_of_the_program();
    if let Some(cuda) = &cuda {
        cuda.link_kernels();
    }
    let architectures = cuda.map_or(String::new(), |cuda| cuda.architectures.join(" "));
    println!("cargo:rustc-env=VMB_CUDA_KERNELS={architectures}");
    // ATen's parallel_for is OpenMP; libtorch brings its own libgomp, found by the same rpath. What
    // is next to the program wins: scripts/dist.py cuts off the rest.
    println!("cargo:rustc-link-arg=-Wl,-rpath,$ORIGIN/../lib:{}", lib.display());
    search_path_for_doc_tests(&lib);
}

/// Links csrc/program into the program, and into nothing else.
fn bound_spinning_of_the_program() {
    let target = |key: &str| env::var(format!("CARGO_CFG_TARGET_{key}")).unwrap_or_default();
    if (target("OS"), target("ENV")) != ("linux".into(), "gnu".into()) {
        return;
    }
    let mut build = cc::Build::new();
    build.opt_level(2).file("csrc/program/bounded_spin.c");
    for object in build.compile_intermediates() {
        println!("cargo:rustc-link-arg-bins={}", object.display());
    }
}

/// Doc tests get no link arguments, and so no rpath. Cargo adds search paths to LD_LIBRARY_PATH if
/// they are inside the target directory: a link there leads to libtorch.
fn search_path_for_doc_tests(lib: &Path) {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let link = out.join("libtorch");
    if fs::read_link(&link).is_ok_and(|target| target != lib) {
        fs::remove_file(&link).expect("OUT_DIR is writable");
    }
    if !link.exists() {
        std::os::unix::fs::symlink(lib, &link).expect("OUT_DIR is writable");
    }
    println!("cargo:rustc-link-search=native={}", link.display());
}

/// Returns the build settings of every C++ file. Always optimized: a debug build of the kernels
/// would be too slow to use.
fn cpp() -> cc::Build {
    let mut build = cc::Build::new();
    build
        .cpp(true)
        .std("c++17")
        .opt_level(3)
        .pic(true)
        .include("csrc")
        .flag("-fopenmp")
        .flag_if_supported("-Wno-psabi")
        .flag_if_supported("-Wno-ignored-attributes");
    build
}

fn kernel_objects() -> Vec<PathBuf> {
    let x86 = env::var("CARGO_CFG_TARGET_ARCH").as_deref() == Ok("x86_64");
    let paths = [("portable", 4, [].as_slice())].into_iter();
    let mut objects = Vec::new();
    for (path, lanes, flags) in paths.chain(X86_KERNELS.into_iter().filter(|_| x86)) {
        let mut build = cpp();
        for flag in flags {
            build.flag(flag);
        }
        let mut testing = build.clone();
        build.file(format!("csrc/cpu/kernels_{path}.cpp"));
        objects.extend(build.compile_intermediates());
        // tests/library/elementwise.rs alone calls these: only test programs link them.
        let library = format!("vmb_testing_{path}");
        testing
            .cargo_metadata(false)
            .define("VMB_ELEMENTWISE", format!("vmb_elementwise_{path}").as_str())
            .define("VMB_WIDTH", lanes.to_string().as_str())
            .file("csrc/testing/elementwise.cpp")
            .compile(&library);
        let out = env::var("OUT_DIR").expect("cargo sets OUT_DIR");
        println!("cargo:rustc-link-arg-tests={out}/lib{library}.a");
    }
    objects
}

/// Returns a build with libtorch's headers.
fn with_libtorch(lib: &Path) -> cc::Build {
    let include = match env::var_os("LIBTORCH_INCLUDE") {
        Some(root) => PathBuf::from(root).join("include"),
        None => lib.with_file_name("include"),
    };
    let mut build = cpp();
    for folder in [include.clone(), include.join("torch/csrc/api/include")] {
        system_include(&mut build, &folder);
    }
    build
}

/// Adds a folder of system headers, whose warnings are not shown.
fn system_include(build: &mut cc::Build, folder: &Path) {
    build.flag("-isystem").flag(folder.display().to_string());
}

/// Compiles csrc/distributed. libtorch_cpu contains Gloo, but not its headers.
fn distributed_objects(lib: &Path, cuda: Option<&Cuda>) -> Vec<PathBuf> {
    if env::var_os("CARGO_FEATURE_DISTRIBUTED").is_none() {
        return Vec::new();
    }
    let mut build = with_libtorch(lib);
    let gloo = env::var_os("GLOO_INCLUDE").map_or_else(|| "/usr/include".into(), PathBuf::from);
    if !gloo.join("gloo/context.h").is_file() {
        panic!(
            "the feature `distributed` needs Gloo's headers, which are not in {}: run `make \
             distributed`, install libgloo-dev, or name the folder that holds gloo/ in \
             GLOO_INCLUDE",
            gloo.display()
        );
    }
    system_include(&mut build, &gloo);
    build
        .files(["distributed", "reducer"].map(|name| format!("csrc/distributed/{name}.cpp")))
        .define("USE_C10D_GLOO", None);
    // PyTorch's wheel with CUDA depends on NCCL's, which brings its header.
    let nccl = lib.join("../../nvidia/nccl/include");
    if let (Some(cuda), true) = (cuda, nccl.join("nccl.h").is_file()) {
        build.define("VMB_NCCL", None).define("USE_C10D_NCCL", None);
        system_include(&mut build, &nccl);
        system_include(&mut build, &cuda.home.join("include"));
    }
    build.compile_intermediates()
}

/// The operators and their C interface: what includes ATen.
fn operator_objects(lib: &Path, cuda: Option<&Cuda>) -> Vec<PathBuf> {
    let mut build = with_libtorch(lib);
    build.file("csrc/ops/all.cpp");
    if env::var_os("CARGO_FEATURE_DISTRIBUTED").is_some() {
        build.define("VMB_DISTRIBUTED", None);
    }
    if let Some(cuda) = cuda {
        build.define("VMB_CUDA", None);
        system_include(&mut build, &cuda.home.join("include"));
        println!("cargo:rustc-link-lib=c10_cuda");
        println!("cargo:rustc-cfg=vmb_cuda");
        // libtorch finds a GPU through the hooks that libtorch_cuda registers when it is loaded. No
        // symbol of it is used here, so without this the linker drops it, and no GPU is found.
        println!("cargo:rustc-link-arg=-Wl,--push-state,--no-as-needed,-ltorch_cuda,--pop-state");
    }
    build.compile_intermediates()
}

/// The variable that names other architectures than [`CUDA_ARCHITECTURES`].
const ARCHITECTURES_KEY: &str = "VMB_CUDA_ARCHITECTURES";

/// The CUDA toolkit, and the architectures that the kernels are compiled for.
struct Cuda {
    nvcc: PathBuf,
    /// The toolkit's folder.
    home: PathBuf,
    /// As in 90 for sm_90, in ascending order.
    architectures: Vec<String>,
}

impl Cuda {
    /// Finds the compiler as cc does: the one that NVCC names, else the one in PATH. Panics with the
    /// remedy if there is none.
    fn find() -> Self {
        let in_path = || {
            println!("cargo:rerun-if-env-changed=PATH");
            let folders = env::var_os("PATH")?;
            env::split_paths(&folders).map(|folder| folder.join("nvcc")).find(|nvcc| nvcc.is_file())
        };
        let named = env::var_os("NVCC").map(PathBuf::from);
        let Some(nvcc) = named.or_else(in_path).and_then(|nvcc| nvcc.canonicalize().ok()) else {
            panic!(
                "this libtorch has CUDA, so the CUDA kernels are compiled, which needs nvcc 13.0: \
                 run `make cuda`, which fetches it, or name it in NVCC or PATH; a libtorch for the \
                 CPU (`python3 scripts/setup.py --cpu`) needs none"
            );
        };
        let home = env::var_os("CUDA_HOME").map(PathBuf::from);
        let home = home.or_else(|| Some(nvcc.parent()?.parent()?.into())).unwrap_or_default();
        Self { nvcc, home, architectures: architectures() }
    }

    /// Links the kernels. They are compiled once per content of csrc/cuda, into the target
    /// directory: nvcc takes many minutes, and release, tests and features have a build each.
    fn link_kernels(&self) {
        let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
        // OUT_DIR is PROFILE/build/NAME/out.
        let profile = out.ancestors().nth(3).expect("OUT_DIR is in a target directory");
        let cache = profile.with_file_name("cuda-kernels");
        let folder = cache.join(self.content_hash());
        if !folder.is_dir() {
            let partial = out.join("cuda-kernels");
            let _ = fs::remove_dir_all(&partial);
            self.compile_kernels(&partial);
            fs::create_dir_all(&cache).expect("the target directory is writable");
            // Where another build was first, its folder has the same content.
            let renamed = fs::rename(&partial, &folder);
            assert!(renamed.is_ok() || folder.is_dir(), "cannot create {}", folder.display());
        }
        let libraries = [folder, self.home.join("lib"), self.home.join("lib64")];
        for folder in libraries {
            println!("cargo:rustc-link-search=native={}", folder.display());
        }
        println!("cargo:rustc-link-lib=static=vmb_cuda");
        for system in ["cudart_static", "rt", "dl", "pthread"] {
            println!("cargo:rustc-link-lib={system}");
        }
    }

    /// Returns a hash of what the kernels are compiled from, and of how.
    fn content_hash(&self) -> String {
        let files = fs::read_dir("csrc/cuda").expect("csrc/cuda is part of the source tree");
        let mut files: Vec<PathBuf> = files.flatten().map(|file| file.path()).collect();
        files.retain(|file| {
            file.extension().is_some_and(|end| ["cu", "cuh", "h"].map(OsStr::new).contains(&end))
        });
        files.sort();
        let mut hasher = DefaultHasher::new();
        for file in files.iter().map(PathBuf::as_path).chain([Path::new("build.rs")]) {
            fs::read(file).expect("csrc is readable").hash(&mut hasher);
        }
        (&self.nvcc, &self.architectures).hash(&mut hasher);
        format!("{:016x}", hasher.finish())
    }

    /// Compiles csrc/cuda: native code for every architecture, so that nothing is compiled when a
    /// program starts, and PTX of the last one for later architectures.
    fn compile_kernels(&self, out: &Path) {
        fs::create_dir_all(out).expect("OUT_DIR is writable");
        let mut build = cc::Build::new();
        build
            .cuda(true)
            .cargo_metadata(false)
            .out_dir(out)
            // Debug code for the device (-G) is not optimized.
            .debug(false)
            .warnings(false)
            .std("c++17")
            .opt_level(3)
            .pic(true)
            .flag("--expt-relaxed-constexpr");
        let newest = self.architectures.last().map(|arch| (arch, "compute"));
        for (arch, code) in self.architectures.iter().map(|arch| (arch, "sm")).chain(newest) {
            build.flag("-gencode").flag(format!("arch=compute_{arch},code={code}_{arch}"));
        }
        build.files(CUDA_KERNELS.map(|name| format!("csrc/cuda/{name}.cu"))).compile("vmb_cuda");
    }
}

/// Returns the architectures to compile for. Panics where the variable names none, or one that the
/// kernels do not support.
fn architectures() -> Vec<String> {
    let given = env::var(ARCHITECTURES_KEY).ok().filter(|given| !given.is_empty());
    let given = given.as_deref().unwrap_or(CUDA_ARCHITECTURES);
    let parsed: Option<Vec<u32>> =
        given.split(',').map(|arch| arch.trim().parse().ok().filter(|&arch| arch >= 75)).collect();
    let Some(mut parsed) = parsed else {
        panic!(
            "{ARCHITECTURES_KEY} is {given}: it must be compute capabilities from 75 on, without \
             their point and separated by commas, as in 80,90"
        );
    };
    parsed.sort_unstable();
    parsed.dedup();
    parsed.iter().map(u32::to_string).collect()
}
