//! A table segment: keys with values and versions, updated several at a time or not at all.
//!
//! A version is the place that the entry would have in a log of this table's updates, so it only grows, and a reader who has seen all up
//! to a place can ask for what came after it. The whole table is in memory and part of the checkpoint; the store bounds the sum of all.

use crate::{Error, Result};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, ops::Bound};

/// In place of a version: whatever it is.
pub const ANY_VERSION: i64 = i64::MIN;
/// In place of a version: the key must not be there.
pub const NO_KEY: i64 = -1;

/// The longest key and value, as Pravega has them: a list of keys must fit into a reply whichever they are.
pub const KEY_MAX: usize = 8 << 10;
pub const VALUE_MAX: usize = 1 << 20;

/// About what the maps take for an entry besides key and value.
pub const ENTRY_COST: u64 = 200;

/// Bytes that an entry takes besides key and value, as the table's length counts them.
const ENTRY: u64 = 16;

/// One key's new value, or its removal.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Change {
    Put { key: Bytes, value: Bytes },
    Remove { key: Bytes },
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Table {
    /// In the order of keys, which ranges of them are asked for in.
    entries: BTreeMap<Bytes, (u64, Bytes)>,
    /// Version to key.
    order: BTreeMap<u64, Bytes>,
    length: u64,
    /// Bytes of keys and values that are there.
    bytes: u64,
}

/// A key, its value and version, as a reader gets it.
pub type Entry = (Bytes, Bytes, i64);

impl Table {
    /// The length of the log of updates, which an update may be conditional on.
    pub fn length(&self) -> u64 {
        self.length
    }
    pub fn len(&self) -> usize {
        self.entries.len()
    }
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn get(&self, key: &[u8]) -> Option<(&Bytes, i64)> {
        self.entries.get(key).map(|(version, value)| (value, *version as i64))
    }

