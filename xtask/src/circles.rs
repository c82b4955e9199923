//! Imports go one way: no module needs, by whatever detour, one that needs it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::cmd;

/// Modules at the top of a crate, and which of them each names.
type Imports = BTreeMap<String, BTreeSet<String>>;

/// Reads the sources of a crate.
fn imports(sources: &Path) -> Result<Imports> {
    let mut modules = BTreeMap::new();
    for entry in fs::read_dir(sources)? {
        let path = entry?.path();
        let name = path.file_stem().context("a file has a name")?.to_string_lossy().into_owned();
        if !["main", "lib"].contains(&name.as_str()) {
            // A module may have both a file and a directory.
            modules.entry(name).or_insert_with(String::new).push_str(&text_below(&path)?);
        }
    }
    let named = |text: &String| -> BTreeSet<String> {
        paths(text).filter(|name| modules.contains_key(*name)).map(str::to_owned).collect()
    };
    let mut imports: Imports =
        modules.iter().map(|(name, text)| (name.clone(), named(text))).collect();
    for (name, named) in &mut imports {
        named.remove(name);
    }
    Ok(imports)
}

/// All code of a file, or of the files of a directory, without comments.
fn text_below(path: &Path) -> Result<String> {
    if path.is_file() {
        let text = fs::read_to_string(path)?;
        let code = text.lines().map(|line| line.split("//").next().unwrap_or_default());
        return Ok(code.collect::<Vec<_>>().join("\n"));
    }
    let mut entries: Vec<PathBuf> =
        path.read_dir()?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    entries.sort();
    entries.iter().map(|entry| text_below(entry)).collect()
}

/// The first names behind each `crate::`, those in braces included.
fn paths(code: &str) -> impl Iterator<Item = &str> {
    code.split("crate::").skip(1).flat_map(|rest| {
        let Some(group) = rest.strip_prefix('{') else { return vec![first_name(rest)] };
        let mut depth = 0;
        let mut names = vec![first_name(group)];
        for (at, letter) in group.char_indices() {
            match letter {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => names.push(first_name(&group[at + 1..])),
                _ => {}
            }
        }
        names
    })
}

fn first_name(code: &str) -> &str {
    let code = code.trim_start();
    code.split(|letter: char| !letter.is_alphanumeric() && letter != '_').next().unwrap_or_default()
}

/// A chain of modules that comes back to where it began.
fn circle(imports: &Imports) -> Option<Vec<&str>> {
    fn follow<'a>(
        imports: &'a Imports,
        chain: &mut Vec<&'a str>,
        done: &mut BTreeSet<&'a str>,
    ) -> bool {
        let last = chain[chain.len() - 1];
        for next in &imports[last] {
            if let Some(start) = chain.iter().position(|name| name == next) {
                chain.drain(..start);
                chain.push(next);
                return true;
            }
            if !done.contains(next.as_str()) {
                chain.push(next);
                if follow(imports, chain, done) {
                    return true;
                }
                chain.pop();
            }
        }
        done.insert(last);
        false
    }
    let mut done = BTreeSet::new();
    imports.keys().find_map(|name| {
        let mut chain = vec![name.as_str()];
        follow(imports, &mut chain, &mut done).then_some(chain)
    })
}

/// The imports of a crate, which has no circle. That `above` imports `below`, as it does, shows that imports are found.
fn built_up_one_way(sources: &str, above: &str, below: &str) -> Imports {
    let imports = imports(&cmd::workspace().join(sources)).unwrap();
    assert!(imports[above].contains(below), "imports are found: {imports:?}");
    assert_eq!(circle(&imports), None);
    imports
}

#[test]
fn no_command_imports_in_a_circle() {
    built_up_one_way("xtask/src", "lab", "setup");
}

#[test]
fn what_kernel_and_daemon_share_is_built_up_one_way() {
    built_up_one_way("observer-common/src", "protocol", "stream");
}

#[test]
fn the_kernel_programs_are_built_up_one_way() {
    let imports = built_up_one_way("observer-ebpf/src", "hooks", "stream");
    let layers = ["memory", "accounting", "socket", "stream", "hooks"];
    for (at, layer) in layers.iter().enumerate() {
        let above = layers[at + 1..].iter().find(|above| imports[*layer].contains(**above));
        assert_eq!(above, None, "{layer} imports what is built on it");
    }
}

#[test]
fn the_daemon_is_built_up_one_way() {
    built_up_one_way("observer/src", "collect", "bpf");
}

#[test]
fn names_are_found_and_circles_too() {
    let code = "use crate::a::B;\nuse crate::{b, c::{D, e}, f};\nlet x = crate::g::h();";
    assert_eq!(paths(code).collect::<Vec<_>>(), ["a", "b", "c", "f", "g"]);
    let of = |list: &[(&str, &[&str])]| -> Imports {
        let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        list.iter().map(|(name, names)| ((*name).to_owned(), own(names))).collect()
    };
    assert_eq!(circle(&of(&[("a", &["b", "c"]), ("b", &["c"]), ("c", &[])])), None);
    let round = of(&[("a", &["b"]), ("b", &["c"]), ("c", &["b"])]);
    assert_eq!(circle(&round), Some(vec!["b", "c", "b"]));
}
