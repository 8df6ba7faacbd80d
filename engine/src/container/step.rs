//! One step of a build: a container without a row.
//!
//! A `RUN` is a container like any other to the kernel, and nobody's to list, stop or inspect. So it is never
//! recorded: the build claims an id as `run` does, writes down what is wanted ([`Plan`]), and has a process of
//! ours executed that clones it, passes its output on and ends with it. That process holds the claim's lock as
//! a monitor does. When the build goes away, its socket ends and the step is killed; when both are killed, the
//! next command finds the run directory of an id that has no row and whose lock is free, and takes back what
//! the id names ([`take_back`]): the cgroup with whoever is in it, and the directory.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::MsgFlags;
use serde::{Deserialize, Serialize};

use super::claim::Claim;
use super::lock::Lock;
use super::log::Stream;
use super::protocol::{self, CHUNK, Event};
use super::record::{self, Container, Record, State};
use super::summon::{self, Handle};
use super::{Error, IoContext as _, lifecycle, network, spec};
use crate::cgroup::Cgroup;
use crate::config::MountPoint;
use crate::digest::ChainId;
use crate::openat2::openat2;
use crate::runtime::{self, kernel};
use crate::snapshot::Snapshot;
use crate::store::{Layout, Store};

/// In the container's directory: what is wanted.
const PLAN: &str = "step.json";
/// In the run directory: the cgroup that the step's is made under.
const PARENT: &str = "step";

/// Files of a stage or an image, for a step to see.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct View {
    /// Their layers, lowest first.
    pub chain: Vec<ChainId>,
    /// What of them, from their root.
    pub source: PathBuf,
    /// Where.
    pub target: String,
    /// The step may write, and what it writes is gone with it.
    pub writable: bool,
}

/// What a step is to be.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Plan {
    /// As of a container.
    pub record: Record,
    /// Mounted besides what the record mounts.
    pub views: Vec<View>,
}

/// A step that has been prepared. Dropped, it takes back everything.
#[derive(Debug)]
pub struct Step {
    layout: Layout,
    claim: Claim,
}

impl Step {
    /// Takes an id and makes its directories.
    pub fn new(layout: &Layout, cgroup_parent: &str) -> Result<Self, Error> {
        let claim = Claim::new(layout)?;
        let step = Self { layout: layout.clone(), claim };
        let marker = layout.run(step.id()).join(PARENT);
        fs::write(&marker, cgroup_parent).at("write", &marker)?;
        let dir = step.dir();
        fs::DirBuilder::new().create(&dir).at("mkdir", &dir)?;
        fs::set_permissions(&dir, std::os::unix::fs::PermissionsExt::from_mode(0o700)).at("chmod", &dir)?;
        Ok(step)
    }

    /// The id.
    pub fn id(&self) -> &str {
        self.claim.id()
    }

    /// A directory that goes with the step.
    pub fn dir(&self) -> PathBuf {
        self.layout.containers().join(self.id())
    }

    /// One that is not on disk where the run root is not.
    pub fn run_dir(&self) -> PathBuf {
        self.layout.run(self.id())
    }

    /// What the step changes.
    pub fn upper(&self) -> PathBuf {
        self.dir().join("upper")
    }

    /// Starts it. The handle's events end with the step's.
    pub fn start(&self, plan: &Plan) -> Result<Handle, Error> {
        Snapshot::prepare(&self.layout, self.id(), &plan.record.chain)?;
        let path = self.dir().join(PLAN);
        let text =
            serde_json::to_vec(plan).map_err(|source| Error::Record { id: self.id().to_owned(), source })?;
        fs::write(&path, text).at("write", &path)?;
        self.claim.spawn("build-step")
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        // What stays is found by the next command: the claim's run directory goes last.
        let _ = Snapshot::remove(&self.layout, self.id());
    }
}

/// Whether a container that is being run is a step of a build.
pub(super) fn is_one(layout: &Layout, id: &str) -> bool {
    layout.run(id).join(PARENT).exists()
}

/// Takes back what a step left whose lock is free, when `id` was one.
pub(super) fn take_back(layout: &Layout, id: &str) {
    let Ok(parent) = fs::read_to_string(layout.run(id).join(PARENT)) else { return };
    if let Ok(cgroup) = Cgroup::open(&parent, id) {
        let _ = cgroup.thaw();
        let _ = cgroup.kill();
        let _ = cgroup.remove();
    }
    let _ = Snapshot::remove(layout, id);
}

