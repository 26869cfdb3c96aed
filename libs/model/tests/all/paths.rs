//! Path transforms, by example and as properties.

use model::paths::{Transform, apply};
use proptest::prelude::*;

fn after(transforms: &[Transform], path: &str) -> String {
    let values: Vec<&str> = path.split_terminator(' ').collect();
    apply(transforms, &values).into_iter().map(|index| values[index]).collect::<Vec<_>>().join(" ")
}

fn remove(value: &str) -> [Transform; 1] {
    [Transform::RemoveIfNotAll(value.into())]
}

fn remove_last(value: &str) -> [Transform; 1] {
    [Transform::RemoveIfLastAndNotAll(value.into())]
}

#[test]
fn exposure_keeps_the_first_of_consecutive_repeats() {
    assert_eq!(after(&[Transform::Exposure], "a a b b b a a"), "a b a");
    assert_eq!(apply(&[Transform::Exposure], &["a", "a", "b"]), [0, 2]);
}

#[test]
fn first_keeps_the_first_occurrence_of_each() {
    assert_eq!(after(&[Transform::First], "b a b c a"), "b a c");
}

#[test]
fn remove_if_not_all_drops_a_value_unless_there_is_nothing_else() {
    assert_eq!(after(&remove("d"), "d a d b d"), "a b");
    assert_eq!(after(&remove("d"), "d d"), "d d");
    assert_eq!(after(&remove("d"), "a b"), "a b");
}

#[test]
fn remove_if_last_and_not_all_drops_a_value_at_the_end_alone() {
    assert_eq!(after(&remove_last("d"), "d a d b d d"), "d a d b");
    assert_eq!(after(&remove_last("d"), "d d"), "d d");
    assert_eq!(after(&remove_last("d"), "d a"), "d a");
}

#[test]
fn transforms_apply_in_order() {
    let direct = || Transform::RemoveIfNotAll("d".into());
    assert_eq!(after(&[Transform::Exposure, direct()], "a d a"), "a a");
    assert_eq!(after(&[direct(), Transform::Exposure], "a d a"), "a");
    assert_eq!(after(&[], "a a"), "a a");
    for transform in [Transform::Exposure, Transform::First, direct()] {
        assert_eq!(after(&[transform], ""), "");
    }
}

#[test]
fn transforms_have_the_names_of_reports() {
    let names = [Transform::Exposure, Transform::First, remove("d")[0].clone(), remove_last("d")[0].clone()];
    let names: Vec<&str> = names.iter().map(Transform::name).collect();
    assert_eq!(names, ["exposure", "first", "remove_if_not_all", "remove_if_last_and_not_all"]);
}

proptest! {
    #[test]
    fn a_transform_twice_is_a_transform_once_and_never_empties(path in "([abd] ){1,12}", which in 0..4_usize) {
        let transform = [Transform::Exposure, Transform::First, remove("d")[0].clone(), remove_last("d")[0].clone()]
            .into_iter()
            .nth(which)
            .into_iter()
            .collect::<Vec<_>>();
        let once = after(&transform, path.trim_end());
        prop_assert!(!once.is_empty());
        prop_assert_eq!(after(&transform, &once), once);
    }
}
