//! Names and ports: requests find the replicas that are ready, and none fails while they are replaced.

use std::collections::BTreeMap;

use skep::supervisor::TaskState;
use skep_test_support::{Load, free_port, has_busybox};

use crate::bench::{Bench, converged, ms, until};

#[test]
fn no_request_fails_while_replicas_are_replaced_and_more_of_them_come_and_go() {
    if !has_busybox() {
        return;
    }
    let bench = Bench::new();
    let mut client = bench.client();
    let port = free_port();
    client.publish(port).unwrap();
    let web = |answer: &str| {
        let mut spec = bench.web(answer);
        spec.ports = BTreeMap::from([(port, 80)]);
        spec
    };
    client.put(&bench.store, "web", &web("one"), 2, None).unwrap();
    converged(&mut client, "web");
    let load = Load::start(port, "/");
    for (answer, replicas, hold) in [
        ("two", 2, Some(1)),
        ("two", 2, None),
        ("two", 4, None),
        ("one", 2, None),
    ] {
        client
            .put(&bench.store, "web", &web(answer), replicas, hold)
            .unwrap();
        match hold {
            None => drop(converged(&mut client, "web")),
            Some(_) => drop(until(&mut client, "held", |state| {
                let service = &state.services["web"];
                let new = service
                    .replicas
                    .iter()
                    .filter(|it| it.spec == service.spec && it.ready);
                new.count() == 1 && service.replicas.len() == 2
            })),
        }
    }
    let answers = load.finish();
    assert!(answers.keys().eq(["one\n", "two\n"]), "{answers:?}");
}

#[test]
fn replicas_find_each_other_by_name_on_each_of_their_networks() {
    if !has_busybox() {
        return;
    }
    let bench = Bench::new();
    let mut client = bench.client();
    let on = |networks: &[(&str, &[&str])], mut spec: skep::supervisor::ServiceSpec| {
        let networks = networks.iter().map(|(name, aliases)| {
            let aliases = aliases.iter().map(|alias| (*alias).to_owned()).collect();
            ((*name).to_owned(), aliases)
        });
        spec.networks = networks.collect();
        spec
    };
    let db = on(&[("back", &["store"])], bench.web("data"));
    client.put(&bench.store, "db", &db, 1, None).unwrap();
    let web = on(&[("front", &[])], bench.web("page"));
    client.put(&bench.store, "web", &web, 2, None).unwrap();
    // Not by getaddrinfo: in a static busybox that needs files which the image does not have.
    let asks = "page() { wget -qO- http://$(nslookup -type=a $1 | awk '/^Address: 10/ {print $2; exit}')/; }; \
                for name in db store db.1 web web.2; do page $name; done; \
                nslookup -type=a web | grep -c 'Address: 10'; nslookup -type=a absent | grep -c NXDOMAIN; \
                wget -qO- http://192.0.2.1/ 2>&1; true";
    converged(&mut client, "db");
    converged(&mut client, "web");
    let api = on(&[("back", &[]), ("front", &[])], bench.script(asks));
    client.run_task(&bench.store, "ask", &api, ms(60_000)).unwrap();
    let both = on(&[("back", &[]), ("front", &[])], bench.script("sleep 600"));
    client.put(&bench.store, "api", &both, 1, None).unwrap();
    let state = until(&mut client, "asked", |state| {
        state.tasks["ask"].state != TaskState::Running
    });
    assert_eq!(state.tasks["ask"].state, TaskState::Done);
    let printed = bench.printed("ask");
    assert_eq!(
        printed[..7],
        ["data", "data", "data", "page", "page", "2", "1"],
        "{printed:?}"
    );
    assert!(printed[7].contains("unreachable"), "{printed:?}");
}
