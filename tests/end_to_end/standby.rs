//! The hub's namenode with a standby at the cloud: the hub is killed and stays away, and what the sites do goes on. Nothing that was acknowledged is lost, in either direction.

use crate::platform::{Platform, run};
use base::Kind;
use geds::{Attached, BucketName, Key, Referee, Reign, Shared};
use std::{
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread::JoinHandle,
};

fn reign(platform: &Platform) -> Reign {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(Referee::folder(platform.data().join("leader")).read()).unwrap().unwrap_or_default()
}

fn signal(platform: &Platform, part: &str, signal: &str) {
    run(Command::new("kill").args([signal, &platform.pid(part).to_string()]));
}

/// A program at the edge that writes one object after the other, and remembers which were acknowledged.
struct Program {
    acknowledged: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

fn bucket() -> BucketName {
    BucketName::new("data").unwrap()
}

impl Program {
    fn start(platform: &Platform, name: &'static str) -> Program {
        let store: Attached = Shared::attach(platform.data().join("edge")).unwrap();
        store.create_bucket(&bucket()).unwrap();
        let (acknowledged, stop): (Arc<Mutex<Vec<String>>>, Arc<AtomicBool>) = Default::default();
        let (told, end) = (acknowledged.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            for n in 0.. {
                if end.load(SeqCst) {
                    return;
                }
                let key = format!("{name}/{n}");
                match store.put(&bucket(), &Key::new(key.as_str()).unwrap(), key.as_bytes()) {
                    Ok(_) => told.lock().unwrap().push(key),
                    // It may have been done or not; the next one decides nothing about it.
                    Err(e) => assert!(matches!(e.kind(), Kind::Unavailable | Kind::DeadlineExceeded), "{e}"),
                }
            }
        });
        Program { acknowledged, stop, thread }
    }

    fn count(&self) -> usize {
        self.acknowledged.lock().unwrap().len()
    }

    /// Waits until it has been told of some more.
    fn goes_on(&self, platform: &Platform, what: &str) {
        let before = self.count();
        platform.wait(&format!("objects to be acknowledged {what}"), |_| self.count() > before + 20);
    }

    fn end(self) -> Vec<String> {
        self.stop.store(true, SeqCst);
        self.thread.join().unwrap();
        std::mem::take(&mut *self.acknowledged.lock().unwrap())
    }
}

/// All of these are listed by the hub, and one of them can be read through it.
fn check(platform: &Platform, acknowledged: &[String]) {
    let listed = platform.json(&["store", "ls", "data"]);
    let listed: std::collections::HashSet<&str> = listed.as_array().unwrap().iter().map(|object| object["key"].as_str().unwrap()).collect();
    let missing: Vec<&String> = acknowledged.iter().filter(|key| !listed.contains(key.as_str())).collect();
    assert!(missing.is_empty(), "of {} acknowledged objects {} are gone: {missing:?}", acknowledged.len(), missing.len());
    let (got, last) = (platform.data().join("got"), acknowledged.last().unwrap());
    platform.ok(&["store", "get", &format!("data/{last}"), got.to_str().unwrap()]);
    assert_eq!(std::fs::read_to_string(got).unwrap(), *last);
}

fn all_ready(platform: &Platform) -> bool {
    let sites = platform.command(&["-o", "json", "get", "sites"]).output().unwrap();
    serde_json::from_slice::<serde_json::Value>(&sites.stdout).is_ok_and(|sites| sites.as_array().is_some_and(|all| all.len() == 2 && all.iter().all(|s| s["state"] == "ready")))
}

#[test]
fn the_cloud_takes_over_from_a_killed_hub_and_the_hub_from_the_cloud() {
    let platform = Platform::start_with(|up| {
        up.arg("--standby");
    });
    let program = Program::start(&platform, "first");
    platform.wait("the cloud to have all names", |p| reign(p) == Reign { leader: "hub".into(), complete: Some("cloud".into()), ..reign(p) });
    program.goes_on(&platform, "by the pair");
    // Nobody starts it again.
    signal(&platform, "up", "-STOP");
    platform.kill("hub");
    platform.wait("the cloud to lead", |p| reign(p).leader == "cloud");
    program.goes_on(&platform, "without a hub");
    signal(&platform, "up", "-CONT");
    platform.wait("the hub to be back", all_ready);
    program.goes_on(&platform, "with a hub that follows");
    platform.wait("the hub to have all names", |p| reign(p).complete.as_deref() == Some("hub"));
    let mut acknowledged = program.end();
    check(&platform, &acknowledged);

    // The other way round.
    let program = Program::start(&platform, "second");
    program.goes_on(&platform, "by the pair the other way round");
    signal(&platform, "up", "-STOP");
    platform.kill("cloud");
    platform.wait("the hub to lead", |p| reign(p).leader == "hub");
    program.goes_on(&platform, "without the cloud");
    acknowledged.extend(program.end());
    check(&platform, &acknowledged);
    signal(&platform, "up", "-CONT");
    platform.wait("the cloud to be back", all_ready);
    check(&platform, &acknowledged);
}
