//! Markov attribution of order 1, solved exactly.
//!
//! Paths are walks of an absorbing chain: from the start over channels to `conversion` or `null`, each step as likely as
//! it is frequent in the counts. The removal effect of a channel is the share of conversions lost when all traffic into
//! it goes to `null`. Normalised, the effects share the conversions.
//! Source: Anderl, Becker, von Wangenheim, Schumann, *Mapping the customer journey: Lessons learned from graph-based
//! online attribution modeling*, International Journal of Research in Marketing 33 (2016).
//!
//! One inversion answers for every channel. With `Q` the steps between channels, `p` the steps from the start and `r`
//! those to `conversion`, the fundamental matrix is `N = (I - Q)⁻¹`. From channel `i` the chain converts with probability
//! `c = N r`; from the start it visits `k` `(p N)_k` times on average, and each visit is followed by `N_kk - 1` more, so
//! it ever visits with probability `h_k = (p N)_k / N_kk`. At the first visit the past no longer matters: the walks that
//! convert over `k` are worth `h_k c_k`, and without `k` exactly these are lost. The removal effect is `h_k c_k / p c`.
//! Staying on a channel changes neither `h` nor `c`, so loops are counted but left out of the solution.

use crate::{Error, PathCount};

/// The most channels of one chain. Time grows with their cube, memory with their square (8 MB of counts at the most).
pub const CHANNELS_MAX: usize = 1_000;

/// Counted transitions between channels.
#[derive(Debug, Clone)]
pub struct Chain {
    channels: usize,
    // A row for each channel and one for the start; a column for each channel, one for conversion, one for null.
    counts: Vec<u64>,
    // Of all rows, so that no cell and no sum of cells can overflow.
    transitions: u64,
}

/// The share of each channel in the conversions of the paths: see [`Chain::weights`].
pub fn weights(channels: usize, paths: &[PathCount]) -> Result<Vec<f64>, Error> {
    let mut chain = Chain::new(channels)?;
    for path in paths {
        chain.add(&path.path, path.conversions, path.nulls)?;
    }
    Ok(chain.weights())
}

// === impl Chain ===

impl Chain {
    /// A chain over channels 0 to `channels` − 1, of which there are at most [`CHANNELS_MAX`].
    pub fn new(channels: usize) -> Result<Self, Error> {
        if channels > CHANNELS_MAX {
            return Err(Error::TooManyChannels { given: channels, max: CHANNELS_MAX });
        }
        Ok(Self { channels, counts: vec![0; (channels + 1) * (channels + 2)], transitions: 0 })
    }

    /// Counts a path that was walked `conversions` times to a conversion and `nulls` times to none; the path `[a, b]` is
    /// the transitions start to a, a to b, and b to the end. An empty path is not part of the chain.
    pub fn add(&mut self, path: &[u32], conversions: u64, nulls: u64) -> Result<(), Error> {
        if let Some(&channel) = path.iter().find(|&&channel| channel as usize >= self.channels) {
            return Err(Error::UnknownChannel { channel, channels: self.channels });
        }
        let Some(&last) = path.last() else { return Ok(()) };
        let walks = conversions.checked_add(nulls).ok_or(Error::TooManyCounts)?;
        let transitions = walks.checked_mul(path.len() as u64 + 1).ok_or(Error::TooManyCounts)?;
        self.transitions = self.transitions.checked_add(transitions).ok_or(Error::TooManyCounts)?;
        let width = self.width();
        let mut row = self.channels * width;
        for &channel in path {
            self.counts[row + channel as usize] += walks;
            row = channel as usize * width;
        }
        let end = last as usize * width + self.channels;
        self.counts[end] += conversions;
        self.counts[end + 1] += nulls;
        Ok(())
    }

    /// How often `from` was followed by `to`; 0 past the channels.
    pub fn count(&self, from: u32, to: u32) -> u64 {
        let (from, to) = (from as usize, to as usize);
        if from.max(to) < self.channels { self.counts[from * self.width() + to] } else { 0 }
    }

