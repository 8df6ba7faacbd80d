//! A dashboard as Grafana would lay it out, drawn from what Prometheus answers.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::escaped;
use super::json::Value;
use crate::quiet;

/// A column of Grafana's 24, and a row.
const COLUMN: f64 = 46.0;
const ROW: f64 = 26.0;
const HEAD: f64 = 40.0;
const GAP: f64 = 8.0;
const STEP: u64 = 2;
const COLORS: [&str; 10] = [
    "#73bf69", "#5794f2", "#f2cc0c", "#ff780a", "#b877d9", "#f2495c", "#8ab8ff", "#96d98d", "#ffcb7d",
    "#ca95e5",
];

/// A line of a graph: times and values.
type Points = Vec<(f64, f64)>;
/// A series: its labels and its line.
type Series = (BTreeMap<String, String>, Points);

/// The picture of the dashboard in that file over the last `span`.
pub fn picture(file: &Path, prometheus: &str, span: Duration) -> Result<String, String> {
    let text = fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
    let dashboard = Value::parse(&text).map_err(|e| format!("{}: {e}", file.display()))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let range = (now - span.as_secs(), now);
    let panels = dashboard.list("panels");
    let bottom =
        panels.iter().filter_map(|panel| panel.get("gridPos")).map(|at| at.number("y") + at.number("h"));
    let (width, height) = (24.0 * COLUMN + GAP, bottom.fold(0.0, f64::max) * ROW + HEAD + GAP);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" \
         font-family=\"Inter,Helvetica,Arial,sans-serif\" font-size=\"12\">\n<title>{0}</title>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#111217\"/>\n\
         <text x=\"{GAP}\" y=\"26\" fill=\"#ccccdc\" font-size=\"16\">{0}</text>\n\
         <text x=\"{1:.0}\" y=\"26\" fill=\"#8e8e9f\" text-anchor=\"end\">the last {2} s, from Prometheus</text>\n",
        escaped(dashboard.text("title")),
        width - GAP,
        span.as_secs(),
    );
    for panel in panels {
        draw(&mut out, panel, prometheus, range)?;
    }
    out.push_str("</svg>\n");
    Ok(out)
}

fn draw(out: &mut String, panel: &Value, prometheus: &str, range: (u64, u64)) -> Result<(), String> {
    let place = panel.get("gridPos").ok_or("a panel without a place")?;
    let (x, y) = (place.number("x") * COLUMN + GAP, place.number("y") * ROW + HEAD);
    let (width, height) = (place.number("w") * COLUMN - GAP, place.number("h") * ROW - GAP);
    let unit = panel.get("fieldConfig").and_then(|c| c.get("defaults")).map_or("", |d| d.text("unit"));
    let mut lines: Vec<(String, Points)> = Vec::new();
    for target in panel.list("targets") {
        for (labels, points) in query(prometheus, target.text("expr"), range)? {
            lines.push((legend(target.text("legendFormat"), &labels), points));
        }
    }
    let _ = writeln!(
        out,
        "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" rx=\"3\" fill=\"#181b1f\" stroke=\"#25272d\"/>\n\
         <text x=\"{:.1}\" y=\"{:.1}\" fill=\"#ccccdc\">{}</text>",
        x + 8.0,
        y + 17.0,
        escaped(panel.text("title"))
    );
    if panel.text("type") == "stat" {
        let last = lines.first().and_then(|(_, points)| points.last()).map(|(_, value)| *value);
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" fill=\"#73bf69\" font-size=\"30\" text-anchor=\"middle\">{}</text>",
            x + width / 2.0,
            y + height / 2.0 + 18.0,
            last.map_or_else(|| "no data".to_owned(), |value| told(value, unit))
        );
        return Ok(());
    }
    // The busiest first, as a reader looks for them.
    let top = |points: &Points| {
        points.iter().map(|(_, value)| *value).filter(|v| v.is_finite()).fold(0.0, f64::max)
    };
    lines.sort_by(|a, b| top(&b.1).total_cmp(&top(&a.1)));
    let highest = lines.iter().map(|(_, points)| top(points)).fold(0.0, f64::max);
    let highest = if highest > 0.0 { highest * 1.1 } else { 1.0 };
    let (left, right, upper, lower) = (x + 62.0, x + width - 10.0, y + 28.0, y + height - 30.0);
    for n in 0..=3 {
        let part = f64::from(n) / 3.0;
        let at = lower - part * (lower - upper);
        let _ = writeln!(
            out,
            "<path d=\"M{left:.1} {at:.1}H{right:.1}\" stroke=\"#2c3036\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" fill=\"#8e8e9f\" font-size=\"10\" text-anchor=\"end\">{}</text>",
            left - 5.0,
            at + 3.5,
            told(highest * part, unit)
        );
    }
    let mut name_at = left;
    for (n, (name, points)) in lines.iter().enumerate() {
        let color = COLORS[n % COLORS.len()];
        let mut path = String::new();
        let mut before: Option<f64> = None;
        for (time, value) in points.iter().filter(|(_, value)| value.is_finite()) {
            let across = (time - range.0 as f64) / (range.1 - range.0) as f64;
            // A gap in the data is a gap in the line.
            let joined = before.is_some_and(|before| time - before < 3.0 * STEP as f64);
            let _ = write!(
                path,
                "{}{:.1} {:.1}",
                if joined { 'L' } else { 'M' },
                left + across * (right - left),
                lower - value / highest * (lower - upper)
            );
            before = Some(*time);
        }
        let _ = writeln!(out, "<path d=\"{path}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"1.5\"/>");
        let wide = 20.0 + name.chars().count() as f64 * 6.2;
        if name_at + wide < right {
            let _ = writeln!(
                out,
                "<rect x=\"{name_at:.1}\" y=\"{:.1}\" width=\"10\" height=\"3\" fill=\"{color}\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" fill=\"#ccccdc\" font-size=\"11\">{}</text>",
                lower + 16.0,
                name_at + 14.0,
                lower + 21.0,
                escaped(name)
            );
            name_at += wide;
        }
    }
    if lines.is_empty() {
        let (x, y) = (x + width / 2.0, y + height / 2.0);
        let _ = writeln!(
            out,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" fill=\"#8e8e9f\" text-anchor=\"middle\">no data</text>"
        );
    }
    Ok(())
}

