//! The embedded resolver: one small process for each network with names, on the bridge's own address.
//!
//! Why not 127.0.0.11 inside each container as Docker has it: that takes a socket per container held by a
//! long-lived process, which keeps the container's namespace alive, and rewriting rules inside it. A
//! listener on the gateway serves every container of the network, present and future, and knows by the
//! source address, which the bridge's rules vouch for, who asks.
//!
//! How it lives without a daemon: whoever starts the first container binds the sockets, takes a lock and
//! hands both to the process, so that a port in use is an error before the container starts, and
//! queries wait in the sockets until it is ready. Whoever releases the last endpoint ends it and waits until
//! it has ended, for the next start wants the same sockets. The lock is the proof of life, and the pid in the
//! locked file is whose; it is written before the program is executed, since a container can be over sooner
//! than its resolver has begun. What it answers it reads from the database, anew whenever another process
//! has changed that.
//!
//! Forwarding blocks a thread per question in flight. The number of threads is bounded, for each asker and
//! for all; what comes above it is answered with a failure instead of being queued. Connections, which a
//! client may hold without a word, have places of their own and take none from questions.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::dns::{self, Directory, Outcome, Resident, Transport};
use super::model::{self, Network};
use super::{Error, HostLock, background, endpoint, files, query};
use crate::store::{Layout, Store};

const PORT: u16 = 53;
/// Questions in flight to name servers at once, and as many connections.
const WORKERS: usize = 64;
/// Of them, one address's.
const SHARE: usize = 8;
/// How long one name server has to answer; the C library waits five seconds for us.
const PATIENCE: Duration = Duration::from_millis(1800);
/// How long a client may hold a connection without a word.
const IDLE: Duration = Duration::from_secs(10);

/// The sockets a resolver listens on.
#[derive(Debug)]
pub(super) struct Listeners {
    udp: Vec<UdpSocket>,
    tcp: Vec<TcpListener>,
}

fn lock_path(layout: &Layout, network: &Network) -> PathBuf {
    layout.run_root.join(format!("resolver-{}", &network.id[..12]))
}

/// The address containers of a network ask, on networks with names.
pub fn address(network: &Network) -> Option<IpAddr> {
    if network.resolves_names() { network.v4.map(|p| p.gateway) } else { None }
}

pub(super) fn listen(network: &Network) -> Result<Listeners, Error> {
    let mut listeners = Listeners { udp: Vec::new(), tcp: Vec::new() };
    for address in [network.v4, network.v6].into_iter().flatten().map(|p| p.gateway) {
        let on = SocketAddr::new(address, PORT);
        let fail = |source| Error::Kernel { call: "bind resolver", on: on.to_string(), source };
        listeners.udp.push(UdpSocket::bind(on).map_err(fail)?);
        listeners.tcp.push(TcpListener::bind(on).map_err(fail)?);
    }
    Ok(listeners)
}

/// Makes sure that a network with names has a resolver. `program` is the binary and the words that lead to
/// [`serve`]; the network's id and the descriptors are appended to them.
pub fn start_resolver(store: &Store, network: &Network, mut program: Command) -> Result<(), Error> {
    if address(network).is_none() {
        return Ok(());
    }
    let _lock = HostLock::take()?;
    let Some(held) = background::lock(&lock_path(store.layout(), network))? else { return Ok(()) };
    let listeners = listen(network)?;
    let udp = listeners.udp.iter().map(std::os::fd::AsRawFd::as_raw_fd);
    let sockets: Vec<RawFd> = udp.chain(listeners.tcp.iter().map(std::os::fd::AsRawFd::as_raw_fd)).collect();
    program.arg(&network.id);
    background::spawn(program, &held, &sockets).map_err(|source| Error::Kernel {
        call: "spawn",
        on: "resolver".into(),
        source,
    })
    // Our copies close here; the lock lives on in the child's.
}

/// Ends a network's resolver. The caller holds the host's lock and has seen that no endpoint is left.
pub(super) fn stop(layout: &Layout, network: &Network) -> Result<(), Error> {
    background::stop(&lock_path(layout, network))
}

