//! Functions of the guest's that MPI calls: reductions, copies of attributes, error handlers, generalized requests.
//!
//! They run inside of a host call, on the guest's stack, so a stop waits until they are through ([`crate::Control::hold`]): nothing unwinds through the
//! host. What they are given lies in memory that the guest's own allocator has given (`__cloudskin_room` of `guests/runtime.c`). Of a program with threads
//! their caller's turn lasts as long as they run (`turn`), and no thread stands still meanwhile (`Threads::hold`).

use super::{Host, get_i32, parts, put, put_i32};
use crate::cell::{self, End};
use crate::toolchain::{ROOM, TABLE};
use mpi::attribute::On;
use mpi::collective::Call;
use mpi::datatype::{self, Buffer};
use mpi::rank::{General, PROC_NULL};
use wasmtime::{Caller, Extern, Func, Ref, WasmParams, WasmResults};

/// Bytes of [`constants`]: eight values, then room for the arguments of the guest's functions.
const CONSTANTS: u32 = 192;
const ARGUMENTS: u32 = 64;
/// Keys of predefined attributes in `guests/mpi.h`.
const PREDEFINED: std::ops::RangeInclusive<i32> = 100..=106;
/// Those of windows: base, size, unit, flavor, model.
const OF_WINDOWS: std::ops::RangeInclusive<i32> = 107..=111;

fn function(c: &mut Caller<'_, Host>, number: u32) -> wasmtime::Result<Func> {
    let table = c.get_export(TABLE).and_then(Extern::into_table);
    match table.and_then(|t| t.get(&mut *c, u64::from(number))) {
        Some(Ref::Func(Some(f))) => Ok(f),
        _ => Err(wasmtime::Error::msg(format!("the program gave MPI {number:#x} as a function, which is none"))),
    }
}

fn invoke<P: WasmParams, R: WasmResults>(c: &mut Caller<'_, Host>, f: Func, args: P) -> wasmtime::Result<R> {
    let f = f.typed::<P, R>(&*c).map_err(|e| wasmtime::Error::msg(format!("a function that the program gave MPI has other parameters than MPI calls it with: {e}")))?;
    let pending = c.data_mut().pending.take();
    let (control, threads) = (c.data().control.clone(), c.data().threads.clone());
    cell::hold(c.data_mut());
    let result = f.call(&mut *c, args);
    cell::release(c.data_mut());
    c.data_mut().pending = pending;
    // A kill makes the function return early, with any result; and so does another thread that ends the cell.
    match control.killed() {
        true => Err(wasmtime::Error::msg("killed")),
        false if threads.is_some_and(|t| t.over()) => Err(wasmtime::Error::new(End::Over)),
        false => result,
    }
}

/// Calls a function of the guest's by its number in the function table.
pub(super) fn guest<P: WasmParams, R: WasmResults>(c: &mut Caller<'_, Host>, number: u32, args: P) -> wasmtime::Result<R> {
    let f = function(c, number)?;
    invoke(c, f, args)
}

/// The guest's `realloc` (`bytes` 0: `free`). 0: no room.
pub(super) fn room(c: &mut Caller<'_, Host>, old: u32, bytes: u32) -> wasmtime::Result<u32> {
    let f = c.get_export(ROOM).and_then(Extern::into_func);
    let f = f.ok_or_else(|| wasmtime::Error::msg("the module has no function __cloudskin_room; compile it again with this version of `cloudskin cc`"))?;
    invoke(c, f, (old, bytes))
}

/// Where the values of predefined attributes lie, in the guest's memory; made when first asked for.
pub(super) fn constants(c: &mut Caller<'_, Host>) -> wasmtime::Result<u32> {
    if c.data().mpi.constants != 0 {
        return Ok(c.data().mpi.constants);
    }
    let at = room(c, 0, CONSTANTS)?;
    if at == 0 {
        return Err(wasmtime::Error::msg("no memory for MPI's attributes"));
    }
    let (mut mem, host) = parts(c);
    let mem = &mut mem;
    let last = 100 + host.mpi.codes.len() as i32;
    // MPI_TAG_UB, HOST, IO (any rank), WTIME_IS_GLOBAL, UNIVERSE_SIZE, LASTUSEDCODE, APPNUM.
    let values = [i32::MAX, PROC_NULL, -1, 0, host.size as i32, last, 0];
    put(mem, at, &values.map(i32::to_le_bytes).concat()).map_err(|e| wasmtime::Error::msg(e.message))?;
    host.mpi.constants = at;
    Ok(at)
}

fn memory<T>(result: mpi::Result<T>) -> wasmtime::Result<T> {
    result.map_err(|e| wasmtime::Error::msg(e.message))
}

