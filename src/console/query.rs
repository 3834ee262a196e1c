//! Reads the query of a request, with errors that name the parameter.
//!
//! For an operation of the API, one struct says which parameters there are: its fields are read by [`Query`], and
//! described by `IntoParams`. Pages, which write their parameters into further links, keep [`Parameters`].

use axum::extract::FromRequestParts;
use axum::http::Uri;
use axum::http::request::Parts;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use utoipa::IntoParams;

use crate::http::error::ApiError;

/// The query of a request: the parameters of one struct, or of two. (`serde(flatten)` would lose the name of a wrong
/// parameter.) Each has a known name, is given once, and is not empty.
pub(super) struct Query<A, B = NoParameters>(pub(super) A, pub(super) B);

/// No parameters.
#[derive(Debug, Deserialize, IntoParams)]
pub(super) struct NoParameters {}

impl<A, B> Query<A, B>
where
    A: DeserializeOwned + IntoParams,
    B: DeserializeOwned + IntoParams,
{
    /// Reads the query of a URI.
    pub(super) fn of(uri: &Uri) -> Result<Self, ApiError> {
        let described = [A::into_params(|| None), B::into_params(|| None)].concat();
        let known: Vec<&str> = described.iter().map(|one| one.name.as_str()).collect();
        let given = Parameters::of(uri, &known)?;
        Ok(Self(given.read()?, given.read()?))
    }
}

impl<A, B, S> FromRequestParts<S> for Query<A, B>
where
    A: DeserializeOwned + IntoParams,
    B: DeserializeOwned + IntoParams,
    S: Sync,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        Self::of(&parts.uri)
    }
}

/// The parameters of a query. Each has a known name, and is given once.
pub(super) struct Parameters(Vec<(String, String)>);

impl Parameters {
    /// Reads the query of a request, whose parameters must be among `known`.
    pub(super) fn of(uri: &Uri, known: &[&str]) -> Result<Self, ApiError> {
        let given = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(uri);
        let Ok(axum::extract::Query(mut given)) = given else {
            return Err(bad_query("the query is not written as name=value&name=value"));
        };
        if given.iter().any(|(name, _)| !known.contains(&name.as_str())) {
            // The error does not repeat the unknown name, which may be a value in the wrong place.
            let known = known.join(", ");
            return Err(bad_query(format!("a parameter is unknown: allowed are {known}")));
        }
        given.sort();
        match given.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            Some(pair) => Err(bad_query(format!("`{}` is given more than once", pair[0].0))),
            None => Ok(Self(given)),
        }
    }

    /// Reads the query that a form sends, which includes its empty fields.
    pub(super) fn of_form(uri: &Uri, known: &[&str]) -> Result<Self, ApiError> {
        let Self(mut given) = Self::of(uri, known)?;
        given.retain(|(_, value)| !value.trim().is_empty());
        Ok(Self(given))
    }

    /// Reads the fields of a form that was posted.
    pub(super) fn of_pairs(
        given: impl IntoIterator<Item = (String, String)>,
        known: &[&str],
    ) -> Result<Self, ApiError> {
        let given: Vec<_> = given.into_iter().collect();
        match given.iter().all(|(name, _)| known.contains(&name.as_str())) {
            true => Ok(Self(given)),
            false => {
                Err(bad_query(format!("a field is unknown: allowed are {}", known.join(", "))))
            }
        }
    }

    /// Returns the parameters with one of the known names, except `but`.
    pub(super) fn only(&self, known: &[&str], but: &str) -> Self {
        let is_known = |name: &str| name != but && known.contains(&name);
        Self(self.0.iter().filter(|(name, _)| is_known(name)).cloned().collect())
    }

    /// Returns all parameters, in the order of their names.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Returns how many parameters are given.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns the value of a parameter, if it is given.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(given, _)| given == name).map(|(_, value)| value.as_str())
    }

    /// Reads a struct whose fields are parameters, and ignores other parameters. None of them may be empty.
    pub(super) fn read<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        let mut fields = Map::new();
        for (name, value) in self.pairs() {
            if value.trim().is_empty() {
                let message = format!("`{name}` is empty: give it a value, or leave it out");
                return Err(bad_query(message));
            }
            fields.entry(name).or_insert_with(|| Value::from(value));
        }
        // The errors of the values say what is allowed, and do not repeat what is given.
        serde_path_to_error::deserialize(Value::Object(fields))
            .map_err(|error| bad_query(format!("`{}` {}", error.path(), error.inner())))
    }
}

/// The error for a query that cannot be used.
pub(super) fn bad_query(message: impl Into<String>) -> ApiError {
    ApiError::bad_request("bad_query", message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::values::{Before, Limit};

    #[derive(Debug, Deserialize, IntoParams)]
    struct Page {
        #[serde(default)]
        limit: Limit,
        #[param(value_type = Option<i64>)]
        before: Option<Before>,
    }

    #[derive(Debug, Deserialize, IntoParams)]
    #[serde(rename_all = "camelCase")]
    struct Words {
        user_id: Option<String>,
    }

    #[test]
    fn each_parameter_is_known_given_once_and_not_empty() {
        let read = |query: &str| {
            let uri: Uri = format!("/api/messages?{query}").parse().unwrap();
            Query::<Words, Page>::of(&uri).map_err(|error| error.message)
        };
        let Ok(Query(words, page)) = read("before=7&userId=u+1&limit=2") else { panic!() };
        assert_eq!(words.user_id.as_deref(), Some("u 1"));
        assert_eq!((page.limit, page.before), (Limit(2), Some(Before(7))));
        for (query, message) in [
            ("user_id=grace", "a parameter is unknown: allowed are userId, limit, before"),
            ("limit=1&grace=1", "a parameter is unknown: allowed are userId, limit, before"),
            ("userId=grace&userId=grace", "`userId` is given more than once"),
            ("userId=+", "`userId` is empty: give it a value, or leave it out"),
            ("limit=", "`limit` is empty: give it a value, or leave it out"),
            ("limit=grace", "`limit` must be a whole number from 1 to 500"),
        ] {
            assert_eq!(read(query).err().as_deref(), Some(message), "{query}");
        }
    }
}
