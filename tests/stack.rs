//! Stack files as skep reads them, and as docker's own loader does: `tests/stack/*.yml`, field by field.
//!
//! The first line of each file says what is expected. `docs/stack.md` has the differences that are meant; what
//! both read has to be equal but for what [`as_docker`] and [`normal`] say.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use skep::stack::{
    self, Attachment, Content, CredentialSpec, Deploy, FileObject, Grant, HealthCheck, HealthTest, Mount,
    MountSource, Network, Service, Span, Stack, Update, Volume,
};

#[path = "stack/files.rs"]
mod files;

use files::{BOTH_READ, directory, docker, files, leaves, read};
use skep_test_support::variable;

const BOTH_REFUSE: &str = "# both refuse it";
const ONLY_SKEP_REFUSES: &str = "# skep refuses it, docker does not: ";
const ONLY_DOCKER_REFUSES: &str = "# docker refuses it, skep does not: ";

/// Maps of text whose values may be empty: compared as lists of `key=value`.
const MAPS_OF_TEXT: [&str; 5] = ["environment", "labels", "driver_opts", "options", "sysctls"];

#[test]
fn skep_reads_and_refuses_what_the_files_say() {
    let mut counts = BTreeMap::<&str, usize>::new();
    for (name, expected) in files() {
        let kinds = [BOTH_READ, BOTH_REFUSE, ONLY_SKEP_REFUSES, ONLY_DOCKER_REFUSES];
        let kind = kinds.into_iter().find(|kind| expected.starts_with(kind));
        let kind = kind.unwrap_or_else(|| panic!("{name} does not say what is expected: {expected}"));
        *counts.entry(kind).or_default() += 1;
        let read = read(&name);
        let refuses = [BOTH_REFUSE, ONLY_SKEP_REFUSES].contains(&kind);
        assert_eq!(read.is_err(), refuses, "{name}: {expected}: {:?}", read.err());
        if let Err(error) = read {
            // Every complaint names the file and the line.
            for line in error.to_string().lines() {
                assert!(line.contains(&format!("{name}:")), "{name}: {line}");
            }
        }
    }
    assert!(counts[BOTH_READ] >= 35 && counts[BOTH_REFUSE] >= 50, "{counts:?}");
}

#[test]
fn docker_reads_the_same() {
    let Some(program) = variable("SKEP_TEST_COMPOSE") else {
        return;
    };
    let files = files();
    let answers = docker(&program, files.keys());
    assert_eq!(answers.len(), files.len());
    let mut compared = 0;
    for (name, expected) in &files {
        let answer = &answers[name];
        let refuses = expected == BOTH_REFUSE || expected.starts_with(ONLY_DOCKER_REFUSES);
        let error = answer.get("error");
        assert_eq!(
            error.is_some(),
            refuses,
            "{name}: {expected}: docker says {error:?}"
        );
        if expected == BOTH_READ {
            compared += compare(name, &read(name).unwrap().stack, &answer["config"]);
        }
    }
    assert!(compared > 600, "only {compared} values were compared");
}

/// How many values are equal; all are.
#[track_caller]
fn compare(name: &str, stack: &Stack, docker: &Value) -> usize {
    let (ours, theirs) = (normal("", as_docker(stack)), normal("", from_docker(docker)));
    let (mut ours_by_path, mut theirs_by_path) = (BTreeMap::new(), BTreeMap::new());
    leaves("", &ours, &mut ours_by_path);
    leaves("", &theirs, &mut theirs_by_path);
    let paths: BTreeSet<_> = ours_by_path.keys().chain(theirs_by_path.keys()).collect();
    let differing: Vec<_> = paths
        .into_iter()
        .filter(|path| ours_by_path.get(*path) != theirs_by_path.get(*path))
        .map(|path| {
            let (ours, theirs) = (ours_by_path.get(path), theirs_by_path.get(path));
            format!("{path}: skep {ours:?}, docker {theirs:?}")
        })
        .collect();
    assert!(differing.is_empty(), "{name}:\n{}", differing.join("\n"));
    ours_by_path.len()
}

