//! Names that users choose: namespaces, lanes, workers and tags. The constructors check them; clones are cheap.

use std::{collections::BTreeMap, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{EngineError, error::shown};

/// Names appear inside keys, sorted-set members and JSON, so only characters that need no escaping there are allowed.
fn checked(kind: &'static str, text: &str, longest: usize) -> Result<Arc<str>, EngineError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_-.:/@".contains(c);
    if text.is_empty() || text.len() > longest || !text.chars().all(allowed) {
        return Err(EngineError::invalid(
            format!("{kind} `{}`", shown(text)),
            format!("expected 1 to {longest} of the characters A-Z a-z 0-9 _ - . : / @"),
        ));
    }
    Ok(text.into())
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $kind:literal) => {
        $(#[$doc])*
        ///
        /// 1 to 128 of the characters `A-Z a-z 0-9 _ - . : / @`; cloning copies no text.
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(Arc<str>);

        impl $type {
            /// # Errors
            /// [`EngineError::InvalidInput`] that shows the text when it is empty, too long or has other characters.
            pub fn new(text: &str) -> Result<Self, EngineError> {
                checked($kind, text, 128).map(Self)
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = EngineError;

            fn from_str(text: &str) -> Result<Self, EngineError> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $type {
            type Error = EngineError;

            fn try_from(text: String) -> Result<Self, EngineError> {
                Self::new(&text)
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> Self {
                name.as_str().to_owned()
            }
        }

        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }
    };
}

name! {
    /// A tenant: flows and executions that belong together and that filters select together.
    Namespace, "namespace"
}
name! {
    /// A queue of work of one kind; workers claim from a lane.
    LaneId, "lane"
}
name! {
    /// A worker, as it appears in leases and descriptions.
    WorkerId, "worker id"
}

name! {
    /// An engine, as it appears to other engines and to operators.
    EngineId, "engine id"
}

impl Namespace {
    /// The namespace `default`, for deployments without tenants.
    #[must_use]
    pub fn default_namespace() -> Self {
        Self("default".into())
    }
}

impl LaneId {
    /// The lane `default`, for deployments that need only one lane.
    #[must_use]
    pub fn default_lane() -> Self {
        Self("default".into())
    }
}

/// The tags of an execution: text to text, sorted by key. Cloning copies no text.
///
/// At most 32 tags; keys of 1 to 128 bytes, values of up to 256 bytes, no control characters in either.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<String, String>", into = "BTreeMap<String, String>")]
pub struct Tags(Arc<BTreeMap<String, String>>);

impl Tags {
    /// # Errors
    /// [`EngineError::InvalidInput`] with the tag that exceeds the limits of [`Tags`].
    pub fn new<K: Into<String>, V: Into<String>>(tags: impl IntoIterator<Item = (K, V)>) -> Result<Self, EngineError> {
        let map: BTreeMap<String, String> = tags.into_iter().map(|(k, v)| (k.into(), v.into())).collect();
        if map.len() > 32 {
            return Err(EngineError::invalid(format!("{} tags", map.len()), "at most 32 are allowed"));
        }
        for (key, value) in &map {
            let clean = !key.chars().chain(value.chars()).any(char::is_control);
            if key.is_empty() || key.len() > 128 || value.len() > 256 || !clean {
                return Err(EngineError::invalid(
                    format!("tag `{}`", shown(key)),
                    "keys are 1 to 128 bytes, values up to 256 bytes, neither with control characters",
                ));
            }
        }
        Ok(Self(Arc::new(map)))
    }

    /// Tags from a server or an event, without a check. They were checked at their submission, and an invalid tag must
    /// not prevent an event or a claim from being read.
    #[must_use]
    pub fn recorded(tags: BTreeMap<String, String>) -> Self {
        Self(Arc::new(tags))
    }

    /// The value under this key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// All tags, sorted by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }

    /// Whether there are no tags.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl TryFrom<BTreeMap<String, String>> for Tags {
    type Error = EngineError;

    fn try_from(tags: BTreeMap<String, String>) -> Result<Self, EngineError> {
        Self::new(tags)
    }
}

impl From<Tags> for BTreeMap<String, String> {
    fn from(tags: Tags) -> Self {
        Arc::unwrap_or_clone(tags.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_other_characters_are_refused_with_the_name() {
        for bad in ["", "a b", "a\n", "ä", "{x}", "\"", &"x".repeat(129)] {
            assert!(Namespace::new(bad).is_err(), "{bad:?}");
        }
        assert!(LaneId::new("a b").unwrap_err().to_string().contains("lane `a b`"));
        assert_eq!(Namespace::new("team-a/prod").unwrap().as_str(), "team-a/prod");
    }

    #[test]
    fn a_tag_beyond_the_limits_is_named() {
        assert!(Tags::new([("k", "v\u{7}")]).unwrap_err().to_string().contains("tag `k`"));
        assert!(Tags::new([("", "v")]).is_err());
        assert!(Tags::new((0..33).map(|n| (n.to_string(), ""))).unwrap_err().to_string().contains("33 tags"));
        assert_eq!(Tags::new([("k", "v")]).unwrap().get("k"), Some("v"));
    }
}
