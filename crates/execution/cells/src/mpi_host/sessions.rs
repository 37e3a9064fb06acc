//! Sessions: MPI begun by a part of a program for itself. All that they lead to is the world that is there anyway.

use super::{Calls, MODULE, block, calls, fail, get_i32, local, one, parts, put, put_i32, text};
use crate::cell::{Host, Mode};
use mpi::{Class, Error, State};
use wasmtime::Caller;

/// Sets of processes that a session knows.
const SETS: [&str; 2] = ["mpi://WORLD", "mpi://SELF"];
/// Sessions of one rank at a time.
const SESSIONS_MAX: usize = 1024;
/// Bytes of a set's name and of a tag.
const NAME_MAX: usize = 1024;

fn session(m: &State, handle: i32) -> mpi::Result<i32> {
    let found = usize::try_from(i64::from(handle) - 1).ok().and_then(|i| m.sessions.get(i).copied().flatten());
    found.ok_or_else(|| Error::new(Class::Arg, format!("session handle {handle} is not valid")))
}

fn set(name: &str) -> mpi::Result<usize> {
    let found = SETS.iter().position(|s| s.eq_ignore_ascii_case(name));
    found.ok_or_else(|| Error::new(Class::Arg, format!("there is no set of processes {name:?}; {} are", SETS.join(" and "))))
}

/// What another rank that gives the same tag gets, too.
fn number(tag: &str) -> i32 {
    (tag.bytes().fold(5381u32, |n, b| n.wrapping_mul(33) ^ u32::from(b)) & 0x0fff_ffff) as i32
}

/// A session has an error handler.
fn keep(m: &mut State, handler: i32) {
    if let Ok(h) = m.handler(handler) {
        h.uses = h.uses.saturating_add(1);
    }
}

fn add(m: &mut State, handler: i32) -> mpi::Result<i32> {
    let slot = m.sessions.iter().position(Option::is_none).unwrap_or(m.sessions.len());
    if slot >= SESSIONS_MAX {
        return Err(Error::new(Class::Other, format!("this rank has {SESSIONS_MAX} sessions; finalize some")));
    }
    if slot == m.sessions.len() {
        m.sessions.push(None);
    }
    keep(m, handler);
    m.sessions[slot] = Some(handler);
    Ok(slot as i32 + 1)
}

