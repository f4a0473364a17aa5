//! The example's production, released to a real Swarm by its own files; and of each P0 item of what the deploy script
//! did that it is done at least as well.

use std::fs;
use std::process::Output;

use skep_test_support::get;

use super::checkout::Checkout;
use super::production::{STACK, docker, fill_in, has_swarm, production, said};
use super::{PLATFORMS, is_wanted};

const STACK_FILE: &str = "deploy/swarm-stack.prod.yml";

/// A checkout that nothing was built in, and that no server knows.
fn untouched() -> Checkout {
    Checkout::new(&[], "022", false)
}

fn skep(checkout: &Checkout, arguments: &[&str]) -> Output {
    checkout
        .skep(arguments)
        .env_remove("XDG_STATE_HOME")
        .output()
        .unwrap()
}

/// Each of `words` is in `text`, one after the other.
#[track_caller]
fn in_this_order(text: &str, words: &[&str]) {
    let mut rest = text;
    for word in words {
        let found = rest.find(word);
        let at = found.unwrap_or_else(|| panic!("`{word}` does not follow in:\n{text}"));
        rest = &rest[at + word.len()..];
    }
}

#[test]
fn production_runs_and_a_second_rollout_does_nothing() {
    if !has_swarm() {
        return;
    }
    let production = production();
    let (status, body) = get(production.api, "/api/health/").unwrap();
    assert_eq!((status, body.contains("\"status\":\"ok\"")), (200, true));
    let (status, page) = get(production.admin, "/").unwrap();
    assert_eq!(status, 200, "{page}");
    assert!(production.skep(&["lint", "prod"]).status.success());

    let state = || {
        let names = docker(&["config", "ls", "--format", "{{.Name}}"]);
        names
            + &docker(&[
                "config",
                "inspect",
                "honeydue.skep",
                "--format",
                "{{.Version.Index}}",
            ])
    };
    let before = (production.services(), state());
    let again = production.skep(&["release", "prod"]);
    assert_eq!(again.status.code(), Some(0), "{}", said(&again));
    assert!(said(&again).contains("nothing to do"), "{}", said(&again));
    assert_eq!(before, (production.services(), state()));
    let pending = production.skep(&["plan", "prod", "--exit-code"]);
    assert_eq!(pending.status.code(), Some(0), "{}", said(&pending));
}

#[test]
fn p0_1_dry_run_contacts_nobody_and_a_plan_shows_a_diff() {
    if !has_swarm() {
        return;
    }
    let checkout = untouched();
    // Nobody is at either address, and nothing is in the store.
    checkout.edit("skep.toml", "git.example/", "registry.invalid/");
    let values =
        ["HEALTHCHECK_URL", "ADMIN_HEALTHCHECK_URL"].map(|name| (name, "https://x.invalid".to_owned()));
    let more = [
        ("REDIS_NODE", "node".to_owned()),
        ("POSTGRES_HOST", "db.invalid".to_owned()),
    ];
    fill_in(&checkout, &[&values[..], &more[..]].concat());
    let planned = skep(&checkout, &["plan", "prod", "--offline"]);
    let text = said(&planned);
    assert_eq!(planned.status.code(), Some(0), "{text}");
    in_this_order(&text, &["admin", "1", "registry.invalid/honeydue/honeydue-admin"]);
    in_this_order(&text, &["api", "3", "registry.invalid/honeydue/honeydue-api"]);
    for name in [
        "postgres_password",
        "secret_key",
        "email_host_password",
        "fcm_server_key",
        "apns_auth_key",
    ] {
        assert!(
            text.contains(&format!("secret {name}: file deploy/secrets/")),
            "{text}"
        );
    }
    assert!(!text.contains("-of-the-tests"), "{text}");

    let production = production();
    let before = production.services();
    production
        .checkout
        .edit("deploy/prod.env", "DIGEST_INTERVAL=1h", "DIGEST_INTERVAL=2h");
    let planned = production.skep(&["plan", "prod", "--exit-code"]);
    production
        .checkout
        .edit("deploy/prod.env", "DIGEST_INTERVAL=2h", "DIGEST_INTERVAL=1h");
    let text = said(&planned);
    assert_eq!(planned.status.code(), Some(3), "{text}");
    assert!(text.contains("~ worker: replaced"), "{text}");
    let has = |sign: &str, hours: &str| {
        let is = |line: &str| {
            line.trim_start().starts_with(sign) && line.contains("DIGEST_INTERVAL") && line.contains(hours)
        };
        text.lines().any(is)
    };
    assert!(has("-", "1h") && has("+", "2h"), "{text}");
    assert_eq!(before, production.services());
}

