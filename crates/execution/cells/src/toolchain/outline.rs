//! What the passes, the inspection and the proof need to know of a module, read once.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;

use wasmparser::{Catch, ConstExpr, ElementItems, ExternalKind, FunctionBody, KnownCustom, Name, Operator, Parser, Payload, TypeRef, ValType};

use super::bounded::Scan;
use super::flags::{self, Look};
use super::{Error, SECTION};

/// Instructions that a call of the host counts for.
const IMPORT_COST: u64 = 4096;
/// Those that a throw counts for. The frames that the engine walks on its way to a handler it takes away; they are paid for by the calls that made them.
const THROW_COST: u64 = 4096;
/// Instructions that a function may take, callees included, without looking at its flag words at its beginning.
pub(super) const UNLOOKED_MAX: u64 = 1 << 14;

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

/// One function of the module's own.
pub(super) struct Function {
    /// Byte range in the module: locals and code, without the size in front.
    pub body: Range<usize>,
    pub first_operator: usize,
    /// In the order of their heads.
    pub loops: Vec<Loop>,
    /// Direct callees, each once, and how often they are called at most between two looks of this function.
    pub calls: Vec<(u32, u64)>,
    /// Types of calls through the table, each once.
    pub indirect_calls: Vec<u32>,
    /// Instructions of it at most between two looks, those of callees apart.
    pub cost: u64,
    /// Where it copies or fills memory of any size without a look just before: such an instruction takes as long as a loop.
    pub bulk: Vec<usize>,
    /// It begins by looking at its flag words.
    pub looks: bool,
    pub quiet: bool,
}

/// A loop of a function.
#[derive(Clone, Copy)]
pub(super) struct Loop {
    /// Where the first instruction inside of it starts.
    pub inside: usize,
    /// How often it turns at most when it is entered, if its code shows it: [`super::bounded`].
    pub turns: Option<u32>,
}

