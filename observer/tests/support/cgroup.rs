//! cgroups of the tests' own, to play pods with.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::ErrorKind,
    os::unix::{fs::MetadataExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::{LazyLock, Mutex, PoisonError},
    time::Duration,
};

use nix::unistd::write;

use super::{lock::require_root, poll::poll};

/// How long processes may take to leave a cgroup that is to be removed.
const EMPTY: Duration = Duration::from_secs(10);

/// How many [`TestCgroup`]s stand on each directory that this process has made: siblings share
/// their parents, and the last one to go takes them along.
static MADE: Mutex<BTreeMap<PathBuf, usize>> = Mutex::new(BTreeMap::new());

/// The mount point of the cgroup v2 tree.
pub(crate) static ROOT: LazyLock<PathBuf> = LazyLock::new(|| {
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("cannot read mountinfo");
    root_in(&mounts).expect("cgroup v2 is not mounted: the tests need it, as the observer does")
});

/// The first cgroup v2 mount in the text of a mountinfo file.
pub(crate) fn root_in(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        // 38 31 0:35 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw
        let (mount, filesystem) = line.split_once(" - ")?;
        let mount_point = mount.split(' ').nth(4)?;
        filesystem.starts_with("cgroup2 ").then(|| mount_point.into())
    })
}

/// A cgroup that exists as long as this value does.
///
/// Declare it before the processes inside, so that it is dropped after them.
pub(crate) struct TestCgroup {
    path: PathBuf,
    /// The parts of the path that this process has made, outermost first.
    made: Vec<PathBuf>,
}

impl TestCgroup {
    /// Makes the cgroup `name` below the root, with all of its parents.
    ///
    /// The name may be nested and shaped like a pod's:
    /// `kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod<uid>.slice/cri-containerd-<id>.scope`.
    pub(crate) fn new(name: &str) -> Self {
        require_root();
        let mut cgroup = Self { path: ROOT.clone(), made: Vec::new() };
        // Taken second, so that a panic gives it back before `drop` needs it.
        let mut registry = MADE.lock().unwrap_or_else(PoisonError::into_inner);
        for part in name.split('/').filter(|part| !part.is_empty()) {
            cgroup.path.push(part);
            let path = &cgroup.path;
            match fs::create_dir(path) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    // Ours, or somebody else's: then it stays.
                    if let Some(users) = registry.get_mut(path) {
                        *users += 1;
                        cgroup.made.push(path.clone());
                    }
                }
                Err(error) => panic!("cannot make the cgroup {}: {error}", path.display()),
                Ok(()) => {
                    registry.insert(path.clone(), 1);
                    cgroup.made.push(path.clone());
                }
            }
        }
        cgroup
    }

    /// A cgroup as the kubelet's systemd driver and containerd name it, for a best-effort pod.
    ///
    /// `pod_uid` is a UUID with dashes, `container` the 64 hexadecimal digits of an id.
    pub(crate) fn pod(pod_uid: &str, container: &str) -> Self {
        let uid = pod_uid.replace('-', "_");
        Self::new(&format!(
            "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{uid}.slice/\
             cri-containerd-{container}.scope"
        ))
    }

    /// The directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The path below the root with a leading slash, as `/proc/<pid>/cgroup` shows it.
    pub(crate) fn name(&self) -> String {
        let below = self.path.strip_prefix(&*ROOT).expect("it was made below the root");
        format!("/{}", below.display())
    }

    /// The kernel's id of the cgroup, `bpf_sk_cgroup_id` in BPF.
    pub(crate) fn id(&self) -> u64 {
        fs::metadata(&self.path).expect("the cgroup is there").ino()
    }

    /// Makes the command's process enter the cgroup before it executes anything.
    pub(crate) fn enter<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        let path = self.path.join("cgroup.procs");
        let procs = File::options()
            .write(true)
            .open(&path)
            .unwrap_or_else(|error| panic!("cannot open {}: {error}", path.display()));
        // Zero stands for the writer.
        let enter = move || Ok(write(&procs, b"0").map(drop)?);
        // SAFETY: between fork and exec the closure makes one write(2) to a file that was opened
        // before. It neither allocates nor takes a lock.
        unsafe { command.pre_exec(enter) }
    }

    /// Moves a process that runs already into the cgroup; its sockets stay with the one they were made in.
    pub(crate) fn take_in(&self, process: u32) {
        let path = self.path.join("cgroup.procs");
        fs::write(&path, process.to_string())
            .unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
    }

    /// Starts the command inside the cgroup.
    pub(crate) fn spawn_in(&self, command: &mut Command) -> Child {
        self.enter(command)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"))
    }
}

impl Drop for TestCgroup {
    fn drop(&mut self) {
        let mut registry = MADE.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(path) = self.made.pop() {
            let users = registry.get_mut(&path).expect("what was made is registered");
            *users -= 1;
            if *users == 0 {
                registry.remove(&path);
                remove(&path);
            }
        }
    }
}

/// Removes a cgroup once its processes have gone. Those that do not go are killed: only children
/// of the test can be in a cgroup that the test made.
fn remove(path: &Path) {
    let empty = || fs::remove_dir(path).ok();
    if poll(EMPTY, empty).is_none() {
        eprintln!("killing what is left in the cgroup {}", path.display());
        let _ = fs::write(path.join("cgroup.kill"), "1");
        if poll(EMPTY, empty).is_none() {
            eprintln!("the cgroup {} could not be removed", path.display());
        }
    }
}
