//! OCI registries: a client, and a server out of the store.
//!
//! [`Client`] asks any registry of the distribution specification 1.1 for manifests and blobs, and sends them;
//! it knows bytes and digests, not what images are made of. [`serve`] is a registry of this machine's own,
//! for previews and tests. Credentials come from docker's configuration and are never shown.

mod address;
mod auth;
mod challenge;
mod client;
mod download;
mod error;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod http;
mod pieces;
mod serve;
mod tags;
mod upload;

pub use address::{Address, AddressError, Name, Reference, Repository, Tag};
pub use auth::credential;
pub use client::{Client, MAX_MANIFEST, Manifest, Mount, Settings};
pub use error::{Error, Failure, Reported};
pub use http::Sent;
pub use serve::{ServeError, Server, collect, serve};
pub use upload::Pending;

#[cfg(test)]
mod auth_tests;
#[cfg(test)]
mod client_tests;
#[cfg(test)]
mod download_tests;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod upload_tests;
