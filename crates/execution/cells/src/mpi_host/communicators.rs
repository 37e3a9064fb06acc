//! Groups, communicators and topologies as the guest makes and asks for them.

use super::{Calls, MODULE, block, calls, count, get_i32, ints, local, one, parts, put, put_i32, put_text, ready, text};
use crate::cell::{Host, Mode};
use mpi::attribute::On;
use mpi::group::{Likeness, compare};
use mpi::rank::UNDEFINED;
use mpi::topology::{self, Topology};
use mpi::{Class, Error, Memory, State};
use wasmtime::Caller;

fn memory<T>(result: mpi::Result<T>) -> wasmtime::Result<T> {
    result.map_err(|e| wasmtime::Error::msg(e.message))
}

/// Three ints for each range.
fn ranges(mem: &Memory<'_>, address: u32, n: i32) -> mpi::Result<Vec<[i32; 3]>> {
    let n = count(n)?.checked_mul(3).ok_or_else(|| Error::new(Class::Count, format!("{n} ranges are too many")))?;
    Ok(ints(mem, address, n)?.chunks_exact(3).map(|r| [r[0], r[1], r[2]]).collect())
}

fn link_groups(l: &mut Calls<'_>) -> wasmtime::Result<()> {
    for (name, remote) in [("MPI_Comm_group", false), ("MPI_Comm_remote_group", true)] {
        l.func_wrap(MODULE, name, move |c: &mut Caller<'_, Host>, comm: i32, into: u32| {
            local(c, name, comm, |mem, m, _| {
                let comm = m.comms.get(comm)?;
                let group = match (remote, &comm.remote) {
                    (false, _) => comm.group.clone(),
                    (true, Some(remote)) => remote.clone(),
                    (true, None) => return Err(Error::new(Class::Comm, "the communicator has no other group")),
                };
                let handle = m.groups.add(group)?;
                put_i32(mem, into, handle)
            })
        })?;
    }
    l.func_wrap(MODULE, "MPI_Group_size", |c: &mut Caller<'_, Host>, group: i32, into: u32| {
        local(c, "MPI_Group_size", 1, |mem, m, _| put_i32(mem, into, m.groups.get(group)?.len() as i32))
    })?;
    l.func_wrap(MODULE, "MPI_Group_rank", |c: &mut Caller<'_, Host>, group: i32, into: u32| {
        local(c, "MPI_Group_rank", 1, |mem, m, _| {
            let at = m.groups.get(group)?.iter().position(|r| *r == m.me);
            put_i32(mem, into, at.map_or(UNDEFINED, |i| i as i32))
        })
    })?;
    l.func_wrap(MODULE, "MPI_Group_free", |c: &mut Caller<'_, Host>, handle: u32| {
        local(c, "MPI_Group_free", 1, |mem, m, _| {
            m.groups.free(get_i32(mem, handle)?)?;
            put_i32(mem, handle, 0)
        })
    })?;
    l.func_wrap(MODULE, "MPI_Group_compare", |c: &mut Caller<'_, Host>, a: i32, b: i32, into: u32| {
        local(c, "MPI_Group_compare", 1, |mem, m, _| put_i32(mem, into, compare(m.groups.get(a)?, m.groups.get(b)?) as i32))
    })?;
    l.func_wrap(MODULE, "MPI_Group_union", |c: &mut Caller<'_, Host>, a: i32, b: i32, into: u32| {
        local(c, "MPI_Group_union", 1, |mem, m, _| put_i32(mem, into, m.groups.union(a, b)?))
    })?;
    for (name, within) in [("MPI_Group_intersection", true), ("MPI_Group_difference", false)] {
        l.func_wrap(MODULE, name, move |c: &mut Caller<'_, Host>, a: i32, b: i32, into: u32| {
            local(c, name, 1, |mem, m, _| put_i32(mem, into, m.groups.filter(a, b, within)?))
        })?;
    }
    for (name, keep) in [("MPI_Group_incl", true), ("MPI_Group_excl", false)] {
        l.func_wrap(MODULE, name, move |c: &mut Caller<'_, Host>, group: i32, n: i32, ranks: u32, into: u32| {
            local(c, name, 1, |mem, m, _| {
                let ranks = ints(mem, ranks, count(n)?)?;
                put_i32(mem, into, m.groups.pick(group, &ranks, keep)?)
            })
        })?;
    }
    for (name, keep) in [("MPI_Group_range_incl", true), ("MPI_Group_range_excl", false)] {
        l.func_wrap(MODULE, name, move |c: &mut Caller<'_, Host>, group: i32, n: i32, given: u32, into: u32| {
            local(c, name, 1, |mem, m, _| {
                let ranges = ranges(mem, given, n)?;
                put_i32(mem, into, m.groups.pick_ranges(group, &ranges, keep)?)
            })
        })?;
    }
    l.func_wrap(MODULE, "MPI_Group_translate_ranks", |c: &mut Caller<'_, Host>, a: i32, n: i32, ranks: u32, b: i32, into: u32| {
        local(c, "MPI_Group_translate_ranks", 1, |mem, m, _| {
            let translated = m.groups.translate(a, &ints(mem, ranks, count(n)?)?, b)?;
            put_ints(mem, into, &translated)
        })
    })?;
    Ok(())
}

