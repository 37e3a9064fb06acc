//! MPI between the ranks of a job: matching, requests, collectives, datatypes, as MPI 4 says.
//!
//! * [`rank::State`]: one rank's side; plain data that can be written down and go on elsewhere;
//! * [`fabric::Fabric`]: what the ranks on one agent share; its [`fabric::Wire`] carries what goes to others;
//! * [`collective`]: collectives as schedules of messages;
//! * [`datatype`], [`op`]: what is sent, and how it is combined;
//! * [`window`]: memory that other ranks read and write;
//! * [`file`]: files that ranks share;
//! * [`comm`], [`group`], [`topology`]: among whom; [`attribute`], [`info`]: what programs hang on these.
//!
//! Knows no WebAssembly (guest memory is bytes, [`memory::Memory`]), no sockets, no clock. Nothing here waits.

pub mod attribute;
pub mod collective;
pub mod comm;
pub mod datatype;
pub mod error;
pub mod fabric;
pub mod file;
pub mod group;
pub mod info;
mod lines;
pub mod loan;
pub mod memory;
pub mod message;
pub mod op;
pub mod rank;
mod ring;
pub mod topology;
pub mod window;

pub use error::{Class, Error, Result};
pub use fabric::{Fabric, Place, Traffic, Wire};
pub use memory::Memory;
pub use message::{Header, Kind, Message, Rank};
pub use rank::{State, Status};
