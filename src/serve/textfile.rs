//! The same figures as a file, again and again.

use std::path::PathBuf;
use std::time::Duration;

use bulkhead_exporter::{Scrape, write_textfile};

use super::{Error, reader::Asker};

/// Starts the writer. A write that fails is told on standard error and tried again.
pub fn start(asker: Asker, path: PathBuf, interval: Duration) -> Result<(), Error> {
    std::thread::Builder::new()
        .name("textfile".into())
        .spawn(move || {
            let scrape = Scrape { scraper: "textfile".into(), ..Scrape::default() };
            loop {
                let written = asker
                    .wait(scrape.clone())
                    .and_then(|answer| write_textfile(&path, &answer).map_err(|error| error.to_string()));
                if let Err(error) = written {
                    eprintln!("bulkhead serve: textfile: {error}");
                }
                std::thread::sleep(interval);
            }
        })
        .map(drop)
        .map_err(|source| Error::Io { call: "spawn", object: "textfile thread".into(), source })
}
