//! The fast tier against the quick one: the same output, the same failures, and cells that change the tier with each move.

use crate::moving::*;
use cells::Ended;

/// Like `same` of the other programs' tests, but that the second agent has the fast tier.
fn changes(name: &str, size: u32, args: &[&str], moves: u32) {
    let wasm = compile(&programs().join(name));
    let (quick, fast) = (the_engine(), the_fast_engine());
    let stayed = run_on([quick, quick], &wasm, size, args, None, 0, 0);
    exited(&stayed);
    let mut total = 0;
    for (seed, engines, moves) in [(0, [fast, fast], 0), (1, [quick, fast], moves), (2, [fast, quick], moves), (3, [fast, fast], moves)] {
        let moved = run_on(engines, &wasm, size, args, None, moves, seed);
        exited(&moved);
        assert_eq!(moved.texts, stayed.texts, "{name}, seed {seed}");
        total += moved.moves;
    }
    println!("{name}: {total} moves");
    assert!(total > 0, "{name}: no rank was moved; the program is too short for this test");
}

#[test]
fn a_cell_changes_the_tier_in_the_middle_of_its_work() {
    changes("exchange.c", 4, &[], 12);
    changes("loop.c", 2, &[], 8);
    changes("persistent.c", 3, &[], 12);
}

#[test]
fn failures_are_the_same_in_both_tiers() {
    let wasm = compile(&programs().join("traps.c"));
    for what in ["", "rest", "divide", "remainder", "overflow", "load", "store", "copy", "null", "beyond", "signature", "unreachable", "deep"] {
        let end = |engine| {
            let run = run_on([engine, engine], &wasm, 1, &[what], None, 0, 0);
            let ended = match run.ended[0].clone() {
                Ended::Failed { message, code, .. } => Err((message, code)),
                other => Ok(other),
            };
            (ended, run.texts)
        };
        let (quick, fast) = (end(the_engine()), end(the_fast_engine()));
        assert_eq!(fast, quick, "{what}");
        assert_eq!(quick.0.is_ok(), what.is_empty() || what == "rest", "{what}: {quick:?}");
    }
}

/// Of native code the function that trapped is named, and those that the engine knows.
#[test]
fn a_failure_in_native_code_names_its_function() {
    let wasm = compile(&programs().join("faults.c"));
    let run = run_on([the_fast_engine(); 2], &wasm, 2, &["trap"], None, 0, 0);
    match &run.ended[1] {
        Ended::Failed { message, backtrace, .. } => {
            assert!(message.starts_with("rank 1: "), "{message}");
            assert!(backtrace.lines().next().is_some_and(|l| l.contains("innermost") || l.contains("main")), "{backtrace}");
        }
        other => panic!("{other:?}"),
    }
}
