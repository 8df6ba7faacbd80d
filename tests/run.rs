//! `run`, `create`, `exec` and their flags, as typed: each asserts what a Docker user would see.

mod common;

use std::process::Stdio;

use common::images;

#[test]
fn a_container_runs_and_its_exit_code_comes_back() {
    let host = host!();
    let image = host.busybox();
    host.bulkhead(&["run", "--rm", image, "echo", "hello"]).ok().prints("hello\n");
    host.bulkhead(&["run", "--rm", image, "sh", "-c", "echo out; echo err >&2; exit 42"])
        .code(42)
        .prints("out\n")
        .complains("err");
    host.bulkhead(&["run", "--rm", image, "nothere"])
        .code(127)
        .complains("exec: \"nothere\": executable file not found in $PATH");
    host.bulkhead(&["run", "--rm", image, "/etc"]).code(126);
    host.bulkhead(&["run", "--rm", "nosuch", "true"])
        .code(125)
        .complains("Unable to find image 'nosuch:latest' locally");
    host.bulkhead(&["run", "--nosuchflag", image]).code(125).complains("unknown flag: --nosuchflag");
}

#[test]
fn standard_input_reaches_the_container_only_with_i() {
    let host = host!();
    let image = host.busybox();
    let data: Vec<u8> = (0..100_000).flat_map(|n| format!("{n}\n").into_bytes()).collect();
    let echoed = host.bulkhead_with_stdin(&["run", "--rm", "-i", image, "cat"], &data).ok();
    assert_eq!(echoed.stdout, data);
    let without = host.bulkhead_with_stdin(&["run", "--rm", image, "cat"], b"ignored").ok();
    assert_eq!(without.stdout, b"");
}

#[test]
fn the_environment_directory_user_and_host_name_are_as_asked() {
    let host = host!();
    let image = host.busybox();
    let list = host.file("env.list", "# comment\nVAR1=value1\nVAR2=value2\nFROM_HOST\n");
    let env = host
        .bulkhead(&["run", "--rm", "--env-file", list.to_str().expect("UTF-8"), "-e", "A=b=c", image, "env"])
        .ok()
        .out();
    let lines: Vec<&str> = env.lines().collect();
    for wanted in ["VAR1=value1", "VAR2=value2", "A=b=c"] {
        assert!(lines.contains(&wanted), "{wanted} in {env}");
    }
    assert!(!env.contains("comment") && !env.contains("FROM_HOST"), "{env}");
    host.bulkhead(&["run", "--rm", "-w", "/made/here", image, "pwd"]).ok().prints("/made/here\n");
    host.bulkhead(&["run", "--rm", "--hostname", "ship", image, "hostname"]).ok().prints("ship\n");
    host.bulkhead(&["run", "--rm", "-u", "1234:5678", image, "id", "-u"]).ok().prints("1234\n");
    host.bulkhead(&["run", "--rm", "-u", "nobodyhere", image, "true"])
        .code(125)
        .complains("unable to find user nobodyhere: no matching entries in passwd file");
    let id = host.bulkhead(&["run", "-d", image, "sleep", "100"]).ok().line();
    assert_eq!(host.bulkhead(&["exec", &id, "hostname"]).ok().line(), id[..12]);
}

#[test]
fn users_are_named_by_the_images_own_files() {
    let host = host!();
    let image = images::users();
    host.load(&image.docker_archive(images::Compression::None)).ok();
    let passwd = host.bulkhead(&["run", "--rm", "--entrypoint", "cat", "users", "/etc/passwd"]).ok().out();
    let line = passwd.lines().find(|line| !line.starts_with("root")).expect("a user besides root");
    let fields: Vec<&str> = line.split(':').collect();
    let out = host.bulkhead(&["run", "--rm", "-u", fields[0], "--entrypoint", "id", "users", "-u"]).ok();
    assert_eq!(out.line(), fields[2]);
}

#[test]
fn a_root_filesystem_can_be_read_only_with_tmpfs_and_binds() {
    let host = host!();
    let image = host.busybox();
    let dir = host.dir().join("bound");
    std::fs::create_dir(&dir).expect("mkdir");
    std::fs::write(dir.join("f"), "from the host").expect("write");
    let bound = dir.display().to_string();
    host.bulkhead(&[
        "run",
        "--rm",
        "--read-only",
        "--tmpfs",
        "/t:size=1m",
        image,
        "sh",
        "-c",
        "touch /t/x && ! touch /x",
    ])
    .ok()
    .complains("Read-only file system");
    host.bulkhead(&[
        "run",
        "--rm",
        "-v",
        &format!("{bound}:/m:ro"),
        image,
        "sh",
        "-c",
        "cat /m/f; ! touch /m/x",
    ])
    .ok()
    .prints("from the host");
    host.bulkhead(&["run", "--rm", "-v", &format!("{bound}:/m"), image, "sh", "-c", "echo inside > /m/g"])
        .ok();
    assert_eq!(std::fs::read_to_string(dir.join("g")).expect("written through"), "inside\n");
    let missing = dir.join("made");
    host.bulkhead(&["run", "--rm", "-v", &format!("{}:/m", missing.display()), image, "true"]).ok();
    assert!(missing.is_dir(), "-v makes a missing directory");
    // What is mounted below a directory comes along, unless that is not wanted.
    let list = |options: &str| {
        let mount = format!("type=bind,source=/sys,target=/other{options}");
        host.bulkhead(&["run", "--rm", "--mount", &mount, image, "ls", "/other/fs/cgroup"]).ok().out()
    };
    assert_ne!(list(""), "");
    for alone in [",bind-nonrecursive", ",bind-recursive=disabled"] {
        assert_eq!(list(alone), "", "{alone}");
    }
}

