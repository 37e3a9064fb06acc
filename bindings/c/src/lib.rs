//! The object store as a C library, `include/cloudskin_geds.h`: what the bindings of other languages stand on.
//!
//! A handle is a pointer to a value of ours. A call copies names, does its work through [`geds::Blocking`] and leaves its error with the calling thread. A panic ends at the
//! border as `GEDS_INTERNAL`. Nothing here decides anything about objects.

use base::{Kind, SiteId, unit::Bytes as Size};
use geds::{
    Appendable, Attached, AttachedAppendable, AttachedFollower, AttachedWriter, Blocking, BucketName, Config, Error, Event, Follower, Grown, Happened, Key, Lent, Object, ObjectMeta, Page, Range, Shared, SharedOptions, Writer,
};
use std::{
    cell::RefCell,
    ffi::{CStr, CString, c_char, c_int, c_void},
    panic::{AssertUnwindSafe, catch_unwind},
    ptr,
    time::Duration,
};

/// `geds_info` of the header.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Info {
    pub size: u64,
    pub epoch: u64,
    pub checksum: u64,
    pub created_ms: u64,
    pub expires_ms: u64,
}

impl Info {
    fn of(meta: &ObjectMeta) -> Info {
        Info { size: meta.size, epoch: meta.epoch, checksum: meta.checksum, created_ms: meta.created_ms, expires_ms: 0 }
    }
}

/// `geds_store`: a node of this process's own, or the one of the machine's agent.
pub enum Store {
    Own(Shared),
    Attached(Attached),
}
/// `geds_writer`
pub enum Writing {
    Own(Writer),
    Attached(AttachedWriter),
}
/// `geds_object`
pub enum Opened {
    Own(Object),
    Lent(Lent),
}

/// `geds_appendable`
pub enum Growing {
    Own(Blocking, Appendable),
    Attached(AttachedAppendable),
}

/// `geds_follower`
pub enum Following {
    Own(Blocking, Follower),
    Attached(AttachedFollower),
}

impl Opened {
    fn bytes(&self) -> &[u8] {
        match self {
            Opened::Own(object) => object.bytes(),
            Opened::Lent(object) => object.bytes(),
        }
    }
}

/// The same call, of whichever it is.
macro_rules! either {
    ($store:expr, $door:ident => $call:expr) => {
        match $store {
            Store::Own(shared) => {
                let $door = shared.blocking();
                $call
            }
            Store::Attached($door) => $call,
        }
    };
}
macro_rules! either_writer {
    ($writer:expr, $door:ident => $call:expr) => {
        match $writer {
            Writing::Own($door) => $call,
            Writing::Attached($door) => $call,
        }
    };
}

impl Store {
    fn create(&self, bucket: &BucketName, key: &Key, if_absent: c_int) -> Result<Writing, Error> {
        match (self, if_absent != 0) {
            (Store::Own(shared), false) => shared.blocking().create(bucket, key).map(Writing::Own),
            (Store::Own(shared), true) => shared.blocking().create_new(bucket, key).map(Writing::Own),
            (Store::Attached(attached), false) => attached.create(bucket, key).map(Writing::Attached),
            (Store::Attached(attached), true) => attached.create_new(bucket, key).map(Writing::Attached),
        }
    }
}

thread_local! {
    static LAST: RefCell<(c_int, CString)> = RefCell::default();
}

fn refused(what: &'static str, rule: &'static str) -> Error {
    Error::BadValue { what, value: "NULL".into(), rule }
}

/// Does a call's work. Its error stays with the thread; so does a panic, which must not leave for a frame that is not ours.
fn call<T>(work: impl FnOnce() -> Result<T, Error>) -> Result<T, c_int> {
    let done = catch_unwind(AssertUnwindSafe(work));
    let (code, message, result) = match done {
        Ok(Ok(value)) => (0, String::new(), Ok(value)),
        Ok(Err(e)) => (e.kind().grpc(), e.to_string(), Err(e.kind().grpc())),
        Err(_) => (Kind::Internal.grpc(), "the store has a defect; its message is on stderr".into(), Err(Kind::Internal.grpc())),
    };
    // A NUL in a message can only come from a name with one, which no C string has.
    LAST.with(|last| *last.borrow_mut() = (code, CString::new(message.replace('\0', " ")).unwrap_or_default()));
    result
}

fn code(result: Result<(), c_int>) -> c_int {
    result.err().unwrap_or(0)
}

fn handle<T>(result: Result<T, c_int>) -> *mut T {
    result.map_or(ptr::null_mut(), |value| Box::into_raw(Box::new(value)))
}

