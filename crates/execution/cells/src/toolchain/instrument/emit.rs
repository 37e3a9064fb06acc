//! Writes a function's new body: polls, frames, and the way back to each safe point.
//!
//! A *sequence* is the function, a block, a loop's body or an arm of an `if` that contains safe points. For each thing in it that a rewind may have to go into, a
//! block is opened at the sequence's beginning and closed in front of the thing; a test at the beginning leaves the right one:
//!
//! ```text
//! loop
//!   block  block                          ;; closed before 2, before 1
//!     stop word | state   if (unlikely)
//!       die word  if unreachable end
//!       state - 7 < 2  br_if 1            ;; to the block `if` below, with the safe points 7 and 8
//!       state - 9 < 1  br_if 2            ;; to the call
//!       ...store the live locals, state = 1...  return
//!     end
//!     ...
//!   end
//!   if ... end
//!   ...
//!   end
//!   call g   state  if (unlikely)  ...store...  return  end
//! ```
//!
//! A block that a sequence begins with has its test with that of the sequence.
//!
//! A loop whose header is its only safe point, and to which few branches lead, looks where it turns and not where it begins: it is often entered for a few turns.
//!
//! ```text
//! loop  ...  local.get n  if   stop word  if (unlikely) ...store... return  end   br 1  end  end
//! ```
//!
//! Each test is hinted, so that the engine lays the unlikely side out behind the function. The hints of `br_if` in cold code say "taken" to make what
//! follows cold as well.

use std::ops::Range;

use wasm_encoder::{BlockType, Catch, Encode, InstructionSink, MemArg};
use wasmparser::ValType;

use super::body::{self, Body, Construct, Entry, Kind, Label, Point, PointKind, Step, Target};
use super::live;
use super::{AreaEnd, Module, UNWINDING, value_type};
use crate::toolchain::flags;
use crate::toolchain::lines::Trail;

/// Where a rewind comes along, and what it does there.
enum Gate {
    Entry,
    /// The header of a loop.
    Loop(Label),
    /// A block or an arm.
    Plain,
}

/// A test that has not been written yet, because the sequence begins with a block.
struct Pending {
    gate: Gate,
    /// With the number of the label that leads there.
    targets: Vec<(Target, u32)>,
}

/// A new body.
pub(super) struct Written {
    /// Locals and code.
    pub bytes: Vec<u8>,
    /// Offset in `bytes` of a branch, and whether it is taken as a rule.
    pub hints: Vec<(u32, bool)>,
    pub trail: Trail,
}

struct Emit<'m> {
    wasm: &'m [u8],
    module: &'m mut Module,
    body: &'m Body,
    results: &'m [ValType],
    out: Vec<u8>,
    hints: Vec<(u32, bool)>,
    trail: Trail,
    live: Vec<live::Set>,
    /// Number of the function's first safe point in the module.
    first: u32,
    /// Where each local that is ever saved has its place in the frame.
    places: Vec<(u32, u32)>,
    frame_bytes: u32,
    /// Labels that are open here, the function's own among them.
    open: u32,
    levels: Vec<u32>,
    pending: Option<Pending>,
    /// The block that the sequence begins with and that has no label of its own.
    flat: Option<Label>,
    entry: Entry,
    /// By label: a loop that looks where it turns.
    late: Vec<bool>,
}

/// Branches to a loop that are worth a look each.
const TURNS_MAX: u32 = 2;

/// Which loops look at the flags in front of each branch to their header, and not behind it.
fn late(body: &Body) -> Vec<bool> {
    let mut branches = vec![0; body.constructs.len()];
    for step in &body.steps {
        match step {
            Step::Br(label) | Step::BrIf(label) => branches[*label] += 1,
            // Which of its labels it goes to is not known in front of it.
            Step::BrTable(labels, default) => labels.iter().chain([default]).for_each(|label| branches[*label] = TURNS_MAX + 1),
            _ => {}
        }
    }
    body.constructs.iter().flat_map(|c| &c.catches).for_each(|catch| branches[catch.label] = TURNS_MAX + 1);
    body.constructs.iter().zip(branches).map(|(c, n)| c.header.is_some() && c.points.len() == 1 && n <= TURNS_MAX).collect()
}

