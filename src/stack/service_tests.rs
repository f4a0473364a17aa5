//! Services read, and refused, key by key.

use super::tests::{good, reading};
use super::*;

/// A file whose one service has these lines.
fn with(lines: &str) -> String {
    let mut text = "services:\n  api:\n    image: api\n".to_owned();
    for line in lines.lines() {
        text += &format!("    {line}\n");
    }
    text + "volumes: {data: }\nsecrets: {key: {file: k}, pass: {external: true}}\nconfigs: {conf: {file: c}}\nnetworks: {inner: }\n"
}

#[track_caller]
fn service(lines: &str) -> Service {
    good(&with(lines)).stack.services.remove("api").unwrap()
}

/// What is wrong with a service of these lines, each without its place.
#[track_caller]
fn faults(lines: &str) -> String {
    let text = with(lines);
    let error = reading(&text).expect_err(lines);
    let what = |problem: &Problem| format!("{}; {}", problem.what, problem.remedy);
    error.0.iter().map(what).collect::<Vec<_>>().join("\n")
}

fn json(value: impl serde::Serialize) -> String {
    serde_json::to_string(&value).unwrap()
}

#[test]
fn ports_are_read_in_every_form() {
    for (lines, expected) in [
        ("[80]", "80>"),
        ("['80']", "80>"),
        ("['8080:80/udp']", "8080>80/udp"),
        (
            "['127.0.0.1:8080:80', '[::1]:81:80', ':9']",
            "127.0.0.1:8080>80 ::1:81>80 9>",
        ),
        ("['0.0.0.0::80/TCP']", "0.0.0.0:80>"),
        ("['8000-8002:80-82']", "8000>80 8001>81 8002>82"),
        ("['8000-8001:80', 90-91]", "8000>80 8001>80 90> 91>"),
        (
            "[{target: 80, published: 443, protocol: udp, mode: host}]",
            "443>80/udp/host",
        ),
        (
            "[{target: 80, host_ip: 127.0.0.1}, '${ONE}:${TWO}']",
            "127.0.0.1:80> 1>2",
        ),
        ("[{target: $ONE, published: '${TWO}'}]", "2>1"),
    ] {
        let show = |port: &Port| {
            let ip = port.host_ip.as_ref().map_or(String::new(), |ip| format!("{ip}:"));
            let protocol = if port.protocol == Protocol::Tcp {
                ""
            } else {
                &format!("/{}", port.protocol)
            };
            let mode = if port.mode == PortMode::Ingress {
                ""
            } else {
                &format!("/{}", port.mode)
            };
            let ends = match port.published {
                Some(published) => format!("{published}>{}", port.target),
                None => format!("{}>", port.target),
            };
            format!("{ip}{ends}{protocol}{mode}")
        };
        let found = service(&format!("ports: {lines}")).ports;
        let found: Vec<_> = found.iter().map(show).collect();
        assert_eq!(found.join(" "), expected, "{lines}");
    }
}

#[test]
fn malformed_ports_are_refused() {
    for bad in [
        "'0:80'",
        "'80:0'",
        "0",
        "65536",
        "'65536'",
        "'a'",
        "''",
        "'80/icmp'",
        "'1.2.3:80:80'",
        "'80-79'",
        "'1-2:3-5'",
        "'1-2-3'",
        "'+80'",
        "'80:'",
        "{target: 0}",
        "{target: 70000}",
        "{published: 80}",
        "{target: 80, mode: x}",
        "{target: 80, protocol: TCP}",
        "{target: '80'}",
        "{target: 80, host_ip: x}",
        "80, 80",
        "1.5",
        "[80]",
    ] {
        assert!(reading(&with(&format!("ports: [{bad}]"))).is_err(), "{bad}");
    }
}

