//! The URL of the database. No error shows it, since it may have a password.

use tokio_postgres::Config;
use tokio_postgres::config::SslMode;

use super::error::OpenError;
use super::tls::{Roots, Tls, Verify};

/// How to reach the database.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) config: Config,
    pub(super) tls: Tls,
}

impl Target {
    /// Parses the URL under a configuration key as libpq does, including `sslmode` and `sslrootcert`.
    pub(super) fn parse(key: &'static str, url: &str) -> Result<Self, OpenError> {
        let wrong = |problem: String| OpenError::Url { key, problem };
        let (place, query) = url.split_once('?').unwrap_or((url, ""));
        if !place.starts_with("postgres://") && !place.starts_with("postgresql://") {
            return Err(wrong("it does not begin with postgres:// or postgresql://".to_owned()));
        }
        // Otherwise a part of the password would be parsed as the host or an option, and shown in an error.
        if url.matches('@').count() > 1 || query.contains('@') {
            let write = "in user, password and options, write @ as %40 and ? as %3F";
            return Err(wrong(write.to_owned()));
        }
        let (mut mode, mut roots, mut rest) = (None, None, Vec::new());
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("sslmode", value)) => mode = Some(value),
                Some(("sslrootcert", "system")) => roots = Some(Roots::System),
                Some(("sslrootcert", value)) => {
                    let file = decode(value).ok_or_else(|| wrong("sslrootcert".to_owned()))?;
                    roots = Some(Roots::File(file.into()));
                }
                _ => rest.push(pair),
            }
        }
        let plain = format!("{place}?{}", rest.join("&"));
        let mut config: Config =
            plain.trim_end_matches('?').parse().map_err(|error| wrong(problem(&error)))?;
        if config.get_hosts().is_empty() {
            return Err(wrong("it names no host".to_owned()));
        }
        let (ssl_mode, verify) = match (mode, &roots) {
            (Some("disable"), _) => (SslMode::Disable, Verify::Nothing),
            (Some("allow" | "prefer") | None, _) => (SslMode::Prefer, Verify::Nothing),
            (Some("require"), None) => (SslMode::Require, Verify::Nothing),
            // As in libpq: given root certificates, `require` verifies the chain.
            (Some("require" | "verify-ca"), _) => (SslMode::Require, Verify::Chain),
            (Some("verify-full"), _) => (SslMode::Require, Verify::Full),
            (Some(_), _) => {
                let modes = "sslmode must be disable, prefer, require, verify-ca or verify-full";
                return Err(wrong(modes.to_owned()));
            }
        };
        config.ssl_mode(ssl_mode);
        let tls = Tls::new(verify, &roots.unwrap_or(Roots::System));
        Ok(Self { config, tls: tls.map_err(|error| wrong(error.to_string()))? })
    }
}

/// Returns what is wrong with a URL. The causes are about options, never about the values of user and password.
fn problem(error: &tokio_postgres::Error) -> String {
    let cause = std::error::Error::source(error);
    cause.map_or_else(|| error.to_string(), ToString::to_string)
}

/// Replaces `%XX`.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next()?, rest.next()?];
            let digits = std::str::from_utf8(&digits).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::postgres::connection::address;

    #[test]
    fn a_url_is_read_and_never_shown() {
        let cases = [
            (
                "postgres://ada:secret@db.example:6543/loops",
                Ok(("db.example:6543", SslMode::Prefer)),
            ),
            ("postgresql://db.example", Ok(("db.example:5432", SslMode::Prefer))),
            ("postgres://a,b:7/x?sslmode=require", Ok(("a:5432, b:7", SslMode::Require))),
            (
                "postgres://db/x?sslmode=verify-full&connect_timeout=3",
                Ok(("db:5432", SslMode::Require)),
            ),
            ("postgres://db/x?sslmode=disable", Ok(("db:5432", SslMode::Disable))),
            ("postgres://ada:secret@%2Ftmp%2Fsocket/x", Ok(("/tmp/socket:5432", SslMode::Prefer))),
            ("postgres://ada:s%40cr%3Ft@db/x", Ok(("db:5432", SslMode::Prefer))),
            ("postgres://ada:my@secret@db/x", Err("%40")),
            ("postgres://ada:my?secret@db/x", Err("%3F")),
            ("postgres://ada:1?secret=secret@db/x", Err("%3F")),
            ("mysql://ada:secret@db/x", Err("postgres://")),
            ("postgres://ada:secret@db/x?sslmode=maybe", Err("sslmode must be")),
            ("postgres://ada:secret@db:port/x", Err("port")),
            ("postgres://ada:secret@db/x?sslcert=f", Err("sslcert")),
            (
                "postgres://ada:secret@db/x?sslmode=verify-ca&sslrootcert=%2Fno%2Fsuch",
                Err("/no/such"),
            ),
        ];
        for (url, expected) in cases {
            match (Target::parse("store.url", url), expected) {
                (Ok(target), Ok((address_of, mode))) => {
                    assert_eq!(address(&target.config), address_of, "{url}");
                    assert_eq!(target.config.get_ssl_mode(), mode, "{url}");
                }
                (Err(error), Err(word)) => {
                    let text = error.to_string();
                    assert!(text.contains(word) && !text.contains("secret"), "{url}: {text}");
                }
                (found, expected) => panic!("{url}: {found:?}, expected {expected:?}"),
            }
        }
    }
}
