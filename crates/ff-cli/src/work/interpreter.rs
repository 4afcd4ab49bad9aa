//! The interpreter of a command: a strict shell, unless the flow names another one.

use std::{
    fs::File,
    io::{self, Seek as _, Write as _},
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
};

/// The most bytes of a single argument or variable on Linux, including its terminator.
pub(crate) const ARGUMENT_BYTES: usize = 128 * 1024;
/// Longer commands are passed as a file.
const INLINE_BYTES: usize = 96 * 1024;
/// The search path if there is no `PATH`.
const USUAL_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

const SH: [&str; 3] = ["sh", "-e", "-c"];
const BASH: [&str; 5] = ["bash", "-e", "-o", "pipefail", "-c"];

/// The words of a `shell` field: a known name, or a command line that takes a command as its last argument.
///
/// # Errors
/// What is missing.
pub(crate) fn words(given: Vec<String>) -> Result<Vec<String>, String> {
    let words: Vec<String> = match <[String; 1]>::try_from(given) {
        Ok([line]) => line.split_whitespace().map(str::to_owned).collect(),
        Err(words) => words,
    };
    if words.iter().any(|word| word.contains('\0')) {
        return Err("a NUL character cannot be passed to a program".to_owned());
    }
    match words.as_slice() {
        [name] if name == "sh" => Ok(SH.map(str::to_owned).to_vec()),
        [name] if name == "bash" => Ok(BASH.map(str::to_owned).to_vec()),
        [] => Err("expected `sh`, `bash`, or a command line such as `python3 -c`".to_owned()),
        [name] => Err(format!(
            "`{}` needs the option that takes a command, as in `python3 -c`; only `sh` and `bash` do without",
            name.escape_debug()
        )),
        _ => Ok(words),
    }
}

/// Whether it accepts commands of any length, because it can also read a file.
pub(crate) fn takes_files(words: Option<&[String]>) -> bool {
    words.is_none_or(|words| words.last().is_some_and(|option| is_command_option(option)))
}

/// Whether the option is `-c`, possibly combined with other letters: without it, shells and interpreters take a file.
fn is_command_option(word: &str) -> bool {
    word.strip_prefix('-')
        .is_some_and(|letters| letters.ends_with('c') && letters.chars().all(|letter| letter.is_ascii_alphabetic()))
}

/// A program and its arguments before the command.
pub(crate) struct Interpreter {
    program: PathBuf,
    words: Vec<String>,
}

impl Interpreter {
    /// The requested interpreter, or the strictest available one.
    ///
    /// # Errors
    /// A sentence that names the program and the path.
    pub(crate) fn choose(asked: Option<&[String]>, path: Option<&str>) -> Result<Self, String> {
        let path = path.unwrap_or(USUAL_PATH);
        let strings = |words: &[&str]| words.iter().copied().map(str::to_owned).collect::<Vec<_>>();
        let candidates = match asked {
            Some(words) => vec![words.to_vec()],
            None => vec![strings(&BASH), strings(&SH)],
        };
        for words in &candidates {
            if let Some(program) = words.first().and_then(|name| find(name, path)) {
                return Ok(Self { program, words: words.clone() });
            }
        }
        let name = candidates.last().and_then(|words| words.first()).map_or("sh", String::as_str);
        let hint = match path.contains('$') {
            true => "; values of env are used without expansion: extend PATH in `run` instead of `env`",
            false => "",
        };
        let shown: String = path.chars().take(200).flat_map(char::escape_debug).collect();
        Err(format!("`{name}` was not found on the PATH of this execution, `{shown}`{hint}"))
    }

    pub(crate) fn program(&self) -> &Path {
        &self.program
    }

    pub(crate) fn name(&self) -> &str {
        &self.words[0]
    }

