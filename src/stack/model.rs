//! What a stack file says, in types: data only, the same for every target.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::deploy::Deploy;
use super::quantity::Span;
use super::word::words;

/// `x-…` keys and their values: kept, and read by nobody here.
pub type Extensions = BTreeMap<String, Value>;

/// A stack. Two files that mean the same are equal, and give the same JSON.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stack {
    /// At least one.
    pub services: BTreeMap<String, Service>,
    /// Without the one named `default`, unless the file configures it.
    pub networks: BTreeMap<String, Network>,
    /// Named volumes.
    pub volumes: BTreeMap<String, Volume>,
    /// What services see below `/run/secrets`.
    pub secrets: BTreeMap<String, FileObject>,
    /// What services see as files that are no secret.
    pub configs: BTreeMap<String, FileObject>,
    /// At the top of the file.
    pub extensions: Extensions,
}

/// One service. What is empty or `None` is as the image, or the target, has it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// A target of the recipes, or a reference. Never empty.
    pub image: String,
    /// Arguments; they replace the image's.
    pub command: Vec<String>,
    /// Replaces the image's.
    pub entrypoint: Vec<String>,
    /// From `env_file` and `environment`, which goes before it.
    pub environment: BTreeMap<String, String>,
    /// The files that `environment` was filled from, as written.
    pub env_file: Vec<String>,
    /// Published ports: ranges are taken apart, so there is one entry for each.
    pub ports: Vec<Port>,
    /// Ports that other services reach, such as `8000` or `8000-8010/udp`. They are so anyway.
    pub expose: Vec<String>,
    /// Networks by name; empty for `default` alone.
    pub networks: BTreeMap<String, Attachment>,
    /// No two have the same target.
    pub volumes: Vec<Mount>,
    /// From `tmpfs`, in short form.
    pub tmpfs: Vec<Tmpfs>,
    /// By name at the top of the file.
    pub secrets: Vec<Grant>,
    /// By name at the top of the file.
    pub configs: Vec<Grant>,
    /// `None` is what the image says.
    pub healthcheck: Option<HealthCheck>,
    /// How it runs.
    pub deploy: Deploy,
    /// What has to be there before it, which Swarm does not look at.
    pub depends_on: BTreeMap<String, Condition>,
    /// Of the containers; those of the service are in `deploy`.
    pub labels: BTreeMap<String, String>,
    /// Where its output goes.
    pub logging: Option<Logging>,
    /// From the stop signal to the kill.
    pub stop_grace_period: Option<Span>,
    /// Such as `SIGTERM`.
    pub stop_signal: Option<String>,
    /// `user`, `uid`, or either with `:group`.
    pub user: Option<String>,
    /// Absolute.
    pub working_dir: Option<String>,
    /// The container's own.
    pub hostname: Option<String>,
    /// Whether an init process runs as pid 1.
    pub init: Option<bool>,
    /// Whether the root file system is.
    pub read_only: bool,
    /// Whether it gets a terminal.
    pub tty: bool,
    /// Whether its input stays open.
    pub stdin_open: bool,
    /// Capabilities beyond the default ones.
    pub cap_add: Vec<String>,
    /// Default capabilities that it does without.
    pub cap_drop: Vec<String>,
    /// Kernel parameters of its namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// Limits by name, such as `nofile`.
    pub ulimits: BTreeMap<String, Limit>,
    /// Between -1000 and 1000.
    pub oom_score_adj: Option<i64>,
    /// Additional lines of `/etc/hosts`, in order.
    pub extra_hosts: Vec<Host>,
    /// Name servers, which are IP addresses.
    pub dns: Vec<String>,
    /// Domains that are searched.
    pub dns_search: Vec<String>,
    /// Of Windows.
    pub isolation: Option<String>,
    /// Of Windows.
    pub credential_spec: Option<CredentialSpec>,
    /// In the service.
    pub extensions: Extensions,
}

words! {
    /// What a port speaks.
    pub enum Protocol {
        #[default] Tcp = "tcp",
        Udp = "udp",
        Sctp = "sctp",
    }
}

words! {
    /// Where a published port listens.
    pub enum PortMode {
        /// On every node.
        #[default] Ingress = "ingress",
        /// On the node of the task.
        Host = "host",
    }
}

/// A published port.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// The container's, from 1.
    pub target: u16,
    /// The outer one, from 1; `None` leaves the choice to the target.
    pub published: Option<u16>,
    /// `tcp` unless the file says otherwise.
    pub protocol: Protocol,
    /// `ingress` unless the file says otherwise.
    pub mode: PortMode,
    /// The address that it listens on, for targets that can.
    pub host_ip: Option<String>,
}

/// A service on a network.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attachment {
    /// Further names of the service there.
    pub aliases: Vec<String>,
    /// For the network's driver.
    pub driver_opts: BTreeMap<String, String>,
}

/// Something mounted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mount {
    /// What.
    pub source: MountSource,
    /// Absolute, in the container.
    pub target: String,
    /// Whether it cannot be written.
    pub read_only: bool,
}

