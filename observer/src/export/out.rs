//! Where samples go: the encoder of prometheus-client, with the labels that a row has, and when it began to count.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use prometheus_client::{
    encoding::{
        CounterValueEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeLabel as _,
        EncodeLabelSet, GaugeValueEncoder, LabelSetEncoder, MetricEncoder, NativeHistogram,
        NativeHistogramBuckets, NoLabelSet,
    },
    metrics::exemplar::Exemplar,
};

use super::family::Kind;
use crate::model::Histogram;

/// A label and its value.
pub(super) type Label<'a> = (&'a str, &'a str);

/// What a sample is told apart by: what its row is, and what the family adds.
struct Labels<'a, R> {
    row: &'a R,
    more: &'a [Label<'a>],
}

impl<R: EncodeLabelSet> EncodeLabelSet for Labels<'_, R> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        self.row.encode(encoder)?;
        self.more.iter().try_for_each(|label| label.encode(encoder.encode_label()))
    }
}

/// A row without labels.
pub(super) struct Bare;

impl EncodeLabelSet for Bare {
    fn encode(&self, _: &mut LabelSetEncoder<'_>) -> fmt::Result {
        Ok(())
    }
}

/// A sample's value.
#[derive(Clone, Copy)]
pub(super) enum Value {
    Whole(u64),
    Real(f64),
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Whole(value)
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Real(value)
    }
}

impl EncodeCounterValue for Value {
    fn encode(&self, encoder: &mut CounterValueEncoder<'_>) -> fmt::Result {
        match self {
            Self::Whole(value) => EncodeCounterValue::encode(value, encoder),
            Self::Real(value) => EncodeCounterValue::encode(value, encoder),
        }
    }
}

impl EncodeGaugeValue for Value {
    fn encode(&self, encoder: &mut GaugeValueEncoder<'_>) -> fmt::Result {
        match self {
            Self::Whole(value) => EncodeGaugeValue::encode(value, encoder),
            Self::Real(value) => EncodeGaugeValue::encode(value, encoder),
        }
    }
}

/// The samples of the family under way.
pub(super) struct Out<'a, 'e> {
    encoder: &'a mut MetricEncoder<'e>,
    kind: Kind,
    /// So many of the classic buckets are one.
    merged: usize,
    /// When each sample began to count.
    created: &'a mut Vec<Option<SystemTime>>,
    outcome: fmt::Result,
}

impl<'a, 'e> Out<'a, 'e> {
    pub(super) fn new(
        encoder: &'a mut MetricEncoder<'e>,
        kind: Kind,
        merged: usize,
        created: &'a mut Vec<Option<SystemTime>>,
    ) -> Self {
        Self { encoder, kind, merged, created, outcome: Ok(()) }
    }

    /// Whether all samples could be written.
    pub(super) const fn outcome(&self) -> fmt::Result {
        self.outcome
    }

