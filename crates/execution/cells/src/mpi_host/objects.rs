//! What programs hang on communicators, and hand to MPI: attributes, infos, error handlers and codes, operations, memory.

use super::{Calls, MODULE, calls, count, early, element, fail, get_i32, local, outside, parts, put, put_i32, put_text, ready, text};
use crate::cell::Host;
use mpi::attribute::On;
use mpi::info::{KEY_MAX, VALUE_MAX};
use mpi::op::User;
use mpi::{Class, Error};
use wasmtime::Caller;

/// The last error class of `guests/mpi.h`; those of the program follow.
const LAST_CODE: i32 = 100;
/// Classes and codes that a program may add.
const CODES_MAX: usize = 1 << 16;

fn memory<T>(result: mpi::Result<T>) -> wasmtime::Result<T> {
    result.map_err(|e| wasmtime::Error::msg(e.message))
}

fn link_attributes(l: &mut Calls<'_>) -> wasmtime::Result<()> {
    for (name, on) in [("MPI_Comm_create_keyval", On::Comm), ("MPI_Keyval_create", On::Comm), ("MPI_Type_create_keyval", On::Type), ("MPI_Win_create_keyval", On::Win)] {
        l.func_wrap(MODULE, name, move |c: &mut Caller<'_, Host>, copy: u32, delete: u32, into: u32, extra: u32| {
            local(c, name, 1, |mem, m, _| put_i32(mem, into, m.attributes.add_key(on, copy, delete, extra)?))
        })?;
    }
    for (name, on) in [("MPI_Comm_free_keyval", On::Comm), ("MPI_Keyval_free", On::Comm), ("MPI_Type_free_keyval", On::Type), ("MPI_Win_free_keyval", On::Win)] {
        l.func_wrap(MODULE, name, move |c: &mut Caller<'_, Host>, key: u32| {
            local(c, name, 1, |mem, m, _| {
                m.attributes.free_key(on, get_i32(mem, key)?)?;
                put_i32(mem, key, 0)
            })
        })?;
    }
    /// The object must be there, and its key one of the program's.
    fn there(c: &mut Caller<'_, Host>, on: On, object: i32, key: i32) -> mpi::Result<()> {
        let m = &mut c.data_mut().mpi;
        match on {
            On::Comm => m.comms.get(object).map(drop)?,
            On::Type => m.types.get(object).map(drop)?,
            On::Win => m.windows.get(object).map(drop)?,
        }
        m.attributes.key(on, key).map(drop)
    }
    fn comm_of(on: On, object: i32) -> i32 {
        if on == On::Type { 1 } else { object }
    }
    for (name, on) in [("MPI_Comm_set_attr", On::Comm), ("MPI_Attr_put", On::Comm), ("MPI_Type_set_attr", On::Type), ("MPI_Win_set_attr", On::Win)] {
        l.func_wrap(MODULE, name, move |c: &mut Caller<'_, Host>, object: i32, key: i32, value: u32| {
            ready(c, name)?;
            if let Err(e) = there(c, on, object, key) {
                return fail(c, name, comm_of(on, object), e);
            }
            let code = calls::delete_attribute(c, on, object, key)?;
            if code != 0 {
                return calls::raise(c, name, comm_of(on, object), code, "an attribute's delete function has refused");
            }
            local(c, name, comm_of(on, object), |_, m, _| m.attributes.set(on, object, key, value))
        })?;
    }
    for (name, on) in [("MPI_Comm_get_attr", On::Comm), ("MPI_Attr_get", On::Comm), ("MPI_Type_get_attr", On::Type), ("MPI_Win_get_attr", On::Win)] {
        l.func_wrap(MODULE, name, move |c: &mut Caller<'_, Host>, object: i32, key: i32, value: u32, flag: u32| {
            ready(c, name)?;
            let found = calls::attribute(c, on, object, key)?;
            if found.is_none()
                && let Err(e) = there(c, on, object, key)
            {
                return fail(c, name, comm_of(on, object), e);
            }
            local(c, name, comm_of(on, object), |mem, _, _| {
                put_i32(mem, flag, i32::from(found.is_some()))?;
                found.map_or(Ok(()), |v| put_i32(mem, value, v as i32))
            })
        })?;
    }
    for (name, on) in [("MPI_Comm_delete_attr", On::Comm), ("MPI_Attr_delete", On::Comm), ("MPI_Type_delete_attr", On::Type), ("MPI_Win_delete_attr", On::Win)] {
        l.func_wrap(MODULE, name, move |c: &mut Caller<'_, Host>, object: i32, key: i32| {
            ready(c, name)?;
            // A key that the program has freed is still the key of what it was set to.
            if c.data().mpi.attributes.get(on, object, key).is_none()
                && let Err(e) = there(c, on, object, key)
            {
                return fail(c, name, comm_of(on, object), e);
            }
            match calls::delete_attribute(c, on, object, key)? {
                0 => Ok(0),
                code => calls::raise(c, name, comm_of(on, object), code, "an attribute's delete function has refused"),
            }
        })?;
    }
    Ok(())
}

