//! What is done to a linked program with threads: what it waits, wakes and grows its memory by becomes a call of the host, and what it calls of the C library,
//! which knows of one thread only, becomes a call of `guests/threads.c`, where that has a lock around it. What would run in each new instance, to fill the memory
//! once, runs at the beginning of `_start` instead: an instance that is made for a thread, or for a cell that goes on here, is only made.
//!
//! `memory.atomic.wait32` would sleep in the engine, where no kill reaches it, and `memory.grow` of a shared memory is asked of no limit. The linker itself
//! writes such instructions, and the C library's allocator. The host's functions take the operands that the instruction takes, and its offset.

use super::Error;
use super::compiler::LOCKED;
use super::instrument::is_dropped;
use super::lines::{Trail, Trails};
use crate::threads::MODULE;
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use wasm_encoder::{CodeSection, ConstExpr, CustomSection, ElementSection, Elements, ExportKind, ExportSection, InstructionSink, RawSection};
use wasmparser::{ElementItems, ElementKind, ElementSectionReader, ExportSectionReader, ExternalKind, FunctionBody, Operator, Parser, Payload, TypeRef};

/// Prefix of the exports that have a lock around what follows it.
const LOCK: &str = "__cloudskin_locked_";

/// Indices of the imported functions.
#[derive(Default)]
struct Calls {
    wait32: Option<u32>,
    wait64: Option<u32>,
    notify: Option<u32>,
    grow: Option<u32>,
}

/// Functions of the C library, and those with a lock around them.
#[derive(Default)]
struct Locks {
    of: HashMap<u32, u32>,
    with: HashSet<u32>,
}

impl Locks {
    /// Reads the exports, and gives those that remain: the linker was made to export these functions only so that they are found here.
    fn read(section: ExportSectionReader<'_>) -> Result<(Locks, ExportSection), Error> {
        let (mut plain, mut locked, mut out) = (HashMap::new(), HashMap::new(), ExportSection::new());
        for export in section {
            let export = export?;
            if export.kind == ExternalKind::Func && LOCKED.contains(&export.name) {
                plain.insert(export.name, export.index);
            } else if let Some(name) = export.name.strip_prefix(LOCK) {
                locked.insert(name, export.index);
            } else {
                let kind = match export.kind {
                    ExternalKind::Func | ExternalKind::FuncExact => ExportKind::Func,
                    ExternalKind::Table => ExportKind::Table,
                    ExternalKind::Memory => ExportKind::Memory,
                    ExternalKind::Global => ExportKind::Global,
                    ExternalKind::Tag => ExportKind::Tag,
                };
                out.export(export.name, kind, export.index);
            }
        }
        let with = locked.values().copied().collect();
        let of = plain.into_iter().filter_map(|(name, index)| Some((index, *locked.get(name)?))).collect();
        Ok((Locks { of, with }, out))
    }

    /// The table's functions: a program may hand out `free` as a pointer.
    fn table(&self, section: ElementSectionReader<'_>) -> Result<Option<ElementSection>, Error> {
        let mut out = ElementSection::new();
        for element in section {
            let element = element?;
            let (ElementKind::Active { table_index: None | Some(0), offset_expr }, ElementItems::Functions(items)) = (element.kind, element.items) else {
                return Ok(None);
            };
            let mut code = offset_expr.get_operators_reader();
            let (Operator::I32Const { value }, Operator::End) = (code.read()?, code.read()?) else { return Ok(None) };
            let items = items.into_iter().map(|f| f.map(|f| *self.of.get(&f).unwrap_or(&f))).collect::<Result<Vec<u32>, _>>()?;
            out.active(None, &ConstExpr::i32_const(value), Elements::Functions(items.into()));
        }
        Ok(Some(out))
    }
}

