//! Datatypes: where the bytes of one element lie, and how they are gathered into a message and scattered out of it.
//!
//! A type is its *type map* flattened to blocks in order, neighbours merged. A message carries packed bytes only, so sender and receiver may
//! describe the same data differently. Sizes are those of the 32-bit WebAssembly guest (`long` has four bytes).
//! Guest memory is a [`Memory`]; an address is an offset into it; nothing outside is ever touched.

mod contents;

use crate::error::{Class, Error, Result};
use crate::memory::Memory;
pub use contents::{Contents, combiner};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::sync::LazyLock;

/// A datatype handle as the guest sees it. Predefined ones have the numbers of `guests/mpi.h`.
pub type Handle = i32;

/// First handle of a derived datatype.
pub(crate) const DERIVED: i32 = 64;
/// A type map longer than this is refused: it would be slower to walk than the data to copy.
const BLOCKS_MAX: usize = 1 << 20;
/// Bytes of all datatypes that one rank has made. They lie outside of its memory.
const TYPES_BYTES_MAX: usize = 64 << 20;
/// Why what is copied is there.
const WITHIN: &str = "it was compared with the memory just now, which never shrinks";
/// Levels of types within types: they are walked by recursion.
const DEPTH_MAX: u16 = 1024;

/// The kind of number behind a type, for reductions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Basic {
    I8,
    I16,
    I32,
    I64,
    U8,
    U16,
    U32,
    U64,
    F32,
    F64,
    Bool,
    /// Bytes without arithmetic: only the bitwise operations.
    Byte,
    C32,
    C64,
    /// Value and index, for MAXLOC and MINLOC.
    F32Int,
    F64Int,
    I32Int,
    I16Int,
    /// Several kinds, so that there is no arithmetic.
    Mixed,
    /// `long double`, which has 128 bits (IEEE 754 binary128) in WebAssembly.
    F128,
    C128,
    F128Int,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    pub offset: i32,
    pub len: u32,
}

/// One datatype.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Datatype {
    /// Bytes of data in one element.
    pub size: u32,
    pub lower_bound: i32,
    /// Distance between consecutive elements, in bytes.
    pub extent: i32,
    pub blocks: Vec<Block>,
    pub basic: Basic,
    pub committed: bool,
    /// The largest alignment of its numbers, in bytes: a struct's extent is rounded up to it.
    align: u8,
    /// Its bounds were given (`MPI_Type_create_resized`, `MPI_LB`, `MPI_UB`), and count for types made of it in place of its bytes.
    bounds_given: [bool; 2],
    /// Types within types: how many levels.
    depth: u16,
}

impl Datatype {
    fn basic(size: u32, basic: Basic) -> Datatype {
        Datatype {
            size,
            lower_bound: 0,
            extent: size as i32,
            blocks: vec![Block { offset: 0, len: size }],
            basic,
            committed: true,
            align: match basic {
                Basic::C32 => 4,
                Basic::C64 => 8,
                _ => size.clamp(1, 16) as u8,
            },
            bounds_given: [false; 2],
            depth: 0,
        }
    }

    /// `MPI_LB` and `MPI_UB`: no bytes, but a bound.
    fn marker(which: usize) -> Datatype {
        let mut t = Datatype { size: 0, extent: 0, blocks: Vec::new(), ..Datatype::basic(1, Basic::Mixed) };
        t.bounds_given[which] = true;
        t
    }

    fn pair(first: u32, gap: u32, basic: Basic) -> Datatype {
        let mut t = Datatype::basic(first + 4, basic);
        if gap > 0 {
            t.blocks = vec![Block { offset: 0, len: first }, Block { offset: (first + gap) as i32, len: 4 }];
        }
        // The struct is padded to the alignment of its first member, or of the int.
        let align = first.max(4) as i32;
        let end = (first + gap + 4) as i32;
        t.extent = (end + align - 1) / align * align;
        t.align = align as u8;
        t
    }

    /// Where its bytes begin, and how far it is from there to their end (`MPI_Type_get_true_extent`).
    pub fn true_extent(&self) -> (i32, i32) {
        let low = self.blocks.iter().map(|b| i64::from(b.offset)).min().unwrap_or(0);
        let high = self.blocks.iter().map(|b| i64::from(b.offset) + i64::from(b.len)).max().unwrap_or(0);
        (low as i32, i32::try_from(high - low).unwrap_or(i32::MAX))
    }

