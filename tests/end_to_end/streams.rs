//! Streams as their users have them: `cloudskin stream serve` as a process, Pravega's own Python client, real kills.

use crate::dashboard::Browser;
use crate::hammer::Hammer;
use crate::platform::{CLOUDSKIN, PATIENCE, Platform, root, run};
use crate::s3::{S3, SECRET};
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A stream server. Dropped, it ends.
pub struct Server {
    pub folder: tempfile::TempDir,
    pub child: Child,
    /// Of the controller and of the segment store.
    pub ports: [String; 2],
}

/// Starts a server at these addresses and gives the ones that it has.
pub fn serve(folder: &Path, ports: &[String; 2], options: &[&str]) -> (Child, [String; 2]) {
    serve_with(folder, ports, options, &[])
}

/// [`serve`], with more in its environment.
fn serve_with(folder: &Path, ports: &[String; 2], options: &[&str], environment: &[(&str, String)]) -> (Child, [String; 2]) {
    let mut command = Command::new(CLOUDSKIN);
    command.args(["stream", "serve", "--controller", &ports[0], "--segments", &ports[1], "--folder"]).arg(folder.join("streams"));
    command.args(options).env_remove("CLOUDSKIN_GEDS__PERSIST").envs(environment.iter().cloned());
    let mut child = command.stdout(Stdio::piped()).stderr(std::fs::File::options().create(true).append(true).open(folder.join("log")).unwrap()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let log = || std::fs::read_to_string(folder.join("log")).unwrap_or_default();
    let words: Vec<&str> = line.split([' ', ',', ';', '\n']).collect();
    let after = |word: &str| words.iter().position(|w| *w == word).map(|i| words[i + 2].to_string()).unwrap_or_else(|| panic!("no server: {line:?}\n{}", log()));
    (child, [after("controller"), after("segments")])
}

impl Server {
    pub fn start(options: &[&str]) -> Server {
        Server::start_with(options, &[])
    }

    pub fn start_with(options: &[&str], environment: &[(&str, String)]) -> Server {
        let folder = tempfile::tempdir().unwrap();
        let any = ["127.0.0.1:0".to_string(), "127.0.0.1:0".to_string()];
        let (child, ports) = serve_with(folder.path(), &any, options, environment);
        Server { folder, child, ports }
    }

    /// `kill -9`, and again at the same addresses.
    pub fn kill_and_restart(&mut self, options: &[&str]) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let began = Instant::now();
        (self.child, self.ports) = serve(self.folder.path(), &self.ports, options);
        assert!(began.elapsed() < Duration::from_secs(30), "recovery took {:?}", began.elapsed());
    }

    pub fn wheel(&self, arguments: &[&str]) -> Command {
        let python = root().join(".setup/venv/bin/python");
        let mut command = Command::new(python);
        command.arg(root().join("tests/streams/wheel.py")).arg(&self.ports[0]).args(arguments).env_remove("PYTHONPATH");
        command
    }

    pub fn cli(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(CLOUDSKIN);
        command.arg("stream").args(arguments).args(["--server", &self.ports[0]]);
        command
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether one of Pravega's own clients is here. It has no wheel for some Pythons, say, of which the set-up leaves a note; a line says so.
pub fn is_here(client: &str) -> bool {
    match std::fs::read_to_string(root().join(format!(".setup/without-{client}"))) {
        Ok(note) => eprintln!("NOT RUN: {}", note.trim()),
        Err(_) => return true,
    }
    false
}

#[test]
fn pravegas_python_client_does_all_that_it_can() {
    if !is_here("pravega") {
        return;
    }
    let server = Server::start(&[]);
    run(&mut server.wheel(&["events,transactions,bytes,large,cuts,end"]));
    // It can't truncate a stream of events itself. The first 50 have 8 bytes each besides their digits.
    run(&mut server.cli(&["truncate", "s/cut", "--at", &format!("0={}", 50 * 8 + 10 + 40 * 2)]));
    run(&mut server.wheel(&["truncated"]));
}

#[test]
fn the_example_in_python_prints_what_it_has_written() {
    if !is_here("pravega") {
        return;
    }
    let server = Server::start(&[]);
    let said = run(Command::new(root().join(".setup/venv/bin/python")).arg(root().join("examples/streams/readings.py")).arg(&server.ports[0]).env_remove("PYTHONPATH"));
    for sensor in 0..2 {
        let key = format!("sensor-{sensor} ");
        let seen: Vec<u64> = said.lines().filter_map(|l| l.strip_prefix(&key)?.parse().ok()).collect();
        assert_eq!(seen, (0..10).filter(|n| n % 2 == sensor).map(|n| 20 + n).collect::<Vec<_>>(), "{said}");
    }
}

/// An authority's certificate and, signed by it, one for `localhost` with its key.
fn certificates(folder: &Path) {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
    let (authority, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.distinguished_name.push(DnType::CommonName, "a test's authority");
    let ca = params.self_signed(&authority).unwrap().pem();
    let issuer = Issuer::from_ca_cert_pem(&ca, authority).unwrap();
    let own = CertificateParams::new(vec!["localhost".to_string()]).unwrap().signed_by(&key, &issuer).unwrap();
    for (name, pem) in [("ca.pem", ca), ("own.pem", own.pem()), ("own.key", key.serialize_pem())] {
        std::fs::write(folder.join(name), pem).unwrap();
    }
}

#[test]
fn pravegas_python_client_does_the_same_over_tls() {
    if !is_here("pravega") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path());
    let path = |name: &str| folder.path().join(name).display().to_string();
    let server = Server::start(&["--publish", "localhost", "--tls-cert", &path("own.pem"), "--tls-key", &path("own.key")]);
    let address = format!("tls://localhost:{}", server.ports[0].rsplit(':').next().unwrap());
    let mut wheel = Command::new(root().join(".setup/venv/bin/python"));
    wheel.arg(root().join("tests/streams/wheel.py")).args([&address, "events,bytes"]).env("pravega_client_tls_cert_path", path("ca.pem"));
    run(&mut wheel);
    // Without TLS there is no way in.
    let plain = server.cli(&["ls"]).output().unwrap();
    assert!(!plain.status.success());
}

#[test]
fn pravegas_python_client_needs_a_user_where_one_is_asked_for() {
    if !is_here("pravega") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path());
    let path = |name: &str| folder.path().join(name).display().to_string();
    let add = |name: &str, rules: &[&str]| {
        let mut command = Command::new(CLOUDSKIN);
        command.args(["stream", "user", &path("users"), name]).args(rules.iter().flat_map(|r| ["--allow", r])).env("CLOUDSKIN_STREAM_PASSWORD", "1111_aaaa");
        run(&mut command)
    };
    add("admin", &["prn::/,READ"]);
    add("guest", &["prn::/scope:s/stream:none,READ"]);
    // May make streams in a scope, and no scopes.
    add("maker", &["prn::/scope:s,READ_UPDATE"]);
    add("admin", &["prn::/,READ_UPDATE", "prn::/scope:s,READ_UPDATE", "prn::/scope:s/*,READ_UPDATE"]);
    let users = std::fs::read_to_string(path("users")).unwrap();
    assert!(users.lines().count() == 3 && !users.contains("1111_aaaa"), "{users}");
    // Tokens that the client has to renew all the time.
    let options = ["--publish", "localhost", "--tls-cert", &path("own.pem"), "--tls-key", &path("own.key"), "--users", &path("users"), "--token-life", "7s"];
    let server = Server::start(&options);
    let address = format!("tls://localhost:{}", server.ports[0].rsplit(':').next().unwrap());
    let wheel = |commands: &str, user: &str, password: &str| {
        let mut wheel = Command::new(root().join(".setup/venv/bin/python"));
        wheel.arg(root().join("tests/streams/wheel.py")).args([&address, commands]).env("pravega_client_tls_cert_path", path("ca.pem"));
        wheel.env("pravega_client_auth_method", "Basic").env("pravega_client_auth_username", user).env("pravega_client_auth_password", password);
        wheel
    };
    run(&mut wheel("events,transactions,bytes,large,cuts,end", "admin", "1111_aaaa"));
    for (user, password) in [("admin", "1111_aaab"), ("guest", "1111_aaaa"), ("nobody", "")] {
        let refused = wheel("cuts", user, password).output().unwrap();
        assert!(!refused.status.success(), "{user}");
    }
    // The same with our own client.
    let cli = |user: &str, password: &str, arguments: &[&str]| {
        let mut command = Command::new(CLOUDSKIN);
        command.arg("stream").args(arguments).args(["--server", &address, "--ca", &path("ca.pem"), "--user", user]).env("CLOUDSKIN_STREAM_PASSWORD", password);
        command
    };
    assert!(run(&mut cli("admin", "1111_aaaa", &["ls", "s"])).contains("s/bytes"));
    let mut reader = wheel("stay", "admin", "1111_aaaa");
    reader.arg("500");
    stays(|arguments| cli("admin", "1111_aaaa", arguments), reader);
    let refused = |mut command: Command, why: &str| {
        let out = command.output().unwrap();
        let text = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.code() == Some(77) && text.contains(why), "{text}");
    };
    refused(cli("admin", "x", &["ls", "s"]), "\"admin\" is not known, or has another password");
    run(&mut cli("maker", "1111_aaaa", &["create", "s/made"]));
    refused(cli("maker", "1111_aaaa", &["create", "t/made"]), "may not change prn::/scope:t: that needs READ_UPDATE there");
}

