use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::*;
use crate::release::{Release, ReleaseId};
use crate::rootfs::{Config, Root};
use crate::store::{IngestLimits, Store};
use crate::tree::Tree;

/// What a service of the stack file becomes, on an image with `config` and a user `app` (7:8, at home in `/app`).
fn made(service: &str, config: Config) -> Result<ServiceSpec, Error> {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&directory.path().join("store")).unwrap();
    let files = directory.path().join("root");
    std::fs::create_dir_all(files.join("etc")).unwrap();
    std::fs::write(
        files.join("etc/passwd"),
        "root:x:0:0::/root:/bin/sh\napp:x:7:8::/app:/bin/false\n",
    )
    .unwrap();
    std::fs::write(files.join("etc/group"), "staff:x:50:\n").unwrap();
    let root = store.ingest(&files, &IngestLimits::default()).unwrap();
    let service: String = service.lines().map(|line| format!("    {line}\n")).collect();
    let text = format!(
        "services:\n  api:\n    image: api\n{service}secrets:\n  key: {{external: true}}\nconfigs:\n  site: {{external: true}}\nvolumes:\n  data: {{}}\nnetworks:\n  back: {{}}\n"
    );
    let none = |_: &Path| Err(std::io::ErrorKind::NotFound.into());
    let stack = crate::stack::read(&text, Path::new("stack.yml"), &|_| None, &none)
        .unwrap()
        .stack;
    let time = chrono::DateTime::from_timestamp(0, 0).unwrap();
    let id = ReleaseId::new(None, time);
    let release = Release {
        images: BTreeMap::new(),
        sources: Vec::new(),
        secrets: [("key".to_owned(), Version::new("app", "key", &id))].into(),
        configs: [("site".to_owned(), Version::new("app", "site", &id))].into(),
        migration: None,
        by: String::new(),
        at: time,
        id,
    };
    let around = Surroundings {
        store: &store,
        release: &release,
        directory: Path::new("/project/deploy"),
    };
    let root = Root {
        tree: Tree { root, metadata: None },
        config,
        digest: root,
    };
    spec(&around, "api", &stack.services["api"], &root, "sha256:1")
}

fn image() -> Config {
    Config {
        entrypoint: vec!["/api".to_owned()],
        cmd: vec!["serve".to_owned()],
        env: [
            ("A".to_owned(), "image".to_owned()),
            ("B".to_owned(), "image".to_owned()),
        ]
        .into(),
        user: Some("app".to_owned()),
        workdir: Some("/srv".to_owned()),
        stop_signal: Some("SIGINT".to_owned()),
        ..Config::default()
    }
}

#[test]
fn what_the_service_does_not_say_the_image_does() {
    let spec = made("", image()).unwrap();
    assert_eq!(
        (spec.uid, spec.gid, spec.cwd.as_str(), spec.stop_signal),
        (7, 8, "/srv", 2)
    );
    assert_eq!(spec.argv, ["/api", "serve"]);
    assert_eq!(spec.networks.keys().collect::<Vec<_>>(), ["default"]);
    assert!(spec.env.contains(&("HOME".to_owned(), "/app".to_owned())));
    assert!(spec.env.contains(&("PATH".to_owned(), PATH.to_owned())));
    assert_eq!((spec.stop_grace, spec.healthcheck), (STOP_GRACE, None));
    assert_eq!(
        (spec.restart.condition, spec.update.order),
        (Condition::Any, Order::StopFirst)
    );
}

#[test]
fn commands_and_entrypoints_replace_as_in_docker() {
    let argv = |service| made(service, image()).unwrap().argv;
    assert_eq!(argv("command: [work]"), ["/api", "work"]);
    assert_eq!(argv("entrypoint: [/other]"), ["/other"]);
    assert_eq!(argv("entrypoint: [/other]\ncommand: [work]"), ["/other", "work"]);
}

#[test]
fn environment_and_users_of_the_service_go_before_the_images() {
    let spec = made("environment: {B: service}\nuser: \"9:staff\"", image()).unwrap();
    assert_eq!((spec.uid, spec.gid), (9, 50));
    let of = |name: &str| {
        spec.env
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    };
    assert_eq!(
        (of("A"), of("B"), of("HOME")),
        (Some("image"), Some("service"), Some("/"))
    );
    let error = made("user: nobody", image()).unwrap_err().to_string();
    assert_eq!(error, "`api`: the image's /etc/passwd has no user `nobody`");
    assert!(
        made("stop_signal: SIGFOO", image())
            .unwrap_err()
            .to_string()
            .contains("`SIGFOO` is no signal")
    );
}

#[test]
fn what_is_mounted_where() {
    let volumes = "volumes: [data:/data, ./conf:/conf:ro, /kept]\ntmpfs: [/run]\nsecrets: [key, {source: key, target: other, mode: 0400}]\nconfigs: [site]";
    let config = Config {
        volumes: ["/data", "/image"].map(str::to_owned).into(),
        ..image()
    };
    let spec = made(volumes, config).unwrap();
    let mounts: Vec<String> = spec
        .mounts
        .iter()
        .map(|mount| match &mount.source {
            MountSource::Volume(name) => format!("{name} at {}", mount.at),
            MountSource::Host(path) => format!("{} at {} ro={}", path.display(), mount.at, mount.read_only),
        })
        .collect();
    let expected = [
        "data at /data",
        "/project/deploy/./conf at /conf ro=true",
        "api-kept at /kept",
        "api-image at /image",
    ];
    assert_eq!(mounts, expected);
    let files = |files: &[FileMount]| -> Vec<String> {
        files
            .iter()
            .map(|file| format!("{} {} {:o}", file.version, file.at, file.mode))
            .collect()
    };
    let version = "000000000000-19700101000000";
    let expected = [
        format!("app_key_{version} /run/secrets/key 444"),
        format!("app_key_{version} /run/secrets/other 400"),
    ];
    assert_eq!(files(&spec.secrets), expected);
    assert_eq!(files(&spec.configs), [format!("app_site_{version} /site 444")]);
}

#[test]
fn health_checks_are_the_services_with_the_images_for_the_rest() {
    let config = || Config {
        healthcheck: Some(rootfs::Healthcheck {
            test: vec!["CMD".to_owned(), "/check".to_owned()],
            interval: Some(Duration::from_secs(7)),
            ..rootfs::Healthcheck::default()
        }),
        ..image()
    };
    let check = |service| made(service, config()).unwrap().healthcheck;
    let of_image = check("").unwrap();
    assert_eq!(
        (of_image.test, of_image.interval),
        (Test::Argv(vec!["/check".to_owned()]), Duration::from_secs(7))
    );
    let own = check("healthcheck: {test: \"ps | grep x\", timeout: 1s, retries: 9}").unwrap();
    assert_eq!(own.test, Test::Shell("ps | grep x".to_owned()));
    assert_eq!(
        (own.timeout, own.retries, own.interval),
        (Duration::from_secs(1), 9, Duration::from_secs(7))
    );
    assert_eq!(check("healthcheck: {disable: true}"), None);
}
