//! Which names are wanted: a list of names, with `*` for any end, and `!` before those that are not.

use std::{fmt, str::FromStr};

/// A choice of names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    taken: Vec<Pattern>,
    left_out: Vec<Pattern>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Pattern {
    start: String,
    /// Whether more may follow.
    open: bool,
}

impl Pattern {
    fn fits(&self, name: &str) -> bool {
        if self.open { name.starts_with(&self.start) } else { name == self.start }
    }
}

/// A list that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unusable(String);

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(item) = self;
        write!(
            f,
            "{item:?} is no name: a `*` stands at its end only, and nothing else but a `!` before it"
        )
    }
}

impl std::error::Error for Unusable {}

impl Selection {
    /// Reads a list with commas.
    ///
    /// # Errors
    /// If one of them is neither a name nor the start of one.
    pub fn parse(list: &str) -> Result<Self, Unusable> {
        let mut selection = Self::default();
        for item in list.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            let (name, patterns) = match item.strip_prefix('!') {
                Some(name) => (name, &mut selection.left_out),
                None => (item, &mut selection.taken),
            };
            let (start, open) = name.strip_suffix('*').map_or((name, false), |start| (start, true));
            let is_name = |b: u8| b.is_ascii_alphanumeric() || b"_:.-".contains(&b);
            if !start.bytes().all(is_name) || (start.is_empty() && !open) {
                return Err(Unusable(item.to_owned()));
            }
            patterns.push(Pattern { start: start.to_owned(), open });
        }
        Ok(selection)
    }

    /// Whether a name is wanted: without a list every name is, but for those that are left out.
    #[must_use]
    pub fn takes(&self, name: &str) -> bool {
        self.takes_known_as(&[name])
    }

    /// Whether what has several names is wanted.
    #[must_use]
    pub fn takes_known_as(&self, names: &[&str]) -> bool {
        let any = |pattern: &Pattern| names.iter().any(|name| pattern.fits(name));
        let fits = |patterns: &[Pattern]| patterns.iter().any(any);
        (self.taken.is_empty() || fits(&self.taken)) && !fits(&self.left_out)
    }
}

impl FromStr for Selection {
    type Err = Unusable;

    fn from_str(list: &str) -> Result<Self, Unusable> {
        Self::parse(list)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_and_left_out() {
        for (list, taken, left_out) in [
            ("", &["a", "b"][..], &[][..]),
            ("shop", &["shop"], &["shop2", ""]),
            ("shop*, edge", &["shop", "shop2", "edge"], &["edge2"]),
            ("!kube-*", &["shop", ""], &["kube-system"]),
            ("kube-*,!kube-system", &["kube-public"], &["kube-system", "shop"]),
            ("!*", &[], &["a", ""]),
        ] {
            let selection = Selection::parse(list).unwrap();
            assert!(taken.iter().all(|name| selection.takes(name)), "{list}");
            assert!(!left_out.iter().any(|name| selection.takes(name)), "{list}");
        }
        for list in ["a*b", "!", "!!a", "a b"] {
            assert!(Selection::parse(list).is_err(), "{list}");
        }
    }
}
