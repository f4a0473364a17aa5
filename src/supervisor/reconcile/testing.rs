//! A world in which containers are numbers and time is virtual, with rules that hold at every step.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use super::slot::container;
use super::{Act, Desired, Event, Now, Reconciler, RunId};
use crate::supervisor::spec::{Order, ServiceSpec};
use crate::supervisor::state::{End, Service, Stamp, Task};
use crate::supervisor::testing::ms;

/// How the containers of an image behave.
#[derive(Clone, Debug)]
pub(super) struct Behaviour {
    pub(super) unstartable: bool,
    /// From its start on.
    pub(super) exits: Option<(u64, i32)>,
    /// From when until when its health checks pass.
    pub(super) healthy: (u64, u64),
    /// How long it takes to end when asked to; `None` if it does not.
    pub(super) stops_in: Option<u64>,
}

impl Default for Behaviour {
    fn default() -> Behaviour {
        Behaviour {
            unstartable: false,
            exits: None,
            healthy: (0, u64::MAX),
            stops_in: Some(20),
        }
    }
}

#[derive(Debug)]
struct Fake {
    name: String,
    service: String,
    slot: u32,
    spec: Arc<ServiceSpec>,
    behaviour: Behaviour,
    address: Ipv4Addr,
    up: Option<Duration>,
    asked: bool,
}

/// A reconciler, and everything around it.
#[derive(Debug, Default)]
pub(super) struct World {
    pub(super) reconciler: Reconciler,
    pub(super) behaviours: BTreeMap<String, Behaviour>,
    pub(super) trace: Vec<String>,
    /// The fewest ready replicas of each service since it was last looked at.
    pub(super) fewest: BTreeMap<String, usize>,
    at: Duration,
    queue: BTreeMap<(Duration, u64), Event>,
    count: u64,
    fakes: BTreeMap<RunId, Fake>,
    names: BTreeMap<String, Vec<String>>,
    exited: bool,
}

impl World {
    pub(super) fn behave(&mut self, image: &str, behaviour: Behaviour) {
        self.behaviours.insert(image.to_owned(), behaviour);
    }

    pub(super) fn put(&mut self, service: &str, spec: &ServiceSpec, replicas: u32, hold: Option<u32>) {
        self.deliver(Event::Put {
            service: service.to_owned(),
            spec: Arc::new(spec.clone()),
            replicas,
            hold,
        });
    }

    pub(super) fn remove(&mut self, service: &str) {
        self.deliver(Event::Remove {
            service: service.to_owned(),
        });
    }

    /// Lets so many milliseconds pass.
    pub(super) fn pass(&mut self, millis: u64) {
        let end = self.at + ms(millis);
        loop {
            let queued = self.queue.first_key_value().map(|((at, _), _)| *at);
            let next = queued.into_iter().chain(self.reconciler.wake()).min();
            match next {
                Some(next) if next <= end => {
                    self.at = next;
                    let due = queued == Some(next);
                    let event = due
                        .then(|| self.queue.pop_first())
                        .flatten()
                        .map(|(_, event)| event);
                    self.deliver(event.unwrap_or(Event::Tick));
                }
                _ => break,
            }
        }
        self.at = end;
    }

    /// The supervisor dies with everything, and a new one goes on.
    pub(super) fn kill(&mut self) {
        let desired = serde_json::to_vec(&self.reconciler.desired()).unwrap();
        let desired: Desired = serde_json::from_slice(&desired).unwrap();
        self.fakes.clear();
        self.queue.clear();
        self.reconciler = Reconciler::restore(desired, self.now());
        self.trace.push(format!("{} killed", self.at.as_millis()));
        self.deliver(Event::Tick);
    }

    pub(super) fn deliver(&mut self, event: Event) {
        if let Event::Ended { run, .. } = &event {
            let fake = self.fakes.remove(run).expect("what ends was there");
            self.log(&format!("ended {}", fake.name));
        }
        if let Event::Started { run, .. } = &event {
            self.fakes.get_mut(run).expect("what starts is there").up = Some(self.at);
        }
        let acts = self.reconciler.step(self.now(), event);
        self.route();
        for act in acts {
            self.perform(act);
            self.check();
        }
        self.check();
    }

    fn now(&self) -> Now {
        let millis = u64::try_from(self.at.as_millis()).unwrap();
        Now {
            at: self.at,
            stamp: Stamp(1_000_000 + millis),
        }
    }

    fn log(&mut self, text: &str) {
        self.trace.push(format!("{} {text}", self.at.as_millis()));
    }

    fn later(&mut self, millis: u64, event: Event) {
        self.count += 1;
        self.queue.insert((self.at + ms(millis), self.count), event);
    }

