//! Makes the targets find the libtorch that they are linked with, by rpath; the project's own build
//! script can do so for its own binaries alone.

fn main() {
    let lib = std::env::var("DEP_TCH_LIBTORCH_LIB").expect("torch-sys names its libtorch");
    println!("cargo:rustc-link-arg=-Wl,-rpath,{lib}");
}