    /// Bytes of one number, where all are of one size.
    fn unit(&self) -> Option<u32> {
        Some(match self.basic {
            Basic::I8 | Basic::U8 | Basic::Bool | Basic::Byte => 1,
            Basic::I16 | Basic::U16 => 2,
            Basic::I32 | Basic::U32 | Basic::F32 => 4,
            Basic::I64 | Basic::U64 | Basic::F64 | Basic::C32 => 8,
            Basic::C64 => 16,
            _ => return None,
        })
    }

    /// Rounds the extent up to the alignment, as a C compiler pads a struct.
    fn pad(&mut self) {
        let align = i64::from(self.align.max(1));
        if !self.bounds_given[1] {
            self.extent = i32::try_from((i64::from(self.extent) + align - 1) / align * align).unwrap_or(self.extent);
        }
    }

    /// Whether consecutive elements are one run of bytes.
    #[inline]
    pub fn contiguous(&self) -> bool {
        self.extent == self.size as i32
            && match self.blocks.as_slice() {
                [] => true,
                [b] => b.offset == 0,
                _ => false,
            }
    }

    /// Whether one that was read from elsewhere has the bytes that it says.
    pub(crate) fn sound(&self) -> bool {
        let bytes: u64 = self.blocks.iter().map(|b| u64::from(b.len)).sum();
        self.blocks.len() <= BLOCKS_MAX && bytes == u64::from(self.size) && self.blocks.iter().all(|b| b.len > 0)
    }

    /// Where the bytes of so many elements begin and end, counted from the buffer's address.
    pub(crate) fn span(&self, count: u32) -> (i128, i128) {
        let low = self.blocks.iter().map(|b| i128::from(b.offset)).min().unwrap_or(0);
        let high = self.blocks.iter().map(|b| i128::from(b.offset) + i128::from(b.len)).max().unwrap_or(0);
        let last = i128::from(self.extent) * (i128::from(count) - 1);
        (low + last.min(0), high + last.max(0))
    }

    /// What it takes in a [`Table`], in bytes, about; the same number on each machine.
    fn cost(&self) -> usize {
        64 + 8 * self.blocks.len()
    }

    /// `pieces` are (displacement in bytes, count of the datatype), in order. Takes a step for each piece and for each block of the result.
    fn build<'t>(pieces: impl Iterator<Item = (i128, u32, &'t Datatype)>) -> Result<Datatype> {
        let too_large = || Error::new(Class::Type, "the datatype is too large: its offsets exceed 2 GiB");
        let mut blocks: Vec<Block> = Vec::new();
        let (mut size, mut lower, mut upper) = (0u64, i128::MAX, i128::MIN);
        let mut basic: Option<Basic> = None;
        let (mut align, mut given) = (1, [false; 2]);
        let mut add = |offset: i128, len: u64| -> Result<()> {
            let (offset, len) = (i32::try_from(offset).map_err(|_| too_large())?, u32::try_from(len).map_err(|_| too_large())?);
            match blocks.last_mut() {
                Some(last) if i64::from(last.offset) + i64::from(last.len) == i64::from(offset) => {
                    last.len = last.len.checked_add(len).ok_or_else(too_large)?;
                }
                _ => blocks.push(Block { offset, len }),
            }
            if blocks.len() > BLOCKS_MAX { Err(too_many()) } else { Ok(()) }
        };
        for (displacement, count, inner) in pieces {
            basic = Some(match basic {
                None => inner.basic,
                Some(b) if b == inner.basic => b,
                Some(_) => Basic::Mixed,
            });
            align = align.max(inner.align);
            size += u64::from(inner.size) * u64::from(count);
            if size > u64::from(u32::MAX) {
                return Err(too_large());
            }
            if count == 0 {
                continue;
            }
            let extent = i128::from(inner.extent);
            let last = displacement + extent * (i128::from(count) - 1);
            let (a, b) = (displacement.min(last), displacement.max(last));
            let (low, high) = (a + i128::from(inner.lower_bound), b + i128::from(inner.lower_bound) + extent);
            // A bound that was given outdoes those that only follow from bytes.
            match (given[0], inner.bounds_given[0]) {
                (false, true) => lower = low,
                (true, false) => {}
                _ => lower = lower.min(low),
            }
            match (given[1], inner.bounds_given[1]) {
                (false, true) => upper = high,
                (true, false) => {}
                _ => upper = upper.max(high),
            }
            given = [given[0] | inner.bounds_given[0], given[1] | inner.bounds_given[1]];
            match inner.blocks.as_slice() {
                [] => {}
                // One run, however many there are.
                [only] if i128::from(only.len) == extent => add(displacement + i128::from(only.offset), u64::from(only.len) * u64::from(count))?,
                several => {
                    for i in 0..i128::from(count) {
                        for b in several {
                            add(displacement + i * extent + i128::from(b.offset), u64::from(b.len))?;
                        }
                    }
                }
            }
        }
        if lower == i128::MAX || upper == i128::MIN {
            (lower, upper) = (0, 0);
        }
        blocks.shrink_to_fit();
        Ok(Datatype {
            size: u32::try_from(size).map_err(|_| too_large())?,
            lower_bound: i32::try_from(lower).map_err(|_| too_large())?,
            extent: i32::try_from(upper - lower).map_err(|_| too_large())?,
            blocks,
            basic: basic.unwrap_or(Basic::Mixed),
            committed: false,
            align,
            bounds_given: given,
            depth: 0,
        })
    }
}

