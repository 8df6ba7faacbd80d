//! The image module (placeholder until it lands).
#![allow(missing_docs)]
use crate::config::Config; use crate::digest::{ChainId,Digest}; use crate::store::Store;
#[derive(Debug, thiserror::Error)] pub enum Error { #[error("No such image: {0}")] NoSuchImage(String), #[error(transparent)] Store(#[from] crate::store::Error) }
#[derive(Debug, Clone)] pub struct Image { pub id: Digest, pub config: Config, pub chain: Vec<ChainId> }
pub fn find(store: &Store, name: &str) -> Result<Image, Error> {
    let (id, config): (String, Vec<u8>) = store.db().query_row("SELECT i.id, i.config FROM image i JOIN reference r ON r.image=i.id WHERE r.name=?1 OR i.id=?1", [name], |r| Ok((r.get(0)?, r.get(1)?))).map_err(|_| Error::NoSuchImage(name.into()))?;
    let mut st = store.db().prepare("SELECT chain_id FROM image_layer WHERE image=?1 ORDER BY position").map_err(|e| store.db_error(e))?;
    let chain: Vec<String> = st.query_map([&id], |r| r.get(0)).and_then(Iterator::collect).map_err(|e| store.db_error(e))?;
    let v: serde_json::Value = serde_json::from_slice(&config).unwrap_or_default();
    Ok(Image { id: id.parse().unwrap(), config: serde_json::from_value(v["config"].clone()).unwrap_or_default(), chain: chain.iter().map(|c| ChainId(c.parse().unwrap())).collect() })
}
