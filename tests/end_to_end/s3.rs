//! A real S3 server behind the object store.
//!
//! The server is SeaweedFS on loopback ports of the test's own; what lies in it is read by curl, which knows nothing of CloudSkin.

use crate::platform::{PATIENCE, Platform, program, root, run, scene, vegetation};
use rand::{RngCore, SeedableRng, rngs::StdRng};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

const BUCKET: &str = "spilled";
const ACCESS: &str = "testkey";
pub const SECRET: &str = "testsecret";

/// An S3 server. Dropped, it ends.
pub struct S3 {
    folder: tempfile::TempDir,
    /// Of master, volume, filer and S3, and of each one's gRPC.
    ports: [u16; 8],
    server: Option<Child>,
}

impl S3 {
    /// With one empty bucket.
    pub fn start() -> S3 {
        let held = [(); 8].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let mut s3 = S3 { folder: tempfile::tempdir().unwrap(), ports: held.map(|l| l.local_addr().unwrap().port()), server: None };
        let users = format!(
            r#"{{"identities":[{{"name":"admin","credentials":[{{"accessKey":"{ACCESS}","secretKey":"{SECRET}"}}],"actions":["Admin","Read","List","Tagging","Write"]}}]}}"#
        );
        std::fs::write(s3.folder.path().join("users.json"), users).unwrap();
        s3.up();
        s3.curl(&["-X", "PUT"], "");
        s3
    }

    pub fn up(&mut self) {
        let weed = root().join(".setup/venv/bin/weed");
        assert!(weed.exists(), "{} is missing: run setup/setup.sh test", weed.display());
        let folder = self.folder.path();
        let path = |name: &str| folder.join(name).display().to_string();
        let [master, volume, filer, s3, grpc @ ..] = self.ports;
        std::fs::create_dir_all(folder.join("data")).unwrap();
        let log = std::fs::File::create(folder.join("log")).unwrap();
        let mut command = Command::new(weed);
        // It would otherwise listen on every address of the machine and report to its makers.
        command.args(["server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false", "-s3", "-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.iam=false"]);
        command.args(["-master.volumeSizeLimitMB=64", "-volume.max=16"]);
        command.arg(format!("-dir={}", path("data"))).arg(format!("-s3.config={}", path("users.json")));
        command.arg(format!("-filer.localSocket={}", path("filer"))).arg(format!("-s3.localSocket={}", path("s3")));
        command.args([format!("-master.port={master}"), format!("-volume.port={volume}"), format!("-filer.port={filer}"), format!("-s3.port={s3}")]);
        command.args([format!("-master.port.grpc={}", grpc[0]), format!("-volume.port.grpc={}", grpc[1]), format!("-filer.port.grpc={}", grpc[2]), format!("-s3.port.grpc={}", grpc[3])]);
        self.server = Some(command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap());
        let end = Instant::now() + PATIENCE;
        let status = format!("{}/status", self.endpoint());
        while !Command::new("curl").args(["-fsS", "--noproxy", "*", "-m", "5", "-o", "/dev/null", &status]).stderr(Stdio::null()).status().expect("curl is there").success() {
            assert!(Instant::now() < end, "the S3 server is not up\n{}", std::fs::read_to_string(folder.join("log")).unwrap());
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }

    /// `kill -9`: asked to end, it takes its time.
    pub fn down(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.kill().unwrap();
            server.wait().unwrap();
        }
    }

    /// SIGSTOP, or on with it: connections are taken by the kernel, and nobody answers.
    fn hang(&self, hang: bool) {
        let pid = self.server.as_ref().unwrap().id().to_string();
        run(Command::new("kill").args([if hang { "-STOP" } else { "-CONT" }, &pid]));
    }

    /// The headers of an object.
    fn head(&self, key: &str) -> String {
        self.curl(&["-I"], &format!("/{key}")).to_lowercase()
    }

    fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports[3])
    }

    /// A signed request by curl for `path` in the bucket.
    fn curl(&self, options: &[&str], path: &str) -> String {
        let url = format!("{}/{BUCKET}{path}", self.endpoint());
        run(Command::new("curl").args(["-fsS", "--noproxy", "*", "-m", "60", "--aws-sigv4", "aws:amz:us-east-1:s3", "--user", &format!("{ACCESS}:{SECRET}")]).args(options).arg(url))
    }

    /// The keys of all objects in the bucket.
    fn keys(&self) -> Vec<String> {
        let listing = self.curl(&[], "?list-type=2");
        listing.split("<Key>").skip(1).map(|rest| rest.split("</Key>").next().unwrap().to_string()).collect()
    }

    /// The bytes of all objects in the bucket, shortest first.
    fn contents(&self) -> Vec<Vec<u8>> {
        let file = self.folder.path().join("got");
        let mut contents: Vec<Vec<u8>> = self.keys().iter().map(|key| {
            self.curl(&["-o", file.to_str().unwrap()], &format!("/{key}"));
            std::fs::read(&file).unwrap()
        }).collect();
        contents.sort_by_key(Vec::len);
        contents
    }

    /// What a process needs in its environment to use the bucket.
    pub fn environment(&self, secret: &str) -> [(&'static str, String); 5] {
        [
            ("CLOUDSKIN_GEDS__PERSIST", format!("s3:{BUCKET}")),
            ("CLOUDSKIN_GEDS__S3_ENDPOINT", self.endpoint()),
            ("CLOUDSKIN_GEDS__S3_ALLOW_HTTP", "true".into()),
            ("CLOUDSKIN_GEDS__S3_ACCESS_KEY", ACCESS.into()),
            ("CLOUDSKIN_GEDS__S3_SECRET_KEY", secret.into()),
        ]
    }

    /// A platform that spills to this server.
    fn platform(&self, secret: &str) -> Platform {
        Platform::start_with(|up| {
            up.envs(self.environment(secret));
        })
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        self.down();
    }
}

/// Puts `content` at the edge under `object`.
fn put(platform: &Platform, object: &str, content: &[u8]) {
    let file = platform.data().join("to-put");
    std::fs::write(&file, content).unwrap();
    platform.ok(&["store", "put", file.to_str().unwrap(), object, "--site", "edge"]);
}

fn get(platform: &Platform, object: &str) -> Vec<u8> {
    let file = platform.data().join("got");
    platform.ok(&["store", "get", object, file.to_str().unwrap()]);
    std::fs::read(file).unwrap()
}

/// Which sites have `bucket/key`, and whether the persistency tier has it.
fn whereabouts(platform: &Platform, bucket: &str, key: &str) -> (Vec<String>, bool) {
    let listing = platform.json(&["store", "ls", bucket]);
    let object = listing.as_array().unwrap().iter().find(|o| o["key"] == key).unwrap_or_else(|| panic!("no {key} in {listing:#}"));
    let sites = object["sites"].as_array().unwrap().iter().map(|s| s.as_str().unwrap().to_string()).collect();
    (sites, object["persisted"].as_bool().unwrap())
}

/// Bytes of the files below a folder.
fn disk_bytes(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().map(|e| e.unwrap());
    entries.map(|e| if e.file_type().unwrap().is_dir() { disk_bytes(&e.path()) } else { e.metadata().map_or(0, |m| m.len()) }).sum()
}

#[test]
fn a_spilled_object_is_an_ordinary_s3_object_and_is_read_from_there() {
    let s3 = S3::start();
    let platform = s3.platform(SECRET);
    // The largest goes up in two parts.
    let mut large = vec![0; 20 << 20];
    StdRng::seed_from_u64(3).fill_bytes(&mut large);
    let objects: [(&str, &[u8]); 3] = [("empty", b""), ("small", b"small"), ("large", &large)];
    let edge = platform.data().join("edge/objects");
    let before = disk_bytes(&edge);
    for (key, content) in objects {
        put(&platform, &format!("data/{key}"), content);
        assert_eq!(whereabouts(&platform, "data", key), (vec!["edge".to_string()], false));
    }
    assert!(disk_bytes(&edge) >= before + large.len() as u64);
    assert!(s3.keys().is_empty(), "{:?}", s3.keys());

    for (key, _) in objects {
        platform.ok(&["store", "spill", &format!("data/{key}")]);
        assert_eq!(whereabouts(&platform, "data", key), (vec![], true));
    }
    // Each says what it is of, also the one that went up in parts.
    let mut described: Vec<String> = s3.keys().iter().map(|key| {
        let head = s3.head(key);
        let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(&format!("x-amz-meta-{name}: "))).unwrap_or_else(|| panic!("no {name} in {head}")).to_string();
        format!("{}/{}", field("bucket"), field("key"))
    }).collect();
    described.sort();
    assert_eq!(described, ["data/empty", "data/large", "data/small"]);
    assert!(s3.contents() == objects.map(|(_, content)| content.to_vec()), "what S3 has is not what was put: {:?}", s3.keys());
    platform.wait("the edge to free its copies", |_| disk_bytes(&edge) < before + 1024);

    for (key, content) in objects {
        assert!(get(&platform, &format!("data/{key}")) == content, "{key} came back with other content");
    }
    platform.ok(&["store", "rm", "data/large"]);
    platform.wait("S3 to have one object less", |_| s3.keys().len() == 2);
}