/// # Safety
/// A pointer that is not NULL is the start of a C string that outlives the call.
unsafe fn text<'a>(pointer: *const c_char, what: &'static str) -> Result<&'a str, Error> {
    if pointer.is_null() {
        return Err(refused(what, "give a string"));
    }
    // SAFETY: not NULL, and the caller promises the rest.
    let text = unsafe { CStr::from_ptr(pointer) };
    text.to_str().map_err(|_| Error::BadValue { what, value: text.to_string_lossy().into_owned(), rule: "write UTF-8" })
}

/// # Safety
/// As [`text`], for both.
unsafe fn named(bucket: *const c_char, key: *const c_char) -> Result<(BucketName, Key), Error> {
    // SAFETY: the caller's promise.
    unsafe { Ok((BucketName::new(text(bucket, "bucket")?)?, Key::new(text(key, "key")?)?)) }
}

/// # Safety
/// A handle that is not NULL came from this library and has not been given back.
unsafe fn known<'a, T>(handle: *const T) -> Result<&'a T, Error> {
    // SAFETY: the caller's promise.
    unsafe { handle.as_ref() }.ok_or_else(|| refused("handle", "an earlier call failed; look at what it returned"))
}

/// # Safety
/// `data` has `len` readable bytes that outlive the call, or `len` is 0.
unsafe fn bytes<'a>(data: *const c_void, len: u64) -> Result<&'a [u8], Error> {
    match usize::try_from(len) {
        Ok(0) => Ok(&[]),
        Ok(len) if !data.is_null() && len <= isize::MAX as usize => {
            // SAFETY: the caller's promise, and neither NULL nor longer than an allocation can be.
            Ok(unsafe { std::slice::from_raw_parts(data.cast(), len) })
        }
        _ => Err(refused("data", "give as many bytes as you say")),
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn geds_message() -> *const c_char {
    LAST.with(|last| last.borrow().1.as_ptr())
}

#[unsafe(no_mangle)]
pub extern "C" fn geds_code() -> c_int {
    LAST.with(|last| last.borrow().0)
}

/// # Safety
/// See the header: strings end with NUL, and handles are ours.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn geds_open(folder: *const c_char, site: *const c_char, limit: u64, memory: u64) -> *mut Store {
    handle(call(|| {
        // SAFETY: the caller's promise.
        let (folder, site) = unsafe { (text(folder, "folder")?, text(site, "site")?) };
        let site = SiteId::new(site).map_err(|e| Error::BadName { what: e.what, name: e.name, rule: "use small letters, digits and `-`" })?;
        let memory = (memory > 0).then_some(Size(memory));
        Shared::open(SharedOptions { folder: folder.into(), site, limit: Size(limit), memory }).map(Store::Own)
    }))
}

/// # Safety
/// See the header: strings end with NUL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn geds_agent(folder: *const c_char, site: *const c_char, limit: u64, memory: u64, persist: *const c_char) -> *mut Store {
    handle(call(|| {
        // SAFETY: the caller's promise.
        let (folder, site) = unsafe { (text(folder, "folder")?, text(site, "site")?) };
        let mut config = Config::from_environment()?;
        if !persist.is_null() {
            // SAFETY: not NULL, and the caller's promise.
            config.persist = Some(unsafe { text(persist, "persist")? }.into());
        }
        let site = SiteId::new(site).map_err(|e| Error::BadName { what: e.what, name: e.name, rule: "use small letters, digits and `-`" })?;
        let memory = (memory > 0).then_some(Size(memory));
        Shared::agent(SharedOptions { folder: folder.into(), site, limit: Size(limit), memory }, config.persist()?).map(Store::Own)
    }))
}

/// # Safety
/// See the header: strings end with NUL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn geds_attach(folder: *const c_char) -> *mut Store {
    handle(call(|| {
        // SAFETY: the caller's promise.
        let folder = unsafe { text(folder, "folder")? };
        Shared::attach(folder).map(Store::Attached)
    }))
}

/// # Safety
/// See the header. The store is gone afterwards.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn geds_close(store: *mut Store) -> c_int {
    if store.is_null() {
        return 0;
    }
    // SAFETY: it came from `geds_open`, and the caller gives it back once.
    let store = unsafe { Box::from_raw(store) };
    code(call(|| match *store {
        Store::Own(shared) => shared.close(),
        Store::Attached(_) => Ok(()),
    }))
}

/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn geds_settle(store: *const Store) -> c_int {
    code(call(|| {
        // SAFETY: the caller's promise.
        match unsafe { known(store)? } {
            Store::Own(shared) => shared.settle(),
            Store::Attached(attached) => attached.settle()?,
        }
        Ok(())
    }))
}

