//! What people install, as `cargo xtask test` packs it of the daemon that the tests have: contents, manual pages,
//! completions, the unit, and that Debian's package leaves nothing behind.

#[path = "support/tools.rs"]
#[expect(dead_code, reason = "each test file uses its part of the support library")]
mod tools;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use clap::CommandFactory as _;
use observer::cli::Cli;
use serde_json::Value;
use tempfile::TempDir;

/// Where `cargo xtask test` puts them.
fn packages() -> PathBuf {
    tools::checkout().join("target/packages")
}

/// The only file there whose name ends so.
fn package(end: &str) -> PathBuf {
    let entries = fs::read_dir(packages()).expect("`cargo xtask test` has packed them").flatten();
    let mut files = entries.map(|entry| entry.path());
    let mut found = files.by_ref().filter(|path| path.to_string_lossy().ends_with(end));
    let path = found.next().unwrap_or_else(|| panic!("there is no {end}"));
    assert_eq!(found.next(), None);
    path
}

fn output(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| {
        panic!("{command:?}: {error}; `cargo xtask setup --tests` installs what is missing")
    })
}

/// What a command prints that must succeed and say nothing else.
fn quietly(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = output(command);
    let said = String::from_utf8_lossy(&stderr);
    let printed = String::from_utf8(stdout).expect("text");
    assert!(status.success() && said.is_empty(), "{command:?}: {status}: {said}{printed}");
    printed
}

/// The files of Debian's package, unpacked.
fn unpacked() -> TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    quietly(Command::new("dpkg-deb").arg("--extract").arg(package(".deb")).arg(directory.path()));
    directory
}

/// Commands that are shown.
fn commands() -> Vec<String> {
    let shown = Cli::command();
    let shown = shown.get_subcommands().filter(|command| !command.is_hide_set());
    shown.map(|command| command.get_name().to_owned()).collect()
}

/// The text of a manual page, by the package's name of it.
fn page(root: &Path, name: &str) -> String {
    let path = root.join(format!("usr/share/man/man1/{name}.1.gz"));
    quietly(Command::new("gzip").args(["--decompress", "--stdout"]).arg(path))
}

#[test]
fn the_package_holds_what_it_should_and_all_of_it_is_roots() {
    let listed = quietly(Command::new("dpkg-deb").arg("--contents").arg(package(".deb")));
    let mut files = BTreeMap::new();
    for line in listed.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        assert_eq!(words[1], "root/root", "{line}");
        if line.starts_with('-') {
            files.insert(words[5].to_owned(), words[0]);
        } else {
            assert_eq!(words[0], "drwxr-xr-x", "{line}");
        }
    }
    let mut expected: BTreeSet<String> = [
        "bin/observer",
        "lib/systemd/system/observer.service",
        "share/bash-completion/completions/observer",
        "share/doc/observer/THIRD-PARTY.gz",
        "share/doc/observer/changelog.Debian.gz",
        "share/doc/observer/changelog.gz",
        "share/doc/observer/copyright",
        "share/doc/observer/observer.cdx.json.gz",
        "share/fish/vendor_completions.d/observer.fish",
        "share/lintian/overrides/observer",
        "share/man/man1/observer.1.gz",
        "share/nushell/vendor/autoload/observer.nu",
        "share/zsh/vendor-completions/_observer",
    ]
    .map(|path| format!("./usr/{path}"))
    .into();
    expected.insert("./etc/default/observer".to_owned());
    let pages = commands().into_iter();
    expected.extend(pages.map(|name| format!("./usr/share/man/man1/observer-{name}.1.gz")));
    assert_eq!(files.keys().cloned().collect::<BTreeSet<_>>(), expected);
    for (path, mode) in files {
        let is_program = path == "./usr/bin/observer";
        assert_eq!(mode, if is_program { "-rwxr-xr-x" } else { "-rw-r--r--" }, "{path}");
    }
    let field = |name: &str| {
        quietly(Command::new("dpkg-deb").arg("--field").arg(package(".deb")).arg(name))
    };
    assert_eq!(field("Package").trim(), "observer");
    assert_eq!(field("Version").trim(), concat!(env!("CARGO_PKG_VERSION"), "-1"));
    assert_eq!(field("Depends").trim(), "", "it is linked statically");
}

