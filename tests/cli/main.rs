//! The program from outside: what a user types, what it prints, the exit code, and what is left on disk.

mod bad_input;
mod bench;
mod cache;
mod campaign;
mod crash;
mod damage;
mod evaluation;
mod images;
mod lint;
mod terminal;
mod verbs;
