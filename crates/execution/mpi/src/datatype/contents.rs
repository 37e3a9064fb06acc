//! What a datatype was made of, the numbers in it, and its name.

use super::{Basic, Handle, Table};
use crate::error::Result;
use serde::{Deserialize, Serialize};

/// How a type was made: what `MPI_Type_get_envelope` and `MPI_Type_get_contents` tell. The types in it are held.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contents {
    /// `MPI_COMBINER_...` of `guests/mpi.h`.
    pub combiner: i32,
    pub integers: Vec<i32>,
    pub addresses: Vec<i32>,
    pub types: Vec<Handle>,
}

impl Contents {
    pub fn new(combiner: i32, integers: Vec<i32>, addresses: Vec<i32>, types: Vec<Handle>) -> Contents {
        Contents { combiner, integers, addresses, types }
    }

    pub(super) fn cost(&self) -> usize {
        4 * (self.integers.len() + self.addresses.len() + self.types.len())
    }

    /// What one element consists of, in order: so many of each type.
    fn pieces(&self) -> Vec<(u64, Handle)> {
        let int = |i: usize| self.integers.get(i).map_or(0, |n| u64::try_from(*n).unwrap_or(0));
        let Some(first) = self.types.first().copied() else { return Vec::new() };
        let count = int(0) as usize;
        let lengths = || (1..=count).map(int);
        match self.combiner {
            combiner::CONTIGUOUS => vec![(int(0), first)],
            combiner::VECTOR | combiner::HVECTOR | combiner::INDEXED_BLOCK | combiner::HINDEXED_BLOCK => vec![(int(0).saturating_mul(int(1)), first)],
            combiner::INDEXED | combiner::HINDEXED => vec![(lengths().sum(), first)],
            combiner::STRUCT => lengths().zip(self.types.iter().copied()).collect(),
            _ => vec![(1, first)],
        }
    }
}

/// The numbers of `MPI_COMBINER_...` in `guests/mpi.h`.
pub mod combiner {
    pub const NAMED: i32 = 0;
    pub const DUP: i32 = 1;
    pub const CONTIGUOUS: i32 = 2;
    pub const VECTOR: i32 = 3;
    pub const HVECTOR: i32 = 4;
    pub const INDEXED: i32 = 5;
    pub const HINDEXED: i32 = 6;
    pub const INDEXED_BLOCK: i32 = 7;
    pub const HINDEXED_BLOCK: i32 = 8;
    pub const STRUCT: i32 = 9;
    pub const SUBARRAY: i32 = 10;
    pub const DARRAY: i32 = 11;
    pub const RESIZED: i32 = 12;
}

/// By handle, in the order of `guests/mpi.h`.
const NAMES: [&str; 41] = [
    "", "MPI_CHAR", "MPI_SIGNED_CHAR", "MPI_UNSIGNED_CHAR", "MPI_BYTE", "MPI_WCHAR", "MPI_SHORT", "MPI_UNSIGNED_SHORT", "MPI_INT", "MPI_UNSIGNED", "MPI_LONG",
    "MPI_UNSIGNED_LONG", "MPI_LONG_LONG_INT", "MPI_UNSIGNED_LONG_LONG", "MPI_FLOAT", "MPI_DOUBLE", "MPI_LONG_DOUBLE", "MPI_C_BOOL", "MPI_INT8_T",
    "MPI_INT16_T", "MPI_INT32_T", "MPI_INT64_T", "MPI_UINT8_T", "MPI_UINT16_T", "MPI_UINT32_T", "MPI_UINT64_T", "MPI_AINT", "MPI_COUNT", "MPI_OFFSET",
    "MPI_C_FLOAT_COMPLEX", "MPI_C_DOUBLE_COMPLEX", "MPI_FLOAT_INT", "MPI_DOUBLE_INT", "MPI_LONG_INT", "MPI_2INT", "MPI_SHORT_INT", "MPI_LONG_DOUBLE_INT",
    "MPI_PACKED", "MPI_LB", "MPI_UB", "MPI_C_LONG_DOUBLE_COMPLEX",
];

