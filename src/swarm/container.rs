//! The container of a service's tasks.

use std::collections::{BTreeSet, HashMap};

use bollard::models::{
    HealthConfig, ResourcesUlimits, TaskSpecContainerSpec, TaskSpecContainerSpecConfigs,
    TaskSpecContainerSpecDnsConfig, TaskSpecContainerSpecFile, TaskSpecContainerSpecFile1,
    TaskSpecContainerSpecPrivileges, TaskSpecContainerSpecPrivilegesCredentialSpec,
    TaskSpecContainerSpecSecrets, TaskSpecLogDriver,
};

use super::mounts::mounts;
use super::spec::{Error, ObjectRef, PinnedImage, Source, list, map, nanos, number, stack_labels};
use crate::stack::{CredentialSpec, Grant, HealthCheck, HealthTest, Limit, Service};

/// Permissions of a secret or config that the file gives none.
const FILE_MODE: u32 = 0o444;

/// Every capability there is.
const ALL: &str = "ALL";

/// Of the engine's command line, where it resets a list. It is no capability.
const RESET: &str = "RESET";

pub(super) fn container(source: &Source, image: &PinnedImage) -> Result<TaskSpecContainerSpec, Error> {
    let service = source.service;
    let (capability_add, capability_drop) = capabilities(&service.cap_add, &service.cap_drop);
    let variable = |(name, value): (&String, &String)| format!("{name}={value}");
    let mut env: Vec<_> = service.environment.iter().map(variable).collect();
    env.sort();
    let limit = |(name, limit): (&String, &Limit)| ResourcesUlimits {
        name: Some(name.clone()),
        soft: Some(limit.soft),
        hard: Some(limit.hard),
    };
    let host = |host: &crate::stack::Host| format!("{} {}", host.address, host.name);
    let isolation = service.isolation.as_ref();
    Ok(TaskSpecContainerSpec {
        image: Some(image.reference.clone()),
        labels: Some(stack_labels(source.around.stack_name, &service.labels)),
        command: list(&service.entrypoint),
        args: list(&service.command),
        hostname: service.hostname.clone(),
        env: list(&env),
        dir: service.working_dir.clone(),
        user: service.user.clone(),
        privileges: privileges(source)?,
        tty: Some(service.tty),
        open_stdin: Some(service.stdin_open),
        read_only: Some(service.read_only),
        mounts: list(&mounts(source)?),
        stop_signal: service.stop_signal.clone(),
        stop_grace_period: service.stop_grace_period.map(nanos),
        health_check: service.healthcheck.as_ref().map(health_check),
        hosts: list(&service.extra_hosts.iter().map(host).collect::<Vec<_>>()),
        dns_config: dns(service),
        secrets: list(&secrets(source)?),
        oom_score_adj: service.oom_score_adj,
        configs: list(&configs(source)?),
        isolation: isolation
            .map(|word| source.word("isolation", word.to_lowercase()))
            .transpose()?,
        init: service.init,
        sysctls: (!service.sysctls.is_empty()).then(|| map(&service.sysctls)),
        capability_add,
        capability_drop,
        ulimits: list(&service.ulimits.iter().map(limit).collect::<Vec<_>>()),
        groups: None,
    })
}

/// What is added and what is dropped, with the kernel's names. What is in both is added; `ALL` is all of its list.
fn capabilities(add: &[String], drop: &[String]) -> (Option<Vec<String>>, Option<Vec<String>>) {
    let named = |name: &String| match name.trim().to_uppercase() {
        name if name == ALL || name == RESET || name.starts_with("CAP_") => name,
        name => format!("CAP_{name}"),
    };
    let named = |list: &[String]| {
        let mut names: BTreeSet<String> = list.iter().map(named).collect();
        if names.contains(ALL) {
            names = BTreeSet::from([ALL.to_owned()]);
        }
        names.remove(RESET);
        names
    };
    let (add, drop) = (named(add), named(drop));
    let drop: Vec<_> = drop.difference(&add).cloned().collect();
    let add: Vec<_> = add.into_iter().collect();
    (list(&add), list(&drop))
}

fn health_check(check: &HealthCheck) -> HealthConfig {
    let prefixed = |kind: &str, rest: &[String]| [&[kind.to_owned()], rest].concat();
    let test = check.test.as_ref().map(|test| match test {
        HealthTest::Disabled => prefixed("NONE", &[]),
        HealthTest::Command(command) => prefixed("CMD", command),
        HealthTest::Shell(line) => prefixed("CMD-SHELL", std::slice::from_ref(line)),
    });
    HealthConfig {
        test,
        interval: check.interval.map(nanos),
        timeout: check.timeout.map(nanos),
        retries: check.retries.map(number),
        start_period: check.start_period.map(nanos),
        start_interval: check.start_interval.map(nanos),
    }
}

