//! What of a module stays with the engine once its functions are native code: memory, globals, table, data, exports, and functions that only go over.
//!
//! ```text
//! function that the engine may call   globals -> copies; native code (an import of ours); copies -> globals        stub
//! other functions                     unreachable
//! for each import, exported           copies -> globals; the import; globals -> copies                             thunk: what native code calls out to
//! and for each `Own`                  the instruction
//! a stub throws what native code has thrown and not caught, a thunk catches what comes out of the import and leaves it to native code (`exceptions`)
//! ```
//!
//! The copies lie behind the flag words in the second memory, where both sides reach them. So whoever looks at the instance (a snapshot, a host function that
//! sets the state) finds the globals where they always are.

use super::exceptions::THROWN;
use super::translate::{GLOBALS, Ty};
use super::{MODULE, OUT};
use wasm_encoder::{
    BlockType, Catch, CodeSection, ConstExpr, ElementSection, Elements, EntityType, ExportKind, ExportSection, Function, FunctionSection, ImportSection, InstructionSink, MemArg,
    MemoryType, Module, NameMap, NameSection, RawSection, SectionId, TypeSection, ValType,
};
use wasmparser::ExternalKind;

/// What only the instance can do: native code calls out for it, by the numbers that follow those of the imports.
#[derive(Clone, Copy)]
pub(super) enum Own {
    /// `memory.grow` and `memory.size`.
    Grow,
    Size,
    /// `memory.init` and `data.drop` of a segment.
    Init(u32),
    Drop(u32),
}

impl Own {
    /// All of them, by their numbers. `passive`: the segments that can be copied from.
    pub fn all(passive: &[u32]) -> impl Iterator<Item = Own> {
        [Own::Grow, Own::Size].into_iter().chain(passive.iter().flat_map(|segment| [Own::Init(*segment), Own::Drop(*segment)]))
    }

    /// Of parameters and result.
    pub fn signature(self) -> (&'static [wasmparser::ValType], &'static [wasmparser::ValType]) {
        use wasmparser::ValType::I32;
        match self {
            Own::Grow => (&[I32], &[I32]),
            Own::Size => (&[], &[I32]),
            Own::Init(_) => (&[I32, I32, I32], &[]),
            Own::Drop(_) => (&[], &[]),
        }
    }

    /// What native code calls it.
    pub fn name(self) -> String {
        match self {
            Own::Grow => "@grow".into(),
            Own::Size => "@size".into(),
            Own::Init(segment) => format!("@init{segment}"),
            Own::Drop(segment) => format!("@drop{segment}"),
        }
    }

    fn body(self) -> Function {
        let mut body = Function::new([]);
        let mut code = body.instructions();
        for i in 0..self.signature().0.len() {
            code.local_get(i as u32);
        }
        match self {
            Own::Grow => code.memory_grow(0),
            Own::Size => code.memory_size(0),
            Own::Init(segment) => code.memory_init(0, segment),
            Own::Drop(segment) => code.data_drop(segment),
        };
        code.end();
        body
    }
}

