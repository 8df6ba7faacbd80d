//! `info`, and `version`'s longer form.

use bulkhead_engine::container::{self, Status};
use bulkhead_engine::host::{Counts, Info};
use serde_json::{Value, json};

use super::lifecycle::store;
use super::version::{BUILD, VERSION};
use crate::cli::Globals;
use crate::cli::system::{InfoArgs, VersionArgs};
use crate::failure::Failure;
use crate::output::list::bad_template;
use crate::output::{human, line, raw};
use crate::template::{Kind, Template};

/// Prints `value` by a format of one's own.
fn formatted(format: &str, value: &Value) -> Result<u8, Failure> {
    let text = if format == "json" { "{{json .}}" } else { format };
    let mut out = String::new();
    Template::parse(text)
        .map_err(|error| Failure { code: 64, ..bad_template(&error) })?
        .execute(value.clone(), Kind::Inspect, &mut out)
        .map_err(Failure::plain_from)?;
    line(&out)?;
    Ok(0)
}

/// `bulkhead info`
pub fn run(globals: &Globals, args: &InfoArgs) -> Result<u8, Failure> {
    let store = store(globals)?;
    let containers = container::list(&store).map_err(Failure::daemon)?;
    let count = |wanted: fn(Status) -> bool| containers.iter().filter(|c| wanted(c.state.status)).count();
    let running = count(|status| matches!(status, Status::Running | Status::Restarting));
    let paused = count(|status| status == Status::Paused);
    let images = store
        .db()
        .query_row("SELECT count(*) FROM image", [], |row| row.get::<_, i64>(0))
        .map_err(|error| Failure::daemon(store.db_error(error)))?;
    let info = Info::gather(&Counts {
        running,
        paused,
        stopped: containers.len() - running - paused,
        images: images as usize,
        version: VERSION.to_owned(),
        root: globals.root.to_string_lossy().into_owned(),
    });
    if let Some(format) = args.format.as_deref().filter(|format| !format.is_empty()) {
        let value = serde_json::to_value(&info).map_err(|error| Failure::plain(error.to_string()))?;
        return formatted(format, &value);
    }
    raw(text(&info).as_bytes())?;
    for warning in &info.warnings {
        use std::io::Write as _;
        // A warning that cannot be written is no reason to fail.
        let _ = writeln!(std::io::stderr(), "{warning}");
    }
    Ok(0)
}

fn text(info: &Info) -> String {
    let mut lines = vec![
        format!("Containers: {}", info.containers),
        format!(" Running: {}", info.containers_running),
        format!(" Paused: {}", info.containers_paused),
        format!(" Stopped: {}", info.containers_stopped),
        format!("Images: {}", info.images),
        format!("Server Version: {}", info.server_version),
        format!("Storage Driver: {}", info.driver),
    ];
    lines.extend(info.driver_status.iter().map(|[name, value]| format!(" {name}: {value}")));
    lines.extend([
        format!("Logging Driver: {}", info.logging_driver),
        format!("Cgroup Driver: {}", info.cgroup_driver),
        format!("Cgroup Version: {}", info.cgroup_version),
        "Plugins:".to_owned(),
        format!(" Volume: {}", info.plugins.volume.join(" ")),
        format!(" Network: {} (default bridge)", info.plugins.network.join(" ")),
        format!(" Log: {}", info.plugins.log.join(" ")),
        format!("Default Runtime: {}", info.default_runtime),
        "Security Options:".to_owned(),
    ]);
    for option in &info.security_options {
        let mut parts = option.split(',').map(|part| part.split_once('=').unwrap_or(("", part)));
        if let Some((_, name)) = parts.next() {
            lines.push(format!("  {name}"));
        }
        lines.extend(parts.map(|(key, value)| {
            let title = if key == "profile" { "Profile" } else { key };
            format!("   {title}: {value}")
        }));
    }
    lines.extend([
        format!("Kernel Version: {}", info.kernel_version),
        format!("Operating System: {}", info.operating_system),
        format!("OSType: {}", info.os_type),
        format!("Architecture: {}", info.architecture),
        format!("CPUs: {}", info.cpus),
        format!("Total Memory: {}", human::binary(info.mem_total)),
        format!("Name: {}", info.name),
        format!("ID: {}", info.id),
        format!("Docker Root Dir: {}", info.docker_root_dir),
        format!("Debug Mode: {}", info.debug),
        format!("Experimental: {}", info.experimental_build),
    ]);
    let mut text = lines.join("\n");
    text.push('\n');
    text
}

/// `bulkhead version`
pub fn version(_: &Globals, args: &VersionArgs) -> Result<u8, Failure> {
    let kernel = nix::sys::utsname::uname()
        .map(|uname| uname.release().to_string_lossy().into_owned())
        .unwrap_or_default();
    let architecture = bulkhead_engine::image::host_architecture();
    let half = json!({
        "Version": VERSION,
        "ApiVersion": "",
        "GitCommit": BUILD,
        "Os": "linux",
        "Arch": architecture,
        "KernelVersion": kernel,
    });
    if let Some(format) = args.format.as_deref().filter(|format| !format.is_empty()) {
        // One program is both ends of what Docker splits in two.
        return formatted(format, &json!({"Client": half, "Server": half}));
    }
    raw(format!(
        "Bulkhead:\n Version:           {VERSION}\n Git commit:        {BUILD}\n \
         OS/Arch:           linux/{architecture}\n Kernel:            {kernel}\n Engine:            in this process, no daemon\n"
    )
    .as_bytes())
}
