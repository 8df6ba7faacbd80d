//! `images`, `history`, `ps`, `inspect`, `top`, `info`, `system df` and the prunes: what they show of real
//! images and containers, in which format, and how they refuse.

mod common;

use serde_json::Value;

#[test]
fn images_are_listed_filtered_and_formatted() {
    let host = host!();
    host.busybox();
    host.bulkhead(&["tag", "busybox", "localhost:5000/team/app:v1"]).ok();
    let id = host.bulkhead(&["images", "-q", "--no-trunc", "busybox"]).ok().line();
    let short = &id["sha256:".len()..][..12];

    let table = host.bulkhead(&["images"]).ok().out();
    let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0].join(" "), "REPOSITORY TAG IMAGE ID CREATED SIZE");
    assert_eq!(lines.len(), 3, "{table}");
    assert!(lines.iter().any(|line| line[..3] == ["busybox", "latest", short]), "{table}");
    assert!(lines.iter().any(|line| line[..3] == ["localhost:5000/team/app", "v1", short]), "{table}");

    // A flag may follow the operand.
    host.bulkhead(&["images", "busybox", "-q"]).ok().prints(&format!("{short}\n"));
    host.bulkhead(&["images", "--format", "{{.Repository}}:{{.Tag}}", "busybox"])
        .ok()
        .prints("busybox:latest\n");
    host.bulkhead(&["images", "--format", "table {{.Tag}}\\t{{.ID}}", "busybox"])
        .ok()
        .prints(&format!("TAG       IMAGE ID\nlatest    {short}\n"));
    host.bulkhead(&["images", "-f", "reference=localhost:5000/*/*", "--format", "{{.Repository}}"])
        .ok()
        .prints("localhost:5000/team/app\n");
    host.bulkhead(&["images", "-f", "dangling=true", "-q"]).ok().prints("");
    host.bulkhead(&["images", "-f", "foo=1"])
        .code(1)
        .complains("Error response from daemon: invalid filter 'foo'");
    host.bulkhead(&["images", "--format", "{{.Nope}}"])
        .code(1)
        .complains("template parsing error: template: :1:2: executing \"\" at <.Nope>: can't evaluate field Nope in type");
    let json = host.bulkhead(&["images", "--format", "json", "busybox"]).ok().line();
    let json: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!((json["Repository"].as_str(), json["ID"].as_str()), (Some("busybox"), Some(short)));

    host.bulkhead(&["rmi", "localhost:5000/team/app:v1"]).ok();
    // The same name given to another image leaves the first one nameless.
    let other = host
        .bulkhead_with_stdin(
            &["import", "-m", "words", "-", "busybox:latest"],
            &common::images::Tar::new().build(),
        )
        .ok()
        .line();
    host.bulkhead(&["images", "-f", "dangling=true", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}"])
        .ok()
        .prints(&format!("<none>:<none> {short}\n"));
    let history = host.bulkhead(&["history", "--no-trunc", "--format", "{{.ID}} {{.Comment}}", &other]).ok();
    assert_eq!(history.line(), format!("{other} words"));
    let pruned = host.bulkhead(&["image", "prune", "-f"]).ok().out();
    assert!(pruned.starts_with("Deleted Images:\n"), "{pruned}");
    assert!(
        pruned.contains(&format!("deleted: {id}\n")) && pruned.contains("Total reclaimed space: "),
        "{pruned}"
    );
    host.bulkhead(&["images", "-q", "--no-trunc"]).ok().prints(&format!("{other}\n"));
}