/// Combines packed operands by a function of the guest's.
pub(super) fn operate(c: &mut Caller<'_, Host>, call: &Call) -> wasmtime::Result<Vec<u8>> {
    let t = memory(c.data().mpi.types.used(call.datatype))?.clone();
    let count = call.first.len().checked_div(t.size as usize).unwrap_or(0) as u32;
    let (low, len) = t.true_extent();
    let low = i64::from(low.min(0)) + (i64::from(t.extent) * (i64::from(count) - 1)).min(0);
    let high = i64::from(t.true_extent().0) + i64::from(len) + (i64::from(t.extent) * (i64::from(count) - 1)).max(0);
    let span = u32::try_from((high - low).max(0) + 16).map_err(|_| wasmtime::Error::msg("the operands of a reduction are larger than a cell's memory"))?.next_multiple_of(16);
    let bytes = span.checked_mul(2).and_then(|n| n.checked_add(16));
    let at = match bytes {
        Some(bytes) => room(c, 0, bytes)?,
        None => 0,
    };
    if at == 0 {
        return Err(wasmtime::Error::msg(format!("no memory for the operands of a reduction, {span} bytes each")));
    }
    let place = |i: u32| Buffer { address: (i64::from(at + 16 + i * span) - low) as u32, count, datatype: call.datatype };
    let (first, second) = (place(0), place(1));
    let (mut mem, _) = parts(c);
    let mem = &mut mem;
    memory(put_i32(mem, at, count as i32).and_then(|()| put_i32(mem, at + 4, call.datatype)))?;
    memory(datatype::unpack(mem, &t, &first, &call.first).and_then(|()| datatype::unpack(mem, &t, &second, &call.second)))?;
    guest::<_, ()>(c, call.function, (first.address, second.address, at, at + 4))?;
    let (mut mem, _) = parts(c);
    let mem = &mut mem;
    let result = memory(datatype::pack(mem, &t, &second))?;
    room(c, at, 0)?;
    Ok(result)
}

/// Calls what collectives wait for. `false`: nothing was.
pub(super) fn serve(c: &mut Caller<'_, Host>) -> wasmtime::Result<bool> {
    let mut any = false;
    while let Some(call) = c.data().mpi.call() {
        any = true;
        let result = operate(c, &call)?;
        let (mut mem, host) = parts(c);
        let mem = &mut mem;
        host.mpi.answer(call.request, result);
        memory(host.mpi.progress(mem, &host.fabric))?;
    }
    Ok(any)
}

/// Asks generalized requests that have been completed what they say, and lets their data go.
pub(super) fn settle(c: &mut Caller<'_, Host>) -> wasmtime::Result<()> {
    while let Some((General { query, free, extra, .. }, status)) = c.data_mut().mpi.after.pop() {
        let into = if status == 0 { constants(c)? + ARGUMENTS } else { status };
        if query != 0 {
            guest::<_, i32>(c, query, (extra, into))?;
        }
        if free != 0 {
            guest::<_, i32>(c, free, extra)?;
        }
    }
    Ok(())
}

/// What an error with a communicator, window or file does: [`mpi::comm::FATAL`] stops the job, else the program is told.
pub(super) fn raise(c: &mut Caller<'_, Host>, call: &str, object: i32, code: i32, text: &str) -> wasmtime::Result<i32> {
    let m = &c.data().mpi;
    let handler_of = |object: i32| {
        let comm = match object {
            mpi::file::FIRST.. => m.file_comm(object),
            mpi::window::FIRST.. => m.window_comm(object),
            _ => m.comms.get(object),
        };
        comm.map(|c| c.handler)
    };
    let (named, handler) = match handler_of(object) {
        // The handles of sessions are not apart from those of communicators.
        _ if call[4..].starts_with("Session_") => (object, usize::try_from(object - 1).ok().and_then(|i| *m.sessions.get(i)?).unwrap_or(mpi::comm::FATAL)),
        // Of no file: `MPI_FILE_NULL` has a handler, too.
        _ if call[4..].starts_with("File_") && m.file_comm(object).is_err() => (0, m.files.handler),
        Ok(handler) => (object, handler),
        Err(_) => (mpi::comm::WORLD, handler_of(mpi::comm::WORLD).unwrap_or(mpi::comm::FATAL)),
    };
    match handler {
        mpi::comm::FATAL => Err(wasmtime::Error::msg(format!("{call}: {text}"))),
        mpi::comm::RETURN => Ok(code),
        own => {
            let number = memory(c.data_mut().mpi.handler(own).map(|h| h.function))?;
            let at = constants(c)? + ARGUMENTS;
            let (mut mem, _) = parts(c);
            let mem = &mut mem;
            memory(put_i32(mem, at, named).and_then(|()| put_i32(mem, at + 4, code)))?;
            let f = function(c, number)?;
            // A function with `...` has a pointer to what follows.
            match f.ty(&*c).params().len() {
                2 => invoke::<_, ()>(c, f, (at, at + 4))?,
                _ => invoke::<_, ()>(c, f, (at, at + 4, at + 8))?,
            }
            Ok(code)
        }
    }
}

