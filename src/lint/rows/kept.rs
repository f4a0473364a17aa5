//! What registries keep of the releases that a rollback may go to.

use crate::lint::{Fate, Found, Inputs};

/// Images of kept releases are there, and stay there.
pub(crate) fn retention(inputs: &Inputs<'_>, found: &mut Found<'_>) {
    for kept in inputs.kept.iter().flat_map(|kept| kept.iter()) {
        let Some((newest, older)) = kept.releases.split_first() else {
            continue;
        };
        let release = match older.len() {
            0 => newest.clone(),
            more => format!("{newest} and {more} older"),
        };
        let image = &kept.image;
        let (what, remedy) = match kept.fate {
            Fate::Lost => (
                format!("the registry lost `{image}` of release {release}"),
                "`skep push` of the same revision brings it back; let the registry's cleanup spare what `skep history` has",
            ),
            Fate::Untagged => (
                format!("no tag of the registry means `{image}` of release {release}"),
                "give it one with `skep push --tag` of the same revision, or let the registry's cleanup spare what has none",
            ),
        };
        let services = &inputs.reading.stack.services;
        match services.iter().find(|(_, service)| service.image == kept.name) {
            Some((service, _)) => found.of_service(service, "image", what, remedy),
            None => found.at("", what, remedy),
        }
    }
}
