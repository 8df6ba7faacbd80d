//! The state of the live view, and what keys and the mouse do to it.

use std::collections::HashMap;

use bulkhead_engine::model::{Figures, Host, Rates};
use ratatui::crossterm::event::{Event, KeyCode, KeyEventKind, KeyModifiers, MouseButton, MouseEventKind};

use super::columns::Column;
use super::detail::Detail;
use super::history::History;

/// A container on the screen.
#[derive(Debug, Clone, Default)]
pub struct Row {
    /// What the model says.
    pub figures: Figures,
    /// Since the reading before, or since the start.
    pub rates: Option<Rates>,
    /// The last two minutes.
    pub history: History,
    /// Programs executed; `None` while nothing counts them.
    pub execs: Option<u64>,
}

impl Row {
    /// The health where there is a check, else the status.
    pub fn state(&self) -> &str {
        match &self.figures.life.health {
            Some(health) if self.figures.stats.is_some() => health,
            _ => self.figures.life.status.as_str(),
        }
    }
}

/// What can be done to a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// `stop`
    Stop,
    /// `pause`, or `unpause` of one that is paused.
    Pause(bool),
    /// `kill`
    Kill,
    /// `update` with these options.
    Update(String),
}

impl Action {
    /// The question before it is done.
    pub fn question(&self, name: &str) -> String {
        match self {
            Self::Stop => format!("Stop {name}?"),
            Self::Pause(true) => format!("Pause {name}?"),
            Self::Pause(false) => format!("Unpause {name}?"),
            Self::Kill => format!("Kill {name}?"),
            Self::Update(limits) => format!("Change the limits of {name} to {limits}?"),
        }
    }

    /// The command line that does it.
    fn command(&self, id: &str) -> Vec<String> {
        let mut words: Vec<String> = match self {
            Self::Stop => vec!["stop".into()],
            Self::Pause(true) => vec!["pause".into()],
            Self::Pause(false) => vec!["unpause".into()],
            Self::Kill => vec!["kill".into()],
            Self::Update(limits) => {
                std::iter::once("update".to_owned()).chain(limits.split_whitespace().map(option)).collect()
            }
        };
        words.push(id.to_owned());
        words
    }
}

/// `memory=1g` is `--memory=1g`.
fn option(word: &str) -> String {
    if word.starts_with('-') { word.to_owned() } else { format!("--{word}") }
}

/// The parts of the view of one container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Tab {
    /// Figures over time, and limits.
    #[default]
    Overview,
    /// Processes.
    Processes,
    /// Connections.
    Connections,
    /// Executions and OOM kills.
    Events,
}

impl Tab {
    /// In order.
    pub const ALL: [Self; 4] = [Self::Overview, Self::Processes, Self::Connections, Self::Events];

    /// Its head.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Overview => "1 Overview",
            Self::Processes => "2 Processes",
            Self::Connections => "3 Connections",
            Self::Events => "4 Events",
        }
    }

    fn step(self, by: usize) -> Self {
        let at = Self::ALL.iter().position(|tab| *tab == self).unwrap_or(0);
        Self::ALL[(at + by) % Self::ALL.len()]
    }
}

/// Whom an action is for: asked for once, so that a table that moves while somebody thinks cannot put
/// another container under the answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Target {
    /// The id.
    pub id: String,
    /// The name.
    pub name: String,
}

/// What lies over the table, if anything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Over {
    /// Nothing.
    #[default]
    Nothing,
    /// The keys.
    Help,
    /// A question to be answered with y or n.
    Confirm(Action, Target),
    /// The filter is being typed.
    Filter,
    /// New limits are being typed.
    Limits(String, Target),
}

/// What the terminal's owner has to do after a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Nothing but draw.
    Draw,
    /// End.
    Quit,
    /// Run this command of ours and tell how it went.
    Run(Vec<String>),
}

