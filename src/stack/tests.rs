//! Stack files read, and refused, without any file.

use super::*;
use crate::stack::scalar::is_canonical;

fn variable(name: &str) -> Option<String> {
    let value = match name {
        "ONE" => "1",
        "TWO" => "2",
        "EMPTY" => "",
        "WORD" => "word",
        "YES" => "yes",
        "MODE" => "0440",
        "DOLLAR" => "$ONE",
        _ => return None,
    };
    Some(value.to_owned())
}

fn environment_file(path: &Path) -> io::Result<Vec<u8>> {
    match path.to_str() {
        Some("deploy/a.env") => Ok(b"\xef\xbb\xbf# c\nA=1\n  B=\"q\" \n\nWORD\nEMPTY=\nC=x=y\r\n".to_vec()),
        Some("deploy/b.env") => Ok(b"A=2\nMISSING\n".to_vec()),
        Some("deploy/binary.env") => Ok(vec![0xff]),
        Some("deploy/huge.env") => Ok(vec![b'#'; (1 << 20) + 1]),
        _ => Err(io::Error::from(io::ErrorKind::NotFound)),
    }
}

pub(super) fn reading(text: &str) -> Result<Reading, Error> {
    read(text, Path::new("deploy/stack.yml"), &variable, &environment_file)
}

