//! The documents of the checkout.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Where the documents are.
pub(crate) fn checkout() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// One of them, by its path in the checkout.
pub(crate) fn read(path: &str) -> String {
    let file = checkout().join(path);
    fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// The paths of all that are Markdown, in the checkout.
pub(crate) fn all() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for directory in ["", "docs", "docs/protocols", "docs/runbooks", "deploy", "deploy/chart"] {
        let entries = fs::read_dir(checkout().join(directory)).expect("the directory is there");
        let names = entries.map(|entry| entry.expect("it can be read").file_name());
        let pages = names.filter(|name| Path::new(name).extension().is_some_and(|of| of == "md"));
        found.extend(pages.map(|name| Path::new(directory).join(name)));
    }
    found.sort();
    assert!(found.len() > 20, "the documents are not found any more: {found:?}");
    found
}

/// The lines of a document that are in no block of code.
pub(crate) fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut code = false;
    text.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        code ^= fence;
        !fence && !code
    })
}

/// The blocks of code in a language.
pub(crate) fn blocks<'a>(text: &'a str, language: &str) -> impl Iterator<Item = &'a str> {
    let fence = format!("```{language}\n");
    let parts: Vec<&str> = text.split(&fence).skip(1).collect();
    parts.into_iter().filter_map(|part| part.split("```").next())
}
