//! Names and paths inside a tree. A value of these types is valid: nothing downstream checks again.

use std::fmt;
use std::str::FromStr;

/// One path component: 1 to 255 bytes of UTF-8, without `/` and NUL, and neither `.` nor `..`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, serde::Serialize)]
#[serde(transparent)]
pub struct Name(Box<str>);

/// What is wrong with a name or a path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a valid path: {reason}")]
pub struct PathError {
    text: String,
    reason: &'static str,
}

impl PathError {
    fn new(text: &str, reason: &'static str) -> PathError {
        PathError {
            text: text.escape_debug().to_string(),
            reason,
        }
    }
}

impl Name {
    /// Checks one component.
    pub fn new(text: &str) -> Result<Name, PathError> {
        let reason = match text {
            "" => "a component is empty",
            "." | ".." => "`.` and `..` are not allowed",
            _ if text.len() > 255 => "a component is longer than 255 bytes",
            _ if text.contains('/') => "a name holds a slash",
            _ if text.contains('\0') => "a name holds a NUL",
            _ => return Ok(Name(text.into())),
        };
        Err(PathError::new(text, reason))
    }

    /// The component's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<'de> serde::Deserialize<'de> for Name {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Name, D::Error> {
        let text = String::deserialize(deserializer)?;
        Name::new(&text).map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::borrow::Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// A path from the root of a tree; the empty path is the root itself.
///
/// Parsing accepts a leading `/` and a trailing `/`, and nothing else that is not in its canonical form
/// `a/b/c`. At most 4,096 bytes (Linux `PATH_MAX`) and 128 components.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct TreePath(Vec<Name>);

impl TreePath {
    /// The most components a path may have; recursion over trees relies on it.
    pub const MAX_DEPTH: usize = 128;

    /// The root.
    pub fn root() -> TreePath {
        TreePath::default()
    }

    /// Whether this is the root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The components, outermost first.
    pub fn names(&self) -> &[Name] {
        &self.0
    }

    /// This path and one more component.
    pub fn join(&self, name: &Name) -> TreePath {
        let mut names = self.0.clone();
        names.push(name.clone());
        TreePath(names)
    }

    /// This path followed by `rest`.
    pub fn concat(&self, rest: &TreePath) -> TreePath {
        TreePath([self.names(), rest.names()].concat())
    }

    /// The path without its last component, and that component; `None` for the root.
    pub fn split_last(&self) -> Option<(TreePath, &Name)> {
        let (last, parents) = self.0.split_last()?;
        Some((TreePath(parents.to_vec()), last))
    }

    /// What is left of this path below `base`; `None` if it is not below (or at) `base`.
    pub fn strip_prefix(&self, base: &TreePath) -> Option<TreePath> {
        let rest = self.0.strip_prefix(base.names())?;
        Some(TreePath(rest.to_vec()))
    }

    /// Whether this path is `base` or below it.
    pub fn starts_with(&self, base: &TreePath) -> bool {
        self.0.starts_with(base.names())
    }
}

impl FromStr for TreePath {
    type Err = PathError;

    fn from_str(text: &str) -> Result<TreePath, PathError> {
        if text.len() > 4096 {
            return Err(PathError::new(
                &text[..text.floor_char_boundary(64)],
                "longer than 4,096 bytes",
            ));
        }
        let inner = text.strip_prefix('/').unwrap_or(text);
        let inner = inner
            .strip_suffix('/')
            .filter(|rest| !rest.is_empty())
            .unwrap_or(inner);
        if inner.is_empty() {
            return Ok(TreePath::root());
        }
        let names = inner
            .split('/')
            .map(|name| Name::new(name).map_err(|error| PathError::new(text, error.reason)))
            .collect::<Result<Vec<_>, _>>()?;
        if names.len() > TreePath::MAX_DEPTH {
            return Err(PathError::new(text, "deeper than 128 components"));
        }
        Ok(TreePath(names))
    }
}

impl fmt::Display for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, name) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("/")?;
            }
            f.write_str(name.as_str())?;
        }
        Ok(())
    }
}

impl fmt::Debug for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl serde::Serialize for TreePath {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for TreePath {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<TreePath, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_forms() {
        for (text, canonical) in [("/a/b/", "a/b"), ("a", "a"), ("/", ""), ("", "")] {
            assert_eq!(text.parse::<TreePath>().unwrap().to_string(), canonical);
        }
    }

    #[test]
    fn hostile_paths_are_refused() {
        for text in ["..", "a/../b", "a//b", "./a", "a/./b", "a\0b", "//"] {
            assert!(text.parse::<TreePath>().is_err(), "{text:?}");
        }
        assert!("a/".repeat(129).parse::<TreePath>().is_err());
        assert!("x".repeat(256).parse::<TreePath>().is_err());
    }
}
