//! Lists of services and tasks, read as what they are: the crate's types take a service's health check for absent,
//! because the engine writes its key otherwise than its documentation.

use bollard::errors::Error as Cause;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Filters;
use super::link::Link;

/// The most bytes of an answer.
const LIMIT: usize = 64 << 20;

/// What an engine lists at `path`, such as `services`, or describes, such as `services/NAME`.
pub(super) async fn get<T: DeserializeOwned>(
    link: &Link,
    path: &str,
    filters: Filters<'_>,
) -> Result<T, Cause> {
    // The host is of no account: there is one socket.
    let url = format!("http://engine/v{}/{path}", link.docker.client_version());
    let mut request = link.http.get(url);
    if let Some(filters) = super::services::filter(filters).filter(|filters| !filters.is_empty()) {
        let filters = serde_json::to_string(&filters).expect("plain data encodes");
        request = request.query(&[("filters", filters)]);
    }
    let mut response = request.send().await.map_err(broken)?;
    let status = response.status().as_u16();
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(broken)? {
        if body.len() + chunk.len() > LIMIT {
            return Err(broken(format!("an answer of more than {LIMIT} bytes")));
        }
        body.extend_from_slice(&chunk);
    }
    if status >= 400 {
        let message = serde_json::from_slice::<Value>(&body).ok();
        let message = message.and_then(|message| message["message"].as_str().map(str::to_owned));
        return Err(Cause::DockerResponseServerError {
            status_code: status,
            message: message.unwrap_or_else(|| String::from_utf8_lossy(&body).into_owned()),
        });
    }
    let mut value: Value = serde_json::from_slice(&body)?;
    rename(&mut value);
    Ok(serde_json::from_value(value)?)
}

fn broken(why: impl ToString) -> Cause {
    Cause::IOError {
        err: std::io::Error::other(why.to_string()),
    }
}

/// The key of health checks as the crate knows it.
fn rename(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            if let Some(check) = fields.remove("Healthcheck") {
                fields.insert("HealthCheck".to_owned(), check);
            }
            let others = fields.iter_mut().filter(|(key, _)| *key != "Labels");
            others.for_each(|(_, value)| rename(value));
        }
        Value::Array(items) => items.iter_mut().for_each(rename),
        _ => {}
    }
}
