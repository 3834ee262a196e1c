//! The metrics: the name of each, its kind and what it counts, and the bounds of the histograms.

/// Defines the metrics. The comment of each is also its help text at `/metrics`; a histogram has bounds.
macro_rules! table {
    ($($(#[doc = $help:literal])+ $kind:ident $constant:ident = $name:literal $(in $bounds:ident)?;)+) => {
        $($(#[doc = $help])+ pub const $constant: &str = $name;)+

        /// The bounds of each histogram.
        pub(super) const BOUNDS: &[(&str, &[f64])] = &[$($(($constant, &$bounds),)?)+];

        /// Tells the recorder the kind and the help text of each metric.
        pub(super) fn describe() {
            $(describe!($kind $constant, concat!($($help),+).trim_ascii_start());)+
        }
    };
}

macro_rules! describe {
    (counter $name:ident, $help:expr) => {
        ::metrics::describe_counter!($name, $help)
    };
    (gauge $name:ident, $help:expr) => {
        ::metrics::describe_gauge!($name, $help)
    };
    (histogram $name:ident, $help:expr) => {
        ::metrics::describe_histogram!($name, $help)
    };
}

/// Bounds of the histogram of requests to Loops, in seconds.
const LOOPS_SECONDS: [f64; 10] = [0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 5.0, 10.0, 30.0];

/// Bounds of the histogram of requests, in seconds, as in OpenTelemetry's conventions.
const HTTP_SECONDS: [f64; 14] =
    [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

/// Bounds of the histogram of the time until a message is delivered, in seconds: up to a day.
const DELIVERY_SECONDS_BOUNDS: [f64; 14] =
    [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 1_800.0, 7_200.0, 28_800.0, 86_400.0];

/// Bounds of the histogram of commits, in seconds.
const COMMIT_SECONDS: [f64; 12] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

/// Bounds of the histogram of groups, in messages.
const GROUP_MESSAGES: [f64; 10] = [1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1_000.0];

/// The values of `outcome` of [`FEEDBACK_FORWARDS`].
pub const FORWARD_OUTCOMES: [&str; 4] = ["handed_on", "failed", "given_up", "not_kept"];

table! {
    /// Duration of requests until their response began, in seconds, by `http_request_method`, `http_route` (`unknown`
    /// for a path that does not exist) and `http_response_status_code`.
    histogram HTTP_REQUEST_SECONDS = "http_server_request_duration_seconds" in HTTP_SECONDS;
    /// Requests that wait for their response, by `http_request_method`.
    gauge HTTP_ACTIVE = "http_server_active_requests";
    /// Messages accepted as new, by `source` and `type`.
    counter MESSAGES_ACCEPTED = "segment_loops_messages_accepted_total";
    /// Messages that had been accepted before, by `source` and `type`.
    counter MESSAGES_DUPLICATE = "segment_loops_messages_duplicate_total";
    /// When a message was last accepted, in seconds since 1970, by `source`; absent before the first message.
    gauge LAST_MESSAGE = "segment_loops_last_message_timestamp_seconds";
    /// After how long without a message a source counts as silent, in seconds, by `source`; 0: never.
    gauge SILENT_AFTER = "segment_loops_source_silent_after_seconds";
    /// Requests, and messages of batches, that were rejected, by `source` (empty if it is not known), `endpoint`
    /// (`unknown` for a path that does not exist) and `code`.
    counter REJECTED = "segment_loops_rejected_total";
    /// Open connections, by `listener` (`public`, `admin`).
    gauge CONNECTIONS_OPEN = "segment_loops_connections_open";
    /// Connections that were closed on purpose, by `listener` and `reason` (`address_connections_max`, `write_timeout`,
    /// `no_room`).
    counter CONNECTIONS_CUT = "segment_loops_connections_cut_total";
    /// Messages that no subscription took, by `destination` and `reason`.
    counter UNMATCHED = "segment_loops_unmatched_total";
    /// Deliveries from which a guard removed something, or that it kept from being sent, by `destination` and `guard`.
    counter GUARDED = "segment_loops_guarded_total";
    /// Replayed messages that were planned again, by `destination`.
    counter REPLAYED = "segment_loops_replayed_messages_total";
    /// Failed events that were replayed automatically because their contacts were created afterwards, by `destination`.
    counter REVIVED = "segment_loops_revived_total";
    /// Contacts that Loops was not known to have before it accepted a request for them, by `destination`.
    counter NEW_CONTACTS = "segment_loops_new_contacts_total";
    /// Requests that were not needed, by `destination` and how they were saved. Requests counted as `unchanged_would`
    /// were sent.
    counter REQUESTS_SAVED = "segment_loops_requests_saved_total";
    /// Age of the catalogue of properties, lists and events at Loops, in seconds, by `destination`.
    gauge CATALOGUE_AGE = "segment_loops_catalogue_age_seconds";
    /// Erasures of people that have not ended, by `destination`.
    gauge ERASURES_PENDING = "segment_loops_erasures_pending";
    /// Deliveries that ended, by `destination`, `action` and `outcome`.
    counter DELIVERIES = "segment_loops_deliveries_total";
    /// Requests to Loops, by `destination`, `endpoint` and `status`; status 0: no response.
    counter LOOPS_REQUESTS = "segment_loops_loops_requests_total";
    /// Duration of requests to Loops in seconds, by `destination`, `endpoint` and `status`.
    histogram LOOPS_REQUEST_SECONDS = "segment_loops_loops_request_duration_seconds" in LOOPS_SECONDS;
    /// Attempts at requests to Loops, by `destination` and `outcome`.
    counter ATTEMPTS = "segment_loops_attempts_total";
    /// Time from accepting a message until Loops accepted a request for it, in seconds, by `destination` and `class`;
    /// without replays.
    histogram DELIVERY_SECONDS = "segment_loops_delivery_latency_seconds" in DELIVERY_SECONDS_BOUNDS;
    /// Requests that wait for Loops' response, by `destination`.
    gauge REQUESTS_IN_FLIGHT = "segment_loops_requests_in_flight";
    /// Lanes whose first message waits for its next attempt, by `destination`.
    gauge LANES_RETRYING = "segment_loops_lanes_retrying";
    /// Pending messages, by `destination` and `class` (`event`, `live`, `bulk`).
    gauge QUEUE_DEPTH = "segment_loops_queue_depth_messages";
    /// Messages that are held because they would create too many contacts today, by `destination`, not counting
    /// messages that wait behind them.
    gauge HELD_MESSAGES = "segment_loops_held_messages";
    /// Age of the oldest pending message in seconds, by `destination` and `class`.
    gauge QUEUE_OLDEST_SECONDS = "segment_loops_queue_oldest_age_seconds";
    /// How long the pending messages of a class and of those before it take to be sent, in seconds, by `destination`
    /// and `class`: at the rate in force, with one request for each, without those that are held.
    gauge QUEUE_DRAIN_SECONDS = "segment_loops_queue_drain_seconds";
    /// Requests per second in force, by `destination`.
    gauge RATE_LIMIT = "segment_loops_rate_limit_requests_per_second";
    /// Requests per second that are allowed unless Loops slows us down, by `destination`.
    gauge RATE_LIMIT_MAX = "segment_loops_rate_limit_max_requests_per_second";
    /// 1 while a destination is paused because Loops refuses its key or there is no Loops at its base URL, otherwise 0,
    /// by `destination`.
    gauge DESTINATION_PAUSED = "segment_loops_destination_paused";
    /// 1 while messages can be stored, otherwise 0.
    gauge STORE_READY = "segment_loops_store_ready";
    /// Messages that are being stored: received or replayed ones whose transaction has not ended.
    gauge STORE_WAITING = "segment_loops_store_waiting_messages";
    /// Duration of transactions that write messages and outcomes, in seconds; with PostgreSQL, only of transactions
    /// that write messages.
    histogram STORE_COMMIT_SECONDS = "segment_loops_store_commit_seconds" in COMMIT_SECONDS;
    /// Messages that are accepted in one transaction.
    histogram STORE_GROUP_MESSAGES = "segment_loops_store_group_messages" in GROUP_MESSAGES;
    /// Free bytes for new messages on the disk of the database. Not with PostgreSQL.
    gauge STORE_FREE_BYTES = "segment_loops_store_free_bytes";
    /// Size of the disk of the database in bytes. Not with PostgreSQL.
    gauge STORE_DISK_BYTES = "segment_loops_store_disk_bytes";
    /// Size of the database file in bytes. Not with PostgreSQL.
    gauge STORE_BYTES = "segment_loops_store_bytes";
    /// Size of the write-ahead log of the database in bytes. Not with PostgreSQL.
    gauge STORE_LOG_BYTES = "segment_loops_store_wal_bytes";
    /// When the last backup of the database was made, in seconds since 1970; absent before the first backup. Not with
    /// PostgreSQL.
    gauge BACKUP_TIMESTAMP = "segment_loops_backup_timestamp_seconds";
    /// 1 if the last reload of the configuration succeeded or there was none, otherwise 0.
    gauge RELOAD_SUCCESSFUL = "segment_loops_config_last_reload_successful";
    /// When the configuration was last loaded without errors, in seconds since 1970.
    gauge RELOAD_TIMESTAMP = "segment_loops_config_last_reload_success_timestamp_seconds";
    /// Always 1, with the `version` and the `revision` of the source code (empty unless the build was given one).
    gauge BUILD_INFO = "segment_loops_build_info";
    /// When the process started, in seconds since 1970.
    gauge PROCESS_START = "process_start_time_seconds";
    /// Resident memory of the process in bytes.
    gauge PROCESS_MEMORY = "process_resident_memory_bytes";
    /// Processor time of the process in whole seconds.
    counter PROCESS_CPU = "process_cpu_seconds_total";
    /// Open files and connections of the process.
    gauge PROCESS_OPEN_FILES = "process_open_fds";
    /// The most files and connections that the system allows the process to open.
    gauge PROCESS_MAX_FILES = "process_max_fds";
    /// 1 while this process holds the lease of a destination, otherwise 0, by `destination`.
    gauge LEASE_HELD = "segment_loops_lease_held";
    /// How often this process took the lease of a destination, by `destination`.
    counter LEASE_CHANGES = "segment_loops_lease_changes_total";
    /// How often this process lost the lease of a destination that it had not given back, by `destination`.
    counter FENCED = "segment_loops_fenced_total";
    /// When Loops last reported something by its webhooks, in seconds since 1970, by `destination`; there is none
    /// before the first.
    gauge LAST_FEEDBACK = "segment_loops_last_feedback_timestamp_seconds";
    /// Events that Loops reported by its webhooks, by `destination` and `event` (`other` if this release does not know
    /// it).
    counter FEEDBACK = "segment_loops_feedback_total";
    /// Webhooks to hand on, by `destination` and `outcome`: `handed_on`, `failed` (will be tried again), `given_up`,
    /// `not_kept` (too many are waiting).
    counter FEEDBACK_FORWARDS = "segment_loops_feedback_forwards_total";
    /// Log lines that were dropped because too many were waiting to be written.
    counter LOG_LINES_DROPPED = "segment_loops_log_lines_dropped_total";
}
