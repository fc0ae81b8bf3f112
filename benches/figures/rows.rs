/// Prints the head of a table in Markdown.
pub fn head(columns: &[&str]) {
    println!("| {} |", columns.join(" | "));
    println!("|{}", "---|".repeat(columns.len()));
}

/// Prints a row of a table in Markdown. Missing cells are empty.
pub fn row(cells: &[String], columns: usize) {
    let empty = " |".repeat(columns.saturating_sub(cells.len()));
    println!("| {} |{empty}", cells.join(" | "));
}
