use std::io::{BufRead as _, BufReader, Read as _};
use std::net::TcpListener;
use std::sync::mpsc;

use super::super::target;
use super::super::watch::Reason;
use super::*;
use crate::stack::{self, Stack};

fn about() -> About<'static> {
    About {
        project: "app",
        environment: "prod",
        release: None,
        by: "me@here",
        at: DateTime::UNIX_EPOCH,
        took: Duration::from_millis(1500),
    }
}

fn id(text: &str) -> ReleaseId {
    text.parse().unwrap()
}

fn failed() -> Notice {
    let error = Error::RolledBack {
        release: id("abc123400000-20261124120000"),
        step: "roll api".to_owned(),
        reason: Box::new(Reason::with_lines(
            "api.1 exited with code 1".to_owned(),
            vec!["no database".to_owned()],
        )),
        to: id("abc123300000-20261123120000"),
        schema: None,
    };
    Notice::new(&about(), Err(&error))
}

fn unchanged() -> Notice {
    let report = Report {
        release: id("abc123400000-20261124120000"),
        previous: None,
        changed: false,
        probes: Vec::new(),
        checks: Vec::new(),
        addresses: std::collections::BTreeMap::new(),
    };
    Notice::new(&about(), Ok(&report))
}

/// Answers requests with `status`, and passes on the first line and the body of each.
fn server(status: &'static str) -> (String, mpsc::Receiver<(String, Vec<u8>)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (seen, requests) = mpsc::channel();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut reader = BufReader::new(connection.unwrap());
            let mut head = Vec::new();
            let mut length = 0;
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).unwrap();
                if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                if line.trim().is_empty() {
                    break;
                }
                head.push(line);
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            reader.get_mut().write_all(answer.as_bytes()).unwrap();
            let _ = seen.send((head[0].trim().to_owned(), body));
        }
    });
    (address, requests)
}

fn tell(to: &[Notify], notice: &Notice, directory: &Path, hook: Option<&str>) -> Vec<String> {
    let variable = |name: &str| hook.filter(|_| name == "HOOK").map(str::to_owned);
    notify(to, directory, &variable, notice, &Cancel::default())
}

fn command(words: &[&str]) -> Notify {
    Notify::Command(words.iter().map(|word| (*word).to_owned()).collect())
}

#[test]
fn everybody_is_told_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let (address, requests) = server("200 OK");
    let hook = format!("http://{address}/secret/path");
    let to = [
        Notify::Url(format!("http://{address}/hook")),
        Notify::Env("HOOK".to_owned()),
        command(&["sh", "-c", "cat > told"]),
    ];
    let notice = failed();
    assert_eq!(
        tell(&to, &notice, directory.path(), Some(&hook)),
        Vec::<String>::new()
    );
    let mut heads = Vec::new();
    for _ in 0..2 {
        let (head, body) = requests.recv_timeout(LIMIT).unwrap();
        heads.push(head);
        assert_eq!(serde_json::from_slice::<Notice>(&body).unwrap(), notice);
    }
    heads.sort();
    assert_eq!(heads, ["POST /hook HTTP/1.1", "POST /secret/path HTTP/1.1"]);
    let told = std::fs::read_to_string(directory.path().join("told")).unwrap();
    insta::assert_snapshot!(told, @r#"{"project":"app","environment":"prod","release":"abc123400000-20261124120000","previous":"abc123300000-20261123120000","outcome":"rolled_back","changed":true,"step":"roll api","reason":"api.1 exited with code 1","lines":["no database"],"by":"me@here","at":"1970-01-01T00:00:00Z","seconds":1.5}"#);
}

