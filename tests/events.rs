//! `events`: what happened, and what happens while somebody looks.

mod common;

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use common::Host;

/// `TYPE ACTION` of everything so far, with what a template adds.
fn told(host: &Host, args: &[&str]) -> Vec<String> {
    let mut all = vec!["events", "--since", "1h", "--until", "0s"];
    all.extend(args);
    host.bulkhead(&all).ok().out().lines().map(str::to_owned).collect()
}

#[test]
fn a_container_s_life_is_told_in_docker_s_words() {
    let host = host!();
    let image = host.busybox();
    let id = host
        .bulkhead(&[
            "run",
            "-d",
            "--name",
            "web",
            "--label",
            "tier=front",
            "--network",
            "none",
            image,
            "sleep",
            "1000",
        ])
        .ok()
        .line();
    host.bulkhead(&["exec", "web", "sh", "-c", "exit 3"]).code(3);
    host.bulkhead(&["pause", "web"]).ok();
    host.bulkhead(&["unpause", "web"]).ok();
    host.bulkhead(&["update", "--memory", "64m", "web"]).ok();
    host.bulkhead(&["rename", "web", "www"]).ok();
    host.bulkhead(&["stop", "-t", "0", "www"]).ok();
    host.bulkhead(&["restart", "-t", "0", "www"]).ok();
    host.bulkhead(&["rm", "-f", "www"]).ok();
    common::eventually("the end of it", || told(&host, &[]).iter().any(|line| line.contains(" destroy ")));

    let actions = told(&host, &["--filter", "type=container", "--format", "{{.Action}}"]);
    assert_eq!(
        actions,
        [
            "create",
            "start",
            "exec_create: sh -c exit 3",
            "exec_start: sh -c exit 3",
            "exec_die",
            "pause",
            "unpause",
            "update",
            "rename",
            "kill",
            "kill",
            "die",
            "stop",
            "start",
            "restart",
            "die",
            "destroy",
        ]
    );
    let of = |event: &str, template: &str| {
        told(&host, &["--filter", &format!("event={event}"), "--format", template])
    };
    assert_eq!(of("exec_create", "{{.Actor.Attributes.name}} {{.From}}"), [format!("web {image}")]);
    assert_eq!(of("exec_die", "{{.Actor.Attributes.exitCode}}"), ["3"]);
    assert_eq!(of("rename", "{{.Actor.Attributes.oldName}} {{.Actor.Attributes.name}}"), ["/web www"]);
    assert_eq!(
        of("die", "{{.Actor.Attributes.exitCode}} {{.ID}}"),
        [format!("137 {id}"), format!("137 {id}")]
    );

    // Filters: any value of a key, every key.
    assert_eq!(told(&host, &["--filter", "container=nobody"]), [""; 0]);
    assert_eq!(told(&host, &["--filter", &format!("container={}", &id[..12])]).len(), actions.len());
    assert_eq!(
        told(&host, &["--filter", "label=tier=front", "--filter", "event=start", "--filter", "event=stop"])
            .len(),
        3
    );
    assert_eq!(
        told(&host, &["--filter", "type=image", "--format", "{{.Action}} {{.Actor.Attributes.name}}"]),
        ["load busybox:latest"]
    );

    // The line and the JSON.
    let line = told(&host, &["--filter", "event=create"]).remove(0);
    let (time, rest) = line.split_once(' ').expect("a time");
    assert_eq!(time.split_once('.').map(|(_, fraction)| fraction.len() >= 10), Some(true), "{line}");
    assert_eq!(rest, format!("container create {id} (image={image}, name=web, tier=front)"));
    let json: serde_json::Value =
        serde_json::from_str(&told(&host, &["--filter", "event=create", "--format", "json"])[0])
            .expect("JSON");
    assert_eq!(
        (&json["status"], &json["id"], &json["Type"]),
        (&"create".into(), &id.into(), &"container".into())
    );

    host.bulkhead(&["events", "--filter", "colour=red"]).code(1).complains("invalid filter 'colour'");
    host.bulkhead(&["events", "--since", "5", "--until", "1"])
        .code(1)
        .complains("`since` time (5) cannot be after `until` time (1)");
    host.bulkhead(&["events", "--since", "yesterday"]).code(1).complains("invalid value for time");
}