/// The Rust client's program, which is a package of its own beside this one; compiled when it is asked for first, which takes some minutes.
fn rust_judge() -> Command {
    static COMPILED: std::sync::OnceLock<std::path::PathBuf> = std::sync::OnceLock::new();
    let program = COMPILED.get_or_init(|| {
        let target = root().join("target/clients/rust");
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
        cargo.args(["build", "--quiet", "--locked", "--manifest-path"]).arg(root().join("tests/streams/rust/Cargo.toml")).arg("--target-dir").arg(&target);
        run(&mut cargo);
        target.join("debug/streams-judge")
    });
    Command::new(program)
}

fn java_judge() -> Command {
    let mut command = Command::new("java");
    command.args(["-Xmx512m", "-cp"]).arg(root().join(".setup/java/*")).arg(root().join("tests/streams/java/Judge.java"));
    command
}

#[test]
fn slow_pravegas_rust_client_does_all_that_it_can() {
    let server = Server::start(&[]);
    run(rust_judge().args([&server.ports[0], "all"]));
}

#[test]
fn slow_pravegas_java_client_does_all_that_it_can() {
    if !is_here("java") {
        return;
    }
    let server = Server::start(&[]);
    run(java_judge().args([&format!("tcp://{}", server.ports[0]), "all"]));
    // It asks this one for all controllers that there are.
    run(java_judge().args([&format!("pravega://{}", server.ports[0]), "events"]));
}

