//! The work tree that is theirs: which files it has, and what they hold.