fn link_infos(l: &mut Calls<'_>) -> wasmtime::Result<()> {
    l.func_wrap(MODULE, "MPI_Info_create", |c: &mut Caller<'_, Host>, into: u32| {
        early(c, "MPI_Info_create", 1, |mem, m, _| put_i32(mem, into, m.infos.add(Vec::new())?))
    })?;
    l.func_wrap(MODULE, "MPI_Info_dup", |c: &mut Caller<'_, Host>, info: i32, into: u32| {
        early(c, "MPI_Info_dup", 1, |mem, m, _| {
            let pairs = m.infos.get(info)?.clone();
            put_i32(mem, into, m.infos.add(pairs)?)
        })
    })?;
    l.func_wrap(MODULE, "MPI_Info_free", |c: &mut Caller<'_, Host>, handle: u32| {
        early(c, "MPI_Info_free", 1, |mem, m, _| {
            m.infos.free(get_i32(mem, handle)?)?;
            put_i32(mem, handle, 0)
        })
    })?;
    l.func_wrap(MODULE, "MPI_Info_set", |c: &mut Caller<'_, Host>, info: i32, key: u32, value: u32| {
        early(c, "MPI_Info_set", 1, |mem, m, _| m.infos.set(info, text(mem, key, KEY_MAX)?, text(mem, value, VALUE_MAX)?))
    })?;
    l.func_wrap(MODULE, "MPI_Info_delete", |c: &mut Caller<'_, Host>, info: i32, key: u32| {
        early(c, "MPI_Info_delete", 1, |mem, m, _| m.infos.delete(info, &text(mem, key, KEY_MAX)?))
    })?;
    l.func_wrap(MODULE, "MPI_Info_get", |c: &mut Caller<'_, Host>, info: i32, key: u32, len: i32, into: u32, flag: u32| {
        early(c, "MPI_Info_get", 1, |mem, m, _| {
            let key = text(mem, key, KEY_MAX)?;
            let found = m.infos.get(info)?.iter().find(|(k, _)| *k == key).map(|(_, v)| v.clone());
            put_i32(mem, flag, i32::from(found.is_some()))?;
            let Some(value) = found else { return Ok(()) };
            let value = &value.as_bytes()[..value.len().min(count(len)? as usize)];
            put(mem, into, &[value, b"\0"].concat())
        })
    })?;
    l.func_wrap(MODULE, "MPI_Info_get_string", |c: &mut Caller<'_, Host>, info: i32, key: u32, len: u32, into: u32, flag: u32| {
        early(c, "MPI_Info_get_string", 1, |mem, m, _| {
            let key = text(mem, key, KEY_MAX)?;
            let found = m.infos.get(info)?.iter().find(|(k, _)| *k == key).map(|(_, v)| v.clone());
            put_i32(mem, flag, i32::from(found.is_some()))?;
            let Some(value) = found else { return Ok(()) };
            // What there is room for, with its end; and how much room all of it takes.
            if let Some(room) = count(get_i32(mem, len)?)?.checked_sub(1) {
                let value = &value.as_bytes()[..value.len().min(room as usize)];
                put(mem, into, &[value, b"\0"].concat())?;
            }
            put_i32(mem, len, value.len() as i32 + 1)
        })
    })?;
    l.func_wrap(MODULE, "MPI_Info_create_env", |c: &mut Caller<'_, Host>, argc: i32, argv: u32, into: u32| {
        let (size, place) = (c.data().size, c.data().place.clone());
        early(c, "MPI_Info_create_env", 1, |mem, m, _| {
            let words = (0..count(argc)?).map(|i| text(mem, element(mem, argv, i)? as u32, VALUE_MAX)).collect::<mpi::Result<Vec<String>>>()?;
            let (command, rest) = words.split_first().map_or((String::new(), &[][..]), |(c, r)| (c.clone(), r));
            let mut argv = rest.join(" ");
            argv.truncate(argv.floor_char_boundary(VALUE_MAX));
            let pairs = [("command", command), ("argv", argv), ("maxprocs", size.to_string()), ("host", place), ("arch", "wasm32".into()), ("thread_level", "MPI_THREAD_MULTIPLE".into())];
            put_i32(mem, into, m.infos.add(pairs.into_iter().map(|(k, v)| (k.to_string(), v)).collect())?)
        })
    })?;
    l.func_wrap(MODULE, "MPI_Info_get_valuelen", |c: &mut Caller<'_, Host>, info: i32, key: u32, len: u32, flag: u32| {
        early(c, "MPI_Info_get_valuelen", 1, |mem, m, _| {
            let key = text(mem, key, KEY_MAX)?;
            let found = m.infos.get(info)?.iter().find(|(k, _)| *k == key).map(|(_, v)| v.len());
            put_i32(mem, flag, i32::from(found.is_some()))?;
            found.map_or(Ok(()), |n| put_i32(mem, len, n as i32))
        })
    })?;
    l.func_wrap(MODULE, "MPI_Info_get_nkeys", |c: &mut Caller<'_, Host>, info: i32, into: u32| {
        early(c, "MPI_Info_get_nkeys", 1, |mem, m, _| put_i32(mem, into, m.infos.get(info)?.len() as i32))
    })?;
    l.func_wrap(MODULE, "MPI_Info_get_nthkey", |c: &mut Caller<'_, Host>, info: i32, n: i32, into: u32| {
        early(c, "MPI_Info_get_nthkey", 1, |mem, m, _| {
            let pairs = m.infos.get(info)?;
            let pair = usize::try_from(n).ok().and_then(|n| pairs.get(n));
            let (key, _) = pair.ok_or_else(|| Error::new(Class::Arg, format!("key {n} is not one of {}", pairs.len())))?;
            put(mem, into, &[key.as_bytes(), b"\0"].concat())
        })
    })?;
    Ok(())
}

