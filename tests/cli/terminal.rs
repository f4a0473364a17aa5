//! Text from elsewhere that would command the terminal: none of it gets there as it is.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::process::Command;

use skep_test_support::{Ran, has, has_busybox};

use super::bench::Bench;

/// Clears the screen, sets the title, turns the text around, and ends a line for a C1 terminal.
const EVIL: &str = "\x1b[2J\x1b]0;evil\x07\u{202e}\u{9b}31m\u{7f}";

/// How it is shown.
const SHOWN: &str = r"\u{1b}[2J\u{1b}]0;evil\u{7}\u{202e}\u{9b}31m\u{7f}";

/// Fails unless the run wrote the text escaped, and nothing that commands a terminal.
#[track_caller]
fn is_safe(ran: &Ran, escaped: &str) {
    let all = format!("{}{}", ran.stdout, ran.stderr);
    let commands =
        |letter: char| (letter.is_control() && !matches!(letter, '\n' | '\t')) || letter == '\u{202e}';
    assert!(!all.contains(commands), "{all:?}");
    assert!(all.contains(escaped), "no {escaped} in {all:?}");
}

/// Text as a Starlark or TOML string writes it.
fn quoted(text: &str) -> String {
    let letter = |letter: char| match letter {
        '"' | '\\' => format!("\\{letter}"),
        ' '..='~' => letter.to_string(),
        _ => format!("\\u{:04x}", u32::from(letter)),
    };
    format!("\"{}\"", text.chars().map(letter).collect::<String>())
}

#[test]
fn recipes_and_configuration() {
    let evil = quoted(EVIL);
    for recipe in [
        format!("fail({evil})"),
        format!("fail(\"{}\")", EVIL.replace('\x1b', "x")),
        format!("source([\"a\"], root = {evil} + \"//\")"),
        format!("target({evil}, [])"),
        format!("target(\"a\", [oci_image(\"linux/amd64\", layers = [layer(source([{evil}]))])])"),
        format!(
            "target(\"a\", [oci_image(\"linux/amd64\", layers = [layer(merge(file({evil}, \"\"), file({evil}, \"a\")))])])"
        ),
        format!(
            "target(\"a\", [oci_image(\"linux/amd64\", layers = [layer(file(\"a\", \"\"))], entrypoint = [{evil}])])"
        ),
        format!(
            "target(\"a\", [oci_image(\"linux/amd64\", layers = [layer(file(\".wh.\" + {evil}, \"\"))])])"
        ),
        format!("print({evil})"),
    ] {
        let ran = Bench::new(&recipe).skep(&["build"]);
        assert_ne!(ran.code, 0, "{recipe}");
        let shown = if recipe.contains("x[2J") {
            SHOWN.replace("\\u{1b}", "x")
        } else {
            SHOWN.to_owned()
        };
        is_safe(&ran, &shown);
    }
    let bench = Bench::new("");
    for config in [
        format!("[project]\nname = {evil}"),
        format!("[project]\nname = \"a\"\n{evil} = 1"),
        "[project]\nname = \"a\u{202e}\u{9b}31m\"".to_owned(),
    ] {
        bench.write("skep.toml", &config);
        let ran = bench.skep(&["build"]);
        assert_eq!(ran.code, 2, "{config}");
        is_safe(&ran, r"\u{202e}\u{9b}31m");
    }
    bench.write("skep.toml", "[project]\nname = \"a\"\n[environments.prod]\ntarget = \"swarm\"\nstack = \"stack.yml\"\nmanagers = [\"unix:///nowhere\"]\n");
    for stack in [
        format!("services:\n  a:\n    image: x\n    {evil}: 1\n"),
        format!("services:\n  a:\n    image: {evil}\n    ports: [{evil}]\n"),
        "services:\n  a:\n    image: x\n    \u{202e}\u{9b}31m: 1\n".to_owned(),
    ] {
        bench.write("stack.yml", &stack);
        let ran = bench.skep(&["plan", "--offline", "prod"]);
        assert_eq!(ran.code, 2, "{stack}: {}", ran.stderr);
        is_safe(&ran, r"\u{202e}\u{9b}31m");
    }
}

