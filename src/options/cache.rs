//! `--cache-from` and `--cache-to` of `build`.

use bulkhead_engine::build::inherit::Source;

/// Keys, in lower case, with their values.
type Fields<'a> = Vec<(String, &'a str)>;

/// What `type` says in one flag, and its other fields.
fn fields(text: &str) -> Result<(String, Fields<'_>), String> {
    let (mut kind, mut rest) = (None, Vec::new());
    for field in text.split(',') {
        let (key, value) = field.split_once('=').ok_or_else(|| format!("invalid value {field}"))?;
        match key.trim().to_ascii_lowercase() {
            key if key == "type" => kind = Some(value.to_owned()),
            key => rest.push((key, value)),
        }
    }
    Ok((kind.ok_or_else(|| format!("type required form> {text:?}"))?, rest))
}

/// Reads `NAME[,NAME…]` or `type=registry,ref=NAME`.
pub fn sources(text: &str) -> Result<Vec<Source>, String> {
    if !text.contains('=') {
        let named = text.split(',').filter(|name| !name.is_empty());
        return Ok(named.map(|name| Source { name: name.to_owned(), remote: false }).collect());
    }
    let (kind, rest) = fields(text)?;
    if kind != "registry" {
        return Err(format!("unknown cache importer: {kind}"));
    }
    let mut name = None;
    for (key, value) in rest {
        match key.as_str() {
            "ref" if !value.is_empty() => name = Some(value.to_owned()),
            "ref" => {}
            _ => return Err(format!("unknown option {key:?} of cache importer registry")),
        }
    }
    let name = name.ok_or("failed to configure registry cache importer: ref is required")?;
    Ok(vec![Source { name, remote: true }])
}

/// Reads `type=inline`, the only one there is.
pub fn inline(text: &str) -> Result<(), String> {
    if !text.contains('=') {
        return Err("unknown cache exporter: \"registry\"".to_owned());
    }
    match fields(text)? {
        (kind, rest) if kind == "inline" => match rest.first() {
            // The least there is, which is what an inline cache has.
            None => Ok(()),
            Some((key, "min")) if key == "mode" => Ok(()),
            Some((key, _)) => Err(format!("unknown option {key:?} of cache exporter inline")),
        },
        (kind, _) => Err(format!("unknown cache exporter: {kind:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_names_or_fields() {
        let source = |name: &str, remote| Source { name: name.to_owned(), remote };
        assert_eq!(sources("a:1,b"), Ok(vec![source("a:1", false), source("b", false)]));
        assert_eq!(sources("type=registry,ref=r/a:1"), Ok(vec![source("r/a:1", true)]));
        for (text, why) in [
            ("type=gha", "unknown cache importer: gha"),
            ("ref=a", "type required form> \"ref=a\""),
            ("type=registry", "failed to configure registry cache importer: ref is required"),
            ("type=registry,a", "invalid value a"),
        ] {
            assert_eq!(sources(text), Err(why.to_owned()));
        }
    }

    #[test]
    fn the_cache_goes_into_the_image() {
        assert_eq!(inline("type=inline"), Ok(()));
        assert_eq!(inline("type=inline,mode=min"), Ok(()));
        assert!(inline("type=local,dest=x").is_err() && inline("a/b").is_err());
        assert!(inline("type=inline,mode=max").is_err());
    }
}