// --- both sides ----------------------------------------------------------------------------------------

/// What says nothing is dropped, as docker's JSON does in most places: null, `false`, empty texts, lists and
/// maps. Lists keep what is empty in them.
fn normal(key: &str, value: Value) -> Value {
    match value {
        Value::Object(map) if MAPS_OF_TEXT.contains(&key) => {
            let pair = |(key, value): (String, Value)| json!(format!("{key}={}", value.as_str().unwrap()));
            map.into_iter().map(pair).collect()
        }
        Value::Object(map) => {
            let entries = map.into_iter().map(|(key, value)| {
                let value = normal(&key, value);
                (key, value)
            });
            Value::Object(entries.filter(|(_, value)| !is_empty(value)).collect())
        }
        Value::Array(items) => items.into_iter().map(|item| normal("", item)).collect(),
        scalar => scalar,
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Number(_) => false,
    }
}

/// A map as a list, so that empty values keep their names.
fn listed<'m, V: 'm>(
    map: impl IntoIterator<Item = (&'m String, V)>,
    show: impl Fn(&str, V) -> Value,
) -> Value {
    let item = |(name, value): (&'m String, V)| {
        let mut item = show(name, value);
        item["as"] = json!(name);
        item
    };
    map.into_iter().map(item).collect()
}

// --- docker's side -------------------------------------------------------------------------------------

fn from_docker(config: &Value) -> Value {
    let mut top = config.as_object().unwrap().clone();
    // Skep has no use for it once it is read.
    top.remove("version");
    for section in ["networks", "volumes", "secrets", "configs"] {
        let entries = top.remove(section).unwrap_or(json!({}));
        let show = |_: &str, value: &Value| {
            let mut value = value.clone();
            if let Some(file) = value.get("file") {
                let content = value["external"] != json!(true) && value.get("driver").is_none();
                value["file"] = if content { relative(file) } else { Value::Null };
            }
            value
        };
        top.insert(section.to_owned(), listed(entries.as_object().unwrap(), show));
    }
    for service in top["services"].as_object_mut().unwrap().values_mut() {
        service_from_docker(service.as_object_mut().unwrap());
    }
    Value::Object(top)
}

/// Docker joins paths to the file's directory.
fn relative(path: &Value) -> Value {
    let path = Path::new(path.as_str().unwrap());
    let mut directory = directory();
    let mut up = PathBuf::new();
    loop {
        if let Ok(rest) = path.strip_prefix(&directory)
            && up.components().count() < 2
        {
            return json!(up.join(rest));
        }
        up.push("..");
        if !directory.pop() {
            return json!(path);
        }
    }
}

fn service_from_docker(service: &mut Map<String, Value>) {
    // Noted, and left aside.
    for key in ["build", "container_name", "links"] {
        service.remove(key);
    }
    if let Some(init) = service.get_mut("init") {
        *init = json!(init.to_string());
    }
    let networks = service.remove("networks").unwrap_or(json!({}));
    let show = |_: &str, value: &Value| if value.is_null() { json!({}) } else { value.clone() };
    service.insert("networks".to_owned(), listed(networks.as_object().unwrap(), show));
    for port in items(service, "ports") {
        port["mode"] = port.get("mode").cloned().unwrap_or(json!("ingress"));
        port["protocol"] = port.get("protocol").cloned().unwrap_or(json!("tcp"));
    }
    // Docker's order within a range is that of the ports' texts.
    items(service, "ports").sort_by_key(Value::to_string);
    for mount in items(service, "volumes") {
        if mount["type"] == "bind" {
            mount["source"] = relative(&mount["source"]);
        }
        mount.as_object_mut().unwrap().remove("consistency");
    }
    if let Some(Value::Object(limits)) = service.get_mut("ulimits") {
        for limit in limits.values_mut() {
            // One number is both, and 0 is left out.
            *limit = match limit.is_number() {
                true => json!({"soft": limit, "hard": limit}),
                false => json!({
                    "soft": limit["soft"].as_i64().unwrap_or(0),
                    "hard": limit["hard"].as_i64().unwrap_or(0),
                }),
            };
        }
    }
    restart_from_docker(service);
    // Two ways to say it are one to skep, and so is the default.
    if let Some(check) = service.get_mut("healthcheck")
        && check["disable"] == json!(true)
    {
        *check = json!({"test": ["NONE"]});
    }
    let deploy = service["deploy"].as_object_mut().unwrap();
    deploy.retain(|key, value| key != "mode" || value != "replicated");
    for part in ["limits", "reservations"] {
        if let Some(cpus) = service["deploy"].pointer_mut(&format!("/resources/{part}/cpus")) {
            let number: f64 = cpus.as_str().unwrap().parse().unwrap();
            *cpus = json!((number * 1e9).round() as u64);
        }
    }
}

fn items<'s>(service: &'s mut Map<String, Value>, key: &str) -> &'s mut [Value] {
    match service.get_mut(key) {
        Some(Value::Array(items)) => items,
        _ => &mut [],
    }
}

