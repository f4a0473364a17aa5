//! The program from outside: what a user types, what it prints, the exit code, and what is left on disk.

mod bad_input;
mod bench;
mod crash;
mod damage;
mod lint;
mod verbs;
