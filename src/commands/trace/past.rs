//! `trace --since`: the same lines, from the log that `serve` keeps.

use std::collections::BTreeMap;
use std::time::SystemTime;

use bulkhead_ebpf::event_log::{self, Entry, Owner};
use bulkhead_engine::container;

use super::filter::Filters;
use super::{View, note};
use crate::cli::Globals;
use crate::cli::trace::TraceArgs;
use crate::failure::Failure;
use bulkhead_engine::time::moment;

/// An operand, and whether it has been found to mean somebody.
struct Wanted<'a> {
    word: &'a str,
    /// The id of the container that the store knows by this word.
    id: Option<String>,
    met: bool,
}

impl Wanted<'_> {
    /// By what the container was called when the event was written, or is called now; a name that several had
    /// one after the other means all of them.
    fn is(&self, owner: &Owner) -> bool {
        let hex = self.word.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        self.id.as_ref() == Some(&owner.id)
            || owner.name == self.word.strip_prefix('/').unwrap_or(self.word)
            || (hex && !self.word.is_empty() && owner.id.starts_with(self.word))
    }
}

/// `bulkhead trace --since`
pub fn run(globals: &Globals, args: &TraceArgs, filters: Filters) -> Result<u8, Failure> {
    let moment = |text: &Option<String>| -> Result<Option<SystemTime>, Failure> {
        text.as_deref()
            .map(|text| moment(text).map(SystemTime::from))
            .transpose()
            .map_err(Failure::plain_from)
    };
    let since = moment(&args.since)?.unwrap_or(SystemTime::UNIX_EPOCH);
    let until = moment(&args.until)?;
    let store = globals.store()?;
    let (_, words) = args.operands();
    let mut wanted: Vec<Wanted<'_>> = Vec::new();
    for word in words {
        let id = match container::find(&store, word) {
            Ok(found) => Some(found.id),
            // It may be gone.
            Err(container::Error::NoSuchContainer(_)) => None,
            Err(other) => return Err(Failure::daemon(other)),
        };
        wanted.push(Wanted { word, met: id.is_some(), id });
    }
    let mut view = View::new(args, filters);
    let mut begun = false;
    let mut lost: BTreeMap<String, u64> = BTreeMap::new();
    let directory = event_log::directory(&globals.root);
    let skipped = event_log::read(&directory, since, |entry| {
        if !std::mem::replace(&mut begun, true) {
            // Written below with everything else if it cannot be now.
            let _ = view.begin();
        }
        match entry {
            Entry::Event { wall, event, owner } => {
                let mut ours = wanted.is_empty();
                for one in wanted.iter_mut().filter(|one| one.is(owner)) {
                    (ours, one.met) = (true, true);
                }
                let timely = wall >= since && until.is_none_or(|until| wall < until);
                if ours && timely && view.wants(event) {
                    view.show(event, owner, wall);
                }
            }
            Entry::Lost { wall, causes } => {
                if wall >= since && until.is_none_or(|until| wall < until) {
                    for (cause, count) in causes {
                        *lost.entry(cause).or_default() += count;
                    }
                    view.lost(&lost, wall);
                }
            }
        }
    })
    .map_err(Failure::plain_from)?;
    view.flush()?;
    for one in &skipped {
        note(&format!("bulkhead trace: {one}"));
    }
    if let Some(one) = wanted.iter().find(|one| !one.met) {
        return Err(Failure::daemon(container::Error::NoSuchContainer(one.word.to_owned())));
    }
    note(&format!("{} events, lost: {}", view.written, lost.values().sum::<u64>()));
    Ok(0)
}
