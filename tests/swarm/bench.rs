//! A project in a directory of its own, with a store and a stack of its own on the Swarm that the tests were given, and
//! `skep` run on it.

use std::ops::Deref;
use std::sync::{Condvar, Mutex, PoisonError};

use serde_json::Value;
use skep_test_support::{Kind, Project, free_port, variable};

use super::engine::Engine;
use super::files;

/// Stacks that the engine runs at one time: more of them only wait for each other.
const AT_A_TIME: usize = 3;

static RUNNING: Mutex<usize> = Mutex::new(0);
static ENDED: Condvar = Condvar::new();

/// One of the stacks that run now.
struct Turn;

impl Turn {
    fn take() -> Turn {
        let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        while *running >= AT_A_TIME {
            running = ENDED.wait(running).unwrap_or_else(PoisonError::into_inner);
        }
        *running += 1;
        Turn
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *RUNNING.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        ENDED.notify_one();
    }
}

/// A project, its store and its stack, which is removed when this is dropped.
pub struct Bench {
    /// Of the stack, too.
    pub name: String,
    pub engine: Engine,
    /// `127.0.0.1:PORT`
    pub registry: String,
    project: Project,
    _turn: Turn,
}

impl Deref for Bench {
    type Target = Project;

    fn deref(&self) -> &Project {
        &self.project
    }
}

impl Bench {
    /// A project whose stack is called `name`, or `None` where there is no engine to run it.
    pub fn new(name: &str, stack: &str) -> Option<Bench> {
        let engine = Engine::at(&variable("SKEP_TEST_DOCKER")?);
        let registry = variable("SKEP_TEST_REGISTRY")?;
        let port = free_port();
        let mut project = Project::new(env!("CARGO_BIN_EXE_skep"));
        project.commits = true;
        project.masks = vec![
            Kind::Release,
            Kind::Digest,
            Kind::Time,
            Kind::NumberAfter("(process "),
        ];
        project.names = vec![
            (engine.address.clone(), "ENGINE"),
            (registry.clone(), "REGISTRY"),
            (port.to_string(), "PORT"),
        ];
        let bench = Bench {
            name: name.to_owned(),
            engine,
            registry,
            project,
            _turn: Turn::take(),
        };
        bench.add_images(&["web"], &files::SCRIPTS);
        bench.configure("");
        bench.write("stack.yml", stack);
        bench.write(".gitignore", "token.txt\nplan.json\n");
        bench.git(&["init", "--quiet"]);
        bench.set("TOKEN", "one");
        bench.set("PORT", &port.to_string());
        Some(bench)
    }

    /// Writes skep.toml, with `lines` in the environment's table.
    pub fn configure(&self, lines: &str) {
        self.configure_all(&[&self.engine.address], lines, "token = { env = \"TOKEN\" }");
    }

    /// The same, with other managers and other secrets.
    pub fn configure_all(&self, managers: &[&str], environment: &str, secrets: &str) {
        self.write(
            "skep.toml",
            &format!(
                "[project]\nname = \"{name}\"\nimages = \"{registry}/{name}/{{name}}\"\n\n\
                 [environments.prod]\ntarget = \"swarm\"\nstack = \"stack.yml\"\nmanagers = {managers:?}\n\
                 patience = \"5s\"\ntimeout = \"60s\"\n{environment}\n\n\
                 [environments.prod.secrets]\n{secrets}\n",
                name = self.name,
                registry = self.registry,
            ),
        );
    }

    /// Changes the stack file, which must hold `from`.
    #[track_caller]
    pub fn edit_stack(&self, from: &str, to: &str) {
        self.edit("stack.yml", from, to);
    }

    /// Releases version `version` with a secret that belongs to it; which release that is.
    #[track_caller]
    pub fn release(&self, version: &str) -> String {
        self.set("VERSION", version);
        self.set("TOKEN", &token(version));
        let report = self.json(&["release", "prod"]);
        self.settled(version);
        report["release"].as_str().unwrap().to_owned()
    }

    /// Makes sure that all that runs is of one version, that all of it is well, and that no rollout is under way.
    #[track_caller]
    pub fn settled(&self, version: &str) {
        let status = self.json(&["status", "prod"]);
        assert!(status["rollout"].is_null(), "a rollout is under way: {status}");
        for (name, service) in status["services"].as_object().unwrap() {
            let tasks = service["tasks"].as_array().unwrap();
            assert_eq!(
                Some(tasks.len() as u64),
                service["replicas"].as_u64(),
                "{name}: {status}"
            );
            for task in tasks {
                assert_eq!(task["state"], "ready", "{name}: {status}");
                assert_eq!(task["revision"], service["task"], "{name}: {status}");
            }
            let task = &self.engine.specs(&self.name)[&self.scoped(name)]["TaskTemplate"];
            let environment = task["ContainerSpec"]["Env"].as_array().unwrap();
            let wanted = format!("VERSION={version}");
            assert!(environment.iter().any(|line| *line == wanted), "{name}: {task}");
        }
    }

    /// What a service of the stack is called on the engine.
    pub fn scoped(&self, service: &str) -> String {
        format!("{}_{service}", self.name)
    }

    /// Makes sure that the engine has nothing of the stack.
    #[track_caller]
    pub fn nothing_is_there(&self) {
        let there = self.engine.versions(&self.name);
        assert!(there.is_empty(), "{there:#?}");
    }

    /// The newest record of the history.
    pub fn newest(&self) -> Value {
        self.json(&["history", "prod"])[0].clone()
    }

    /// Which release the newest record is of.
    pub fn newest_id(&self) -> String {
        self.newest()["release"]["id"].as_str().unwrap().to_owned()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for arguments in [["status", "prod"], ["history", "prod"]] {
                let ran = self.skep(&arguments);
                eprintln!("skep {arguments:?}: {}{}", ran.stdout, ran.stderr);
            }
        }
        self.engine.remove(&self.name);
    }
}

/// The secret that belongs to a version.
pub fn token(version: &str) -> String {
    format!("secret-of-{version}")
}
