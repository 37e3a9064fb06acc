//! MPI's files as the guest uses them, on the cell's folders, and what a rank that has a file does for the others.

use super::{Calls, MODULE, Pending, block, calls, communicators, count, get_i32, local, one, parts, put, put_i32, ready, text};
use crate::cell::{Host, Mode};
use crate::wasi::{self, Errno};
use mpi::file::{Ask, Piece, View, Whence, What, mode};
use mpi::rank::{Place, total};
use mpi::{Class, Error, Fabric, Memory, State};
use wasmtime::Caller;

/// Bytes of a name.
const NAME_MAX: usize = 4096;
/// `MPI_DISPLACEMENT_CURRENT` of `guests/mpi.h`.
const DISPLACEMENT_CURRENT: i64 = -54_278_278;

fn failed(path: &str, e: Errno) -> Error {
    let (class, why) = match e {
        Errno::Noent => (Class::NoSuchFile, "is not there; give MPI_MODE_CREATE to make it, and a folder of the job's (`cloudskin run --bucket`)"),
        Errno::Exist => (Class::FileExists, "is there already"),
        Errno::Acces => (Class::Access, "may not be used"),
        Errno::Nospc => (Class::NoSpace, "has no more room"),
        Errno::Isdir | Errno::Notdir => (Class::BadFile, "is a folder, or below a file"),
        Errno::Notcapable | Errno::Nametoolong => (Class::BadFile, "is no name of a file in the cell's folders"),
        Errno::Mfile => (Class::Other, "can't be opened: the cell has too many files open; close some"),
        _ => (Class::Io, "can't be read or written; the agent's log has the reason"),
    };
    Error::new(class, format!("file {path} {why}"))
}

/// What is before a colon in a name says which file system it is on (`ufs:`); here there is one.
fn plain(name: &str) -> &str {
    match name.split_once(':') {
        Some((system, rest)) if system.len() > 1 && system.bytes().all(|b| b.is_ascii_alphanumeric()) => rest,
        _ => name,
    }
}

fn read(wasi: &mut wasi::State, fd: u32, pieces: &[Piece]) -> Result<Vec<u8>, Errno> {
    let bytes = total(pieces).map_err(|_| Errno::Fbig)?;
    let mut data = vec![0; bytes];
    let mut done = 0;
    for p in pieces {
        let n = wasi.read_from(fd, p.offset, &mut data[done..done + p.len as usize])?;
        done += n;
        if n < p.len as usize {
            break;
        }
    }
    data.truncate(done);
    Ok(data)
}

fn write(wasi: &mut wasi::State, fd: u32, pieces: &[Piece], data: &[u8]) -> Result<u64, Errno> {
    let mut done = 0;
    for p in pieces {
        let part = data.get(done..done + p.len as usize).ok_or(Errno::Inval)?;
        wasi.write_to(fd, p.offset, part)?;
        done += part.len();
    }
    Ok(done as u64)
}

fn act(host: &mut Host, ask: &Ask) -> mpi::Result<(u64, Vec<u8>)> {
    let Host { mpi, wasi, threads, .. } = host;
    let mut of_all = threads.as_ref().map(|t| t.wasi.lock().unwrap_or_else(|e| e.into_inner()));
    let wasi = of_all.as_deref_mut().unwrap_or(wasi);
    let f = mpi.files.get(ask.file)?;
    let (path, mode, descriptor) = (f.path.clone(), f.mode, f.descriptor);
    let fd = || descriptor.ok_or(Errno::Badf);
    let done = match &ask.what {
        What::Open => wasi.open_named(&path, mode & mode::RDONLY == 0, mode & mode::CREATE != 0, mode & mode::EXCL != 0).and_then(|(fd, size, version)| {
            mpi.files.get_mut(ask.file).map_err(|_| Errno::Badf)?.descriptor = Some(fd);
            Ok((size, version.to_le_bytes().to_vec()))
        }),
        What::OpenHere { version } => {
            // Without it this rank asks the one that has the file.
            if let Ok((fd, _, found)) = wasi.open_named(&path, false, false, false) {
                if found == *version {
                    mpi.files.get_mut(ask.file)?.descriptor = Some(fd);
                } else {
                    mpi.closed.push(fd);
                }
            }
            Ok((0, Vec::new()))
        }
        What::Close => fd().and_then(|fd| wasi.close_descriptor(fd)).and_then(|()| {
            mpi.files.get_mut(ask.file).map_err(|_| Errno::Badf)?.descriptor = None;
            if mode & mode::DELETE_ON_CLOSE != 0 {
                wasi.remove_named(&path)?;
            }
            Ok((0, Vec::new()))
        }),
        What::Size | What::SeekEnd(_) => fd().and_then(|fd| wasi.size_of(fd)).map(|size| (size, Vec::new())),
        What::SetSize(bytes) => fd().and_then(|fd| wasi.resize(fd, *bytes)).map(|()| (0, Vec::new())),
        What::Reserve(bytes) => fd().and_then(|fd| if wasi.size_of(fd)? < *bytes { wasi.resize(fd, *bytes) } else { Ok(()) }).map(|()| (0, Vec::new())),
        What::Read(pieces) => fd().and_then(|fd| read(wasi, fd, pieces)).map(|data| (data.len() as u64, data)),
        What::Write(pieces, data) => fd().and_then(|fd| write(wasi, fd, pieces, data)).map(|done| (done, Vec::new())),
    };
    done.map_err(|e| failed(&path, e))
}

