//! Swarms from outside: stacks that a real engine runs, that fail, that are refused and that are undone; and what is
//! left on the engine afterwards.

mod bench;
mod engine;
mod failures;
mod files;
mod operations;
mod refusals;
mod registry;
mod releases;
mod ssh;
mod verbs;
