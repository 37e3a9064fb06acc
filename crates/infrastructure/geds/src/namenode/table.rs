//! Where records lie and how they are found, in as few bytes as possible: a slab, and indices that hold 32-bit slots and compare through them.
//!
//! A slab can be frozen: from then on [`Slab::pass`] gives the records as they were at that moment, chunk after chunk, while others change. Whoever
//! changes a slot that has not been passed yet leaves its old value behind. Nothing here knows what a record is.

use hashbrown::HashTable;
use std::{cmp::Ordering, collections::HashMap};

/// No slot.
pub const NONE: u32 = u32::MAX;

/// Slots that are allocated at a time: growth costs this much and copies nothing.
const CHUNK: usize = 4096;

/// A record, whose default is a slot without one.
pub trait Record: Default + Clone {
    fn is_vacant(&self) -> bool;
}

pub struct Slab<T> {
    chunks: Vec<Box<[T]>>,
    /// Slots that were ever used.
    len: u32,
    free: Vec<u32>,
    frozen: Option<Frozen<T>>,
}

struct Frozen<T> {
    len: u32,
    passed: u32,
    /// Old values of what was changed before it was passed.
    saved: HashMap<u32, T>,
}

impl<T: Record> Default for Slab<T> {
    fn default() -> Slab<T> {
        Slab { chunks: Vec::new(), len: 0, free: Vec::new(), frozen: None }
    }
}

impl<T: Record> Slab<T> {
    /// Records, not slots.
    pub fn count(&self) -> usize {
        self.len as usize - self.free.len()
    }

    /// One more than the highest slot that was ever used.
    pub fn len(&self) -> u32 {
        self.len
    }

    pub fn get(&self, slot: u32) -> &T {
        &self.chunks[slot as usize / CHUNK][slot as usize % CHUNK]
    }

    pub fn get_mut(&mut self, slot: u32) -> &mut T {
        let record = &mut self.chunks[slot as usize / CHUNK][slot as usize % CHUNK];
        if let Some(frozen) = &mut self.frozen {
            if slot >= frozen.passed && slot < frozen.len {
                frozen.saved.entry(slot).or_insert_with(|| record.clone());
            }
        }
        record
    }

    fn grow(&mut self) -> u32 {
        assert!(self.len < NONE, "a slab holds fewer than 2^32 records");
        if self.len as usize == self.chunks.len() * CHUNK {
            self.chunks.push((0..CHUNK).map(|_| T::default()).collect());
        }
        self.len += 1;
        self.len - 1
    }

    pub fn insert(&mut self, record: T) -> u32 {
        let slot = self.free.pop().unwrap_or_else(|| self.grow());
        *self.get_mut(slot) = record;
        slot
    }

    /// For loading: the slot must be the next or a later one; what is left out between is free.
    pub fn insert_at(&mut self, slot: u32, record: T) -> bool {
        if slot < self.len || slot == NONE {
            return false;
        }
        while self.len < slot {
            let free = self.grow();
            self.free.push(free);
        }
        self.grow();
        *self.get_mut(slot) = record;
        true
    }

    pub fn remove(&mut self, slot: u32) -> T {
        self.free.push(slot);
        std::mem::take(self.get_mut(slot))
    }

    /// Begins a walk over the records as they are now.
    pub fn freeze(&mut self) {
        assert!(self.frozen.is_none(), "one walk at a time");
        self.frozen = Some(Frozen { len: self.len, passed: 0, saved: HashMap::new() });
    }

    /// Gives the next `n` slots' records as they were at [`Slab::freeze`]. False: that was all, and the walk has ended.
    pub fn pass(&mut self, n: u32, mut each: impl FnMut(u32, &T)) -> bool {
        let Some(mut frozen) = self.frozen.take() else { return false };
        let end = frozen.len.min(frozen.passed.saturating_add(n));
        for slot in frozen.passed..end {
            let saved = frozen.saved.remove(&slot);
            let record = saved.as_ref().unwrap_or_else(|| self.get(slot));
            if !record.is_vacant() {
                each(slot, record);
            }
        }
        frozen.passed = end;
        let more = end < frozen.len;
        if more {
            self.frozen = Some(frozen);
        }
        more
    }