#[test]
fn capabilities_seccomp_and_privileges_are_dockers() {
    let host = host!();
    let image = host.busybox();
    let status = |flags: &[&str]| {
        let mut args = vec!["run", "--rm"];
        args.extend(flags);
        args.extend([image, "grep", "-E", "^(CapEff|NoNewPrivs|Seccomp):", "/proc/self/status"]);
        host.bulkhead(&args).ok().out()
    };
    // Docker's fourteen: a80425fb.
    assert!(status(&[]).contains("CapEff:\t00000000a80425fb"), "{}", status(&[]));
    assert!(status(&[]).contains("Seccomp:\t2"));
    assert!(status(&["--cap-drop", "ALL"]).contains("CapEff:\t0000000000000000"));
    assert!(status(&["--cap-drop", "ALL", "--cap-add", "CHOWN"]).contains("CapEff:\t0000000000000001"));
    assert!(status(&["--security-opt", "seccomp=unconfined"]).contains("Seccomp:\t0"));
    assert!(status(&["--security-opt", "no-new-privileges"]).contains("NoNewPrivs:\t1"));
    assert!(status(&["--privileged"]).contains("Seccomp:\t0"));
    host.bulkhead(&["run", "--rm", image, "unshare", "-m", "true"])
        .code(1)
        .complains("Operation not permitted");
    host.bulkhead(&["run", "--rm", "--privileged", image, "unshare", "-m", "true"]).ok();
    host.bulkhead(&["run", "--rm", "--cap-add", "NONSENSE", image, "true"]).code(125);
    // A profile of one's own, which is read when it is named and not when the container starts.
    let profile = host.file(
        "profile.json",
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}]}"#,
    );
    let option = format!("seccomp={}", profile.display());
    host.bulkhead(&["create", "--name", "own", "--security-opt", &option, image, "mkdir", "/x"]).ok();
    std::fs::remove_file(&profile).expect("unlink");
    host.bulkhead(&["start", "-a", "own"]).code(1).complains("Operation not permitted");
    let wrong = host.file("wrong.json", r#"{"defaultAction": "SCMP_ACT_NONSENSE"}"#);
    let option = format!("seccomp={}", wrong.display());
    host.bulkhead(&["create", "--security-opt", &option, image, "true"])
        .code(1)
        .complains("decoding seccomp profile failed");
}

/// The number that system calls take for "leave it as it is" would be root.
#[test]
fn a_user_is_nobody_else() {
    let host = host!();
    let image = host.busybox();
    for user in ["4294967295", "2147483648", "1:4294967295"] {
        let refused = host.bulkhead(&["run", "--rm", "-u", user, image, "id"]);
        refused.complains("uids and gids must be in range 0-2147483647");
    }
    let groups = |user: &str| {
        host.bulkhead(&["run", "--rm", "-u", user, image, "grep", "Groups:", "/proc/self/status"]).ok().line()
    };
    // The group itself is among them, so that giving it up does not give a right.
    assert_eq!(groups("1000:1001").trim_end(), "Groups:\t1001");
}

#[test]
fn a_working_directory_is_made_and_nobody_elses() {
    let host = host!();
    let image = host.busybox();
    let run = |flags: &[&str], command: &[&str]| {
        host.bulkhead(&[&["run", "--rm", "-w", "/a/b"], flags, &[image], command].concat()).ok().out()
    };
    let modes = run(&[], &["stat", "-c", "%a", "/a", "/a/b"]);
    assert_eq!(modes, "755\n755\n");
    assert_eq!(run(&["--read-only"], &["pwd"]), "/a/b\n");
}

/// What is mounted below what is read-only is read-only, unless it is said not to be.
#[test]
fn read_only_is_read_only_all_the_way_down() {
    let host = host!();
    let image = host.busybox();
    let outer = host.dir().join("outer");
    std::fs::create_dir_all(outer.join("inner")).expect("mkdir");
    let script = format!("mount -t tmpfs none '{0}/inner' && exec \"$@\"", outer.display());
    let run = |mount: &str| {
        let mount = format!("type=bind,src={},dst=/o,readonly{mount}", outer.display());
        let inside = ["run", "--rm", "--mount", &mount, image, "touch", "/o/inner/x"];
        // In a mount namespace, which takes the inner mount with it.
        let mut command = std::process::Command::new("unshare");
        command.args(["-m", "sh", "-c", &script, "sh"]);
        let ours = host.command(&inside);
        command.arg(ours.get_program()).args(ours.get_args());
        command.envs(ours.get_envs().filter_map(|(name, value)| Some((name, value?))));
        common::run(command, b"")
    };
    run("").code(1).complains("Read-only file system");
    run(",bind-recursive=readonly").code(1).complains("Read-only file system");
    run(",bind-recursive=writable").ok();
}

