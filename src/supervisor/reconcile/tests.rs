//! What is kept running, and what is not.

use std::sync::Arc;

use proptest::prelude::*;

use super::Event;
use super::testing::{Behaviour, World};
use crate::supervisor::spec::{Condition, Order, ServiceSpec};
use crate::supervisor::state::{End, ReplicaState, TaskState};
use crate::supervisor::testing::{healthcheck, ms, spec};

fn exits(after: u64, code: i32) -> Behaviour {
    Behaviour {
        exits: Some((after, code)),
        ..Behaviour::default()
    }
}

fn bare(image: &str) -> ServiceSpec {
    ServiceSpec {
        healthcheck: None,
        ..spec(image)
    }
}

#[test]
fn a_crash_loop_starts_again_with_growing_pauses_and_shows_why() {
    let mut world = World::default();
    world.behave("v1", exits(10, 7));
    world.put("api", &bare("v1"), 1, None);
    world.pass(10_000);
    let starts = world.done();
    let starts: Vec<&str> = starts.lines().filter(|line| line.contains("start")).collect();
    let times: Vec<u64> = starts
        .iter()
        .map(|line| line.split(' ').next().unwrap().parse().unwrap())
        .collect();
    // A start takes 10 ms, and the program lives as long.
    assert_eq!(times, [0, 120, 640, 1_660, 3_680, 7_700]);
    let service = world.service("api");
    let replica = &service.replicas[0];
    assert_eq!((replica.state, replica.restarts), (ReplicaState::Backoff, 5));
    assert_eq!(replica.last_exit.as_ref().unwrap().end, End::Code(7));
    assert_eq!(replica.tail, ["last line"]);
    assert_eq!(replica.reason.as_deref(), Some("exit code 7"));
    assert_eq!(service.paused, None);
    world.pass(3_600_000);
    world.done();
    world.pass(300_000);
    let restarts = world.done().matches("start").count();
    assert!(
        (9..=11).contains(&restarts),
        "{restarts} in five minutes: half a minute apart"
    );
}

#[test]
fn what_lasted_starts_again_without_a_longer_pause() {
    let mut world = World::default();
    world.behave("v1", exits(20_000, 1));
    world.put("api", &bare("v1"), 1, None);
    world.pass(100_000);
    let starts = world.done().matches("start").count();
    assert_eq!(starts, 5);
}

#[test]
fn the_restart_policy_is_kept() {
    for (condition, code, max_attempts, starts, state) in [
        (Condition::Any, 0, Some(2), 3, ReplicaState::Stopped),
        (Condition::Any, 1, Some(2), 3, ReplicaState::Failed),
        (Condition::OnFailure, 0, None, 1, ReplicaState::Stopped),
        (Condition::OnFailure, 1, Some(4), 5, ReplicaState::Failed),
        (Condition::None, 0, None, 1, ReplicaState::Stopped),
        (Condition::None, 1, None, 1, ReplicaState::Failed),
    ] {
        let mut world = World::default();
        world.behave("v1", exits(10, code));
        let mut spec = bare("v1");
        spec.restart.condition = condition;
        spec.restart.max_attempts = max_attempts;
        world.put("api", &spec, 1, None);
        world.pass(600_000);
        let found = world.done().matches("start").count();
        assert_eq!((found, world.service("api").replicas[0].state), (starts, state));
        assert!(!world.service("api").is_converged());
    }
}

#[test]
fn attempts_outside_of_the_window_do_not_count() {
    let mut world = World::default();
    world.behave("v1", exits(3_000, 1));
    let mut spec = bare("v1");
    spec.restart.max_attempts = Some(2);
    spec.restart.window = ms(5_000);
    world.put("api", &spec, 1, None);
    world.pass(600_000);
    assert_eq!(world.service("api").replicas[0].state, ReplicaState::Backoff);
}

#[test]
fn what_is_unhealthy_gets_no_requests_and_starts_again() {
    let mut world = World::default();
    let sick = Behaviour {
        healthy: (0, 2_000),
        ..Behaviour::default()
    };
    world.behave("v1", sick);
    world.put("api", &spec("v1"), 1, None);
    world.pass(6_000);
    // Healthy at the first check, 100 ms after the start; then every second, and three failures in a row.
    assert_eq!(
        world.done(),
        "0 start api.1.1 v1\n115 api -> api.1.1\n4135 api -> \n4135 signal api.1.1\n4155 ended api.1.1\n\
         4255 start api.1.2 v1\n4370 api -> api.1.2"
    );
    let replica = &world.service("api").replicas[0];
    assert_eq!((replica.restarts, replica.health.as_deref()), (1, Some("good")));
}

