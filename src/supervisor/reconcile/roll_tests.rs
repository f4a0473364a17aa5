//! How replicas are replaced.

use super::testing::{Behaviour, World};
use crate::supervisor::spec::{Order, ServiceSpec};
use crate::supervisor::state::ReplicaState;
use crate::supervisor::testing::{ms, spec};

fn start_first(image: &str) -> ServiceSpec {
    let mut spec = spec(image);
    spec.update.order = Order::StartFirst;
    spec
}

/// A world in which so many replicas of `v1` are ready.
fn running(spec: &ServiceSpec, replicas: u32) -> World {
    let mut world = World::default();
    world.put("api", spec, replicas, None);
    world.pass(5_000);
    assert!(world.service("api").is_converged());
    world.done();
    world.fewest.clear();
    world
}

#[test]
fn replicas_start_at_once_and_get_requests_when_they_are_healthy() {
    let mut world = World::default();
    let healthy = (300, u64::MAX);
    world.behave(
        "v1",
        Behaviour {
            healthy,
            ..Behaviour::default()
        },
    );
    world.put("api", &spec("v1"), 2, None);
    world.pass(20);
    let replicas = world.service("api").replicas;
    assert!(
        replicas
            .iter()
            .all(|it| it.state == ReplicaState::Starting && !it.ready)
    );
    world.pass(5_000);
    assert_eq!(
        world.done(),
        "0 start api.1.1 v1\n0 start api.2.2 v1\n320 api -> api.1.1\n320 api -> api.1.1 api.2.2"
    );
    let service = world.service("api");
    assert!(service.is_converged() && !service.updating);
    assert!(
        service
            .replicas
            .iter()
            .all(|it| it.state == ReplicaState::Healthy)
    );
}

#[test]
fn stop_first_has_one_place_after_the_other_empty() {
    let mut world = running(&spec("v1"), 2);
    world.put("api", &spec("v2"), 2, None);
    assert!(world.service("api").updating);
    world.pass(5_000);
    assert_eq!(
        world.done(),
        "5000 api -> api.2.2\n5300 signal api.1.1\n5320 ended api.1.1\n5320 start api.1.3 v2\n\
         5435 api -> api.1.3\n5735 signal api.2.2\n5755 ended api.2.2\n\
         5755 start api.2.4 v2\n5870 api -> api.1.3 api.2.4"
    );
    assert_eq!(world.fewest["api"], 1);
    assert!(world.service("api").is_converged());
}

#[test]
fn start_first_never_has_fewer_replicas_that_get_requests() {
    let mut world = running(&start_first("v1"), 2);
    world.put("api", &start_first("v2"), 2, None);
    world.pass(5_000);
    assert_eq!(
        world.done(),
        "5000 start api.1.3 v2\n5115 api -> api.2.2 api.1.3\n5115 start api.2.4 v2\n\
         5230 api -> api.1.3 api.2.4\n5415 signal api.1.1\n5435 ended api.1.1\n5530 signal api.2.2\n\
         5550 ended api.2.2"
    );
    assert_eq!(world.fewest["api"], 2);
    assert!(world.service("api").is_converged());
}

#[test]
fn a_singleton_never_overlaps_even_when_the_old_one_has_to_be_killed() {
    let mut world = World::default();
    let stubborn = Behaviour {
        stops_in: None,
        ..Behaviour::default()
    };
    world.behave("v1", stubborn);
    world.put("worker", &spec("v1"), 1, None);
    world.pass(2_000);
    world.done();
    world.put("worker", &spec("v2"), 1, None);
    world.pass(400);
    let service = world.service("worker");
    let states: Vec<_> = service.replicas.iter().map(|it| it.state).collect();
    assert_eq!(states, [ReplicaState::Stopping, ReplicaState::Waiting]);
    assert!(!service.is_converged());
    world.pass(5_000);
    assert_eq!(
        world.done(),
        "2000 worker -> \n2300 signal worker.1.1\n3300 kill worker.1.1\n3305 ended worker.1.1\n\
         3305 start worker.1.2 v2\n3420 worker -> worker.1.2"
    );
}