/// Whoever has killed a container for good goes on as if it were gone.
#[test]
fn a_kill_waits_for_the_end() {
    let host = host!();
    let image = host.busybox();
    for _ in 0..10 {
        host.bulkhead(&["run", "-d", "--name", "box", image, "sleep", "1000"]).ok();
        host.bulkhead(&["kill", "box"]).ok();
        host.bulkhead(&["rm", "box"]).ok();
    }
}

#[test]
fn namespaces_are_private_shared_or_the_hosts() {
    let host = host!();
    let image = host.busybox();
    let own =
        |kind: &str| std::fs::read_link(format!("/proc/self/ns/{kind}")).expect("link").display().to_string();
    let inside = |flags: &[&str], kind: &str| {
        let mut args = vec!["run", "--rm"];
        args.extend(flags);
        let link = format!("/proc/self/ns/{kind}");
        args.extend([image, "readlink", &link]);
        host.bulkhead(&args).ok().line()
    };
    for (kind, flag) in [("pid", "--pid"), ("ipc", "--ipc"), ("uts", "--uts"), ("net", "--network")] {
        assert_ne!(inside(&["--network", "none"], kind), own(kind), "{kind} is private");
        assert_eq!(inside(&[flag, "host"], kind), own(kind), "{flag} host");
    }
    let id = host.bulkhead(&["run", "-d", "--network", "none", image, "sleep", "100"]).ok().line();
    let other = format!("container:{id}");
    for (kind, flag) in [("pid", "--pid"), ("ipc", "--ipc"), ("net", "--network")] {
        let theirs = host.bulkhead(&["exec", &id, "readlink", &format!("/proc/self/ns/{kind}")]).ok().line();
        assert_eq!(inside(&[flag, &other], kind), theirs, "{flag} {other}");
    }
    host.bulkhead(&["run", "--rm", "--network", "container:nosuch", image, "true"]).code(125);
    // Who shares a network shares its hosts file, and the one name that is in it.
    host.bulkhead(&["run", "--rm", "--network", &other, image, "hostname"])
        .ok()
        .prints(&format!("{}\n", &id[..12]));

    // Shared memory is part of what `--ipc container:` shares, in both directions, and ends with nobody.
    host.bulkhead(&["exec", &id, "sh", "-c", "echo theirs >/dev/shm/a"]).ok();
    let shared = ["run", "--rm", "--ipc", &other, image, "sh", "-c", "cat /dev/shm/a; echo ours >/dev/shm/b"];
    assert_eq!(host.bulkhead(&shared).ok().line(), "theirs");
    assert_eq!(host.bulkhead(&["exec", &id, "cat", "/dev/shm/b"]).ok().line(), "ours");
    // A container that leads its own /dev/shm elsewhere lends nothing.
    host.bulkhead(&["run", "-d", "--name", "bent", "--ipc", "none", image, "sleep", "100"]).ok();
    host.bulkhead(&["exec", "bent", "sh", "-c", "rmdir /dev/shm; ln -s / /dev/shm"]).ok();
    host.bulkhead(&["run", "--rm", "--ipc", "container:bent", image, "true"]).code(125);
}

#[test]
fn limits_reach_the_kernel_and_change_while_it_runs() {
    let host = host!();
    let image = host.busybox();
    let id = host
        .bulkhead(&["run", "-d", "-m", "32m", "--pids-limit", "20", "--cpus", "0.5", image, "sleep", "100"])
        .ok()
        .line();
    let limit = |names: [&str; 2]| {
        host.cgroups()
            .into_iter()
            .flat_map(|dir| names.map(|name| dir.join(name)))
            .filter(|path| path.to_string_lossy().contains(&id))
            .find_map(|path| std::fs::read_to_string(path).ok())
            .unwrap_or_else(|| panic!("none of {names:?} for {id}"))
            .trim()
            .to_owned()
    };
    assert_eq!(limit(["memory.limit_in_bytes", "memory.max"]), "33554432");
    assert_eq!(limit(["pids.max", "pids.max"]), "20");
    assert!(["50000", "50000 100000"].contains(&limit(["cpu.cfs_quota_us", "cpu.max"]).as_str()));
    host.bulkhead(&["update", "-m", "64m", &id]).ok();
    assert_eq!(limit(["memory.limit_in_bytes", "memory.max"]), "67108864");
    host.bulkhead(&["run", "--rm", "-m", "1m", image, "true"])
        .code(125)
        .complains("Minimum memory limit allowed is 6MB");
}

