//! nf_tables messages: exactly those that one table of sets, maps and a fixed number of rules needs.
//!
//! Why by hand: of the crates that speak nf_tables, one is GPL, one links the C library libnftnl, one runs
//! the `nft` program, and the rtnetlink project's netfilter crate has no nf_tables at all. What is needed is
//! small: a batch is a sequence of netlink messages that the kernel applies wholly or not at all, and
//! each message is a tree of attributes.
//!
//! The names follow `linux/netfilter/nf_tables.h`.

use std::cell::RefCell;
use std::io;
use std::os::fd::AsRawFd as _;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

use super::Error;

const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_APPEND: u16 = 0x800;
const NLA_F_NESTED: u16 = 0x8000;
const NLMSG_ERROR: u16 = 2;

const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
const NFNL_MSG_BATCH_END: u16 = 0x11;
const SUBSYS: u16 = libc::NFNL_SUBSYS_NFTABLES as u16;
const NFPROTO_INET: u8 = 1;
const MAP: u32 = libc::NFT_SET_MAP as u32;

/// A concatenated key or value: each part takes whole 32-bit registers.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Value(Vec<u8>);

impl Value {
    /// Appends a part, padded to the next register.
    pub fn with(mut self, part: &[u8]) -> Self {
        self.0.extend_from_slice(part);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// Appends an interface name, which fills four registers.
    pub fn ifname(self, name: &str) -> Self {
        let mut padded = [0; 16];
        let length = name.len().min(15);
        padded[..length].copy_from_slice(&name.as_bytes()[..length]);
        self.with(&padded)
    }
}

/// A key, and in a map its value.
pub(super) type Element = (Value, Option<Value>);

/// The types a key or value part can have: `nft`'s own number for it, so that `nft list` prints it, and
/// its length in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Type {
    Ipv4,
    Ipv6,
    Protocol,
    Port,
    Interface,
}

impl Type {
    fn number(self) -> u32 {
        match self {
            Self::Ipv4 => 7,
            Self::Ipv6 => 8,
            Self::Protocol => 12,
            Self::Port => 13,
            Self::Interface => 41,
        }
    }

    fn length(self) -> u32 {
        match self {
            Self::Ipv4 => 4,
            Self::Ipv6 | Self::Interface => 16,
            Self::Protocol => 1,
            Self::Port => 2,
        }
    }
}

fn concatenated(types: &[Type]) -> (u32, u32) {
    match types {
        [one] => (one.number(), one.length()),
        many => many.iter().fold((0, 0), |(number, length), t| {
            (number << 6 | t.number(), length + t.length().next_multiple_of(4))
        }),
    }
}

/// A set, or a map if it has values.
#[derive(Debug)]
pub(super) struct Set {
    pub name: &'static str,
    pub key: &'static [Type],
    pub value: &'static [Type],
}

/// Where a base chain hooks in.
#[derive(Debug)]
pub(super) struct Chain {
    pub name: &'static str,
    pub kind: &'static str,
    pub hook: u32,
    pub priority: i32,
}

/// 32-bit registers as nf_tables numbers them. An address in `R1`, what follows it in `R1 + 1`.
const R: u32 = libc::NFT_REG32_00 as u32;

