//! Programs with and without safe points, side by side: the same trace when they run through, when they are stopped somewhere, and when they are stopped at each
//! safe point that they come to. After each stop another instance goes on, with nothing but the memory and the exported globals of the first. The same over memory
//! that is not the instance's own, as threads have it.

use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use wasmtime::{Caller, Engine, Extern, Instance, Linker, MemoryType, Module, Mutability, SharedMemory, Store, Val};

use super::*;

/// What a program did: calls of `log` and of the blocking call, with what they were given.
#[derive(Default)]
struct Host {
    trace: Vec<(char, i64)>,
    /// Events so far, over all instances.
    events: usize,
    stops: Stops,
    /// The blocking call at which the stack was unwound, with its argument.
    pending: Option<i32>,
}

#[derive(Clone, Copy, Default, Debug, PartialEq)]
enum Stops {
    #[default]
    Never,
    /// At the first safe point from this event on.
    At(usize),
    /// At the first safe point after each event.
    Always,
}

impl Host {
    fn event(&mut self, what: char, value: i64) -> bool {
        self.trace.push((what, value));
        self.events += 1;
        match self.stops {
            Stops::Never => false,
            Stops::At(n) => n + 1 == self.events,
            Stops::Always => true,
        }
    }
}

fn set_words(c: &mut Caller<'_, Host>) {
    let flags = c.get_export(FLAGS).and_then(Extern::into_memory).unwrap();
    flags.data_mut(c)[flags::STOP as usize] = 1;
}

fn set_state(c: &mut Caller<'_, Host>, value: i32) {
    c.get_export(STATE).and_then(Extern::into_global).unwrap().set(c, Val::I32(value)).unwrap();
}

fn linker(engine: &Engine) -> Linker<Host> {
    let mut linker = Linker::new(engine);
    let log = |mut c: Caller<'_, Host>, value: i64| {
        if c.data_mut().event('l', value) {
            set_words(&mut c);
        }
    };
    linker.func_wrap("test", "log", log).unwrap();
    let wait = |mut c: Caller<'_, Host>, value: i32| -> i32 {
        match c.data_mut().pending.take() {
            Some(before) => {
                assert_eq!(before, value, "the call is made again with the same argument");
                set_state(&mut c, 0);
            }
            None => {
                if c.data_mut().event('w', value.into()) {
                    c.data_mut().pending = Some(value);
                    set_state(&mut c, UNWINDING);
                    return 0x5eed;
                }
            }
        }
        value.wrapping_mul(3).wrapping_add(1)
    };
    linker.func_wrap("cloudskin_mpi", "MPI_Barrier", wait).unwrap();
    linker
}

fn engine() -> Engine {
    let mut config = wasmtime::Config::new();
    config.wasm_branch_hinting(true).shared_memory(true);
    Engine::new(&config).unwrap()
}

struct Program {
    engine: Engine,
    plain: Module,
    instrumented: Module,
}

/// All around the functions of a program. `$log` takes an i64; `$wait` is a call that may block.
fn frame(functions: &str) -> String {
    format!(
        r#"(module
            (type $u (func (param i32) (result i32)))
            (type $b (func (param i64 i32) (result i32)))
            (import "test" "log" (func $log (param i64)))
            (import "cloudskin_mpi" "MPI_Barrier" (func $wait (param i32) (result i32)))
            {MEMORY}
            (global $fuel (mut i32) (i32.const 300))
            (global (export "__cloudskin_unwind") i32 (i32.const 65536))
            {functions})"#
    )
}

const MEMORY: &str = r#"(memory (export "memory") 140)"#;

