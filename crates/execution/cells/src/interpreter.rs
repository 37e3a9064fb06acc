//! The interpreter: a program as bytecode for wasmtime's Pulley, which runs on any machine that an agent is built for.
//!
//! Cranelift makes the bytecode as it would make machine code, from the same module and with the same safe points, so a stopped cell goes on in another tier. It takes some forty
//! times as long to run, and no processor has to be known for it.
//!
//! Pulley has no atomic instructions and no shared memory: it is written in Rust, for which memory that another thread writes can't be read like any other. So
//!
//! - programs with threads run in the quick tier, and [`module`] says why;
//! - the looks at the flag words, which are atomic loads for compilers' sake (`toolchain::flags`), become plain loads here. There is no compiler to be told: an instruction of Pulley's reads memory
//!   each time that it is reached, through a pointer of which nothing is known, as it does for the clock of the engine's own epochs, which another thread moves on just so.

use crate::toolchain::{self, flags};
use wasmparser::{Operator, Parser, Payload, Validator, WasmFeatures};

/// What the instruction becomes: as many bytes, so that nothing that names a place in the code has to change.
const NOP: u8 = 0x01;
const I32_LOAD: u8 = 0x28;

/// A valid module as the interpreter takes it. `movable`: with safe points that `toolchain::verify` has proved.
///
/// # Errors
/// Why it can't be interpreted.
pub(crate) fn module(wasm: &[u8], movable: bool) -> Result<Vec<u8>, String> {
    let mut plain = wasm.to_vec();
    if movable {
        looks(wasm, &mut plain).map_err(|e| e.to_string())?;
    }
    let features = toolchain::features().difference(WasmFeatures::THREADS);
    // What else would not be understood is not listed here once more: whoever knows the instructions is asked.
    match Validator::new_with_features(features).validate_all(&plain) {
        Ok(_) => Ok(plain),
        Err(_) => Err("it has atomic instructions or memory that threads share, which the interpreter does not know".into()),
    }
}

/// Makes plain loads of the looks at the flag words. Others stay as they are: an atomic load traps at an odd address, and a plain one does not.
fn looks(wasm: &[u8], plain: &mut [u8]) -> wasmparser::Result<()> {
    for payload in Parser::new(0).parse_all(wasm) {
        let Payload::CodeSectionEntry(body) = payload? else { continue };
        let mut code = body.get_operators_reader()?;
        let mut before = None;
        while !code.eof() {
            let (op, at) = code.read_with_offset()?;
            if let (Operator::I32AtomicLoad { memarg }, Some(base)) = (&op, before)
                && flags::is_flag(base, *memarg)
            {
                // The prefix, then the number of the instruction, whose bytes but the last have their highest bit set.
                let mut at = at;
                plain[at] = NOP;
                at += 1;
                while wasm[at] & 0x80 != 0 {
                    plain[at] = NOP;
                    at += 1;
                }
                plain[at] = I32_LOAD;
            }
            before = if let Operator::I32Const { value } = op { Some(value) } else { None };
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(body: &str) -> Vec<u8> {
        wat::parse_str(format!("(module (memory 1) (memory $flags 1 1) (func (result i32) {body}))")).unwrap()
    }

    #[test]
    fn looks_become_plain_loads_in_place_and_nothing_else_does() {
        let wasm = made("(i32.or (i32.atomic.load $flags (i32.const 4)) (i32.atomic.load $flags offset=4 (i32.const 0)))");
        let plain = module(&wasm, true).unwrap();
        assert_eq!(plain.len(), wasm.len());
        let text = |wasm: &[u8]| {
            let mut ops = Vec::new();
            for payload in Parser::new(0).parse_all(wasm) {
                if let Payload::CodeSectionEntry(body) = payload.unwrap() {
                    ops.extend(body.get_operators_reader().unwrap().into_iter().map(|op| format!("{:?}", op.unwrap())));
                }
            }
            ops
        };
        let expected: Vec<String> = text(&wasm).iter().flat_map(|op| match op.strip_prefix("I32AtomicLoad") {
            Some(rest) => vec!["Nop".to_string(), format!("I32Load{rest}")],
            None => vec![op.clone()],
        }).collect();
        assert_eq!(text(&plain), expected);
        // A number of the instruction with more bytes than it needs.
        let at = wasm.windows(2).position(|w| w == [0xfe, 0x10]).unwrap();
        let mut long = wasm.clone();
        long.splice(at..at + 2, [0xfe, 0x90, 0x00]);
        // The function's and the section's length, which precede it.
        let body = wasm[..at].iter().rposition(|b| *b == 0x00).unwrap() - 1;
        long[body] += 1;
        long[body - 2] += 1;
        assert_eq!(text(&module(&long, true).unwrap()).iter().filter(|op| *op == "Nop").count(), 3);
    }

    #[test]
    fn what_is_no_proven_look_is_refused_with_the_reason() {
        let refused = |wasm: &[u8], movable| assert!(module(wasm, movable).unwrap_err().contains("atomic"));
        refused(&made("(i32.atomic.load $flags (i32.const 4))"), false);
        refused(&made("(i32.atomic.load $flags (i32.const 8))"), true);
        refused(&made("(i32.atomic.load (i32.const 4))"), true);
        refused(&made("(i32.atomic.rmw.add (i32.const 4) (i32.const 1))"), true);
        refused(&wat::parse_str("(module (memory 1 1 shared))").unwrap(), true);
        assert!(module(&made("(i32.load (i32.const 4))"), false).is_ok());
    }
}
