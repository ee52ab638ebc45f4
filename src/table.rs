//! Columns of text.

/// Cells may have several lines.
pub struct Table<const N: usize> {
    rows: Vec<[String; N]>,
    /// Columns of numbers, which stand at the right.
    right: &'static [usize],
}

impl<const N: usize> Table<N> {
    pub fn new(head: [&str; N], right: &'static [usize]) -> Self {
        Self { rows: vec![head.map(str::to_owned)], right }
    }

    pub fn row(&mut self, cells: [String; N]) {
        self.rows.push(cells);
    }

    pub fn text(&self) -> String {
        let lines: Vec<Vec<&str>> = self.rows.iter().flat_map(lines).collect();
        let length = |line: &Vec<&str>, i: usize| line.get(i).map_or(0, |c| c.chars().count());
        let widths: Vec<usize> =
            (0..N).map(|i| lines.iter().map(|l| length(l, i)).max().unwrap_or(0)).collect();
        let mut text = String::new();
        for line in &lines {
            let mut shown = String::new();
            for (i, (cell, width)) in line.iter().zip(&widths).enumerate() {
                if self.right.contains(&i) {
                    shown.push_str(&format!("{cell:>width$}  "));
                } else {
                    shown.push_str(&format!("{cell:<width$}  "));
                }
            }
            text.push_str(shown.trim_end());
            text.push('\n');
        }
        text
    }
}

fn lines<const N: usize>(cells: &[String; N]) -> Vec<Vec<&str>> {
    let columns: Vec<Vec<&str>> = cells.iter().map(|c| c.lines().collect()).collect();
    let height = columns.iter().map(Vec::len).max().unwrap_or(0).max(1);
    let line = |n: usize| columns.iter().map(|c| c.get(n).copied().unwrap_or("")).collect();
    (0..height).map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_below_each_other() {
        let mut table = Table::new(["A", "Size", "B"], &[1]);
        table.row(["long".into(), "5".into(), "x\ny".into()]);
        table.row(["ü".into(), "10000".into(), String::new()]);
        assert_eq!(table.text(), "A      Size  B\nlong      5  x\n             y\nü     10000\n");
    }
}
