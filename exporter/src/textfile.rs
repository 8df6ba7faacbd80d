//! The same answer as a file, for node_exporter's textfile collector.
//!
//! The collector reads whenever it likes, so the file appears by a rename and is never half.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use crate::Body;

/// The file could not be written.
#[derive(Debug, thiserror::Error)]
#[error("{call} {path}: {source}", path = path.display())]
pub struct TextfileError {
    /// The call.
    call: &'static str,
    /// Its object.
    path: PathBuf,
    /// Why.
    source: std::io::Error,
}

/// Puts an answer at `path`, all at once. The directory must be there.
pub fn write_textfile(path: &Path, answer: &Body) -> Result<(), TextfileError> {
    let at = |call, path: &Path| {
        let path = path.to_owned();
        move |source| TextfileError { call, path, source }
    };
    let mut hidden = path.as_os_str().to_owned();
    // node_exporter reads `*.prom` only.
    hidden.push(format!(".{}", std::process::id()));
    let hidden = PathBuf::from(hidden);
    let written = fs::File::create(&hidden)
        .map_err(at("open", &hidden))
        .and_then(|mut file| {
            answer.pieces().iter().try_for_each(|piece| file.write_all(piece)).map_err(at("write", &hidden))
        })
        .and_then(|()| fs::rename(&hidden, path).map_err(at("rename", path)));
    if written.is_err() {
        let _ = fs::remove_file(&hidden);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bulkhead.prom");
        write_textfile(&path, &"a 1\n".into()).unwrap();
        write_textfile(&path, &"a 2\n".into()).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "a 2\n");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        let error = write_textfile(&dir.path().join("none/x.prom"), &Body::default()).unwrap_err();
        assert!(error.to_string().starts_with("open "), "{error}");
        fs::create_dir(dir.path().join("taken")).unwrap();
        assert!(write_textfile(&dir.path().join("taken"), &Body::default()).is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