#[test]
fn what_happens_is_shown_as_it_happens() {
    let host = host!();
    let mut child = host
        .command(&["events", "--format", "{{.Type}} {{.Action}}"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("spawn");
    let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    // There is no word that it listens: tell something until it is heard.
    let image = host.busybox();
    let (send, receive) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        for line in lines {
            if send.send(line.expect("UTF-8")).is_err() {
                break;
            }
        }
    });
    common::eventually("the first event", || {
        host.bulkhead(&["tag", image, "other"]).ok();
        receive.try_iter().any(|line| line == "image tag")
    });
    host.bulkhead(&["network", "create", "--subnet", "10.213.7.0/24", "net"]).ok();
    host.bulkhead(&["run", "--rm", "--network", "net", image, "true"]).ok();
    host.bulkhead(&["network", "rm", "net"]).ok();
    host.bulkhead(&["rmi", "other"]).ok();
    host.bulkhead(&["network", "create", "--subnet", "10.213.8.0/24", "idle"]).ok();
    let pruned = host.bulkhead(&["system", "prune", "--all", "--force"]).ok().out();
    assert!(pruned.contains("Deleted Networks:\nidle\n"), "{pruned}");
    let mut seen: Vec<String> = Vec::new();
    common::eventually("the last event", || {
        seen.extend(receive.try_iter().filter(|line| line != "image tag"));
        seen.iter().any(|line| line == "image delete")
    });
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(child.id().cast_signed()),
        nix::sys::signal::Signal::SIGTERM,
    )
    .expect("kill");
    common::wait(&mut child, "events");
    reader.join().expect("reader");
    let seen: Vec<&str> = seen.iter().map(String::as_str).filter(|line| *line != "image load").collect();
    assert_eq!(
        seen,
        [
            "network create",
            "container create",
            "network connect",
            "container start",
            "container die",
            "network disconnect",
            "container destroy",
            "network destroy",
            "image untag",
            "network create",
            "network destroy",
            "image untag",
            "image delete",
        ]
    );
}

#[test]
fn a_kill_for_memory_says_who_was_killed() {
    let host = host!();
    let image = host.busybox();
    let run = host.bulkhead(&[
        "run",
        "--name",
        "hog",
        "--network",
        "none",
        "-m",
        "16m",
        "--memory-swap",
        "16m",
        image,
        "sh",
        "-c",
        "exec dd if=/dev/zero of=/dev/null bs=64M",
    ]);
    run.code(137);
    let oom: serde_json::Value =
        serde_json::from_str(&host.inspect("hog", "{{json .State.OOM}}")).expect("JSON");
    let event = told(&host, &["--filter", "event=oom", "--format", "{{.Actor.Attributes.limit}}"]);
    assert_eq!(event, [(16 << 20).to_string()]);
    host.bulkhead(&["rm", "hog"]).ok();
    if std::fs::File::open("/dev/kmsg").is_err() {
        skip!("the kernel's log");
    }
    assert_eq!(oom["Victim"]["Name"], "dd", "{oom}");
    let rss = oom["Victim"]["Rss"].as_u64().expect("bytes");
    assert!(rss > 8 << 20, "{rss}");
    let event = told(
        &host,
        &[
            "--filter",
            "event=oom",
            "--format",
            "{{.Actor.Attributes.victim}} {{.Actor.Attributes.victimRss}}",
        ],
    );
    assert_eq!(event, [format!("dd {rss}")]);
}

/// A step of a build is a container that is nobody's, and its coming and going is not told.
#[test]
fn a_build_tells_of_no_containers() {
    let host = host!();
    host.busybox();
    let file = b"FROM busybox\nRUN echo built > /f\n";
    host.bulkhead_with_stdin(&["build", "-q", "-t", "own", "-"], file).ok();
    let all = told(&host, &["--format", "{{.Type}} {{.Action}}"]);
    assert!(!all.iter().any(|line| line.starts_with("network") || line.starts_with("container")), "{all:?}");
    host.bulkhead(&["run", "--rm", "own", "true"]).ok();
    let all = told(&host, &["--format", "{{.Type}} {{.Action}}"]);
    assert!(all.iter().any(|line| line == "network connect"), "{all:?}");
}

/// Whoever hears that a container has ended finds it so.
#[test]
fn an_end_is_told_when_the_record_says_so() {
    let host = host!();
    let image = host.busybox();
    let mut listener = host
        .command(&["events", "--filter", "event=die", "--format", "{{.Actor.ID}}"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("events");
    let mut lines = BufReader::new(listener.stdout.take().expect("a pipe")).lines();
    for _ in 0..10 {
        let id = host.bulkhead(&["run", "-d", "--network", "none", image, "sh", "-c", "exit 3"]).ok().line();
        let told = lines.next().expect("a line").expect("text");
        assert_eq!(told, id);
        assert_eq!(host.inspect(&id, "{{.State.Status}} {{.State.ExitCode}}"), "exited 3");
    }
    listener.kill().expect("SIGKILL");
    listener.wait().expect("wait");
}
