//! What an engine that manages a swarm is asked for.

use std::collections::HashMap;

use bollard::models::{ConfigSpec, NetworkCreateRequest, Task, TaskState};
use skep::cancel::Cancel;
use skep::docker::{Engine, Error, LogLine, LogOptions, SecretSpec, Stream, config_content, data};

use crate::{PATIENCE, eventually, labels, service, swarm, unique};

fn running(engine: &Engine, service: &str) -> Task {
    eventually("a task that runs", || {
        let tasks = engine.tasks(&[("service", service)]).unwrap();
        let is_up =
            |task: &Task| task.status.as_ref().and_then(|status| status.state) == Some(TaskState::RUNNING);
        tasks.into_iter().find(is_up)
    })
}

fn version(engine: &Engine, name: &str) -> u64 {
    let service = engine.service(name).unwrap().unwrap();
    service.version.unwrap().index.unwrap()
}

#[test]
fn a_swarm_is_known_by_its_id() {
    let Some(engine) = swarm() else { return };
    assert!(!engine.swarm_id().unwrap().is_empty());
    assert_eq!(engine.swarm_id().unwrap(), swarm().unwrap().swarm_id().unwrap());
    let minor = engine
        .api_version()
        .strip_prefix("1.")
        .unwrap()
        .parse::<u32>()
        .unwrap();
    assert!(minor >= 41, "{minor}");
    assert_eq!(engine.nodes().unwrap().len(), 1);
}

#[test]
fn a_service_lives_and_goes() {
    let Some(engine) = swarm() else { return };
    let name = unique("service");
    let mut spec = service(&name, "exec sleep 1000");
    let id = engine.create_service(spec.clone(), None).unwrap();
    let again = engine.create_service(spec.clone(), None);
    assert!(matches!(again, Err(Error::Conflict(_))), "{again:?}");
    assert_eq!(engine.service(&name).unwrap().unwrap().id.as_deref(), Some(&*id));

    let first = version(&engine, &name);
    spec.labels = Some(labels("test", "changed"));
    engine.update_service(&id, first, spec.clone(), None).unwrap();
    let stale = engine.update_service(&id, first, spec.clone(), None);
    assert!(matches!(stale, Err(Error::OutOfSequence)), "{stale:?}");
    let found = engine.service(&id).unwrap().unwrap();
    assert_eq!(found.spec.unwrap().labels.unwrap()["test"], "changed");

    engine.remove_service(&id).unwrap();
    engine.remove_service(&id).unwrap();
    assert_eq!(engine.service(&name).unwrap(), None);
    let missing = engine.update_service(&id, first, spec, None);
    assert!(matches!(missing, Err(Error::NotFound(_))), "{missing:?}");
}

#[test]
fn one_look_finds_what_a_label_says() {
    let Some(engine) = swarm() else { return };
    let name = unique("look");
    let id = engine
        .create_service(service(&name, "exec sleep 1000"), None)
        .unwrap();
    let secret = SecretSpec {
        name: name.clone(),
        labels: labels("test", &name),
        content: b"x".to_vec(),
    };
    let secret = engine.create_secret(&secret).unwrap();
    running(&engine, &name);
    let all = engine.all(&[("label", &format!("test={name}"))]).unwrap();
    assert_eq!(all.services.len(), 1);
    assert_eq!(all.secrets.len(), 1);
    assert!(!all.tasks.is_empty() && all.tasks.iter().all(|task| task.service_id.as_ref() == Some(&id)));
    assert_eq!(
        (all.configs.len(), all.networks.len(), all.nodes.len()),
        (0, 0, 1)
    );
    engine.remove_service(&id).unwrap();
    engine.remove_secret(&secret).unwrap();
}

#[test]
fn secrets_are_compared_where_they_are() {
    let Some(engine) = swarm() else { return };
    let mut spec = SecretSpec {
        name: unique("secret"),
        labels: labels("version", "1"),
        content: b"what nobody knows".to_vec(),
    };
    let id = engine.create_secret(&spec).unwrap();
    let again = engine.create_secret(&spec);
    assert!(matches!(again, Err(Error::Conflict(_))), "{again:?}");
    let found = engine.secrets(&[("name", &spec.name)]).unwrap().remove(0);
    assert_eq!(found.spec.unwrap().data, None, "no engine tells a secret");

    assert!(engine.secret_holds(&id, &spec).unwrap());
    let other = SecretSpec {
        content: b"what somebody guesses".to_vec(),
        ..spec.clone()
    };
    assert!(!engine.secret_holds(&id, &other).unwrap());
    let nothing = engine.secret_holds("0123456789abcdefghijklmno", &spec);
    assert!(matches!(nothing, Err(Error::NotFound(_))), "{nothing:?}");

    let index = found.version.unwrap().index.unwrap();
    let refused = engine.update_secret(&id, index, &other).unwrap_err();
    assert!(matches!(refused, Error::Refused(_)));
    assert!(!format!("{refused:?} {refused}").contains("guesses"));
    spec.labels = labels("version", "2");
    spec.content.clear();
    engine.update_secret(&id, index, &spec).unwrap();
    let stale = engine.update_secret(&id, index, &spec);
    assert!(matches!(stale, Err(Error::OutOfSequence)), "{stale:?}");
    let found = engine.secrets(&[("id", &id)]).unwrap().remove(0);
    assert_eq!(found.spec.unwrap().labels, Some(labels("version", "2")));

    engine.remove_secret(&id).unwrap();
    engine.remove_secret(&id).unwrap();
    assert_eq!(engine.secrets(&[("id", &id)]).unwrap().len(), 0);
}

