//! How long ago something was, in the few characters that kubectl gives it.

use crate::object::parse_timestamp;

/// The time since an RFC 3339 timestamp, or `<unknown>`.
pub(super) fn since(timestamp: &str) -> String {
    parse_timestamp(timestamp).map_or_else(|| "<unknown>".to_owned(), |then| span((time::OffsetDateTime::now_utc() - then).whole_seconds()))
}

/// The time between two RFC 3339 timestamps, or nothing.
pub(super) fn between(from: &str, to: &str) -> Option<String> {
    Some(span((parse_timestamp(to)? - parse_timestamp(from)?).whole_seconds()))
}

/// The two largest units that matter.
pub(super) fn span(seconds: i64) -> String {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    const YEAR: i64 = 365 * DAY;
    let two = |large: i64, mark: char, small: i64, small_mark: char| {
        let (count, rest) = (seconds / large, seconds % large / small);
        if rest == 0 { format!("{count}{mark}") } else { format!("{count}{mark}{rest}{small_mark}") }
    };
    match seconds {
        ..-1 => "<invalid>".to_owned(),
        -1 => "0s".to_owned(),
        _ if seconds < 2 * MINUTE => format!("{seconds}s"),
        _ if seconds < 10 * MINUTE => two(MINUTE, 'm', 1, 's'),
        _ if seconds < 3 * HOUR => format!("{}m", seconds / MINUTE),
        _ if seconds < 8 * HOUR => two(HOUR, 'h', MINUTE, 'm'),
        _ if seconds < 2 * DAY => format!("{}h", seconds / HOUR),
        _ if seconds < 8 * DAY => two(DAY, 'd', HOUR, 'h'),
        _ if seconds < 2 * YEAR => format!("{}d", seconds / DAY),
        _ if seconds < 8 * YEAR => two(YEAR, 'y', DAY, 'd'),
        _ => format!("{}y", seconds / YEAR),
    }
}
