//! What an open folder has said of itself: names, and for each a number behind which a reading goes on.
//!
//! ```text
//!  opendir, rewinddir     reading from 0        the folder is listed; a name that was there keeps its number, a new one gets the next
//!  readdir, seekdir       reading from n        what was listed, behind number n
//! ```
//!
//! `telldir` gives such a number as a `long`, which has 32 bits here: so they count, and are no hashes. Whatever comes into the folder or goes from it meanwhile, who goes on behind a name
//! misses none of the others and sees none twice: a program that empties a folder does so. Whether it sees what came and what went is left open by POSIX; here it does with the next listing.
//!
//! A listing is kept as long as its descriptor is open, outside of the cell's memory, and moves with it: that is why names have a bound.

use super::{Errno, Result};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Bytes of the names in all listings of a rank, with [`OVERHEAD`] for each.
pub(super) const BYTES_MAX: usize = 128 << 20;
/// About what a name takes beside its bytes.
const OVERHEAD: usize = 64;
/// The last number: what a `long` of the guest's holds, which is no error.
const NUMBER_MAX: u32 = i32::MAX as u32;

/// What the listings of a rank's processes have of their bound.
#[derive(Default)]
pub(super) struct Room {
    used: AtomicUsize,
    told: AtomicBool,
}

impl Room {
    /// True once: the user is told that there is none, and not each time.
    pub fn tells(&self) -> bool {
        !self.told.swap(true, Ordering::Relaxed)
    }
}

struct Entry {
    name: Box<str>,
    folder: bool,
}

/// What is known of one open folder.
pub(super) struct Listing {
    entries: BTreeMap<u32, Entry>,
    /// The highest number that was given to a name.
    last: u32,
    bytes: usize,
    room: Arc<Room>,
}

/// A listing as it travels: number, name, and whether it is a folder's.
#[derive(Serialize, Deserialize)]
pub(super) struct Saved {
    last: u32,
    entries: Vec<(u32, String, bool)>,
}

impl Listing {
    pub fn new(room: &Arc<Room>) -> Listing {
        Listing { entries: BTreeMap::new(), last: 0, bytes: 0, room: room.clone() }
    }

    /// Takes in what the folder holds now: names, of which none comes twice, and whether they are folders. `Nomem`: they have no room, and all is as before.
    pub fn refresh(&mut self, names: Vec<(String, bool)>) -> Result<()> {
        self.resize(names.iter().map(|(name, _)| name.len() + OVERHEAD).sum())?;
        let known: HashMap<&str, u32> = self.entries.iter().map(|(number, entry)| (&*entry.name, *number)).collect();
        let (mut entries, mut new) = (BTreeMap::new(), Vec::new());
        for (name, folder) in names {
            let number = known.get(&*name).copied();
            let entry = Entry { name: name.into(), folder };
            match number {
                Some(number) => drop(entries.insert(number, entry)),
                None => new.push(entry),
            }
        }
        if new.len() > (NUMBER_MAX - self.last) as usize {
            // After two billion names that came: the numbers that were given hold no longer, as POSIX allows after `rewinddir`. There is room, for so many names have none.
            new = std::mem::take(&mut entries).into_values().chain(new).collect();
            self.last = 0;
        }
        for entry in new {
            self.last += 1;
            entries.insert(self.last, entry);
        }
        self.entries = entries;
        Ok(())
    }

    /// What comes behind a number, in order: number, name, and whether it is a folder's. 0: all.
    pub fn behind(&self, number: u64) -> impl Iterator<Item = (u32, &str, bool)> {
        let from = Bound::Excluded(u32::try_from(number).unwrap_or(u32::MAX));
        self.entries.range((from, Bound::Unbounded)).map(|(number, entry)| (*number, &*entry.name, entry.folder))
    }

    pub fn save(&self) -> Saved {
        Saved { last: self.last, entries: self.behind(0).map(|(number, name, folder)| (number, name.into(), folder)).collect() }
    }

    /// The bytes are foreign. A name may be any: it is only told to the program.
    pub fn restore(saved: &Saved, room: &Arc<Room>) -> std::result::Result<Listing, String> {
        let mut listing = Listing::new(room);
        let bytes = saved.entries.iter().map(|(_, name, _)| name.len() + OVERHEAD).sum();
        listing.resize(bytes).map_err(|_| format!("the folders that the rank has open list {bytes} bytes of names and more; {BYTES_MAX} are the most of all of them"))?;
        for (number, name, folder) in &saved.entries {
            if *number <= listing.last {
                return Err(format!("an open folder lists a name as number {number} after number {}, which is out of order", listing.last));
            }
            listing.last = *number;
            listing.entries.insert(*number, Entry { name: name.as_str().into(), folder: *folder });
        }
        if saved.last < listing.last || saved.last > NUMBER_MAX {
            return Err(format!("an open folder has given number {} to its names, and {} is said to be the last", listing.last, saved.last));
        }
        listing.last = saved.last;
        Ok(listing)
    }

