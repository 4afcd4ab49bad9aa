//! The table of ratios.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use peers_kit::{Figure, Work};

use crate::{Figures, Name};

/// The result of one run.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Cell {
    Figures(Figures),
    /// The word for the table, and the reason.
    Missing(String, String),
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Figures(figures) => {
                for (figure, value) in figures {
                    write!(f, "{} {}; ", number(*value), figure.title())?;
                }
                Ok(())
            }
            Self::Missing(word, reason) => write!(f, "{word} ({reason})"),
        }
    }
}

/// The runs of all contenders. Printed as markdown.
#[derive(Debug)]
pub(crate) struct Table {
    contenders: Vec<Name>,
    works: Vec<Work>,
    cells: BTreeMap<(String, Name), Vec<Cell>>,
}

impl Table {
    pub(crate) fn new(contenders: Vec<Name>) -> Self {
        Self { contenders, works: Vec::new(), cells: BTreeMap::new() }
    }

    pub(crate) fn add(&mut self, work: Work, name: Name, cell: Cell) {
        if !self.works.contains(&work) {
            self.works.push(work);
        }
        self.cells.entry((work.name(), name)).or_default().push(cell);
    }

    fn runs(&self, work: Work, name: Name) -> &[Cell] {
        self.cells.get(&(work.name(), name)).map_or(&[], Vec::as_slice)
    }

    /// The median of a figure.
    fn median(&self, work: Work, name: Name, figure: Figure) -> Option<f64> {
        let value = |cell: &Cell| match cell {
            Cell::Figures(figures) => figures.get(&figure).copied(),
            Cell::Missing(..) => None,
        };
        let mut values: Vec<f64> = self.runs(work, name).iter().filter_map(value).collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        match values.len() {
            0 => None,
            count if count % 2 == 1 => Some(values[middle]),
            _ => Some(f64::midpoint(values[middle - 1], values[middle])),
        }
    }

    fn figures(&self, work: Work) -> BTreeSet<Figure> {
        let runs = self.contenders.iter().flat_map(|name| self.runs(work, *name));
        let figures = runs.filter_map(|cell| if let Cell::Figures(figures) = cell { Some(figures) } else { None });
        figures.flat_map(|figures| figures.keys().copied()).collect()
    }

    fn text(&self, work: Work, name: Name, figure: Figure) -> String {
        let Some(value) = self.median(work, name, figure) else {
            let word = self.runs(work, name).iter().find_map(|cell| match cell {
                Cell::Missing(word, _) => Some(word.clone()),
                Cell::Figures(_) => None,
            });
            return word.unwrap_or_else(|| "–".to_owned());
        };
        let ours = self.contenders.iter().find(|name| name.key == "ours");
        let ours = ours.filter(|ours| **ours != name).and_then(|ours| self.median(work, *ours, figure));
        match ours.map(|ours| figure.ratio(ours, value)).filter(|ratio| ratio.is_finite()) {
            Some(ratio) => format!("**{}** ({})", ratio_text(ratio), number(value)),
            None => number(value),
        }
    }

    /// Why cells are missing. Each reason once.
    fn reasons(&self) -> BTreeMap<String, Vec<String>> {
        let mut reasons: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for work in &self.works {
            for name in &self.contenders {
                for cell in self.runs(*work, *name) {
                    let Cell::Missing(word, reason) = cell else { continue };
                    let word = if word == "–" { String::new() } else { format!("{word}: ") };
                    let works = reasons.entry(format!("{}: {word}{reason}", name.title)).or_default();
                    if !works.contains(&work.name()) {
                        works.push(work.name());
                    }
                }
            }
        }
        reasons
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let titles: Vec<_> = self.contenders.iter().map(|name| name.title).collect();
        writeln!(f, "| work | figure | {} |", titles.join(" | "))?;
        writeln!(f, "| --- | --- |{}", " --- |".repeat(titles.len()))?;
        for work in &self.works {
            for (row, figure) in self.figures(*work).into_iter().enumerate() {
                let values = self.contenders.iter().map(|name| self.text(*work, *name, figure));
                // A row of losses is for those that had some.
                if figure == Figure::Lost
                    && self.contenders.iter().all(|name| self.median(*work, *name, figure).unwrap_or_default() == 0.0)
                {
                    continue;
                }
                let title = if row == 0 { work.title() } else { String::new() };
                writeln!(f, "| {title} | {} | {} |", figure.title(), values.collect::<Vec<_>>().join(" | "))?;
            }
        }
        for (row, (reason, works)) in self.reasons().into_iter().enumerate() {
            let blank = if row == 0 { "\n" } else { "" };
            writeln!(f, "{blank}- {reason} ({})", works.join(", "))?;
        }
        Ok(())
    }
}

/// Three digits that count.
fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 1_000.0 => {
            let digits = format!("{value:.0}");
            let (head, tail) = digits.split_at(digits.len() - 3);
            format!("{head},{tail}")
        }
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn ratio_text(ratio: f64) -> String {
    if ratio >= 10.0 { format!("{ratio:.0}") } else { format!("{ratio:.2}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CONTENDERS;

    fn rates(rates: &[f64]) -> Vec<Cell> {
        rates.iter().map(|rate| Cell::Figures(Figures::from([(Figure::Flows, *rate)]))).collect()
    }

    fn table(rows: Vec<(Name, Vec<Cell>)>) -> String {
        let mut table = Table::new(rows.iter().map(|(name, _)| *name).collect());
        for (name, cells) in rows {
            for cell in cells {
                table.add(Work::Chains, name, cell);
            }
        }
        table.to_string()
    }

    #[test]
    fn a_cell_has_the_ratio_of_the_medians_and_the_median() {
        let text = table(vec![(CONTENDERS[0], rates(&[100.0, 900.0, 200.0])), (CONTENDERS[4], rates(&[400.0]))]);
        assert!(text.contains("| flows a second | 200 | **0.50** (400) |"), "{text}");
    }

    #[test]
    fn a_contender_that_is_missing_stays_in_the_table_with_its_reason() {
        let missing = Cell::Missing("not built".to_owned(), "no such crate".to_owned());
        let text = table(vec![(CONTENDERS[0], rates(&[100.0])), (CONTENDERS[2], vec![missing])]);
        assert!(text.contains("| 100 | not built |"), "{text}");
        assert!(text.contains("- BullMQ 1.4: not built: no such crate (chains)"), "{text}");
    }

    #[test]
    fn numbers_have_three_digits_that_count() {
        assert_eq!([0.5, 12.34, 123.4, 12_345.6].map(number), ["0.50", "12.3", "123", "12,346"]);
    }
}