    /// A sample of a row, which has counted since then.
    pub(super) fn sample(
        &mut self,
        row: &impl EncodeLabelSet,
        more: &[Label<'_>],
        since: Option<SystemTime>,
        value: impl Into<Value>,
    ) {
        self.created.push(since);
        let value = value.into();
        let labels = Labels { row, more };
        let outcome = match self.kind {
            Kind::Counter => self.encoder.encode_family(&labels).and_then(|mut encoder| {
                encoder.encode_counter::<NoLabelSet, _, u64>(&value, None::<&Exemplar<_, _>>)
            }),
            Kind::Gauge => self
                .encoder
                .encode_family(&labels)
                .and_then(|mut encoder| encoder.encode_gauge(&value)),
            Kind::Info => self.encoder.encode_info(&labels),
            Kind::Histogram => Err(fmt::Error),
        };
        self.outcome = self.outcome.and(outcome);
    }

    /// A value of the observer itself.
    pub(super) fn own(&mut self, labels: &[Label<'_>], value: impl Into<Value>) {
        self.sample(&Bare, labels, None, value);
    }

    /// A histogram of times.
    pub(super) fn histogram(
        &mut self,
        row: &impl EncodeLabelSet,
        more: &[Label<'_>],
        since: Option<SystemTime>,
        histogram: Histogram<'_>,
    ) {
        self.created.push(since);
        let sum = Duration::from_nanos(histogram.sum_ns).as_secs_f64();
        let count = histogram.buckets.iter().sum();
        let labels = Labels { row, more };
        let merged = if histogram.bounds.powers_of_two { self.merged } else { 1 };
        let buckets = classic(histogram, merged);
        let outcome =
            self.encoder.encode_family(&labels).and_then(|mut encoder| {
                match Native::of(histogram) {
                    None => encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None),
                    Some(native) => encoder.encode_histogram_with_native::<NoLabelSet>(
                        sum,
                        count,
                        &buckets,
                        None,
                        native.encoding(since),
                    ),
                }
            });
        self.outcome = self.outcome.and(outcome);
    }
}

/// Classic buckets: upper bound and observations. So many are one, with those that hold a bound of a second.
fn classic(histogram: Histogram<'_>, merged: usize) -> Vec<(f64, u64)> {
    let bounds = histogram.bounds.upper;
    let second = bounds.iter().position(|bound| (bound - 1.0).abs() < f64::EPSILON).unwrap_or(0);
    let mut buckets = Vec::with_capacity(bounds.len() / merged + 2);
    let mut under_way = 0;
    for (place, count) in histogram.buckets.iter().enumerate() {
        under_way += count;
        match bounds.get(place) {
            None => buckets.push((f64::INFINITY, under_way)),
            Some(bound) if place % merged == second % merged => {
                buckets.push((*bound, under_way));
                under_way = 0;
            }
            Some(_) => {}
        }
    }
    buckets
}

/// A native histogram of schema 0, whose buckets are the powers of two: bucket `i` is `(2^(i-1), 2^i]`. What is below the
/// first bound is in the zero bucket, which is as wide; what is above the last is in the bucket after it.
struct Native {
    zero: (f64, u64),
    spans: Vec<(i32, u32)>,
    deltas: Vec<i64>,
}

impl Native {
    fn of(histogram: Histogram<'_>) -> Option<Self> {
        let (first, _) = histogram.bounds.upper.split_first()?;
        if !histogram.bounds.powers_of_two {
            return None;
        }
        let exponent = first.log2() as i32;
        let (zero, rest) = histogram.buckets.split_first()?;
        let (mut spans, mut deltas): (Vec<(i32, u32)>, Vec<i64>) = (Vec::new(), Vec::new());
        // Where the last span ends, and what its last bucket holds.
        let (mut end, mut last) = (0, 0_i64);
        for (index, &count) in (exponent + 1..).zip(rest).filter(|(_, count)| **count != 0) {
            match spans.last_mut() {
                Some((_, length)) if index == end => *length += 1,
                _ => spans.push((index - end, 1)),
            }
            let count = count.cast_signed();
            deltas.push(count - last);
            (end, last) = (index + 1, count);
        }
        Some(Self { zero: (*first, *zero), spans, deltas })
    }

    fn encoding(&self, created: Option<SystemTime>) -> NativeHistogram<'_> {
        NativeHistogram {
            schema: 0,
            zero_threshold: self.zero.0,
            zero_count: self.zero.1,
            negative: NativeHistogramBuckets { spans: &[], deltas: &[] },
            positive: NativeHistogramBuckets { spans: &self.spans, deltas: &self.deltas },
            created,
        }
    }
}

#[cfg(test)]
mod tests {
    use observer_common::wire::slot::{IDLE_TIMES, LIFETIME_USED, LIFETIMES};

    use super::*;

    fn lifetimes(counts: &[(usize, u64)]) -> [u64; LIFETIME_USED] {
        let mut buckets = [0; LIFETIME_USED];
        for &(bucket, count) in counts {
            buckets[bucket] = count;
        }
        buckets
    }

    #[test]
    fn merged_buckets_keep_the_second_and_every_count() {
        let buckets = lifetimes(&[(0, 1), (5, 2), (10, 3), (11, 4), (27, 5), (28, 6)]);
        let histogram = Histogram { sum_ns: 0, buckets: &buckets, bounds: &LIFETIMES };
        assert_eq!(classic(histogram, 1).len(), LIFETIME_USED);
        let merged = classic(histogram, 3);
        let up_to = |bound: f64| {
            let until = merged.iter().take_while(|(upper, _)| *upper <= bound);
            until.map(|(_, count)| count).sum::<u64>()
        };
        assert_eq!((merged.len(), up_to(1.0), up_to(f64::INFINITY)), (10, 6, 21));
        assert!(merged.iter().any(|(bound, _)| (bound - 1.0).abs() < f64::EPSILON));
    }

    #[test]
    fn native_buckets_are_the_powers_of_two() {
        let buckets = lifetimes(&[(0, 7), (10, 3), (11, 5), (28, 1)]);
        let bounds = &LIFETIMES;
        let native = Native::of(Histogram { sum_ns: 0, buckets: &buckets, bounds }).unwrap();
        assert_eq!(native.zero, (1.0 / 1024.0, 7));
        // Up to a second and up to two: buckets 0 and 1; above 2^17 s: bucket 18.
        assert_eq!(native.spans, [(0, 2), (16, 1)]);
        assert_eq!(native.deltas, [3, 2, -4]);
        let others = Histogram { sum_ns: 0, buckets: &[0; 28], bounds: &IDLE_TIMES };
        assert!(Native::of(others).is_none());
    }
}
