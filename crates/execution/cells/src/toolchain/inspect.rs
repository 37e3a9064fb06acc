//! Reads a module that somebody submits: is it a WebAssembly module at all, is it well-formed, does it ask only for what
//! the agent has, can its ranks be moved.
//!
//! The bytes are foreign: the size limit comes first, everything after it works on validated bytes. What the module claims about
//! itself (the custom section) is believed only as far as its globals, exports, memory and code say the same. Nothing is run.

use super::outline::Outline;
use wasmparser::ExternalKind;
use super::{END, FLAGS, FORMAT, GLOBAL_PREFIX, Mark, STATE, TABLE, TOP, UNWIND, verify};

/// Module and name of the memory that a program with threads takes from its cell.
pub const SHARED: (&str, &str) = ("env", "memory");
/// Values that a function may give. A compiler for C gives one.
const RESULTS_MAX: usize = 16;
/// Bytes in a page of linear memory.
const PAGE_BYTES: u64 = 64 << 10;
/// The custom section holds a few numbers; more than this isn't ours.
const MARK_BYTES_MAX: usize = 64 << 10;

/// The texts of all code that decides what [`inspect`] says: an answer that was kept is one of just this code.
pub(crate) const SOURCES: [&str; 6] =
    [include_str!("inspect.rs"), include_str!("outline.rs"), include_str!("verify.rs"), include_str!("bounded.rs"), include_str!("flags.rs"), include_str!("mod.rs")];

/// Why a module is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the module has {bytes} bytes, at most {max} are taken")]
    TooLarge { bytes: usize, max: usize },
    #[error("not a WebAssembly module: {0}; compile with `cloudskin cc`")]
    NotWasm(String),
    #[error("malformed module: {0}")]
    Invalid(String),
    #[error("the module exports no function `_start` without parameters: it is not a program")]
    NoStart,
    #[error("the module doesn't export its one memory as `memory`")]
    NoMemory,
    #[error("the module shares memory between threads, but {0}; link it with `cloudskin cc -pthread`")]
    Shared(String),
    #[error("the module has {0} memories, at most 2 are taken")]
    Memories(usize),
    #[error("the module needs what agents don't have: {}", .0.join(", "))]
    MissingImports(Vec<String>),
    #[error("the module was made for format {found}, this agent takes format {FORMAT}: compile it again with this version's `cloudskin cc`")]
    Format { found: u32 },
}

/// A thing that the module takes from outside.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Import {
    pub module: String,
    pub name: String,
    /// `function`, `memory`, `table`, `global` or `tag`.
    pub kind: &'static str,
}

/// What a module is.
#[derive(Clone, Debug)]
pub struct Report {
    pub bytes: usize,
    /// Why its ranks can't be moved; empty when they can.
    pub fixed_because: Vec<String>,
    /// Sorted by module and name.
    pub imports: Vec<Import>,
    pub exports: Vec<String>,
    /// Linear memory at the start, in bytes.
    pub memory_min_bytes: u64,
    /// The most that the module itself allows, in bytes.
    pub memory_max_bytes: Option<u64>,
    /// It throws or catches exceptions, or calls `longjmp`, which is built on them.
    pub exceptions: bool,
    /// Of a program with threads: the pages that its memory begins with, and the most that it can use.
    pub shared_pages: Option<(u64, u64)>,
    /// The custom section, when it agrees with the module.
    pub mark: Option<Mark>,
}

impl Report {
    /// Whether a running rank of this module can be moved.
    pub fn movable(&self) -> bool {
        self.fixed_because.is_empty()
    }

    /// Places where the module polls the stop flag.
    pub fn safe_points(&self) -> u32 {
        self.mark.as_ref().map_or(0, |m| m.polls)
    }
}

