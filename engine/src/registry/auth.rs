//! Who asks: challenges, and tokens got for them.
//!
//! A registry answers 401 and says in `WWW-Authenticate` what it wants: a password with each request
//! (`Basic`), or a token from a server of its choice (`Bearer`), for which that server wants the password.
//! So a registry chooses who is given the password of its users. That is the protocol; what can be held on
//! to is that a registry that is reached by TLS cannot have the password sent without.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::http::{Http, Origin, Outgoing, Payload, complaint, spelled};
use super::{Credentials, Error};

/// Seconds a token lives when its server does not say (distribution's rule).
const LIFE: u64 = 60;

/// What a registry wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// A user's name and password.
    Basic,
    /// A token.
    Bearer {
        /// Where it is had.
        realm: String,
        /// For whom.
        service: Option<String>,
        /// For what; what the request needs is known better by who makes it.
        scope: Option<String>,
    },
}

/// The best of the challenges in these header values.
pub(super) fn challenge<'a>(values: impl Iterator<Item = &'a str>) -> Option<Challenge> {
    let mut best = None;
    for (scheme, parameters) in values.flat_map(parse) {
        let get = |key: &str| parameters.iter().find(|(name, _)| name == key).map(|(_, value)| value.clone());
        match scheme.as_str() {
            "bearer" => {
                if let Some(realm) = get("realm") {
                    return Some(Challenge::Bearer { realm, service: get("service"), scope: get("scope") });
                }
            }
            "basic" => best = Some(Challenge::Basic),
            _ => {}
        }
    }
    best
}

type Parsed = (String, Vec<(String, String)>);

/// RFC 9110, 11.6.1: `scheme [token68 | name=value *( , name=value )] *( , challenge )`.
fn parse(text: &str) -> Vec<Parsed> {
    let mut found: Vec<Parsed> = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let end = rest.find(|c: char| !is_token(c)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        if word.is_empty() {
            return found;
        }
        let value = after.trim_start().strip_prefix('=').map(str::trim_start);
        let Some(value) = value.filter(|_| !found.is_empty()) else {
            found.push((word.to_ascii_lowercase(), Vec::new()));
            rest = after;
            continue;
        };
        let (value, after) = if let Some(quoted) = value.strip_prefix('"') {
            let mut text = String::new();
            let mut chars = quoted.char_indices();
            let mut end = quoted.len();
            while let Some((at, c)) = chars.next() {
                match c {
                    '"' => {
                        end = at + 1;
                        break;
                    }
                    '\\' => text.extend(chars.next().map(|(_, c)| c)),
                    c => text.push(c),
                }
            }
            (text, &quoted[end..])
        } else {
            let end = value.find([',', ' ', '\t']).unwrap_or(value.len());
            (value[..end].to_owned(), &value[end..])
        };
        if let Some((_, parameters)) = found.last_mut() {
            parameters.push((word.to_ascii_lowercase(), value));
        }
        rest = after;
    }
}

fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~/".contains(c)
}

#[derive(Debug, Clone)]
struct Token {
    text: String,
    until: Instant,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
    #[serde(default)]
    expires_in: Option<u64>,
}

/// What has been learned about one registry, and the tokens it takes.
#[derive(Debug, Default)]
pub(super) struct Authority {
    challenge: Mutex<Option<Challenge>>,
    tokens: Mutex<HashMap<String, Token>>,
}

impl Authority {
    /// The registry wants this.
    pub(super) fn learn(&self, challenge: Challenge) {
        *self.challenge.lock().unwrap_or_else(PoisonError::into_inner) = Some(challenge);
    }

