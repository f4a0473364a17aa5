//! One process's bench for a target: a store and a directory, which are made anew before they grow large.

use std::cell::RefCell;

use skep::fuzz::Bench;
use tempfile::TempDir;

/// Inputs for one store.
const INPUTS: u32 = 5000;

struct Place {
    bench: Bench,
    left: u32,
    _directory: TempDir,
}

thread_local! {
    static PLACE: RefCell<Option<Place>> = const { RefCell::new(None) };
}

/// Gives `bytes` to the target called `name`.
pub fn run(name: &str, bytes: &[u8]) {
    PLACE.with_borrow_mut(|place| {
        let place = place.get_or_insert_with(make);
        skep::fuzz::run(name, &place.bench, bytes);
        place.left -= 1;
        if place.left == 0 {
            *place = make();
        }
    });
}

fn make() -> Place {
    let directory = tempfile::tempdir().expect("a directory can be made");
    Place {
        bench: Bench::new(directory.path()),
        left: INPUTS,
        _directory: directory,
    }
}