#[test]
fn a_container_killed_for_memory_says_so() {
    let host = host!();
    let image = host.busybox();
    host.bulkhead(&["run", "--name", "hog", "-m", "16m", image, "sh", "-c", "x=a; while :; do x=$x$x; done"])
        .code(137);
    assert_eq!(
        host.inspect("hog", "{{.State.OOMKilled}} {{.State.ExitCode}} {{.State.Status}}"),
        "true 137 exited"
    );
}

#[test]
fn a_detached_container_is_logged_stopped_and_started_again() {
    let host = host!();
    let image = host.busybox();
    let script = "trap 'echo bye; exit 5' TERM; echo start >> /count; cat /count; echo oops >&2; while :; do sleep 0.05; done";
    let id = host.bulkhead(&["run", "-d", "--name", "web", image, "sh", "-c", script]).ok().line();
    assert_eq!(id.len(), 64);
    common::eventually("the first line", || host.bulkhead(&["logs", "web"]).err().contains("oops"));
    host.bulkhead(&["stop", "web"]).ok().prints("web\n");
    assert_eq!(host.bulkhead(&["logs", "web"]).ok().out(), "start\nbye\n");
    assert_eq!(host.inspect("web", "{{.State.ExitCode}}"), "5");
    host.bulkhead(&["start", "web"]).ok().prints("web\n");
    common::eventually("the writable layer survives a stop", || {
        host.bulkhead(&["logs", "--tail", "3", "web"]).ok().out() == "start\nstart\n"
    });
    host.bulkhead(&["rm", "web"]).code(1).complains("cannot remove container \"/web\": container is running");
    host.bulkhead(&["kill", "-s", "TERM", "web"]).ok();
    assert_eq!(host.bulkhead(&["wait", "web"]).ok().line(), "5");
    host.bulkhead(&["run", "--name", "web", image, "true"])
        .code(125)
        .complains("is already in use by container");
    host.bulkhead(&["rename", "web", "net"]).ok();
    host.bulkhead(&["rm", "net"]).ok().prints("net\n");
    host.bulkhead(&["rm", "net"]).code(1).complains("No such container: net");
}

#[test]
fn exec_runs_beside_process_one() {
    let host = host!();
    let image = host.busybox();
    let id = host.bulkhead(&["run", "-d", "-e", "A=of-the-container", image, "sleep", "100"]).ok().line();
    host.bulkhead(&["exec", &id, "sh", "-c", "echo $A; exit 7"]).code(7).prints("of-the-container\n");
    host.bulkhead(&[
        "exec",
        "-e",
        "A=own",
        "-w",
        "/tmp",
        "-u",
        "5",
        &id,
        "sh",
        "-c",
        "echo $A $PWD $(id -u)",
    ])
    .ok()
    .prints("own /tmp 5\n");
    let echoed = host.bulkhead_with_stdin(&["exec", "-i", &id, "cat"], b"through").ok();
    assert_eq!(echoed.stdout, b"through");
    host.bulkhead(&["exec", &id, "nothere"]).code(127);
    host.bulkhead(&["exec", "-w", "/nowhere", &id, "true"]).code(126).complains(
        "OCI runtime exec failed: exec failed: unable to start container process: \
         chdir to cwd (\"/nowhere\") set in config.json failed: no such file or directory",
    );
    host.bulkhead(&["exec", "-d", &id, "touch", "/done"]).ok();
    common::eventually("a detached exec", || {
        host.bulkhead(&["exec", &id, "test", "-e", "/done"]).status.success()
    });
    host.bulkhead(&["pause", &id]).ok();
    host.bulkhead(&["exec", &id, "true"]).code(1).complains("is paused");
    host.bulkhead(&["unpause", &id]).ok();
    host.bulkhead(&["kill", &id]).ok();
    host.bulkhead(&["wait", &id]).ok().prints("137\n");
    host.bulkhead(&["exec", &id, "true"]).code(1).complains("is not running");
}

#[test]
fn a_restart_policy_restarts_up_to_its_limit() {
    let host = host!();
    let image = host.busybox();
    host.bulkhead(&[
        "run",
        "-d",
        "--name",
        "again",
        "--restart",
        "on-failure:2",
        image,
        "sh",
        "-c",
        "echo ran; exit 3",
    ])
    .ok();
    host.wait_for("again", "{{.State.Status}} {{.RestartCount}}", "exited 2");
    assert_eq!(host.bulkhead(&["logs", "again"]).ok().out(), "ran\nran\nran\n");
    // Who starts it gives it as many again.
    host.bulkhead(&["start", "again"]).ok();
    common::eventually("it has run six times", || {
        host.bulkhead(&["logs", "again"]).ok().out() == "ran\n".repeat(6)
    });
    host.wait_for("again", "{{.State.Status}} {{.RestartCount}}", "exited 2");
}

