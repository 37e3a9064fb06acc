//! Groups: sets of ranks in an order, and their algebra (MPI 4, section 7.3).

use crate::error::{Class, Error, Result};
use crate::message::Rank;
use crate::rank::{PROC_NULL, UNDEFINED};
use serde::{Deserialize, Serialize};

/// A group handle as the guest sees it.
pub type Handle = i32;
pub const EMPTY: Handle = 1;
const FIRST: i32 = 2;
/// What one rank's groups may take, in bytes: 64 for each and 4 for each member. They lie outside of its memory.
const BYTES_MAX: usize = 64 << 20;

/// How two groups or communicators are alike, with the numbers of `guests/mpi.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Likeness {
    Identical = 0,
    Congruent = 1,
    Similar = 2,
    Unequal = 3,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Table {
    groups: Vec<Option<Vec<Rank>>>,
    bytes: usize,
}

fn cost(group: &[Rank]) -> usize {
    64 + 4 * group.len()
}

/// Whether two groups have the same members, in the same order or in another.
pub fn compare(a: &[Rank], b: &[Rank]) -> Likeness {
    let sorted = |g: &[Rank]| {
        let mut g = g.to_vec();
        g.sort();
        g
    };
    match a == b {
        true => Likeness::Identical,
        false if sorted(a) == sorted(b) => Likeness::Similar,
        false => Likeness::Unequal,
    }
}

/// The numbers of a range (first, last, stride).
fn range(first: i32, last: i32, stride: i32, size: usize) -> Result<Vec<i32>> {
    if stride == 0 {
        return Err(Error::new(Class::Arg, format!("the range from {first} to {last} has stride 0")));
    }
    let count = (i64::from(last) - i64::from(first)) / i64::from(stride) + 1;
    if count > size as i64 {
        return Err(Error::new(Class::Rank, format!("the range from {first} to {last} has {count} ranks, the group {size}")));
    }
    Ok((0..count).map(|i| (i64::from(first) + i * i64::from(stride)) as i32).collect())
}

impl Table {
    pub fn get(&self, handle: Handle) -> Result<&[Rank]> {
        if handle == EMPTY {
            return Ok(&[]);
        }
        let group = usize::try_from(i64::from(handle) - i64::from(FIRST)).ok().and_then(|i| self.groups.get(i)).and_then(Option::as_deref);
        group.ok_or_else(|| Error::new(Class::Group, format!("group handle {handle} is not valid")))
    }

    pub fn add(&mut self, group: Vec<Rank>) -> Result<Handle> {
        if group.is_empty() {
            return Ok(EMPTY);
        }
        let cost = cost(&group);
        if self.bytes + cost > BYTES_MAX {
            return Err(Error::new(Class::Group, format!("this rank's groups take {} bytes, and {cost} more are beyond {BYTES_MAX}; free some with MPI_Group_free", self.bytes)));
        }
        self.bytes += cost;
        let slot = self.groups.iter().position(Option::is_none).unwrap_or_else(|| {
            self.groups.push(None);
            self.groups.len() - 1
        });
        self.groups[slot] = Some(group);
        Ok(FIRST + slot as i32)
    }

    pub fn free(&mut self, handle: Handle) -> Result<()> {
        self.get(handle)?;
        if handle != EMPTY
            && let Some(group) = self.groups[(handle - FIRST) as usize].take()
        {
            self.bytes -= cost(&group);
        }
        Ok(())
    }

    pub fn union(&mut self, a: Handle, b: Handle) -> Result<Handle> {
        let mut all = self.get(a)?.to_vec();
        let more: Vec<Rank> = self.get(b)?.iter().filter(|r| !all.contains(r)).copied().collect();
        all.extend(more);
        self.add(all)
    }

    /// Those of `a` that are in `b` too, or (`within` false) that are not.
    pub fn filter(&mut self, a: Handle, b: Handle, within: bool) -> Result<Handle> {
        let b = self.get(b)?;
        let left = self.get(a)?.iter().filter(|r| b.contains(r) == within).copied().collect();
        self.add(left)
    }

