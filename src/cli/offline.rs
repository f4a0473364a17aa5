//! `skep plan --offline`: what the files say, and nobody is asked.

use super::deploy::{How, within};
use super::failure::{Failure, Kind};
use super::terminal::printable;
use super::{Context, terminal};
use crate::lint::Level;

pub(super) fn plan(context: &Context, environment: &str) -> Result<(), Failure> {
    let offline = within(context, environment, How::default(), |deployment| {
        deployment.offline()
    })?;
    match context.json {
        true => terminal::print_json(&offline),
        false => {
            let mut text = String::new();
            for (name, service) in &offline.services {
                let replicas = service
                    .replicas
                    .map_or("one on each node".to_owned(), |replicas| replicas.to_string());
                text += &format!("{name:16} {replicas:3} {}\n", printable(&service.image));
            }
            for (name, place) in &offline.secrets {
                text += &format!("secret {name}: {}\n", printable(place));
            }
            for name in &offline.configs {
                text += &format!("config {name}\n");
            }
            if let Some(command) = &offline.migrate {
                text += &format!("migrate: {}\n", printable(&command.join(" ")));
            }
            for finding in &offline.findings {
                text += &format!("{}\n", printable(&finding.to_string()));
            }
            terminal::print(text);
        }
    }
    match offline
        .findings
        .iter()
        .any(|finding| finding.level == Level::Block)
    {
        true => Err(Failure::new(
            Kind::Refused,
            format!("`{environment}` cannot be released as it is"),
        )),
        false => Ok(()),
    }
}
