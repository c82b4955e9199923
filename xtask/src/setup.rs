//! Installs what a build, the tests, the benchmarks or the lints lack.
//!
//! What they need is the table [`NEEDS`]; each entry is checked first, and one that is met costs
//! a moment and changes nothing. What is missing is installed with apt, rustup or cargo, whichever
//! has it, after a line that says what and why.

mod apt;
mod compiler;
mod components;
mod linker;
mod tools;

use std::path::Path;

use anyhow::{Context as _, Result, anyhow};
use apt::Apt;

use crate::{cmd, lab};

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
    /// An environment of Python with the packages of `xtask/python/requirements.txt`.
    PythonEnvironment,
    /// A program from a crate, of a version that the project's compiler builds.
    Crate { program: &'static str, version: &'static str, arguments: &'static [&'static str] },
    /// busybox, linked statically.
    StaticBusybox,
    /// `cargo <name>`, a component of the toolchain.
    Component { name: &'static str },
    /// The standard library for a target.
    Target { name: &'static str },
    /// A file from a distribution's package.
    File { path: &'static str, package: &'static str },
}

const NEEDS: &[Need] = &[
    Need {
        name: "a Rust compiler for BPF",
        reason: "the kernel programs are Rust, and no stable toolchain of rustup has a core \
                 library for their target",
        purposes: &[Purpose::Build],
        means: Means::BpfCompiler,
        optional: false,
    },
    Need {
        name: "bpf-linker",
        reason: "it turns the compiler's bitcode into a BPF object, with the same LLVM",
        purposes: &[Purpose::Build],
        means: Means::BpfLinker,
        optional: false,
    },
    Need {
        name: "nginx",
        reason: "tests and benchmarks put a real proxy between client and server",
        purposes: &[Purpose::Test, Purpose::Bench],
        means: Means::Program {
            program: "nginx",
            packages: &["nginx-light", "nginx"],
            service: Some("nginx"),
        },
        optional: false,
    },
    Need {
        name: "HAProxy",
        reason: "tests put another real proxy between client and server",
        purposes: &[Purpose::Test],
        means: Means::Program {
            program: "haproxy",
            packages: &["haproxy"],
            service: Some("haproxy"),
        },
        optional: false,
    },
    Need {
        name: "Prometheus",
        reason: "tests have it scrape and evaluate rules, and promtool judge the text of /metrics",
        purposes: &[Purpose::Test],
        means: Means::Program {
            program: "promtool",
            packages: &["prometheus"],
            service: Some("prometheus"),
        },
        optional: false,
    },
    Need {
        name: "prometheus_client",
        reason: "tests have its parser judge the OpenMetrics text of /metrics",
        purposes: &[Purpose::Test],
        means: Means::PythonModule {
            module: "prometheus_client",
            packages: &["python3-prometheus-client"],
        },
        optional: false,
    },
    Need {
        name: "kustomize",
        reason: "tests render the manifests with it",
        purposes: &[Purpose::Test],
        means: Means::NewProgram { program: "kustomize", package: "kustomize" },
        optional: false,
    },
    Need {
        name: "kubernetes-validate",
        reason: "tests have it judge the manifests",
        purposes: &[Purpose::Test],
        means: Means::PythonEnvironment,
        optional: false,
    },
    Need {
        name: "capsh",
        reason: "tests run the image with the capabilities of its manifest",
        purposes: &[Purpose::Test],
        means: Means::Program { program: "capsh", packages: &["libcap2-bin"], service: None },
        optional: false,
    },
    Need {
        name: "containerd",
        reason: "tests run the image, and what it observes, in real containers",
        purposes: &[Purpose::Test],
        means: Means::Program {
            program: "containerd",
            packages: &["containerd"],
            service: Some("containerd"),
        },
        optional: false,
    },
    Need {
        name: "runc",
        reason: "containerd runs containers with it",
        purposes: &[Purpose::Test],
        means: Means::Program { program: "runc", packages: &["runc"], service: None },
        optional: false,
    },
    Need {
        name: "CNI plugins",
        reason: "containerd makes the network of pods with them",
        purposes: &[Purpose::Test],
        means: Means::Program {
            // Not in the path, where another program has the name.
            program: "/usr/lib/cni/bridge",
            packages: &["containernetworking-plugins"],
            service: None,
        },
        optional: false,
    },
    Need {
        name: "iproute2",
        reason: "tests make network namespaces and the veth pairs between them",
        purposes: &[Purpose::Test],
        means: Means::Program { program: "ip", packages: &["iproute2"], service: None },
        optional: false,
    },
    Need {
        name: "bpftool",
        reason: "tests verify with it that nothing is left attached to the kernel, benchmarks \
                 learn from it what programs are called",
        purposes: &[Purpose::Test, Purpose::Bench],
        means: Means::Program {
            program: "bpftool",
            packages: &["bpftool", "linux-tools-common"],
            service: None,
        },
        optional: false,
    },
    Need {
        name: "QEMU",
        reason: "the lab boots other kernels in it",
        purposes: &[Purpose::Test, Purpose::Lab],
        means: Means::Program {
            program: "qemu-system-x86_64",
            packages: &["qemu-system-x86"],
            service: None,
        },
        optional: false,
    },
    Need {
        name: "busybox",
        reason: "it is all that the lab's guests have beside what they test, and the sandboxes of \
                 pods have; it must be static",
        purposes: &[Purpose::Test, Purpose::Lab],
        means: Means::StaticBusybox,
        optional: false,
    },
    Need {
        name: "xz",
        reason: "the modules of some kernels are packed with it",
        purposes: &[Purpose::Test, Purpose::Lab],
        means: Means::Program { program: "xzcat", packages: &["xz-utils"], service: None },
        optional: false,
    },
    Need {
        name: "zstd",
        reason: "the modules of other kernels are packed with it",
        purposes: &[Purpose::Test, Purpose::Lab],
        means: Means::Program { program: "zstdcat", packages: &["zstd"], service: None },
        optional: false,
    },
    Need {
        name: "QEMU for arm64",
        reason: "the lab boots a kernel for arm64 in it",
        purposes: &[Purpose::Arm64],
        means: Means::Program {
            program: "qemu-system-aarch64",
            packages: &["qemu-system-arm"],
            service: None,
        },
        optional: false,
    },
    Need {
        name: "a C compiler for arm64",
        reason: "it links what the lab runs on arm64, and compiles the C in some crates",
        purposes: &[Purpose::Arm64],
        means: Means::Program {
            program: "aarch64-linux-gnu-gcc",
            packages: &["gcc-aarch64-linux-gnu"],
            service: None,
        },
        optional: false,
    },
    Need {
        name: "a C library for arm64",
        reason: "what the lab runs on arm64 is linked with it, statically",
        purposes: &[Purpose::Arm64],
        means: Means::File {
            path: "/usr/aarch64-linux-gnu/lib/libc.a",
            package: "libc6-dev-arm64-cross",
        },
        optional: false,
    },
    Need {
        name: "Rust for arm64",
        reason: "the lab runs the daemon and its tests on arm64",
        purposes: &[Purpose::Arm64],
        means: Means::Target { name: "aarch64-unknown-linux-gnu" },
        optional: false,
    },
    Need {
        name: "wrk",
        reason: "the benchmark loads nginx with it",
        purposes: &[Purpose::Bench],
        means: Means::Program { program: "wrk", packages: &["wrk"], service: None },
        optional: false,
    },
    Need {
        name: "libbpf-tools",
        reason: "the benchmark measures its tcplife and tcpstates beside the observer",
        purposes: &[Purpose::Bench],
        means: Means::Program { program: "tcplife", packages: &["libbpf-tools"], service: None },
        optional: true,
    },
    Need {
        name: "rustfmt",
        reason: "the formatting is checked",
        purposes: &[Purpose::Lint],
        means: Means::Component { name: "fmt" },
        optional: false,
    },
    Need {
        name: "clippy",
        reason: "its warnings are errors",
        purposes: &[Purpose::Lint],
        means: Means::Component { name: "clippy" },
        optional: false,
    },
    Need {
        name: "clippy for BPF",
        reason: "the kernel programs are held to the same lints",
        purposes: &[Purpose::Lint],
        means: Means::BpfClippy,
        optional: true,
    },
    Need {
        name: "cargo-deny",
        reason: "it checks licences and sources of every dependency",
        purposes: &[Purpose::Lint],
        means: Means::Crate {
            program: "cargo-deny",
            version: "0.20.2",
            // Unoptimised it is built in half the time, and runs for two seconds.
            arguments: &["--no-default-features", "--debug"],
        },
        optional: false,
    },
];

/// Installs what is missing for `purposes`; says nothing if nothing is.
pub(crate) fn ensure(purposes: &[Purpose]) -> Result<()> {
    meet(purposes, |_, _| ())
}

/// Installs what is missing for `purposes`, and tells what is there.
pub(crate) fn report(purposes: &[Purpose]) -> Result<()> {
    meet(purposes, |need, found| println!("{:<24} {found}", need.name))
}

fn meet(purposes: &[Purpose], mut tell: impl FnMut(&Need, &str)) -> Result<()> {
    let mut apt = Apt::default();
    for need in NEEDS {
        if !need.purposes.iter().any(|purpose| purposes.contains(purpose)) {
            continue;
        }
        match need.means.check() {
            Ok(found) => tell(need, &found),
            Err(lack) => match need.install(&lack, &mut apt) {
                Ok(found) => tell(need, &found),
                Err(error) if need.optional => {
                    cmd::say("!", &format!("going on without {}: {error:#}", need.name));
                }
                Err(error) => return Err(error),
            },
        }
    }
    Ok(())
}

impl Need {
    /// Installs it, and checks that this helped.
    fn install(&self, lack: &str, apt: &mut Apt) -> Result<String> {
        cmd::say("*", &format!("installing {}, because {} ({lack})", self.name, self.reason));
        self.means.install(apt).with_context(|| format!("installing {}", self.name))?;
        self.means.check().map_err(|lack| anyhow!("{} is still missing: {lack}", self.name))
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
            Self::PythonEnvironment => tools::check_python(),
            Self::Crate { program, .. } => components::version_of(program),
            Self::StaticBusybox => lab::busybox()
                .map(|path| path.display().to_string())
                .map_err(|error| error.to_string()),
            Self::Component { name } => components::check(name),
            Self::Target { name } => components::check_target(name),
            Self::File { path, .. } if Path::new(path).is_file() => Ok((*path).to_owned()),
            Self::File { path, .. } => Err(format!("there is no {path}")),
        }
    }

    fn install(&self, apt: &mut Apt) -> Result<()> {
        match self {
            Self::BpfCompiler => compiler::install(apt),
            Self::BpfLinker => linker::install(apt),
            Self::BpfClippy => compiler::install_clippy(apt),
            Self::Program { packages, service, .. } => {
                apt.install_any(packages)?;
                service.map_or(Ok(()), apt::stop_service)
            }
            Self::StaticBusybox => apt.install_any(&["busybox-static"]),
            Self::PythonModule { packages, .. } => apt.install_any(packages),
            Self::NewProgram { program, package } => tools::install_program(program, package, apt),
            Self::PythonEnvironment => tools::install_python(apt),
            Self::Crate { program, version, arguments } => {
                components::install_crate(program, version, arguments)
            }
            Self::Component { name } => components::install(name),
            Self::Target { name } => components::install_target(name),
            Self::File { package, .. } => apt.install_any(&[package]),
        }
    }
}