fn too_many() -> Error {
    Error::new(Class::Type, format!("the datatype has more than {BLOCKS_MAX} separate blocks; build it of larger runs"))
}

/// A rank's datatypes: those that it has made; the predefined ones are everybody's.
///
/// A type that the program has freed lives on as long as an operation uses it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Table {
    derived: Vec<Option<Derived>>,
    /// What they take.
    bytes: usize,
    /// None before this one is free.
    #[serde(skip)]
    taken: usize,
    /// What the program has freed may be named: a persistent request that holds it is being started.
    #[serde(skip)]
    pub(crate) freed_too: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Derived {
    datatype: Datatype,
    contents: Contents,
    name: Option<String>,
    /// Handles of it that the program has: its maker's, and one for each time that `MPI_Type_get_contents` gave it.
    names: u32,
    /// Operations that use it, and persistent requests.
    uses: u32,
}

/// By handle, in the order of `guests/mpi.h`.
static PREDEFINED: LazyLock<Vec<Option<Datatype>>> = LazyLock::new(|| {
    use Basic::*;
    let b = Datatype::basic;
    let p = |first, gap, basic| Some(Datatype::pair(first, gap, basic));
    vec![
        None,
        Some(b(1, I8)),   // CHAR
        Some(b(1, I8)),   // SIGNED_CHAR
        Some(b(1, U8)),   // UNSIGNED_CHAR
        Some(b(1, Byte)), // BYTE
        Some(b(4, I32)),  // WCHAR
        Some(b(2, I16)),
        Some(b(2, U16)),
        Some(b(4, I32)),
        Some(b(4, U32)),
        Some(b(4, I32)), // LONG
        Some(b(4, U32)),
        Some(b(8, I64)),
        Some(b(8, U64)),
        Some(b(4, F32)),
        Some(b(8, F64)),
        Some(b(16, F128)), // LONG_DOUBLE
        Some(b(1, Bool)),
        Some(b(1, I8)),
        Some(b(2, I16)),
        Some(b(4, I32)),
        Some(b(8, I64)),
        Some(b(1, U8)),
        Some(b(2, U16)),
        Some(b(4, U32)),
        Some(b(8, U64)),
        Some(b(4, I32)), // AINT
        Some(b(8, I64)), // COUNT
        Some(b(8, I64)), // OFFSET
        Some(b(8, C32)),
        Some(b(16, C64)),
        p(4, 0, F32Int),
        p(8, 0, F64Int),
        p(4, 0, I32Int), // LONG_INT
        p(4, 0, I32Int), // 2INT
        p(2, 2, I16Int),
        p(16, 0, F128Int),
        Some(b(1, Byte)), // PACKED
        Some(Datatype::marker(0)), // LB
        Some(Datatype::marker(1)), // UB
        Some(b(32, C128)),
    ]
});

fn invalid(handle: Handle) -> Error {
    Error::new(Class::Type, format!("datatype handle {handle} is not valid"))
}

impl Derived {
    fn cost(&self) -> usize {
        self.datatype.cost() + self.contents.cost() + self.name.as_ref().map_or(0, String::len)
    }
}

