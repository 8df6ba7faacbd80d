//! Lists of things, in the formats of `--format`.

use serde_json::{Map, Value};

use super::{raw, table};
use crate::failure::Failure;
use crate::template::{Error, Kind, Template};

/// How a kind of thing is listed.
pub struct Listing<'a> {
    /// The template of the plain table, without the word `table`.
    pub table: &'a str,
    /// Titles of the fields that a table may show.
    pub titles: &'a [(&'a str, &'a str)],
    /// The Go type that messages name.
    pub type_name: &'static str,
}

/// A template's error, as Docker's client words it.
pub fn bad_template(error: &Error) -> Failure {
    Failure::plain(format!("template parsing error: {error}"))
}

/// Whether `format` shows `field`; what is dear to find out is found out only then.
pub fn shows(format: Option<&str>, field: &str) -> bool {
    format.is_some_and(|format| format.contains(field))
}

impl Listing<'_> {
    /// Prints `rows`.
    pub fn print(&self, format: Option<&str>, rows: Vec<Value>) -> Result<u8, Failure> {
        raw(self.render(format, rows)?.as_bytes())
    }

    /// Whether a row must have `field`: the plain table says itself what it shows, another format may ask for anything.
    pub fn wants(&self, format: Option<&str>, field: &str) -> bool {
        let is_plain = matches!(format.map(str::trim), None | Some("" | "table"));
        let mut shown = self.table.split("{{.").filter_map(|rest| rest.split_once("}}"));
        !is_plain || shown.any(|(name, _)| name == field)
    }

    /// What [`Self::print`] prints.
    pub fn render(&self, format: Option<&str>, rows: Vec<Value>) -> Result<String, Failure> {
        let format = format.filter(|format| !format.trim().is_empty()).unwrap_or("table");
        let (columns, text) = match format.strip_prefix("table") {
            Some("") => (true, self.table),
            Some(rest) if rest.starts_with([' ', '\t']) || rest.starts_with("\\t") => (true, rest),
            _ if format == "json" => (false, "{{json .}}"),
            _ => (false, format),
        };
        let text = text.trim().replace("\\t", "\t").replace("\\n", "\n");
        let template = Template::parse(&text).map_err(|error| bad_template(&error))?;
        let mut out = String::new();
        if columns {
            let titles: Map<String, Value> =
                self.titles.iter().map(|(field, title)| ((*field).to_owned(), Value::from(*title))).collect();
            template
                .execute(Value::Object(titles), Kind::Header, &mut out)
                .map_err(|error| bad_template(&error))?;
            out.push('\n');
        }
        for row in rows {
            template
                .execute(row, Kind::Row(self.type_name), &mut out)
                .map_err(|error| bad_template(&error))?;
            out.push('\n');
        }
        Ok(if columns { table::columns(&out, 10) } else { out })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const LISTING: Listing<'static> = Listing {
        table: "{{.ID}}\t{{.Names}}",
        titles: &[("ID", "CONTAINER ID"), ("Names", "NAMES")],
        type_name: "*formatter.ContainerContext",
    };

    #[test]
    fn formats() {
        let rows = || vec![json!({"ID": "abc", "Names": "web", "_labels": {"x.y": "1"}})];
        for (format, want) in [
            (None, "CONTAINER ID   NAMES\nabc            web\n"),
            (Some("table"), "CONTAINER ID   NAMES\nabc            web\n"),
            (Some("table {{.Names}}\\t{{.ID}}"), "NAMES     CONTAINER ID\nweb       abc\n"),
            (Some("table {{.Names}} {{.Label \"x.y\"}}"), "NAMES y\nweb 1\n"),
            (Some("{{.ID}}\\t{{.Names}}"), "abc\tweb\n"),
            (Some("json"), "{\"ID\":\"abc\",\"Names\":\"web\"}\n"),
            (Some("tablet"), "tablet\n"),
        ] {
            assert_eq!(LISTING.render(format, rows()), Ok(want.to_owned()), "{format:?}");
        }
        let failure = LISTING.render(Some("{{.Nope}}"), rows()).expect_err("refused");
        assert_eq!(
            failure.message,
            "template parsing error: template: :1:2: executing \"\" at <.Nope>: can't evaluate field Nope in type *formatter.ContainerContext"
        );
        let failure = LISTING.render(Some("{{.Foo"), rows()).expect_err("refused");
        assert_eq!(failure.message, "template parsing error: template: :1: unclosed action");
    }
}
