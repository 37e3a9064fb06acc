//! The predefined reductions, on packed elements. `into = into ⊕ from`, element by element.

use crate::datatype::Basic;
use crate::error::{Class, Error, Result};
use rustc_apfloat::{Float, ieee::Quad};
use serde::{Deserialize, Serialize};
use std::ops::{Add, Mul, Sub};

/// A predefined operation, with the number of `guests/mpi.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[repr(i32)]
pub enum Op {
    Max = 1,
    Min = 2,
    Sum = 3,
    Prod = 4,
    Land = 5,
    Band = 6,
    Lor = 7,
    Bor = 8,
    Lxor = 9,
    Bxor = 10,
    MaxLoc = 11,
    MinLoc = 12,
    Replace = 13,
}

impl Op {
    pub fn from_handle(handle: i32) -> Result<Op> {
        use Op::*;
        Ok(match handle {
            1 => Max,
            2 => Min,
            3 => Sum,
            4 => Prod,
            5 => Land,
            6 => Band,
            7 => Lor,
            8 => Bor,
            9 => Lxor,
            10 => Bxor,
            11 => MaxLoc,
            12 => MinLoc,
            13 => Replace,
            _ => return Err(Error::new(Class::Op, format!("operation handle {handle} is not valid"))),
        })
    }
}

/// An operation of the program's: its function, called by whoever runs the rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Number in the guest's function table.
    pub function: u32,
    pub commutes: bool,
}

/// First handle of an operation of the program's.
const FIRST: i32 = 64;
/// Operations of one rank at a time.
const USERS_MAX: usize = 1 << 16;

/// A rank's own operations.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Table(Vec<Option<User>>);

impl Table {
    pub fn add(&mut self, user: User) -> Result<i32> {
        let slot = self.0.iter().position(Option::is_none).unwrap_or(self.0.len());
        if slot >= USERS_MAX {
            return Err(Error::new(Class::Op, format!("this rank has {USERS_MAX} operations; free some with MPI_Op_free")));
        }
        if slot == self.0.len() {
            self.0.push(None);
        }
        self.0[slot] = Some(user);
        Ok(FIRST + slot as i32)
    }

    pub fn get(&self, handle: i32) -> Option<User> {
        *self.0.get(usize::try_from(i64::from(handle) - i64::from(FIRST)).ok()?)?
    }

    pub fn free(&mut self, handle: i32) -> Result<()> {
        match self.get(handle) {
            Some(_) => self.0[(handle - FIRST) as usize] = None,
            None => return Err(Error::new(Class::Op, format!("operation handle {handle} can't be freed: the program has not made it"))),
        }
        Ok(())
    }
}

trait Number: Copy + PartialOrd {
    const SIZE: usize;
    fn read(b: &[u8]) -> Self;
    fn write(self, b: &mut [u8]);
    /// Combines elements that follow each other.
    fn zip(into: &mut [u8], from: &[u8], f: impl Fn(Self, Self) -> Self) {
        for (a, b) in into.chunks_exact_mut(Self::SIZE).zip(from.chunks_exact(Self::SIZE)) {
            f(Self::read(a), Self::read(b)).write(a);
        }
    }
}
macro_rules! number {
    ($($t:ty),*) => {$(
        impl Number for $t {
            const SIZE: usize = size_of::<$t>();
            #[inline]
            fn read(b: &[u8]) -> Self { <$t>::from_le_bytes(b.try_into().expect("the chunk has the number's size")) }
            #[inline]
            fn write(self, b: &mut [u8]) { b.copy_from_slice(&self.to_le_bytes()) }
            // As arrays, whose length the compiler knows: it makes vector instructions of the loop.
            #[inline]
            fn zip(into: &mut [u8], from: &[u8], f: impl Fn(Self, Self) -> Self) {
                let (into, from) = (into.as_chunks_mut::<{ size_of::<$t>() }>().0, from.as_chunks::<{ size_of::<$t>() }>().0);
                for (a, b) in into.iter_mut().zip(from) {
                    *a = f(<$t>::from_le_bytes(*a), <$t>::from_le_bytes(*b)).to_le_bytes();
                }
            }
        }
    )*};
}
number!(i8, i16, i32, i64, u8, u16, u32, u64, f32, f64);

/// A `long double` of the guest: IEEE 754 binary128, rounded to nearest.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
struct F128(Quad);

