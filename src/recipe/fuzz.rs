//! What fuzzing asks of recipes.

use starlark::syntax::AstModule;

use super::error::Error;
use super::{dialect, nesting};

/// As much as the process has that evaluates recipes.
const STACK: usize = 256 << 20;

/// The text of a recipe: what does not nest too deep can be parsed, and what is wrong has a place in it.
pub fn parse(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes).into_owned();
    match nesting::check(&text) {
        Ok(longest) => assert!(longest <= text.len()),
        Err(deep) => return assert!(text.is_char_boundary(deep.offset)),
    }
    std::thread::scope(|scope| {
        let parser = std::thread::Builder::new().stack_size(STACK);
        let parsing = parser.spawn_scoped(scope, || parse_shallow(text));
        parsing
            .expect("a thread can be started")
            .join()
            .expect("it is parsed");
    });
}

fn parse_shallow(text: String) {
    let lines = text.lines().count();
    if let Err(error) = AstModule::parse("skep.star", text, &dialect()) {
        let at = Error::of(&error).at.expect("an error of syntax has a place");
        assert!(at.line >= 1 && at.line <= lines + 1, "{at:?}");
    }
}
