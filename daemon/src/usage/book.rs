//! The days that are not settled yet: what functions have used today, and what is not written down.
//!
//! Owns the sums by function and day. Reads no clock and no file.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::Date;
use roost_proxy::function::FunctionKey;

use super::figures::Figures;

/// What a function has used on a day.
pub type Row = (Date, FunctionKey, Figures);

#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    figures: Figures,
    /// There is more in it than is written down.
    changed: bool,
}

/// Sums by day and function.
#[derive(Debug, Default)]
pub(super) struct Book(BTreeMap<(Date, FunctionKey), Sum>);

impl Book {
    /// With what was written down of days that go on.
    pub(super) fn of(rows: Vec<Row>) -> Self {
        let sum = |figures| Sum { figures, changed: false };
        Self(rows.into_iter().map(|(day, function, figures)| ((day, function), sum(figures))).collect())
    }

    /// `function` has used this in the time `over` that ends at `until`.
    pub(super) fn add(&mut self, function: &FunctionKey, used: Figures, over: Duration, until: Timestamp) {
        if used.is_zero() {
            return;
        }
        for (day, used) in used.by_day(over, until) {
            let sum = self.0.entry((day, function.clone())).or_default();
            sum.figures = sum.figures.and(used);
            sum.changed = true;
        }
    }

    /// What is to be written down.
    pub(super) fn changed(&self) -> Vec<Row> {
        self.rows(|sum| sum.changed)
    }

    /// All that is not settled.
    pub(super) fn all(&self) -> Vec<Row> {
        self.rows(|_| true)
    }

    fn rows(&self, which: impl Fn(&Sum) -> bool) -> Vec<Row> {
        let those = self.0.iter().filter(|(_, sum)| which(sum));
        those.map(|((day, function), sum)| (*day, function.clone(), sum.figures)).collect()
    }

    /// These are written down. Days before `today` are settled with that.
    pub(super) fn written(&mut self, rows: &[Row], today: Date) {
        for (day, function, figures) in rows {
            if let Some(sum) = self.0.get_mut(&(*day, function.clone())) {
                sum.changed = sum.figures != *figures;
            }
        }
        self.0.retain(|(day, _), sum| sum.changed || *day >= today);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_not_written_again_and_goes_when_its_day_is_over() {
        let function = FunctionKey::from_route("echo").unwrap();
        let second = Duration::from_secs(1);
        let used = Figures { active: second, messages: [1, 0], ..Figures::default() };
        let (evening, morning) = ("2026-02-28T23:00:00Z", "2026-03-01T08:00:00Z");
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let day = |text: &str| text.parse::<Date>().unwrap();
        let mut book = Book::of(vec![(day("2026-02-28"), function.clone(), used)]);
        assert_eq!(book.changed(), []);
        book.add(&function, Figures::default(), second, at(evening));
        assert_eq!(book.changed(), [], "nothing was used");
        book.add(&function, used, second, at(evening));
        let rows = book.changed();
        assert_eq!(rows, [(day("2026-02-28"), function.clone(), used.and(used))]);
        // More comes while it is written.
        book.add(&function, used, second, at(evening));
        book.written(&rows, day("2026-02-28"));
        let rows = book.changed();
        assert_eq!(rows[0].2.messages, [3, 0]);
        book.written(&rows, day("2026-02-28"));
        assert_eq!((book.changed(), book.all()), (vec![], rows.clone()));
        book.add(&function, used, second, at(morning));
        book.written(&[], day("2026-03-01"));
        assert_eq!(book.all(), [(day("2026-03-01"), function, used)], "it was all there is of a new day");
    }
}
