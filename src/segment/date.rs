//! Dates in texts, as JavaScript's `Date` reads them in V8 where the local time is UTC: the ISO forms
//! of ECMAScript first, and when those do not fit, all that its lenient parser takes for a date.

use super::value::is_js_space;

/// The latest moment that JavaScript's `Date` holds, in milliseconds from 1970.
pub const MILLISECONDS_MAX: f64 = 8.64e15;

/// The moment that a text names, in milliseconds since 1970; `None` where JavaScript has NaN.
pub fn parse_date(text: &str) -> Option<f64> {
    let mut scanner = Scanner::new(text);
    let mut draft = Draft::default();
    match draft.read_iso(&mut scanner) {
        Iso::Broken => return None,
        Iso::Whole => {}
        Iso::GoOnWith(token) => draft.read_lenient(token, &mut scanner)?,
    }
    let moment =
        draft.day()? * 86_400_000.0 + draft.time_of_day()? - draft.offset_milliseconds()?;
    (moment.abs() <= MILLISECONDS_MAX).then_some(moment)
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Token {
    /// Its value (of its first nine digits behind leading zeros) and how many digits it has.
    Number(i64, usize),
    /// One of `: - + . )`.
    Symbol(char),
    Word(Word, usize),
    Space,
    /// Anything else, a text in parentheses included.
    Unknown,
    End,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Word {
    /// January is 1.
    Month(i64),
    /// Hours that PM adds.
    Half(i64),
    /// Hours east of Greenwich.
    Zone(i64),
    /// `T`
    TimeFollows,
    Garbage,
}

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];

const WORDS: [(&str, Word); 15] = [
    ("am", Word::Half(0)),
    ("pm", Word::Half(12)),
    ("ut", Word::Zone(0)),
    ("utc", Word::Zone(0)),
    ("z", Word::Zone(0)),
    ("gmt", Word::Zone(0)),
    ("cdt", Word::Zone(-5)),
    ("cst", Word::Zone(-6)),
    ("edt", Word::Zone(-4)),
    ("est", Word::Zone(-5)),
    ("mdt", Word::Zone(-6)),
    ("mst", Word::Zone(-7)),
    ("pdt", Word::Zone(-7)),
    ("pst", Word::Zone(-8)),
    ("t", Word::TimeFollows),
];

impl Token {
    fn is_sign(self) -> bool {
        matches!(self, Token::Symbol('+' | '-'))
    }

    fn is_z(self) -> bool {
        matches!(self, Token::Word(Word::Zone(0), 1))
    }

    /// Its value, if it is a number of exactly this many digits.
    fn fixed(self, digits: usize) -> Option<i64> {
        match self {
            Token::Number(value, length) if length == digits => Some(value),
            _ => None,
        }
    }
}

struct Scanner<'t> {
    rest: std::str::Chars<'t>,
    next: Token,
}

impl<'t> Scanner<'t> {
    fn new(text: &'t str) -> Self {
        // V8 takes the character NUL for the end of the text.
        let text = text.split('\0').next().unwrap_or_default();
        let mut scanner = Self { rest: text.chars(), next: Token::End };
        scanner.next = scanner.scan();
        scanner
    }

    fn peek(&self) -> Token {
        self.next
    }

    fn next(&mut self) -> Token {
        let next = self.scan();
        std::mem::replace(&mut self.next, next)
    }

    fn skip(&mut self, symbol: char) -> bool {
        let is_there = self.next == Token::Symbol(symbol);
        if is_there {
            self.next();
        }
        is_there
    }

    /// Goes on to a number of two digits from `least` to `most`, if it is the next token.
    fn two_digits(&mut self, least: i64, most: i64) -> Option<i64> {
        let value = self.next.fixed(2).filter(|value| (least..=most).contains(value))?;
        self.next();
        Some(value)
    }

