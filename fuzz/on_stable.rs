//! Runs the fuzz targets on the stable toolchain: on their corpora, on mutations of these, and on random bytes. The
//! test `fuzz` of each crate with targets includes this file; the targets' functions are in the crate's module `fuzz`.

use std::{fs, path::PathBuf};

use proptest::prelude::*;

/// A target's function, which returns whether it accepted the input.
pub(crate) type Target = fn(&[u8]) -> bool;

/// The name and the content of a file of a corpus.
pub(crate) type Seed = (String, Vec<u8>);

pub(crate) fn corpus(target: &str) -> Vec<Seed> {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let files = fs::read_dir(directory).expect("each target has a corpus").map(|file| file.expect("it is listed"));
    let read = |path| fs::read(path).expect("a file of the corpus is read");
    let mut seeds: Vec<Seed> =
        files.map(|file| (file.file_name().to_string_lossy().into_owned(), read(file.path()))).collect();
    seeds.sort();
    seeds
}

/// Runs every file. The names of those written by hand say whether they are accepted.
pub(crate) fn run_corpus(seeds: &[Seed], target: Target) {
    let [accepted, refused] =
        ["ok-", "bad-"].map(|prefix| seeds.iter().filter(|(name, _)| name.starts_with(prefix)).count());
    assert!(accepted > 0 && refused > 0, "the corpus lacks a kind");
    for (name, bytes) in seeds {
        let accepted = target(bytes);
        assert!(accepted || !name.starts_with("ok-"), "{name} was refused");
        assert!(!accepted || !name.starts_with("bad-"), "{name} was accepted");
    }
}

/// One change of some bytes; positions are taken modulo the length.
#[derive(Debug, Clone)]
enum Edit {
    Set(usize, u8),
    Insert(usize, u8),
    Cut(usize, usize),
    Repeat(usize, usize),
}

impl Edit {
    fn apply(&self, bytes: &mut Vec<u8>) {
        let length = bytes.len();
        let range = |at: usize, count: usize| at % length..(at % length + count).min(length);
        match *self {
            Self::Insert(at, byte) => bytes.insert(at % (length + 1), byte),
            _ if bytes.is_empty() => {}
            Self::Set(at, byte) => bytes[at % length] = byte,
            Self::Cut(at, count) => drop(bytes.drain(range(at, count))),
            Self::Repeat(at, count) => {
                let piece = bytes[range(at, count)].to_vec();
                bytes.splice(at % length..at % length, piece);
            }
        }
    }
}

/// Random bytes, with a preference for bytes that have a meaning in some format.
pub(crate) fn byte() -> impl Strategy<Value = u8> {
    prop_oneof![any::<u8>(), prop::sample::select(b"\0\x1e\x1f\"\\{}[]:,-019+eZ \n".to_vec())]
}

fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        (any::<usize>(), byte()).prop_map(|(at, byte)| Edit::Set(at, byte)),
        (any::<usize>(), byte()).prop_map(|(at, byte)| Edit::Insert(at, byte)),
        (any::<usize>(), 1..40usize).prop_map(|(at, count)| Edit::Cut(at, count)),
        (any::<usize>(), 1..40usize).prop_map(|(at, count)| Edit::Repeat(at, count)),
    ]
}

pub(crate) fn mutated(seeds: &'static [Seed]) -> impl Strategy<Value = Vec<u8>> {
    (prop::sample::select(seeds), prop::collection::vec(edit(), 1..6)).prop_map(|((_, mut bytes), edits)| {
        edits.iter().for_each(|edit| edit.apply(&mut bytes));
        bytes
    })
}

macro_rules! targets {
    ($($target:ident)+) => {$(
        mod $target {
            use std::sync::LazyLock;

            use proptest::prelude::*;

            use crate::on_stable::{Seed, byte, corpus, mutated, run_corpus};
            use super::fuzz;

            static SEEDS: LazyLock<Vec<Seed>> = LazyLock::new(|| corpus(stringify!($target)));

            #[test]
            fn the_corpus_is_accepted_and_refused_as_its_names_say() {
                run_corpus(&SEEDS, fuzz::$target);
            }

            proptest! {
                #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2_000) })]

                #[test]
                fn the_properties_hold_on_mutations(bytes in mutated(&SEEDS)) {
                    fuzz::$target(&bytes);
                }

                #[test]
                fn the_properties_hold_on_random_bytes(bytes in prop::collection::vec(byte(), 0..300)) {
                    fuzz::$target(&bytes);
                }
            }
        }
    )+};
}
