//! The pictures of the documents, taken of the demo: the screen of `observer top` as SVG, the page as PNG. What they show is
//! what the programs show, so they are taken anew where that changes.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::pods::NAMESPACE;
use crate::cmd;

/// How long the demo runs before: trends are full then, and idle clients have been cut.
pub(super) const AFTER: Duration = Duration::from_secs(40);
/// Until the screen shows something.
const PATIENCE: Duration = Duration::from_secs(20);
/// Of the terminal, in letters.
const TERMINAL: (usize, usize) = (132, 10);
/// Of the page, in pixels.
const PAGE: &str = "1440,540";

/// Takes all of them into a directory.
pub(super) fn take(observer: &Path, page: &str, directory: &Path) -> Result<()> {
    fs::create_dir_all(directory)?;
    let screen = screen(observer)?;
    let svg = svg(&screen, TERMINAL);
    fs::write(directory.join("top.svg"), svg).context("writing the picture of the terminal")?;
    let picture = directory.join("page.png");
    let mut browser = cmd::command("chromium");
    browser.args(["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]);
    browser.arg(format!("--window-size={PAGE}")).arg(format!("--screenshot={}", picture.display()));
    // Time for the page to ask for what it shows.
    browser.args(["--timeout=8000", "--run-all-compositor-stages-before-draw", page]);
    cmd::output(&mut browser)?;
    for name in ["top.svg", "page.png"] {
        let path = directory.join(name);
        println!("{}: {} bytes", path.display(), fs::metadata(&path)?.len());
    }
    Ok(())
}

/// The screen of `observer top`, as tmux tells it with its escapes.
fn screen(observer: &Path) -> Result<String> {
    let directory = tempfile::tempdir()?;
    let socket = directory.path().join("tmux");
    let tmux = |arguments: &[&str]| {
        let mut tmux = cmd::command("tmux");
        tmux.env_remove("TMUX").env("LC_ALL", "C.UTF-8").args(["-u", "-f", "/dev/null", "-S"]);
        cmd::output(tmux.arg(&socket).args(arguments))
    };
    let (width, height) = (TERMINAL.0.to_string(), TERMINAL.1.to_string());
    let program = format!("{} top", observer.display());
    tmux(&["new-session", "-d", "-x", &width, "-y", &height, &program])?;
    let shown = (|| {
        let deadline = Instant::now() + PATIENCE;
        let mut filtered = false;
        loop {
            let screen = tmux(&["capture-pane", "-e", "-p"])?;
            // It listens. Whatever else this machine does is left out.
            if !filtered && screen.contains("? help") {
                filtered = true;
                tmux(&["send-keys", "/", NAMESPACE, "Enter"])?;
            }
            // Trends that are full.
            if screen.contains("filter: ") && screen.lines().any(|line| bars(line) >= 12) {
                return Ok(screen);
            }
            if Instant::now() > deadline {
                bail!("`observer top` shows no trends: {screen}");
            }
            sleep(Duration::from_millis(200));
        }
    })();
    // It ends with the screen, if it has not before.
    let _ = tmux(&["kill-server"]);
    shown
}

fn bars(line: &str) -> usize {
    line.chars().filter(|letter| ('▁'..='█').contains(letter)).count()
}

/// How letters look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Style {
    bold: bool,
    dim: bool,
    reversed: bool,
}

/// Letters of a line that look alike, and where they begin.
#[derive(Debug, PartialEq, Eq)]
struct Run {
    column: usize,
    style: Style,
    text: String,
}

/// Reads a line with escapes: of them, those that the screen uses. The style goes on from line to line.
fn runs(line: &str, style: &mut Style) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let mut column = 0;
    let mut letters = line.chars().peekable();
    while let Some(letter) = letters.next() {
        if letter == '\u{1b}' {
            if letters.next_if_eq(&'[').is_some() {
                let mut codes = String::new();
                while let Some(code) = letters.next_if(|of| of.is_ascii_digit() || *of == ';') {
                    codes.push(code);
                }
                if letters.next() == Some('m') {
                    codes.split(';').for_each(|code| style.change(code));
                }
            }
            continue;
        }
        match runs.last_mut() {
            Some(run) if run.style == *style => run.text.push(letter),
            _ => runs.push(Run { column, style: *style, text: letter.to_string() }),
        }
        column += 1;
    }
    runs
}

impl Style {
    fn change(&mut self, code: &str) {
        match code {
            "" | "0" => *self = Self::default(),
            "1" => self.bold = true,
            "2" => self.dim = true,
            "7" => self.reversed = true,
            "22" => (self.bold, self.dim) = (false, false),
            "27" => self.reversed = false,
            _ => {}
        }
    }

    fn class(self) -> &'static str {
        match (self.reversed, self.bold, self.dim) {
            (true, ..) => "r",
            (_, true, _) => "b",
            (_, _, true) => "d",
            _ => "t",
        }
    }
}

