//! Exceptions without references, so that a frame of a stopped cell can hold one.
//!
//! clang keeps what was caught in a local of the type `exnref` until it is thrown on: through destructors, in `throw;`, after a handler that did not want it.
//! A reference can't be written down, so no place where one is alive could be a safe point, nor a destructor that calls MPI. But all that a
//! program of this toolchain throws is a number: the address of a C++ exception, or of what `longjmp` was given, in the program's own memory. So
//! the reference becomes a number as well, the tag's and the address, in an `i64`. To throw it on is to throw the same address with the same tag.
//!
//! ```text
//! block (result i32 exnref)                  block (result i32 i64)
//!   try_table (catch_ref $cpp 0)               block                              ;; past the detours
//!     ...                                        block (result i32)
//!   end                                            try_table (catch $cpp 0)
//!   ...                                              ...
//! end                                              end
//! local.set $thrown                                br 1
//!                                                end
//!                                                ...the address, and the tag with the address...  br 1
//!                                              end
//!                                              ...
//!                                            end
//!                                            local.set $thrown
//! throw_ref                                  the tag is 0?  throw $cpp  else  throw $longjmp
//! ```
//!
//! `catch_all_ref` becomes one clause for each tag. What is left are blocks with ways out of them, which the other passes know.
//!
//! What this doesn't do: other tags than of one number, and references elsewhere than in locals and results of blocks. clang writes neither.

use wasm_encoder::{BlockType as Shape, Catch, CodeSection, Encode, InstructionSink, RawSection, TypeSection, ValType as Value};
use wasmparser::{BlockType, CompositeInnerType, FunctionBody, Operator, Parser, Payload, RefType, TryTable, TypeRef, ValType};

use super::Error;
use super::lines::{Trail, Trails};
use super::outline::Outline;

/// Tags that are told apart. A program has one for C++ and one for `longjmp`.
pub(crate) const TAGS_MAX: usize = 8;

/// A module that has been validated, without references to exceptions.
pub(super) fn lower(wasm: &[u8], trails: &mut Trails) -> Result<Vec<u8>, Error> {
    let outline = Outline::read(wasm)?;
    if !outline.exceptions {
        return Ok(wasm.to_vec());
    }
    let number = |ty: &u32| outline.type_at(*ty).is_some_and(|ty| ty.params() == [ValType::I32] && ty.results().is_empty());
    if outline.tags.len() > TAGS_MAX || !outline.tags.iter().all(number) || outline.imports.iter().any(|(_, _, kind)| *kind == "tag") {
        return Err(strange("it throws something else than addresses"));
    }
    let (mut module, mut code, mut left) = (wasm_encoder::Module::new(), CodeSection::new(), 0);
    for payload in Parser::new(0).parse_all(wasm) {
        match payload? {
            Payload::TypeSection(section) => {
                let mut types = TypeSection::new();
                for group in section {
                    for ty in group?.into_types() {
                        let CompositeInnerType::Func(ty) = ty.composite_type.inner else { return Err(strange("it has types that are none of a function")) };
                        let all = |types: &[ValType]| types.iter().map(|ty| value(*ty)).collect::<Result<Vec<Value>, Error>>();
                        types.ty().function(all(ty.params())?, all(ty.results())?);
                    }
                }
                module.section(&types);
            }
            Payload::CodeSectionStart { count, .. } => {
                left = count;
                if count == 0 {
                    module.section(&code);
                }
            }
            Payload::CodeSectionEntry(body) => {
                let index = outline.function_types.len() as u32 - left;
                let parameters = outline.type_of(index).map_or(0, |ty| ty.params().len());
                let (bytes, trail) = function(wasm, &body, parameters as u32, outline.tags.len() as u32)?;
                code.raw(&bytes);
                trails.put(index, body.range().start, trail);
                left -= 1;
                if left == 0 {
                    module.section(&code);
                }
            }
            other => {
                holds_none(&other)?;
                if let Some((id, range)) = other.as_section() {
                    module.section(&RawSection { id, data: &wasm[range] });
                }
            }
        }
    }
    Ok(module.finish())
}

fn strange(reason: &str) -> Error {
    Error::NotMovable(vec![reason.into()])
}