#[test]
fn what_cannot_be_had_is_refused_and_leaves_nothing() {
    let host = host!();
    let image = host.busybox();
    // No test reaches a registry of the world, though the image is here.
    host.bulkhead(&["run", "--rm", "--pull", "always", image, "true"])
        .code(125)
        .complains("Get \"https://registry-1.docker.io/v2/\": ");
    host.bulkhead(&["run", "--rm", "--pull", "never", "nosuch", "true"])
        .code(125)
        .complains("No such image: nosuch:latest");
    host.bulkhead(&["run", "--rm", "--pull", "never", "--platform", "plan9/mips", image, "true"])
        .code(125)
        .complains("does not match the specified platform: wanted plan9/mips");
    host.bulkhead(&["run", "--rm", "--platform", "linux", image, "true"]).ok();
    let id = host.bulkhead(&["run", "-d", "--rm", image, "sleep", "100"]).ok().line();
    host.bulkhead(&["update", "--restart", "always", &id])
        .code(1)
        .complains("Restart policy cannot be updated because AutoRemove is enabled for the container");
    host.bulkhead(&["rm", "-f", &id]).ok();
    common::eventually("their monitors have taken everything back", || {
        host.processes().is_empty()
            && std::fs::read_dir(host.run_root())
                .expect("run root")
                .flatten()
                .all(|e| e.file_name().len() != 64)
    });
}

#[test]
fn a_killed_monitor_is_recognised_and_cleaned_up() {
    let host = host!();
    let image = host.busybox();
    let id = host.bulkhead(&["run", "-d", "--name", "lost", image, "sleep", "1000"]).ok().line();
    let monitor = host.monitor_of(&id);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(monitor), nix::sys::signal::Signal::SIGKILL)
        .expect("kill");
    common::eventually("the container's end is recorded", || {
        host.inspect("lost", "{{.State.Status}} {{.State.ExitCode}}") == "exited 137"
    });
    assert!(host.cgroups().iter().all(|dir| !dir.to_string_lossy().contains(&id)), "its cgroups are gone");
    host.bulkhead(&["start", "lost"]).ok();
    host.bulkhead(&["rm", "-f", "lost"]).ok();
}

#[test]
fn many_layers_work() {
    let host = host!();
    let image = images::deep(127);
    host.load(&image.docker_archive(images::Compression::None)).ok();
    host.bulkhead(&["run", "--rm", "deep", "true"]).ok();
}

#[test]
fn a_reader_that_leaves_ends_the_session() {
    let host = host!();
    let image = host.busybox();
    let mut child = host
        .command(&["run", "--name", "yes", image, "yes"])
        .stdout(Stdio::piped())
        .stdin(Stdio::null())
        .spawn()
        .expect("spawn");
    drop(child.stdout.take());
    let status = common::wait(&mut child, "run with a closed standard output");
    assert_eq!(status.code(), Some(141));
    host.bulkhead(&["rm", "-f", "yes"]).ok();
}

/// Every command sweeps what killed ones left: a container in the making must never look like that.
#[test]
fn starts_and_sweeps_do_not_meet() {
    let host = host!();
    let image = host.busybox();
    let ended = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let starts: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    for _ in 0..25 {
                        let run = host.bulkhead(&["run", "--rm", "--network", "none", image, "true"]);
                        if !run.status.success() {
                            return Err(run.to_string());
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        let sweeps = scope.spawn(|| {
            while !ended.load(std::sync::atomic::Ordering::Relaxed) {
                host.bulkhead(&["ps", "-q"]);
            }
        });
        let outcomes: Vec<_> = starts.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        ended.store(true, std::sync::atomic::Ordering::Relaxed);
        sweeps.join().expect("sweeps");
        for outcome in outcomes {
            assert_eq!(outcome.expect("a thread"), Ok(()));
        }
    });
}

/// Its monitor is still about to end when the record says `exited`.
#[test]
fn a_container_starts_again_the_moment_it_has_ended() {
    let host = host!();
    let image = host.busybox();
    host.bulkhead(&["create", "--name", "again", "--network", "none", image, "true"]).ok();
    for _ in 0..20 {
        host.bulkhead(&["start", "again"]).ok();
        while host.inspect("again", "{{.State.Status}}") != "exited" {}
    }
    for _ in 0..5 {
        host.bulkhead(&["start", "-a", "again"]).ok();
    }
    // Two at once: one starts it, both succeed.
    std::thread::scope(|scope| {
        let starts: Vec<_> = (0..4).map(|_| scope.spawn(|| host.bulkhead(&["start", "again"]))).collect();
        for start in starts {
            start.join().expect("a thread").ok();
        }
    });
}

/// A terminal's other end: what is typed goes in, what is shown is thrown away.
struct Typist {
    child: std::process::Child,
    master: std::fs::File,
}

impl Typist {
    fn start(host: &common::Host, args: &[&str]) -> Self {
        let (child, master) = common::on_terminal(host.command(args), None);
        Self { child, master }
    }

    fn type_in(&mut self, keys: &[u8]) {
        use std::io::Write as _;
        // Whoever has just hung up does not read it.
        let _ = self.master.write_all(keys);
    }

    /// Types the keys until the command has ended, and says how it did.
    fn until_end(mut self, keys: &[u8]) -> Option<i32> {
        common::eventually("the end of a session", || {
            self.type_in(keys);
            matches!(self.child.try_wait(), Ok(Some(_)))
        });
        self.child.wait().expect("wait").code()
    }
}

