//! MPI between ranks: matching, requests, collectives, datatypes. Knows no WebAssembly and does no input or output.
