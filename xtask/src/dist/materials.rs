//! What a program is made of: the crates that are linked into it, of the daemon and of the kernel programs that it embeds,
//! the standard library and the C library. As cargo resolves them, for one architecture, without what only builds or tests.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use serde_json::{Value, json};

use super::VERSION;
use crate::archive::sha256;
use crate::cmd;
use crate::cross::Cross;

/// What is linked into the program, and into what it embeds.
const PARTS: [&str; 2] = ["observer", "observer-ebpf"];

/// What `cargo metadata` tells, as far as we read it.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    description: Option<String>,
    /// None for those of the workspace.
    source: Option<String>,
    manifest_path: PathBuf,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    dependencies: Vec<String>,
}

/// The crates of a program.
pub(super) struct Materials {
    crates: BTreeMap<String, Crate>,
    /// What does not come as a crate.
    libraries: Vec<Value>,
}

/// A crate, by the address that package managers know it by.
struct Crate {
    name: String,
    version: String,
    license: String,
    description: Option<String>,
    /// Of the archive that cargo has fetched.
    checksum: Option<String>,
    /// Where its sources are.
    directory: PathBuf,
    is_ours: bool,
    needs: BTreeSet<String>,
}

impl Materials {
    pub(super) fn of(cross: &Cross) -> Result<Self> {
        let linked = linked(cross)?;
        let arguments = ["metadata", "--format-version=1", "--locked", "--filter-platform"];
        let metadata = cmd::output(cmd::cargo(&arguments).arg(cross.target))?;
        let Metadata { packages, resolve } = serde_json::from_str(&metadata)?;
        let lock = fs::read_to_string(cmd::workspace().join("Cargo.lock"))?;
        let checksums = checksums(&lock);
        let of_id: BTreeMap<&str, String> = packages
            .iter()
            .filter(|package| linked.contains(&(package.name.clone(), package.version.clone())))
            .map(|package| (package.id.as_str(), address(&package.name, &package.version)))
            .collect();
        let mut crates = BTreeMap::new();
        for package in &packages {
            let Some(address) = of_id.get(package.id.as_str()) else { continue };
            let node = resolve.nodes.iter().find(|node| node.id == package.id);
            let needs = node.map(|node| node.dependencies.as_slice()).unwrap_or_default();
            let license = package.license.clone();
            let made = Crate {
                name: package.name.clone(),
                version: package.version.clone(),
                // An older way to write it.
                license: license
                    .with_context(|| format!("{address} has no license"))?
                    .replace('/', " OR "),
                description: package.description.clone(),
                checksum: checksums.get(&(&package.name, &package.version)).map(|&sum| sum.into()),
                directory: package.manifest_path.parent().context("a file's directory")?.into(),
                is_ours: package.source.is_none(),
                needs: needs.iter().filter_map(|id| of_id.get(id.as_str()).cloned()).collect(),
            };
            ensure!(made.is_ours || made.checksum.is_some(), "{address} is not in Cargo.lock");
            crates.insert(address.clone(), made);
        }
        ensure!(crates.len() == linked.len(), "cargo tree and cargo metadata disagree");
        Ok(Self { crates, libraries: libraries(cross) })
    }

    /// The bill of materials, in the form of `CycloneDX` 1.5.
    pub(super) fn bill(&self, time: u64) -> Result<Vec<u8>> {
        let main = address("observer", VERSION);
        let mut components = self.libraries.clone();
        for (address, one) in self.crates.iter().filter(|(address, _)| **address != main) {
            let mut component = json!({
                "type": "library",
                "bom-ref": address,
                "name": one.name,
                "version": one.version,
                "scope": "required",
                "licenses": [{"expression": one.license}],
                "purl": address,
            });
            if let Some(checksum) = &one.checksum {
                component["hashes"] = json!([{"alg": "SHA-256", "content": checksum}]);
            }
            if let Some(description) = &one.description {
                component["description"] = json!(description.trim());
            }
            components.push(component);
        }
        let of_crate = |(address, one): (&String, &Crate)| {
            let mut needs: Vec<&str> = one.needs.iter().map(String::as_str).collect();
            if *address == main {
                needs.extend(self.libraries.iter().filter_map(|of| of["bom-ref"].as_str()));
            }
            json!({"ref": address, "dependsOn": needs})
        };
        let dependencies: Vec<_> = self.crates.iter().map(of_crate).collect();
        let mut git = cmd::command("date");
        git.args(["--utc", "--date", &format!("@{time}"), "+%Y-%m-%dT%H:%M:%SZ"]);
        let bill = json!({
            "bomFormat": "CycloneDX",
            "specVersion": "1.5",
            "version": 1,
            "metadata": {
                "timestamp": cmd::output(&mut git)?,
                "component": {
                    "type": "application",
                    "bom-ref": main,
                    "name": "observer",
                    "version": VERSION,
                    "licenses": [{"expression": self.crates[&main].license}],
                    "purl": main,
                },
            },
            "components": components,
            "dependencies": dependencies,
        });
        Ok(serde_json::to_vec_pretty(&bill)?)
    }

