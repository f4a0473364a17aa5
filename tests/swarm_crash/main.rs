//! A real Swarm and a skep that is killed, stopped, shut out or out of luck half-way: what runs afterwards is one
//! release, nobody is left with the lock, and no request failed.

mod bench;
mod crash;
mod engine;
mod image;
mod load;
mod lock;
mod releases;
mod restart;
