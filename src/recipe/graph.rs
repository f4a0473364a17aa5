//! Primitives that add sources, fetches, actions and trees to the plan.

#![expect(
    clippy::too_many_arguments,
    reason = "the arguments of a primitive are those that recipes name"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use starlark::environment::GlobalsBuilder;
use starlark::eval::Evaluator;
use starlark::starlark_module;
use starlark::values::dict::UnpackDictEntries;
use starlark::values::list::ListRef;
use starlark::values::list_or_tuple::UnpackListOrTuple;
use starlark::values::none::NoneOr;
use starlark::values::tuple::{TupleRef, UnpackTuple};
use starlark::values::{Value, ValueLike as _};

use super::context::Context;
use super::value::{SecretValue, TreeValue};
use crate::action::Limits;
use crate::plan::{Archive, Fetch, Node, NodeId, Run, Secret, Source, TreeExpr, Unpack};
use crate::tree::{Name, TreePath};

type Strings = UnpackListOrTuple<String>;

#[starlark_module]
pub(super) fn primitives(builder: &mut GlobalsBuilder) {
    /// The project's files that match a pattern of `include` and none of `exclude`, by their paths from
    /// `root`. At least one file must match each pattern of `include`.
    fn source<'v>(
        include: Strings,
        #[starlark(require = named, default = Strings::default())] exclude: Strings,
        #[starlark(require = named, default = "")] root: &str,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> anyhow::Result<TreeValue> {
        let node = Node::Source(Source {
            root: root.parse()?,
            include: patterns(include)?,
            exclude: patterns(exclude)?,
        });
        Ok(TreeValue(Context::of(eval).add(node)))
    }

    /// A tree with the one file `name`, whose bytes are pinned by `integrity`.
    fn fetch_file<'v>(
        #[starlark(require = named)] sources: Strings,
        #[starlark(require = named)] integrity: &str,
        #[starlark(require = named)] name: &str,
        #[starlark(require = named, default = false)] executable: bool,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> anyhow::Result<TreeValue> {
        let unpack = Unpack::File {
            name: Name::new(name)?,
            executable,
        };
        fetch(eval, sources, integrity, unpack)
    }

    /// What a `zip`, `tar` or `deb` archive holds, pinned by `integrity`. `strip` leading components of its
    /// paths are dropped; files that match `executable` can be executed whatever the archive says.
    fn fetch_archive<'v>(
        #[starlark(require = named)] sources: Strings,
        #[starlark(require = named)] integrity: &str,
        #[starlark(require = named)] format: &str,
        #[starlark(require = named, default = 0)] strip: u32,
        #[starlark(require = named, default = Strings::default())] executable: Strings,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> anyhow::Result<TreeValue> {
        let formats = [Archive::Zip, Archive::Tar, Archive::Deb];
        let found = formats.into_iter().find(|known| known.as_str() == format);
        let unpack = Unpack::Archive {
            format: found.ok_or_else(|| {
                anyhow::anyhow!("`{format}` is not an archive format: expected `zip`, `tar` or `deb`")
            })?,
            strip,
            executable: patterns(executable)?,
        };
        fetch(eval, sources, integrity, unpack)
    }

    /// Runs the program `argv[0]` in a sandbox that holds `inputs` (trees, or lists of trees that merge, by
    /// where they are mounted) and nothing else. Its value holds each directory of `outputs` at its path.
    /// `compile_cache` is where the inputs have a Go distribution, which then finds what it compiled before.
    fn action<'v>(
        mnemonic: &str,
        #[starlark(require = named)] argv: Strings,
        #[starlark(require = named)] inputs: UnpackDictEntries<String, Value<'v>>,
        #[starlark(require = named)] outputs: Strings,
        #[starlark(require = named, default = UnpackDictEntries::default())] env: UnpackDictEntries<
            String,
            String,
        >,
        #[starlark(require = named, default = "/")] cwd: &str,
        #[starlark(require = named, default = Strings::default())] writable: Strings,
        #[starlark(require = named, default = UnpackDictEntries::default())] secrets: UnpackDictEntries<
            String,
            &'v SecretValue,
        >,
        #[starlark(require = named, default = NoneOr::None)] compile_cache: NoneOr<&str>,
        #[starlark(require = named, default = NoneOr::None)] timeout_seconds: NoneOr<u32>,
        #[starlark(require = named, default = NoneOr::None)] max_output: NoneOr<i64>,
        #[starlark(require = named, default = NoneOr::None)] max_entries: NoneOr<i64>,
        #[starlark(require = named, default = NoneOr::None)] memory: NoneOr<i64>,
        #[starlark(require = named, default = NoneOr::None)] disk: NoneOr<i64>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> anyhow::Result<TreeValue> {
        let mut limits = Limits::default();
        if let NoneOr::Other(seconds) = timeout_seconds {
            anyhow::ensure!(seconds > 0, "`timeout_seconds` is 0; an action needs some time");
            limits.timeout = Duration::from_secs(seconds.into());
        }
        limits.max_output = bound("max_output", max_output, 0)?.unwrap_or(limits.max_output);
        limits.max_entries = bound("max_entries", max_entries, 0)?.unwrap_or(limits.max_entries);
        limits.memory = bound("memory", memory, MIN_MEMORY)?;
        limits.disk = bound("disk", disk, 0)?;
        let run = Run {
            mnemonic: word(mnemonic)?,
            argv: program(argv.items)?,
            env: environment(env.entries)?,
            cwd: cwd.parse()?,
            inputs: placed(inputs.entries)?,
            outputs: paths(outputs.items)?,
            writable: paths(writable.items)?,
            secrets: secret_files(secrets.entries)?,
            compile_cache: compile_cache.into_option().map(below_root).transpose()?,
            limits,
        };
        check_layout(&run)?;
        Ok(TreeValue(Context::of(eval).add(Node::Run(Box::new(run)))))
    }

    /// All entries of all trees. What two have at one path must be equal, or both directories.
    fn merge<'v>(
        #[starlark(args)] trees: UnpackTuple<&'v TreeValue>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> anyhow::Result<TreeValue> {
        let trees = trees.items.iter().map(|tree| tree.0).collect();
        Ok(TreeValue(Context::of(eval).add_expr(TreeExpr::Merge(trees))))
    }

    /// A tree with one file that holds `content`.
    fn file<'v>(
        at: &str,
        content: &str,
        #[starlark(require = named, default = false)] executable: bool,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> anyhow::Result<TreeValue> {
        let expr = TreeExpr::File {
            at: below_root(at)?,
            content: content.to_owned(),
            executable,
        };
        Ok(TreeValue(Context::of(eval).add_expr(expr)))
    }

    /// A tree with one symlink, whose target is relative and stays inside the tree.
    fn link<'v>(at: &str, target: &str, eval: &mut Evaluator<'v, '_, '_>) -> anyhow::Result<TreeValue> {
        let at = below_root(at)?;
        anyhow::ensure!(
            crate::tree::link_stays_inside(&at, target),
            "the symlink `{at}` -> `{target}` leaves the tree; its target must be relative and stay inside"
        );
        anyhow::ensure!(
            !crate::tree::is_indirect(target),
            "the symlink `{at}` -> `{target}` goes up behind a name, and what that means depends on the tree that it \
             becomes a part of; write `{}`",
            crate::tree::link_inside(&at, target)
        );
        let target = target.to_owned();
        Ok(TreeValue(
            Context::of(eval).add_expr(TreeExpr::Link { at, target }),
        ))
    }

    /// A tree with one empty directory.
    fn directory<'v>(at: &str, eval: &mut Evaluator<'v, '_, '_>) -> anyhow::Result<TreeValue> {
        let expr = TreeExpr::Directory { at: at.parse()? };
        Ok(TreeValue(Context::of(eval).add_expr(expr)))
    }

    /// One of several trees, by the architecture of the machine that builds: `amd64` or `arm64`.
    fn by_host<'v>(
        branches: UnpackDictEntries<String, &'v TreeValue>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> anyhow::Result<TreeValue> {
        let branches = branches
            .entries
            .into_iter()
            .map(|(arch, tree)| Ok((super::lockfile::parse_arch(&arch)?, tree.0)))
            .collect::<anyhow::Result<_>>()?;
        Ok(TreeValue(Context::of(eval).add(Node::ByHost(branches))))
    }
}

