//! Bad input and faults: what the user is told, and that nothing else is harmed.
