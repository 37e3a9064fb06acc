//! Datatypes as the guest makes and asks for them, and packing.

use super::{Calls, MODULE, calls, element, get_i32, ints, local, outside, parts, put, put_i32, put_text, ready, text};
use crate::cell::{Host, Mode};
use mpi::attribute::On;
use mpi::datatype::{Buffer, combiner};
use mpi::rank::UNDEFINED;
use mpi::{Class, Error, Memory, State};
use wasmtime::Caller;

/// A number of 64 bits for `MPI_Count` results.
fn put_i64(mem: &mut Memory<'_>, address: u32, value: i64) -> mpi::Result<()> {
    put(mem, address, &value.to_le_bytes())
}

/// Elements that so many packed bytes are; `None`: a part of one is left.
fn elements(m: &State, t: i32, bytes: u64) -> mpi::Result<Option<u64>> {
    let mut n = 0;
    let whole = m.types.numbers(t, bytes, &mut |_, count| n += count)?;
    Ok(whole.then_some(n))
}

/// The bytes of the first `count` numbers of a type.
fn bytes_of(m: &State, t: i32, count: u64) -> mpi::Result<u64> {
    let size = u64::from(m.datatype(t)?.size);
    let each = elements(m, t, size)?.unwrap_or(0);
    if each == 0 {
        return Ok(0);
    }
    let (mut left, mut bytes) = (count % each, (count / each).saturating_mul(size));
    m.types.numbers(t, size, &mut |unit, n| {
        let taken = n.min(left);
        bytes += u64::from(unit) * taken;
        left -= taken;
    })?;
    Ok(bytes)
}


fn pack(mem: &mut Memory<'_>, m: &State, input: u32, n: i32, t: i32, output: u32, size: i32, position: u32, external: bool) -> mpi::Result<()> {
    let buffer = m.checked(input, n, t)?;
    let mut packed = mpi::datatype::pack(mem, m.types.committed(t)?, &buffer)?;
    if external {
        m.types.turn(t, &mut packed)?;
    }
    let at = get_i32(mem, position)?;
    let end = i64::from(at) + packed.len() as i64;
    if at < 0 || end > i64::from(size) {
        return Err(Error::new(Class::Truncate, format!("{} bytes from byte {at} on do not fit a buffer of {size}", packed.len())));
    }
    put(mem, output.wrapping_add(at as u32), &packed)?;
    put_i32(mem, position, end as i32)
}

fn unpack(mem: &mut Memory<'_>, m: &State, input: u32, size: i32, position: u32, output: u32, n: i32, t: i32, external: bool) -> mpi::Result<()> {
    let buffer = m.checked(output, n, t)?;
    let datatype = m.types.committed(t)?;
    let bytes = mpi::datatype::within(mem.len(), datatype, &buffer)?;
    let at = get_i32(mem, position)?;
    let end = i64::from(at) + bytes as i64;
    if at < 0 || end > i64::from(size) {
        return Err(Error::new(Class::Truncate, format!("{bytes} bytes from byte {at} on are beyond a buffer of {size}")));
    }
    let input = input.wrapping_add(at as u32);
    let packed = mem.bytes(input as usize..input as usize + bytes).ok_or_else(|| outside(input, bytes))?;
    let mut packed = packed.into_owned();
    if external {
        m.types.turn(t, &mut packed)?;
    }
    mpi::datatype::unpack(mem, datatype, &buffer, &packed)?;
    put_i32(mem, position, end as i32)
}

fn external(mem: &Memory<'_>, name: u32) -> mpi::Result<()> {
    match text(mem, name, 128)?.as_str() {
        "external32" => Ok(()),
        other => Err(Error::new(Class::Arg, format!("{other:?} is no representation of data; external32 is"))),
    }
}

