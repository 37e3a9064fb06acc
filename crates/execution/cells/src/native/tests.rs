//! Each instruction in both tiers, on the operands at which it is likely to go wrong; and what exceptions do.

use crate::cell;
use crate::engine::{Engine, Options, Tier};
use wasmtime::{Tag, ThrownException, V128, Val};

/// Instructions by the types of their operands and of the result.
const OPERATORS: &[(&str, &str, &str)] = &[
    ("i32 i32", "i32", "i32.add i32.sub i32.mul i32.div_s i32.div_u i32.rem_s i32.rem_u i32.and i32.or i32.xor i32.shl i32.shr_s i32.shr_u i32.rotl i32.rotr \
        i32.eq i32.ne i32.lt_s i32.lt_u i32.gt_s i32.gt_u i32.le_s i32.le_u i32.ge_s i32.ge_u"),
    ("i64 i64", "i64", "i64.add i64.sub i64.mul i64.div_s i64.div_u i64.rem_s i64.rem_u i64.and i64.or i64.xor i64.shl i64.shr_s i64.shr_u i64.rotl i64.rotr"),
    ("i64 i64", "i32", "i64.eq i64.ne i64.lt_s i64.lt_u i64.gt_s i64.gt_u i64.le_s i64.le_u i64.ge_s i64.ge_u"),
    ("i32", "i32", "i32.clz i32.ctz i32.popcnt i32.eqz i32.extend8_s i32.extend16_s"),
    ("i64", "i64", "i64.clz i64.ctz i64.popcnt i64.extend8_s i64.extend16_s i64.extend32_s"),
    ("i64", "i32", "i64.eqz i32.wrap_i64"),
    ("i32", "i64", "i64.extend_i32_s i64.extend_i32_u"),
    ("f32 f32", "f32", "f32.add f32.sub f32.mul f32.div f32.min f32.max f32.copysign"),
    ("f64 f64", "f64", "f64.add f64.sub f64.mul f64.div f64.min f64.max f64.copysign"),
    ("f32", "f32", "f32.abs f32.neg f32.ceil f32.floor f32.trunc f32.nearest f32.sqrt"),
    ("f64", "f64", "f64.abs f64.neg f64.ceil f64.floor f64.trunc f64.nearest f64.sqrt"),
    ("f32 f32", "i32", "f32.eq f32.ne f32.lt f32.gt f32.le f32.ge"),
    ("f64 f64", "i32", "f64.eq f64.ne f64.lt f64.gt f64.le f64.ge"),
    ("f32", "i32", "i32.trunc_f32_s i32.trunc_f32_u i32.trunc_sat_f32_s i32.trunc_sat_f32_u i32.reinterpret_f32"),
    ("f64", "i32", "i32.trunc_f64_s i32.trunc_f64_u i32.trunc_sat_f64_s i32.trunc_sat_f64_u"),
    ("f32", "i64", "i64.trunc_f32_s i64.trunc_f32_u i64.trunc_sat_f32_s i64.trunc_sat_f32_u"),
    ("f64", "i64", "i64.trunc_f64_s i64.trunc_f64_u i64.trunc_sat_f64_s i64.trunc_sat_f64_u i64.reinterpret_f64"),
    ("i32", "f32", "f32.convert_i32_s f32.convert_i32_u f32.reinterpret_i32"),
    ("i64", "f32", "f32.convert_i64_s f32.convert_i64_u"),
    ("i32", "f64", "f64.convert_i32_s f64.convert_i32_u"),
    ("i64", "f64", "f64.convert_i64_s f64.convert_i64_u f64.reinterpret_i64"),
    ("f64", "f32", "f32.demote_f64"),
    ("f32", "f64", "f64.promote_f32"),
    ("i32", "i32", "i32.load i32.load8_s i32.load8_u i32.load16_s i32.load16_u memory.grow"),
    ("i32", "i64", "i64.load i64.load8_s i64.load8_u i64.load16_s i64.load16_u i64.load32_s i64.load32_u"),
    ("i32", "f32", "f32.load"),
    ("i32", "f64", "f64.load"),
    ("i32 i32", "", "i32.store i32.store8 i32.store16"),
    ("i32 i64", "", "i64.store i64.store8 i64.store16 i64.store32"),
    ("i32 f64", "", "f64.store"),
    ("i32 i32 i32", "", "memory.copy memory.fill"),
    ("i32", "v128", "v128.load v128.load8x8_s v128.load8x8_u v128.load16x4_s v128.load16x4_u v128.load32x2_s v128.load32x2_u v128.load8_splat v128.load16_splat \
        v128.load32_splat v128.load64_splat v128.load32_zero v128.load64_zero i8x16.splat i16x8.splat i32x4.splat"),
    ("i64", "v128", "i64x2.splat"),
    ("f32", "v128", "f32x4.splat"),
    ("f64", "v128", "f64x2.splat"),
    ("i32 v128", "", "v128.store"),
    ("v128", "i32", "v128.any_true i8x16.all_true i16x8.all_true i32x4.all_true i64x2.all_true i8x16.bitmask i16x8.bitmask i32x4.bitmask i64x2.bitmask \
        i8x16.extract_lane_s:5 i8x16.extract_lane_u:15 i16x8.extract_lane_s:3 i16x8.extract_lane_u:7 i32x4.extract_lane:2"),
    ("v128", "i64", "i64x2.extract_lane:1"),
    ("v128", "f32", "f32x4.extract_lane:3"),
    ("v128", "f64", "f64x2.extract_lane:1"),
    ("v128 i32", "v128", "i8x16.replace_lane:9 i16x8.replace_lane:2 i32x4.replace_lane:1 i8x16.shl i8x16.shr_s i8x16.shr_u i16x8.shl i16x8.shr_s i16x8.shr_u i32x4.shl \
        i32x4.shr_s i32x4.shr_u i64x2.shl i64x2.shr_s i64x2.shr_u"),
    ("v128 i64", "v128", "i64x2.replace_lane:1"),
    ("v128 f64", "v128", "f64x2.replace_lane:0"),
    ("v128 v128 v128", "v128", "v128.bitselect"),
    ("v128", "v128", "v128.not i8x16.abs i16x8.abs i32x4.abs i64x2.abs i8x16.neg i16x8.neg i32x4.neg i64x2.neg i8x16.popcnt \
        i16x8.extend_low_i8x16_s i16x8.extend_low_i8x16_u i16x8.extend_high_i8x16_s i16x8.extend_high_i8x16_u \
        i32x4.extend_low_i16x8_s i32x4.extend_low_i16x8_u i32x4.extend_high_i16x8_s i32x4.extend_high_i16x8_u \
        i64x2.extend_low_i32x4_s i64x2.extend_low_i32x4_u i64x2.extend_high_i32x4_s i64x2.extend_high_i32x4_u \
        i16x8.extadd_pairwise_i8x16_s i16x8.extadd_pairwise_i8x16_u i32x4.extadd_pairwise_i16x8_s i32x4.extadd_pairwise_i16x8_u \
        i32x4.trunc_sat_f32x4_s i32x4.trunc_sat_f32x4_u i32x4.trunc_sat_f64x2_s_zero i32x4.trunc_sat_f64x2_u_zero"),
    ("v128 v128", "v128", "v128.and v128.or v128.xor v128.andnot i8x16.swizzle i8x16.eq i8x16.ne i8x16.lt_s i8x16.lt_u i8x16.gt_s i8x16.gt_u i8x16.le_s i8x16.le_u \
        i8x16.ge_s i8x16.ge_u i16x8.eq i16x8.ne i16x8.lt_s i16x8.lt_u i16x8.gt_s i16x8.gt_u i16x8.le_s i16x8.le_u i16x8.ge_s i16x8.ge_u i32x4.eq i32x4.ne i32x4.lt_s \
        i32x4.lt_u i32x4.gt_s i32x4.gt_u i32x4.le_s i32x4.le_u i32x4.ge_s i32x4.ge_u i64x2.eq i64x2.ne i64x2.lt_s i64x2.gt_s i64x2.le_s i64x2.ge_s \
        f32x4.eq f32x4.ne f32x4.lt f32x4.gt f32x4.le f32x4.ge f64x2.eq f64x2.ne f64x2.lt f64x2.gt f64x2.le f64x2.ge \
        i8x16.narrow_i16x8_s i8x16.narrow_i16x8_u i16x8.narrow_i32x4_s i16x8.narrow_i32x4_u i8x16.add i8x16.sub i8x16.add_sat_s i8x16.add_sat_u i8x16.sub_sat_s \
        i8x16.sub_sat_u i16x8.add i16x8.sub i16x8.mul i16x8.add_sat_s i16x8.add_sat_u i16x8.sub_sat_s i16x8.sub_sat_u i32x4.add i32x4.sub i32x4.mul i64x2.add i64x2.sub \
        i64x2.mul i8x16.min_s i8x16.min_u i8x16.max_s i8x16.max_u i16x8.min_s i16x8.min_u i16x8.max_s i16x8.max_u i32x4.min_s i32x4.min_u i32x4.max_s i32x4.max_u \
        i8x16.avgr_u i16x8.avgr_u i16x8.extmul_low_i8x16_s i16x8.extmul_low_i8x16_u i16x8.extmul_high_i8x16_s i16x8.extmul_high_i8x16_u i32x4.extmul_low_i16x8_s \
        i32x4.extmul_low_i16x8_u i32x4.extmul_high_i16x8_s i32x4.extmul_high_i16x8_u i64x2.extmul_low_i32x4_s i64x2.extmul_low_i32x4_u i64x2.extmul_high_i32x4_s \
        i64x2.extmul_high_i32x4_u i32x4.dot_i16x8_s i16x8.q15mulr_sat_s i8x16.shuffle:0:31:2:17:4:5:30:7:8:9:10:27:12:13:14:15"),
    ("i32", "i32", "i32.atomic.load i32.atomic.load8_u i32.atomic.load16_u"),
    ("i32", "i64", "i64.atomic.load i64.atomic.load8_u i64.atomic.load16_u i64.atomic.load32_u"),
    ("i32 i32", "", "i32.atomic.store i32.atomic.store8 i32.atomic.store16"),
    ("i32 i64", "", "i64.atomic.store i64.atomic.store8 i64.atomic.store16 i64.atomic.store32"),
    ("i32 i32", "i32", "i32.atomic.rmw.add i32.atomic.rmw8.add_u i32.atomic.rmw16.add_u i32.atomic.rmw.sub i32.atomic.rmw8.sub_u i32.atomic.rmw16.sub_u \
        i32.atomic.rmw.and i32.atomic.rmw8.and_u i32.atomic.rmw16.and_u i32.atomic.rmw.or i32.atomic.rmw8.or_u i32.atomic.rmw16.or_u \
        i32.atomic.rmw.xor i32.atomic.rmw8.xor_u i32.atomic.rmw16.xor_u i32.atomic.rmw.xchg i32.atomic.rmw8.xchg_u i32.atomic.rmw16.xchg_u"),
    ("i32 i64", "i64", "i64.atomic.rmw.add i64.atomic.rmw8.add_u i64.atomic.rmw16.add_u i64.atomic.rmw32.add_u i64.atomic.rmw.sub i64.atomic.rmw8.sub_u \
        i64.atomic.rmw16.sub_u i64.atomic.rmw32.sub_u i64.atomic.rmw.and i64.atomic.rmw8.and_u i64.atomic.rmw16.and_u i64.atomic.rmw32.and_u \
        i64.atomic.rmw.or i64.atomic.rmw8.or_u i64.atomic.rmw16.or_u i64.atomic.rmw32.or_u i64.atomic.rmw.xor i64.atomic.rmw8.xor_u \
        i64.atomic.rmw16.xor_u i64.atomic.rmw32.xor_u i64.atomic.rmw.xchg i64.atomic.rmw8.xchg_u i64.atomic.rmw16.xchg_u i64.atomic.rmw32.xchg_u"),
    ("i32 i32 i32", "i32", "i32.atomic.rmw.cmpxchg i32.atomic.rmw8.cmpxchg_u i32.atomic.rmw16.cmpxchg_u"),
    ("i32 i64 i64", "i64", "i64.atomic.rmw.cmpxchg i64.atomic.rmw8.cmpxchg_u i64.atomic.rmw16.cmpxchg_u i64.atomic.rmw32.cmpxchg_u"),
    ("", "", "atomic.fence"),
    // The second one finds the segment dropped; its name is another one by the sign at its end.
    ("i32 i32 i32", "", "memory.init:0"),
    ("", "", "data.drop:0"),
    ("i32 i32 i32", "", "memory.init:0:"),
    ("", "i32", "memory.size"),
];
/// The same for vectors of floating point numbers, whose operands are numbers and whose NaNs are all one.
const FLOATS: &[(&str, &str, &str)] = &[
    ("v128", "f32x4", "f32x4.abs f32x4.neg f32x4.sqrt f32x4.ceil f32x4.floor f32x4.trunc f32x4.nearest f32x4.convert_i32x4_s f32x4.convert_i32x4_u f32x4.demote_f64x2_zero"),
    ("v128", "f64x2", "f64x2.abs f64x2.neg f64x2.sqrt f64x2.ceil f64x2.floor f64x2.trunc f64x2.nearest f64x2.convert_low_i32x4_s f64x2.convert_low_i32x4_u f64x2.promote_low_f32x4"),
    ("v128 v128", "f32x4", "f32x4.add f32x4.sub f32x4.mul f32x4.div f32x4.min f32x4.max f32x4.pmin f32x4.pmax"),
    ("v128 v128", "f64x2", "f64x2.add f64x2.sub f64x2.mul f64x2.div f64x2.min f64x2.max f64x2.pmin f64x2.pmax"),
];