/// The sections of a module that matter here.
#[derive(Default)]
pub(super) struct Parts<'a> {
    pub types: Vec<wasmparser::FuncType>,
    /// Functions.
    pub imports: Vec<(&'a str, &'a str, u32)>,
    /// Memory that is the cell's, and not the instance's, with its import's names.
    pub shared: Option<(&'a str, &'a str, wasmparser::MemoryType)>,
    /// Data segments that are copied from when the program says so.
    pub passive: Vec<u32>,
    /// How many kinds of exceptions there are.
    pub tags: u32,
    /// Types of the functions of its own.
    pub functions: Vec<u32>,
    /// Whole, as they are: tables, memories, globals, count and content of data.
    pub raw: Vec<(SectionId, &'a [u8])>,
    pub globals: Vec<wasmparser::GlobalType>,
    pub exports: Vec<(&'a str, ExternalKind, u32)>,
    /// Offset in the table, and the functions from there on.
    pub elements: Vec<(i32, Vec<u32>)>,
    pub names: Vec<(u32, &'a str)>,
}

impl Parts<'_> {
    /// Whether the engine may call a function of the module's own: it is exported or in the table.
    fn reached(&self, function: u32) -> bool {
        self.exports.iter().any(|(_, kind, index)| *kind == ExternalKind::Func && *index == function) || self.elements.iter().any(|(_, f)| f.contains(&function))
    }

    /// The functions that have stubs, in the order of the imports that stand for their native code.
    pub fn stubs(&self) -> Vec<u32> {
        let first = self.imports.len() as u32;
        (first..first + self.functions.len() as u32).filter(|f| self.reached(*f)).collect()
    }
}

fn value_type(ty: wasmparser::ValType) -> ValType {
    match ty {
        wasmparser::ValType::I32 => ValType::I32,
        wasmparser::ValType::I64 => ValType::I64,
        wasmparser::ValType::F32 => ValType::F32,
        wasmparser::ValType::F64 => ValType::F64,
        wasmparser::ValType::V128 => ValType::V128,
        // `translate` lets no module through that has one in a function or a mutable global.
        wasmparser::ValType::Ref(_) => ValType::FUNCREF,
    }
}

pub(super) fn module(parts: &Parts<'_>) -> Vec<u8> {
    let stubs = parts.stubs();
    let (imported, added) = (parts.imports.len() as u32, stubs.len() as u32);
    let moved = |function: u32| if function < imported { function } else { function + added };

    let mut types = TypeSection::new();
    for ty in &parts.types {
        types.ty().function(ty.params().iter().map(|t| value_type(*t)), ty.results().iter().map(|t| value_type(*t)));
    }
    for own in Own::all(&parts.passive) {
        let (params, results) = own.signature();
        types.ty().function(params.iter().map(|t| value_type(*t)), results.iter().map(|t| value_type(*t)));
    }

    let type_of = |function: u32| parts.functions[(function - imported) as usize];
    let mut imports = ImportSection::new();
    for (module, name, ty) in &parts.imports {
        imports.import(module, name, EntityType::Function(*ty));
    }
    if let Some((module, name, ty)) = parts.shared {
        imports.import(module, name, MemoryType { minimum: ty.initial, maximum: ty.maximum, memory64: false, shared: true, page_size_log2: None });
    }
    for (i, function) in stubs.iter().enumerate() {
        imports.import(MODULE, &i.to_string(), EntityType::Function(type_of(*function)));
    }

    let (mut functions, mut code) = (FunctionSection::new(), CodeSection::new());
    for (i, ty) in parts.functions.iter().enumerate() {
        functions.function(*ty);
        let native = stubs.iter().position(|f| *f == imported + i as u32);
        code.function(&match native {
            Some(native) => stub(parts, *ty, imported + native as u32),
            None => {
                let mut body = Function::new([]);
                body.instructions().unreachable().end();
                body
            }
        });
    }
    let mut exports = ExportSection::new();
    for (name, kind, index) in &parts.exports {
        let (kind, index) = match kind {
            ExternalKind::Func | ExternalKind::FuncExact => (ExportKind::Func, moved(*index)),
            ExternalKind::Table => (ExportKind::Table, *index),
            ExternalKind::Memory => (ExportKind::Memory, *index),
            ExternalKind::Global => (ExportKind::Global, *index),
            ExternalKind::Tag => (ExportKind::Tag, *index),
        };
        exports.export(name, kind, index);
    }
    let first = imported + added + parts.functions.len() as u32;
    for (i, (_, _, ty)) in parts.imports.iter().enumerate() {
        functions.function(*ty);
        code.function(&thunk(parts, *ty, i as u32));
        exports.export(&format!("{OUT}{i}"), ExportKind::Func, first + i as u32);
    }
    for (i, own) in (0..).zip(Own::all(&parts.passive)) {
        functions.function(parts.types.len() as u32 + i);
        code.function(&own.body());
        exports.export(&format!("{OUT}{}", imported + i), ExportKind::Func, first + imported + i);
    }

    let mut elements = ElementSection::new();
    for (offset, functions) in &parts.elements {
        let functions: Vec<u32> = functions.iter().map(|f| moved(*f)).collect();
        elements.active(None, &ConstExpr::i32_const(*offset), Elements::Functions(functions.into()));
    }
    let mut map = NameMap::new();
    for (function, name) in &parts.names {
        map.append(moved(*function), name);
    }
    let mut names = NameSection::new();
    names.functions(&map);

    let mut module = Module::new();
    let raw = |module: &mut Module, id: SectionId| {
        if let Some((_, data)) = parts.raw.iter().find(|(have, _)| *have == id) {
            module.section(&RawSection { id: id as u8, data });
        }
    };
    module.section(&types).section(&imports).section(&functions);
    raw(&mut module, SectionId::Table);
    raw(&mut module, SectionId::Memory);
    raw(&mut module, SectionId::Tag);
    raw(&mut module, SectionId::Global);
    module.section(&exports);
    if !parts.elements.is_empty() {
        module.section(&elements);
    }
    raw(&mut module, SectionId::DataCount);
    module.section(&code);
    raw(&mut module, SectionId::Data);
    module.section(&names);
    module.finish()
}

/// Where the first of the thrown words lies, or the second.
fn thrown(word: u32) -> MemArg {
    MemArg { offset: u64::from(THROWN + 4 * word), align: 2, memory_index: 1 }
}

/// Hands its arguments to native code, with the globals brought to where that looks for them, and back.
fn stub(parts: &Parts<'_>, ty: u32, native: u32) -> Function {
    let mut body = Function::new([]);
    let mut code = body.instructions();
    globals(&mut code, parts, true);
    for i in 0..parts.types[ty as usize].params().len() {
        code.local_get(i as u32);
    }
    code.call(native);
    globals(&mut code, parts, false);
    for tag in 0..parts.tags {
        code.i32_const(0).i32_load(thrown(0)).i32_const(tag as i32 + 1).i32_eq().if_(BlockType::Empty);
        code.i32_const(0).i32_const(0).i32_store(thrown(0));
        code.i32_const(0).i32_load(thrown(1)).throw(tag).end();
    }
    code.end();
    body
}

/// Hands its arguments to an import, the other way round.
fn thunk(parts: &Parts<'_>, ty: u32, import: u32) -> Function {
    let ty = &parts.types[ty as usize];
    let (params, results) = (ty.params().len() as u32, ty.results());
    let mut body = Function::new([(1, ValType::I32)]);
    let mut code = body.instructions();
    globals(&mut code, parts, false);
    for _ in 0..parts.tags {
        code.block(BlockType::Result(ValType::I32));
    }
    if parts.tags > 0 {
        let shape = results.first().map_or(BlockType::Empty, |t| BlockType::Result(value_type(*t)));
        code.try_table(shape, (0..parts.tags).map(|tag| Catch::One { tag, label: tag }));
    }
    for i in 0..params {
        code.local_get(i);
    }
    code.call(import);
    if parts.tags > 0 {
        code.end();
    }
    globals(&mut code, parts, true);
    for tag in 0..parts.tags {
        // What is tried is left by a return, a handler with the address.
        code.return_().end().local_set(params);
        code.i32_const(0).i32_const(tag as i32 + 1).i32_store(thrown(0));
        code.i32_const(0).local_get(params).i32_store(thrown(1));
        globals(&mut code, parts, true);
        for result in results {
            zero(&mut code, *result);
        }
    }
    code.end();
    body
}

fn zero(code: &mut InstructionSink<'_>, ty: wasmparser::ValType) {
    match value_type(ty) {
        ValType::I64 => code.i64_const(0),
        ValType::F32 => code.f32_const(0.0.into()),
        ValType::F64 => code.f64_const(0.0.into()),
        ValType::V128 => code.v128_const(0),
        ValType::I32 | ValType::Ref(_) => code.i32_const(0),
    };
}

/// Copies the mutable globals to behind the flag words, or back.
fn globals(code: &mut InstructionSink<'_>, parts: &Parts<'_>, out: bool) {
    for (i, global) in parts.globals.iter().enumerate().filter(|(_, g)| g.mutable) {
        let at = MemArg { offset: u64::from(GLOBALS) + 16 * i as u64, align: 2, memory_index: 1 };
        let Ok(ty) = Ty::of(global.content_type) else { continue };
        let i = i as u32;
        code.i32_const(0);
        match (out, ty) {
            (true, Ty::I32) => code.global_get(i).i32_store(at),
            (true, Ty::I64) => code.global_get(i).i64_store(at),
            (true, Ty::F32) => code.global_get(i).f32_store(at),
            (true, Ty::F64) => code.global_get(i).f64_store(at),
            (true, Ty::V128) => code.global_get(i).v128_store(at),
            (false, Ty::I32) => code.i32_load(at).global_set(i),
            (false, Ty::I64) => code.i64_load(at).global_set(i),
            (false, Ty::F32) => code.f32_load(at).global_set(i),
            (false, Ty::F64) => code.f64_load(at).global_set(i),
            (false, Ty::V128) => code.v128_load(at).global_set(i),
        };
    }
}