pub(super) fn link(l: &mut Calls<'_>) -> wasmtime::Result<()> {
    macro_rules! make {
        ($name:literal, ($($arg:ident: $type:ty),*), $make:expr) => {
            l.func_wrap(MODULE, $name, |c: &mut Caller<'_, Host>, $($arg: $type,)* into: u32| {
                local(c, $name, 1, |mem, m, _| {
                    #[allow(clippy::redundant_closure_call)]
                    let handle: mpi::Result<i32> = ($make)(&*mem, m, $($arg),*);
                    put_i32(mem, into, handle?)
                })
            })?;
        };
    }
    make!("MPI_Type_contiguous", (n: i32, t: i32), |_: &Memory<'_>, m: &mut State, n, t| m.types.make_contiguous(n, t));
    make!("MPI_Type_vector", (n: i32, block: i32, stride: i32, t: i32), |_: &Memory<'_>, m: &mut State, n, block, stride, t| {
        m.types.make_vector(n, block, stride, false, t)
    });
    for name in ["MPI_Type_create_hvector", "MPI_Type_hvector"] {
        l.func_wrap(MODULE, name, move |c: &mut Caller<'_, Host>, n: i32, block: i32, stride: i32, t: i32, into: u32| {
            local(c, name, 1, |mem, m, _| {
                let handle = m.types.make_vector(n, block, stride, true, t)?;
                put_i32(mem, into, handle)
            })
        })?;
    }
    for (name, combiner) in [("MPI_Type_indexed", combiner::INDEXED), ("MPI_Type_create_hindexed", combiner::HINDEXED), ("MPI_Type_hindexed", combiner::HINDEXED)] {
        l.func_wrap(MODULE, name, move |c: &mut Caller<'_, Host>, n: i32, lengths: u32, displacements: u32, t: i32, into: u32| {
            local(c, name, 1, |mem, m, _| {
                let piece = |i| Ok((element(mem, lengths, i)?, element(mem, displacements, i)?));
                let handle = m.types.make_blocks(n, combiner, t, piece)?;
                put_i32(mem, into, handle)
            })
        })?;
    }
    for (name, combiner) in [("MPI_Type_create_indexed_block", combiner::INDEXED_BLOCK), ("MPI_Type_create_hindexed_block", combiner::HINDEXED_BLOCK)] {
        l.func_wrap(MODULE, name, move |c: &mut Caller<'_, Host>, n: i32, length: i32, displacements: u32, t: i32, into: u32| {
            local(c, name, 1, |mem, m, _| {
                let handle = m.types.make_blocks(n, combiner, t, |i| Ok((length, element(mem, displacements, i)?)))?;
                put_i32(mem, into, handle)
            })
        })?;
    }
    for name in ["MPI_Type_create_struct", "MPI_Type_struct"] {
        l.func_wrap(MODULE, name, move |c: &mut Caller<'_, Host>, n: i32, lengths: u32, displacements: u32, types: u32, into: u32| {
            local(c, name, 1, |mem, m, _| {
                let piece = |i| Ok((element(mem, lengths, i)?, element(mem, displacements, i)?, element(mem, types, i)?));
                let handle = m.types.make_pieces(n, combiner::STRUCT, piece)?;
                put_i32(mem, into, handle)
            })
        })?;
    }
    make!("MPI_Type_create_resized", (t: i32, lower: i32, extent: i32), |_: &Memory<'_>, m: &mut State, t, lower, extent| {
        m.types.make_resized(t, lower, extent)
    });
    make!("MPI_Type_create_subarray", (n: i32, sizes: u32, subsizes: u32, starts: u32, order: i32, t: i32), |mem: &Memory<'_>, m: &mut State, n, sizes, subsizes, starts, order, t| {
        let n = super::count(n)?;
        m.types.make_subarray(&ints(mem, sizes, n)?, &ints(mem, subsizes, n)?, &ints(mem, starts, n)?, order == 1, t)
    });
    make!(
        "MPI_Type_create_darray",
        (size: i32, rank: i32, n: i32, sizes: u32, distributions: u32, arguments: u32, grid: u32, order: i32, t: i32),
        |mem: &Memory<'_>, m: &mut State, size, rank, n, sizes, distributions, arguments, grid, order, t| {
            let n = super::count(n)?;
            let (sizes, distributions) = (ints(mem, sizes, n)?, ints(mem, distributions, n)?);
            m.types.make_darray(size, rank, &sizes, &distributions, &ints(mem, arguments, n)?, &ints(mem, grid, n)?, order == 1, t)
        }
    );
    l.func_wrap(MODULE, "MPI_Type_dup", |c: &mut Caller<'_, Host>, t: i32, into: u32| {
        let code = local(c, "MPI_Type_dup", 1, |mem, m, _| {
            let new = m.types.duplicate(t)?;
            put_i32(mem, into, new)
        })?;
        if code != 0 {
            return Ok(code);
        }
        let (mut mem, _) = parts(c);
        let mem = &mut mem;
        let new = get_i32(mem, into).map_err(|e| wasmtime::Error::msg(e.message))?;
        let code = calls::copy_attributes(c, On::Type, t, new)?;
        if code == 0 {
            return Ok(0);
        }
        let (mut mem, host) = parts(c);
        let mem = &mut mem;
        let undone = host.mpi.types.free(new).and_then(|()| put_i32(mem, into, 0));
        undone.map_err(|e| wasmtime::Error::msg(e.message))?;
        calls::raise(c, "MPI_Type_dup", 1, code, "an attribute's copy function has refused")
    })?;
    l.func_wrap(MODULE, "MPI_Type_commit", |c: &mut Caller<'_, Host>, handle: u32| {
        local(c, "MPI_Type_commit", 1, |mem, m, _| m.types.commit(get_i32(mem, handle)?))
    })?;
    l.func_wrap(MODULE, "MPI_Type_free", |c: &mut Caller<'_, Host>, handle: u32| {
        ready(c, "MPI_Type_free")?;
        let (mut mem, _) = parts(c);
        let mem = &mut mem;
        if let Ok(t) = get_i32(mem, handle)
            && c.data().mpi.types.get(t).is_ok()
            && c.data().mode == Mode::Running
        {
            let code = calls::delete_attributes(c, On::Type, t)?;
            if code != 0 {
                return calls::raise(c, "MPI_Type_free", 1, code, "an attribute's delete function has refused");
            }
        }
        local(c, "MPI_Type_free", 1, |mem, m, _| {
            m.types.free(get_i32(mem, handle)?)?;
            put_i32(mem, handle, 0)
        })
    })?;
    l.func_wrap(MODULE, "MPI_Type_size", |c: &mut Caller<'_, Host>, t: i32, into: u32| {
        local(c, "MPI_Type_size", 1, |mem, m, _| put_i32(mem, into, m.datatype(t)?.size as i32))
    })?;
    l.func_wrap(MODULE, "MPI_Type_size_x", |c: &mut Caller<'_, Host>, t: i32, into: u32| {
        local(c, "MPI_Type_size_x", 1, |mem, m, _| put_i64(mem, into, i64::from(m.datatype(t)?.size)))
    })?;
    for (name, exact) in [("MPI_Type_get_extent", false), ("MPI_Type_get_true_extent", true)] {
        let bounds = move |m: &State, t: i32| m.datatype(t).map(|t| if exact { t.true_extent() } else { (t.lower_bound, t.extent) });
        l.func_wrap(MODULE, name, move |c: &mut Caller<'_, Host>, t: i32, lower: u32, extent: u32| {
            local(c, name, 1, |mem, m, _| {
                let (l, e) = bounds(m, t)?;
                put_i32(mem, lower, l)?;
                put_i32(mem, extent, e)
            })
        })?;
    }
    for (name, exact) in [("MPI_Type_get_extent_x", false), ("MPI_Type_get_true_extent_x", true)] {
        l.func_wrap(MODULE, name, move |c: &mut Caller<'_, Host>, t: i32, lower: u32, extent: u32| {
            local(c, name, 1, |mem, m, _| {
                let t = m.datatype(t)?;
                let (l, e) = if exact { t.true_extent() } else { (t.lower_bound, t.extent) };
                put_i64(mem, lower, i64::from(l))?;
                put_i64(mem, extent, i64::from(e))
            })
        })?;
    }
    l.func_wrap(MODULE, "MPI_Type_extent", |c: &mut Caller<'_, Host>, t: i32, into: u32| {
        local(c, "MPI_Type_extent", 1, |mem, m, _| put_i32(mem, into, m.datatype(t)?.extent))
    })?;
    l.func_wrap(MODULE, "MPI_Type_lb", |c: &mut Caller<'_, Host>, t: i32, into: u32| {
        local(c, "MPI_Type_lb", 1, |mem, m, _| put_i32(mem, into, m.datatype(t)?.lower_bound))
    })?;
    l.func_wrap(MODULE, "MPI_Type_ub", |c: &mut Caller<'_, Host>, t: i32, into: u32| {
        local(c, "MPI_Type_ub", 1, |mem, m, _| {
            let t = m.datatype(t)?;
            put_i32(mem, into, t.lower_bound.wrapping_add(t.extent))
        })
    })?;
    l.func_wrap(MODULE, "MPI_Type_get_envelope", |c: &mut Caller<'_, Host>, t: i32, integers: u32, addresses: u32, types: u32, combiner: u32| {
        local(c, "MPI_Type_get_envelope", 1, |mem, m, _| {
            let (i, a, d, kind) = m.types.contents(t)?.map_or((0, 0, 0, combiner::NAMED), |c| (c.integers.len(), c.addresses.len(), c.types.len(), c.combiner));
            put_i32(mem, integers, i as i32)?;
            put_i32(mem, addresses, a as i32)?;
            put_i32(mem, types, d as i32)?;
            put_i32(mem, combiner, kind)
        })
    })?;
    l.func_wrap(
        MODULE,
        "MPI_Type_get_contents",
        |c: &mut Caller<'_, Host>, t: i32, max_i: i32, max_a: i32, max_t: i32, integers: u32, addresses: u32, types: u32| {
            local(c, "MPI_Type_get_contents", 1, |mem, m, _| {
                let Some(contents) = m.types.contents(t)?.cloned() else {
                    return Err(Error::new(Class::Type, "a predefined datatype has no contents"));
                };
                for (values, max, into) in [(&contents.integers, max_i, integers), (&contents.addresses, max_a, addresses), (&contents.types, max_t, types)] {
                    if i64::from(max) < values.len() as i64 {
                        return Err(Error::new(Class::Count, format!("there is room for {max} of {} values", values.len())));
                    }
                    put(mem, into, &values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>())?;
                }
                contents.types.iter().for_each(|t| m.types.name_again(*t));
                Ok(())
            })
        },
    )?;
    l.func_wrap(MODULE, "MPI_Type_set_name", |c: &mut Caller<'_, Host>, t: i32, name: u32| {
        local(c, "MPI_Type_set_name", 1, |mem, m, _| m.types.set_name(t, text(mem, name, mpi::comm::NAME_MAX)?))
    })?;
    l.func_wrap(MODULE, "MPI_Type_get_name", |c: &mut Caller<'_, Host>, t: i32, name: u32, length: u32| {
        local(c, "MPI_Type_get_name", 1, |mem, m, _| put_text(mem, name, length, m.types.name(t)?, 128))
    })?;
    make!("MPI_Type_match_size", (class: i32, size: i32), |_: &Memory<'_>, _: &mut State, class, size| {
        Ok(match (class, size) {
            (1, 1) => 18,
            (1, 2) => 19,
            (1, 4) => 8,
            (1, 8) => 21,
            (2, 4) => 14,
            (2, 8) => 15,
            (2, 16) => 16,
            (3, 8) => 29,
            (3, 16) => 30,
            _ => return Err(Error::new(Class::Arg, format!("there is no type of class {class} with {size} bytes"))),
        })
    });
    for name in ["MPI_Get_address", "MPI_Address"] {
        l.func_wrap(MODULE, name, move |c: &mut Caller<'_, Host>, location: u32, into: u32| local(c, name, 1, |mem, _, _| put_i32(mem, into, location as i32)))?;
    }
    l.func_wrap(MODULE, "MPI_Aint_add", |_: &mut Caller<'_, Host>, a: i32, b: i32| a.wrapping_add(b))?;
    l.func_wrap(MODULE, "MPI_Aint_diff", |_: &mut Caller<'_, Host>, a: i32, b: i32| a.wrapping_sub(b))?;
    link_packing(l)?;
    link_statuses(l)
}

fn link_packing(l: &mut Calls<'_>) -> wasmtime::Result<()> {
    l.func_wrap(MODULE, "MPI_Pack", |c: &mut Caller<'_, Host>, input: u32, n: i32, t: i32, output: u32, size: i32, position: u32, comm: i32| {
        local(c, "MPI_Pack", comm, |mem, m, _| pack(mem, m, input, n, t, output, size, position, false))
    })?;
    l.func_wrap(MODULE, "MPI_Unpack", |c: &mut Caller<'_, Host>, input: u32, size: i32, position: u32, output: u32, n: i32, t: i32, comm: i32| {
        local(c, "MPI_Unpack", comm, |mem, m, _| unpack(mem, m, input, size, position, output, n, t, false))
    })?;
    l.func_wrap(MODULE, "MPI_Pack_external", |c: &mut Caller<'_, Host>, name: u32, input: u32, n: i32, t: i32, output: u32, size: i32, position: u32| {
        local(c, "MPI_Pack_external", 1, |mem, m, _| {
            external(mem, name)?;
            pack(mem, m, input, n, t, output, size, position, true)
        })
    })?;
    l.func_wrap(MODULE, "MPI_Unpack_external", |c: &mut Caller<'_, Host>, name: u32, input: u32, size: i32, position: u32, output: u32, n: i32, t: i32| {
        local(c, "MPI_Unpack_external", 1, |mem, m, _| {
            external(mem, name)?;
            unpack(mem, m, input, size, position, output, n, t, true)
        })
    })?;
    fn size(m: &State, n: i32, t: i32) -> mpi::Result<i32> {
        let bytes = u64::from(m.types.committed(t)?.size) * u64::from(super::count(n)?);
        i32::try_from(bytes).map_err(|_| Error::new(Class::Count, format!("{n} elements are {bytes} bytes, more than an int counts")))
    }
    l.func_wrap(MODULE, "MPI_Pack_size", |c: &mut Caller<'_, Host>, n: i32, t: i32, comm: i32, into: u32| {
        local(c, "MPI_Pack_size", comm, |mem, m, _| put_i32(mem, into, size(m, n, t)?))
    })?;
    l.func_wrap(MODULE, "MPI_Pack_external_size", |c: &mut Caller<'_, Host>, name: u32, n: i32, t: i32, into: u32| {
        local(c, "MPI_Pack_external_size", 1, |mem, m, _| {
            external(mem, name)?;
            put_i32(mem, into, size(m, n, t)?)
        })
    })?;
    Ok(())
}