    /// Whether the registry wants to know who asks.
    pub(super) fn needs_credentials(&self) -> bool {
        self.challenge.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// The `Authorization` for a request of `origin`'s registry; `None` if it wants nothing so far. `fresh`
    /// asks for a new token.
    pub(super) fn header(
        &self,
        http: &Http,
        origin: &Origin,
        credentials: Option<&Credentials>,
        scopes: &[String],
        fresh: bool,
    ) -> Result<Option<String>, Error> {
        let challenge = self.challenge.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match challenge {
            None => Ok(None),
            Some(Challenge::Basic) => Ok(credentials.map(basic)),
            Some(Challenge::Bearer { realm, service, scope }) => {
                let scopes: Vec<&str> = match scopes {
                    [] => scope.iter().map(String::as_str).collect(),
                    some => some.iter().map(String::as_str).collect(),
                };
                let key = scopes.join(" ");
                // Held while a token is fetched: the layers of an image need one, and not one each.
                let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
                if !fresh
                    && let Some(token) = tokens.get(&key)
                    && token.until > Instant::now()
                {
                    return Ok(Some(format!("Bearer {}", token.text)));
                }
                let token = fetch(http, origin, &realm, service.as_deref(), &scopes, credentials)?;
                let header = format!("Bearer {}", token.text);
                tokens.insert(key, token);
                Ok(Some(header))
            }
        }
    }
}

/// The header of a name and a password.
fn basic(credentials: &Credentials) -> String {
    let pair = format!("{}:{}", credentials.username, credentials.password);
    format!("Basic {}", STANDARD.encode(pair))
}

fn fetch(
    http: &Http,
    origin: &Origin,
    realm: &str,
    service: Option<&str>,
    scopes: &[&str],
    credentials: Option<&Credentials>,
) -> Result<Token, Error> {
    let refused = |why| Error::Elsewhere {
        method: "Get",
        url: format!("{origin}/v2/"),
        what: "token server",
        to: realm.to_owned(),
        why,
    };
    let server = Origin::of(realm).ok_or_else(|| refused("want http:// or https:// and a host"))?;
    if origin.https && !server.https {
        return Err(refused("it leaves HTTPS"));
    }
    let mut pairs: Vec<(&str, &str)> = service.map(|service| ("service", service)).into_iter().collect();
    let identity = credentials.and_then(|credentials| credentials.identity_token.as_deref());
    let all = scopes.join(" ");
    let form;
    let outgoing = if let Some(token) = identity {
        pairs.extend([("grant_type", "refresh_token"), ("client_id", "bulkhead"), ("refresh_token", token)]);
        pairs.extend((!all.is_empty()).then_some(("scope", all.as_str())));
        form = encode(&pairs);
        Outgoing {
            method: "POST",
            url: realm.to_owned(),
            headers: vec![("Content-Type", "application/x-www-form-urlencoded".to_owned())],
            payload: Payload::Bytes(form.as_bytes()),
        }
    } else {
        pairs.extend(scopes.iter().map(|scope| ("scope", *scope)));
        pairs.extend(credentials.map(|credentials| ("account", credentials.username.as_str())));
        let joint = if realm.contains('?') { '&' } else { '?' };
        Outgoing {
            method: "GET",
            url: if pairs.is_empty() {
                realm.to_owned()
            } else {
                format!("{realm}{joint}{}", encode(&pairs))
            },
            headers: credentials
                .map(|credentials| ("Authorization", basic(credentials)))
                .into_iter()
                .collect(),
            payload: Payload::None,
        }
    };
    let response = http.send(&outgoing)?;
    let (method, url) = (spelled(outgoing.method), realm.to_owned());
    match response.status().as_u16() {
        200 => {}
        401 | 403 => {
            let (_, message) = complaint(response);
            let message =
                if message.is_empty() { "incorrect username or password".to_owned() } else { message };
            return Err(Error::Unauthorized { method, url: format!("{origin}/v2/"), message });
        }
        _ => {
            let status = response.status().to_string();
            return Err(Error::Status { method, url, status, message: complaint(response).1 });
        }
    }
    let bytes = http.document(realm, response)?;
    let document = |reason: String| Error::Document { what: format!("token of {realm}"), reason };
    let answer: Answer = serde_json::from_slice(&bytes).map_err(|error| document(error.to_string()))?;
    let text = answer.token.or(answer.access_token).filter(|token| !token.is_empty());
    let text = text.ok_or_else(|| document("it has none".to_owned()))?;
    if !text.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(document("it is no token".to_owned()));
    }
    // Used up a little early: a request takes its time, too.
    let life = answer.expires_in.unwrap_or(LIFE).clamp(LIFE, 24 * 3600) * 9 / 10;
    Ok(Token { text, until: Instant::now() + Duration::from_secs(life) })
}

/// `application/x-www-form-urlencoded`.
pub(super) fn encode(pairs: &[(&str, &str)]) -> String {
    let escaped = |text: &str| {
        let mut out = String::with_capacity(text.len());
        for byte in text.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(byte as char),
                byte => {
                    use std::fmt::Write as _;
                    write!(out, "%{byte:02X}").expect("writing to a String cannot fail");
                }
            }
        }
        out
    };
    pairs.iter().map(|(name, value)| format!("{name}={}", escaped(value))).collect::<Vec<_>>().join("&")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        Challenge::Bearer {
            realm: realm.to_owned(),
            service: service.map(str::to_owned),
            scope: scope.map(str::to_owned),
        }
    }

    #[test]
    fn challenges_are_read_in_every_spelling() {
        for (values, want) in [
            (&["Basic realm=\"x\""][..], Some(Challenge::Basic)),
            (&["basic"], Some(Challenge::Basic)),
            (
                &[
                    r#"Bearer realm="https://auth.example/token",service="reg.example",scope="repository:a/b:pull,push""#,
                ],
                Some(bearer(
                    "https://auth.example/token",
                    Some("reg.example"),
                    Some("repository:a/b:pull,push"),
                )),
            ),
            (
                &[r#"Basic realm="a, Bearer b=\"c\"" , BEARER Realm = "https://a" , error="x""#],
                Some(bearer("https://a", None, None)),
            ),
            (
                &["Negotiate", "Basic realm=x", "Bearer realm=https://a/t"],
                Some(bearer("https://a/t", None, None)),
            ),
            (&["Bearer service=x"], None),
            (&["", "=", "\"", "Bearer realm=\"x"], Some(bearer("x", None, None))),
            (&["Digest qop=auth"], None),
        ] {
            assert_eq!(challenge(values.iter().copied()), want, "{values:?}");
        }
    }

    #[test]
    fn forms_are_escaped() {
        let form = encode(&[("scope", "repository:a/b:pull,push"), ("service", "a b&c=d")]);
        assert_eq!(form, "scope=repository%3Aa%2Fb%3Apull%2Cpush&service=a%20b%26c%3Dd");
    }
}
