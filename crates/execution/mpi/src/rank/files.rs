//! What a rank asks of MPI's files, and what the rank that has a file makes of it.

use super::{Request, State, Work, message};
use super::epoch::Wait;
use crate::collective::NewFile;
use crate::comm::{self, Comm};
use crate::datatype::{self, Buffer};
use crate::error::{Class, Error, Result};
use crate::fabric::Fabric;
use crate::file::{Ask, File, Handle, Note, Piece, Together, View, Whence, What, mode};
use crate::memory::Memory;
use crate::message::{Header, Kind, Rank};
use serde::{Deserialize, Serialize};

/// Where in a file an access begins.
#[derive(Clone, Copy, Debug)]
pub enum Place {
    /// So many elements from the beginning of the view.
    At(i64),
    /// At this rank's pointer, which moves.
    Pointer,
    /// At the shared pointer, which moves.
    Shared,
    /// The same, in the order of ranks.
    Ordered,
}

/// A request of a file that waits for its reply.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct FileWait {
    file: Handle,
    request: Request,
    /// Of the reply.
    pub bytes: u32,
    then: Then,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
enum Then {
    Nothing,
    /// The handle goes to this guest address.
    Opened { into: u32 },
    Closed,
    /// The view's displacement is known. Its types are held.
    Viewed { view: View },
    /// The file's bytes go to the buffer, whose datatype is held.
    Read { buffer: Buffer },
    Written,
    /// The number goes to this guest address.
    Number { into: u32 },
    /// This rank's pointer is set to so many elements behind the end.
    SeekEnd { offset: i64 },
    /// The shared pointer's place is known: the access itself. Bytes to be written, or where what is read goes.
    Placed { write: Option<Vec<u8>>, buffer: Buffer },
}

/// Refuses modes that contradict themselves.
fn check_mode(mode: i32) -> Result<()> {
    let refused = |text: String| Err(Error::new(Class::Amode, text));
    if mode & !mode::ALL != 0 || [mode::RDONLY, mode::WRONLY, mode::RDWR].iter().filter(|m| mode & **m != 0).count() != 1 {
        return refused(format!("{mode} is no mode of a file: it has one of MPI_MODE_RDONLY, MPI_MODE_WRONLY and MPI_MODE_RDWR"));
    }
    if mode & mode::RDONLY != 0 && mode & (mode::CREATE | mode::EXCL) != 0 {
        return refused("a file can't be created for reading only".into());
    }
    if mode & mode::SEQUENTIAL != 0 && mode & mode::RDWR != 0 {
        return refused("a file of MPI_MODE_SEQUENTIAL is read or written, not both".into());
    }
    Ok(())
}

impl State {
    /// A file's communicator.
    pub fn file_comm(&self, file: Handle) -> Result<&Comm> {
        let comm = self.files.get(file)?.comm;
        self.comms.used(comm).ok_or_else(|| Error::new(Class::File, "the file is being opened"))
    }

    /// `MPI_File_open`. The handle is written to guest address `into` at the end.
    #[allow(clippy::too_many_arguments)] // they are the arguments of the MPI call
    pub fn file_open(&mut self, mem: &mut Memory<'_>, fabric: &Fabric, comm: comm::Handle, path: String, mode: i32, hints: crate::info::Pairs, into: u32) -> Result<Request> {
        check_mode(mode)?;
        let file = File {
            comm: 0,
            context: 0,
            mode,
            path,
            view: View::WHOLE,
            position: 0,
            atomic: false,
            descriptor: None,
            split: None,
            shared: 0,
            together: Vec::new(),
        };
        let file = self.files.add(file)?;
        match self.file_agree(mem, fabric, comm, file, mode, hints) {
            Ok(made) => self.wait_for(Wait::Opening { file, made, into }),
            Err(e) => {
                self.files.remove(file);
                Err(e)
            }
        }
    }

