//! Whether an image can run: what engines would only say when it is deployed. Changes nothing, and looks at
//! directories, at accounts and at the first bytes of the program, never at the rest.

use std::io::Read as _;

use super::view::{Found, View};
use super::{Error, layers_of};
use crate::container::candidates;
use crate::digest::Digest;
use crate::image::account::{self, Account};
use crate::plan::{Config, ImageSpec};
use crate::platform::{Arch, Platform};
use crate::store::Store;
use crate::tree::{Node, TreePath, ops};

/// The longest passwd or group file that is looked into, in bytes.
const MAX_ACCOUNTS: u64 = 1 << 20;

/// As much of a program is read: its headers, and the path of its dynamic linker, which linkers put at the front.
const HEADER: u64 = 64 << 10;

/// Scripts whose interpreter is a script, and so on (`execve(2)`).
const MAX_INTERPRETERS: usize = 4;

/// Problems of one kind that are shown.
const SHOWN: usize = 3;

/// Refuses a layer with a name that every runtime takes for a removal (OCI image specification 1.1, "Whiteouts").
/// `root` is the tree that it is made of.
pub fn check_layer(store: &Store, root: &Digest) -> Result<(), Error> {
    let mut wrong: Vec<TreePath> = Vec::new();
    ops::walk(store, root, &mut |path, _| {
        let name = path.names().last().map(crate::tree::Name::as_str);
        if name.is_some_and(|name| name.starts_with(".wh.")) {
            wrong.push(path.clone());
        }
    })?;
    if wrong.is_empty() {
        return Ok(());
    }
    let shown: Vec<String> = wrong.iter().take(SHOWN).map(|path| format!("`{path}`")).collect();
    let more = match wrong.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Err(Error::Unfit(format!(
        "a layer cannot hold {}{more}: runtimes take a name that begins with `.wh.` for the removal of another file; \
         rename it, or leave it out with `exclude`",
        shown.join(", ")
    )))
}

/// Refuses an image that no engine can run. `inputs` holds its layers as the builtin `image/1` has them.
pub fn check_image(store: &Store, inputs: &Digest, image: &ImageSpec) -> Result<(), Error> {
    let view = View::new(store, &layers_of(store, inputs)?)?;
    if view.is_empty() {
        return Err(Error::Unfit(
            "the image holds nothing; `contents` must return at least one tree with something in it"
                .to_owned(),
        ));
    }
    let check = Check {
        store,
        view,
        platform: image.platform,
        config: &image.config,
    };
    let problems = check.problems()?;
    match problems.is_empty() {
        true => Ok(()),
        false => Err(Error::Unfit(problems.join("\n  "))),
    }
}

struct Check<'a> {
    store: &'a Store,
    view: View<'a>,
    platform: Platform,
    config: &'a Config,
}

