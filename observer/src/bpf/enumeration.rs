//! Reads an enumeration out of the kernel's type information (Documentation/bpf/btf.rst), for numbers that differ between
//! kernels. aya keeps its own reader of BTF to itself.

use std::{fs, path::Path};

use memchr::memmem;

const HEADER: usize = 24;
const KIND_ENUM: u32 = 6;

/// The names and values of `enum name` in the BTF file at `path`; `None` if there is none or the file is not readable as
/// BTF of this machine's byte order.
pub(super) fn read(path: &Path, name: &str) -> Option<Vec<(String, u32)>> {
    find(&fs::read(path).ok()?, name)
}

/// Whether the BTF file at `path` has that name, of a function for example.
pub(super) fn names(path: &Path, name: &str) -> bool {
    let wanted = [b"\0", name.as_bytes(), b"\0"].concat();
    fs::read(path).is_ok_and(|btf| memmem::find(&btf, &wanted).is_some())
}

fn find(btf: &[u8], wanted: &str) -> Option<Vec<(String, u32)>> {
    let word =
        |at: usize| Some(u32::from_ne_bytes(btf.get(at..at.checked_add(4)?)?.try_into().ok()?));
    if word(0)? & 0xffff != 0xeb9f {
        return None;
    }
    // hdr_len, type_off, type_len, str_off, str_len follow magic, version and flags.
    let header = word(4)? as usize;
    let (types, types_len, strings) =
        (header + word(8)? as usize, word(12)? as usize, header + word(16)? as usize);
    let string = |offset: u32| {
        let rest = btf.get(strings.checked_add(offset as usize)?..)?;
        std::str::from_utf8(rest.split(|&b| b == 0).next()?).ok()
    };
    debug_assert!(header >= HEADER);
    let mut at = types;
    while at < types + types_len {
        let (name, info) = (word(at)?, word(at + 4)?);
        let (kind, members) = (info >> 24 & 0x1f, (info & 0xffff) as usize);
        at += 12;
        if kind == KIND_ENUM && string(name)? == wanted {
            return (0..members)
                .map(|i| Some((string(word(at + 8 * i)?)?.to_owned(), word(at + 8 * i + 4)?)))
                .collect();
        }
        at += match kind {
            // INT, VAR, DECL_TAG: one word
            1 | 14 | 17 => 4,
            // ARRAY
            3 => 12,
            // STRUCT, UNION, DATASEC, ENUM64: three words a member
            4 | 5 | 15 | 19 => 12 * members,
            // ENUM, FUNC_PROTO: two words a member
            6 | 13 => 8 * members,
            // the others have no more than their head
            _ => 0,
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn btf(types: &[u32], strings: &[u8]) -> Vec<u8> {
        let types: Vec<u8> = types.iter().flat_map(|w| w.to_ne_bytes()).collect();
        let header =
            [0x0001_eb9f, 24, 0, types.len() as u32, types.len() as u32, strings.len() as u32];
        [header.iter().flat_map(|w| w.to_ne_bytes()).collect(), types, strings.to_vec()].concat()
    }

    #[test]
    fn an_enumeration_is_found_behind_other_types() {
        // int; struct with one member; enum e { A = 3, B = 7 }
        let types = [1, 1 << 24, 4, 32, 1, 4 << 24 | 1, 4, 1, 1, 0, 5, 6 << 24 | 2, 4, 7, 3, 9, 7];
        let file = btf(&types, b"\0int\0e\0A\0B\0");
        assert_eq!(find(&file, "e"), Some(vec![("A".to_owned(), 3), ("B".to_owned(), 7)]));
        assert_eq!(find(&file, "f"), None);
        assert_eq!(find(&file[..file.len() / 2], "e"), None);
    }

    proptest! {
        #[test]
        fn hostile_bytes_are_no_enumeration(mut bytes in prop::collection::vec(any::<u8>(), 24..200)) {
            bytes[..4].copy_from_slice(&0x0001_eb9f_u32.to_ne_bytes());
            bytes[4..8].copy_from_slice(&24_u32.to_ne_bytes());
            let _ = find(&bytes, "e");
        }
    }
}
