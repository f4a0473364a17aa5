//! The kernel: runs one action in namespaces of its own, on its declared inputs and nothing else.