/// Does what is to be done with this rank's files, and answers who asked.
pub(super) fn serve(mem: &mut Memory<'_>, host: &mut Host) -> mpi::Result<()> {
    while let Some(ask) = host.mpi.file_ask() {
        let answer = act(host, &ask);
        host.mpi.file_answer(mem, &host.fabric, ask, answer)?;
    }
    while let Some(fd) = host.mpi.closed.pop() {
        let _ = host.files(|wasi| wasi.close_descriptor(fd)); // opened for reading: nothing is lost
    }
    Ok(())
}

fn whence(n: i32) -> mpi::Result<Whence> {
    match n {
        600 => Ok(Whence::Set),
        602 => Ok(Whence::Current),
        604 => Ok(Whence::End),
        _ => Err(Error::new(Class::Arg, format!("{n} is no place to seek from"))),
    }
}

fn link_opening(l: &mut Calls<'_>) -> wasmtime::Result<()> {
    l.func_wrap(MODULE, "MPI_File_open", |c: &mut Caller<'_, Host>, comm: i32, name: u32, mode: i32, info: i32, into: u32| {
        block(c, "MPI_File_open", 0, 2, |mem, m, f| {
            let path = plain(&text(mem, name, NAME_MAX)?).to_string();
            let hints = communicators::hints_of(m, Some(info))?.unwrap_or_default();
            Ok(one(m.file_open(mem, f, comm, path, mode, hints, into)?, 0))
        })
    })?;
    l.func_wrap(MODULE, "MPI_File_close", |c: &mut Caller<'_, Host>, handle: u32| {
        let (mut mem, _) = parts(c);
        let mem = &mut mem;
        let file = get_i32(mem, handle).unwrap_or(0);
        let code = block(c, "MPI_File_close", file, 2, |mem, m, f| Ok(one(m.file_close(mem, f, file)?, 0)))?;
        if c.data().mode != Mode::Running {
            return Ok(code);
        }
        // Also when closing has failed the file is gone.
        if c.data().mpi.files.get(file).is_err() {
            local(c, "MPI_File_close", 0, |mem, _, _| put_i32(mem, handle, 0))?;
        }
        Ok(code)
    })?;
    l.func_wrap(MODULE, "MPI_File_delete", |c: &mut Caller<'_, Host>, name: u32, _info: i32| {
        ready(c, "MPI_File_delete")?;
        let (mut mem, host) = parts(c);
        let mem = &mut mem;
        let removed = text(mem, name, NAME_MAX).and_then(|name| {
            let path = plain(&name);
            host.files(|wasi| wasi.remove_named(path)).map_err(|e| failed(path, e))
        });
        removed.map_or_else(|e| super::fail(c, "MPI_File_delete", 0, e), |()| Ok(0))
    })?;
    for (name, grow) in [("MPI_File_set_size", false), ("MPI_File_preallocate", true)] {
        l.func_wrap(MODULE, name, move |c: &mut Caller<'_, Host>, file: i32, bytes: i64| {
            block(c, name, file, 2, |mem, m, f| Ok(one(m.file_resize(mem, f, file, bytes, grow)?, 0)))
        })?;
    }
    l.func_wrap(MODULE, "MPI_File_sync", |c: &mut Caller<'_, Host>, file: i32| {
        block(c, "MPI_File_sync", file, 2, |mem, m, f| Ok(one(m.file_sync(mem, f, file)?, 0)))
    })?;
    Ok(())
}

