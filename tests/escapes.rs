//! Ways out of a container that were open in other runtimes, each tried for real.

mod common;

use std::fs;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{Host, Output};
use serde_json::{Value, json};

/// A bundle of a busybox root.
struct Bundle<'a> {
    host: &'a Host,
    binary: PathBuf,
    dir: PathBuf,
    config: Value,
    /// As on a kernel that does not let a process change what it was executed from.
    fixed_exe: bool,
}

/// From here on `prctl(PR_SET_MM)` answers EPERM, in this process and in what it becomes.
fn refuse_new_exe() -> std::io::Result<()> {
    const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
    const JEQ: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
    const RETURN: u16 = 0x06; // BPF_RET | BPF_K
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut filter = [
        step(LOAD, 0, 0, 0), // the call's number
        step(JEQ, 0, 3, libc::SYS_prctl as u32),
        step(LOAD, 0, 0, 16), // the lower half of its first argument
        step(JEQ, 0, 1, libc::PR_SET_MM as u32),
        step(RETURN, 0, 0, 0x0005_0000 | libc::EPERM as u32),
        step(RETURN, 0, 0, 0x7fff_0000),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the program outlives the call, which copies it.
    let done = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    if done < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
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
            symlink("busybox", bin.join(applet)).expect("symlink");
        }
        let mut bundle =
            Self { host, binary: common::BULKHEAD.into(), dir, config: Value::Null, fixed_exe: false };
        bundle.oci(&["spec", "--bundle", bundle.dir.to_str().expect("utf-8")]).ok();
        let text = fs::read(bundle.dir.join("config.json")).expect("config.json");
        bundle.config = serde_json::from_slice(&text).expect("JSON");
        bundle.config["linux"]["cgroupsPath"] = json!(format!("{}/{name}", host.cgroup_parent()));
        bundle
    }

    fn sh(mut self, script: &str) -> Self {
        self.config["process"]["args"] = json!(["sh", "-c", script]);
        self
    }

    fn rootfs(&self, below: &str) -> PathBuf {
        self.dir.join("rootfs").join(below)
    }

    /// Without the fresh /dev: what the image has there is what the runtime meets.
    fn own_dev(mut self) -> Self {
        let mounts = self.config["mounts"].as_array_mut().expect("list");
        mounts.retain(|mount| mount["destination"] != "/dev");
        self
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(["oci", "--root"]).arg(self.host.dir().join("oci")).args(args);
        if self.fixed_exe {
            // SAFETY: one system call, on memory of its own.
            unsafe { command.pre_exec(refuse_new_exe) };
        }
        command
    }

    fn oci(&self, args: &[&str]) -> Output {
        common::run(self.command(args), b"")
    }

    fn save(&self) {
        fs::write(self.dir.join("config.json"), self.config.to_string()).expect("write");
    }

    fn run(&self) -> Output {
        self.save();
        self.oci(&["run", "--bundle", self.dir.to_str().expect("utf-8"), "c"])
    }

    /// Creates a container that waits for its start, and returns the pid of the runtime's process in it.
    fn create(&self) -> i32 {
        self.save();
        let mut command = self.command(&["create", "--bundle", self.dir.to_str().expect("utf-8"), "c"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        assert!(command.status().expect("create").success());
        let state: Value = serde_json::from_slice(&self.oci(&["state", "c"]).ok().stdout).expect("JSON");
        state["pid"].as_i64().expect("pid") as i32
    }
}

/// CVE-2019-5736: /proc/PID/exe of the runtime's process, kept open until that process has become
/// something else, and then opened for writing.
#[test]
fn the_runtimes_binary_cannot_be_written_through_proc() {
    binary_stays(&host!(), false);
}

/// The same where the runtime must execute itself again to have another link.
#[test]
fn a_binary_that_is_executed_again_cannot_be_written_through_proc() {
    binary_stays(&host!(), true);
}

fn binary_stays(host: &Host, fixed_exe: bool) {
    // A copy, so that no other test is executing it.
    let binary = host.dir().join("bulkhead");
    fs::copy(common::BULKHEAD, &binary).expect("copy");
    let bundle = Bundle { binary: binary.clone(), fixed_exe, ..Bundle::new(host, "b").sh("sleep 1000") };
    let pid = bundle.create();
    let link = fs::read_link(format!("/proc/{pid}/exe")).expect("the test is root of the host and may look");
    assert_ne!(link, binary, "what enters a container is not executed from the file itself");
    let handle = fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH)
        .open(format!("/proc/{pid}/exe"))
        .expect("open");
    let write = || {
        let path = format!("/proc/self/fd/{}", handle.as_raw_fd());
        fs::OpenOptions::new().write(true).open(path).map(drop).map_err(|error| error.raw_os_error())
    };
    // While it is executed, any binary answers ETXTBSY; what counts is the answer when it is no more.
    assert!(matches!(write(), Err(Some(libc::EROFS | libc::ETXTBSY))), "{:?}", write());
    bundle.oci(&["start", "c"]).ok();
    common::eventually("the program runs", || {
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm == "sh\n" || comm == "sleep\n")
    });
    assert_eq!(write(), Err(Some(libc::EROFS)));
    bundle.oci(&["delete", "--force", "c"]).ok();
    // And by its own name it can still be written to: it is this handle that cannot.
    fs::OpenOptions::new().append(true).open(&binary).expect("the file itself is writable");
}