fn put_ints(mem: &mut Memory<'_>, address: u32, values: &[i32]) -> mpi::Result<()> {
    put(mem, address, &values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>())
}

/// What a duplicate gets of the program's own: attributes. A function that refuses undoes it.
fn duplicated(c: &mut Caller<'_, Host>, call: &str, comm: i32, into: u32) -> wasmtime::Result<i32> {
    let (mut mem, _) = parts(c);
    let mem = &mut mem;
    let new = memory(get_i32(mem, into))?;
    let code = calls::copy_attributes(c, On::Comm, comm, new)?;
    if code == 0 {
        return Ok(0);
    }
    let (mut mem, host) = parts(c);
    let mem = &mut mem;
    memory(host.mpi.comm_free(new).and_then(|()| put_i32(mem, into, 0)))?;
    calls::raise(c, call, comm, code, "an attribute's copy function has refused")
}

/// `MPI_Comm_dup`, with hints of its own if there are some.
fn dup(c: &mut Caller<'_, Host>, call: &'static str, comm: i32, hints: Option<i32>, into: u32) -> wasmtime::Result<i32> {
    let code = block(c, call, comm, 2, |mem, m, f| {
        let hints = hints_of(m, hints)?;
        let (request, handle) = m.comm_dup(mem, f, comm, hints)?;
        put_i32(mem, into, handle)?;
        Ok(one(request, 0))
    })?;
    if code != 0 || c.data().mode != Mode::Running {
        return Ok(code);
    }
    duplicated(c, call, comm, into)
}

/// `MPI_Comm_idup`, with hints of its own if there are some.
fn idup(c: &mut Caller<'_, Host>, call: &'static str, comm: i32, hints: Option<i32>, into: u32, request: u32) -> wasmtime::Result<i32> {
    let code = local(c, call, comm, |mem, m, f| {
        let hints = hints_of(m, hints)?;
        let (r, handle) = m.comm_dup(mem, f, comm, hints)?;
        put_i32(mem, into, handle)?;
        put_i32(mem, request, r)
    })?;
    if code != 0 {
        return Ok(code);
    }
    let (mut mem, _) = parts(c);
    let mem = &mut mem;
    let new = memory(get_i32(mem, into))?;
    let code = calls::copy_attributes(c, On::Comm, comm, new)?;
    if code == 0 { Ok(0) } else { calls::raise(c, call, comm, code, "an attribute's copy function has refused") }
}

pub(super) fn hints_of(m: &mut State, info: Option<i32>) -> mpi::Result<Option<mpi::info::Pairs>> {
    info.map(|h| if h == 0 { Ok(Vec::new()) } else { m.infos.get(h).cloned() }).transpose()
}

