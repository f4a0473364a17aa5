//! Networks, volumes, secrets and configs at the top of the file.

use super::fields::Fields;
use super::model::{Content, FileObject, Network, Volume};
use super::read::{Context, Value, is_name};
use super::yaml::Kind;

/// The subnets of a network, and the driver of its addresses.
#[derive(Default)]
struct Ipam {
    driver: Option<String>,
    subnets: Vec<String>,
}

pub(super) fn network(cx: &Context, value: Value) -> Option<Network> {
    if value.node.is_null() {
        return Some(Network::default());
    }
    let mut fields = cx.fields(value)?;
    let (external, name) = read_external(&mut fields);
    let ipam = fields.take("ipam", ipam).unwrap_or_default();
    let network = Network {
        name,
        external,
        driver: fields.take("driver", Context::filled),
        driver_opts: fields.take("driver_opts", Context::options).unwrap_or_default(),
        internal: fields.take("internal", Context::flag).unwrap_or_default(),
        attachable: fields.take("attachable", Context::flag).unwrap_or_default(),
        ipam_driver: ipam.driver,
        subnets: ipam.subnets,
        labels: fields.take("labels", Context::labels).unwrap_or_default(),
        extensions: fields.extensions(),
    };
    if external {
        refuse_with_external(
            cx,
            &fields,
            &[
                "driver",
                "driver_opts",
                "internal",
                "attachable",
                "ipam",
                "labels",
            ],
        );
    }
    fields.finish(&[("enable_ipv4", "remove it"), ("enable_ipv6", "remove it")]);
    Some(network)
}

fn ipam(cx: &Context, value: Value) -> Option<Ipam> {
    let mut fields = cx.fields(value)?;
    let subnet = |text: &str| {
        let (address, bits) = text.split_once('/')?;
        let address: std::net::IpAddr = address.parse().ok()?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        bits.parse().ok().filter(|bits: &u8| *bits <= most)?;
        Some(text.to_owned())
    };
    let pool = |cx: &Context, value: Value| {
        let mut fields = cx.fields(value)?;
        let subnet = fields.need("subnet", |cx, value| {
            cx.parsed(value, "a subnet such as `10.1.0.0/24`", subnet)
        });
        let none = "name the subnet alone";
        fields.finish(&[("gateway", none), ("ip_range", none), ("aux_addresses", none)]);
        subnet
    };
    let ipam = Ipam {
        driver: fields.take("driver", Context::filled),
        subnets: fields
            .take("config", |cx, value| cx.list(value, pool))
            .unwrap_or_default(),
    };
    fields.finish(&[("options", "remove it")]);
    Some(ipam)
}

pub(super) fn volume(cx: &Context, value: Value) -> Option<Volume> {
    if value.node.is_null() {
        return Some(Volume::default());
    }
    let mut fields = cx.fields(value)?;
    let (external, name) = read_external(&mut fields);
    let volume = Volume {
        name,
        external,
        driver: fields.take("driver", Context::filled),
        driver_opts: fields.take("driver_opts", Context::options).unwrap_or_default(),
        labels: fields.take("labels", Context::labels).unwrap_or_default(),
        extensions: fields.extensions(),
    };
    if external {
        refuse_with_external(cx, &fields, &["driver", "driver_opts", "labels"]);
    }
    fields.finish(&[]);
    Some(volume)
}

pub(super) fn secret(cx: &Context, value: Value) -> Option<FileObject> {
    let place = value.node.place.clone();
    let path = value.path.clone();
    let mut fields = cx.fields(value)?;
    let (external, name) = read_external(&mut fields);
    let file = fields.take("file", Context::filled);
    let driver = fields.take("driver", Context::filled);
    let options = fields.take("driver_opts", Context::options).unwrap_or_default();
    if external {
        refuse_with_external(
            cx,
            &fields,
            &["file", "driver", "driver_opts", "labels", "template_driver"],
        );
    }
    let content = match (external, file, driver) {
        (true, ..) => Content::External,
        (false, Some(file), None) if options.is_empty() => Content::File(file),
        (false, None, Some(name)) => Content::Driver { name, options },
        _ => {
            let what = format!("`{path}` has one of `external: true`, `file` and `driver`");
            cx.report(&place, what, "write where its content is");
            return None;
        }
    };
    Some(finish_object(fields, name, content))
}

pub(super) fn config(cx: &Context, value: Value) -> Option<FileObject> {
    let place = value.node.place.clone();
    let path = value.path.clone();
    let mut fields = cx.fields(value)?;
    let (external, name) = read_external(&mut fields);
    let file = fields.take("file", Context::filled);
    if external {
        refuse_with_external(cx, &fields, &["file", "labels", "template_driver"]);
    }
    let content = match (external, file) {
        (true, _) => Content::External,
        (false, Some(file)) => Content::File(file),
        (false, None) => {
            let what = format!("`{path}` has neither `external: true` nor `file`");
            cx.report(&place, what, "write where its content is");
            return None;
        }
    };
    Some(finish_object(fields, name, content))
}

fn finish_object(mut fields: Fields, name: Option<String>, content: Content) -> FileObject {
    let object = FileObject {
        name,
        content,
        labels: fields.take("labels", Context::labels).unwrap_or_default(),
        template_driver: fields.take("template_driver", Context::filled),
        extensions: fields.extensions(),
    };
    fields.finish(&[
        ("content", "write it to a file, and name that in `file`"),
        ("environment", "write it to a file, and name that in `file`"),
    ]);
    object
}

/// Whether it is there already, and its name on the target: from `name`, or from the older `external.name`.
fn read_external(fields: &mut Fields) -> (bool, Option<String>) {
    let named = |cx: &Context, value: Value| {
        let expected = "a name: at most 63 of `a-z A-Z 0-9 . _ -`, a letter or digit first";
        cx.parsed(value, expected, |text| is_name(text).then(|| text.to_owned()))
    };
    let name = fields.take("name", named);
    let external = fields.take("external", |cx, value| {
        if !matches!(&value.node.kind, Kind::Map(_)) {
            return cx.flag(value).map(|external| (external, None));
        }
        let mut fields = cx.fields(value)?;
        let name = fields.take("name", named);
        fields.finish(&[]);
        Some((true, name))
    });
    let (external, older_name) = external.unwrap_or_default();
    if name.is_some() && older_name.is_some() {
        let what = format!("`{}` and `external.name` are both there", fields.path_of("name"));
        fields.report("external", what, "write `external: true` and `name`");
    }
    (external, name.or(older_name))
}

/// What is there already is not configured here.
fn refuse_with_external(cx: &Context, fields: &Fields, keys: &[&'static str]) {
    for key in keys.iter().filter(|key| fields.has(key)) {
        let what = format!("`{}` goes with no `external`", fields.path_of(key));
        cx.report(&fields.place_of(key), what, "what is external is left as it is");
    }
}
