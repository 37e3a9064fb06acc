//! Between the engine and native code: calls in both directions, traps, and faults in memory.
//!
//! ```text
//! engine -> stub -> import of ours -> cloudskin_enter (setjmp) -> native function
//!                                       <- returns, or a trap jumps back here
//! native function -> cloudskin_out -> `out` -> thunk of the instance -> host function
//! ```
//!
//! A trap jumps over native frames only: they hold nothing that wants to be dropped, and each call out is back, or has come back with an error, before native
//! code goes on. An access beyond the end of linear memory meets pages that nobody may touch; the handler of that signal jumps likewise, but only if the thread
//! is in native code and the address lies in the cell's own reservation. All else goes to the handler that was there before.

use super::Native;
use super::translate::{GUARD, trap};
use crate::cell::{Host, Linear};
use std::any::Any;
use std::cell::Cell;
use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::panic::AssertUnwindSafe;
use std::ptr;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Once, OnceLock};
use wasmtime::{Caller, Extern, Func, Trap, ValRaw};

/// Bytes that belong to a cell's memory and may fault: the reservation and the guard behind it.
const RESERVED: usize = (4 << 30) + GUARD as usize;
/// Stack that native code leaves for host functions and for functions that call nothing.
const SPARE: usize = 512 << 10;

/// In place of a function's number: it is not known in which one a fault was.
const NOWHERE: u32 = 0xff_ffff;

/// What native code finds at its first parameter. The first fields are known to `translate` and to `guests/native.c` by their offsets.
#[repr(C)]
pub(super) struct Context {
    /// Where linear memory begins.
    memory: *mut u8,
    /// The copies of the globals.
    globals: *mut u8,
    memory_bytes: u64,
    /// Lowest address that the stack may reach; 0 outside of native code.
    stack_end: usize,
    out: extern "C" fn(*mut Context, u32, *mut ValRaw) -> i32,
    jump: *mut c_void,
    trap: u32,
    /// Native code runs and no call out is under way.
    inside: bool,
    /// How many processors the cell may use: in the cell's control, which the store keeps as long as this.
    processors: *const AtomicU32,
    // From here on ours alone.
    caller: *mut c_void,
    linear: Linear,
    thunks: Vec<Option<Func>>,
    error: Option<wasmtime::Error>,
    panic: Option<Box<dyn Any + Send>>,
    native: Arc<Native>,
}

const _: () = assert!(std::mem::offset_of!(Context, processors) == super::translate::field::PROCESSORS as usize);

/// The context of a cell, or of one of its threads, made when its native code is entered first. It has its own place: native code and calls out, which may enter again, share it.
pub(crate) struct Bridge(ptr::NonNull<Context>);

// SAFETY: the pointers are used by the thread that runs the cell, from within a call; between calls `caller` and `jump` are stale and not read.
unsafe impl Send for Bridge {}
// SAFETY: nothing is read through a shared reference.
unsafe impl Sync for Bridge {}

