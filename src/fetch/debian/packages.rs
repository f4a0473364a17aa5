//! A `Packages` file as a table: packages by name, and by what they provide.

use std::collections::HashMap;

use super::LockError;
use super::control::{Paragraph, paragraphs};
use super::relation::{Relation, groups};
use super::version::compare;
use crate::digest::Digest;
use crate::lock::DebianPackage;
use crate::platform::Arch;
use crate::tree::TreePath;

/// One package of a suite: a part of the text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Package<'a> {
    pub name: &'a str,
    pub version: &'a str,
    paragraph: Paragraph<'a>,
}

impl<'a> Package<'a> {
    /// A field's value, empty if it has none.
    pub(super) fn field(&self, name: &str) -> &'a str {
        self.paragraph.get(name).unwrap_or_default()
    }

    /// The fields that a lock pins, validated.
    pub(super) fn pin(&self) -> Result<DebianPackage, LockError> {
        let failed = |reason: &str| LockError::Metadata {
            url: format!("Packages: {}", self.name),
            reason: reason.to_owned(),
        };
        let path = self.field("Filename");
        let sound = |path: &str| {
            path.parse::<TreePath>()
                .is_ok_and(|parsed| parsed.to_string() == path)
        };
        if !sound(path) || !path.ends_with(".deb") {
            return Err(failed("its `Filename` is not a path below the mirror's root"));
        }
        let size: u64 = self
            .field("Size")
            .parse()
            .map_err(|_| failed("its `Size` is not a number"))?;
        let sha256 = self.field("SHA256");
        Digest::from_hex(sha256, size).map_err(|error| failed(&error.to_string()))?;
        Ok(DebianPackage {
            name: self.name.to_owned(),
            version: self.version.to_owned(),
            architecture: self.field("Architecture").to_owned(),
            path: path.to_owned(),
            sha256: sha256.to_owned(),
            size,
        })
    }
}

/// All packages of a suite for one architecture.
pub(super) struct Packages<'a> {
    arch: Arch,
    /// The highest version of each.
    by_name: HashMap<&'a str, Package<'a>>,
    /// Who provides a name, and in which version; sorted by the provider's name.
    providers: HashMap<&'a str, Vec<(&'a str, Option<&'a str>)>>,
}

impl<'a> Packages<'a> {
    /// Reads a `Packages` file; paragraphs without a name or a version, and of other architectures, are
    /// passed over.
    pub(super) fn parse(text: &'a str, arch: Arch) -> Packages<'a> {
        let mut by_name: HashMap<&str, Package<'_>> = HashMap::new();
        for paragraph in paragraphs(text) {
            let (Some(name), Some(version)) = (paragraph.get("Package"), paragraph.get("Version")) else {
                continue;
            };
            let of = paragraph.get("Architecture").unwrap_or_default();
            let newer = |known: &Package<'_>| compare(version, known.version).is_gt();
            if (of == "all" || of == arch.as_str()) && by_name.get(name).is_none_or(newer) {
                let package = Package {
                    name,
                    version,
                    paragraph,
                };
                by_name.insert(name, package);
            }
        }
        let mut providers: HashMap<&str, Vec<_>> = HashMap::new();
        for package in by_name.values() {
            for (_, provided) in groups(package.field("Provides")) {
                for relation in provided {
                    providers
                        .entry(relation.name)
                        .or_default()
                        .push((package.name, relation.exact()));
                }
            }
        }
        providers.values_mut().for_each(|all| all.sort());
        Packages {
            arch,
            by_name,
            providers,
        }
    }

    /// The package called `name`.
    pub(super) fn get(&self, name: &str) -> Option<&Package<'a>> {
        self.by_name.get(name)
    }

    /// The packages that satisfy a relation, the one of that very name first.
    pub(super) fn satisfying(&self, relation: &Relation<'_>) -> Vec<&'a str> {
        if !relation.is_for(self.arch) {
            return Vec::new();
        }
        let itself = self.by_name.get(relation.name);
        let itself = itself
            .filter(|package| relation.accepts(package.version))
            .map(|package| package.name);
        let providers = self.providers.get(relation.name).into_iter().flatten();
        let provided = providers
            .filter(|(_, version)| relation.accepts_provided(*version))
            .map(|(name, _)| *name);
        itself.into_iter().chain(provided).collect()
    }
}
