//! The pages themselves: their size, and their links.

use std::{collections::BTreeSet, path::Path};

use crate::documents::{all, blocks, checkout, prose, read};

#[test]
fn the_readme_is_short() {
    let lines = read("README.md").lines().count();
    assert!(lines <= 150, "README.md has {lines} lines, and 150 are what a reader takes");
}

/// The anchors that a page has, as GitHub makes them of headings.
fn anchors(page: &str) -> BTreeSet<String> {
    let headings = prose(page).filter(|line| line.starts_with('#'));
    headings
        .map(|heading| {
            let kept = heading.trim_start_matches('#').trim().chars();
            let kept = kept.filter(|c| c.is_alphanumeric() || "-_ ".contains(*c));
            kept.collect::<String>().to_lowercase().replace(' ', "-")
        })
        .collect()
}

/// What the links of a page lead to.
fn links(page: &str) -> Vec<String> {
    let text: Vec<&str> = prose(page).collect();
    let text = text.join("\n");
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    targets.map(str::to_owned).collect()
}

#[test]
fn every_link_leads_to_a_page_and_a_heading_of_it() {
    let mut checked = 0;
    for path in all() {
        let page = read(&path.display().to_string());
        for link in links(&page).iter().filter(|link| !link.contains("://")) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let of = if file.is_empty() {
                checkout().join(&path)
            } else {
                checkout().join(&path).parent().expect("it is in a directory").join(file)
            };
            assert!(of.exists(), "{}: {link} leads nowhere", path.display());
            if !anchor.is_empty() {
                let target = std::fs::read_to_string(&of).expect("anchors are in pages");
                let known = anchors(&target);
                assert!(known.contains(anchor), "{}: {link} has no heading", path.display());
            }
            checked += 1;
        }
    }
    assert!(checked > 30, "the links are not found any more");
}

/// A page that nothing leads to is not found.
#[test]
fn every_page_is_linked_from_another() {
    let pages = all();
    let linked: BTreeSet<_> = pages
        .iter()
        .flat_map(|path| {
            let directory = path.parent().unwrap_or(Path::new("")).to_owned();
            let page = read(&path.display().to_string());
            links(&page).into_iter().map(move |link| {
                let file = link.split('#').next().unwrap_or_default().to_owned();
                checkout().join(&directory).join(file)
            })
        })
        .filter_map(|file| file.canonicalize().ok())
        .collect();
    for path in pages.iter().filter(|path| **path != Path::new("README.md")) {
        let file = checkout().join(path).canonicalize().expect("it is there");
        assert!(linked.contains(&file), "nothing links to {}", path.display());
    }
}

#[test]
fn every_block_of_yaml_is_yaml() {
    let mut checked = 0;
    for path in all() {
        let page = read(&path.display().to_string());
        for block in blocks(&page, "yaml") {
            let document = serde_saphyr::from_str::<serde_json::Value>(block);
            assert!(document.is_ok_and(|d| d.is_object()), "{}:\n{block}", path.display());
            checked += 1;
        }
    }
    assert!(checked > 2, "the blocks are not found any more");
}
