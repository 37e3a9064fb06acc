//! What is done to a linked program that has pipes: WASI's calls that may be about one are imported as calls that can be stopped.
//!
//! Nearly every program writes and reads, and nearly none waits there: so by their names of WASI these calls are no safe points, and `printf` and all that calls it stay as LLVM
//! made them. Who links `pipe` or `socketpair` pays for what it uses.

use super::Error;
use crate::processes::{MODULE, NAMES};
use crate::wasi;
use wasm_encoder::{EntityType, ImportSection, MemoryType, RawSection};
use wasmparser::{Parser, Payload, TypeRef};

/// The import of `guests/processes.c` that makes a pipe.
const PIPE: &str = "pipe";

/// Rewrites a module that imports it; others stay as they are.
pub(super) fn rewrite(wasm: &[u8]) -> Result<Vec<u8>, Error> {
    let mut out = wasm_encoder::Module::new();
    for payload in Parser::new(0).parse_all(wasm) {
        let payload = payload?;
        let section = payload.as_section();
        if let Payload::ImportSection(section) = payload {
            let imports = section.into_imports().collect::<Result<Vec<_>, _>>()?;
            if !imports.iter().any(|import| (import.module, import.name) == (MODULE, PIPE)) {
                return Ok(wasm.to_vec());
            }
            let mut made = ImportSection::new();
            for import in imports {
                let stops = import.module == wasi::MODULE && NAMES.contains(&import.name);
                let ty = match import.ty {
                    TypeRef::Func(ty) | TypeRef::FuncExact(ty) => EntityType::Function(ty),
                    TypeRef::Memory(m) => EntityType::Memory(MemoryType { minimum: m.initial, maximum: m.maximum, memory64: m.memory64, shared: m.shared, page_size_log2: m.page_size_log2 }),
                    _ => return Err(Error::Malformed(format!("it imports {}.{}, which is neither a function nor memory", import.module, import.name))),
                };
                made.import(if stops { MODULE } else { import.module }, import.name, ty);
            }
            out.section(&made);
        } else if let Some((id, range)) = section {
            out.section(&RawSection { id, data: &wasm[range] });
        }
    }
    Ok(out.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::toolchain::outline::Outline;

    #[test]
    fn who_has_pipes_can_be_stopped_where_it_reads_and_writes_and_others_are_not_touched() {
        let module = |pipe: &str| {
            let text = format!(
                r#"(module {pipe}
                    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
                    (import "wasi_snapshot_preview1" "fd_close" (func (param i32) (result i32)))
                    (import "env" "memory" (memory 1 2 shared))
                    (func (result i32) (call $write (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))))"#
            );
            wat::parse_str(text).unwrap()
        };
        let imports = |wasm: &[u8]| Outline::read(wasm).unwrap().imports.iter().map(|(module, name, _)| format!("{module}.{name}")).collect::<Vec<_>>();
        let plain = module("");
        assert_eq!(rewrite(&plain).unwrap(), plain);
        let made = rewrite(&module(r#"(import "cloudskin_process" "pipe" (func (param i32 i32 i32) (result i32)))"#)).unwrap();
        wasmparser::Validator::new_with_features(crate::toolchain::features()).validate_all(&made).unwrap();
        assert_eq!(imports(&made), ["cloudskin_process.pipe", "cloudskin_process.fd_write", "wasi_snapshot_preview1.fd_close", "env.memory"]);
    }
}
