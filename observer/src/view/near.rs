//! What to say of a filter that nothing here can fit: a reader that waits for a name with a typing error waits for ever. Pure.

use std::{collections::BTreeSet, sync::Arc};

use strsim::jaro_winkler;

use super::{Filter, filter::fits};
use crate::attribute::Identity;

/// Names that are proposed.
const PROPOSED: usize = 5;
/// From this likeness on a name is near another.
const NEAR: f64 = 0.75;

/// A name that an identity has.
type Name = fn(&Identity) -> &str;

/// A sentence for each kind of name in the filter of which none is on this node.
pub(super) fn hints(filter: &Filter, here: &[Arc<Identity>]) -> Vec<String> {
    let kinds: [(&str, &[String], Name); 4] = [
        ("pod", &filter.pod, |identity| &identity.pod),
        ("namespace", &filter.namespace, |identity| &identity.namespace),
        ("container", &filter.container, |identity| &identity.container),
        ("workload", &filter.workload, |identity| {
            identity.workload.as_ref().map_or("", |workload| &workload.name)
        }),
    ];
    let mut hints = Vec::new();
    for (kind, wanted, name) in kinds {
        let names: BTreeSet<&str> =
            here.iter().map(|identity| name(identity)).filter(|name| !name.is_empty()).collect();
        // The empty name is that of all pods' namespaces where nobody names them.
        let missing: Vec<&str> = wanted
            .iter()
            .map(String::as_str)
            .filter(|wanted| !wanted.is_empty() && !names.iter().any(|name| fits(wanted, name)))
            .collect();
        if missing.is_empty() || missing.len() < wanted.len() {
            continue;
        }
        let like = missing.join("`, `");
        let near = nearest(&missing, &names);
        hints.push(if near.is_empty() {
            format!("no {kind} on this node is called `{like}`, nor anything like it")
        } else {
            format!("no {kind} on this node is called `{like}`; near it: {}", near.join(", "))
        });
    }
    hints
}

/// The names that are most like one of those that are missing.
fn nearest<'a>(missing: &[&str], names: &BTreeSet<&'a str>) -> Vec<&'a str> {
    let likeness = |name: &str| {
        let all = missing.iter().map(|wanted| {
            let part = name.contains(wanted) || wanted.contains(name);
            jaro_winkler(wanted, name) + f64::from(u8::from(part))
        });
        all.fold(0.0, f64::max)
    };
    let mut near: Vec<(f64, &str)> = names
        .iter()
        .map(|&name| (likeness(name), name))
        .filter(|(like, _)| *like >= NEAR)
        .collect();
    near.sort_by(|(one, a), (other, b)| other.total_cmp(one).then(a.cmp(b)));
    near.into_iter().take(PROPOSED).map(|(_, name)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attribute::identify;

    fn here() -> Vec<Arc<Identity>> {
        ["chat-0", "chat-1", "quotes-0", "nginx"]
            .map(|unit| Arc::new(identify(&format!("/system.slice/{unit}.service"))))
            .to_vec()
    }

    fn of_pods(pods: &[&str]) -> Vec<String> {
        let pod = pods.iter().map(|&pod| pod.to_owned()).collect();
        hints(&Filter { pod, ..Filter::default() }, &here())
    }

    #[test]
    fn a_name_that_is_here_needs_no_hint() {
        assert!(of_pods(&[]).is_empty());
        assert!(of_pods(&["nginx.service"]).is_empty());
        assert!(of_pods(&["chat-*"]).is_empty());
        assert!(of_pods(&["chat-7.service", "nginx.service"]).is_empty(), "one of them is here");
        assert!(of_pods(&[""]).is_empty());
    }

    #[test]
    fn a_name_with_a_typing_error_is_told_what_is_near() {
        assert_eq!(
            of_pods(&["caht-1.service"]),
            ["no pod on this node is called `caht-1.service`; near it: chat-1.service, chat-0.service"
                .to_owned()]
        );
        // A part of a name is near the whole.
        assert_eq!(
            of_pods(&["nginx"]),
            ["no pod on this node is called `nginx`; near it: nginx.service".to_owned()]
        );
        assert_eq!(
            of_pods(&["zzz"]),
            ["no pod on this node is called `zzz`, nor anything like it".to_owned()]
        );
    }

    #[test]
    fn each_kind_of_name_has_its_own() {
        let filter = Filter {
            pod: vec!["nginx.service".to_owned()],
            namespace: vec!["sytemd".to_owned()],
            container: vec!["web".to_owned()],
            ..Filter::default()
        };
        assert_eq!(
            hints(&filter, &here()),
            [
                "no namespace on this node is called `sytemd`; near it: systemd",
                "no container on this node is called `web`, nor anything like it"
            ]
        );
    }
}