#[test]
fn a_prune_asks_first() {
    let host = host!();
    host.busybox();
    host.bulkhead(&["create", "--name", "box", "busybox", "true"]).ok();
    for answer in ["", "n\n", "yes please\n"] {
        let out = host.bulkhead_with_stdin(&["container", "prune"], answer.as_bytes()).ok().out();
        assert_eq!(
            out,
            "WARNING! This will remove all stopped containers.\nAre you sure you want to continue? [y/N] ",
            "{answer:?}"
        );
    }
    let id = host.inspect("box", "{{.Id}}");
    let out = host.bulkhead_with_stdin(&["container", "prune"], b"y\n").ok().out();
    assert!(out.contains(&format!("Deleted Containers:\n{id}\n\nTotal reclaimed space: 0B\n")), "{out}");
    host.bulkhead(&["ps", "-aq"]).ok().prints("");
    // With nothing to remove there is only the sum.
    host.bulkhead(&["container", "prune", "-f"]).ok().prints("Total reclaimed space: 0B\n");
    host.bulkhead(&["system", "prune", "-af"]).ok();
    host.bulkhead(&["images", "-q"]).ok().prints("");
}

#[test]
fn containers_are_listed_filtered_and_formatted() {
    let host = host!();
    let image = host.busybox();
    let web = host
        .bulkhead(&["run", "-d", "--name", "web", "-l", "tier=front", "-l", "bare", image, "sleep", "1000"])
        .ok()
        .line();
    host.bulkhead(&["run", "--name", "gone", image, "sh", "-c", "exit 3"]).code(3);
    host.bulkhead(&["create", "--name", "fresh", image, "true"]).ok();

    let names = |args: &[&str]| {
        let args: Vec<&str> = ["ps", "--format", "{{.Names}}"].iter().chain(args).copied().collect();
        host.bulkhead(&args).ok().out().lines().map(str::to_owned).collect::<Vec<_>>().join(" ")
    };
    for (args, wanted) in [
        (&[][..], "web"),
        (&["-a"], "fresh gone web"),
        (&["-l"], "fresh"),
        (&["-n", "2"], "fresh gone"),
        (&["-f", "status=exited"], "gone"),
        (&["-f", "status=exited", "-f", "status=created"], "fresh gone"),
        (&["-a", "-f", "exited=3"], "gone"),
        (&["-a", "-f", "exited=0"], ""),
        (&["-f", "label=tier=front"], "web"),
        (&["-f", "label=bare"], "web"),
        (&["-f", "label=tier=back"], ""),
        (&["-a", "-f", "name=^/gone$"], "gone"),
        (&["-a", "-f", "ancestor=busybox:latest"], "fresh gone web"),
        (&["-a", "-f", "since=web"], "fresh gone"),
        (&["-a", "-f", "before=gone"], "web"),
        (&["-f", &format!("id={}", &web[..6])], "web"),
    ] {
        assert_eq!(names(args), wanted, "{args:?}");
    }
    host.bulkhead(&["ps", "-q"]).ok().prints(&format!("{}\n", &web[..12]));
    host.bulkhead(&["ps", "-q", "--no-trunc"]).ok().prints(&format!("{web}\n"));
    let table = host.bulkhead(&["ps", "-a"]).ok().out();
    let titles: Vec<&str> = table
        .lines()
        .next()
        .unwrap_or_default()
        .split("  ")
        .map(str::trim)
        .filter(|t| !t.is_empty())
        .collect();
    assert_eq!(titles, ["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"]);
    assert!(table.contains("\"sh -c 'exit 3'\"") || table.contains("\"sh -c exit 3\""), "{table}");
    assert!(table.contains("Exited (3) ") && table.contains("Created ") && table.contains("Up "), "{table}");
    host.bulkhead(&["ps", "--format", "table {{.Names}}\\t{{.Label \"tier\"}}"])
        .ok()
        .prints("NAMES     tier\nweb       front\n");

    host.bulkhead(&["pause", "web"]).ok();
    assert!(
        host.bulkhead(&["ps", "--format", "{{.Status}} {{.State}}"])
            .ok()
            .line()
            .ends_with(" (Paused) paused")
    );
    host.bulkhead(&["unpause", "web"]).ok();

    host.bulkhead(&["exec", "web", "sh", "-c", "head -c 1500 /dev/zero > /file"]).ok();
    let size = host.bulkhead(&["ps", "-s", "--format", "{{.Size}}"]).ok().line();
    assert!(size.starts_with("1.5kB (virtual "), "{size}");
    host.bulkhead(&["ps", "-f", "nope=1"]).code(1).complains("invalid filter 'nope'");
    let json: Value =
        serde_json::from_str(&host.bulkhead(&["ps", "--format", "json"]).ok().line()).expect("JSON");
    assert_eq!((json["Names"].as_str(), json["Labels"].as_str()), (Some("web"), Some("bare=,tier=front")));
    assert_eq!(json.get("_labels"), None);

    let df = host.bulkhead(&["system", "df", "--format", "{{.Type}} {{.TotalCount}} {{.Active}}"]).ok().out();
    assert_eq!(df, "Images 1 1\nContainers 3 1\nLocal Volumes 0 0\nBuild Cache 0 0\n");
    let info = host.bulkhead(&[
        "info",
        "--format",
        "{{.Containers}} {{.ContainersRunning}} {{.ContainersStopped}} {{.Images}}",
    ]);
    assert_eq!(info.ok().line(), "3 1 2 1");
    host.bulkhead(&["rm", "-f", "web", "gone", "fresh"]).ok();
}

