//! Which path a cgroup id stands for.
//!
//! The kernel counts by cgroup id, a 64-bit number. It is the inode number of the cgroup's
//! directory (on 64-bit kernels; kernfs gives no number out twice), so one walk of the tree names
//! every cgroup there is. [`CgroupIndex`] keeps the result, including those that are gone, until it
//! is told to forget them: their last counts still have to be exported.
//!
//! A cgroup that lives and dies between two walks is never seen. Refresh about once a second, not
//! only when an unknown id turns up, and few are missed: a walk costs some 3 µs per cgroup.
//! Whoever hears of a cgroup in another way hands it to [`CgroupIndex::learn`]: the tracepoint
//! `cgroup:cgroup_mkdir` carries id and path of each new one (`root` 0 is version 2), and
//! `open_by_handle_at` with the id as file handle opens the directory of any that still exists.

use std::collections::hash_map::{Entry as Slot, HashMap};
use std::collections::{HashSet, VecDeque};
use std::ffi::OsString;
use std::fs::{self, DirEntry, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::runtimes::Runtimes;
use super::{Identity, identify, number};

/// What bounds a walk and the memory of the dead. A container may be allowed to make cgroups of
/// its own, so a tree can be as large as someone wants it to be.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// Levels below the root that are walked. Kubelets nested in containers need about ten.
    depth: usize,
    /// Cgroups taken note of in one walk; the ones nearest to the root come first.
    cgroups: usize,
    /// Cgroups remembered after their end; those that ended first go first.
    dead: usize,
}

const LIMITS: Limits = Limits { depth: 64, cgroups: 1 << 16, dead: 1 << 16 };

/// The identities of a node's cgroups by id.
#[derive(Debug)]
pub struct CgroupIndex {
    root: PathBuf,
    limits: Limits,
    runtimes: Runtimes,
    entries: HashMap<u64, Entry>,
    /// Ids that were looked for and are not in the tree, as far as it can be seen.
    missing: HashSet<u64>,
    /// How often the tree was walked.
    walks: u64,
    skipped: u64,
}

#[derive(Debug)]
struct Entry {
    identity: Arc<Identity>,
    /// Of whom it belongs to, by its path alone: it is the same for every daemon.
    number: u64,
    /// Relative to the root.
    path: PathBuf,
    /// The last walk (by number) at which it existed.
    seen: u64,
}

impl CgroupIndex {
    /// An empty index of the cgroup-v2 tree mounted at `root`; [`refresh`](Self::refresh) fills it.
    pub fn new(root: PathBuf) -> Self {
        Self {
            root,
            limits: LIMITS,
            runtimes: Runtimes::default(),
            entries: HashMap::new(),
            missing: HashSet::new(),
            walks: 0,
            skipped: 0,
        }
    }

    /// Has containers go by the names that Docker and Podman gave them, as far as these directories of their state tell.
    #[must_use]
    pub fn with_names_of(self, directories: Vec<PathBuf>) -> Self {
        Self { runtimes: Runtimes::new(directories), ..self }
    }

    /// Who the cgroup `id` is or was, without looking at the tree. `None` if no walk has met it.
    pub fn resolve(&self, id: u64) -> Option<Arc<Identity>> {
        self.entries.get(&id).map(|entry| Arc::clone(&entry.identity))
    }

    /// Whether a refresh is worth its while for one of these cgroups: it is not known, and this was not said of it before.
    /// A cgroup that counts is older than its counts, so what one refresh does not find, the regular ones may; a walk for
    /// it alone, at every look, would be for nothing.
    pub fn asks_for_refresh(&mut self, ids: impl IntoIterator<Item = u64>) -> bool {
        let mut asks = false;
        for id in ids {
            asks |= !self.entries.contains_key(&id) && self.missing.insert(id);
        }
        asks
    }

    /// Whether the cgroup `id` existed at the last refresh (or was learnt after it).
    pub fn is_alive(&self, id: u64) -> bool {
        self.entries.get(&id).is_some_and(|entry| entry.seen == self.walks)
    }

    /// The UIDs of the pods of which a cgroup existed at the last refresh.
    pub fn pods(&self) -> HashSet<&str> {
        let alive = self.entries.values().filter(|entry| entry.seen == self.walks);
        alive.filter_map(|entry| entry.identity.pod_uid.as_deref()).collect()
    }

