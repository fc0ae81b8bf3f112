use tower_promises_backend::kit::assets::{Asset, file_name, text};

const STYLE_TEXT: &str = include_str!("page.css");
const ICON_TEXT: &str = include_str!("icon.svg");
const STYLE_NAME: [u8; 20] = file_name(STYLE_TEXT, b".css");
const ICON_NAME: [u8; 20] = file_name(ICON_TEXT, b".svg");

pub(super) static STYLE: Asset = Asset {
    content_type: "text/css; charset=utf-8",
    body: STYLE_TEXT,
    file_name: text(&STYLE_NAME),
};

/// Without an icon, browsers request `/favicon.ico` from the application.
pub(super) static ICON: Asset = Asset {
    content_type: "image/svg+xml",
    body: ICON_TEXT,
    file_name: text(&ICON_NAME),
};

/// Returns the file with this name.
pub(super) fn asset(file_name: &str) -> Option<&'static Asset> {
    [&STYLE, &ICON]
        .into_iter()
        .find(|asset| asset.file_name == file_name)
}
