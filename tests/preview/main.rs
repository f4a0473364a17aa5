//! Previews from outside: releases that run, that fail, that are killed half-way and that are undone; what is left
//! afterwards, as root and as an ordinary user.

mod bench;
mod crash;
mod failures;
mod images;
mod processes;
mod releases;
mod told;
mod verbs;
