//! `ARCHITECTURE.md` says which crate may depend on which, where things are, and who does no input or output; this holds it against the tree.
//!
//! What a crate depends on is read from its manifest as cargo reads it ([`Workspace`]); what it names, from its sources ([`source`]).

#[path = "arrows/source.rs"]
mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};
use toml::{Table, Value};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// The words in backticks of a table cell.
fn ticked(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// `folder/path` without `.` and `..`, whether it exists or not.
fn joined(folder: &Path, path: &str) -> PathBuf {
    let mut whole = PathBuf::new();
    for part in folder.join(path).components() {
        match part {
            Component::ParentDir => drop(whole.pop()),
            Component::CurDir => {}
            part => whole.push(part),
        }
    }
    whole
}

/// What is in the manifests: of each crate its folder and what it depends on, for the program, its tests and its build script, on any
/// machine. Packages go by their own names, whatever a manifest calls them.
#[derive(Debug, Default)]
struct Workspace {
    folders: BTreeMap<String, PathBuf>,
    uses: BTreeMap<String, BTreeSet<String>>,
}

impl Workspace {
    /// `read` gives the text of the manifest in a folder.
    fn read(root: &Path, read: impl Fn(&Path) -> String) -> Workspace {
        let parse = |folder: &Path| -> Table { read(folder).parse().unwrap_or_else(|e| panic!("{}: {e}", folder.join("Cargo.toml").display())) };
        let top = parse(root);
        for redirected in ["patch", "replace"] {
            assert!(!top.contains_key(redirected), "Cargo.toml has a table {redirected:?}, which this test does not follow");
        }
        let workspace = top["workspace"].as_table().unwrap();
        let members = workspace["members"].as_array().unwrap().iter().map(|m| m.as_str().unwrap());
        let manifests: Vec<(PathBuf, Table)> = members
            .map(|member| {
                assert!(!member.contains('*'), "member {member:?} is a pattern, which this test does not follow");
                let folder = joined(root, member);
                (folder.clone(), parse(&folder))
            })
            .collect();
        let name = |manifest: &Table| manifest["package"]["name"].as_str().unwrap().to_string();
        let folders: BTreeMap<String, PathBuf> = manifests.iter().map(|(folder, m)| (name(m), folder.clone())).collect();
        let shared = workspace.get("dependencies").and_then(Value::as_table).cloned().unwrap_or_default();
        let package = |key: &String, value: &Value, folder: &Path| -> String {
            let inherited = value.get("workspace").and_then(Value::as_bool) == Some(true);
            let (value, folder) = if inherited { (shared.get(key).unwrap_or_else(|| panic!("{key} is not in the workspace")), root) } else { (value, folder) };
            match value.get("path").and_then(Value::as_str) {
                Some(path) => {
                    let to = joined(folder, path);
                    let member = folders.iter().find(|(_, folder)| **folder == to).map(|(name, _)| name.clone());
                    member.unwrap_or_else(|| panic!("{key} is in {}, which is no member of the workspace", to.display()))
                }
                None => value.get("package").and_then(Value::as_str).unwrap_or(key).to_string(),
            }
        };
        let uses = manifests.iter().map(|(folder, manifest)| {
            let targets = manifest.get("target").and_then(Value::as_table).into_iter().flat_map(Table::values).filter_map(Value::as_table);
            let tables = std::iter::once(manifest).chain(targets).flat_map(|t| {
                ["dependencies", "dev-dependencies", "build-dependencies", "dev_dependencies", "build_dependencies"].map(|kind| t.get(kind).and_then(Value::as_table))
            });
            let uses = tables.flatten().flatten().map(|(key, value)| package(key, value, folder));
            (name(manifest), uses.collect())
        });
        let uses = uses.collect();
        Workspace { folders, uses }
    }

    fn here() -> Workspace {
        Workspace::read(&root(), |folder| std::fs::read_to_string(folder.join("Cargo.toml")).unwrap_or_else(|e| panic!("{}: {e}", folder.display())))
    }

    /// Dependencies between crates of the workspace.
    fn arrows(&self) -> impl Iterator<Item = (&String, &String)> {
        self.uses.iter().flat_map(|(name, uses)| uses.iter().map(move |used| (name, used))).filter(|(_, used)| self.folders.contains_key(*used))
    }

    /// The sources of a crate: all, or those of its library and program only.
    fn sources(&self, name: &str, tests: bool) -> Vec<PathBuf> {
        fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                let path = entry.path();
                match path.is_dir() {
                    true => walk(&path, found),
                    false if path.extension().is_some_and(|e| e == "rs") => found.push(path),
                    false => {}
                }
            }
        }
        let mut found = Vec::new();
        walk(&self.folders[name].join(if tests { "" } else { "src" }), &mut found);
        assert!(!found.is_empty(), "{name} has no source");
        found
    }
}