/// Rewrites `wasm`, as linked with `guests/threads.c`.
pub(super) fn rewrite(wasm: &[u8], trails: &mut Trails) -> Result<Vec<u8>, Error> {
    let mut out = wasm_encoder::Module::new();
    let (mut calls, mut locks, mut code) = (Calls::default(), Locks::default(), CodeSection::new());
    let begin = begin(wasm)?;
    // Imported functions, those of its own, and those that are to come.
    let (mut imported, mut count_of_own, mut functions) = (0, 0, 0);
    for payload in Parser::new(0).parse_all(wasm) {
        let payload = payload?;
        let section = payload.as_section();
        match payload {
            Payload::ImportSection(imports) => {
                let mut index = 0;
                for import in imports.into_imports() {
                    let import = import?;
                    if !matches!(import.ty, TypeRef::Func(_) | TypeRef::FuncExact(_)) {
                        continue;
                    }
                    let here = Some(index);
                    index += 1;
                    imported = index;
                    if import.module == MODULE {
                        match import.name {
                            "wait32" => calls.wait32 = here,
                            "wait64" => calls.wait64 = here,
                            "notify" => calls.notify = here,
                            "grow" => calls.grow = here,
                            _ => {}
                        }
                    }
                }
            }
            Payload::ExportSection(exports) => {
                let (read, remain) = Locks::read(exports)?;
                locks = read;
                out.section(&remain);
                continue;
            }
            Payload::ElementSection(elements) => {
                if let Some(made) = locks.table(elements)? {
                    out.section(&made);
                    continue;
                }
            }
            Payload::CodeSectionStart { count, .. } => {
                (functions, count_of_own) = (count, count);
                if count == 0 {
                    out.section(&code);
                }
                continue;
            }
            Payload::CodeSectionEntry(body) => {
                let number = imported + count_of_own - functions;
                let none = HashMap::new();
                let first = begin.and_then(|(start, fills)| (number == start).then_some(fills));
                let (bytes, trail) = function(wasm, &body, &calls, if locks.with.contains(&number) { &none } else { &locks.of }, first)?;
                code.raw(&bytes);
                trails.put(number, body.range().start, trail);
                functions -= 1;
                if functions == 0 {
                    out.section(&code);
                }
                continue;
            }
            Payload::StartSection { .. } if begin.is_some() => continue,
            Payload::CustomSection(custom) => {
                if !is_dropped(custom.name()) {
                    out.section(&CustomSection { name: custom.name().into(), data: custom.data().into() });
                }
                continue;
            }
            _ => {}
        }
        if let Some((id, range)) = section {
            out.section(&RawSection { id, data: &wasm[range] });
        }
    }
    Ok(out.finish())
}

/// The function `_start`, and what runs in each new instance.
fn begin(wasm: &[u8]) -> Result<Option<(u32, u32)>, Error> {
    let (mut start, mut fills) = (None, None);
    for payload in Parser::new(0).parse_all(wasm) {
        match payload? {
            Payload::ExportSection(exports) => {
                for export in exports {
                    let export = export?;
                    if export.kind == ExternalKind::Func && export.name == "_start" {
                        start = Some(export.index);
                    }
                }
            }
            Payload::StartSection { func, .. } => fills = Some(func),
            Payload::CodeSectionStart { .. } => break,
            _ => {}
        }
    }
    Ok(start.zip(fills))
}