/// Detaching, or losing the terminal, leaves the container running, be it `run` or `attach` that sat there.
#[test]
fn a_terminal_that_is_left_can_be_come_back_to() {
    let host = host!();
    let image = host.busybox();
    let run = ["run", "-it", "--name", "tty", image, "sh", "-c", "touch /up; exec sh"];
    let session = Typist::start(&host, &run);
    let up = || host.bulkhead(&["exec", "tty", "test", "-e", "/up"]).status.success();
    common::eventually("a shell", up);
    assert_eq!(session.until_end(b"\x10\x11"), Some(0));
    assert_eq!(host.inspect("tty", "{{.State.Status}}"), "running");
    // What is typed now is read by the same shell, which has not been told that its input has ended.
    let mut session = Typist::start(&host, &["attach", "--detach-keys", "ctrl-x,x", "tty"]);
    session.type_in(b"touch /typed\r");
    common::eventually("the shell reads on", || {
        host.bulkhead(&["exec", "tty", "test", "-e", "/typed"]).status.success()
    });
    assert_eq!(session.until_end(b"\x18x"), Some(0));
    assert_eq!(host.inspect("tty", "{{.State.Status}}"), "running");
    // A terminal that goes away takes nobody with it.
    let mut session = Typist::start(&host, &["attach", "tty"]);
    session.type_in(b"touch /again\r");
    common::eventually("the shell reads on", || {
        host.bulkhead(&["exec", "tty", "test", "-e", "/again"]).status.success()
    });
    session.child.kill().expect("kill");
    session.child.wait().expect("wait");
    drop(session);
    assert_eq!(host.inspect("tty", "{{.State.Status}}"), "running");
    let session = Typist::start(&host, &["exec", "-it", "tty", "sh"]);
    assert_eq!(session.until_end(b"\x10\x11"), Some(0), "exec has the same keys");
    // And whoever says `exit` to process 1 ends it.
    let session = Typist::start(&host, &["attach", "tty"]);
    session.until_end(b"exit\r");
    host.wait_for("tty", "{{.State.Status}}", "exited");
}

#[test]
fn only_the_streams_that_are_asked_for_are_shown() {
    let host = host!();
    let image = host.busybox();
    let both = "echo out; echo err >&2";
    let out = host.bulkhead(&["run", "--rm", "-a", "stdout", image, "sh", "-c", both]).ok().prints("out\n");
    assert_eq!(out.err(), "");
    let out = host.bulkhead(&["run", "--rm", "-a", "stderr", image, "sh", "-c", both]).ok().prints("");
    assert_eq!(out.err(), "err\n");
}

#[test]
fn exec_ends_with_dockers_codes() {
    let host = host!();
    let image = host.busybox();
    host.bulkhead(&["run", "-d", "--name", "box", image, "sleep", "100"]).ok();
    host.bulkhead(&["exec", "-u", "nobodyatall", "box", "true"])
        .code(126)
        .complains("unable to find user nobodyatall");
    let out = host.bulkhead(&["exec", "box", "/etc"]).code(126);
    assert!(!out.err().contains("os error"), "{out}");
}

/// Killed between its row and its directories, a container is finished by whatever is typed next.
#[test]
fn a_create_that_was_killed_halfway_is_finished() {
    let host = host!();
    let image = host.busybox();
    let id = host.bulkhead(&["create", "--name", "half", image, "echo", "whole"]).ok().line();
    let dir = host.root().join("containers").join(&id);
    for gone in ["work", "upper"] {
        std::fs::remove_dir(dir.join(gone)).expect("as it is before it is made");
    }
    host.bulkhead(&["start", "-a", "half"]).ok().prints("whole\n");
    let id = host.bulkhead(&["create", "--name", "none", image, "echo", "whole"]).ok().line();
    std::fs::remove_dir_all(host.root().join("containers").join(id)).expect("as it is before it is made");
    host.bulkhead(&["ps", "-a"]).ok();
    host.bulkhead(&["start", "-a", "none"]).ok().prints("whole\n");
}

