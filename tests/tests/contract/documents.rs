//! What the documentation says is shown by a test is shown by one that there is.

use std::fs;

use roost_tests::repository;

const DOCUMENT: &str = "docs/coming-from-openfaas.md";

#[test]
fn each_test_that_is_named_exists() {
    let text = fs::read_to_string(repository().join(DOCUMENT)).unwrap();
    let named: Vec<_> = text.split('`').skip(1).step_by(2).filter_map(|code| code.split_once("::")).collect();
    assert!(named.len() > 40, "{named:?}");
    for (file, test) in named {
        let source = fs::read_to_string(repository().join(file));
        let source = source.unwrap_or_else(|why| panic!("{file}: {why}"));
        // In Rust, or in the shell script that runs inside of a bare Debian.
        let there = source.contains(&format!("fn {test}(")) || source.contains(&format!("\n{test}() {{"));
        assert!(there, "{file}::{test}");
    }
}

#[test]
fn each_complaint_has_its_line_and_its_line_an_answer() {
    let text = fs::read_to_string(repository().join(DOCUMENT)).unwrap();
    let rows = text.lines().filter_map(|line| {
        let cells: Vec<_> = line.strip_prefix("| ")?.strip_suffix(" |")?.split(" | ").collect();
        Some((cells[0].parse::<usize>().ok()?, cells))
    });
    let mut last = 0;
    for (number, cells) in rows {
        assert_eq!((number, cells.len()), (last + 1, 4), "{cells:?}");
        let shown = cells[3].starts_with('`') && cells[3].contains("::");
        assert!(cells[2].len() >= 3 && (shown || cells[3] == "answered here"), "{cells:?}");
        last = number;
    }
    assert_eq!(last, 59);
}