    /// The share of conversions that is lost without the channel, 0 to 1 for each channel; all 0 without conversions.
    ///
    /// The same counts give the same bits, also when the paths came in another order.
    pub fn removal_effects(&self) -> Vec<f64> {
        let n = self.channels;
        let start = self.shares(n);
        let fundamental = invert(self.transient(), n);
        let to_conversion: Vec<f64> = (0..n).map(|from| self.share(from, n)).collect();
        let converts: Vec<f64> =
            fundamental.chunks_exact(n.max(1)).map(|row| dot(row, &to_conversion)).collect();
        let mut visits = vec![0.0; n];
        for (row, share) in fundamental.chunks_exact(n.max(1)).zip(&start) {
            add_scaled(&mut visits, row, *share);
        }
        let total = dot(&start, &converts);
        if total <= 0.0 {
            return vec![0.0; n];
        }
        (0..n).map(|k| (visits[k] / fundamental[k * n + k] * converts[k] / total).min(1.0)).collect()
    }

    /// The removal effects normalised to a sum of 1: each channel's share of all conversions that have a path, and of
    /// their value. All 0 without conversions.
    pub fn weights(&self) -> Vec<f64> {
        let mut weights = self.removal_effects();
        let mut sum = 0.0;
        for weight in &weights {
            sum += weight;
        }
        if sum > 0.0 {
            for weight in &mut weights {
                *weight /= sum;
            }
        }
        weights
    }

    fn width(&self) -> usize {
        self.channels + 2
    }

    // Transitions that leave the state: loops on a channel are left out.
    fn leaving(&self, from: usize) -> u64 {
        let row = &self.counts[from * self.width()..][..self.width()];
        let loops = if from < self.channels { row[from] } else { 0 };
        row.iter().sum::<u64>() - loops
    }

    fn share(&self, from: usize, to: usize) -> f64 {
        match self.leaving(from) {
            0 => 0.0,
            leaving => self.counts[from * self.width() + to] as f64 / leaving as f64,
        }
    }

    fn shares(&self, from: usize) -> Vec<f64> {
        let leaving = self.leaving(from).max(1) as f64;
        self.counts[from * self.width()..][..self.channels]
            .iter()
            .map(|&count| count as f64 / leaving)
            .collect()
    }

    // I - Q without loops. A channel that no path has keeps the row of the identity.
    fn transient(&self) -> Vec<f64> {
        let n = self.channels;
        let mut matrix = Vec::with_capacity(n * n);
        for from in 0..n {
            matrix.extend(self.shares(from).into_iter().map(|share| 0.0 - share));
            matrix[from * n + from] = 1.0;
        }
        matrix
    }
}

// Gauss-Jordan in place. Every channel of a path leads to an end, so `I - Q` is a nonsingular M-matrix with dominant
// diagonal: all pivots taken on the diagonal are positive and elimination in this order is stable.
fn invert(mut matrix: Vec<f64>, n: usize) -> Vec<f64> {
    let mut pivot_row = vec![0.0; n];
    for k in 0..n {
        let row = &mut matrix[k * n..][..n];
        let pivot = std::mem::replace(&mut row[k], 1.0);
        for cell in row.iter_mut() {
            *cell /= pivot;
        }
        pivot_row.copy_from_slice(row);
        for i in (0..n).filter(|&i| i != k) {
            let row = &mut matrix[i * n..][..n];
            let factor = std::mem::replace(&mut row[k], 0.0);
            if factor != 0.0 {
                add_scaled(row, &pivot_row, -factor);
            }
        }
    }
    matrix
}

fn add_scaled(target: &mut [f64], source: &[f64], factor: f64) {
    for (t, s) in target.iter_mut().zip(source) {
        *t += factor * s;
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sum = 0.0;
    for (a, b) in a.iter().zip(b) {
        sum += a * b;
    }
    sum
}
