//! The parts of a queue, their rows, and the progress of a move.

/// The parts of a queue, in the order in which they are copied. Each has a statement that reads its rows from the
/// source, and statements that write them to the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::store) enum Part {
    Streams,
    EventNames,
    Tallies,
    Messages,
    Deliveries,
    Requests,
    Attempts,
    Replays,
    Deletions,
    Erasures,
    LoopsEvents,
    Audit,
    Contacts,
    OptOuts,
    Receipts,
    Held,
    Creating,
    NewContactDays,
    Awaiting,
}

impl Part {
    pub(in crate::store) const ALL: [Part; 19] = [
        Part::Streams,
        Part::EventNames,
        Part::Tallies,
        Part::Messages,
        Part::Deliveries,
        Part::Requests,
        Part::Attempts,
        Part::Replays,
        Part::Deletions,
        Part::Erasures,
        Part::LoopsEvents,
        Part::Audit,
        Part::Contacts,
        Part::OptOuts,
        Part::Receipts,
        Part::Held,
        Part::Creating,
        Part::NewContactDays,
        Part::Awaiting,
    ];

    pub(in crate::store) fn index(self) -> i32 {
        self as i32
    }

    /// The source's table with the rows of this part.
    pub(in crate::store) fn table(self) -> &'static str {
        match self {
            Part::Streams => "moved_streams",
            Part::EventNames => "event_names",
            Part::Tallies => "tallies",
            Part::Messages => "messages",
            Part::Deliveries => "deliveries",
            Part::Requests => "requests",
            Part::Attempts => "attempts",
            Part::Replays => "replays",
            Part::Deletions => "deletions",
            Part::Erasures => "erasures",
            Part::LoopsEvents => "loops_events",
            Part::Audit => "audit",
            Part::Contacts => "contacts",
            Part::OptOuts => "opt_outs",
            Part::Receipts => "receipts",
            Part::Held => "held",
            Part::Creating => "creating",
            Part::NewContactDays => "new_contact_days",
            Part::Awaiting => "awaiting",
        }
    }
}

/// The progress of a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::store) struct Cursor {
    /// The index of the current part. All parts before it are copied.
    pub(in crate::store) part: i32,
    /// The key of the last copied row of that part.
    pub(in crate::store) through: i64,
    /// How many rows are copied in total.
    pub(in crate::store) rows: i64,
}

impl Cursor {
    pub(in crate::store) fn is_at_end(self) -> bool {
        self.part as usize >= Part::ALL.len()
    }
}

/// Some rows of one part, by column.
#[derive(Debug)]
pub(in crate::store) struct Batch {
    pub(in crate::store) part: Part,
    pub(in crate::store) columns: Vec<Column>,
    /// The progress once these rows are written.
    pub(in crate::store) cursor: Cursor,
}

/// The values of a column.
#[derive(Debug)]
pub(in crate::store) enum Column {
    Numbers(Vec<Option<i64>>),
    Texts(Vec<Option<String>>),
    Bytes(Vec<Option<Vec<u8>>>),
}
