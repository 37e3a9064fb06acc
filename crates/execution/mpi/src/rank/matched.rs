//! Matched probes and generalized requests: messages and completions that the program has in its own hands.

use super::{General, MESSAGE_OVERHEAD, Posted, Request, State, Status, Target, Work};
use crate::comm;
use crate::datatype::{self, Buffer};
use crate::error::{Class, Error, Result};
use crate::fabric::Fabric;
use crate::memory::Memory;
use crate::message::Header;
use serde::{Deserialize, Serialize};

/// A message that no other receive may take.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Matched {
    pub header: Header,
    pub data: Vec<u8>,
    pub comm: comm::Handle,
}

/// A message handle as the guest sees it: 0 is none, 1 is that of `MPI_PROC_NULL`, others are a request's and one more.
pub type Handle = i32;
pub const NO_PROCESS: Handle = 1;

impl State {
    /// `MPI_Improbe`: the oldest message that a receive with these arguments would take, taken out.
    pub fn match_message(&mut self, from: i32, tag: i32, comm: comm::Handle) -> Result<Option<(Handle, Status)>> {
        let Some(status) = self.probe(from, tag, comm)? else { return Ok(None) };
        if from == super::PROC_NULL {
            return Ok(Some((NO_PROCESS, status)));
        }
        let c = self.comms.get(comm)?;
        let (context, source) = (c.context * 2, c.world(status.source)?);
        let at = self.unexpected.iter().position(|(h, _)| h.context == context && h.src == source && h.tag == status.tag);
        let request = self.add(Work::Done)?;
        let Some((header, data)) = at.and_then(|i| self.unexpected.remove(i)) else {
            self.reclaim(request);
            return Ok(None);
        };
        self.slot(request)?.work = Work::Matched(Box::new(Matched { header, data, comm }));
        Ok(Some((request + 1, status)))
    }

    /// `MPI_Imrecv`
    pub fn receive_message(&mut self, mem: &mut Memory<'_>, fabric: &Fabric, buffer: Buffer, message: Handle) -> Result<Request> {
        if message == NO_PROCESS {
            let request = self.add(Work::Done)?;
            self.slot(request)?.status = Status::NO_PROCESS;
            return Ok(request);
        }
        let request = message.saturating_sub(1);
        datatype::within(mem.len(), self.types.used(buffer.datatype)?, &buffer)?;
        let slot = self.slot(request)?;
        if !matches!(slot.work, Work::Matched(_)) {
            return Err(Error::new(Class::Request, format!("message handle {message} is not valid")));
        }
        let Work::Matched(matched) = std::mem::replace(&mut slot.work, Work::Receive) else { return Ok(request) };
        let Matched { header, data, comm } = *matched;
        self.unexpected_bytes -= MESSAGE_OVERHEAD + data.len();
        self.types.hold(buffer.datatype);
        let posted = Posted { request, context: header.context, source: Some(header.src), tag: Some(header.tag), target: Target::Guest { buffer, comm } };
        self.deliver(mem, fabric, posted, &header, &data)?;
        Ok(request)
    }

    /// `MPI_Grequest_start`
    pub fn general_start(&mut self, general: General) -> Result<Request> {
        let request = self.add(Work::General)?;
        self.slot(request)?.general = Some(general);
        Ok(request)
    }

    /// `MPI_Grequest_complete`
    pub fn general_complete(&mut self, request: Request) -> Result<()> {
        let slot = self.slot(request)?;
        if !matches!(slot.work, Work::General) {
            return Err(Error::new(Class::Request, format!("request {request} is not a generalized one that is under way")));
        }
        slot.work = Work::Done;
        self.news += 1;
        Ok(())
    }

    /// The functions of a generalized request.
    pub fn general(&mut self, request: Request) -> Option<General> {
        self.slot(request).ok()?.general
    }

    /// Whether a generalized request is complete.
    pub fn general_done(&mut self, request: Request) -> bool {
        self.slot(request).is_ok_and(|s| s.general.is_some() && matches!(s.work, Work::Done))
    }
}
