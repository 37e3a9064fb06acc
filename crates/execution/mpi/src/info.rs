//! Info objects: keys with values, in the order of their setting.

use crate::error::{Class, Error, Result};
use serde::{Deserialize, Serialize};

/// An info handle as the guest sees it.
pub type Handle = i32;
pub const ENV: Handle = 1;
const FIRST: i32 = 2;
pub const KEY_MAX: usize = 255;
pub const VALUE_MAX: usize = 1024;
/// What one rank's info objects may take, in bytes: 64 for each and for each key, beside the texts.
const BYTES_MAX: usize = 16 << 20;

pub type Pairs = Vec<(String, String)>;

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Table {
    infos: Vec<Option<Pairs>>,
    bytes: usize,
}

/// What pairs take outside of the guest's memory, in bytes.
pub fn cost(pairs: &Pairs) -> usize {
    64 + pairs.iter().map(|(k, v)| 64 + k.len() + v.len()).sum::<usize>()
}

impl Table {
    fn index(&self, handle: Handle) -> Result<usize> {
        let slot = usize::try_from(i64::from(handle) - i64::from(FIRST)).ok().filter(|i| self.infos.get(*i).is_some_and(Option::is_some));
        slot.ok_or_else(|| Error::new(Class::Info, format!("info handle {handle} is not valid")))
    }

    pub fn get(&self, handle: Handle) -> Result<&Pairs> {
        static NONE: Pairs = Vec::new();
        if handle == ENV {
            return Ok(&NONE);
        }
        let slot = self.index(handle)?;
        Ok(self.infos[slot].as_ref().unwrap_or(&NONE))
    }

    pub fn add(&mut self, pairs: Pairs) -> Result<Handle> {
        self.room(cost(&pairs))?;
        self.bytes += cost(&pairs);
        let slot = self.infos.iter().position(Option::is_none).unwrap_or_else(|| {
            self.infos.push(None);
            self.infos.len() - 1
        });
        self.infos[slot] = Some(pairs);
        Ok(FIRST + slot as i32)
    }

    fn room(&self, more: usize) -> Result<()> {
        if self.bytes + more > BYTES_MAX {
            return Err(Error::new(Class::Info, format!("this rank's info objects take {} bytes, and {more} more are beyond {BYTES_MAX}; free some with MPI_Info_free", self.bytes)));
        }
        Ok(())
    }

    pub fn free(&mut self, handle: Handle) -> Result<()> {
        let slot = self.index(handle)?;
        let gone = self.infos[slot].take().unwrap_or_default();
        self.bytes -= cost(&gone);
        Ok(())
    }

    pub fn set(&mut self, handle: Handle, key: String, value: String) -> Result<()> {
        if key.is_empty() || key.len() > KEY_MAX {
            return Err(Error::new(Class::InfoKey, format!("a key has 1 to {KEY_MAX} bytes, this one {}", key.len())));
        }
        if value.is_empty() || value.len() > VALUE_MAX {
            return Err(Error::new(Class::InfoValue, format!("a value has 1 to {VALUE_MAX} bytes, this one {}", value.len())));
        }
        let slot = self.index(handle)?;
        self.room(64 + key.len() + value.len())?;
        let Some(pairs) = &mut self.infos[slot] else { return Ok(()) };
        let before = cost(pairs);
        match pairs.iter_mut().find(|(k, _)| *k == key) {
            Some(pair) => pair.1 = value,
            None => pairs.push((key, value)),
        }
        self.bytes = self.bytes + cost(pairs) - before;
        Ok(())
    }

    pub fn delete(&mut self, handle: Handle, key: &str) -> Result<()> {
        let slot = self.index(handle)?;
        let Some(pairs) = &mut self.infos[slot] else { return Ok(()) };
        let at = pairs.iter().position(|(k, _)| k == key).ok_or_else(|| Error::new(Class::InfoNoKey, format!("the info has no key {key:?}")))?;
        let before = cost(pairs);
        pairs.remove(at);
        self.bytes = self.bytes + cost(pairs) - before;
        Ok(())
    }

    pub(crate) fn check(&self) -> Result<()> {
        if self.infos.iter().flatten().map(cost).sum::<usize>() != self.bytes {
            return Err(Error::new(Class::Info, "info objects take more than they say"));
        }
        Ok(())
    }
}
