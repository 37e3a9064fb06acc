//! The instructions on 128-bit vectors. A vector is `<2 x i64>` between instructions and what an instruction takes it for inside.

use super::translate::{Stays, Ty, Writer};
use wasmparser::{MemArg, Operator};

const I8: &str = "<16 x i8>";
const I16: &str = "<8 x i16>";
const I32: &str = "<4 x i32>";
const I64: &str = "<2 x i64>";
const F32: &str = "<4 x float>";
const F64: &str = "<2 x double>";

/// Lanes and the type of one, of a vector's IR type.
fn shape(ll: &str) -> (u32, &str) {
    let inner = &ll[1..ll.len() - 1];
    let (n, lane) = inner.split_once(" x ").unwrap_or(("1", inner));
    (n.parse().unwrap_or(1), lane)
}

/// As intrinsics' names have it: `v4i32`.
fn short(ll: &str) -> String {
    let (n, lane) = shape(ll);
    format!("v{n}{}", match lane {
        "float" => "f32",
        "double" => "f64",
        other => other,
    })
}

fn as_(w: &mut Writer<'_>, ll: &str, v: &str) -> String {
    if ll == I64 { v.to_string() } else { w.let_(&format!("bitcast <2 x i64> {v} to {ll}")) }
}

fn pop(w: &mut Writer<'_>, ll: &str) -> String {
    let v = w.pop();
    as_(w, ll, &v)
}

fn push(w: &mut Writer<'_>, ll: &str, v: &str) {
    let v = if ll == I64 { v.to_string() } else { w.let_(&format!("bitcast {ll} {v} to <2 x i64>")) };
    w.push(Ty::V128, v);
}

fn pop2(w: &mut Writer<'_>, ll: &str) -> (String, String) {
    let b = pop(w, ll);
    (pop(w, ll), b)
}

fn binary(w: &mut Writer<'_>, ll: &str, op: &str) {
    let (a, b) = pop2(w, ll);
    let v = w.let_(&format!("{op} {ll} {a}, {b}"));
    push(w, ll, &v);
}

fn compare(w: &mut Writer<'_>, ll: &str, mask: &str, op: &str) {
    let (a, b) = pop2(w, ll);
    let c = w.let_(&format!("{op} {ll} {a}, {b}"));
    let v = w.let_(&format!("sext <{} x i1> {c} to {mask}", shape(ll).0));
    push(w, mask, &v);
}

fn call1(w: &mut Writer<'_>, ll: &str, name: &str) {
    let a = pop(w, ll);
    let v = w.intrinsic(ll, &format!("{name}.{}", short(ll)), &[(ll, &a)]);
    push(w, ll, &v);
}

fn call2(w: &mut Writer<'_>, ll: &str, name: &str) {
    let (a, b) = pop2(w, ll);
    let v = w.intrinsic(ll, &format!("{name}.{}", short(ll)), &[(ll, &a), (ll, &b)]);
    push(w, ll, &v);
}

/// The lesser by `op`, else the first, as C's `b < a ? b : a`.
fn choose(w: &mut Writer<'_>, ll: &str, less: bool) {
    let (a, b) = pop2(w, ll);
    let c = if less { w.let_(&format!("fcmp olt {ll} {b}, {a}")) } else { w.let_(&format!("fcmp olt {ll} {a}, {b}")) };
    let v = w.let_(&format!("select <{} x i1> {c}, {ll} {b}, {ll} {a}", shape(ll).0));
    push(w, ll, &v);
}

/// The same scalar in all lanes.
fn spread(w: &mut Writer<'_>, ll: &str, scalar: &str) -> String {
    let (n, lane) = shape(ll);
    let one = w.let_(&format!("insertelement {ll} poison, {lane} {scalar}, i32 0"));
    w.let_(&format!("shufflevector {ll} {one}, {ll} poison, <{n} x i32> zeroinitializer"))
}

fn splat(w: &mut Writer<'_>, ll: &str) {
    let a = w.pop();
    let lane = shape(ll).1;
    let a = if lane == "i8" || lane == "i16" { w.let_(&format!("trunc i32 {a} to {lane}")) } else { a };
    let v = spread(w, ll, &a);
    push(w, ll, &v);
}

