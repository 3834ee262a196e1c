//! Limits what one address may send to a source whose write key is public: the requests, and the stored bytes, per
//! minute.
//!
//! Each address has a token bucket, which is full at first and refills within a minute. The number of buckets is
//! bounded: a bucket that was not used for a minute is full, so it need not be kept, and addresses beyond
//! [`ADDRESSES_MAX`] share one bucket.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::address::shared;

/// How long an empty bucket takes to refill.
const PERIOD: Duration = Duration::from_secs(60);

/// The most addresses with a bucket of their own.
const ADDRESSES_MAX: usize = 50_000;

/// The owner of an IPv6 address also has at least all addresses that share this many leading bits with it.
const IPV6_PREFIX: u32 = 64;

/// A limit of a source.
#[derive(Debug)]
pub struct AddressLimit {
    per_minute: u32,
    buckets: Mutex<Buckets>,
}

#[derive(Debug)]
struct Buckets {
    /// The buckets used since `began`. The key `None` has the bucket that is shared by addresses without their own, and
    /// by senders without an address.
    current: HashMap<Option<IpAddr>, Bucket>,
    /// The buckets that were used in the period before, and not since.
    before: HashMap<Option<IpAddr>, Bucket>,
    began: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl AddressLimit {
    /// Creates a limit of this many units a minute.
    pub fn new(per_minute: u32) -> Self {
        let buckets = Buckets { current: HashMap::new(), before: HashMap::new(), began: None };
        Self { per_minute: per_minute.max(1), buckets: Mutex::new(buckets) }
    }

    /// Returns the units a minute.
    pub fn per_minute(&self) -> u32 {
        self.per_minute
    }

    /// Takes `units` (at most a full bucket) from the bucket of an address. If the bucket has fewer, the error is the
    /// number of seconds until it has enough.
    pub(super) fn take(
        &self,
        address: Option<IpAddr>,
        units: usize,
        now: Instant,
    ) -> Result<(), u32> {
        // A panic between two plain assignments cannot leave them half done.
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let full = f64::from(self.per_minute);
        let per_second = full / PERIOD.as_secs_f64();
        let cost = self.cost(units);
        let bucket = buckets.of(counted(address), full, now);
        let rest = now.saturating_duration_since(bucket.at).as_secs_f64() * per_second;
        bucket.tokens = (bucket.tokens + rest).min(full);
        bucket.at = now;
        if bucket.tokens >= cost {
            bucket.tokens -= cost;
            return Ok(());
        }
        let seconds = ((cost - bucket.tokens) / per_second).ceil();
        // The value is at most a minute, so the cast does not truncate it.
        Err((seconds as u32).max(1))
    }

    /// Puts back units that were taken in vain.
    pub(super) fn give_back(&self, address: Option<IpAddr>, units: usize, now: Instant) {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let full = f64::from(self.per_minute);
        let bucket = buckets.of(counted(address), full, now);
        bucket.tokens = (bucket.tokens + self.cost(units)).min(full);
    }

    fn cost(&self, units: usize) -> f64 {
        f64::from(u32::try_from(units).unwrap_or(u32::MAX).clamp(1, self.per_minute))
    }
}

impl Buckets {
    fn of(&mut self, key: Option<IpAddr>, full: f64, now: Instant) -> &mut Bucket {
        let began = *self.began.get_or_insert(now);
        let age = now.saturating_duration_since(began);
        if age >= PERIOD {
            self.before = std::mem::take(&mut self.current);
            if age >= PERIOD * 2 {
                self.before.clear();
            }
            self.began = Some(now);
        }
        let is_known = self.current.contains_key(&key) || self.before.contains_key(&key);
        let is_full = self.current.len() + self.before.len() >= ADDRESSES_MAX;
        let key = if is_full && !is_known { None } else { key };
        let before = self.before.remove(&key);
        let new = before.unwrap_or(Bucket { tokens: full, at: now });
        self.current.entry(key).or_insert(new)
    }
}

/// Returns the address under which a sender is counted.
fn counted(address: Option<IpAddr>) -> Option<IpAddr> {
    address.map(|address| shared(address, IPV6_PREFIX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn an_address_has_its_requests_and_gets_them_back_within_a_minute() {
        let limit = AddressLimit::new(6);
        let start = Instant::now();
        let at = |seconds: f64| start + Duration::from_secs_f64(seconds);
        // (seconds, address, requests) → result
        let cases = [
            (0.0, "192.0.2.1", 5, Ok(())),
            (0.0, "192.0.2.1", 1, Ok(())),
            (0.0, "192.0.2.1", 1, Err(10)),
            (0.0, "192.0.2.2", 6, Ok(())),
            (9.0, "192.0.2.1", 1, Err(1)),
            (10.5, "192.0.2.1", 1, Ok(())),
            (10.5, "192.0.2.1", 1, Err(10)),
            // More units than a full bucket count as a full bucket.
            (75.0, "192.0.2.1", 100, Ok(())),
            (75.0, "192.0.2.1", 1, Err(10)),
            // The bucket is remembered beyond the end of a period.
            (121.0, "192.0.2.1", 5, Err(4)),
            (121.0, "192.0.2.1", 4, Ok(())),
            (1_000.0, "192.0.2.1", 6, Ok(())),
            (1_000.0, "2001:db8::1", 6, Ok(())),
            (1_000.0, "2001:db8::2:1", 1, Err(10)),
            (1_000.0, "2001:db8:0:1::1", 1, Ok(())),
        ];
        for (seconds, address, requests, expected) in cases {
            let taken = limit.take(ip(address), requests, at(seconds));
            assert_eq!(taken, expected, "{address} at {seconds}");
        }
    }

    #[test]
    fn what_was_taken_in_vain_is_put_back() {
        let limit = AddressLimit::new(6);
        let now = Instant::now();
        let address = ip("192.0.2.1");
        limit.take(address, 4, now).unwrap();
        limit.give_back(address, 3, now);
        assert_eq!(limit.take(address, 6, now), Err(10));
        // The bucket never has more than when full.
        limit.give_back(address, 6, now);
        limit.take(address, 6, now).unwrap();
        assert_eq!(limit.take(address, 1, now), Err(10));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let limit = AddressLimit::new(2);
        let start = Instant::now();
        let address = |n: usize| Some(IpAddr::from(u32::try_from(n).unwrap().to_be_bytes()));
        for n in 0..ADDRESSES_MAX {
            limit.take(address(n), 1, start).unwrap();
        }
        let kept = || {
            let buckets = limit.buckets.lock().unwrap();
            buckets.current.len() + buckets.before.len()
        };
        // Addresses without a bucket share one; addresses that have one keep it.
        assert_eq!(limit.take(address(ADDRESSES_MAX), 1, start), Ok(()));
        assert_eq!(limit.take(address(ADDRESSES_MAX + 1), 1, start), Ok(()));
        assert_eq!(limit.take(address(ADDRESSES_MAX + 2), 1, start), Err(30));
        assert_eq!(limit.take(address(0), 1, start), Ok(()));
        assert_eq!(limit.take(address(0), 1, start), Err(30));
        assert_eq!(kept(), ADDRESSES_MAX + 1);
        // After two minutes there is room again.
        limit.take(address(0), 1, start + PERIOD).unwrap();
        limit.take(address(0), 1, start + PERIOD * 2).unwrap();
        assert_eq!(kept(), 1);
    }
}
