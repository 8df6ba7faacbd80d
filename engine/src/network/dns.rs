//! What the embedded resolver answers: a pure function from a query and the networks to an answer.
//!
//! Messages are read and written by hickory's protocol crate, which bounds compression pointers and lengths.
//! The rules here are about what must not be answered: an answer (two resolvers that answer each
//! other's answers never stop), an asker that is no member of the network, a name of a network that the asker is not on.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::str::FromStr as _;

use hickory_proto::op::{Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType, rdata};

/// Seconds an answer may be kept. Containers come and go; Docker's ten minutes outlive many.
const TTL: u32 = 5;

/// The largest answer over UDP to a client that does not say what it takes (RFC 1035), and the largest to
/// one that does: what passes every link unfragmented.
const UDP_SMALL: u16 = 512;
const UDP_LARGE: u16 = 1232;

/// A container as the resolver sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Resident {
    /// The network's id.
    pub network: String,
    /// The network's name.
    pub network_name: String,
    /// The container's id.
    pub container: String,
    /// The container's name.
    pub name: String,
    /// Its names: name, aliases, short id.
    pub names: Vec<String>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Names that only it uses for others: alias to container id.
    pub links: Vec<(String, String)>,
}

/// Every container on a network that resolves names.
#[derive(Debug, Default)]
pub(super) struct Directory {
    residents: Vec<Resident>,
    /// Lower-case name to residents.
    names: BTreeMap<String, Vec<usize>>,
    addresses: BTreeMap<IpAddr, Vec<usize>>,
}

impl Directory {
    pub fn new(residents: Vec<Resident>) -> Self {
        let mut directory = Self { residents, ..Self::default() };
        for (at, resident) in directory.residents.iter().enumerate() {
            for name in &resident.names {
                let of = directory.names.entry(name.to_ascii_lowercase()).or_default();
                if !of.contains(&at) {
                    of.push(at);
                }
                // Docker's qualified form: NAME.NETWORK.
                let qualified = format!("{name}.{}", resident.network_name).to_ascii_lowercase();
                let of = directory.names.entry(qualified).or_default();
                if !of.contains(&at) {
                    of.push(at);
                }
            }
            for address in &resident.addresses {
                directory.addresses.entry(*address).or_default().push(at);
            }
        }
        directory
    }

    /// The container that has this address on this network.
    pub fn asker(&self, network: &str, address: IpAddr) -> Option<&Resident> {
        let at = self.addresses.get(&address)?.iter().find(|&&at| self.residents[at].network == network)?;
        Some(&self.residents[*at])
    }

    /// The networks a container is on.
    fn networks<'a>(&'a self, container: &'a str) -> impl Iterator<Item = &'a str> {
        self.residents.iter().filter(move |r| r.container == container).map(|r| r.network.as_str())
    }

    /// The addresses a name stands for to this asker. `None` when it stands for nothing.
    fn lookup(&self, asker: &Resident, name: &str) -> Option<Vec<IpAddr>> {
        let name = name.to_ascii_lowercase();
        let mut found = Vec::new();
        for mine in self.residents.iter().filter(|r| r.container == asker.container) {
            for (alias, target) in &mine.links {
                if alias.eq_ignore_ascii_case(&name) {
                    found.extend(
                        self.residents
                            .iter()
                            .filter(|r| r.network == mine.network && r.container == *target)
                            .flat_map(|r| r.addresses.iter().copied()),
                    );
                }
            }
        }
        for &at in self.names.get(&name).into_iter().flatten() {
            let resident = &self.residents[at];
            if self.networks(&asker.container).any(|n| n == resident.network) {
                found.extend(&resident.addresses);
            }
        }
        found.sort_unstable();
        found.dedup();
        (!found.is_empty()).then_some(found)
    }

    /// The name of an address, if the asker may know it.
    fn reverse(&self, asker: &Resident, address: IpAddr) -> Option<String> {
        let at = self
            .addresses
            .get(&address)?
            .iter()
            .find(|&&at| self.networks(&asker.container).any(|n| n == self.residents[at].network))?;
        let resident = &self.residents[*at];
        Some(format!("{}.{}", resident.name, resident.network_name))
    }
}

/// What is to be done with a query.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Send this.
    Answer(Vec<u8>),
    /// Ask a name server.
    Forward,
    /// Say nothing.
    Ignore,
}

