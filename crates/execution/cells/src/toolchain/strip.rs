//! Cuts long inner loops into pieces, so that a look at the flags comes between pieces and not in each turn.
//!
//! A short loop over numbers takes a quarter longer with a look in each turn. Most of them count, and LLVM writes that in few ways; from the count comes how
//! many turns are left, so the loop can be told to turn a thousand times and then be asked again:
//!
//! ```text
//! loop                                       loop                                ;; looks; a safe point like any other
//!   ...                                        x = the turns up to n, less one, at most 1023
//!   i = i + 4                                  end = i + 4 * ((x & 1023) + 1)
//!   br_if 0 (i != n)                           loop                              ;; as `bounded` knows it
//! end                                            ...
//!                                                i = i + 4
//!                                                br_if 0 (i != end)
//!                                                br_if 1 (i != n)
//!                                              end
//!                                            end
//! ```
//!
//! What the loop does, it does in the same order. If `i` never meets `n` it did not before either: `x` is then just any number, and the pieces have 1024 turns.
//! Where both ends are numbers known here, and near, no loop is put around: it needs no look at all.
//!
//! Short loops that count in another way, or not, are written down several times in a row, so that one look serves several turns:
//!
//! ```text
//! loop  A  br_if 0  end         block  loop
//!                                 block  A  br_if 0  br 2  end       ;; another turn goes on behind the block
//!                                 block  A  br_if 0  br 2  end
//!                                 A  br_if 0
//!                               end  end
//! ```
//!
//! Left alone are loops with calls, and long ones, in which a look costs nothing.

use std::ops::Range;

use wasm_encoder::{BlockType as Shape, CodeSection, Encode, InstructionSink, RawSection, ValType as Value};
use wasmparser::{BlockType, FunctionBody, Operator, Parser, Payload};

use super::Error;
use super::bounded::{STEP_MAX, TURNS_MAX, Token};
use super::lines::{Trail, Trails};
use super::outline::Outline;

/// Instructions of a piece: some ten microseconds.
const PIECE: u32 = 1 << 15;
/// A loop with more instructions than this keeps its look.
const BODY_MAX: usize = 512;

struct Op<'a> {
    op: Operator<'a>,
    range: Range<usize>,
}

/// What the counter is compared with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Bound {
    Local(u32),
    Number(i32),
}

/// A loop that can be cut.
#[derive(Debug)]
struct Counted {
    /// Where it begins, among the function's instructions, and where its counter is tested for another turn.
    head: usize,
    test: usize,
    counter: u32,
    step: i32,
    bound: Bound,
    /// Where the bound is put on the stack. `None`: the counter itself is the condition.
    bound_at: Option<usize>,
    body: usize,
    /// Both ends are known: it turns so often.
    turns: Option<u32>,
}

/// What is done with a loop.
#[derive(Debug)]
enum Chosen {
    Counted(Counted),
    /// From `head` to `end`, written down so often.
    Repeated { head: usize, end: usize, copies: u32 },
}

impl Chosen {
    fn head(&self) -> usize {
        match self {
            Chosen::Counted(c) => c.head,
            Chosen::Repeated { head, .. } => *head,
        }
    }
}

/// A module that has been validated, with the loops cut that can be.
pub(super) fn strip(wasm: &[u8], trails: &mut Trails) -> Result<Vec<u8>, Error> {
    let outline = Outline::read(wasm)?;
    let (mut module, mut code, mut left) = (wasm_encoder::Module::new(), CodeSection::new(), 0);
    for payload in Parser::new(0).parse_all(wasm) {
        match payload? {
            Payload::CodeSectionStart { count, .. } => {
                left = count;
                if count == 0 {
                    module.section(&code);
                }
            }
            Payload::CodeSectionEntry(body) => {
                let index = outline.function_types.len() as u32 - left;
                let parameters = outline.type_of(index).map_or(0, |ty| ty.params().len());
                match function(wasm, &body, parameters as u32)? {
                    Some((bytes, trail)) => {
                        code.raw(&bytes);
                        trails.put(index, body.range().start, trail);
                    }
                    None => _ = code.raw(&wasm[body.range()]),
                }
                left -= 1;
                if left == 0 {
                    module.section(&code);
                }
            }
            other => {
                if let Some((id, range)) = other.as_section() {
                    module.section(&RawSection { id, data: &wasm[range] });
                }
            }
        }
    }
    Ok(module.finish())
}

