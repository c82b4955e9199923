//! Judges manifests by the schemas of Kubernetes.

use std::{
    fs,
    process::{Command, Output},
};

use crate::tools;

/// Judges the documents on stdin by the schemas of the last four minor versions that are known. Unknown kinds are
/// printed, everything else that is wrong is an error.
const VALIDATE: &str = r#"
import os, pathlib, re, sys, yaml, kubernetes_validate as k
schemas = pathlib.Path(k.__file__).parent / "kubernetes-json-schema"
minors = {tuple(map(int, re.findall(r"\d+", name)[:2])) for name in os.listdir(schemas)}
versions = [f"{major}.{minor}" for major, minor in sorted(minors)[-4:]]
unknown = set()
for document in yaml.safe_load_all(sys.stdin):
    for version in versions:
        try:
            k.validate(document, version, strict=True)
        except k.SchemaNotFoundError:
            unknown.add(document["kind"])
        except k.ValidationError as error:
            name = document["metadata"]["name"]
            sys.exit(f"{document['kind']} {name} for {version}: {error.message} at {list(error.path)}")
print(" ".join(versions))
print(" ".join(sorted(unknown)))
"#;

/// Runs the judge with `yaml` on its stdin.
pub(crate) fn validate(yaml: &str) -> Output {
    let file = tempfile::NamedTempFile::new().expect("it can be written");
    fs::write(file.path(), yaml).expect("it can be written");
    let stdin = fs::File::open(file.path()).expect("it is there");
    let mut judge = Command::new(tools::python());
    let output = judge.args(["-c", VALIDATE]).stdin(stdin).output();
    output.expect("`cargo xtask setup --tests` installs kubernetes-validate")
}
