//! The fast tier: a program's functions as native code that LLVM has made, ahead of time.
//!
//! Cranelift compiles in a fraction of a second and its code is 1.3 times as slow as a C compiler's; LLVM takes seconds and reaches it. So a module that will
//! run for long is compiled a second time, from the same bytes, safe points and all:
//!
//! ```text
//! module --translate, scalar, atomic, exceptions, simd--> LLVM IR --clang of the toolchain, in a process of its own--> library        compile
//!        --residual---------> module that keeps memory, globals, table and imports, whose functions go over to the library      bridge
//! ```
//!
//! Everything else of a cell is as before: the pool's memory, host functions, limits, and above all the snapshot, because stacks are unwound by the module's own
//! instructions into its own memory. A cell may stop in one tier and go on in the other.
//!
//! What is trusted: with Cranelift wasmtime's compiler, here LLVM, this translation and the guard pages, as `docs/design/fast-tier.md` says.
//!
//! What this doesn't do: programs without proven safe points, and modules with instructions that `translate` does not know, run in the engine's own code.

mod atomic;
mod bridge;
mod compile;
mod exceptions;
mod residual;
mod scalar;
mod simd;
#[cfg(test)]
mod tests;
mod translate;

pub(crate) use bridge::Bridge;
pub(crate) use translate::GUARD;

use crate::cache::Cache;
use crate::cell::Host;
use crate::engine::GivenUp;
use crate::error::{Error, Result};
use crate::toolchain::exceptions::TAGS_MAX;
use residual::{Own, Parts};
use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use translate::{Constant, Source};
use wasm_encoder::SectionId;
use wasmparser::{DataKind, ElementItems, ElementKind, ExternalKind, KnownCustom, Name, Operator, Parser, Payload, TypeRef, ValType};
use wasmtime::{FuncType, Linker, Module};

/// Module of the imports that stand for native functions.
const MODULE: &str = "cloudskin_native";
/// Exports of a residual module by which native code calls its imports, and a number; those after the last are [`residual::Own`]'s.
const OUT: &str = "__cloudskin_out";
/// Version of the translation: part of the names under which a library and its residual module are kept.
pub(crate) const VERSION: u32 = 4;

/// A loaded library.
pub(crate) struct Native {
    enter: bridge::Enter,
    leave: bridge::Leave,
    /// The native function of each stub.
    entries: Vec<*const c_void>,
    /// For each call out, how many slots its arguments and result take.
    slots: Vec<usize>,
    names: HashMap<u32, String>,
}

// SAFETY: the pointers are addresses of code and constants of a library that is never unloaded.
unsafe impl Send for Native {}
// SAFETY: as above; nothing is written.
unsafe impl Sync for Native {}

/// What a module becomes.
pub(crate) struct Split {
    /// Of the module that stays with the engine.
    pub residual: Vec<u8>,
    pub native: Arc<Native>,
}

/// Compiles a module that `inspect` has found movable, or takes it from the cache. `None`: it has something that has no translation.
///
/// # Errors
///
/// [`Error::Resources`] if there is no compiler here or it fails, [`Error::Killed`] if it was given up.
pub(crate) fn build(wasm: &[u8], sha256: &str, cache: Option<&Cache>, given_up: &GivenUp) -> Result<Option<Split>> {
    let unreadable = |e: wasmparser::BinaryReaderError| Error::Module(e.to_string());
    let mut parts = Parts::default();
    let Some(source) = read(wasm, &mut parts).map_err(unreadable)? else { return Ok(None) };
    let residual = residual::module(&parts);
    let library = compile::library(sha256, cache, || translate::module(&source), given_up)?;
    let Some(library) = library else { return Ok(None) };
    let stubs = parts.stubs();
    let native = open(&library.path, &source, &parts, &stubs)?;
    Ok(Some(Split { residual, native: Arc::new(native) }))
}

/// The part of [`build`] that reads what others have written: IR and the residual module. Gives the latter.
pub(crate) fn translated(wasm: &[u8]) -> Option<Vec<u8>> {
    let mut parts = Parts::default();
    let source = read(wasm, &mut parts).ok()??;
    translate::module(&source).ok()?;
    Some(residual::module(&parts))
}

/// Gives the imports of a residual module to its native code.
pub(crate) fn link(linker: &mut Linker<Host>, module: &Module, native: &Arc<Native>) -> wasmtime::Result<()> {
    for import in module.imports().filter(|i| i.module() == MODULE) {
        let Some(ty) = import.ty().func().cloned() else { continue };
        let entry: usize = import.name().parse()?;
        let native = native.clone();
        let ty = FuncType::new(module.engine(), ty.params(), ty.results());
        // SAFETY: the native function reads and writes the slots by the same type, which the residual module took from the original one.
        unsafe { linker.func_new_unchecked(MODULE, import.name(), ty, move |caller, slots| bridge::enter(&native, entry, caller, slots))? };
    }
    Ok(())
}

