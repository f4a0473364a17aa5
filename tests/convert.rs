//! Services and networks as skep sends them to an engine, and as docker's own conversion does:
//! `tests/stack/*.yml` against its code, `tests/stack/deployed/*.yml` against an engine.
//!
//! Both are compared in the normal form in which releases are. [`MEANT`] has every difference.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use bollard::models::ServiceSpec;
use serde_json::{Map, Value};
use skep::cancel::Cancel;
use skep::docker::Engine;
use skep::stack::{Content, FileObject, Network, Service, Stack};
use skep::swarm::{self, ObjectRef, PinnedImage, Surroundings};

#[path = "stack/files.rs"]
mod files;

use files::{BOTH_READ, directory, docker, files, leaves, read, variables};
use skep_test_support::variable;

/// What docker's conversion calls the stack.
const STACK: &str = "stack";

/// Where skep means something else: the file, the beginning of the path, and the reason.
const MEANT: [(&str, &str, &str); 5] = [
    (
        "oom.yml",
        "a.TaskTemplate.ContainerSpec.OomScoreAdj",
        "docker leaves `oom_score_adj` aside",
    ),
    (
        "tmpfs.yml",
        "a.TaskTemplate.ContainerSpec.Mounts",
        "docker leaves `tmpfs` aside",
    ),
    (
        "tmpfs.yml",
        "b.TaskTemplate.ContainerSpec.Mounts",
        "docker leaves `tmpfs` aside",
    ),
    (
        "volumes-anonymous.yml",
        "a.TaskTemplate.ContainerSpec.Mounts[2].VolumeOptions.NoCopy",
        "docker leaves `nocopy` of a volume without a name aside",
    ),
    (
        "volumes-long.yml",
        "a.TaskTemplate.ContainerSpec.Mounts[6].Consistency",
        "`consistency` is of another system",
    ),
];

/// Keys of maps that the file names: any name is the same.
const MAPS: [&str; 13] = [
    "services",
    "networks",
    "volumes",
    "secrets",
    "configs",
    "environment",
    "labels",
    "driver_opts",
    "options",
    "sysctls",
    "ulimits",
    "extensions",
    "depends_on",
];

/// What a Swarm cannot do, so that skep refuses to convert it where docker leaves it aside: the file, the service, and
/// the key.
const REFUSED: [(&str, &str, &str); 3] = [
    ("ports-address.yml", "a", "ports[0].host_ip"),
    ("ports-address.yml", "b", "ports[1].host_ip"),
    ("volumes-anonymous.yml", "b", "volumes[0].volume.subpath"),
];

/// The files that both read.
fn common() -> Vec<String> {
    let both = |(name, expected): (String, String)| (expected == BOTH_READ).then_some(name);
    files().into_iter().filter_map(both).collect()
}

// --- the conversion ------------------------------------------------------------------------------------

#[test]
fn docker_converts_to_the_same() {
    let Some(program) = variable("SKEP_TEST_COMPOSE") else {
        return;
    };
    let names = common();
    let answers = docker(&program, names.iter());
    let (mut differing, mut used) = (Vec::new(), BTreeSet::new());
    let (mut services, mut networks, mut values) = (0, 0, 0);
    for file in &names {
        let stack = read(file).unwrap().stack;
        let (ours, theirs) = (ours(&stack, STACK, &directory()), &answers[file]["services"]);
        assert_eq!(ours.len(), theirs.as_object().unwrap().len(), "{file}");
        for (name, ours) in ours {
            let refused = REFUSED
                .iter()
                .find(|(of, service, _)| of == file && *service == name);
            let service = &theirs[&name];
            let ours = match (ours, refused) {
                (Ok(ours), None) => ours,
                (Err(error), Some((_, _, key))) if error.path == format!("services.{name}.{key}") => continue,
                (ours, _) => panic!("{file}: {name}: {ours:?}"),
            };
            services += 1;
            let theirs = swarm::canonical(&spec(file, service), &|_| None);
            values += compare(&name, &ours, &theirs, |path, line| {
                let meant = MEANT
                    .iter()
                    .position(|(of, start, _)| of == file && path.starts_with(start));
                match meant {
                    Some(index) => drop(used.insert(index)),
                    None => differing.push(format!("{file}: {line}")),
                }
            });
        }
        let (ours, theirs) = (our_networks(&stack), their_networks(&answers[file]["networks"]));
        networks += theirs.len();
        values += compare(
            "networks",
            &Value::Object(ours),
            &Value::Object(theirs),
            |_, line| {
                differing.push(format!("{file}: {line}"));
            },
        );
    }
    assert!(differing.is_empty(), "{}", differing.join("\n"));
    assert_eq!(used.len(), MEANT.len(), "some of MEANT is not so: {used:?}");
    eprintln!(
        "{} files, {services} services, {networks} networks, {values} values",
        names.len()
    );
    assert!(
        names.len() >= 60 && services >= 150 && networks >= 70 && values > 1500,
        "only {} files, {services} services, {networks} networks and {values} values were compared",
        names.len()
    );
}