impl Table {
    #[inline]
    fn derived(&self, handle: Handle) -> Option<&Derived> {
        self.derived.get(usize::try_from(i64::from(handle) - i64::from(DERIVED)).ok()?)?.as_ref()
    }

    fn derived_mut(&mut self, handle: Handle) -> Option<&mut Derived> {
        self.derived.get_mut(usize::try_from(i64::from(handle) - i64::from(DERIVED)).ok()?)?.as_mut()
    }

    /// A type that the program may name.
    #[inline]
    pub fn get(&self, handle: Handle) -> Result<&Datatype> {
        if !self.freed_too && self.derived(handle).is_some_and(|d| d.names == 0) {
            return Err(invalid(handle));
        }
        self.used(handle)
    }

    /// A type that an operation uses: the program may have freed it since.
    #[inline]
    pub fn used(&self, handle: Handle) -> Result<&Datatype> {
        let found = match handle {
            DERIVED.. => self.derived(handle).map(|d| &d.datatype),
            _ => usize::try_from(handle).ok().and_then(|i| PREDEFINED.get(i)).and_then(Option::as_ref),
        };
        found.ok_or_else(|| invalid(handle))
    }

    /// A type that may be used in communication.
    #[inline]
    pub fn committed(&self, handle: Handle) -> Result<&Datatype> {
        let t = self.get(handle)?;
        if !t.committed {
            return Err(Error::new(Class::Type, format!("datatype {handle} is not committed; call MPI_Type_commit first")));
        }
        Ok(t)
    }

    /// An operation begins to use a type.
    pub(crate) fn hold(&mut self, handle: Handle) {
        if let Some(d) = self.derived_mut(handle) {
            d.uses = d.uses.saturating_add(1);
        }
    }

    /// An operation has done with a type that it held.
    pub(crate) fn let_go(&mut self, handle: Handle) {
        if let Some(d) = self.derived_mut(handle) {
            d.uses = d.uses.saturating_sub(1);
            self.tidy(handle);
        }
    }

    /// Forgets a type that nobody needs any more.
    fn tidy(&mut self, handle: Handle) {
        // Those that it was made of may go with it, and so on: a list, so that depth takes no stack.
        let mut check = vec![handle];
        while let Some(handle) = check.pop() {
            let Some(Derived { names: 0, uses: 0, .. }) = self.derived(handle) else { continue };
            let slot = (handle - DERIVED) as usize;
            let Some(gone) = self.derived[slot].take() else { continue };
            self.bytes -= gone.cost();
            self.taken = self.taken.min(slot);
            for inner in gone.contents.types {
                if let Some(d) = self.derived_mut(inner) {
                    d.uses = d.uses.saturating_sub(1);
                    check.push(inner);
                }
            }
        }
    }

    /// Whether a table that was read from elsewhere is one that this module could have made.
    pub(crate) fn check(&self) -> Result<()> {
        for (i, t) in self.derived.iter().enumerate() {
            let Some(Derived { datatype: t, .. }) = t else { continue };
            if !t.sound() {
                let bytes: u64 = t.blocks.iter().map(|b| u64::from(b.len)).sum();
                let text = format!("datatype {} has {bytes} bytes in {} blocks and a size of {}", DERIVED as usize + i, t.blocks.len(), t.size);
                return Err(Error::new(Class::Type, text));
            }
        }
        for (i, d) in self.derived.iter().enumerate() {
            let Some(d) = d else { continue };
            // Made of types that were there before, so that walking down ends.
            if d.contents.types.iter().any(|t| self.used(*t).is_err() || self.used(*t).is_ok_and(|t| t.depth >= d.datatype.depth)) || d.datatype.depth > DEPTH_MAX {
                return Err(Error::new(Class::Type, format!("datatype {} is made of one that is not there", DERIVED as usize + i)));
            }
        }
        let bytes: usize = self.derived.iter().flatten().map(Derived::cost).sum();
        if bytes != self.bytes {
            return Err(Error::new(Class::Type, format!("datatypes of {bytes} bytes are counted as {}", self.bytes)));
        }
        Ok(())
    }

