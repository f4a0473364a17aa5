//! Images of releases that a rollback may go to, and may not find. Plain data; whoever asks the registries fills it in.

/// Such an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// What the stack file of the release calls it.
    pub name: String,
    /// `repository@sha256:…`.
    pub image: String,
    /// The releases that run it, the newest first; at least one.
    pub releases: Vec<String>,
    /// What became of it.
    pub fate: Fate,
}

/// What a registry did to an image, or may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It, or its manifest for a platform, is not there any more.
    Lost,
    /// It is there, and no tag means it: what cleans a registry up takes such images first.
    Untagged,
}
