//! What an image says about a container, and what the user says instead.

use crate::config::{Config, Healthcheck};

/// Neither the image nor the user names a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no command specified")]
pub struct NoCommand;

/// The configuration of a container: `flags` over `image`, by Docker's rules.
///
/// An entrypoint from the flags drops the image's command. `--entrypoint ""` (a single empty word) drops the
/// image's entrypoint and command both. A variable that is a name alone takes the image's away.
pub fn merge(image: &Config, flags: Config) -> Result<Config, NoCommand> {
    let mut config = flags;
    let inherit = |own: &mut String, image: &str| {
        if own.is_empty() {
            image.clone_into(own);
        }
    };
    inherit(&mut config.user, &image.user);
    inherit(&mut config.working_dir, &image.working_dir);
    inherit(&mut config.stop_signal, &image.stop_signal);
    config.stop_timeout = config.stop_timeout.or(image.stop_timeout);

    if let Some(exposed) = &image.exposed_ports {
        config.exposed_ports.get_or_insert_default().extend(exposed.clone());
    }
    if let Some(volumes) = &image.volumes {
        config.volumes.get_or_insert_default().extend(volumes.clone());
    }
    for (label, value) in &image.labels {
        config.labels.entry(label.clone()).or_insert_with(|| value.clone());
    }

    let name = |variable: &str| variable.split('=').next().unwrap_or_default().to_owned();
    let inherited: Vec<String> = image
        .env
        .iter()
        .filter(|variable| !config.env.iter().any(|own| name(own) == name(variable)))
        .cloned()
        .collect();
    // The image's come first, so that PATH stands where people look for it.
    let own = std::mem::take(&mut config.env).into_iter().filter(|variable| variable.contains('='));
    config.env = inherited.into_iter().chain(own).collect();

    if config.entrypoint.as_ref().is_none_or(Vec::is_empty) {
        if config.cmd.as_ref().is_none_or(Vec::is_empty) {
            config.cmd.clone_from(&image.cmd);
        }
        if config.entrypoint.is_none() {
            config.entrypoint.clone_from(&image.entrypoint);
        }
    }
    if config.entrypoint.as_deref() == Some(&[String::new()]) {
        config.entrypoint = None;
    }
    let nothing = |words: &Option<Vec<String>>| words.as_ref().is_none_or(Vec::is_empty);
    if nothing(&config.entrypoint) && nothing(&config.cmd) {
        return Err(NoCommand);
    }

    config.healthcheck = match (config.healthcheck.take(), &image.healthcheck) {
        (None, image) => image.clone(),
        (own, None) => own,
        (Some(own), Some(image)) => {
            let pick = |own: i64, image: i64| if own == 0 { image } else { own };
            Some(Healthcheck {
                test: if own.test.is_empty() { image.test.clone() } else { own.test },
                interval: pick(own.interval, image.interval),
                timeout: pick(own.timeout, image.timeout),
                retries: pick(own.retries, image.retries),
                start_period: pick(own.start_period, image.start_period),
                start_interval: pick(own.start_interval, image.start_interval),
            })
        }
    };
    config.shell = config.shell.or_else(|| image.shell.clone());
    config.on_build = None;
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Empty;

    type Words = Option<&'static [&'static str]>;

    /// Image's entrypoint and command, the flags', and what comes out.
    type Row = (Words, Words, Words, Words, Result<(Words, Words), NoCommand>);

    fn words(list: &[&str]) -> Vec<String> {
        list.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn entrypoints_and_commands() {
        let rows: &[Row] = &[
            (None, Some(&["sh"]), None, None, Ok((None, Some(&["sh"])))),
            (None, Some(&["sh"]), None, Some(&["ls", "-l"]), Ok((None, Some(&["ls", "-l"])))),
            (Some(&["ep"]), Some(&["arg"]), None, None, Ok((Some(&["ep"]), Some(&["arg"])))),
            (Some(&["ep"]), Some(&["arg"]), None, Some(&["x"]), Ok((Some(&["ep"]), Some(&["x"])))),
            (Some(&["ep"]), Some(&["arg"]), Some(&["mine"]), None, Ok((Some(&["mine"]), None))),
            (
                Some(&["ep"]),
                Some(&["arg"]),
                Some(&["mine"]),
                Some(&["x"]),
                Ok((Some(&["mine"]), Some(&["x"]))),
            ),
            (Some(&["ep"]), Some(&["arg"]), Some(&[""]), Some(&["x"]), Ok((None, Some(&["x"])))),
            (Some(&["ep"]), Some(&["arg"]), Some(&[""]), None, Err(NoCommand)),
            (None, None, None, None, Err(NoCommand)),
            (None, Some(&[]), None, None, Err(NoCommand)),
        ];
        for (image_entrypoint, image_cmd, entrypoint, cmd, want) in rows {
            let image = Config {
                entrypoint: image_entrypoint.map(words),
                cmd: image_cmd.map(words),
                ..Config::default()
            };
            let flags =
                Config { entrypoint: entrypoint.map(words), cmd: cmd.map(words), ..Config::default() };
            let got = merge(&image, flags).map(|config| (config.entrypoint, config.cmd));
            assert_eq!(got, want.map(|(e, c)| (e.map(words), c.map(words))));
        }
    }

    #[test]
    fn everything_else() {
        let set = |names: &[&str]| Some(names.iter().map(|name| ((*name).to_owned(), Empty {})).collect());
        let image = Config {
            user: "www".into(),
            working_dir: "/srv".into(),
            stop_signal: "SIGQUIT".into(),
            env: vec!["PATH=/bin".into(), "A=image".into(), "B=image".into()],
            labels: [("a".into(), "image".into()), ("b".into(), "image".into())].into(),
            exposed_ports: set(&["80/tcp"]),
            volumes: set(&["/data"]),
            cmd: Some(words(&["sh"])),
            healthcheck: Some(Healthcheck { test: vec!["CMD".into()], retries: 5, ..Healthcheck::default() }),
            on_build: Some(words(&["RUN x"])),
            ..Config::default()
        };
        let flags = Config {
            working_dir: "/mine".into(),
            env: vec!["A=mine".into(), "B".into(), "C=".into()],
            labels: [("a".into(), "mine".into())].into(),
            exposed_ports: set(&["81/tcp"]),
            healthcheck: Some(Healthcheck { interval: 7, ..Healthcheck::default() }),
            ..Config::default()
        };
        let got = merge(&image, flags).expect("merge");
        assert_eq!(
            (got.user.as_str(), got.working_dir.as_str(), got.stop_signal.as_str()),
            ("www", "/mine", "SIGQUIT")
        );
        assert_eq!(got.env, ["PATH=/bin", "A=mine", "C="]);
        assert_eq!(got.labels, [("a".into(), "mine".into()), ("b".into(), "image".into())].into());
        assert_eq!(got.exposed_ports, set(&["80/tcp", "81/tcp"]));
        assert_eq!(got.volumes, set(&["/data"]));
        let health = got.healthcheck.expect("health");
        assert_eq!((health.test, health.interval, health.retries), (vec!["CMD".to_owned()], 7, 5));
        assert_eq!(got.on_build, None);
    }
}
