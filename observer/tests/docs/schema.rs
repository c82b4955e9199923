//! The schema of records against the labels of the program; `tests/eyes.rs` holds real records against it.

use observer_common::{
    label::{Reason, ResetCause, Role},
    protocol::Protocol,
};
use serde_json::Value;

use crate::documents::read;

#[test]
fn the_schema_of_records_has_every_value_of_a_label() {
    let schema: Value = serde_json::from_str(&read("docs/record.schema.json")).expect("JSON");
    let fields = &schema["$defs"]["connection"]["properties"];
    for (field, values) in [
        ("role", Role::LABEL.values),
        ("protocol", Protocol::LABEL.values),
        ("reason", Reason::LABEL.values),
        ("reset_cause", ResetCause::LABEL.values),
    ] {
        assert_eq!(fields[field]["enum"], serde_json::json!(values), "{field}");
    }
    // Each field is told in words, too.
    let page = read("docs/tail.md");
    for field in fields.as_object().expect("fields").keys() {
        assert!(page.contains(&format!("`{field}`")), "{field} is not in docs/tail.md");
    }
}