/// Inspects and refuses: larger than `max_bytes`, not a valid program, or with an import (module, name) that isn't known.
pub fn check(wasm: &[u8], max_bytes: usize, known_import: &dyn Fn(&str, &str) -> bool) -> Result<Report, Refusal> {
    if wasm.len() > max_bytes {
        return Err(Refusal::TooLarge { bytes: wasm.len(), max: max_bytes });
    }
    let report = inspect(wasm)?;
    let missing: Vec<String> = report
        .imports
        .iter()
        .filter(|i| match i.kind {
            "function" => !known_import(&i.module, &i.name),
            "memory" => report.shared_pages.is_none() || (i.module.as_str(), i.name.as_str()) != SHARED,
            _ => true,
        })
        .map(|i| format!("{} {}.{}", i.kind, i.module, i.name))
        .collect();
    if missing.is_empty() { Ok(report) } else { Err(Refusal::MissingImports(missing)) }
}

/// Reads a module; an `Err` is a module that no agent could run.
pub fn inspect(wasm: &[u8]) -> Result<Report, Refusal> {
    magic(wasm)?;
    few_results(wasm)?;
    wasmparser::Validator::new_with_features(super::features())
        .validate_all(wasm)
        .map_err(|e| Refusal::Invalid(e.to_string()))?;
    let outline = Outline::read(wasm).map_err(|e| Refusal::Invalid(e.to_string()))?;
    let start = outline.function_type("_start").ok_or(Refusal::NoStart)?;
    if !start.params().is_empty() || !start.results().is_empty() {
        return Err(Refusal::NoStart);
    }
    let memory = match outline.memories.first() {
        Some(memory) if outline.exports.iter().any(|(n, k, i)| n == "memory" && *k == wasmparser::ExternalKind::Memory && *i == 0) => memory,
        _ => return Err(Refusal::NoMemory),
    };
    let shared_pages = match outline.memories.iter().any(|m| m.shared) {
        true => Some(threads(&outline).map_err(|why| Refusal::Shared(why.into()))?),
        false => None,
    };
    if outline.memories.len() > 2 {
        return Err(Refusal::Memories(outline.memories.len()));
    }
    let memory_min_bytes = memory.initial.saturating_mul(PAGE_BYTES);
    let mut fixed_because = outline.reasons.clone();
    let mark = read_mark(wasm, &outline, memory_min_bytes, &mut fixed_because)?;
    let mut imports: Vec<Import> = outline
        .imports
        .iter()
        .map(|(module, name, kind)| Import { module: module.clone(), name: name.clone(), kind })
        .collect();
    imports.sort();
    imports.dedup();
    Ok(Report {
        bytes: wasm.len(),
        fixed_because,
        imports,
        exports: outline.exports.iter().map(|(name, ..)| name.clone()).collect(),
        memory_min_bytes,
        memory_max_bytes: memory.maximum.map(|pages| pages.saturating_mul(PAGE_BYTES)),
        exceptions: outline.exceptions,
        shared_pages,
        mark,
    })
}

/// The pages of a program with threads at the beginning and at most. It must have what the agent needs to start a thread, and no way to sleep of which
/// the agent doesn't know.
fn threads(outline: &Outline) -> Result<(u64, u64), &'static str> {
    let exported = |name: &str, kind: ExternalKind| outline.exports.iter().find(|(n, k, _)| n == name && *k == kind).map(|e| e.2);
    let takes_i32 = |ty: &wasmparser::FuncType| ty.params() == [wasmparser::ValType::I32] && ty.results().is_empty();
    let imported = outline.imports.iter().filter(|(module, name, kind)| *kind == "memory" && (module.as_str(), name.as_str()) == SHARED).count();
    let memory = match outline.memories[..] {
        [memory] if memory.shared && !memory.memory64 && imported == 1 => memory,
        // For its flag words: what `read_mark` says. Memory of no cell's would have no limit.
        [memory, flags] if memory.shared && !flags.shared && !memory.memory64 && imported == 1 => memory,
        _ => return Err("doesn't import its one memory as env.memory"),
    };
    if memory.page_size_log2.is_some() {
        return Err("its memory has pages of another size");
    }
    if !outline.function_type("__cloudskin_thread").is_some_and(takes_i32) {
        return Err("it exports no function __cloudskin_thread");
    }
    let pointer = exported("__stack_pointer", ExternalKind::Global);
    if !pointer.is_some_and(|index| outline.is_i32(index) && outline.mutable_globals().any(|g| g == index)) {
        return Err("it doesn't export its global __stack_pointer");
    }
    if outline.acts_alone {
        return Err("it waits, wakes or grows its memory without asking the agent");
    }
    Ok((memory.initial, memory.maximum.unwrap_or(1 << 16)))
}

