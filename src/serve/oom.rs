//! Who was killed for memory, one line each on standard error.
//!
//! The line comes from the events that the containers' monitors write down: they read the cgroup's own figures
//! before it is removed and the kernel's log for the process, so the line is whole on every kernel, with eBPF
//! or without, and when the container is gone by the time anybody reads it.

use std::fmt::Write as _;

use bulkhead_engine::events::{Event, Kind, Reader, Watch};
use bulkhead_engine::store::Layout;
use nix::poll::PollTimeout;

use super::Error;

/// Starts the thread.
pub fn start(layout: &Layout) -> Result<(), Error> {
    let failed = |call: &'static str| {
        let object = layout.root.join("events.log").display().to_string();
        move |source| Error::Io { call, object, source }
    };
    // Before the end of the log is looked for, so that nothing falls in between.
    let watch = Watch::new(layout).map_err(failed("watch"))?;
    let mut reader = Reader::from_now(layout).map_err(failed("open"))?;
    std::thread::Builder::new()
        .name("oom".into())
        .spawn(move || {
            loop {
                let read = reader.more().map(|events| {
                    for event in events.iter().filter(|e| e.kind == Kind::Container && e.action == "oom") {
                        eprintln!("bulkhead serve: oom: {}", line(event));
                    }
                });
                if let Err(error) = read.and_then(|()| watch.wait(PollTimeout::NONE)) {
                    eprintln!("bulkhead serve: kills for memory are not told any more: events.log: {error}");
                    return;
                }
            }
        })
        .map(drop)
        .map_err(|source| Error::Io { call: "spawn", object: "oom thread".into(), source })
}

fn line(event: &Event) -> String {
    let attribute = |name: &str| event.attributes.get(name);
    let name = attribute("name").map_or("", String::as_str);
    let mut line = format!("container={name} id={}", event.id.get(..12).unwrap_or(&event.id));
    for (key, name, unit) in [
        ("process", "victim", ""),
        ("pid", "victimPid", ""),
        ("rss", "victimRss", "B"),
        ("score_adj", "victimScoreAdj", ""),
        ("usage", "usage", "B"),
        ("limit", "limit", "B"),
        ("kills", "kills", ""),
    ] {
        if let Some(value) = attribute(name) {
            // A process names itself, and may do so to fool whoever reads this.
            let _ = write!(line, " {key}={}{unit}", bulkhead_ebpf::escape(value.as_bytes()));
        } else if name == "limit" {
            line.push_str(" limit=none");
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_line_whatever_the_process_is_called() {
        let event = Event::new(Kind::Container, "oom", "0123456789abcdef")
            .with("name", "web")
            .with("victim", "a\nb c=\u{1b}")
            .with("victimPid", &7)
            .with("victimRss", &4096)
            .with("kills", &2);
        let text = line(&event);
        assert!(text.starts_with("container=web id=0123456789ab process=a"), "{text}");
        assert!(text.ends_with(" pid=7 rss=4096B limit=none kills=2"), "{text}");
        assert!(!text.contains(char::is_control), "{text:?}");
    }
}