    /// Ends a walk that is not finished.
    pub fn thaw(&mut self) {
        self.frozen = None;
    }
}

/// Parts of a hash index: growing one moves a 256th of the slots, so that nobody waits long.
const PARTS: usize = 256;

/// Slots by hash.
pub struct Index {
    parts: Box<[HashTable<u32>]>,
}

impl Default for Index {
    fn default() -> Index {
        Index { parts: (0..PARTS).map(|_| HashTable::new()).collect() }
    }
}

impl Index {
    fn part(hash: u64) -> usize {
        // The table takes its position from the low bits and its tag from the highest.
        (hash >> 40) as usize % PARTS
    }

    pub fn find(&self, hash: u64, is: impl FnMut(u32) -> bool) -> Option<u32> {
        let mut is = is;
        self.parts[Self::part(hash)].find(hash, |slot| is(*slot)).copied()
    }

    /// `hash_of` gives the hash of any slot that is in the index.
    pub fn insert(&mut self, hash: u64, slot: u32, hash_of: impl Fn(u32) -> u64) {
        self.parts[Self::part(hash)].insert_unique(hash, slot, |slot| hash_of(*slot));
    }

    pub fn remove(&mut self, hash: u64, slot: u32) {
        if let Ok(entry) = self.parts[Self::part(hash)].find_entry(hash, |found| *found == slot) {
            entry.remove();
        }
    }
}

/// What is to be an [`Index`]: all slots first, each where its part will be. Then part after part is made at its size, in little memory. A million insertions into an index of a million look at
/// a million places that are in no cache.
pub struct Gathered {
    parts: Vec<Vec<(u64, u32)>>,
}

impl Gathered {
    /// For about so many.
    pub fn new(about: usize) -> Gathered {
        // Parts differ by a few in a hundred.
        let each = about / PARTS + about / PARTS / 16;
        Gathered { parts: (0..PARTS).map(|_| Vec::with_capacity(each)).collect() }
    }

    pub fn push(&mut self, hash: u64, slot: u32) {
        self.parts[Index::part(hash)].push((hash, slot));
    }

    pub fn index(self) -> Index {
        let part = |slots: Vec<(u64, u32)>| {
            let mut part = HashTable::with_capacity(slots.len());
            for (hash, slot) in slots {
                part.insert_unique(hash, slot, |_| unreachable!("there is room for all of them"));
            }
            part
        };
        Index { parts: self.parts.into_iter().map(part).collect() }
    }
}

/// The most slots in a block of an order: half a page is moved for an insertion, at most.
const BLOCK: usize = 256;

/// Slots in an order that the caller knows: sorted blocks, each behind a bound. A bound is the key of a slot, kept beside the others in little memory: looking at a slot's own key costs two or
/// three places that are in no cache, and a million names have twelve levels of blocks.
///
/// `known` tells how a bound stands to what is looked for, `compare` how a slot's record does, `key` makes a bound. `ahead` is told of slots that are likely to be compared soon, twice: where their
/// records lie may be asked for at the first time, and what these point to at the second.
pub struct Order<K> {
    blocks: Vec<Block<K>>,
}

struct Block<K> {
    /// Not less than the last slot, less than all of the next block.
    last: K,
    /// Never empty.
    slots: Vec<u32>,
}

impl<K> Default for Order<K> {
    fn default() -> Order<K> {
        Order { blocks: Vec::new() }
    }
}

impl<K> Order<K> {
    /// From slots that are in order already.
    pub fn from_sorted(slots: &[u32], key: impl Fn(u32) -> K) -> Order<K> {
        let block = |slots: &[u32]| Block { last: key(slots[slots.len() - 1]), slots: slots.to_vec() };
        Order { blocks: slots.chunks(BLOCK * 3 / 4).map(block).collect() }
    }

