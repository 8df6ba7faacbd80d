//! The OCI command line, driven as podman and containerd would: bundles, verbs, state, hooks.

mod common;

use std::fs;
use std::io::{BufRead as _, BufReader, IoSliceMut, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{Host, Output, eventually};
use serde_json::{Value, json};

/// A bundle of a busybox root, with the runtime's own idea of a specification in it.
struct Bundle<'a> {
    host: &'a Host,
    dir: PathBuf,
    config: Value,
}

impl<'a> Bundle<'a> {
    fn new(host: &'a Host, name: &str) -> Self {
        let dir = host.dir().join(name);
        let bin = dir.join("rootfs/bin");
        for below in ["bin", "etc", "tmp", "proc", "sys", "dev"] {
            fs::create_dir_all(dir.join("rootfs").join(below)).expect("mkdir");
        }
        fs::copy("/bin/busybox", bin.join("busybox")).expect("busybox");
        let list = Command::new("/bin/busybox").arg("--list").output().expect("busybox --list");
        for applet in String::from_utf8_lossy(&list.stdout).lines().filter(|a| *a != "busybox") {
            std::os::unix::fs::symlink("busybox", bin.join(applet)).expect("symlink");
        }
        let mut bundle = Self { host, dir, config: Value::Null };
        bundle.oci(&["spec", "--bundle", bundle.dir.to_str().expect("utf-8")]).ok();
        let text = fs::read(bundle.dir.join("config.json")).expect("config.json");
        bundle.config = serde_json::from_slice(&text).expect("JSON");
        bundle.config["linux"]["cgroupsPath"] = json!(format!("{}/{name}", host.cgroup_parent()));
        bundle
    }

    fn args(mut self, args: &[&str]) -> Self {
        self.config["process"]["args"] = json!(args);
        self
    }

    fn rootfs(&self) -> PathBuf {
        self.dir.join("rootfs")
    }

    fn save(&self) {
        fs::write(self.dir.join("config.json"), self.config.to_string()).expect("write");
    }

    fn command(&self, args: &[&str]) -> Command {
        let root = self.host.dir().join("oci");
        let mut command = self.host.command(&["oci", "--root"]);
        command.arg(root).args(args);
        command
    }

    fn oci(&self, args: &[&str]) -> Output {
        common::run(self.command(args), b"")
    }

    fn bundle(&self) -> &str {
        self.dir.to_str().expect("utf-8")
    }

    /// `run`, to the end.
    fn run(&self) -> Output {
        self.save();
        self.oci(&["run", "--bundle", self.bundle(), "c"])
    }

    /// `create`, without anybody else's pipes as its streams: they would stay open.
    fn create(&self, id: &str) {
        self.save();
        let mut command = self.command(&["create", "--bundle", self.bundle(), id]);
        let log = fs::File::create(self.dir.join("out")).expect("out");
        command.stdin(std::process::Stdio::null()).stdout(log.try_clone().expect("dup")).stderr(log);
        let status = command.status().expect("create");
        assert!(status.success(), "{status}: {}", self.out());
    }

    fn out(&self) -> String {
        fs::read_to_string(self.dir.join("out")).unwrap_or_default()
    }

    fn state(&self, id: &str) -> Value {
        serde_json::from_slice(&self.oci(&["state", id]).ok().stdout).expect("JSON")
    }
}

/// Runs `sh -c script` in a fresh container and returns what it printed.
fn sh(bundle: Bundle<'_>, script: &str) -> String {
    bundle.args(&["sh", "-c", script]).run().ok().out()
}

