//! BPF objects that a test left in the kernel.
//!
//! Only ids are asked for, which touches nothing. Listing with bpftool opens every map of every program, and closing the
//! last descriptor of a program array twice in a row makes the kernel lose count of it (`prog_array_map_clear` takes a
//! reference for work that is queued already): the check itself would leak the map.

use std::{collections::BTreeSet, fmt, io, process::Command, time::Duration};

use super::{lock::require_root, poll::poll};

/// Programs are freed after a grace period, one behind the other.
const PATIENCE: Duration = Duration::from_mins(1);

/// Kinds of objects with the command that tells the id after a given one (enum `bpf_cmd` in linux/bpf.h).
const KINDS: [(&str, libc::c_long); 3] = [("prog", 11), ("map", 12), ("link", 31)];

/// The programs, maps and links that the kernel holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct BpfSnapshot(BTreeSet<(&'static str, u32)>);

impl BpfSnapshot {
    /// Asks the kernel.
    pub(crate) fn take() -> Self {
        require_root();
        Self(
            KINDS
                .into_iter()
                .flat_map(|(kind, command)| ids(command).into_iter().map(move |id| (kind, id)))
                .collect(),
        )
    }

    /// The ids of all of a kind: `prog`, `map` or `link`.
    pub(crate) fn ids(&self, kind: &str) -> BTreeSet<u32> {
        self.0.iter().filter(|(of, _)| *of == kind).map(|(_, id)| *id).collect()
    }

    /// How many links there are.
    pub(crate) fn links(&self) -> usize {
        self.0.iter().filter(|(kind, _)| *kind == "link").count()
    }

    /// Waits until all that is new since this snapshot has gone; panics with what stays.
    ///
    /// What has gone since is no leak: an earlier test's objects may have taken their time.
    pub(crate) fn assert_same(&self) {
        let mut staying = Self::default();
        poll(PATIENCE, || {
            staying = Self(&Self::take().0 - &self.0);
            staying.0.is_empty().then_some(())
        })
        .unwrap_or_else(|| panic!("BPF objects stayed behind:\n{staying}"));
    }
}

/// Each object as bpftool describes it.
impl fmt::Display for BpfSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(kind, id)| {
            let shown =
                Command::new("bpftool").args([kind, "show", "id", &id.to_string()]).output();
            let shown = shown
                .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
                .unwrap_or_default();
            writeln!(f, "  {kind} {id}: {}", shown.trim())
        })
    }
}

/// All ids of a kind.
fn ids(command: libc::c_long) -> Vec<u32> {
    let mut ids = Vec::new();
    loop {
        // The third form of `union bpf_attr`: start_id, next_id, open_flags.
        let mut attr = [ids.last().copied().unwrap_or(0), 0, 0];
        // SAFETY: bpf(2) reads and writes the attribute of the size given with it, and keeps no reference to it.
        let result =
            unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_mut_ptr(), size_of_val(&attr)) };
        if result != 0 {
            let error = io::Error::last_os_error();
            assert_eq!(
                error.raw_os_error(),
                Some(libc::ENOENT),
                "cannot list BPF objects: {error}"
            );
            return ids;
        }
        ids.push(attr[1]);
    }
}
