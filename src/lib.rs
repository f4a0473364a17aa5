//! skep builds a project's container images hermetically, pushes them, and rolls them out by digest.
//!
//! Data flows one way, and modules import only from lower floors (ARCHITECTURE.md has the table):
//!
//! recipe files → [`plan`] → action results → [`image`] → registry → [`release`] → [`rollout`]

pub mod action;
pub mod assemble;
pub mod build;
pub mod cancel;
pub mod cli;
pub mod container;
pub mod deploy;
pub mod digest;
pub mod docker;
pub mod engine;
pub mod event;
pub mod fetch;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod gocache;
pub mod image;
pub mod lint;
pub mod lock;
pub mod network;
pub mod plan;
pub mod platform;
pub mod project;
pub mod publish;
pub mod push;
pub mod recipe;
pub mod registry;
pub mod release;
pub mod retry;
pub mod rollout;
pub mod rootfs;
pub mod sandbox;
pub mod source;
pub mod stack;
pub mod store;
pub mod supervisor;
pub mod swarm;
pub mod tree;