fn link_asking(l: &mut Calls<'_>) -> wasmtime::Result<()> {
    l.func_wrap(MODULE, "MPI_File_get_size", |c: &mut Caller<'_, Host>, file: i32, into: u32| {
        block(c, "MPI_File_get_size", file, 1, |_, m, f| Ok(one(m.file_size(f, file, into)?, 0)))
    })?;
    l.func_wrap(MODULE, "MPI_File_get_group", |c: &mut Caller<'_, Host>, file: i32, into: u32| {
        local(c, "MPI_File_get_group", file, |mem, m, _| {
            let group = m.file_group(file)?;
            put_i32(mem, into, m.groups.add(group)?)
        })
    })?;
    l.func_wrap(MODULE, "MPI_File_get_amode", |c: &mut Caller<'_, Host>, file: i32, into: u32| {
        local(c, "MPI_File_get_amode", file, |mem, m, _| put_i32(mem, into, m.files.get(file)?.mode))
    })?;
    l.func_wrap(MODULE, "MPI_File_set_info", |c: &mut Caller<'_, Host>, file: i32, info: i32| {
        local(c, "MPI_File_set_info", file, |_, m, _| {
            let hints = communicators::hints_of(m, Some(info))?.unwrap_or_default();
            m.file_comm(file)?;
            let comm = m.files.get(file)?.comm;
            communicators::add_hints(&mut m.comms.get_mut(comm)?.hints, hints);
            Ok(())
        })
    })?;
    l.func_wrap(MODULE, "MPI_File_get_info", |c: &mut Caller<'_, Host>, file: i32, into: u32| {
        local(c, "MPI_File_get_info", file, |mem, m, _| {
            let hints = m.file_comm(file)?.hints.clone();
            put_i32(mem, into, m.infos.add(hints)?)
        })
    })?;
    l.func_wrap(MODULE, "MPI_File_set_atomicity", |c: &mut Caller<'_, Host>, file: i32, flag: i32| {
        // Each request is one step at the rank that has the file, so it is atomic anyway.
        local(c, "MPI_File_set_atomicity", file, |_, m, _| m.files.get_mut(file).map(|f| f.atomic = flag != 0))
    })?;
    l.func_wrap(MODULE, "MPI_File_get_atomicity", |c: &mut Caller<'_, Host>, file: i32, into: u32| {
        local(c, "MPI_File_get_atomicity", file, |mem, m, _| put_i32(mem, into, i32::from(m.files.get(file)?.atomic)))
    })?;
    l.func_wrap(MODULE, "MPI_File_get_type_extent", |c: &mut Caller<'_, Host>, file: i32, t: i32, into: u32| {
        local(c, "MPI_File_get_type_extent", file, |mem, m, _| {
            m.files.get(file)?;
            put_i32(mem, into, m.datatype(t)?.extent)
        })
    })?;
    l.func_wrap(MODULE, "MPI_File_create_errhandler", |c: &mut Caller<'_, Host>, function: u32, into: u32| {
        local(c, "MPI_File_create_errhandler", 0, |mem, m, _| put_i32(mem, into, m.add_handler(function)?))
    })?;
    l.func_wrap(MODULE, "MPI_File_set_errhandler", |c: &mut Caller<'_, Host>, file: i32, handler: i32| {
        local(c, "MPI_File_set_errhandler", file, |_, m, _| {
            if file != 0 {
                m.file_comm(file)?;
                return m.set_handler(m.files.get(file)?.comm, handler);
            }
            if !matches!(handler, mpi::comm::FATAL | mpi::comm::RETURN) {
                m.handler(handler)?.uses += 1;
            }
            let old = std::mem::replace(&mut m.files.handler, handler);
            m.drop_handler(old);
            Ok(())
        })
    })?;
    l.func_wrap(MODULE, "MPI_File_get_errhandler", |c: &mut Caller<'_, Host>, file: i32, into: u32| {
        local(c, "MPI_File_get_errhandler", file, |mem, m, _| {
            let handler = if file == 0 { m.files.handler } else { m.file_comm(file)?.handler };
            if let Ok(h) = m.handler(handler) {
                h.uses = h.uses.saturating_add(1);
            }
            put_i32(mem, into, handler)
        })
    })?;
    l.func_wrap(MODULE, "MPI_File_call_errhandler", |c: &mut Caller<'_, Host>, file: i32, code: i32| {
        ready(c, "MPI_File_call_errhandler")?;
        calls::raise(c, "MPI_File_call_errhandler", file, code, Class::text(code)).map(|_| 0)
    })?;
    Ok(())
}

