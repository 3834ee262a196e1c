//! What a string says of a date, piece by piece: by the ISO forms, then by V8's lenient rules.

use super::scan::{Scanner, Token, Word};

/// How the ISO forms fit.
pub(super) enum Iso {
    /// From start to end of the string.
    Whole,
    /// Up to here; the lenient parser continues with this token.
    GoOnWith(Token),
    /// Not at all: a time behind `T` must be valid.
    Broken,
}

/// What the string has said so far.
#[derive(Debug, Default)]
pub(super) struct Draft {
    /// Up to three numbers, in the order in which they came; in the ISO forms year, month, day.
    pub(super) day: Vec<i64>,
    /// A month given by name.
    pub(super) month: Option<i64>,
    pub(super) is_iso: bool,
    /// Hour, minute, second, millisecond.
    pub(super) time: Vec<i64>,
    /// The hours that AM or PM adds.
    pub(super) half: Option<i64>,
    /// 1 east of Greenwich, -1 west of it.
    pub(super) sign: Option<i64>,
    pub(super) zone_hour: Option<i64>,
    pub(super) zone_minute: Option<i64>,
}

impl Draft {
    pub(super) fn read_iso(&mut self, scanner: &mut Scanner<'_>) -> Iso {
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
        // 24:00:00.000 is the end of the day; no other time has the hour 24.
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

    pub(super) fn read_lenient(&mut self, first: Token, scanner: &mut Scanner<'_>) -> Option<()> {
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
            // Other words are allowed only before the first number, and not directly before it.
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
}

fn sign_of(token: Token) -> i64 {
    if token == Token::Symbol('-') { -1 } else { 1 }
}

/// Returns the milliseconds of a fraction of a second: its first three digits.
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
