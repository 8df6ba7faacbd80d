//! How steps are called: `[stage 2/4] RUN make`, in BuildKit's words.
//!
//! Nothing of this decides what is built. Whoever reads a build's progress, or searches for a line of it, knows these
//! names from BuildKit.

/// `[name 2/4] ` in front of a stage's steps.
pub(super) struct Counter {
    pub(super) stage: String,
    pub(super) total: usize,
    pub(super) at: usize,
}

impl Counter {
    pub(super) fn name(&mut self, text: &str) -> String {
        self.at += 1;
        let width = self.total.to_string().len();
        let stage = if self.stage.is_empty() { String::new() } else { format!("{} ", self.stage) };
        format!("[{stage}{:>width$}/{}] {text}", self.at, self.total)
    }
}

/// The first line of a here-document, as it is shown.
pub(super) fn summary(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let mut short: String = lines.first().map(|line| line.trim().to_owned()).unwrap_or_default();
    if short.chars().count() > 15 {
        short = short.chars().take(15).collect();
        short.push_str("...");
    } else if lines.len() > 1 {
        short.push_str("...");
    }
    short
}

/// Bytes as BuildKit shows them.
pub fn bytes(n: u64) -> String {
    let mut size = n as f64;
    for unit in ["B", "kB", "MB"] {
        if size < 1000.0 {
            return if unit == "B" { format!("{n}B") } else { format!("{size:.2}{unit}") };
        }
        size /= 1000.0;
    }
    format!("{size:.2}GB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_buildkits() {
        assert_eq!(
            (bytes(2), bytes(1500), bytes(2_500_000)),
            ("2B".to_owned(), "1.50kB".to_owned(), "2.50MB".to_owned())
        );
        let mut counter = Counter { stage: "builder".to_owned(), total: 12, at: 1 };
        assert_eq!(counter.name("RUN x"), "[builder  2/12] RUN x");
    }
}