/// References to exceptions lie in no table and no global: those sections stay as they are.
fn holds_none(payload: &Payload<'_>) -> Result<(), Error> {
    let refers = match payload {
        Payload::TableSection(section) => section.clone().into_iter().any(|t| !t.is_ok_and(|t| t.ty.element_type == RefType::FUNCREF)),
        Payload::GlobalSection(section) => section.clone().into_iter().any(|g| !g.is_ok_and(|g| !matches!(g.ty.content_type, ValType::Ref(_)))),
        Payload::ImportSection(section) => section.clone().into_imports().any(|i| !i.is_ok_and(|i| matches!(i.ty, TypeRef::Func(_) | TypeRef::Memory(_)))),
        _ => false,
    };
    if refers { Err(strange("it keeps references where exceptions might be")) } else { Ok(()) }
}

/// What a type becomes.
fn value(ty: ValType) -> Result<Value, Error> {
    match ty {
        ValType::Ref(ty) if ty == RefType::EXNREF || ty == RefType::EXN => Ok(Value::I64),
        ValType::Ref(ty) if ty != RefType::FUNCREF => Err(strange("it uses references other than to functions and exceptions")),
        other => Ok(super::instrument::value_type(other)),
    }
}

fn shape(ty: BlockType) -> Result<Shape, Error> {
    Ok(match ty {
        BlockType::Empty => Shape::Empty,
        BlockType::Type(ty) => Shape::Result(value(ty)?),
        BlockType::FuncType(index) => Shape::FunctionType(index),
    })
}

/// The way of what was thrown with a tag to where it is caught.
struct Detour {
    tag: u32,
    label: u32,
    /// It takes the address too, below the reference.
    address: bool,
}

/// A construct of the function.
struct Open {
    /// The number of its label, counted from outside, among all that are open.
    level: u32,
    /// What comes behind it, if it is a `try_table` with references.
    detours: Vec<Detour>,
}

struct Lower<'a> {
    wasm: &'a [u8],
    out: Vec<u8>,
    trail: Trail,
    tags: u32,
    /// Locals of the pass: an address, and a reference that has become a number.
    address: u32,
    thrown: u32,
    open: Vec<Open>,
    /// Labels that are open, those of the pass among them.
    labels: u32,
}

fn function(wasm: &[u8], body: &FunctionBody<'_>, parameters: u32, tags: u32) -> Result<(Vec<u8>, Trail), Error> {
    let (mut groups, mut locals) = (Vec::new(), parameters);
    for group in body.get_locals_reader()? {
        let (count, ty) = group?;
        locals += count;
        count.encode(&mut groups);
        value(ty)?.encode(&mut groups);
    }
    let mut out = Vec::with_capacity(body.range().len() + 16);
    (body.get_locals_reader()?.get_count() + 2).encode(&mut out);
    out.extend_from_slice(&groups);
    for ty in [Value::I32, Value::I64] {
        1u32.encode(&mut out);
        ty.encode(&mut out);
    }
    let mut lower = Lower { wasm, out, trail: Trail::default(), tags, address: locals, thrown: locals + 1, open: vec![Open { level: 0, detours: Vec::new() }], labels: 1 };
    let mut operators = body.get_operators_reader()?;
    while !operators.eof() {
        let start = operators.original_position();
        let operator = operators.read()?;
        lower.operator(&operator, start..operators.original_position())?;
    }
    Ok((lower.out, lower.trail))
}

