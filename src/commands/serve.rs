//! `serve` and `metrics`.

use std::path::{Path, PathBuf};

use bulkhead_ebpf::event_log;
use bulkhead_engine::store::Store;
use bulkhead_engine::{cgroup, container};
use bulkhead_exporter::{Allowed, Format, Scrape, write_textfile};
use nix::sys::signal::{SigSet, Signal};

use super::version::{BUILD, VERSION};
use crate::cli::Globals;
use crate::cli::serve::{MetricsArgs, ServeArgs};
use crate::failure::Failure;
use crate::names::Names;
use crate::output;
use crate::serve::{self, filesystem, http, reader};

/// `bulkhead serve`
pub fn run(globals: &Globals, args: &ServeArgs) -> Result<u8, Failure> {
    let policy = policy(globals, args);
    let figures = args.metrics.is_some() || args.textfile.is_some() || policy.is_some();
    if !figures && args.host.is_empty() {
        return Err(Failure::plain(
            "bulkhead serve: nothing to serve: give --host, --metrics, --textfile or --enforcer",
        ));
    }
    let fail = |error: serve::Error| Failure::plain(format!("bulkhead serve: {error}"));
    let signals = serve::block_signals();
    serve::raise_open_files();
    serve::return_memory();
    let allowed = labels(&args.metrics_label)?;
    // Everything that can be refused is refused before anything is started.
    let users = match &args.auth_file {
        Some(path) => Some(serve::Users::read(path).map_err(|error| fail(error.into()))?),
        None => None,
    };
    let tls = match (&args.tls_cert, &args.tls_key) {
        (Some(certificate), Some(key)) => {
            Some(serve::acceptor(certificate, key).map_err(|error| fail(error.into()))?)
        }
        _ => None,
    };
    let listener = args.metrics.map(http::bind).transpose().map_err(fail)?;
    let sockets = args.host.iter().map(bulkhead_api::Listener::bind).collect::<Result<Vec<_>, _>>();
    let sockets = sockets.map_err(|error| Failure::plain(format!("bulkhead serve: {error}")))?;
    let layout = globals.layout();
    // Nobody who asks for the API alone pays for figures.
    if !figures {
        let _api = api(globals, sockets)?;
        return wait(&signals, None, None);
    }
    let enforcer = match policy {
        Some(path) => {
            Some(serve::enforcer::start(layout.clone(), globals.cgroup_parent.clone(), path).map_err(fail)?)
        }
        None => None,
    };
    let inbox = reader::inbox(&layout).map_err(fail)?;
    serve::oom::start(&layout).map_err(fail)?;
    let sizes = filesystem::start(layout.clone(), args.filesystem_interval).map_err(fail)?;
    let tracer = if args.no_trace { None } else { trace(globals, args)? };
    let counters = tracer.as_ref().map(serve::tracer::Handle::counters);
    let asker = reader::Reader::new(layout, allowed, Some(inbox), sizes, counters)
        .map(|reader| reader.with_counts(enforcer.as_ref().map(serve::enforcer::Handle::counts)))
        .and_then(reader::Reader::start)
        .map_err(fail)?;
    if let Some(path) = &args.textfile {
        serve::textfile::start(asker.clone(), path.clone(), args.textfile_interval).map_err(fail)?;
    }
    if let Some(listener) = listener {
        let scheme = if tls.is_some() { "https" } else { "http" };
        // The port as it is, for whoever asked for port 0.
        let address = listener.local_addr().ok();
        let loopback = address.is_some_and(|address| address.ip().is_loopback());
        if !loopback && (tls.is_none() || users.is_none()) {
            eprintln!(
                "WARNING: metrics are served to other hosts without {}",
                if tls.is_none() { "encryption (--tls-cert, --tls-key)" } else { "a password (--auth-file)" }
            );
        }
        http::start(http::Server { listener, asker, tls, users }).map_err(fail)?;
        if let Some(address) = address {
            output::line(&format!("serving metrics on {scheme}://{address}/metrics"))?;
        }
    }
    let _api = if sockets.is_empty() { None } else { Some(api(globals, sockets)?) };
    serve::trim_memory();
    wait(&signals, enforcer.as_ref(), tracer)
}

