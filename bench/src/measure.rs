//! Taking turns, medians and ratios, and the table.

use std::fmt::Write as _;
use std::time::Duration;

/// One tool's way of doing the work: a name, and how to do it once in round `n`.
pub struct Contender<'a> {
    /// As it stands in the table.
    pub name: String,
    /// Does it once; the duration is the worker's.
    pub once: Box<dyn FnMut(usize) -> Result<Duration, String> + 'a>,
}

/// What came out for one tool.
#[derive(Debug)]
pub struct Figures {
    /// As it stands in the table.
    pub name: String,
    /// One per round; empty when it failed.
    pub rounds: Vec<Duration>,
    /// Why it is not in the table.
    pub failed: Option<String>,
}

/// Lets the contenders take turns; `warm` rounds are thrown away. Who fails once is out.
pub fn interleave(contenders: &mut [Contender<'_>], warm: usize, rounds: usize) -> Vec<Figures> {
    let mut figures: Vec<Figures> = contenders
        .iter()
        .map(|c| Figures { name: c.name.clone(), rounds: Vec::new(), failed: None })
        .collect();
    for round in 0..warm + rounds {
        for (contender, figure) in contenders.iter_mut().zip(&mut figures) {
            if figure.failed.is_some() {
                continue;
            }
            match (contender.once)(round) {
                Ok(took) if round >= warm => figure.rounds.push(took),
                Ok(_) => {}
                Err(error) => {
                    eprintln!("  {} is out: {error}", contender.name);
                    figure.failed = Some(error);
                    figure.rounds.clear();
                }
            }
        }
        eprint!("\r  round {} of {}", round + 1, warm + rounds);
    }
    eprintln!();
    figures
}

/// The middle one (the lower middle of an even number).
pub fn median<T: Copy + PartialOrd>(values: &[T]) -> Option<T> {
    let mut sorted = values.to_vec();
    sorted.sort_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
    sorted.get(sorted.len().checked_sub(1)? / 2).copied()
}

/// A markdown table: the first contender is what the others are compared with.
pub fn table(title: &str, figures: &[Figures]) -> String {
    let mut text = format!(
        "\n### {title}\n\n| tool | median | fastest | rounds | times the first |\n|---|---|---|---|---|\n"
    );
    let first = figures.first().map(|f| f.rounds.clone()).unwrap_or_default();
    for figure in figures {
        let (Some(middle), Some(best)) = (median(&figure.rounds), figure.rounds.iter().min()) else {
            let why = figure.failed.as_deref().unwrap_or("no round");
            let _ = writeln!(text, "| {} | – | – | 0 | left out: {why} |", figure.name);
            continue;
        };
        let ratios: Vec<f64> =
            figure.rounds.iter().zip(&first).map(|(a, b)| a.as_secs_f64() / b.as_secs_f64()).collect();
        let ratio = median(&ratios).map_or_else(|| "–".to_owned(), |r| format!("{r:.2}"));
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {ratio} |",
            figure.name,
            human(middle),
            human(*best),
            figure.rounds.len()
        );
    }
    text
}

fn human(duration: Duration) -> String {
    let ms = duration.as_secs_f64() * 1e3;
    if ms < 100.0 {
        format!("{ms:.2} ms")
    } else if ms < 2000.0 {
        format!("{ms:.0} ms")
    } else {
        format!("{:.2} s", ms / 1e3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_ratios() {
        assert_eq!(median(&[3, 1, 2]), Some(2));
        assert_eq!(median(&[4, 1, 2, 3]), Some(2));
        assert_eq!(median::<u8>(&[]), None);
        let ms = |values: &[u64]| values.iter().map(|v| Duration::from_millis(*v)).collect();
        let figures = [
            Figures { name: "us".to_owned(), rounds: ms(&[1, 2, 10]), failed: None },
            Figures { name: "them".to_owned(), rounds: ms(&[3, 6, 20]), failed: None },
            Figures { name: "absent".to_owned(), rounds: Vec::new(), failed: Some("not here".to_owned()) },
        ];
        let table = table("t", &figures);
        assert!(table.contains("| us | 2.00 ms | 1.00 ms | 3 | 1.00 |"), "{table}");
        // The ratio is taken round by round: 3, 3, 2.
        assert!(table.contains("| them | 6.00 ms | 3.00 ms | 3 | 3.00 |"), "{table}");
        assert!(table.contains("left out: not here"), "{table}");
    }
}
