//! Writes a moment as HTTP and as the metadata service's documents do. Asks no clock: the moment is given.
//! Knows neither time zones nor leap seconds, as neither format needs them.

use std::time::{SystemTime, UNIX_EPOCH};

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

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

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