/// In their normal form, by name.
fn ours(stack: &Stack, stack_name: &str, directory: &Path) -> BTreeMap<String, Result<Value, swarm::Error>> {
    let image = |name: &String| PinnedImage {
        reference: name.clone(),
        platforms: Vec::new(),
    };
    let images = stack.services.values().map(|service| &service.image);
    let around = Surroundings {
        stack_name,
        images: &images.map(|name| (name.clone(), image(name))).collect(),
        secrets: &references(stack_name, &stack.secrets),
        configs: &references(stack_name, &stack.configs),
        directory,
    };
    let convert = |(name, service): (&String, &Service)| {
        let spec = swarm::service(&around, name, stack, service);
        (name.clone(), spec.map(|spec| swarm::canonical(&spec, &|_| None)))
    };
    stack.services.iter().map(convert).collect()
}

fn references(stack_name: &str, objects: &BTreeMap<String, FileObject>) -> BTreeMap<String, ObjectRef> {
    let reference = |(key, object): (&String, &FileObject)| {
        let name = match &object.name {
            Some(name) => name.clone(),
            None if object.content == Content::External => key.clone(),
            None => swarm::scoped(stack_name, key),
        };
        let id = format!("id of {name}");
        (key.clone(), ObjectRef { id, name })
    };
    objects.iter().map(reference).collect()
}

/// Docker's JSON in the type that skep reads from an engine, of which nothing may be lost on the way.
fn spec(file: &str, service: &Value) -> ServiceSpec {
    let mut service = service.clone();
    let container = service.pointer_mut("/TaskTemplate/ContainerSpec").unwrap();
    // As `docker::list` does it.
    if let Some(check) = container.as_object_mut().unwrap().remove("Healthcheck") {
        container["HealthCheck"] = check;
    }
    let spec: ServiceSpec = serde_json::from_value(service.clone()).unwrap();
    let (mut before, mut after) = (BTreeMap::new(), BTreeMap::new());
    leaves("", &service, &mut before);
    leaves("", &serde_json::to_value(&spec).unwrap(), &mut after);
    for (path, value) in before.iter().filter(|(_, value)| !value.is_null()) {
        // 0 and 0.0 are one.
        let equal = after.get(path).is_some_and(|after| match value.as_f64() {
            Some(number) => after.as_f64() == Some(number),
            None => after == value,
        });
        assert!(equal || says_nothing(value), "{file}: {path}: {value}");
    }
    spec
}

fn our_networks(stack: &Stack) -> Map<String, Value> {
    let plain = Network::default();
    let mut used = BTreeSet::new();
    for service in stack.services.values() {
        match service.networks.is_empty() {
            true => used.extend(["default"]),
            false => used.extend(service.networks.keys().map(String::as_str)),
        }
    }
    let make = |name: &str| {
        let network = swarm::network(STACK, name, stack.networks.get(name).unwrap_or(&plain))?;
        assert_eq!(network.name, swarm::network_name(STACK, name, stack));
        let name = network.name.clone();
        let mut network = serde_json::to_value(network).unwrap();
        network.as_object_mut().unwrap().remove("Name");
        Some((name, without_nothing(network)))
    };
    used.into_iter().filter_map(make).collect()
}

