//! OCI registries: a client, and a server out of the store.
