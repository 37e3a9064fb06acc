//! What is made of bytes that anybody may submit, keep or send: one function for each way in, for `fuzz/` and for the test `fuzz`.
//!
//! Each takes any bytes and must neither panic nor allocate more than a bound. (That an instrumented program does what the plain one does is another
//! test's business: `toolchain/instrument/tests.rs` writes programs from seeds.)

use crate::cell::{Budget, Cell, Ended, Spec};
use crate::control::Control;
use crate::engine::{self, Engine, Program};
use crate::error::Error;
use crate::snapshot::{Archive, Chain, Snapshot, sealed};
use crate::toolchain::{UNWIND, UNWIND_BYTES, inspect, instrument};
use crate::wasi::{Discard, Mounts};
use crate::{link, native, transfer};
use mpi::{Fabric, Message, Place, Rank, Wire};
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use wasm_encoder::{BlockType, CodeSection, ConstExpr, ExportKind, ExportSection, Function, FunctionSection, GlobalSection, GlobalType, MemorySection, MemoryType, Module, TypeSection, ValType};

/// A module, as it is submitted: inspected, and what is valid then instrumented and translated.
pub fn module(data: &[u8]) {
    if inspect::inspect(data).is_err() {
        return;
    }
    if let Ok(made) = instrument::instrument(data, "fuzz") {
        let report = inspect::inspect(&made).expect("what the pass makes can be read");
        assert!(report.movable(), "what the pass makes can be moved");
    }
    if let Some(residual) = native::translated(data) {
        wasmparser::Validator::new_with_features(wasmparser::WasmFeatures::all()).validate_all(&residual).expect("a residual module is valid");
    }
}

/// A snapshot or a checkpoint, also one whose checksum is right because somebody has made it.
pub fn snapshot(data: &[u8]) {
    for bytes in [data.to_vec()].into_iter().chain(sealed(data)) {
        if let Ok(snapshot) = Snapshot::read(&bytes) {
            let _ = snapshot.frozen.check(); // refused or not: it is what `restore` asks first
        }
        if let Ok(mut chain) = Chain::begin(&bytes) {
            let _ = chain.add(&bytes);
            if let Ok(joined) = chain.join() {
                assert!(joined.len() <= 2 * bytes.len(), "{} bytes out of {}", joined.len(), bytes.len());
            }
        }
        if let Ok((manifest, parts)) = Archive::read(&bytes) {
            let size = manifest.len() + parts.iter().map(|(name, part)| name.len() + part.len()).sum::<usize>();
            assert!(size <= bytes.len(), "{size} bytes out of {}", bytes.len());
        }
    }
}

/// What another agent sends: frames, one behind the other, and in each whatever it may be; those of a move into cells that wait for it.
pub fn frames(data: &[u8]) {
    let (mut rest, mut frames) = (data, Vec::new());
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime without drivers");
    while let Ok((kind, body)) = runtime.block_on(link::read_frame(&mut rest)) {
        assert!(body.len() < data.len());
        let _ = link::read_message(&body);
        let _ = link::read_acknowledgement(&body);
        let _ = transfer::read_offer(&body);
        let _ = transfer::read_word(kind, &body);
        frames.push((kind, body));
    }
    transfer::packs(&frames);
    if frames.iter().any(|(kind, _)| transfer::moves(*kind)) {
        let _ = arrive(&frames); // or not: what is refused is not held, which is looked at there
    }
}

/// Takes in what comes of the ranks of a move, up to the first frame that is refused, as an agent does. Says whether all have arrived.
fn arrive(frames: &[(u8, Vec<u8>)]) -> bool {
    let ground = ground();
    let fabric = Arc::new(Fabric::new(RANKS, Box::new(Nowhere)));
    let cell = |rank| Cell::new(&ground.engine, &ground.program, &ground.spec(rank, &fabric), Arc::default()).expect("there is room for all of them");
    let mut cells: BTreeMap<u32, Cell> = (0..RANKS).map(|rank| (rank, cell(rank))).collect();
    let mut frames = frames.iter();
    let restored = transfer::arrive(&mut cells, || frames.next().cloned().ok_or_else(|| Error::Snapshot("no more comes".into())));
    match &restored {
        Ok(restored) => restored.iter().for_each(|(rank, frozen)| cells.get_mut(rank).expect("it was offered").arrive(frozen)),
        Err(_) => assert!((0..RANKS).all(|rank| fabric.place(Rank(rank)) == Place::Away), "what did not arrive is not held"),
    }
    assert!(cells.values().all(|cell| cell.memory_bytes() as u64 <= MEMORY_MAX));
    restored.is_ok()
}

