//! MPI's error classes, with the message that a person needs.

/// An MPI error: its class (MPI 4, section 9.4) and what exactly was wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    pub class: Class,
    pub message: String,
}

macro_rules! classes {
    ($($name:ident = $code:literal, $text:literal;)*) => {
        /// Error classes with the numbers of `guests/mpi.h`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(i32)]
        pub enum Class { $($name = $code),* }
        impl Class {
            /// The text that `MPI_Error_string` gives for a code.
            pub fn text(code: i32) -> &'static str {
                match code { 0 => "no error", $($code => $text,)* _ => "unknown error code" }
            }
            /// The class of a code that is one.
            pub fn of(code: i32) -> Option<Class> {
                match code { $($code => Some(Class::$name),)* _ => None }
            }
        }
    };
}
classes! {
    Buffer = 1, "invalid buffer pointer";
    Count = 2, "invalid count argument";
    Type = 3, "invalid datatype argument";
    Tag = 4, "invalid tag argument";
    Comm = 5, "invalid communicator";
    Rank = 6, "invalid rank";
    Request = 7, "invalid request handle";
    Root = 8, "invalid root";
    Group = 9, "invalid group";
    Op = 10, "invalid reduce operation";
    Topology = 11, "invalid topology";
    Dims = 12, "invalid dimension argument";
    Arg = 13, "invalid argument";
    Truncate = 15, "message truncated on receive";
    Other = 16, "known error not in this list";
    Intern = 17, "internal MPI error";
    InStatus = 18, "error code is in status";
    Pending = 19, "pending request";
    Access = 20, "permission denied";
    Amode = 21, "invalid mode of access to a file";
    Assert = 22, "invalid assertion";
    BadFile = 23, "invalid file name";
    Base = 24, "invalid base of a window";
    Disp = 26, "invalid displacement";
    FileExists = 28, "the file exists";
    FileInUse = 29, "the file is in use";
    File = 30, "invalid file handle";
    InfoKey = 31, "invalid key of an info";
    InfoNoKey = 32, "key not in the info";
    InfoValue = 33, "invalid value of an info";
    Info = 34, "invalid info";
    Io = 35, "input or output failed";
    Keyval = 36, "invalid key of an attribute";
    LockType = 37, "invalid type of lock";
    Name = 38, "invalid service name";
    NoMem = 39, "out of memory";
    NotSame = 40, "the ranks' arguments differ";
    NoSpace = 41, "no space is left";
    NoSuchFile = 42, "the file does not exist";
    ReadOnly = 45, "the file is open for reading only";
    RmaConflict = 46, "conflicting accesses to a window";
    RmaSync = 47, "a window is used outside of an epoch";
    Size = 49, "invalid size";
    Spawn = 50, "processes can't be spawned";
    UnsupportedDatarep = 51, "unsupported data representation";
    UnsupportedOperation = 52, "unsupported operation";
    Win = 53, "invalid window";
    RmaRange = 54, "memory outside of the window";
    RmaAttach = 55, "memory can't be attached to the window";
    RmaShared = 56, "memory can't be shared between these ranks";
    RmaFlavor = 57, "the window was made by another call";
}

impl Error {
    pub fn new(class: Class, message: impl Into<String>) -> Error {
        Error { class, message: message.into() }
    }
}

pub type Result<T> = std::result::Result<T, Error>;