/// With the memory of a program with threads.
fn over_shared(text: &str) -> String {
    text.replace(MEMORY, r#"(import "env" "memory" (memory 140 140 shared)) (export "memory" (memory 0))"#)
}

fn program(text: &str) -> Program {
    let wasm = wat::parse_str(text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let instrumented = instrument(&wasm, "").unwrap_or_else(|e| panic!("{e}\n{text}"));
    let engine = engine();
    Program { plain: Module::new(&engine, &wasm).unwrap(), instrumented: Module::new(&engine, &instrumented).unwrap(), engine }
}

type Trace = (Vec<(char, i64)>, bool);

/// Runs to the end, with an instance for each stop. How it ended: the trace and whether it trapped; and how often it was stopped.
fn run(program: &Program, module: &Module, stops: Stops) -> (Trace, usize) {
    let mut linker = linker(&program.engine);
    let mut store = Store::new(&program.engine, Host { stops, ..Host::default() });
    linker.define(&store, "env", "memory", SharedMemory::new(&program.engine, MemoryType::shared(140, 140)).unwrap()).unwrap();
    let mut instance = linker.instantiate(&mut store, module).unwrap();
    let mut stopped = 0;
    loop {
        let start = instance.get_typed_func::<(), ()>(&mut store, "_start").unwrap();
        let ended = start.call(&mut store, ());
        let state = instance.get_global(&mut store, STATE).map_or(0, |g| g.get(&mut store).unwrap_i32());
        if ended.is_err() || state == 0 {
            return ((store.into_data().trace, ended.is_err()), stopped);
        }
        assert_eq!(state, UNWINDING);
        stopped += 1;
        assert!(stopped < 100_000, "it is stopped again and again at the same place");
        (store, instance) = moved(program, module, &linker, store, instance);
    }
}

/// A new instance with the state of the old one.
fn moved(program: &Program, module: &Module, linker: &Linker<Host>, mut old: Store<Host>, was: Instance) -> (Store<Host>, Instance) {
    // What is shared is the new one's already.
    let own = was.get_memory(&mut old, "memory");
    // All that the programs use, and the beginning of the unwind area: what lies beyond would be missed.
    let bytes = own.map(|memory| memory.data(&old)[..1 << 20].to_vec());
    let globals: Vec<(String, wasmtime::Global)> = was.exports(&mut old).filter_map(|e| Some((e.name().to_string(), e.into_global()?))).collect();
    let mutable = globals.into_iter().filter(|(_, g)| g.ty(&old).mutability() == Mutability::Var).collect::<Vec<_>>();
    let values: Vec<(String, Val)> = mutable.into_iter().map(|(name, g)| (name, g.get(&mut old))).collect();
    let mut store = Store::new(&program.engine, old.into_data());
    let instance = linker.instantiate(&mut store, module).unwrap();
    if let Some(bytes) = bytes {
        instance.get_memory(&mut store, "memory").unwrap().data_mut(&mut store)[..1 << 20].copy_from_slice(&bytes);
    }
    for (name, value) in values {
        instance.get_global(&mut store, &name).unwrap().set(&mut store, value).unwrap();
    }
    (store, instance)
}

/// The same trace in all ways to run it. How often it was stopped at most.
fn same(text: &str, name: &str) -> usize {
    let (own, shared) = (program(text), program(&over_shared(text)));
    let (expected, _) = run(&own, &own.plain, Stops::Never);
    let check = |program: &Program, stops| {
        let (got, stopped) = run(program, &program.instrumented, stops);
        assert!(got == expected, "{name}, {stops:?}, {stopped} stops: {got:?}\ninstead of {expected:?}\n{text}");
        stopped
    };
    assert_eq!(check(&own, Stops::Never), 0);
    let events = expected.0.len();
    for at in (0..events).step_by(1 + events / 40) {
        check(&own, Stops::At(at));
    }
    let stopped = check(&own, Stops::Always);
    assert_eq!(check(&shared, Stops::Always), stopped, "{name}: over memory of several threads");
    stopped
}

/// Each shape of control flow by itself. `stops`: how often it is stopped when it is stopped wherever that is possible.
#[test]
fn every_shape_of_control_flow_can_be_left_and_entered() {
    let mut wrong = Vec::new();
    let mut check = |name: &str, functions: &str, stops: usize| {
        let stopped = same(&frame(functions), name);
        if stopped != stops {
            wrong.push(format!("{name}: {stopped} stops instead of {stops}"));
        }
    };
    check("nothing", r#"(func (export "_start") (call $log (i64.const 1)))"#, 0);
    check("a call that waits", r#"(func (export "_start") (drop (call $wait (i32.const 7))) (call $log (i64.const 1)))"#, 1);
    check(
        "operands under a call",
        r#"(func (export "_start") (local i32)
            i64.const 5 i32.const 40 i32.const 7 call $wait i32.add local.set 0 local.get 0 i64.extend_i32_u i64.add call $log)"#,
        1,
    );
    check(
        "nested loops with values on the stack",
        r#"(func (export "_start") (local $i i32) (local $j i32)
            i64.const 1000
            (loop $a (result i64)
                (local.set $j (i32.const 0))
                (i64.extend_i32_u (local.get $i))
                (loop $b (result i64)
                    (call $log (i64.extend_i32_u (i32.add (i32.mul (local.get $i) (i32.const 10)) (local.get $j))))
                    (local.set $j (i32.add (local.get $j) (i32.const 1)))
                    (br_if $b (i32.lt_u (local.get $j) (i32.const 3)))
                    (i64.const 4))
                i64.add call $log
                (local.set $i (i32.add (local.get $i) (i32.const 1)))
                (br_if $a (i32.lt_u (local.get $i) (i32.const 3)))
                (i64.extend_i32_u (local.get $i)))
            i64.add call $log)"#,
        8,
    );
    check(
        "a loop with parameters",
        r#"(func (export "_start") (local $x i64)
            i32.const 3 i64.const 100
            (loop $l (param i32 i64) (result i64)
                local.tee $x call $log
                i32.const 1 i32.sub
                local.get $x i64.const 1 i64.add
                (local.set $x (i64.extend_i32_u (call $wait (i32.const 1))))
                (if (param i32 i64) (result i32 i64) (i64.eq (local.get $x) (i64.const 4)) (then i64.const 10 i64.add))
                local.set $x
                (i32.store (i32.const 0) (i32.const 0))
                local.set 1 local.get 1 local.get $x local.get 1 br_if $l
                call $log drop i64.const 77)
            call $log) (func (local i32 i32))"#
            .replace("(local $x i64)\n", "(local $x i64) (local i32)\n")
            .as_str(),
        3,
    );
    check(
        "a table of branches out of a loop, and back to its parameters",
        r#"(func (export "_start") (local $i i32) (local $v i64)
            (block $out (result i64)
                i64.const 1
                (loop $l (param i64) (result i64)
                    local.tee $v call $log
                    (local.set $i (i32.add (local.get $i) (i32.const 1)))
                    (drop (call $wait (local.get $i)))
                    (block $two (result i64)
                        (i64.add (local.get $v) (i64.const 5))
                        (br_table $l $l $two $l $out (local.get $i)))
                    call $log
                    (br $l (i64.const 50))))
            call $log)"#,
        5,
    );
    check(
        "arms",
        r#"(func (export "_start") (local $i i32)
            (loop $l
                (if (i32.and (local.get $i) (i32.const 1))
                    (then (call $log (i64.const 1)) (drop (call $wait (i32.const 1))) (call $log (i64.const 2)))
                    (else (call $log (i64.const 3)) (loop $m
                        (call $log (i64.extend_i32_u (local.get $i)))
                        (local.set $i (i32.add (local.get $i) (i32.const 1)))
                        (br_if $m (i32.eq (local.get $i) (i32.const 3))))))
                (local.set $i (i32.add (local.get $i) (i32.const 1)))
                (br_if $l (i32.lt_u (local.get $i) (i32.const 9)))))"#,
        6,
    );
    check(
        "an arm with a result, under operands",
        r#"(func (export "_start")
            f64.const 2.5
            (if (result i32) (call $wait (i32.const 0)) (then (call $wait (i32.const 4))) (else (i32.const 5)))
            f64.convert_i32_s f64.add i64.trunc_f64_s call $log)"#,
        2,
    );
    check(
        "blocks with several results",
        r#"(func (export "_start")
            i32.const 9
            (block $b (param i32) (result i64 i32)
                call $wait
                i64.const 8
                (br_if $b (i64.const 1) (i32.const 2) (call $wait (i32.const 0)))
                drop drop i64.const 7 i32.const 6)
            drop call $log drop)"#
            .replace("drop call $log drop)", "i64.extend_i32_u i64.add call $log)")
            .replace("drop drop i64.const 7", "drop drop drop drop i64.const 7")
            .as_str(),
        2,
    );
    check(
        "recursion",
        r#"(func $fib (param i32) (result i32)
            (if (result i32) (i32.lt_u (local.get 0) (i32.const 2)) (then (call $log (i64.extend_i32_u (local.get 0))) (local.get 0))
                (else (i32.add (call $fib (i32.sub (local.get 0) (i32.const 1))) (call $fib (i32.sub (local.get 0) (i32.const 2)))))))
        (func (export "_start") (call $log (i64.extend_i32_u (call $fib (i32.const 6)))))"#,
        12,
    );
    check(
        "calls through the table",
        r#"(table 3 funcref) (elem (i32.const 0) $f $g $h)
        (func $f (param i32) (result i32) (call $wait (local.get 0)))
        (func $g (param i32) (result i32) (i32.add (local.get 0) (i32.const 1)))
        (func $h (param i64 i32) (result i32) (call $log (local.get 0)) (local.get 1))
        (func (export "_start") (local $i i32)
            (loop $l
                i64.const 3
                (call_indirect (type $u) (i32.const 5) (local.get $i))
                i64.extend_i32_u i64.add call $log
                (drop (call_indirect (type $b) (i64.const 2) (i32.const 5) (i32.const 2)))
                (local.set $i (i32.add (local.get $i) (i32.const 1)))
                (br_if $l (i32.lt_u (local.get $i) (i32.const 2)))))"#,
        2,
    );
    check(
        "vectors",
        r#"(func (export "_start") (local $v v128) (local $i i32)
            (loop $l
                (local.set $v (i64x2.add (local.get $v) (i64x2.splat (i64.extend_i32_u (call $wait (local.get $i))))))
                (call $log (i64x2.extract_lane 1 (local.get $v)))
                (local.set $i (i32.add (local.get $i) (i32.const 1)))
                (br_if $l (i32.lt_u (local.get $i) (i32.const 3)))))"#,
        5,
    );
    check(
        "code that nobody reaches",
        r#"(func (export "_start")
            (block $b (call $log (i64.const 1)) (br $b) (drop (call $wait (i32.const 1))) (loop (br 0)))
            (block (loop $l (drop (call $wait (i32.const 2))) (br 1) (if (call $wait (i32.const 3)) (then (unreachable)) (else (br $l)))))
            (call $log (i64.const 2)) (return) (drop (call $wait (i32.const 4))))"#,
        2,
    );
    check(
        "a result from behind a branch",
        r#"(func $f (param i32) (result i64 f32)
            (loop $l (call $log (i64.const 4)) (local.set 0 (i32.sub (local.get 0) (i32.const 1))) (br_if $l (local.get 0)))
            (return (i64.const 11) (f32.const 1)))
        (func (export "_start") (call $f (i32.const 3)) drop call $log)"#,
        2,
    );
    check(
        "an exception through frames that can be stopped",
        r#"(tag $t (param i32))
        (func $f (param i32)
            (call $log (i64.const 1))
            (if (i32.eqz (local.get 0)) (then (throw $t (call $wait (i32.const 5)))))
            (call $f (i32.sub (local.get 0) (i32.const 1))))
        (func (export "_start") (local $i i32)
            (local.set $i (i32.const 7))
            i64.const 1000
            (block $caught (result i32)
                (try_table (catch $t $caught)
                    (local.set $i (call $wait (i32.const 2)))
                    (call $f (i32.const 2))
                    (local.set $i (i32.const 9)))
                (i32.const 77))
            i32.const 1 i32.add call $wait local.get $i i32.add
            i64.extend_i32_u i64.add call $log)"#,
        5,
    );
    check(
        "what was caught is thrown on after a stop",
        r#"(tag $t (param i32)) (tag $u (param i32))
        (func $f (param i32) (local $thrown exnref)
            (block $done
                (block $clean (result exnref)
                    (try_table (catch_all_ref $clean)
                        (if (local.get 0) (then (throw $t (i32.const 4))))
                        (throw $u (i32.const 5)))
                    (br $done))
                local.set $thrown
                (drop (call $wait (local.get 0)))
                (throw_ref (local.get $thrown))))
        (func $g (param i32) (result i64)
            (block $u (result i32)
                (block $t (result i32 exnref)
                    (try_table (catch_ref $t $t) (catch $u $u) (call $f (local.get 0)))
                    (return (i64.const 0)))
                (drop (drop (call $wait (i32.const 3))))
                (return (i64.const 1)))
            (return (i64.add (i64.const 10) (i64.extend_i32_u))))
        (func (export "_start") (call $log (call $g (i32.const 0))) (call $log (call $g (i32.const 1))))"#
            .replace("(drop (drop (call $wait (i32.const 3))))", "drop (drop (call $wait (i32.const 3))) drop")
            .replace("(return (i64.add (i64.const 10) (i64.extend_i32_u)))", "i64.extend_i32_u i64.const 10 i64.add")
            .as_str(),
        3,
    );
    check(
        "an exception that nobody catches ends it as before",
        r#"(tag $t (param i32)) (func (export "_start") (drop (call $wait (i32.const 1))) (throw $t (i32.const 1)))"#,
        1,
    );
    check(
        "a trap stays one",
        r#"(func (export "_start") (local $i i32)
            (loop $l (call $log (i64.const 1)) (local.set $i (i32.add (local.get $i) (i32.const 1))) (br_if $l (i32.lt_u (local.get $i) (i32.const 3))))
            (drop (i32.div_u (i32.const 1) (call $wait (i32.const 1431655765)))))"#,
        3,
    );
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// A loop that stores nothing asks for its flag on every turn all the same, also inside of another that does not either.
#[test]
fn loops_that_only_read_are_reached() {
    for depth in 1..5 {
        let (open, close) = ("(loop ".repeat(depth), "(br 0))".to_string() + &")".repeat(depth - 1));
        let text = frame(&format!(r#"(func (export "_start") (call $log (i64.const 1)) (drop (i32.load (i32.const 0))) {open} (drop (i32.load (i32.const 8))) {close})"#));
        let wasm = instrument(&wat::parse_str(&text).unwrap(), "").unwrap();
        let engine = engine();
        let module = Module::new(&engine, &wasm).unwrap();
        let mut store = Store::new(&engine, Host::default());
        let instance = linker(&engine).instantiate(&mut store, &module).unwrap();
        let flags = instance.get_memory(&mut store, FLAGS).unwrap().data_ptr(&store) as usize;
        let (started, waits) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                waits.recv().unwrap();
                std::thread::sleep(std::time::Duration::from_millis(20));
                // SAFETY: the memory has a page, and its store outlives this thread.
                unsafe { &*((flags + flags::STOP as usize) as *const std::sync::atomic::AtomicU32) }.store(1, std::sync::atomic::Ordering::SeqCst);
            });
            started.send(()).unwrap();
            instance.get_typed_func::<(), ()>(&mut store, "_start").unwrap().call(&mut store, ()).unwrap();
        });
        assert_eq!(instance.get_global(&mut store, STATE).unwrap().get(&mut store).unwrap_i32(), UNWINDING);
    }
}

