//! Anchors that are set twice, which YAML allows and the parser mixes up: an alias to one of them, or to an anchor after
//! it, may stand for what another anchor holds. A flow would run other commands than its file says, so it is refused.

use std::collections::HashSet;

/// Refuses a document that has aliases and sets an anchor twice.
///
/// # Errors
/// The anchor and the line at which it is set again.
pub(super) fn check(text: &str) -> Result<(), serde_norway::Error> {
    let mut names = HashSet::new();
    let mut repeated = None;
    let mut aliases = HashSet::new();
    for (index, line) in text.lines().enumerate() {
        for (sign, name) in marks(line) {
            if sign == '*' {
                aliases.insert(name);
            } else if !names.insert(name) {
                repeated = repeated.or(Some((name, index + 1)));
            }
        }
    }
    match repeated {
        Some((name, line)) if !aliases.is_disjoint(&names) => Err(serde::de::Error::custom(format!(
            "the anchor `&{name}` is set again at line {line}; give the second another name"
        ))),
        _ => Ok(()),
    }
}

/// What looks like an anchor or an alias: the sign at the beginning of a value, then a name.
fn marks(line: &str) -> impl Iterator<Item = (char, &str)> {
    let begins = |c: char| c.is_whitespace() || "[{,".contains(c);
    let comment =
        line.match_indices('#').map(|(at, _)| at).find(|at| line[..*at].chars().next_back().is_none_or(begins));
    let line = &line[..comment.unwrap_or(line.len())];
    line.match_indices(['&', '*']).filter_map(move |(at, sign)| {
        let (before, after) = (&line[..at], &line[at + 1..]);
        let length = after.find(|c: char| !(c.is_ascii_alphanumeric() || "_-".contains(c))).unwrap_or(after.len());
        let is_value = before.chars().next_back().is_none_or(begins) && length > 0;
        is_value.then(|| (if sign == "&" { '&' } else { '*' }, &after[..length]))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_anchor_that_is_set_again_is_refused_with_its_line() {
        let refused = check("a: &x {run: one}\nb: &x {run: two}\nc: &y {run: three}\nd: *x\n").unwrap_err().to_string();
        assert!(refused.contains("`&x`") && refused.contains("line 2"), "{refused}");
        assert!(check("[&x a,&x b, *x ]").is_err());
    }

    #[test]
    fn what_only_looks_like_an_anchor_is_none() {
        check("a: &x {run: one}  # &x is for b\n# &x\nb: *x\n").unwrap();
        check("a: &x {run: make &wait && sleep 1 &wait}\n").unwrap();
        check("a: &x one\nb: *x\nc: one 2>&1 && two 2>&1\nd: 'a&x b&x'\n").unwrap();
        check("a: &x one\nb: &x two\n").unwrap();
    }
}
