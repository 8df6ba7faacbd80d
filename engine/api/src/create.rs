//! What a client says of a container that is to be made, read into the engine's configuration.
//!
//! The engine's types have Docker's names, so that most of it is read as it is. What is left are the differences: Go
//! writes `null` for every list that is empty; `-1` and `0` say "as it is" in some fields; `--mount` has a form of its
//! own. And there are fields that Docker has and the engine has not. Those that would change what a container may do
//! or use are refused when they say something; the rest is passed over, as Docker passes over what it does not know.

use std::collections::BTreeMap;

use bulkhead_engine::config::{
    Config, EndpointSettings, HostConfig, InvalidPolicy, MountPoint, NetworkingConfig, Resources,
    RestartPolicy, VolumeOptions,
};
use bulkhead_engine::container::lifecycle::parse_signal;
use bulkhead_engine::container::mounts;
use bulkhead_engine::container::spec::{combine, paths_are_open};
use bulkhead_engine::image::{self, Image, Platform, Reference};
use bulkhead_engine::store::Store;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::containers::port;
use crate::error::Error;

/// Of the host's half: what Docker's API has, and the engine has not.
const HOST_LACKS: &[&str] = &[
    "CpuCount",
    "CpuPercent",
    "CpuRealtimePeriod",
    "CpuRealtimeRuntime",
    "DeviceRequests",
    "IOMaximumBandwidth",
    "IOMaximumIOps",
    "KernelMemory",
    "KernelMemoryTCP",
    "StorageOpt",
];

/// Of the other half.
const CONFIG_LACKS: &[&str] = &["ArgsEscaped", "NetworkDisabled"];

/// The three parts of a body.
#[derive(Debug)]
pub struct Asked {
    /// What an image may say as well.
    pub config: Config,
    /// What only the host's operator may.
    pub host: HostConfig,
    /// Of each network.
    pub networking: NetworkingConfig,
}

/// Whether a value says nothing: Go's zero of its type.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(on) => !on,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}

/// Go writes what is empty as `null`; here it is left out.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(list) => list.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

fn refuse(fields: &Map<String, Value>, lacks: &[&str]) -> Result<(), Error> {
    match lacks.iter().find(|name| fields.get(**name).is_some_and(|value| !is_nothing(value))) {
        None => Ok(()),
        Some(&"DeviceRequests") => {
            Err(Error::bad("could not select device driver \"\" with capabilities: [[gpu]]"))
        }
        Some(name) => Err(Error::bad(format!("{name} is not supported"))),
    }
}

fn parsed<T: DeserializeOwned>(fields: Map<String, Value>, what: &str) -> Result<T, Error> {
    serde_json::from_value(Value::Object(fields))
        .map_err(|error| Error::bad(format!("invalid {what}: {error}")))
}

fn object(value: Option<Value>, what: &str) -> Result<Map<String, Value>, Error> {
    match value {
        None | Some(Value::Null) => Ok(Map::new()),
        Some(Value::Object(fields)) => Ok(fields),
        Some(_) => Err(Error::bad(format!("invalid JSON: {what} is no object"))),
    }
}

/// Docker takes a single word for a list of one.
fn as_list(fields: &mut Map<String, Value>, name: &str) {
    if let Some(Value::String(word)) = fields.get(name) {
        let list = Value::Array(vec![word.as_str().into()]);
        fields.insert(name.to_owned(), list);
    }
}

/// An image's half of a container, its nulls dropped.
fn config(mut fields: Map<String, Value>) -> Result<Config, Error> {
    refuse(&fields, CONFIG_LACKS)?;
    as_list(&mut fields, "Cmd");
    as_list(&mut fields, "Entrypoint");
    let config: Config = parsed(fields, "configuration")?;
    check_config(&config)?;
    Ok(config)
}

/// What a commit says of the image, in place of what the container says.
pub fn committed(mut body: Value) -> Result<Config, Error> {
    drop_nulls(&mut body);
    config(object(Some(body), "the body")?)
}

