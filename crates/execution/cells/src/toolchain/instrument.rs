//! Puts safe points into a linked module; `docs/design/safe-points.md` says how and why so.
//!
//! A cell can be stopped where its stack can be unwound: in a blocking host call, or at a poll that this pass adds at loop headers and at the entry of
//! recursive functions. A poll is a load and a branch that is not taken until the agent sets the stop word; then the function stores what it
//! needs, and returns. All of it happens after LLVM is done.
//!
//! ```text
//! Outline::read   imports, exports, types, who calls whom, where loops are
//! Calls           which functions can unwind: those that can reach a safe point
//! body, live, emit   one such function anew; the others are copied
//! assemble        two or three more globals, exports of all state, branch hints, the mark
//! ```
//!
//! Of a program with threads each has an instance, so the globals are each thread's own, and the third of them says where its unwind area ends.
//!
//! Nothing is renumbered: names, function pointers and types stay as the linker made them. Debug sections (DWARF) hold code offsets that would be wrong and are dropped; the lines have been
//! read from them before, and go along (`lines`).
//!
//! Loops in short functions of the C library (`outline::QUIET`) look only whether they are to die, so that their callers stay as they are. Recursion through
//! function pointers alone has no poll; such a cycle nearly always contains a loop or a host call.

mod body;
mod emit;
mod live;
#[cfg(test)]
#[path = "instrument/tests.rs"]
mod differential;

use std::collections::{HashMap, HashSet};

use wasm_encoder::{CodeSection, CustomSection, Encode, ExportKind, ExportSection, RawSection, SectionId, ValType as Value};
use wasmparser::{BlockType, ExternalKind, FuncType, Parser, Payload, ValType, ValidPayload};

use super::blocking::can_block;
use super::lines::{Lines, Trail, Trails};
use super::outline::{Function, Outline, UNLOOKED_MAX};
use super::{END, Error, FLAGS, FORMAT, GLOBAL_PREFIX, Mark, SECTION, STATE, TABLE, TOP, UNWIND, UNWIND_BYTES, UNWIND_BYTES_THREADS, exceptions, flags, strip, verify};

/// The global `state` while the stack is unwound. 0: at work; numbers above: the safe point that a rewind goes to.
pub const UNWINDING: i32 = 1;

/// Instruments `wasm`, as linked with `guests/runtime.c`. The result carries the custom section [`SECTION`]. A module that can't be moved is
/// [`Error::NotMovable`] with all reasons. `toolchain`: for the mark, e.g. `ziglang 0.17.1`.
pub fn instrument(wasm: &[u8], toolchain: &str) -> Result<Vec<u8>, Error> {
    with_lines(wasm, toolchain, None)
}

/// The same for a module with lines, which are afterwards those of the result.
pub(super) fn with_lines(wasm: &[u8], toolchain: &str, mut lines: Option<&mut Lines>) -> Result<Vec<u8>, Error> {
    wasmparser::Validator::new_with_features(super::features()).validate_all(wasm)?;
    let mut moved = |trails: Trails| lines.iter_mut().for_each(|lines| lines.moved(&trails));
    let mut trails = Trails::default();
    let lowered = exceptions::lower(wasm, &mut trails)?;
    moved(std::mem::take(&mut trails));
    let cut = strip::strip(&lowered, &mut trails)?;
    moved(std::mem::take(&mut trails));
    let (mut out, mark) = insert(&cut, toolchain, &mut trails)?;
    moved(trails);
    append_mark(&mut out, &mark);
    wasmparser::Validator::new_with_features(super::features())
        .validate_all(&out)
        .map_err(|e| Error::Malformed(format!("after instrumentation: {e}")))?;
    // What is proved at submission is proved here, where its author can still do something about it.
    verify::can_be_ended(&out, &Outline::read(&out)?).map_err(|reason| Error::NotMovable(vec![reason]))?;
    Ok(out)
}

/// Where the unwind area ends.
#[derive(Clone, Copy)]
enum AreaEnd {
    At(u32),
    /// As this global says, which the agent has set.
    Global(u32),
}

/// What the functions of one module share while they are written anew.
struct Module {
    /// Indices of the globals.
    state: u32,
    top: u32,
    unwind_end: AreaEnd,
    /// Number of the next safe point in the module.
    next_point: u32,
    polls: u32,
    die_checks: u32,
    /// Types without parameters that blocks with several results need, by their results.
    new_types: HashMap<Vec<ValType>, u32>,
    first_new_type: u32,
}

