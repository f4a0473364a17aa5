//! The example, whole: built twice from nothing on machines that differ in everything that may differ, then
//! exported, validated, run on both architectures, changed, and released to a preview and to a Swarm.
//!
//! It takes minutes and the network, so it runs where `SKEP_TEST_REAL` says that real servers are there.

mod changes;
mod checkout;
mod gocache;
mod gomodule;
mod machine;
mod preview;
mod production;
mod push;
mod run;
mod servers;
mod swarm;

use std::collections::BTreeMap;
use std::sync::OnceLock;

use checkout::Checkout;
use skep_test_support::is_real;

const IMAGES: [&str; 5] = ["admin", "api", "postgres", "redis", "worker"];
const PLATFORMS: [&str; 2] = ["linux/amd64", "linux/arm64"];

/// The example as two machines have built it.
struct Fixture {
    /// As the user that runs the tests, two actions at one time.
    one: Checkout,
    /// As another user if the tests run as root; elsewhere, one action at a time, in another time zone and so on.
    other: Checkout,
}

/// Whether these tests run here.
fn is_wanted() -> bool {
    let wanted = is_real();
    if !wanted {
        eprintln!(
            "skipped: builds the example from nothing, which takes minutes and servers; tests/run does it"
        );
    }
    wanted
}

fn fixture() -> &'static Fixture {
    static FIXTURE: OnceLock<Fixture> = OnceLock::new();
    FIXTURE.get_or_init(|| {
        let one = Checkout::new(&[("TZ", "UTC"), ("LANG", "C")], "022", false);
        let other = Checkout::new(
            &[("TZ", "Asia/Kathmandu"), ("LANG", "tr_TR.UTF-8"), ("USER", "x")],
            "077",
            true,
        );
        std::thread::scope(|scope| {
            scope.spawn(|| one.build(&["--jobs", "2"]));
            scope.spawn(|| other.build(&["--jobs", "1"]));
        });
        Fixture { one, other }
    })
}

#[test]
fn two_machines_end_with_the_same_digests() {
    if !is_wanted() {
        return;
    }
    let digests = |checkout: &Checkout| -> BTreeMap<String, String> {
        let report = checkout.report();
        let images = report["images"].as_object().unwrap();
        let mut digests = BTreeMap::new();
        for (name, image) in images {
            digests.insert(name.clone(), image["digest"].to_string());
            for (platform, image) in image["platforms"].as_object().unwrap() {
                digests.insert(format!("{name}@{platform}"), image["digest"].to_string());
            }
        }
        digests
    };
    let one = digests(&fixture().one);
    assert_eq!(one, digests(&fixture().other));
    assert_eq!(one.len(), IMAGES.len() * (1 + PLATFORMS.len()));
}
