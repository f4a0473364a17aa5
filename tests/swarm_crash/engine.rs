//! The engine as the tests see it, through docker's own command: what is there, without skep's having a say.

use std::process::Command;

use serde_json::Value;
use skep_test_support::{Answer, Peer, until, variable};

/// An engine's socket.
#[derive(Clone)]
pub struct Docker {
    host: String,
}

/// The servers that a test needs, or `None` where it may do without: then it says that it skips.
pub fn servers() -> Option<(Docker, String)> {
    let host = variable("SKEP_TEST_DOCKER")?;
    Some((Docker::new(&host), variable("SKEP_TEST_REGISTRY")?))
}

impl Docker {
    pub fn new(host: &str) -> Docker {
        Docker {
            host: host.to_owned(),
        }
    }

    pub fn host(&self) -> &str {
        &self.host
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command.arg("--host").arg(&self.host).args(arguments);
        command
    }

    /// The output, or what was said instead.
    pub fn ask(&self, arguments: &[&str]) -> Result<String, String> {
        let output = self.command(arguments).output().expect("docker runs");
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    #[track_caller]
    pub fn say(&self, arguments: &[&str]) -> String {
        self.ask(arguments)
            .unwrap_or_else(|said| panic!("docker {arguments:?}: {said}"))
    }

    fn words(&self, arguments: &[&str]) -> Vec<String> {
        let output = self.say(arguments);
        output.split_whitespace().map(str::to_owned).collect()
    }

    /// The services of a stack, those that run once among them, by their names.
    #[track_caller]
    pub fn services(&self, stack: &str) -> Vec<Value> {
        let label = format!("com.docker.stack.namespace={stack}");
        let mut services = self.list("services", "label", &label);
        services.sort_by_key(|service| service["Spec"]["Name"].to_string());
        services
    }

    /// The tasks of a service, those that are over among them.
    #[track_caller]
    pub fn tasks(&self, service: &str) -> Vec<Value> {
        self.list("tasks", "service", service)
    }

    /// As the engine has it: docker's command would add defaults.
    #[track_caller]
    fn list(&self, what: &str, filter: &str, value: &str) -> Vec<Value> {
        let filters = serde_json::json!({ filter: [value] }).to_string();
        let filters: String = filters.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let (status, body) = self.request("GET", &format!("/{what}?filters={filters}"), "");
        assert_eq!(status, 200, "{what}: {body}");
        serde_json::from_str(&body).unwrap()
    }

    /// Labels of the config that holds what skep knows of a stack.
    pub fn state(&self, stack: &str) -> Value {
        match self.ask(&["config", "inspect", &format!("{stack}.skep")]) {
            Ok(json) => serde_json::from_str::<Value>(&json).unwrap()[0]["Spec"]["Labels"].take(),
            Err(_) => Value::Null,
        }
    }

    /// Changes the labels of that config, as another machine would.
    pub fn set_state(&self, stack: &str, edit: impl Fn(&mut Value)) {
        for _ in 0..20 {
            let json = self.say(&["config", "inspect", &format!("{stack}.skep")]);
            let config = &serde_json::from_str::<Value>(&json).unwrap()[0];
            let mut spec = config["Spec"].clone();
            edit(&mut spec["Labels"]);
            let path = format!(
                "/configs/{}/update?version={}",
                config["ID"].as_str().unwrap(),
                config["Version"]["Index"]
            );
            // Docker's command cannot change a config.
            if self.request("POST", &path, &spec.to_string()).0 == 200 {
                return;
            }
        }
        panic!("the state of {stack} could not be changed");
    }

    /// The engine's own answer.
    fn request(&self, method: &str, path: &str, body: &str) -> Answer {
        let socket = self.host.strip_prefix("unix://").unwrap();
        let head = [("Content-Type", "application/json")];
        Peer::unix(socket)
            .and_then(|engine| engine.ask(method, path, &head, body))
            .unwrap()
    }

    /// Removes everything of a stack, and what skep knows of it.
    pub fn clear(&self, stack: &str) {
        let _ = self.ask(&["stack", "rm", stack]);
        let configs = self.words(&[
            "config",
            "ls",
            "-q",
            "--filter",
            &format!("label=skep.stack={stack}"),
        ]);
        for config in configs {
            let _ = self.ask(&["config", "rm", &config]);
        }
    }

    /// Waits until nothing of a stack runs.
    pub fn await_clear(&self, stack: &str) {
        let label = format!("label=com.docker.stack.namespace={stack}");
        until("the containers are gone", || {
            self.words(&["ps", "-aq", "--filter", &label]).is_empty()
        });
        until("the network is gone", || {
            let networks = self.words(&["network", "ls", "-q", "--filter", &label]);
            for network in &networks {
                let _ = self.ask(&["network", "rm", network]);
            }
            networks.is_empty()
        });
    }
}
