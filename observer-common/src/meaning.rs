//! A hash of declarations, made by the compiler: what [`crate::abi`] is made of.

/// A hash under way: FNV-1a of 64 bits, the same in every build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Meaning(u64);

impl Meaning {
    /// Of nothing.
    pub const NONE: Self = Self(0xcbf2_9ce4_8422_2325);

    /// And these bytes, whatever their number.
    const fn mix(self, bytes: &[u8]) -> Self {
        let mut hash = self.0;
        let mut i = 0;
        while i < bytes.len() {
            hash = (hash ^ bytes[i] as u64).wrapping_mul(0x0100_0000_01b3);
            i += 1;
        }
        Self(hash)
    }

    /// And this number.
    pub const fn number(self, number: u64) -> Self {
        self.mix(&number.to_le_bytes())
    }

    /// And these.
    pub const fn numbers(mut self, numbers: &[u64]) -> Self {
        let mut i = 0;
        while i < numbers.len() {
            self = self.number(numbers[i]);
            i += 1;
        }
        self
    }

    /// And these words.
    pub const fn words(mut self, words: &[u32]) -> Self {
        let mut i = 0;
        while i < words.len() {
            self = self.number(words[i] as u64);
            i += 1;
        }
        self
    }

    /// And these bytes, and their number.
    pub const fn bytes(self, bytes: &[u8]) -> Self {
        self.number(bytes.len() as u64).mix(bytes)
    }

    /// And this text.
    pub const fn text(self, text: &str) -> Self {
        self.bytes(text.as_bytes())
    }

    /// And these texts.
    pub const fn texts(mut self, texts: &[&str]) -> Self {
        let mut i = 0;
        while i < texts.len() {
            self = self.text(texts[i]);
            i += 1;
        }
        self
    }

    /// The hash.
    #[must_use]
    pub const fn value(self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_tells_what_it_was_made_of() {
        let hash = Meaning::NONE;
        assert_ne!(hash.text("a").text("bc"), hash.text("ab").text("c"));
        assert_ne!(hash.numbers(&[1, 2]), hash.numbers(&[2, 1]));
        assert_eq!(hash.texts(&["a", "b"]), hash.text("a").text("b"));
        // FNV-1a of eight zero bytes.
        assert_eq!(hash.number(0).value(), 0xa8c7_f832_281a_39c5);
    }
}
