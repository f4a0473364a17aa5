//! What differs from machine to machine, and where this one finds packages.

use std::process::Command;

/// Any uid that is not ours; it needs no account.
pub const ORDINARY_USER: u32 = 12_345;

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The addresses of this machine's package registries, as variables: another home has no configuration.
pub fn registries() -> Vec<(&'static str, String)> {
    let asked = [
        ("GOPROXY", vec!["go", "env", "GOPROXY"]),
        ("npm_config_registry", vec!["npm", "config", "get", "registry"]),
        (
            "PIP_INDEX_URL",
            vec![
                "python3",
                "-c",
                "from pip._internal.models.index import PyPI; print(PyPI.simple_url)",
            ],
        ),
    ];
    let mut variables = Vec::new();
    for (name, argv) in asked {
        if std::env::var_os(name).is_some() {
            continue;
        }
        let output = Command::new(argv[0]).args(&argv[1..]).output();
        if let Ok(output) = output
            && output.status.success()
        {
            variables.push((name, String::from_utf8(output.stdout).unwrap().trim().to_owned()));
        }
    }
    variables
}

/// Runs a program that must succeed, and gives what it printed.
pub fn run(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}
