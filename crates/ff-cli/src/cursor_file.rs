//! A cursor in a file: read at the start, replaced as a whole, so that whoever is killed leaves the old one or the new one.

use std::{fs, io, path::PathBuf};

use ff_core::Cursor;

use crate::failure::CliError;

#[derive(Debug)]
pub(crate) struct CursorFile(PathBuf);

impl CursorFile {
    pub(crate) const fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// The cursor in the file; `None` if there is no file yet.
    pub(crate) fn read(&self) -> Result<Option<Cursor>, CliError> {
        let text = match fs::read_to_string(&self.0) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.refused(&error)),
        };
        text.trim().parse().map(Some).map_err(|error| self.refused(&error))
    }

    pub(crate) fn write(&self, cursor: &Cursor) -> Result<(), CliError> {
        let mut beside = self.0.clone().into_os_string();
        beside.push(".new");
        let written = fs::write(&beside, format!("{cursor}\n")).and_then(|()| fs::rename(&beside, &self.0));
        written.map_err(|error| self.refused(&error))
    }

    fn refused(&self, why: &dyn std::fmt::Display) -> CliError {
        CliError::usage(format!("cursor file `{}`", self.0.display()), why)
    }
}

#[cfg(test)]
mod tests {
    use ff_core::LogCursor;

    use super::*;

    #[test]
    fn a_cursor_is_kept_and_what_is_none_is_refused_with_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = CursorFile::new(dir.path().join("cursor"));
        assert_eq!(file.read().unwrap(), None);
        let cursor = Cursor::new(vec![LogCursor::earliest(); 3].into(), None);
        for _ in 0..2 {
            file.write(&cursor).unwrap();
            assert_eq!(file.read().unwrap().as_ref(), Some(&cursor));
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
        fs::write(dir.path().join("cursor"), "ff1:AAAA").unwrap();
        let refused = file.read().unwrap_err().to_string();
        assert!(refused.contains("cursor file") && refused.contains("garbled"), "{refused}");
    }
}
