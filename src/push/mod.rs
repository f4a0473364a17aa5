//! Images into a registry: only what it lacks.
//!
//! The order is what makes a push safe to break off, and a tag true: blobs, then manifests by digest, then
//! the index by digest, then the tag. (Gitea forgets a version when its tag is put again; what was put by
//! digest too stays.) A layer's bytes are made only if the registry lacks them. A [`Pusher`] remembers which
//! blobs are where, so that images that share layers send them once. Builds nothing itself.

mod error;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use tokio::sync::Semaphore;

pub use error::{Error, Kind, LayerError};

use crate::cancel::Cancel;
use crate::digest::Digest;
use crate::event::{Direction, Event, Events, Pushed};
use crate::image::{INDEX_MEDIA_TYPE, Image, Index, Layer, MANIFEST_MEDIA_TYPE};
use crate::registry::{Client, Mount, Reference, Repository, Sent, Settings, Tag};
use crate::store::Store;

/// Blobs of one push that are looked after at once.
const PARALLEL: usize = 6;
/// Layers that are made at once; each uses every processor.
const MAKING: usize = 2;
/// Blobs up to this size are sent rather than asked for elsewhere in the registry, in bytes.
const SMALL: u64 = 64 << 10;
/// An event for every so many bytes.
const PROGRESS: u64 = 256 << 10;

/// Sees to it that a layer's bytes are in the store. Called on a thread that may block.
pub type MakeLayer = Arc<dyn Fn(&Layer) -> Result<(), LayerError> + Send + Sync>;

/// What is pushed.
#[derive(Clone, Copy, Debug)]
pub enum Subject<'a> {
    /// An index with all of its images.
    Index(&'a Index),
    /// One image.
    Image(&'a Image),
}

/// Where to, and under which names.
#[derive(Clone, Debug)]
pub struct Target {
    /// The repository.
    pub repository: Repository,
    /// Tags that are put once: one that is there and names something else is an error.
    pub tags: Vec<Tag>,
    /// Tags that move, such as `latest`; put last.
    pub moving: Vec<Tag>,
}

/// What a push did.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Report {
    /// Where it is.
    pub repository: Repository,
    /// `sha256:…` of the index, or of the image.
    pub digest: String,
    /// The tags that name it, moving ones last.
    pub tags: Vec<Tag>,
    /// Bytes of the blobs that were sent.
    pub bytes: u64,
    /// Configs and layers that were there.
    pub present: usize,
    /// Those that the registry took from other repositories.
    pub mounted: usize,
    /// Those that were sent.
    pub uploaded: usize,
}

/// Pushes from a store. Share it between tasks: what two pushes need is sent once.
pub struct Pusher {
    client: Client,
    store: Arc<Store>,
    make: MakeLayer,
    events: Events,
    /// Which repositories of a registry are known to have a blob. Held while one is seen to.
    places: Mutex<HashMap<(String, Digest), Arc<Places>>>,
    making: Semaphore,
}

type Places = tokio::sync::Mutex<Vec<Repository>>;

