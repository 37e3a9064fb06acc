//! Which files an agent reaches: those of its folder, what it is told to keep objects in, the compiler, temporary ones, and what any program needs of the system. The kernel refuses it the rest
//! (`cells::fence::files`).
//!
//! It is decided before the agent has threads, by its configuration alone: a toolchain that is installed later is reached after the next start.

use crate::{place::Place, up};
use cells::fence::files::{May, Reach, Restricted};
use std::path::{Path, PathBuf};

/// Restricts this process, which has one thread yet, unless its configuration says no.
///
/// # Errors
/// The folder can't be written, or the configuration can't be read: the agent could not start either.
pub fn confine(place: &Place) -> anyhow::Result<()> {
    up::writable(&place.data)?;
    let config = super::Config::load(&place.data)?;
    if config.cells.confine == Some(false) {
        tracing::warn!("the agent reaches all files of its user, as `confine = false` says");
        return Ok(());
    }
    let known = reach(&place.data, &config);
    match known.restrict() {
        Ok(Restricted::Not) => tracing::warn!("the agent reaches all files of its user: this kernel has no Landlock, or has it off"),
        Ok(how) => tracing::info!(restricted = %how, "the agent reaches its own files and what it needs of the system"),
        Err(error) => tracing::warn!(%error, "the agent reaches all files of its user"),
    }
    Ok(())
}

fn reach(data: &Path, config: &super::Config) -> Reach {
    let mut reach = Reach::of_any_program().below(data, May::All).below(std::env::temp_dir(), May::All);
    if config.cells.perf_map {
        // Where `perf` looks for it, wherever temporary files are.
        reach = reach.below("/tmp", May::All);
    }
    if let Ok(exe) = std::env::current_exe() {
        reach = reach.below(exe, May::Read);
    }
    // What is not there yet is made, as it would be later: a rule is for what is there.
    if let Some(folder) = config.geds.persist.as_deref().and_then(|place| place.strip_prefix("file:")).map(PathBuf::from) {
        if let Err(error) = std::fs::create_dir_all(&folder) {
            tracing::debug!(%error, folder = %folder.display(), "the persistency tier's folder");
        }
        reach = reach.below(folder, May::All);
    }
    let certificates = ["SSL_CERT_FILE", "SSL_CERT_DIR"].into_iter().filter_map(std::env::var_os).map(PathBuf::from);
    for path in config.geds.gs_key_file.iter().map(PathBuf::from).chain(certificates).chain(config.cells.reads.iter().cloned()) {
        reach = reach.below(path, May::Read);
    }
    match cells::toolchain::compiler::Compiler::find() {
        Ok(compiler) => compiler.within(reach),
        Err(error) => {
            tracing::debug!(%error, "there is no compiler for the fast tier");
            reach
        }
    }
}
