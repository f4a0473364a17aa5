//! What fuzzing asks of requests to the embedded registry.

use super::blobs::parse_range;
use super::manifests::examine;
use super::route::{Query, Route, route};
use crate::image::{INDEX_MEDIA_TYPE, MANIFEST_MEDIA_TYPE};

/// A path, a query and a range, one a line: names and digests are none that leads out of the records' directory.
pub fn request(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.lines();
    let mut line = || lines.next().unwrap_or_default();
    if let Ok(route) = route(line()) {
        let plain = |text: &str| !text.contains(['/', '\0']) && !text.starts_with('.');
        let is_plain = match &route {
            Route::Base | Route::Uploads { .. } | Route::Upload { .. } => true,
            Route::Blob { name, digest } => plain(&name.as_str().replace('/', "%")) && plain(digest.key()),
            Route::Manifest { name, .. } | Route::Tags { name } => plain(&name.as_str().replace('/', "%")),
            Route::Referrers { subject, .. } => plain(subject.key()),
        };
        assert!(is_plain, "{route:?}");
    }
    let query = Query::parse(Some(line()));
    for name in ["digest", "mount"] {
        let _ = query.digest(name);
    }
    let _ = parse_range(line(), 1000);
}

/// A manifest that is pushed: its record is the same, whatever wrote the type.
pub fn pushed_manifest(bytes: &[u8]) {
    for media_type in [MANIFEST_MEDIA_TYPE, INDEX_MEDIA_TYPE] {
        if let Ok(record) = examine(bytes, media_type) {
            let json = serde_json::to_vec(&record).expect("plain data encodes");
            assert_eq!(
                serde_json::from_slice::<super::catalog::Record>(&json).ok(),
                Some(record)
            );
        }
    }
}