/// `restart` counts where there is no policy. Docker gives `no` no meaning; no file that both read has it.
fn restart_from_docker(service: &mut Map<String, Value>) {
    let restart = service.remove("restart");
    let Some(restart) = restart.as_ref().and_then(Value::as_str) else {
        return;
    };
    let policy = match restart.split_once(':') {
        Some((condition, attempts)) => {
            json!({"condition": condition, "max_attempts": attempts.parse::<u64>().unwrap()})
        }
        None if restart == "on-failure" => json!({"condition": restart}),
        None => json!({"condition": "any"}),
    };
    if service["deploy"].get("restart_policy").is_none() {
        service["deploy"]["restart_policy"] = policy;
    }
}

// --- skep's side ---------------------------------------------------------------------------------------

fn as_docker(stack: &Stack) -> Value {
    let services = stack
        .services
        .iter()
        .map(|(name, service)| (name.clone(), service_as_docker(service)));
    let mut top = json!({
        "services": services.collect::<Map<_, _>>(),
        "networks": listed(&stack.networks, network),
        "volumes": listed(&stack.volumes, volume),
        "secrets": listed(&stack.secrets, file_object),
        "configs": listed(&stack.configs, file_object),
    });
    for (key, value) in &stack.extensions {
        top[key] = value.clone();
    }
    top
}

/// Docker names what is external.
fn name(key: &str, name: &Option<String>, external: bool) -> Option<String> {
    name.clone().or(external.then(|| key.to_owned()))
}

fn network(key: &str, network: &Network) -> Value {
    let pool = |subnet: &String| json!({"subnet": subnet});
    json!({
        "name": name(key, &network.name, network.external),
        "external": network.external,
        "driver": network.driver,
        "driver_opts": network.driver_opts,
        "internal": network.internal,
        "attachable": network.attachable,
        "ipam": {"driver": network.ipam_driver, "config": network.subnets.iter().map(pool).collect::<Value>()},
        "labels": network.labels,
    })
}

fn volume(key: &str, volume: &Volume) -> Value {
    json!({
        "name": name(key, &volume.name, volume.external),
        "external": volume.external,
        "driver": volume.driver,
        "driver_opts": volume.driver_opts,
        "labels": volume.labels,
    })
}

fn file_object(key: &str, object: &FileObject) -> Value {
    let external = object.content == Content::External;
    let mut value = json!({
        "name": name(key, &object.name, external),
        "external": external,
        "labels": object.labels,
        "template_driver": object.template_driver,
    });
    match &object.content {
        Content::External => {}
        Content::File(file) => value["file"] = plain_path(file),
        Content::Driver { name, options } => {
            value["driver"] = json!(name);
            value["driver_opts"] = json!(options);
        }
    }
    value
}