/// The resolver process. `arguments` are the network's id and the descriptors that [`start_resolver`] appended.
/// Returns only when it cannot begin.
pub fn serve(layout: &Layout, arguments: &[String]) -> Result<std::convert::Infallible, Error> {
    let wrong = || Error::Kernel {
        call: "resolver",
        on: "arguments".into(),
        source: io::Error::from(io::ErrorKind::InvalidInput),
    };
    let [id, held, sockets @ ..] = arguments else { return Err(wrong()) };
    let fds: Vec<RawFd> = sockets.iter().filter_map(|text| text.parse().ok()).collect();
    let held: RawFd = held.parse().map_err(|_| wrong())?;
    if fds.is_empty()
        || fds.len() != sockets.len()
        || !fds.len().is_multiple_of(2)
        || fds.iter().any(|&fd| fd < 3)
        || held < 3
    {
        return Err(wrong());
    }
    // SAFETY: start_resolver made these descriptors for this process and nothing else here owns them.
    let own = |fd: RawFd| unsafe { OwnedFd::from_raw_fd(fd) };
    // Held until the end, never read: the pid in it was written before this program began.
    let _lock = own(held);
    let (udp, tcp) = fds.split_at(fds.len() / 2);
    let listeners = Listeners {
        udp: udp.iter().map(|&fd| UdpSocket::from(own(fd))).collect(),
        tcp: tcp.iter().map(|&fd| TcpListener::from(own(fd))).collect(),
    };
    run(layout, id, listeners)
}

/// Serves a network for ever: a thread per socket, each with its own connection to the database.
pub(super) fn run(
    layout: &Layout,
    network: &str,
    listeners: Listeners,
) -> Result<std::convert::Infallible, Error> {
    let (questions, connections) = (Arc::new(Places::default()), Arc::new(Places::default()));
    let own: Arc<Vec<IpAddr>> =
        Arc::new(listeners.udp.iter().filter_map(|s| s.local_addr().ok()).map(|a| a.ip()).collect());
    let mut threads = Vec::new();
    for socket in listeners.udp {
        let mut view = View::open(layout, network, &own)?;
        let places = questions.clone();
        threads.push(std::thread::spawn(move || serve_udp(&Arc::new(socket), &mut view, &places)));
    }
    for socket in listeners.tcp {
        let (layout, network, own) = (layout.clone(), network.to_owned(), own.clone());
        let places = connections.clone();
        threads.push(std::thread::spawn(move || serve_tcp(&socket, &layout, &network, &own, &places)));
    }
    for thread in threads {
        let _ = thread.join();
    }
    Err(Error::Kernel {
        call: "recv",
        on: "resolver".into(),
        source: io::ErrorKind::ConnectionAborted.into(),
    })
}

/// The database as one thread sees it.
struct View {
    store: Store,
    network: String,
    own: Arc<Vec<IpAddr>>,
    version: i64,
    directory: Directory,
}

impl View {
    fn open(layout: &Layout, network: &str, own: &Arc<Vec<IpAddr>>) -> Result<Self, Error> {
        let store = Store::open(layout.clone())?;
        let mut view = Self {
            store,
            network: network.to_owned(),
            own: own.clone(),
            version: -1,
            directory: Directory::default(),
        };
        view.refresh()?;
        Ok(view)
    }

    /// Reads the directory again if another process has committed since.
    fn refresh(&mut self) -> Result<(), Error> {
        let version = query(&self.store, |db| db.query_row("PRAGMA data_version", [], |r| r.get(0)))?;
        if version != self.version {
            self.directory = Directory::new(residents(&self.store)?);
            self.version = version;
        }
        Ok(())
    }

    /// What to do with a query, and where to forward it.
    fn decide(&mut self, query: &[u8], from: IpAddr, transport: Transport) -> (Outcome, Vec<IpAddr>) {
        // A database that cannot be read now may be later: the last directory is better than none.
        let _ = self.refresh();
        let Some(asker) = self.directory.asker(&self.network, from) else {
            return (Outcome::Ignore, Vec::new());
        };
        let outcome = dns::answer(query, &self.directory, asker, transport);
        let servers = match outcome {
            Outcome::Forward => {
                upstream(&self.store, &self.network, &asker.container, &self.own).unwrap_or_default()
            }
            _ => Vec::new(),
        };
        (outcome, servers)
    }
}

