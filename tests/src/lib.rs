//! What the programs in `bin/` share. The tests are in `tests/`.

pub mod outside;