#[test]
fn a_container_goes_through_its_states() {
    let host = host!();
    let bundle = Bundle::new(&host, "b").args(&["sleep", "1000"]);
    bundle.create("c");
    let state = bundle.state("c");
    assert_eq!((&state["status"], &state["id"]), (&json!("created"), &json!("c")));
    assert_eq!(state["bundle"], json!(fs::canonicalize(&bundle.dir).expect("bundle")));
    let pid = state["pid"].as_i64().expect("pid");
    let comm = || fs::read_to_string(format!("/proc/{pid}/comm")).expect("comm");
    assert_ne!(comm(), "sleep\n");

    bundle.oci(&["create", "--bundle", bundle.bundle(), "c"]).code(1).complains("already exists");
    bundle.oci(&["start", "c"]).ok();
    assert_eq!((comm().as_str(), &bundle.state("c")["status"]), ("sleep\n", &json!("running")));
    bundle.oci(&["start", "c"]).code(1).complains("cannot start a container in the running state");
    bundle.oci(&["delete", "c"]).code(1).complains("cannot delete a container in the running state");

    bundle.oci(&["pause", "c"]).ok();
    assert_eq!(bundle.state("c")["status"], json!("paused"));
    bundle.oci(&["resume", "c"]).ok();
    assert_eq!(bundle.state("c")["status"], json!("running"));

    let listed: Value =
        serde_json::from_slice(&bundle.oci(&["list", "-f", "json"]).ok().stdout).expect("JSON");
    assert_eq!((listed.as_array().map(Vec::len), &listed[0]["pid"]), (Some(1), &json!(pid)));
    let ps: Value =
        serde_json::from_slice(&bundle.oci(&["ps", "-f", "json", "c"]).ok().stdout).expect("JSON");
    assert_eq!(ps, json!([pid]));

    bundle.oci(&["kill", "c", "KILL"]).ok();
    eventually("stopped", || bundle.state("c")["status"] == json!("stopped"));
    bundle.oci(&["kill", "c", "TERM"]).code(1).complains("cannot kill a container in the stopped state");
    bundle.oci(&["delete", "c"]).ok();
    bundle.oci(&["state", "c"]).code(1).complains("container does not exist: c");
    bundle.oci(&["delete", "c"]).code(1).complains("container does not exist");
    bundle.oci(&["delete", "--force", "c"]).ok();
}

#[test]
fn run_ends_as_its_program_does_and_says_why_it_could_not() {
    let host = host!();
    for (args, code, says) in [
        (&["sh", "-c", "exit 7"][..], 7, ""),
        (&["sh", "-c", "sh -c 'kill -9 $$'; exit $?"], 137, ""),
        (&["nope"], 127, "exec: \"nope\": executable file not found in $PATH"),
        (&["/nope"], 127, "exec: \"/nope\": stat /nope: no such file or directory"),
        (&["/etc"], 126, "exec: \"/etc\": is a directory"),
        (&["/etc/plain"], 126, "exec: \"/etc/plain\": permission denied"),
        (&["/etc/text"], 255, "exec /etc/text: Exec format error"),
    ] {
        let bundle = Bundle::new(&host, &format!("b{code}-{}", args[0].replace('/', "_"))).args(args);
        fs::write(bundle.rootfs().join("etc/plain"), "").expect("write");
        fs::write(bundle.rootfs().join("etc/text"), "no program").expect("write");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(bundle.rootfs().join("etc/text"), mode).expect("chmod");
        bundle.run().code(code).complains(says);
        assert_eq!(bundle.oci(&["list", "-q"]).ok().out(), "");
    }
}

#[test]
fn a_process_has_what_the_specification_says() {
    let host = host!();
    let mut bundle = Bundle::new(&host, "b");
    let process = &mut bundle.config["process"];
    process["user"] = json!({"uid": 1000, "gid": 100, "additionalGids": [5, 29], "umask": 0o27});
    process["env"] = json!(["PATH=/bin", "GREETING=hello"]);
    process["cwd"] = json!("/made/on/the/way");
    process["noNewPrivileges"] = json!(true);
    process["oomScoreAdj"] = json!(500);
    process["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 128, "hard": 256}]);
    bundle.config["hostname"] = json!("inside");
    bundle.config["domainname"] = json!("example");
    bundle.config["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1", "kernel.shmmni": "99"});
    let out = sh(
        bundle,
        "id; umask; echo $GREETING; pwd; ulimit -n; ulimit -Hn; hostname; cat /proc/self/oom_score_adj \
         /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shmmni /proc/sys/kernel/domainname; \
         grep -E 'NoNewPrivs|Seccomp:|CapEff|CapBnd|SigIgn|SigBlk' /proc/self/status; ls /proc/self/fd | wc -l",
    );
    let wanted = "uid=1000 gid=100 groups=5,29\n0027\nhello\n/made/on/the/way\n128\n256\ninside\n500\n1\n99\n\
        example\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\nCapEff:\t0000000000000000\n\
        CapBnd:\t00000000a80425fb\nNoNewPrivs:\t1\nSeccomp:\t2\n4\n";
    assert_eq!(out, wanted);
}

