//! What is searched for, as people and clients write it.

use super::{Error, Found, Session};
use crate::filter::{Given, is_true};

/// Results unless another number is asked for. Docker's.
pub const LIMIT: i64 = 25;

/// A search that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// So many results are not given.
    #[error("limit {0} is outside the range of [1, 100]")]
    Limit(i64),
    /// A filter that there is not, or a value that means nothing.
    #[error("invalid filter '{0}'")]
    Filter(String),
}

/// A search, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Search {
    domain: String,
    term: String,
    limit: usize,
    stars: u64,
    official: Option<bool>,
    automated: Option<bool>,
}

impl Search {
    /// For `[HOST/]TERM`.
    pub fn new(term: &str, limit: i64, filters: &[Given]) -> Result<Self, Invalid> {
        let places = usize::try_from(limit).ok().filter(|limit| (1..=100).contains(limit));
        let places = places.ok_or(Invalid::Limit(limit))?;
        // A host is what a name's first part would be taken for.
        let (domain, term) = match term.split_once('/') {
            Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" => (host, rest),
            _ => ("docker.io", term),
        };
        let mut search = Self {
            domain: domain.to_owned(),
            term: term.to_owned(),
            limit: places,
            stars: 0,
            official: None,
            automated: None,
        };
        for (name, value) in filters {
            let bad = || Invalid::Filter(format!("{name}={value}"));
            let yes = || is_true(value).map(Some).ok_or_else(bad);
            match name.as_str() {
                "stars" => search.stars = value.parse::<u64>().map_err(|_| bad())?.max(search.stars),
                "is-official" => search.official = yes()?,
                "is-automated" => search.automated = yes()?,
                _ => return Err(Invalid::Filter(name.clone())),
            }
        }
        Ok(search)
    }

    /// The registry that is asked.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// What the registry has, those first that most people like.
    pub fn run(&self, session: &Session) -> Result<Vec<Found>, Error> {
        let mut found = session.search(&self.domain, &self.term, self.limit)?;
        // There are no automated builds any more: as in Docker, nobody has this.
        found.retain(|one| {
            one.stars >= self.stars
                && self.official.is_none_or(|yes| yes == one.official)
                && self.automated != Some(true)
        });
        found.sort_by_key(|one| std::cmp::Reverse(one.stars));
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_term_may_begin_with_a_host() {
        for (text, domain, term) in [
            ("fedora", "docker.io", "fedora"),
            ("someone/fedora", "docker.io", "someone/fedora"),
            ("localhost/fedora", "localhost", "fedora"),
            ("reg.example/team/fedora", "reg.example", "team/fedora"),
            ("reg:5000/fedora", "reg:5000", "fedora"),
        ] {
            let search = Search::new(text, LIMIT, &[]).expect(text);
            assert_eq!((search.domain(), search.term.as_str()), (domain, term), "{text}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for limit in [i64::MIN, 0, 101] {
            assert_eq!(Search::new("x", limit, &[]), Err(Invalid::Limit(limit)));
        }
        for (name, value, told) in [
            ("foo", "1", "foo"),
            ("stars", "many", "stars=many"),
            ("is-official", "perhaps", "is-official=perhaps"),
        ] {
            let given = [(name.to_owned(), value.to_owned())];
            assert_eq!(Search::new("x", LIMIT, &given), Err(Invalid::Filter(told.to_owned())));
        }
    }
}
