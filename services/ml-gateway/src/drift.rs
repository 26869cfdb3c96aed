//! How far the rows that are scored, and their scores, have drifted from those of training.
//!
//! The population stability index of a window of rows: the sum over the bins of `(a - e) ln(a / e)`, where `e` is a bin's
//! share of the training rows and `a` its share of the window. Below 0.1 is read as none, above 0.25 as much (Siddiqi, Credit
//! Risk Scorecards, 2006).

use parking_lot::Mutex;

use crate::{
    backend::Rows,
    manifest::{Histogram, Manifest},
    metrics,
};

/// The least share of a bin: an empty one would be infinitely far away.
const SHARE_MIN: f64 = 1e-4;

/// The name of the score among the inputs.
const SCORE: &str = "score";

/// Windows of a version's rows.
pub(crate) struct Drift {
    model: String,
    version: String,
    window: usize,
    counted: Mutex<Counted>,
}

struct Counted {
    rows: usize,
    inputs: Vec<Bins>,
    score: Bins,
}

struct Bins {
    name: String,
    histogram: Histogram,
    counts: Vec<usize>,
}

// === impl Drift ===

impl Drift {
    pub(crate) fn new(manifest: &Manifest, window: usize) -> Self {
        let inputs = manifest.inputs.iter().map(|input| Bins::new(&input.name, &input.histogram));
        let counted =
            Counted { rows: 0, inputs: inputs.collect(), score: Bins::new(SCORE, &manifest.score_histogram) };
        Self {
            model: manifest.name.clone(),
            version: manifest.version.clone(),
            window: window.max(1),
            counted: Mutex::new(counted),
        }
    }

    /// Counts rows; whenever there are as many as a window has, tells how far they are.
    pub(crate) fn note(&self, rows: &Rows, scores: &[f64]) {
        let mut counted = self.counted.lock();
        for (row, score) in rows.values.chunks(rows.width).zip(scores) {
            for (bins, value) in counted.inputs.iter_mut().zip(row) {
                bins.count(f64::from(*value));
            }
            counted.score.count(*score);
            counted.rows += 1;
            if counted.rows == self.window {
                counted.rows = 0;
                let Counted { inputs, score, .. } = &mut *counted;
                for bins in inputs.iter_mut().chain([score]) {
                    metrics::drifted(&self.model, &self.version, &bins.name, bins.index(self.window));
                    bins.counts.fill(0);
                }
            }
        }
    }
}

// === impl Bins ===

impl Bins {
    fn new(name: &str, histogram: &Histogram) -> Self {
        let counts = vec![0; histogram.shares().len()];
        Self { name: name.to_owned(), histogram: histogram.clone(), counts }
    }

    fn count(&mut self, value: f64) {
        self.counts[self.histogram.bin(value)] += 1;
    }

    fn index(&self, rows: usize) -> f64 {
        let distance = |(count, share): (&usize, &f64)| {
            let actual = (*count as f64 / rows as f64).max(SHARE_MIN);
            let expected = share.max(SHARE_MIN);
            (actual - expected) * (actual / expected).ln()
        };
        self.counts.iter().zip(self.histogram.shares()).map(distance).sum()
    }
}
