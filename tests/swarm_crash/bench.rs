//! A project in a directory of its own, a stack of its own on the Swarm, and `skep` run on it.

use std::fs;
use std::ops::Deref;
use std::path::PathBuf;
use std::time::SystemTime;

use serde_json::Value;
use skep_test_support::{Project, until};

use super::engine::Docker;
use super::image::{SCRIPTS, STACK};

/// A project and its stack, which is removed when this is dropped.
pub struct Bench {
    project: Project,
    pub docker: Docker,
    pub stack: String,
    registry: String,
    /// References of the images `a` and `b`.
    images: [String; 2],
}

impl Deref for Bench {
    type Target = Project;

    fn deref(&self) -> &Project {
        &self.project
    }
}

/// What one release is in all its parts, as the engine has it.
#[derive(Debug, PartialEq, Eq)]
pub struct Runs {
    pub version: String,
    /// The release, as `skep status` names it.
    pub release: String,
}

impl Bench {
    pub fn new((docker, registry): (Docker, String), stack: &str) -> Bench {
        Bench::around(docker, &registry, stack, &[])
    }

    /// The same with every `skep` run by another program.
    pub fn around(docker: Docker, registry: &str, stack: &str, around: &[String]) -> Bench {
        docker.clear(stack);
        docker.await_clear(stack);
        let mut project = Project::new(env!("CARGO_BIN_EXE_skep"));
        project.argv.splice(..0, around.iter().cloned());
        let mut bench = Bench {
            project,
            docker,
            stack: stack.to_owned(),
            registry: registry.to_owned(),
            images: Default::default(),
        };
        bench.add_images(&["a", "b"], &SCRIPTS);
        bench.configure("");
        bench.write("stack.yml", STACK);
        fs::create_dir(bench.written()).unwrap();
        // A tag is never moved, and the registry may know an earlier run.
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let pushed = bench.json(&["push", "--tag", &now.as_nanos().to_string()]);
        bench.images = ["a", "b"].map(|name| {
            let image = &pushed["pushed"][name];
            let of = |key: &str| {
                image[key]
                    .as_str()
                    .unwrap_or_else(|| panic!("no {key}: {pushed}"))
            };
            format!("{}@{}", of("repository"), of("digest"))
        });
        bench.set("BENCH", &bench.written().display().to_string());
        bench
    }

    /// What containers write is in here.
    pub fn written(&self) -> PathBuf {
        self.beside("written")
    }

    /// Writes skep.toml, with `lines` in the environment's table.
    pub fn configure(&self, lines: &str) {
        let (stack, registry, host) = (&self.stack, &self.registry, self.docker.host());
        self.write(
            "skep.toml",
            &format!(
                "[project]\nname = \"{stack}\"\nimages = \"{registry}/{stack}/{{name}}\"\n\n\
                 [environments.prod]\ntarget = \"swarm\"\nstack = \"stack.yml\"\nmanagers = [\"{host}\"]\n\
                 patience = \"2s\"\ntimeout = \"60s\"\n{lines}\n\n\
                 [environments.prod.rules]\nsingletons = [\"worker\"]\n\n\
                 [environments.prod.secrets]\ntoken = {{ env = \"TOKEN\" }}\n\n\
                 [[environments.prod.allow]]\nlint = \"health-check\"\nreason = \"it serves nothing\"\n\
                 until = 2099-12-31\n"
            ),
        );
    }

    /// What later runs roll out: settings, a secret and an image that belong to `version`.
    pub fn wants(&self, version: u32) {
        self.set("VERSION", &version.to_string());
        self.set("TOKEN", &token(version));
        self.set("IMAGE", self.image_of(version));
        self.write("settings.txt", &format!("settings of {version}"));
    }

    fn image_of(&self, version: u32) -> &str {
        &self.images[version as usize % 2]
    }

    pub fn image(&self, index: usize) -> &str {
        &self.images[index]
    }

    /// Rolls a version out, and gives what runs then.
    #[track_caller]
    pub fn rollout(&self, version: u32) -> Runs {
        self.wants(version);
        self.succeed(&["rollout", "prod"]);
        let runs = self.one_release();
        assert_eq!(runs.version, version.to_string());
        runs
    }

    /// The services of the stack that are not tasks which ran once.
    pub fn services(&self) -> Vec<Value> {
        let mut services = self.docker.services(&self.stack);
        services.retain(|service| service["Spec"]["Labels"]["skep.task"].is_null());
        services
    }

    /// What runs, after making sure that it is one release in all its parts, that all of it runs, and that neither a
    /// rollout nor a lock is left.
    #[track_caller]
    pub fn one_release(&self) -> Runs {
        self.one_release_below(0)
    }