fn operands(ty: &str) -> Vec<Val> {
    let i32s = [0, 1, -1, 2, 7, 31, 32, 33, 255, 0x7fff, 0x12345678, -0x12345678, i32::MAX, i32::MIN, 65528, 131072];
    let f64s = [
        0.0, -0.0, 1.0, -1.0, 0.5, 1.5, 2.5, -2.5, 0.1, 1e10, -1e10, 1e300, f64::MIN_POSITIVE / 4.0, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 2147483647.0, 2147483648.0,
        -2147483648.0, -2147483649.0, 4294967295.5, 4294967296.0, 9223372036854775808.0, -9223372036854775808.0, 18446744073709551616.0, -0.9,
    ];
    match ty {
        "i32" => i32s.map(Val::I32).to_vec(),
        "i64" => i32s.iter().flat_map(|v| [i64::from(*v), i64::from(*v) << 31, !i64::from(*v) ^ (1 << 63)]).map(Val::I64).collect(),
        "f32" => f64s.iter().map(|v| Val::F32((*v as f32).to_bits())).collect(),
        "f64" => f64s.iter().map(|v| Val::F64(v.to_bits())).collect(),
        _ => {
            let pair = |a: u64, b: u64| Val::V128(V128::from(u128::from(a) | u128::from(b) << 64));
            let single = |a: f32, b: f32| u64::from(a.to_bits()) | u64::from(b.to_bits()) << 32;
            let mut all = vec![pair(0, 0), pair(!0, !0), pair(0x8000_7fff_ff80_017f, 0x7fff_ffff_8000_0000), pair(0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210)];
            all.extend(f64s.windows(2).map(|w| pair(w[0].to_bits(), w[1].to_bits())));
            all.extend(f64s.windows(4).map(|w| pair(single(w[0] as f32, w[1] as f32), single(w[2] as f32, w[3] as f32))));
            all
        }
    }
}

