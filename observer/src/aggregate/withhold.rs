//! Which pods' users cannot be known, so that no number is told rather than one that is too small. Pure; time is a parameter.
//!
//! - *settling*: the pod is older than the kernel side, and nobody has looked for what was open before. Whatever speaks is found
//!   at its next segment: after the settling time, about two usual intervals of pings, it counts as found.
//! - *incomplete*: connections were found of which it is not known yet what they speak; until the settling time, too, since
//!   some may stay silent for ever.
//! - *blind*: its servers have accepted connections that cannot be read, and none that can.
//!
//! What is known of a pod stays known, so that no value comes and goes.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// Why the users of a pod are not told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Withheld {
    /// Nobody has looked for its older connections.
    Settling,
    /// What it was found to have is not recognised yet.
    Incomplete,
    /// Nothing that it has accepted could be read.
    Blind,
}

impl Withheld {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Settling, Self::Incomplete, Self::Blind];

    /// The text used as a label value.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Settling => "settling",
            Self::Incomplete => "incomplete",
            Self::Blind => "blind",
        }
    }
}

/// What is seen of a pod now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// Whether it is older than the kernel side.
    pub older: bool,
    /// Whether its older connections were looked for.
    pub visited: bool,
    /// Server connections that were found and are not recognised yet.
    pub unrecognised: u64,
    /// Server connections now that cannot be read.
    pub unreadable: u64,
    /// Server connections that could not be read, all that there ever were.
    pub were_unreadable: u64,
    /// Server connections that could be read, likewise.
    pub were_readable: u64,
}

impl Evidence {
    /// Server connections of which it is not known what they carry; `None` where there never was one.
    #[must_use]
    pub fn unread(&self) -> Option<u64> {
        let unread = self.unrecognised + self.unreadable;
        (unread != 0 || self.were_unreadable != 0).then_some(unread)
    }
}

/// What is known of a pod, for good.
#[derive(Debug, Default)]
struct Known {
    /// Which connections it has.
    complete: bool,
    /// That its connections can be read.
    readable: bool,
}

/// What is known of all pods.
#[derive(Debug)]
pub struct Withholding {
    /// When the settling time is over.
    settled: Instant,
    pods: HashMap<String, Known>,
}

impl Withholding {
    /// For a kernel side that is `age` old at `now`.
    #[must_use]
    pub fn new(now: Instant, age: Duration, settling: Duration) -> Self {
        Self { settled: now + settling.saturating_sub(age), pods: HashMap::new() }
    }

    /// Judges a pod by what is seen of it now, and by what was known before.
    pub fn judge(&mut self, now: Instant, uid: &str, seen: &Evidence) -> Option<Withheld> {
        if !self.pods.contains_key(uid) {
            self.pods.insert(uid.to_owned(), Known::default());
        }
        let known = self.pods.get_mut(uid)?;
        known.readable |= seen.were_readable != 0;
        known.complete |=
            !seen.older || now >= self.settled || (seen.visited && seen.unrecognised == 0);
        if !known.complete {
            let found = seen.visited || seen.unrecognised != 0;
            return Some(if found { Withheld::Incomplete } else { Withheld::Settling });
        }
        (seen.were_unreadable != 0 && !known.readable).then_some(Withheld::Blind)
    }

    /// Forgets the pods that are no more.
    pub fn forget(&mut self, is_here: impl Fn(&str) -> bool) {
        self.pods.retain(|uid, _| is_here(uid));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTLING: Duration = Duration::from_mins(1);
    const YOUNG: Evidence = Evidence {
        older: false,
        visited: false,
        unrecognised: 0,
        unreadable: 0,
        were_unreadable: 0,
        were_readable: 0,
    };
    const OLD: Evidence = Evidence { older: true, ..YOUNG };
    const VISITED: Evidence = Evidence { visited: true, ..OLD };

    /// Judges a pod by one look after the other, so long after the start.
    fn judged<const N: usize>(looks: [(u64, Evidence); N]) -> [Option<Withheld>; N] {
        let start = Instant::now();
        let mut withholding = Withholding::new(start, Duration::ZERO, SETTLING);
        looks.map(|(after, seen)| withholding.judge(start + Duration::from_secs(after), "a", &seen))
    }

    #[test]
    fn a_pod_that_is_younger_is_known_at_once() {
        assert_eq!(judged([(0, YOUNG)]), [None]);
        // Whatever is found later.
        let found = Evidence { unrecognised: 2, ..YOUNG };
        assert_eq!(judged([(0, found)]), [None]);
    }

    #[test]
    fn a_pod_that_nobody_has_looked_at_settles() {
        let settling = Some(Withheld::Settling);
        assert_eq!(judged([(0, OLD), (59, OLD), (60, OLD)]), [settling, settling, None]);
        let start = Instant::now();
        let mut later = Withholding::new(start, SETTLING, SETTLING);
        assert_eq!(later.judge(start, "a", &OLD), None, "of a kernel side that is taken over");
    }

    #[test]
    fn what_was_found_has_to_be_recognised_first() {
        let found = |unrecognised| Evidence { unrecognised, ..VISITED };
        let incomplete = Some(Withheld::Incomplete);
        assert_eq!(judged([(0, VISITED)]), [None], "nothing was there");
        assert_eq!(
            judged([(0, found(2)), (5, found(1)), (6, found(0))]),
            [incomplete, incomplete, None]
        );
        assert_eq!(judged([(0, found(2)), (60, found(2))]), [incomplete, None], "silent ones");
        assert_eq!(judged([(0, found(0)), (5, found(1))]), [None, None], "it stays known");
        let met = Evidence { unrecognised: 1, ..OLD };
        assert_eq!(
            judged([(0, OLD), (5, met), (6, OLD)])[1..],
            [incomplete, Some(Withheld::Settling)]
        );
    }

    #[test]
    fn a_pod_whose_connections_cannot_be_read_is_blind_until_one_can() {
        let opaque = Evidence { were_unreadable: 1, unreadable: 1, ..YOUNG };
        let both = Evidence { were_readable: 1, ..opaque };
        let blind = Some(Withheld::Blind);
        assert_eq!(
            judged([(0, YOUNG), (1, opaque), (2, both), (3, opaque)]),
            [None, blind, None, None]
        );
        let gone = Evidence { unreadable: 0, ..opaque };
        assert_eq!(
            judged([(0, opaque), (9, gone)]),
            [blind, blind],
            "it had users that nobody saw"
        );
        let first = Evidence { were_readable: 1, ..YOUNG };
        assert_eq!(judged([(0, first), (1, opaque)]), [None, None]);
        let settling = Evidence { were_unreadable: 1, ..OLD };
        assert_eq!(judged([(0, settling), (60, settling)]), [Some(Withheld::Settling), blind]);
    }

    #[test]
    fn who_is_forgotten_is_judged_anew() {
        let start = Instant::now();
        let mut withholding = Withholding::new(start, Duration::ZERO, SETTLING);
        assert_eq!(withholding.judge(start, "a", &VISITED), None);
        withholding.forget(|uid| uid != "a");
        assert_eq!(withholding.judge(start, "a", &OLD), Some(Withheld::Settling));
    }

    #[test]
    fn what_is_unread_is_told_where_there_was_any() {
        assert_eq!(YOUNG.unread(), None);
        assert_eq!(Evidence { were_unreadable: 1, ..YOUNG }.unread(), Some(0));
        assert_eq!(Evidence { unreadable: 2, unrecognised: 3, ..YOUNG }.unread(), Some(5));
    }
}
