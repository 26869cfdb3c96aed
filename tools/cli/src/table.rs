//! Tables for people: aligned, with a head in bold on a terminal.

/// Which way a column leans.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// A head and rows, all with the same number of cells.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<(String, Align)>,
    rows: Vec<Row>,
}

#[derive(Debug)]
enum Row {
    Cells(Vec<String>),
    Rule,
}

// === impl Table ===

impl Table {
    pub(crate) fn new<S: Into<String>>(columns: impl IntoIterator<Item = (S, Align)>) -> Self {
        Self {
            columns: columns.into_iter().map(|(name, align)| (name.into(), align)).collect(),
            rows: Vec::new(),
        }
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(Row::Cells(cells.into_iter().map(|cell| plain(&cell)).collect()));
    }

    /// A line between what is above and what is below.
    pub(crate) fn rule(&mut self) {
        self.rows.push(Row::Rule);
    }

    /// The table as text; its lines have no blanks at the end.
    pub(crate) fn render(&self, colours: bool) -> String {
        let names: Vec<String> = self.columns.iter().map(|(name, _)| plain(name)).collect();
        let mut widths: Vec<usize> = names.iter().map(|name| width(name)).collect();
        for row in &self.rows {
            let Row::Cells(cells) = row else { continue };
            for (wide, cell) in widths.iter_mut().zip(cells) {
                *wide = width(cell).max(*wide);
            }
        }
        let mut text = String::new();
        let head = self.line(&names, &widths);
        text.push_str(&if colours { format!("\x1b[1m{head}\x1b[0m") } else { head });
        text.push('\n');
        for row in &self.rows {
            match row {
                Row::Cells(cells) => text.push_str(&self.line(cells, &widths)),
                Row::Rule => {
                    text.push_str(&"-".repeat(widths.iter().sum::<usize>() + 2 * (widths.len() - 1)))
                }
            }
            text.push('\n');
        }
        text
    }

    fn line(&self, cells: &[String], widths: &[usize]) -> String {
        let mut line = String::new();
        for (index, ((cell, wide), (_, align))) in cells.iter().zip(widths).zip(&self.columns).enumerate() {
            let blanks = " ".repeat(wide - width(cell));
            let (before, after) =
                if *align == Align::Right { (blanks.as_str(), "") } else { ("", blanks.as_str()) };
            let gap = if index == 0 { "" } else { "  " };
            line.extend([gap, before, cell, after]);
        }
        line.truncate(line.trim_end().len());
        line
    }
}

/// A decimal number with commas between the thousands.
pub(crate) fn thousands(number: &str) -> String {
    let (sign, digits) = number.strip_prefix('-').map_or(("", number), |digits| ("-", digits));
    let (whole, rest) = digits.split_at(digits.find('.').unwrap_or(digits.len()));
    let mut text = String::from(sign);
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text.push_str(rest);
    text
}

/// Text that came from outside, without what could drive a terminal.
pub(crate) fn plain(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { safe.extend(c.escape_default()) } else { safe.push(c) }
    }
    safe
}

fn width(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_lean_left_and_numbers_right() {
        let mut table = Table::new([("channel", Align::Left), ("conversions", Align::Right)]);
        table.row(["e-mail".to_owned(), "12.50".to_owned()]);
        table.rule();
        table.row(["総数 と".to_owned(), "1,234,567.00".to_owned()]);
        let lines = [
            "channel   conversions".to_owned(),
            "e-mail          12.50".to_owned(),
            "-".repeat(21),
            "総数 と     1,234,567.00".to_owned(),
        ];
        assert_eq!(table.render(false).lines().collect::<Vec<_>>(), lines);
        assert!(table.render(true).starts_with("\x1b[1mchannel"));
    }

    #[test]
    fn numbers_get_their_commas() {
        for (number, text) in [
            ("0", "0"),
            ("999", "999"),
            ("1000", "1,000"),
            ("-123456.789012", "-123,456.789012"),
            ("1234567", "1,234,567"),
            ("-100", "-100"),
        ] {
            assert_eq!(thousands(number), text);
        }
    }

    #[test]
    fn a_cell_cannot_drive_the_terminal() {
        let mut table = Table::new([("channel", Align::Left)]);
        table.row(["\x1b[2J\n".to_owned()]);
        assert_eq!(table.render(false), "channel\n\\u{1b}[2J\\n\n");
    }
}