#[test]
fn failures_count_after_the_start_period_and_by_the_interval() {
    let mut world = World::default();
    let never = Behaviour {
        healthy: (u64::MAX, u64::MAX),
        ..Behaviour::default()
    };
    world.behave("v1", never);
    let mut spec = spec("v1");
    spec.healthcheck.as_mut().unwrap().start_period = ms(5_000);
    world.put("api", &spec, 1, None);
    world.pass(7_000);
    let reason = world.service("api").replicas[0].reason.clone();
    assert_eq!(reason.as_deref(), Some("not healthy yet: bad"));
    assert_eq!(world.done().matches("signal").count(), 0);
    world.pass(1_500);
    assert_eq!(world.done().matches("signal").count(), 1);
}

#[test]
fn services_grow_and_shrink_and_go() {
    let mut world = World::default();
    world.put("api", &spec("v1"), 1, None);
    world.pass(1_000);
    world.put("api", &spec("v1"), 3, None);
    world.pass(1_000);
    assert_eq!(world.slots("api").into_iter().collect::<Vec<_>>(), [1, 2, 3]);
    world.done();
    world.put("api", &spec("v1"), 2, None);
    world.pass(1_000);
    assert_eq!(
        world.done(),
        "2000 api -> api.1.1 api.2.2\n2300 signal api.3.3\n2320 ended api.3.3"
    );
    world.remove("api");
    world.pass(1_000);
    assert!(world.services().is_empty() && world.running("api").is_empty());
}

#[test]
fn asking_for_what_is_there_does_nothing() {
    let mut world = World::default();
    world.put("api", &spec("v1"), 2, None);
    world.pass(5_000);
    world.done();
    let before = world.reconciler.desired();
    world.put("api", &spec("v1"), 2, None);
    world.pass(5_000);
    assert_eq!(world.done(), "");
    assert_eq!(world.reconciler.desired(), before);
}

#[test]
fn names_are_known_while_nobody_answers_and_across_the_networks_of_one_service() {
    let mut world = World::default();
    let on = |networks: &[&str]| {
        let networks = networks
            .iter()
            .map(|name| ((*name).to_owned(), Default::default()));
        ServiceSpec {
            networks: networks.collect(),
            ..spec("v1")
        }
    };
    world.put("web", &on(&["front"]), 1, None);
    world.put("api", &on(&["back", "front"]), 1, None);
    world.put("db", &on(&["back"]), 0, None);
    world.pass(5_000);
    let names = world.reconciler.routes().names;
    let front: Vec<_> = names["front"]
        .iter()
        .filter(|(name, _)| !name.contains('.'))
        .collect();
    let found: Vec<_> = front
        .iter()
        .map(|(name, addresses)| (name.as_str(), addresses.len()))
        .collect();
    // In this world only `front` gives addresses.
    assert_eq!(found, [("api", 1), ("db", 0), ("web", 1)]);
    assert!(names["back"].contains_key("web"));
    world.remove("api");
    world.pass(5_000);
    assert!(!world.reconciler.routes().names["back"].contains_key("web"));
}

fn run_task(world: &mut World, image: &str) {
    world.deliver(Event::RunTask {
        name: "migrate".to_owned(),
        spec: Arc::new(bare(image)),
        timeout: ms(1_000),
    });
}

#[test]
fn a_task_runs_once_and_its_result_stays() {
    let mut world = World::default();
    world.behave("good", exits(100, 0));
    run_task(&mut world, "good");
    assert_eq!(world.task("migrate").state, TaskState::Running);
    run_task(&mut world, "good");
    world.pass(500);
    run_task(&mut world, "good");
    world.pass(60_000);
    assert_eq!(world.done(), "0 start migrate.0.1 good\n110 ended migrate.0.1");
    let before = world.task("migrate");
    assert_eq!(
        (before.state, before.exit.as_ref().map(|exit| &exit.end)),
        (TaskState::Done, Some(&End::Code(0)))
    );
    world.kill();
    assert_eq!(world.task("migrate"), before);
}

#[test]
fn a_task_that_fails_hangs_or_dies_with_the_supervisor_says_so() {
    let mut world = World::default();
    world.behave("bad", exits(100, 2));
    run_task(&mut world, "bad");
    world.pass(500);
    let task = world.task("migrate");
    assert_eq!(
        (task.state, task.reason.as_deref()),
        (TaskState::Failed, Some("exit code 2"))
    );
    let mut world = World::default();
    run_task(&mut world, "hangs");
    world.pass(5_000);
    let task = world.task("migrate");
    let reason = "took longer than it may, and was stopped";
    assert_eq!(
        (task.state, task.reason.as_deref()),
        (TaskState::Failed, Some(reason))
    );
    assert_eq!(
        world.done(),
        "0 start migrate.0.1 hangs\n1000 signal migrate.0.1\n1020 ended migrate.0.1"
    );
    let mut world = World::default();
    run_task(&mut world, "hangs");
    world.pass(500);
    world.kill();
    world.pass(5_000);
    let task = world.task("migrate");
    assert_eq!(
        (task.state, task.exit.unwrap().end),
        (TaskState::Failed, End::Unseen)
    );
}