/// The state.
#[derive(Debug, Default)]
pub struct App {
    /// The host.
    pub host: Host,
    /// Every container, sorted.
    pub rows: Vec<Row>,
    /// What the table is sorted by.
    pub sort: Option<Column>,
    /// The other way round.
    pub reverse: bool,
    /// Show those that do not run as well.
    pub all: bool,
    /// Only names, images and ids that contain this.
    pub filter: String,
    /// The container under the cursor.
    pub selected: Option<String>,
    /// The first row on the screen.
    pub offset: usize,
    /// One container instead of the table.
    pub open: Option<Tab>,
    /// What is known of that one.
    pub detail: Detail,
    /// Scrolled down by.
    pub scroll: usize,
    /// Over everything.
    pub over: Over,
    /// How the last action went.
    pub message: Option<String>,
    /// Rows of the table that the screen had at the last drawing.
    pub page: usize,
    /// Columns and where they begin, at the last drawing.
    pub heads: Vec<(Column, u16, u16)>,
    /// The heads of one container's parts and where they begin, at the last drawing.
    pub tabs: Vec<(Tab, u16, u16)>,
}

impl App {
    /// Takes a reading.
    pub fn update(&mut self, host: Host, figures: Vec<Figures>, execs: &HashMap<u64, u64>) {
        self.host = host;
        // What a container had before moves into its new row; those that are gone are forgotten with theirs.
        let mut before: HashMap<String, Row> =
            self.rows.drain(..).map(|row| (row.figures.identity.id.clone(), row)).collect();
        self.rows = figures
            .into_iter()
            .map(|figures| {
                let before = before.remove(&figures.identity.id);
                let rates = Rates::between(before.as_ref().map(|row| &row.figures), &figures);
                let mut history = before.map(|row| row.history).unwrap_or_default();
                history.push(&figures, rates);
                let execs = figures.identity.cgroup_id.and_then(|id| execs.get(&id).copied());
                Row { figures, rates, history, execs }
            })
            .collect();
        self.arrange();
    }

    fn arrange(&mut self) {
        let by = self.sort.unwrap_or(Column::Cpu);
        self.rows.sort_by(|a, b| {
            let names = a.figures.identity.name.cmp(&b.figures.identity.name);
            let order = match by {
                Column::Name => names,
                Column::Image => a.figures.identity.image.cmp(&b.figures.identity.image),
                Column::State => a.state().cmp(b.state()),
                other => other.key(b).total_cmp(&other.key(a)),
            };
            let order = if self.reverse { order.reverse() } else { order };
            order.then(names)
        });
        if self.open.is_some() {
            // Whoever looks at one container must not find another in its place.
            if self.current().is_some() {
                return;
            }
            self.open = None;
            self.message = Some("the container was removed".into());
        }
        if !self.visible().any(|row| Some(&row.figures.identity.id) == self.selected.as_ref()) {
            let first = self.visible().next().map(|row| row.figures.identity.id.clone());
            self.selected = first;
        }
    }

    /// The rows that pass the filter.
    pub fn visible(&self) -> impl Iterator<Item = &Row> {
        let filter = self.filter.to_lowercase();
        self.rows.iter().filter(move |row| {
            let identity = &row.figures.identity;
            (self.all || row.figures.life.status.is_alive())
                && (filter.is_empty()
                    || identity.name.to_lowercase().contains(&filter)
                    || identity.image.to_lowercase().contains(&filter)
                    || identity.id.starts_with(&filter))
        })
    }

    /// The row under the cursor.
    pub fn current(&self) -> Option<&Row> {
        self.rows.iter().find(|row| Some(&row.figures.identity.id) == self.selected.as_ref())
    }

    /// The cursor's place among the visible rows.
    pub fn position(&self) -> usize {
        self.visible().position(|row| Some(&row.figures.identity.id) == self.selected.as_ref()).unwrap_or(0)
    }

    fn go(&mut self, to: usize) {
        let count = self.visible().count();
        let to = to.min(count.saturating_sub(1));
        let there = self.visible().nth(to).map(|row| row.figures.identity.id.clone());
        self.selected = there;
        let page = self.page.max(1);
        if to < self.offset {
            self.offset = to;
        } else if to >= self.offset + page {
            self.offset = to + 1 - page;
        }
    }

