//! `inspect`, `container inspect`, `image inspect`, `network inspect`, `volume inspect`: everything known about an object, as JSON.

use bulkhead_engine::container::{self, view};
use bulkhead_engine::image;
use bulkhead_engine::network;
use bulkhead_engine::store::Store;
use bulkhead_engine::volume;
use serde_json::Value;

use super::lifecycle::store;
use crate::cli::Globals;
use crate::cli::container::ContainerInspectArgs;
use crate::cli::image::ImageInspectArgs;
use crate::cli::network::InspectArgs as NetworkInspectArgs;
use crate::cli::system::InspectArgs;
use crate::cli::volume::InspectArgs as VolumeInspectArgs;
use crate::failure::Failure;
use crate::output::list::bad_template;
use crate::output::raw;
use crate::template::{Kind, Template};

/// What an object may be looked for as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Object {
    Any,
    Container,
    Image,
    Network,
    Volume,
}

impl Object {
    /// Docker's line for a name that nothing answers to.
    fn missing(self, name: &str) -> String {
        match self {
            Self::Any => format!("Error: No such object: {name}"),
            Self::Container => format!("Error response from daemon: No such container: {name}"),
            Self::Image => {
                let full = image::Reference::parse(name).map(|name| name.tagged().familiar());
                format!("Error response from daemon: No such image: {}", full.as_deref().unwrap_or(name))
            }
            Self::Network => format!("Error response from daemon: network {name} not found"),
            Self::Volume => format!("Error response from daemon: get {name}: no such volume"),
        }
    }
}

/// `bulkhead inspect`
pub fn run(globals: &Globals, args: &InspectArgs) -> Result<u8, Failure> {
    let object = match args.kind.as_deref() {
        None | Some("") => Object::Any,
        Some("container") => Object::Container,
        Some("image") => Object::Image,
        Some("network") => Object::Network,
        Some("volume") => Object::Volume,
        Some("plugin") => {
            let name = args.names.first().map_or("", String::as_str);
            return Err(Failure::lines(&[
                "[]".to_owned(),
                format!("Error response from daemon: plugin \"{name}\" not found"),
            ]));
        }
        Some("config" | "node" | "secret" | "service" | "task") => {
            return Err(Failure::daemon(
                "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to swarm and try again.",
            ));
        }
        Some(other) => return Err(Failure::plain(format!("{other:?} is not a valid value for --type"))),
    };
    if args.size && object == Object::Image {
        eprintln_warning("--size ignored for images");
    }
    objects(globals, object, &args.names, args.format.as_deref(), args.size)
}

fn eprintln_warning(text: &str) {
    use std::io::Write as _;
    // A warning that cannot be written is no reason to fail.
    let _ = writeln!(std::io::stderr(), "WARNING: {text}");
}

/// `bulkhead container inspect`
pub fn containers(globals: &Globals, args: &ContainerInspectArgs) -> Result<u8, Failure> {
    objects(globals, Object::Container, &args.containers, args.format.as_deref(), args.size)
}

/// `bulkhead image inspect`
pub fn images(globals: &Globals, args: &ImageInspectArgs) -> Result<u8, Failure> {
    objects(globals, Object::Image, &args.images, args.format.as_deref(), false)
}

/// `bulkhead network inspect`
pub fn networks(globals: &Globals, args: &NetworkInspectArgs) -> Result<u8, Failure> {
    objects(globals, Object::Network, &args.networks, args.format.as_deref(), false)
}

/// `bulkhead volume inspect`
pub fn volumes(globals: &Globals, args: &VolumeInspectArgs) -> Result<u8, Failure> {
    objects(globals, Object::Volume, &args.volumes, args.format.as_deref(), false)
}

/// Prints those that are found, and then fails for those that are not.
fn objects(
    globals: &Globals,
    object: Object,
    names: &[String],
    format: Option<&str>,
    size: bool,
) -> Result<u8, Failure> {
    let template = match format {
        None | Some("" | "json") => None,
        Some(text) => {
            Some(Template::parse(text).map_err(|error| Failure { code: 64, ..bad_template(&error) })?)
        }
    };
    let store = store(globals)?;
    let mut shown = Vec::new();
    let mut failures = Vec::new();
    for name in names {
        match find(&store, object, name, size) {
            Ok(Some(value)) => shown.push(value),
            Ok(None) => failures.push(object.missing(name)),
            Err(failure) => failures.push(failure.message),
        }
    }
    let mut out = String::new();
    if let Some(template) = &template {
        for value in &shown {
            let before = out.len();
            if let Err(error) = template.execute(value.clone(), Kind::Inspect, &mut out) {
                out.truncate(before);
                raw(out.as_bytes())?;
                return Err(bad_template(&error));
            }
            out.push('\n');
        }
        // Docker prints an empty line when there is nothing to print.
        if shown.is_empty() {
            out.push('\n');
        }
    } else {
        let all = Value::Array(shown);
        out = if format == Some("json") { all.to_string() } else { indented(&all)? };
        out.push('\n');
    }
    raw(out.as_bytes())?;
    if failures.is_empty() { Ok(0) } else { Err(Failure::lines(&failures)) }
}

/// Docker indents by four.
fn indented(value: &Value) -> Result<String, Failure> {
    let mut out = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, formatter);
    serde::Serialize::serialize(value, &mut serializer).map_err(|error| Failure::plain(error.to_string()))?;
    String::from_utf8(out).map_err(|error| Failure::plain(error.to_string()))
}

fn find(store: &Store, object: Object, name: &str, size: bool) -> Result<Option<Value>, Failure> {
    if matches!(object, Object::Any | Object::Container) {
        match container::find(store, name) {
            Ok(found) => {
                let sizes = size.then(|| view::sizes(store, &found)).flatten();
                return view::inspect(store, &found, sizes).map(Some).map_err(Failure::daemon);
            }
            Err(container::Error::NoSuchContainer(_)) => {}
            Err(error) => return Err(Failure::daemon(error)),
        }
    }
    if matches!(object, Object::Any | Object::Image) {
        match image::find(store, name) {
            Ok(found) => {
                return image::view::inspect(store, &found).map(Some).map_err(Failure::daemon);
            }
            Err(image::Error::NoSuchImage(_)) => {}
            // What cannot be a name at all is, among objects of any kind, just not there.
            Err(image::Error::Reference(_)) if object == Object::Any => {}
            Err(error) => return Err(Failure::daemon(error)),
        }
    }
    if matches!(object, Object::Any | Object::Network) {
        match network::find(store, name).and_then(|found| network::inspect(store, &found)) {
            Ok(view) => return serde_json::to_value(view).map(Some).map_err(Failure::plain_from),
            Err(network::Error::NotFound(_)) => {}
            Err(error) => return Err(Failure::daemon(error)),
        }
    }
    if matches!(object, Object::Any | Object::Volume) {
        match volume::find(store, name) {
            Ok(found) => return Ok(Some(volume::view::inspect(&found, store.layout()))),
            Err(volume::Error::NotFound(_)) => {}
            Err(error) => return Err(Failure::daemon(error)),
        }
    }
    Ok(None)
}
