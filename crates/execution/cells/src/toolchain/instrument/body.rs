//! Reads one function and writes it down so that it can be left and entered again at its safe points.
//!
//! ```text
//! operators ──read──▶ Vec<Op> + constructs, which of them contain a safe point
//!           ──lower─▶ Vec<Step>: nothing lies on the operand stack where a construct with a safe point begins, or in front of a call
//!                     that is one; what lay there is in locals
//! ```
//!
//! Code that can't be reached is dropped: its operand types are unknown, and nobody stops there. What has no safe point inside is copied as it is, but for
//! the labels of its branches.

use std::collections::HashMap;
use std::ops::Range;

use wasmparser::{BlockType, FuncValidator, FunctionBody, Operator, TryTable, ValType, ValidatorResources};

use super::Calls;
use crate::toolchain::Error;
use crate::toolchain::outline::Loop;

/// Number of a construct in [`Body::constructs`]; the function itself is 0.
pub(super) type Label = usize;
/// Number of a safe point in [`Body::points`].
pub(super) type Point = usize;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Block,
    Loop,
    If,
    /// A block with ways out of it for exceptions.
    Try,
}

/// Where an exception goes that is thrown within a [`Kind::Try`], with what was thrown.
#[derive(Clone, Copy, Debug)]
pub(super) struct Catch {
    /// `None`: of any kind, and nothing of it goes along.
    pub tag: Option<u32>,
    pub label: Label,
}

/// A block, loop or `if`, or the function.
#[derive(Debug)]
pub(super) struct Construct {
    pub kind: Kind,
    params: Vec<ValType>,
    pub results: Vec<ValType>,
    /// The block type as it stands in the module.
    pub ty: BlockType,
    /// Of a [`Kind::Try`], the first that fits.
    pub catches: Vec<Catch>,
    /// It contains a safe point, or is a loop with a poll.
    pub marked: bool,
    /// It is a loop that is to have a poll.
    polled: bool,
    /// It is a loop that turns so often at most, by what its code shows, that it needs no look at the flags.
    pub bounded: bool,
    /// It is a loop that polls at its header: here.
    pub header: Option<Point>,
    /// Its safe points, the header's among them, and of an `if` where the second arm's begin.
    pub points: Range<Point>,
    pub else_points: Point,
    /// What must be gone into from its beginning, in order; for an `if` by arm.
    pub targets: [Vec<Target>; 2],
    /// Locals that hold its parameters while it is begun.
    param_locals: Vec<u32>,
    parent: Label,
    has_else: bool,
    /// Height of the operand stack below the parameters, counted from the function's beginning.
    base: usize,
    /// What lies on the stack of the parent below the parameters.
    lower: Vec<ValType>,
}

/// What a rewind goes to in a sequence.
#[derive(Clone, Copy, Debug)]
pub(super) enum Target {
    Call(Point),
    Construct(Label),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PointKind {
    Entry,
    Header(Label),
    /// A call that is made again with the same arguments.
    Import,
    /// A call that finds its arguments in its own frame.
    Function,
    /// The same through the table; which element is in a local.
    Indirect(u32),
}

/// One step of the new function. Locals beyond the function's own are those of [`Body::types`].
#[derive(Debug)]
pub(super) enum Step {
    /// Bytes of the module without locals and labels.
    Copy(Range<usize>),
    Get(u32),
    Set(u32),
    Tee(u32),
    Open(Label),
    Else(Label),
    End(Label),
    Br(Label),
    BrIf(Label),
    BrTable(Vec<Label>, Label),
    Return,
    /// What stood there, which is where it comes from.
    Trap(Range<usize>),
    /// A rewind to this call begins here.
    Arrive(Point),
    Call(Point, Range<usize>),
    /// A look at the die word.
    Look,
}

pub(super) struct Body {
    /// Types of all locals, parameters first.
    pub types: Vec<ValType>,
    /// How many of them are parameters.
    pub parameters: usize,
    pub steps: Vec<Step>,
    pub constructs: Vec<Construct>,
    pub points: Vec<PointKind>,
    pub scratch: Scratch,
}

/// Locals of the pass. Nothing in them outlives a test.
#[derive(Clone, Copy)]
pub(super) struct Scratch {
    /// The condition of an `if` that contains safe points.
    pub condition: u32,
    /// A frame's address, or whether a rewind goes to a target.
    pub frame: u32,
}

/// What a function does when it is called, before anything else.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    Plain,
    /// It looks whether it is to die.
    Die,
    /// It may be stopped.
    Poll,
}