#[test]
fn what_belongs_to_the_host_is_not_set() {
    let host = host!();
    for (name, says) in [
        ("kernel.core_pattern", "is not in a separate kernel namespace"),
        ("vm.overcommit_memory", "is not in a separate kernel namespace"),
        ("net.ipv4/../../kernel/core_pattern", "invalid sysctl"),
    ] {
        let mut bundle = Bundle::new(&host, &name.replace('/', "_")).args(&["true"]);
        bundle.config["linux"]["sysctl"] = json!({name: "x"});
        bundle.run().code(1).complains(says);
    }
    let mut bundle = Bundle::new(&host, "host").args(&["true"]);
    let namespaces = bundle.config["linux"]["namespaces"].as_array_mut().expect("list");
    namespaces.retain(|ns| ns["type"] != "network" && ns["type"] != "uts");
    bundle.config["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1"});
    bundle.run().code(1).complains("shares the host's network namespace");
    bundle.config["linux"]["sysctl"] = json!({});
    bundle.config["hostname"] = json!("mine-now");
    bundle.run().code(1).complains("shares the host's UTS namespace");
}

#[test]
fn what_is_not_done_is_refused_and_not_passed_over() {
    let host = host!();
    for (place, property, value) in [
        ("linux", "timeOffsets", json!({"monotonic": {"secs": 1, "nanosecs": 0}})),
        ("linux", "personality", json!({"domain": "LINUX32"})),
        ("linux", "intelRdt", json!({"closID": "x"})),
        ("linux", "mountLabel", json!("system_u:object_r:container_file_t:s0")),
        ("process", "scheduler", json!({"policy": "SCHED_BATCH"})),
        ("process", "ioPriority", json!({"class": "IOPRIO_CLASS_IDLE", "priority": 4})),
    ] {
        let mut bundle = Bundle::new(&host, property).args(&["true"]);
        bundle.config[place][property] = value;
        bundle.run().code(1).complains(&format!("{place}.{property}"));
    }
    // Empty means nothing was asked.
    let mut bundle = Bundle::new(&host, "empty").args(&["true"]);
    bundle.config["linux"]["mountLabel"] = json!("");
    bundle.config["linux"]["timeOffsets"] = json!({});
    bundle.run().ok();
}

#[test]
fn mounts_are_as_the_specification_says() {
    let host = host!();
    let mut bundle = Bundle::new(&host, "b");
    let source = host.dir().join("source");
    fs::create_dir_all(source.join("below")).expect("mkdir");
    fs::write(source.join("file"), "content\n").expect("write");
    fs::create_dir(bundle.rootfs().join("etc/kept")).expect("mkdir");
    fs::write(bundle.rootfs().join("etc/kept/old"), "old\n").expect("write");
    std::os::unix::fs::symlink("/not/there/yet", bundle.rootfs().join("dangling")).expect("symlink");
    let file = source.join("file");
    let mounts = bundle.config["mounts"].as_array_mut().expect("list");
    mounts.extend([
        json!({"destination": "/rw", "source": source, "options": ["rbind", "rprivate"]}),
        json!({"destination": "/ro", "type": "bind", "source": source, "options": ["bind", "ro"]}),
        json!({"destination": "/new/dir/file", "source": file, "options": ["bind", "ro", "nosuid"]}),
        json!({"destination": "/small", "type": "tmpfs", "source": "tmpfs", "options": ["size=64k", "mode=1777", "noexec"]}),
        json!({"destination": "/etc/kept", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]}),
        json!({"destination": "/dangling", "type": "tmpfs", "source": "tmpfs", "options": []}),
        json!({"destination": "/ro/below", "type": "tmpfs", "source": "tmpfs", "options": []}),
    ]);
    bundle.config["linux"]["maskedPaths"] = json!(["/etc/secret", "/etc/secrets", "/missing"]);
    bundle.config["linux"]["readonlyPaths"] = json!(["/small", "/missing"]);
    fs::write(bundle.rootfs().join("etc/secret"), "secret").expect("write");
    fs::create_dir(bundle.rootfs().join("etc/secrets")).expect("mkdir");
    fs::write(bundle.rootfs().join("etc/secrets/a"), "secret").expect("write");
    let out = sh(
        bundle,
        "exec 2>&1; echo a > /rw/a && cat /ro/a; echo b > /ro/b; cat /new/dir/file; echo > /new/dir/file; \
         cat /etc/kept/old; echo new > /etc/kept/new; cat /etc/secret; ls /etc/secrets; echo x > /small/x; \
         chmod 000 /etc/secret; stat -c %F /not/there/yet; grep -c ' /not/there/yet ' /proc/mounts; \
         echo ok > /ro/below/x && echo wrote",
    );
    let wanted = "a\nsh: can't create /ro/b: Read-only file system\ncontent\n\
        sh: can't create /new/dir/file: Read-only file system\nold\n\
        sh: can't create /small/x: Read-only file system\n\
        chmod: /etc/secret: Read-only file system\ndirectory\n1\nwrote\n";
    assert_eq!(out, wanted);
    assert_eq!(fs::read_to_string(source.join("a")).expect("a"), "a\n");
    assert!(!host.dir().join("b/rootfs/etc/kept/new").exists());
}

