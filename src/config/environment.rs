//! The environment of the process, and the names of its variables.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use crate::telemetry::{Sampling, TracesConfig};

/// Prefix of the variables that address any key, such as `SEGMENT_LOOPS__SERVER__LISTEN`.
pub(super) const PREFIX: &str = "SEGMENT_LOOPS";

/// The only protocol by which traces are exported.
const OTLP_PROTOCOL: &str = "http/protobuf";

/// Variables with short names, so that a single team needs no file.
pub(super) const SHORT_NAMES: [(&str, &str); 11] = [
    ("LOOPS_API_KEY", "destinations.default.api_key"),
    ("LOOPS_BASE_URL", "destinations.default.base_url"),
    ("LOOPS_RATE_LIMIT", "destinations.default.rate"),
    ("LOOPS_SUBSCRIPTIONS", "destinations.default.subscriptions_files"),
    ("LOOPS_WEBHOOK_SECRET", "destinations.default.loops_webhook_secret"),
    ("SEGMENT_WRITE_KEY", "sources.default.write_keys"),
    ("SEGMENT_WEBHOOK_SECRET", "sources.default.webhook_secret"),
    ("SEGMENT_WEBHOOK_TOKEN", "sources.default.webhook_token"),
    ("ADMIN_TOKEN", "server.admin_token"),
    ("VIEWER_TOKEN", "server.viewer_token"),
    ("DATABASE_URL", "store.url"),
];

/// Returns the variable with a short name that sets `key`.
pub(super) fn short_name(key: &str) -> Option<&'static str> {
    SHORT_NAMES.iter().find(|(_, of)| *of == key).map(|(name, _)| *name)
}

/// Returns the environment of the process. White space around values is removed, because Kubernetes secrets often end
/// in a line break. A value that is not Unicode is decoded lossily, so that the check of its key can report it.
pub fn environment() -> HashMap<String, String> {
    std::env::vars_os()
        .filter_map(|(name, value)| {
            Some((name.into_string().ok()?, trim(&value.to_string_lossy()).to_owned()))
        })
        .collect()
}

/// Returns the environment of a program that sets some keys itself. `own` names them by their short variables, each
/// with a value, or `None` for the default. Every other variable that sets one of these keys is removed, including
/// those for a list or a file.
pub fn with_own(
    environment: HashMap<String, String>,
    own: &[(&str, Option<String>)],
) -> HashMap<String, String> {
    let key_of = |short: &str| SHORT_NAMES.iter().find(|(name, _)| *name == short);
    let keys = own.iter().filter_map(|(short, _)| key_of(short));
    let names: Vec<String> = keys
        .flat_map(|(short, key)| [(*short).to_owned(), long_name(key)])
        .flat_map(|name| [format!("{name}_FILE"), format!("{name}S"), name])
        .collect();
    let is_own = |name: &str| names.iter().any(|own| own.eq_ignore_ascii_case(name));
    let others = environment.into_iter().filter(|(name, _)| !is_own(name));
    let own = own.iter().filter_map(|(name, value)| Some(((*name).to_owned(), value.clone()?)));
    others.chain(own).collect()
}

/// Returns the variable that addresses `key`.
pub fn long_name(key: &str) -> String {
    format!("{PREFIX}__{}", key.replace('.', "__").to_uppercase())
}

/// Returns whether a variable sets a key.
pub(super) fn is_ours(name: &str) -> bool {
    name.starts_with(&format!("{PREFIX}__"))
        || SHORT_NAMES.iter().any(|(short, _)| {
            name == *short || name.strip_suffix("_FILE").is_some_and(|stem| stem == *short)
        })
}

/// Removes white space and byte order marks at both ends.
pub(super) fn trim(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || c == '\u{feff}')
}

/// Returns the point at which the process crashes itself, for tests. Only debug builds do so.
pub fn crash_at() -> Option<String> {
    environment().remove("SEGMENT_LOOPS_CRASH_AT")
}

/// What systemd tells a service of type `notify`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Supervisor {
    /// Where systemd listens: a path, or `@` and a name.
    pub socket: String,
    /// How long the service may be silent before it is restarted; `None` if there is no limit.
    pub watchdog: Option<Duration>,
}

