use std::collections::BTreeMap;
use std::fs;

use super::super::fake::Fake;
use super::*;
use crate::rollout::{foreign_images, mask_of, read_stack};

const STACK: &str = "\
services:
  api:
    image: api
    environment: {PORT: \"${PORT}\"}
    secrets: [key, made]
    configs: [{source: site, target: /site.json}]
secrets:
  key: {external: true}
  made: {external: true, name: \"${MADE_SECRET}\"}
configs:
  site: {file: site.json}
";

const CONFIG: &str = "\
[project]
name = \"app\"
[environments.here]
target = \"preview\"
stack = \"deploy/stack.yml\"
env_files = [\"deploy/here.env\"]
secrets = { key = { file = \"key.txt\" }, made = { generate = 20 } }
";

struct Bench {
    directory: tempfile::TempDir,
    target: Fake,
}

impl Bench {
    fn new(files: &[(&str, &str)]) -> Bench {
        let directory = tempfile::tempdir().unwrap();
        let bench = Bench {
            directory,
            target: Fake::default(),
        };
        let all = [
            ("skep.toml", CONFIG),
            ("skep.star", ""),
            ("deploy/stack.yml", STACK),
            ("deploy/site.json", "{}"),
            ("deploy/here.env", "PORT=80\n"),
            ("key.txt", "opens\n"),
        ];
        for (path, text) in all.iter().chain(files) {
            bench.write(path, text);
        }
        bench
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.directory.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn prepare(&self) -> Result<(Record, Contents), Error> {
        let project = Project::open(self.directory.path()).unwrap();
        let environment = project.environment("here").unwrap();
        let reading = read_stack(&project, environment, &|_| None)?;
        assert_eq!(targets(&reading.reading.stack), ["api"]);
        let image = ReleasedImage {
            repository: "app/api".to_owned(),
            digest: "sha256:1".to_owned(),
            platforms: BTreeMap::new(),
        };
        let wish = Wish {
            addresses: BTreeMap::new(),
            images: [("api".to_owned(), image)].into(),
            sources: Vec::new(),
            by: "me@here",
            variable: &|_| None,
        };
        prepare(&self.target, &project, environment, reading.reading, wish)
    }

    /// Has the target run what was prepared.
    fn keep(&self, (record, contents): &(Record, Contents)) {
        for ((kind, version), content) in &contents.0 {
            self.target.put(*kind, version, content).unwrap();
        }
        self.target.record(record).unwrap();
    }

    fn error(&self) -> String {
        self.prepare().unwrap_err().to_string()
    }
}

fn versions(record: &Record) -> Vec<String> {
    let release = &record.release;
    release
        .secrets
        .values()
        .chain(release.configs.values())
        .map(ToString::to_string)
        .collect()
}

#[test]
fn content_that_does_not_change_keeps_its_version() {
    let bench = Bench::new(&[]);
    let first = bench.prepare().unwrap();
    let id = &first.0.release.id;
    let all = ["key", "made", "site"].map(|name| format!("app_{name}_{id}"));
    assert_eq!(versions(&first.0), all);
    let content = |name: &str| {
        let found = first
            .1
            .0
            .iter()
            .find(|((_, version), _)| version.as_str().contains(name));
        found.unwrap().1.clone()
    };
    assert_eq!(
        (content("key"), content("site")),
        (b"opens".to_vec(), b"{}".to_vec())
    );
    assert_eq!(content("made").len(), 20);
    assert_eq!(first.0.stack.services["api"].environment["PORT"], "80");
    bench.keep(&first);
    let second = bench.prepare().unwrap();
    assert_eq!(versions(&second.0), all);
    assert!(second.1.0.is_empty() && second.0.release.id != *id);
    bench.write("key.txt", "other");
    let third = bench.prepare().unwrap();
    let changed: Vec<_> = third.1.0.keys().map(|(_, version)| version.to_string()).collect();
    assert_eq!(changed, [format!("app_key_{}", third.0.release.id)]);
}

#[test]
fn what_is_generated_is_made_anew_only_when_the_target_lost_it() {
    let bench = Bench::new(&[]);
    let first = bench.prepare().unwrap();
    bench.target.record(&first.0).unwrap();
    let second = bench.prepare().unwrap();
    let made = |of: &(Record, Contents)| of.0.release.secrets["made"].clone();
    assert_ne!(made(&first), made(&second));
    assert!(second.1.0.contains_key(&(Kind::Secret, made(&second))));
}

#[test]
fn a_file_that_is_missing_is_made_of_its_example() {
    let bench = Bench::new(&[("key.txt.example", "put it here\n")]);
    fs::remove_file(bench.directory.path().join("key.txt")).unwrap();
    let made = "`key.txt` did not exist, and was made of its example; fill it in, and run this again";
    assert_eq!(bench.error(), made);
    let path = bench.directory.path().join("key.txt");
    assert_eq!(fs::read(&path).unwrap(), b"put it here\n");
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn what_is_wrong_says_where_and_what_helps() {
    let without = |path: &str| {
        let bench = Bench::new(&[]);
        fs::remove_file(bench.directory.path().join(path)).unwrap();
        bench.error()
    };
    assert_eq!(without("key.txt"), "`key.txt` does not exist");
    assert_eq!(without("deploy/here.env"), "`deploy/here.env` does not exist");
    let with = |path: &str, text: &str| Bench::new(&[(path, text)]).error();
    assert_eq!(with("key.txt", "\n"), "the secret `key` is empty");
    assert_eq!(
        with("deploy/here.env", "PORT 80"),
        "deploy/here.env:1:1: expected `NAME=value`"
    );
    let unset = with("deploy/here.env", "");
    assert!(unset.starts_with("deploy/stack.yml:4:"), "{unset}");
    let nowhere = with("skep.toml", &CONFIG.replace("key = { file = \"key.txt\" }, ", ""));
    assert!(
        nowhere.starts_with("nothing says where the secret `key` is"),
        "{nowhere}"
    );
    let probed = with("skep.toml", &format!("{CONFIG}probes = {{ web = [\"/\"] }}\n"));
    assert_eq!(
        probed,
        "skep.toml names the service `web` in `probes`, and `deploy/stack.yml` has `api`"
    );
    let checks = "checks = { x = { service = \"web\", command = [\"/x\"] } }\n";
    assert_eq!(
        with("skep.toml", &format!("{CONFIG}{checks}")),
        "skep.toml names the service `web` in `checks`, and `deploy/stack.yml` has `api`"
    );
}

#[test]
fn a_program_may_know_the_secret() {
    let text = |command: &str| CONFIG.replace("file = \"key.txt\"", &format!("command = {command}"));
    let bench = Bench::new(&[("skep.toml", &text(r#"["echo", "spoken"]"#))]);
    let (_, contents) = bench.prepare().unwrap();
    assert!(contents.0.values().any(|content| content == b"spoken"));
    let error = |command: &str| Bench::new(&[("skep.toml", &text(command))]).error();
    assert_eq!(
        error(r#"["false"]"#),
        "`false` for the secret `key` failed: exit status: 1"
    );
    assert!(error(r#"["/no/such"]"#).contains("does not start"));
}

#[test]
fn images_by_reference_have_a_digest() {
    let other = STACK.replace(
        "image: api",
        "image: api\n  db:\n    image: docker.example/redis@sha256:12",
    );
    let bench = Bench::new(&[("deploy/stack.yml", &other)]);
    let (record, _) = bench.prepare().unwrap();
    assert_eq!(
        record.image_of("db").unwrap().reference(),
        "docker.example/redis@sha256:12"
    );
    assert!(
        pinned("redis:7")
            .unwrap_err()
            .to_string()
            .contains("write `redis:7@sha256:…`")
    );
}

#[test]
fn all_files_that_are_missing_are_made_at_once() {
    let config = CONFIG.replace("deploy/here.env\"]", "deploy/here.env\", \"more.env\"]");
    let bench = Bench::new(&[
        ("skep.toml", &config),
        ("deploy/here.env.example", "PORT=\n"),
        ("more.env.example", "A=1\n"),
        ("key.txt.example", "here\n"),
        ("deploy/site.json.example", "{}\n"),
    ]);
    let files = ["deploy/here.env", "more.env", "key.txt", "deploy/site.json"];
    let there = |path: &&str| bench.directory.path().join(path).exists();
    for path in files.iter().filter(|path| there(path)) {
        fs::remove_file(bench.directory.path().join(path)).unwrap();
    }
    assert_eq!(
        bench.error(),
        "4 files did not exist, and were made of their examples; fill them in, and run this again:\n    `deploy/here.env`\n    `more.env`\n    `key.txt`\n    `deploy/site.json`"
    );
    assert!(files.iter().all(there));
    bench.prepare().unwrap();
}

#[test]
fn required_values_are_all_named_with_where_they_belong() {
    let config = CONFIG.replace(
        "deploy/here.env\"]",
        "deploy/here.env\", \"more.env\"]\nrequired = [\"PORT\", \"A\", \"B\", \"C\"]",
    );
    let bench = Bench::new(&[
        ("skep.toml", &config),
        ("deploy/here.env", "PORT=80\nA=\n"),
        ("more.env", ""),
        ("more.env.example", "C=x\n"),
    ]);
    assert_eq!(
        bench.error(),
        "3 required values are missing:\n    `A`, which is empty in deploy/here.env:2:1\n    `B`, which belongs into `deploy/here.env`\n    `C`, which belongs into `more.env`"
    );
    bench.write("more.env", "A=1\nB=2\n");
    assert_eq!(
        bench.error(),
        "a required value is missing: `C`, which belongs into `more.env`"
    );
    let project = Project::open(bench.directory.path()).unwrap();
    let environment = project.environment("here").unwrap();
    let from_process = |name: &str| (name == "C").then(|| "3".to_owned());
    assert!(read_stack(&project, environment, &from_process).is_ok());
    assert!(read_stack(&project, environment, &|_| Some(" ".to_owned())).is_err());
}

#[test]
fn secrets_are_covered_as_far_as_files_are_there_and_none_is_made() {
    let told = "first, second and third";
    let masked = |files: &[(&str, &str)], without: &[&str]| {
        let config = CONFIG.replace("secrets = {", "secret_env = [\"KEY\", \"PORT\"]\nsecrets = {");
        let bench = Bench::new(&[("skep.toml", config.as_str())]);
        files.iter().for_each(|(path, text)| bench.write(path, text));
        let root = bench.directory.path();
        without
            .iter()
            .for_each(|path| fs::remove_file(root.join(path)).unwrap());
        let project = Project::open(root).unwrap();
        let variable = |name: &str| (name == "KEY").then(|| "second".to_owned());
        let mask = mask_of(&project, project.environment("here").unwrap(), &variable);
        let is_made = without.iter().any(|path| root.join(path).exists());
        assert!(!is_made, "{without:?}");
        mask.apply(told).replace("(secret)", "…")
    };
    let env = ("deploy/here.env", "PORT=first,\n");
    let stack = STACK.replace("PORT: \"${PORT}\"", "KEY: third");
    // What services are given, and what the files and the environment give.
    assert_eq!(masked(&[env, ("deploy/stack.yml", &stack)], &[]), "… … and third");
    let stack = stack.replace("third", "and third");
    assert_eq!(masked(&[env, ("deploy/stack.yml", &stack)], &[]), "… … …");
    // Whatever is wrong with the stack file.
    assert_eq!(masked(&[env, ("deploy/stack.yml", "- ?")], &[]), "… … and third");
    let example = ("deploy/here.env.example", "PORT=first,\n");
    assert_eq!(masked(&[example], &["deploy/here.env"]), "first, … and third");
}

#[test]
fn images_of_others_are_those_whose_names_are_known_here() {
    let stack = "services:
  api: {image: api, ports: [\"${UNSET}:80\"]}
  cache: {image: \"redis:${REDIS}\"}
  edge: {image: \"git.example/edge@sha256:aa\"}
  logs: {image: \"logs:${UNSET}\", deploy: {replicas: \"${UNSET}\"}}
";
    let example = ("deploy/more.env.example", "REDIS=7\n");
    let config = CONFIG.replace(
        "[\"deploy/here.env\"]",
        "[\"deploy/here.env\", \"deploy/more.env\"]",
    );
    let bench = Bench::new(&[("skep.toml", &config), ("deploy/stack.yml", stack), example]);
    let project = Project::open(bench.directory.path()).unwrap();
    let images = |variable: &dyn Fn(&str) -> Option<String>| {
        let environment = project.environment("here").unwrap();
        let images = foreign_images(&project, environment, variable).unwrap();
        images.into_iter().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(images(&|_| None), "git.example/edge@sha256:aa redis:7");
    let given = |_: &str| Some("9".to_owned());
    assert_eq!(images(&given), "git.example/edge@sha256:aa logs:9 redis:7");
    assert!(!bench.directory.path().join("deploy/more.env").exists());
}
