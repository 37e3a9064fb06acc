//! What hub and agents say to each other: the types and stubs made from `proto/control.proto`, where the story stands.
//!
//! Nothing here decides anything. [`hub_client::HubClient`] is the agent's end, [`hub_server::HubServer`] the hub's.

#![allow(clippy::all, missing_docs)]

tonic::include_proto!("cloudskin.control.v1");
