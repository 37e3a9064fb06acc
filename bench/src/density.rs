//! How many idle cells of one module a gigabyte holds: made and not begun, and begun and stopped where they wait; processes of the same program beside them.
//!
//! Counted is what the machine has not for others any more: a page that is mapped several times counts once, and page tables count.

use crate::{compile, figure, kernels, root};
use anyhow::{Context, Result, bail};
use cells::{Cell, Control, Ended, Engine, engine};
use serde_json::{Value, json};
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

const GIB: f64 = (1u64 << 30) as f64;
const GOAL: usize = 10_000;
/// Cells that are made at most. More than some ten thousand have no room: two memories of 4 GiB each take most of the addresses that a process has.
const CELLS: usize = GOAL;
/// Processes beside them.
const PROCESSES: usize = 50;

/// A line of a file of `/proc`, in bytes.
fn memory(path: &str, key: &str) -> Result<u64> {
    let text = std::fs::read_to_string(path).with_context(|| path.to_string())?;
    let kib = text.lines().find_map(|l| l.strip_prefix(key)?.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    Ok(kib.with_context(|| format!("no {key} in {path}"))? << 10)
}

/// Bytes of a process: its part of what several have, and its page tables.
fn used(process: &str) -> Result<u64> {
    Ok(memory(&format!("/proc/{process}/smaps_rollup"), "Pss:")? + memory(&format!("/proc/{process}/status"), "VmPTE:")?)
}

/// Makes cells until a gigabyte is used, there are [`CELLS`], or one can't be made. How many, bytes for each, and why there are not more.
fn fill(begun: bool) -> Result<(usize, f64, String)> {
    let (mut most, mut why) = (CELLS, String::new());
    let engine = loop {
        match Engine::new(&engine::Options { cells_max: most as u32, ..Default::default() }) {
            Ok(engine) => break engine,
            Err(e) if most > 100 => (most, why) = (most * 9 / 10, format!("{e}")),
            Err(e) => return Err(e.into()),
        }
    };
    let program = engine.load(&compile("idle.c")?)?;
    kernels::on_thread(move || {
        let before = used("self")?;
        let more = || Ok::<u64, anyhow::Error>(used("self")?.saturating_sub(before));
        let mut cells: Vec<Cell> = Vec::new();
        while cells.len() < most && more()? < 1 << 30 {
            // Looking costs more than making.
            for _ in 0..100.min(most - cells.len()) {
                let control: Arc<Control> = Arc::default();
                let mut cell = match kernels::start(&engine, &program, Arc::new(cells::wasi::Discard), control.clone()) {
                    Ok(cell) => cell,
                    Err(e) => {
                        why = format!("{e:#}");
                        most = cells.len();
                        break;
                    }
                };
                if begun {
                    control.stop();
                    match cell.run() {
                        Ended::Stopped => {}
                        other => bail!("it ended: {other:?}"),
                    }
                }
                cells.push(cell);
            }
        }
        let each = more()?.max(1) as f64 / cells.len().max(1) as f64;
        Ok((cells.len(), each, why))
    })
}

struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Bytes of a process that waits.
fn process() -> Result<f64> {
    let program = tempfile::NamedTempFile::new()?.into_temp_path();
    if !Command::new("gcc").args(["-O3", "-o"]).arg(&program).arg(root().join("bench/programs/idle.c")).status().context("gcc; setup/setup.sh installs it")?.success() {
        bail!("gcc does not compile idle.c");
    }
    let start = || -> Result<Process> {
        let mut child = Command::new(&program).stdout(Stdio::piped()).spawn()?;
        let mut ready = [0; 6];
        child.stdout.take().context("it is piped")?.read_exact(&mut ready)?;
        Ok(Process(child))
    };
    let all: Vec<Process> = (0..PROCESSES).map(|_| start()).collect::<Result<_>>()?;
    let sum: u64 = all.iter().map(|p| used(&p.0.id().to_string())).sum::<Result<u64>>()?;
    Ok(sum as f64 / PROCESSES as f64)
}

pub fn density() -> Result<Vec<Value>> {
    let mut out = Vec::new();
    for (name, begun) in [("made", false), ("waiting", true)] {
        let (count, each, why) = fill(begun)?;
        let process = process()?;
        // What fits into a gigabyte, but never more than there really were.
        let held = ((GIB / each) as usize).min(count);
        let mut cells = figure(&format!("density.{name}"), "cells per GiB", &format!(">= {GOAL}"), held as f64, Some(GIB / process), count, held >= GOAL);
        (cells["bytes_each"], cells["process_bytes"]) = (each.into(), process.into());
        if !why.is_empty() {
            cells["ended_by"] = json!(why);
        }
        out.push(cells);
    }
    Ok(out)
}
