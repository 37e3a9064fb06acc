//! Windows as the guest makes and uses them: one-sided communication.

use super::{Calls, MODULE, Pending, ask, block, calls, communicators, count, fail, get_i32, local, one, parts, put_i32, put_text, ready, text};
use crate::cell::{Host, Mode};
use mpi::attribute::On;
use mpi::rank::{PROC_NULL, Remote};
use mpi::window::{Flavor, Part};
use mpi::{Class, Error, Fabric, Memory, State};
use wasmtime::Caller;

/// `MPI_LOCK_EXCLUSIVE` and `MPI_LOCK_SHARED` of `guests/mpi.h`.
const EXCLUSIVE: i32 = 1;
const SHARED: i32 = 2;

/// What a window's hints say when the program has given none.
const DEFAULTS: [(&str, &str); 5] =
    [("no_locks", "false"), ("accumulate_ordering", "rar,raw,war,waw"), ("accumulate_ops", "same_op_no_op"), ("same_size", "false"), ("same_disp_unit", "false")];

/// Bytes and unit of a window's memory.
fn checked(size: i32, unit: i32) -> mpi::Result<(u32, u32)> {
    let bytes = u32::try_from(size).map_err(|_| Error::new(Class::Size, format!("a window of {size} bytes can't be made")))?;
    match u32::try_from(unit) {
        Ok(unit @ 1..) => Ok((bytes, unit)),
        _ => Err(Error::new(Class::Disp, format!("displacements can't count by {unit} bytes"))),
    }
}

fn hints(m: &mut State, info: i32) -> mpi::Result<mpi::info::Pairs> {
    Ok(communicators::hints_of(m, Some(info))?.unwrap_or_default())
}

/// A window with memory of the guest's allocator.
fn allocate(c: &mut Caller<'_, Host>, call: &'static str, flavor: Flavor, size: i32, unit: i32, info: i32, comm: i32, base: u32, into: u32) -> wasmtime::Result<i32> {
    let mut at = 0;
    if c.data().mode != Mode::Rewinding {
        ready(c, call)?;
        let bytes = match checked(size, unit) {
            Ok((bytes, _)) => bytes,
            Err(e) => return fail(c, call, comm, e),
        };
        at = calls::room(c, 0, bytes.max(1))?;
        if at == 0 {
            return fail(c, call, comm, Error::new(Class::NoMem, format!("no memory for a window of {bytes} bytes")));
        }
    }
    block(c, call, comm, 2, |mem, m, f| {
        let (size, unit) = checked(size, unit)?;
        if flavor == Flavor::Shared && m.comms.get(comm)?.size() > 1 {
            let text = "ranks share no memory, since each may be moved by itself; make the window on a communicator of MPI_Comm_split_type, or use MPI_Win_allocate";
            return Err(Error::new(Class::RmaShared, text));
        }
        let hints = hints(m, info)?;
        put_i32(mem, base, at as i32)?;
        Ok(one(m.window_create(mem, f, comm, flavor, Part { base: at, size, unit }, hints, into)?, 0))
    })
}