/// What is to be made of a function.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'o> {
    pub poll_loops: bool,
    pub entry: Entry,
    /// Its loops in the order of their heads.
    pub loops: &'o [Loop],
    /// Where it copies or fills memory of any size.
    pub bulk: &'o [usize],
}

struct Op {
    what: What,
    range: Range<usize>,
}

enum What {
    Plain,
    Bulk,
    Get(u32),
    Set(u32),
    Tee(u32),
    Open(Label),
    Else(Label),
    End(Label),
    Br(Label),
    BrIf(Label),
    BrTable(Vec<Label>, Label),
    Return,
    Trap,
    Call(Box<Call>),
}

/// A call that may unwind.
struct Call {
    /// What lies on the stack of its construct, arguments and the table's index included.
    stack: Vec<ValType>,
    base: usize,
    taken: usize,
    results: Vec<ValType>,
    kind: PointKind,
}

/// Reads a function of a module that has been validated.
pub(super) fn read(
    mut validator: FuncValidator<ValidatorResources>,
    body: &FunctionBody<'_>,
    ty: &wasmparser::FuncType,
    calls: &Calls<'_>,
    wanted: Wanted<'_>,
) -> Result<Body, Error> {
    let mut reader = body.get_binary_reader();
    validator.read_locals(&mut reader)?;
    let types: Vec<ValType> = (0..validator.len_locals()).map_while(|i| validator.get_local_type(i)).collect();
    let mut scan = Scan { constructs: Vec::new(), ops: Vec::new(), open: vec![0], dead: None, loops: 0 };
    scan.constructs.push(Construct { marked: true, ..Construct::new(Kind::Block, BlockType::Empty, Vec::new(), ty.results().to_vec(), 0) });
    let mut operators = body.get_operators_reader()?;
    while !operators.eof() {
        let start = operators.original_position();
        let operator = operators.read()?;
        scan.operator(&operator, start..operators.original_position(), &validator, calls, wanted)?;
        validator.op(start, &operator)?;
    }
    let mut lower = Lower {
        constructs: scan.constructs,
        types,
        steps: Vec::new(),
        points: Vec::new(),
        slots: HashMap::new(),
        arms: vec![(0, 0)],
        plain: None,
    };
    let scratch = Scratch { condition: lower.local(ValType::I32), frame: lower.local(ValType::I32) };
    if wanted.entry == Entry::Poll {
        lower.points.push(PointKind::Entry);
    }
    for op in scan.ops {
        lower.op(op, scratch)?;
    }
    lower.flush_plain();
    lower.constructs[0].points = 0..lower.points.len();
    let steps = hoist(lower.steps, &lower.constructs);
    Ok(Body { types: lower.types, parameters: ty.params().len(), steps, constructs: lower.constructs, points: lower.points, scratch })
}

/// Lets a block that is the first thing in its sequence to be gone into begin with the sequence. What stood in front of it is then within it, which changes nothing, for a block is only a label
/// to leave it by and nothing lies on the operand stack where it begins; and the sequence's test does for both (`emit`). Compilers open blocks late, and many in one another.
fn hoist(steps: Vec<Step>, constructs: &[Construct]) -> Vec<Step> {
    // Of what is open: the arm, and in front of which step its sequence begins.
    let mut open: Vec<(Label, usize, usize)> = vec![(0, 0, 0)];
    // In front of which step a block begins now, in the order of both.
    let mut moved: Vec<(usize, Label)> = Vec::new();
    let mut gone = vec![false; steps.len()];
    for (i, step) in steps.iter().enumerate() {
        match step {
            Step::Open(label) => {
                let (parent, arm, begin) = *open.last().expect("the function is open until its end");
                let c = &constructs[*label];
                let first = matches!(constructs[parent].targets[arm].first(), Some(Target::Construct(first)) if first == label);
                let hoisted = first && c.marked && c.kind == Kind::Block && c.params.is_empty();
                if hoisted {
                    gone[i] = true;
                    moved.push((begin, *label));
                }
                open.push((*label, 0, if hoisted { begin } else { i + 1 }));
            }
            Step::Else(_) => {
                if let Some(arm) = open.last_mut() {
                    (arm.1, arm.2) = (1, i + 1);
                }
            }
            Step::End(_) => _ = open.pop(),
            _ => {}
        }
    }
    // What is moved to one place lies in one another, and was found from outside in.
    moved.sort_by_key(|(begin, _)| *begin);
    let mut moved = moved.into_iter().peekable();
    let mut out = Vec::with_capacity(steps.len());
    for (i, (step, gone)) in steps.into_iter().zip(gone).enumerate() {
        while let Some((_, label)) = moved.next_if(|(begin, _)| *begin == i) {
            out.push(Step::Open(label));
        }
        if !gone {
            out.push(step);
        }
    }
    out
}

