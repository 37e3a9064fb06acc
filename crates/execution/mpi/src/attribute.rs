//! Attributes: values of the program's own that hang on communicators, datatypes and windows, by key.
//!
//! The functions that copy and delete them are the guest's: numbers here, called by whoever runs the rank.

use crate::error::{Class, Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// First key of the program's.
const FIRST: i32 = 200;
/// Keys, and attributes on all objects together, of one rank.
const MAX: usize = 1 << 20;

/// What attributes can hang on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum On {
    Comm,
    Type,
    Win,
}

/// A key: the guest's functions (0: none; `u32::MAX` as copy: the value as it is) and what they are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    pub on: On,
    pub copy: u32,
    pub delete: u32,
    pub extra: u32,
    /// The program has not freed it.
    named: bool,
    /// Attributes that have it.
    uses: u32,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Table {
    keys: Vec<Option<Key>>,
    /// By object, in the order of their setting.
    values: BTreeMap<(On, i32), Vec<(i32, u32)>>,
    count: usize,
}

fn invalid(key: i32) -> Error {
    Error::new(Class::Keyval, format!("key {key} of an attribute is not valid"))
}

impl Table {
    pub fn add_key(&mut self, on: On, copy: u32, delete: u32, extra: u32) -> Result<i32> {
        let slot = self.keys.iter().position(Option::is_none).unwrap_or(self.keys.len());
        if slot >= MAX {
            return Err(Error::new(Class::Keyval, format!("this rank has {MAX} keys of attributes; free some with MPI_Comm_free_keyval")));
        }
        if slot == self.keys.len() {
            self.keys.push(None);
        }
        self.keys[slot] = Some(Key { on, copy, delete, extra, named: true, uses: 0 });
        Ok(FIRST + slot as i32)
    }

    fn slot(&mut self, key: i32) -> Option<&mut Option<Key>> {
        self.keys.get_mut(usize::try_from(i64::from(key) - i64::from(FIRST)).ok()?)
    }

    /// A key that the program may name, for objects of this kind.
    pub fn key(&mut self, on: On, key: i32) -> Result<Key> {
        self.slot(key).and_then(|k| *k).filter(|k| k.named && k.on == on).ok_or_else(|| invalid(key))
    }

    /// A key that an attribute has: the program may have freed it since.
    pub fn used(&mut self, key: i32) -> Option<Key> {
        self.slot(key).and_then(|k| *k)
    }

    pub fn free_key(&mut self, on: On, key: i32) -> Result<()> {
        // A second copy of the handle may be freed while an attribute keeps the key.
        match self.slot(key) {
            Some(Some(k)) if k.on == on => k.named = false,
            _ => return Err(invalid(key)),
        }
        self.tidy(key);
        Ok(())
    }

    fn tidy(&mut self, key: i32) {
        if let Some(slot) = self.slot(key)
            && slot.is_some_and(|k| !k.named && k.uses == 0)
        {
            *slot = None;
        }
    }

    pub fn get(&self, on: On, object: i32, key: i32) -> Option<u32> {
        self.values.get(&(on, object))?.iter().find(|(k, _)| *k == key).map(|(_, v)| *v)
    }

    /// All of an object's, oldest first.
    pub fn all(&self, on: On, object: i32) -> Vec<(i32, u32)> {
        self.values.get(&(on, object)).cloned().unwrap_or_default()
    }

    /// Sets a value; one that was there is replaced (its delete function was called before).
    pub fn set(&mut self, on: On, object: i32, key: i32, value: u32) -> Result<()> {
        self.remove(on, object, key);
        if self.count >= MAX {
            return Err(Error::new(Class::Other, format!("this rank has {MAX} attributes; delete some first")));
        }
        match self.slot(key) {
            Some(Some(k)) => k.uses = k.uses.saturating_add(1),
            _ => return Err(invalid(key)),
        }
        self.values.entry((on, object)).or_default().push((key, value));
        self.count += 1;
        Ok(())
    }

    pub fn remove(&mut self, on: On, object: i32, key: i32) {
        let Some(values) = self.values.get_mut(&(on, object)) else { return };
        let Some(at) = values.iter().position(|(k, _)| *k == key) else { return };
        values.remove(at);
        if values.is_empty() {
            self.values.remove(&(on, object));
        }
        self.count = self.count.saturating_sub(1);
        if let Some(Some(k)) = self.slot(key) {
            k.uses = k.uses.saturating_sub(1);
        }
        self.tidy(key);
    }

    pub(crate) fn check(&self) -> Result<()> {
        let count: usize = self.values.values().map(Vec::len).sum();
        if count != self.count || self.keys.len() > MAX {
            return Err(Error::new(Class::Keyval, format!("{count} attributes are counted as {}", self.count)));
        }
        Ok(())
    }
}