/// A stack that does not fit into its area is a trap and no damage.
#[test]
fn the_unwind_area_has_an_end() {
    let text = frame(
        r#"(func $deep (param i32 i64 i64 i64 i64) (result i32)
            (if (local.get 0) (then (return (i32.add (call $deep (i32.sub (local.get 0) (i32.const 1)) (local.get 1) (local.get 2) (local.get 3) (local.get 4))
                (i32.wrap_i64 (i64.add (i64.add (local.get 1) (local.get 2)) (i64.add (local.get 3) (local.get 4))))))))
            (call $wait (i32.const 1)))
        (func (export "_start") (drop (call $deep (global.get $fuel) (i64.const 1) (i64.const 2) (i64.const 3) (i64.const 4))))"#,
    );
    // 300 frames fit, but not when the area is said to end after 200 of them.
    same(&text, "deep");
    let wasm = wat::parse_str(&text).unwrap();
    let end_before = |bytes: u32| {
        let outline = Outline::read(&wasm).unwrap();
        let calls = Calls::new(&outline);
        let mut module = shared(&outline, 65536);
        module.unwind_end = AreaEnd::At(65536 + bytes);
        let (bodies, hints) = rewrite_all(&wasm, &outline, &calls, &mut module, &mut Trails::default()).unwrap();
        let out = assemble(&wasm, &outline, &module, 65536, &bodies, &hints).unwrap();
        let engine = engine();
        let mut store = Store::new(&engine, Host { stops: Stops::At(0), ..Host::default() });
        let instance = linker(&engine).instantiate(&mut store, &Module::new(&engine, &out).unwrap()).unwrap();
        let ended = instance.get_typed_func::<(), ()>(&mut store, "_start").unwrap().call(&mut store, ());
        let memory = instance.get_memory(&mut store, "memory").unwrap();
        let beyond = memory.data(&store)[65536 + bytes as usize..].iter().all(|b| *b == 0);
        assert!(beyond, "nothing is written beyond the end");
        (ended.is_err(), instance.get_global(&mut store, STATE).unwrap().get(&mut store).unwrap_i32())
    };
    assert_eq!(end_before(64 << 10), (false, UNWINDING));
    assert_eq!(end_before(8 << 10), (true, UNWINDING));
}

