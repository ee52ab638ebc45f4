//! Looking after a repository: what is reachable, check, prune, retention.

mod check;
mod index_writer;
mod plan;
mod prune;
mod reach;
mod repair_index;
mod repair_objects;
mod repair_snapshots;
pub mod retention;
mod scrub;
mod stats;
mod tables;
mod used;
mod workers;

pub use check::{CheckOptions, CheckProblem, CheckReport, MOST_FILES, Subset, check};
pub(crate) use index_writer::disown;
pub use plan::{MaxUnused, PruneOptions, PrunePlan, plan_prune, plan_prune_without};
pub(crate) use prune::mark_lost;
pub use prune::{PruneOutcome, prune};
pub use reach::{At, Reached, walk_reachable};
pub use repair_index::{RepairIndexOptions, RepairIndexReport, repair_index};
pub use repair_objects::{RepairObjectsOptions, RepairObjectsReport, repair_objects};
pub use repair_snapshots::{
    Loss, RepairSnapshotsOptions, RepairSnapshotsReport, RepairedSnapshot, repair_snapshots,
};
pub use retention::RetentionPolicy;
pub use scrub::{Cure, ScrubProblem, ScrubReport, scrub};
pub use stats::{Stats, stats};
