//! Sources: pinned bytes from package registries and addresses, unpacked into trees.