/// Starts what is to run after a start of the host, then the API, and says where. Clients that come before wait in the
/// sockets' queues, and find what dockerd's would find.
fn api(globals: &Globals, sockets: Vec<bulkhead_api::Listener>) -> Result<bulkhead_api::Server, Failure> {
    let addresses: Vec<String> = sockets.iter().map(bulkhead_api::Listener::address).collect();
    let settings = bulkhead_api::Settings {
        layout: globals.layout(),
        cgroup_parent: globals.cgroup_parent.clone(),
        version: VERSION,
        build: BUILD,
    };
    let failed = |container: &container::Container, error: &container::Error| {
        eprintln!("bulkhead serve: {} is not started again: {error}", container.name);
    };
    container::restore(&settings.layout, &failed)
        .map_err(|error| Failure::plain(format!("bulkhead serve: {error}")))?;
    let server = bulkhead_api::start(sockets, settings)
        .map_err(|error| Failure::plain(format!("bulkhead serve: {error}")))?;
    for address in addresses {
        output::line(&format!("serving the API on {address}"))?;
    }
    Ok(server)
}

/// Waits for the signal that ends the server.
fn wait(
    signals: &SigSet,
    enforcer: Option<&serve::enforcer::Handle>,
    tracer: Option<serve::tracer::Handle>,
) -> Result<u8, Failure> {
    loop {
        match signals.wait() {
            // A terminal that goes away does not take the exporter along.
            Ok(Signal::SIGHUP) => {
                if let Some(enforcer) = enforcer {
                    enforcer.reload();
                }
            }
            Ok(_) => {
                if let Some(tracer) = tracer {
                    tracer.finish();
                }
                return Ok(0);
            }
            Err(errno) => return Err(Failure::plain(format!("sigwait: {errno}"))),
        }
    }
}

/// The policy's file: the one named, or the default engine's where it exists.
fn policy(globals: &Globals, args: &ServeArgs) -> Option<PathBuf> {
    args.enforcer.clone().or_else(|| {
        let usual = Path::new(serve::enforcer::USUAL);
        (globals.run_root == Path::new("/run/bulkhead") && usual.exists()).then(|| usual.to_owned())
    })
}

/// Starts counting below the containers' cgroup.
fn trace(globals: &Globals, args: &ServeArgs) -> Result<Option<serve::tracer::Handle>, Failure> {
    let parent = cgroup::make_parent(&globals.cgroup_parent).map_err(Failure::plain_from)?;
    // The default directory is the default engine's: another root's counters would be mixed with its.
    let pin = args.pin_counters.clone().or_else(|| {
        (globals.run_root == Path::new("/run/bulkhead")).then(|| PathBuf::from("/sys/fs/bpf/bulkhead"))
    });
    let store = Store::open(globals.layout()).map_err(Failure::plain_from)?;
    let names = Names::new(store, globals.cgroup_parent.clone());
    let log = (!args.no_event_log).then(|| (event_log::directory(&globals.root), args.event_log_size));
    serve::tracer::start(serve::tracer::Settings { parent, pin, run_queue: !args.no_run_queue, log }, names)
        .map_err(|error| Failure::plain(format!("bulkhead serve: {error}")))
}

/// `bulkhead metrics`: one answer, without a server.
pub fn once(globals: &Globals, args: &MetricsArgs) -> Result<u8, Failure> {
    let fail = |error: &dyn std::fmt::Display| Failure::plain(format!("bulkhead metrics: {error}"));
    let allowed = labels(&args.metrics_label)?;
    // Whoever asks once can wait for a walk over the writable layers.
    let layout = globals.layout();
    let sizes = filesystem::Sizes::measured(&layout).map_err(|error| fail(&error))?;
    let mut reader = reader::Reader::new(layout, allowed, None, sizes, None).map_err(|error| fail(&error))?;
    reader.read().map_err(|error| fail(&error))?;
    let format = if args.openmetrics { Format::OpenMetrics } else { Format::Text };
    let answer = reader.answer(&Scrape { format, ..Scrape::default() });
    if let Some(path) = &args.textfile {
        write_textfile(path, &answer).map_err(|error| fail(&error))?;
    } else {
        for piece in answer.pieces() {
            output::raw(piece)?;
        }
    }
    Ok(0)
}

fn labels(patterns: &[String]) -> Result<Allowed, Failure> {
    Allowed::new(patterns).map_err(|error| Failure::plain(error.to_string()))
}
