//! What happens on each processor, and what must have been counted when all is over.

use observer_model::{
    processors::{self, Exhaustive, Schedule, Work},
    world::{Connection, Room, SWITCHING, frame},
};

/// Switches away from a processor that could go on.
const SWITCHES: usize = 2;

/// What a processor does.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// A segment arrives: from where to where in the client's stream. One byte more than the stream has is the FIN.
    Deliver(usize, usize),
    /// The server sends messages of these sizes, by one segment.
    Send(Vec<usize>),
    /// The socket is established by the segment that has passed the listener's hook.
    Establish(usize),
}

/// A connection, and how its segments meet two processors.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) room: Room,
    /// The client's stream: a request, and frames.
    pub(crate) bytes: Vec<u8>,
    /// Its frames.
    pub(crate) messages: u64,
    /// What completes the handshake, if it carries bytes.
    pub(crate) first: Option<usize>,
    /// What happens before two processors work at once.
    pub(crate) before: Vec<Step>,
    /// What each does then.
    pub(crate) steps: [Vec<Step>; 2],
    /// Whether TCP acknowledges each segment at once.
    pub(crate) acknowledge: bool,
    /// Whether the stream must not lose track.
    pub(crate) exact: bool,
    /// Whether all must be counted when the last segment has passed, without another event.
    pub(crate) prompt: bool,
}

/// A stream of a request and frames, and how many frames those are.
pub(crate) fn stream(sizes: impl IntoIterator<Item = usize>) -> (Vec<u8>, u64) {
    let mut bytes = observer_model::world::REQUEST.to_vec();
    let mut messages = 0;
    for size in sizes {
        bytes.extend(frame(true, size));
        messages += 1;
    }
    (bytes, messages)
}

impl Case {
    pub(crate) const fn new() -> Self {
        Self {
            room: Room::SOME,
            bytes: Vec::new(),
            messages: 0,
            first: None,
            before: Vec::new(),
            steps: [Vec::new(), Vec::new()],
            acknowledge: false,
            exact: true,
            prompt: true,
        }
    }

    fn step(&self, connection: &Connection, step: &Step) {
        match step {
            Step::Deliver(from, to) => connection.deliver(*from, *to, self.acknowledge),
            Step::Send(sizes) => {
                let bytes: Vec<u8> = sizes.iter().flat_map(|size| frame(false, *size)).collect();
                connection.send(&bytes);
            }
            Step::Establish(first) => connection.establish(*first),
        }
    }

    /// Runs it, and says what is wrong.
    pub(crate) fn run(&self, schedule: &mut dyn Schedule) -> Result<(), String> {
        let connection = match self.first {
            None => Connection::accepted(self.room, self.bytes.clone()),
            Some(first) => Connection::handshake(self.room, self.bytes.clone(), first),
        };
        let connection = &connection;
        self.before.iter().for_each(|step| self.step(connection, step));
        let work = self.steps.each_ref().map(|steps| -> Work<'_> {
            Box::new(move || steps.iter().for_each(|step| self.step(connection, step)))
        });
        processors::run(schedule, work);
        if !connection.is_over() || !connection.is_answered() {
            return Err("the case itself is wrong: not everything arrives".to_owned());
        }
        let promptly = Connection::books();
        if self.prompt {
            let state = connection.state();
            expect("messages without another event", promptly.messages, self.messages).map_err(
                |error| {
                    format!(
                        "{error}; {:?}, {:?}, orders {:?}",
                        state.request, state.response, state.orders
                    )
                },
            )?;
        }
        // The program reads, which may open the window.
        connection.acknowledge();
        connection.close();
        let books = Connection::books();
        let sent: usize = self.steps.iter().flatten().map(Step::messages).sum();
        let check = || {
            expect("bytes received", books.received, self.bytes.len() as u64)?;
            expect("bytes sent", books.sent, connection.sent())?;
            expect("invalid frames", books.invalid, 0)?;
            expect("active", books.active, 0)?;
            expect("upgrades", books.websockets, 1)?;
            expect("messages sent", books.messages_sent, sent as u64)?;
            if self.exact {
                expect("messages", books.messages, self.messages)?;
                expect("losses", books.lost.iter().sum(), 0)?;
            } else if books.messages > self.messages || books.gaps() == 0 {
                expect("messages", books.messages, self.messages)?;
            }
            let names = ["entries", "small blocks", "large blocks", "pending"];
            for (what, in_use) in names.iter().zip(Connection::in_use(self.room)) {
                expect(&format!("{what} in use"), in_use, 0)?;
            }
            assert!(connection.sent() >= SWITCHING.len() as u64);
            Ok(())
        };
        check()
            .map_err(|error: String| format!("{error}; {books:?}, before the close {promptly:?}"))
    }
}

impl Step {
    fn messages(&self) -> usize {
        if let Self::Send(sizes) = self { sizes.len() } else { 0 }
    }
}

fn expect(what: &str, found: u64, expected: u64) -> Result<(), String> {
    if found == expected { Ok(()) } else { Err(format!("{what}: {found} instead of {expected}")) }
}

/// What goes wrong first, in whatever interleaving.
pub(crate) fn first_failure(case: impl Fn() -> Case) -> Option<String> {
    let case = case();
    let mut schedule = Exhaustive::new(SWITCHES);
    loop {
        if let Err(error) = case.run(&mut schedule) {
            return Some(format!("{:?}: {error}; {schedule:?}", case.steps));
        }
        if !schedule.advance() {
            return None;
        }
    }
}

pub(crate) fn every_interleaving(case: impl Fn() -> Case) {
    if let Some(failure) = first_failure(case) {
        panic!("{failure}");
    }
}