impl Construct {
    fn new(kind: Kind, ty: BlockType, params: Vec<ValType>, results: Vec<ValType>, parent: Label) -> Construct {
        Construct {
            kind,
            params,
            results,
            ty,
            catches: Vec::new(),
            marked: false,
            polled: false,
            bounded: false,
            header: None,
            points: 0..0,
            else_points: 0,
            targets: Default::default(),
            param_locals: Vec::new(),
            parent,
            has_else: false,
            base: 0,
            lower: Vec::new(),
        }
    }
}

struct Scan {
    constructs: Vec<Construct>,
    ops: Vec<Op>,
    open: Vec<Label>,
    /// In code that can't be reached: how many constructs have been opened there.
    dead: Option<usize>,
    /// How many loops have been seen.
    loops: usize,
}

impl Scan {
    fn label(&self, depth: u32) -> Label {
        self.open[self.open.len() - 1 - depth as usize]
    }

    fn mark(&mut self, mut label: Label) {
        while !self.constructs[label].marked {
            self.constructs[label].marked = true;
            label = self.constructs[label].parent;
        }
    }

    fn catch(&self, catch: &wasmparser::Catch) -> Result<Catch, Error> {
        Ok(match *catch {
            wasmparser::Catch::One { tag, label } => Catch { tag: Some(tag), label: self.label(label) },
            wasmparser::Catch::All { label } => Catch { tag: None, label: self.label(label) },
            wasmparser::Catch::OneRef { .. } | wasmparser::Catch::AllRef { .. } => return Err(reference()),
        })
    }

