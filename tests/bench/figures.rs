//! Many measurements of one thing, and tables of them.

#![allow(dead_code, reason = "each of the measurements needs another part")]

use std::fmt;
use std::time::Duration;

/// Measurements of one thing: of times, in milliseconds.
#[derive(Debug, Default)]
pub(crate) struct Figures(Vec<f64>);

impl Figures {
    pub(crate) fn add(&mut self, took: Duration) {
        self.0.push(took.as_secs_f64() * 1000.0);
    }

    pub(crate) fn add_number(&mut self, number: f64) {
        self.0.push(number);
    }

    pub(crate) fn append(&mut self, mut others: Self) {
        self.0.append(&mut others.0);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The one that so many percent are not above.
    pub(crate) fn percentile(&self, percent: usize) -> Option<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().checked_sub(1)?;
        // Of two in the middle their mean.
        let (low, high) = (last * percent / 100, (last * percent).div_ceil(100));
        Some(f64::midpoint(sorted[low], sorted[high]))
    }

    pub(crate) fn median(&self) -> Option<f64> {
        self.percentile(50)
    }

    pub(crate) fn shown(&self, percent: usize) -> String {
        shown(self.percentile(percent))
    }

    pub(crate) fn ratio(&self, to: Option<f64>) -> String {
        match (self.median(), to) {
            (Some(own), Some(to)) => format!("{:.2}", own / to),
            _ => shown(None),
        }
    }
}

pub(crate) fn shown(figure: Option<f64>) -> String {
    figure.map_or_else(|| "-".to_owned(), |figure| format!("{figure:.1}"))
}

/// Rows below a head, in columns as wide as they need to be.
#[derive(Debug)]
pub(crate) struct Table(Vec<Vec<String>>);

impl Table {
    pub(crate) fn new(head: &[&str]) -> Self {
        Self(vec![head.iter().map(|&text| text.to_owned()).collect()])
    }

    pub(crate) fn row(&mut self, cells: &[String]) {
        self.0.push(cells.to_vec());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width =
            |column| self.0.iter().filter_map(|row| row.get(column)).map(String::len).max().unwrap_or(0);
        for row in &self.0 {
            for (column, cell) in row.iter().enumerate() {
                match column {
                    0 => write!(f, "{cell:<width$}", width = width(0))?,
                    _ => write!(f, "  {cell:>width$}", width = width(column))?,
                }
            }
            writeln!(f)?;
        }
        Ok(())
    }
}
