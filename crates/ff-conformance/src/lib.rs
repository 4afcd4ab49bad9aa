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
/// ff_conformance::conformance_suite!(start);
/// ```
///
/// A backend that does not offer everything declares what it lacks. The cases of these concerns remain as tests that
/// pass and print `skipped: <concern>::<case> (declared)`:
///
/// ```
/// # async fn start() -> (std::sync::Arc<dyn ff_core::EngineBackend>, ()) {
/// #     (std::sync::Arc::new(ff_embedded::EmbeddedBackend::new()), ())
/// # }
/// ff_conformance::conformance_suite!(start, without: [leases, retries]);
/// ```
///
/// Every concern of [`CASES`] can be declared but `delivery` and `filter`: no user could rely on a backend that loses or
/// repeats completions, or that shows one tenant what is another's.
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

/// Hands the list of all cases, by concern, to another macro of this crate, after what that one is given.
#[doc(hidden)]
#[macro_export]
macro_rules! all_cases {
    ($then:ident $($given:tt)*) => {
        $crate::$then! {
            $($given)*
            delivery {
                a_completion_committed_right_after_subscribing_arrives
                a_completion_carries_what_was_submitted_and_what_became_of_it
                every_subscription_gets_every_completion_once_and_in_commit_order
                a_solo_execution_is_not_announced
                a_slow_reader_gets_everything_and_delays_nobody
                dropping_a_stream_leaves_the_others_alone
                a_large_result_is_announced_by_its_length
            }
            filter {
                a_namespace_filter_passes_its_tenant_and_nothing_else
                a_tag_filter_passes_exactly_its_value
                both_conditions_of_a_filter_must_hold
                the_noop_filter_passes_everything
            }
            lifecycle {
                a_solo_execution_runs_from_submission_to_its_result
                a_submission_is_known_after_retention_and_does_not_run_again
                higher_priority_is_claimed_first_then_older
                a_delayed_execution_waits_for_its_time
                a_deadline_ends_an_execution_that_nobody_claimed
                a_deadline_ends_an_execution_that_is_running
                a_repeated_submission_under_one_key_is_the_same_flow
                a_flow_beyond_one_call_is_there_once_and_whole_whoever_submits_it
                a_key_used_for_other_content_is_a_conflict
                what_does_not_exist_is_not_found
                work_of_another_lane_is_not_handed_out
                a_waiting_process_is_signalled_when_work_arrives
            }
            dependencies {
                a_dependent_starts_only_when_all_its_needs_succeeded
                a_failed_need_skips_everything_behind_it
                completions_follow_the_order_of_the_dependencies
                a_fan_out_beyond_the_bound_of_a_call_is_promoted_to_the_last
                a_skip_beyond_the_bound_of_a_call_reaches_the_last
                the_largest_flow_is_accepted_as_a_whole
            }
            leases {
                a_worker_whose_lease_ran_out_is_fenced_off
                a_renewed_lease_does_not_run_out
                leases_exhausted_end_an_execution
                a_repeated_completion_by_its_owner_gives_the_same_answer
                a_lost_lease_is_reported_at_renewal
                a_lost_lease_is_reported_when_it_is_given_back
                a_lease_that_no_worker_confirmed_runs_out_without_being_counted
                a_repeated_claim_gives_the_same_executions_and_no_others
                a_released_execution_goes_to_another_worker_at_once_and_nothing_is_counted
                a_release_signals_a_waiting_process
                a_reported_failure_forgets_the_leases_that_ran_out
                the_holder_of_a_lease_is_told_when_somebody_else_ends_its_execution
            }
            retries {
                a_retryable_failure_is_tried_again_after_its_backoff
                attempts_exhausted_end_an_execution
                a_permanent_failure_ends_at_once
                an_attempt_that_takes_too_long_counts_as_failed
                attempts_do_not_overlap_while_a_lease_is_held
                a_repeated_failure_report_gives_the_same_answer
                what_fails_together_is_retried_at_different_moments
            }
            cancel {
                a_cancelled_execution_takes_its_dependents_along
                a_flow_with_a_cancelled_member_is_cancelled_whatever_else_ended
                cancelling_a_running_execution_fences_its_worker_off
                cancelling_what_has_ended_changes_nothing
                a_cancelled_flow_ends_every_member_that_has_not_ended
            }
            lag {
                a_slow_reader_with_a_filter_gets_all_that_passes
                a_reader_that_falls_behind_twice_loses_nothing
                a_slow_reader_that_gives_up_leaves_the_others_alone
            }
            subscription {
                the_earliest_start_replays_what_is_held_and_says_when_it_is_through
                a_cursor_resumes_right_after_what_was_yielded
                a_cursor_moves_on_although_the_filter_lets_nothing_pass
                solo_executions_come_where_they_are_asked_for
                only_the_executions_that_were_asked_for_come
                a_filter_decides_alike_live_and_on_replay
                a_full_queue_that_drops_its_oldest_says_which
                a_full_queue_that_closes_ends_and_its_cursor_resumes
                lag_tells_what_is_unread
                a_cursor_of_another_scope_is_refused
            }
            timers {
                a_timer_that_is_due_soon_is_announced
                a_lease_of_half_a_minute_is_not_announced
                a_timer_behind_another_is_not_announced_and_one_before_it_is
                engines_at_work_are_named_until_they_stop_or_are_gone
                a_change_of_the_engines_at_work_is_announced
            }
            waiting {
                what_has_ended_already_is_answered_at_once
                what_ends_later_is_answered_with_its_result_however_large
                an_end_at_the_very_time_of_the_call_is_not_missed
                any_of_several_is_the_one_that_ends_and_all_come_in_the_order_asked_for
                a_flow_is_waited_for_until_its_last_member
                a_wait_ends_at_its_deadline_and_names_what_it_was_for
                what_does_not_exist_is_not_waited_for_unless_that_is_asked_for
            }
            bad_input {
                a_refused_submission_writes_nothing
                an_id_of_another_deployment_is_refused
                a_result_beyond_the_limit_is_refused_and_the_lease_stays
            }
        }
    };
}

/// Makes a value of the list.
#[doc(hidden)]
#[macro_export]
macro_rules! names_of_cases {
    ($($concern:ident { $($case:ident)+ })+) => {
        &[$((stringify!($concern), &[$(stringify!($case)),+])),+]
    };
}

/// The concerns, and the cases of each.
pub const CASES: &[(&str, &[&str])] = all_cases!(names_of_cases);

/// Stops the compilation where a concern cannot be left out.
#[doc(hidden)]
pub const fn may_lack(concern: &str) {
    assert!(!is(concern, "delivery"), "`delivery` cannot be left out: without it a backend is none");
    assert!(!is(concern, "filter"), "`filter` cannot be left out: without it a tenant sees what is another's");
    let mut index = 0;
    while index < CASES.len() {
        if is(concern, CASES[index].0) {
            return;
        }
        index += 1;
    }
    panic!("what is left out is no concern of the suite; they are the names in `ff_conformance::CASES`");
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
