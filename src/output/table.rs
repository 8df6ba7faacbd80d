//! Columns, as Go's `text/tabwriter` makes them.
//!
//! A tab ends a cell; what follows the last tab of a line belongs to no column. A column is as wide as its
//! widest cell in an unbroken run of lines that have it, plus three blanks, and at least `least` wide.

use unicode_width::UnicodeWidthStr as _;

const PADDING: usize = 3;

/// Lays `text` out.
pub fn columns(text: &str, least: usize) -> String {
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split('\t').collect()).collect();
    let mut widths: Vec<Vec<usize>> = lines.iter().map(|cells| vec![0; cells.len() - 1]).collect();
    let deepest = widths.iter().map(Vec::len).max().unwrap_or(0);
    for column in 0..deepest {
        let mut from = 0;
        while from < lines.len() {
            let to = (from..lines.len()).find(|line| widths[*line].len() <= column).unwrap_or(lines.len());
            let width = lines[from..to]
                .iter()
                .map(|cells| cells[column].width() + PADDING)
                .max()
                .unwrap_or(0)
                .max(least);
            for line in &mut widths[from..to] {
                line[column] = width;
            }
            from = to.max(from) + usize::from(to == from || to < lines.len());
        }
    }
    let mut out = String::with_capacity(text.len() * 2);
    for (cells, widths) in lines.iter().zip(&widths) {
        for (at, cell) in cells.iter().enumerate() {
            out.push_str(cell);
            if let Some(width) = widths.get(at) {
                out.extend(std::iter::repeat_n(' ', width - cell.width()));
            }
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_as_docker_has_them() {
        assert_eq!(
            columns("CONTAINER ID\tIMAGE\tNAMES\n0123456789ab\talpine\tweb\n", 10),
            "CONTAINER ID   IMAGE     NAMES\n0123456789ab   alpine    web\n"
        );
        assert_eq!(
            columns("a\tlonger than ten\tx\nb\tc\ty", 10),
            "a         longer than ten   x\nb         c                 y\n"
        );
        assert_eq!(columns("no tabs\na\tb\n", 10), "no tabs\na         b\n");
        assert_eq!(columns("é\tb\nüü\tc\n", 4), "é    b\nüü   c\n");
        assert_eq!(columns("", 10), "");
    }
}