impl Drop for Bridge {
    fn drop(&mut self) {
        // SAFETY: made by `Box::into_raw` in `enter`; the store that owns it is not dropped while native code runs in it.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

thread_local! {
    static ACTIVE: Cell<*mut Context> = const { Cell::new(ptr::null_mut()) };
}

pub(super) type Enter = unsafe extern "C" fn(*mut Context, *const c_void, *mut ValRaw) -> i32;
pub(super) type Leave = unsafe extern "C" fn(*mut Context, u32) -> !;

/// The engine's call of a stub's native function.
pub(super) fn enter(native: &Arc<Native>, entry: usize, mut caller: Caller<'_, Host>, slots: &mut [MaybeUninit<ValRaw>]) -> wasmtime::Result<()> {
    handle_faults();
    let context = match &caller.data().native {
        Some(bridge) => bridge.0.as_ptr(),
        None => {
            let context = ptr::NonNull::from(Box::leak(Box::new(begin(native, &mut caller)?)));
            caller.data_mut().native = Some(Bridge(context));
            context.as_ptr()
        }
    };
    // SAFETY: the context is boxed, lives in the store, and is only reached from the thread that runs the store; no reference to it is kept over the call.
    let code = unsafe {
        let before = ((*context).caller, (*context).stack_end, (*context).inside, ACTIVE.get());
        if (*context).stack_end == 0 {
            let here = ptr::from_ref(&before).addr();
            (*context).stack_end = here.saturating_sub(crate::engine::GUEST_STACK - SPARE);
        }
        (*context).memory_bytes = (&(*context).linear).bytes(&caller) as u64;
        (*context).caller = ptr::from_mut(&mut caller).cast();
        ACTIVE.set(context);
        (*context).inside = true;
        // `entry` is a function of this library that takes these slots, which have room for its arguments and its result.
        let code = (native.enter)(context, native.entries[entry], slots.as_mut_ptr().cast());
        ((*context).caller, (*context).stack_end, (*context).inside) = (before.0, before.1, before.2);
        ACTIVE.set(before.3);
        code as u32
    };
    if code == 0 {
        return Ok(());
    }
    // SAFETY: as above.
    let (panic, error) = unsafe { ((*context).panic.take(), (*context).error.take()) };
    if let Some(panic) = panic {
        std::panic::resume_unwind(panic);
    }
    let (reason, function) = (code & 0xff, code >> 8);
    caller.data_mut().trapped_in.get_or_insert_with(|| native.name(function));
    Err(match reason {
        trap::CALL => error.unwrap_or_else(|| wasmtime::Error::msg("a call out of native code failed")),
        trap::UNREACHABLE => Trap::UnreachableCodeReached.into(),
        trap::DIVISION => Trap::IntegerDivisionByZero.into(),
        trap::OVERFLOW => Trap::IntegerOverflow.into(),
        trap::CONVERSION => Trap::BadConversionToInteger.into(),
        trap::TABLE => Trap::TableOutOfBounds.into(),
        trap::NULL => Trap::IndirectCallToNull.into(),
        trap::SIGNATURE => Trap::BadSignature.into(),
        trap::STACK => Trap::StackOverflow.into(),
        trap::UNALIGNED => Trap::HeapMisaligned.into(),
        _ => Trap::MemoryOutOfBounds.into(),
    })
}

fn begin(native: &Arc<Native>, caller: &mut Caller<'_, Host>) -> wasmtime::Result<Context> {
    let linear = match caller.get_export("memory") {
        Some(Extern::Memory(memory)) => Linear::Own(memory),
        Some(Extern::SharedMemory(memory)) => Linear::Shared(memory),
        _ => return Err(wasmtime::Error::msg("the module does not export its memory")),
    };
    let flags = caller.get_export(crate::toolchain::FLAGS).and_then(Extern::into_memory).ok_or_else(|| wasmtime::Error::msg("no memory for flag words"))?;
    Ok(Context {
        memory: linear.base(&caller),
        // The memory of the flag words is one page, so the copies lie in it.
        globals: flags.data_ptr(&caller).wrapping_add(super::translate::GLOBALS as usize),
        memory_bytes: 0,
        stack_end: 0,
        out,
        jump: ptr::null_mut(),
        trap: 0,
        inside: false,
        processors: caller.data().control.processors_word(),
        caller: ptr::null_mut(),
        linear,
        thunks: vec![None; native.slots.len()],
        error: None,
        panic: None,
        native: native.clone(),
    })
}

/// Native code's call of an import. 0: done, with the result in the first slot.
extern "C" fn out(context: *mut Context, function: u32, slots: *mut ValRaw) -> i32 {
    // SAFETY: native code hands on the context that it was called with, whose `caller` lives in the frame of `enter` below this one, and slots for the
    // arguments and the result of the function. Nobody else uses the caller while native code runs.
    unsafe {
        (*context).inside = false;
        let caller = &mut *(*context).caller.cast::<Caller<'_, Host>>();
        let done = std::panic::catch_unwind(AssertUnwindSafe(|| call(context, function, caller, slots)));
        (*context).memory_bytes = (&(*context).linear).bytes(&*caller) as u64;
        match done {
            Ok(Ok(())) => {
                (*context).inside = true;
                return 0;
            }
            Ok(Err(error)) => (*context).error = Some(error),
            Err(panic) => (*context).panic = Some(panic),
        }
        1
    }
}

/// # Safety
///
/// `context` is valid, and `slots` has room for the arguments and the result of the function.
unsafe fn call(context: *mut Context, function: u32, caller: &mut Caller<'_, Host>, slots: *mut ValRaw) -> wasmtime::Result<()> {
    let i = function as usize;
    // SAFETY: no reference into the context is kept over the call, which may enter native code again.
    let (known, count) = unsafe { ((&(*context).thunks)[i], (&(*context).native).slots[i]) };
    let func = match known {
        Some(func) => func,
        None => {
            let func = caller.get_export(&format!("{}{function}", super::OUT)).and_then(Extern::into_func);
            let func = func.ok_or_else(|| wasmtime::Error::msg(format!("the module has lost its call {function}")))?;
            // SAFETY: as above.
            unsafe { (&mut (*context).thunks)[i] = Some(func) };
            func
        }
    };
    // SAFETY: the thunk is of this store; the slots are as many as its type wants, filled by native code by that type.
    unsafe { func.call_unchecked(caller, ptr::slice_from_raw_parts_mut(slots, count)) }
}

/// Jumps out of native code if that has touched what lies behind its memory.
extern "C" fn fault(signal: libc::c_int, info: *mut libc::siginfo_t, machine: *mut c_void) {
    let context = ACTIVE.get();
    // SAFETY: the context is that of the call which this thread is in; the kernel fills `info`.
    unsafe {
        if !context.is_null() && (*context).inside {
            let address = (*info).si_addr().addr();
            let within = |from: usize, len: usize| address.wrapping_sub(from) < len;
            // Of the stack: a frame that is larger than what was spared for it reaches the thread's guard page.
            let full = within((*context).stack_end.saturating_sub(4 << 20), 4 << 20);
            if full || within((*context).memory.addr(), RESERVED) {
                ((&(*context).native).leave)(context, if full { trap::STACK } else { trap::MEMORY } | NOWHERE << 8);
            }
        }
        let Some(before) = BEFORE.get().map(|b| if signal == libc::SIGBUS { &b.1 } else { &b.0 }) else { libc::abort() };
        match before.sa_sigaction {
            libc::SIG_DFL | libc::SIG_IGN => {
                // The same instruction faults again and ends the process.
                libc::sigaction(signal, before, ptr::null_mut());
            }
            handler if before.sa_flags & libc::SA_SIGINFO != 0 => {
                let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut c_void) = std::mem::transmute(handler);
                handler(signal, info, machine);
            }
            handler => {
                let handler: extern "C" fn(libc::c_int) = std::mem::transmute(handler);
                handler(signal);
            }
        }
    }
}

struct Before(libc::sigaction, libc::sigaction);
static BEFORE: OnceLock<Before> = OnceLock::new();

/// Sets our handler before the engine's, which has set its own when it was made.
fn handle_faults() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: the structures are plain numbers, for which zero is a value; `fault` has the signature that SA_SIGINFO wants. The old handlers are kept before
        // the new ones can run: a fault of native code needs this function to have returned first.
        unsafe {
            let mut old: [libc::sigaction; 2] = std::mem::zeroed();
            libc::sigaction(libc::SIGSEGV, ptr::null(), &mut old[0]);
            libc::sigaction(libc::SIGBUS, ptr::null(), &mut old[1]);
            let _ = BEFORE.set(Before(old[0], old[1]));
            let mut new: libc::sigaction = std::mem::zeroed();
            new.sa_sigaction = fault as *const () as usize;
            // No mask: the handler is left by a jump.
            new.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
            libc::sigaction(libc::SIGSEGV, &new, ptr::null_mut());
            libc::sigaction(libc::SIGBUS, &new, ptr::null_mut());
        }
    });
}