/// `locks`: what is called instead; `first`: what is called before anything else.
fn function(wasm: &[u8], body: &FunctionBody<'_>, calls: &Calls, locks: &HashMap<u32, u32>, first: Option<u32>) -> Result<(Vec<u8>, Trail), Error> {
    let missing = || Error::Malformed("it is not linked with the threads' runtime".into());
    let (mut out, mut trail, mut copied) = (Vec::with_capacity(body.range().len()), Trail::default(), body.range().start);
    let mut operators = body.get_operators_reader()?;
    let copy = |out: &mut Vec<u8>, trail: &mut Trail, range: Range<usize>| {
        trail.copied(out.len(), range.clone());
        out.extend_from_slice(&wasm[range]);
    };
    if let Some(first) = first {
        copy(&mut out, &mut trail, copied..operators.original_position());
        copied = operators.original_position();
        InstructionSink::new(&mut out).call(first);
    }
    while !operators.eof() {
        let at = operators.original_position();
        let (callee, offset) = match operators.read()? {
            Operator::MemoryAtomicWait32 { memarg } => (calls.wait32, Some(memarg.offset)),
            Operator::MemoryAtomicWait64 { memarg } => (calls.wait64, Some(memarg.offset)),
            Operator::MemoryAtomicNotify { memarg } => (calls.notify, Some(memarg.offset)),
            Operator::MemoryGrow { .. } => (calls.grow, None),
            Operator::Call { function_index } if locks.contains_key(&function_index) => (locks.get(&function_index).copied(), None),
            _ => continue,
        };
        copy(&mut out, &mut trail, copied..at);
        copied = operators.original_position();
        trail.copied(out.len(), at..copied);
        let mut sink = InstructionSink::new(&mut out);
        if let Some(offset) = offset {
            sink.i32_const(offset as u32 as i32);
        }
        sink.call(callee.ok_or_else(missing)?);
    }
    copy(&mut out, &mut trail, copied..body.range().end);
    Ok((out, trail))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::toolchain::outline::Outline;

    #[test]
    fn the_host_is_asked_instead() {
        let wasm = wat::parse_str(
            r#"(module
                (import "cloudskin_thread" "grow" (func $grow (param i32) (result i32)))
                (import "cloudskin_thread" "wait32" (func $wait32 (param i32 i32 i64 i32) (result i32)))
                (import "cloudskin_thread" "notify" (func $notify (param i32 i32 i32) (result i32)))
                (import "cloudskin_thread" "wait64" (func $wait64 (param i32 i64 i64 i32) (result i32)))
                (import "env" "memory" (memory 1 1 shared))
                (func (result i32)
                    (i32.add (memory.grow (i32.const 3)) (memory.atomic.wait32 offset=80 (i32.const 8) (i32.const 1) (i64.const -1))))
                (func (result i32)
                    (i32.add (memory.atomic.notify (i32.const 8) (i32.const 1)) (memory.atomic.wait64 (i32.const 8) (i64.const 1) (i64.const -1)))))"#,
        )
        .unwrap();
        assert!(Outline::read(&wasm).unwrap().acts_alone);
        let made = rewrite(&wasm, &mut Trails::default()).unwrap();
        wasmparser::Validator::new_with_features(crate::toolchain::features()).validate_all(&made).unwrap();
        let outline = Outline::read(&made).unwrap();
        assert!(!outline.acts_alone);
        let called: Vec<Vec<u32>> = outline.functions.iter().map(|f| f.calls.iter().map(|c| c.0).collect()).collect();
        assert_eq!(called, [[0, 1], [2, 3]]);
    }

    #[test]
    fn memory_is_filled_when_the_program_begins() {
        let wasm = wat::parse_str(
            r#"(module (import "cloudskin_thread" "grow" (func (param i32) (result i32))) (func $fills) (func (export "_start") (local i32 i64) (call $main)) (func $main) (start $fills))"#,
        )
        .unwrap();
        let made = rewrite(&wasm, &mut Trails::default()).unwrap();
        wasmparser::Validator::new_with_features(crate::toolchain::features()).validate_all(&made).unwrap();
        let outline = Outline::read(&made).unwrap();
        assert_eq!((outline.has_start, outline.functions[1].calls.iter().map(|c| c.0).collect::<Vec<_>>()), (false, vec![1, 3]));
    }

    #[test]
    fn the_c_library_is_called_behind_its_lock() {
        let wasm = wat::parse_str(
            r#"(module (table 2 funcref) (elem (i32.const 0) $free $user)
                (func $malloc (export "malloc") (param i32) (result i32) (local.get 0))
                (func $free (export "free") (param i32))
                (func $locked_malloc (export "__cloudskin_locked_malloc") (param i32) (result i32) (call $malloc (local.get 0)))
                (func $locked_free (export "__cloudskin_locked_free") (param i32) (call $free (local.get 0)))
                (func $user (export "_start") (call $free (call $malloc (i32.const 5)))))"#,
        )
        .unwrap();
        let made = rewrite(&wasm, &mut Trails::default()).unwrap();
        wasmparser::Validator::new_with_features(crate::toolchain::features()).validate_all(&made).unwrap();
        let outline = Outline::read(&made).unwrap();
        let called: Vec<Vec<u32>> = outline.functions.iter().map(|f| f.calls.iter().map(|c| c.0).collect()).collect();
        assert_eq!(called, [vec![], vec![], vec![0], vec![1], vec![2, 3]]);
        assert_eq!(outline.elements, [3, 4]);
        assert_eq!(outline.exports.len(), 1, "{:?}", outline.exports);
    }
}
