//! Writes a moment as HTTP and as the metadata service's documents do, and reads one. Asks no clock: the moment is given.
//! Knows neither time zones nor leap seconds, as neither format needs them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};
use toml::value::{Datetime, Offset};

/// A moment in UTC, taken apart. Before 1970 is 1970.
struct Utc {
    year: u64,
    month: u8,
    day: u64,
    weekday: &'static str,
    seconds: u64,
}

impl Utc {
    /// Days to civil date by Howard Hinnant's algorithm, whose years begin in March so that a leap day comes last.
    fn of(moment: SystemTime) -> Self {
        let unix = moment.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let (days, seconds) = (unix / 86_400, unix % 86_400);
        let shifted = days + 719_468;
        let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * from_march + 2) / 5 + 1;
        let month = match from_march {
            0 => 3,
            1 => 4,
            2 => 5,
            3 => 6,
            4 => 7,
            5 => 8,
            6 => 9,
            7 => 10,
            8 => 11,
            9 => 12,
            10 => 1,
            _ => 2,
        };
        let year = era * 400 + year_of_era + u64::from(month <= 2);
        let weekday = match days % 7 {
            0 => "Thu",
            1 => "Fri",
            2 => "Sat",
            3 => "Sun",
            4 => "Mon",
            5 => "Tue",
            _ => "Wed",
        };
        Self { year, month, day, weekday, seconds }
    }

    fn month_name(&self) -> &'static str {
        match self.month {
            1 => "Jan",
            2 => "Feb",
            3 => "Mar",
            4 => "Apr",
            5 => "May",
            6 => "Jun",
            7 => "Jul",
            8 => "Aug",
            9 => "Sep",
            10 => "Oct",
            11 => "Nov",
            _ => "Dec",
        }
    }

    fn time(&self) -> String {
        format!("{:02}:{:02}:{:02}", self.seconds / 3_600, self.seconds / 60 % 60, self.seconds % 60)
    }
}

/// `Mon, 02 Oct 2023 14:32:45 GMT` (RFC 9110, 5.6.7).
pub(crate) fn http_date(moment: SystemTime) -> String {
    let utc = Utc::of(moment);
    format!("{}, {:02} {} {:04} {} GMT", utc.weekday, utc.day, utc.month_name(), utc.year, utc.time())
}

/// `2023-10-02T14:32:45Z`, as in the credential documents.
pub(crate) fn document_date(moment: SystemTime) -> String {
    let utc = Utc::of(moment);
    format!("{:04}-{:02}-{:02}T{}Z", utc.year, utc.month, utc.day, utc.time())
}

/// `21 Jan 2019 09:00:43 GMT`, as in the list of scheduled events.
pub(crate) fn event_date(moment: SystemTime) -> String {
    let utc = Utc::of(moment);
    format!("{} {} {:04} {} GMT", utc.day, utc.month_name(), utc.year, utc.time())
}

/// A moment from 1970 on as RFC 3339 writes it, `2020-01-07T01:03:47Z` or with an offset; parts of seconds are dropped.
///
/// # Errors
/// What was expected.
pub fn parse_moment(text: &str) -> Result<SystemTime, String> {
    seconds(text)
        .and_then(|unix| UNIX_EPOCH.checked_add(Duration::from_secs(unix)))
        .ok_or_else(|| "expected a date and time as in RFC 3339, 2020-01-07T01:03:47Z for example".into())
}

fn seconds(text: &str) -> Option<u64> {
    let Datetime { date, time, offset } = text.parse().ok()?;
    let (date, time) = (date?, time?);
    let minutes_east = match offset? {
        Offset::Z => 0,
        Offset::Custom { minutes } => i64::from(minutes),
    };
    let (year, month) = (i64::from(date.year), i64::from(date.month));
    // the other way of `Utc::of`: years begin in March
    let (year, from_march) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let day_of_year = (153 * from_march + 2) / 5 + i64::from(date.day) - 1;
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    let days = 365 * year + leap_days + day_of_year - 719_468;
    let minutes = (days * 24 + i64::from(time.hour)) * 60 + i64::from(time.minute) - minutes_east;
    u64::try_from(minutes * 60 + i64::from(time.second.unwrap_or(0))).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_events_day_has_no_leading_zero() {
        let moment = parse_moment("2020-01-07T01:03:47Z").unwrap();
        assert_eq!(event_date(moment), "7 Jan 2020 01:03:47 GMT");
    }

    #[test]
    fn a_moment_may_have_an_offset_and_must_be_whole() {
        let unix =
            |text| parse_moment(text).map(|moment| moment.duration_since(UNIX_EPOCH).unwrap().as_secs());
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T00:00:00Z", 951_782_400),
            ("2023-10-02T14:32:45Z", 1_696_257_165),
            ("2023-10-02T14:32:45.999z", 1_696_257_165),
            ("2023-10-02T16:02:45+01:30", 1_696_257_165),
            ("2023-10-02 09:32:45-05:00", 1_696_257_165),
        ] {
            assert_eq!(unix(text), Ok(seconds), "{text}");
        }
        for text in [
            "",
            "soon",
            "2023-10-02",
            "14:32:45Z",
            "2023-10-02T14:32:45",
            "2023-02-29T00:00:00Z",
            "2023-13-01T00:00:00Z",
            "1969-12-31T23:59:59Z",
            "2023-10-02T14:32:45Z ",
        ] {
            assert!(unix(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_written_moment_is_read_back(unix in 0_u64..253_402_300_800) {
            let moment = UNIX_EPOCH + Duration::from_secs(unix);
            prop_assert_eq!(parse_moment(&document_date(moment)), Ok(moment));
        }
    }

    #[test]
    fn dates_are_those_of_the_calendar_leap_days_included() {
        let cases = [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT", "1970-01-01T00:00:00Z"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT", "2000-02-29T00:00:00Z"),
            (1_696_257_165, "Mon, 02 Oct 2023 14:32:45 GMT", "2023-10-02T14:32:45Z"),
            (1_709_251_199, "Thu, 29 Feb 2024 23:59:59 GMT", "2024-02-29T23:59:59Z"),
            (1_709_251_200, "Fri, 01 Mar 2024 00:00:00 GMT", "2024-03-01T00:00:00Z"),
            (4_102_444_799, "Thu, 31 Dec 2099 23:59:59 GMT", "2099-12-31T23:59:59Z"),
        ];
        for (unix, http, document) in cases {
            let moment = UNIX_EPOCH + Duration::from_secs(unix);
            assert_eq!(http_date(moment), http);
            assert_eq!(document_date(moment), document);
        }
    }
}
