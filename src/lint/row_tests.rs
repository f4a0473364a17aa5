//! What each row finds, and what it leaves alone.

use super::tests::Case;
use super::*;
use crate::rootfs::Healthcheck;

/// A service `api` with further lines, and everything that it may name.
fn api(lines: &str) -> String {
    let mut text = "services:\n  api:\n    image: api\n".to_owned();
    for line in lines.lines() {
        text += &format!("    {line}\n");
    }
    text + "  db: {image: db}\nvolumes: {data: , nfs: {driver_opts: {type: nfs, device: ':/x'}}, there: {external: true}}\nsecrets: {key: {file: key.txt}}\n"
}

#[track_caller]
fn found(lint: &str, lines: &str, toml: &str) -> String {
    Case::new(&api(lines), toml).of(lint)
}

/// Nothing is found in any of these.
#[track_caller]
fn nothing(lint: &str, toml: &str, all: &[&str]) {
    for lines in all {
        assert_eq!(found(lint, lines, toml), "", "{lines}");
    }
}

fn environment(pairs: &str) -> String {
    format!("environment: {{{pairs}}}")
}

fn image(env: &[(&str, &str)], healthcheck: Option<Healthcheck>) -> BTreeMap<String, Config> {
    let env = env
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let config = Config {
        env: env.collect(),
        healthcheck,
        ..Config::default()
    };
    [("api".to_owned(), config)].into()
}

