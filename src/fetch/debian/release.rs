//! A suite's signed index, and the `Packages` file that it vouches for.

use std::io::{BufReader, Read as _};

use reqwest::Url;

use super::LockError;
use super::control::paragraphs;
use super::signature::{key_ring, run_gpgv, signed_text};
use crate::cancel::Cancel;
use crate::digest::Digest;
use crate::event::Events;
use crate::fetch::archive::decompress;
use crate::fetch::config::apt::Mirror;
use crate::fetch::error::Error;
use crate::fetch::http::{Http, redact};
use crate::fetch::registry::{Locator, blocking};
use crate::fetch::source::is_loopback;
use crate::lock::DebianRequest;
use crate::store::Store;

const MAX_RELEASE: u64 = 4 << 20;
/// `Packages` of a whole suite is about 50 MB.
const MAX_PACKAGES: u64 = 512 << 20;

/// One suite of one mirror.
pub(super) struct Suite<'a> {
    pub locator: &'a Locator,
    pub http: &'a Http,
    pub store: &'a Store,
    pub events: &'a Events,
    pub mirror: &'a Mirror,
    pub request: &'a DebianRequest,
}

/// A file that `InRelease` lists.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Listed {
    /// From the suite's directory.
    path: String,
    digest: Digest,
}

impl Suite<'_> {
    /// The text of `main/binary-<arch>/Packages`, verified.
    pub(super) async fn packages(&self, cancel: &Cancel) -> Result<String, Error> {
        let suite = format!("dists/{}", self.request.suite);
        let url = self.mirror.base.join(&format!("{suite}/InRelease"));
        let signed = self.get(&url, MAX_RELEASE, cancel).await?;
        let release = self.verify(&url, signed).await?;
        let failed = |reason: String| LockError::Metadata {
            url: redact(&url),
            reason,
        };
        let (listed, by_hash) = read_release(&release, self.request).map_err(failed)?;

        let (directory, _) = listed.path.rsplit_once('/').unwrap_or_default();
        let path = match by_hash {
            // The named file may be replaced at any moment; the one of this hash stays.
            true => format!("{directory}/by-hash/SHA256/{}", listed.digest.hex()),
            false => listed.path.clone(),
        };
        let url = self.mirror.base.join(&format!("{suite}/{path}"));
        let bytes = self.get(&url, listed.digest.size(), cancel).await?;
        blocking(move || {
            let failed = |reason: String| LockError::Metadata {
                url: redact(&url),
                reason,
            };
            let got = Digest::of(&bytes);
            if got != listed.digest {
                return Err(failed(format!("expected {}, got {got}", listed.digest)).into());
            }
            unpack_text(&bytes, MAX_PACKAGES).map_err(|error| failed(error.to_string()).into())
        })
        .await
    }

    async fn get(&self, url: &Url, max: u64, cancel: &Cancel) -> Result<Vec<u8>, Error> {
        let credential = self.mirror.base.credential.clone();
        let mut request = self.locator.request(url.clone(), credential).await?;
        request.max = max;
        Ok(self.http.get_bytes(&request, cancel).await?.1)
    }

    /// The signed text of an `InRelease`, if a known key signed it, or https vouches for it.
    async fn verify(&self, url: &Url, signed: Vec<u8>) -> Result<String, Error> {
        let failed = |reason: String| LockError::Metadata {
            url: redact(url),
            reason,
        };
        let key_ring = key_ring(self.mirror.signed_by.as_deref(), self.locator.key_rings());
        if let Some(key_ring) = key_ring {
            let scratch = self.store.scratch()?;
            let verified = blocking({
                let signed = signed.clone();
                move || run_gpgv(&key_ring, scratch.path(), &signed)
            });
            match verified.await {
                Some(Ok(text)) => return Ok(text),
                Some(Err(reason)) => return Err(failed(reason).into()),
                None => {}
            }
        }
        if url.scheme() != "https" && !is_loopback(url) {
            let remedy = "install gpgv and debian-archive-keyring, or use an https mirror";
            return Err(failed(format!(
                "its signature cannot be checked, and it came over plain http; {remedy}"
            ))
            .into());
        }
        let text = String::from_utf8(signed).map_err(|_| failed("not UTF-8".to_owned()))?;
        let text = signed_text(&text).ok_or_else(|| failed("not a signed release file".to_owned()))?;
        self.events.warn(format!(
            "the signature of `{}` is not checked, as there is no gpgv or no key ring; the lock file pins what https vouched for",
            redact(url)
        ));
        Ok(text)
    }
}

