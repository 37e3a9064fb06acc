//! The flag words by which the agent stops or ends a program, and what looks at them in its code.
//!
//! They lie in a second memory, which no instruction writes to, so they are the agent's alone: in the program's own memory a wild pointer could clear
//! them at the moment when the agent sets them, and a hand-made program would do so on purpose.
//!
//! ```text
//! i32.const 0  i32.atomic.load (memory 1)                  word 0: stop, word 1: die; the agent sets the second one first
//! if unreachable end                                       a look that ends the program
//! global.get state  i32.or  if ... end                     one that also finds out whether the stack is being wound up again
//! ```
//!
//! The load is atomic, so that no compiler takes what an earlier one has read for it: in a loop that writes nothing, it would. The processor does the same
//! for it as for a plain one.

use wasm_encoder::{BlockType as Shape, InstructionSink, MemArg};
use wasmparser::{BlockType, FunctionBody, Operator};

/// Number of the memory with the flag words.
pub(super) const MEMORY: u32 = 1;
/// Offsets of the words.
pub(super) const STOP: u32 = 0;
pub(super) const DIE: u32 = 4;
/// Bytes that an instruction may copy or fill, known beforehand, without a look before it.
pub(super) const BULK_BYTES_MAX: u32 = 64 << 10;

/// Puts the word at an offset onto the stack. The address is the offset, so that no bounds check is needed at run time.
pub(super) fn load(out: &mut Vec<u8>, word: u32) {
    InstructionSink::new(out).i32_const(0).i32_atomic_load(MemArg { offset: word.into(), align: 2, memory_index: MEMORY });
}

/// Ends the program if it is to die. Gives where the branch is, which is not taken as a rule.
pub(super) fn die(out: &mut Vec<u8>) -> usize {
    load(out, DIE);
    let branch = out.len();
    InstructionSink::new(out).if_(Shape::Empty).unreachable().end();
    branch
}

/// Whether this loads one of the two words that the agent sets.
pub(crate) fn is_flag(base: i32, memarg: wasmparser::MemArg) -> bool {
    memarg.memory == MEMORY && matches!(u64::from(base as u32) + memarg.offset, 0 | 4)
}

/// Whether a function begins so that it does not go on when both words are set: by [`die`], or with that behind a condition that then holds.
pub(super) fn begins_with_a_look(body: &FunctionBody<'_>) -> wasmparser::Result<bool> {
    // Behind the blocks that end somewhere below, which are nothing by themselves.
    let mut code = body.get_operators_reader()?.into_iter().skip_while(|op| matches!(op, Ok(Operator::Block { .. })));
    let mut next = || code.next().unwrap_or(Ok(Operator::Nop));
    let condition = [next()?, next()?, next()?, next()?, next()?];
    let flag = |base: &Operator<'_>, load: &Operator<'_>| match (base, load) {
        (Operator::I32Const { value }, Operator::I32AtomicLoad { memarg }) => is_flag(*value, *memarg),
        _ => false,
    };
    let [base, load, a, b, c] = &condition;
    if !flag(base, load) {
        return Ok(false);
    }
    let plain_if = |op: &Operator<'_>| matches!(op, Operator::If { blockty: BlockType::Empty });
    if plain_if(a) {
        return Ok(matches!((b, c), (Operator::Unreachable, Operator::End)));
    }
    if !(matches!(a, Operator::GlobalGet { .. }) && matches!(b, Operator::I32Or) && plain_if(c)) {
        return Ok(false);
    }
    let mut look = Look::default();
    for _ in 0..5 {
        look = look.after(&next()?);
    }
    Ok(look == Look::Done)
}

/// How far the instructions of [`die`] have been read.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) enum Look {
    #[default]
    No,
    /// The last instruction was this constant.
    Constant(u32),
    Loaded,
    If,
    Unreachable,
    /// All of them, just before.
    Done,
}

impl Look {
    pub(super) fn after(self, op: &Operator<'_>) -> Look {
        match (op, self) {
            (Operator::I32Const { value }, _) => Look::Constant(*value as u32),
            (Operator::I32AtomicLoad { memarg }, Look::Constant(base)) if is_flag(base as i32, *memarg) => Look::Loaded,
            (Operator::If { blockty: BlockType::Empty }, Look::Loaded) => Look::If,
            (Operator::Unreachable, Look::If) => Look::Unreachable,
            (Operator::End, Look::Unreachable) => Look::Done,
            _ => Look::No,
        }
    }
}
