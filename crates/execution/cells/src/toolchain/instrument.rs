//! Puts safe points into a linked module.
//!
//! A cell can be stopped only where its stack can be unwound: in a blocking host call, or at a poll that this pass adds at
//! loop headers and at the entry of recursive functions. A poll is a load and a branch that is never taken until the agent
//! raises the flag. Polls go in after LLVM is done, because a call in a loop would keep it from vectorising.
//!
//! ```text
//! loop that contains a loop, or calls more than a small leaf:  if flags[0] { cloudskin.poll() }
//! any other loop:                                              if flags[1] { unreachable }
//! function on a cycle of direct calls:                         poll at its entry
//! ```
//!
//! A tight innermost loop is not interrupted for a move, only killed: its time is bounded by the loop around it, and a call in
//! it would cost more than all other polls together (the call clobbers every vector register). Recursion through function
//! pointers alone has no poll either; such a cycle nearly always contains a loop or a host call.
//!
//! The pass copies code bytes and inserts; it never moves or renumbers anything, so names, function pointers and types
//! stay as the linker made them. Debug sections (DWARF) hold code offsets that would be wrong and are dropped.
//!
//! After asyncify the flags leave the program's memory: see [`super::flags`].

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use wasm_encoder::{CodeSection, CustomSection, ExportKind, ExportSection, Module, RawSection};
use wasmparser::{ConstExpr, ExternalKind, FunctionBody, KnownCustom, Name, Operator, Parser, Payload, TypeRef, ValType};

use super::{Error, FLAGS, FORMAT, GLOBAL_PREFIX, KEEP, Mark, SECTION, TABLE, UNWIND, UNWIND_BYTES};

/// A leaf is a function without loops and calls of at most this many bytes: a loop that calls only leaves is a tight loop.
const LEAF_BYTES_MAX: usize = 256;

/// Short work inside the C library: a stop flag raised here is seen soon by the caller's loop. Polls here would make every
/// `malloc` and `printf` unwindable, which costs more than it gives. They keep the die checks.
const QUIET: &[&str] = &[
    "malloc", "free", "calloc", "realloc", "aligned_alloc", "posix_memalign", "dlmalloc", "dlfree", "dlrealloc", "dlcalloc",
    "dlmemalign", "dlposix_memalign", "internal_memalign", "prepend_alloc", "dispose_chunk", "try_realloc_chunk", "sbrk",
    "memcpy", "memmove", "memset", "memcmp", "memchr", "memrchr", "memmem", "strlen", "strnlen", "strcpy", "strncpy", "strcat",
    "strncat", "strcmp", "strncmp", "strcasecmp", "strncasecmp", "strchr", "strchrnul", "strrchr", "strstr", "strspn",
    "strcspn", "strtok", "strtok_r", "strdup", "strndup", "stpcpy", "stpncpy", "__strchrnul", "__stpcpy", "__stpncpy",
    "__memrchr", "printf_core", "fmt_fp", "fmt_u", "fmt_x", "fmt_o", "pop_arg", "long_double_not_supported",
    "vfprintf", "vsnprintf", "sn_write", "__floatscan", "decfloat", "hexfloat", "scanexp", "__intscan", "__shgetc",
    "__shlim", "strtod", "strtof", "strtold", "strtol", "strtoul", "strtoll", "strtoull", "strtox", "atoi", "atol", "atoll",
    "atof", "wcrtomb", "mbrtowc", "mbtowc", "wctomb", "mbsrtowcs", "wcslen", "frexp", "frexpl", "scalbn", "scalbnl", "ldexp",
    "fmod", "fmodf", "fmodl", "__rem_pio2", "__rem_pio2f", "__rem_pio2_large", "__multf3", "__addtf3", "__subtf3", "__divtf3",
    "__lttf2", "__letf2", "__gttf2", "__getf2", "__eqtf2", "__netf2", "__udivti3", "__umodti3", "__divti3", "__modti3",
    "__multi3", "__udivmodti4", "getenv", "__findenv", "__wasilibc_find_relpath", "__wasilibc_find_abspath",
    "__wasilibc_populate_preopens", "__wasilibc_init_preopens", "internal_register_preopened_fd", "__towrite", "__toread",
    "__stdio_exit", "__ofl_add", "__ofl_lock", "__main_void", "__wasm_call_ctors", "__wasm_call_dtors", "__funcs_on_exit",
];