/// Removes the directories of steps that even the run root has forgotten, as it does when a host starts anew.
pub fn sweep(store: &Store) -> Result<usize, Error> {
    let (layout, mut swept) = (store.layout(), 0);
    let dir = layout.containers();
    let standings = record::standings(store)?;
    let known: HashSet<&str> = standings.iter().map(|standing| standing.id.as_str()).collect();
    for entry in fs::read_dir(&dir).at("opendir", &dir)? {
        let name = entry.at("readdir", &dir)?.file_name();
        let Some(id) = name.to_str().filter(|id| id.len() == 64 && !known.contains(id)) else { continue };
        // Whoever makes a container has its lock before there is a directory, and a row as well unless it is a step.
        let unknown = |store| matches!(record::find(store, id), Err(Error::NoSuchContainer(_)));
        if Lock::is_held(layout, id) {
            continue;
        }
        let Some(_lock) = Lock::take(layout, id)? else { continue };
        if unknown(store) {
            take_back(layout, id);
            Snapshot::remove(layout, id)?;
            swept += 1;
            Lock::discard(layout, id).at("remove", &layout.run(id))?;
        }
    }
    Ok(swept)
}

/// What `bulkhead build-step ID CONTROL LOCK` runs.
pub fn main(layout: Layout, id: &str, control: RawFd, lock: RawFd) -> Result<(), Error> {
    let (control, lock) = summon::adopt(id, control, lock)?;
    let mut store = Store::open(layout)?;
    let outcome = run(&mut store, id, &control);
    let last = match &outcome {
        Ok(code) => Event::Exited { code: *code },
        Err(error) => Event::Failed { code: lifecycle::start_code(error), message: error.to_string() },
    };
    if tell(&control, &last).is_err() {
        // Nobody is there any more to take it back. A mount of our own would hold its directory.
        unmount_views(&store.layout().containers().join(id));
        if Snapshot::remove(store.layout(), id).is_ok() {
            let _ = Lock::discard(store.layout(), id);
        }
    }
    drop(lock);
    outcome.map(drop)
}

fn unmount_views(dir: &Path) {
    for n in 0.. {
        let root = dir.join(format!("view{n}")).join("root");
        if nix::mount::umount2(&root, nix::mount::MntFlags::MNT_DETACH).is_err() {
            return;
        }
    }
}

fn tell(control: &OwnedFd, event: &Event) -> io::Result<()> {
    protocol::send_message(control.as_fd(), &event.encode(), MsgFlags::MSG_NOSIGNAL)
}

/// Removes the step's cgroup, and whoever is in it, however its run ends.
struct Guard<'a>(&'a mut Store, &'a Container, Option<Cgroup>);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if let Some(cgroup) = self.2.take() {
            let _ = cgroup.kill();
            let _ = cgroup.remove();
        }
        let _ = network::leave(self.0, self.1);
    }
}

fn run(store: &mut Store, id: &str, control: &OwnedFd) -> Result<i32, Error> {
    let layout = store.layout().clone();
    let path = layout.containers().join(id).join(PLAN);
    let text = fs::read(&path).at("read", &path)?;
    let plan: Plan =
        serde_json::from_slice(&text).map_err(|source| Error::Record { id: id.to_owned(), source })?;
    let mut record = plan.record;
    let views = plan.views.iter().enumerate();
    let mounts = views.map(|(n, view)| mount_view(&layout, id, n, view)).collect::<Result<Vec<_>, _>>()?;
    record.mounts.extend(mounts);
    let container = Container {
        id: id.to_owned(),
        name: id[..12].to_owned(),
        image: None,
        created: super::log::now(),
        record: Box::new(record),
        state: State::default(),
    };
    let built = spec::build(store, &container)?;
    let snapshot = Snapshot::open(&layout, id, &container.record.chain).volatile(true);
    let (cgroup, warnings) = Cgroup::create(&container.record.cgroup_parent, id, built.resources())?;
    let guard = Guard(store, &container, Some(cgroup));
    for warning in built.warnings.iter().cloned().chain(warnings.iter().map(ToString::to_string)) {
        let _ = tell(control, &Event::Warning(warning));
    }
    let cgroup = guard.2.as_ref().expect("the guard holds it until dropped");
    let attach = cgroup.attach()?;
    let pipe = || nix::unistd::pipe2(OFlag::O_CLOEXEC).at("pipe2", Path::new(id));
    let (out, output) = pipe()?;
    let (err, error) = pipe()?;
    let input =
        nix::fcntl::open("/dev/null", OFlag::O_RDONLY | OFlag::O_CLOEXEC, nix::sys::stat::Mode::empty())
            .at("open", Path::new("/dev/null"))?;
    let launch = runtime::Launch {
        id,
        spec: &built.spec,
        bundle: &layout.containers().join(id),
        rootfs: runtime::Rootfs::Overlay(&snapshot),
        shm_of: None,
        fresh: runtime::Fresh::default(),
        cgroup: Some(&attach),
        stdio: runtime::Stdio::Fds { input, output, error },
        preserve_fds: 0,
        default_rlimits: &[],
        pivot: true,
        gate: runtime::Gate::Init,
        init: false,
    };
    let init = runtime::create(&launch)?;
    drop(launch);
    let pidfd = init.clone_pidfd()?;
    let _ports = network::join(guard.0, &container, init.pid().as_raw())?;
    init.start()?;
    let code = serve(&pidfd, control, cgroup, [Some(out), Some(err)])?;
    drop(guard);
    Ok(code)
}

