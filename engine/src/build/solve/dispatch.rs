//! Instructions, one by one: most only change the configuration, and those are here.
//!
//! Such an instruction makes no layer and is in no cache: it is cheaper to do than to look up. What it leaves is an
//! entry of the history, in the words of BuildKit, which others compare (`docker history`, `--cache-from`).

use super::super::dockerfile::{Command, Form, Instruction, Line};
use super::super::{Error, Failed};
use super::Builder;
use super::progress::Counter;
use super::stage::Inputs;
use super::state::State;
use crate::config::{Empty, Healthcheck};
use crate::container::lifecycle;

impl Builder<'_> {
    pub(super) fn step(
        &mut self,
        state: &mut State,
        line: &Line,
        step: &Instruction,
        inputs: &Inputs,
        counter: &mut Counter,
    ) -> Result<(), Failed> {
        match step {
            Instruction::From { .. } => {}
            Instruction::Run(run) => self.run(state, line, run, inputs, counter)?,
            Instruction::Copy(copy) => self.copy(state, copy, inputs, counter)?,
            Instruction::Workdir(dir) => self.workdir(state, dir, counter)?,
            Instruction::Cmd(command) => {
                let words = self.command(state, command);
                state.note(format!("CMD {}", quoted(&words)));
                state.config.cmd = Some(words);
                state.own_cmd = true;
            }
            Instruction::Entrypoint(command) => {
                let words = self.command(state, command);
                state.note(format!("ENTRYPOINT {}", quoted(&words)));
                state.config.entrypoint = Some(words);
                if !state.own_cmd {
                    // The base's was meant for its own.
                    state.config.cmd = None;
                }
            }
            Instruction::Label(pairs) => {
                let pairs = self.pairs(state, pairs)?;
                state.note(format!("LABEL {}", joined(&pairs)));
                state.config.labels.extend(pairs);
            }
            Instruction::Env(pairs) => {
                let pairs = self.pairs(state, pairs)?;
                state.note(format!("ENV {}", joined(&pairs)));
                for (name, value) in pairs {
                    let entry = format!("{name}={value}");
                    match state.config.env.iter_mut().find(|have| have.split('=').next() == Some(&name)) {
                        Some(have) => *have = entry,
                        None => state.config.env.push(entry),
                    }
                }
            }
            Instruction::Expose(words) => {
                let mut ports = Vec::new();
                for word in self.build.expand_all(state, words)? {
                    for word in word.split_whitespace() {
                        ports.extend(ports_of(word)?);
                    }
                }
                ports.sort();
                ports.dedup();
                state.note(format!("EXPOSE [{}]", ports.join(" ")));
                state
                    .config
                    .exposed_ports
                    .get_or_insert_default()
                    .extend(ports.into_iter().map(|port| (port, Empty {})));
            }
            Instruction::Volume(paths) => {
                let paths = self.build.expand_all(state, paths)?;
                state.note(format!("VOLUME [{}]", paths.join(" ")));
                state
                    .config
                    .volumes
                    .get_or_insert_default()
                    .extend(paths.into_iter().map(|path| (path, Empty {})));
            }
            Instruction::User(user) => {
                let user = self.build.expand(state, user)?;
                state.note(format!("USER {user}"));
                state.config.user = user;
            }
            Instruction::Arg(pairs) => self.arg(state, pairs)?,
            Instruction::OnBuild(text) => {
                state.note(format!("ONBUILD {text}"));
                state.config.on_build.get_or_insert_default().push(text.clone());
            }
            Instruction::StopSignal(signal) => {
                let signal = self.build.expand(state, signal)?;
                lifecycle::parse_signal(&signal).map_err(|_| Error::Signal(signal.clone()))?;
                state.note(format!("STOPSIGNAL {signal}"));
                state.config.stop_signal = signal;
            }
            Instruction::Healthcheck(check) => {
                let test = match &check.command {
                    None => vec!["NONE".to_owned()],
                    Some((words, shell)) => {
                        let kind = if *shell { "CMD-SHELL" } else { "CMD" };
                        std::iter::once(kind.to_owned()).chain(words.iter().cloned()).collect()
                    }
                };
                let seconds = |nanos: i64| format!("{:?}", go_duration(nanos));
                state.note(format!(
                    "HEALTHCHECK &{{{} {} {} {} {} '\\x{:02x}'}}",
                    quoted(&test),
                    seconds(check.interval),
                    seconds(check.timeout),
                    seconds(check.start_period),
                    seconds(check.start_interval),
                    check.retries
                ));
                state.config.healthcheck = Some(Healthcheck {
                    test,
                    interval: check.interval,
                    timeout: check.timeout,
                    retries: check.retries,
                    start_period: check.start_period,
                    start_interval: check.start_interval,
                });
            }
            Instruction::Shell(words) => {
                state.note(format!("SHELL [{}]", words.join(" ")));
                state.config.shell = Some(words.clone());
            }
            Instruction::Maintainer(text) => {
                state.note(format!("MAINTAINER {text}"));
                state.author = Some(text.clone());
            }
        }
        Ok(())
    }

    #[allow(clippy::unused_self, reason = "beside its sisters")]
    pub(super) fn command(&self, state: &State, command: &Command) -> Vec<String> {
        match command.form {
            Form::Shell if !command.args.is_empty() => {
                let mut words = state.shell();
                words.extend(command.args.iter().cloned());
                words
            }
            _ => command.args.clone(),
        }
    }

    /// Pairs expanded against what held before their instruction.
    fn pairs(&self, state: &State, pairs: &[(String, String)]) -> Result<Vec<(String, String)>, Error> {
        let both = |(name, value): &(String, String)| {
            Ok((self.build.expand(state, name)?, self.build.expand(state, value)?))
        };
        pairs.iter().map(both).collect()
    }

    fn arg(&mut self, state: &mut State, pairs: &[(String, Option<String>)]) -> Result<(), Error> {
        let mut shown = Vec::new();
        // All of them against what held before the line.
        let mut added = Vec::new();
        for (name, default) in pairs {
            let value = match (self.build.given(name), default) {
                (Some(value), _) => Some(value),
                (None, Some(word)) => Some(self.build.expand(state, word)?),
                (None, None) => self.build.global(name),
            };
            shown.push(value.as_ref().map_or_else(|| name.clone(), |value| format!("{name}={value}")));
            added.push((name.clone(), value));
        }
        state.args.extend(added);
        state.note(format!("ARG {}", shown.join(" ")));
        Ok(())
    }
}