/// A server with certificates and users, where `judge` may do what it likes below a scope.
fn guarded(scope: &str) -> (Server, String, impl Fn(Command, &str) -> Command) {
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path());
    let path = move |name: &str| folder.path().join(name).display().to_string();
    let mut user = Command::new(CLOUDSKIN);
    let rules = ["prn::/".to_string(), format!("prn::/scope:{scope}"), format!("prn::/scope:{scope}/*")].map(|r| format!("{r},READ_UPDATE"));
    user.args(["stream", "user", &path("users"), "judge"]).args(rules.iter().flat_map(|r| ["--allow", r])).env("CLOUDSKIN_STREAM_PASSWORD", "1111_aaaa");
    run(&mut user);
    let server = Server::start(&["--publish", "localhost", "--tls-cert", &path("own.pem"), "--tls-key", &path("own.key"), "--users", &path("users"), "--token-life", "20s"]);
    let address = format!("localhost:{}", server.ports[0].rsplit(':').next().unwrap());
    let enter = move |mut command: Command, password: &str| {
        command.env("TRUST", path("ca.pem")).env("JUDGE_USER", "judge").env("JUDGE_PASSWORD", password);
        command
    };
    (server, address, enter)
}

#[test]
fn slow_pravegas_rust_client_does_the_same_over_tls_with_a_user() {
    let (_server, address, enter) = guarded("rust");
    run(enter(rust_judge(), "1111_aaaa").args([&format!("tls://{address}"), "all"]));
    assert!(!enter(rust_judge(), "1111_aaab").args([&format!("tls://{address}"), "end"]).output().unwrap().status.success());
}

#[test]
fn slow_pravegas_java_client_does_the_same_over_tls_with_a_user() {
    if !is_here("java") {
        return;
    }
    let (_server, address, enter) = guarded("java");
    run(enter(java_judge(), "1111_aaaa").args([&format!("tls://{address}"), "all"]));
    assert!(!enter(java_judge(), "1111_aaab").args([&format!("tls://{address}"), "events"]).output().unwrap().status.success());
}

#[test]
fn what_clients_were_told_is_durable_survives_kills_once_and_in_order() {
    let seed: u64 = std::env::var("SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random);
    let kills: u32 = std::env::var("KILLS").ok().and_then(|s| s.parse().ok()).unwrap_or(200);
    println!("SEED={seed} KILLS={kills}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut server = Server::start(&[]);
    // So much that chunks are written, and files of the log used again, between the kills.
    let hammer = Hammer::start(&server.ports, seed, 16 << 10);
    let stop = server.folder.path().join("stop");
    let mut writer = is_here("pravega").then(|| server.wheel(&["hammer", stop.to_str().unwrap()]).stdout(Stdio::piped()).spawn().unwrap());
    let mut lines = writer.as_mut().map(|w| BufReader::new(w.stdout.take().unwrap()).lines());
    let mut durable = || -> Option<u64> { lines.as_mut()?.next()?.ok()?.strip_prefix("durable ")?.parse().ok() };
    let mut told = 0;
    for kill in 0..kills {
        // Somewhere after the first things that this life has made durable, in the middle of others.
        let (few, before) = (rng.random_range(1..10), hammer.told());
        for _ in 0..if writer.is_some() { few } else { 0 } {
            told = durable().unwrap_or_else(|| panic!("seed {seed}: the Python client ended after kill {kill}"));
        }
        until(&format!("seed {seed}: writes after kill {kill}"), || hammer.told() >= before + few);
        std::thread::sleep(Duration::from_micros(rng.random_range(0..30_000)));
        server.kill_and_restart(&[]);
    }
    std::fs::write(&stop, "").unwrap();
    while let Some(n) = durable() {
        told = n;
    }
    if let Some(writer) = &mut writer {
        assert!(writer.wait().unwrap().success());
        assert!(told > 0);
        run(&mut server.wheel(&["audit", &told.to_string()]));
    }
    hammer.stop().audit();
    let chunks = std::fs::read_dir(server.folder.path().join("streams/chunks/streams")).unwrap().flat_map(|log| std::fs::read_dir(log.unwrap().path().join("chunks")).unwrap());
    let chunks = chunks.flat_map(|segment| std::fs::read_dir(segment.unwrap().path()).unwrap()).count();
    println!("{chunks} chunks");
    assert!(kills < 200 || chunks > 0, "nothing was flushed");
}

#[test]
fn slow_a_client_of_pravegas_own_waits_out_a_full_log() {
    if !is_here("pravega") {
        return;
    }
    let mut s3 = S3::start();
    let server = Server::start_with(&["--backlog", "2MB"], &s3.environment(SECRET));
    let stop = server.folder.path().join("stop");
    let mut writer = server.wheel(&["hammer", stop.to_str().unwrap()]).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(writer.stdout.take().unwrap()).lines();
    // How many it knows to be durable, and since when.
    let told = Arc::new(Mutex::new((0u64, Instant::now())));
    let telling = told.clone();
    let teller = std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            *telling.lock().unwrap() = (line.strip_prefix("durable ").unwrap().parse().unwrap(), Instant::now());
        }
    });
    let count = || told.lock().unwrap().0;
    until("the first events", || count() > 0);
    s3.down();
    let before = count();
    until("the writer to be held", || told.lock().unwrap().1.elapsed() > Duration::from_secs(5));
    let held = count();
    assert!(held > before + 1000, "the log takes what has room: {} events", held - before);
    // Longer than clients wait for an answer as a rule.
    std::thread::sleep(Duration::from_secs(40));
    assert!(writer.try_wait().unwrap().is_none(), "it waits and does not fail");
    assert_eq!(count(), held);
    s3.up();
    until("the writer to go on", || count() > held + 1000);
    std::fs::write(&stop, "").unwrap();
    assert!(writer.wait().unwrap().success());
    teller.join().unwrap();
    run(&mut server.wheel(&["audit", &count().to_string()]));
}

