//! An image of one program in the layout of the OCI image specification 1.1, as one tar file; of a program for several
//! architectures, one index of as many images.
//!
//! The same program gives the same bytes: there is no time in it but the epoch.

use std::io::Write;

use anyhow::Result;
use flate2::Compression;
use serde_json::{Value, json};

use crate::archive::{append, gzip, sha256};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// What goes into an image.
pub(super) struct Image {
    /// Name and tag under which it is imported.
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    pub(super) version: &'static str,
    pub(super) licenses: &'static str,
    /// The commit, if known.
    pub(super) revision: Option<String>,
    /// The one file in it, a statically linked program; one for each architecture, as Go, and hence OCI, calls it.
    pub(super) programs: Vec<(&'static str, Vec<u8>)>,
}

/// Something that goes by its digest.
struct Blob {
    digest: String,
    media_type: &'static str,
    bytes: Vec<u8>,
}

impl Blob {
    fn new(media_type: &'static str, bytes: Vec<u8>) -> Self {
        Self { digest: digest(&bytes), media_type, bytes }
    }

    fn json(media_type: &'static str, value: &Value) -> Self {
        Self::new(media_type, value.to_string().into_bytes())
    }

    /// How others refer to it.
    fn descriptor(&self) -> Value {
        json!({"mediaType": self.media_type, "digest": self.digest, "size": self.bytes.len()})
    }

    fn path(&self) -> String {
        format!("blobs/{}", self.digest.replace(':', "/"))
    }
}

impl Image {
    /// Writes the archive; returns the digest of the image's manifest, or of the index of several.
    pub(super) fn write(&self, out: impl Write) -> Result<String> {
        let mut blobs = Vec::new();
        let mut entries = Vec::new();
        for (architecture, program) in &self.programs {
            let image = self.blobs(architecture, program)?;
            let mut entry = image[0].descriptor();
            entry["platform"] = json!({"architecture": architecture, "os": "linux"});
            entries.push(entry);
            blobs.extend(image);
        }
        let mut entry = if entries.len() == 1 {
            entries.remove(0)
        } else {
            let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries});
            let index = Blob::json(INDEX, &index);
            let entry = index.descriptor();
            blobs.insert(0, index);
            entry
        };
        let (_, tag) = self.name.split_once(':').unwrap_or((self.name, "latest"));
        // containerd takes the whole name from the first, all others the tag from the second.
        entry["annotations"] = json!({
            "io.containerd.image.name": format!("docker.io/library/{}", self.name),
            "org.opencontainers.image.ref.name": tag,
        });
        let index = json!({"schemaVersion": 2, "manifests": [entry]}).to_string();

        let mut archive = tar::Builder::new(out);
        append(&mut archive, "oci-layout", 0o644, 0, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        append(&mut archive, "index.json", 0o644, 0, index.as_bytes())?;
        for blob in &blobs {
            append(&mut archive, &blob.path(), 0o644, 0, &blob.bytes)?;
        }
        archive.finish()?;
        Ok(blobs.swap_remove(0).digest)
    }

    /// Manifest, configuration and layer for one architecture.
    fn blobs(&self, architecture: &str, program: &[u8]) -> Result<[Blob; 3]> {
        let mut files = tar::Builder::new(Vec::new());
        append(&mut files, "observer", 0o755, 0, program)?;
        let files = files.into_inner()?;
        let layer = Blob::new(LAYER, gzip(&files, Compression::best())?);
        let config = Blob::json(CONFIG, &self.config(architecture, &digest(&files)));
        let manifest = Blob::json(
            MANIFEST,
            &json!({
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": config.descriptor(),
                "layers": [layer.descriptor()],
                "annotations": self.labels(),
            }),
        );
        Ok([manifest, config, layer])
    }