    /// All ranks of a file know of each other.
    pub(super) fn file_made(&mut self, new: &NewFile, words: &[u8]) -> Result<()> {
        let word = |i: usize| words.get(4 * i..4 * i + 4).map_or(0, |b| u32::from_le_bytes(b.try_into().expect("four bytes")));
        let (context, group) = (word(0), new.like.group.clone());
        if (1..group.len()).any(|r| word(4 * r + 1) != word(1)) {
            return Err(Error::new(Class::NotSame, "the ranks open the file with different modes"));
        }
        if !group.contains(&self.me) || context > u32::MAX / 2 - 1 {
            return Err(Error::new(Class::Comm, "a rank is not in the communicator of its file"));
        }
        let (ranks, handler) = (group.len(), self.files.handler);
        if let Ok(h) = self.handler(handler) {
            h.uses = h.uses.saturating_add(1);
        }
        let comm = self.comms.add(Comm { hints: new.like.hints.clone(), handler, ..Comm::new(context, group, None, self.me) });
        let f = self.files.get_mut(new.file)?;
        (f.comm, f.context) = (comm, context);
        f.together = vec![Default::default(); ranks];
        self.fresh = true;
        Ok(())
    }

    /// The second half of opening: whoever has the file opens it.
    pub(super) fn file_opening(&mut self, mem: &mut Memory<'_>, fabric: &Fabric, request: Request, file: Handle, into: u32) -> Result<()> {
        self.together(mem, fabric, request, file, Together::Open, Then::Opened { into })
    }

    fn file_request(&mut self) -> Result<Request> {
        self.add(Work::Access)
    }

    /// Keeps what a reply is for; its number.
    fn file_wait(&mut self, wait: FileWait) -> u32 {
        let id = self.fetch_next;
        self.fetch_next = id.wrapping_add(1);
        self.fetch_bytes += wait.bytes as usize;
        self.file_waits.insert(id, wait);
        id
    }

    fn file_note(&mut self, fabric: &Fabric, file: Handle, to: u32, note: &Note, data: &[u8]) -> Result<()> {
        let (context, dst) = (self.files.get(file)?.context * 2, self.file_comm(file)?.world(to as i32)?);
        let mut bytes = postcard::to_allocvec(note).expect("plain data always serialises");
        bytes.extend_from_slice(data);
        let header = Header { src: self.me, dst, seq: 0, context, tag: 0, kind: Kind::File, token: 0 };
        self.push(fabric, header, &bytes, 0);
        Ok(())
    }

    fn together(&mut self, _mem: &mut Memory<'_>, fabric: &Fabric, request: Request, file: Handle, what: Together, then: Then) -> Result<()> {
        let id = self.file_wait(FileWait { file, request, bytes: 0, then });
        self.file_note(fabric, file, 0, &Note::Together(what, id), &[])
    }

    fn all(&mut self, mem: &mut Memory<'_>, fabric: &Fabric, file: Handle, what: Together, then: Then) -> Result<Request> {
        self.file_comm(file)?;
        let request = self.file_request()?;
        self.together(mem, fabric, request, file, what, then)?;
        Ok(request)
    }

    /// `MPI_File_close`
    pub fn file_close(&mut self, mem: &mut Memory<'_>, fabric: &Fabric, file: Handle) -> Result<Request> {
        if self.files.get(file)?.split.is_some() {
            return Err(Error::new(Class::File, "a collective access has begun on the file and not ended"));
        }
        self.all(mem, fabric, file, Together::Close, Then::Closed)
    }

    /// `MPI_File_set_size`, or (`grow`) `MPI_File_preallocate`
    pub fn file_resize(&mut self, mem: &mut Memory<'_>, fabric: &Fabric, file: Handle, bytes: i64, grow: bool) -> Result<Request> {
        let bytes = u64::try_from(bytes).map_err(|_| Error::new(Class::Arg, format!("a file can't have {bytes} bytes")))?;
        self.writable(file)?;
        self.all(mem, fabric, file, if grow { Together::Reserve(bytes) } else { Together::SetSize(bytes) }, Then::Nothing)
    }

    /// `MPI_File_sync`
    pub fn file_sync(&mut self, mem: &mut Memory<'_>, fabric: &Fabric, file: Handle) -> Result<Request> {
        self.all(mem, fabric, file, Together::Sync, Then::Nothing)
    }

    /// `MPI_File_get_size`: bytes, to guest address `into`.
    pub fn file_size(&mut self, fabric: &Fabric, file: Handle, into: u32) -> Result<Request> {
        self.ask_number(fabric, file, |id| Note::Size { id }, Then::Number { into })
    }

