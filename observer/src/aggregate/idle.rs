//! Timers that cut silent connections: connections that the same side ends after the same time of silence, again and again.
//! Found among the exact times that records tell. Records may be lost, so what is found is a lower bound. Pure; time is a
//! parameter.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    time::{Duration, Instant},
};

use observer_common::{
    label::{Reason, Role, Side},
    protocol::Protocol,
};

use crate::attribute::{Identity, Kind};

/// Less silence is that of a connection in use. Timers may fire a little early.
const SILENT: Duration = Duration::from_millis(950);
/// Ends within the spread of a timer that make one.
const ENOUGH: usize = 10;
/// Ends of each kind that are remembered: the last.
const REMEMBERED: usize = 128;
/// Kinds that are remembered: those that ended something last.
const KINDS: usize = 2_048;
/// What has ended nothing for so long is forgotten.
const FORGOTTEN: Duration = Duration::from_hours(1);
/// The same timer is told again after this time, if it has cut more.
const AGAIN: Duration = Duration::from_hours(1);

/// Connections of one kind of a replica, ended by one side.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ends {
    kind: Kind,
    /// The replica's namespace.
    pub namespace: String,
    /// The replica.
    pub pod: String,
    /// Server or client.
    pub role: Role,
    /// What they spoke.
    pub protocol: Protocol,
    /// Who ended them.
    pub side: Side,
}

impl Ends {
    /// Those of a replica, all of its containers together.
    #[must_use]
    pub fn new(identity: &Identity, role: Role, protocol: Protocol, side: Side) -> Self {
        let (namespace, pod) = (identity.namespace.clone(), identity.pod.clone());
        Self { kind: identity.kind, namespace, pod, role, protocol, side }
    }

    /// What ends are sorted by.
    #[must_use]
    pub fn order(&self) -> impl Ord {
        let labels = [self.role.label(), self.protocol.label(), self.side.label()];
        (self.namespace.clone(), self.pod.clone(), labels)
    }

    /// The side that may have cut a connection that ended so. What this node closes in order is its own decision, and no news.
    #[must_use]
    pub const fn cut_by(reason: Reason) -> Option<Side> {
        match reason {
            Reason::Peer | Reason::ResetPeer => Some(Side::Peer),
            Reason::ResetLocal => Some(Side::Local),
            Reason::Local | Reason::Timeout | Reason::Aborted | Reason::Unknown => None,
        }
    }
}

/// Where peers are, as far as their addresses tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// On this node, through a loopback device.
    Loopback,
    /// In the cluster or its network.
    Private,
    /// Anywhere.
    Public,
}

impl From<IpAddr> for Place {
    fn from(address: IpAddr) -> Self {
        let (is_loopback, is_private) = match address.to_canonical() {
            IpAddr::V4(v4) => {
                let [a, b, ..] = v4.octets();
                let is_shared = a == 100 && b & 0xc0 == 64;
                (v4.is_loopback(), v4.is_private() || v4.is_link_local() || is_shared)
            }
            IpAddr::V6(v6) => {
                (v6.is_loopback(), v6.is_unique_local() || v6.is_unicast_link_local())
            }
        };
        match (is_loopback, is_private) {
            (true, _) => Self::Loopback,
            (_, true) => Self::Private,
            _ => Self::Public,
        }
    }
}

/// A timer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cut {
    /// Silence before the end: to a tenth of a second below ten, to a second above.
    pub seconds: f64,
    /// Ends after this silence, of those that are remembered.
    pub ends: u64,
    /// Ends after any silence.
    pub of: u64,
    /// Where the peers are, if all are in one place.
    pub place: Option<Place>,
    /// Whether there may have been more, since records were lost.
    pub at_least: bool,
}

/// One end.
#[derive(Clone, Copy, Debug)]
struct End {
    silence: Duration,
    place: Place,
}

/// The last ends of one kind.
#[derive(Debug)]
struct Recent {
    ends: VecDeque<End>,
    last: Instant,
}

/// The timer among ends: so many within the spread of one, and next to nothing around them; and half of all.
fn timer(ends: impl Iterator<Item = End>) -> Option<Cut> {
    let mut ends: Vec<End> = ends.collect();
    ends.sort_by_key(|end| end.silence);
    let within = |from: usize, width: Duration| {
        let most = ends[from].silence + width;
        ends[from..].iter().take_while(|end| end.silence <= most).count()
    };
    // Each end may be the earliest of its timer; the first of those with the most is.
    let (first, count) = (0..ends.len())
        .map(|first| (first, within(first, spread(ends[first].silence))))
        .max_by_key(|&(first, count)| (count, std::cmp::Reverse(first)))?;
    let found = &ends[first..first + count];
    let (earliest, width) = (found[0].silence, spread(found[0].silence));
    let around = earliest.saturating_sub(2 * width)..=earliest + 3 * width;
    let around = ends.iter().filter(|end| around.contains(&end.silence)).count();
    let is_timer = count >= ENOUGH && count * 5 >= around * 4 && count * 2 >= ends.len();
    let place = found[0].place;
    is_timer.then(|| Cut {
        seconds: rounded(found[count / 2].silence),
        ends: count as u64,
        of: ends.len() as u64,
        place: found.iter().all(|end| end.place == place).then_some(place),
        at_least: false,
    })
}