fn link_communicators(l: &mut Calls<'_>) -> wasmtime::Result<()> {
    l.func_wrap(MODULE, "MPI_Comm_rank", |c: &mut Caller<'_, Host>, comm: i32, into: u32| {
        local(c, "MPI_Comm_rank", comm, |mem, m, _| put_i32(mem, into, m.comms.get(comm)?.me as i32))
    })?;
    l.func_wrap(MODULE, "MPI_Comm_size", |c: &mut Caller<'_, Host>, comm: i32, into: u32| {
        local(c, "MPI_Comm_size", comm, |mem, m, _| put_i32(mem, into, m.comms.get(comm)?.size() as i32))
    })?;
    l.func_wrap(MODULE, "MPI_Comm_test_inter", |c: &mut Caller<'_, Host>, comm: i32, into: u32| {
        local(c, "MPI_Comm_test_inter", comm, |mem, m, _| put_i32(mem, into, i32::from(m.comms.get(comm)?.remote.is_some())))
    })?;
    l.func_wrap(MODULE, "MPI_Comm_remote_size", |c: &mut Caller<'_, Host>, comm: i32, into: u32| {
        local(c, "MPI_Comm_remote_size", comm, |mem, m, _| {
            let remote = m.comms.get(comm)?.remote.as_ref().map(Vec::len);
            let size = remote.ok_or_else(|| Error::new(Class::Comm, "the communicator has no other group"))?;
            put_i32(mem, into, size as i32)
        })
    })?;
    // No rank is started by another one.
    l.func_wrap(MODULE, "MPI_Comm_get_parent", |c: &mut Caller<'_, Host>, into: u32| {
        local(c, "MPI_Comm_get_parent", 1, |mem, _, _| put_i32(mem, into, 0))
    })?;
    l.func_wrap(MODULE, "MPI_Comm_dup", |c: &mut Caller<'_, Host>, comm: i32, into: u32| dup(c, "MPI_Comm_dup", comm, None, into))?;
    l.func_wrap(MODULE, "MPI_Comm_dup_with_info", |c: &mut Caller<'_, Host>, comm: i32, info: i32, into: u32| {
        dup(c, "MPI_Comm_dup_with_info", comm, Some(info), into)
    })?;
    l.func_wrap(MODULE, "MPI_Comm_idup", |c: &mut Caller<'_, Host>, comm: i32, into: u32, request: u32| {
        idup(c, "MPI_Comm_idup", comm, None, into, request)
    })?;
    l.func_wrap(MODULE, "MPI_Comm_idup_with_info", |c: &mut Caller<'_, Host>, comm: i32, info: i32, into: u32, request: u32| {
        idup(c, "MPI_Comm_idup_with_info", comm, Some(info), into, request)
    })?;
    l.func_wrap(MODULE, "MPI_Comm_split", |c: &mut Caller<'_, Host>, comm: i32, color: i32, key: i32, into: u32| {
        block(c, "MPI_Comm_split", comm, 2, |mem, m, f| {
            if color < 0 && color != UNDEFINED {
                return Err(Error::new(Class::Arg, format!("color {color} is negative")));
            }
            Ok(one(m.comm_split(mem, f, comm, color, key, into)?, 0))
        })
    })?;
    l.func_wrap(MODULE, "MPI_Comm_split_type", |c: &mut Caller<'_, Host>, comm: i32, kind: i32, key: i32, _info: i32, into: u32| {
        block(c, "MPI_Comm_split_type", comm, 2, |mem, m, f| {
            // A rank shares memory with nobody: it may be moved away from the others at any time.
            let color = match kind {
                1 => m.comms.get(comm)?.me as i32,
                UNDEFINED => UNDEFINED,
                _ => return Err(Error::new(Class::Arg, format!("there is no split of type {kind}"))),
            };
            Ok(one(m.comm_split(mem, f, comm, color, key, into)?, 0))
        })
    })?;
    l.func_wrap(MODULE, "MPI_Comm_create", |c: &mut Caller<'_, Host>, comm: i32, group: i32, into: u32| {
        block(c, "MPI_Comm_create", comm, 2, |mem, m, f| {
            let group = m.groups.get(group)?.to_vec();
            Ok(one(m.comm_create(mem, f, comm, &group, into)?, 0))
        })
    })?;
    l.func_wrap(MODULE, "MPI_Comm_create_group", |c: &mut Caller<'_, Host>, comm: i32, group: i32, tag: i32, into: u32| {
        block(c, "MPI_Comm_create_group", comm, 2, |mem, m, f| {
            let group = m.groups.get(group)?.to_vec();
            if !group.contains(&m.me) {
                put_i32(mem, into, 0)?;
                return Ok(one(0, 0));
            }
            Ok(one(m.comm_create_group(mem, f, comm, &group, tag, into)?, 0))
        })
    })?;
    l.func_wrap(MODULE, "MPI_Intercomm_create", |c: &mut Caller<'_, Host>, comm: i32, leader: i32, peer: i32, remote: i32, tag: i32, into: u32| {
        block(c, "MPI_Intercomm_create", comm, 2, |mem, m, f| Ok(one(m.intercomm_create(mem, f, comm, leader, peer, remote, tag, into)?, 0)))
    })?;
    l.func_wrap(MODULE, "MPI_Intercomm_merge", |c: &mut Caller<'_, Host>, comm: i32, high: i32, into: u32| {
        block(c, "MPI_Intercomm_merge", comm, 2, |mem, m, f| Ok(one(m.intercomm_merge(mem, f, comm, high != 0, into)?, 0)))
    })?;
    for name in ["MPI_Comm_free", "MPI_Comm_disconnect"] {
        l.func_wrap(MODULE, name, move |c: &mut Caller<'_, Host>, handle: u32| {
            ready(c, name)?;
            let (mut mem, host) = parts(c);
            let mem = &mut mem;
            if let Ok(comm) = get_i32(mem, handle)
                && host.mpi.comms.get(comm).is_ok()
                && comm > mpi::comm::SELF
            {
                let code = calls::delete_attributes(c, On::Comm, comm)?;
                if code != 0 {
                    return calls::raise(c, name, comm, code, "an attribute's delete function has refused");
                }
            }
            local(c, name, 1, |mem, m, _| {
                let comm = get_i32(mem, handle)?;
                let handler = m.comms.get(comm)?.handler;
                m.comm_free(comm)?;
                m.drop_handler(handler);
                put_i32(mem, handle, 0)
            })
        })?;
    }
    l.func_wrap(MODULE, "MPI_Comm_compare", |c: &mut Caller<'_, Host>, a: i32, b: i32, into: u32| {
        local(c, "MPI_Comm_compare", a, |mem, m, _| {
            let (x, y) = (m.comms.get(a)?, m.comms.get(b)?);
            let alike = match (&x.remote, &y.remote) {
                (None, None) => compare(&x.group, &y.group) as i32,
                (Some(r), Some(s)) => (compare(&x.group, &y.group) as i32).max(compare(r, s) as i32),
                _ => Likeness::Unequal as i32,
            };
            // The same ranks in the same order, in two communicators.
            let result = if a == b { Likeness::Identical as i32 } else { alike + i32::from(alike == 0) };
            // What was similar at best has 2 already: identical groups alone become congruent ones.
            put_i32(mem, into, result)
        })
    })?;
    l.func_wrap(MODULE, "MPI_Comm_set_name", |c: &mut Caller<'_, Host>, comm: i32, name: u32| {
        local(c, "MPI_Comm_set_name", comm, |mem, m, _| {
            m.comms.get_mut(comm)?.name = text(mem, name, mpi::comm::NAME_MAX)?;
            Ok(())
        })
    })?;
    l.func_wrap(MODULE, "MPI_Comm_get_name", |c: &mut Caller<'_, Host>, comm: i32, name: u32, length: u32| {
        local(c, "MPI_Comm_get_name", comm, |mem, m, _| put_text(mem, name, length, &m.comms.get(comm)?.name, 128))
    })?;
    l.func_wrap(MODULE, "MPI_Comm_set_info", |c: &mut Caller<'_, Host>, comm: i32, info: i32| {
        local(c, "MPI_Comm_set_info", comm, |_, m, _| {
            let hints = m.infos.get(info)?.clone();
            add_hints(&mut m.comms.get_mut(comm)?.hints, hints);
            Ok(())
        })
    })?;
    l.func_wrap(MODULE, "MPI_Comm_get_info", |c: &mut Caller<'_, Host>, comm: i32, into: u32| {
        local(c, "MPI_Comm_get_info", comm, |mem, m, _| {
            let hints = m.comms.get(comm)?.hints.clone();
            put_i32(mem, into, m.infos.add(hints)?)
        })
    })?;
    Ok(())
}

