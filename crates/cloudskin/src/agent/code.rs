//! Code that agents compile for each other: each program once for each kind of machine, in a bucket of the object store (`share = true` under `[cells]`).
//!
//! ```text
//!  engine has none ─▶ get: open in the bucket, from whichever site ─▶ signed by an agent of this installation, for this name? ─▶ engine
//!  engine has made it ─▶ put: sign, write, on a thread of its own
//! ```
//!
//! It is machine code, which runs with all that an agent may do. So it is not believed because of where it lies: objects go to other sites and to stores that others run, and the bucket can be
//! written by who has the hub's token. What is believed is the signature of an agent's own key, over the name and the bytes. No job sees the bucket (`Work::check`).
//!
//! A site that takes part believes every other agent of its installation, as it need not otherwise: who owns one of them owns those that share. That is why it is asked for.

use super::background;
use base::identity::{self, Signer};
use orchestrator::jobs::CODE_BUCKET;
use std::sync::Arc;

/// The most that is taken.
const CODE_MAX: u64 = 1 << 30;

pub struct Code {
    node: geds::Node,
    signer: Arc<Signer>,
}

impl Code {
    pub fn new(node: geds::Node, signer: Signer) -> Code {
        Code { node, signer: Arc::new(signer) }
    }

    fn place(name: &str) -> anyhow::Result<(geds::BucketName, geds::Key)> {
        Ok((geds::BucketName::new(CODE_BUCKET)?, geds::Key::new(name)?))
    }

    fn find(&self, name: &str) -> anyhow::Result<Vec<u8>> {
        let (bucket, key) = Self::place(name)?;
        let object = self.node.blocking().open(&bucket, &key)?;
        anyhow::ensure!(object.bytes().len() as u64 <= CODE_MAX, "it has more than {CODE_MAX} bytes");
        let (by, code) = self.signer.open(&about(name), object.bytes())?;
        let site = identity::site_of(&by).ok_or_else(|| anyhow::anyhow!("{by}, who has signed it, is no agent"))?;
        tracing::info!(name, %site, "code that another agent has made");
        Ok(code.to_vec())
    }
}

fn about(name: &str) -> String {
    format!("code {name}")
}

impl cells::cache::Shared for Code {
    fn get(&self, name: &str) -> Option<Vec<u8>> {
        match self.find(name) {
            Ok(code) => Some(code),
            Err(e) if e.downcast_ref::<geds::Error>().is_some_and(|e| e.kind() == base::Kind::NotFound) => None,
            // It is compiled here, which is always possible.
            Err(e) => {
                tracing::warn!(name, error = crate::failure::line(&e), "code of the installation's bucket is not used");
                None
            }
        }
    }

    fn put(&self, name: &str, code: Vec<u8>) {
        let (node, signer, name) = (self.node.clone(), self.signer.clone(), name.to_string());
        let write = move || {
            let done = (|| {
                let (bucket, key) = Self::place(&name)?;
                let signed = signer.sign(&about(&name), &code)?;
                let store = node.blocking();
                store.create_bucket(&bucket)?;
                let mut writer = store.create(&bucket, &key)?;
                writer.write_at(0, &signed)?;
                store.seal(writer)?;
                anyhow::Ok(())
            })();
            if let Err(e) = done {
                tracing::warn!(name, error = crate::failure::line(&e), "compiled code is not shared");
            }
        };
        if let Err(e) = background("shared code", write) {
            tracing::warn!(error = crate::failure::line(&e), "compiled code is not shared");
        }
    }
}
