//! The query of a request, read so that each error names its parameter.

use axum::extract::Query;
use axum::http::Uri;

use crate::http::error::ApiError;

/// The parameters of a query. Each is one of the known names, and is given once.
pub(super) struct Parameters(Vec<(String, String)>);

impl Parameters {
    /// Reads the query of a request whose parameters have these names.
    pub(super) fn of(uri: &Uri, known: &[&str]) -> Result<Self, ApiError> {
        let Ok(Query(mut given)) = Query::<Vec<(String, String)>>::try_from_uri(uri) else {
            return Err(bad_query("the query is not written as name=value&name=value"));
        };
        if given.iter().any(|(name, _)| !known.contains(&name.as_str())) {
            // The unknown name is not repeated: it may be what should have been the value.
            let known = known.join(", ");
            return Err(bad_query(format!("a parameter is unknown: allowed are {known}")));
        }
        given.sort();
        match given.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            Some(pair) => Err(bad_query(format!("`{}` is given more than once", pair[0].0))),
            None => Ok(Self(given)),
        }
    }

    /// The value of a parameter, if it is given.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(given, _)| given == name).map(|(_, value)| value.as_str())
    }
}

/// The answer to a query with an error.
pub(super) fn bad_query(message: impl Into<String>) -> ApiError {
    ApiError::bad_request("bad_query", message)
}