    fn take_while(&mut self, is_in: impl Fn(char) -> bool) -> &'t str {
        let text = self.rest.as_str();
        let end = text.find(|c: char| !is_in(c)).unwrap_or(text.len());
        self.rest = text[end..].chars();
        &text[..end]
    }

    fn scan(&mut self) -> Token {
        let Some(first) = self.rest.clone().next() else {
            return Token::End;
        };
        match first {
            '0'..='9' => {
                let digits = self.take_while(|c| c.is_ascii_digit());
                let significant = digits.trim_start_matches('0').bytes().take(9);
                let value =
                    significant.fold(0, |value, digit| value * 10 + i64::from(digit - b'0'));
                Token::Number(value, digits.len())
            }
            // A word is made of letters and of all that comes behind `A` in Unicode.
            'A'.. if !is_space(first) => {
                let word = self.take_while(|c| c >= 'A' && !is_space(c));
                Token::Word(known_word(word), word.encode_utf16().count())
            }
            '(' => {
                self.skip_parentheses();
                Token::Unknown
            }
            _ => {
                self.rest.next();
                match first {
                    ':' | '-' | '+' | '.' | ')' => Token::Symbol(first),
                    space if is_space(space) => Token::Space,
                    _ => Token::Unknown,
                }
            }
        }
    }

    fn skip_parentheses(&mut self) {
        let mut depth = 0_usize;
        for c in self.rest.by_ref() {
            match c {
                '(' => depth += 1,
                ')' => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                return;
            }
        }
    }
}

/// White space between tokens. Unicode's separators of lines and paragraphs are no space here,
/// though `trim` takes them for it: V8 reads them as letters.
fn is_space(c: char) -> bool {
    is_js_space(c) && !matches!(c, '\u{2028}' | '\u{2029}')
}

/// Months by their first three letters, other words whole; case is the bit that ASCII has for it.
fn known_word(word: &str) -> Word {
    let mut lower = word.chars().map(|c| char::from_u32(u32::from(c) | 0x20).unwrap_or(c));
    let start: String = lower.by_ref().take(3).collect();
    if let Some((_, number)) = MONTHS.iter().zip(1..).find(|(month, _)| **month == start) {
        return Word::Month(number);
    }
    if lower.next().is_some() {
        return Word::Garbage;
    }
    WORDS.iter().find(|(known, _)| *known == start).map_or(Word::Garbage, |(_, word)| *word)
}

/// How the ISO forms fit.
enum Iso {
    /// From start to end.
    Whole,
    /// So far; the lenient parser goes on with this token.
    GoOnWith(Token),
    /// As no date at all: a time behind `T` must be right.
    Broken,
}

/// What a text has said so far.
#[derive(Debug, Default)]
struct Draft {
    day: Vec<i64>,
    month: Option<i64>,
    is_iso: bool,
    /// Hour, minute, second, millisecond.
    time: Vec<i64>,
    half: Option<i64>,
    sign: Option<i64>,
    zone_hour: Option<i64>,
    zone_minute: Option<i64>,
}

impl Draft {
    fn read_iso(&mut self, scanner: &mut Scanner<'_>) -> Iso {
        if scanner.peek().is_sign() {
            let sign = scanner.next();
            let Some(year) = scanner.peek().fixed(6) else {
                return Iso::GoOnWith(sign);
            };
            scanner.next();
            if sign == Token::Symbol('-') && year == 0 {
                return Iso::GoOnWith(sign);
            }
            self.day.push(if sign == Token::Symbol('-') { -year } else { year });
        } else if let Some(year) = scanner.peek().fixed(4) {
            scanner.next();
            self.day.push(year);
        } else {
            return Iso::GoOnWith(scanner.next());
        }
        for most in [12, 31] {
            if !scanner.skip('-') {
                break;
            }
            match scanner.two_digits(1, most) {
                Some(number) => self.day.push(number),
                None => return Iso::GoOnWith(scanner.next()),
            }
        }
        match scanner.peek() {
            Token::Word(Word::TimeFollows, _) => {
                scanner.next();
                if self.read_iso_time(scanner).is_none() || scanner.peek() != Token::End {
                    return Iso::Broken;
                }
            }
            Token::End => {}
            _ => return Iso::GoOnWith(scanner.next()),
        }
        self.is_iso = true;
        Iso::Whole
    }

    fn read_iso_time(&mut self, scanner: &mut Scanner<'_>) -> Option<()> {
        let hour = scanner.two_digits(0, 24)?;
        // 24:00:00.000 is the end of the day; nothing else begins with 24.
        let most = if hour == 24 { 0 } else { 59 };
        self.time.push(hour);
        scanner.skip(':').then_some(())?;
        self.time.push(scanner.two_digits(0, most)?);
        if scanner.skip(':') {
            self.time.push(scanner.two_digits(0, most)?);
            if scanner.skip('.') {
                let fraction = scanner.next();
                let Token::Number(value, _) = fraction else {
                    return None;
                };
                (hour < 24 || value == 0).then_some(())?;
                self.time.push(milliseconds(fraction));
            }
        }
        if scanner.peek().is_z() {
            scanner.next();
            self.set_zone(0);
        } else if scanner.peek().is_sign() {
            self.sign = Some(sign_of(scanner.next()));
            if let Some(number) = scanner.peek().fixed(4) {
                scanner.next();
                (number / 100 < 24 && number % 100 < 60).then_some(())?;
                (self.zone_hour, self.zone_minute) = (Some(number / 100), Some(number % 100));
            } else {
                self.zone_hour = Some(scanner.two_digits(0, 23)?);
                scanner.skip(':').then_some(())?;
                self.zone_minute = Some(scanner.two_digits(0, 59)?);
            }
        }
        Some(())
    }

