//! Installs what a build, the tests, the benchmarks or the lints lack.
//!
//! What they need is the table [`NEEDS`]; each entry is checked first, and one that is met costs
//! a moment and changes nothing. What is missing is installed with apt, rustup or cargo, whichever
//! has it, after a line that says what and why; all that apt has in one call.

mod apt;
mod compiler;
mod components;
mod linker;
mod needs;
mod tools;

use std::path::Path;
use std::thread;

use anyhow::{Context as _, Result, anyhow};
use apt::Apt;
use needs::NEEDS;

use crate::cmd;

/// What a need is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Build,
    Test,
    Bench,
    Lint,
    Lab,
    /// The lab's guests of that architecture.
    Arm64,
    /// Programs for the other architecture.
    Cross,
    /// Packages for release.
    Dist,
    /// Pictures for the documents.
    Pictures,
}

/// Whether there is a Prometheus that is newer than the distribution's.
pub(crate) fn has_newer_prometheus() -> bool {
    tools::check_go(&needs::PROMETHEUS).is_ok()
}

/// Whether there is Helm.
pub(crate) fn has_helm() -> bool {
    tools::check_go(&needs::HELM).is_ok()
}

/// A program that Go builds of a locked module.
struct GoProgram {
    program: &'static str,
    /// Where the module is, in the checkout.
    module: &'static str,
    package: &'static str,
    tags: &'static str,
}

/// One thing that has to be on the machine.
struct Need {
    name: &'static str,
    /// Completes "…, because".
    reason: &'static str,
    purposes: &'static [Purpose],
    means: Means,
    /// Whether its absence is only worth a word: some machines cannot have it.
    optional: bool,
}

