//! One kernel side as it is pinned.
//!
//! ```text
//! maps/NAME  links/HOOK  dispatchers/TRACEPOINT     what all builds of an ABI share
//! builds/BUILD/               whole or not there: it is pinned as `new-BUILD` and renamed
//!   maps/NAME  programs/NAME
//!   missing/NAME -> text      why an optional program is not there, as the target of a symbolic link
//! ```
//!
//! There is one build, but while one replaces another ([`super::update`]), and after an update that was interrupted.

use std::{
    error::Error,
    fs, io,
    os::{fd::AsFd as _, unix::fs::symlink},
    path::{Path, PathBuf},
    time::SystemTime,
};

use aya::maps::{Map, MapData, ProgramArray};

use super::{
    ProbeState,
    attach::{Build, OWN, Shared},
    load::SHARED,
    programs::{DISPATCHERS, PROBES},
    sys,
    update::Steps,
};

/// Put before a name while what bears it is being pinned.
pub(super) const NEW: &str = "new-";

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The directory of a kernel side.
pub(super) struct Side(PathBuf);

impl Side {
    pub(super) const fn at(directory: PathBuf) -> Self {
        Self(directory)
    }

    pub(super) fn directory(&self) -> &Path {
        &self.0
    }

    pub(super) fn exists(&self) -> bool {
        self.0.exists()
    }

    /// Where the shared maps are.
    pub(super) fn maps(&self) -> PathBuf {
        self.0.join("maps")
    }

    /// When it was pinned, right after it was attached.
    pub(super) fn since(&self) -> SystemTime {
        let since = fs::metadata(self.maps()).and_then(|metadata| metadata.modified());
        since.unwrap_or_else(|_| SystemTime::now())
    }

    /// Pins all of it.
    pub(super) fn pin(&self, shared: &Shared, build: &Build, name: &str) -> Result<()> {
        for part in ["maps", "links", "dispatchers", "builds"] {
            fs::create_dir_all(self.0.join(part))?;
        }
        for (name, map) in &shared.maps {
            map.pin(self.maps().join(name))?;
        }
        self.pin_links(shared)?;
        self.pin_build(build, name, &mut Steps::default())
    }

    /// Pins the links, and what is attached to tracepoints, as far as they are not pinned yet.
    pub(super) fn pin_links(&self, shared: &Shared) -> Result<()> {
        let links = shared.links.iter().map(|(hook, link)| ("links", hook, link));
        let dispatchers = shared.dispatchers.iter();
        let dispatchers = dispatchers.map(|(of, program)| ("dispatchers", &of.tracepoint, program));
        for (part, name, object) in links.chain(dispatchers) {
            let path = self.0.join(part).join(name);
            if !path.exists() {
                sys::pin(object.as_fd(), &path)?;
            }
        }
        Ok(())
    }

    /// Pins a build.
    pub(super) fn pin_build(&self, build: &Build, name: &str, steps: &mut Steps) -> Result<()> {
        let builds = self.0.join("builds");
        let new = builds.join(format!("{NEW}{name}"));
        for part in ["maps", "programs", "missing"] {
            fs::create_dir_all(new.join(part))?;
        }
        for (name, map) in &build.maps {
            map.pin(new.join("maps").join(name))?;
        }
        steps.done();
        for (probe, program) in &build.programs {
            sys::pin(program.as_fd(), &new.join("programs").join(probe.program))?;
        }
        for (probe, state) in &build.states {
            if let ProbeState::Unavailable(reason) = state {
                symlink(reason, new.join("missing").join(probe.program))?;
            }
        }
        fs::rename(&new, builds.join(name))?;
        steps.done();
        Ok(())
    }

    /// Opens what all builds share; an error if any of the maps is not there.
    pub(super) fn open(&self) -> Result<Shared> {
        let (mut links, mut dispatchers) = (Vec::new(), Vec::new());
        for hook in PROBES.iter().filter_map(|probe| probe.hook.link()) {
            let path = self.0.join("links").join(hook);
            // Of two programs for one hook only one is there.
            if path.exists() && !links.iter().any(|(of, _)| *of == hook) {
                links.push((hook, sys::open(&path)?));
            }
        }
        for dispatcher in &DISPATCHERS {
            let path = self.0.join("dispatchers").join(dispatcher.tracepoint);
            if path.exists() {
                dispatchers.push((dispatcher, sys::open(&path)?));
            }
        }
        Ok(Shared { links, dispatchers, maps: open_maps(&self.maps(), &SHARED)? })
    }

    /// The names of the builds, whole or not.
    pub(super) fn builds(&self) -> io::Result<Vec<String>> {
        let names = fs::read_dir(self.0.join("builds"))?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        names.collect()
    }

    /// Opens a build.
    pub(super) fn open_build(&self, name: &str) -> Result<Build> {
        let directory = self.0.join("builds").join(name);
        let (mut states, mut programs) = (Vec::new(), Vec::new());
        for probe in PROBES {
            let path = directory.join("programs").join(probe.program);
            if path.exists() {
                states.push((probe, ProbeState::Active));
                programs.push((probe, sys::open(&path)?));
                continue;
            }
            let reason = fs::read_link(directory.join("missing").join(probe.program));
            // One that another program makes superfluous is neither.
            states.extend(reason.ok().map(|reason| {
                (probe, ProbeState::Unavailable(reason.to_string_lossy().into_owned()))
            }));
        }
        Ok(Build { states, programs, maps: open_maps(&directory.join("maps"), &OWN)? })
    }

    /// Removes all builds but one, whose programs run.
    pub(super) fn remove_other_builds(&self, but: &str, steps: &mut Steps) -> io::Result<()> {
        for name in self.builds()?.iter().filter(|name| *name != but) {
            let directory = self.0.join("builds").join(name);
            empty_parsers(&directory);
            steps.done();
            fs::remove_dir_all(&directory)?;
            steps.done();
        }
        Ok(())
    }

    /// Detaches all of it, and removes it.
    pub(super) fn remove(&self) -> io::Result<()> {
        // The hooks first: nothing runs any more when the parsers go.
        let links = self.0.join("links");
        if links.exists() {
            fs::remove_dir_all(&links)?;
        }
        for name in self.builds().unwrap_or_default() {
            empty_parsers(&self.0.join("builds").join(name));
        }
        // Where they were before there was more than one build.
        empty_parsers(&self.0);
        fs::remove_dir_all(&self.0)
    }
}

fn open_maps(directory: &Path, names: &[&'static str]) -> Result<Vec<(&'static str, Map)>> {
    let open = |&name: &&'static str| {
        Ok((name, Map::from_map_data(MapData::from_pin(directory.join(name))?)?))
    };
    names.iter().map(open).collect()
}

/// Empties the array by which the parsers of a build call each other, if it is there.
fn empty_parsers(directory: &Path) {
    if let Ok(map) = MapData::from_pin(directory.join("maps/PARSERS"))
        && let Ok(mut parsers) = ProgramArray::try_from(Map::ProgramArray(map))
    {
        super::empty(&mut parsers);
    }
}