#[test]
fn mounts_are_read_in_every_form() {
    let volume = |name: Option<&str>, nocopy| MountSource::Volume {
        name: name.map(str::to_owned),
        nocopy,
        subpath: None,
    };
    let bind = |path: &str, propagation| MountSource::Bind {
        path: path.to_owned(),
        propagation,
    };
    for (lines, source, read_only) in [
        ("/a", volume(None, false), false),
        ("data:/a", volume(Some("data"), false), false),
        ("data:/a:ro,nocopy", volume(Some("data"), true), true),
        ("./x:/a:ro", bind("./x", None), true),
        ("/x:/a:rslave,rw", bind("/x", Some(Propagation::Rslave)), false),
        ("{type: volume, target: /a}", volume(None, false), false),
        (
            "{type: volume, source: data, target: /a, read_only: $YES}",
            volume(Some("data"), false),
            true,
        ),
        (
            "{type: volume, source: data, target: /a, volume: {nocopy: true}}",
            volume(Some("data"), true),
            false,
        ),
        (
            "{type: bind, source: ../x, target: /a, bind: {propagation: shared}}",
            bind("../x", Some(Propagation::Shared)),
            false,
        ),
        (
            "{type: tmpfs, target: /a}",
            MountSource::Tmpfs { size: None },
            false,
        ),
        (
            "{type: tmpfs, target: /a, tmpfs: {size: 4096}}",
            MountSource::Tmpfs { size: Some(4096) },
            false,
        ),
    ] {
        let target = "/a".to_owned();
        let expected = vec![Mount {
            source,
            target,
            read_only,
        }];
        assert_eq!(
            service(
                &format!("volumes: [{lines:?}]")
                    .replace("\"{", "{")
                    .replace("}\"", "}")
            )
            .volumes,
            expected,
            "{lines}"
        );
    }
}

#[test]
fn malformed_mounts_are_refused() {
    for bad in [
        "''",
        "a",
        "data:a",
        "data:/a:z",
        "data:/a:ro:x",
        ":/a",
        "data:",
        "data:/a:",
        "~/x:/a",
        "x:/a",
        "data:/a/../b",
        "data:/",
        "data:/a:rslave",
        "./x:/a:nocopy",
        "/a, /a",
        "C:\\x:/a",
        "{type: npipe, target: /a}",
        "{target: /a}",
        "{type: volume}",
        "{type: bind, target: /a}",
        "{type: volume, source: data, target: /a, tmpfs: {size: 1}}",
        "{type: tmpfs, target: /a, source: data}",
        "{type: tmpfs, target: /a, tmpfs: {size: 64m}}",
        "{type: volume, source: none, target: /a}",
        "{type: bind, source: '~', target: /a}",
    ] {
        assert!(reading(&with(&format!("volumes: [{bad}]"))).is_err(), "{bad}");
    }
}

#[test]
fn the_environment_comes_from_files_text_and_variables() {
    let environment = |lines: &str| json(service(lines).environment);
    for (lines, expected) in [
        (
            "environment: {A: b, N: 5, F: 0.5, E: '', WORD: }",
            r#"{"A":"b","E":"","F":"0.5","N":"5","WORD":"word"}"#,
        ),
        (
            "environment: [A=b=c, WORD, 'E=', ONE=]",
            r#"{"A":"b=c","E":"","ONE":"1","WORD":"word"}"#,
        ),
        ("environment: ['A=$ONE', 'B=${NONE:-}']", r#"{"A":"1","B":""}"#),
        (
            "env_file: a.env\nenvironment: {C: own}",
            r#"{"A":"1","B":"\"q\" ","C":"own","EMPTY":"","WORD":"word"}"#,
        ),
    ] {
        assert_eq!(environment(lines), expected, "{lines}");
    }
    assert!(faults("environment: [NONE]").contains("`NONE` is not set; set it, or write `NONE=`"));
    assert!(faults("environment: {NONE: }").contains("`NONE` is not set"));
    assert!(
        faults("environment: {A: true}")
            .contains("is a boolean, and should be text or a number; write `\"true\"`")
    );
    assert!(faults("environment: {A: 1.10}").contains("another text for it than `1.10`; write `\"1.10\"`"));
    assert!(faults("environment: [A=1, A=2]").contains("has `A` twice"));
    assert!(faults("environment: ['=1']").contains("name"));
    assert!(faults("environment: ['A B=1']").contains("no variable's name"));
    assert!(faults("env_file: none.env").contains("cannot read `none.env`: entity not found"));
    assert!(faults("env_file: binary.env").contains("not UTF-8"));
    assert!(faults("env_file: huge.env").contains("larger than 1 MiB"));
    let error = reading(&with("env_file: [a.env, b.env]"))
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "deploy/b.env:2:1: the variable `MISSING` is not set; set it, or write `MISSING=` if it may be empty"
    );
}