/// The same by way of the image: its entry point is whatever enters the container.
#[test]
fn an_image_that_executes_proc_self_exe_gets_nothing_to_write_to() {
    let host = host!();
    let before = fs::read(common::BULKHEAD).expect("binary");
    for (name, entry) in [("link", None), ("script", Some("#!/proc/self/exe\n"))] {
        let mut bundle = Bundle::new(&host, name);
        let path = bundle.rootfs("entry");
        match entry {
            None => symlink("/proc/self/exe", &path).expect("symlink"),
            Some(text) => {
                fs::write(&path, text).expect("write");
                let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
                fs::set_permissions(&path, mode).expect("chmod");
            }
        }
        bundle.config["process"]["args"] = json!(["/entry"]);
        // It may run, as any program may; it must not be a way to the file.
        let _ = bundle.run();
    }
    assert!(fs::read(common::BULKHEAD).expect("binary") == before, "the binary was changed");
}

/// CVE-2016-9962: a container's root looking into the runtime's process while it is inside.
#[test]
fn a_process_of_the_runtime_cannot_be_looked_into_from_inside() {
    let host = host!();
    let bundle = Bundle::new(&host, "b").sh("sleep 1000");
    bundle.create();
    // Process 1 is still the runtime's here.
    for look in [
        "readlink /proc/1/exe",
        "readlink /proc/1/cwd",
        "readlink /proc/1/fd/3",
        "cat /proc/1/fd/3",
        "cat /proc/1/mem",
        "cat /proc/1/environ",
    ] {
        let out = bundle.oci(&["exec", "c", "sh", "-c", look]);
        assert!(!out.status.success() && out.out().is_empty(), "{look}\n{out}");
    }
    bundle.oci(&["delete", "--force", "c"]).ok();
}

