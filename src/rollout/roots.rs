//! The roots of a release's images, and how they want to be run: out of the store, or pulled once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::target::Error;
use crate::cancel::Cancel;
use crate::digest::Digest;
use crate::platform::{Arch, Platform};
use crate::registry::{Client as Registry, Repository, Settings};
use crate::release::ReleasedImage;
use crate::rootfs::{self, Origin, Root};
use crate::store::Store;

/// Images of this machine's platform, by digest.
pub struct Roots {
    store: Arc<Store>,
    registry: Settings,
    cancel: Cancel,
    known: Mutex<BTreeMap<String, Root>>,
}

impl Roots {
    /// Those of `store`; others are pulled as `registry` says.
    pub fn new(store: Arc<Store>, registry: Settings, cancel: Cancel) -> Roots {
        Roots {
            store,
            registry,
            cancel,
            known: Mutex::default(),
        }
    }

    /// Sees to it that an image which was built here can be run, without a registry.
    pub fn make_ready(&self, image: &ReleasedImage) -> Result<(), rootfs::Error> {
        let root = self.find_root(image, false)?;
        self.store.materialize(&root.tree.root)?;
        if let Some(metadata) = &root.tree.metadata {
            self.store.verify(metadata)?;
        }
        Ok(())
    }

    /// An image's root.
    pub(super) fn root(&self, image: &ReleasedImage) -> Result<Root, Error> {
        let mut roots = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(root) = roots.get(&image.digest) {
            return Ok(root.clone());
        }
        let found = self.whole_root(image, true).map_err(|error| match error {
            rootfs::Error::Cancelled => Error::Cancelled,
            error @ rootfs::Error::Platform { .. } => Error::Refused(error.to_string()),
            error => Error::Environment(error.to_string()),
        })?;
        roots.insert(image.digest.clone(), found.clone());
        Ok(found)
    }

    /// How an image wants to be run; `None` if it cannot be had, or not without a registry unless `pull` says so.
    /// Why not is told by whoever needs it.
    pub fn config_of(&self, image: &ReleasedImage, pull: bool) -> Option<rootfs::Config> {
        let root = match pull {
            true => self.root(image).ok(),
            false => self.whole_root(image, false).ok(),
        };
        root.map(|root| root.config)
    }

    /// What is lost of an image in the store is pulled again, if it can be.
    fn whole_root(&self, image: &ReleasedImage, pull: bool) -> Result<Root, rootfs::Error> {
        self.store.until_whole(|_| {}, || self.find_root(image, pull))
    }

    fn find_root(&self, image: &ReleasedImage, pull: bool) -> Result<Root, rootfs::Error> {
        let malformed = |reason: String| rootfs::Error::Malformed {
            image: image.digest.clone(),
            reason,
        };
        let platform = Platform { arch: Arch::HOST };
        let digest = image.platforms.get(&platform).unwrap_or(&image.digest);
        let digest = Digest::from_oci(digest, 0).map_err(|error| malformed(error.to_string()))?;
        let repository: Option<Repository> = Repository::of_image(&image.repository)
            .ok()
            .map(|(repository, _)| repository)
            .filter(|_| pull);
        let client = Registry::new(self.registry.clone())?;
        let origin = repository.as_ref().map(|repository| Origin {
            client: &client,
            repository,
        });
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build();
        let runtime = runtime.map_err(|error| malformed(format!("no thread for the network: {error}")))?;
        runtime.block_on(rootfs::root(&self.store, origin, &digest, platform, &self.cancel))
    }
}
