//! A module's functions as LLVM IR.
//!
//! ```text
//! function i of the module           @f<i>(ctx, mem, glob, parameters...)       what native code calls
//!   of the module's own                its body
//!   an import                          a call out: the engine runs it, as it does `memory.grow` and what else is the instance's own (`residual::Own`)
//! what the engine may call             @e<i>(ctx, arguments)                     arguments and result in 16-byte slots
//! the table                            @table: type and function of each entry
//! ```
//!
//! `ctx` is [`super::bridge::Context`], `mem` where linear memory begins, `glob` the copies of the mutable globals, 16 bytes each. Locals and the results of blocks
//! are stack slots, which LLVM's own pass turns into values. An access to memory is that of base and 32-bit address: beyond the end lie guard pages, as for
//! the engine's own code; offsets beyond these are compared. What WebAssembly says to trap is compared and traps, but for a load whose value nobody uses.
//! Nothing may be undefined: shift counts are masked, divisors looked at, conversions compared or saturating, no access claims an alignment. Floating
//! point has no fast-math flag; which of several NaNs comes out is the processor's choice, as WebAssembly allows.
//!
//! With threads, memory is shared: its size is asked of the engine, and what is compared and then relied on is pinned ([`Writer::pin`]), since what another thread writes may be another value
//! each time that it is loaded.
//!
//! What this doesn't do: a module with an instruction that is not known here (references, tail calls) has no translation.

use super::exceptions::{self, Handler};
use super::residual::Own;
use std::collections::HashMap;
use std::fmt::Write;
use wasmparser::{BlockType, FuncType, FunctionBody, MemArg, Operator, ValType};

/// Offsets into [`super::bridge::Context`].
pub(super) mod field {
    pub const MEMORY_BYTES: u32 = 16;
    pub const STACK_END: u32 = 24;
    pub const PROCESSORS: u32 = 56;
}
/// Where in the memory of the flag words the copies of the globals begin.
pub(super) const GLOBALS: u32 = 4096;
/// Bytes behind the 4 GiB of linear memory that nobody may touch: the engine is told to keep them so.
pub(crate) const GUARD: u64 = 32 << 20;

/// Why native code ended before its time; the numbers go through the stub as they are.
pub(super) mod trap {
    pub const UNREACHABLE: u32 = 1;
    pub const DIVISION: u32 = 2;
    pub const OVERFLOW: u32 = 3;
    pub const CONVERSION: u32 = 4;
    pub const TABLE: u32 = 5;
    pub const NULL: u32 = 6;
    pub const SIGNATURE: u32 = 7;
    pub const MEMORY: u32 = 8;
    pub const STACK: u32 = 9;
    /// A call out failed; its error lies in the context.
    pub const CALL: u32 = 10;
    /// An atomic access to an address that is no multiple of its size.
    pub const UNALIGNED: u32 = 11;
}

/// A module as the translator needs it.
pub(super) struct Source<'a> {
    pub types: Vec<FuncType>,
    /// Type of each function, imported ones first.
    pub functions: Vec<u32>,
    pub imported: u32,
    pub bodies: Vec<FunctionBody<'a>>,
    pub globals: Vec<(ValType, Option<Constant>)>,
    /// Memory is shared by threads.
    pub shared: bool,
    /// Data segments that are not put into memory when an instance is made.
    pub passive: Vec<u32>,
    /// How many kinds of exceptions it has, each of one number.
    pub tags: u32,
    /// The import that says how many processors there are: each parallel region of OpenMP asks, so it is no call out.
    pub processors: Option<u32>,
    /// For each import, whether functions of the module's may run within it.
    pub calls_back: Vec<bool>,
    /// The function of each entry of the table.
    pub table: Vec<Option<u32>>,
    /// Branch hints: for each function the offset of an instruction in its body, and whether it is taken.
    pub hints: HashMap<u32, HashMap<u32, bool>>,
}

/// Value of an immutable global.
#[derive(Clone, Copy)]
pub(super) enum Constant {
    I32(i32),
    I64(i64),
}

/// Why a module has no translation and stays with the engine.
pub(super) type Stays = String;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ty {
    I32,
    I64,
    F32,
    F64,
    V128,
}