#[test]
fn singleton() {
    let rules = "rules = {singletons = [\"api\"]}";
    insta::assert_snapshot!(found("singleton", "deploy: {replicas: 2, update_config: {order: start-first}}", rules), @"
    deploy/stack.yml:4:14: singleton: `api` runs once at most, and here 2 times; write `replicas: 1`
    deploy/stack.yml:4:43: singleton: `api` runs once at most, and `start-first` starts the new one beside the old one; write `order: stop-first`
    ");
    insta::assert_snapshot!(found("singleton", "deploy: {mode: global, rollback_config: {order: start-first}}", rules), @"
    deploy/stack.yml:4:14: singleton: `api` runs once at most, and here once on each node; write `mode: replicated` with one replica
    deploy/stack.yml:4:46: singleton: `api` runs once at most, and `start-first` starts the new one beside the old one; write `order: stop-first`
    ");
    nothing(
        "singleton",
        rules,
        &[
            "",
            "deploy: {replicas: 0}",
            "deploy: {replicas: 1, update_config: {order: stop-first}}",
        ],
    );
    nothing(
        "singleton",
        "",
        &["deploy: {replicas: 2, update_config: {order: start-first}}"],
    );
}

#[test]
fn connection_budget() {
    let rules = "rules = {connections = {limit = 100, variable = \"CONNS\"}}";
    let with = |deploy: &str, conns: &str| format!("environment: {{CONNS: '{conns}'}}\ndeploy: {deploy}");
    insta::assert_snapshot!(found("connection-budget", &with("{replicas: 4}", "25"), rules), @"deploy/stack.yml:4:19: connection-budget: services may open 100 connections, and 100 are too many: `api` 4 × 25; lower `CONNS`, or have fewer replicas");
    insta::assert_snapshot!(found("connection-budget", &with("{replicas: 3, update_config: {order: start-first, parallelism: 0}}", "20"), rules), @"deploy/stack.yml:4:19: connection-budget: services may open 120 connections, and 100 are too many: `api` (3 + 3 while it is replaced) × 20; lower `CONNS`, or have fewer replicas");
    insta::assert_snapshot!(found("connection-budget", &with("{replicas: 1}", "0"), rules), @"deploy/stack.yml:4:19: connection-budget: `CONNS` of `api` is `0`, and bounds nothing; write a number from 1");
    insta::assert_snapshot!(found("connection-budget", &with("{mode: global}", "5"), rules), @"deploy/stack.yml:5:14: connection-budget: `api` opens 5 connections on each node, however many there are; write `mode: replicated`, or take the database away from it");
    nothing(
        "connection-budget",
        rules,
        &[
            "",
            &with("{replicas: 3}", "33"),
            &with("{replicas: 3, update_config: {order: start-first}}", "24"),
        ],
    );
    let two = "services:\n  api: {image: api, environment: {CONNS: 25}, deploy: {replicas: 3}}\n  worker: {image: w, environment: {CONNS: 25}}\n";
    insta::assert_snapshot!(Case::new(two, rules).of("connection-budget"), @"deploy/stack.yml:2:35: connection-budget: services may open 100 connections, and 100 are too many: `api` 3 × 25, `worker` 1 × 25; lower `CONNS`, or have fewer replicas");
}

#[test]
fn local_volume() {
    insta::assert_snapshot!(found("local-volume", "volumes: [/tmp/x, 'data:/data']\ndeploy: {replicas: 3}", ""), @"deploy/stack.yml:4:23: local-volume: `api` has 3 replicas, and each node has a volume `data` of its own; keep the files in shared storage, write `replicas: 1`, or keep it on one node with a constraint on `node.hostname`");
    nothing(
        "local-volume",
        "",
        &[
            "volumes: ['data:/data']",
            "volumes: ['data:/data']\ndeploy: {mode: global}",
            "volumes: ['nfs:/data', 'there:/there']\ndeploy: {replicas: 3}",
            "volumes: ['data:/data']\ndeploy: {replicas: 3, placement: {constraints: [node.hostname == one]}}",
        ],
    );
    let other =
        "volumes: ['data:/data']\ndeploy: {replicas: 3, placement: {constraints: [node.hostname != one]}}";
    assert_ne!(found("local-volume", other, ""), "");
}

#[test]
fn together() {
    let rules = "rules = {together = [[\"B2_ENDPOINT\", \"B2_KEY_ID\", \"B2_APP_KEY\"]]}";
    insta::assert_snapshot!(found("together", "environment: {B2_KEY_ID: x, B2_APP_KEY: ''}", rules), @"deploy/stack.yml:4:19: together: `api` has `B2_KEY_ID`, and lacks `B2_ENDPOINT`, `B2_APP_KEY`; give it all of them, or none");
    nothing(
        "together",
        rules,
        &[
            "",
            "environment: {B2_KEY_ID: '', OTHER: x}",
            "environment: {B2_ENDPOINT: a, B2_KEY_ID: b, B2_APP_KEY_FILE: /c}",
        ],
    );
}

#[test]
fn at_most() {
    let rules = "rules = {at_most = {LIFE = \"300s\"}}";
    insta::assert_snapshot!(found("at-most", "environment: {LIFE: 600s}", rules), @"deploy/stack.yml:4:19: at-most: `LIFE` of `api` is `600s`, and 5m0s is the most; write `5m0s` or less");
    insta::assert_snapshot!(found("at-most", "environment: {LIFE: 0}", rules), @"deploy/stack.yml:4:19: at-most: `LIFE` of `api` is `0`, which is without end; 5m0s is the most; write `5m0s` or less");
    insta::assert_snapshot!(found("at-most", "environment: {LIFE: forever}", rules), @"deploy/stack.yml:4:19: at-most: `LIFE` of `api` is `forever`, which is no duration; write `5m0s` or less");
    assert_ne!(found("at-most", "environment: {LIFE: 301}", rules), "");
    nothing(
        "at-most",
        rules,
        &["", "environment: {LIFE: 5m}", "environment: {LIFE: '300'}"],
    );
}

#[test]
fn sslmode() {
    let with = |pairs: &str| found("sslmode", &environment(pairs), "");
    insta::assert_snapshot!(with("POSTGRES_SSLMODE: disable"), @"deploy/stack.yml:4:19: sslmode: `POSTGRES_SSLMODE` of `api` asks for the mode `disable`; write `require`, or `verify-full` with the authority's certificate");
    insta::assert_snapshot!(with("URL: 'postgres://u@db/x?sslmode=prefer&a=b'"), @"deploy/stack.yml:4:19: sslmode: `URL` of `api` asks for the mode `prefer`; write `require`, or `verify-full` with the authority's certificate");
    insta::assert_snapshot!(with("URL: 'postgresql://u@db/x'"), @"deploy/stack.yml:4:19: sslmode: `URL` of `api` has no `sslmode`, and `prefer` is the default; add `?sslmode=require`");
    assert_ne!(with("DSN: \"host=db sslmode='allow' user=u\""), "");
    for fine in [
        "POSTGRES_SSLMODE: require",
        "PGSSLMODE: verify-full, URL: 'postgres://u@db/x'",
        "URL: 'postgres://u@db/x?sslmode=verify-ca'",
        "URL: 'postgres:///x?host=/run/postgresql'",
        "URL: 'redis://cache'",
    ] {
        assert_eq!(with(fine), "", "{fine}");
    }
}

#[test]
fn migrate_pooler() {
    let migrate = "migrate = {service = \"api\", command = [\"/m\"]}";
    let with = |pairs: &str| found("migrate-pooler", &environment(pairs), migrate);
    insta::assert_snapshot!(with("DB_HOST: ep-a-pooler.eu.example"), @"deploy/stack.yml:4:19: migrate-pooler: `api` migrates through the pooler `ep-a-pooler.eu.example`; give it an address of the database itself, in a variable whose name has `MIGRATION` or `DIRECT` in it");
    insta::assert_snapshot!(with("URL: 'postgres://u@ep-a-pooler.eu.example:5432/x', MIGRATION_URL: ''"), @"deploy/stack.yml:4:19: migrate-pooler: `api` migrates through the pooler `ep-a-pooler.eu.example`; give it an address of the database itself, in a variable whose name has `MIGRATION` or `DIRECT` in it");
    assert_ne!(with("DSN: host=pgbouncer user=u"), "");
    for fine in [
        "DB_HOST: ep-a.eu.example",
        "NOTE: 'is ep-a-pooler better?'",
        "URL: 'postgres://u@a-pooler.example/x', MIGRATION_DATABASE_URL: 'postgres://u@a.example/x'",
        "DB_HOST: a-pooler.example, MIGRATION_DATABASE_URL_FILE: /run/secrets/x",
    ] {
        assert_eq!(with(fine), "", "{fine}");
    }
    assert_eq!(
        found("migrate-pooler", &environment("DB_HOST: a-pooler.example"), ""),
        ""
    );
}

#[test]
fn plain_http_endpoint() {
    let with = |pairs: &str| found("plain-http-endpoint", &environment(pairs), "");
    insta::assert_snapshot!(with("B2_ENDPOINT: 'http://s3.example:9000/x'"), @"deploy/stack.yml:4:19: plain-http-endpoint: `B2_ENDPOINT` of `api` reaches `s3.example` without TLS; write `https://`");
    assert_ne!(with("AWS_ENDPOINT_URL_S3: 'http://s3.example'"), "");
    for fine in [
        "B2_ENDPOINT: 'https://s3.example'",
        "B2_ENDPOINT: s3.example",
        "B2_ENDPOINT: 'http://db:9000'",
        "B2_ENDPOINT: 'http://127.0.0.1'",
        "WEB_URL: 'http://s3.example'",
    ] {
        assert_eq!(with(fine), "", "{fine}");
    }
}

#[test]
fn plain_secret() {
    let with = |pairs: &str| found("plain-secret", &environment(pairs), "");
    insta::assert_snapshot!(with("DB_PASSWORD: hunter2, SENTRY: 'https://k:hunter2@s.example/1'"), @"
    deploy/stack.yml:4:19: plain-secret: `DB_PASSWORD` of `api` holds a secret in the clear; make it a secret, and give `api` its file: `DB_PASSWORD_FILE: /run/secrets/…`
    deploy/stack.yml:4:41: plain-secret: `SENTRY` of `api` has an address with a password in it; make it a secret, and give `api` its file: `SENTRY_FILE: /run/secrets/…`
    ");
    assert_ne!(with("DSN: 'host=db password=x'"), "");
    for fine in [
        "DB_PASSWORD: ''",
        "DB_PASSWORD_FILE: /run/secrets/x",
        "TLS_KEY: /run/secrets/tls",
        "NEXT_PUBLIC_KEY: x",
        "URL: 'https://user@s.example'",
    ] {
        assert_eq!(with(fine), "", "{fine}");
    }
    let file = "environment: {TLS_KEY: /etc/tls/key}\nsecrets: [{source: key, target: /etc/tls/key}]";
    nothing(
        "plain-secret",
        "",
        &[file, "environment: {TLS_KEY: /tls/key}\nvolumes: ['data:/tls']"],
    );
    let baked = |lines| {
        let stack = api(lines);
        let case = Case {
            images: image(&[("API_TOKEN", "hunter2"), ("PATH", "/bin")], None),
            ..Case::new(&stack, "")
        };
        case.of("plain-secret")
    };
    insta::assert_snapshot!(baked(""), @"deploy/stack.yml:3:5: plain-secret: `API_TOKEN` in the image `api` holds a secret in the clear; take it out of the recipe, and replace the secret");
    assert_eq!(baked("environment: {API_TOKEN: ''}"), "");
}

#[test]
fn tracked_secret_and_untracked_file() {
    let stack = "services: {api: {image: api}}\nsecrets: {key: {file: ../key.txt}, pass: {external: true}}\nconfigs: {conf: {file: ./conf.json}}\n";
    let case = |files: &'static [&'static str]| Case {
        tracked: Some(files),
        ..Case::new(stack, "secrets = {pass = {file = \"secrets/pass.txt\"}}")
    };
    let bad = case(&["key.txt", "secrets/pass.txt", "deploy/key.txt"]);
    insta::assert_snapshot!(bad.of("tracked-secret"), @"
    deploy/stack.yml:2:11: tracked-secret: `key.txt`, the secret `key`, is in git; take it out with `git rm --cached`, ignore it, and replace the secret
    deploy/stack.yml:2:36: tracked-secret: `secrets/pass.txt`, the secret `pass`, is in git; take it out with `git rm --cached`, ignore it, and replace the secret
    ");
    insta::assert_snapshot!(bad.of("untracked-file"), @"
    deploy/stack.yml:1:1: untracked-file: `deploy/stack.yml` is not in git; add it with `git add --force`, or mend `.gitignore`
    deploy/stack.yml:3:11: untracked-file: `deploy/conf.json` is not in git; add it with `git add --force`, or mend `.gitignore`
    ");
    let good = case(&["deploy/stack.yml", "deploy/conf.json"]);
    assert_eq!(
        (good.of("tracked-secret"), good.of("untracked-file")),
        Default::default()
    );
    let no_git = Case::new(stack, "");
    assert_eq!(
        (no_git.of("tracked-secret"), no_git.of("untracked-file")),
        Default::default()
    );
}

#[test]
fn unread_variable() {
    let stack = "services: {api: {image: api, environment: {A: '${GOOD}', B: '${LEVEL:-x}'}}}";
    let case = |given: &'static [&'static str]| Case {
        given,
        ..Case::new(stack, "")
    };
    insta::assert_snapshot!(case(&["GOOD", "LEVLE", "LOST"]).of("unread-variable"), @"
    prod.env:2:1: unread-variable: nothing in `deploy/stack.yml` reads `LEVLE`; did you mean `LEVEL`?
    prod.env:3:1: unread-variable: nothing in `deploy/stack.yml` reads `LOST`; give it to a service with `LOST: ${LOST}`, or remove it
    ");
    assert_eq!(case(&["GOOD", "LEVEL"]).of("unread-variable"), "");
    // skep.toml reads these.
    let toml = "managers = [\"ssh://${USER}@${HOST:-${OTHER}}\"]\naddresses = {api = \"${ADDRESS}\"}";
    let given = &["GOOD", "USER", "HOST", "OTHER", "ADDRESS", "LOST"];
    let case = Case {
        given,
        ..Case::new(stack, toml)
    };
    insta::assert_snapshot!(case.of("unread-variable"), @"prod.env:6:1: unread-variable: nothing in `deploy/stack.yml` reads `LOST`; give it to a service with `LOST: ${LOST}`, or remove it");
}

#[test]
fn mutable_image() {
    let with = |image: &str| {
        let stack = format!("services: {{api: {{image: '{image}'}}}}");
        Case::new(&stack, "").of("mutable-image")
    };
    insta::assert_snapshot!(with("redis:7-alpine"), @"deploy/stack.yml:1:18: mutable-image: `redis:7-alpine` may be another image tomorrow; run `skep lock`, which writes down what it is today, or write the name of a target that builds it");
    assert_ne!(with("git.example/team/api"), "");
    assert_eq!(with("api"), "");
    assert_eq!(with(&format!("redis:7@sha256:{}", "0".repeat(64))), "");
}

#[test]
fn docker_socket() {
    let with = |path: &str| found("docker-socket", &format!("volumes: ['{path}:/x:ro']"), "");
    insta::assert_snapshot!(with("/var/run/docker.sock"), @"deploy/stack.yml:4:15: docker-socket: `api` is given `/var/run/docker.sock`, and with it the engine's socket; put a proxy in between that lets through only what the service asks for");
    assert_ne!(with("/run"), "");
    assert_ne!(with("/"), "");
    assert_eq!(with("/var/lib/x"), "");
    assert_eq!(with("/var/run/docker"), "");
}

#[test]
fn health_check() {
    let with = |lines: &str, images| {
        let stack = api(lines).replace("  db: {image: db}\n", "");
        let case = Case {
            images,
            ..Case::new(&stack, "")
        };
        (case.of("health-check"), case.check().unwrap().unjudged.len())
    };
    let own = |test: &str| {
        let test = vec![test.to_owned()];
        Some(Healthcheck {
            test,
            ..Healthcheck::default()
        })
    };
    insta::assert_snapshot!(with("", image(&[], None)).0, @"deploy/stack.yml:2:3: health-check: neither `api` nor its image has a health check; write a `healthcheck` with a `test`");
    insta::assert_snapshot!(with("healthcheck: {disable: true}", BTreeMap::new()).0, @"deploy/stack.yml:4:5: health-check: the health check of `api` is switched off; write a `healthcheck` with a `test`");
    assert_ne!(with("", image(&[], own("NONE"))).0, "");
    assert_eq!(with("", image(&[], own("CMD"))), (String::new(), 0));
    assert_eq!(
        with("healthcheck: {test: x}", BTreeMap::new()),
        (String::new(), 0)
    );
    assert_eq!(
        with("deploy: {mode: replicated-job}", image(&[], None)),
        (String::new(), 0)
    );
    assert_eq!(with("", BTreeMap::new()), (String::new(), 1));
}

#[test]
fn probe_budget() {
    let rules = "rules = {boot = {api = \"240s\"}}";
    let with = |check: &str, images| {
        let stack = api(&format!("healthcheck: {check}")).replace("  db: {image: db}\n", "");
        let case = Case {
            images,
            ..Case::new(&stack, rules)
        };
        (case.of("probe-budget"), case.check().unwrap().unjudged.len())
    };
    let of_image = || {
        let check = Healthcheck {
            test: vec!["CMD".to_owned()],
            start_period: Some(std::time::Duration::from_secs(200)),
            retries: Some(2),
            ..Healthcheck::default()
        };
        image(&[], Some(check))
    };
    insta::assert_snapshot!(with("{test: x, interval: 10s, retries: 5}", image(&[], None)).0, @"deploy/stack.yml:4:5: probe-budget: `api` takes up to 4m0s to boot, and is given up after 50s: 0s and 5 × 10s; write `start_period: 4m0s`");
    assert_eq!(
        with("{test: x, interval: 10s, start_period: 240s}", image(&[], None)),
        (String::new(), 0)
    );
    // The image's fill what is left open: 200 s and 2 × 20 s.
    assert_eq!(with("{interval: 20s}", of_image()), (String::new(), 0));
    assert_ne!(with("{interval: 19s}", of_image()).0, "");
    assert_eq!(
        with("{test: x, interval: 10s}", BTreeMap::new()),
        (String::new(), 1)
    );
}

#[test]
fn port_address() {
    insta::assert_snapshot!(found("port-address", "ports: [80, '127.0.0.1:6060:6060']", ""), @"deploy/stack.yml:4:17: port-address: port 6060 of `api` is to listen on 127.0.0.1 only, which Swarm does not do; publish no port, and let services on its network reach it; or remove the address, and close the port in the nodes' firewall");
    nothing("port-address", "", &["ports: ['8000:8000']"]);
}

#[test]
fn encrypted_network() {
    let with = |networks: &str, top: &str| {
        let stack = format!("services: {{api: {{image: api, networks: {networks}}}}}\nnetworks: {top}\n");
        Case::new(&stack, "").of("encrypted-network")
    };
    insta::assert_snapshot!(Case::new("services: {api: {image: api}}", "").of("encrypted-network"), @r#"deploy/stack.yml:1:1: encrypted-network: the network `default` is not encrypted between nodes; write `default: {driver_opts: {encrypted: ""}}` in `networks` at the top of the file"#);
    insta::assert_snapshot!(with("[a, b]", "{a: {driver: overlay}, b: {driver_opts: {encrypted: 'true'}}}"), @r#"deploy/stack.yml:2:12: encrypted-network: the network `a` is not encrypted between nodes; write `a: {driver_opts: {encrypted: ""}}` in `networks` at the top of the file"#);
    assert_eq!(
        with("[a, b]", "{a: {driver: bridge}, b: {external: true}, c: }"),
        ""
    );
}

#[test]
fn memory_limit() {
    insta::assert_snapshot!(found("memory-limit", "deploy: {resources: {reservations: {memory: 1M}}}", "").lines().next().unwrap(), @"deploy/stack.yml:4:14: memory-limit: `api` has no limit of memory; write `deploy: {resources: {limits: {memory: 256M}}}` with what it needs");
    assert_eq!(
        found("memory-limit", "deploy: {resources: {limits: {memory: 1M}}}", "")
            .matches("`api`")
            .count(),
        0
    );
}

#[test]
fn stop_grace() {
    let with = |lines: &str, toml: &str| {
        let stack = api(lines).replace("  db: {image: db}\n", "");
        Case::new(&stack, toml).of("stop-grace")
    };
    insta::assert_snapshot!(with("", ""), @"deploy/stack.yml:2:3: stop-grace: `api` does not say how long it has to end, and is killed after 10s; write `stop_grace_period: 60s`");
    insta::assert_snapshot!(with("stop_grace_period: 30s", "rules = {stop_grace = \"1m\"}"), @"deploy/stack.yml:4:5: stop-grace: `api` has 30s to end, and 1m0s is the least; write `stop_grace_period: 1m0s`");
    assert_eq!(with("stop_grace_period: 5s", ""), "");
    assert_eq!(
        with("stop_grace_period: 60s", "rules = {stop_grace = \"1m\"}"),
        ""
    );
    assert_eq!(with("deploy: {mode: global-job}", ""), "");
}

#[test]
fn secrets_that_are_declared_only_warn() {
    let levels = |lines: &str| {
        let stack = api(lines);
        let report = Case::new(&stack, "secret_env = [\"B2_APP_KEY\", \"DSN\"]")
            .check()
            .unwrap();
        let mine = report
            .findings
            .into_iter()
            .filter(|finding| finding.lint == "plain-secret");
        mine.map(|finding| format!("{:?} {finding}\n", finding.level))
            .collect::<String>()
    };
    insta::assert_snapshot!(levels(&environment("B2_APP_KEY: x, DSN: anything, API_TOKEN: x")), @"
    Block deploy/stack.yml:4:49: plain-secret: `API_TOKEN` of `api` holds a secret in the clear; make it a secret, and give `api` its file: `API_TOKEN_FILE: /run/secrets/…`
    Warn deploy/stack.yml:4:19: plain-secret: `B2_APP_KEY` of `api` is a secret, and whoever may look at the service reads it; make it a real secret, and give `api` its file: `B2_APP_KEY_FILE: /run/secrets/…`
    Warn deploy/stack.yml:4:34: plain-secret: `DSN` of `api` is a secret, and whoever may look at the service reads it; make it a real secret, and give `api` its file: `DSN_FILE: /run/secrets/…`
    ");
    assert_eq!(levels(&environment("B2_APP_KEY: /run/secrets/key, DSN: ''")), "");
    let stack = api(&environment("B2_APP_KEY: x"));
    let error = |name: &str| {
        let toml = format!("secret_env = [\"{name}\"]");
        Case::new(&stack, &toml).check().unwrap_err().to_string()
    };
    insta::assert_snapshot!(error("B2_APP_KEYS"), @"skep.toml names the variable `B2_APP_KEYS` in `secret_env`, and no service of `deploy/stack.yml` has it; did you mean `B2_APP_KEY`?");
    insta::assert_snapshot!(error("OTHER"), @"skep.toml names the variable `OTHER` in `secret_env`, and no service of `deploy/stack.yml` has it; remove it");
}

#[test]
fn single_copy() {
    insta::assert_snapshot!(found("single-copy", "volumes: ['data:/data']", ""), @"deploy/stack.yml:4:15: single-copy: `api` may be moved to another node, where its volume `data` is empty; keep it on one node with a constraint on `node.hostname`, or its files in shared storage");
    insta::assert_snapshot!(found("single-copy", "volumes: ['data:/data']\ndeploy: {placement: {constraints: [node.hostname == a]}}", ""), @"deploy/stack.yml:4:15: single-copy: the volume `data` of `api` is on one node, and is lost with it; keep a copy elsewhere, and allow this with where it is");
    nothing(
        "single-copy",
        "",
        &[
            "volumes: ['nfs:/data', 'there:/data2', '/host:/host', '/anonymous']",
            "volumes: ['data:/data:ro']",
            "volumes: ['data:/data']\ndeploy: {replicas: 2}",
            "volumes: ['data:/data']\ndeploy: {mode: replicated-job}",
        ],
    );
}

#[test]
fn update_gap() {
    insta::assert_snapshot!(found("update-gap", "ports: ['80:80']", ""), @"deploy/stack.yml:2:3: update-gap: `api` has one replica, which ends before the next one starts; write `update_config: {order: start-first}`, or `replicas: 2`");
    assert_ne!(found("update-gap", "", "probes = {api = [\"/\"]}"), "");
    nothing(
        "update-gap",
        "",
        &[
            "",
            "ports: ['80:80']\ndeploy: {replicas: 2}",
            "ports: ['80:80']\ndeploy: {mode: global}",
            "ports: ['80:80']\ndeploy: {update_config: {order: start-first}}",
            "ports: ['80:80']\nvolumes: ['data:/data']",
            "ports: [{target: 80, published: 80, mode: host}]",
        ],
    );
    nothing(
        "update-gap",
        "rules = {singletons = [\"api\"]}",
        &["ports: ['80:80']"],
    );
}

#[test]
fn attestation() {
    let of = |on: &str| {
        let toml = format!("[environments.prod.rules.attest]\nrestore_tested = {{on = {on}, days = 90}}\n");
        found("attestation", "", &toml)
    };
    insta::assert_snapshot!(of("2026-08-25"), @"skep.toml:7:24: attestation: `restore_tested` was last made sure of on 2026-08-25, 91 days ago, and 90 are the most; make sure of it, and write the day");
    insta::assert_snapshot!(of("2026-11-25"), @"skep.toml:7:24: attestation: `restore_tested` is dated 2026-11-25, which is yet to come; make sure of it, and write the day");
    assert_eq!(of("2026-08-26") + &of("2026-11-24"), "");
}

#[test]
fn pull_credentials() {
    let of = |until: &str| {
        let toml =
            format!("[environments.prod.pull]\n\"git.example\" = {{user = \"robot\", until = {until}}}\n");
        found("pull-credentials", "", &toml)
    };
    insta::assert_snapshot!(of("2026-11-23"), @"skep.toml:7:42: pull-credentials: the credentials with which nodes pull from `git.example` as `robot` ended on 2026-11-23; log in with new ones, write their last day, and roll out: no replica is restarted");
    insta::assert_snapshot!(of("2026-12-07"), @"skep.toml:7:42: pull-credentials: the credentials with which nodes pull from `git.example` as `robot` end on 2026-12-07, in 13 days; log in with new ones, write their last day, and roll out: no replica is restarted");
    assert_eq!(of("2026-12-08"), "");
}

#[test]
fn what_strangers_see() {
    let of = |lint: &str, toml: &str, outside: Outside| {
        let case = Case {
            outside: Some(outside),
            ..Case::new("services: {api: {image: api}}", toml)
        };
        case.of(lint)
    };
    let login = |user: &str, port: u16, guessable: bool| Login {
        index: 1,
        user: user.to_owned(),
        port,
        guessable,
    };
    let managers = "managers = [\"unix:///run/docker.sock\", \"ssh://node-1\"]\n";
    let by = |login: Login| Outside {
        managers: vec![login],
        ..Outside::default()
    };
    insta::assert_snapshot!(of("manager-ssh", managers, by(login("root", 22, true))), @"
    skep.toml:6:40: manager-ssh: the sshd of `ssh://node-1` takes passwords, which can be guessed; write `PasswordAuthentication no` and `KbdInteractiveAuthentication no` in its sshd_config
    skep.toml:6:40: manager-ssh: skep logs in to `ssh://node-1` as `root`; make a user there who may use the engine's socket, and `PermitRootLogin no`
    skep.toml:6:40: manager-ssh: the sshd of `ssh://node-1` is on port 22, where everybody tries; give it another `Port`, or let only known addresses come to it
    ");
    assert_eq!(of("manager-ssh", managers, by(login("deploy", 2222, false))), "");
    let open = || Outside {
        open: [
            ("node-1", 2377),
            ("node-1", 443),
            ("node-1", 7946),
            ("node-2", 80),
        ]
        .map(|(node, port)| (node.to_owned(), port))
        .into(),
        names: vec![("api.example".to_owned(), "node-2".to_owned())],
        ..Outside::default()
    };
    insta::assert_snapshot!(of("node-ports", "", open()), @"deploy/stack.yml:1:1: node-ports: the node `node-1` answers this machine on port 2377 and 7946, which is for other nodes only; let its firewall drop 2377/tcp, 7946/tcp, 7946/udp and 4789/udp of everybody else");
    insta::assert_snapshot!(of("past-the-edge", "rules = {edge = true}", open()), @"
    deploy/stack.yml:1:1: past-the-edge: the node `node-1` answers this machine on port 443, past the edge; let its firewall drop what does not come from the edge's addresses
    deploy/stack.yml:1:1: past-the-edge: the node `node-2` answers this machine on port 80, past the edge; let its firewall drop what does not come from the edge's addresses
    deploy/stack.yml:1:1: past-the-edge: `api.example` leads to the node `node-2`, past the edge; let the name lead to the edge, which hides where the nodes are
    ");
    assert_eq!(of("past-the-edge", "", open()), "");
}

#[test]
fn retention() {
    let of = |name: &str, releases: &[&str], fate: Fate| {
        let kept = [Kept {
            name: name.to_owned(),
            image: format!("git.example/team/{name}@sha256:00"),
            releases: releases.iter().map(|release| (*release).to_owned()).collect(),
            fate,
        }];
        let case = Case {
            kept: Some(&kept),
            ..Case::new("services: {front: {image: api}}", "")
        };
        case.of("retention")
    };
    insta::assert_snapshot!(of("api", &["b", "a"], Fate::Lost), @"deploy/stack.yml:1:20: retention: the registry lost `git.example/team/api@sha256:00` of release b and 1 older; `skep push` of the same revision brings it back; let the registry's cleanup spare what `skep history` has");
    insta::assert_snapshot!(of("gone", &["a"], Fate::Untagged), @"deploy/stack.yml:1:1: retention: no tag of the registry means `git.example/team/gone@sha256:00` of release a; give it one with `skep push --tag` of the same revision, or let the registry's cleanup spare what has none");
}
