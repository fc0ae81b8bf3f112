//! Builds and runs the crate `benches/measured`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The names and numbers that the crate prints.
pub(crate) struct Figures(HashMap<String, f64>);

impl Figures {
    pub(crate) fn get(&self, name: &str) -> f64 {
        let number = self.0.get(name);
        *number.unwrap_or_else(|| panic!("{name} was not measured"))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The default features of `tower-promises`.
pub(crate) const DEFAULT: &[&str] = &["default"];

/// The features for pages.
pub(crate) const PAGES: &[&str] = &["default", "fragments"];

/// Builds the crate with these features of `tower-promises` and runs it.
pub(crate) fn run(features: &[&str], arguments: &[&str]) -> Figures {
    let program = build(features, false);
    Figures(pairs(&output(Command::new(program).args(arguments))).collect())
}

/// Builds the crate with an allocator that counts and runs it.
pub(crate) fn run_counting(features: &[&str], arguments: &[&str]) -> Figures {
    let program = build(features, true);
    Figures(pairs(&output(Command::new(program).args(arguments))).collect())
}

/// The instructions of a request, for each case. `None` if `valgrind` is not installed.
pub(crate) fn instructions(features: &[&str], cases: &str) -> Option<Figures> {
    let valgrind = Command::new("valgrind").arg("--version").output();
    valgrind.ok().filter(|output| output.status.success())?;

    let program = build(features, false);
    let directory = directory().join("callgrind");
    // Files of a former run must not be mistaken for files of this run.
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir_all(&directory).expect("the build directory can be written");
    let file = directory.join("out");

    // Counts the instructions inside the function `measured`. Each `sample` of such calls writes a file.
    let printed = output(
        Command::new("valgrind")
            .args(["--quiet", "--tool=callgrind"])
            .args(["--toggle-collect=*stacks::measured"])
            .args(["--dump-after=*Case::sample"])
            .arg(format!("--callgrind-out-file={}", file.display()))
            .arg(program)
            .args(["instructions", cases]),
    );
    let figures = pairs(&printed).zip(1..).map(|((name, requests), part)| {
        let total = total(&file.with_extension(part.to_string()));
        (name, total / requests)
    });
    Some(Figures(figures.collect()))
}

/// The number of instructions in a callgrind file.
fn total(file: &Path) -> f64 {
    let profile = std::fs::read_to_string(file);
    let profile = profile.unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let mut lines = profile.lines();
    let total = lines.find_map(|line| line.strip_prefix("totals: ")?.trim().parse().ok());
    total.unwrap_or_else(|| panic!("{} has no total", file.display()))
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("measured")
}

fn build(features: &[&str], counts: bool) -> PathBuf {
    let has_pages = features.contains(&"fragments");
    let mut features: Vec<_> = features
        .iter()
        .map(|feature| format!("tower-promises/{feature}"))
        .collect();
    if counts {
        features.push("counting".to_owned());
    }
    if has_pages {
        features.push("fragments".to_owned());
    }
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("measured/Cargo.toml");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args([
            "build",
            "--profile",
            "measured",
            "--quiet",
            "--manifest-path",
        ])
        .arg(manifest)
        .arg("--target-dir")
        .arg(directory())
        .arg("--features")
        .arg(features.join(","))
        .status();
    assert!(
        status.is_ok_and(|status| status.success()),
        "benches/measured does not build"
    );
    directory().join("measured/measured")
}

fn output(command: &mut Command) -> String {
    let output = command.stderr(Stdio::inherit()).output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", output.status);
    String::from_utf8(output.stdout).expect("what is printed is UTF-8")
}

fn pairs(printed: &str) -> impl Iterator<Item = (String, f64)> {
    printed.lines().map(|line| {
        let pair = line.split_once('\t');
        let pair = pair.and_then(|(name, number)| Some((name.to_owned(), number.parse().ok()?)));
        pair.unwrap_or_else(|| panic!("{line:?} is no name and number"))
    })
}
