//! `workload drive`: clients of one server.
//!
//! Opens the long connections first and the short ones beside them. When all of the short ones are
//! done and all of the long ones are up it prints its books with `"ready":true` on stdout, then
//! obeys stdin:
//!
//! - `talk`: one more message on each long connection, then the books again
//! - `flood N`: N more messages on each, many at once, then the books again
//! - `close`, or the end of stdin: closes them orderly
//! - `reset`: resets them
//!
//! At the end it prints its books with `"ready":false`. It exits 0 only if no connection failed.
//! Each connection is accounted for: `attempted - opened` were refused, `opened` is `closed` plus
//! `active`, and `failures` counts the ones that were not all they should be.

use std::{
    net::{IpAddr, SocketAddr},
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use tokio::{task::JoinSet, time::timeout};

use crate::{
    Protocol,
    books::{Books, print},
    control, grpc, http1,
    net::Target,
    tcp, ws,
};

/// How long one step of one connection may take before it counts as failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// Messages of a flood that are under way on one connection: few enough for the buffers of both ends.
const AT_ONCE: u64 = 100;

/// How many failures are described on stderr; all are counted.
const DESCRIBED_FAILURES: u64 = 10;

/// Arguments of `workload drive`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// What to speak.
    #[arg(long)]
    protocol: Protocol,
    /// The server.
    #[arg(long, value_name = "ADDR:PORT")]
    connect: SocketAddr,
    /// Connections to open, use and close.
    #[arg(long, value_name = "N", default_value_t = 0)]
    short: u64,
    /// Connections to open, use once and hold.
    #[arg(long, value_name = "N", default_value_t = 0)]
    long: u64,
    /// How many connections are worked on at a time, beside the ones held.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..))]
    concurrency: u64,
    /// The local address. Each one gives another supply of ports, 127.0.0.0/8 has plenty.
    #[arg(long, value_name = "IP")]
    bind: Option<IpAddr>,
    /// Messages or requests on each short connection.
    #[arg(long, value_name = "K", default_value_t = 1)]
    messages: u64,
}

/// A client's side of one connection.
pub(crate) trait Session: Sized + Send + 'static {
    /// Connects, and greets where the protocol does so.
    fn open(target: &Target) -> impl Future<Output = Result<Self>> + Send;
    /// Sends one message that contains `number` and verifies the answer.
    fn exchange(&mut self, number: u64) -> impl Future<Output = Result<()>> + Send;
    /// Sends a message for each number, however many at once, and verifies the answers.
    fn exchange_many(&mut self, numbers: Range<u64>) -> impl Future<Output = Result<()>> + Send {
        async {
            for number in numbers {
                self.exchange(number).await?;
            }
            Ok(())
        }
    }
    /// Says goodbye the way of the protocol and waits until the peer has closed too.
    fn close(self) -> impl Future<Output = Result<()>> + Send;
    /// Resets the connection, whatever the protocol thinks of it.
    fn reset(self) -> impl Future<Output = Result<()>> + Send;
}

/// Drives the server as told; true if every connection went well.
pub(crate) async fn run(args: &Args) -> Result<bool> {
    match args.protocol {
        Protocol::Ws => drive::<ws::Client>(args).await,
        Protocol::Http1 => drive::<http1::Client>(args).await,
        Protocol::Grpc => drive::<grpc::Client>(args).await,
        Protocol::Tcp => drive::<tcp::Client>(args).await,
    }
}

