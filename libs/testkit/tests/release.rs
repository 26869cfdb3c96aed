//! What tests may do to the platform, a release build cannot.

#![allow(clippy::unwrap_used)]

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use testkit::faults::{DISK_ERRORS, MUTANTS, PLACES};

#[test]
fn the_program_is_built_without_fail_points() {
    let tree = |edges: &str| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let output = Command::new(env!("CARGO"))
            .args(["tree", "--locked", "--offline", "--package", "attribution-cli", "--edges", edges])
            .args(["--invert", "fail", "--format", "{p} [{f}]"])
            .current_dir(root)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let shipped = tree("normal,build");
    assert!(shipped.starts_with("fail v"), "{shipped}");
    assert!(shipped.contains("attribution-cli"), "{shipped}");
    assert!(!shipped.contains("failpoints") && !shipped.contains("testkit"), "{shipped}");
}

#[test]
fn every_point_in_the_code_is_listed_and_the_other_way_round() {
    let mut found = BTreeSet::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for area in ["libs", "services", "tools"] {
        for entry in fs::read_dir(root.join(area)).unwrap() {
            let source = entry.unwrap().path().join("src");
            if source.is_dir() {
                points(&source, &mut found);
            }
        }
    }
    let listed = PLACES.iter().chain(&DISK_ERRORS).chain(&MUTANTS).map(|name| (*name).to_owned());
    assert_eq!(found, listed.collect());
}

fn points(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            points(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let names = text.split("fail_point!(\"").skip(1).filter_map(|rest| rest.split('"').next());
            found.extend(names.map(str::to_owned));
        }
    }
}
