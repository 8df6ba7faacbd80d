//! The screen.
//!
//! Everything is said in text as well as in colour, so that the view without colour (NO_COLOR) loses
//! nothing. Sizes are those of 80 × 24 at least; a smaller screen shows what fits.

use bulkhead_engine::cgroup::{Ceiling, Pressure};
use bulkhead_engine::model::{Basis, Figures, Network};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Clear, Paragraph, Wrap};

use super::app::{App, Over, Row, Tab};
use super::columns::{Column, bar};
use super::recent::Tracing;
use crate::output::human;

/// The line of the table's head.
pub const HEAD: u16 = 2;
/// The line of the table's first row.
pub const TABLE: u16 = 3;
/// The line of the heads of one container's parts.
pub const TABS: u16 = 3;

/// How things look.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    /// False when NO_COLOR is set: then only bold, reverse and dim are used.
    pub color: bool,
}

impl Look {
    fn plain(self, color: Color) -> Style {
        if self.color { Style::new().fg(color) } else { Style::new() }
    }

    fn strong(self, color: Color) -> Style {
        self.plain(color).add_modifier(Modifier::BOLD)
    }

    fn dim(self) -> Style {
        if self.color { Style::new().fg(Color::DarkGray) } else { Style::new().add_modifier(Modifier::DIM) }
    }

    /// Green, yellow or red; without colour, bold once it is serious.
    fn level(self, part: f64) -> Style {
        match part {
            part if part >= 0.9 => self.strong(Color::Red),
            part if part >= 0.7 => self.plain(Color::Yellow),
            _ => self.plain(Color::Green),
        }
    }

    fn cursor(self) -> Style {
        if self.color {
            Style::new().bg(Color::Blue).fg(Color::White).add_modifier(Modifier::BOLD)
        } else {
            Style::new().add_modifier(Modifier::REVERSED)
        }
    }
}

/// Draws everything. The application remembers how much fitted, for paging and the mouse.
pub fn draw(app: &mut App, look: Look, frame: &mut Frame<'_>) {
    let area = frame.area();
    let [head, body, foot] =
        Layout::vertical([Constraint::Length(2), Constraint::Min(1), Constraint::Length(1)]).areas(area);
    frame.render_widget(Paragraph::new(summary(app, look)), head);
    match app.open {
        None => table(app, look, frame, body),
        Some(tab) => one(app, tab, look, frame, body),
    }
    frame.render_widget(Paragraph::new(footer(app, look)), foot);
    over(app, look, frame, area);
}

fn summary(app: &App, look: Look) -> Vec<Line<'static>> {
    let running = app.rows.iter().filter(|row| row.figures.stats.is_some()).count();
    let cpu: f64 = app.rows.iter().filter_map(|row| row.rates).map(|rates| rates.cpu).sum();
    let memory: f64 = app.rows.iter().map(|row| row.history.memory.last()).sum();
    let host = &app.host;
    let used = host.memory.total.saturating_sub(host.memory.available);
    let psi = |pressure: Option<Pressure>| {
        pressure.map_or_else(|| "-".to_owned(), |pressure| format!("{:.1}", pressure.some.avg10))
    };
    let first = Line::from(vec![
        Span::styled("bulkhead top", look.strong(Color::Cyan)),
        Span::raw(format!(
            "  {running} running, {} not  ·  containers {:.1}% of {} CPUs, {}",
            app.rows.len() - running,
            cpu,
            host.cpus,
            human::binary(memory as u64),
        )),
    ]);
    let second = Line::from(vec![
        Span::styled("host ", look.dim()),
        Span::raw(format!("mem {} of {}", human::binary(used), human::binary(host.memory.total))),
        Span::styled("  PSI 10s ", look.dim()),
        Span::raw(format!(
            "cpu {} mem {} io {}",
            psi(host.cpu_pressure),
            psi(host.memory_pressure),
            psi(host.io_pressure)
        )),
        Span::styled(
            if app.filter.is_empty() { String::new() } else { format!("  filter: {}", app.filter) },
            look.strong(Color::Yellow),
        ),
    ]);
    vec![first, second]
}

