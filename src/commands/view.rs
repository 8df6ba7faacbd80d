//! How a container is shown: one line of `ps`, one object of `inspect`.

use bulkhead_engine::container::view::{mount_name, network, status};
use bulkhead_engine::container::{Container, Status};
use bulkhead_engine::digest::Digest;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::output::human;

fn quote(text: &str) -> String {
    // Go's strconv.Quote, as far as commands go: JSON's quoting differs only in control characters.
    Value::from(text).to_string()
}

/// The ports a running container exposes.
fn ports(container: &Container) -> String {
    if container.state.status != Status::Running && container.state.status != Status::Paused {
        return String::new();
    }
    let exposed = container.record.config.exposed_ports.iter().flat_map(|ports| ports.keys());
    exposed.cloned().collect::<Vec<_>>().join(", ")
}

/// What is shown of a writable layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// Nobody asked.
    Unasked,
    /// It was in use and could not be measured to the end.
    Unknown,
    /// Bytes of its own, and with the layers below.
    Bytes(u64, u64),
}

impl Size {
    /// Of what was measured.
    pub fn of(measured: Option<(u64, u64)>) -> Self {
        measured.map_or(Self::Unknown, |(own, whole)| Self::Bytes(own, whole))
    }
}

/// A line of `ps`, as its templates see it, with the columns that are wanted. Of a container whose image has lost its
/// name it shows the image's id, `nameless`.
pub fn row(
    container: &Container,
    nameless: Option<Digest>,
    full: bool,
    size: Size,
    now: Timestamp,
    wants: &dyn Fn(&str) -> bool,
) -> Map<String, Value> {
    let record = &container.record;
    let short = |text: String, width| if full { text } else { human::ellipsis(&text, width) };
    let command = || {
        let mut command = record.path.clone();
        for argument in &record.args {
            command.push(' ');
            command.push_str(argument);
        }
        quote(&short(command, 20))
    };
    let image = || {
        if let Some(id) = nameless {
            return if full { id.to_string() } else { id.short() };
        }
        let image = if record.config.image.is_empty() { "<no image>" } else { &record.config.image };
        let image_id = container.image.map(|id| id.to_string()).unwrap_or_default();
        let bare = image.strip_prefix("sha256:").unwrap_or(image);
        let by_id =
            bare.len() >= 12 && image_id.strip_prefix("sha256:").is_some_and(|id| id.starts_with(bare));
        if by_id && !full { &bare[..12] } else { image }.to_owned()
    };
    let labels = || {
        let labels = record.config.labels.iter().map(|(key, value)| format!("{key}={value}"));
        labels.collect::<Vec<_>>().join(",")
    };
    let mounts = || {
        let mounts = record.mounts.iter().filter(|mount| mount.kind != "tmpfs");
        mounts.map(|mount| short(mount_name(mount).to_owned(), 15)).collect::<Vec<_>>().join(",")
    };
    let local_volumes = || record.mounts.iter().filter(|mount| mount.kind == "volume").count().to_string();
    let size = || match size {
        Size::Unasked => "0B".to_owned(),
        Size::Unknown => "unknown".to_owned(),
        Size::Bytes(own, 0) => human::size(own),
        Size::Bytes(own, whole) => format!("{} (virtual {})", human::size(own), human::size(whole)),
    };
    let id = || if full { container.id.as_str() } else { container.short_id() }.to_owned();
    let running_for = || format!("{} ago", human::duration(human::since(&container.created, now)));
    let columns: [(&str, &dyn Fn() -> String); 14] = [
        ("Command", &command),
        ("CreatedAt", &|| human::local(&container.created)),
        ("ID", &id),
        ("Image", &image),
        ("Labels", &labels),
        ("LocalVolumes", &local_volumes),
        ("Mounts", &mounts),
        ("Names", &|| container.name.clone()),
        ("Networks", &|| network(&record.host_config).to_owned()),
        ("Ports", &|| ports(container)),
        ("RunningFor", &running_for),
        ("Size", &size),
        ("State", &|| container.state.status.as_str().to_owned()),
        ("Status", &|| status(&container.state, now)),
    ];
    let mut row = Map::new();
    row.extend(
        columns
            .iter()
            .filter(|(name, _)| wants(name))
            .map(|(name, text)| ((*name).to_owned(), text().into())),
    );
    // Docker fills it from an image store that keeps images of several platforms.
    if wants("Platform") {
        row.insert("Platform".to_owned(), Value::Null);
    }
    if wants("_labels") {
        row.insert("_labels".to_owned(), json!(record.config.labels));
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_engine::container::{Record, State};

    fn container(status: Status) -> Container {
        let state = State {
            status,
            started_at: "2026-01-01T00:00:00.5Z".into(),
            finished_at: "2026-01-01T00:01:57Z".into(),
            exit_code: 3,
            ..State::default()
        };
        let mut record = Record {
            path: "sh".into(),
            args: vec!["-c".into(), "while \"true\"; do :; done".into()],
            ..Record::default()
        };
        record.config.image = "alpine:3".into();
        record.config.labels = [("a".into(), "1".into()), ("b".into(), String::new())].into();
        Container {
            id: "0123456789abcdef".repeat(4),
            name: "web".into(),
            image: None,
            created: "2026-01-01T00:00:00Z".into(),
            record: Box::new(record),
            state,
        }
    }

    #[test]
    fn a_row() {
        let now: Timestamp = "2026-01-01T00:02:00Z".parse().expect("time");
        let shown =
            row(&container(Status::Running), None, false, Size::Bytes(1500, 2_000_000), now, &|_| true);
        assert_eq!(shown["ID"], "0123456789ab");
        assert_eq!(shown["Command"], "\"sh -c while \\\"true\\\";…\"");
        assert_eq!(shown["Labels"], "a=1,b=");
        assert_eq!(shown["Size"], "1.5kB (virtual 2MB)");
        assert_eq!(shown["RunningFor"], "2 minutes ago");
        assert_eq!(
            row(&container(Status::Running), None, true, Size::Unasked, now, &|_| true)["Command"],
            "\"sh -c while \\\"true\\\"; do :; done\""
        );
        let names = row(&container(Status::Running), None, true, Size::Unasked, now, &|name| name == "Names");
        assert_eq!(Value::from(names), json!({"Names": "web"}));
    }
}
