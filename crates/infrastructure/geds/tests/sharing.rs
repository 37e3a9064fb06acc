//! Processes that share a node's tier through its agent: what they read is the node's own pages, what they had goes when they go, and what they wrote stays.

mod common;

use base::{Kind, unit::Bytes as Size};
use common::{Installation, Running, bucket, content, get, key, put, site};
use geds::{Attached, BucketPolicy, Caller, Catalog, Lent, Mode, Namenode, Place, RemoteCatalog, RestKey};
use std::{
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

/// A namenode that is asked over connections, as agents do: its leases have terms.
fn remote(namenode: &Namenode) -> RemoteCatalog {
    let namenode = namenode.clone();
    RemoteCatalog::over(move || {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let namenode = namenode.clone();
        tokio::spawn(async move { namenode.serve(theirs, Caller::Hub).await });
        async move { Ok(ours) }
    })
}

async fn installation() -> Installation {
    let mut here = Installation::new().await;
    here.catalog = Arc::new(remote(&here.namenode));
    here
}

/// A node with its agent.
struct Sharing {
    node: Running,
    socket: PathBuf,
    agent: tokio::task::JoinHandle<()>,
}

impl Drop for Sharing {
    fn drop(&mut self) {
        self.agent.abort();
    }
}

impl Sharing {
    async fn new(here: &Installation) -> Sharing {
        let node = here.node("edge").await;
        let socket = here.folder("agent.sock");
        let (shared, path) = (node.node.clone(), socket.clone());
        let agent = tokio::spawn(async move { shared.share(&path).await.unwrap() });
        let sharing = Sharing { node, socket, agent };
        drop(sharing.attach().await);
        sharing
    }

    /// Calls of a process that is attached block.
    async fn attach(&self) -> Attached {
        let socket = self.socket.clone();
        blocking(move || {
            let end = Instant::now() + Duration::from_secs(20);
            loop {
                match Attached::open(&socket) {
                    Ok(attached) => return attached,
                    Err(e) => assert!(Instant::now() < end, "{e}"),
                }
                std::thread::yield_now();
            }
        })
        .await
    }

    fn gauge(&self, name: &str) -> u64 {
        let text = self.node.metrics();
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap().parse().unwrap()
    }

    async fn until(&self, what: &str, mut there: impl FnMut(&Sharing) -> bool) {
        let end = Instant::now() + Duration::from_secs(20);
        while !there(self) {
            assert!(Instant::now() < end, "{what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

fn open(attached: &Attached, name: &str) -> geds::Result<Lent> {
    attached.open_object(&bucket("data"), &key(name))
}

/// This test program again, as another process that runs one of the functions below.
fn child(name: &str, socket: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--ignored", "--nocapture", "--test-threads=1"])
        .env("GEDS_TEST_SOCKET", socket)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The first line with this word at its beginning (the harness may print its own before it), without it.
fn hear(lines: &mut impl Iterator<Item = std::io::Result<String>>, word: &str) -> String {
    for line in lines {
        let line = line.unwrap();
        if let Some(at) = line.find(word) {
            return line[at + word.len()..].trim().to_string();
        }
    }
    panic!("the process ended without {word:?}");
}

fn in_child() -> Attached {
    Attached::open(std::env::var("GEDS_TEST_SOCKET").expect("only as a child")).unwrap()
}

/// Where this process has an address mapped from: device and inode.
fn mapped_from(address: *const u8) -> String {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let line = maps.lines().find(|line| {
        let (range, _) = line.split_once(' ').unwrap();
        let (start, end) = range.split_once('-').unwrap();
        let at = address as usize;
        usize::from_str_radix(start, 16).unwrap() <= at && at < usize::from_str_radix(end, 16).unwrap()
    });
    let fields: Vec<&str> = line.expect("it is mapped").split_whitespace().collect();
    assert!(fields[1].starts_with("r--s"), "read only, and no copy of this process's own: {fields:?}");
    format!("{} {}", fields[3], fields[4])
}

#[test]
#[ignore = "a part of `another_process_reads_the_nodes_own_pages`"]
fn child_that_maps() {
    let attached = in_child();
    for name in ["small", "large", "in/memory", "in/memory/large"] {
        let (bucket, key) = name.strip_prefix("in/").map_or((bucket("data"), key(name)), |name| (bucket("fast"), key(name)));
        let object = attached.open_object(&bucket, &key).unwrap();
        println!("mapped {} {}", mapped_from(object.bytes().as_ptr()), xxhash_rust::xxh3::xxh3_64(object.bytes()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_process_reads_the_nodes_own_pages() {
    let mut here = installation().await;
    here.tuning.memory = Some(Size(16 << 20));
    here.tuning.buckets.insert(bucket("fast"), BucketPolicy { tier: Place::Memory, ..BucketPolicy::default() });
    here.namenode.create_bucket(&bucket("fast")).await.unwrap();
    let here = here;
    let sharing = Sharing::new(&here).await;
    let contents = [4096, 5 << 20, 4096, 5 << 20].map(|len| content(len as u64, len));
    let mut ours = Vec::new();
    for (name, data) in [("small", &contents[0]), ("large", &contents[1])] {
        put(&sharing.node, name, data).await;
        ours.push(get(&sharing.node, name).await.unwrap());
    }
    for (name, data) in [("memory", &contents[2]), ("memory/large", &contents[3])] {
        sharing.node.put(&bucket("fast"), &key(name), data.clone().into()).await.unwrap();
        ours.push(sharing.node.open_object(&bucket("fast"), &key(name)).await.unwrap());
    }
    let mut process = child("child_that_maps", &sharing.socket);
    let stdout = process.stdout.take().unwrap();
    let found = blocking(move || {
        let mut lines = BufReader::new(stdout).lines();
        let found = [0; 4].map(|_| hear(&mut lines, "mapped"));
        lines.for_each(drop); // to its end, or it could not say goodbye
        found
    })
    .await;
    assert!(process.wait().unwrap().success());
    for (n, (object, found)) in ours.iter().zip(&found).enumerate() {
        let expected = format!("{} {}", mapped_from(object.bytes().as_ptr()), xxhash_rust::xxh3::xxh3_64(&contents[n]));
        assert_eq!(*found, expected, "object {n} lies in the same file, or memory, for both");
    }
}

/// After this the process can do nothing but end.
fn forbid_system_calls() {
    // SAFETY: the filter is what the kernel takes it for, and it outlives the calls: load the number of the system call; if it is `exit_group`, allow; else kill the process.
    unsafe {
        let mut rules = [
            libc::sock_filter { code: (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16, jt: 0, jf: 0, k: 0 },
            libc::sock_filter { code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16, jt: 0, jf: 1, k: libc::SYS_exit_group as u32 },
            libc::sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW },
            libc::sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k: libc::SECCOMP_RET_KILL_PROCESS },
        ];
        let program = libc::sock_fprog { len: rules.len() as u16, filter: rules.as_mut_ptr() };
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program as *const libc::sock_fprog, 0, 0), 0);
    }
}

#[test]
#[ignore = "a part of `a_warm_read_makes_no_system_call`"]
fn child_that_makes_no_system_call() {
    let attached = in_child();
    let (bucket, keys) = (bucket("data"), (0..200).map(|n| key(&format!("k/{n}"))).collect::<Vec<_>>());
    let read_all = || keys.iter().map(|key| attached.open_object(&bucket, key).unwrap().bytes().iter().map(|byte| u64::from(*byte)).sum::<u64>()).sum::<u64>();
    let expected = read_all();
    let began = Instant::now();
    for _ in 0..200 {
        keys.iter().for_each(|key| drop(attached.open_object(&bucket, key).unwrap()));
    }
    println!("opened {}", began.elapsed().as_nanos() / (200 * 200));
    std::io::stdout().flush().unwrap();
    if std::env::var_os("GEDS_TEST_COLD").is_some() {
        forbid_system_calls();
        // Not known here: the agent would have to be asked.
        let _ = attached.open_object(&bucket, &key("k/cold"));
    }
    forbid_system_calls();
    let same = (0..50).all(|_| read_all() == expected);
    // SAFETY: it ends the process.
    unsafe { libc::_exit(if same { 0 } else { 1 }) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_warm_read_makes_no_system_call() {
    let here = installation().await;
    let sharing = Sharing::new(&here).await;
    for n in 0..200 {
        put(&sharing.node, &format!("k/{n}"), &content(n, 4096)).await;
    }
    put(&sharing.node, "k/cold", b"cold").await;
    let socket = sharing.socket.clone();
    let (warm, cold) = blocking(move || {
        let run = |cold: bool| {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.args(["--exact", "child_that_makes_no_system_call", "--ignored", "--nocapture", "--test-threads=1"]);
            command.env("GEDS_TEST_SOCKET", &socket);
            if cold {
                command.env("GEDS_TEST_COLD", "1");
            }
            let done = command.output().unwrap();
            println!("{}", String::from_utf8_lossy(&done.stdout));
            done.status
        };
        (run(false), run(true))
    })
    .await;
    assert!(warm.success(), "{warm}");
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&cold), Some(libc::SIGSYS), "the filter sees what is no warm read: {cold}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_process_writes_all_see_at_once() {
    let here = installation().await;
    let sharing = Sharing::new(&here).await;
    let (writer, reader) = (sharing.attach().await, sharing.attach().await);
    let node = sharing.node.node.clone();
    blocking(move || {
        // Each round is sealed before its number is told, sealed here every second time; nobody who has heard of it may be given an older one.
        let (told, end) = (Arc::new(AtomicU64::new(0)), Instant::now() + Duration::from_secs(3));
        writer.put(&bucket("data"), &key("same"), &0u64.to_le_bytes()).unwrap();
        let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap());
        std::thread::scope(|threads| {
            for _ in 0..2 {
                threads.spawn(|| {
                    while Instant::now() < end {
                        let least = told.load(SeqCst);
                        let found = number(open(&reader, "same").unwrap().bytes());
                        assert!(found >= least, "{found} was read after {least} was sealed");
                    }
                });
            }
            for n in 1.. {
                if Instant::now() > end {
                    break;
                }
                let mut new = writer.create(&bucket("data"), &key("same")).unwrap();
                new.write_at(0, &u64::to_le_bytes(n)).unwrap();
                if n % 2 == 0 { new.seal_here() } else { new.seal() }.unwrap();
                told.store(n, SeqCst);
            }
        });
        assert!(told.load(SeqCst) > 10);
        // And so does the node itself, and it is seen what others do through it.
        writer.settle().unwrap();
        let last = told.load(SeqCst);
        assert_eq!(number(node.blocking().open(&bucket("data"), &key("same")).unwrap().bytes()), last);
        node.blocking().rename(&bucket("data"), &key("same"), &key("moved")).unwrap();
        assert_eq!(open(&reader, "same").unwrap_err().kind(), Kind::NotFound);
        assert_eq!(number(open(&reader, "moved").unwrap().bytes()), last);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_can_be_asked_through_the_agent() {
    let here = installation().await.with_folder_persist();
    let sharing = Sharing::new(&here).await;
    let attached = sharing.attach().await;
    blocking(move || {
        let (data, new) = (bucket("data"), bucket("new"));
        assert!(attached.create_bucket(&new).unwrap());
        assert!(!attached.create_bucket(&new).unwrap());
        assert!(attached.buckets().unwrap().contains(&new));
        // Small and large, in order and not, with gaps.
        for (n, len) in [0usize, 1, 4096, 1 << 20, (1 << 20) + 1, 5 << 20].into_iter().enumerate() {
            let (expected, name) = (content(len as u64, len), key(&format!("len/{n}")));
            let mut writer = attached.create(&data, &name).unwrap();
            for (part, bytes) in expected.chunks(300_000).enumerate() {
                writer.write_at(part as u64 * 300_000, bytes).unwrap();
            }
            writer.set_metadata(vec![n as u8]);
            assert_eq!(writer.len(), len as u64);
            assert_eq!(writer.seal().unwrap().size, len as u64);
            let object = attached.open_object(&data, &name).unwrap();
            assert!(object.bytes() == expected, "{len}");
            assert_eq!(attached.attributes(&data, &name).unwrap().metadata, [n as u8]);
        }
        let mut gap = attached.create(&data, &key("gap")).unwrap();
        gap.write_at(2 << 20, b"end").unwrap();
        gap.write_at(0, b"begin").unwrap();
        gap.seal().unwrap();
        let gap = open(&attached, "gap").unwrap();
        assert!(gap.len() == (2 << 20) + 3 && gap.bytes().starts_with(b"begin\0") && gap.bytes().ends_with(b"\0end"));
        // Errors keep their kinds and name bucket and key.
        let taken = attached.create_new(&data, &key("gap")).unwrap().seal().unwrap_err();
        assert_eq!(taken.kind(), Kind::AlreadyExists);
        assert!(taken.to_string().contains("data/gap"), "{taken}");
        assert_eq!(open(&attached, "none").unwrap_err().kind(), Kind::NotFound);
        assert_eq!(attached.create(&bucket("nowhere"), &key("a")).unwrap().seal().unwrap_err().kind(), Kind::NotFound);
        assert_eq!(attached.create_new(&data, &key("x")).unwrap().seal_here().unwrap_err().kind(), Kind::InvalidArgument);
        let mut large = attached.create(&data, &key("too/large")).unwrap();
        let full = (0..80).try_for_each(|part| large.write_at(part << 20, &vec![1; 1 << 20])).unwrap_err();
        assert_eq!(full.kind(), Kind::ResourceExhausted, "{full}");
        assert!(full.to_string().contains("data/too/large"), "{full}");
        drop(large);
        // Names.
        assert_eq!(attached.rename(&data, &key("gap"), &key("gone")).unwrap().key, key("gone"));
        assert_eq!(attached.stat(&data, &key("gone")).unwrap().size, (2 << 20) + 3);
        assert_eq!(attached.rename_prefix(&data, "len", &new, "there", false).unwrap().0, 6);
        let listing = attached.list(&new, "there", None, geds::Page::default()).unwrap();
        assert_eq!(listing.objects.len(), 6);
        assert_eq!(attached.spill(&new, "there").unwrap().0, 6);
        assert!(attached.open_object(&new, &key("there/5")).unwrap().bytes() == content(5 << 20, 5 << 20), "it comes back when it is opened");
        assert_eq!(attached.delete_prefix(&new, "there").unwrap().0, 6);
        attached.delete(&data, &key("gone")).unwrap();
        assert_eq!(open(&attached, "gone").unwrap_err().kind(), Kind::NotFound);
        assert_eq!(gap.bytes().len(), (2 << 20) + 3, "who has it open keeps it");
    })
    .await;
    // Nothing of the one that was refused is left, nor of what was deleted once its last reader has gone.
    sharing.until("room that nobody has comes back", |sharing| sharing.node.disk().used == 0).await;
}

/// What grows on the node, asked for by a process: appended to at its length only, read meanwhile, there after a new life of the agent, sealed in the end. And what waits for others does not keep a process from asking.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_grows_and_what_waits_goes_through_the_agent_too() {
    let here = installation().await.with_folder_persist();
    let sharing = Sharing::new(&here).await;
    let attached = sharing.attach().await;
    let node = sharing.node.node.clone();
    blocking({
        let attached = attached.clone();
        move || {
            let (data, name) = (bucket("data"), key("log/1"));
            assert!(attached.growing(&data, &name).unwrap().is_none());
            let growing = attached.appendable(&data, &name).unwrap();
            // More than goes in one message; and twice at the same place.
            let content = content(5, (2 << 20) + 7);
            assert_eq!(growing.append(0, &content).unwrap(), content.len() as u64);
            let wrong = growing.append(5, b"x").unwrap_err();
            assert!(wrong.kind() == Kind::FailedPrecondition && wrong.to_string().contains(&content.len().to_string()), "{wrong}");
            assert_eq!(growing.append(growing.length().unwrap(), b"").unwrap(), content.len() as u64);
            let other = attached.growing(&data, &name).unwrap().expect("it grows");
            assert_eq!(other.append(content.len() as u64, b"end").unwrap(), content.len() as u64 + 3);
            assert!(growing.read(0, u64::MAX >> 1).unwrap() == [&content[..], b"end"].concat());
            assert_eq!(growing.read(content.len() as u64 + 1, 10).unwrap(), b"nd");
            assert_eq!(growing.read(1 << 40, 10).unwrap(), b"");
            growing.sync().unwrap();
            assert_eq!(attached.list_growing(&data, "log", "").unwrap(), [(name.clone(), content.len() as u64 + 3)]);
            assert!(attached.list_growing(&data, "lo", "").unwrap().is_empty());
            assert_eq!(open(&attached, "log/1").unwrap_err().kind(), Kind::NotFound, "it is no object yet");
            assert_eq!(growing.seal().unwrap().size, content.len() as u64 + 3);
            assert!(open(&attached, "log/1").unwrap().bytes().ends_with(b"end"));
            let sealed = growing.append(0, b"x").unwrap_err();
            assert!(sealed.kind() == Kind::FailedPrecondition && sealed.to_string().contains("data/log/1 is sealed"), "{sealed}");
            assert_eq!(attached.appendable(&data, &name).err().map(|e| e.kind()), Some(Kind::FailedPrecondition));
            attached.appendable(&data, &key("log/2")).unwrap().discard().unwrap();
            assert_eq!(growing.length().unwrap_err().kind(), Kind::NotFound);

            // Names, and the persistency tier.
            attached.create_bucket(&bucket("other")).unwrap();
            attached.copy(&data, &name, &bucket("other"), &key("a"), true).unwrap();
            assert_eq!(attached.copy(&data, &name, &bucket("other"), &key("a"), true).unwrap_err().kind(), Kind::AlreadyExists);
            assert_eq!(attached.copy_prefix(&data, "log", &data, "again").unwrap().0, 1);
            assert_eq!(attached.rename_to(&data, &key("again/1"), &bucket("other"), &key("a"), true).unwrap_err().kind(), Kind::AlreadyExists);
            assert_eq!(attached.rename_to(&data, &key("again/1"), &bucket("other"), &key("a"), false).unwrap().key, key("a"));
            let range = geds::Range { offset: (2 << 20) + 5, len: 100 };
            assert_eq!(attached.read_range(&data, &name, range).unwrap().1, [&content[(2 << 20) + 5..], b"end"].concat());
            let range = geds::Range { offset: 3, len: (2 << 20) + 1 };
            assert!(attached.read_range(&data, &name, range).unwrap().1 == content[3..(2 << 20) + 4], "several messages of it");
            assert_eq!(attached.read_range(&data, &name, geds::Range { offset: 1 << 40, len: 1 }).unwrap_err().kind(), Kind::InvalidArgument);
            assert_eq!(attached.read_range(&data, &name, geds::Range { offset: 0, len: 65 << 20 }).unwrap_err().kind(), Kind::InvalidArgument);
            let minute = Duration::from_secs(60);
            assert_eq!(attached.flush(&data, "log", minute).unwrap().0, 1);
            assert_eq!(attached.flush(&data, "log", minute).unwrap().0, 0, "it is there already");
            assert!(attached.wait_durable(&data, &name, minute).unwrap().persisted.is_some());

            // With a job.
            attached.keep_job("train", None).unwrap();
            let mut writer = attached.create(&data, &key("of/train")).unwrap();
            writer.write_at(0, b"12").unwrap();
            writer.lease_to("train");
            writer.seal().unwrap();
            assert_eq!(attached.drop_job("train").unwrap(), (1, 2));
            assert_eq!(open(&attached, "of/train").unwrap_err().kind(), Kind::NotFound);
            attached.keep_job("short", Some(Duration::from_millis(1))).unwrap();

            // Watches: as many as wait at a time, and one more; what is asked meanwhile is answered, and what happens is told to all.
            let now = attached.watch(&data, u64::MAX, Duration::ZERO).unwrap();
            assert!(now.resync && now.next > 0);
            let watches: Vec<_> = (0..64)
                .map(|_| {
                    let (attached, token) = (attached.clone(), now.next);
                    std::thread::spawn(move || loop {
                        match attached.watch(&bucket("data"), token, Duration::from_secs(60)) {
                            // The one below has its place for a moment.
                            Err(e) if e.kind() == Kind::ResourceExhausted => std::thread::sleep(Duration::from_millis(1)),
                            answer => return answer.unwrap(),
                        }
                    })
                })
                .collect();
            let end = Instant::now() + Duration::from_secs(20);
            loop {
                match attached.watch(&data, now.next, Duration::from_millis(5)) {
                    Err(e) if e.kind() == Kind::ResourceExhausted => break,
                    answer => assert!(answer.unwrap().events.is_empty() && Instant::now() < end),
                }
            }
            attached.put(&data, &key("watched"), b"1").unwrap();
            for watch in watches {
                let seen = watch.join().unwrap();
                assert_eq!((seen.events.len(), seen.next), (1, now.next + 1));
            }
        }
    })
    .await;
    // The same object to the node itself.
    let growing = node.appendable(&bucket("data"), &key("log/3")).await.unwrap();
    growing.append(0, "of the node, ".into()).await.unwrap();
    drop(growing);
    blocking(move || {
        let growing = attached.growing(&bucket("data"), &key("log/3")).unwrap().expect("it grows");
        growing.append(13, b"and of a process").unwrap();
        assert_eq!(growing.read(0, 100).unwrap(), b"of the node, and of a process");
    })
    .await;
}

#[test]
#[ignore = "a part of `a_reader_keeps_what_it_reads_and_no_more`"]
fn child_that_reads() {
    let attached = in_child();
    let reading = open(&attached, "read").unwrap();
    for n in 0..40 {
        drop(open(&attached, &format!("idle/{n}")).unwrap());
    }
    println!("reading");
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    println!("same {}", reading.bytes() == content(1, 400_000));
    // Until it is killed.
    std::io::stdin().read_line(&mut line).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_keeps_what_it_reads_and_no_more() {
    let mut here = installation().await.with_folder_persist();
    here.limit = 4 << 20;
    let sharing = Sharing::new(&here).await;
    put(&sharing.node, "read", &content(1, 400_000)).await;
    for n in 0..40 {
        put(&sharing.node, &format!("idle/{n}"), &content(n, 50_000)).await;
    }
    let mut process = child("child_that_reads", &sharing.socket);
    let (stdout, mut stdin) = (process.stdout.take().unwrap(), process.stdin.take().unwrap());
    let mut lines = blocking(move || {
        let mut lines = BufReader::new(stdout).lines();
        hear(&mut lines, "reading");
        lines
    })
    .await;
    assert_eq!((sharing.gauge("cloudskin_geds_attached"), sharing.gauge("cloudskin_geds_lent_objects")), (1, 41));
    // What it has read and let go of is evicted like anything else, and its room is there for others; what it reads is evicted, too, but its bytes stay.
    assert_eq!(sharing.node.spill(&bucket("data"), "").await.unwrap().0, 41);
    assert_eq!(sharing.gauge("cloudskin_geds_lent_objects"), 1);
    assert_eq!(sharing.node.disk().used, 400_000);
    for round in 0..4 {
        put(&sharing.node, &format!("new/{round}"), &content(round, 900_000)).await;
        sharing.node.delete(&bucket("data"), &key(&format!("new/{round}"))).await.unwrap();
    }
    writeln!(stdin, "look").unwrap();
    let (same, _lines) = blocking(move || (hear(&mut lines, "same"), lines)).await;
    assert_eq!(same, "true");
    assert_eq!(sharing.node.disk().used, 400_000);
    // Killed, it gives back what it read.
    process.kill().unwrap();
    process.wait().unwrap();
    sharing.until("what a killed process had comes back", |sharing| sharing.node.disk().used == 0 && sharing.gauge("cloudskin_geds_attached") == 0).await;
    assert!(get(&sharing.node, "read").await.unwrap().bytes() == content(1, 400_000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_goes_with_its_last_reader_and_idle_ones_make_way() {
    let mut here = installation().await;
    here.limit = 4 << 20;
    let sharing = Sharing::new(&here).await;
    let attached = sharing.attach().await;
    put(&sharing.node, "a", &content(1, 300_000)).await;
    let (first, second) = blocking({
        let attached = attached.clone();
        move || {
            let first = open(&attached, "a").unwrap();
            let second = first.clone();
            (first, second)
        }
    })
    .await;
    sharing.node.delete(&bucket("data"), &key("a")).await.unwrap();
    drop(first);
    assert_eq!(sharing.node.disk().used, 300_000);
    assert!(second.bytes() == content(1, 300_000));
    blocking(move || drop(second)).await;
    sharing.until("its last reader has gone", |sharing| sharing.node.disk().used == 0).await;
    // A node that has room for four of them goes through a hundred: what this process has read does not stand in the way, whether it is freed or moved by a compaction.
    for n in 0..100u64 {
        let name = format!("k/{n}");
        put(&sharing.node, &name, &content(n, 900_000)).await;
        put(&sharing.node, &format!("small/{n}"), &content(n, 1000)).await;
        let attached = attached.clone();
        blocking(move || {
            assert!(open(&attached, &name).unwrap().bytes() == content(n, 900_000));
            let kept = n.saturating_sub(n % 7);
            assert!(open(&attached, &format!("small/{kept}")).unwrap().bytes() == content(kept, 1000), "{kept}");
        })
        .await;
        sharing.node.delete(&bucket("data"), &key(&format!("k/{n}"))).await.unwrap();
        assert!(sharing.node.disk().charged <= (4 << 20) + sharing.node.segment_bytes());
    }
}

#[test]
#[ignore = "a part of `a_functions_objects_are_drained_after_it_is_gone`"]
fn child_that_is_a_function() {
    let attached = in_child();
    let mut left = attached.create(&bucket("data"), &key("half")).unwrap();
    left.write_at(0, &vec![7; 3 << 20]).unwrap();
    for n in 0..20u64 {
        let mut writer = attached.create(&bucket("data"), &key(&format!("out/{n}"))).unwrap();
        writer.write_at(0, &content(n, if n % 5 == 0 { 2 << 20 } else { 10_000 })).unwrap();
        writer.seal_here().unwrap();
    }
    println!("gone");
    std::io::stdout().flush().unwrap();
    // SAFETY: it ends the process, without any of its goodbyes.
    unsafe {
        libc::kill(libc::getpid(), libc::SIGKILL);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_functions_objects_are_drained_after_it_is_gone() {
    let mut here = installation().await.with_folder_persist();
    here.tuning.spill.automatic = true;
    here.tuning.policy.mode = Mode::WriteBehind;
    let sharing = Sharing::new(&here).await;
    let mut process = child("child_that_is_a_function", &sharing.socket);
    let stdout = process.stdout.take().unwrap();
    blocking(move || hear(&mut BufReader::new(stdout).lines(), "gone")).await;
    assert!(!process.wait().unwrap().success());
    sharing.node.settle().await;
    sharing.node.flush(&bucket("data"), "out", Duration::from_secs(60)).await.unwrap();
    for n in 0..20u64 {
        let meta = sharing.node.stat(&bucket("data"), &key(&format!("out/{n}"))).await.unwrap();
        assert!(meta.persisted.is_some(), "{n}");
        assert!(get(&sharing.node, &format!("out/{n}")).await.unwrap().bytes() == content(n, if n % 5 == 0 { 2 << 20 } else { 10_000 }));
    }
    // What it had not sealed is gone with it.
    assert_eq!(get(&sharing.node, "half").await.unwrap_err().kind(), Kind::NotFound);
    sharing.until("drafts go with their process", |_| std::fs::read_dir(here.folder("edge").join("open")).unwrap().count() == 0).await;
}

/// An agent of a node of its own, with the namenode in the same process, until it is killed.
#[test]
#[ignore = "a part of the tests in which an agent is killed"]
fn child_that_is_an_agent() {
    let socket = PathBuf::from(std::env::var("GEDS_TEST_SOCKET").expect("only as a child"));
    let folder = socket.parent().unwrap().to_path_buf();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let namenode = common::namenode(&folder).await;
        let names = remote(&namenode);
        let authority = base::identity::Authority::open(&folder.join("ca")).unwrap();
        let options = geds::Options {
            site: site("edge"),
            folder: folder.join("edge"),
            limit: Size(8 << 20),
            dialer: authority.issue(&base::identity::site_name(&site("edge"))).unwrap().dialer().unwrap(),
            catalog: Arc::new(names),
            persist: None,
            address: String::new(),
        };
        let node = geds::Node::open(options).await.unwrap();
        println!("agent");
        node.share(&socket).await.unwrap();
    });
}

/// An agent in a process of its own, which has said that it is there.
fn begin_agent(socket: &Path) -> Child {
    let mut agent = child("child_that_is_an_agent", socket);
    let stdout = agent.stdout.take().unwrap();
    hear(&mut BufReader::new(stdout).lines(), "agent");
    agent
}

/// As soon as it listens.
fn attach(socket: &Path) -> Attached {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        match Attached::open(socket) {
            Ok(attached) => return attached,
            Err(e) => assert!(Instant::now() < end, "{e}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_outlive_an_agent_that_is_killed() {
    let here = installation().await;
    here.lend_namenode().await;
    let socket = here.folder("agent.sock");
    blocking(move || {
        let begin = || begin_agent(&socket);
        let mut agent = begin();
        let attached = attach(&socket);
        let data = bucket("data");
        let mut open_ones: Vec<(u64, Lent)> = Vec::new();
        let log = attached.appendable(&data, &key("log")).unwrap();
        log.append(0, b"one").unwrap();
        log.sync().unwrap();
        let follower = attached.follow(&data, &key("log")).unwrap();
        assert_eq!(follower.read(0, 10, Duration::ZERO).unwrap().bytes, "one");
        for life in 0..4u64 {
            // In segments and in files of their own; some are deleted while they are read: their ranges are the last of their segment, and nobody's any more.
            for n in 0..24u64 {
                let seed = life * 100 + n;
                let (name, len) = (format!("k/{seed}"), if n % 8 == 7 { 700_000 } else { 9_000 });
                attached.put(&data, &key(&name), &content(seed, len)).unwrap();
                let object = open(&attached, &name).unwrap();
                if n % 3 != 0 {
                    attached.delete(&data, &key(&name)).unwrap();
                }
                if n % 2 == 1 {
                    open_ones.push((seed, object));
                }
            }
            agent.kill().unwrap();
            agent.wait().unwrap();
            agent = begin();
            // Looking goes on by itself; what was acknowledged is there, what was deleted is not.
            for n in 0..24u64 {
                let seed = life * 100 + n;
                match open(&attached, &format!("k/{seed}")) {
                    Ok(object) => assert!(n % 3 == 0 && object.bytes() == content(seed, object.bytes().len()), "{seed}"),
                    Err(e) => assert!(n % 3 != 0 && e.kind() == Kind::NotFound, "{seed}: {e}"),
                }
            }
            for (seed, object) in &open_ones {
                assert!(object.bytes() == content(*seed, object.bytes().len()), "{seed} is what it was when its agent lived");
            }
            attached.delete_prefix(&data, "k").unwrap();
            // Who follows goes on, too.
            log.append(3 + life, b"+").unwrap();
            log.sync().unwrap();
            assert_eq!(follower.read(3 + life, 10, Duration::from_secs(20)).unwrap().bytes, "+");
        }
        // But not with another one that has its name.
        log.discard().unwrap();
        log.append(0, b"x").unwrap_err();
        attached.appendable(&data, &key("log")).unwrap().append(0, b"another").unwrap();
        agent.kill().unwrap();
        agent.wait().unwrap();
        agent = begin();
        assert_eq!(attached.follow(&data, &key("log")).unwrap().read(0, 10, Duration::ZERO).unwrap().bytes, "another");
        assert_eq!(follower.read(0, 10, Duration::ZERO).unwrap_err().kind(), Kind::NotFound);
        for (seed, object) in &open_ones {
            assert!(object.bytes() == content(*seed, object.bytes().len()), "{seed}");
        }
        agent.kill().unwrap();
        agent.wait().unwrap();
        let error = attached.put(&data, &key("late"), b"x").unwrap_err();
        assert_eq!(error.kind(), Kind::Unavailable, "{error}");
    })
    .await;
}

/// `GEDS_AGENT_KILLS` says how many, `GEDS_SEED` when.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_agent_acknowledged_survives_its_kill_at_random_points() {
    use rand::{Rng, SeedableRng, rngs::StdRng};
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let (kills, seed) = (number("GEDS_AGENT_KILLS").unwrap_or(4), number("GEDS_SEED").unwrap_or_else(rand::random));
    println!("seed {seed}");
    let here = installation().await;
    here.lend_namenode().await;
    let socket = here.folder("agent.sock");
    blocking(move || {
        let mut random = StdRng::seed_from_u64(seed);
        let data = bucket("data");
        let begin = || begin_agent(&socket);
        let mut agent = begin();
        let attached = attach(&socket);
        let length = |n: u64| if n % 16 == 15 { 300_000 } else { 4_000 };
        for kill in 0..kills {
            let place = format!("kill {kill} of seed {seed}");
            let acknowledged = AtomicU64::new(0);
            let (pause, stop) = (random.random_range(20_000..200_000), AtomicU64::new(0));
            // Writes, reads and removes until it is killed: what was told, and what was asked last.
            let (sealed, removed, unsure, open_ones) = std::thread::scope(|threads| {
                let worker = threads.spawn(|| {
                    let (mut sealed, mut removed, mut unsure, mut open_ones) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
                    for n in 0..150u64 {
                        if stop.load(SeqCst) > 0 {
                            break;
                        }
                        let name = key(&format!("l{kill}/{n}"));
                        match attached.put(&data, &name, &content(n, length(n))) {
                            Ok(_) => sealed.push(n),
                            Err(_) => {
                                unsure.push(n);
                                break;
                            }
                        }
                        acknowledged.store(n + 1, SeqCst);
                        if n % 4 == 0 {
                            open_ones.extend(open(&attached, name.as_str()).ok().map(|object| (n, object)));
                        }
                        if n % 3 == 2 {
                            sealed.pop();
                            match attached.delete(&data, &name) {
                                Ok(_) => removed.push(n),
                                Err(_) => {
                                    unsure.push(n);
                                    break;
                                }
                            }
                        }
                    }
                    (sealed, removed, unsure, open_ones)
                });
                while acknowledged.load(SeqCst) < 3 {
                    std::thread::yield_now();
                }
                std::thread::sleep(Duration::from_micros(pause));
                agent.kill().unwrap();
                agent.wait().unwrap();
                stop.store(1, SeqCst);
                agent = begin();
                worker.join().unwrap()
            });
            for (n, object) in &open_ones {
                assert!(object.bytes() == content(*n, length(*n)), "{place}: {n} is torn for who had it open");
            }
            let found = |n: u64| open(&attached, &format!("l{kill}/{n}"));
            for n in sealed {
                let object = found(n).unwrap_or_else(|e| panic!("{place}: {n}: {e}"));
                assert!(object.bytes() == content(n, length(n)), "{place}: {n} is torn");
            }
            for n in removed {
                assert_eq!(found(n).err().map(|e| e.kind()), Some(Kind::NotFound), "{place}: {n} is back");
            }
            for n in unsure {
                match found(n) {
                    Ok(object) => assert!(object.bytes() == content(n, length(n)), "{place}: {n} is torn"),
                    Err(e) => assert_eq!(e.kind(), Kind::NotFound, "{place}: {n}: {e}"),
                }
            }
            attached.delete_prefix(&data, &format!("l{kill}")).unwrap();
        }
        agent.kill().unwrap();
        agent.wait().unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_encrypted_on_the_disk_is_lent_decrypted() {
    let mut here = installation().await;
    here.tuning.key = Some(RestKey::new(&[5; 32]));
    let sharing = Sharing::new(&here).await;
    let attached = sharing.attach().await;
    blocking(move || {
        for (n, len) in [10usize, 100_000, 3 << 20].into_iter().enumerate() {
            let data = content(n as u64, len);
            attached.put(&bucket("data"), &key(&format!("k/{n}")), &data).unwrap();
            assert!(open(&attached, &format!("k/{n}")).unwrap().bytes() == data);
        }
    })
    .await;
}

#[test]
#[ignore = "a part of `a_child_that_was_forked_reads_and_is_told_to_attach`"]
fn child_that_forks() {
    let attached = in_child();
    let object = open(&attached, "a").unwrap();
    // SAFETY: the child only reads, and ends without running anything of the harness.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let good = object.bytes() == content(1, 50_000);
        let refused = matches!(open(&attached, "b"), Err(e) if e.kind() == Kind::FailedPrecondition);
        drop(object);
        // Its goodbye is not its parent's.
        drop(attached);
        // SAFETY: it ends the process.
        unsafe { libc::_exit(if good && refused { 0 } else { 1 }) }
    }
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
    assert_eq!(status, 0);
    assert!(object.bytes() == content(1, 50_000));
    assert_eq!(open(&attached, "b").unwrap().bytes(), b"b");
    println!("forked");
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    println!("same {}", object.bytes() == content(1, 50_000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_child_that_was_forked_reads_and_is_told_to_attach() {
    let here = installation().await;
    let sharing = Sharing::new(&here).await;
    put(&sharing.node, "a", &content(1, 50_000)).await;
    put(&sharing.node, "b", b"b").await;
    let mut process = child("child_that_forks", &sharing.socket);
    let (stdout, mut stdin) = (process.stdout.take().unwrap(), process.stdin.take().unwrap());
    let mut lines = blocking(move || {
        let mut lines = BufReader::new(stdout).lines();
        hear(&mut lines, "forked");
        lines
    })
    .await;
    // The child's end has not ended what its parent reads; `b` is there in case it is needed again.
    assert_eq!(sharing.gauge("cloudskin_geds_lent_objects"), 2);
    sharing.node.delete(&bucket("data"), &key("a")).await.unwrap();
    assert_eq!((sharing.gauge("cloudskin_geds_lent_objects"), sharing.node.disk().used), (2, 50_001));
    writeln!(stdin, "look").unwrap();
    let same = blocking(move || {
        let same = hear(&mut lines, "same");
        lines.for_each(drop); // to its end, or it could not say goodbye
        same
    });
    assert_eq!(same.await, "true");
    assert!(process.wait().unwrap().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nonsense_ends_one_session_and_a_second_agent_is_refused() {
    use std::os::unix::net::UnixStream;
    let here = installation().await;
    let sharing = Sharing::new(&here).await;
    put(&sharing.node, "a", b"a").await;
    let good = sharing.attach().await;
    let socket = sharing.socket.clone();
    blocking(move || {
        for nonsense in [&[0xff; 64][..], &[4, 0, 0, 0, 1, 2, 3, 4], &[30, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99]] {
            let mut stream = UnixStream::connect(&socket).unwrap();
            stream.write_all(nonsense).unwrap();
            let mut rest = Vec::new();
            let _ = std::io::Read::read_to_end(&mut stream, &mut rest);
            assert!(rest.is_empty(), "it hangs up and says nothing");
        }
        assert_eq!(open(&good, "a").unwrap().bytes(), b"a");
    })
    .await;
    let second = tokio::time::timeout(Duration::from_secs(20), sharing.node.share(&sharing.socket)).await.unwrap().unwrap_err();
    assert_eq!(second.kind(), Kind::PermissionDenied, "{second}");
}

/// The agent is stopped, and then gone: who has said how long he waits is told so by then, and what the agent says too late is heard by nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waits_end_when_their_callers_said_while_the_agent_is_silent_or_gone() {
    const WAIT: Duration = Duration::from_millis(1200);
    let here = installation().await;
    here.lend_namenode().await;
    let socket = here.folder("agent.sock");
    blocking(move || {
        let mut agent = begin_agent(&socket);
        let attached = attach(&socket);
        let data = bucket("data");
        attached.put(&data, &key("k"), b"one").unwrap();
        let log = attached.appendable(&data, &key("log")).unwrap();
        log.append(0, b"one").unwrap();
        let follower = attached.follow(&data, &key("log")).unwrap();
        let at = attached.watch(&data, u64::MAX, WAIT).unwrap().next;
        let signal = |agent: &Child, signal| {
            // SAFETY: it only sends a signal, to a child that has not been waited for.
            assert_eq!(unsafe { libc::kill(agent.id() as i32, signal) }, 0);
        };
        // Where nobody says how long, a silent agent is waited for for three minutes, and one that is gone for 20 s.
        let check = |what: &str, answer: &dyn Fn() -> geds::Result<()>| {
            let began = Instant::now();
            let error = answer().unwrap_err();
            println!("{what}: {} ms: {error}", began.elapsed().as_millis());
            assert!(matches!(error.kind(), Kind::Unavailable | Kind::DeadlineExceeded), "{what}: {error}");
            assert!(began.elapsed() < WAIT + Duration::from_secs(3), "{what} took {:?}: {error}", began.elapsed());
        };
        let all = |state: &str| {
            check(&format!("watch, {state}"), &|| attached.watch(&data, at, WAIT).map(drop));
            check(&format!("follow, {state}"), &|| follower.read(3, 10, WAIT).map(drop));
        };
        signal(&agent, libc::SIGSTOP);
        all("stopped");
        check("wait_durable, stopped", &|| attached.wait_durable(&data, &key("k"), WAIT).map(drop));
        check("flush, stopped", &|| attached.flush(&data, "", WAIT).map(drop));
        signal(&agent, libc::SIGCONT);
        // The session has gone on.
        log.append(3, b"two").unwrap();
        assert_eq!(follower.read(3, 10, Duration::from_secs(20)).unwrap().bytes, "two");
        log.sync().unwrap();
        agent.kill().unwrap();
        agent.wait().unwrap();
        all("gone");
        // One that comes within the wait is enough.
        let next = std::thread::spawn({
            let socket = socket.clone();
            move || begin_agent(&socket)
        });
        assert_eq!(follower.read(3, 10, Duration::from_secs(60)).unwrap().bytes, "two");
        let mut agent = next.join().unwrap();
        // A new one that is stopped before it has said who it is.
        agent.kill().unwrap();
        agent.wait().unwrap();
        let mut agent = begin_agent(&socket);
        drop(attach(&socket));
        signal(&agent, libc::SIGSTOP);
        all("stopped before it was attached to");
        signal(&agent, libc::SIGCONT);
        agent.kill().unwrap();
        agent.wait().unwrap();
    })
    .await;
}
