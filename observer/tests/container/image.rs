//! An image that has nothing but a static busybox: it stands for the one that a runtime keeps a pod's sandbox with.

use std::{fmt::Write as _, fs, io, path::Path, process::Command};

use serde_json::json;
use sha2::{Digest as _, Sha256};

/// What it is imported as. No registry has it, and none is asked.
pub(crate) const NAME: &str = "docker.io/library/observer-tests:sandbox";

/// Writes it in the form of `docker save`.
pub(crate) fn write(path: &Path) -> io::Result<()> {
    let layer = archive(&[("busybox", &fs::read(busybox())?)])?;
    let digest = Sha256::digest(&layer).iter().fold(String::new(), |mut digest, byte| {
        // Writing to a string cannot fail.
        let _ = write!(digest, "{byte:02x}");
        digest
    });
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let config = json!({
        "architecture": architecture,
        "os": "linux",
        // It is killed in the end: the first process of a PID namespace does not hear SIGTERM unless it asks to.
        "config": { "Entrypoint": ["/busybox", "sleep", "86400"] },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{digest}")] },
    });
    let manifest =
        json!([{ "Config": "config.json", "RepoTags": [NAME], "Layers": ["layer.tar"] }]);
    let (manifest, config) = (manifest.to_string(), config.to_string());
    let files = [
        ("manifest.json", manifest.as_bytes()),
        ("config.json", config.as_bytes()),
        ("layer.tar", &layer),
    ];
    fs::write(path, archive(&files)?)
}

fn archive(files: &[(&str, &[u8])]) -> io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, bytes) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o755);
        archive.append_data(&mut header, path, *bytes)?;
    }
    archive.into_inner()
}

/// Where it is on this machine.
fn busybox() -> String {
    let output = Command::new("sh").args(["-c", "command -v busybox"]).output();
    let path = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    path.ok().filter(|path| !path.is_empty()).expect("busybox-static is installed")
}
