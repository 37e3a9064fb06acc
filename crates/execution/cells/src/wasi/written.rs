//! A file while it is being written. It is one for the rank: whoever opens its name meanwhile, to write or to read, shares it, as POSIX has it, and the last one that closes it
//! commits it. Others see nothing of it before.

use super::{Result, Sink, lock};
use std::sync::{Arc, Mutex};

struct Content {
    sink: Box<dyn Sink>,
    /// Its name is gone, and its content goes with the last descriptor.
    unlinked: bool,
}

#[derive(Clone)]
pub(super) struct Written(Arc<Mutex<Content>>);

impl Written {
    pub fn new(sink: Box<dyn Sink>) -> Written {
        Written(Arc::new(Mutex::new(Content { sink, unlinked: false })))
    }

    pub fn is(&self, other: &Written) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub fn len(&self) -> u64 {
        lock(&self.0).sink.len()
    }

    pub fn set_len(&self, len: u64) -> Result<()> {
        lock(&self.0).sink.set_len(len)
    }

    pub fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<usize> {
        lock(&self.0).sink.read_at(offset, into)
    }

    pub fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        lock(&self.0).sink.write_at(offset, data)
    }

    pub fn unlink(&self) {
        lock(&self.0).unlinked = true;
    }

    pub fn is_unlinked(&self) -> bool {
        lock(&self.0).unlinked
    }

    /// A descriptor of it is closed.
    pub fn close(self) -> Result<()> {
        match Arc::into_inner(self.0).map(|content| content.into_inner().unwrap_or_else(|e| e.into_inner())) {
            Some(Content { sink, unlinked: false }) => sink.commit(),
            _ => Ok(()),
        }
    }
}
