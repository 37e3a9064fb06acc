//! The log against a disk that tears, flips, refuses and is full. Each run prints its seed when it fails.

mod faulty;

use bytes::Bytes;
use faulty::{Faulty, PIECES};
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::{
    io::Read,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use streams::{
    Error,
    disk::{Disk, Folder},
    log::{FileNo, Log, Mark, Options, Place, Recovered, Seq},
};

const FILE: u64 = 128 << 10;

fn options() -> Options {
    Options { file_bytes: FILE, files_max: 64, hands: 4, note_after: Duration::from_millis(2), spare_for: Duration::from_secs(600) }
}

/// What an entry carries: its number in head and payload, so that neither can be mixed up.
fn payload(n: u64, bytes: usize) -> Bytes {
    (0..bytes).map(|i| (n as usize * 31 + i) as u8).collect::<Vec<u8>>().into()
}

/// All entries in their order, each checked; their places; the log as it can be started.
fn recover(disk: &Arc<Faulty>, from: Option<Mark>) -> streams::Result<(Vec<u64>, Vec<(u64, Place, usize)>, Recovered)> {
    let (mut seen, mut places) = (Vec::new(), Vec::new());
    let recovered = Recovered::open(disk.clone(), options(), from, |head, data, place, _| {
        let n = u64::from_le_bytes(head.try_into().unwrap());
        assert_eq!(data, payload(n, data.len()), "entry {n}");
        seen.push(n);
        places.push((n, place, data.len()));
        Ok(())
    })?;
    Ok((seen, places, recovered))
}

type Landings = Arc<Mutex<Vec<(Mark, u64, Place)>>>;

fn start(recovered: Recovered) -> (Log<u64>, Landings) {
    let landings: Landings = Arc::default();
    let sink = landings.clone();
    let log = Log::start(recovered, move |mark, landed| {
        sink.lock().unwrap().extend(landed.into_iter().map(|l| (mark, l.note, l.place)));
    })
    .unwrap();
    (log, landings)
}

fn push(log: &Log<u64>, n: u64, bytes: usize) -> streams::Result<Seq> {
    log.push(n.to_le_bytes().to_vec(), payload(n, bytes), n % 5, n)
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < end, "waited for {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn new_files_are_made_slowly_only_while_there_is_time() {
    const PIECE: Duration = Duration::from_millis(20);
    let disk = Arc::new(Faulty::new(3));
    disk.pieces_take(PIECE);
    let start_at = Instant::now();
    let (log, landings) = start(recover(&disk, None).unwrap().2);
    push(&log, 0, 100).unwrap();
    until("the first entry", || landings.lock().unwrap().len() == 1);
    assert!(start_at.elapsed() < PIECE * PIECES * 2, "the first file is waited for: {:?}", start_at.elapsed());
    // One that is written, and one that is ready, as fast as it goes; a second one that is ready takes five times as long.
    until("three files", || disk.files() == 3);
    assert!(start_at.elapsed() >= PIECE * PIECES * 6, "{:?}", start_at.elapsed());
    // More than a file in a second, and the log is the one who waits.
    let (mut n, before) = (1, Instant::now());
    until("a file for a busy log", || {
        push(&log, n, 10_000).unwrap();
        n += 1;
        disk.files() > 3
    });
    assert!(before.elapsed() < PIECE * PIECES * 4, "{:?}", before.elapsed());
    log.close();
}

#[test]
fn a_log_is_closed_at_once_while_a_file_is_made() {
    let disk = Arc::new(Faulty::new(4));
    let (log, landings) = start(recover(&disk, None).unwrap().2);
    push(&log, 0, 100).unwrap();
    until("three files", || landings.lock().unwrap().len() == 1 && disk.files() == 3);
    disk.pieces_take(Duration::from_millis(100));
    for n in 1..9 {
        push(&log, n, 20_000).unwrap();
    }
    until("a new file", || log.files().0.len() == 2);
    std::thread::sleep(Duration::from_millis(50));
    let before = Instant::now();
    log.close();
    assert!(before.elapsed() < Duration::from_millis(200), "{:?}", before.elapsed());
    assert_eq!(disk.files(), 3, "nothing is left of the one that was being made");
}

#[test]
fn what_comes_behind_a_late_write_is_written_beside_it() {
    let disk = Arc::new(Faulty::new(5));
    let (log, landings) = start(recover(&disk, None).unwrap().2);
    for n in 0..100 {
        push(&log, n, 100).unwrap();
        until("a block", || landings.lock().unwrap().len() as u64 > n);
    }
    std::thread::sleep(Duration::from_millis(20));
    disk.next_write_is_late(Duration::from_secs(2));
    push(&log, 100, 100).unwrap();
    std::thread::sleep(Duration::from_millis(5));
    let (before, at) = (log.written().0, Instant::now());
    push(&log, 101, 100).unwrap();
    until("the second write", || log.written().0 > before);
    assert!(at.elapsed() < Duration::from_millis(500), "{:?}", at.elapsed());
    assert_eq!(landings.lock().unwrap().len(), 100, "it landed before what came before it");
    until("both", || landings.lock().unwrap().len() == 102);
    log.close();
}

/// A log in which something was written, and when nothing more is under way.
fn busy_before(disk: &Arc<Faulty>) -> (Log<u64>, Landings, u64) {
    let (log, landings) = start(recover(disk, None).unwrap().2);
    for n in 0..100 {
        push(&log, n, 100).unwrap();
        until("a block", || landings.lock().unwrap().len() as u64 > n);
    }
    (log, landings, 100)
}

#[test]
fn who_lends_a_hand_has_written_when_it_is_done() {
    let disk = Arc::new(Faulty::new(6));
    let (log, landings, first) = busy_before(&disk);
    let (mut tries, mut at_once) = (0, 0);
    for n in first..first + 200 {
        // On a machine that is busy with something else writes take longer.
        let is_short = log.write_us() < 900;
        let seq = log.lending(|| push(&log, n, 100)).unwrap();
        let durable = log.durable() >= seq;
        (tries, at_once) = (tries + u64::from(is_short), at_once + u64::from(is_short && durable));
        until("what was lent", || log.durable() >= seq);
    }
    // Now and then a hand that looks for what is to be proven is there first.
    assert!(at_once >= tries / 2, "{at_once} of {tries} were durable when the hand was given back");
    // What proves the last one comes by itself, as ever.
    let last = log.last();
    until("a block behind the last", || log.durable() > last);
    // Several in one, and one that has nothing.
    let before = log.written().0;
    log.lending(|| (first + 200..first + 210).map(|n| push(&log, n, 100).unwrap()).last());
    log.lending(|| ());
    until("ten more", || landings.lock().unwrap().len() as u64 == first + 210);
    assert!(log.written().0 - before <= 3, "{} blocks for what was pushed together", log.written().0 - before);
    drop(log);
    assert_eq!(recover(&disk, None).unwrap().0, (0..first + 210).collect::<Vec<_>>());
}

#[test]
fn who_lends_a_hand_does_not_wait_for_a_slow_disk_more_than_once() {
    const LATE: Duration = Duration::from_millis(300);
    let disk = Arc::new(Faulty::new(7));
    let (log, landings, first) = busy_before(&disk);
    for n in first..first + 5 {
        std::thread::sleep(Duration::from_millis(20));
        disk.next_write_is_late(LATE);
        let at = Instant::now();
        log.lending(|| push(&log, n, 100)).unwrap();
        assert!(n == first || at.elapsed() < LATE / 2, "entry {n} has held its thread for {:?}", at.elapsed());
        until("it", || landings.lock().unwrap().len() as u64 == n + 1);
    }
    log.close();
}

#[test]
fn a_disk_that_stalls_does_not_keep_what_comes_on_other_sockets() {
    const LATE: Duration = Duration::from_secs(2);
    let disk = Arc::new(Faulty::new(10));
    let (log, landings, first) = busy_before(&disk);
    let log = Arc::new(log);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let bind = || runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    // Who connects to the one makes it write, and to the other is answered with the end.
    let (writes, answers) = (bind(), bind());
    let (to_write, to_ask) = (writes.local_addr().unwrap(), answers.local_addr().unwrap());
    let lender = log.clone();
    runtime.spawn(async move {
        writes.accept().await.unwrap();
        lender.lending(|| push(&lender, first, 100)).unwrap();
    });
    runtime.spawn(async move { while answers.accept().await.is_ok() {} });
    std::thread::sleep(Duration::from_millis(50));
    disk.next_write_is_late(LATE);
    let begun = Instant::now();
    let _writes = std::net::TcpStream::connect(to_write).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    let mut asked = std::net::TcpStream::connect(to_ask).unwrap();
    assert_eq!(asked.read(&mut [0]).unwrap(), 0);
    assert!(begun.elapsed() < LATE / 2, "answered after {:?}", begun.elapsed());
    assert_eq!(landings.lock().unwrap().len() as u64, first, "the disk has not stalled");
    until("it", || landings.lock().unwrap().len() as u64 == first + 1);
}

#[test]
fn a_log_is_closed_when_what_somebody_else_writes_is_written() {
    let disk = Arc::new(Faulty::new(11));
    let (log, landings, first) = busy_before(&disk);
    disk.next_write_is_late(Duration::from_millis(500));
    std::thread::scope(|scope| {
        scope.spawn(|| log.lending(|| push(&log, first, 100)).unwrap());
        std::thread::sleep(Duration::from_millis(100));
        log.close();
        assert_eq!(landings.lock().unwrap().len() as u64, first + 1);
    });
}

#[test]
fn what_was_pushed_by_who_is_lost_then_is_written_and_the_log_goes_on() {
    let disk = Arc::new(Faulty::new(8));
    let (log, landings, first) = busy_before(&disk);
    let lost = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        log.lending(|| {
            push(&log, first, 100).unwrap();
            panic!("as the test wants it");
        })
    }));
    assert!(lost.is_err());
    until("what was pushed before", || landings.lock().unwrap().len() as u64 == first + 1);
    push(&log, first + 1, 100).unwrap();
    until("the next", || landings.lock().unwrap().len() as u64 == first + 2);
    log.close();
}