/// Refuses functions that give so many values that a small module would need a large checker: each call puts them on its stack.
fn few_results(wasm: &[u8]) -> Result<(), Refusal> {
    let broken = |e: wasmparser::BinaryReaderError| Refusal::Invalid(e.to_string());
    for payload in wasmparser::Parser::new(0).parse_all(wasm) {
        match payload.map_err(broken)? {
            wasmparser::Payload::TypeSection(section) => {
                for ty in section.into_iter_err_on_gc_types() {
                    let results = ty.map_err(broken)?.results().len();
                    if results > RESULTS_MAX {
                        return Err(Refusal::Invalid(format!("a function gives {results} values, at most {RESULTS_MAX} are taken")));
                    }
                }
            }
            wasmparser::Payload::CodeSectionStart { .. } => break,
            _ => {}
        }
    }
    Ok(())
}

/// The first eight bytes: magic number, version 1, layer "core module".
fn magic(wasm: &[u8]) -> Result<(), Refusal> {
    let not = |what: &str| Err(Refusal::NotWasm(what.to_string()));
    match wasm {
        [] => not("the file is empty"),
        [0, b'a', b's', b'm', 1, 0, 0, 0, ..] => Ok(()),
        [0, b'a', b's', b'm', _, _, 1, 0, ..] => not("it is a component; agents run core modules"),
        [0, b'a', b's', b'm', rest @ ..] => Err(Refusal::NotWasm(format!("its version field is {:02x?}", &rest[..rest.len().min(4)]))),
        [0x7f, b'E', b'L', b'F', ..] => not("it is an ELF file, made by the machine's own compiler"),
        [b'#', b'!', ..] => not("it is a script"),
        [b'!', b'<', b'a', b'r', b'c', b'h', b'>', ..] => not("it is an archive of object files"),
        [b'(', b'm', b'o', b'd', b'u', b'l', b'e', ..] => not("it is WebAssembly text, the binary form is needed"),
        other => Err(Refusal::NotWasm(format!("it starts with the bytes {:02x?}", &other[..other.len().min(8)]))),
    }
}

