//! Median, smallest and largest of some measurements.

use std::fmt;

use serde::Serialize;

/// What a handful of measurements come to.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// Of at least one measurement; none of them is NaN.
    pub(crate) fn of(mut figures: Vec<f64>) -> Option<Self> {
        figures.sort_by(f64::total_cmp);
        let middle = figures.len() / 2;
        let median = if figures.len() % 2 == 1 {
            *figures.get(middle)?
        } else {
            f64::midpoint(*figures.get(middle.checked_sub(1)?)?, *figures.get(middle)?)
        };
        Some(Self { median, min: *figures.first()?, max: *figures.last()? })
    }
}

impl fmt::Display for Spread {
    /// As "median (min–max)", with the precision that is asked for.
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = to.precision().unwrap_or(3);
        let Self { median, min, max } = self;
        write!(to, "{median:.digits$} ({min:.digits$}–{max:.digits$})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        let spread = |figures: &[f64]| Spread::of(figures.to_vec());
        assert_eq!(spread(&[]), None);
        let odd = spread(&[3.0, 1.0, 2.0]).unwrap();
        assert_eq!(odd, Spread { median: 2.0, min: 1.0, max: 3.0 });
        let even = spread(&[4.0, 1.0, 2.0, 3.0]).unwrap();
        assert_eq!(format!("{even:.1}"), "2.5 (1.0–4.0)");
    }
}