/// Frames that belong to another function end in a trap.
#[test]
fn a_foreign_frame_traps() {
    let text = frame(r#"(func $f (drop (call $wait (i32.const 1)))) (func (export "_start") (call $f))"#);
    let program = program(&text);
    let mut store = Store::new(&program.engine, Host::default());
    let instance = linker(&program.engine).instantiate(&mut store, &program.instrumented).unwrap();
    for id in [0, 1, 2, 4, 1 << 30] {
        instance.get_memory(&mut store, "memory").unwrap().write(&mut store, 65536, &u32::to_le_bytes(id)).unwrap();
        instance.get_global(&mut store, TOP).unwrap().set(&mut store, Val::I32(65540)).unwrap();
        instance.get_global(&mut store, STATE).unwrap().set(&mut store, Val::I32(UNWINDING)).unwrap();
        assert!(instance.get_typed_func::<(), ()>(&mut store, "_start").unwrap().call(&mut store, ()).is_err(), "frame {id}");
    }
}

/// Programs of all shapes, made from a seed.
struct Writer {
    random: StdRng,
    text: String,
    locals: Vec<Ty>,
    /// What a branch to each open label carries, outermost first.
    labels: Vec<Vec<Ty>>,
    left: u32,
    functions: usize,
    result: Ty,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ty {
    I32,
    I64,
    F64,
    V128,
    /// What was caught: only in the one local that each function has for it, and where its handler begins.
    Thrown,
}

const TYPES: [Ty; 4] = [Ty::I32, Ty::I64, Ty::F64, Ty::V128];

impl Ty {
    fn name(self) -> &'static str {
        match self {
            Ty::I32 => "i32",
            Ty::I64 => "i64",
            Ty::F64 => "f64",
            Ty::V128 => "v128",
            Ty::Thrown => "exnref",
        }
    }
}

/// Functions are `$f0`, `$f1`, ... of type `$u` for even numbers and `$b` for odd ones.
fn params(function: usize) -> &'static [Ty] {
    if function % 2 == 0 { &[Ty::I32] } else { &[Ty::I64, Ty::I32] }
}