async fn drive<S: Session>(args: &Args) -> Result<bool> {
    let books = Arc::new(Books::default());
    let target = Target { address: args.connect, bind: args.bind, books: Arc::clone(&books) };
    let mut commands = control::lines();
    let mut held = open_all::<S>(args, &target).await?;
    print(&books.of_driver(true))?;

    let reset = loop {
        match commands.recv().await.as_deref() {
            Some("talk") => {
                for session in &mut held {
                    note(&books, exchange(&books, session).await);
                }
                print(&books.of_driver(true))?;
            }
            Some("close") | None => break false,
            Some("reset") => break true,
            Some(other) => {
                let count = other.strip_prefix("flood ").and_then(|count| count.parse().ok());
                let count = count.with_context(|| format!("unknown command `{other}`"))?;
                held = flood(held, count, args.concurrency, &books).await?;
                print(&books.of_driver(true))?;
            }
        }
    };
    for session in held {
        let ended =
            if reset { within(session.reset()).await } else { within(session.close()).await };
        note(&books, ended);
    }
    print(&books.of_driver(false))?;
    Ok(books.failures.get() == 0)
}

/// Exchanges that many messages on each connection, `concurrency` connections at a time.
async fn flood<S: Session>(
    held: Vec<S>,
    count: u64,
    concurrency: u64,
    books: &Arc<Books>,
) -> Result<Vec<S>> {
    let waiting = Arc::new(Mutex::new(held));
    let mut workers = JoinSet::new();
    for _ in 0..concurrency {
        let (waiting, books) = (Arc::clone(&waiting), Arc::clone(books));
        workers.spawn(async move {
            let mut done = Vec::new();
            let next = || waiting.lock().ok().and_then(|mut waiting| waiting.pop());
            while let Some(mut session) = next() {
                note(&books, exchange_many(&books, &mut session, count).await);
                done.push(session);
            }
            done
        });
    }
    Ok(workers.join_all().await.into_iter().flatten().collect())
}

async fn exchange_many(books: &Books, session: &mut impl Session, count: u64) -> Result<()> {
    let mut left = count;
    while left > 0 {
        let some = left.min(AT_ONCE);
        let first = books.messages_out.add(some);
        within(session.exchange_many(first..first + some)).await?;
        books.messages_in.add(some);
        left -= some;
    }
    Ok(())
}

/// Runs all short connections and returns the long ones.
async fn open_all<S: Session>(args: &Args, target: &Target) -> Result<Vec<S>> {
    let (long, short, messages) = (args.long, args.short, args.messages);
    let next = Arc::new(AtomicU64::new(0));
    let mut workers = JoinSet::new();
    for _ in 0..args.concurrency.min(long + short) {
        let (next, target) = (Arc::clone(&next), target.clone());
        workers.spawn(async move {
            let mut held = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number < long {
                    held.extend(note(&target.books, open_long::<S>(&target).await));
                } else if number < long + short {
                    note(&target.books, run_short::<S>(&target, messages).await);
                } else {
                    return held;
                }
            }
        });
    }
    let mut held = Vec::new();
    while let Some(worker) = workers.join_next().await {
        held.extend(worker?);
    }
    Ok(held)
}

async fn open_long<S: Session>(target: &Target) -> Result<S> {
    let mut session = within(S::open(target)).await?;
    exchange(&target.books, &mut session).await?;
    Ok(session)
}

async fn run_short<S: Session>(target: &Target, messages: u64) -> Result<()> {
    let mut session = within(S::open(target)).await?;
    for _ in 0..messages {
        exchange(&target.books, &mut session).await?;
    }
    within(session.close()).await
}

async fn exchange(books: &Books, session: &mut impl Session) -> Result<()> {
    let number = books.messages_out.increment();
    let sent = Instant::now();
    within(session.exchange(number)).await?;
    books.round_trips.add(sent.elapsed());
    books.messages_in.increment();
    Ok(())
}

async fn within<T>(step: impl Future<Output = Result<T>>) -> Result<T> {
    timeout(PATIENCE, step).await.with_context(|| format!("no answer within {PATIENCE:?}"))?
}

/// Counts a failure, and describes it if it is among the first.
fn note<T>(books: &Books, outcome: Result<T>) -> Option<T> {
    outcome
        .inspect_err(|error| {
            if books.failures.increment() < DESCRIBED_FAILURES {
                eprintln!("connection failed: {error:#}");
            }
        })
        .ok()
}
