//! The delivery engine: reads pending messages in order and sends their requests to Loops.
//!
//! Every process runs one [`Engine`] for each destination. The engine that holds the destination's lease delivers; the
//! others wait for it. Each order key has a lane, which takes one step at a time in the order of acceptance,
//! independently of other lanes. A step opens the lane's first message, plans it unless that is done, freezes its
//! requests on disk, makes one attempt and records it. No state in memory matters: after a crash, the queue alone
//! determines the next steps.
//!
//! The engine never decides by matching text, and knows no SQL and no HTTP beyond [`crate::loops`].
//!
//! | file | what it owns |
//! | --- | --- |
//! | `engine`, `lease`, `gauges`, `board` | taking the lease, and measuring while it is held |
//! | `tenure` | one lease: its tasks, and the loop that starts them |
//! | `reader`, `lanes` | which messages are known, and which message is next |
//! | `key_watch`, `pause`, `obstacle` | whether Loops accepts the key |
//! | `step`, `stepper` | one step: `planning` (`assembly`, `union`, `idempotency`), then `attempt` |
//! | `catalogue`, `wishes` | the properties, lists and events at Loops, and when they are read |
//! | `knowledge` | what is known of contacts at Loops, and which requests are therefore unnecessary |
//! | `consent` | which requests would resubscribe people who left |
//! | `disposition`, `verdict`, `backoff` | what a response means, and what follows from it |
//! | `room` | how many messages are in memory at a time |
//! | `panics` | messages that trigger a bug |
//! | `forward` | handing on Loops' webhooks, independently of all the rest |

mod assembly;
mod attempt;
mod backoff;
mod board;
mod catalogue;
mod consent;
mod disposition;
mod engine;
mod forward;
mod gauges;
mod idempotency;
mod key_watch;
mod knowledge;
mod lanes;
mod lease;
mod meters;
mod obstacle;
mod options;
mod panics;
mod pause;
mod planning;
mod reader;
mod room;
mod sought;
mod step;
mod stepper;
mod stop;
mod tenure;
mod union;
mod verdict;
mod verify;
mod wishes;

pub use backoff::RetryOptions;
pub use board::Board;
pub use engine::Engine;
pub use forward::Forwarder;
pub use options::EngineOptions;
pub use room::Room;
pub use stop::Stop;

use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior, interval};

/// Ticks at once and then with this period. After a late tick, the next one follows a whole period later.
fn ticks(period: Duration) -> Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
