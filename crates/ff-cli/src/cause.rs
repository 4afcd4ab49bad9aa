//! Why an execution did not succeed, in the same words for every command.

/// The cause in words, from the reason of the end, what the last attempt said, and the number of attempts.
pub(crate) fn in_words(end: &str, said: Option<&str>, max_attempts: u32, attempts: u32) -> String {
    let (end_in_words, said) = (word(end), said.map(word));
    match (end, said) {
        // That there are no further attempts is news only where there could have been some.
        ("attempts_exhausted", Some(said)) if max_attempts > 1 || attempts > 1 => {
            format!("{said} (after {attempts} attempts)")
        }
        ("attempts_exhausted", said) => said.unwrap_or("its last attempt failed").to_owned(),
        (_, Some(said)) if end_in_words != said => format!("{end_in_words} ({said})"),
        _ => end_in_words.to_owned(),
    }
}

/// The reasons that a server gives by a word.
fn word(reason: &str) -> &str {
    match reason {
        "timeout" => "the attempt took longer than its timeout",
        "lease_expired" => "its worker was lost too often",
        "dependency_failed" => "what it needs did not succeed",
        "record_lost" => "its record on the server is gone",
        "deadline_exceeded" => "its deadline passed",
        other => other,
    }
}
