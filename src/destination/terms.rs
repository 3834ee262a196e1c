//! What a plan depends on, beside the message and the subscription.

use super::catalogue::{Catalogue, Review};
use super::guard::DestinationOptions;

/// The options of a destination, and its catalogue under them.
#[derive(Debug, Clone, Copy)]
pub struct Terms<'a> {
    pub(super) options: &'a DestinationOptions,
    pub(super) review: Option<Review<'a>>,
}

impl<'a> Terms<'a> {
    pub(super) fn new(options: &'a DestinationOptions, catalogue: Option<&'a Catalogue>) -> Self {
        let review = |catalogue| Review { catalogue, options: options.catalogue };
        Self { options, review: catalogue.map(review) }
    }
}

impl<'a> From<&'a DestinationOptions> for Terms<'a> {
    fn from(options: &'a DestinationOptions) -> Self {
        Self::new(options, None)
    }
}
