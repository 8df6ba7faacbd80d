//! `build`, as the classic builder is spoken to: a tar in, lines of JSON out.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError};

use bulkhead_engine::build::context::{self, Received};
use bulkhead_engine::build::inherit::Source;
use bulkhead_engine::build::remote::{Address, Arrived};
use bulkhead_engine::build::tree::open_directory;
use bulkhead_engine::build::{self as engine, Error as Failed, Options, Outcome, Watcher, cache};
use bulkhead_engine::config::{Resources, Ulimit};
use bulkhead_engine::image::{self, Platform, Reference};
use bulkhead_engine::layer;
use hyper::StatusCode;
use serde_json::{Value, json};

use crate::App;
use crate::body::{Departure, Input, Lines, Reply, json as answer, reply, written};
use crate::error::Error;
use crate::images::told;
use crate::registry::{Teller as Puller, build_session};
use crate::router::{Call, Query};

/// Of the query: what Docker's builder has, and this has not.
const LACKS: &[&str] = &["squash", "session", "outputs"];

/// Tells a client of steps as the classic builder did.
struct Teller<'l, 'o> {
    lines: &'l Lines<'o>,
    quiet: bool,
    steps: Mutex<Told>,
    departure: Departure,
}

/// What the client has been told of.
#[derive(Default)]
struct Told {
    names: Vec<String>,
    /// Which step the last line was about.
    last: usize,
}

impl Teller<'_, '_> {
    fn stream(&self, text: &str) {
        if !self.quiet {
            self.lines.tell(&json!({"stream": text}));
        }
    }

    /// Of a step. Several may be under way, and the classic builder's lines do not say whose they are: so a step that goes
    /// on after another one has spoken is named again.
    fn say(&self, step: usize, text: &str) {
        let mut told = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut told.last, step) != step
            && let Some(name) = told.names.get(step)
        {
            self.stream(&format!("Step {} : {name}\n", step + 1));
        }
        self.stream(text);
    }
}

impl Watcher for Teller<'_, '_> {
    fn begin(&self, step: usize, name: &str) {
        let mut told = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        told.names.push(name.to_owned());
        told.last = step;
        self.stream(&format!("Step {} : {name}\n", step + 1));
    }

    fn output(&self, step: usize, error: bool, bytes: &[u8]) {
        let text = String::from_utf8_lossy(bytes);
        // As Docker's, which writes standard error in red.
        if error { self.say(step, &format!("\u{1b}[91m{text}\u{1b}[0m")) } else { self.say(step, &text) }
    }

    fn status(&self, step: usize, text: &str) {
        self.say(step, &format!(" ---> {text}\n"));
    }

    fn end(&self, step: usize, outcome: Outcome<'_>) {
        match outcome {
            Outcome::Cached => self.say(step, " ---> Using cache\n"),
            Outcome::Canceled => self.say(step, " ---> Canceled\n"),
            Outcome::Done | Outcome::Failed(_) => {}
        }
    }

    fn gone(&self) -> Option<BorrowedFd<'_>> {
        Some(self.departure.as_fd())
    }
}

/// What a query says of a build.
struct Asked {
    names: Vec<Reference>,
    /// Where the context is, unless the request brings it.
    remote: Option<Address>,
    dockerfile: String,
    options: Options,
}

/// A map of texts in which a text may be missing: an argument that the client's environment has not.
fn pairs(query: &Query, name: &str) -> Result<Vec<(String, String)>, Error> {
    let map: BTreeMap<String, Option<String>> = query.json(name)?;
    Ok(map.into_iter().filter_map(|(key, value)| Some((key, value?))).collect())
}

fn asked(app: &App, query: &Query) -> Result<Asked, Error> {
    if let Some(name) =
        LACKS.iter().find(|name| query.get(name).is_some_and(|value| value != "0" && value != "false"))
    {
        return Err(Error::bad(format!("{name} is not supported")));
    }
    if query.get("version") == Some("2") {
        return Err(Error::bad("BuildKit is not served: set DOCKER_BUILDKIT=0"));
    }
    let names = query.all("t").into_iter().filter(|text| !text.is_empty()).map(|text| {
        let name = Reference::parse(&text).map_err(Error::bad)?;
        if name.digest().is_some() { Err(image::Error::TagDigest.into()) } else { Ok(name.tagged()) }
    });
    let names = names.collect::<Result<Vec<_>, Error>>()?;
    let platform = query.get("platform").map(str::to_owned);
    platform.as_deref().map(Platform::parse).transpose().map_err(Error::bad)?;
    let number = |name: &str| query.number::<i64>(name).map(Option::unwrap_or_default);
    let ulimits: Vec<Ulimit> = query.json("ulimits")?;
    let hosts = query.all("extrahosts").iter().flat_map(|text| text.split(',')).map(str::to_owned).collect();
    // Docker's classic builder took images that are here; one that is not is brought, as of the command line.
    let cache_from: Vec<String> = query.json("cachefrom")?;
    let named = cache_from.into_iter().filter(|name| !name.is_empty());
    let cache_from = named.map(|name| Source { name, remote: false }).collect();
    let remote = match query.get("remote") {
        // The words of a client that brings its context in a session, which is refused by its own name.
        None | Some("" | "client-session") => None,
        Some(text) => {
            let address = Address::parse(text);
            Some(address.ok_or_else(|| Error::bad(format!("{text:?} is no address of a context")))?)
        }
    };
    let options = Options {
        dockerfile: String::new(),
        context: None,
        lasting: false,
        names: names.clone(),
        args: pairs(query, "buildargs")?,
        target: query.get("target").map(str::to_owned),
        labels: pairs(query, "labels")?,
        no_cache: query.is("nocache"),
        no_cache_filter: Vec::new(),
        cache_from,
        inline_cache: false,
        pull: query.is("pull"),
        network: query.get("networkmode").unwrap_or("default").to_owned(),
        hosts,
        shm_size: number("shmsize")?,
        resources: Resources {
            memory: number("memory")?,
            memory_swap: number("memswap")?,
            cpu_shares: number("cpushares")?,
            cpu_period: number("cpuperiod")?,
            cpu_quota: number("cpuquota")?,
            cpuset_cpus: query.get("cpusetcpus").unwrap_or_default().to_owned(),
            cpuset_mems: query.get("cpusetmems").unwrap_or_default().to_owned(),
            ulimits,
            ..Resources::default()
        },
        cgroup_parent: query.get("cgroupparent").unwrap_or(&app.settings.cgroup_parent).to_owned(),
        platform,
        secrets: Vec::new(),
    };
    Ok(Asked {
        names,
        remote,
        dockerfile: query.get("dockerfile").unwrap_or("Dockerfile").to_owned(),
        options,
    })
}