fn link_making(l: &mut Calls<'_>) -> wasmtime::Result<()> {
    l.func_wrap(MODULE, "MPI_Win_create", |c: &mut Caller<'_, Host>, base: u32, size: i32, unit: i32, info: i32, comm: i32, into: u32| {
        block(c, "MPI_Win_create", comm, 2, |mem, m, f| {
            let (size, unit) = checked(size, unit)?;
            let hints = hints(m, info)?;
            Ok(one(m.window_create(mem, f, comm, Flavor::Create, Part { base, size, unit }, hints, into)?, 0))
        })
    })?;
    for (name, flavor) in [("MPI_Win_allocate", Flavor::Allocate), ("MPI_Win_allocate_shared", Flavor::Shared)] {
        l.func_wrap(MODULE, name, move |c: &mut Caller<'_, Host>, size: i32, unit: i32, info: i32, comm: i32, base: u32, into: u32| {
            allocate(c, name, flavor, size, unit, info, comm, base, into)
        })?;
    }
    l.func_wrap(MODULE, "MPI_Win_create_dynamic", |c: &mut Caller<'_, Host>, info: i32, comm: i32, into: u32| {
        block(c, "MPI_Win_create_dynamic", comm, 2, |mem, m, f| {
            let hints = hints(m, info)?;
            Ok(one(m.window_create(mem, f, comm, Flavor::Dynamic, Part { base: 0, size: 0, unit: 1 }, hints, into)?, 0))
        })
    })?;
    l.func_wrap(MODULE, "MPI_Win_attach", |c: &mut Caller<'_, Host>, window: i32, base: u32, size: i32| {
        local(c, "MPI_Win_attach", window, |mem, m, _| {
            let (size, _) = checked(size, 1)?;
            if u64::from(base) + u64::from(size) > mem.len() as u64 {
                return Err(Error::new(Class::RmaAttach, format!("{size} bytes at {base:#x} are outside of the memory")));
            }
            m.windows.get_mut(window)?.attach(base, size)
        })
    })?;
    l.func_wrap(MODULE, "MPI_Win_detach", |c: &mut Caller<'_, Host>, window: i32, base: u32| {
        local(c, "MPI_Win_detach", window, |_, m, _| m.windows.get_mut(window)?.detach(base))
    })?;
    l.func_wrap(MODULE, "MPI_Win_shared_query", |c: &mut Caller<'_, Host>, window: i32, rank: i32, size: u32, unit: u32, base: u32| {
        local(c, "MPI_Win_shared_query", window, |mem, m, _| {
            let w = m.windows.get(window)?;
            if w.flavor != Flavor::Shared {
                return Err(Error::new(Class::RmaFlavor, "the window was not made by MPI_Win_allocate_shared"));
            }
            // One rank, which is the first that has memory, too.
            let rank = if rank == PROC_NULL { 0 } else { rank };
            m.window_comm(window)?.world(rank)?;
            let part = w.parts[rank as usize];
            put_i32(mem, size, part.size as i32)?;
            put_i32(mem, unit, part.unit as i32)?;
            put_i32(mem, base, part.base as i32)
        })
    })?;
    l.func_wrap(MODULE, "MPI_Win_free", |c: &mut Caller<'_, Host>, handle: u32| {
        let (mut mem, _) = parts(c);
        let mem = &mut mem;
        let window = get_i32(mem, handle).unwrap_or(0);
        if c.data().mode != Mode::Rewinding {
            ready(c, "MPI_Win_free")?;
            if c.data().mpi.windows.get(window).is_ok() {
                let code = calls::delete_attributes(c, On::Win, window)?;
                if code != 0 {
                    return calls::raise(c, "MPI_Win_free", window, code, "an attribute's delete function has refused");
                }
            }
        }
        let code = block(c, "MPI_Win_free", window, 2, |mem, m, f| Ok(one(m.window_free(mem, f, window)?, 0)))?;
        if code != 0 || c.data().mode != Mode::Running {
            return Ok(code);
        }
        while let Some(at) = c.data_mut().mpi.unused.pop() {
            calls::room(c, at, 0)?;
        }
        local(c, "MPI_Win_free", 1, |mem, _, _| put_i32(mem, handle, 0))
    })?;
    Ok(())
}

