//! What recipes hold in their variables: opaque handles of nodes in the plan. They have no content.

use std::fmt;

use allocative::Allocative;
use starlark::starlark_simple_value;
use starlark::values::{
    NoSerialize, ProvidesStaticType, StarlarkPagablePanic, StarlarkValue, starlark_value,
};

use crate::plan::{NodeId, Secret};
use crate::platform::Platform;

/// A tree that will be there when its node has been evaluated.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, ProvidesStaticType, NoSerialize, StarlarkPagablePanic, Allocative,
)]
pub(super) struct TreeValue(#[allocative(skip)] pub NodeId);
starlark_simple_value!(TreeValue);

/// An image layer.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, ProvidesStaticType, NoSerialize, StarlarkPagablePanic, Allocative,
)]
pub(super) struct LayerValue(#[allocative(skip)] pub NodeId);
starlark_simple_value!(LayerValue);

/// One platform's image.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, ProvidesStaticType, NoSerialize, StarlarkPagablePanic, Allocative,
)]
pub(super) struct ImageValue {
    #[allocative(skip)]
    pub platform: Platform,
    #[allocative(skip)]
    pub id: NodeId,
}
starlark_simple_value!(ImageValue);

/// A secret file of the project; its content is not here.
#[derive(Clone, Debug, PartialEq, Eq, ProvidesStaticType, NoSerialize, StarlarkPagablePanic, Allocative)]
pub(super) struct SecretValue(#[allocative(skip)] pub Secret);
starlark_simple_value!(SecretValue);

#[starlark_value(type = "tree")]
impl<'v> StarlarkValue<'v> for TreeValue {
    fn get_methods() -> Option<&'static starlark::environment::Methods> {
        super::tree::methods()
    }
}

#[starlark_value(type = "layer")]
impl<'v> StarlarkValue<'v> for LayerValue {}

#[starlark_value(type = "image")]
impl<'v> StarlarkValue<'v> for ImageValue {}

#[starlark_value(type = "secret")]
impl<'v> StarlarkValue<'v> for SecretValue {}

impl fmt::Display for TreeValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<tree>")
    }
}

impl fmt::Display for LayerValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<layer>")
    }
}

impl fmt::Display for ImageValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<image {}>", self.platform)
    }
}

impl fmt::Display for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<secret {}>", self.0.file)
    }
}