/// What the pass may leave out.
#[derive(Clone, Debug)]
pub struct Options {
    /// Check the die flag in innermost loops, so that a cell can be killed wherever it is.
    pub die_checks: bool,
    /// For the mark, e.g. `ziglang 0.17.1`.
    pub toolchain: String,
}

impl Default for Options {
    fn default() -> Options {
        Options { die_checks: true, toolchain: String::new() }
    }
}

/// Instruments `wasm`, as linked with `guests/runtime.c`, makes it able to unwind (asyncify) and takes the flags out of its reach. The result
/// carries the custom section [`SECTION`]. A module that can't be moved is [`Error::NotMovable`] with all reasons.
pub fn instrument(wasm: &[u8]) -> Result<Vec<u8>, Error> {
    instrument_with(wasm, &Options::default())
}

/// [`instrument`] with choices.
pub fn instrument_with(wasm: &[u8], options: &Options) -> Result<Vec<u8>, Error> {
    let (polled, mut mark) = insert(wasm, options)?;
    let flags = Outline::read(wasm)?.address_of(FLAGS).expect("`insert` found it");
    let (mut out, checks) = super::flags::separate(&super::asyncify::run(&polled)?, flags)?;
    mark.die_checks += checks;
    append_mark(&mut out, &mark);
    wasmparser::Validator::new_with_features(super::features())
        .validate_all(&out)
        .map_err(|e| Error::Malformed(format!("after asyncify: {e}")))?;
    // What is proved at submission is proved here, where its author can still do something about it.
    super::verify::can_be_ended(&out, &Outline::read(&out)?, 1).map_err(|reason| Error::NotMovable(vec![reason]))?;
    Ok(out)
}

/// The first half of [`instrument`]: polls and exports, no asyncify. Kept apart so that it can be tested alone.
pub(crate) fn insert(wasm: &[u8], options: &Options) -> Result<(Vec<u8>, Mark), Error> {
    wasmparser::Validator::new_with_features(super::features()).validate_all(wasm)?;
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
    let missing = |name: &str| Error::NotMovable(vec![format!("it has no {name}: it was not linked by `cloudskin cc`")]);
    let places = Places {
        flags: outline.address_of(FLAGS).ok_or_else(|| missing(FLAGS))?,
        poll: outline.poll.ok_or_else(|| missing("import cloudskin.poll"))?,
        unwind: outline.address_of(UNWIND).ok_or_else(|| missing(UNWIND))?,
    };
    let recursive = recursive_functions(&outline);
    let mut counts = Counts::default();
    let bodies: Vec<Vec<u8>> = outline
        .functions
        .iter()
        .enumerate()
        .map(|(i, f)| rewrite(wasm, f, &outline, recursive.contains(&(i as u32)), &places, options, &mut counts))
        .collect();

    let mut module = Module::new();
    for payload in Parser::new(0).parse_all(wasm) {
        match payload? {
            // Present, because the address of the flags was found in it.
            Payload::ExportSection(_) => {
                module.section(&exports(&outline));
            }
            Payload::CodeSectionStart { .. } => {
                let mut code = CodeSection::new();
                for body in &bodies {
                    code.raw(body);
                }
                module.section(&code);
            }
            Payload::CustomSection(section) => {
                if !is_dropped(section.name()) {
                    module.section(&CustomSection { name: section.name().into(), data: section.data().into() });
                }
            }
            other => {
                if let Some((id, range)) = other.as_section() {
                    module.section(&RawSection { id, data: &wasm[range] });
                }
            }
        }
    }
    let mark = Mark {
        version: FORMAT,
        unwind: places.unwind,
        unwind_bytes: UNWIND_BYTES,
        polls: counts.polls,
        die_checks: counts.die_checks,
        globals: outline.mutable_globals().count() as u32,
        toolchain: options.toolchain.clone(),
    };
    Ok((module.finish(), mark))
}