    fn add(&mut self, mut datatype: Datatype, contents: Contents) -> Result<Handle> {
        let inner = contents.types.iter().filter_map(|t| self.used(*t).ok()).map(|t| t.depth).max().unwrap_or(0);
        datatype.depth = inner + 1;
        if inner >= DEPTH_MAX {
            return Err(Error::new(Class::Type, format!("datatypes within datatypes are more than {DEPTH_MAX} deep")));
        }
        let made = Derived { datatype, contents, name: None, names: 1, uses: 0 };
        let cost = made.cost();
        self.room(cost)?;
        let slot = (self.taken..self.derived.len()).find(|i| self.derived[*i].is_none()).unwrap_or_else(|| {
            self.derived.push(None);
            self.derived.len() - 1
        });
        self.taken = slot + 1;
        made.contents.types.clone().into_iter().for_each(|t| self.hold(t));
        self.derived[slot] = Some(made);
        self.bytes += cost;
        Ok(DERIVED + slot as i32)
    }

    fn room(&self, cost: usize) -> Result<()> {
        if self.bytes + cost > TYPES_BYTES_MAX {
            let text = format!("this rank's datatypes take {} bytes, and {cost} more are beyond {TYPES_BYTES_MAX}; free some with MPI_Type_free", self.bytes);
            return Err(Error::new(Class::Type, text));
        }
        Ok(())
    }

    pub fn commit(&mut self, handle: Handle) -> Result<()> {
        self.get(handle)?;
        if let Some(d) = self.derived_mut(handle) {
            d.datatype.committed = true;
        }
        Ok(())
    }

    pub fn free(&mut self, handle: Handle) -> Result<()> {
        self.get(handle)?;
        match self.derived_mut(handle) {
            Some(d) => d.names = d.names.saturating_sub(1),
            None => return Err(Error::new(Class::Type, "a predefined datatype can't be freed")),
        }
        self.tidy(handle);
        Ok(())
    }

    pub fn duplicate(&mut self, handle: Handle) -> Result<Handle> {
        let t = self.get(handle)?.clone();
        self.add(t, Contents::new(combiner::DUP, vec![], vec![], vec![handle]))
    }

    fn count(n: i32) -> Result<u32> {
        u32::try_from(n).map_err(|_| Error::new(Class::Count, format!("count {n} is negative")))
    }

    /// `MPI_Type_contiguous`
    pub fn make_contiguous(&mut self, count: i32, inner: Handle) -> Result<Handle> {
        let t = Datatype::build(std::iter::once((0, Self::count(count)?, self.get(inner)?)))?;
        self.add(t, Contents::new(combiner::CONTIGUOUS, vec![count], vec![], vec![inner]))
    }

    /// `MPI_Type_vector` (`in_bytes` false: the stride counts elements) and `MPI_Type_create_hvector`.
    pub fn make_vector(&mut self, count: i32, block: i32, stride: i32, in_bytes: bool, inner: Handle) -> Result<Handle> {
        let contents = match in_bytes {
            false => Contents::new(combiner::VECTOR, vec![count, block, stride], vec![], vec![inner]),
            true => Contents::new(combiner::HVECTOR, vec![count, block], vec![stride], vec![inner]),
        };
        let (inner, count, block) = (self.get(inner)?, Self::count(count)?, Self::count(block)?);
        let stride = i128::from(stride) * if in_bytes { 1 } else { i128::from(inner.extent) };
        let pieces = |step: usize| (0..i128::from(count)).step_by(step).map(move |i| (i * stride, block, inner));
        let t = match inner.blocks.as_slice() {
            // All of them are one run.
            [run] if i64::from(run.len) == i64::from(inner.extent) && stride == i128::from(run.len) * i128::from(block) => {
                let all = count.checked_mul(block).ok_or_else(|| Error::new(Class::Type, "the datatype is too large: its offsets exceed 2 GiB"))?;
                Datatype::build(std::iter::once((0, all, inner)))?
            }
            // No bytes: the first and the last say where it ends.
            [] => Datatype::build(pieces((count as usize).saturating_sub(1).max(1)))?,
            _ if block == 0 => Datatype::build(pieces(1).take(1))?,
            _ if count as usize > BLOCKS_MAX => return Err(too_many()),
            _ => Datatype::build(pieces(1))?,
        };
        self.add(t, contents)
    }

