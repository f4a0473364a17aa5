//! Blobs out of registries: small ones into memory, others into a file. Bytes of another digest are an error.

use std::fs::File;
use std::io::{Seek as _, Write as _};
use std::sync::{Arc, Mutex};

use reqwest::Method;

use super::address::Repository;
use super::client::{Access, Call, Client, MAX_MANIFEST};
use super::error::{Error, Failure, Problem};
use super::http::Answer;
use crate::cancel::Cancel;
use crate::digest::{Digest, Hasher};
use crate::store::{self, Store};

/// Where a large answer goes.
pub(super) struct Inflow {
    file: File,
    hasher: Hasher,
    store: Arc<Store>,
}

impl Inflow {
    /// Forgets what an earlier attempt left.
    pub(super) fn begin(&mut self) -> Result<(), Problem> {
        self.hasher = Hasher::new();
        let emptied = self.file.set_len(0).and_then(|()| self.file.rewind());
        emptied.map_err(|source| self.failed(source))
    }

    /// Takes the next bytes. They are few, and go into the system's memory first, so nobody waits for a disk.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<(), Problem> {
        self.hasher.update(bytes);
        self.file.write_all(bytes).map_err(|source| self.failed(source))
    }

    fn failed(&self, source: std::io::Error) -> Problem {
        Problem::Store(store::Error::Io {
            what: "write",
            path: self.store.root().to_owned(),
            source,
        })
    }
}

impl Client {
    /// A blob of at most [`MAX_MANIFEST`] bytes, such as a config; `None` if the repository has none.
    pub async fn get_blob(
        &self,
        repository: &Repository,
        digest: &Digest,
        cancel: &Cancel,
    ) -> Result<Option<Vec<u8>>, Error> {
        let max = digest.size().min(MAX_MANIFEST);
        let get = async {
            let Some(answer) = self.blob(repository, digest, max, None, cancel).await? else {
                return Ok(None);
            };
            check(digest, &Digest::of(&answer.body))?;
            Ok(Some(answer.body))
        };
        get.await.map_err(|problem| during(problem, repository, digest))
    }

    /// A blob of any size in a file without a name, on the disk of the store, from its beginning; `None` if the
    /// repository has none.
    pub async fn download(
        &self,
        store: &Arc<Store>,
        repository: &Repository,
        digest: &Digest,
        cancel: &Cancel,
    ) -> Result<Option<File>, Error> {
        let get = async {
            let inflow = Inflow {
                file: store.nameless_file().map_err(Problem::Store)?,
                hasher: Hasher::new(),
                store: Arc::clone(store),
            };
            let inflow = Arc::new(Mutex::new(inflow));
            let into = Some(Arc::clone(&inflow));
            if self
                .blob(repository, digest, digest.size(), into, cancel)
                .await?
                .is_none()
            {
                return Ok(None);
            }
            let mut inflow = inflow.lock().expect("never poisoned");
            check(digest, &std::mem::take(&mut inflow.hasher).finish())?;
            let rewound = inflow.file.rewind().and_then(|()| inflow.file.try_clone());
            rewound.map(Some).map_err(|source| inflow.failed(source))
        };
        get.await.map_err(|problem| during(problem, repository, digest))
    }

    async fn blob(
        &self,
        repository: &Repository,
        digest: &Digest,
        max: u64,
        into: Option<Arc<Mutex<Inflow>>>,
        cancel: &Cancel,
    ) -> Result<Option<Answer>, Problem> {
        let host = self.host(repository, cancel).await?;
        let url = host.url(repository, &format!("blobs/{}", digest.oci()))?;
        let call = Call {
            max,
            into,
            ..Call::new(repository, Access::Pull, Method::GET, url)
        };
        let answer = self.retried(&host, &call, cancel).await?;
        match answer.status {
            404 => Ok(None),
            _ if answer.is_success() => Ok(Some(answer)),
            _ => Err(answer.failure().into()),
        }
    }
}

fn check(expected: &Digest, got: &Digest) -> Result<(), Problem> {
    match got == expected {
        true => Ok(()),
        false => Err(Failure::Digest {
            expected: expected.oci(),
            got: got.oci(),
        }
        .into()),
    }
}

fn during(problem: Problem, repository: &Repository, digest: &Digest) -> Error {
    problem.during(repository, format!("get the blob `{}`", digest.oci()))
}