/// Debug sections hold offsets into code that has moved; `target_features` describes the code before asyncify, and binaryen
/// reads features there that it then doesn't know.
fn is_dropped(custom: &str) -> bool {
    custom.starts_with(".debug_") || custom.starts_with("reloc.") || custom == "target_features" || custom == "sourceMappingURL"
}

/// A custom section may stand anywhere, so also at the end.
fn append_mark(wasm: &mut Vec<u8>, mark: &Mark) {
    let data = serde_json::to_vec(mark).expect("a struct of numbers and a string always becomes JSON");
    let mut body = Vec::with_capacity(data.len() + 16);
    write_u32(&mut body, SECTION.len() as u32);
    body.extend_from_slice(SECTION.as_bytes());
    body.extend_from_slice(&data);
    wasm.push(0);
    write_u32(wasm, body.len() as u32);
    wasm.extend_from_slice(&body);
}

/// What was there, without the function that only held the import and the present place of the flags, plus all that a snapshot needs.
fn exports(outline: &Outline) -> ExportSection {
    let mut section = ExportSection::new();
    let mut have = HashSet::new();
    for (name, kind, index) in &outline.exports {
        if name != KEEP && name != FLAGS {
            section.export(name, export_kind(*kind), *index);
            have.insert(name.as_str());
        }
    }
    if !have.contains("memory") {
        section.export("memory", ExportKind::Memory, 0);
    }
    if outline.tables > 0 && !have.contains(TABLE) {
        section.export(TABLE, ExportKind::Table, 0);
    }
    for (number, index) in outline.mutable_globals().enumerate() {
        section.export(&format!("{GLOBAL_PREFIX}{number}"), ExportKind::Global, index);
    }
    section
}

pub(super) fn export_kind(kind: ExternalKind) -> ExportKind {
    match kind {
        ExternalKind::Func | ExternalKind::FuncExact => ExportKind::Func,
        ExternalKind::Table => ExportKind::Table,
        ExternalKind::Memory => ExportKind::Memory,
        ExternalKind::Global => ExportKind::Global,
        ExternalKind::Tag => ExportKind::Tag,
    }
}

struct Places {
    flags: u32,
    poll: u32,
    unwind: u32,
}

#[derive(Default)]
struct Counts {
    polls: u32,
    die_checks: u32,
}

/// The body of one function with its checks put in.
fn rewrite(
    wasm: &[u8],
    function: &Function,
    outline: &Outline,
    recursive: bool,
    places: &Places,
    options: &Options,
    counts: &mut Counts,
) -> Vec<u8> {
    let quiet = function.quiet;
    let mut out = Vec::with_capacity(function.body.len() + 16 * (function.loops.len() + 1));
    let mut copied = function.body.start;
    let mut poll = |out: &mut Vec<u8>| {
        counts.polls += 1;
        check_flag(out, places.flags);
        out.push(0x10); // call
        write_u32(out, places.poll);
        out.push(0x0b); // end
    };
    if recursive && !quiet {
        out.extend_from_slice(&wasm[copied..function.first_operator]);
        copied = function.first_operator;
        poll(&mut out);
    }
    for l in &function.loops {
        out.extend_from_slice(&wasm[copied..l.inside]);
        copied = l.inside;
        let tight = !l.has_loop && l.callees.iter().all(|callee| outline.is_leaf(*callee));
        if !tight && !quiet {
            poll(&mut out);
        } else if options.die_checks {
            counts.die_checks += 1;
            check_flag(&mut out, places.flags + 4);
            out.extend_from_slice(&[0x00, 0x0b]); // unreachable, end
        }
    }
    out.extend_from_slice(&wasm[copied..function.body.end]);
    out
}

/// `i32.const 0; i32.load offset=address; if`. The address is the offset, so that no bounds check is needed at run time.
fn check_flag(out: &mut Vec<u8>, address: u32) {
    out.extend_from_slice(&[0x41, 0x00, 0x28, 0x02]);
    write_u32(out, address);
    out.extend_from_slice(&[0x04, 0x40]);
}