    /// `MPI_File_get_position_shared`
    pub fn file_shared_position(&mut self, fabric: &Fabric, file: Handle, into: u32) -> Result<Request> {
        self.ask_number(fabric, file, |id| Note::Advance { by: 0, id }, Then::Number { into })
    }

    fn ask_number(&mut self, fabric: &Fabric, file: Handle, note: impl Fn(u32) -> Note, then: Then) -> Result<Request> {
        self.file_comm(file)?;
        let request = self.file_request()?;
        let id = self.file_wait(FileWait { file, request, bytes: 0, then });
        self.file_note(fabric, file, 0, &note(id), &[])?;
        Ok(request)
    }

    /// `MPI_File_seek`
    pub fn file_seek(&mut self, fabric: &Fabric, file: Handle, offset: i64, whence: Whence) -> Result<Request> {
        self.file_comm(file)?;
        let f = self.files.get_mut(file)?;
        let base = match whence {
            Whence::Set => 0,
            Whence::Current => f.position,
            Whence::End => return self.ask_number(fabric, file, |id| Note::Size { id }, Then::SeekEnd { offset }),
        };
        f.position = moved(base, offset)?;
        Ok(0)
    }

    /// `MPI_File_seek_shared`
    pub fn file_seek_shared(&mut self, mem: &mut Memory<'_>, fabric: &Fabric, file: Handle, offset: i64, whence: Whence) -> Result<Request> {
        self.all(mem, fabric, file, Together::Seek(offset, whence), Then::Nothing)
    }

    /// `MPI_File_set_view`. `here`: the view begins where the shared pointer is (`MPI_DISPLACEMENT_CURRENT`).
    pub fn file_view(&mut self, mem: &mut Memory<'_>, fabric: &Fabric, file: Handle, view: View, here: bool) -> Result<Request> {
        self.file_comm(file)?;
        let mode = self.files.get(file)?.mode;
        if here && mode & mode::SEQUENTIAL == 0 {
            return Err(Error::new(Class::Disp, "MPI_DISPLACEMENT_CURRENT is for files of MPI_MODE_SEQUENTIAL"));
        }
        let (unit, size) = (self.types.committed(view.etype)?.size, self.types.committed(view.filetype)?.size);
        if unit == 0 || size % unit != 0 {
            return Err(Error::new(Class::Arg, format!("a file type of {size} bytes is not made of whole elements of {unit}")));
        }
        for t in [view.etype, view.filetype] {
            fits_a_file(self.types.used(t)?, mode & mode::RDONLY == 0)?;
        }
        self.types.hold(view.etype);
        self.types.hold(view.filetype);
        if here {
            return self.all(mem, fabric, file, Together::ViewHere, Then::Viewed { view });
        }
        self.set_view(file, view)?;
        self.all(mem, fabric, file, Together::View, Then::Nothing)
    }

    fn set_view(&mut self, file: Handle, view: View) -> Result<()> {
        let f = self.files.get_mut(file)?;
        let old = std::mem::replace(&mut f.view, view);
        f.position = 0;
        self.types.let_go(old.etype);
        self.types.let_go(old.filetype);
        Ok(())
    }

    /// `MPI_File_get_byte_offset`
    pub fn file_byte_offset(&self, file: Handle, offset: i64) -> Result<u64> {
        let view = self.files.get(file)?.view;
        let unit = u64::from(self.types.used(view.etype)?.size);
        let pieces = view.pieces(&self.types, moved(0, offset)?.saturating_mul(unit), 1)?;
        Ok(pieces.first().map_or(0, |p| p.offset))
    }

    fn writable(&self, file: Handle) -> Result<()> {
        let f = self.files.get(file)?;
        if f.mode & mode::RDONLY != 0 {
            return Err(Error::new(Class::ReadOnly, format!("file {} is open for reading only", f.path)));
        }
        Ok(())
    }