/// A function for each instruction, called by its name.
fn module() -> (Vec<u8>, Vec<(String, Vec<String>, String)>) {
    let mut text = String::from(r#"(module (memory (export "memory") 2 4) (memory (export "__cloudskin_flags") 1 1) (data "segment of data") (global $g (mut i64) (i64.const 5))"#);
    let mut list = Vec::new();
    for (params, result, names) in OPERATORS.iter().chain(FLOATS) {
        for name in names.split_whitespace() {
            let params: Vec<String> = params.split_whitespace().map(str::to_string).collect();
            let instruction = name.replace(':', " ");
            let of = if result.contains('x') { "v128" } else { result };
            let result_text = if of.is_empty() { String::new() } else { format!("(result {of})") };
            let gets: String = (0..params.len()).map(|i| format!("(local.get {i})")).collect();
            text += &format!(r#"(func (export "{name}") (param {}) {result_text} {gets} {instruction})"#, params.join(" "));
            list.push((name.to_string(), params, result.to_string()));
        }
    }
    // What the stub does with a global, and a loop with a block's result.
    text += r#"(func (export "count") (param i32) (result i64) (local $n i32)
        (global.set $g (i64.add (global.get $g) (i64.const 1)))
        (loop $l (result i64)
            (local.set $n (i32.add (local.get $n) (i32.const 1)))
            (br_if $l (i32.lt_u (local.get $n) (i32.and (local.get 0) (i32.const 63))))
            (i64.add (global.get $g) (block $b (result i64)
                (br_table $b $b $b (i64.extend_i32_u (local.get $n)) (local.get $n))))))
      (func (export "_start")))"#;
    list.push(("count".into(), vec!["i32".into()], "i64".into()));
    (wat::parse_str(text).unwrap(), list)
}