/// One expression of a rule.
#[derive(Debug, Clone)]
pub(super) enum Expr {
    /// Loads packet metadata.
    Meta { key: u32, to: u32 },
    /// Loads bytes of the network (1) or transport (2) header.
    Payload { base: u32, offset: u32, length: u32, to: u32 },
    /// Loads connection tracking data.
    Ct { key: u32, to: u32 },
    /// Loads the type of the destination address as routing sees it.
    DestinationType { to: u32 },
    /// Goes on if the register equals the bytes (or differs).
    Compare { register: u32, equal: bool, value: Vec<u8> },
    /// Keeps only these bits of the register.
    Mask { register: u32, mask: u32 },
    /// Goes on if the key is in the set (or is not).
    Lookup { set: &'static str, key: u32, present: bool },
    /// Goes on if the key is in the map, with its value in `to`.
    Map { map: &'static str, key: u32, to: u32 },
    /// Rewrites the destination to the address and port in registers.
    Dnat { family: u8, address: u32, port: u32 },
    /// Rewrites the source to the outgoing interface's address.
    Masquerade,
    /// Ends the chain.
    Verdict(i32),
}

/// Attributes of one message, nested by closures.
struct Attributes<'a>(&'a mut Vec<u8>);

impl Attributes<'_> {
    fn put(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(value.len() + 4).expect("attribute values here are far below 64 KiB");
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn text(&mut self, kind: u16, text: &str) {
        let mut bytes = text.as_bytes().to_vec();
        bytes.push(0);
        self.put(kind, &bytes);
    }

    fn number(&mut self, kind: u16, number: u32) {
        self.put(kind, &number.to_be_bytes());
    }

    fn nest(&mut self, kind: u16, body: impl FnOnce(&mut Attributes<'_>)) {
        let start = self.0.len();
        self.0.extend_from_slice(&[0; 4]);
        body(&mut Attributes(self.0));
        // Callers split lists of elements so that no attribute reaches 64 KiB.
        let length = u16::try_from(self.0.len() - start).expect("nested attributes are below 64 KiB");
        self.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.0[start + 2..start + 4].copy_from_slice(&(kind | NLA_F_NESTED).to_ne_bytes());
    }
}

/// Messages that the kernel applies wholly or not at all.
#[derive(Debug)]
pub(super) struct Batch {
    table: String,
    buffer: Vec<u8>,
    sequence: u32,
    last: usize,
    what: Vec<&'static str>,
}

/// Elements of one message: below 64 KiB with the longest key and value there are.
const ELEMENTS_AT_ONCE: usize = 400;

impl Batch {
    pub fn new(table: &str) -> Self {
        let mut batch = Self {
            table: table.to_owned(),
            buffer: Vec::with_capacity(8192),
            sequence: 0,
            last: 0,
            what: Vec::new(),
        };
        batch.edge(NFNL_MSG_BATCH_BEGIN);
        batch
    }

    fn edge(&mut self, kind: u16) {
        self.message_raw("batch", kind, NLM_F_REQUEST, libc::AF_UNSPEC as u8, SUBSYS, |_| ());
    }

    fn message_raw(
        &mut self,
        what: &'static str,
        kind: u16,
        flags: u16,
        family: u8,
        resource: u16,
        body: impl FnOnce(&mut Attributes<'_>),
    ) {
        let start = self.buffer.len();
        self.buffer.extend_from_slice(&[0; 4]);
        self.buffer.extend_from_slice(&kind.to_ne_bytes());
        self.buffer.extend_from_slice(&flags.to_ne_bytes());
        self.buffer.extend_from_slice(&self.sequence.to_ne_bytes());
        self.buffer.extend_from_slice(&[0; 4]);
        self.buffer.extend_from_slice(&[family, 0]);
        self.buffer.extend_from_slice(&resource.to_be_bytes());
        body(&mut Attributes(&mut self.buffer));
        let length = (self.buffer.len() - start) as u32;
        self.buffer[start..start + 4].copy_from_slice(&length.to_ne_bytes());
        self.last = start;
        self.sequence += 1;
        self.what.push(what);
    }

    fn message(&mut self, what: &'static str, kind: i32, flags: u16, body: impl FnOnce(&mut Attributes<'_>)) {
        self.message_raw(what, SUBSYS << 8 | kind as u16, NLM_F_REQUEST | flags, NFPROTO_INET, 0, body);
    }

    /// Creates the table; an existing one is kept.
    pub fn add_table(&mut self) {
        let table = self.table.clone();
        self.message("NEWTABLE", libc::NFT_MSG_NEWTABLE, NLM_F_CREATE, |a| a.text(1, &table));
    }

    /// Creates the table, which must not exist.
    pub fn add_new_table(&mut self) {
        let table = self.table.clone();
        self.message("NEWTABLE", libc::NFT_MSG_NEWTABLE, NLM_F_CREATE | NLM_F_EXCL, |a| a.text(1, &table));
    }

    /// Deletes the table with all in it; it must exist.
    pub fn delete_table(&mut self) {
        let table = self.table.clone();
        self.message("DELTABLE", libc::NFT_MSG_DELTABLE, 0, |a| a.text(1, &table));
    }

    /// Creates a base chain with policy accept.
    pub fn add_chain(&mut self, chain: &Chain) {
        let table = self.table.clone();
        self.message("NEWCHAIN", libc::NFT_MSG_NEWCHAIN, NLM_F_CREATE, |a| {
            a.text(1, &table);
            a.text(3, chain.name);
            a.nest(4, |hook| {
                hook.number(1, chain.hook);
                hook.put(2, &chain.priority.to_be_bytes());
            });
            a.number(5, libc::NF_ACCEPT as u32);
            a.text(7, chain.kind);
        });
    }

    /// Creates a set or map.
    pub fn add_set(&mut self, set: &Set) {
        let table = self.table.clone();
        let id = self.sequence;
        self.message("NEWSET", libc::NFT_MSG_NEWSET, NLM_F_CREATE, |a| {
            let (key_type, key_length) = concatenated(set.key);
            a.text(1, &table);
            a.text(2, set.name);
            a.number(4, key_type);
            a.number(5, key_length);
            if !set.value.is_empty() {
                let (value_type, value_length) = concatenated(set.value);
                a.number(3, MAP);
                a.number(6, value_type);
                a.number(7, value_length);
            }
            a.number(10, id);
            if let [Type::Interface] = set.key {
                // For `nft list`, which shows no names without it: the key is in the host's byte order.
                a.put(13, &[0, 4, 1, 0, 0, 0]);
            }
        });
    }

    fn elements(&mut self, what: &'static str, kind: i32, flags: u16, set: &str, elements: &[Element]) {
        let table = self.table.clone();
        for part in elements.chunks(ELEMENTS_AT_ONCE) {
            self.message(what, kind, flags, |a| {
                a.text(1, &table);
                a.text(2, set);
                a.nest(3, |list| {
                    for (key, value) in part {
                        list.nest(1, |element| {
                            element.nest(1, |data| data.put(1, &key.0));
                            if let Some(value) = value {
                                element.nest(2, |data| data.put(1, &value.0));
                            }
                        });
                    }
                });
            });
        }
    }

    /// Adds elements; ones that are there already with the same value are fine.
    pub fn add_elements(&mut self, set: &str, elements: &[Element]) {
        self.elements("NEWSETELEM", libc::NFT_MSG_NEWSETELEM, NLM_F_CREATE, set, elements);
    }

    /// Deletes elements, which must be there.
    pub fn delete_elements(&mut self, set: &str, elements: &[Element]) {
        self.elements("DELSETELEM", libc::NFT_MSG_DELSETELEM, 0, set, elements);
    }

    /// Appends a rule.
    pub fn add_rule(&mut self, chain: &str, rule: &[Expr]) {
        let table = self.table.clone();
        self.message("NEWRULE", libc::NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND, |a| {
            a.text(1, &table);
            a.text(2, chain);
            a.nest(4, |list| {
                for expr in rule {
                    list.nest(1, |e| expr.write(e));
                }
            });
        });
    }

    /// Hands the batch to the kernel. Nothing has changed if this fails.
    pub fn commit(mut self) -> Result<(), Error> {
        // The last message's acknowledgement tells that the kernel got to the end.
        let flags = self.last + 6;
        let acked = u16::from_ne_bytes([self.buffer[flags], self.buffer[flags + 1]]) | NLM_F_ACK;
        self.buffer[flags..flags + 2].copy_from_slice(&acked.to_ne_bytes());
        let awaited = self.sequence - 1;
        self.edge(NFNL_MSG_BATCH_END);

        let fail = |call, source| Error::Kernel { call, on: format!("table inet {}", self.table), source };
        with_socket(|socket| {
            grow_send_buffer(socket, self.buffer.len()).map_err(|e| fail("SO_SNDBUFFORCE", e))?;
            socket.send(&self.buffer, 0).map_err(|e| fail("send", e))?;

            // The kernel works through the batch inside send, so every answer is queued by now: the first
            // error wins, and a queue without the awaited acknowledgement is a failure too. The queue is read to
            // its end, since the next batch must not find this one's answers.
            let mut acknowledged = false;
            let mut refused = None;
            let mut buffer = vec![0u8; 16 * 1024];
            loop {
                let length = match socket.recv(&mut &mut buffer[..], libc::MSG_DONTWAIT) {
                    Ok(length) => length,
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                    Err(e) => return Err(fail("recv", e)),
                };
                let mut rest = &buffer[..length];
                while rest.len() >= 20 {
                    let word =
                        |at: usize| u32::from_ne_bytes([rest[at], rest[at + 1], rest[at + 2], rest[at + 3]]);
                    let (length, sequence, code) = (word(0) as usize, word(8), word(16).cast_signed());
                    let kind = u16::from_ne_bytes([rest[4], rest[5]]);
                    if kind == NLMSG_ERROR {
                        if code != 0 {
                            let call = self.what.get(sequence as usize).copied().unwrap_or("batch");
                            refused.get_or_insert((call, code));
                        }
                        acknowledged |= code == 0 && sequence == awaited;
                    }
                    rest = &rest[length.next_multiple_of(4).clamp(16, rest.len())..];
                }
            }
            match refused {
                Some((call, code)) => Err(fail(call, io::Error::from_raw_os_error(-code))),
                None if acknowledged => Ok(()),
                None => Err(fail("batch", io::Error::from(io::ErrorKind::UnexpectedEof))),
            }
        })
    }
}

thread_local! {
    /// One socket a thread, closed with it: closing one waits until everything is freed that batches have
    /// deleted, which is a grace period (`nft_rcv_nl_event`), and nobody should wait for that. A thread changes
    /// its network namespace only for moments in which it sends no batch.
    static SOCKET: RefCell<Option<Socket>> = const { RefCell::new(None) };
}

/// Hands this thread's socket to `work`, which must leave no answer in it.
pub(super) fn with_socket(work: impl FnOnce(&mut Socket) -> Result<(), Error>) -> Result<(), Error> {
    let fail = |call, source| Error::Kernel { call, on: "NETLINK_NETFILTER".into(), source };
    SOCKET.with_borrow_mut(|kept| {
        let mut socket = if let Some(socket) = kept.take() {
            socket
        } else {
            let mut socket = Socket::new(NETLINK_NETFILTER).map_err(|e| fail("socket", e))?;
            socket.bind_auto().map_err(|e| fail("bind", e))?;
            socket.connect(&SocketAddr::new(0, 0)).map_err(|e| fail("connect", e))?;
            socket
        };
        let done = work(&mut socket);
        // After an error that is not the kernel's answer the socket may hold anything.
        if !matches!(&done, Err(Error::Kernel { call: "send" | "recv", .. })) {
            *kept = Some(socket);
        }
        done
    })
}

/// The default send buffer takes about 200 KiB; a whole table of a busy host is larger.
fn grow_send_buffer(socket: &Socket, length: usize) -> io::Result<()> {
    if length < 100 * 1024 {
        return Ok(());
    }
    let size = (length * 2) as libc::c_int;
    // SAFETY: the pointer and length describe one c_int that outlives the call.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_SNDBUFFORCE,
            (&raw const size).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

impl Expr {
    fn write(&self, list: &mut Attributes<'_>) {
        let mut expr = |name: &str, body: &dyn Fn(&mut Attributes<'_>)| {
            list.text(1, name);
            list.nest(2, |a| body(a));
        };
        match self {
            Self::Meta { key, to } => expr("meta", &|a| {
                a.number(1, R + to);
                a.number(2, *key);
            }),
            Self::Payload { base, offset, length, to } => expr("payload", &|a| {
                a.number(1, R + to);
                a.number(2, *base);
                a.number(3, *offset);
                a.number(4, *length);
            }),
            Self::Ct { key, to } => expr("ct", &|a| {
                a.number(1, R + to);
                a.number(2, *key);
            }),
            Self::DestinationType { to } => expr("fib", &|a| {
                a.number(1, R + to);
                a.number(2, 3);
                a.number(3, 2);
            }),
            Self::Compare { register, equal, value } => expr("cmp", &|a| {
                a.number(1, R + register);
                a.number(2, u32::from(!equal));
                a.nest(3, |data| data.put(1, value));
            }),
            Self::Mask { register, mask } => expr("bitwise", &|a| {
                a.number(1, R + register);
                a.number(2, R + register);
                a.number(3, 4);
                a.nest(4, |data| data.put(1, &mask.to_ne_bytes()));
                a.nest(5, |data| data.put(1, &[0; 4]));
            }),
            Self::Lookup { set, key, present } => expr("lookup", &|a| {
                a.text(1, set);
                a.number(2, R + key);
                if !present {
                    a.number(5, 1);
                }
            }),
            Self::Map { map, key, to } => expr("lookup", &|a| {
                a.text(1, map);
                a.number(2, R + key);
                a.number(3, R + to);
            }),
            Self::Dnat { family, address, port } => expr("nat", &|a| {
                a.number(1, 1);
                a.number(2, u32::from(*family));
                a.number(3, R + address);
                a.number(5, R + port);
            }),
            Self::Masquerade => expr("masq", &|_| ()),
            Self::Verdict(code) => expr("immediate", &|a| {
                a.number(1, libc::NFT_REG_VERDICT as u32);
                a.nest(2, |data| data.nest(2, |verdict| verdict.put(1, &code.to_be_bytes())));
            }),
        }
    }
}
