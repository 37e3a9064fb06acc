//! The CloudSkin binary.
fn main() {}
