//! Buckets as folders: a real node and namenode in a temporary folder, and a C program that moves with objects open.

use base::{
    SiteId,
    identity::{Authority, site_name},
    unit::Bytes,
};
use cells::toolchain::driver::{self, Lang};
use cells::wasi::{Errno, Mount, Mounts, Output, Stat};
use cells::{Bucket, Cell, Control, Ended, Engine, Spec, engine, snapshot};
use geds::{BucketName, Namenode, Node, Options};
use mpi::{Fabric, Message, Rank, Wire};
use std::path::Path;
use std::sync::{Arc, Mutex};

struct Store {
    node: Node,
    _runtime: tokio::runtime::Runtime,
    _temp: tempfile::TempDir,
}

fn store(limit: u64) -> Store {
    let temp = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let node = runtime.block_on(async {
        let site = SiteId::new("edge").unwrap();
        let authority = Authority::open(&temp.path().join("ca")).unwrap();
        let options = Options {
            folder: temp.path().join("edge"),
            limit: Bytes(limit),
            dialer: authority.issue(&site_name(&site)).unwrap().dialer().unwrap(),
            catalog: Arc::new(Namenode::open(temp.path().join("names")).await.unwrap()),
            persist: None,
            address: String::new(),
            site,
        };
        Node::open(options).await.unwrap()
    });
    Store { node, _runtime: runtime, _temp: temp }
}

impl Store {
    fn bucket(&self, name: &str) -> Bucket {
        Bucket { store: self.node.blocking(), name: BucketName::new(name).unwrap(), lease: None }
    }
    fn buckets(&self) -> Vec<String> {
        self.node.blocking().buckets().unwrap().iter().map(|b| b.to_string()).collect()
    }
}

fn put(bucket: &Bucket, path: &str, text: &str) {
    let mut file = bucket.create(path, false).unwrap();
    file.write_at(0, text.as_bytes()).unwrap();
    file.commit().unwrap();
}

fn get(bucket: &Bucket, path: &str) -> Result<String, Errno> {
    let file = bucket.open(path)?;
    let mut text = vec![0; file.len() as usize + 10];
    let n = file.read_at(0, &mut text)?;
    text.truncate(n);
    Ok(String::from_utf8(text).unwrap())
}

fn names(bucket: &Bucket, path: &str) -> Vec<String> {
    let show = |(name, stat): (String, Stat)| if stat.folder { name + "/" } else { format!("{name} {}", stat.size) };
    bucket.list(path).unwrap().into_iter().map(show).collect()
}

#[test]
fn objects_are_files_and_prefixes_are_folders() {
    let store = store(1 << 20);
    let out = store.bucket("out");
    assert_eq!(out.list("").err(), Some(Errno::Noent));
    assert_eq!(out.stat("a").err(), Some(Errno::Noent));
    assert!(store.buckets().is_empty(), "looking creates nothing");
    put(&out, "a/b.txt", "hello");
    put(&out, "a/c/d", "");
    put(&out, "ab", "1");
    assert_eq!(store.buckets(), ["out"]);
    assert_eq!(names(&out, ""), ["a/", "ab 1"]);
    assert_eq!(names(&out, "a"), ["b.txt 5", "c/"]);
    assert_eq!(out.stat("a").unwrap(), Stat { folder: true, size: 0 });
    assert_eq!(out.stat("a/b.txt").unwrap(), Stat { folder: false, size: 5 });
    assert_eq!(get(&out, "a/b.txt").as_deref(), Ok("hello"));
    assert_eq!(get(&out, "a").err(), Some(Errno::Noent));

    let mut half = out.create("a/b.txt", true).unwrap();
    half.write_at(half.len(), b", world").unwrap();
    assert_eq!(get(&out, "a/b.txt").as_deref(), Ok("hello"), "not visible before the close");
    let open = out.open("a/b.txt").unwrap();
    half.commit().unwrap();
    assert_eq!(get(&out, "a/b.txt").as_deref(), Ok("hello, world"));
    assert_eq!(open.len(), 5, "who had it open keeps it");
    let mut cut = out.create("a/b.txt", true).unwrap();
    cut.set_len(4).unwrap();
    drop(cut);
    assert_eq!(get(&out, "a/b.txt").as_deref(), Ok("hello, world"), "not closed, not written");

    out.rename("a/b.txt", "e").unwrap();
    assert_eq!((names(&out, "a"), get(&out, "e").as_deref()), (vec!["c/".to_string()], Ok("hello, world")));
    assert_eq!(out.rename("a", "f").err(), Some(Errno::Notsup), "a folder");
    assert_eq!(out.rename("e", "a").err(), Some(Errno::Isdir));
    assert_eq!(out.rename("none", "f").err(), Some(Errno::Noent));
    assert_eq!(out.remove("a").err(), Some(Errno::Isdir));
    out.remove("e").unwrap();
    assert_eq!(out.remove("e").err(), Some(Errno::Noent));
    assert_eq!(out.create(&"x".repeat(2000), false).err(), Some(Errno::Inval));
}

#[test]
fn a_folder_of_more_than_a_page_is_listed_whole() {
    let store = store(1 << 20);
    let out = store.bucket("out");
    let all: Vec<String> = (0..1205).map(|i| format!("f{i:04}/x")).collect();
    for name in &all {
        put(&out, name, "");
    }
    let listed = names(&out, "");
    assert_eq!(listed.len(), 1205);
    assert!(listed.iter().zip(&all).all(|(l, a)| a.starts_with(l)));
}

