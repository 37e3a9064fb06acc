//! Atomic instructions. All are sequentially consistent, as WebAssembly has no others; an address that is no multiple of their size traps.
//!
//! The rest of a program's accesses are plain loads and stores, also where threads race for a word: what such a load gives is any value, in WebAssembly as here. That nothing of the agent's
//! rests on it being one and the same value when it is used twice is [`Writer::pin`]'s part.

use super::simd;
use super::translate::{NO_ALIAS_MEM, Stays, Ty, Writer, trap};
use wasmparser::{MemArg, Operator};

enum Kind {
    Load,
    Store,
    /// By LLVM's name of what is done.
    Change(&'static str),
    /// Compare and exchange.
    Exchange,
}

pub(super) fn operator(w: &mut Writer<'_>, op: &Operator<'_>) -> Result<(), Stays> {
    let Some((kind, ty, bits, memarg)) = atomic(op) else {
        if let Operator::AtomicFence = op {
            w.line("fence seq_cst");
            return Ok(());
        }
        return simd::operator(w, op);
    };
    let (narrow, bytes) = (format!("i{bits}"), bits / 8);
    let wide = ty.ll();
    let is_narrow = narrow != wide;
    // Operands come off the stack from the last to the first, and the address is the first.
    let operand = |w: &mut Writer<'_>| {
        let v = w.pop();
        if is_narrow { w.let_(&format!("trunc {wide} {v} to {narrow}")) } else { v }
    };
    let how = format!("seq_cst, align {bytes}{NO_ALIAS_MEM}");
    let result = match kind {
        Kind::Load => {
            let p = aligned(w, memarg, bytes)?;
            w.let_(&format!("load atomic {narrow}, ptr {p} {how}"))
        }
        Kind::Store => {
            let v = operand(w);
            let p = aligned(w, memarg, bytes)?;
            w.line(&format!("store atomic {narrow} {v}, ptr {p} {how}"));
            return Ok(());
        }
        Kind::Change(what) => {
            let v = operand(w);
            let p = aligned(w, memarg, bytes)?;
            w.let_(&format!("atomicrmw {what} ptr {p}, {narrow} {v} {how}"))
        }
        Kind::Exchange => {
            // Of what is expected as many bits count as lie in memory.
            let (new, expected) = (operand(w), operand(w));
            let p = aligned(w, memarg, bytes)?;
            let pair = w.let_(&format!("cmpxchg ptr {p}, {narrow} {expected}, {narrow} {new} seq_cst seq_cst, align {bytes}{NO_ALIAS_MEM}"));
            w.let_(&format!("extractvalue {{ {narrow}, i1 }} {pair}, 0"))
        }
    };
    let result = if is_narrow { w.let_(&format!("zext {narrow} {result} to {wide}")) } else { result };
    w.push(ty, result);
    Ok(())
}

/// The address of so many bytes, which must be a multiple of that. Memory begins at a page, so the machine's own address shows it.
fn aligned(w: &mut Writer<'_>, memarg: &MemArg, bytes: u64) -> Result<String, Stays> {
    let address = w.pop();
    let address = w.pin("i32", &address);
    w.push(Ty::I32, address);
    let p = w.address(memarg, bytes)?;
    if bytes > 1 {
        let at = w.let_(&format!("ptrtoint ptr {p} to i64"));
        let low = w.let_(&format!("and i64 {at}, {}", bytes - 1));
        let odd = w.let_(&format!("icmp ne i64 {low}, 0"));
        w.trap_if(&odd, trap::UNALIGNED);
    }
    Ok(p)
}