/// A config or a layer.
#[derive(Clone, Copy)]
enum Blob<'a> {
    Config(&'a Digest),
    Layer(&'a Layer),
}

impl Pusher {
    /// A pusher that has layers made by `make`.
    pub fn new(
        store: Arc<Store>,
        settings: Settings,
        make: MakeLayer,
        events: Events,
    ) -> Result<Pusher, Error> {
        Ok(Pusher {
            client: Client::new(settings)?,
            store,
            make,
            events,
            places: Mutex::default(),
            making: Semaphore::new(MAKING),
        })
    }

    /// Pushes an index or an image.
    ///
    /// A tag that another push puts between the last look and our own `PUT` is not noticed: registries have
    /// no way to ask for that.
    pub async fn push(
        &self,
        subject: Subject<'_>,
        target: &Target,
        cancel: &Cancel,
    ) -> Result<Report, Error> {
        let digest = subject.digest();
        let to = &target.repository;
        for tag in &target.tags {
            self.is_tagged(target, tag, &digest, cancel).await?;
        }
        let images = subject.images();
        let looks = images.iter().map(|image| self.is_absent(to, image, cancel));
        let absent = few_at_once(looks.collect()).await?;
        let mut blobs = BTreeMap::new();
        for (image, absent) in images.iter().zip(&absent) {
            for (digest, blob) in image_blobs(image) {
                // A registry has all that a manifest of its own names.
                let (_, is_there) = blobs.entry(digest).or_insert((blob, false));
                *is_there |= !absent;
            }
        }
        let mut report = self.push_blobs(to, &digest, blobs, cancel).await?;
        let mut puts = Vec::new();
        for (image, absent) in images.iter().zip(absent) {
            if absent {
                puts.push(self.put(to, image.manifest.into(), &image.manifest, false, cancel));
            }
        }
        few_at_once(puts).await?;
        let is_index = matches!(subject, Subject::Index(_));
        if is_index && self.find(to, digest.into(), cancel).await?.is_none() {
            self.put(to, digest.into(), &digest, true, cancel).await?;
        }
        for tag in &target.tags {
            if !self.is_tagged(target, tag, &digest, cancel).await? {
                self.put(to, tag.clone().into(), &digest, is_index, cancel)
                    .await?;
            }
        }
        for tag in &target.moving {
            let named = self.find(to, tag.clone().into(), cancel).await?;
            if named != Some(digest.oci()) {
                self.put(to, tag.clone().into(), &digest, is_index, cancel)
                    .await?;
            }
        }
        report.tags = [&target.tags[..], &target.moving].concat();
        Ok(report)
    }

    /// Whether a tag names `digest` already; an error if it names something else.
    async fn is_tagged(
        &self,
        target: &Target,
        tag: &Tag,
        digest: &Digest,
        cancel: &Cancel,
    ) -> Result<bool, Error> {
        let repository = &target.repository;
        match self.find(repository, tag.clone().into(), cancel).await? {
            None => Ok(false),
            Some(named) if named == digest.oci() => Ok(true),
            Some(theirs) => Err(Error::Taken {
                repository: repository.clone(),
                tag: tag.clone(),
                theirs,
                ours: digest.oci(),
            }),
        }
    }

    async fn is_absent(&self, to: &Repository, image: &Image, cancel: &Cancel) -> Result<bool, Error> {
        let found = self.find(to, image.manifest.into(), cancel).await?;
        Ok(found.is_none())
    }

    async fn find(
        &self,
        repository: &Repository,
        reference: Reference,
        cancel: &Cancel,
    ) -> Result<Option<String>, Error> {
        let found = self.client.head_manifest(repository, &reference, cancel).await;
        Ok(found?)
    }

    async fn put(
        &self,
        repository: &Repository,
        reference: Reference,
        digest: &Digest,
        is_index: bool,
        cancel: &Cancel,
    ) -> Result<(), Error> {
        let (store, digest) = (Arc::clone(&self.store), *digest);
        let bytes = blocking(cancel, move || store.read(&digest)).await??;
        let media_type = if is_index {
            INDEX_MEDIA_TYPE
        } else {
            MANIFEST_MEDIA_TYPE
        };
        self.client
            .put_manifest(repository, &reference, media_type, &bytes, cancel)
            .await?;
        Ok(())
    }

    /// Sees to every blob; those with `true` are known to be there.
    async fn push_blobs(
        &self,
        to: &Repository,
        digest: &Digest,
        blobs: BTreeMap<Digest, (Blob<'_>, bool)>,
        cancel: &Cancel,
    ) -> Result<Report, Error> {
        let mut report = Report {
            repository: to.clone(),
            digest: digest.oci(),
            tags: Vec::new(),
            bytes: 0,
            present: 0,
            mounted: 0,
            uploaded: 0,
        };
        let pushes = blobs
            .values()
            .map(|(blob, is_there)| self.push_blob(to, *blob, *is_there, cancel));
        let seen = few_at_once(pushes.collect()).await?;
        for (digest, how) in blobs.keys().zip(seen) {
            match how {
                Pushed::Present => report.present += 1,
                Pushed::Mounted => report.mounted += 1,
                Pushed::Uploaded => {
                    report.uploaded += 1;
                    report.bytes += digest.size();
                }
            }
        }
        Ok(report)
    }

    async fn push_blob(
        &self,
        to: &Repository,
        blob: Blob<'_>,
        is_there: bool,
        cancel: &Cancel,
    ) -> Result<Pushed, Error> {
        let how = self.see_to(to, blob, is_there, cancel).await?;
        self.events.emit(Event::Pushed {
            blob: blob.digest().oci(),
            how,
        });
        Ok(how)
    }

    async fn see_to(
        &self,
        to: &Repository,
        blob: Blob<'_>,
        is_there: bool,
        cancel: &Cancel,
    ) -> Result<Pushed, Error> {
        let digest = blob.digest();
        let places = {
            let mut places = self.places.lock().expect("never poisoned");
            Arc::clone(places.entry((to.host().to_owned(), *digest)).or_default())
        };
        // Whoever needs the same blob in this registry waits, and then finds it there or mounts it.
        let mut places = cancel
            .unless_raised(places.lock())
            .await
            .ok_or(Error::Cancelled)?;
        if places.contains(to) {
            return Ok(Pushed::Present);
        }
        let how = match is_there || self.client.has_blob(to, digest, cancel).await? {
            true => Pushed::Present,
            false => self.send(to, blob, places.first(), cancel).await?,
        };
        places.push(to.clone());
        Ok(how)
    }

    /// Gets a blob there that is not there.
    async fn send(
        &self,
        to: &Repository,
        blob: Blob<'_>,
        from: Option<&Repository>,
        cancel: &Cancel,
    ) -> Result<Pushed, Error> {
        let digest = blob.digest();
        let mut pending = None;
        if digest.size() > SMALL {
            match self.client.mount(to, digest, from, cancel).await? {
                Mount::Mounted => return Ok(Pushed::Mounted),
                Mount::Absent(begun) => pending = begun,
            }
        }
        if let Blob::Layer(layer) = blob {
            let permit = cancel
                .unless_raised(self.making.acquire())
                .await
                .ok_or(Error::Cancelled)?;
            let (make, owned) = (Arc::clone(&self.make), layer.clone());
            let made = blocking(cancel, move || make(&owned)).await?;
            made.map_err(|error| Error::layer(&layer.digest, error))?;
            drop(permit);
        }
        let progress = Progress::new(self.events.clone(), digest);
        let sent: Sent = Arc::new(move |bytes| progress.add(bytes));
        self.client
            .upload(to, &self.store, digest, pending, &sent, cancel)
            .await?;
        Ok(Pushed::Uploaded)
    }
}

impl<'a> Subject<'a> {
    fn digest(&self) -> Digest {
        match self {
            Subject::Index(index) => index.digest,
            Subject::Image(image) => image.manifest,
        }
    }

    fn images(&self) -> Vec<&'a Image> {
        match self {
            Subject::Index(index) => index.images.values().collect(),
            Subject::Image(image) => vec![image],
        }
    }
}

impl Blob<'_> {
    fn digest(&self) -> &Digest {
        match self {
            Blob::Config(digest) => digest,
            Blob::Layer(layer) => &layer.digest,
        }
    }
}

