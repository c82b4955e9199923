//! The rules for prometheus-operator: those of a plain Prometheus, as an object.

/// A file of rules for plain Prometheus, and the object that is made of it.
pub(super) struct Rules {
    /// The same name on both sides.
    pub(super) file: &'static str,
    /// Name of the object.
    name: &'static str,
}

pub(super) const RULES: [Rules; 2] = [
    Rules { file: "rules.yaml", name: "observer" },
    Rules { file: "alerts.yaml", name: "observer-alerts" },
];

impl Rules {
    /// The object, of what the plain file says.
    pub(super) fn object(&self, plain: &str) -> String {
        let Self { file, name } = self;
        let mut object = format!(
            "# Made of ../prometheus/{file} by `cargo xtask dashboards`.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: {name}
  namespace: observer
  labels:
    app.kubernetes.io/name: observer
spec:
"
        );
        for line in plain.lines().skip_while(|line| *line != "groups:") {
            if !line.is_empty() {
                object.push_str("  ");
            }
            object.push_str(line);
            object.push('\n');
        }
        object
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_below_groups_is_indented() {
        let object = RULES[0].object("# Why.\ngroups:\n  - name: a\n\n  # Of b.\n  - name: b\n");
        let (head, spec) = object.split_once("spec:\n").unwrap();
        assert!(head.contains("\n  name: observer\n") && head.contains("../prometheus/rules.yaml"));
        assert_eq!(spec, "  groups:\n    - name: a\n\n    # Of b.\n    - name: b\n");
    }
}