#[test]
fn hands_that_are_lent_and_others_write_in_one_order() {
    let disk = Arc::new(Faulty::new(9));
    let (log, landings, first) = busy_before(&disk);
    let turn = Mutex::new(first);
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let (log, turn) = (&log, &turn);
            scope.spawn(move || {
                let mut rng = StdRng::seed_from_u64(thread);
                for _ in 0..300 {
                    let mut one = || {
                        let mut next = turn.lock().unwrap();
                        push(log, *next, if rng.random_range(0..50) == 0 { 20_000 } else { 100 }).unwrap();
                        *next += 1;
                    };
                    if thread == 0 { one() } else { log.lending(one) }
                    if thread < 2 {
                        std::thread::sleep(Duration::from_micros(200));
                    }
                    // Who has written them gives the oldest files back.
                    let files = log.files().0;
                    files.iter().take(files.len().saturating_sub(20)).for_each(|no| log.release(*no));
                }
            });
        }
    });
    let all = first + 1200;
    until("all", || landings.lock().unwrap().len() as u64 == all);
    assert!(landings.lock().unwrap().iter().map(|(_, n, _)| *n).eq(0..all));
    log.close();
}

#[test]
fn what_cant_be_read_is_not_the_end_of_the_log() {
    let disk = Arc::new(Faulty::new(2));
    // No note behind the last block, which would prove that it was there.
    let quiet = Options { note_after: Duration::from_secs(3600), ..options() };
    let recovered = Recovered::open(disk.clone(), quiet, None, |_, _, _, _| Ok(())).unwrap();
    let (log, landings) = start(recovered);
    for n in 0..2 {
        push(&log, n, 20_000).unwrap();
        until("a block", || landings.lock().unwrap().len() as u64 > n);
    }
    log.close();
    let place = landings.lock().unwrap()[1].2;
    disk.unreadable(Some(u64::from(place.at) + 10_000));
    let opened = recover(&disk, None).err().expect("an acknowledged entry can't be read");
    assert!(matches!(opened, Error::File { action: "read", .. }), "{opened}");
    // A device that comes to itself again has lost nothing.
    disk.unreadable(None);
    assert_eq!(recover(&disk, None).unwrap().0, [0, 1]);
}