/// `POST /build`
pub async fn build(app: &Arc<App>, call: Call) -> Result<Reply, Error> {
    let Asked { names, remote, dockerfile, mut options } = asked(app, &call.query)?;
    let quiet = call.query.is("q");
    let session = build_session(&app.settings.layout, &call.headers)?;
    let (input, app) = (Input::of(call.body), app.clone());
    let body = written(move |output| {
        let mut store = app.store()?;
        let scratch = store.scratch()?;
        let broken = |error: Failed| Error::bad(error);
        let download = |url: &str, to: &mut dyn std::io::Write| session.download(url, to);
        let mut source = None;
        let arrived = match &remote {
            None => match context::receive(input, &scratch).map_err(broken)? {
                Received::Text(text) => Arrived::Text(text),
                Received::Unpacked => {
                    Arrived::Directory { root: open_directory(scratch.path())?, commit: None }
                }
            },
            Some(address) => {
                let arrived = address.fetch(&scratch, &download).map_err(broken)?;
                source = Some(address.shown());
                arrived
            }
        };
        let text = match arrived {
            Arrived::Text(text) => text,
            Arrived::Directory { root, .. } => {
                let definition =
                    context::definition(&root, &dockerfile, None).map_err(|error| match error {
                        Failed::NoDockerfile(name) => {
                            Error::bad(format!("Cannot locate specified Dockerfile: {name}"))
                        }
                        other => broken(other),
                    })?;
                // A client has left out what it ignores, but for what it must send.
                options.context = Some(definition.context);
                definition.text
            }
        };
        options.dockerfile =
            String::from_utf8(text).map_err(|_| broken(Failed::NotText(dockerfile.clone())))?;
        output.begin();
        let departure = output.departure()?;
        let lines = Lines::new(output);
        if let Some(source) = source.filter(|_| !quiet) {
            lines.tell(&json!({"stream": format!("Fetched {source}\n")}));
        }
        let fetch = |store: &mut bulkhead_engine::store::Store, name: &Reference, platform: Option<&str>| {
            // What is no platform was refused before.
            let platform = platform.and_then(|text| Platform::parse(text).ok());
            let options = layer::Options::from_env()?;
            let puller = Puller::new(&lines, name);
            let watcher: &dyn image::Watcher = if quiet { &image::Silent } else { &puller };
            let pulled = image::pull(store, &session, name, platform.as_ref(), &options, watcher)?;
            if !quiet {
                puller.end(&pulled);
            }
            Ok(())
        };
        let teller = Teller { lines: &lines, quiet, steps: Mutex::default(), departure };
        let built = engine::build(&mut store, &options, &teller, &fetch, &download);
        drop(teller);
        let output = lines.into_inner();
        let built = match built {
            Ok(built) => built,
            Err(failed) => {
                let code = match &failed.error {
                    Failed::Process { code, .. } => Some(*code),
                    _ => None,
                };
                return told(output, code, &failed.error.to_string());
            }
        };
        store.checkpoint();
        if !built.unused.is_empty() && !quiet {
            let unused = built.unused.join(" ");
            output.line(&json!({
                "stream": format!("[Warning] One or more build-args [{unused}] were not consumed\n"),
            }))?;
        }
        output.line(&json!({"aux": {"ID": built.id.to_string()}}))?;
        if quiet {
            output.line(&json!({"stream": format!("{}\n", built.id)}))?;
        } else {
            output.line(&json!({"stream": format!("Successfully built {}\n", built.id.short())}))?;
            for name in &names {
                output.line(&json!({"stream": format!("Successfully tagged {}\n", name.familiar())}))?;
            }
        }
        Ok(output.flush()?)
    })
    .await?;
    Ok(reply(StatusCode::OK, "application/json", body))
}

/// `POST /build/prune`
pub async fn prune(app: &Arc<App>, call: &Call) -> Result<Reply, Error> {
    let all = call.query.is("all");
    let (layers, freed) = app.with_store(move |store| Ok(cache::prune(store, all)?)).await?;
    let layers: Vec<Value> = layers.into_iter().map(Value::from).collect();
    answer(&json!({"CachesDeleted": layers, "SpaceReclaimed": freed}))
}