    /// What names lead to has to be changed before anything is done.
    fn route(&mut self) {
        let routes = self.reconciler.routes();
        let front = routes.names.get("front").cloned().unwrap_or_default();
        let mut names = BTreeMap::new();
        for service in self.services().keys() {
            let addresses = front.get(service).cloned().unwrap_or_default();
            let mut found = Vec::new();
            for address in &addresses {
                let mut fakes = self.fakes.values();
                let fake = fakes.find(|fake| fake.address == *address && fake.up.is_some() && !fake.asked);
                found.push(
                    fake.expect("names lead to what runs and was not asked to end")
                        .name
                        .clone(),
                );
            }
            if self.names.get(service).is_some_and(|before| *before != found) || !found.is_empty() {
                let fewest = self.fewest.entry(service.clone()).or_insert(found.len());
                *fewest = (*fewest).min(found.len());
            }
            if self.names.get(service).cloned().unwrap_or_default() != found {
                self.log(&format!("{service} -> {}", found.join(" ")));
            }
            names.insert(service.clone(), found);
        }
        for replicas in routes.ports.values() {
            for (address, port) in replicas {
                assert!(front.values().any(|addresses| addresses.contains(address)));
                assert_eq!(*port, 80);
            }
        }
        self.names = names;
    }

    fn perform(&mut self, act: Act) {
        match act {
            Act::Start {
                run,
                service,
                slot,
                spec,
            } => {
                let name = container(&service, slot, run);
                self.log(&format!("start {name} {}", spec.image));
                let behaviour = self.behaviours.get(&spec.image).cloned().unwrap_or_default();
                let address = Ipv4Addr::from(0x0a80_0000 + u32::try_from(run).unwrap());
                if behaviour.unstartable {
                    let end = End::Unstartable("no such program".to_owned());
                    self.later(10, ended(run, end));
                } else {
                    let addresses = BTreeMap::from([("front".to_owned(), address)]);
                    self.later(10, Event::Started { run, addresses });
                    if let Some((after, code)) = behaviour.exits {
                        self.later(10 + after, ended(run, End::Code(code)));
                    }
                }
                let fake = Fake {
                    name,
                    service,
                    slot,
                    spec,
                    behaviour,
                    address,
                    up: None,
                    asked: false,
                };
                assert!(self.fakes.insert(run, fake).is_none());
            }
            Act::Signal { run, .. } => {
                let Some(fake) = self.fakes.get_mut(&run) else {
                    return;
                };
                fake.asked = true;
                let (name, stops_in) = (fake.name.clone(), fake.behaviour.stops_in);
                self.log(&format!("signal {name}"));
                if let Some(millis) = stops_in {
                    self.end_in(run, millis, End::Code(0));
                }
            }
            Act::Kill { run } => {
                let name = self.fakes[&run].name.clone();
                self.log(&format!("kill {name}"));
                self.end_in(run, 5, End::Signal(9));
            }
            Act::Probe { run, timeout, .. } => {
                assert_eq!(timeout, ms(500));
                let fake = &self.fakes[&run];
                let age = self.at - fake.up.expect("what is probed is up");
                let (from, until) = fake.behaviour.healthy;
                let passed = age >= ms(from) && age < ms(until);
                let output = if passed { "good" } else { "bad" };
                let output = output.to_owned();
                self.later(5, Event::Probed { run, passed, output });
            }
            Act::Exit => {
                assert!(self.fakes.is_empty() && !self.exited);
                self.exited = true;
                self.log("exit");
            }
        }
    }

    /// Nothing ends twice: the earliest end counts.
    fn end_in(&mut self, run: RunId, millis: u64, end: End) {
        let of_run = |event: &Event| matches!(event, Event::Ended { run: other, .. } if *other == run);
        let known = self.queue.iter().find(|(_, event)| of_run(event));
        let known = known.map(|(key, _)| *key);
        if known.is_none_or(|(at, _)| at > self.at + ms(millis)) {
            known.map(|key| self.queue.remove(&key));
            self.later(millis, ended(run, end));
        }
    }

    /// A slot never has more in it than its order of updates allows.
    fn check(&self) {
        let mut places = BTreeMap::<_, Vec<&Fake>>::new();
        for fake in self.fakes.values() {
            places.entry((&fake.service, fake.slot)).or_default().push(fake);
        }
        for fakes in places.values() {
            // The last one decides: it is what was started beside the others.
            let last = fakes.last().unwrap();
            let alone = last.spec.update.order == Order::StopFirst;
            let names: Vec<_> = fakes.iter().map(|fake| &fake.name).collect();
            assert!(!alone || fakes.len() == 1, "{names:?} run at once");
        }
    }

    /// What was done since this was last asked.
    pub(super) fn done(&mut self) -> String {
        std::mem::take(&mut self.trace).join("\n")
    }

    pub(super) fn services(&self) -> BTreeMap<String, Service> {
        self.reconciler.observe(&|_| Vec::new()).services
    }

    pub(super) fn service(&self, name: &str) -> Service {
        self.services().remove(name).expect("the service is there")
    }

    pub(super) fn task(&self, name: &str) -> Task {
        let views = self.reconciler.observe(&|_| Vec::new());
        views.tasks.get(name).expect("the task is there").clone()
    }

    /// The images that run, each as often as it does.
    pub(super) fn running(&self, service: &str) -> Vec<String> {
        let fakes = self.fakes.values().filter(|fake| fake.service == service);
        fakes.map(|fake| fake.spec.image.clone()).collect()
    }

    /// The slots of the services whose containers run now.
    pub(super) fn slots(&self, service: &str) -> BTreeSet<u32> {
        let fakes = self.fakes.values().filter(|fake| fake.service == service);
        fakes.map(|fake| fake.slot).collect()
    }
}

fn ended(run: RunId, end: End) -> Event {
    Event::Ended {
        run,
        end,
        tail: vec!["last line".to_owned()],
    }
}
