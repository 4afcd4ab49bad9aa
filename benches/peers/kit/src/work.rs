//! The workloads by name.

use crate::contender::Filter;

/// When submissions come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// All of them before the workers start.
    First,
    /// While the workers run.
    Live,
}

/// How executions are submitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// One call each.
    One,
    /// In the way that is meant for many.
    Bulk,
}

/// What a contender is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Executions are submitted, claimed and completed.
    Cycle(Order, How),
    /// A hundred chains of ten at once.
    Chains,
    /// One chain of ten.
    Chain,
    /// Fan-out and fan-in of a thousand.
    Fan,
    /// Executions end at times that no delay moves, so many a second; a subscriber waits for each.
    Delivery(u32),
    /// As many as possible end; so many subscribers wait for all of them.
    Filter(Filter, usize),
    /// Ten processes with nothing to do. The runner starts and measures them.
    Idle,
    /// What waiting and ended executions take in the server's memory.
    Memory,
}

impl Work {
    /// All workloads, in the order of the table.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let cycles = [Order::First, Order::Live].into_iter().flat_map(|order| [(order, How::One), (order, How::Bulk)]);
        let filters =
            [Filter::None, Filter::Namespace, Filter::Tag].into_iter().flat_map(|filter| [(filter, 1), (filter, 100)]);
        cycles
            .map(|(order, how)| Self::Cycle(order, how))
            .chain([Self::Chains, Self::Chain, Self::Fan])
            .chain([100, 1_000, 5_000].map(Self::Delivery))
            .chain(filters.map(|(filter, subscribers)| Self::Filter(filter, subscribers)))
            .chain([Self::Idle, Self::Memory])
            .collect()
    }

    /// The workload with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::all().into_iter().find(|work| work.name() == name)
    }

    /// The name on the command line.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::Cycle(order, how) => format!("cycle-{order:?}-{how:?}").to_lowercase(),
            Self::Delivery(rate) => format!("delivery-{rate}"),
            Self::Filter(filter, subscribers) => format!("filter-{filter:?}-{subscribers}").to_lowercase(),
            other => format!("{other:?}").to_lowercase(),
        }
    }

    /// Whether this is `name`, or one of the group `name`, such as `cycle` or `cycle-live`.
    #[must_use]
    pub fn is_in(self, name: &str) -> bool {
        let own = self.name();
        own == name || own.strip_prefix(name).is_some_and(|rest| rest.starts_with('-'))
    }

    /// The name in the table.
    #[must_use]
    pub fn title(self) -> String {
        match self {
            Self::Cycle(order, how) => {
                let order = if order == Order::First { "all submitted first" } else { "submitted while workers run" };
                let how = if how == How::One { "one by one" } else { "in bulk" };
                format!("submit, claim, complete: {order}, {how}")
            }
            Self::Chains => "100 chains of 10 at once".to_owned(),
            Self::Chain => "one chain of 10".to_owned(),
            Self::Fan => "fan-out and fan-in of 1,000".to_owned(),
            Self::Delivery(rate) => format!("commit to delivery, {rate} a second"),
            Self::Filter(filter, subscribers) => {
                let filter = match filter {
                    Filter::None => "no filter",
                    Filter::Namespace => "namespace filter",
                    Filter::Tag => "tag filter",
                };
                format!("delivery to {subscribers}, {filter}")
            }
            Self::Idle => "10 idle processes".to_owned(),
            Self::Memory => "memory of an execution without payload".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_workload_is_found_by_its_own_name_only() {
        for work in Work::all() {
            assert_eq!(Work::named(&work.name()), Some(work));
        }
        assert_eq!(Work::named("cycle"), None);
    }

    #[test]
    fn a_group_contains_whole_words_only() {
        let group = |name: &str| Work::all().into_iter().filter(|work| work.is_in(name)).count();
        assert_eq!(group("cycle"), 4);
        assert_eq!(group("cycle-live"), 2);
        assert_eq!(group("chain"), 1);
        assert_eq!(group("delivery-100"), 1);
    }
}
