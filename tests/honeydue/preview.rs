//! The example's first command, as an ordinary user: everything runs, a browser shows it, and nothing is left.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use skep_test_support::{Peer, free_port, get};

use super::checkout::Checkout;
use super::machine::run;
use super::{IMAGES, fixture, is_wanted};

/// A checkout whose preview is ended when this is dropped.
struct Preview {
    checkout: &'static Checkout,
    api: u16,
    admin: u16,
}

impl Preview {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.checkout.skep(arguments);
        command
            .env("API_PORT", self.api.to_string())
            .env("ADMIN_PORT", self.admin.to_string())
            .env_remove("XDG_STATE_HOME");
        command
    }

    fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let printed = run(&mut self.command(&[arguments, &["--json"]].concat()));
        serde_json::from_str(&printed).unwrap()
    }

    /// The supervisor and all that it started, with the time that each was started at.
    fn processes(&self) -> BTreeSet<(u32, String)> {
        let all = processes();
        let state = self.checkout.beside(".local/state").display().to_string();
        let is_first = |process: &&Process| {
            process.command.contains("supervise-preview") && process.command.contains(&state)
        };
        let mut found: BTreeSet<u32> = all.iter().filter(is_first).map(|process| process.pid).collect();
        assert!(found.len() <= 1, "one supervisor at most: {found:?}");
        // Children are looked for until there are none.
        let mut known = 0;
        while found.len() > known {
            known = found.len();
            let of = all.iter().filter(|process| found.contains(&process.parent));
            let children: Vec<u32> = of.map(|process| process.pid).collect();
            found.extend(children);
        }
        let of = all.into_iter().filter(|process| found.contains(&process.pid));
        of.map(|process| (process.pid, process.began)).collect()
    }
}

impl Drop for Preview {
    fn drop(&mut self) {
        let _ = self.command(&["down", "preview", "--volumes"]).output();
    }
}

struct Process {
    pid: u32,
    parent: u32,
    began: String,
    command: String,
}

fn processes() -> Vec<Process> {
    let read = |entry: fs::DirEntry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        // What follows the name, which may hold anything.
        let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
        // One that has ended, and whose end nobody has asked for yet.
        if fields[0] == "Z" || fields[0] == "X" {
            return None;
        }
        let command = fs::read(entry.path().join("cmdline")).ok()?;
        Some(Process {
            pid,
            parent: fields[1].parse().ok()?,
            began: fields[19].to_owned(),
            command: String::from_utf8_lossy(&command).into_owned(),
        })
    };
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(read)
        .collect()
}

/// Whether any process sees a mount of something in `directory`.
fn is_mounted(directory: &Path) -> bool {
    let directory = directory.display().to_string();
    processes().iter().any(|process| {
        let table = fs::read_to_string(format!("/proc/{}/mountinfo", process.pid)).unwrap_or_default();
        table.contains(&directory)
    })
}

/// Chromium's view of a page, once its scripts have run; and a picture of it.
fn look(at: &str, profile: &Path, picture: &Path) -> String {
    let mut chromium = Command::new("chromium");
    chromium.args([
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--window-size=800,900",
    ]);
    chromium.args([
        "--disable-dev-shm-usage",
        "--virtual-time-budget=10000",
        "--dump-dom",
    ]);
    chromium.arg(format!("--user-data-dir={}", profile.display()));
    chromium.arg(format!("--screenshot={}", picture.display()));
    run(chromium.arg(at))
}

#[test]
fn the_first_command_ends_with_a_page_in_a_browser() {
    if !is_wanted() {
        return;
    }
    let preview = Preview {
        checkout: &fixture().other,
        api: free_port(),
        admin: free_port(),
    };
    let report = preview.json(&["release", "preview"]);
    assert_eq!(report["changed"], true, "{report}");
    let status = preview.json(&["status", "preview"]);
    for name in IMAGES {
        assert_eq!(
            status["services"][name]["tasks"][0]["state"], "ready",
            "{name}: {status}"
        );
    }
    let migration = &preview.json(&["history", "preview"])[0]["release"]["migration"];
    assert!(migration["after"].as_u64() >= Some(3), "{migration}");
    assert_eq!(get(preview.api, "/api/health/").unwrap().0, 200);
    assert_eq!(get(preview.admin, "/api/health").unwrap().0, 200);

    let residence = r#"{"name": "Hollow oak", "city": "Białowieża"}"#;
    let created = Peer::tcp(format!("127.0.0.1:{}", preview.api))
        .and_then(|api| {
            let head = [("Content-Type", "application/json")];
            api.ask("POST", "/api/residences/", &head, residence)
        })
        .unwrap();
    assert_eq!(created.0, 201, "{}", created.1);
    let picture = preview.checkout.beside("admin.png");
    let page = look(
        &format!("http://127.0.0.1:{}/", preview.admin),
        &preview.checkout.beside("chromium"),
        &picture,
    );
    assert!(
        page.contains("Hollow oak") && page.contains("Białowieża"),
        "{page}"
    );
    // Only the page's own scripts add it.
    assert!(page.contains("next-route-announcer"), "{page}");
    assert!(fs::metadata(&picture).unwrap().len() > 10_000);
    keep(&picture);

    let running = preview.processes();
    assert!(running.len() > IMAGES.len(), "{running:?}");
    assert!(is_mounted(&preview.checkout.beside("store")));
    let again = preview.json(&["release", "preview"]);
    assert_eq!(
        (&again["changed"], &again["release"]),
        (&serde_json::json!(false), &report["release"])
    );
    assert!(
        preview
            .processes()
            .is_superset(&running.first().cloned().into_iter().collect())
    );
    ends(&preview, &running);
}

/// `down`, after which nothing is left but volumes and secrets, which come back with the next release.
fn ends(preview: &Preview, running: &BTreeSet<(u32, String)>) {
    run(&mut preview.command(&["down", "preview"]));
    let is_left = || {
        let mut all = processes().into_iter();
        all.any(|process| running.contains(&(process.pid, process.began)))
    };
    // The kernel takes a moment for what has been told to end.
    let deadline = Instant::now() + Duration::from_secs(5);
    while is_left() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(!is_left(), "{running:?}");
    assert!(preview.processes().is_empty());
    assert!(!is_mounted(&preview.checkout.beside("store")));
    assert!(get(preview.api, "/api/health/").is_err());
    let report = preview.json(&["preview"]);
    assert_eq!(report["changed"], true);
    let residences = get(preview.api, "/api/residences/").unwrap().1;
    assert!(residences.contains("Hollow oak"));
}

/// For whoever wants to see it: in $SKEP_TEST_PICTURES.
fn keep(picture: &Path) {
    if let Some(directory) = std::env::var_os("SKEP_TEST_PICTURES") {
        fs::copy(picture, Path::new(&directory).join("admin.png")).unwrap();
    }
}