impl Number for F128 {
    const SIZE: usize = 16;
    fn read(b: &[u8]) -> F128 {
        F128(Quad::from_bits(u128::from_le_bytes(b.try_into().expect("the chunk has the number's size"))))
    }
    fn write(self, b: &mut [u8]) {
        b.copy_from_slice(&self.0.to_bits().to_le_bytes());
    }
}
macro_rules! quad {
    ($($trait:ident $f:ident),*) => {$(
        impl $trait for F128 {
            type Output = F128;
            fn $f(self, other: F128) -> F128 { F128($trait::$f(self.0, other.0).value) }
        }
    )*};
}
quad!(Add add, Sub sub, Mul mul);

macro_rules! integer {
    ($t:ty, $op:expr, $into:expr, $from:expr) => {{
        let flag = |b: bool| b as u8 as $t;
        match $op {
            Op::Max => <$t as Number>::zip($into, $from, |a, b| a.max(b)),
            Op::Min => <$t as Number>::zip($into, $from, |a, b| a.min(b)),
            Op::Sum => <$t as Number>::zip($into, $from, |a, b| a.wrapping_add(b)),
            Op::Prod => <$t as Number>::zip($into, $from, |a, b| a.wrapping_mul(b)),
            Op::Land => <$t as Number>::zip($into, $from, |a, b| flag(a != 0 && b != 0)),
            Op::Lor => <$t as Number>::zip($into, $from, |a, b| flag(a != 0 || b != 0)),
            Op::Lxor => <$t as Number>::zip($into, $from, |a, b| flag((a != 0) != (b != 0))),
            Op::Band => <$t as Number>::zip($into, $from, |a, b| a & b),
            Op::Bor => <$t as Number>::zip($into, $from, |a, b| a | b),
            Op::Bxor => <$t as Number>::zip($into, $from, |a, b| a ^ b),
            Op::Replace => $into.copy_from_slice($from),
            Op::MaxLoc | Op::MinLoc => return Err(unfit($op, "an integer")),
        }
    }};
}
macro_rules! float {
    ($t:ty, $op:expr, $into:expr, $from:expr) => {{
        match $op {
            Op::Max => <$t as Number>::zip($into, $from, |a, b| if b > a { b } else { a }),
            Op::Min => <$t as Number>::zip($into, $from, |a, b| if b < a { b } else { a }),
            Op::Sum => <$t as Number>::zip($into, $from, |a, b| a + b),
            Op::Prod => <$t as Number>::zip($into, $from, |a, b| a * b),
            Op::Replace => $into.copy_from_slice($from),
            _ => return Err(unfit($op, "a floating-point number")),
        }
    }};
}

fn unfit(op: Op, what: &str) -> Error {
    Error::new(Class::Op, format!("operation {op:?} is not defined on {what}"))
}

/// MAXLOC and MINLOC: the value decides, on a tie the lower index.
fn locate<T: Number>(op: Op, into: &mut [u8], from: &[u8]) -> Result<()> {
    let size = T::SIZE + 4;
    for (a, b) in into.chunks_exact_mut(size).zip(from.chunks_exact(size)) {
        let (va, vb) = (T::read(&a[..T::SIZE]), T::read(&b[..T::SIZE]));
        let (ia, ib) = (i32::read(&a[T::SIZE..]), i32::read(&b[T::SIZE..]));
        let better = match op {
            Op::MaxLoc => vb > va,
            Op::MinLoc => vb < va,
            Op::Replace => true,
            _ => return Err(unfit(op, "a value with its index")),
        };
        if better || (va == vb && ib < ia) {
            a.copy_from_slice(b);
        }
    }
    Ok(())
}

fn complex<T: Number + Add<Output = T> + Mul<Output = T> + Sub<Output = T>>(op: Op, into: &mut [u8], from: &[u8]) -> Result<()> {
    let n = T::SIZE;
    for (a, b) in into.chunks_exact_mut(2 * n).zip(from.chunks_exact(2 * n)) {
        let (ar, ai, br, bi) = (T::read(&a[..n]), T::read(&a[n..]), T::read(&b[..n]), T::read(&b[n..]));
        let (r, i) = match op {
            Op::Sum => (ar + br, ai + bi),
            Op::Prod => (ar * br - ai * bi, ar * bi + ai * br),
            Op::Replace => (br, bi),
            _ => return Err(unfit(op, "a complex number")),
        };
        r.write(&mut a[..n]);
        i.write(&mut a[n..]);
    }
    Ok(())
}

