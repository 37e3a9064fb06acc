//! GEDS: an ephemeral object store with a mapped local tier and a persistency tier.
//!
//! ```text
//!            Catalog (who has what)                      Persist (folder or S3)
//!   Namenode in the hub ── RemoteCatalog                        ▲ spill, fetch
//!            ▲ seal, lookup                                     │
//!   Writer ──┴─ seal ──► sealed file ── map ──► Object ◄── Node ┴──── peers over mutual TLS, `geds/1`
//! ```
//!
//! One object's life: [`Node::create`] makes a private draft, [`Writer::write_at`] fills it, [`Writer::seal`] makes it durable and *then*
//! visible ([`Writer::seal_here`]: visible on this node at once, everywhere later). A sealed object never changes again, so readers map it and hold no lock; writing the
//! same key again is another object with a higher epoch. Any node opens it: from its own disk or memory, else from a holder, else from the persistency tier, and keeps the
//! copy. Spilling uploads, verifies, records and only then frees; the last copy is never dropped. An [`Appendable`] grows on one node until it is sealed.
//!
//! `docs/design/geds.md` says why it is so. Processes of one machine share a node's tier through its agent ([`Node::share`],
//! [`Attached`]). [`Node::follow`] reads at any node what still grows at another.

mod agent;
mod append;
mod begun;
mod blocking;
mod bound;
mod by_hash;
pub mod catalog;
mod cipher;
mod collect;
mod config;
mod deadline;
mod eager;
mod epochs;
mod error;
mod fetch;
mod follow;
mod format;
mod home;
#[doc(hidden)]
pub mod fuzz;
mod journal;
mod lay;
mod leases;
mod local;
mod metrics;
mod names;
mod namenode;
mod node;
mod peer;
mod persist;
mod private;
mod second;
mod seek;
mod segment;
mod shared;
mod socket;
mod space;
mod spans;
mod spill;
mod writer;

pub use agent::{Attached, AttachedAppendable, AttachedFollower, AttachedWriter, Lent};
pub use append::{Appendable, Grew};
pub use blocking::Blocking;
pub use bound::RANGE_BYTES_MAX;
pub use catalog::{
    Attributes, Catalog, Event, Garbage, Happened, Holder, Lease, LeaseHolder, Listing, NewObject, ObjectId, ObjectMeta, Page, Sealed, State,
    Watched,
};
pub use cipher::RestKey;
pub use config::Config;
pub use deadline::Deadline;
pub use error::{Error, Result};
pub use follow::{Follower, Grown};
pub use local::Object;
pub use namenode::{Caller, Imported, META_ALPN, Namenode, Paired, Referee, Reign, RemoteCatalog, STANDBY_ALPN, Seat};
pub use names::{BucketName, Key};
pub use node::{Node, Options, Tuning, Usage};
pub use peer::{ALPN, Download, PeerClient, Range};
pub use second::SecondCopy;
pub use seek::{Asked, Found, Searches, Seeker, gone, seek};
pub use shared::{Shared, SharedOptions};
pub use persist::{AzureOptions, GsOptions, Persist, S3Options, Secret};
pub use spill::{BucketPolicy, Lifetime, Mode, Place, SpillOptions};
pub use writer::{SealedHere, Writer};
