//! The lints, one row each. What a row finds is in `rows`; docs/lints.md is this table for people, and a test compares
//! the two.

use super::Level::{Block, Warn};
use super::rows::{attest, counts, environment, files, nodes, outside, secrets, service};
use super::{Level, Lint};

const ALWAYS: Option<Level> = Some(Block);
const WARNS: Option<Level> = Some(Warn);
const NEVER: Option<Level> = None;

/// Every lint there is.
pub static LINTS: &[Lint] = &[
    Lint {
        name: "singleton",
        reason: "a scheduler that ran twice during an update sent every message twice",
        preview: ALWAYS,
        swarm: ALWAYS,
        check: counts::singleton,
    },
    Lint {
        name: "connection-budget",
        reason: "replicas that overlap during an update opened more connections than the database has",
        preview: ALWAYS,
        swarm: ALWAYS,
        check: counts::connections,
    },
    Lint {
        name: "local-volume",
        reason: "files that one replica stored were not found by those on other nodes",
        preview: NEVER,
        swarm: ALWAYS,
        check: counts::local_volume,
    },
    Lint {
        name: "together",
        reason: "with half of its settings, a program silently fell back to something else",
        preview: ALWAYS,
        swarm: ALWAYS,
        check: environment::together,
    },
    Lint {
        name: "at-most",
        reason: "connections that outlived the server's patience were dropped in mid-request",
        preview: ALWAYS,
        swarm: ALWAYS,
        check: environment::at_most,
    },
    Lint {
        name: "sslmode",
        reason: "a weak mode goes on in the clear when somebody in between says that TLS is not to be had",
        preview: NEVER,
        swarm: ALWAYS,
        check: environment::sslmode,
    },
    Lint {
        name: "migrate-pooler",
        reason: "advisory locks and session state fail silently behind a pooler in transaction mode",
        preview: ALWAYS,
        swarm: ALWAYS,
        check: environment::migrate_pooler,
    },
    Lint {
        name: "plain-http-endpoint",
        reason: "keys and files went over the network for everybody to read",
        preview: WARNS,
        swarm: ALWAYS,
        check: environment::plain_http_endpoint,
    },
    Lint {
        name: "plain-secret",
        reason: "whoever may look at a service, its image or the stack file reads what is in its environment",
        preview: WARNS,
        swarm: ALWAYS,
        check: secrets::plain,
    },
    Lint {
        name: "tracked-secret",
        reason: "what was committed once is in every clone for good",
        preview: ALWAYS,
        swarm: ALWAYS,
        check: secrets::tracked,
    },
    Lint {
        name: "untracked-file",
        reason: "an ignore rule hid files that a release needs, and another clone released something else",
        preview: WARNS,
        swarm: ALWAYS,
        check: files::untracked,
    },
    Lint {
        name: "unread-variable",
        reason: "a setting that nothing reads is a typing error or a lost wire",
        preview: WARNS,
        swarm: ALWAYS,
        check: files::unread_variable,
    },
    Lint {
        name: "mutable-image",
        reason: "a tag that was pushed again ran as the old image on some nodes, and as the new one on others",
        preview: ALWAYS,
        swarm: ALWAYS,
        check: service::mutable_image,
    },
    Lint {
        name: "docker-socket",
        reason: "whoever reaches a service with the engine's socket owns the node",
        preview: ALWAYS,
        swarm: ALWAYS,
        check: service::docker_socket,
    },
    Lint {
        name: "health-check",
        reason: "without a check, a release that does not work is rolled out to the last replica",
        preview: WARNS,
        swarm: ALWAYS,
        check: service::health_check,
    },
    Lint {
        name: "probe-budget",
        reason: "a boot that took longer than its health check waits was killed again and again",
        preview: ALWAYS,
        swarm: ALWAYS,
        check: service::probe_budget,
    },
    Lint {
        name: "port-address",
        reason: "a port that was meant for loopback alone listened to everybody",
        preview: NEVER,
        swarm: ALWAYS,
        check: service::port_address,
    },
    Lint {
        name: "encrypted-network",
        reason: "what services say to each other crosses other people's networks",
        preview: NEVER,
        swarm: ALWAYS,
        check: service::encrypted_network,
    },
    Lint {
        name: "memory-limit",
        reason: "one service that grew without a limit took its neighbours with it",
        preview: NEVER,
        swarm: ALWAYS,
        check: service::memory_limit,
    },
    Lint {
        name: "stop-grace",
        reason: "requests and jobs were cut off ten seconds after the signal to stop",
        preview: NEVER,
        swarm: ALWAYS,
        check: service::stop_grace,
    },
    Lint {
        name: "platforms",
        reason: "an image that lacked a node's architecture ended at once wherever it came there",
        preview: NEVER,
        swarm: ALWAYS,
        check: nodes::platforms,
    },
    Lint {
        name: "unschedulable",
        reason: "replicas for which there was no node waited until the rollout's time was up",
        preview: NEVER,
        swarm: ALWAYS,
        check: nodes::unschedulable,
    },
    Lint {
        name: "port-deadlock",
        reason: "an update stood still, for the old replica went only when the new one was ready",
        preview: NEVER,
        swarm: ALWAYS,
        check: nodes::port_deadlock,
    },
    Lint {
        name: "single-copy",
        reason: "a node that was lost, or that a service left, took the only copy of its data with it",
        preview: NEVER,
        swarm: WARNS,
        check: counts::single_copy,
    },
    Lint {
        name: "update-gap",
        reason: "requests failed with every release of a service that was small",
        preview: NEVER,
        swarm: WARNS,
        check: counts::update_gap,
    },
    Lint {
        name: "attestation",
        reason: "a backup that nobody had tried to restore for a year could not be restored",
        preview: NEVER,
        swarm: WARNS,
        check: attest::attestation,
    },
    Lint {
        name: "pull-credentials",
        reason: "a token of a day let a node pull while it rolled, and not when it had to start a replica again",
        preview: NEVER,
        swarm: WARNS,
        check: attest::pull_credentials,
    },
    Lint {
        name: "manager-ssh",
        reason: "whoever gets into a manager has every secret and every node",
        preview: NEVER,
        swarm: WARNS,
        check: outside::manager_ssh,
    },
    Lint {
        name: "node-ports",
        reason: "a node that takes strangers for nodes may be joined, listened to or told what to run",
        preview: NEVER,
        swarm: WARNS,
        check: outside::node_ports,
    },
    Lint {
        name: "past-the-edge",
        reason: "whoever finds the nodes comes past whatever the edge keeps away",
        preview: NEVER,
        swarm: WARNS,
        check: outside::past_the_edge,
    },
];