#[test]
fn a_read_only_root_is_read_only_and_its_mounts_are_not() {
    let host = host!();
    let mut bundle = Bundle::new(&host, "b");
    bundle.config["root"]["readonly"] = json!(true);
    let out =
        sh(bundle, "exec 2>&1; echo > /x; echo > /dev/shm/x && echo wrote; echo > /dev/null && echo null");
    assert_eq!(out, "sh: can't create /x: Read-only file system\nwrote\nnull\n");
}

#[test]
fn a_user_namespace_maps_root_to_somebody_else() {
    let host = host!();
    let mut bundle = Bundle::new(&host, "b");
    // The host's directories above are closed to others; what is looked up from inside must be open.
    let mut above = bundle.dir.clone();
    while above.starts_with(std::env::temp_dir()) && above != std::env::temp_dir() {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&above, mode).expect("chmod");
        above.pop();
    }
    bundle.config["linux"]["namespaces"].as_array_mut().expect("list").push(json!({"type": "user"}));
    let maps = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    bundle.config["linux"]["uidMappings"] = maps.clone();
    bundle.config["linux"]["gidMappings"] = maps;
    let out = sh(
        bundle,
        "id -u; awk '{print $1, $2, $3}' /proc/self/uid_map; echo > /dev/null && echo null; id -G",
    );
    assert_eq!(out, "0\n0 100000 65536\nnull\n0\n");
}

#[test]
fn namespaces_are_joined_by_path() {
    let host = host!();
    let first = Bundle::new(&host, "first").args(&["sleep", "1000"]);
    first.create("first");
    first.oci(&["start", "first"]).ok();
    let pid = first.state("first")["pid"].as_i64().expect("pid");
    let mut second = Bundle::new(&host, "second").args(&["sh", "-c", "ps | grep -c 'sleep 1000'; hostname"]);
    for namespace in second.config["linux"]["namespaces"].as_array_mut().expect("list") {
        let file = match namespace["type"].as_str() {
            Some("pid") => "pid",
            Some("network") => "net",
            Some("ipc") => "ipc",
            Some("uts") => "uts",
            _ => continue,
        };
        namespace["path"] = json!(format!("/proc/{pid}/ns/{file}"));
    }
    // The grep itself and the shell's command line hold the words as well; the sleeper is one more.
    let out = second.run().ok().out();
    let count: u32 = out.lines().next().and_then(|l| l.parse().ok()).expect("a count");
    assert!(count >= 2, "{out}");
    first.oci(&["delete", "--force", "first"]).ok();
}