    /// The licences of all crates of others, each text once.
    pub(super) fn notices(&self) -> Result<String> {
        let mut texts: BTreeMap<String, (String, BTreeSet<String>)> = BTreeMap::new();
        let mut of_crates = Vec::new();
        for one in self.crates.values().filter(|one| !one.is_ours) {
            let title = format!("{} {}", one.name, one.version);
            of_crates.push(format!("{title}: {}", one.license));
            for path in license_files(&one.directory)? {
                let text = String::from_utf8_lossy(&fs::read(&path)?).trim().to_owned();
                let (_, of) =
                    texts.entry(sha256(text.as_bytes())).or_insert((text, BTreeSet::new()));
                of.insert(title.clone());
            }
        }
        let head = "observer is linked with these crates, each under the licence behind it.\n";
        let texts = texts.into_values().map(|(text, of)| {
            let of = of.into_iter().collect::<Vec<_>>().join(", ");
            format!("\n{}\n{of}\n\n{text}", "-".repeat(78))
        });
        let notices: Vec<String> =
            [head.to_owned()].into_iter().chain(of_crates).chain(texts).collect();
        let notices = notices.join("\n") + "\n";
        Ok(notices)
    }
}

/// Files of a crate whose names say that they hold its licence, in order.
fn license_files(directory: &std::path::Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().to_uppercase();
        let is_one = ["LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE", "UNLICENSE"];
        if entry.file_type()?.is_file() && is_one.iter().any(|of| name.starts_with(of)) {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}

/// How package managers call a crate.
fn address(name: &str, version: &str) -> String {
    format!("pkg:cargo/{name}@{version}")
}

/// Name and version of each crate that is linked.
fn linked(cross: &Cross) -> Result<BTreeSet<(String, String)>> {
    let mut linked = BTreeSet::new();
    for part in PARTS {
        let mut tree = cmd::cargo(&["tree", "--locked", "--prefix=none", "--format={p}"]);
        tree.args(["--edges=normal,no-proc-macro", "--target", cross.target, "--package", part]);
        linked.extend(cmd::output(&mut tree)?.lines().filter_map(crate_of));
    }
    Ok(linked)
}

/// A line of cargo's tree, as `aya v0.14.0` or `observer v0.1.0 (/path) (*)`.
fn crate_of(line: &str) -> Option<(String, String)> {
    let mut words = line.split_whitespace();
    Some((words.next()?.to_owned(), words.next()?.strip_prefix('v')?.to_owned()))
}

/// The checksums in a lock file, by name and version.
fn checksums(lock: &str) -> BTreeMap<(&str, &str), &str> {
    lock.split("[[package]]").skip(1).filter_map(checksum).collect()
}

fn checksum(package: &str) -> Option<((&str, &str), &str)> {
    let field = |name: &str| {
        let mut fields = package.lines().filter_map(|line| line.split_once(" = "));
        let (_, value) = fields.find(|(field, _)| *field == name)?;
        value.strip_prefix('"')?.strip_suffix('"')
    };
    Some(((field("name")?, field("version")?), field("checksum")?))
}

/// The standard library, and the C library that is linked in.
fn libraries(cross: &Cross) -> Vec<Value> {
    let package = if cross.is_native() {
        "libc6-dev".to_owned()
    } else {
        let name = if *cross == crate::cross::ARM64 { "arm64" } else { "amd64" };
        format!("libc6-dev-{name}-cross")
    };
    let mut rustc = cmd::command("rustc");
    rustc.arg("--version").current_dir(cmd::workspace());
    let rust = cmd::output(&mut rustc).ok();
    let rust = rust.as_deref().and_then(|text| text.split_whitespace().nth(1)).unwrap_or("unknown");
    let mut query = cmd::command("dpkg-query");
    // Elsewhere it is another C library's, which we do not know.
    let c = cmd::output(query.args(["--show", "--showformat=${Version}", &package])).ok();
    let one = |name: &str, version: &str, license: &str, purl: String| {
        json!({
            "type": "library", "bom-ref": purl, "name": name, "version": version,
            "scope": "required", "licenses": [{"expression": license}], "purl": purl,
        })
    };
    let std = one("std", rust, "MIT OR Apache-2.0", format!("pkg:generic/rust-std@{rust}"));
    let c = c.map(|version| {
        let purl = format!("pkg:deb/debian/{package}@{}", version.replace('+', "%2B"));
        one("glibc", &version, "LGPL-2.1-or-later", purl)
    });
    [Some(std), c].into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_tree_name_crates() {
        let of = |name: &str, version: &str| Some((name.to_owned(), version.to_owned()));
        assert_eq!(crate_of("aya v0.14.0"), of("aya", "0.14.0"));
        assert_eq!(crate_of("observer v0.1.0 (/home/me/observer) (*)"), of("observer", "0.1.0"));
        assert_eq!(crate_of(""), None);
    }

    #[test]
    fn each_crate_of_others_has_a_checksum() {
        let lock = fs::read_to_string(cmd::workspace().join("Cargo.lock")).unwrap();
        let checksums = checksums(&lock);
        let locked = lock.matches("\nchecksum = ").count();
        assert_eq!(checksums.len(), locked);
        assert!(checksums.values().all(|sum| sum.len() == 64));
        assert!(checksums.keys().any(|(name, _)| *name == "aya"));
    }
}
