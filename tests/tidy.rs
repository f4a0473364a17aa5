//! Rules of the repository itself, checked on its files: floors, sizes, and words that stand only where they may.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

const FILE_LIMIT: usize = 600;
const FUNCTION_LIMIT: usize = 70;

/// What is over a limit, by `path` or `path function`, with its lines. Entries only shrink, and none is added.
const LONGER: &[(&str, usize)] = &[];

/// Words of code, and the only modules and files of `src` that may hold them.
const CONFINED: &[(&[&str], &[&str])] = &[
    (&["unsafe"], &["sandbox"]),
    (&["starlark"], &["recipe"]),
    (
        &["print!", "println!", "eprint!", "eprintln!", "dbg!"],
        &["cli/terminal"],
    ),
    // What the relay writes is for `go`.
    (&["io::stdout"], &["cli/terminal", "gocache/relay"]),
    (&["io::stderr", "ProgressBar"], &["cli/terminal"]),
];

// --- rules ---------------------------------------------------------------------------------------------

#[test]
fn every_module_says_what_it_does() {
    let says = |file: &File| file.text.starts_with("//! ") && !file.text.starts_with("//! \n");
    let files = modules();
    let silent = files.iter().filter(|file| !file.is_test() && !says(file));
    report(silent.map(|file| format!("{} does not begin with `//! ` and a sentence", file.path)));
}

#[test]
fn every_module_stands_on_one_floor() {
    let floors: BTreeSet<_> = floors(&architecture()).unwrap().into_keys().collect();
    let modules: BTreeSet<_> = modules().iter().filter_map(File::module).collect();
    let differing = floors.symmetric_difference(&modules);
    report(differing.map(|name| match modules.contains(name) {
        true => format!("`{name}` is in src, and on no floor"),
        false => format!("`{name}` is on a floor, and not in src"),
    }));
}

#[test]
fn modules_import_from_lower_floors_only() {
    let floors = floors(&architecture()).unwrap();
    let files = modules();
    let product = files.iter().filter(|file| !file.is_test());
    report(product.flat_map(|file| bad_imports(&floors, file)));
}

#[test]
fn files_of_tests_are_compiled_into_tests_only() {
    let mut bad = Vec::new();
    for file in modules() {
        for declaration in without_tests(&file.code).split("mod ").skip(1) {
            let name = first_word(declaration);
            if is_test_name(&name) {
                bad.push(format!("{}: `mod {name}` without `#[cfg(test)]`", file.path));
            }
        }
    }
    report(bad);
}

#[test]
fn confined_words_stay_where_they_may() {
    report(modules().iter().flat_map(misplaced_words));
}

#[test]
fn files_and_functions_are_short() {
    let mut lengths = BTreeMap::new();
    for file in text_files().into_iter().filter(|file| file.path.ends_with(".rs")) {
        for (name, lines) in functions(&file.code) {
            let longest = lengths.entry(format!("{} {name}", file.path)).or_insert(0);
            *longest = lines.max(*longest);
        }
        lengths.insert(file.path, file.text.lines().count());
    }
    report(too_long(&lengths, LONGER));
}

#[test]
fn no_package_registry_and_no_home_directory_is_named() {
    let mut bad = Vec::new();
    for file in text_files() {
        for (at, line) in file.text.lines().enumerate() {
            if names_a_home(line) || hosts(line).any(|host| is_registry(&host)) {
                bad.push(format!("{}:{}: {}", file.path, at + 1, line.trim()));
            }
        }
    }
    report(bad);
}

#[track_caller]
fn report(violations: impl IntoIterator<Item = String>) {
    let violations: Vec<_> = violations.into_iter().collect();
    assert!(violations.is_empty(), "\n{}\n", violations.join("\n"));
}

// --- files ---------------------------------------------------------------------------------------------

struct File {
    /// From the root of the repository.
    path: String,
    text: String,
    /// The text with spaces for comments and literals: in Rust files, what is left is code.
    code: String,
}

impl File {
    fn new(path: &str, text: &str) -> File {
        let rust = path.ends_with(".rs");
        File {
            path: path.to_owned(),
            text: text.to_owned(),
            code: if rust { code_of(text) } else { String::new() },
        }
    }

    /// Where the file stands below the crate's root: `["fetch", "http"]`, and nothing for `lib.rs`.
    fn place(&self) -> Vec<&str> {
        let path = self.path.strip_prefix("src/").unwrap();
        let mut place: Vec<_> = path.trim_end_matches(".rs").split('/').collect();
        place.pop_if(|last| *last == "mod");
        place.retain(|name| *name != "lib");
        place
    }