/// One NaN for all.
fn plain(result: &Val, ty: &str) -> String {
    let single = |bits: u32| if f32::from_bits(bits).is_nan() { "nan".to_string() } else { format!("{bits:x}") };
    let double = |bits: u64| if f64::from_bits(bits).is_nan() { "nan".to_string() } else { format!("{bits:x}") };
    match (result, ty) {
        (Val::F32(bits), _) => single(*bits),
        (Val::F64(bits), _) => double(*bits),
        (Val::V128(v), "f32x4") => (0..4).map(|i| single((v.as_u128() >> (32 * i)) as u32) + " ").collect(),
        (Val::V128(v), "f64x2") => (0..2).map(|i| double((v.as_u128() >> (64 * i)) as u64) + " ").collect(),
        (Val::V128(v), _) => format!("{:x}", v.as_u128()),
        (other, _) => format!("{other:?}"),
    }
}

#[test]
fn every_instruction_gives_the_same_in_both_tiers() {
    let (wasm, list) = module();
    let open = |tier| {
        let engine = Engine::new(&Options { cells_max: 2, tier, ..Default::default() }).unwrap();
        let program = engine.load_bare(&wasm).unwrap();
        let (store, instance) = cell::bare(&engine, &program).unwrap();
        (store, instance, program)
    };
    let (mut quick, mut fast) = (open(Tier::Quick), open(Tier::Fast));
    assert!(fast.0.data().native.is_none());
    let mut compared = 0;
    for (name, params, result) in &list {
        let sets: Vec<Vec<Val>> = params.iter().map(|p| operands(p)).collect();
        let total: usize = sets.iter().map(Vec::len).product();
        // All of them, or those that a stride of a prime reaches.
        let step = if total > 3000 { 17 } else { 1 };
        for n in (0..total).step_by(step) {
            let mut rest = n;
            let args: Vec<Val> = sets.iter().map(|s| { let v = s[rest % s.len()]; rest /= s.len(); v }).collect();
            let call = |on: &mut (wasmtime::Store<cell::Host>, wasmtime::Instance, std::sync::Arc<crate::Program>)| {
                let func = on.1.get_func(&mut on.0, name).unwrap();
                let mut out = vec![Val::I32(0); usize::from(!result.is_empty())];
                match func.call(&mut on.0, &args, &mut out) {
                    Ok(()) => out.iter().map(|v| plain(v, result)).collect::<String>(),
                    Err(e) => format!("{:?}", e.downcast_ref::<wasmtime::Trap>()),
                }
            };
            let (a, b) = (call(&mut quick), call(&mut fast));
            assert_eq!(a, b, "{name} {args:?}");
            compared += 1;
        }
    }
    let memory = |on: &mut (wasmtime::Store<cell::Host>, wasmtime::Instance, std::sync::Arc<crate::Program>)| {
        on.1.get_memory(&mut on.0, "memory").unwrap().data(&on.0).to_vec()
    };
    assert_eq!(memory(&mut quick), memory(&mut fast), "what the stores left");
    // Without this, two instances of the quick tier would be compared.
    assert!(fast.0.data().native.is_some());
    println!("{} instructions, {compared} results", list.len());
}

