//! Tables of counters: a counter is declared once, and from its declaration follow where it stands in a slot, how the
//! daemon reads and sums it, which metric family it is, and what the reference says.
//!
//! A block is the content of one slot ([`crate::wire::slot`]), 128 words. Words in its front part are written by whichever
//! processor counts; what every segment may add to stands in the *shares* at its end, of which each processor adds to one,
//! so that they seldom wait for one another.

/// Words of a slot.
pub const SLOT_WORDS: usize = 128;
/// Shares of a slot's traffic, a power of two; processors beyond as many take turns from the first on.
pub const SHARES: usize = 4;
/// Words of a share: a cache line.
pub const SHARE_WORDS: usize = 8;
/// The word at which the first share begins.
pub const SHARES_AT: usize = SLOT_WORDS - SHARES * SHARE_WORDS;

/// Names of the values that a counter is told apart by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label {
    /// Name of the label.
    pub name: &'static str,
    /// Its values, by wire number; what is counted beyond them has no name and belongs to the last one.
    pub values: &'static [&'static str],
}

/// What a counter holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Shape {
    /// One word for each combination of label values: the last label's value counts fastest.
    Count,
    /// For each combination a word with the sum of the observations in nanoseconds, and then one for each bucket.
    Histogram(&'static Bounds),
}

/// Buckets of a histogram of times.
#[derive(Debug, PartialEq)]
pub struct Bounds {
    /// Words for buckets, a power of two or the number that is used.
    pub words: u16,
    /// Inclusive upper bounds in seconds of all buckets but the last, which has none.
    pub upper: &'static [f64],
    /// Whether the bounds are consecutive powers of two of a second: a native histogram of schema 0 then loses nothing.
    pub powers_of_two: bool,
}

impl Bounds {
    /// Buckets that are in use.
    #[must_use]
    pub const fn used(&self) -> usize {
        self.upper.len() + 1
    }
}

/// Which rows a family has samples for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// One for each cgroup's names, role, port and protocol.
    Series,
    /// One for each replica, role and protocol, all ports and containers together.
    Endpoint,
    /// One for each replica: the connections of its servers that speak the block's protocol.
    Replica,
}

/// From which level of detail on a family is exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// What users' panels, autoscalers and the shipped rules about users need.
    Core,
    /// What every shipped alert and panel needs.
    Standard,
    /// Everything.
    Full,
}

/// Which values of a family exist from the start, as zeros: `rate()` does not see the first value of a new series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zeros {
    /// Only what has been counted.
    None,
    /// All values, once the row has had a connection.
    All,
    /// The values whose numbers are these, likewise, by the role of the row.
    Of {
        /// Of servers.
        server: &'static [usize],
        /// Of clients.
        client: &'static [usize],
    },
    /// The values whose numbers are these, for clients that have ever connected, and in the cell that attempts begin in.
    Attempts(&'static [usize]),
}

/// A metric family that is made of one counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Family {
    /// Name without suffix.
    pub name: &'static str,
    /// One sentence.
    pub help: &'static str,
    /// Which rows it has samples for.
    pub rows: Rows,
    /// From which level of detail on.
    pub level: Level,
    /// What is shown before it has been counted.
    pub zeros: Zeros,
}

/// A counter in a block.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Counter {
    /// Its name in the table.
    pub name: &'static str,
    /// Whose slots have it.
    pub owner: Owner,
    /// Its first word within the block, or within each share.
    pub word: usize,
    /// Combinations of label values; a power of two, so that kernel code can mask the index.
    pub combinations: usize,
    /// What it is told apart by.
    pub labels: &'static [Label],
    /// What it holds.
    pub shape: Shape,
    /// Whether it stands in the shares.
    pub shared: bool,
    /// The family that it is, if it is one by itself.
    pub family: Option<Family>,
}

impl Counter {
    /// Words of one combination.
    #[must_use]
    pub const fn stride(&self) -> usize {
        match self.shape {
            Shape::Count => 1,
            Shape::Histogram(bounds) => 1 + bounds.words as usize,
        }
    }

    /// The word behind it.
    #[must_use]
    pub const fn end(&self) -> usize {
        self.word + self.combinations * self.stride()
    }

    /// Its place in bytes within the block, or within each share.
    #[must_use]
    pub const fn offset(&self) -> usize {
        self.word * 8
    }

    /// The place in bytes of a combination; numbers that are too large are wrapped.
    #[inline(always)]
    #[must_use]
    pub const fn at(&self, combination: usize) -> usize {
        (self.word + (combination & (self.combinations - 1)) * self.stride()) * 8
    }

    /// Values of a label but the first take as many places as the next power of two, so that the index is put together by shifts.
    #[must_use]
    pub const fn places(label: &Label) -> usize {
        label.values.len().next_power_of_two()
    }

    /// The words of the block that hold it, those of all shares included.
    pub fn words(&self) -> impl Iterator<Item = usize> + use<> {
        let (first, length) = (self.word, self.end() - self.word);
        let (copies, base) = if self.shared { (SHARES, SHARES_AT) } else { (1, 0) };
        (0..copies)
            .flat_map(move |copy| (0..length).map(move |i| base + copy * SHARE_WORDS + first + i))
    }
}

