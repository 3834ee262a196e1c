//! `[destinations.NAME]`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::errors::Check;
use crate::config::subscriptions::{Planner, Written};
use crate::config::tree::DestinationTree;
use crate::secret::Secret;

/// The base URL of Loops' API, by its published contract.
const BASE_URL_DEFAULT: &str = "https://app.loops.so/api/v1";

/// The highest rate that can be configured, in requests a second.
const RATE_MAX: u32 = 10_000;

/// A destination.
#[derive(Debug, Clone)]
pub struct DestinationConfig {
    /// Loops' API key, not empty.
    pub api_key: Secret,
    /// The base URL of Loops' API.
    pub base_url: String,
    /// Requests a second; `None`: the rate in Loops' headers, 10 until there are some.
    pub rate: Option<u32>,
    /// Its subscriptions.
    pub planner: Planner,
}

impl Check<'_> {
    /// Gives the subscriptions at the top level to the only destination.
    pub(super) fn shared_subscriptions(
        &mut self,
        subscriptions: Vec<serde_json::Value>,
        destinations: &mut BTreeMap<String, DestinationTree>,
    ) {
        if subscriptions.is_empty() {
            return;
        }
        let mut own: Vec<&mut DestinationTree> = destinations.values_mut().collect();
        match own.as_mut_slice() {
            [only] => only.subscriptions.splice(0..0, subscriptions).for_each(drop),
            [] => {}
            _ => self.report(
                "subscriptions",
                "there are several destinations: write [[destinations.NAME.subscriptions]]",
            ),
        }
    }

    pub(super) fn destination(
        &mut self,
        key: &str,
        mut tree: DestinationTree,
    ) -> Option<DestinationConfig> {
        let api_key = self.secret(
            &format!("{key}.api_key"),
            tree.api_key.take(),
            tree.api_key_file.as_deref(),
        );
        let base_url = tree.base_url.take().unwrap_or_else(|| BASE_URL_DEFAULT.to_owned());
        if !base_url.starts_with("https://") && !base_url.starts_with("http://") {
            self.report(
                &format!("{key}.base_url"),
                format!("`{base_url}` must begin with https:// (or http:// for a test)"),
            );
        }
        // The path of each call is appended. Not shown: a query may hold a secret.
        if base_url.contains(['?', '#']) {
            self.report(
                &format!("{key}.base_url"),
                "must be without a query and a fragment (`?` and `#`)",
            );
        }
        if tree.rate.is_some_and(|rate| rate == 0 || rate > RATE_MAX) {
            self.report(
                &format!("{key}.rate"),
                format!("must be 1 to {RATE_MAX} requests a second"),
            );
        }
        let rate = tree.rate;
        let planner = self.planner(key, tree);
        match api_key {
            Some(Some(api_key)) => {
                Some(DestinationConfig { api_key, base_url, rate, planner: planner? })
            }
            None => None,
            Some(None) => {
                let hint =
                    if key == "destinations.default" { "set LOOPS_API_KEY, or " } else { "" };
                self.missing(
                    &format!("{key}.api_key"),
                    format!("there is no API key: {hint}give api_key or api_key_file (from Loops: Settings, API); to try the program without an account: segment-loops dev"),
                );
                None
            }
        }
    }

    pub(super) fn planner(&mut self, key: &str, tree: DestinationTree) -> Option<Planner> {
        let written = Written {
            place: self.place,
            key,
            inline: tree.subscriptions,
            files: tree.subscriptions_files.0.into_iter().map(PathBuf::from).collect(),
            unsupported: tree.unsupported,
            placeholder_ids: tree.placeholder_ids.map(|ids| ids.0),
            consent_categories: tree.consent_categories.0,
            merge: tree.merge.unwrap_or(true),
        };
        Planner::load(written).map_err(|problems| self.report_all(problems)).ok()
    }
}
