//! The screen. What matters is said by words, numbers and a mark: no colour is used, so none is needed.

use std::{fmt::Write as _, time::SystemTime};

use humantime::parse_rfc3339;
use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Modifier, Style},
    text::{Line as Text, Span},
    widgets::{Block, Cell, Clear, Paragraph, Row, Table as Grid, TableState, Wrap},
};

use super::state::{Line, State, View};
use crate::{
    format::{bytes, count, plain, rate, time},
    look::{doctor, ps},
    view::Table,
};

const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);
const MARKED: Style = Style::new().add_modifier(Modifier::REVERSED);
const DIM: Style = Style::new().add_modifier(Modifier::DIM);

/// Levels of a trend, lowest first.
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

const KEYS: &str = "q end  1-5 views  Enter down  Esc back  / filter  s sort  S reverse  e trouble  p pause  ? help";

const HELP: &str = "\
1 2 3 4 5, Tab   Workloads, Pods, Ends, Connections, Agent
Up Down, j k     select a line; PgUp PgDn, g G: further
Enter            from a workload to its pods, from a pod to its connections
Esc              back; forget the filter
/                filter by words of name, role, protocol, port; Enter ends it
s, S             sort by the next column; reverse
e                only what is troubled: bad ends, failed connects, idle cuts (marked !)
p, Space         pause
q, Ctrl-C        end

(grpc)  a protocol in parentheses: the other ends are in the same pod
BAD   ends that were no orderly close, since the kernel side counts
CUT   connections that one side ended after the same silence: 60s×41
<1s   connections that lived for a second at most";

/// Draws all of it.
pub(super) fn draw(frame: &mut Frame<'_>, state: &State, now: SystemTime) {
    let [head, tabs, body, foot] = Layout::vertical([
        Constraint::Length(2),
        Constraint::Length(1),
        Constraint::Min(1),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    if let Some(table) = state.table() {
        frame.render_widget(header(table, now), head);
    }
    frame.render_widget(views(state), tabs);
    match (state.view, state.table()) {
        (View::Connections, _) => connections(frame, body, state),
        (View::Agent, Some(table)) => {
            let lines = table.findings.iter().skip(state.selected);
            let lines: Vec<Text<'_>> = lines.map(|found| Text::from(doctor::line(found))).collect();
            frame.render_widget(Paragraph::new(lines).wrap(Wrap { trim: false }), body);
        }
        _ => grid(frame, body, state),
    }
    frame.render_widget(footer(state), foot);
    if state.help {
        help(frame);
    }
}

fn header(table: &Table, now: SystemTime) -> Paragraph<'static> {
    let age = |text: &str| {
        let age = parse_rfc3339(text).ok().and_then(|then| now.duration_since(then).ok());
        age.map_or_else(String::new, |age| time(age.as_secs_f64()))
    };
    let lost: u64 = table.lost.values().sum();
    let memory =
        table.resident_bytes.map_or_else(String::new, |size| format!("  {}B", bytes(size)));
    let first = format!(
        "{}  kernel {}  up {}  counts {} ({})",
        plain(&table.node),
        table.kernel,
        age(&table.started),
        age(&table.since),
        table.kernel_side
    );
    let second = Text::from(vec![
        Span::styled(format!("{} active", table.active), BOLD),
        Span::raw(format!("  {} pods, units, containers  ", table.replicas())),
        Span::styled(
            format!("lost {}", count(lost)),
            if lost == 0 { Style::new() } else { MARKED },
        ),
        Span::raw(format!("  slots {}/{}{memory}", table.slots_used, table.slots)),
    ]);
    Paragraph::new(vec![Text::styled(first, BOLD), second])
}

fn views(state: &State) -> Paragraph<'static> {
    let mut spans = Vec::new();
    for (at, view) in View::ALL.into_iter().enumerate() {
        let title = format!(" {} {} ", at + 1, view.title());
        spans.push(Span::styled(title, if view == state.view { MARKED } else { Style::new() }));
    }
    let mut says = Vec::new();
    if let Some((_, pod)) = &state.of {
        says.push(plain(pod));
    }
    if state.trouble {
        says.push("only trouble".to_owned());
    }
    if state.paused {
        says.push("PAUSED".to_owned());
    }
    spans.push(Span::styled(format!("  {}", says.join("  ")), BOLD));
    Paragraph::new(Text::from(spans))
}

fn footer(state: &State) -> Paragraph<'static> {
    if let Some(complaint) = &state.complaint {
        return Paragraph::new(Text::styled(plain(complaint), MARKED));
    }
    if state.typing {
        return Paragraph::new(Text::styled(format!("/{}_", state.filter), BOLD));
    }
    let filter =
        if state.filter.is_empty() { String::new() } else { format!("filter: {}  ", state.filter) };
    Paragraph::new(Text::from(vec![Span::styled(filter, BOLD), Span::styled(KEYS, DIM)]))
}

