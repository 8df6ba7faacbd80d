//! Subnets and the choice of an address in one.
//!
//! Both families are handled as 128-bit numbers, so that "the lowest free address of a range" and "do
//! these two overlap" are each written once. Everything here is a pure function; who holds which address
//! is the database's business.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A subnet in CIDR notation, host bits zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subnet {
    first: IpAddr,
    prefix: u8,
}

/// Why a text is not a subnet.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("invalid CIDR address: {0}")]
pub struct NotASubnet(pub String);

/// An address as a number.
pub(super) fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

fn address(number: u128, like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from(number as u32)),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from(number)),
    }
}

impl Subnet {
    /// The subnet of that prefix length that `address` lies in; `None` when the prefix is too long.
    pub fn of(address_in_it: IpAddr, prefix: u8) -> Option<Self> {
        let width = if address_in_it.is_ipv4() { 32 } else { 128 };
        if prefix > width {
            return None;
        }
        let host = host_mask(width - prefix);
        Some(Self { first: address(number(address_in_it) & !host, address_in_it), prefix })
    }

    /// The network address.
    pub fn network(&self) -> IpAddr {
        self.first
    }

    /// The prefix length.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// Whether this is an IPv4 subnet.
    pub fn is_ipv4(&self) -> bool {
        self.first.is_ipv4()
    }

    fn low(&self) -> u128 {
        number(self.first)
    }

    fn high(&self) -> u128 {
        let width = if self.is_ipv4() { 32 } else { 128 };
        self.low() | host_mask(width - self.prefix)
    }

    /// Whether the address lies in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.is_ipv4() && (self.low()..=self.high()).contains(&number(address))
    }

    /// Whether all of `other` lies in it.
    pub fn covers(&self, other: &Self) -> bool {
        other.is_ipv4() == self.is_ipv4() && self.low() <= other.low() && other.high() <= self.high()
    }

    /// Whether the two share an address.
    pub fn overlaps(&self, other: &Self) -> bool {
        other.is_ipv4() == self.is_ipv4() && self.low() <= other.high() && other.low() <= self.high()
    }

    /// Whether an interface may carry the address: inside, and neither the network's own address nor,
    /// in IPv4, the broadcast address.
    pub fn is_host(&self, address: IpAddr) -> bool {
        self.contains(address) && address != self.first && !(self.is_ipv4() && number(address) == self.high())
    }

    /// The first address an interface may carry, Docker's default gateway. `None` in a /31 or smaller.
    pub fn first_host(&self) -> Option<IpAddr> {
        let candidate = address(self.low().checked_add(1)?, self.first);
        self.is_host(candidate).then_some(candidate)
    }

    /// Its parts with a longer prefix, from the lowest.
    pub fn parts(self, prefix: u8) -> impl Iterator<Item = Self> {
        let bits: u8 = if self.is_ipv4() { 32 } else { 128 };
        let step = 1_u128 << (bits - prefix.min(bits));
        let count = 1_u128 << prefix.saturating_sub(self.prefix).min(32);
        (0..count).map(move |n| Self { first: address(self.low() + n * step, self.first), prefix })
    }

    /// The lowest address of `range` (a part of this subnet) that is not in `taken`, which must be
    /// sorted. `None` when the range is exhausted.
    pub fn lowest_free(&self, range: &Self, taken: &[u128]) -> Option<IpAddr> {
        let mut candidate = range.low();
        let mut from = taken.partition_point(|&t| t < candidate);
        loop {
            if candidate > range.high() {
                return None;
            }
            if taken.get(from) == Some(&candidate) {
                from += 1;
            } else {
                let address = address(candidate, self.first);
                if self.is_host(address) {
                    return Some(address);
                }
            }
            candidate = candidate.checked_add(1)?;
        }
    }
}

fn host_mask(bits: u8) -> u128 {
    if bits == 128 { u128::MAX } else { (1 << bits) - 1 }
}

impl FromStr for Subnet {
    type Err = NotASubnet;

    /// Parses `ADDRESS/PREFIX`; host bits are cleared, as Docker does.
    fn from_str(text: &str) -> Result<Self, NotASubnet> {
        parse_cidr(text)
            .and_then(|(address, prefix)| Self::of(address, prefix))
            .ok_or_else(|| NotASubnet(text.to_owned()))
    }
}

/// `ADDRESS/PREFIX` with the host bits kept, the form of `bip`.
pub(super) fn parse_cidr(text: &str) -> Option<(IpAddr, u8)> {
    let (address, prefix) = text.split_once('/')?;
    // u8's own parser takes "+8"; a prefix length is digits.
    if !prefix.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some((address.parse().ok()?, prefix.parse().ok()?))
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix)
    }
}

/// Docker's local pools for networks that name no subnet, in its order: fifteen /16 and sixteen /20.
pub(super) fn default_pools() -> impl Iterator<Item = Subnet> {
    let large = (17..=31u8).map(|n| (Ipv4Addr::new(172, n, 0, 0), 16));
    let small = (0..16u8).map(|n| (Ipv4Addr::new(192, 168, n * 16, 0), 20));
    large.chain(small).map(|(first, prefix)| Subnet { first: IpAddr::V4(first), prefix })
}

