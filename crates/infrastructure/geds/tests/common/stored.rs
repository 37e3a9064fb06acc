//! Folders as text, so that what an earlier version has written can lie beside the tests.
//!
//! ```text
//! file PATH LENGTH        then its bytes in hexadecimal, 48 a line, without the zeros at its end
//! ```

use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

fn files(folder: &Path, into: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() { files(&path, into) } else { into.push(path) }
    }
}

/// All files below these folders, but for locks and sockets.
pub fn text_of(root: &Path, folders: &[&str]) -> String {
    let mut out = String::new();
    let mut all = Vec::new();
    folders.iter().for_each(|folder| files(&root.join(folder), &mut all));
    for path in all {
        if path.file_name().is_some_and(|name| name == "lock") {
            continue;
        }
        let bytes = fs::read(&path).unwrap();
        writeln!(out, "file {} {}", path.strip_prefix(root).unwrap().display(), bytes.len()).unwrap();
        let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        for line in bytes[..end].chunks(48) {
            line.iter().for_each(|byte| write!(out, "{byte:02x}").unwrap());
            out.push('\n');
        }
    }
    out
}

/// The same files, below another folder.
pub fn restore(text: &str, root: &Path) {
    let mut open: Option<(PathBuf, u64, Vec<u8>)> = None;
    let close = |open: Option<(PathBuf, u64, Vec<u8>)>| {
        if let Some((path, len, bytes)) = open {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, bytes).unwrap();
            fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(len).unwrap();
        }
    };
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        if let Some(file) = line.strip_prefix("file ") {
            let (path, len) = file.rsplit_once(' ').unwrap();
            close(open.replace((root.join(path), len.parse().unwrap(), Vec::new())));
        } else if let Some((_, _, bytes)) = &mut open {
            bytes.extend((0..line.len()).step_by(2).map(|at| u8::from_str_radix(&line[at..at + 2], 16).unwrap()));
        }
    }
    close(open);
}