    /// Reads or writes: the request is complete when the bytes have come, or are in the file.
    pub fn file_access(&mut self, mem: &mut Memory<'_>, fabric: &Fabric, file: Handle, place: Place, buffer: Buffer, write: bool) -> Result<Request> {
        self.file_comm(file)?;
        let f = self.files.get(file)?;
        let view = f.view;
        if write {
            self.writable(file)?;
        } else if f.mode & mode::WRONLY != 0 {
            return Err(Error::new(Class::Access, format!("file {} is open for writing only", f.path)));
        }
        let t = self.types.used(buffer.datatype)?;
        let (bytes, unit) = (datatype::within(mem.len(), t, &buffer)?, self.types.used(view.etype)?.size.max(1) as usize);
        message(bytes)?;
        self.room(mem.len(), bytes, false)?;
        if bytes % unit != 0 {
            return Err(Error::new(Class::Io, format!("{bytes} bytes are no whole elements of {unit} bytes, of which the file's view is made")));
        }
        let data = if write {
            let mut data = datatype::pack(mem, t, &buffer)?;
            if view.external {
                self.types.turn(buffer.datatype, &mut data)?;
            }
            Some(data)
        } else {
            None
        };
        let elements = (bytes / unit) as u64;
        let start = match place {
            Place::At(offset) => moved(0, offset)?,
            Place::Pointer => {
                let f = self.files.get_mut(file)?;
                let start = f.position;
                f.position = start.saturating_add(elements);
                start
            }
            Place::Shared | Place::Ordered => {
                let request = self.file_request()?;
                self.types.hold(buffer.datatype);
                let then = Then::Placed { write: data, buffer };
                if matches!(place, Place::Ordered) {
                    self.together(mem, fabric, request, file, Together::Ordered(elements), then)?;
                } else {
                    let id = self.file_wait(FileWait { file, request, bytes: 0, then });
                    self.file_note(fabric, file, 0, &Note::Advance { by: elements, id }, &[])?;
                }
                return Ok(request);
            }
        };
        let request = self.file_request()?;
        self.types.hold(buffer.datatype);
        self.file_go(fabric, file, request, start, data, buffer, bytes)?;
        Ok(request)
    }

    /// An access whose place is known. Its datatype is held.
    #[allow(clippy::too_many_arguments)] // an access has that many parts
    fn file_go(&mut self, fabric: &Fabric, file: Handle, request: Request, start: u64, write: Option<Vec<u8>>, buffer: Buffer, bytes: usize) -> Result<()> {
        let f = self.files.get(file)?;
        let unit = u64::from(self.types.used(f.view.etype)?.size);
        let pieces = f.view.pieces(&self.types, start.saturating_mul(unit), bytes as u64)?;
        let here = f.descriptor.is_some() && f.mode & mode::RDONLY != 0;
        let wait = |bytes, then| FileWait { file, request, bytes, then };
        match write {
            Some(data) => {
                self.types.let_go(buffer.datatype);
                let id = self.file_wait(wait(0, Then::Written));
                self.file_note(fabric, file, 0, &Note::Write { pieces, id }, &data)
            }
            None => {
                let id = self.file_wait(wait(bytes as u32, Then::Read { buffer }));
                if here {
                    let me = self.file_comm(file)?.me;
                    self.asks.push_back(Ask { file, to: vec![(me, id)], what: What::Read(pieces) });
                    return Ok(());
                }
                self.file_note(fabric, file, 0, &Note::Read { pieces, id }, &[])
            }
        }
    }

    /// Begins a collective access that another call ends (`MPI_File_read_all_begin` and its like).
    pub fn file_begin(&mut self, mem: &mut Memory<'_>, fabric: &Fabric, file: Handle, place: Place, buffer: Buffer, write: bool) -> Result<()> {
        if self.files.get(file)?.split.is_some() {
            return Err(Error::new(Class::Other, "a collective access has begun on the file and not ended; one at a time"));
        }
        let request = self.file_access(mem, fabric, file, place, buffer, write)?;
        self.files.get_mut(file)?.split = Some(request);
        Ok(())
    }

    /// The request of what [`State::file_begin`] began.
    pub fn file_end(&mut self, file: Handle) -> Result<Request> {
        let split = self.files.get_mut(file)?.split.take();
        split.ok_or_else(|| Error::new(Class::Other, "no collective access has begun on the file"))
    }

    /// What is to be done next with a file of this rank's.
    pub fn file_ask(&mut self) -> Option<Ask> {
        self.asks.pop_front()
    }