/// Ranks of the job that arrives.
const RANKS: u32 = 2;
/// Memory of each of them.
const MEMORY_MAX: u64 = 64 << 20;

/// A program that does nothing without an end, with room for its stack when it is stopped.
fn endless() -> Vec<u8> {
    let (mut types, mut functions, mut memories) = (TypeSection::new(), FunctionSection::new(), MemorySection::new());
    let (mut globals, mut exports, mut code) = (GlobalSection::new(), ExportSection::new(), CodeSection::new());
    types.ty().function([], []);
    functions.function(0);
    let unwind = 65536;
    memories.memory(MemoryType { minimum: u64::from(unwind + UNWIND_BYTES) / 65536, maximum: None, memory64: false, shared: false, page_size_log2: None });
    globals.global(GlobalType { val_type: ValType::I32, mutable: false, shared: false }, &ConstExpr::i32_const(unwind as i32));
    exports.export("memory", ExportKind::Memory, 0).export(UNWIND, ExportKind::Global, 0).export("_start", ExportKind::Func, 0);
    let mut body = Function::new([]);
    body.instructions().loop_(BlockType::Empty).br(0).end().end();
    code.function(&body);
    let mut module = Module::new();
    module.section(&types).section(&functions).section(&memories).section(&globals).section(&exports).section(&code);
    module.finish()
}

struct Nowhere;
impl Wire for Nowhere {
    fn send(&self, _: Message) {}
    fn acknowledge(&self, _: Rank, _: Rank, _: u64) {}
}

struct Ground {
    engine: Engine,
    program: Arc<Program>,
}

fn ground() -> &'static Ground {
    static GROUND: OnceLock<Ground> = OnceLock::new();
    GROUND.get_or_init(|| {
        let engine = Engine::new(&engine::Options { cells_max: 2 * RANKS, ..Default::default() }).expect("an engine");
        let program = engine.load(&instrument::instrument(&endless(), "fuzz").expect("a good module")).expect("a good program");
        Ground { engine, program }
    })
}

impl Ground {
    fn spec(&self, rank: u32, fabric: &Arc<Fabric>) -> Spec {
        Spec {
            rank: Rank(rank),
            size: RANKS,
            args: Vec::new(),
            env: Vec::new(),
            memory_max: MEMORY_MAX,
            budget: Arc::new(Budget::default()),
            mounts: Mounts::default(),
            output: Arc::new(Discard),
            fabric: fabric.clone(),
            place: "here".into(),
            spin: 0,
        }
    }
}

/// Frames of a move that arrives at [`frames`], for others to be made of: kinds and bodies.
pub fn moved() -> Vec<(u8, Vec<u8>)> {
    let ground = ground();
    let fabric = Arc::new(Fabric::new(RANKS, Box::new(Nowhere)));
    let stopped = |rank| {
        fabric.arrive(Rank(rank), Vec::new());
        let control: Arc<Control> = Arc::default();
        control.stop();
        let mut cell = Cell::new(&ground.engine, &ground.program, &ground.spec(rank, &fabric), control).expect("there is room for it");
        assert_eq!(cell.run(), Ended::Stopped);
        fabric.hold(Rank(rank));
        transfer::sent(&mut cell)
    };
    let frames: Vec<_> = std::thread::scope(|scope| {
        let body = || (0..RANKS).flat_map(stopped).collect();
        let thread = std::thread::Builder::new().stack_size(engine::THREAD_STACK).spawn_scoped(scope, body);
        thread.expect("a thread").join().expect("a program that is stopped")
    });
    assert!(arrive(&frames), "what is good arrives");
    frames
}

/// The ways in, by the names that they have in `fuzz/`.
pub const ALL: [(&str, fn(&[u8])); 3] = [("module", module), ("snapshot", snapshot), ("frames", frames)];
