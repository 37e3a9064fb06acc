//! A whole job in this process: every rank a thread, all of them here. For benchmarks and single programs; agents do the same with a network.

use crate::wasi::{Mounts, Output};
use crate::{Cell, Control, Ended, Engine, Program, Result, Spec, engine};
use mpi::{Fabric, Message, Rank, Wire};
use std::sync::Arc;

/// What a local job is given.
pub struct Job {
    pub size: u32,
    pub args: Vec<String>,
    pub env: Vec<String>,
    pub memory_max: u64,
    pub mounts: Mounts,
    pub output: Arc<dyn Output>,
    /// See [`Spec::spin`].
    pub spin: u32,
}

/// There is no other agent to send to: all ranks are here as long as the job lives.
struct NoWire;

impl Wire for NoWire {
    fn send(&self, _: Message) {}
    fn acknowledge(&self, _: Rank, _: Rank, _: u64) {}
}

/// Runs a job to its end and gives how each rank ended. A rank that fails or exits with another code than 0 ends the others.
pub fn run(engine: &Engine, program: &Arc<Program>, job: &Job) -> Result<Vec<Ended>> {
    let fabric = Arc::new(Fabric::new(job.size, Box::new(NoWire)));
    let mut cells = Vec::new();
    for rank in (0..job.size).map(Rank) {
        fabric.arrive(rank, Vec::new());
        let spec = Spec {
            rank,
            size: job.size,
            args: job.args.clone(),
            env: job.env.clone(),
            memory_max: job.memory_max,
            budget: Arc::default(),
            mounts: job.mounts.clone(),
            output: job.output.clone(),
            fabric: fabric.clone(),
            place: "here".into(),
            spin: job.spin,
        };
        cells.push(Cell::new(engine, program, &spec, Arc::default())?);
    }
    let controls: Vec<Arc<Control>> = cells.iter().map(Cell::control).collect();
    let controls = &controls;
    std::thread::scope(|scope| {
        let threads: Vec<_> = cells
            .into_iter()
            .enumerate()
            .map(|(rank, mut cell)| {
                let body = move || {
                    let ended = cell.run();
                    if ended != Ended::Exited(0) {
                        controls.iter().for_each(|c| c.kill(&format!("rank {rank} failed")));
                    }
                    ended
                };
                let thread = std::thread::Builder::new().name(format!("rank {rank}")).stack_size(engine::THREAD_STACK);
                thread.spawn_scoped(scope, body).map_err(crate::Error::io("start a rank's thread"))
            })
            .collect();
        threads
            .into_iter()
            .map(|t| t.map(|t| t.join().expect("a rank's thread does not panic")))
            .collect()
    })
}
