//! Programs that `cargo xtask setup --tests` puts beside the build, where the machine's distribution has none.

use std::path::{Path, PathBuf};

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