fn link_views(l: &mut Calls<'_>) -> wasmtime::Result<()> {
    l.func_wrap(MODULE, "MPI_File_set_view", |c: &mut Caller<'_, Host>, file: i32, displacement: i64, etype: i32, filetype: i32, datarep: u32, info: i32| {
        block(c, "MPI_File_set_view", file, 2, |mem, m, f| {
            let external = match text(mem, datarep, 128)?.as_str() {
                "native" | "internal" => false,
                "external32" => true,
                other => return Err(Error::new(Class::UnsupportedDatarep, format!("{other:?} is no representation of data; native, internal and external32 are"))),
            };
            let here = displacement == DISPLACEMENT_CURRENT;
            let displacement = u64::try_from(if here { 0 } else { displacement }).map_err(|_| Error::new(Class::Disp, format!("a view can't begin at byte {displacement}")))?;
            let hints = communicators::hints_of(m, Some(info))?.unwrap_or_default();
            let request = m.file_view(mem, f, file, View { displacement, etype, filetype, external }, here)?;
            let comm = m.files.get(file)?.comm;
            communicators::add_hints(&mut m.comms.get_mut(comm)?.hints, hints);
            Ok(one(request, 0))
        })
    })?;
    l.func_wrap(MODULE, "MPI_File_get_view", |c: &mut Caller<'_, Host>, file: i32, displacement: u32, etype: u32, filetype: u32, datarep: u32| {
        local(c, "MPI_File_get_view", file, |mem, m, _| {
            let view = m.files.get(file)?.view;
            put(mem, displacement, &view.displacement.to_le_bytes())?;
            for (t, into) in [(view.etype, etype), (view.filetype, filetype)] {
                m.types.name_again(t);
                put_i32(mem, into, t)?;
            }
            put(mem, datarep, if view.external { b"external32\0" } else { b"native\0" })
        })
    })?;
    l.func_wrap(MODULE, "MPI_File_seek", |c: &mut Caller<'_, Host>, file: i32, offset: i64, from: i32| {
        block(c, "MPI_File_seek", file, 1, |_, m, f| Ok(one(m.file_seek(f, file, offset, whence(from)?)?, 0)))
    })?;
    l.func_wrap(MODULE, "MPI_File_seek_shared", |c: &mut Caller<'_, Host>, file: i32, offset: i64, from: i32| {
        block(c, "MPI_File_seek_shared", file, 2, |mem, m, f| Ok(one(m.file_seek_shared(mem, f, file, offset, whence(from)?)?, 0)))
    })?;
    l.func_wrap(MODULE, "MPI_File_get_position", |c: &mut Caller<'_, Host>, file: i32, into: u32| {
        local(c, "MPI_File_get_position", file, |mem, m, _| put(mem, into, &m.files.get(file)?.position.to_le_bytes()))
    })?;
    l.func_wrap(MODULE, "MPI_File_get_position_shared", |c: &mut Caller<'_, Host>, file: i32, into: u32| {
        block(c, "MPI_File_get_position_shared", file, 1, |_, m, f| Ok(one(m.file_shared_position(f, file, into)?, 0)))
    })?;
    l.func_wrap(MODULE, "MPI_File_get_byte_offset", |c: &mut Caller<'_, Host>, file: i32, offset: i64, into: u32| {
        local(c, "MPI_File_get_byte_offset", file, |mem, m, _| put(mem, into, &m.file_byte_offset(file, offset)?.to_le_bytes()))
    })?;
    Ok(())
}

/// Begins an access of a guest's buffer.
#[allow(clippy::too_many_arguments)] // they are the arguments of the MPI call
fn begin(mem: &mut Memory<'_>, m: &mut State, f: &Fabric, file: i32, place: Place, buf: u32, n: i32, t: i32, write: bool) -> mpi::Result<i32> {
    count(n)?;
    let buffer = m.checked(buf, n, t)?;
    m.file_access(mem, f, file, place, buffer, write)
}

