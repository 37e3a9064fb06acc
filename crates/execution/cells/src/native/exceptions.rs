//! Exceptions as returns. `toolchain::exceptions` has left blocks with ways out of them, and tags of one number.
//!
//! ```text
//! throw t          the thrown words become t + 1 and the address; to the pad
//! a call           the call; is the first thrown word set? to the pad
//! pad              the handlers around this place, innermost first: the tag's? the word becomes 0, the address goes to the handler
//!                  none: return, of whatever value; the caller looks
//! ```
//!
//! The *thrown words* lie in front of the copies of the globals, so that the instance reaches them as well: what leaves native code by a stub is thrown there by the engine
//! (`residual`), and what comes back through a host function, from a function that MPI has called, is caught there and handed on.
//!
//! Only who may throw is looked at: what throws, calls through the table, calls such a function or an import that may call back. A loop that computes has none of it.
//!
//! *Considered: tables and an unwinder, as C++ has them natively*, where a call costs nothing until something is thrown. The unwinder would be another library in this process, walking frames next to the
//! engine's, over code that a tenant had made; and what it would save is a load and a branch that is never taken, where the safe points' own look stands already.

use super::translate::{Frame, GLOBALS, Kind, NO_ALIAS_CTX, SELDOM, Source, Stays, Writer};
use std::fmt::Write;
use wasmparser::{Catch, Operator, TryTable};

/// Where in the memory of the flag words the thrown words are: the tag's number and one, and the address.
pub(super) const THROWN: u32 = GLOBALS - 16;

/// Most of what is tried within what is tried: pads are written one within another.
const NESTED_MAX: usize = 256;

/// A way out of what is tried.
pub(super) struct Handler {
    /// `None`: all are caught.
    tag: Option<u32>,
    /// Where it leads, and where it wants the address.
    target: String,
    slot: Option<String>,
}

/// Which functions may come back with something thrown.
pub(super) fn throwing(source: &Source<'_>) -> wasmparser::Result<Vec<bool>> {
    let mut throws: Vec<bool> = vec![false; source.functions.len()];
    if source.tags == 0 {
        return Ok(throws);
    }
    throws[..source.imported as usize].copy_from_slice(&source.calls_back);
    let mut calls: Vec<Vec<u32>> = vec![Vec::new(); source.functions.len()];
    for (i, body) in source.bodies.iter().enumerate() {
        let function = source.imported + i as u32;
        let mut code = body.get_operators_reader()?;
        while !code.eof() {
            match code.read()? {
                Operator::Throw { .. } | Operator::CallIndirect { .. } => throws[function as usize] = true,
                // By callee.
                Operator::Call { function_index } => calls[function_index as usize].push(function),
                _ => {}
            }
        }
    }
    let mut news: Vec<usize> = (0..throws.len()).filter(|f| throws[*f]).collect();
    while let Some(callee) = news.pop() {
        for caller in &calls[callee] {
            if !std::mem::replace(&mut throws[*caller as usize], true) {
                news.push(*caller as usize);
            }
        }
    }
    Ok(throws)
}

impl Writer<'_> {
    pub(super) fn try_table(&mut self, table: &TryTable) -> Result<(), Stays> {
        let handler = |catch: &Catch| {
            let (tag, label) = match *catch {
                Catch::One { tag, label } => (Some(tag), label),
                Catch::All { label } => (None, label),
                Catch::OneRef { .. } | Catch::AllRef { .. } => return Err("a reference to an exception".to_string()),
            };
            // The labels are those outside of what is tried.
            let Frame { target, brought, .. } = &self.frames[self.frames.len() - 1 - label as usize];
            Ok(Handler { tag, target: target.clone(), slot: brought.first().map(|(_, slot)| slot.clone()) })
        };
        let handlers = table.catches.iter().map(handler).collect::<Result<_, _>>()?;
        if self.tries.len() == NESTED_MAX {
            return Err(format!("more than {NESTED_MAX} blocks that catch exceptions lie in one another"));
        }
        self.tries.push(self.frames.len());
        self.begin(table.ty, false)?;
        if let Some(frame) = self.frames.last_mut() {
            frame.kind = Kind::Try { handlers, pad: None };
        }
        Ok(())
    }

    pub(super) fn throw(&mut self, tag: u32) {
        let address = self.pop();
        for (at, value) in [(0, (tag + 1).to_string()), (4, address)] {
            let p = self.thrown(at);
            self.line(&format!("store i32 {value}, ptr {p}, align 4{NO_ALIAS_CTX}"));
        }
        let pad = self.pad(self.tries.len());
        self.line(&format!("br label %{pad}"));
        self.dead = true;
    }

    /// Looks, behind a call, whether it has come back because something was thrown.
    pub(super) fn look_for_thrown(&mut self) {
        let p = self.thrown(0);
        let tag = self.let_(&format!("load i32, ptr {p}, align 4{NO_ALIAS_CTX}"));
        let thrown = self.let_(&format!("icmp ne i32 {tag}, 0"));
        let (pad, on) = (self.pad(self.tries.len()), self.label());
        self.line(&format!("br i1 {thrown}, label %{pad}, label %{on}{SELDOM}"));
        let _ = writeln!(self.body, "{on}:");
    }

    fn thrown(&mut self, at: i64) -> String {
        self.let_(&format!("getelementptr i8, ptr %glob, i64 {}", i64::from(THROWN) - i64::from(GLOBALS) + at))
    }

    /// Where what is thrown within so many of what is tried, the outermost first, goes on.
    fn pad(&mut self, tries: usize) -> String {
        let Some(outer) = tries.checked_sub(1) else {
            self.leaves = true;
            return "leave".into();
        };
        let at = self.tries[outer];
        if let Kind::Try { pad: Some(pad), .. } = &self.frames[at].kind {
            return pad.clone();
        }
        let name = self.label();
        let outer = self.pad(outer);
        // Written apart: it belongs to no place in the code.
        let body = std::mem::take(&mut self.body);
        let _ = writeln!(self.body, "{name}:");
        let (p, q) = (self.thrown(0), self.thrown(4));
        let tag = self.let_(&format!("load i32, ptr {p}, align 4{NO_ALIAS_CTX}"));
        let Kind::Try { handlers, .. } = std::mem::replace(&mut self.frames[at].kind, Kind::Block) else { unreachable!("it was found as one") };
        for handler in &handlers {
            let (yes, no) = (self.label(), self.label());
            let caught = match handler.tag {
                Some(of) => self.let_(&format!("icmp eq i32 {tag}, {}", of + 1)),
                None => "true".into(),
            };
            self.line(&format!("br i1 {caught}, label %{yes}, label %{no}"));
            let _ = writeln!(self.body, "{yes}:");
            self.line(&format!("store i32 0, ptr {p}, align 4{NO_ALIAS_CTX}"));
            if let (Some(slot), Some(_)) = (&handler.slot, handler.tag) {
                let address = self.let_(&format!("load i32, ptr {q}, align 4{NO_ALIAS_CTX}"));
                self.line(&format!("store i32 {address}, ptr {slot}, align 16"));
            }
            self.line(&format!("br label %{}", handler.target));
            let _ = writeln!(self.body, "{no}:");
        }
        self.line(&format!("br label %{outer}"));
        self.frames[at].kind = Kind::Try { handlers, pad: Some(name.clone()) };
        self.pads += &std::mem::replace(&mut self.body, body);
        name
    }
}