#[test]
fn inspect_shows_what_docker_shows() {
    let host = host!();
    let image = host.busybox();
    let id = host
        .bulkhead(&[
            "create",
            "--name",
            "box",
            "-e",
            "A=1",
            "-m",
            "64m",
            "--label",
            "x.y=z",
            "-w",
            "/tmp",
            "--annotation",
            "org.x=of=y",
            image,
            "sleep",
            "7",
        ])
        .ok()
        .line();
    let json: Value = serde_json::from_str(&host.bulkhead(&["inspect", "box"]).ok().out()).expect("JSON");
    let c = &json[0];
    assert_eq!(json.as_array().map(Vec::len), Some(1));
    assert_eq!((c["Id"].as_str(), c["Name"].as_str()), (Some(id.as_str()), Some("/box")));
    assert_eq!((c["Path"].as_str(), &c["Args"]), (Some("sleep"), &serde_json::json!(["7"])));
    assert_eq!(
        (c["State"]["Status"].as_str(), c["State"]["Running"].as_bool()),
        (Some("created"), Some(false))
    );
    assert_eq!(c["HostConfig"]["Memory"], 64 << 20);
    assert_eq!(
        (c["Config"]["WorkingDir"].as_str(), c["Config"]["Labels"]["x.y"].as_str()),
        (Some("/tmp"), Some("z"))
    );
    for key in ["LowerDir", "UpperDir", "WorkDir"] {
        let dirs = c["GraphDriver"]["Data"][key].as_str().expect("a path");
        assert!(dirs.split(':').all(|dir| std::path::Path::new(dir).is_dir()), "{key}: {dirs}");
    }
    for (format, wanted) in [
        ("{{.Name}} {{.Config.Cmd}}", "/box [sleep 7]"),
        ("{{json .Config.Labels}}", "{\"x.y\":\"z\"}"),
        ("{{json .HostConfig.Annotations}}", "{\"org.x\":\"of=y\"}"),
        ("{{index .Config.Labels \"x.y\"}} {{.Config.Labels.none}}", "z <no value>"),
        ("{{range .Config.Env}}{{if eq . \"A=1\"}}found{{end}}{{end}}", "found"),
        ("{{.HostConfig.Memory}} {{.HostConfig.RestartPolicy.Name}}", "67108864 no"),
        ("{{join .Config.Cmd \"+\"}} {{upper .State.Status}}", "sleep+7 CREATED"),
        ("{{if .State.Health}}{{.State.Health.Status}}{{else}}none{{end}} {{.SizeRw}}", "none <nil>"),
        ("{{.HostConfig.CPUShares}} {{.HostConfig.DNS}} {{len .ID}}", "0 [] 64"),
        ("{{len .Mounts}} {{.Mounts}} {{.HostConfig.CapAdd}}", "0 [] []"),
    ] {
        assert_eq!(host.inspect("box", format), wanted, "{format}");
    }
    host.bulkhead(&["inspect", "-f", "{{.Nope}}", "box"])
        .code(1)
        .complains("template parsing error: template: :1:2: executing \"\" at <.Nope>: map has no entry for key \"Nope\"");

    // Those that are there are printed, the others complained of.
    host.bulkhead(&["inspect", "-f", "{{.Id}}", "nosuch", "box", "Not A Name"])
        .code(1)
        .prints(&format!("{id}\n"))
        .complains("Error: No such object: nosuch\nError: No such object: Not A Name\n");
    host.bulkhead(&["inspect", "nosuch"]).code(1).prints("[]\n");
    host.bulkhead(&["inspect", "--type", "image", "box"]).code(1).complains("No such image: box:latest");
    host.bulkhead(&["inspect", "--type", "container", image]).code(1).complains("No such container: busybox");
    host.bulkhead(&["inspect", "--type", "foo", "box"])
        .code(1)
        .complains("\"foo\" is not a valid value for --type");

    let json: Value =
        serde_json::from_str(&host.bulkhead(&["image", "inspect", image]).ok().out()).expect("JSON");
    let i = &json[0];
    assert_eq!((i["RepoTags"][0].as_str(), i["Os"].as_str()), (Some("busybox:latest"), Some("linux")));
    assert_eq!(i["Id"].as_str(), c["Image"].as_str());
    assert_eq!(i["RootFS"]["Type"].as_str(), Some("layers"));
    assert!(i["Size"].as_u64().is_some_and(|size| size > 0));
    host.bulkhead(&["rm", "box"]).ok();
}

