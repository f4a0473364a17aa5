//! The `services` section, without `deploy`, ports and mounts.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::deploy::{self, Deploy, Restart, RestartCondition};
use super::environment;
use super::error::Place;
use super::fields::Fields;
use super::model::{
    Attachment, Condition, CredentialSpec, Grant, HealthCheck, HealthTest, Host, Limit, Logging, Service,
};
use super::mount;
use super::port;
use super::read::{Context, Value, is_name};
use super::shell;
use super::yaml::Kind;

/// What the compose specification has in a service, and stack files have not, with what to do.
const UNSUPPORTED: &[(&str, &str)] = &[
    ("annotations", "use `labels`"),
    ("attach", "remove it"),
    ("blkio_config", "set limits in `deploy.resources`"),
    ("cgroup", "remove it"),
    ("cgroup_parent", "set limits in `deploy.resources`"),
    ("cgroupns_mode", "remove it"),
    ("cpu_count", LIMITS),
    ("cpu_percent", LIMITS),
    ("cpu_period", LIMITS),
    ("cpu_quota", LIMITS),
    ("cpu_rt_period", LIMITS),
    ("cpu_rt_runtime", LIMITS),
    ("cpu_shares", LIMITS),
    ("cpus", LIMITS),
    ("cpuset", LIMITS),
    ("develop", "remove it"),
    ("device_cgroup_rules", "no target gives a service devices"),
    ("devices", "no target gives a service devices"),
    ("dns_opt", "use `dns` and `dns_search`"),
    ("domainname", "write it into `hostname`"),
    ("extends", "use an anchor and `<<`"),
    ("external_links", "put both services on one network"),
    (
        "gpus",
        "reserve them in `deploy.resources.reservations.generic_resources`",
    ),
    ("group_add", "write `user: \"uid:gid\"`"),
    ("ipc", "remove it; a service has its own"),
    ("label_file", "use `labels`"),
    ("mac_address", "remove it"),
    ("mem_limit", LIMITS),
    ("mem_reservation", "reserve it in `deploy.resources.reservations`"),
    ("mem_swappiness", "remove it"),
    ("memswap_limit", LIMITS),
    ("network_mode", "use `networks`"),
    ("oom_kill_disable", "remove it"),
    ("pid", "remove it; a service has its own"),
    ("pids_limit", "write `deploy.resources.limits.pids`"),
    ("platform", "the image says it"),
    ("post_start", "run it in the image's entrypoint"),
    ("pre_stop", "handle the stop signal in the image"),
    (
        "privileged",
        "no target runs privileged services; name what it needs in `cap_add`",
    ),
    (
        "profiles",
        "write one stack file for each environment, or `deploy.replicas: ${N}`",
    ),
    ("provider", "remove it"),
    ("pull_policy", "images are rolled out by digest"),
    ("runtime", "remove it"),
    ("scale", "write `deploy.replicas`"),
    ("security_opt", "remove it; no target would apply it"),
    ("shm_size", "mount a `tmpfs` at `/dev/shm`"),
    ("storage_opt", "remove it"),
    ("userns_mode", "remove it"),
    ("uts", "remove it"),
    (
        "volume_driver",
        "write `driver` in the volume at the top of the file",
    ),
    ("volumes_from", "name one volume in both services"),
];

const LIMITS: &str = "write it in `deploy.resources`";

pub(super) fn service(cx: &Context, value: Value) -> Option<Service> {
    let mut fields = cx.fields(value)?;
    let mut service = Service::default();
    read_process(&mut fields, &mut service);
    read_container(&mut fields, &mut service);
    read_network(&mut fields, &mut service);
    read_files(&mut fields, &mut service);
    service.deploy = fields.take("deploy", deploy::deploy).unwrap_or_default();
    read_restart(cx, &mut fields, &mut service.deploy);
    service.depends_on = fields.take("depends_on", depends_on).unwrap_or_default();
    service.labels = fields.take("labels", Context::labels).unwrap_or_default();
    service.logging = fields.take("logging", logging);
    service.extensions = fields.extensions();
    fields.ignore("build", "skep builds images from recipes; `image` names a target");
    fields.ignore("container_name", "replicas need names of their own");
    fields.ignore("links", "services on a network find each other by name");
    // Saying no to what nobody offers is no problem.
    let is_no = |cx: &Context, value: Value| cx.flag(value).map(|flag| !flag);
    if fields.has("privileged") && fields.take("privileged", is_no) == Some(false) {
        let what = format!("`{}` is unsupported in a stack", fields.path_of("privileged"));
        let remedy = "no target runs privileged services; name what the service needs in `cap_add`";
        cx.report(&fields.place_of("privileged"), what, remedy);
    }
    fields.finish(UNSUPPORTED);
    Some(service)
}