fn fetch(
    eval: &Evaluator<'_, '_, '_>,
    sources: Strings,
    integrity: &str,
    unpack: Unpack,
) -> anyhow::Result<TreeValue> {
    anyhow::ensure!(!sources.items.is_empty(), "a fetch needs at least one source");
    let node = Node::Fetch(Fetch {
        sources: sources.items,
        integrity: integrity.parse()?,
        unpack,
    });
    Ok(TreeValue(Context::of(eval).add(node)))
}

/// Patterns that compile, so that the recipe gets the blame and not the run.
pub(super) fn patterns(patterns: Strings) -> anyhow::Result<Vec<String>> {
    crate::source::globs(&patterns.items)?;
    Ok(patterns.items)
}

pub(super) fn below_root(path: &str) -> anyhow::Result<TreePath> {
    let path: TreePath = path.parse()?;
    anyhow::ensure!(
        !path.is_root(),
        "the root cannot be named here; expected a path below it"
    );
    Ok(path)
}

/// The least memory with which a program starts.
const MIN_MEMORY: u64 = 16 << 20;

/// A bound that a recipe sets, if it does.
fn bound(name: &str, value: NoneOr<i64>, least: u64) -> anyhow::Result<Option<u64>> {
    let NoneOr::Other(value) = value else {
        return Ok(None);
    };
    let bound = u64::try_from(value).ok().filter(|bound| *bound >= least);
    let bound = bound.ok_or_else(|| anyhow::anyhow!("`{name}` is {value}, and {least} is the least"))?;
    Ok(Some(bound))
}

