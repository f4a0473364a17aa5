//! Volumes, binds and memory that a service mounts, in short and long form.

use super::fields::Fields;
use super::model::{Mount, MountSource, Propagation, Tmpfs};
use super::quantity;
use super::read::{Context, Value, is_name};
use super::word::{Word, words};
use super::yaml::Kind;

const SHORT: &str = "`[SOURCE:]TARGET[:OPTIONS]` with a volume's name or a path, an absolute target, \
                     and options among `ro`, `rw`, `nocopy` and kinds of propagation";

words! {
    /// A mount's `type`.
    pub enum MountKind {
        #[default] Volume = "volume",
        Bind = "bind",
        Tmpfs = "tmpfs",
    }
}

pub(super) fn mounts(cx: &Context, value: Value) -> Option<Vec<Mount>> {
    let path = value.path.clone();
    let mut mounts: Vec<Mount> = Vec::new();
    for item in cx.list(value, |_, value| Some(value))? {
        let (item_path, place) = (item.path.clone(), item.node.place.clone());
        let Some(mount) = mount(cx, item) else { continue };
        if mounts.iter().any(|before| before.target == mount.target) {
            let what = format!("`{path}` has two mounts at `{}`", mount.target);
            cx.report(&place, what, "remove one");
        }
        if item_path != format!("{path}[{}]", mounts.len()) {
            cx.remember(&format!("{path}[{}]", mounts.len()), &place);
        }
        mounts.push(mount);
    }
    Some(mounts)
}

fn mount(cx: &Context, value: Value) -> Option<Mount> {
    let (path, place) = (value.path.clone(), value.node.place.clone());
    let mount = match &value.node.kind {
        Kind::Map(_) => long(cx, value)?,
        _ => cx.parsed(value, SHORT, short)?,
    };
    if let MountSource::Bind { path: source, .. } = &mount.source
        && source.starts_with('~')
    {
        let what = format!("`{path}` begins with `~`, which is another place for every user");
        cx.report(&place, what, "write an absolute path, or `${HOME}`");
    }
    Some(mount)
}

fn volume(name: Option<String>) -> MountSource {
    MountSource::Volume {
        name,
        nocopy: false,
        subpath: None,
    }
}

fn short(text: &str) -> Option<Mount> {
    let parts: Vec<_> = text.split(':').collect();
    let (source, target, options) = match parts.as_slice() {
        [target] => ("", *target, ""),
        [source, target] if !source.is_empty() => (*source, *target, ""),
        [source, target, options] if !source.is_empty() && !options.is_empty() => {
            (*source, *target, *options)
        }
        _ => return None,
    };
    if !is_target(target) {
        return None;
    }
    let mut read_only = false;
    let (mut stays_empty, mut kind) = (false, None);
    for option in options.split(',').filter(|_| !options.is_empty()) {
        match option {
            "ro" => read_only = true,
            "rw" => read_only = false,
            "nocopy" => stays_empty = true,
            _ => kind = Some(propagation(option)?),
        }
    }
    let source = if source.starts_with(['.', '/', '~']) && !stays_empty {
        MountSource::Bind {
            path: source.to_owned(),
            propagation: kind,
        }
    } else if source.is_empty() {
        volume(None)
    } else if is_name(source) && source.len() > 1 && kind.is_none() {
        MountSource::Volume {
            name: Some(source.to_owned()),
            nocopy: stays_empty,
            subpath: None,
        }
    } else {
        return None;
    };
    let target = target.to_owned();
    Some(Mount {
        source,
        target,
        read_only,
    })
}

fn propagation(text: &str) -> Option<Propagation> {
    let find = |(word, kind): &(&str, Propagation)| (*word == text).then_some(*kind);
    Propagation::ALL.iter().find_map(find)
}

fn is_target(path: &str) -> bool {
    path.starts_with('/') && path.len() > 1 && !path.split('/').any(|part| part == "..")
}

fn target(cx: &Context, value: Value) -> Option<String> {
    let expected = "an absolute path below `/`, without `..`";
    cx.parsed(value, expected, |text| is_target(text).then(|| text.to_owned()))
}

fn long(cx: &Context, value: Value) -> Option<Mount> {
    let mut fields = cx.fields(value)?;
    let kind: Option<MountKind> = fields.need("type", Context::word);
    let target = fields.need("target", target);
    let read_only = fields.take("read_only", Context::flag).unwrap_or_default();
    fields.ignore("consistency", "it is of another system");
    let source = match kind {
        Some(MountKind::Volume) => Some(long_volume(&mut fields)),
        Some(MountKind::Bind) => long_bind(&mut fields),
        Some(MountKind::Tmpfs) => Some(long_tmpfs(&mut fields)),
        None => return None,
    };
    let misplaced = |key| (key, "it goes with another `type`");
    fields.finish(&["source", "volume", "bind", "tmpfs", "image", "cluster"].map(misplaced));
    Some(Mount {
        source: source?,
        target: target?,
        read_only,
    })
}

fn long_volume(fields: &mut Fields) -> MountSource {
    let name = fields.take("source", |cx, value| {
        cx.parsed(value, "a volume's name", |text| {
            is_name(text).then(|| text.to_owned())
        })
    });
    let options = fields.take("volume", |cx, value| {
        let mut fields = cx.fields(value)?;
        let nocopy = fields.take("nocopy", Context::flag).unwrap_or_default();
        let subpath = fields.take("subpath", Context::filled);
        fields.finish(&[("labels", "give them to the volume at the top of the file")]);
        Some((nocopy, subpath))
    });
    let (nocopy, subpath) = options.unwrap_or_default();
    MountSource::Volume {
        name,
        nocopy,
        subpath,
    }
}

fn long_bind(fields: &mut Fields) -> Option<MountSource> {
    let path = fields.need("source", Context::filled);
    let propagation = fields.take("bind", |cx, value| {
        let mut fields = cx.fields(value)?;
        let propagation = fields.take("propagation", Context::word);
        fields.ignore("create_host_path", "no target makes missing directories");
        fields.finish(&[("selinux", "label the directory itself")]);
        Some(propagation)
    });
    let propagation = propagation.flatten();
    Some(MountSource::Bind {
        path: path?,
        propagation,
    })
}

fn long_tmpfs(fields: &mut Fields) -> MountSource {
    let size = fields.take("tmpfs", |cx, value| {
        let mut fields = cx.fields(value)?;
        let size = fields.take("size", |cx, value| cx.number(value, 0..=u64::MAX >> 1));
        fields.finish(&[(
            "mode",
            "the short form `tmpfs: [\"/path:mode=1777\"]` of the service has it",
        )]);
        Some(size)
    });
    let size = size.flatten().filter(|size| *size > 0);
    MountSource::Tmpfs { size }
}

/// `PATH[:size=SIZE,mode=MODE]`
pub(super) fn tmpfs(text: &str) -> Option<Tmpfs> {
    let (target, options) = text.split_once(':').unwrap_or((text, ""));
    let mut tmpfs = Tmpfs {
        target: target.to_owned(),
        size: None,
        mode: None,
    };
    for option in options.split(',').filter(|_| text.contains(':')) {
        match option.split_once('=')? {
            ("size", size) => tmpfs.size = Some(quantity::bytes(size)?),
            ("mode", mode) => {
                tmpfs.mode = Some(u32::from_str_radix(mode, 8).ok().filter(|mode| *mode <= 0o7777)?);
            }
            _ => return None,
        }
    }
    is_target(target).then_some(tmpfs)
}