    fn operator(
        &mut self,
        operator: &Operator<'_>,
        range: Range<usize>,
        validator: &FuncValidator<ValidatorResources>,
        calls: &Calls<'_>,
        wanted: Wanted<'_>,
    ) -> Result<(), Error> {
        use Operator as O;
        let number = self.loops;
        self.loops += usize::from(matches!(operator, O::Loop { .. }));
        if let Some(nested) = &mut self.dead {
            match operator {
                O::Block { .. } | O::Loop { .. } | O::If { .. } | O::TryTable { .. } => *nested += 1,
                O::End if *nested > 0 => *nested -= 1,
                O::End => self.dead = None,
                O::Else if *nested == 0 => self.dead = None,
                _ => {}
            }
            if self.dead.is_some() {
                return Ok(());
            }
        }
        let here = *self.open.last().expect("the function is open until its end");
        let what = match operator {
            O::Block { blockty } | O::Loop { blockty } | O::If { blockty } | O::TryTable { try_table: TryTable { ty: blockty, .. } } => {
                let kind = match operator {
                    O::Block { .. } => Kind::Block,
                    O::Loop { .. } => Kind::Loop,
                    O::TryTable { .. } => Kind::Try,
                    _ => Kind::If,
                };
                let (params, results) = calls.block_type(*blockty);
                let mut construct = Construct::new(kind, *blockty, params, results, here);
                let (mut stack, base) = operands(validator)?;
                if kind == Kind::If {
                    stack.pop();
                }
                let below = stack.len() - construct.params.len();
                stack.truncate(below);
                construct.base = base + below;
                construct.lower = stack;
                if let O::TryTable { try_table } = operator {
                    construct.catches = try_table.catches.iter().map(|c| self.catch(c)).collect::<Result<_, _>>()?;
                }
                if kind == Kind::Loop {
                    construct.bounded = wanted.loops[number].turns.is_some();
                    construct.polled = wanted.poll_loops && !construct.bounded;
                }
                let polled = construct.polled;
                let label = self.constructs.len();
                self.constructs.push(construct);
                self.open.push(label);
                if polled {
                    self.mark(label);
                }
                What::Open(label)
            }
            O::Else => {
                self.constructs[here].has_else = true;
                What::Else(here)
            }
            O::End => {
                self.open.pop();
                What::End(here)
            }
            O::Br { relative_depth } => {
                self.dead = Some(0);
                What::Br(self.label(*relative_depth))
            }
            O::BrIf { relative_depth } => What::BrIf(self.label(*relative_depth)),
            O::BrTable { targets } => {
                self.dead = Some(0);
                let labels = targets.targets().map(|d| Ok(self.label(d?))).collect::<Result<_, Error>>()?;
                What::BrTable(labels, self.label(targets.default()))
            }
            O::Return => {
                self.dead = Some(0);
                What::Return
            }
            O::Unreachable => {
                self.dead = Some(0);
                What::Trap
            }
            O::LocalGet { local_index } => What::Get(*local_index),
            O::LocalSet { local_index } => What::Set(*local_index),
            O::LocalTee { local_index } => What::Tee(*local_index),
            O::Call { function_index } if calls.unwinds(*function_index) => {
                self.mark(here);
                let ty = calls.type_of(*function_index);
                let kind = if calls.is_import(*function_index) { PointKind::Import } else { PointKind::Function };
                let (stack, base) = operands(validator)?;
                What::Call(Box::new(Call { stack, base, taken: ty.params().len(), results: ty.results().to_vec(), kind }))
            }
            O::CallIndirect { type_index, .. } if calls.type_unwinds(*type_index) => {
                self.mark(here);
                let ty = calls.types(*type_index);
                let (stack, base) = operands(validator)?;
                // Which local is known when the stack has been put into locals.
                let kind = PointKind::Indirect(0);
                What::Call(Box::new(Call { stack, base, taken: ty.params().len() + 1, results: ty.results().to_vec(), kind }))
            }
            O::ReturnCall { function_index } if calls.unwinds(*function_index) => return Err(tail_call()),
            O::ReturnCallIndirect { type_index, .. } if calls.type_unwinds(*type_index) => return Err(tail_call()),
            O::ReturnCall { .. } | O::ReturnCallIndirect { .. } | O::Throw { .. } => {
                self.dead = Some(0);
                What::Plain
            }
            O::ThrowRef => return Err(reference()),
            _ if wanted.bulk.binary_search(&range.start).is_ok() => What::Bulk,
            _ => What::Plain,
        };
        self.ops.push(Op { what, range });
        Ok(())
    }
}

/// `exceptions` has made numbers of all that it knows.
fn reference() -> Error {
    Error::NotMovable(vec!["it keeps references to exceptions".into()])
}

fn tail_call() -> Error {
    Error::NotMovable(vec!["it makes a tail call of a function that can be stopped: compile without -mtail-call".into()])
}

/// Types on the stack of the innermost construct, lowest first, and the height below them.
fn operands(validator: &FuncValidator<ValidatorResources>) -> Result<(Vec<ValType>, usize), Error> {
    let base = validator.get_control_frame(0).map_or(0, |frame| frame.height);
    let count = validator.operand_stack_height() as usize - base;
    let types = (0..count).rev().map(|depth| match validator.get_operand_type(depth) {
        Some(Some(ty)) => Ok(ty),
        _ => Err(Error::Malformed("an operand of unknown type in code that can be reached".into())),
    });
    Ok((types.collect::<Result<_, _>>()?, base))
}

struct Lower {
    constructs: Vec<Construct>,
    types: Vec<ValType>,
    steps: Vec<Step>,
    points: Vec<PointKind>,
    /// The local of an operand by its height and type. What is put there is taken out again before another value of this height exists.
    slots: HashMap<(usize, ValType), u32>,
    /// Constructs that are open and marked, with the arm.
    arms: Vec<(Label, usize)>,
    /// Bytes that are to be copied and not written down yet.
    plain: Option<Range<usize>>,
}

impl Lower {
    fn local(&mut self, ty: ValType) -> u32 {
        self.types.push(ty);
        self.types.len() as u32 - 1
    }

    fn slot(&mut self, height: usize, ty: ValType) -> Result<u32, Error> {
        if matches!(ty, ValType::Ref(_)) {
            return Err(Error::NotMovable(vec!["a reference is in use where the program can be stopped".into()]));
        }
        if let Some(local) = self.slots.get(&(height, ty)) {
            return Ok(*local);
        }
        let local = self.local(ty);
        self.slots.insert((height, ty), local);
        Ok(local)
    }

