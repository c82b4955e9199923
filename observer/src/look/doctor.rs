//! `observer doctor`: whether the observer that runs here can be trusted, and what it has noticed.

use std::{fmt::Display, path::Path};

use observer_common::{abi::ABI, label::Role, protocol::Protocol};

use super::{ps, tail::path};
use crate::{
    cli::DoctorArgs,
    exit::Code,
    format::plain,
    output, preflight,
    view::{Filter, Finding, Mark, Sort, Table},
};

/// Prints the findings; [`Code::Success`] if there is an observer, and its figures can be trusted.
///
/// # Errors
/// If the lines cannot be written.
pub fn doctor(args: &DoctorArgs) -> anyhow::Result<Code> {
    let path = path(args.socket.as_deref());
    let findings: Vec<Finding> = match super::table(&path) {
        Ok(table) => with_version(table).into_iter().chain(oldest(&path)).collect(),
        Err(error) => {
            let none = Finding::new(Mark::Fail, error.to_string()).see("observer-down");
            [none].into_iter().chain(machine()).collect()
        }
    };
    // Strings cannot fail.
    let as_json = |finding: &Finding| serde_json::to_string(finding).unwrap_or_default();
    let shown: fn(&Finding) -> String = if args.json { as_json } else { line };
    findings.iter().map(shown).try_for_each(output::line)?;
    let failed = findings.iter().any(|finding| finding.mark == Mark::Fail);
    Ok(if failed { Code::Failure } else { Code::Success })
}

/// A finding as a line.
pub(super) fn line(Finding { mark, text, runbook }: &Finding) -> String {
    let word = match mark {
        Mark::Ok => "ok  ",
        Mark::Miss => "miss",
        Mark::Look => "look",
        Mark::Fail => "FAIL",
    };
    let see = runbook.as_ref().map_or_else(String::new, |page| format!(" (runbook {page})"));
    format!("{word}  {}", plain(&format!("{text}{see}")))
}

/// The daemon's findings, and whether it is of another version than this program.
fn with_version(table: Table) -> Vec<Finding> {
    let (version, abi) = (env!("CARGO_PKG_VERSION"), format!("{ABI:016x}"));
    let mut findings = table.findings;
    if (table.version.as_str(), &table.abi) != (version, &abi) {
        let text = format!(
            "this program is {version} (ABI {abi}), the daemon is {} (ABI {})",
            table.version, table.abi
        );
        findings.insert(0, Finding::new(Mark::Miss, text));
    }
    findings
}

/// The users' connection that has been open for longest: it is told before it closes. None where nothing is listed.
fn oldest(path: &Path) -> Option<Finding> {
    let protocol = [Protocol::WebSocket, Protocol::Grpc].map(|of| of.label().to_owned()).to_vec();
    let role = vec![Role::Server.label().to_owned()];
    let filter = Filter { role, protocol, ..Filter::default() };
    let listed = ps::list(path, filter, Sort::Age, 1).ok()?;
    let (open, connections) = (listed.open.first()?, listed.connections);
    let which = if listed.unlisted.is_empty() { "" } else { " that can be listed" };
    let text = format!(
        "the oldest of {connections} WebSocket and gRPC connections{which}: {}",
        open.age()
    );
    Some(Finding::new(Mark::Ok, text))
}

/// What can be said without an observer.
fn machine() -> Vec<Finding> {
    fn finding<E: Display>(what: &str, found: Result<String, E>) -> Finding {
        let (mark, text) = match found {
            Ok(text) => (Mark::Ok, format!("{what}: {text}")),
            Err(error) => (Mark::Fail, format!("{what}: {error}")),
        };
        Finding::new(mark, text)
    }
    let root = preflight::cgroup_root(None);
    let hint = "`observer check` tells whether an observer could run here".to_owned();
    vec![
        Finding::new(Mark::Ok, format!("kernel: {}", preflight::kernel_release())),
        finding("type information", preflight::btf().map(|()| preflight::BTF.to_owned())),
        finding("cgroup v2", root.map(|(root, layout)| format!("{} ({layout})", root.display()))),
        Finding::new(Mark::Ok, hint),
    ]
}
