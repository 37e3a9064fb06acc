//! What a program under the simulation sees: turns that a seed chooses and repeats, time that passes when all wait, and connections.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex},
    thread,
    time::{Duration, Instant, SystemTime},
};

/// What the program makes of it: it adds without holding the lock between looking and writing, so some of what is added is lost.
fn lossy(threads: u64) -> u64 {
    let sum = Arc::new(Mutex::new(0));
    let all: Vec<_> = (0..threads)
        .map(|_| {
            let sum = sum.clone();
            thread::spawn(move || {
                for _ in 0..20 {
                    let before = *sum.lock().unwrap();
                    thread::yield_now();
                    *sum.lock().unwrap() = before + 1;
                }
            })
        })
        .collect();
    all.into_iter().for_each(|t| t.join().unwrap());
    let sum = *sum.lock().unwrap();
    sum
}

fn waits() {
    let (began, day) = (Instant::now(), SystemTime::now());
    thread::sleep(Duration::from_secs(3600));
    let pair = (Mutex::new(false), Condvar::new());
    let (guard, late) = pair.1.wait_timeout_while(pair.0.lock().unwrap(), Duration::from_secs(60), |is| !*is).unwrap();
    assert!(late.timed_out() && !*guard);
    let took = [began.elapsed(), day.elapsed().unwrap()];
    assert!(took.iter().all(|t| (Duration::from_secs(3660)..Duration::from_secs(3661)).contains(t)), "{took:?}");
}

fn talks() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let server = thread::spawn(move || {
        let (mut connection, peer) = listener.accept().unwrap();
        assert!(peer.ip().is_loopback() && peer.port() > 0);
        let mut word = [0; 5];
        connection.read_exact(&mut word).unwrap();
        // More than a socket holds: it waits until the other end takes it.
        connection.write_all(&word.repeat(1 << 20)).unwrap();
    });
    let mut connection = TcpStream::connect(at).unwrap();
    connection.set_nodelay(true).unwrap();
    assert_eq!(connection.peer_addr().unwrap(), at);
    connection.set_read_timeout(Some(Duration::from_secs(7))).unwrap();
    let began = Instant::now();
    assert_eq!(connection.read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    assert!(began.elapsed() >= Duration::from_secs(7));
    connection.write_all(b"hello").unwrap();
    let mut all = Vec::new();
    connection.read_to_end(&mut all).unwrap();
    assert_eq!(all.len(), 5 << 20);
    server.join().unwrap();
    assert_eq!(TcpStream::connect(at).unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
}

/// One process, one simulation: `each` starts them, and holds the first against its repetition.
#[test]
fn a_seed_repeats_turns_time_and_talk() {
    let began = Instant::now();
    simulated::each("a_seed_repeats_turns_time_and_talk", 6, |seed| {
        waits();
        talks();
        println!("lossy {seed}: {}", lossy(4));
    });
    assert!(began.elapsed() < Duration::from_secs(60), "hours were waited for");
}

#[test]
fn seeds_differ_and_repeat() {
    // Not `each`, to see what the runs give.
    let name = "seeds_differ_and_repeat";
    if let Ok(seed) = std::env::var("OF_SEED") {
        let seed = seed.parse().unwrap();
        let (sum, run) = simulated::run(seed, || lossy(4));
        println!("told {} {run}", sum.unwrap());
        return;
    }
    let run = |seed: u64| {
        let output = std::process::Command::new(std::env::current_exe().unwrap()).args(["--exact", name, "--nocapture"]).env("OF_SEED", seed.to_string()).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        said.lines().find_map(|l| l.strip_prefix("told ")).unwrap_or_else(|| panic!("{said}")).to_string()
    };
    let runs: Vec<String> = (0..8).map(run).collect();
    assert_eq!(runs, (0..8).map(run).collect::<Vec<_>>());
    let sums: std::collections::BTreeSet<&str> = runs.iter().map(|r| r.split(' ').next().unwrap()).collect();
    assert!(sums.len() > 3, "eight seeds lose the same: {sums:?}");
    // Each loses something, and none all.
    assert!(sums.iter().all(|s| (1..80).contains(&s.parse::<u64>().unwrap())), "{sums:?}");
}