#[test]
fn a_singleton_that_is_removed_and_put_again_does_not_overlap_either() {
    let mut world = running(&spec("v1"), 1);
    world.remove("api");
    world.pass(310);
    assert!(world.service("api").removing);
    world.put("api", &spec("v1"), 1, None);
    world.pass(2_000);
    assert_eq!(
        world.done(),
        "5000 api -> \n5300 signal api.1.1\n5320 ended api.1.1\n5320 start api.1.2 v1\n5435 api -> api.1.2"
    );
}

#[test]
fn without_a_health_check_a_new_replica_has_to_run_for_a_while() {
    let bare = |image: &str| ServiceSpec {
        healthcheck: None,
        ..start_first(image)
    };
    let mut world = running(&bare("v1"), 1);
    world.put("api", &bare("v2"), 1, None);
    world.pass(5_000);
    assert_eq!(
        world.done(),
        "5000 start api.1.2 v2\n5510 api -> api.1.2\n5810 signal api.1.1\n5830 ended api.1.1"
    );
    // One that does not last that long never gets a request.
    let short = Behaviour {
        exits: Some((400, 1)),
        ..Behaviour::default()
    };
    world.behave("v3", short);
    world.put("api", &bare("v3"), 1, None);
    world.pass(5_000);
    assert_eq!(world.done(), "10000 start api.1.3 v3\n10410 ended api.1.3");
    assert_eq!(world.running("api"), ["v2"]);
}

#[test]
fn the_next_one_waits_for_the_delay() {
    let mut world = running(&start_first("v1"), 2);
    let mut new = start_first("v2");
    new.update.delay = ms(2_000);
    world.put("api", &new, 2, None);
    world.pass(2_100);
    assert_eq!(world.running("api"), ["v1", "v2"]);
    assert!(world.service("api").updating);
    world.pass(5_000);
    assert_eq!(world.running("api"), ["v2", "v2"]);
}

#[test]
fn a_held_update_goes_as_far_as_it_may_and_on_when_the_hold_is_raised() {
    let mut world = running(&start_first("v1"), 3);
    world.put("api", &start_first("v2"), 3, Some(1));
    world.pass(60_000);
    let service = world.service("api");
    assert_eq!(
        (service.updating, service.paused.clone(), service.is_converged()),
        (false, None, false)
    );
    assert_eq!(world.running("api"), ["v1", "v1", "v2"]);
    // A replica more is an old one, and asking again changes nothing.
    world.put("api", &start_first("v2"), 4, Some(1));
    world.pass(5_000);
    assert_eq!(world.running("api"), ["v1", "v1", "v2", "v1"]);
    world.done();
    world.put("api", &start_first("v2"), 4, Some(1));
    world.pass(5_000);
    assert_eq!(world.done(), "");
    world.put("api", &start_first("v2"), 4, None);
    world.pass(5_000);
    assert_eq!(world.running("api"), ["v2"; 4]);
    assert_eq!(world.fewest["api"], 3);
}

#[test]
fn the_first_replicas_of_a_service_can_be_held_too() {
    let mut world = World::default();
    world.put("api", &spec("v1"), 3, Some(1));
    world.pass(5_000);
    assert_eq!(world.running("api"), ["v1"]);
    let states: Vec<_> = world.service("api").replicas.iter().map(|it| it.state).collect();
    assert_eq!(
        states,
        [
            ReplicaState::Healthy,
            ReplicaState::Waiting,
            ReplicaState::Waiting
        ]
    );
    world.put("api", &spec("v1"), 3, None);
    world.pass(5_000);
    assert!(world.service("api").is_converged());
}