/// A letter's width, and a line's height.
const LETTER: (f64, f64) = (8.0, 18.0);
const MARGIN: f64 = 10.0;

/// The screen as a picture, in the reader's own brightness.
fn svg(screen: &str, (columns, rows): (usize, usize)) -> String {
    let (width, height) =
        (columns as f64 * LETTER.0 + 2.0 * MARGIN, rows as f64 * LETTER.1 + 2.0 * MARGIN);
    let mut svg = format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="monospace" font-size="13">
<style>
rect{{fill:#fbfbfa}}text{{fill:#24292f;white-space:pre}}.b{{font-weight:bold}}.d{{opacity:.65}}.i{{fill:#24292f}}.r{{fill:#fbfbfa}}
@media (prefers-color-scheme:dark){{rect{{fill:#16181c}}text{{fill:#dfe3e8}}.i{{fill:#dfe3e8}}.r{{fill:#16181c}}}}
</style>
<rect width="{width}" height="{height}" rx="6"/>
"#
    );
    let mut style = Style::default();
    for (row, line) in screen.lines().enumerate() {
        for Run { column, style, text } in runs(line, &mut style) {
            let shown = if style.reversed { text.as_str() } else { text.trim_end() };
            let before = shown.len() - shown.trim_start().len();
            let (x, y) = (MARGIN + column as f64 * LETTER.0, MARGIN + row as f64 * LETTER.1);
            let wide = |letters: usize| letters as f64 * LETTER.0;
            // Writing to a string cannot fail.
            if style.reversed {
                let (width, height) = (wide(shown.chars().count()), LETTER.1);
                let _ = writeln!(
                    svg,
                    r#"<rect class="i" x="{x}" y="{y}" width="{width}" height="{height}"/>"#
                );
            }
            // Blanks, of which there are as many as bytes, take no place in the picture.
            let x = x + wide(before);
            let shown = shown.trim();
            if !shown.is_empty() {
                let (length, y) = (wide(shown.chars().count()), y + 13.0);
                let class = style.class();
                let text = escape(shown);
                let _ = writeln!(
                    svg,
                    r#"<text class="{class}" x="{x}" y="{y}" textLength="{length}" xml:space="preserve">{text}</text>"#
                );
            }
        }
    }
    svg + "</svg>\n"
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_read_and_go_on_to_the_next_line() {
        let mut style = Style::default();
        let (plain, bold) = (Style::default(), Style { bold: true, ..Style::default() });
        let run = |column, style, text: &str| Run { column, style, text: text.to_owned() };
        assert_eq!(runs("a\u{1b}[1mbé", &mut style), [run(0, plain, "a"), run(1, bold, "bé")]);
        assert_eq!(runs("c\u{1b}[0m d", &mut style), [run(0, bold, "c"), run(1, plain, " d")]);
        let reversed = Style { reversed: true, ..Style::default() };
        assert_eq!(runs("\u{1b}[0;7mx", &mut style), [run(0, reversed, "x")]);
    }

    #[test]
    fn a_picture_has_what_the_screen_shows() {
        let picture = svg("  a<b\n\u{1b}[7m 1 \u{1b}[0m", (10, 2));
        assert!(picture.contains(r#"x="26" y="23" textLength="24""#), "{picture}");
        assert!(picture.contains(">a&lt;b</text>"), "{picture}");
        assert!(picture.contains(r#"<rect class="i" x="10" y="28" width="24" height="18"/>"#));
        assert!(picture.contains(r#"<text class="r" x="18""#), "{picture}");
    }

    /// Where headings or keys have changed, `cargo xtask pictures` takes them anew.
    #[test]
    fn the_pictures_show_what_the_programs_have() {
        let picture = cmd::workspace().join("docs/pictures/top.svg");
        let picture = fs::read_to_string(picture).unwrap();
        let source = |path: &str| fs::read_to_string(cmd::workspace().join(path)).unwrap();
        let draw = source("observer/src/look/top/draw.rs");
        // A heading stands in the source as `number("PODS", 4, …`: the last number is the width from which on it is shown.
        let figures = draw.split("static FIGURES").nth(1).unwrap().split("];").next().unwrap();
        let mut headings = 0;
        for line in figures.lines().map(str::trim).filter(|line| line.contains("(\"")) {
            let mut parts = line.split(['(', ',']).map(str::trim);
            let heading = parts.nth(1).unwrap().trim_matches('"');
            let from: usize = parts.nth(1).unwrap().parse().unwrap();
            if from <= TERMINAL.0 {
                assert!(picture.contains(heading), "{heading} is not in the picture");
                headings += 1;
            }
        }
        assert!(headings > 8, "{headings} headings");
        let keys = draw.split("const KEYS: &str = \"").nth(1).unwrap().split('"').next().unwrap();
        assert!(picture.contains(&escape(keys)), "the picture has other keys");
    }
}
