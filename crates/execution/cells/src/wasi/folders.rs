//! Folders that a cell made, or took the last file out of: an object store has none that hold nothing, so the cell remembers them until it removes them.
//!
//! They are kept outside of the cell's memory, which is why their paths have a bound.

use super::{Errno, Result};
use std::collections::BTreeSet;

/// Bytes of all paths, with [`OVERHEAD`] for each.
const BYTES_MAX: usize = 16 << 20;
/// About what a path takes in the set beside its bytes.
const OVERHEAD: usize = 64;

/// Mount and path of each.
#[derive(Default)]
pub(super) struct Folders {
    made: BTreeSet<(usize, String)>,
    bytes: usize,
}

impl Folders {
    /// `Nospc` when a cell has made too many.
    pub fn add(&mut self, mount: usize, path: String) -> Result<()> {
        let bytes = path.len() + OVERHEAD;
        if self.bytes + bytes > BYTES_MAX {
            return Err(Errno::Nospc);
        }
        if self.made.insert((mount, path)) {
            self.bytes += bytes;
        }
        Ok(())
    }

    /// Whether it was there.
    pub fn remove(&mut self, mount: usize, path: &str) -> bool {
        let there = self.made.remove(&(mount, path.to_string()));
        if there {
            self.bytes -= path.len() + OVERHEAD;
        }
        there
    }

    pub fn contains(&self, mount: usize, path: &str) -> bool {
        self.made.contains(&(mount, path.to_string()))
    }

    /// Names directly below a folder; one comes several times if there are several below it.
    pub fn below<'f>(&'f self, mount: usize, path: &str) -> impl Iterator<Item = &'f str> {
        let prefix = if path.is_empty() { String::new() } else { format!("{path}/") };
        let from = (mount, prefix.clone());
        self.made.range(from..).map_while(move |(m, made)| made.strip_prefix(&prefix).filter(|_| *m == mount)).filter_map(|rest| rest.split('/').next().filter(|name| !name.is_empty()))
    }

    /// What they are when a folder and all below it have moved. `Nospc`: the longer names have no room.
    pub fn renamed(&self, mount: usize, from: &str, to: &str) -> Result<Folders> {
        let moves = |path: &str| path.strip_prefix(from).filter(|rest| rest.is_empty() || rest.starts_with('/')).map(|rest| format!("{to}{rest}"));
        let mut after = Folders::default();
        for (m, path) in &self.made {
            let new = (*m == mount).then(|| moves(path)).flatten();
            after.add(*m, new.unwrap_or_else(|| path.clone()))?;
        }
        Ok(after)
    }

    pub fn iter(&self) -> impl Iterator<Item = (usize, &str)> {
        self.made.iter().map(|(mount, path)| (*mount, path.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_those_below_it_and_takes_them_along() {
        let mut folders = Folders::default();
        for path in ["a", "a/b", "a/b/c", "ab", "x/y"] {
            folders.add(1, path.into()).unwrap();
        }
        let below = |folders: &Folders, path: &str| folders.below(1, path).collect::<BTreeSet<_>>().into_iter().map(String::from).collect::<Vec<_>>();
        assert_eq!((below(&folders, ""), below(&folders, "a"), below(&folders, "x/y")), (vec!["a".into(), "ab".into(), "x".into()], vec!["b".to_string()], vec![]));
        let bytes = folders.bytes;
        folders = folders.renamed(1, "a", "z").unwrap();
        assert_eq!(folders.iter().map(|(_, path)| path).collect::<Vec<_>>(), ["ab", "x/y", "z", "z/b", "z/b/c"]);
        assert_eq!(folders.bytes, bytes);
    }

    #[test]
    fn a_cell_can_not_make_folders_without_end() {
        let mut folders = Folders::default();
        let made = (0..1_000_000).take_while(|i| folders.add(0, format!("{i:0>1000}")).is_ok()).count();
        assert_eq!(made, BYTES_MAX / (1000 + OVERHEAD));
        assert_eq!(folders.add(0, format!("{:0>1000}", made + 1)), Err(Errno::Nospc));
        assert!(folders.renamed(0, &format!("{:0>1000}", 6), &format!("{:0>2000}", 6)).is_err_and(|e| e == Errno::Nospc));
        assert!(folders.remove(0, &format!("{:0>1000}", 7)) && !folders.remove(1, &format!("{:0>1000}", 8)));
        assert_eq!(folders.add(0, format!("{:0>1000}", made + 1)), Ok(()), "what was removed makes room");
    }
}