#[test]
fn the_checksums_are_those_of_the_files() {
    let mut check = Command::new("sha256sum");
    let said = quietly(check.args(["--check", "--strict", "SHA256SUMS"]).current_dir(packages()));
    let files = fs::read_dir(packages()).expect("there are packages").count();
    assert_eq!(said.matches(": OK").count(), files - 1);
}

#[test]
fn the_tarball_holds_the_same_program_and_pages() {
    let (tarball, debian) = (tempfile::tempdir().expect("a directory"), unpacked());
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--gzip", "--strip-components=1", "--file"]);
    quietly(tar.arg(package(".tar.gz")).arg("--directory").arg(tarball.path()));
    let read = |root: &TempDir, path: &str| {
        fs::read(root.path().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    };
    assert!(read(&tarball, "observer") == read(&debian, "usr/bin/observer"));
    let version = quietly(Command::new(tarball.path().join("observer")).arg("--version"));
    assert!(version.starts_with(concat!("observer ", env!("CARGO_PKG_VERSION"), " (revision ")));
    assert!(version.contains(&format!("ABI {:016x}", observer_common::abi::ABI)), "{version}");
    for name in commands().iter().map(|name| format!("observer-{name}")).chain(["observer".into()])
    {
        let of_tarball = read(&tarball, &format!("man/man1/{name}.1"));
        assert_eq!(String::from_utf8_lossy(&of_tarball), page(debian.path(), &name));
    }
    for (of_tarball, of_debian) in [
        ("completions/bash/observer", "bash-completion/completions/observer"),
        ("completions/zsh/_observer", "zsh/vendor-completions/_observer"),
        ("completions/fish/observer.fish", "fish/vendor_completions.d/observer.fish"),
        ("completions/nushell/observer.nu", "nushell/vendor/autoload/observer.nu"),
    ] {
        let of_debian = read(&debian, &format!("usr/share/{of_debian}"));
        assert!(read(&tarball, of_tarball) == of_debian, "{of_tarball}");
    }
    for path in ["LICENSE", "README.md", "CHANGELOG.md"] {
        let of_checkout = fs::read(tools::checkout().join(path)).expect("it is there");
        assert!(read(&tarball, path) == of_checkout, "{path}");
    }
}

#[test]
fn manual_pages_render_and_name_every_option() {
    let root = unpacked();
    let command = Cli::command();
    for name in commands() {
        let command = command.find_subcommand(&name).expect("there is such a command");
        let source = page(root.path(), &format!("observer-{name}"));
        let text = rendered(&source);
        for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
            let shown = argument.get_long().map(|long| format!("--{long}"));
            let shown = shown.unwrap_or_else(|| argument.get_id().to_string().to_uppercase());
            assert!(text.contains(&shown), "{shown} is not in observer-{name}(1):\n{text}");
        }
        assert!(!text.contains("--simulate"), "what only tests use is not in observer-{name}(1)");
    }
    let main = rendered(&page(root.path(), "observer"));
    for name in commands() {
        assert!(main.contains(&format!("observer-{name}(1)")), "{name} is not in:\n{main}");
    }
    assert!(main.contains("Exit codes: 0"), "{main}");
}

/// A manual page as a terminal shows it. mandoc must find nothing wrong with it.
fn rendered(source: &str) -> String {
    let mandoc = |arguments: &[&str]| {
        let mut command = Command::new("mandoc");
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("`cargo xtask setup --tests` installs mandoc");
        let mut input = child.stdin.take().expect("a pipe");
        input.write_all(source.as_bytes()).expect("mandoc reads");
        drop(input);
        let output = child.wait_with_output().expect("mandoc ends");
        let text = String::from_utf8(output.stdout).expect("text");
        assert!(output.status.success(), "{arguments:?}: {text}\n{source}");
        text
    };
    mandoc(&["-T", "lint", "-W", "error"]);
    // Without bold letters, in lines that hold every option whole.
    mandoc(&["-T", "ascii", "-O", "width=300"]).chars().fold(String::new(), |mut text, letter| {
        if letter == '\u{8}' {
            text.pop();
        } else {
            text.push(letter);
        }
        text
    })
}