fn footer(app: &App, look: Look) -> Line<'static> {
    if let Some(message) = &app.message {
        return Line::styled(message.clone(), look.strong(Color::Yellow));
    }
    let keys: &[(&str, &str)] = if app.open.is_some() {
        &[
            ("Esc", "back"),
            ("Tab", "next"),
            ("s", "stop"),
            ("p", "pause"),
            ("k", "kill"),
            ("l", "limits"),
            ("?", "help"),
        ]
    } else {
        &[
            // First, so that a narrow terminal shows at least this one.
            ("?", "help"),
            ("Enter", "open"),
            ("<>", "sort"),
            ("r", "reverse"),
            ("/", "filter"),
            ("a", "all"),
            ("s", "stop"),
            ("p", "pause"),
            ("k", "kill"),
            ("l", "limits"),
            ("q", "quit"),
        ]
    };
    let spans = keys.iter().flat_map(|(key, what)| {
        [Span::styled((*key).to_owned(), look.strong(Color::Cyan)), Span::raw(format!(" {what}  "))]
    });
    spans.collect::<Line<'_>>()
}

/// Exactly `width` cells, cut or filled.
fn cell(text: &str, width: u16, right: bool) -> String {
    use unicode_width::UnicodeWidthChar as _;
    let width = usize::from(width);
    let (mut out, mut cells) = (String::new(), 0);
    for c in text.chars() {
        let wide = c.width().unwrap_or(0);
        if cells + wide > width {
            break;
        }
        out.push(c);
        cells += wide;
    }
    let blank = " ".repeat(width - cells);
    if right { blank + &out } else { out + &blank }
}

fn table(app: &mut App, look: Look, frame: &mut Frame<'_>, area: Rect) {
    let by = app.sort.unwrap_or(Column::Cpu);
    let columns = Column::that_fit(area.width, by);
    // What is left over goes to the name.
    let taken: u16 = columns.iter().map(|column| column.width() + 1).sum::<u16>().saturating_sub(1);
    let spare = area.width.saturating_sub(taken).min(30);
    let width = |column: &Column| column.width() + if *column == Column::Name { spare } else { 0 };
    app.page = usize::from(area.height.saturating_sub(1));
    app.heads.clear();
    let mut at = area.x;
    let mut head = Vec::new();
    for column in &columns {
        app.heads.push((*column, at, width(column)));
        at += width(column) + 1;
        let sorted = *column == by;
        let arrow = if !sorted {
            ""
        } else if app.reverse {
            "▲"
        } else {
            "▼"
        };
        let style =
            if sorted { look.strong(Color::Cyan).add_modifier(Modifier::UNDERLINED) } else { look.dim() };
        head.push(Span::styled(
            cell(&format!("{}{arrow}", column.title()), width(column), column.is_number()),
            style,
        ));
        head.push(Span::raw(" "));
    }
    let count = app.visible().count();
    // After a resize or a removal the cursor's row must still be on the screen.
    let position = app.position();
    app.offset = app.offset.min(count.saturating_sub(app.page)).min(position);
    if position >= app.offset + app.page.max(1) {
        app.offset = position + 1 - app.page.max(1);
    }
    let mut lines = vec![Line::from(head)];
    for row in app.visible().skip(app.offset).take(app.page) {
        let selected = Some(&row.figures.identity.id) == app.selected.as_ref();
        let mut spans = Vec::new();
        for column in &columns {
            let text = cell(&column.text(row, &app.host), width(column), column.is_number());
            let style = if selected { Style::new() } else { style(*column, row, app, look) };
            spans.push(Span::styled(text, style));
            spans.push(Span::raw(" "));
        }
        let line = Line::from(spans);
        lines.push(if selected { line.style(look.cursor()) } else { line });
    }
    if count == 0 {
        let why = if app.filter.is_empty() {
            "no container runs (a shows all)"
        } else {
            "nothing matches the filter"
        };
        lines.push(Line::styled(why, look.dim()));
    }
    frame.render_widget(Paragraph::new(lines), area);
}

