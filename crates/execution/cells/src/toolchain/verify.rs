//! Whether a program can be ended wherever it is: a proof from its code, since what it says of itself is worth nothing.
//!
//! A program with safe points runs without the engine's clock (see `engine`), so it must look at its flag words itself, and often. Who makes a module
//! by hand can give it every mark and export of ours. What holds for a module that passes, whoever made it:
//!
//! 1. nothing in it writes to the flag words, so that a word that the agent has set stays set;
//! 2. each turn of each loop loads a flag word and leaves its path, to a trap or out of the function, if the word is set; but for loops of which the code
//!    shows that they turn a bounded number of times ([`super::bounded`]);
//! 3. each function begins by looking at one, unless it does little and calls only such as do little, not itself and nothing through the table;
//! 4. what a function does between two looks, turns of bounded loops counted out and with what it calls, is bounded: [`LOOKED_MAX`].
//!
//! So between two looks there are at most so many instructions of each function on the stack, and the engine limits the stack.
//!
//! The second is shown by running each function that has loops over values of which only this is known: a number, or "not zero (zero) once the flag is
//! set". Loops of WebAssembly are entered at their head only, so a turn ends at a branch to the head; on the way to each such branch there must have
//! been a look since the head. What is joined at a label is the least of what is known on the ways to it; at a head nothing is known of variables. So
//! one run over the code is enough, and takes time in proportion to it.
//!
//! A program that winds its stack up again takes other ways through its loops; each of them looks, too. Nothing is believed of the global that says so: a
//! program may set it as it likes.

use super::flags::{self, is_flag};
use super::outline::{Loop, Outline, UNLOOKED_MAX};
use wasmparser::{BlockType, Catch, FunctionBody, Operator, Parser, Payload};

/// Instructions of one function that copy or fill memory without a look just before: each may take as long as the memory is large.
const BULK_MAX: usize = 16;
/// Instructions between two looks of one function and what it calls: a tenth of a second.
const LOOKED_MAX: u64 = 1 << 28;
/// Blocks within blocks, and values at a time, in one function. Compilers make some hundreds.
const DEPTH_MAX: usize = 100_000;
const VALUES_MAX: usize = 1 << 20;
/// Values that a block takes or gives. A compiler for C gives one.
const BLOCK_VALUES_MAX: usize = 16;
/// Variables at a time of which something is known. Beyond it the oldest is forgotten.
const FACTS_MAX: usize = 4;

/// What stands in the way of ending a program at any moment.
pub(crate) fn can_be_ended(wasm: &[u8], outline: &Outline) -> Result<(), String> {
    let broken = |e: wasmparser::BinaryReaderError| e.to_string();
    let mut bodies = Vec::with_capacity(outline.functions.len());
    for payload in Parser::new(0).parse_all(wasm) {
        if let Payload::CodeSectionEntry(body) = payload.map_err(broken)? {
            bodies.push(body);
        }
    }
    let named = |i: usize| format!("function {}", outline.imported_functions as usize + i);
    let mut looks: Vec<bool> = outline.functions.iter().map(|f| f.looks).collect();
    let weights = outline.weights(&mut looks, u64::MAX);
    for (i, (body, function)) in bodies.iter().zip(&outline.functions).enumerate() {
        only_reads(body).map_err(|e| format!("{} {e}", named(i)))?;
        let (bulk, weight) = (function.bulk.len(), weights[i]);
        if bulk > BULK_MAX {
            return Err(format!("{} copies or fills memory at {bulk} places without a look before it, at most {BULK_MAX} are taken", named(i)));
        }
        let little = weight <= UNLOOKED_MAX && bulk == 0 && function.indirect_calls.is_empty();
        if !function.looks && !little {
            return Err(format!("{} does not begin by looking at its flag words", named(i)));
        }
        if weight > LOOKED_MAX {
            return Err(format!("{} does {weight} instructions without looking at its flag words, at most {LOOKED_MAX} are taken", named(i)));
        }
    }
    for (i, (body, function)) in bodies.iter().zip(&outline.functions).enumerate() {
        if function.loops.iter().any(|l| l.turns.is_none()) {
            Run::new(outline, &function.loops).function(body).map_err(|e| format!("{} {e}", named(i)))?;
        }
    }
    Ok(())
}

/// Memories that an instruction names.
fn memories(op: &Operator<'_>, mut found: impl FnMut(u32)) {
    macro_rules! field {
        (memarg, $value:expr) => {
            found($value.memory)
        };
        (mem, $value:expr) => {
            found(*$value)
        };
        (dst_mem, $value:expr) => {
            found(*$value)
        };
        (src_mem, $value:expr) => {
            found(*$value)
        };
        ($other:ident, $value:expr) => {
            let _ = $value;
        };
    }
    macro_rules! each {
        ($(@$proposal:ident $op:ident $({ $($arg:ident: $argty:ty),* })? => $visit:ident ($($ann:tt)*))*) => {
            match op {
                $(Operator::$op $({ $($arg),* })? => { $($(field!($arg, $arg);)*)? })*
                _ => {}
            }
        };
    }
    wasmparser::for_each_operator!(each);
}

