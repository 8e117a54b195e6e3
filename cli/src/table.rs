//! Rows with columns that stand below each other.

use crate::exit::Failure;
use crate::output::Out;

/// Where a column's text stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Align {
    Left,
    Right,
}

/// A table in the making.
pub(crate) struct Table {
    aligns: Vec<Align>,
    /// The first one is the head.
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(head: &[(&str, Align)]) -> Table {
        let names = head.iter().map(|(name, _)| (*name).to_owned()).collect();
        Table { aligns: head.iter().map(|(_, align)| *align).collect(), rows: vec![names] }
    }

    pub(crate) fn row(&mut self, row: Vec<String>) {
        debug_assert_eq!(row.len(), self.aligns.len(), "as many cells as there are columns");
        self.rows.push(row);
    }

    /// Writes it, indented, without blanks at the ends of lines.
    pub(crate) fn write(&self, out: &mut Out) -> Result<(), Failure> {
        self.lines().iter().try_for_each(|line| out.line(line))
    }

    fn lines(&self) -> Vec<String> {
        let width = |column: usize| self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.aligns.len()).map(width).collect();
        let line = |row: &Vec<String>| {
            let mut line = String::new();
            for ((cell, align), width) in row.iter().zip(&self.aligns).zip(&widths) {
                line.push_str("  ");
                line.push_str(&match align {
                    Align::Left => format!("{cell:<width$}"),
                    Align::Right => format!("{cell:>width$}"),
                });
            }
            line.truncate(line.trim_end().len());
            line
        };
        self.rows.iter().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_below_each_other() {
        let mut table = Table::new(&[("name", Align::Left), ("records", Align::Right), ("token", Align::Left)]);
        table.row(vec!["π".into(), "7".into(), String::new()]);
        table.row(vec!["longer".into(), "12,345,678".into(), "t".into()]);
        let lines = table.lines();
        assert_eq!(lines, ["  name       records  token", "  π                7", "  longer  12,345,678  t"]);
    }
}
