//! Whether a series grows.

/// Of a series that does not grow, [`z`] is more than this once in a hundred times.
pub(crate) const SIGNIFICANT_Z: f64 = 2.326;

/// The median of the slopes between all pairs of values that follow each other at equal distances (Theil 1950,
/// Sen 1968), per step, as a share of the median value.
pub(crate) fn slope(values: &[f64]) -> f64 {
    let mut slopes = Vec::new();
    for (at, earlier) in values.iter().enumerate() {
        for (distance, later) in values[at..].iter().enumerate().skip(1) {
            slopes.push((later - earlier) / distance as f64);
        }
    }
    median(slopes) / median(values.to_vec())
}

/// How much it looks as if it grew, by the test of Mann (1945) and Kendall (1975): of values in a random order it is about
/// normally distributed.
pub(crate) fn z(values: &[f64]) -> f64 {
    let count = values.len() as f64;
    let mut sum = 0.0;
    for (at, earlier) in values.iter().enumerate() {
        sum += values[at..].iter().map(|later| f64::from(later.total_cmp(earlier) as i8)).sum::<f64>();
    }
    let deviation = (count * (count - 1.0) * (2.0 * count + 5.0) / 18.0).sqrt();
    (sum - 1.0) / deviation
}

/// The middle one; of an even number the mean of the two in the middle.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_its_slope_and_one_outlier_does_not_change_it() {
        let mut line: Vec<f64> = (0..25).map(|step| 100.0 + f64::from(step)).collect();
        assert!((slope(&line) - 1.0 / 112.0).abs() < 1e-12);
        line[3] = 10_000.0;
        assert!((slope(&line) - 1.0 / 113.0).abs() < 1e-3, "{}", slope(&line));
        assert_eq!(slope(&[5.0; 20]), 0.0);
    }

    #[test]
    fn growth_is_told_from_noise() {
        let noise = |step: u32| f64::from((step * 7_919) % 13);
        let flat: Vec<f64> = (0..25).map(|step| 100.0 + noise(step)).collect();
        let growing: Vec<f64> = (0..25).map(|step| 100.0 + noise(step) + f64::from(step)).collect();
        let falling: Vec<f64> = growing.iter().rev().copied().collect();
        // By hand: five pairs of six rise, (5 - 1 - 1) / √(4 · 3 · 13 / 18).
        assert!((z(&[1.0, 3.0, 2.0, 4.0]) - 3.0 / (26.0_f64 / 3.0).sqrt()).abs() < 1e-12);
        assert_eq!([&flat, &growing, &falling].map(|series| z(series) > SIGNIFICANT_Z), [false, true, false]);
    }
}
