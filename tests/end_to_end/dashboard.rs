//! The dashboard in a real browser, while ranks move.