impl Ty {
    pub fn of(ty: ValType) -> Result<Ty, Stays> {
        Ok(match ty {
            ValType::I32 => Ty::I32,
            ValType::I64 => Ty::I64,
            ValType::F32 => Ty::F32,
            ValType::F64 => Ty::F64,
            ValType::V128 => Ty::V128,
            ValType::Ref(_) => return Err("a reference".into()),
        })
    }

    pub fn ll(self) -> &'static str {
        match self {
            Ty::I32 => "i32",
            Ty::I64 => "i64",
            Ty::F32 => "float",
            Ty::F64 => "double",
            Ty::V128 => "<2 x i64>",
        }
    }

    fn zero(self) -> &'static str {
        match self {
            Ty::I32 | Ty::I64 => "0",
            Ty::F32 | Ty::F64 => "0.0",
            Ty::V128 => "zeroinitializer",
        }
    }
}

/// A value on the operand stack: its type and what IR calls it.
#[derive(Clone, Debug)]
pub(super) struct Value {
    pub ty: Ty,
    pub text: String,
}

pub(super) enum Kind {
    Block,
    Loop,
    /// With the label of the other branch, until that has come.
    If(Option<String>),
    /// What is thrown in it goes to the pad, once there is one.
    Try { handlers: Vec<Handler>, pad: Option<String> },
}

pub(super) struct Frame {
    pub kind: Kind,
    /// Where a branch to this goes.
    pub target: String,
    end: String,
    /// Stack slots of what a branch brings, and of what comes out at the end.
    pub brought: Vec<(Ty, String)>,
    results: Vec<(Ty, String)>,
    params: Vec<Value>,
    height: usize,
}

/// Writes one function.
pub(super) struct Writer<'a> {
    pub(super) source: &'a Source<'a>,
    entry: String,
    pub(super) body: String,
    next: u32,
    pub(super) stack: Vec<Value>,
    pub(super) frames: Vec<Frame>,
    pub(super) locals: Vec<Ty>,
    result: Option<Ty>,
    /// Blocks that trap, one for each reason.
    traps: Vec<u32>,
    /// Where thrown exceptions go on, and whether there is a way out of the function for them.
    pub(super) pads: String,
    pub(super) leaves: bool,
    /// Which of the open frames catch what is thrown, from outside in.
    pub(super) tries: Vec<usize>,
    throwing: &'a [bool],
    function: u32,
    /// Nothing reaches the next instruction.
    pub(super) dead: bool,
}

pub(super) const NO_ALIAS_MEM: &str = ", !tbaa !3";
pub(super) const NO_ALIAS_GLOB: &str = ", !tbaa !4";
pub(super) const NO_ALIAS_CTX: &str = ", !tbaa !5";
pub(super) const SELDOM: &str = ", !prof !6";
const OFTEN: &str = ", !prof !7";

/// IR of a whole module, or why it has none.
pub(super) fn module(source: &Source<'_>) -> Result<String, Stays> {
    let throwing = exceptions::throwing(source).map_err(|e| e.to_string())?;
    let mut text = String::from(HEAD);
    let _ = writeln!(text, "!9 = !{{!\"{}\"}}", if cfg!(target_arch = "aarch64") { "sp" } else { "rsp" });
    for (i, body) in source.bodies.iter().enumerate() {
        let function = source.imported + i as u32;
        text += &Writer::new(source, function, &throwing).and_then(|w| w.function(body)).map_err(|why| format!("function {function}: {why}"))?;
        text += &entry(source, function)?;
    }
    for function in 0..source.imported {
        text += &call_out(source, function)?;
    }
    for (number, own) in (source.imported..).zip(Own::all(&source.passive)) {
        let (params, results) = own.signature();
        let (params, result) = (types_of(params)?, types_of(results)?.first().copied());
        text += &out(declared(&own.name(), &params, result), number, &params, result);
    }
    let first = source.imported as usize;
    let entries: Vec<String> = (first..first + source.bodies.len()).map(|f| format!("ptr @e{f}")).collect();
    let _ = writeln!(text, "@cloudskin_entries = constant [{} x ptr] [{}]", entries.len(), entries.join(", "));
    let ids = type_ids(&source.types);
    let slot = |f: &Option<u32>| match f {
        Some(f) => format!("%slot {{ ptr @f{f}, i64 {} }}", ids[source.functions[*f as usize] as usize]),
        None => "%slot { ptr null, i64 -1 }".into(),
    };
    let table: Vec<String> = source.table.iter().map(slot).collect();
    let _ = writeln!(text, "@table = internal constant [{} x %slot] [{}]", table.len(), table.join(", "));
    Ok(text)
}

