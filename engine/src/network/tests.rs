//! Networks against the real kernel. Every test makes a network namespace its host, so that the machine's own
//! network is never touched, and containers are further namespaces with a thread in them.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd as _;
use std::time::Duration;

use super::link::{Links, inside};
use super::*;

/// A host of its own: a thread in a fresh network namespace, and a store.
fn on_a_host(name: &str, test: impl FnOnce(&mut Host) + Send + 'static) {
    let outcome = std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            if let Err(errno) = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET) {
                println!("skipped: needs a network namespace of its own ({errno})");
                return;
            }
            Links::open().and_then(|mut l| l.up("lo", 1)).expect("lo");
            // Some kernels pass bridged frames through the rules. Both must work; without is harder.
            let _ = std::fs::write("/proc/sys/net/bridge/bridge-nf-call-iptables", "0");
            let dir = tempfile::tempdir().expect("tempdir");
            let layout = Layout { root: dir.path().join("root"), run_root: dir.path().join("run") };
            let store = Store::open(layout.clone()).expect("store");
            test(&mut Host { store, layout, netns: this_netns(), _dir: dir });
        })
        .expect("thread")
        .join();
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

struct Host {
    store: Store,
    layout: Layout,
    netns: File,
    _dir: tempfile::TempDir,
}

fn this_netns() -> File {
    File::open("/proc/thread-self/ns/net").expect("netns")
}

fn new_netns() -> File {
    std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("unshare");
        this_netns()
    })
    .join()
    .expect("thread")
}

impl Host {
    fn create(&mut self, new: &NewNetwork) -> Network {
        create(&mut self.store, new).expect("create")
    }

    fn start(&mut self, name: &str, network: &str) -> Container {
        self.start_as(Endpoint { network: network.to_owned(), ..container(name) }).expect(name)
    }

    fn start_as(&mut self, endpoint: Endpoint) -> Result<Container, Error> {
        let netns = new_netns();
        let attached = attach(&mut self.store, &endpoint, netns.as_fd())?;
        Ok(Container { id: endpoint.container, netns, attached })
    }

    fn links() -> Vec<String> {
        let mut names: Vec<String> =
            Links::open().and_then(|mut l| l.all()).expect("links").into_iter().map(|(n, ..)| n).collect();
        names.retain(|n| n != "lo");
        names.sort();
        names
    }

    fn table_exists(&self) -> bool {
        let settings = Settings::load(&self.layout).expect("settings");
        let probe = [(nft::Value::default().ifname("probe"), None)];
        let mut batch = nft::Batch::new(&settings.table);
        batch.add_elements("bridges", &probe);
        batch.delete_elements("bridges", &probe);
        match batch.commit() {
            Ok(()) => true,
            Err(Error::Kernel { source, .. }) if source.raw_os_error() == Some(libc::ENOENT) => false,
            Err(error) => panic!("{error}"),
        }
    }
}

struct Container {
    id: String,
    netns: File,
    attached: Attached,
}

impl Container {
    fn ip(&self) -> IpAddr {
        self.attached.ip4.expect("address").0
    }
}

fn container(name: &str) -> Endpoint {
    Endpoint { container: random_id().expect("id"), name: name.to_owned(), ..Endpoint::default() }
}

fn subnet_of(subnet: &str) -> Vec<IpamConfig> {
    vec![IpamConfig { subnet: Some(subnet.to_owned()), ..IpamConfig::default() }]
}

fn named(name: &str, subnet: &str) -> NewNetwork {
    NewNetwork { name: name.to_owned(), ipam: subnet_of(subnet), ..NewNetwork::default() }
}

fn tcp(container_port: u16, host: Option<&str>, port: Option<u16>) -> PortSpec {
    PortSpec {
        container_port,
        protocol: Protocol::Tcp,
        host: host.map(|h| h.parse().expect("address")),
        ports: port.map(|p| (p, p)),
    }
}

