//! One installation for one test: `cloudskin up` with a hub, an edge and a cloud, in a folder that goes away with it.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// The program under test.
pub const CLOUDSKIN: &str = env!("CARGO_BIN_EXE_cloudskin");
/// The longest that anything in a test may take.
pub const PATIENCE: Duration = Duration::from_secs(120);

pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// The Landsat scene that the set-up downloads.
pub fn scene() -> PathBuf {
    let scene = root().join(".setup/data/L7_ETMs.tif");
    assert!(scene.exists(), "{} is missing: run setup/setup.sh test", scene.display());
    scene
}

/// Runs a command to its end and gives its standard output; anything but success is a failure of the test.
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}; `setup/setup.sh test` installs what tests need"));
    assert!(output.status.success(), "{command:?}: {}\n{}", output.status, both(&output));
    String::from_utf8(output.stdout).unwrap()
}

pub fn both(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Compiles C files as a user does, once per name, and gives the module's path.
pub fn compile(name: &str, sources: &[PathBuf]) -> PathBuf {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(|e| e.into_inner());
    // A folder of its own: other tests of the workspace keep modules of the same names beside it.
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("end_to_end");
    std::fs::create_dir_all(&folder).unwrap();
    let module = folder.join(name).with_extension("wasm");
    // Another compiler makes another module, as another source does.
    let made_of = sources.iter().map(PathBuf::as_path).chain([Path::new(CLOUDSKIN)]);
    let newest = made_of.map(|s| s.metadata().unwrap().modified().unwrap()).max().unwrap();
    if !module.metadata().and_then(|m| m.modified()).is_ok_and(|made| made > newest) {
        run(Command::new(CLOUDSKIN).args(["cc", "-O3", "-o"]).arg(&module).args(sources).arg("-lm"));
    }
    module
}

/// `examples/vegetation` as a module.
pub fn vegetation() -> PathBuf {
    compile("vegetation", &c_files(&root().join("examples/vegetation")))
}

/// A program of `tests/programs` as a module.
pub fn program(name: &str) -> PathBuf {
    compile(name, &[root().join("tests/programs").join(name).with_extension("c")])
}

/// The same C files for this machine, as Open MPI has them, once per name.
pub fn native(name: &str, sources: &[PathBuf], flags: &[&str]) -> PathBuf {
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-native"));
    run(Command::new("mpicc").args(flags).arg("-o").arg(&program).args(sources).arg("-lm"));
    program
}

/// `mpirun` of a native program, to which arguments can be added. More ranks than cores may wait for each other, so they yield.
pub fn mpirun(np: u32, program: &Path) -> Command {
    let mut command = Command::new("mpirun");
    command.args(["--allow-run-as-root", "--oversubscribe", "--mca", "mpi_yield_when_idle", "1", "-np", &np.to_string()]).arg(program);
    command
}

/// The C files of a folder.
pub fn c_files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).filter(|p| p.extension().is_some_and(|e| e == "c")).collect();
    files.sort();
    files
}

/// A running installation. Dropped, it ends.
pub struct Platform {
    folder: tempfile::TempDir,
    up: Child,
}

impl Platform {
    /// Without a stream server, which writes its log's first file with zeros.
    pub fn start() -> Platform {
        Platform::start_with(|_| {})
    }

    /// `change` may add options and environment to `cloudskin up`.
    pub fn start_with(change: impl FnOnce(&mut Command)) -> Platform {
        Platform::start_all(|up| change(up.arg("--no-streams")))
    }

    /// With all that a user gets.
    pub fn start_all(change: impl FnOnce(&mut Command)) -> Platform {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(CLOUDSKIN);
        command.args(["up", "--http", "127.0.0.1:0", "--data"]).arg(folder.path()).stdout(Stdio::null()).stderr(Stdio::null());
        change(&mut command);
        let up = command.spawn().unwrap();
        let mut platform = Platform { folder, up };
        platform.wait_up();
        platform
    }

