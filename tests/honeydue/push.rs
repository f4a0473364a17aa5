//! The example's images in real registries, as another tool sees them there.

use std::process::Command;

use super::machine::run;
use super::{IMAGES, PLATFORMS, fixture, is_wanted};

/// Pushes every image with the credentials of a docker configuration, twice, and has skopeo read them back.
fn arrives(registry: &str, owner: &str, login: Option<(&str, &str)>) {
    let one = &fixture().one;
    let docker = one.beside(&format!("docker-{owner}"));
    std::fs::create_dir_all(&docker).unwrap();
    let auth = login.map(|(user, token)| {
        use base64::Engine as _;
        let encoded = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{token}"));
        serde_json::json!({ registry: { "auth": encoded } })
    });
    let config = serde_json::json!({ "auths": auth.unwrap_or_else(|| serde_json::json!({})) });
    let config_file = docker.join("config.json");
    std::fs::write(&config_file, config.to_string()).unwrap();
    let to = format!("{registry}/{owner}/honeydue-{{name}}");
    let push = || {
        let arguments = ["push", "--json", "--to", &to, "--tag", "v1"];
        let printed = run(one.skep(&arguments).env("DOCKER_CONFIG", &docker));
        serde_json::from_str::<serde_json::Value>(&printed).unwrap()
    };
    let pushed = push();
    let again = push();
    for name in IMAGES {
        assert_eq!(again["pushed"][name]["uploaded"], 0, "{again}");
        let digest = pushed["pushed"][name]["digest"].as_str().unwrap();
        assert_eq!(one.report()["images"][name]["digest"], digest);
        let repository = format!("docker://{registry}/{owner}/honeydue-{name}");
        let skopeo = |arguments: &[&str]| {
            let mut command = Command::new("skopeo");
            run(command
                .args(arguments)
                .args(["--tls-verify=false", "--authfile"])
                .arg(&config_file))
        };
        let index = skopeo(&["inspect", "--raw", &format!("{repository}:v1")]);
        let index: serde_json::Value = serde_json::from_str(&index).unwrap();
        assert_eq!(index["manifests"].as_array().unwrap().len(), PLATFORMS.len());
        skopeo(&["inspect", &format!("{repository}@{digest}")]);
    }
}

fn variable(name: &str) -> String {
    std::env::var(name)
        .unwrap_or_else(|_| panic!("{name} is not set; tests/run starts the server and sets it"))
}

#[test]
fn docker_registry_receives_the_images() {
    if is_wanted() {
        arrives(&variable("SKEP_TEST_REGISTRY"), "team", None);
    }
}

#[test]
fn gitea_receives_the_images() {
    if is_wanted() {
        let (user, token) = (
            variable("SKEP_TEST_GITEA_USER"),
            variable("SKEP_TEST_GITEA_TOKEN"),
        );
        arrives(&variable("SKEP_TEST_GITEA"), &user, Some((&user, &token)));
    }
}
