//! Snapshots that hold only what has changed since the one before: gone on with from each of a chain, and refused when something of it is another or missing.

use super::*;
use cells::Draft;
use cells::draft::Known;
use cells::snapshot::{Chain, Snapshot, VERSION};

/// What the program says when its memory is filled.
const READY: &str = "ready\n";

/// What one snapshot of a chain took.
#[derive(Debug)]
struct Taken {
    bytes: Vec<u8>,
    increment: bool,
    /// From the time that the cell stood still.
    stood: Duration,
}

/// A cell of the program that is at work until `folder` has a file `enough`: however slow this machine is, a snapshot finds it there.
fn spec(mib: &str, rounds: &str, folder: &Path, log: &Arc<Log>) -> Spec {
    let mut spec = alone(&["churn", mib, rounds, "/data/enough"], log.clone());
    spec.mounts.folders.push(("data".into(), Arc::new(Folder { root: folder.into() })));
    spec
}

/// Runs the program to its end and takes `count` snapshots on the way, each an increment of the one before if it can be. With what it printed. `folder` ends who is begun there later.
fn chain(program: &Arc<Program>, mib: &'static str, rounds: &'static str, folder: &Path, count: usize) -> (Vec<Taken>, String) {
    let (engine, log, control) = (the_engine(), Arc::new(Log::default()), Arc::<Control>::default());
    let (theirs, ours, spec) = (control.clone(), program.clone(), spec(mib, rounds, folder, &log));
    let (ready, wait) = std::sync::mpsc::channel::<()>();
    let draft = Arc::new(Mutex::new(Draft::new(None)));
    let shared = draft.clone();
    let body = move || {
        let mut cell = Cell::new(engine, &ours, &spec, theirs.clone()).unwrap();
        let mut taken = Vec::new();
        loop {
            match cell.run() {
                Ended::Stopped => {
                    let began = theirs.left_at().unwrap();
                    spec.fabric.hold(spec.rank);
                    let mut draft = std::mem::replace(&mut *shared.lock().unwrap(), Draft::new(None));
                    assert!(draft.take(engine, &mut cell, &mut |_| true).unwrap(), "there is room");
                    spec.fabric.release(spec.rank);
                    let (stood, increment) = (began.elapsed(), draft.increment());
                    let mut bytes = Vec::new();
                    let written = draft.write::<std::convert::Infallible>(None, |piece| {
                        bytes.extend_from_slice(piece);
                        Ok(())
                    });
                    let written = written.unwrap();
                    assert_eq!(written.bytes, bytes.len() as u64);
                    let known: Arc<Known> = Arc::new(draft.known(&format!("job-1/{}", taken.len() + 1), written));
                    *shared.lock().unwrap() = Draft::new(Some(known));
                    taken.push(Taken { bytes, increment, stood });
                    theirs.clear();
                    ready.send(()).unwrap();
                }
                ended => break (ended, taken),
            }
        }
    };
    let thread = std::thread::Builder::new().stack_size(engine::THREAD_STACK).spawn(body).unwrap();
    while log.text(1) != READY {
        std::thread::sleep(Duration::from_millis(1));
    }
    for _ in 0..count {
        draft.lock().unwrap().ahead(engine, program, &control, &mut |_| true, || true).unwrap();
        control.stop();
        wait.recv().unwrap();
    }
    std::fs::write(folder.join("enough"), []).unwrap();
    let (ended, taken) = thread.join().unwrap();
    assert_eq!(ended, Ended::Exited(0));
    (taken, log.text(1))
}

fn refused(done: cells::Result<impl Sized>, parts: &[&str]) {
    let message = done.err().expect("it is refused").to_string();
    assert!(parts.iter().all(|part| message.contains(part)), "{message}");
}