fn link_handlers(l: &mut Calls<'_>) -> wasmtime::Result<()> {
    for name in ["MPI_Comm_create_errhandler", "MPI_Errhandler_create", "MPI_Win_create_errhandler"] {
        l.func_wrap(MODULE, name, move |c: &mut Caller<'_, Host>, function: u32, into: u32| {
            local(c, name, 1, |mem, m, _| put_i32(mem, into, m.add_handler(function)?))
        })?;
    }
    for name in ["MPI_Comm_set_errhandler", "MPI_Errhandler_set", "MPI_Win_set_errhandler"] {
        l.func_wrap(MODULE, name, move |c: &mut Caller<'_, Host>, object: i32, handler: i32| {
            local(c, name, object, |_, m, _| m.set_handler(comm_behind(m, name, object)?, handler))
        })?;
    }
    for name in ["MPI_Comm_get_errhandler", "MPI_Errhandler_get", "MPI_Win_get_errhandler"] {
        l.func_wrap(MODULE, name, move |c: &mut Caller<'_, Host>, object: i32, into: u32| {
            local(c, name, object, |mem, m, _| {
                let handler = m.comms.get(comm_behind(m, name, object)?)?.handler;
                if let Ok(h) = m.handler(handler) {
                    h.uses = h.uses.saturating_add(1);
                }
                put_i32(mem, into, handler)
            })
        })?;
    }
    l.func_wrap(MODULE, "MPI_Errhandler_free", |c: &mut Caller<'_, Host>, handle: u32| {
        local(c, "MPI_Errhandler_free", 1, |mem, m, _| {
            let handler = get_i32(mem, handle)?;
            if !matches!(handler, mpi::comm::FATAL | mpi::comm::RETURN) {
                m.handler(handler)?;
                m.drop_handler(handler);
            }
            put_i32(mem, handle, 0)
        })
    })?;
    for name in ["MPI_Comm_call_errhandler", "MPI_Win_call_errhandler"] {
        l.func_wrap(MODULE, name, move |c: &mut Caller<'_, Host>, object: i32, code: i32| {
            ready(c, name)?;
            if let Err(e) = comm_behind(&c.data().mpi, name, object) {
                return fail(c, name, object, e);
            }
            let text = describe(c, code);
            calls::raise(c, name, object, code, &text).map(|_| 0)
        })?;
    }
    for (name, class) in [("MPI_Add_error_class", true), ("MPI_Add_error_code", false)] {
        let add = move |c: &mut Caller<'_, Host>, class_of: i32, into: u32| {
            local(c, name, 1, |mem, m, _| {
                if m.codes.len() >= CODES_MAX {
                    return Err(Error::new(Class::Other, format!("the program has added {CODES_MAX} error codes")));
                }
                m.codes.push((class_of, String::new()));
                let code = LAST_CODE + m.codes.len() as i32;
                // Where MPI_LASTUSEDCODE points to.
                if m.constants != 0 {
                    put_i32(mem, m.constants.wrapping_add(20), code)?;
                }
                put_i32(mem, into, code)
            })
        };
        match class {
            true => l.func_wrap(MODULE, name, move |c: &mut Caller<'_, Host>, into: u32| add(c, 0, into))?,
            false => l.func_wrap(MODULE, name, move |c: &mut Caller<'_, Host>, class: i32, into: u32| add(c, class, into))?,
        };
    }
    l.func_wrap(MODULE, "MPI_Add_error_string", |c: &mut Caller<'_, Host>, code: i32, string: u32| {
        local(c, "MPI_Add_error_string", 1, |mem, m, _| {
            let added = usize::try_from(i64::from(code) - i64::from(LAST_CODE) - 1).ok().and_then(|i| m.codes.get_mut(i));
            let added = added.ok_or_else(|| Error::new(Class::Arg, format!("error code {code} was not added by the program")))?;
            added.1 = text(mem, string, 511)?;
            Ok(())
        })
    })?;
    l.func_wrap(MODULE, "MPI_Error_string", |c: &mut Caller<'_, Host>, code: i32, into: u32, length: u32| {
        let text = describe(c, code);
        let (mut mem, _) = parts(c);
        let mem = &mut mem;
        memory(put_text(mem, into, length, &text, 512)).map(|()| 0)
    })?;
    l.func_wrap(MODULE, "MPI_Error_class", |c: &mut Caller<'_, Host>, code: i32, class: u32| {
        let of = added(c, code).map(|(class, _)| *class).filter(|class| *class != 0).unwrap_or(code);
        let (mut mem, _) = parts(c);
        let mem = &mut mem;
        memory(put_i32(mem, class, of)).map(|()| 0)
    })?;
    Ok(())
}