    fn wait_up(&mut self) {
        let end = Instant::now() + PATIENCE;
        while !self.data().join("up.json").exists() {
            if let Some(status) = self.up.try_wait().unwrap() {
                panic!("`cloudskin up` ended with {status}\n{}", self.logs());
            }
            assert!(Instant::now() < end, "`cloudskin up` is not up\n{}", self.logs());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn data(&self) -> &Path {
        self.folder.path()
    }

    /// What hub and agents have written to their logs.
    pub fn logs(&self) -> String {
        let read = |name: &str| std::fs::read_to_string(self.data().join("logs").join(name)).unwrap_or_default();
        ["hub", "edge", "cloud", "streams"].map(|n| format!("--- {n}\n{}", read(&format!("{n}.log")))).concat()
    }

    /// The process id of `up`, `hub`, `edge` or `cloud`.
    pub fn pid(&self, part: &str) -> i32 {
        let text = std::fs::read_to_string(self.data().join("up.json")).unwrap();
        serde_json::from_str::<Value>(&text).unwrap()["pids"][part].as_i64().unwrap_or_else(|| panic!("no {part} in {text}")) as i32
    }

    /// The process id of a part, if it lives at this moment.
    pub fn pid_now(&self, part: &str) -> Option<i32> {
        let pid = self.pid(part);
        // A process that has died and was not waited for yet has no command line.
        std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|c| !c.is_empty()).then_some(pid)
    }

    /// `kill -9` of a part. `up` starts it again after a second.
    pub fn kill(&self, part: &str) {
        run(Command::new("kill").args(["-9", &self.pid(part).to_string()]));
    }

    /// `cloudskin <args>` for this installation, not started yet.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(CLOUDSKIN);
        command.args(args).env("CLOUDSKIN_DATA", self.data()).env_remove("CLOUDSKIN_HUB");
        command
    }

    /// What `cloudskin <args>` prints; it must succeed.
    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.command(args).output().unwrap();
        assert!(output.status.success(), "cloudskin {args:?}: {}\n{}\n{}", output.status, both(&output), self.logs());
        String::from_utf8(output.stdout).unwrap()
    }

    /// What `cloudskin <args>` says on standard error, and its exit code; it must fail.
    pub fn fails(&self, args: &[&str]) -> (String, i32) {
        let output = self.command(args).output().unwrap();
        assert!(!output.status.success(), "cloudskin {args:?} succeeded: {}", both(&output));
        (String::from_utf8_lossy(&output.stderr).into_owned(), output.status.code().unwrap_or(-1))
    }

    /// What `cloudskin <args> -o json` prints.
    pub fn json(&self, args: &[&str]) -> Value {
        // In front, because after `--` it would be the program's.
        let text = self.ok(&[&["-o", "json"], args].concat());
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("cloudskin {args:?} -o json: {e}: {text}"))
    }

    /// Starts a job in the background and gives its name. `options` come before the module, `args` are the program's own.
    pub fn submit(&self, module: &Path, options: &[&str], args: &[&str]) -> String {
        let head = ["run", "--detach"];
        let module = module.to_str().unwrap();
        let job = self.json(&[&head[..], options, &[module], &["--"], args].concat());
        job["id"].as_str().unwrap_or_else(|| panic!("no id in {job}")).to_string()
    }

    pub fn job(&self, id: &str) -> Value {
        self.json(&["describe", "job", id])
    }

    /// Waits until a job has ended, and gives it.
    pub fn ended(&self, id: &str) -> Value {
        let mut job = Value::Null;
        self.wait(&format!("{id} to end"), |p| {
            job = p.job(id);
            !["pending", "running"].contains(&job["state"].as_str().unwrap())
        });
        job
    }

    /// Waits until a job has succeeded.
    pub fn succeeded(&self, id: &str) -> Value {
        let job = self.ended(id);
        assert_eq!(job["state"], "succeeded", "{job:#}\n{}\n{}", self.ok(&["logs", id]), self.logs());
        job
    }

    /// Waits for something, which is asked about often.
    pub fn wait(&self, what: &str, mut done: impl FnMut(&Platform) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !done(self) {
            assert!(Instant::now() < end, "waited {PATIENCE:?} in vain for {what}\n{}", self.logs());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        // A clean end first: `up` ends its children; they end with it in any case.
        let _ = Command::new("kill").arg(self.up.id().to_string()).status();
        let end = Instant::now() + Duration::from_secs(10);
        while matches!(self.up.try_wait(), Ok(None)) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.up.kill();
        let _ = self.up.wait();
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
    }
}