/// Ports are to be had on the networks that a container is on, and it is on none before it runs and after.
#[test]
fn ports_are_a_running_containers() {
    let host = host!();
    let image = host.busybox();
    let api = common::serve::Api::start(&host);
    let shown = || {
        let (_, body) = api.ask("GET", "/containers/json?all=1", "");
        let rows: Value = serde_json::from_str(&body).expect("JSON");
        (
            rows[0]["Ports"].to_string(),
            host.inspect("box", "{{json .NetworkSettings.Ports}}"),
            host.bulkhead(&["ps", "-a", "--format", "{{.Ports}}"]).ok().out().trim().to_owned(),
        )
    };
    let none = ("[]".to_owned(), "{}".to_owned(), String::new());
    host.bulkhead(&["create", "--name", "box", "--expose", "80", image, "sleep", "1000"]).ok();
    assert_eq!(shown(), none);
    host.bulkhead(&["start", "box"]).ok();
    let tcp = r#"[{"PrivatePort":80,"Type":"tcp"}]"#.to_owned();
    assert_eq!(shown(), (tcp, r#"{"80/tcp":null}"#.to_owned(), "80/tcp".to_owned()));
    host.bulkhead(&["kill", "box"]).ok();
    host.bulkhead(&["wait", "box"]).ok();
    assert_eq!(shown(), none);
    host.bulkhead(&["rm", "box"]).ok();
    // On the host's network it says nothing of them.
    host.bulkhead(&[
        "run",
        "-d",
        "--name",
        "box",
        "--network",
        "host",
        "--expose",
        "80",
        image,
        "sleep",
        "1000",
    ])
    .ok();
    assert_eq!(shown(), none);
    host.bulkhead(&["rm", "-f", "box"]).ok();
}

/// What was asked for comes back whole, and what nobody said is shown as it holds.
#[test]
fn inspect_shows_what_holds() {
    let host = host!();
    let image = host.busybox();
    let make = |name: &str, flags: &[&str]| {
        let args = [&["run", "-d", "--name", name], flags, &[image, "sleep", "1000"]].concat();
        host.bulkhead(&args).ok();
        let json: Value = serde_json::from_str(&host.bulkhead(&["inspect", name]).ok().out()).expect("JSON");
        json[0].clone()
    };
    let bind =
        format!("type=bind,src={},dst=/b,bind-propagation=rslave,bind-nonrecursive", host.dir().display());
    let plain =
        make("plain", &["--mount", "type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=1700", "--mount", &bind]);
    let config = &plain["HostConfig"];
    assert_eq!(
        config["Mounts"][0]["TmpfsOptions"],
        serde_json::json!({"SizeBytes": 1 << 20, "Mode": 0o1700}),
        "{config}"
    );
    assert_eq!(
        config["Mounts"][1]["BindOptions"],
        serde_json::json!({"Propagation": "rslave", "NonRecursive": true})
    );
    assert_eq!(config["CgroupnsMode"], "private");
    let has = |list: &Value, path: &str| list.as_array().is_some_and(|all| all.contains(&path.into()));
    assert!(
        has(&config["MaskedPaths"], "/proc/kcore") && has(&config["ReadonlyPaths"], "/proc/sys"),
        "{config}"
    );
    // A way to its network for those who come from outside.
    let key = plain["NetworkSettings"]["SandboxKey"].as_str().expect("a path").to_owned();
    let inside = host.bulkhead(&["exec", "plain", "readlink", "/proc/self/ns/net"]).ok().line();
    assert_eq!(std::fs::read_link(&key).expect("a namespace").display().to_string(), inside);
    host.bulkhead(&["kill", "plain"]).ok();
    host.bulkhead(&["wait", "plain"]).ok();
    assert_eq!(host.inspect("plain", "{{.NetworkSettings.SandboxKey}}"), "");

    let open = make("open", &["--security-opt", "systempaths=unconfined", "--cgroupns", "host"]);
    assert_eq!(open["HostConfig"]["MaskedPaths"], serde_json::json!([]));
    assert_eq!(open["HostConfig"]["CgroupnsMode"], "host");
    let all = make("all", &["--privileged"]);
    assert_eq!(
        (&all["HostConfig"]["MaskedPaths"], &all["HostConfig"]["ReadonlyPaths"]),
        (&Value::Null, &Value::Null)
    );
    host.bulkhead(&["rm", "-f", "plain", "open", "all"]).ok();
}

#[test]
fn top_lists_the_processes_of_a_container() {
    let host = host!();
    let image = host.busybox();
    host.bulkhead(&["run", "-d", "--name", "box", image, "sh", "-c", "sleep 1000 & wait"]).ok();
    let pid = host.inspect("box", "{{.State.Pid}}");
    common::eventually("two processes", || host.bulkhead(&["top", "box"]).ok().out().lines().count() == 3);
    let out = host.bulkhead(&["top", "box"]).ok().out();
    let lines: Vec<Vec<&str>> = out.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0].join(" "), "UID PID PPID C STIME TTY TIME CMD");
    let first = lines.iter().find(|line| line[1] == pid).expect("process 1");
    assert_eq!(
        (first[0], first[5], first[7..].join(" ")),
        ("root", "?", "sh -c sleep 1000 & wait".to_owned())
    );
    let child = lines.iter().find(|line| line[2] == pid).expect("its child");
    assert_eq!(child[7..].join(" "), "sleep 1000");
    let own = host.bulkhead(&["top", "box", "-o", "pid,ppid,args"]).ok().out();
    assert!(own.starts_with("PID ") && own.contains(&pid), "{own}");
    host.bulkhead(&["top", "box", "-o", "nope"]).code(1).complains("nope");
    host.bulkhead(&["kill", "box"]).ok();
    host.bulkhead(&["wait", "box"]).ok();
    host.bulkhead(&["top", "box"]).code(1).complains("is not running");
    host.bulkhead(&["top", "nosuch"])
        .code(1)
        .complains("Error response from daemon: No such container: nosuch");
    host.bulkhead(&["rm", "box"]).ok();
}