    /// The place of the first slot that is not less.
    fn seek(&self, known: impl Fn(&K) -> Ordering, compare: impl FnMut(u32) -> Ordering, ahead: impl Fn(u32, bool)) -> (usize, usize) {
        let block = self.blocks.partition_point(|block| known(&block.last) == Ordering::Less);
        let Some(found) = self.blocks.get(block) else { return (block, 0) };
        (block, seek_in(&found.slots, compare, ahead))
    }

    pub fn insert(
        &mut self,
        slot: u32,
        known: impl Fn(&K) -> Ordering,
        compare: impl FnMut(u32) -> Ordering,
        key: impl Fn(u32) -> K,
        ahead: impl Fn(u32, bool),
    ) {
        let (mut block, mut at) = self.seek(known, compare, ahead);
        if block == self.blocks.len() {
            match self.blocks.last_mut() {
                // After all others: what comes in order fills its blocks.
                Some(last) if last.slots.len() < BLOCK => {
                    last.last = key(slot);
                    (block, at) = (block - 1, last.slots.len());
                }
                _ => return self.blocks.push(Block { last: key(slot), slots: vec![slot] }),
            }
        }
        let full = &mut self.blocks[block];
        if full.slots.len() == BLOCK {
            let half = full.slots.split_off(BLOCK / 2);
            full.slots.shrink_to_fit();
            let last = std::mem::replace(&mut full.last, key(full.slots[BLOCK / 2 - 1]));
            self.blocks.insert(block + 1, Block { last, slots: half });
            if at > BLOCK / 2 {
                (block, at) = (block + 1, at - BLOCK / 2);
            }
        }
        self.blocks[block].slots.insert(at, slot);
        // The place between two halves is behind the first one's bound.
        if at + 1 == self.blocks[block].slots.len() {
            self.blocks[block].last = key(slot);
        }
    }

    /// Removes the slot that is equal.
    pub fn remove(&mut self, known: impl Fn(&K) -> Ordering, mut compare: impl FnMut(u32) -> Ordering) -> bool {
        let (block, at) = self.seek(known, &mut compare, |_, _| {});
        let Some(Block { slots, .. }) = self.blocks.get_mut(block) else { return false };
        if slots.get(at).is_none_or(|slot| compare(*slot) != Ordering::Equal) {
            return false;
        }
        slots.remove(at);
        let left = slots.len();
        if left == 0 {
            self.blocks.remove(block);
        } else if left < BLOCK / 8 && self.blocks.get(block + 1).is_some_and(|next| next.slots.len() + left <= BLOCK / 2) {
            let next = self.blocks.remove(block + 1);
            self.blocks[block].slots.extend(next.slots);
            self.blocks[block].last = next.last;
        }
        true
    }

    /// All slots that are not less, in order.
    pub fn from(&self, known: impl Fn(&K) -> Ordering, compare: impl FnMut(u32) -> Ordering) -> impl Iterator<Item = u32> + '_ {
        let (block, at) = self.seek(known, compare, |_, _| {});
        let head = self.blocks.get(block).map_or(&[][..], |block| &block.slots[at..]);
        head.iter().chain(self.blocks.iter().skip(block + 1).flat_map(|block| &block.slots)).copied()
    }
}

/// Slots that are all asked for at once.
const NEAR: usize = 24;