impl Table {
    /// `MPI_Type_get_envelope`. `None`: a predefined type.
    pub fn contents(&self, handle: Handle) -> Result<Option<&Contents>> {
        self.get(handle)?;
        Ok(self.derived(handle).map(|d| &d.contents))
    }

    /// One more handle for the program, by `MPI_Type_get_contents`.
    pub fn name_again(&mut self, handle: Handle) {
        if let Some(d) = self.derived_mut(handle) {
            d.names = d.names.saturating_add(1);
        }
    }

    /// `MPI_Type_get_name`
    pub fn name(&self, handle: Handle) -> Result<&str> {
        self.get(handle)?;
        Ok(match self.derived(handle) {
            Some(d) => d.name.as_deref().unwrap_or_default(),
            None => NAMES.get(handle as usize).copied().unwrap_or_default(),
        })
    }

    /// `MPI_Type_set_name` of a type that the program has made.
    pub fn set_name(&mut self, handle: Handle, name: String) -> Result<()> {
        self.get(handle)?;
        self.room(name.len())?;
        let Some(d) = self.derived_mut(handle) else { return Ok(()) };
        let old = d.name.replace(name).map_or(0, |n| n.len());
        let new = d.name.as_ref().map_or(0, String::len);
        self.bytes = self.bytes + new - old;
        Ok(())
    }

    /// The numbers of `bytes` packed bytes of a type, in order: `take(bytes of one, how many)` for each run. What is left of an incomplete one is
    /// not told, but makes the result `false`.
    pub fn numbers(&self, handle: Handle, bytes: u64, take: &mut impl FnMut(u32, u64)) -> Result<bool> {
        let mut left = bytes;
        let t = self.used(handle)?;
        if t.size == 0 {
            return Ok(bytes == 0);
        }
        while left > 0 {
            let before = left;
            if !self.numbers_of_one(handle, bytes == left, &mut left, take)? || left == before {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Turns packed bytes into the order of `external32`, or back: each number by itself.
    pub fn turn(&self, handle: Handle, packed: &mut [u8]) -> Result<()> {
        let complex = matches!(self.used(handle)?.basic, Basic::C32 | Basic::C64);
        let (mut at, len) = (0usize, packed.len() as u64);
        self.numbers(handle, len, &mut |unit, n| {
            let unit = if complex { unit as usize / 2 } else { unit as usize };
            let n = if complex { 2 * n as usize } else { n as usize };
            for number in packed[at..].chunks_exact_mut(unit.max(1)).take(n) {
                number.reverse();
            }
            at += unit * n;
        })?;
        Ok(())
    }

    /// The numbers of one element, or of as many elements at once as are of one kind when `all`.
    fn numbers_of_one(&self, handle: Handle, all: bool, left: &mut u64, take: &mut impl FnMut(u32, u64)) -> Result<bool> {
        let t = self.used(handle)?;
        if let Some(unit) = t.unit() {
            let bytes = if all { *left } else { u64::from(t.size).min(*left) };
            take(unit, bytes / u64::from(unit));
            *left -= bytes;
            return Ok(bytes.is_multiple_of(u64::from(unit)));
        }
        let Some(d) = self.derived(handle) else {
            // Pairs, and the long double.
            let parts: &[u32] = match handle {
                31 | 33 | 34 => &[4, 4],
                32 => &[8, 4],
                35 => &[2, 4],
                36 => &[16, 4],
                37 => &[1],
                _ => &[16],
            };
            for part in parts {
                if *left < u64::from(*part) {
                    return Ok(*left == 0);
                }
                take(*part, 1);
                *left -= u64::from(*part);
            }
            return Ok(true);
        };
        for (count, inner) in d.contents.pieces() {
            let of = self.used(inner)?;
            let total = u64::from(of.size).saturating_mul(count);
            // Arrays have as many as fill their bytes.
            let total = if matches!(d.contents.combiner, combiner::SUBARRAY | combiner::DARRAY) { u64::from(t.size) } else { total };
            let mut here = total.min(*left);
            let begin = here;
            while here > 0 {
                let before = here;
                let unit = of.unit().is_some();
                if !self.numbers_of_one(inner, unit, &mut here, take)? || here == before {
                    return Ok(false);
                }
            }
            *left -= begin;
            if *left == 0 {
                break;
            }
        }
        Ok(true)
    }
}
