//! Persistent requests: slots that keep their arguments and are filled with the same work at each start.

use super::{Mode, Posted, Request, State, Status, Work};
use crate::comm;
use crate::datatype::{self, Buffer};
use crate::error::{Class, Error, Result};
use crate::fabric::Fabric;
use crate::memory::Memory;
use serde::{Deserialize, Serialize};

/// The arguments of a persistent request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Prepared {
    Send { buffer: Buffer, to: i32, tag: i32, comm: comm::Handle, mode: Mode },
    Receive { buffer: Buffer, from: i32, tag: i32, comm: comm::Handle },
    /// A collective, made anew from its call's name and arguments at each start. The tag is its own, since the ranks may start several in any order. `held`: its datatypes, which the program may free.
    Collective { call: String, args: Vec<u32>, tag: i32, held: Vec<datatype::Handle> },
}

impl Prepared {
    /// The datatypes that it holds.
    pub(super) fn held(&self) -> Vec<datatype::Handle> {
        match self {
            Prepared::Send { buffer, .. } | Prepared::Receive { buffer, .. } => vec![buffer.datatype],
            Prepared::Collective { held, .. } => held.clone(),
        }
    }
}

fn not_persistent(request: Request) -> Error {
    Error::new(Class::Request, format!("request {request} is not persistent: only those of MPI_Send_init and its like can be started"))
}

fn started_already(request: Request) -> Error {
    Error::new(Class::Request, format!("request {request} has been started already; complete it with MPI_Wait or MPI_Test first"))
}

impl State {
    /// Makes a persistent request (`MPI_Send_init` and its like).
    pub fn prepare(&mut self, mem: &mut Memory<'_>, prepared: Prepared) -> Result<Request> {
        // What is wrong is found now, where the program can be told which call it was.
        match prepared {
            Prepared::Send { buffer, to, tag, comm, mode } => {
                self.header(to, tag, comm, mode)?;
                self.content(mem, &buffer)?;
            }
            Prepared::Receive { buffer, from, tag, comm } => {
                self.wanted(mem, buffer, from, tag, comm)?;
            }
            Prepared::Collective { .. } => {}
        }
        let request = self.add(Work::Inactive)?;
        // The program may free its datatype while the request lives.
        prepared.held().into_iter().for_each(|t| self.types.hold(t));
        self.slot(request)?.prepared = Some(Box::new(prepared));
        Ok(request)
    }

    /// `MPI_Barrier_init` and its like. What is wrong with the arguments is found at the start.
    pub fn prepare_collective(&mut self, call: &str, args: Vec<u32>, held: Vec<datatype::Handle>, comm: comm::Handle) -> Result<Request> {
        let tag = self.comms.get_mut(comm)?.next_tag();
        let request = self.add(Work::Inactive)?;
        held.iter().for_each(|t| self.types.hold(*t));
        self.slot(request)?.prepared = Some(Box::new(Prepared::Collective { call: call.into(), args, tag, held }));
        Ok(request)
    }

    /// The call that has prepared a persistent collective, and its arguments.
    pub fn prepared_collective(&mut self, request: Request) -> Result<Option<(String, Vec<u32>)>> {
        Ok(match self.slot(request)?.prepared.as_deref() {
            Some(Prepared::Collective { call, args, .. }) => Some((call.clone(), args.clone())),
            _ => None,
        })
    }

    /// `MPI_Start` of a persistent collective: `begin` makes its plan, which becomes this request's.
    pub fn start_collective(&mut self, request: Request, begin: impl FnOnce(&mut State) -> Result<Request>) -> Result<()> {
        let slot = self.slot(request)?;
        let Some(Prepared::Collective { tag, .. }) = slot.prepared.as_deref() else { return Err(not_persistent(request)) };
        let tag = *tag;
        if !matches!(slot.work, Work::Inactive) {
            return Err(started_already(request));
        }
        self.starting = Some((request, tag));
        self.types.freed_too = true;
        let begun = begin(self);
        self.types.freed_too = false;
        self.starting = None;
        begun.map(drop)
    }

    /// `MPI_Start`
    pub fn start(&mut self, mem: &mut Memory<'_>, fabric: &Fabric, request: Request) -> Result<()> {
        let slot = self.slot(request)?;
        let Some(prepared) = slot.prepared.as_deref().cloned() else { return Err(not_persistent(request)) };
        if !matches!(slot.work, Work::Inactive) {
            return Err(started_already(request));
        }
        match prepared {
            Prepared::Collective { .. } => return Err(not_persistent(request)),
            Prepared::Send { buffer, to, tag, comm, mode } => {
                let Some(header) = self.header(to, tag, comm, mode)? else {
                    self.slot(request)?.work = Work::Done;
                    return Ok(());
                };
                if mode == Mode::Buffered {
                    self.reserve(mem, fabric, &buffer)?;
                }
                let data = self.content(mem, &buffer)?;
                self.slot(request)?.work = Work::Send;
                self.dispatch(fabric, header, &data, request, mode);
            }
            Prepared::Receive { buffer, from, tag, comm } => {
                let Some(posted) = self.wanted(mem, buffer, from, tag, comm)? else {
                    let slot = self.slot(request)?;
                    (slot.work, slot.status) = (Work::Done, Status::NO_PROCESS);
                    return Ok(());
                };
                self.slot(request)?.work = Work::Receive;
                self.post(mem, fabric, Posted { request, ..posted })?;
            }
        }
        Ok(())
    }
}