    /// What has come of an [`Ask`]: a number and bytes.
    pub fn file_answer(&mut self, mem: &mut Memory<'_>, fabric: &Fabric, ask: Ask, answer: Result<(u64, Vec<u8>)>) -> Result<()> {
        let Ask { file, to, what } = ask;
        self.news += 1;
        let Ok(me) = self.file_comm(file).map(|c| c.me) else { return Ok(()) };
        if let Ok((size, _)) = &answer {
            let f = self.files.get(file)?;
            let end = f.view.end(&self.types, *size);
            match what {
                What::Open if f.mode & mode::APPEND != 0 => self.files.get_mut(file)?.shared = *size,
                What::SeekEnd(offset) => match end.and_then(|end| moved(end, offset)) {
                    Ok(at) => self.files.get_mut(file)?.shared = at,
                    Err(e) => return self.file_tell(mem, fabric, file, me, &to, Err(e)),
                },
                _ => {}
            }
        }
        self.file_tell(mem, fabric, file, me, &to, answer)
    }

    fn file_tell(&mut self, mem: &mut Memory<'_>, fabric: &Fabric, file: Handle, me: u32, to: &[(u32, u32)], answer: Result<(u64, Vec<u8>)>) -> Result<()> {
        // Others first: with the answer to itself this rank may forget the file.
        let (own, others): (Vec<_>, Vec<_>) = to.iter().copied().partition(|(rank, _)| *rank == me);
        for (rank, id) in others {
            match &answer {
                Ok((value, data)) => self.file_note(fabric, file, rank, &Note::Reply { id, value: *value }, data)?,
                Err(e) => self.file_note(fabric, file, rank, &Note::Refused { id, class: e.class as i32, text: e.message.clone() }, &[])?,
            }
        }
        for (_, id) in own {
            let answer = answer.as_ref().map(|(value, data)| (*value, data.as_slice())).map_err(|e| (e.class as i32, e.message.clone()));
            self.file_replied(mem, fabric, id, answer)?;
        }
        Ok(())
    }

    /// A message of a file.
    pub(super) fn file_message(&mut self, mem: &mut Memory<'_>, fabric: &Fabric, header: Header, bytes: &[u8]) -> Result<()> {
        if self.fresh {
            self.take_kept(mem, fabric)?;
        }
        let Some(file) = self.files.with_context(header.context / 2) else {
            // Another rank has gone on from its opening before this one.
            self.unexpected_bytes += super::MESSAGE_OVERHEAD + bytes.len();
            self.unexpected.push_back((header, bytes.to_vec()));
            return Ok(());
        };
        let read = postcard::take_from_bytes::<Note>(bytes).ok();
        let from = self.file_comm(file).ok().and_then(|c| u32::try_from(c.local(header.src)).ok());
        let (Some((note, data)), Some(from)) = (read, from) else {
            return Err(Error::new(Class::Intern, format!("a message of a file from rank {} can't be read", header.src.0)));
        };
        let mut ask = |id: u32, what: What| self.asks.push_back(Ask { file, to: vec![(from, id)], what });
        match note {
            Note::Read { pieces, id } => ask(id, What::Read(pieces)),
            Note::Write { pieces, id } => ask(id, What::Write(pieces, data.to_vec())),
            Note::Size { id } => ask(id, What::Size),
            Note::Advance { by, id } => {
                let f = self.files.get_mut(file)?;
                let value = f.shared;
                f.shared = value.saturating_add(by);
                let me = self.file_comm(file)?.me;
                return self.file_tell(mem, fabric, file, me, &[(from, id)], Ok((value, Vec::new())));
            }
            Note::Together(what, id) => {
                let all = self.files.get_mut(file)?;
                if let Some(queue) = all.together.get_mut(from as usize) {
                    queue.push_back((what, id));
                }
                return self.file_together(mem, fabric, file);
            }
            Note::Reply { id, value } => return self.file_replied(mem, fabric, id, Ok((value, data))),
            Note::Refused { id, class, text } => return self.file_replied(mem, fabric, id, Err((class, text))),
        }
        Ok(())
    }

