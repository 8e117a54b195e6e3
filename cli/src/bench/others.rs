//! What others used of the CPUs while the bench measured: figures that were taken beside a busy neighbour are to say so.

use seawall_limit::Noise;
use serde::Serialize;

/// From here on figures are said to be disturbed. What the kernel does for the bench's own writes, in interrupts and threads of its
/// own, counts among others: it is less.
const DISTURBED_PERCENT: f64 = 10.0;

/// Of one measurement, or of the most disturbed one of several.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub(super) struct Others {
    #[serde(flatten)]
    noise: Noise,
    disturbed: bool,
}

impl Others {
    pub(super) fn of(noise: Noise) -> Others {
        Others { noise, disturbed: noise.percent() >= DISTURBED_PERCENT }
    }

    pub(super) fn or_worse(self, other: Option<Others>) -> Others {
        other.filter(|other| other.noise.percent() > self.noise.percent()).unwrap_or(self)
    }
}

/// "other programs used 23 % of the CPUs meanwhile".
impl std::fmt::Display for Others {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Noise { stolen_percent, elsewhere_percent } = self.noise;
        write!(f, "other programs used {elsewhere_percent:.0} % of the CPUs meanwhile")?;
        if stolen_percent >= 0.5 {
            write!(f, ", other machines of the host {stolen_percent:.0} %")?;
        }
        if self.disturbed {
            f.write_str(": these are figures of a busy machine, measure again when nothing else runs")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn others(elsewhere_percent: f64, stolen_percent: f64) -> Others {
        Others::of(Noise { stolen_percent, elsewhere_percent })
    }

    #[test]
    fn what_others_used_is_said_and_when_it_disturbs() {
        assert_eq!(others(3.4, 0.0).to_string(), "other programs used 3 % of the CPUs meanwhile");
        let told = others(50.2, 0.4).to_string();
        assert!(
            told.starts_with("other programs used 50 % of the CPUs meanwhile: ") && told.contains("busy machine"),
            "{told}"
        );
        // What the hypervisor took counts as much.
        let told = others(4.0, 6.0).to_string();
        assert!(
            told.contains("meanwhile, other machines of the host 6 %: ") && told.contains("busy machine"),
            "{told}"
        );
        assert!(!others(4.0, 5.9).to_string().contains("busy machine"));
    }

    #[test]
    fn the_most_disturbed_measurement_speaks_for_all() {
        let (quiet, busy) = (others(1.0, 0.0), others(5.0, 20.0));
        assert_eq!(quiet.or_worse(None), quiet);
        assert_eq!(quiet.or_worse(Some(busy)), busy);
        assert_eq!(busy.or_worse(Some(quiet)), busy);
    }

    #[test]
    fn programs_are_told_as_well() {
        let told = serde_json::to_value(others(50.0, 0.0)).unwrap();
        assert_eq!(told, serde_json::json!({"stolen_percent": 0.0, "elsewhere_percent": 50.0, "disturbed": true}));
    }
}
