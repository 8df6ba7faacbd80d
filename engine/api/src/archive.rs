//! Files of containers: `cp` in both directions, `export`.

use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bulkhead_engine::container::{self, Error as Failed, changes, copy};
use hyper::StatusCode;
use hyper::header::HeaderValue;
use jiff::Timestamp;
use serde_json::json;

use crate::App;
use crate::body::{Body, Input, Reply, empty, reply, written};
use crate::error::Error;
use crate::router::Call;

const STAT: &str = "x-docker-container-path-stat";

fn path(call: &Call) -> Result<PathBuf, Error> {
    let path = call.query.get("path").ok_or_else(|| Error::bad("bad parameter: 'path' is empty"))?;
    Ok(copy::absolute(path))
}

/// Go's numbers for what a file is, which Docker's API has inherited.
fn mode(stat: &copy::Stat) -> u32 {
    let kind = match stat.mode & libc::S_IFMT {
        libc::S_IFDIR => 1 << 31,
        libc::S_IFLNK => 1 << 27,
        libc::S_IFBLK => 1 << 26,
        libc::S_IFCHR => (1 << 26) | (1 << 21),
        libc::S_IFIFO => 1 << 25,
        libc::S_IFSOCK => 1 << 24,
        _ => 0,
    };
    let bit = |ours: u32, gos: u32| if stat.mode & ours == 0 { 0 } else { gos };
    kind | bit(libc::S_ISUID, 1 << 23)
        | bit(libc::S_ISGID, 1 << 22)
        | bit(libc::S_ISVTX, 1 << 20)
        | (stat.mode & 0o777)
}

async fn found(app: &Arc<App>, name: &str, path: PathBuf) -> Result<HeaderValue, Error> {
    let name = name.to_owned();
    let stat = app
        .with_store(move |store| {
            let found = container::find(store, &name)?;
            let root = copy::Root::container(store, &found, &name)?;
            Ok(copy::stat(&root, &path)?)
        })
        .await?;
    let time = Timestamp::new(stat.seconds, stat.nanoseconds).unwrap_or_default();
    let text = json!({
        "name": stat.name, "size": stat.size, "mode": mode(&stat), "mtime": time.to_string(),
        "linkTarget": stat.target,
    });
    HeaderValue::from_str(&STANDARD.encode(text.to_string())).map_err(Error::internal)
}

/// `HEAD /containers/NAME/archive`
pub async fn stat(app: &Arc<App>, call: &Call, name: &str) -> Result<Reply, Error> {
    let stat = found(app, name, path(call)?).await?;
    let mut reply = empty(StatusCode::OK);
    reply.headers_mut().insert(STAT, stat);
    Ok(reply)
}

/// `GET /containers/NAME/archive`
pub async fn get(app: &Arc<App>, call: &Call, name: &str) -> Result<Reply, Error> {
    let path = path(call)?;
    let stat = found(app, name, path.clone()).await?;
    let (name, app) = (name.to_owned(), app.clone());
    let body = written(move |output| {
        let store = app.store()?;
        let found = container::find(&store, &name)?;
        let root = copy::Root::container(&store, &found, &name)?;
        let source = copy::Source::open(&root, &path, false)?;
        // A directory's contents are below `.`, by which clients rename them.
        let dot = std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()).ends_with(b"/.");
        Ok(source.tar(dot.then(|| std::ffi::OsStr::new(".")), output)?)
    })
    .await?;
    let mut reply = reply(StatusCode::OK, "application/x-tar", body);
    reply.headers_mut().insert(STAT, stat);
    Ok(reply)
}

/// `PUT /containers/NAME/archive`
pub async fn put(app: &Arc<App>, call: Call, name: &str) -> Result<Reply, Error> {
    let path = path(&call)?;
    let name = name.to_owned();
    let (input, app) = (Input::of(call.body), app.clone());
    // Not among the jobs that are counted: it lasts as long as its client sends.
    let done = written(move |_| {
        let store = app.store()?;
        let found = container::find(&store, &name)?;
        let root = copy::Root::container(&store, &found, &name)?;
        let target = copy::Target::directory(&root, &path).map_err(|error| match error {
            Failed::NotADirectory => Error::bad("extraction point is not a directory"),
            other => other.into(),
        })?;
        Ok(target.extract(input)?)
    });
    done.await?;
    Ok(reply(StatusCode::OK, "text/plain", Body::Whole(None)))
}

/// `GET /containers/NAME/export`
pub async fn export(app: &Arc<App>, name: &str) -> Result<Reply, Error> {
    let (name, app) = (name.to_owned(), app.clone());
    let body = written(move |output| {
        let store = app.store()?;
        let found = container::find(&store, &name)?;
        Ok(changes::export(&store, &found, output)?)
    })
    .await?;
    Ok(reply(StatusCode::OK, "application/x-tar", body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_gos() {
        let of = |mode| super::mode(&copy::Stat { mode, ..copy::Stat::default() });
        assert_eq!(of(libc::S_IFREG | 0o644), 0o644);
        assert_eq!(of(libc::S_IFDIR | libc::S_ISVTX | 0o777), (1 << 31) | (1 << 20) | 0o777);
        assert_eq!(of(libc::S_IFLNK | 0o777), (1 << 27) | 0o777);
        assert_eq!(of(libc::S_IFREG | libc::S_ISUID | 0o755), (1 << 23) | 0o755);
    }
}