    /// The module at the crate's root that the file is part of.
    fn module(&self) -> Option<String> {
        self.place().first().map(|name| (*name).to_owned())
    }

    fn is_test(&self) -> bool {
        self.place().iter().any(|name| is_test_name(name))
    }
}

fn is_test_name(name: &str) -> bool {
    matches!(name, "tests" | "testing") || name.ends_with("_tests")
}

/// Every file that git tracks, or would, and that holds text.
fn text_files() -> Vec<File> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = Command::new("git")
        // The tests may run as another user than the one who cloned.
        .args("-c safe.directory=* ls-files -z --cached --others --exclude-standard".split(' '))
        .current_dir(root)
        .output()
        .unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaint}");
    let names = String::from_utf8(output.stdout).unwrap();
    let names: BTreeSet<_> = names.split_terminator('\0').collect();
    let read = |name: &&str| {
        let text = String::from_utf8(std::fs::read(root.join(name)).ok()?).ok()?;
        Some(File::new(name, &text))
    };
    names.iter().filter_map(read).collect()
}

fn modules() -> Vec<File> {
    let mut files = text_files();
    files.retain(|file| file.path.starts_with("src/") && file.path.ends_with(".rs"));
    assert!(files.len() > 10, "the sources are not where they are looked for");
    files
}

fn architecture() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md")).unwrap()
}

// --- floors --------------------------------------------------------------------------------------------

/// A floor, and how far right on it: counted in `<`.
type Rank = (usize, usize);

/// The table under `## Floors`. A row is `NUMBER NAME  MODULE MODULE < MODULE   free text`; the text begins
/// after three spaces. A module may import what ranks lower: other floors' modules, and those before a `<`.
fn floors(text: &str) -> Result<BTreeMap<String, Rank>, String> {
    let (_, section) = text
        .split_once("\n## Floors\n")
        .ok_or("there is no `## Floors`")?;
    let table = section.split("```").nth(1).ok_or("there is no fenced table")?;
    let mut floors = BTreeMap::new();
    // What follows the opening fence is its language.
    for (number, row) in table.trim_end().lines().skip(1).enumerate() {
        let row = row.trim_start();
        let (found, rest) = row.split_once(' ').ok_or("a row is too short")?;
        if found != number.to_string() {
            return Err(format!("floor {number} expected, `{found}` found"));
        }
        let (_, rest) = rest.split_once(' ').ok_or("a row is too short")?;
        let modules = rest.trim_start().split("   ").next().unwrap_or_default();
        let mut step = 0;
        for word in modules.split_whitespace() {
            if word == "<" {
                step += 1;
            } else if floors.insert(word.to_owned(), (number, step)).is_some() {
                return Err(format!("`{word}` is on two floors"));
            }
        }
    }
    Ok(floors)
}

fn bad_imports(floors: &BTreeMap<String, Rank>, file: &File) -> Vec<String> {
    let Some(module) = file.module() else {
        return Vec::new();
    };
    let own = floors.get(&module);
    let mut bad = Vec::new();
    for import in imports(file).into_iter().filter(|import| *import != module) {
        let path = &file.path;
        match (own, floors.get(&import)) {
            (_, None) => bad.push(format!("{path} imports `{import}`, which is on no floor")),
            (Some(own), Some(rank)) if rank >= own => bad.push(format!(
                "{path}: `{module}` imports `{import}`, which is not lower in ARCHITECTURE.md's table"
            )),
            _ => {}
        }
    }
    bad
}

/// The names at the crate's root that code outside of tests refers to.
fn imports(file: &File) -> BTreeSet<String> {
    let code = without_tests(&file.code);
    let place = file.place();
    // The program is a crate of its own.
    let name = if place == ["main"] { "skep::" } else { "crate::" };
    let mut names = BTreeSet::new();
    for root in [name.to_owned(), "super::".repeat(place.len())] {
        for (at, _) in code.match_indices(&root) {
            // Part of a longer name, or of a longer chain of `super`.
            let before = &code[..at];
            if before.ends_with(|c: char| is_word(c) || c == ':') {
                continue;
            }
            names.extend(heads(&code[at + root.len()..]));
        }
    }
    names
}

// --- words, sizes, names -------------------------------------------------------------------------------