/// The best-compressed `Packages` that a release lists, and whether files can be had by hash.
pub(super) fn read_release(text: &str, request: &DebianRequest) -> Result<(Listed, bool), String> {
    let release = paragraphs(text).next().ok_or("it is empty")?;
    let names = ["Suite", "Codename"].map(|field| release.get(field).unwrap_or_default());
    // `bookworm-updates` has the code name `bookworm-updates`; some mirrors write `bookworm/updates`.
    if !names.contains(&request.suite.as_str()) {
        return Err(format!(
            "it is for `{}`, and not for `{}`",
            names.join("` or `"),
            request.suite
        ));
    }
    let directory = format!("main/binary-{}", request.arch);
    let sums = release.get("SHA256").ok_or("it lists no SHA-256 sums")?;
    for file in ["Packages.xz", "Packages.gz", "Packages"] {
        let wanted = format!("{directory}/{file}");
        for line in sums.lines() {
            let words: Vec<_> = line.split_whitespace().collect();
            if let [hex, size, path] = words[..]
                && path == wanted
            {
                let size = size.parse().ok().filter(|size| *size <= MAX_PACKAGES);
                let size = size.ok_or_else(|| format!("`{wanted}` has no sensible size"))?;
                let digest = Digest::from_hex(hex, size).map_err(|error| error.to_string())?;
                let by_hash = release.get("Acquire-By-Hash") == Some("yes");
                return Ok((Listed { path: wanted, digest }, by_hash));
            }
        }
    }
    Err(format!("it lists no `{directory}/Packages`"))
}

fn unpack_text(bytes: &[u8], max: u64) -> std::io::Result<String> {
    let mut text = Vec::new();
    let mut content = decompress(BufReader::new(bytes))?.take(max + 1);
    content.read_to_end(&mut text)?;
    if text.len() as u64 > max {
        return Err(std::io::Error::other("larger than 512 MiB"));
    }
    // Only names of people are ever not ASCII, and none of those is used.
    Ok(
        String::from_utf8(text)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::Arch;

    fn request(suite: &str) -> DebianRequest {
        DebianRequest {
            suite: suite.into(),
            arch: Arch::Arm64,
            packages: vec![],
            exclude: vec![],
        }
    }

    fn release() -> String {
        let (one, two) = ("1".repeat(64), "2".repeat(64));
        format!(
            "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\nSuite: oldstable\nCodename: bookworm\n\
             Acquire-By-Hash: yes\nMD5Sum:\n 0 1 main/binary-arm64/Packages.xz\nSHA256:\n \
             {one} 11 main/binary-arm64/Packages.gz\n {two} 12 main/binary-arm64/Packages.xz\n\
             - -----BEGIN x\n-----BEGIN PGP SIGNATURE-----\n\nx\n-----END PGP SIGNATURE-----\n"
        )
    }

    #[test]
    fn the_best_compressed_file_is_found() {
        let text = signed_text(&release()).unwrap();
        assert!(
            text.starts_with("Suite") && text.ends_with("\n-----BEGIN x"),
            "{text}"
        );
        for suite in ["bookworm", "oldstable"] {
            let (listed, by_hash) = read_release(&text, &request(suite)).unwrap();
            assert_eq!(listed.digest, Digest::from_hex(&"2".repeat(64), 12).unwrap());
            assert!(by_hash && listed.path == "main/binary-arm64/Packages.xz");
        }
    }

    #[test]
    fn a_release_of_another_suite_is_refused() {
        let text = signed_text(&release()).unwrap();
        insta::assert_snapshot!(read_release(&text, &request("trixie")).unwrap_err(), @"it is for `oldstable` or `bookworm`, and not for `trixie`");
        let amd64 = DebianRequest {
            arch: Arch::Amd64,
            ..request("bookworm")
        };
        insta::assert_snapshot!(read_release(&text, &amd64).unwrap_err(), @"it lists no `main/binary-amd64/Packages`");
    }

    proptest::proptest! {
        #[test]
        fn no_release_panics(text in "(Suite: bookworm\n|SHA256:\n| 0 1 main/binary-arm64/Packages\n|-----BEGIN PGP SIGNED MESSAGE-----|\n|\\PC){0,20}") {
            let _ = read_release(&text, &request("bookworm"));
        }
    }
}
