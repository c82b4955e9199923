//! What the daemon knows of a cell: the words of its slots as they were read, and what the counter tables say they mean.
//!
//! Nothing here names a counter: to add two cells is to add their words, whatever they count.

use std::time::SystemTime;

use observer_common::{
    counters::{Block, Bounds, Counter, Owner, Shape},
    label::{Direction, Path, Reason, Role},
    protocol::{BLOCKS, Protocol},
    wire::slot::{self, SHARE_WORDS, SHARES, SHARES_AT, SLOT_WORDS},
};

/// The words of a slot; what the processors have counted in its shares stands summed up in the first. Most cells lack one
/// or both of the slots under them, and those take no room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Words(Option<Box<[u64; SLOT_WORDS]>>);

/// Of a slot that is not there.
static ZEROS: [u64; SLOT_WORDS] = [0; SLOT_WORDS];

impl Words {
    fn read(block: &Block, word: impl Fn(usize) -> u64) -> Self {
        let mut words = Box::new(ZEROS);
        for counter in block.counters {
            for place in counter.word..counter.end() {
                if counter.shared {
                    let shares =
                        (0..SHARES).map(|share| word(SHARES_AT + share * SHARE_WORDS + place));
                    words[SHARES_AT + place] = shares.fold(0, u64::wrapping_add);
                } else {
                    words[place] = word(place);
                }
            }
        }
        Self(Some(words))
    }

    fn all(&self) -> &[u64; SLOT_WORDS] {
        self.0.as_deref().unwrap_or(&ZEROS)
    }

    fn all_mut(&mut self) -> &mut [u64; SLOT_WORDS] {
        self.0.get_or_insert_with(|| Box::new(ZEROS))
    }

    fn add(&mut self, other: &Self) {
        if let Some(theirs) = &other.0 {
            for (mine, theirs) in self.all_mut().iter_mut().zip(&**theirs) {
                *mine = mine.wrapping_add(*theirs);
            }
        }
    }
}

/// The counts of one cell, or of several of one protocol together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// When the first of them began, if that is known: then they were all 0.
    pub since: Option<SystemTime>,
    base: Words,
    ends: Words,
    protocol: Words,
}

impl Counts {
    /// Takes what a slot counts, whose words `word` tells.
    pub fn read(&mut self, block: &Block, word: impl Fn(usize) -> u64) {
        *self.slot_mut(block.owner) = Words::read(block, word);
    }

    const fn slot(&self, owner: Owner) -> &Words {
        match owner {
            Owner::Cell => &self.base,
            Owner::Ends => &self.ends,
            Owner::Protocol(_) => &self.protocol,
        }
    }

    const fn slot_mut(&mut self, owner: Owner) -> &mut Words {
        match owner {
            Owner::Cell => &mut self.base,
            Owner::Ends => &mut self.ends,
            Owner::Protocol(_) => &mut self.protocol,
        }
    }

    /// The words of a counter.
    fn words(&self, counter: &Counter) -> &[u64] {
        &self.slot(counter.owner).all()[places(counter)]
    }

    /// The words of a counter, to be changed.
    pub fn words_mut(&mut self, counter: &Counter) -> &mut [u64] {
        &mut self.slot_mut(counter.owner).all_mut()[places(counter)]
    }

    /// What was counted for a combination of label values. What the labels have no value for belongs to the last.
    #[must_use]
    pub fn count(&self, counter: &Counter, combination: usize) -> u64 {
        let words = self.words(counter);
        match counter.labels {
            [label] if combination + 1 == label.values.len() => {
                words[combination..].iter().fold(0, |sum, word| sum.wrapping_add(*word))
            }
            _ => words[combination],
        }
    }

    /// What a counter without labels has counted.
    #[must_use]
    pub fn one(&self, counter: &Counter) -> u64 {
        self.words(counter)[0]
    }

    /// Everything that a counter has counted, whatever its labels.
    #[must_use]
    pub fn sum(&self, counter: &Counter) -> u64 {
        self.words(counter).iter().fold(0, |sum, word| sum.wrapping_add(*word))
    }

