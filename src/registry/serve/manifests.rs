//! Manifests of the embedded registry: checked before they are kept, and answered byte for byte.

use std::collections::BTreeMap;

use hyper::StatusCode;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName, LINK, LOCATION};

use super::answer::{Answer, Refusal, answer, empty, header};
use super::catalog::{Catalog, Record};
use super::route::{Named, Query, Reference};
use crate::digest::Digest;
use crate::image::{INDEX_MEDIA_TYPE, MANIFEST_MEDIA_TYPE};
use crate::registry::address::Name;
use crate::store::Store;

const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Names on a page, if the client asks for no fewer.
const MAX_PAGE: usize = 1000;
/// The most bytes of a page of referrers.
const MAX_REFERRERS: usize = 4 << 20;

/// As much of a manifest as matters here.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    schema_version: u32,
    media_type: Option<String>,
    artifact_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    subject: Option<Descriptor>,
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: String,
    size: u64,
}

impl Descriptor {
    fn named(&self) -> Result<Named, Refusal> {
        Named::parse(&self.digest).map_err(|refusal| Refusal {
            code: "MANIFEST_INVALID",
            ..refusal
        })
    }

    fn digest(&self) -> Result<Digest, Refusal> {
        Digest::from_hex(self.named()?.to_keep()?, self.size)
            .map_err(|error| Refusal::bad("MANIFEST_INVALID", error.to_string()))
    }

    /// Layers that licences keep away from registries (image specification 1.1, "Non-Distributable Layers").
    fn is_kept_away(&self) -> bool {
        self.media_type.contains(".nondistributable.") || self.media_type.contains(".foreign.")
    }
}

/// What is to be known of a manifest, if it is one.
pub(super) fn examine(bytes: &[u8], content_type: &str) -> Result<Record, Refusal> {
    let invalid = |message: String| Refusal::bad("MANIFEST_INVALID", message);
    let document: Document =
        serde_json::from_slice(bytes).map_err(|error| invalid(format!("it is not a manifest: {error}")))?;
    if document.schema_version != 2 {
        return Err(invalid("its schemaVersion is not 2".to_owned()));
    }
    let content_type = content_type.split(';').next().unwrap_or_default().trim();
    let media_type = match document.media_type {
        Some(inside) if inside == content_type || content_type.is_empty() => inside,
        Some(inside) => {
            return Err(invalid(format!(
                "it says that it is `{inside}`, and comes as `{content_type}`"
            )));
        }
        None => content_type.to_owned(),
    };
    let digests = |descriptors: Vec<Descriptor>| {
        let kept = descriptors.iter().filter(|descriptor| !descriptor.is_kept_away());
        kept.map(Descriptor::digest).collect::<Result<Vec<_>, _>>()
    };
    let (blobs, children, config_type) = match media_type.as_str() {
        MANIFEST_MEDIA_TYPE | DOCKER_MANIFEST => {
            let config = document
                .config
                .ok_or_else(|| invalid("it has no config".to_owned()))?;
            let layers = document
                .layers
                .ok_or_else(|| invalid("it has no layers".to_owned()))?;
            let mut blobs = vec![config.digest()?];
            blobs.extend(digests(layers)?);
            (blobs, Vec::new(), Some(config.media_type))
        }
        INDEX_MEDIA_TYPE | DOCKER_LIST => {
            let manifests = document
                .manifests
                .ok_or_else(|| invalid("it has no manifests".to_owned()))?;
            (Vec::new(), digests(manifests)?, None)
        }
        other => {
            return Err(invalid(format!(
                "`{other}` is not a type of manifests that is kept"
            )));
        }
    };
    let subject = document.subject.as_ref().map(Descriptor::named).transpose()?;
    Ok(Record {
        digest: Digest::of(bytes),
        media_type,
        blobs,
        children,
        subject: subject.map(|subject| subject.key().to_owned()),
        artifact_type: document.artifact_type.or(config_type),
        annotations: document.annotations.unwrap_or_default(),
    })
}

/// `GET` and `HEAD` of a manifest; without bytes for `HEAD`.
pub(super) fn get(
    catalog: &Catalog,
    store: &Store,
    name: &Name,
    reference: &Reference,
    with_bytes: bool,
) -> Result<Answer, Refusal> {
    let record = resolve(catalog, name, reference)?;
    let headers = [
        (CONTENT_TYPE, record.media_type.clone()),
        (header("docker-content-digest"), record.digest.oci()),
    ];
    if with_bytes {
        let bytes = store.read(&record.digest);
        let bytes = bytes.map_err(|error| Refusal::from(super::ServeError::Store(error)))?;
        return Ok(answer(StatusCode::OK, &headers, bytes));
    }
    let mut answer = empty(StatusCode::OK, &headers);
    answer
        .headers_mut()
        .insert(CONTENT_LENGTH, record.digest.size().into());
    Ok(answer)
}