fn dns(service: &Service) -> Option<TaskSpecContainerSpecDnsConfig> {
    let has_any = !service.dns.is_empty() || !service.dns_search.is_empty();
    has_any.then(|| TaskSpecContainerSpecDnsConfig {
        nameservers: list(&service.dns),
        search: list(&service.dns_search),
        options: None,
    })
}

pub(super) fn log_driver(service: &Service) -> Option<TaskSpecLogDriver> {
    service.logging.as_ref().map(|logging| TaskSpecLogDriver {
        name: logging.driver.clone(),
        options: (!logging.options.is_empty()).then(|| map(&logging.options)),
    })
}

fn privileges(source: &Source) -> Result<Option<TaskSpecContainerSpecPrivileges>, Error> {
    let Some(spec) = &source.service.credential_spec else {
        return Ok(None);
    };
    let empty = TaskSpecContainerSpecPrivilegesCredentialSpec::default();
    let credential_spec = match spec {
        CredentialSpec::Config(config) => TaskSpecContainerSpecPrivilegesCredentialSpec {
            config: Some(
                config_ref(source, config, "credential_spec.config".to_owned())?
                    .id
                    .clone(),
            ),
            ..empty
        },
        CredentialSpec::File(file) => TaskSpecContainerSpecPrivilegesCredentialSpec {
            file: Some(file.clone()),
            ..empty
        },
        CredentialSpec::Registry(key) => TaskSpecContainerSpecPrivilegesCredentialSpec {
            registry: Some(key.clone()),
            ..empty
        },
    };
    Ok(Some(TaskSpecContainerSpecPrivileges {
        credential_spec: Some(credential_spec),
        ..TaskSpecContainerSpecPrivileges::default()
    }))
}

// --- secrets and configs -------------------------------------------------------------------------------

fn secrets(source: &Source) -> Result<Vec<TaskSpecContainerSpecSecrets>, Error> {
    let mut secrets = Vec::new();
    for (index, grant) in source.service.secrets.iter().enumerate() {
        let object = source.around.secrets.get(&grant.source);
        let object = object.ok_or_else(|| absent(source, &format!("secrets[{index}]"), &grant.source))?;
        secrets.push(TaskSpecContainerSpecSecrets {
            file: Some(TaskSpecContainerSpecFile {
                name: Some(file_name(grant)),
                uid: Some(owner(&grant.uid)),
                gid: Some(owner(&grant.gid)),
                mode: Some(grant.mode.unwrap_or(FILE_MODE)),
            }),
            secret_id: Some(object.id.clone()),
            secret_name: Some(object.name.clone()),
        });
    }
    // Another order in the file replaces no task.
    let file =
        |secret: &TaskSpecContainerSpecSecrets| secret.file.as_ref().and_then(|file| file.name.clone());
    secrets.sort_by_key(|secret| (secret.secret_name.clone(), file(secret)));
    Ok(secrets)
}

fn configs(source: &Source) -> Result<Vec<TaskSpecContainerSpecConfigs>, Error> {
    let mut configs = Vec::new();
    for (index, grant) in source.service.configs.iter().enumerate() {
        let object = config_ref(source, &grant.source, format!("configs[{index}]"))?;
        configs.push(TaskSpecContainerSpecConfigs {
            file: Some(TaskSpecContainerSpecFile1 {
                name: Some(file_name(grant)),
                uid: Some(owner(&grant.uid)),
                gid: Some(owner(&grant.gid)),
                mode: Some(grant.mode.unwrap_or(FILE_MODE)),
            }),
            runtime: None,
            config_id: Some(object.id.clone()),
            config_name: Some(object.name.clone()),
        });
    }
    // The runtime reads it, and no file shows it.
    if let Some(CredentialSpec::Config(config)) = &source.service.credential_spec {
        let object = config_ref(source, config, "credential_spec.config".to_owned())?;
        configs.push(TaskSpecContainerSpecConfigs {
            file: None,
            runtime: Some(HashMap::new()),
            config_id: Some(object.id.clone()),
            config_name: Some(object.name.clone()),
        });
    }
    let file =
        |config: &TaskSpecContainerSpecConfigs| config.file.as_ref().and_then(|file| file.name.clone());
    configs.sort_by_key(|config| (config.config_name.clone(), file(config)));
    Ok(configs)
}

fn config_ref<'a>(source: &Source<'a>, name: &str, key: String) -> Result<&'a ObjectRef, Error> {
    let object = source.around.configs.get(name);
    object.ok_or_else(|| absent(source, &key, name))
}

fn absent(source: &Source, key: &str, name: &str) -> Error {
    let what = format!("is `{name}`, which is not on the engine");
    Error::new(source.at(key), what, "create it, or give it a `file`")
}

fn file_name(grant: &Grant) -> String {
    grant.target.clone().unwrap_or_else(|| grant.source.clone())
}

fn owner(id: &Option<String>) -> String {
    id.clone().unwrap_or_else(|| "0".to_owned())
}
