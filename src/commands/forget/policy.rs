//! The options that say what to keep.

use std::str::FromStr;

use anyhow::{Result, bail};
use tresor_engine::maintenance::retention::{Age, RetentionPolicy, parse_count};

use crate::parse;

#[derive(clap::Args)]
#[command(next_help_heading = "What to keep")]
pub struct PolicyArgs {
    /// The last N snapshots (all: unlimited)
    #[arg(short = 'l', long, value_name = "N", value_parser = parse_count)]
    keep_last: Option<u32>,

    /// The last snapshot of each of the last N hours that have one
    #[arg(long, value_name = "N", value_parser = parse_count)]
    keep_hourly: Option<u32>,

    /// Likewise for days
    #[arg(short = 'd', long, value_name = "N", value_parser = parse_count)]
    keep_daily: Option<u32>,

    /// Likewise for weeks, from Monday
    #[arg(short = 'w', long, value_name = "N", value_parser = parse_count)]
    keep_weekly: Option<u32>,

    /// Likewise for months
    #[arg(short = 'm', long, value_name = "N", value_parser = parse_count)]
    keep_monthly: Option<u32>,

    /// Likewise for years
    #[arg(short = 'y', long, value_name = "N", value_parser = parse_count)]
    keep_yearly: Option<u32>,

    /// All in this time before the newest snapshot, like 1y5m7d3h
    #[arg(long, value_name = "TIME", value_parser = Age::from_str)]
    keep_within: Option<Age>,

    /// The last of each hour in this time before the newest snapshot
    #[arg(long, value_name = "TIME", value_parser = Age::from_str)]
    keep_within_hourly: Option<Age>,

    /// Likewise for days
    #[arg(long, value_name = "TIME", value_parser = Age::from_str)]
    keep_within_daily: Option<Age>,

    /// Likewise for weeks
    #[arg(long, value_name = "TIME", value_parser = Age::from_str)]
    keep_within_weekly: Option<Age>,

    /// Likewise for months
    #[arg(long, value_name = "TIME", value_parser = Age::from_str)]
    keep_within_monthly: Option<Age>,

    /// Likewise for years
    #[arg(long, value_name = "TIME", value_parser = Age::from_str)]
    keep_within_yearly: Option<Age>,

    /// What was changed or deleted in this time stays restorable
    #[arg(long, value_name = "TIME", value_parser = Age::from_str)]
    keep_restorable: Option<Age>,

    /// All with these tags (may be repeated: or those)
    #[arg(long, value_name = "TAG[,TAG…]")]
    keep_tag: Vec<String>,

    /// The first snapshot of every month, for ever
    #[arg(long)]
    keep_first_of_month: bool,

    /// A policy by its name. `service`: the last 28, and the last of 28 days; what changed in
    /// the last 28 days stays restorable; and the first of every month for ever
    #[arg(long, value_name = "NAME")]
    policy: Option<NamedPolicy>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum NamedPolicy {
    Service,
}

impl PolicyArgs {
    fn rules(&self) -> RetentionPolicy {
        RetentionPolicy {
            keep_last: self.keep_last,
            keep_hourly: self.keep_hourly,
            keep_daily: self.keep_daily,
            keep_weekly: self.keep_weekly,
            keep_monthly: self.keep_monthly,
            keep_yearly: self.keep_yearly,
            keep_within: self.keep_within,
            keep_within_hourly: self.keep_within_hourly,
            keep_within_daily: self.keep_within_daily,
            keep_within_weekly: self.keep_within_weekly,
            keep_within_monthly: self.keep_within_monthly,
            keep_within_yearly: self.keep_within_yearly,
            keep_restorable: self.keep_restorable,
            keep_tags: parse::tag_lists(&self.keep_tag),
            keep_first_of_month: self.keep_first_of_month,
        }
    }

    /// A policy that says something, unless snapshots are named; not both.
    pub fn policy(&self, are_named: bool) -> Result<Option<RetentionPolicy>> {
        if self.keep_tag.iter().any(|tags| tags.split(',').all(str::is_empty)) {
            bail!(
                "--keep-tag names no tag (as by a variable that isn't set), so nothing was removed"
            );
        }
        let rules = self.rules();
        let policy = match self.policy {
            None => rules,
            Some(_) if !rules.is_empty() => {
                bail!("--policy says what to keep: leave the --keep options out")
            }
            Some(NamedPolicy::Service) => RetentionPolicy::service(),
        };
        match (policy.is_empty(), are_named) {
            (true, true) => Ok(None),
            (false, false) => Ok(Some(policy)),
            (false, true) => bail!("name snapshots or say what to keep, not both"),
            (true, false) => bail!(
                "forget what? Name snapshots, or say what to keep, like --keep-daily 7 --keep-monthly 12; --policy service keeps the last 28, what changed in the last 28 days, and the first of every month"
            ),
        }
    }
}