    /// The cgroups of pods that existed at the last refresh, each with the pod's UID.
    pub fn of_pods(&self) -> impl Iterator<Item = (u64, &str)> {
        let alive = self.entries.iter().filter(|(_, entry)| entry.seen == self.walks);
        alive.filter_map(|(&id, entry)| Some((id, entry.identity.pod_uid.as_deref()?)))
    }

    /// Who has a cgroup that existed at the last refresh, several times if several.
    pub fn alive(&self) -> impl Iterator<Item = &Arc<Identity>> {
        let alive = self.entries.values().filter(|entry| entry.seen == self.walks);
        alive.map(|entry| &entry.identity)
    }

    /// The cgroups that existed at the last refresh, each with the number of whom it belongs to.
    pub fn numbers(&self) -> impl Iterator<Item = (u64, u64)> {
        let alive = self.entries.iter().filter(|(_, entry)| entry.seen == self.walks);
        alive.map(|(&id, entry)| (id, entry.number))
    }

    /// The number of whom the cgroup `id` belongs to; `None` if no walk has met it.
    pub fn number(&self, id: u64) -> Option<u64> {
        self.entries.get(&id).map(|entry| entry.number)
    }

    /// How many cgroups have a name here, dead ones included.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no cgroup has a name here.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many directories the last refresh did not look into because they could not be read, lay
    /// too deep, or were too many. New cgroups below them stay unknown; known ones do not count as
    /// dead for it.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Brings the index up to date with the tree.
    ///
    /// # Errors
    /// If the root cannot be read; the index is as before then. Cgroups that vanish during the
    /// walk are no error.
    pub fn refresh(&mut self) -> io::Result<()> {
        let walk = Walk::of(&self.root, self.limits)?;
        self.walks += 1;
        self.skipped = walk.skipped;
        self.runtimes.begin();
        for (id, path) in walk.found {
            self.note(id, path);
        }
        if self.skipped > 0 {
            self.look_up_unseen();
        }
        self.drop_oldest_dead();
        Ok(())
    }

    /// Takes note of a cgroup that someone saw in another way than by a walk: `path` is relative
    /// to the root, with or without a leading `/`. It counts as alive until the next refresh.
    pub fn learn(&mut self, id: u64, path: &str) {
        if self.entries.len() < self.limits.cgroups + self.limits.dead {
            self.note(id, PathBuf::from(path.trim_start_matches('/')));
        }
    }

    /// Forgets the cgroup `id`. If it still exists the next refresh finds it again.
    pub fn forget(&mut self, id: u64) {
        self.entries.remove(&id);
    }

    /// Forgets all cgroups that are gone and for which `in_use` is false: those that no count
    /// refers to any more. A cgroup is spared by the refresh that first missed it, since its last
    /// counts may be younger than the caller's knowledge.
    pub fn forget_dead(&mut self, in_use: impl Fn(u64) -> bool) {
        let walks = self.walks;
        self.entries.retain(|&id, entry| entry.seen + 1 >= walks || in_use(id));
        let known = &self.entries;
        self.missing.retain(|&id| !known.contains_key(&id) && in_use(id));
    }

    /// Records that `id` exists at `path`.
    fn note(&mut self, id: u64, path: PathBuf) {
        let seen = self.walks;
        match self.entries.entry(id) {
            Slot::Occupied(mut slot) if slot.get().path == path => slot.get_mut().seen = seen,
            // One directory at two places is a bind mount: the path nearer to the root is the one.
            Slot::Occupied(slot) if slot.get().seen == seen => {}
            // The same number at another path: not the cgroup that had it before.
            slot => {
                let identity = identify(&path.to_string_lossy());
                let number = number(&identity);
                let identity = Arc::new(self.runtimes.name(identity));
                slot.insert_entry(Entry { identity, number, path, seen });
            }
        }
    }

    /// Looks for the known cgroups that an incomplete walk did not meet, one by one.
    fn look_up_unseen(&mut self) {
        for (&id, entry) in self.entries.iter_mut().filter(|(_, entry)| entry.seen < self.walks) {
            let found = fs::symlink_metadata(self.root.join(&entry.path));
            if found.is_ok_and(|metadata| metadata.ino() == id) {
                entry.seen = self.walks;
            }
        }
    }

