use tower_promises_backend::kit::assets::{Asset, file_name, text};

const STYLE_TEXT: &str = include_str!("page.css");
const ICON_TEXT: &str = include_str!("icon.svg");
const SCRIPT_TEXT: &str = include_str!("page.js");
const STYLE_NAME: [u8; 20] = file_name(STYLE_TEXT, b".css");
const ICON_NAME: [u8; 20] = file_name(ICON_TEXT, b".svg");
const SCRIPT_NAME: [u8; 19] = file_name(SCRIPT_TEXT, b".js");

pub(super) static STYLE: Asset = Asset {
    content_type: "text/css; charset=utf-8",
    body: STYLE_TEXT,
    file_name: text(&STYLE_NAME),
};

pub(super) static SCRIPT: Asset = Asset {
    content_type: "text/javascript; charset=utf-8",
    body: SCRIPT_TEXT,
    file_name: text(&SCRIPT_NAME),
};

/// Without an icon, browsers request `/favicon.ico` from the application.
pub(super) static ICON: Asset = Asset {
    content_type: "image/svg+xml",
    body: ICON_TEXT,
    file_name: text(&ICON_NAME),
};

/// Returns the file with this name.
pub(crate) fn asset(file_name: &str) -> Option<&'static Asset> {
    [&STYLE, &SCRIPT, &ICON]
        .into_iter()
        .find(|asset| asset.file_name == file_name)
}

#[cfg(test)]
mod tests {
    use super::{ICON, SCRIPT, STYLE, asset};

    #[test]
    fn files_are_found_by_their_names() {
        for file in [&STYLE, &SCRIPT, &ICON] {
            let found = asset(file.file_name);
            assert_eq!(found.map(|asset| asset.body), Some(file.body));
        }
        assert!(asset("0000000000000000.css").is_none());
    }
}
