//! What an engine has of a stack, by its own API and by docker's command line, and the removal of all of it.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use skep_test_support::Peer;

/// Kinds of objects with a version, by what the API calls a list of them.
const KINDS: [&str; 4] = ["services", "networks", "configs", "secrets"];

/// The engine that the tests were given.
#[derive(Clone)]
pub struct Engine {
    /// `unix://…`
    pub address: String,
    socket: String,
}

/// Every object of a stack by kind and name: its id and the index of its version.
pub type Versions = BTreeMap<String, (String, u64)>;

impl Engine {
    pub fn at(address: &str) -> Engine {
        Engine {
            address: address.to_owned(),
            socket: address.strip_prefix("unix://").expect(address).to_owned(),
        }
    }

    /// Status and body of the answer to a request without a body.
    fn ask(&self, method: &str, path: &str) -> std::io::Result<(u16, Value)> {
        let (status, body) = Peer::unix(&self.socket)?.ask(method, &format!("/v1.41/{path}"), &[], "")?;
        Ok((status, serde_json::from_str(&body).unwrap_or_default()))
    }

    /// What is at a path of the API.
    #[track_caller]
    pub fn get(&self, path: &str) -> Value {
        let (status, body) = self.ask("GET", path).unwrap();
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    /// Objects of a kind whose name begins with that of the stack.
    pub fn objects(&self, kind: &str, stack: &str) -> Vec<Value> {
        let all = self.get(kind);
        let begins = |object: &&Value| {
            let rest = name(object).strip_prefix(stack);
            rest.is_some_and(|rest| rest.starts_with(['_', '.']))
        };
        let all = all.as_array().cloned().unwrap_or_default();
        all.iter().filter(begins).cloned().collect()
    }

    /// Everything that a stack has, with its version. Networks have none: their id changes.
    pub fn versions(&self, stack: &str) -> Versions {
        let mut versions = Versions::new();
        for kind in KINDS {
            for object in self.objects(kind, stack) {
                let index = object["Version"]["Index"].as_u64().unwrap_or_default();
                let id = id(&object).to_owned();
                versions.insert(format!("{kind} {}", name(&object)), (id, index));
            }
        }
        versions
    }

    /// What services are told to be, by their names.
    pub fn specs(&self, stack: &str) -> BTreeMap<String, Value> {
        let services = self.objects("services", stack);
        services
            .into_iter()
            .map(|service| (name(&service).to_owned(), service["Spec"].clone()))
            .collect()
    }

    /// Tasks of a service that are to run, by their ids, with their states.
    pub fn tasks(&self, service: &str) -> BTreeMap<String, String> {
        let all = self.every_task(service);
        all.iter()
            .filter(|task| task["DesiredState"] == "running")
            .map(|task| (id(task).to_owned(), text(&task["Status"]["State"])))
            .collect()
    }

    /// Every task of a service that the engine remembers.
    pub fn every_task(&self, service: &str) -> Vec<Value> {
        let filters = format!("%7B%22service%22:%5B%22{service}%22%5D%7D");
        let tasks = self.ask("GET", &format!("tasks?filters={filters}"));
        // One that it does not know has none.
        let (_, tasks) = tasks.unwrap();
        tasks.as_array().cloned().unwrap_or_default()
    }

    /// The output of docker's own program, which is told where the engine is.
    #[track_caller]
    pub fn docker(&self, arguments: &[&str]) -> String {
        let output = Command::new("docker")
            .args(["--host", &self.address])
            .args(arguments)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "docker {arguments:?}: {said}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Removes all of a stack, as far as the engine answers. A network goes when the last container has left it.
    pub fn remove(&self, stack: &str) {
        if self.ask("GET", "_ping").is_err() {
            return;
        }
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            for kind in KINDS {
                for object in self.objects(kind, stack) {
                    let _ = self.ask("DELETE", &format!("{kind}/{}", id(&object)));
                }
            }
            if self.versions(stack).is_empty() || Instant::now() > deadline {
                return;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

/// An object's name, wherever its kind has it.
pub fn name(object: &Value) -> &str {
    let name = object["Spec"]["Name"].as_str();
    name.or(object["Name"].as_str()).unwrap_or_default()
}

fn id(object: &Value) -> &str {
    let id = object["ID"].as_str();
    id.or(object["Id"].as_str()).unwrap_or_default()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
