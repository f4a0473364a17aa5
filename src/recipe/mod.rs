//! Recipes: Starlark evaluated into a plan. The only importer of starlark.
