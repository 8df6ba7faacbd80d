//! The last two minutes of a container, for its sparklines.

use std::collections::VecDeque;

use bulkhead_engine::model::{Figures, Rates};

/// Readings kept: two minutes at one a second.
const LENGTH: usize = 120;

/// One figure over time.
#[derive(Debug, Clone, Default)]
pub struct Series(VecDeque<f64>);

impl Series {
    fn push(&mut self, value: f64) {
        if self.0.len() == LENGTH {
            self.0.pop_front();
        }
        self.0.push_back(value);
    }

    /// As `width` block characters, the latest last, scaled to `top` or to the largest if that is larger.
    pub fn spark(&self, width: usize, top: f64) -> String {
        const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
        let shown = self.0.iter().skip(self.0.len().saturating_sub(width));
        let top = shown.clone().fold(top, |top, value| top.max(*value));
        let blank = width.saturating_sub(self.0.len());
        std::iter::repeat_n(' ', blank)
            .chain(shown.map(|value| {
                if top <= 0.0 || *value <= 0.0 {
                    return BLOCKS[0];
                }
                BLOCKS[((value / top * 8.0).ceil() as usize).clamp(1, 8) - 1]
            }))
            .collect()
    }

    /// The latest value.
    pub fn last(&self) -> f64 {
        self.0.back().copied().unwrap_or(0.0)
    }
}

/// All of a container's.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// Percent of one CPU.
    pub cpu: Series,
    /// Bytes, without inactive cache.
    pub memory: Series,
    /// Bytes a second, both directions.
    pub network: Series,
    /// Bytes a second, both directions.
    pub io: Series,
}

impl History {
    /// Adds a reading.
    pub fn push(&mut self, figures: &Figures, rates: Option<Rates>) {
        let memory = figures.stats.as_ref().and_then(|stats| stats.memory.as_ref());
        let rates = rates.unwrap_or_default();
        self.cpu.push(rates.cpu);
        self.memory.push(memory.map_or(0.0, |memory| memory.working_set() as f64));
        self.network.push(rates.received + rates.sent);
        self.io.push(rates.read + rates.written);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sparks() {
        let mut series = Series::default();
        assert_eq!(series.spark(3, 1.0), "   ");
        for value in [0.0, 50.0, 100.0] {
            series.push(value);
        }
        assert_eq!(series.spark(4, 100.0), " ▁▄█");
        assert_eq!(series.spark(2, 0.0), "▄█");
        assert_eq!(series.spark(3, 200.0), "▁▂▄");
        for _ in 0..500 {
            series.push(1.0);
        }
        assert_eq!(series.0.len(), LENGTH);
        assert_eq!(series.spark(200, 1.0).chars().count(), 200);
    }
}
