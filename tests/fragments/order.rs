//! When the parts of a page are sent.

use crate::support::{SECOND, after, open};
use std::time::Duration;
use tower_promises::fragment::FragmentLayer;

#[tokio::test(start_paused = true)]
async fn a_page_begins_when_its_outside_is_known_and_its_fragments_follow() {
    let page = open(FragmentLayer::new(), |promises| {
        // Created before the title is read, so that their promises start with that of the title.
        let slow = promises.fragment("slow", "<i>…</i>", |promises| {
            after(promises, "slow", 5 * SECOND)
        });
        let fast = promises.fragment("fast", "", |promises| after(promises, "fast", 3 * SECOND));
        let title = after(promises, "title", SECOND)?;
        Ok(format!(
            "<html><body><h1>{title}</h1>{slow}{fast}</body></html>\n"
        ))
    })
    .await;
    let ms = |seconds: u32| SECOND * seconds;
    let grace = Duration::from_millis(10);
    assert_eq!(page.frames, [
        (ms(1) + grace, "<html><body><h1>title</h1><?start name=\"tp1\"><i>…</i><?end><?start name=\"tp2\"><?end>".to_owned()),
        (ms(3), "<template for=\"tp2\">fast</template>\n".to_owned()),
        (ms(5), "<template for=\"tp1\">slow</template>\n</body></html>\n".to_owned()),
    ]);
    assert_eq!(page.passes, 2);
    assert_eq!(page.head.headers["incremental"], "?1");
}
