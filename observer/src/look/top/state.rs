//! What the screen shows and what the keys do to it. Pure; time is a parameter.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, HashMap, VecDeque},
    time::Instant,
};

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::{cut, pod, ports, protocol};
use crate::{
    look::ps::Listed,
    view::{Filter, Row, Table},
};

/// Looks that a trend shows.
pub(super) const TREND: usize = 12;

/// What is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum View {
    Workloads,
    Pods,
    Ends,
    Connections,
    Agent,
}

impl View {
    pub(super) const ALL: [Self; 5] =
        [Self::Workloads, Self::Pods, Self::Ends, Self::Connections, Self::Agent];

    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::Workloads => "Workloads",
            Self::Pods => "Pods",
            Self::Ends => "Ends",
            Self::Connections => "Connections",
            Self::Agent => "Agent",
        }
    }
}

/// What lines are sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sort {
    Active,
    New,
    Ends,
    Bad,
    In,
    Out,
    Name,
}

impl Sort {
    const ALL: [Self; 7] =
        [Self::Active, Self::New, Self::Ends, Self::Bad, Self::In, Self::Out, Self::Name];

    pub(super) const fn heading(self) -> &'static str {
        match self {
            Self::Active => "ACTIVE",
            Self::New => "NEW/S",
            Self::Ends => "END/S",
            Self::Bad => "BAD",
            Self::In => "IN/S",
            Self::Out => "OUT/S",
            Self::Name => "NAME",
        }
    }

    fn next(self) -> Self {
        let at = Self::ALL.iter().position(|sort| *sort == self).unwrap_or(0);
        Self::ALL[(at + 1) % Self::ALL.len()]
    }
}

/// A line of the table: a row, or those of a workload together. Rates are for a second.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Line {
    pub(super) name: String,
    /// Of a line about one pod: its labels.
    pub(super) of: Option<(String, String)>,
    pub(super) pods: usize,
    pub(super) role: String,
    pub(super) protocol: String,
    pub(super) ports: String,
    pub(super) active: u64,
    pub(super) trend: Vec<u64>,
    pub(super) opened_rate: f64,
    pub(super) ended_rate: f64,
    pub(super) bad: u64,
    pub(super) closed: BTreeMap<String, u64>,
    pub(super) short: u64,
    pub(super) failed: u64,
    pub(super) bytes_rate: [f64; 2],
    pub(super) messages_rate: [f64; 2],
    pub(super) rtt_seconds: Option<f64>,
    pub(super) cut: String,
}

impl Line {
    /// Whether something is to be looked at.
    pub(super) fn is_troubled(&self) -> bool {
        self.bad != 0 || self.failed != 0 || !self.cut.is_empty()
    }
}

/// Everything that the screen depends on.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a key that is on or off, and none excludes another"
)]
pub(super) struct State {
    now: Option<(Instant, Table)>,
    before: Option<(Instant, Table)>,
    trends: HashMap<[String; 5], VecDeque<u64>>,
    pub(super) view: View,
    pub(super) sort: Sort,
    pub(super) reversed: bool,
    pub(super) filter: String,
    /// Whether keys go to the filter.
    pub(super) typing: bool,
    pub(super) trouble: bool,
    pub(super) paused: bool,
    pub(super) help: bool,
    pub(super) selected: usize,
    /// The pod whose connections are shown; all without one.
    pub(super) of: Option<(String, String)>,
    pub(super) connections: Option<Result<Listed, String>>,
    /// What is wrong with the daemon.
    pub(super) complaint: Option<String>,
}

impl State {
    pub(super) fn new() -> Self {
        Self {
            now: None,
            before: None,
            trends: HashMap::new(),
            view: View::Pods,
            sort: Sort::Active,
            reversed: false,
            filter: String::new(),
            typing: false,
            trouble: false,
            paused: false,
            help: false,
            selected: 0,
            of: None,
            connections: None,
            complaint: None,
        }
    }

    /// The table that is shown.
    pub(super) fn table(&self) -> Option<&Table> {
        self.now.as_ref().map(|(_, table)| table)
    }

    /// A new look.
    pub(super) fn take(&mut self, at: Instant, table: Table) {
        self.complaint = None;
        if self.paused {
            return;
        }
        let mut trends = std::mem::take(&mut self.trends);
        for row in &table.rows {
            let key = row.key().map(str::to_owned);
            let mut trend = trends.remove(&key).unwrap_or_default();
            if trend.len() == TREND {
                trend.pop_front();
            }
            trend.push_back(row.active);
            self.trends.insert(key, trend);
        }
        self.before = self.now.replace((at, table));
    }

    /// Whether a listing of connections is wanted, and of which.
    pub(super) fn wants_connections(&self) -> Option<Filter> {
        (self.view == View::Connections && !self.paused).then(|| {
            let (namespace, pod) =
                self.of.clone().map_or((Vec::new(), Vec::new()), |(n, p)| (vec![n], vec![p]));
            Filter { pod, namespace, ..Filter::default() }
        })
    }

