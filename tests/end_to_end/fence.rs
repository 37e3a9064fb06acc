//! What an agent's threads may not do, as the kernel tells it.

use crate::platform::{CLOUDSKIN, Platform, both, program};
use std::path::Path;
use std::process::Command;

/// The value of a line of a thread's `status`.
fn status(thread: &Path, key: &str) -> String {
    let text = std::fs::read_to_string(thread.join("status")).unwrap_or_default();
    text.lines().find_map(|l| l.strip_prefix(key)).unwrap_or_default().trim().to_string()
}

#[test]
fn an_agents_threads_are_fenced_and_those_of_ranks_twice() {
    let platform = Platform::start();
    let job = platform.submit(&program("talk"), &["--np", "3", "--site", "edge", "--pinned"], &[]);
    let tasks = format!("/proc/{}/task", platform.pid("edge"));
    let threads = || std::fs::read_dir(&tasks).unwrap().map(|t| t.unwrap().path());
    let rank = |rank: u32| threads().find(|t| status(t, "Name:") == format!("r{rank} {job}"));
    // This process may be behind some of a container's.
    let filters = |thread: &Path| status(thread, "Seccomp_filters:").parse::<u32>().unwrap_or_default();
    let ours = filters(Path::new("/proc/self"));
    platform.wait("all ranks to run behind both fences", |_| (0..3).all(|r| rank(r).is_some_and(|t| filters(&t) == ours + 2)));
    for thread in threads() {
        assert_eq!((status(&thread, "Seccomp:"), status(&thread, "NoNewPrivs:")), ("2".to_string(), "1".to_string()), "{}", status(&thread, "Name:"));
    }
    // What a rank does all the same: it moves, prints and ends.
    platform.ok(&["migrate", &job, "--to", "cloud", "--wait"]);
    platform.ok(&["cancel", &job]);
}

/// A link that leads out of its folder is as good a way to another file as a fault would be.
#[test]
fn an_agent_reaches_no_files_that_it_does_not_need() {
    let (data, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for name in ["cert.pem", "key.pem", "ca.pem"] {
        std::fs::write(outside.path().join(name), "no certificate").unwrap();
    }
    // What lies in the folder of temporary files would be reached.
    let temporary = data.path().join("tmp");
    std::fs::create_dir(&temporary).unwrap();
    std::os::unix::fs::symlink(outside.path(), data.path().join("identity")).unwrap();
    let agent = |more: &[(&str, &str)]| {
        let mut command = Command::new(CLOUDSKIN);
        command.args(["agent", "--site", "field", "--hub", "127.0.0.1:1", "--data"]).arg(data.path()).env("TMPDIR", &temporary).env("RUST_LOG", "info").envs(more.iter().copied());
        let output = command.output().unwrap();
        assert!(!output.status.success());
        both(&output)
    };
    let told = agent(&[]);
    if told.contains("has no Landlock") {
        return println!("this kernel has no Landlock: nothing was tried");
    }
    assert!(told.contains("Permission denied") && told.contains("what it needs of the system"), "{told}");
    for (key, value) in [("CLOUDSKIN_CELLS__CONFINE", "false"), ("CLOUDSKIN_CELLS__READS", &format!("[\"{}\"]", outside.path().display()))] {
        let told = agent(&[(key, value)]);
        assert!(!told.contains("Permission denied"), "{key}: {told}");
    }
}