/// Serves one connection after another: each gets the client's address as seen there.
fn serve(netns: &File, port: u16) {
    let listener =
        inside(netns.as_fd(), || Ok(TcpListener::bind(("0.0.0.0", port)).expect("listen"))).expect("inside");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let peer = stream.peer_addr().map(|a| a.ip().to_string()).unwrap_or_default();
            let _ = stream.write_all(peer.as_bytes());
        }
    });
}

/// Connects from a namespace; what the server said, or `None` when nobody answers.
fn ask(netns: &File, to: (IpAddr, u16)) -> Option<String> {
    inside(netns.as_fd(), || {
        let stream = TcpStream::connect_timeout(&SocketAddr::from(to), Duration::from_secs(1));
        Ok(stream.ok().map(|mut stream| {
            let mut answer = String::new();
            stream.set_read_timeout(Some(Duration::from_secs(2))).expect("timeout");
            let _ = stream.read_to_string(&mut answer);
            answer
        }))
    })
    .expect("inside")
}

/// The same, where an answer is expected: a busy machine may need more than one try.
fn reach(netns: &File, to: (IpAddr, u16)) -> Option<String> {
    (0..10).find_map(|_| ask(netns, to))
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect(text)
}

#[test]
fn containers_of_a_bridge_reach_each_other_and_nothing_remains() {
    on_a_host("bridge", |host| {
        let network = host.create(&named("front", "10.200.1.0/24"));
        let a = host.start("a", "front");
        let b = host.start("b", "front");
        assert_eq!((a.ip(), b.ip()), (ip("10.200.1.2"), ip("10.200.1.3")));
        assert_eq!(a.attached.mac, "02:42:0a:c8:01:02");
        assert_eq!(a.attached.interface, "eth0");
        serve(&b.netns, 80);
        assert_eq!(reach(&a.netns, (b.ip(), 80)).as_deref(), Some("10.200.1.2"));
        assert_eq!(reach(&host.netns, (b.ip(), 80)).as_deref(), Some("10.200.1.1"));
        let view = inspect(&host.store, &network).expect("inspect");
        assert_eq!(view.containers[&a.id].ipv4_address, "10.200.1.2/24");
        assert!(host.table_exists());

        let error = remove(&mut host.store, "front").expect_err("in use");
        assert!(matches!(error, Error::ActiveEndpoints { .. }), "{error}");
        for c in [&a, &b] {
            assert_eq!(detach(&mut host.store, &c.id, None, None).expect("detach").len(), 1);
            assert!(detach(&mut host.store, &c.id, None, None).expect("again").is_empty());
        }
        assert!(!host.table_exists());
        assert_eq!(Host::links(), [format!("br-{}", &network.id[..12])]);
        remove(&mut host.store, &network.id[..6]).expect("remove");
        assert!(Host::links().is_empty());
    });
}

#[test]
fn the_default_bridge_comes_and_goes_with_its_containers() {
    on_a_host("default", |host| {
        let a = host.start("a", "default");
        assert_eq!(a.ip(), ip("172.17.0.2"));
        assert_eq!(Host::links().len(), 2, "{:?}", Host::links());
        detach(&mut host.store, &a.id, None, None).expect("detach");
        assert!(Host::links().is_empty(), "{:?}", Host::links());
        let error = remove(&mut host.store, "bridge").expect_err("predefined");
        assert_eq!(error.to_string(), "bridge is a pre-defined network and cannot be removed");
    });
}