impl Writer {
    fn put(&mut self, text: &str) {
        self.text.push_str(text);
        self.text.push('\n');
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.random.random_range(0..100) < percent
    }

    fn some_types(&mut self) -> Vec<Ty> {
        let n = *[0, 0, 1, 1, 2, 3].choose(&mut self.random).unwrap();
        (0..n).map(|_| *TYPES.choose(&mut self.random).unwrap()).collect()
    }

    fn local(&mut self, ty: Ty) -> Option<usize> {
        let all: Vec<usize> = (0..self.locals.len()).filter(|i| self.locals[*i] == ty).collect();
        all.choose(&mut self.random).copied()
    }

    fn values(&mut self, types: &[Ty]) {
        types.iter().for_each(|ty| self.value(*ty));
    }

    /// Code that leaves one value of this type.
    fn value(&mut self, ty: Ty) {
        self.left = self.left.saturating_sub(1);
        let simple = self.left == 0;
        match self.random.random_range(0..if simple { 3 } else { 16 }) {
            0 => self.constant(ty),
            1 | 2 => match self.local(ty) {
                Some(local) => self.put(&format!("local.get {local}")),
                None => self.constant(ty),
            },
            3..=6 => {
                self.value(ty);
                self.value(ty);
                let op = match ty {
                    Ty::I32 => ["i32.add", "i32.sub", "i32.xor", "i32.mul"],
                    Ty::I64 => ["i64.add", "i64.sub", "i64.xor", "i64.rotl"],
                    Ty::F64 => ["f64.add", "f64.sub", "f64.max", "f64.min"],
                    Ty::V128 => ["i64x2.add", "i64x2.sub", "v128.xor", "i32x4.add"],
                    Ty::Thrown => unreachable!("no value is asked for"),
                };
                let op = op.choose(&mut self.random).unwrap();
                self.put(op);
            }
            7 => match self.local(ty) {
                Some(local) => {
                    self.value(ty);
                    self.put(&format!("local.tee {local}"));
                }
                None => self.constant(ty),
            },
            8 | 9 => self.convert(ty),
            10 => {
                self.value(ty);
                self.statement();
            }
            11 | 12 => self.construct(&[], &[ty]),
            13 => {
                let params = self.some_types();
                self.values(&params);
                self.construct(&params, &[ty]);
            }
            _ if ty == Ty::I32 => match self.random.random_range(0..3) {
                0 => {
                    self.value(Ty::I32);
                    self.put("call $wait");
                }
                1 => {
                    let f = self.random.random_range(0..self.functions);
                    self.values(params(f));
                    self.put(&format!("call $f{f}"));
                }
                _ => {
                    let odd = self.random.random_range(0..2);
                    self.values(params(odd));
                    self.value(Ty::I32);
                    // Of the elements every second is of each type.
                    let n = self.functions as u32;
                    self.put(&format!("i32.const {n} i32.rem_u i32.const 2 i32.div_u i32.const 2 i32.mul i32.const {odd} i32.add"));
                    self.put(&format!("i32.const {n} i32.rem_u"));
                    self.put(&format!("call_indirect (type ${})", if odd == 0 { "u" } else { "b" }));
                }
            },
            _ => self.convert(ty),
        }
    }

