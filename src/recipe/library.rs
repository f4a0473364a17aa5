//! The rule library and the toolchains, compiled into this binary.

use include_dir::{Dir, include_dir};

/// How recipes name files of the library.
pub(super) const PREFIX: &str = "@skep//";

static RECIPES: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/recipes");
static TOOLCHAINS: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/toolchains");

/// The text of a library file: `go.star` is in `recipes`, `toolchains/go.star` in `toolchains`.
pub(super) fn file(path: &str) -> Option<&'static str> {
    let file = match path.strip_prefix("toolchains/") {
        Some(rest) => TOOLCHAINS.get_file(rest),
        None => RECIPES.get_file(path),
    };
    file?.contents_utf8()
}