    fn resize(&mut self, bytes: usize) -> Result<()> {
        let new = |used: usize| Some(used - self.bytes + bytes).filter(|new| *new <= BYTES_MAX || bytes <= self.bytes);
        self.room.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, new).map_err(|_| Errno::Nomem)?;
        self.bytes = bytes;
        Ok(())
    }
}

impl Drop for Listing {
    fn drop(&mut self) {
        self.room.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &str) -> Vec<(String, bool)> {
        names.split_whitespace().map(|name| (name.to_string(), name.starts_with('d'))).collect()
    }

    /// As `a1 b2`: names and their numbers behind one.
    fn behind(listing: &Listing, number: u64) -> String {
        listing.behind(number).map(|(number, name, _)| format!("{name}{number}")).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_name_keeps_its_number_whatever_comes_and_goes() {
        let mut listing = Listing::new(&Arc::default());
        listing.refresh(names("a b d e")).unwrap();
        assert_eq!((behind(&listing, 0), behind(&listing, 2), behind(&listing, 4)), ("a1 b2 d3 e4".into(), "d3 e4".into(), "".into()));
        assert_eq!(listing.behind(2).next(), Some((3, "d", true)));
        listing.refresh(names("b c e")).unwrap();
        assert_eq!((behind(&listing, 0), behind(&listing, 2), behind(&listing, 3)), ("b2 e4 c5".into(), "e4 c5".into(), "e4 c5".into()));
        listing.refresh(names("a b")).unwrap();
        assert_eq!(behind(&listing, 0), "b2 a6", "no number is given twice");
        assert_eq!((behind(&listing, u64::from(u32::MAX)), behind(&listing, u64::MAX)), (String::new(), String::new()));
        listing.last = NUMBER_MAX - 1;
        listing.refresh(names("a b c")).unwrap();
        assert_eq!(behind(&listing, 6), "c2147483647", "a long of the guest's holds it");
        listing.refresh(names("a b c d")).unwrap();
        assert_eq!(behind(&listing, 0), "b1 a2 c3 d4");
    }

    #[test]
    fn the_names_of_all_listings_of_a_rank_have_a_bound() {
        let room = Arc::default();
        let mut listings = [Listing::new(&room), Listing::new(&room)];
        let many: Vec<_> = (0..BYTES_MAX / 2 / (1000 + OVERHEAD)).map(|i| (format!("{i:0>1000}"), false)).collect();
        for listing in &mut listings {
            listing.refresh(many.clone()).unwrap();
        }
        let more: Vec<_> = many.iter().cloned().chain(names("a b c d e f g h i j k l m n o p")).collect();
        assert_eq!(listings[0].refresh(more.clone()), Err(Errno::Nomem));
        assert_eq!(listings[0].behind(0).count(), many.len(), "it has what it had");
        let [first, second] = listings;
        let saved = second.save();
        assert!(Listing::restore(&Saved { last: u32::MAX / 2, entries: saved.entries.iter().chain(&saved.entries[..20]).cloned().collect() }, &room).is_err_and(|e| e.contains("are the most")));
        drop((first, second));
        assert_eq!(Listing::new(&room).refresh(more), Ok(()), "what was closed makes room");
        assert_eq!(room.used.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_listing_goes_on_where_it_was_saved_and_what_is_none_is_refused() {
        let room = Arc::default();
        let mut listing = Listing::new(&room);
        listing.refresh(names("a b d")).unwrap();
        listing.refresh(names("b d")).unwrap();
        let mut again = Listing::restore(&listing.save(), &room).unwrap();
        again.refresh(names("a b d")).unwrap();
        assert_eq!((behind(&again, 0), again.behind(2).next()), ("b2 d3 a4".into(), Some((3, "d", true))));
        let refused = |last: u32, entries: &[(u32, &str)]| Listing::restore(&Saved { last, entries: entries.iter().map(|(n, name)| (*n, name.to_string(), false)).collect() }, &room).is_err();
        assert!(!refused(7, &[(3, "a"), (7, "b")]));
        for (last, entries) in [(1, &[(0, "a")][..]), (3, &[(3, "a"), (3, "b")]), (3, &[(3, "a"), (2, "b")]), (2, &[(3, "a")]), (u32::MAX, &[])] {
            assert!(refused(last, entries), "{last} {entries:?}");
        }
    }
}