/// What the pass and the inspection need to know of a module.
#[derive(Default)]
pub(crate) struct Outline {
    pub imports: Vec<(String, String, &'static str)>,
    pub exports: Vec<(String, ExternalKind, u32)>,
    pub memories: Vec<wasmparser::MemoryType>,
    pub tables: u32,
    pub has_start: bool,
    /// It throws or catches exceptions.
    pub exceptions: bool,
    /// It waits, wakes or grows its memory by an instruction, where the agent would not know of it.
    pub acts_alone: bool,
    /// The module carries the custom section or has been made able to unwind by another tool.
    pub marked: bool,
    /// The content of the custom section.
    pub mark: Option<Vec<u8>>,
    /// Why the module can't be moved, apart from missing instrumentation.
    pub reasons: Vec<String>,
    pub(super) globals: Vec<Global>,
    pub(super) types: Vec<Option<wasmparser::FuncType>>,
    pub(super) function_types: Vec<u32>,
    pub(super) imported_functions: u32,
    pub(super) functions: Vec<Function>,
    /// Types of what it throws, by tag.
    pub(super) tags: Vec<u32>,
    /// Functions that the table may hold.
    pub(super) elements: Vec<u32>,
}

pub(super) struct Global {
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
        let mut active_data = false;
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
                        let memory = memory?;
                        if memory.shared {
                            o.reason("its memory is shared between threads and not its cell's");
                        }
                        o.memory(memory);
                    }
                }
                Payload::DataSection(section) => {
                    for data in section {
                        active_data |= matches!(data?.kind, wasmparser::DataKind::Active { .. });
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
                Payload::TagSection(section) => {
                    for tag in section {
                        o.tags.push(tag?.func_type_idx);
                    }
                    o.exceptions = true;
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
        if active_data && o.is_shared() {
            o.reason("it has threads, each of which would write its data again");
        }
        if o.tables > 1 {
            o.reasons.push(format!("it has {} tables, only one can be restored", o.tables));
        }
        Ok(o)
    }

    /// Its memory is that of several threads, each with an instance of its own.
    pub(super) fn is_shared(&self) -> bool {
        self.memories.first().is_some_and(|m| m.shared)
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
        self.type_of(self.exports.iter().find(|(name, kind, _)| name == export && *kind == ExternalKind::Func)?.2)
    }

    /// Type of a function by its number.
    pub(crate) fn type_of(&self, function: u32) -> Option<&wasmparser::FuncType> {
        self.type_at(*self.function_types.get(function as usize)?)
    }

    /// Function type by its own number.
    pub(crate) fn type_at(&self, index: u32) -> Option<&wasmparser::FuncType> {
        self.types.get(index as usize)?.as_ref()
    }

    /// Of each function of the module's own: what it does at most between two looks, with what it calls. Those in `looks` begin with a look; those that
    /// would do more than `most` without one are added.
    pub(super) fn weights(&self, looks: &mut [bool], most: u64) -> Vec<u64> {
        let n = self.functions.len();
        let own = |callee: u32| callee.checked_sub(self.imported_functions).map(|i| i as usize);
        let (mut weights, mut seen) = (vec![u64::MAX; n], vec![false; n]);
        // Callees first; without recursion, because call chains in foreign modules may be as long as they like.
        let mut work: Vec<(usize, usize)> = Vec::new();
        for root in 0..n {
            if !std::mem::replace(&mut seen[root], true) {
                work.push((root, 0));
            }
            while let Some((f, next)) = work.last_mut() {
                let (f, function) = (*f, &self.functions[*f]);
                if let Some((callee, _)) = function.calls.get(*next) {
                    *next += 1;
                    if let Some(callee) = own(*callee).filter(|callee| !std::mem::replace(&mut seen[*callee], true)) {
                        work.push((callee, 0));
                    }
                    continue;
                }
                let calls = function.calls.iter().map(|(callee, times)| {
                    let each = match own(*callee) {
                        None => IMPORT_COST,
                        Some(callee) if looks[callee] => 1,
                        // Of one that is still being looked at, it is the most: it calls itself.
                        Some(callee) => weights[callee],
                    };
                    times.saturating_mul(each)
                });
                weights[f] = calls.fold(function.cost, u64::saturating_add);
                looks[f] |= weights[f] > most;
                work.pop();
            }
        }
        weights
    }

    /// Numbers (among the module's own) of the functions that do more without looking than they may.
    pub(super) fn heavy(&self) -> Vec<usize> {
        let mut looks: Vec<bool> = self.functions.iter().map(|f| f.looks).collect();
        let weights = self.weights(&mut looks, u64::MAX);
        (0..weights.len()).filter(|f| !looks[*f] && weights[*f] > UNLOOKED_MAX).collect()
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
                if !memory.shared {
                    self.reason("it imports its memory");
                }
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
            TypeRef::Tag(tag) => {
                self.tags.push(tag.func_type_idx);
                self.exceptions = true;
                "tag"
            }
        };
        self.imports.push((import.module.to_string(), import.name.to_string(), kind));
    }

    fn memory(&mut self, memory: wasmparser::MemoryType) {
        if memory.memory64 {
            self.reason("its memory has 64-bit addresses");
        }
        self.memories.push(memory);
    }

    fn function(&mut self, body: &FunctionBody<'_>) -> Result<(), Error> {
        for local in body.get_locals_reader()? {
            if matches!(local?.1, ValType::Ref(_)) {
                self.reason("a function keeps references in local variables");
            }
        }
        let mut operators = body.get_operators_reader()?;
        let first_operator = operators.original_position();
        // Which loops are bounded is known at their ends, and counts for what is in them.
        let (mut scan, mut loops) = (Scan::new(), Vec::new());
        while !operators.eof() {
            let op = operators.read()?;
            scan.step(&op);
            if matches!(op, Operator::Loop { .. }) {
                loops.push(Loop { inside: operators.original_position(), turns: None });
            }
        }
        for (known, turns) in loops.iter_mut().zip(scan.finish()) {
            known.turns = turns;
        }
        let mut function = Function {
            body: body.range(),
            first_operator,
            loops,
            calls: Vec::new(),
            indirect_calls: Vec::new(),
            cost: 0,
            bulk: Vec::new(),
            looks: flags::begins_with_a_look(body)?,
            quiet: false,
        };
        self.weigh(&mut function, body)?;
        self.functions.push(function);
        Ok(())
    }

    /// What a function does at most between two looks: a loop is one turn of it, or as many as it has without a look.
    fn weigh(&mut self, function: &mut Function, body: &FunctionBody<'_>) -> Result<(), Error> {
        let (mut indirect, mut calls) = (HashSet::new(), BTreeMap::<u32, u64>::new());
        let mut next_loop = function.loops.iter();
        // For each open block: how often what is directly in it is done.
        let mut open: Vec<u64> = vec![1];
        let mut look = Look::default();
        let mut operators = body.get_operators_reader()?;
        while !operators.eof() {
            let at = operators.original_position();
            let op = operators.read()?;
            let times = *open.last().unwrap_or(&1);
            let before = look;
            look = look.after(&op);
            let mut cost = 1;
            match &op {
                Operator::Block { .. } | Operator::If { .. } => open.push(times),
                Operator::TryTable { try_table } => {
                    open.push(times);
                    self.exceptions = true;
                    if try_table.catches.iter().any(|c| matches!(c, Catch::OneRef { .. } | Catch::AllRef { .. })) {
                        self.reason("it keeps references to exceptions");
                    }
                }
                Operator::Throw { .. } | Operator::ThrowRef => {
                    self.exceptions = true;
                    cost = THROW_COST;
                }
                Operator::Loop { .. } => {
                    let turns = next_loop.next().and_then(|l| l.turns).unwrap_or(1);
                    open.push(times.saturating_mul(turns.into()));
                }
                Operator::End => drop(open.pop()),
                Operator::Call { function_index } | Operator::ReturnCall { function_index } => {
                    let so_far = calls.entry(*function_index).or_insert(0);
                    *so_far = so_far.saturating_add(times);
                }
                Operator::CallIndirect { type_index, .. } | Operator::ReturnCallIndirect { type_index, .. } => drop(indirect.insert(*type_index)),
                Operator::MemoryAtomicWait32 { .. } | Operator::MemoryAtomicWait64 { .. } | Operator::MemoryAtomicNotify { .. } | Operator::MemoryGrow { .. } => self.acts_alone = true,
                Operator::MemoryCopy { .. } | Operator::MemoryFill { .. } | Operator::MemoryInit { .. } => match before {
                    Look::Done => {}
                    Look::Constant(bytes) if bytes <= flags::BULK_BYTES_MAX => cost += u64::from(bytes) / 8,
                    // As often as a loop turns that does not look: too much of it.
                    _ if times > 1 => cost = u64::MAX,
                    _ => function.bulk.push(at),
                },
                Operator::TableSet { .. }
                | Operator::TableGrow { .. }
                | Operator::TableFill { .. }
                | Operator::TableCopy { .. }
                | Operator::TableInit { .. } => self.reason("it changes its function table while it runs"),
                _ => {}
            }
            function.cost = function.cost.saturating_add(times.saturating_mul(cost));
        }
        function.calls = calls.into_iter().collect();
        function.indirect_calls = indirect.into_iter().collect();
        function.indirect_calls.sort_unstable();
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
    // More than one instruction computes with it.
    let mut operators = init.get_operators_reader();
    match (operators.read(), operators.read()) {
        (Ok(Operator::I32Const { value }), Ok(Operator::End)) => Some(value as u32),
        _ => None,
    }
}
