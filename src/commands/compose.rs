//! `compose`: Docker's compose, with an API of its own.
//!
//! Compose is a client of Docker's API and wants a server. One is started for it, of this engine, and ends with it: the
//! containers that it has made have monitors of their own, restarts and health checks included, and need no server.
//! This process becomes compose itself, so that its signals, its terminal and its exit code are nobody's to hand on, and
//! the kernel tells the server when it has ended, however that was.

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::cli::Globals;
use crate::cli::serve::ComposeArgs;
use crate::failure::Failure;

/// Where Docker looks for its plugins, after the user's own.
const PLUGINS: &[&str] = &[
    "/usr/local/lib/docker/cli-plugins",
    "/usr/local/libexec/docker/cli-plugins",
    "/usr/lib/docker/cli-plugins",
    "/usr/libexec/docker/cli-plugins",
];

/// `bulkhead compose`
pub fn run(globals: &Globals, args: &ComposeArgs) -> Result<u8, Failure> {
    let program = program().ok_or_else(|| {
        Failure::plain(
            "bulkhead compose: docker-compose is neither in PATH nor among Docker's plugins (Debian: apt install docker-compose)",
        )
    })?;
    let socket = globals.layout().passing_socket(std::process::id());
    let mut server = server(globals, &socket)?;
    let error = Command::new(&program)
        .args(&args.args)
        .env("DOCKER_HOST", format!("unix://{}", socket.display()))
        // The builder that the API has.
        .env("DOCKER_BUILDKIT", "0")
        .env("COMPOSE_DOCKER_CLI_BUILD", "0")
        .env_remove("DOCKER_CONTEXT")
        .env_remove("DOCKER_TLS_VERIFY")
        .env_remove("DOCKER_CERT_PATH")
        .exec();
    let _ = server.kill();
    let _ = server.wait();
    let _ = std::fs::remove_file(&socket);
    Err(Failure::plain(format!("bulkhead compose: execve {}: {error}", program.display())))
}

/// The program: a plugin, which is what people have who have Docker's, or a command.
fn program() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let own = set("DOCKER_CONFIG")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(set("HOME")?).join(".docker")))
        .map(|dir| dir.join("cli-plugins"));
    let path: Vec<PathBuf> = std::env::split_paths(&set("PATH").unwrap_or_default()).collect();
    let places = own.into_iter().chain(PLUGINS.iter().map(PathBuf::from)).chain(path);
    places.map(|dir| dir.join("docker-compose")).find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    file.is_file() && nix::unistd::access(file, nix::unistd::AccessFlags::X_OK).is_ok()
}

/// A server that listens, and that ends with this process.
fn server(globals: &Globals, socket: &Path) -> Result<Child, Failure> {
    let failed = |error: std::io::Error| Failure::plain(format!("bulkhead compose: start the API: {error}"));
    let mut host = OsString::from("unix://");
    host.push(socket);
    let mut command = Command::new("/proc/self/exe");
    command
        .arg("--root")
        .arg(&globals.root)
        .arg("--run-root")
        .arg(&globals.run_root)
        .args(["--cgroup-parent", &globals.cgroup_parent, "serve", "--host"])
        .arg(host)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let parent = nix::unistd::getpid();
    // SAFETY: system calls only, which a child may make after a fork.
    unsafe {
        command.pre_exec(move || {
            // What is typed at the terminal is for compose alone.
            nix::unistd::setsid()?;
            nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGTERM)?;
            // It may have gone before it was to be told of.
            if nix::unistd::getppid() == parent { Ok(()) } else { Err(nix::errno::Errno::ESRCH.into()) }
        });
    }
    let mut child = command.spawn().map_err(failed)?;
    // Its first line says that it listens.
    let mut line = String::new();
    let said = child.stdout.take().map(|pipe| BufReader::new(pipe).read_line(&mut line));
    match said.transpose() {
        Ok(Some(count)) if count > 0 => Ok(child),
        said => {
            let _ = child.kill();
            let _ = child.wait();
            // It has said itself what was wrong.
            said.map_err(failed)?;
            Err(Failure::exit(1))
        }
    }
}
