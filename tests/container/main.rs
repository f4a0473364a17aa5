//! Containers on the real kernel: what a long-running program sees, what it cannot do, and how it ends. The
//! program is busybox.

#[macro_use]
mod bench;
mod program;
mod root;
mod servers;
mod world;