    /// The same, where `pending` rollouts were killed after their record was written and before their journal was: they did
    /// nothing, and their records say that they did not end.
    #[track_caller]
    pub fn one_release_below(&self, pending: usize) -> Runs {
        let state = self.docker.state(&self.stack);
        assert!(state["skep.lock"].is_null(), "a lock is left: {state}");
        assert!(state["skep.journal"].is_null(), "a journal is left: {state}");
        let history = self.json(&["history", "prod"]);
        let (above, newest) = (&history.as_array().unwrap()[..pending], &history[pending]);
        let did_not_end = |record: &Value| record["outcome"]["state"] == "pending";
        assert!(above.iter().all(did_not_end), "{history}");
        let status = self.json(&["status", "prod"]);
        assert_eq!(newest["outcome"]["state"], "succeeded", "{history}");
        assert_eq!(newest["release"]["id"], status["release"], "{history}");
        assert!(status["rollout"].is_null(), "{status}");
        let secret = newest["release"]["secrets"]["token"].as_str().unwrap();
        let config = newest["release"]["configs"]["settings"].as_str().unwrap();
        let mut versions = Vec::new();
        for service in self.services() {
            let name = service["Spec"]["Name"].as_str().unwrap().to_owned();
            let spec = &service["Spec"]["TaskTemplate"];
            assert!(
                service["Spec"]["Labels"]["skep.update"].is_null(),
                "{name} is not settled: {service}"
            );
            self.all_run(&name, &service);
            if name.ends_with("edge") {
                continue;
            }
            let version = variable(spec, "VERSION");
            let container = &spec["ContainerSpec"];
            assert_eq!(
                container["Image"],
                self.image_of(version.parse().unwrap()),
                "{name}"
            );
            assert_eq!(container["Secrets"][0]["SecretName"], secret, "{name}");
            if name.ends_with("web") {
                assert_eq!(container["Configs"][0]["ConfigName"], config, "{name}");
            }
            versions.push(version);
        }
        assert_eq!(versions.len(), 2, "a service is missing: {versions:?}");
        assert_eq!(versions[0], versions[1], "two releases run");
        Runs {
            version: versions.remove(0),
            release: status["release"].as_str().unwrap().to_owned(),
        }
    }

    /// How many of the newest records are of rollouts that did not end.
    pub fn pending(&self) -> usize {
        let history = self.json(&["history", "prod"]);
        let records = history.as_array().unwrap().iter();
        let pending = records.take_while(|record| record["outcome"]["state"] == "pending");
        pending.count()
    }

    /// As many tasks as there are to be run, each with the service's spec, and no other does.
    #[track_caller]
    fn all_run(&self, name: &str, service: &Value) {
        let wanted = service["Spec"]["Mode"]["Replicated"]["Replicas"]
            .as_u64()
            .unwrap();
        let tasks = self.docker.tasks(name);
        let running = |task: &&Value| task["Status"]["State"] == "running";
        let running: Vec<&Value> = tasks.iter().filter(running).collect();
        assert_eq!(running.len() as u64, wanted, "{name}: {running:#?}");
        for task in running {
            assert_eq!(task["DesiredState"], "running", "{name}: {task}");
            let mut wanted = service["Spec"]["TaskTemplate"].clone();
            // Tasks have no such key.
            wanted.as_object_mut().unwrap().remove("Runtime");
            assert_eq!(task["Spec"], wanted, "{name} runs something else");
        }
    }

    /// What `web` answers, asked inside of each of its containers.
    pub fn answers(&self) -> Vec<String> {
        let name = format!("name={}_web.", self.stack);
        let containers = self.docker.say(&["ps", "-q", "--filter", &name]);
        let ask = "wget -q -O - http://127.0.0.1:8000/cgi-bin/version";
        containers
            .split_whitespace()
            .map(|id| self.docker.say(&["exec", id, "/bin/busybox", "sh", "-c", ask]))
            .collect()
    }

    /// What `web` answers in a version.
    pub fn answer(&self, version: u32) -> String {
        let image = ["a", "b"][version as usize % 2];
        format!("{version} {image} {} settings of {version}", token(version))
    }

    /// Whoever holds the lock, as the Swarm has it.
    pub fn owner(&self) -> Option<Value> {
        let state = self.docker.state(&self.stack);
        serde_json::from_str(state["skep.lock"].as_str()?).ok()
    }

    /// Waits until a rollout has a service in its hands.
    #[track_caller]
    pub fn await_step(&self, step: &str) {
        until(step, || {
            let state = self.docker.state(&self.stack);
            let journal = state["skep.journal"].as_str().map(serde_json::from_str::<Value>);
            journal.is_some_and(|journal| journal.unwrap()["current"]["step"] == step)
        });
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the state of {}: {}", self.stack, self.docker.state(&self.stack));
        }
        self.docker.clear(&self.stack);
    }
}

/// The secret that belongs to a version.
fn token(version: u32) -> String {
    format!("secret-of-{version}")
}

/// A variable of a task's spec.
fn variable(spec: &Value, name: &str) -> String {
    let all = spec["ContainerSpec"]["Env"].as_array().unwrap().iter();
    let mut all = all
        .filter_map(Value::as_str)
        .filter_map(|line| line.split_once('='));
    let found = all.find(|(key, _)| *key == name);
    found
        .unwrap_or_else(|| panic!("no `{name}`: {spec}"))
        .1
        .to_owned()
}
