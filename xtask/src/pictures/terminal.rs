//! A terminal, and its screen as an SVG.

use std::fmt::Write as _;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use super::escaped;
use crate::quiet;

/// Cells in user units.
const WIDTH: f64 = 8.4;
const HEIGHT: f64 = 18.0;
const MARGIN: f64 = 12.0;
/// The bar over the screen.
const TITLE: f64 = 28.0;
const BACKGROUND: &str = "#11151c";
const FOREGROUND: &str = "#d5dae2";

/// A tmux server of our own with one window.
pub struct Tmux(String);

impl Tmux {
    /// Starts a command on a screen of that size.
    pub fn start(words: &[String], width: u32, height: u32) -> Result<Self, String> {
        let tmux = Self(format!("bulkhead-pictures-{}", std::process::id()));
        let (width, height) = (width.to_string(), height.to_string());
        let mut command =
            tmux.command(&["-f", "/dev/null", "new-session", "-d", "-x", &width, "-y", &height]);
        quiet(command.arg("--").args(words).env_remove("TMUX").env_remove("NO_COLOR"))?;
        Ok(tmux)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("tmux");
        command.args(["-L", &self.0]).args(args);
        command
    }

    /// Types keys by tmux's names for them, and gives the view time for each.
    pub fn keys(&self, keys: &[&str]) -> Result<(), String> {
        for key in keys {
            quiet(&mut self.command(&["send-keys", key]))?;
            // A lone escape is told from the beginning of a sequence by what does not follow.
            sleep(Duration::from_millis(600));
        }
        sleep(Duration::from_millis(1500));
        Ok(())
    }

    /// Another size.
    pub fn resize(&self, width: u32, height: u32) -> Result<(), String> {
        let (width, height) = (width.to_string(), height.to_string());
        quiet(&mut self.command(&["resize-window", "-x", &width, "-y", &height]))?;
        Ok(())
    }

    /// The screen as it is now.
    pub fn picture(&self, title: &str) -> Result<String, String> {
        let size = quiet(&mut self.command(&["display", "-p", "#{window_width} #{window_height}"]))?;
        let mut size = size.split_whitespace().filter_map(|n| n.parse::<usize>().ok());
        let (Some(width), Some(height)) = (size.next(), size.next()) else {
            return Err("tmux: no size".to_owned());
        };
        Ok(svg(&quiet(&mut self.command(&["capture-pane", "-p", "-e"]))?, title, width, height))
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        let _ = self.command(&["kill-server"]).status();
    }
}

/// How a cell looks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Style {
    foreground: Option<String>,
    background: Option<String>,
    bold: bool,
    dim: bool,
    underlined: bool,
    reversed: bool,
}

impl Style {
    /// Select Graphic Rendition.
    fn apply(&mut self, arguments: &str) {
        let numbers: Vec<u32> = arguments.split([';', ':']).map(|n| n.parse().unwrap_or(0)).collect();
        let mut at = 0;
        while let Some(&n) = numbers.get(at) {
            at += 1;
            match n {
                0 => *self = Self::default(),
                1 => self.bold = true,
                2 => self.dim = true,
                4 => self.underlined = true,
                7 => self.reversed = true,
                22 => (self.bold, self.dim) = (false, false),
                24 => self.underlined = false,
                27 => self.reversed = false,
                30..=37 => self.foreground = Some(color(n - 30)),
                90..=97 => self.foreground = Some(color(n - 90 + 8)),
                40..=47 => self.background = Some(color(n - 40)),
                100..=107 => self.background = Some(color(n - 100 + 8)),
                39 => self.foreground = None,
                49 => self.background = None,
                38 | 48 => {
                    let chosen = match numbers.get(at..) {
                        Some([5, index, ..]) => {
                            at += 2;
                            Some(color(*index))
                        }
                        Some([2, red, green, blue, ..]) => {
                            at += 4;
                            Some(format!("#{red:02x}{green:02x}{blue:02x}"))
                        }
                        _ => None,
                    };
                    *(if n == 38 { &mut self.foreground } else { &mut self.background }) = chosen;
                }
                _ => {}
            }
        }
    }

    /// What is drawn, and on what.
    fn colors(&self) -> (&str, Option<&str>) {
        let (front, back) = (self.foreground.as_deref().unwrap_or(FOREGROUND), self.background.as_deref());
        if self.reversed { (back.unwrap_or(BACKGROUND), Some(front)) } else { (front, back) }
    }
}

/// The sixteen colours, and the 256 beyond them.
fn color(index: u32) -> String {
    const SIXTEEN: [&str; 16] = [
        "#1b1f27", "#e5646e", "#7cc379", "#e0b963", "#5b9ee8", "#c184dd", "#55b8c4", "#c8cdd6", "#7a8290",
        "#f0828b", "#98d795", "#f0cf85", "#82b8f2", "#d5a3ea", "#7ccfd9", "#ffffff",
    ];
    match index {
        0..=15 => SIXTEEN[index as usize].to_owned(),
        16..=231 => {
            let level = |n: u32| if n == 0 { 0 } else { 55 + n * 40 };
            let n = index - 16;
            format!("#{:02x}{:02x}{:02x}", level(n / 36), level(n / 6 % 6), level(n % 6))
        }
        _ => {
            let level = 8 + index.saturating_sub(232).min(23) * 10;
            format!("#{level:02x}{level:02x}{level:02x}")
        }
    }
}

