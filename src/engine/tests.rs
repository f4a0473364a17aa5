use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::*;
use crate::action::Limits;
use crate::plan::{Builder, Run, Source, TreeExpr};
use crate::tree::ops;

/// Stands for the sandbox: its programs are `copy`, `fail`, `wait` and `first-line`.
#[derive(Default)]
struct Programs {
    store: Mutex<Option<std::sync::Arc<Store>>>,
    ran: AtomicUsize,
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
}

impl Runner for Programs {
    fn run(&self, job: &Job<'_>) -> Result<ActionResult, RunError> {
        let at_once = self.at_once.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_at_once.fetch_max(at_once, Ordering::SeqCst);
        let result = self.program(job);
        self.at_once.fetch_sub(1, Ordering::SeqCst);
        self.ran.fetch_add(1, Ordering::SeqCst);
        result
    }
}

impl Programs {
    fn program(&self, job: &Job<'_>) -> Result<ActionResult, RunError> {
        let store = self.store.lock().unwrap().clone().unwrap();
        let argv = &job.action.command.argv;
        let lost = |error: store::Error| RunError {
            fault: Fault::of_store(&error),
            message: error.to_string(),
            log: None,
        };
        let input = ops::lookup(&*store, &job.action.input_root, &"in/file".parse().unwrap());
        let input = input.map_err(|error| match error {
            ops::Error::Directories(error) => lost(error),
            error => panic!("{error}"),
        })?;
        let mut content = match input {
            Some(crate::tree::Node::File { digest, .. }) => store.read(&digest).map_err(lost)?,
            _ => Vec::new(),
        };
        match argv[0].as_str() {
            "/copy" => {}
            "/first-line" => content.truncate(content.iter().position(|byte| *byte == b'\n').unwrap_or(0)),
            "/wait" => {
                while !job.cancel.is_raised() {
                    std::thread::sleep(Duration::from_millis(5));
                }
                return Err(RunError {
                    fault: Fault::Cancelled,
                    message: "interrupted".into(),
                    log: None,
                });
            }
            "/pause" => std::thread::sleep(Duration::from_millis(30)),
            _ => {
                return Ok(ActionResult {
                    exit_code: 3,
                    log: Some(store.put(b"no such luck\n").unwrap()),
                    ..Default::default()
                });
            }
        }
        content.extend(argv.get(1).map(|text| text.as_bytes()).unwrap_or_default());
        let digest = store.put(&content).unwrap();
        let node = crate::tree::Node::File {
            digest,
            executable: false,
        };
        let root = ops::place(&*store, node, &"file".parse().unwrap()).unwrap();
        Ok(ActionResult {
            outputs: BTreeMap::from([("in".parse().unwrap(), root)]),
            ..Default::default()
        })
    }
}

struct Bench {
    directory: tempfile::TempDir,
    store: std::sync::Arc<Store>,
    programs: Programs,
    builder: Builder,
    cancel: Cancel,
    outcomes: std::sync::Arc<Mutex<Vec<Outcome>>>,
}

impl Bench {
    fn new() -> Bench {
        let directory = tempfile::tempdir().unwrap();
        let store = std::sync::Arc::new(Store::open(&directory.path().join("store")).unwrap());
        std::fs::create_dir(directory.path().join("project")).unwrap();
        let programs = Programs::default();
        *programs.store.lock().unwrap() = Some(std::sync::Arc::clone(&store));
        Bench {
            directory,
            store,
            programs,
            builder: Builder::new(),
            cancel: Cancel::default(),
            outcomes: std::sync::Arc::default(),
        }
    }

    fn write(&self, content: &str) {
        std::fs::write(self.directory.path().join("project/file"), content).unwrap();
    }

    fn source(&mut self) -> NodeId {
        let source = self.builder.add(Node::Source(Source {
            root: TreePath::root(),
            include: vec!["file".into()],
            exclude: vec![],
        }));
        self.builder.add(Node::Tree(TreeExpr::Select {
            of: source,
            path: TreePath::root(),
            at: "in".parse().unwrap(),
        }))
    }

    fn run(&mut self, argv: &[&str], inputs: &[NodeId]) -> NodeId {
        self.builder.add(Node::Run(Box::new(Run {
            mnemonic: argv[0].trim_start_matches('/').into(),
            argv: argv.iter().map(ToString::to_string).collect(),
            env: BTreeMap::new(),
            cwd: TreePath::root(),
            inputs: inputs.iter().map(|id| (TreePath::root(), *id)).collect(),
            outputs: BTreeSet::from(["in".parse().unwrap()]),
            writable: BTreeSet::new(),
            secrets: BTreeMap::new(),
            compile_cache: None,
            limits: Limits::default(),
        })))
    }

    fn build_with(&mut self, roots: &[NodeId], keep_going: bool) -> Result<Vec<Tree>, Vec<Failure>> {
        let plan = self.builder.clone().finish();
        let sources = WorkTree::list(&self.directory.path().join("project"), &self.store).unwrap();
        let outcomes = std::sync::Arc::clone(&self.outcomes);
        let events = Events::new(move |event| {
            if let Event::Finished { outcome, .. } = event {
                outcomes.lock().unwrap().push(outcome);
            }
        });
        let engine = Engine {
            plan: &plan,
            store: &self.store,
            sources: &sources,
            runner: &self.programs,
            events: &events,
            cancel: &self.cancel,
            options: &Options {
                jobs: 2,
                fetches: 2,
                keep_going,
                host: Arch::HOST,
            },
        };
        engine.build(roots)
    }

    fn build(&mut self, roots: &[NodeId]) -> Result<Vec<Tree>, Vec<Failure>> {
        self.build_with(roots, false)
    }

