//! Pravega's controller interface: the types and stubs made from `proto/controller.proto`. Nothing here decides anything.

#![allow(clippy::all, missing_docs)]

tonic::include_proto!("io.pravega.controller.stream.api.grpc.v1");
