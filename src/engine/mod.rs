//! A plan into results: bounded, memoized, each action once.