/// What becomes part of a label.
fn word(text: &str) -> anyhow::Result<String> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    anyhow::ensure!(
        !text.is_empty() && text.bytes().all(plain),
        "`{text}` is not a mnemonic: expected a word such as `go_build`"
    );
    Ok(text.to_owned())
}

fn program(argv: Vec<String>) -> anyhow::Result<Vec<String>> {
    let first = argv
        .first()
        .ok_or_else(|| anyhow::anyhow!("`argv` is empty; it starts with the program"))?;
    anyhow::ensure!(
        first.starts_with('/'),
        "the program `{first}` is not an absolute path of the sandbox"
    );
    anyhow::ensure!(
        !argv.iter().any(|argument| argument.contains('\0')),
        "an argument holds a NUL"
    );
    Ok(argv)
}

fn environment(entries: Vec<(String, String)>) -> anyhow::Result<BTreeMap<String, String>> {
    for (name, value) in &entries {
        anyhow::ensure!(
            !name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0'),
            "`{name}` is not a name of a variable, or its value holds a NUL"
        );
    }
    Ok(entries.into_iter().collect())
}

fn paths(paths: Vec<String>) -> anyhow::Result<BTreeSet<TreePath>> {
    paths.iter().map(|path| below_root(path)).collect()
}

fn placed(entries: Vec<(String, Value<'_>)>) -> anyhow::Result<Vec<(TreePath, NodeId)>> {
    let mut placed = Vec::new();
    for (at, value) in entries {
        let at: TreePath = at.parse()?;
        let items: Vec<Value<'_>> = match (ListRef::from_value(value), TupleRef::from_value(value)) {
            (Some(list), _) => list.iter().collect(),
            (_, Some(tuple)) => tuple.iter().collect(),
            (None, None) => vec![value],
        };
        for item in items {
            let tree = item.downcast_ref::<TreeValue>().ok_or_else(|| {
                anyhow::anyhow!(
                    "the input at `/{at}` is of type {}, and should be a tree or a list of trees",
                    item.get_type()
                )
            })?;
            placed.push((at.clone(), tree.0));
        }
    }
    Ok(placed)
}

fn secret_files(entries: Vec<(String, &SecretValue)>) -> anyhow::Result<BTreeMap<TreePath, Secret>> {
    let placed = entries
        .into_iter()
        .map(|(at, secret)| Ok((below_root(&at)?, secret.0.clone())));
    placed.collect()
}

/// What is mounted may not cover something else that is mounted.
fn check_layout(run: &Run) -> anyhow::Result<()> {
    anyhow::ensure!(
        !run.outputs.is_empty(),
        "an action without `outputs` does nothing; name a directory"
    );
    let mounts: Vec<&TreePath> = run.outputs.iter().chain(run.secrets.keys()).collect();
    for (n, one) in mounts.iter().enumerate() {
        for other in mounts.iter().skip(n + 1) {
            anyhow::ensure!(
                !one.starts_with(other) && !other.starts_with(one),
                "`/{one}` and `/{other}` lie inside each other; outputs and secrets need places of their own"
            );
        }
    }
    Ok(())
}
