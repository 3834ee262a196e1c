//! The configuration in force, as the console shows it, without secrets.

use crate::config::Config;
use crate::console::Setting;
use crate::destination::{CatalogueOptions, ContactOptions, DestinationOptions};

/// Lists each key that people look for, with its value.
pub(super) fn list(config: &Config) -> Vec<Setting> {
    let mut list = Vec::new();
    let mut put = |key: String, value: String| list.push(Setting { key, value });
    for (name, source) in &config.sources {
        let key = |key: &str| format!("sources.{name}.{key}");
        put(key("destination"), source.destination.clone());
        put(key("write_keys"), secrets(source.write_keys.len()));
        put(key("webhook_secrets"), secrets(source.webhook_secrets.len()));
        put(key("webhook_tokens"), secrets(source.webhook_tokens.len()));
        put(key("browser"), source.browser.is_some().to_string());
    }
    for (name, destination) in &config.destinations {
        let key = |key: &str| format!("destinations.{name}.{key}");
        let count = destination.planner.subscriptions.len();
        put(key("subscriptions"), count.to_string());
        put(key("api_key"), secrets(1));
        put(key("base_url"), shown_url(&destination.base_url));
        let rate = destination.rate.map(|rate| format!("{rate} a second"));
        put(key("rate"), rate.unwrap_or_else(|| "as Loops says".to_owned()));
        for (name, value) in options(destination.planner.destination.options()) {
            put(key(name), value);
        }
        put(key("loops_webhook_secrets"), secrets(destination.loops_webhook_secrets.len()));
        put(
            key("loops_webhook_forward"),
            secrets(usize::from(destination.loops_webhook_forward.is_some())),
        );
    }
    let server = &config.server;
    let mut put = |key: &str, value: String| put(key.to_owned(), value);
    put("server.listen", server.listen.to_string());
    let same = || "the same address".to_owned();
    put("server.admin_listen", server.admin_listen.map_or_else(same, |at| at.to_string()));
    put("server.public_url", server.public_url.clone().unwrap_or_else(|| secrets(0)));
    put("server.admin_tokens", secrets(config.admin_tokens.len()));
    put("server.viewer_tokens", secrets(config.viewer_tokens.len()));
    put("server.connections_max", server.connections_max.to_string());
    put("server.body_bytes_max", server.body_bytes_max.to_string());
    put("server.message_bytes_max", server.message_bytes_max.to_string());
    put("server.batch_messages_max", server.batch_messages_max.to_string());
    put("server.shutdown_grace_ms", server.shutdown_grace_ms.to_string());
    let alerts = &config.alerts;
    put("console.public_url", config.console.public_url.clone().unwrap_or_else(|| secrets(0)));
    put("alerts.webhook_url", secrets(usize::from(alerts.webhook_url.is_some())));
    put("alerts.webhook_secret", secrets(usize::from(alerts.webhook_secret.is_some())));
    put("alerts.format", alerts.format.as_str().to_owned());
    put("alerts.min_interval_s", alerts.min_interval_s.to_string());
    let store = &config.store;
    match &store.url {
        Some(_) => {
            put("store.url", secrets(1));
            put("store.schema", store.schema.clone());
        }
        None => put("store.data", store.data.display().to_string()),
    }
    put("store.backlog_messages_max", store.backlog_messages_max.to_string());
    put("store.backlog_bytes_max", store.backlog_bytes_max.to_string());
    put("store.duplicate_window_h", store.duplicate_window_h.to_string());
    put("store.delivered_retention_h", store.delivered_retention_h.to_string());
    put("store.failed_retention_h", store.failed_retention_h.to_string());
    put("store.records_retention_h", store.records_retention_h.to_string());
    let delivery = &config.delivery;
    put("delivery.requests_max", delivery.requests_max.to_string());
    put("delivery.retry_min_ms", delivery.retry_min_ms.to_string());
    put("delivery.retry_max_ms", delivery.retry_max_ms.to_string());
    put("delivery.retry_window_ms", delivery.retry_window_ms.to_string());
    put("delivery.lease_ttl_ms", delivery.lease_ttl_ms.to_string());
    list
}

/// Returns the keys of a destination that a reload can change, except for its subscriptions and secrets, with their
/// values.
pub(super) fn options(options: &DestinationOptions) -> Vec<(&'static str, String)> {
    // Each field is named, so that a new one cannot be forgotten.
    let DestinationOptions {
        unsupported,
        placeholder_ids,
        consent_categories,
        consent,
        catalogue: CatalogueOptions { refresh, unknown_properties, wrong_types },
        contacts:
            ContactOptions {
                skip_unchanged,
                skip_unchanged_ttl,
                identity,
                identity_addresses_max,
                stale,
                erased_block_days,
                await_contact,
                new_contacts_per_day,
                new_contacts,
                verify_unknown,
            },
        mode,
    } = options;
    let list = |texts: &[String]| match texts {
        [] => "<none>".to_owned(),
        texts => texts.join(", "),
    };
    vec![
        ("mode", mode.as_str().to_owned()),
        ("unsupported", unsupported.as_str().to_owned()),
        ("placeholder_ids", list(placeholder_ids)),
        ("consent_categories", list(consent_categories)),
        ("consent", consent.as_str().to_owned()),
        ("skip_unchanged", skip_unchanged.as_str().to_owned()),
        ("skip_unchanged_ttl_h", (skip_unchanged_ttl.as_secs() / 3_600).to_string()),
        ("await_contact_s", await_contact.as_secs().to_string()),
        ("new_contacts_per_day", new_contacts_per_day.to_string()),
        ("new_contacts", new_contacts.as_str().to_owned()),
        ("verify_unknown", verify_unknown.to_string()),
        ("stale", stale.as_str().to_owned()),
        ("identity", identity.as_str().to_owned()),
        ("identity_addresses_max", identity_addresses_max.to_string()),
        ("catalogue_refresh_s", refresh.as_secs().to_string()),
        ("unknown_properties", unknown_properties.as_str().to_owned()),
        ("wrong_types", wrong_types.as_str().to_owned()),
        ("erased_block_days", erased_block_days.to_string()),
    ]
}

/// Returns how many secrets are set, for people.
fn secrets(count: usize) -> String {
    match count {
        0 => "<not set>".to_owned(),
        1 => "<set>".to_owned(),
        more => format!("<{more} set>"),
    }
}

/// Returns a URL without its user name and password.
fn shown_url(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let host = host.rsplit('@').next().unwrap_or(host);
    format!("{scheme}://{host}/{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_secrets_nor_passwords_in_urls_are_shown() {
        assert_eq!([0, 1, 2].map(secrets), ["<not set>", "<set>", "<2 set>"]);
        assert_eq!(shown_url("https://ada:secret@host/api/v1"), "https://host/api/v1");
        assert_eq!(shown_url("https://host"), "https://host/");
    }
}