#[test]
fn a_cell_reads_what_only_s3_has() {
    let s3 = S3::start();
    let platform = s3.platform(SECRET);
    platform.ok(&["store", "put", scene().to_str().unwrap(), "scenes/scene.tif", "--site", "edge"]);
    let run = |site: &str, out: &str| {
        let job = platform.submit(&vegetation(), &["--np", "2", "--site", site], &["--rounds", "1", "/scenes/scene.tif", out]);
        platform.succeeded(&job);
        get(&platform, &format!("{}/ndvi_mean.tif", out.trim_start_matches('/')))
    };
    let here = run("edge", "/here");
    platform.ok(&["store", "spill", "scenes/scene.tif"]);
    assert_eq!(whereabouts(&platform, "scenes", "scene.tif"), (vec![], true));
    assert!(run("cloud", "/there") == here, "the cloud computed something else from the spilled scene");
}

#[test]
fn without_s3_nothing_is_lost() {
    let mut s3 = S3::start();
    let platform = s3.platform(SECRET);
    put(&platform, "data/kept", b"the only copy");
    put(&platform, "data/gone", b"spilled before the outage");
    platform.ok(&["store", "spill", "data/gone"]);
    s3.down();

    let (said, code) = platform.fails(&["store", "spill", "data/kept"]);
    assert!(said.contains("persistency tier") && said.lines().count() == 1, "{said}");
    assert_eq!(code, 69, "another time it may succeed: {said}");
    assert_eq!(whereabouts(&platform, "data", "kept"), (vec!["edge".to_string()], false));
    assert_eq!(get(&platform, "data/kept"), b"the only copy");
    let (said, _) = platform.fails(&["store", "get", "data/gone", platform.data().join("got").to_str().unwrap()]);
    assert!(said.contains("persistency tier"), "{said}");
    // What doesn't need it goes on.
    platform.succeeded(&platform.submit(&program("ring"), &["--np", "2", "--site", "edge"], &["10"]));

    s3.up();
    assert_eq!(get(&platform, "data/gone"), b"spilled before the outage");
    platform.ok(&["store", "spill", "data/kept"]);
    assert_eq!(whereabouts(&platform, "data", "kept"), (vec![], true));
    assert_eq!(get(&platform, "data/kept"), b"the only copy");
}