/// How the query came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

/// Decides about one query from one member of a network.
pub(super) fn answer(query: &[u8], directory: &Directory, asker: &Resident, transport: Transport) -> Outcome {
    let Some(header) = query.get(..12) else { return Outcome::Ignore };
    // The first bit of the third byte says "answer".
    if header[2] & 0x80 != 0 {
        return Outcome::Ignore;
    }
    let Ok(message) = Message::from_vec(query) else {
        let id = u16::from_be_bytes([header[0], header[1]]);
        return refuse(&Message::error_msg(id, OpCode::Query, ResponseCode::FormErr));
    };
    let mut reply = Message::response(message.metadata.id, message.metadata.op_code);
    reply.metadata = Metadata::response_from_request(&message.metadata);
    reply.metadata.message_type = MessageType::Response;
    reply.metadata.recursion_available = true;
    if message.metadata.op_code != OpCode::Query {
        reply.metadata.response_code = ResponseCode::NotImp;
        return refuse(&reply);
    }
    let [question] = message.queries.as_slice() else {
        reply.metadata.response_code = ResponseCode::FormErr;
        return refuse(&reply);
    };
    reply.add_query(question.clone());
    if question.query_class() != DNSClass::IN {
        return Outcome::Forward;
    }
    if !fill(&mut reply, question, directory, asker) {
        return Outcome::Forward;
    }
    let limit = match transport {
        Transport::Tcp => usize::from(u16::MAX),
        Transport::Udp => {
            let offered = message.edns.as_ref().map_or(UDP_SMALL, hickory_proto::op::Edns::max_payload);
            usize::from(offered.clamp(UDP_SMALL, UDP_LARGE))
        }
    };
    match reply.to_vec() {
        Ok(bytes) if bytes.len() <= limit => Outcome::Answer(bytes),
        Ok(_) => refuse(&reply.truncate()),
        Err(_) => Outcome::Ignore,
    }
}

fn refuse(reply: &Message) -> Outcome {
    reply.to_vec().map_or(Outcome::Ignore, Outcome::Answer)
}

/// The answer that says no name server could be asked.
pub(super) fn failure(query: &[u8]) -> Option<Vec<u8>> {
    let message = Message::from_vec(query).ok()?;
    let mut reply = Message::error_msg(message.metadata.id, message.metadata.op_code, ResponseCode::ServFail);
    reply.metadata.recursion_desired = message.metadata.recursion_desired;
    reply.metadata.recursion_available = true;
    reply.add_queries(message.queries);
    reply.to_vec().ok()
}

/// Whether the bytes are an answer to this very question: what a forwarder must check before it believes a
/// datagram.
pub(super) fn answers(reply: &[u8], query: &[u8]) -> bool {
    let (Ok(reply), Ok(query)) = (Message::from_vec(reply), Message::from_vec(query)) else { return false };
    reply.metadata.message_type == MessageType::Response
        && reply.metadata.id == query.metadata.id
        && reply.queries == query.queries
}