impl Check<'_> {
    fn problems(&self) -> Result<Vec<String>, Error> {
        let mut problems = Vec::new();
        for (field, path) in self
            .config
            .workdir
            .iter()
            .map(|path| ("workdir", path))
            .chain(self.config.volumes.iter().map(|path| ("volume", path)))
        {
            let found = self.view.find(path, "/")?;
            if found.is_some_and(|found| !matches!(found.node, Node::Directory(_))) {
                problems.push(format!(
                    "the {field} `{path}` is a file of the image; it must be a directory"
                ));
            }
        }
        let account = match self.config.user.as_deref().filter(|user| !user.is_empty()) {
            None => None,
            Some(user) => match self.account(user)? {
                Ok(account) => Some(account),
                Err(reason) => {
                    problems.push(format!(
                        "the user `{user}` cannot run: {reason}; put the account into the image, such as with `users` of \
                         `@skep//debian.star`, or give its number"
                    ));
                    None
                }
            },
        };
        let (field, argv) = match self.config.entrypoint.is_empty() {
            true => ("cmd", &self.config.cmd),
            false => ("entrypoint", &self.config.entrypoint),
        };
        if let Some(program) = argv.first() {
            problems.extend(self.program(field, program, account.as_ref())?);
        }
        Ok(problems)
    }

    fn account(&self, wanted: &str) -> Result<Result<Account, String>, Error> {
        let text = |path: &str| -> Result<String, Error> {
            match self.view.find(path, "/")?.map(|found| found.node) {
                Some(Node::File { digest, .. }) if digest.size() <= MAX_ACCOUNTS => {
                    Ok(String::from_utf8_lossy(&self.store.read(&digest)?).into_owned())
                }
                _ => Ok(String::new()),
            }
        };
        Ok(account::resolve(
            &text("/etc/passwd")?,
            &text("/etc/group")?,
            wanted,
        ))
    }

    /// What is wrong with the program that the image starts.
    fn program(
        &self,
        field: &str,
        program: &str,
        account: Option<&Account>,
    ) -> Result<Option<String>, Error> {
        let cwd = self.config.workdir.as_deref().unwrap_or("/");
        let path = self.config.env.get("PATH");
        let env: Vec<(String, String)> = path
            .map(|path| ("PATH".to_owned(), path.clone()))
            .into_iter()
            .collect();
        let tried = candidates(program, &env);
        let mut reason = None;
        for candidate in &tried {
            let Some(found) = self.view.find(candidate, cwd)? else {
                continue;
            };
            match may_not_run(&found, account) {
                Some(why) => {
                    reason.get_or_insert(format!(
                        "the {field} `{program}` cannot be run: `/{}` {why}",
                        found.path
                    ));
                }
                None => {
                    let wrong = self.content(&found, 0)?;
                    return Ok(wrong.map(|wrong| format!("the {field} `{program}` cannot be run: {wrong}")));
                }
            }
        }
        Ok(Some(reason.unwrap_or_else(|| match &tried[..] {
            [path] => format!("the {field} `{path}` is not in the image; put it into `contents`, or name another program"),
            _ => format!(
                "the {field} `{program}` is in no directory of PATH ({}); put it into `contents`, or name it by its path",
                path.map_or("the default one", String::as_str)
            ),
        })))
    }

    /// What is wrong with the bytes of a program: made for another processor, or without what starts it.
    fn content(&self, found: &Found, depth: usize) -> Result<Option<String>, Error> {
        let Node::File { digest, .. } = &found.node else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        let mut reader = self.store.reader(digest)?;
        let read = (&mut reader).take(HEADER).read_to_end(&mut bytes);
        read.map_err(|error| Error::Store(reader.error(error)))?;
        let path = format!("/{}", found.path);
        if let Some(line) = bytes.strip_prefix(b"#!") {
            let Some(interpreter) = interpreter(line) else {
                return Ok(None);
            };
            return self.interpreter(&path, "is a script for", &interpreter, depth);
        }
        if let Some(machine) = machine(&bytes)
            && !runs_on(machine, self.platform.arch)
        {
            return Ok(Some(format!(
                "`{path}` is a program for {}, and the image is for {}",
                machine_name(machine),
                self.platform
            )));
        }
        match dynamic_linker(&bytes) {
            Some(linker) => self.interpreter(&path, "needs the dynamic linker", &linker, depth),
            None => Ok(None),
        }
    }

    fn interpreter(
        &self,
        path: &str,
        does: &str,
        wanted: &str,
        depth: usize,
    ) -> Result<Option<String>, Error> {
        if depth == MAX_INTERPRETERS {
            return Ok(Some(format!("`{path}` {does} `{wanted}`, and so on without end")));
        }
        let cwd = self.config.workdir.as_deref().unwrap_or("/");
        match self.view.find(wanted, cwd)? {
            None => Ok(Some(format!(
                "`{path}` {does} `{wanted}`, which is not in the image; add it, or a program that needs none"
            ))),
            Some(found) => match may_not_run(&found, None) {
                Some(why) => Ok(Some(format!("`{path}` {does} `{wanted}`, which {why}"))),
                None => self.content(&found, depth + 1),
            },
        }
    }
}

