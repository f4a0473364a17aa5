//! The supervisor's main loop: takes events and requests one after the other, keeps what is desired on disk,
//! and has done what the reconciler decides. Starts and ends nothing itself: that is for its [`Hands`].

use std::collections::BTreeMap;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::place::{Kind, Place};
use super::protocol::{Reply, Request};
use super::reconcile::{Act, Desired, Event, Now, Reconciler, Routes, RunId};
use super::spec::{MAX_REPLICAS, ServiceSpec, SpecError, check_name};
use super::state::{Port, Stamp, State, Supervisor};

/// What the main loop waits for.
#[derive(Debug)]
pub(super) enum Message {
    /// Something happened to a container.
    Event(Event),
    /// A client asks, and waits for the answer.
    Request(Request, SyncSender<Reply>),
    /// A client hands a port of the host over.
    Listener(u16, TcpListener, SyncSender<Reply>),
}

/// What does something to containers, names and ports.
pub(super) trait Hands {
    /// Does it, without waiting for it to be done; [`Act::Exit`] is not for it.
    fn perform(&mut self, act: Act);
    /// Lets requests go where `to` says, from now on.
    fn route(&mut self, from: &Routes, to: &Routes);
    /// Takes a port of the host over.
    fn listen(&mut self, port: u16, listener: TcpListener) -> io::Result<()>;
    /// The ports that were taken over.
    fn listening(&self) -> Vec<u16>;
    /// Gives a port back.
    fn close(&mut self, port: u16);
    /// The last lines of a container.
    fn tail(&self, run: RunId) -> Vec<String>;
}

/// The main loop's state.
#[derive(Debug)]
pub(super) struct Driver<H> {
    place: Place,
    hands: H,
    reconciler: Reconciler,
    began: Instant,
    supervisor: Supervisor,
    saved: Vec<u8>,
    routes: Routes,
    /// The services that published ports, as far as their listeners were taken over.
    published: BTreeMap<u16, String>,
    volumes: bool,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    /// Whether everything was stopped for good.
    pub(super) forget: bool,
    /// Whether volumes are to go as well.
    pub(super) volumes: bool,
}

impl<H: Hands> Driver<H> {
    /// Goes on with what the state directory says.
    pub(super) fn new(place: Place, hands: H, pid: u32) -> io::Result<Driver<H>> {
        let desired = place.desired()?.unwrap_or_default();
        let now = Now {
            at: Duration::ZERO,
            stamp: Stamp::now(),
        };
        Ok(Driver {
            reconciler: Reconciler::restore(desired, now),
            began: Instant::now(),
            supervisor: Supervisor {
                pid,
                started: now.stamp,
                version: env!("CARGO_PKG_VERSION").to_owned(),
                stopping: false,
                trouble: None,
            },
            saved: Vec::new(),
            routes: Routes::default(),
            published: BTreeMap::new(),
            volumes: false,
            place,
            hands,
        })
    }

    /// Runs until everything is stopped.
    pub(super) fn run(&mut self, messages: &Receiver<Message>) -> Ended {
        let mut exit = self.take(Event::Tick);
        while !exit {
            let wake = self.reconciler.wake();
            let left = wake.map(|wake| wake.saturating_sub(self.began.elapsed()));
            let message = match messages.recv_timeout(left.unwrap_or(Duration::from_secs(3600))) {
                Ok(message) => message,
                Err(RecvTimeoutError::Timeout) => Message::Event(Event::Tick),
                // Nobody is left who could say anything.
                Err(RecvTimeoutError::Disconnected) => break,
            };
            exit = match message {
                Message::Event(event) => self.take(event),
                Message::Request(request, reply) => {
                    let (answer, event) = self.answer(request);
                    let exit = event.is_some_and(|event| self.take(event));
                    let answer = answer.unwrap_or_else(|| self.saved_reply());
                    // A client that went away needs no answer.
                    let _ = reply.send(answer);
                    exit
                }
                Message::Listener(port, listener, reply) => {
                    let answer = match self.hands.listen(port, listener) {
                        Ok(()) => Reply::Done,
                        Err(error) => Reply::Refused(format!("port {port} cannot be taken over: {error}")),
                    };
                    self.publish();
                    let _ = reply.send(answer);
                    false
                }
            };
        }
        Ended {
            forget: self.reconciler.forgets(),
            volumes: self.volumes,
        }
    }