impl Asked {
    /// Reads a body.
    pub fn read(body: Value) -> Result<Self, Error> {
        let mut fields = object(Some(body), "the body")?;
        let mut networking = object(fields.remove("NetworkingConfig"), "NetworkingConfig")?;
        let mut host = object(fields.remove("HostConfig"), "HostConfig")?;

        // A network of which nothing is asked.
        if let Some(Value::Object(endpoints)) = networking.get_mut("EndpointsConfig") {
            for settings in endpoints.values_mut().filter(|settings| settings.is_null()) {
                *settings = Value::Object(Map::new());
            }
        }
        let mounts = host.remove("Mounts");
        let mac = fields.remove("MacAddress").and_then(|mac| mac.as_str().map(str::to_owned));
        let mut parts = [Value::Object(fields), Value::Object(host), Value::Object(networking)];
        parts.iter_mut().for_each(drop_nulls);
        let [Value::Object(fields), Value::Object(mut host), Value::Object(networking)] = parts else {
            return Err(Error::bad("invalid JSON"));
        };

        let config = config(fields)?;
        refuse(&host, HOST_LACKS)?;
        unusual(&host)?;
        restart_policy(host.get("RestartPolicy"))?;
        resources(&mut host);
        let mut host: HostConfig = parsed(host, "HostConfig")?;
        let mut networking: NetworkingConfig = parsed(networking, "NetworkingConfig")?;
        host.mounts = self::mounts(mounts)?;
        complete(&mut host);
        check_host(&host)?;
        if let Some(mac) = mac.filter(|mac| !mac.is_empty()) {
            let network = networking.endpoints_config.entry(host.network_mode.clone()).or_default();
            if network.mac_address.is_empty() {
                network.mac_address = mac;
            }
        }
        place(&mut networking, &host);
        let has_mac = networking.endpoints_config.values().any(|settings| !settings.mac_address.is_empty());
        combine(&config, &host, has_mac).map_err(Error::bad)?;
        Ok(Self { config, host, networking })
    }
}

/// Fields that have one value which changes nothing.
fn unusual(host: &Map<String, Value>) -> Result<(), Error> {
    let text = |name: &str| host.get(name).and_then(Value::as_str).unwrap_or_default();
    if !matches!(text("Isolation"), "" | "default") {
        return Err(Error::bad(format!("invalid isolation {:?} on linux", text("Isolation"))));
    }
    match text("VolumeDriver") {
        "" | "local" => {}
        other => {
            return Err(Error::bad(format!(
                "error looking up volume plugin {other}: plugin {other:?} not found"
            )));
        }
    }
    match text("Runtime") {
        "" | "bulkhead" => Ok(()),
        other => Err(Error::bad(format!("unknown or invalid runtime name: {other}"))),
    }
}

/// How to start a container again. What the type cannot hold is refused in Docker's words, and not in the reader's.
fn restart_policy(value: Option<&Value>) -> Result<(), Error> {
    match value.and_then(|policy| policy.get("MaximumRetryCount")?.as_i64()) {
        Some(..0) => Err(Error::bad(InvalidPolicy::Negative)),
        _ => Ok(()),
    }
}

/// Numbers that say "as it is".
fn resources(host: &mut Map<String, Value>) {
    if host.get("MemorySwappiness").and_then(Value::as_i64) == Some(-1) {
        host.remove("MemorySwappiness");
    }
    if host.get("PidsLimit").and_then(Value::as_i64) == Some(0) {
        host.remove("PidsLimit");
    }
    if host.get("OomKillDisable") == Some(&Value::Bool(false)) {
        host.remove("OomKillDisable");
    }
}