/// `into = into ⊕ from` on packed elements of equal length.
pub fn apply(op: Op, basic: Basic, into: &mut [u8], from: &[u8]) -> Result<()> {
    assert_eq!(into.len(), from.len(), "both operands of a reduction have the same length");
    match basic {
        Basic::I8 => integer!(i8, op, into, from),
        Basic::I16 => integer!(i16, op, into, from),
        Basic::I32 => integer!(i32, op, into, from),
        Basic::I64 => integer!(i64, op, into, from),
        Basic::U8 | Basic::Bool => integer!(u8, op, into, from),
        Basic::U16 => integer!(u16, op, into, from),
        Basic::U32 => integer!(u32, op, into, from),
        Basic::U64 => integer!(u64, op, into, from),
        Basic::F32 => float!(f32, op, into, from),
        Basic::F64 => float!(f64, op, into, from),
        Basic::F128 => float!(F128, op, into, from),
        Basic::Byte => match op {
            Op::Band | Op::Bor | Op::Bxor | Op::Replace => integer!(u8, op, into, from),
            _ => return Err(unfit(op, "MPI_BYTE")),
        },
        Basic::C32 => complex::<f32>(op, into, from)?,
        Basic::C64 => complex::<f64>(op, into, from)?,
        Basic::C128 => complex::<F128>(op, into, from)?,
        Basic::F32Int => locate::<f32>(op, into, from)?,
        Basic::F64Int => locate::<f64>(op, into, from)?,
        Basic::F128Int => locate::<F128>(op, into, from)?,
        Basic::I32Int => locate::<i32>(op, into, from)?,
        Basic::I16Int => locate::<i16>(op, into, from)?,
        Basic::Mixed => return Err(unfit(op, "this datatype")),
    }
    Ok(())
}

/// Whether `op` may be used on `basic` at all: asked before anything is sent.
pub fn check(op: Op, basic: Basic) -> Result<()> {
    if fits(op, basic) {
        return Ok(());
    }
    // For the words of its error.
    let n = apply_size(basic).ok_or_else(|| unfit(op, "this datatype"))?;
    apply(op, basic, &mut vec![0; n], &vec![0; n])
}

/// What [`apply`] carries out without an error.
#[inline]
pub fn fits(op: Op, basic: Basic) -> bool {
    use {Basic as B, Op::*};
    match basic {
        B::I8 | B::I16 | B::I32 | B::I64 | B::U8 | B::U16 | B::U32 | B::U64 | B::Bool => !matches!(op, MaxLoc | MinLoc),
        B::F32 | B::F64 | B::F128 => matches!(op, Max | Min | Sum | Prod | Replace),
        B::Byte => matches!(op, Band | Bor | Bxor | Replace),
        B::C32 | B::C64 | B::C128 => matches!(op, Sum | Prod | Replace),
        B::F32Int | B::F64Int | B::F128Int | B::I32Int | B::I16Int => matches!(op, MaxLoc | MinLoc | Replace),
        B::Mixed => false,
    }
}

