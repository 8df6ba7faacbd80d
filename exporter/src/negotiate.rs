//! Which format and encoding a scraper asks for.

/// A text format.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Format {
    /// Prometheus' text format 0.0.4: what everything understands.
    #[default]
    Text,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
}

impl Format {
    /// The `Content-Type`.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// The best of an `Accept` header; what is not understood is passed over, and nothing understood
    /// means the plain format, since an answer is of more use than 406.
    pub fn negotiate(accept: &str) -> Self {
        let mut best = (0, Self::Text);
        for (media, parameters, quality) in ranges(accept) {
            let found = match media {
                "application/openmetrics-text" => {
                    let version =
                        parameters.iter().find_map(|(key, value)| (*key == "version").then_some(*value));
                    // 0.0.1 was a draft with the same sample lines; only 1.0.0 is what we write.
                    if !matches!(version, None | Some("1.0.0")) {
                        continue;
                    }
                    Self::OpenMetrics
                }
                "text/plain" | "text/*" | "*/*" => Self::Text,
                _ => continue,
            };
            if quality > best.0 {
                best = (quality, found);
            }
        }
        best.1
    }
}

/// Whether an `Accept-Encoding` header takes gzip.
pub fn accepts_gzip(accept_encoding: &str) -> bool {
    let quality_of = |name: &str| {
        ranges(accept_encoding)
            .find_map(|(coding, _, quality)| coding.eq_ignore_ascii_case(name).then_some(quality))
    };
    quality_of("gzip").or_else(|| quality_of("*")).unwrap_or(0) > 0
}

/// Items of an Accept-like header: the value, its parameters, its quality in thousandths.
fn ranges(header: &str) -> impl Iterator<Item = (&str, Vec<(&str, &str)>, u32)> {
    header.split(',').filter_map(|item| {
        let mut parts = item.split(';').map(str::trim);
        let value = parts.next().filter(|value| !value.is_empty())?;
        let mut quality = 1000;
        let mut parameters = Vec::new();
        for part in parts {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            let (key, value) = (key.trim(), value.trim().trim_matches('"'));
            if key.eq_ignore_ascii_case("q") {
                let parsed: f64 = value.parse().ok().filter(|q| (0.0..=1.0).contains(q))?;
                quality = (parsed * 1000.0) as u32;
            } else {
                parameters.push((key, value));
            }
        }
        Some((value, parameters, quality))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_by_quality() {
        let prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        let protobuf_first = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited,application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.6";
        for (accept, wanted) in [
            (prometheus, Format::OpenMetrics),
            (protobuf_first, Format::OpenMetrics),
            ("application/openmetrics-text; version=\"1.0.0\"; charset=utf-8", Format::OpenMetrics),
            ("application/openmetrics-text;version=0.0.1", Format::Text),
            ("application/openmetrics-text;version=1.0.0;q=0.2,text/plain;q=0.9", Format::Text),
            ("application/openmetrics-text;q=0", Format::Text),
            ("text/html,*/*;q=0.8", Format::Text),
            ("", Format::Text),
            (",;,;;q=,a/b;q=7", Format::Text),
        ] {
            assert_eq!(Format::negotiate(accept), wanted, "{accept:?}");
        }
    }

    #[test]
    fn gzip_unless_refused() {
        for (header, wanted) in [
            ("gzip", true),
            ("deflate, GZIP;q=1.0", true),
            ("*", true),
            ("gzip;q=0, *", false),
            ("identity", false),
            ("", false),
            ("gzip;q=x", false),
        ] {
            assert_eq!(accepts_gzip(header), wanted, "{header:?}");
        }
    }
}