#[test]
fn the_default_subnet_avoids_the_hosts_and_obeys_bip() {
    on_a_host("bip", |host| {
        let mut links = Links::open().expect("links");
        links.add_bridge("lan0", [2, 0, 0, 0, 0, 1], 1500).expect("bridge");
        let index = links.index("lan0").expect("index").expect("there");
        links.add_address("lan0", index, ip("172.17.3.4"), 16).expect("address");
        let a = host.start("a", "bridge");
        assert_eq!(a.ip(), ip("172.18.0.2"));
        detach(&mut host.store, &a.id, None, None).expect("detach");
        std::fs::write(host.layout.root.join("daemon.json"), r#"{"bip": "10.200.100.1/24"}"#).expect("write");
        let a = host.start("a", "bridge");
        assert_eq!(a.ip(), ip("10.200.100.2"));
        assert_eq!(a.attached.gateway4, Some(ip("10.200.100.1")));
    });
}

#[test]
fn published_ports_are_reached_from_the_host_and_by_hairpin() {
    on_a_host("publish", |host| {
        host.create(&named("front", "10.200.2.0/24"));
        host.create(&named("back", "10.200.3.0/24"));
        let ports = vec![tcp(80, None, Some(8080)), tcp(80, Some("127.0.0.1"), Some(9090))];
        let web =
            host.start_as(Endpoint { network: "front".into(), ports, ..container("web") }).expect("web");
        let same = host.start("same", "front");
        let other = host.start("other", "back");
        serve(&web.netns, 80);
        let gateway = ip("10.200.2.1");
        // From the host, by its own and by its loopback address.
        assert_eq!(reach(&host.netns, (gateway, 8080)).as_deref(), Some("10.200.2.1"));
        assert_eq!(reach(&host.netns, (ip("127.0.0.1"), 8080)).as_deref(), Some("10.200.2.1"));
        assert_eq!(reach(&host.netns, (ip("127.0.0.1"), 9090)).as_deref(), Some("10.200.2.1"));
        assert_eq!(ask(&host.netns, (gateway, 9090)), None);
        // From the same network through the host, from itself, and from another network with its own address.
        assert_eq!(reach(&same.netns, (gateway, 8080)).as_deref(), Some("10.200.2.1"));
        assert_eq!(reach(&web.netns, (gateway, 8080)).as_deref(), Some("10.200.2.1"));
        assert_eq!(reach(&other.netns, (ip("10.200.3.1"), 8080)).as_deref(), Some("10.200.3.2"));
        // Not published: closed between networks.
        serve(&web.netns, 81);
        assert_eq!(ask(&other.netns, (web.ip(), 81)), None);
        assert_eq!(reach(&same.netns, (web.ip(), 81)).as_deref(), Some("10.200.2.3"));
        // Taken.
        let again =
            Endpoint { network: "back".into(), ports: vec![tcp(80, None, Some(8080))], ..container("again") };
        let error = host.start_as(again).err().expect("taken");
        assert!(matches!(error, Error::PortAllocated { port: 8080, .. }), "{error}");
        let process = TcpListener::bind("0.0.0.0:8081").expect("listen");
        let again =
            Endpoint { network: "back".into(), ports: vec![tcp(80, None, Some(8081))], ..container("again") };
        let error = host.start_as(again).err().expect("taken");
        assert!(matches!(error, Error::PortBind { port: 8081, .. }), "{error}");
        drop(process);
        assert_eq!(
            members(&host.store, &find(&host.store, "back").expect("back").id).expect("members").len(),
            1
        );
        // Any port.
        let any = Endpoint { network: "back".into(), ports: vec![tcp(80, None, None)], ..container("any") };
        let any = host.start_as(any).expect("any");
        assert_ne!(any.attached.ports[0].host_port, 0);
        // Released with the container.
        drop(web.attached.held);
        detach(&mut host.store, &web.id, None, None).expect("detach");
        assert_eq!(ask(&host.netns, (ip("127.0.0.1"), 8080)), None);
    });
}

#[test]
fn networks_are_closed_to_each_other_and_connect_opens_one_path() {
    on_a_host("isolation", |host| {
        host.create(&named("front", "10.200.4.0/24"));
        let back = host.create(&named("back", "10.200.5.0/24"));
        let a = host.start("a", "front");
        let b = host.start("b", "back");
        let c = host.start("c", "back");
        for s in [&b, &c] {
            serve(&s.netns, 80);
        }
        assert_eq!(ask(&a.netns, (b.ip(), 80)), None);
        let wanted = Endpoint {
            container: a.id.clone(),
            name: "a".into(),
            network: "back".into(),
            ..Endpoint::default()
        };
        let second = attach(&mut host.store, &wanted, a.netns.as_fd()).expect("connect");
        assert_eq!(second.interface, "eth1");
        assert_eq!(reach(&a.netns, (b.ip(), 80)).as_deref(), Some("10.200.5.4"));
        let error = attach(&mut host.store, &wanted, a.netns.as_fd()).expect_err("twice");
        assert!(matches!(error, Error::AlreadyConnected { .. }), "{error}");
        serve(&a.netns, 80);
        assert_eq!(ask(&b.netns, (a.ip(), 80)), None, "b still cannot reach a's first address");
        // Disconnect closes it.
        detach(&mut host.store, &a.id, Some("back"), Some(a.netns.as_fd())).expect("disconnect");
        assert_eq!(ask(&a.netns, (b.ip(), 80)), None);
        assert_eq!(members(&host.store, &back.id).expect("members").len(), 2);
    });
}

#[test]
fn an_address_added_by_hand_does_not_cross() {
    on_a_host("spoof", |host| {
        let front = host.create(&named("front", "10.200.6.0/24"));
        host.create(&named("back", "10.200.7.0/24"));
        let web = host
            .start_as(Endpoint {
                network: "front".into(),
                ports: vec![tcp(80, None, Some(8080))],
                ..container("web")
            })
            .expect("web");
        let evil = host.start("evil", "back");
        serve(&web.netns, 80);
        let mut links = inside(evil.netns.as_fd(), Links::open).expect("links");
        let index = links.index("eth0").expect("index").expect("eth0");
        // An address of the other network's, with its on-link route.
        links.add_address("eth0", index, ip("10.200.6.9"), 24).expect("address");
        assert_eq!(ask(&evil.netns, (web.ip(), 80)), None);
        // An address of its own network that is not its own, towards a published port.
        let from = |source: &str| {
            inside(evil.netns.as_fd(), || {
                let socket = UdpSocket::bind((source, 0)).expect("bind");
                socket.send_to(b"x", ("10.200.7.1", 5353)).expect("send");
                Ok(())
            })
            .expect("inside");
        };
        let web_udp =
            inside(web.netns.as_fd(), || Ok(UdpSocket::bind("0.0.0.0:53").expect("bind"))).expect("udp");
        web_udp.set_read_timeout(Some(Duration::from_millis(300))).expect("timeout");
        let udp =
            PortSpec { container_port: 53, protocol: Protocol::Udp, host: None, ports: Some((5353, 5353)) };
        detach(&mut host.store, &web.id, None, None).expect("detach");
        let wanted = Endpoint {
            container: web.id.clone(),
            name: "web".into(),
            network: front.id,
            ports: vec![udp],
            ..Endpoint::default()
        };
        attach(&mut host.store, &wanted, web.netns.as_fd()).expect("attach");
        let mut buffer = [0; 8];
        let peer = (0..10).find_map(|_| {
            from("10.200.7.2");
            web_udp.recv_from(&mut buffer).ok().map(|(_, peer)| peer.ip())
        });
        assert_eq!(peer, Some(ip("10.200.7.2")), "the true address passes");
        links.add_address("eth0", index, ip("10.200.7.77"), 24).expect("address");
        from("10.200.7.77");
        web_udp.recv_from(&mut buffer).expect_err("a false one does not");
    });
}

#[test]
fn the_hosts_loopback_is_out_of_reach_for_containers() {
    on_a_host("loopback", |host| {
        host.create(&named("front", "10.200.8.0/24"));
        // Publishing turns route_localnet on; that must not open the host.
        let a = host
            .start_as(Endpoint {
                network: "front".into(),
                ports: vec![tcp(80, None, Some(8080))],
                ..container("a")
            })
            .expect("a");
        let secret = UdpSocket::bind("127.0.0.1:7777").expect("bind");
        secret.set_read_timeout(Some(Duration::from_millis(300))).expect("timeout");
        inside(a.netns.as_fd(), || {
            sysctl("net/ipv4/conf/eth0/route_localnet", "1")?;
            // 127.9.9.9 is not local here, so it is routed: to the host, which has it.
            let mut links = Links::open()?;
            let lo = links.index("lo")?.expect("lo");
            links.remove_address(lo, ip("127.0.0.1"), 8)?;
            let socket = UdpSocket::bind((a.ip(), 0)).expect("bind");
            let _ = socket.send_to(b"x", "127.0.0.1:7777");
            Ok(())
        })
        .expect("inside");
        let mut buffer = [0; 8];
        secret.recv_from(&mut buffer).expect_err("nothing arrives");
    });
}

#[test]
fn icc_false_separates_and_internal_has_no_way_out() {
    on_a_host("icc", |host| {
        let mut closed = named("closed", "10.200.9.0/24");
        closed.options.insert("com.docker.network.bridge.enable_icc".into(), "false".into());
        host.create(&closed);
        let a = host.start("a", "closed");
        let b = host.start("b", "closed");
        serve(&b.netns, 80);
        assert_eq!(ask(&a.netns, (b.ip(), 80)), None);
        assert!(reach(&host.netns, (b.ip(), 80)).is_some());
        let mut inner = named("inner", "10.200.10.0/24");
        inner.internal = true;
        host.create(&inner);
        let c = host.start("c", "inner");
        let d = host.start("d", "inner");
        serve(&d.netns, 80);
        assert!(reach(&c.netns, (d.ip(), 80)).is_some());
        assert_eq!(c.attached.gateway4, None);
        assert_eq!(ask(&c.netns, (b.ip(), 80)), None);
    });
}

#[test]
fn addresses_come_from_the_range_and_bad_ones_are_refused() {
    on_a_host("ipam", |host| {
        let ipam = vec![IpamConfig {
            subnet: Some("10.201.0.0/16".into()),
            ip_range: Some("10.201.5.0/30".into()),
            gateway: Some("10.201.5.2".into()),
        }];
        host.create(&NewNetwork { name: "br0".into(), ipam, ..NewNetwork::default() });
        let first = host.start("first", "br0");
        assert_eq!(first.ip(), ip("10.201.5.0"));
        for expected in ["10.201.5.1", "10.201.5.3"] {
            assert_eq!(host.start(expected, "br0").ip(), ip(expected));
        }
        let error =
            host.start_as(Endpoint { network: "br0".into(), ..container("full") }).err().expect("full");
        assert!(matches!(error, Error::Exhausted { version: 4, .. }), "{error}");
        let at =
            |address: &str| Endpoint { network: "br0".into(), ip: Some(ip(address)), ..container("fixed") };
        assert_eq!(host.start_as(at("10.201.77.7")).expect("fixed").ip(), ip("10.201.77.7"));
        for (address, wanted) in [
            ("10.201.77.7", "in use"),
            ("10.201.5.2", "in use"),
            ("10.202.0.1", "Invalid"),
            ("10.201.255.255", "Invalid"),
        ] {
            let error = host.start_as(at(address)).err().expect(address).to_string();
            assert!(error.contains(wanted), "{error}");
        }
        // Freed addresses are given again.
        detach(&mut host.store, &first.id, None, None).expect("detach");
        assert_eq!(host.start("next", "br0").ip(), ip("10.201.5.0"));

        let refuse = |host: &mut Host, new: &NewNetwork| {
            create(&mut host.store, new).expect_err("refused").to_string()
        };
        assert!(refuse(host, &named("x", "10.201.4.0/24")).contains("overlaps"));
        assert!(refuse(host, &named("br0", "10.202.0.0/24")).contains("already exists"));
        assert!(refuse(host, &named("x y", "10.202.0.0/24")).contains("invalid network name"));
        assert!(refuse(host, &named("x", "10.202.0.0/31")).contains("too small"));
        assert!(refuse(host, &named("x", "10.202.0")).contains("invalid CIDR"));
        let mut outside = named("x", "10.202.0.0/24");
        outside.ipam[0].gateway = Some("10.203.0.1".into());
        assert!(refuse(host, &outside).contains("no matching subnet for gateway"));
        let mut odd = named("x", "10.202.0.0/24");
        odd.driver = "overlay".into();
        assert!(refuse(host, &odd).contains("plugin"));
        let mut odd = named("x", "10.202.0.0/24");
        odd.options.insert("com.docker.network.bridge.name".into(), "a/b".into());
        assert!(refuse(host, &odd).contains("invalid value"));
        assert_eq!(list(&host.store).expect("list").len(), 4);
    });
}

#[test]
fn ipv6_addresses_are_given_and_published() {
    on_a_host("ipv6", |host| {
        let mut new = named("six", "10.200.11.0/24");
        new.ipv6 = true;
        new.ipam.extend(subnet_of("fd00:200:11::/64"));
        host.create(&new);
        let a = host
            .start_as(Endpoint {
                network: "six".into(),
                ports: vec![tcp(80, None, Some(8080))],
                ..container("a")
            })
            .expect("a");
        assert_eq!(a.attached.ip6, Some((ip("fd00:200:11::2"), 64)));
        let listener =
            inside(a.netns.as_fd(), || Ok(TcpListener::bind("[::]:80").expect("listen"))).expect("inside");
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = (&stream).write_all(b"six");
            }
        });
        assert_eq!(reach(&host.netns, (ip("fd00:200:11::1"), 8080)).as_deref(), Some("six"));
        let b = host.start("b", "six");
        assert_eq!(reach(&b.netns, (ip("fd00:200:11::2"), 80)).as_deref(), Some("six"));
    });
}