fn misplaced_words(file: &File) -> Vec<String> {
    let places = [file.module().unwrap_or_default(), file.place().join("/")];
    let mut bad = Vec::new();
    let elsewhere = |homes: &[&str]| !places.iter().any(|place| homes.contains(&place.as_str()));
    for (words, homes) in CONFINED.iter().filter(|(_, homes)| elsewhere(homes)) {
        let found = words.iter().filter(|word| has_word(&file.code, word));
        bad.extend(found.map(|word| format!("{} holds `{word}`, which only {homes:?} may", file.path)));
    }
    bad
}

fn too_long(lengths: &BTreeMap<String, usize>, longer: &[(&str, usize)]) -> Vec<String> {
    let longer: BTreeMap<_, _> = longer.iter().copied().collect();
    let present = lengths.keys().map(String::as_str);
    let names: BTreeSet<_> = present.chain(longer.keys().copied()).collect();
    let wrong = |name: &str| {
        let lines = lengths.get(name).copied().unwrap_or(0);
        let function = name.contains(' ');
        let limit = if function { FUNCTION_LIMIT } else { FILE_LIMIT };
        match longer.get(name) {
            None if lines > limit => Some(format!("{name} has {lines} lines, and {limit} are the limit")),
            Some(_) if lines <= limit => Some(format!("{name} is within the limit: take it off the list")),
            Some(listed) if lines != *listed => Some(format!(
                "{name} has {lines} lines, and the list says {listed}: it may only shrink"
            )),
            _ => None,
        }
    };
    names.into_iter().filter_map(wrong).collect()
}

fn hosts(text: &str) -> impl Iterator<Item = String> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '.' || c == '-'))
        .map(|word| word.trim_matches(['.', '-']).to_ascii_lowercase())
        .filter(|word| word.contains('.'))
}

/// Whether packages are had from there. Names are taken apart, so that this file names none.
fn is_registry(host: &str) -> bool {
    const OWNERS: &str = "crates io, goproxy cn, goproxy io, npmjs com, npmjs org, pypi org, \
                          pythonhosted org, yarnpkg com";
    const ROLES: &[&str] = &[
        "archive", "deb", "files", "ftp", "index", "mirror", "mirrors", "proxy", "registry", "security",
        "snapshot", "static", "sum",
    ];
    const ENDS: &[&str] = &["com", "dev", "io", "net", "org"];
    let labels: Vec<_> = host.split('.').collect();
    match labels.as_slice() {
        [.., "example", _] => false,
        [.., owner, end] if OWNERS.split(", ").any(|known| known == format!("{owner} {end}")) => true,
        [role, _, .., end] => ROLES.contains(role) && ENDS.contains(end),
        _ => false,
    }
}

/// Whether the line holds a path into someone's home directory.
fn names_a_home(line: &str) -> bool {
    ["home", "root", "Users"].iter().any(|directory| {
        let start = format!("/{directory}/");
        line.match_indices(&start).any(|(at, _)| {
            let before = &line[..at];
            let after = &line[at + start.len()..];
            !before.ends_with(|c: char| is_word(c) || "$}./-".contains(c))
                && after.starts_with(|c: char| is_word(c) || c == '.')
        })
    })
}

// --- Rust, as far as is needed -------------------------------------------------------------------------

/// The text with spaces for comments and for the content of literals; lines stay where they are.
fn code_of(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let in_word = code.ends_with(is_word);
        let length = skipped(rest, in_word);
        let (token, after) = rest.split_at(if length == 0 { c.len_utf8() } else { length });
        if length == 0 {
            code.push(c);
        } else {
            code.extend(token.chars().map(|c| if c == '\n' { c } else { ' ' }));
        }
        rest = after;
    }
    code
}

/// The bytes of the comment or literal that the text begins with, or 0.
fn skipped(text: &str, in_word: bool) -> usize {
    let end_after = |start: usize, end: &str| {
        let found = text[start..].find(end);
        found.map_or(text.len(), |at| start + at + end.len())
    };
    if text.starts_with("//") {
        return text.find('\n').unwrap_or(text.len());
    }
    if text.starts_with("/*") {
        return end_after(2, "*/"); // Nested ones are not understood.
    }
    if text.starts_with('"') {
        return escaped(text, '"');
    }
    if let Some(rest) = text.strip_prefix('\'') {
        let mut chars = rest.chars();
        return match (chars.next(), chars.next()) {
            (Some('\\'), _) => escaped(text, '\''),
            (Some(c), Some('\'')) => c.len_utf8() + 2,
            _ => 0, // a lifetime
        };
    }
    let raw = |prefix: &&&str| !in_word && text.starts_with(**prefix);
    if let Some(prefix) = ["r", "br", "cr"].iter().find(raw) {
        let rest = &text[prefix.len()..];
        let hashes = rest.len() - rest.trim_start_matches('#').len();
        if rest[hashes..].starts_with('"') {
            return end_after(prefix.len() + hashes + 1, &format!("\"{}", "#".repeat(hashes)));
        }
    }
    0
}