const HEAD: &str = r#"%slot = type { ptr, i64 }
declare void @cloudskin_trap(ptr, i32) noreturn cold nounwind
declare i32 @cloudskin_out(ptr, i32, ptr) nounwind
declare i64 @llvm.read_register.i64(metadata)
!0 = !{!"cloudskin"}
!1 = !{!"memory", !0}
!2 = !{!"globals", !0}
!8 = !{!"context", !0}
!3 = !{!1, !1, i64 0}
!4 = !{!2, !2, i64 0}
!5 = !{!8, !8, i64 0}
!6 = !{!"branch_weights", i32 1, i32 100000}
!7 = !{!"branch_weights", i32 100000, i32 1}
attributes #0 = { nounwind "probe-stack"="inline-asm" }
attributes #1 = { nounwind noinline }
"#;

/// Number of each type, equal for equal types: what an indirect call compares.
fn type_ids(types: &[FuncType]) -> Vec<usize> {
    types.iter().map(|t| types.iter().position(|u| u == t).unwrap_or_default()).collect()
}

fn types_of(types: &[ValType]) -> Result<Vec<Ty>, Stays> {
    types.iter().map(|t| Ty::of(*t)).collect()
}

fn signature(source: &Source<'_>, function: u32) -> Result<(Vec<Ty>, Option<Ty>), Stays> {
    of_type(&source.types[source.functions[function as usize] as usize])
}

fn of_type(ty: &FuncType) -> Result<(Vec<Ty>, Option<Ty>), Stays> {
    if ty.results().len() > 1 {
        return Err("several results".into());
    }
    Ok((types_of(ty.params())?, types_of(ty.results())?.first().copied()))
}

fn result_text(result: Option<Ty>) -> &'static str {
    result.map_or("void", Ty::ll)
}

fn head(function: u32, params: &[Ty], result: Option<Ty>) -> String {
    declared(&format!("@f{function}"), params, result)
}

fn declared(name: &str, params: &[Ty], result: Option<Ty>) -> String {
    let params: String = params.iter().enumerate().map(|(i, t)| format!(", {} %p{i}", t.ll())).collect();
    format!("define internal {} {name}(ptr %ctx, ptr %mem, ptr %glob{params})", result_text(result))
}

/// A function that the engine runs: arguments into slots, out, and the result from the first of them.
fn call_out(source: &Source<'_>, function: u32) -> Result<String, Stays> {
    let (params, result) = signature(source, function)?;
    let head = head(function, &params, result);
    if source.processors == Some(function) && (&params[..], result) == (&[], Some(Ty::I32)) {
        let word = format!("  %p = getelementptr i8, ptr %ctx, i64 {}\n  %w = load ptr, ptr %p, align 8{NO_ALIAS_CTX}\n  %v = load atomic i32, ptr %w monotonic, align 4\n", field::PROCESSORS);
        return Ok(head + " {\n" + &word + "  ret i32 %v\n}\n");
    }
    Ok(out(head, function, &params, result))
}

fn out(head: String, function: u32, params: &[Ty], result: Option<Ty>) -> String {
    let mut text = head + " #1 {\n";
    let slots = params.len().max(1);
    let _ = writeln!(text, "  %a = alloca [{slots} x [16 x i8]], align 16");
    for (i, t) in params.iter().enumerate() {
        let _ = writeln!(text, "  %s{i} = getelementptr i8, ptr %a, i64 {}\n  store {} %p{i}, ptr %s{i}, align 16", 16 * i, t.ll());
    }
    let _ = writeln!(text, "  %r = call i32 @cloudskin_out(ptr %ctx, i32 {function}, ptr %a)\n  %c = icmp eq i32 %r, 0\n  br i1 %c, label %well, label %bad{OFTEN}");
    let _ = writeln!(text, "bad:\n  call void @cloudskin_trap(ptr %ctx, i32 {})\n  unreachable\nwell:", trap::CALL);
    match result {
        Some(t) => {
            let _ = writeln!(text, "  %v = load {0}, ptr %a, align 16\n  ret {0} %v\n}}", t.ll());
        }
        None => text += "  ret void\n}\n",
    }
    text
}

