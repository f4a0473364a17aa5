use super::*;
use crate::plan::ImageSpec;
use crate::tree::{Attributes, Metadata};

struct Bench {
    _directory: tempfile::TempDir,
    store: Store,
}

/// An entry of a layer: its path, what stands there, and attributes as JSON.
type Entry<'a> = (&'a str, What<'a>, &'a str);

#[derive(Clone, Copy)]
enum What<'a> {
    File(&'a [u8]),
    Program(&'a [u8]),
    Link(&'a str),
    Directory,
}
use What::{Directory, File, Link, Program};

impl Bench {
    fn new() -> Bench {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store")).unwrap();
        let _directory = directory;
        Bench { _directory, store }
    }

    fn tree(&self, entries: &[Entry<'_>]) -> Tree {
        let file = |bytes: &[u8], executable| Node::File {
            digest: self.store.put(bytes).unwrap(),
            executable,
        };
        let node = |what: &What<'_>| match what {
            File(bytes) => file(bytes, false),
            Program(bytes) => file(bytes, true),
            Link(target) => Node::Symlink((*target).to_owned()),
            Directory => Node::Directory(self.store.put(b"").unwrap()),
        };
        let nodes = entries.iter().map(|(at, what, _)| (path(at), node(what)));
        let attributes = entries.iter().filter(|(_, _, json)| !json.is_empty());
        let attributes = attributes.map(|(at, _, json)| {
            let attributes: Attributes = serde_json::from_str(json).unwrap();
            (path(at), attributes)
        });
        let metadata = Metadata(attributes.collect());
        Tree {
            root: ops::collect(&self.store, nodes).unwrap(),
            metadata: Some(self.store.put(&metadata.encode()).unwrap()),
        }
    }

    /// What is wrong with an image of `layers`; "sound" if nothing is.
    fn check(&self, platform: &str, layers: &[&[Entry<'_>]], config: &str) -> String {
        let place = |(number, layer): (usize, Digest)| {
            ops::place(
                &self.store,
                Node::Directory(layer),
                &path(&format!("layers/{number}")),
            )
            .unwrap()
        };
        let layers = layers
            .iter()
            .map(|entries| make_layer(&self.store, self.tree(entries)).unwrap());
        let layers: Vec<Digest> = layers.enumerate().map(place).collect();
        let spec = ImageSpec {
            platform: platform.parse().unwrap(),
            layers: Vec::new(),
            config: serde_json::from_str(config).unwrap(),
        };
        let inputs = ops::merge(&self.store, &layers).unwrap();
        match check_image(&self.store, &inputs, &spec) {
            Ok(()) => "sound".to_owned(),
            Err(error @ Error::Unfit(_)) => error.to_string(),
            Err(error) => panic!("{error}"),
        }
    }
}

/// The header of a 64-bit program for `machine`, which `linker` loads if there is one.
fn elf(machine: u16, linker: Option<&str>) -> Vec<u8> {
    let mut bytes = vec![0; 64];
    bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
    bytes[18..20].copy_from_slice(&machine.to_le_bytes());
    let Some(linker) = linker else { return bytes };
    bytes[32] = 64;
    bytes[54] = 56;
    bytes[56] = 1;
    let mut entry = vec![0; 56];
    entry[0] = 3;
    entry[8] = 120;
    entry[32] = linker.len() as u8 + 1;
    bytes.extend(entry);
    bytes.extend(linker.bytes().chain([0]));
    bytes
}

const AMD64: u16 = 62;
const ARM64: u16 = 183;

#[test]
fn programs_are_found_as_engines_find_them() {
    let bench = Bench::new();
    let program = elf(AMD64, None);
    let lower: &[Entry<'_>] = &[
        ("usr/bin/tool", Program(&program), ""),
        ("bin", Link("usr/bin"), ""),
        ("opt/current", Link("nowhere"), r#"{"target":"/usr"}"#),
        ("srv/up", Link("../usr/bin/.."), ""),
        ("srv/loop", Link("loop"), ""),
        ("etc/app.conf", File(b""), ""),
    ];
    let upper: &[Entry<'_>] = &[
        ("app/start", Program(b"#!/bin/tool -x\n"), ""),
        ("etc/app.conf", Directory, ""),
    ];
    for config in [
        r#"{}"#,
        r#"{"entrypoint":["/usr/bin/tool"]}"#,
        r#"{"entrypoint":["/bin/tool"]}"#,
        r#"{"entrypoint":["/opt/current/bin/tool"]}"#,
        r#"{"entrypoint":["/srv/up/bin/tool"]}"#,
        r#"{"entrypoint":["/../usr/./bin//tool"]}"#,
        r#"{"cmd":["tool"]}"#,
        r#"{"entrypoint":["tool"],"cmd":["nothing"]}"#,
        r#"{"entrypoint":["start"],"env":{"PATH":"/usr/bin:/app"}}"#,
        r#"{"entrypoint":["./start"],"workdir":"/app"}"#,
        r#"{"cmd":["/app/start"],"workdir":"/made/by/the/engine","volumes":["/data","/etc/app.conf"]}"#,
    ] {
        assert_eq!(
            bench.check("linux/amd64", &[lower, upper], config),
            "sound",
            "{config}"
        );
    }
    let wrong = |config| bench.check("linux/amd64", &[lower, upper], config);
    insta::assert_snapshot!(wrong(r#"{"entrypoint":["/api"]}"#), @"the entrypoint `/api` is not in the image; put it into `contents`, or name another program");
    insta::assert_snapshot!(wrong(r#"{"cmd":["/usr/bin/tool/x"]}"#), @"the cmd `/usr/bin/tool/x` is not in the image; put it into `contents`, or name another program");
    insta::assert_snapshot!(wrong(r#"{"entrypoint":["/srv/loop"]}"#), @"the entrypoint `/srv/loop` is not in the image; put it into `contents`, or name another program");
    insta::assert_snapshot!(wrong(r#"{"entrypoint":["start"]}"#), @"the entrypoint `start` is in no directory of PATH (the default one); put it into `contents`, or name it by its path");
    insta::assert_snapshot!(wrong(r#"{"entrypoint":["tool"],"env":{"PATH":"/app:/sbin"}}"#), @"the entrypoint `tool` is in no directory of PATH (/app:/sbin); put it into `contents`, or name it by its path");
    insta::assert_snapshot!(wrong(r#"{"entrypoint":["/usr/bin"]}"#), @"the entrypoint `/usr/bin` cannot be run: `/usr/bin` is a directory");
    insta::assert_snapshot!(wrong(r#"{"workdir":"/usr/bin/tool","volumes":["/app/start"]}"#), @"
    the workdir `/usr/bin/tool` is a file of the image; it must be a directory
      the volume `/app/start` is a file of the image; it must be a directory
    ");
}

#[test]
fn upper_layers_hide_lower_ones() {
    let bench = Bench::new();
    let program = elf(AMD64, None);
    let lower: &[Entry<'_>] = &[("opt/tool", Program(&program), "")];
    let config = r#"{"entrypoint":["/opt/tool"]}"#;
    let hidden = bench.check("linux/amd64", &[lower, &[("opt", File(b""), "")]], config);
    insta::assert_snapshot!(hidden, @"the entrypoint `/opt/tool` is not in the image; put it into `contents`, or name another program");
    let plain = bench.check("linux/amd64", &[lower, &[("opt/tool", File(b""), "")]], config);
    insta::assert_snapshot!(plain, @"the entrypoint `/opt/tool` cannot be run: `/opt/tool` has the mode 644, without an execute bit; set one, such as with `attributes`");
    assert_eq!(
        bench.check("linux/amd64", &[lower, &[("opt/x", File(b""), "")]], config),
        "sound"
    );
}

#[test]
fn programs_must_be_executable_by_their_user() {
    let bench = Bench::new();
    let program = elf(AMD64, None);
    let layer: &[Entry<'_>] = &[
        ("plain", File(&program), ""),
        ("made", File(&program), r#"{"mode":493}"#),
        ("roots", Program(&program), r#"{"mode":448}"#),
        ("theirs", Program(&program), r#"{"mode":448,"uid":7,"gid":7}"#),
        ("closed", Directory, r#"{"mode":448}"#),
        ("closed/tool", Program(&program), ""),
        ("twin", File(&program), r#"{"hard_link":"made"}"#),
    ];
    let of = |program: &str, user: &str| {
        let config = format!(r#"{{"entrypoint":["{program}"],"user":"{user}"}}"#);
        bench.check("linux/amd64", &[layer], &config)
    };
    for (program, user) in [
        ("/made", "7"),
        ("/roots", "0"),
        ("/theirs", "7"),
        ("/closed/tool", ""),
        ("/twin", "7"),
    ] {
        assert_eq!(of(program, user), "sound", "{program} {user}");
    }
    insta::assert_snapshot!(of("/plain", ""), @"the entrypoint `/plain` cannot be run: `/plain` has the mode 644, without an execute bit; set one, such as with `attributes`");
    insta::assert_snapshot!(of("/roots", "7"), @"the entrypoint `/roots` cannot be run: `/roots` is not for the user 7: `/roots` has the mode 700 and belongs to 0:0; change it with `attributes`");
    insta::assert_snapshot!(of("/theirs", "8"), @"the entrypoint `/theirs` cannot be run: `/theirs` is not for the user 8: `/theirs` has the mode 700 and belongs to 7:7; change it with `attributes`");
    insta::assert_snapshot!(of("/closed/tool", "7"), @"the entrypoint `/closed/tool` cannot be run: `/closed/tool` is not for the user 7: `/closed` has the mode 700 and belongs to 0:0; change it with `attributes`");
}

#[test]
fn programs_are_for_the_platform_and_have_what_loads_them() {
    let bench = Bench::new();
    let (amd64, arm64) = (elf(AMD64, None), elf(ARM64, None));
    let dynamic = elf(AMD64, Some("/lib64/ld.so"));
    let layer: &[Entry<'_>] = &[
        ("amd64", Program(&amd64), ""),
        ("arm64", Program(&arm64), ""),
        ("odd", Program(&elf(2, None)), ""),
        ("dynamic", Program(&dynamic), ""),
        ("script", Program(b"#! /bin/sh -e\necho"), ""),
        ("blanks", Program(b"#! \t/amd64 -x\n"), ""),
        ("windows", Program(b"#!/amd64\r\n"), ""),
        ("through", Program(b"#!/script"), ""),
        ("round", Program(b"#!/round"), ""),
        ("unknown", Program(b"\0asm"), ""),
        ("short", Program(b"\x7fELF"), ""),
    ];
    let on = |platform: &str, program: &str| {
        bench.check(platform, &[layer], &format!(r#"{{"cmd":["{program}"]}}"#))
    };
    for (platform, program) in [
        ("linux/amd64", "/amd64"),
        ("linux/arm64", "/arm64"),
        ("linux/amd64", "/blanks"),
        ("linux/amd64", "/unknown"),
        ("linux/amd64", "/short"),
    ] {
        assert_eq!(on(platform, program), "sound", "{program}");
    }
    insta::assert_snapshot!(on("linux/arm64", "/amd64"), @"the cmd `/amd64` cannot be run: `/amd64` is a program for linux/amd64, and the image is for linux/arm64");
    insta::assert_snapshot!(on("linux/amd64", "/arm64"), @"the cmd `/arm64` cannot be run: `/arm64` is a program for linux/arm64, and the image is for linux/amd64");
    insta::assert_snapshot!(on("linux/amd64", "/odd"), @"the cmd `/odd` cannot be run: `/odd` is a program for another processor (ELF machine 2), and the image is for linux/amd64");
    insta::assert_snapshot!(on("linux/amd64", "/dynamic"), @"the cmd `/dynamic` cannot be run: `/dynamic` needs the dynamic linker `/lib64/ld.so`, which is not in the image; add it, or a program that needs none");
    insta::assert_snapshot!(on("linux/amd64", "/script"), @"the cmd `/script` cannot be run: `/script` is a script for `/bin/sh`, which is not in the image; add it, or a program that needs none");
    insta::assert_snapshot!(on("linux/amd64", "/through"), @"the cmd `/through` cannot be run: `/script` is a script for `/bin/sh`, which is not in the image; add it, or a program that needs none");
    assert_eq!(
        on("linux/amd64", "/windows"),
        "the cmd `/windows` cannot be run: `/windows` is a script for `/amd64\r`, which is not in the image; add it, or a program that needs none"
    );
    insta::assert_snapshot!(on("linux/amd64", "/round"), @"the cmd `/round` cannot be run: `/round` is a script for `/round`, and so on without end");
    insta::assert_snapshot!(on("linux/arm64", "/blanks"), @"the cmd `/blanks` cannot be run: `/amd64` is a program for linux/amd64, and the image is for linux/arm64");
    let linked: &[Entry<'_>] = &[
        ("lib64", Link("usr/lib"), ""),
        ("usr/lib/ld.so", Program(&amd64), ""),
    ];
    assert_eq!(
        bench.check("linux/amd64", &[linked, layer], r#"{"cmd":["/dynamic"]}"#),
        "sound"
    );
}

#[test]
fn users_are_looked_up_in_the_layers() {
    let bench = Bench::new();
    let lower: &[Entry<'_>] = &[
        ("etc/passwd", Link("../usr/passwd"), ""),
        ("usr/passwd", File(b"root:x:0:0::/root:/bin/sh\n"), ""),
    ];
    let upper: &[Entry<'_>] = &[
        (
            "usr/passwd",
            File(b"root:x:0:0::/root:/bin/sh\napp:x:7:7::/:/bin/sh\n"),
            "",
        ),
        ("etc/group", File(b"staff:x:50:\n"), ""),
    ];
    let of = |layers: &[&[Entry<'_>]], user: &str| {
        bench.check("linux/amd64", layers, &format!(r#"{{"user":"{user}"}}"#))
    };
    for user in ["app", "app:staff", "7", "65532:65532", "root", ""] {
        assert_eq!(of(&[lower, upper], user), "sound", "{user}");
    }
    insta::assert_snapshot!(of(&[lower], "app"), @"the user `app` cannot run: the image's /etc/passwd has no user `app`; put the account into the image, such as with `users` of `@skep//debian.star`, or give its number");
    insta::assert_snapshot!(of(&[lower, upper], "app:wheel"), @"the user `app:wheel` cannot run: the image's /etc/group has no group `wheel`; put the account into the image, such as with `users` of `@skep//debian.star`, or give its number");
}

#[test]
fn an_image_holds_something() {
    let bench = Bench::new();
    insta::assert_snapshot!(bench.check("linux/amd64", &[], r#"{"entrypoint":["/api"]}"#), @"the image holds nothing; `contents` must return at least one tree with something in it");
    assert!(bench.check("linux/amd64", &[&[]], "{}").contains("holds nothing"));
}

#[test]
fn no_name_is_taken_for_a_removal() {
    let bench = Bench::new();
    let check = |entries: &[Entry<'_>]| {
        let checked = check_layer(&bench.store, &bench.tree(entries).root);
        checked.map_or_else(|error| error.to_string(), |()| "sound".to_owned())
    };
    assert_eq!(
        check(&[("a.wh.b", File(b""), ""), (".whb/x", File(b""), "")]),
        "sound"
    );
    insta::assert_snapshot!(check(&[("srv/.wh.config", File(b""), "")]), @"a layer cannot hold `srv/.wh.config`: runtimes take a name that begins with `.wh.` for the removal of another file; rename it, or leave it out with `exclude`");
    let all = [
        ("a/.wh..wh..opq", File(b"" as &[u8]), ""),
        ("b/.wh.x/y", File(b""), ""),
        (".wh.z", Link("a"), ""),
        (".wh.", Directory, ""),
    ];
    insta::assert_snapshot!(check(&all), @"a layer cannot hold `.wh.`, `.wh.z`, `a/.wh..wh..opq` and 1 more: runtimes take a name that begins with `.wh.` for the removal of another file; rename it, or leave it out with `exclude`");
}
