//! Streams as their users have them: `cloudskin stream serve` as a process, Pravega's own Python client, real kills.

use crate::platform::{CLOUDSKIN, root, run};
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A stream server. Dropped, it ends.
struct Server {
    folder: tempfile::TempDir,
    child: Child,
    /// Of the controller and of the segment store.
    ports: [String; 2],
}

/// Starts a server at these addresses and gives the ones that it has.
fn serve(folder: &Path, ports: &[String; 2], options: &[&str]) -> (Child, [String; 2]) {
    let mut command = Command::new(CLOUDSKIN);
    command.args(["stream", "serve", "--controller", &ports[0], "--segments", &ports[1], "--folder"]).arg(folder.join("streams"));
    command.args(options).env_remove("CLOUDSKIN_GEDS__PERSIST");
    let mut child = command.stdout(Stdio::piped()).stderr(std::fs::File::options().create(true).append(true).open(folder.join("log")).unwrap()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let log = || std::fs::read_to_string(folder.join("log")).unwrap_or_default();
    let words: Vec<&str> = line.split([' ', ',', ';', '\n']).collect();
    let after = |word: &str| words.iter().position(|w| *w == word).map(|i| words[i + 2].to_string()).unwrap_or_else(|| panic!("no server: {line:?}\n{}", log()));
    (child, [after("controller"), after("segments")])
}

impl Server {
    fn start(options: &[&str]) -> Server {
        let folder = tempfile::tempdir().unwrap();
        let any = ["127.0.0.1:0".to_string(), "127.0.0.1:0".to_string()];
        let (child, ports) = serve(folder.path(), &any, options);
        Server { folder, child, ports }
    }

    /// `kill -9`, and again at the same addresses.
    fn kill_and_restart(&mut self, options: &[&str]) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let began = Instant::now();
        (self.child, self.ports) = serve(self.folder.path(), &self.ports, options);
        assert!(began.elapsed() < Duration::from_secs(30), "recovery took {:?}", began.elapsed());
    }

    fn wheel(&self, arguments: &[&str]) -> Command {
        let python = root().join(".setup/venv/bin/python");
        let mut command = Command::new(python);
        command.arg(root().join("tests/streams/wheel.py")).arg(&self.ports[0]).args(arguments).env_remove("PYTHONPATH");
        command
    }

    fn cli(&self, arguments: &[&str]) -> Command {
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

#[test]
fn pravegas_python_client_does_all_that_it_can() {
    let server = Server::start(&[]);
    run(&mut server.wheel(&["events,transactions,bytes,large,cuts,end"]));
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
fn what_the_python_client_was_told_is_durable_survives_kills_once_and_in_order() {
    let seed: u64 = std::env::var("SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random);
    let kills: u32 = std::env::var("KILLS").ok().and_then(|s| s.parse().ok()).unwrap_or(15);
    println!("SEED={seed} KILLS={kills}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut server = Server::start(&[]);
    let stop = server.folder.path().join("stop");
    let mut writer = server.wheel(&["hammer", stop.to_str().unwrap()]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(writer.stdout.take().unwrap()).lines();
    let mut durable = || -> Option<u64> { lines.next()?.ok()?.strip_prefix("durable ")?.parse().ok() };
    let mut told = 0;
    for kill in 0..kills {
        // Somewhere after the first event that this life has made durable, in the middle of others.
        for _ in 0..rng.random_range(1..10) {
            told = durable().unwrap_or_else(|| panic!("seed {seed}: the writer ended after kill {kill}"));
        }
        std::thread::sleep(Duration::from_micros(rng.random_range(0..30_000)));
        server.kill_and_restart(&[]);
    }
    std::fs::write(&stop, "").unwrap();
    while let Some(n) = durable() {
        told = n;
    }
    assert!(writer.wait().unwrap().success());
    assert!(told > 0);
    run(&mut server.wheel(&["audit", &told.to_string()]));
}

#[test]
fn a_reader_stays_with_a_stream_that_is_scaled() {
    let server = Server::start(&[]);
    run(&mut server.cli(&["create", "s/scaled", "--segments", "1"]));
    let append = |from: u64, count: u64| {
        let mut child = server.cli(&["append", "s/scaled", "--key", "one"]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        (from..from + count).for_each(|n| writeln!(input, "{n}").unwrap());
        drop(input);
        assert!(child.wait().unwrap().success());
    };
    let mut reader = server.wheel(&["stay", "500"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(reader.stdout.take().unwrap()).lines().map(|l| l.unwrap());
    assert_eq!(lines.next().unwrap(), "reading");
    for (i, segments) in ["3", "1", "4", "2"].into_iter().enumerate() {
        append(i as u64 * 100, 100);
        run(&mut server.cli(&["scale", "s/scaled", segments]));
    }
    append(400, 100);
    let seen: Vec<u64> = lines.map(|l| l.parse().unwrap()).collect();
    assert_eq!(seen, (0..500).collect::<Vec<_>>());
    assert!(reader.wait().unwrap().success());
}

#[test]
fn the_command_line_writes_reads_and_tells() {
    let server = Server::start(&[]);
    run(&mut server.cli(&["create", "s/lines", "--segments", "2"]));
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
    run(&mut server.cli(&["seal", "s/lines"]));
    assert!(run(&mut server.cli(&["ls", "s"])).contains("sealed"));
    run(&mut server.cli(&["rm", "s/lines"]));
    let gone = server.cli(&["stat", "s/lines"]).output().unwrap();
    assert_eq!(gone.status.code(), Some(66), "it does not exist");
}
