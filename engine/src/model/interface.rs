//! `/proc/<pid>/net/dev`: what went over each network interface.

use serde::{Deserialize, Serialize};

/// One direction of one interface; counters since the interface was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Bytes.
    pub bytes: u64,
    /// Packets.
    pub packets: u64,
    /// Packets that were bad.
    pub errors: u64,
    /// Packets that were good and thrown away.
    pub dropped: u64,
}

/// One network interface as its own namespace sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// `eth0`. At most 15 bytes, none of them a slash or white space.
    pub name: String,
    /// Towards the container.
    pub received: Traffic,
    /// From the container.
    pub sent: Traffic,
}

/// Every interface but the loopback one. `None` when the text is no `net/dev`.
pub fn parse(text: &str) -> Option<Vec<Interface>> {
    let mut found = Vec::new();
    for line in text.lines().skip(2) {
        // A name may hold a colon (an alias), a number may not.
        let (name, numbers) = line.rsplit_once(':')?;
        let name = name.trim();
        if name == "lo" {
            continue;
        }
        let mut numbers = numbers.split_ascii_whitespace().map(str::parse::<u64>);
        let mut next = || numbers.next()?.ok();
        let received = Traffic { bytes: next()?, packets: next()?, errors: next()?, dropped: next()? };
        // fifo, frame, compressed, multicast
        for _ in 0..4 {
            next()?;
        }
        let sent = Traffic { bytes: next()?, packets: next()?, errors: next()?, dropped: next()? };
        found.push(Interface { name: name.to_owned(), received, sent });
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "Inter-|   Receive                                                |  Transmit\n \
        face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n";

    #[test]
    fn interfaces_without_the_loopback() {
        let text = format!(
            "{HEAD}    lo:     100       1    0    0    0     0          0         0      100       1    0    0    0     0       0          0\n  \
             eth0: 1234567     10    1    2    3     4          5         6     7890      11   12   13   14    15      16         17\neth0:1:1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n"
        );
        let found = parse(&text).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].name, "eth0");
        assert_eq!(found[0].received, Traffic { bytes: 1_234_567, packets: 10, errors: 1, dropped: 2 });
        assert_eq!(found[0].sent, Traffic { bytes: 7890, packets: 11, errors: 12, dropped: 13 });
        assert_eq!((found[1].name.as_str(), found[1].sent.bytes), ("eth0:1", 9));
        assert_eq!(parse(HEAD), Some(Vec::new()));
    }

    #[test]
    fn odd_texts_are_refused() {
        for odd in [
            "eth0\n",
            "eth0: 1 2 3\n",
            "eth0: 1 2 3 4 5 6 7 8 9 10 11\n",
            "eth0: x 2 3 4 5 6 7 8 9 10 11 12\n",
        ] {
            assert_eq!(parse(&format!("{HEAD}{odd}")), None, "{odd:?}");
        }
    }
}
