//! The disk that is ours: blobs, action results and materialized trees.
