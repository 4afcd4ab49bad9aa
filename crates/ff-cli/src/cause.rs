//! Why an execution did not succeed, in the same words for every command.

/// Describes the cause, from the reason of the end, the error of the last attempt, and the number of attempts.
pub(crate) fn in_words(end: &str, said: Option<&str>, max_attempts: u32, attempts: u32) -> String {
    let (end_in_words, said) = (word(end), said.map(word));
    match (end, said) {
        // The number of attempts is worth mentioning only if there could have been more than one.
        ("attempts_exhausted", Some(said)) if max_attempts > 1 || attempts > 1 => {
            format!("{said} (after {attempts} attempts)")
        }
        ("attempts_exhausted", said) => said.unwrap_or("its last attempt failed").to_owned(),
        (_, Some(said)) if end_in_words != said => format!("{end_in_words} ({said})"),
        _ => end_in_words.to_owned(),
    }
}

/// Describes the reasons that a server records as a keyword.
fn word(reason: &str) -> &str {
    match reason {
        "timeout" => "the attempt took longer than its timeout",
        "lease_expired" => "its worker was lost too often",
        "dependency_failed" => "a dependency did not succeed",
        "record_lost" => "its record on the server is lost",
        "deadline_exceeded" => "its deadline passed",
        other => other,
    }
}