/// Where the package puts what completes in a shell.
fn completion(root: &TempDir, path: &str) -> PathBuf {
    root.path().join("usr/share").join(path)
}

#[test]
fn bash_completes() {
    let root = unpacked();
    let script = completion(&root, "bash-completion/completions/observer");
    let complete = |words: &[&str]| {
        let program = format!(
            "set -eu; source {}; COMP_WORDS=({}); COMP_CWORD={}; \
             _observer observer \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\"; \
             printf '%s\\n' \"${{COMPREPLY[@]}}\"; complete -p observer",
            script.display(),
            words.join(" "),
            words.len() - 1
        );
        quietly(Command::new("bash").args(["--norc", "--noprofile", "-c", &program]))
    };
    let (found, known) = split_last_line(&complete(&["observer", "t"]));
    assert_eq!(found, ["tail", "top"]);
    assert!(known.starts_with("complete ") && known.contains(" -F _observer "), "{known}");
    assert_eq!(split_last_line(&complete(&["observer", "ps", "--sor"])).0, ["--sort"]);
    assert_eq!(split_last_line(&complete(&["observer", "ps", "--sort", "a"])).0, ["age"]);
}

fn split_last_line(text: &str) -> (Vec<String>, String) {
    let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
    let last = lines.pop().expect("a line");
    (lines, last)
}

#[test]
fn zsh_finds_its_completion() {
    let root = unpacked();
    let directory = completion(&root, "zsh/vendor-completions");
    let program = format!(
        "fpath=({} $fpath); autoload -Uz compinit && compinit -u -D; print $_comps[observer]; \
         autoload -Uz +X _observer && functions _observer",
        directory.display()
    );
    let said = quietly(Command::new("zsh").args(["-f", "-c", &program]));
    assert_eq!(said.lines().next(), Some("_observer"));
    for name in commands() {
        assert!(said.contains(&format!("({name})")), "{name} is not completed");
    }
}

#[test]
fn fish_completes() {
    let root = unpacked();
    let script = completion(&root, "fish/vendor_completions.d/observer.fish");
    let complete = |line: &str| {
        let program = format!("source {}; complete --do-complete '{line}'", script.display());
        let mut fish = Command::new("fish");
        // It writes to its user's home.
        fish.env("HOME", root.path()).args(["--no-config", "--command", &program]);
        let said = quietly(&mut fish);
        let words = said.lines().filter_map(|line| line.split('\t').next());
        words.map(str::to_owned).collect::<BTreeSet<_>>()
    };
    let of = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(complete("observer t"), of(&["tail", "top"]));
    assert_eq!(complete("observer ps --sor"), of(&["--sort"]));
    assert_eq!(complete("observer ps --sort a"), of(&["age"]));
}

/// No distribution of ours has this shell: every command and option is there, and brackets match.
#[test]
fn nushell_is_told_every_command() {
    let root = unpacked();
    let script = completion(&root, "nushell/vendor/autoload/observer.nu");
    let script = fs::read_to_string(script).expect("it is there");
    let command = Cli::command();
    for name in commands() {
        let start = format!("export extern \"observer {name}\" [");
        let (_, rest) = script.split_once(&start).unwrap_or_else(|| panic!("{name}: {script}"));
        let (signature, _) = rest.split_once("\n  ]").expect("its end");
        let command = command.find_subcommand(&name).expect("there is such a command");
        for option in command.get_arguments().filter_map(|argument| argument.get_long()) {
            assert!(signature.contains(&format!("--{option}")), "{name} --{option}");
        }
    }
    for (open, close) in [('[', ']'), ('{', '}')] {
        // What stands in comments may be anything.
        let code = script.lines().map(|line| line.split(" # ").next().unwrap_or_default());
        let count = |letter| code.clone().map(|line| line.matches(letter).count()).sum::<usize>();
        assert_eq!(count(open), count(close), "{open}");
    }
}