    /// Does what all ranks have asked for.
    fn file_together(&mut self, mem: &mut Memory<'_>, fabric: &Fabric, file: Handle) -> Result<()> {
        let me = self.file_comm(file)?.me;
        let f = self.files.get_mut(file)?;
        if f.together.iter().any(std::collections::VecDeque::is_empty) {
            return Ok(());
        }
        let all: Vec<(Together, u32)> = f.together.iter_mut().filter_map(std::collections::VecDeque::pop_front).collect();
        let to: Vec<(u32, u32)> = (0..).zip(all.iter().map(|(_, id)| *id)).collect();
        let what = all[0].0;
        if all.iter().any(|(w, _)| std::mem::discriminant(w) != std::mem::discriminant(&what) || !matches!(what, Together::Ordered(_)) && *w != what) {
            let e = Error::new(Class::NotSame, format!("the ranks of file {} call different things together, or with different arguments", f.path));
            return self.file_tell(mem, fabric, file, me, &to, Err(e));
        }
        let what = match what {
            Together::Open => What::Open,
            Together::Close => What::Close,
            Together::SetSize(bytes) => What::SetSize(bytes),
            Together::Reserve(bytes) => What::Reserve(bytes),
            Together::Seek(offset, Whence::End) => What::SeekEnd(offset),
            Together::Seek(offset, whence) => {
                let at = moved(if whence == Whence::Set { 0 } else { f.shared }, offset);
                if let Ok(at) = at {
                    f.shared = at;
                }
                return self.file_tell(mem, fabric, file, me, &to, at.map(|at| (at, Vec::new())));
            }
            Together::View => {
                f.shared = 0;
                return self.file_tell(mem, fabric, file, me, &to, Ok((0, Vec::new())));
            }
            Together::ViewHere => {
                let at = i64::try_from(f.shared).unwrap_or(i64::MAX);
                f.shared = 0;
                let at = self.file_byte_offset(file, at);
                return self.file_tell(mem, fabric, file, me, &to, at.map(|at| (at, Vec::new())));
            }
            Together::Sync => return self.file_tell(mem, fabric, file, me, &to, Ok((0, Vec::new()))),
            Together::Ordered(_) => {
                let mut at = f.shared;
                let mut told = Vec::new();
                for ((what, _), to) in all.iter().zip(&to) {
                    told.push((*to, at));
                    if let Together::Ordered(elements) = what {
                        at = at.saturating_add(*elements);
                    }
                }
                f.shared = at;
                for (to, at) in told {
                    self.file_tell(mem, fabric, file, me, &[to], Ok((at, Vec::new())))?;
                }
                return Ok(());
            }
        };
        self.asks.push_back(Ask { file, to, what });
        Ok(())
    }

    /// A reply, or why there is none.
    fn file_replied(&mut self, mem: &mut Memory<'_>, fabric: &Fabric, id: u32, answer: std::result::Result<(u64, &[u8]), (i32, String)>) -> Result<()> {
        let Some(FileWait { file, request, bytes, then }) = self.file_waits.remove(&id) else { return Ok(()) };
        self.fetch_bytes -= bytes as usize;
        let failed = |e: Error| (e.class as i32, e.message);
        let ended: std::result::Result<u64, (i32, String)> = match (then, answer) {
            (Then::Opened { into }, answer) => {
                let handle = if answer.is_ok() { file } else { 0 };
                if answer.is_err() {
                    self.forget_file(file);
                }
                let opened = answer.and_then(|(size, version)| self.file_opened(file, size, version).map_err(failed));
                opened.and_then(|()| number(mem, into, &handle.to_le_bytes()).map_err(failed)).map(|()| 0)
            }
            (Then::Closed, answer) => {
                self.forget_file(file);
                answer.map(|_| 0)
            }
            (Then::Read { buffer }, answer) => {
                let done = answer.and_then(|(value, data)| self.file_read(mem, file, buffer, data).map(|()| value).map_err(failed));
                self.types.let_go(buffer.datatype);
                done
            }
            (Then::Placed { write, buffer }, Ok((start, _))) => {
                let bytes = self.types.used(buffer.datatype).and_then(|t| datatype::within(mem.len(), t, &buffer));
                match bytes.and_then(|bytes| self.file_go(fabric, file, request, start, write, buffer, bytes)) {
                    Ok(()) => return Ok(()),
                    Err(e) => Err(failed(e)),
                }
            }
            (_, Err(e)) => Err(e),
            (Then::Written, Ok((value, _))) => Ok(value),
            (Then::Nothing, Ok(_)) => Ok(0),
            (Then::Viewed { view }, Ok((displacement, _))) => self.set_view(file, View { displacement, ..view }).map(|()| 0).map_err(failed),
            (Then::Number { into }, Ok((value, _))) => number(mem, into, &value.to_le_bytes()).map(|()| 0).map_err(failed),
            (Then::SeekEnd { offset }, Ok((size, _))) => {
                let end = self.files.get(file).and_then(|f| f.view.end(&self.types, size)).and_then(|end| moved(end, offset));
                end.and_then(|at| self.files.get_mut(file).map(|f| f.position = at)).map(|()| 0).map_err(failed)
            }
        };
        self.epochs.retain(|r| *r != request);
        let Ok(slot) = self.slot(request) else { return Ok(()) };
        slot.work = Work::Done;
        match ended {
            Ok(bytes) => slot.status.bytes = bytes,
            Err((class, text)) => {
                slot.status.error = class;
                self.failed = Some((request, text));
            }
        }
        Ok(())
    }