/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn geds_create_bucket(store: *const Store, bucket: *const c_char) -> c_int {
    code(call(|| {
        // SAFETY: the caller's promise.
        let (store, bucket) = unsafe { (known(store)?, text(bucket, "bucket")?) };
        let bucket = BucketName::new(bucket)?;
        either!(store, door => door.create_bucket(&bucket)).map(|_| ())
    }))
}

/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn geds_create(store: *const Store, bucket: *const c_char, key: *const c_char, if_absent: c_int) -> *mut Writing {
    handle(call(|| {
        // SAFETY: the caller's promise.
        let (store, (bucket, key)) = unsafe { (known(store)?, named(bucket, key)?) };
        store.create(&bucket, &key, if_absent)
    }))
}

/// # Safety
/// See the header: a writer belongs to one thread at a time.
unsafe fn writing<'a>(writer: *mut Writing) -> Result<&'a mut Writing, Error> {
    // SAFETY: the caller's promise.
    unsafe { writer.as_mut() }.ok_or_else(|| refused("writer", "an earlier call failed; look at what it returned"))
}

/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn geds_write(writer: *mut Writing, offset: u64, data: *const c_void, len: u64) -> c_int {
    code(call(|| {
        // SAFETY: the caller's promise.
        let (writer, data) = unsafe { (writing(writer)?, bytes(data, len)?) };
        either_writer!(writer, door => door.write_at(offset, data))
    }))
}

/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn geds_set_metadata(writer: *mut Writing, data: *const c_void, len: u64) -> c_int {
    code(call(|| {
        // SAFETY: the caller's promise.
        let (writer, data) = unsafe { (writing(writer)?, bytes(data, len)?) };
        either_writer!(writer, door => door.set_metadata(data.to_vec()));
        Ok(())
    }))
}

/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn geds_expire_after(writer: *mut Writing, ms: u64) -> c_int {
    code(call(|| {
        // SAFETY: the caller's promise.
        let writer = unsafe { writing(writer)? };
        either_writer!(writer, door => door.expire_after(Duration::from_millis(ms)));
        Ok(())
    }))
}

/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn geds_lease_to(writer: *mut Writing, job: *const c_char) -> c_int {
    code(call(|| {
        // SAFETY: the caller's promise.
        let (writer, job) = unsafe { (writing(writer)?, text(job, "job")?) };
        either_writer!(writer, door => door.lease_to(job));
        Ok(())
    }))
}

/// # Safety
/// The writer came from `geds_create` and is given back once.
unsafe fn given_back(writer: *mut Writing) -> Result<Writing, Error> {
    if writer.is_null() {
        return Err(refused("writer", "an earlier call failed; look at what it returned"));
    }
    // SAFETY: not NULL, and the caller's promise.
    Ok(*unsafe { Box::from_raw(writer) })
}

fn seal(writer: Writing) -> Result<(), Error> {
    match writer {
        Writing::Own(writer) => writer.seal_blocking().map(|_| ()),
        Writing::Attached(writer) => writer.seal().map(|_| ()),
    }
}

/// # Safety
/// See the header. The writer is gone afterwards.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn geds_seal(writer: *mut Writing) -> c_int {
    // SAFETY: the caller's promise.
    code(call(|| seal(unsafe { given_back(writer) }?)))
}

/// # Safety
/// See the header. The writer is gone afterwards.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn geds_seal_here(writer: *mut Writing) -> c_int {
    // SAFETY: the caller's promise.
    code(call(|| match unsafe { given_back(writer) }? {
        Writing::Own(writer) => writer.seal_here().map(|_| ()),
        Writing::Attached(writer) => writer.seal_here().map(|_| ()),
    }))
}

/// # Safety
/// See the header. The writer is gone afterwards.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn geds_abort(writer: *mut Writing) {
    // SAFETY: the caller's promise. NULL is nothing to abort.
    let _ = call(|| unsafe { given_back(writer) }.map(drop));
}

/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn geds_put(store: *const Store, bucket: *const c_char, key: *const c_char, data: *const c_void, len: u64, if_absent: c_int) -> c_int {
    code(call(|| {
        // SAFETY: the caller's promise.
        let (store, (bucket, key), data) = unsafe { (known(store)?, named(bucket, key)?, bytes(data, len)?) };
        let mut writer = store.create(&bucket, &key, if_absent)?;
        either_writer!(&mut writer, door => door.write_at(0, data))?;
        seal(writer)
    }))
}

/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn geds_get(store: *const Store, bucket: *const c_char, key: *const c_char) -> *mut Opened {
    handle(call(|| {
        // SAFETY: the caller's promise.
        let (store, (bucket, key)) = unsafe { (known(store)?, named(bucket, key)?) };
        match store {
            Store::Own(shared) => shared.blocking().open(&bucket, &key).map(Opened::Own),
            Store::Attached(attached) => attached.open_object(&bucket, &key).map(Opened::Lent),
        }
    }))
}

