//! A row of the list of claims: prints each figure beside what is required of it, and fails when it
//! is not met.

use serde::Serialize;
use serde_json::json;

use crate::is_full;

/// A claim such as `A12`, under which a test reports what it measured.
///
/// Each figure is one line of JSON on standard output, with the unit in its name:
/// `{"figure":"answers lost","met":true,"required":"= 0","row":"A01","value":0}`. A time says also whether it
/// `decides`.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    id: &'static str,
}

impl Row {
    /// The row of this name.
    ///
    /// # Panics
    /// When the name is not a capital letter followed by digits.
    #[must_use]
    #[track_caller]
    pub fn new(id: &'static str) -> Self {
        let digits = id.trim_start_matches(|letter: char| letter.is_ascii_uppercase());
        let is_name = id.len() == digits.len() + 1
            && !digits.is_empty()
            && digits.bytes().all(|digit| digit.is_ascii_digit());
        assert!(is_name, "{id:?} is no name of a row");
        Self { id }
    }

    /// Reports a figure that must be `required` or less.
    ///
    /// # Panics
    /// When it is not.
    #[track_caller]
    pub fn at_most<T: PartialOrd + Serialize>(&self, figure: &str, value: T, required: T) {
        self.report(figure, &value, "<=", &required, value <= required);
    }

    /// Reports a time, or a ratio of times, that must be `required` or less.
    ///
    /// It depends on what else the machine does, so it decides nothing but in a full run (see [`is_full`]),
    /// which has the machine to itself.
    ///
    /// # Panics
    /// When it is not and the run is a full one.
    #[track_caller]
    pub fn takes_at_most(&self, figure: &str, value: f64, required: f64) {
        self.takes(figure, value, required, is_full());
    }

    #[track_caller]
    fn takes(&self, figure: &str, value: f64, required: f64, decides: bool) {
        let met = value <= required;
        let mut line = self.line(figure, &value, "<=", &required, met);
        line["decides"] = json!(decides);
        println!("{line}");
        assert!(met || !decides, "{line}");
    }

    /// Reports a figure that must be `required` or more.
    ///
    /// # Panics
    /// When it is not.
    #[track_caller]
    pub fn at_least<T: PartialOrd + Serialize>(&self, figure: &str, value: T, required: T) {
        self.report(figure, &value, ">=", &required, value >= required);
    }

    /// Reports a figure that must be `required` exactly.
    ///
    /// # Panics
    /// When it is not.
    #[track_caller]
    pub fn exactly<T: PartialEq + Serialize>(&self, figure: &str, value: T, required: T) {
        self.report(figure, &value, "=", &required, value == required);
    }

    #[track_caller]
    fn report<T: Serialize>(&self, figure: &str, value: &T, relation: &str, required: &T, met: bool) {
        let line = self.line(figure, value, relation, required, met);
        println!("{line}");
        assert!(met, "{line}");
    }

    fn line<T: Serialize>(
        &self,
        figure: &str,
        value: &T,
        relation: &str,
        required: &T,
        met: bool,
    ) -> serde_json::Value {
        let required = format!("{relation} {}", json!(required));
        json!({"row": self.id, "figure": figure, "value": value, "required": required, "met": met})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fails(claim: impl FnOnce(Row) + std::panic::UnwindSafe) -> bool {
        std::panic::catch_unwind(|| claim(Row::new("A01"))).is_err()
    }

    #[test]
    fn figures_that_are_met_pass_and_others_fail() {
        let row = Row::new("R13");
        row.at_most("restart p99 ms", 10.0, 10.0);
        row.at_least("delivered", 10, 9);
        row.exactly("lost", 0, 0);
        assert!(fails(|row| row.at_most("x", 11, 10)));
        assert!(fails(|row| row.at_least("x", 9, 10)));
        assert!(fails(|row| row.exactly("x", 1, 0)));
    }

    #[test]
    fn a_time_decides_only_when_the_machine_does_nothing_else() {
        let row = Row::new("R13");
        row.takes("restart p99 ms", 11.0, 10.0, false);
        row.takes("restart p99 ms", 10.0, 10.0, true);
        assert!(fails(|row| row.takes("restart p99 ms", 11.0, 10.0, true)));
        assert!(fails(|row| row.takes("restart p99 ms", f64::NAN, 10.0, true)));
    }

    #[test]
    fn what_was_not_a_number_is_not_met() {
        assert!(fails(|row| row.at_most("x", f64::NAN, 10.0)));
        assert!(fails(|row| row.at_least("x", f64::NAN, 10.0)));
    }

    #[test]
    fn a_row_is_named_by_a_letter_and_a_number() {
        for name in ["", "A", "12", "a12", "AB1", "A1x", "A-1"] {
            assert!(std::panic::catch_unwind(|| Row::new(name)).is_err(), "{name:?}");
        }
    }
}
