//! A stage: from the image or the stage it begins with, step by step, to what it is for others.
//!
//! What a `COPY --from` or a mount names is a step's input. Inputs are there before the step begins, so that what does
//! the step knows nothing of stages, and nothing of who has built them.

use std::collections::BTreeMap;

use super::super::dockerfile::{self, Instruction, Line};
use super::super::{Error, Failed};
use super::progress::Counter;
use super::schedule::{Claim, Taken, step_origins};
use super::state::State;
use super::{Build, Builder};

/// Stages that need one another; each costs some frames.
const DEEPEST: usize = 256;

/// What a step takes files from besides the context, by the names that it has for them.
pub(super) type Inputs = BTreeMap<String, State>;

impl Build<'_> {
    pub(super) fn target(&self) -> Result<usize, Error> {
        let last = self.file.stages.len() - 1;
        let Some(wanted) = self.options.target.as_deref().filter(|name| !name.is_empty()) else {
            return Ok(last);
        };
        self.named(wanted, self.file.stages.len()).ok_or_else(|| Error::NoTarget(wanted.to_owned()))
    }

    /// The stage that another one begins with, where it is not an image.
    pub(super) fn base_of(&self, n: usize) -> Option<usize> {
        // A number is no name here: an image may be called that.
        let lower = self.expand_global(&self.file.stages[n].image).ok()?.to_ascii_lowercase();
        self.names.get(&lower).copied().filter(|stage| *stage < n)
    }

    /// The stage of that name or number among the first `before`.
    pub(super) fn named(&self, name: &str, before: usize) -> Option<usize> {
        let found = self.names.get(&name.to_ascii_lowercase()).copied().filter(|n| *n < before);
        found.or_else(|| name.parse::<usize>().ok().filter(|n| *n < before))
    }
}

impl Builder<'_> {
    /// A stage as others see it: it may be built already, or be built by somebody else meanwhile.
    fn stage(&mut self, n: usize) -> Result<State, Failed> {
        match self.build.schedule.take(n)? {
            Taken::Built(state) => Ok(*state),
            Taken::Mine(claim) => self.claimed(claim),
        }
    }

    /// Builds a stage that this thread has taken upon itself.
    pub(super) fn claimed(&mut self, claim: Claim<'_>) -> Result<State, Failed> {
        let n = claim.stage();
        let stage = self.build.file.stages[n].clone();
        let lines = Some((stage.line.first, stage.line.last));
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
        let base = self.build.expand_global(&stage.image).map_err(Failed::from).map_err(at)?;
        if base.trim().is_empty() {
            return Err(at(Error::BlankBase(stage.image.clone()).into()));
        }
        let platform = match &stage.platform {
            Some(word) => Some(self.build.expand_global(word).map_err(Failed::from).map_err(at)?),
            None => self.build.options.platform.clone(),
        };
        let earlier = self.build.base_of(n);
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
            None if self.build.file.stages.len() > 1 => format!("stage-{n}"),
            None => String::new(),
        };
        let mut counter = Counter { stage: name, total, at: 0 };
        if let Some(shown) = shown {
            self.told(&counter.name(&format!("FROM {shown}")), |_, _| Ok(((), false)))?;
        }
        for (line, step) in &steps {
            self.build.schedule.check()?;
            let inputs = self.inputs(&state, step);
            let done = inputs.and_then(|inputs| self.step(&mut state, line, step, &inputs, &mut counter));
            done.map_err(|mut failed| {
                failed.lines = failed.lines.or(Some((line.first, line.last)));
                failed
            })?;
        }
        self.under_way.pop();
        claim.finish(state.clone());
        Ok(state)
    }

    /// What a step needs to be there before it begins.
    fn inputs(&mut self, state: &State, step: &Instruction) -> Result<Inputs, Failed> {
        let mut inputs = Inputs::new();
        for name in step_origins(step) {
            let name = self.build.expand(state, name)?;
            let input = self.from(&name)?;
            inputs.insert(name, input);
        }
        Ok(inputs)
    }

    /// What `--from` means: a stage before this one, or an image.
    fn from(&mut self, name: &str) -> Result<State, Failed> {
        let before = self.under_way.last().copied().unwrap_or(self.build.file.stages.len());
        if let Some(n) = self.build.named(name, before) {
            return self.stage(n);
        }
        if name == "scratch" {
            return Ok(State::scratch());
        }
        if self
            .build
            .file
            .stages
            .get(before)
            .is_some_and(|stage| stage.name.as_deref() == Some(&name.to_ascii_lowercase()))
        {
            return Err(Error::Circular(name.to_owned()).into());
        }
        // A number is never an image, of whose id it could be the beginning.
        if !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(Error::StageIndex(name.to_owned()).into());
        }
        let platform = self.build.options.platform.clone();
        Ok(self.image(name, platform.as_deref())?.0)
    }
}