#[test]
fn exec_runs_in_the_container_and_ends_as_its_program_does() {
    let host = host!();
    let bundle = Bundle::new(&host, "b").args(&["sleep", "1000"]);
    bundle.create("c");
    bundle.oci(&["start", "c"]).ok();
    bundle.oci(&["exec", "c", "sh", "-c", "exit 9"]).code(9);
    bundle.oci(&["exec", "c", "nope"]).code(127).complains("executable file not found in $PATH");
    let show = "id -u; id -g; pwd; echo $A; ps | grep -c 'sleep 100[0]'; \
        grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/self/status; ls /proc/self/fd | wc -l";
    let out = bundle
        .oci(&["exec", "-u", "7:8", "--cwd", "/tmp", "-e", "A=b", "--no-new-privs", "c", "sh", "-c", show])
        .ok()
        .out();
    assert_eq!(out, "7\n8\n/tmp\nb\n1\nCapEff:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n4\n");
    // A process's specification in a file, detached, with its pid in another.
    let process = host.file(
        "process.json",
        json!({"args": ["sleep", "999"], "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}})
            .to_string(),
    );
    let pid_file = host.dir().join("pid");
    let mut command = bundle.command(&["exec", "--detach", "--process"]);
    command.arg(&process).arg("--pid-file").arg(&pid_file).arg("c");
    command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
    assert!(command.stderr(std::process::Stdio::null()).status().expect("exec").success());
    let pid = fs::read_to_string(&pid_file).expect("pid");
    assert_eq!(fs::read_to_string(format!("/proc/{pid}/comm")).expect("comm"), "sleep\n");
    bundle.oci(&["exec", "--cwd", "/nowhere", "c", "true"]).code(1).complains("chdir to cwd (\"/nowhere\")");
    bundle.oci(&["delete", "--force", "c"]).ok();
    assert!(!Path::new(&format!("/proc/{pid}/root/bin")).exists());
}

#[test]
fn hooks_run_in_order_with_the_state_on_their_input() {
    let host = host!();
    let mut bundle = Bundle::new(&host, "b").args(&["sh", "-c", "cat /started"]);
    let log = host.dir().join("hooks");
    let hook = |name: &str| {
        let script = format!("printf '{name} ' >> {0}; cat >> {0}; echo >> {0}", log.display());
        json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"]}])
    };
    bundle.config["hooks"] = json!({
        "prestart": hook("prestart"),
        "createRuntime": hook("createRuntime"),
        "createContainer": hook("createContainer"),
        "startContainer": [{"path": "/bin/sh", "args": ["sh", "-c", "hostname > /started"]}],
        "poststart": hook("poststart"),
        "poststop": hook("poststop"),
    });
    bundle.config["hostname"] = json!("inside");
    bundle.run().ok().prints("inside\n");
    let text = fs::read_to_string(&log).expect("log");
    let mut order = Vec::new();
    for line in text.lines() {
        let (name, state) = line.split_once(' ').expect("name and state");
        let state: Value = serde_json::from_str(state).expect("JSON");
        assert_eq!(state["id"], json!("c"));
        let pid = state["pid"].as_i64().unwrap_or(0);
        assert_eq!(pid > 0, name != "poststop", "{line}");
        order.push((name.to_owned(), state["status"].as_str().unwrap_or_default().to_owned()));
    }
    let order: Vec<_> = order.iter().map(|(n, s)| (n.as_str(), s.as_str())).collect();
    assert_eq!(
        order,
        [
            ("prestart", "creating"),
            ("createRuntime", "creating"),
            ("createContainer", "creating"),
            ("poststart", "running"),
            ("poststop", "stopped"),
        ]
    );
}

#[test]
fn a_hook_that_fails_or_hangs_stops_the_start_and_leaves_nothing() {
    let host = host!();
    let cases = [
        ("createRuntime", "echo no >&2; exit 3", 0, "exit status: 3: no"),
        ("createContainer", "exit 4", 0, "exit status: 4"),
        ("startContainer", "exit 5", 0, "exit status: 5"),
        ("prestart", "sleep 100", 1, "still ran after 1 s"),
        // It says more than a pipe holds, and has more time than there is.
        (
            "createRuntime",
            "head -c 300000 /dev/zero | tr '\\0' x >&2; exit 6",
            i64::MAX,
            "exit status: 6: xxx",
        ),
    ];
    for (n, (point, script, timeout, says)) in cases.into_iter().enumerate() {
        let mut bundle = Bundle::new(&host, &format!("{point}{n}")).args(&["true"]);
        let mut hook =
            json!({"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"]});
        if timeout > 0 {
            hook["timeout"] = json!(timeout);
        }
        bundle.config["hooks"] = json!({point: [hook]});
        bundle.run().code(1).complains(&format!("{point} hook /bin/sh: ")).complains(says);
        assert_eq!(bundle.oci(&["list", "-q"]).ok().out(), "");
    }
}

/// Receives the descriptor that a runtime sends to a console socket.
fn console(listener: &UnixListener) -> fs::File {
    use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixAddr, recvmsg};
    let (stream, _) = listener.accept().expect("accept");
    let mut name = [0; 64];
    let mut parts = [IoSliceMut::new(&mut name)];
    let mut control = nix::cmsg_space!([i32; 1]);
    let message = recvmsg::<UnixAddr>(stream.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::empty())
        .expect("recvmsg");
    for part in message.cmsgs().expect("cmsgs") {
        if let ControlMessageOwned::ScmRights(fds) = part {
            // SAFETY: the kernel has just made this descriptor for us.
            return fs::File::from(unsafe { OwnedFd::from_raw_fd(fds[0]) });
        }
    }
    panic!("no descriptor came");
}