fn image_blobs(image: &Image) -> impl Iterator<Item = (Digest, Blob<'_>)> {
    let layers = image
        .layers
        .iter()
        .map(|layer| (layer.digest, Blob::Layer(layer)));
    std::iter::once((image.config, Blob::Config(&image.config))).chain(layers)
}

/// The values of futures in their order; a few run at once, and none goes on when one fails.
async fn few_at_once<T>(futures: Vec<impl Future<Output = Result<T, Error>>>) -> Result<Vec<T>, Error> {
    stream::iter(futures).buffered(PARALLEL).try_collect().await
}

/// Runs `work` on a thread that may block. Cancellation does not wait for it.
async fn blocking<T: Send + 'static>(
    cancel: &Cancel,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    match cancel
        .unless_raised(tokio::task::spawn_blocking(work))
        .await
        .ok_or(Error::Cancelled)?
    {
        Ok(value) => Ok(value),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is going down.
            Err(_) => Err(Error::Cancelled),
        },
    }
}

/// Sums small pieces up into events.
struct Progress {
    events: Events,
    blob: String,
    pending: Mutex<u64>,
}

impl Progress {
    fn new(events: Events, digest: &Digest) -> Progress {
        Progress {
            events,
            blob: digest.oci(),
            pending: Mutex::new(0),
        }
    }

    fn add(&self, bytes: u64) {
        let mut pending = self.pending.lock().expect("never poisoned");
        *pending += bytes;
        if *pending >= PROGRESS {
            self.emit(std::mem::take(&mut pending));
        }
    }

    fn emit(&self, bytes: u64) {
        self.events.emit(Event::Transferred {
            what: self.blob.clone(),
            direction: Direction::Out,
            bytes,
        });
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        let pending = *self.pending.lock().expect("never poisoned");
        if pending > 0 {
            self.emit(pending);
        }
    }
}

#[cfg(test)]
mod tests;
