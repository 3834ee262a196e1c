//! The receipts of erasures: a list, and one of them.

use askama::Template;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use axum::response::Response;

use super::frame::Frame;
use super::parts::{Time, only_for_admins};
use super::render::{error_page, html};
use crate::console::erasures::{ErasedHere, Erasure, ErasureState};
use crate::console::numbers::count;
use crate::console::query::{Parameters, bad_query};
use crate::console::state::{AdminState, store_fault};
use crate::http::error::ApiError;
use crate::queue::{Receipt, ReceiptFilter};

/// How many receipts a page shows.
const RECEIPTS_MAX: u32 = 50;

#[derive(Template)]
#[template(path = "erasures.html")]
struct ErasuresPage {
    frame: Frame,
    rows: Vec<Row>,
    /// Where the list continues.
    next: Option<i64>,
    is_open_only: bool,
}

/// A receipt in the list.
struct Row {
    id: String,
    asked_at: Time,
    destination: String,
    person: String,
    outcome: String,
}

#[derive(Template)]
#[template(path = "erasure.html")]
struct ErasurePage {
    frame: Frame,
    outcome: String,
    erasure: Erasure,
    erased: String,
    /// The receipt as the API returns it.
    json: String,
}

/// Lists the receipts.
pub(super) async fn list(State(state): State<AdminState>, frame: Frame, uri: Uri) -> Response {
    match read_list(&state, frame.clone(), &uri).await {
        Ok(page) => html(StatusCode::OK, &page),
        Err(error) => error_page(frame, &error),
    }
}

/// Shows a receipt.
pub(super) async fn page(
    State(state): State<AdminState>,
    frame: Frame,
    id: Result<Path<String>, PathRejection>,
) -> Response {
    let id = id.map(|Path(id)| id).unwrap_or_default();
    match read(&state, frame.clone(), &id).await {
        Ok(page) => html(StatusCode::OK, &page),
        Err(error) => error_page(frame, &error),
    }
}

async fn read_list(state: &AdminState, frame: Frame, uri: &Uri) -> Result<ErasuresPage, ApiError> {
    if !frame.is_admin {
        return Err(only_for_admins());
    }
    let given = Parameters::of(uri, &["before", "state"])?;
    let is_open_only = given.get("state") == Some("open");
    let before = given.get("before").map(str::parse).transpose();
    let before = before.map_err(|_| bad_query("`before` must be a whole number"))?;
    let filter = ReceiptFilter { destination: None, is_open: is_open_only.then_some(true), before };
    let found = state.store.receipts(&filter, RECEIPTS_MAX).await.map_err(store_fault)?;
    let is_full = found.len() >= RECEIPTS_MAX as usize;
    let next = found.last().filter(|_| is_full).map(|receipt| receipt.number);
    let rows = found.into_iter().map(|receipt| {
        let erasure = shown(state, receipt);
        Row {
            outcome: outcome(&erasure),
            id: erasure.id,
            asked_at: Time(erasure.asked_at),
            destination: erasure.destination,
            person: erasure.person,
        }
    });
    Ok(ErasuresPage { rows: rows.collect(), next, is_open_only, frame })
}

async fn read(state: &AdminState, frame: Frame, id: &str) -> Result<ErasurePage, ApiError> {
    if !frame.is_admin {
        return Err(only_for_admins());
    }
    let found = state.store.receipt(id).await.map_err(store_fault)?;
    let Some(found) = found else {
        let text = "There is no receipt with this id. They are removed after 400 days.";
        return Err(ApiError::new(StatusCode::NOT_FOUND, "unknown_erasure", text));
    };
    let erasure = shown(state, found);
    let ErasedHere { messages, feedback, contacts, opt_outs, .. } = &erasure.erased;
    let erased = format!(
        "{}, {}, {}, {}",
        counted(*messages, "message"),
        counted(*feedback, "event of Loops"),
        counted(*contacts, "record of the contact"),
        counted(*opt_outs, "record of leaving"),
    );
    let json = serde_json::to_value(&erasure).map(|json| format!("{json:#}")).unwrap_or_default();
    Ok(ErasurePage { outcome: outcome(&erasure), erased, json, erasure, frame })
}

fn counted(number: u64, what: &str) -> String {
    match what.split_once(' ') {
        Some((what, rest)) => format!("{} {rest}", count_of(number, what)),
        None => count_of(number, what),
    }
}

fn count_of(number: u64, what: &str) -> String {
    count(usize::try_from(number).unwrap_or(usize::MAX), what)
}

fn shown(state: &AdminState, receipt: Receipt) -> Erasure {
    Erasure::new(receipt, state.store.write_ahead_log(), &state.store.digests())
}

/// Says how far an erasure has come.
fn outcome(erasure: &Erasure) -> String {
    let at_loops = &erasure.at_loops;
    match (erasure.state, at_loops.deleted_at, &at_loops.problem) {
        (ErasureState::Erased, Some(_), _) => "Deleted at Loops and erased here.".to_owned(),
        (ErasureState::Erased, None, _) => "Erased here by a later deletion.".to_owned(),
        (ErasureState::Open, Some(_), _) => "Deleted at Loops; it is being erased here.".to_owned(),
        (ErasureState::Open, None, Some(problem)) => {
            let status = at_loops.status.map(|status| format!(", status {status}"));
            format!(
                "Nothing was erased: Loops has not deleted the contact ({problem}{}).",
                status.unwrap_or_default()
            )
        }
        (ErasureState::Open, None, None) => "It waits for its turn to be sent to Loops.".to_owned(),
    }
}
