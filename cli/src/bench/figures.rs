//! Medians and spreads.

use serde::Serialize;

/// A figure over all rounds.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
pub(super) struct Figure {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

impl Figure {
    /// Of the values of the rounds; all zero of none.
    pub(super) fn of(values: impl IntoIterator<Item = f64>) -> Figure {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (Some(min), Some(max)) = (values.first(), values.last()) else { return Figure::default() };
        let median = f64::midpoint(values[(values.len() - 1) / 2], values[values.len() / 2]);
        Figure { median, min: *min, max: *max }
    }
}

/// Whether a target was met.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Target {
    /// In words: "ratio ≥ 0.95".
    pub(super) what: String,
    pub(super) met: bool,
}

impl Target {
    pub(super) fn at_least(name: &str, value: f64, bound: f64) -> Target {
        Target { what: format!("{name} ≥ {bound}"), met: value >= bound }
    }

    pub(super) fn at_most(name: &str, value: f64, bound: f64) -> Target {
        Target { what: format!("{name} ≤ {bound}"), met: value <= bound }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.what, if self.met { "met" } else { "MISSED" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(Figure::of([]), Figure::default());
        assert_eq!(Figure::of([3.0, 1.0, 2.0]), Figure { median: 2.0, min: 1.0, max: 3.0 });
        assert_eq!(Figure::of([4.0, 1.0]).median, 2.5);
    }
}
