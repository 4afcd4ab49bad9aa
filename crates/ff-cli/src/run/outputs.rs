//! The files with the output of attempts.

use std::{
    fs,
    path::{Path, PathBuf},
};

use ff_core::ExecutionId;

use crate::failure::CliError;

/// Names longer than this are cut, since file systems allow 255 bytes.
const NAME_CHARS: usize = 100;

/// A directory with one file per attempt.
#[derive(Debug, Clone)]
pub(super) struct Outputs {
    directory: PathBuf,
}

impl Outputs {
    /// Creates the directory if it does not exist.
    pub(super) fn prepare(directory: &Path) -> Result<Self, CliError> {
        fs::create_dir_all(directory)
            .map_err(|error| CliError::usage(format!("--keep-outputs {}", directory.display()), error))?;
        Ok(Self { directory: directory.to_owned() })
    }

    /// `<name>.<attempt>.log`. A name that is not a valid file name is changed and made unique by the execution's uuid.
    pub(super) fn file(&self, name: &str, id: ExecutionId, attempt: u32) -> PathBuf {
        let allowed = |c: char| c.is_alphanumeric() || "-_.+=@".contains(c);
        let mut file: String = name.chars().take(NAME_CHARS).map(|c| if allowed(c) { c } else { '_' }).collect();
        if file.starts_with('.') {
            file.insert(0, '_');
        }
        if file != name {
            file.push_str(&format!("-{}", id.uuid()));
        }
        self.directory.join(format!("{file}.{attempt}.log"))
    }
}

#[cfg(test)]
mod tests {
    use ff_core::PartitionCount;

    use super::*;

    #[test]
    fn file_names_stay_inside_the_directory_and_are_unique() {
        let outputs = Outputs { directory: "/out".into() };
        let id = ExecutionId::generate_solo(PartitionCount::DEFAULT);
        let other = ExecutionId::generate_solo(PartitionCount::DEFAULT);
        assert_eq!(outputs.file("fetch-1", id, 2), Path::new("/out/fetch-1.2.log"));
        let escaping = outputs.file("../../etc/passwd", id, 1);
        assert_eq!(escaping.parent(), Some(Path::new("/out")));
        assert_ne!(outputs.file("a b", id, 1), outputs.file("a/b", other, 1));
        let long = outputs.file(&"ä".repeat(128), id, 1);
        assert!(long.file_name().unwrap().len() <= 255);
    }
}