#[test]
fn run_and_create_refuse_in_dockers_words() {
    let host = host!();
    let image = host.busybox();
    host.bulkhead(&["create", "--name", "taken", image, "true"]).ok();
    for (flags, wanted) in [
        (&["--name", "taken"][..], "Conflict. The container name \"/taken\" is already in use by container "),
        (&["--name", "a b"], "Invalid container name (a b), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"),
        (&["-m", "1m"], "Minimum memory limit allowed is 6MB"),
        (&["--restart", "foo"], "invalid restart policy: unknown policy 'foo'"),
        (&["-w", "relative"], "the working directory 'relative' is invalid, it needs to be an absolute path"),
        (&["--cap-add", "foo"], "invalid CapAdd: unknown capability: \"CAP_FOO\""),
        (&["-v", "/a:b"], "invalid volume specification: '/a:b'"),
        (
            &["--mount", "type=bind,src=/nosuch,dst=/x"],
            "invalid mount config for type \"bind\": bind source path does not exist: /nosuch",
        ),
        (&["--ip", "1.2.3.4"], "user specified IP address is supported on user defined networks only"),
        (&["--gpus", "all"], "could not select device driver \"\" with capabilities: [[gpu]]"),
    ] {
        for (verb, code, prefix, pointer) in [
            (
                "run",
                125,
                "bulkhead: Error response from daemon: ",
                "\n\nRun 'bulkhead run --help' for more information\n",
            ),
            ("create", 1, "Error response from daemon: ", "\n"),
        ] {
            let args: Vec<&str> = [verb].iter().chain(flags).chain(&[image, "true"]).copied().collect();
            let out = host.bulkhead(&args).code(code).prints("");
            let err = out.err();
            assert!(
                err.starts_with(&format!("{prefix}{wanted}")) && err.ends_with(pointer),
                "{args:?}: {err}"
            );
        }
    }
    host.bulkhead(&["network", "ls", "--filter", "type=x"]).code(1).complains("invalid filter: 'type'='x'");
    // What is made, but not as it was asked for.
    let warning = "WARNING: Published ports are discarded when using host network mode\n";
    let ignored = host.bulkhead(&["run", "--rm", "--network", "host", "-p", "80:80", image, "true"]).ok();
    assert_eq!(ignored.err(), warning);
    // What the client itself refuses is 125 for both.
    for verb in ["run", "create"] {
        let out = host.bulkhead(&[verb, "--rm", "--restart", "always", image]).code(125);
        assert_eq!(
            out.err(),
            format!(
                "bulkhead: conflicting options: cannot specify both --restart and --rm\n\nRun 'bulkhead {verb} --help' for more information\n"
            )
        );
    }
    host.bulkhead(&["ps", "-a", "--format", "{{.Names}}"]).ok().prints("taken\n");
    host.bulkhead(&["rm", "taken"]).ok();
}