    fn flush_plain(&mut self) {
        if let Some(range) = self.plain.take() {
            self.steps.push(Step::Copy(range));
        }
    }

    fn step(&mut self, step: Step) {
        self.flush_plain();
        self.steps.push(step);
    }

    /// Takes operands off the stack into their locals.
    fn put_away(&mut self, types: &[ValType], base: usize) -> Result<(), Error> {
        for (i, ty) in types.iter().enumerate().rev() {
            let local = self.slot(base + i, *ty)?;
            self.step(Step::Set(local));
        }
        Ok(())
    }

    fn take_out(&mut self, types: &[ValType], base: usize) -> Result<(), Error> {
        for (i, ty) in types.iter().enumerate() {
            let local = self.slot(base + i, *ty)?;
            self.step(Step::Get(local));
        }
        Ok(())
    }

    /// After something that began with an empty stack has left `results`: what was put away comes back under them.
    fn bring_back(&mut self, lower: &[ValType], base: usize, results: &[ValType]) -> Result<(), Error> {
        if !lower.is_empty() {
            self.put_away(results, base + lower.len())?;
            self.take_out(lower, base)?;
            self.take_out(results, base + lower.len())?;
        }
        Ok(())
    }

    fn target(&mut self, target: Target) {
        let (label, arm) = *self.arms.last().expect("the function is always open");
        self.constructs[label].targets[arm].push(target);
    }

    fn op(&mut self, op: Op, scratch: Scratch) -> Result<(), Error> {
        match op.what {
            What::Plain => match &mut self.plain {
                Some(range) if range.end == op.range.start => range.end = op.range.end,
                _ => {
                    self.flush_plain();
                    self.plain = Some(op.range);
                }
            },
            What::Bulk => {
                self.step(Step::Look);
                self.plain = Some(op.range);
            }
            What::Get(local) => self.step(Step::Get(local)),
            What::Set(local) => self.step(Step::Set(local)),
            What::Tee(local) => self.step(Step::Tee(local)),
            What::Return => self.step(Step::Return),
            What::Trap => self.step(Step::Trap(op.range)),
            What::Open(label) => self.open(label, scratch)?,
            What::Else(label) => self.otherwise(label),
            What::End(label) => self.end(label)?,
            What::Br(label) => {
                self.pass_params(label);
                self.step(Step::Br(label));
            }
            What::BrIf(label) if self.passes_params(label) => {
                let condition = self.local(ValType::I32);
                self.step(Step::Set(condition));
                self.pass_params(label);
                self.step(Step::Get(condition));
                self.step(Step::BrIf(label));
                for local in self.constructs[label].param_locals.clone() {
                    self.step(Step::Get(local));
                }
            }
            What::BrIf(label) => self.step(Step::BrIf(label)),
            What::BrTable(labels, default) => self.br_table(labels, default),
            What::Call(call) => self.call(*call, op.range)?,
        }
        Ok(())
    }

    /// Whether a branch to it must put its operands into locals: a loop that begins with an empty stack now.
    fn passes_params(&self, label: Label) -> bool {
        let c = &self.constructs[label];
        c.marked && c.kind == Kind::Loop && !c.params.is_empty()
    }

    fn pass_params(&mut self, label: Label) {
        if self.passes_params(label) {
            for local in self.constructs[label].param_locals.clone().into_iter().rev() {
                self.step(Step::Set(local));
            }
        }
    }

    fn open(&mut self, label: Label, scratch: Scratch) -> Result<(), Error> {
        let c = &self.constructs[label];
        if c.catches.iter().any(|catch| catch.tag.is_some() && self.passes_params(catch.label)) {
            return Err(Error::NotMovable(vec!["what it catches goes to the beginning of a loop".into()]));
        }
        if !c.marked {
            self.step(Step::Open(label));
            return Ok(());
        }
        let (kind, params, lower, parent) = (c.kind, c.params.clone(), c.lower.clone(), c.parent);
        if kind == Kind::If {
            self.step(Step::Set(scratch.condition));
        }
        let mut param_locals = Vec::new();
        for ty in &params {
            if matches!(ty, ValType::Ref(_)) {
                return Err(Error::NotMovable(vec!["a reference is in use where the program can be stopped".into()]));
            }
            param_locals.push(self.local(*ty));
        }
        for local in param_locals.iter().rev() {
            self.step(Step::Set(*local));
        }
        let parent_base = self.constructs[label].base - lower.len();
        debug_assert!(self.constructs[parent].marked);
        self.put_away(&lower, parent_base)?;
        self.target(Target::Construct(label));
        self.constructs[label].points.start = self.points.len();
        if self.constructs[label].polled {
            self.constructs[label].header = Some(self.points.len());
            self.points.push(PointKind::Header(label));
        }
        self.step(Step::Open(label));
        for local in &param_locals {
            self.step(Step::Get(*local));
        }
        self.constructs[label].param_locals = param_locals;
        self.arms.push((label, 0));
        Ok(())
    }