    /// What is promised is on disk.
    fn saved_reply(&self) -> Reply {
        match &self.supervisor.trouble {
            None => Reply::Done,
            Some(trouble) => Reply::Refused(trouble.clone()),
        }
    }

    /// Takes an event in; whether it was the last one.
    fn take(&mut self, event: Event) -> bool {
        let now = Now {
            at: self.began.elapsed(),
            stamp: Stamp::now(),
        };
        let acts = self.reconciler.step(now, event);
        self.save(&self.reconciler.desired());
        let routes = self.reconciler.routes();
        if routes != self.routes {
            self.hands.route(&self.routes, &routes);
            self.routes = routes;
        }
        self.publish();
        let mut exit = false;
        for act in acts {
            match act {
                Act::Exit => exit = true,
                act => self.hands.perform(act),
            }
        }
        exit
    }

    fn save(&mut self, desired: &Desired) {
        let bytes = serde_json::to_vec(desired).expect("plain data encodes");
        if bytes == self.saved && self.supervisor.trouble.is_none() {
            return;
        }
        match self.place.save(&bytes) {
            Ok(()) => {
                self.saved = bytes;
                self.supervisor.trouble = None;
            }
            Err(error) => {
                let trouble = format!("what should run cannot be written to the state directory: {error}");
                self.supervisor.trouble = Some(trouble);
            }
        }
    }

    /// Gives the ports back that were published and no longer are. One that never was may be needed soon.
    fn publish(&mut self) {
        let now = self.reconciler.ports();
        for port in self.hands.listening() {
            match now.get(&port) {
                Some(service) => drop(self.published.insert(port, service.clone())),
                None if self.published.remove(&port).is_some() => self.hands.close(port),
                None => {}
            }
        }
    }

    /// The reply to a request, and the event that it is. Without a reply, it is that the event was taken in.
    fn answer(&mut self, request: Request) -> (Option<Reply>, Option<Event>) {
        match self.judge(request) {
            Ok(done) => done,
            Err(reason) => (Some(Reply::Refused(reason)), None),
        }
    }

    fn judge(&mut self, request: Request) -> Result<(Option<Reply>, Option<Event>), String> {
        let done = (Some(Reply::Done), None);
        let starts = matches!(
            request,
            Request::Put { .. } | Request::RunTask { .. } | Request::Publish { .. }
        );
        if starts && self.reconciler.is_stopping() {
            return Err("the preview is being stopped".to_owned());
        }
        match request {
            Request::PutSecret { name, content } => self.put(Kind::Secret, &name, &content).map(|()| done),
            Request::PutConfig { name, content } => self.put(Kind::Config, &name, &content).map(|()| done),
            Request::DeleteSecret { name } => self.delete(Kind::Secret, &name).map(|()| done),
            Request::DeleteConfig { name } => self.delete(Kind::Config, &name).map(|()| done),
            Request::Publish { port } => match self.hands.listening().contains(&port) {
                true => Ok(done),
                false => Ok((Some(Reply::Go), None)),
            },
            Request::Put {
                service,
                spec,
                replicas,
                hold,
            } => {
                self.check(&service, &spec)?;
                if replicas > MAX_REPLICAS {
                    return Err(SpecError::Replicas(replicas).to_string());
                }
                for (port, owner) in self.reconciler.ports() {
                    if spec.ports.contains_key(&port) && owner != service {
                        return Err(format!("port {port} is published by `{owner}` already"));
                    }
                }
                let spec = Arc::new(*spec);
                let event = Event::Put {
                    service,
                    spec,
                    replicas,
                    hold,
                };
                Ok((None, Some(event)))
            }
            Request::Remove { service } => Ok((None, Some(Event::Remove { service }))),
            Request::RunTask { name, spec, timeout } => {
                self.check(&name, &spec)?;
                let known = self.reconciler.task_spec(&name);
                if known.is_some_and(|known| known != spec.fingerprint().hex()) {
                    return Err(format!("there was a task `{name}` with another spec"));
                }
                let spec = Arc::new(*spec);
                Ok((None, Some(Event::RunTask { name, spec, timeout })))
            }
            Request::Task { name } => {
                let tail = |run| self.hands.tail(run);
                let task = self.reconciler.observe(&tail).tasks.remove(&name);
                Ok((Some(Reply::Task(task)), None))
            }
            Request::StopTask { name } => Ok((None, Some(Event::StopTask { name }))),
            Request::Observe => Ok((Some(Reply::State(Box::new(self.observe()?))), None)),
            Request::Stop { volumes } => {
                self.volumes |= volumes;
                // Also where nothing can be written any more.
                Ok((Some(Reply::Done), Some(Event::Stop { forget: true })))
            }
        }
    }