/// Without `.` components, as docker's joining leaves it.
fn plain_path(path: &str) -> Value {
    let parts = Path::new(path).components();
    let parts = parts.filter(|part| *part != std::path::Component::CurDir);
    json!(parts.collect::<PathBuf>())
}

fn service_as_docker(service: &Service) -> Value {
    let limits = service.ulimits.iter().map(|(name, limit)| {
        let limit = json!({"soft": limit.soft, "hard": limit.hard});
        (name.clone(), limit)
    });
    let hosts = service
        .extra_hosts
        .iter()
        .map(|host| format!("{}:{}", host.name, host.address));
    let logging = service.logging.as_ref();
    json!({
        "image": service.image,
        "command": service.command,
        "entrypoint": service.entrypoint,
        "environment": service.environment,
        "env_file": service.env_file,
        "ports": ports(service),
        "expose": service.expose,
        "networks": listed(&service.networks, |_, network: &Attachment| {
            json!({"aliases": network.aliases, "driver_opts": network.driver_opts})
        }),
        "volumes": service.volumes.iter().map(mount).collect::<Value>(),
        "tmpfs": service.tmpfs.iter().map(tmpfs).collect::<Value>(),
        "secrets": service.secrets.iter().map(grant).collect::<Value>(),
        "configs": service.configs.iter().map(grant).collect::<Value>(),
        "healthcheck": service.healthcheck.as_ref().map(health_check),
        "deploy": deploy(&service.deploy),
        "depends_on": service.depends_on.keys().collect::<Vec<_>>(),
        "labels": service.labels,
        "logging": logging.map(|logging| json!({"driver": logging.driver, "options": logging.options})),
        "stop_grace_period": service.stop_grace_period.map(text),
        "stop_signal": service.stop_signal,
        "user": service.user,
        "working_dir": service.working_dir,
        "hostname": service.hostname,
        "init": service.init.map(|init| init.to_string()),
        "read_only": service.read_only,
        "tty": service.tty,
        "stdin_open": service.stdin_open,
        "cap_add": service.cap_add,
        "cap_drop": service.cap_drop,
        "sysctls": service.sysctls,
        "ulimits": limits.collect::<Map<_, _>>(),
        "extra_hosts": hosts.collect::<Vec<_>>(),
        "dns": service.dns,
        "dns_search": service.dns_search,
        "isolation": service.isolation,
        "credential_spec": service.credential_spec.as_ref().map(|spec| match spec {
            CredentialSpec::Config(config) => json!({"config": config}),
            CredentialSpec::File(file) => json!({"file": file}),
            CredentialSpec::Registry(key) => json!({"registry": key}),
        }),
    })
}

/// Without `host_ip`, which docker's model does not have.
fn ports(service: &Service) -> Value {
    let port = |port: &stack::Port| {
        let mut value = json!({
            "target": port.target,
            "protocol": port.protocol.to_string(),
            "mode": port.mode.to_string(),
        });
        if let Some(published) = port.published {
            value["published"] = json!(published);
        }
        value
    };
    let mut ports: Vec<_> = service.ports.iter().map(port).collect();
    ports.sort_by_key(Value::to_string);
    json!(ports)
}

fn mount(mount: &Mount) -> Value {
    let mut value = json!({"target": mount.target, "read_only": mount.read_only});
    match &mount.source {
        MountSource::Volume {
            name,
            nocopy,
            subpath,
        } => {
            value["type"] = json!("volume");
            value["source"] = json!(name);
            value["volume"] = json!({"nocopy": nocopy, "subpath": subpath});
        }
        MountSource::Bind { path, propagation } => {
            value["type"] = json!("bind");
            value["source"] = plain_path(path);
            value["bind"] = json!({"propagation": propagation.map(|kind| kind.to_string())});
        }
        MountSource::Tmpfs { size } => {
            value["type"] = json!("tmpfs");
            value["tmpfs"] = json!({"size": size});
        }
    }
    value
}

