//! Reads lines from a file, plain or gzip, a bounded number of bytes at a time.

use std::io::{self, BufRead, BufReader, Cursor, Read};

use flate2::read::MultiGzDecoder;

/// The first bytes of a gzip file, according to RFC 1952.
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// The lines of a file.
pub(super) struct Lines<'a> {
    input: Box<dyn BufRead + 'a>,
    line_bytes_max: usize,
    number: u64,
    bytes: Vec<u8>,
}

/// A line that is not blank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Line<'a> {
    /// The number of the line, from 1; blank lines count.
    pub(super) number: u64,
    /// The line without the white space around it. If the line is too long, only its beginning.
    pub(super) bytes: &'a [u8],
}

impl<'a> Lines<'a> {
    /// Tells gzip from text by the first bytes. Of a line longer than `line_bytes_max`, only a little more than that is
    /// returned, and the rest is skipped.
    pub(super) fn open(mut input: impl Read + 'a, line_bytes_max: usize) -> io::Result<Self> {
        let mut first = Vec::new();
        input.by_ref().take(GZIP_MAGIC.len() as u64).read_to_end(&mut first)?;
        let is_gzip = first == GZIP_MAGIC;
        let whole = Cursor::new(first).chain(input);
        let input: Box<dyn BufRead + 'a> = if is_gzip {
            Box::new(BufReader::with_capacity(1 << 16, MultiGzDecoder::new(whole)))
        } else {
            Box::new(BufReader::with_capacity(1 << 16, whole))
        };
        Ok(Self { input, line_bytes_max, number: 0, bytes: Vec::new() })
    }

    /// Returns the next line that is not blank.
    pub(super) fn next(&mut self) -> io::Result<Option<Line<'_>>> {
        // There is room for the end of the line, and for one byte that shows that there are more.
        let most = self.line_bytes_max as u64 + 3;
        loop {
            self.bytes.clear();
            if self.input.by_ref().take(most).read_until(b'\n', &mut self.bytes)? == 0 {
                return Ok(None);
            }
            self.number += 1;
            // White space before a line that is too long must not make the line look blank or short.
            let is_cut = self.bytes.len() as u64 == most && !self.bytes.ends_with(b"\n");
            if is_cut {
                self.input.skip_until(b'\n')?;
                return Ok(Some(Line { number: self.number, bytes: &self.bytes }));
            }
            if !self.bytes.trim_ascii().is_empty() {
                return Ok(Some(Line { number: self.number, bytes: self.bytes.trim_ascii() }));
            }
        }
    }

    /// Returns how many lines were read.
    pub(super) fn number(&self) -> u64 {
        self.number
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    const MOST: usize = 8;

    fn lines(bytes: &[u8]) -> Vec<(u64, String)> {
        let mut lines = Lines::open(bytes, MOST).unwrap();
        let mut found = Vec::new();
        while let Some(line) = lines.next().unwrap() {
            found.push((line.number, String::from_utf8_lossy(line.bytes).into_owned()));
        }
        found
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn lines_are_found_in_text_and_in_gzip() {
        type Case = (&'static [u8], &'static [(u64, &'static str)]);
        let cases: [Case; 9] = [
            (b"", &[]),
            (b"\n \r\n", &[]),
            (b"a", &[(1, "a")]),
            (b"a\r\n\n b \n", &[(1, "a"), (3, "b")]),
            (b"1234567\n12345678\nb", &[(1, "1234567"), (2, "12345678"), (3, "b")]),
            (b"12345678\r\nb", &[(1, "12345678"), (2, "b")]),
            // These lines are too long: they have more bytes than allowed, whatever is around them.
            (b"123456789\nb", &[(1, "123456789"), (2, "b")]),
            (b"12345678901234567890\nb", &[(1, "12345678901"), (2, "b")]),
            (b"              1234567890\nb\n", &[(1, "           "), (2, "b")]),
        ];
        for (text, expected) in cases {
            let expected: Vec<(u64, String)> =
                expected.iter().map(|(number, line)| (*number, (*line).to_owned())).collect();
            let name = String::from_utf8_lossy(text);
            assert_eq!(lines(text), expected, "{name}");
            assert_eq!(lines(&gzip(text)), expected, "gzip of {name}");
        }
    }

    #[test]
    fn gzip_of_several_parts_is_one_file_and_a_broken_one_is_an_error() {
        let parts = [gzip(b"a\nb"), gzip(b"c\n")].concat();
        assert_eq!(lines(&parts), [(1, "a".to_owned()), (2, "bc".to_owned())]);
        let whole = gzip(b"a\nb\n");
        let mut broken = Lines::open(&whole[..whole.len() - 4], MOST).unwrap();
        let ended = loop {
            match broken.next() {
                Ok(Some(_)) => {}
                ended => break ended.map(|_| ()),
            }
        };
        assert!(ended.is_err());
    }
}