/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn geds_data(object: *const Opened) -> *const c_void {
    // SAFETY: the caller's promise. The bytes are mapped for as long as the handle lives.
    let bytes = unsafe { object.as_ref() }.map_or(&[][..], Opened::bytes);
    if bytes.is_empty() { ptr::null() } else { bytes.as_ptr().cast() }
}

/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn geds_len(object: *const Opened) -> u64 {
    // SAFETY: the caller's promise.
    unsafe { object.as_ref() }.map_or(0, |object| object.bytes().len() as u64)
}

/// # Safety
/// See the header. The object is gone afterwards.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn geds_release(object: *mut Opened) {
    if !object.is_null() {
        // SAFETY: it came from `geds_get`, and the caller gives it back once.
        drop(unsafe { Box::from_raw(object) });
    }
}

/// # Safety
/// See the header; `data` has room for `room` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn geds_read(store: *const Store, bucket: *const c_char, key: *const c_char, offset: u64, data: *mut c_void, room: u64, len: *mut u64) -> c_int {
    code(call(|| {
        // SAFETY: the caller's promise.
        let (store, (bucket, key)) = unsafe { (known(store)?, named(bucket, key)?) };
        let range = Range { offset, len: room };
        let bytes: Vec<u8> = match store {
            Store::Own(shared) => shared.blocking().read_range(&bucket, &key, range)?.1.into(),
            Store::Attached(attached) => attached.read_range(&bucket, &key, range)?.1,
        };
        // SAFETY: the caller's promise.
        unsafe { give(&bytes, data, room, len) }
    }))
}

/// Copies what was read to the caller's place. What was asked for is never longer than that.
///
/// # Safety
/// `data` has room for `room` bytes, or is NULL; `len` for a number, or is NULL.
unsafe fn give(bytes: &[u8], data: *mut c_void, room: u64, len: *mut u64) -> Result<(), Error> {
    // What the bytes come from is to see to that; here it would be another's memory that pays.
    if bytes.len() as u64 > room {
        return Err(Error::Remote { kind: Kind::Internal, message: format!("{} bytes have come where {room} were asked for; nothing was written", bytes.len()) });
    }
    if data.is_null() && !bytes.is_empty() {
        return Err(refused("data", "give room for as many bytes as you say"));
    }
    if !bytes.is_empty() {
        // SAFETY: not NULL, no more than the room that the caller promises, and ours do not overlap with the caller's.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), data.cast(), bytes.len()) };
    }
    // SAFETY: the caller's promise.
    unsafe { tell(len, bytes.len() as u64) };
    Ok(())
}

/// # Safety
/// See the header; `info` has room for one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn geds_stat(store: *const Store, bucket: *const c_char, key: *const c_char, info: *mut Info) -> c_int {
    code(call(|| {
        // SAFETY: the caller's promise.
        let (store, (bucket, key)) = unsafe { (known(store)?, named(bucket, key)?) };
        let meta = either!(store, door => door.stat(&bucket, &key))?;
        let expires_ms = either!(store, door => door.attributes(&bucket, &key))?.expires_ms;
        if !info.is_null() {
            // SAFETY: not NULL, and the caller's promise.
            unsafe { info.write(Info { expires_ms, ..Info::of(&meta) }) };
        }
        Ok(())
    }))
}

/// # Safety
/// See the header; `data` has room for `room` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn geds_metadata(store: *const Store, bucket: *const c_char, key: *const c_char, data: *mut c_void, room: u64, len: *mut u64) -> c_int {
    code(call(|| {
        // SAFETY: the caller's promise.
        let (store, (bucket, key)) = unsafe { (known(store)?, named(bucket, key)?) };
        let metadata = either!(store, door => door.attributes(&bucket, &key))?.metadata;
        let n = metadata.len().min(usize::try_from(room).unwrap_or(usize::MAX));
        if !data.is_null() {
            // SAFETY: not NULL, room for `room` bytes, and ours do not overlap with the caller's.
            unsafe { ptr::copy_nonoverlapping(metadata.as_ptr(), data.cast(), n) };
        }
        // SAFETY: the caller's promise.
        unsafe { tell(len, metadata.len() as u64) };
        Ok(())
    }))
}

/// # Safety
/// A pointer that is not NULL has room for a number.
unsafe fn tell(pointer: *mut u64, value: u64) {
    if !pointer.is_null() {
        // SAFETY: not NULL, and the caller's promise.
        unsafe { pointer.write(value) };
    }
}

/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn geds_delete(store: *const Store, bucket: *const c_char, key: *const c_char) -> c_int {
    code(call(|| {
        // SAFETY: the caller's promise.
        let (store, (bucket, key)) = unsafe { (known(store)?, named(bucket, key)?) };
        either!(store, door => door.delete(&bucket, &key)).map(|_| ())
    }))
}

