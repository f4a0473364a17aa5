//! Names and ports: requests find the replicas that are ready, and none fails while they are replaced.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use skep::supervisor::TaskState;
use skep_test_support::{free_port, has_busybox};

use crate::bench::{Bench, converged, ms, until};

/// The body of the answer to one request, or what went wrong.
fn get(port: u16) -> Result<String, String> {
    let text = |error: std::io::Error| error.to_string();
    let mut stream = TcpStream::connect(("127.0.0.1", port)).map_err(text)?;
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .map_err(text)?;
    stream
        .write_all(b"GET / HTTP/1.0\r\nHost: web\r\n\r\n")
        .map_err(text)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(text)?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.contains(" 200 ") => Ok(body.trim().to_owned()),
        _ => Err(format!("an answer of `{answer}`")),
    }
}

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
    let over = AtomicBool::new(false);
    let ask = || {
        let mut answers = Vec::new();
        while !over.load(Ordering::Relaxed) {
            answers.push(get(port));
            std::thread::sleep(ms(5));
        }
        answers
    };
    let answers: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..2).map(|_| scope.spawn(ask)).collect();
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
        over.store(true, Ordering::Relaxed);
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect()
    });
    let failed: Vec<_> = answers.iter().filter_map(|it| it.as_ref().err()).collect();
    assert!(
        failed.is_empty(),
        "{} of {}: {failed:?}",
        failed.len(),
        answers.len()
    );
    let seen: BTreeSet<&str> = answers.iter().map(|it| it.as_deref().unwrap()).collect();
    assert_eq!(seen, BTreeSet::from(["one", "two"]));
    assert!(answers.len() > 100);
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
