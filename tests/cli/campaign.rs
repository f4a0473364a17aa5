//! A damage campaign: files of a store are removed, cut, flipped and replaced at random, something is edited, and
//! one command has to end right, as on a store that nothing happened to.
//!
//! `SKEP_DAMAGE_ROUNDS` is how many rounds there are, 100 by default. Ten of them share a store, whose life follows
//! from one number alone: `SKEP_DAMAGE_SEED` is that of the first, and a failure prints the one that repeats it.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use skep_test_support::{Random, has_busybox};

use super::bench::Bench;

const ROUNDS: u64 = 100;
/// Rounds of one store.
const LIFE: u64 = 10;
/// Contents of the source that images are made of; what they should be is found out first.
const EDITS: usize = 4;

/// Sources in directories, a source that only makes actions run again, trees with links and executables, and two
/// layers over what actions made.
const RECIPE: &str = r##"
sources = source(["src/**"])
tick = source(["tick"])
tool = """#!/bin/busybox sh
cat /in/made/copy
"""
made = sh(
    "mkdir -p /out/made/deep; cat $(find /in/src -type f | sort) > /out/made/copy; cp -r /in/src /out/made/deep; " +
    "ln -s copy /out/made/link; printf '%s' '" + tool + "' > /out/tool; chmod 755 /out/tool",
    [sources], "made")
again = sh("cat $(find /in -type f | sort | grep -v tick) > /out/again; /in/tool >> /out/again", [sources, made, tick], "again")
single("api", made, again)
"##;

fn bench() -> Bench {
    let bench = Bench::with_busybox(RECIPE);
    for name in ["one", "two", "below/three", "below/deeper/four"] {
        bench.write(&format!("src/{name}"), &format!("content of {name}\n"));
    }
    bench.write("tick", "0\n");
    bench
}

fn edit(bench: &Bench, edit: usize) {
    bench.write("src/below/three", &format!("edited {edit}\n"));
}

/// Every path below `directory`, in the order of their names.
pub fn paths_below(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut entries: Vec<PathBuf> = fs::read_dir(directory)
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    entries.sort();
    for path in entries {
        found.push(path.clone());
        if path.is_dir() && !path.is_symlink() {
            found.extend(paths_below(&path));
        }
    }
    found
}

fn remove(path: &Path) {
    match fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir()) {
        true => fs::remove_dir_all(path).unwrap(),
        false => fs::remove_file(path).unwrap(),
    }
}

/// Does something bad to something in the store, and says what and to which.
fn damage(store: &Path, random: &mut Random) -> String {
    const AREAS: [&str; 7] = ["blobs", "trees", "exec", "actions", "shapes", "notes", ""];
    let paths = loop {
        let area = AREAS[random.below(AREAS.len())];
        let paths = match area {
            // Everything, so that whole areas go as well.
            "" => paths_below(store),
            area => paths_below(&store.join(area)),
        };
        if !paths.is_empty() {
            break paths;
        }
    };
    let path = &paths[random.below(paths.len())];
    let other = &paths[random.below(paths.len())];
    let is_file = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_file());
    let size = fs::metadata(path).map_or(0, |metadata| metadata.len());
    let what = match random.below(8) {
        0 | 1 => "removed",
        2 if is_file => {
            let file = fs::OpenOptions::new().write(true).open(path).unwrap();
            file.set_len(random.below(size as usize) as u64).unwrap();
            "cut"
        }
        // A flipped bit may make `FORMAT` that of a version to come.
        3 | 4 if is_file && size > 0 && !path.ends_with("FORMAT") => {
            let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
            let (at, mut byte) = (random.below(size as usize) as u64, [0]);
            file.read_exact_at(&mut byte, at).unwrap();
            byte[0] ^= 1 << random.below(8);
            file.write_all_at(&byte, at).unwrap();
            "flipped"
        }
        5 => {
            let content = fs::read(other).unwrap_or_default();
            remove(path);
            fs::write(path, content).unwrap();
            "replaced by another file"
        }
        6 => {
            remove(path);
            fs::create_dir(path).unwrap();
            "replaced by a directory"
        }
        7 => {
            remove(path);
            std::os::unix::fs::symlink("nowhere/at/all", path).unwrap();
            "replaced by a link"
        }
        _ => {
            let noise: Vec<u8> = (0..size.min(100)).map(|_| random.byte()).collect();
            remove(path);
            fs::write(path, noise).unwrap();
            "replaced by noise"
        }
    };
    if what == "removed" {
        remove(path);
    }
    format!("{} {what}", path.strip_prefix(store).unwrap().display())
}

/// The index of an exported layout, which names all of it by digest.
fn exported(bench: &Bench, name: &str) -> (skep_test_support::Ran, Vec<u8>) {
    let to = bench.beside(name);
    let ran = bench.skep(&["export", "api", &format!("oci:{}", to.display())]);
    let index = fs::read(to.join("index.json")).unwrap_or_default();
    let _ = fs::remove_dir_all(to);
    (ran, index)
}

#[test]
fn whatever_is_damaged_one_command_ends_right() {
    if !has_busybox() {
        return;
    }
    let variable = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let rounds = variable("SKEP_DAMAGE_ROUNDS").unwrap_or(ROUNDS);
    let first = variable("SKEP_DAMAGE_SEED").unwrap_or_else(|| u64::from(std::process::id()) << 20);
    let clean = bench();
    let expected: Vec<(String, Vec<u8>)> = (0..EDITS)
        .map(|n| {
            edit(&clean, n);
            (clean.succeed(&["build"]), exported(&clean, "layout").1)
        })
        .collect();
    let lives = rounds.div_ceil(LIFE);
    for life in 0..lives {
        let seed = first + life;
        live(seed, LIFE.min(rounds - life * LIFE), &expected);
    }
}

fn live(seed: u64, rounds: u64, expected: &[(String, Vec<u8>)]) {
    let mut random = Random::new(seed);
    random.byte();
    let bench = bench();
    let mut edited = 0;
    edit(&bench, edited);
    bench.succeed(&["build"]);
    for round in 0..rounds {
        let done: Vec<String> = (0..1 + random.below(3))
            .map(|_| damage(&bench.store(), &mut random))
            .collect();
        let repeat = format!("round {round} of SKEP_DAMAGE_SEED={seed}: {}", done.join(", "));
        // Most edits run an action again whose output stays the same.
        bench.write("tick", &format!("{}\n", 1 + round));
        if random.below(3) == 0 {
            edited = random.below(EDITS);
            edit(&bench, edited);
        }
        let (digest, index) = &expected[edited];
        match random.below(3) {
            0 => {
                let (ran, exported) = exported(&bench, "layout");
                assert_eq!(ran.code, 0, "{repeat}: {}", ran.stderr);
                assert!(exported == *index, "{repeat}: another layout");
            }
            _ => {
                let ran = bench.skep(&["build"]);
                assert_eq!((ran.code, &ran.stdout), (0, digest), "{repeat}: {}", ran.stderr);
            }
        }
    }
    // Damage that nothing asked for is still there, and is found by who looks for it.
    let looked = bench.skep(&["fsck"]);
    assert!([0, 4].contains(&looked.code), "seed {seed}: {}", looked.stderr);
    let (digest, index) = &expected[edited];
    assert_eq!(&bench.succeed(&["build"]), digest, "seed {seed}");
    assert!(exported(&bench, "layout").1 == *index, "seed {seed}");
    let again = bench.skep(&["fsck"]);
    assert_eq!(again.code, 0, "seed {seed}: {}{}", again.stdout, again.stderr);
}
