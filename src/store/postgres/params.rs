//! Typed parameters of statements.
//!
//! Statements are sent unnamed, with the types of their parameters, in one round trip. So a pooler that gives each
//! transaction another server connection has no prepared statement to track.

use std::borrow::Cow;

use tokio_postgres::types::{ToSql, Type};

/// A parameter and its type.
pub(super) type Param<'a> = (&'a (dyn ToSql + Sync), Type);

/// The database type of a Rust type.
pub(super) trait SqlType: ToSql + Sync {
    /// The type of a single value.
    const TYPE: Type;
    /// The type of an array of such values.
    const ARRAY: Type;
}

macro_rules! sql_types {
    ($($rust:ty => $type:ident, $array:ident;)+) => {
        $(impl SqlType for $rust {
            const TYPE: Type = Type::$type;
            const ARRAY: Type = Type::$array;
        })+
    };
}

sql_types! {
    bool => BOOL, BOOL_ARRAY;
    i16 => INT2, INT2_ARRAY;
    i32 => INT4, INT4_ARRAY;
    i64 => INT8, INT8_ARRAY;
    &str => TEXT, TEXT_ARRAY;
    String => TEXT, TEXT_ARRAY;
    Cow<'_, str> => TEXT, TEXT_ARRAY;
    &[u8] => BYTEA, BYTEA_ARRAY;
    Vec<u8> => BYTEA, BYTEA_ARRAY;
}

impl<T: SqlType> SqlType for Option<T> {
    const TYPE: Type = T::TYPE;
    const ARRAY: Type = T::ARRAY;
}

/// A parameter: a single value or, for a vector, an array.
pub(super) trait AsParam {
    fn as_param(&self) -> Param<'_>;
}

impl<T: SqlType> AsParam for T {
    fn as_param(&self) -> Param<'_> {
        (self, T::TYPE)
    }
}

/// An array.
#[derive(Debug)]
pub(super) struct Array<T>(pub(super) Vec<T>);

impl<T: SqlType> AsParam for Array<T> {
    fn as_param(&self) -> Param<'_> {
        (&self.0, T::ARRAY)
    }
}

/// An array of strings, or NULL.
impl AsParam for Option<Vec<String>> {
    fn as_param(&self) -> Param<'_> {
        (self, String::ARRAY)
    }
}

impl<T> FromIterator<T> for Array<T> {
    fn from_iter<I: IntoIterator<Item = T>>(values: I) -> Self {
        Array(values.into_iter().collect())
    }
}

/// The parameters of a statement, `$1` first.
macro_rules! params {
    ($($value:expr),* $(,)?) => {
        &[$($crate::store::postgres::params::AsParam::as_param(&$value)),*]
    };
}
pub(super) use params;

/// Returns the stored form of a string. PostgreSQL's strings cannot hold U+0000, which is replaced by the symbol for
/// it.
pub(super) fn text(text: &str) -> Cow<'_, str> {
    if text.contains('\0') {
        Cow::Owned(text.replace('\0', "\u{2400}"))
    } else {
        Cow::Borrowed(text)
    }
}