/// The flag words are read by `i32.atomic.load` and by nothing else; least of all written. To a compiler, a plain load in a loop that writes nothing is
/// the same as one before the loop, and it would do without.
fn only_reads(body: &FunctionBody<'_>) -> Result<(), String> {
    let mut operators = body.get_operators_reader().map_err(|e| e.to_string())?;
    while !operators.eof() {
        let op = operators.read().map_err(|e| e.to_string())?;
        let mut touches = false;
        memories(&op, |memory| touches |= memory == flags::MEMORY);
        if touches && !matches!(op, Operator::I32AtomicLoad { .. }) {
            return Err("does something else with its flag words than to look at them by i32.atomic.load".into());
        }
    }
    Ok(())
}

/// What is known of a value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Value {
    Unknown,
    Number(i32),
    /// Not zero, once the flag is set.
    Flag,
    /// Zero, once the flag is set.
    NotFlag,
}
use Value::{Flag, NotFlag, Number, Unknown};

impl Value {
    /// Not zero once the flag is set.
    fn raised(self) -> bool {
        matches!(self, Flag) || matches!(self, Number(n) if n != 0)
    }
    /// Zero once the flag is set.
    fn lowered(self) -> bool {
        matches!(self, NotFlag | Number(0))
    }
    fn of(raised: bool, lowered: bool) -> Value {
        match (raised, lowered) {
            (true, false) => Flag,
            (false, true) => NotFlag,
            _ => Unknown,
        }
    }
    /// What is known of a value that is one of these two.
    fn meet(self, other: Value) -> Value {
        if self == other { self } else { Value::of(self.raised() && other.raised(), self.lowered() && other.lowered()) }
    }
    fn not(self) -> Value {
        match self {
            Number(n) => Number(i32::from(n == 0)),
            Flag => NotFlag,
            NotFlag => Flag,
            Unknown => Unknown,
        }
    }
    fn or(self, other: Value) -> Value {
        match (self, other) {
            (Number(a), Number(b)) => Number(a | b),
            _ => Value::of(self.raised() || other.raised(), self.lowered() && other.lowered()),
        }
    }
    fn and(self, other: Value) -> Value {
        match (self, other) {
            (Number(a), Number(b)) => Number(a & b),
            (Number(0), _) | (_, Number(0)) => Number(0),
            // Of two that are not zero no bit need be the same.
            _ => Value::of(false, self.lowered() || other.lowered()),
        }
    }
    fn equals(self, other: Value) -> Value {
        match (self, other) {
            (Number(a), Number(b)) => Number(i32::from(a == b)),
            (Number(0), v) | (v, Number(0)) => v.not(),
            _ => Unknown,
        }
    }
    fn select(self, then: Value, otherwise: Value) -> Value {
        match self {
            Number(0) => otherwise,
            Number(_) => then,
            _ if then == otherwise => then,
            Flag => Value::of(then.raised(), then.lowered()),
            NotFlag => Value::of(otherwise.raised(), otherwise.lowered()),
            Unknown => then.meet(otherwise),
        }
    }
}

/// What is known at a place of the code.
#[derive(Clone, Copy)]
struct Known {
    /// Of the loops around this place, those from this number on (outermost first) may have made no look in their present turn.
    unseen: usize,
    /// Variables with [`Flag`] or [`NotFlag`], the oldest first.
    facts: [(u32, Value); FACTS_MAX],
}

impl Known {
    fn get(&self, variable: u32) -> Value {
        self.facts.iter().find(|(v, _)| *v == variable).map_or(Unknown, |f| f.1)
    }

    fn set(&mut self, variable: u32, value: Value) {
        let at = self.facts.iter().position(|(v, _)| *v == variable);
        if let Some(at) = at {
            self.facts[at..].rotate_left(1);
            self.facts[FACTS_MAX - 1] = NO_FACT;
        }
        if matches!(value, Flag | NotFlag) {
            // The oldest makes way, or a place where nothing is.
            let at = self.facts.iter().position(|f| *f == NO_FACT).unwrap_or(0);
            self.facts[at..].rotate_left(1);
            self.facts[FACTS_MAX - 1] = (variable, value);
        }
    }

    fn meet(&mut self, other: &Known) {
        self.unseen = self.unseen.min(other.unseen);
        for fact in &mut self.facts {
            if other.get(fact.0) != fact.1 {
                *fact = NO_FACT;
            }
        }
    }
}
/// No function has so many variables.
const NO_FACT: (u32, Value) = (u32::MAX, Unknown);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Block,
    Loop,
    If,
}