/// Hints that the program gives later.
pub(super) fn add_hints(have: &mut mpi::info::Pairs, hints: mpi::info::Pairs) {
    /// Hints are hints: there is an end to what an object keeps.
    const MAX: usize = 64;
    for (key, value) in hints {
        let room = have.len() < MAX;
        match have.iter_mut().find(|(k, _)| *k == key) {
            Some(pair) => pair.1 = value,
            None if room => have.push((key, value)),
            None => {}
        }
    }
}

fn cart(m: &State, comm: i32) -> mpi::Result<(&Topology, &[i32], &[bool])> {
    match m.comms.get(comm)?.topology()? {
        t @ Topology::Cart { dims, periods } => Ok((t, dims, periods)),
        _ => Err(Error::new(Class::Topology, "the communicator is no grid")),
    }
}

fn grid(mem: &Memory<'_>, m: &State, comm: i32, n: i32, dims: u32, periods: u32) -> mpi::Result<(Topology, u32)> {
    let n = count(n)?;
    let periods = ints(mem, periods, n)?.into_iter().map(|p| p != 0).collect();
    Topology::cart(ints(mem, dims, n)?, periods, m.comms.get(comm)?.size())
}

fn graph(mem: &Memory<'_>, m: &State, comm: i32, n: i32, index: u32, edges: u32) -> mpi::Result<(Topology, u32)> {
    let index = ints(mem, index, count(n)?)?;
    let edges = ints(mem, edges, count(index.last().copied().unwrap_or(0))?)?;
    Topology::graph(index, edges, m.comms.get(comm)?.size())
}