    /// Connections here now; a reader that comes between two words may see less than none.
    #[must_use]
    pub fn active(&self) -> i64 {
        self.one(&slot::ACTIVE).cast_signed()
    }

    /// A histogram; `None` without any observation.
    #[must_use]
    pub fn histogram(&self, counter: &Counter, combination: usize) -> Option<Histogram<'_>> {
        let Shape::Histogram(bounds) = counter.shape else { return None };
        let words = &self.words(counter)[combination * counter.stride()..];
        let buckets = &words[1..=bounds.used()];
        let any = buckets.iter().any(|&count| count != 0);
        any.then_some(Histogram { sum_ns: words[0], buckets, bounds })
    }

    /// Adds the counts of another cell of the same protocol.
    pub fn add(&mut self, other: &Self) {
        self.since = earlier(self.since, other.since);
        self.base.add(&other.base);
        self.ends.add(&other.ends);
        self.protocol.add(&other.protocol);
    }

    /// The same, of a cell of `protocol`, as the other ends of its connections see it: what one sends the other receives, and a
    /// reset from here comes from the peer there.
    #[must_use]
    pub fn at_the_other_end(mut self, protocol: Protocol) -> Self {
        let (received, sent) = (Direction::Received as usize, Direction::Sent as usize);
        let (local, peer) = (Reason::ResetLocal as usize, Reason::ResetPeer as usize);
        let swaps = [(Direction::LABEL, received, sent), (Reason::LABEL, local, peer)];
        for counter in blocks(protocol).flat_map(|block| block.counters) {
            for (label, one, other) in swaps {
                let Some(at) = counter.labels.iter().position(|of| *of == label) else { continue };
                if self.slot(counter.owner).0.is_none() {
                    continue;
                }
                // The last label's value counts fastest.
                let step: usize = counter.labels[at + 1..].iter().map(Counter::places).product();
                let (stride, values) = (counter.stride(), Counter::places(&label));
                let words = self.words_mut(counter);
                for first in (0..counter.combinations).filter(|n| n / step % values == one) {
                    let second = first + (other - one) * step;
                    (0..stride).for_each(|i| words.swap(first * stride + i, second * stride + i));
                }
            }
        }
        self
    }

    /// Word by word the larger of the two.
    #[must_use]
    pub fn larger(mut self, other: &Self) -> Self {
        self.since = earlier(self.since, other.since);
        for owner in [Owner::Cell, Owner::Ends, Owner::Protocol(0)] {
            let (mine, theirs) = (self.slot_mut(owner), other.slot(owner));
            if let Some(theirs) = &theirs.0 {
                for (mine, theirs) in mine.all_mut().iter_mut().zip(&**theirs) {
                    // A gauge may be less than nothing for a moment.
                    *mine = mine.cast_signed().max(theirs.cast_signed()).cast_unsigned();
                }
            }
        }
        self
    }

    /// Each word by itself.
    #[must_use]
    pub fn map(mut self, map: impl Fn(u64) -> u64) -> Self {
        for words in [&mut self.base, &mut self.ends, &mut self.protocol] {
            if let Some(words) = &mut words.0 {
                words.iter_mut().for_each(|word| *word = map(*word));
            }
        }
        self
    }

    /// A number that changes with every event that is counted: the sum of everything that only grows.
    #[must_use]
    pub fn events(&self) -> u64 {
        let slots = [&self.base, &self.ends, &self.protocol].map(Words::all);
        let all = slots.into_iter().flatten().fold(0_u64, |sum, word| sum.wrapping_add(*word));
        all.wrapping_sub(self.one(&slot::ACTIVE))
    }

    /// A number that changes whenever a connection comes, moves or ends.
    #[must_use]
    pub fn turnover(&self) -> u64 {
        let counters = [&slot::OPENED, &slot::ADOPTED, &slot::ENTERED, &slot::LEFT, &slot::CLOSED];
        counters.into_iter().fold(0, |sum, counter| sum.wrapping_add(self.sum(counter)))
    }
}

