//! Where the server is reached.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The socket's mode: root and its group, as Docker's.
const MODE: u32 = 0o660;

/// An address as `--host` takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// `unix:///PATH`
    Unix(PathBuf),
    /// `tcp://ADDRESS:PORT`, of the loopback interface: whoever reaches it is root on this host.
    Tcp(SocketAddr),
}

/// An address that is none, or nobody's business to listen on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHost {
    /// It has no form that is known.
    #[error("invalid host {0:?}: want unix:///PATH or tcp://ADDRESS:PORT")]
    Form(String),
    /// Whoever may connect may do everything on this host.
    #[error("host {0:?} is not on the loopback interface: the API is not served to other hosts")]
    Remote(String),
}

impl FromStr for Host {
    type Err = InvalidHost;

    fn from_str(text: &str) -> Result<Self, InvalidHost> {
        let form = || InvalidHost::Form(text.to_owned());
        if let Some(path) = text.strip_prefix("unix://") {
            return if path.starts_with('/') { Ok(Self::Unix(path.into())) } else { Err(form()) };
        }
        let address = text.strip_prefix("tcp://").ok_or_else(form)?;
        let address: SocketAddr = address.parse().map_err(|_| form())?;
        if address.ip().is_loopback() {
            Ok(Self::Tcp(address))
        } else {
            Err(InvalidHost::Remote(text.to_owned()))
        }
    }
}

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another server answers there.
    #[error("another server is listening on {}", .0.display())]
    InUse(PathBuf),
    /// Something that is no socket is there.
    #[error("{} is no socket", .0.display())]
    NotASocket(PathBuf),
    /// A call failed.
    #[error("{call} {object}: {source}")]
    Io {
        /// The call.
        call: &'static str,
        /// Its object.
        object: String,
        /// Why.
        source: io::Error,
    },
}

/// A socket that is listened on. The file of a Unix socket goes with it.
#[derive(Debug)]
pub enum Listener {
    /// A Unix socket, its path and its inode.
    Unix(UnixListener, PathBuf, u64),
    /// A TCP socket.
    Tcp(TcpListener),
}

impl Listener {
    /// Listens. The socket of a server that is dead is replaced, one of a server that lives is left alone.
    pub fn bind(host: &Host) -> Result<Self, ListenError> {
        let fail = |call, object: &dyn std::fmt::Display, source| ListenError::Io {
            call,
            object: object.to_string(),
            source,
        };
        match host {
            Host::Tcp(address) => {
                let listener = TcpListener::bind(address).map_err(|e| fail("listen", address, e))?;
                listener.set_nonblocking(true).map_err(|e| fail("fcntl", address, e))?;
                Ok(Self::Tcp(listener))
            }
            Host::Unix(path) => {
                let shown = path.display();
                match std::fs::symlink_metadata(path) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(fail("stat", &shown, error)),
                    Ok(meta) if !is_socket(&meta) => return Err(ListenError::NotASocket(path.clone())),
                    Ok(_) if UnixStream::connect(path).is_ok() => {
                        return Err(ListenError::InUse(path.clone()));
                    }
                    Ok(_) => {}
                }
                if let Some(dir) = path.parent() {
                    std::fs::create_dir_all(dir).map_err(|e| fail("mkdir", &dir.display(), e))?;
                }
                // It appears under its name once it has its mode and is listened on.
                let mut beside = path.clone().into_os_string();
                beside.push(format!(".{}", std::process::id()));
                let beside = PathBuf::from(beside);
                let _ = std::fs::remove_file(&beside);
                let listener = UnixListener::bind(&beside).map_err(|e| fail("bind", &beside.display(), e))?;
                let placed = std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(MODE))
                    .and_then(|()| std::fs::rename(&beside, path))
                    .and_then(|()| listener.set_nonblocking(true))
                    .and_then(|()| std::fs::symlink_metadata(path));
                match placed {
                    Ok(meta) => Ok(Self::Unix(listener, path.clone(), meta.ino())),
                    Err(error) => {
                        let _ = std::fs::remove_file(&beside);
                        Err(fail("rename", &shown, error))
                    }
                }
            }
        }
    }

    /// As a client's `-H` takes it, with the port that was found for port 0.
    pub fn address(&self) -> String {
        match self {
            Self::Unix(_, path, _) => format!("unix://{}", path.display()),
            Self::Tcp(listener) => listener
                .local_addr()
                .map_or_else(|_| "tcp://".to_owned(), |address| format!("tcp://{address}")),
        }
    }
}

fn is_socket(meta: &std::fs::Metadata) -> bool {
    std::os::unix::fs::FileTypeExt::is_socket(&meta.file_type())
}

/// Removes the file of a socket, unless it is another's by now.
pub fn remove(path: &Path, inode: u64) {
    if std::fs::symlink_metadata(path).is_ok_and(|meta| meta.ino() == inode) {
        let _ = std::fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        assert_eq!("unix:///run/x.sock".parse(), Ok(Host::Unix("/run/x.sock".into())));
        assert_eq!("tcp://127.0.0.1:0".parse(), Ok(Host::Tcp(([127, 0, 0, 1], 0).into())));
        for odd in
            ["", "unix://", "unix://x", "/run/x", "tcp://", "tcp://localhost:1", "fd://", "tcp://127.0.0.1"]
        {
            assert!(matches!(odd.parse::<Host>(), Err(InvalidHost::Form(_))), "{odd:?}");
        }
        for far in ["tcp://0.0.0.0:2375", "tcp://[::]:2375", "tcp://192.0.2.1:2375"] {
            assert!(matches!(far.parse::<Host>(), Err(InvalidHost::Remote(_))), "{far:?}");
        }
    }

    #[test]
    fn a_dead_servers_socket_is_replaced_and_a_live_ones_is_not() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("a.sock");
        let host = Host::Unix(path.clone());
        let first = Listener::bind(&host).expect("bind");
        assert_eq!(std::fs::metadata(&path).expect("stat").permissions().mode() & 0o777, MODE);
        assert!(matches!(Listener::bind(&host), Err(ListenError::InUse(_))));
        drop(first);
        let second = Listener::bind(&host).expect("bind over a dead one");
        let Listener::Unix(_, _, inode) = second else { panic!("a Unix socket") };
        remove(&path, inode + 1);
        assert!(path.exists());
        remove(&path, inode);
        assert!(!path.exists());
        std::fs::write(&path, "x").expect("write");
        assert!(matches!(Listener::bind(&host), Err(ListenError::NotASocket(_))));
    }
}