    /// Keeps the number of dead cgroups within its limit, should nobody forget them.
    fn drop_oldest_dead(&mut self) {
        let dead = self.entries.iter().filter(|(_, entry)| entry.seen < self.walks);
        let mut dead: Vec<(u64, u64)> = dead.map(|(&id, entry)| (entry.seen, id)).collect();
        let excess = dead.len().saturating_sub(self.limits.dead);
        if excess > 0 {
            dead.sort_unstable();
            for (_, id) in &dead[..excess] {
                self.entries.remove(id);
            }
        }
    }
}

/// What one pass over the tree finds, breadth first.
struct Walk {
    /// Id and path relative to the root.
    found: Vec<(u64, PathBuf)>,
    /// Directories whose children were not looked at, though there may be some.
    skipped: u64,
}

impl Walk {
    fn of(root: &Path, limits: Limits) -> io::Result<Self> {
        let mut walk =
            Self { found: vec![(fs::metadata(root)?.ino(), PathBuf::new())], skipped: 0 };
        let mut queue = VecDeque::from([(PathBuf::new(), 0)]);
        while let Some((directory, depth)) = queue.pop_front() {
            if depth == limits.depth || walk.found.len() >= limits.cgroups {
                walk.skipped += 1;
                continue;
            }
            match walk.children(root, &directory, limits) {
                Ok(inner) => queue.extend(inner.into_iter().map(|path| (path, depth + 1))),
                Err(error) if depth == 0 => return Err(error),
                // It went away meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(_) => walk.skipped += 1,
            }
        }
        Ok(walk)
    }

    /// Takes note of the children of `directory`; returns those that have children themselves.
    fn children(
        &mut self,
        root: &Path,
        directory: &Path,
        limits: Limits,
    ) -> io::Result<Vec<PathBuf>> {
        let mut inner = Vec::new();
        for entry in fs::read_dir(root.join(directory))? {
            let Some((name, metadata)) = subdirectory(&entry?) else { continue };
            if self.found.len() >= limits.cgroups {
                self.skipped += 1;
                break;
            }
            let path = directory.join(name);
            if !is_leaf(&metadata) {
                inner.push(path.clone());
            }
            self.found.push((metadata.ino(), path));
        }
        Ok(inner)
    }
}

/// Name and metadata of `entry` if it is a directory (no symbolic link to one) and still there.
fn subdirectory(entry: &DirEntry) -> Option<(OsString, Metadata)> {
    // The type stands in the listing: the many control files of a cgroup cost no system call.
    entry.file_type().ok()?.is_dir().then_some(())?;
    Some((entry.file_name(), entry.metadata().ok()?))
}