/// The earlier of two times, as far as they are known.
fn earlier(one: Option<SystemTime>, other: Option<SystemTime>) -> Option<SystemTime> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// Where a counter's words stand in [`Words`].
const fn places(counter: &Counter) -> std::ops::Range<usize> {
    let base = if counter.shared { SHARES_AT } else { 0 };
    base + counter.word..base + counter.end()
}

/// A histogram of times.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Histogram<'a> {
    /// Sum of the observations, nanoseconds.
    pub sum_ns: u64,
    /// Observations by bucket, not cumulative.
    pub buckets: &'a [u64],
    /// The upper bounds of the buckets; the last has none.
    pub bounds: &'static Bounds,
}

/// The counters that a cell of a protocol has.
pub fn blocks(protocol: Protocol) -> impl Iterator<Item = &'static Block> {
    let own = BLOCKS.iter().copied().find(|block| block.owner == Owner::Protocol(protocol as u8));
    [&slot::BASE, &slot::ENDS].into_iter().chain(own)
}

/// One cell as read at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CellSnapshot {
    /// Cgroup id; 0 for an overflow cell.
    pub cgroup: u64,
    /// The server's port.
    pub port: u16,
    /// Server or client.
    pub role: Role,
    /// The protocol.
    pub protocol: Protocol,
    /// Where the other ends are.
    pub path: Path,
    /// The counts.
    pub counts: Counts,
}

#[cfg(test)]
mod tests {
    use observer_common::{
        label::{Direction, Reason, Side},
        protocol::websocket::counters as websocket,
    };

    use super::*;

    /// The words of a slot in which each counter's words hold 1, 2, 3, … in their order, the shares a tenth of it each.
    fn slot_of(block: &Block) -> [u64; SLOT_WORDS] {
        let mut words = [0; SLOT_WORDS];
        let all = block.counters.iter().flat_map(Counter::words);
        all.enumerate().for_each(|(number, place)| words[place] = number as u64 + 1);
        words
    }

    #[test]
    fn words_are_read_where_the_kernel_writes_them() {
        let mut counts = Counts::default();
        for block in blocks(Protocol::WebSocket) {
            let words = slot_of(block);
            counts.read(block, |place| words[place]);
        }
        for counter in blocks(Protocol::WebSocket).flat_map(|block| block.counters) {
            let block = blocks(Protocol::WebSocket).find(|block| block.owner == counter.owner);
            let words = slot_of(block.expect("its own"));
            let expected: u64 = counter.words().map(|place| words[place]).sum();
            assert_eq!(counts.sum(counter), expected, "{}", counter.name);
        }
        let words = slot_of(&slot::BASE);
        let bytes: u64 = slot::BYTES.words().skip(1).step_by(2).map(|place| words[place]).sum();
        assert_eq!(counts.count(&slot::BYTES, Direction::Sent as usize), bytes);
    }

    #[test]
    fn a_histogram_is_a_sum_and_its_buckets() {
        let mut counts = Counts::default();
        assert_eq!(counts.histogram(&slot::IDLE, Side::Peer as usize), None);
        let words = counts.words_mut(&slot::IDLE);
        let peer = Side::Peer as usize * slot::IDLE.stride();
        (words[peer], words[peer + 3]) = (12, 11);
        assert_eq!(counts.histogram(&slot::IDLE, Side::Local as usize), None);
        let idle = counts.histogram(&slot::IDLE, Side::Peer as usize).unwrap();
        assert_eq!(
            (idle.sum_ns, idle.buckets[2], idle.buckets.len()),
            (12, 11, idle.bounds.used())
        );
    }

    #[test]
    fn what_has_no_name_belongs_to_the_last_that_has_one() {
        let mut counts = Counts::default();
        let words = counts.words_mut(&slot::CLOSED);
        (words[Reason::Peer as usize], words[Reason::Unknown as usize], words[7]) = (5, 1, 6);
        assert_eq!(counts.count(&slot::CLOSED, Reason::Peer as usize), 5);
        assert_eq!(counts.count(&slot::CLOSED, Reason::Unknown as usize), 7);
    }