/// Cells with their looks, a line at a time.
fn cells(text: &str) -> Vec<Vec<(char, Style)>> {
    let mut style = Style::default();
    let mut lines = Vec::new();
    for line in text.lines() {
        let mut cells = Vec::new();
        let mut chars = line.chars();
        while let Some(c) = chars.next() {
            if c != '\x1b' {
                cells.push((c, style.clone()));
                continue;
            }
            // tmux writes nothing but control sequences, and shifts (one letter) for line drawing.
            if chars.next() != Some('[') {
                continue;
            }
            let mut arguments = String::new();
            for c in chars.by_ref() {
                if c.is_ascii_alphabetic() {
                    if c == 'm' {
                        style.apply(&arguments);
                    }
                    break;
                }
                arguments.push(c);
            }
        }
        lines.push(cells);
    }
    lines
}

fn svg(text: &str, title: &str, width: usize, height: usize) -> String {
    let (full_width, full_height) =
        (width as f64 * WIDTH + 2.0 * MARGIN, height as f64 * HEIGHT + 2.0 * MARGIN + TITLE);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {full_width:.1} {full_height:.1}\" \
         font-family=\"ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace\" font-size=\"14\">\n\
         <title>{0}</title>\n\
         <rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"{BACKGROUND}\"/>\n\
         <g fill=\"#3a414d\"><circle cx=\"20\" cy=\"18\" r=\"6\"/><circle cx=\"40\" cy=\"18\" r=\"6\"/><circle cx=\"60\" cy=\"18\" r=\"6\"/></g>\n\
         <text x=\"{1:.1}\" y=\"23\" fill=\"#7a8290\" text-anchor=\"middle\">{0}</text>\n",
        escaped(title),
        full_width / 2.0,
    );
    for (row, cells) in cells(text).iter().enumerate() {
        let top = MARGIN + TITLE + row as f64 * HEIGHT;
        let mut column = 0;
        while column < cells.len() {
            let style = &cells[column].1;
            let end = cells[column..].iter().position(|(_, other)| other != style);
            let end = end.map_or(cells.len(), |more| column + more);
            run(&mut out, &cells[column..end], column, top, style);
            column = end;
        }
    }
    out.push_str("</svg>\n");
    out
}

/// Neighbours that look alike.
fn run(out: &mut String, cells: &[(char, Style)], column: usize, top: f64, style: &Style) {
    let left = MARGIN + column as f64 * WIDTH;
    let (front, back) = style.colors();
    if let Some(back) = back {
        let width = cells.len() as f64 * WIDTH;
        let _ = writeln!(
            out,
            "<rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{HEIGHT}\" fill=\"{back}\"/>"
        );
    }
    // Blocks are drawn rather than written: fonts leave gaps between them.
    let mut text = String::new();
    for (n, (c, _)) in cells.iter().enumerate() {
        let part = match c {
            '▁'..='█' => f64::from(*c as u32 - '▁' as u32 + 1) / 8.0,
            '░' => 1.0,
            _ => {
                text.push(*c);
                continue;
            }
        };
        text.push(' ');
        let tall = part * (HEIGHT - 3.0);
        let (x, y) = (left + n as f64 * WIDTH, top + HEIGHT - 1.5 - tall);
        let faint = if *c == '░' { " opacity=\"0.25\"" } else { "" };
        let wide = WIDTH + if *c == '█' || *c == '░' { 0.0 } else { -0.6 };
        let _ = writeln!(
            out,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{wide:.1}\" height=\"{tall:.1}\" fill=\"{front}\"{faint}/>"
        );
    }
    // A text is placed word by word, so that a font of another width shifts nothing.
    let weight = if style.bold { " font-weight=\"bold\"" } else { "" };
    let faint = if style.dim { " opacity=\"0.6\"" } else { "" };
    let line = if style.underlined { " text-decoration=\"underline\"" } else { "" };
    let mut at = 0;
    for word in text.split(' ') {
        let count = word.chars().count();
        if count > 0 {
            let (x, y) = (left + at as f64 * WIDTH, top + HEIGHT - 5.0);
            let _ = writeln!(
                out,
                "<text x=\"{x:.1}\" y=\"{y:.1}\" textLength=\"{:.1}\" fill=\"{front}\"{weight}{faint}{line}>{}</text>",
                count as f64 * WIDTH,
                escaped(word)
            );
        }
        at += count + 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_tmux_writes_is_read() {
        let lines = cells("a\x1b[1m\x1b[31mb\x1b[38;5;8;44mc\x1b[0m\x1b[7md\n\x1b[39me");
        let styles: Vec<&Style> = lines[0].iter().map(|(_, style)| style).collect();
        assert_eq!(styles[0], &Style::default());
        assert!(styles[1].bold && styles[1].foreground.as_deref() == Some("#e5646e"));
        assert_eq!(styles[2].colors(), ("#7a8290", Some("#5b9ee8")));
        assert_eq!(styles[3].colors(), (BACKGROUND, Some(FOREGROUND)));
        assert!(lines[1][0].1.reversed, "a style goes on over the end of a line");
    }

    #[test]
    fn a_screen_is_well_formed_and_escaped() {
        let svg = svg("<a> & b\x1b[32m ▁█░ 50%", "t", 20, 1);
        assert!(svg.contains("&lt;a&gt;") && svg.contains("&amp;") && svg.contains("50%"), "{svg}");
        // The page, and three blocks.
        assert_eq!(svg.matches("<rect").count(), 4, "{svg}");
        assert!(svg.ends_with("</svg>\n"));
    }
}
