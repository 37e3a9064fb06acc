//! What an agent's threads may not do, as the kernel tells it.

use crate::platform::{Platform, program};
use std::path::Path;

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
