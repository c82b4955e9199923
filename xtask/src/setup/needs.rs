//! What has to be on the machine, why, and how it gets there.

use super::{GoProgram, Means, Need, Purpose};

/// A Prometheus that is newer than the distribution's.
pub(super) const PROMETHEUS: GoProgram = GoProgram {
    program: "prometheus-latest",
    module: "xtask/go",
    package: "github.com/prometheus/prometheus/cmd/prometheus",
    // Its discovery of targets in clouds is most of it.
    tags: "remove_all_sd,netgo",
};

/// What judges the chart.
pub(super) const HELM: GoProgram = GoProgram {
    program: "helm",
    module: "xtask/helm",
    package: "helm.sh/helm/v3/cmd/helm",
    tags: "netgo",
};

pub(super) const NEEDS: &[Need] = &[
    Need {
        name: "a Rust compiler for BPF",
        reason: "the kernel programs are Rust, and no stable toolchain of rustup has a core \
                 library for their target",
        purposes: &[Purpose::Build],
        means: Means::BpfCompiler,
        optional: false,
    },
    Need {
        name: "bpf-linker",
        reason: "it turns the compiler's bitcode into a BPF object, with the same LLVM",
        purposes: &[Purpose::Build],
        means: Means::BpfLinker,
        optional: false,
    },
    Need {
        name: "nginx",
        reason: "tests and benchmarks put a real proxy between client and server",
        purposes: &[Purpose::Test, Purpose::Bench],
        means: Means::Program {
            program: "nginx",
            packages: &["nginx-light", "nginx"],
            service: Some("nginx"),
        },
        optional: false,
    },
    Need {
        name: "HAProxy",
        reason: "tests put another real proxy between client and server",
        purposes: &[Purpose::Test],
        means: Means::Program {
            program: "haproxy",
            packages: &["haproxy"],
            service: Some("haproxy"),
        },
        optional: false,
    },
    Need {
        name: "iptables",
        reason: "tests redirect connections with it, as the sidecars of service meshes do",
        purposes: &[Purpose::Test],
        means: Means::Program { program: "iptables", packages: &["iptables"], service: None },
        optional: false,
    },
    Need {
        name: "Prometheus",
        reason: "tests have it scrape and evaluate rules, and promtool judge the text of /metrics",
        purposes: &[Purpose::Test],
        means: Means::Program {
            program: "promtool",
            packages: &["prometheus"],
            service: Some("prometheus"),
        },
        optional: false,
    },
    Need {
        name: "a newer Prometheus",
        reason: "tests have it use created timestamps, which no distribution's can",
        purposes: &[Purpose::Test],
        means: Means::GoProgram(&PROMETHEUS),
        // A Go that is new enough is rare.
        optional: true,
    },
    Need {
        name: "Helm",
        reason: "tests have it make the chart's objects, and compare them with kustomize's",
        purposes: &[Purpose::Test],
        means: Means::GoProgram(&HELM),
        // As above, and no distribution of those that the tests run on has it.
        optional: true,
    },
    Need {
        name: "prometheus_client",
        reason: "tests have its parser judge the OpenMetrics text of /metrics",
        purposes: &[Purpose::Test],
        means: Means::PythonModule {
            module: "prometheus_client",
            packages: &["python3-prometheus-client"],
        },
        optional: false,
    },
    Need {
        name: "kustomize",
        reason: "tests render the manifests with it",
        purposes: &[Purpose::Test],
        means: Means::NewProgram { program: "kustomize", package: "kustomize" },
        optional: false,
    },
    Need {
        name: "kubernetes-validate",
        reason: "tests have it judge the manifests",
        purposes: &[Purpose::Test],
        means: Means::PythonEnvironment,
        optional: false,
    },
    Need {
        name: "capsh",
        reason: "tests run the image with the capabilities of its manifest",
        purposes: &[Purpose::Test],
        means: Means::Program { program: "capsh", packages: &["libcap2-bin"], service: None },
        optional: false,
    },
    Need {
        name: "containerd",
        reason: "tests run the image, and what it observes, in real containers",
        purposes: &[Purpose::Test],
        means: Means::Program {
            program: "containerd",
            packages: &["containerd"],
            service: Some("containerd"),
        },
        optional: false,
    },
    Need {
        name: "runc",
        reason: "containerd runs containers with it",
        purposes: &[Purpose::Test],
        means: Means::Program { program: "runc", packages: &["runc"], service: None },
        optional: false,
    },
    Need {
        name: "CNI plugins",
        reason: "containerd makes the network of pods with them",
        purposes: &[Purpose::Test],
        means: Means::Program {
            // Not in the path, where another program has the name.
            program: "/usr/lib/cni/bridge",
            packages: &["containernetworking-plugins"],
            service: None,
        },
        optional: false,
    },
    Need {
        name: "iproute2",
        reason: "tests make network namespaces and the veth pairs between them",
        purposes: &[Purpose::Test],
        means: Means::Program { program: "ip", packages: &["iproute2"], service: None },
        optional: false,
    },
    Need {
        name: "bpftool",
        reason: "tests verify with it that nothing is left attached to the kernel, benchmarks \
                 learn from it what programs are called",
        purposes: &[Purpose::Test, Purpose::Bench],
        means: Means::Program {
            program: "bpftool",
            packages: &["bpftool", "linux-tools-common"],
            service: None,
        },
        optional: false,
    },
    Need {
        name: "mandoc",
        reason: "tests have it judge the manual pages",
        purposes: &[Purpose::Test],
        means: Means::Program { program: "mandoc", packages: &["mandoc"], service: None },
        optional: false,
    },
    Need {
        name: "tmux",
        reason: "tests and pictures look at the screen of a terminal by it",
        purposes: &[Purpose::Test, Purpose::Pictures],
        means: Means::Program { program: "tmux", packages: &["tmux"], service: None },
        optional: false,
    },
    Need {
        name: "zsh",
        reason: "tests load its completions",
        purposes: &[Purpose::Test],
        means: Means::Program { program: "zsh", packages: &["zsh"], service: None },
        optional: false,
    },
    Need {
        name: "fish",
        reason: "tests load its completions",
        purposes: &[Purpose::Test],
        means: Means::Program { program: "fish", packages: &["fish"], service: None },
        optional: false,
    },
    Need {
        name: "systemd-analyze",
        reason: "tests have it judge the unit",
        purposes: &[Purpose::Test],
        means: Means::Program { program: "systemd-analyze", packages: &["systemd"], service: None },
        optional: false,
    },
    Need {
        name: "Chromium",
        reason: "it shows the page to be pictured",
        purposes: &[Purpose::Pictures],
        means: Means::Program { program: "chromium", packages: &["chromium"], service: None },
        optional: false,
    },
    Need {
        name: "lintian",
        reason: "it judges Debian packages",
        purposes: &[Purpose::Dist],
        means: Means::Program { program: "lintian", packages: &["lintian"], service: None },
        optional: false,
    },
    Need {
        name: "QEMU",
        reason: "the lab boots other kernels in it",
        purposes: &[Purpose::Test, Purpose::Lab],
        means: Means::Program {
            program: "qemu-system-x86_64",
            packages: &["qemu-system-x86"],
            service: None,
        },
        optional: false,
    },
    Need {
        name: "busybox",
        reason: "it is all that the lab's guests have beside what they test, and the sandboxes of \
                 pods have; it must be static",
        purposes: &[Purpose::Test, Purpose::Lab],
        means: Means::StaticProgram { program: "busybox", package: "busybox-static" },
        optional: false,
    },
    Need {
        name: "xz",
        reason: "the modules of some kernels are packed with it",
        purposes: &[Purpose::Test, Purpose::Lab],
        means: Means::Program { program: "xzcat", packages: &["xz-utils"], service: None },
        optional: false,
    },
    Need {
        name: "zstd",
        reason: "the modules of other kernels are packed with it",
        purposes: &[Purpose::Test, Purpose::Lab],
        means: Means::Program { program: "zstdcat", packages: &["zstd"], service: None },
        optional: false,
    },
    Need {
        name: "QEMU for arm64",
        reason: "the lab boots a kernel for arm64 in it",
        purposes: &[Purpose::Arm64],
        means: Means::Program {
            program: "qemu-system-aarch64",
            packages: &["qemu-system-arm"],
            service: None,
        },
        optional: false,
    },
    Need {
        name: "a C compiler for arm64",
        reason: "it links programs for arm64, and compiles the C in some crates",
        purposes: &[Purpose::Arm64, Purpose::Cross],
        means: Means::Program {
            program: "aarch64-linux-gnu-gcc",
            packages: &["gcc-aarch64-linux-gnu"],
            service: None,
        },
        optional: false,
    },
    Need {
        name: "a C library for arm64",
        reason: "programs for arm64 are linked with it, statically",
        purposes: &[Purpose::Arm64, Purpose::Cross],
        means: Means::File {
            path: "/usr/aarch64-linux-gnu/lib/libc.a",
            package: "libc6-dev-arm64-cross",
        },
        optional: false,
    },
    Need {
        name: "Rust for arm64",
        reason: "the daemon is built for arm64, and its tests for the lab",
        purposes: &[Purpose::Arm64, Purpose::Cross],
        means: Means::Target { name: "aarch64-unknown-linux-gnu" },
        optional: false,
    },
    Need {
        name: "wrk",
        reason: "the benchmark loads nginx with it",
        purposes: &[Purpose::Bench],
        means: Means::Program { program: "wrk", packages: &["wrk"], service: None },
        optional: false,
    },
    Need {
        name: "libbpf-tools",
        reason: "the benchmark measures its tcplife and tcpstates beside the observer",
        purposes: &[Purpose::Bench],
        means: Means::Program { program: "tcplife", packages: &["libbpf-tools"], service: None },
        optional: true,
    },
    Need {
        name: "rustfmt",
        reason: "the formatting is checked",
        purposes: &[Purpose::Lint],
        means: Means::Component { name: "fmt" },
        optional: false,
    },
    Need {
        name: "clippy",
        reason: "its warnings are errors",
        purposes: &[Purpose::Lint],
        means: Means::Component { name: "clippy" },
        optional: false,
    },
    Need {
        name: "clippy for BPF",
        reason: "the kernel programs are held to the same lints",
        purposes: &[Purpose::Lint],
        means: Means::BpfClippy,
        optional: true,
    },
    Need {
        name: "cargo-deny",
        reason: "it checks licences and sources of every dependency",
        purposes: &[Purpose::Lint],
        means: Means::Crate {
            program: "cargo-deny",
            version: "0.20.2",
            // Unoptimised it is built in half the time, and runs for two seconds.
            arguments: &["--no-default-features", "--debug"],
        },
        optional: false,
    },
];
