//! Who may do what. Off: everyone may do everything, and tokens are empty.

/// What a command wants to do with a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Want {
    Read,
    Update,
}

/// Whether a token was refused because it is too old; the client then gets a new one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    pub why: String,
    pub expired: bool,
}

/// The rule of this server; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Access {}

impl Access {
    /// Everyone may do everything.
    pub fn open() -> Access {
        Access::default()
    }

    /// Whether the holder of a delegation token may do this with a segment.
    pub fn segment(&self, _token: &str, _segment: &str, _want: Want) -> Result<(), Refused> {
        Ok(())
    }
}