    /// A key, a click, a new size.
    pub fn event(&mut self, event: &Event) -> Effect {
        match event {
            Event::Key(key) if key.kind != KeyEventKind::Release => {
                if key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL) {
                    return Effect::Quit;
                }
                self.key(key.code)
            }
            Event::Mouse(mouse) => {
                if self.over != Over::Nothing {
                    return Effect::Draw;
                }
                match mouse.kind {
                    MouseEventKind::ScrollDown => return self.key(KeyCode::Down),
                    MouseEventKind::ScrollUp => return self.key(KeyCode::Up),
                    MouseEventKind::Down(MouseButton::Left) => self.click(mouse.column, mouse.row),
                    _ => {}
                }
                Effect::Draw
            }
            _ => Effect::Draw,
        }
    }

    fn click(&mut self, column: u16, row: u16) {
        use super::draw::{HEAD, TABLE, TABS};
        if self.open.is_some() {
            let hit = self.tabs.iter().find(|(_, from, width)| (*from..from + width).contains(&column));
            if row == TABS
                && let Some((tab, _, _)) = hit
            {
                (self.open, self.scroll) = (Some(*tab), 0);
            }
            return;
        }
        if row == HEAD {
            let hit = self.heads.iter().find(|(_, from, width)| (*from..from + width).contains(&column));
            if let Some((by, _, _)) = hit.copied()
                && by.sorts()
            {
                self.sort_by(by);
            }
        } else if row >= TABLE {
            let at = self.offset + usize::from(row - TABLE);
            if at < self.visible().count() {
                let again = self.position() == at;
                self.go(at);
                if again {
                    self.open = Some(Tab::Overview);
                }
            }
        }
    }

    fn sort_by(&mut self, by: Column) {
        if self.sort.unwrap_or(Column::Cpu) == by {
            self.reverse = !self.reverse;
        } else {
            self.sort = Some(by);
            self.reverse = false;
        }
        self.arrange();
    }

    fn key(&mut self, key: KeyCode) -> Effect {
        match std::mem::take(&mut self.over) {
            Over::Nothing => {}
            Over::Help => return Effect::Draw,
            Over::Confirm(action, target) => {
                if matches!(key, KeyCode::Char('y' | 'Y')) {
                    return Effect::Run(action.command(&target.id));
                }
                // Anything but a yes is a no.
                self.message = Some("nothing done".into());
                return Effect::Draw;
            }
            Over::Filter => {
                match key {
                    KeyCode::Esc => self.filter.clear(),
                    KeyCode::Enter => return Effect::Draw,
                    _ => {
                        edit(&mut self.filter, key);
                        self.over = Over::Filter;
                    }
                }
                self.offset = 0;
                self.arrange();
                return Effect::Draw;
            }
            Over::Limits(mut text, target) => {
                match key {
                    KeyCode::Esc => {}
                    KeyCode::Enter if text.trim().is_empty() => {}
                    KeyCode::Enter => {
                        self.over = Over::Confirm(Action::Update(text.trim().to_owned()), target);
                    }
                    _ => {
                        edit(&mut text, key);
                        self.over = Over::Limits(text, target);
                    }
                }
                return Effect::Draw;
            }
        }
        self.message = None;
        match key {
            KeyCode::Char('q') => return Effect::Quit,
            KeyCode::Char('?' | 'h') => self.over = Over::Help,
            KeyCode::Esc if self.open.is_some() => self.close(),
            KeyCode::Esc => {
                self.filter.clear();
                self.arrange();
            }
            KeyCode::Char('s') => self.ask(Action::Stop),
            KeyCode::Char('k') => self.ask(Action::Kill),
            KeyCode::Char('p') => {
                let paused = self.current().is_some_and(|row| row.figures.life.status.as_str() == "paused");
                self.ask(Action::Pause(!paused));
            }
            KeyCode::Char('l') => {
                if let Some(target) = self.target() {
                    self.over = Over::Limits(String::new(), target);
                }
            }
            _ if self.open.is_some() => self.key_in_detail(key),
            _ => self.key_in_table(key),
        }
        Effect::Draw
    }

    /// The container under the cursor, if it runs; says so if it does not.
    fn target(&mut self) -> Option<Target> {
        let row = self.current()?;
        let identity = &row.figures.identity;
        let target = Target { id: identity.id.clone(), name: identity.name.clone() };
        if row.figures.life.status.is_alive() {
            return Some(target);
        }
        self.message = Some(format!("{} does not run", target.name));
        None
    }

    fn ask(&mut self, action: Action) {
        if let Some(target) = self.target() {
            self.over = Over::Confirm(action, target);
        }
    }

    /// Back to the table, in which what was looked at may not be any more.
    fn close(&mut self) {
        self.open = None;
        self.arrange();
    }

    fn key_in_detail(&mut self, key: KeyCode) {
        let tab = self.open.unwrap_or_default();
        let page = self.page.max(1);
        match key {
            KeyCode::Backspace => self.close(),
            KeyCode::Tab | KeyCode::Right => (self.open, self.scroll) = (Some(tab.step(1)), 0),
            KeyCode::BackTab | KeyCode::Left => {
                (self.open, self.scroll) = (Some(tab.step(Tab::ALL.len() - 1)), 0);
            }
            KeyCode::Char(digit @ '1'..='4') => {
                (self.open, self.scroll) = (Some(Tab::ALL[digit as usize - '1' as usize]), 0);
            }
            KeyCode::Down => self.scroll = self.scroll.saturating_add(1),
            KeyCode::Up => self.scroll = self.scroll.saturating_sub(1),
            KeyCode::PageDown => self.scroll = self.scroll.saturating_add(page),
            KeyCode::PageUp => self.scroll = self.scroll.saturating_sub(page),
            KeyCode::Home => self.scroll = 0,
            _ => {}
        }
    }

    fn key_in_table(&mut self, key: KeyCode) {
        let (at, page) = (self.position(), self.page.max(1));
        match key {
            KeyCode::Down => self.go(at + 1),
            KeyCode::Up => self.go(at.saturating_sub(1)),
            KeyCode::PageDown => self.go(at + page),
            KeyCode::PageUp => self.go(at.saturating_sub(page)),
            KeyCode::Home => self.go(0),
            KeyCode::End => self.go(usize::MAX),
            KeyCode::Enter if self.selected.is_some() => (self.open, self.scroll) = (Some(Tab::Overview), 0),
            KeyCode::Char('/') => self.over = Over::Filter,
            KeyCode::Char('a') => {
                self.all = !self.all;
                self.arrange();
            }
            KeyCode::Char('r') => {
                self.reverse = !self.reverse;
                self.arrange();
            }
            KeyCode::Char('>' | '.') | KeyCode::Right => self.sort_next(1),
            KeyCode::Char('<' | ',') | KeyCode::Left => self.sort_next(usize::MAX),
            _ => {}
        }
    }

    /// Sorts by the next column of those that can be sorted by.
    fn sort_next(&mut self, by: usize) {
        let columns: Vec<Column> = Column::ALL.into_iter().filter(|column| column.sorts()).collect();
        let now = self.sort.unwrap_or(Column::Cpu);
        let at = columns.iter().position(|column| *column == now).unwrap_or(0);
        let next = if by == 1 { at + 1 } else { at + columns.len() - 1 };
        self.sort = Some(columns[next % columns.len()]);
        self.reverse = false;
        self.arrange();
    }
}

