//! A supervisor on the real kernel: its process, containers of busybox, networks, ports and files.

mod bench;
mod life;
mod replicas;
mod traffic;