    /// `MPI_Type_indexed`, `MPI_Type_create_hindexed`, `MPI_Type_create_struct` and their like: (block length, displacement, type) each.
    pub fn make_pieces(&mut self, count: i32, combiner: i32, mut piece: impl FnMut(u32) -> Result<(i32, i32, Handle)>) -> Result<Handle> {
        let n = Self::count(count)?;
        if n as usize > BLOCKS_MAX {
            return Err(too_many());
        }
        let in_bytes = !matches!(combiner, combiner::INDEXED | combiner::INDEXED_BLOCK);
        let (mut lengths, mut displacements, mut types) = (Vec::with_capacity(n as usize), Vec::with_capacity(n as usize), Vec::with_capacity(n as usize));
        let mut made = Vec::with_capacity(n as usize);
        for i in 0..n {
            let (block, displacement, handle) = piece(i)?;
            let inner = self.get(handle)?;
            let unit = if in_bytes { 1 } else { i128::from(inner.extent) };
            made.push((i128::from(displacement) * unit, Self::count(block)?, inner));
            lengths.push(block);
            displacements.push(displacement);
            types.push(handle);
        }
        let mut t = Datatype::build(made.into_iter())?;
        if combiner == combiner::STRUCT {
            t.pad();
        } else {
            types.truncate(1);
        }
        if matches!(combiner, combiner::INDEXED_BLOCK | combiner::HINDEXED_BLOCK) {
            lengths.truncate(1);
        }
        lengths.insert(0, count);
        let addresses = if in_bytes { displacements } else { lengths.append(&mut displacements); Vec::new() };
        self.add(t, Contents::new(combiner, lengths, addresses, types))
    }

    /// [`Table::make_pieces`] of one type; it is named even when there are no pieces.
    pub fn make_blocks(&mut self, count: i32, combiner: i32, inner: Handle, mut piece: impl FnMut(u32) -> Result<(i32, i32)>) -> Result<Handle> {
        let depth = self.get(inner)?.depth + 1;
        let handle = self.make_pieces(count, combiner, |i| piece(i).map(|(block, displacement)| (block, displacement, inner)))?;
        if count == 0 {
            self.hold(inner);
            if let Some(d) = self.derived_mut(handle) {
                d.datatype.depth = depth;
                d.contents.types = vec![inner];
                let blocks = matches!(combiner, combiner::INDEXED_BLOCK | combiner::HINDEXED_BLOCK);
                d.contents.integers = if blocks { vec![0, 0] } else { vec![0] };
                self.bytes += 4 + if blocks { 4 } else { 0 };
            }
        }
        Ok(handle)
    }

    /// `MPI_Type_create_resized`
    pub fn make_resized(&mut self, inner: Handle, lower_bound: i32, extent: i32) -> Result<Handle> {
        let of = self.get(inner)?;
        let t = Datatype { lower_bound, extent, committed: false, bounds_given: [true; 2], ..of.clone() };
        self.add(t, Contents::new(combiner::RESIZED, vec![], vec![lower_bound, extent], vec![inner]))
    }

    /// The parts of an array with these sizes that `runs` gives for each dimension: (first index, how many).
    fn make_array(&mut self, sizes: &[i32], fortran: bool, inner: Handle, contents: Contents, runs: impl Fn(usize) -> Result<Vec<(u32, u32)>>) -> Result<Handle> {
        let mut t = self.get(inner)?.clone();
        let order: Vec<usize> = if fortran { (0..sizes.len()).collect() } else { (0..sizes.len()).rev().collect() };
        for d in order {
            let extent = i128::from(t.extent);
            let runs = runs(d)?;
            let mut next = Datatype::build(runs.iter().map(|(first, n)| (i128::from(*first) * extent, *n, &t)))?;
            let too_large = |_| Error::new(Class::Type, "the array is larger than 2 GiB");
            next.extent = i32::try_from(extent * i128::from(sizes[d])).map_err(too_large)?;
            (next.lower_bound, next.bounds_given) = (0, [true; 2]);
            t = next;
        }
        self.add(t, contents)
    }

    /// `MPI_Type_create_subarray`. `fortran`: the first index changes fastest.
    pub fn make_subarray(&mut self, sizes: &[i32], subsizes: &[i32], starts: &[i32], fortran: bool, inner: Handle) -> Result<Handle> {
        for ((size, part), start) in sizes.iter().zip(subsizes).zip(starts) {
            if *size < 1 || *part < 1 || *start < 0 || i64::from(*start) + i64::from(*part) > i64::from(*size) {
                return Err(Error::new(Class::Arg, format!("{part} elements from {start} on are no part of a dimension of {size}")));
            }
        }
        let integers = [&[sizes.len() as i32], sizes, subsizes, starts, &[i32::from(fortran)]].concat();
        let contents = Contents::new(combiner::SUBARRAY, integers, vec![], vec![inner]);
        self.make_array(sizes, fortran, inner, contents, |d| Ok(vec![(starts[d] as u32, subsizes[d] as u32)]))
    }