#[test]
fn everything_stops_at_once_and_then_the_supervisor() {
    let mut world = World::default();
    let stubborn = Behaviour {
        stops_in: None,
        ..Behaviour::default()
    };
    world.behave("v1", stubborn);
    world.put("api", &spec("v1"), 1, None);
    world.put("web", &spec("v2"), 1, None);
    world.pass(1_000);
    world.done();
    run_task(&mut world, "hangs");
    world.deliver(Event::Stop { forget: true });
    world.pass(10_000);
    assert_eq!(
        world.done(),
        "1000 start migrate.0.3 hangs\n1000 api -> \n1000 web -> \n1000 signal api.1.1\n1000 signal web.1.2\n\
         1010 signal migrate.0.3\n1020 ended web.1.2\n1030 ended migrate.0.3\n2000 kill api.1.1\n\
         2005 ended api.1.1\n2005 exit"
    );
}

#[test]
fn after_its_death_every_slot_starts_with_the_spec_that_it_had() {
    let mut world = World::default();
    let start_first = |image: &str| {
        let mut spec = spec(image);
        spec.update.order = Order::StartFirst;
        spec
    };
    world.put("api", &start_first("v1"), 2, None);
    world.pass(5_000);
    world.put("api", &start_first("v2"), 2, Some(1));
    world.pass(5_000);
    world.done();
    world.kill();
    world.pass(5_000);
    assert_eq!(
        world.done(),
        "10000 killed\n10000 api -> \n10000 start api.1.1 v2\n10000 start api.2.2 v1\n10115 api -> api.1.1\n\
         10115 api -> api.1.1 api.2.2"
    );
    assert_eq!(world.service("api").hold, Some(1));
}

/// What somebody, or something, may do to a world.
#[derive(Clone, Debug)]
enum Deed {
    Put {
        image: u8,
        replicas: u32,
        hold: Option<u32>,
        start_first: bool,
    },
    Break(u8),
    Mend,
    Remove,
    Kill,
    Pass(u64),
}

fn deeds() -> impl Strategy<Value = Vec<Deed>> {
    let put = (0..3_u8, 0..4_u32, proptest::option::of(0..4_u32), any::<bool>());
    let put = put.prop_map(|(image, replicas, hold, start_first)| Deed::Put {
        image,
        replicas,
        hold,
        start_first,
    });
    let deed = prop_oneof![
        4 => put,
        2 => (0..3_u8).prop_map(Deed::Break),
        1 => Just(Deed::Mend),
        1 => Just(Deed::Remove),
        1 => Just(Deed::Kill),
        6 => (0..4_000_u64).prop_map(Deed::Pass),
    ];
    proptest::collection::vec(deed, 1..24)
}

fn image(number: u8, start_first: bool) -> ServiceSpec {
    let mut spec = spec(&format!("v{number}"));
    if number == 0 {
        spec.healthcheck = None;
    } else {
        spec.healthcheck = Some(healthcheck());
    }
    if start_first {
        spec.update.order = Order::StartFirst;
    }
    spec
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The world's own rules hold throughout, and in the end there is what was asked for last.
    #[test]
    fn whatever_happens_the_last_word_is_what_runs(deeds in deeds(), start_first in any::<bool>()) {
        let mut world = World::default();
        for deed in deeds {
            match deed {
                Deed::Put { image: number, replicas, hold, start_first } => {
                    world.put("api", &image(number, start_first), replicas, hold);
                }
                Deed::Break(number) => world.behave(&format!("v{number}"), match number {
                    0 => exits(200, 1),
                    1 => Behaviour { healthy: (0, 1_500), ..Behaviour::default() },
                    _ => Behaviour { stops_in: None, ..Behaviour::default() },
                }),
                Deed::Mend => world.behaviours.clear(),
                Deed::Remove => world.remove("api"),
                Deed::Kill => world.kill(),
                Deed::Pass(millis) => world.pass(millis),
            }
        }
        world.behaviours.clear();
        world.put("api", &image(2, start_first), 3, None);
        world.pass(20_000);
        // One that was still as broken as when it was started may have stopped the update once.
        world.put("api", &image(2, start_first), 3, None);
        world.pass(20_000);
        prop_assert!(world.service("api").is_converged(), "{:#?}", world.service("api"));
        prop_assert_eq!(world.running("api"), ["v2"; 3]);
    }
}
