//! Trees into image layers, manifests and indexes, byte for byte the same everywhere.