/// What a block counts for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Every cell has one.
    Cell,
    /// A cell in which a connection has ended, or reset its peer.
    Ends,
    /// A cell of the protocol with this wire number.
    Protocol(u8),
}

/// All counters of one kind of slot.
#[derive(Debug)]
pub struct Block {
    /// What has such a slot.
    pub owner: Owner,
    /// The counters, in the order of their words; those in the shares last.
    pub counters: &'static [Counter],
}

impl Block {
    /// Checks at compile time that the counters fit.
    #[must_use]
    pub const fn checked(owner: Owner, counters: &'static [Counter]) -> Self {
        let (mut i, mut shared) = (0, false);
        while i < counters.len() {
            shared |= counters[i].shared;
            i += 1;
        }
        i = 0;
        while i < counters.len() {
            let counter = &counters[i];
            let limit = match (counter.shared, shared) {
                (true, _) => SHARE_WORDS,
                (false, true) => SHARES_AT,
                (false, false) => SLOT_WORDS,
            };
            assert!(counter.end() <= limit, "the counters do not fit into the slot");
            assert!(counter.combinations.is_power_of_two());
            i += 1;
        }
        const { assert!(SHARES_AT + SHARES * SHARE_WORDS == SLOT_WORDS) }
        Self { owner, counters }
    }

    /// What the block's words mean, as a number: see [`crate::abi`].
    pub const fn meaning(&self, mut hash: crate::meaning::Meaning) -> crate::meaning::Meaning {
        let mut i = 0;
        while i < self.counters.len() {
            let counter = &self.counters[i];
            hash =
                hash.text(counter.name).number(counter.word as u64).number(counter.shared as u64);
            hash = hash.number(counter.combinations as u64);
            let mut j = 0;
            while j < counter.labels.len() {
                hash = hash.texts(counter.labels[j].values);
                j += 1;
            }
            if let Shape::Histogram(bounds) = counter.shape {
                hash = hash.number(bounds.words as u64);
                let mut j = 0;
                while j < bounds.upper.len() {
                    hash = hash.number(bounds.upper[j].to_bits());
                    j += 1;
                }
            }
            i += 1;
        }
        hash
    }
}

/// Declares the counters of a block, in the order of their words.
///
/// ```text
/// counters! {
///     /// What the block is.
///     BLOCK: Owner::…, from 2;
///     words {
///         /// What is counted.
///         NAME: 1;                                       one word
///         NAME: 8 by [Reason::LABEL];                    a word for each value
///         NAME: 1 histogram &BOUNDS;                     a histogram
///         NAME: 2 by [Side::LABEL] histogram &BOUNDS => Family { … };
///     }
///     shares { … }
/// }
/// ```
#[macro_export]
macro_rules! counters {
    (
        $(#[$meta:meta])*
        $block:ident: $owner:expr, from $first:literal;
        words { $($words:tt)* }
        shares { $($shares:tt)* }
    ) => {
        $crate::counters!(@fields $owner, false, $first, [$($words)*]);
        $crate::counters!(@fields $owner, true, 0, [$($shares)*]);
        $crate::counters!(@block [$(#[$meta])* $block] $owner, [] $($words)* $($shares)*);
    };

    (@fields $owner:expr, $shared:literal, $at:expr, []) => {};
    (@fields $owner:expr, $shared:literal, $at:expr, [
        $(#[$meta:meta])*
        $name:ident: $combinations:literal
        $(by [$($label:expr),+])?
        $(histogram $bounds:expr)?
        $(=> $family:expr)?;
        $($rest:tt)*
    ]) => {
        $(#[$meta])*
        pub const $name: $crate::counters::Counter = $crate::counters::Counter {
            name: stringify!($name),
            owner: $owner,
            word: $at,
            combinations: $combinations,
            labels: $crate::counters!(@labels $([$($label),+])?),
            shape: $crate::counters!(@shape $($bounds)?),
            shared: $shared,
            family: $crate::counters!(@family $($family)?),
        };
        $crate::counters!(@fields $owner, $shared, $name.end(), [$($rest)*]);
    };

    (@labels) => { &[] };
    (@labels [$($label:expr),+]) => { &[$($label),+] };
    (@shape) => { $crate::counters::Shape::Count };
    (@shape $bounds:expr) => { $crate::counters::Shape::Histogram($bounds) };
    (@family) => { None };
    (@family $family:expr) => { Some($family) };

    (@block [$(#[$meta:meta])* $block:ident] $owner:expr, [$($names:ident)*]) => {
        $(#[$meta])*
        pub static $block: $crate::counters::Block =
            $crate::counters::Block::checked($owner, &[$($names),*]);
    };
    (@block $head:tt $owner:expr, [$($names:ident)*]
        $(#[$meta:meta])*
        $name:ident: $combinations:literal
        $(by [$($label:expr),+])?
        $(histogram $bounds:expr)?
        $(=> $family:expr)?;
        $($rest:tt)*
    ) => {
        $crate::counters!(@block $head $owner, [$($names)* $name] $($rest)*);
    };
}
