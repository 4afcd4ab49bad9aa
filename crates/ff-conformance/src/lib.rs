//! The conformance suite: the required behaviour of every backend of FlowFabric, as plain async functions over
//! [`EngineBackend`](ff_core::EngineBackend).
//!
//! A backend runs the whole suite with one line, [`conformance_suite!`]; the suite owns the list of cases, so none can
//! be left out. `examples/own-backend` shows it for a backend outside this repository.
//!
//! A case panics, with the observed values, when the backend does not behave as required. Cases share nothing: each
//! gets its own backend and uses names that no other case uses.
#![forbid(unsafe_code)]

pub mod cases;
mod fixture;

pub use fixture::Fixture;

/// Expands to one test per case. `$start` is an async function that returns a fresh `Arc<dyn EngineBackend>`, and a
/// guard that lives as long as the test.
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
/// ff_conformance::conformance_suite!(start);
/// ```
///
/// A backend that does not offer everything declares the concerns that it lacks. The cases of these concerns are not
/// run: their tests pass and print `skipped: <concern>::<case> (declared)`:
///
/// ```
/// # async fn start() -> (std::sync::Arc<dyn ff_core::EngineBackend>, ()) {
/// #     (std::sync::Arc::new(ff_embedded::EmbeddedBackend::new()), ())
/// # }
/// ff_conformance::conformance_suite!(start, without: [leases, retries]);
/// ```
///
/// Every concern of [`CASES`] can be declared, except `delivery` and `filter`. Every backend must have these two:
/// without them it may lose or repeat completions, or show one tenant the completions of another.
///
/// ```compile_fail
/// # async fn start() -> (std::sync::Arc<dyn ff_core::EngineBackend>, ()) {
/// #     (std::sync::Arc::new(ff_embedded::EmbeddedBackend::new()), ())
/// # }
/// ff_conformance::conformance_suite!(start, without: [filter]);
/// ```
#[macro_export]
macro_rules! conformance_suite {
    ($start:ident) => {
        $crate::conformance_suite!($start, without: []);
    };
    ($start:ident, without: [$($lacking:ident),* $(,)?]) => {
        $(const _: () = $crate::may_lack(stringify!($lacking));)*
        $crate::all_cases!(conformance_suite @tests [$start [$($lacking)*]]);
    };
    (@tests [$start:ident $lacking:tt] $($concern:ident $cases:tt)+) => {
        $($crate::conformance_suite!(@concern $start $lacking $concern $cases);)+
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

/// Calls another macro of this crate with the given tokens, followed by the list of all cases by concern.
#[doc(hidden)]
#[macro_export]
macro_rules! all_cases {
    ($then:ident $($given:tt)*) => {
        $crate::$then! {
            $($given)*
            delivery {
                a_completion_committed_right_after_subscribing_is_delivered
                a_completion_has_the_attributes_and_the_outcome_of_its_execution
                every_subscription_gets_every_completion_once_and_in_commit_order
                a_solo_execution_is_not_announced
                a_slow_reader_gets_everything_and_delays_nobody
                dropping_a_stream_does_not_affect_the_others
                a_large_result_is_announced_by_its_length
            }
            filter {
                a_namespace_filter_passes_its_tenant_only
                a_tag_filter_passes_exactly_its_value
                both_conditions_of_a_filter_must_hold
                the_noop_filter_passes_everything
            }
            lifecycle {
                a_solo_execution_runs_from_submission_to_its_result
                a_repeated_submission_is_recognised_after_retention_and_does_not_run_again
                higher_priority_is_claimed_first_then_older
                a_delayed_execution_waits_for_its_time
                a_deadline_ends_an_execution_that_nobody_claimed
                a_deadline_ends_an_execution_that_is_running
                a_repeated_submission_under_one_key_is_the_same_flow
                a_flow_beyond_one_call_is_there_once_and_whole_whoever_submits_it
                a_key_used_for_other_content_is_a_conflict
                unknown_executions_and_flows_are_not_found
                work_of_another_lane_is_not_claimed
                a_waiting_process_is_signalled_when_work_arrives
            }
            dependencies {
                a_dependent_starts_only_when_all_its_needs_succeeded
                a_failed_need_skips_all_dependents_behind_it
                completions_follow_the_order_of_the_dependencies
                a_fan_out_beyond_the_bound_of_a_call_is_promoted_completely
                a_skip_beyond_the_bound_of_a_call_reaches_all_dependents
                the_largest_flow_is_accepted_as_a_whole
            }
            leases {
                a_worker_whose_lease_expired_is_fenced
                a_renewed_lease_does_not_expire
                too_many_expired_leases_end_an_execution
                a_repeated_completion_by_the_holder_gives_the_same_reply
                a_lost_lease_is_reported_at_renewal
                a_lost_lease_is_reported_when_it_is_given_back
                an_unconfirmed_lease_expires_without_being_counted
                a_repeated_claim_gets_the_same_executions
                a_released_execution_goes_to_another_worker_at_once_and_nothing_is_counted
                a_release_signals_a_waiting_process
                a_signal_is_passed_on_while_the_lane_has_work_and_the_work_stays_claimable
                a_process_that_passes_a_signal_on_from_an_empty_lane_is_signalled_again
                completions_that_are_sent_together_have_their_own_outcomes
                members_that_end_together_promote_what_needs_all_of_them
                a_reported_failure_resets_the_count_of_expired_leases
                the_holder_of_a_lease_is_notified_when_another_caller_ends_its_execution
            }
            retries {
                a_retryable_failure_is_retried_after_its_backoff
                exhausted_attempts_end_an_execution
                a_permanent_failure_ends_at_once
                an_attempt_that_exceeds_its_timeout_has_failed
                attempts_do_not_overlap_while_a_lease_is_held
                a_repeated_failure_report_gives_the_same_reply
                executions_that_fail_together_are_retried_at_different_times
            }
            cancel {
                cancelling_an_execution_skips_its_dependents
                a_flow_with_a_cancelled_member_ends_as_cancelled
                cancelling_a_running_execution_fences_its_worker
                cancelling_an_ended_execution_changes_nothing
                cancelling_a_flow_ends_all_its_open_members
            }
            lag {
                a_slow_reader_with_a_filter_gets_every_completion_that_passes
                a_reader_that_falls_behind_twice_loses_nothing
                a_slow_reader_that_gives_up_does_not_affect_the_others
            }
            subscription {
                the_earliest_start_replays_the_logs_and_reports_the_end_of_the_replay
                a_cursor_resumes_right_after_the_last_delivered_completion
                a_cursor_advances_past_completions_that_the_filter_rejects
                solo_executions_are_delivered_to_subscriptions_of_their_scope
                a_subscription_to_certain_executions_gets_only_those
                a_filter_decides_the_same_live_and_on_replay
                a_full_queue_that_drops_its_oldest_reports_them_as_gaps
                a_full_queue_that_closes_ends_the_stream_and_the_cursor_resumes
                lag_counts_the_unread_completions
                a_cursor_of_another_scope_is_refused
            }
            timers {
                a_timer_that_is_due_soon_is_announced
                a_lease_of_half_a_minute_is_not_announced
                a_timer_is_announced_only_if_it_is_earlier_than_the_known_one
                running_engines_are_listed_until_they_stop_or_are_gone
                a_change_of_the_running_engines_is_announced
            }
            bad_input {
                a_refused_submission_writes_nothing
                an_id_of_another_deployment_is_refused
                a_result_beyond_the_limit_is_refused_and_the_lease_stays_valid
                a_claim_of_no_or_too_many_executions_is_refused
            }
        }
    };
}

/// Turns the list of all cases into the value of [`CASES`].
#[doc(hidden)]
#[macro_export]
macro_rules! names_of_cases {
    ($($concern:ident { $($case:ident)+ })+) => {
        &[$((stringify!($concern), &[$(stringify!($case)),+])),+]
    };
}

/// The concerns, and the cases of each.
pub const CASES: &[(&str, &[&str])] = all_cases!(names_of_cases);

/// Stops the compilation if the suite requires this concern, or does not know it.
#[doc(hidden)]
pub const fn may_lack(concern: &str) {
    assert!(!is(concern, "delivery"), "`delivery` cannot be left out: every backend must deliver completions");
    assert!(!is(concern, "filter"), "`filter` cannot be left out: without it a tenant sees the completions of another");
    let mut index = 0;
    while index < CASES.len() {
        if is(concern, CASES[index].0) {
            return;
        }
        index += 1;
    }
    panic!("`without` names an unknown concern; the concerns are the names in `ff_conformance::CASES`");
}

const fn is(text: &str, other: &str) -> bool {
    let (text, other) = (text.as_bytes(), other.as_bytes());
    let mut same = text.len() == other.len();
    let mut index = 0;
    while same && index < text.len() {
        same = text[index] == other[index];
        index += 1;
    }
    same
}

/// Whether a backend has declared that it lacks a concern; if so, prints that the case is skipped.
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
    use super::{CASES, is_skipped};

    #[test]
    fn a_declared_concern_is_skipped_and_no_other() {
        assert!(is_skipped(&["leases", "retries"], "retries", "case"));
        assert!(!is_skipped(&["leases", "retries"], "filter", "case"));
        assert!(!is_skipped(&[], "retries", "case"));
    }

    #[test]
    fn the_table_of_backends_in_the_readme_has_every_case() {
        let readme = include_str!("../../../README.md");
        let rows: Vec<Vec<_>> = readme
            .lines()
            .skip_while(|line| !line.starts_with("| concern |"))
            .skip(2)
            .map_while(|line| line.strip_prefix("| ")?.strip_suffix(" |"))
            .map(|row| row.split(" | ").collect())
            .collect();
        let concerns: Vec<_> = rows.iter().map(|row| row[0]).collect();
        let mut expected: Vec<_> = CASES.iter().map(|(concern, _)| *concern).collect();
        expected.sort_unstable();
        assert_eq!(concerns, expected, "run `cargo xtask conformance`");
        for (concern, cases) in CASES {
            let row = rows.iter().find(|row| row[0] == *concern).expect("its concern was found");
            for cell in &row[1..] {
                let total = cell.split_once('/').map(|(_, total)| total.to_owned());
                let current = total.is_none_or(|total| total == cases.len().to_string());
                assert!(current, "{concern} has {} cases, not {cell}: `cargo xtask conformance`", cases.len());
            }
        }
    }
}