#[test]
fn a_log_is_kept_as_long_as_it_may_be() {
    let host = host!();
    let image = host.busybox();
    let limits = ["--log-opt", "max-size=1k", "--log-opt", "max-file=3"];
    // All of it comes in one piece.
    let run = [&["run", "--name", "long"][..], &limits, &[image, "seq", "1", "2000"]].concat();
    host.bulkhead(&run).ok();
    let log = std::path::PathBuf::from(host.inspect("long", "{{.LogPath}}"));
    for ending in ["", ".1", ".2"] {
        let file = format!("{}{ending}", log.display());
        let length = std::fs::metadata(&file).expect("a rotated file").len();
        assert!((1..=1024).contains(&length), "{file} has {length}");
    }
    assert!(!std::path::Path::new(&format!("{}.3", log.display())).exists());
    assert!(host.bulkhead(&["logs", "long"]).ok().out().ends_with("1999\n2000\n"));
    assert_eq!(host.bulkhead(&["logs", "-n", "2", "long"]).ok().out(), "1999\n2000\n");

    let packed = [&["run", "--name", "packed"][..], &limits, &["--log-opt", "compress=true", image]].concat();
    // Two writes after a rotation, so that the monitor comes to it.
    host.bulkhead(&[&packed[..], &["sh", "-c", "seq 1 20; sleep 0.1; seq 21 40"]].concat()).ok();
    let log = host.inspect("packed", "{{.LogPath}}");
    let first = std::fs::read(format!("{log}.1.gz")).expect("a compressed file");
    assert_eq!(first[..2], [0x1f, 0x8b]);
    assert!(!std::path::Path::new(&format!("{log}.1")).exists());
    assert!(host.bulkhead(&["logs", "packed"]).ok().out().ends_with("39\n40\n"));

    host.bulkhead(&["run", "--name", "short", "--log-driver", "local", image, "echo", "kept"]).ok();
    host.bulkhead(&["logs", "short"]).ok().prints("kept\n");
    let noted =
        ["--log-opt", "labels=tier", "--log-opt", "env=os", "--log-opt", "tag={{.Name}}/{{.ImageName}}"];
    let run = [
        &["run", "--name", "noted", "--label", "tier=web", "-e", "os=a b"][..],
        &noted,
        &[image, "echo", "line"],
    ]
    .concat();
    host.bulkhead(&run).ok();
    host.bulkhead(&["logs", "--details", "noted"]).ok().prints("os=a+b,tag=noted%2Fbusybox,tier=web line\n");
    host.bulkhead(&["logs", "noted"]).ok().prints("line\n");
    for (flags, why) in [
        (&["--log-driver", "syslog"][..], "logger: no log driver named 'syslog' is registered"),
        (&["--log-opt", "foo=1"], "unknown log opt 'foo' for json-file log driver"),
        (
            &["--log-opt", "compress=true"],
            "compress: compress cannot be true when max-file is less than 2 or max-size is not set",
        ),
    ] {
        host.bulkhead(&[&["run", "--name", "no"], flags, &[image, "true"]].concat()).code(125).complains(why);
    }
    assert!(!host.bulkhead(&["ps", "-a"]).ok().out().contains("no\n"));
}