/// Asked by promtool, which prints a series as its labels and a line `value @[time]` for each point.
fn query(prometheus: &str, expr: &str, range: (u64, u64)) -> Result<Vec<Series>, String> {
    let text = quiet(Command::new("promtool").args([
        "query",
        "range",
        &format!("--start={}", range.0),
        &format!("--end={}", range.1),
        &format!("--step={STEP}s"),
        &format!("http://{prometheus}"),
        expr,
    ]))?;
    let mut found: Vec<Series> = Vec::new();
    for line in text.lines() {
        if let Some(head) = line.strip_suffix(" =>") {
            found.push((labels(head), Vec::new()));
        } else if let (Some((value, time)), Some((_, points))) = (line.split_once(" @["), found.last_mut())
            && let (Ok(value), Ok(time)) = (value.parse(), time.trim_end_matches(']').parse())
        {
            points.push((time, value));
        }
    }
    Ok(found)
}

/// `name{a="b", c="d"}`. Our containers' names hold no quotes.
fn labels(head: &str) -> BTreeMap<String, String> {
    let inside = head.split_once('{').map_or("", |(_, rest)| rest.trim_end_matches('}'));
    inside
        .split("\", ")
        .filter_map(|pair| pair.split_once("=\""))
        .map(|(name, value)| (name.trim().to_owned(), value.trim_end_matches('"').to_owned()))
        .collect()
}

fn legend(format: &str, labels: &BTreeMap<String, String>) -> String {
    if format == "__auto" {
        return labels.values().cloned().collect::<Vec<_>>().join(" ");
    }
    labels
        .iter()
        .fold(format.to_owned(), |text, (name, value)| text.replace(&format!("{{{{{name}}}}}"), value))
}

/// A number in Grafana's units.
fn told(value: f64, unit: &str) -> String {
    let scaled = |value: f64, step: f64, units: &[&str]| {
        let (mut value, mut at) = (value, 0);
        while value.abs() >= step && at + 1 < units.len() {
            value /= step;
            at += 1;
        }
        let digits = usize::from(value.abs() < 10.0 && value.fract() != 0.0);
        format!("{value:.digits$} {}", units[at]).trim_end().to_owned()
    };
    match unit {
        "percentunit" => {
            let digits = usize::from(value < 0.1 && value > 0.0);
            format!("{:.digits$} %", value * 100.0)
        }
        "bytes" => scaled(value, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB"]),
        "Bps" => scaled(value, 1000.0, &["B/s", "kB/s", "MB/s", "GB/s"]),
        "s" if value > 0.0 && value < 1.0 => format!("{:.1} ms", value * 1000.0),
        "s" => format!("{value:.1} s"),
        _ => scaled(value, 1000.0, &["", "k", "M"]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_and_their_names() {
        let labels = labels("up{instance=\"127.0.0.1:1\", job=\"bulkhead\"}");
        assert_eq!(labels["job"], "bulkhead");
        assert_eq!(legend("of {{instance}}", &labels), "of 127.0.0.1:1");
        assert_eq!(legend("__auto", &labels), "127.0.0.1:1 bulkhead");
        assert_eq!(legend("__auto", &super::labels("{}")), "");
    }

    #[test]
    fn units() {
        for (value, unit, want) in [
            (0.256, "percentunit", "26 %"),
            (0.05, "percentunit", "5.0 %"),
            (1536.0, "bytes", "1.5 KiB"),
            (0.0, "Bps", "0 B/s"),
            (2_500_000.0, "Bps", "2.5 MB/s"),
            (0.0123, "s", "12.3 ms"),
            (3.0, "short", "3"),
        ] {
            assert_eq!(told(value, unit), want);
        }
    }
}