/// What the engine calls.
fn entry(source: &Source<'_>, function: u32) -> Result<String, Stays> {
    let (params, result) = signature(source, function)?;
    let mut text = format!("define internal void @e{function}(ptr %ctx, ptr %a) #1 {{\n  %mem = load ptr, ptr %ctx, align 8\n");
    text += "  %g = getelementptr i8, ptr %ctx, i64 8\n  %glob = load ptr, ptr %g, align 8\n";
    let mut args = String::new();
    for (i, t) in params.iter().enumerate() {
        let _ = writeln!(text, "  %s{i} = getelementptr i8, ptr %a, i64 {}\n  %p{i} = load {}, ptr %s{i}, align 8", 16 * i, t.ll());
        let _ = write!(args, ", {} %p{i}", t.ll());
    }
    let call = format!("call {} @f{function}(ptr %ctx, ptr %mem, ptr %glob{args})", result_text(result));
    match result {
        Some(t) => {
            let _ = writeln!(text, "  %r = {call}\n  store {} %r, ptr %a, align 8\n  ret void\n}}", t.ll());
        }
        None => {
            let _ = writeln!(text, "  {call}\n  ret void\n}}");
        }
    }
    Ok(text)
}

impl<'a> Writer<'a> {
    fn new(source: &'a Source<'a>, function: u32, throwing: &'a [bool]) -> Result<Writer<'a>, Stays> {
        let (locals, result) = signature(source, function)?;
        Ok(Writer {
            source,
            entry: String::new(),
            body: String::new(),
            next: 0,
            stack: Vec::new(),
            frames: Vec::new(),
            locals,
            result,
            traps: Vec::new(),
            pads: String::new(),
            leaves: false,
            tries: Vec::new(),
            throwing,
            function,
            dead: false,
        })
    }

    fn function(mut self, body: &FunctionBody<'_>) -> Result<String, Stays> {
        let bad = |e: wasmparser::BinaryReaderError| e.to_string();
        let params = self.locals.len();
        for local in body.get_locals_reader().map_err(bad)? {
            let (n, ty) = local.map_err(bad)?;
            let ty = Ty::of(ty)?;
            self.locals.extend(std::iter::repeat_n(ty, n as usize));
        }
        let mut head = head(self.function, &self.locals[..params], self.result);
        for (i, ty) in self.locals.iter().enumerate() {
            let value = if i < params { format!("%p{i}") } else { ty.zero().to_string() };
            let _ = writeln!(self.entry, "  %l{i} = alloca {0}, align 16\n  store {0} {value}, ptr %l{i}, align 16", ty.ll());
        }
        let results: Vec<Ty> = self.result.into_iter().collect();
        let end = self.label();
        self.push_frame(Kind::Block, end.clone(), end, results.clone(), results, Vec::new());
        let hints = self.source.hints.get(&self.function);
        let mut reader = body.get_operators_reader().map_err(bad)?;
        let begin = body.range().start;
        let mut skip = 0u32;
        let mut calls = false;
        while !reader.eof() {
            let (op, offset) = reader.read_with_offset().map_err(bad)?;
            if self.dead {
                match op {
                    Operator::Block { .. } | Operator::Loop { .. } | Operator::If { .. } | Operator::TryTable { .. } => skip += 1,
                    Operator::End if skip > 0 => skip -= 1,
                    Operator::End => self.end()?,
                    Operator::Else if skip == 0 => self.other()?,
                    _ => {}
                }
                continue;
            }
            // Those of memory go out to the engine as well.
            calls |= matches!(op, Operator::Call { .. } | Operator::CallIndirect { .. } | Operator::MemoryGrow { .. } | Operator::MemorySize { .. } | Operator::MemoryInit { .. } | Operator::DataDrop { .. });
            let hint = hints.and_then(|h| h.get(&((offset - begin) as u32))).copied();
            self.operator(&op, hint)?;
        }
        self.body += &std::mem::take(&mut self.pads);
        if self.leaves {
            let zero = self.result.map(|t| format!("{} {}", t.ll(), t.zero()));
            let _ = writeln!(self.body, "leave:\n  ret {}", zero.as_deref().unwrap_or("void"));
        }
        for reason in std::mem::take(&mut self.traps) {
            let _ = writeln!(self.body, "trap{reason}:\n  call void @cloudskin_trap(ptr %ctx, i32 {})\n  unreachable", reason | self.function << 8);
        }
        head += " #0 {\nentry:\n";
        head += &self.entry;
        if calls {
            let _ = writeln!(head, "  %sp = call i64 @llvm.read_register.i64(metadata !9)");
            let _ = writeln!(head, "  %sep = getelementptr i8, ptr %ctx, i64 {}\n  %se = load i64, ptr %sep, align 8{NO_ALIAS_CTX}", field::STACK_END);
            let _ = writeln!(head, "  %deep = icmp ult i64 %sp, %se\n  br i1 %deep, label %full, label %begin{SELDOM}");
            let _ = writeln!(head, "full:\n  call void @cloudskin_trap(ptr %ctx, i32 {})\n  unreachable", trap::STACK | self.function << 8);
        } else {
            head += "  br label %begin\n";
        }
        head += "begin:\n";
        head += &self.body;
        head += "}\n";
        Ok(head)
    }

    // ---- the small words ----

    pub fn name(&mut self) -> String {
        self.next += 1;
        format!("%v{}", self.next)
    }

    pub(super) fn label(&mut self) -> String {
        self.next += 1;
        format!("b{}", self.next)
    }

    pub fn line(&mut self, text: &str) {
        self.body += "  ";
        self.body += text;
        self.body += "\n";
    }

    /// The name of what `text` computes.
    pub fn let_(&mut self, text: &str) -> String {
        let name = self.name();
        self.line(&format!("{name} = {text}"));
        name
    }

    /// Calls one of LLVM's functions, which declares itself.
    pub fn intrinsic(&mut self, ret: &str, name: &str, args: &[(&str, &str)]) -> String {
        let args: Vec<String> = args.iter().map(|(t, v)| format!("{t} {v}")).collect();
        self.let_(&format!("call {ret} @llvm.{name}({})", args.join(", ")))
    }

    pub fn push(&mut self, ty: Ty, text: impl Into<String>) {
        self.stack.push(Value { ty, text: text.into() });
    }

    pub fn pop(&mut self) -> String {
        self.stack.pop().map(|v| v.text).unwrap_or_default()
    }

    /// A slot on the stack for what a branch brings.
    pub(super) fn slot(&mut self, ty: Ty) -> (Ty, String) {
        let name = self.name();
        let _ = writeln!(self.entry, "  {name} = alloca {}, align 16", ty.ll());
        (ty, name)
    }

    pub fn push_bool(&mut self, c: &str) {
        let v = self.let_(&format!("zext i1 {c} to i32"));
        self.push(Ty::I32, v);
    }

    /// Goes on if `condition` does not hold.
    pub(super) fn trap_if(&mut self, condition: &str, reason: u32) {
        if !self.traps.contains(&reason) {
            self.traps.push(reason);
        }
        let on = self.label();
        self.line(&format!("br i1 {condition}, label %trap{reason}, label %{on}{SELDOM}"));
        let _ = writeln!(self.body, "{on}:");
    }

    /// Where `address` and the instruction's offset lead, for `bytes` of them.
    pub fn address(&mut self, memarg: &MemArg, bytes: u64) -> Result<String, Stays> {
        let a = self.pop();
        if memarg.memory != 0 {
            return Err("the memory of the flag words".into());
        }
        let wide = self.let_(&format!("zext i32 {a} to i64"));
        let mut at = if memarg.offset == 0 { wide } else { self.let_(&format!("add nuw nsw i64 {wide}, {}", memarg.offset)) };
        if memarg.offset + bytes > GUARD {
            at = self.pin("i64", &at);
            let have = self.memory_bytes();
            let end = self.let_(&format!("add nuw nsw i64 {at}, {bytes}"));
            let out = self.let_(&format!("icmp ugt i64 {end}, {have}"));
            self.trap_if(&out, trap::MEMORY);
        }
        Ok(self.let_(&format!("getelementptr i8, ptr %mem, i64 {at}")))
    }

    /// How many bytes there are. Of shared memory it is how many there may ever be: those that are not there yet are pages that nobody may touch.
    pub(super) fn memory_bytes(&mut self) -> String {
        if self.source.shared {
            return (1u64 << 32).to_string();
        }
        let p = self.let_(&format!("getelementptr i8, ptr %ctx, i64 {}", field::MEMORY_BYTES));
        self.let_(&format!("load i64, ptr {p}, align 8{NO_ALIAS_CTX}"))
    }

    /// A value that stays what it is. LLVM may load a plain word of memory a second time instead of keeping it, as if nobody else wrote; between a comparison and what relies on it that
    /// would be a hole in the fence.
    pub(super) fn pin(&mut self, ll: &str, value: &str) -> String {
        if !self.source.shared || value.parse::<i64>().is_ok() {
            return value.to_string();
        }
        self.let_(&format!("call {ll} asm sideeffect \"\", \"=r,0\"({ll} {value})"))
    }

    /// The function that does something with a data segment.
    pub(super) fn segment(&self, segment: u32, what: &str) -> Result<String, Stays> {
        if self.source.passive.contains(&segment) { Ok(format!("@{what}{segment}")) } else { Err(format!("data segment {segment} is used up when an instance is made")) }
    }

    pub fn load_as(&mut self, memarg: &MemArg, ll: &str, bytes: u64) -> Result<String, Stays> {
        let p = self.address(memarg, bytes)?;
        Ok(self.let_(&format!("load {ll}, ptr {p}, align 1{NO_ALIAS_MEM}")))
    }

    pub fn store_as(&mut self, memarg: &MemArg, ll: &str, value: &str, bytes: u64) -> Result<(), Stays> {
        let p = self.address(memarg, bytes)?;
        self.line(&format!("store {ll} {value}, ptr {p}, align 1{NO_ALIAS_MEM}"));
        Ok(())
    }

    pub(super) fn load(&mut self, memarg: &MemArg, ty: Ty, bytes: u64) -> Result<(), Stays> {
        let v = self.load_as(memarg, ty.ll(), bytes)?;
        self.push(ty, v);
        Ok(())
    }

    pub(super) fn load_narrow(&mut self, memarg: &MemArg, ty: Ty, narrow: &str, op: &str) -> Result<(), Stays> {
        let bytes = narrow[1..].parse::<u64>().map_or(8, |bits| bits / 8);
        let v = self.load_as(memarg, narrow, bytes)?;
        let v = self.let_(&format!("{op} {narrow} {v} to {}", ty.ll()));
        self.push(ty, v);
        Ok(())
    }

    pub(super) fn store(&mut self, memarg: &MemArg, ty: Ty, bytes: u64) -> Result<(), Stays> {
        let v = self.pop();
        self.store_as(memarg, ty.ll(), &v, bytes)
    }

    pub(super) fn store_narrow(&mut self, memarg: &MemArg, ty: Ty, narrow: &str) -> Result<(), Stays> {
        let bytes = narrow[1..].parse::<u64>().map_or(8, |bits| bits / 8);
        let v = self.pop();
        let v = self.let_(&format!("trunc {} {v} to {narrow}", ty.ll()));
        self.store_as(memarg, narrow, &v, bytes)
    }

    pub(super) fn global(&mut self, index: u32) -> String {
        self.let_(&format!("getelementptr i8, ptr %glob, i64 {}", 16 * index))
    }

    // ---- blocks ----

    fn block_types(&self, ty: BlockType) -> Result<(Vec<Ty>, Vec<Ty>), Stays> {
        Ok(match ty {
            BlockType::Empty => (Vec::new(), Vec::new()),
            BlockType::Type(t) => (Vec::new(), vec![Ty::of(t)?]),
            BlockType::FuncType(i) => {
                let ty = &self.source.types[i as usize];
                (types_of(ty.params())?, types_of(ty.results())?)
            }
        })
    }

    fn push_frame(&mut self, kind: Kind, target: String, end: String, brought: Vec<Ty>, results: Vec<Ty>, params: Vec<Value>) {
        let results: Vec<_> = results.into_iter().map(|t| self.slot(t)).collect();
        let brought = if matches!(kind, Kind::Loop) { brought.into_iter().map(|t| self.slot(t)).collect() } else { results.clone() };
        self.frames.push(Frame { kind, target, end, brought, results, params, height: self.stack.len() });
    }

    pub(super) fn bring(&mut self, slots: &[(Ty, String)]) {
        let from = self.stack.len() - slots.len();
        for (i, (ty, slot)) in slots.iter().enumerate() {
            let text = format!("store {} {}, ptr {slot}, align 16", ty.ll(), self.stack[from + i].text);
            self.line(&text);
        }
    }

    pub(super) fn fetch(&mut self, slots: &[(Ty, String)]) {
        for (ty, slot) in slots {
            let v = self.let_(&format!("load {}, ptr {slot}, align 16", ty.ll()));
            self.push(*ty, v);
        }
    }

    pub(super) fn goto(&mut self, depth: u32) -> String {
        let frame = &self.frames[self.frames.len() - 1 - depth as usize];
        let (target, slots) = (frame.target.clone(), frame.brought.clone());
        self.bring(&slots);
        target
    }

    pub(super) fn begin(&mut self, ty: BlockType, loops: bool) -> Result<(), Stays> {
        let (params, results) = self.block_types(ty)?;
        let end = self.label();
        if loops {
            let target = self.label();
            let at = self.stack.len() - params.len();
            let values = self.stack.split_off(at);
            self.push_frame(Kind::Loop, target.clone(), end, params, results, Vec::new());
            let slots = self.frames.last().map(|f| f.brought.clone()).unwrap_or_default();
            self.stack.extend(values);
            self.bring(&slots);
            self.stack.truncate(at);
            self.line(&format!("br label %{target}"));
            let _ = writeln!(self.body, "{target}:");
            self.fetch(&slots);
        } else {
            let at = self.stack.len() - params.len();
            let values = self.stack.split_off(at);
            self.push_frame(Kind::Block, end.clone(), end, Vec::new(), results, Vec::new());
            self.stack.extend(values);
        }
        Ok(())
    }

    pub(super) fn condition(&mut self) -> String {
        let c = self.pop();
        self.let_(&format!("icmp ne i32 {c}, 0"))
    }

    pub(super) fn if_(&mut self, ty: BlockType, hint: Option<bool>) -> Result<(), Stays> {
        let (params, results) = self.block_types(ty)?;
        let c = self.condition();
        let (then, other, end) = (self.label(), self.label(), self.label());
        self.line(&format!("br i1 {c}, label %{then}, label %{other}{}", weights(hint)));
        let _ = writeln!(self.body, "{then}:");
        let at = self.stack.len() - params.len();
        let values = self.stack.split_off(at);
        self.push_frame(Kind::If(Some(other)), end.clone(), end, Vec::new(), results, values.clone());
        self.stack.extend(values);
        Ok(())
    }

    pub(super) fn other(&mut self) -> Result<(), Stays> {
        let frame = self.frames.last_mut().ok_or("else without if")?;
        let Kind::If(other) = &mut frame.kind else { return Err("else without if".into()) };
        let (other, end, results, params, height) =
            (other.take().ok_or("two else")?, frame.end.clone(), frame.results.clone(), frame.params.clone(), frame.height);
        if !self.dead {
            self.bring(&results);
            self.line(&format!("br label %{end}"));
        }
        self.stack.truncate(height);
        self.stack.extend(params);
        let _ = writeln!(self.body, "{other}:");
        self.dead = false;
        Ok(())
    }

    pub(super) fn end(&mut self) -> Result<(), Stays> {
        if let Some(Frame { kind: Kind::If(Some(_)), .. }) = self.frames.last() {
            // No other branch: what came in goes out.
            self.other()?;
        }
        let frame = self.frames.pop().ok_or("end without beginning")?;
        self.tries.pop_if(|at| *at == self.frames.len());
        if !self.dead {
            self.bring(&frame.results);
            self.line(&format!("br label %{}", frame.end));
        }
        self.stack.truncate(frame.height);
        let _ = writeln!(self.body, "{}:", frame.end);
        self.dead = false;
        self.fetch(&frame.results);
        if self.frames.is_empty() {
            match self.result {
                Some(t) => {
                    let v = self.pop();
                    self.line(&format!("ret {} {v}", t.ll()));
                }
                None => self.line("ret void"),
            }
        }
        Ok(())
    }

    pub(super) fn table(&mut self, targets: &wasmparser::BrTable<'_>) -> Result<(), Stays> {
        let index = self.pop();
        let index = self.pin("i32", &index);
        let depths: Vec<u32> = targets.targets().collect::<Result<_, _>>().map_err(|e| e.to_string())?;
        // Only the slots of the target that is taken are read.
        let mut labels = Vec::new();
        for depth in &depths {
            labels.push(self.goto(*depth));
        }
        let default = self.goto(targets.default());
        let cases: String = labels.iter().enumerate().map(|(i, l)| format!(" i32 {i}, label %{l}")).collect();
        self.line(&format!("switch i32 {index}, label %{default} [{cases} ]"));
        self.dead = true;
        Ok(())
    }

    pub(super) fn call(&mut self, function: u32) -> Result<(), Stays> {
        let (params, result) = signature(self.source, function)?;
        self.call_value(&format!("@f{function}"), &params, result);
        if self.throwing[function as usize] {
            self.look_for_thrown();
        }
        Ok(())
    }

    pub(super) fn call_value(&mut self, callee: &str, params: &[Ty], result: Option<Ty>) {
        let at = self.stack.len() - params.len();
        let args: String = self.stack.split_off(at).iter().map(|v| format!(", {} {}", v.ty.ll(), v.text)).collect();
        let call = format!("call {} {callee}(ptr %ctx, ptr %mem, ptr %glob{args})", result_text(result));
        match result {
            Some(t) => {
                let v = self.let_(&call);
                self.push(t, v);
            }
            None => self.line(&call),
        }
    }

    pub(super) fn call_indirect(&mut self, ty: u32) -> Result<(), Stays> {
        let (params, result) = of_type(&self.source.types[ty as usize])?;
        let id = self.source.types.iter().position(|u| u == &self.source.types[ty as usize]).unwrap_or_default();
        let index = self.pop();
        let index = self.pin("i32", &index);
        let n = self.source.table.len();
        let out = self.let_(&format!("icmp uge i32 {index}, {n}"));
        self.trap_if(&out, trap::TABLE);
        let wide = self.let_(&format!("zext i32 {index} to i64"));
        let slot = self.let_(&format!("getelementptr %slot, ptr @table, i64 {wide}"));
        let at = self.let_(&format!("getelementptr i8, ptr {slot}, i64 8"));
        let have = self.let_(&format!("load i64, ptr {at}, align 8"));
        let null = self.let_(&format!("icmp eq i64 {have}, -1"));
        self.trap_if(&null, trap::NULL);
        let other = self.let_(&format!("icmp ne i64 {have}, {id}"));
        self.trap_if(&other, trap::SIGNATURE);
        let f = self.let_(&format!("load ptr, ptr {slot}, align 8"));
        self.call_value(&f, &params, result);
        if self.source.tags > 0 {
            self.look_for_thrown();
        }
        Ok(())
    }

    /// Bounds of `len` bytes at `address`, both 32 bits; gives the wide length and the pointer.
    pub(super) fn range(&mut self, address: &str, len: &str) -> (String, String) {
        let (address, len) = (self.pin("i32", address), self.pin("i32", len));
        let (a, n) = (self.let_(&format!("zext i32 {address} to i64")), self.let_(&format!("zext i32 {len} to i64")));
        let end = self.let_(&format!("add nuw nsw i64 {a}, {n}"));
        let have = self.memory_bytes();
        let out = self.let_(&format!("icmp ugt i64 {end}, {have}"));
        self.trap_if(&out, trap::MEMORY);
        let p = self.let_(&format!("getelementptr i8, ptr %mem, i64 {a}"));
        (n, p)
    }
}

pub(super) fn weights(hint: Option<bool>) -> &'static str {
    match hint {
        Some(true) => OFTEN,
        Some(false) => SELDOM,
        None => "",
    }
}