/// Handlers of all kinds, and what leaves native code for the engine.
const THROWS: &str = r#"(module
    (type $one (func (param i32) (result i32)))
    (memory (export "memory") 1) (memory (export "__cloudskin_flags") 1 1)
    (tag $a (export "a") (param i32)) (tag $b (export "b") (param i32)) (tag $c (export "c") (param i32))
    (table funcref (elem $throws))
    (func $throws (export "throws") (type $one)
        (if (i32.and (local.get 0) (i32.const 1)) (then (throw $a (i32.mul (local.get 0) (i32.const 10)))))
        (if (i32.and (local.get 0) (i32.const 2)) (then (throw $b (i32.mul (local.get 0) (i32.const 10)))))
        (if (i32.and (local.get 0) (i32.const 4)) (then (throw $c (i32.const 9))))
        (i32.add (local.get 0) (i32.const 1)))
    ;; One within another, all of the rest, and a value below.
    (func (export "nested") (type $one)
        i32.const 1000
        block $h (result i32)
            block $all
                block $inner (result i32)
                    try_table (result i32) (catch $a $h) (catch_all $all)
                        try_table (result i32) (catch $b $inner)
                            local.get 0
                            call $throws
                        end
                        i32.const 100
                        i32.add
                    end
                    br $h
                end
                i32.const 7
                i32.mul
                br $h
            end
            i32.const -5
        end
        i32.add)
    ;; The handler is a loop that begins again with what was thrown, through the table.
    (func (export "again") (type $one) (local i32)
        local.get 0
        loop $l (param i32) (result i32)
            local.set 1
            (if (i32.gt_s (local.get 1) (i32.const 40)) (then (return (local.get 1))))
            try_table (result i32) (catch $a $l)
                (call_indirect (type $one) (local.get 1) (i32.const 0))
            end
        end)
    ;; The handler is the function's end, and in a handler something is thrown.
    (func $end (export "end") (type $one)
        try_table (result i32) (catch $a 0)
            block $h (result i32)
                try_table (result i32) (catch $b $h)
                    (call $throws (local.get 0))
                end
                br 1
            end
            i32.const 1
            i32.or
            call $throws
        end)
    ;; Calls on the way, one of which catches nothing that comes.
    (func $far (type $one) (if (result i32) (i32.gt_s (local.get 0) (i32.const 20))
        (then (i32.add (call $far (i32.sub (local.get 0) (i32.const 16))) (i32.const 1)))
        (else (try_table (result i32) (call $throws (local.get 0))))))
    (func (export "far") (type $one)
        (block $h (result i32) (i32.sub (try_table (result i32) (catch $c $h) (call $far (local.get 0))) (i32.const 3))))
    (func (export "_start")))"#;