impl Native {
    fn name(&self, function: u32) -> String {
        self.names.get(&function).cloned().unwrap_or_else(|| "native code".to_string())
    }
}

/// Finds what a library exports. It stays loaded: cells may run in it until the process ends.
fn open(path: &Path, source: &Source<'_>, parts: &Parts<'_>, stubs: &[u32]) -> Result<Native> {
    let failed = || {
        // SAFETY: the text is that of the last failure on this thread, valid until the next call.
        let why = unsafe { libc::dlerror() };
        let why = if why.is_null() { "no reason given".into() } else { unsafe { std::ffi::CStr::from_ptr(why) }.to_string_lossy().into_owned() };
        Error::Resources(format!("native code {} can't be loaded: {why}", path.display()))
    };
    let name = CString::new(path.as_os_str().as_bytes()).map_err(|_| Error::Resources(format!("{} holds a zero byte", path.display())))?;
    // SAFETY: the file was written by `compile::library` and its checksum is right; it has no initialisers, and all that it takes from elsewhere are
    // `_setjmp`, `longjmp` and the copying functions of the C library.
    let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    if handle.is_null() {
        return Err(failed());
    }
    let symbol = |name: &std::ffi::CStr| {
        // SAFETY: a live handle and a name.
        let at = unsafe { libc::dlsym(handle, name.as_ptr()) };
        if at.is_null() { Err(failed()) } else { Ok(at) }
    };
    let (enter, leave, table) = (symbol(c"cloudskin_enter")?, symbol(c"cloudskin_trap")?, symbol(c"cloudskin_entries")?);
    let table = table.cast::<*const c_void>();
    // SAFETY: `translate` writes an entry for each function of the module's own, and `guests/native.c` has the two functions with these signatures.
    let (entries, enter, leave) = unsafe {
        let entry = |f: &u32| *table.add((*f - source.imported) as usize);
        (stubs.iter().map(entry).collect(), std::mem::transmute::<*mut c_void, bridge::Enter>(enter), std::mem::transmute::<*mut c_void, bridge::Leave>(leave))
    };
    let mut slots: Vec<usize> = parts.imports.iter().map(|(_, _, ty)| &parts.types[*ty as usize]).map(|t| t.params().len().max(t.results().len())).collect();
    slots.extend(Own::all(&parts.passive).map(Own::signature).map(|(params, results)| params.len().max(results.len())));
    Ok(Native { enter, leave, entries, slots, names: parts.names.iter().map(|(f, n)| (*f, n.to_string())).collect() })
}

