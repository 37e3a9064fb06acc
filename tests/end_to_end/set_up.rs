//! The set-up where something can't be had: it says what, and what to do.
//!
//! It runs in a copy of its folder in which nothing has been installed yet, as if on a machine from which no registry can be reached. Its apt
//! works on folders of the test's own and finds no package anywhere, so nothing of this machine is changed.

use crate::platform::root;
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

    /// Runs it with these in its environment; it must fail, and its last line must have these parts. Gives that line.
    fn fails(&self, more: &[(&str, &Path)], parts: &[&str]) -> String {
        let mut command = Command::new("bash");
        command.arg(self.tree().join("setup/setup.sh")).current_dir(self.tree());
        for name in ["CLOUDSKIN_ZIG", "CLOUDSKIN_SCENE"] {
            command.env_remove(name);
        }
        command.envs(["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "PIP_INDEX_URL"].map(|name| (name, NOWHERE)));
        command.envs([("PIP_EXTRA_INDEX_URL", ""), ("PIP_FIND_LINKS", ""), ("PIP_NO_CACHE_DIR", "1"), ("PIP_RETRIES", "0"), ("PIP_CONFIG_FILE", "/dev/null")]);
        command.env("APT_CONFIG", self.tree().join("apt.conf")).envs(more.iter().copied());
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{text}");
        let last = text.lines().last().unwrap_or_default();
        for part in parts {
            assert!(last.contains(part), "{part:?} is not in the last line of: {text}");
        }
        assert!(last.starts_with("setup: "), "{text}");
        assert!(!self.tree().join(".setup/stamp.run").exists(), "it does not think that it is done");
        last.to_string()
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
