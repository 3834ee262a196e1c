//! `[destinations.NAME]`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::errors::Check;
use super::secrets::WrittenSecrets;
use crate::config::subscriptions::{Planner, Written};
use crate::config::tree::DestinationTree;
use crate::destination::SkipUnchanged;
use crate::feedback::Key;
use crate::secret::Secret;

/// The base URL of Loops' API, from its published contract.
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
    /// The rate in requests a second; `None` follows Loops' headers, and is 10 until there are any.
    pub rate: Option<u32>,
    /// The signing secrets of Loops' webhooks, any of which may sign; if there are none, webhooks are rejected. Each
    /// holds a valid key.
    pub loops_webhook_secrets: Vec<Secret>,
    /// The URL that webhooks are handed on to.
    pub loops_webhook_forward: Option<Secret>,
    /// Its subscriptions.
    pub planner: Planner,
}

impl Check<'_> {
    /// Reports destinations that share an account at Loops although one of them must know of all requests to it.
    pub(super) fn accounts_once(&mut self, destinations: &BTreeMap<String, DestinationConfig>) {
        for (name, destination) in destinations {
            let options = destination.planner.destination.contact_options();
            let shares = |(other, config): &(&String, &DestinationConfig)| {
                *other != name && config.api_key == destination.api_key
            };
            if options.skip_unchanged == SkipUnchanged::On
                && let Some((other, _)) = destinations.iter().find(shares)
            {
                self.report(
                    &format!("destinations.{name}.skip_unchanged"),
                    format!(
                        "cannot be \"on\": destinations.{other} has the same API key, and changes the same contacts without this destination's knowledge; use \"observe\", or one destination"
                    ),
                );
            }
        }
    }

    /// Moves the subscriptions at the top level to the only destination.
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
        // The URL is not shown, because its path or its query may hold a secret.
        if !base_url.starts_with("https://") && !base_url.starts_with("http://") {
            self.report(
                &format!("{key}.base_url"),
                "must begin with https:// (or http:// for a test)",
            );
        }
        // The path of each call is appended to it.
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
        let loops_webhook_secrets = self.secrets(WrittenSecrets {
            table: key,
            name: "loops_webhook_secret",
            single: tree.loops_webhook_secret.take(),
            list: tree.loops_webhook_secrets.take(),
            file: tree.loops_webhook_secret_file.as_deref(),
        });
        let loops_webhook_forward = tree.loops_webhook_forward.take();
        self.loops_webhook(key, &loops_webhook_secrets, loops_webhook_forward.as_ref());
        let planner = self.planner(key, tree);
        match api_key {
            Some(Some(api_key)) => Some(DestinationConfig {
                api_key,
                base_url,
                rate,
                loops_webhook_secrets,
                loops_webhook_forward,
                planner: planner?,
            }),
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

    fn loops_webhook(&mut self, key: &str, secrets: &[Secret], forward: Option<&Secret>) {
        if secrets.iter().any(|secret| Key::read(secret).is_none()) {
            self.report(
                &format!("{key}.loops_webhook_secret"),
                "is not a signing secret of Loops, which is whsec_ and base64: copy it again from Settings, Webhooks",
            );
        }
        let Some(forward) = forward else { return };
        let key = format!("{key}.loops_webhook_forward");
        // The URL is not shown, because it may hold a secret.
        let url = forward.expose();
        let is_url = url.starts_with("https://") || url.starts_with("http://");
        if !is_url || url.contains(char::is_whitespace) {
            self.report(
                &key,
                "must be a URL that begins with https:// (or http:// within a private network)",
            );
        } else if secrets.is_empty() {
            self.report(
                &key,
                "needs loops_webhook_secret: only what is verified and recorded is handed on",
            );
        }
    }

    pub(super) fn planner(&mut self, key: &str, tree: DestinationTree) -> Option<Planner> {
        let written = Written {
            place: self.place,
            key,
            inline: tree.subscriptions,
            files: tree.subscriptions_files.0.into_iter().map(PathBuf::from).collect(),
            mode: tree.mode,
            unsupported: tree.unsupported,
            placeholder_ids: tree.placeholder_ids.map(|ids| ids.0),
            consent_categories: tree.consent_categories.0,
            consent: tree.consent,
            skip_unchanged: tree.skip_unchanged,
            skip_unchanged_ttl_h: tree.skip_unchanged_ttl_h,
            identity: tree.identity,
            identity_addresses_max: tree.identity_addresses_max,
            stale: tree.stale,
            catalogue_refresh_s: tree.catalogue_refresh_s,
            unknown_properties: tree.unknown_properties,
            wrong_types: tree.wrong_types,
            erased_block_days: tree.erased_block_days.unwrap_or_default(),
            await_contact_s: tree.await_contact_s,
            new_contacts_per_day: tree.new_contacts_per_day,
            new_contacts: tree.new_contacts,
            verify_unknown: tree.verify_unknown,
            merge: tree.merge.unwrap_or(true),
        };
        Planner::load(written).map_err(|problems| self.report_all(problems)).ok()
    }
}
