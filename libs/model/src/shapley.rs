//! Shapley values of channels: simplified, by position, and over any coalition worth.
//!
//! Source: Zhao, Mahboobi, Bagheri, *Shapley Value Methods for Attribution Modeling in Online Advertising*,
//! arXiv:1804.05327 (2018). Where a coalition is worth the conversions of all paths within it, the Shapley value has the
//! closed form that shares each conversion evenly by the distinct channels of its path: [`Simplified`]. By position the
//! same credit is told apart by where in the path the channel was: [`Ordered`]. [`exact`] takes the definition literally,
//! for the worth that has a closed form and for one that has none.

use std::{cmp::Reverse, collections::BTreeMap};

use crate::{Error, PathCount};

/// The most channels of [`exact`], which looks at every coalition: 2^20 worths of 8 bytes.
pub const EXACT_CHANNELS_MAX: usize = 20;

/// What a coalition of channels is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Worth {
    /// The conversions of all paths that have no channel outside of it.
    Conversions,
    /// Those conversions divided by how often such paths were walked; 0 if never.
    Rate,
}

/// Each conversion shared evenly by the distinct channels of its path.
///
/// Amounts are integers (conversions, micros), kept exactly until the end: the order of paths changes nothing.
#[derive(Debug, Clone)]
pub struct Simplified {
    // Of each channel the amounts by number of distinct channels in the path.
    amounts: Vec<Vec<(u32, i128)>>,
    total: i128,
    // The last path that a channel was met in, so that it counts once.
    met: Vec<u64>,
    paths: u64,
}

/// The credit of a channel at one position of the paths.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PositionCredit {
    /// The channel.
    pub channel: u32,
    /// The position in the path, from 0.
    pub position: u32,
    /// In the unit of the amounts.
    pub credit: f64,
}

/// As [`Simplified`], by position: a channel's part of a path is shared evenly by the positions where it stands in it.
#[derive(Debug, Clone)]
pub struct Ordered {
    channels: usize,
    // (channel, position, distinct channels times occurrences) to amount.
    amounts: BTreeMap<(u32, u32, u64), i128>,
}

/// The Shapley value of each channel by its definition: the average, over all orders of the channels, of what the
/// channel adds to the worth of those before it. The values sum to the worth of all channels together.
///
/// Time and memory grow as `2^channels`, of which there are at most [`EXACT_CHANNELS_MAX`].
pub fn exact(channels: usize, paths: &[PathCount], worth: Worth) -> Result<Vec<f64>, Error> {
    if channels > EXACT_CHANNELS_MAX {
        return Err(Error::TooManyChannels { given: channels, max: EXACT_CHANNELS_MAX });
    }
    let mut conversions = vec![0_u64; 1 << channels];
    let mut nulls = if worth == Worth::Rate { vec![0_u64; 1 << channels] } else { Vec::new() };
    let mut walks = 0_u64;
    for path in paths {
        let set = coalition(channels, &path.path)?;
        if set == 0 {
            continue;
        }
        let sum = path.conversions.checked_add(path.nulls).and_then(|n| n.checked_add(walks));
        walks = sum.ok_or(Error::TooManyCounts)?;
        conversions[set] += path.conversions;
        if worth == Worth::Rate {
            nulls[set] += path.nulls;
        }
    }
    zeta(&mut conversions);
    zeta(&mut nulls);
    Ok(values(channels, |from, worths| {
        let worths = worths.iter_mut().zip(&conversions[from..]);
        match worth {
            Worth::Conversions => worths.for_each(|(worth, &conversions)| *worth = conversions as f64),
            Worth::Rate => worths.zip(&nulls[from..]).for_each(|((worth, &conversions), &nulls)| {
                *worth = conversions as f64 / (conversions + nulls).max(1) as f64;
            }),
        }
    }))
}

/// The zeta transform over subsets, in place: entry `S` becomes the sum of the entries of all subsets of `S`. The length
/// is a power of two (or 0), and the sum of all entries fits.
pub fn zeta(values: &mut [u64]) {
    let mut step = 1;
    while step < values.len() {
        for pair in values.chunks_exact_mut(2 * step) {
            let (without, with) = pair.split_at_mut(step);
            for (with, without) in with.iter_mut().zip(without) {
                *with += *without;
            }
        }
        step *= 2;
    }
}

