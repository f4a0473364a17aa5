//! Signatures of releases, as `gpgv` judges them. Holds no key: those are the system's.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// The key ring that is configured, or Debian's own among the system's, if it is there.
pub(super) fn key_ring(configured: Option<&Path>, system: &Path) -> Option<PathBuf> {
    let debian = || system.join("debian-archive-keyring.gpg");
    configured
        .map(Path::to_owned)
        .or_else(|| Some(debian()).filter(|path| path.exists()))
}

/// What `gpgv` found to be signed; `None` if there is no `gpgv`.
///
/// One good signature is enough, as it is for apt: a release is signed with several keys, and an older key
/// ring does not know them all, which `gpgv` counts as a failure.
pub(super) fn run_gpgv(key_ring: &Path, scratch: &Path, signed: &[u8]) -> Option<Result<String, String>> {
    let (input, output) = (scratch.join("InRelease"), scratch.join("Release"));
    let mut command = Command::new("gpgv");
    let prepared = std::fs::write(&input, signed).and_then(|()| binary_key_ring(key_ring, scratch));
    match prepared {
        Ok(key_ring) => command.arg("--keyring").arg(key_ring),
        Err(error) => return Some(Err(format!("cannot prepare its verification: {error}"))),
    };
    command
        .args(["--status-fd", "1", "--output"])
        .arg(&output)
        .arg(&input);
    let ran = match command.env("LC_ALL", "C").stdin(Stdio::null()).output() {
        Ok(ran) => ran,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => return Some(Err(format!("gpgv: {error}"))),
    };
    let status = String::from_utf8_lossy(&ran.stdout);
    let says = |keyword: &str| {
        status
            .lines()
            .any(|line| line.starts_with(&format!("[GNUPG:] {keyword} ")))
    };
    if !says("GOODSIG") || says("BADSIG") || !is_one_message(signed) {
        let said: String = String::from_utf8_lossy(&ran.stderr).chars().take(1000).collect();
        return Some(Err(format!("no known key signed it; gpgv says\n{}", said.trim())));
    }
    Some(std::fs::read_to_string(&output).map_err(|error| error.to_string()))
}

/// Whether a file holds one signed text: with a second one, which of them was signed would be unclear.
fn is_one_message(signed: &[u8]) -> bool {
    let count = |marker: &[u8]| {
        signed
            .windows(marker.len())
            .filter(|here| here == &marker)
            .count()
    };
    count(b"-----BEGIN PGP SIGNED MESSAGE-----") == 1 && count(b"-----BEGIN PGP SIGNATURE-----") == 1
}

/// `gpgv` reads binary key rings only, and apt's may be armored (RFC 9580, section 6.2).
fn binary_key_ring(key_ring: &Path, scratch: &Path) -> std::io::Result<PathBuf> {
    let bytes = std::fs::read(key_ring)?;
    let Some(text) = std::str::from_utf8(&bytes)
        .ok()
        .filter(|text| text.starts_with("-----BEGIN PGP"))
    else {
        return Ok(key_ring.to_owned());
    };
    let body = text.lines().skip_while(|line| !line.trim().is_empty());
    let base64: String = body
        .map(str::trim)
        .take_while(|line| !line.starts_with(['=', '-']))
        .collect();
    let binary = scratch.join("keys.gpg");
    let decoded = STANDARD.decode(base64).map_err(std::io::Error::other)?;
    std::fs::write(&binary, decoded)?;
    Ok(binary)
}

/// The text of a clear-signed message (RFC 9580, section 7), unverified.
pub(super) fn signed_text(message: &str) -> Option<String> {
    let (_, rest) = message.split_once("-----BEGIN PGP SIGNED MESSAGE-----")?;
    let (text, _) = rest.split_once("\n-----BEGIN PGP SIGNATURE-----")?;
    let (_, text) = text.trim_start_matches(['\r', '\n']).split_once("\n\n")?;
    let lines = text.lines().map(|line| line.strip_prefix("- ").unwrap_or(line));
    Some(lines.collect::<Vec<_>>().join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIGNED: &str = "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\nSuite: x\n- -----BEGIN x\n\
                          -----BEGIN PGP SIGNATURE-----\n\nx\n-----END PGP SIGNATURE-----\n";

    #[test]
    fn the_signed_text_is_taken_out() {
        assert_eq!(signed_text(SIGNED).unwrap(), "Suite: x\n-----BEGIN x");
        assert!(signed_text("Suite: bookworm\n").is_none());
    }

    #[test]
    fn an_unsigned_release_does_not_pass_gpgv() {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("keys.gpg");
        std::fs::write(&key, "").unwrap();
        // Without gpgv on this machine there is nothing to be shown.
        if let Some(verified) = run_gpgv(&key, dir.path(), SIGNED.as_bytes()) {
            assert!(verified.unwrap_err().starts_with("no known key signed it"));
        }
    }

    #[test]
    fn armored_key_rings_are_decoded() {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("keys.asc");
        let text = "-----BEGIN PGP PUBLIC KEY BLOCK-----\nVersion: x\n\naGVs\nbG8=\n=AAAA\n-----END PGP PUBLIC KEY BLOCK-----\n";
        std::fs::write(&key, text).unwrap();
        let binary = binary_key_ring(&key, dir.path()).unwrap();
        assert_eq!(std::fs::read(&binary).unwrap(), b"hello");
        assert_eq!(binary_key_ring(&binary, Path::new("/nowhere")).unwrap(), binary);
    }

    #[test]
    fn one_file_holds_one_message() {
        let one = SIGNED;
        assert!(is_one_message(one.as_bytes()));
        assert!(!is_one_message(
            [one.as_bytes(), one.as_bytes()].concat().as_slice()
        ));
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "(-----BEGIN PGP SIGNED MESSAGE-----|-----BEGIN PGP SIGNATURE-----|\n|\r|- |\\PC){0,12}") {
            let _ = signed_text(&text);
            let _ = is_one_message(text.as_bytes());
        }
    }
}