/// Gives an object's attributes to its copy. A code other than 0 is what a function of the guest's has refused with.
pub(super) fn copy_attributes(c: &mut Caller<'_, Host>, on: On, from: i32, to: i32) -> wasmtime::Result<i32> {
    for (key, value) in c.data().mpi.attributes.all(on, from) {
        let Some(k) = c.data_mut().mpi.attributes.used(key) else { continue };
        let copied = match k.copy {
            0 => None,
            u32::MAX => Some(value),
            number => {
                let at = constants(c)? + ARGUMENTS + 32;
                let code = guest::<_, i32>(c, number, (from, key, k.extra, value, at, at + 4))?;
                if code != 0 {
                    return Ok(code);
                }
                let (mut mem, _) = parts(c);
                let mem = &mut mem;
                let flag = memory(get_i32(mem, at + 4))?;
                if flag != 0 { Some(memory(get_i32(mem, at))? as u32) } else { None }
            }
        };
        if let Some(value) = copied {
            memory(c.data_mut().mpi.attributes.set(on, to, key, value))?;
        }
    }
    Ok(0)
}

/// Takes one attribute away, or leaves it if the guest's function refuses with a code.
pub(super) fn delete_attribute(c: &mut Caller<'_, Host>, on: On, object: i32, key: i32) -> wasmtime::Result<i32> {
    let Some(value) = c.data().mpi.attributes.get(on, object, key) else { return Ok(0) };
    if let Some(k) = c.data_mut().mpi.attributes.used(key)
        && k.delete != 0
    {
        let code = guest::<_, i32>(c, k.delete, (object, key, value, k.extra))?;
        if code != 0 {
            return Ok(code);
        }
    }
    c.data_mut().mpi.attributes.remove(on, object, key);
    Ok(0)
}

/// Takes all attributes of an object away, the newest first.
pub(super) fn delete_attributes(c: &mut Caller<'_, Host>, on: On, object: i32) -> wasmtime::Result<i32> {
    for (key, _) in c.data().mpi.attributes.all(on, object).into_iter().rev() {
        let code = delete_attribute(c, on, object, key)?;
        if code != 0 {
            return Ok(code);
        }
    }
    Ok(0)
}

/// Where the numbers lie to which predefined attributes of a window point: size, unit, flavor, model.
fn window_constants(c: &mut Caller<'_, Host>, window: i32) -> wasmtime::Result<u32> {
    let known = memory(c.data().mpi.windows.get(window))?.constants;
    if known != 0 {
        return Ok(known);
    }
    let at = room(c, 0, 16)?;
    if at == 0 {
        return Err(wasmtime::Error::msg("no memory for a window's attributes"));
    }
    /// Others see what a rank stores, and it sees what they store, when it calls MPI: `MPI_WIN_SEPARATE`.
    const MODEL: i32 = 1;
    let me = memory(c.data().mpi.window_comm(window))?.me as usize;
    let (mut mem, host) = parts(c);
    let mem = &mut mem;
    let w = memory(host.mpi.windows.get_mut(window))?;
    w.constants = at;
    let values = [w.parts[me].size as i32, w.parts[me].unit as i32, w.flavor as i32, MODEL];
    memory(put(mem, at, &values.map(i32::to_le_bytes).concat()))?;
    Ok(at)
}

/// The value of an attribute: for predefined ones the address of a number, or of a window's memory.
pub(super) fn attribute(c: &mut Caller<'_, Host>, on: On, object: i32, key: i32) -> wasmtime::Result<Option<u32>> {
    if on == On::Comm && PREDEFINED.contains(&key) {
        return Ok(Some(constants(c)? + 4 * (key - PREDEFINED.start()) as u32));
    }
    if on == On::Win && OF_WINDOWS.contains(&key) && c.data().mpi.windows.get(object).is_ok() {
        let nth = (key - OF_WINDOWS.start()) as u32;
        if nth == 0 {
            let m = &c.data().mpi;
            let me = memory(m.window_comm(object))?.me as usize;
            return Ok(Some(memory(m.windows.get(object))?.parts[me].base));
        }
        return Ok(Some(window_constants(c, object)? + 4 * (nth - 1)));
    }
    Ok(c.data().mpi.attributes.get(on, object, key))
}
