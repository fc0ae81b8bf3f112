//! Progress that work reports: a percentage and a message.

/// The maximum size of a message, in bytes. Longer messages are cut off at a character boundary.
pub const MAX_MESSAGE_BYTES: usize = 1024;

/// The latest progress of some work.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    pub percent: Option<f64>,
    pub message: Option<String>,
}

impl Report {
    /// Sets the percentage, clamped to 0 to 100. NaN is ignored. Returns whether the report has changed.
    pub fn set_percent(&mut self, percent: f64) -> bool {
        if percent.is_nan() {
            return false;
        }
        // Adding zero turns a negative zero into a positive one.
        let percent = Some(percent.clamp(0.0, 100.0) + 0.0);
        std::mem::replace(&mut self.percent, percent) != percent
    }

    /// Sets the message, cut off at [`MAX_MESSAGE_BYTES`]. Returns whether the report has changed.
    pub fn set_message(&mut self, mut text: String) -> bool {
        cut(&mut text, MAX_MESSAGE_BYTES);
        self.message.replace(text) != self.message
    }
}

/// Cuts off a text at a character boundary.
pub fn cut(text: &mut String, max_bytes: usize) {
    let mut ends = (0..=max_bytes.min(text.len())).rev();
    let end = ends.find(|end| text.is_char_boundary(*end));
    text.truncate(end.unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::{MAX_MESSAGE_BYTES, Report, cut};

    #[test]
    fn a_percentage_is_clamped_and_says_whether_it_is_new() {
        let mut report = Report::default();
        for (percent, is_new, kept) in [
            (f64::NAN, false, None),
            (-0.0, true, Some(0.0)),
            (0.0, false, Some(0.0)),
            (f64::INFINITY, true, Some(100.0)),
            (101.0, false, Some(100.0)),
            (f64::NAN, false, Some(100.0)),
        ] {
            assert_eq!(report.set_percent(percent), is_new, "{percent}");
            assert_eq!(report.percent, kept);
            assert!(report.percent.is_none_or(f64::is_sign_positive));
        }
    }

    #[test]
    fn a_message_is_cut_at_a_character_boundary() {
        let mut report = Report::default();
        let long = format!("{}é", "x".repeat(MAX_MESSAGE_BYTES - 1));
        assert!(report.set_message(long.clone()));
        assert!(!report.set_message(long.clone()));
        assert_eq!(report.message.as_deref(), long.strip_suffix('é'));
        for (text, bytes, left) in [("é", 0, ""), ("é", 1, ""), ("é", 2, "é"), ("é", 3, "é")]
        {
            let mut text = text.to_owned();
            cut(&mut text, bytes);
            assert_eq!(text, left);
        }
    }
}