#[test]
fn what_the_dead_held_is_swept_and_what_a_flush_took_is_reloaded() {
    on_a_host("sweep", |host| {
        host.create(&named("front", "10.200.12.0/24"));
        let dead = host
            .start_as(Endpoint {
                network: "front".into(),
                ports: vec![tcp(80, None, Some(8080))],
                ..container("dead")
            })
            .expect("dead");
        let alive = host
            .start_as(Endpoint {
                network: "front".into(),
                ports: vec![tcp(80, None, Some(8090))],
                ..container("alive")
            })
            .expect("alive");
        serve(&alive.netns, 80);
        let id = dead.id.clone();
        drop(dead);
        assert_eq!(sweep(&mut host.store, |c| c != id).expect("sweep"), 1);
        assert_eq!(sweep(&mut host.store, |c| c != id).expect("sweep"), 0);
        host.start_as(Endpoint {
            network: "front".into(),
            ports: vec![tcp(80, None, Some(8080))],
            ..container("new")
        })
        .expect("address and port are free");

        let settings = Settings::load(&host.layout).expect("settings");
        rules::remove(&settings.table).expect("flush");
        let bridge = find(&host.store, "front").expect("front").bridge_name(&settings);
        Links::open().and_then(|mut l| l.remove(&bridge)).expect("bridge");
        assert_eq!(ask(&host.netns, (ip("127.0.0.1"), 8090)), None);
        reload(&mut host.store).expect("reload");
        assert_eq!(reach(&host.netns, (ip("127.0.0.1"), 8090)).as_deref(), Some("10.200.12.1"));
        // A start after a flush makes the table whole again by itself.
        rules::remove(&settings.table).expect("flush");
        host.start("later", "front");
        assert_eq!(reach(&host.netns, (ip("127.0.0.1"), 8090)).as_deref(), Some("10.200.12.1"));
    });
}

