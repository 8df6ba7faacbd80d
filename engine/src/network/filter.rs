//! Which networks a list's filters admit, and which of them nobody needs.

use jiff::Timestamp;

use super::Network;
use crate::container;
use crate::filter::{Error, Given, is_true, label_holds, until};
use crate::store::Store;

/// Whether a network passes the filters: any value of one key, every key.
pub fn admits(network: &Network, filters: &[Given], dangling: bool) -> Result<bool, Error> {
    let mut keys: Vec<&str> = filters.iter().map(|(key, _)| key.as_str()).collect();
    keys.dedup();
    for key in keys {
        let mut fits = false;
        for (_, value) in filters.iter().filter(|(have, _)| have == key) {
            fits |= match key {
                "driver" => network.driver.as_str() == value,
                "id" => network.id.contains(value.as_str()),
                "name" => network.name.contains(value.as_str()),
                "scope" => value == "local",
                "type" => match value.as_str() {
                    "builtin" => network.is_predefined(),
                    "custom" => !network.is_predefined(),
                    _ => return Err(Error::NetworkType(value.clone())),
                },
                "dangling" => {
                    is_true(value).ok_or_else(|| Error::Invalid(format!("dangling={value}")))? == dangling
                }
                "label" => label_holds(&network.labels, value),
                "label!" => !label_holds(&network.labels, value),
                other => return Err(Error::Invalid(other.to_owned())),
            };
        }
        if !fits {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Removes the networks that no container is on or will want again when it starts. Returns their names.
pub fn prune(store: &mut Store, given: &[Given]) -> Result<Vec<String>, Error> {
    let (moments, filters): (Vec<_>, Vec<_>) = given.iter().cloned().partition(|(key, _)| key == "until");
    let moments = moments.iter().map(|(_, value)| until(value)).collect::<Result<Vec<Timestamp>, _>>()?;
    super::tidy(store)?;
    let wanted: Vec<String> = container::list(store)?
        .iter()
        .flat_map(|container| container::network::wanted(container).into_iter().map(|(name, _)| name))
        .collect();
    let mut wrong = None;
    let removed = super::prune(store, |network| {
        let older =
            |moment: &Timestamp| network.created.parse::<Timestamp>().is_ok_and(|created| created < *moment);
        if wanted.iter().any(|name| *name == network.name || *name == network.id)
            || !moments.iter().all(older)
        {
            return true;
        }
        match admits(network, &filters, true) {
            Ok(fits) => !fits,
            Err(failure) => {
                wrong = Some(failure);
                true
            }
        }
    })?;
    match wrong {
        Some(failure) => Err(failure),
        None => Ok(removed.into_iter().map(|network| network.name).collect()),
    }
}
