//! Who gets which cores of one machine: the edge one, the cloud the others, by affinity, so that filling the edge slows the edge only.

use std::{fmt, str::FromStr};

/// Core numbers, as `0,2-3`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cores(pub Vec<usize>);

/// More than Linux's own mask in libc holds.
const CORES_MAX: usize = 1024;

impl FromStr for Cores {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a list of cores: write numbers below {CORES_MAX} and ranges, such as 0,2-3");
        let mut cores = Vec::new();
        for part in text.split(',') {
            let (a, b) = part.split_once('-').unwrap_or((part, part));
            let (a, b): (usize, usize) = (a.trim().parse().map_err(|_| wrong())?, b.trim().parse().map_err(|_| wrong())?);
            if a > b || b >= CORES_MAX {
                return Err(wrong());
            }
            cores.extend(a..=b);
        }
        cores.sort_unstable();
        cores.dedup();
        Ok(Cores(cores))
    }
}

impl fmt::Display for Cores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.as_slice();
        let mut comma = "";
        while let Some(first) = rest.first() {
            let run = rest.iter().enumerate().take_while(|(i, c)| **c == first + i).count();
            match run {
                1 => write!(f, "{comma}{first}")?,
                _ => write!(f, "{comma}{first}-{}", rest[run - 1])?,
            }
            (rest, comma) = (&rest[run..], ",");
        }
        Ok(())
    }
}

/// The cores that this process may use.
pub fn allowed() -> anyhow::Result<Cores> {
    // SAFETY: a zeroed cpu_set_t is an empty set; the kernel writes at most the size that it is told.
    let set = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) != 0 {
            anyhow::bail!("ask for this process's cores: {}", std::io::Error::last_os_error());
        }
        set
    };
    // SAFETY: the index is below CORES_MAX, the number of bits in a cpu_set_t.
    Ok(Cores((0..CORES_MAX).filter(|c| unsafe { libc::CPU_ISSET(*c, &set) }).collect()))
}

/// Binds the calling thread, and the threads that it makes later, to these cores.
pub fn pin(cores: &[usize]) -> anyhow::Result<()> {
    // SAFETY: a zeroed set is empty; each index is below CORES_MAX (checked when the list was made); the kernel only reads.
    let done = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        for core in cores {
            libc::CPU_SET(*core, &mut set);
        }
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set)
    };
    if done != 0 {
        let why = std::io::Error::last_os_error();
        let message = format!("bind to cores {}: {why}; this process may use {}", Cores(cores.to_vec()), allowed()?);
        return Err(crate::failure::fail(base::Kind::InvalidArgument, message));
    }
    Ok(())
}

/// Edge and cloud. With one core both have it.
pub fn split(all: &Cores) -> (Cores, Cores) {
    match all.0.as_slice() {
        [first, rest @ ..] if !rest.is_empty() => (Cores(vec![*first]), Cores(rest.to_vec())),
        _ => (all.clone(), all.clone()),
    }
}

/// 40 % of the machine's memory, in bytes: two agents, and some for everything else.
pub fn memory() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = text.lines().find_map(|l| l.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse::<u64>().ok());
    // Without /proc the smallest machine that is any use is assumed: 2 GiB.
    kib.unwrap_or(2 << 20) * 1024 / 5 * 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_read_and_write_the_same() {
        for (text, want) in [("0", "0"), ("0,2-3", "0,2-3"), ("3,1,2", "1-3"), ("1,1", "1")] {
            assert_eq!(text.parse::<Cores>().unwrap().to_string(), want);
        }
        for bad in ["", "a", "3-1", "0,", "9999", "-1"] {
            assert!(bad.parse::<Cores>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_edge_gets_one() {
        let split = |t: &str| { let (a, b) = super::split(&t.parse().unwrap()); (a.to_string(), b.to_string()) };
        assert_eq!(split("0-3"), ("0".into(), "1-3".into()));
        assert_eq!(split("2"), ("2".into(), "2".into()));
    }

    #[test]
    fn a_thread_can_be_bound() {
        let all = allowed().unwrap();
        std::thread::spawn(move || {
            pin(&all.0[..1]).unwrap();
            assert_eq!(allowed().unwrap().0, &all.0[..1]);
            assert!(pin(&[CORES_MAX - 1]).unwrap_err().to_string().contains("may use"));
        })
        .join()
        .unwrap();
        assert!(memory() > 1 << 20);
    }
}
