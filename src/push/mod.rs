//! Images into a registry: only what it lacks.