#[test]
fn dependencies_follow_the_arrows() {
    let page = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let table = page.split_once("| crate | may depend on |").expect("the table of arrows").1;
    let allowed: BTreeMap<&str, Vec<&str>> = table
        .lines()
        .skip(2)
        .take_while(|l| l.starts_with('|'))
        .map(|row| {
            let cells: Vec<&str> = row.split('|').collect();
            (ticked(cells[1])[0], ticked(cells[2]))
        })
        .collect();
    let workspace = Workspace::here();
    assert!(workspace.uses["cells"].contains("mpi"), "the manifests are read: {workspace:#?}");
    for name in workspace.folders.keys() {
        assert!(allowed.contains_key(name.as_str()), "crate {name} is missing in ARCHITECTURE.md's table of arrows");
    }
    for (name, used) in workspace.arrows() {
        assert!(allowed[name.as_str()].contains(&used.as_str()), "{name} → {used} is not an arrow of ARCHITECTURE.md: draw it there first, or remove it");
    }
}

/// The ways to write a dependency that cargo knows, each in a workspace of two crates, `a` and `b`.
#[test]
fn an_arrow_is_seen_however_it_is_written() {
    let check = |shared: &str, dependency: &str, expected: &[&str]| {
        let read = |folder: &Path| match folder.file_name().and_then(|n| n.to_str()) {
            Some("a") => format!("[package]\nname = \"a\"\n{dependency}\n"),
            Some("bee") => "[package]\nname = \"b\"\n[dependencies]\n".to_string(),
            _ => format!("[workspace]\nmembers = [\"x/a\", \"y/bee\"]\n[workspace.dependencies]\n{shared}\n"),
        };
        let workspace = Workspace::read(Path::new("/w"), read);
        let seen: Vec<&str> = workspace.arrows().map(|(from, to)| (from == "a").then_some(to.as_str()).unwrap()).collect();
        assert_eq!(seen, expected, "{shared} and {dependency}");
    };
    let path = "b = { path = \"y/bee\" }";
    check(path, "[dependencies]\nb.workspace = true", &["b"]);
    check(path, "[dependencies]\nb = { workspace = true, features = [\"x\"] }", &["b"]);
    check(path, "[dependencies.b]\nworkspace = true", &["b"]);
    check(path, "[dev-dependencies]\n\"b\" = { workspace = true }", &["b"]);
    check(path, "[build-dependencies]\nb.workspace = true", &["b"]);
    check(path, "[target.'cfg(unix)'.dependencies]\nb.workspace = true", &["b"]);
    check("", "[dependencies]\nb = { path = \"../../y/bee\" }", &["b"]);
    check("", "[dependencies]\nother = { path = \"../../y/./bee\", package = \"b\" }", &["b"]);
    check("other = { path = \"y/bee\", package = \"b\" }", "[dependencies]\nother.workspace = true", &["b"]);
    check(path, "[dependencies]\nc = \"1\"", &[]);
    check(path, "# b.workspace = true\n[features]\nb = []", &[]);
}