    fn constant(&mut self, ty: Ty) {
        let n = self.random.random_range(-3..9);
        self.put(&match ty {
            Ty::I32 => format!("i32.const {n}"),
            Ty::I64 => format!("i64.const {n}"),
            Ty::F64 => format!("f64.const {n}"),
            Ty::V128 => format!("v128.const i64x2 {n} {}", n * 7),
            Ty::Thrown => unreachable!("no value is asked for"),
        });
    }

    /// A value out of one of another type.
    fn convert(&mut self, ty: Ty) {
        let (from, op) = match ty {
            Ty::I32 => *[(Ty::I64, "i32.wrap_i64"), (Ty::V128, "i32x4.extract_lane 2"), (Ty::F64, "i32.trunc_sat_f64_s")].choose(&mut self.random).unwrap(),
            Ty::I64 => *[(Ty::I32, "i64.extend_i32_s"), (Ty::V128, "i64x2.extract_lane 1")].choose(&mut self.random).unwrap(),
            Ty::F64 => (Ty::I32, "f64.convert_i32_s"),
            Ty::V128 => (Ty::I64, "i64x2.splat"),
            Ty::Thrown => unreachable!("no value is asked for"),
        };
        self.value(from);
        self.put(op);
    }

    fn statement(&mut self) {
        self.left = self.left.saturating_sub(1);
        if self.left == 0 {
            return;
        }
        match self.random.random_range(0..15) {
            0..=2 => {
                // The last one is for what is caught.
                let local = self.random.random_range(0..self.locals.len() - 1);
                self.value(self.locals[local]);
                self.put(&format!("local.set {local}"));
            }
            3..=5 => {
                self.value(Ty::I64);
                self.put("call $log");
            }
            6 | 7 => {
                let params = self.some_types();
                let results = self.some_types();
                self.values(&params);
                self.construct(&params, &results);
                results.iter().for_each(|_| self.put("drop"));
            }
            8 => {
                let depth = self.random.random_range(0..self.labels.len());
                let types = self.labels[self.labels.len() - 1 - depth].clone();
                if types.contains(&Ty::Thrown) {
                    return;
                }
                self.values(&types);
                self.fuel();
                self.value(Ty::I32);
                self.put(&format!("i32.const 1 i32.and i32.and br_if {depth}"));
                types.iter().for_each(|_| self.put("drop"));
            }
            9 => self.branches(),
            11 | 12 => self.tries(),
            13 => {
                let tag = self.random.random_range(0..2);
                self.sometimes(&format!("throw $t{tag}"));
            }
            10 => {
                self.put("(i64.store offset=16 (i32.const 0)");
                self.value(Ty::I64);
                self.put(") (drop (i32.load (i32.const 8)))");
            }
            _ => {
                self.statement();
                self.statement();
            }
        }
    }

