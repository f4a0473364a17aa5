//! Images out of registries: manifests, configs and layers, each once and each checked.

use std::sync::Arc;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::config::Document;
use super::manifest::Manifest;
use super::{
    Config, Error, Origin, Root, Unpacked, assembled, blob_in, blocking, file, keep, kept, read_tree,
    tree_entries,
};
use crate::cancel::Cancel;
use crate::digest::Digest;
use crate::fetch::{ArchiveError, ArchiveLimits, unpack_layer};
use crate::platform::Platform;
use crate::registry::{MAX_MANIFEST, Reference};
use crate::store::Store;

/// Layers at one time.
const LANES: usize = 3;

/// One image on its way.
struct Pull<'a> {
    store: &'a Arc<Store>,
    origin: Option<Origin<'a>>,
    /// What was asked for.
    image: &'a Digest,
    cancel: &'a Cancel,
}

/// The root of an image that was not built here.
pub(super) async fn root(
    store: &Arc<Store>,
    origin: Option<Origin<'_>>,
    image: &Digest,
    platform: Platform,
    cancel: &Cancel,
) -> Result<Root, Error> {
    let pull = Pull {
        store,
        origin,
        image,
        cancel,
    };
    let other = |has: Vec<String>| Error::Platform {
        image: image.oci(),
        wanted: platform,
        has,
    };
    let wanted = platform.to_string();
    let mut found = pull.manifest(image).await?;
    if let (_, Manifest::Index(images)) = &found {
        let Some((_, digest)) = images.iter().find(|(platform, _)| *platform == wanted) else {
            return Err(other(
                images.iter().map(|(platform, _)| platform.clone()).collect(),
            ));
        };
        found = pull.manifest(digest).await?;
    }
    let (digest, manifest) = found;
    let Manifest::Image { config, layers } = manifest else {
        return Err(Error::Malformed {
            image: image.oci(),
            reason: "it is an index of indexes".to_owned(),
        });
    };
    let document = pull.config(&digest, &config).await?;
    if document.platform != wanted {
        return Err(other(vec![document.platform]));
    }
    if document.diff_ids.len() != layers.len() {
        return Err(Error::Malformed {
            image: digest.oci(),
            reason: format!(
                "its config speaks of {} layers, its manifest of {}",
                document.diff_ids.len(),
                layers.len()
            ),
        });
    }
    let layers = stream::iter(layers.into_iter().zip(document.diff_ids))
        .map(|(layer, diff_id)| pull.layer(layer, diff_id))
        .buffered(LANES)
        .try_collect()
        .await?;
    assembled(store, digest, config, layers).await
}

impl Pull<'_> {
    /// The manifest or index `digest`, and its digest with the right size.
    async fn manifest(&self, digest: &Digest) -> Result<(Digest, Manifest), Error> {
        if let Some(root) = kept(self.store, "manifest", digest)?
            && let Some(blob) = blob_in(self.store, &root, "manifest")?
        {
            return Ok((blob, Manifest::read(&self.store.read(&blob)?, &blob)?));
        }
        let origin = self.origin()?;
        let reference = Reference::Digest(*digest);
        let found = origin
            .client
            .get_manifest(origin.repository, &reference, self.cancel)
            .await?
            .ok_or_else(|| self.gone(origin, "manifest", digest))?;
        let manifest = Manifest::read(&found.bytes, &found.digest)?;
        let blob = self.store.put(&found.bytes)?;
        if let Manifest::Index(_) = manifest {
            keep(self.store, "manifest", &blob, [("manifest", file(blob))])?;
        }
        Ok((blob, manifest))
    }

    /// The config of the manifest `manifest`, which is kept with it.
    async fn config(&self, manifest: &Digest, config: &Digest) -> Result<Document, Error> {
        if kept(self.store, "manifest", manifest)?.is_some() {
            return Config::read(&self.store.read(config)?, config);
        }
        let malformed = |reason: &str| Error::Malformed {
            image: manifest.oci(),
            reason: reason.to_owned(),
        };
        if config.size() > MAX_MANIFEST {
            return Err(malformed("its config is larger than 4 MiB"));
        }
        let origin = self.origin()?;
        let bytes = origin
            .client
            .get_blob(origin.repository, config, self.cancel)
            .await?
            .ok_or_else(|| self.gone(origin, "config", config))?;
        let document = Config::read(&bytes, config)?;
        self.store.put(&bytes)?;
        let entries = [("config", file(*config)), ("manifest", file(*manifest))];
        keep(self.store, "manifest", manifest, entries)?;
        Ok(document)
    }

    /// A layer, which must unpack to `diff_id`.
    async fn layer(&self, layer: Digest, diff_id: String) -> Result<Unpacked, Error> {
        if let Some(root) = kept(self.store, "layer-of", &layer)? {
            return Ok(Unpacked {
                tree: read_tree(self.store, &root)?,
                implied: blob_in(self.store, &root, "implied")?,
            });
        }
        let limits = ArchiveLimits::default();
        if layer.size() > limits.bytes {
            return Err(Error::Layer {
                layer: layer.oci(),
                source: ArchiveError::TooLarge("8 GiB".to_owned()),
            });
        }
        let origin = self.origin()?;
        let file = origin
            .client
            .download(self.store, origin.repository, &layer, self.cancel)
            .await?
            .ok_or_else(|| self.gone(origin, "layer", &layer))?;
        let (store, cancel) = (Arc::clone(self.store), self.cancel.clone());
        blocking(move || unpack(&store, file, &layer, &diff_id, &limits, &cancel)).await
    }

    fn origin(&self) -> Result<Origin<'_>, Error> {
        self.origin.ok_or_else(|| Error::Unknown(self.image.oci()))
    }

    fn gone(&self, origin: Origin<'_>, what: &str, digest: &Digest) -> Error {
        Error::Gone {
            repository: origin.repository.clone(),
            image: self.image.oci(),
            what: format!("{what} {}", digest.oci()),
        }
    }
}

fn unpack(
    store: &Store,
    input: std::fs::File,
    layer: &Digest,
    diff_id: &str,
    limits: &ArchiveLimits,
    cancel: &Cancel,
) -> Result<Unpacked, Error> {
    let failed = |source| match source {
        ArchiveError::Cancelled => Error::Cancelled,
        ArchiveError::Store(error) => Error::Store(error),
        source => Error::Layer {
            layer: layer.oci(),
            source,
        },
    };
    let unpacked = unpack_layer(store, input, limits, cancel).map_err(failed)?;
    if unpacked.diff_id.oci() != diff_id {
        let reason = format!("it unpacks to {} and not to {diff_id}", unpacked.diff_id.oci());
        return Err(failed(ArchiveError::Malformed(reason)));
    }
    let implied = match unpacked.implied.is_empty() {
        true => None,
        false => {
            let paths = serde_json::to_vec(&unpacked.implied).expect("paths encode");
            Some(store.put(&paths)?)
        }
    };
    let entries = tree_entries(unpacked.tree).into_iter();
    keep(
        store,
        "layer-of",
        layer,
        entries.chain(implied.map(|digest| ("implied", file(digest)))),
    )?;
    Ok(Unpacked {
        tree: unpacked.tree,
        implied,
    })
}