/// How a need is checked and met.
enum Means {
    /// A Rust compiler with `core` for the BPF target.
    BpfCompiler,
    /// A bpf-linker that reads that compiler's bitcode.
    BpfLinker,
    /// clippy of that compiler.
    BpfClippy,
    /// A program from a distribution's package; of several package names the first that exists.
    /// Some start a service when they are installed.
    Program {
        program: &'static str,
        packages: &'static [&'static str],
        service: Option<&'static str>,
    },
    /// A module of the distribution's own Python, whichever others come first in the path.
    PythonModule { module: &'static str, packages: &'static [&'static str] },
    /// A program from a package that not every release of the distribution has.
    NewProgram { program: &'static str, package: &'static str },
    /// A program that Go builds.
    GoProgram(&'static GoProgram),
    /// An environment of Python with the packages of `xtask/python/requirements.txt`.
    PythonEnvironment,
    /// A program from a crate, of a version that the project's compiler builds.
    Crate { program: &'static str, version: &'static str, arguments: &'static [&'static str] },
    /// The same, linked statically.
    StaticProgram { program: &'static str, package: &'static str },
    /// `cargo <name>`, a component of the toolchain.
    Component { name: &'static str },
    /// The standard library for a target.
    Target { name: &'static str },
    /// A file from a distribution's package.
    File { path: &'static str, package: &'static str },
}

/// Installs what is missing for `purposes`; says nothing if nothing is.
pub(crate) fn ensure(purposes: &[Purpose]) -> Result<()> {
    meet(purposes, |_, _| ())
}

/// Installs what is missing for `purposes`, and tells what is there.
pub(crate) fn report(purposes: &[Purpose]) -> Result<()> {
    meet(purposes, |need, found| println!("{:<24} {found}", need.name))
}

fn meet(purposes: &[Purpose], mut tell: impl FnMut(&Need, &str)) -> Result<()> {
    let wanted = |need: &&Need| need.purposes.iter().any(|purpose| purposes.contains(purpose));
    let lacking: Vec<_> = NEEDS
        .iter()
        .filter(wanted)
        .filter_map(|need| match need.means.check() {
            Ok(found) => {
                tell(need, &found);
                None
            }
            Err(lack) => Some((need, lack)),
        })
        .collect();
    let mut apt = Apt::default();
    // cargo and Go build while apt downloads and unpacks.
    let built = |means: &Means| matches!(means, Means::Crate { .. } | Means::GoProgram(_));
    let built = lacking.iter().filter(|(need, _)| built(&need.means));
    thread::scope(|scope| {
        let building: Vec<_> = built
            .map(|(need, _)| (need, scope.spawn(|| need.install(&mut Apt::default()))))
            .collect();
        install_packages(&lacking, &mut apt)?;
        building.into_iter().try_for_each(|(need, built)| match built.join().expect("no panic") {
            // Told below, when it is missed.
            Err(_) if need.optional => Ok(()),
            built => built,
        })
    })?;
    for (need, _) in lacking {
        match need.meet(&mut apt) {
            Ok(found) => tell(need, &found),
            Err(error) if need.optional => {
                cmd::say("!", &format!("going on without {}: {error:#}", need.name));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Has apt install what it has of all that is lacking, at once: each call of apt's takes its time.
fn install_packages(lacking: &[(&Need, String)], apt: &mut Apt) -> Result<()> {
    for (need, lack) in lacking {
        cmd::say("*", &format!("installing {}, because {} ({lack})", need.name, need.reason));
    }
    let mut packages = Vec::new();
    for (need, _) in lacking {
        packages.extend(need.means.packages(apt)?);
    }
    if packages.is_empty() {
        return Ok(());
    }
    if let Err(error) = apt.install(&packages) {
        cmd::say("!", &format!("{error:#}; trying one after the other"));
        return Ok(());
    }
    lacking.iter().try_for_each(|(need, _)| need.means.settle())
}

impl Need {
    /// Installs it unless what was installed before has brought it, and checks that this helped.
    fn meet(&self, apt: &mut Apt) -> Result<String> {
        if let Ok(found) = self.means.check() {
            return Ok(found);
        }
        self.install(apt)?;
        self.means.check().map_err(|lack| anyhow!("{} is still missing: {lack}", self.name))
    }

    fn install(&self, apt: &mut Apt) -> Result<()> {
        self.means.install(apt).with_context(|| format!("installing {}", self.name))
    }
}

impl Means {
    /// What is there, or in what way it is lacking.
    fn check(&self) -> Result<String, String> {
        match self {
            Self::BpfCompiler => compiler::check(),
            Self::BpfLinker => linker::check(),
            Self::BpfClippy => compiler::check_clippy(),
            Self::Program { program, .. } => match cmd::which(program) {
                Some(path) => Ok(path.display().to_string()),
                None => Err(format!("there is no program {program}")),
            },
            Self::PythonModule { module, .. } => {
                let import = format!("import {module}; print({module}.__file__)");
                cmd::output(cmd::command("/usr/bin/python3").args(["-c", &import]))
                    .map(|path| path.trim().to_owned())
                    .map_err(|_| format!("/usr/bin/python3 has no module {module}"))
            }
            Self::NewProgram { program, .. } => tools::check_program(program),
            Self::GoProgram(program) => tools::check_go(program),
            Self::PythonEnvironment => tools::check_python(),
            Self::Crate { program, .. } => components::version_of(program),
            Self::StaticProgram { program, .. } => cmd::which_static(program)
                .map(|path| path.display().to_string())
                .map_err(|error| error.to_string()),
            Self::Component { name } => components::check(name),
            Self::Target { name } => components::check_target(name),
            Self::File { path, .. } if Path::new(path).is_file() => Ok((*path).to_owned()),
            Self::File { path, .. } => Err(format!("there is no {path}")),
        }
    }

    /// The packages that it comes with, as far as apt has them and that is known beforehand.
    fn packages(&self, apt: &mut Apt) -> Result<Vec<&'static str>> {
        match self {
            Self::BpfCompiler => Ok(compiler::packages(apt)),
            Self::BpfClippy => compiler::clippy_packages(apt),
            Self::Program { packages, .. } | Self::PythonModule { packages, .. } => {
                apt.first_of(packages)
            }
            Self::StaticProgram { package, .. }
            | Self::NewProgram { package, .. }
            | Self::File { package, .. } => apt.first_of(&[package]),
            Self::PythonEnvironment => tools::python_packages(apt),
            // Which LLVM it takes is known once there is a compiler.
            Self::BpfLinker
            | Self::Crate { .. }
            | Self::GoProgram(_)
            | Self::Component { .. }
            | Self::Target { .. } => Ok(Vec::new()),
        }
    }

    /// What there is to do once its package is there.
    fn settle(&self) -> Result<()> {
        match self {
            Self::Program { service: Some(service), .. } => apt::stop_service(service),
            _ => Ok(()),
        }
    }

    fn install(&self, apt: &mut Apt) -> Result<()> {
        match self {
            Self::BpfCompiler => compiler::install(apt),
            Self::BpfLinker => linker::install(apt),
            Self::BpfClippy => compiler::install_clippy(apt),
            Self::Program { packages, .. } => {
                apt.install_any(packages)?;
                self.settle()
            }
            Self::PythonModule { packages, .. } => apt.install_any(packages),
            Self::NewProgram { program, package } => tools::install_program(program, package, apt),
            Self::PythonEnvironment => tools::install_python(apt),
            Self::GoProgram(program) => tools::install_go(program),
            Self::Crate { program, version, arguments } => {
                components::install_crate(program, version, arguments)
            }
            Self::Component { name } => components::install(name),
            Self::Target { name } => components::install_target(name),
            Self::StaticProgram { package, .. } | Self::File { package, .. } => {
                apt.install_any(&[package])
            }
        }
    }
}