#[test]
fn a_hundred_containers_start_at_once() {
    on_a_host("hundred", |host| {
        host.create(&named("front", "10.200.13.0/24"));
        let starts: Vec<_> = (0..100)
            .map(|n| {
                let layout = host.layout.clone();
                let home = host.netns.try_clone().expect("clone");
                std::thread::spawn(move || {
                    let netns = new_netns();
                    nix::sched::setns(home.as_fd(), nix::sched::CloneFlags::CLONE_NEWNET).expect("setns");
                    let mut store = Store::open(layout).expect("store");
                    let wanted = Endpoint {
                        network: "front".into(),
                        ports: vec![tcp(80, None, None)],
                        ..container(&format!("c{n}"))
                    };
                    let attached = attach(&mut store, &wanted, netns.as_fd()).expect("attach");
                    (wanted.container, netns, attached)
                })
            })
            .collect();
        let started: Vec<_> = starts.into_iter().map(|s| s.join().expect("thread")).collect();
        let addresses: std::collections::BTreeSet<IpAddr> =
            started.iter().filter_map(|(_, _, a)| Some(a.ip4?.0)).collect();
        assert_eq!(addresses.len(), 100);
        for (_, netns, attached) in &started {
            serve(netns, 80);
            let port = attached.ports[0].host_port;
            assert_eq!(reach(&host.netns, (ip("127.0.0.1"), port)).as_deref(), Some("10.200.13.1"));
        }
        for (id, ..) in &started {
            detach(&mut host.store, id, None, None).expect("detach");
        }
        assert!(!host.table_exists());
    });
}