    fn read_lenient(&mut self, first: Token, scanner: &mut Scanner<'_>) -> Option<()> {
        let mut has_number = !self.day.is_empty();
        let mut token = first;
        while token != Token::End {
            match token {
                Token::Number(value, _) => {
                    has_number = true;
                    self.read_number(value, scanner)?;
                }
                Token::Word(word, _) => self.read_word(word, has_number, scanner)?,
                Token::Symbol('+' | '-') if self.is_utc() || !self.time.is_empty() => {
                    has_number = true;
                    self.read_offset(token, scanner)?;
                }
                Token::Symbol('+' | '-' | ')') if has_number => return None,
                Token::Symbol(_) | Token::Space | Token::Unknown | Token::End => {}
            }
            token = scanner.next();
        }
        Some(())
    }

    fn read_number(&mut self, value: i64, scanner: &mut Scanner<'_>) -> Option<()> {
        if scanner.skip(':') {
            if scanner.skip(':') {
                self.time.is_empty().then_some(())?;
                self.time.extend([value, 0]);
            } else {
                self.add_time(value)?;
                scanner.skip('.');
            }
        } else if scanner.skip('.') && self.expects_time(value) {
            self.add_time(value)?;
            let fraction = scanner.next();
            matches!(fraction, Token::Number(..)).then_some(())?;
            self.finish_time(milliseconds(fraction));
        } else if self.zone_hour.is_some() && self.zone_minute.is_none() && value < 60 {
            self.zone_minute = Some(value);
        } else if self.expects_time(value) {
            self.finish_time(value);
            let next = scanner.peek();
            let may_follow =
                matches!(next, Token::End | Token::Space) || next.is_z() || next.is_sign();
            may_follow.then_some(())?;
        } else {
            (self.day.len() < 3).then_some(())?;
            self.day.push(value);
            scanner.skip('-');
        }
        Some(())
    }

    fn read_word(&mut self, word: Word, has_number: bool, scanner: &mut Scanner<'_>) -> Option<()> {
        match word {
            Word::Half(hours) if !self.time.is_empty() => self.half = Some(hours),
            Word::Month(month) => {
                self.month = Some(month);
                scanner.skip('-');
            }
            Word::Zone(hours) if has_number => self.set_zone(hours),
            // Other words only before the first number, and not right before it.
            _ if has_number || matches!(scanner.peek(), Token::Number(..)) => return None,
            _ => {}
        }
        Some(())
    }

    fn read_offset(&mut self, sign: Token, scanner: &mut Scanner<'_>) -> Option<()> {
        self.sign = Some(sign_of(sign));
        let (value, digits) = match scanner.peek() {
            Token::Number(value, digits) => {
                scanner.next();
                (value, digits)
            }
            _ => (0, 0),
        };
        (self.zone_hour, self.zone_minute) = match digits {
            _ if scanner.peek() == Token::Symbol(':') => (Some(value), None),
            1 | 2 => (Some(value), Some(0)),
            3 | 4 => (Some(value / 100), Some(value % 100)),
            _ => return None,
        };
        Some(())
    }

    fn expects_time(&self, value: i64) -> bool {
        match self.time.len() {
            1 | 2 => value < 60,
            3 => value < 1000,
            _ => false,
        }
    }

    fn add_time(&mut self, value: i64) -> Option<()> {
        (self.time.len() < 4).then(|| self.time.push(value))
    }

    fn finish_time(&mut self, value: i64) {
        self.time.push(value);
        self.time.resize(4, 0);
    }

    fn set_zone(&mut self, hours: i64) {
        self.sign = Some(if hours < 0 { -1 } else { 1 });
        (self.zone_hour, self.zone_minute) = (Some(hours.abs()), Some(0));
    }

    fn is_utc(&self) -> bool {
        self.zone_hour == Some(0) && self.zone_minute == Some(0)
    }

    /// Days since 1970.
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

    /// In milliseconds.
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