#[test]
fn what_a_container_does_not_say_the_operator_does() {
    let host = host!();
    let image = host.busybox();
    let settings = |text: &str| std::fs::write(host.root().join("daemon.json"), text).expect("daemon.json");
    settings(
        r#"{"dns": ["10.0.0.200", "10.0.0.201"], "dns-search": ["corp.example"], "dns-opts": ["ndots:3"],
            "log-opts": {"max-size": "100m", "max-file": "5", "cache-disabled": "false"},
            "default-shm-size": "8m", "default-ulimits": {"nofile": {"Name": "nofile", "Hard": 900, "Soft": 800}},
            "init": true, "live-restore": true, "no-new-privileges": true}"#,
    );
    let asked = "cat /etc/resolv.conf; ulimit -n; df -k /dev/shm | tail -n 1 | awk '{print $2}'; grep NoNewPrivs /proc/1/status; cat /proc/1/comm; :";
    let own =
        "nameserver 10.0.0.200\nnameserver 10.0.0.201\nsearch corp.example\noptions ndots:3\n800\n8192\n";
    let out = host.bulkhead(&["run", "--name", "quiet", image, "sh", "-c", asked]).ok().out();
    assert!(out.starts_with(own), "{out}");
    assert!(out.contains("NoNewPrivs:\t1\n") && !out.ends_with("sh\n"), "{out}");
    assert_eq!(
        host.inspect("quiet", "{{json .HostConfig.LogConfig}}"),
        r#"{"Type":"json-file","Config":{"cache-disabled":"false","max-file":"5","max-size":"100m"}}"#
    );
    let flags = ["--dns", "1.1.1.1", "--shm-size", "4m", "--ulimit", "nofile=100:200", "--init=false"];
    let run = [&["run", "--rm"][..], &flags, &["--log-opt", "max-file=2", image, "sh", "-c", asked]].concat();
    let out = host.bulkhead(&run).ok().out();
    assert!(
        out.starts_with("nameserver 1.1.1.1\nsearch corp.example\noptions ndots:3\n100\n4096\n"),
        "{out}"
    );
    assert!(out.ends_with("sh\n"), "{out}");
    // A change holds from the next start on.
    settings(r#"{"dns": ["10.0.0.202"], "log-driver": "none"}"#);
    let servers = host.bulkhead(&["run", "--rm", image, "cat", "/etc/resolv.conf"]).ok().out();
    assert!(servers.starts_with("nameserver 10.0.0.202\n") && !servers.contains("corp.example"), "{servers}");
    assert!(host.bulkhead(&["start", "-a", "quiet"]).ok().out().starts_with("nameserver 10.0.0.202\n"));
    host.bulkhead(&["run", "--name", "mute", image, "echo", "x"]).ok().prints("x\n");
    host.bulkhead(&["logs", "mute"]).code(1).complains("does not support reading");
    for (text, why) in [
        (r#"{"dsn": ["10.0.0.200"]}"#, "the following directives don't match any configuration option: dsn"),
        (r#"{"data-root": "/mnt"}"#, "use --root or BULKHEAD_ROOT"),
        (r#"{"dns": "10.0.0.200"}"#, "invalid type: string"),
    ] {
        settings(text);
        host.bulkhead(&["run", "--rm", image, "true"])
            .code(125)
            .complains("unable to configure the engine with file")
            .complains(why);
    }
    settings("{}");
}

/// A program that asks for the size of its terminal as the first thing it does gets one.
#[test]
fn a_terminal_has_its_size_from_the_start() {
    let host = host!();
    let image = host.busybox();
    host.bulkhead(&["run", "-d", "--name", "up", image, "sleep", "100000"]).ok();
    let size = nix::pty::Winsize { ws_row: 33, ws_col: 99, ws_xpixel: 0, ws_ypixel: 0 };
    for args in [&["run", "--rm", "-it", image, "stty", "size"][..], &["exec", "-it", "up", "stty", "size"]] {
        for _ in 0..5 {
            let (mut child, master) = common::on_terminal(host.command(args), Some(size));
            assert_eq!(common::wait(&mut child, "stty size").code(), Some(0));
            let mut shown = [0; 64];
            let length = nix::unistd::read(&master, &mut shown).expect("read");
            assert_eq!(String::from_utf8_lossy(&shown[..length]), "33 99\r\n");
        }
    }
    host.bulkhead(&["rm", "-f", "up"]).ok();
}

/// Signals are the container's, those without a name as well, or with `--sig-proxy=false` the client's own.
#[test]
fn signals_are_for_the_container_or_for_the_client() {
    let host = host!();
    let image = host.busybox();
    let heard = "trap 'echo heard; exit 7' 37 ALRM; touch /up; while :; do sleep 0.05; done";
    let send = |child: &std::process::Child, signal: i32| {
        // SAFETY: a process of ours and a signal.
        assert_eq!(unsafe { libc::kill(child.id() as i32, signal) }, 0);
    };
    for (name, signal) in [("rt", 37), ("alarm", libc::SIGALRM)] {
        let mut command = host.command(&["run", "--name", name, image, "sh", "-c", heard]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("run");
        let is_up = || host.bulkhead(&["exec", name, "test", "-e", "/up"]).status.success();
        common::eventually("it listens", is_up);
        send(&child, signal);
        assert_eq!(common::wait(&mut child, "run").code(), Some(7), "{name}");
        host.bulkhead(&["logs", name]).ok().prints("heard\n");
        host.bulkhead(&["rm", name]).ok();
    }
    let mut command = host.command(&["run", "--sig-proxy=false", "--name", "own", image, "sh", "-c", heard]);
    let mut child = common::heeding_interrupts(&mut command).stdin(Stdio::null()).spawn().expect("run");
    common::eventually("it listens", || {
        host.bulkhead(&["exec", "own", "test", "-e", "/up"]).status.success()
    });
    send(&child, libc::SIGINT);
    assert_eq!(common::wait(&mut child, "run --sig-proxy=false").code(), Some(130));
    assert_eq!(host.inspect("own", "{{.State.Status}}"), "running");
    let mut command = host.command(&["attach", "--no-stdin", "--sig-proxy=false", "own"]);
    let mut child = command.stdin(Stdio::null()).spawn().expect("attach");
    std::thread::sleep(std::time::Duration::from_millis(300));
    send(&child, libc::SIGTERM);
    // By the signal itself when it had not begun to listen.
    let status = common::wait(&mut child, "attach --sig-proxy=false");
    let by_signal = std::os::unix::process::ExitStatusExt::signal(&status);
    assert!(status.code() == Some(143) || by_signal == Some(libc::SIGTERM), "{status}");
    assert_eq!(host.inspect("own", "{{.State.Status}}"), "running");
    host.bulkhead(&["rm", "-f", "own"]).ok();
}

/// A policy that is changed while a container runs is the one that counts.
#[test]
fn a_policy_may_be_changed_while_it_runs() {
    let host = host!();
    let image = host.busybox();
    let again = ["run", "-d", "--name", "again", "--restart", "always", image, "sleep", "0.2"];
    host.bulkhead(&again).ok();
    common::eventually("it has run twice", || host.inspect("again", "{{.RestartCount}}") != "0");
    host.bulkhead(&["update", "--restart", "no", "again"]).ok();
    host.wait_for("again", "{{.State.Status}}", "exited");
    host.bulkhead(&[
        "run",
        "-d",
        "--name",
        "once",
        image,
        "sh",
        "-c",
        "while [ ! -e /go ]; do sleep 0.05; done; sleep 1",
    ])
    .ok();
    host.bulkhead(&["update", "--restart", "always", "once"]).ok();
    host.bulkhead(&["rename", "once", "often"]).ok();
    host.bulkhead(&["exec", "often", "touch", "/go"]).ok();
    common::eventually("it runs again", || host.inspect("often", "{{.RestartCount}}") != "0");
    host.bulkhead(&["rm", "-f", "often", "again"]).ok();
}