fn tmpfs(tmpfs: &stack::Tmpfs) -> Value {
    let size = tmpfs.size.map(|size| format!("size={size}"));
    let mode = tmpfs.mode.map(|mode| format!("mode={mode:o}"));
    let options: Vec<_> = size.into_iter().chain(mode).collect();
    match options.is_empty() {
        true => json!(tmpfs.target),
        false => json!(format!("{}:{}", tmpfs.target, options.join(","))),
    }
}

fn grant(grant: &Grant) -> Value {
    json!({
        "source": grant.source,
        "target": grant.target,
        "uid": grant.uid,
        "gid": grant.gid,
        "mode": grant.mode,
    })
}

fn text(span: Span) -> String {
    span.to_string()
}

fn health_check(check: &HealthCheck) -> Value {
    let test = match &check.test {
        None => json!([]),
        Some(HealthTest::Disabled) => json!(["NONE"]),
        Some(HealthTest::Shell(line)) => json!(["CMD-SHELL", line]),
        Some(HealthTest::Command(command)) => json!([&["CMD".to_owned()], command.as_slice()].concat()),
    };
    json!({
        "test": test,
        "interval": check.interval.map(text),
        "timeout": check.timeout.map(text),
        "retries": check.retries,
        "start_period": check.start_period.map(text),
        "start_interval": check.start_interval.map(text),
    })
}

fn deploy(deploy: &Deploy) -> Value {
    let (limits, reservations) = (&deploy.resources.limits, &deploy.resources.reservations);
    let generic = |resource: &stack::Generic| json!({"discrete_resource_spec": {"kind": resource.kind, "value": resource.value}});
    let bytes = |bytes: Option<u64>| bytes.map(|bytes| bytes.to_string());
    let spread = |label: &String| json!({"spread": label});
    json!({
        "mode": (deploy.mode != stack::Mode::Replicated).then(|| deploy.mode.to_string()),
        "replicas": deploy.replicas,
        "labels": deploy.labels,
        "update_config": deploy.update_config.as_ref().map(update),
        "rollback_config": deploy.rollback_config.as_ref().map(update),
        "restart_policy": deploy.restart_policy.as_ref().map(|policy| json!({
            "condition": policy.condition.map(|condition| condition.to_string()),
            "delay": policy.delay.map(text),
            "max_attempts": policy.max_attempts,
            "window": policy.window.map(text),
        })),
        "resources": {
            "limits": {"cpus": limits.nano_cpus, "memory": bytes(limits.memory), "pids": limits.pids},
            "reservations": {
                "cpus": reservations.nano_cpus,
                "memory": bytes(reservations.memory),
                "generic_resources": reservations.generic.iter().map(generic).collect::<Value>(),
            },
        },
        "placement": {
            "constraints": deploy.placement.constraints,
            "preferences": deploy.placement.spread.iter().map(spread).collect::<Value>(),
            "max_replicas_per_node": deploy.placement.max_replicas_per_node,
        },
        "endpoint_mode": deploy.endpoint_mode.map(|mode| mode.to_string()),
    })
}

/// Docker has no `None` for some durations and the ratio: nothing is 0.
fn update(update: &Update) -> Value {
    let span = |span: Option<Span>| span.filter(|span| !span.0.is_zero()).map(text);
    json!({
        "parallelism": update.parallelism,
        "delay": span(update.delay),
        "failure_action": update.failure_action.map(|action| action.to_string()),
        "monitor": span(update.monitor),
        "max_failure_ratio": update.max_failure_ratio.filter(|ratio| *ratio > 0.0),
        "order": update.order.map(|order| order.to_string()),
    })
}