/// Which of a topology's ranks this one is; not all need be in it.
fn place(m: &State, comm: i32, ranks: u32) -> mpi::Result<i32> {
    let me = m.comms.get(comm)?.me;
    Ok(if me < ranks { me as i32 } else { UNDEFINED })
}

fn link_topologies(l: &mut Calls<'_>) -> wasmtime::Result<()> {
    l.func_wrap(MODULE, "MPI_Dims_create", |c: &mut Caller<'_, Host>, ranks: i32, n: i32, dims: u32| {
        local(c, "MPI_Dims_create", 1, |mem, _, _| {
            let mut all = ints(mem, dims, count(n)?)?;
            topology::balance(ranks, &mut all)?;
            put_ints(mem, dims, &all)
        })
    })?;
    l.func_wrap(MODULE, "MPI_Cart_create", |c: &mut Caller<'_, Host>, comm: i32, n: i32, dims: u32, periods: u32, _reorder: i32, into: u32| {
        block(c, "MPI_Cart_create", comm, 2, |mem, m, f| {
            let (grid, ranks) = grid(mem, m, comm, n, dims, periods)?;
            let color = if place(m, comm, ranks)? == UNDEFINED { UNDEFINED } else { 0 };
            Ok(one(m.comm_arrange(mem, f, comm, color, grid, into)?, 0))
        })
    })?;
    l.func_wrap(MODULE, "MPI_Cart_map", |c: &mut Caller<'_, Host>, comm: i32, n: i32, dims: u32, periods: u32, into: u32| {
        local(c, "MPI_Cart_map", comm, |mem, m, _| {
            let (_, ranks) = grid(mem, m, comm, n, dims, periods)?;
            put_i32(mem, into, place(m, comm, ranks)?)
        })
    })?;
    l.func_wrap(MODULE, "MPI_Cartdim_get", |c: &mut Caller<'_, Host>, comm: i32, into: u32| {
        local(c, "MPI_Cartdim_get", comm, |mem, m, _| put_i32(mem, into, cart(m, comm)?.1.len() as i32))
    })?;
    l.func_wrap(MODULE, "MPI_Cart_get", |c: &mut Caller<'_, Host>, comm: i32, max: i32, dims: u32, periods: u32, coords: u32| {
        local(c, "MPI_Cart_get", comm, |mem, m, _| {
            let (t, d, p) = cart(m, comm)?;
            let here = t.coords(m.comms.get(comm)?.me as i32)?;
            let n = d.len().min(count(max)? as usize);
            let p: Vec<i32> = p.iter().map(|p| i32::from(*p)).collect();
            put_ints(mem, dims, &d[..n])?;
            put_ints(mem, periods, &p[..n])?;
            put_ints(mem, coords, &here[..n])
        })
    })?;
    l.func_wrap(MODULE, "MPI_Cart_rank", |c: &mut Caller<'_, Host>, comm: i32, coords: u32, into: u32| {
        local(c, "MPI_Cart_rank", comm, |mem, m, _| {
            let (t, d, _) = cart(m, comm)?;
            let rank = t.rank(&ints(mem, coords, d.len() as u32)?)?;
            put_i32(mem, into, rank)
        })
    })?;
    l.func_wrap(MODULE, "MPI_Cart_coords", |c: &mut Caller<'_, Host>, comm: i32, rank: i32, max: i32, coords: u32| {
        local(c, "MPI_Cart_coords", comm, |mem, m, _| {
            let all = cart(m, comm)?.0.coords(rank)?;
            put_ints(mem, coords, &all[..all.len().min(count(max)? as usize)])
        })
    })?;
    l.func_wrap(MODULE, "MPI_Cart_shift", |c: &mut Caller<'_, Host>, comm: i32, dimension: i32, by: i32, source: u32, destination: u32| {
        local(c, "MPI_Cart_shift", comm, |mem, m, _| {
            let (before, after) = cart(m, comm)?.0.shift(m.comms.get(comm)?.me as i32, dimension, by)?;
            put_i32(mem, source, before)?;
            put_i32(mem, destination, after)
        })
    })?;
    l.func_wrap(MODULE, "MPI_Cart_sub", |c: &mut Caller<'_, Host>, comm: i32, remain: u32, into: u32| {
        block(c, "MPI_Cart_sub", comm, 2, |mem, m, f| {
            let (t, dims, periods) = cart(m, comm)?;
            let keep = ints(mem, remain, dims.len() as u32)?;
            let here = t.coords(m.comms.get(comm)?.me as i32)?;
            let kept = |d: &usize| keep[*d] != 0;
            let (sub, _) = Topology::cart(
                (0..dims.len()).filter(kept).map(|d| dims[d]).collect(),
                (0..dims.len()).filter(kept).map(|d| periods[d]).collect(),
                m.comms.get(comm)?.size(),
            )?;
            // One of each other place: the coordinates that are not kept.
            let color = (0..dims.len()).filter(|d| !kept(d)).fold(0i32, |n, d| n.wrapping_mul(dims[d]).wrapping_add(here[d]));
            Ok(one(m.comm_arrange(mem, f, comm, color, sub, into)?, 0))
        })
    })?;
    l.func_wrap(MODULE, "MPI_Topo_test", |c: &mut Caller<'_, Host>, comm: i32, into: u32| {
        local(c, "MPI_Topo_test", comm, |mem, m, _| {
            let kind = match m.comms.get(comm)?.topology.as_deref() {
                Some(Topology::Graph { .. }) => 1,
                Some(Topology::Cart { .. }) => 2,
                Some(Topology::Adjacent { .. }) => 3,
                None => UNDEFINED,
            };
            put_i32(mem, into, kind)
        })
    })?;
    l.func_wrap(MODULE, "MPI_Graph_create", |c: &mut Caller<'_, Host>, comm: i32, n: i32, index: u32, edges: u32, _reorder: i32, into: u32| {
        block(c, "MPI_Graph_create", comm, 2, |mem, m, f| {
            let (graph, ranks) = graph(mem, m, comm, n, index, edges)?;
            let color = if place(m, comm, ranks)? == UNDEFINED { UNDEFINED } else { 0 };
            Ok(one(m.comm_arrange(mem, f, comm, color, graph, into)?, 0))
        })
    })?;
    l.func_wrap(MODULE, "MPI_Graph_map", |c: &mut Caller<'_, Host>, comm: i32, n: i32, index: u32, edges: u32, into: u32| {
        local(c, "MPI_Graph_map", comm, |mem, m, _| {
            let (_, ranks) = graph(mem, m, comm, n, index, edges)?;
            put_i32(mem, into, place(m, comm, ranks)?)
        })
    })?;
    fn edges(m: &State, comm: i32) -> mpi::Result<(&[i32], &[i32])> {
        match m.comms.get(comm)?.topology()? {
            Topology::Graph { index, edges } => Ok((index, edges)),
            _ => Err(Error::new(Class::Topology, "the communicator is no graph")),
        }
    }
    l.func_wrap(MODULE, "MPI_Graphdims_get", |c: &mut Caller<'_, Host>, comm: i32, nodes: u32, all: u32| {
        local(c, "MPI_Graphdims_get", comm, |mem, m, _| {
            let (index, edges) = edges(m, comm)?;
            put_i32(mem, nodes, index.len() as i32)?;
            put_i32(mem, all, edges.len() as i32)
        })
    })?;
    l.func_wrap(MODULE, "MPI_Graph_get", |c: &mut Caller<'_, Host>, comm: i32, max_index: i32, max_edges: i32, index: u32, all: u32| {
        local(c, "MPI_Graph_get", comm, |mem, m, _| {
            let (i, e) = edges(m, comm)?;
            put_ints(mem, index, &i[..i.len().min(count(max_index)? as usize)])?;
            put_ints(mem, all, &e[..e.len().min(count(max_edges)? as usize)])
        })
    })?;
    l.func_wrap(MODULE, "MPI_Graph_neighbors_count", |c: &mut Caller<'_, Host>, comm: i32, rank: i32, into: u32| {
        local(c, "MPI_Graph_neighbors_count", comm, |mem, m, _| put_i32(mem, into, m.comms.get(comm)?.topology()?.edges_of(rank)?.len() as i32))
    })?;
    l.func_wrap(MODULE, "MPI_Graph_neighbors", |c: &mut Caller<'_, Host>, comm: i32, rank: i32, max: i32, into: u32| {
        local(c, "MPI_Graph_neighbors", comm, |mem, m, _| {
            let all = m.comms.get(comm)?.topology()?.edges_of(rank)?;
            put_ints(mem, into, &all[..all.len().min(count(max)? as usize)])
        })
    })?;
    link_adjacency(l)
}