/// The communicator that keeps an object's error handler.
fn comm_behind(m: &mpi::State, call: &str, object: i32) -> mpi::Result<i32> {
    if call[4..].starts_with("Win_") { m.windows.get(object).map(|w| w.comm) } else { m.comms.get(object).map(|_| object) }
}

/// An error code that the program has added.
fn added<'c>(c: &'c Caller<'_, Host>, code: i32) -> Option<&'c (i32, String)> {
    c.data().mpi.codes.get(usize::try_from(i64::from(code) - i64::from(LAST_CODE) - 1).ok()?)
}

fn describe(c: &Caller<'_, Host>, code: i32) -> String {
    added(c, code).map_or_else(|| Class::text(code).to_string(), |(_, text)| text.clone())
}

fn link_operations(l: &mut Calls<'_>) -> wasmtime::Result<()> {
    l.func_wrap(MODULE, "MPI_Op_create", |c: &mut Caller<'_, Host>, function: u32, commutes: i32, into: u32| {
        local(c, "MPI_Op_create", 1, |mem, m, _| put_i32(mem, into, m.ops.add(User { function, commutes: commutes != 0 })?))
    })?;
    l.func_wrap(MODULE, "MPI_Op_free", |c: &mut Caller<'_, Host>, handle: u32| {
        local(c, "MPI_Op_free", 1, |mem, m, _| {
            m.ops.free(get_i32(mem, handle)?)?;
            put_i32(mem, handle, 0)
        })
    })?;
    l.func_wrap(MODULE, "MPI_Op_commutative", |c: &mut Caller<'_, Host>, op: i32, into: u32| {
        local(c, "MPI_Op_commutative", 1, |mem, m, _| {
            let commutes = match m.ops.get(op) {
                Some(user) => user.commutes,
                // All predefined ones but MPI_REPLACE and MPI_NO_OP.
                None if op == 14 => false,
                None => mpi::op::Op::from_handle(op)? != mpi::op::Op::Replace,
            };
            put_i32(mem, into, i32::from(commutes))
        })
    })?;
    l.func_wrap(MODULE, "MPI_Reduce_local", |c: &mut Caller<'_, Host>, input: u32, both: u32, n: i32, t: i32, op: i32| {
        let Some(user) = c.data().mpi.ops.get(op) else {
            return local(c, "MPI_Reduce_local", 1, |mem, m, _| {
                let (from, into) = (m.checked(input, n, t)?, m.checked(both, n, t)?);
                let datatype = m.types.committed(t)?;
                let mut first = mpi::datatype::pack(mem, datatype, &from)?;
                let second = mpi::datatype::pack(mem, datatype, &into)?;
                mpi::op::apply(mpi::op::Op::from_handle(op)?, datatype.basic, &mut first, &second)?;
                mpi::datatype::unpack(mem, datatype, &into, &first)
            });
        };
        let code = local(c, "MPI_Reduce_local", 1, |mem, m, _| {
            for address in [input, both] {
                let buffer = m.checked(address, n, t)?;
                mpi::datatype::within(mem.len(), m.types.committed(t)?, &buffer)?;
            }
            Ok(())
        })?;
        if code != 0 {
            return Ok(code);
        }
        // The guest's function is given the program's own memory, and where the number and the type of elements lie.
        let at = calls::constants(c)? + 64;
        let (mut mem, _) = parts(c);
        let mem = &mut mem;
        memory(put_i32(mem, at, n).and_then(|()| put_i32(mem, at + 4, t)))?;
        calls::guest::<_, ()>(c, user.function, (input, both, at, at + 4))?;
        Ok(0)
    })?;
    Ok(())
}