impl Module {
    fn type_of(&mut self, results: Vec<ValType>) -> u32 {
        let next = self.first_new_type + self.new_types.len() as u32;
        *self.new_types.entry(results).or_insert(next)
    }
}

/// [`instrument`] without the mark in the module.
fn insert(wasm: &[u8], toolchain: &str, trails: &mut Trails) -> Result<(Vec<u8>, Mark), Error> {
    let mut outline = Outline::read(wasm)?;
    if outline.memories.len() != 1 {
        outline.reasons.push(format!("it has {} memories instead of one", outline.memories.len()));
    }
    if !outline.reasons.is_empty() {
        return Err(Error::NotMovable(outline.reasons));
    }
    if outline.marked {
        return Err(Error::NotMovable(vec!["it is already instrumented".into()]));
    }
    let missing = || Error::NotMovable(vec![format!("it has no {UNWIND}: it was not linked by `cloudskin cc`")]);
    let unwind = outline.address_of(UNWIND).ok_or_else(missing)?;
    let mut calls = Calls::new(&outline);
    let (module, out) = loop {
        let mut module = shared(&outline, unwind);
        let (bodies, hints) = rewrite_all(wasm, &outline, &calls, &mut module, trails)?;
        let out = assemble(wasm, &outline, &module, unwind, &bodies, &hints)?;
        // What was added may have made more of a function than it may do without a look.
        let after = Outline::read(&out)?;
        let heavy = after.heavy();
        if heavy.is_empty() {
            break (module, out);
        }
        heavy.into_iter().for_each(|f| calls.looks[f] = true);
    };
    let mark = Mark {
        version: FORMAT,
        unwind,
        unwind_bytes: unwind_bytes(&outline),
        polls: module.polls,
        die_checks: module.die_checks,
        globals: outline.mutable_globals().count() as u32,
        toolchain: toolchain.into(),
    };
    Ok((out, mark))
}

/// Of the first thread's area.
fn unwind_bytes(outline: &Outline) -> u32 {
    if outline.is_shared() { UNWIND_BYTES_THREADS } else { UNWIND_BYTES }
}

fn shared(outline: &Outline, unwind: u32) -> Module {
    let state = outline.globals.len() as u32;
    Module {
        state,
        top: state + 1,
        unwind_end: match outline.is_shared() {
            true => AreaEnd::Global(state + 2),
            false => AreaEnd::At(unwind.saturating_add(UNWIND_BYTES)),
        },
        next_point: UNWINDING as u32 + 1,
        polls: 0,
        die_checks: 0,
        new_types: HashMap::new(),
        first_new_type: outline.types.len() as u32,
    }
}

type Hints = Vec<(u32, Vec<(u32, bool)>)>;

/// All function bodies in order, and the hints of those that have some.
fn rewrite_all(wasm: &[u8], outline: &Outline, calls: &Calls<'_>, module: &mut Module, trails: &mut Trails) -> Result<(Vec<Vec<u8>>, Hints), Error> {
    let (mut bodies, mut hints) = (Vec::with_capacity(outline.functions.len()), Vec::new());
    let mut validator = wasmparser::Validator::new_with_features(super::features());
    for payload in Parser::new(0).parse_all(wasm) {
        let ValidPayload::Func(to_validate, read) = validator.payload(&payload?)? else { continue };
        let (function, index) = (&outline.functions[bodies.len()], outline.imported_functions + bodies.len() as u32);
        let written = if calls.unwinds(index) {
            let ty = calls.type_of(index);
            let wanted = body::Wanted { poll_loops: !function.quiet, entry: calls.entry(index), loops: &function.loops, bulk: &function.bulk };
            let body = body::read(to_validate.into_validator(Default::default()), &read, ty, calls, wanted)?;
            emit::write(wasm, module, &body, ty.results(), wanted.entry)
        } else {
            with_looks(wasm, function, calls.looks(index), module)
        };
        bodies.push(written.bytes);
        trails.put(index, function.body.start, written.trail);
        if !written.hints.is_empty() {
            hints.push((index, written.hints));
        }
    }
    Ok((bodies, hints))
}