/// CVE-2024-21626: a directory of the host's, open in the runtime, as the working directory.
#[test]
fn no_descriptor_of_the_hosts_is_a_way_out() {
    let host = host!();
    fs::write(host.dir().join("marker"), "outside").expect("write");
    let marker = host.dir();
    let leak = |command: Command| {
        // Descriptor 7 is the host's directory, and is not close-on-exec.
        let mut shell = Command::new("/bin/sh");
        shell.arg("-c").arg(r#"exec 7<"$0"; exec "$@""#).arg(&marker).arg(command.get_program());
        shell.args(command.get_args());
        common::run(shell, b"")
    };
    let mut bundle = Bundle::new(&host, "cwd").sh("ls; cat ../marker marker");
    for n in [3, 4, 5, 6, 7, 8, 9, 10, 11, 12] {
        bundle.config["process"]["cwd"] = json!(format!("/proc/self/fd/{n}"));
        bundle.save();
        let out = leak(bundle.command(&["run", "--bundle", bundle.dir.to_str().expect("utf-8"), "c"]));
        assert!(!out.out().contains("marker") && !out.out().contains("outside"), "{n}: {out}");
        assert!(!out.status.success(), "{n}: {out}");
    }
    bundle.config["process"]["cwd"] = json!("/");
    let bundle = bundle.sh("ls -l /proc/self/fd | grep -v ' [0123] -> ' | grep -- '->'; sleep 0");
    bundle.save();
    let out = leak(bundle.command(&["run", "--bundle", bundle.dir.to_str().expect("utf-8"), "c"]));
    assert_eq!(out.clone().ok().out(), "", "{out}");

    let sleeper = Bundle::new(&host, "exec").sh("sleep 1000");
    sleeper.create();
    sleeper.oci(&["start", "c"]).ok();
    for n in [3, 4, 5, 6, 7, 8, 9, 10] {
        let out = leak(sleeper.command(&["exec", "--cwd", &format!("/proc/self/fd/{n}"), "c", "ls"]));
        assert!(!out.status.success() && !out.out().contains("marker"), "{n}: {out}");
    }
    sleeper.oci(&["delete", "--force", "c"]).ok();
}

/// CVE-2025-31133: the image brings its own /dev/null, and masked paths are covered with that.
#[test]
fn what_covers_a_masked_path_is_the_null_device() {
    let host = host!();
    let script = "for p in /etc/secret /proc/keys; do stat -c '%F %t:%T' $p; cat $p; done";
    for (name, make) in [
        (
            "link",
            (|path: &Path| symlink("/proc/sys/kernel/core_pattern", path).expect("symlink")) as fn(&Path),
        ),
        ("file", |path| fs::write(path, "the image's").expect("write")),
        ("none", |_| ()),
    ] {
        let mut bundle = Bundle::new(&host, name).own_dev().sh(script);
        bundle.config["linux"]["devices"] = json!([]);
        bundle.config["linux"]["maskedPaths"] = json!(["/etc/secret", "/proc/keys"]);
        fs::write(bundle.rootfs("etc/secret"), "secret").expect("write");
        make(&bundle.rootfs("dev/null"));
        bundle.run().ok().prints("character special file 1:3\ncharacter special file 1:3\n");
    }
}

/// CVE-2025-52565: the image's /dev/console is a symlink to what the console is to be mounted on.
#[test]
fn a_console_is_not_mounted_through_a_symlink() {
    let host = host!();
    let mut bundle = Bundle::new(&host, "b").own_dev().sh("stat -c %F /etc/victim");
    bundle.config["process"]["terminal"] = json!(true);
    fs::write(bundle.rootfs("etc/victim"), "victim").expect("write");
    symlink("/etc/victim", bundle.rootfs("dev/console")).expect("symlink");
    bundle.save();
    let socket = host.dir().join("console.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("bind");
    let socket = socket.to_str().expect("utf-8");
    let out = bundle.oci(&[
        "create",
        "--bundle",
        bundle.dir.to_str().expect("utf-8"),
        "--console-socket",
        socket,
        "c",
    ]);
    out.code(1).complains("/dev/console");
}

/// CVE-2025-52881: a fake /proc inside takes the runtime's writes, or turns them elsewhere.
#[test]
fn a_sysctl_is_written_to_the_kernel_and_not_to_a_fake() {
    let host = host!();
    let mut bundle =
        Bundle::new(&host, "b").sh("cat /real/sys/net/ipv4/ip_forward; cat /real/self/oom_score_adj");
    let fake = host.dir().join("fake");
    fs::create_dir_all(fake.join("sys/net/ipv4")).expect("mkdir");
    fs::create_dir_all(fake.join("self")).expect("mkdir");
    fs::write(fake.join("sys/net/ipv4/ip_forward"), "fake\n").expect("write");
    fs::write(fake.join("self/oom_score_adj"), "fake\n").expect("write");
    let mounts = bundle.config["mounts"].as_array_mut().expect("list");
    mounts.push(json!({"destination": "/real", "type": "proc", "source": "proc", "options": []}));
    mounts.push(json!({"destination": "/proc", "source": fake, "options": ["bind"]}));
    bundle.config["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1"});
    bundle.config["process"]["oomScoreAdj"] = json!(321);
    bundle.run().ok().prints("1\n321\n");
    for file in ["sys/net/ipv4/ip_forward", "self/oom_score_adj"] {
        assert_eq!(fs::read_to_string(fake.join(file)).expect(file), "fake\n");
    }
}

/// CVE-2019-16884, CVE-2019-19921: procfs somewhere else than where it is masked.
#[test]
fn proc_and_sys_are_not_mounted_through_symlinks() {
    let host = host!();
    for (name, target) in [("proc", "/tmp"), ("sys", "/tmp"), ("proc", "/nowhere")] {
        let bundle = Bundle::new(&host, &format!("{name}{}", target.replace('/', "-"))).sh("true");
        fs::remove_dir(bundle.rootfs(name)).expect("rmdir");
        symlink(target, bundle.rootfs(name)).expect("symlink");
        bundle.run().code(1).complains(&format!("/{name}"));
    }
}

/// A mount's destination that leads out of the root by symlinks or `..` stays inside it.
#[test]
fn a_mount_stays_inside_the_root() {
    let host = host!();
    let outside = host.dir().join("outside");
    fs::create_dir_all(outside.join("dir")).expect("mkdir");
    let mut bundle = Bundle::new(&host, "b").sh("cat /proc/mounts | grep -c 'tmpfs.*size=12k'");
    symlink(&outside, bundle.rootfs("absolute")).expect("symlink");
    symlink("../../../../../../../../../../..", bundle.rootfs("up")).expect("symlink");
    let below_up = format!("/up{}/made", outside.display());
    let mounts = bundle.config["mounts"].as_array_mut().expect("list");
    for destination in ["/absolute/dir", "/absolute/new/dir", &below_up, "/../../../etc"] {
        mounts.push(
            json!({"destination": destination, "type": "tmpfs", "source": "t", "options": ["size=12k"]}),
        );
    }
    bundle.run().ok().prints("4\n");
    let left: Vec<_> =
        fs::read_dir(&outside).expect("outside").map(|e| e.expect("entry").file_name()).collect();
    assert_eq!(left, ["dir"]);
}

/// CVE-2022-0492 and its kin: a cgroup hierarchy that the container's root may write to.
#[test]
fn no_cgroup_file_of_the_hosts_is_writable() {
    let host = host!();
    let bundle = Bundle::new(&host, "b").sh(
        "find /sys/fs/cgroup -name release_agent; mkdir /sys/fs/cgroup/x 2>&1; \
         for d in /sys/fs/cgroup /sys/fs/cgroup/*; do (echo 0 > $d/cgroup.procs) 2>/dev/null && echo wrote $d; done; \
         mkdir /tmp/c; for t in cgroup cgroup2 proc sysfs; do mount -t $t none /tmp/c 2>/dev/null && echo mounted $t; done; \
         unshare -Urm true 2>/dev/null && echo unshared; mount -o remount,rw /sys 2>/dev/null && echo remounted; \
         (echo x > /proc/sys/kernel/core_pattern) 2>/dev/null && echo core; \
         (echo b > /proc/sysrq-trigger) 2>/dev/null && echo sysrq; true",
    );
    bundle.run().ok().prints("mkdir: can't create directory '/sys/fs/cgroup/x': Read-only file system\n");
}

/// A device that the rules do not name cannot be opened, even by a node of its own making.
#[test]
fn a_device_node_opens_nothing_that_the_rules_do_not_name() {
    let host = host!();
    let bundle = Bundle::new(&host, "b").sh(
        "mknod /tmp/mem c 1 1 && mknod /tmp/disk b 254 0 && mknod /tmp/kmsg c 1 11 && mknod /tmp/z c 1 5 || exit 9; \
         for d in mem disk kmsg; do head -c 1 /tmp/$d >/dev/null 2>&1 && echo opened $d; done; \
         head -c 4 /tmp/z | wc -c",
    );
    bundle.run().ok().prints("4\n");
}

/// The same attacks on a runtime that does the obvious: it enters namespaces, mounts what the specification
/// names by path, and changes the root. Each must get out of that one, or the tests above prove nothing.
///
/// It is busybox and a shell script. What would harm the host if it succeeded is left out.
mod naive {
    use super::*;

    /// Quotes a word for the shell.
    fn quoted(text: &str) -> String {
        format!("'{}'", text.replace('\'', r"'\''"))
    }

    impl Bundle<'_> {
        /// What the runtime does before it changes the root, and after; then the program.
        fn script(&self) -> String {
            let root = self.rootfs("");
            let root = root.to_str().expect("utf-8").trim_end_matches('/').to_owned();
            let mut lines = vec!["set -e".to_owned(), "mount --make-rprivate / || true".to_owned()];
            for mount in self.config["mounts"].as_array().expect("list") {
                let text = |key: &str| mount[key].as_str().unwrap_or_default().to_owned();
                let target = quoted(&format!("{root}{}", text("destination")));
                let options: Vec<&str> =
                    mount["options"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
                lines.push(format!("mkdir -p {target}"));
                if options.contains(&"bind") {
                    lines.push(format!("mount --bind {} {target}", quoted(&text("source"))));
                } else if matches!(text("type").as_str(), "proc" | "tmpfs") {
                    let size = options.iter().find(|option| option.starts_with("size="));
                    let size = size.map(|size| format!("-o {size}")).unwrap_or_default();
                    lines.push(format!("mount -t {} {size} none {target}", text("type")));
                }
            }
            for path in self.config["linux"]["maskedPaths"].as_array().into_iter().flatten() {
                let path = path.as_str().expect("text");
                lines.push(format!("mount --bind {root}/dev/null {root}{path} || true"));
            }
            for (key, value) in self.config["linux"]["sysctl"].as_object().into_iter().flatten() {
                let path = key.replace('.', "/");
                lines.push(format!("echo {} > {root}/proc/sys/{path}", value.as_str().expect("text")));
            }
            let words: Vec<String> = self.config["process"]["args"]
                .as_array()
                .expect("args")
                .iter()
                .map(|word| quoted(word.as_str().expect("text")))
                .collect();
            let cwd = quoted(self.config["process"]["cwd"].as_str().expect("text"));
            let console = if self.config["process"]["terminal"] == json!(true) {
                "mount --bind /dev/null /dev/console; "
            } else {
                ""
            };
            // The process that waits for the start is in the container by then, as every runtime's is.
            let inside = format!(
                "{console}cd {cwd}; if [ -p /start ]; then read x < /start; fi; exec {}",
                words.join(" ")
            );
            lines.push(format!("exec chroot {} /bin/sh -c {}", quoted(&root), quoted(&inside)));
            lines.join("\n")
        }

        fn naive_command(&self) -> Command {
            let mut command = Command::new("/bin/busybox");
            command
                .args(["unshare", "-m", "-p", "-f", "-n", "-u", "-i", "/bin/busybox", "sh", "-c"])
                .arg(self.script());
            command
        }

        fn run_naively(&self) -> Output {
            common::run(self.naive_command(), b"")
        }
    }

    /// Runs a command in the namespaces of a process, as `exec` would.
    fn exec_in(pid: i32, root: &Path, line: &str) -> Output {
        let mut command = Command::new("nsenter");
        command.args(["-t", &pid.to_string(), "-m", "-p", "chroot"]).arg(root);
        command.args(["/bin/busybox", "sh", "-c", line]);
        common::run(command, b"")
    }

    /// The child of a process, once it has one.
    fn child_of(pid: u32) -> i32 {
        let mut child = None;
        common::eventually("the runtime forks", || {
            let processes = fs::read_dir("/proc").expect("proc").flatten();
            let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
            child = pids.find(|child| {
                let stat = fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
                let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1));
                parent.and_then(|parent| parent.parse().ok()) == Some(pid)
            });
            child.is_some()
        });
        child.expect("seen")
    }

    fn fifo(path: &Path) {
        nix::unistd::mkfifo(path, nix::sys::stat::Mode::from_bits_truncate(0o600)).expect("mkfifo");
    }

    #[test]
    fn a_process_of_the_runtime_is_looked_into_and_its_binary_written_to() {
        let host = host!();
        let bundle = Bundle::new(&host, "b").sh("sleep 1000");
        // busybox is what its name says.
        let binary = host.dir().join("runtime/busybox");
        fs::create_dir(host.dir().join("runtime")).expect("mkdir");
        fs::copy("/bin/busybox", &binary).expect("copy");
        fifo(&bundle.rootfs("start"));
        let root = bundle.rootfs("");
        let script = format!(
            "mount --make-rprivate /; mount -t proc none {0}/proc; read x < {0}/start; exec chroot {0} /bin/sleep 1000",
            root.display()
        );
        let mut runtime = Command::new(&binary);
        runtime.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut runtime = runtime
            .args(["unshare", "-m", "-p", "-f"])
            .arg(&binary)
            .args(["sh", "-c", &script])
            .spawn()
            .expect("runtime");
        let pid = child_of(runtime.id());
        common::eventually("it waits", || {
            fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == binary)
                && fs::read_to_string(format!("/proc/{pid}/mounts"))
                    .is_ok_and(|m| m.contains("rootfs/proc proc"))
        });
        let seen = exec_in(pid, &root, "cat /proc/1/environ");
        assert!(seen.out().contains("PATH="), "CVE-2016-9962 would not be noticed: {seen}");
        let handle = fs::OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_PATH)
            .open(format!("/proc/{pid}/exe"))
            .expect("open");
        fs::write(bundle.rootfs("start"), "go\n").expect("start");
        common::eventually("it is the program", || {
            fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe != binary)
        });
        runtime.kill().expect("kill");
        let _ = runtime.wait();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)
            .expect("kill");
        common::eventually("nobody executes it", || !Path::new(&format!("/proc/{pid}/exe")).exists());
        let path = format!("/proc/self/fd/{}", handle.as_raw_fd());
        let written = fs::OpenOptions::new().write(true).open(path);
        assert!(written.is_ok(), "CVE-2019-5736 would not be noticed: {written:?}");
    }

    #[test]
    fn a_leaked_directory_is_a_way_out() {
        let host = host!();
        fs::write(host.dir().join("marker"), "outside").expect("write");
        let mut bundle = Bundle::new(&host, "b").sh("ls");
        bundle.config["process"]["cwd"] = json!("/proc/self/fd/7");
        let mut shell = Command::new("/bin/sh");
        shell.arg("-c").arg(r#"exec 7<"$0"; exec "$@""#).arg(host.dir());
        let command = bundle.naive_command();
        shell.arg(command.get_program()).args(command.get_args());
        let out = common::run(shell, b"");
        assert!(out.out().contains("marker"), "CVE-2024-21626 would not be noticed: {out}");
    }

    #[test]
    fn a_masked_path_shows_what_the_image_says() {
        let host = host!();
        let mut bundle = Bundle::new(&host, "b").own_dev().sh("cat /etc/secret");
        bundle.config["linux"]["maskedPaths"] = json!(["/etc/secret"]);
        fs::write(bundle.rootfs("etc/secret"), "secret").expect("write");
        symlink("/proc/sys/kernel/ostype", bundle.rootfs("dev/null")).expect("symlink");
        let out = bundle.run_naively();
        assert_eq!(out.out(), "Linux\n", "CVE-2025-31133 would not be noticed: {out}");
    }

    #[test]
    fn a_console_lands_where_a_symlink_leads() {
        let host = host!();
        let mut bundle = Bundle::new(&host, "b").own_dev().sh("stat -c %F /etc/victim");
        bundle.config["process"]["terminal"] = json!(true);
        fs::write(bundle.rootfs("etc/victim"), "victim").expect("write");
        symlink("/etc/victim", bundle.rootfs("dev/console")).expect("symlink");
        // The container's own null device is all that is needed of a terminal here.
        let null = nix::sys::stat::makedev(1, 3);
        let mode = nix::sys::stat::Mode::from_bits_truncate(0o666);
        nix::sys::stat::mknod(&bundle.rootfs("dev/null"), nix::sys::stat::SFlag::S_IFCHR, mode, null)
            .expect("mknod");
        let out = bundle.run_naively();
        assert_eq!(out.out(), "character special file\n", "CVE-2025-52565 would not be noticed: {out}");
    }

    #[test]
    fn a_sysctl_goes_to_the_fake() {
        let host = host!();
        let mut bundle = Bundle::new(&host, "b").sh("true");
        let fake = host.dir().join("fake");
        fs::create_dir_all(fake.join("sys/net/ipv4")).expect("mkdir");
        fs::write(fake.join("sys/net/ipv4/ip_forward"), "fake\n").expect("write");
        let mounts = bundle.config["mounts"].as_array_mut().expect("list");
        mounts.push(json!({"destination": "/proc", "source": fake, "options": ["bind"]}));
        bundle.config["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1"});
        let out = bundle.run_naively();
        let taken = fs::read_to_string(fake.join("sys/net/ipv4/ip_forward")).expect("read");
        assert_eq!(taken, "1\n", "CVE-2025-52881 would not be noticed: {out}");
    }

    #[test]
    fn proc_is_mounted_where_a_symlink_leads() {
        let host = host!();
        let outside = host.dir().join("outside");
        fs::create_dir(&outside).expect("mkdir");
        let bundle = Bundle::new(&host, "b").sh("true");
        fs::remove_dir(bundle.rootfs("proc")).expect("rmdir");
        symlink(&outside, bundle.rootfs("proc")).expect("symlink");
        let script =
            bundle.script().replace("exec chroot", &format!("ls {}/self/ns; exec chroot", outside.display()));
        let mut command = Command::new("/bin/busybox");
        command.args(["unshare", "-m", "-p", "-f", "/bin/busybox", "sh", "-c", &script]);
        let out = common::run(command, b"");
        assert!(out.out().contains("mnt"), "CVE-2019-16884 would not be noticed: {out}");
    }

    #[test]
    fn a_mount_leaves_the_root() {
        let host = host!();
        let outside = host.dir().join("outside");
        fs::create_dir_all(outside.join("dir")).expect("mkdir");
        let mut bundle = Bundle::new(&host, "b").sh("true");
        symlink(&outside, bundle.rootfs("absolute")).expect("symlink");
        let mounts = bundle.config["mounts"].as_array_mut().expect("list");
        mounts.push(json!({"destination": "/absolute/new/dir", "type": "tmpfs", "source": "t", "options": ["size=12k"]}));
        let out = bundle.run_naively();
        assert!(outside.join("new").is_dir(), "a mount outside would not be noticed: {out}");
    }

    #[test]
    fn cgroups_are_mounted_and_devices_opened() {
        let host = host!();
        let bundle = Bundle::new(&host, "b")
            .sh("mkdir /tmp/c; mount -t cgroup2 none /tmp/c && echo mounted; \
             mknod /tmp/kmsg c 1 11 && head -c 1 /tmp/kmsg >/dev/null && echo opened");
        let out = bundle.run_naively();
        assert_eq!(out.out(), "mounted\nopened\n", "CVE-2022-0492 and devices would not be noticed: {out}");
    }
}