    /// The arguments for this command, and the file that contains it if it is too long for an argument.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(crate) fn arguments(&self, text: &str) -> io::Result<(Vec<String>, Option<File>)> {
        let mut arguments = self.words[1..].to_vec();
        if text.len() <= INLINE_BYTES || !takes_files(Some(&self.words)) {
            arguments.push(text.to_owned());
            return Ok((arguments, None));
        }
        let mut file = inherited_file()?;
        file.write_all(text.as_bytes())?;
        file.rewind()?;
        if let Some(option) = arguments.pop() {
            let letters = &option[..option.len() - 1];
            arguments.extend((letters != "-").then(|| letters.to_owned()));
        }
        arguments.push(format!("/dev/fd/{}", file.as_raw_fd()));
        Ok((arguments, Some(file)))
    }
}

/// An unnamed file that a child process inherits.
#[cfg(target_os = "linux")]
fn inherited_file() -> io::Result<File> {
    use rustix::fs::{MemfdFlags, memfd_create};
    Ok(File::from(memfd_create("command", MemfdFlags::empty())?))
}

#[cfg(not(target_os = "linux"))]
fn inherited_file() -> io::Result<File> {
    use rustix::io::{FdFlags, fcntl_setfd};
    let path = std::env::temp_dir().join(format!("ff-{}", uuid::Uuid::new_v4()));
    let file = File::options().read(true).write(true).create_new(true).open(&path)?;
    std::fs::remove_file(&path)?;
    fcntl_setfd(&file, FdFlags::empty())?;
    Ok(file)
}

fn find(name: &str, path: &str) -> Option<PathBuf> {
    if name.contains('/') {
        return Some(PathBuf::from(name));
    }
    let is_program = |file: &PathBuf| file.is_file() && rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok();
    path.split(':')
        .map(|directory| Path::new(if directory.is_empty() { "." } else { directory }).join(name))
        .find(is_program)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(words: &[&str]) -> Result<Vec<String>, String> {
        super::words(words.iter().copied().map(str::to_owned).collect())
    }

    #[test]
    fn a_name_stands_for_a_strict_shell_and_a_command_line_for_itself() {
        assert_eq!(given(&["sh"]).unwrap(), SH);
        assert_eq!(given(&["bash"]).unwrap(), BASH);
        assert_eq!(given(&["sh -c"]).unwrap(), ["sh", "-c"]);
        assert_eq!(given(&["python3", "-u", "-c"]).unwrap(), ["python3", "-u", "-c"]);
        assert!(given(&["python3"]).unwrap_err().contains("`python3 -c`"));
        assert!(given(&[" "]).unwrap_err().contains("`bash`"));
        assert!(given(&[]).is_err());
    }

    #[test]
    fn without_a_shell_the_message_names_it_and_the_path_and_why() {
        let error = Interpreter::choose(None, Some("/opt/tool/bin:$PATH")).err().unwrap();
        assert!(error.contains("`sh`") && error.contains("/opt/tool/bin:$PATH"), "{error}");
        assert!(error.contains("without expansion"), "{error}");
        let words = ["python9".to_owned(), "-c".to_owned()];
        let error = Interpreter::choose(Some(&words), Some("/bin")).err().unwrap();
        assert!(error.contains("`python9`") && !error.contains("expansion"), "{error}");
    }

    #[test]
    fn a_long_text_is_a_file_in_place_of_the_option() {
        let interpreter = Interpreter { program: "bash".into(), words: BASH.map(str::to_owned).to_vec() };
        assert_eq!(interpreter.arguments("true").unwrap().0, ["-e", "-o", "pipefail", "-c", "true"]);
        let (arguments, file) = interpreter.arguments(&"#".repeat(200_000)).unwrap();
        assert_eq!(arguments[..3], ["-e", "-o", "pipefail"]);
        assert!(arguments[3].starts_with("/dev/fd/") && arguments.len() == 4 && file.is_some());
        let combined = Interpreter { program: "sh".into(), words: vec!["sh".into(), "-exc".into()] };
        assert_eq!(combined.arguments(&"#".repeat(200_000)).unwrap().0[0], "-ex");
    }
}