#[test]
fn p0_2_unset_values_are_refused_and_missing_files_made_of_their_examples() {
    if !is_wanted() {
        return;
    }
    let checkout = untouched();
    let first = skep(&checkout, &["release", "prod"]);
    let text = said(&first);
    assert_eq!(first.status.code(), Some(2), "{text}");
    for file in [
        "cluster.env",
        "prod.env",
        "secrets/postgres_password.txt",
        "secrets/apns_auth_key.p8",
    ] {
        assert!(text.contains(&format!("`deploy/{file}`")), "{text}");
        assert!(checkout.project().join("deploy").join(file).exists(), "{file}");
    }
    let second = skep(&checkout, &["release", "prod"]);
    let text = said(&second);
    assert_eq!(second.status.code(), Some(2), "{text}");
    for name in [
        "DEPLOY_MANAGER_HOST",
        "HEALTHCHECK_URL",
        "POSTGRES_HOST",
        "B2_APP_KEY",
    ] {
        assert!(
            text.contains(&format!("`{name}`, which is empty in deploy/")),
            "{text}"
        );
    }
    // Neither is what a release writes.
    assert!(!checkout.beside(".local/state").exists());
}

#[test]
fn p0_3_each_step_follows_the_one_before() {
    if !has_swarm() {
        return;
    }
    let production = production();
    in_this_order(
        &production.first,
        &[
            "done secret honeydue_",
            "done roll redis",
            "successfully migrated database",
            "done migrate: schema 0 → 3",
            "done roll api",
            "done settle api",
            "done probe api /api/health/: 150 of 150 good",
            "prod runs ",
        ],
    );
    // Nobody was logged in anywhere: there is no configuration of docker's, in the home of whoever released.
    assert!(!production.checkout.beside(".docker").exists());
}

#[test]
fn p0_4_secrets_are_versioned_and_one_that_did_not_change_keeps_its_version() {
    if !has_swarm() {
        return;
    }
    let production = production();
    let versions = |production: &super::production::Production| {
        let list = production.json(&["secret", "ls", "prod"]);
        let all = list.as_array().unwrap().iter();
        let current = all.filter(|version| version["current"] == true);
        let version = |of: &serde_json::Value| of["version"].as_str().unwrap().to_owned();
        let mut current: Vec<String> = current.map(version).collect();
        current.sort();
        current
    };
    let release = |production: &super::production::Production| {
        let output = production.skep(&["rollout", "prod"]);
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    };
    let before = versions(&production);
    assert_eq!(before.len(), 5, "{before:?}");
    assert!(
        before
            .iter()
            .all(|version| version.starts_with(&format!("{STACK}_")))
    );
    let file = "deploy/secrets/fcm_server_key.txt";
    production.checkout.edit(file, "fcm", "new");
    release(&production);
    let after = versions(&production);
    let gone: Vec<_> = before.iter().filter(|version| !after.contains(version)).collect();
    let [gone] = gone[..] else {
        panic!("{before:?} {after:?}")
    };
    assert!(gone.starts_with("honeydue_fcm_server_key_"), "{gone}");
    let expected = format!("honeydue_fcm_server_key_{}", production.current());
    assert!(after.contains(&expected), "{after:?}");
    let granted = docker(&[
        "service",
        "inspect",
        "honeydue_worker",
        "--format",
        "{{json .Spec}}",
    ]);
    assert!(
        granted.contains(&expected) && !granted.contains(gone.as_str()),
        "{granted}"
    );
    // The release before needs it still, and gets it back.
    assert!(docker(&["secret", "ls"]).contains(gone.as_str()));
    let back = production.skep(&["rollback", "prod"]);
    assert_eq!(back.status.code(), Some(0), "{}", said(&back));
    assert_eq!(versions(&production), before);
    production.checkout.edit(file, "new", "fcm");
    release(&production);
    assert_eq!(versions(&production), before);
}

#[test]
fn p0_5_each_knob_has_its_command() {
    if !has_swarm() {
        return;
    }
    let production = production();
    let before = production.services();
    let tag = "released-by-hand";
    let pushed = production.skep(&["push", "--tag", tag]);
    assert_eq!(pushed.status.code(), Some(0), "{}", said(&pushed));
    // The build skipped, the checks skipped, a tag given: all of it is what runs.
    for arguments in [
        &["rollout", "prod", "--skip-probes"][..],
        &["rollout", "prod", "--tag", tag],
    ] {
        let output = production.skep(arguments);
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
        assert!(
            said(&output).contains("nothing to do"),
            "{arguments:?}: {}",
            said(&output)
        );
    }
    let lost = production.skep(&["rollout", "prod", "--tag", "never-pushed"]);
    assert!(
        said(&lost).contains("has no tag `never-pushed`"),
        "{}",
        said(&lost)
    );
    assert_eq!(before, production.services());
}

