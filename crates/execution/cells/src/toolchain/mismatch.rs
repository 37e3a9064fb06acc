//! Calls of functions with the wrong arguments.
//!
//! C lets one file declare `char gettimeofday();` and call it, whatever the function's real type is: each `configure` asks
//! in this way whether a function exists. Natively such a call links. In WebAssembly it makes a module that isn't valid. Here
//! the call becomes `unreachable`: the question is answered, and a program that really makes such a call stops there.
//!
//! It guesses which call is to blame: the last one before the place where validation fails. A module that stays invalid is
//! left to whoever validates it next.

use wasmparser::{KnownCustom, Name, Operator, Parser, Payload};

use super::{Error, features};

/// More wrong calls than this are no longer a slip.
const CALLS_MAX: usize = 256;

/// Replaces wrong calls in `wasm` and returns the names of the functions that were called so, each once.
pub(crate) fn repair(wasm: &mut [u8]) -> Result<Vec<String>, Error> {
    let mut called: Vec<u32> = Vec::new();
    for _ in 0..CALLS_MAX {
        let Err(error) = wasmparser::Validator::new_with_features(features()).validate_all(wasm) else { break };
        let Some((at, end, callee)) = last_call(wasm, error.offset())? else { break };
        // The same length, so that nothing moves: unreachable, then nops where the function's number was.
        wasm[at] = 0x00;
        wasm[at + 1..end].fill(0x01);
        called.push(callee);
    }
    called.sort_unstable();
    called.dedup();
    if called.is_empty() {
        return Ok(Vec::new());
    }
    let mut names: Vec<String> = called.iter().map(|index| format!("function {index}")).collect();
    for payload in Parser::new(0).parse_all(wasm) {
        let Payload::CustomSection(section) = payload? else { continue };
        let KnownCustom::Name(reader) = section.as_known() else { continue };
        for subsection in reader.into_iter().map_while(Result::ok) {
            let Name::Function(map) = subsection else { continue };
            for naming in map.into_iter().map_while(Result::ok) {
                if let Ok(position) = called.binary_search(&naming.index) {
                    names[position] = naming.name.to_string();
                }
            }
        }
    }
    Ok(names)
}

/// Start, end and callee of the last direct call that starts at or before `offset`, in the function that contains it.
fn last_call(wasm: &[u8], offset: usize) -> Result<Option<(usize, usize, u32)>, Error> {
    for payload in Parser::new(0).parse_all(wasm) {
        let Payload::CodeSectionEntry(body) = payload? else { continue };
        // The error may be at the function's last byte or right behind it.
        if !(body.range().start..=body.range().end).contains(&offset) {
            continue;
        }
        let mut operators = body.get_operators_reader()?;
        let mut last = None;
        while !operators.eof() {
            let at = operators.original_position();
            if at > offset {
                break;
            }
            if let Operator::Call { function_index } = operators.read()? {
                last = Some((at, operators.original_position(), function_index));
            }
        }
        if last.is_some() {
            return Ok(last);
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which functions are named, and whether the result is valid.
    fn check(text: &str, expected: &[&str], valid: bool) {
        let mut wasm = wat::parse_str(text).unwrap();
        assert_eq!(repair(&mut wasm).unwrap(), expected, "{text}");
        assert_eq!(wasmparser::Validator::new_with_features(features()).validate_all(&wasm).is_ok(), valid, "{text}");
    }

    #[test]
    fn wrong_calls_become_traps() {
        check("(module (func $f (param i32)) (func (call $f)))", &["f"], true);
        check("(module (func $f) (func (result i32) (call $f)))", &["f"], true);
        check("(module (func $f) (func $g (result i64) i64.const 1) (func (call $f (call $g)) (call $f)))", &["f"], true);
        check("(module (func $f (param i32 i32)) (func (call $f (i32.const 1) (i32.const 2))))", &[], true);
    }

    #[test]
    fn other_faults_stay() {
        check("(module (func (i32.add)))", &[], false);
    }
}