/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn geds_rename(
    store: *const Store,
    bucket: *const c_char,
    from: *const c_char,
    to_bucket: *const c_char,
    to: *const c_char,
    if_absent: c_int,
) -> c_int {
    code(call(|| {
        // SAFETY: the caller's promise.
        let (store, (bucket, from), (to_bucket, to)) = unsafe { (known(store)?, named(bucket, from)?, named(to_bucket, to)?) };
        either!(store, door => door.rename_to(&bucket, &from, &to_bucket, &to, if_absent != 0)).map(|_| ())
    }))
}

/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn geds_copy(
    store: *const Store,
    bucket: *const c_char,
    from: *const c_char,
    to_bucket: *const c_char,
    to: *const c_char,
    if_absent: c_int,
) -> c_int {
    code(call(|| {
        // SAFETY: the caller's promise.
        let (store, (bucket, from), (to_bucket, to)) = unsafe { (known(store)?, named(bucket, from)?, named(to_bucket, to)?) };
        either!(store, door => door.copy(&bucket, &from, &to_bucket, &to, if_absent != 0)).map(|_| ())
    }))
}

/// # Safety
/// A pointer that is not NULL has room for a number.
unsafe fn count(counted: (u64, u64), objects: *mut u64, size: *mut u64) {
    // SAFETY: the caller's promise.
    unsafe {
        tell(objects, counted.0);
        tell(size, counted.1);
    }
}

/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn geds_delete_prefix(store: *const Store, bucket: *const c_char, prefix: *const c_char, objects: *mut u64, size: *mut u64) -> c_int {
    code(call(|| {
        // SAFETY: the caller's promise.
        let (store, bucket, prefix) = unsafe { (known(store)?, text(bucket, "bucket")?, text(prefix, "prefix")?) };
        let bucket = BucketName::new(bucket)?;
        let removed = either!(store, door => door.delete_prefix(&bucket, prefix))?;
        // SAFETY: the caller's promise.
        unsafe { count(removed, objects, size) };
        Ok(())
    }))
}

/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn geds_rename_prefix(
    store: *const Store,
    bucket: *const c_char,
    from: *const c_char,
    to_bucket: *const c_char,
    to: *const c_char,
    if_absent: c_int,
    objects: *mut u64,
    size: *mut u64,
) -> c_int {
    code(call(|| {
        // SAFETY: the caller's promise.
        let (store, bucket, from, to_bucket, to) =
            unsafe { (known(store)?, text(bucket, "bucket")?, text(from, "prefix")?, text(to_bucket, "bucket")?, text(to, "prefix")?) };
        let (bucket, to_bucket) = (BucketName::new(bucket)?, BucketName::new(to_bucket)?);
        let counted = either!(store, door => door.rename_prefix(&bucket, from, &to_bucket, to, if_absent != 0))?;
        // SAFETY: the caller's promise.
        unsafe { count(counted, objects, size) };
        Ok(())
    }))
}

/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn geds_copy_prefix(
    store: *const Store,
    bucket: *const c_char,
    from: *const c_char,
    to_bucket: *const c_char,
    to: *const c_char,
    objects: *mut u64,
    size: *mut u64,
) -> c_int {
    code(call(|| {
        // SAFETY: the caller's promise.
        let (store, bucket, from, to_bucket, to) =
            unsafe { (known(store)?, text(bucket, "bucket")?, text(from, "prefix")?, text(to_bucket, "bucket")?, text(to, "prefix")?) };
        let (bucket, to_bucket) = (BucketName::new(bucket)?, BucketName::new(to_bucket)?);
        let counted = either!(store, door => door.copy_prefix(&bucket, from, &to_bucket, to))?;
        // SAFETY: the caller's promise.
        unsafe { count(counted, objects, size) };
        Ok(())
    }))
}

/// A number of milliseconds; a year is as good as for ever.
fn time(ms: u64) -> Duration {
    Duration::from_millis(ms.min(365 * 86_400_000))
}

/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn geds_flush(store: *const Store, bucket: *const c_char, prefix: *const c_char, within_ms: u64, objects: *mut u64, size: *mut u64) -> c_int {
    code(call(|| {
        // SAFETY: the caller's promise.
        let (store, bucket, prefix) = unsafe { (known(store)?, text(bucket, "bucket")?, text(prefix, "prefix")?) };
        let bucket = BucketName::new(bucket)?;
        let uploaded = either!(store, door => door.flush(&bucket, prefix, time(within_ms)))?;
        // SAFETY: the caller's promise.
        unsafe { count(uploaded, objects, size) };
        Ok(())
    }))
}