fn link_asking(l: &mut Calls<'_>) -> wasmtime::Result<()> {
    l.func_wrap(MODULE, "MPI_Win_get_group", |c: &mut Caller<'_, Host>, window: i32, into: u32| {
        local(c, "MPI_Win_get_group", window, |mem, m, _| {
            let group = m.window_comm(window)?.group.clone();
            put_i32(mem, into, m.groups.add(group)?)
        })
    })?;
    l.func_wrap(MODULE, "MPI_Win_set_name", |c: &mut Caller<'_, Host>, window: i32, name: u32| {
        local(c, "MPI_Win_set_name", window, |mem, m, _| {
            let comm = m.windows.get(window)?.comm;
            m.comms.get_mut(comm)?.name = text(mem, name, mpi::comm::NAME_MAX)?;
            Ok(())
        })
    })?;
    l.func_wrap(MODULE, "MPI_Win_get_name", |c: &mut Caller<'_, Host>, window: i32, name: u32, length: u32| {
        local(c, "MPI_Win_get_name", window, |mem, m, _| put_text(mem, name, length, &m.window_comm(window)?.name, 128))
    })?;
    l.func_wrap(MODULE, "MPI_Win_set_info", |c: &mut Caller<'_, Host>, window: i32, info: i32| {
        local(c, "MPI_Win_set_info", window, |_, m, _| {
            let (hints, comm) = (hints(m, info)?, m.windows.get(window)?.comm);
            communicators::add_hints(&mut m.comms.get_mut(comm)?.hints, hints);
            Ok(())
        })
    })?;
    l.func_wrap(MODULE, "MPI_Win_get_info", |c: &mut Caller<'_, Host>, window: i32, into: u32| {
        local(c, "MPI_Win_get_info", window, |mem, m, _| {
            let mut hints = m.window_comm(window)?.hints.clone();
            let known = hints.len();
            for (key, value) in DEFAULTS {
                if !hints[..known].iter().any(|(k, _)| k == key) {
                    hints.push((key.into(), value.into()));
                }
            }
            put_i32(mem, into, m.infos.add(hints)?)
        })
    })?;
    Ok(())
}

fn link_epochs(l: &mut Calls<'_>) -> wasmtime::Result<()> {
    l.func_wrap(MODULE, "MPI_Win_fence", |c: &mut Caller<'_, Host>, assert: i32, window: i32| {
        block(c, "MPI_Win_fence", window, 2, |_, m, f| Ok(one(m.fence(f, window, assert)?, 0)))
    })?;
    l.func_wrap(MODULE, "MPI_Win_start", |c: &mut Caller<'_, Host>, group: i32, assert: i32, window: i32| {
        block(c, "MPI_Win_start", window, 1, |_, m, _| {
            let group = m.groups.get(group)?.to_vec();
            Ok(one(m.window_start(window, &group, assert)?, 0))
        })
    })?;
    l.func_wrap(MODULE, "MPI_Win_complete", |c: &mut Caller<'_, Host>, window: i32| {
        block(c, "MPI_Win_complete", window, 1, |_, m, f| Ok(one(m.window_complete(f, window)?, 0)))
    })?;
    l.func_wrap(MODULE, "MPI_Win_post", |c: &mut Caller<'_, Host>, group: i32, assert: i32, window: i32| {
        local(c, "MPI_Win_post", window, |_, m, f| {
            let group = m.groups.get(group)?.to_vec();
            m.window_post(f, window, &group, assert)
        })
    })?;
    l.func_wrap(MODULE, "MPI_Win_wait", |c: &mut Caller<'_, Host>, window: i32| {
        block(c, "MPI_Win_wait", window, 1, |_, m, _| Ok(one(m.window_wait(window)?, 0)))
    })?;
    l.func_wrap(MODULE, "MPI_Win_test", |c: &mut Caller<'_, Host>, window: i32, flag: u32| {
        ask(c, "MPI_Win_test", |mem, m| {
            let done = m.window_test(window)?;
            put_i32(mem, flag, i32::from(done))?;
            Ok(done)
        })
    })?;
    l.func_wrap(MODULE, "MPI_Win_sync", |c: &mut Caller<'_, Host>, window: i32| {
        ask(c, "MPI_Win_sync", |_, m| m.windows.get(window).map(|_| true))
    })?;
    l.func_wrap(MODULE, "MPI_Win_lock", |c: &mut Caller<'_, Host>, kind: i32, rank: i32, assert: i32, window: i32| {
        block(c, "MPI_Win_lock", window, 1, |_, m, f| {
            if !matches!(kind, EXCLUSIVE | SHARED) {
                return Err(Error::new(Class::LockType, format!("there is no lock of type {kind}")));
            }
            m.windows.get(window)?;
            Ok(one(if rank == PROC_NULL { 0 } else { m.lock(f, window, Some(rank), kind == EXCLUSIVE, assert)? }, 0))
        })
    })?;
    l.func_wrap(MODULE, "MPI_Win_lock_all", |c: &mut Caller<'_, Host>, assert: i32, window: i32| {
        block(c, "MPI_Win_lock_all", window, 1, |_, m, f| Ok(one(m.lock(f, window, None, false, assert)?, 0)))
    })?;
    l.func_wrap(MODULE, "MPI_Win_unlock_all", |c: &mut Caller<'_, Host>, window: i32| {
        block(c, "MPI_Win_unlock_all", window, 1, |_, m, f| Ok(one(m.unlock(f, window, None)?, 0)))
    })?;
    /// Calls that end accesses to one rank.
    type Ending = fn(&mut State, &Fabric, i32, Option<i32>) -> mpi::Result<i32>;
    let endings: [(&'static str, Ending); 3] = [
        ("MPI_Win_unlock", |m, f, window, rank| m.unlock(f, window, rank)),
        ("MPI_Win_flush", |m, f, window, rank| m.window_flush(f, window, rank, false)),
        ("MPI_Win_flush_local", |m, f, window, rank| m.window_flush(f, window, rank, true)),
    ];
    for (name, end) in endings {
        l.func_wrap(MODULE, name, move |c: &mut Caller<'_, Host>, rank: i32, window: i32| {
            block(c, name, window, 1, |_, m, f| {
                m.windows.get(window)?;
                Ok(one(if rank == PROC_NULL { 0 } else { end(m, f, window, Some(rank))? }, 0))
            })
        })?;
    }
    for (name, local) in [("MPI_Win_flush_all", false), ("MPI_Win_flush_local_all", true)] {
        l.func_wrap(MODULE, name, move |c: &mut Caller<'_, Host>, window: i32| {
            block(c, name, window, 1, |_, m, f| Ok(one(m.window_flush(f, window, None, local)?, 0)))
        })?;
    }
    Ok(())
}

