//! Datatypes: where the bytes of one element lie, and how they are gathered into a message and scattered out of it.
//!
//! A type is its *type map* flattened to blocks in order, neighbours merged. A message carries packed bytes only, so sender and receiver may
//! describe the same data differently. Sizes are those of the 32-bit WebAssembly guest (`long` has four bytes).
//! Guest memory is a slice; an address is an offset into it; nothing outside is ever touched.

use crate::error::{Class, Error, Result};
use serde::{Deserialize, Serialize};
use std::sync::LazyLock;

/// A datatype handle as the guest sees it. Predefined ones have the numbers of `guests/mpi.h`.
pub type Handle = i32;

/// First handle of a derived datatype.
pub(crate) const DERIVED: i32 = 64;
/// A type map longer than this is refused: it would be slower to walk than the data to copy.
const BLOCKS_MAX: usize = 1 << 20;
/// Bytes of all datatypes that one rank has made. They lie outside of its memory.
const TYPES_BYTES_MAX: usize = 64 << 20;

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
        }
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
        t
    }

    /// Whether consecutive elements are one run of bytes.
    pub fn contiguous(&self) -> bool {
        self.extent == self.size as i32
            && match self.blocks.as_slice() {
                [] => true,
                [b] => b.offset == 0,
                _ => false,
            }
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
            lower = lower.min(a + i128::from(inner.lower_bound));
            upper = upper.max(b + i128::from(inner.lower_bound) + extent);
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
        if lower > upper {
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
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Derived {
    datatype: Datatype,
    /// The program has not freed it.
    named: bool,
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
        Some(Datatype { size: 0, extent: 0, blocks: Vec::new(), ..b(0, Mixed) }), // LB
        Some(Datatype { size: 0, extent: 0, blocks: Vec::new(), ..b(0, Mixed) }), // UB
        Some(b(32, C128)),
    ]
});

fn invalid(handle: Handle) -> Error {
    Error::new(Class::Type, format!("datatype handle {handle} is not valid"))
}

impl Table {
    fn derived(&self, handle: Handle) -> Option<&Derived> {
        self.derived.get(usize::try_from(i64::from(handle) - i64::from(DERIVED)).ok()?)?.as_ref()
    }

    fn derived_mut(&mut self, handle: Handle) -> Option<&mut Derived> {
        self.derived.get_mut(usize::try_from(i64::from(handle) - i64::from(DERIVED)).ok()?)?.as_mut()
    }

    /// A type that the program may name.
    pub fn get(&self, handle: Handle) -> Result<&Datatype> {
        if self.derived(handle).is_some_and(|d| !d.named) {
            return Err(invalid(handle));
        }
        self.used(handle)
    }

    /// A type that an operation uses: the program may have freed it since.
    pub(crate) fn used(&self, handle: Handle) -> Result<&Datatype> {
        let found = match handle {
            DERIVED.. => self.derived(handle).map(|d| &d.datatype),
            _ => usize::try_from(handle).ok().and_then(|i| PREDEFINED.get(i)).and_then(Option::as_ref),
        };
        found.ok_or_else(|| invalid(handle))
    }