/// What is mounted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum MountSource {
    /// A volume.
    Volume {
        /// Its name at the top of the file; `None` for a new one that nobody else sees.
        name: Option<String>,
        /// Whether a new one stays empty, where it would get what the image has there.
        nocopy: bool,
        /// A directory of it.
        subpath: Option<String>,
    },
    /// A file or directory of the node.
    Bind {
        /// Absolute, or relative to the stack file's directory, as written.
        path: String,
        /// Such as `rslave`.
        propagation: Option<Propagation>,
    },
    /// Memory.
    Tmpfs {
        /// At most, in bytes.
        size: Option<u64>,
    },
}

words! {
    /// How mounts below a bind are seen on the other side.
    pub enum Propagation {
        #[default] Rprivate = "rprivate",
        Private = "private",
        Rshared = "rshared",
        Shared = "shared",
        Rslave = "rslave",
        Slave = "slave",
    }
}

/// A file system in memory, from `tmpfs`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tmpfs {
    /// Absolute.
    pub target: String,
    /// At most, in bytes.
    pub size: Option<u64>,
    /// Of its root.
    pub mode: Option<u32>,
}

/// A secret or config that a service sees.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// Its name at the top of the file.
    pub source: String,
    /// The file's name below `/run/secrets` (a config's: below `/`), or an absolute path; `None` is `source`.
    pub target: Option<String>,
    /// A number; `None` is 0.
    pub uid: Option<String>,
    /// A number; `None` is 0.
    pub gid: Option<String>,
    /// At most 0o7777; `None` is 0o444.
    pub mode: Option<u32>,
}

/// How a service's health is asked. Each `None` is what the image says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HealthCheck {
    /// What is run.
    pub test: Option<HealthTest>,
    /// Between two runs.
    pub interval: Option<Span>,
    /// The longest run.
    pub timeout: Option<Span>,
    /// Failures in a row that make it unhealthy.
    pub retries: Option<u64>,
    /// How long failures do not count.
    pub start_period: Option<Span>,
    /// Between two runs in the start period.
    pub start_interval: Option<Span>,
}

/// What a health check runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HealthTest {
    /// Nothing, even if the image says something: `disable`, or `[NONE]`.
    Disabled,
    /// A program and its arguments.
    Command(Vec<String>),
    /// A line for the image's shell.
    Shell(String),
}

words! {
    /// What is awaited of another service.
    pub enum Condition {
        #[default] Started = "service_started",
        Healthy = "service_healthy",
        Completed = "service_completed_successfully",
    }
}

/// Where output goes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Logging {
    /// `None` is the target's.
    pub driver: Option<String>,
    /// For the driver.
    pub options: BTreeMap<String, String>,
}

/// A resource limit; -1 is none.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    /// What holds.
    pub soft: i64,
    /// How far a process may raise it.
    pub hard: i64,
}

/// A name and its address.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// The name.
    pub name: String,
    /// An IP address, or `host-gateway`.
    pub address: String,
}

/// Where a credential specification of Windows is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CredentialSpec {
    /// A config, by name at the top of the file.
    Config(String),
    /// A file of the engine's.
    File(String),
    /// A key of the registry.
    Registry(String),
}

/// A network.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// Its name on the target, if it is not made of the stack's.
    pub name: Option<String>,
    /// Whether it is there already, and left alone.
    pub external: bool,
    /// Such as `overlay`.
    pub driver: Option<String>,
    /// For the driver: `encrypted` among them.
    pub driver_opts: BTreeMap<String, String>,
    /// Whether there is no way out.
    pub internal: bool,
    /// Whether containers outside of the stack may join.
    pub attachable: bool,
    /// The driver of addresses.
    pub ipam_driver: Option<String>,
    /// Such as `10.1.0.0/24`.
    pub subnets: Vec<String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// In the network.
    pub extensions: Extensions,
}

/// A volume.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Volume {
    /// Its name on the target, if it is not made of the stack's.
    pub name: Option<String>,
    /// Whether it is there already, and left alone.
    pub external: bool,
    /// `None` is a directory of the node.
    pub driver: Option<String>,
    /// For the driver.
    pub driver_opts: BTreeMap<String, String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// In the volume.
    pub extensions: Extensions,
}

/// A secret or a config.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileObject {
    /// Its name on the target, if it is not made of the stack's.
    pub name: Option<String>,
    /// Where its content is.
    pub content: Content,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The engine's template language in the content, such as `golang`.
    pub template_driver: Option<String>,
    /// In the secret or config.
    pub extensions: Extensions,
}

/// Where the content of a secret or config is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Content {
    /// On the target already.
    External,
    /// In a file: absolute, or relative to the stack file's directory, as written.
    File(String),
    /// With a driver of secrets.
    Driver {
        /// Its name.
        name: String,
        /// For it.
        options: BTreeMap<String, String>,
    },
}
