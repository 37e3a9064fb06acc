//! The roles that a process can take: hub and agent. Each runs until it is told to stop.

use crate::{args, failure::fail, place::Place};
use base::Kind;

pub async fn hub(_place: &Place, _hub: args::Hub) -> anyhow::Result<u8> {
    Err(fail(Kind::Unimplemented, "this build has no hub"))
}

pub async fn agent(_place: &Place, agent: args::Agent) -> anyhow::Result<u8> {
    Err(fail(Kind::Unimplemented, format!("this build has no agent, so site {} can't start", agent.site)))
}
