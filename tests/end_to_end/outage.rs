//! S3 goes away under a stream server that is written to, at a tenth of the sizes that Pravega's own figures were published for: 15 MB/s, 150 MB of log, 500 MB beside it.

use crate::s3::{S3, SECRET};
use crate::streams::{Server, curl, http, until};
use serde_json::Value;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::Arc;
use std::time::{Duration, Instant};
use ::streams::{Client, client::{From, Reader, Writer}};
use ::streams::proto::ScalingPolicy;

/// Events in a second, and the bytes of each.
const RATE: u64 = 1500;
const EVENT: usize = 10_000;

/// So long S3 is there at first.
const WITH: Duration = Duration::from_secs(2);

/// An event whose bytes say which it is.
fn event(n: u64) -> Vec<u8> {
    let mut event = vec![n as u8; EVENT];
    event[..8].copy_from_slice(&n.to_be_bytes());
    event
}

#[test]
fn slow_an_outage_is_sat_out_up_to_the_limits_that_are_set() {
    let mut s3 = S3::start();
    let beside = tempfile::tempdir().unwrap();
    let options = ["--http", "127.0.0.1:0", "--backlog", "150MB", "--overflow-limit", "500MB", "--overflow", beside.path().to_str().unwrap()];
    let server = Server::start_with(&options, &s3.environment(SECRET));
    let folder = server.folder.path().join("streams");
    let told = || serde_json::from_slice::<Value>(&curl(&format!("{}/v1/streams", http(&folder)))).unwrap_or_default();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let client = Client::connect(&server.ports[0]).await.unwrap();
        client.create_scope("s").await.unwrap();
        client.create_stream("s", "t", ScalingPolicy { min_num_segments: 1, ..ScalingPolicy::default() }).await.unwrap();
        let acknowledged = Arc::new(AtomicU64::new(0));
        let count = acknowledged.clone();
        let mut writer = Writer::open(&client, "s", "t", Some(Arc::new(move |_| {
            count.fetch_add(1, Relaxed);
        }))).await.unwrap();
        let start = Instant::now();
        let (mut n, mut last, mut left, mut down) = (0, (0, start), None, None);
        // Until nothing has been acknowledged for two seconds.
        while last.1.elapsed() < Duration::from_secs(2) {
            assert!(start.elapsed() < Duration::from_secs(200), "more is taken than was allowed");
            // In the middle of what it is given.
            if down.is_none() && start.elapsed() > WITH {
                s3.down();
                down = Some(Instant::now());
            }
            while n < start.elapsed().as_micros() as u64 * RATE / 1_000_000 {
                if tokio::time::timeout(Duration::from_secs(1), writer.append("key", &event(n), n)).await.map(|taken| taken.expect("no write fails")).is_err() {
                    break;
                }
                n += 1;
            }
            let now = acknowledged.load(Relaxed);
            if now != last.0 {
                last = (now, Instant::now());
            }
            if left.is_none() && down.is_some_and(|down| down.elapsed() > Duration::from_secs(25)) {
                left = Some((told()["outage_left_seconds"].as_f64().unwrap(), Instant::now()));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let held = (last.1 - down.unwrap()).as_secs_f64();
        println!("writers were held after {held:.1} s");
        // 650 MB at 15 MB/s are 43 s, less what was not in S3 yet when it went; what is in blocks takes somewhat more room than its bytes.
        assert!((38.0..60.0).contains(&held), "writers were held after {held} s");
        let (left, at) = left.unwrap();
        let really = (last.1 - at).as_secs_f64();
        assert!((really / 2.0..really * 2.0).contains(&left), "{left} s were left when {really} s were");
        assert!(told()["long_term"]["away"] == true && told()["long_term"]["overflow_bytes"].as_u64() > Some(400_000_000), "{}", told());
        let memory: u64 = std::fs::read_to_string(format!("/proc/{}/status", server.child.id())).unwrap().lines().find_map(|l| l.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok()).unwrap();
        println!("{memory} kB of memory at most");
        assert!(memory < 150_000, "{memory} kB of memory");
        s3.up();
        writer.flush().await.unwrap();
        until("all to be in S3", || told()["streams"][0]["log_bytes"] == 0 && told()["long_term"]["overflow_bytes"] == 0);
        let mut reader = Reader::open(&client, "s", "t", From::Head).await.unwrap();
        for want in 0..n {
            assert!(reader.next().await.unwrap().unwrap().data[..] == event(want), "event {want} is another one");
        }
    });
    let left = std::fs::read_dir(beside.path().join("overflow")).unwrap().flat_map(|log| std::fs::read_dir(log.unwrap().path()).unwrap()).flat_map(|segment| std::fs::read_dir(segment.unwrap().path()).unwrap()).count();
    assert_eq!(left, 0, "chunks stay in the overflow");
}