/// An access that is not waited for, unless too much is under way.
fn start(c: &mut Caller<'_, Host>, call: &'static str, file: i32, begin: impl FnOnce(&mut Memory<'_>, &mut State, &Fabric) -> mpi::Result<()>) -> wasmtime::Result<i32> {
    block(c, call, file, 1, |mem, m, f| {
        begin(mem, m, f)?;
        Ok(Pending::Room)
    })
}

fn link_accesses(l: &mut Calls<'_>) -> wasmtime::Result<()> {
    let blocking = [
        ("MPI_File_read_at", false),
        ("MPI_File_read_at_all", false),
        ("MPI_File_write_at", true),
        ("MPI_File_write_at_all", true),
    ];
    for (name, write) in blocking {
        l.func_wrap(MODULE, name, move |c: &mut Caller<'_, Host>, file: i32, offset: i64, buf: u32, n: i32, t: i32, status: u32| {
            block(c, name, file, 1, |mem, m, f| Ok(one(begin(mem, m, f, file, Place::At(offset), buf, n, t, write)?, status)))
        })?;
    }
    let later = [
        ("MPI_File_iread_at", false),
        ("MPI_File_iread_at_all", false),
        ("MPI_File_iwrite_at", true),
        ("MPI_File_iwrite_at_all", true),
    ];
    for (name, write) in later {
        l.func_wrap(MODULE, name, move |c: &mut Caller<'_, Host>, file: i32, offset: i64, buf: u32, n: i32, t: i32, request: u32| {
            start(c, name, file, |mem, m, f| {
                let r = begin(mem, m, f, file, Place::At(offset), buf, n, t, write)?;
                put_i32(mem, request, r)
            })
        })?;
    }
    let blocking = [
        ("MPI_File_read", Place::Pointer, false),
        ("MPI_File_read_all", Place::Pointer, false),
        ("MPI_File_read_shared", Place::Shared, false),
        ("MPI_File_read_ordered", Place::Ordered, false),
        ("MPI_File_write", Place::Pointer, true),
        ("MPI_File_write_all", Place::Pointer, true),
        ("MPI_File_write_shared", Place::Shared, true),
        ("MPI_File_write_ordered", Place::Ordered, true),
    ];
    for (name, place, write) in blocking {
        l.func_wrap(MODULE, name, move |c: &mut Caller<'_, Host>, file: i32, buf: u32, n: i32, t: i32, status: u32| {
            block(c, name, file, 1, |mem, m, f| Ok(one(begin(mem, m, f, file, place, buf, n, t, write)?, status)))
        })?;
    }
    let later = [
        ("MPI_File_iread", Place::Pointer, false),
        ("MPI_File_iread_all", Place::Pointer, false),
        ("MPI_File_iread_shared", Place::Shared, false),
        ("MPI_File_iwrite", Place::Pointer, true),
        ("MPI_File_iwrite_all", Place::Pointer, true),
        ("MPI_File_iwrite_shared", Place::Shared, true),
    ];
    for (name, place, write) in later {
        l.func_wrap(MODULE, name, move |c: &mut Caller<'_, Host>, file: i32, buf: u32, n: i32, t: i32, request: u32| {
            start(c, name, file, |mem, m, f| {
                let r = begin(mem, m, f, file, place, buf, n, t, write)?;
                put_i32(mem, request, r)
            })
        })?;
    }
    link_split(l)
}

/// Collective accesses in two calls.
fn link_split(l: &mut Calls<'_>) -> wasmtime::Result<()> {
    fn two(mem: &mut Memory<'_>, m: &mut State, f: &Fabric, file: i32, place: Place, (buf, n, t): (u32, i32, i32), write: bool) -> mpi::Result<()> {
        count(n)?;
        let buffer = m.checked(buf, n, t)?;
        m.file_begin(mem, f, file, place, buffer, write)
    }
    for (name, write) in [("MPI_File_read_at_all_begin", false), ("MPI_File_write_at_all_begin", true)] {
        l.func_wrap(MODULE, name, move |c: &mut Caller<'_, Host>, file: i32, offset: i64, buf: u32, n: i32, t: i32| {
            start(c, name, file, |mem, m, f| two(mem, m, f, file, Place::At(offset), (buf, n, t), write))
        })?;
    }
    let begins = [
        ("MPI_File_read_all_begin", Place::Pointer, false),
        ("MPI_File_read_ordered_begin", Place::Ordered, false),
        ("MPI_File_write_all_begin", Place::Pointer, true),
        ("MPI_File_write_ordered_begin", Place::Ordered, true),
    ];
    for (name, place, write) in begins {
        l.func_wrap(MODULE, name, move |c: &mut Caller<'_, Host>, file: i32, buf: u32, n: i32, t: i32| {
            start(c, name, file, |mem, m, f| two(mem, m, f, file, place, (buf, n, t), write))
        })?;
    }
    let ends = [
        "MPI_File_read_at_all_end",
        "MPI_File_read_all_end",
        "MPI_File_read_ordered_end",
        "MPI_File_write_at_all_end",
        "MPI_File_write_all_end",
        "MPI_File_write_ordered_end",
    ];
    for name in ends {
        l.func_wrap(MODULE, name, move |c: &mut Caller<'_, Host>, file: i32, _buf: u32, status: u32| {
            block(c, name, file, 1, |_, m, _| Ok(one(m.file_end(file)?, status)))
        })?;
    }
    Ok(())
}

pub(super) fn link(l: &mut Calls<'_>) -> wasmtime::Result<()> {
    link_opening(l)?;
    link_asking(l)?;
    link_views(l)?;
    link_accesses(l)
}
