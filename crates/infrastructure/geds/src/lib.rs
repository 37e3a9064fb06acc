//! GEDS: an ephemeral object store with a mapped local tier and a persistency tier.