pub(super) fn write_u32(out: &mut Vec<u8>, mut value: u32) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Numbers (among the module's own functions) of those on a cycle of direct calls: Tarjan's strongly connected components,
/// without recursion, because call chains in foreign modules may be as long as they like.
fn recursive_functions(outline: &Outline) -> HashSet<u32> {
    let n = outline.functions.len();
    let own = |f: usize, k: usize| outline.functions[f].calls[k].checked_sub(outline.imported_functions).map(|i| i as usize);
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

/// One function of the module's own.
pub(crate) struct Function {
    /// Byte range in the module: locals and code, without the size in front.
    pub body: Range<usize>,
    pub first_operator: usize,
    /// In the order of their headers.
    pub loops: Vec<Loop>,
    /// Direct callees, each once.
    calls: Vec<u32>,
    calls_indirectly: bool,
    /// Instructions of it that may each take as long as a loop: copying and filling memory.
    pub bulk: u32,
    quiet: bool,
}

impl Function {
    fn is_leaf(&self) -> bool {
        self.loops.is_empty() && self.calls.is_empty() && !self.calls_indirectly && self.body.len() <= LEAF_BYTES_MAX
    }

    /// It takes so little time that nobody needs to end it.
    pub(super) fn is_short(&self) -> bool {
        self.is_leaf() && self.bulk == 0
    }
}

pub(crate) struct Loop {
    /// Where the first instruction inside the loop starts.
    inside: usize,
    has_loop: bool,
    /// What is called in this loop but in no loop inside it; `None` is a call through a pointer.
    callees: Vec<Option<u32>>,
}

/// What the pass and the inspection need to know of a module.
#[derive(Default)]
pub(crate) struct Outline {
    pub imports: Vec<(String, String, &'static str)>,
    pub exports: Vec<(String, ExternalKind, u32)>,
    pub memories: Vec<wasmparser::MemoryType>,
    pub tables: u32,
    pub has_start: bool,
    /// The module carries the custom section or asyncify's exports.
    pub marked: bool,
    /// The content of the custom section.
    pub mark: Option<Vec<u8>>,
    /// Why the module can't be moved, apart from missing instrumentation.
    pub reasons: Vec<String>,
    pub globals: Vec<Global>,
    types: Vec<Option<wasmparser::FuncType>>,
    function_types: Vec<u32>,
    pub imported_functions: u32,
    pub poll: Option<u32>,
    pub functions: Vec<Function>,
}

pub(crate) struct Global {
    pub mutable: bool,
    /// Value of an `i32.const` initialiser.
    pub i32_value: Option<u32>,
}

impl Outline {
    /// Reads a module that has been validated.
    pub(crate) fn read(wasm: &[u8]) -> Result<Outline, Error> {
        let mut o = Outline::default();
        let mut names: HashMap<u32, bool> = HashMap::new();
        for payload in Parser::new(0).parse_all(wasm) {
            match payload? {
                Payload::TypeSection(section) => {
                    for group in section {
                        for ty in group?.into_types() {
                            o.types.push(match ty.composite_type.inner {
                                wasmparser::CompositeInnerType::Func(f) => Some(f),
                                _ => None,
                            });
                        }
                    }
                }
                Payload::ImportSection(section) => {
                    for import in section.into_imports() {
                        o.import(import?);
                    }
                }
                Payload::FunctionSection(section) => {
                    for ty in section {
                        o.function_types.push(ty?);
                    }
                }
                Payload::TableSection(section) => o.tables += section.count(),
                Payload::MemorySection(section) => {
                    for memory in section {
                        o.memory(memory?);
                    }
                }
                Payload::GlobalSection(section) => {
                    for global in section {
                        let global = global?;
                        if global.ty.mutable && matches!(global.ty.content_type, ValType::Ref(_)) {
                            o.reason("a mutable global holds a reference");
                        }
                        o.globals.push(Global { mutable: global.ty.mutable, i32_value: i32_const(&global.init_expr) });
                    }
                }
                Payload::ExportSection(section) => {
                    for export in section {
                        let export = export?;
                        o.marked |= export.name.starts_with("asyncify_");
                        o.exports.push((export.name.to_string(), export.kind, export.index));
                    }
                }
                Payload::StartSection { .. } => {
                    o.has_start = true;
                    o.reason("it has a start function, which would run again in each copy");
                }
                Payload::CodeSectionEntry(body) => o.body(&body)?,
                Payload::CustomSection(section) if section.name() == SECTION => {
                    o.marked = true;
                    o.mark = Some(section.data().to_vec());
                }
                Payload::CustomSection(section) => {
                    if let KnownCustom::Name(reader) = section.as_known() {
                        // A broken name section only costs the names.
                        for subsection in reader.into_iter().map_while(Result::ok) {
                            if let Name::Function(map) = subsection {
                                for naming in map.into_iter().map_while(Result::ok) {
                                    names.insert(naming.index, QUIET.contains(&naming.name));
                                }
                            }
                        }
                    }
                }
                _ => {}
            }
        }
        for (i, function) in o.functions.iter_mut().enumerate() {
            function.quiet = names.get(&(o.imported_functions + i as u32)).copied().unwrap_or(false);
        }
        if o.tables > 1 {
            o.reasons.push(format!("it has {} tables, only one can be restored", o.tables));
        }
        Ok(o)
    }

    /// Value of an exported immutable `i32` global.
    pub(crate) fn address_of(&self, export: &str) -> Option<u32> {
        let index = self.exports.iter().find(|(name, kind, _)| name == export && *kind == ExternalKind::Global)?.2;
        self.globals.get(index as usize).filter(|g| !g.mutable)?.i32_value
    }

    /// Indices of the mutable globals.
    pub(crate) fn mutable_globals(&self) -> impl Iterator<Item = u32> {
        self.globals.iter().enumerate().filter(|(_, g)| g.mutable).map(|(i, _)| i as u32)
    }

    /// Number of an exported function.
    pub(crate) fn function(&self, export: &str) -> Option<u32> {
        self.exports.iter().find(|(name, kind, _)| name == export && *kind == ExternalKind::Func).map(|e| e.2)
    }

    /// Type of an exported function.
    pub(crate) fn function_type(&self, export: &str) -> Option<&wasmparser::FuncType> {
        self.type_of(self.function(export)?)
    }

    /// Type of a function by its number.
    pub(crate) fn type_of(&self, function: u32) -> Option<&wasmparser::FuncType> {
        self.type_at(*self.function_types.get(function as usize)?)
    }

    /// Function type by its own number.
    pub(crate) fn type_at(&self, index: u32) -> Option<&wasmparser::FuncType> {
        self.types.get(index as usize)?.as_ref()
    }

    fn is_leaf(&self, callee: Option<u32>) -> bool {
        let own = callee.and_then(|index| index.checked_sub(self.imported_functions));
        own.and_then(|i| self.functions.get(i as usize)).is_some_and(Function::is_leaf)
    }

    fn reason(&mut self, reason: &str) {
        if !self.reasons.iter().any(|r| r == reason) {
            self.reasons.push(reason.to_string());
        }
    }

    fn import(&mut self, import: wasmparser::Import<'_>) {
        let kind = match import.ty {
            TypeRef::Func(ty) | TypeRef::FuncExact(ty) => {
                if (import.module, import.name) == ("cloudskin", "poll") {
                    self.poll = Some(self.imported_functions);
                }
                self.function_types.push(ty);
                self.imported_functions += 1;
                "function"
            }
            TypeRef::Table(_) => {
                self.tables += 1;
                self.reason("it imports its table");
                "table"
            }
            TypeRef::Memory(memory) => {
                self.reason("it imports its memory");
                self.memory(memory);
                "memory"
            }
            TypeRef::Global(ty) => {
                if ty.mutable {
                    self.reason("it imports a mutable global");
                }
                self.globals.push(Global { mutable: ty.mutable, i32_value: None });
                "global"
            }
            TypeRef::Tag(_) => "tag",
        };
        self.imports.push((import.module.to_string(), import.name.to_string(), kind));
    }

    fn memory(&mut self, memory: wasmparser::MemoryType) {
        if memory.memory64 {
            self.reason("its memory has 64-bit addresses");
        }
        if memory.shared {
            self.reason("its memory is shared between threads");
        }
        self.memories.push(memory);
    }

    fn body(&mut self, body: &FunctionBody<'_>) -> Result<(), Error> {
        for local in body.get_locals_reader()? {
            if matches!(local?.1, ValType::Ref(_)) {
                self.reason("a function keeps references in local variables");
            }
        }
        let mut operators = body.get_operators_reader()?;
        let first_operator = operators.original_position();
        let mut loops: Vec<Loop> = Vec::new();
        let (mut calls, mut seen, mut calls_indirectly, mut bulk) = (Vec::new(), HashSet::new(), false, 0);
        // One entry per open block: the number of the loop that it is, or is in.
        let mut open: Vec<Option<usize>> = vec![None];
        while !operators.eof() {
            let operator = operators.read()?;
            let within = open.last().copied().flatten();
            match operator {
                Operator::Block { .. } | Operator::If { .. } => open.push(within),
                Operator::Loop { .. } => {
                    if let Some(outer) = within {
                        loops[outer].has_loop = true;
                    }
                    open.push(Some(loops.len()));
                    loops.push(Loop { inside: operators.original_position(), has_loop: false, callees: Vec::new() });
                }
                Operator::End => {
                    open.pop();
                }
                Operator::Call { function_index } | Operator::ReturnCall { function_index } => {
                    if seen.insert(function_index) {
                        calls.push(function_index);
                    }
                    if let Some(l) = within {
                        loops[l].callees.push(Some(function_index));
                    }
                }
                Operator::CallIndirect { .. } | Operator::ReturnCallIndirect { .. } => {
                    calls_indirectly = true;
                    if let Some(l) = within {
                        loops[l].callees.push(None);
                    }
                }
                Operator::MemoryCopy { .. } | Operator::MemoryFill { .. } | Operator::MemoryInit { .. } => bulk += 1,
                Operator::TableSet { .. }
                | Operator::TableGrow { .. }
                | Operator::TableFill { .. }
                | Operator::TableCopy { .. }
                | Operator::TableInit { .. } => self.reason("it changes its function table while it runs"),
                _ => {}
            }
        }
        self.functions.push(Function { body: body.range(), first_operator, loops, calls, calls_indirectly, bulk, quiet: false });
        Ok(())
    }
}

fn i32_const(init: &ConstExpr<'_>) -> Option<u32> {
    // More than one instruction computes with it.
    let mut operators = init.get_operators_reader();
    match (operators.read(), operators.read()) {
        (Ok(Operator::I32Const { value }), Ok(Operator::End)) => Some(value as u32),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A module around `functions` with everything that the linker would have made.
    fn module(functions: &str) -> Vec<u8> {
        let text = format!(
            r#"(module
                (type $v (func))
                (import "cloudskin" "poll" (func $poll))
                (import "cloudskin_mpi" "MPI_Barrier" (func $barrier (param i32) (result i32)))
                (memory 130)
                (table 2 funcref)
                (global $sp (mut i32) (i32.const 1024))
                (global (export "__cloudskin_flags") i32 (i32.const 2048))
                (global (export "__cloudskin_unwind") i32 (i32.const 4096))
                (global $t (mut f64) (f64.const 1))
                (func (export "_start") (drop (call $barrier (i32.const 1))))
                (func $keep (export "__cloudskin_keep") (call $poll))
                (elem (i32.const 0) $keep $keep)
                {functions})"#
        );
        wat::parse_str(text).unwrap()
    }

    /// (polls, die checks) that `functions` get; the result is a valid module.
    fn check(functions: &str, expected: (u32, u32)) {
        let (out, mark) = insert(&module(functions), &Options::default()).unwrap();
        wasmparser::Validator::new_with_features(super::super::features()).validate_all(&out).unwrap();
        assert_eq!((mark.polls, mark.die_checks), expected, "{functions}");
    }

    #[test]
    fn innermost_loops_only_check_for_death() {
        check("(func (loop $a (br_if $a (i32.const 0))))", (0, 1));
        check("(func (loop $a (loop $b (br_if $b (i32.const 0))) (br_if $a (i32.const 0))))", (1, 1));
        check("(func (loop (block (if (i32.const 1) (then (loop) (loop))))))", (1, 2));
        check("(func (loop (loop (loop))) (loop))", (2, 2));
        check("(func (block) (if (i32.const 0) (then)))", (0, 0));
    }

    #[test]
    fn a_loop_that_calls_polls_unless_it_calls_a_leaf() {
        let leaf = "(func $leaf (result i32) (i32.const 7))";
        check(&format!("{leaf} (func (loop (drop (call $leaf))))"), (0, 1));
        check("(func (loop (drop (call $barrier (i32.const 1)))))", (1, 0));
        check("(func (loop (call_indirect (type $v) (i32.const 0))))", (1, 0));
        check(&format!("{leaf} (func $f (drop (call $leaf))) (func (loop (call $f)))"), (1, 0));
        // The call is in the inner loop; the outer polls because it has a loop.
        check("(func (loop (loop (drop (call $barrier (i32.const 1))))))", (2, 0));
    }

    #[test]
    fn recursion_polls_at_entry() {
        check("(func $f (call $f))", (1, 0));
        check("(func $f (call $g)) (func $g (call $h)) (func $h (call $f)) (func (call $f))", (3, 0));
        check("(func $f (call $g)) (func $g)", (0, 0));
        check("(func $f (param i32) (local f64 i64) (loop (call $f (i32.const 1))))", (2, 0));
    }

    #[test]
    fn the_c_library_is_left_in_peace() {
        check("(func $malloc (loop (loop)))", (0, 2));
        check("(func $dlfree (call $dlfree))", (0, 0));
    }

    #[test]
    fn long_call_chains_do_not_overflow_the_stack() {
        let chain: String = (0..50_000).map(|i| format!("(func $f{i} (call $f{}))", (i + 1) % 50_000)).collect();
        check(&chain, (50_000, 0));
    }

    #[test]
    fn state_is_exported_and_the_helper_is_not() {
        let (out, mark) = insert(&module(""), &Options::default()).unwrap();
        let outline = Outline::read(&out).unwrap();
        let names: Vec<&str> = outline.exports.iter().map(|(name, ..)| name.as_str()).collect();
        assert_eq!(
            names,
            ["__cloudskin_unwind", "_start", "memory", "__indirect_function_table", "__cloudskin_g0", "__cloudskin_g1"]
        );
        assert_eq!((mark.unwind, mark.globals), (4096, 2));
    }

    #[test]
    fn death_checks_can_be_left_out() {
        let options = Options { die_checks: false, ..Options::default() };
        let (_, mark) = insert(&module("(func (loop (loop)))"), &options).unwrap();
        assert_eq!((mark.polls, mark.die_checks), (1, 0));
    }

    fn refused(text: &str) -> String {
        insert(&wat::parse_str(text).unwrap(), &Options::default()).unwrap_err().to_string()
    }

    #[test]
    fn what_cannot_be_moved_is_refused_with_all_reasons() {
        let message = refused("(module (memory i64 1) (table 1 funcref) (func (table.set (i32.const 0) (ref.null func))))");
        assert_eq!(
            message,
            "the module can't be moved: its memory has 64-bit addresses; it changes its function table while it runs"
        );
        assert!(refused("(module (memory 1))").contains("__cloudskin_flags"));
        assert!(refused("(module (memory 1 1 shared))").contains("shared between threads"));
        let twice = insert(&module(r#"(func (export "asyncify_start_unwind") (param i32))"#), &Options::default());
        assert!(twice.unwrap_err().to_string().contains("already instrumented"));
    }
}
