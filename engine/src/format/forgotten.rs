//! What was removed on purpose: without such a record, a snapshot that is gone was lost.

use minicbor::{Decode, Encode};

use super::ids::ObjectId;
use super::node::Time;

/// Something that was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Forgotten {
    #[n(0)]
    pub id: ObjectId,
    /// By the clock of the client that removed it.
    #[n(1)]
    pub at: Time,
}

/// Stored before anything that it lists is deleted. Records only ever add up: one that
/// repeats others may stand in for them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ForgottenData {
    #[n(0)]
    pub snapshots: Vec<Forgotten>,
    #[n(1)]
    pub key_slots: Vec<Forgotten>,
}
