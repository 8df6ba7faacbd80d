//! One reader of the event log for everybody who waits for something to happen: `events`, `wait`, clients that have
//! attached to what does not run yet. A thread for each would be a thread that nobody ends when its client goes.

use std::sync::Arc;

use bulkhead_engine::children;
use bulkhead_engine::events::{Event, Reader, Watch};
use bulkhead_engine::store::Layout;
use nix::poll::PollTimeout;
use tokio::sync::broadcast;

/// Events that a listener may be behind before it misses some, and is told so.
const BEHIND: usize = 4096;

/// Where to listen.
#[derive(Debug)]
pub struct Hub {
    sender: broadcast::Sender<Arc<Event>>,
}

impl Hub {
    /// Starts the reader. The root must be there.
    pub fn start(layout: &Layout) -> std::io::Result<Self> {
        let (sender, _) = broadcast::channel(BEHIND);
        // Watched before it is read, so that nothing falls in between.
        let watch = Watch::new(layout)?;
        let mut reader = Reader::from_now(layout)?;
        let hub = Self { sender: sender.clone() };
        std::thread::Builder::new().name("api-events".into()).spawn(move || {
            loop {
                match reader.more() {
                    Ok(events) => {
                        for event in events {
                            // Nobody may be listening.
                            let _ = sender.send(Arc::new(event));
                        }
                    }
                    Err(error) => eprintln!("bulkhead serve: read the log of events: {error}"),
                }
                // Monitors that this process has started, and that have ended.
                children::collect();
                if let Err(error) = watch.wait(PollTimeout::from(1000_u16)) {
                    eprintln!("bulkhead serve: watch the log of events: {error}");
                    std::thread::sleep(std::time::Duration::from_secs(1));
                }
            }
        })?;
        Ok(hub)
    }

    /// From the next event on.
    pub fn listen(&self) -> broadcast::Receiver<Arc<Event>> {
        self.sender.subscribe()
    }
}