#[test]
fn links_follow_a_restart() {
    on_a_host("links", |host| {
        let db = host.start("db", "bridge");
        let links = vec![Link::parse("db:sql mysql").expect("link")];
        let web =
            host.start_as(Endpoint { network: "bridge".into(), links, ..container("web") }).expect("web");
        let names = &web.attached.links[0].names;
        assert_eq!(names, &["sql", "mysql", &db.id[..12], "db"].map(str::to_owned));
        let dir = host.layout.etc(&web.id);
        std::fs::create_dir_all(&dir).expect("mkdir");
        let text = hosts("web", "", &[web.ip()], false, &[], &web.attached.links);
        std::fs::write(dir.join("hosts"), &text).expect("write");
        // It comes back with another address, since its own has been taken meanwhile.
        detach(&mut host.store, &db.id, None, None).expect("stop");
        let squatter = host.start("squatter", "bridge");
        assert_eq!(squatter.ip(), db.ip());
        let again = Endpoint {
            network: "bridge".into(),
            container: db.id.clone(),
            name: "db".into(),
            ..Endpoint::default()
        };
        let again = host.start_as(again).expect("restart");
        let text = std::fs::read_to_string(dir.join("hosts")).expect("read");
        assert!(text.contains(&format!("{}\tsql mysql", again.ip())), "{text}");
        let error = host
            .start_as(Endpoint {
                network: "bridge".into(),
                links: vec![Link::parse("gone").expect("link")],
                ..container("x")
            })
            .err()
            .expect("no target");
        assert!(matches!(error, Error::LinkTarget(_)), "{error}");
    });
}

