//! `GET /api/tallies`: counts by minute or hour.

use axum::Json;
use axum::extract::State;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use utoipa::IntoParams;

use super::errors::{AdminErrors, StoreErrors};
use crate::console::query::{Query, bad_query};
use crate::console::state::{AdminState, store_fault};
use crate::console::values::TimeOrAgo;
use crate::console::view::{Tallies, Tally};
use crate::http::error::{ApiError, ErrorBody};
use crate::queue::TallyStep;

/// The query of `GET /api/tallies`.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct TalliesQuery {
    /// The length of the intervals; by default `hour`.
    step: Option<TallyStep>,
    /// The first interval is the one that contains this time: a time, a day in UTC, or how long ago (`90m`,
    /// `12h`, `7d`). By default an hour ago for minutes, and a day ago for hours.
    #[param(value_type = Option<String>, example = "2026-01-02")]
    from: Option<TimeOrAgo>,
    /// Only intervals that began before this time, written in the same way.
    #[param(value_type = Option<String>, example = "2026-01-03")]
    to: Option<TimeOrAgo>,
}

/// Counts of messages and deliveries by minute or hour.
///
/// Each count is written in the transaction that makes it true. For whole messages, `received` + `replayed` = pending
/// + `unmatched` + `delivered` + `shadowed` + `failed`. Minutes are kept for 48 hours, hours as long as records.
#[utoipa::path(
    get,
    path = "/api/tallies",
    tag = "Administration",
    operation_id = "tallies",
    params(TalliesQuery),
    responses(
        (status = 200, description = "The counts.", body = Tallies),
        (status = 400, description = "A parameter is unknown or wrong, or `from` is not before `to`.", body = ErrorBody),
        AdminErrors,
        StoreErrors
    ),
    security(("adminToken" = []))
)]
pub(super) async fn tallies(
    State(state): State<AdminState>,
    Query(query, ..): Query<TalliesQuery>,
) -> Result<Json<Tallies>, ApiError> {
    let (step, from, to) = query.range(state.clock.now())?;
    let tallies = state.store.tallies(step, from, to).await.map_err(store_fault)?;
    Ok(Json(Tallies { step, tallies: tallies.into_iter().map(Tally::from).collect() }))
}

impl TalliesQuery {
    /// Returns the length of the intervals, the beginning of the first one, and the time before which they began.
    fn range(self, now: Timestamp) -> Result<(TallyStep, Timestamp, Timestamp), ApiError> {
        let step = self.step.unwrap_or(TallyStep::Hour);
        let back = TimeOrAgo::Ago(SignedDuration::from_hours(match step {
            TallyStep::Minute => 1,
            TallyStep::Hour => 24,
        }));
        let from = self.from.unwrap_or(back).at(now);
        let to = self.to.map_or(Timestamp::MAX, |to| to.at(now));
        if from >= to {
            return Err(bad_query("`from` must be before `to`"));
        }
        let from_ms = from.as_millisecond();
        let began = Timestamp::from_millisecond(from_ms - from_ms.rem_euclid(step.ms()));
        Ok((step, began.unwrap_or(Timestamp::MIN), to))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_range_begins_with_the_interval_of_its_first_moment() {
        let now: Timestamp = "2026-11-02T12:34:56Z".parse().unwrap();
        let parse = |query: &str| {
            let uri = format!("/api/tallies?{query}").parse().unwrap();
            Query::<TalliesQuery>::of(&uri)?.0.range(now)
        };
        let end = Timestamp::MAX;
        for (query, step, from, to) in [
            ("", TallyStep::Hour, "2026-11-01T12:00:00Z", end),
            ("step=minute", TallyStep::Minute, "2026-11-02T11:34:00Z", end),
            ("step=minute&from=90s&to=0s", TallyStep::Minute, "2026-11-02T12:33:00Z", now),
            ("from=2026-11-01", TallyStep::Hour, "2026-11-01T00:00:00Z", end),
        ] {
            assert_eq!(parse(query), Ok((step, from.parse().unwrap(), to)), "{query}");
        }
        for (query, named) in [
            ("step=day", "`step` must be one of minute, hour"),
            ("from=soon", "`from` must be a time"),
            ("from=1h&to=2h", "`from` must be before `to`"),
            ("to=2d", "`from` must be before `to`"),
        ] {
            let error = parse(query).unwrap_err();
            assert!(error.message.contains(named), "{query}: {}", error.message);
        }
        assert!(parse("from=-009999-01-02T01:59:59Z").is_ok(), "no time is too early");
    }
}
