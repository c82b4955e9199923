//! Bearer tokens (RFC 6750).

use subtle::{Choice, ConstantTimeEq as _};

/// The option that names their file.
pub(super) const OPTION: &str = "--bearer-token-file";
/// What the file is.
pub(super) const IS: &str = "give a file with a token on each line, one at least";

/// Those that are let in: several while one takes the place of another.
pub(super) struct Tokens(Vec<Box<[u8]>>);

impl Tokens {
    /// One for each line that is not blank.
    pub(super) fn parse(text: &[u8]) -> Result<Self, String> {
        let lines = text.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii);
        let mut tokens = Vec::new();
        for (number, line) in (1..).zip(lines).filter(|(_, line)| !line.is_empty()) {
            if !line.iter().all(u8::is_ascii_graphic) {
                return Err(format!("line {number} is no token"));
            }
            tokens.push(line.into());
        }
        if tokens.is_empty() { Err("it holds no token".to_owned()) } else { Ok(Self(tokens)) }
    }

    /// Whether the value of an `Authorization` header has one of them. How long that takes tells nothing about any but its
    /// length.
    pub(super) fn admit(&self, authorization: &[u8]) -> bool {
        const SCHEME: &[u8] = b"bearer ";
        let Some((scheme, token)) = authorization.split_at_checked(SCHEME.len()) else {
            return false;
        };
        let token = token.trim_ascii();
        let known = self.0.iter().fold(Choice::from(0), |known, one| known | one.ct_eq(token));
        scheme.eq_ignore_ascii_case(SCHEME) && bool::from(known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_on_each_line() {
        let tokens = Tokens::parse(b"first\r\n\n  second-2._~+/=\t\n").unwrap();
        for good in ["Bearer first", "bearer second-2._~+/=", "BEARER   first "] {
            assert!(tokens.admit(good.as_bytes()), "{good}");
        }
        for bad in [
            "",
            "Bearer",
            "Bearer ",
            "Bearer firs",
            "Bearer first2",
            "Basic first",
            "first",
            "Bearer First",
            "Bearer first second-2._~+/=",
            "Bearerfirst",
        ] {
            assert!(!tokens.admit(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn a_file_without_a_token_lets_nobody_in() {
        for (text, reason) in [
            (&b""[..], "no token"),
            (b" \n\r\n", "no token"),
            (b"first\na token\n", "line 2 is no token"),
            (b"\xff\n", "line 1 is no token"),
        ] {
            let error = Tokens::parse(text).err().unwrap_or_default();
            assert!(error.contains(reason), "{error:?}");
        }
    }
}