/// `None`: there is nothing to cut.
fn function(wasm: &[u8], body: &FunctionBody<'_>, parameters: u32) -> Result<Option<(Vec<u8>, Trail)>, Error> {
    let mut ops = Vec::new();
    let mut operators = body.get_operators_reader()?;
    while !operators.eof() {
        let start = operators.original_position();
        let op = operators.read()?;
        ops.push(Op { op, range: start..operators.original_position() });
    }
    let chosen = find(&ops);
    if chosen.is_empty() {
        return Ok(None);
    }
    let (mut groups, mut locals) = (Vec::new(), parameters);
    for group in body.get_locals_reader()? {
        let (count, ty) = group?;
        locals += count;
        count.encode(&mut groups);
        super::instrument::value_type(ty).encode(&mut groups);
    }
    let mut out = Vec::with_capacity(body.range().len() + 64 * chosen.len());
    (body.get_locals_reader()?.get_count() + 1).encode(&mut out);
    out.extend_from_slice(&groups);
    2u32.encode(&mut out);
    Value::I32.encode(&mut out);
    Cut { wasm, out, trail: Trail::default(), x: locals, end: locals + 1 }.function(&ops, &chosen).map(Some)
}

/// How often a loop is written down that does not count.
fn copies(body: usize) -> u32 {
    match body {
        0..=16 => 8,
        17..=48 => 4,
        49..=96 => 2,
        _ => 1,
    }
}