#[test]
fn a_full_store_says_so() {
    let store = store(1000);
    let out = store.bucket("out");
    let mut file = out.create("a", false).unwrap();
    file.write_at(0, &[1; 900]).unwrap();
    assert_eq!(file.write_at(900, &[1; 200]).err(), Some(Errno::Nospc));
    file.commit().unwrap();
    assert_eq!(out.stat("a").unwrap().size, 900);
    assert_eq!(out.create("a", true).err(), Some(Errno::Nospc), "a second copy while it is changed");
}

#[derive(Default)]
struct Log(Mutex<Vec<(u64, String)>>);

impl Output for Log {
    fn write(&self, _: Rank, stderr: bool, offset: u64, data: &[u8]) {
        let text = if stderr { "err: " } else { "" };
        self.0.lock().unwrap().push((offset, format!("{text}{}", String::from_utf8_lossy(data).trim())));
    }
}

struct Nowhere;
impl Wire for Nowhere {
    fn send(&self, _: Message) {}
    fn acknowledge(&self, _: Rank, _: Rank, _: u64) {}
}

/// Stops the program `reader` with a file half read and another half written; `meanwhile` happens; then it goes on where the folders `there` are.
fn moved(store: &Store, meanwhile: impl FnOnce(), there: &[&str]) -> Result<(Ended, Vec<(u64, String)>), String> {
    let engine = Engine::new(&engine::Options { cells_max: 4, ..Default::default() }).unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/reader.c");
    let wasm = tempfile::NamedTempFile::new().unwrap().into_temp_path();
    let args = [source.as_os_str(), "-O2".as_ref(), "-o".as_ref(), wasm.as_os_str()].map(|a| a.to_os_string());
    assert_eq!(driver::main(Lang::C, args.to_vec()).unwrap(), 0);
    let program = engine.load(&std::fs::read(&wasm).unwrap()).unwrap();
    let log = Arc::new(Log::default());
    let fabric = || Arc::new(Fabric::new(1, Box::new(Nowhere)));
    let spec = |fabric: &Arc<Fabric>, folders: &[&str]| Spec {
        rank: Rank(0),
        size: 1,
        args: vec!["reader".into()],
        env: Vec::new(),
        memory_max: 1 << 30,
        budget: Arc::default(),
        mounts: Mounts { folders: folders.iter().map(|n| (n.to_string(), Arc::new(store.bucket(n)) as _)).collect(), workdir: None },
        output: log.clone(),
        fabric: fabric.clone(),
        place: "edge".into(),
        spin: 0,
    };
    put(&store.bucket("scenes"), "2024/a.txt", "first second");
    let here = fabric();
    here.arrive(Rank(0), Vec::new());
    let control: Arc<Control> = Arc::default();
    let mut cell = Cell::new(&engine, &program, &spec(&here, &["scenes", "out"]), control.clone()).unwrap();
    let thread = |mut cell: Cell| {
        let thread = std::thread::Builder::new().stack_size(engine::THREAD_STACK);
        thread.spawn(move || (cell.run(), cell)).unwrap()
    };
    let running = thread(cell);
    while log.0.lock().unwrap().is_empty() {
        assert!(!running.is_finished(), "{:?}", running.join().unwrap().0);
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    control.stop();
    here.mailbox(Rank(0)).bell.ring();
    let ended;
    (ended, cell) = running.join().unwrap();
    assert_eq!(ended, Ended::Stopped);
    here.hold(Rank(0));
    let bytes = snapshot::write(&engine, &mut cell).unwrap();
    drop(cell);
    meanwhile();
    put(&store.bucket("out"), "go", "");
    let read = snapshot::Snapshot::read(&bytes).unwrap();
    let fabric = fabric();
    let mut cell = read.thaw(&engine, &program, &spec(&fabric, there), Arc::default()).map_err(|e| e.to_string())?;
    cell.arrive(&read.frozen);
    let ended = thread(cell).join().unwrap().0;
    let printed = std::mem::take(&mut *log.0.lock().unwrap());
    Ok((ended, printed))
}

#[test]
fn a_rank_goes_on_with_its_files_where_folders_are_in_another_order() {
    let store = store(1 << 20);
    let (ended, printed) = moved(&store, || (), &["more", "out", "scenes"]).unwrap();
    assert_eq!(ended, Ended::Exited(0));
    let line = |offset, text: &str| (offset, text.to_string());
    assert_eq!(printed, [line(0, "first"), line(6, "err: err"), line(10, "second")], "one count over both streams and the move");
    assert_eq!(get(&store.bucket("out"), "copy.txt").as_deref(), Ok("first second"));
}

#[test]
fn a_rank_does_not_go_on_with_another_content() {
    let refused = |meanwhile: fn(&Bucket), there: &[&str], expected: &str| {
        let store = store(1 << 20);
        let message = moved(&store, || meanwhile(&store.bucket("scenes")), there).unwrap_err();
        assert!(message.contains(expected), "{message}");
    };
    let again = "object scenes/2024/a.txt is at epoch 2, not 1: it was written again";
    refused(|scenes| put(scenes, "2024/a.txt", "other things"), &["scenes", "out"], again);
    refused(|scenes| scenes.remove("2024/a.txt").unwrap(), &["scenes", "out"], "object scenes/2024/a.txt does not exist");
    refused(|_| (), &["out"], "no bucket scenes here");
}