/// What an access of `MPI_PROC_NULL` needs of its buffers: nothing.
fn origin(m: &State, address: u32, n: i32, t: i32) -> mpi::Result<mpi::datatype::Buffer> {
    count(n)?;
    m.checked(address, n, t)
}

/// An access begins at once. If too much is under way it waits, so that a rank can't ask for more than there is room for.
fn access(c: &mut Caller<'_, Host>, call: &str, window: i32, begin: impl FnOnce(&mut Memory<'_>, &mut State, &Fabric) -> mpi::Result<()>) -> wasmtime::Result<i32> {
    block(c, call, window, 1, |mem, m, f| {
        begin(mem, m, f)?;
        Ok(Pending::Room)
    })
}

fn link_accesses(l: &mut Calls<'_>) -> wasmtime::Result<()> {
    for (name, name_r, reads) in [("MPI_Put", "MPI_Rput", false), ("MPI_Get", "MPI_Rget", true)] {
        let start = move |mem: &mut Memory<'_>, m: &mut State, f: &Fabric, buffer: (u32, i32, i32), target: Remote, wanted: bool| {
            let (address, n, t) = buffer;
            let buffer = origin(m, address, n, t)?;
            if reads { m.get(mem, f, buffer, target, wanted) } else { m.put(mem, f, buffer, target, wanted) }
        };
        l.func_wrap(MODULE, name, move |c: &mut Caller<'_, Host>, buf: u32, n: i32, t: i32, rank: i32, displacement: i32, tn: i32, tt: i32, window: i32| {
            let target = Remote { window, rank, displacement, count: tn, datatype: tt };
            access(c, name, window, |mem, m, f| start(mem, m, f, (buf, n, t), target, false).map(drop))
        })?;
        l.func_wrap(MODULE, name_r, move |c: &mut Caller<'_, Host>, buf: u32, n: i32, t: i32, rank: i32, displacement: i32, tn: i32, tt: i32, window: i32, request: u32| {
            let target = Remote { window, rank, displacement, count: tn, datatype: tt };
            access(c, name_r, window, |mem, m, f| {
                let r = start(mem, m, f, (buf, n, t), target, true)?;
                put_i32(mem, request, r)
            })
        })?;
    }
    l.func_wrap(MODULE, "MPI_Accumulate", |c: &mut Caller<'_, Host>, buf: u32, n: i32, t: i32, rank: i32, displacement: i32, tn: i32, tt: i32, op: i32, window: i32| {
        let target = Remote { window, rank, displacement, count: tn, datatype: tt };
        access(c, "MPI_Accumulate", window, |mem, m, f| {
            let buffer = origin(m, buf, n, t)?;
            m.accumulate(mem, f, buffer, target, op, false).map(drop)
        })
    })?;
    #[allow(clippy::type_complexity)]
    l.func_wrap(
        MODULE,
        "MPI_Raccumulate",
        |c: &mut Caller<'_, Host>, buf: u32, n: i32, t: i32, rank: i32, displacement: i32, tn: i32, tt: i32, op: i32, window: i32, request: u32| {
            let target = Remote { window, rank, displacement, count: tn, datatype: tt };
            access(c, "MPI_Raccumulate", window, |mem, m, f| {
                let buffer = origin(m, buf, n, t)?;
                let r = m.accumulate(mem, f, buffer, target, op, true)?;
                put_i32(mem, request, r)
            })
        },
    )?;
    /// `MPI_NO_OP` takes nothing from the origin, whose arguments may then be anything.
    fn both(m: &State, op: i32, from: (u32, i32, i32), into: (u32, i32, i32)) -> mpi::Result<(Option<mpi::datatype::Buffer>, mpi::datatype::Buffer)> {
        let from = if op == 14 { None } else { Some(origin(m, from.0, from.1, from.2)?) };
        Ok((from, origin(m, into.0, into.1, into.2)?))
    }
    l.func_wrap(
        MODULE,
        "MPI_Get_accumulate",
        |c: &mut Caller<'_, Host>, buf: u32, n: i32, t: i32, result: u32, rn: i32, rt: i32, rank: i32, displacement: i32, tn: i32, tt: i32, op: i32, window: i32| {
            let target = Remote { window, rank, displacement, count: tn, datatype: tt };
            access(c, "MPI_Get_accumulate", window, |mem, m, f| {
                let (from, into) = both(m, op, (buf, n, t), (result, rn, rt))?;
                m.get_accumulate(mem, f, from, into, target, op, false).map(drop)
            })
        },
    )?;
    l.func_wrap(
        MODULE,
        "MPI_Rget_accumulate",
        |c: &mut Caller<'_, Host>, buf: u32, n: i32, t: i32, result: u32, rn: i32, rt: i32, rank: i32, displacement: i32, tn: i32, tt: i32, op: i32, window: i32, request: u32| {
            let target = Remote { window, rank, displacement, count: tn, datatype: tt };
            access(c, "MPI_Rget_accumulate", window, |mem, m, f| {
                let (from, into) = both(m, op, (buf, n, t), (result, rn, rt))?;
                let r = m.get_accumulate(mem, f, from, into, target, op, true)?;
                put_i32(mem, request, r)
            })
        },
    )?;
    l.func_wrap(MODULE, "MPI_Fetch_and_op", |c: &mut Caller<'_, Host>, buf: u32, result: u32, t: i32, rank: i32, displacement: i32, op: i32, window: i32| {
        let target = Remote { window, rank, displacement, count: 1, datatype: t };
        access(c, "MPI_Fetch_and_op", window, |mem, m, f| {
            let (from, into) = both(m, op, (buf, 1, t), (result, 1, t))?;
            m.get_accumulate(mem, f, from, into, target, op, false).map(drop)
        })
    })?;
    l.func_wrap(MODULE, "MPI_Compare_and_swap", |c: &mut Caller<'_, Host>, new: u32, old: u32, result: u32, t: i32, rank: i32, displacement: i32, window: i32| {
        let target = Remote { window, rank, displacement, count: 1, datatype: t };
        access(c, "MPI_Compare_and_swap", window, |mem, m, f| m.compare_and_swap(mem, f, new, old, result, target))
    })?;
    Ok(())
}

pub(super) fn link(l: &mut Calls<'_>) -> wasmtime::Result<()> {
    link_making(l)?;
    link_asking(l)?;
    link_epochs(l)?;
    link_accesses(l)
}