    /// Does something that takes a number and does not come back, or not.
    fn sometimes(&mut self, what: &str) {
        self.value(Ty::I32);
        self.value(Ty::I32);
        self.put(&format!("i32.const 3 i32.and i32.eqz if (param i32) (result i32) {what} end drop"));
    }

    /// Code that may throw, and a handler, which may throw on what it has caught.
    fn tries(&mut self) {
        let (clause, gives) = [("catch_ref $t0 0", "i32 exnref"), ("catch_ref $t1 0", "i32 exnref"), ("catch_all_ref 0", "exnref"), ("catch $t0 0", "i32"), ("catch_all 0", "")].choose(&mut self.random).copied().unwrap();
        let more = ["", "(catch_all 1)", "(catch_ref $t1 0)"][if gives == "i32 exnref" { self.random.random_range(0..3) } else { 0 }];
        self.put(&format!("block block (result {gives}) try_table ({clause}) {more}"));
        self.labels.extend([Vec::new(), vec![Ty::Thrown], Vec::new()]);
        for _ in 0..self.random.random_range(1..4) {
            self.statement();
        }
        self.put("end br 1 end");
        self.labels.truncate(self.labels.len() - 2);
        let thrown = self.locals.len() - 1;
        if gives.ends_with("exnref") {
            self.put(&format!("local.set {thrown}"));
        }
        if gives.starts_with("i32") {
            self.put("i64.extend_i32_u call $log");
        }
        for _ in 0..self.random.random_range(0..3) {
            self.statement();
        }
        if gives.ends_with("exnref") && self.chance(60) {
            // Another handler within this one has perhaps put something else there, which is thrown on as well.
            self.sometimes(&format!("drop local.get {thrown} throw_ref"));
        }
        self.labels.pop();
        self.put("end");
    }

    /// Leaves 1 as long as there is fuel, and takes some.
    fn fuel(&mut self) {
        self.put("(global.set $fuel (i32.sub (global.get $fuel) (i32.const 1))) (i32.gt_s (global.get $fuel) (i32.const 0))");
    }