/// How late a timer of a program may be: a quarter of a second, or a hundredth of longer ones, but no more than two seconds.
fn spread(silence: Duration) -> Duration {
    (silence / 100).clamp(Duration::from_millis(250), Duration::from_secs(2))
}

fn rounded(silence: Duration) -> f64 {
    let seconds = silence.as_secs_f64();
    if seconds < 9.95 { (seconds * 10.0).round() / 10.0 } else { seconds.round() }
}

/// What is remembered of ends after silence.
#[derive(Debug, Default)]
pub struct IdleCuts {
    recent: HashMap<Ends, Recent>,
    told: HashMap<Ends, (Instant, Cut)>,
    /// Whether records were lost.
    lost: bool,
}

impl IdleCuts {
    /// A connection has ended after so much silence.
    pub fn note(&mut self, now: Instant, whose: Ends, silence: Duration, peer: IpAddr) {
        if silence < SILENT {
            return;
        }
        if self.recent.len() >= KINDS && !self.recent.contains_key(&whose) {
            let oldest = self.recent.iter().min_by_key(|(_, recent)| recent.last);
            if let Some(oldest) = oldest.map(|(whose, _)| whose.clone()) {
                self.recent.remove(&oldest);
            }
        }
        let recent =
            self.recent.entry(whose).or_insert_with(|| Recent { ends: VecDeque::new(), last: now });
        if recent.ends.len() == REMEMBERED {
            recent.ends.pop_front();
        }
        recent.ends.push_back(End { silence, place: peer.into() });
        recent.last = now;
    }

    /// Records were lost: there may have been more ends.
    pub const fn lose(&mut self) {
        self.lost = true;
    }

    /// The timers that are found now.
    #[must_use]
    pub fn cuts(&self) -> Vec<(Ends, Cut)> {
        let at_least = self.lost;
        let found = self.recent.iter().filter_map(|(whose, recent)| {
            let cut = timer(recent.ends.iter().copied())?;
            Some((whose.clone(), Cut { at_least, ..cut }))
        });
        found.collect()
    }

    /// Forgets what is old; returns the timers that are new or have changed, and those that have gone on for an hour.
    pub fn news(&mut self, now: Instant) -> Vec<(Ends, Cut)> {
        self.recent.retain(|_, recent| now.duration_since(recent.last) < FORGOTTEN);
        self.told.retain(|whose, _| self.recent.contains_key(whose));
        let mut news = self.cuts();
        news.retain(|(whose, cut)| {
            let known = self.told.get(whose).is_some_and(|(when, told)| {
                // One that is found a step off is the same.
                let is_same = (told.seconds - cut.seconds).abs() <= (cut.seconds / 50.0).max(0.1);
                let goes_on = self.recent[whose].last > *when && now.duration_since(*when) >= AGAIN;
                is_same && !goes_on
            });
            !known
        });
        for (whose, cut) in &news {
            self.told.insert(whose.clone(), (now, *cut));
        }
        news
    }
}

/// With more ends a second than these, records of them are no longer asked for: they would cost too much.
const AFFORDABLE: u64 = 2_000;

/// Whether records are needed to find timers: while there are connections that are meant to last, unless so many end that
/// their records would cost too much.
#[derive(Debug, Default)]
pub struct Watch {
    is_on: bool,
    /// Ends that were counted at the last tick, and records that were lost by then.
    before: Option<(u64, u64)>,
}

impl Watch {
    /// Whether records are needed.
    #[must_use]
    pub const fn is_on(&self) -> bool {
        self.is_on
    }

    /// A second later: whether connections that last are open, how many have ended, and how many records were lost.
    /// Returns whether ends may have been missed since the last tick.
    pub fn tick(&mut self, are_open: bool, ends: u64, lost: u64) -> bool {
        let (ends_before, lost_before) = self.before.replace((ends, lost)).unwrap_or((ends, lost));
        // Cells that are freed take their ends with them.
        let is_busy = ends.saturating_sub(ends_before) > AFFORDABLE;
        let missed = self.is_on && (is_busy || lost > lost_before);
        self.is_on = are_open && !is_busy;
        missed
    }
}

