//! Folders that a cell made and that hold nothing yet: an object store has no such thing, so the cell remembers them.
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

    pub fn iter(&self) -> impl Iterator<Item = (usize, &str)> {
        self.made.iter().map(|(mount, path)| (*mount, path.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_can_not_make_folders_without_end() {
        let mut folders = Folders::default();
        let made = (0..1_000_000).take_while(|i| folders.add(0, format!("{i:0>1000}")).is_ok()).count();
        assert_eq!(made, BYTES_MAX / (1000 + OVERHEAD));
        assert_eq!(folders.add(0, format!("{:0>1000}", made + 1)), Err(Errno::Nospc));
        assert!(folders.remove(0, &format!("{:0>1000}", 7)) && !folders.remove(1, &format!("{:0>1000}", 8)));
        assert_eq!(folders.add(0, format!("{:0>1000}", made + 1)), Ok(()), "what was removed makes room");
    }
}