/// Passes output on until process 1 has ended and nobody can write any more.
fn serve(
    pidfd: &OwnedFd,
    control: &OwnedFd,
    cgroup: &Cgroup,
    mut streams: [Option<OwnedFd>; 2],
) -> Result<i32, Error> {
    let mut buffer = vec![0_u8; CHUNK];
    let mut code = None;
    let mut gone = false;
    while code.is_none() || streams.iter().any(Option::is_some) {
        let mut fds = Vec::with_capacity(4);
        let mut who = Vec::with_capacity(4);
        for (n, stream) in streams.iter().enumerate() {
            if let Some(fd) = stream {
                fds.push(PollFd::new(fd.as_fd(), PollFlags::POLLIN));
                who.push(n);
            }
        }
        if code.is_none() {
            fds.push(PollFd::new(pidfd.as_fd(), PollFlags::POLLIN));
            who.push(2);
        }
        if !gone {
            fds.push(PollFd::new(control.as_fd(), PollFlags::POLLIN));
            who.push(3);
        }
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno).at("poll", Path::new("step")),
        }
        let ready: Vec<usize> =
            fds.iter().zip(&who).filter(|(fd, _)| fd.any().unwrap_or(true)).map(|(_, who)| *who).collect();
        drop(fds);
        for who in ready {
            match who {
                2 => {
                    code = Some(super::exec::exit_code(pidfd).at("waitid", Path::new("step"))?);
                    // Whoever it left behind must not hold its output open.
                    let _ = cgroup.kill();
                }
                3 => {
                    // The build has nothing to say but that it is gone.
                    gone = true;
                    let _ = cgroup.kill();
                }
                n => {
                    let Some(fd) = &streams[n] else { continue };
                    match nix::unistd::read(fd.as_fd(), &mut buffer) {
                        Ok(0) => streams[n] = None,
                        Ok(length) => {
                            let data = buffer[..length].to_vec();
                            let stream = if n == 0 { Stream::Stdout } else { Stream::Stderr };
                            let event = match stream {
                                Stream::Stdout => Event::Stdout(data),
                                Stream::Stderr => Event::Stderr(data),
                            };
                            if !gone && tell(control, &event).is_err() {
                                gone = true;
                                let _ = cgroup.kill();
                            }
                        }
                        Err(Errno::EAGAIN | Errno::EINTR) => {}
                        Err(errno) => return Err(errno).at("read", Path::new("step")),
                    }
                }
            }
        }
    }
    Ok(code.unwrap_or_default())
}

/// Mounts files of a stage or image in a mount namespace of our own, which the step's is a copy of, and says
/// what of them is to be bound where.
///
/// The path is resolved by the kernel with the mount as the root, and what is bound is what that led to, by its
/// own name: a link of an image leads nowhere else.
fn mount_view(layout: &Layout, id: &str, n: usize, view: &View) -> Result<MountPoint, Error> {
    let dir = layout.containers().join(id).join(format!("view{n}"));
    let root = dir.join("root");
    fs::create_dir(&dir).at("mkdir", &dir)?;
    fs::create_dir(&root).at("mkdir", &root)?;
    let snapshot = Snapshot::prepare_at(&dir, layout, &view.chain)?.volatile(true);
    kernel::unshare(libc::CLONE_NEWNS).at("unshare", &dir)?;
    nix::mount::mount(
        None::<&str>,
        "/",
        None::<&str>,
        nix::mount::MsFlags::MS_PRIVATE | nix::mount::MsFlags::MS_REC,
        None::<&str>,
    )
    .at("make private", Path::new("/"))?;
    let mounted = snapshot.mount()?;
    let place = nix::fcntl::open(
        &root,
        OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
        nix::sys::stat::Mode::empty(),
    )
    .at("open", &root)?;
    kernel::move_mount(mounted.as_fd(), place.as_fd()).at("move_mount", &root)?;
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let relative = view.source.strip_prefix("/").unwrap_or(&view.source);
    let relative = if relative.as_os_str().is_empty() { Path::new(".") } else { relative };
    let found = openat2(&mounted, relative, how).at("open", &view.source)?;
    let source =
        fs::read_link(format!("/proc/self/fd/{}", found.as_raw_fd())).at("readlink", &view.source)?;
    if !source.starts_with(&root) {
        return Err(io::Error::from(io::ErrorKind::NotFound)).at("open", &view.source);
    }
    Ok(MountPoint {
        kind: "bind".into(),
        source: String::from_utf8(source.as_os_str().as_bytes().to_vec())
            .map_err(io::Error::other)
            .at("bind mount", &view.source)?,
        destination: view.target.clone(),
        rw: view.writable,
        propagation: "rprivate".into(),
        ..MountPoint::default()
    })
}