fn link_memory(l: &mut Calls<'_>) -> wasmtime::Result<()> {
    l.func_wrap(MODULE, "MPI_Alloc_mem", |c: &mut Caller<'_, Host>, bytes: i32, _info: i32, into: u32| {
        ready(c, "MPI_Alloc_mem")?;
        let bytes = match count(bytes) {
            Ok(bytes) => bytes,
            Err(e) => return fail(c, "MPI_Alloc_mem", 1, e),
        };
        let at = calls::room(c, 0, bytes.max(1))?;
        if at == 0 {
            return fail(c, "MPI_Alloc_mem", 1, Error::new(Class::NoMem, format!("no memory for {bytes} bytes")));
        }
        local(c, "MPI_Alloc_mem", 1, |mem, _, _| put_i32(mem, into, at as i32))
    })?;
    l.func_wrap(MODULE, "MPI_Free_mem", |c: &mut Caller<'_, Host>, at: u32| {
        ready(c, "MPI_Free_mem")?;
        if at as usize >= parts(c).0.len() {
            return fail(c, "MPI_Free_mem", 1, outside(at, 0));
        }
        calls::room(c, at, 0).map(|_| 0)
    })?;
    Ok(())
}

pub(super) fn link(l: &mut Calls<'_>) -> wasmtime::Result<()> {
    link_attributes(l)?;
    link_infos(l)?;
    link_handlers(l)?;
    link_operations(l)?;
    link_memory(l)
}
