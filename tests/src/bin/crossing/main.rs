//! Proves that a cell goes on where it was stopped on another kind of processor: x86-64 and aarch64, in the middle of its work, with the same output bit for bit.
//!
//! ```text
//! crossing prove [--other PROGRAM] [--emulator "COMMAND"] [--only TEXT]... [--seed N] [--json FILE] [--work FOLDER]
//! crossing leg --program FILE --tier TIER --job FOLDER --ranks N [--cache FOLDER] [--pause-us N] [-- ARGS]
//! ```
//!
//! `prove` compiles programs of `tests/programs` and sends each on several routes ([`proof`]). A route is made of legs: a process that runs all ranks of a job for a while and writes
//! them down as snapshot files ([`leg`]), from which the next one goes on. `--other` names this same program built for the other kind of processor, and `--emulator` what runs it
//! here, such as `qemu-aarch64 -L /usr/aarch64-linux-gnu`; `make aarch64` builds and starts all of it. Without `--other` both sides are this machine, which the table says: then
//! nothing is shown of another processor, only that the tool works.
//!
//! It depends on `cells`, `mpi` and `base` alone, so that little has to be built for the other machine. How agents move ranks over a network is not its business.

mod leg;
mod proof;

use anyhow::{Context, bail};
use std::path::PathBuf;
use std::time::Duration;

/// The value of an option.
fn value(words: &mut impl Iterator<Item = String>, option: &str) -> anyhow::Result<String> {
    words.next().with_context(|| format!("{option} needs a value"))
}

fn leg(mut words: impl Iterator<Item = String>) -> anyhow::Result<bool> {
    let (mut program, mut job, mut ranks) = (None, None, None);
    let (mut tier, mut cache, mut pause, mut args) = (cells::Tier::default(), None, None, Vec::new());
    while let Some(word) = words.next() {
        match word.as_str() {
            "--program" => program = Some(PathBuf::from(value(&mut words, &word)?)),
            "--job" => job = Some(PathBuf::from(value(&mut words, &word)?)),
            "--ranks" => ranks = Some(value(&mut words, &word)?.parse().context("--ranks")?),
            "--tier" => tier = value(&mut words, &word)?.parse().map_err(anyhow::Error::msg)?,
            "--cache" => cache = Some(PathBuf::from(value(&mut words, &word)?)),
            "--pause-us" => pause = Some(Duration::from_micros(value(&mut words, &word)?.parse().context("--pause-us")?)),
            "--" => args = words.by_ref().collect(),
            _ => bail!("unknown word {word:?}: see the top of tests/src/bin/crossing/main.rs"),
        }
    }
    let needed = "a leg needs --program, --job and --ranks";
    let leg = leg::Leg { program: program.context(needed)?, job: job.context(needed)?, ranks: ranks.context(needed)?, tier, cache, pause, args };
    println!("{}", leg::run(&leg)?);
    Ok(true)
}

fn prove(mut words: impl Iterator<Item = String>) -> anyhow::Result<bool> {
    let mut options = proof::Options::default();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--other" => options.other = Some(value(&mut words, &word)?.into()),
            "--emulator" => options.emulator = value(&mut words, &word)?.split_whitespace().map(str::to_string).collect(),
            "--only" => options.only.push(value(&mut words, &word)?),
            "--seed" => options.seed = value(&mut words, &word)?.parse().context("--seed")?,
            "--json" => options.json = Some(value(&mut words, &word)?.into()),
            "--work" => options.work = Some(value(&mut words, &word)?.into()),
            _ => bail!("unknown word {word:?}: see the top of tests/src/bin/crossing/main.rs"),
        }
    }
    proof::run(&options)
}

fn main() {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).without_time().init();
    let mut words = std::env::args().skip(1);
    let done = match words.next().as_deref() {
        Some("leg") => leg(words),
        Some("prove") => prove(words),
        other => Err(anyhow::anyhow!("{other:?} is neither `prove` nor `leg`: see the top of tests/src/bin/crossing/main.rs")),
    };
    match done {
        Ok(true) => {}
        Ok(false) => std::process::exit(1),
        Err(e) => {
            eprintln!("crossing: {e:#}");
            std::process::exit(2);
        }
    }
}