#[test]
fn who_cannot_be_told_is_a_warning_without_the_secret() {
    let here = Path::new("/");
    let (address, _requests) = server("500 Oh");
    let hook = format!("http://{address}/secret/path");
    // Nobody listens there any more.
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let to = [
        Notify::Env("HOOK".to_owned()),
        Notify::Env("OTHER".to_owned()),
        Notify::Url(format!("http://{gone}/secret")),
        Notify::Url("secret words".to_owned()),
        command(&["sh", "-c", "exit 3"]),
        command(&["/no/such"]),
    ];
    let warnings = tell(&to, &failed(), here, Some(&hook));
    assert!(
        warnings.iter().all(|warning| !warning.contains("secret")),
        "{warnings:?}"
    );
    let expected = [
        "cannot tell the address in `HOOK` what came of it: it answered 500",
        "cannot tell the address in `OTHER` what came of it: it is not set",
        "cannot tell `127.0.0.1` what came of it: error sending request: ",
        "cannot tell an address that is none what came of it: it is no address",
        "cannot tell `sh -c exit 3` what came of it: it failed: exit status: 3",
        "cannot tell `/no/such` what came of it: it does not start: ",
    ];
    assert_eq!(warnings.len(), expected.len(), "{warnings:?}");
    for (warning, expected) in warnings.iter().zip(expected) {
        assert!(warning.starts_with(expected), "{warning}");
    }
}

#[test]
fn whoever_does_not_listen_is_not_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = [
        Notify::Url(format!("http://{}", silent.local_addr().unwrap())),
        command(&["sh", "-c", "echo $$ > pid; sleep 600 & sleep 600"]),
    ];
    let began = Instant::now();
    let mut warnings = tell(&to, &failed(), directory.path(), None);
    assert!(began.elapsed() < LIMIT * 2);
    assert!(
        warnings
            .iter()
            .all(|warning| warning.ends_with("it took longer than 10 s")),
        "{warnings:?}"
    );
    assert_eq!(warnings.len(), 2);
    // What the program started is gone with it.
    let group = std::fs::read_to_string(directory.path().join("pid")).unwrap();
    let group = rustix::process::Pid::from_raw(group.trim().parse().unwrap()).unwrap();
    let gone = || rustix::process::test_kill_process_group(group).is_err();
    while !gone() && began.elapsed() < LIMIT * 3 {
        std::thread::sleep(PACE);
    }
    assert!(gone());
    // And whoever interrupts is heard.
    let cancel = Cancel::default();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(200));
            cancel.raise();
        });
        let began = Instant::now();
        warnings = notify(&to, directory.path(), &|_| None, &failed(), &cancel);
        assert!(began.elapsed() < LIMIT / 2);
    });
    assert!(
        warnings.iter().all(|warning| warning.ends_with("interrupted")),
        "{warnings:?}"
    );
}

#[test]
fn nobody_is_told_of_nothing_and_everybody_of_an_interruption() {
    let (address, requests) = server("200 OK");
    let to = [Notify::Url(format!("http://{address}"))];
    assert_eq!(unchanged().outcome, Ending::Unchanged);
    tell(&to, &unchanged(), Path::new("/"), None);
    assert!(requests.try_recv().is_err());
    let stopped = Notice::new(
        &about(),
        Err(&Error::Interrupted {
            step: "roll api".to_owned(),
        }),
    );
    let cancel = Cancel::default();
    cancel.raise();
    assert_eq!(
        notify(&to, Path::new("/"), &|_| None, &stopped, &cancel),
        Vec::<String>::new()
    );
    let (_, body) = requests.recv_timeout(LIMIT).unwrap();
    assert!(
        String::from_utf8(body)
            .unwrap()
            .contains(r#""outcome":"interrupted""#)
    );
}

#[test]
fn what_refuses_touched_nothing() {
    let refused = Notice::new(
        &about(),
        Err(&Error::Target(target::Error::Refused("not here".to_owned()))),
    );
    assert_eq!(
        (refused.outcome, refused.changed, refused.reason.as_deref()),
        (Ending::Refused, false, Some("not here"))
    );
}

#[test]
fn what_is_told_of_a_refusal_holds_no_secret() {
    let stack = Stack {
        services: [(
            "api".to_owned(),
            stack::Service {
                environment: [("KEY".to_owned(), "in the stack".to_owned())].into(),
                ..Default::default()
            },
        )]
        .into(),
        ..Stack::default()
    };
    let mask = Mask::new(&["KEY".to_owned()].into(), &stack).and(["in the file"].into_iter());
    let lines = vec!["`in the stack` is no port".to_owned()];
    let notice = Notice::refused(&about(), "neither is `in the file`".to_owned(), lines).masked(&mask);
    assert_eq!(notice.outcome, Ending::Refused);
    assert_eq!(notice.reason.as_deref(), Some("neither is `(secret)`"));
    assert_eq!(notice.lines, ["`(secret)` is no port"]);
}
