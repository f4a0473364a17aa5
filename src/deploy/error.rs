//! Why an environment was not made to run a release.

use std::collections::{BTreeMap, BTreeSet};

use crate::build;
use crate::digest::Digest;
use crate::lint::{self, Finding};
use crate::project;
use crate::publish;
use crate::registry::{self, Tag};
use crate::release::ReleaseId;
use crate::rollout::{self, PrepareError, TargetError};
use crate::rootfs;
use crate::store::Lost;

/// Why nothing was deployed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration.
    #[error(transparent)]
    Project(#[from] project::Error),
    /// The build.
    #[error(transparent)]
    Build(#[from] build::Error),
    /// Repositories and tags.
    #[error(transparent)]
    Publish(Box<publish::Error>),
    /// The stack file, its variables, secrets and configs.
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    /// What skep.toml says of lints.
    #[error(transparent)]
    Lint(#[from] lint::Error),
    /// Lints that block; at least one.
    #[error("`{environment}` is left as it is: {} it; `skep lint {environment}` says why", lint::blocking(.findings.len()))]
    Blocked {
        /// The environment.
        environment: String,
        /// What they found.
        findings: Vec<Finding>,
    },
    /// An image that was built, and cannot be read.
    #[error(transparent)]
    Root(#[from] Box<rootfs::Error>),
    /// The rollout.
    #[error(transparent)]
    Rollout(Box<rollout::Error>),
    /// The target.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The registry that a tag is looked up in.
    #[error(transparent)]
    Registry(#[from] registry::Error),
    /// A tag that names no image.
    #[error("`{repository}` has no tag `{tag}`; push it first")]
    NoTag {
        /// Where it was looked for.
        repository: String,
        /// The tag.
        tag: Tag,
    },
    /// A digest that names no image.
    #[error("`{repository}` has no image `{digest}`")]
    NoImage {
        /// Where it was looked for.
        repository: String,
        /// The digest.
        digest: String,
    },
    /// Images under one tag that are of several revisions.
    #[error(
        "the images under `{}` are of no one revision: {}; push all of one under that tag, or give another", .tag.as_str(), mixture(.revisions)
    )]
    Mixture {
        /// The tag.
        tag: Tag,
        /// Revisions of each image, by its target.
        revisions: BTreeMap<String, BTreeSet<String>>,
    },
    /// Where an image is does not make sense.
    #[error(transparent)]
    Address(#[from] registry::AddressError),
    /// Nothing was ever released there.
    #[error("nothing was released to `{environment}` yet; run `skep release {environment}`")]
    NoRelease {
        /// The environment.
        environment: String,
    },
    /// No release ever ran there.
    #[error(
        "no release of `{environment}` ran as it should; `skep release {environment}` makes another, and `skep rollout {environment} --release {newest}` tries the newest again"
    )]
    AllFailed {
        /// The environment.
        environment: String,
        /// Its newest release.
        newest: ReleaseId,
    },
    /// Changes that no revision has.
    #[error(
        "the work tree has changes that are not committed; commit them, or give `--dirty` to release them to `{environment}` as they are"
    )]
    Dirty {
        /// The environment.
        environment: String,
    },
    /// There is no release to go back to.
    #[error(
        "`{environment}` keeps no earlier release that ran; `skep history {environment}` lists what it keeps"
    )]
    NoEarlier {
        /// The environment.
        environment: String,
    },
    /// The schema would be another one than a release ran on.
    #[error(
        "release {id} ran on schema {ran}, and the database is at {stands}, where it stays; if the release can do with that, give `--across-migrations`"
    )]
    AcrossMigration {
        /// The release.
        id: ReleaseId,
        /// Where the schema stands.
        stands: u64,
        /// Where it stood for the release.
        ran: u64,
    },
    /// A service or task that was never there.
    #[error("`{environment}` has no service or task `{name}`; it has `{}`", known.join("`, `"))]
    NoService {
        /// The environment.
        environment: String,
        /// What was asked for.
        name: String,
        /// Those that there are.
        known: Vec<String>,
    },
    /// Something is recorded already.
    #[error("`{environment}` has release {release} already; there is nothing to adopt")]
    Adopted {
        /// The environment.
        environment: String,
        /// Its newest release.
        release: ReleaseId,
    },
    /// Nothing runs.
    #[error("nothing runs at `{environment}` that could be adopted")]
    NothingFound {
        /// The environment.
        environment: String,
    },
    /// A secret's version that there is not.
    #[error(
        "`{environment}` has no secret `{version}`; `skep secret ls {environment}` lists those that it has"
    )]
    NoSecret {
        /// The environment.
        environment: String,
        /// What was asked for.
        version: String,
    },
    /// A release needs a secret that must not be used, and nothing takes its place.
    #[error(
        "the release needs `{version}`, which was revoked, and no other version of `{name}` takes its place"
    )]
    Revoked {
        /// The secret.
        name: String,
        /// The version.
        version: crate::release::Version,
    },
    /// A plan of something else.
    #[error("the plan is for `{environment}` of `{project}`")]
    ForeignPlan {
        /// Its project.
        project: String,
        /// Its environment.
        environment: String,
    },
    /// A plan's file cannot be read or written.
    #[error("{what}")]
    PlanFile {
        /// What is wrong.
        what: String,
    },
    /// A release that is not kept.
    #[error("`{environment}` keeps no release `{id}`; `skep history {environment}` lists those that it does")]
    Unknown {
        /// The environment.
        environment: String,
        /// The release.
        id: ReleaseId,
    },
}

/// Revisions that are said of each image.
const SAID: usize = 3;

fn mixture(revisions: &BTreeMap<String, BTreeSet<String>>) -> String {
    let one = |(name, of): (&String, &BTreeSet<String>)| {
        let mut said: Vec<&str> = of.iter().take(SAID).map(String::as_str).collect();
        match of.len() {
            0 => said.push("unknown"),
            all if all > SAID => said.push("…"),
            _ => {}
        }
        format!("`{name}` is of {}", said.join(", "))
    };
    revisions.iter().map(one).collect::<Vec<_>>().join(", ")
}

impl Lost for Error {
    fn lost(&self) -> Vec<Digest> {
        match self {
            Error::Build(error) => error.lost(),
            Error::Publish(error) => error.lost(),
            Error::Root(error) => error.lost(),
            _ => Vec::new(),
        }
    }
}

impl From<rollout::Error> for Error {
    fn from(error: rollout::Error) -> Error {
        Error::Rollout(Box::new(error))
    }
}

impl From<publish::Error> for Error {
    fn from(error: publish::Error) -> Error {
        Error::Publish(Box::new(error))
    }
}
