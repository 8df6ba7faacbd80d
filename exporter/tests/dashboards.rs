//! The dashboards and alerts use what is exported, and the JSON is what the code makes.

use std::collections::BTreeSet;
use std::path::Path;

use bulkhead_exporter::FAMILIES;
use serde_json::Value;

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

/// What Grafana's own reader of dashboards insists on or silently drops: the fields of a panel with their types,
/// the grid of 24 columns, references to what exists. (Grafana itself is not packaged where these tests run.)
#[test]
fn the_json_is_what_grafana_reads() {
    let mut uids = BTreeSet::new();
    for (file, _, one, _) in dashboards::DASHBOARDS {
        let dashboard: Value = serde_json::from_str(&here(&format!("grafana/{file}.json"))).unwrap();
        let uid = dashboard["uid"].as_str().unwrap();
        assert!(!uid.is_empty() && uid.len() <= 40, "{uid}");
        assert!(uid.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)), "{uid}");
        assert!(uids.insert(uid.to_owned()), "{uid} twice");
        // 36 brought data sources as objects; a newer Grafana migrates from there.
        assert!(dashboard["schemaVersion"].as_u64().unwrap() >= 36);
        assert!(dashboard["title"].is_string() && dashboard["version"].is_u64() && dashboard["id"].is_null());
        for (key, of) in [("templating", "list"), ("annotations", "list")] {
            assert!(dashboard[key][of].is_array(), "{key}.{of}");
        }
        for end in ["from", "to"] {
            assert!(dashboard["time"][end].as_str().unwrap().starts_with("now"), "{end}");
        }

        let mut variables = BTreeSet::new();
        for variable in dashboard["templating"]["list"].as_array().unwrap() {
            let (name, kind) = (variable["name"].as_str().unwrap(), variable["type"].as_str().unwrap());
            match kind {
                "datasource" => assert_eq!(variable["query"], "prometheus", "{file}: the plugin"),
                "query" => {
                    let query = variable["query"]["query"].as_str().unwrap();
                    let metric = query.strip_prefix("label_values(").and_then(|rest| rest.split('{').next());
                    assert!(is_exported(metric.unwrap()), "{file}: {query}");
                    assert!((0..=2).contains(&variable["refresh"].as_i64().unwrap()));
                }
                other => panic!("{file}: variable of type {other}"),
            }
            assert!(variables.insert(name.to_owned()), "{file}: ${name} twice");
            source_exists(file, variable.get("datasource"), &variables);
        }
        assert_eq!(variables.contains("name"), *one, "{file}");

        let panels = dashboard["panels"].as_array().unwrap();
        let (mut ids, mut cells) = (BTreeSet::new(), BTreeSet::new());
        for panel in panels {
            let title = panel["title"].as_str().unwrap();
            let at = format!("{file}: {title}");
            assert!(ids.insert(panel["id"].as_u64().unwrap()), "{at}: its id twice");
            assert!(["timeseries", "stat"].contains(&panel["type"].as_str().unwrap()), "{at}");
            source_exists(&at, panel.get("datasource"), &variables);
            let grid = |key: &str| panel["gridPos"][key].as_u64().unwrap();
            let (x, y, w, h) = (grid("x"), grid("y"), grid("w"), grid("h"));
            assert!(w > 0 && h > 1 && x + w <= 24, "{at}: outside of the grid");
            for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
                assert!(cells.insert(cell), "{at}: lies over another");
            }
            let unit = panel["fieldConfig"]["defaults"]["unit"].as_str().unwrap();
            // An unknown unit is shown as text behind the number.
            let units = ["short", "bytes", "Bps", "ops", "pps", "s", "percentunit", "none", "dateTimeAsIso"];
            assert!(units.contains(&unit), "{at}: {unit}");
            assert!(panel["fieldConfig"]["overrides"].is_array(), "{at}");
            let targets = panel["targets"].as_array().unwrap();
            assert!(!targets.is_empty(), "{at}");
            let mut letters = BTreeSet::new();
            for target in targets {
                assert!(letters.insert(target["refId"].as_str().unwrap().to_owned()), "{at}: refId twice");
                source_exists(&at, target.get("datasource"), &variables);
                for text in ["expr", "legendFormat"] {
                    let text = target[text].as_str().unwrap();
                    assert!(!text.trim().is_empty(), "{at}");
                    for (start, _) in text.match_indices('$') {
                        let name: String = text[start + 1..]
                            .chars()
                            .take_while(|c| c.is_alphanumeric() || *c == '_')
                            .collect();
                        assert!(variables.contains(&name), "{at}: ${name} is no variable");
                    }
                    let count = |what| text.matches(what).count();
                    assert_eq!(count("{{"), count("}}"), "{at}: {text}");
                }
            }
        }
        // Grafana draws up what has nothing above it, and the file would not say what is seen.
        for panel in panels {
            let grid = |key: &str| panel["gridPos"][key].as_u64().unwrap();
            let (x, y, w) = (grid("x"), grid("y"), grid("w"));
            let rests = y == 0 || (x..x + w).any(|x| cells.contains(&(x, y - 1)));
            assert!(rests, "{file}: {} hangs in the air", panel["title"]);
        }
    }
}

/// `${datasource}`, and declared before.
fn source_exists(at: &str, source: Option<&Value>, variables: &BTreeSet<String>) {
    let Some(source) = source else { return };
    assert_eq!(source["type"], "prometheus", "{at}");
    let uid = source["uid"].as_str().unwrap();
    let name = uid.strip_prefix("${").and_then(|uid| uid.strip_suffix('}')).unwrap();
    assert!(variables.contains(name), "{at}: {uid}");
}