/// What runs.
fn read_process(fields: &mut Fields, service: &mut Service) {
    if fields.has("build") && !fields.has("image") {
        let what = format!("`{}` is built here, and has no `image`", fields.path_of("build"));
        fields.report(
            "build",
            what,
            "write `image:` and the name of a target of the recipes",
        );
    } else {
        service.image = fields.need("image", image).unwrap_or_default();
    }
    service.command = fields.take("command", shell::command).unwrap_or_default();
    service.entrypoint = fields.take("entrypoint", shell::command).unwrap_or_default();
    service.env_file = fields.take("env_file", env_files).unwrap_or_default();
    service.environment = fields.take("env_file", environment::files).unwrap_or_default();
    let own = fields.take("environment", environment::pairs);
    service.environment.extend(own.unwrap_or_default());
    service.healthcheck = fields.take("healthcheck", health_check);
    service.stop_grace_period = fields.take("stop_grace_period", Context::span);
    service.stop_signal = fields.take("stop_signal", stop_signal);
    service.user = fields.take("user", Context::filled);
    service.working_dir = fields.take("working_dir", |cx, value| {
        let absolute = |text: &str| text.starts_with('/').then(|| text.to_owned());
        cx.parsed(value, "an absolute path", absolute)
    });
}

/// What it runs in.
fn read_container(fields: &mut Fields, service: &mut Service) {
    service.init = fields.take("init", Context::flag);
    service.read_only = fields.take("read_only", Context::flag).unwrap_or_default();
    service.tty = fields.take("tty", Context::flag).unwrap_or_default();
    service.stdin_open = fields.take("stdin_open", Context::flag).unwrap_or_default();
    service.cap_add = fields.take("cap_add", capabilities).unwrap_or_default();
    service.cap_drop = fields.take("cap_drop", capabilities).unwrap_or_default();
    service.sysctls = fields.take("sysctls", Context::labels).unwrap_or_default();
    service.ulimits = fields.take("ulimits", ulimits).unwrap_or_default();
    service.oom_score_adj = fields.take("oom_score_adj", |cx, value| cx.signed(value, -1000..=1000));
    service.isolation = fields.take("isolation", Context::filled);
    service.credential_spec = fields.take("credential_spec", credential_spec);
}

fn read_network(fields: &mut Fields, service: &mut Service) {
    service.hostname = fields.take("hostname", |cx, value| {
        cx.parsed(value, "a host's name", |text| {
            is_name(text).then(|| text.to_owned())
        })
    });
    service.ports = fields.take("ports", port::ports).unwrap_or_default();
    service.expose = fields.take("expose", exposed).unwrap_or_default();
    service.networks = fields.take("networks", networks).unwrap_or_default();
    service.extra_hosts = fields.take("extra_hosts", extra_hosts).unwrap_or_default();
    service.dns = fields.take("dns", name_servers).unwrap_or_default();
    service.dns_search = fields
        .take("dns_search", Context::one_or_more)
        .unwrap_or_default();
}

fn read_files(fields: &mut Fields, service: &mut Service) {
    service.volumes = fields.take("volumes", mount::mounts).unwrap_or_default();
    service.secrets = fields.take("secrets", grants).unwrap_or_default();
    service.configs = fields.take("configs", grants).unwrap_or_default();
    let tmpfs = fields.take("tmpfs", |cx, value| {
        let (node, path) = (value.node, value.path.clone());
        let texts = cx.one_or_more(value)?;
        let all: Option<Vec<_>> = texts.iter().map(|text| mount::tmpfs(text)).collect();
        if all.is_none() {
            cx.report(
                &node.place,
                format!("`{path}` should be `PATH[:size=SIZE,mode=MODE]`"),
                "",
            );
        }
        all
    });
    service.tmpfs = tmpfs.unwrap_or_default();
}