/// What the command line says when nothing is said; the rest is the operator's to say, or the engine's.
fn complete(host: &mut HostConfig) {
    let fill = |text: &mut String, value: &str| {
        if text.is_empty() {
            value.clone_into(text);
        }
    };
    fill(&mut host.network_mode, "default");
    fill(&mut host.ipc_mode, "private");
    fill(&mut host.restart_policy.name, "no");
    "bulkhead".clone_into(&mut host.runtime);
    // The client's, who has the file.
    host.container_id_file.clear();
    for list in [&mut host.binds, &mut host.volumes_from, &mut host.cap_add, &mut host.cap_drop] {
        *list = list.take().filter(|list| !list.is_empty());
    }
    for list in [&mut host.extra_hosts, &mut host.group_add, &mut host.links, &mut host.security_opt] {
        *list = list.take().filter(|list| !list.is_empty());
    }
    for list in [&mut host.cap_add, &mut host.cap_drop].into_iter().flatten() {
        for name in list {
            let upper = name.trim().to_uppercase();
            let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
            *name = if bare == "ALL" { bare.to_owned() } else { format!("CAP_{bare}") };
        }
    }
    // Some clients say it as an option and some as two lists.
    if paths_are_open(host) {
        host.masked_paths.get_or_insert_default();
        host.readonly_paths.get_or_insert_default();
    }
}

fn check_config(config: &Config) -> Result<(), Error> {
    if !config.working_dir.is_empty() && !config.working_dir.starts_with('/') {
        return Err(Error::bad(format!(
            "the working directory '{}' is invalid, it needs to be an absolute path",
            config.working_dir
        )));
    }
    if !config.stop_signal.is_empty() {
        parse_signal(&config.stop_signal)?;
    }
    for variable in &config.env {
        if variable.is_empty() || variable.starts_with('=') {
            return Err(Error::bad(format!("invalid environment variable: {variable}")));
        }
    }
    for name in config.exposed_ports.iter().flat_map(|ports| ports.keys()) {
        port(name)?;
    }
    if let Some(check) = &config.healthcheck {
        let fields = [
            ("Interval", check.interval),
            ("Timeout", check.timeout),
            ("StartPeriod", check.start_period),
            ("StartInterval", check.start_interval),
        ];
        for (name, value) in fields {
            if value != 0 && value < 1_000_000 {
                return Err(Error::bad(format!("{name} in Healthcheck cannot be less than 1ms")));
            }
        }
        if check.retries < 0 {
            return Err(Error::bad("Retries in Healthcheck cannot be negative"));
        }
    }
    Ok(())
}

fn check_host(host: &HostConfig) -> Result<(), Error> {
    host.restart_policy.check().map_err(Error::bad)?;
    if host.auto_remove && !host.restart_policy.is_none() {
        return Err(Error::bad("can't create 'AutoRemove' container with restart policy"));
    }
    for name in host.port_bindings.keys() {
        port(name)?;
    }
    if !matches!(host.cgroupns_mode.as_str(), "" | "host" | "private") {
        return Err(Error::bad(format!("invalid cgroup namespace mode: {}", host.cgroupns_mode)));
    }
    if !matches!(host.userns_mode.as_str(), "" | "host") {
        return Err(Error::bad(format!("invalid userns mode: {}", host.userns_mode)));
    }
    mounts::check(host).map_err(Error::bad)
}

/// The network that the container begins with is asked under its mode's name.
fn place(networking: &mut NetworkingConfig, host: &HostConfig) {
    let own = |name: &str| {
        matches!(name, "default" | "bridge") && matches!(host.network_mode.as_str(), "default" | "bridge")
    };
    let renamed: BTreeMap<String, EndpointSettings> = std::mem::take(&mut networking.endpoints_config)
        .into_iter()
        .map(
            |(name, settings)| {
                if own(&name) { (host.network_mode.clone(), settings) } else { (name, settings) }
            },
        )
        .map(|(name, settings)| (name, wish(settings)))
        .collect();
    networking.endpoints_config = renamed;
    // Networks beside a namespace that is somebody else's would be asked of nobody.
    if matches!(host.network_mode.as_str(), "host" | "none") || host.network_mode.starts_with("container:") {
        networking.endpoints_config.remove(&host.network_mode);
    }
}

