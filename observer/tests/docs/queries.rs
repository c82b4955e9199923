//! Queries in the documents are what promtool accepts.

use std::{fs, process::Command};

use serde_json::json;

use crate::documents::{all, blocks, read};

/// Words and signs that go on with the query of the line before.
const GO_ON: [&str; 13] =
    [" ", ")", "/", "*", "+", "-", ">", "<", "==", "and ", "or ", "unless ", "%"];

/// The queries of a block: each begins where a line can only begin one.
fn queries(block: &str) -> Vec<String> {
    let mut queries: Vec<String> = Vec::new();
    // Brackets that are open, and whether the line before wants another.
    let (mut depth, mut wants_more) = (0, false);
    let mut is_open = false;
    for line in block.lines().filter(|line| !line.starts_with('#')) {
        if line.trim().is_empty() {
            is_open = false;
            continue;
        }
        let goes_on = is_open
            && (depth > 0 || wants_more || GO_ON.iter().any(|start| line.starts_with(start)));
        match queries.last_mut() {
            Some(query) if goes_on => query.extend(["\n", line]),
            _ => {
                depth = 0;
                queries.push(line.to_owned());
            }
        }
        depth += line.matches('(').count();
        depth = depth.saturating_sub(line.matches(')').count());
        (is_open, wants_more) = (true, ["/", "*", "-", "+"].contains(&line.trim()));
    }
    queries
}

#[test]
fn a_query_ends_where_another_begins() {
    let block = "# Two.\nup\nup == 0\n\nsum(\n  a)\n/\n(b > 0)\nunless on () c\n  + 1\nd\n";
    let expected = ["up", "up == 0", "sum(\n  a)\n/\n(b > 0)\nunless on () c\n  + 1", "d"];
    assert_eq!(queries(block), expected);
}

#[test]
fn every_query_is_promql() {
    let mut rules = Vec::new();
    for path in all() {
        let page = read(&path.display().to_string());
        for query in blocks(&page, "promql").flat_map(queries) {
            rules.push(json!({"record": format!("query:{}", rules.len()), "expr": query}));
        }
    }
    assert!(rules.len() > 60, "the queries are not found any more: {}", rules.len());
    let file = tempfile::NamedTempFile::with_suffix(".yaml").expect("it can be written");
    let groups = json!({"groups": [{"name": "documents", "rules": rules}]});
    fs::write(file.path(), groups.to_string()).expect("it is ours");
    let output = Command::new("promtool").args(["check", "rules"]).arg(file.path()).output();
    let output = output.expect("`cargo xtask setup --tests` installs promtool");
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
}