    fn content(&self, tree: Tree) -> String {
        let node = ops::lookup(&*self.store, &tree.root, &"in/file".parse().unwrap()).unwrap();
        let Some(crate::tree::Node::File { digest, .. }) = node else {
            panic!("{node:?}");
        };
        String::from_utf8(self.store.read(&digest).unwrap()).unwrap()
    }

    fn ran(&self) -> usize {
        self.programs.ran.swap(0, Ordering::SeqCst)
    }
}

#[test]
fn results_flow_and_are_not_made_twice() {
    let mut bench = Bench::new();
    bench.write("content");
    let source = bench.source();
    let copy = bench.run(&["/copy", "1"], &[source]);
    let again = bench.run(&["/copy", "2"], &[copy]);
    let built = bench.build(&[again, copy]).unwrap();
    assert_eq!(bench.content(built[0]), "content12");
    assert_eq!(bench.content(built[1]), "content1");
    assert_eq!(bench.ran(), 2);
    assert_eq!(bench.build(&[again, copy]).unwrap(), built);
    assert_eq!(bench.ran(), 0);
    assert_eq!(
        *bench.outcomes.lock().unwrap(),
        [Outcome::Ran, Outcome::Ran, Outcome::Cached, Outcome::Cached]
    );
}

#[test]
fn an_unchanged_output_cuts_the_build_off() {
    let mut bench = Bench::new();
    bench.write("first\nsecond");
    let source = bench.source();
    let first = bench.run(&["/first-line"], &[source]);
    let copy = bench.run(&["/copy"], &[first]);
    let before = bench.build(&[copy]).unwrap();
    assert_eq!(bench.ran(), 2);
    bench.write("first\nother");
    assert_eq!(bench.build(&[copy]).unwrap(), before);
    assert_eq!(bench.ran(), 1);
}

#[test]
fn a_failure_is_named_and_not_cached() {
    let mut bench = Bench::new();
    let fail = bench.run(&["/fail"], &[]);
    let after = bench.run(&["/copy"], &[fail]);
    for _ in 0..2 {
        let failures = bench.build(&[after]).unwrap_err();
        assert_eq!(failures.len(), 1);
        assert_eq!(failures[0].message, "exited with code 3");
        assert_eq!(failures[0].fault, Fault::Action);
        assert_eq!(
            bench.store.read(&failures[0].log.unwrap()).unwrap(),
            b"no such luck\n"
        );
        assert_eq!(bench.ran(), 1);
    }
}

#[test]
fn with_keep_going_all_failures_are_found_and_the_rest_is_built() {
    let mut bench = Bench::new();
    let roots = [
        bench.run(&["/fail", "1"], &[]),
        bench.run(&["/copy"], &[]),
        bench.run(&["/fail", "2"], &[]),
    ];
    assert_eq!(bench.build_with(&roots, true).unwrap_err().len(), 2);
    assert_eq!(bench.ran(), 3);
    bench.build(&roots[1..2]).unwrap();
    assert_eq!(bench.ran(), 0);
}

#[test]
fn a_failure_stops_what_still_runs() {
    let mut bench = Bench::new();
    let roots = [bench.run(&["/wait"], &[]), bench.run(&["/fail"], &[])];
    let failures = bench.build(&roots).unwrap_err();
    assert_eq!(failures.len(), 1);
    assert_eq!(failures[0].fault, Fault::Action);
}

#[test]
fn an_interrupt_stops_everything_and_records_nothing() {
    let mut bench = Bench::new();
    let wait = bench.run(&["/wait"], &[]);
    let cancel = bench.cancel.clone();
    let interrupt = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        cancel.raise();
    });
    let failures = bench.build(&[wait]).unwrap_err();
    interrupt.join().unwrap();
    assert_eq!(failures.len(), 1);
    assert_eq!(failures[0].fault, Fault::Cancelled);
}

#[test]
fn no_more_at_once_than_asked_for() {
    let mut bench = Bench::new();
    let roots: Vec<_> = (0..8)
        .map(|n| bench.run(&["/pause", &n.to_string()], &[]))
        .collect();
    bench.build(&roots).unwrap();
    assert_eq!(bench.programs.most_at_once.load(Ordering::SeqCst), 2);
}

#[test]
fn lost_content_is_nobodys_fault() {
    let mut bench = Bench::new();
    bench.write("content");
    let source = bench.source();
    let select = bench.builder.add(Node::Tree(TreeExpr::Select {
        of: source,
        path: "absent".parse().unwrap(),
        at: TreePath::root(),
    }));
    let failures = bench.build(&[select]).unwrap_err();
    assert_eq!(
        (failures[0].fault, failures[0].message.as_str()),
        (Fault::Project, "there is no `absent`")
    );

    let copy = bench.run(&["/copy"], &[source]);
    bench.build(&[copy]).unwrap();
    let hex = Digest::of(b"content").hex();
    let blob = bench.store.root().join("blobs").join(&hex[..2]).join(&hex);
    std::fs::write(&blob, "CONTENT").unwrap();
    // As a disk would: nothing wrote to it.
    let time = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(store::MTIME.cast_unsigned());
    let file = std::fs::File::options().write(true).open(&blob).unwrap();
    file.set_modified(time).unwrap();
    // The result is still taken for complete; whoever reads its tree finds out, and it is made again.
    let after = bench.run(&["/copy", "after"], &[copy]);
    let failures = bench.build(&[after]).unwrap_err();
    assert_eq!(failures[0].lost(), Some(Digest::of(b"content")));
    let again = bench.build(&[after]).unwrap();
    assert_eq!(bench.content(again[0]), "contentafter");
}