    fn config(&self, architecture: &str, files: &str) -> Value {
        json!({
            "architecture": architecture,
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": {
                "Entrypoint": ["/observer"],
                "Cmd": ["run"],
                "WorkingDir": "/",
                "ExposedPorts": {"9435/tcp": {}},
                "Labels": self.labels(),
            },
            "rootfs": {"type": "layers", "diff_ids": [files]},
            "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "cargo xtask image"}],
        })
    }

    fn labels(&self) -> Value {
        let mut labels = json!({
            "org.opencontainers.image.title": self.title,
            "org.opencontainers.image.version": self.version,
            "org.opencontainers.image.licenses": self.licenses,
        });
        if let Some(revision) = &self.revision {
            labels["org.opencontainers.image.revision"] = json!(revision);
        }
        labels
    }
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", sha256(bytes))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Read as _;

    use super::*;

    fn image() -> Image {
        Image {
            name: "observer:1.2.3",
            title: "observer",
            version: "1.2.3",
            licenses: "Apache-2.0",
            revision: Some("abc".to_owned()),
            programs: vec![("amd64", b"#!/bin/true\n".repeat(1000))],
        }
    }

    fn written() -> (String, Vec<u8>) {
        let mut archive = Vec::new();
        let digest = image().write(&mut archive).unwrap();
        (digest, archive)
    }

    fn unpack(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut archive = tar::Archive::new(archive);
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().display().to_string();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            (path, bytes)
        });
        entries.collect()
    }

    fn follow(files: &BTreeMap<String, Vec<u8>>, descriptor: &Value) -> Vec<u8> {
        let name = descriptor["digest"].as_str().unwrap();
        let bytes = &files[&format!("blobs/{}", name.replace(':', "/"))];
        assert_eq!(digest(bytes), name);
        assert_eq!(descriptor["size"], bytes.len());
        bytes.clone()
    }

    #[test]
    fn every_reference_leads_to_the_bytes_that_it_names() {
        let (manifest_digest, archive) = written();
        let files = unpack(&archive);
        assert_eq!(files["oci-layout"], br#"{"imageLayoutVersion":"1.0.0"}"#);
        let index: Value = serde_json::from_slice(&files["index.json"]).unwrap();
        let entry = &index["manifests"][0];
        assert_eq!(entry["digest"], manifest_digest.as_str());
        assert_eq!(entry["annotations"]["org.opencontainers.image.ref.name"], "1.2.3");
        let manifest: Value = serde_json::from_slice(&follow(&files, entry)).unwrap();
        let config: Value = serde_json::from_slice(&follow(&files, &manifest["config"])).unwrap();
        assert_eq!(config["config"]["Entrypoint"][0], "/observer");
        let layer = follow(&files, &manifest["layers"][0]);
        let mut unpacked = Vec::new();
        flate2::read::GzDecoder::new(&layer[..]).read_to_end(&mut unpacked).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"][0], digest(&unpacked).as_str());
        assert_eq!(unpack(&unpacked)["observer"], image().programs[0].1);
        assert_eq!(files.len(), 5);
    }

    #[test]
    fn the_same_program_gives_the_same_bytes() {
        assert_eq!(written(), written());
    }

    #[test]
    fn an_image_of_several_architectures_is_an_index() {
        let (amd64, arm64) = (b"for amd64".to_vec(), b"for arm64".to_vec());
        let image = Image { programs: vec![("amd64", amd64), ("arm64", arm64)], ..image() };
        let mut archive = Vec::new();
        let index_digest = image.write(&mut archive).unwrap();
        let files = unpack(&archive);
        let top: Value = serde_json::from_slice(&files["index.json"]).unwrap();
        assert_eq!(top["manifests"].as_array().unwrap().len(), 1, "one name, one entry");
        let entry = &top["manifests"][0];
        assert_eq!((&entry["digest"], &entry["mediaType"]), (&json!(index_digest), &json!(INDEX)));
        let index: Value = serde_json::from_slice(&follow(&files, entry)).unwrap();
        for (at, (architecture, program)) in image.programs.iter().enumerate() {
            let entry = &index["manifests"][at];
            assert_eq!(entry["platform"]["architecture"], *architecture);
            let manifest: Value = serde_json::from_slice(&follow(&files, entry)).unwrap();
            let config: Value =
                serde_json::from_slice(&follow(&files, &manifest["config"])).unwrap();
            assert_eq!(config["architecture"], *architecture);
            let layer = follow(&files, &manifest["layers"][0]);
            let mut unpacked = Vec::new();
            flate2::read::GzDecoder::new(&layer[..]).read_to_end(&mut unpacked).unwrap();
            assert_eq!(unpack(&unpacked)["observer"], *program);
        }
        assert_eq!(files.len(), 2 + 1 + 2 * 3);
    }
}