/// Reads a module that has been validated. `None`: it is not made of what this tier knows.
fn read<'a>(wasm: &'a [u8], parts: &mut Parts<'a>) -> wasmparser::Result<Option<Source<'a>>> {
    let (mut bodies, mut globals, mut hints) = (Vec::new(), Vec::new(), HashMap::new());
    let mut table = Vec::new();
    let raw = |range: std::ops::Range<usize>| &wasm[range];
    for payload in Parser::new(0).parse_all(wasm) {
        match payload? {
            Payload::TypeSection(section) => {
                for ty in section.into_iter_err_on_gc_types() {
                    parts.types.push(ty?);
                }
            }
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    let import = import?;
                    match import.ty {
                        TypeRef::Func(ty) => parts.imports.push((import.module, import.name, ty)),
                        TypeRef::Memory(ty) if ty.shared && !ty.memory64 && ty.page_size_log2.is_none() => parts.shared = Some((import.module, import.name, ty)),
                        _ => return Ok(None),
                    }
                }
            }
            Payload::FunctionSection(section) => parts.functions = section.into_iter().collect::<Result<_, _>>()?,
            Payload::TableSection(section) => {
                parts.raw.push((SectionId::Table, raw(section.range())));
                for (i, t) in section.into_iter().enumerate() {
                    let t = t?;
                    if i > 0 || !matches!(t.init, wasmparser::TableInit::RefNull) || t.ty.table64 || t.ty.initial > 1 << 20 {
                        return Ok(None);
                    }
                    table = vec![None; t.ty.initial as usize];
                }
            }
            Payload::MemorySection(section) => {
                parts.raw.push((SectionId::Memory, raw(section.range())));
                for memory in section {
                    let memory = memory?;
                    if memory.memory64 || memory.shared || memory.page_size_log2.is_some() {
                        return Ok(None);
                    }
                }
            }
            Payload::GlobalSection(section) => {
                parts.raw.push((SectionId::Global, raw(section.range())));
                for global in section {
                    let global = global?;
                    let mut code = global.init_expr.get_operators_reader();
                    let value = match (global.ty.mutable, code.read()?, code.read()?) {
                        (true, _, _) => None,
                        (false, Operator::I32Const { value }, Operator::End) => Some(Constant::I32(value)),
                        (false, Operator::I64Const { value }, Operator::End) => Some(Constant::I64(value)),
                        _ => return Ok(None),
                    };
                    if matches!(global.ty.content_type, ValType::Ref(_)) {
                        return Ok(None);
                    }
                    globals.push((global.ty.content_type, value));
                    parts.globals.push(global.ty);
                }
                // The copies have room in what is left of the page with the flag words.
                if globals.len() > 1024 {
                    return Ok(None);
                }
            }
            Payload::ExportSection(section) => {
                for export in section {
                    let export = export?;
                    if export.name.starts_with(OUT) {
                        return Ok(None);
                    }
                    parts.exports.push((export.name, export.kind, export.index));
                }
            }
            Payload::TagSection(section) => {
                parts.raw.push((SectionId::Tag, raw(section.range())));
                for tag in section {
                    let ty = tag?.func_type_idx;
                    if !parts.types.get(ty as usize).is_some_and(|ty| ty.params() == [ValType::I32] && ty.results().is_empty()) {
                        return Ok(None);
                    }
                    parts.tags += 1;
                }
                // A handler is looked for among all of them.
                if parts.tags as usize > TAGS_MAX {
                    return Ok(None);
                }
            }
            Payload::StartSection { .. } => return Ok(None),
            Payload::ElementSection(section) => {
                for element in section {
                    let element = element?;
                    let (ElementKind::Active { table_index: None | Some(0), offset_expr }, ElementItems::Functions(items)) = (element.kind, element.items) else {
                        return Ok(None);
                    };
                    let mut code = offset_expr.get_operators_reader();
                    let (Operator::I32Const { value: offset }, Operator::End) = (code.read()?, code.read()?) else { return Ok(None) };
                    let items: Vec<u32> = items.into_iter().collect::<Result<_, _>>()?;
                    for (i, f) in items.iter().enumerate() {
                        let Some(entry) = table.get_mut(offset as u32 as usize + i) else { return Ok(None) };
                        *entry = Some(*f);
                    }
                    parts.elements.push((offset, items));
                }
            }
            Payload::DataCountSection { range, .. } => parts.raw.push((SectionId::DataCount, raw(range))),
            Payload::DataSection(section) => {
                parts.raw.push((SectionId::Data, raw(section.range())));
                for (i, segment) in (0..).zip(section) {
                    if matches!(segment?.kind, DataKind::Passive) {
                        parts.passive.push(i);
                    }
                }
            }
            Payload::CodeSectionEntry(body) => bodies.push(body),
            Payload::CustomSection(section) => match section.as_known() {
                KnownCustom::Name(reader) => {
                    // A broken name section only costs the names.
                    for subsection in reader.into_iter().map_while(Result::ok) {
                        if let Name::Function(map) = subsection {
                            parts.names.extend(map.into_iter().map_while(Result::ok).map(|n| (n.index, n.name)));
                        }
                    }
                }
                KnownCustom::BranchHints(reader) => {
                    for function in reader.into_iter().map_while(Result::ok) {
                        let of = function.hints.into_iter().map_while(Result::ok).map(|h| (h.func_offset, h.taken)).collect();
                        hints.insert(function.func, of);
                    }
                }
                _ => {}
            },
            _ => {}
        }
    }
    // The copies of the globals have their place behind the flag words.
    if !parts.exports.iter().any(|(name, kind, index)| *name == crate::toolchain::FLAGS && *kind == ExternalKind::Memory && *index == 1) {
        return Ok(None);
    }
    // The system's calls and those for threads run nothing of the program's; MPI's do.
    let calls_back = parts.imports.iter().map(|(module, ..)| ![crate::wasi::MODULE, crate::threads::MODULE].contains(module)).collect();
    let processors = parts.imports.iter().position(|(module, name, _)| (*module, *name) == (crate::threads::MODULE, "processors")).map(|at| at as u32);
    let functions: Vec<u32> = parts.imports.iter().map(|(_, _, ty)| *ty).chain(parts.functions.iter().copied()).collect();
    parts.names.sort_by_key(|(f, _)| *f);
    parts.names.dedup_by_key(|(f, _)| *f);
    parts.names.retain(|(f, _)| (*f as usize) < functions.len());
    Ok(Some(Source { types: parts.types.clone(), imported: parts.imports.len() as u32, functions, bodies, globals, shared: parts.shared.is_some(), passive: parts.passive.clone(), tags: parts.tags, processors, calls_back, table, hints }))
}
