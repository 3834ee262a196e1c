//! From what a string said to the moment that it names.

use super::draft::Draft;

impl Draft {
    /// Returns the moment in milliseconds since 1970; `None` if some number is out of its range.
    pub(super) fn milliseconds(&mut self) -> Option<f64> {
        Some(self.day()? * 86_400_000.0 + self.time_of_day()? - self.offset_milliseconds()?)
    }

    /// Returns the days since 1970. Without a month's name, three numbers are month, day and year; V8 takes a first
    /// number that cannot be a day for the year.
    fn day(&mut self) -> Option<f64> {
        let is_day = |number: i64| (1..=31).contains(&number);
        let is_alone = self.day.len() == 1;
        let first = *self.day.first()?;
        self.day.resize(3, 1);
        let (second, third) = (self.day[1], self.day[2]);
        let (year, month, day) = match self.month {
            None if self.is_iso || !is_day(first) => (first, second, third),
            None => (third, first, second),
            Some(month) if is_alone && is_day(first) => (second, month, first),
            Some(month) if !is_day(first) => (first, month, second),
            Some(month) => (second, month, first),
        };
        let year = match year {
            0..=49 if !self.is_iso => year + 2000,
            50..=99 if !self.is_iso => year + 1900,
            year => year,
        };
        ((1..=12).contains(&month) && is_day(day)).then(|| days_since_1970(year, month, day))
    }

    /// Returns the time since midnight in milliseconds.
    fn time_of_day(&mut self) -> Option<f64> {
        self.time.resize(4, 0);
        let (mut hour, minute, second, millisecond) =
            (self.time[0], self.time[1], self.time[2], self.time[3]);
        if let Some(half) = self.half {
            (hour <= 12).then_some(())?;
            hour = hour % 12 + half;
        }
        let is_time = hour < 24 && minute < 60 && second < 60 && millisecond < 1000;
        let is_end_of_day = (hour, minute, second, millisecond) == (24, 0, 0, 0);
        (is_time || is_end_of_day).then_some(())?;
        Some(exact((hour * 3600 + minute * 60 + second) * 1000 + millisecond))
    }

    /// Returns the offset from UTC. V8 counts its seconds in 32 bits, and finds no date in the upper half of them.
    fn offset_milliseconds(&self) -> Option<f64> {
        let seconds = self.zone_hour.unwrap_or(0) * 3600 + self.zone_minute.unwrap_or(0) * 60;
        let seconds = seconds % (1 << 32);
        (seconds < 1 << 31).then(|| exact(self.sign.unwrap_or(1) * seconds * 1000))
    }
}

/// Counts days in the Gregorian calendar, as if it had always been in use.
fn days_since_1970(year: i64, month: i64, day: i64) -> f64 {
    // A year that starts in March has its leap day at the end.
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    exact(era * 146_097 + day_of_era - 719_468)
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^53 where the result is a date")]
fn exact(number: i64) -> f64 {
    number as f64
}
