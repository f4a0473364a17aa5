//! Managers that are dead, that manage nothing, that lose answers, and what the client makes of it.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use bollard::models::ConfigSpec;
use skep::cancel::Cancel;
use skep::docker::{Address, Engine, Error, RegistryAuth, data};
use skep_test_support::variable;

use crate::proxy::{Fate, Proxy, header};
use crate::{ALONE, SWARM, address, service, swarm, unique};

fn connect(managers: &[&Address]) -> Result<Engine, Error> {
    let managers = managers.iter().copied().cloned().collect();
    Engine::connect(managers, Cancel::default())
}

fn config(name: &str) -> ConfigSpec {
    ConfigSpec {
        name: Some(name.to_owned()),
        data: Some(data(b"x")),
        ..ConfigSpec::default()
    }
}

#[test]
fn the_first_manager_that_answers_is_used() {
    let (Some(real), Some(alone)) = (variable(SWARM), variable(ALONE)) else {
        return;
    };
    let (real, alone) = (address(&real), address(&alone));
    let dead = address("unix:///nonexistent/engine.sock");
    let engine = connect(&[&dead, &alone, &real]).unwrap();
    assert_eq!(engine.address(), real);
    assert_eq!(engine.nodes().unwrap().len(), 1);
}

#[test]
fn every_manager_that_is_none_is_named() {
    let Some(alone) = variable(ALONE) else { return };
    let alone = address(&alone);
    let error = connect(&[&alone]).unwrap_err();
    assert!(matches!(error, Error::NotAManager { .. }), "{error:?}");
    let dead = address("unix:///nonexistent/engine.sock");
    let error = connect(&[&dead, &alone]).unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    let error = error.to_string();
    for text in [&dead.to_string(), &alone.to_string(), "not a swarm manager"] {
        assert!(error.contains(text), "{text}: {error}");
    }
    let nobody = connect(&[]).unwrap_err();
    assert!(matches!(nobody, Error::Unreachable { .. }), "{nobody:?}");
}

#[test]
fn reading_goes_on_with_the_next_manager() {
    for fate in [Fate::Cut, Fate::Leaderless] {
        let Some(proxy) = Proxy::new() else { return };
        let (first, second) = (proxy.address(), address(&variable(SWARM).unwrap()));
        let engine = connect(&[&first, &second]).unwrap();
        assert_eq!(engine.address(), first);
        proxy.set(fate);
        assert_eq!(engine.nodes().unwrap().len(), 1, "{fate:?}");
        assert_eq!(engine.address(), second, "{fate:?}");
        // Back again, when the second one is of no use: here, by the first one's being alone.
        proxy.set(Fate::Through);
        let engine = connect(&[&first]).unwrap();
        proxy.set(fate);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_secs(1));
                proxy.set(Fate::Through);
            });
            assert_eq!(engine.nodes().unwrap().len(), 1, "{fate:?}");
        });
    }
}

#[test]
fn a_write_is_sent_once_whatever_becomes_of_it() {
    let Some(proxy) = Proxy::new() else { return };
    let engine = connect(&[&proxy.address()]).unwrap();
    let looking = swarm().unwrap();
    for fate in [Fate::Unanswered, Fate::Cut, Fate::Leaderless] {
        let name = unique("once");
        proxy.seen();
        proxy.set(fate);
        let written = engine.create_config(config(&name));
        assert!(
            matches!(written, Err(Error::Unreachable { .. })),
            "{fate:?}: {written:?}"
        );
        let seen = proxy.seen();
        let writes = seen.iter().filter(|head| head.starts_with("POST "));
        assert_eq!(writes.count(), 1, "{fate:?}: {seen:?}");
        proxy.set(Fate::Through);
        let found = engine.config(&name).unwrap();
        assert_eq!(found.is_some(), fate == Fate::Unanswered, "{fate:?}");
        assert_eq!(found.is_some(), looking.config(&name).unwrap().is_some());
        engine.remove_config(&name).unwrap();
    }
}

#[test]
fn who_is_stopped_does_not_wait_and_can_still_unlock() {
    let Some(proxy) = Proxy::new() else { return };
    let cancel = Cancel::default();
    let engine = Engine::connect(vec![proxy.address()], cancel.clone()).unwrap();
    let name = unique("lock");
    let id = engine.create_config(config(&name)).unwrap();
    proxy.set(Fate::Cut);
    let began = Instant::now();
    let stopped = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| engine.nodes());
        std::thread::sleep(Duration::from_millis(500));
        cancel.raise();
        waiting.join().unwrap()
    });
    assert!(matches!(stopped, Err(Error::Cancelled)), "{stopped:?}");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    proxy.set(Fate::Through);
    engine.remove_config(&id).unwrap();
    assert_eq!(engine.config(&name).unwrap(), None);
    let again = Engine::connect(vec![proxy.address()], cancel);
    assert!(matches!(again, Err(Error::Cancelled)));
}

#[test]
fn credentials_arrive_as_they_are() {
    let Some(proxy) = Proxy::new() else { return };
    let engine = connect(&[&proxy.address()]).unwrap();
    let name = unique("auth");
    let auth = RegistryAuth {
        server: "registry.invalid".to_owned(),
        username: "robot".to_owned(),
        // In base64's usual alphabet, this has both of the characters that the engine does not read.
        password: "~~~???>>>ÿÿÿ".to_owned(),
    };
    proxy.seen();
    let spec = service(&name, "exit 0");
    let id = engine.create_service(spec.clone(), Some(&auth)).unwrap();
    let version = engine
        .service(&id)
        .unwrap()
        .unwrap()
        .version
        .unwrap()
        .index
        .unwrap();
    engine.update_service(&id, version, spec, None).unwrap();
    engine.remove_service(&id).unwrap();
    let seen = proxy.seen();
    let sent = |part: &str| seen.iter().find(|head| head.contains(part)).unwrap();
    let created = sent("/services/create");
    let versioned = format!("POST /v{}/services/create ", engine.api_version());
    assert!(created.starts_with(&versioned), "{created}");
    let value = URL_SAFE
        .decode(header(created, "X-Registry-Auth").unwrap())
        .unwrap();
    let value: serde_json::Value = serde_json::from_slice(&value).unwrap();
    assert_eq!(value["password"], auth.password);
    assert_eq!(value["serveraddress"], auth.server);
    let updated = sent("/update");
    assert_eq!(header(updated, "X-Registry-Auth"), None);
    assert!(updated.contains("registryAuthFrom=spec"), "{updated}");
}