fn link_statuses(l: &mut Calls<'_>) -> wasmtime::Result<()> {
    fn bytes(mem: &Memory<'_>, status: u32) -> mpi::Result<u64> {
        let word = |at: u32| get_i32(mem, status.wrapping_add(at)).map(|w| u64::from(w as u32));
        Ok(word(16)? | word(20)? << 32)
    }
    l.func_wrap(MODULE, "MPI_Get_count", |c: &mut Caller<'_, Host>, status: u32, t: i32, into: u32| {
        local(c, "MPI_Get_count", 1, |mem, m, _| {
            let (bytes, size) = (bytes(mem, status)?, u64::from(m.datatype(t)?.size));
            let n = match size {
                0 => 0,
                _ if bytes % size != 0 => UNDEFINED,
                _ => i32::try_from(bytes / size).unwrap_or(UNDEFINED),
            };
            put_i32(mem, into, n)
        })
    })?;
    l.func_wrap(MODULE, "MPI_Get_elements", |c: &mut Caller<'_, Host>, status: u32, t: i32, into: u32| {
        local(c, "MPI_Get_elements", 1, |mem, m, _| {
            let n = elements(m, t, bytes(mem, status)?)?.and_then(|n| i32::try_from(n).ok());
            put_i32(mem, into, n.unwrap_or(UNDEFINED))
        })
    })?;
    l.func_wrap(MODULE, "MPI_Get_elements_x", |c: &mut Caller<'_, Host>, status: u32, t: i32, into: u32| {
        local(c, "MPI_Get_elements_x", 1, |mem, m, _| {
            let n = elements(m, t, bytes(mem, status)?)?.and_then(|n| i64::try_from(n).ok());
            put_i64(mem, into, n.unwrap_or(i64::from(UNDEFINED)))
        })
    })?;
    fn set(mem: &mut Memory<'_>, m: &State, status: u32, t: i32, n: i64) -> mpi::Result<()> {
        let n = u64::try_from(n).map_err(|_| Error::new(Class::Count, format!("count {n} is negative")))?;
        let bytes = bytes_of(m, t, n)?;
        put(mem, status.wrapping_add(16), &bytes.to_le_bytes())
    }
    l.func_wrap(MODULE, "MPI_Status_set_elements", |c: &mut Caller<'_, Host>, status: u32, t: i32, n: i32| {
        local(c, "MPI_Status_set_elements", 1, |mem, m, _| set(mem, m, status, t, i64::from(n)))
    })?;
    l.func_wrap(MODULE, "MPI_Status_set_elements_x", |c: &mut Caller<'_, Host>, status: u32, t: i32, n: i64| {
        local(c, "MPI_Status_set_elements_x", 1, |mem, m, _| set(mem, m, status, t, n))
    })?;
    l.func_wrap(MODULE, "MPI_Status_set_cancelled", |c: &mut Caller<'_, Host>, status: u32, flag: i32| {
        local(c, "MPI_Status_set_cancelled", 1, |mem, _, _| put_i32(mem, status.wrapping_add(12), i32::from(flag != 0)))
    })?;
    Ok(())
}

/// A buffer for each rank of a call with types of their own: displacements in bytes.
pub(super) fn buffers(mem: &Memory<'_>, m: &State, address: u32, n: u32, counts: u32, displacements: u32, types: u32) -> mpi::Result<Vec<Buffer>> {
    (0..n)
        .map(|i| {
            let at = address.wrapping_add(element(mem, displacements, i)? as u32);
            m.checked(at, element(mem, counts, i)?, element(mem, types, i)?)
        })
        .collect()
}
