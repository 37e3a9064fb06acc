//! The platform as its users have it: `cloudskin up` in processes of their own, real programs, real kills.
//!
//! Needs what `setup/setup.sh test` installs. Each test has an installation of its own ([`platform::Platform`]), so they run side by side.

mod platform;
mod builds;
mod dashboard;
mod doors;
mod example;
mod faults;
mod fence;
mod hammer;
mod help;
mod increments;
mod kills;
mod manners;
mod moves;
mod outage;
mod processes;
mod programs;
mod s3;
mod set_up;
mod sharing;
mod standby;
mod stream_starts;
mod stream_video;
mod streams;
mod threads;
mod top;