    /// `MPI_Type_create_darray`: what process `rank` of `size` has of an array that is distributed over a grid of processes.
    #[allow(clippy::too_many_arguments)] // they are the arguments of the MPI call
    pub fn make_darray(&mut self, size: i32, rank: i32, sizes: &[i32], distributions: &[i32], arguments: &[i32], grid: &[i32], fortran: bool, inner: Handle) -> Result<Handle> {
        fn wrong<T>(text: String) -> Result<T> {
            Err(Error::new(Class::Arg, text))
        }
        let processes = grid.iter().try_fold(1i32, |a, g| a.checked_mul(*g));
        if grid.iter().any(|g| *g < 1) || processes != Some(size) || rank < 0 || rank >= size || sizes.iter().any(|s| *s < 1) {
            return wrong(format!("rank {rank} of {size} is in no grid of {grid:?} processes"));
        }
        let integers = [&[size, rank, sizes.len() as i32], sizes, distributions, arguments, grid, &[i32::from(fortran)]].concat();
        let contents = Contents::new(combiner::DARRAY, integers, vec![], vec![inner]);
        // Processes are numbered with the last dimension fastest, whatever the order of the array.
        let mut place = vec![0; grid.len()];
        let mut left = rank;
        for d in (0..grid.len()).rev() {
            place[d] = left % grid[d];
            left /= grid[d];
        }
        self.make_array(sizes, fortran, inner, contents, |d| {
            let (n, p, me) = (i64::from(sizes[d]), i64::from(grid[d]), i64::from(place[d]));
            let even = (n + p - 1) / p;
            let block = match (distributions[d], arguments[d]) {
                (2, _) => n,
                (0, -1) => even,
                (1, -1) => 1,
                (0, a) if i64::from(a) * p < n => return wrong(format!("{p} blocks of {a} do not cover {n} elements")),
                (0 | 1, a) if a > 0 => i64::from(a),
                (kind, a) => return wrong(format!("distribution {kind} with argument {a} is none")),
            };
            if distributions[d] == 2 {
                return Ok(vec![(0, n as u32)]);
            }
            let (mut runs, mut first) = (Vec::new(), me * block);
            while first < n {
                runs.push((first as u32, block.min(n - first) as u32));
                if distributions[d] == 0 {
                    break;
                }
                if runs.len() > BLOCKS_MAX {
                    return Err(too_many());
                }
                first += block * p;
            }
            Ok(runs)
        })
    }

}

/// A buffer in guest memory: so many elements of a type from an address on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Buffer {
    pub address: u32,
    pub count: u32,
    pub datatype: Handle,
}

fn outside(buffer: &Buffer, mem: usize) -> Error {
    Error::new(
        Class::Buffer,
        format!("buffer at {:#x} with {} elements reaches outside of the memory of {mem} bytes", buffer.address, buffer.count),
    )
}

/// Where the bytes of a contiguous buffer are.
#[inline]
pub(crate) fn run(mem: &Memory<'_>, t: &Datatype, buffer: &Buffer) -> Result<std::ops::Range<usize>> {
    let len = u64::from(t.size) * u64::from(buffer.count);
    let start = u64::from(buffer.address);
    if start + len > mem.len() as u64 {
        return Err(outside(buffer, mem.len()));
    }
    Ok(start as usize..(start + len) as usize)
}

/// The bytes of a contiguous buffer, in place where that can be.
pub fn contiguous<'m>(mem: &'m Memory<'_>, t: &Datatype, buffer: &Buffer) -> Result<Cow<'m, [u8]>> {
    Ok(mem.bytes(run(mem, t, buffer)?).expect(WITHIN))
}

