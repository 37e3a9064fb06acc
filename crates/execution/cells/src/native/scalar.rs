//! One instruction after another, but for atomic ones ([`super::atomic`]) and those on vectors ([`super::simd`]): control flow through the words of [`super::translate`] and [`super::exceptions`], arithmetic by what is here.

use super::atomic;
use super::translate::{Constant, GLOBALS, NO_ALIAS_GLOB, NO_ALIAS_MEM, Stays, Ty, Writer, trap, weights};
use std::fmt::Write;
use wasmparser::Operator;

impl Writer<'_> {
    fn binary(&mut self, ty: Ty, op: &str) {
        let (b, a) = (self.pop(), self.pop());
        let v = self.let_(&format!("{op} {} {a}, {b}", ty.ll()));
        self.push(ty, v);
    }

    fn compare(&mut self, ty: Ty, op: &str) {
        let (b, a) = (self.pop(), self.pop());
        let c = self.let_(&format!("{op} {} {a}, {b}", ty.ll()));
        self.push_bool(&c);
    }

    fn convert(&mut self, op: &str, from: Ty, to: Ty) {
        let a = self.pop();
        let v = self.let_(&format!("{op} {} {a} to {}", from.ll(), to.ll()));
        self.push(to, v);
    }

    fn unary_intrinsic(&mut self, ty: Ty, name: &str) {
        let a = self.pop();
        let v = self.intrinsic(ty.ll(), name, &[(ty.ll(), &a)]);
        self.push(ty, v);
    }

    fn binary_intrinsic(&mut self, ty: Ty, name: &str) {
        let (b, a) = (self.pop(), self.pop());
        let v = self.intrinsic(ty.ll(), name, &[(ty.ll(), &a), (ty.ll(), &b)]);
        self.push(ty, v);
    }

    fn shift(&mut self, ty: Ty, op: &str) {
        let (b, a) = (self.pop(), self.pop());
        let mask = if ty == Ty::I32 { 31 } else { 63 };
        let by = self.let_(&format!("and {} {b}, {mask}", ty.ll()));
        let v = self.let_(&format!("{op} {} {a}, {by}", ty.ll()));
        self.push(ty, v);
    }

    fn rotate(&mut self, ty: Ty, name: &str) {
        let (b, a) = (self.pop(), self.pop());
        let v = self.intrinsic(ty.ll(), name, &[(ty.ll(), &a), (ty.ll(), &a), (ty.ll(), &b)]);
        self.push(ty, v);
    }

    fn divide(&mut self, ty: Ty, op: &str) {
        let (b, a) = (self.pop(), self.pop());
        let t = ty.ll();
        // The processor's own exception for a divisor of zero would not be taken for the program's.
        let (b, a) = (self.pin(t, &b), self.pin(t, &a));
        let zero = self.let_(&format!("icmp eq {t} {b}, 0"));
        self.trap_if(&zero, trap::DIVISION);
        let mut by = b.clone();
        if op == "sdiv" || op == "srem" {
            let minus = self.let_(&format!("icmp eq {t} {b}, -1"));
            if op == "sdiv" {
                let least = if ty == Ty::I32 { i64::from(i32::MIN) } else { i64::MIN };
                let least = self.let_(&format!("icmp eq {t} {a}, {least}"));
                let over = self.let_(&format!("and i1 {minus}, {least}"));
                self.trap_if(&over, trap::OVERFLOW);
            } else {
                by = self.let_(&format!("select i1 {minus}, {t} 1, {t} {b}"));
            }
        }
        let v = self.let_(&format!("{op} {t} {a}, {by}"));
        self.push(ty, v);
    }

    /// A conversion to an integer that traps outside of the open interval from `low` to `high`, given as the bits of doubles.
    fn truncate(&mut self, from: Ty, to: Ty, op: &str, low: f64, high: f64) {
        let a = self.pop();
        let f = from.ll();
        let nan = self.let_(&format!("fcmp uno {f} {a}, {a}"));
        self.trap_if(&nan, trap::CONVERSION);
        let low = self.let_(&format!("fcmp ule {f} {a}, 0x{:016X}", low.to_bits()));
        let high = self.let_(&format!("fcmp uge {f} {a}, 0x{:016X}", high.to_bits()));
        let out = self.let_(&format!("or i1 {low}, {high}"));
        self.trap_if(&out, trap::OVERFLOW);
        let v = self.let_(&format!("{op} {f} {a} to {}", to.ll()));
        self.push(to, v);
    }

    fn saturate(&mut self, from: Ty, to: Ty, name: &str) {
        let a = self.pop();
        let short = if from == Ty::F32 { "f32" } else { "f64" };
        let v = self.intrinsic(to.ll(), &format!("{name}.{}.{short}", to.ll()), &[(from.ll(), &a)]);
        self.push(to, v);
    }

    pub(super) fn operator(&mut self, op: &Operator<'_>, hint: Option<bool>) -> Result<(), Stays> {
        use Operator as O;
        use Ty::*;
        match op {
            O::Nop => {}
            O::Unreachable => {
                self.trap_if("true", trap::UNREACHABLE);
                self.line("unreachable");
                self.dead = true;
            }
            O::Block { blockty } => self.begin(*blockty, false)?,
            O::Loop { blockty } => self.begin(*blockty, true)?,
            O::If { blockty } => self.if_(*blockty, hint)?,
            O::TryTable { try_table } => self.try_table(try_table)?,
            O::Throw { tag_index } => self.throw(*tag_index),
            O::Else => self.other()?,
            O::End => self.end()?,
            O::Br { relative_depth } => {
                let target = self.goto(*relative_depth);
                self.line(&format!("br label %{target}"));
                self.dead = true;
            }
            O::BrIf { relative_depth } => {
                let c = self.condition();
                let target = self.goto(*relative_depth);
                let on = self.label();
                self.line(&format!("br i1 {c}, label %{target}, label %{on}{}", weights(hint)));
                let _ = writeln!(self.body, "{on}:");
            }
            O::BrTable { targets } => self.table(targets)?,
            O::Return => {
                let target = self.goto(self.frames.len() as u32 - 1);
                self.line(&format!("br label %{target}"));
                self.dead = true;
            }
            O::Call { function_index } => self.call(*function_index)?,
            O::CallIndirect { type_index, table_index: 0 } => self.call_indirect(*type_index)?,
            O::Drop => drop(self.pop()),
            O::Select | O::TypedSelect { .. } => {
                let c = self.condition();
                let (b, a) = (self.stack.pop().ok_or("empty stack")?, self.stack.pop().ok_or("empty stack")?);
                let v = self.let_(&format!("select i1 {c}, {0} {1}, {0} {2}", a.ty.ll(), a.text, b.text));
                self.push(a.ty, v);
            }
            O::LocalGet { local_index } => {
                let ty = self.locals[*local_index as usize];
                let v = self.let_(&format!("load {}, ptr %l{local_index}, align 16", ty.ll()));
                self.push(ty, v);
            }
            O::LocalSet { local_index } | O::LocalTee { local_index } => {
                let ty = self.locals[*local_index as usize];
                let v = self.pop();
                self.line(&format!("store {} {v}, ptr %l{local_index}, align 16", ty.ll()));
                if matches!(op, O::LocalTee { .. }) {
                    self.push(ty, v);
                }
            }
            O::GlobalGet { global_index } => {
                let (ty, constant) = self.source.globals[*global_index as usize];
                let ty = Ty::of(ty)?;
                match constant {
                    Some(Constant::I32(v)) => self.push(ty, v.to_string()),
                    Some(Constant::I64(v)) => self.push(ty, v.to_string()),
                    None => {
                        let p = self.global(*global_index);
                        let v = self.let_(&format!("load {}, ptr {p}, align 16{NO_ALIAS_GLOB}", ty.ll()));
                        self.push(ty, v);
                    }
                }
            }
            O::GlobalSet { global_index } => {
                let ty = Ty::of(self.source.globals[*global_index as usize].0)?;
                let v = self.pop();
                let p = self.global(*global_index);
                self.line(&format!("store {} {v}, ptr {p}, align 16{NO_ALIAS_GLOB}", ty.ll()));
            }
            O::I32Load { memarg } => self.load(memarg, I32, 4)?,
            O::I64Load { memarg } => self.load(memarg, I64, 8)?,
            O::F32Load { memarg } => self.load(memarg, F32, 4)?,
            O::F64Load { memarg } => self.load(memarg, F64, 8)?,
            O::V128Load { memarg } => self.load(memarg, V128, 16)?,
            O::I32Load8S { memarg } => self.load_narrow(memarg, I32, "i8", "sext")?,
            O::I32Load8U { memarg } => self.load_narrow(memarg, I32, "i8", "zext")?,
            O::I32Load16S { memarg } => self.load_narrow(memarg, I32, "i16", "sext")?,
            O::I32Load16U { memarg } => self.load_narrow(memarg, I32, "i16", "zext")?,
            O::I64Load8S { memarg } => self.load_narrow(memarg, I64, "i8", "sext")?,
            O::I64Load8U { memarg } => self.load_narrow(memarg, I64, "i8", "zext")?,
            O::I64Load16S { memarg } => self.load_narrow(memarg, I64, "i16", "sext")?,
            O::I64Load16U { memarg } => self.load_narrow(memarg, I64, "i16", "zext")?,
            O::I64Load32S { memarg } => self.load_narrow(memarg, I64, "i32", "sext")?,
            O::I64Load32U { memarg } => self.load_narrow(memarg, I64, "i32", "zext")?,
            O::I32Store { memarg } => self.store(memarg, I32, 4)?,
            O::I64Store { memarg } => self.store(memarg, I64, 8)?,
            O::F32Store { memarg } => self.store(memarg, F32, 4)?,
            O::F64Store { memarg } => self.store(memarg, F64, 8)?,
            O::V128Store { memarg } => self.store(memarg, V128, 16)?,
            O::I32Store8 { memarg } => self.store_narrow(memarg, I32, "i8")?,
            O::I32Store16 { memarg } => self.store_narrow(memarg, I32, "i16")?,
            O::I64Store8 { memarg } => self.store_narrow(memarg, I64, "i8")?,
            O::I64Store16 { memarg } => self.store_narrow(memarg, I64, "i16")?,
            O::I64Store32 { memarg } => self.store_narrow(memarg, I64, "i32")?,
            // The flag words: the address is a constant, as `toolchain::verify` wants it.
            O::I32AtomicLoad { memarg } if memarg.memory == 1 => {
                let base: u64 = self.pop().parse().map_err(|_| "a flag word at an address that is computed")?;
                let at = base + memarg.offset;
                if at % 4 != 0 || at >= u64::from(GLOBALS) {
                    return Err("an address that holds no flag word".into());
                }
                let p = self.let_(&format!("getelementptr i8, ptr %glob, i64 {}", at as i64 - i64::from(GLOBALS)));
                let v = self.let_(&format!("load atomic volatile i32, ptr {p} monotonic, align 4"));
                if self.source.shared {
                    // A loop may wait for a word that another thread writes and that is not atomic in the module, as C's `volatile` is not: in each turn it is loaded again.
                    self.line("call void asm sideeffect \"\", \"~{memory}\"()");
                }
                self.push(I32, v);
            }
            // Of memory that other threads make larger, too, the engine knows.
            O::MemorySize { mem: 0 } if self.source.shared => self.call_value("@size", &[], Some(I32)),
            O::MemorySize { mem: 0 } => {
                let bytes = self.memory_bytes();
                let pages = self.let_(&format!("lshr i64 {bytes}, 16"));
                let v = self.let_(&format!("trunc i64 {pages} to i32"));
                self.push(I32, v);
            }
            O::MemoryGrow { mem: 0 } => self.call_value("@grow", &[I32], Some(I32)),
            O::MemoryCopy { dst_mem: 0, src_mem: 0 } => {
                let (len, from, to) = (self.pop(), self.pop(), self.pop());
                let len = self.pin("i32", &len);
                let (n, from) = self.range(&from, &len);
                let (_, to) = self.range(&to, &len);
                self.line(&format!("call void @llvm.memmove.p0.p0.i64(ptr {to}, ptr {from}, i64 {n}, i1 false){NO_ALIAS_MEM}"));
            }
            O::MemoryFill { mem: 0 } => {
                let (len, byte, to) = (self.pop(), self.pop(), self.pop());
                let (n, to) = self.range(&to, &len);
                let byte = self.let_(&format!("trunc i32 {byte} to i8"));
                self.line(&format!("call void @llvm.memset.p0.i64(ptr {to}, i8 {byte}, i64 {n}, i1 false){NO_ALIAS_MEM}"));
            }
            O::MemoryInit { data_index, mem: 0 } => {
                let name = self.segment(*data_index, "init")?;
                self.call_value(&name, &[I32; 3], None);
            }
            O::DataDrop { data_index } => {
                let name = self.segment(*data_index, "drop")?;
                self.call_value(&name, &[], None);
            }
            O::I32Const { value } => self.push(I32, value.to_string()),
            O::I64Const { value } => self.push(I64, value.to_string()),
            O::F32Const { value } => {
                let v = self.let_(&format!("bitcast i32 {} to float", value.bits() as i32));
                self.push(F32, v);
            }
            O::F64Const { value } => {
                let v = self.let_(&format!("bitcast i64 {} to double", value.bits() as i64));
                self.push(F64, v);
            }
            O::I32Eqz => {
                let a = self.pop();
                let c = self.let_(&format!("icmp eq i32 {a}, 0"));
                self.push_bool(&c);
            }
            O::I64Eqz => {
                let a = self.pop();
                let c = self.let_(&format!("icmp eq i64 {a}, 0"));
                self.push_bool(&c);
            }
            O::I32Eq => self.compare(I32, "icmp eq"),
            O::I32Ne => self.compare(I32, "icmp ne"),
            O::I32LtS => self.compare(I32, "icmp slt"),
            O::I32LtU => self.compare(I32, "icmp ult"),
            O::I32GtS => self.compare(I32, "icmp sgt"),
            O::I32GtU => self.compare(I32, "icmp ugt"),
            O::I32LeS => self.compare(I32, "icmp sle"),
            O::I32LeU => self.compare(I32, "icmp ule"),
            O::I32GeS => self.compare(I32, "icmp sge"),
            O::I32GeU => self.compare(I32, "icmp uge"),
            O::I64Eq => self.compare(I64, "icmp eq"),
            O::I64Ne => self.compare(I64, "icmp ne"),
            O::I64LtS => self.compare(I64, "icmp slt"),
            O::I64LtU => self.compare(I64, "icmp ult"),
            O::I64GtS => self.compare(I64, "icmp sgt"),
            O::I64GtU => self.compare(I64, "icmp ugt"),
            O::I64LeS => self.compare(I64, "icmp sle"),
            O::I64LeU => self.compare(I64, "icmp ule"),
            O::I64GeS => self.compare(I64, "icmp sge"),
            O::I64GeU => self.compare(I64, "icmp uge"),
            O::F32Eq => self.compare(F32, "fcmp oeq"),
            O::F32Ne => self.compare(F32, "fcmp une"),
            O::F32Lt => self.compare(F32, "fcmp olt"),
            O::F32Gt => self.compare(F32, "fcmp ogt"),
            O::F32Le => self.compare(F32, "fcmp ole"),
            O::F32Ge => self.compare(F32, "fcmp oge"),
            O::F64Eq => self.compare(F64, "fcmp oeq"),
            O::F64Ne => self.compare(F64, "fcmp une"),
            O::F64Lt => self.compare(F64, "fcmp olt"),
            O::F64Gt => self.compare(F64, "fcmp ogt"),
            O::F64Le => self.compare(F64, "fcmp ole"),
            O::F64Ge => self.compare(F64, "fcmp oge"),
            O::I32Clz => self.count(I32, "ctlz"),
            O::I32Ctz => self.count(I32, "cttz"),
            O::I32Popcnt => self.unary_intrinsic(I32, "ctpop.i32"),
            O::I64Clz => self.count(I64, "ctlz"),
            O::I64Ctz => self.count(I64, "cttz"),
            O::I64Popcnt => self.unary_intrinsic(I64, "ctpop.i64"),
            O::I32Add => self.binary(I32, "add"),
            O::I32Sub => self.binary(I32, "sub"),
            O::I32Mul => self.binary(I32, "mul"),
            O::I32DivS => self.divide(I32, "sdiv"),
            O::I32DivU => self.divide(I32, "udiv"),
            O::I32RemS => self.divide(I32, "srem"),
            O::I32RemU => self.divide(I32, "urem"),
            O::I32And => self.binary(I32, "and"),
            O::I32Or => self.binary(I32, "or"),
            O::I32Xor => self.binary(I32, "xor"),
            O::I32Shl => self.shift(I32, "shl"),
            O::I32ShrS => self.shift(I32, "ashr"),
            O::I32ShrU => self.shift(I32, "lshr"),
            O::I32Rotl => self.rotate(I32, "fshl.i32"),
            O::I32Rotr => self.rotate(I32, "fshr.i32"),
            O::I64Add => self.binary(I64, "add"),
            O::I64Sub => self.binary(I64, "sub"),
            O::I64Mul => self.binary(I64, "mul"),
            O::I64DivS => self.divide(I64, "sdiv"),
            O::I64DivU => self.divide(I64, "udiv"),
            O::I64RemS => self.divide(I64, "srem"),
            O::I64RemU => self.divide(I64, "urem"),
            O::I64And => self.binary(I64, "and"),
            O::I64Or => self.binary(I64, "or"),
            O::I64Xor => self.binary(I64, "xor"),
            O::I64Shl => self.shift(I64, "shl"),
            O::I64ShrS => self.shift(I64, "ashr"),
            O::I64ShrU => self.shift(I64, "lshr"),
            O::I64Rotl => self.rotate(I64, "fshl.i64"),
            O::I64Rotr => self.rotate(I64, "fshr.i64"),
            O::F32Abs => self.unary_intrinsic(F32, "fabs.f32"),
            O::F32Neg => self.negate(F32),
            O::F32Ceil => self.unary_intrinsic(F32, "ceil.f32"),
            O::F32Floor => self.unary_intrinsic(F32, "floor.f32"),
            O::F32Trunc => self.unary_intrinsic(F32, "trunc.f32"),
            O::F32Nearest => self.unary_intrinsic(F32, "roundeven.f32"),
            O::F32Sqrt => self.unary_intrinsic(F32, "sqrt.f32"),
            O::F32Add => self.binary(F32, "fadd"),
            O::F32Sub => self.binary(F32, "fsub"),
            O::F32Mul => self.binary(F32, "fmul"),
            O::F32Div => self.binary(F32, "fdiv"),
            O::F32Min => self.binary_intrinsic(F32, "minimum.f32"),
            O::F32Max => self.binary_intrinsic(F32, "maximum.f32"),
            O::F32Copysign => self.binary_intrinsic(F32, "copysign.f32"),
            O::F64Abs => self.unary_intrinsic(F64, "fabs.f64"),
            O::F64Neg => self.negate(F64),
            O::F64Ceil => self.unary_intrinsic(F64, "ceil.f64"),
            O::F64Floor => self.unary_intrinsic(F64, "floor.f64"),
            O::F64Trunc => self.unary_intrinsic(F64, "trunc.f64"),
            O::F64Nearest => self.unary_intrinsic(F64, "roundeven.f64"),
            O::F64Sqrt => self.unary_intrinsic(F64, "sqrt.f64"),
            O::F64Add => self.binary(F64, "fadd"),
            O::F64Sub => self.binary(F64, "fsub"),
            O::F64Mul => self.binary(F64, "fmul"),
            O::F64Div => self.binary(F64, "fdiv"),
            O::F64Min => self.binary_intrinsic(F64, "minimum.f64"),
            O::F64Max => self.binary_intrinsic(F64, "maximum.f64"),
            O::F64Copysign => self.binary_intrinsic(F64, "copysign.f64"),
            O::I32WrapI64 => self.convert("trunc", I64, I32),
            O::I64ExtendI32S => self.convert("sext", I32, I64),
            O::I64ExtendI32U => self.convert("zext", I32, I64),
            O::I32TruncF32S => self.truncate(F32, I32, "fptosi", -2147483904.0, 2147483648.0),
            O::I32TruncF32U => self.truncate(F32, I32, "fptoui", -1.0, 4294967296.0),
            O::I32TruncF64S => self.truncate(F64, I32, "fptosi", -2147483649.0, 2147483648.0),
            O::I32TruncF64U => self.truncate(F64, I32, "fptoui", -1.0, 4294967296.0),
            O::I64TruncF32S => self.truncate(F32, I64, "fptosi", -9223373136366403584.0, 9223372036854775808.0),
            O::I64TruncF32U => self.truncate(F32, I64, "fptoui", -1.0, 18446744073709551616.0),
            O::I64TruncF64S => self.truncate(F64, I64, "fptosi", -9223372036854777856.0, 9223372036854775808.0),
            O::I64TruncF64U => self.truncate(F64, I64, "fptoui", -1.0, 18446744073709551616.0),
            O::I32TruncSatF32S => self.saturate(F32, I32, "fptosi.sat"),
            O::I32TruncSatF32U => self.saturate(F32, I32, "fptoui.sat"),
            O::I32TruncSatF64S => self.saturate(F64, I32, "fptosi.sat"),
            O::I32TruncSatF64U => self.saturate(F64, I32, "fptoui.sat"),
            O::I64TruncSatF32S => self.saturate(F32, I64, "fptosi.sat"),
            O::I64TruncSatF32U => self.saturate(F32, I64, "fptoui.sat"),
            O::I64TruncSatF64S => self.saturate(F64, I64, "fptosi.sat"),
            O::I64TruncSatF64U => self.saturate(F64, I64, "fptoui.sat"),
            O::F32ConvertI32S => self.convert("sitofp", I32, F32),
            O::F32ConvertI32U => self.convert("uitofp", I32, F32),
            O::F32ConvertI64S => self.convert("sitofp", I64, F32),
            O::F32ConvertI64U => self.convert("uitofp", I64, F32),
            O::F64ConvertI32S => self.convert("sitofp", I32, F64),
            O::F64ConvertI32U => self.convert("uitofp", I32, F64),
            O::F64ConvertI64S => self.convert("sitofp", I64, F64),
            O::F64ConvertI64U => self.convert("uitofp", I64, F64),
            O::F32DemoteF64 => self.convert("fptrunc", F64, F32),
            O::F64PromoteF32 => self.convert("fpext", F32, F64),
            O::I32ReinterpretF32 => self.convert("bitcast", F32, I32),
            O::I64ReinterpretF64 => self.convert("bitcast", F64, I64),
            O::F32ReinterpretI32 => self.convert("bitcast", I32, F32),
            O::F64ReinterpretI64 => self.convert("bitcast", I64, F64),
            O::I32Extend8S => self.extend(I32, "i8"),
            O::I32Extend16S => self.extend(I32, "i16"),
            O::I64Extend8S => self.extend(I64, "i8"),
            O::I64Extend16S => self.extend(I64, "i16"),
            O::I64Extend32S => self.extend(I64, "i32"),
            other => return atomic::operator(self, other),
        }
        Ok(())
    }

    fn count(&mut self, ty: Ty, name: &str) {
        let a = self.pop();
        let v = self.intrinsic(ty.ll(), &format!("{name}.{}", ty.ll()), &[(ty.ll(), &a), ("i1", "false")]);
        self.push(ty, v);
    }

    fn negate(&mut self, ty: Ty) {
        let a = self.pop();
        let v = self.let_(&format!("fneg {} {a}", ty.ll()));
        self.push(ty, v);
    }

    fn extend(&mut self, ty: Ty, narrow: &str) {
        let a = self.pop();
        let v = self.let_(&format!("trunc {} {a} to {narrow}", ty.ll()));
        let v = self.let_(&format!("sext {narrow} {v} to {}", ty.ll()));
        self.push(ty, v);
    }
}