#[test]
fn health_checks_are_read_in_every_form() {
    let test = |lines: &str| {
        service(&format!("healthcheck: {{{lines}}}"))
            .healthcheck
            .unwrap()
            .test
    };
    let shell = Some(HealthTest::Shell("a b".to_owned()));
    assert_eq!(test("test: a b"), shell);
    assert_eq!(test("test: [CMD-SHELL, a b]"), shell);
    let command = HealthTest::Command(vec!["a".to_owned(), "b".to_owned()]);
    assert_eq!(test("test: [CMD, a, b]"), Some(command));
    assert_eq!(test("test: [NONE]"), Some(HealthTest::Disabled));
    assert_eq!(test("disable: true"), Some(HealthTest::Disabled));
    assert_eq!(test("disable: false, test: []"), None);
    assert!(faults("healthcheck: {test: [a, b]}").contains("should be `[CMD, PROGRAM, …]`"));
    assert!(faults("healthcheck: {test: [CMD]}").contains("should be `[CMD"));
    assert!(faults("healthcheck: {test: a, disable: true}").contains("goes with no `test`"));
    assert!(faults("healthcheck: {interval: 5}").contains("should be a duration such as `30s`"));
    assert!(faults("healthcheck: {retries: '3'}").contains("write it without quotes"));
}

#[test]
fn durations_sizes_and_processors_are_read() {
    for (text, expected) in [
        ("0", "0s"),
        ("1.5h", "1h30m0s"),
        ("90s", "1m30s"),
        ("1h1ms", "1h0m0.001s"),
        ("1500us", "1.5ms"),
        ("10µs", "10µs"),
        ("3ns", "3ns"),
        (".5s", "500ms"),
        ("+1m", "1m0s"),
        ("0.0000000019s", "1ns"),
        ("8760h", "8760h0m0s"),
    ] {
        let span: Span = text.parse().unwrap_or_else(|why| panic!("{text}: {why}"));
        assert_eq!(span.to_string(), expected, "{text}");
        assert_eq!(serde_json::from_str::<Span>(&json(span)).unwrap(), span);
    }
    for text in [
        "",
        "5",
        "-1s",
        "1",
        "s",
        ".s",
        "1d",
        "1.2.3s",
        "8761h",
        "1 s",
        "1s ",
        "99999999999999999999h",
    ] {
        assert!(text.parse::<Span>().is_err(), "{text}");
    }
    for (text, expected) in [
        ("200M", Some(200 << 20)),
        ("1.5g", Some(3 << 29)),
        ("64KiB", Some(64 << 10)),
        ("64 kb", Some(64 << 10)),
        ("7b", Some(7)),
        ("7", Some(7)),
        ("1t", Some(1 << 40)),
        ("-1m", None),
        ("m", None),
        ("1mm", None),
        ("1e", None),
        ("", None),
        ("1..m", None),
        ("99999999999p", None),
        ("1µ", None),
    ] {
        assert_eq!(quantity::bytes(text), expected, "{text}");
    }
    for (text, expected) in [
        ("0.5", Some(500_000_000)),
        ("2", Some(2_000_000_000)),
        (".000000001", Some(1)),
        ("0.10000000000", Some(100_000_000)),
        ("0.0000000001", None),
        ("0", None),
        ("1e3", None),
        ("", None),
        ("x", None),
    ] {
        assert_eq!(quantity::nano_cpus(text), expected, "{text}");
    }
}

