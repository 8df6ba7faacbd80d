//! Repositories, and servers that have them.

use std::path::{Path, PathBuf};

use super::registry::{Reply, Server};

/// Runs git in a directory, as somebody without settings.
#[track_caller]
pub fn git(dir: &Path, args: &[&str]) -> String {
    let mut command = std::process::Command::new("git");
    command
        .args(["-c", "user.name=a", "-c", "user.email=a@b", "-c", "protocol.file.allow=always", "-C"])
        .arg(dir)
        .args(args)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1");
    super::run(command, b"").ok().out()
}

/// A server that speaks git's own protocol over HTTP, by git's own program.
pub fn git_server(root: PathBuf) -> Server {
    let directory = super::run(
        {
            let mut command = std::process::Command::new("git");
            command.arg("--exec-path");
            command
        },
        b"",
    );
    let program = format!("{}/git-http-backend", directory.ok().line());
    Server::start(move |request| {
        let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
        let mut command = std::process::Command::new(&program);
        command
            .env("GIT_PROJECT_ROOT", &root)
            .env("GIT_HTTP_EXPORT_ALL", "1")
            .env("PATH_INFO", path)
            .env("QUERY_STRING", query)
            .env("REQUEST_METHOD", &request.method)
            .env("CONTENT_TYPE", request.header("content-type"))
            .env("CONTENT_LENGTH", request.body.len().to_string())
            .env("HTTP_CONTENT_ENCODING", request.header("content-encoding"))
            .env("GIT_PROTOCOL", request.header("git-protocol"));
        let output = super::run(command, &request.body).stdout;
        let Some(end) = output.windows(4).position(|four| four == b"\r\n\r\n") else {
            return Reply::status(500);
        };
        let mut reply = Reply::ok(&output[end + 4..]);
        for line in String::from_utf8_lossy(&output[..end]).lines() {
            match line.split_once(": ") {
                Some(("Status", text)) => reply.status = text[..3].parse().expect("status"),
                Some((name, value)) => reply = reply.with(name, value),
                None => {}
            }
        }
        reply
    })
}

/// A server that knows nothing of git and has its files.
pub fn plain_server(root: PathBuf) -> Server {
    Server::start(move |request| {
        let path = request.target.split('?').next().unwrap_or_default();
        std::fs::read(root.join(path.trim_start_matches('/'))).map_or_else(|_| Reply::status(404), Reply::ok)
    })
}