/// A column of the table: its heading, its width, and from which width of the screen on it is shown.
struct Column {
    heading: &'static str,
    width: u16,
    from: u16,
    is_number: bool,
    cell: fn(&Line) -> String,
}

impl Column {
    /// Text in this column: numbers stand below each other by their last digits.
    fn show(&self, text: String) -> Cell<'static> {
        let line = Text::from(text);
        Cell::from(if self.is_number { line.right_aligned() } else { line })
    }
}

const fn text(heading: &'static str, width: u16, from: u16, cell: fn(&Line) -> String) -> Column {
    Column { heading, width, from, is_number: false, cell }
}

const fn number(heading: &'static str, width: u16, from: u16, cell: fn(&Line) -> String) -> Column {
    Column { heading, width, from, is_number: true, cell }
}

static FIGURES: [Column; 15] = [
    number("PODS", 4, 130, |line| line.pods.to_string()),
    text("ROLE", 6, 0, |line| line.role.clone()),
    text("PROTOCOL", 11, 0, |line| line.protocol.clone()),
    text("PORTS", 14, 130, |line| line.ports.clone()),
    number("ACTIVE", 7, 0, |line| count(line.active)),
    text("TREND", 12, 110, |line| trend(&line.trend)),
    number("NEW/S", 6, 0, |line| rate(line.opened_rate)),
    number("END/S", 6, 0, |line| rate(line.ended_rate)),
    number("BAD", 5, 0, |line| count(line.bad)),
    text("CUT", 9, 100, |line| line.cut.clone()),
    number("IN/S", 6, 0, |line| bytes(line.bytes_rate[0] as u64)),
    number("OUT/S", 6, 0, |line| bytes(line.bytes_rate[1] as u64)),
    number("MSG IN", 6, 150, |line| rate(line.messages_rate[0])),
    number("MSG OUT", 7, 150, |line| rate(line.messages_rate[1])),
    number("RTT", 6, 150, |line| line.rtt_seconds.map_or_else(String::new, time)),
];

static ENDS: [Column; 11] = [
    text("ROLE", 6, 0, |line| line.role.clone()),
    text("PROTOCOL", 11, 0, |line| line.protocol.clone()),
    number("LOCAL", 6, 0, |line| closed(line, "local")),
    number("PEER", 6, 0, |line| closed(line, "peer")),
    number("RST OUT", 7, 0, |line| closed(line, "reset_local")),
    number("RST IN", 6, 0, |line| closed(line, "reset_peer")),
    number("TIMEOUT", 7, 0, |line| closed(line, "timeout")),
    number("ABORT", 5, 100, |line| closed(line, "aborted")),
    number("?", 5, 100, |line| closed(line, "unknown")),
    number("<1s", 6, 100, |line| count(line.short)),
    text("CUT", 9, 100, |line| line.cut.clone()),
];

fn closed(line: &Line, reason: &str) -> String {
    count(line.closed.get(reason).copied().unwrap_or(0))
}

/// Bars, of which the highest is the largest number.
fn trend(trend: &[u64]) -> String {
    let most = trend.iter().copied().max().unwrap_or(0).max(1);
    trend.iter().map(|&number| BARS[(number * 7).div_ceil(most).min(7) as usize]).collect()
}

fn grid(frame: &mut Frame<'_>, area: Rect, state: &State) {
    let all: &[Column] = if state.view == View::Ends { &ENDS } else { &FIGURES };
    let columns: Vec<&Column> = all.iter().filter(|column| column.from <= area.width).collect();
    let heading = |text: &'static str| {
        let mark = if state.reversed { "▲" } else { "▼" };
        if text == state.sort.heading() { format!("{text}{mark}") } else { text.to_owned() }
    };
    let headings = columns.iter().map(|column| column.show(heading(column.heading)));
    let headings = ["".into(), heading("NAME").into()].into_iter().chain(headings);
    let lines = state.lines();
    let rows = lines.iter().map(|line| {
        let mark = if line.is_troubled() { "!" } else { "" };
        let cells = columns.iter().map(|column| column.show((column.cell)(line)));
        let cells = [mark.into(), line.name.clone().into()].into_iter().chain(cells);
        Row::new(cells).style(if line.is_troubled() { BOLD } else { Style::new() })
    });
    let widths = columns.iter().map(|column| Constraint::Length(column.width));
    let widths = [Constraint::Length(1), Constraint::Min(12)].into_iter().chain(widths);
    let table =
        Grid::new(rows, widths).header(Row::new(headings).style(BOLD)).row_highlight_style(MARKED);
    let mut selection = TableState::new().with_selected(Some(state.selected));
    frame.render_stateful_widget(table, area, &mut selection);
}

