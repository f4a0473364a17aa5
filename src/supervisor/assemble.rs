//! Makes a container's spec out of a service's: paths of this process, volumes, secrets, and the few files
//! about names that every container has.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::place::{Kind, Place, create_dir};
use super::roots;
use super::spec::{MountSource, ServiceSpec};
use crate::container::{self, File};
use crate::tree::{Metadata, TreePath};

/// The size of a directory in memory that says none, in bytes.
const TMPFS_SIZE: u64 = 64 << 20;

/// A directory in memory that says no permissions.
const TMPFS_MODE: u32 = 0o1777;

/// The container, but for its host name and [`network_files`]. Makes volumes that are missing. The working
/// directory of this process is the store's root.
pub(super) fn spec(place: &Place, scratch: &Path, spec: &ServiceSpec) -> io::Result<container::Spec> {
    let metadata = match roots::metadata_place(&spec.root) {
        Some(path) => Metadata::decode(&fs::read(&path).map_err(|error| in_store(&path, &error))?)?,
        None => Metadata::default(),
    };
    let rootfs = roots::place_of(&spec.root);
    fs::metadata(&rootfs).map_err(|error| in_store(&rootfs, &error))?;
    let mut mounts = Vec::new();
    for mount in &spec.mounts {
        let at = inside(&mount.at)?;
        mounts.push(container::Mount {
            from: match &mount.source {
                MountSource::Volume(name) => volume(place, name, &rootfs, &metadata, &at)?,
                MountSource::Host(path) => path.clone(),
            },
            at,
            read_only: mount.read_only,
        });
    }
    let mut files = Vec::new();
    for (kind, mounted) in [(Kind::Secret, &spec.secrets), (Kind::Config, &spec.configs)] {
        for file in mounted {
            let content = place.get(kind, &file.version).map_err(|error| {
                let word = kind.word();
                io::Error::new(error.kind(), format!("the {word} `{}`: {error}", file.version))
            })?;
            files.push(File {
                at: inside(&file.at)?,
                content,
                mode: file.mode,
            });
        }
    }
    let tmpfs = spec.tmpfs.iter().map(|tmpfs| {
        Ok(container::Tmpfs {
            at: inside(&tmpfs.at)?,
            size: tmpfs.size.unwrap_or(TMPFS_SIZE),
            mode: tmpfs.mode.unwrap_or(TMPFS_MODE),
        })
    });
    Ok(container::Spec {
        rootfs,
        scratch: scratch.to_owned(),
        metadata,
        files,
        mounts,
        tmpfs: tmpfs.collect::<io::Result<_>>()?,
        hostname: String::new(),
        argv: spec.argv.clone(),
        env: last_of_each(&spec.env),
        cwd: inside(&spec.cwd)?,
        uid: spec.uid,
        gid: spec.gid,
        read_only: spec.read_only,
        init: spec.init,
    })
}

fn in_store(path: &Path, error: &io::Error) -> io::Error {
    let message = format!(
        "the image's {} is not in the store any more ({error}); roll it out again",
        path.display()
    );
    io::Error::new(error.kind(), message)
}

fn inside(path: &str) -> io::Result<TreePath> {
    path.parse::<TreePath>()
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error.to_string()))
}

/// Of variables with one name, the last.
fn last_of_each(env: &[(String, String)]) -> Vec<(String, String)> {
    let is_last =
        |(n, (name, _)): &(usize, &(String, String))| !env[n + 1..].iter().any(|(later, _)| later == name);
    let kept = env.iter().enumerate().filter(is_last);
    kept.map(|(_, variable)| variable.clone()).collect()
}

/// `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf`.
pub(super) fn network_files(
    spec: &ServiceSpec,
    hostname: &str,
    address: Option<Ipv4Addr>,
    resolvers: &[Ipv4Addr],
) -> Vec<File> {
    let mut hosts = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n".to_owned();
    let own = address.unwrap_or(Ipv4Addr::LOCALHOST);
    let _ = writeln!(hosts, "{own}\t{hostname}");
    for (name, address) in &spec.extra_hosts {
        let _ = writeln!(hosts, "{address}\t{name}");
    }
    // Each resolver knows all names that this container may ask for; the next one is for none.
    let resolv = resolvers.first().map_or_else(String::new, |resolver| {
        format!("nameserver {resolver}\noptions ndots:0\n")
    });
    let texts = [
        ("etc/hosts", hosts),
        ("etc/hostname", format!("{hostname}\n")),
        ("etc/resolv.conf", resolv),
    ];
    let file = |(at, text): (&str, String)| File {
        at: at.parse().expect("a plain path"),
        content: text.into_bytes(),
        mode: 0o644,
    };
    texts.map(file).into()
}