fn link_adjacency(l: &mut Calls<'_>) -> wasmtime::Result<()> {
    /// `MPI_UNWEIGHTED` and `MPI_WEIGHTS_EMPTY` of `guests/mpi.h`.
    const UNWEIGHTED: u32 = u32::MAX;
    fn weights(mem: &Memory<'_>, address: u32, n: u32) -> mpi::Result<Vec<i32>> {
        if n == 0 || address >= UNWEIGHTED - 1 { Ok(vec![1; n as usize]) } else { ints(mem, address, n) }
    }
    l.func_wrap(
        MODULE,
        "MPI_Dist_graph_create_adjacent",
        |c: &mut Caller<'_, Host>, comm: i32, into_n: i32, from: u32, from_weights: u32, out_n: i32, to: u32, to_weights: u32, _info: i32, _reorder: i32, into: u32| {
            block(c, "MPI_Dist_graph_create_adjacent", comm, 2, |mem, m, f| {
                let (a, b) = (count(into_n)?, count(out_n)?);
                let (sources, destinations) = (ints(mem, from, a)?, ints(mem, to, b)?);
                let size = m.comms.get(comm)?.size();
                if let Some(r) = sources.iter().chain(&destinations).find(|r| **r < 0 || **r as u32 >= size) {
                    return Err(Error::new(Class::Rank, format!("rank {r} is not in this communicator of {size} ranks")));
                }
                let weighted = from_weights != UNWEIGHTED && to_weights != UNWEIGHTED;
                let weights = if weighted { Some((weights(mem, from_weights, a)?, weights(mem, to_weights, b)?)) } else { None };
                Ok(one(m.comm_arrange(mem, f, comm, 0, Topology::Adjacent { sources, destinations, weights }, into)?, 0))
            })
        },
    )?;
    l.func_wrap(MODULE, "MPI_Dist_graph_neighbors_count", |c: &mut Caller<'_, Host>, comm: i32, into_n: u32, out_n: u32, weighted: u32| {
        local(c, "MPI_Dist_graph_neighbors_count", comm, |mem, m, _| {
            let Topology::Adjacent { sources, destinations, weights } = m.comms.get(comm)?.topology()? else {
                return Err(Error::new(Class::Topology, "the communicator is no distributed graph"));
            };
            put_i32(mem, into_n, sources.len() as i32)?;
            put_i32(mem, out_n, destinations.len() as i32)?;
            put_i32(mem, weighted, i32::from(weights.is_some()))
        })
    })?;
    l.func_wrap(
        MODULE,
        "MPI_Dist_graph_neighbors",
        |c: &mut Caller<'_, Host>, comm: i32, max_in: i32, from: u32, from_weights: u32, max_out: i32, to: u32, to_weights: u32| {
            local(c, "MPI_Dist_graph_neighbors", comm, |mem, m, _| {
                let Topology::Adjacent { sources, destinations, weights } = m.comms.get(comm)?.topology()? else {
                    return Err(Error::new(Class::Topology, "the communicator is no distributed graph"));
                };
                let (a, b) = (sources.len().min(count(max_in)? as usize), destinations.len().min(count(max_out)? as usize));
                put_ints(mem, from, &sources[..a])?;
                put_ints(mem, to, &destinations[..b])?;
                if let Some((s, d)) = weights {
                    if from_weights < UNWEIGHTED - 1 {
                        put_ints(mem, from_weights, &s[..a.min(s.len())])?;
                    }
                    if to_weights < UNWEIGHTED - 1 {
                        put_ints(mem, to_weights, &d[..b.min(d.len())])?;
                    }
                }
                Ok(())
            })
        },
    )?;
    Ok(())
}

/// How many a rank hears of, and tells, in a neighbourhood collective.
pub(super) fn neighbours(m: &State, comm: i32) -> mpi::Result<(u32, u32)> {
    let comm = m.comms.get(comm)?;
    let (from, to) = comm.topology()?.neighbours(comm.me)?;
    Ok((from.len() as u32, to.len() as u32))
}

pub(super) fn link(l: &mut Calls<'_>) -> wasmtime::Result<()> {
    link_groups(l)?;
    link_communicators(l)?;
    link_topologies(l)
}
