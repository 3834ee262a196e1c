//! What steps need from the catalogue of a destination.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::destination::ContactProperty;

/// How long the properties that were read for one step are fresh for others.
const CHECKED_FOR: Duration = Duration::from_secs(60);

/// Whether a step may act on the catalogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trust {
    /// The properties were read within the last minute for this purpose.
    Fresh,
    /// The properties could not be read, so the catalogue may be out of date.
    Doubtful,
    /// The properties are being read: ask again soon.
    Soon,
}

/// What steps need from the catalogue.
#[derive(Debug, Default)]
pub(super) struct Wishes(Mutex<Wished>);

#[derive(Debug, Default)]
struct Wished {
    /// Whether the properties must be read now.
    check: bool,
    /// A property to create.
    create: Option<ContactProperty>,
    /// When the properties were last read for a step, and whether that worked.
    checked: Option<(Instant, bool)>,
}

impl Wishes {
    /// Returns whether a step may act on the catalogue. Asks for the properties to be read if that is not known.
    pub(super) fn trust(&self) -> Trust {
        let mut wished = self.lock();
        match wished.checked {
            Some((at, is_read)) if at.elapsed() < CHECKED_FOR => {
                if is_read {
                    Trust::Fresh
                } else {
                    Trust::Doubtful
                }
            }
            _ => {
                wished.check = true;
                Trust::Soon
            }
        }
    }

    /// Asks for a property to be created.
    pub(super) fn create(&self, property: ContactProperty) {
        self.lock().create = Some(property);
    }

    pub(super) fn are_pending(&self) -> bool {
        let wished = self.lock();
        wished.check || wished.create.is_some()
    }

    pub(super) fn take(&self) -> Option<Purpose> {
        let mut wished = self.lock();
        if let Some(property) = wished.create.take() {
            return Some(Purpose::Create(property));
        }
        std::mem::take(&mut wished.check).then_some(Purpose::Check)
    }

    pub(super) fn checked(&self, is_read: bool) {
        let mut wished = self.lock();
        wished.check = false;
        wished.checked = Some((Instant::now(), is_read));
    }

    fn lock(&self) -> MutexGuard<'_, Wished> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The purpose of a reading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The catalogue is due to be refreshed.
    Refresh,
    /// A step waits for the properties.
    Check,
    /// A step waits for a property to be created.
    Create(ContactProperty),
}