/// A function that can't be stopped, as it is, but that it may be told to die.
fn with_looks(wasm: &[u8], function: &Function, at_entry: bool, module: &mut Module) -> emit::Written {
    let loops = function.loops.iter().filter(|l| l.turns.is_none()).map(|l| l.inside);
    let mut places: Vec<usize> = loops.chain(function.bulk.iter().copied()).chain(at_entry.then_some(function.first_operator)).collect();
    places.sort_unstable();
    places.dedup();
    let mut written = emit::Written { bytes: Vec::with_capacity(function.body.len() + 16 * places.len()), hints: Vec::new(), trail: Trail::default() };
    let mut copied = function.body.start;
    for place in places {
        written.trail.copied(written.bytes.len(), copied..place);
        written.bytes.extend_from_slice(&wasm[copied..place]);
        copied = place;
        module.die_checks += 1;
        let branch = flags::die(&mut written.bytes);
        written.hints.push((branch as u32, false));
    }
    written.trail.copied(written.bytes.len(), copied..function.body.end);
    written.bytes.extend_from_slice(&wasm[copied..function.body.end]);
    written
}

fn assemble(wasm: &[u8], outline: &Outline, module: &Module, unwind: u32, bodies: &[Vec<u8>], hints: &Hints) -> Result<Vec<u8>, Error> {
    let mut out = wasm_encoder::Module::new();
    // One page for the flag words, and no more.
    let flags = [vec![1, 1, 1]];
    // A program with threads has no memory of its own, and so no section of them, which would stand in front of these two.
    let mut to_come = outline.is_shared();
    for payload in Parser::new(0).parse_all(wasm) {
        let payload = payload?;
        if matches!(payload, Payload::TagSection(_) | Payload::GlobalSection(_)) && std::mem::take(&mut to_come) {
            extended(&mut out, SectionId::Memory, &[0], 0, &flags);
        }
        match payload {
            Payload::TypeSection(section) => {
                let mut new: Vec<(&Vec<ValType>, &u32)> = module.new_types.iter().collect();
                new.sort_by_key(|(_, index)| **index);
                let entries: Vec<Vec<u8>> = new.iter().map(|(results, _)| function_type(results)).collect();
                extended(&mut out, SectionId::Type, &wasm[section.range()], section.count(), &entries);
            }
            Payload::MemorySection(section) => {
                to_come = false;
                extended(&mut out, SectionId::Memory, &wasm[section.range()], section.count(), &flags);
            }
            // Present, because the address of the unwind area is in it; so are the exports.
            Payload::GlobalSection(section) => {
                let global = |value: u32| {
                    let mut entry = vec![0x7f, 1];
                    wasm_encoder::ConstExpr::i32_const(value as i32).encode(&mut entry);
                    entry
                };
                let mut more = vec![global(0), global(unwind)];
                if let AreaEnd::Global(_) = module.unwind_end {
                    more.push(global(unwind.saturating_add(unwind_bytes(outline))));
                }
                extended(&mut out, SectionId::Global, &wasm[section.range()], section.count(), &more);
            }
            Payload::ExportSection(_) => {
                out.section(&exports(outline, module));
            }
            Payload::CodeSectionStart { .. } => {
                // The proposal wants it in front of the code.
                out.section(&emit::hints(hints));
                let mut code = CodeSection::new();
                for body in bodies {
                    code.raw(body);
                }
                out.section(&code);
            }
            Payload::CustomSection(section) => {
                if !is_dropped(section.name()) {
                    out.section(&CustomSection { name: section.name().into(), data: section.data().into() });
                }
            }
            other => {
                if let Some((id, range)) = other.as_section() {
                    out.section(&RawSection { id, data: &wasm[range] });
                }
            }
        }
    }
    Ok(out.finish())
}

/// A section of `count` entries, with `more` at its end.
fn extended(out: &mut wasm_encoder::Module, id: SectionId, section: &[u8], count: u32, more: &[Vec<u8>]) {
    let mut old = Vec::new();
    count.encode(&mut old);
    // The count may be written in more bytes than it needs.
    let skipped = section.iter().position(|b| b & 0x80 == 0).map_or(section.len(), |last| last + 1);
    let mut data = Vec::with_capacity(section.len() + 16);
    (count + more.len() as u32).encode(&mut data);
    data.extend_from_slice(&section[skipped..]);
    for entry in more {
        data.extend_from_slice(entry);
    }
    out.section(&RawSection { id: id.into(), data: &data });
}

