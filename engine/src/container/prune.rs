//! `container prune`: which containers nobody needs.

use jiff::Timestamp;

use super::{Container, Status, lifecycle, record};
use crate::filter::{Error, Given, label_holds, until};
use crate::layer;
use crate::store::Store;

fn admits(given: &[Given], container: &Container) -> Result<bool, Error> {
    let mut admitted = true;
    for (name, value) in given {
        let labels = &container.record.config.labels;
        admitted &= match name.as_str() {
            "until" => {
                let moment = until(value)?;
                container.created.parse::<Timestamp>().is_ok_and(|created| created < moment)
            }
            "label" => label_holds(labels, value),
            "label!" => !label_holds(labels, value),
            other => return Err(Error::Invalid(other.to_owned())),
        };
    }
    Ok(admitted)
}

/// Removes containers that do not run. Returns their ids and the bytes freed.
pub fn prune(store: &mut Store, given: &[Given]) -> Result<(Vec<String>, u64), Error> {
    let (mut ids, mut freed) = (Vec::new(), 0);
    for container in record::list(store)? {
        let stopped = matches!(container.state.status, Status::Created | Status::Exited);
        if !admits(given, &container)? || !stopped {
            continue;
        }
        let usage = layer::disk_usage(&container.dir(store.layout()).join("upper"));
        match lifecycle::remove(store, &container, false, false) {
            Ok(()) => {
                // Of one whose directory is gone already nothing is freed.
                freed += usage.map_or(0, |usage| usage.bytes);
                ids.push(container.id);
            }
            // Started or removed by somebody else meanwhile.
            Err(super::Error::RemoveRunning { .. } | super::Error::NoSuchContainer(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok((ids, freed))
}