/// What of an endpoint is asked for: clients send back what they were shown, too.
pub fn wish(settings: EndpointSettings) -> EndpointSettings {
    let some = |list: Option<Vec<String>>| list.filter(|list| !list.is_empty());
    EndpointSettings {
        ipam_config: settings
            .ipam_config
            .filter(|ipam| !ipam.ipv4_address.is_empty() || !ipam.ipv6_address.is_empty()),
        links: some(settings.links),
        aliases: some(settings.aliases),
        mac_address: settings.mac_address,
        driver_opts: settings.driver_opts.filter(|options| !options.is_empty()),
        ..EndpointSettings::default()
    }
}

/// `HostConfig.Mounts`, in the form that `--mount` has in the engine.
fn mounts(value: Option<Value>) -> Result<Vec<MountPoint>, Error> {
    let list = match value {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(list)) => list,
        Some(_) => return Err(Error::bad("invalid HostConfig: Mounts is no list")),
    };
    list.into_iter()
        .map(|mut value| {
            drop_nulls(&mut value);
            mount(object(Some(value), "a mount")?)
        })
        .collect()
}

fn mount(mut fields: Map<String, Value>) -> Result<MountPoint, Error> {
    let text = |fields: &Map<String, Value>, name: &str| {
        fields.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let kind = text(&fields, "Type");
    let invalid = |why: &str| Error::bad(format!("invalid mount config for type {kind:?}: {why}"));
    let (source, target) = (text(&fields, "Source"), text(&fields, "Target"));
    let mut point = MountPoint {
        kind: kind.clone(),
        destination: target.clone(),
        rw: !fields.get("ReadOnly").and_then(Value::as_bool).unwrap_or(false),
        ..MountPoint::default()
    };
    let mut mode: Vec<String> = Vec::new();
    let bind = object(fields.remove("BindOptions"), "BindOptions")?;
    let volume = object(fields.remove("VolumeOptions"), "VolumeOptions")?;
    let tmpfs = object(fields.remove("TmpfsOptions"), "TmpfsOptions")?;
    for (options, owner) in [(&bind, "bind"), (&volume, "volume"), (&tmpfs, "tmpfs")] {
        if kind != owner && !options.is_empty() {
            return Err(invalid(&format!("options of a {owner} mount")));
        }
    }
    let on = |name: &str| bind.get(name).and_then(Value::as_bool).unwrap_or(false);
    match kind.as_str() {
        "bind" => {
            if on("NonRecursive") {
                mode.push("nonrecursive".to_owned());
            }
            if on("ReadOnlyNonRecursive") {
                if on("ReadOnlyForceRecursive") {
                    return Err(invalid(
                        "mount options conflict: ReadOnlyNonRecursive && ReadOnlyForceRecursive",
                    ));
                }
                mode.push("nonrecursive-readonly".to_owned());
            }
            point.source = source;
            point.propagation = text(&bind, "Propagation");
        }
        "volume" => {
            let options: VolumeOptions = parsed(volume, "VolumeOptions")?;
            point.name = source;
            point.volume_options = (options != VolumeOptions::default()).then_some(options);
        }
        "tmpfs" => {
            refuse(&tmpfs, &["Options"])?;
            point.source = source;
            if let Some(size) = tmpfs.get("SizeBytes").and_then(Value::as_u64).filter(|size| *size > 0) {
                mode.push(format!("size={size}"));
            }
            if let Some(bits) = tmpfs.get("Mode").and_then(Value::as_u64).filter(|bits| *bits > 0) {
                mode.push(format!("mode={bits:o}"));
            }
        }
        _ => {}
    }
    point.mode = mode.join(",");
    mounts::long(&point).map_err(Error::bad)?;
    if on("CreateMountpoint") && !std::path::Path::new(&point.source).exists() {
        std::fs::create_dir_all(&point.source).map_err(|error| {
            invalid(&format!("error while creating mount source path '{}': {error}", point.source))
        })?;
    }
    Ok(point)
}

/// What an update asks for.
pub fn update(body: Value) -> Result<(Resources, Option<RestartPolicy>), Error> {
    let mut body = Value::Object(object(Some(body), "the body")?);
    drop_nulls(&mut body);
    let Value::Object(mut fields) = body else { return Err(Error::bad("invalid JSON")) };
    refuse(&fields, HOST_LACKS)?;
    resources(&mut fields);
    restart_policy(fields.get("RestartPolicy"))?;
    let restart = object(fields.remove("RestartPolicy"), "RestartPolicy")?;
    let restart: RestartPolicy = parsed(restart, "RestartPolicy")?;
    restart.check().map_err(Error::bad)?;
    let resources: Resources = parsed(fields, "resources")?;
    Ok((resources, (!restart.name.is_empty()).then_some(restart)))
}

/// The image of a container, in Docker's words when it is not here: by them a client knows that it may pull it.
pub fn image(store: &Store, name: &str, platform: Option<&Platform>) -> Result<Image, Error> {
    if name.is_empty() {
        return Err(Error::bad("no image specified"));
    }
    let found = image::find(store, name).map_err(|error| match error {
        image::Error::NoSuchImage(name) => {
            let tagged = Reference::parse(&name).map_or(name, |name| name.tagged().familiar());
            image::Error::NoSuchImage(tagged)
        }
        other => other,
    })?;
    if let Some(wanted) = platform {
        wanted.check(name, &found.platform())?;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(body: Value) -> Result<Asked, String> {
        Asked::read(body).map_err(|error| error.message)
    }

    #[test]
    fn what_the_docker_command_sends() {
        let sent = r#"{
            "Hostname": "", "User": "", "AttachStdin": true, "AttachStdout": true, "AttachStderr": true, "Tty": false,
            "OpenStdin": true, "StdinOnce": true, "Env": null, "Cmd": ["echo", "hi"], "Image": "busybox",
            "Volumes": {}, "WorkingDir": "", "Entrypoint": null, "OnBuild": null, "Labels": {}, "ExposedPorts": {"80/tcp": {}},
            "HostConfig": {
                "Binds": null, "ContainerIDFile": "/tmp/cid", "LogConfig": {"Type": "", "Config": {}}, "NetworkMode": "default",
                "PortBindings": {"80/tcp": [{"HostIp": "", "HostPort": "8080"}]},
                "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0}, "AutoRemove": true, "VolumeDriver": "",
                "VolumesFrom": null, "ConsoleSize": [24, 80], "CapAdd": ["net_admin"], "CapDrop": null, "CgroupnsMode": "",
                "Dns": [], "DnsOptions": [], "DnsSearch": [], "ExtraHosts": null, "IpcMode": "", "Cgroup": "", "Links": null,
                "OomScoreAdj": 0, "PidMode": "", "Privileged": false, "PublishAllPorts": false, "ReadonlyRootfs": false,
                "SecurityOpt": null, "UTSMode": "", "UsernsMode": "", "ShmSize": 0, "Isolation": "", "CpuShares": 0,
                "Memory": 67108864, "NanoCpus": 0, "BlkioWeight": 0, "BlkioWeightDevice": [], "CpuPeriod": 0,
                "Devices": [], "DeviceRequests": null, "MemorySwappiness": -1, "OomKillDisable": false, "PidsLimit": 0,
                "Ulimits": [], "CpuCount": 0, "CpuPercent": 0, "IOMaximumIOps": 0, "MaskedPaths": null, "Annotations": {"a": "b"},
                "Mounts": [{"Type": "volume", "Source": "data", "Target": "/d", "ReadOnly": true}]
            },
            "NetworkingConfig": {"EndpointsConfig": {"default": null}}
        }"#;
        let asked = read(serde_json::from_str(sent).expect("JSON")).expect("a container");
        assert_eq!(asked.config.cmd.as_deref(), Some(&["echo".to_owned(), "hi".to_owned()][..]));
        assert_eq!(asked.host.cap_add.as_deref(), Some(&["CAP_NET_ADMIN".to_owned()][..]));
        assert_eq!((asked.host.resources.memory_swappiness, asked.host.resources.memory), (None, 64 << 20));
        // The operator's to say.
        assert_eq!((asked.host.log_config.driver.as_str(), asked.host.shm_size), ("", 0));
        assert_eq!(asked.host.container_id_file, "");
        assert_eq!(asked.host.annotations["a"], "b");
        assert_eq!((asked.host.mounts[0].name.as_str(), asked.host.mounts[0].rw), ("data", false));
        assert!(asked.networking.endpoints_config.contains_key("default"));
        assert_eq!(asked.host.port_bindings["80/tcp"][0].host_port, "8080");
    }

    #[test]
    fn what_the_engine_has_not_is_refused() {
        for (field, value) in [
            ("KernelMemory", json!(1_000_000)),
            ("DeviceRequests", json!([{"Driver": "nvidia"}])),
            ("StorageOpt", json!({"size": "1G"})),
            ("CpuRealtimeRuntime", json!(1)),
            ("Isolation", json!("hyperv")),
            ("Runtime", json!("kata")),
            ("VolumeDriver", json!("rexray")),
            ("UsernsMode", json!("private")),
            ("CgroupnsMode", json!("x")),
            ("RestartPolicy", json!({"Name": "sometimes"})),
            ("RestartPolicy", json!({"Name": "always", "MaximumRetryCount": 3})),
            ("Binds", json!(["/a:/"])),
            ("Binds", json!(["/a:b"])),
            ("Binds", json!(["/a"])),
            ("Binds", json!(["/a:/b", "/c:/b/"])),
            ("Mounts", json!([{"Type": "bind", "Source": "a", "Target": "/b"}])),
            ("Mounts", json!([{"Type": "npipe", "Source": "a", "Target": "/b"}])),
            ("Mounts", json!([{"Type": "tmpfs", "Target": "/b", "TmpfsOptions": {"Options": [["exec"]]}}])),
            (
                "Mounts",
                json!([{"Type": "volume", "Source": "x", "Target": "/b", "VolumeOptions": {"Subpath": "../x"}}]),
            ),
            ("Tmpfs", json!({"x": ""})),
            ("PortBindings", json!({"x/tcp": []})),
            ("PortBindings", json!({"80/what": []})),
            ("Memory", json!("much")),
        ] {
            let why = read(json!({"Image": "x", "HostConfig": {field: value.clone()}}));
            assert!(why.is_err(), "{field}: {value}");
        }
        for (field, value) in [
            ("NetworkDisabled", json!(true)),
            ("WorkingDir", json!("x")),
            ("StopSignal", json!("SIGFOO")),
            ("Env", json!(["=x"])),
            ("Healthcheck", json!({"Interval": 5})),
            ("Cmd", json!({})),
        ] {
            assert!(read(json!({"Image": "x", field: value})).is_err(), "{field}");
        }
    }

    #[test]
    fn what_docker_does_not_know_either_is_passed_over() {
        let asked = read(json!({"Image": "x", "Foo": 1, "Cmd": "sh", "HostConfig": {"Bar": {"baz": [1]}}}));
        assert_eq!(asked.expect("a container").config.cmd, Some(vec!["sh".to_owned()]));
    }

    #[test]
    fn an_update_changes_what_it_says() {
        let (resources, restart) =
            update(json!({"Memory": 1 << 26, "CpuShares": 0, "PidsLimit": null, "RestartPolicy": {"Name": "", "MaximumRetryCount": 0}}))
                .expect("an update");
        assert_eq!((resources.memory, restart), (1 << 26, None));
        assert!(update(json!({"KernelMemory": 5})).is_err());
        let negative = json!({"Name": "on-failure", "MaximumRetryCount": -1});
        let words = "invalid restart policy: maximum retry count cannot be negative";
        assert_eq!(update(json!({"RestartPolicy": negative})).expect_err("negative").message, words);
        assert_eq!(
            read(json!({"Image": "x", "HostConfig": {"RestartPolicy": negative}})).expect_err("negative"),
            words
        );
    }
}
