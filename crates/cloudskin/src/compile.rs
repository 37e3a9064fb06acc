//! `cc`, `c++` and `inspect`: doors to the toolchain in `cells`.

use crate::failure::fail;
use base::Kind;
use std::{ffi::OsString, path::Path};

pub fn main(lang: &str, _args: &[OsString]) -> anyhow::Result<u8> {
    Err(fail(Kind::Unimplemented, format!("this build has no toolchain, so `cloudskin {lang}` can't compile")))
}

pub fn inspect(_file: &Path) -> anyhow::Result<u8> {
    Err(fail(Kind::Unimplemented, "this build has no toolchain, so `cloudskin inspect` can't read modules"))
}