// === impl Simplified ===

impl Simplified {
    /// Over channels 0 to `channels` − 1.
    pub fn new(channels: usize) -> Self {
        Self { amounts: vec![Vec::new(); channels], total: 0, met: vec![0; channels], paths: 0 }
    }

    /// Adds what paths of these channels earned, in conversions or in micros. An empty path earns nobody anything.
    pub fn add(&mut self, path: &[u32], amount: i128) -> Result<(), Error> {
        check(self.amounts.len(), path)?;
        if path.is_empty() {
            return Ok(());
        }
        let (paths, met) = (&mut self.paths, &mut self.met);
        let distinct = for_distinct(paths, met, path, |_| ());
        for_distinct(paths, met, path, |channel| {
            let amounts = &mut self.amounts[channel];
            match amounts.iter_mut().find(|(size, _)| *size == distinct) {
                Some((_, sum)) => *sum += amount,
                None => amounts.push((distinct, amount)),
            }
        });
        self.total += amount;
        Ok(())
    }

    /// The credit of each channel in units of 10⁻¹² of the amounts' unit, of sum exactly 10¹² times the total: floors of
    /// the exact fractions, and the rest by largest remainder, of equal ones the lower channel first.
    pub fn credit_e12(&self) -> Vec<i128> {
        const E12: i128 = 1_000_000_000_000;
        let mut credit = Vec::with_capacity(self.amounts.len());
        let mut remainders = Vec::with_capacity(self.amounts.len());
        for amounts in &self.amounts {
            let mut by_size = amounts.clone();
            by_size.sort_unstable();
            let (mut whole, mut fraction) = (0_i128, 0.0_f64);
            for (size, amount) in by_size {
                let (amount, size) = (amount * E12, i128::from(size));
                whole += amount.div_euclid(size);
                fraction += amount.rem_euclid(size) as f64 / size as f64;
            }
            // Where the fractions add up to an integer but for rounding, the remainder is next to 1 and is served first.
            let carry = fraction.floor();
            credit.push(whole + carry as i128);
            remainders.push((Reverse(((fraction - carry) * 1e9).round() as u64), credit.len() - 1));
        }
        let left = self.total * E12 - credit.iter().sum::<i128>();
        remainders.sort_unstable();
        for &(_, channel) in remainders.iter().take(usize::try_from(left).unwrap_or(0)) {
            credit[channel] += 1;
        }
        credit
    }

    /// The credit of each channel in the amounts' unit.
    pub fn credit(&self) -> Vec<f64> {
        self.credit_e12().into_iter().map(|credit| credit as f64 / 1e12).collect()
    }
}

// === impl Ordered ===

impl Ordered {
    /// Over channels 0 to `channels` − 1.
    pub fn new(channels: usize) -> Self {
        Self { channels, amounts: BTreeMap::new() }
    }

    /// Adds what paths of these channels in this order earned, in conversions or in micros.
    pub fn add(&mut self, path: &[u32], amount: i128) -> Result<(), Error> {
        check(self.channels, path)?;
        let mut occurrences = BTreeMap::<u32, u64>::new();
        for &channel in path {
            *occurrences.entry(channel).or_default() += 1;
        }
        for (position, &channel) in path.iter().enumerate() {
            let parts = occurrences.len() as u64 * occurrences[&channel];
            *self.amounts.entry((channel, position as u32, parts)).or_default() += amount;
        }
        Ok(())
    }

    /// The credits by channel, then position; summed over the positions they are those of [`Simplified`].
    pub fn credit(&self) -> Vec<PositionCredit> {
        let mut credits = Vec::<PositionCredit>::new();
        for (&(channel, position, parts), &amount) in &self.amounts {
            let credit = amount as f64 / parts as f64;
            match credits.last_mut() {
                Some(last) if (last.channel, last.position) == (channel, position) => last.credit += credit,
                _ => credits.push(PositionCredit { channel, position, credit }),
            }
        }
        credits
    }
}

fn check(channels: usize, path: &[u32]) -> Result<(), Error> {
    match path.iter().find(|&&channel| channel as usize >= channels) {
        Some(&channel) => Err(Error::UnknownChannel { channel, channels }),
        None => Ok(()),
    }
}

