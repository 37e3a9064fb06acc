//! What is made of bytes that anybody may send or leave on a disk: one function for each way in, for `fuzz/` and for the test `fuzz`.
//!
//! Each takes any bytes and must neither panic nor allocate more than [`BYTES_MAX`] for them, which the test measures. What it accepts must say the same when it is written and read again.

use crate::{
    BucketName, Key, ObjectId,
    cipher::Cipher,
    names::Prefix,
    namenode::{read_ask, read_said, read_told},
    peer::{read_frames, read_request},
    RestKey,
    agent::{read_agent, read_agent_told},
};

/// Names of buckets, keys and prefixes, and ids.
pub fn names(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(bucket) = BucketName::new(text.as_ref()) {
        assert!(bucket.as_str().len() <= 63 && !bucket.as_str().contains(['/', '\0']));
    }
    if let Ok(key) = Key::new(text.as_ref()) {
        assert!(key.as_str().len() <= 1024 && !key.as_str().contains('\0'));
        assert!(key.as_str().split('/').all(|segment| !matches!(segment, "" | "." | "..")), "{key:?} leads out of its folder");
        assert!(Prefix::new(key.as_str()).is_ok_and(|prefix| prefix.contains(key.as_str())));
    }
    if let Ok(id) = text.parse::<ObjectId>() {
        assert_eq!(id.to_string(), text);
    }
}

/// What a client says to the namenode: frames, one behind the other.
pub fn namenode(data: &[u8]) {
    read_ask(data);
}

/// What a namenode says to a client.
pub fn catalog(data: &[u8]) {
    read_told(data);
}

/// What an attached process says to the node's agent: frames, one behind the other.
pub fn agent(data: &[u8]) {
    read_agent(data);
}

/// What the node's agent says to an attached process: frames, one behind the other.
pub fn attached(data: &[u8]) {
    read_agent_told(data);
}

/// What a namenode and its standby say to each other: frames, one behind the other.
pub fn pair(data: &[u8]) {
    read_said(data);
}

/// What a peer asks for: the body of a frame; and frames, one behind the other, as they come from a connection.
pub fn peer(data: &[u8]) {
    read_request(data);
    read_frames(data);
}

/// What lies encrypted on the disk: nothing opens that was not sealed.
pub fn at_rest(data: &[u8]) {
    let cipher = Cipher::new(RestKey::new(&[1; 32]));
    for len in [0, 1, data.len() as u64, (data.len() as u64).saturating_sub(28), u64::MAX / 2] {
        if let Ok(plain) = cipher.open_all(ObjectId(1), data, len) {
            assert!(plain.is_empty(), "{} bytes open that nobody has sealed", plain.len());
        }
    }
}

/// The most that a target may have allocated at a time, besides 64 times what it was given.
pub const BYTES_MAX: usize = 4 << 20;

/// The ways in, by the names that they have in `fuzz/`.
pub const ALL: [(&str, fn(&[u8])); 8] = [("agent", agent), ("attached", attached), ("pair", pair), ("names", names), ("namenode", namenode), ("catalog", catalog), ("peer", peer), ("at_rest", at_rest)];

/// Messages that are well formed, to begin with.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = ["a/b.tif", "..", "a\0b", "a//b", "scenes-2024", "0123456789abcdef0123456789abcdef", ""].map(|text| text.as_bytes().to_vec()).into();
    seeds.push("x".repeat(4096).into_bytes());
    seeds.extend(crate::namenode::some_frames());
    seeds.extend(crate::namenode::some_said());
    seeds.extend(crate::agent::some_told());
    seeds.extend(crate::peer::some_requests());
    seeds.extend(crate::agent::some_asks());
    seeds
}