fn their_networks(networks: &Value) -> Map<String, Value> {
    let network = |(name, network): (&String, &Value)| {
        let mut network = network.clone();
        // The command does so just before it sends it.
        if network["Driver"] == "" {
            network["Driver"] = "overlay".into();
        }
        (name.clone(), without_nothing(network))
    };
    networks.as_object().into_iter().flatten().map(network).collect()
}

/// Without keys that say nothing; what is empty in a map of text stays.
fn without_nothing(value: Value) -> Value {
    let Value::Object(fields) = value else {
        return match value {
            Value::Array(items) => items.into_iter().map(without_nothing).collect(),
            value => value,
        };
    };
    let fields = fields.into_iter().map(|(key, value)| match key.as_str() {
        "Labels" | "Options" => (key, value),
        _ => (key, without_nothing(value)),
    });
    Value::Object(fields.filter(|(_, value)| !says_nothing(value)).collect())
}

fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::String(text) => text.is_empty(),
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    }
}

/// How many values there are; `differs` is told the path of each that differs, and a line about it.
fn compare(name: &str, ours: &Value, theirs: &Value, mut differs: impl FnMut(&str, String)) -> usize {
    let (mut ours_by_path, mut theirs_by_path) = (BTreeMap::new(), BTreeMap::new());
    leaves(name, ours, &mut ours_by_path);
    leaves(name, theirs, &mut theirs_by_path);
    let paths: BTreeSet<_> = ours_by_path.keys().chain(theirs_by_path.keys()).collect();
    let count = paths.len();
    for path in paths {
        let (ours, theirs) = (ours_by_path.get(path), theirs_by_path.get(path));
        if ours != theirs {
            differs(path, format!("{path}: skep {ours:?}, docker {theirs:?}"));
        }
    }
    // What holds no value, such as an empty mode, is in no path.
    if ours != theirs && ours_by_path == theirs_by_path {
        differs(name, format!("{name}: skep {ours}, docker {theirs}"));
    }
    count
}

// --- the files -----------------------------------------------------------------------------------------

#[test]
fn every_key_occurs_in_a_file_that_both_read() {
    let (mut known, mut seen) = (BTreeSet::new(), BTreeSet::new());
    for file in common() {
        let stack = serde_json::to_value(read(&file).unwrap().stack).unwrap();
        keys("", "", &stack, &mut known, &mut seen);
    }
    let missing: Vec<_> = known.difference(&seen).collect();
    assert!(missing.is_empty(), "no file has {missing:?}");
    assert!(known.len() > 100, "only {known:?}");
    // Which of several something is shows only where it occurs.
    let variants = [
        ".services.*.volumes[].source.volume.subpath",
        ".services.*.volumes[].source.bind.propagation",
        ".services.*.volumes[].source.tmpfs.size",
        ".services.*.healthcheck.test.command",
        ".services.*.healthcheck.test.shell",
        ".services.*.credential_spec.config",
        ".services.*.credential_spec.file",
        ".services.*.credential_spec.registry",
        ".secrets.*.content.driver.options",
        ".secrets.*.content.file",
        ".configs.*.content.file",
    ];
    for path in variants {
        assert!(seen.contains(path), "no file has {path}");
    }
}

/// The paths of the keys below `value`, and of those that say something.
fn keys(path: &str, key: &str, value: &Value, known: &mut BTreeSet<String>, seen: &mut BTreeSet<String>) {
    match value {
        Value::Object(_) if key == "extensions" => {}
        Value::Object(fields) => {
            for (name, value) in fields {
                let inner = match MAPS.contains(&key) {
                    true => format!("{path}.*"),
                    false => format!("{path}.{name}"),
                };
                known.insert(inner.clone());
                if !says_nothing(value) {
                    seen.insert(inner.clone());
                }
                let key = if MAPS.contains(&key) { "" } else { name };
                keys(&inner, key, value, known, seen);
            }
        }
        Value::Array(items) => {
            for item in items {
                keys(&format!("{path}[]"), "", item, known, seen);
            }
        }
        _ => {}
    }
}