/// Puts the answer to a question about containers into the reply. `false` when it is about something else.
fn fill(reply: &mut Message, question: &Query, directory: &Directory, asker: &Resident) -> bool {
    let name = question.name();
    if question.query_type() == RecordType::PTR {
        let Ok(net) = name.parse_arpa_name() else { return false };
        let Some(target) = directory.reverse(asker, net.addr()) else { return false };
        let Ok(target) = Name::from_str(&format!("{target}.")) else { return false };
        let data = RData::PTR(rdata::PTR(target));
        reply.add_answer(Record::from_rdata(name.clone(), TTL, data));
        return true;
    }
    let labels: Option<Vec<&str>> = name.iter().map(|label| std::str::from_utf8(label).ok()).collect();
    let Some(labels) = labels else { return false };
    let Some(addresses) = directory.lookup(asker, &labels.join(".")) else { return false };
    // A known name without an address of the family asked for exists all the same: an empty answer, so that
    // nobody outside is asked about it.
    for address in addresses {
        let data = match (address, question.query_type()) {
            (IpAddr::V4(v4), RecordType::A | RecordType::ANY) => RData::A(rdata::A(v4)),
            (IpAddr::V6(v6), RecordType::AAAA | RecordType::ANY) => RData::AAAA(rdata::AAAA(v6)),
            _ => continue,
        };
        reply.add_answer(Record::from_rdata(name.clone(), TTL, data));
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect(text)
    }

    fn resident(network: &str, name: &str, more: &[&str], addresses: &[&str]) -> Resident {
        let mut names = vec![name.to_owned()];
        names.extend(more.iter().map(|n| (*n).to_owned()));
        Resident {
            network: format!("id-{network}"),
            network_name: network.to_owned(),
            container: format!("c-{name}"),
            name: name.to_owned(),
            names,
            addresses: addresses.iter().map(|a| ip(a)).collect(),
            links: Vec::new(),
        }
    }

    fn directory() -> Directory {
        let mut web = resident("front", "web", &["0123456789ab", "www"], &["10.0.0.2", "fd00::2"]);
        web.links.push(("sql".into(), "c-db".into()));
        Directory::new(vec![
            web,
            resident("front", "db", &["data_base", "www"], &["10.0.0.3"]),
            resident("back", "cache", &[], &["10.1.0.2"]),
            resident("back", "db", &[], &["10.1.0.3"]),
        ])
    }

    fn query(name: &str, kind: RecordType) -> Vec<u8> {
        let mut message = Message::new(77, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(Name::from_ascii(name).expect(name), kind));
        message.to_vec().expect("encode")
    }

    /// The records of an answer as text; `None` when forwarded.
    fn ask(asker: (&str, &str), name: &str, kind: RecordType) -> Option<Vec<String>> {
        let directory = directory();
        let asker = directory.asker(&format!("id-{}", asker.0), ip(asker.1)).expect("a member");
        match answer(&query(name, kind), &directory, asker, Transport::Udp) {
            Outcome::Forward => None,
            Outcome::Ignore => panic!("ignored"),
            Outcome::Answer(bytes) => {
                let message = Message::from_vec(&bytes).expect("decode");
                assert_eq!(message.metadata.id, 77);
                assert_eq!(message.metadata.response_code, ResponseCode::NoError);
                Some(message.answers.iter().map(|r| r.data.to_string()).collect())
            }
        }
    }

    #[test]
    fn names_aliases_and_short_ids_have_addresses() {
        let web = ("front", "10.0.0.2");
        let some = |list: &[&str]| Some(list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
        assert_eq!(ask(web, "db.", RecordType::A), some(&["10.0.0.3"]));
        assert_eq!(ask(web, "DB.", RecordType::A), some(&["10.0.0.3"]));
        assert_eq!(ask(web, "data_base.", RecordType::A), some(&["10.0.0.3"]));
        assert_eq!(ask(web, "0123456789ab.", RecordType::AAAA), some(&["fd00::2"]));
        assert_eq!(ask(web, "db.front.", RecordType::A), some(&["10.0.0.3"]));
        assert_eq!(ask(web, "www.", RecordType::A), some(&["10.0.0.2", "10.0.0.3"]));
        assert_eq!(ask(web, "db.", RecordType::AAAA), some(&[]), "exists without an IPv6 address");
        assert_eq!(ask(web, "db.", RecordType::MX), some(&[]));
        assert_eq!(ask(web, "sql.", RecordType::A), some(&["10.0.0.3"]), "its own link");
        assert_eq!(ask(("front", "10.0.0.3"), "sql.", RecordType::A), None, "nobody else's");
        assert_eq!(ask(web, "example.org.", RecordType::A), None);
    }

    #[test]
    fn other_networks_names_are_not_told() {
        let web = ("front", "10.0.0.2");
        assert_eq!(ask(web, "cache.", RecordType::A), None);
        assert_eq!(ask(web, "2.0.1.10.in-addr.arpa.", RecordType::PTR), None);
        // db is on both: it sees both, by either network.
        let cache = Some(vec!["10.1.0.2".to_owned()]);
        assert_eq!(ask(("front", "10.0.0.3"), "cache.", RecordType::A), cache);
        assert_eq!(ask(("back", "10.1.0.3"), "cache.", RecordType::A), cache);
        let directory = directory();
        assert_eq!(directory.asker("id-back", ip("10.0.0.2")), None, "an address of another network");
        assert_eq!(directory.asker("id-front", ip("10.0.0.99")), None);
    }

    #[test]
    fn addresses_have_names() {
        let web = ("front", "10.0.0.2");
        assert_eq!(ask(web, "3.0.0.10.in-addr.arpa.", RecordType::PTR), Some(vec!["db.front.".to_owned()]));
        let v6 = "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.";
        assert_eq!(ask(web, v6, RecordType::PTR), Some(vec!["web.front.".to_owned()]));
        assert_eq!(ask(web, "9.9.9.9.in-addr.arpa.", RecordType::PTR), None);
        assert_eq!(ask(web, "x.in-addr.arpa.", RecordType::PTR), None);
    }

    fn code(bytes: &[u8]) -> Option<ResponseCode> {
        let directory = directory();
        let asker = directory.asker("id-front", ip("10.0.0.2")).expect("member");
        match answer(bytes, &directory, asker, Transport::Udp) {
            Outcome::Answer(reply) => {
                Some(Message::from_vec(&reply).expect("a well-formed reply").metadata.response_code)
            }
            Outcome::Forward | Outcome::Ignore => None,
        }
    }

    #[test]
    fn what_is_no_query_gets_an_error_or_silence() {
        assert_eq!(code(b""), None);
        assert_eq!(code(b"\x00\x01\x01\x00\x00\x01\x00\x00\x00\x00\x00"), None, "eleven bytes");
        let mut reply = query("db.", RecordType::A);
        reply[2] |= 0x80;
        assert_eq!(code(&reply), None, "an answer is never answered");
        let mut update = query("db.", RecordType::A);
        update[2] |= 5 << 3;
        assert!(matches!(code(&update), Some(ResponseCode::NotImp | ResponseCode::FormErr)));
        let mut none = query("db.", RecordType::A);
        none[5] = 0;
        none.truncate(12);
        assert_eq!(code(&none), Some(ResponseCode::FormErr), "no question");
        // A name that points at itself.
        let looping = b"\x00\x01\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\xc0\x0c\x00\x01\x00\x01";
        assert_eq!(code(looping), Some(ResponseCode::FormErr));
        let huge = [query("db.", RecordType::A), vec![0xff; 65000]].concat();
        let _ = code(&huge);
    }

    #[test]
    fn an_answer_too_large_for_udp_is_truncated_and_whole_over_tcp() {
        let many: Vec<Resident> = (0..200u8)
            .map(|n| resident("front", &format!("c{n}"), &["all"], &[&format!("10.0.1.{n}")]))
            .collect();
        let directory = Directory::new(many);
        let asker = directory.asker("id-front", ip("10.0.1.7")).expect("member");
        let Outcome::Answer(udp) = answer(&query("all.", RecordType::A), &directory, asker, Transport::Udp)
        else {
            panic!("no answer");
        };
        assert!(udp.len() <= 512 && udp[2] & 0x02 != 0, "truncated");
        let Outcome::Answer(tcp) = answer(&query("all.", RecordType::A), &directory, asker, Transport::Tcp)
        else {
            panic!("no answer");
        };
        assert_eq!(Message::from_vec(&tcp).expect("decode").answers.len(), 200);
    }

    #[test]
    fn mutated_queries_never_panic_and_replies_are_replies() {
        let directory = directory();
        let asker = directory.asker("id-front", ip("10.0.0.2")).expect("member");
        let seeds = [
            query("db.", RecordType::A),
            query("a.very.long.name.with.many.labels.example.org.", RecordType::ANY),
            query("3.0.0.10.in-addr.arpa.", RecordType::PTR),
        ];
        // xorshift: the same mutations in every run.
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut next = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as usize
        };
        for round in 0..20_000 {
            let mut bytes = seeds[round % seeds.len()].clone();
            for _ in 0..=next() % 6 {
                let at = next() % bytes.len();
                match next() % 4 {
                    0 => bytes[at] = next() as u8,
                    1 => bytes[at] ^= 1 << (next() % 8),
                    2 => bytes.truncate(at.max(1)),
                    _ => bytes.insert(at, 0xc0),
                }
            }
            if let Outcome::Answer(reply) = answer(&bytes, &directory, asker, Transport::Udp) {
                assert!(reply.len() <= usize::from(UDP_LARGE).max(bytes.len()), "{bytes:x?}");
                assert_ne!(reply[2] & 0x80, 0, "{bytes:x?}");
                assert_eq!(reply[..2], bytes[..2], "{bytes:x?}");
            }
            let _ = failure(&bytes);
            let _ = answers(&bytes, &seeds[0]);
        }
    }
}