#[track_caller]
pub(super) fn good(text: &str) -> Reading {
    reading(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

// --- scalars, variables, YAML ----------------------------------------------------------------------------

#[test]
fn plain_scalars_are_what_dockers_parser_makes_of_them() {
    for (text, expected) in [
        ("", Scalar::Null),
        ("~", Scalar::Null),
        ("NULL", Scalar::Null),
        ("nUll", Scalar::Text("nUll".into())),
        ("yes", Scalar::Text("yes".into())),
        ("off", Scalar::Text("off".into())),
        ("True", Scalar::Bool(true)),
        ("10", Scalar::Int(10)),
        ("-0x1F", Scalar::Int(-31)),
        ("0644", Scalar::Int(0o644)),
        ("0o644", Scalar::Int(0o644)),
        ("-0o17", Scalar::Int(-15)),
        ("0b101", Scalar::Int(5)),
        ("1_000", Scalar::Int(1000)),
        ("+7", Scalar::Int(7)),
        ("0", Scalar::Int(0)),
        ("08", Scalar::Float(8.0)),
        ("1e3", Scalar::Float(1000.0)),
        (".5", Scalar::Float(0.5)),
        ("-.5e-1", Scalar::Float(-0.05)),
        ("1.", Scalar::Float(1.0)),
        ("18446744073709551615", Scalar::Int(u64::MAX.into())),
        ("18446744073709551616", Scalar::Float(18446744073709551616.0)),
        ("22:22", Scalar::Text("22:22".into())),
        ("1.2.3", Scalar::Text("1.2.3".into())),
        ("--1", Scalar::Text("--1".into())),
        ("0x", Scalar::Text("0x".into())),
        ("0x+1", Scalar::Text("0x+1".into())),
        ("-", Scalar::Text("-".into())),
        (".", Scalar::Text(".".into())),
        ("e3", Scalar::Text("e3".into())),
        ("2020-01-31", Scalar::Date),
        ("2001-12-14t21:59:43.10-05:00", Scalar::Date),
        ("2020-01", Scalar::Text("2020-01".into())),
        ("2020-01-31 a day", Scalar::Text("2020-01-31 a day".into())),
        (".inf", Scalar::Float(f64::INFINITY)),
        ("inf", Scalar::Text("inf".into())),
    ] {
        assert_eq!(Scalar::plain(text), expected, "{text}");
    }
}

#[test]
fn numbers_that_docker_would_rewrite_are_known() {
    for (text, same) in [
        ("1", true),
        ("-7", true),
        ("0.5", true),
        ("1.25", true),
        ("1.10", false),
        ("01", false),
        ("1_0", false),
        ("+1", false),
        ("1e3", false),
        ("1.0", false),
        ("0.00001", false),
        ("text", true),
        ("true", false),
        ("2020-01-01", false),
    ] {
        assert_eq!(is_canonical(&Scalar::plain(text), text), same, "{text}");
    }
}

#[test]
fn variables_are_replaced() {
    let variables = Variables::new(&variable);
    for (template, expected) in [
        ("$ONE", "1"),
        ("a${ONE}b$TWO c", "a1b2 c"),
        ("$$ONE $$$$", "$ONE $$"),
        ("${EMPTY}", ""),
        ("${EMPTY-d}|${EMPTY:-d}|${NONE-d}|${NONE:-d}", "|d|d|d"),
        ("${ONE?x}${ONE:?x}${EMPTY?x}", "11"),
        ("${ONE+a}|${EMPTY+a}|${EMPTY:+a}|${NONE+a}|${NONE:+a}", "a|a|||"),
        ("${NONE:-${ONE}}", "1"),
        ("${NONE:-a$TWO ${NONE-${EMPTY:-z}}}", "a2 z"),
        ("${ONE:-${NONE}}", "1"),
        ("${NONE+${NONE?x}}", ""),
        ("${NONE:-{a}}", "{a}"),
        ("${NONE:-a:-b}", "a:-b"),
        ("${NONE:-$$}", "$"),
        ("${NONE-}", ""),
        ("}{", "}{"),
        ("$DOLLAR", "$ONE"),
        ("$ONE:2", "1:2"),
    ] {
        let found = variables.substitute(template).unwrap();
        assert_eq!(found.as_deref().unwrap_or(template), expected, "{template}");
    }
    assert_eq!(variables.substitute("plain").unwrap(), None);
    assert!(variables.into_names().contains("NONE"));
}

#[test]
fn variables_that_are_malformed_or_missing_are_named() {
    let variables = Variables::new(&variable);
    let fault = |template: &str| {
        let (what, remedy) = variables.substitute(template).unwrap_err();
        format!("{what}; {remedy}")
    };
    for (template, expected) in [
        (
            "$NONE",
            "the variable `NONE` is not set; set it, or write `${NONE:-}` if it may be empty",
        ),
        ("${NONE?why}", "the variable `NONE` is required: why; set it"),
        ("${EMPTY:?}", "the variable `EMPTY` is required; set it"),
        (
            "${NONE?because of $ONE}",
            "the variable `NONE` is required: because of 1; set it",
        ),
        (
            "a $ b",
            "a `$` is followed by no variable's name; write `$$` for a `$`",
        ),
        (
            "$1",
            "a `$` is followed by no variable's name; write `$$` for a `$`",
        ),
        (
            "${}",
            "a `$` is followed by no variable's name; write `$$` for a `$`",
        ),
        (
            "${ONE",
            "`${ONE` is followed by neither `}` nor `-`, `?` or `+`; write `$$` for a `$`",
        ),
        (
            "${ONE!x}",
            "`${ONE` is followed by neither `}` nor `-`, `?` or `+`; write `$$` for a `$`",
        ),
        ("${NONE:-x", "`${NONE` is not closed; write `}`"),
        (
            "${ONE:-${!}}",
            "a `$` is followed by no variable's name; write `$$` for a `$`",
        ),
        ("$ONE-api", "`$ONE` before `-` is ambiguous; write `${ONE}`"),
        ("$ONE:?api", "`$ONE` before `:` is ambiguous; write `${ONE}`"),
    ] {
        assert_eq!(fault(template), expected, "{template}");
    }
    let deep = format!("{}x{}", "${NONE-".repeat(9), "}".repeat(9));
    assert!(fault(&deep).contains("8 deep"), "{}", fault(&deep));
}

#[test]
fn commands_are_taken_apart() {
    for (text, words) in [
        ("", Some(vec![])),
        ("a  b\tc\n", Some(vec!["a", "b", "c"])),
        ("sh -c 'a \"b\" $c'", Some(vec!["sh", "-c", "a \"b\" $c"])),
        (r#""a\"b\n"c\ d"#, Some(vec!["a\"bnc d"])),
        ("'' x", Some(vec!["", "x"])),
        ("a # b\nc d#e", Some(vec!["a", "c", "d#e"])),
        ("a 'b", None),
        ("a \"b", None),
        ("a\\", None),
    ] {
        let expected = words.map(|words| words.into_iter().map(str::to_owned).collect());
        assert_eq!(shell::split(text), expected, "{text}");
    }
}

#[test]
fn anchors_and_merge_keys_are_resolved() {
    let text = "
x-base: &base
  image: api
  labels: {a: one, b: one}
x-more: &more
  image: more
  user: \"7\"
services:
  one: {<<: *base, user: \"1\"}
  two:
    labels: &labels {c: two}
    <<: [*base, *more]
  three:
    <<: *more
    labels: *labels
    command: &command [a, b]
    entrypoint: *command
";
    let services = good(text).stack.services;
    assert_eq!(good(&text.replace('\n', "\r\n")).stack.services, services);
    let (one, two, three) = (&services["one"], &services["two"], &services["three"]);
    assert_eq!(
        (one.image.as_str(), one.user.as_deref(), one.labels.len()),
        ("api", Some("1"), 2)
    );
    assert_eq!((two.image.as_str(), two.user.as_deref()), ("api", Some("7")));
    assert_eq!((two.labels.len(), two.labels["c"].as_str()), (1, "two"));
    assert_eq!((three.image.as_str(), three.labels.len()), ("more", 1));
    assert_eq!(three.command, three.entrypoint);
}

#[test]
fn what_grows_is_bounded() {
    let laughs = (1..10).fold(
        "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned(),
        |text, level| {
            let item = format!("*a{}, ", level - 1).repeat(10);
            format!("{text}x-a{level}: &a{level} [{item}]\n")
        },
    );
    let long = "y".repeat(500_000);
    let text = format!("x-a: &a \"{long}\"\nx-b: [{}]", "*a, ".repeat(10));
    for (text, expected) in [
        (laughs, "more than 50000 values"),
        (text, "more than 50000 values or 4 MiB"),
        (
            "a: ".to_owned() + &"[".repeat(100_000),
            "recursion limit exceeded",
        ),
        ("a: ".to_owned() + &"[".repeat(100), "32 deep in each other"),
        (
            format!(
                "x: &x {}1{}\ny: {}*x{}",
                "[".repeat(20),
                "]".repeat(20),
                "[".repeat(20),
                "]".repeat(20)
            ),
            "deep",
        ),
        ("#".repeat((1 << 20) + 1), "larger than 1 MiB"),
        (format!("{}: 1", "k".repeat(257)), "longer than 256 bytes"),
        (
            "x-a: &a [*a]\n".to_owned(),
            "an alias stands in what it refers to",
        ),
    ] {
        let error = reading(&text).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

// --- what is refused -------------------------------------------------------------------------------------

#[test]
fn what_is_wrong_is_shown_where_it_is() {
    let text = "\
version: \"3.8\"
services:
  api:
    imge: api
    container_name: x
    network_mode: host
    ports: [\"80:x\"]
    deploy:
      replicas: \"3\"
      update_config: {order: first}
    environment: {PORT: 0x50, URL: $NONE}
    depends_on: [db, api]
  Über: {image: x}
name: shop
volume: {}
";
    let error = reading(text).unwrap_err();
    insta::assert_snapshot!(error, @r#"
    deploy/stack.yml:3:3: `services.api` has no `image`
    deploy/stack.yml:4:5: `services.api.imge` is unknown; did you mean `image`?
    deploy/stack.yml:6:5: `services.api.network_mode` is unsupported in a stack; use `networks`
    deploy/stack.yml:7:13: `services.api.ports[0]` is `80:x`, and should be `[[IP:]PUBLISHED:]TARGET[/PROTOCOL]` with ports from 1 to 65535, or ranges of the same length
    deploy/stack.yml:9:17: `services.api.deploy.replicas` is text, and should be a number without a fraction; write it without quotes
    deploy/stack.yml:10:30: `services.api.deploy.update_config.order` is `first`, and should be one of `stop-first`, `start-first`
    deploy/stack.yml:11:25: `services.api.environment.PORT` is a number, and YAML has another text for it than `0x50`; write `"0x50"`
    deploy/stack.yml:11:36: the variable `NONE` is not set; set it, or write `${NONE:-}` if it may be empty
    deploy/stack.yml:12:5: these services wait for each other, or for themselves: `api`; remove one `depends_on`
    deploy/stack.yml:12:18: `services.api.depends_on.db` names `db`, which is no service
    deploy/stack.yml:13:3: `services.Über` is no name: at most 63 of `a-z A-Z 0-9 . _ -`, a letter or digit first
    deploy/stack.yml:14:1: `name` is unsupported in a stack; remove it; the project and the environment name the stack
    deploy/stack.yml:15:1: `volume` is unknown; did you mean `volumes`?
    "#);
}

#[test]
fn what_is_no_stack_is_refused() {
    let mut shown = String::new();
    for text in [
        "",
        "a: b: c",
        "services:\n\tapi: {}",
        "services: []",
        "services: {}",
        "- a",
        "version: '3'",
        "version: 3.8\nservices: {a: {image: a}}",
        "version: '2.4'\nservices: {a: {image: a}}",
        "services: {a: {image: a}, a: {image: b}}",
        "services: {a: {image: a}}\n---\nservices: {}",
        "services: {a: {image: !reset null}}",
        "services: {a: {image: *b}}",
        "services: {a: {image: a, environment: {1: x}}}",
        "services: {a: {<<: 1, image: a}}",
        "services: {a: }",
        "services: {a: {build: .}}",
        "services: {a: {image: a, depends_on: [b]}, b: {image: b, depends_on: {a: {condition: service_healthy}}}}",
    ] {
        let error = reading(text).expect_err(text).to_string();
        shown += &format!("{text}\n    {error}\n");
    }
    insta::assert_snapshot!(shown, @r#"

        deploy/stack.yml:1:1: the file is nothing, and should be a map with `services`
    a: b: c
        deploy/stack.yml:1:5: mapping values are not allowed in this context
    services:
    	api: {}
        deploy/stack.yml:2:2: tabs disallowed within this context (block indentation)
    services: []
        deploy/stack.yml:1:11: `services` is a list, and should be a map
    services: {}
        deploy/stack.yml:1:11: `services` is a map, and should be a map with at least one service
    - a
        deploy/stack.yml:1:1: the file is a list, and should be a map with `services`
    version: '3'
        deploy/stack.yml:1:1: the file has no `services`
    version: 3.8
    services: {a: {image: a}}
        deploy/stack.yml:1:10: `version` is a number, and should be text from `"3"` to `"3.13"`; write `"3.8"`
    version: '2.4'
    services: {a: {image: a}}
        deploy/stack.yml:1:10: `version` is `2.4`, and should be text from `"3"` to `"3.13"`
    services: {a: {image: a}, a: {image: b}}
        deploy/stack.yml:1:27: the key `a` stands twice, for the first time in line 1
    services: {a: {image: a}}
    ---
    services: {}
        deploy/stack.yml:2:1: a second document begins; a stack is one
    services: {a: {image: !reset null}}
        deploy/stack.yml:1:23: the tag `!reset` is unsupported
    services: {a: {image: *b}}
        deploy/stack.yml:1:23: while parsing node, found unknown anchor
    services: {a: {image: a, environment: {1: x}}}
        deploy/stack.yml:1:40: the key `1` is a number, and keys are text; write `"1"`
    services: {a: {<<: 1, image: a}}
        deploy/stack.yml:1:16: `<<` takes a map, or a list of maps
    services: {a: }
        deploy/stack.yml:1:13: `services.a` is nothing, and should be a map; write one, or remove the key
    services: {a: {build: .}}
        deploy/stack.yml:1:16: `services.a.build` is built here, and has no `image`; write `image:` and the name of a target of the recipes
    services: {a: {image: a, depends_on: [b]}, b: {image: b, depends_on: {a: {condition: service_healthy}}}}
        deploy/stack.yml:1:26: these services wait for each other, or for themselves: `a`, `b`; remove one `depends_on`
    "#);
}

// --- anything at all -------------------------------------------------------------------------------------

/// Has most of what a file can have, in several forms.
const RICH: &str = r#"
version: "3.8"
x-env: &env {A: "1", B: "${ONE}"}
services:
  api: &api
    image: ${WORD:-api}
    command: sh -c 'exec "$$0"'
    environment: {<<: *env, C: 0.5, WORD: }
    env_file: [a.env]
    ports: ["127.0.0.1:8000-8001:80-81/udp", 90, {target: 5, published: $TWO, mode: host}]
    networks: {inner: {aliases: [x]}}
    volumes: [data:/data:ro, ./x:/x, {type: tmpfs, target: /t, tmpfs: {size: 4096}}]
    secrets: [key, {source: key, target: /k, mode: 0440}]
    healthcheck: {test: [CMD, /health], interval: 1m30s, retries: 3, disable: false}
    deploy:
      replicas: 3
      update_config: {order: start-first, max_failure_ratio: .5}
      resources: {limits: {cpus: "0.50", memory: 200M}}
      placement: {constraints: [node.role == worker], preferences: [{spread: node.id}]}
    stop_grace_period: 60s
    ulimits: {nofile: {soft: 1, hard: 2}}
    extra_hosts: ["a:1.2.3.4"]
    labels: [a=b]
  worker:
    <<: *api
    ports: []
    depends_on: {api: {condition: service_healthy}}
networks: {inner: {driver_opts: {encrypted: ""}}}
volumes: {data: {external: true}}
secrets: {key: {file: ./k}}
"#;

proptest::proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in "(?s).{0,200}") {
        let _ = reading(&text);
    }

    #[test]
    fn no_template_makes_the_reader_panic(text in "[${}:?+a_1 -]{0,40}") {
        let _ = Variables::new(&variable).substitute(&text);
        let _ = reading(&format!("services: {{a: {{image: '{text}'}}}}"));
    }

    #[test]
    fn no_changed_file_makes_the_reader_panic(
        edits in proptest::collection::vec((0..RICH.len(), 0..4_usize, "[-:{}\\[\\],&*!|>'\"%@`#\n\t a-z0-9$~é]{0,3}"), 1..6),
    ) {
        let mut text = RICH.to_owned();
        for (at, length, new) in edits {
            let at = at.min(text.len());
            let end = (at + length).min(text.len());
            if text.is_char_boundary(at) && text.is_char_boundary(end) {
                text.replace_range(at..end, &new);
            }
        }
        if let Ok(read) = reading(&text) {
            // What was accepted has a canonical form.
            let json = serde_json::to_string(&read.stack).unwrap();
            proptest::prop_assert_eq!(serde_json::from_str::<Stack>(&json).unwrap(), read.stack);
        }
    }
}

#[test]
fn a_rich_file_is_read() {
    let rich = good(RICH);
    assert_eq!(rich.stack.services["worker"].environment.len(), 5);
    let read: Vec<_> = rich.variables.iter().map(String::as_str).collect();
    assert_eq!(read, ["EMPTY", "ONE", "TWO", "WORD"]);
}
