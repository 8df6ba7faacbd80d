//! A stage: from the image or the stage it begins with, step by step, to what it is for others.
//!
//! A stage is built when somebody asks for it: the target first, which asks for its base and, step by step, for what
//! a `COPY --from` or a mount names. These are a step's inputs, and they are there before it begins, so that what
//! does the step knows nothing of stages.

use std::collections::BTreeMap;

use super::super::dockerfile::{self, Instruction, Line, MountKind};
use super::super::{Error, Failed};
use super::Builder;
use super::progress::Counter;
use super::state::State;

/// Stages that need one another; each costs some frames.
const DEEPEST: usize = 256;

/// What a step takes files from besides the context, by the names that it has for them.
pub(super) type Inputs = BTreeMap<String, State>;

impl Builder<'_> {
    pub(super) fn target(&self) -> Result<usize, Error> {
        let last = self.file.stages.len() - 1;
        let Some(wanted) = self.options.target.as_deref().filter(|name| !name.is_empty()) else {
            return Ok(last);
        };
        self.named(wanted, self.file.stages.len()).ok_or_else(|| Error::NoTarget(wanted.to_owned()))
    }

    /// The stage of that name or number among the first `before`.
    fn named(&self, name: &str, before: usize) -> Option<usize> {
        let lower = name.to_ascii_lowercase();
        let stages = &self.file.stages[..before];
        stages
            .iter()
            .rposition(|stage| stage.name.as_deref() == Some(&lower))
            .or_else(|| name.parse::<usize>().ok().filter(|n| *n < before))
    }

    pub(super) fn stage(&mut self, n: usize) -> Result<State, Failed> {
        if let Some(state) = &self.built[n] {
            return Ok(state.clone());
        }
        let stage = self.file.stages[n].clone();
        let lines = Some((stage.line.first, stage.line.last));
        if self.under_way.contains(&n) {
            let name = stage.name.unwrap_or_else(|| format!("stage-{n}"));
            return Err(Failed { error: Error::Circular(name), lines });
        }
        if self.under_way.len() >= DEEPEST {
            return Err(Failed {
                error: Error::Unsupported("stages are nested too deeply".to_owned()),
                lines,
            });
        }
        self.under_way.push(n);
        let at = |mut failed: Failed| {
            failed.lines = failed.lines.or(lines);
            failed
        };
        let base = self.expand_global(&stage.image).map_err(Failed::from).map_err(at)?;
        if base.trim().is_empty() {
            return Err(at(Error::BlankBase(stage.image.clone()).into()));
        }
        let platform = match &stage.platform {
            Some(word) => Some(self.expand_global(word).map_err(Failed::from).map_err(at)?),
            None => self.options.platform.clone(),
        };
        // A number is no name here: an image may be called that.
        let lower = base.to_ascii_lowercase();
        let earlier = self.file.stages[..n].iter().rposition(|stage| stage.name.as_deref() == Some(&lower));
        let mut shown = None;
        let mut state = if let Some(earlier) = earlier {
            self.stage(earlier).map_err(at)?.base()
        } else if base == "scratch" {
            State::scratch()
        } else {
            let (state, name) = self.image(&base, platform.as_deref()).map_err(at)?;
            shown = Some(name);
            state
        };
        let mut steps = Vec::new();
        for trigger in state.config.on_build.take().unwrap_or_default() {
            let (line, step) = dockerfile::parse_trigger(&trigger)
                .map_err(Failed::from)
                .map_err(|failed| Failed { lines, ..failed })?;
            steps.push((Line { first: stage.line.first, last: stage.line.last, ..line }, step));
        }
        steps.extend(stage.steps.iter().cloned());
        let counts = |step: &Instruction| {
            matches!(step, Instruction::Run(_) | Instruction::Copy(_) | Instruction::Workdir(_))
        };
        let total = steps.iter().filter(|(_, step)| counts(step)).count() + usize::from(shown.is_some());
        let name = match &stage.name {
            Some(name) => name.clone(),
            None if self.file.stages.len() > 1 => format!("stage-{n}"),
            None => String::new(),
        };
        let mut counter = Counter { stage: name, total, at: 0 };
        if let Some(shown) = shown {
            self.told(&counter.name(&format!("FROM {shown}")), |_, _| Ok(((), false)))?;
        }
        for (line, step) in &steps {
            let inputs = self.inputs(&state, step);
            let done = inputs.and_then(|inputs| self.step(&mut state, line, step, &inputs, &mut counter));
            done.map_err(|mut failed| {
                failed.lines = failed.lines.or(Some((line.first, line.last)));
                failed
            })?;
        }
        self.under_way.pop();
        self.built[n] = Some(state.clone());
        Ok(state)
    }

    /// What a step needs to be there before it begins.
    fn inputs(&mut self, state: &State, step: &Instruction) -> Result<Inputs, Failed> {
        let names: Vec<&String> = match step {
            Instruction::Run(run) => {
                let binds = run.mounts.iter().filter(|mount| mount.kind == MountKind::Bind);
                binds.filter_map(|mount| mount.from.as_ref()).collect()
            }
            Instruction::Copy(copy) => copy.from.iter().collect(),
            _ => Vec::new(),
        };
        let mut inputs = Inputs::new();
        for name in names {
            let name = self.expand(state, name)?;
            let input = self.from(&name)?;
            inputs.insert(name, input);
        }
        Ok(inputs)
    }

    /// What `--from` means: a stage before this one, or an image.
    fn from(&mut self, name: &str) -> Result<State, Failed> {
        let before = self.under_way.last().copied().unwrap_or(self.file.stages.len());
        if let Some(n) = self.named(name, before) {
            return self.stage(n);
        }
        if name == "scratch" {
            return Ok(State::scratch());
        }
        if self
            .file
            .stages
            .get(before)
            .is_some_and(|stage| stage.name.as_deref() == Some(&name.to_ascii_lowercase()))
        {
            return Err(Error::Circular(name.to_owned()).into());
        }
        let platform = self.options.platform.clone();
        Ok(self.image(name, platform.as_deref())?.0)
    }
}