fn function_type(results: &[ValType]) -> Vec<u8> {
    let mut entry = vec![0x60, 0];
    (results.len() as u32).encode(&mut entry);
    for ty in results {
        value_type(*ty).encode(&mut entry);
    }
    entry
}

pub(super) fn value_type(ty: ValType) -> Value {
    match ty {
        ValType::I32 => Value::I32,
        ValType::I64 => Value::I64,
        ValType::F32 => Value::F32,
        ValType::F64 => Value::F64,
        ValType::V128 => Value::V128,
        ValType::Ref(_) => Value::FUNCREF,
    }
}

/// Debug sections hold offsets into code that has moved, hints of another make as well.
pub(super) fn is_dropped(custom: &str) -> bool {
    custom.starts_with(".debug_") || custom.starts_with("reloc.") || custom == "target_features" || custom == "sourceMappingURL" || custom == "metadata.code.branch_hint"
}

/// A custom section may stand anywhere, so also at the end.
fn append_mark(wasm: &mut Vec<u8>, mark: &Mark) {
    let data = serde_json::to_vec(mark).expect("a struct of numbers and a string always becomes JSON");
    let section = CustomSection { name: SECTION.into(), data: (&data).into() };
    wasm.push(SectionId::Custom.into());
    section.encode(wasm);
}

/// What was there, plus all that a snapshot needs.
fn exports(outline: &Outline, module: &Module) -> ExportSection {
    let mut section = ExportSection::new();
    let mut have = HashSet::new();
    for (name, kind, index) in &outline.exports {
        let kind = match kind {
            ExternalKind::Func | ExternalKind::FuncExact => ExportKind::Func,
            ExternalKind::Table => ExportKind::Table,
            ExternalKind::Memory => ExportKind::Memory,
            ExternalKind::Global => ExportKind::Global,
            ExternalKind::Tag => ExportKind::Tag,
        };
        section.export(name, kind, *index);
        have.insert(name.as_str());
    }
    if !have.contains("memory") {
        section.export("memory", ExportKind::Memory, 0);
    }
    section.export(FLAGS, ExportKind::Memory, flags::MEMORY);
    if outline.tables > 0 && !have.contains(TABLE) {
        section.export(TABLE, ExportKind::Table, 0);
    }
    for (number, index) in outline.mutable_globals().enumerate() {
        section.export(&format!("{GLOBAL_PREFIX}{number}"), ExportKind::Global, index);
    }
    section.export(STATE, ExportKind::Global, module.state);
    section.export(TOP, ExportKind::Global, module.top);
    if let AreaEnd::Global(end) = module.unwind_end {
        section.export(END, ExportKind::Global, end);
    }
    section
}

/// Who may unwind: those that can reach a safe point.
struct Calls<'o> {
    outline: &'o Outline,
    recursive: HashSet<u32>,
    /// By function of the module's own: it must look at the flags when it begins.
    looks: Vec<bool>,
    /// By function, imports first.
    functions: Vec<bool>,
    /// By type: a call through the table may unwind.
    indirect: Vec<bool>,
}

