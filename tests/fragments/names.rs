//! Names of fragments, which are never part of the page.

use crate::support::{SECOND, after, open, pending, template, without_grace};
use test_support::Log;
use tower_promises::BoxError;
use tower_promises::fragment::FragmentError;

fn names() -> Vec<String> {
    let names = [
        "",
        "\"",
        "'",
        ">",
        "?>",
        "-->",
        "--",
        "<!--",
        "</template>",
        "<script>alert(1)</script>",
        "\0",
        "\r\nWARN forged",
        "\u{1b}[31m\u{7}",
        "\u{202e}gnp",
        "\u{2028}",
        "tp1",
        "\">",
        "é€😀",
    ];
    let names = names.map(str::to_owned).into_iter();
    names
        .chain(["x".repeat(10_000), "😀".repeat(2_500)])
        .collect()
}

#[tokio::test(start_paused = true)]
async fn names_never_reach_the_page_and_are_escaped_in_logs() {
    for name in names() {
        let log = Log::start();
        let named = name.clone();
        let layer = without_grace().on_error(|error| {
            assert!(error.to_string().len() < 2_000);
            assert!(!error.to_string().contains(|it: char| it.is_control()));
            "failed".to_owned()
        });
        let page = open(layer.timeout(3 * SECOND), move |promises| {
            let named = named.clone();
            let fine = promises.fragment(named.clone(), "…", |it| after(it, "a", SECOND));
            let failing = promises.fragment(named.clone(), "…", |promises| {
                after(promises, "b", SECOND)?;
                Err::<String, BoxError>("no luck".into())
            });
            let panicking = promises.fragment(named.clone(), "…", |promises| {
                if after(promises, "c", SECOND).is_ok() {
                    panic!("no\nluck\u{1b}");
                }
                Ok::<_, BoxError>("")
            });
            let hanging = promises.fragment(named.clone(), "…", |it| after(it, "d", 9 * SECOND));
            let misplaced = promises.fragment(named, "…", |it| after(it, "a", SECOND));
            Ok(format!(
                "{fine}{failing}{panicking}{hanging}<p title=\"{misplaced}\">"
            ))
        })
        .await;
        let shell: String = (1..=4).map(|number| pending(number, "…")).collect();
        let shell = format!("{shell}<p title=\"{}\">", pending(5, "…"));
        let rest = [
            (1, "a"),
            (2, "failed"),
            (3, "failed"),
            (5, "a"),
            (4, "failed"),
        ];
        let rest: String = rest
            .iter()
            .map(|(number, html)| template(*number, html))
            .collect();
        assert_eq!(page.text(), shell + &*rest);

        let log = log.text();
        let is_escaped = |it: char| it == '\n' || !it.is_control();
        assert!(log.chars().all(is_escaped), "{log:?}");
        assert!(
            !log.contains('\u{202e}') && !log.contains('\u{2028}'),
            "{log:?}"
        );
        for line in log.lines() {
            assert!(line.len() < 3_000, "{} bytes", line.len());
            assert!(
                line.starts_with("20"),
                "{line:?} does not start with a time"
            );
        }
        let shown: String = name.chars().take(64).collect();
        let shown = format!("{shown:?}");
        assert!(log.contains(shown.trim_end_matches('"')), "{log}");
    }
}

#[tokio::test(start_paused = true)]
async fn fragments_with_the_same_name_are_different_fragments() {
    let page = open(
        without_grace().on_error(FragmentError::to_string),
        |promises| {
            let fragments = ["a", "b", "c"].map(|value| {
                promises
                    .fragment("name", value, move |it| after(it, value, SECOND))
                    .to_string()
            });
            Ok(fragments.concat())
        },
    )
    .await;
    let shell: String = (1..)
        .zip(["a", "b", "c"])
        .map(|(it, value)| pending(it, value))
        .collect();
    let rest: String = (1..)
        .zip(["a", "b", "c"])
        .map(|(it, value)| template(it, value))
        .collect();
    assert_eq!(page.text(), shell + &*rest);
}