/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn geds_wait_durable(store: *const Store, bucket: *const c_char, key: *const c_char, within_ms: u64) -> c_int {
    code(call(|| {
        // SAFETY: the caller's promise.
        let (store, (bucket, key)) = unsafe { (known(store)?, named(bucket, key)?) };
        either!(store, door => door.wait_durable(&bucket, &key, time(within_ms))).map(|_| ())
    }))
}

/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn geds_spill(store: *const Store, bucket: *const c_char, prefix: *const c_char, objects: *mut u64, size: *mut u64) -> c_int {
    code(call(|| {
        // SAFETY: the caller's promise.
        let (store, bucket, prefix) = unsafe { (known(store)?, text(bucket, "bucket")?, text(prefix, "prefix")?) };
        let bucket = BucketName::new(bucket)?;
        let spilled = either!(store, door => door.spill(&bucket, prefix))?;
        // SAFETY: the caller's promise.
        unsafe { count(spilled, objects, size) };
        Ok(())
    }))
}

/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn geds_keep_job(store: *const Store, job: *const c_char, ms: u64) -> c_int {
    code(call(|| {
        // SAFETY: the caller's promise.
        let (store, job) = unsafe { (known(store)?, text(job, "job")?) };
        either!(store, door => door.keep_job(job, (ms > 0).then(|| time(ms))))
    }))
}

/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn geds_drop_job(store: *const Store, job: *const c_char, objects: *mut u64, size: *mut u64) -> c_int {
    code(call(|| {
        // SAFETY: the caller's promise.
        let (store, job) = unsafe { (known(store)?, text(job, "job")?) };
        let removed = either!(store, door => door.drop_job(job))?;
        // SAFETY: the caller's promise.
        unsafe { count(removed, objects, size) };
        Ok(())
    }))
}

/// What is called for each name of a list.
type Each = unsafe extern "C" fn(context: *mut c_void, name: *const c_char, info: *const Info) -> c_int;

/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn geds_list(
    store: *const Store,
    bucket: *const c_char,
    prefix: *const c_char,
    folders: c_int,
    each: Option<Each>,
    context: *mut c_void,
) -> c_int {
    let listed = call(|| {
        // SAFETY: the caller's promise.
        let (store, bucket, prefix) = unsafe { (known(store)?, text(bucket, "bucket")?, text(prefix, "prefix")?) };
        let each = each.ok_or_else(|| refused("function", "say what is to be called for each name"))?;
        let bucket = BucketName::new(bucket)?;
        let mut page = Page::default();
        loop {
            let listing = either!(store, door => door.list(&bucket, prefix, (folders != 0).then_some('/'), page))?;
            let mut names: Vec<(String, Option<Info>)> = listing.objects.iter().map(|meta| (meta.key.to_string(), Some(Info::of(meta)))).collect();
            names.extend(listing.prefixes.into_iter().map(|folder| (folder, None)));
            names.sort_by(|a, b| a.0.cmp(&b.0));
            for (name, info) in names {
                // No key has a NUL in it.
                let name = CString::new(name).unwrap_or_default();
                // SAFETY: the function is the caller's, and both pointers hold during the call.
                let answer = unsafe { each(context, name.as_ptr(), info.as_ref().map_or(ptr::null(), ptr::from_ref)) };
                if answer != 0 {
                    return Ok(answer);
                }
            }
            match listing.next {
                Some(next) => page = Page { start_after: next, ..Page::default() },
                None => return Ok(0),
            }
        }
    });
    listed.unwrap_or_else(|code| code)
}

/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn geds_list_buckets(store: *const Store, each: Option<Each>, context: *mut c_void) -> c_int {
    let listed = call(|| {
        // SAFETY: the caller's promise.
        let store = unsafe { known(store)? };
        let each = each.ok_or_else(|| refused("function", "say what is to be called for each name"))?;
        for bucket in either!(store, door => door.buckets())? {
            // No name has a NUL in it.
            let name = CString::new(bucket.as_str()).unwrap_or_default();
            // SAFETY: the function is the caller's, and the name holds during the call.
            let answer = unsafe { each(context, name.as_ptr(), ptr::null()) };
            if answer != 0 {
                return Ok(answer);
            }
        }
        Ok(0)
    });
    listed.unwrap_or_else(|code| code)
}

// --- what happens -----------------------------------------------------------------------------------------------------------------

/// `geds_event` of the header.
#[repr(C)]
pub struct Happening {
    pub seq: u64,
    pub what: c_int,
    pub name: *const c_char,
    pub epoch: u64,
    pub size: u64,
}

type EachEvent = unsafe extern "C" fn(context: *mut c_void, event: *const Happening) -> c_int;

