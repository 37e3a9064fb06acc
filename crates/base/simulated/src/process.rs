//! Processes of a simulation: threads that end together, at any of their steps, as by `kill -9`, or stand still together, as by SIGSTOP.
//!
//! They are threads of the one process that there is, and share its memory. What is kept apart is what the kernel takes back when a process ends: sockets and locks of files, which are closed in that
//! moment. Nothing else happens to one that is killed: none of its destructors runs.
//!
//! What both sides of an end share (the test's own records) must be held in no lock while something is waited for: whoever is killed there holds it for ever.

use super::*;

/// Whether threads get their turns.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Going {
    On,
    Stopped,
    Killed,
}

/// Some threads of the simulation: the one that it was started with, and all that those start.
pub struct Process(usize);

impl Process {
    /// Starts one. Its end comes when `work` is done and its threads are, or by [`Process::kill`]; what `work` panics with ends the run.
    pub fn start(work: impl FnOnce() + Send + 'static) -> Process {
        let (world, me) = here().expect("processes are started in a simulation");
        let own = world.threads[me].process;
        world.processes.push(Going::On);
        let process = world.processes.len() - 1;
        // A thread is of the process of whoever starts it: for this one call that is the new one.
        world.threads[me].process = process;
        let started = std::thread::Builder::new().name(format!("process {process}")).spawn(|| {
            if std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).is_err() {
                give_up("a process of it has panicked");
            }
        });
        let (world, me) = here().expect("it goes on");
        world.threads[me].process = own;
        started.expect("a thread can be started");
        Process(process)
    }

    /// Ends it where its threads are. Nothing that it has in memory is seen again.
    pub fn kill(self) {
        let (world, _) = here().expect("processes are killed in their simulation");
        assert!(world.threads.iter().enumerate().all(|(id, t)| t.process != self.0 || id != ME.get()), "it would have to go on after its own end");
        world.processes[self.0] = Going::Killed;
        for fd in 0..world.descriptors.len() {
            if world.descriptors[fd].is_some_and(|d| d.process == self.0) {
                world.descriptors[fd] = None;
                // SAFETY: it is a descriptor that a thread of this process has made and not closed, and none of them does anything any more.
                unsafe { functions::real::close(fd as c_int) };
            }
        }
    }

    /// Lets none of its threads go on. Time goes on for them, too.
    pub fn stop(&self) {
        self.set(Going::Stopped);
    }

    /// Lets them go on.
    pub fn go_on(&self) {
        self.set(Going::On);
    }

    fn set(&self, going: Going) {
        let (world, _) = here().expect("processes are stopped in their simulation");
        world.processes[self.0] = going;
    }
}