#[test]
fn a_console_goes_to_its_socket_and_is_the_controlling_terminal() {
    let host = host!();
    let mut bundle = Bundle::new(&host, "b").args(&["sh", "-c", "tty; stty size; read line; echo got $line"]);
    bundle.config["process"]["terminal"] = json!(true);
    bundle.config["process"]["consoleSize"] = json!({"height": 33, "width": 99});
    bundle.save();
    bundle.oci(&["create", "--bundle", bundle.bundle(), "c"]).code(1).complains("--console-socket");
    let path = host.dir().join("console.sock");
    let listener = UnixListener::bind(&path).expect("bind");
    let socket = path.to_str().expect("utf-8");
    bundle.oci(&["create", "--bundle", bundle.bundle(), "--console-socket", socket, "c"]).ok();
    let mut master = console(&listener);
    bundle.oci(&["start", "c"]).ok();
    master.write_all(b"a line\n").expect("write");
    let mut said = Vec::new();
    let mut bytes = [0; 1024];
    // EIO is how a terminal says that nobody has it open any more.
    while let Ok(n @ 1..) = master.read(&mut bytes) {
        said.extend_from_slice(&bytes[..n]);
    }
    let said = String::from_utf8_lossy(&said).replace("\r\n", "\n");
    // The terminal echoes the line when it is typed, which may be between any two lines of output.
    let lines: Vec<&str> = said.lines().filter(|line| *line != "a line").collect();
    assert_eq!(lines, ["/dev/pts/0", "33 99", "got a line"], "{said:?}");
    bundle.oci(&["delete", "--force", "c"]).ok();
}

#[test]
fn limits_are_set_and_changed() {
    let host = host!();
    let mut bundle = Bundle::new(&host, "b").args(&["sleep", "1000"]);
    bundle.config["linux"]["resources"]["pids"] = json!({"limit": 20});
    bundle.create("c");
    bundle.oci(&["start", "c"]).ok();
    let fork = "for i in 1 2 3 4 5 6 7 8; do sleep 100 >/dev/null 2>&1 & done; echo all";
    bundle.oci(&["exec", "c", "sh", "-c", &format!("{fork}; kill $(jobs -p)")]).ok().prints("all\n");
    bundle.oci(&["update", "--pids-limit", "4", "c"]).ok();
    let out = bundle.oci(&["exec", "c", "sh", "-c", fork]);
    assert!(!out.status.success() && out.err().contains("can't fork"), "{out}");
    bundle.oci(&["update", "--pids-limit", "20", "c"]).ok();
    bundle.oci(&["delete", "--force", "c"]).ok();
}

#[test]
fn events_tell_figures_and_kills_for_memory() {
    let host = host!();
    let mut bundle = Bundle::new(&host, "b").args(&["sleep", "1000"]);
    bundle.config["linux"]["resources"]["memory"] = json!({"limit": 16 << 20});
    bundle.config["linux"]["resources"]["pids"] = json!({"limit": 20});
    bundle.create("c");
    bundle.oci(&["start", "c"]).ok();
    let line: Value =
        serde_json::from_slice(&bundle.oci(&["events", "--stats", "c"]).ok().stdout).expect("JSON");
    assert_eq!((&line["type"], &line["id"]), (&json!("stats"), &json!("c")));
    let data = &line["data"];
    assert_eq!(data["pids"], json!({"current": 1, "limit": 20}));
    assert_eq!(data["memory"]["usage"]["limit"], json!(16 << 20), "{data}");
    assert!(data["cpu"]["usage"]["total"].as_u64().is_some_and(|ns| ns > 0), "{data}");
    bundle.oci(&["events", "--interval", "0s", "c"]).code(1).complains("must be greater than 0");

    let mut events = bundle.command(&["events", "--interval", "100ms", "c"]);
    let mut events = events.stdout(Stdio::piped()).spawn().expect("events");
    let mut lines = BufReader::new(events.stdout.take().expect("stdout")).lines();
    let mut next =
        || -> Value { serde_json::from_str(&lines.next().expect("a line").expect("read")).expect("JSON") };
    assert_eq!(next()["type"], json!("stats"));
    let killed = bundle.oci(&["exec", "c", "sh", "-c", "x=0123456789abcdef; while :; do x=$x$x; done"]);
    assert!(!killed.status.success(), "{killed}");
    while next()["type"] != json!("oom") {}
    // Nor does a command that runs inside keep others from the container.
    let mut exec = bundle.command(&["exec", "c", "sleep", "1000"]).spawn().expect("exec");
    eventually("it runs", || bundle.oci(&["ps", "--format", "json", "c"]).ok().out().split(',').count() == 2);
    // The end of the container ends both.
    bundle.oci(&["delete", "--force", "c"]).ok();
    assert!(common::wait(&mut events, "oci events").success());
    assert_eq!(common::wait(&mut exec, "oci exec").code(), Some(137));
    bundle.oci(&["events", "--stats", "c"]).code(1);
}