/// `EXPOSE`'s ports: `80`, `80/udp`, `7000-7002`.
fn ports_of(text: &str) -> Result<Vec<String>, Error> {
    let bad = || Error::Port(text.to_owned());
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(bad());
    }
    let port = |text: &str| text.parse::<u16>().map_err(|_| bad());
    let (from, to) = match ports.split_once('-') {
        Some((from, to)) => (port(from)?, port(to)?),
        None => (port(ports)?, port(ports)?),
    };
    if from > to {
        return Err(bad());
    }
    Ok((from..=to).map(|port| format!("{port}/{protocol}")).collect())
}

/// Go's `%q` of a list.
fn quoted(words: &[String]) -> String {
    let words: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
    format!("[{}]", words.join(" "))
}

fn joined(pairs: &[(String, String)]) -> String {
    let pairs: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}={value}")).collect();
    pairs.join(" ")
}

/// Go's way to write a duration.
fn go_duration(nanos: i64) -> String {
    if nanos == 0 {
        return "0s".to_owned();
    }
    let (hours, minutes) = (nanos / 3_600_000_000_000, nanos / 60_000_000_000 % 60);
    let seconds = (nanos % 60_000_000_000) as f64 / 1e9;
    match (hours, minutes) {
        (0, 0) if nanos < 1_000_000_000 => format!("{}ms", nanos as f64 / 1e6),
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds}s"),
        _ => format!("{hours}h{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_listed() {
        assert_eq!(ports_of("443").expect("port"), ["443/tcp"]);
        assert_eq!(ports_of("80-82/UDP").expect("range"), ["80/udp", "81/udp", "82/udp"]);
        for bad in ["x", "80/x", "90-80", "70000", ""] {
            assert!(ports_of(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn texts_are_written_as_in_go() {
        assert_eq!(
            quoted(&["/bin/sh".to_owned(), "-c".to_owned(), "echo \"a\"".to_owned()]),
            r#"["/bin/sh" "-c" "echo \"a\""]"#
        );
        for (nanos, want) in [
            (0, "0s"),
            (3_000_000_000, "3s"),
            (300_000_000_000, "5m0s"),
            (500_000_000, "500ms"),
            (3_601_500_000_000, "1h0m1.5s"),
        ] {
            assert_eq!(go_duration(nanos), want);
        }
    }
}