    /// The lines of the view, as they are to be shown.
    pub(super) fn lines(&self) -> Vec<Line> {
        let Some((at, table)) = &self.now else { return Vec::new() };
        let before: HashMap<[&str; 5], &Row> = self
            .before
            .iter()
            .flat_map(|(_, before)| before.rows.iter().map(|row| (row.key(), row)))
            .collect();
        let seconds = self.before.as_ref().map_or(0.0, |(then, _)| (*at - *then).as_secs_f64());
        let lines =
            table.rows.iter().map(|row| self.line(row, before.get(&row.key()).copied(), seconds));
        let lines: Vec<Line> = match self.view {
            View::Workloads => workloads(table.rows.iter().zip(lines)),
            _ => lines.collect(),
        };
        let wanted = self.filter.to_lowercase();
        let mut lines: Vec<Line> = lines
            .into_iter()
            .filter(|line| {
                let text = format!("{} {} {} {}", line.name, line.role, line.protocol, line.ports);
                wanted.split_whitespace().all(|word| text.to_lowercase().contains(word))
            })
            .filter(|line| !self.trouble || line.is_troubled())
            .collect();
        lines.sort_by(|one, other| {
            let order = self.order(one, other).then_with(|| one.name.cmp(&other.name));
            if self.reversed { order.reverse() } else { order }
        });
        lines
    }

    fn order(&self, one: &Line, other: &Line) -> Ordering {
        match self.sort {
            Sort::Active => other.active.cmp(&one.active),
            Sort::New => other.opened_rate.total_cmp(&one.opened_rate),
            Sort::Ends => other.ended_rate.total_cmp(&one.ended_rate),
            Sort::Bad => other.bad.cmp(&one.bad),
            Sort::In => other.bytes_rate[0].total_cmp(&one.bytes_rate[0]),
            Sort::Out => other.bytes_rate[1].total_cmp(&one.bytes_rate[1]),
            Sort::Name => Ordering::Equal,
        }
    }

    fn line(&self, row: &Row, before: Option<&Row>, seconds: f64) -> Line {
        // What was not there before has no rate yet, nor has what began anew.
        let rate = |of: &dyn Fn(&Row) -> u64| match before {
            Some(before) if seconds > 0.0 => of(row).saturating_sub(of(before)) as f64 / seconds,
            _ => 0.0,
        };
        let messages = |at: usize| rate(&|row: &Row| row.messages.map_or(0, |both| both[at]));
        let trend = self.trends.get(&row.key().map(str::to_owned));
        Line {
            name: pod(row),
            of: Some((row.namespace.clone(), row.pod.clone())),
            pods: 1,
            role: row.role.clone(),
            protocol: protocol(row),
            ports: ports(row),
            active: row.active,
            trend: trend.map(|trend| trend.iter().copied().collect()).unwrap_or_default(),
            opened_rate: rate(&|row| row.opened),
            ended_rate: rate(&Row::ended),
            bad: row.bad(),
            closed: row.closed.clone(),
            short: row.short,
            failed: row.failed.values().sum(),
            bytes_rate: [rate(&|row| row.received_bytes), rate(&|row| row.sent_bytes)],
            messages_rate: [messages(0), messages(1)],
            rtt_seconds: row.rtt_seconds,
            cut: cut(row),
        }
    }

    /// What a key does; whether it ends the program.
    pub(super) fn key(&mut self, key: KeyEvent) -> bool {
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        if control && key.code == KeyCode::Char('c') {
            return true;
        }
        if self.typing {
            match key.code {
                KeyCode::Enter => self.typing = false,
                KeyCode::Esc => {
                    self.typing = false;
                    self.filter.clear();
                }
                KeyCode::Backspace => {
                    self.filter.pop();
                }
                KeyCode::Char(letter) if !control => self.filter.push(letter),
                _ => {}
            }
            self.selected = 0;
            return false;
        }
        match key.code {
            KeyCode::Char('q') => return true,
            KeyCode::Esc if self.help => self.help = false,
            KeyCode::Esc | KeyCode::Backspace if self.of.is_some() => self.go(View::Pods),
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Char('?' | 'h') => self.help = !self.help,
            KeyCode::Char('/') => self.typing = true,
            KeyCode::Char('s') => self.sort = self.sort.next(),
            KeyCode::Char('S') => self.reversed = !self.reversed,
            KeyCode::Char('e') => self.trouble = !self.trouble,
            KeyCode::Char('p' | ' ') => self.paused = !self.paused,
            KeyCode::Char(digit @ '1'..='5') => {
                self.go(View::ALL[digit as usize - '1' as usize]);
            }
            KeyCode::Tab => self.step(1),
            KeyCode::BackTab => self.step(View::ALL.len() - 1),
            KeyCode::Down | KeyCode::Char('j') => self.selected = self.selected.saturating_add(1),
            KeyCode::Up | KeyCode::Char('k') => self.selected = self.selected.saturating_sub(1),
            KeyCode::PageDown => self.selected = self.selected.saturating_add(20),
            KeyCode::PageUp => self.selected = self.selected.saturating_sub(20),
            KeyCode::Home | KeyCode::Char('g') => self.selected = 0,
            KeyCode::End | KeyCode::Char('G') => self.selected = usize::MAX,
            KeyCode::Enter => self.enter(),
            _ => {}
        }
        self.selected = self.selected.min(self.length().saturating_sub(1));
        false
    }

