//! An image as Docker's `inspect` shows it.

use serde_json::{Map, Value, json};

use super::{Error, Image};
use crate::container::record::ZERO_TIME;
use crate::digest::ChainId;
use crate::store::Store;

/// What `inspect` prints of an image.
pub fn inspect(store: &Store, image: &Image) -> Result<Value, Error> {
    let config = serde_json::to_value(&image.config)
        .map_err(|error| Error::Stored { id: image.id.to_string(), reason: error.to_string() })?;
    let diff =
        |id: &ChainId| super::layer_dir(store.layout(), id).join("diff").to_string_lossy().into_owned();
    let mut data = Map::new();
    if let Some((upper, lower)) = image.chain.split_last() {
        if !lower.is_empty() {
            let lower: Vec<String> = lower.iter().rev().map(diff).collect();
            data.insert("LowerDir".into(), lower.join(":").into());
        }
        data.insert("UpperDir".into(), diff(upper).into());
    }
    let mut shown = json!({
        "Id": image.id.to_string(),
        "RepoTags": image.repo_tags(),
        "RepoDigests": image.repo_digests(),
        "Parent": "",
        "Comment": image.comment.as_deref().unwrap_or(""),
        "Created": image.created.as_deref().unwrap_or(ZERO_TIME),
        "DockerVersion": "",
        "Author": image.author.as_deref().unwrap_or(""),
        "Config": config,
        "Architecture": image.architecture,
        "Os": image.os,
        "Size": image.size,
        "VirtualSize": image.size,
        "GraphDriver": {"Data": data, "Name": "overlay2"},
        "RootFS": {
            "Type": "layers",
            "Layers": image.diff_ids.iter().map(ToString::to_string).collect::<Vec<_>>(),
        },
        "Metadata": {"LastTagTime": image.loaded},
    });
    if let (Some(variant), Value::Object(fields)) = (&image.variant, &mut shown) {
        fields.insert("Variant".to_owned(), variant.as_str().into());
    }
    Ok(shown)
}
