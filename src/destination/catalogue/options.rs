//! What is done with what the catalogue shows.

use std::time::Duration;

/// What happens to a contact property that Loops does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UnknownProperties {
    /// It is sent, with a warning.
    #[default]
    Warn,
    /// It is sent.
    Send,
    /// It is left out.
    Omit,
    /// The delivery fails.
    Fail,
    /// It is created at Loops first.
    Create,
}

/// What happens to a contact property whose value is not of its type at Loops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WrongTypes {
    /// It is sent, with a warning.
    #[default]
    Warn,
    /// It is converted if its meaning stays the same, and sent otherwise.
    Coerce,
    /// It is left out.
    Omit,
}

/// What is done with what the catalogue shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CatalogueOptions {
    /// How often the catalogue is read; zero: never.
    pub refresh: Duration,
    /// What happens to a contact property that Loops does not have.
    pub unknown_properties: UnknownProperties,
    /// What happens to a contact property whose value is not of its type at Loops.
    pub wrong_types: WrongTypes,
}

impl UnknownProperties {
    /// Its name in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            UnknownProperties::Warn => "warn",
            UnknownProperties::Send => "send",
            UnknownProperties::Omit => "omit",
            UnknownProperties::Fail => "fail",
            UnknownProperties::Create => "create",
        }
    }

    /// Reads its name.
    pub fn parse(text: &str) -> Option<Self> {
        let all = [Self::Warn, Self::Send, Self::Omit, Self::Fail, Self::Create];
        all.into_iter().find(|one| one.as_str() == text)
    }
}

impl WrongTypes {
    /// Its name in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            WrongTypes::Warn => "warn",
            WrongTypes::Coerce => "coerce",
            WrongTypes::Omit => "omit",
        }
    }

    /// Reads its name.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Warn, Self::Coerce, Self::Omit].into_iter().find(|one| one.as_str() == text)
    }
}