/// The bytes of a literal that ends with the quote it begins with, unless a backslash stands before that.
fn escaped(text: &str, quote: char) -> usize {
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        if c == quote {
            return at + 1;
        }
        if c == '\\' {
            chars.next();
        }
    }
    text.len()
}

/// Where the item that the code begins with ends: after its `;`, or after its body's `}`.
fn end_of_item(code: &str) -> usize {
    let (mut brackets, mut braces) = (0, 0);
    for (at, c) in code.char_indices() {
        match c {
            '(' | '[' => brackets += 1,
            ')' | ']' => brackets -= 1,
            '{' => braces += 1,
            '}' if braces <= 1 => return at + 1,
            '}' => braces -= 1,
            ';' if brackets == 0 && braces == 0 => return at + 1,
            _ => {}
        }
    }
    code.len()
}

/// The code without the items that only tests are compiled with.
fn without_tests(code: &str) -> String {
    const ATTRIBUTE: &str = "#[cfg(test)]";
    let (mut product, mut rest) = (String::new(), code);
    while let Some(at) = rest.find(ATTRIBUTE) {
        product.push_str(&rest[..at]);
        let item = &rest[at + ATTRIBUTE.len()..];
        rest = &item[end_of_item(item)..];
    }
    product + rest
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn has_word(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| {
        let after = &code[at + word.len()..];
        !code[..at].ends_with(is_word) && (word.ends_with('!') || !after.starts_with(is_word))
    })
}

fn first_word(text: &str) -> String {
    text.trim_start().chars().take_while(|c| is_word(*c)).collect()
}

/// The first names of what a path goes on with: one, or those of a list in braces.
fn heads(rest: &str) -> Vec<String> {
    let Some(list) = rest.strip_prefix('{') else {
        return vec![first_word(rest)];
    };
    let (mut depth, mut start, mut heads) = (0, 0, Vec::new());
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                heads.push(first_word(&list[start..at]));
                start = at + 1;
            }
            _ => {}
        }
        if c == '}' && start == at + 1 {
            break;
        }
    }
    heads.retain(|head| !head.is_empty());
    heads
}

/// Every function with a body, and its lines. What `#[starlark_module]` stands on is only written as one.
fn functions(code: &str) -> Vec<(String, usize)> {
    let starts = code
        .match_indices("fn ")
        .filter(|(at, _)| !code[..*at].ends_with(is_word))
        .filter(|(at, _)| {
            let line = code[..*at].trim_end_matches(|letter| letter != '\n').trim_end();
            !line.ends_with("#[starlark_module]")
        });
    let function = |(at, _): (usize, &str)| {
        let name = first_word(&code[at + 3..]);
        let end = at + end_of_item(&code[at..]);
        let has_body = code[..end].ends_with('}');
        has_body.then(|| (name, code[at..end].lines().count()))
    };
    starts.filter_map(function).collect()
}

// --- the rules themselves ------------------------------------------------------------------------------

const TABLE: &str =
    "# A\n\n## Floors\n\n```text\n0 words  a < b   no plan\n1 hands       c d         e\n```\n";

#[test]
fn a_table_is_read() {
    let read = floors(TABLE).unwrap();
    let ranks: Vec<_> = read.iter().map(|(name, rank)| (name.as_str(), *rank)).collect();
    let expected = [("a", (0, 0)), ("b", (0, 1)), ("c", (1, 0)), ("d", (1, 0))];
    assert_eq!(ranks, expected);
    assert!(floors(&TABLE.replace("c d", "c a")).is_err());
    assert!(floors(&TABLE.replace("1 hands", "2 hands")).is_err());
}

#[test]
fn imports_upwards_and_sideways_are_found() {
    let floors = floors(TABLE).unwrap();
    for (path, text, bad) in [
        ("src/c.rs", "use crate::{a, b::X};", 0),
        ("src/b.rs", "use crate::a;", 0),
        ("src/a.rs", "use crate::b;", 1),
        ("src/c/x.rs", "fn f() { crate::d::g() }", 1),
        ("src/c/x.rs", "use super::super::d;", 1),
        ("src/c/x.rs", "use super::d;", 0),
        ("src/c/mod.rs", "use super::{a, d};", 1),
        ("src/c.rs", "#[cfg(test)] mod t { use crate::d; }", 0),
        ("src/c.rs", "use crate::{a::{d, x}, b};", 0),
        ("src/c.rs", "use crate::{a::{x},\n    d as e};", 1),
        ("src/c.rs", "use crate::absent;", 1),
        ("src/lib.rs", "pub mod d;", 0),
    ] {
        let found = bad_imports(&floors, &File::new(path, text));
        assert_eq!(found.len(), bad, "{path}: {text}: {found:?}");
    }
}

