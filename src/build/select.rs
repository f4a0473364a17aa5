//! From names that people write to nodes of the plan, and from their values back to images.

use std::collections::BTreeMap;

use super::{Built, BuiltImage, Error, Request};
use crate::assemble;
use crate::plan::{NodeId, Plan, Target};
use crate::platform::{ParsePlatformError, Platform};
use crate::store::Store;
use crate::tree::Tree;

/// A name that stands for nothing.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    /// No target at all.
    #[error("skep.star declares no image; call `image(…)` of `@skep//image.star`")]
    NoTargets,
    /// No target is built for any of the platforms.
    #[error("no target is built for {}", .0.iter().map(Platform::to_string).collect::<Vec<_>>().join(" or "))]
    NoneFor(Vec<Platform>),
    /// No target of this name.
    #[error("there is no target `{name}`; skep.star declares {}", .targets.join(", "))]
    Target {
        /// The name.
        name: String,
        /// The targets that there are.
        targets: Vec<String>,
    },
    /// A target without this platform.
    #[error("the target `{target}` is not built for {platform}; it is built for {}", .platforms.join(" and "))]
    Platform {
        /// The target.
        target: String,
        /// The platform that it lacks.
        platform: Platform,
        /// Those that it has.
        platforms: Vec<String>,
    },
    /// No action of this label.
    #[error("there is no action `{0}`; `skep build --json` names actions as they run")]
    Action(String),
    /// Not a platform at all.
    #[error(transparent)]
    NoPlatform(#[from] ParsePlatformError),
}

/// What the value of a root is.
enum Root {
    Index(String),
    Image(String, Platform),
    Action(String),
}

/// The nodes to build.
pub(super) struct Selection {
    ids: Vec<NodeId>,
    roots: Vec<Root>,
}

impl Selection {
    pub(super) fn new(plan: &Plan, request: &Request) -> Result<Selection, Unknown> {
        let mut selection = Selection {
            ids: Vec::new(),
            roots: Vec::new(),
        };
        if plan.targets().is_empty() {
            return Err(Unknown::NoTargets);
        }
        if request.names.is_empty() {
            for (name, target) in plan.targets() {
                let has = |platform: &&Platform| target.platforms.contains_key(platform);
                let wanted: Vec<Platform> = request.platforms.iter().filter(has).copied().collect();
                if request.platforms.is_empty() || !wanted.is_empty() {
                    selection.add_target(name, target, &wanted);
                }
            }
            if selection.ids.is_empty() {
                return Err(Unknown::NoneFor(request.platforms.clone()));
            }
        }
        for name in &request.names {
            selection.add(plan, name, &request.platforms)?;
        }
        Ok(selection)
    }

    fn add(&mut self, plan: &Plan, name: &str, platforms: &[Platform]) -> Result<(), Unknown> {
        if name.contains(':') {
            let id = plan.find(name).ok_or_else(|| Unknown::Action(name.to_owned()))?;
            self.push(id, Root::Action(name.to_owned()));
            return Ok(());
        }
        let (name, platforms) = match name.split_once('@') {
            Some((name, platform)) => (name, vec![platform.parse()?]),
            None => (name, platforms.to_vec()),
        };
        let target = plan.targets().get(name).ok_or_else(|| Unknown::Target {
            name: name.to_owned(),
            targets: plan.targets().keys().cloned().collect(),
        })?;
        if let Some(platform) = platforms
            .iter()
            .find(|platform| !target.platforms.contains_key(platform))
        {
            return Err(Unknown::Platform {
                target: name.to_owned(),
                platform: *platform,
                platforms: target.platforms.keys().map(Platform::to_string).collect(),
            });
        }
        self.add_target(name, target, &platforms);
        Ok(())
    }

    /// The index where every platform is wanted, else the images of those that are.
    fn add_target(&mut self, name: &str, target: &Target, platforms: &[Platform]) {
        let all = target
            .platforms
            .keys()
            .all(|platform| platforms.contains(platform));
        if platforms.is_empty() || all {
            self.push(target.index, Root::Index(name.to_owned()));
            return;
        }
        for platform in platforms {
            self.push(
                target.platforms[platform],
                Root::Image(name.to_owned(), *platform),
            );
        }
    }

    fn push(&mut self, id: NodeId, root: Root) {
        if !self.ids.contains(&id) {
            self.ids.push(id);
            self.roots.push(root);
        }
    }

    pub(super) fn roots(&self) -> &[NodeId] {
        &self.ids
    }

    /// What the values of the roots, in their order, stand for. Images are recorded by their digests.
    pub(super) fn read(&self, store: &Store, values: &[Tree]) -> Result<Built, Error> {
        let mut built = Built::default();
        for (root, value) in self.roots.iter().zip(values) {
            match root {
                Root::Index(name) => {
                    let index = assemble::read_index(store, &value.root)?;
                    assemble::remember_index(store, &value.root)?;
                    let images = index.images.clone();
                    let index = Some(index);
                    built.images.insert(name.clone(), BuiltImage { index, images });
                }
                Root::Image(name, platform) => {
                    let image = assemble::read_image(store, &value.root)?;
                    assemble::remember_image(store, &value.root)?;
                    let built = built.images.entry(name.clone()).or_insert_with(|| BuiltImage {
                        index: None,
                        images: BTreeMap::new(),
                    });
                    built.images.insert(*platform, image);
                }
                Root::Action(label) => {
                    built.actions.insert(label.clone(), *value);
                }
            }
        }
        Ok(built)
    }
}
