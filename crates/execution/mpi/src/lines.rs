//! Memory that one thread writes all the time, on cache lines that hold nothing of another's: a line that two processors write goes from one to the other
//! with each write, some 100 ns, whatever lies in it. Two lines count as one, because processors fetch them in pairs.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::ops::{Deref, DerefMut, Index, IndexMut};

/// A value by itself.
#[derive(Clone, Debug, Default)]
#[repr(align(128))]
pub(crate) struct Apart<T>(pub T);

impl<T> Deref for Apart<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for Apart<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

/// Values of one thread by themselves, eight to a pair of lines.
#[derive(Clone, Debug)]
pub(crate) struct Lines<T> {
    eights: Box<[Apart<[T; 8]>]>,
    len: usize,
}

impl<T: Default> Lines<T> {
    pub fn new(len: usize) -> Lines<T> {
        Lines { eights: (0..len.div_ceil(8)).map(|_| Apart::default()).collect(), len }
    }
}

impl<T> Lines<T> {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.eights.iter().flat_map(|eight| &eight.0).take(self.len)
    }
}

impl<T> Index<usize> for Lines<T> {
    type Output = T;

    #[inline]
    fn index(&self, i: usize) -> &T {
        assert!(i < self.len, "{i} of {}", self.len);
        &self.eights[i / 8].0[i % 8]
    }
}

impl<T> IndexMut<usize> for Lines<T> {
    #[inline]
    fn index_mut(&mut self, i: usize) -> &mut T {
        assert!(i < self.len, "{i} of {}", self.len);
        &mut self.eights[i / 8].0[i % 8]
    }
}

impl<T: Default> From<Vec<T>> for Lines<T> {
    fn from(values: Vec<T>) -> Lines<T> {
        let mut lines = Lines::new(values.len());
        values.into_iter().enumerate().for_each(|(i, value)| lines[i] = value);
        lines
    }
}

/// As a list of the values.
impl<T: Serialize> Serialize for Lines<T> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(self.iter())
    }
}

impl<'de, T: Default + Deserialize<'de>> Deserialize<'de> for Lines<T> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Lines<T>, D::Error> {
        Ok(Vec::deserialize(d)?.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written_as_a_list() {
        let lines: Lines<u64> = (0..19).collect::<Vec<_>>().into();
        let bytes = postcard::to_allocvec(&lines).unwrap();
        assert_eq!(bytes, postcard::to_allocvec(&(0..19u64).collect::<Vec<_>>()).unwrap());
        let back: Lines<u64> = postcard::from_bytes(&bytes).unwrap();
        assert_eq!((back.len(), back.iter().sum::<u64>(), back[18]), (19, 171, 18));
        assert_eq!(&raw const back[8] as usize % 128, 0);
    }
}
