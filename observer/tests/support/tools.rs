//! Programs that `cargo xtask setup --tests` puts beside the build, where the machine's distribution has none.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools")
}

/// A program by its name: the checkout's own, or else that of the machine.
pub(crate) fn program(name: &str) -> PathBuf {
    let ours = directory().join("bin").join(name);
    if ours.is_file() { ours } else { name.into() }
}

/// The interpreter of Python that knows the packages of `xtask/python/requirements.txt`.
pub(crate) fn python() -> PathBuf {
    directory().join("python/bin/python")
}

/// The root of the checkout.
pub(crate) fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the workspace")
}

/// What kustomize makes of directories of `deploy`, and of some of its components.
pub(crate) fn render(resources: &[&str], components: &[&str]) -> String {
    // kustomize takes relative paths only.
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("it can be written");
    let up = "../".repeat(directory.path().components().count() - 1);
    let deploy = checkout().join("deploy").canonicalize().expect("it is there");
    let path = |part: &str| format!("{up}{}", &deploy.join(part).display().to_string()[1..]);
    let components = components.iter().map(|name| path(&format!("components/{name}")));
    let kustomization = serde_json::json!({
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": resources.iter().map(|part| path(part)).collect::<Vec<_>>(),
        "components": components.collect::<Vec<_>>(),
    });
    fs::write(directory.path().join("kustomization.yaml"), kustomization.to_string())
        .expect("it can be written");
    let output = Command::new(program("kustomize")).arg("build").arg(directory.path()).output();
    let output = output.unwrap_or_else(|error| {
        panic!("cannot run kustomize: {error}; `cargo xtask setup --tests` installs it")
    });
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && complaint.is_empty(), "kustomize: {complaint}");
    String::from_utf8(output.stdout).expect("it is text")
}