fn image(cx: &Context, value: Value) -> Option<String> {
    let expected = "a target's name or an image's reference";
    cx.parsed(value, expected, |text| {
        let good = !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c.is_control());
        good.then(|| text.to_owned())
    })
}

fn env_files(cx: &Context, value: Value) -> Option<Vec<String>> {
    cx.one_or_more(value)
}

fn stop_signal(cx: &Context, value: Value) -> Option<String> {
    cx.parsed(value, "a signal such as `SIGTERM`", |text| {
        let good = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || "+-".contains(c);
        (!text.is_empty() && text.chars().all(good)).then(|| text.to_owned())
    })
}

fn capabilities(cx: &Context, value: Value) -> Option<Vec<String>> {
    cx.set(value)
}

// --- what others offer ---------------------------------------------------------------------------------

fn exposed(cx: &Context, value: Value) -> Option<Vec<String>> {
    let (node, path) = (value.node, value.path.clone());
    let ports = cx.list(value, port::exposed)?;
    cx.check_unique(node, &path, &ports);
    Some(ports)
}

fn networks(cx: &Context, value: Value) -> Option<BTreeMap<String, Attachment>> {
    if let Some(names) = names(cx, &value) {
        return Some(
            names
                .into_iter()
                .map(|name| (name, Attachment::default()))
                .collect(),
        );
    }
    cx.named(value, |cx, value| {
        if value.node.is_null() {
            return Some(Attachment::default());
        }
        let mut fields = cx.fields(value)?;
        let attachment = Attachment {
            aliases: fields.take("aliases", Context::set).unwrap_or_default(),
            driver_opts: fields.take("driver_opts", Context::options).unwrap_or_default(),
        };
        fields.finish(&[
            ("ipv4_address", "services are found by name"),
            ("ipv6_address", "services are found by name"),
            ("link_local_ips", "services are found by name"),
            ("gw_priority", "remove it"),
            ("interface_name", "remove it"),
            ("mac_address", "remove it"),
            ("priority", "remove it"),
        ]);
        Some(attachment)
    })
}

/// The names of a list, each of which is remembered like the key of a map; `None` for what is no list.
fn names(cx: &Context, value: &Value) -> Option<Vec<String>> {
    let Kind::List(items) = &value.node.kind else {
        return None;
    };
    let (node, path) = (value.node, value.path.clone());
    let names = cx.set(Value { node, path }).unwrap_or_default();
    for (name, item) in names.iter().zip(items) {
        cx.remember(&format!("{}.{name}", value.path), &item.place);
    }
    Some(names)
}

fn depends_on(cx: &Context, value: Value) -> Option<BTreeMap<String, Condition>> {
    if let Some(names) = names(cx, &value) {
        return Some(names.into_iter().map(|name| (name, Condition::Started)).collect());
    }
    cx.named(value, |cx, value| {
        let mut fields = cx.fields(value)?;
        let condition = fields.need("condition", Context::word);
        fields.finish(&[
            ("required", "remove it; what a service depends on is required"),
            ("restart", "remove it"),
        ]);
        condition
    })
}

fn extra_hosts(cx: &Context, value: Value) -> Option<Vec<Host>> {
    let host = |name: &str, address: &str| {
        let bare = address.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
        let address = bare.unwrap_or(address);
        let good = address == "host-gateway" || address.parse::<IpAddr>().is_ok();
        (good && !name.is_empty()).then(|| Host {
            name: name.to_owned(),
            address: address.to_owned(),
        })
    };
    if let Kind::Map(_) = &value.node.kind {
        let (node, path) = (value.node, value.path.clone());
        let mut hosts = Vec::new();
        for (name, address) in cx.options(value)? {
            match host(&name, &address) {
                Some(host) => hosts.push(host),
                None => {
                    let place = cx.place(&format!("{path}.{name}"));
                    let what = format!("`{path}.{name}` is `{address}`, and should be an IP address");
                    cx.report(place.as_ref().unwrap_or(&node.place), what, "");
                }
            }
        }
        return Some(hosts);
    }
    let expected = "`NAME:IP` or `NAME=IP`";
    let split = |text: &str| {
        let (name, address) = text.split_once('=').or_else(|| text.split_once(':'))?;
        host(name, address)
    };
    cx.list(value, |cx, value| cx.parsed(value, expected, split))
}

