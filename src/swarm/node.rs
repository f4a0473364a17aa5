//! The nodes of a Swarm: what each is, and whether a constraint of a stack file lets a service onto it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use bollard::models;

/// A node of a swarm.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// The engine's id of it.
    pub id: String,
    /// Its host name, or its id.
    pub name: String,
    /// Where other nodes reach it.
    pub address: Option<IpAddr>,
    /// As the engine says it, such as `linux`.
    pub os: String,
    /// As the engine says it, such as `x86_64` or `aarch64`.
    pub arch: String,
    /// Labels of the node.
    pub labels: BTreeMap<String, String>,
    /// Labels of its engine.
    pub engine_labels: BTreeMap<String, String>,
    /// Whether it is a manager.
    pub manager: bool,
    /// Whether it answers.
    pub ready: bool,
    /// Whether it takes no tasks.
    pub drained: bool,
}

impl From<&models::Node> for Node {
    fn from(node: &models::Node) -> Node {
        let node = node.clone();
        let spec = node.spec.unwrap_or_default();
        let about = node.description.unwrap_or_default();
        let platform = about.platform.unwrap_or_default();
        let engine = about.engine.and_then(|engine| engine.labels);
        let status = node.status.unwrap_or_default();
        let id = node.id.unwrap_or_default();
        Node {
            name: about.hostname.unwrap_or_else(|| id.clone()),
            id,
            address: status.addr.and_then(|address| address.parse().ok()),
            os: platform.os.unwrap_or_default(),
            arch: platform.architecture.unwrap_or_default(),
            labels: spec.labels.unwrap_or_default().into_iter().collect(),
            engine_labels: engine.unwrap_or_default().into_iter().collect(),
            manager: spec.role == Some(models::NodeSpecRoleEnum::MANAGER),
            ready: status.state == Some(models::NodeState::READY),
            drained: spec.availability != Some(models::NodeSpecAvailabilityEnum::ACTIVE),
        }
    }
}

impl Node {
    /// The platform in OCI's words, such as `linux/amd64`.
    pub fn platform(&self) -> String {
        let arch = match self.arch.as_str() {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "armv7l" | "armv6l" => "arm",
            "i386" | "i686" => "386",
            other => other,
        };
        format!("{}/{arch}", self.os)
    }

    /// Whether tasks of a service with these constraints may come here. What is not understood keeps none away.
    pub fn takes(&self, constraints: &[String]) -> bool {
        let holds = |constraint: &String| self.holds(constraint).unwrap_or(true);
        self.ready && !self.drained && constraints.iter().all(holds)
    }

    /// Whether a constraint such as `node.labels.disk == ssd` holds, as the engine has it: letters' case does not count
    /// in values, and a label that is not there is empty. `None` if it is not understood.
    fn holds(&self, constraint: &str) -> Option<bool> {
        let (key, wanted, equal) = match (constraint.split_once("!="), constraint.split_once("==")) {
            (Some((key, value)), _) => (key.trim(), value.trim(), false),
            (None, Some((key, value))) => (key.trim(), value.trim(), true),
            (None, None) => return None,
        };
        let label =
            |labels: &BTreeMap<String, String>, name: &str| labels.get(name).cloned().unwrap_or_default();
        let lower = key.to_ascii_lowercase();
        let has = match lower.as_str() {
            "node.id" => self.id.clone(),
            "node.hostname" => self.name.clone(),
            "node.role" if self.manager => "manager".to_owned(),
            "node.role" => "worker".to_owned(),
            "node.platform.os" => self.os.clone(),
            "node.platform.arch" => self.arch.clone(),
            _ if lower.starts_with("node.labels.") => label(&self.labels, &key["node.labels.".len()..]),
            _ if lower.starts_with("engine.labels.") => {
                label(&self.engine_labels, &key["engine.labels.".len()..])
            }
            _ => return None,
        };
        Some(has.eq_ignore_ascii_case(wanted) == equal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constraints_are_judged_as_the_engine_does() {
        let node = Node {
            id: "n1".to_owned(),
            name: "one".to_owned(),
            address: None,
            os: "linux".to_owned(),
            arch: "aarch64".to_owned(),
            labels: [("Disk".to_owned(), "ssd".to_owned())].into(),
            engine_labels: [("zone".to_owned(), "a".to_owned())].into(),
            manager: true,
            ready: true,
            drained: false,
        };
        assert_eq!(node.platform(), "linux/arm64");
        for (constraint, expected) in [
            ("node.hostname==one", true),
            ("node.hostname == ONE", true),
            ("node.hostname!=one", false),
            ("node.id==n1", true),
            ("node.role==manager", true),
            ("node.role == worker", false),
            ("node.role!=worker", true),
            ("node.labels.Disk==ssd", true),
            ("node.labels.disk==ssd", false),
            ("node.labels.other!=x", true),
            ("engine.labels.zone==b", false),
            ("node.platform.arch==aarch64", true),
            ("node.platform.os==windows", false),
            ("node.ip==10.0.0.1", true),
        ] {
            assert_eq!(node.takes(&[constraint.to_owned()]), expected, "{constraint}");
        }
        assert!(!node.takes(&["node.id==n1".to_owned(), "node.role==worker".to_owned()]));
        let drained = Node {
            drained: true,
            ..node.clone()
        };
        let away = Node { ready: false, ..node };
        assert!(!drained.takes(&[]) && !away.takes(&[]));
    }
}