fn apply_size(basic: Basic) -> Option<usize> {
    Some(match basic {
        Basic::I8 | Basic::U8 | Basic::Bool | Basic::Byte => 1,
        Basic::I16 | Basic::U16 => 2,
        Basic::I32 | Basic::U32 | Basic::F32 => 4,
        Basic::I64 | Basic::U64 | Basic::F64 | Basic::C32 | Basic::F32Int | Basic::I32Int => 8,
        Basic::C64 | Basic::F128 => 16,
        Basic::C128 => 32,
        Basic::F64Int => 12,
        Basic::F128Int => 20,
        Basic::I16Int => 6,
        Basic::Mixed => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Vectors and what remains behind them: each element as if it were alone.
    #[test]
    fn many_elements_are_combined_as_each_is() {
        let ops = [Op::Max, Op::Min, Op::Sum, Op::Prod, Op::Land, Op::Lor, Op::Lxor, Op::Band, Op::Bor, Op::Bxor, Op::Replace];
        let all = [Basic::I8, Basic::I16, Basic::I32, Basic::I64, Basic::U8, Basic::U16, Basic::U32, Basic::U64, Basic::F32, Basic::F64, Basic::F128, Basic::C32, Basic::C64];
        for (basic, op) in all.into_iter().flat_map(|basic| ops.map(|op| (basic, op))).filter(|(basic, op)| check(*op, *basic).is_ok()) {
            let size = apply_size(basic).unwrap();
            for n in [0, 1, 37, 64] {
                // Of a double, byte 7 has the sign and most of the exponent: finite, of both signs.
                let bytes = |seed: usize| (0..n * size).map(|i| (i * 37 + seed) as u8 & 0xbf).collect::<Vec<u8>>();
                let (mut one, from) = (bytes(1), bytes(101));
                let mut many = one.clone();
                apply(op, basic, &mut many, &from).unwrap();
                one.chunks_mut(size).zip(from.chunks(size)).for_each(|(into, from)| apply(op, basic, into, from).unwrap());
                assert_eq!(many, one, "{op:?} of {n} {basic:?}");
            }
        }
    }

    #[test]
    fn the_table_says_what_is_carried_out() {
        use Basic::*;
        let all = [I8, I16, I32, I64, U8, U16, U32, U64, Bool, Byte, F32, F64, F128, C32, C64, C128, F32Int, F64Int, F128Int, I32Int, I16Int];
        for (basic, op) in all.into_iter().flat_map(|basic| (1..=13).map(move |op| (basic, Op::from_handle(op).unwrap()))) {
            let size = apply_size(basic).unwrap();
            let carried_out = apply(op, basic, &mut vec![0; size], &vec![0; size]).is_ok();
            assert_eq!((fits(op, basic), check(op, basic).is_ok()), (carried_out, carried_out), "{op:?} of {basic:?}");
        }
        assert!(!fits(Op::Replace, Mixed) && check(Op::Replace, Mixed).is_err());
    }

    #[test]
    fn integers_and_locations() {
        let mut a = 12i32.to_le_bytes().to_vec();
        apply(Op::Bxor, Basic::I32, &mut a, &10i32.to_le_bytes()).unwrap();
        assert_eq!(a, 6i32.to_le_bytes());
        let pair = |v: f64, i: i32| [v.to_le_bytes().to_vec(), i.to_le_bytes().to_vec()].concat();
        for (x, y, best) in [((1.0, 5), (2.0, 9), (2.0, 9)), ((2.0, 5), (2.0, 3), (2.0, 3)), ((3.0, 1), (2.0, 0), (3.0, 1))] {
            let mut a = pair(x.0, x.1);
            apply(Op::MaxLoc, Basic::F64Int, &mut a, &pair(y.0, y.1)).unwrap();
            assert_eq!(a, pair(best.0, best.1));
        }
        // 2^64 + 1 has 65 digits: more than a double or the long double of a PC holds. Bits by the layout of binary128.
        let power = |n: u128| ((16383 + n) << 112).to_le_bytes();
        let mut a = power(64).to_vec();
        apply(Op::Sum, Basic::F128, &mut a, &power(0)).unwrap();
        assert_eq!(a, (((16383 + 64) << 112) + (1u128 << 48)).to_le_bytes());
        apply(Op::Prod, Basic::F128, &mut a, &power(3)).unwrap();
        assert_eq!(a, (((16383 + 67) << 112) + (1u128 << 48)).to_le_bytes());
        // A maximum with what is not a number keeps what was there first, as for the other kinds; on a tie the lower place wins.
        let nan = (0x7fff_8000u128 << 96).to_le_bytes();
        let mut a = power(0).to_vec();
        apply(Op::Max, Basic::F128, &mut a, &nan).unwrap();
        assert_eq!(a, power(0));
        let mut a = [&power(1)[..], &7i32.to_le_bytes()].concat();
        apply(Op::MaxLoc, Basic::F128Int, &mut a, &[&power(1)[..], &3i32.to_le_bytes()].concat()).unwrap();
        assert_eq!(a[16..], 3i32.to_le_bytes());
        assert!(check(Op::Band, Basic::F64).is_err() && check(Op::Land, Basic::F128).is_err());
        assert!(check(Op::Sum, Basic::Mixed).is_err());
        assert!(check(Op::Land, Basic::I16).is_ok());
    }
}