/// A volume's directory. One that is new gets what the image has where it is mounted, with its modes.
fn volume(
    place: &Place,
    name: &str,
    rootfs: &Path,
    metadata: &Metadata,
    at: &TreePath,
) -> io::Result<PathBuf> {
    let path = place.volume(name);
    if path.exists() {
        return Ok(path);
    }
    // Whole or not at all: a replica that starts at the same time makes its own, and one of them stays.
    let unique = format!(".{name}.{:?}", std::thread::current().id());
    let new = place.volume(&unique);
    let _ = crate::store::remove_tree(&new);
    let from = match at.is_root() {
        true => rootfs.to_owned(),
        false => rootfs.join(at.to_string()),
    };
    let metadata = metadata.select(at, &TreePath::root());
    create_dir(&new)?;
    if fs::symlink_metadata(&from).is_ok_and(|it| it.is_dir()) {
        copy(&from, &new, &metadata, &TreePath::root())?;
    } else {
        // As docker has it for a place that the image does not have.
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755))?;
    }
    match fs::rename(&new, &path) {
        Err(_) if path.exists() => {
            crate::store::remove_tree(&new).map_err(io::Error::other)?;
        }
        other => other?,
    }
    Ok(path)
}

fn copy(from: &Path, to: &Path, metadata: &Metadata, at: &TreePath) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        let name = entry.file_name();
        let name = name
            .to_str()
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
        let at = at.concat(&inside(name)?);
        let kind = entry.file_type()?;
        if kind.is_dir() {
            fs::create_dir(&to)?;
            copy(&from, &to, metadata, &at)?;
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(&from)?, &to)?;
        } else {
            fs::copy(&from, &to)?;
            let mode = metadata.0.get(&at).and_then(|attributes| attributes.mode);
            if let Some(mode) = mode {
                fs::set_permissions(&to, fs::Permissions::from_mode(mode))?;
            }
        }
    }
    let mode = metadata.0.get(at).and_then(|attributes| attributes.mode);
    fs::set_permissions(to, fs::Permissions::from_mode(mode.unwrap_or(0o755)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervisor::testing;
    use crate::tree::Attributes;

    #[test]
    fn a_new_volume_has_what_the_image_has_and_an_old_one_stays() {
        let directory = tempfile::tempdir().unwrap();
        let place = Place::at(directory.path());
        place.lay_out().unwrap();
        let rootfs = directory.path().join("rootfs");
        fs::create_dir_all(rootfs.join("data/sub")).unwrap();
        fs::write(rootfs.join("data/sub/file"), b"one").unwrap();
        let mut metadata = Metadata::default();
        for (path, mode) in [("data", 0o700), ("data/sub/file", 0o600)] {
            let attributes = Attributes {
                mode: Some(mode),
                ..Attributes::default()
            };
            metadata.0.insert(path.parse().unwrap(), attributes);
        }
        let make = |name, at: &str| volume(&place, name, &rootfs, &metadata, &at.parse().unwrap()).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        let data = make("data", "/data");
        assert_eq!(fs::read(data.join("sub/file")).unwrap(), b"one");
        let modes = [&data, &data.join("sub"), &data.join("sub/file")].map(|path| mode(path));
        assert_eq!(modes, [0o700, 0o755, 0o600]);
        fs::write(data.join("sub/file"), b"two").unwrap();
        assert_eq!(make("data", "/data"), data);
        assert_eq!(fs::read(data.join("sub/file")).unwrap(), b"two");
        let empty = make("empty", "/absent");
        assert_eq!((fs::read_dir(&empty).unwrap().count(), mode(&empty)), (0, 0o755));
        assert_eq!(fs::read_dir(directory.path().join("volumes")).unwrap().count(), 2);
    }

    #[test]
    fn the_last_of_two_variables_counts() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let env = [pair("A", "1"), pair("B", "2"), pair("A", "3")];
        assert_eq!(last_of_each(&env), [pair("B", "2"), pair("A", "3")]);
    }

    #[test]
    fn a_container_knows_itself_and_its_resolver() {
        let mut spec = testing::spec("v1");
        spec.extra_hosts = vec![("other".to_owned(), "10.0.0.1".to_owned())];
        let address = Ipv4Addr::new(10, 128, 0, 2);
        let gateway = Ipv4Addr::new(10, 128, 0, 1);
        let files = network_files(&spec, "api-1", Some(address), &[gateway]);
        let text = |n: usize| String::from_utf8(files[n].content.clone()).unwrap();
        assert!(text(0).contains("\n10.128.0.2\tapi-1\n10.0.0.1\tother\n"));
        assert_eq!(text(2), "nameserver 10.128.0.1\noptions ndots:0\n");
        let alone = network_files(&spec, "api-1", None, &[]);
        assert!(alone[2].content.is_empty());
    }
}