impl<'o> Calls<'o> {
    fn new(outline: &'o Outline) -> Calls<'o> {
        let recursive = recursive_functions(outline);
        let count = outline.function_types.len();
        // Equal types are one; the first of them stands for all.
        let mut first_of: HashMap<&FuncType, usize> = HashMap::new();
        let same: Vec<usize> =
            outline.types.iter().enumerate().map(|(i, ty)| ty.as_ref().map_or(i, |ty| *first_of.entry(ty).or_insert(i))).collect();
        // Who must be told when this one may unwind: nodes are functions, then types.
        let mut told: Vec<Vec<usize>> = vec![Vec::new(); count + outline.types.len()];
        for (i, function) in outline.functions.iter().enumerate() {
            let index = outline.imported_functions as usize + i;
            for (callee, _) in &function.calls {
                told[*callee as usize].push(index);
            }
            for ty in &function.indirect_calls {
                told[count + same[*ty as usize]].push(index);
            }
        }
        for element in &outline.elements {
            told[*element as usize].push(count + same[outline.function_types[*element as usize] as usize]);
        }
        let mut work: Vec<usize> = Vec::new();
        let functions = outline.imports.iter().filter(|(_, _, kind)| *kind == "function");
        work.extend(functions.enumerate().filter(|(_, (module, name, _))| can_block(module, name)).map(|(i, _)| i));
        for (i, function) in outline.functions.iter().enumerate() {
            if !function.quiet && (function.loops.iter().any(|l| l.turns.is_none()) || recursive.contains(&(i as u32))) {
                work.push(outline.imported_functions as usize + i);
            }
        }
        let mut unwinds = vec![false; told.len()];
        while let Some(node) = work.pop() {
            if !std::mem::replace(&mut unwinds[node], true) {
                work.extend(&told[node]);
            }
        }
        let indirect = same.iter().map(|ty| unwinds[count + ty]).collect();
        unwinds.truncate(count);
        // Who calls through the table may call itself; nothing is known of what that costs.
        let mut looks: Vec<bool> = outline.functions.iter().enumerate().map(|(i, f)| !f.indirect_calls.is_empty() || recursive.contains(&(i as u32))).collect();
        // With room for what is added.
        outline.weights(&mut looks, UNLOOKED_MAX / 2);
        Calls { outline, recursive, looks, functions: unwinds, indirect }
    }

    fn unwinds(&self, function: u32) -> bool {
        self.functions[function as usize]
    }

    fn type_unwinds(&self, ty: u32) -> bool {
        self.indirect[ty as usize]
    }

    fn is_import(&self, function: u32) -> bool {
        function < self.outline.imported_functions
    }

    fn looks(&self, function: u32) -> bool {
        self.looks[(function - self.outline.imported_functions) as usize]
    }

    /// What a function does when it is called.
    fn entry(&self, function: u32) -> body::Entry {
        let own = function - self.outline.imported_functions;
        if !self.looks(function) {
            body::Entry::Plain
        } else if self.recursive.contains(&own) && !self.outline.functions[own as usize].quiet {
            body::Entry::Poll
        } else {
            body::Entry::Die
        }
    }

    fn types(&self, index: u32) -> &'o FuncType {
        self.outline.types[index as usize].as_ref().expect("validated: it is a function's type")
    }

    fn type_of(&self, function: u32) -> &'o FuncType {
        self.types(self.outline.function_types[function as usize])
    }

    /// Parameters and results of a block.
    fn block_type(&self, ty: BlockType) -> (Vec<ValType>, Vec<ValType>) {
        match ty {
            BlockType::Empty => (Vec::new(), Vec::new()),
            BlockType::Type(ty) => (Vec::new(), vec![ty]),
            BlockType::FuncType(index) => (self.types(index).params().to_vec(), self.types(index).results().to_vec()),
        }
    }
}