    /// A type that may be used in communication.
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
        if let Some(Derived { datatype, named: false, uses: 0 }) = self.derived(handle) {
            self.bytes -= datatype.cost();
            let slot = (handle - DERIVED) as usize;
            self.derived[slot] = None;
            self.taken = self.taken.min(slot);
        }
    }

    /// Whether a table that was read from elsewhere is one that this module could have made.
    pub(crate) fn check(&self) -> Result<()> {
        for (i, t) in self.derived.iter().enumerate() {
            let Some(Derived { datatype: t, .. }) = t else { continue };
            let bytes: u64 = t.blocks.iter().map(|b| u64::from(b.len)).sum();
            if t.blocks.len() > BLOCKS_MAX || bytes != u64::from(t.size) || t.blocks.iter().any(|b| b.len == 0) {
                let text = format!("datatype {} has {bytes} bytes in {} blocks and a size of {}", DERIVED as usize + i, t.blocks.len(), t.size);
                return Err(Error::new(Class::Type, text));
            }
        }
        let bytes: usize = self.derived.iter().flatten().map(|d| d.datatype.cost()).sum();
        if bytes != self.bytes {
            return Err(Error::new(Class::Type, format!("datatypes of {bytes} bytes are counted as {}", self.bytes)));
        }
        Ok(())
    }

    fn add(&mut self, t: Datatype) -> Result<Handle> {
        let cost = t.cost();
        if self.bytes + cost > TYPES_BYTES_MAX {
            let text = format!("this rank's datatypes take {} bytes, and {cost} more are beyond {TYPES_BYTES_MAX}; free some with MPI_Type_free", self.bytes);
            return Err(Error::new(Class::Type, text));
        }
        let slot = (self.taken..self.derived.len()).find(|i| self.derived[*i].is_none()).unwrap_or_else(|| {
            self.derived.push(None);
            self.derived.len() - 1
        });
        self.taken = slot + 1;
        self.derived[slot] = Some(Derived { datatype: t, named: true, uses: 0 });
        self.bytes += cost;
        Ok(DERIVED + slot as i32)
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
            Some(d) => d.named = false,
            None => return Err(Error::new(Class::Type, "a predefined datatype can't be freed")),
        }
        self.tidy(handle);
        Ok(())
    }

    pub fn duplicate(&mut self, handle: Handle) -> Result<Handle> {
        let t = self.get(handle)?.clone();
        self.add(t)
    }

    fn count(n: i32) -> Result<u32> {
        u32::try_from(n).map_err(|_| Error::new(Class::Count, format!("count {n} is negative")))
    }

    /// `MPI_Type_contiguous`
    pub fn make_contiguous(&mut self, count: i32, inner: Handle) -> Result<Handle> {
        let t = Datatype::build(std::iter::once((0, Self::count(count)?, self.get(inner)?)))?;
        self.add(t)
    }

    /// `MPI_Type_vector` (`in_bytes` false: the stride counts elements) and `MPI_Type_create_hvector`.
    pub fn make_vector(&mut self, count: i32, block: i32, stride: i32, in_bytes: bool, inner: Handle) -> Result<Handle> {
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
        self.add(t)
    }

    /// `MPI_Type_indexed`, `MPI_Type_create_hindexed`, `MPI_Type_create_struct`: (block length, displacement, type) each.
    pub fn make_pieces(&mut self, count: i32, in_bytes: bool, mut piece: impl FnMut(u32) -> Result<(i32, i32, Handle)>) -> Result<Handle> {
        let count = Self::count(count)?;
        if count as usize > BLOCKS_MAX {
            return Err(too_many());
        }
        let mut made = Vec::with_capacity(count as usize);
        for i in 0..count {
            let (block, displacement, inner) = piece(i)?;
            let inner = self.get(inner)?;
            let unit = if in_bytes { 1 } else { i128::from(inner.extent) };
            made.push((i128::from(displacement) * unit, Self::count(block)?, inner));
        }
        let t = Datatype::build(made.into_iter())?;
        self.add(t)
    }

    /// `MPI_Type_create_resized`
    pub fn make_resized(&mut self, inner: Handle, lower_bound: i32, extent: i32) -> Result<Handle> {
        let t = Datatype { lower_bound, extent, committed: false, ..self.get(inner)?.clone() };
        self.add(t)
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

/// The bytes of a contiguous buffer, in place.
pub fn slice<'m>(mem: &'m mut [u8], t: &Datatype, buffer: &Buffer) -> Result<&'m mut [u8]> {
    let len = u64::from(t.size) * u64::from(buffer.count);
    let start = u64::from(buffer.address);
    if start + len > mem.len() as u64 {
        return Err(outside(buffer, mem.len()));
    }
    Ok(&mut mem[start as usize..(start + len) as usize])
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
        let low = t.blocks.iter().map(|b| i128::from(b.offset)).min().unwrap_or(0);
        let high = t.blocks.iter().map(|b| i128::from(b.offset) + i128::from(b.len)).max().unwrap_or(0);
        let last = i128::from(t.extent) * (i128::from(buffer.count) - 1);
        let start = i128::from(buffer.address) + low + last.min(0);
        let end = i128::from(buffer.address) + high + last.max(0);
        if start < 0 || end > mem as i128 {
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
pub fn pack(mem: &mut [u8], t: &Datatype, buffer: &Buffer) -> Result<Vec<u8>> {
    if t.contiguous() {
        return Ok(slice(mem, t, buffer)?.to_vec());
    }
    let bytes = within(mem.len(), t, buffer)?;
    let mut packed = vec![0; bytes];
    each(mem.len(), t, buffer, bytes, |from, to| packed[to].copy_from_slice(&mem[from]))?;
    Ok(packed)
}

/// Unpacks as many bytes as there are.
pub fn unpack(mem: &mut [u8], t: &Datatype, buffer: &Buffer, packed: &[u8]) -> Result<()> {
    if t.contiguous() {
        slice(mem, t, buffer)?[..packed.len()].copy_from_slice(packed);
        return Ok(());
    }
    each(mem.len(), t, buffer, packed.len(), |to, from| mem[to].copy_from_slice(&packed[from]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vector_takes_a_column() {
        let mut types = Table::default();
        let column = types.make_vector(3, 1, 4, false, 8).unwrap();
        types.commit(column).unwrap();
        let mut mem: Vec<u8> = (0..12i32).flat_map(|i| i.to_le_bytes()).collect();
        let t = types.committed(column).unwrap();
        assert_eq!((t.size, t.extent), (12, 36));
        let packed = pack(&mut mem, t, &Buffer { address: 4, count: 1, datatype: column }).unwrap();
        let ints: Vec<i32> = packed.chunks(4).map(|c| i32::from_le_bytes(c.try_into().unwrap())).collect();
        assert_eq!(ints, [1, 5, 9]);
        let mut back = vec![0; 48];
        unpack(&mut back, t, &Buffer { address: 4, count: 1, datatype: column }, &packed).unwrap();
        assert_eq!(back[4..8], mem[4..8]);
        assert_eq!(back[8..12], [0; 4]);
        let far = Buffer { address: 20, count: 1, datatype: column };
        assert_eq!(pack(&mut mem, t, &far).unwrap_err().class, Class::Buffer);
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