    /// How many lines can be selected.
    fn length(&self) -> usize {
        match (self.view, &self.connections) {
            (View::Connections, Some(Ok(listed))) => listed.open.len(),
            (View::Connections | View::Agent, _) => 1_000,
            _ => self.lines().len(),
        }
    }

    fn go(&mut self, view: View) {
        (self.view, self.selected, self.of, self.connections) = (view, 0, None, None);
    }

    fn step(&mut self, by: usize) {
        let at = View::ALL.iter().position(|view| *view == self.view).unwrap_or(0);
        self.go(View::ALL[(at + by) % View::ALL.len()]);
    }

    /// Goes from a workload to its pods, and from a pod to its connections.
    fn enter(&mut self) {
        let Some(line) = self.lines().into_iter().nth(self.selected) else { return };
        match (self.view, line.of) {
            (View::Workloads, _) => {
                line.name.rsplit('/').next().unwrap_or_default().clone_into(&mut self.filter);
                self.go(View::Pods);
            }
            (View::Pods | View::Ends, Some(of)) => {
                self.go(View::Connections);
                self.of = Some(of);
            }
            _ => {}
        }
    }
}

/// The lines of each workload together.
fn workloads<'a>(lines: impl Iterator<Item = (&'a Row, Line)>) -> Vec<Line> {
    let mut sums: BTreeMap<[&str; 5], Line> = BTreeMap::new();
    for (row, line) in lines {
        let key = [row.namespace.as_str(), &row.workload, &row.role, &row.protocol, &row.path];
        let sum = sums.entry(key).or_insert_with(|| Line {
            name: pod(&Row {
                pod: row.workload.clone(),
                namespace: row.namespace.clone(),
                ..Row::default()
            }),
            role: line.role.clone(),
            protocol: line.protocol.clone(),
            ports: line.ports.clone(),
            trend: vec![0; line.trend.len()],
            ..Line::default()
        });
        sum.pods += 1;
        sum.active += line.active;
        let longest = sum.trend.len().max(line.trend.len());
        sum.trend =
            (1..=longest).rev().map(|back| at(&sum.trend, back) + at(&line.trend, back)).collect();
        sum.opened_rate += line.opened_rate;
        sum.ended_rate += line.ended_rate;
        sum.bad += line.bad;
        for (reason, number) in line.closed {
            *sum.closed.entry(reason).or_default() += number;
        }
        sum.short += line.short;
        sum.failed += line.failed;
        for direction in 0..2 {
            sum.bytes_rate[direction] += line.bytes_rate[direction];
            sum.messages_rate[direction] += line.messages_rate[direction];
        }
        sum.rtt_seconds = match (sum.rtt_seconds, line.rtt_seconds) {
            (Some(one), Some(other)) => Some(one.max(other)),
            (one, other) => one.or(other),
        };
        if sum.cut.is_empty() {
            sum.cut = line.cut;
        }
    }
    sums.into_values().collect()
}

