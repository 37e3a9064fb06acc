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
    /// Several kinds, or one without arithmetic here (long double).
    Mixed,
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

    /// `pieces` are (displacement in bytes, count of `inner`), in order.
    fn build(pieces: impl Iterator<Item = (i64, u32, Datatype)>) -> Result<Datatype> {
        let too_large = || Error::new(Class::Type, "the datatype is too large: its offsets exceed 2 GiB");
        let mut blocks: Vec<Block> = Vec::new();
        let (mut size, mut lower, mut upper) = (0u64, i64::MAX, i64::MIN);
        let mut basic: Option<Basic> = None;
        for (displacement, count, inner) in pieces {
            basic = Some(match basic {
                None => inner.basic,
                Some(b) if b == inner.basic => b,
                Some(_) => Basic::Mixed,
            });
            size += u64::from(inner.size) * u64::from(count);
            if count > 0 {
                let last = displacement + i64::from(inner.extent) * (i64::from(count) - 1);
                let (a, b) = (displacement.min(last), displacement.max(last));
                lower = lower.min(a + i64::from(inner.lower_bound));
                upper = upper.max(b + i64::from(inner.lower_bound) + i64::from(inner.extent));
            }
            for i in 0..count {
                for b in &inner.blocks {
                    let offset = displacement + i64::from(i) * i64::from(inner.extent) + i64::from(b.offset);
                    let offset = i32::try_from(offset).map_err(|_| too_large())?;
                    match blocks.last_mut() {
                        Some(last) if i64::from(last.offset) + i64::from(last.len) == i64::from(offset) => {
                            last.len = last.len.checked_add(b.len).ok_or_else(too_large)?;
                        }
                        _ => blocks.push(Block { offset, len: b.len }),
                    }
                    if blocks.len() > BLOCKS_MAX {
                        return Err(Error::new(
                            Class::Type,
                            format!("the datatype has more than {BLOCKS_MAX} separate blocks; build it of larger runs"),
                        ));
                    }
                }
            }
        }
        if lower > upper {
            (lower, upper) = (0, 0);
        }
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

/// A rank's datatypes: those that it has made; the predefined ones are everybody's.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Table {
    derived: Vec<Option<Datatype>>,
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
        Some(b(16, Mixed)), // LONG_DOUBLE: no arithmetic
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
        p(16, 0, Mixed), // LONG_DOUBLE_INT
        Some(b(1, Byte)), // PACKED
        Some(Datatype { size: 0, extent: 0, blocks: Vec::new(), ..b(0, Mixed) }), // LB
        Some(Datatype { size: 0, extent: 0, blocks: Vec::new(), ..b(0, Mixed) }), // UB
    ]
});

impl Table {
    pub fn get(&self, handle: Handle) -> Result<&Datatype> {
        let slot = if handle >= DERIVED {
            self.derived.get((handle - DERIVED) as usize)
        } else {
            usize::try_from(handle).ok().and_then(|i| PREDEFINED.get(i))
        };
        slot.and_then(Option::as_ref)
            .ok_or_else(|| Error::new(Class::Type, format!("datatype handle {handle} is not valid")))
    }

    /// A type that may be used in communication.
    pub fn committed(&self, handle: Handle) -> Result<&Datatype> {
        let t = self.get(handle)?;
        if !t.committed {
            return Err(Error::new(Class::Type, format!("datatype {handle} is not committed; call MPI_Type_commit first")));
        }
        Ok(t)
    }

    /// Whether a table that was read from elsewhere is one that this module could have made.
    pub(crate) fn check(&self) -> Result<()> {
        for (i, t) in self.derived.iter().enumerate() {
            let Some(t) = t else { continue };
            let bytes: u64 = t.blocks.iter().map(|b| u64::from(b.len)).sum();
            if t.blocks.len() > BLOCKS_MAX || bytes != u64::from(t.size) {
                let text = format!("datatype {} has {bytes} bytes in {} blocks and a size of {}", DERIVED as usize + i, t.blocks.len(), t.size);
                return Err(Error::new(Class::Type, text));
            }
        }
        Ok(())
    }

