//! Scores are those of the libraries that trained the models.

use crate::support::{Gateway, Golden, ml, request};

/// Messages stay below their bound.
const ROWS_OF_A_CALL: usize = 2_500;

#[tokio::test]
async fn ten_thousand_scores_are_those_of_lightgbm_in_python() {
    let golden = Golden::read();
    assert_eq!(golden.rows.len(), 10_000);
    let gateway = Gateway::ready(&ml().join("models")).await;
    for first in (0..golden.rows.len()).step_by(ROWS_OF_A_CALL) {
        let rows = (first..first + ROWS_OF_A_CALL).map(|row| golden.named(row)).collect();
        let answer = gateway.score(request("fraud", rows)).await.unwrap();
        assert_eq!(answer.rows.len(), ROWS_OF_A_CALL);
        for (row, scored) in (first..).zip(answer.rows) {
            let (score, calibrated) = (golden.scores[row], golden.calibrated[row]);
            assert!((scored.score - score).abs() < 1e-5, "row {row}: {} and {score}", scored.score);
            let apart = (scored.calibrated - calibrated).abs();
            assert!(apart < 1e-5, "row {row}: {} and {calibrated}", scored.calibrated);
        }
    }
    // They are no constants.
    let greatest = golden.scores.iter().fold(0.0f64, |greatest, score| greatest.max(*score));
    assert!(greatest > 0.9 && golden.scores.iter().any(|score| *score < 0.01));
}
