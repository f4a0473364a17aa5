//! What tests of the supervisor share.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use super::driver::{Driver, Hands, Message};
use super::place::Place;
use super::reconcile::{Act, Event, Routes, RunId};
use super::spec::{Condition, Healthcheck, Order, Restart, ServiceSpec, Test, Update};
use super::state::End;
use crate::digest::Digest;
use crate::tree::Tree;

/// Milliseconds.
pub(super) fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A spec of which nothing is needed but its image's name.
pub(super) fn spec(image: &str) -> ServiceSpec {
    ServiceSpec {
        image: image.to_owned(),
        root: Tree {
            root: Digest::of(image.as_bytes()),
            metadata: None,
        },
        argv: vec!["/run".to_owned()],
        env: Vec::new(),
        cwd: "/".to_owned(),
        uid: 1000,
        gid: 1000,
        hostname: "{service}-{slot}".to_owned(),
        stop_signal: 15,
        stop_grace: ms(1000),
        mounts: Vec::new(),
        tmpfs: Vec::new(),
        secrets: Vec::new(),
        configs: Vec::new(),
        networks: BTreeMap::from([("front".to_owned(), BTreeSet::from(["alias".to_owned()]))]),
        ports: BTreeMap::from([(8000, 80)]),
        healthcheck: Some(healthcheck()),
        restart: Restart {
            condition: Condition::Any,
            delay: ms(100),
            max_attempts: None,
            window: ms(0),
        },
        update: Update {
            order: Order::StopFirst,
            delay: ms(0),
            monitor: ms(500),
        },
        read_only: false,
        init: false,
        extra_hosts: Vec::new(),
    }
}

/// Every second, three failures after the first one.
pub(super) fn healthcheck() -> Healthcheck {
    Healthcheck {
        test: Test::Argv(vec!["/check".to_owned()]),
        interval: ms(1000),
        timeout: ms(500),
        retries: 3,
        start_period: ms(0),
        start_interval: ms(500),
    }
}

/// Hands that start nothing: every container is up at once, and ends when it is asked to.
#[derive(Debug)]
pub(super) struct Idle {
    pub(super) messages: Sender<Message>,
    pub(super) listeners: BTreeMap<u16, TcpListener>,
}

impl Hands for Idle {
    fn perform(&mut self, act: Act) {
        let event = match act {
            Act::Start { run, .. } => Event::Started {
                run,
                addresses: BTreeMap::new(),
            },
            Act::Signal { run, .. } | Act::Kill { run } => Event::Ended {
                run,
                end: End::Code(0),
                tail: Vec::new(),
            },
            Act::Probe { run, .. } => Event::Probed {
                run,
                passed: true,
                output: String::new(),
            },
            Act::Exit => return,
        };
        self.messages.send(Message::Event(event)).unwrap();
    }

    fn route(&mut self, _from: &Routes, _to: &Routes) {}

    fn listen(&mut self, port: u16, listener: TcpListener) -> io::Result<()> {
        self.listeners.insert(port, listener);
        Ok(())
    }

    fn listening(&self) -> Vec<u16> {
        self.listeners.keys().copied().collect()
    }

    fn close(&mut self, port: u16) {
        self.listeners.remove(&port);
    }

    fn tail(&self, run: RunId) -> Vec<String> {
        vec![format!("line of {run}")]
    }
}

/// Leaves a state directory as a supervisor does that was killed after one service was put.
pub(super) fn driven(place: &Place, service: &str, spec: &ServiceSpec) {
    place.lay_out().unwrap();
    let (messages, received) = std::sync::mpsc::channel();
    let idle = Idle {
        messages: messages.clone(),
        listeners: BTreeMap::new(),
    };
    let mut driver = Driver::new(place.clone(), idle, 1).unwrap();
    for event in [
        Event::Put {
            service: service.to_owned(),
            spec: Arc::new(spec.clone()),
            replicas: 1,
            hold: None,
        },
        Event::Stop { forget: false },
    ] {
        messages.send(Message::Event(event)).unwrap();
    }
    driver.run(&received);
}
