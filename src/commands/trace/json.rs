//! One JSON object per event, for programs. `docs/trace.md` is the schema.
//!
//! What the kernel hands out as bytes (arguments, names, paths) becomes text: bytes that are no UTF-8 are
//! replaced by U+FFFD. Characters that could change what is seen on a terminal are written as JSON escapes,
//! so a line may be printed as it is.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::SystemTime;

use bulkhead_ebpf::{Dns, Endpoints, Event, Exec, Kind, Tcp, Transport, dns};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::names::Who;

/// The line of an event that happened at a time of the clock.
pub fn event(event: &Event, who: &Who, wall: SystemTime) -> String {
    let time = Timestamp::try_from(wall).unwrap_or_default();
    let mut object = Map::new();
    let mut put = |key: &str, value: Value| object.insert(key.into(), value);
    put("time", json!(time.to_string()));
    put("boot_ns", json!(event.time.as_nanos() as u64));
    put("event", json!(event.kind.name()));
    let container = if who.id.is_empty() {
        Value::Null
    } else {
        json!({ "id": who.id, "name": who.name, "image": who.image })
    };
    put("container", container);
    put("cgroup_id", json!(event.cgroup_id));
    put("leaf_cgroup_id", json!(event.leaf_cgroup_id));
    let process = event.task.as_ref().map_or(Value::Null, |task| {
        json!({
            "pid": task.pid,
            "tid": task.tid,
            "container_pid": task.ns_pid,
            "ppid": task.ppid,
            "start_boot_ns": task.start_ns,
            "uid": task.uid,
            "gid": task.gid,
            "comm": text(task.name()),
            "namespaces": {
                "mnt": task.ns.mnt, "pid": task.ns.pid, "net": task.ns.net, "uts": task.ns.uts,
                "ipc": task.ns.ipc, "user": task.ns.user, "cgroup": task.ns.cgroup, "time": task.ns.time,
            },
        })
    });
    put("process", process);
    let (key, value) = details(&event.kind);
    put(key, value);
    printable(&Value::Object(object).to_string())
}

/// The line that says what is missing, by cause.
pub fn lost(causes: &BTreeMap<String, u64>, wall: SystemTime) -> String {
    let time = Timestamp::try_from(wall).unwrap_or_default().to_string();
    let total: u64 = causes.values().sum();
    printable(
        &json!({ "time": time, "event": "lost", "lost": { "total": total, "causes": causes } }).to_string(),
    )
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Outside strings JSON is ASCII, so every other character stands in a string and may be escaped there.
fn printable(line: &str) -> String {
    if line.is_ascii() && !line.contains('\u{7f}') {
        return line.to_owned();
    }
    let mut out = String::with_capacity(line.len());
    for c in line.chars() {
        if bulkhead_ebpf::is_hidden(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(out, "\\u{unit:04x}");
            }
        } else {
            out.push(c);
        }
    }
    out
}

fn details(kind: &Kind) -> (&'static str, Value) {
    match kind {
        Kind::Exec(exec) => ("exec", program(exec, None)),
        Kind::ExecFailed(exec, errno) => ("exec", program(exec, Some(*errno))),
        Kind::Exit(exit) => (
            "exit",
            json!({
                "code": exit.code,
                "signal": exit.signal,
                "core": exit.core,
                "duration_ns": exit.duration.as_nanos() as u64,
            }),
        ),
        Kind::TcpConnect(t)
        | Kind::TcpConnectFailed(t)
        | Kind::TcpAccept(t)
        | Kind::TcpClose(t)
        | Kind::TcpListen(t) => ("tcp", tcp(t)),
        Kind::UdpFlow(flow) => {
            let mut object = ends(&flow.ends);
            object.insert("duration_ns".into(), json!(flow.duration.as_nanos() as u64));
            object.insert("tx_packets".into(), json!(flow.tx_packets));
            object.insert("tx_bytes".into(), json!(flow.tx_bytes));
            object.insert("rx_packets".into(), json!(flow.rx_packets));
            object.insert("rx_bytes".into(), json!(flow.rx_bytes));
            ("udp", object.into())
        }
        Kind::Dns(d) => ("dns", message(d)),
        Kind::Oom(oom) => {
            let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
            let page = page.map_or(4096, |p| p as u64);
            let detail = oom.detailed.as_ref().map(|d| {
                json!({
                    "rss": d.rss(), "anon_rss": d.anon_rss, "file_rss": d.file_rss, "shmem_rss": d.shmem_rss,
                    "swap": d.swap, "pgtables": d.pgtables, "total_vm": d.total_vm,
                    "score_adj": d.score_adj, "points": d.points(oom.limit, page),
                })
            });
            ("oom", json!({ "limit": oom.limit, "victim": detail }))
        }
        Kind::CgroupMade(name) | Kind::CgroupRemoved(name) => ("cgroup", json!({ "name": text(name) })),
    }
}