/// The loops that can be cut, in the order of their heads. Only such as have no loop in them, so none lies in another.
fn find(ops: &[Op<'_>]) -> Vec<Chosen> {
    let mut found = Vec::new();
    // For each open block: where it begins, if it is a loop that may still be one.
    let mut open: Vec<Option<usize>> = vec![None];
    let spoil = |open: &mut Vec<Option<usize>>| open.iter_mut().for_each(|head| *head = None);
    for (i, Op { op, .. }) in ops.iter().enumerate() {
        match op {
            Operator::Loop { blockty } => {
                spoil(&mut open);
                open.push((*blockty == BlockType::Empty).then_some(i));
            }
            Operator::Block { .. } | Operator::If { .. } => open.push(None),
            Operator::TryTable { .. } => {
                spoil(&mut open);
                open.push(None);
            }
            Operator::End => {
                if let Some(head) = open.pop().flatten() {
                    let copies = copies(i - head);
                    match counted(ops, head, i) {
                        Some(c) => found.push(Chosen::Counted(c)),
                        None if copies > 1 => found.push(Chosen::Repeated { head, end: i, copies }),
                        None => {}
                    }
                }
            }
            Operator::Call { .. }
            | Operator::CallIndirect { .. }
            | Operator::CallRef { .. }
            | Operator::MemoryCopy { .. }
            | Operator::MemoryFill { .. }
            | Operator::MemoryInit { .. }
            | Operator::BrOnNull { .. }
            | Operator::BrOnNonNull { .. } => spoil(&mut open),
            _ => {}
        }
    }
    found
}

/// What the loop from `head` to `end` counts, if it is one that can be cut.
fn counted(ops: &[Op<'_>], head: usize, end: usize) -> Option<Counted> {
    let body = end - head;
    if body > BODY_MAX {
        return None;
    }
    let token = |at: usize| Token::of(&ops[at].op);
    // Its one way back, and what is assigned in it: where, and whether that is in no block within it.
    let mut test = None;
    let mut assigned: Vec<(u32, usize, bool)> = Vec::new();
    let mut depth = 0;
    for (i, Op { op, .. }) in ops.iter().enumerate().take(end).skip(head + 1) {
        match op {
            Operator::Block { .. } | Operator::If { .. } => depth += 1,
            Operator::End => depth -= 1,
            Operator::LocalSet { local_index } | Operator::LocalTee { local_index } => assigned.push((*local_index, i, depth == 0)),
            Operator::BrIf { relative_depth: 0 } if depth == 0 => {
                if test.replace(i).is_some() {
                    return None;
                }
            }
            Operator::Br { relative_depth } | Operator::BrIf { relative_depth } if *relative_depth == depth => return None,
            Operator::BrTable { targets } if targets.targets().chain([Ok(targets.default())]).any(|t| t.is_ok_and(|t| t == depth)) => return None,
            _ => {}
        }
    }
    let test = test?;
    let before = |n: usize| if test >= head + 1 + n { token(test - n) } else { Token::Other };
    let constant = |local: u32| assigned.iter().all(|(l, ..)| *l != local);
    let bound = |n: usize| match before(n) {
        Token::Get(local) if constant(local) => Some((Bound::Local(local), Some(test - n))),
        Token::Const(number) => Some((Bound::Number(number), Some(test - n))),
        _ => None,
    };
    let zero = (Bound::Number(0), None);
    let (counter, (bound, bound_at)) = match (before(1), before(2), before(3)) {
        (Token::Ne, Token::Tee(i), Token::Add) => (i, bound(6)?),
        (Token::Ne, _, Token::Tee(i)) => (i, bound(2)?),
        (Token::Ne, Token::Get(i), _) if !constant(i) => (i, bound(3)?),
        (Token::Ne, _, Token::Get(i)) => (i, bound(2)?),
        (Token::Tee(i), Token::Add, _) | (Token::Get(i), _, _) => (i, zero),
        _ => return None,
    };
    // It is stepped once, in each turn.
    let mut steps = assigned.iter().filter(|(local, ..)| *local == counter);
    let (Some((_, at, true)), None) = (steps.next(), steps.next()) else { return None };
    if *at > test || *at < head + 4 {
        return None;
    }
    let (Token::Get(from), Token::Const(step), Token::Add) = (token(at - 3), token(at - 2), token(at - 1)) else { return None };
    if from != counter || step == 0 || step.unsigned_abs() > STEP_MAX {
        return None;
    }
    let turns = known_before(ops, head, counter).and_then(|first| turns(first, bound, step, body));
    Some(Counted { head, test, counter, step, bound, bound_at, body, turns })
}

/// How often a loop turns whose counter begins at `first`, if that is no more than a piece.
fn turns(first: i32, bound: Bound, step: i32, body: usize) -> Option<u32> {
    let Bound::Number(last) = bound else { return None };
    let way = if step > 0 { last.wrapping_sub(first) } else { first.wrapping_sub(last) } as u32;
    let each = step.unsigned_abs();
    let turns = way / each;
    (way % each == 0 && (1..=piece(body)).contains(&turns)).then_some(turns)
}

/// Turns of a piece: a power of two.
fn piece(body: usize) -> u32 {
    let most = (PIECE / body as u32).clamp(1, TURNS_MAX);
    1 << most.ilog2()
}

/// The number that a local holds where a loop begins, if it has just been set.
fn known_before(ops: &[Op<'_>], head: usize, local: u32) -> Option<i32> {
    /// How far is looked back.
    const FAR: usize = 200;
    for at in (head.saturating_sub(FAR).max(1)..head).rev() {
        match (&ops[at].op, Token::of(&ops[at - 1].op)) {
            (Operator::LocalSet { local_index } | Operator::LocalTee { local_index }, Token::Const(number)) if *local_index == local => return Some(number),
            (Operator::LocalSet { local_index } | Operator::LocalTee { local_index }, _) if *local_index == local => return None,
            // The way to the head may have come in there, or not from before.
            (Operator::Loop { .. } | Operator::If { .. } | Operator::Else | Operator::End | Operator::TryTable { .. }, _) => return None,
            _ => {}
        }
    }
    None
}

/// Writes a function down anew.
struct Cut<'a> {
    wasm: &'a [u8],
    out: Vec<u8>,
    trail: Trail,
    /// Locals of the pass: any number, and where a piece ends.
    x: u32,
    end: u32,
}

impl Cut<'_> {
    fn sink(&mut self) -> InstructionSink<'_> {
        InstructionSink::new(&mut self.out)
    }

    fn function(mut self, ops: &[Op<'_>], chosen: &[Chosen]) -> Result<(Vec<u8>, Trail), Error> {
        let mut at = 0;
        for loop_ in chosen {
            self.copy(&ops[at..loop_.head()]);
            at = match loop_ {
                Chosen::Counted(c) => self.counted(ops, c)?,
                Chosen::Repeated { head, end, copies } => {
                    self.sink().block(Shape::Empty).loop_(Shape::Empty);
                    for copy in 1..=*copies {
                        let last = copy == *copies;
                        if !last {
                            self.sink().block(Shape::Empty);
                        }
                        let mut depth = 0;
                        for op in &ops[head + 1..*end] {
                            self.op(op, &mut depth, if last { 1 } else { 2 })?;
                        }
                        if !last {
                            self.sink().br(2).end();
                        }
                    }
                    self.sink().end().end();
                    end + 1
                }
            };
        }
        self.copy(&ops[at..]);
        Ok((self.out, self.trail))
    }

    fn copy(&mut self, ops: &[Op<'_>]) {
        if let (Some(first), Some(last)) = (ops.first(), ops.last()) {
            let range = first.range.start..last.range.end;
            self.trail.copied(self.out.len(), range.clone());
            self.out.extend_from_slice(&self.wasm[range]);
        }
    }

    /// Copies an instruction of a loop with `depth` blocks open in it. So many more labels than before lie between the loop and what is around it.
    fn op(&mut self, op: &Op<'_>, depth: &mut u32, more: u32) -> Result<(), Error> {
        let moved = |label: u32| if label > *depth { label + more } else { label };
        self.trail.copied(self.out.len(), op.range.clone());
        match &op.op {
            Operator::Br { relative_depth } => drop(InstructionSink::new(&mut self.out).br(moved(*relative_depth))),
            Operator::BrIf { relative_depth } => drop(InstructionSink::new(&mut self.out).br_if(moved(*relative_depth))),
            Operator::BrTable { targets } => {
                let all = targets.targets().map(|t| Ok(moved(t?))).collect::<Result<Vec<u32>, Error>>()?;
                InstructionSink::new(&mut self.out).br_table(all, moved(targets.default()));
            }
            _ => self.out.extend_from_slice(&self.wasm[op.range.clone()]),
        }
        match op.op {
            Operator::Block { .. } | Operator::If { .. } => *depth += 1,
            Operator::End => *depth -= 1,
            _ => {}
        }
        Ok(())
    }

    /// Gives the number of the instruction behind it.
    fn counted(&mut self, ops: &[Op<'_>], c: &Counted) -> Result<usize, Error> {
        self.head(c);
        let outside = u32::from(c.turns.is_none());
        let (mut depth, mut at) = (0, c.head + 1);
        loop {
            let op = &ops[at];
            match op.op {
                _ if c.bound_at == Some(at) => {
                    let end = self.end;
                    self.sink().local_get(end);
                }
                _ if c.test == at => self.test(c),
                Operator::End if depth == 0 => break,
                _ => self.op(op, &mut depth, outside)?,
            }
            at += 1;
        }
        self.sink().end();
        if outside > 0 {
            self.sink().end();
        }
        Ok(at + 1)
    }

    fn bound(&mut self, bound: Bound) {
        match bound {
            Bound::Local(local) => self.sink().local_get(local),
            Bound::Number(number) => self.sink().i32_const(number),
        };
    }

    fn head(&mut self, c: &Counted) {
        let (x, end, turns) = (self.x, self.end, c.turns.map_or(piece(c.body), u32::next_power_of_two));
        let most = turns as i32 - 1;
        match c.turns {
            Some(turns) => drop(self.sink().i32_const(turns as i32 - 1).local_set(x)),
            None => {
                self.sink().loop_(Shape::Empty);
                if c.step > 0 {
                    self.bound(c.bound);
                    self.sink().local_get(c.counter).i32_sub();
                } else {
                    self.sink().local_get(c.counter);
                    self.bound(c.bound);
                    self.sink().i32_sub();
                }
                let each = c.step.unsigned_abs();
                match each.is_power_of_two() {
                    true if each == 1 => {}
                    true => drop(self.sink().i32_const(each.ilog2() as i32).i32_shr_u()),
                    false => drop(self.sink().i32_const(each as i32).i32_div_u()),
                }
                self.sink().i32_const(-1).i32_add().local_tee(x);
                self.sink().i32_const(most).local_get(x).i32_const(most).i32_lt_u().select().local_set(x);
            }
        }
        self.sink().local_get(x).i32_const(most).i32_and().i32_const(1).i32_add();
        self.sink().i32_const(c.step).i32_mul().local_get(c.counter).i32_add().local_set(end).loop_(Shape::Empty);
    }

    fn test(&mut self, c: &Counted) {
        let end = self.end;
        if c.bound_at.is_none() {
            self.sink().local_get(end).i32_ne();
        }
        self.sink().br_if(0);
        if c.turns.is_none() {
            self.sink().local_get(c.counter);
            self.bound(c.bound);
            self.sink().i32_ne().br_if(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::toolchain::outline::Outline;

    /// `(turns of each loop)` after the pass, in a function whose parameters are `$n` and `$a`.
    fn cut(body: &str) -> Vec<Option<u32>> {
        let text = format!("(module (memory 1) (func $g) (func (export \"f\") (param $n i32) (param $a i32) (result i32) (local $i i32) (local $s i32) {body} local.get $s))");
        let wasm = wat::parse_str(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
        let out = strip(&wasm, &mut Trails::default()).unwrap();
        wasmparser::Validator::new_with_features(super::super::features()).validate_all(&out).unwrap_or_else(|e| panic!("{e}\n{text}"));
        same(&wasm, &out, &text);
        Outline::read(&out).unwrap().functions[1].loops.iter().map(|l| l.turns).collect()
    }

    /// Both give the same and leave the same memory, whatever they are called with.
    fn same(plain: &[u8], cut: &[u8], text: &str) {
        let mut config = wasmtime::Config::new();
        config.consume_fuel(true);
        let engine = wasmtime::Engine::new(&config).unwrap();
        let run = |wasm: &[u8], n: i32, a: i32| {
            let mut store = wasmtime::Store::new(&engine, ());
            store.set_fuel(2_000_000).unwrap();
            let instance = wasmtime::Instance::new(&mut store, &wasmtime::Module::new(&engine, wasm).unwrap(), &[]).unwrap();
            instance.get_typed_func::<(i32, i32), i32>(&mut store, "f").unwrap().call(&mut store, (n, a)).ok()
        };
        for n in [0, 1, 2, 3, 4, 5, 7, 8, 100, 1024, 1025, 4096, 5000, 40_000, -1, -4, i32::MIN] {
            for a in [0, 1, 4, -3] {
                let (one, two) = (run(plain, n, a), run(cut, n, a));
                // What takes for ever, or nearly so, ends for want of fuel at different places.
                assert!(one == two || one.is_none() || two.is_none(), "f({n}, {a}) is {one:?} and then {two:?}: {text}");
                assert!(one.is_some() || two.is_none(), "f({n}, {a}) ends only when cut: {text}");
            }
        }
    }

    const SUM: &str = "local.get $s local.get $i i32.xor i32.const 5 i32.rotl local.set $s";

    #[test]
    fn loops_that_count_are_cut() {
        let check = |body: &str, expected: &[Option<u32>]| assert_eq!(cut(body), expected, "{body}");
        check(&format!("local.get $n local.set $i loop {SUM} local.get $i i32.const -1 i32.add local.tee $i br_if 0 end"), &[None, Some(2048)]);
        check(&format!("loop {SUM} local.get $i i32.const 4 i32.add local.tee $i local.get $n i32.ne br_if 0 end"), &[None, Some(2048)]);
        check(&format!("loop {SUM} local.get $n local.get $i i32.const 12 i32.add local.tee $i i32.ne br_if 0 end"), &[None, Some(2048)]);
        check(&format!("loop local.get $i i32.const 1 i32.add local.set $i {SUM} local.get $n local.get $i i32.ne br_if 0 end"), &[None, Some(2048)]);
        check(&format!("loop local.get $i i32.const 1 i32.add local.set $i {SUM} local.get $i i32.const 77 i32.ne br_if 0 end"), &[None, Some(2048)]);
        check(&format!("local.get $n local.set $i loop local.get $i i32.const -3 i32.add local.set $i {SUM} local.get $i br_if 0 end"), &[None, Some(2048)]);
        // Left in the middle, by each kind of branch.
        check(
            &format!(
                "block block loop {SUM} block local.get $s i32.const 7 i32.and i32.const 3 i32.eq br_if 2 local.get $s i32.const 31 i32.and br_table 0 0 0 2 0 3 0 end \
                 local.get $i i32.const 1 i32.add local.tee $i local.get $n i32.ne br_if 0 br 1 end end i32.const 1 local.set $s end"
            ),
            &[None, Some(1024)],
        );
        // Two in one function, in a loop.
        let two = format!("local.get $n local.set $i loop {SUM} local.get $i i32.const -1 i32.add local.tee $i br_if 0 end ").repeat(2);
        check(&format!("loop {two} local.get $a i32.const 1 i32.sub local.tee $a i32.const 5 i32.lt_u br_if 0 end"), &[None, None, Some(2048), None, Some(2048)]);
    }

    #[test]
    fn few_turns_need_no_look() {
        let check = |body: &str, expected: &[Option<u32>]| assert_eq!(cut(body), expected, "{body}");
        check(&format!("i32.const 64 local.set $i loop {SUM} local.get $i i32.const -4 i32.add local.tee $i br_if 0 end"), &[Some(16)]);
        check(&format!("i32.const 3 local.set $i block loop {SUM} local.get $i i32.const 2 i32.add local.tee $i i32.const 23 i32.ne br_if 0 end end"), &[Some(16)]);
        check(&format!("i32.const 3 local.set $i loop {SUM} local.get $i i32.const 2 i32.add local.tee $i i32.const 24 i32.ne br_if 0 end"), &[None, Some(2048)]);
        check(&format!("i32.const 3 local.set $i loop {SUM} local.get $i i32.const 2 i32.add local.tee $i i32.const 3 i32.ne br_if 0 end"), &[None, Some(2048)]);
        check(&format!("i32.const 5 local.set $i local.get $a if local.get $n local.set $i end loop {SUM} local.get $i i32.const -1 i32.add local.tee $i br_if 0 end"), &[None, Some(2048)]);
    }

    /// Short loops that do not count have one look for several turns; the same loops turn as before.
    #[test]
    fn whatever_counts_in_another_way_is_written_down_several_times() {
        let check = |body: &str| {
            let text = format!("(module (memory 1) (func $g) (func (export \"f\") (param $n i32) (param $a i32) (result i32) (local $i i32) (local $s i32) {body} local.get $s))");
            let wasm = wat::parse_str(&text).unwrap();
            let (before, after) = (wasm.len(), strip(&wasm, &mut Trails::default()).unwrap().len());
            assert!(after > before + body.len() / 4, "{before} bytes have become {after}: {body}");
            assert_eq!(cut(body), [None], "{body}");
        };
        check(&format!("loop {SUM} local.get $i local.get $a i32.add local.tee $i local.get $n i32.lt_u br_if 0 end"));
        check(&format!("loop {SUM} local.get $i i32.const 100000 i32.add local.tee $i br_if 0 end"));
        check(&format!("loop {SUM} local.get $i i32.const 1 i32.add local.tee $i local.get $n i32.lt_u br_if 0 end"));
        check(&format!("loop {SUM} local.get $n i32.const 1 i32.sub local.set $n local.get $i i32.const 1 i32.add local.tee $i local.get $n i32.ne br_if 0 end"));
        check(&format!("loop {SUM} local.get $a if local.get $i i32.const 1 i32.add local.set $i end local.get $i local.get $n i32.ne br_if 0 end"));
        check(&format!("loop {SUM} local.get $i i32.const 1 i32.add local.tee $i local.get $n i32.ne br_if 0 local.get $s i32.const 4 i32.gt_s br_if 0 end"));
        check(&format!(
            "block block loop {SUM} local.get $s local.get $n i32.eq br_if 1 block block local.get $s i32.const 3 i32.and br_table 0 1 2 3 end local.get $i i32.const 1 i32.add \
             local.tee $i local.get $n i32.ge_u br_if 2 br 1 end local.get $i i32.const 3 i32.add local.tee $i local.get $n i32.lt_u br_if 0 br 2 end end i32.const 1 local.set $s end"
        ));
    }

    #[test]
    fn long_loops_and_calls_are_left() {
        let check = |body: &str| {
            let text = format!("(module (memory 1) (func $g) (func (export \"f\") (param $n i32) (param $a i32) (result i32) (local $i i32) (local $s i32) {body} local.get $s))");
            let wasm = wat::parse_str(&text).unwrap();
            assert!(strip(&wasm, &mut Trails::default()).unwrap() == wasm, "{body}");
        };
        check(&format!("loop {SUM} call $g local.get $i i32.const -1 i32.add local.tee $i br_if 0 end"));
        check(&format!("loop {SUM} i32.const 0 i32.const 0 local.get $a memory.fill local.get $i i32.const -1 i32.add local.tee $i br_if 0 end"));
        check(&format!("loop (result i32) {SUM} local.get $s local.get $i i32.const -1 i32.add local.tee $i br_if 0 end drop"));
        check(&format!("loop {} local.get $i i32.const -1 i32.add local.tee $i br_if 0 end", format!("{SUM} ").repeat(200)));
    }
}