/// `enum geds_happened` of the header, the key or prefix, epoch and size.
fn happened(event: &Event) -> (c_int, &str, u64, u64) {
    match &event.what {
        Happened::Sealed { key, epoch, size, .. } => (1, key.as_str(), *epoch, *size),
        Happened::Removed { key } => (2, key.as_str(), 0, 0),
        Happened::Changed { key } => (3, key.as_str(), 0, 0),
        Happened::PrefixSealed { prefix } => (4, prefix, 0, 0),
        Happened::PrefixRemoved { prefix } => (5, prefix, 0, 0),
    }
}

/// # Safety
/// See the header; `token` has room for a number and holds one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn geds_watch(
    store: *const Store,
    bucket: *const c_char,
    token: *mut u64,
    wait_ms: u64,
    resync: *mut c_int,
    each: Option<EachEvent>,
    context: *mut c_void,
) -> c_int {
    let watched = call(|| {
        // SAFETY: the caller's promise.
        let (store, bucket, token) = unsafe { (known(store)?, text(bucket, "bucket")?, token.as_mut().ok_or_else(|| refused("token", "say from where on"))?) };
        let each = each.ok_or_else(|| refused("function", "say what is to be called for each event"))?;
        let bucket = BucketName::new(bucket)?;
        let watched = either!(store, door => door.watch(&bucket, *token, time(wait_ms)))?;
        if !resync.is_null() {
            // SAFETY: not NULL, and the caller's promise.
            unsafe { resync.write(watched.resync.into()) };
        }
        for event in &watched.events {
            let (what, name, epoch, size) = happened(event);
            // No key has a NUL in it.
            let name = CString::new(name).unwrap_or_default();
            let event = Happening { seq: event.seq, what, name: name.as_ptr(), epoch, size };
            // SAFETY: the function is the caller's, and the pointers hold during the call.
            let answer = unsafe { each(context, &event) };
            if answer != 0 {
                // What it was told last comes again.
                *token = event.seq - 1;
                return Ok(answer);
            }
        }
        *token = watched.next;
        Ok(0)
    });
    watched.unwrap_or_else(|code| code)
}

// --- what grows -------------------------------------------------------------------------------------------------------------------

/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn geds_appendable_open(store: *const Store, bucket: *const c_char, key: *const c_char, begin: c_int) -> *mut Growing {
    handle(call(|| {
        // SAFETY: the caller's promise.
        let (store, (bucket, key)) = unsafe { (known(store)?, named(bucket, key)?) };
        let missing = || Error::NotFound { bucket: bucket.to_string(), key: key.to_string() };
        match store {
            Store::Own(shared) => {
                let door = shared.blocking();
                let growing = match begin {
                    0 => door.growing(&bucket, &key)?.ok_or_else(missing)?,
                    1 => door.appendable(&bucket, &key)?,
                    _ => door.appendable_new(&bucket, &key)?,
                };
                Ok(Growing::Own(door, growing))
            }
            Store::Attached(attached) => Ok(Growing::Attached(match begin {
                0 => attached.growing(&bucket, &key)?.ok_or_else(missing)?,
                1 => attached.appendable(&bucket, &key)?,
                _ => attached.appendable_new(&bucket, &key)?,
            })),
        }
    }))
}

/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn geds_appendable_len(growing: *const Growing, len: *mut u64) -> c_int {
    code(call(|| {
        // SAFETY: the caller's promise.
        let length = match unsafe { known(growing)? } {
            Growing::Own(_, growing) => growing.len(),
            Growing::Attached(growing) => growing.length()?,
        };
        // SAFETY: the caller's promise.
        unsafe { tell(len, length) };
        Ok(())
    }))
}

/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn geds_append(growing: *const Growing, offset: u64, data: *const c_void, len: u64) -> c_int {
    code(call(|| {
        // SAFETY: the caller's promise.
        let (growing, data) = unsafe { (known(growing)?, bytes(data, len)?) };
        match growing {
            Growing::Own(_, growing) => growing.append_blocking(offset, data),
            Growing::Attached(growing) => growing.append(offset, data),
        }
        .map(|_| ())
    }))
}

/// # Safety
/// See the header; `data` has room for `room` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn geds_appendable_read(growing: *const Growing, offset: u64, data: *mut c_void, room: u64, len: *mut u64) -> c_int {
    code(call(|| {
        // SAFETY: the caller's promise.
        let bytes: Vec<u8> = match unsafe { known(growing)? } {
            Growing::Own(door, growing) => door.read_growing(growing, offset, room)?.into(),
            Growing::Attached(growing) => growing.read(offset, room)?,
        };
        // SAFETY: the caller's promise.
        unsafe { give(&bytes, data, room, len) }
    }))
}