/// What a trend was so many looks ago; the last look is one ago.
fn at(trend: &[u64], back: usize) -> u64 {
    trend.len().checked_sub(back).map_or(0, |at| trend[at])
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use super::*;

    pub(in crate::look::top) fn row(pod: &str, workload: &str, active: u64, opened: u64) -> Row {
        let text = str::to_owned;
        Row {
            namespace: text("shop"),
            pod: text(pod),
            workload: text(workload),
            workload_kind: text("Deployment"),
            role: text("server"),
            protocol: text("websocket"),
            path: text("external"),
            ports: vec![8080],
            active,
            opened,
            closed: BTreeMap::from([(text("peer"), opened - active)]),
            messages: Some([10 * opened, 0]),
            received_bytes: 1000 * opened,
            ..Row::default()
        }
    }

    pub(in crate::look::top) fn table(rows: &[Row]) -> Table {
        let text = |rows: &[Row]| {
            serde_json::json!({
                "event": "table", "time": "2026-01-01T00:00:00Z", "node": "node-1", "version": "0.1.0",
                "abi": "0", "kernel": "6.1.0", "kernel_side": "created",
                "started": "2026-01-01T00:00:00Z", "since": "2026-01-01T00:00:00Z",
                "cpu_seconds": 1.0, "resident_bytes": 20_000_000, "lost": {}, "slots_used": 1,
                "slots": 100, "cgroups_skipped": 0, "probes": [], "names": null, "active": 0,
                "rows": rows, "rows_left_out": 0,
                "findings": [{"mark": "ok", "text": "nothing was lost"}],
            })
        };
        let active = rows.iter().map(|row: &Row| row.active).sum();
        let table: Table = serde_json::from_value(text(rows)).expect("a table");
        Table { active, ..table }
    }

    pub(in crate::look::top) fn state() -> State {
        let mut state = State::new();
        let then = Instant::now();
        let rows = |more: u64| {
            vec![
                row("chat-0", "chat", 5, 20 + more),
                row("chat-1", "chat", 3, 10),
                row("db-0", "db", 9, 9),
            ]
        };
        state.take(then, table(&rows(0)));
        state.take(then + Duration::from_secs(2), table(&rows(4)));
        state
    }

    fn press(state: &mut State, keys: &str) -> bool {
        keys.chars().any(|letter| {
            let code = match letter {
                '\n' => KeyCode::Enter,
                '\u{1b}' => KeyCode::Esc,
                letter => KeyCode::Char(letter),
            };
            state.key(KeyEvent::new(code, KeyModifiers::NONE))
        })
    }

    fn names(state: &State) -> Vec<String> {
        state.lines().into_iter().map(|line| line.name).collect()
    }

    #[test]
    fn rates_are_those_of_a_second() {
        let state = state();
        let line = &state.lines()[1];
        assert_eq!((line.name.as_str(), line.active), ("shop/chat-0", 5));
        assert_eq!((line.opened_rate, line.ended_rate), (2.0, 2.0));
        assert_eq!((line.bytes_rate, line.messages_rate), ([2000.0, 0.0], [20.0, 0.0]));
        assert_eq!(line.trend, [5, 5]);
    }

    #[test]
    fn pods_of_a_workload_are_one_line() {
        let mut state = state();
        assert!(!press(&mut state, "1"));
        let lines = state.lines();
        let shown: Vec<_> =
            lines.iter().map(|line| (line.name.as_str(), line.pods, line.active)).collect();
        assert_eq!(shown, [("shop/db", 1, 9), ("shop/chat", 2, 8)]);
        assert_eq!((lines[1].opened_rate, &lines[1].trend[..]), (2.0, &[8, 8][..]));
        // Down to its pods, and from there to the connections of one.
        press(&mut state, "j\n");
        assert_eq!(
            (state.view, names(&state)),
            (View::Pods, vec!["shop/chat-0".into(), "shop/chat-1".into()])
        );
        press(&mut state, "j\n");
        let filter = state.wants_connections().expect("they are shown");
        assert_eq!(
            (filter.namespace, filter.pod),
            (vec!["shop".to_owned()], vec!["chat-1".to_owned()])
        );
        press(&mut state, "\u{1b}");
        assert_eq!((state.view, state.wants_connections()), (View::Pods, None));
    }

    #[test]
    fn lines_are_sorted_and_filtered() {
        let mut state = state();
        assert_eq!(names(&state), ["shop/db-0", "shop/chat-0", "shop/chat-1"]);
        press(&mut state, "s");
        assert_eq!((state.sort, names(&state)[0].as_str()), (Sort::New, "shop/chat-0"));
        press(&mut state, "ssssss");
        assert_eq!(state.sort, Sort::Active, "all of them, and around");
        press(&mut state, "S");
        assert_eq!(names(&state)[0], "shop/chat-1");
        press(&mut state, "/CHAT web\n");
        assert_eq!(names(&state), ["shop/chat-1", "shop/chat-0"]);
        assert!(!press(&mut state, "/q\n"), "a letter of a filter is no command");
        assert!(names(&state).is_empty());
        press(&mut state, "\u{1b}e");
        assert!(names(&state).is_empty(), "nothing is troubled");
        assert!(press(&mut state, "q"));
    }

    #[test]
    fn a_pause_keeps_what_is_shown() {
        let mut state = state();
        press(&mut state, "p");
        state.take(Instant::now(), table(&[]));
        assert_eq!(names(&state).len(), 3);
        press(&mut state, "p");
        state.take(Instant::now(), table(&[]));
        assert!(names(&state).is_empty());
    }

    #[test]
    fn the_selection_stays_among_the_lines() {
        let mut state = state();
        press(&mut state, "G");
        assert_eq!(state.selected, 2);
        press(&mut state, "jjjk");
        assert_eq!(state.selected, 1);
        press(&mut state, "g");
        assert_eq!(state.selected, 0);
    }
}
