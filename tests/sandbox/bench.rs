//! A sandbox with busybox in it, for a test.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use skep::action::{Action, Command, Limits};
use skep::cancel::Cancel;
use skep::digest::Digest;
use skep::sandbox::{Error, Outcome, Request, Sandbox};
use skep::store::Store;
use skep::tree::{Node, TreePath, ops};
use skep_test_support::BUSYBOX;

pub fn path(text: &str) -> TreePath {
    text.parse().unwrap()
}

/// A store, and an action to run in a sandbox over it.
pub struct Bench {
    pub directory: tempfile::TempDir,
    pub store: Arc<Store>,
    sandbox: Sandbox,
    pub command: Command,
    pub inputs: Vec<Digest>,
    pub units: BTreeSet<Digest>,
    pub secrets: BTreeMap<TreePath, Vec<u8>>,
    pub cancel: Cancel,
}

impl Bench {
    /// A shell script that runs with busybox as its only input.
    pub fn new(script: &str) -> Bench {
        let directory = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(&directory.path().join("store")).unwrap());
        let exe = std::env::var_os("SKEP_TEST_EXE").map(PathBuf::from);
        let exe = exe.unwrap_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_skep")));
        let mut bench = Bench {
            sandbox: Sandbox::new(Arc::clone(&store), exe),
            store,
            directory,
            command: Command {
                argv: ["/bin/sh", "-ec", script].map(str::to_owned).into(),
                env: BTreeMap::from([("PATH".to_owned(), "/bin".to_owned())]),
                cwd: path("work"),
                outputs: BTreeSet::from([path("out")]),
                writable: BTreeSet::new(),
                secrets: BTreeMap::new(),
                limits: Limits {
                    timeout: Duration::from_secs(60),
                    max_log: 1 << 20,
                    max_output: 64 << 20,
                    max_processes: 64,
                    ..Limits::default()
                },
            },
            inputs: Vec::new(),
            units: BTreeSet::new(),
            secrets: BTreeMap::new(),
            cancel: Cancel::default(),
        };
        let digest = bench.store.put(&std::fs::read(BUSYBOX).unwrap()).unwrap();
        let executable = Node::File {
            digest,
            executable: true,
        };
        bench.input("bin/busybox", executable);
        let applets = std::process::Command::new(BUSYBOX)
            .arg("--list")
            .output()
            .unwrap();
        for applet in String::from_utf8(applets.stdout)
            .unwrap()
            .lines()
            .filter(|name| *name != "busybox")
        {
            bench.input(&format!("bin/{applet}"), Node::Symlink("busybox".to_owned()));
        }
        bench
    }

    pub fn input(&mut self, at: &str, node: Node) {
        self.inputs
            .push(ops::place(&*self.store, node, &path(at)).unwrap());
    }

    pub fn file(&mut self, at: &str, content: &str) {
        let digest = self.store.put(content.as_bytes()).unwrap();
        let executable = false;
        self.input(at, Node::File { digest, executable });
    }

    pub fn run(&self) -> Result<Outcome, Error> {
        let action = Action {
            command: self.command.clone(),
            input_root: ops::merge(&*self.store, &self.inputs).unwrap(),
        };
        let request = Request {
            action: &action,
            units: &self.units,
            secrets: &self.secrets,
        };
        self.sandbox.run(&request, &self.cancel)
    }

    pub fn log(&self, log: Option<Digest>) -> String {
        log.map_or(String::new(), |log| {
            String::from_utf8(self.store.read(&log).unwrap()).unwrap()
        })
    }

    /// What a script that is expected to succeed printed.
    pub fn printed(&self) -> String {
        let outcome = self.run().unwrap();
        let log = self.log(outcome.log);
        assert_eq!(outcome.exit_code, 0, "{log}");
        log
    }

    /// What a script that is expected to fail printed.
    pub fn refused(&self) -> String {
        let outcome = self.run().unwrap();
        let log = self.log(outcome.log);
        assert_ne!(outcome.exit_code, 0, "{log}");
        assert!(outcome.outputs.is_empty());
        log
    }

    pub fn processes(&self) -> usize {
        let marker = self.directory.path().join("store").canonicalize().unwrap();
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        entries
            .filter(|entry| std::fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd == marker))
            .count()
    }
}