    #[test]
    fn cells_are_added_word_by_word() {
        let mut sum = Counts::default();
        for number in [2, 3] {
            let mut counts = Counts::default();
            for counter in blocks(Protocol::WebSocket).flat_map(|block| block.counters) {
                counts.words_mut(counter).fill(number);
            }
            sum.add(&counts);
        }
        for counter in blocks(Protocol::WebSocket).flat_map(|block| block.counters) {
            assert!(sum.words(counter).iter().all(|&word| word == 5), "{}", counter.name);
        }
        let without = sum.clone().map(|word| word.wrapping_sub(7));
        sum.add(&without.map(u64::wrapping_neg));
        assert_eq!(sum.count(&websocket::MESSAGES, 1), 7);
    }

    #[test]
    fn the_other_end_receives_what_is_sent_here() {
        let mut counts = Counts::default();
        let messages = counts.words_mut(&websocket::MESSAGES);
        (messages[Direction::Received as usize], messages[Direction::Sent as usize]) = (3, 5);
        let frames = counts.words_mut(&websocket::CONTROL_FRAMES);
        frames.copy_from_slice(&[1, 2, 3, 4]);
        let closed = counts.words_mut(&slot::CLOSED);
        (closed[Reason::ResetPeer as usize], closed[Reason::Timeout as usize]) = (7, 9);
        let there = counts.clone().at_the_other_end(Protocol::WebSocket);
        assert_eq!(there.words(&websocket::MESSAGES), [5, 3]);
        assert_eq!(there.words(&websocket::CONTROL_FRAMES), [2, 1, 4, 3]);
        assert_eq!(there.count(&slot::CLOSED, Reason::ResetLocal as usize), 7);
        assert_eq!(there.count(&slot::CLOSED, Reason::ResetPeer as usize), 0);
        assert_eq!(there.count(&slot::CLOSED, Reason::Timeout as usize), 9);
        assert_eq!(there.at_the_other_end(Protocol::WebSocket), counts);
    }

    #[test]
    fn the_larger_of_two_is_so_word_by_word() {
        let counts = |opened, entered, active: i64| {
            let mut counts = Counts::default();
            counts.words_mut(&slot::OPENED)[0] = opened;
            counts.words_mut(&slot::ENTERED)[0] = entered;
            counts.words_mut(&slot::ACTIVE)[0] = active.cast_unsigned();
            counts
        };
        assert_eq!(counts(3, 8, -1).larger(&counts(5, 2, 4)), counts(5, 8, 4));
        assert_eq!(Counts::default().larger(&counts(1, 0, 0)).one(&slot::OPENED), 1);
    }

    #[test]
    fn an_event_changes_the_sum_and_a_move_does_too() {
        let mut counts = Counts::default();
        let mut before = counts.events();
        for counter in
            [&slot::OPENED, &slot::LEFT, &slot::ROUND_TRIP, &slot::IDLE, &websocket::MESSAGES]
        {
            counts.words_mut(counter)[0] += 1;
            let active = &mut counts.words_mut(&slot::ACTIVE)[0];
            *active = active.wrapping_sub(1);
            assert_ne!(counts.events(), before);
            before = counts.events();
        }
    }

    #[test]
    fn connections_change_the_turnover_and_their_traffic_does_not() {
        let mut counts = Counts::default();
        for counter in blocks(Protocol::WebSocket).flat_map(|block| block.counters) {
            let before = counts.turnover();
            *counts.words_mut(counter).last_mut().unwrap() += 1;
            let moves = ["OPENED", "ADOPTED", "ENTERED", "LEFT", "CLOSED"].contains(&counter.name);
            assert_eq!(counts.turnover() - before, u64::from(moves), "{}", counter.name);
        }
    }
}
