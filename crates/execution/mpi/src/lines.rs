//! Memory that one thread writes all the time, on cache lines that hold nothing of another's: a line that two processors write goes from one to the other
//! with each write, some 100 ns, whatever lies in it. Two lines count as one, because processors fetch them in pairs.

use std::ops::Deref;

/// A value by itself.
#[derive(Default)]
#[repr(align(128))]
pub(crate) struct Apart<T>(pub T);

impl<T> Deref for Apart<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.0
    }
}