#[test]
fn a_cell_goes_on_from_every_snapshot_of_a_chain() {
    let (engine, program) = (the_engine(), the_engine().load(&compile(&programs().join("churn.c"))).unwrap());
    let folder = tempfile::tempdir().unwrap();
    let (taken, text) = chain(&program, "8", "6000", folder.path(), 4);
    let kinds: Vec<bool> = taken.iter().map(|t| t.increment).collect();
    assert_eq!(kinds, [false, true, true, true], "the first is complete, the others stand on it");
    let from = |files: &[&Taken]| {
        let mut chain = Chain::begin(&files[0].bytes).unwrap();
        files[1..].iter().for_each(|older| chain.add(&older.bytes).unwrap());
        chain.join().unwrap()
    };
    for last in 0..taken.len() {
        let files: Vec<&Taken> = taken[..=last].iter().rev().collect();
        let mut chain = Chain::begin(&files[0].bytes).unwrap();
        files[1..].iter().for_each(|older| chain.add(&older.bytes).unwrap());
        assert!(chain.missing().is_none());
        // From the chain, and from the one file that it is joined to.
        let joined = from(&files);
        for alone in [false, true] {
            let log = Arc::new(Log::default());
            log.write(Rank(1), false, 0, READY.as_bytes()); // printed before the snapshot, and kept by who keeps the output
            let spec = spec("8", "6000", folder.path(), &log);
            let control: Arc<Control> = Arc::default();
            let ended = std::thread::scope(|scope| {
                let body = || {
                    let mut cell = if alone { Snapshot::read(&joined).unwrap().thaw(engine, &program, &spec, control.clone()) } else { chain.thaw(engine, &program, &spec, control.clone()) }.unwrap();
                    cell.arrive(chain.frozen());
                    cell.run()
                };
                std::thread::Builder::new().stack_size(engine::THREAD_STACK).spawn_scoped(scope, body).unwrap().join().unwrap()
            });
            assert_eq!((ended, log.text(1)), (Ended::Exited(0), text.clone()), "from snapshot {last}");
        }
    }

    // What is refused, and in which words.
    let [full, first, second, _] = &taken[..] else { panic!("four were taken") };
    let missing = |file: &Taken| {
        let log = Arc::new(Log::default());
        let read = Snapshot::read(&file.bytes).unwrap();
        read.thaw(engine, &program, &spec("8", "6000", folder.path(), &log), Arc::default()).map(drop)
    };
    refused(missing(first), &["only what has changed since checkpoint job-1/1", "not there", "--out FILE"]);
    refused(Chain::begin(&second.bytes).unwrap().join(), &["since checkpoint job-1/2"]);
    let add = |newest: &Taken, older: &[u8]| Chain::begin(&newest.bytes).unwrap().add(older);
    refused(add(second, &full.bytes), &["checkpoint job-1/2 with checksum", "it is another"]);
    refused(add(full, &first.bytes), &["stands on no other"]);
    let changed = |at: usize| {
        let mut bytes = full.bytes.clone();
        bytes[at] ^= 1;
        bytes
    };
    refused(add(first, &changed(full.bytes.len() / 2)), &["checkpoint job-1/1", "damaged"]);
    let versions = format!("version {}, this CloudSkin reads version {VERSION}", VERSION ^ 1);
    refused(add(first, &changed(8)), &["checkpoint job-1/1", &versions]);
    refused(add(first, &full.bytes[..1000]), &["checkpoint job-1/1", "cut"]);
    assert!(add(first, &full.bytes).is_ok());
}

/// Prints how long the cell stood and what was written, and holds that an increment is as small as what has changed.
#[test]
fn an_increment_has_what_has_changed() {
    let program = the_engine().load(&compile(&programs().join("churn.c"))).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (taken, _) = chain(&program, "16", "8000", folder.path(), 3);
    for t in &taken {
        println!("16 MiB, {}: {} bytes, stood {:?}", if t.increment { "increment" } else { "complete" }, t.bytes.len(), t.stood);
    }
    assert!(!taken[0].increment && taken[0].bytes.len() > 16 << 20);
    for t in &taken[1..] {
        assert!(t.increment && t.bytes.len() < 2 << 20, "{} bytes", t.bytes.len());
    }
}
