//! Restart policies.

use bulkhead_engine::config::{InvalidPolicy, RestartPolicy};

use super::create::Refusal;

/// `--restart no|always|unless-stopped|on-failure[:N]`.
pub fn policy(text: &str) -> Result<RestartPolicy, Refusal> {
    let (name, count) = text.split_once(':').map_or((text, None), |(name, count)| (name, Some(count)));
    let count = match count {
        None | Some("") => 0,
        Some(count) => count.parse::<i64>().map_err(|_| {
            Refusal::Client(
                "invalid restart policy format: maximum retry count must be an integer".to_owned(),
            )
        })?,
    };
    let Ok(maximum_retry_count) = u32::try_from(count) else {
        return Err(Refusal::Daemon(InvalidPolicy::Negative.to_string()));
    };
    let name = if name.is_empty() { "no" } else { name }.to_owned();
    let policy = RestartPolicy { name, maximum_retry_count };
    policy.check().map_err(|error| Refusal::Daemon(error.to_string()))?;
    Ok(policy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restart_policies() {
        let is =
            |name: &str, maximum_retry_count| Ok(RestartPolicy { name: name.into(), maximum_retry_count });
        assert_eq!(policy("no"), is("no", 0));
        assert_eq!(policy("on-failure:3"), is("on-failure", 3));
        assert_eq!(policy("always"), is("always", 0));
        for (text, want) in [
            (
                "foo",
                "Error response from daemon: invalid restart policy: unknown policy 'foo'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'",
            ),
            (
                "always:3",
                "Error response from daemon: invalid restart policy: maximum retry count can only be used with 'on-failure'",
            ),
            (
                "on-failure:-1",
                "Error response from daemon: invalid restart policy: maximum retry count cannot be negative",
            ),
            ("on-failure:x", "invalid restart policy format: maximum retry count must be an integer"),
        ] {
            assert_eq!(policy(text).expect_err(text).to_string(), want);
        }
    }
}