#[test]
fn the_code_map_leads_somewhere() {
    let page = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let map = page.split_once("## Code map").unwrap().1.split_once("\n## ").unwrap().0;
    let mut folder = PathBuf::new();
    let mut seen = 0;
    for path in map.lines().flat_map(ticked) {
        // A bare file name stands in the folder of the path before it; a bare word is a module, not a path.
        let full = if ["crates/", "bindings/", "tests/", "setup/", "docs/", "guests/"].iter().any(|top| path.starts_with(top)) { root().join(path) } else { folder.join(path) };
        if path.contains('/') || path.ends_with(".rs") {
            assert!(full.exists(), "ARCHITECTURE.md points to {path}, which is not there");
            folder = if full.is_dir() { full } else { full.parent().unwrap().to_path_buf() };
            seen += 1;
        }
    }
    assert!(seen > 10);
}

/// Invariant 5: only `cells` names the engine, in manifests and in sources; tests count as well.
#[test]
fn only_cells_names_the_engine() {
    let workspace = Workspace::here();
    let engine = |name: &str| name == "wasmtime" || name.starts_with("wasmtime-") || name.starts_with("wasmtime_");
    for (name, uses) in &workspace.uses {
        assert_eq!(uses.iter().any(|u| engine(u)), name == "cells", "{name} depends on the engine, or `cells` doesn't any more: {uses:?}");
        let named = |path: &PathBuf| source::words(&std::fs::read_to_string(path).unwrap()).iter().any(|w| engine(w));
        let naming: Vec<PathBuf> = workspace.sources(name, true).into_iter().filter(named).collect();
        assert_eq!(naming.is_empty(), name != "cells", "sources of {name} that name the engine: {naming:?}");
    }
}

/// Invariant 5: these decide and compute; what reads, writes, connects or starts something is elsewhere.
#[test]
fn who_does_no_input_or_output_names_none() {
    const OUTSIDE: [&str; 12] = [
        "std::fs", "std::net", "std::process", "std::os", "std::env", "std::io::stdin", "std::io::stdout", "std::io::stderr", "tokio", "libc", "async_std", "mio",
    ];
    let workspace = Workspace::here();
    for name in ["mpi", "learning"] {
        for path in workspace.sources(name, false) {
            let text = std::fs::read_to_string(&path).unwrap();
            for named in source::paths(&source::without_tests(&text)) {
                let outside = OUTSIDE.iter().find(|o| named == **o || named.strip_prefix(**o).is_some_and(|rest| rest.starts_with("::")));
                assert!(outside.is_none(), "{} names {named}, and {name} does no input or output", path.display());
            }
        }
    }
}

#[test]
fn the_list_of_mpi_calls_is_true() {
    let page = std::fs::read_to_string(root().join("docs/reference/mpi.md")).unwrap();
    let listed: BTreeSet<&str> = page.split_once("```\n").unwrap().1.lines().filter(|l| l.starts_with("MPI_")).collect();
    let host = root().join("crates/execution/cells/src");
    let parts = std::fs::read_dir(host.join("mpi_host")).unwrap().map(|e| e.unwrap().path());
    let source: String = parts.chain([host.join("mpi_host.rs")]).map(|p| std::fs::read_to_string(p).unwrap()).collect();
    // What is made of other calls is linked into the program.
    let linked = std::fs::read_to_string(root().join("guests/runtime.c")).unwrap();
    let written = linked.lines().filter_map(|l| Some(l.split_once("int MPI_")?.1.split_once('(')?.0));
    let large = linked.lines().filter_map(|l| l.strip_prefix("LARGE(MPI_").or_else(|| l.strip_prefix("LARGE_V(MPI_"))?.split_once(',')).map(|(name, _)| name);
    let linked: Vec<String> = written.chain(large).map(|name| format!("MPI_{name}")).collect();
    let offered: BTreeSet<&str> = source
        .split('"')
        .skip(1)
        .step_by(2)
        .filter(|s| s.starts_with("MPI_") && s.bytes().all(|b| b.is_ascii_alphabetic() || b == b'_') && s.bytes().any(|b| b.is_ascii_lowercase()))
        .chain(linked.iter().map(String::as_str))
        .collect();
    assert_eq!(listed, offered);
}