fn program(exec: &Exec, errno: Option<i32>) -> Value {
    let parents: Vec<Value> =
        exec.parents.iter().map(|p| json!({ "pid": p.pid, "comm": text(&p.comm) })).collect();
    json!({
        "path": text(&exec.filename),
        "path_cut": exec.filename_cut,
        "args": exec.args.iter().map(|a| text(a)).collect::<Vec<_>>(),
        "args_cut": exec.args_cut,
        "cwd": text(&exec.cwd),
        "cwd_cut": exec.cwd_cut,
        "errno": errno,
        "parents": parents,
    })
}

fn ends(ends: &Endpoints) -> Map<String, Value> {
    let mut object = Map::new();
    object.insert("local".into(), json!(ends.local.to_string()));
    object.insert("local_port".into(), json!(ends.local_port));
    object.insert("remote".into(), json!(ends.remote.to_string()));
    object.insert("remote_port".into(), json!(ends.remote_port));
    object.insert("netns".into(), if ends.netns == 0 { Value::Null } else { json!(ends.netns) });
    object
}

fn tcp(tcp: &Tcp) -> Value {
    let mut object = ends(&tcp.ends);
    object.insert("duration_ns".into(), json!(tcp.duration.as_nanos() as u64));
    object.insert("tx_bytes".into(), json!(tcp.tx_bytes));
    object.insert("rx_bytes".into(), json!(tcp.rx_bytes));
    object.insert("srtt_us".into(), json!(tcp.srtt.as_micros() as u64));
    object.insert("retransmits".into(), json!(tcp.retransmits));
    object.insert("segs_out".into(), json!(tcp.segs_out));
    object.insert("segs_in".into(), json!(tcp.segs_in));
    object.insert("errno".into(), json!(tcp.error));
    object.insert("older".into(), json!(tcp.older));
    object.into()
}

fn message(d: &Dns) -> Value {
    let mut object = ends(&d.ends);
    let transport = match d.transport {
        Transport::Tcp => "tcp",
        Transport::Udp => "udp",
    };
    object.insert("transport".into(), json!(transport));
    object.insert("size".into(), json!(d.size));
    object.insert("latency_ns".into(), json!(d.latency.map(|l| l.as_nanos() as u64)));
    let message = d.message.as_ref().map(|m| {
        let questions: Vec<Value> =
            m.questions.iter().map(|q| json!({ "name": q.name, "type": dns::kind_name(q.kind) })).collect();
        let answers: Vec<Value> = m
            .answers
            .iter()
            .map(|r| json!({ "name": r.name, "ttl": r.ttl, "data": r.data.to_string() }))
            .collect();
        json!({
            "id": m.id,
            "rcode": dns::rcode_name(m.rcode),
            "truncated": m.truncated,
            "incomplete": m.incomplete,
            "questions": questions,
            "answers": answers,
        })
    });
    object.insert("message".into(), message.unwrap_or(Value::Null));
    object.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_line_is_json_and_harmless() {
        let exec = Exec {
            filename: b"/bin/\xff".to_vec(),
            filename_cut: false,
            cwd: "/quo\"te\n".into(),
            cwd_cut: false,
            args: vec![b"\x1b[2J".to_vec(), "\u{9b}31m\u{202e}\u{7f}".into()],
            args_cut: true,
            parents: Vec::new(),
        };
        let e = Event {
            time: Duration::from_nanos(5),
            cgroup_id: 9,
            leaf_cgroup_id: 10,
            task: None,
            kind: Kind::ExecFailed(exec, libc::ENOENT),
        };
        let line = event(&e, &Who::default(), SystemTime::UNIX_EPOCH);
        assert!(!line.chars().any(char::is_control), "{line:?}");
        assert!(!line.contains('\u{202e}'));
        let value: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["exec"]["path"], "/bin/\u{fffd}");
        assert_eq!(value["exec"]["cwd"], "/quo\"te\n");
        assert_eq!(value["exec"]["args"][0], "\u{1b}[2J");
        assert_eq!(value["exec"]["args"][1], "\u{9b}31m\u{202e}\u{7f}");
        assert_eq!(value["exec"]["errno"], libc::ENOENT);
        assert_eq!((&value["container"], &value["process"]), (&Value::Null, &Value::Null));
        assert_eq!((value["cgroup_id"].as_u64(), value["boot_ns"].as_u64()), (Some(9), Some(5)));
    }
}