#[test]
fn entries_come_back_in_order_and_can_be_read_at_their_places() {
    let disk = Arc::new(Faulty::new(1));
    let mut rng = StdRng::seed_from_u64(1);
    let mut next = 0;
    for round in 0..5 {
        let (seen, places, recovered) = recover(&disk, None).unwrap();
        assert_eq!(seen, (0..next).collect::<Vec<_>>(), "round {round}");
        let (log, landings) = start(recovered);
        for (n, place, bytes) in places {
            let mut got = vec![0; bytes];
            log.file(place.file).unwrap().read(place.at.into(), &mut got).unwrap();
            assert_eq!(got, payload(n, bytes));
        }
        let begin = next;
        for _ in 0..300 {
            push(&log, next, rng.random_range(0..3000)).unwrap();
            next += 1;
        }
        log.close();
        let landed = landings.lock().unwrap();
        assert_eq!(landed.iter().map(|l| l.1).collect::<Vec<_>>(), (begin..next).collect::<Vec<_>>());
        assert!(landed.is_sorted_by_key(|l| l.0.next));
    }
}

/// Writes until the power fails in the middle of some write, starts again, and holds what is there against what was told to be durable.
#[test]
fn what_was_durable_survives_a_power_failure_at_any_write() {
    let seed: u64 = std::env::var("SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random);
    println!("SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    for round in 0..150 {
        let disk = Arc::new(Faulty::new(rng.random()));
        let (mut next, mut told) = (0u64, 0u64);
        for life in 0..4 {
            let (seen, _, recovered) = recover(&disk, None).unwrap_or_else(|e| panic!("seed {seed} round {round} life {life}: {e}"));
            assert_eq!(seen, (0..seen.len() as u64).collect::<Vec<_>>(), "seed {seed} round {round} life {life}");
            assert!(seen.len() as u64 >= told, "seed {seed} round {round} life {life}: {} of {told} durable entries are there", seen.len());
            next = seen.len() as u64;
            let (log, landings) = start(recovered);
            disk.fail_after(rng.random_range(1..40));
            while push(&log, next, rng.random_range(0..20_000)).is_ok() {
                next += 1;
                if rng.random_bool(0.2) {
                    std::thread::sleep(Duration::from_micros(rng.random_range(0..3000)));
                }
            }
            drop(log);
            told = landings.lock().unwrap().last().map_or(told.max(seen.len() as u64), |l| l.1 + 1);
            disk.power_on();
        }
        assert!(next > 0);
    }
}

/// A log of a few blocks that was closed in peace, and where its entries lie.
fn quiet_log(disk: &Arc<Faulty>) -> u64 {
    let (_, _, recovered) = recover(disk, None).unwrap();
    let (log, landings) = start(recovered);
    let mut last = Seq(0);
    for n in 0..120 {
        last = push(&log, n, 900).unwrap();
        if n % 10 == 9 {
            until("the block", || landings.lock().unwrap().len() as u64 == n + 1);
        }
    }
    // The note that proves the last one; it may be there by now.
    until("the note", || log.durable() > last);
    log.close();
    120
}

/// Bytes in front of a block's first payload, at least: its header, and what is said of one entry.
const HEADS: usize = 84;

#[test]
fn a_flipped_bit_anywhere_in_durable_bytes_is_found() {
    let disk = Arc::new(Faulty::new(3));
    let entries = quiet_log(&disk);
    let mut rng = StdRng::seed_from_u64(3);
    let (_, places, _) = recover(&disk, None).unwrap();
    for _ in 0..200 {
        let (n, place, bytes) = places[rng.random_range(0..places.len())];
        // Also of what the log puts in front: the last bytes before a payload say something of it, or are another one's.
        let (name, bit) = (disk.slot_of(place.file.0), rng.random_range(0..(bytes + HEADS) as u64 * 8));
        let bit = (u64::from(place.at) - HEADS as u64) * 8 + bit;
        disk.flip(&name, bit);
        let e = recover(&disk, None).err().unwrap_or_else(|| panic!("a flipped bit {bit} in entry {n} of {entries} was not found"));
        assert!(matches!(e, Error::Damaged(_)), "{e}");
        disk.flip(&name, bit);
    }
    recover(&disk, None).unwrap();
}

#[test]
fn a_missing_file_is_refused_and_named() {
    let disk = Arc::new(Faulty::new(4));
    quiet_log(&disk);
    let first = disk.slot_of(1);
    disk.remove(&first).unwrap();
    let e = recover(&disk, None).err().unwrap();
    assert!(e.to_string().contains("block 1 is missing"), "{e}");
}

#[tokio::test]
async fn a_sync_that_fails_stops_writing_and_says_so() {
    let disk = Arc::new(Faulty::new(5));
    let (_, _, recovered) = recover(&disk, None).unwrap();
    let (log, landings) = start(recovered);
    let seq = push(&log, 0, 100).unwrap();
    log.wait(seq).await.unwrap();
    disk.refuse_to_write();
    let seq = push(&log, 1, 100).unwrap();
    let e = log.wait(seq).await.unwrap_err();
    assert!(matches!(&e, Error::Stopped(why) if why.contains("input/output")), "{e}");
    assert!(matches!(push(&log, 2, 100), Err(Error::Stopped(_))));
    // What is durable can still be read.
    let place = landings.lock().unwrap()[0].2;
    let mut got = vec![0; 100];
    log.file(place.file).unwrap().read(place.at.into(), &mut got).unwrap();
    assert_eq!(got, payload(0, 100));
    // And the disk that works again is not trusted before a new start.
    disk.power_on();
    assert!(push(&log, 3, 1).is_err());
    drop(log);
    let (seen, ..) = recover(&disk, None).unwrap();
    assert_eq!(seen[0], 0);
}

#[test]
fn a_full_disk_makes_writers_wait_until_a_file_is_released() {
    let disk = Arc::new(Faulty::new(6));
    let (_, _, recovered) = recover(&disk, None).unwrap();
    let (log, landings) = start(recovered);
    disk.space_for(3);
    for n in 0..200 {
        push(&log, n, 4000).unwrap();
    }
    until("a full disk", || log.is_full());
    let before = landings.lock().unwrap().len();
    assert!(before < 200);
    let (files, _) = log.files();
    for no in files {
        log.release(no);
    }
    until("more entries", || landings.lock().unwrap().len() > before);
    disk.space_for(1000);
    until("all entries", || landings.lock().unwrap().len() == 200);
}

#[test]
fn a_mark_skips_what_is_before_it_and_released_files_are_used_again() {
    let disk = Arc::new(Faulty::new(7));
    let (_, _, recovered) = recover(&disk, None).unwrap();
    let (log, landings) = start(recovered);
    let mut mark = None;
    for n in 0..1000u64 {
        push(&log, n, 2000).unwrap();
        if n % 100 == 99 {
            // More may be pushed behind a cut.
            log.cut();
            until("the entries", || landings.lock().unwrap().len() as u64 == n + 1);
            let (last, ..) = *landings.lock().unwrap().last().unwrap();
            mark = Some((last, n + 1));
            let file = last.file;
            for no in log.files().0.into_iter().filter(|no| *no < file) {
                log.release(no);
            }
        }
    }
    let (mark, covered) = mark.unwrap();
    push(&log, 1000, 10).unwrap();
    push(&log, 1001, 10).unwrap();
    log.close();
    let (seen, ..) = recover(&disk, Some(mark)).unwrap();
    assert_eq!(seen, (covered..1002).collect::<Vec<_>>());
    assert!(disk.list().unwrap().len() < 10, "2 MB went through {} files of 128 KiB", disk.list().unwrap().len());
    assert!(mark.file > FileNo(10));
}

#[test]
fn files_that_nothing_needs_any_more_leave_the_disk_after_a_while() {
    let disk = Arc::new(Faulty::new(8));
    let soon = Options { spare_for: Duration::from_secs(1), ..options() };
    let recovered = Recovered::open(disk.clone(), soon, None, |_, _, _, _| Ok(())).unwrap();
    let (log, landings) = start(recovered);
    for n in 0..1000 {
        push(&log, n, 4000).unwrap();
    }
    until("the entries", || landings.lock().unwrap().len() == 1000);
    // And the files that are kept ready beside.
    std::thread::sleep(Duration::from_millis(300));
    let most = disk.list().unwrap().len();
    assert!(most > 30, "{most} files");
    let (files, _) = log.files();
    let newest = files.last().copied();
    files.into_iter().for_each(|no| log.release(no));
    assert_eq!(disk.list().unwrap().len(), most, "they may be needed again at once");
    // What is written, and what is kept ready.
    until("the others to go", || disk.list().unwrap().len() <= 3);
    let (mark, ..) = *landings.lock().unwrap().last().unwrap();
    assert_eq!(Some(mark.file), newest);
    for n in 1000..1300 {
        push(&log, n, 4000).unwrap();
    }
    until("more entries", || landings.lock().unwrap().len() == 1300);
    drop(log);
    assert_eq!(recover(&disk, Some(mark)).unwrap().0, (1000..1300).collect::<Vec<_>>());
}

#[test]
fn a_folder_of_this_machine_keeps_them_too() {
    let folder = tempfile::tempdir().unwrap();
    for life in 0..3u64 {
        let disk = Arc::new(Folder::open(folder.path()).unwrap());
        assert!(Folder::open(folder.path()).is_err(), "a folder is used once at a time");
        let mut seen = 0;
        let recovered = Recovered::open(disk, options(), None, |_, _, _, _| {
            seen += 1;
            Ok(())
        })
        .unwrap();
        assert_eq!(seen, life * 50);
        let (log, landings) = start(recovered);
        for n in 0..50 {
            push(&log, n, 7000).unwrap();
        }
        until("the entries", || landings.lock().unwrap().len() == 50);
        let (_, n, place) = landings.lock().unwrap()[33];
        let mut got = vec![0; 7000];
        let file = log.file(place.file).unwrap();
        assert!(file.read_now(place.at.into(), &mut got), "just written, so the kernel has it");
        assert_eq!(got, payload(n, 7000));
    }
}
