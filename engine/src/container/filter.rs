//! Which containers a list's filters admit.

use super::{Container, Status, view};
use crate::digest::Digest;
use crate::filter::{Error, label_holds, name_matches};
use crate::image;
use crate::store::Store;

/// What `--filter` says: different names are all to hold, of values of one name any (but of labels all).
#[derive(Debug)]
pub struct Filters<'a> {
    given: &'a [(String, String)],
    before: Option<String>,
    since: Option<String>,
    /// What the names and ids of `ancestor` stand for now; of those that are no image's there is nothing.
    ancestors: Vec<Digest>,
    /// A state is asked for, so that stopped ones are looked at too.
    pub any_state: bool,
}

impl<'a> Filters<'a> {
    /// Reads them; `before` and `since` are about containers among `all`, `ancestor` is about the store's images.
    pub fn read(store: &Store, given: &'a [(String, String)], all: &[Container]) -> Result<Self, Error> {
        Self::parse(given, all, |name| image::find(store, name).ok().map(|image| image.id))
    }

    fn parse(
        given: &'a [(String, String)],
        all: &[Container],
        image: impl Fn(&str) -> Option<Digest>,
    ) -> Result<Self, Error> {
        let mut filters = Self { given, before: None, since: None, ancestors: Vec::new(), any_state: false };
        let created = |name: &str| {
            all.iter()
                .find(|c| {
                    c.name == name.trim_start_matches('/') || (name.len() >= 3 && c.id.starts_with(name))
                })
                .map(|container| container.created.clone())
                .ok_or_else(|| Error::from(super::Error::NoSuchContainer(name.to_owned())))
        };
        for (name, value) in given {
            match name.as_str() {
                "status" => {
                    if !matches!(
                        value.as_str(),
                        "created" | "running" | "paused" | "restarting" | "removing" | "exited" | "dead"
                    ) {
                        return Err(Error::Invalid(format!("status={value}")));
                    }
                    filters.any_state = true;
                }
                "exited" if value.parse::<i32>().is_err() => {
                    return Err(Error::Invalid(format!("exited={value}")));
                }
                "health" if !matches!(value.as_str(), "none" | "starting" | "healthy" | "unhealthy") => {
                    return Err(Error::Health(value.clone()));
                }
                "before" => filters.before = Some(created(value)?),
                "since" => filters.since = Some(created(value)?),
                "ancestor" => filters.ancestors.extend(image(value)),
                "id" | "name" | "label" | "exited" | "health" | "network" | "volume" | "expose"
                | "publish" | "is-task" => {}
                other => return Err(Error::Invalid(other.to_owned())),
            }
        }
        Ok(filters)
    }

    fn any(&self, name: &str, mut holds: impl FnMut(&str) -> bool) -> bool {
        let mut values = self.given.iter().filter(|(given, _)| given == name).peekable();
        values.peek().is_none() || values.any(|(_, value)| holds(value))
    }

    /// Whether a container passes.
    pub fn admit(&self, container: &Container) -> bool {
        let record = &container.record;
        let labels = &record.config.labels;
        let health = container.state.health.as_ref().map_or("none", |health| health.status.as_str());
        self.before.as_ref().is_none_or(|moment| container.created < *moment)
            && self.since.as_ref().is_none_or(|moment| container.created > *moment)
            && self.any("id", |value| container.id.starts_with(value))
            && self.any("name", |value| name_matches(&container.name, value))
            && self
                .given
                .iter()
                .filter(|(name, _)| name == "label")
                .all(|(_, value)| label_holds(labels, value))
            && self.any("exited", |value| {
                container.state.status == Status::Exited && value.parse() == Ok(container.state.exit_code)
            })
            && self.any("status", |value| container.state.status.as_str() == value)
            && self.any("health", |value| health == value)
            && self.any("ancestor", |_| container.image.is_some_and(|id| self.ancestors.contains(&id)))
            && self.any("network", |value| view::network(&record.host_config) == value)
            && self.any("volume", |value| {
                record.mounts.iter().any(|m| m.name == value || m.source == value || m.destination == value)
            })
            && self.any("expose", |value| {
                let ports = record.config.exposed_ports.as_ref();
                let wanted = if value.contains('/') { value.to_owned() } else { format!("{value}/tcp") };
                ports.is_some_and(|ports| ports.contains_key(&wanted))
            })
            && self.any("publish", |value| {
                let wanted = if value.contains('/') { value.to_owned() } else { format!("{value}/tcp") };
                record.host_config.port_bindings.contains_key(&wanted)
            })
            && self.any("is-task", |value| matches!(value, "false" | "0"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::{Record, State};

    fn container(name: &str, status: Status, exit_code: i32) -> Container {
        let mut record = Record::default();
        record.config.image = "moved".into();
        record.config.labels = [("tier".into(), "web".into())].into();
        record.host_config.network_mode = "default".into();
        Container {
            id: format!("{:0<64}", hexish(name)),
            name: name.into(),
            image: Some(Digest::of(b"alpine")),
            created: format!("2026-01-01T00:00:0{exit_code}Z"),
            record: Box::new(record),
            state: State { status, exit_code, ..State::default() },
        }
    }

    fn hexish(name: &str) -> String {
        name.bytes().map(|byte| char::from(b'a' + byte % 6)).collect()
    }

    #[test]
    fn filters() {
        let all = [
            container("alpha", Status::Running, 0),
            container("beta", Status::Exited, 1),
            container("gamma", Status::Created, 2),
        ];
        // `moved` was the name that they were made by.
        let image = |name: &str| match name {
            "alpine:latest" | "a1b2" => Some(Digest::of(b"alpine")),
            "moved" => Some(Digest::of(b"another")),
            _ => None,
        };
        let names = |given: &[(&str, &str)]| {
            let given: Vec<(String, String)> =
                given.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            let filters = Filters::parse(&given, &all, image).map_err(|error| error.to_string())?;
            Ok::<_, String>(
                all.iter().filter(|c| filters.admit(c)).map(|c| c.name.as_str()).collect::<Vec<_>>(),
            )
        };
        for (given, want) in [
            (&[][..], &["alpha", "beta", "gamma"][..]),
            (&[("name", "a")], &["alpha", "beta", "gamma"]),
            (&[("name", "^be")], &["beta"]),
            (&[("name", "^/alpha$")], &["alpha"]),
            (&[("status", "exited"), ("status", "created")], &["beta", "gamma"]),
            (&[("exited", "1")], &["beta"]),
            (&[("label", "tier=web"), ("label", "tier")], &["alpha", "beta", "gamma"]),
            (&[("label", "tier=db")], &[]),
            (&[("before", "beta")], &["alpha"]),
            (&[("since", "beta")], &["gamma"]),
            (&[("ancestor", "alpine:latest")], &["alpha", "beta", "gamma"]),
            (&[("ancestor", "a1b2"), ("ancestor", "nosuch")], &["alpha", "beta", "gamma"]),
            (&[("ancestor", "busybox")], &[]),
            (&[("ancestor", "moved")], &[]),
            (&[("network", "bridge"), ("status", "running")], &["alpha"]),
            (&[("health", "none")], &["alpha", "beta", "gamma"]),
        ] {
            assert_eq!(names(given), Ok(want.to_vec()), "{given:?}");
        }
        for (given, want) in [
            (("foo", "x"), "invalid filter 'foo'"),
            (("status", "x"), "invalid filter 'status=x'"),
            (("before", "nobody"), "No such container: nobody"),
        ] {
            assert_eq!(names(&[given]), Err(want.to_owned()));
        }
    }
}
