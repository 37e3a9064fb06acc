//! Which locals a frame must hold at each safe point: those that may be read later before they are written.

use super::body::{Body, Kind, Label, PointKind, Step};

/// A set of locals.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Set(Vec<u64>);

impl Set {
    fn insert(&mut self, local: u32) {
        let word = local as usize / 64;
        if word >= self.0.len() {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (local % 64);
    }

    fn remove(&mut self, local: u32) {
        if let Some(word) = self.0.get_mut(local as usize / 64) {
            *word &= !(1 << (local % 64));
        }
    }

    /// Whether something was added.
    fn add(&mut self, other: &Set) -> bool {
        if other.0.len() > self.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        let mut changed = false;
        for (mine, theirs) in self.0.iter_mut().zip(&other.0) {
            changed |= *theirs & !*mine != 0;
            *mine |= theirs;
        }
        changed
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = u32> {
        self.0.iter().enumerate().flat_map(|(i, word)| (0..64).filter(move |bit| word >> bit & 1 == 1).map(move |bit| i as u32 * 64 + bit))
    }
}

/// The live locals of each safe point, by its number.
pub(super) fn at_points(body: &Body) -> Vec<Set> {
    let mut at = vec![Set::default(); body.points.len()];
    // What is live where a branch to the construct goes: behind its end, or at a loop's beginning.
    let mut labels = vec![Set::default(); body.constructs.len()];
    // What is live at the beginning of an `if`'s second arm.
    let mut second: Vec<Set> = vec![Set::default(); body.constructs.len()];
    // For each block around that catches, innermost last: what is live where an exception goes that is thrown in it, or in one of those within.
    let mut handlers: Vec<Set> = Vec::new();
    // Backwards over the code until no loop's beginning changes: as often as loops are nested, and once more.
    loop {
        let mut changed = false;
        let mut live = Set::default();
        for step in body.steps.iter().rev() {
            match step {
                Step::Copy(_) | Step::Look => {}
                Step::Get(local) => live.insert(*local),
                Step::Set(local) | Step::Tee(local) => live.remove(*local),
                Step::End(label) => {
                    if *label != 0 && body.constructs[*label].kind != Kind::Loop {
                        labels[*label] = live.clone();
                    }
                    match body.constructs[*label].kind {
                        Kind::If => second[*label] = live.clone(),
                        Kind::Try => {
                            let mut thrown = handlers.last().cloned().unwrap_or_default();
                            for catch in &body.constructs[*label].catches {
                                thrown.add(target(&labels, catch.label));
                            }
                            handlers.push(thrown);
                        }
                        Kind::Block | Kind::Loop => {}
                    }
                }
                Step::Else(label) => {
                    second[*label] = std::mem::replace(&mut live, labels[*label].clone());
                }
                Step::Open(label) => match body.constructs[*label].kind {
                    Kind::Block => {}
                    Kind::Try => drop(handlers.pop()),
                    Kind::If => {
                        live.add(&second[*label]);
                    }
                    Kind::Loop => {
                        changed |= labels[*label].add(&live);
                        if let Some(point) = body.constructs[*label].header {
                            at[point] = live.clone();
                        }
                    }
                },
                Step::Br(label) => live = target(&labels, *label).clone(),
                Step::BrIf(label) => {
                    live.add(target(&labels, *label));
                }
                Step::BrTable(all, default) => {
                    live = target(&labels, *default).clone();
                    for label in all {
                        live.add(target(&labels, *label));
                    }
                }
                Step::Return | Step::Trap(_) => live = Set::default(),
                Step::Call(point, _) => {
                    at[*point] = live.clone();
                    if let PointKind::Indirect(element) = body.points[*point] {
                        at[*point].insert(element);
                    }
                }
                Step::Arrive(point) => {
                    if body.points[*point] == PointKind::Import {
                        at[*point] = live.clone();
                    }
                }
            }
            // Whatever is done here may throw.
            if let Some(thrown) = handlers.last() {
                live.add(thrown);
            }
        }
        if body.points.first() == Some(&PointKind::Entry) {
            at[0] = live;
        }
        if !changed {
            return at;
        }
    }
}

fn target(labels: &[Set], label: Label) -> &Set {
    &labels[label]
}