struct Frame {
    kind: Kind,
    /// It is a loop that needs no look.
    bounded: bool,
    /// Values below it.
    height: usize,
    params: usize,
    results: usize,
    /// Loops around it.
    loops: usize,
    /// What is known at its end, by the ways that were seen to it, with its results.
    end: Option<(Known, Vec<Value>)>,
    /// What is known where the condition of an `if` is false.
    otherwise: Option<Known>,
}

/// One run over one function.
struct Run<'m> {
    outline: &'m Outline,
    /// Those that have not begun yet.
    to_come: std::slice::Iter<'m, Loop>,
    stack: Vec<Value>,
    frames: Vec<Frame>,
    loops: usize,
    /// The instruction is the head of a loop that needs no look.
    bounded: bool,
    /// `None`: nothing comes here.
    known: Option<Known>,
    /// Blocks within the code to which nothing comes.
    skipped: usize,
}

impl<'m> Run<'m> {
    fn new(outline: &'m Outline, loops: &'m [Loop]) -> Run<'m> {
        let known = Some(Known { unseen: 0, facts: [NO_FACT; FACTS_MAX] });
        Run { outline, to_come: loops.iter(), stack: Vec::new(), frames: Vec::new(), loops: 0, bounded: false, known, skipped: 0 }
    }

    fn function(mut self, body: &FunctionBody<'_>) -> Result<(), String> {
        let broken = |e: wasmparser::BinaryReaderError| e.to_string();
        let mut operators = body.get_operators_reader().map_err(broken)?;
        // Where a return goes doesn't matter: no loop is there.
        self.frames.push(Frame { kind: Kind::Block, bounded: false, height: 0, params: 0, results: 0, loops: 0, end: None, otherwise: None });
        while !operators.eof() {
            let op = operators.read().map_err(broken)?;
            self.bounded = matches!(op, Operator::Loop { .. }) && self.to_come.next().is_some_and(|l| l.turns.is_some());
            match self.known {
                Some(known) => self.step(op, known)?,
                None => self.skip(&op)?,
            }
        }
        Ok(())
    }

    /// Code to which nothing comes, until a way joins it again.
    fn skip(&mut self, op: &Operator<'_>) -> Result<(), String> {
        match op {
            Operator::Block { .. } | Operator::Loop { .. } | Operator::If { .. } | Operator::TryTable { .. } => self.skipped += 1,
            Operator::End if self.skipped > 0 => self.skipped -= 1,
            Operator::End => self.end()?,
            Operator::Else if self.skipped == 0 => self.otherwise()?,
            _ => {}
        }
        Ok(())
    }

    fn pop(&mut self) -> Result<Value, String> {
        self.stack.pop().ok_or_else(|| "has values that can't be followed".into())
    }

    fn call(&mut self, ty: Option<&wasmparser::FuncType>) -> Result<(), String> {
        let ty = ty.ok_or("calls what has no type")?;
        self.replace(ty.params().len(), ty.results().len())
    }

    /// An instruction of which only this is known: how many values it takes and gives.
    fn replace(&mut self, takes: usize, gives: usize) -> Result<(), String> {
        let left = self.stack.len().checked_sub(takes).ok_or("has values that can't be followed")?;
        if left + gives > VALUES_MAX {
            return Err(format!("has more than {VALUES_MAX} values at a time"));
        }
        self.stack.truncate(left);
        self.stack.resize(left + gives, Unknown);
        Ok(())
    }

    fn shape(&self, ty: BlockType) -> Result<(usize, usize), String> {
        let (params, results) = match ty {
            BlockType::Empty => (0, 0),
            BlockType::Type(_) => (0, 1),
            BlockType::FuncType(index) => self.outline.type_at(index).map(|t| (t.params().len(), t.results().len())).ok_or("has a block without a type")?,
        };
        if params > BLOCK_VALUES_MAX || results > BLOCK_VALUES_MAX {
            return Err(format!("has a block with {params} parameters and {results} results, at most {BLOCK_VALUES_MAX} are followed"));
        }
        Ok((params, results))
    }

    fn open(&mut self, kind: Kind, ty: BlockType, otherwise: Option<Known>) -> Result<(), String> {
        let (params, results) = self.shape(ty)?;
        if self.frames.len() >= DEPTH_MAX {
            return Err(format!("has more than {DEPTH_MAX} blocks within each other"));
        }
        self.replace(params, params)?;
        self.frames.push(Frame { kind, bounded: self.bounded, height: self.stack.len() - params, params, results, loops: self.loops, end: None, otherwise });
        Ok(())
    }

    /// A way leads from here to a label.
    fn branch(&mut self, depth: u32, known: Known) -> Result<(), String> {
        let at = self.frames.len().checked_sub(1 + depth as usize).ok_or("branches out of itself")?;
        let frame = &self.frames[at];
        if frame.kind == Kind::Loop {
            return match frame.bounded || frame.loops < known.unseen {
                true => Ok(()),
                false => Err("has a loop that may turn without looking at its flag words".into()),
            };
        }
        self.join(at, known)
    }

    /// A way leads from what is tried here to a label, with what was thrown.
    fn caught(&mut self, catch: Catch, known: Known) -> Result<(), String> {
        let (label, tag, reference) = match catch {
            Catch::One { tag, label } => (label, Some(tag), 0),
            Catch::OneRef { tag, label } => (label, Some(tag), 1),
            Catch::All { label } => (label, None, 0),
            Catch::AllRef { label } => (label, None, 1),
        };
        let thrown = match tag {
            Some(tag) => self.outline.tags.get(tag as usize).and_then(|ty| self.outline.type_at(*ty)).map(|ty| ty.params().len()).ok_or("catches what has no type")?,
            None => 0,
        };
        if thrown > BLOCK_VALUES_MAX {
            return Err(format!("catches {thrown} values at once, at most {BLOCK_VALUES_MAX} are followed"));
        }
        let height = self.stack.len();
        self.replace(0, thrown + reference)?;
        self.branch(label, known)?;
        self.stack.truncate(height);
        Ok(())
    }

    /// A way leads from here to the end of a frame, with the results on top.
    fn join(&mut self, at: usize, mut known: Known) -> Result<(), String> {
        let frame = &mut self.frames[at];
        let from = self.stack.len().checked_sub(frame.results).ok_or("has values that can't be followed")?;
        let results = &self.stack[from..];
        known.unseen = known.unseen.min(frame.loops);
        match &mut frame.end {
            None => frame.end = Some((known, results.to_vec())),
            Some((before, values)) => {
                before.meet(&known);
                values.iter_mut().zip(results).for_each(|(a, b)| *a = a.meet(*b));
            }
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), String> {
        let at = self.frames.len() - 1;
        if let Some(known) = self.known {
            self.join(at, known)?;
        }
        let frame = &mut self.frames[at];
        if let Some(known) = frame.otherwise.take() {
            // An `if` without `else` gives what it takes.
            let (height, results) = (frame.height, frame.results);
            self.stack.truncate(height);
            self.stack.resize(height + results, Unknown);
            self.join(at, known)?;
        }
        let frame = self.frames.pop().expect("it was just there");
        self.stack.truncate(frame.height);
        self.loops = frame.loops;
        self.known = frame.end.map(|(known, values)| {
            self.stack.extend(values);
            known
        });
        Ok(())
    }

    fn otherwise(&mut self) -> Result<(), String> {
        let at = self.frames.len() - 1;
        if let Some(known) = self.known {
            self.join(at, known)?;
        }
        let frame = &mut self.frames[at];
        self.stack.truncate(frame.height);
        self.stack.resize(frame.height + frame.params, Unknown);
        self.known = frame.otherwise.take();
        Ok(())
    }

    /// What is known where a condition holds and where it does not. `None`: that can't be.
    fn ways(&self, condition: Value, known: Known) -> (Option<Known>, Option<Known>) {
        let seen = Known { unseen: self.loops, ..known };
        match condition {
            Number(0) => (None, Some(known)),
            Number(_) => (Some(known), None),
            Flag => (Some(known), Some(seen)),
            NotFlag => (Some(seen), Some(known)),
            Unknown => (Some(known), Some(known)),
        }
    }

    fn step(&mut self, op: Operator<'_>, mut known: Known) -> Result<(), String> {
        match op {
            Operator::Block { blockty } => self.open(Kind::Block, blockty, None)?,
            Operator::Loop { blockty } => {
                self.open(Kind::Loop, blockty, None)?;
                self.loops += 1;
                // From here on also after a turn.
                known.facts = [NO_FACT; FACTS_MAX];
                self.known = Some(known);
            }
            Operator::If { blockty } => {
                let condition = self.pop()?;
                let (then, otherwise) = self.ways(condition, known);
                self.open(Kind::If, blockty, otherwise)?;
                self.known = then;
            }
            Operator::TryTable { try_table } => {
                // An exception may come from anywhere in it. Of the loops around, those that have been looked at before have been so then, too; of variables
                // nothing is known.
                let thrown = Known { facts: [NO_FACT; FACTS_MAX], ..known };
                for catch in &try_table.catches {
                    self.caught(*catch, thrown)?;
                }
                self.open(Kind::Block, try_table.ty, None)?;
            }
            Operator::Throw { .. } | Operator::ThrowRef => self.known = None,
            Operator::Else => self.otherwise()?,
            Operator::End => self.end()?,
            Operator::Br { relative_depth } => {
                self.branch(relative_depth, known)?;
                self.known = None;
            }
            Operator::BrIf { relative_depth } => {
                let condition = self.pop()?;
                let (taken, on) = self.ways(condition, known);
                if let Some(taken) = taken {
                    self.branch(relative_depth, taken)?;
                }
                self.known = on;
            }
            Operator::BrTable { targets } => {
                self.pop()?;
                for target in targets.targets() {
                    self.branch(target.map_err(|e| e.to_string())?, known)?;
                }
                self.branch(targets.default(), known)?;
                self.known = None;
            }
            Operator::Return | Operator::Unreachable | Operator::ReturnCall { .. } | Operator::ReturnCallIndirect { .. } => self.known = None,
            Operator::Call { function_index } => {
                self.call(self.outline.type_of(function_index))?;
            }
            Operator::CallIndirect { type_index, .. } => {
                self.pop()?;
                self.call(self.outline.type_at(type_index))?;
            }
            Operator::LocalGet { local_index } => self.stack.push(known.get(local_index)),
            Operator::LocalSet { local_index } | Operator::LocalTee { local_index } => {
                let value = self.pop()?;
                if matches!(op, Operator::LocalTee { .. }) {
                    self.stack.push(value);
                }
                known.set(local_index, value);
                self.known = Some(known);
            }
            Operator::I32Const { value } => self.stack.push(Number(value)),
            Operator::I32AtomicLoad { memarg } => {
                let flag = matches!(self.pop()?, Number(base) if is_flag(base, memarg));
                self.stack.push(if flag { Flag } else { Unknown });
            }
            Operator::I32Eqz => {
                let value = self.pop()?.not();
                self.stack.push(value);
            }
            Operator::I32Or | Operator::I32And | Operator::I32Eq | Operator::I32Ne => {
                let (b, a) = (self.pop()?, self.pop()?);
                self.stack.push(match op {
                    Operator::I32Or => a.or(b),
                    Operator::I32And => a.and(b),
                    Operator::I32Eq => a.equals(b),
                    _ => a.equals(b).not(),
                });
            }
            Operator::Select | Operator::TypedSelect { .. } => {
                let (condition, b, a) = (self.pop()?, self.pop()?, self.pop()?);
                self.stack.push(condition.select(a, b));
            }
            other => {
                let (takes, gives) = other.operator_arity(&Plain).ok_or_else(|| format!("has an instruction that can't be followed: {other:?}"))?;
                self.replace(takes as usize, gives as usize)?;
            }
        }
        Ok(())
    }
}