/// Calls `copy(guest range, packed range)` for each block, bounds checked beforehand; stops after `bytes` packed bytes.
fn each(
    mem: usize,
    t: &Datatype,
    buffer: &Buffer,
    bytes: usize,
    mut copy: impl FnMut(std::ops::Range<usize>, std::ops::Range<usize>),
) -> Result<()> {
    let mut at = 0;
    if t.blocks.is_empty() {
        return Ok(());
    }
    for i in 0..i64::from(buffer.count) {
        for b in &t.blocks {
            if at >= bytes {
                return Ok(());
            }
            let start = i64::from(buffer.address) + i * i64::from(t.extent) + i64::from(b.offset);
            let len = (b.len as usize).min(bytes - at);
            if start < 0 || start + len as i64 > mem as i64 {
                return Err(outside(buffer, mem));
            }
            copy(start as usize..start as usize + len, at..at + len);
            at += len;
        }
    }
    Ok(())
}

/// Checks that all of a buffer lies in memory of `mem` bytes. Gives its packed size in bytes, which is never more than `mem`.
pub fn within(mem: usize, t: &Datatype, buffer: &Buffer) -> Result<usize> {
    let bytes = u64::from(t.size) * u64::from(buffer.count);
    if bytes > 0 {
        let (low, high) = t.span(buffer.count);
        if i128::from(buffer.address) + low < 0 || i128::from(buffer.address) + high > mem as i128 {
            return Err(outside(buffer, mem));
        }
    }
    if bytes > mem as u64 {
        let text = format!("{} elements whose blocks overlap are {bytes} bytes, more than the whole memory of {mem}; send them in parts", buffer.count);
        return Err(Error::new(Class::Count, text));
    }
    Ok(bytes as usize)
}

/// Packs a buffer.
pub fn pack(mem: &Memory<'_>, t: &Datatype, buffer: &Buffer) -> Result<Vec<u8>> {
    if t.contiguous() {
        return contiguous(mem, t, buffer).map(Cow::into_owned);
    }
    let bytes = within(mem.len(), t, buffer)?;
    let mut packed = vec![0; bytes];
    each(mem.len(), t, buffer, bytes, |from, to| mem.read(from.start, &mut packed[to]).expect(WITHIN))?;
    Ok(packed)
}

/// Unpacks as many bytes as there are.
pub fn unpack(mem: &mut Memory<'_>, t: &Datatype, buffer: &Buffer, packed: &[u8]) -> Result<()> {
    if t.contiguous() {
        let run = run(mem, t, buffer)?;
        assert!(packed.len() <= run.len(), "no more is unpacked than the buffer has");
        mem.write(run.start, packed).expect(WITHIN);
        return Ok(());
    }
    each(mem.len(), t, buffer, packed.len(), |to, from| mem.write(to.start, &packed[from]).expect(WITHIN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vector_takes_a_column() {
        let mut types = Table::default();
        let column = types.make_vector(3, 1, 4, false, 8).unwrap();
        types.commit(column).unwrap();
        let mut bytes: Vec<u8> = (0..12i32).flat_map(|i| i.to_le_bytes()).collect();
        let before = bytes.clone();
        let mem = Memory::Own(&mut bytes);
        let t = types.committed(column).unwrap();
        assert_eq!((t.size, t.extent), (12, 36));
        let packed = pack(&mem, t, &Buffer { address: 4, count: 1, datatype: column }).unwrap();
        let ints: Vec<i32> = packed.chunks(4).map(|c| i32::from_le_bytes(c.try_into().unwrap())).collect();
        assert_eq!(ints, [1, 5, 9]);
        let mut back = vec![0; 48];
        unpack(&mut Memory::Own(&mut back), t, &Buffer { address: 4, count: 1, datatype: column }, &packed).unwrap();
        assert_eq!(back[4..8], before[4..8]);
        assert_eq!(back[8..12], [0; 4]);
        let far = Buffer { address: 20, count: 1, datatype: column };
        assert_eq!(pack(&mem, t, &far).unwrap_err().class, Class::Buffer);
    }

    #[test]
    fn sizes_are_the_guests() {
        let types = Table::default();
        let t = |h: i32| types.get(h).map(|t| (t.size, t.extent)).unwrap();
        for (handle, size, extent) in [(10, 4, 4), (15, 8, 8), (32, 12, 16), (35, 6, 8), (31, 8, 8)] {
            assert_eq!(t(handle), (size, extent), "datatype {handle}");
        }
        assert!(types.get(0).is_err() && types.get(99).is_err() && types.get(-5).is_err());
    }

    #[test]
    fn uncommitted_types_are_refused() {
        let mut types = Table::default();
        let pair = types.make_contiguous(2, 15).unwrap();
        assert!(types.committed(pair).unwrap_err().message.contains("MPI_Type_commit"));
    }
}