    /// A table of branches to labels that take the same, within a block so that what follows is reached.
    fn branches(&mut self) {
        self.put("block");
        self.labels.push(Vec::new());
        let depth = self.random.random_range(0..self.labels.len());
        let types = match &self.labels[self.labels.len() - 1 - depth] {
            thrown if thrown.contains(&Ty::Thrown) => Vec::new(),
            types => types.clone(),
        };
        let same: Vec<usize> = (0..self.labels.len()).filter(|d| self.labels[self.labels.len() - 1 - d] == types).collect();
        self.fuel();
        self.put("i32.eqz br_if 0");
        self.values(&types);
        self.value(Ty::I32);
        let n = self.random.random_range(1..4);
        let all: Vec<String> = (0..=n).map(|_| same.choose(&mut self.random).unwrap().to_string()).collect();
        self.put(&format!("i32.const 3 i32.and br_table {}", all.join(" ")));
        if self.chance(30) {
            self.statement();
        }
        self.labels.pop();
        self.put("end");
    }

    /// A block, loop or `if` that takes what is on the stack.
    fn construct(&mut self, params: &[Ty], results: &[Ty]) {
        let list = |types: &[Ty]| types.iter().map(|ty| format!(" {}", ty.name())).collect::<String>();
        let ty = format!("(param{}) (result{})", list(params), list(results));
        let kind = self.random.random_range(0..3);
        match kind {
            0 => self.put(&format!("block {ty}")),
            1 => self.put(&format!("loop {ty}")),
            _ => {
                self.value(Ty::I32);
                self.put(&format!("i32.const 1 i32.and if {ty}"));
            }
        }
        self.labels.push(if kind == 1 { params.to_vec() } else { results.to_vec() });
        for arm in 0..if kind == 2 { 2 } else { 1 } {
            if arm == 1 {
                self.put("else");
            }
            for ty in params.iter().rev() {
                match self.local(*ty) {
                    Some(local) => self.put(&format!("local.set {local}")),
                    None => self.put("drop"),
                }
            }
            for _ in 0..self.random.random_range(0..3) {
                self.statement();
            }
            if kind == 1 && self.chance(80) {
                self.values(params);
                self.fuel();
                self.put("br_if 0");
                params.iter().for_each(|_| self.put("drop"));
            }
            self.values(results);
        }
        self.labels.pop();
        self.put("end");
    }

    fn function(&mut self, number: usize) {
        let params = params(number);
        self.locals = params.to_vec();
        let own: Vec<Ty> = (0..self.random.random_range(2..8)).map(|_| *TYPES.choose(&mut self.random).unwrap()).collect();
        self.locals.extend(&own);
        self.locals.push(Ty::Thrown);
        self.result = Ty::I32;
        self.labels = vec![vec![Ty::I32]];
        self.left = self.random.random_range(5..90);
        let ty = if number % 2 == 0 { "$u" } else { "$b" };
        self.put(&format!("(func $f{number} (type {ty}) (local{} exnref)", own.iter().map(|ty| format!(" {}", ty.name())).collect::<String>()));
        self.fuel();
        self.put("(if (i32.eqz) (then (return (i32.const 3))))");
        for _ in 0..self.random.random_range(1..5) {
            self.statement();
        }
        self.value(Ty::I32);
        self.put(")");
    }
}

fn written(seed: u64) -> String {
    let mut random = StdRng::seed_from_u64(seed);
    let functions = 2 * random.random_range(1..4);
    let mut w = Writer { random, text: String::new(), locals: Vec::new(), labels: Vec::new(), left: 0, functions, result: Ty::I32 };
    let all: String = (0..functions).map(|f| format!(" $f{f}")).collect();
    w.put("(tag $t0 (param i32)) (tag $t1 (param i32))");
    w.put(&format!("(table {functions} funcref) (elem (i32.const 0){all})"));
    (0..functions).for_each(|f| w.function(f));
    w.put(r#"(func (export "_start") (call $log (i64.extend_i32_s (call $f0 (i32.const 5)))) (call $log (i64.load offset=16 (i32.const 0))))"#);
    frame(&w.text)
}

/// `CLOUDSKIN_SEEDS=first..last` chooses other programs.
#[test]
fn written_programs_do_the_same_with_and_without_stops() {
    let seeds = match std::env::var("CLOUDSKIN_SEEDS") {
        Ok(text) => {
            let (first, last) = text.split_once("..").expect("first..last");
            first.parse().unwrap()..last.parse().unwrap()
        }
        Err(_) => 0..250,
    };
    println!("seeds {seeds:?}");
    let (mut stops, mut stopped) = (0, 0);
    for seed in seeds.clone() {
        let n = same(&written(seed), &format!("seed {seed}"));
        stops += n;
        stopped += u64::from(n > 0);
    }
    println!("{stops} stops in {stopped} programs");
    // A loop that is entered and does not turn is no place to stop at.
    assert!(stopped * 5 > 2 * (seeds.end - seeds.start), "two in five programs come to a safe point");
    assert!(stops as u64 > 40 * (seeds.end - seeds.start), "and are stopped often");
}
