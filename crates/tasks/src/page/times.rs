//! Times and durations as text.

use std::fmt::Write;
use std::time::{Duration, SystemTime};

/// Returns a point in time as UTC, or as `None` if it is after the year 9999.
fn utc(time: SystemTime) -> Option<String> {
    let mut text = String::new();
    write!(text, "{}", humantime::format_rfc3339_seconds(time)).ok()?;
    Some(text)
}

/// Returns an element with a point in time relative to now, such as `3 min ago`.
pub(super) fn relative(time: SystemTime, now: SystemTime) -> String {
    let text = match now.duration_since(time) {
        Ok(ago) if ago < Duration::from_secs(1) => "now".to_owned(),
        Ok(ago) => format!("{} ago", coarse(ago)),
        Err(ahead) => format!("in {}", coarse(ahead.duration())),
    };
    let Some(utc) = utc(time) else {
        return text;
    };
    format!(
        r#"<time datetime="{utc}" title="{}">{text}</time>"#,
        readable(&utc)
    )
}

/// Returns an element with a point in time, and the same relative to now.
pub(super) fn exact(time: SystemTime, now: SystemTime) -> String {
    match utc(time) {
        Some(utc) => {
            let relative = relative(time, now);
            let readable = readable(&utc);
            format!(r#"{readable} <span class="muted">· {relative}</span>"#)
        }
        None => relative(time, now),
    }
}

/// Turns `2026-11-29T10:46:50Z` into `2026-11-29 10:46:50 UTC`.
fn readable(utc: &str) -> String {
    utc.replace('T', " ").replace('Z', " UTC")
}

/// Returns a duration as text, with its largest unit only.
fn coarse(duration: Duration) -> String {
    match duration.as_secs() {
        seconds @ ..60 => format!("{seconds} s"),
        seconds @ ..3600 => format!("{} min", seconds / 60),
        seconds @ ..86_400 => format!("{} h", seconds / 3600),
        seconds => format!("{} d", seconds / 86_400),
    }
}

/// Returns a duration as text, with two units.
pub(super) fn duration(duration: Duration) -> String {
    match duration.as_secs() {
        0 => format!("{} ms", duration.as_millis()),
        seconds @ ..60 => format!("{seconds}.{} s", duration.subsec_millis() / 100),
        seconds @ ..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        seconds @ ..86_400 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        seconds => format!("{} d {} h", seconds / 86_400, seconds / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::{duration, exact, relative};
    use std::time::{Duration, SystemTime};

    #[test]
    fn times_are_relative_to_now() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        for (seconds, text) in [
            (0, "now"),
            (59, "59 s ago"),
            (60, "1 min ago"),
            (7200, "2 h ago"),
            (900_000, "10 d ago"),
        ] {
            let past = relative(now - Duration::from_secs(seconds), now);
            assert!(past.contains(&format!(">{text}<")), "{past}");
        }
        let next = exact(now + Duration::from_secs(90), now);
        assert!(next.starts_with("1970-01-12 13:48:10 UTC "), "{next}");
        assert!(next.contains(">in 1 min<"), "{next}");
        // The year 10000 and later have no usual form.
        let far = now + Duration::from_secs(10_000 * 365 * 86_400);
        assert_eq!(exact(far, now), "in 3650000 d");
    }

    #[test]
    fn durations_have_two_units() {
        for (milliseconds, text) in [
            (0, "0 ms"),
            (999, "999 ms"),
            (1250, "1.2 s"),
            (61_000, "1 min 1 s"),
            (3_660_000, "1 h 1 min"),
            (90_000_000, "1 d 1 h"),
        ] {
            assert_eq!(duration(Duration::from_millis(milliseconds)), text);
        }
    }
}