    /// V8 counts the seconds in 32 bits, of which it takes the upper half for no date.
    fn offset_milliseconds(&self) -> Option<f64> {
        let seconds = self.zone_hour.unwrap_or(0) * 3600 + self.zone_minute.unwrap_or(0) * 60;
        let seconds = seconds % (1 << 32);
        (seconds < 1 << 31).then(|| exact(self.sign.unwrap_or(1) * seconds * 1000))
    }
}

fn sign_of(token: Token) -> i64 {
    if token == Token::Symbol('-') { -1 } else { 1 }
}

/// The first three digits of a fraction of a second.
fn milliseconds(fraction: Token) -> i64 {
    let Token::Number(value, digits) = fraction else {
        return 0;
    };
    match digits.min(9) {
        1 => value * 100,
        2 => value * 10,
        more => value / 10_i64.pow(u32::try_from(more).unwrap_or(9).saturating_sub(3)),
    }
}

/// A count of days in the Gregorian calendar, as if it had always been in use.
fn days_since_1970(year: i64, month: i64, day: i64) -> f64 {
    // Years that begin in March have the leap day at their end.
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    exact(era * 146_097 + day_of_era - 719_468)
}

#[allow(clippy::cast_precision_loss, reason = "far below 2^53 where the result is a date")]
fn exact(number: i64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_what_javascript_reads() {
        let cases = [
            ("1970-01-01", Some(0.0)),
            ("2024-01-15T09:30:00.000Z", Some(1_705_311_000_000.0)),
            ("2024-01-15T09:30:00+02:00", Some(1_705_303_800_000.0)),
            ("2024-01-15T09:30+0200", Some(1_705_303_800_000.0)),
            ("2024-01-15T24:00", Some(1_705_363_200_000.0)),
            ("2024-02-31", Some(1_709_337_600_000.0)),
            ("+002024-01-15", Some(1_705_276_800_000.0)),
            ("-000000-01-01", Some(978_307_200_000.0)),
            ("+275760-09-13", Some(8.64e15)),
            ("+275760-09-14", None),
            ("2024-01-15T09", None),
            ("2024-01-15T09:60", None),
            ("2024-01-15T24:01", None),
            ("2024-01-15T09:30:60", None),
            ("2024-01-15T09:30 ", None),
            ("2024-13-01", None),
            (" 2024-01-15", Some(1_705_276_800_000.0)),
            ("May 5, 2024", Some(1_714_867_200_000.0)),
            ("5 May 2024 10:00 GMT", Some(1_714_903_200_000.0)),
            ("Mon, 15 Jan 2024 09:30:00 EST", Some(1_705_329_000_000.0)),
            ("Jan 15 2024 12:30 am", Some(1_705_278_600_000.0)),
            ("Jan 15 2024 1:30 pm (a note (here)) GMT+1", Some(1_705_321_800_000.0)),
            ("1/15/2024", Some(1_705_276_800_000.0)),
            ("2.30.2024", Some(1_709_251_200_000.0)),
            ("15/1/2024", None),
            ("15.01.2024", None),
            ("January 2024", Some(1_704_067_200_000.0)),
            ("January", None),
            ("week 3", Some(983_404_800_000.0)),
            ("user 42", Some(2_272_147_200_000.0)),
            ("week3", None),
            ("09:30", None),
            ("yesterday", None),
            ("", None),
            ("3 weeks", None),
            ("((((", None),
            // NUL ends the text.
            ("5\0nonsense", Some(988_675_200_000.0)),
            ("2024-01-15T10:00\0nonsense", Some(1_705_312_800_000.0)),
            ("5 (a\0) nonsense", Some(988_675_200_000.0)),
            ("(a\0) 5", None),
            ("\u{0}5", None),
            // Spaces are what V8 takes for them.
            ("71\n", Some(31_536_000_000.0)),
            ("71\u{a0}", Some(31_536_000_000.0)),
            ("71\u{feff}", Some(31_536_000_000.0)),
            ("71\u{85}", None),
            ("71\u{2028}", None),
            ("71\u{2029}", None),
            ("Jan\u{2028}20 2024", Some(1_705_708_800_000.0)),
            // Offsets from Greenwich are counted in 32 bits.
            ("2000 10:00 +596523:14", Some(-1_200_762_840_000.0)),
            ("2000 10:00 +596523:15", None),
            ("2000 10:00 +1193046:0", None),
            ("2000 10:00 +1193046:30", Some(946_720_696_000.0)),
            ("2000 10:00 -1193047:0", Some(946_722_704_000.0)),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_date(text), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[0-9a-zA-Z:+().,é/ -]{0,40}", wild in ".{0,40}") {
            parse_date(&text);
            parse_date(&wild);
        }
    }
}