#[test]
fn configs_keep_content_and_change_labels() {
    let Some(engine) = swarm() else { return };
    let content: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    let name = unique("config.state");
    let mut spec = ConfigSpec {
        name: Some(name.clone()),
        labels: Some(labels("lock", "")),
        data: Some(data(&content)),
        templating: None,
    };
    assert_eq!(engine.config(&name).unwrap(), None);
    let id = engine.create_config(spec.clone()).unwrap();
    let again = engine.create_config(spec.clone());
    assert!(matches!(again, Err(Error::Conflict(_))), "{again:?}");
    let found = engine.config(&name).unwrap().unwrap();
    assert_eq!(config_content(&found).unwrap(), content);

    let index = found.version.unwrap().index.unwrap();
    spec.labels = Some(labels("lock", "mine"));
    spec.data = None;
    engine.update_config(&id, index, spec.clone()).unwrap();
    let stale = engine.update_config(&id, index, spec);
    assert!(matches!(stale, Err(Error::OutOfSequence)), "{stale:?}");
    let found = engine
        .configs(&[("label", "lock=mine"), ("name", &name)])
        .unwrap()
        .remove(0);
    assert_eq!(config_content(&found).unwrap(), content);

    engine.remove_config(&id).unwrap();
    engine.remove_config(&id).unwrap();
    assert_eq!(engine.config(&name).unwrap(), None);
}

#[test]
fn networks_come_and_go() {
    let Some(engine) = swarm() else { return };
    let name = unique("network");
    let network = NetworkCreateRequest {
        name: name.clone(),
        driver: Some("overlay".to_owned()),
        labels: Some(labels("test", &name)),
        ..NetworkCreateRequest::default()
    };
    let id = engine.create_network(network.clone()).unwrap();
    let again = engine.create_network(network);
    assert!(matches!(again, Err(Error::Conflict(_))), "{again:?}");
    let filter = format!("test={name}");
    let found = engine.networks(&[("label", &filter)]).unwrap();
    assert_eq!(found[0].id.as_deref(), Some(&*id));
    engine.remove_network(&id).unwrap();
    engine.remove_network(&id).unwrap();
    assert_eq!(engine.networks(&[("label", &filter)]).unwrap(), []);
}

const TALK: &str = "echo out loud; echo to err >&2; n=0; while sleep 1; do n=$((n+1)); echo tick $n; done";

#[test]
fn logs_say_who_wrote_what() {
    let Some(engine) = swarm() else { return };
    let name = unique("logs");
    // A script's only applet that is not built in is `sleep`, which busybox finds by itself.
    let script = TALK.replace("sleep", "/bin/busybox sleep");
    let id = engine.create_service(service(&name, &script), None).unwrap();
    let task = running(&engine, &name).id.unwrap();
    let options = LogOptions {
        timestamps: true,
        ..LogOptions::default()
    };
    let lines = eventually("three lines", || {
        let mut lines = Vec::<LogLine>::new();
        let mut each = |line| lines.push(line);
        let read = engine.service_logs(&id, &options, &Cancel::default(), &mut each);
        read.unwrap();
        (lines.len() >= 3).then_some(lines)
    });
    let by = |stream, text: &str| {
        lines
            .iter()
            .any(|line| line.stream == stream && line.line == text)
    };
    assert!(
        by(Stream::Out, "out loud") && by(Stream::Err, "to err"),
        "{lines:?}"
    );
    for line in &lines {
        assert_eq!(line.task.as_ref(), Some(&task));
        assert!(
            line.node.is_some() && line.time.as_ref().unwrap().ends_with('Z'),
            "{line:?}"
        );
    }

    let mut last = HashMap::new();
    let options = LogOptions {
        tail: Some(1),
        ..LogOptions::default()
    };
    let mut each = |line: LogLine| drop(last.insert(line.task, line.line));
    engine
        .task_logs(&task, &options, &Cancel::default(), &mut each)
        .unwrap();
    assert!(last[&Some(task)].starts_with("tick "), "{last:?}");
    follow(&engine, &id);
    engine.remove_service(&id).unwrap();
    let gone = engine.service_logs(&id, &options, &Cancel::default(), &mut |_| {});
    assert!(matches!(gone, Err(Error::NotFound(_))), "{gone:?}");
}

/// Lines come while they are written, until the run is stopped; meanwhile the engine can be asked.
fn follow(engine: &Engine, id: &str) {
    let options = LogOptions {
        follow: true,
        tail: Some(0),
        ..LogOptions::default()
    };
    let cancel = Cancel::default();
    let began = std::time::Instant::now();
    let mut ticks = 0;
    let mut each = |line: LogLine| {
        assert!(line.line.starts_with("tick "), "{line:?}");
        assert!(engine.service(id).unwrap().is_some());
        ticks += 1;
        if ticks == 2 {
            cancel.raise();
        }
    };
    let ended = engine.service_logs(id, &options, &cancel, &mut each);
    assert!(matches!(ended, Err(Error::Cancelled)), "{ended:?}");
    assert!(ticks >= 2 && began.elapsed() < PATIENCE);
}