#[test]
fn restarts_secrets_and_the_rest_are_read() {
    let restart = |word: &str| json(service(&format!("restart: {word}")).deploy.restart_policy);
    assert!(restart("no").contains(r#""condition":"none""#));
    assert!(restart("unless-stopped").contains(r#""condition":"any""#));
    assert!(restart("on-failure:3").contains(r#""max_attempts":3"#));
    assert!(restart("on-failure:0").contains(r#""max_attempts":null"#));
    let both =
        with("restart: always\ndeploy: {restart_policy: {condition: none}}\nbuild: .\ncontainer_name: x");
    let notes: Vec<_> = good(&both).notes.into_iter().map(|note| note.key).collect();
    assert_eq!(
        notes,
        [
            "services.api.restart",
            "services.api.build",
            "services.api.container_name"
        ]
    );

    let secrets =
        service("secrets: [key, {source: pass, target: p, uid: '1', gid: '2', mode: 0440}]").secrets;
    assert_eq!((secrets[0].source.as_str(), secrets[0].mode), ("key", None));
    assert_eq!(
        (secrets[1].target.as_deref(), secrets[1].mode),
        (Some("p"), Some(0o440))
    );
    assert!(faults("secrets: [{source: key, mode: $MODE}]").contains("decimal"));
    assert!(faults("secrets: [{source: key, mode: '0440'}]").contains("should be a number"));
    assert!(faults("secrets: [key, {source: pass, target: key}]").contains("two files at `key`"));
    assert!(faults("secrets: [{source: key, uid: 1}]").contains("a number as text"));
    assert!(faults("secrets: [none]").contains("names `none`, which is not in `secrets`"));

    let hosts = |lines: &str| json(service(&format!("extra_hosts: {lines}")).extra_hosts);
    let expected = r#"[{"name":"a","address":"1.2.3.4"},{"name":"b","address":"::1"}]"#;
    assert_eq!(hosts("['a:1.2.3.4', 'b=[::1]']"), expected);
    assert_eq!(hosts("{a: 1.2.3.4, b: '::1'}"), expected);
    assert!(faults("extra_hosts: ['a:b']").contains("`NAME:IP`"));

    let limits = json(service("ulimits: {nofile: {soft: 1, hard: 2}, nproc: -1}").ulimits);
    assert_eq!(
        limits,
        r#"{"nofile":{"soft":1,"hard":2},"nproc":{"soft":-1,"hard":-1}}"#
    );
    let tmpfs = service("tmpfs: ['/run:size=64m,mode=1777', /tmp]").tmpfs;
    assert_eq!(
        (tmpfs[0].size, tmpfs[0].mode, tmpfs[1].size),
        (Some(64 << 20), Some(0o1777), None)
    );
    assert!(faults("tmpfs: ['/run:exec']").contains("PATH[:size"));
    assert!(
        faults("privileged: true").contains("`services.api.privileged` is unsupported in a stack; no target")
    );
    assert!(!service("privileged: false").read_only);
    assert!(faults("credential_spec: {file: a, registry: b}").contains("one of `config`"));
}

#[test]
fn deploy_is_read() {
    let deploy = service(
        "deploy:
  replicas: ${TWO}
  update_config: {parallelism: 0, order: start-first, failure_action: rollback, monitor: 1m, max_failure_ratio: .5}
  rollback_config: {delay: 5s}
  resources:
    limits: {cpus: '0.5', memory: 200M, pids: $ONE}
    reservations: {generic_resources: [{discrete_resource_spec: {kind: GPU, value: 2}}]}
  placement: {constraints: [node.role==worker], preferences: [{spread: node.labels.zone}], max_replicas_per_node: 2}
  endpoint_mode: dnsrr",
    )
    .deploy;
    let update = deploy.update_config.unwrap();
    assert_eq!(
        (deploy.replicas, update.order),
        (Some(2), Some(Order::StartFirst))
    );
    assert_eq!(
        (update.parallelism, update.max_failure_ratio),
        (Some(0), Some(0.5))
    );
    assert_eq!(deploy.resources.limits.memory, Some(200 << 20));
    assert_eq!(
        (
            deploy.resources.limits.pids,
            deploy.resources.reservations.generic[0].value
        ),
        (Some(1), 2)
    );
    assert_eq!(deploy.placement.spread, ["node.labels.zone"]);
    assert_eq!(service("deploy:").deploy, Deploy::default());
    // One complaint about one value.
    assert_eq!(faults("deploy: {replicas: $NONE}").lines().count(), 1);
    for (lines, expected) in [
        (
            "{replicas: 1, mode: global}",
            "`services.api.deploy.replicas` goes with the mode `replicated`",
        ),
        ("{replicas: -1}", "from 0 to 1000000"),
        ("{replicas: 1.5}", "a number without a fraction"),
        ("{replicas: $NONE}", "the variable `NONE` is not set"),
        ("{replicas: $WORD}", "`word`, and should be a number from 0"),
        (
            "{rollback_config: {failure_action: rollback}}",
            "nothing is behind it",
        ),
        ("{update_config: {max_failure_ratio: 2}}", "a number from 0 to 1"),
        (
            "{update_config: {order: first}}",
            "one of `stop-first`, `start-first`",
        ),
        ("{resources: {limits: {cpus: 0.5}}}", "processors in quotes"),
        ("{resources: {limits: {memory: 1e}}}", "a size in text"),
        (
            "{resources: {reservations: {devices: []}}}",
            "`services.api.deploy.resources.reservations.devices` is unsupported",
        ),
        ("{placement: {constraints: [a]}}", "a constraint such as"),
        (
            "{endpoint_mode: dnsrr}\nports: [80]",
            "goes with no port in the mode `ingress`",
        ),
        ("{limits: {}}", "`services.api.deploy.limits` is unknown; "),
    ] {
        let found = faults(&format!("deploy: {lines}"));
        assert!(found.contains(expected), "{lines}: {found}");
    }
}

#[test]
fn networks_volumes_and_files_are_read() {
    let text = "
services: {api: {image: api, networks: {inner: {aliases: [a]}, default: }}}
networks:
  inner: {driver: overlay, driver_opts: {encrypted: '', mtu: 1400}, attachable: true, ipam: {config: [{subnet: 10.1.0.0/24}]}}
  outer: {external: true, name: edge, x-of: 1}
  older: {external: {name: deep}}
volumes: {data: , kept: {external: true}, far: {driver: nfs, labels: [a=b]}}
secrets: {key: {file: ./key.txt}, far: {driver: vault, driver_opts: {path: p}, name: n}}
configs: {conf: {file: c, template_driver: golang}}
x-top: {a: [1, 2.5, true, null, text, 2020-01-01, .inf]}
";
    let stack = good(text).stack;
    assert_eq!(
        json(&stack.networks["inner"].driver_opts),
        r#"{"encrypted":"","mtu":"1400"}"#
    );
    assert_eq!(stack.networks["older"].name.as_deref(), Some("deep"));
    assert_eq!(json(&stack.networks["outer"].extensions), r#"{"x-of":1}"#);
    assert_eq!(
        stack.secrets["key"].content,
        Content::File("./key.txt".to_owned())
    );
    assert!(matches!(&stack.secrets["far"].content, Content::Driver { name, .. } if name == "vault"));
    assert_eq!(
        json(&stack.extensions),
        r#"{"x-top":{"a":[1,2.5,true,null,"text","2020-01-01",".inf"]}}"#
    );
    // The canonical form comes back equal.
    assert_eq!(serde_json::from_str::<Stack>(&json(&stack)).unwrap(), stack);
}

#[test]
fn places_are_remembered() {
    let text = "\
services:
  api:
    image: api
    environment:
      - A=1
      - B=2
    env_file: a.env
    ports:
      - 80-81
      - 90
    networks: [inner]
    deploy:
      replicas: 3
networks:
  inner:
";
    let reading = good(text);
    for (path, expected) in [
        ("services.api", "2:3"),
        ("services.api.image", "3:5"),
        ("services.api.environment.B", "6:9"),
        ("services.api.ports[1]", "9:9"),
        ("services.api.ports[2]", "10:9"),
        ("services.api.networks.inner", "11:16"),
        ("services.api.deploy.replicas", "13:7"),
        ("services.api.deploy.update_config.order", "12:5"),
        ("services.api.healthcheck", "2:3"),
        ("volumes.x", "1:1"),
        ("networks.inner.driver", "15:3"),
    ] {
        assert_eq!(
            reading.place(path).to_string(),
            format!("deploy/stack.yml:{expected}"),
            "{path}"
        );
    }
    assert_eq!(
        reading.place("services.api.environment.C").to_string(),
        "deploy/a.env:7:1"
    );
}
