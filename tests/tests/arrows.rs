//! `ARCHITECTURE.md` says which crate may depend on which, and where things are; this holds it against the tree.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The words in backticks of a table cell.
fn ticked(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// The crates' manifests: name and the workspace crates that they depend on, for the program and for its tests.
fn manifests() -> BTreeMap<String, BTreeSet<String>> {
    let workspace = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let members = workspace.split_once("members = [").unwrap().1.split_once(']').unwrap().0;
    let paths: Vec<&str> = members.split('"').skip(1).step_by(2).collect();
    let read = |path: &&str| {
        let text = std::fs::read_to_string(root().join(path).join("Cargo.toml")).unwrap();
        let name = text.split_once("name = \"").unwrap().1.split_once('"').unwrap().0.to_string();
        (name, text)
    };
    let texts: Vec<(String, String)> = paths.iter().map(read).collect();
    let names: BTreeSet<&str> = texts.iter().map(|(n, _)| n.as_str()).collect();
    let uses = |text: &str| {
        text.lines()
            .filter_map(|l| l.split(['.', ' ', '=']).next())
            .filter(|d| names.contains(d) && text.contains(&format!("\n{d}.workspace")))
            .map(str::to_string)
            .collect()
    };
    texts.iter().map(|(n, t)| (n.clone(), uses(t))).collect()
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
    let manifests = manifests();
    assert!(manifests["cells"].contains("mpi"), "the manifests are read: {manifests:?}");
    for (name, uses) in manifests {
        let may = allowed.get(name.as_str()).unwrap_or_else(|| panic!("crate {name} is missing in ARCHITECTURE.md's table of arrows"));
        for used in uses {
            assert!(may.contains(&used.as_str()), "{name} → {used} is not an arrow of ARCHITECTURE.md: draw it there first, or remove it");
        }
    }
}

#[test]
fn the_code_map_leads_somewhere() {
    let page = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let map = page.split_once("## Code map").unwrap().1.split_once("\n## ").unwrap().0;
    let mut folder = PathBuf::new();
    let mut seen = 0;
    for path in map.lines().flat_map(ticked) {
        // A bare file name stands in the folder of the path before it; a bare word is a module, not a path.
        let full = if path.starts_with("crates/") { root().join(path) } else { folder.join(path) };
        if path.contains('/') || path.ends_with(".rs") {
            assert!(full.exists(), "ARCHITECTURE.md points to {path}, which is not there");
            folder = if full.is_dir() { full } else { full.parent().unwrap().to_path_buf() };
            seen += 1;
        }
    }
    assert!(seen > 10);
}

#[test]
fn only_cells_names_the_engine() {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|e| e == "rs") && std::fs::read_to_string(&path).unwrap().contains("wasmtime::") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&root().join("crates"), &mut found);
    assert!(!found.is_empty());
    for path in found {
        assert!(path.components().any(|c| c.as_os_str() == "cells"), "{} names wasmtime", path.display());
    }
}

#[test]
fn the_list_of_mpi_calls_is_true() {
    let page = std::fs::read_to_string(root().join("docs/reference/mpi.md")).unwrap();
    let listed: BTreeSet<&str> = page.split_once("```\n").unwrap().1.lines().filter(|l| l.starts_with("MPI_")).collect();
    let host = root().join("crates/execution/cells/src");
    let parts = std::fs::read_dir(host.join("mpi_host")).unwrap().map(|e| e.unwrap().path());
    let source: String = parts.chain([host.join("mpi_host.rs")]).map(|p| std::fs::read_to_string(p).unwrap()).collect();
    let offered: BTreeSet<&str> = source
        .split('"')
        .skip(1)
        .step_by(2)
        .filter(|s| s.starts_with("MPI_") && s.bytes().all(|b| b.is_ascii_alphabetic() || b == b'_'))
        .collect();
    assert_eq!(listed, offered);
}
