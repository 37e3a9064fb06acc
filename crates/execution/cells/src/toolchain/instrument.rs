//! Puts safe points into a linked module; `docs/design/safe-points.md` says how and why so.
//!
//! A cell can be stopped where its stack can be unwound: in a blocking host call, or at a poll that this pass adds at loop headers and at the entry of
//! recursive functions. A poll is a load and a branch that is not taken until the agent sets the stop words; then the function stores what it
//! needs, and returns. All of it happens after LLVM is done.
//!
//! ```text
//! Outline::read   imports, exports, types, who calls whom, where loops are
//! Calls           which functions can unwind: those that can reach a safe point
//! body, live, emit   one such function anew; the others are copied
//! assemble        two more globals, exports of all state, branch hints, the mark
//! ```
//!
//! Nothing is renumbered: names, function pointers and types stay as the linker made them. Debug sections (DWARF) hold code offsets that would be wrong and are dropped.
//!
//! Loops in short functions of the C library ([`QUIET`]) check only whether they are to die, so that their callers stay as they are. Recursion through
//! function pointers alone has no poll; such a cycle nearly always contains a loop or a host call.

mod body;
mod emit;
mod live;
#[cfg(test)]
#[path = "instrument/tests.rs"]
mod differential;

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use wasm_encoder::{CodeSection, CustomSection, Encode, ExportKind, ExportSection, RawSection, SectionId};
use wasmparser::{
    BlockType, ConstExpr, ElementItems, ExternalKind, FuncType, FunctionBody, KnownCustom, Name, Operator, Parser, Payload, TypeRef, ValType, ValidPayload,
};

use super::blocking::can_block;
use super::{Error, FLAGS, FORMAT, GLOBAL_PREFIX, Mark, SECTION, STATE, STOP_WORDS, TABLE, TOP, UNWIND, UNWIND_BYTES};

/// The global `state` while the stack is unwound. 0: at work; numbers above: the safe point that a rewind goes to.
pub const UNWINDING: i32 = 1;

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
    "__stdio_exit", "__ofl_add", "__ofl_lock", "__main_void", "__wasm_call_ctors", "__wasm_call_dtors", "__funcs_on_exit", "__stdio_write", "__stdio_read", "__stdio_seek", "__stdout_write", "__fwritex", "writev", "readv", "vsnprintf", "vasprintf",
];

/// What the pass may leave out.
#[derive(Clone, Debug)]
pub struct Options {
    /// Check the die words in the loops that have no poll, so that a cell can be killed wherever it is.
    pub die_checks: bool,
    /// For the mark, e.g. `ziglang 0.17.1`.
    pub toolchain: String,
}

impl Default for Options {
    fn default() -> Options {
        Options { die_checks: true, toolchain: String::new() }
    }
}

/// Instruments `wasm`, as linked with `guests/runtime.c`. The result carries the custom section [`SECTION`]. A module that can't be moved is
/// [`Error::NotMovable`] with all reasons.
pub fn instrument(wasm: &[u8]) -> Result<Vec<u8>, Error> {
    instrument_with(wasm, &Options::default())
}

/// [`instrument`] with choices.
pub fn instrument_with(wasm: &[u8], options: &Options) -> Result<Vec<u8>, Error> {
    let (mut out, mark) = insert(wasm, options)?;
    append_mark(&mut out, &mark);
    wasmparser::Validator::new_with_features(super::features())
        .validate_all(&out)
        .map_err(|e| Error::Malformed(format!("after instrumentation: {e}")))?;
    Ok(out)
}

