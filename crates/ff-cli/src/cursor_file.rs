//! A cursor in a file. The program reads it at the start and replaces it atomically. If the program is killed, the file
//! holds the old cursor or the new one.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use ff_core::Cursor;

use crate::{failure::CliError, text};

/// The fix for a file without a valid cursor.
const FIX: &str = "restore a copy of it, or delete it and start with --from";

#[derive(Debug)]
pub(crate) struct CursorFile(PathBuf);

impl CursorFile {
    pub(crate) const fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// The cursor in the file; `None` if there is no file yet.
    pub(crate) fn read(&self) -> Result<Option<Cursor>, CliError> {
        let refused = |why: String| CliError::usage(self.name(), why);
        let bytes = match text::small_file(&self.0) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(refused(error.to_string())),
        };
        let text = text::decoded(bytes).map_err(|why| refused(format!("{why}; {FIX}")))?;
        if text.trim().is_empty() {
            return Err(refused(format!("it is empty, so this program did not write it; {FIX}")));
        }
        text.trim().parse().map(Some).map_err(|error| refused(format!("{error}; the file may be cut short; {FIX}")))
    }

    /// Replaces the cursor. After a crash of the machine the file holds this cursor or the previous one.
    pub(crate) fn write(&self, cursor: &Cursor) -> Result<(), CliError> {
        // The file behind a link is replaced, not the link.
        let path = fs::canonicalize(&self.0).unwrap_or_else(|_| self.0.clone());
        let mut beside = path.clone().into_os_string();
        beside.push(".new");
        replace(&path, Path::new(&beside), format!("{cursor}\n").as_bytes())
            .map_err(|error| CliError::failed(self.name(), format!("it cannot be written: {error}")))
    }

    fn name(&self) -> String {
        format!("cursor file `{}`", self.0.display())
    }
}

fn replace(path: &Path, beside: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = File::create(beside)?;
    file.write_all(content)?;
    // Sync before the rename. Otherwise a crash could leave the new name with missing content.
    file.sync_all()?;
    fs::rename(beside, path)?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use ff_core::reader::LogCursor;

    use super::*;

    #[test]
    fn a_cursor_is_saved_and_a_malformed_file_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cursor");
        let file = CursorFile::new(path.clone());
        assert_eq!(file.read().unwrap(), None);
        let cursor = Cursor::new(vec![LogCursor::earliest(); 3].into(), None);
        for _ in 0..2 {
            file.write(&cursor).unwrap();
            assert_eq!(file.read().unwrap().as_ref(), Some(&cursor));
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no other file is left");
        let whole = fs::read(&path).unwrap();
        fs::write(&path, [b"\xef\xbb\xbf", &whole[..]].concat()).unwrap();
        assert_eq!(file.read().unwrap().as_ref(), Some(&cursor), "a byte order mark is not part of it");
        for (content, said) in
            [(&b"ff1:AAAA"[..], "garbled"), (b"", "it is empty"), (b"\n\0\n", "cut short"), (&whole[..9], "cut short")]
        {
            fs::write(&path, content).unwrap();
            let refused = file.read().unwrap_err().to_string();
            assert!(refused.contains("cursor file") && refused.contains(said), "{refused}");
            assert!(refused.contains("--from"), "{refused}");
        }
    }

    #[test]
    fn the_file_behind_a_link_gets_the_cursor_and_the_link_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("cursor"), dir.path().join("link"));
        fs::write(&file, "").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let cursor = Cursor::new(vec![LogCursor::earliest(); 3].into(), None);
        CursorFile::new(link.clone()).write(&cursor).unwrap();
        assert!(fs::symlink_metadata(link).unwrap().is_symlink());
        assert_eq!(CursorFile::new(file).read().unwrap(), Some(cursor));
    }

    #[test]
    fn a_cursor_that_cannot_be_written_leaves_the_old_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cursor");
        let file = CursorFile::new(path);
        let cursor = Cursor::new(vec![LogCursor::earliest(); 3].into(), None);
        file.write(&cursor).unwrap();
        std::os::unix::fs::symlink("/dev/full", dir.path().join("cursor.new")).unwrap();
        let refused = file.write(&Cursor::new(vec![LogCursor::earliest(); 2].into(), None)).unwrap_err().to_string();
        assert!(refused.contains("cannot be written") && refused.contains("space"), "{refused}");
        assert_eq!(file.read().unwrap().as_ref(), Some(&cursor));
    }
}