    fn add(&mut self, t: Datatype) -> Handle {
        let slot = match self.derived.iter().position(Option::is_none) {
            Some(i) => i,
            None => {
                self.derived.push(None);
                self.derived.len() - 1
            }
        };
        self.derived[slot] = Some(t);
        DERIVED + slot as i32
    }

    pub fn commit(&mut self, handle: Handle) -> Result<()> {
        self.get(handle)?;
        if handle >= DERIVED
            && let Some(t) = &mut self.derived[(handle - DERIVED) as usize]
        {
            t.committed = true;
        }
        Ok(())
    }

    pub fn free(&mut self, handle: Handle) -> Result<()> {
        self.get(handle)?;
        if handle < DERIVED {
            return Err(Error::new(Class::Type, "a predefined datatype can't be freed"));
        }
        self.derived[(handle - DERIVED) as usize] = None;
        Ok(())
    }

    pub fn duplicate(&mut self, handle: Handle) -> Result<Handle> {
        let t = self.get(handle)?.clone();
        Ok(self.add(t))
    }

    fn count(n: i32) -> Result<u32> {
        u32::try_from(n).map_err(|_| Error::new(Class::Count, format!("count {n} is negative")))
    }

    /// `MPI_Type_contiguous`
    pub fn make_contiguous(&mut self, count: i32, inner: Handle) -> Result<Handle> {
        let inner = self.get(inner)?.clone();
        let t = Datatype::build(std::iter::once((0, Self::count(count)?, inner)))?;
        Ok(self.add(t))
    }

    /// `MPI_Type_vector` (`in_bytes` false: the stride counts elements) and `MPI_Type_create_hvector`.
    pub fn make_vector(&mut self, count: i32, block: i32, stride: i32, in_bytes: bool, inner: Handle) -> Result<Handle> {
        let inner = self.get(inner)?.clone();
        let block = Self::count(block)?;
        let unit = if in_bytes { 1 } else { i64::from(inner.extent) };
        let t = Datatype::build(
            (0..i64::from(Self::count(count)?)).map(|i| (i * i64::from(stride) * unit, block, inner.clone())),
        )?;
        Ok(self.add(t))
    }

    /// `MPI_Type_indexed`, `MPI_Type_create_hindexed`, `MPI_Type_create_struct`: (block length, displacement, type) each.
    pub fn make_pieces(&mut self, pieces: &[(i32, i32, Handle)], in_bytes: bool) -> Result<Handle> {
        let mut made = Vec::with_capacity(pieces.len());
        for &(block, displacement, inner) in pieces {
            let inner = self.get(inner)?.clone();
            let unit = if in_bytes { 1 } else { i64::from(inner.extent) };
            made.push((i64::from(displacement) * unit, Self::count(block)?, inner));
        }
        let t = Datatype::build(made.into_iter())?;
        Ok(self.add(t))
    }

    /// `MPI_Type_create_resized`
    pub fn make_resized(&mut self, inner: Handle, lower_bound: i32, extent: i32) -> Result<Handle> {
        let t = Datatype { lower_bound, extent, committed: false, ..self.get(inner)?.clone() };
        Ok(self.add(t))
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

/// Packs a buffer.
pub fn pack(mem: &mut [u8], t: &Datatype, buffer: &Buffer) -> Result<Vec<u8>> {
    if t.contiguous() {
        return Ok(slice(mem, t, buffer)?.to_vec());
    }
    let bytes = u64::from(t.size) * u64::from(buffer.count);
    // Overlapping send blocks are legal, but never more than memory many times over.
    if bytes > 1 << 32 {
        return Err(outside(buffer, mem.len()));
    }
    let mut packed = vec![0; bytes as usize];
    each(mem.len(), t, buffer, bytes as usize, |from, to| packed[to].copy_from_slice(&mem[from]))?;
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