/// Everyone on a network with names.
fn residents(store: &Store) -> Result<Vec<Resident>, Error> {
    let mut residents = Vec::new();
    for network in model::list(store)?.into_iter().filter(Network::resolves_names) {
        for member in endpoint::members(store, &network.id)? {
            let links = query(store, |db| {
                db.prepare_cached("SELECT alias, target FROM endpoint_link WHERE endpoint = ?1")?
                    .query_map([&member.id], |r| Ok((r.get(0)?, r.get(1)?)))?
                    .collect::<rusqlite::Result<Vec<(String, String)>>>()
            })?;
            let short = member.container.get(..12).unwrap_or(&member.container).to_owned();
            residents.push(Resident {
                network: network.id.clone(),
                network_name: network.name.clone(),
                names: [member.name.clone(), short].into_iter().chain(member.aliases).collect(),
                name: member.name,
                container: member.container,
                addresses: [member.ip4, member.ip6].into_iter().flatten().collect(),
                links: links
                    .into_iter()
                    .flat_map(|(alias, target)| {
                        let one = move |name: &str| (name.to_owned(), target.clone());
                        alias.split_whitespace().map(one).collect::<Vec<_>>()
                    })
                    .collect(),
            });
        }
    }
    Ok(residents)
}

/// The name servers a container's questions go to: its own, or else the host's. None from an internal
/// network, whose names would be a way out, and never ourselves.
fn upstream(store: &Store, network: &str, container: &str, own: &[IpAddr]) -> Result<Vec<IpAddr>, Error> {
    if model::find(store, network)?.internal {
        return Ok(Vec::new());
    }
    let mut servers: Vec<IpAddr> = query(store, |db| {
        db.prepare_cached(
            "SELECT server FROM endpoint_upstream u JOIN endpoint e ON e.id = u.endpoint
             WHERE e.container = ?1 AND e.network = ?2 ORDER BY position",
        )?
        .query_map([container, network], |r| r.get::<_, String>(0))?
        .collect::<rusqlite::Result<Vec<String>>>()
    })?
    .into_iter()
    .filter_map(|text| text.parse().ok())
    .collect();
    if servers.is_empty() {
        let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        servers = files::ResolvConf::parse(&text).nameservers;
    }
    servers.retain(|server| !own.contains(server));
    servers.truncate(3);
    Ok(servers)
}

/// Places among the workers.
#[derive(Debug, Default)]
struct Places(Mutex<HashMap<IpAddr, usize>>);

/// One of them, given back when dropped.
#[derive(Debug)]
struct Place {
    of: Arc<Places>,
    asker: IpAddr,
}

impl Places {
    /// A place for somebody who has not got his share, while there are any.
    fn take(self: &Arc<Self>, asker: IpAddr) -> Option<Place> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody is in the map without a place, so it is no longer than there are places.
        if taken.values().sum::<usize>() >= WORKERS || taken.get(&asker).is_some_and(|own| *own >= SHARE) {
            return None;
        }
        *taken.entry(asker).or_default() += 1;
        Some(Place { of: Arc::clone(self), asker })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.of.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut own) = taken.entry(self.asker) {
            *own.get_mut() -= 1;
            if *own.get() == 0 {
                own.remove();
            }
        }
    }
}

fn worker(work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    std::thread::Builder::new().stack_size(128 * 1024).spawn(work).map(drop)
}

fn serve_udp(socket: &Arc<UdpSocket>, view: &mut View, places: &Arc<Places>) {
    // One byte more than any query we look at: a longer datagram is cut, found malformed and refused.
    let mut buffer = vec![0u8; 4097];
    loop {
        let (length, from) = match socket.recv_from(&mut buffer) {
            Ok(got) => got,
            // ICMP errors of earlier answers arrive here.
            Err(e) if matches!(e.kind(), io::ErrorKind::Interrupted | io::ErrorKind::ConnectionRefused) => {
                continue;
            }
            Err(_) => return,
        };
        let query = &buffer[..length];
        match view.decide(query, from.ip(), Transport::Udp) {
            (Outcome::Answer(reply), _) => drop(socket.send_to(&reply, from)),
            (Outcome::Ignore, _) => {}
            (Outcome::Forward, servers) => {
                let (query, socket) = (query.to_vec(), socket.clone());
                let fallback = dns::failure(&query);
                let refuse = move |socket: &UdpSocket| fallback.map(|reply| socket.send_to(&reply, from));
                let Some(place) = places.take(from.ip()) else {
                    refuse(&socket);
                    continue;
                };
                let started = worker(move || {
                    let _place = place;
                    match servers.iter().find_map(|&server| forward_udp(server, &query)) {
                        Some(reply) => drop(socket.send_to(&reply, from)),
                        None => drop(refuse(&socket)),
                    }
                });
                // Without a thread the asker waits and asks again.
                drop(started);
            }
        }
    }
}