/// Writes the body of a function with `results`.
pub(super) fn write(wasm: &[u8], module: &mut Module, body: &Body, results: &[ValType], entry: Entry) -> Written {
    let live = live::at_points(body);
    let mut saved: Vec<u32> = live.iter().flat_map(|set| set.iter()).collect();
    saved.sort_unstable();
    saved.dedup();
    // Largest first, so that each lies at a multiple of its size, from where the area begins.
    saved.sort_by_key(|local| std::cmp::Reverse(bytes_of(body.types[*local as usize])));
    let mut frame_bytes = 0;
    let places: Vec<(u32, u32)> = saved
        .into_iter()
        .map(|local| {
            let at = frame_bytes;
            frame_bytes += bytes_of(body.types[local as usize]);
            (local, at)
        })
        .collect();
    let first = module.next_point;
    module.next_point += body.points.len() as u32;
    let mut emit = Emit {
        wasm,
        module,
        body,
        results,
        out: Vec::new(),
        hints: Vec::new(),
        trail: Trail::default(),
        live,
        first,
        places,
        // The number of the safe point comes last.
        frame_bytes: frame_bytes + 4,
        open: 1,
        levels: vec![0; body.constructs.len()],
        pending: None,
        flat: None,
        entry,
        late: late(body),
    };
    emit.locals();
    emit.begin(0, 0, 0, Gate::Entry);
    for (i, step) in body.steps.iter().enumerate() {
        emit.step(i, step);
    }
    Written { bytes: emit.out, hints: emit.hints, trail: emit.trail }
}

fn bytes_of(ty: ValType) -> u32 {
    match ty {
        ValType::I32 | ValType::F32 => 4,
        ValType::I64 | ValType::F64 => 8,
        ValType::V128 => 16,
        ValType::Ref(_) => unreachable!("`body::read` lets no reference be saved, and `Outline` no local be one"),
    }
}

