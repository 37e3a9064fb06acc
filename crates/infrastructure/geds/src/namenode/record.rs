//! Names and contents as they lie in memory: small enough for a million of them.
//!
//! A content is one cache line; what few have lies elsewhere. Who finds them, and what changes them, is in `state.rs`.

use super::table::{NONE, Record};
use crate::ObjectId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

#[derive(Clone)]
pub(super) struct Name {
    pub key: Box<str>,
    pub content: u32,
    pub bucket: u32,
    pub extra: Option<Box<NameExtra>>,
}

/// What few names have.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct NameExtra {
    pub metadata: Box<[u8]>,
    pub expires_ms: u64,
    /// 0: none.
    pub job: u32,
}

impl Default for Name {
    fn default() -> Name {
        Name { key: Box::default(), content: NONE, bucket: NONE, extra: None }
    }
}
impl Record for Name {
    fn is_vacant(&self) -> bool {
        self.content == NONE
    }
}

/// One cache line.
#[derive(Clone)]
pub(super) struct Content {
    /// Two halves: a `u128` would be aligned to 16 bytes and cost 16 more.
    pub id: [u64; 2],
    pub epoch: u64,
    pub size: u64,
    pub checksum: u64,
    /// The lowest bit: it is in the persistency tier at the place that its id names.
    pub created: u64,
    /// One of its names.
    pub name: u32,
    /// Sites, each one more than its number; 0: none. More are in `extra`.
    pub holders: [u16; 2],
    pub extra: Option<Box<ContentExtra>>,
}

#[derive(Clone, Default)]
pub(super) struct ContentExtra {
    names: BTreeSet<u32>,
    holders: Vec<u16>,
    persisted: Option<Box<str>>,
}

impl Default for Content {
    fn default() -> Content {
        Content { id: [0; 2], epoch: 0, size: 0, checksum: 0, created: 0, name: NONE, holders: [0; 2], extra: None }
    }
}
impl Record for Content {
    fn is_vacant(&self) -> bool {
        // Epochs begin with 1. A content has no name for a moment, while its last one is taken away.
        self.epoch == 0
    }
}

pub(super) fn halves(id: u128) -> [u64; 2] {
    [id as u64, (id >> 64) as u64]
}
pub(super) fn whole(halves: [u64; 2]) -> u128 {
    u128::from(halves[0]) | u128::from(halves[1]) << 64
}

fn place_of(id: u128) -> String {
    format!("objects/{}", ObjectId(id))
}

impl Content {
    pub fn id(&self) -> u128 {
        whole(self.id)
    }
    pub fn created_ms(&self) -> u64 {
        self.created >> 1
    }
    pub fn persisted(&self) -> Option<String> {
        match &self.extra {
            _ if self.created & 1 == 1 => Some(place_of(self.id())),
            Some(extra) => extra.persisted.as_deref().map(String::from),
            None => None,
        }
    }
    pub fn set_persisted(&mut self, location: &str) {
        if location == place_of(self.id()) {
            self.created |= 1;
        } else {
            self.created &= !1;
            self.extra.get_or_insert_default().persisted = Some(location.into());
        }
    }
    /// Numbers of sites, in their order.
    pub fn holders(&self) -> Vec<u16> {
        let inline = self.holders.iter().filter(|h| **h > 0).map(|h| h - 1);
        let mut all: Vec<u16> = inline.chain(self.extra.iter().flat_map(|extra| extra.holders.iter().copied())).collect();
        all.sort_unstable();
        all
    }
    pub fn holds(&self, site: u16) -> bool {
        self.holders.contains(&(site + 1)) || self.extra.as_ref().is_some_and(|extra| extra.holders.contains(&site))
    }
    pub fn add_holder(&mut self, site: u16) {
        match self.holders.iter_mut().find(|h| **h == 0) {
            Some(free) => *free = site + 1,
            None => self.extra.get_or_insert_default().holders.push(site),
        }
    }
    pub fn drop_holder(&mut self, site: u16) {
        self.holders.iter_mut().filter(|h| **h == site + 1).for_each(|h| *h = 0);
        if let Some(extra) = &mut self.extra {
            extra.holders.retain(|h| *h != site);
        }
    }
    pub fn add_name(&mut self, name: u32) {
        match self.name {
            NONE => self.name = name,
            _ => {
                self.extra.get_or_insert_default().names.insert(name);
            }
        }
    }
    pub fn drop_name(&mut self, name: u32) {
        if self.name == name {
            self.name = self.extra.as_mut().and_then(|extra| extra.names.pop_first()).unwrap_or(NONE);
        } else if let Some(extra) = &mut self.extra {
            extra.names.remove(&name);
        }
    }
}
