//! The conformance suite: what every backend of FlowFabric must do, as plain async functions over
//! [`EngineBackend`](ff_core::EngineBackend).
//!
//! A backend runs all of it with one line; the suite owns the list of cases, so none can be left out:
//!
//! ```ignore
//! async fn start() -> (Arc<dyn EngineBackend>, impl Sized) { /* a fresh backend and what keeps it alive */ }
//! ff_test::conformance_suite!(start);
//! ```
//!
//! A case panics, with what it saw, when the backend does not behave. Cases share nothing: each gets a backend of its
//! own and uses names that no other case uses.
#![forbid(unsafe_code)]

pub mod cases;
mod fixture;

pub use fixture::Fixture;

/// Expands to one test per case. `$start` is an async function that returns an `Arc<dyn EngineBackend>` and a guard.
#[macro_export]
macro_rules! conformance_suite {
    ($start:ident) => {
        $crate::conformance_suite!(@concern $start, delivery {
            a_completion_committed_right_after_subscribing_arrives
            a_completion_carries_what_was_submitted_and_what_became_of_it
            every_subscription_gets_every_completion_once_and_in_commit_order
            a_solo_execution_is_not_announced
            a_slow_reader_gets_everything_and_delays_nobody
            dropping_a_stream_leaves_the_others_alone
            a_large_result_is_announced_by_its_length
        });
        $crate::conformance_suite!(@concern $start, filter {
            a_namespace_filter_passes_its_tenant_and_nothing_else
            a_tag_filter_passes_exactly_its_value
            both_conditions_of_a_filter_must_hold
            the_noop_filter_passes_everything
        });
        $crate::conformance_suite!(@concern $start, lifecycle {
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
        $crate::conformance_suite!(@concern $start, dependencies {
            a_dependent_starts_only_when_all_its_needs_succeeded
            a_failed_need_skips_everything_behind_it
            completions_follow_the_order_of_the_dependencies
            a_fan_out_beyond_the_bound_of_a_call_is_promoted_to_the_last
            a_skip_beyond_the_bound_of_a_call_reaches_the_last
            the_largest_flow_is_accepted_in_one_call
        });
        $crate::conformance_suite!(@concern $start, leases {
            a_worker_whose_lease_ran_out_is_fenced_off
            a_renewed_lease_does_not_run_out
            leases_exhausted_end_an_execution
            a_repeated_completion_by_its_owner_gives_the_same_answer
            a_lost_lease_is_reported_at_renewal
        });
        $crate::conformance_suite!(@concern $start, retries {
            a_retryable_failure_is_tried_again_after_its_backoff
            attempts_exhausted_end_an_execution
            a_permanent_failure_ends_at_once
            an_attempt_that_takes_too_long_counts_as_failed
            a_repeated_failure_report_gives_the_same_answer
        });
        $crate::conformance_suite!(@concern $start, cancel {
            a_cancelled_execution_takes_its_dependents_along
            cancelling_a_running_execution_fences_its_worker_off
            cancelling_what_has_ended_changes_nothing
            a_cancelled_flow_ends_every_member_that_has_not_ended
        });
        $crate::conformance_suite!(@concern $start, bad_input {
            a_refused_submission_writes_nothing
            an_id_of_another_deployment_is_refused
            a_result_beyond_the_limit_is_refused_and_the_lease_stays
        });
    };
    (@concern $start:ident, $concern:ident { $($case:ident)+ }) => {
        mod $concern {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    let (backend, _guard) = super::$start().await;
                    $crate::cases::$concern::$case(backend).await;
                }
            )+
        }
    };
}

/// The example of the project's README, which must compile.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
