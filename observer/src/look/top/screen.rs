//! The terminal: what comes from the daemon and from the keyboard, until the user has seen enough. However the program ends, by a
//! key, a signal or a panic, the terminal is as it was before.

use std::{
    path::{Path, PathBuf},
    process,
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::Context as _;
use ratatui::{
    DefaultTerminal,
    crossterm::event::{self, Event, KeyEventKind},
};
use tokio::signal::unix::{SignalKind, signal};

use super::{
    super::{PATIENCE, TailError, ps, read_table},
    draw::draw,
    state::State,
    tables,
};
use crate::view::{Filter, Sort, Table};

/// How long the keyboard is waited for before the daemon's answers are looked at.
const TURN: Duration = Duration::from_millis(50);
/// Between two listings of connections.
const LISTING: Duration = Duration::from_secs(2);
/// Between two attempts to find a daemon that has ended.
const AGAIN: Duration = Duration::from_secs(1);
/// Between a signal and the end, at most.
const GRACE: Duration = Duration::from_secs(1);
/// Connections that a listing shows.
const SHOWN: usize = 500;

/// What the screen hears of.
enum News {
    Table(Instant, Box<Table>),
    Connections(Box<(Filter, Result<ps::Listed, String>)>),
    Complaint(String),
    End,
}

/// Shows the screen until a key or a signal ends it.
pub(super) fn run(path: PathBuf) -> anyhow::Result<()> {
    // A daemon that is not there is said on the user's own screen.
    let first = super::super::table(&path)?;
    let (news, hear) = channel();
    let (ask, asked) = channel();
    let (tables_news, tables_path) = (news.clone(), path.clone());
    spawn("tables", move || follow(&tables_path, &tables_news))?;
    let listing_news = news.clone();
    spawn("connections", move || list(&path, &asked, &listing_news))?;
    spawn("signals", move || wait_for_signal(&news))?;
    let mut state = State::new();
    state.take(Instant::now(), first);
    let mut terminal = ratatui::try_init().context("cannot use this terminal; try --once")?;
    let shown = show(&mut terminal, &mut state, &hear, &ask);
    ratatui::restore();
    shown
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> anyhow::Result<()> {
    // It ends with the process.
    thread::Builder::new().name(name.to_owned()).spawn(work).context("cannot start a thread")?;
    Ok(())
}

fn show(
    terminal: &mut DefaultTerminal,
    state: &mut State,
    hear: &Receiver<News>,
    ask: &Sender<Filter>,
) -> anyhow::Result<()> {
    let mut listed: Option<(Filter, Instant)> = None;
    loop {
        terminal.draw(|frame| draw(frame, state, SystemTime::now()))?;
        if let Some(filter) = state.wants_connections() {
            let is_due =
                listed.as_ref().is_none_or(|(of, when)| *of != filter || when.elapsed() >= LISTING);
            if is_due {
                listed = Some((filter.clone(), Instant::now()));
                // The thread ends with the process only.
                let _ = ask.send(filter);
            }
        }
        if event::poll(TURN)?
            && let Event::Key(key) = event::read()?
            && key.kind != KeyEventKind::Release
            && state.key(key)
        {
            return Ok(());
        }
        for news in hear.try_iter() {
            match news {
                News::Table(at, table) => state.take(at, *table),
                News::Connections(news) => {
                    let (of, listed) = *news;
                    if state.wants_connections() == Some(of) {
                        state.connections = Some(listed);
                    }
                }
                News::Complaint(complaint) => state.complaint = Some(complaint),
                News::End => return Ok(()),
            }
        }
    }
}

/// Follows the daemon, and the next one if it ends.
fn follow(path: &Path, news: &Sender<News>) {
    loop {
        let ended = (|| -> Result<(), TailError> {
            let mut lines = tables(path)?;
            loop {
                let line = lines.next(Some(Instant::now() + PATIENCE))?.ok_or(TailError::Ended)?;
                let table = Box::new(read_table(line)?);
                if news.send(News::Table(Instant::now(), table)).is_err() {
                    return Ok(());
                }
            }
        })();
        let Err(error) = ended else { return };
        if news.send(News::Complaint(error.to_string())).is_err() {
            return;
        }
        thread::sleep(AGAIN);
    }
}

/// Lists what is asked for, the last of several.
fn list(path: &Path, asked: &Receiver<Filter>, news: &Sender<News>) {
    while let Ok(mut filter) = asked.recv() {
        loop {
            match asked.recv_timeout(Duration::ZERO) {
                Ok(newer) => filter = newer,
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
        let listed =
            ps::list(path, filter.clone(), Sort::Age, SHOWN).map_err(|error| error.to_string());
        if news.send(News::Connections(Box::new((filter, listed)))).is_err() {
            return;
        }
    }
}

/// Whoever ends the program by a signal gets the terminal back, too.
fn wait_for_signal(news: &Sender<News>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let Ok(runtime) = runtime else { return };
    let is_over = runtime.block_on(async {
        let (Ok(mut terminate), Ok(mut hang_up)) =
            (signal(SignalKind::terminate()), signal(SignalKind::hangup()))
        else {
            return false;
        };
        tokio::select! {
            _ = terminate.recv() => {}
            _ = hang_up.recv() => {}
        }
        true
    });
    if !is_over {
        return;
    }
    let _ = news.send(News::End);
    // Of a terminal that is gone the library may read nothing for ever, and at full speed.
    thread::sleep(GRACE);
    ratatui::restore();
    process::exit(0);
}
