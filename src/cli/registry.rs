//! `skep registry`.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::failure::{Failure, Kind};
use super::{Context, terminal};
use crate::{build, registry};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The port on loopback; 0 takes a free one
    #[arg(long, value_name = "N", default_value_t = 5000)]
    port: u16,
}

/// Serves until it is interrupted. The address goes to stdout once it is ready.
pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<(), Failure> {
    let store = context.store()?;
    let runtime = build::runtime()?;
    runtime.block_on(async {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, arguments.port));
        let server = registry::serve(store, address).await?;
        match context.json {
            true => terminal::print_json(&serde_json::json!({ "address": server.address() })),
            false => terminal::print(format!("{}\n", server.address())),
        }
        while !context.cancel.is_raised() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok::<(), registry::ServeError>(())
    })?;
    Ok(())
}

impl From<registry::ServeError> for Failure {
    fn from(error: registry::ServeError) -> Failure {
        Failure::new(Kind::Environment, error.to_string())
    }
}