    fn otherwise(&mut self, label: Label) {
        self.step(Step::Else(label));
        if self.constructs[label].marked {
            self.constructs[label].else_points = self.points.len();
            self.arms.last_mut().expect("its `if` is open").1 = 1;
            for local in self.constructs[label].param_locals.clone() {
                self.step(Step::Get(local));
            }
        }
    }

    fn end(&mut self, label: Label) -> Result<(), Error> {
        let c = &self.constructs[label];
        if label == 0 || !c.marked {
            self.step(Step::End(label));
            return Ok(());
        }
        if c.kind == Kind::If && !c.has_else {
            if c.params.is_empty() {
                self.constructs[label].else_points = self.points.len();
            } else {
                // Without a second arm the parameters are the results.
                self.otherwise(label);
            }
        }
        self.step(Step::End(label));
        self.arms.pop();
        let c = &mut self.constructs[label];
        c.points.end = self.points.len();
        let (lower, results, base) = (c.lower.clone(), c.results.clone(), c.base - c.lower.len());
        self.bring_back(&lower, base, &results)
    }

    fn call(&mut self, call: Call, range: Range<usize>) -> Result<(), Error> {
        let Call { stack, base, taken, results, kind } = call;
        self.put_away(&stack, base)?;
        let below = stack.len() - taken;
        let kind = match kind {
            PointKind::Indirect(_) => PointKind::Indirect(self.slot(base + stack.len() - 1, *stack.last().expect("the table's index"))?),
            kind => kind,
        };
        let point = self.points.len();
        self.points.push(kind);
        self.target(Target::Call(point));
        self.step(Step::Arrive(point));
        self.take_out(&stack[below..], base + below)?;
        self.step(Step::Call(point, range));
        self.bring_back(&stack[..below], base, &results)
    }

    /// A table of branches, some of which have to put operands into the locals of a loop: those go by way of a block each.
    fn br_table(&mut self, labels: Vec<Label>, default: Label) {
        let mut detours: Vec<Label> = labels.iter().chain([&default]).copied().filter(|l| self.passes_params(*l)).collect();
        detours.sort_unstable();
        detours.dedup();
        if detours.is_empty() {
            self.step(Step::BrTable(labels, default));
            return;
        }
        // All targets take the same types; those that need no detour get their operands from the stack, so each gets a way.
        let mut ways: Vec<Label> = labels.iter().chain([&default]).copied().collect();
        ways.sort_unstable();
        ways.dedup();
        let types = self.constructs[detours[0]].params.clone();
        let index = self.local(ValType::I32);
        let values: Vec<u32> = types.iter().map(|ty| self.local(*ty)).collect();
        self.step(Step::Set(index));
        for local in values.iter().rev() {
            self.step(Step::Set(*local));
        }
        let parent = self.arms.last().expect("the function is always open").0;
        let blocks: Vec<Label> = ways
            .iter()
            .map(|_| {
                self.constructs.push(Construct::new(Kind::Block, BlockType::Empty, Vec::new(), Vec::new(), parent));
                self.constructs.len() - 1
            })
            .collect();
        for block in blocks.iter().rev() {
            self.step(Step::Open(*block));
        }
        self.step(Step::Get(index));
        let through = |label: &Label| blocks[ways.binary_search(label).expect("each label has a way")];
        self.step(Step::BrTable(labels.iter().map(through).collect(), through(&default)));
        for (way, block) in ways.iter().zip(&blocks) {
            self.step(Step::End(*block));
            for local in &values {
                self.step(Step::Get(*local));
            }
            self.pass_params(*way);
            self.step(Step::Br(*way));
        }
    }
}