#[test]
fn exceptions_do_the_same_in_both_tiers() {
    let wasm = wat::parse_str(THROWS).unwrap();
    let results = |tier| {
        let engine = Engine::new(&Options { cells_max: 2, tier, ..Default::default() }).unwrap();
        let program = engine.load_bare(&wasm).unwrap();
        assert_eq!(program.tier(), tier);
        let (mut store, instance) = cell::bare(&engine, &program).unwrap();
        let mut all = Vec::new();
        for name in ["throws", "nested", "again", "end", "far"] {
            let func = instance.get_typed_func::<i32, i32>(&mut store, name).unwrap();
            for n in (0..=50).chain([-1, -2, -4]) {
                let result = match func.call(&mut store, n) {
                    Ok(result) => result.to_string(),
                    Err(e) if e.is::<ThrownException>() => {
                        let thrown = store.take_pending_exception().unwrap();
                        let tag = thrown.tag(&mut store).unwrap();
                        let named = ["a", "b", "c"].into_iter().find(|name| Tag::eq(&instance.get_tag(&mut store, name).unwrap(), &tag, &store));
                        format!("{} {:?}", named.unwrap(), thrown.field(&mut store, 0).unwrap().i32())
                    }
                    Err(e) => panic!("{name}({n}): {e:?}"),
                };
                all.push(format!("{name}({n}) = {result}"));
            }
        }
        all
    };
    let (quick, fast) = (results(Tier::Quick), results(Tier::Fast));
    assert_eq!(quick, fast);
    // They were thrown, caught and left.
    for expected in ["throws(1) = a Some(10)", "nested(0) = 1101", "nested(2) = 1140", "nested(4) = 995", "again(5) = 50", "end(2) = 210", "end(4) = c Some(9)", "far(24) = 7", "far(36) = 9"] {
        assert!(quick.iter().any(|line| line == expected), "{expected} is not among {quick:#?}");
    }
}

/// Its pads would be written by a function that calls itself as often.
#[test]
fn what_is_tried_within_too_much_else_stays() {
    let module = |nested: usize| {
        let (tried, ends) = ("try_table (catch_all 0) ".repeat(nested), "end ".repeat(nested));
        wat::parse_str(format!(r#"(module (memory 1) (memory (export "__cloudskin_flags") 1 1) (tag $t (param i32)) (func {tried} i32.const 1 throw $t {ends}))"#)).unwrap()
    };
    assert!(super::translated(&module(200)).is_some());
    assert!(super::translated(&module(100_000)).is_none());
}
