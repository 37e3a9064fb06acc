//! One SHA-256 over all files of a run, so that two runs can be compared in one glance.
//!
//! The files in the order of their names, each as its name's bytes and then its content's. Two runs are called equal only when
//! their per-file sums are equal too: names and contents without a separator could in principle be cut elsewhere.

use anyhow::Context;
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::{collections::BTreeMap, io::Read, path::Path};

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct File {
    pub bytes: u64,
    pub sha256: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Sums {
    pub sha256: String,
    pub files: BTreeMap<String, File>,
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Reads `folder/<name>` for each name.
pub fn sums(folder: &Path, names: &[String]) -> anyhow::Result<Sums> {
    let names: std::collections::BTreeSet<&String> = names.iter().collect();
    let (mut all, mut files, mut buffer) = (Sha256::new(), BTreeMap::new(), vec![0; 256 << 10]);
    for name in names {
        let path = folder.join(name);
        let read = || format!("read {}", path.display());
        let mut file = std::fs::File::open(&path).with_context(read)?;
        let (mut one, mut bytes) = (Sha256::new(), 0);
        all.update(name.as_bytes());
        loop {
            let n = file.read(&mut buffer).with_context(read)?;
            if n == 0 {
                break;
            }
            all.update(&buffer[..n]);
            one.update(&buffer[..n]);
            bytes += n as u64;
        }
        files.insert(name.clone(), File { bytes, sha256: hex(&one.finalize()) });
    }
    Ok(Sums { sha256: hex(&all.finalize()), files })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_does_not_matter_and_a_byte_does() {
        let folder = crate::files::tests::temp("digest");
        let sub = folder.join("t");
        std::fs::create_dir_all(&sub).unwrap();
        std::fs::write(folder.join("b"), "2").unwrap();
        std::fs::write(folder.join("t/a"), "1").unwrap();
        let names = |n: &[&str]| n.iter().map(|s| s.to_string()).collect::<Vec<_>>();
        let first = sums(&folder, &names(&["t/a", "b"])).unwrap();
        assert_eq!(first, sums(&folder, &names(&["b", "t/a"])).unwrap());
        assert_eq!(first.sha256, hex(&Sha256::digest(b"b2t/a1")));
        assert_eq!(first.files["b"], File { bytes: 1, sha256: hex(&Sha256::digest(b"2")) });
        std::fs::write(folder.join("b"), "3").unwrap();
        assert_ne!(first.sha256, sums(&folder, &names(&["b", "t/a"])).unwrap().sha256);
        assert!(sums(&folder, &names(&["nothing"])).is_err());
    }
}
