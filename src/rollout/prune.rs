//! Forgets what no kept release needs: the last step of a rollout that succeeded, and never an earlier one.

use std::collections::BTreeSet;

use super::target::{Error, Kind, Target};
use crate::release::Version;

/// Keeps the newest `keep` releases that ran, whatever is newer than the oldest of them, and every version that they
/// or the running services name.
pub(super) fn prune(target: &dyn Target, keep: usize) -> Result<(), Error> {
    let history = target.history()?;
    let mut good = 0;
    let mut kept = Vec::new();
    for record in &history {
        if good < keep.max(1) {
            good += usize::from(record.outcome.succeeded());
            kept.push(record);
        } else {
            target.forget(&record.release.id)?;
        }
    }
    let names = |kind| -> BTreeSet<&str> {
        let versions = kept.iter().flat_map(|record| match kind {
            Kind::Secret => record.release.secrets.values(),
            Kind::Config => record.release.configs.values(),
        });
        versions.map(Version::as_str).collect()
    };
    let observed = target.observe()?;
    for (kind, there) in [
        (Kind::Secret, &observed.secrets),
        (Kind::Config, &observed.configs),
    ] {
        let needed = names(kind);
        for name in there.iter().filter(|name| !needed.contains(name.as_str())) {
            target.delete(kind, &Version::of(name))?;
        }
    }
    Ok(())
}