/// What the functions of one module share while they are written anew.
struct Module {
    flags: u32,
    /// Indices of the globals.
    state: u32,
    top: u32,
    unwind_end: u32,
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

/// [`instrument_with`] without the mark in the module.
fn insert(wasm: &[u8], options: &Options) -> Result<(Vec<u8>, Mark), Error> {
    wasmparser::Validator::new_with_features(super::features()).validate_all(wasm)?;
    let outline = Outline::read(wasm)?;
    if !outline.reasons.is_empty() {
        return Err(Error::NotMovable(outline.reasons));
    }
    if outline.marked {
        return Err(Error::NotMovable(vec!["it is already instrumented".into()]));
    }
    let missing = |name: &str| Error::NotMovable(vec![format!("it has no {name}: it was not linked by `cloudskin cc`")]);
    let flags = outline.address_of(FLAGS).ok_or_else(|| missing(FLAGS))?;
    let unwind = outline.address_of(UNWIND).ok_or_else(|| missing(UNWIND))?;
    let mut module = shared(&outline, flags, unwind);
    let calls = Calls::new(&outline);
    let (bodies, hints) = rewrite_all(wasm, &outline, &calls, &mut module, options)?;
    let out = assemble(wasm, &outline, &module, unwind, &bodies, &hints)?;
    let mark = Mark {
        version: FORMAT,
        flags,
        unwind,
        unwind_bytes: UNWIND_BYTES,
        polls: module.polls,
        die_checks: module.die_checks,
        globals: outline.mutable_globals().count() as u32,
        toolchain: options.toolchain.clone(),
    };
    Ok((out, mark))
}

fn shared(outline: &Outline, flags: u32, unwind: u32) -> Module {
    Module {
        flags,
        state: outline.globals.len() as u32,
        top: outline.globals.len() as u32 + 1,
        unwind_end: unwind.saturating_add(UNWIND_BYTES),
        next_point: UNWINDING as u32 + 1,
        polls: 0,
        die_checks: 0,
        new_types: HashMap::new(),
        first_new_type: outline.types.len() as u32,
    }
}

type Hints = Vec<(u32, Vec<(u32, bool)>)>;

/// All function bodies in order, and the hints of those that were written anew.
fn rewrite_all(wasm: &[u8], outline: &Outline, calls: &Calls<'_>, module: &mut Module, options: &Options) -> Result<(Vec<Vec<u8>>, Hints), Error> {
    let (mut bodies, mut hints) = (Vec::with_capacity(outline.functions.len()), Vec::new());
    let mut validator = wasmparser::Validator::new_with_features(super::features());
    for payload in Parser::new(0).parse_all(wasm) {
        let ValidPayload::Func(to_validate, read) = validator.payload(&payload?)? else { continue };
        let (function, index) = (&outline.functions[bodies.len()], outline.imported_functions + bodies.len() as u32);
        if !calls.unwinds(index) {
            bodies.push(with_die_checks(wasm, function, module, options));
            continue;
        }
        let ty = calls.type_of(index);
        let wanted = body::Wanted { poll_loops: !function.quiet, poll_entry: !function.quiet && calls.is_recursive(index) };
        let body = body::read(to_validate.into_validator(Default::default()), &read, ty, calls, wanted)?;
        let written = emit::write(wasm, module, &body, ty.results(), wanted.poll_loops, options.die_checks);
        bodies.push(written.bytes);
        hints.push((index, written.hints));
    }
    Ok((bodies, hints))
}

/// A function that can't be stopped, as it is, but that its loops may be told to die.
fn with_die_checks(wasm: &[u8], function: &Function, module: &mut Module, options: &Options) -> Vec<u8> {
    let mut out = Vec::with_capacity(function.body.len() + 16 * function.loops.len());
    let mut copied = function.body.start;
    for (n, inside) in function.loops.iter().enumerate().filter(|_| options.die_checks) {
        out.extend_from_slice(&wasm[copied..*inside]);
        copied = *inside;
        emit::die_check(&mut out, module, n as u32);
    }
    out.extend_from_slice(&wasm[copied..function.body.end]);
    out
}

fn assemble(wasm: &[u8], outline: &Outline, module: &Module, unwind: u32, bodies: &[Vec<u8>], hints: &Hints) -> Result<Vec<u8>, Error> {
    let mut out = wasm_encoder::Module::new();
    for payload in Parser::new(0).parse_all(wasm) {
        match payload? {
            Payload::TypeSection(section) => {
                let mut new: Vec<(&Vec<ValType>, &u32)> = module.new_types.iter().collect();
                new.sort_by_key(|(_, index)| **index);
                let entries: Vec<Vec<u8>> = new.iter().map(|(results, _)| function_type(results)).collect();
                extended(&mut out, SectionId::Type, &wasm[section.range()], section.count(), &entries);
            }
            // Present, because the addresses of the flags are in it; so are the exports.
            Payload::GlobalSection(section) => {
                let global = |value: u32| {
                    let mut entry = vec![0x7f, 1];
                    wasm_encoder::ConstExpr::i32_const(value as i32).encode(&mut entry);
                    entry
                };
                extended(&mut out, SectionId::Global, &wasm[section.range()], section.count(), &[global(0), global(unwind)]);
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
        emit::value_type(*ty).encode(&mut entry);
    }
    entry
}

/// Debug sections hold offsets into code that has moved, hints of another make as well.
fn is_dropped(custom: &str) -> bool {
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
    if outline.memories > 0 && !have.contains("memory") {
        section.export("memory", ExportKind::Memory, 0);
    }
    if outline.tables > 0 && !have.contains(TABLE) {
        section.export(TABLE, ExportKind::Table, 0);
    }
    for (number, index) in outline.mutable_globals().enumerate() {
        section.export(&format!("{GLOBAL_PREFIX}{number}"), ExportKind::Global, index);
    }
    section.export(STATE, ExportKind::Global, module.state);
    section.export(TOP, ExportKind::Global, module.top);
    section
}

/// Who may unwind: those that can reach a safe point.
struct Calls<'o> {
    outline: &'o Outline,
    recursive: HashSet<u32>,
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
            for callee in &function.calls {
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
            if !function.quiet && (!function.loops.is_empty() || recursive.contains(&(i as u32))) {
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
        Calls { outline, recursive, functions: unwinds, indirect }
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

    fn is_recursive(&self, function: u32) -> bool {
        self.recursive.contains(&(function - self.outline.imported_functions))
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
struct Function {
    /// Byte range in the module: locals and code, without the size in front.
    body: Range<usize>,
    /// Where the first instruction inside of each loop starts, in this order.
    loops: Vec<usize>,
    /// Direct callees, each once.
    calls: Vec<u32>,
    /// Types of calls through the table, each once.
    indirect_calls: Vec<u32>,
    quiet: bool,
}

/// What the pass and the inspection need to know of a module.
#[derive(Default)]
pub(crate) struct Outline {
    pub imports: Vec<(String, String, &'static str)>,
    pub exports: Vec<(String, ExternalKind, u32)>,
    pub memories: u32,
    pub memory: Option<wasmparser::MemoryType>,
    pub memory_imported: bool,
    pub tables: u32,
    pub has_start: bool,
    /// The module carries the custom section or has been made able to unwind by another tool.
    pub marked: bool,
    /// The content of the custom section.
    pub mark: Option<Vec<u8>>,
    /// Why the module can't be moved, apart from missing instrumentation.
    pub reasons: Vec<String>,
    globals: Vec<Global>,
    types: Vec<Option<wasmparser::FuncType>>,
    function_types: Vec<u32>,
    imported_functions: u32,
    functions: Vec<Function>,
    /// Functions that the table may hold.
    elements: Vec<u32>,
}

struct Global {
    ty: ValType,
    mutable: bool,
    /// Value of an `i32.const` initialiser.
    i32_value: Option<u32>,
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
                        o.globals.push(Global { ty: global.ty.content_type, mutable: global.ty.mutable, i32_value: i32_const(&global.init_expr) });
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
                Payload::ElementSection(section) => {
                    for element in section {
                        o.element(element?.items)?;
                    }
                }
                Payload::CodeSectionEntry(body) => o.function(&body)?,
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
        if o.memories != 1 {
            o.reasons.push(format!("it has {} memories instead of one", o.memories));
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

    pub(crate) fn is_i32(&self, global: u32) -> bool {
        self.globals.get(global as usize).is_some_and(|g| g.ty == ValType::I32)
    }

    /// Type of an exported function.
    pub(crate) fn function_type(&self, export: &str) -> Option<&wasmparser::FuncType> {
        let index = self.exports.iter().find(|(name, kind, _)| name == export && *kind == ExternalKind::Func)?.2;
        self.types.get(*self.function_types.get(index as usize)? as usize)?.as_ref()
    }

    fn reason(&mut self, reason: &str) {
        if !self.reasons.iter().any(|r| r == reason) {
            self.reasons.push(reason.to_string());
        }
    }

    fn import(&mut self, import: wasmparser::Import<'_>) {
        let kind = match import.ty {
            TypeRef::Func(ty) | TypeRef::FuncExact(ty) => {
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
                self.memory_imported = true;
                self.reason("it imports its memory");
                self.memory(memory);
                "memory"
            }
            TypeRef::Global(ty) => {
                if ty.mutable {
                    self.reason("it imports a mutable global");
                }
                self.globals.push(Global { ty: ty.content_type, mutable: ty.mutable, i32_value: None });
                "global"
            }
            TypeRef::Tag(_) => "tag",
        };
        self.imports.push((import.module.to_string(), import.name.to_string(), kind));
    }

    fn memory(&mut self, memory: wasmparser::MemoryType) {
        self.memories += 1;
        if memory.memory64 {
            self.reason("its memory has 64-bit addresses");
        }
        if memory.shared {
            self.reason("its memory is shared between threads");
        }
        self.memory.get_or_insert(memory);
    }

    fn function(&mut self, body: &FunctionBody<'_>) -> Result<(), Error> {
        for local in body.get_locals_reader()? {
            if matches!(local?.1, ValType::Ref(_)) {
                self.reason("a function keeps references in local variables");
            }
        }
        let (mut loops, mut calls, mut indirect_calls) = (Vec::new(), HashSet::new(), HashSet::new());
        let mut operators = body.get_operators_reader()?;
        while !operators.eof() {
            match operators.read()? {
                Operator::Loop { .. } => loops.push(operators.original_position()),
                Operator::Call { function_index } | Operator::ReturnCall { function_index } => drop(calls.insert(function_index)),
                Operator::CallIndirect { type_index, .. } | Operator::ReturnCallIndirect { type_index, .. } => drop(indirect_calls.insert(type_index)),
                Operator::TableSet { .. }
                | Operator::TableGrow { .. }
                | Operator::TableFill { .. }
                | Operator::TableCopy { .. }
                | Operator::TableInit { .. } => self.reason("it changes its function table while it runs"),
                _ => {}
            }
        }
        let (calls, indirect_calls) = (calls.into_iter().collect(), indirect_calls.into_iter().collect());
        self.functions.push(Function { body: body.range(), loops, calls, indirect_calls, quiet: false });
        Ok(())
    }

    fn element(&mut self, items: ElementItems<'_>) -> Result<(), Error> {
        match items {
            ElementItems::Functions(indices) => {
                for index in indices {
                    self.elements.push(index?);
                }
            }
            ElementItems::Expressions(_, expressions) => {
                for expression in expressions {
                    for operator in expression?.get_operators_reader() {
                        if let Operator::RefFunc { function_index } = operator? {
                            self.elements.push(function_index);
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

fn i32_const(init: &ConstExpr<'_>) -> Option<u32> {
    match init.get_operators_reader().read() {
        Ok(Operator::I32Const { value }) => Some(value as u32),
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
                (type $i (func (param i32) (result i32)))
                (import "cloudskin_mpi" "MPI_Barrier" (func $barrier (param i32) (result i32)))
                (memory 130)
                (table 2 funcref)
                (global $sp (mut i32) (i32.const 1024))
                (global (export "__cloudskin_flags") i32 (i32.const 2048))
                (global (export "__cloudskin_unwind") i32 (i32.const 8192))
                (global $t (mut f64) (f64.const 1))
                (func $start (export "_start") (drop (call $barrier (i32.const 1))))
                (elem (i32.const 0) $start $start)
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
    fn every_loop_polls() {
        check("(func (loop $a (br_if $a (i32.const 0))))", (1, 0));
        check("(func (loop $a (loop $b (br_if $b (i32.const 0))) (br_if $a (i32.const 0))))", (2, 0));
        check("(func (loop (block (if (i32.const 1) (then (loop) (loop))))))", (3, 0));
        check("(func (block) (if (i32.const 0) (then)))", (0, 0));
        check("(func (return) (loop (loop)))", (0, 0));
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
        // It calls what the program gave it, so it can be stopped there; its loops are still its own.
        check("(func $printf_core (loop (call_indirect (type $v) (i32.const 0))) (loop))", (0, 2));
    }

    /// Whether the function `$f` is written anew.
    fn touched(functions: &str, expected: bool) {
        let wasm = module(functions);
        let outline = Outline::read(&wasm).unwrap();
        let calls = Calls::new(&outline);
        assert_eq!(calls.unwinds(2), expected, "{functions}");
        let (out, _) = insert(&wasm, &Options::default()).unwrap();
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
        check(&chain, (50_000, 0));
    }

    #[test]
    fn deep_nesting_does_not_overflow_the_stack() {
        let depth = 20_000;
        check(&format!("(func {} (drop (call $barrier (i32.const 1))) {})", "block ".repeat(depth), "end ".repeat(depth)), (0, 0));
    }

    #[test]
    fn state_is_exported() {
        let (out, mark) = insert(&module(""), &Options::default()).unwrap();
        let outline = Outline::read(&out).unwrap();
        let names: Vec<&str> = outline.exports.iter().map(|(name, ..)| name.as_str()).collect();
        assert_eq!(
            names,
            [
                "__cloudskin_flags", "__cloudskin_unwind", "_start", "memory", "__indirect_function_table", "__cloudskin_g0", "__cloudskin_g1",
                "__cloudskin_state", "__cloudskin_top"
            ]
        );
        assert_eq!((mark.flags, mark.unwind, mark.globals), (2048, 8192, 2));
    }

    #[test]
    fn death_checks_can_be_left_out() {
        let options = Options { die_checks: false, ..Options::default() };
        let (_, mark) = insert(&module("(func $malloc (loop (loop)))"), &options).unwrap();
        assert_eq!((mark.polls, mark.die_checks), (0, 0));
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
        assert!(refused("(module (memory 1 1 shared))").contains("malformed"));
        let fails = |functions: &str| insert(&module(functions), &Options::default()).unwrap_err().to_string();
        assert!(fails(r#"(func (export "asyncify_start_unwind") (param i32))"#).contains("already instrumented"));
        assert!(fails("(func $f (return_call $g)) (func $g (loop))").contains("tail call"));
        assert!(fails("(func (ref.null func) (loop) (drop))").contains("a reference is in use"));
    }
}