fn shift(w: &mut Writer<'_>, ll: &str, op: &str) {
    let by = w.pop();
    let a = pop(w, ll);
    let lane = shape(ll).1;
    let bits: u32 = lane[1..].parse().unwrap_or(32);
    let by = w.let_(&format!("and i32 {by}, {}", bits - 1));
    let by = match bits {
        8 | 16 => w.let_(&format!("trunc i32 {by} to {lane}")),
        64 => w.let_(&format!("zext i32 {by} to i64")),
        _ => by,
    };
    let by = spread(w, ll, &by);
    let v = w.let_(&format!("{op} {ll} {a}, {by}"));
    push(w, ll, &v);
}

fn extract(w: &mut Writer<'_>, ll: &str, ty: Ty, lane: u8, widen: Option<&str>) {
    let a = pop(w, ll);
    let mut v = w.let_(&format!("extractelement {ll} {a}, i32 {lane}"));
    if let Some(op) = widen {
        v = w.let_(&format!("{op} {} {v} to i32", shape(ll).1));
    }
    w.push(ty, v);
}

fn replace(w: &mut Writer<'_>, ll: &str, lane: u8) {
    let s = w.pop();
    let a = pop(w, ll);
    let one = shape(ll).1;
    let s = if one == "i8" || one == "i16" { w.let_(&format!("trunc i32 {s} to {one}")) } else { s };
    let v = w.let_(&format!("insertelement {ll} {a}, {one} {s}, i32 {lane}"));
    push(w, ll, &v);
}

/// Half of the lanes, made wider; `part` picks them: low, high, even or odd.
fn part(w: &mut Writer<'_>, from: &str, to: &str, v: &str, pick: impl Fn(u32) -> u32, op: &str) -> String {
    let (n, lane) = shape(from);
    let lanes: Vec<String> = (0..n / 2).map(|i| format!("i32 {}", pick(i))).collect();
    let half = w.let_(&format!("shufflevector {from} {v}, {from} poison, <{} x i32> <{}>", n / 2, lanes.join(", ")));
    w.let_(&format!("{op} <{} x {lane}> {half} to {to}", n / 2))
}

fn extend(w: &mut Writer<'_>, from: &str, to: &str, high: bool, op: &str) {
    let a = pop(w, from);
    let n = shape(from).0 / 2;
    let v = part(w, from, to, &a, |i| i + if high { n } else { 0 }, op);
    push(w, to, &v);
}

fn multiply_wide(w: &mut Writer<'_>, from: &str, to: &str, high: bool, op: &str) {
    let (a, b) = pop2(w, from);
    let n = shape(from).0 / 2;
    let pick = |i| i + if high { n } else { 0 };
    let (a, b) = (part(w, from, to, &a, pick, op), part(w, from, to, &b, pick, op));
    let v = w.let_(&format!("mul {to} {a}, {b}"));
    push(w, to, &v);
}

fn pairwise(w: &mut Writer<'_>, from: &str, to: &str, op: &str) {
    let a = pop(w, from);
    let (even, odd) = (part(w, from, to, &a, |i| 2 * i, op), part(w, from, to, &a, |i| 2 * i + 1, op));
    let v = w.let_(&format!("add {to} {even}, {odd}"));
    push(w, to, &v);
}

/// Both vectors' lanes in half the width, saturating: signed, or unsigned from signed.
fn narrow(w: &mut Writer<'_>, from: &str, to: &str, low: i64, high: i64) {
    let (a, b) = pop2(w, from);
    let (n, lane) = shape(from);
    let all: Vec<String> = (0..2 * n).map(|i| format!("i32 {i}")).collect();
    let wide = format!("<{} x {lane}>", 2 * n);
    let both = w.let_(&format!("shufflevector {from} {a}, {from} {b}, <{} x i32> <{}>", 2 * n, all.join(", ")));
    let same = |v: i64| format!("splat ({lane} {v})");
    let v = w.intrinsic(&wide, &format!("smax.{}", short(&wide)), &[(&wide, &both), (&wide, &same(low))]);
    let v = w.intrinsic(&wide, &format!("smin.{}", short(&wide)), &[(&wide, &v), (&wide, &same(high))]);
    let v = w.let_(&format!("trunc {wide} {v} to {to}"));
    push(w, to, &v);
}

fn average(w: &mut Writer<'_>, ll: &str, wide: &str) {
    let (a, b) = pop2(w, ll);
    let lane = shape(wide).1;
    let (a, b) = (w.let_(&format!("zext {ll} {a} to {wide}")), w.let_(&format!("zext {ll} {b} to {wide}")));
    let v = w.let_(&format!("add {wide} {a}, {b}"));
    let v = w.let_(&format!("add {wide} {v}, splat ({lane} 1)"));
    let v = w.let_(&format!("lshr {wide} {v}, splat ({lane} 1)"));
    let v = w.let_(&format!("trunc {wide} {v} to {ll}"));
    push(w, ll, &v);
}