fn style(column: Column, row: &Row, app: &App, look: Look) -> Style {
    if row.figures.stats.is_none() {
        return look.dim();
    }
    let cpus = row.figures.cpu_limit().unwrap_or(app.host.cpus as f64).max(0.01);
    match column {
        Column::Name => look.strong(Color::White),
        Column::State => match row.state() {
            "running" | "healthy" => look.plain(Color::Green),
            "unhealthy" => look.strong(Color::Red),
            _ => look.plain(Color::Yellow),
        },
        Column::Cpu | Column::CpuSpark => look.level(row.history.cpu.last() / 100.0 / cpus),
        Column::Memory | Column::MemoryBar | Column::MemorySpark => {
            look.level(row.history.memory.last() / (row.figures.memory_limit(&app.host).max(1) as f64))
        }
        Column::Pressure => look.level(Column::Pressure.key(row) / 30.0),
        Column::Throttled => look.level(Column::Throttled.key(row) / 30.0),
        Column::Oom if row.figures.oom_kills().unwrap_or(0) > 0 => look.strong(Color::Red),
        Column::Network | Column::NetworkSpark => look.plain(Color::Magenta),
        Column::Io | Column::IoSpark => look.plain(Color::Blue),
        _ => Style::new(),
    }
}

fn one(app: &mut App, tab: Tab, look: Look, frame: &mut Frame<'_>, area: Rect) {
    let Some(row) = app.current().cloned() else {
        app.open = None;
        return;
    };
    let [title, tabs, body] =
        Layout::vertical([Constraint::Length(1), Constraint::Length(1), Constraint::Min(1)]).areas(area);
    let identity = &row.figures.identity;
    frame.render_widget(
        Paragraph::new(Line::from(vec![
            Span::styled(identity.name.clone(), look.strong(Color::White)),
            Span::styled(
                format!(
                    "  {}  {}  {}",
                    &identity.id[..12.min(identity.id.len())],
                    identity.image,
                    row.state()
                ),
                look.dim(),
            ),
        ])),
        title,
    );
    app.tabs.clear();
    let mut heads = Line::default();
    for each in Tab::ALL {
        let style = if each == tab { look.cursor() } else { look.dim() };
        let text = format!(" {} ", each.title());
        app.tabs.push((each, tabs.x + heads.width() as u16, text.len() as u16));
        heads.push_span(Span::styled(text, style));
        heads.push_span(Span::raw(" "));
    }
    frame.render_widget(Paragraph::new(heads), tabs);
    app.page = usize::from(body.height.saturating_sub(1));
    let lines = match tab {
        Tab::Overview => overview(app, &row, look, body.width),
        Tab::Processes => processes(app, look),
        Tab::Connections => connections(app, &row, look),
        Tab::Events => events(app, &row, look),
    };
    app.scroll = app.scroll.min(lines.len().saturating_sub(usize::from(body.height)));
    frame.render_widget(Paragraph::new(lines).scroll((app.scroll as u16, 0)), body);
}

