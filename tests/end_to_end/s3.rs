//! A real S3 server behind the object store.
