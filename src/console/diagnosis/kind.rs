//! The closed list of diagnoses, each with its next step.

use jiff::Timestamp;

/// The possible diagnoses, worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiagnosisCode {
    StoreDown,
    StoreFull,
    KeyRefused,
    WrongBaseUrl,
    NobodyDelivers,
    UnknownDestination,
    LoopsDown,
    SpaceLow,
    Rejecting,
    Failing,
    Limited,
    Behind,
    Held,
    SomeFailed,
    MostlyUnmatched,
    NothingYet,
    Quiet,
    Shadow,
    AllWell,
}

impl DiagnosisCode {
    /// All codes, in the order in which they are checked.
    pub const ALL: [DiagnosisCode; 19] = [
        DiagnosisCode::StoreDown,
        DiagnosisCode::StoreFull,
        DiagnosisCode::KeyRefused,
        DiagnosisCode::WrongBaseUrl,
        DiagnosisCode::NobodyDelivers,
        DiagnosisCode::UnknownDestination,
        DiagnosisCode::LoopsDown,
        DiagnosisCode::SpaceLow,
        DiagnosisCode::Rejecting,
        DiagnosisCode::Failing,
        DiagnosisCode::Limited,
        DiagnosisCode::Behind,
        DiagnosisCode::Held,
        DiagnosisCode::SomeFailed,
        DiagnosisCode::MostlyUnmatched,
        DiagnosisCode::NothingYet,
        DiagnosisCode::Quiet,
        DiagnosisCode::Shadow,
        DiagnosisCode::AllWell,
    ];

    /// Returns the code as the API shows it.
    pub fn as_str(self) -> &'static str {
        match self {
            DiagnosisCode::StoreDown => "store_down",
            DiagnosisCode::StoreFull => "store_full",
            DiagnosisCode::KeyRefused => "key_refused",
            DiagnosisCode::WrongBaseUrl => "wrong_base_url",
            DiagnosisCode::NobodyDelivers => "nobody_delivers",
            DiagnosisCode::UnknownDestination => "unknown_destination",
            DiagnosisCode::LoopsDown => "loops_down",
            DiagnosisCode::SpaceLow => "space_low",
            DiagnosisCode::Rejecting => "rejecting",
            DiagnosisCode::Failing => "failing",
            DiagnosisCode::Limited => "limited",
            DiagnosisCode::Behind => "behind",
            DiagnosisCode::Held => "held",
            DiagnosisCode::SomeFailed => "some_failed",
            DiagnosisCode::MostlyUnmatched => "mostly_unmatched",
            DiagnosisCode::NothingYet => "nothing_yet",
            DiagnosisCode::Quiet => "quiet",
            DiagnosisCode::Shadow => "shadow",
            DiagnosisCode::AllWell => "all_well",
        }
    }

    /// What to do next; empty if nothing is to be done.
    pub fn next_step(self) -> &'static str {
        match self {
            DiagnosisCode::StoreDown => {
                "Read the error in the log. Senders are asked to retry; do not restart anything before the store works."
            }
            DiagnosisCode::StoreFull => {
                "Make room on the disk of the data folder, or read the error in the log."
            }
            DiagnosisCode::KeyRefused => {
                "Set the right API key and restart, or enable the key in Loops. What waits is then delivered."
            }
            DiagnosisCode::WrongBaseUrl => {
                "Set `base_url` to a URL that ends in /v1 and restart. What waits is then delivered."
            }
            DiagnosisCode::NobodyDelivers => {
                "Start a process with this destination in its configuration. A lease whose holder died is taken over within seconds."
            }
            DiagnosisCode::UnknownDestination => {
                "Give the destination its name back in the configuration and restart; its messages are then delivered."
            }
            DiagnosisCode::LoopsDown => {
                "Nothing, if Loops is down: everything is retried for a day. Otherwise check base_url, DNS and the firewall."
            }
            DiagnosisCode::SpaceLow => "Make room on the disk, or lower store.free_bytes_min.",
            DiagnosisCode::Rejecting => {
                "See the code of the rejections under Sources, and fix the sender."
            }
            DiagnosisCode::Failing | DiagnosisCode::SomeFailed => {
                "Look at the causes, fix the most frequent one, then replay."
            }
            DiagnosisCode::Limited => {
                "Nothing, if this ends soon. Otherwise something else uses the rate of the same Loops team."
            }
            DiagnosisCode::Behind => "Nothing: messages are delivered as fast as Loops allows.",
            DiagnosisCode::Held => {
                "Release more new contacts below, or raise new_contacts_per_day and reload. Otherwise they are sent when the day ends (UTC)."
            }
            DiagnosisCode::MostlyUnmatched => {
                "Nothing, if these are messages such as page views, for which nothing is to be sent. Otherwise change a trigger, reload and replay them."
            }
            DiagnosisCode::NothingYet => "Send a first message.",
            DiagnosisCode::Quiet => "Check the senders, if there should be messages.",
            DiagnosisCode::Shadow => {
                "Compare it with what Loops holds: `segment-loops drift`. To send, set mode = \"live\" and reload."
            }
            DiagnosisCode::AllWell => "",
        }
    }

    /// The row of the table “At 3 a.m.” in docs/runbook.md that helps.
    pub fn runbook(self) -> Option<&'static str> {
        Some(match self {
            DiagnosisCode::StoreDown | DiagnosisCode::StoreFull => "messages cannot be stored",
            DiagnosisCode::KeyRefused => "Loops refuses the API key",
            DiagnosisCode::WrongBaseUrl => "there is no Loops at base_url",
            DiagnosisCode::NobodyDelivers => "no process delivers",
            DiagnosisCode::UnknownDestination => "a destination that is not configured",
            DiagnosisCode::LoopsDown => "Loops cannot be reached",
            DiagnosisCode::SpaceLow => "little free space",
            DiagnosisCode::Rejecting => "rejected",
            DiagnosisCode::Failing | DiagnosisCode::SomeFailed => "outcome: refused",
            DiagnosisCode::MostlyUnmatched => "unmatched lines",
            DiagnosisCode::Limited => "outcome: limited",
            DiagnosisCode::Behind => "older than a minute",
            DiagnosisCode::Held => "messages are held",
            DiagnosisCode::NothingYet
            | DiagnosisCode::Quiet
            | DiagnosisCode::Shadow
            | DiagnosisCode::AllWell => return None,
        })
    }
}

/// The state of the service.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Diagnosis {
    /// The state, for programs.
    pub code: DiagnosisCode,
    /// The state, in a sentence.
    #[schema(
        example = "Loops refuses the API key of `default`; nothing is lost; 1,204 messages wait."
    )]
    pub sentence: String,
    /// Since when, if that is known.
    #[schema(required, value_type = Option<String>, format = DateTime)]
    pub since: Option<Timestamp>,
    /// What to do next; empty if nothing is to be done.
    pub next_step: &'static str,
    /// The row of the table “At 3 a.m.” in docs/runbook.md that helps.
    #[schema(required)]
    pub runbook: Option<&'static str>,
}

impl Diagnosis {
    pub(super) fn new(
        code: DiagnosisCode,
        sentence: impl Into<String>,
        since: Option<Timestamp>,
    ) -> Self {
        let (next_step, runbook) = (code.next_step(), code.runbook());
        Self { code, sentence: sentence.into(), since, next_step, runbook }
    }

    /// Returns the diagnosis for a store that cannot be read.
    pub(in crate::console) fn store_down() -> Self {
        let sentence =
            "The store does not answer: nothing is accepted, and senders are asked to retry.";
        Self::new(DiagnosisCode::StoreDown, sentence, None)
    }
}