fn coalition(channels: usize, path: &[u32]) -> Result<usize, Error> {
    check(channels, path)?;
    Ok(path.iter().fold(0, |set, &channel| set | 1 << channel))
}

// Calls `each` with every channel of the path once, and says how many there are.
fn for_distinct(paths: &mut u64, met: &mut [u64], path: &[u32], mut each: impl FnMut(usize)) -> u32 {
    *paths += 1;
    let mut distinct = 0;
    for &channel in path {
        if std::mem::replace(&mut met[channel as usize], *paths) != *paths {
            distinct += 1;
            each(channel as usize);
        }
    }
    distinct
}

// Over coalitions `S` of size `s` out of `n`, the value of channel `k` is
//   sum of v(S) (s-1)!(n-s)!/n! where k is in S, minus sum of v(S) s!(n-s-1)!/n! where it is not
// which is the sum of v(S) (s-1)!(n-s-1)!/(n-1)! where k is in S (of v(S)/n for the coalition of all), minus a term that
// is the same for every k. The first sums, for all k at once, cost two additions a coalition: coalitions are met in blocks
// that differ in their low bits alone; the sum over the blocks, folded in halves, answers for the low bits, and the totals
// of the blocks for the high ones.
//
// Both running sums are kept in lanes, since one chain of additions would cost more than all the rest.
fn values(n: usize, worths: impl Fn(usize, &mut [f64])) -> Vec<f64> {
    const LOW_BITS: usize = 10;
    const LANES: usize = 8;
    let (within, without) = size_factors(n);
    let low = n.min(LOW_BITS);
    let sizes: Vec<usize> = (0..1_u32 << low).map(|set| set.count_ones() as usize).collect();
    let mut block = vec![0.0; 1 << low];
    let mut over_blocks = vec![0.0; 1 << low];
    let mut block_totals = vec![0.0; 1 << (n - low)];
    let mut lost = [0.0; LANES];
    for (high, total) in block_totals.iter_mut().enumerate() {
        let members = high.count_ones() as usize;
        let (within, without) = (&within[members..], &without[members..]);
        worths(high << low, &mut block);
        let mut lanes = [0.0; LANES];
        let cells = block.chunks(LANES).zip(over_blocks.chunks_mut(LANES)).zip(sizes.chunks(LANES));
        for ((worths, sums), sizes) in cells {
            for (lane, ((worth, sum), &size)) in worths.iter().zip(sums).zip(sizes).enumerate() {
                let gain = worth * within[size];
                *sum += gain;
                lanes[lane] += gain;
                lost[lane] += worth * without[size];
            }
        }
        *total = lanes.iter().sum();
    }
    let mut values = vec![0.0; n];
    fold(&mut over_blocks, &mut values[..low]);
    fold(&mut block_totals, &mut values[low..]);
    let lost: f64 = lost.iter().sum();
    for value in &mut values {
        *value -= lost;
    }
    values
}

// Sets `sums[k]` to the sum of the cells whose index has bit `k`. Overwrites the cells.
fn fold(cells: &mut [f64], sums: &mut [f64]) {
    for (bit, sum) in sums.iter_mut().enumerate().rev() {
        let (lower, upper) = cells[..2 << bit].split_at_mut(1 << bit);
        for (l, u) in lower.iter_mut().zip(upper) {
            *sum += *u;
            *l += *u;
        }
    }
}

// For each size 0 to n: (s-1)!(n-s-1)!/(n-1)! and s!(n-s-1)!/n!, by C(n, s+1) = C(n, s) (n-s)/(s+1).
fn size_factors(n: usize) -> (Vec<f64>, Vec<f64>) {
    let mut within = vec![0.0; n + 1];
    let mut without = vec![0.0; n + 1];
    let mut choose = 1.0;
    for s in 0..n {
        let (size, others) = (s as f64, (n - s) as f64);
        without[s] = 1.0 / (choose * others);
        if s > 0 {
            within[s] = without[s] + 1.0 / (choose * size);
        }
        choose *= others / (size + 1.0);
    }
    if n > 0 {
        within[n] = 1.0 / n as f64;
    }
    (within, without)
}