#[test]
fn outputs_of_actions_and_their_logs() {
    if !has_busybox() {
        return;
    }
    let octal: String = EVIL.bytes().map(|byte| format!("\\{byte:03o}")).collect();
    let failing = |script: &str| {
        format!(
            "single(\"api\", sh({:?}))",
            script.replace("EVIL", &format!("$(printf '{octal}')"))
        )
    };
    for script in [
        "ln -s /etc/passwd \"/out/EVIL\"",
        "ln -s \"/EVIL\" /out/x",
        "echo \"EVIL\"; exit 1",
    ] {
        let bench = Bench::with_busybox(&failing(script));
        let ran = bench.skep(&["build"]);
        assert_eq!(ran.code, 1, "{}", ran.stderr);
        is_safe(&ran, SHOWN);
        // What only reads the store says the same.
        is_safe(&bench.skep(&["log", "api@linux/amd64:sh", "--json"]), "label");
    }
    let bench = Bench::with_busybox(&failing("printf 'a\\033[1;32mb\\033[2Jc\\n'; exit 1"));
    bench.skep(&["build"]);
    // A log is data where it goes into a pipe.
    let piped = bench.skep(&["log", "api@linux/amd64:sh"]);
    assert_eq!(piped.stdout, "a\x1b[1;32mb\x1b[2Jc\n");
    if let Some(shown) = on_a_terminal(&bench, "log api@linux/amd64:sh") {
        assert!(shown.contains("a\x1b[1;32mb\\u{1b}[2Jc\x1b[0m"), "{shown:?}");
    }
}

#[test]
fn what_a_terminal_shows_while_it_runs() {
    let evil = quoted(EVIL);
    let bench = Bench::new(&format!(
        "print({evil})\nt = fetch_file(sources = [\"https://127.0.0.1:1/\" + {evil}], integrity = \"sha256:{}\", name = \"a\")\n\
         target(\"api\", [oci_image(\"linux/amd64\", layers = [layer(t)])])",
        "0".repeat(64)
    ));
    let Some(shown) = on_a_terminal(&bench, "build") else {
        return;
    };
    for raw in ["\x1b]0;", "\u{202e}", "\u{9b}", "\x7f", "\x07"] {
        assert!(!shown.contains(raw), "{raw:?} in {shown:?}");
    }
    assert!(shown.contains(&SHOWN[..30]), "{shown:?}");
}

/// What `skep` writes to a terminal; `None` where there is no program that makes one.
fn on_a_terminal(bench: &Bench, arguments: &str) -> Option<String> {
    let script = Command::new("script").arg("--version").output();
    if !has(script.is_ok(), "script of bsdutils") {
        return None;
    }
    let plain = bench.command(&[]);
    let mut command = Command::new("script");
    let line = format!("{} {arguments}", env!("CARGO_BIN_EXE_skep"));
    command
        .args(["--quiet", "--command", &line, "/dev/null"])
        .current_dir(bench.project())
        .env_clear();
    command
        .envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .env("TERM", "xterm");
    let output = command.output().unwrap();
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What a server answers to everything.
fn answer(status: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

/// Answers all that connects, for as long as the test runs; what is only looked for is not there.
fn serve<S: Read + Write>(answer: String, mut accept: impl FnMut() -> std::io::Result<S> + Send + 'static) {
    std::thread::spawn(move || {
        while let Ok(mut stream) = accept() {
            let mut request = [0; 65536];
            let _ = stream.read(&mut request);
            let absent = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            let answer = if request.starts_with(b"HEAD") {
                absent
            } else {
                &answer
            };
            let _ = stream.write_all(answer.as_bytes());
        }
    });
}

/// The address of a registry that refuses everything with `body`.
fn registry(body: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    serve(answer("400 Bad Request", body), move || Ok(listener.accept()?.0));
    address
}

#[test]
fn answers_of_servers() {
    let evil = quoted(EVIL);
    let bench =
        Bench::new("target(\"api\", [oci_image(\"linux/amd64\", layers = [layer(file(\"a\", \"\"))])])");
    let json = format!("{{\"errors\":[{{\"code\":\"DENIED\",\"message\":{evil}}}]}}");
    for body in [json.as_str(), EVIL] {
        let ran = bench.skep(&["push", "--to", &format!("{}/a", registry(body)), "--tag", "t"]);
        assert_eq!(ran.code, 4, "{}", ran.stderr);
        is_safe(&ran, r"\u{202e}");
    }
    let socket = bench.beside("engine.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let body = format!("{{\"message\":{evil}}}");
    serve(answer("500 Internal Server Error", &body), move || {
        Ok(listener.accept()?.0)
    });
    bench.write(
        "skep.toml",
        &format!(
            "[project]\nname = \"a\"\n[environments.prod]\ntarget = \"swarm\"\nstack = \"stack.yml\"\n\
             managers = [\"unix://{}\"]\npatience = \"1s\"\n",
            socket.display()
        ),
    );
    bench.write("stack.yml", "services:\n  a:\n    image: x\n");
    let ran = bench.skep(&["status", "prod"]);
    assert_eq!(ran.code, 4, "{}", ran.stderr);
    is_safe(&ran, r"\u{202e}");
}
