//! Debian's and Ubuntu's packages.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use crate::cmd;

/// apt on this machine, with its lists brought up to date at most once.
#[derive(Default)]
pub(super) struct Apt {
    updated: bool,
}

impl Apt {
    /// Installs the first of `names` that there is.
    pub(super) fn install_any(&mut self, names: &[&'static str]) -> Result<()> {
        let first = self.first_of(names)?;
        ensure!(!first.is_empty(), "apt has no package {}: install it by hand", names.join(" or "));
        self.install(&first)
    }

    /// The first of `names` that there is, if any.
    pub(super) fn first_of(&mut self, names: &[&'static str]) -> Result<Vec<&'static str>> {
        for name in names {
            if self.version(name)?.is_some() {
                return Ok(vec![name]);
            }
        }
        Ok(Vec::new())
    }

    /// The version of a package that apt would install, `None` without such a package or apt.
    pub(super) fn version(&mut self, package: &str) -> Result<Option<String>> {
        if cmd::which("apt-get").is_none() {
            return Ok(None);
        }
        self.update()?;
        Ok(candidate(&cmd::output(cmd::command("apt-cache").args(["policy", package]))?))
    }

    /// Installs packages; removes none for their sake.
    pub(super) fn install(&mut self, packages: &[&str]) -> Result<()> {
        self.update()?;
        let mut install = cmd::as_root("env")?;
        install.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "--yes"]);
        install.args(["--quiet", "--no-install-recommends", "--no-remove"]).args(packages);
        cmd::run(&mut install)
    }

    /// A fresh machine has no package lists, an old one has lists of versions that are gone.
    fn update(&mut self) -> Result<()> {
        if !self.updated {
            self.updated = true;
            let mut update = cmd::as_root("apt-get").context("apt installs packages as root")?;
            // A broken third-party source need not stop us: what counts is what the lists have.
            if let Err(error) = cmd::run(update.args(["update", "--quiet"])) {
                cmd::say("!", &format!("{error:#}; going on with the package lists there are"));
            }
        }
        Ok(())
    }
}

/// What `apt-cache policy` would install.
fn candidate(policy: &str) -> Option<String> {
    let version = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: "))?;
    (version != "(none)").then(|| version.to_owned())
}

/// Stops a service that a package just brought, now and at the next start of the machine: we came
/// for the program. Without systemd nothing was started.
pub(super) fn stop_service(service: &str) -> Result<()> {
    if !Path::new("/run/systemd/system").exists() {
        return Ok(());
    }
    cmd::run(cmd::as_root("systemctl")?.args(["disable", "--now", service]))
}

#[cfg(test)]
mod tests {
    use super::candidate;

    #[test]
    fn the_candidate_is_what_apt_would_install() {
        let policy = "wrk:\n  Installed: (none)\n  Candidate: 4.1.0-3+b2\n  Version table:\n";
        assert_eq!(candidate(policy).as_deref(), Some("4.1.0-3+b2"));
    }

    #[test]
    fn a_package_without_candidate_or_an_unknown_one_is_none() {
        assert_eq!(candidate("wrk:\n  Installed: (none)\n  Candidate: (none)\n"), None);
        assert_eq!(candidate(""), None);
    }
}