#[test]
fn a_reader_stays_with_a_stream_that_is_scaled() {
    if !is_here("pravega") {
        return;
    }
    let server = Server::start(&[]);
    stays(|arguments| server.cli(arguments), server.wheel(&["stay", "500"]));
}

/// Scales a stream under its reader, which is a client of Pravega's that prints what it reads.
fn stays(cli: impl Fn(&[&str]) -> Command, mut reader: Command) {
    run(&mut cli(&["create", "s/scaled", "--segments", "1"]));
    let append = |from: u64, count: u64| {
        let mut child = cli(&["append", "s/scaled", "--key", "one"]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        (from..from + count).for_each(|n| writeln!(input, "{n}").unwrap());
        drop(input);
        assert!(child.wait().unwrap().success());
    };
    let mut reader = reader.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(reader.stdout.take().unwrap()).lines().map(|l| l.unwrap());
    assert_eq!(lines.next().unwrap(), "reading");
    for (i, segments) in ["3", "1", "4", "2"].into_iter().enumerate() {
        append(i as u64 * 100, 100);
        run(&mut cli(&["scale", "s/scaled", segments]));
    }
    append(400, 100);
    // What lies in segments that a scale has replaced is read by whoever comes later, too, when nothing is behind it yet.
    run(&mut cli(&["scale", "s/scaled", "3"]));
    assert_eq!(run(&mut cli(&["read", "s/scaled"])).lines().map(|l| l.parse().unwrap()).collect::<Vec<u64>>(), (0..500).collect::<Vec<_>>());
    let seen: Vec<u64> = lines.map(|l| l.parse().unwrap()).collect();
    assert_eq!(seen, (0..500).collect::<Vec<_>>());
    assert!(reader.wait().unwrap().success());
}

#[test]
fn what_grows_is_read_up_to_a_whole_event() {
    let server = Server::start(&[]);
    run(&mut server.cli(&["create", "s/grows"]));
    let mut child = server.cli(&["append", "s/grows", "--key", "k"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || {
        // Of odd lengths, so that what is read at once ends in the middle of them.
        let pieces = (0..200_000).map(|n: u32| format!("{n:0width$}\n", width = 20 + n as usize % 101)).collect::<Vec<_>>();
        pieces.chunks(1000).for_each(|some| lines.write_all(some.concat().as_bytes()).unwrap());
    });
    let mut read = Vec::new();
    while child.try_wait().unwrap().is_none() {
        let lines = run(&mut server.cli(&["read", "s/grows"]));
        lines.lines().enumerate().for_each(|(n, line)| assert_eq!(line.parse(), Ok(n)));
        read.push(lines.lines().count());
    }
    writer.join().unwrap();
    assert!(read.len() > 3 && read.is_sorted(), "{read:?}");
    assert_eq!(run(&mut server.cli(&["read", "s/grows"])).lines().count(), 200_000);
}

#[test]
fn a_tail_is_what_comes_from_now_on() {
    let server = Server::start(&[]);
    run(&mut server.cli(&["create", "s/tailed"]));
    let append = |line: &str| {
        let mut child = server.cli(&["append", "s/tailed", "--key", "k"]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        writeln!(child.stdin.take().unwrap(), "{line}").unwrap();
        assert!(child.wait().unwrap().success());
    };
    append("before");
    let mut tail = server.cli(&["tail", "s/tailed", "-o", "json"]).stdout(Stdio::piped()).spawn().unwrap();
    let (heard, lines) = std::sync::mpsc::channel();
    let output = BufReader::new(tail.stdout.take().unwrap());
    std::thread::spawn(move || output.lines().for_each(|line| drop(heard.send(line.unwrap()))));
    // When it has begun is not told.
    let first = (0..).find_map(|n| {
        append(&format!("now {n}"));
        lines.recv_timeout(Duration::from_millis(500)).ok()
    });
    let told: serde_json::Value = serde_json::from_str(&first.unwrap()).unwrap();
    assert!(told["event"].as_str().unwrap().starts_with("now ") && told["offset"].as_u64() >= Some(14), "{told}");
    append("one more");
    assert!(std::iter::from_fn(|| lines.recv_timeout(PATIENCE).ok()).any(|line| line.contains("one more")));
    tail.kill().unwrap();
    tail.wait().unwrap();
}

#[test]
fn what_is_older_than_is_kept_goes_by_itself() {
    let server = Server::start(&[]);
    run(&mut server.cli(&["create", "s/brief", "--keep", "5s"]));
    run(&mut server.cli(&["create", "s/whole"]));
    let append = |stream: &str, line: &str| {
        let mut child = server.cli(&["append", stream, "--key", "k"]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        writeln!(child.stdin.take().unwrap(), "{line}").unwrap();
        assert!(child.wait().unwrap().success());
    };
    let began = Instant::now();
    append("s/brief", "old");
    append("s/whole", "old");
    until("the old one to go", || {
        let there = run(&mut server.cli(&["read", "s/brief"]));
        assert!(there.contains("old") || began.elapsed() >= Duration::from_secs(5), "gone after {:?}", began.elapsed());
        append("s/brief", "new");
        !there.contains("old")
    });
    assert!(run(&mut server.cli(&["read", "s/brief"])).ends_with("new\n"));
    assert_eq!(run(&mut server.cli(&["read", "s/whole"])), "old\n");
}

#[test]
fn an_append_that_is_stopped_says_what_is_durable() {
    let server = Server::start(&[]);
    run(&mut server.cli(&["create", "s/stopped"]));
    let mut child = server.cli(&["append", "s/stopped", "--key", "k"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.as_mut().unwrap().write_all(b"first\nsecond\n").unwrap();
    until("both lines", || run(&mut server.cli(&["read", "s/stopped"])) == "first\nsecond\n");
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    // Its input is still open.
    let input = child.stdin.take();
    let ended = child.wait_with_output().unwrap();
    drop(input);
    assert_eq!(ended.status.code(), Some(130));
    assert_eq!(String::from_utf8_lossy(&ended.stderr), "error: stopped by a signal; lines 1 to 2 are durable\n");
}

#[test]
fn the_command_line_writes_reads_and_tells() {
    let server = Server::start(&[]);
    let made: serde_json::Value = serde_json::from_str(&run(&mut server.cli(&["create", "s/lines", "--segments", "2", "-o", "json"]))).unwrap();
    assert_eq!(made, serde_json::json!({"stream": "s/lines", "created": true, "segments": 2}));
    let again = server.cli(&["create", "s/lines"]).output().unwrap();
    assert_eq!(again.status.code(), Some(73), "it exists already");
    let mut child = server.cli(&["append", "s/lines", "--key", "k"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"first\nsecond\nthird\n").unwrap();
    let told = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&told.stdout), "s/lines: 3 events\n");
    assert_eq!(run(&mut server.cli(&["read", "s/lines"])), "first\nsecond\nthird\n");
    let stat: serde_json::Value = serde_json::from_str(&run(&mut server.cli(&["stat", "s/lines", "-o", "json"]))).unwrap();
    let lengths: u64 = stat["segments"].as_array().unwrap().iter().map(|s| s["length"].as_u64().unwrap()).sum();
    assert_eq!(lengths, 3 * 8 + 16);
    run(&mut server.cli(&["truncate", "s/lines"]));
    assert_eq!(run(&mut server.cli(&["read", "s/lines"])), "");
    let mut child = server.cli(&["append", "s/lines"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"fourth\n").unwrap();
    assert_eq!(String::from_utf8_lossy(&child.wait_with_output().unwrap().stdout), "s/lines: 1 event\n");
    // Of several epochs.
    run(&mut server.cli(&["scale", "s/lines", "3"]));
    run(&mut server.cli(&["seal", "s/lines"]));
    assert!(run(&mut server.cli(&["ls", "s"])).contains("sealed"));
    // What a sealed stream keeps can be forgotten, too.
    assert_eq!(run(&mut server.cli(&["read", "s/lines"])), "fourth\n");
    run(&mut server.cli(&["truncate", "s/lines"]));
    assert_eq!(run(&mut server.cli(&["read", "s/lines"])), "");
    run(&mut server.cli(&["rm", "s/lines"]));
    let gone = server.cli(&["stat", "s/lines"]).output().unwrap();
    assert_eq!(gone.status.code(), Some(66), "it does not exist");
    let told = |command: &mut Command, code: i32, why: &str| {
        let told = command.stdin(Stdio::null()).output().unwrap();
        let text = String::from_utf8_lossy(&told.stderr);
        assert!(told.status.code() == Some(code) && text.contains(why), "{:?}: {text}", told.status);
    };
    told(&mut server.cli(&["append", "s/lines"]), 66, "`cloudskin stream create s/lines` makes it");
    told(&mut server.cli(&["create", "s/a b"]), 64, "use 1 to 255 letters, digits, '.', '-' and '_'");
    // A port where nobody is, and one that is not a controller's.
    let at = |address: &str| {
        let mut command = Command::new(CLOUDSKIN);
        command.args(["stream", "ls", "--server", address]);
        command
    };
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    told(&mut at(&free), 69, &format!("no stream server answers at {free}: Connection refused"));
    told(&mut at(&server.ports[1]), 69, "this is not a controller's port");
    let web = Server::start(&["--http", "127.0.0.1:0"]);
    let address = http(&web.folder.path().join("streams"));
    told(&mut at(address.trim_start_matches("http://")), 69, "what answers there is not a controller");
    // More segments than a command follows: it says so, and what only asks about them is quick.
    run(&mut server.cli(&["create", "s/wide", "--segments", "5000"]));
    told(&mut server.cli(&["append", "s/wide"]), 73, "has 5000 segments");
    run(&mut server.cli(&["scale", "s/wide", "4999"]));
    let began = Instant::now();
    assert_eq!(run(&mut server.cli(&["stat", "s/wide"])).matches(" yes ").count(), 5000);
    run(&mut server.cli(&["truncate", "s/wide"]));
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    // Behind a place in the middle of an event there is none.
    run(&mut server.cli(&["create", "s/middle"]));
    let mut child = server.cli(&["append", "s/middle", "--key", "k"]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"1\n2\n3\n").unwrap();
    assert!(child.wait().unwrap().success());
    run(&mut server.cli(&["truncate", "s/middle", "--at", "0=11"]));
    told(&mut server.cli(&["read", "s/middle"]), 64, "no whole event from 11 on, where its last 16 bytes lie");
    // Longer than an event may be.
    let mut child = server.cli(&["create", "s/long"]);
    run(&mut child);
    let mut child = server.cli(&["append", "s/long"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    // It may have ended before it has taken all.
    let _ = input.write_all(&vec![b'x'; 9 << 20]);
    drop(input);
    let out = child.wait_with_output().unwrap();
    assert!(out.status.code() == Some(64) && String::from_utf8_lossy(&out.stderr).contains("an event has at most 8388608 bytes, and this one has 9437184"), "{out:?}");
}

#[test]
fn the_command_line_says_what_a_stream_keeps_and_when_it_scales() {
    let server = Server::start(&[]);
    let stat = || serde_json::from_str::<serde_json::Value>(&run(&mut server.cli(&["stat", "s/kept", "-o", "json"]))).unwrap();
    let refused = |args: &[&str], why: &str| {
        let told = server.cli(args).output().unwrap();
        let text = String::from_utf8_lossy(&told.stderr).into_owned();
        assert!(!told.status.success() && text.contains(why), "{args:?}: {text}");
    };
    run(&mut server.cli(&["create", "s/kept", "--keep", "20s", "--byte-rate", "2MiB"]));
    let told = stat();
    assert_eq!((&told["kept_ms"], &told["bytes_per_second_and_segment"], &told["segments_min"]), (&20_000.into(), &(2 << 20).into(), &1.into()));
    assert!(run(&mut server.cli(&["stat", "s/kept"])).contains("scales at 2.0 MiB/s and segment, with 1 segment at least, and keeps what is younger than 20s"));
    let append = |text: &str| {
        let mut child = server.cli(&["append", "s/kept", "--key", "k"]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success());
    };
    // Where the stream was at a time is noted, as it has something to forget.
    let line = format!("{}\n", "x".repeat(600));
    append(&line.repeat(3));
    for span in ["1h", "100000d"] {
        refused(&["truncate", "s/kept", "--older-than", span], "it is not known where s/kept was");
    }
    until("the stream's place to be known", || server.cli(&["truncate", "s/kept", "--older-than", "0"]).output().unwrap().status.success() && stat()["segments"][0]["start"] == 1824);
    // What is not named stays.
    assert_eq!(run(&mut server.cli(&["set", "s/kept", "--keep-bytes", "5GB"])), "s/kept: scales at 2.0 MiB/s and segment, with 1 segment at least; keeps the last 4.7 GiB\n");
    let told = stat();
    assert_eq!((&told["kept_bytes"], &told["kept_ms"], &told["bytes_per_second_and_segment"]), (&5_000_000_000u64.into(), &serde_json::Value::Null, &(2 << 20).into()));
    run(&mut server.cli(&["set", "s/kept", "--rate", "100", "--segments", "2", "--keep-all"]));
    let told = stat();
    assert_eq!((&told["kept_bytes"], &told["events_per_second_and_segment"], &told["segments_min"]), (&serde_json::Value::Null, &100.into(), &2.into()));
    run(&mut server.cli(&["set", "s/kept", "--fixed"]));
    assert_eq!(stat()["events_per_second_and_segment"], serde_json::Value::Null);
    refused(&["set", "s/kept", "--segments", "3"], "stream scale s/kept");
    refused(&["set", "s/kept"], "say what to change");
    refused(&["create", "s/kept"], "stream set s/kept");
    refused(&["set", "s/none", "--keep", "1h"], "s/none does not exist");
    // One that was told to have two segments at least may have got them; now it has one.
    run(&mut server.cli(&["scale", "s/kept", "1"]));
    append("one\ntwo\nthree\n");
    let lines = run(&mut server.cli(&["read", "s/kept", "-o", "json"]));
    let second: serde_json::Value = serde_json::from_str(lines.lines().find(|l| l.contains("two")).unwrap()).unwrap();
    let (segment, offset) = (second["segment"].as_i64().unwrap(), second["offset"].as_u64().unwrap());
    refused(&["truncate", "s/kept", "--at", &format!("{segment}={}", offset + 1000)], &format!("and none at {}", offset + 1000));
    refused(&["truncate", "s/kept", "--at", "77=1"], "each key of s/kept once");
    run(&mut server.cli(&["truncate", "s/kept", "--at", &format!("{segment}={offset}")]));
    assert_eq!(run(&mut server.cli(&["read", "s/kept"])), "two\nthree\n");
}

pub fn curl(url: &str) -> Vec<u8> {
    Command::new("curl").args(["-s", "--max-time", "20", url]).output().unwrap().stdout
}

pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < end, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The address of a server's HTTP, from what it left in its folder.
pub fn http(folder: &Path) -> String {
    let ready: serde_json::Value = serde_json::from_slice(&std::fs::read(folder.join("ready.json")).unwrap()).unwrap();
    format!("http://{}", ready["http"].as_str().unwrap())
}

#[test]
fn slow_a_lost_folder_is_replaced_by_what_long_term_storage_has() {
    let storage = tempfile::tempdir().unwrap();
    let long_term = format!("file:{}", storage.path().display());
    let mut server = Server::start(&["--long-term", &long_term, "--http", "127.0.0.1:0"]);
    run(&mut server.cli(&["create", "s/kept", "--segments", "2"]));
    let lines: String = (0..60_000).map(|n| format!("{n} {}\n", "x".repeat(100))).collect();
    let mut child = server.cli(&["append", "s/kept", "--key", "k"]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
    let folder = server.folder.path().join("streams");
    let told = || serde_json::from_slice::<serde_json::Value>(&curl(&format!("{}/v1/streams", http(&folder)))).unwrap_or_default();
    until("the log to be flushed", || told()["streams"][0]["log_bytes"] == 0 && told()["streams"][0]["bytes"].as_u64() > Some(6_000_000));
    let log = std::fs::read_dir(storage.path().join("streams")).unwrap().next().unwrap().unwrap().path();
    // What is under way there has a longer name.
    let newest = || std::fs::read_dir(log.join("manifest")).unwrap().map(|e| e.unwrap().file_name()).filter(|name| name.len() == 16).max();
    let before = newest();
    until("the next manifest", || newest() != before);
    server.child.kill().unwrap();
    server.child.wait().unwrap();
    // A folder that is not empty is not overwritten.
    let again = Command::new(CLOUDSKIN).args(["stream", "serve", "--restore", "--long-term", &long_term, "--controller", "127.0.0.1:0", "--segments", "127.0.0.1:0", "--folder"]).arg(&folder).output().unwrap();
    assert!(!again.status.success() && String::from_utf8_lossy(&again.stderr).contains("--restore"), "{}", String::from_utf8_lossy(&again.stderr));
    std::fs::remove_dir_all(&folder).unwrap();
    (server.child, server.ports) = serve(server.folder.path(), &server.ports, &["--long-term", &long_term, "--restore"]);
    let read = run(&mut server.cli(&["read", "s/kept"]));
    assert!(read == lines, "{} lines of {} are there", read.lines().count(), lines.lines().count());
}

#[test]
fn up_serves_streams_at_the_edge_and_the_dashboard_shows_them() {
    let platform = Platform::start_all(|up| {
        up.args(["--streams", "127.0.0.1:0"]);
    });
    platform.ok(&["stream", "create", "road/camera", "--segments", "2"]);
    let append = |text: &str| {
        let mut child = platform.command(&["stream", "append", "road/camera", "--key", "k"]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success());
    };
    append("one\ntwo\n");
    assert_eq!(platform.ok(&["stream", "read", "road/camera"]), "one\ntwo\n");
    if let Some(browser) = Browser::start() {
        let log = std::fs::read_to_string(platform.data().join("up.json")).unwrap();
        let up: serde_json::Value = serde_json::from_str(&log).unwrap();
        let token = std::fs::read_to_string(platform.data().join("hub/token")).unwrap();
        browser.open(&format!("http://{}/?token={}", up["http"].as_str().unwrap(), token.trim()));
        browser.sees("[data-stream='road/camera']", &["road/camera", "2", "22 B"]);
        browser.sees("#streams-tiers", &["wait for long-term storage"]);
        // Its segments one by one: as wide as their keys, each with its rate.
        let keys = "[data-stream='road/camera'] .keys";
        browser.sees(keys, &["/s"]);
        let parts = browser.js(&format!("return [...document.querySelectorAll(\"{keys} li\")].map((e) => [e.getAttribute('aria-label'), e.offsetWidth])"));
        let (first, second) = (&parts[0], &parts[1]);
        assert!(parts.as_array().unwrap().len() == 2 && first[0].as_str().unwrap().starts_with("segment 0.#epoch.0, keys from 0.000 to 0.500: "), "{parts}");
        assert!(second[0].as_str().unwrap().starts_with("segment 1.#epoch.0, keys from 0.500 to 1.000: "), "{parts}");
        assert!(first[1].as_i64().unwrap().abs_diff(second[1].as_i64().unwrap()) <= 2 && first[1].as_i64() > Some(20), "{parts}");
        browser.picture("streams");
    }
    // It comes back at the same address, with what was acknowledged.
    platform.kill("streams");
    until("the stream server to be back", || platform.command(&["stream", "read", "road/camera"]).output().unwrap().stdout == b"one\ntwo\n");
    append("three\n");
    assert_eq!(platform.ok(&["stream", "read", "road/camera"]), "one\ntwo\nthree\n");
    let plain = Platform::start();
    assert!(plain.pid_now("hub").is_some() && !std::fs::read_to_string(plain.data().join("up.json")).unwrap().contains("\"streams\":\""), "none was asked for");
}

/// A stream server that asks who is there, and hubs that say so or don't.
#[test]
fn a_hub_shows_the_streams_of_a_server_that_asks_for_users() {
    let folder = tempfile::tempdir().unwrap();
    let users = folder.path().join("users").display().to_string();
    let password = ("CLOUDSKIN_STREAM_PASSWORD", "1111_aaaa");
    run(Command::new(CLOUDSKIN).args(["stream", "user", &users, "ada", "--allow", "prn::*,READ_UPDATE"]).env(password.0, password.1));
    let server = Server::start(&["--http", "127.0.0.1:0", "--users", &users]);
    run(server.cli(&["create", "road/camera", "--user", "ada"]).env(password.0, password.1));
    let at = http(&server.folder.path().join("streams"));
    let hub = |name: &str, options: &[&str]| {
        let data = folder.path().join(name);
        let mut command = Command::new(CLOUDSKIN);
        command.args(["hub", "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--streams", at.strip_prefix("http://").unwrap(), "--data"]).arg(&data).args(options);
        let mut child = command.env(password.0, password.1).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let said = first_line(&mut child);
        let address = said.strip_prefix("hub ready: HTTP on ").and_then(|s| s.split(',').next()).unwrap_or_else(|| panic!("{said}")).to_string();
        let bearer = format!("Authorization: Bearer {}", std::fs::read_to_string(data.join("hub/token")).unwrap().trim());
        let answer = Command::new("curl").args(["-s", "-w", "%{http_code}", "-H", &bearer]).arg(format!("http://{address}/v1/streams")).output().unwrap().stdout;
        drop(Ends(child));
        String::from_utf8(answer).unwrap()
    };
    let shown = hub("with", &["--streams-user", "ada"]);
    assert!(shown.ends_with("200") && shown.contains("road/camera"), "{shown}");
    // That is not as if the hub's own token were wrong, and it says what to do.
    let refused = hub("without", &[]);
    assert!(refused.ends_with("503") && refused.contains("--streams-user"), "{refused}");
}

#[test]
fn slow_an_s3_that_goes_away_is_waited_for_and_has_everything_in_the_end() {
    let mut s3 = S3::start();
    let mut server = Server::start_with(&["--http", "127.0.0.1:0"], &s3.environment(SECRET));
    run(&mut server.cli(&["create", "s/kept"]));
    let append = |server: &Server, from: u32| {
        let lines: String = (from..from + 50_000).map(|n| format!("{n} {}\n", "x".repeat(100))).collect();
        let mut child = server.cli(&["append", "s/kept", "--key", "k"]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success());
        lines
    };
    let folder = server.folder.path().join("streams");
    let told = || serde_json::from_slice::<serde_json::Value>(&curl(&format!("{}/v1/streams", http(&folder)))).unwrap_or_default();
    let mut all = append(&server, 0);
    until("the first part to be in S3", || told()["long_term"]["flushed_bytes"].as_u64() > Some(4 << 20));
    s3.down();
    all += &append(&server, 50_000);
    until("S3 to be missed", || told()["long_term"]["away"] == true);
    let figures = String::from_utf8_lossy(&curl(&format!("{}/metrics", http(&folder)))).into_owned();
    assert!(figures.contains("cloudskin_streams_long_term_away 1"), "{figures}");
    // While it is away, even a restart loses nothing; what S3 has can't be read, and the rest can.
    server.child.kill().unwrap();
    server.child.wait().unwrap();
    (server.child, server.ports) = serve_with(server.folder.path(), &server.ports, &["--http", "127.0.0.1:0"], &s3.environment(SECRET));
    all += &append(&server, 100_000);
    s3.up();
    until("everything to be in S3", || told()["long_term"]["away"] == false && told()["streams"][0]["log_bytes"] == 0);
    assert!(run(&mut server.cli(&["read", "s/kept"])) == all, "other bytes than were written");
    // And from S3 alone, once a manifest says so: after this one there is nothing new to tell.
    let quiet = || String::from_utf8_lossy(&curl(&format!("{}/metrics", http(&folder)))).lines().find_map(|l| l.strip_prefix("cloudskin_streams_manifest_age_seconds ")?.parse::<f64>().ok());
    let flushed = Instant::now();
    until("a manifest", || quiet().is_some_and(|age| age < flushed.elapsed().as_secs_f64()));
    server.child.kill().unwrap();
    server.child.wait().unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    (server.child, server.ports) = serve_with(server.folder.path(), &server.ports, &["--restore"], &s3.environment(SECRET));
    assert!(run(&mut server.cli(&["read", "s/kept"])) == all, "other bytes than before");
}

#[test]
fn a_program_between_two_streams() {
    let server = Server::start(&[]);
    run(&mut server.cli(&["create", "s/in"]));
    let mut child = server.cli(&["append", "s/in", "--key", "k"]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"one\ntwo\nthree\n").unwrap();
    assert!(child.wait().unwrap().success());
    // A program that answers at once, while the stream goes on, and ends by itself.
    let mut quick = server.cli(&["map", "s/in", "s/first", "--all"]);
    assert_eq!(run(quick.args(["--", "head", "-n", "2"])), "s/first: 2 events\n");
    assert_eq!(run(&mut server.cli(&["read", "s/first"])), "one\ntwo\n");
    // One that keeps everything to itself until there is no more.
    run(&mut server.cli(&["seal", "s/in"]));
    run(server.cli(&["map", "s/in", "s/loud", "--all"]).args(["--", "tr", "a-z", "A-Z"]));
    assert_eq!(run(&mut server.cli(&["read", "s/loud"])), "ONE\nTWO\nTHREE\n");
    // Bytes with lengths, which `cat` gives back as they are; and the program's own exit code.
    run(server.cli(&["map", "s/in", "s/same", "--all", "--binary"]).args(["--", "cat"]));
    assert_eq!(run(&mut server.cli(&["read", "s/same"])), "one\ntwo\nthree\n");
    let failed = server.cli(&["map", "s/in", "s/none", "--all"]).args(["--", "sh", "-c", "exit 7"]).output().unwrap();
    assert_eq!(failed.status.code(), Some(7));
    let missing = server.cli(&["map", "s/in", "s/none"]).args(["--", "no-such-program"]).output().unwrap();
    assert_eq!(missing.status.code(), Some(66), "{}", String::from_utf8_lossy(&missing.stderr));
}

/// Ends with the test.
pub struct Ends(pub Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The first line that a program prints, which must not take long.
pub fn first_line(child: &mut Child) -> String {
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    line.trim().to_string()
}