fn name_servers(cx: &Context, value: Value) -> Option<Vec<String>> {
    let (node, path) = (value.node, value.path.clone());
    let servers = cx.one_or_more(value)?;
    for server in &servers {
        if server.parse::<IpAddr>().is_err() {
            cx.report(
                &node.place,
                format!("`{path}` has `{server}`, and should have IP addresses"),
                "",
            );
        }
    }
    Some(servers)
}

// --- health, restarts ----------------------------------------------------------------------------------

fn health_check(cx: &Context, value: Value) -> Option<HealthCheck> {
    let mut fields = cx.fields(value)?;
    let mut check = HealthCheck {
        test: fields.take("test", health_test).flatten(),
        interval: fields.take("interval", Context::span),
        timeout: fields.take("timeout", Context::span),
        retries: fields.take("retries", |cx, value| cx.number(value, 0..=1_000_000)),
        start_period: fields.take("start_period", Context::span),
        start_interval: fields.take("start_interval", Context::span),
    };
    if fields.take("disable", Context::flag) == Some(true) {
        if check
            .test
            .as_ref()
            .is_some_and(|test| *test != HealthTest::Disabled)
        {
            let what = format!("`{}` goes with no `test`", fields.path_of("disable"));
            fields.report("disable", what, "remove one");
        }
        check.test = Some(HealthTest::Disabled);
    }
    fields.finish(&[]);
    Some(check)
}

/// An empty list is what the image says.
fn health_test(cx: &Context, value: Value) -> Option<Option<HealthTest>> {
    if matches!(&value.node.kind, Kind::Scalar { .. }) {
        let line = cx.filled(value)?;
        return Some(Some(HealthTest::Shell(line)));
    }
    let (place, path) = (value.node.place.clone(), value.path.clone());
    let words = cx.texts(value)?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    match words.as_slice() {
        [] => Some(None),
        ["NONE"] => Some(Some(HealthTest::Disabled)),
        ["CMD", command @ ..] if !command.is_empty() => Some(Some(HealthTest::Command(owned(command)))),
        ["CMD-SHELL", line] => Some(Some(HealthTest::Shell((*line).to_owned()))),
        _ => {
            let what = format!("`{path}` should be `[CMD, PROGRAM, …]`, `[CMD-SHELL, LINE]` or `[NONE]`");
            cx.report(&place, what, "a line for the shell may stand without a list");
            None
        }
    }
}

/// The short key `restart`, which counts where `deploy.restart_policy` is absent.
fn read_restart(cx: &Context, fields: &mut Fields, deploy: &mut Deploy) {
    if deploy.restart_policy.is_some() {
        fields.ignore("restart", "`deploy.restart_policy` says it");
        return;
    }
    let expected = "`no`, `always`, `unless-stopped`, `on-failure` or `on-failure:N`";
    deploy.restart_policy = fields.take("restart", |_, value| {
        cx.parsed(value, expected, |text| {
            let (condition, attempts) = match text.split_once(':') {
                Some(("on-failure", attempts)) => (RestartCondition::OnFailure, Some(attempts.parse().ok()?)),
                Some(_) => return None,
                None => match text {
                    "no" => (RestartCondition::None, None),
                    "always" | "unless-stopped" => (RestartCondition::Any, None),
                    "on-failure" => (RestartCondition::OnFailure, None),
                    _ => return None,
                },
            };
            Some(Restart {
                condition: Some(condition),
                max_attempts: attempts.filter(|attempts| *attempts > 0),
                ..Restart::default()
            })
        })
    });
}

// --- the rest ------------------------------------------------------------------------------------------