/// Numbers (among the module's own functions) of those on a cycle of direct calls: Tarjan's strongly connected components,
/// without recursion, because call chains in foreign modules may be as long as they like.
fn recursive_functions(outline: &Outline) -> HashSet<u32> {
    let n = outline.functions.len();
    let own = |f: usize, k: usize| outline.functions[f].calls[k].0.checked_sub(outline.imported_functions).map(|i| i as usize);
    const UNSEEN: u32 = u32::MAX;
    let (mut order, mut low) = (vec![UNSEEN; n], vec![0u32; n]);
    let (mut on_stack, mut stack, mut work) = (vec![false; n], Vec::new(), Vec::new());
    let mut next = 0u32;
    let mut found = HashSet::new();
    for root in 0..n {
        if order[root] != UNSEEN {
            continue;
        }
        work.push((root, 0usize));
        while let Some(&(f, k)) = work.last() {
            if k == 0 {
                order[f] = next;
                low[f] = next;
                next += 1;
                stack.push(f);
                on_stack[f] = true;
            }
            if k < outline.functions[f].calls.len() {
                work.last_mut().expect("it was just read").1 += 1;
                match own(f, k) {
                    Some(callee) if callee == f => {
                        found.insert(f as u32);
                    }
                    Some(callee) if order[callee] == UNSEEN => work.push((callee, 0)),
                    Some(callee) if on_stack[callee] => low[f] = low[f].min(order[callee]),
                    _ => {}
                }
                continue;
            }
            work.pop();
            if let Some(&(caller, _)) = work.last() {
                low[caller] = low[caller].min(low[f]);
            }
            if low[f] == order[f] {
                let from = stack.iter().rposition(|&g| g == f).expect("a component's root is on the stack");
                let component = stack.split_off(from);
                for &g in &component {
                    on_stack[g] = false;
                    if component.len() > 1 {
                        found.insert(g as u32);
                    }
                }
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A module around `functions` with everything that the linker would have made.
    fn module(functions: &str) -> Vec<u8> {
        let text = format!(
            r#"(module
                (type $v (func))
                (type $i (func (param i32) (result i32)))
                (import "cloudskin_mpi" "MPI_Barrier" (func $barrier (param i32) (result i32)))
                (memory 130)
                (table 2 funcref)
                (global $sp (mut i32) (i32.const 1024))
                (global (export "__cloudskin_unwind") i32 (i32.const 8192))
                (global $t (mut f64) (f64.const 1))
                (func $start (export "_start") (drop (call $barrier (i32.const 1))))
                (elem (i32.const 0) $start $start)
                {functions})"#
        );
        wat::parse_str(text).unwrap()
    }

    /// Loops that turn a known number of times are what they were; copies of any length have a look before them.
    #[test]
    fn looks_are_where_they_are_needed() {
        let few = "i32.const 7 local.set 0 i32.const 4 local.set 1 local.get 1 i32.const 7 i32.and i32.const 1 i32.add i32.const -1 i32.mul local.get 0 i32.add \
            local.set 1 loop local.get 0 i32.const -1 i32.add local.tee 0 local.get 1 i32.ne br_if 0 end";
        check(&format!("(func (local i32 i32) {few})"), (0, 0));
        check(&format!("(func (local i32 i32) {few} (loop $l (br_if $l (i32.const 0))))"), (1, 0));
        let fill = |length: &str| format!("(memory.fill (i32.const 0) (i32.const 0) {length})");
        check(&format!("(func (param i32) {} {})", fill("(local.get 0)"), fill("(i32.const 32768)")), (0, 1));
        // Eight bytes count as an instruction: with so many the function is none of the short ones that begin without a look.
        check(&format!("(func (param i32) {} {})", fill("(local.get 0)"), fill("(i32.const 65536)")), (0, 2));
        check(&format!("(func (param i32) (loop $l {} (br_if $l (local.get 0))))", fill("(local.get 0)")), (1, 1));
        let leaf = |n: usize| format!("(func $leaf {}) (func $g (call $leaf))", "(nop)".repeat(n));
        check(&leaf(2000), (0, 0));
        check(&leaf(10_000), (0, 1));
        check("(func (call_indirect (type $i) (i32.const 1) (i32.const 0)) drop)", (0, 1));
    }

    /// (polls, die checks) that `functions` get; the result is a valid module.
    fn check(functions: &str, expected: (u32, u32)) {
        let (out, mark) = insert(&module(functions), "", &mut Trails::default()).unwrap();
        wasmparser::Validator::new_with_features(super::super::features()).validate_all(&out).unwrap();
        assert_eq!((mark.polls, mark.die_checks), expected, "{functions}");
    }

    #[test]
    fn every_loop_polls() {
        check("(func (loop $a (br_if $a (i32.const 0))))", (1, 0));
        check("(func (loop $a (loop $b (br_if $b (i32.const 0))) (br_if $a (i32.const 0))))", (2, 1));
        let turns = "(loop $t (br_if $t (i32.const 0)))";
        check(&format!("(func (loop (block (if (i32.const 1) (then {turns} {turns})))))"), (3, 1));
        // Where it turns: nowhere, twice; in one place where that would be many.
        check("(func (loop))", (0, 0));
        check(&format!("(func (loop $a {}))", "(br_if $a (i32.const 0))".repeat(2)), (2, 0));
        check(&format!("(func (loop $a {}))", "(br_if $a (i32.const 0))".repeat(3)), (1, 0));
        check("(func (loop $a (br_table 0 $a (i32.const 0))))", (1, 0));
        check("(func (block) (if (i32.const 0) (then)))", (0, 0));
        check("(func (return) (loop (loop)))", (0, 0));
    }

    #[test]
    fn recursion_polls_at_entry() {
        check("(func $f (call $f))", (1, 1));
        check("(func $f (call $g)) (func $g (call $h)) (func $h (call $f)) (func (call $f))", (3, 3));
        check("(func $f (call $g)) (func $g)", (0, 0));
        check("(func $f (param i32) (local f64 i64) (loop (call $f (i32.const 1))))", (2, 2));
    }

    #[test]
    fn the_c_library_is_left_in_peace() {
        check("(func $malloc (loop (loop)))", (0, 2));
        check("(func $dlfree (call $dlfree))", (0, 1));
        // It calls what the program gave it, so it can be stopped there; its loops are still its own.
        check("(func $printf_core (loop (call_indirect (type $v) (i32.const 0))) (loop))", (0, 3));
    }

    /// Whether the function `$f` is written anew.
    fn touched(functions: &str, expected: bool) {
        let wasm = module(functions);
        let outline = Outline::read(&wasm).unwrap();
        let calls = Calls::new(&outline);
        assert_eq!(calls.unwinds(2), expected, "{functions}");
        if !expected && calls.looks(2) {
            return;
        }
        let (out, _) = insert(&wasm, "", &mut Trails::default()).unwrap();
        let (before, after) = (&outline.functions[1].body, &Outline::read(&out).unwrap().functions[1].body);
        assert_eq!(wasm[before.clone()] != out[after.clone()], expected, "{functions}");
    }

    #[test]
    fn only_what_can_reach_a_safe_point_is_touched() {
        touched("(func $f (result i32) (i32.add (i32.const 1) (i32.const 2)))", false);
        touched("(func $f (result i32) (call $g)) (func $g (result i32) (i32.const 1))", false);
        touched("(func $f (result i32) (call $g)) (func $g (result i32) (loop) (i32.const 1))", true);
        touched("(func $f (result i32) (call $g)) (func $g (result i32) (call $barrier (i32.const 1)))", true);
        // In the table is a function of the type $v that waits, and none of the type $i.
        touched("(func $f (call_indirect (type $v) (i32.const 0)))", true);
        touched("(func $f (drop (call_indirect (type $i) (i32.const 0) (i32.const 0))))", false);
        touched("(func $f (call $malloc)) (func $malloc (loop))", false);
    }

    #[test]
    fn long_call_chains_do_not_overflow_the_stack() {
        let chain: String = (0..50_000).map(|i| format!("(func $f{i} (call $f{}))", (i + 1) % 50_000)).collect();
        check(&chain, (50_000, 50_000));
    }

    #[test]
    fn deep_nesting_does_not_overflow_the_stack() {
        let depth = 20_000;
        check(&format!("(func {} (drop (call $barrier (i32.const 1))) {})", "block ".repeat(depth), "end ".repeat(depth)), (0, 1));
    }

    #[test]
    fn state_is_exported() {
        let (out, mark) = insert(&module(""), "", &mut Trails::default()).unwrap();
        let outline = Outline::read(&out).unwrap();
        let names: Vec<&str> = outline.exports.iter().map(|(name, ..)| name.as_str()).collect();
        assert_eq!(
            names,
            [
                "__cloudskin_unwind", "_start", "memory", "__cloudskin_flags", "__indirect_function_table", "__cloudskin_g0", "__cloudskin_g1",
                "__cloudskin_state", "__cloudskin_top"
            ]
        );
        assert_eq!((mark.unwind, mark.globals), (8192, 2));
    }

    fn refused(text: &str) -> String {
        insert(&wat::parse_str(text).unwrap(), "", &mut Trails::default()).unwrap_err().to_string()
    }

    #[test]
    fn what_cannot_be_moved_is_refused_with_all_reasons() {
        let message = refused("(module (memory i64 1) (table 1 funcref) (func (table.set (i32.const 0) (ref.null func))))");
        assert_eq!(
            message,
            "the module can't be moved: its memory has 64-bit addresses; it changes its function table while it runs"
        );
        assert!(refused("(module (memory 1))").contains("__cloudskin_unwind"));
        assert!(refused("(module (memory 1 1 shared))").contains("shared between threads"));
        let fails = |functions: &str| insert(&module(functions), "", &mut Trails::default()).unwrap_err().to_string();
        assert!(fails(r#"(func (export "asyncify_start_unwind") (param i32))"#).contains("already instrumented"));
        assert!(fails("(func $f (return_call $g)) (func $g (loop))").contains("tail call"));
        assert!(fails("(func (ref.null func) (loop) (drop))").contains("a reference is in use"));
    }
}
