//! The conformance suite: what every backend of FlowFabric must do, as plain async functions over
//! [`EngineBackend`](ff_core::EngineBackend).
//!
//! A backend runs all of it with one line, [`conformance_suite!`]; the suite owns the list of cases, so none can be
//! left out. `examples/own-backend` shows it for a backend of somebody else.
//!
//! A case panics, with what it saw, when the backend does not behave. Cases share nothing: each gets a backend of its
//! own and uses names that no other case uses.
#![forbid(unsafe_code)]

pub mod cases;
mod fixture;
pub mod fuzz;
pub mod simulation;

pub use fixture::Fixture;

/// Expands to one test per case. `$start` is an async function that returns a fresh `Arc<dyn EngineBackend>` and what
/// must live as long as it.
///
/// ```
/// use std::sync::Arc;
///
/// use ff_core::EngineBackend;
/// use ff_embedded::EmbeddedBackend;
///
/// async fn start() -> (Arc<dyn EngineBackend>, ()) {
///     (Arc::new(EmbeddedBackend::new()), ())
/// }
///
/// ff_test::conformance_suite!(start);
/// ```
///
/// A backend that does not offer everything declares what it lacks. The cases of these concerns remain as tests that
/// pass and print `skipped: <concern>::<case> (declared)`:
///
/// ```
/// # async fn start() -> (std::sync::Arc<dyn ff_core::EngineBackend>, ()) {
/// #     (std::sync::Arc::new(ff_embedded::EmbeddedBackend::new()), ())
/// # }
/// ff_test::conformance_suite!(start, without: [leases, retries]);
/// ```
///
/// `lifecycle`, `dependencies`, `leases`, `retries`, `cancel`, `lag` and `bad_input` can be declared. `delivery` and
/// `filter` cannot, since no user could rely on a backend without them:
///
/// ```compile_fail
/// # async fn start() -> (std::sync::Arc<dyn ff_core::EngineBackend>, ()) {
/// #     (std::sync::Arc::new(ff_embedded::EmbeddedBackend::new()), ())
/// # }
/// ff_test::conformance_suite!(start, without: [filter]);
/// ```
#[macro_export]
macro_rules! conformance_suite {
    ($start:ident) => {
        $crate::conformance_suite!($start, without: []);
    };
    ($start:ident, without: [$($lacking:ident),* $(,)?]) => {
        $($crate::conformance_suite!(@may_lack $lacking);)*
        $crate::conformance_suite!(@all $start [$($lacking)*]);
    };
    (@may_lack lifecycle) => {};
    (@may_lack dependencies) => {};
    (@may_lack leases) => {};
    (@may_lack retries) => {};
    (@may_lack cancel) => {};
    (@may_lack lag) => {};
    (@may_lack bad_input) => {};
    (@may_lack delivery) => {
        compile_error!("`delivery` cannot be left out: a backend that loses or repeats completions is none");
    };
    (@may_lack filter) => {
        compile_error!("`filter` cannot be left out: a filter that is ignored shows one tenant what is another's");
    };
    (@may_lack $other:ident) => {
        compile_error!(concat!(
            "`", stringify!($other), "` is no concern of the suite; those that can be left out are lifecycle, ",
            "dependencies, leases, retries, cancel, lag and bad_input"
        ));
    };
    (@all $start:ident $lacking:tt) => {
        $crate::conformance_suite!(@concern $start $lacking delivery {
            a_completion_committed_right_after_subscribing_arrives
            a_completion_carries_what_was_submitted_and_what_became_of_it
            every_subscription_gets_every_completion_once_and_in_commit_order
            a_solo_execution_is_not_announced
            a_slow_reader_gets_everything_and_delays_nobody
            dropping_a_stream_leaves_the_others_alone
            a_large_result_is_announced_by_its_length
        });
        $crate::conformance_suite!(@concern $start $lacking filter {
            a_namespace_filter_passes_its_tenant_and_nothing_else
            a_tag_filter_passes_exactly_its_value
            both_conditions_of_a_filter_must_hold
            the_noop_filter_passes_everything
        });
        $crate::conformance_suite!(@concern $start $lacking lifecycle {
            a_solo_execution_runs_from_submission_to_its_result
            higher_priority_is_claimed_first_then_older
            a_delayed_execution_waits_for_its_time
            a_deadline_ends_an_execution_that_nobody_claimed
            a_deadline_ends_an_execution_that_is_running
            a_repeated_submission_under_one_key_is_the_same_flow
            a_key_used_for_other_content_is_a_conflict
            what_does_not_exist_is_not_found
            work_of_another_lane_is_not_handed_out
            a_waiting_process_is_signalled_when_work_arrives
        });
        $crate::conformance_suite!(@concern $start $lacking dependencies {
            a_dependent_starts_only_when_all_its_needs_succeeded
            a_failed_need_skips_everything_behind_it
            completions_follow_the_order_of_the_dependencies
            a_fan_out_beyond_the_bound_of_a_call_is_promoted_to_the_last
            a_skip_beyond_the_bound_of_a_call_reaches_the_last
            the_largest_flow_is_accepted_in_one_call
        });
        $crate::conformance_suite!(@concern $start $lacking leases {
            a_worker_whose_lease_ran_out_is_fenced_off
            a_renewed_lease_does_not_run_out
            leases_exhausted_end_an_execution
            a_repeated_completion_by_its_owner_gives_the_same_answer
            a_lost_lease_is_reported_at_renewal
        });
        $crate::conformance_suite!(@concern $start $lacking retries {
            a_retryable_failure_is_tried_again_after_its_backoff
            attempts_exhausted_end_an_execution
            a_permanent_failure_ends_at_once
            an_attempt_that_takes_too_long_counts_as_failed
            a_repeated_failure_report_gives_the_same_answer
        });
        $crate::conformance_suite!(@concern $start $lacking cancel {
            a_cancelled_execution_takes_its_dependents_along
            cancelling_a_running_execution_fences_its_worker_off
            cancelling_what_has_ended_changes_nothing
            a_cancelled_flow_ends_every_member_that_has_not_ended
        });
        $crate::conformance_suite!(@concern $start $lacking lag {
            a_slow_reader_with_a_filter_gets_all_that_passes
            a_reader_that_falls_behind_twice_loses_nothing
            a_slow_reader_that_gives_up_leaves_the_others_alone
        });
        $crate::conformance_suite!(@concern $start $lacking bad_input {
            a_refused_submission_writes_nothing
            an_id_of_another_deployment_is_refused
            a_result_beyond_the_limit_is_refused_and_the_lease_stays
        });
    };
    (@concern $start:ident [$($lacking:ident)*] $concern:ident { $($case:ident)+ }) => {
        mod $concern {
            const LACKING: &[&str] = &[$(stringify!($lacking)),*];
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    if $crate::is_skipped(LACKING, stringify!($concern), stringify!($case)) {
                        return;
                    }
                    let (backend, _guard) = super::$start().await;
                    $crate::cases::$concern::$case(backend).await;
                }
            )+
        }
    };
}

/// Whether a backend has declared that it lacks a concern; says so when it has.
#[doc(hidden)]
#[must_use]
pub fn is_skipped(lacking: &[&str], concern: &str, case: &str) -> bool {
    let skipped = lacking.contains(&concern);
    if skipped {
        println!("skipped: {concern}::{case} (declared)");
    }
    skipped
}

#[cfg(test)]
mod tests {
    use super::is_skipped;

    #[test]
    fn a_declared_concern_is_skipped_and_no_other() {
        assert!(is_skipped(&["leases", "retries"], "retries", "case"));
        assert!(!is_skipped(&["leases", "retries"], "filter", "case"));
        assert!(!is_skipped(&[], "retries", "case"));
    }
}

/// The example of the project's README, which must run.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
