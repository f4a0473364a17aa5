//! What each lint looks for, by what it looks at. Nothing here knows of levels or permissions.

pub(super) mod attest;
pub(super) mod counts;
pub(super) mod environment;
pub(super) mod files;
pub(super) mod kept;
pub(super) mod nodes;
pub(super) mod outside;
pub(super) mod secrets;
pub(super) mod service;

mod address;