/// What a container has written is where `inspect` says, and all that it sees is there while it runs.
#[test]
fn the_directories_of_a_container_are_where_inspect_says() {
    let host = host!();
    let image = host.busybox();
    let script = "echo mine > /mine; exec sleep 1000";
    host.bulkhead(&["run", "-d", "--name", "box", image, "sh", "-c", script]).ok();
    let path = |key: &str| {
        std::path::PathBuf::from(host.inspect("box", &format!("{{{{.GraphDriver.Data.{key}}}}}")))
    };
    common::eventually("a file", || path("UpperDir").join("mine").exists());
    assert!(path("MergedDir").join("mine").exists() && path("MergedDir").join("bin").exists());
    assert!(path("LowerDir").join("bin").exists() && !path("LowerDir").join("mine").exists());
    host.bulkhead(&["stop", "-t", "0", "box"]).ok();
    assert!(path("UpperDir").join("mine").exists() && !path("MergedDir").exists());
}

/// A tag that has moved on is not what a container was made from.
#[test]
fn ps_names_an_image_as_long_as_the_name_is_its_own() {
    let host = host!();
    let image = host.busybox();
    host.bulkhead(&["tag", image, "app:1"]).ok();
    host.bulkhead(&["create", "--name", "old", "app:1", "true"]).ok();
    let shown = || host.bulkhead(&["ps", "-a", "--format", "{{.Image}}"]).ok().out();
    assert_eq!(shown(), "app:1\n");
    host.load(
        &common::images::Image::busybox()
            .name("app:1")
            .config("Cmd", serde_json::json!(["x"]))
            .docker_archive(common::images::Compression::None),
    );
    let id = host.bulkhead(&["images", "-q", "--no-trunc", image]).ok().line();
    assert_eq!(shown(), format!("{}\n", &id[7..19]));
    host.bulkhead(&["ps", "-a", "--no-trunc", "--format", "{{.Image}}"]).ok().prints(&format!("{id}\n"));
    let taken = host.bulkhead(&["system", "df", "-v"]).ok().out();
    let row = taken.lines().find(|line| line.ends_with("old")).expect("the container's");
    assert!(row.contains(&id[7..19]) && !row.contains("app:1"), "{taken}");
    let of = |image: &str| host.bulkhead(&["ps", "-aq", "--filter", &format!("ancestor={image}")]).ok().out();
    assert_eq!((of("app:1").as_str(), of("nosuch").as_str()), ("", ""));
    assert_ne!((of(image), of(&id[7..19])), (String::new(), String::new()));
    let api = common::serve::Api::start(&host);
    for path in ["/containers/json?all=1", "/system/df"] {
        let (_, body) = api.ask("GET", path, "");
        assert!(
            body.contains(&format!("\"Image\":\"{id}\"")) && !body.contains("\"Image\":\"app:1\""),
            "{body}"
        );
    }
    let (_, body) =
        api.ask("GET", "/containers/json?all=1&filters=%7B%22ancestor%22%3A%5B%22app:1%22%5D%7D", "");
    assert_eq!(body, "[]\n");
}

