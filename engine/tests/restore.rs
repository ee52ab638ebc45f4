//! Restores into real folders.
#![cfg(unix)]

#[path = "restore/basics.rs"]
mod basics;
#[path = "restore/damage.rs"]
mod damage;
#[path = "restore/delete.rs"]
mod delete;
#[path = "restore/hostile.rs"]
mod hostile;
#[path = "restore/in_place.rs"]
mod in_place;
#[path = "restore/kit.rs"]
mod kit;
#[path = "restore/left_out.rs"]
mod left_out;
#[path = "restore/links.rs"]
mod links;
#[path = "restore/malformed.rs"]
mod malformed;
#[path = "restore/streams.rs"]
mod streams;
#[path = "restore/unfinished.rs"]
mod unfinished;