/// The first slot that is not less, found in eighths: seven slots are asked for at a time, so that three comparisons wait for one look at memory and not for three.
fn seek_in(slots: &[u32], mut compare: impl FnMut(u32) -> Ordering, ahead: impl Fn(u32, bool)) -> usize {
    let (mut low, mut high) = (0, slots.len());
    while high - low > NEAR {
        let at = |eighth: usize| low + (high - low) * eighth / 8;
        for again in [false, true] {
            (1..8).for_each(|eighth| ahead(slots[at(eighth)], again));
        }
        // What is before the first of these is less, what is from the second on is not.
        let (mut first, mut second) = (0, 8);
        while second - first > 1 {
            let middle = (first + second) / 2;
            if compare(slots[at(middle)]) == Ordering::Less { first = middle } else { second = middle }
        }
        (low, high) = (if first == 0 { low } else { at(first) + 1 }, at(second));
    }
    for again in [false, true] {
        slots[low..high].iter().for_each(|slot| ahead(*slot, again));
    }
    low + slots[low..high].partition_point(|slot| compare(*slot) == Ordering::Less)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng, rngs::StdRng};
    use std::collections::BTreeSet;

    #[derive(Clone, Default, Debug, PartialEq)]
    struct Number(u64);
    impl Record for Number {
        fn is_vacant(&self) -> bool {
            self.0 == 0
        }
    }

    #[test]
    fn an_order_is_a_sorted_set() {
        let seed = rand::random::<u64>();
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        for dense in [5_000u32, 1_000_000] {
            let (mut order, mut model) = (Order::<u32>::default(), BTreeSet::new());
            for step in 0..40_000 {
                // Grows, shrinks, grows; the slot is its own record.
                let grow = (step / 10_000) % 2 == 0;
                let n = if step < 3000 { step } else { random.random_range(0..dense) };
                if random.random_bool(if grow { 0.9 } else { 0.2 }) {
                    if model.insert(n) {
                        order.insert(n, |last| last.cmp(&n), |slot| slot.cmp(&n), |slot| slot, |_, _| {});
                    }
                } else {
                    assert_eq!(order.remove(|last| last.cmp(&n), |slot| slot.cmp(&n)), model.remove(&n));
                }
                if step % 997 == 0 {
                    let from = random.random_range(0..dense);
                    assert!(order.from(|last| last.cmp(&from), |slot| slot.cmp(&from)).eq(model.range(from..).copied()), "seed {seed}");
                }
            }
            assert!(order.blocks.iter().all(|block| !block.slots.is_empty() && block.slots.len() <= BLOCK));
            let slots: Vec<u32> = model.iter().copied().collect();
            assert!(Order::from_sorted(&slots, |slot| slot).from(|last| last.cmp(&dense.div_ceil(2)), |slot| slot.cmp(&dense.div_ceil(2))).eq(model.range(dense.div_ceil(2)..).copied()));
        }
    }

    #[test]
    fn a_frozen_slab_shows_what_was() {
        let seed = rand::random::<u64>();
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let mut slab = Slab::default();
        let mut model: HashMap<u32, Number> = HashMap::new();
        for round in 0..20 {
            let then: HashMap<u32, Number> = model.clone();
            let mut seen = HashMap::new();
            slab.freeze();
            loop {
                for _ in 0..random.random_range(0..300) {
                    let some = model.keys().copied().nth(random.random_range(0..model.len().max(1)));
                    match (random.random_range(0..3), some) {
                        (0, Some(slot)) => assert_eq!(slab.remove(slot), model.remove(&slot).unwrap()),
                        (1, Some(slot)) => {
                            let number = Number(random.random_range(1..u64::MAX));
                            *slab.get_mut(slot) = number.clone();
                            model.insert(slot, number);
                        }
                        _ => {
                            let number = Number(random.random_range(1..u64::MAX));
                            assert!(model.insert(slab.insert(number.clone()), number).is_none());
                        }
                    }
                }
                let more = slab.pass(random.random_range(1..400), |slot, number| {
                    assert!(seen.insert(slot, number.clone()).is_none());
                });
                if !more {
                    break;
                }
            }
            assert!(seen == then, "round {round}, seed {seed}");
            assert!(model.iter().all(|(slot, number)| slab.get(*slot) == number));
            assert_eq!(slab.count(), model.len());
        }
    }
}