/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn geds_appendable_sync(growing: *const Growing) -> c_int {
    code(call(|| {
        // SAFETY: the caller's promise.
        match unsafe { known(growing)? } {
            Growing::Own(door, growing) => door.sync_growing(growing),
            Growing::Attached(growing) => growing.sync(),
        }
    }))
}

/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn geds_appendable_seal(growing: *const Growing) -> c_int {
    code(call(|| {
        // SAFETY: the caller's promise.
        match unsafe { known(growing)? } {
            Growing::Own(door, growing) => door.seal_growing(growing).map(|_| ()),
            Growing::Attached(growing) => growing.seal().map(|_| ()),
        }
    }))
}

/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn geds_appendable_discard(growing: *const Growing) -> c_int {
    code(call(|| {
        // SAFETY: the caller's promise.
        match unsafe { known(growing)? } {
            Growing::Own(door, growing) => door.discard_growing(growing),
            Growing::Attached(growing) => growing.discard(),
        }
    }))
}

/// # Safety
/// See the header. The handle is gone afterwards.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn geds_appendable_close(growing: *mut Growing) {
    if !growing.is_null() {
        // SAFETY: it came from `geds_appendable_open`, and the caller gives it back once.
        drop(unsafe { Box::from_raw(growing) });
    }
}

/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn geds_list_appendables(store: *const Store, bucket: *const c_char, prefix: *const c_char, each: Option<Each>, context: *mut c_void) -> c_int {
    let listed = call(|| {
        // SAFETY: the caller's promise.
        let (store, bucket, prefix) = unsafe { (known(store)?, text(bucket, "bucket")?, text(prefix, "prefix")?) };
        let each = each.ok_or_else(|| refused("function", "say what is to be called for each name"))?;
        let bucket = BucketName::new(bucket)?;
        let mut last = String::new();
        loop {
            let page = match store {
                Store::Own(shared) => shared.node().list_growing(&bucket, prefix, &last)?,
                Store::Attached(attached) => attached.list_growing(&bucket, prefix, &last)?,
            };
            let Some((end, _)) = page.last() else { return Ok(0) };
            last = end.to_string();
            for (key, size) in page {
                // No key has a NUL in it.
                let name = CString::new(key.as_str()).unwrap_or_default();
                let info = Info { size, ..Info::default() };
                // SAFETY: the function is the caller's, and both pointers hold during the call.
                let answer = unsafe { each(context, name.as_ptr(), &info) };
                if answer != 0 {
                    return Ok(answer);
                }
            }
        }
    });
    listed.unwrap_or_else(|code| code)
}

/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn geds_follow(store: *const Store, bucket: *const c_char, key: *const c_char) -> *mut Following {
    handle(call(|| {
        // SAFETY: the caller's promise.
        let (store, (bucket, key)) = unsafe { (known(store)?, named(bucket, key)?) };
        Ok(match store {
            Store::Own(shared) => {
                let door = shared.blocking();
                let follower = door.follow(&bucket, &key)?;
                Following::Own(door, follower)
            }
            Store::Attached(attached) => Following::Attached(attached.follow(&bucket, &key)?),
        })
    }))
}

/// # Safety
/// See the header; `data` has room for `room` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn geds_follow_read(follower: *const Following, offset: u64, data: *mut c_void, room: u64, wait_ms: u64, len: *mut u64, sealed: *mut c_int) -> c_int {
    code(call(|| {
        // SAFETY: the caller's promise.
        let grown: Grown = match unsafe { known(follower)? } {
            Following::Own(door, follower) => door.read_followed(follower, offset, room, time(wait_ms))?,
            Following::Attached(follower) => follower.read(offset, room, time(wait_ms))?,
        };
        if !sealed.is_null() {
            // SAFETY: not NULL, and the caller's promise.
            unsafe { sealed.write(grown.sealed.into()) };
        }
        // SAFETY: the caller's promise.
        unsafe { give(&grown.bytes, data, room, len) }
    }))
}

/// # Safety
/// See the header. The handle is gone afterwards.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn geds_follow_close(follower: *mut Following) {
    if !follower.is_null() {
        // SAFETY: it came from `geds_follow`, and the caller gives it back once.
        drop(unsafe { Box::from_raw(follower) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_bytes_than_there_is_room_for_are_never_written() {
        let (mut place, mut len) = ([0u8; 8], 9u64);
        // SAFETY: there are eight bytes of room, more than is said, and a number.
        let (told, fits) = unsafe { (give(b"four", place.as_mut_ptr().cast(), 3, &mut len), give(b"two", place.as_mut_ptr().cast(), 3, &mut len)) };
        assert!(told.unwrap_err().to_string().contains("4 bytes have come where 3 were asked for"));
        assert_eq!((fits.is_ok(), place, len), (true, *b"two\0\0\0\0\0", 3));
    }
}