    fn file_opened(&mut self, file: Handle, size: u64, version: &[u8]) -> Result<()> {
        let me = self.file_comm(file)?.me;
        let f = self.files.get_mut(file)?;
        if f.mode & mode::APPEND != 0 {
            f.position = size;
        }
        if me > 0
            && f.mode & mode::RDONLY != 0
            && let Ok(version) = version.try_into()
        {
            let what = What::OpenHere { version: u64::from_le_bytes(version) };
            self.asks.push_back(Ask { file, to: Vec::new(), what });
        }
        Ok(())
    }

    fn file_read(&mut self, mem: &mut Memory<'_>, file: Handle, buffer: Buffer, data: &[u8]) -> Result<()> {
        let external = self.files.get(file)?.view.external;
        let t = self.types.used(buffer.datatype)?;
        let room = u64::from(t.size) * u64::from(buffer.count);
        let mut data = data[..data.len().min(room as usize)].to_vec();
        if external {
            self.types.turn(buffer.datatype, &mut data)?;
        }
        datatype::unpack(mem, t, &buffer, &data)
    }

    /// The descriptor of a file that is gone is closed by the next [`What::Close`] of nobody's.
    fn forget_file(&mut self, file: Handle) {
        let Some(f) = self.files.remove(file) else { return };
        self.types.let_go(f.view.etype);
        self.types.let_go(f.view.filetype);
        self.closed.extend(f.descriptor);
        let handler = self.comms.used(f.comm).map_or(comm::FATAL, |c| c.handler);
        // The handle may be a number that the program has freed as a communicator of its own.
        let _ = self.comms.free(f.comm, false);
        self.drop_handler(handler);
    }
}

/// What a view is made of lies in the order of the file, and (where it is written) each byte once.
fn fits_a_file(t: &datatype::Datatype, written: bool) -> Result<()> {
    let mut before: Option<datatype::Block> = None;
    for b in &t.blocks {
        let early = before.is_some_and(|p| b.offset < p.offset);
        let twice = before.is_some_and(|p| i64::from(b.offset) < i64::from(p.offset) + i64::from(p.len));
        if b.offset < 0 || early || twice && written {
            let why = if twice && !early { "names bytes twice, which can't be written" } else { "goes backwards" };
            return Err(Error::new(Class::Io, format!("a file can't be seen through a datatype that {why} (at byte {})", b.offset)));
        }
        before = Some(*b);
    }
    Ok(())
}

/// A pointer moved by so many elements.
fn moved(base: u64, by: i64) -> Result<u64> {
    base.checked_add_signed(by).ok_or_else(|| Error::new(Class::Arg, format!("offset {by} from element {base} on is before the beginning of the file's view")))
}

fn number(mem: &mut Memory<'_>, at: u32, bytes: &[u8]) -> Result<()> {
    mem.write(at as usize, bytes).ok_or_else(|| Error::new(Class::Buffer, format!("result address {at:#x} is outside of memory")))
}

/// Bytes of all pieces of an access.
pub fn total(pieces: &[Piece]) -> Result<usize> {
    let bytes = pieces.iter().fold(0u64, |sum, p| sum.saturating_add(u64::from(p.len)));
    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
    message(bytes).map(|()| bytes)
}

/// The group of a file, as ranks of the world.
impl State {
    pub fn file_group(&self, file: Handle) -> Result<Vec<Rank>> {
        self.file_comm(file).map(|c| c.group.clone())
    }
}