fn all_true(w: &mut Writer<'_>, ll: &str) {
    let a = pop(w, ll);
    let n = shape(ll).0;
    let c = w.let_(&format!("icmp ne {ll} {a}, zeroinitializer"));
    let c = w.intrinsic("i1", &format!("vector.reduce.and.v{n}i1"), &[(&format!("<{n} x i1>"), &c)]);
    w.push_bool(&c);
}

fn bitmask(w: &mut Writer<'_>, ll: &str) {
    let a = pop(w, ll);
    let n = shape(ll).0;
    let c = w.let_(&format!("icmp slt {ll} {a}, zeroinitializer"));
    let bits = w.let_(&format!("bitcast <{n} x i1> {c} to i{n}"));
    let v = w.let_(&format!("zext i{n} {bits} to i32"));
    w.push(Ty::I32, v);
}

fn abs(w: &mut Writer<'_>, ll: &str) {
    let a = pop(w, ll);
    let v = w.intrinsic(ll, &format!("abs.{}", short(ll)), &[(ll, &a), ("i1", "false")]);
    push(w, ll, &v);
}

fn negate(w: &mut Writer<'_>, ll: &str) {
    let a = pop(w, ll);
    let v = if shape(ll).1.starts_with('i') { w.let_(&format!("sub {ll} zeroinitializer, {a}")) } else { w.let_(&format!("fneg {ll} {a}")) };
    push(w, ll, &v);
}

fn load_extend(w: &mut Writer<'_>, memarg: &MemArg, from: &str, to: &str, op: &str) -> Result<(), Stays> {
    let v = w.load_as(memarg, from, 8)?;
    let v = w.let_(&format!("{op} {from} {v} to {to}"));
    push(w, to, &v);
    Ok(())
}

fn load_splat(w: &mut Writer<'_>, memarg: &MemArg, ll: &str, bytes: u64) -> Result<(), Stays> {
    let v = w.load_as(memarg, shape(ll).1, bytes)?;
    let v = spread(w, ll, &v);
    push(w, ll, &v);
    Ok(())
}

fn load_zero(w: &mut Writer<'_>, memarg: &MemArg, ll: &str, bytes: u64) -> Result<(), Stays> {
    let lane = shape(ll).1;
    let v = w.load_as(memarg, lane, bytes)?;
    let v = w.let_(&format!("insertelement {ll} zeroinitializer, {lane} {v}, i32 0"));
    push(w, ll, &v);
    Ok(())
}

fn load_lane(w: &mut Writer<'_>, memarg: &MemArg, ll: &str, bytes: u64, lane: u8) -> Result<(), Stays> {
    let a = pop(w, ll);
    let one = shape(ll).1;
    let s = w.load_as(memarg, one, bytes)?;
    let v = w.let_(&format!("insertelement {ll} {a}, {one} {s}, i32 {lane}"));
    push(w, ll, &v);
    Ok(())
}

fn store_lane(w: &mut Writer<'_>, memarg: &MemArg, ll: &str, bytes: u64, lane: u8) -> Result<(), Stays> {
    let a = pop(w, ll);
    let s = w.let_(&format!("extractelement {ll} {a}, i32 {lane}"));
    w.store_as(memarg, shape(ll).1, &s, bytes)
}

fn convert(w: &mut Writer<'_>, from: &str, to: &str, op: &str) {
    let a = pop(w, from);
    let v = w.let_(&format!("{op} {from} {a} to {to}"));
    push(w, to, &v);
}

fn saturate(w: &mut Writer<'_>, name: &str) {
    let a = pop(w, F32);
    let v = w.intrinsic(I32, &format!("{name}.v4i32.v4f32"), &[(F32, &a)]);
    push(w, I32, &v);
}

/// Two doubles to two integers, and two zeros.
fn saturate_zero(w: &mut Writer<'_>, name: &str) {
    let a = pop(w, F64);
    let v = w.intrinsic("<2 x i32>", &format!("{name}.v2i32.v2f64"), &[(F64, &a)]);
    let v = w.let_(&format!("shufflevector <2 x i32> {v}, <2 x i32> zeroinitializer, <4 x i32> <i32 0, i32 1, i32 2, i32 3>"));
    push(w, I32, &v);
}