    /// `MPI_Group_incl`, or (`keep` false) `MPI_Group_excl`.
    pub fn pick(&mut self, of: Handle, numbers: &[i32], keep: bool) -> Result<Handle> {
        let group = self.get(of)?;
        let mut chosen = vec![false; group.len()];
        let mut picked = Vec::with_capacity(numbers.len());
        for n in numbers {
            let i = usize::try_from(*n).ok().filter(|i| *i < group.len());
            let i = i.ok_or_else(|| Error::new(Class::Rank, format!("rank {n} is not in a group of {}", group.len())))?;
            if std::mem::replace(&mut chosen[i], true) {
                return Err(Error::new(Class::Rank, format!("rank {n} is named twice")));
            }
            picked.push(group[i]);
        }
        if !keep {
            picked = group.iter().zip(&chosen).filter(|(_, chosen)| !**chosen).map(|(r, _)| *r).collect();
        }
        self.add(picked)
    }

    /// [`Table::pick`] by ranges (first, last, stride).
    pub fn pick_ranges(&mut self, of: Handle, ranges: &[[i32; 3]], keep: bool) -> Result<Handle> {
        let size = self.get(of)?.len();
        let mut numbers = Vec::new();
        for [first, last, stride] in ranges {
            numbers.extend(range(*first, *last, *stride, size)?);
            if numbers.len() > size {
                return Err(Error::new(Class::Rank, format!("the ranges name more ranks than the group's {size}")));
            }
        }
        self.pick(of, &numbers, keep)
    }

    /// What the members of `a` with these numbers are called in `b`.
    pub fn translate(&self, a: Handle, numbers: &[i32], b: Handle) -> Result<Vec<i32>> {
        let (a, b) = (self.get(a)?, self.get(b)?);
        let one = |n: &i32| {
            if *n == PROC_NULL {
                return Ok(PROC_NULL);
            }
            let rank = usize::try_from(*n).ok().and_then(|i| a.get(i));
            let rank = rank.ok_or_else(|| Error::new(Class::Rank, format!("rank {n} is not in a group of {}", a.len())))?;
            Ok(b.iter().position(|r| r == rank).map_or(UNDEFINED, |i| i as i32))
        };
        numbers.iter().map(one).collect()
    }

    /// Whether a table that was read from elsewhere is one of a rank in a job of `size` ranks.
    pub(crate) fn check(&self, size: u32) -> Result<()> {
        let bytes: usize = self.groups.iter().flatten().map(|g| cost(g)).sum();
        if bytes != self.bytes || self.groups.iter().flatten().any(|g| g.len() > size as usize || g.iter().any(|r| r.0 >= size)) {
            return Err(Error::new(Class::Group, "a group has ranks that are not in the job"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn algebra() {
        let mut t = Table::default();
        let all = t.add((0..6).map(Rank).collect()).unwrap();
        let even = t.pick_ranges(all, &[[0, 5, 2]], true).unwrap();
        let back = t.pick_ranges(all, &[[5, 0, -1]], true).unwrap();
        assert_eq!(t.get(even).unwrap(), [0, 2, 4].map(Rank));
        assert_eq!(compare(t.get(all).unwrap(), t.get(back).unwrap()), Likeness::Similar);
        let odd = t.filter(all, even, false).unwrap();
        assert_eq!(t.get(odd).unwrap(), [1, 3, 5].map(Rank));
        let both = t.union(odd, even).unwrap();
        assert_eq!(t.get(both).unwrap(), [1, 3, 5, 0, 2, 4].map(Rank));
        assert_eq!(t.translate(both, &[0, 3, PROC_NULL], even).unwrap(), [UNDEFINED, 0, PROC_NULL]);
        assert_eq!(t.filter(even, odd, true).unwrap(), EMPTY);
        assert_eq!(t.pick(all, &[1, 1], true).unwrap_err().class, Class::Rank);
        assert_eq!(t.pick_ranges(all, &[[0, i32::MAX, 1]], true).unwrap_err().class, Class::Rank);
        assert!(t.get(0).is_err() && t.get(i32::MIN).is_err());
        [all, even, back, odd, both].into_iter().for_each(|g| t.free(g).unwrap());
        assert_eq!(t.bytes, 0);
    }
}