fn grants(cx: &Context, value: Value) -> Option<Vec<Grant>> {
    let path = value.path.clone();
    let mut places: Vec<Place> = Vec::new();
    let grants = cx.list(value, |cx, value| {
        let place = value.node.place.clone();
        let grant = grant(cx, value)?;
        Some((grant, place))
    })?;
    let mut kept: Vec<Grant> = Vec::new();
    for (grant, place) in grants {
        let file = |grant: &Grant| grant.target.clone().unwrap_or_else(|| grant.source.clone());
        if kept.iter().any(|before| file(before) == file(&grant)) {
            cx.report(
                &place,
                format!("`{path}` has two files at `{}`", file(&grant)),
                "remove one",
            );
        }
        kept.push(grant);
        places.push(place);
    }
    for (index, place) in places.iter().enumerate() {
        cx.remember(&format!("{path}[{index}]"), place);
    }
    Some(kept)
}

fn grant(cx: &Context, value: Value) -> Option<Grant> {
    if matches!(&value.node.kind, Kind::Scalar { .. }) {
        return Some(Grant {
            source: cx.filled(value)?,
            target: None,
            uid: None,
            gid: None,
            mode: None,
        });
    }
    let mut fields = cx.fields(value)?;
    let digits = |text: &str| {
        let good = !text.is_empty() && text.len() <= 10 && text.bytes().all(|byte| byte.is_ascii_digit());
        good.then(|| text.to_owned())
    };
    let id = |cx: &Context, value: Value| cx.parsed(value, "a number as text, such as `\"1000\"`", digits);
    let source = fields.need("source", Context::filled);
    let grant = Grant {
        source: source.clone().unwrap_or_default(),
        target: fields.take("target", Context::filled),
        uid: fields.take("uid", id),
        gid: fields.take("gid", id),
        mode: fields.take("mode", file_mode),
    };
    fields.finish(&[]);
    source.map(|_| grant)
}

/// A mode in YAML is octal, and what comes from a variable is decimal in Docker: nobody means that.
fn file_mode(cx: &Context, value: Value) -> Option<u32> {
    if let Kind::Scalar {
        substituted: true,
        source,
        ..
    } = &value.node.kind
        && source.starts_with('0')
    {
        let what = format!(
            "`{}` is `{source}` by a variable, which docker reads as a decimal number",
            value.path
        );
        cx.report(
            &value.node.place,
            what,
            "write the mode into the file, such as `0440`",
        );
        return None;
    }
    cx.number(value, 0..=0o7777).map(|mode| mode as u32)
}

fn ulimits(cx: &Context, value: Value) -> Option<BTreeMap<String, Limit>> {
    let number = |cx: &Context, value: Value| cx.signed(value, -1..=i64::MAX);
    cx.named(value, |cx, value| {
        if matches!(&value.node.kind, Kind::Scalar { .. }) {
            let both = number(cx, value)?;
            return Some(Limit {
                soft: both,
                hard: both,
            });
        }
        let mut fields = cx.fields(value)?;
        let (soft, hard) = (fields.need("soft", number), fields.need("hard", number));
        fields.finish(&[]);
        Some(Limit {
            soft: soft?,
            hard: hard?,
        })
    })
}

fn logging(cx: &Context, value: Value) -> Option<Logging> {
    let mut fields = cx.fields(value)?;
    let logging = Logging {
        driver: fields.take("driver", Context::filled),
        options: fields.take("options", Context::options).unwrap_or_default(),
    };
    fields.finish(&[]);
    Some(logging)
}

fn credential_spec(cx: &Context, value: Value) -> Option<CredentialSpec> {
    let place = value.node.place.clone();
    let path = value.path.clone();
    let mut fields = cx.fields(value)?;
    let config = fields.take("config", Context::filled).map(CredentialSpec::Config);
    let file = fields.take("file", Context::filled).map(CredentialSpec::File);
    let registry = fields
        .take("registry", Context::filled)
        .map(CredentialSpec::Registry);
    fields.finish(&[]);
    let mut given = [config, file, registry].into_iter().flatten();
    let first = given.next();
    if first.is_none() || given.next().is_some() {
        cx.report(
            &place,
            format!("`{path}` has one of `config`, `file` and `registry`"),
            "",
        );
    }
    first
}