#[test]
fn systemd_accepts_the_unit() {
    let root = unpacked();
    let unit = root.path().join("usr/lib/systemd/system/observer.service");
    let text = fs::read_to_string(&unit).expect("it is there");
    assert!(text.starts_with("[Unit]\n"), "{text}");
    assert!(text.contains("\nExecStart=/usr/bin/observer run"), "{text}");
    assert!(!text.contains("/usr/local"), "{text}");
    // The program is not at its place here.
    let program = root.path().join("usr/bin/observer");
    let text = text.replace("=-/usr/bin/observer", &format!("=-{}", program.display()));
    let text = text.replace("=/usr/bin/observer", &format!("={}", program.display()));
    fs::write(&unit, text).expect("it can be written");
    quietly(Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&unit));
}

#[test]
fn the_bill_of_materials_is_that_of_the_lock() {
    let bill = fs::read(package(".cdx.json")).expect("it is there");
    let bill: Value = serde_json::from_slice(&bill).expect("JSON");
    assert_eq!((&bill["bomFormat"], &bill["specVersion"]), (&"CycloneDX".into(), &"1.5".into()));
    let lock = fs::read_to_string(tools::checkout().join("Cargo.lock")).expect("it is there");
    let mut known = BTreeSet::from([bill["metadata"]["component"]["bom-ref"].clone().to_string()]);
    let mut names = BTreeSet::new();
    for component in bill["components"].as_array().expect("a list") {
        assert!(known.insert(component["bom-ref"].to_string()), "twice: {component}");
        names.insert(component["name"].as_str().expect("a name"));
        assert_ne!(component["licenses"][0]["expression"].as_str().unwrap_or_default(), "");
        if let Some(hash) = component["hashes"][0]["content"].as_str() {
            let (name, version) = (&component["name"], &component["version"]);
            let locked = format!("name = {name}\nversion = {version}\n");
            let (_, rest) = lock.split_once(&locked).unwrap_or_else(|| panic!("{component}"));
            assert!(rest.contains(&format!("checksum = \"{hash}\"")), "{component}");
        }
    }
    // What is linked into the daemon, into the kernel programs, and around both; nothing that only builds or tests.
    for name in ["aya", "tokio", "kube", "observer-ebpf", "aya-ebpf", "std", "glibc"] {
        assert!(names.contains(name), "{name}");
    }
    for name in ["tonic", "proptest", "serde_derive", "aya-build", "tempfile"] {
        assert!(!names.contains(name), "{name}");
    }
    for dependency in bill["dependencies"].as_array().expect("a list") {
        let needs = dependency["dependsOn"].as_array().expect("a list").iter();
        for one in needs.chain([&dependency["ref"]]) {
            assert!(known.contains(&one.to_string()), "{one} is no component");
        }
    }
}

/// Installed, looked at, removed and purged in a copy of this machine's own root, which is a file system above it.
#[test]
fn the_package_installs_and_leaves_nothing_behind() {
    let stage = tempfile::tempdir().expect("a directory");
    let script = r#"
        set -eu
        mount -t tmpfs none "$1"
        mkdir "$1/upper" "$1/work" "$1/root"
        mount -t overlay none -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
        mount -t proc none "$1/root/proc"
        mkdir -p "$1/root/dev" && mount --bind /dev "$1/root/dev"
        cp "$2" "$1/root/observer.deb"
        in_root() { root=$1; shift; chroot "$root" "$@"; }
        in_root "$1/root" dpkg --install /observer.deb
        in_root "$1/root" observer --version
        in_root "$1/root" dpkg --verify observer
        # Again, as an update.
        in_root "$1/root" dpkg --install /observer.deb
        echo '#OBSERVER_DETAIL=core' >> "$1/root/etc/default/observer"
        in_root "$1/root" dpkg --remove observer
        test -e "$1/root/etc/default/observer"
        test ! -e "$1/root/usr/bin/observer"
        in_root "$1/root" dpkg --purge observer
        rm "$1/root/observer.deb"
        echo left:
        # What is deleted stands there as a device.
        find "$1/upper" -name '*observer*' -not -type c
    "#;
    let mut shell = Command::new("unshare");
    shell.args(["--mount", "--propagation=private", "sh", "-c", script, "sh"]);
    let Output { status, stdout, stderr } = output(shell.arg(stage.path()).arg(package(".deb")));
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{stdout}{stderr}");
    assert!(stdout.contains(concat!("observer ", env!("CARGO_PKG_VERSION"))), "{stdout}");
    assert!(stdout.ends_with("left:\n"), "{stdout}{stderr}");
}
