//! Health checks: what `inspect`, `ps` and the status say of a container that answers, or does not.

mod common;

use common::Host;

fn health(host: &Host, name: &str, field: &str) -> String {
    host.inspect(name, &format!("{{{{.State.Health.{field}}}}}"))
}

#[test]
fn a_container_becomes_healthy_unhealthy_and_healthy_again() {
    let host = host!();
    let image = host.busybox();
    let flags = ["--health-cmd", "cat /ok", "--health-interval", "50ms", "--health-retries", "2"];
    let run = [&["run", "-d", "--name", "hc"], &flags[..], &[image, "sleep", "100"]].concat();
    host.bulkhead(&run).ok();
    host.wait_for("hc", "{{.State.Health.Status}}", "unhealthy");
    host.bulkhead(&["ps", "--format", "{{.Status}}"])
        .ok()
        .out()
        .contains("(unhealthy)")
        .then_some(())
        .expect("ps");
    assert!(health(&host, "hc", "FailingStreak").parse::<u32>().expect("number") >= 2);
    let log = host.inspect("hc", "{{json .State.Health.Log}}");
    assert!(log.contains("can't open '/ok'") && log.contains("\"ExitCode\":1"), "{log}");
    host.bulkhead(&["exec", "hc", "sh", "-c", "echo fine > /ok"]).ok();
    host.wait_for("hc", "{{.State.Health.Status}}", "healthy");
    assert_eq!(health(&host, "hc", "FailingStreak"), "0");
    host.bulkhead(&["ps", "-q", "--filter", "health=healthy"]).ok().out().lines().next().expect("listed");
    host.bulkhead(&["ps", "-q", "--filter", "health=unhealthy"]).ok().prints("");
    // However often it is asked, five answers are kept.
    host.wait_for("hc", "{{len .State.Health.Log}}", "5");
    host.bulkhead(&["rm", "-f", "hc"]).ok();
}

#[test]
fn failures_in_the_start_period_do_not_count() {
    let host = host!();
    let image = host.busybox();
    let flags = [
        "--health-cmd",
        "exit 1",
        "--health-interval",
        "1h",
        "--health-start-interval",
        "20ms",
        "--health-retries",
        "1",
        "--health-start-period",
        "1h",
    ];
    let run = [&["run", "-d", "--name", "hc"], &flags[..], &[image, "sleep", "100"]].concat();
    host.bulkhead(&run).ok();
    host.wait_for("hc", "{{len .State.Health.Log}}", "5");
    assert_eq!(health(&host, "hc", "Status"), "starting");
    assert_eq!(health(&host, "hc", "FailingStreak"), "0");
    host.bulkhead(&["ps", "--format", "{{.Status}}"])
        .ok()
        .out()
        .contains("(health: starting)")
        .then_some(())
        .expect("ps");
    host.bulkhead(&["rm", "-f", "hc"]).ok();
}

#[test]
fn a_check_that_takes_too_long_is_killed_and_counted() {
    let host = host!();
    let image = host.busybox();
    let flags = [
        "--health-cmd",
        "echo before; exec sleep 1000",
        "--health-interval",
        "20ms",
        "--health-timeout",
        "100ms",
    ];
    let run = [&["run", "-d", "--name", "hc"], &flags[..], &[image, "sleep", "100"]].concat();
    host.bulkhead(&run).ok();
    host.wait_for("hc", "{{.State.Health.Status}}", "unhealthy");
    let log = host.inspect("hc", "{{json .State.Health.Log}}");
    assert!(log.contains("Health check exceeded timeout (0.1s): before"), "{log}");
    assert!(log.contains("\"ExitCode\":-1"), "{log}");
    // Each is gone: only process 1, and perhaps the check of this moment.
    let top = host.bulkhead(&["top", "hc"]).ok().out();
    assert!(top.lines().filter(|line| line.contains("sleep 1000")).count() <= 1, "{top}");
    host.bulkhead(&["rm", "-f", "hc"]).ok();
}

#[test]
fn a_paused_container_is_not_asked_and_goes_on_afterwards() {
    let host = host!();
    let image = host.busybox();
    let flags = ["--health-cmd", "true", "--health-interval", "20ms"];
    let run = [
        &["run", "-d", "--name", "hc"],
        &flags[..],
        &[image, "sh", "-c", "while :; do echo x; sleep 0.01; done"],
    ];
    host.bulkhead(&run.concat()).ok();
    host.wait_for("hc", "{{.State.Health.Status}}", "healthy");
    for _ in 0..20 {
        host.bulkhead(&["pause", "hc"]).ok();
        host.bulkhead(&["unpause", "hc"]).ok();
    }
    // The monitor never got stuck in a frozen cgroup: it still moves output, and asks.
    let last = host.inspect("hc", "{{(index .State.Health.Log 0).Start}}");
    common::eventually("it is asked again", || {
        host.inspect("hc", "{{(index .State.Health.Log 0).Start}}") != last
    });
    host.bulkhead(&["rm", "-f", "hc"]).ok();
}

#[test]
fn no_check_means_no_health() {
    let host = host!();
    let image = host.busybox();
    for flags in [&[] as &[&str], &["--no-healthcheck"]] {
        let run = [&["run", "-d"], flags, &[image, "sleep", "100"]].concat();
        let id = host.bulkhead(&run).ok().line();
        assert!(!host.inspect(&id, "{{json .State}}").contains("Health"), "{flags:?}");
        host.bulkhead(&["rm", "-f", &id]).ok();
    }
}
