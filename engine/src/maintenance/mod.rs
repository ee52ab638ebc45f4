//! Looking after a repository: what is reachable, check, prune, retention.

mod check;
mod index_writer;
mod plan;
mod prune;
mod reach;
pub mod retention;
mod stats;
mod used;

pub use check::{CheckOptions, CheckProblem, CheckReport, MOST_FILES, check};
pub(crate) use index_writer::disown;
pub use plan::{PruneOptions, PrunePlan, plan_prune};
pub(crate) use prune::mark_lost;
pub use prune::{PruneOutcome, prune};
pub use reach::{Reached, walk_reachable};
pub use retention::RetentionPolicy;
pub use stats::{Stats, stats};
