//! An image as an OCI layout on disk (image specification 1.1, `image-layout.md`), for every other tool.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use oci_spec::image::MediaType;

use super::{Error, image, layer_bytes};
use crate::digest::Digest;
use crate::image::{Image, Index};
use crate::store::Store;

const LAYOUT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;

/// What is written.
#[derive(Clone, Copy, Debug)]
pub enum Exported<'a> {
    /// An index with all of its images.
    Index(&'a Index),
    /// One image.
    Image(&'a Image),
}

/// Writes a layout to `directory`, which must be absent or empty, and appears complete or not at all. In
/// it, the image is called `name`.
pub fn export(store: &Store, exported: Exported<'_>, name: &str, directory: &Path) -> Result<(), Error> {
    let occupied = fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_some());
    if occupied || directory.is_file() {
        return Err(Error::Occupied(directory.to_owned()));
    }
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::Export { path, source }
    };
    let mut new = directory.as_os_str().to_owned();
    new.push(format!(".skep-{}", std::process::id()));
    let new = PathBuf::from(new);
    let written = write(store, exported, name, &new);
    let moved = written.and_then(|()| {
        // An empty directory may stand there; a rename replaces it.
        fs::rename(&new, directory).map_err(failed(directory))
    });
    if moved.is_err() {
        let _ = fs::remove_dir_all(&new);
    }
    moved
}

fn write(store: &Store, exported: Exported<'_>, name: &str, at: &Path) -> Result<(), Error> {
    let blobs = at.join("blobs/sha256");
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::Export { path, source }
    };
    fs::create_dir_all(&blobs).map_err(failed(at))?;
    let (media_type, top, images): (_, _, Vec<&Image>) = match exported {
        Exported::Index(index) => (
            MediaType::ImageIndex,
            index.digest,
            index.images.values().collect(),
        ),
        Exported::Image(image) => (MediaType::ImageManifest, image.manifest, vec![image]),
    };
    let mut content = vec![top];
    for image in images {
        content.extend([image.manifest, image.config]);
        for layer in &image.layers {
            layer_bytes(store, layer)?;
            content.push(layer.digest);
        }
    }
    for digest in content {
        copy(store, &digest, &blobs.join(digest.hex()))?;
    }
    let index = image::layout_index(media_type, &top, name)?;
    for (file, bytes) in [("oci-layout", LAYOUT.as_bytes()), ("index.json", &index)] {
        let path = at.join(file);
        fs::write(&path, bytes).map_err(failed(&path))?;
    }
    Ok(())
}

fn copy(store: &Store, digest: &Digest, to: &Path) -> Result<(), Error> {
    if to.exists() {
        return Ok(());
    }
    let failed = |source| Error::Export {
        path: to.to_owned(),
        source,
    };
    let mut from = store.reader(digest)?;
    let mut file = fs::File::create(to).map_err(failed)?;
    io::copy(&mut from, &mut file)
        .map(drop)
        .map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData => Error::Store(from.error(error)),
            _ => failed(error),
        })
}
