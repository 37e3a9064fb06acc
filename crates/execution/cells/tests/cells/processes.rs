//! `fork`, pipes and `wait`: programs that know nothing of cells do what they do natively; what goes wrong with a process is told to its parent and ends nobody else; a rank with other
//! processes stays where it is, and one without them moves with its pipes.

use super::*;
use cells::toolchain::driver::Lang;
use std::process::Command;

fn faults() -> &'static [u8] {
    static WASM: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    WASM.get_or_init(|| compile(&programs().join("processes/faults.c")))
}

fn source(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../tests/programs").join(name).with_extension("c")
}

/// What a program prints that the machine's own compiler has built.
fn natively(source: &Path, args: &[&str]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("native");
    let built = Command::new("gcc").args(["-O1", "-w", "-o"]).arg(&program).arg(source).status().unwrap();
    assert!(built.success(), "gcc {}", source.display());
    let output = Command::new(&program).args(args).current_dir(folder.path()).output().unwrap();
    assert!(output.status.success(), "{}: {}", source.display(), String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A run with files of its own.
fn alone(wasm: &[u8], args: &[&str]) -> Run {
    let folder = tempfile::tempdir().unwrap();
    run(wasm, 1, args, Some(folder.path()), 0, 0)
}

#[test]
fn programs_with_processes_print_what_they_print_natively() {
    for (name, args) in [("workers", &["1500", "4"][..]), ("forktree", &["3"]), ("forkserver", &["20", "3"])] {
        let done = alone(&compile(&source(name)), args);
        exited(&done);
        assert_eq!(done.outs[0], natively(&source(name), args), "{name}: {}", done.errs[0]);
    }
    for what in ["statuses", "pipes"] {
        let done = alone(faults(), &[what]);
        exited(&done);
        let ours: String = done.outs[0].lines().filter(|line| !ONLY_HERE.iter().any(|name| line.starts_with(name))).map(|line| format!("{line}\n")).collect();
        assert_eq!(ours, natively(&programs().join("processes/faults.c"), &[what]), "{what}: {}", done.errs[0]);
    }
}

/// What natively would depend on the machine.
const ONLY_HERE: [&str; 4] = ["division", "pointer", "another program", "a network"];

#[test]
fn a_child_that_fails_is_told_to_its_parent_and_to_the_user() {
    let done = alone(faults(), &["statuses"]);
    exited(&done);
    for line in ["division: signal 8", "pointer: signal 11", "abort: signal 6"] {
        assert!(done.outs[0].lines().any(|l| l == line), "{line}: {}", done.outs[0]);
    }
    let told = &done.errs[0];
    assert!(told.contains("rank 0: it called abort()") && told.contains("integer divide by zero") && told.contains("out of bounds memory access"), "{told}");
    assert!(told.contains("cloudskin: process 45: "), "each by its number: {told}");
    let said = alone(faults(), &["pipes"]).outs[0].clone();
    assert!(said.ends_with("another program: -1 1\na network: -1 1\n"), "{said}");
}

#[test]
fn fork_without_end_finds_one() {
    let done = alone(faults(), &["many"]);
    exited(&done);
    assert_eq!(done.outs[0], "32 were made, then EAGAIN\nand again: -1\n32 ended well\none more: exit 3\n");
    assert_eq!(done.errs[0], "cloudskin: fork fails: a rank may have 32 processes at once beside its first one, and has them\n", "once");
    let done = alone(faults(), &["memory"]);
    exited(&done);
    let made: u32 = done.outs[0].strip_suffix(" were made, then 1\n").unwrap().parse().unwrap();
    assert!((2..=4).contains(&made), "{made} copies of 200 MiB in 1 GiB");
}

#[test]
fn mpi_is_for_the_first_process_alone() {
    let done = run(faults(), 3, &["mpi"], None, 0, 0);
    exited(&done);
    for (rank, out) in done.outs.iter().enumerate() {
        assert_eq!(*out, format!("MPI in a child: signal 6\nrank {rank} has {}\n", (rank + 2) % 3));
        assert!(done.errs[rank].contains("MPI_Comm_size was called in a process that fork has made"), "{}", done.errs[rank]);
    }
}

/// Whatever its children do: they loop, wait for a pipe, or for children of their own.
#[test]
fn no_process_survives_its_rank() {
    let budget: Arc<cells::Budget> = Arc::default();
    let program = the_engine().load(faults()).unwrap();
    let ended = |what: &str, kill: bool| {
        let (log, control) = (Arc::new(Log::default()), Arc::<Control>::default());
        let fabric = Arc::new(Fabric::new(1, Box::new(Nowhere)));
        fabric.arrive(Rank(0), Vec::new());
        let spec = spec(what, log.clone(), fabric, budget.clone());
        let mut cell = Cell::new(the_engine(), &program, &spec, control.clone()).unwrap();
        let one = budget.used();
        let runs = on_a_thread(move || cell.run());
        if kill {
            let until = Instant::now() + LONGEST;
            while log.text(0) != "made\n" || budget.used() < 4 * one {
                assert!(Instant::now() < until, "{}", log.text(0));
                std::thread::sleep(Duration::from_millis(1));
            }
            control.kill("cancelled");
        }
        let ended = runs.join().unwrap();
        assert_eq!(budget.used(), 0, "{what}: all memory is given back when the rank has ended");
        ended
    };
    assert_eq!(ended("endless", true), Ended::Killed("cancelled".into()));
    assert_eq!(ended("leaves", false), Ended::Exited(5));
    assert!(matches!(ended("fails", false), Ended::Failed { message, .. } if message.contains("abort()")));
}

struct Nowhere;
impl Wire for Nowhere {
    fn send(&self, _: Message) {}
    fn acknowledge(&self, _: Rank, _: Rank, _: u64) {}
}

fn spec(what: &str, log: Arc<Log>, fabric: Arc<Fabric>, budget: Arc<cells::Budget>) -> Spec {
    Spec {
        rank: Rank(0),
        size: 1,
        args: ["program", what].map(String::from).to_vec(),
        env: Vec::new(),
        memory_max: 1 << 30,
        budget,
        mounts: Mounts::default(),
        output: log,
        fabric,
        place: "here".into(),
        spin: 0,
    }
}

fn on_a_thread<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> std::thread::JoinHandle<T> {
    std::thread::Builder::new().stack_size(engine::THREAD_STACK).spawn(body).unwrap()
}

/// Pipes with something in them, descriptors that share, and the status of a child that has ended.
#[test]
fn pipes_move_with_a_rank_that_has_no_other_process() {
    let stayed = alone(faults(), &["travel"]);
    exited(&stayed);
    assert_eq!(stayed.outs[0], natively(&programs().join("processes/faults.c"), &["travel"]));
    let mut moves = 0;
    for seed in 1..5 {
        // While its child runs the rank can't be moved, and the first pause is longer than that.
        let moved = run_as(engines(), faults(), &How { args: &["travel"], moves: 12, pause_us: 20_000..40_000, seed, ..How::default() });
        exited(&moved);
        assert_eq!(moved.texts, stayed.texts, "seed {seed}");
        moves += moved.moves;
    }
    assert!(moves > 8, "{moves} moves in four runs");
}

/// Stopped wherever it waits, a rank with processes says why it stays, and nothing of its work is lost or done twice.
#[test]
fn a_rank_with_processes_is_not_written_down_and_goes_on() {
    for (name, args) in [("workers", &["3000", "3"][..]), ("forkserver", &["40", "3"]), ("forktree", &["3"])] {
        let wasm = compile(&source(name));
        let program = the_engine().load(&wasm).unwrap();
        let (log, control) = (Arc::new(Log::default()), Arc::<Control>::default());
        let fabric = Arc::new(Fabric::new(1, Box::new(Nowhere)));
        fabric.arrive(Rank(0), Vec::new());
        let mut spec = spec("", log.clone(), fabric.clone(), Arc::default());
        spec.args = std::iter::once(name).chain(args.iter().copied()).map(String::from).collect();
        let mut cell = Cell::new(the_engine(), &program, &spec, control.clone()).unwrap();
        let done = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let runs = on_a_thread({
            let done = done.clone();
            move || {
                let (mut stayed, mut written) = (0, 0);
                let ended = loop {
                    match cell.run() {
                        Ended::Stopped => {
                            fabric.hold(Rank(0));
                            match snapshot::write(the_engine(), &mut cell) {
                                Ok(_) => written += 1,
                                Err(e) => {
                                    assert!(e.to_string().contains("beside its first one (fork); it can move, or be written down, when they have ended"), "{e}");
                                    stayed += 1;
                                }
                            }
                            fabric.release(Rank(0));
                        }
                        ended => break ended,
                    }
                };
                done.store(true, std::sync::atomic::Ordering::SeqCst);
                (ended, stayed, written)
            }
        });
        let mut random = StdRng::seed_from_u64(7);
        while !done.load(std::sync::atomic::Ordering::SeqCst) {
            std::thread::sleep(Duration::from_micros(random.random_range(2000..20_000)));
            control.stop();
        }
        let (ended, stayed, written) = runs.join().unwrap();
        assert_eq!(ended, Ended::Exited(0), "{name}: {}", log.text(0));
        println!("{name}: stayed {stayed} times, was written down {written} times");
        assert!(stayed > 0, "{name} was never stopped while it had processes");
        assert_eq!(log.stream(0, false), natively(&source(name), args), "{name}");
    }
}

/// With threads, and without safe points.
#[test]
fn where_fork_is_not_there_it_says_why() {
    for (option, why) in [("-pthread", "the program has threads"), ("-fno-safe-points", "the program has no safe points")] {
        let words = [option.into(), source("forktree").into_os_string()];
        let out = make(Lang::C, Path::new(&format!("forktree{option}.wasm")), words.into_iter()).unwrap();
        let done = alone(&std::fs::read(out).unwrap(), &["1"]);
        assert_eq!(done.ended[0], Ended::Exited(102), "{option}: fork fails");
        assert!(done.errs[0].starts_with("cloudskin: fork fails: ") && done.errs[0].contains(why), "{option}: {}", done.errs[0]);
    }
}
