//! The dashboards and alerts use what is exported, and the JSON is what the code makes.

use std::collections::BTreeSet;
use std::path::Path;

use bulkhead_exporter::FAMILIES;

#[path = "../grafana/dashboards.rs"]
#[allow(dead_code, reason = "its main writes the files")]
mod dashboards;

fn here(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Metric names in an expression: words with an underscore that are neither functions nor labels.
fn metrics(expr: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for word in expr.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
        if ["container_", "machine_", "bulkhead_", "process_"].iter().any(|start| word.starts_with(start)) {
            names.insert(word.to_owned());
        }
    }
    names
}

fn is_exported(name: &str) -> bool {
    let base = name.strip_suffix("_bucket").unwrap_or(name);
    FAMILIES.iter().any(|family| family.name == name || family.name == base)
}

#[test]
fn the_json_is_what_the_code_makes() {
    for (file, title, one, panels) in dashboards::DASHBOARDS {
        let want = format!("{:#}\n", dashboards::render(file, title, *one, panels));
        assert!(
            here(&format!("grafana/{file}.json")) == want,
            "grafana/{file}.json is stale: cargo run -p bulkhead-exporter --example dashboards -- exporter/grafana"
        );
    }
}

#[test]
fn panels_and_alerts_ask_for_what_is_exported() {
    for (file, _, _, panels) in dashboards::DASHBOARDS {
        for (title, _, queries) in *panels {
            for (expr, _) in *queries {
                for name in metrics(expr) {
                    assert!(is_exported(&name), "{file}: {title}: {name}");
                }
            }
        }
    }
    let rules = here("prometheus/alerts.yml");
    let mut seen = 0;
    for expr in rules.lines().filter_map(|line| line.trim().strip_prefix("expr: ")) {
        for name in metrics(expr) {
            seen += 1;
            assert!(is_exported(&name), "alerts.yml: {name}");
        }
    }
    assert!(seen >= 10, "the alerts were not found");
}