#[test]
fn a_macvlan_shares_its_parents_link() {
    on_a_host("macvlan", |host| {
        let mut links = Links::open().expect("links");
        links.add_bridge("lan0", [2, 0, 0, 0, 0, 1], 1500).expect("parent");
        let lan = links.index("lan0").expect("index").expect("lan0");
        links.up("lan0", lan).expect("up");
        let neighbour = new_netns();
        let cable = link::Veth {
            host: "cable0",
            bridge: links.index("lan0").expect("index").expect("lan0"),
            group: 0,
            mtu: 1500,
            netns: neighbour.as_fd(),
            peer: "eth0",
            mac: [2, 0, 0, 0, 0, 2],
        };
        links.add_veth(&cable).expect("cable");
        let mut far = inside(neighbour.as_fd(), Links::open).expect("far");
        let index = far.index("eth0").expect("index").expect("eth0");
        far.up("eth0", index).expect("up");
        links.await_carrier("lan0").expect("carrier");
        let mut new = named("lan", "10.200.14.0/24");
        new.driver = "macvlan".into();
        assert!(matches!(create(&mut host.store, &new), Err(Error::NoParent(_))));
        new.options.insert("parent".into(), "lan0".into());
        host.create(&new);
        let a = host.start("a", "lan");
        let b = host.start("b", "lan");
        serve(&b.netns, 80);
        assert_eq!(reach(&a.netns, (b.ip(), 80)).as_deref(), Some("10.200.14.2"));
        assert!(!host.table_exists());
        for c in [a, b] {
            detach(&mut host.store, &c.id, None, None).expect("detach");
        }
        remove(&mut host.store, "lan").expect("remove");
        assert_eq!(Host::links(), ["cable0", "lan0"]);
    });
}

