//! `--filter key=value` and `--namespace type:inum`.
//!
//! As in Docker's lists, several values of one key mean any of them, and several keys mean all of them. An
//! event that does not have what a key asks for does not match.

use bulkhead_ebpf::{Endpoints, Event, Exec, Kind};

/// Keys of `--filter`.
const KEYS: [&str; 9] = ["event", "comm", "pid", "uid", "path", "address", "port", "name", "code"];
/// Types of `--namespace`, as in `/proc/PID/ns`.
const NAMESPACES: [&str; 8] = ["mnt", "pid", "net", "uts", "ipc", "user", "cgroup", "time"];

/// What an event must be like.
#[derive(Debug, Default)]
pub struct Filters {
    fields: Vec<(&'static str, Vec<String>)>,
    namespaces: Vec<(&'static str, Vec<u32>)>,
}

impl Filters {
    /// Reads the flags' values.
    pub fn parse(filters: &[String], namespaces: &[String]) -> Result<Self, String> {
        let mut parsed = Self::default();
        for text in filters {
            let (key, value) =
                text.split_once('=').ok_or_else(|| format!("invalid argument \"{text}\" for \"-f, --filter\" flag: bad format of filter (expected name=value)"))?;
            let key = KEYS.into_iter().find(|k| *k == key.trim()).ok_or_else(|| {
                format!("invalid filter '{}': must be one of {}", key.trim(), KEYS.join(", "))
            })?;
            push(&mut parsed.fields, key, value.trim().to_owned());
        }
        for text in namespaces {
            let bad = || {
                format!(
                    "invalid argument \"{text}\" for \"--namespace\" flag: must be TYPE:INUM, TYPE one of {}, \
                     INUM as in /proc/PID/ns",
                    NAMESPACES.join(", ")
                )
            };
            let (kind, inum) = text.split_once(':').ok_or_else(bad)?;
            let kind = NAMESPACES.into_iter().find(|k| *k == kind).ok_or_else(bad)?;
            // Also as readlink prints it: net:[4026531840].
            let inum = inum.strip_prefix('[').and_then(|i| i.strip_suffix(']')).unwrap_or(inum);
            push(&mut parsed.namespaces, kind, inum.parse().map_err(|_| bad())?);
        }
        Ok(parsed)
    }

    /// Whether an event is to be shown.
    pub fn pass(&self, event: &Event) -> bool {
        self.namespaces.iter().all(|(kind, wanted)| {
            let socket = ends(&event.kind).map(|e| e.netns).filter(|n| *kind == "net" && *n != 0);
            let inum = socket.or_else(|| event.task.as_ref().and_then(|t| t.namespace(kind)));
            inum.is_some_and(|inum| wanted.contains(&inum))
        }) && self.fields.iter().all(|(key, wanted)| {
            let have = values(event, key);
            wanted.iter().any(|pattern| have.iter().any(|value| glob(pattern.as_bytes(), value)))
        })
    }
}

fn push<T>(list: &mut Vec<(&'static str, Vec<T>)>, key: &'static str, value: T) {
    match list.iter_mut().find(|(k, _)| *k == key) {
        Some((_, values)) => values.push(value),
        None => list.push((key, vec![value])),
    }
}

/// The addresses and ports of an event that has some.
pub fn ends(kind: &Kind) -> Option<&Endpoints> {
    match kind {
        Kind::TcpConnect(t)
        | Kind::TcpConnectFailed(t)
        | Kind::TcpAccept(t)
        | Kind::TcpClose(t)
        | Kind::TcpListen(t) => Some(&t.ends),
        Kind::UdpFlow(f) => Some(&f.ends),
        Kind::Dns(d) => Some(&d.ends),
        _ => None,
    }
}

/// What an event has under a key.
fn values(event: &Event, key: &str) -> Vec<Vec<u8>> {
    let number = |n: u32| n.to_string().into_bytes();
    let task = event.task.as_ref();
    match key {
        "event" => vec![event.kind.name().into()],
        "comm" => task.map(|t| t.name().to_vec()).into_iter().collect(),
        "pid" => task.map(|t| vec![number(t.pid), number(t.ns_pid)]).unwrap_or_default(),
        "uid" => task.map(|t| number(t.uid)).into_iter().collect(),
        "path" => match &event.kind {
            Kind::Exec(Exec { filename, .. }) | Kind::ExecFailed(Exec { filename, .. }, _) => {
                vec![filename.clone()]
            }
            _ => Vec::new(),
        },
        "address" => ends(&event.kind)
            .map(|e| vec![e.local.to_string().into(), e.remote.to_string().into()])
            .unwrap_or_default(),
        "port" => ends(&event.kind)
            .map(|e| vec![number(e.local_port.into()), number(e.remote_port.into())])
            .unwrap_or_default(),
        "name" => match &event.kind {
            Kind::Dns(d) => {
                d.message.iter().flat_map(|m| &m.questions).map(|q| q.name.clone().into_bytes()).collect()
            }
            _ => Vec::new(),
        },
        "code" => match &event.kind {
            Kind::Exit(exit) => exit.code.map(|c| number(c.into())).into_iter().collect(),
            _ => Vec::new(),
        },
        _ => Vec::new(),
    }
}

/// `*` stands for any bytes; everything else for itself.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, t));
            p += 1;
        } else if pattern.get(p) == Some(&text[t]) {
            p += 1;
            t += 1;
        } else if let Some((at, from)) = star {
            p = at + 1;
            t = from + 1;
            star = Some((at, t));
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|b| *b == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_ebpf::{Exit, Namespaces, Task};
    use std::time::Duration;

    fn exit(code: u8) -> Event {
        let mut comm = [0; 16];
        comm[..4].copy_from_slice(b"make");
        let ns = Namespaces { net: 4_026_531_840, time: 4_026_531_834, ..Default::default() };
        Event {
            time: Duration::ZERO,
            cgroup_id: 1,
            leaf_cgroup_id: 1,
            task: Some(Task { pid: 4711, ns_pid: 7, uid: 33, ns, comm, ..Default::default() }),
            kind: Kind::Exit(Exit { code: Some(code), signal: None, core: false, duration: Duration::ZERO }),
        }
    }

    fn passes(filters: &[&str], namespaces: &[&str]) -> bool {
        let own = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        Filters::parse(&own(filters), &own(namespaces)).unwrap().pass(&exit(3))
    }

    #[test]
    fn values_of_one_key_are_alternatives_and_keys_add_up() {
        for (filters, namespaces, want) in [
            (&[][..], &[][..], true),
            (&["comm=make"], &[], true),
            (&["comm=m*e"], &[], true),
            (&["comm=mak"], &[], false),
            (&["comm=gcc", "comm=make"], &[], true),
            (&["comm=make", "code=4"], &[], false),
            (&["event=exit", "code=3", "uid=33"], &[], true),
            (&["pid=7"], &[], true),
            (&["pid=4711"], &[], true),
            (&["pid=8"], &[], false),
            (&["port=80"], &[], false),
            (&[], &["net:4026531840"], true),
            (&[], &["net:[4026531840]"], true),
            (&[], &["net:1", "net:4026531840"], true),
            (&[], &["time:4026531834"], true),
            (&[], &["time:1"], false),
            (&[], &["net:4026531840", "pid:1"], false),
        ] {
            assert_eq!(passes(filters, namespaces), want, "{filters:?} {namespaces:?}");
        }
    }

    #[test]
    fn bad_filters_are_named() {
        for (filter, namespace, want) in [
            ("colour=red", "net:1", "invalid filter 'colour'"),
            ("comm", "net:1", "expected name=value"),
            ("comm=a", "net", "--namespace"),
            ("comm=a", "times:1", "--namespace"),
            ("comm=a", "net:x", "--namespace"),
        ] {
            let error = Filters::parse(&[filter.into()], &[namespace.into()]).unwrap_err();
            assert!(error.contains(want), "{error}");
        }
    }

    #[test]
    fn globs() {
        for (pattern, text, want) in [
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("/usr/*/ls", "/usr/bin/ls", true),
            ("*.example.org", "www.example.org", true),
            ("*.example.org", "example.org", false),
            ("a*b*c", "aXbXbYc", true),
            ("a*b*c", "aXbXbY", false),
            ("**", "x", true),
        ] {
            assert_eq!(glob(pattern.as_bytes(), text.as_bytes()), want, "{pattern} {text}");
        }
    }
}