/// What takes and gives as many values whatever the module is: all that [`Run::step`] leaves over.
struct Plain;
impl wasmparser::ModuleArity for Plain {
    fn sub_type_at(&self, _: u32) -> Option<&wasmparser::SubType> {
        None
    }
    fn tag_type_arity(&self, _: u32) -> Option<(u32, u32)> {
        None
    }
    fn type_index_of_function(&self, _: u32) -> Option<u32> {
        None
    }
    fn func_type_of_cont_type(&self, _: &wasmparser::ContType) -> Option<&wasmparser::FuncType> {
        None
    }
    fn sub_type_of_ref_type(&self, _: &wasmparser::RefType) -> Option<&wasmparser::SubType> {
        None
    }
    fn control_stack_height(&self) -> u32 {
        0
    }
    fn label_block(&self, _: u32) -> Option<(BlockType, wasmparser::FrameKind)> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOK: &str = "(i32.atomic.load $flags offset=4 (i32.const 0))";

    /// A module with a function `$f` that begins with a look, and whatever else.
    fn module(body: &str, more: &str) -> String {
        format!(
            r#"(module (import "x" "any" (func $any (result i32)))
                (memory 1) (memory $flags 1 1) (table 1 funcref) (global $state (mut i32) (i32.const 0)) (global $other (mut i32) (i32.const 0))
                (func $f (param $p i32) (local $x i32) (local $y i32) (if {LOOK} (then unreachable)) {body})
                {more})"#
        )
        .replace("LOOK", LOOK)
    }

    fn verdict(text: &str) -> Result<(), String> {
        let wasm = wat::parse_str(text).unwrap();
        wasmparser::Validator::new_with_features(super::super::features()).validate_all(&wasm).unwrap();
        can_be_ended(&wasm, &Outline::read(&wasm).unwrap())
    }

    fn good(body: &str) {
        assert_eq!(verdict(&module(body, "")), Ok(()), "{body}");
    }

    fn bad(body: &str, expected: &str) {
        let e = verdict(&module(body, "")).expect_err(body);
        assert!(e.contains(expected), "{body}: {e}");
    }

    #[test]
    fn a_look_in_each_turn_is_seen() {
        good("(loop $l (if LOOK (then unreachable)) (br $l))");
        good("(loop $l (if (i32.atomic.load $flags (i32.const 4)) (then (return))) (br_if $l (call $any)))");
        good("(block $out (loop $l (br_if $out LOOK) (br $l)))");
        good("(loop $l (br_if $l (i32.eqz LOOK)))");
        good("(loop $l (if (i32.eqz LOOK) (then (br_if $l (call $any)))))");
        good("(loop $l (local.set $x LOOK) (drop (call $any)) (if (i32.or (local.get $x) (call $any)) (then unreachable)) (br $l))");
        good("(loop $l (if (i32.and (call $any) (i32.eq LOOK (i32.const 0))) (then (br $l))))");
        good("(loop $l (br_if $l (select (i32.const 0) (call $any) LOOK)))");
        good("(loop $l (if (if (result i32) (call $any) (then LOOK) (else (i32.const 1))) (then unreachable)) (br $l))");
        // That of an inner loop is one of the outer loop.
        good("(loop $a (loop $b (if LOOK (then unreachable)) (br_if $b (call $any))) (br $a))");
        // Turns that end in one.
        good("(loop $l (loop $m (if LOOK (then unreachable)) (br_if $m (call $any)) (br_if $l (call $any))))");
        // No turn at all.
        good("(loop (drop (call $any))) (loop $l (return) (br $l)) (loop $l (unreachable) (br $l))");
        good("(loop $l (br_if $l (i32.const 0)))");
    }

    #[test]
    fn a_turn_without_a_look_is_found() {
        let turns = "may turn without looking";
        bad("(loop $l (br $l))", turns);
        bad("(loop $l (br_if $l (call $any)) (if LOOK (then unreachable)) (br $l))", turns);
        bad("(loop $l (if (call $any) (then (if LOOK (then unreachable)))) (br $l))", turns);
        bad("(loop $l (drop LOOK) (br $l))", turns);
        bad("(loop $l (if LOOK (then nop)) (br $l))", turns);
        bad("(loop $l (if (i32.eqz LOOK) (then unreachable)) (br $l))", turns);
        bad("(loop $l (br_if $l LOOK))", turns);
        bad("(loop $l (br_table $l $l (call $any)))", turns);
        bad("(loop $l (if LOOK (then (br $l)) (else unreachable)))", turns);
        // Only some words are set, and only the whole of them counts.
        bad("(loop $l (if (i32.atomic.load $flags offset=8 (i32.const 0)) (then unreachable)) (br $l))", turns);
        bad("(loop $l (if (i32.atomic.load $flags offset=2 (i32.const 0)) (then unreachable)) (br $l))", turns);
        bad("(loop $l (if (i32.atomic.load $flags (local.get $p)) (then unreachable)) (br $l))", turns);
        bad("(loop $l (if (i32.load (i32.const 4)) (then unreachable)) (br $l))", turns);
        bad("(loop $l (if (i32.and LOOK (call $any)) (then unreachable)) (br $l))", turns);
        bad("(loop $l (if (i32.and LOOK (i32.const 2)) (then unreachable)) (br $l))", turns);
        bad("(loop $l (if (i32.eq LOOK (i32.const 7)) (then unreachable)) (br $l))", turns);
        // A look of long ago.
        bad("(if LOOK (then unreachable)) (loop $l (br $l))", turns);
        bad("(local.set $x LOOK) (loop $l (if (local.get $x) (then unreachable)) (br $l))", turns);
        bad("LOOK (loop $l (param i32) (if (then unreachable)) (i32.const 0) (br $l))", turns);
        bad("(loop $l (if (local.get $x) (then unreachable)) (local.set $x LOOK) (br $l))", turns);
        bad("(loop $l (local.set $x LOOK) (local.set $x (call $any)) (if (local.get $x) (then unreachable)) (br $l))", turns);
        bad("(loop $l (if (call $any) (then (local.set $x LOOK))) (if (local.get $x) (then unreachable)) (br $l))", turns);
        // The outer loop looks, the inner one does not.
        bad("(loop $a (if LOOK (then unreachable)) (loop $b (br_if $b (call $any))) (br $a))", turns);
        bad("(loop $a (if LOOK (then unreachable)) (loop $b (br_if $a (call $any)) (br $b)))", turns);
        // The inner one looks, but not always is there a turn of it.
        bad("(loop $a (if (call $any) (then (loop $b (if LOOK (then unreachable)) (br_if $b (call $any))))) (br $a))", turns);
    }

    /// The way back in is a way like any other.
    #[test]
    fn who_winds_the_stack_up_looks_too() {
        let way_back = |inside: &str| {
            format!(
                "(loop $l (block $there (if (i32.or LOOK (global.get $state)) (then {inside} (br_if $there (global.get $state)) (return))) \
                 (drop (call $any))) (br_if $l (call $any)))"
            )
        };
        good(&way_back("(if LOOK (then unreachable))"));
        bad(&way_back(""), "may turn without looking");
        bad(&way_back("(if (call $any) (then unreachable))"), "may turn without looking");
    }

    /// `$i` counts down in as many turns as are said; `rest` is in each.
    fn counted(turns: u32, rest: &str) -> String {
        format!(
            "local.get $x i32.const {} i32.and i32.const 1 i32.add i32.const -4 i32.mul local.get $p i32.add local.set $y \
             loop {rest} local.get $p i32.const -4 i32.add local.tee $p local.get $y i32.ne br_if 0 end ",
            turns - 1
        )
    }

    #[test]
    fn loops_that_are_counted_out_need_no_look() {
        good(&counted(16384, ""));
        bad(&counted(16384, "").replace("i32.and", "i32.or"), "may turn without looking");
        good(&format!("loop LOOK if unreachable end {} br 0 end", counted(16, "")));
        bad(&format!("loop {} br 0 end", counted(16, "")), "may turn without looking");
        bad(&format!("loop {} br 0 end", counted(16, "LOOK if unreachable end")).replace(" br 0 end", " call $any br_if 0 end").replace("LOOK if unreachable end", "call $any if LOOK if unreachable end end"), "may turn without looking");
        // A loop within that minds nothing.
        bad(&counted(16, "loop call $any br_if 0 end"), "may turn without looking");
        // Each turn of the inner one counts.
        let nested = |n: u32| counted(16384, &counted(n, &"nop ".repeat(100)).replace("$y", "$b").replace("$p", "$a"));
        let run = |n: u32| verdict(&module(&nested(n), "").replace("(local $y i32)", "(local $y i32) (local $a i32) (local $b i32)"));
        assert_eq!(run(128), Ok(()));
        assert!(run(256).unwrap_err().contains("at most 268435456 are taken"), "{:?}", run(256));
        bad(&counted(2, "i32.const 0 i32.const 0 global.get $other memory.fill"), "instructions without looking");
        good(&counted(2, "i32.const 0 i32.const 0 global.get $other LOOK if unreachable end memory.fill"));
        bad(&counted(16384, "i32.const 0 i32.const 0 i32.const 65536 memory.fill").repeat(3), "instructions without looking");
    }

    #[test]
    fn only_the_agent_writes_flags() {
        let more = "does something else with its flag words";
        bad("(i32.store $flags (i32.const 4) (i32.const 0))", more);
        bad("(i32.atomic.store $flags (i32.const 4) (i32.const 0))", more);
        bad("(drop (i32.atomic.rmw.xchg $flags (i32.const 4) (i32.const 0)))", more);
        bad("(loop $l (if (i32.load $flags (i32.const 4)) (then unreachable)) (br $l))", more);
        bad("(i64.store8 $flags (i32.const 4) (i64.const 0))", more);
        bad("(v128.store $flags (i32.const 0) (v128.const i64x2 0 0))", more);
        bad("(v128.store32_lane $flags 0 (i32.const 0) (v128.const i64x2 0 0))", more);
        bad("(memory.fill $flags (i32.const 0) (i32.const 0) (i32.const 8))", more);
        bad("(memory.copy $flags 0 (i32.const 0) (i32.const 0) (i32.const 8))", more);
        bad("(memory.copy 0 $flags (i32.const 0) (i32.const 0) (i32.const 8))", more);
        bad("(drop (memory.grow $flags (i32.const 0)))", more);
        let init = module("(memory.init $flags $d (i32.const 0) (i32.const 0) (i32.const 8))", r#"(data $d "\00\00\00\00\00\00\00\00")"#);
        assert!(verdict(&init).unwrap_err().contains(more));
        good("(i32.store (i32.const 4) (i32.const 0)) (memory.fill (i32.const 0) (i32.const 0) (i32.const 8))");
    }

    #[test]
    fn calls_are_bounded_as_loops_are() {
        let found = |more: &str| {
            let e = verdict(&module("", more)).expect_err(more);
            assert!(e.contains("does not begin by looking"), "{more}: {e}");
        };
        found("(func $g (call $g))");
        found("(func $g (return_call $g))");
        found("(func $g (call $h)) (func $h (call $g))");
        found("(func (call_indirect (i32.const 0)))");
        found("(func (return_call_indirect (i32.const 0)))");
        found(&format!("(func (nop) (if {LOOK} (then unreachable)) (call_indirect (i32.const 0)))"));
        found(&format!("(func (if {LOOK} (then (return))) (call_indirect (i32.const 0)))"));
        found(&format!("(func (if (i32.and {LOOK} (global.get $state)) (then (if {LOOK} (then unreachable)))) (call_indirect (i32.const 0)))"));
        found(&format!("(func (if (i32.or {LOOK} (global.get $state)) (then (if {LOOK} (then nop)))) (call_indirect (i32.const 0)))"));
        found(&format!("(func (loop (if {LOOK} (then unreachable)) (call_indirect (i32.const 0))))"));
        found(&format!("(func {})", "(drop (i32.const 1000000))".repeat(10_000)));
        found(&format!("(func {})", "(drop (call $any))".repeat(5)));
        found("(func (memory.fill (i32.const 0) (i32.const 0) (global.get $other)))");
        found(&format!("(func $f0 {}) {}", "nop ".repeat(100), (1..60).map(|i| format!("(func $f{i} (call $f{}) (call $f{}))", i - 1, i - 1)).collect::<String>()));
        let fine = |more: &str| assert_eq!(verdict(&module("", more)), Ok(()), "{more}");
        fine("(func $g (call $h) (call $h)) (func $h (result i32) (i32.const 1))".replace(" (result i32) (i32.const 1)", "").as_str());
        fine("(func $g (call $f (i32.const 0)))");
        fine(&format!("(func $g (if {LOOK} (then unreachable)) (call $g) (call_indirect (i32.const 0)))"));
        fine(&format!("(func $g (block (block (if (i32.or {LOOK} (global.get $state)) (then (if {LOOK} (then unreachable)))))) (call $g))"));
        // So much that even a look before it is not enough.
        let many = format!("(func $many {})", "nop ".repeat(16_000)) + &format!("(func (if {LOOK} (then unreachable)) {})", "(call $many)".repeat(20_000));
        assert!(verdict(&module("", &many)).unwrap_err().contains("instructions without looking"));
        let fills = "(memory.fill (i32.const 0) (i32.const 0) (global.get $other))".repeat(BULK_MAX + 1);
        bad(&fills, "fills memory at 17 places without a look");
        let looks = |n: usize| {
            let fill = "(i32.const 0) (i32.const 0) (global.get $other) (if LOOK (then unreachable)) memory.fill";
            fill.repeat(n)
        };
        good(&looks(BULK_MAX + 1));
        bad(&looks(BULK_MAX + 1).replace("(then unreachable)", "(then nop)"), "without a look");
        good(&"(memory.fill (i32.const 0) (i32.const 0) (i32.const 8))".repeat(BULK_MAX + 1));
        let nested = format!("(loop {}{})", "(block ".repeat(DEPTH_MAX + 1), ")".repeat(DEPTH_MAX + 1));
        assert!(verdict(&module(&nested, "")).is_err_and(|e| e.contains("within each other")));
    }

    /// An exception may come from anywhere in what is tried, so before any look that is there.
    #[test]
    fn a_handler_is_reached_without_the_looks_of_what_is_tried() {
        let tags = "(tag $t (param i32)) (tag $u)";
        let verdict = |body: &str| verdict(&module(body, tags));
        let fine = |body: &str| assert_eq!(verdict(body), Ok(()), "{body}");
        let turns = |body: &str| assert!(verdict(body).unwrap_err().contains("may turn without looking"), "{body}");
        fine("(loop $l (if LOOK (then unreachable)) (try_table (catch_all $l) (drop (call $any))) (br $l))");
        fine("(loop $l (if LOOK (then unreachable)) (block $h (result i32) (try_table (catch $t $h) (drop (call $any))) (br $l)) drop (br $l))");
        fine("(block $out (loop $l (try_table (catch_all $out) (if LOOK (then unreachable)) (drop (call $any)) (br $l))))");
        fine("(loop $l (if LOOK (then (throw $u))) (br $l))");
        fine("(loop $l (block $h (result exnref) (try_table (catch_all_ref $h) (if LOOK (then unreachable))) (br $l)) throw_ref)");
        fine("(loop $l (try_table (result i32) (call $any)) (if LOOK (then unreachable)) (br_if $l))");
        turns("(loop $l (try_table (catch_all $l) (if LOOK (then unreachable)) (drop (call $any))))");
        turns("(loop $l (block $h (try_table (catch_all $h) (if LOOK (then unreachable)) (drop (call $any)))) (br $l))");
        turns("(loop $l (block $h (try_table (catch $u $h) (if LOOK (then (throw $u))))) (br $l))");
        turns("(loop $l (local.set $x LOOK) (block $h (try_table (catch_all $h) (local.set $x (call $any)) (throw $u))) (if (local.get $x) (then unreachable)) (br $l))");
        turns("(loop $l (block $h (result i32 exnref) (try_table (catch_ref $t $h) (throw $u)) (br $l)) drop drop (br $l))");
        turns("(loop $l (try_table (br $l)))");
        turns("(loop $l (try_table (try_table (nop))) (br $l))");
    }

    /// Time in proportion to the code, whatever its shape.
    #[test]
    fn strange_code_takes_no_time() {
        let start = std::time::Instant::now();
        let deep = 20_000;
        let nested = format!("{}(br_if 5 (call $any)){}", "(block ".repeat(deep), ")".repeat(deep));
        good(&nested);
        let loops = format!("{}(if LOOK (then unreachable))(br_if 5 (call $any)){}", "(loop ".repeat(deep), ")".repeat(deep));
        good(&loops);
        let table = format!("(loop $l (block $out (if LOOK (then unreachable)) (br_table {} (call $any))) (br $l))", "$l $out ".repeat(30_000));
        good(&table);
        let many = (0..20_000).map(|i| format!("(local.set {} LOOK)", 1 + i % 2)).collect::<String>();
        good(&format!("(loop $l {many} (if (local.get $x) (then unreachable)) (br $l))"));
        assert!(start.elapsed().as_secs() < 10, "{:?}", start.elapsed());
    }
}
