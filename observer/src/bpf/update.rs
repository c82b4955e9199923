//! One build's programs in the place of another's, under the traffic.
//!
//! Both share what they count in and what a socket's state is, in layout and meaning. So whatever program sees an event, it
//! is counted once if one program sees it: what the one has begun (a claim on a stream, a kept segment, the note of a first
//! payload) the other goes on with, as two processors with the same program do. What has to be atomic is the exchange at each
//! hook by itself: a link to a cgroup takes another program (`BPF_LINK_UPDATE`), and the dispatcher at a tracepoint calls what
//! is in its array. At no hook are there two programs, and never none; and the order of the hooks does not matter.
//!
//! 1. The new programs are loaded with the maps that are shared, and with their own tables of parsers, and pinned.
//! 2. Hook by hook they take the place of the old ones.
//! 3. When all old ones have ended that were under way, their parsers go, and their pins.
//!
//! Whatever of it a daemon does not live to do, the next one does for its own build: it takes over as they stand only the
//! programs of the one build that is pinned.

use std::{error::Error, os::fd::AsFd as _, path::Path};

use aya::maps::{MapData, ProgramArray};
use nix::sys::signal::{Signal, raise};

use super::{
    LoadError,
    attach::{Build, Shared, open_root},
    causes,
    load::Loaded,
    map_error,
    pin::failed,
    programs::{DISPATCHERS, Hook},
    side::Side,
    sys,
};

/// The steps of an update, of which one may be the daemon's last (in tests).
#[derive(Default)]
pub(super) struct Steps {
    done: u32,
    last: Option<u32>,
}

impl Steps {
    pub(super) const fn until(last: Option<u32>) -> Self {
        Self { done: 0, last }
    }

    /// One more step is done.
    pub(super) fn done(&mut self) {
        self.done += 1;
        if Some(self.done) == self.last {
            let _ = raise(Signal::SIGKILL);
        }
    }
}

/// Puts the programs of a build, to be pinned under `name`, in the place of those that run.
pub(super) fn update(
    side: &Side,
    mut shared: Shared,
    loaded: Loaded,
    name: &str,
    cgroup_root: &Path,
    steps: &mut Steps,
) -> anyhow::Result<(Shared, Build)> {
    let root = open_root(cgroup_root)?;
    for dispatcher in loaded.dispatchers()? {
        if !shared.dispatchers.iter().any(|(of, _)| *of == dispatcher.0) {
            shared.dispatchers.push(dispatcher);
        }
    }
    let (build, _ebpf) = loaded.into_build()?;
    let pinning = |error: Box<dyn Error>| failed("pin into", side.directory(), &*error);
    side.pin_build(&build, name, steps).map_err(pinning)?;
    for (probe, program) in &build.programs {
        shared.attach(probe.hook, program.as_fd(), &root).map_err(|error| LoadError::Attach {
            program: probe.program,
            reason: causes(&error),
        })?;
        side.pin_links(&shared).map_err(pinning)?;
        if probe.hook.link().is_some() {
            steps.done();
        }
    }
    leave_unused(&mut shared, &build)?;
    sys::wait_for_programs()
        .map_err(|error| LoadError::Map { map: "PARSERS", reason: causes(&error) })?;
    side.remove_other_builds(name, steps)
        .map_err(|error| failed("remove from", side.directory(), &error))?;
    Ok((shared, build))
}

/// Takes away what runs at tracepoints for which this build has no program.
fn leave_unused(shared: &mut Shared, build: &Build) -> Result<(), LoadError> {
    for dispatcher in &DISPATCHERS {
        let hook = Hook::Tracepoint(dispatcher.tracepoint);
        if build.programs.iter().any(|(probe, _)| probe.hook == hook) {
            continue;
        }
        for (_, map) in shared.maps.iter_mut().filter(|(name, _)| *name == dispatcher.array) {
            let error = |error| map_error(dispatcher.array, &error);
            let mut array = ProgramArray::<&mut MapData>::try_from(map).map_err(error)?;
            // Mostly there is none.
            let _ = array.clear_index(&0);
        }
    }
    Ok(())
}