/// Asks one name server over UDP, from a port of its own.
fn forward_udp(server: IpAddr, query: &[u8]) -> Option<Vec<u8>> {
    let any: IpAddr =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect((server, PORT)).ok()?;
    socket.set_read_timeout(Some(PATIENCE)).ok()?;
    // The client's id is known to the client's neighbours; the name server gets one of our own.
    let mut own = query.to_vec();
    super::random(own.get_mut(..2)?).ok()?;
    socket.send(&own).ok()?;
    let mut buffer = vec![0u8; 65535];
    // Datagrams that answer something else are passed over, a few of them.
    for _ in 0..8 {
        let length = socket.recv(&mut buffer).ok()?;
        if dns::answers(&buffer[..length], &own) {
            buffer.truncate(length);
            buffer[..2].copy_from_slice(&query[..2]);
            return Some(buffer);
        }
    }
    None
}

fn serve_tcp(
    listener: &TcpListener,
    layout: &Layout,
    network: &str,
    own: &Arc<Vec<IpAddr>>,
    places: &Arc<Places>,
) {
    for stream in listener.incoming() {
        let Ok(stream) = stream else {
            // Out of descriptors, most likely: a moment's pause instead of a busy loop.
            std::thread::sleep(Duration::from_millis(50));
            continue;
        };
        let asker = stream.peer_addr().map(|from| from.ip());
        let Some(place) = asker.ok().and_then(|asker| places.take(asker)) else { continue };
        let (layout, network, own) = (layout.clone(), network.to_owned(), own.clone());
        let started = worker(move || {
            let _place = place;
            if let Ok(mut view) = View::open(&layout, &network, &own) {
                let _ = converse_tcp(stream, &mut view);
            }
        });
        drop(started);
    }
}

fn converse_tcp(mut stream: TcpStream, view: &mut View) -> io::Result<()> {
    let from = stream.peer_addr()?.ip();
    stream.set_read_timeout(Some(IDLE))?;
    stream.set_write_timeout(Some(IDLE))?;
    // A client that has more than this to ask can connect again.
    for _ in 0..64 {
        let query = read_message(&mut stream)?;
        let reply = match view.decide(&query, from, Transport::Tcp) {
            (Outcome::Answer(reply), _) => reply,
            (Outcome::Ignore, _) => return Ok(()),
            (Outcome::Forward, servers) => {
                let reply = servers.iter().find_map(|&server| forward_tcp(server, &query).ok());
                match reply.or_else(|| dns::failure(&query)) {
                    Some(reply) => reply,
                    None => return Ok(()),
                }
            }
        };
        write_message(&mut stream, &reply)?;
    }
    Ok(())
}

fn forward_tcp(server: IpAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::new(server, PORT), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write_message(&mut stream, query)?;
    let reply = read_message(&mut stream)?;
    if dns::answers(&reply, query) { Ok(reply) } else { Err(io::ErrorKind::InvalidData.into()) }
}

fn read_message(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut length = [0u8; 2];
    stream.read_exact(&mut length)?;
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message)?;
    Ok(message)
}

fn write_message(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    stream.write_all(&[&length.to_be_bytes()[..], message].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_asker_leaves_places_to_the_others() {
        let places = Arc::new(Places::default());
        let address = |n: usize| IpAddr::V4(Ipv4Addr::from(u32::try_from(n).expect("small")));
        let mut own: Vec<_> = (0..2 * WORKERS).filter_map(|_| places.take(address(0))).collect();
        assert_eq!(own.len(), SHARE);
        assert!(places.take(address(1)).is_some(), "a neighbour gets one");
        own.pop();
        own.push(places.take(address(0)).expect("one that was given back"));
        assert!(places.take(address(0)).is_none());
        let others: Vec<_> = (1..2 * WORKERS).filter_map(|n| places.take(address(n))).collect();
        assert_eq!(own.len() + others.len(), WORKERS);
        drop((own, others));
        assert!(places.0.lock().expect("lock").is_empty(), "nobody is remembered");
    }
}