pub(super) fn operator(w: &mut Writer<'_>, op: &Operator<'_>) -> Result<(), Stays> {
    use Operator as O;
    match op {
        O::V128Load8x8S { memarg } => load_extend(w, memarg, "<8 x i8>", I16, "sext")?,
        O::V128Load8x8U { memarg } => load_extend(w, memarg, "<8 x i8>", I16, "zext")?,
        O::V128Load16x4S { memarg } => load_extend(w, memarg, "<4 x i16>", I32, "sext")?,
        O::V128Load16x4U { memarg } => load_extend(w, memarg, "<4 x i16>", I32, "zext")?,
        O::V128Load32x2S { memarg } => load_extend(w, memarg, "<2 x i32>", I64, "sext")?,
        O::V128Load32x2U { memarg } => load_extend(w, memarg, "<2 x i32>", I64, "zext")?,
        O::V128Load8Splat { memarg } => load_splat(w, memarg, I8, 1)?,
        O::V128Load16Splat { memarg } => load_splat(w, memarg, I16, 2)?,
        O::V128Load32Splat { memarg } => load_splat(w, memarg, I32, 4)?,
        O::V128Load64Splat { memarg } => load_splat(w, memarg, I64, 8)?,
        O::V128Load32Zero { memarg } => load_zero(w, memarg, I32, 4)?,
        O::V128Load64Zero { memarg } => load_zero(w, memarg, I64, 8)?,
        O::V128Load8Lane { memarg, lane } => load_lane(w, memarg, I8, 1, *lane)?,
        O::V128Load16Lane { memarg, lane } => load_lane(w, memarg, I16, 2, *lane)?,
        O::V128Load32Lane { memarg, lane } => load_lane(w, memarg, I32, 4, *lane)?,
        O::V128Load64Lane { memarg, lane } => load_lane(w, memarg, I64, 8, *lane)?,
        O::V128Store8Lane { memarg, lane } => store_lane(w, memarg, I8, 1, *lane)?,
        O::V128Store16Lane { memarg, lane } => store_lane(w, memarg, I16, 2, *lane)?,
        O::V128Store32Lane { memarg, lane } => store_lane(w, memarg, I32, 4, *lane)?,
        O::V128Store64Lane { memarg, lane } => store_lane(w, memarg, I64, 8, *lane)?,
        O::V128Const { value } => {
            let b = value.bytes();
            let half = |at: usize| i64::from_le_bytes(b[at..at + 8].try_into().unwrap_or_default());
            w.push(Ty::V128, format!("<i64 {}, i64 {}>", half(0), half(8)));
        }
        O::I8x16Shuffle { lanes } => {
            let (a, b) = pop2(w, I8);
            let lanes: Vec<String> = lanes.iter().map(|l| format!("i32 {l}")).collect();
            let v = w.let_(&format!("shufflevector {I8} {a}, {I8} {b}, <16 x i32> <{}>", lanes.join(", ")));
            push(w, I8, &v);
        }
        O::I8x16Swizzle => swizzle(w),
        O::I8x16Splat => splat(w, I8),
        O::I16x8Splat => splat(w, I16),
        O::I32x4Splat => splat(w, I32),
        O::I64x2Splat => splat(w, I64),
        O::F32x4Splat => splat(w, F32),
        O::F64x2Splat => splat(w, F64),
        O::I8x16ExtractLaneS { lane } => extract(w, I8, Ty::I32, *lane, Some("sext")),
        O::I8x16ExtractLaneU { lane } => extract(w, I8, Ty::I32, *lane, Some("zext")),
        O::I16x8ExtractLaneS { lane } => extract(w, I16, Ty::I32, *lane, Some("sext")),
        O::I16x8ExtractLaneU { lane } => extract(w, I16, Ty::I32, *lane, Some("zext")),
        O::I32x4ExtractLane { lane } => extract(w, I32, Ty::I32, *lane, None),
        O::I64x2ExtractLane { lane } => extract(w, I64, Ty::I64, *lane, None),
        O::F32x4ExtractLane { lane } => extract(w, F32, Ty::F32, *lane, None),
        O::F64x2ExtractLane { lane } => extract(w, F64, Ty::F64, *lane, None),
        O::I8x16ReplaceLane { lane } => replace(w, I8, *lane),
        O::I16x8ReplaceLane { lane } => replace(w, I16, *lane),
        O::I32x4ReplaceLane { lane } => replace(w, I32, *lane),
        O::I64x2ReplaceLane { lane } => replace(w, I64, *lane),
        O::F32x4ReplaceLane { lane } => replace(w, F32, *lane),
        O::F64x2ReplaceLane { lane } => replace(w, F64, *lane),
        O::I8x16Eq => compare(w, I8, I8, "icmp eq"),
        O::I8x16Ne => compare(w, I8, I8, "icmp ne"),
        O::I8x16LtS => compare(w, I8, I8, "icmp slt"),
        O::I8x16LtU => compare(w, I8, I8, "icmp ult"),
        O::I8x16GtS => compare(w, I8, I8, "icmp sgt"),
        O::I8x16GtU => compare(w, I8, I8, "icmp ugt"),
        O::I8x16LeS => compare(w, I8, I8, "icmp sle"),
        O::I8x16LeU => compare(w, I8, I8, "icmp ule"),
        O::I8x16GeS => compare(w, I8, I8, "icmp sge"),
        O::I8x16GeU => compare(w, I8, I8, "icmp uge"),
        O::I16x8Eq => compare(w, I16, I16, "icmp eq"),
        O::I16x8Ne => compare(w, I16, I16, "icmp ne"),
        O::I16x8LtS => compare(w, I16, I16, "icmp slt"),
        O::I16x8LtU => compare(w, I16, I16, "icmp ult"),
        O::I16x8GtS => compare(w, I16, I16, "icmp sgt"),
        O::I16x8GtU => compare(w, I16, I16, "icmp ugt"),
        O::I16x8LeS => compare(w, I16, I16, "icmp sle"),
        O::I16x8LeU => compare(w, I16, I16, "icmp ule"),
        O::I16x8GeS => compare(w, I16, I16, "icmp sge"),
        O::I16x8GeU => compare(w, I16, I16, "icmp uge"),
        O::I32x4Eq => compare(w, I32, I32, "icmp eq"),
        O::I32x4Ne => compare(w, I32, I32, "icmp ne"),
        O::I32x4LtS => compare(w, I32, I32, "icmp slt"),
        O::I32x4LtU => compare(w, I32, I32, "icmp ult"),
        O::I32x4GtS => compare(w, I32, I32, "icmp sgt"),
        O::I32x4GtU => compare(w, I32, I32, "icmp ugt"),
        O::I32x4LeS => compare(w, I32, I32, "icmp sle"),
        O::I32x4LeU => compare(w, I32, I32, "icmp ule"),
        O::I32x4GeS => compare(w, I32, I32, "icmp sge"),
        O::I32x4GeU => compare(w, I32, I32, "icmp uge"),
        O::I64x2Eq => compare(w, I64, I64, "icmp eq"),
        O::I64x2Ne => compare(w, I64, I64, "icmp ne"),
        O::I64x2LtS => compare(w, I64, I64, "icmp slt"),
        O::I64x2GtS => compare(w, I64, I64, "icmp sgt"),
        O::I64x2LeS => compare(w, I64, I64, "icmp sle"),
        O::I64x2GeS => compare(w, I64, I64, "icmp sge"),
        O::F32x4Eq => compare(w, F32, I32, "fcmp oeq"),
        O::F32x4Ne => compare(w, F32, I32, "fcmp une"),
        O::F32x4Lt => compare(w, F32, I32, "fcmp olt"),
        O::F32x4Gt => compare(w, F32, I32, "fcmp ogt"),
        O::F32x4Le => compare(w, F32, I32, "fcmp ole"),
        O::F32x4Ge => compare(w, F32, I32, "fcmp oge"),
        O::F64x2Eq => compare(w, F64, I64, "fcmp oeq"),
        O::F64x2Ne => compare(w, F64, I64, "fcmp une"),
        O::F64x2Lt => compare(w, F64, I64, "fcmp olt"),
        O::F64x2Gt => compare(w, F64, I64, "fcmp ogt"),
        O::F64x2Le => compare(w, F64, I64, "fcmp ole"),
        O::F64x2Ge => compare(w, F64, I64, "fcmp oge"),
        O::V128Not => {
            let a = w.pop();
            let v = w.let_(&format!("xor {I64} {a}, splat (i64 -1)"));
            w.push(Ty::V128, v);
        }
        O::V128And => binary(w, I64, "and"),
        O::V128Or => binary(w, I64, "or"),
        O::V128Xor => binary(w, I64, "xor"),
        O::V128AndNot => {
            let (a, b) = pop2(w, I64);
            let b = w.let_(&format!("xor {I64} {b}, splat (i64 -1)"));
            let v = w.let_(&format!("and {I64} {a}, {b}"));
            w.push(Ty::V128, v);
        }
        O::V128Bitselect => {
            let mask = w.pop();
            let (a, b) = pop2(w, I64);
            let x = w.let_(&format!("and {I64} {a}, {mask}"));
            let not = w.let_(&format!("xor {I64} {mask}, splat (i64 -1)"));
            let y = w.let_(&format!("and {I64} {b}, {not}"));
            let v = w.let_(&format!("or {I64} {x}, {y}"));
            w.push(Ty::V128, v);
        }
        O::V128AnyTrue => {
            let a = w.pop();
            let bits = w.let_(&format!("bitcast {I64} {a} to i128"));
            let c = w.let_(&format!("icmp ne i128 {bits}, 0"));
            w.push_bool(&c);
        }
        O::I8x16Abs => abs(w, I8),
        O::I16x8Abs => abs(w, I16),
        O::I32x4Abs => abs(w, I32),
        O::I64x2Abs => abs(w, I64),
        O::I8x16Neg => negate(w, I8),
        O::I16x8Neg => negate(w, I16),
        O::I32x4Neg => negate(w, I32),
        O::I64x2Neg => negate(w, I64),
        O::F32x4Neg => negate(w, F32),
        O::F64x2Neg => negate(w, F64),
        O::I8x16Popcnt => call1(w, I8, "ctpop"),
        O::I8x16AllTrue => all_true(w, I8),
        O::I16x8AllTrue => all_true(w, I16),
        O::I32x4AllTrue => all_true(w, I32),
        O::I64x2AllTrue => all_true(w, I64),
        O::I8x16Bitmask => bitmask(w, I8),
        O::I16x8Bitmask => bitmask(w, I16),
        O::I32x4Bitmask => bitmask(w, I32),
        O::I64x2Bitmask => bitmask(w, I64),
        O::I8x16NarrowI16x8S => narrow(w, I16, I8, -128, 127),
        O::I8x16NarrowI16x8U => narrow(w, I16, I8, 0, 255),
        O::I16x8NarrowI32x4S => narrow(w, I32, I16, -32768, 32767),
        O::I16x8NarrowI32x4U => narrow(w, I32, I16, 0, 65535),
        O::I8x16Shl => shift(w, I8, "shl"),
        O::I8x16ShrS => shift(w, I8, "ashr"),
        O::I8x16ShrU => shift(w, I8, "lshr"),
        O::I16x8Shl => shift(w, I16, "shl"),
        O::I16x8ShrS => shift(w, I16, "ashr"),
        O::I16x8ShrU => shift(w, I16, "lshr"),
        O::I32x4Shl => shift(w, I32, "shl"),
        O::I32x4ShrS => shift(w, I32, "ashr"),
        O::I32x4ShrU => shift(w, I32, "lshr"),
        O::I64x2Shl => shift(w, I64, "shl"),
        O::I64x2ShrS => shift(w, I64, "ashr"),
        O::I64x2ShrU => shift(w, I64, "lshr"),
        O::I8x16Add => binary(w, I8, "add"),
        O::I8x16Sub => binary(w, I8, "sub"),
        O::I8x16AddSatS => call2(w, I8, "sadd.sat"),
        O::I8x16AddSatU => call2(w, I8, "uadd.sat"),
        O::I8x16SubSatS => call2(w, I8, "ssub.sat"),
        O::I8x16SubSatU => call2(w, I8, "usub.sat"),
        O::I16x8Add => binary(w, I16, "add"),
        O::I16x8Sub => binary(w, I16, "sub"),
        O::I16x8Mul => binary(w, I16, "mul"),
        O::I16x8AddSatS => call2(w, I16, "sadd.sat"),
        O::I16x8AddSatU => call2(w, I16, "uadd.sat"),
        O::I16x8SubSatS => call2(w, I16, "ssub.sat"),
        O::I16x8SubSatU => call2(w, I16, "usub.sat"),
        O::I32x4Add => binary(w, I32, "add"),
        O::I32x4Sub => binary(w, I32, "sub"),
        O::I32x4Mul => binary(w, I32, "mul"),
        O::I64x2Add => binary(w, I64, "add"),
        O::I64x2Sub => binary(w, I64, "sub"),
        O::I64x2Mul => binary(w, I64, "mul"),
        O::I8x16MinS => call2(w, I8, "smin"),
        O::I8x16MinU => call2(w, I8, "umin"),
        O::I8x16MaxS => call2(w, I8, "smax"),
        O::I8x16MaxU => call2(w, I8, "umax"),
        O::I16x8MinS => call2(w, I16, "smin"),
        O::I16x8MinU => call2(w, I16, "umin"),
        O::I16x8MaxS => call2(w, I16, "smax"),
        O::I16x8MaxU => call2(w, I16, "umax"),
        O::I32x4MinS => call2(w, I32, "smin"),
        O::I32x4MinU => call2(w, I32, "umin"),
        O::I32x4MaxS => call2(w, I32, "smax"),
        O::I32x4MaxU => call2(w, I32, "umax"),
        O::I8x16AvgrU => average(w, I8, "<16 x i16>"),
        O::I16x8AvgrU => average(w, I16, "<8 x i32>"),
        O::I16x8ExtendLowI8x16S => extend(w, I8, I16, false, "sext"),
        O::I16x8ExtendLowI8x16U => extend(w, I8, I16, false, "zext"),
        O::I16x8ExtendHighI8x16S => extend(w, I8, I16, true, "sext"),
        O::I16x8ExtendHighI8x16U => extend(w, I8, I16, true, "zext"),
        O::I32x4ExtendLowI16x8S => extend(w, I16, I32, false, "sext"),
        O::I32x4ExtendLowI16x8U => extend(w, I16, I32, false, "zext"),
        O::I32x4ExtendHighI16x8S => extend(w, I16, I32, true, "sext"),
        O::I32x4ExtendHighI16x8U => extend(w, I16, I32, true, "zext"),
        O::I64x2ExtendLowI32x4S => extend(w, I32, I64, false, "sext"),
        O::I64x2ExtendLowI32x4U => extend(w, I32, I64, false, "zext"),
        O::I64x2ExtendHighI32x4S => extend(w, I32, I64, true, "sext"),
        O::I64x2ExtendHighI32x4U => extend(w, I32, I64, true, "zext"),
        O::I16x8ExtMulLowI8x16S => multiply_wide(w, I8, I16, false, "sext"),
        O::I16x8ExtMulLowI8x16U => multiply_wide(w, I8, I16, false, "zext"),
        O::I16x8ExtMulHighI8x16S => multiply_wide(w, I8, I16, true, "sext"),
        O::I16x8ExtMulHighI8x16U => multiply_wide(w, I8, I16, true, "zext"),
        O::I32x4ExtMulLowI16x8S => multiply_wide(w, I16, I32, false, "sext"),
        O::I32x4ExtMulLowI16x8U => multiply_wide(w, I16, I32, false, "zext"),
        O::I32x4ExtMulHighI16x8S => multiply_wide(w, I16, I32, true, "sext"),
        O::I32x4ExtMulHighI16x8U => multiply_wide(w, I16, I32, true, "zext"),
        O::I64x2ExtMulLowI32x4S => multiply_wide(w, I32, I64, false, "sext"),
        O::I64x2ExtMulLowI32x4U => multiply_wide(w, I32, I64, false, "zext"),
        O::I64x2ExtMulHighI32x4S => multiply_wide(w, I32, I64, true, "sext"),
        O::I64x2ExtMulHighI32x4U => multiply_wide(w, I32, I64, true, "zext"),
        O::I16x8ExtAddPairwiseI8x16S => pairwise(w, I8, I16, "sext"),
        O::I16x8ExtAddPairwiseI8x16U => pairwise(w, I8, I16, "zext"),
        O::I32x4ExtAddPairwiseI16x8S => pairwise(w, I16, I32, "sext"),
        O::I32x4ExtAddPairwiseI16x8U => pairwise(w, I16, I32, "zext"),
        O::I32x4DotI16x8S => {
            let (a, b) = pop2(w, I16);
            let mut product = |pick: fn(u32) -> u32| {
                let (a, b) = (part(w, I16, I32, &a, pick, "sext"), part(w, I16, I32, &b, pick, "sext"));
                w.let_(&format!("mul {I32} {a}, {b}"))
            };
            let (even, odd) = (product(|i| 2 * i), product(|i| 2 * i + 1));
            let v = w.let_(&format!("add {I32} {even}, {odd}"));
            push(w, I32, &v);
        }
        O::I16x8Q15MulrSatS => {
            let (a, b) = pop2(w, I16);
            let wide = "<8 x i32>";
            let (a, b) = (w.let_(&format!("sext {I16} {a} to {wide}")), w.let_(&format!("sext {I16} {b} to {wide}")));
            let v = w.let_(&format!("mul {wide} {a}, {b}"));
            let v = w.let_(&format!("add {wide} {v}, splat (i32 16384)"));
            let v = w.let_(&format!("ashr {wide} {v}, splat (i32 15)"));
            let v = w.intrinsic(wide, "smin.v8i32", &[(wide, &v), (wide, "splat (i32 32767)")]);
            let v = w.let_(&format!("trunc {wide} {v} to {I16}"));
            push(w, I16, &v);
        }
        O::F32x4Abs => call1(w, F32, "fabs"),
        O::F32x4Sqrt => call1(w, F32, "sqrt"),
        O::F32x4Ceil => call1(w, F32, "ceil"),
        O::F32x4Floor => call1(w, F32, "floor"),
        O::F32x4Trunc => call1(w, F32, "trunc"),
        O::F32x4Nearest => call1(w, F32, "roundeven"),
        O::F32x4Add => binary(w, F32, "fadd"),
        O::F32x4Sub => binary(w, F32, "fsub"),
        O::F32x4Mul => binary(w, F32, "fmul"),
        O::F32x4Div => binary(w, F32, "fdiv"),
        O::F32x4Min => call2(w, F32, "minimum"),
        O::F32x4Max => call2(w, F32, "maximum"),
        O::F32x4PMin => choose(w, F32, true),
        O::F32x4PMax => choose(w, F32, false),
        O::F64x2Abs => call1(w, F64, "fabs"),
        O::F64x2Sqrt => call1(w, F64, "sqrt"),
        O::F64x2Ceil => call1(w, F64, "ceil"),
        O::F64x2Floor => call1(w, F64, "floor"),
        O::F64x2Trunc => call1(w, F64, "trunc"),
        O::F64x2Nearest => call1(w, F64, "roundeven"),
        O::F64x2Add => binary(w, F64, "fadd"),
        O::F64x2Sub => binary(w, F64, "fsub"),
        O::F64x2Mul => binary(w, F64, "fmul"),
        O::F64x2Div => binary(w, F64, "fdiv"),
        O::F64x2Min => call2(w, F64, "minimum"),
        O::F64x2Max => call2(w, F64, "maximum"),
        O::F64x2PMin => choose(w, F64, true),
        O::F64x2PMax => choose(w, F64, false),
        O::F32x4ConvertI32x4S => convert(w, I32, F32, "sitofp"),
        O::F32x4ConvertI32x4U => convert(w, I32, F32, "uitofp"),
        O::I32x4TruncSatF32x4S => saturate(w, "fptosi.sat"),
        O::I32x4TruncSatF32x4U => saturate(w, "fptoui.sat"),
        O::I32x4TruncSatF64x2SZero => saturate_zero(w, "fptosi.sat"),
        O::I32x4TruncSatF64x2UZero => saturate_zero(w, "fptoui.sat"),
        O::F64x2ConvertLowI32x4S => extend(w, I32, F64, false, "sitofp"),
        O::F64x2ConvertLowI32x4U => extend(w, I32, F64, false, "uitofp"),
        O::F64x2PromoteLowF32x4 => extend(w, F32, F64, false, "fpext"),
        O::F32x4DemoteF64x2Zero => {
            let a = pop(w, F64);
            let v = w.let_(&format!("fptrunc {F64} {a} to <2 x float>"));
            let v = w.let_(&format!("shufflevector <2 x float> {v}, <2 x float> zeroinitializer, <4 x i32> <i32 0, i32 1, i32 2, i32 3>"));
            push(w, F32, &v);
        }
        // Relaxed instructions and all that is no vector instruction: the engine knows them.
        other => return Err(format!("{other:?}").chars().take(40).collect()),
    }
    Ok(())
}

/// Lanes of the first vector by the second one's numbers, 0 for a number beyond: through memory-free selects of each lane.
fn swizzle(w: &mut Writer<'_>) {
    let (a, by) = pop2(w, I8);
    let mut v = "zeroinitializer".to_string();
    for i in 0..16 {
        let at = w.let_(&format!("extractelement {I8} {by}, i32 {i}"));
        let within = w.let_(&format!("and i8 {at}, 15"));
        let picked = w.let_(&format!("extractelement {I8} {a}, i8 {within}"));
        let ok = w.let_(&format!("icmp ult i8 {at}, 16"));
        let lane = w.let_(&format!("select i1 {ok}, i8 {picked}, i8 0"));
        v = w.let_(&format!("insertelement {I8} {v}, i8 {lane}, i32 {i}"));
    }
    push(w, I8, &v);
}