impl Lower<'_> {
    fn sink(&mut self) -> InstructionSink<'_> {
        InstructionSink::new(&mut self.out)
    }

    /// A label of the module's as it is to be written here.
    fn label(&self, depth: u32) -> u32 {
        self.labels - 1 - self.open[self.open.len() - 1 - depth as usize].level
    }

    fn opened(&mut self, detours: Vec<Detour>) {
        self.open.push(Open { level: self.labels, detours });
        self.labels += 1;
    }

    fn operator(&mut self, operator: &Operator<'_>, range: std::ops::Range<usize>) -> Result<(), Error> {
        use Operator as O;
        self.trail.copied(self.out.len(), range.clone());
        match operator {
            O::Block { blockty } | O::Loop { blockty } | O::If { blockty } => {
                let ty = shape(*blockty)?;
                match operator {
                    O::Block { .. } => self.sink().block(ty),
                    O::Loop { .. } => self.sink().loop_(ty),
                    _ => self.sink().if_(ty),
                };
                self.opened(Vec::new());
            }
            O::TryTable { try_table } => self.try_table(try_table)?,
            O::End => self.end(),
            O::Br { relative_depth } => {
                let label = self.label(*relative_depth);
                self.sink().br(label);
            }
            O::BrIf { relative_depth } => {
                let label = self.label(*relative_depth);
                self.sink().br_if(label);
            }
            O::BrTable { targets } => {
                let labels = targets.targets().map(|d| Ok(self.label(d?))).collect::<Result<Vec<u32>, Error>>()?;
                let default = self.label(targets.default());
                self.sink().br_table(labels, default);
            }
            O::ThrowRef => self.throw_on(),
            // What would hold a reference, or branch on one.
            O::RefNull { .. } | O::RefIsNull | O::RefAsNonNull | O::TypedSelect { .. } | O::BrOnNull { .. } | O::BrOnNonNull { .. } | O::BrOnCast { .. } | O::BrOnCastFail { .. } => {
                return Err(strange("it does something else with references than to throw them"));
            }
            _ => self.out.extend_from_slice(&self.wasm[range]),
        }
        Ok(())
    }

    fn try_table(&mut self, table: &TryTable) -> Result<(), Error> {
        use wasmparser::Catch as C;
        let ty = shape(table.ty)?;
        let mut detours: Vec<Detour> = Vec::new();
        for catch in &table.catches {
            match *catch {
                C::OneRef { tag, label } => detours.push(Detour { tag, label, address: true }),
                C::AllRef { label } => detours.extend((0..self.tags).map(|tag| Detour { tag, label, address: false })),
                C::One { .. } | C::All { .. } => {}
            }
        }
        let around = self.labels;
        if !detours.is_empty() {
            if matches!(table.ty, BlockType::FuncType(_)) {
                return Err(strange("it tries blocks that take values, or give several"));
            }
            self.sink().block(ty);
            for _ in &detours {
                self.sink().block(Shape::Result(Value::I32));
            }
            self.labels += 1 + detours.len() as u32;
        }
        let mut next = 0;
        let mut catches = Vec::new();
        for catch in &table.catches {
            match *catch {
                C::One { tag, label } => catches.push(Catch::One { tag, label: self.label(label) }),
                C::All { label } => catches.push(Catch::All { label: self.label(label) }),
                C::OneRef { .. } | C::AllRef { .. } => {
                    let count = if matches!(catch, C::AllRef { .. }) { self.tags as usize } else { 1 };
                    for detour in &detours[next..next + count] {
                        catches.push(Catch::One { tag: detour.tag, label: next as u32 });
                        next += 1;
                    }
                }
            }
        }
        self.sink().try_table(ty, catches);
        debug_assert_eq!(self.labels - around, if detours.is_empty() { 0 } else { 1 + detours.len() as u32 });
        self.opened(detours);
        Ok(())
    }

    fn end(&mut self) {
        let Some(Open { detours, .. }) = self.open.pop() else { return };
        self.sink().end();
        self.labels -= 1;
        if detours.is_empty() {
            return;
        }
        // Nothing was thrown.
        self.sink().br(detours.len() as u32);
        for Detour { tag, label, address } in detours {
            self.sink().end();
            self.labels -= 1;
            let local = self.address;
            if address {
                self.sink().local_tee(local).local_get(local);
            }
            self.sink().i64_extend_i32_u();
            if tag > 0 {
                self.sink().i64_const(i64::from(tag) << 32).i64_or();
            }
            let label = self.label(label);
            self.sink().br(label);
        }
        self.sink().end();
        self.labels -= 1;
    }

    /// Throws what was caught.
    fn throw_on(&mut self) {
        let Some(last) = self.tags.checked_sub(1) else {
            // Nothing can have been caught.
            self.sink().unreachable();
            return;
        };
        let thrown = self.thrown;
        self.sink().local_set(thrown);
        for tag in 0..last {
            self.sink().local_get(thrown).i64_const(32).i64_shr_u().i32_wrap_i64().i32_const(tag as i32).i32_eq().if_(Shape::Empty);
            self.sink().local_get(thrown).i32_wrap_i64().throw(tag).end();
        }
        self.sink().local_get(thrown).i32_wrap_i64().throw(last);
    }
}