#[test]
fn a_confined_word_is_found() {
    let misplaced = |path, text| misplaced_words(&File::new(path, text)).len();
    assert_eq!(misplaced("src/a.rs", "fn f() { unsafe { println!() } }"), 2);
    assert_eq!(misplaced("src/a.rs", "unsafe_code; not_unsafe"), 0);
    assert_eq!(misplaced("src/sandbox/sys.rs", "unsafe {}"), 0);
    assert_eq!(misplaced("src/cli/build.rs", "println!(); std::io::stderr()"), 2);
    assert_eq!(misplaced("src/cli/terminal.rs", "println!(); stdio::stdout()"), 0);
    assert_eq!(misplaced("src/cli.rs", "use starlark::x;"), 1);
}

#[test]
fn the_list_of_what_is_longer_only_shrinks() {
    let lengths = [("a.rs", 601), ("a.rs f", 71), ("b.rs", 600)];
    let lengths = BTreeMap::from(lengths.map(|(name, lines)| (name.to_owned(), lines)));
    let found = |longer| too_long(&lengths, longer).len();
    assert_eq!(found(&[]), 2);
    assert_eq!(found(&[("a.rs", 601), ("a.rs f", 71)]), 0);
    assert_eq!(found(&[("a.rs", 602), ("a.rs f", 70)]), 2);
    assert_eq!(
        found(&[("a.rs", 601), ("a.rs f", 71), ("b.rs", 600), ("gone", 700)]),
        2
    );
}

#[test]
fn registries_are_known_by_their_names() {
    for labels in ["static crates io", "pypi org", "ftp xy debian org"] {
        let text = format!("see https://{}/x.", labels.replace(' ', "."));
        assert!(hosts(&text).any(|host| is_registry(&host)), "{text}");
    }
    for text in "registry.example.com golang.org/x registry.rs 127.0.0.1".split(' ') {
        assert!(!hosts(text).any(|host| is_registry(&host)), "{text}");
    }
}

#[test]
fn home_directories_are_known() {
    let found = |path: &str| names_a_home(&format!("in /{path}"));
    assert!(
        ["home me", "root .cargo"]
            .iter()
            .all(|path| found(&path.replace(' ', "/")))
    );
    assert!(
        !["root", "root ", "homes me", "x home me"]
            .iter()
            .any(|path| found(&path.replace(' ', "/")))
    );
}

#[test]
fn comments_and_literals_are_no_code() {
    for (text, code) in [
        ("a // b\nc", "a\nc"),
        ("a /* b\n c */ e", "a e"),
        (r#"f("x \" unsafe", 'y', '\'', b"z")"#, "f( , , , b )"),
        (r##"f(r#"a " b"#, br"\", g)"##, "f( , , g)"),
        ("fn f<'a>(x: &'a str) {}", "fn f<'a>(x: &'a str) {}"),
        ("for r in r#type {}", "for r in r#type {}"),
    ] {
        let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(words(&code_of(text)), words(code), "{text}");
        assert_eq!(code_of(text).lines().count(), text.lines().count());
    }
}

#[test]
fn items_of_tests_are_no_product() {
    let code = "use a;\n#[cfg(test)]\n#[path = x]\nmod tests;\nfn f() {}\n#[cfg(test)]\nmod t { fn g() { {} } }\nfn h() {}";
    let product = without_tests(code);
    let left: Vec<_> = functions(&product).into_iter().map(|(name, _)| name).collect();
    assert_eq!(left, ["f", "h"]);
    assert!(!product.contains("mod"), "{product}");
}

#[test]
fn functions_have_names_and_lengths() {
    let code = "trait T { fn a(); fn b() -> [u8; 2] {\n  { x; }\n} }\nfn c<const N: usize>(f: fn(u8)) {}";
    assert_eq!(functions(code), [("b".to_owned(), 3), ("c".to_owned(), 1)]);
    let module = "#[starlark_module]\npub fn primitives() {\n    fn a() {}\n}\n";
    assert_eq!(functions(module), [("a".to_owned(), 1)]);
}