/// Whether a directory is known to have no subdirectory: each holds a link (`..`) to its parent,
/// which has two of its own. cgroupfs counts them so, as do tmpfs and ext4; a file system that
/// does not says one. Most cgroups are leaves, and listing their files is what a walk costs.
fn is_leaf(metadata: &Metadata) -> bool {
    metadata.nlink() == 2
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use anyhow::Result;
    use tempfile::TempDir;

    use super::super::Kind;
    use super::*;

    /// A directory that stands in for the tree.
    struct Tree(TempDir);

    impl Tree {
        fn new() -> Result<Self> {
            Ok(Self(TempDir::new()?))
        }

        /// Makes the cgroup `path` and its parents; returns its id.
        fn add(&self, path: &str) -> Result<u64> {
            fs::create_dir_all(self.0.path().join(path))?;
            self.id(path)
        }

        fn id(&self, path: &str) -> Result<u64> {
            Ok(fs::metadata(self.0.path().join(path))?.ino())
        }

        fn remove(&self, path: &str) -> Result<()> {
            Ok(fs::remove_dir_all(self.0.path().join(path))?)
        }

        fn index(&self) -> Result<CgroupIndex> {
            let mut index = CgroupIndex::new(self.0.path().to_owned());
            index.refresh()?;
            Ok(index)
        }

        fn limited(&self, limits: Limits) -> CgroupIndex {
            CgroupIndex { limits, ..CgroupIndex::new(self.0.path().to_owned()) }
        }
    }

    fn pod_of(index: &CgroupIndex, id: u64) -> Option<String> {
        index.resolve(id).map(|identity| identity.pod.clone())
    }

    #[test]
    fn names_every_directory_and_nothing_else() -> Result<()> {
        let tree = Tree::new()?;
        let nginx = tree.add("system.slice/nginx.service")?;
        let nested = tree.add("system.slice/nginx.service/a/b")?;
        let container = tree.add(&format!("docker/{}", "ab".repeat(32)))?;
        fs::write(tree.0.path().join("system.slice/cgroup.procs"), "")?;
        symlink(tree.0.path(), tree.0.path().join("loop"))?;

        let index = tree.index()?;
        assert_eq!(index.len(), 7, "{index:?}");
        assert_eq!(pod_of(&index, tree.id("")?).as_deref(), Some("/"));
        assert_eq!(pod_of(&index, tree.id("system.slice")?).as_deref(), Some("system.slice"));
        assert_eq!(pod_of(&index, nginx).as_deref(), Some("nginx.service"));
        assert_eq!(index.resolve(nested), index.resolve(nginx));
        assert_eq!(index.resolve(container).map(|found| found.kind), Some(Kind::Container));
        assert_eq!(index.resolve(tree.id("system.slice/cgroup.procs")?), None);
        assert_eq!(index.skipped(), 0);
        Ok(())
    }

    #[test]
    fn a_container_has_the_name_that_it_had_when_it_was_met() -> Result<()> {
        let (tree, state) = (Tree::new()?, TempDir::new()?);
        let id = "ab".repeat(32);
        let of_docker = state.path().join("containers").join(&id);
        fs::create_dir_all(&of_docker)?;
        fs::write(of_docker.join("config.v2.json"), r#"{"Name":"/web"}"#)?;
        let container = tree.add(&format!("docker/{id}"))?;
        let mut index = tree.index()?.with_names_of(vec![state.path().to_owned()]);
        let without = index.number(container);
        index.forget(container);
        index.refresh()?;
        assert_eq!(pod_of(&index, container).as_deref(), Some("web"));
        assert_eq!(index.number(container), without, "the kernel programs know it by its id");
        fs::write(of_docker.join("config.v2.json"), r#"{"Name":"/renamed"}"#)?;
        index.refresh()?;
        assert_eq!(pod_of(&index, container).as_deref(), Some("web"));
        Ok(())
    }

    #[test]
    fn finds_new_cgroups_only_by_refresh() -> Result<()> {
        let tree = Tree::new()?;
        let mut index = tree.index()?;
        let late = tree.add("late.service")?;
        assert_eq!((index.resolve(late), index.is_alive(late)), (None, false));
        index.refresh()?;
        assert_eq!(pod_of(&index, late).as_deref(), Some("late.service"));
        assert!(index.is_alive(late));
        Ok(())
    }

    #[test]
    fn a_walk_is_asked_for_once_for_each_unknown_id() -> Result<()> {
        let tree = Tree::new()?;
        let mut index = tree.index()?;
        let (late, never) = (tree.add("late.service")?, u64::MAX);
        assert!(index.asks_for_refresh([never, late]));
        index.refresh()?;
        for _ in 0..3 {
            assert!(!index.asks_for_refresh([late, never]), "looked for already");
        }
        assert!(index.asks_for_refresh([never, never - 1]), "one that is new");
        // As long as it counts it stays remembered.
        index.refresh()?;
        index.forget_dead(|id| id == never);
        assert!(!index.asks_for_refresh([never]));
        assert_eq!(index.missing.len(), 1);
        // What is seen again, and forgotten once more, is unknown anew.
        index.learn(never, "brief.service");
        index.forget_dead(|_| true);
        index.forget(never);
        assert!(index.asks_for_refresh([never]));
        Ok(())
    }

    #[test]
    fn the_dead_keep_their_names_until_forgotten() -> Result<()> {
        let tree = Tree::new()?;
        let (gone, stays) = (tree.add("gone.service")?, tree.add("stays.service")?);
        let mut index = tree.index()?;
        tree.remove("gone.service")?;
        assert!(index.is_alive(gone), "as of the last refresh");
        for _ in 0..3 {
            index.refresh()?;
            assert!(!index.is_alive(gone) && index.is_alive(stays));
            assert_eq!(pod_of(&index, gone).as_deref(), Some("gone.service"));
        }
        index.forget(gone);
        index.forget(stays);
        assert_eq!((index.resolve(gone), index.resolve(stays)), (None, None));
        index.refresh()?;
        assert_eq!((index.is_alive(gone), index.is_alive(stays)), (false, true));
        Ok(())
    }

    #[test]
    fn forgets_the_dead_that_nobody_needs() -> Result<()> {
        let tree = Tree::new()?;
        let (counted, idle, alive) = (tree.add("a")?, tree.add("b")?, tree.add("c")?);
        let mut index = tree.index()?;
        tree.remove("a")?;
        tree.remove("b")?;
        index.refresh()?;
        index.forget_dead(|_| false);
        assert!(index.resolve(idle).is_some(), "first missed just now");
        index.refresh()?;
        index.forget_dead(|id| id == counted);
        let known = [counted, idle, alive].map(|id| index.resolve(id).is_some());
        assert_eq!(known, [true, false, true]);
        Ok(())
    }

    #[test]
    fn a_number_at_another_path_is_another_cgroup() -> Result<()> {
        let tree = Tree::new()?;
        let id = tree.add("old.service")?;
        let mut index = tree.index()?;
        // A rename is the sure way to have a number again.
        fs::rename(tree.0.path().join("old.service"), tree.0.path().join("new.service"))?;
        index.refresh()?;
        assert_eq!(pod_of(&index, id).as_deref(), Some("new.service"));
        assert!(index.is_alive(id));
        Ok(())
    }

    #[test]
    fn learns_of_cgroups_from_others() -> Result<()> {
        let tree = Tree::new()?;
        let id = tree.add("x.service")?;
        let mut index = tree.limited(LIMITS);
        index.learn(id, "/x.service");
        index.learn(u64::MAX, "brief.service");
        assert_eq!(pod_of(&index, u64::MAX).as_deref(), Some("brief.service"));
        assert!(index.is_alive(id) && index.is_alive(u64::MAX));
        index.refresh()?;
        assert_eq!((index.is_alive(id), index.is_alive(u64::MAX)), (true, false));
        assert_eq!(pod_of(&index, u64::MAX).as_deref(), Some("brief.service"));
        Ok(())
    }

    #[test]
    fn a_walk_cut_short_declares_nobody_dead() -> Result<()> {
        for limits in [Limits { cgroups: 2, ..LIMITS }, Limits { depth: 1, ..LIMITS }] {
            let tree = Tree::new()?;
            let (deep, gone) = (tree.add("a/b/c")?, tree.add("a/b/d")?);
            let mut index = tree.index()?;
            tree.remove("a/b/d")?;
            index.limits = limits;
            index.refresh()?;
            assert!(index.skipped() > 0, "{limits:?}");
            assert_eq!((index.is_alive(deep), index.is_alive(gone)), (true, false), "{limits:?}");
        }
        Ok(())
    }

    #[test]
    fn walks_and_memory_are_bounded() -> Result<()> {
        let tree = Tree::new()?;
        let mut index = tree.limited(Limits { depth: 2, cgroups: 10, dead: 5 });
        let deep = tree.add("a/b/c/d")?;
        index.refresh()?;
        assert_eq!((index.len(), index.resolve(deep), index.skipped()), (3, None, 1));
        for brief in 100..120 {
            index.learn(u64::MAX - brief, "brief.service");
            index.refresh()?;
        }
        index.refresh()?;
        assert_eq!(index.len(), 3 + 5);
        assert!(index.resolve(u64::MAX - 119).is_some(), "the youngest stay");
        (0..100).for_each(|id| index.learn(u64::MAX - id, "x"));
        assert_eq!(index.len(), 15);
        Ok(())
    }

    #[test]
    fn a_missing_root_is_an_error_and_changes_nothing() -> Result<()> {
        let tree = Tree::new()?;
        let id = tree.add("x.service")?;
        let mut index = tree.index()?;
        fs::remove_dir_all(tree.0.path())?;
        assert_eq!(index.refresh().map_err(|error| error.kind()), Err(io::ErrorKind::NotFound));
        assert!(index.is_alive(id) && index.resolve(id).is_some());
        Ok(())
    }

    #[test]
    fn survives_a_tree_that_changes_under_it() -> Result<()> {
        let tree = Tree::new()?;
        let stays = tree.add("stays/x.service")?;
        let mut index = tree.index()?;
        std::thread::scope(|scope| -> Result<()> {
            let churn = scope.spawn(|| -> Result<()> {
                for round in 0..500 {
                    tree.add(&format!("churn{}/a/b", round % 7))?;
                    tree.remove(&format!("churn{}", round % 7))?;
                }
                Ok(())
            });
            while !churn.is_finished() {
                index.refresh()?;
                assert!(index.is_alive(stays));
            }
            churn.join().expect("the other thread panicked")
        })?;
        index.refresh()?;
        index.refresh()?;
        index.forget_dead(|_| false);
        assert_eq!(index.len(), 3, "{index:?}");
        Ok(())
    }
}
