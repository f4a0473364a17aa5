//! From a project to images: puts recipe, engine, sandbox, fetch and assemblers together.