/// Returns the supervisor that this process must notify, if there is one.
pub fn supervisor() -> Option<Supervisor> {
    supervisor_in(environment(), std::process::id())
}

fn supervisor_in(mut environment: HashMap<String, String>, process: u32) -> Option<Supervisor> {
    let socket = environment.remove("NOTIFY_SOCKET").filter(|socket| !socket.is_empty())?;
    // A process inherits these variables from a parent with a watchdog of its own.
    let is_ours = environment.get("WATCHDOG_PID").is_none_or(|id| *id == process.to_string());
    let watchdog = environment.get("WATCHDOG_USEC").filter(|_| is_ours);
    let watchdog = watchdog.and_then(|micros| micros.parse().ok()).filter(|micros| *micros > 0);
    Some(Supervisor { socket, watchdog: watchdog.map(Duration::from_micros) })
}

/// Reads OpenTelemetry's variables for traces. They are not ours, and a platform may set them for everything that it
/// runs. So a value that cannot be used turns traces off instead of preventing the start. An empty value counts as
/// none.
pub fn traces() -> TracesConfig {
    traces_in(&environment())
}

fn traces_in(environment: &HashMap<String, String>) -> TracesConfig {
    let get =
        |name: &str| environment.get(name).map(String::as_str).filter(|value| !value.is_empty());
    let mut config =
        TracesConfig { endpoint: None, sampling: Sampling::default(), problems: Vec::new() };
    let of_traces = get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT").map(str::to_owned);
    let endpoint = of_traces.or_else(|| {
        let base = get("OTEL_EXPORTER_OTLP_ENDPOINT")?;
        Some(format!("{}/v1/traces", base.trim_end_matches('/')))
    });
    let is_disabled =
        get("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let exporter = get("OTEL_TRACES_EXPORTER").unwrap_or("otlp");
    let Some(endpoint) = endpoint.filter(|_| !is_disabled && exporter != "none") else {
        return config;
    };
    if exporter != "otlp" {
        let problem = format!(
            "traces are off: OTEL_TRACES_EXPORTER is `{exporter}`: allowed are otlp and none"
        );
        config.problems.push(problem);
        return config;
    }
    let protocols = ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"];
    let protocol = protocols.iter().find_map(|name| Some((*name, get(name)?)));
    if let Some((name, protocol)) = protocol.filter(|(_, protocol)| *protocol != OTLP_PROTOCOL) {
        config.problems.push(format!(
            "traces are off: {name} is `{protocol}`: set it to {OTLP_PROTOCOL}, the only one that is supported, and the endpoint to the collector's port for it (4318 where nothing else is configured)"
        ));
        return config;
    }
    let is_url = ["http://", "https://"].iter().any(|scheme| {
        endpoint.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/'))
    });
    if !is_url {
        let problem = "traces are off: OTEL_EXPORTER_OTLP_ENDPOINT is not a URL: use one such as http://localhost:4318";
        config.problems.push(problem.to_owned());
        return config;
    }
    config.endpoint = Some(endpoint);
    if let Some(name) = get("OTEL_TRACES_SAMPLER") {
        match Sampling::parse(name, get("OTEL_TRACES_SAMPLER_ARG")) {
            Ok(sampling) => config.sampling = sampling,
            Err(problem) => config.problems.push(format!("{problem}; using parentbased_always_on")),
        }
    }
    config
}

/// Returns the address at which `serve` would listen according to the environment alone; `None` if the environment sets
/// none.
pub fn listen_address() -> Option<SocketAddr> {
    let environment = environment();
    let given = environment.get(&long_name("server.listen"))?;
    given.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_program_sets_itself_wins_in_whatever_way_it_is_set() {
        let given = [
            "LOOPS_API_KEY",
            "LOOPS_API_KEY_FILE",
            "SEGMENT_LOOPS__DESTINATIONS__DEFAULT__API_KEY",
            "segment_loops__destinations__default__api_key_file",
            "SEGMENT_LOOPS__DESTINATIONS__OTHER__API_KEY",
            "SEGMENT_LOOPS__DESTINATIONS__DEFAULT__API_KEYS",
            "DATABASE_URL",
            "SEGMENT_LOOPS__STORE__URL",
            "VIEWER_TOKEN",
        ];
        let given = given.map(|name| (name.to_owned(), "given".to_owned())).into();
        let own = [("LOOPS_API_KEY", Some("own".to_owned())), ("DATABASE_URL", None)];
        let mut all: Vec<(String, String)> = with_own(given, &own).into_iter().collect();
        all.sort();
        let expected = [
            ("LOOPS_API_KEY", "own"),
            ("SEGMENT_LOOPS__DESTINATIONS__OTHER__API_KEY", "given"),
            ("VIEWER_TOKEN", "given"),
        ];
        assert_eq!(all, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn traces_are_exported_where_opentelemetrys_variables_say() {
        const BASE: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
        const OWN: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
        /// The variables, the endpoint, and whether a value cannot be used.
        type Case = (&'static [(&'static str, &'static str)], Option<&'static str>, bool);
        let cases: [Case; 15] = [
            (&[], None, false),
            (&[(BASE, "")], None, false),
            (&[(BASE, "http://c:4318")], Some("http://c:4318/v1/traces"), false),
            (&[(BASE, "https://c/otlp/")], Some("https://c/otlp/v1/traces"), false),
            (&[(OWN, "http://c/mine"), (BASE, "http://d")], Some("http://c/mine"), false),
            (&[(BASE, "http://c"), ("OTEL_SDK_DISABLED", "TRUE")], None, false),
            (&[(BASE, "http://c"), ("OTEL_SDK_DISABLED", "no")], Some("http://c/v1/traces"), false),
            (&[(BASE, "http://c"), ("OTEL_TRACES_EXPORTER", "none")], None, false),
            (&[(BASE, "http://c"), ("OTEL_TRACES_EXPORTER", "console")], None, true),
            (&[(BASE, "http://c:4317"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")], None, true),
            (
                &[
                    (BASE, "http://c"),
                    ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
                    ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf"),
                ],
                Some("http://c/v1/traces"),
                false,
            ),
            (&[(BASE, "collector:4318")], None, true),
            (&[(BASE, "http://")], None, true),
            (&[("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")], None, false),
            (
                &[(BASE, "http://c"), ("OTEL_TRACES_SAMPLER", "xray")],
                Some("http://c/v1/traces"),
                true,
            ),
        ];
        for (variables, endpoint, has_problem) in cases {
            let environment =
                variables.iter().map(|(name, value)| (name.to_string(), value.to_string()));
            let config = traces_in(&environment.collect());
            assert_eq!(config.endpoint.as_deref(), endpoint, "{variables:?}");
            assert_eq!(config.sampling, Sampling::default(), "{variables:?}");
            assert_eq!(!config.problems.is_empty(), has_problem, "{variables:?} {config:?}");
        }
    }

    #[test]
    fn a_supervisor_is_notified_where_it_says_and_watches_whom_it_names() {
        let cases = [
            (vec![], None),
            (vec![("NOTIFY_SOCKET", "")], None),
            (vec![("NOTIFY_SOCKET", "/run/x")], Some(None)),
            (vec![("NOTIFY_SOCKET", "/run/x"), ("WATCHDOG_USEC", "30000000")], Some(Some(30))),
            (
                vec![
                    ("NOTIFY_SOCKET", "/run/x"),
                    ("WATCHDOG_USEC", "30000000"),
                    ("WATCHDOG_PID", "7"),
                ],
                Some(Some(30)),
            ),
            (
                vec![
                    ("NOTIFY_SOCKET", "/run/x"),
                    ("WATCHDOG_USEC", "30000000"),
                    ("WATCHDOG_PID", "8"),
                ],
                Some(None),
            ),
            (vec![("NOTIFY_SOCKET", "/run/x"), ("WATCHDOG_USEC", "0")], Some(None)),
            (vec![("NOTIFY_SOCKET", "/run/x"), ("WATCHDOG_USEC", "soon")], Some(None)),
        ];
        for (variables, expected) in cases {
            let environment =
                variables.iter().map(|(name, value)| (name.to_string(), value.to_string()));
            let found = supervisor_in(environment.collect(), 7);
            let expected = expected.map(|watchdog: Option<u64>| Supervisor {
                socket: "/run/x".to_owned(),
                watchdog: watchdog.map(Duration::from_secs),
            });
            assert_eq!(found, expected, "{variables:?}");
        }
    }
}
