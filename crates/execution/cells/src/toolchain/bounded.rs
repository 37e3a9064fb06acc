//! Loops of which the code itself shows that they turn only so often, so that nothing in them need look at the flags.
//!
//! ```text
//! local.get x  i32.const 1023  i32.and  i32.const 1  i32.add      ;; 1 to 1024, whatever x is
//! i32.const s  i32.mul  local.get i  i32.add  local.set end       ;; so many steps from i
//! loop
//!   ...
//!   local.get i  i32.const s  i32.add  local.tee i                ;; once in each turn
//!   local.get end  i32.ne  br_if 0                                ;; the only way back to the head
//! end
//! ```
//!
//! [`super::strip`] writes them so, and the proof of [`super::verify`] reads them: nothing else in the loop changes `i` or `end`, so `i` comes to `end`
//! after the steps that were counted out before. `i` may be stepped anywhere in the turn's own code, in no block within it, and the operands of the comparison
//! may stand in any order.

use wasmparser::{BlockType, Operator};

/// Most turns of such a loop. With [`STEP_MAX`] it keeps what is added below half of what 32 bits hold: `i` does not come to `end` before.
pub(crate) const TURNS_MAX: u32 = 1 << 14;
pub(crate) const STEP_MAX: u32 = 1 << 16;

/// What matters of an instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Token {
    Get(u32),
    Set(u32),
    Tee(u32),
    Const(i32),
    And,
    Add,
    Mul,
    Ne,
    Other,
}

impl Token {
    pub(crate) fn of(op: &Operator<'_>) -> Token {
        match *op {
            Operator::LocalGet { local_index } => Token::Get(local_index),
            Operator::LocalSet { local_index } => Token::Set(local_index),
            Operator::LocalTee { local_index } => Token::Tee(local_index),
            Operator::I32Const { value } => Token::Const(value),
            Operator::I32And => Token::And,
            Operator::I32Add => Token::Add,
            Operator::I32Mul => Token::Mul,
            Operator::I32Ne => Token::Ne,
            _ => Token::Other,
        }
    }
}

use Token::{Add, And, Const, Get, Mul, Ne, Set, Tee};

/// Instructions in front of a loop that say how often it turns.
const WINDOW: usize = 10;

/// A loop that began as one that turns a bounded number of times.
struct Candidate {
    /// Its number among the function's loops.
    number: usize,
    /// Blocks around its inside.
    depth: usize,
    counter: u32,
    step: i32,
    end: u32,
    turns: u32,
    stepped: bool,
    tested: bool,
}

/// Reads a function's instructions one after the other.
pub(crate) struct Scan {
    recent: [Token; WINDOW],
    /// Blocks that are open, the function's own among them.
    depth: usize,
    open: Vec<Candidate>,
    /// For each loop: how often it turns at most when it is entered.
    turns: Vec<Option<u32>>,
}

impl Scan {
    pub(crate) fn new() -> Scan {
        Scan { recent: [Token::Other; WINDOW], depth: 1, open: Vec::new(), turns: Vec::new() }
    }

    /// Of each loop, in the order of their heads: how often it turns at most, if its code shows it.
    pub(crate) fn finish(self) -> Vec<Option<u32>> {
        self.turns
    }

    pub(crate) fn step(&mut self, op: &Operator<'_>) {
        match op {
            Operator::Loop { blockty } => {
                self.turns.push(None);
                self.depth += 1;
                if *blockty == BlockType::Empty {
                    self.enter();
                }
            }
            Operator::Block { .. } | Operator::If { .. } => self.depth += 1,
            Operator::End => {
                self.depth -= 1;
                // A loop that nothing leads back into turns once; so does one whose way back was seen to be bounded.
                while let Some(done) = self.open.pop_if(|c| c.depth > self.depth) {
                    self.turns[done.number] = Some(done.turns);
                }
            }
            Operator::LocalSet { local_index } | Operator::LocalTee { local_index } => self.assigned(*local_index),
            Operator::Br { relative_depth } => self.branched(*relative_depth),
            Operator::BrIf { relative_depth: 0 } if self.open.last().is_some_and(|c| c.depth == self.depth) => self.turned(),
            Operator::BrIf { relative_depth } => self.branched(*relative_depth),
            Operator::BrTable { targets } => {
                for depth in targets.targets().chain([Ok(targets.default())]) {
                    // What can't be read has been refused before.
                    self.branched(depth.unwrap_or(0));
                }
            }
            // Ways back that only newer instructions have: none is taken for bounded with them.
            Operator::BrOnNull { .. } | Operator::BrOnNonNull { .. } | Operator::BrOnCast { .. } | Operator::BrOnCastFail { .. } => self.open.clear(),
            Operator::TryTable { .. } => {
                self.depth += 1;
                self.open.clear();
            }
            _ => {}
        }
        self.recent.rotate_left(1);
        self.recent[WINDOW - 1] = Token::of(op);
    }

    fn enter(&mut self) {
        let [Get(_), Const(mask), And, Const(1), Add, Const(step), Mul, Get(counter), Add, Set(end)] = self.recent else { return };
        let few = (0..TURNS_MAX as i32).contains(&mask) && step != 0 && step.unsigned_abs() <= STEP_MAX;
        if few && counter != end {
            let (number, depth) = (self.turns.len() - 1, self.depth);
            self.open.push(Candidate { number, depth, counter, step, end, turns: mask as u32 + 1, stepped: false, tested: false });
        }
    }

    fn assigned(&mut self, local: u32) {
        let (recent, depth) = (&self.recent, self.depth);
        self.open.retain_mut(|c| {
            if local == c.counter {
                let good = depth == c.depth && !c.stepped && !c.tested && recent[WINDOW - 3..] == [Get(c.counter), Const(c.step), Add];
                c.stepped = true;
                return good;
            }
            local != c.end
        });
    }