fn overview(app: &App, row: &Row, look: Look, width: u16) -> Vec<Line<'static>> {
    let figures = &row.figures;
    let rates = row.rates.unwrap_or_default();
    let Some(stats) = &figures.stats else {
        return vec![Line::styled(
            format!("{}, exit code {}", figures.life.status.as_str(), figures.life.exit_code),
            look.dim(),
        )];
    };
    let wide = usize::from(width.saturating_sub(27)).clamp(10, 120);
    let label = |text: &str| Span::styled(cell(text, 10, false), look.dim());
    let charted = |name: &str, value: String, spark: String, style: Style| {
        Line::from(vec![label(name), Span::raw(cell(&value, 16, false)), Span::styled(spark, style)])
    };
    let mark = if rates.basis == Basis::Start { "~" } else { "" };
    let cpus = figures.cpu_limit().unwrap_or(app.host.cpus as f64).max(0.01);
    let memory = stats.memory.as_ref();
    let mut lines = vec![
        charted(
            "cpu",
            format!("{mark}{:.1}%", rates.cpu),
            row.history.cpu.spark(wide, cpus * 100.0),
            look.level(rates.cpu / 100.0 / cpus),
        ),
        charted(
            "memory",
            memory.map_or_else(|| "not told here".into(), |memory| human::binary(memory.working_set())),
            row.history.memory.spark(wide, 0.0),
            look.plain(Color::Green),
        ),
        charted(
            "network",
            match &figures.network {
                Network::Host => "the host's".into(),
                _ => format!("{}/s", human::size((rates.received + rates.sent) as u64)),
            },
            row.history.network.spark(wide, 1.0),
            look.plain(Color::Magenta),
        ),
        charted(
            "i/o",
            if stats.io.is_some() {
                format!("{}/s", human::size((rates.read + rates.written) as u64))
            } else {
                "not told here".into()
            },
            row.history.io.spark(wide, 1.0),
            look.plain(Color::Blue),
        ),
        Line::raw(""),
    ];
    let limit = |name: &str, used: f64, limit: Option<f64>, text: String| {
        let bar =
            limit.map_or_else(|| cell("no limit", 25, false), |limit| cell(&bar(used, limit, 24), 25, false));
        let part = limit.map_or(0.0, |limit| used / limit);
        Line::from(vec![label(name), Span::styled(bar, look.level(part)), Span::raw(text)])
    };
    let quota = figures.cpu_limit();
    lines.push(limit(
        "cpu",
        rates.cpu / 100.0,
        quota,
        quota.map_or_else(String::new, |quota| format!("of {quota:.2} CPUs")),
    ));
    if let Some(memory) = memory {
        let used = memory.working_set();
        lines.push(limit(
            "memory",
            used as f64,
            memory.limit.map(|limit| limit as f64),
            format!(
                "{}{}, peak {}",
                human::binary(used),
                memory.limit.map_or_else(String::new, |limit| format!(" of {}", human::binary(limit))),
                memory.peak.map_or_else(|| "not told".into(), human::binary),
            ),
        ));
    }
    lines.push(limit(
        "pids",
        stats.pids.current as f64,
        stats.pids.limit.map(|limit| limit as f64),
        format!(
            "{}{}",
            stats.pids.current,
            stats.pids.limit.map_or_else(String::new, |limit| format!(" of {limit}"))
        ),
    ));
    lines.push(Line::raw(""));
    for (name, pressure) in
        [("psi cpu", stats.cpu_pressure), ("psi mem", stats.memory_pressure), ("psi io", stats.io_pressure)]
    {
        let text = match pressure {
            None => "not supported here".to_owned(),
            Some(pressure) => {
                let full = pressure.full.map_or_else(String::new, |full| {
                    format!("   full {:>5.1} {:>5.1} {:>5.1}", full.avg10, full.avg60, full.avg300)
                });
                let some = pressure.some;
                format!("some {:>5.1} {:>5.1} {:>5.1}{full}", some.avg10, some.avg60, some.avg300)
            }
        };
        let level = pressure.map_or(0.0, |pressure| pressure.some.avg10 / 30.0);
        lines.push(Line::from(vec![label(name), Span::styled(text, look.level(level))]));
    }
    lines.push(Line::raw(""));
    lines.extend(
        facts(figures, row, look)
            .into_iter()
            .map(|(name, text)| Line::from(vec![label(name), Span::raw(text)])),
    );
    lines
}

