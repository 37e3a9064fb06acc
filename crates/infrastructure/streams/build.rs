//! Turns `proto/controller.proto` into Rust. `protox` compiles it, so no `protoc` has to be installed.

use std::{env, error::Error, path::Path};

fn main() -> Result<(), Box<dyn Error>> {
    let folder = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("proto");
    let file = folder.join("controller.proto");
    println!("cargo:rerun-if-changed={}", file.display());
    let descriptors = protox::compile([&file], [&folder])?;
    // For tests in the simulator: see `simulated`.
    println!("cargo:rustc-link-arg-tests=-Wl,--export-dynamic-symbol=getrandom");
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
