//! What is measured, put into the documents: each table stands between two marks, and all around them is written by hand.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

/// Puts `text` between the marks `<!-- name:begin -->` and `<!-- name:end -->` of a document.
pub(crate) fn write(document: &Path, name: &str, text: &str) -> Result<()> {
    let (begin, end) = (format!("<!-- {name}:begin -->\n"), format!("<!-- {name}:end -->"));
    let page =
        fs::read_to_string(document).with_context(|| format!("reading {}", document.display()))?;
    let marked = page
        .split_once(&begin)
        .and_then(|(before, rest)| rest.split_once(&end).map(|(_, after)| (before, after)));
    let (before, after) =
        marked.with_context(|| format!("{} has no marks for {name}", document.display()))?;
    let page = format!("{before}{begin}\n{}\n\n{end}{after}", text.trim());
    fs::write(document, page).with_context(|| format!("writing {}", document.display()))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn all_but_what_is_between_the_marks_stays() {
        let directory = tempfile::tempdir().unwrap();
        let document = directory.path().join("page.md");
        let marked = "above\n<!-- lab:begin -->\na former table\n<!-- lab:end -->\nbelow\n";
        fs::write(&document, marked).unwrap();
        write(&document, "lab", "| a |\n").unwrap();
        let text = fs::read_to_string(&document).unwrap();
        let expected = "above\n<!-- lab:begin -->\n\n| a |\n\n<!-- lab:end -->\nbelow\n";
        assert_eq!(text, expected);
        assert!(write(&document, "bench", "b").is_err());
    }

    #[test]
    fn the_documents_have_the_marks() {
        let pages = [
            ("compatibility", "lab"),
            ("cost", "kernel"),
            ("cost", "daemon"),
            ("cardinality", "series"),
            ("exactness", "soak"),
        ];
        for (page, name) in pages {
            let path = crate::cmd::workspace().join(format!("docs/{page}.md"));
            let text = fs::read_to_string(&path).unwrap();
            let (begin, end) = (format!("<!-- {name}:begin -->\n"), format!("<!-- {name}:end -->"));
            assert!(text.contains(&begin) && text.contains(&end), "{page}");
        }
    }

    #[test]
    fn every_command_that_the_documents_name_exists() {
        let command = crate::Cli::command();
        let mut named = 0;
        let pages = ["", "docs", "docs/protocols", "docs/runbooks", "deploy"].iter().flat_map(
            |directory| {
                let entries = fs::read_dir(crate::cmd::workspace().join(directory)).unwrap();
                entries.map(|entry| entry.unwrap().path())
            },
        );
        for page in pages.filter(|path| path.extension().is_some_and(|of| of == "md")) {
            let text = fs::read_to_string(&page).unwrap();
            for rest in text.split("cargo xtask ").skip(1) {
                let word: String = rest.chars().take_while(char::is_ascii_lowercase).collect();
                let known = word.is_empty() || command.find_subcommand(&word).is_some();
                assert!(known, "{}: cargo xtask {word}", page.display());
                named += usize::from(!word.is_empty());
            }
        }
        assert!(named > 10, "they are not found any more");
    }
}