fn facts(figures: &Figures, row: &Row, _look: Look) -> Vec<(&'static str, String)> {
    let Some(stats) = &figures.stats else { return Vec::new() };
    let told =
        |value: Option<u64>| value.map_or_else(|| "not told here".to_owned(), |value| value.to_string());
    let mut facts = Vec::new();
    let throttling = stats.cpu.throttling.as_ref().map_or_else(
        || "no quota accounted here".to_owned(),
        |t| {
            format!("{} of {} periods, {:.1} s in all", t.throttled, t.periods, t.throttled_time as f64 / 1e9)
        },
    );
    facts.push(("throttled", throttling));
    facts.push((
        "events",
        format!(
            "OOM kills {}, execs {}, restarts {}",
            told(figures.oom_kills()),
            row.execs.map_or_else(|| "not traced".to_owned(), |execs| format!("{execs} since this view")),
            figures.life.restarts
        ),
    ));
    if let Some(memory) = &stats.memory {
        let kinds = &memory.breakdown;
        facts.push((
            "memory",
            format!(
                "anon {}, cache {} ({} inactive), shmem {}, swap {}, limit hit {}",
                human::binary(kinds.anon),
                human::binary(kinds.file),
                human::binary(kinds.inactive_file),
                human::binary(kinds.shmem),
                memory.swap.map_or_else(|| "not told".to_owned(), human::binary),
                told(memory.failcnt),
            ),
        ));
    }
    for interface in figures.network.interfaces() {
        facts.push((
            "network",
            format!(
                "{}: received {}, sent {}, errors {}, dropped {}",
                interface.name,
                human::size(interface.received.bytes),
                human::size(interface.sent.bytes),
                interface.received.errors + interface.sent.errors,
                interface.received.dropped + interface.sent.dropped
            ),
        ));
    }
    if let Some(limits) = &figures.limits {
        let ceiling = |ceiling: Option<Ceiling>, unit: &dyn Fn(u64) -> String| match ceiling {
            None => "-".to_owned(),
            Some(Ceiling::Unlimited) => "max".to_owned(),
            Some(Ceiling::At(value)) => unit(value),
        };
        facts.push((
            "limits",
            format!(
                "memory {}, with swap {}, high {}, reserved {}, cpus {}, pids {}",
                ceiling(limits.memory, &human::binary),
                ceiling(limits.memory_swap, &human::binary),
                ceiling(limits.memory_high, &human::binary),
                ceiling(limits.memory_reservation, &human::binary),
                limits.cpuset_cpus.as_deref().filter(|list| !list.is_empty()).unwrap_or("all"),
                ceiling(limits.pids, &|pids| pids.to_string()),
            ),
        ));
        let asked = &figures.asked;
        facts.push((
            "asked",
            format!(
                "memory {}, cpus {:.2}, pids {}",
                if asked.memory > 0 { human::binary(asked.memory as u64) } else { "-".into() },
                asked.nano_cpus as f64 / 1e9,
                asked.pids_limit.map_or_else(|| "-".to_owned(), |pids| pids.to_string()),
            ),
        ));
    }
    facts
}

fn processes(app: &App, look: Look) -> Vec<Line<'static>> {
    let mut lines = vec![Line::styled(
        format!("{:>8} S {:>5} {:>10} {:>9}  COMMAND", "PID", "THR", "CPU TIME", "RSS"),
        look.dim(),
    )];
    lines.extend(app.detail.processes.iter().map(|process| {
        Line::raw(format!(
            "{:>8} {} {:>5} {:>10} {:>9}  {}",
            process.pid,
            process.state,
            process.threads,
            format!("{}:{:05.2}", process.ticks / 6000, (process.ticks % 6000) as f64 / 100.0),
            human::binary(process.resident),
            process.command
        ))
    }));
    error(app, look, &mut lines);
    lines
}

