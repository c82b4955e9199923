//! `cargo xtask cluster`: a real control plane scales a workload by what the observer counts.
//!
//! It is the test `observer/tests/cluster`. The programs that it takes are those of `KUBEBUILDER_ASSETS` or of the path where
//! they are there, else they are built from locked Go modules, once: into a cache outside the checkout, in a directory that is
//! named after what is locked.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use sha2::{Digest as _, Sha256};

use crate::setup::{self, Purpose};
use crate::{artifacts, cmd};

/// What the cluster is told on its command line.
#[derive(Args)]
pub(crate) struct Options {
    /// Arguments for the test program, such as a part of a test's name
    #[arg(last = true)]
    args: Vec<OsString>,
}

/// A program that Go builds of a locked module.
struct Source {
    /// The module, in the checkout.
    module: &'static str,
    package: &'static str,
    tags: &'static str,
    /// For the linker, beside those that leave out what debuggers read.
    flags: &'static str,
}

/// The parts of a control plane, each by its name as the first argument.
const CONTROL_PLANE: Source = Source {
    module: "xtask/cluster/control-plane",
    package: ".",
    tags: "",
    // kubectl cannot tell versions apart without.
    flags: "-X k8s.io/component-base/version.gitVersion=v1.35.4 -X k8s.io/component-base/version.gitMajor=1 \
            -X k8s.io/component-base/version.gitMinor=35",
};
const PARTS: [&str; 5] =
    ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl"];

/// Of what is locked for the tests. No distribution's finds pods.
const PROMETHEUS: Source = Source {
    module: "xtask/go",
    package: "github.com/prometheus/prometheus/cmd/prometheus",
    tags: "remove_all_sd,enable_kubernetes_sd,netgo",
    flags: "",
};

const ADAPTER: Source = Source {
    module: "xtask/cluster/adapter",
    package: "sigs.k8s.io/prometheus-adapter/cmd/adapter",
    tags: "netgo",
    flags: "",
};

/// Builds the test and what it takes, and runs it as root.
pub(crate) fn run(options: &Options) -> Result<()> {
    setup::ensure(&[Purpose::Build, Purpose::Test])?;
    let tools = tools()?;
    cmd::run(&mut cmd::cargo(&["build", "--package", "observer", "--examples"]))?;
    let test = ["test", "--package", "observer", "--no-run", "--test", "cluster"];
    let built = artifacts::build(&mut cmd::cargo(&test))?;
    let mut test = cmd::as_root("env")?;
    let mut variable = OsString::from("OBSERVER_CLUSTER_TOOLS=");
    variable.push(&tools);
    test.arg(variable).arg(built.find("test", true, "cluster")?);
    test.args(["--include-ignored", "--test-threads=1"]).args(&options.args);
    cmd::run(test.current_dir(cmd::workspace().join("observer")))
}

/// A directory with all programs, by their names.
fn tools() -> Result<PathBuf> {
    let directory = cache()?.join("bin");
    fs::create_dir_all(&directory)?;
    for part in PARTS {
        if let Some(found) = found(part) {
            place(&directory.join(part), &found, "")?;
        } else {
            place(&directory.join(part), &build("control-plane", &CONTROL_PLANE)?, part)?;
        }
    }
    place(&directory.join("prometheus"), &build("prometheus", &PROMETHEUS)?, "")?;
    let adapter = match found("prometheus-adapter") {
        Some(adapter) => adapter,
        None => build("prometheus-adapter", &ADAPTER)?,
    };
    place(&directory.join("prometheus-adapter"), &adapter, "")?;
    Ok(directory)
}

/// Where what is built is kept.
fn cache() -> Result<PathBuf> {
    let of_user = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let of_home = || env::home_dir().map(|home| home.join(".cache"));
    let cache = of_user.or_else(of_home).context("neither XDG_CACHE_HOME nor a home is set")?;
    Ok(cache.join("observer/cluster"))
}

/// A program that is there: among those of envtest, or in the path.
fn found(program: &str) -> Option<PathBuf> {
    let assets = env::var_os("KUBEBUILDER_ASSETS").map(|assets| Path::new(&assets).join(program));
    assets.filter(|path| path.is_file()).or_else(|| cmd::which(program))
}

/// A program of a locked module, built unless that has been done already.
fn build(name: &str, source: &Source) -> Result<PathBuf> {
    let module = cmd::workspace().join(source.module);
    let mut locked = Sha256::new();
    for file in ["go.mod", "go.sum", "main.go"] {
        // Not every module has a program of its own.
        locked.update(fs::read(module.join(file)).unwrap_or_default());
    }
    locked.update([source.package, source.tags, source.flags].join("\n"));
    let digest: [u8; 32] = locked.finalize().into();
    let [digest, ..] = digest.as_chunks().0 else { unreachable!("it is longer") };
    let program = cache()?.join(format!("{name}-{:016x}", u64::from_be_bytes(*digest)));
    if program.is_file() {
        return Ok(program);
    }
    ensure!(cmd::which("go").is_some(), "there is neither {name} nor Go to build it");
    cmd::say("*", &format!("building {name}, which takes minutes, once"));
    // Under its name only when it is whole.
    let unfinished = program.with_extension("unfinished");
    let mut go = cmd::command("go");
    // No other Go is fetched.
    go.current_dir(&module).env("GOTOOLCHAIN", "local");
    go.args(["build", "-mod=readonly", "-buildvcs=false", "-trimpath", "-ldflags"]);
    go.arg(format!("-s -w {}", source.flags)).args(["-tags", source.tags, "-o"]);
    cmd::run(go.arg(&unfinished).arg(source.package))?;
    fs::rename(&unfinished, &program)?;
    Ok(program)
}

/// Puts a script in place that runs a program, with a first argument unless that is empty.
fn place(script: &Path, program: &Path, argument: &str) -> Result<()> {
    let text = format!("#!/bin/sh\nexec '{}' {argument} \"$@\"\n", program.display());
    fs::write(script, text).with_context(|| format!("writing {}", script.display()))?;
    fs::set_permissions(script, fs::Permissions::from_mode(0o755))?;
    Ok(())
}
