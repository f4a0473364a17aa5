//! Where evaluation is, in words that another process can read after this one has died of it.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use super::library;

/// The words of a [`Trail`].
pub const WORDS: usize = 2;

/// The last statement: the first word of the project's own files, the second one of all. A word is the number of a
/// file, from 1 in the order in which files were begun, above the byte that the statement begins with; 0 is nowhere.
pub type Words = [AtomicU64; WORDS];

/// Keeps [`Words`] up to date.
pub struct Trail<'a> {
    words: &'a Words,
    /// Called with each file before it is parsed.
    begins: &'a dyn Fn(&str),
    files: RefCell<HashMap<String, u32>>,
    /// The last file: where its name is in memory, its number, and whether it is of the project.
    last: Cell<(usize, u32, bool)>,
}

impl<'a> Trail<'a> {
    /// A trail in `words`; `begins` is called with the name of each file before it is parsed.
    pub fn new(words: &'a Words, begins: &'a dyn Fn(&str)) -> Trail<'a> {
        Trail {
            words,
            begins,
            files: RefCell::default(),
            last: Cell::new((0, 0, false)),
        }
    }

    /// Evaluation comes to `file`, and to the byte `offset` of it.
    pub(super) fn begin(&self, file: &str, offset: usize) {
        let number = self.files.borrow().len() as u32 + 1;
        self.files.borrow_mut().insert(file.to_owned(), number);
        // The memory of another file's name may be this one's now.
        self.last.set((0, 0, false));
        (self.begins)(file);
        self.put(number, is_users(file), offset as u32);
    }

    /// Evaluation comes to a statement.
    pub(super) fn note(&self, file: &str, offset: u32) {
        let place = file.as_ptr() as usize;
        let (last, mut number, mut users) = self.last.get();
        if last != place {
            number = self.files.borrow().get(file).copied().unwrap_or(0);
            users = is_users(file);
            self.last.set((place, number, users));
        }
        self.put(number, users, offset);
    }

    pub(super) fn words(&self) -> [u64; WORDS] {
        self.words.each_ref().map(|word| word.load(Ordering::Relaxed))
    }

    fn put(&self, number: u32, users: bool, offset: u32) {
        let word = u64::from(number) << 32 | u64::from(offset);
        if users {
            self.words[0].store(word, Ordering::Relaxed);
        }
        self.words[1].store(word, Ordering::Relaxed);
    }
}

fn is_users(file: &str) -> bool {
    !file.starts_with(library::PREFIX)
}

/// The file, by its place in the order in which files were begun, and the byte that a word stands for.
pub(super) fn place(word: u64) -> Option<(usize, usize)> {
    let file = usize::try_from(word >> 32).ok()?.checked_sub(1)?;
    Some((file, (word & u64::from(u32::MAX)) as usize))
}