fn connections(app: &App, row: &Row, look: Look) -> Vec<Line<'static>> {
    let mut lines = vec![Line::styled(
        format!("{:<12} {:>7} {:>7} {:<28} {:<28}", "STATE", "RECV-Q", "SEND-Q", "LOCAL", "REMOTE"),
        look.dim(),
    )];
    if row.figures.network == Network::Host {
        lines.push(Line::styled("in the host's network: these are the host's connections", look.dim()));
    }
    if app.detail.connections.is_empty() && app.detail.error.is_none() {
        lines.push(Line::styled("no TCP or UDP socket", look.dim()));
    }
    lines.extend(app.detail.connections.iter().map(|connection| {
        Line::raw(format!(
            "{:<12} {:>7} {:>7} {:<28} {:<28}",
            connection.state,
            connection.receive_queue,
            connection.send_queue,
            connection.local.to_string(),
            if connection.state == "LISTEN" { "*".to_owned() } else { connection.remote.to_string() }
        ))
    }));
    error(app, look, &mut lines);
    lines
}

fn events(app: &App, row: &Row, look: Look) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    match &app.detail.tracing {
        Tracing::Starting => lines.push(Line::styled("the kernel programs are being loaded", look.dim())),
        Tracing::Refused(why) => {
            lines.push(Line::styled(format!("nothing is traced here: {why}"), look.dim()));
        }
        Tracing::On { lost } if *lost > 0 => {
            lines.push(Line::styled(
                format!("{lost} events came too fast and are missing"),
                look.strong(Color::Red),
            ));
        }
        Tracing::On { .. } => {}
    }
    if row.figures.life.oom_killed {
        lines
            .push(Line::styled("the last run was ended by the kernel's OOM killer", look.strong(Color::Red)));
    }
    let kinds = app.detail.events.iter().rev().map(|event| {
        let style = if event.oom { look.strong(Color::Red) } else { Style::new() };
        Line::from(vec![
            Span::styled(format!("{}  ", event.time), look.dim()),
            Span::styled(cell(if event.oom { "oom kill" } else { "exec" }, 10, false), style),
            Span::styled(event.text.clone(), style),
        ])
    });
    lines.extend(kinds);
    if lines.is_empty() {
        lines.push(Line::styled("no execution and no OOM kill since this view was started", look.dim()));
    }
    lines
}

fn error(app: &App, look: Look, lines: &mut Vec<Line<'static>>) {
    if let Some(error) = &app.detail.error {
        lines.push(Line::styled(error.clone(), look.strong(Color::Red)));
    }
}

const HELP: &str = "\
Up Down PgUp PgDn Home End   move
Enter, click twice           open one container
Esc                          back; clear the filter
< >  click on a head         sort by another column
r  click again               reverse the order
/                            filter by name, image or id
a                            show those that do not run
s  p  k                      stop, pause or unpause, kill
l                            change limits: memory=1g cpus=2 pids-limit=100
Tab 1 2 3 4                  parts of one container
q  Ctrl-C                    quit

~ is an average since the container's start. PSI is the
percentage of the last 10 s in which some task stood still.
EXEC counts since this view was started, OOM in all its life.";

fn over(app: &App, look: Look, frame: &mut Frame<'_>, area: Rect) {
    let (title, text) = match &app.over {
        Over::Nothing => return,
        Over::Help => (" Keys ", HELP.to_owned()),
        Over::Confirm(action, target) => {
            (" Sure? ", format!("{}\n\ny does it, any other key does not", action.question(&target.name)))
        }
        Over::Filter => (" Filter ", format!("{}_\n\nEnter keeps it, Esc clears it", app.filter)),
        Over::Limits(text, target) => (
            " Limits ",
            format!(
                "{}: {text}_\n\nmemory=512m cpus=1.5 pids-limit=100   Enter goes on, Esc does not",
                target.name
            ),
        ),
    };
    let lines = text.lines().count() as u16;
    let longest = text.lines().map(|line| line.chars().count()).max().unwrap_or(0) as u16;
    let width = (longest.max(30) + 4).min(area.width);
    // A long question wraps.
    let wrapped =
        text.lines().map(|line| line.chars().count() as u16 / width.saturating_sub(2).max(1)).sum::<u16>();
    let height = (lines + wrapped + 2).min(area.height);
    let place =
        Rect { x: area.x + (area.width - width) / 2, y: area.y + (area.height - height) / 2, width, height };
    frame.render_widget(Clear, place);
    let block = Block::default().borders(Borders::ALL).title(title).border_style(look.strong(Color::Cyan));
    frame.render_widget(Paragraph::new(text).wrap(Wrap { trim: false }).block(block), place);
}

