//! The edge: one file per verb, and the only printers.