/// The custom section, compared with what the module really has. What doesn't fit goes to `reasons`.
fn read_mark(wasm: &[u8], outline: &Outline, memory_bytes: u64, reasons: &mut Vec<String>) -> Result<Option<Mark>, Refusal> {
    let Some(data) = outline.mark.as_ref() else {
        reasons.push("it was not made by `cloudskin cc`: it has no safe points".into());
        return Ok(None);
    };
    #[derive(serde::Deserialize)]
    struct Version {
        version: u32,
    }
    let unreadable = |e: serde_json::Error| Refusal::Invalid(format!("custom section `cloudskin`: {e}"));
    if data.len() > MARK_BYTES_MAX {
        return Err(Refusal::Invalid(format!("custom section `cloudskin` has {} bytes", data.len())));
    }
    let Version { version } = serde_json::from_slice(data).map_err(unreadable)?;
    if version != FORMAT {
        return Err(Refusal::Format { found: version });
    }
    let mark: Mark = serde_json::from_slice(data).map_err(unreadable)?;
    let mut wrong = Vec::new();
    let exported = |name: &str, kind| outline.exports.iter().find(|(n, k, _)| n == name && *k == kind).map(|e| e.2);
    let one_page = |m: &wasmparser::MemoryType| (m.initial, m.maximum, m.page_size_log2) == (1, Some(1), None);
    if exported(FLAGS, wasmparser::ExternalKind::Memory) != Some(1) || outline.memories.len() != 2 || !one_page(&outline.memories[1]) {
        wrong.push(format!("it doesn't export a second memory of one page as {FLAGS}"));
    }
    if outline.address_of(UNWIND) != Some(mark.unwind) {
        wrong.push(format!("its global {UNWIND} and its mark differ"));
    } else if u64::from(mark.unwind) + u64::from(mark.unwind_bytes) > memory_bytes || mark.unwind % 16 != 0 {
        wrong.push(format!("{UNWIND} at {} with {} bytes doesn't lie in its memory", mark.unwind, mark.unwind_bytes));
    }
    if mark.unwind_bytes < 1024 {
        wrong.push(format!("its unwind area has only {} bytes", mark.unwind_bytes));
    }
    let mutable: std::collections::HashSet<u32> = outline.mutable_globals().collect();
    let of_points = if outline.is_shared() { &[STATE, TOP, END][..] } else { &[STATE, TOP] };
    for name in of_points {
        let global = exported(name, wasmparser::ExternalKind::Global);
        if !global.is_some_and(|index| mutable.contains(&index) && outline.is_i32(index)) {
            wrong.push(format!("it doesn't export its global {name}"));
        }
    }
    let saved: std::collections::HashSet<u32> = (0..mark.globals.min(mutable.len() as u32))
        .filter_map(|n| exported(&format!("{GLOBAL_PREFIX}{n}"), wasmparser::ExternalKind::Global))
        .filter(|index| mutable.contains(index))
        .collect();
    if saved.len() != mark.globals as usize || mutable.len() != saved.len() + of_points.len() {
        wrong.push(format!("{} of its {} mutable globals are exported, {} were marked", saved.len(), mutable.len(), mark.globals));
    }
    if outline.tables > 0 && exported(TABLE, wasmparser::ExternalKind::Table).is_none() {
        wrong.push(format!("it doesn't export its table as {TABLE}"));
    }
    if wrong.is_empty()
        && let Err(reason) = verify::can_be_ended(wasm, outline)
    {
        wrong.push(reason);
    }
    if !wrong.is_empty() {
        reasons.append(&mut wrong);
        return Ok(None);
    }
    Ok(Some(mark))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 1 << 20;

    fn check_text(text: &str) -> Result<Report, Refusal> {
        check(&wat::parse_str(text).unwrap(), MAX, &|module, _| module == "known")
    }

    fn refused(bytes: &[u8], expected: &str) {
        let message = check(bytes, MAX, &|_, _| true).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }

    #[test]
    fn what_is_no_module_is_named() {
        refused(b"", "empty");
        refused(b"\x7fELF\x02\x01\x01", "ELF");
        refused(b"\0asm\x0d\0\x01\0", "component");
        refused(b"\0asm\x02\0\0\0", "version");
        refused(b"\0as", "00, 61, 73");
        refused(b"#!/bin/sh\n", "script");
        refused(&vec![0; MAX + 1], "at most");
    }

    #[test]
    fn every_truncation_is_refused() {
        let wasm = wat::parse_str(r#"(module (memory (export "memory") 1) (func (export "_start") (loop nop)))"#).unwrap();
        for end in 0..wasm.len() {
            // A cut at a section's border is a smaller valid module, but not this program.
            assert!(check(&wasm[..end], MAX, &|_, _| true).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn a_plain_program_runs_but_stays() {
        let report = check_text(r#"(module (import "known" "f" (func)) (memory (export "memory") 2 9) (func (export "_start")))"#).unwrap();
        assert!(!report.movable());
        assert_eq!((report.memory_min_bytes, report.memory_max_bytes), (128 << 10, Some(576 << 10)));
        assert_eq!(report.imports.len(), 1);
    }

    #[test]
    fn what_an_agent_lacks_is_listed() {
        let text = r#"(module (import "x" "b" (func)) (import "x" "a" (func)) (memory (export "memory") 1) (func (export "_start")))"#;
        assert_eq!(
            check_text(text).unwrap_err(),
            Refusal::MissingImports(vec!["function x.a".into(), "function x.b".into()])
        );
        let text = r#"(module (import "known" "m" (memory 1)) (export "memory" (memory 0)) (func (export "_start")))"#;
        assert_eq!(check_text(text).unwrap_err(), Refusal::MissingImports(vec!["memory known.m".into()]));
    }

    #[test]
    fn programs_have_a_start_and_a_memory() {
        assert_eq!(check_text(r#"(module (memory (export "memory") 1))"#).unwrap_err(), Refusal::NoStart);
        assert_eq!(
            check_text(r#"(module (memory (export "memory") 1) (func (export "_start") (param i32)))"#).unwrap_err(),
            Refusal::NoStart
        );
        assert_eq!(check_text(r#"(module (memory 1) (func (export "_start")))"#).unwrap_err(), Refusal::NoMemory);
        let more = |more: &str| check_text(&format!(r#"(module (memory (export "memory") 1) {more} (func (export "_start")))"#)).unwrap_err();
        assert_eq!(more("(memory 1) (memory 1)"), Refusal::Memories(3));
        assert!(matches!(more("(memory 1 1 shared)"), Refusal::Shared(_)));
    }

    #[test]
    fn programs_with_threads_have_what_the_agent_needs() {
        let program = |body: &str, pointer: &str| {
            check_text(&format!(
                r#"(module (import "env" "memory" (memory 1 9 shared)) (export "memory" (memory 0)) (func (export "_start"))
                    (global (export "{pointer}") (mut i32) (i32.const 0)) (func (export "__cloudskin_thread") (param i32) {body}))"#
            ))
        };
        let report = program("", "__stack_pointer").unwrap();
        assert_eq!((report.shared_pages, report.movable()), (Some((1, 9)), false));
        assert!(report.fixed_because[0].contains("no safe points"), "{:?}", report.fixed_because);
        let report = program(") (data (i32.const 8) \"abc\"", "__stack_pointer").unwrap();
        assert!(report.fixed_because[0].contains("each of which would write its data again"), "{:?}", report.fixed_because);
        let refused = |body: &str, pointer: &str, why: &str| {
            let error = program(body, pointer).unwrap_err().to_string();
            assert!(error.contains(why) && error.contains("-pthread"), "{error}");
        };
        refused("", "pointer", "__stack_pointer");
        refused("(drop (memory.atomic.wait32 (i32.const 0) (i32.const 0) (i64.const -1)))", "__stack_pointer", "without asking");
        refused("(drop (memory.grow (i32.const 1)))", "__stack_pointer", "without asking");
    }

    fn marked(json: &str) -> Result<Report, Refusal> {
        let json = json.replace('"', "\\\"");
        check_text(&format!(
            r#"(module (memory (export "memory") 1) (func (export "_start"))
                (memory (export "__cloudskin_flags") 1 1)
                (global (export "__cloudskin_unwind") i32 (i32.const 128))
                (@custom "cloudskin" "{json}"))"#
        ))
    }

    #[test]
    fn a_mark_is_not_believed() {
        assert_eq!(marked(r#"{"version":7}"#).unwrap_err(), Refusal::Format { found: 7 });
        assert!(matches!(marked("{").unwrap_err(), Refusal::Invalid(_)));
        let report = marked(r#"{"version":3,"unwind":4000000000,"unwind_bytes":4294967295,"polls":1,"die_checks":0,"globals":4294967295,"toolchain":""}"#).unwrap();
        assert!(!report.movable() && report.mark.is_none());
        let all = report.fixed_because.join("; ");
        assert!(all.contains("__cloudskin_unwind and its mark differ") && all.contains("it doesn't export its global __cloudskin_state"), "{all}");
    }
}
