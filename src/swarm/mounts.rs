//! What a service mounts.

use std::path::{Component, Path, PathBuf};

use bollard::models::{
    Mount, MountBindOptions, MountTmpfsOptions, MountType, MountVolumeOptions, MountVolumeOptionsDriverConfig,
};

use super::spec::{Error, Source, map, number, scoped, stack_labels};
use crate::stack::{self, MountSource};

pub(super) fn mounts(source: &Source) -> Result<Vec<Mount>, Error> {
    let mut mounts = Vec::new();
    for (index, mount) in source.service.volumes.iter().enumerate() {
        mounts.push(one(source, index, mount)?);
    }
    mounts.extend(source.service.tmpfs.iter().map(tmpfs));
    Ok(mounts)
}

fn one(source: &Source, index: usize, mount: &stack::Mount) -> Result<Mount, Error> {
    let mut result = Mount {
        target: Some(mount.target.clone()),
        read_only: Some(mount.read_only),
        ..Mount::default()
    };
    match &mount.source {
        MountSource::Volume {
            name: Some(name),
            nocopy,
            subpath,
        } => {
            result.typ = Some(MountType::VOLUME);
            let (volume, options) = volume(source, name);
            result.source = Some(volume);
            result.volume_options = Some(MountVolumeOptions {
                no_copy: nocopy.then_some(true),
                subpath: subpath.clone(),
                ..options
            });
        }
        MountSource::Volume {
            name: None,
            nocopy,
            subpath,
        } => {
            if subpath.is_some() {
                return Err(Error::new(
                    source.at(format!("volumes[{index}].volume.subpath")),
                    "is of a new volume, which has no directories",
                    "name a volume as `source`, or remove it",
                ));
            }
            result.typ = Some(MountType::VOLUME);
            result.volume_options = nocopy.then(|| MountVolumeOptions {
                no_copy: Some(true),
                ..MountVolumeOptions::default()
            });
        }
        MountSource::Bind { path, propagation } => {
            result.typ = Some(MountType::BIND);
            result.source = Some(joined(source.around.directory, path));
            let kind = propagation
                .map(|kind| source.word(&format!("volumes[{index}].bind.propagation"), kind))
                .transpose()?;
            result.bind_options = kind.map(|kind| MountBindOptions {
                propagation: Some(kind),
                ..MountBindOptions::default()
            });
        }
        MountSource::Tmpfs { size } => {
            result.typ = Some(MountType::TMPFS);
            result.tmpfs_options = size.map(|size| MountTmpfsOptions {
                size_bytes: Some(number(size)),
                ..MountTmpfsOptions::default()
            });
        }
    }
    Ok(result)
}

/// The name of a volume on the engine, and what it is made with where it is missing.
fn volume(source: &Source, name: &str) -> (String, MountVolumeOptions) {
    let stack_name = source.around.stack_name;
    let Some(volume) = source.stack.volumes.get(name) else {
        // The reader refuses a name that is not at the top of the file.
        return (scoped(stack_name, name), MountVolumeOptions::default());
    };
    if volume.external {
        let theirs = volume.name.clone().unwrap_or_else(|| name.to_owned());
        return (theirs, MountVolumeOptions::default());
    }
    let has_driver = volume.driver.is_some() || !volume.driver_opts.is_empty();
    let options = MountVolumeOptions {
        labels: Some(stack_labels(stack_name, &volume.labels)),
        driver_config: has_driver.then(|| MountVolumeOptionsDriverConfig {
            name: volume.driver.clone(),
            options: (!volume.driver_opts.is_empty()).then(|| map(&volume.driver_opts)),
        }),
        ..MountVolumeOptions::default()
    };
    let named = volume.name.clone();
    (named.unwrap_or_else(|| scoped(stack_name, name)), options)
}

fn tmpfs(tmpfs: &stack::Tmpfs) -> Mount {
    let has_options = tmpfs.size.is_some() || tmpfs.mode.is_some();
    Mount {
        typ: Some(MountType::TMPFS),
        target: Some(tmpfs.target.clone()),
        tmpfs_options: has_options.then(|| MountTmpfsOptions {
            size_bytes: tmpfs.size.map(number),
            mode: tmpfs.mode.map(i64::from),
            options: None,
        }),
        ..Mount::default()
    }
}

/// `path` below `directory` unless it is absolute, without `.` and `..`.
fn joined(directory: &Path, path: &str) -> String {
    if path.starts_with('/') {
        return path.to_owned();
    }
    let mut joined = PathBuf::new();
    for part in directory.join(path).components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                joined.pop();
            }
            part => joined.push(part),
        }
    }
    joined.to_string_lossy().into_owned()
}