#[test]
fn a_new_replica_that_fails_stops_the_update_and_the_old_ones_stay() {
    let crash = Behaviour {
        exits: Some((50, 3)),
        ..Behaviour::default()
    };
    let sick = Behaviour {
        healthy: (u64::MAX, u64::MAX),
        ..Behaviour::default()
    };
    let absent = Behaviour {
        unstartable: true,
        ..Behaviour::default()
    };
    for (behaviour, reason) in [
        (crash, "exit code 3"),
        (sick, "unhealthy: bad"),
        (absent, "cannot be started: no such program"),
    ] {
        let mut world = running(&start_first("v1"), 2);
        world.behave("v2", behaviour);
        world.put("api", &start_first("v2"), 2, None);
        world.pass(60_000);
        let service = world.service("api");
        let paused = format!("the new replica 1 failed: {reason}");
        assert_eq!(service.paused, Some(paused));
        let failure = service.failure.unwrap();
        assert_eq!(
            (failure.container.as_str(), failure.spec),
            ("api.1.3", service.spec)
        );
        assert_eq!(failure.tail, ["last line"]);
        assert_eq!(world.running("api"), ["v1", "v1"]);
        assert_eq!(world.done().matches("start").count(), 1);
        assert!(!world.fewest.contains_key("api") || world.fewest["api"] == 2);
        // The old spec again: what is there is what is wanted.
        world.put("api", &start_first("v1"), 2, None);
        world.pass(5_000);
        let service = world.service("api");
        assert!(service.is_converged() && service.paused.is_none());
        assert_eq!(world.done(), "");
    }
}

#[test]
fn asking_again_for_what_failed_tries_again() {
    let mut world = running(&start_first("v1"), 1);
    let crash = Behaviour {
        exits: Some((50, 3)),
        ..Behaviour::default()
    };
    world.behave("v2", crash);
    world.put("api", &start_first("v2"), 1, None);
    world.pass(5_000);
    assert!(world.service("api").paused.is_some());
    world.behave("v2", Behaviour::default());
    world.put("api", &start_first("v2"), 1, None);
    world.pass(5_000);
    assert!(world.service("api").is_converged());
}

#[test]
fn a_failed_stop_first_update_leaves_the_others_alone_and_tries_its_own_again() {
    let mut world = running(&spec("v1"), 2);
    let crash = Behaviour {
        exits: Some((20, 1)),
        ..Behaviour::default()
    };
    world.behave("v2", crash);
    world.put("api", &spec("v2"), 2, None);
    world.pass(5_000);
    let service = world.service("api");
    assert!(service.paused.is_some() && !service.updating);
    assert_eq!(service.replicas[0].state, ReplicaState::Backoff);
    assert!(service.replicas[0].restarts > 1);
    assert_eq!(service.replicas[1].state, ReplicaState::Healthy);
    assert_eq!(world.fewest["api"], 1);
    world.put("api", &spec("v1"), 2, None);
    world.pass(40_000);
    assert!(world.service("api").is_converged());
    assert_eq!(world.fewest["api"], 1);
}

#[test]
fn a_canary_that_fails_later_stops_the_update_too() {
    let mut world = running(&start_first("v1"), 2);
    let later = Behaviour {
        healthy: (0, 3_000),
        ..Behaviour::default()
    };
    world.behave("v2", later);
    world.put("api", &start_first("v2"), 2, Some(1));
    world.pass(2_000);
    assert_eq!(world.service("api").paused, None);
    world.pass(6_000);
    let paused = world.service("api").paused.unwrap();
    assert_eq!(paused, "the new replica 1 failed: unhealthy: bad");
}

#[test]
fn a_newer_spec_supersedes_an_update_in_the_middle() {
    let mut world = running(&start_first("v1"), 2);
    let slow = Behaviour {
        healthy: (2_000, u64::MAX),
        ..Behaviour::default()
    };
    world.behave("v2", slow);
    world.put("api", &start_first("v2"), 2, None);
    world.pass(1_000);
    world.put("api", &start_first("v3"), 2, None);
    world.pass(10_000);
    let service = world.service("api");
    assert!(service.is_converged() && service.paused.is_none());
    assert_eq!(world.running("api"), ["v3", "v3"]);
    assert_eq!(world.fewest["api"], 2);
}

#[test]
fn another_way_of_updating_replaces_nothing() {
    let mut world = running(&spec("v1"), 2);
    world.put("api", &start_first("v1"), 2, None);
    world.pass(5_000);
    assert_eq!(world.done(), "");
    world.put("api", &start_first("v2"), 2, None);
    world.pass(5_000);
    assert_eq!(world.fewest["api"], 2);
}
