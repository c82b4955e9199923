//! What Docker and Podman call their containers, read from the files in which they keep their own state.
//!
//! | runtime | file below its directory | what is read of it |
//! |---|---|---|
//! | Docker | `containers/ID/config.v2.json` | `Name`, with a `/` before it |
//! | Podman | `DRIVER-containers/containers.json` and `volatile-containers.json` (of containers/storage) | `id` and the first of `names` |
//!
//! Both write a container's state before they start it, and put a new file in the place of the old one. A container is looked
//! for once, when its cgroup is met: its labels must not change while it lives. Whatever cannot be read, or is no name that
//! a runtime would give, leaves the container with its id.

use std::{
    collections::HashMap,
    fs::OpenOptions,
    io::{BufReader, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use nix::libc::{O_NOFOLLOW, O_NONBLOCK};
use serde::{Deserialize, de::DeserializeOwned};

use super::{Identity, Kind};

/// Bytes that are read of a file at most. Docker's has some 5 KB, Podman's one for each container.
const MAX_FILE: u64 = 16 << 20;

/// Longest name. The runtimes have no limit of their own, but this is that of a label.
const MAX_NAME: usize = 253;

/// The drivers of containers/storage, each of which has a directory of its own.
const DRIVERS: [&str; 4] = ["overlay", "vfs", "btrfs", "zfs"];

/// The directories of state, and what was read there since [`begin`](Self::begin).
#[derive(Debug, Default)]
pub(super) struct Runtimes {
    directories: Vec<PathBuf>,
    /// Names of Docker's containers that were asked for.
    docker: HashMap<String, Option<String>>,
    /// Names of all of Podman's containers, if one was asked for.
    podman: Option<HashMap<String, String>>,
}

/// A state of Docker's.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Docker {
    name: String,
}

/// A container of containers/storage.
#[derive(Deserialize)]
struct Stored {
    id: String,
    #[serde(default)]
    names: Vec<String>,
}

impl Runtimes {
    pub(super) fn new(directories: Vec<PathBuf>) -> Self {
        Self { directories, ..Self::default() }
    }

    /// What was read before may be outdated.
    pub(super) fn begin(&mut self) {
        self.docker.clear();
        self.podman = None;
    }

    /// The identity with its runtime's name instead of the id, if that is known.
    pub(super) fn name(&mut self, identity: Identity) -> Identity {
        if identity.kind != Kind::Container || self.directories.is_empty() {
            return identity;
        }
        let Some(id) = identity.container_id.as_deref().filter(|id| is_id(id)) else {
            return identity;
        };
        let name = match identity.namespace.as_str() {
            "docker" => self.of_docker(id),
            "podman" => self.of_podman(id),
            _ => None,
        };
        match name {
            // One that is made anew with the same name goes on where the one before it has ended, as a unit does.
            Some(pod) => Identity { pod, container_id: None, ..identity },
            None => identity,
        }
    }

    fn of_docker(&mut self, id: &str) -> Option<String> {
        if let Some(name) = self.docker.get(id) {
            return name.clone();
        }
        let file = Path::new("containers").join(id).join("config.v2.json");
        let mut found = self.directories.iter().filter_map(|of| read::<Docker>(&of.join(&file)));
        let name = found.next().and_then(|Docker { name }| valid(name.strip_prefix('/')?));
        self.docker.insert(id.to_owned(), name.clone());
        name
    }

    fn of_podman(&mut self, id: &str) -> Option<String> {
        let directories = &self.directories;
        self.podman.get_or_insert_with(|| stored(directories)).get(id).cloned()
    }
}

/// All containers of containers/storage that have names.
fn stored(directories: &[PathBuf]) -> HashMap<String, String> {
    let files = directories.iter().flat_map(|directory| {
        DRIVERS.iter().flat_map(move |driver| {
            let of_driver = directory.join(format!("{driver}-containers"));
            ["containers.json", "volatile-containers.json"].map(|name| of_driver.join(name))
        })
    });
    let stored = files.filter_map(|file| read::<Vec<Stored>>(&file)).flatten();
    stored.filter_map(|of| Some((of.id, valid(of.names.first()?)?))).collect()
}

/// Whether it is what both runtimes number containers with, and nothing that leads elsewhere as a part of a path.
fn is_id(id: &str) -> bool {
    id.len() == 64 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// The name, if a runtime accepts it for a container.
fn valid(name: &str) -> Option<String> {
    let starts_well = name.starts_with(|first: char| first.is_ascii_alphanumeric());
    let is_well = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
    (starts_well && is_well && name.len() <= MAX_NAME).then(|| name.to_owned())
}

/// What a file holds; nothing if it is no regular file, too large or something else.
fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    // Opening a pipe must not wait for its other end.
    let file = OpenOptions::new().read(true).custom_flags(O_NOFOLLOW | O_NONBLOCK).open(path);
    let file = file.ok()?;
    let metadata = file.metadata().ok()?;
    if !metadata.is_file() || metadata.len() > MAX_FILE {
        return None;
    }
    serde_json::from_reader(BufReader::new(file.take(MAX_FILE))).ok()
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::symlink,
        time::{Duration, Instant},
    };

    use nix::{sys::stat::Mode, unistd::mkfifo};
    use proptest::prelude::*;
    use tempfile::TempDir;

    use super::super::identify;
    use super::*;

    const ID: &str = "3f4e1a5b9c7d2e8f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7";
    const ID2: &str = "b05c9e2d7f1a4836b05c9e2d7f1a4836b05c9e2d7f1a4836b05c9e2d7f1a4836";

    /// Directories as both runtimes leave them, with all fields that they write.
    struct State(TempDir);

    impl State {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn docker(&self, id: &str, text: &str) {
            let directory = self.0.path().join("docker/containers").join(id);
            fs::create_dir_all(&directory).unwrap();
            fs::write(directory.join("config.v2.json"), text).unwrap();
        }

        fn podman(&self, file: &str, text: &str) {
            let path = self.0.path().join("storage").join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn runtimes(&self) -> Runtimes {
            Runtimes::new(["docker", "storage"].map(|of| self.0.path().join(of)).into())
        }
    }

    /// As dockerd 20.10 to 28 write it, shortened in its lists.
    fn docker(id: &str, name: &str) -> String {
        serde_json::json!({
            "StreamConfig": {},
            "State": {"Running": true, "Pid": 4242, "ExitCode": 0, "Health": null},
            "ID": id,
            "Created": "2026-11-20T11:32:45.767902Z",
            "Managed": false,
            "Path": "/docker-entrypoint.sh",
            "Args": ["nginx", "-g", "daemon off;"],
            "Config": {"Hostname": &id[..12], "Env": ["Name=/not-this"], "Labels": {"Name": "nor-this"}},
            "Image": "sha256:0f3e", "Name": name, "Driver": "overlay2", "OS": "linux",
            "NetworkSettings": {"Networks": {"bridge": {"Name": "nor-that"}}},
        })
        .to_string()
    }

    /// As containers/storage 1.43 to 1.57 write it.
    fn stored(containers: &[(&str, &[&str])]) -> String {
        let containers = containers.iter().map(|(id, names)| {
            let mut container = serde_json::json!({
                "id": id, "image": "9d32", "layer": "8b1c",
                "metadata": "{\"image-name\":\"docker.io/library/nginx:latest\",\"name\":\"other\"}",
                "big-data-names": ["artifacts"], "created": "2026-11-20T11:32:45.767902Z",
                "flags": {"MountLabel": "", "ProcessLabel": ""},
            });
            if !names.is_empty() {
                container["names"] = serde_json::json!(names);
            }
            container
        });
        containers.collect::<serde_json::Value>().to_string()
    }

    fn named(runtimes: &mut Runtimes, path: &str) -> (String, String, Option<String>) {
        let identity = runtimes.name(identify(path));
        assert_eq!(identity.container, "");
        (identity.namespace, identity.pod, identity.container_id)
    }

    #[test]
    fn containers_go_by_the_names_of_their_runtimes() {
        let state = State::new();
        state.docker(ID, &docker(ID, "/shop-web-1"));
        state.podman("overlay-containers/containers.json", &stored(&[(ID2, &["db", "alias"])]));
        state.podman("overlay-containers/volatile-containers.json", &stored(&[(ID, &["once"])]));
        let mut runtimes = state.runtimes();
        for (path, namespace, name) in [
            (format!("/system.slice/docker-{ID}.scope"), "docker", "shop-web-1"),
            (format!("/docker/{ID}/system.slice/inner.service"), "docker", "shop-web-1"),
            (format!("/machine.slice/libpod-{ID2}.scope/container"), "podman", "db"),
            (format!("/machine.slice/libpod-{ID}.scope/container"), "podman", "once"),
        ] {
            let expected = (namespace.to_owned(), name.to_owned(), None);
            assert_eq!(named(&mut runtimes, &path), expected, "{path}");
        }
    }

    #[test]
    fn what_has_no_name_keeps_its_id() {
        let state = State::new();
        state.podman("vfs-containers/containers.json", &stored(&[(ID, &[])]));
        let mut runtimes = state.runtimes();
        for path in [format!("/docker/{ID2}"), format!("/libpod_parent/libpod-{ID}")] {
            let before = identify(&path);
            assert_eq!(runtimes.name(before.clone()), before);
        }
        // Neither pods nor units nor containers of others are looked for.
        state.docker(ID, &docker(ID, "/taken"));
        for path in [
            format!("/kubepods/pod57e67067-89e4-4001-bdd4-8632d39ea02b/{ID}"),
            "/system.slice/nginx.service".to_owned(),
            format!("/default/{ID}"),
            "/docker/buildkit/5cf82fwiumld3vcs5d5l5pzyv".to_owned(),
        ] {
            let before = identify(&path);
            assert_eq!(runtimes.name(before.clone()), before);
        }
    }

    #[test]
    fn what_is_read_is_read_once_until_the_next_walk() {
        let state = State::new();
        let path = format!("/docker/{ID}");
        let mut runtimes = state.runtimes();
        assert_eq!(named(&mut runtimes, &path).1, ID[..12]);
        state.docker(ID, &docker(ID, "/late"));
        assert_eq!(named(&mut runtimes, &path).1, ID[..12]);
        runtimes.begin();
        assert_eq!(named(&mut runtimes, &path).1, "late");
    }

    #[test]
    fn names_that_no_runtime_gives_are_none() {
        let state = State::new();
        let mut runtimes = state.runtimes();
        let long = format!("/{}", "a".repeat(MAX_NAME + 1));
        for name in
            ["", "/", "web", "//web", "/-web", "/w\"eb", "/w\neb", "/../web", "/wéb", "/w b", &long]
        {
            state.docker(ID, &docker(ID, name));
            runtimes.begin();
            assert_eq!(named(&mut runtimes, &format!("/docker/{ID}")).1, ID[..12], "{name}");
        }
        let longest = "a".repeat(MAX_NAME);
        state.docker(ID, &docker(ID, &format!("/{longest}")));
        runtimes.begin();
        assert_eq!(named(&mut runtimes, &format!("/docker/{ID}")).1, longest);
    }

    #[test]
    fn no_file_holds_it_up() {
        let state = State::new();
        let directory = state.0.path().join("docker/containers").join(ID);
        fs::create_dir_all(&directory).unwrap();
        let file = directory.join("config.v2.json");
        let elsewhere = state.0.path().join("elsewhere");
        fs::write(&elsewhere, docker(ID, "/elsewhere")).unwrap();
        let started = Instant::now();
        let make: [&dyn Fn(); 5] = [
            &|| mkfifo(&file, Mode::S_IRWXU).unwrap(),
            &|| symlink("/dev/zero", &file).unwrap(),
            &|| symlink(&elsewhere, &file).unwrap(),
            &|| fs::create_dir(&file).unwrap(),
            &|| fs::File::create(&file).unwrap().set_len(MAX_FILE + 1).unwrap(),
        ];
        for make in make {
            make();
            let mut runtimes = state.runtimes();
            assert_eq!(named(&mut runtimes, &format!("/docker/{ID}")).1, ID[..12]);
            if file.is_dir() { fs::remove_dir(&file) } else { fs::remove_file(&file) }.unwrap();
        }
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    }

    proptest! {
        #[test]
        fn any_file_leaves_a_name_or_the_id(text in prop_oneof![
            ".*",
            "\\{\"Name\":\"/.{0,4}\"\\}",
            "(\\[\\{\"id\":\"){0,3}.*",
        ]) {
            let state = State::new();
            state.docker(ID, &text);
            state.podman("overlay-containers/containers.json", &text);
            let mut runtimes = state.runtimes();
            for path in [format!("/docker/{ID}"), format!("/libpod_parent/libpod-{ID}")] {
                let (_, pod, _) = named(&mut runtimes, &path);
                prop_assert!(pod == ID[..12] || valid(&pod).is_some());
            }
        }
    }
}