    /// Whether containers can be made of the spec, secrets and configs included.
    fn check(&self, name: &str, spec: &ServiceSpec) -> Result<(), String> {
        check_name(name)
            .and_then(|()| spec.check())
            .map_err(|error| error.to_string())?;
        for (kind, files) in [(Kind::Secret, &spec.secrets), (Kind::Config, &spec.configs)] {
            let names = self.place.names(kind).map_err(|error| error.to_string())?;
            if let Some(file) = files.iter().find(|file| !names.contains(&file.version)) {
                return Err(format!("the {} `{}` was never put", kind.word(), file.version));
            }
        }
        Ok(())
    }

    fn put(&self, kind: Kind, name: &str, content: &str) -> Result<(), String> {
        check_name(name).map_err(|error| error.to_string())?;
        let word = kind.word();
        let content = BASE64
            .decode(content)
            .map_err(|_| format!("the content of {word} `{name}` is not base64"))?;
        match self.place.put(kind, name, &content) {
            Ok(true) => Ok(()),
            Ok(false) => Err(format!(
                "the {word} `{name}` is there with other content; a version never changes"
            )),
            Err(error) => Err(format!("cannot keep the {word} `{name}`: {error}")),
        }
    }

    fn delete(&self, kind: Kind, name: &str) -> Result<(), String> {
        check_name(name).map_err(|error| error.to_string())?;
        let word = kind.word();
        if self.reconciler.versions().contains(&(word, name)) {
            return Err(format!("the {word} `{name}` is in use"));
        }
        let deleted = self.place.delete(kind, name);
        deleted.map_err(|error| format!("cannot delete the {word} `{name}`: {error}"))
    }

    fn observe(&self) -> Result<State, String> {
        let views = self.reconciler.observe(&|run| self.hands.tail(run));
        let names = |kind| self.place.names(kind).map_err(|error| error.to_string());
        let listening = self.hands.listening();
        let mut ports: BTreeMap<u16, Port> = BTreeMap::new();
        for (port, service) in self.reconciler.ports() {
            let service = Some(service);
            let listening = listening.contains(&port);
            ports.insert(port, Port { listening, service });
        }
        for port in listening {
            let unused = Port {
                listening: true,
                service: None,
            };
            ports.entry(port).or_insert(unused);
        }
        Ok(State {
            supervisor: Supervisor {
                stopping: self.reconciler.is_stopping(),
                ..self.supervisor.clone()
            },
            services: views.services,
            tasks: views.tasks,
            secrets: names(Kind::Secret)?,
            configs: names(Kind::Config)?,
            ports,
        })
    }
}
