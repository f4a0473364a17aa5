//! What tests of the supervisor share.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::spec::{Condition, Healthcheck, Order, Restart, ServiceSpec, Test, Update};
use crate::digest::Digest;
use crate::tree::Tree;

/// Milliseconds.
pub(super) fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A spec of which nothing is needed but its image's name.
pub(super) fn spec(image: &str) -> ServiceSpec {
    ServiceSpec {
        image: image.to_owned(),
        root: Tree {
            root: Digest::of(image.as_bytes()),
            metadata: None,
        },
        argv: vec!["/run".to_owned()],
        env: Vec::new(),
        cwd: "/".to_owned(),
        uid: 1000,
        gid: 1000,
        hostname: "{service}-{slot}".to_owned(),
        stop_signal: 15,
        stop_grace: ms(1000),
        mounts: Vec::new(),
        tmpfs: Vec::new(),
        secrets: Vec::new(),
        configs: Vec::new(),
        networks: BTreeMap::from([("front".to_owned(), BTreeSet::from(["alias".to_owned()]))]),
        ports: BTreeMap::from([(8000, 80)]),
        healthcheck: Some(healthcheck()),
        restart: Restart {
            condition: Condition::Any,
            delay: ms(100),
            max_attempts: None,
            window: ms(0),
        },
        update: Update {
            order: Order::StopFirst,
            delay: ms(0),
            monitor: ms(500),
        },
        read_only: false,
        init: false,
        extra_hosts: Vec::new(),
    }
}

/// Every second, three failures after the first one.
pub(super) fn healthcheck() -> Healthcheck {
    Healthcheck {
        test: Test::Argv(vec!["/check".to_owned()]),
        interval: ms(1000),
        timeout: ms(500),
        retries: 3,
        start_period: ms(0),
        start_interval: ms(500),
    }
}