fn edit(text: &mut String, key: KeyCode) {
    match key {
        KeyCode::Backspace => drop(text.pop()),
        KeyCode::Char(c) if text.len() < 200 && !c.is_control() => text.push(c),
        _ => {}
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use bulkhead_engine::cgroup::stats::{Memory, Stats};
    use bulkhead_engine::container::Status;
    use bulkhead_engine::model::HostMemory;
    use ratatui::crossterm::event::{KeyEvent, MouseEvent};

    pub fn figures(name: &str, second: u64, cpu: f64, memory: u64) -> Figures {
        let mut stats = Stats::default();
        stats.cpu.usage = (cpu * 1e7 * second as f64) as u64;
        stats.memory =
            Some(Memory { usage: memory, limit: Some(64 << 20), oom_kills: Some(1), ..Memory::default() });
        let mut figures = Figures { clock: second * 1_000_000_000, stats: Some(stats), ..Figures::default() };
        figures.identity.id = format!("{:0>64}", name.bytes().fold(0_u64, |n, b| n * 31 + u64::from(b)));
        figures.identity.name = name.into();
        figures.identity.image = format!("img/{name}");
        figures.life.status = Status::Running;
        figures
    }

    /// Three containers that run and one that does not, watched for a minute.
    pub fn app() -> App {
        let mut app = App { page: 10, ..App::default() };
        for second in 1..60 {
            let host = Host {
                cpus: 2,
                memory: HostMemory { total: 8 << 30, available: 6 << 30, ..HostMemory::default() },
                ..Host::default()
            };
            let mut ended = figures("ended", second, 0.0, 0);
            ended.stats = None;
            ended.life.status = Status::Exited;
            let all = vec![
                figures("web", second, 20.0, 32 << 20),
                figures("db", second, 90.0, 8 << 20),
                figures("batch", second, 1.0, 60 << 20),
                ended,
            ];
            app.update(host, all, &HashMap::new());
        }
        app
    }

    fn press(app: &mut App, keys: &str) -> Effect {
        let mut last = Effect::Draw;
        for c in keys.chars() {
            let code = match c {
                '\n' => KeyCode::Enter,
                '\x1b' => KeyCode::Esc,
                '\t' => KeyCode::Tab,
                '↓' => KeyCode::Down,
                '↑' => KeyCode::Up,
                '⌫' => KeyCode::Backspace,
                other => KeyCode::Char(other),
            };
            last = app.event(&Event::Key(KeyEvent::from(code)));
        }
        last
    }

    fn names(app: &App) -> Vec<&str> {
        app.visible().map(|row| row.figures.identity.name.as_str()).collect()
    }

    #[test]
    fn sorting_filtering_and_the_cursor() {
        let mut app = app();
        assert_eq!(names(&app), ["db", "web", "batch"], "by CPU");
        press(&mut app, "r");
        assert_eq!(names(&app), ["batch", "web", "db"]);
        app.sort_by(Column::Memory);
        assert_eq!(names(&app), ["batch", "web", "db"]);
        app.sort_by(Column::Name);
        assert_eq!(names(&app), ["batch", "db", "web"]);
        press(&mut app, "a");
        assert_eq!(names(&app).len(), 4);
        press(&mut app, "a/WE\n");
        assert_eq!(names(&app), ["web"]);
        assert_eq!(app.current().unwrap().figures.identity.name, "web");
        press(&mut app, "/zzz\n");
        assert_eq!((names(&app).len(), app.selected.as_ref()), (0, None));
        assert_eq!(press(&mut app, "sk\n"), Effect::Draw, "nothing to act on");
        press(&mut app, "\x1b");
        assert_eq!(names(&app).len(), 3);
        press(&mut app, "↓↓↓↓");
        assert_eq!(app.position(), 2);
        press(&mut app, "↑");
        assert_eq!(app.position(), 1);
    }

    #[test]
    fn actions_need_a_yes() {
        let mut app = app();
        let id = app.selected.clone().unwrap();
        assert_eq!(press(&mut app, "s"), Effect::Draw);
        assert!(
            matches!(&app.over, Over::Confirm(Action::Stop, target) if target.id == id),
            "{:?}",
            app.over
        );
        assert_eq!(press(&mut app, "n"), Effect::Draw);
        assert_eq!(press(&mut app, "s\n"), Effect::Draw, "enter is no yes");
        assert_eq!(press(&mut app, "sy"), Effect::Run(vec!["stop".into(), id.clone()]));
        assert_eq!(press(&mut app, "ky"), Effect::Run(vec!["kill".into(), id.clone()]));
        assert_eq!(press(&mut app, "py"), Effect::Run(vec!["pause".into(), id.clone()]));
        assert_eq!(
            press(&mut app, "lmemory=1gx⌫ --cpus=2\ny"),
            Effect::Run(vec!["update".into(), "--memory=1g".into(), "--cpus=2".into(), id])
        );
        assert_eq!(press(&mut app, "l\x1b"), Effect::Draw);
        assert_eq!(app.over, Over::Nothing);
        // A container that ended cannot be stopped.
        press(&mut app, "a/ended\n");
        press(&mut app, "s");
        assert_eq!(app.over, Over::Nothing);
        assert!(app.message.as_ref().unwrap().contains("does not run"));
    }

    #[test]
    fn a_yes_is_for_the_container_that_was_asked_about() {
        let mut app = app();
        let asked = app.selected.clone().unwrap();
        press(&mut app, "k");
        // It ends while the question stands, and the cursor moves to another.
        let left = vec![figures("web", 60, 20.0, 32 << 20)];
        app.update(Host::default(), left, &HashMap::new());
        assert_ne!(app.selected.as_ref(), Some(&asked));
        assert_eq!(press(&mut app, "y"), Effect::Run(vec!["kill".into(), asked]));
    }

    #[test]
    fn an_open_container_is_never_replaced_by_another() {
        let mut app = app();
        press(&mut app, "\n");
        let open = app.current().unwrap().figures.identity.name.clone();
        // Stopped, it does not pass the table's filter any more, but is still looked at.
        let mut stopped = figures(&open, 60, 0.0, 0);
        stopped.stats = None;
        stopped.life.status = Status::Exited;
        app.update(Host::default(), vec![figures("web", 60, 20.0, 1), stopped], &HashMap::new());
        assert_eq!((app.open, &app.current().unwrap().figures.identity.name), (Some(Tab::Overview), &open));
        app.update(Host::default(), vec![figures("web", 61, 20.0, 1)], &HashMap::new());
        assert_eq!(app.open, None);
        assert!(app.message.as_ref().unwrap().contains("removed"));
    }

    #[test]
    fn into_one_container_and_back() {
        let mut app = app();
        press(&mut app, "\n");
        assert_eq!(app.open, Some(Tab::Overview));
        press(&mut app, "\t");
        assert_eq!(app.open, Some(Tab::Processes));
        press(&mut app, "4\t");
        assert_eq!(app.open, Some(Tab::Overview));
        press(&mut app, "?");
        assert_eq!(app.over, Over::Help);
        press(&mut app, "x\x1b");
        assert_eq!(app.open, None);
        assert_eq!(press(&mut app, "q"), Effect::Quit);
    }

    #[test]
    fn the_mouse_selects_opens_and_sorts() {
        use crate::live::draw::{HEAD, TABLE};
        let mut app = app();
        app.heads = vec![(Column::Name, 0, 15), (Column::Cpu, 16, 6)];
        let click = |app: &mut App, column, row| {
            app.event(&Event::Mouse(MouseEvent {
                kind: MouseEventKind::Down(MouseButton::Left),
                column,
                row,
                modifiers: KeyModifiers::NONE,
            }))
        };
        click(&mut app, 3, TABLE + 1);
        assert_eq!((app.position(), app.open), (1, None));
        click(&mut app, 3, TABLE + 1);
        assert_eq!(app.open, Some(Tab::Overview));
        app.tabs = vec![(Tab::Overview, 0, 12), (Tab::Processes, 13, 13)];
        click(&mut app, 14, super::super::draw::TABS);
        assert_eq!(app.open, Some(Tab::Processes));
        app.open = None;
        click(&mut app, 3, HEAD);
        assert_eq!(app.sort, Some(Column::Name));
        click(&mut app, 3, TABLE + 50);
        assert_eq!(app.position(), app.position());
        click(&mut app, 15, HEAD);
        assert_eq!(app.sort, Some(Column::Name), "between two columns is no column");
    }

    #[test]
    fn the_cursor_stays_with_its_container() {
        let mut app = app();
        press(&mut app, "↓");
        let before = app.selected.clone();
        app.sort_by(Column::Name);
        assert_eq!(app.selected, before);
        app.update(Host::default(), Vec::new(), &HashMap::new());
        assert_eq!(app.selected, None);
    }
}