/// `PUT` of a manifest.
pub(super) fn put(
    catalog: &Catalog,
    name: &Name,
    reference: &Reference,
    content_type: &str,
    bytes: &[u8],
) -> Result<Answer, Refusal> {
    let record = examine(bytes, content_type)?;
    let tag = match reference {
        Reference::Tag(tag) => Some(tag),
        Reference::Digest(named) if named.to_keep()? == record.digest.hex() => None,
        Reference::Digest(_) => {
            let found = format!("its digest is `{}`", record.digest.oci());
            return Err(Refusal::bad("DIGEST_INVALID", found));
        }
    };
    if let Some(missing) = catalog.add_manifest(name, tag, &record, bytes)? {
        let message = format!("`{missing}` is not in this repository");
        return Err(Refusal::bad("MANIFEST_BLOB_UNKNOWN", message));
    }
    let digest = record.digest.oci();
    let mut headers = vec![
        (LOCATION, format!("/v2/{name}/manifests/{digest}")),
        (header("docker-content-digest"), digest),
    ];
    headers.extend(record.subject.map(|key| {
        let named = Named::of_key(key);
        (header("oci-subject"), named.to_string())
    }));
    Ok(empty(StatusCode::CREATED, &headers))
}

/// `DELETE` of a tag or of a manifest.
pub(super) fn delete(catalog: &Catalog, name: &Name, reference: &Reference) -> Result<Answer, Refusal> {
    let removed = match reference {
        Reference::Tag(tag) => catalog.remove_tag(name, tag)?,
        Reference::Digest(named) => match named.hex() {
            Some(hex) => catalog.remove_manifest(name, hex)?,
            None => false,
        },
    };
    match removed {
        true => Ok(empty(StatusCode::ACCEPTED, &[])),
        false => Err(Refusal::unknown("MANIFEST_UNKNOWN", "there is no such manifest")),
    }
}

/// `GET` of the tags, in pages.
pub(super) fn tags(catalog: &Catalog, name: &Name, query: &Query) -> Result<Answer, Refusal> {
    if !catalog.has_repository(name) {
        return Err(Refusal::unknown("NAME_UNKNOWN", "nothing was pushed there"));
    }
    let page = match query.get("n") {
        None => MAX_PAGE,
        Some(n) => n
            .parse::<usize>()
            .map_err(|_| Refusal::bad("UNSUPPORTED", "`n` is not a number"))?
            .min(MAX_PAGE),
    };
    let last = query.get("last").unwrap_or_default();
    let tags = catalog.tags(name)?;
    let mut rest = tags.iter().map(|tag| tag.as_str()).filter(|tag| *tag > last);
    let listed: Vec<&str> = rest.by_ref().take(page).collect();
    let body = serde_json::json!({ "name": name.as_str(), "tags": listed });
    let mut headers = vec![(CONTENT_TYPE, "application/json".to_owned())];
    if let (Some(last), Some(_)) = (listed.last(), rest.next()) {
        headers.push(next(&format!("/v2/{name}/tags/list?n={page}&last={last}")));
    }
    Ok(answer(StatusCode::OK, &headers, body.to_string()))
}

/// `GET` of the manifests that refer to one, as an index, in pages.
pub(super) fn referrers(
    catalog: &Catalog,
    name: &Name,
    subject: &Named,
    query: &Query,
) -> Result<Answer, Refusal> {
    let (wanted, last) = (query.get("artifactType"), query.get("last").unwrap_or_default());
    let (mut listed, mut size, mut more) = (Vec::new(), 0, None);
    for record in catalog.manifests(name)? {
        let is_wanted = wanted.is_none() || wanted == record.artifact_type.as_deref();
        let hex = record.digest.hex();
        if record.subject.as_deref() != Some(subject.key()) || !is_wanted || hex.as_str() <= last {
            continue;
        }
        let mut descriptor = serde_json::json!({
            "mediaType": record.media_type,
            "digest": record.digest.oci(),
            "size": record.digest.size(),
        });
        if let Some(artifact_type) = record.artifact_type {
            descriptor["artifactType"] = artifact_type.into();
        }
        if !record.annotations.is_empty() {
            descriptor["annotations"] = serde_json::json!(record.annotations);
        }
        size += descriptor.to_string().len();
        if size > MAX_REFERRERS && !listed.is_empty() {
            more = listed.last().map(|(hex, _)| String::clone(hex));
            break;
        }
        listed.push((hex, descriptor));
    }
    let manifests: Vec<_> = listed.into_iter().map(|(_, descriptor)| descriptor).collect();
    let body =
        serde_json::json!({ "schemaVersion": 2, "mediaType": INDEX_MEDIA_TYPE, "manifests": manifests });
    let mut headers = vec![(CONTENT_TYPE, INDEX_MEDIA_TYPE.to_owned())];
    if wanted.is_some() {
        headers.push((header("oci-filters-applied"), "artifactType".to_owned()));
    }
    if let Some(last) = more {
        let mut pairs = vec![("last", last.as_str())];
        pairs.extend(wanted.map(|wanted| ("artifactType", wanted)));
        let query = Query::encode(&pairs);
        headers.push(next(&format!("/v2/{name}/referrers/{subject}?{query}")));
    }
    Ok(answer(StatusCode::OK, &headers, body.to_string()))
}

fn next(address: &str) -> (HeaderName, String) {
    (LINK, format!("<{address}>; rel=\"next\""))
}

fn resolve(catalog: &Catalog, name: &Name, reference: &Reference) -> Result<Record, Refusal> {
    let hex = match reference {
        Reference::Digest(named) => named.hex().map(str::to_owned),
        Reference::Tag(tag) => catalog.tag(name, tag)?.map(|digest| digest.hex()),
    };
    let found = match hex {
        Some(hex) => catalog.manifest(name, &hex)?,
        None => None,
    };
    found.ok_or_else(|| Refusal::unknown("MANIFEST_UNKNOWN", "there is no such manifest"))
}
