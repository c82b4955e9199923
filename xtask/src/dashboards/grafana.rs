//! What a dashboard is, as Grafana reads it.

use serde_json::{Value, json};

/// A dashboard.
pub(super) struct Dashboard {
    /// Name of its file, and of its address in Grafana.
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    pub(super) description: &'static str,
    /// What one chooses from; each depends on those before it.
    pub(super) variables: &'static [Variable],
    pub(super) rows: Vec<Row>,
}

/// Something to choose: values of a label.
pub(super) struct Variable {
    name: &'static str,
    query: &'static str,
}

pub(super) const NAMESPACE: Variable =
    Variable { name: "namespace", query: "label_values(workload_pod_info, namespace)" };
pub(super) const WORKLOAD: Variable = Variable {
    name: "workload",
    query: r#"label_values(workload_pod_info{namespace=~"$namespace"}, workload)"#,
};
pub(super) const POD: Variable = Variable {
    name: "pod",
    query: r#"label_values(workload_pod_info{namespace=~"$namespace",workload=~"$workload"}, pod)"#,
};
pub(super) const NODE: Variable =
    Variable { name: "node", query: r#"label_values(up{job="observer"}, instance)"# };

/// Panels under a heading.
pub(super) struct Row {
    pub(super) title: &'static str,
    pub(super) panels: Vec<Panel>,
}

/// How a panel shows its series.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Lines,
    /// Lines on top of each other, whose sum tells something.
    Stacked,
    /// The last value, large.
    Number,
    Table,
}

/// A panel.
pub(super) struct Panel {
    pub(super) title: &'static str,
    pub(super) kind: Kind,
    /// A unit of Grafana's.
    pub(super) unit: &'static str,
    /// What one sees.
    pub(super) shows: &'static str,
    /// When it is bad, and what to do then.
    pub(super) bad: &'static str,
    /// Expressions, each with the legend of its series.
    pub(super) queries: Vec<(String, &'static str)>,
}

/// Columns of the grid.
const COLUMNS: usize = 24;

impl Kind {
    const fn size(self) -> (usize, usize) {
        match self {
            Self::Number => (4, 4),
            Self::Lines | Self::Stacked => (8, 8),
            Self::Table => (12, 8),
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Lines | Self::Stacked => "timeseries",
            Self::Number => "stat",
            Self::Table => "table",
        }
    }

    fn options(self) -> Value {
        match self {
            Self::Lines | Self::Stacked => json!({
                "legend": {"displayMode": "list", "placement": "bottom", "showLegend": true},
                "tooltip": {"mode": "multi", "sort": "desc"},
            }),
            Self::Number => json!({
                "colorMode": "value",
                "graphMode": "area",
                "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": false},
            }),
            Self::Table => json!({"showHeader": true}),
        }
    }
}

/// All panels ask the data source that is chosen.
fn datasource() -> Value {
    json!({"type": "prometheus", "uid": "${datasource}"})
}

/// What stands in a query for the pods, workloads or nodes that are chosen.
fn filled(query: &str) -> String {
    [
        ("%pod%", r#"namespace=~"$namespace",pod=~"$pod""#),
        ("%workload%", r#"namespace=~"$namespace",workload=~"$workload""#),
        ("%node%", r#"instance=~"$node""#),
    ]
    .into_iter()
    .fold(query.to_owned(), |query, (mark, matchers)| query.replace(mark, matchers))
}

impl Panel {
    fn json(&self, id: usize, (x, y): (usize, usize)) -> Value {
        let (width, height) = self.kind.size();
        let instant = matches!(self.kind, Kind::Table);
        let targets = self.queries.iter().zip('A'..).map(|((query, legend), reference)| {
            json!({
                "datasource": datasource(),
                "expr": filled(query),
                "format": if instant { "table" } else { "time_series" },
                "instant": instant,
                "range": !instant,
                "legendFormat": legend,
                "refId": reference.to_string(),
            })
        });
        let stacking = if self.kind == Kind::Stacked { "normal" } else { "none" };
        let opacity = if self.kind == Kind::Stacked { 40 } else { 10 };
        json!({
            "id": id,
            "type": self.kind.name(),
            "title": self.title,
            "description": format!("{}\n\n**Bad:** {}", self.shows, self.bad),
            "datasource": datasource(),
            "gridPos": {"x": x, "y": y, "w": width, "h": height},
            "targets": targets.collect::<Vec<_>>(),
            "options": self.kind.options(),
            "fieldConfig": {
                "defaults": {
                    "unit": self.unit,
                    "custom": if self.kind.name() == "timeseries" {
                        json!({"fillOpacity": opacity, "stacking": {"mode": stacking, "group": "A"}})
                    } else {
                        json!({})
                    },
                },
                "overrides": [],
            },
        })
    }
}

impl Row {
    /// Its heading and panels from line `y` on, the first with the number `id`; and the line below.
    fn json(&self, mut id: usize, mut y: usize) -> (Vec<Value>, usize) {
        let heading = json!({
            "id": id, "type": "row", "title": self.title, "collapsed": false, "panels": [],
            "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1},
        });
        let mut panels = vec![heading];
        let (mut x, mut lowest) = (0, 0);
        y += 1;
        for panel in &self.panels {
            let (width, height) = panel.kind.size();
            if x + width > COLUMNS {
                (x, y, lowest) = (0, y + lowest, 0);
            }
            id += 1;
            panels.push(panel.json(id, (x, y)));
            (x, lowest) = (x + width, lowest.max(height));
        }
        (panels, y + lowest)
    }
}

impl Dashboard {
    /// The file.
    pub(super) fn json(&self) -> String {
        let source = json!({
            "name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus",
            "current": {}, "hide": 0, "includeAll": false, "multi": false, "refresh": 1, "regex": "",
        });
        let choices = self.variables.iter().map(|variable| {
            json!({
                "name": variable.name, "label": variable.name, "type": "query",
                "datasource": datasource(), "definition": variable.query,
                "query": {"query": variable.query, "refId": variable.name, "qryType": 1},
                "includeAll": true, "allValue": ".*", "multi": true, "refresh": 2, "sort": 1,
                "current": {"text": ["All"], "value": ["$__all"]},
            })
        });
        let variables: Vec<Value> = [source].into_iter().chain(choices).collect();
        let (mut panels, mut y) = (Vec::new(), 0);
        for row in &self.rows {
            let (of_row, below) = row.json(panels.len() + 1, y);
            panels.extend(of_row);
            y = below;
        }
        let dashboard = json!({
            "uid": format!("observer-{}", self.name),
            "title": format!("Observer / {}", self.title),
            "description": self.description,
            "tags": ["observer"],
            "schemaVersion": 39,
            "version": 1,
            "editable": true,
            "graphTooltip": 1,
            "refresh": "30s",
            "time": {"from": "now-1h", "to": "now"},
            "timezone": "browser",
            "annotations": {"list": []},
            "links": [{
                "type": "dashboards", "tags": ["observer"], "title": "Observer", "asDropdown": true,
                "includeVars": true, "keepTime": true, "icon": "external link",
            }],
            "templating": {"list": variables},
            "panels": panels,
        });
        // Names are text and keys are unique: there is nothing that could fail.
        format!("{dashboard:#}\n")
    }
}