fn connections(frame: &mut Frame<'_>, area: Rect, state: &State) {
    let listed = match &state.connections {
        None => return frame.render_widget(Paragraph::new("asking the daemon…"), area),
        Some(Err(error)) => {
            let text = Paragraph::new(plain(error)).wrap(Wrap { trim: true });
            return frame.render_widget(text, area);
        }
        Some(Ok(listed)) => listed,
    };
    let mut note =
        format!("{} of {} connections, the oldest first", listed.open.len(), listed.connections);
    let unlisted: u64 = listed.unlisted.iter().map(|of| of.connections).sum();
    if unlisted != 0 {
        // Writing to a string does not fail.
        let _ = write!(note, "; {unlisted} in network namespaces that the daemon may not enter");
    }
    let [top, rest] = Layout::vertical([Constraint::Length(1), Constraint::Min(1)]).areas(area);
    frame.render_widget(Paragraph::new(note), top);
    // On a narrow screen the pod, which stands above if one was chosen, gives way.
    let without = usize::from(area.width < 110 || state.of.is_some());
    let cells: Vec<Vec<String>> = listed.open.iter().map(ps::cells).collect();
    let widths = (without..ps::COLUMNS.len()).map(|at| {
        let widest = cells.iter().map(|row| row[at].chars().count()).max().unwrap_or(0);
        Constraint::Length(widest.max(ps::COLUMNS[at].0.len()).min(45) as u16)
    });
    let rows = cells.iter().map(|row| Row::new(row[without..].to_vec()));
    let headings = ps::COLUMNS[without..].iter().map(|(heading, _)| *heading);
    let table =
        Grid::new(rows, widths).header(Row::new(headings).style(BOLD)).row_highlight_style(MARKED);
    let mut selection = TableState::new().with_selected(Some(state.selected));
    frame.render_stateful_widget(table, rest, &mut selection);
}

fn help(frame: &mut Frame<'_>) {
    let area = frame.area();
    let (width, height) = (80.min(area.width), (HELP.lines().count() as u16 + 2).min(area.height));
    let place = Rect { x: (area.width - width) / 2, y: (area.height - height) / 2, width, height };
    frame.render_widget(Clear, place);
    frame.render_widget(Paragraph::new(HELP).block(Block::bordered().title(" Keys ")), place);
}

#[cfg(test)]
mod tests {
    use ratatui::{
        Terminal,
        backend::TestBackend,
        crossterm::event::{KeyCode, KeyEvent},
    };

    use super::{super::state::tests::state, *};

    /// The screen as text.
    fn screen(state: &State, width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        let now = parse_rfc3339("2026-01-01T01:00:00Z").unwrap();
        terminal.draw(|frame| draw(frame, state, now)).unwrap();
        let buffer = terminal.backend().buffer();
        let row = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
        (0..height).map(|y| row(y).trim_end().to_owned()).collect()
    }

    fn press(state: &mut State, code: KeyCode) {
        assert!(!state.key(KeyEvent::from(code)));
    }

    #[test]
    fn eighty_columns_show_what_matters() {
        assert_eq!(
            screen(&state(), 80, 9),
            [
                "node-1  kernel 6.1.0  up 1h00m  counts 1h00m (created)",
                "17 active  3 pods, units, containers  lost 0  slots 1/100  19.1MiB",
                " 1 Workloads  2 Pods  3 Ends  4 Connections  5 Agent",
                "  NAME              ROLE   PROTOCOL    ACTIVE▼  NEW/S  END/S   BAD   IN/S  OUT/S",
                "  shop/db-0         server websocket         9      0      0     0      0      0",
                "  shop/chat-0       server websocket         5    2.0    2.0     0  2.0Ki      0",
                "  shop/chat-1       server websocket         3      0      0     0      0      0",
                "",
                "q end  1-5 views  Enter down  Esc back  / filter  s sort  S reverse  e trouble",
            ]
        );
    }

    #[test]
    fn every_view_and_the_help_fit_every_screen() {
        for (width, height) in [(200, 50), (80, 24), (20, 5), (1, 1)] {
            let mut state = state();
            for digit in '1'..='5' {
                press(&mut state, KeyCode::Char(digit));
                let shown = screen(&state, width, height).join("\n");
                if width >= 80 {
                    assert!(shown.contains("17 active"), "{digit}: {shown}");
                }
            }
            press(&mut state, KeyCode::Char('?'));
            let shown = screen(&state, width, height).join("\n");
            assert!(width < 80 || shown.contains("Ctrl-C"), "{shown}");
        }
    }

    #[test]
    fn the_agent_is_what_the_doctor_says() {
        let mut state = state();
        press(&mut state, KeyCode::Char('5'));
        let shown = screen(&state, 100, 24).join("\n");
        assert!(shown.contains("ok    nothing was lost"), "{shown}");
    }

    #[test]
    fn a_trend_is_scaled_to_its_largest() {
        assert_eq!(trend(&[0, 4, 8]), "▁▅█");
        assert_eq!(trend(&[0, 0]), "▁▁");
        assert_eq!(trend(&[]), "");
    }
}
