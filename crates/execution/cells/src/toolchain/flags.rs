//! The last pass: the flag words leave the program's memory, and functions look at them.
//!
//! In the program's own memory a wild pointer could clear the words at the moment when the agent sets them, and a hand-made program would do so on
//! purpose. In a second memory, which no instruction writes to, they are the agent's alone. LLVM and Binaryen know one memory only, so until here
//! the words had an address in that one, and each load from it is one of our checks.
//!
//! ```text
//! i32.const F; i32.load                 i32.const 0; i32.atomic.load (memory 1)
//! function that is not short:           at its entry: if flags[1] { unreachable }
//! memory.copy, memory.fill, of a length that may be large:   before it: the same
//! ```
//!
//! The load is atomic, so that no compiler takes what an earlier one has read for it: in a loop that writes nothing, it would. The processor does the same
//! for it as for a plain one; Cranelift forgets at each what it knew of memory, which LLVM has made use of before.
//!
//! Loops have their checks since [`super::instrument`]; those at entries are for calls: without any loop, sixty functions of which each calls the next
//! one twice run for years. [`super::verify`] proves from the result that nothing was forgotten.

use wasm_encoder::{CodeSection, ExportKind, ExportSection, MemorySection, MemoryType, Module, RawSection};
use wasmparser::{Operator, Parser, Payload};

use super::instrument::{Outline, export_kind, write_u32};
use super::{Error, FLAGS};

/// Bytes that an instruction may copy or fill, known beforehand, without a look before it.
pub(crate) const BULK_BYTES_MAX: u32 = 64 << 10;

/// `i32.const 0; i32.atomic.load` of a word of memory 1, without its offset.
const LOAD: [u8; 6] = [0x41, 0x00, 0xfe, 0x10, 0x42, 0x01];

/// `if flags[1] { unreachable }`.
const LOOK: [u8; 11] = [0x41, 0x00, 0xfe, 0x10, 0x42, 0x01, 0x04, 0x04, 0x40, 0x00, 0x0b];

/// Moves the flags of an instrumented module, whose words are at `address`. Gives the module, and how many looks it added.
pub(crate) fn separate(wasm: &[u8], address: u32) -> Result<(Vec<u8>, u32), Error> {
    let outline = Outline::read(wasm)?;
    let mut module = Module::new();
    let mut checks = 0;
    let mut functions = outline.functions.iter();
    let mut code = CodeSection::new();
    for payload in Parser::new(0).parse_all(wasm) {
        match payload? {
            Payload::MemorySection(section) => {
                let mut memories = MemorySection::new();
                for memory in section {
                    let m = memory?;
                    let page_size_log2 = m.page_size_log2;
                    memories.memory(MemoryType { minimum: m.initial, maximum: m.maximum, memory64: m.memory64, shared: m.shared, page_size_log2 });
                }
                memories.memory(MemoryType { minimum: 1, maximum: Some(1), memory64: false, shared: false, page_size_log2: None });
                module.section(&memories);
            }
            Payload::ExportSection(section) => {
                let mut exports = ExportSection::new();
                for export in section {
                    let export = export?;
                    exports.export(export.name, export_kind(export.kind), export.index);
                }
                exports.export(FLAGS, ExportKind::Memory, 1);
                module.section(&exports);
            }
            Payload::CodeSectionStart { count: 0, .. } => {
                module.section(&code);
            }
            Payload::CodeSectionStart { .. } => {}
            Payload::CodeSectionEntry(body) => {
                let function = functions.next().expect("the outline has each function");
                let mut out = Vec::with_capacity(function.body.len() + 16);
                let mut copied = function.body.start;
                if !function.is_short() {
                    out.extend_from_slice(&wasm[copied..function.first_operator]);
                    copied = function.first_operator;
                    out.extend_from_slice(&LOOK);
                    checks += 1;
                }
                let mut operators = body.get_operators_reader()?;
                let mut constant = None;
                while !operators.eof() {
                    let at = operators.original_position();
                    match operators.read()? {
                        Operator::I32Const { value } => {
                            constant = Some((at, value as u32));
                            continue;
                        }
                        Operator::I32Load { memarg } => {
                            let word = constant.and_then(|(from, base)| Some((from, (u64::from(base) + memarg.offset).checked_sub(u64::from(address))?)));
                            if let Some((from, offset @ (0 | 4))) = word {
                                out.extend_from_slice(&wasm[copied..from]);
                                out.extend_from_slice(&LOAD);
                                write_u32(&mut out, offset as u32);
                                copied = operators.original_position();
                            }
                        }
                        Operator::MemoryCopy { .. } | Operator::MemoryFill { .. } | Operator::MemoryInit { .. } => {
                            if constant.is_none_or(|(_, bytes)| bytes > BULK_BYTES_MAX) {
                                out.extend_from_slice(&wasm[copied..at]);
                                out.extend_from_slice(&LOOK);
                                copied = at;
                                checks += 1;
                            }
                        }
                        _ => {}
                    }
                    constant = None;
                }
                out.extend_from_slice(&wasm[copied..function.body.end]);
                code.raw(&out);
                if functions.len() == 0 {
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
    Ok((module.finish(), checks))
}
