//! The tests of the store that need no process of their own, in one program: each that is linked takes half a minute. One module to a subject.
//!
//! Apart stay those that measure their process (`bounds`) or are made of processes that end (`sharing`, `standby`, `linearizable`), and those that `make kills` runs for long (`lives`, `fuzz`).

#[path = "../common/mod.rs"]
mod common;
#[path = "../doubles/mod.rs"]
mod doubles;

mod at_rest;
mod bound;
mod catalog;
mod clouds;
mod deadlines;
mod lifetimes;
mod namenode;
mod node;
mod second;
mod tiers;
