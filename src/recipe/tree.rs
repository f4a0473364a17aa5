//! The methods of trees: each gives a new tree, and touches no file.

use starlark::environment::{Methods, MethodsBuilder, MethodsStatic};
use starlark::eval::Evaluator;
use starlark::starlark_module;
use starlark::values::list_or_tuple::UnpackListOrTuple;
use starlark::values::none::NoneOr;

use super::context::Context;
use super::graph::{below_root, patterns};
use super::value::TreeValue;
use crate::plan::{Replacement, TreeExpr};
use crate::tree::TreePath;

type Strings = UnpackListOrTuple<String>;

pub(super) fn methods() -> Option<&'static Methods> {
    static METHODS: MethodsStatic = MethodsStatic::new("skep tree", tree_methods);
    Some(METHODS.methods())
}

#[starlark_module]
fn tree_methods(builder: &mut MethodsBuilder) {
    /// This tree, moved below `path`.
    fn at<'v>(this: &TreeValue, path: &str, eval: &mut Evaluator<'v, '_, '_>) -> anyhow::Result<TreeValue> {
        select(eval, this, TreePath::root(), path.parse()?)
    }

    /// What stands at `path`, moved to `at`: by default a directory becomes the whole tree.
    fn select<'v>(
        this: &TreeValue,
        path: &str,
        #[starlark(require = named, default = "")] at: &str,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> anyhow::Result<TreeValue> {
        select(eval, this, path.parse()?, at.parse()?)
    }

    /// The files that match a pattern of `include` and none of `exclude`.
    fn filter<'v>(
        this: &TreeValue,
        #[starlark(require = named, default = NoneOr::None)] include: NoneOr<Strings>,
        #[starlark(require = named, default = Strings::default())] exclude: Strings,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> anyhow::Result<TreeValue> {
        let include = match include {
            NoneOr::Other(include) => patterns(include)?,
            NoneOr::None => vec!["**".to_owned()],
        };
        let expr = TreeExpr::Filter {
            of: this.0,
            include,
            exclude: patterns(exclude)?,
        };
        Ok(TreeValue(Context::of(eval).add_expr(expr)))
    }

    /// The files that the package in the directory `package` of this Go module is compiled of: its own, and those of
    /// the module's packages that it imports. All of the module where that cannot be told.
    fn go_package<'v>(
        this: &TreeValue,
        package: &str,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> anyhow::Result<TreeValue> {
        let expr = TreeExpr::GoPackage {
            of: this.0,
            package: package.parse()?,
        };
        Ok(TreeValue(Context::of(eval).add_expr(expr)))
    }

    /// One file at `at` with the content of all files that match, in the order of their paths.
    fn concat<'v>(
        this: &TreeValue,
        include: Strings,
        #[starlark(require = named)] at: &str,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> anyhow::Result<TreeValue> {
        let expr = TreeExpr::Concat {
            of: this.0,
            include: patterns(include)?,
            at: below_root(at)?,
        };
        Ok(TreeValue(Context::of(eval).add_expr(expr)))
    }

    /// This tree, with each `(from, at, tree)` done in turn: where something stands at `from`, it is taken
    /// out, and `tree` put in at `at`. A `tree` of `None` only takes out.
    fn replace<'v>(
        this: &TreeValue,
        replacements: UnpackListOrTuple<(String, String, NoneOr<&'v TreeValue>)>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> anyhow::Result<TreeValue> {
        let replacements = replacements
            .items
            .into_iter()
            .map(|(from, at, with)| {
                Ok(Replacement {
                    from: below_root(&from)?,
                    at: below_root(&at)?,
                    with: with.into_option().map(|tree| tree.0),
                })
            })
            .collect::<anyhow::Result<_>>()?;
        let expr = TreeExpr::Replace {
            of: this.0,
            replacements,
        };
        Ok(TreeValue(Context::of(eval).add_expr(expr)))
    }

    /// This tree, in which the entry at `path` has another `mode` (such as `0o1777`) or `owner`, a pair of
    /// user and group ids, when it becomes part of an image.
    fn attributes<'v>(
        this: &TreeValue,
        path: &str,
        #[starlark(require = named, default = NoneOr::None)] mode: NoneOr<u32>,
        #[starlark(require = named, default = NoneOr::None)] owner: NoneOr<(u32, u32)>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> anyhow::Result<TreeValue> {
        let mode = mode.into_option();
        if let Some(mode) = mode.filter(|mode| *mode > 0o7777) {
            anyhow::bail!("the mode {mode:#o} is above 0o7777");
        }
        let expr = TreeExpr::Attributes {
            of: this.0,
            path: below_root(path)?,
            mode,
            owner: owner.into_option(),
        };
        Ok(TreeValue(Context::of(eval).add_expr(expr)))
    }
}

fn select(
    eval: &Evaluator<'_, '_, '_>,
    of: &TreeValue,
    path: TreePath,
    at: TreePath,
) -> anyhow::Result<TreeValue> {
    let expr = TreeExpr::Select { of: of.0, path, at };
    Ok(TreeValue(Context::of(eval).add_expr(expr)))
}