#[cfg(test)]
mod tests {
    use super::super::app::tests::app;
    use super::*;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::crossterm::event::{Event, KeyCode, KeyEvent};

    fn screen(app: &mut App, width: u16, height: u16, color: bool) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(app, Look { color }, frame)).unwrap();
        if !color {
            for cell in terminal.backend().buffer().content() {
                assert!((cell.fg, cell.bg) == (Color::Reset, Color::Reset), "a colour in spite of NO_COLOR");
            }
        }
        let buffer = terminal.backend().buffer();
        (0..height)
            .map(|y| {
                (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned() + "\n"
            })
            .collect()
    }

    #[test]
    fn the_table_at_80_by_24() {
        let mut app = app();
        let text = screen(&mut app, 80, 24, false);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("bulkhead top  3 running, 1 not"), "{text}");
        assert!(
            lines[usize::from(HEAD)].contains("NAME") && lines[usize::from(HEAD)].contains("CPU%▼"),
            "{text}"
        );
        assert!(lines[usize::from(TABLE)].starts_with("db "), "{text}");
        assert!(lines[usize::from(TABLE)].contains("90.0"), "{text}");
        let batch = lines.iter().find(|line| line.starts_with("batch")).unwrap();
        assert!(batch.contains("94%") && batch.contains("60MiB"), "{text}");
        assert!(lines[23].contains("help"), "{text}");
    }

    #[test]
    fn every_size_and_every_part_can_be_drawn() {
        for (width, height) in [(1, 1), (10, 3), (40, 10), (80, 24), (132, 43), (300, 80)] {
            for color in [true, false] {
                let mut app = app();
                screen(&mut app, width, height, color);
                for key in ['?', 'x', 's', 'n', 'l', '1', '\x1b', '/', 'w'] {
                    let code = if key == '\x1b' { KeyCode::Esc } else { KeyCode::Char(key) };
                    app.event(&Event::Key(KeyEvent::from(code)));
                    screen(&mut app, width, height, color);
                }
                app.event(&Event::Key(KeyEvent::from(KeyCode::Esc)));
                app.event(&Event::Key(KeyEvent::from(KeyCode::Enter)));
                for tab in ['1', '2', '3', '4'] {
                    app.event(&Event::Key(KeyEvent::from(KeyCode::Char(tab))));
                    screen(&mut app, width, height, color);
                }
            }
        }
    }

    #[test]
    fn one_container_tells_its_limits_and_pressure() {
        let mut app = app();
        app.event(&Event::Key(KeyEvent::from(KeyCode::Enter)));
        let text = screen(&mut app, 80, 24, true);
        for part in [
            "1 Overview",
            "memory",
            "of 64MiB",
            "psi cpu",
            "not supported here",
            "OOM kills 1, execs not traced",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }

    #[test]
    fn more_containers_than_lines_scroll_with_the_cursor() {
        let mut app = App::default();
        let many =
            (0..100).map(|n| super::super::app::tests::figures(&format!("c{n:03}"), 1, 1.0, 1)).collect();
        app.update(bulkhead_engine::model::Host::default(), many, &std::collections::HashMap::new());
        app.sort = Some(Column::Name);
        screen(&mut app, 80, 24, true);
        app.event(&Event::Key(KeyEvent::from(KeyCode::End)));
        let last = app.current().unwrap().figures.identity.name.clone();
        let text = screen(&mut app, 80, 24, true);
        assert!(text.contains(&last), "{text}");
        let text = screen(&mut app, 80, 12, true);
        assert!(text.contains(&last), "after a resize\n{text}");
    }
}
