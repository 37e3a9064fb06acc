//! What of a module stays with the engine once its functions are native code: memory, globals, table, data, exports, and functions that only go over.
//!
//! ```text
//! function that the engine may call   globals -> copies; native code (an import of ours); copies -> globals        stub
//! other functions                     unreachable
//! for each import, exported           copies -> globals; the import; globals -> copies                             thunk: what native code calls out to
//! ```
//!
//! The copies lie behind the flag words in the second memory, where both sides reach them. So whoever looks at the instance (a snapshot, a host function that
//! sets the state) finds the globals where they always are.

use super::translate::{GLOBALS, Ty};
use super::{MODULE, OUT};
use wasm_encoder::{
    CodeSection, ConstExpr, ElementSection, Elements, EntityType, ExportKind, ExportSection, Function, FunctionSection, ImportSection, InstructionSink, MemArg,
    Module, NameMap, NameSection, RawSection, SectionId, TypeSection, ValType,
};
use wasmparser::ExternalKind;

/// The sections of a module that matter here.
#[derive(Default)]
pub(super) struct Parts<'a> {
    pub types: Vec<wasmparser::FuncType>,
    pub imports: Vec<(&'a str, &'a str, u32)>,
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
    let grow = parts.types.len() as u32;
    types.ty().function([ValType::I32], [ValType::I32]);

    let type_of = |function: u32| parts.functions[(function - imported) as usize];
    let mut imports = ImportSection::new();
    for (module, name, ty) in &parts.imports {
        imports.import(module, name, EntityType::Function(*ty));
    }
    for (i, function) in stubs.iter().enumerate() {
        imports.import(MODULE, &i.to_string(), EntityType::Function(type_of(*function)));
    }

    let (mut functions, mut code) = (FunctionSection::new(), CodeSection::new());
    for (i, ty) in parts.functions.iter().enumerate() {
        functions.function(*ty);
        let native = stubs.iter().position(|f| *f == imported + i as u32);
        code.function(&match native {
            Some(native) => across(parts, *ty, imported + native as u32, true),
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
        code.function(&across(parts, *ty, i as u32, false));
        exports.export(&format!("{OUT}{i}"), ExportKind::Func, first + i as u32);
    }
    functions.function(grow);
    let mut body = Function::new([]);
    body.instructions().local_get(0).memory_grow(0).end();
    code.function(&body);
    exports.export(&format!("{OUT}{imported}"), ExportKind::Func, first + imported);

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

/// A function of a type that hands its arguments to another one, with the globals brought to where that one looks for them, and back.
fn across(parts: &Parts<'_>, ty: u32, callee: u32, native: bool) -> Function {
    let mut body = Function::new([]);
    let mut code = body.instructions();
    globals(&mut code, parts, native);
    for i in 0..parts.types[ty as usize].params().len() {
        code.local_get(i as u32);
    }
    code.call(callee);
    globals(&mut code, parts, !native);
    code.end();
    body
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