#[test]
fn p0_6_a_health_check_that_fails_undoes_every_service() {
    if !has_swarm() {
        return;
    }
    let production = production();
    let project = production.checkout.project();
    let (toml, stack) = (project.join("skep.toml"), project.join(STACK_FILE));
    let saved = [&toml, &stack].map(|file| fs::read_to_string(file).unwrap());
    let current = production.current();
    let images = || {
        docker(&[
            "service",
            "inspect",
            "honeydue_api",
            "honeydue_admin",
            "--format",
            "{{json .Spec.TaskTemplate.ContainerSpec}}",
        ])
    };
    let before = images();
    production
        .checkout
        .edit("skep.toml", r#"body = '"status":"ok"'"#, "body = 'never said'");
    production.checkout.edit(
        STACK_FILE,
        "      API_URL: http://api:8000\n",
        "      API_URL: http://api:8000/\n",
    );
    let failed = production.skep(&["rollout", "prod"]);
    fs::write(&toml, &saved[0]).unwrap();
    fs::write(&stack, &saved[1]).unwrap();
    let text = said(&failed);
    assert_eq!(failed.status.code(), Some(5), "{text}");
    assert!(text.contains("probe api /api/health/"), "{text}");
    assert_eq!(before, images());
    let history = production.json(&["history", "prod"]);
    let ran = history
        .as_array()
        .unwrap()
        .iter()
        .find(|record| record["release"]["id"] == *current);
    assert!(ran.is_some(), "{history}");
    assert_eq!(get(production.api, "/api/health/").unwrap().0, 200);
    let again = production.skep(&["release", "prod"]);
    assert_eq!(again.status.code(), Some(0), "{}", said(&again));
}

#[test]
fn p0_7_nothing_rolls_when_the_migration_fails_and_its_log_comes_first() {
    if !has_swarm() {
        return;
    }
    let production = production();
    let before = production.services();
    let broken = production.checkout.project().join("migrations/00004_broken.sql");
    fs::write(
        &broken,
        "-- +goose Up\nALTER TABLE no_such_table ADD COLUMN hive text;\n\n-- +goose Down\nSELECT 1;\n",
    )
    .unwrap();
    production.checkout.commit("a migration that fails");
    let failed = production.skep(&["release", "prod"]);
    let text = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert_eq!(failed.status.code(), Some(6), "{text}");
    let report = &text[text.find("\n  | ").unwrap()..];
    in_this_order(
        report,
        &[
            "no_such_table",
            "error: release",
            "failed at migrate",
            "no service was touched",
        ],
    );
    let ours = |services: &str| -> Vec<String> {
        let is_ours = |line: &&str| !line.starts_with("honeydue_migrate");
        services.lines().filter(is_ours).map(str::to_owned).collect()
    };
    assert_eq!(ours(&before), ours(&production.services()));
    // The runbooks: where the schema stands, by hand; then mended, and released again.
    let status = production.skep(&["run", "prod", "api", "--", "/api", "migrate", "version"]);
    assert_eq!(status.status.code(), Some(0), "{}", said(&status));
    assert!(said(&status).contains("version 3"), "{}", said(&status));
    fs::remove_file(&broken).unwrap();
    production.checkout.commit("without it");
    let mended = production.skep(&["release", "prod"]);
    assert_eq!(mended.status.code(), Some(0), "{}", said(&mended));
    assert_eq!(get(production.api, "/api/health/").unwrap().0, 200);
}

#[test]
fn p0_8_services_name_an_index_that_has_each_platform() {
    if !has_swarm() {
        return;
    }
    let production = production();
    let history = production.json(&["history", "prod"]);
    let images = history[0]["release"]["images"].as_object().unwrap();
    for (name, image) in images {
        let platforms: Vec<&String> = image["platforms"].as_object().unwrap().keys().collect();
        assert_eq!(platforms, PLATFORMS, "{name}");
        let service = format!("{STACK}_{name}");
        let named = docker(&[
            "service",
            "inspect",
            &service,
            "--format",
            "{{.Spec.TaskTemplate.ContainerSpec.Image}}",
        ]);
        assert!(
            named.trim().ends_with(image["digest"].as_str().unwrap()),
            "{name}: {named}"
        );
    }
    assert_eq!(images.len(), 4);
}