#[test]
fn df_tells_of_each_when_asked() {
    let host = host!();
    let image = host.busybox();
    host.bulkhead(&["create", "--name", "box", "-v", "data:/data", image, "true"]).ok();
    let out = host.bulkhead(&["system", "df", "-v"]).ok().out();
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[0], "Images space usage:");
    let columns = |line: &str| {
        line.split("  ").map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(
        columns(lines[2]),
        ["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE", "SHARED SIZE", "UNIQUE SIZE", "CONTAINERS"]
    );
    let row = columns(lines[3]);
    assert_eq!((row[0].as_str(), row[5].as_str(), row[7].as_str()), (image, "0B", "1"), "{out}");
    assert!(out.contains("\nContainers space usage:\n\nCONTAINER ID ") && out.contains("  box\n"), "{out}");
    assert!(
        out.contains(
            "\nLocal Volumes space usage:\n\nVOLUME NAME   LINKS     SIZE\ndata          1         0B\n"
        ),
        "{out}"
    );
    assert!(out.contains("\nBuild cache usage: 0B\n\nCACHE ID "), "{out}");
    host.file("context/Dockerfile", "FROM busybox\nRUN echo one > /one\n");
    host.bulkhead(&["build", "-q", "-t", "made", host.dir().join("context").to_str().expect("UTF-8")]).ok();
    let out = host.bulkhead(&["system", "df", "-v"]).ok().out();
    let row = columns(out.lines().last().expect("a line"));
    assert_eq!(
        (row[1].as_str(), row[4].as_str(), row[5].as_str()),
        ("regular", "true", "[2/2] RUN echo one > /one"),
        "{out}"
    );
    host.bulkhead(&["system", "df", "-v", "--format", "json"]).code(1).complains("conflict");
}

#[test]
fn inspect_knows_the_types_that_docker_knows() {
    let host = host!();
    for kind in ["config", "node", "secret", "service", "task"] {
        host.bulkhead(&["inspect", "--type", kind, "x"])
            .code(1)
            .complains("This node is not a swarm manager.");
    }
    host.bulkhead(&["inspect", "--type", "plugin", "x"]).code(1).complains("plugin \"x\" not found");
    host.bulkhead(&["inspect", "--type", "foo", "x"])
        .code(1)
        .complains("\"foo\" is not a valid value for --type");
    host.bulkhead(&["rmi", "nothere"]).code(1).complains("No such image: nothere:latest");
}