/// The server is stopped in the middle of work: it takes connections and says nothing. What is written meanwhile is here, and goes there when the server goes on.
#[test]
fn an_s3_that_hangs_is_given_a_rest_and_catches_up() {
    let s3 = S3::start();
    let platform = Platform::start_with(|up| {
        up.envs(s3.environment(SECRET)).env("CLOUDSKIN_GEDS__MODE", "write-behind").env("CLOUDSKIN_GEDS__PERSIST_TIMEOUT", "2s");
    });
    let up: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(platform.data().join("up.json")).unwrap()).unwrap();
    let metrics = || {
        let token = std::fs::read_to_string(up["token_file"].as_str().unwrap()).unwrap();
        let url = format!("http://{}/v1/sites/edge/metrics", up["http"].as_str().unwrap());
        run(Command::new("curl").args(["-fsS", "--noproxy", "*", "-m", "60", "-H", &format!("Authorization: Bearer {}", token.trim()), &url]))
    };
    let figure = |name: &str| {
        let text = metrics();
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse::<u64>().ok()).unwrap_or_else(|| panic!("no {name} in {text}"))
    };
    put(&platform, "data/before", b"before");
    platform.wait("the first upload", |_| whereabouts(&platform, "data", "before").1);
    s3.hang(true);
    let contents: Vec<Vec<u8>> = (1..=6u8).map(|n| vec![n; 100_000 * n as usize]).collect();
    for (n, content) in contents.iter().enumerate() {
        put(&platform, &format!("data/{n}"), content);
    }
    platform.wait("the store to be given a rest", |_| figure("cloudskin_geds_spill_breaker_open") == 1);
    assert_eq!(figure("cloudskin_geds_spill_queue"), 6);
    for (n, content) in contents.iter().enumerate() {
        assert_eq!(whereabouts(&platform, "data", &n.to_string()), (vec!["edge".to_string()], false));
        assert!(get(&platform, &format!("data/{n}")) == *content, "{n} is here");
    }
    s3.hang(false);
    platform.wait("all to be uploaded", |_| figure("cloudskin_geds_spill_queue") == 0 && figure("cloudskin_geds_spill_breaker_open") == 0);
    let mut there = s3.contents();
    assert_eq!(there.remove(0), b"before");
    assert!(there == contents, "what S3 has is not what was put: {:?}", s3.keys());
}

#[test]
fn a_wrong_secret_frees_nothing_and_is_not_printed() {
    let s3 = S3::start();
    let platform = s3.platform("not-the-secret");
    put(&platform, "data/kept", b"here");
    let (said, _) = platform.fails(&["store", "spill", "data/kept"]);
    assert!(said.contains("data/kept") && said.contains("persistency tier"), "{said}");
    assert!(!format!("{said}{}", platform.logs()).contains("not-the-secret"), "{said}");
    assert_eq!(whereabouts(&platform, "data", "kept"), (vec!["edge".to_string()], false));
    assert_eq!(get(&platform, "data/kept"), b"here");
}

#[test]
fn what_others_have_put_into_s3_is_read_without_import() {
    let s3 = S3::start();
    let there = |key: &str, content: &[u8]| {
        let file = s3.folder.path().join("to-put");
        std::fs::write(&file, content).unwrap();
        s3.curl(&["-T", file.to_str().unwrap()], &format!("/{key}"));
    };
    let mut large = vec![0; 20 << 20];
    StdRng::seed_from_u64(4).fill_bytes(&mut large);
    there("landsat/2024/large", &large);
    there("landsat/2024/small", b"first");
    there("landsat/scene.tif", &std::fs::read(scene()).unwrap());
    there("other/small", b"not bound");
    let platform = Platform::start_with(|up| {
        up.envs(s3.environment(SECRET)).env("CLOUDSKIN_GEDS__BUCKETS", r#"{ scenes = { bind = "landsat" } }"#);
    });
    let listing = platform.json(&["store", "ls", "scenes"]);
    let listed: Vec<_> = listing.as_array().unwrap().iter().map(|object| object["key"].as_str().unwrap()).collect();
    assert_eq!(listed, ["2024/large", "2024/small", "scene.tif"]);
    assert_eq!(platform.json(&["store", "stat", "scenes/2024/large"])["size"], large.len());
    assert!(get(&platform, "scenes/2024/large") == large);
    assert_eq!(get(&platform, "scenes/2024/small"), b"first");
    there("landsat/2024/small", b"second");
    assert_eq!(get(&platform, "scenes/2024/small"), b"second", "it was written over there");
    // A program reads it as a file, at any site; what it writes is its own.
    let job = platform.submit(&vegetation(), &["--np", "2", "--site", "cloud"], &["--rounds", "1", "/scenes/scene.tif", "/out"]);
    platform.succeeded(&job);
    assert!(get(&platform, "out/ndvi_mean.tif").len() > 1000);
    let (said, _) = platform.fails(&["store", "rm", "scenes/2024/small"]);
    assert!(said.contains("landsat/2024/small"), "{said}");
    assert_eq!(s3.keys().iter().filter(|key| key.starts_with("landsat/")).count(), 3);
}