/// What a timer says, in words.
#[must_use]
pub fn sentence(whose: &Ends, cut: Cut) -> String {
    let owner = match whose.kind {
        Kind::Pod => "pod",
        Kind::Container => "container",
        Kind::Unit => "unit",
        Kind::Cgroup => "cgroup",
    };
    let protocol = match whose.protocol {
        Protocol::Tcp => "TCP",
        Protocol::Tls => "TLS",
        Protocol::Http1 => "HTTP/1",
        Protocol::Http2 => "HTTP/2",
        Protocol::Grpc => "gRPC",
        Protocol::WebSocket => "WebSocket",
        Protocol::Upgrade => "upgraded HTTP",
    };
    let Cut { seconds, ends, of, place, at_least } = cut;
    let at_least = if at_least { "at least " } else { "" };
    let who = who(whose.side, whose.role, place);
    format!(
        "{at_least}{ends} of {of} closes of this {owner}'s silent {protocol} connections came {seconds} s after the last byte, {who}"
    )
}

/// Who cuts, and what it may be.
#[must_use]
pub fn who(side: Side, role: Role, place: Option<Place>) -> String {
    let at = match place {
        Some(Place::Loopback) => " (on this node's loopback)",
        Some(Place::Private) => " (private addresses)",
        Some(Place::Public) => " (public addresses)",
        None => "",
    };
    match (side, role) {
        (Side::Local, _) => "by a reset from here: a timeout of its own".to_owned(),
        (Side::Peer, Role::Server) => format!("from the peer{at}: a proxy read timeout"),
        (Side::Peer, Role::Client) => {
            format!("from the peer{at}: a timeout of the server, or of a proxy before it")
        }
        (Side::Peer, Role::Unknown) => format!("from the peer{at}, whichever end that is"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::attribute::identify;

    const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 7));

    fn whose() -> Ends {
        let identity = identify("/system.slice/chat.service");
        Ends::new(&identity, Role::Server, Protocol::WebSocket, Side::Peer)
    }

    fn millis(silence: u64) -> Duration {
        Duration::from_millis(silence)
    }

    /// The timer among ends after so many milliseconds: seconds, ends, of how many.
    fn found(silences: impl IntoIterator<Item = u64>) -> Option<(f64, u64, u64)> {
        let mut cuts = IdleCuts::default();
        for silence in silences {
            cuts.note(Instant::now(), whose(), millis(silence), PEER);
        }
        cuts.cuts().first().map(|(_, cut)| (cut.seconds, cut.ends, cut.of))
    }

    fn times(count: usize, silence: u64) -> impl Iterator<Item = u64> {
        // A timer is late by a few milliseconds, each time by others.
        (0..count as u64).map(move |i| silence + i * 7 % 23)
    }

    #[test]
    fn any_timer_is_found_to_the_second() {
        for seconds in [1, 2, 5, 20, 33, 60, 180, 240, 350, 3600, 7200] {
            let cut = found(times(12, seconds * 1000));
            assert_eq!(cut, Some((seconds as f64, 12, 12)), "{seconds}");
        }
        assert_eq!(found(times(12, 5_500)), Some((5.5, 12, 12)));
        assert_eq!(found(times(9, 60_000)), None, "too few");
        assert_eq!(found(times(100, 500)), None, "in use until the end");
        assert_eq!(found([]), None);
    }

    #[test]
    fn clients_that_leave_when_they_like_are_no_timer() {
        // Twelve, between 4.1 and 5.9 s: the kernel's bucket around 5 s would have them all.
        assert_eq!(found((0..12).map(|i| 4_100 + i * 163)), None);
        assert_eq!(found((0..100).map(|i| 4_100 + i * 18)), None);
        assert_eq!(found((0..100).map(|i| 1_000 + i * 600)), None);
        // Within a second, evenly.
        assert_eq!(found((0..100).map(|i| 4_500 + i * 10)), None);
    }

    #[test]
    fn a_timer_among_others_is_that_of_most() {
        let both = |a: usize, b: usize| times(a, 60_000).chain(times(b, 300_000));
        assert_eq!(found(both(20, 12)), Some((60.0, 20, 32)));
        assert_eq!(found(both(12, 20)), Some((300.0, 20, 32)));
        let some_leave = (0..10).map(|i| 2_000 + i * 5_000);
        assert_eq!(found(times(12, 20_000).chain(some_leave)), Some((20.0, 12, 22)));
        let most_leave = (0..30).map(|i| 2_000 + i * 5_000);
        assert_eq!(found(times(12, 20_000).chain(most_leave)), None);
        // What was set anew is found when the old ends are forgotten.
        assert_eq!(found(times(128, 60_000).chain(times(128, 90_000))), Some((90.0, 128, 128)));
    }

    #[test]
    fn where_the_peers_are_is_told_if_it_is_one_place() {
        let place = |addresses: &[&str]| {
            let mut cuts = IdleCuts::default();
            for address in addresses.iter().cycle().take(12) {
                cuts.note(Instant::now(), whose(), millis(2_000), address.parse().unwrap());
            }
            cuts.cuts()[0].1.place
        };
        assert_eq!(place(&["127.0.0.1", "::1"]), Some(Place::Loopback));
        assert_eq!(place(&["10.1.2.3", "fd00::1", "100.64.0.1"]), Some(Place::Private));
        assert_eq!(place(&["192.0.2.1", "::ffff:192.0.2.1"]), Some(Place::Public));
        assert_eq!(place(&["192.0.2.1", "10.0.0.1"]), None);
    }

    #[test]
    fn a_timer_is_told_once_an_hour() {
        let (mut cuts, start) = (IdleCuts::default(), Instant::now());
        let mut news = |minutes: u64, silences: &[u64]| {
            let now = start + Duration::from_mins(minutes);
            for silence in silences {
                cuts.note(now, whose(), millis(*silence), PEER);
            }
            cuts.news(now).first().map(|(_, cut)| cut.seconds)
        };
        assert_eq!(news(0, &[60_000; 9]), None);
        assert_eq!(news(1, &[60_000]), Some(60.0));
        assert_eq!(news(2, &[60_000; 9]), None);
        assert_eq!(news(50, &[60_000]), None);
        assert_eq!(news(61, &[60_000]), Some(60.0), "it goes on");
        assert_eq!(news(62, &[90_000; 40]), Some(90.0), "another");
        assert_eq!(news(121, &[]), None);
        assert_eq!(news(122, &[]), None, "forgotten");
        assert_eq!(news(123, &[60_000; 10]), Some(60.0));
    }

    #[test]
    fn records_are_needed_while_connections_last_and_few_end() {
        let mut watch = Watch::default();
        let mut tick = |are_open, ends, lost| {
            let missed = watch.tick(are_open, ends, lost);
            (watch.is_on(), missed)
        };
        assert_eq!(tick(false, 100, 7), (false, false));
        assert_eq!(tick(true, 200, 9), (true, false), "what was lost before is nobody's");
        assert_eq!(tick(true, 2_200, 9), (true, false));
        assert_eq!(tick(true, 2_300, 10), (true, true), "a record was lost");
        assert_eq!(tick(true, 5_000, 10), (false, true), "too many");
        assert_eq!(tick(true, 9_000, 10), (false, false));
        assert_eq!(tick(true, 8_000, 10), (true, false), "cells were freed");
        assert_eq!(tick(false, 8_000, 10), (false, false));
    }

    #[test]
    fn memory_is_bounded() {
        let (mut cuts, start) = (IdleCuts::default(), Instant::now());
        for i in 0..2 * KINDS as u64 {
            let pod = format!("chat-{i}");
            cuts.note(start + millis(i), Ends { pod, ..whose() }, millis(2_000), PEER);
        }
        assert_eq!(cuts.recent.len(), KINDS);
        assert!(cuts.recent.keys().all(|whose| whose.pod != "chat-0"), "the oldest went");
    }

    #[test]
    fn sentences() {
        let cut = Cut { seconds: 20.0, ends: 12, of: 14, place: None, at_least: false };
        assert_eq!(
            sentence(&whose(), cut),
            "12 of 14 closes of this unit's silent WebSocket connections came 20 s after the last byte, from the peer: a proxy read timeout"
        );
        let cut = Cut { seconds: 5.5, place: Some(Place::Private), at_least: true, ..cut };
        assert_eq!(
            sentence(&Ends { role: Role::Client, ..whose() }, cut),
            "at least 12 of 14 closes of this unit's silent WebSocket connections came 5.5 s after the last byte, from the peer (private addresses): a timeout of the server, or of a proxy before it"
        );
    }

    proptest! {
        /// Whatever ends: a timer has enough ends, and no more than there are.
        #[test]
        fn a_timer_has_its_ends(silences in prop::collection::vec(0_u64..400_000, 0..300)) {
            let silent = silences.iter().filter(|silence| **silence >= 950).count().min(REMEMBERED);
            if let Some((seconds, ends, of)) = found(silences) {
                prop_assert!(seconds >= 0.9 && of as usize == silent);
                prop_assert!(ends as usize >= ENOUGH && ends <= of && ends * 2 >= of);
            }
        }
    }
}