    /// Whether the keys have the versions that are expected of them. `name` is for the error.
    pub fn check<'a>(&self, name: &str, expected: impl IntoIterator<Item = (&'a [u8], i64)>) -> Result<()> {
        for (key, expected) in expected {
            let now = self.get(key).map(|(_, v)| v);
            match (expected, now) {
                (ANY_VERSION, _) | (NO_KEY, None) => {}
                (NO_KEY, Some(_)) => return Err(Error::BadVersion(name.into())),
                (_, None) => return Err(Error::NoKey(name.into())),
                (e, Some(v)) if e == v => {}
                (_, Some(_)) => return Err(Error::BadVersion(name.into())),
            }
        }
        Ok(())
    }

    /// What there would be more, and less, in memory if these were put: bytes of keys and values with what the maps take.
    pub fn cost<'a>(&self, puts: impl IntoIterator<Item = (&'a [u8], usize)>) -> (u64, u64) {
        let (mut more, mut less, mut seen) = (0, 0, std::collections::HashSet::new());
        for (key, value) in puts {
            more += (key.len() + value) as u64 + ENTRY_COST;
            if let (true, Some((old, _))) = (seen.insert(key), self.get(key)) {
                less += (key.len() + old.len()) as u64 + ENTRY_COST;
            }
        }
        (more, less)
    }

    /// The versions that `puts` entries of these sizes (key and value) would get.
    pub fn versions(&self, sizes: impl IntoIterator<Item = usize>) -> Vec<i64> {
        let mut at = self.length;
        sizes
            .into_iter()
            .map(|size| {
                let version = at;
                at += ENTRY + size as u64;
                version as i64
            })
            .collect()
    }

    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Put { key, value } => {
                let (version, size) = (self.length, (key.len() + value.len()) as u64);
                self.length += ENTRY + size;
                self.bytes += size;
                let old = self.entries.insert(key.clone(), (version, value));
                if let Some((old, value)) = old {
                    self.order.remove(&old);
                    self.bytes -= (key.len() + value.len()) as u64;
                }
                self.order.insert(version, key);
            }
            Change::Remove { key } => {
                self.length += ENTRY + key.len() as u64;
                if let Some((old, value)) = self.entries.remove(&key) {
                    self.order.remove(&old);
                    self.bytes -= (key.len() + value.len()) as u64;
                }
            }
        }
    }

    /// Up to `max` entries of the keys from `begin` to `to` (if it is not empty) that begin with `prefix`, in their order, until their bytes reach `bytes_max`
    /// (one is always given); and whether these were all.
    pub fn range(&self, begin: Bound<&Bytes>, to: &Bytes, prefix: &[u8], max: usize, bytes_max: usize) -> (Vec<Entry>, bool) {
        let (mut out, mut bytes) = (Vec::new(), 0);
        // A range whose end lies before its begin has nothing; a map would not take it.
        let range = self.entries.range::<Bytes, _>((begin, Bound::Unbounded)).take_while(|(key, _)| (to.is_empty() || *key <= to) && key.starts_with(prefix));
        for (key, (version, value)) in range {
            bytes += key.len() + value.len() + 40;
            if out.len() >= max || (bytes > bytes_max && !out.is_empty()) {
                return (out, false);
            }
            out.push((key.clone(), value.clone(), *version as i64));
        }
        (out, true)
    }

    /// Up to `max` entries with a version of at least `from`, oldest first, until their bytes reach `bytes_max` (one is always given); and whether
    /// these were all.
    pub fn since(&self, from: u64, max: usize, bytes_max: usize) -> (Vec<Entry>, bool) {
        let (mut out, mut bytes) = (Vec::new(), 0);
        for (version, key) in self.order.range(from..) {
            let value = &self.entries[key].1;
            bytes += key.len() + value.len() + 40;
            if out.len() >= max || (bytes > bytes_max && !out.is_empty()) {
                return (out, false);
            }
            out.push((key.clone(), value.clone(), *version as i64));
        }
        (out, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, value: &str) -> Change {
        Change::Put { key: Bytes::copy_from_slice(key.as_bytes()), value: Bytes::copy_from_slice(value.as_bytes()) }
    }

    #[test]
    fn versions_grow_and_a_reader_finds_what_is_new() {
        let mut table = Table::default();
        let told = table.versions([2, 3]);
        table.apply(put("a", "1"));
        table.apply(put("b", "22"));
        assert_eq!(told, [table.get(b"a").unwrap().1, table.get(b"b").unwrap().1]);
        let seen = table.length();
        assert_eq!(table.since(0, 10, 1 << 20).0.len(), 2);
        assert!(table.since(seen, 10, 1 << 20).0.is_empty());
        table.apply(put("a", "3"));
        let (new, all) = table.since(seen, 10, 1 << 20);
        assert!(all && new.len() == 1 && new[0].1 == "3", "{new:?}");
        assert_eq!(table.since(0, 1, 1 << 20).0[0].0, "b", "the oldest version first");
        assert_eq!(table.since(0, 9, 1).0.len(), 1, "one is given however large");
        table.apply(Change::Remove { key: "a".into() });
        assert_eq!((table.len(), table.bytes()), (1, 3));
    }

    #[test]
    fn an_entry_costs_more_than_its_bytes_and_what_it_replaces_is_taken_off() {
        let mut table = Table::default();
        assert_eq!(table.cost([(&b"key"[..], 10), (&b"k"[..], 0)]), (14 + 2 * ENTRY_COST, 0));
        table.apply(put("key", "a value"));
        assert_eq!(table.cost([(&b"key"[..], 2), (&b"key"[..], 3)]), (11 + 2 * ENTRY_COST, 10 + ENTRY_COST), "once, though it comes twice");
    }

    #[test]
    fn a_range_of_keys_comes_in_their_order() {
        let mut table = Table::default();
        for key in ["b3", "a1", "b1", "c1", "b2"] {
            table.apply(put(key, "v"));
        }
        let check = |begin: Bound<&str>, to: &'static str, prefix: &str, max: usize, expected: &[&str], all: bool| {
            let begin = begin.map(|b| Bytes::copy_from_slice(b.as_bytes()));
            let (found, whole) = table.range(begin.as_ref(), &to.into(), prefix.as_bytes(), max, 1 << 20);
            assert_eq!((found.iter().map(|e| &e.0[..]).collect::<Vec<_>>(), whole), (expected.iter().map(|e| e.as_bytes()).collect(), all));
        };
        check(Bound::Included(""), "", "", 9, &["a1", "b1", "b2", "b3", "c1"], true);
        check(Bound::Included("b1"), "b3", "", 9, &["b1", "b2", "b3"], true);
        check(Bound::Included("b1"), "b3", "", 2, &["b1", "b2"], false);
        check(Bound::Excluded("b2"), "b3", "", 2, &["b3"], true);
        check(Bound::Included("b"), "", "b", 9, &["b1", "b2", "b3"], true);
        check(Bound::Included("c"), "b", "", 9, &[], true);
    }

    #[test]
    fn conditions_hold_for_all_or_for_none() {
        let mut table = Table::default();
        table.apply(put("a", "1"));
        let version = table.get(b"a").unwrap().1;
        let check = |expected: &[(&[u8], i64)]| table.check("t", expected.iter().copied());
        check(&[(b"a", version), (b"b", NO_KEY), (b"c", ANY_VERSION)]).unwrap();
        assert!(matches!(check(&[(b"b", NO_KEY), (b"a", version + 1)]), Err(Error::BadVersion(_))));
        assert!(matches!(check(&[(b"a", NO_KEY)]), Err(Error::BadVersion(_))));
        assert!(matches!(check(&[(b"b", 5)]), Err(Error::NoKey(_))));
    }
}