/// The MAC address Docker derives from an IPv4 address: `02:42` and the four bytes.
pub(super) fn mac_of(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x02, 0x42, a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(text: &str) -> Subnet {
        text.parse().expect(text)
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect(text)
    }

    #[test]
    fn cidr_is_parsed_and_host_bits_are_cleared() {
        for (text, shown) in [
            ("172.28.0.0/16", "172.28.0.0/16"),
            ("172.28.5.9/24", "172.28.5.0/24"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("10.0.0.1/32", "10.0.0.1/32"),
            ("fd00:1::5/64", "fd00:1::/64"),
            ("::/0", "::/0"),
        ] {
            assert_eq!(subnet(text).to_string(), shown, "{text}");
        }
        for text in [
            "",
            "10.0.0.0",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0/8",
            "::/129",
            "10.0.0.0/+8",
            "x/8",
            "10.0.0.0/8 ",
        ] {
            assert_eq!(text.parse::<Subnet>(), Err(NotASubnet(text.to_owned())), "{text}");
        }
    }

    #[test]
    fn overlap_is_symmetric_and_families_never_overlap() {
        for (a, b, overlap) in [
            ("10.0.0.0/8", "10.200.0.0/16", true),
            ("10.0.0.0/9", "10.128.0.0/9", false),
            ("10.0.0.0/24", "10.0.0.0/24", true),
            ("fd00::/8", "fd12::/64", true),
            ("0.0.0.0/0", "::/0", false),
        ] {
            assert_eq!(subnet(a).overlaps(&subnet(b)), overlap, "{a} {b}");
            assert_eq!(subnet(b).overlaps(&subnet(a)), overlap, "{b} {a}");
        }
        assert!(subnet("172.28.0.0/16").covers(&subnet("172.28.5.0/24")));
        assert!(!subnet("172.28.5.0/24").covers(&subnet("172.28.0.0/16")));
    }

    #[test]
    fn the_lowest_free_address_skips_network_broadcast_and_taken() {
        let net = subnet("10.9.0.0/29");
        let mut taken: Vec<u128> = vec![number(ip("10.9.0.1"))];
        let mut given = Vec::new();
        while let Some(free) = net.lowest_free(&net, &taken) {
            given.push(free.to_string());
            taken.push(number(free));
            taken.sort_unstable();
        }
        assert_eq!(given, ["10.9.0.2", "10.9.0.3", "10.9.0.4", "10.9.0.5", "10.9.0.6"]);
        taken.retain(|&t| t != number(ip("10.9.0.3")));
        assert_eq!(net.lowest_free(&net, &taken), Some(ip("10.9.0.3")));
    }

    #[test]
    fn a_range_inside_the_subnet_may_start_at_its_zero_address() {
        // 172.28.5.0 is an ordinary host of 172.28.0.0/16.
        let net = subnet("172.28.0.0/16");
        let range = subnet("172.28.5.0/24");
        assert_eq!(net.lowest_free(&range, &[]), Some(ip("172.28.5.0")));
        assert_eq!(net.lowest_free(&range, &[number(ip("172.28.5.0"))]), Some(ip("172.28.5.1")));
    }

    #[test]
    fn the_edges_of_the_number_space_do_not_overflow() {
        let top = subnet("ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffc/126");
        let taken: Vec<u128> = (u128::MAX - 3..=u128::MAX).collect();
        assert_eq!(top.lowest_free(&top, &taken), None);
        assert_eq!(subnet("10.0.0.0/32").first_host(), None);
        assert_eq!(subnet("10.0.0.0/31").first_host(), None);
        assert_eq!(subnet("10.0.0.0/30").first_host(), Some(ip("10.0.0.1")));
    }

    #[test]
    fn a_subnet_has_parts() {
        let parts: Vec<String> = subnet("10.77.0.0/22").parts(24).map(|part| part.to_string()).collect();
        assert_eq!(parts, ["10.77.0.0/24", "10.77.1.0/24", "10.77.2.0/24", "10.77.3.0/24"]);
        assert_eq!(subnet("10.0.0.0/8").parts(8).count(), 1);
    }

    #[test]
    fn default_pools_are_dockers() {
        let pools: Vec<String> = default_pools().map(|p| p.to_string()).collect();
        assert_eq!(pools.len(), 31);
        assert_eq!(pools[0], "172.17.0.0/16");
        assert_eq!(pools[14], "172.31.0.0/16");
        assert_eq!(pools[15], "192.168.0.0/20");
        assert_eq!(pools[30], "192.168.240.0/20");
    }

    #[test]
    fn the_mac_spells_the_address() {
        assert_eq!(mac_of(Ipv4Addr::new(172, 17, 0, 2)), [0x02, 0x42, 0xac, 0x11, 0x00, 0x02]);
    }
}