#[test]
fn names_are_resolved_for_members_and_others_are_forwarded() {
    on_a_host("names", |host| {
        let front = host.create(&named("front", "10.200.15.0/24"));
        host.create(&named("back", "10.200.16.0/24"));
        let web = Endpoint {
            network: "front".into(),
            aliases: vec!["www".into()],
            upstream: vec![ip("127.0.0.1")],
            ..container("web")
        };
        let web = host.start_as(web).expect("web");
        assert_eq!(web.attached.resolver, Some(ip("10.200.15.1")));
        let db = host.start("db", "front");
        let stranger = host.start("stranger", "back");

        // A name server of the host's, which knows one thing and says it in a reply to anything.
        let upstream = UdpSocket::bind("127.0.0.1:53").expect("name server");
        std::thread::spawn(move || {
            let mut buffer = [0; 512];
            while let Ok((length, from)) = upstream.recv_from(&mut buffer) {
                buffer[2] |= 0x80;
                let _ = upstream.send_to(&buffer[..length], from);
            }
        });
        let listeners = resolver::listen(&front).expect("listen");
        let (layout, id) = (host.layout.clone(), front.id.clone());
        std::thread::spawn(move || resolver::run(&layout, &id, listeners));

        let ask = |who: &Container, name: &str, tcp: bool| {
            inside(who.netns.as_fd(), || Ok(ask_dns(ip("10.200.15.1"), name, tcp))).expect("inside")
        };
        for tcp in [false, true] {
            assert_eq!(ask(&db, "web", tcp), Some((0, vec![web.ip().to_string()])));
            assert_eq!(ask(&db, "WWW", tcp), Some((0, vec![web.ip().to_string()])));
            assert_eq!(ask(&web, &db.id[..12], tcp), Some((0, vec![db.ip().to_string()])));
            assert_eq!(ask(&stranger, "web", tcp), None, "not a member");
        }
        // The echo has our question and no answer: it came from the name server.
        assert_eq!(ask(&web, "example.org", false), Some((0, vec![])));
        // A container that starts later is known at once, one that ended no longer: nobody else is asked,
        // and the host has no name server, so that is a failure.
        let later = host.start("later", "front");
        assert_eq!(ask(&db, "later", false), Some((0, vec![later.ip().to_string()])));
        detach(&mut host.store, &later.id, None, None).expect("detach");
        assert_eq!(ask(&web, "later", false), Some((0, vec![])), "asked the name server");
    });
}

/// The response code and the addresses of an answer.
fn ask_dns(server: IpAddr, name: &str, tcp: bool) -> Option<(u8, Vec<String>)> {
    use hickory_proto::op::{Message, MessageType, OpCode, Query};
    use hickory_proto::rr::{Name, RecordType};
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(format!("{name}.")).expect("name"), RecordType::A));
    let bytes = message.to_vec().expect("encode");
    let wait = Some(Duration::from_secs(3));
    let mut reply = vec![0; 4096];
    let length = if tcp {
        let mut stream =
            TcpStream::connect_timeout(&SocketAddr::new(server, 53), Duration::from_secs(3)).ok()?;
        stream.set_read_timeout(wait).expect("timeout");
        stream.write_all(&(bytes.len() as u16).to_be_bytes()).ok()?;
        stream.write_all(&bytes).ok()?;
        let mut head = [0; 2];
        stream.read_exact(&mut head).ok()?;
        let length = usize::from(u16::from_be_bytes(head));
        stream.read_exact(&mut reply[..length]).ok()?;
        length
    } else {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("bind");
        socket.set_read_timeout(wait).expect("timeout");
        socket.send_to(&bytes, (server, 53)).ok()?;
        socket.recv(&mut reply).ok()?
    };
    let message = Message::from_vec(&reply[..length]).expect("decode");
    assert_eq!(message.metadata.id, 4711);
    Some((message.metadata.response_code.low(), message.answers.iter().map(|r| r.data.to_string()).collect()))
}