fn atomic<'o>(op: &'o Operator<'_>) -> Option<(Kind, Ty, u64, &'o MemArg)> {
    use Operator as O;
    use Ty::{I32, I64};
    Some(match op {
        O::I32AtomicLoad { memarg } => (Kind::Load, I32, 32, memarg),
        O::I64AtomicLoad { memarg } => (Kind::Load, I64, 64, memarg),
        O::I32AtomicLoad8U { memarg } => (Kind::Load, I32, 8, memarg),
        O::I32AtomicLoad16U { memarg } => (Kind::Load, I32, 16, memarg),
        O::I64AtomicLoad8U { memarg } => (Kind::Load, I64, 8, memarg),
        O::I64AtomicLoad16U { memarg } => (Kind::Load, I64, 16, memarg),
        O::I64AtomicLoad32U { memarg } => (Kind::Load, I64, 32, memarg),
        O::I32AtomicStore { memarg } => (Kind::Store, I32, 32, memarg),
        O::I64AtomicStore { memarg } => (Kind::Store, I64, 64, memarg),
        O::I32AtomicStore8 { memarg } => (Kind::Store, I32, 8, memarg),
        O::I32AtomicStore16 { memarg } => (Kind::Store, I32, 16, memarg),
        O::I64AtomicStore8 { memarg } => (Kind::Store, I64, 8, memarg),
        O::I64AtomicStore16 { memarg } => (Kind::Store, I64, 16, memarg),
        O::I64AtomicStore32 { memarg } => (Kind::Store, I64, 32, memarg),
        O::I32AtomicRmwAdd { memarg } => (Kind::Change("add"), I32, 32, memarg),
        O::I64AtomicRmwAdd { memarg } => (Kind::Change("add"), I64, 64, memarg),
        O::I32AtomicRmw8AddU { memarg } => (Kind::Change("add"), I32, 8, memarg),
        O::I32AtomicRmw16AddU { memarg } => (Kind::Change("add"), I32, 16, memarg),
        O::I64AtomicRmw8AddU { memarg } => (Kind::Change("add"), I64, 8, memarg),
        O::I64AtomicRmw16AddU { memarg } => (Kind::Change("add"), I64, 16, memarg),
        O::I64AtomicRmw32AddU { memarg } => (Kind::Change("add"), I64, 32, memarg),
        O::I32AtomicRmwSub { memarg } => (Kind::Change("sub"), I32, 32, memarg),
        O::I64AtomicRmwSub { memarg } => (Kind::Change("sub"), I64, 64, memarg),
        O::I32AtomicRmw8SubU { memarg } => (Kind::Change("sub"), I32, 8, memarg),
        O::I32AtomicRmw16SubU { memarg } => (Kind::Change("sub"), I32, 16, memarg),
        O::I64AtomicRmw8SubU { memarg } => (Kind::Change("sub"), I64, 8, memarg),
        O::I64AtomicRmw16SubU { memarg } => (Kind::Change("sub"), I64, 16, memarg),
        O::I64AtomicRmw32SubU { memarg } => (Kind::Change("sub"), I64, 32, memarg),
        O::I32AtomicRmwAnd { memarg } => (Kind::Change("and"), I32, 32, memarg),
        O::I64AtomicRmwAnd { memarg } => (Kind::Change("and"), I64, 64, memarg),
        O::I32AtomicRmw8AndU { memarg } => (Kind::Change("and"), I32, 8, memarg),
        O::I32AtomicRmw16AndU { memarg } => (Kind::Change("and"), I32, 16, memarg),
        O::I64AtomicRmw8AndU { memarg } => (Kind::Change("and"), I64, 8, memarg),
        O::I64AtomicRmw16AndU { memarg } => (Kind::Change("and"), I64, 16, memarg),
        O::I64AtomicRmw32AndU { memarg } => (Kind::Change("and"), I64, 32, memarg),
        O::I32AtomicRmwOr { memarg } => (Kind::Change("or"), I32, 32, memarg),
        O::I64AtomicRmwOr { memarg } => (Kind::Change("or"), I64, 64, memarg),
        O::I32AtomicRmw8OrU { memarg } => (Kind::Change("or"), I32, 8, memarg),
        O::I32AtomicRmw16OrU { memarg } => (Kind::Change("or"), I32, 16, memarg),
        O::I64AtomicRmw8OrU { memarg } => (Kind::Change("or"), I64, 8, memarg),
        O::I64AtomicRmw16OrU { memarg } => (Kind::Change("or"), I64, 16, memarg),
        O::I64AtomicRmw32OrU { memarg } => (Kind::Change("or"), I64, 32, memarg),
        O::I32AtomicRmwXor { memarg } => (Kind::Change("xor"), I32, 32, memarg),
        O::I64AtomicRmwXor { memarg } => (Kind::Change("xor"), I64, 64, memarg),
        O::I32AtomicRmw8XorU { memarg } => (Kind::Change("xor"), I32, 8, memarg),
        O::I32AtomicRmw16XorU { memarg } => (Kind::Change("xor"), I32, 16, memarg),
        O::I64AtomicRmw8XorU { memarg } => (Kind::Change("xor"), I64, 8, memarg),
        O::I64AtomicRmw16XorU { memarg } => (Kind::Change("xor"), I64, 16, memarg),
        O::I64AtomicRmw32XorU { memarg } => (Kind::Change("xor"), I64, 32, memarg),
        O::I32AtomicRmwXchg { memarg } => (Kind::Change("xchg"), I32, 32, memarg),
        O::I64AtomicRmwXchg { memarg } => (Kind::Change("xchg"), I64, 64, memarg),
        O::I32AtomicRmw8XchgU { memarg } => (Kind::Change("xchg"), I32, 8, memarg),
        O::I32AtomicRmw16XchgU { memarg } => (Kind::Change("xchg"), I32, 16, memarg),
        O::I64AtomicRmw8XchgU { memarg } => (Kind::Change("xchg"), I64, 8, memarg),
        O::I64AtomicRmw16XchgU { memarg } => (Kind::Change("xchg"), I64, 16, memarg),
        O::I64AtomicRmw32XchgU { memarg } => (Kind::Change("xchg"), I64, 32, memarg),
        O::I32AtomicRmwCmpxchg { memarg } => (Kind::Exchange, I32, 32, memarg),
        O::I64AtomicRmwCmpxchg { memarg } => (Kind::Exchange, I64, 64, memarg),
        O::I32AtomicRmw8CmpxchgU { memarg } => (Kind::Exchange, I32, 8, memarg),
        O::I32AtomicRmw16CmpxchgU { memarg } => (Kind::Exchange, I32, 16, memarg),
        O::I64AtomicRmw8CmpxchgU { memarg } => (Kind::Exchange, I64, 8, memarg),
        O::I64AtomicRmw16CmpxchgU { memarg } => (Kind::Exchange, I64, 16, memarg),
        O::I64AtomicRmw32CmpxchgU { memarg } => (Kind::Exchange, I64, 32, memarg),
        _ => return None,
    })
}
