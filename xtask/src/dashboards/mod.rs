//! `cargo xtask dashboards`: what is made for those who look and watch, and committed.

mod operator;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use self::operator::RULES;
use crate::cmd;

/// Writes everything.
///
/// # Errors
/// If a file cannot be read or written.
pub(crate) fn run() -> Result<()> {
    for (path, text) in made()? {
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

/// All files, and what is to stand in them.
fn made() -> Result<Vec<(PathBuf, String)>> {
    let components = cmd::workspace().join("deploy/components");
    let mut files = Vec::new();
    for rules in RULES {
        let plain = components.join("prometheus").join(rules.file);
        let plain =
            fs::read_to_string(&plain).with_context(|| format!("reading {}", plain.display()))?;
        files.push((components.join("prometheus-operator").join(rules.file), rules.object(&plain)));
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_committed_is_what_is_made() {
        for (path, text) in made().unwrap() {
            let committed = fs::read_to_string(&path).unwrap_or_default();
            assert!(
                committed == text,
                "{}: `cargo xtask dashboards` writes it anew",
                path.display()
            );
        }
    }
}