pub(super) fn link(l: &mut Calls<'_>) -> wasmtime::Result<()> {
    l.func_wrap(MODULE, "MPI_Session_init", |c: &mut Caller<'_, Host>, _info: i32, handler: i32, into: u32| {
        super::early(c, "MPI_Session_init", 0, |mem, m, _| {
            let handle = add(m, if handler == 0 { mpi::comm::FATAL } else { handler })?;
            put_i32(mem, into, handle)
        })
    })?;
    l.func_wrap(MODULE, "MPI_Session_finalize", |c: &mut Caller<'_, Host>, handle: u32| {
        local(c, "MPI_Session_finalize", 0, |mem, m, _| {
            let which = get_i32(mem, handle)?;
            let handler = session(m, which)?;
            m.sessions[which as usize - 1] = None;
            m.drop_handler(handler);
            put_i32(mem, handle, 0)
        })
    })?;
    l.func_wrap(MODULE, "MPI_Session_get_num_psets", |c: &mut Caller<'_, Host>, handle: i32, _info: i32, into: u32| {
        local(c, "MPI_Session_get_num_psets", handle, |mem, m, _| {
            session(m, handle)?;
            put_i32(mem, into, SETS.len() as i32)
        })
    })?;
    l.func_wrap(MODULE, "MPI_Session_get_nth_pset", |c: &mut Caller<'_, Host>, handle: i32, _info: i32, n: i32, len: u32, into: u32| {
        local(c, "MPI_Session_get_nth_pset", handle, |mem, m, _| {
            session(m, handle)?;
            let name = usize::try_from(n).ok().and_then(|n| SETS.get(n)).ok_or_else(|| Error::new(Class::Arg, format!("set of processes {n} is not one of {}", SETS.len())))?;
            // What there is room for, with its end; and how much room all of it takes.
            if let Ok(room @ 1..) = usize::try_from(get_i32(mem, len)?) {
                put(mem, into, &[&name.as_bytes()[..name.len().min(room - 1)], b"\0"].concat())?;
            }
            put_i32(mem, len, name.len() as i32 + 1)
        })
    })?;
    l.func_wrap(MODULE, "MPI_Session_get_pset_info", |c: &mut Caller<'_, Host>, handle: i32, name: u32, into: u32| {
        local(c, "MPI_Session_get_pset_info", handle, |mem, m, _| {
            session(m, handle)?;
            let size = if set(&text(mem, name, NAME_MAX)?)? == 0 { m.world_size() } else { 1 };
            put_i32(mem, into, m.infos.add(vec![("mpi_size".into(), size.to_string())])?)
        })
    })?;
    l.func_wrap(MODULE, "MPI_Session_get_info", |c: &mut Caller<'_, Host>, handle: i32, into: u32| {
        local(c, "MPI_Session_get_info", handle, |mem, m, _| {
            session(m, handle)?;
            put_i32(mem, into, m.infos.add(vec![("thread_level".into(), "MPI_THREAD_MULTIPLE".into())])?)
        })
    })?;
    l.func_wrap(MODULE, "MPI_Group_from_session_pset", |c: &mut Caller<'_, Host>, handle: i32, name: u32, into: u32| {
        local(c, "MPI_Group_from_session_pset", 1, |mem, m, _| {
            session(m, handle)?;
            let comm = if set(&text(mem, name, NAME_MAX)?)? == 0 { mpi::comm::WORLD } else { mpi::comm::SELF };
            let group = m.comms.get(comm)?.group.clone();
            put_i32(mem, into, m.groups.add(group)?)
        })
    })?;
    l.func_wrap(MODULE, "MPI_Comm_create_from_group", |c: &mut Caller<'_, Host>, group: i32, tag: u32, _info: i32, handler: i32, into: u32| {
        let code = block(c, "MPI_Comm_create_from_group", 1, 2, |mem, m, f| {
            let (group, tag) = (m.groups.get(group)?.to_vec(), number(&text(mem, tag, NAME_MAX)?));
            Ok(one(m.comm_create_group(mem, f, mpi::comm::WORLD, &group, tag, into)?, 0))
        })?;
        if code != 0 || c.data().mode != Mode::Running {
            return Ok(code);
        }
        local(c, "MPI_Comm_create_from_group", 1, |mem, m, _| {
            let comm = get_i32(mem, into)?;
            m.set_handler(comm, if handler == 0 { mpi::comm::FATAL } else { handler })
        })
    })?;
    l.func_wrap(MODULE, "MPI_Session_create_errhandler", |c: &mut Caller<'_, Host>, function: u32, into: u32| {
        super::early(c, "MPI_Session_create_errhandler", 0, |mem, m, _| put_i32(mem, into, m.add_handler(function)?))
    })?;
    l.func_wrap(MODULE, "MPI_Session_set_errhandler", |c: &mut Caller<'_, Host>, handle: i32, handler: i32| {
        local(c, "MPI_Session_set_errhandler", handle, |_, m, _| {
            let old = session(m, handle)?;
            keep(m, handler);
            m.sessions[handle as usize - 1] = Some(handler);
            m.drop_handler(old);
            Ok(())
        })
    })?;
    l.func_wrap(MODULE, "MPI_Session_get_errhandler", |c: &mut Caller<'_, Host>, handle: i32, into: u32| {
        local(c, "MPI_Session_get_errhandler", handle, |mem, m, _| {
            let handler = session(m, handle)?;
            keep(m, handler);
            put_i32(mem, into, handler)
        })
    })?;
    l.func_wrap(MODULE, "MPI_Session_call_errhandler", |c: &mut Caller<'_, Host>, handle: i32, code: i32| {
        let known = session(&parts(c).1.mpi, handle);
        match known {
            Ok(_) => calls::raise(c, "MPI_Session_call_errhandler", handle, code, Class::text(code)).map(|_| 0),
            Err(e) => fail(c, "MPI_Session_call_errhandler", 0, e),
        }
    })?;
    Ok(())
}