/// Why `account` (root if there is none) may not execute what was found.
fn may_not_run(found: &Found, account: Option<&Account>) -> Option<String> {
    if !matches!(found.node, Node::File { .. }) {
        return Some("is a directory".to_owned());
    }
    if found.mode & 0o111 == 0 {
        return Some(format!(
            "has the mode {:o}, without an execute bit; set one, such as with `attributes`",
            found.mode
        ));
    }
    let account = account.filter(|account| account.uid != 0)?;
    // Groups beyond the first are the engine's to find: a bit for the group counts.
    let may = |mode: u32, uid: u32| match uid == account.uid {
        true => mode & 0o100 != 0,
        false => mode & 0o011 != 0,
    };
    let own = (found.path.clone(), found.mode, found.uid, found.gid);
    let (path, mode, uid, gid) = found
        .above
        .iter()
        .chain([&own])
        .find(|(_, mode, uid, _)| !may(*mode, *uid))?;
    Some(format!(
        "is not for the user {}: `/{path}` has the mode {mode:o} and belongs to {uid}:{gid}; change it with `attributes`",
        account.uid
    ))
}

/// The interpreter that a script's first line, without `#!`, names.
fn interpreter(line: &[u8]) -> Option<String> {
    let line = line.split(|byte| *byte == b'\n').next()?;
    let word = line
        .split(|byte| matches!(byte, b' ' | b'\t'))
        .find(|word| !word.is_empty())?;
    String::from_utf8(word.to_vec()).ok()
}

/// Machines of the ELF specification's `e_machine`.
const MACHINES: [(u16, &str); 8] = [
    (3, "linux/386"),
    (8, "mips"),
    (21, "linux/ppc64le"),
    (22, "linux/s390x"),
    (40, "linux/arm"),
    (62, "linux/amd64"),
    (183, "linux/arm64"),
    (243, "linux/riscv64"),
];

fn machine_name(machine: u16) -> String {
    let known = MACHINES.iter().find(|(number, _)| *number == machine);
    known.map_or_else(
        || format!("another processor (ELF machine {machine})"),
        |(_, name)| (*name).to_owned(),
    )
}

/// Whether a kernel for `arch` runs programs for `machine`; of 32-bit ones, both may.
fn runs_on(machine: u16, arch: Arch) -> bool {
    match arch {
        Arch::Amd64 => matches!(machine, 62 | 3),
        Arch::Arm64 => matches!(machine, 183 | 40),
    }
}

const ELF: [u8; 4] = *b"\x7fELF";

/// `e_machine` of an ELF file; `None` for what is none. Every machine that is known here is little-endian or has
/// another number.
fn machine(bytes: &[u8]) -> Option<u16> {
    let field = bytes.get(18..20).filter(|_| bytes.starts_with(&ELF))?;
    let field = [field[0], field[1]];
    Some(match bytes[5] {
        2 => u16::from_be_bytes(field),
        _ => u16::from_le_bytes(field),
    })
}

/// The path in the `PT_INTERP` segment of a 64-bit little-endian ELF file, if `bytes` reach so far.
fn dynamic_linker(bytes: &[u8]) -> Option<String> {
    const PT_INTERP: u64 = 3;
    if !bytes.starts_with(&[&ELF[..], &[2, 1]].concat()) {
        return None;
    }
    let number = |at: usize, width: usize| -> Option<u64> {
        let mut wide = [0; 8];
        wide[..width].copy_from_slice(bytes.get(at..at.checked_add(width)?)?);
        Some(u64::from_le_bytes(wide))
    };
    let (table, width, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
    for entry in 0..count {
        let at = usize::try_from(table.checked_add(entry * width)?).ok()?;
        if number(at, 4)? == PT_INTERP {
            let (start, length) = (number(at.checked_add(8)?, 8)?, number(at.checked_add(32)?, 8)?);
            let (start, length) = (usize::try_from(start).ok()?, usize::try_from(length).ok()?);
            let path = bytes.get(start..start.checked_add(length)?)?;
            let path = path.split(|byte| *byte == 0).next()?;
            return String::from_utf8(path.to_vec()).ok();
        }
    }
    None
}
