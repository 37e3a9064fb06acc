//! `kill -9` of an agent or the hub at any moment: each rank runs in exactly one place or is reported lost, and sealed objects are there.