    /// A branch that is no counted turn.
    fn branched(&mut self, relative: u32) {
        let target = self.depth.saturating_sub(relative as usize);
        self.open.retain(|c| c.depth != target);
    }

    /// A conditional branch to the head of the innermost candidate, in no block within it.
    fn turned(&mut self) {
        let c = self.open.last_mut().expect("it was just seen");
        let (i, end) = (c.counter, c.end);
        let compared = match self.recent[WINDOW - 6..] {
            [.., Get(a), Get(b), Ne] if (a, b) == (i, end) || (a, b) == (end, i) => true,
            [Get(a), Const(_), Add, Tee(b), Get(d), Ne] => (a, b, d) == (i, i, end),
            [Get(d), Get(a), Const(_), Add, Tee(b), Ne] => (a, b, d) == (i, i, end),
            _ => false,
        };
        if compared && c.stepped && !c.tested {
            c.tested = true;
        } else {
            self.open.pop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is found of the loops of a function.
    fn turns(body: &str) -> Vec<Option<u32>> {
        let text = format!("(module (func (param $p i32) (local $i i32) (local $end i32) (local $x i32) {body}))");
        let wasm = wat::parse_str(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
        wasmparser::Validator::new_with_features(super::super::features()).validate_all(&wasm).unwrap();
        let mut scan = Scan::new();
        for payload in wasmparser::Parser::new(0).parse_all(&wasm) {
            if let wasmparser::Payload::CodeSectionEntry(body) = payload.unwrap() {
                for op in body.get_operators_reader().unwrap() {
                    scan.step(&op.unwrap());
                }
            }
        }
        scan.finish()
    }

    const COUNT: &str = "local.get $x i32.const 15 i32.and i32.const 1 i32.add i32.const -4 i32.mul local.get $i i32.add local.set $end";
    const STEP: &str = "local.get $i i32.const -4 i32.add local.tee $i";

    #[test]
    fn turns_that_are_counted_out_are_seen() {
        let seen = |inside: &str| assert_eq!(turns(&format!("{COUNT} loop {inside} end")), [Some(16)], "{inside}");
        seen(&format!("{STEP} local.get $end i32.ne br_if 0"));
        seen(&format!("local.get $end {STEP} i32.ne br_if 0"));
        seen(&format!("{STEP} drop local.get $i local.get $end i32.ne br_if 0"));
        seen(&format!("{STEP} drop block end local.get $end local.get $i i32.ne br_if 0"));
        seen(&format!("block local.get $p br_if 0 local.get $p br_if 2 end {STEP} local.get $end i32.ne br_if 0 br 1"));
        // Nothing leads back.
        seen("local.get $p drop");
        let inner = COUNT.replace("15", "3").replace("$i", "$p").replace("$end", "$x");
        let step = STEP.replace("$i", "$p");
        let nest = format!("{COUNT} loop {inner} loop {step} local.get $x i32.ne br_if 0 end {STEP} local.get $end i32.ne br_if 0 end");
        assert_eq!(turns(&nest), [Some(16), Some(4)]);
    }

    #[test]
    fn whatever_else_may_turn_for_ever() {
        let never = |body: &str| assert!(turns(body).iter().all(Option::is_none), "{body}");
        let test = "local.get $end i32.ne br_if 0";
        let inside = |inside: &str| never(&format!("{COUNT} loop {inside} end"));
        never(&format!("loop {STEP} {test} end"));
        never(&format!("{COUNT} nop loop {STEP} {test} end"));
        never(&format!("{COUNT} loop (result i32) i32.const 1 {STEP} {test} end drop"));
        for (from, to) in [("15", "-1"), ("15", "16384"), ("-4", "0"), ("-4", "65537"), ("i32.and", "i32.or"), ("$end", "$i"), ("1 i32.add", "0 i32.add"), ("1 i32.add", "2 i32.add")] {
            never(&format!("{} loop {STEP} {test} end", COUNT.replace(from, to)));
        }
        inside("br 0");
        inside(&format!("{STEP} drop br 0"));
        inside(test.replace("local.get $end", "local.get $i local.get $end").as_str());
        inside(&format!("{STEP} drop {STEP} {test}"));
        inside(&format!("{STEP} drop local.get $p br_if 0"));
        inside(&format!("{STEP} drop local.get $p local.get $end i32.ne br_if 0"));
        inside(&format!("{STEP} i32.const 7 i32.ne br_if 0"));
        inside(&format!("{} {test}", STEP.replace("-4", "4")));
        inside(&format!("{} {test}", STEP.replace("-4", "-8")));
        inside(&format!("{} {test}", STEP.replace("get $i", "get $p")));
        inside(&format!("{STEP} local.get $end i32.eq br_if 0"));
        inside(&format!("i32.const 1 local.set $end {STEP} {test}"));
        inside(&format!("i32.const 1 local.set $i {STEP} {test}"));
        inside(&format!("{STEP} {test} i32.const 1 local.set $i local.get $p br_if 0"));
        inside(&format!("local.get $p br_if 0 {STEP} {test}"));
        inside(&format!("block {STEP} drop end local.get $i {test}"));
        inside(&format!("local.get $p if {STEP} drop end local.get $i {test}"));
        inside(&format!("block local.get $p br_if 1 end {STEP} {test}"));
        inside(&format!("block {STEP} local.get $end i32.ne br_if 1 end"));
        inside(&format!("block local.get $p br_table 0 1 2 end {STEP} {test}"));
        inside(&format!("loop {STEP} {test} end"));
        inside(&format!("loop {STEP} drop local.get $i local.get $end i32.ne br_if 1 end"));
    }
}
