//! Seven models on real paths, against figures computed independently: see `tests/data/README.md`.

use std::collections::BTreeMap;

use model::{
    Model, PathTouch,
    credit::{values_e12, weights_e12},
    markov::Chain,
    money::{parse_micros, split_evenly},
    shapley::Simplified,
};

const HOUR: i64 = 3_600_000;

struct Row {
    path: Vec<u32>,
    conversions: u64,
    value_micros: i64,
    nulls: u64,
}

type Credit = Vec<(i128, i128)>;

fn read() -> (Vec<String>, Vec<Row>) {
    let lines: Vec<Vec<&str>> =
        include_str!("../data/pathdata.csv").lines().skip(1).map(|l| l.split(',').collect()).collect();
    let mut names: Vec<String> =
        lines.iter().flat_map(|line| line[0].split(" > ")).map(str::to_owned).collect();
    names.sort_unstable();
    names.dedup();
    let id = |name: &str| names.binary_search_by(|n| n.as_str().cmp(name)).unwrap() as u32;
    let rows = lines
        .iter()
        .map(|line| Row {
            path: line[0].split(" > ").map(id).collect(),
            conversions: line[1].parse().unwrap(),
            value_micros: parse_micros(line[2]).unwrap(),
            nulls: line[3].parse().unwrap(),
        })
        .collect();
    (names, rows)
}

// Touches one hour apart, the last one hour before the conversion.
fn touches(path: &[u32]) -> Vec<PathTouch> {
    let n = path.len() as i64;
    (0..n).map(|i| PathTouch { age_millis: (n - i) * HOUR, direct: false, rank: 0 }).collect()
}

fn rule(model: Model, channels: usize, rows: &[Row]) -> Credit {
    let mut credit = vec![(0, 0); channels];
    for row in rows.iter().filter(|row| row.conversions > 0) {
        let path = touches(&row.path);
        let weights = weights_e12(model, &path);
        // The parts of a row's value differ by at most one micro, so there are at most two to work out.
        let mut parts = BTreeMap::<i64, i128>::new();
        for part in split_evenly(row.value_micros, row.conversions) {
            *parts.entry(part).or_default() += 1;
        }
        let mut values = vec![0; path.len()];
        for (part, times) in parts {
            for (sum, value) in values.iter_mut().zip(values_e12(model, &path, part)) {
                *sum += value * times;
            }
        }
        for (i, &channel) in row.path.iter().enumerate() {
            let (conversions, value) = &mut credit[channel as usize];
            *conversions += i128::from(weights[i]) * i128::from(row.conversions);
            *value += values[i];
        }
    }
    credit
}

fn markov(channels: usize, rows: &[Row]) -> Credit {
    let mut chain = Chain::new(channels).unwrap();
    for row in rows {
        chain.add(&row.path, row.conversions, row.nulls).unwrap();
    }
    let conversions: u64 = rows.iter().map(|row| row.conversions).sum();
    let value: i64 = rows.iter().map(|row| row.value_micros).sum();
    let share = |total: f64| move |weight: &f64| (weight * total) as i128;
    let weights = chain.weights();
    let conversions = weights.iter().map(share(conversions as f64 * 1e12));
    conversions.zip(weights.iter().map(share(value as f64 * 1e6))).collect()
}

fn shapley(channels: usize, rows: &[Row]) -> Credit {
    let (mut conversions, mut value) = (Simplified::new(channels), Simplified::new(channels));
    for row in rows {
        conversions.add(&row.path, i128::from(row.conversions)).unwrap();
        value.add(&row.path, i128::from(row.value_micros)).unwrap();
    }
    conversions
        .credit_e12()
        .into_iter()
        .zip(value.credit_e12().into_iter().map(|micros| micros / 1_000_000))
        .collect()
}

#[test]
fn seven_models_agree_with_the_expected_figures() {
    let (names, rows) = read();
    assert_eq!((names.len(), rows.len()), (12, 10_000));
    assert_eq!(rows.iter().map(|row| row.value_micros).sum::<i64>(), 74_802_971_582);
    let mut compared = 0;
    let mut by_model = BTreeMap::<&str, Credit>::new();
    for line in include_str!("../data/pathdata_expected.csv").lines().skip(1) {
        let fields: Vec<&str> = line.split(',').collect();
        let credit = by_model.entry(fields[0]).or_insert_with(|| match fields[0] {
            "markov" => markov(names.len(), &rows),
            "shapley" => shapley(names.len(), &rows),
            name => rule(Model::from_name(name).unwrap(), names.len(), &rows),
        });
        let channel = names.iter().position(|name| name == fields[1]).unwrap();
        let (conversions, value) = credit[channel];
        let off =
            |found: i128, expected: &str| (found as f64 / 1e12 - expected.parse::<f64>().unwrap()).abs();
        assert!(off(conversions, fields[2]) < 1e-6, "{line}: {conversions}");
        assert!(off(value, fields[3]) < 1e-4, "{line}: {value}");
        compared += 1;
    }
    assert_eq!((compared, by_model.len()), (84, 7));
    for (model, credit) in by_model {
        let conversions: i128 = credit.iter().map(|(conversions, _)| conversions).sum();
        assert!((conversions - 19_785_000_000_000_000).abs() < 1_000_000, "{model}: {conversions}");
    }
}

#[test]
fn linear_of_three_published_paths() {
    // direct (2 conversions), search > email (3), search > social > email (5); channels in this order of names.
    let paths: [(&[u32], u64, u64); 3] = [(&[0], 2, 1), (&[2, 1], 3, 2), (&[2, 3, 1], 5, 4)];
    let rows: Vec<Row> = paths
        .iter()
        .map(|&(path, conversions, nulls)| Row { path: path.to_vec(), conversions, value_micros: 0, nulls })
        .collect();
    let credit: Vec<f64> = rule(Model::Linear, 4, &rows).into_iter().map(|(c, _)| c as f64 / 1e12).collect();
    for (found, expected) in credit.iter().zip([2.0, 19.0 / 6.0, 19.0 / 6.0, 5.0 / 3.0]) {
        assert!((found - expected).abs() < 1e-11, "{credit:?}");
    }
}