#[test]
fn features_and_version_are_told() {
    let host = host!();
    let bundle = Bundle::new(&host, "b");
    let features: Value = serde_json::from_slice(&bundle.oci(&["features"]).ok().stdout).expect("JSON");
    assert_eq!(features["linux"]["seccomp"]["enabled"], json!(true));
    let apparmor = Path::new("/proc/self/attr/apparmor/exec").exists();
    assert_eq!(features["linux"]["apparmor"]["enabled"], json!(apparmor));
    assert!(bundle.oci(&["--version"]).ok().out().starts_with("bulkhead version "));
    bundle.oci(&["spec", "--bundle", bundle.bundle()]).code(1).complains("File exists");
}

#[test]
fn podman_runs_containers_with_it() {
    let host = host!();
    if !common::have("podman") || !common::have("conmon") {
        skip!("podman and conmon");
    }
    let wrapper = host.file("runtime", format!("#!/bin/sh\nexec {} oci \"$@\"\n", common::BULKHEAD));
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&wrapper, mode).expect("chmod");
    let bundle = Bundle::new(&host, "b");
    let podman = |args: &[&str]| {
        let mut command = Command::new("podman");
        command
            .arg("--root")
            .arg(host.dir().join("podman"))
            .arg("--runroot")
            .arg(host.dir().join("podman-run"))
            .args(["--storage-driver=vfs", "--cgroup-manager=cgroupfs", "--events-backend=none", "--runtime"])
            .arg(&wrapper)
            .args(args)
            .env("TMPDIR", host.dir())
            .env("CONTAINERS_CONF", host.file("containers.conf", "[containers]\ndefault_ulimits=[]\n"));
        common::run(command, b"")
    };
    let parent = format!("--cgroup-parent={}", host.cgroup_parent());
    let rootfs = bundle.rootfs();
    let rootfs = rootfs.to_str().expect("utf-8");
    let run = |flags: &[&str], args: &[&str]| {
        let mut all = vec!["run", "--network=none", &parent];
        all.extend_from_slice(flags);
        all.extend_from_slice(&["--rootfs", rootfs]);
        all.extend_from_slice(args);
        podman(&all)
    };
    run(&["--rm"], &["echo", "hello"]).ok().prints("hello\n");
    run(&["--rm"], &["sh", "-c", "exit 7"]).code(7);
    run(&["--rm"], &["nope"]).code(127);
    run(&["-d", "--name", "sleeper"], &["sleep", "1000"]).ok();
    podman(&["exec", "sleeper", "sh", "-c", "ps | grep -c 'sleep 100[0]'; exit 3"]).code(3).prints("1\n");
    podman(&["exec", "-t", "sleeper", "tty"]).ok().prints("/dev/pts/0\r\n");
    podman(&["rm", "-f", "-t", "0", "sleeper"]).ok();
    // podman makes these for its conmon, and leaves them to whoever owns the parent.
    let conmons = || host.cgroups().into_iter().filter(|dir| dir.ends_with("conmon"));
    common::eventually("conmon to leave its cgroups", || {
        conmons().for_each(|dir| drop(fs::remove_dir(dir)));
        conmons().next().is_none()
    });
}