impl<'m> Emit<'m> {
    fn sink(&mut self) -> InstructionSink<'_> {
        InstructionSink::new(&mut self.out)
    }

    /// The next instruction is a branch of which this is known.
    fn hint(&mut self, taken: bool) {
        self.hints.push((self.out.len() as u32, taken));
    }

    fn locals(&mut self) {
        let declared = self.body.parameters;
        let mut groups: Vec<(u32, ValType)> = Vec::new();
        for ty in &self.body.types[declared..] {
            match groups.last_mut() {
                Some((n, last)) if last == ty => *n += 1,
                _ => groups.push((1, *ty)),
            }
        }
        (groups.len() as u32).encode(&mut self.out);
        for (n, ty) in groups {
            n.encode(&mut self.out);
            value_type(ty).encode(&mut self.out);
        }
    }

    fn id(&self, point: Point) -> i32 {
        (self.first + point as u32) as i32
    }

    fn construct(&self, label: Label) -> &'m Construct {
        &self.body.constructs[label]
    }

    fn depth(&self, level: u32) -> u32 {
        self.open - 1 - level
    }

    /// Opens the labels of a sequence that begins with step `next`, and writes its test, or leaves that to the block it begins with.
    fn begin(&mut self, label: Label, arm: usize, next: usize, gate: Gate) {
        let mut pending = self.pending.take().unwrap_or(Pending { gate, targets: Vec::new() });
        let targets = &self.body.constructs[label].targets[arm];
        let flat = match (targets.first(), self.body.steps.get(next)) {
            (Some(Target::Construct(inner)), Some(Step::Open(opened))) if inner == opened => {
                Some(*inner).filter(|inner| self.body.constructs[*inner].kind == Kind::Block)
            }
            _ => None,
        };
        let labelled = &targets[usize::from(flat.is_some())..];
        for target in labelled.iter().rev() {
            pending.targets.push((*target, self.open));
            self.sink().block(BlockType::Empty);
            self.open += 1;
        }
        self.flat = flat;
        if flat.is_some() {
            self.pending = Some(pending);
        } else {
            self.test(pending);
        }
    }

    fn test(&mut self, mut pending: Pending) {
        // Innermost label first: that is the order of the code.
        pending.targets.reverse();
        let Pending { gate, targets } = pending;
        match gate {
            Gate::Entry => self.entry(&targets),
            Gate::Loop(label) => match self.construct(label).header {
                Some(_) if self.late[label] => {}
                Some(point) => {
                    self.word(flags::STOP);
                    if !targets.is_empty() {
                        self.state();
                        self.sink().i32_or();
                    }
                    self.hint(false);
                    self.sink().if_(BlockType::Empty);
                    self.open += 1;
                    if !targets.is_empty() {
                        // Also on the way back in each turn looks: who may stop elsewhere still ends here.
                        self.look();
                    }
                    self.go(&targets);
                    self.leave(point);
                    self.sink().end();
                    self.open -= 1;
                }
                None => {
                    self.look();
                    self.way(&targets);
                }
            },
            Gate::Plain => self.way(&targets),
        }
    }

    /// What a function does first: it takes its frame back, is stopped, or dies.
    fn entry(&mut self, targets: &[(Target, u32)]) {
        let polls = self.entry == Entry::Poll;
        match self.entry {
            Entry::Plain => self.state(),
            Entry::Die | Entry::Poll => {
                self.word(if polls { flags::STOP } else { flags::DIE });
                self.state();
                self.sink().i32_or();
            }
        }
        self.hint(false);
        self.sink().if_(BlockType::Empty);
        self.open += 1;
        if self.entry != Entry::Plain {
            self.look();
        }
        if polls {
            self.state();
            self.sink().if_(BlockType::Empty);
            self.open += 1;
        }
        self.restore();
        self.go(targets);
        if polls {
            // The beginning itself: at work again.
            let state = self.module.state;
            self.at_work(0);
            self.sink().global_get(state).i32_eqz();
            self.hint(true);
            self.sink().br_if(1);
        }
        self.sink().unreachable().end();
        self.open -= 1;
        if polls {
            self.leave(0);
            self.sink().end();
            self.open -= 1;
        }
    }

    /// A test for a rewind alone.
    fn way(&mut self, targets: &[(Target, u32)]) {
        if targets.is_empty() {
            return;
        }
        self.state();
        self.hint(false);
        self.sink().if_(BlockType::Empty);
        self.open += 1;
        self.go(targets);
        self.sink().unreachable().end();
        self.open -= 1;
    }

    fn state(&mut self) {
        let state = self.module.state;
        self.sink().global_get(state);
    }

    /// One of the words that the agent sets.
    fn word(&mut self, word: u32) {
        self.module.polls += u32::from(word == flags::STOP);
        flags::load(&mut self.out, word);
    }

    fn look(&mut self) {
        self.module.die_checks += 1;
        let branch = flags::die(&mut self.out);
        self.hints.push((branch as u32, false));
    }

    /// Leaves the blocks in front of what the safe point in `state` is in. Falls through when it is in none of them.
    fn go(&mut self, targets: &[(Target, u32)]) {
        let state = self.module.state;
        let (condition, inside) = (self.body.scratch.condition, self.body.scratch.frame);
        for (target, level) in targets {
            let points = match target {
                Target::Call(point) => *point..*point + 1,
                Target::Construct(label) => self.construct(*label).points.clone(),
            };
            let (from, count) = (self.id(points.start), points.len() as i32);
            self.sink().global_get(state).i32_const(from).i32_sub().i32_const(count).i32_lt_u().local_set(inside);
            if let Target::Construct(label) = target {
                let c = self.construct(*label);
                if c.kind == Kind::If {
                    let then = (c.else_points - points.start) as i32;
                    self.sink().global_get(state).i32_const(from).i32_sub().i32_const(then).i32_lt_u().local_set(condition);
                }
                if let Some(header) = c.header {
                    // To enter the loop is to be at its header.
                    self.at_work(header);
                }
            }
            self.sink().local_get(inside);
            let depth = self.depth(*level);
            self.hint(true);
            self.sink().br_if(depth);
        }
    }

    /// Ends the rewind if it was to this safe point.
    fn at_work(&mut self, point: Point) {
        let (state, id) = (self.module.state, self.id(point));
        self.sink().i32_const(0).global_get(state).global_get(state).i32_const(id).i32_eq().select().global_set(state);
    }

    /// Takes the function's frame off the area. What was not alive at its safe point gets whatever lies there.
    fn restore(&mut self) {
        let (frame, bytes) = (self.body.scratch.frame, self.frame_bytes);
        let (top, state) = (self.module.top, self.module.state);
        self.sink().global_get(top).i32_const(bytes as i32).i32_sub().local_tee(frame).global_set(top);
        self.sink().local_get(frame).i32_load(word(bytes - 4)).global_set(state);
        for (local, at) in self.places.clone() {
            let ty = self.body.types[local as usize];
            let mut sink = self.sink();
            sink.local_get(frame);
            match ty {
                ValType::I32 => sink.i32_load(word(at)),
                ValType::I64 => sink.i64_load(word(at)),
                ValType::F32 => sink.f32_load(word(at)),
                ValType::F64 => sink.f64_load(word(at)),
                _ => sink.v128_load(word(at)),
            };
            sink.local_set(local);
        }
    }

    /// Puts a frame onto the area and returns. A poll begins the unwinding.
    fn leave(&mut self, point: Point) {
        let (frame, bytes, end) = (self.body.scratch.frame, self.frame_bytes, self.module.unwind_end);
        let (top, state, id) = (self.module.top, self.module.state, self.id(point));
        if matches!(self.body.points[point], PointKind::Entry | PointKind::Header(_)) {
            self.sink().i32_const(UNWINDING).global_set(state);
        }
        // Beyond the area's end the address is the highest one, at which every store traps.
        let mut sink = self.sink();
        sink.i32_const(-1).global_get(top).global_get(top);
        match end {
            AreaEnd::At(end) => sink.i32_const((end - bytes) as i32),
            AreaEnd::Global(end) => sink.global_get(end).i32_const(bytes as i32).i32_sub(),
        };
        sink.i32_gt_u().select().local_set(frame);
        let live: Vec<u32> = self.live[point].iter().collect();
        for (local, at) in self.places.clone() {
            if live.binary_search(&local).is_err() {
                continue;
            }
            let ty = self.body.types[local as usize];
            let mut sink = self.sink();
            sink.local_get(frame).local_get(local);
            match ty {
                ValType::I32 => sink.i32_store(word(at)),
                ValType::I64 => sink.i64_store(word(at)),
                ValType::F32 => sink.f32_store(word(at)),
                ValType::F64 => sink.f64_store(word(at)),
                _ => sink.v128_store(word(at)),
            };
        }
        self.sink().local_get(frame).i32_const(id).i32_store(word(bytes - 4));
        self.sink().local_get(frame).i32_const(bytes as i32).i32_add().global_set(top);
        for ty in self.results {
            let mut sink = self.sink();
            match ty {
                ValType::I32 => sink.i32_const(0),
                ValType::I64 => sink.i64_const(0),
                ValType::F32 => sink.f32_const(0.0.into()),
                ValType::F64 => sink.f64_const(0.0.into()),
                ValType::V128 => sink.v128_const(0),
                ValType::Ref(_) => sink.ref_null(wasm_encoder::HeapType::FUNC),
            };
        }
        self.sink().return_();
    }

    fn block_type(&mut self, label: Label) -> BlockType {
        let c = self.construct(label);
        if !c.marked {
            return match c.ty {
                wasmparser::BlockType::Empty => BlockType::Empty,
                wasmparser::BlockType::Type(ty) => BlockType::Result(value_type(ty)),
                wasmparser::BlockType::FuncType(index) => BlockType::FunctionType(index),
            };
        }
        match &c.results[..] {
            [] => BlockType::Empty,
            [ty] => BlockType::Result(value_type(*ty)),
            results => {
                let results = results.to_vec();
                BlockType::FunctionType(self.module.type_of(results))
            }
        }
    }

    fn copy(&mut self, range: &Range<usize>) {
        self.trail.copied(self.out.len(), range.clone());
        self.out.extend_from_slice(&self.wasm[range.clone()]);
    }

    fn step(&mut self, index: usize, step: &Step) {
        match step {
            Step::Copy(range) => self.copy(range),
            Step::Get(local) => drop(self.sink().local_get(*local)),
            Step::Set(local) => drop(self.sink().local_set(*local)),
            Step::Tee(local) => drop(self.sink().local_tee(*local)),
            Step::Look => self.look(),
            Step::Return => drop(self.sink().return_()),
            Step::Trap(range) => self.copy(range),
            Step::Br(label) => {
                self.turn(*label);
                let depth = self.depth(self.levels[*label]);
                self.sink().br(depth);
            }
            Step::BrIf(label) if self.late[*label] => {
                self.sink().if_(BlockType::Empty);
                self.open += 1;
                self.turn(*label);
                let depth = self.depth(self.levels[*label]);
                self.sink().br(depth).end();
                self.open -= 1;
            }
            Step::BrIf(label) => {
                let depth = self.depth(self.levels[*label]);
                self.sink().br_if(depth);
            }
            Step::BrTable(labels, default) => {
                let depths: Vec<u32> = labels.iter().map(|l| self.depth(self.levels[*l])).collect();
                let default = self.depth(self.levels[*default]);
                self.sink().br_table(depths, default);
            }
            Step::Open(label) => self.open(*label, index),
            Step::Else(label) => {
                self.sink().else_();
                if self.construct(*label).marked {
                    self.begin(*label, 1, index + 1, Gate::Plain);
                }
            }
            Step::End(_) => {
                self.sink().end();
                self.open -= 1;
            }
            Step::Arrive(_) => {
                self.sink().end();
                self.open -= 1;
            }
            Step::Call(point, range) => {
                self.copy(range);
                self.state();
                self.hint(false);
                self.sink().if_(BlockType::Empty);
                self.leave(*point);
                self.sink().end();
            }
        }
    }

    /// What comes in front of a branch to a loop that looks late. All that is alive at its header has the value there that it has here.
    fn turn(&mut self, label: Label) {
        if let (true, Some(point)) = (self.late[label], self.construct(label).header) {
            self.word(flags::STOP);
            self.hint(false);
            self.sink().if_(BlockType::Empty);
            self.leave(point);
            self.sink().end();
        }
    }

    fn catch(&self, catch: &body::Catch) -> Catch {
        let label = self.depth(self.levels[catch.label]);
        match catch.tag {
            Some(tag) => Catch::One { tag, label },
            None => Catch::All { label },
        }
    }

    fn open(&mut self, label: Label, index: usize) {
        let ty = self.block_type(label);
        let (kind, marked) = (self.construct(label).kind, self.construct(label).marked);
        let flat = self.flat.take() == Some(label);
        if marked && !flat {
            // What a rewind skips ends here.
            self.sink().end();
            self.open -= 1;
        }
        if marked && kind == Kind::If {
            let condition = self.body.scratch.condition;
            self.sink().local_get(condition);
        }
        match kind {
            Kind::Block => drop(self.sink().block(ty)),
            Kind::Loop => drop(self.sink().loop_(ty)),
            Kind::If => drop(self.sink().if_(ty)),
            Kind::Try => {
                let catches: Vec<Catch> = self.construct(label).catches.iter().map(|c| self.catch(c)).collect();
                self.sink().try_table(ty, catches);
            }
        }
        self.levels[label] = self.open;
        self.open += 1;
        if marked {
            let gate = if kind == Kind::Loop { Gate::Loop(label) } else { Gate::Plain };
            self.begin(label, 0, index + 1, gate);
        } else if kind == Kind::Loop && !self.construct(label).bounded {
            self.look();
        }
    }
}

fn word(offset: u32) -> MemArg {
    MemArg { offset: u64::from(offset), align: 2, memory_index: 0 }
}

/// Section `metadata.code.branch_hint` of the functions with hints.
pub(super) fn hints(functions: &[(u32, Vec<(u32, bool)>)]) -> wasm_encoder::BranchHints {
    let mut section = wasm_encoder::BranchHints::new();
    for (function, hints) in functions {
        section.function_hints(
            *function,
            hints.iter().map(|(offset, taken)| wasm_encoder::BranchHint { branch_func_offset: *offset, branch_hint_value: u32::from(*taken) }),
        );
    }
    section
}