// --- an engine -----------------------------------------------------------------------------------------

#[test]
fn an_engine_lists_the_same() {
    let Some(address) = variable("SKEP_TEST_DOCKER") else {
        return;
    };
    let engine = Engine::connect(vec![address.parse().unwrap()], Cancel::default()).unwrap();
    let (mut files, mut services, mut differing) = (0, 0, Vec::new());
    for entry in std::fs::read_dir(directory().join("deployed")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|end| end != "yml") {
            continue;
        }
        let deployed = Deployed::new(&address, &path);
        let listed = deployed.services(&engine);
        let stack = read(path.to_str().unwrap()).unwrap().stack;
        let ours = ours(&stack, &deployed.name, path.parent().unwrap());
        assert!(ours.keys().eq(listed.keys()), "{path:?}: {:?}", listed.keys());
        for (name, theirs) in &listed {
            compare(name, ours[name].as_ref().unwrap(), theirs, |_, line| {
                differing.push(format!("{}: {line}", path.display()));
            });
        }
        files += 1;
        services += listed.len();
    }
    assert!(differing.is_empty(), "{}", differing.join("\n"));
    eprintln!("{files} files, {services} services");
    assert!(
        files >= 10 && services >= 20,
        "only {files} files and {services} services"
    );
}

/// A stack on an engine, which goes away with it.
struct Deployed<'a> {
    address: &'a str,
    name: String,
}

impl<'a> Deployed<'a> {
    fn new(address: &'a str, file: &Path) -> Deployed<'a> {
        let stem = file.file_stem().unwrap().to_str().unwrap();
        let deployed = Deployed {
            address,
            name: format!("convert-{}-{stem}", std::process::id()),
        };
        let output = deployed.docker(&["deploy", "--resolve-image", "never", "-c", file.to_str().unwrap()]);
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{stem}: {complaint}");
        // It says so of `restart`, too, which it does not leave aside.
        let mut aside = complaint.lines().filter(|line| line.starts_with("Ignoring"));
        assert!(
            aside.all(|line| line.ends_with(": restart")),
            "{stem}: {complaint}"
        );
        deployed
    }

    fn docker(&self, arguments: &[&str]) -> Output {
        Command::new("docker")
            .args(["--host", self.address, "stack"])
            .args(arguments)
            .arg(&self.name)
            .env_clear()
            .envs(variables())
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .output()
            .unwrap()
    }

    /// In their normal form, by their names in the file.
    fn services(&self, engine: &Engine) -> BTreeMap<String, Value> {
        let networks: BTreeMap<_, _> = engine
            .networks(&[])
            .unwrap()
            .into_iter()
            .filter_map(|network| Some((network.id?, network.name?)))
            .collect();
        let label = format!("{}={}", swarm::NAMESPACE, self.name);
        let services = engine.services(&[("label", &label)]).unwrap();
        let specs = services.into_iter().filter_map(|service| service.spec);
        let normal = |spec: ServiceSpec| {
            let name = spec.name.as_ref().unwrap().strip_prefix(&self.name).unwrap();
            let canonical = swarm::canonical(&spec, &|id| networks.get(id).cloned());
            (name[1..].to_owned(), canonical)
        };
        specs.map(normal).collect()
    }
}

impl Drop for Deployed<'_> {
    fn drop(&mut self) {
        // A network cannot go before its tasks have gone.
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let output = self.docker(&["rm"]);
            let text = [output.stdout, output.stderr].concat();
            if String::from_utf8_lossy(&text).contains("Nothing found") || Instant::now() > deadline {
                return;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}
