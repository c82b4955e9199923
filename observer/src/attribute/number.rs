//! Numbers that stand for pods and containers, for the kernel programs: two cgroups of one have the same.

use observer_common::{
    meaning::Meaning,
    wire::replica::{IS_ANY, IS_POD, NONE},
};

use super::{Identity, Kind};

/// The number of whom a cgroup belongs to: that of its pod, or of its container outside Kubernetes, or [`NONE`].
#[must_use]
pub fn number(identity: &Identity) -> u64 {
    let name = Meaning::NONE.text(&identity.namespace).text(&identity.pod).value();
    match identity.kind {
        Kind::Pod => name | IS_ANY | IS_POD,
        Kind::Container => (name | IS_ANY) & !IS_POD,
        Kind::Unit | Kind::Cgroup => NONE,
    }
}

#[cfg(test)]
mod tests {
    use super::super::identify;
    use super::*;

    #[test]
    fn containers_of_a_pod_have_its_number_and_no_other_has() {
        let of = |path: &str| number(&identify(path));
        let (uid, other) =
            ("57e67067-89e4-4001-bdd4-8632d39ea02b", "57e67067-89e4-4001-bdd4-000000000002");
        let (one, two) = ("1".repeat(64), "2".repeat(64));
        let pod = of(&format!("/kubepods/burstable/pod{uid}"));
        assert_eq!(pod & (IS_ANY | IS_POD), IS_ANY | IS_POD);
        for container in [&one, &two] {
            assert_eq!(of(&format!("/kubepods/burstable/pod{uid}/{container}")), pod);
            assert_eq!(of(&format!("/kubepods/burstable/pod{uid}/{container}/nested")), pod);
        }
        assert_ne!(of(&format!("/kubepods/burstable/pod{other}/{one}")), pod);
        let container = of(&format!("/docker/{one}"));
        assert!(container != NONE && container & IS_POD == 0);
        for path in ["/", "/system.slice/nginx.service", "/kubepods", "/kubepods/burstable", "/a/b"]
        {
            assert_eq!(of(path), NONE, "{path}");
        }
    }
}
