//! The arguments of a command, converted from Lua.
//!
//! A Lua value that Rust holds needs a handle, which costs several times as much as copying a short text. The tuples
//! here take texts off Lua's stack without a handle.

use mlua::{BString, Either, FromLuaMulti, MultiValue, Variadic};

use crate::keyspace::number;

/// How numbers among a command's arguments are converted to text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Numbers {
    /// As the server writes them.
    AsServer,
    /// As Lua writes them: the same for integers of up to 14 digits, and much faster for all arguments. For a library
    /// that passes no other numbers; it also gets no error when the last argument is nil.
    AsLua,
}

/// The reason why arguments are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    None,
    Type,
}

/// Arguments of a command, as passed.
pub(super) trait Arguments: FromLuaMulti + 'static {
    /// Passes their texts to `take`.
    fn with_texts<R>(&self, take: impl FnOnce(Result<&[&[u8]], Refusal>) -> R) -> R;
}

/// A text, or `Right` for a value without one; `None` for nil and for a missing argument.
type One = Option<Either<BString, bool>>;
type Eight<Rest> = (One, One, One, One, One, One, One, One, Rest);

/// Any number of arguments; those beyond the 24th need handles. Every place has a cost, used or not, and most commands
/// have fewer than eight arguments.
pub(super) type Texts = Eight<Eight<Eight<Variadic<One>>>>;

/// Appends texts to the previous ones. Fails for a value without a text, and for a value after a nil.
trait Collect {
    fn collect<'a>(&'a self, texts: &mut Vec<&'a [u8]>, ended: &mut bool) -> Result<(), Refusal>;
}

impl Collect for One {
    fn collect<'a>(&'a self, texts: &mut Vec<&'a [u8]>, ended: &mut bool) -> Result<(), Refusal> {
        match self {
            None => *ended = true,
            Some(Either::Left(text)) if !*ended => texts.push(text.as_slice()),
            Some(_) => return Err(Refusal::Type),
        }
        Ok(())
    }
}

impl Collect for Variadic<One> {
    fn collect<'a>(&'a self, texts: &mut Vec<&'a [u8]>, ended: &mut bool) -> Result<(), Refusal> {
        self.iter().try_for_each(|one| one.collect(texts, ended))
    }
}

impl<Rest: Collect> Collect for Eight<Rest> {
    fn collect<'a>(&'a self, texts: &mut Vec<&'a [u8]>, ended: &mut bool) -> Result<(), Refusal> {
        let (a, b, c, d, e, f, g, h, rest) = self;
        for one in [a, b, c, d, e, f, g, h] {
            one.collect(texts, ended)?;
        }
        rest.collect(texts, ended)
    }
}

impl Arguments for Texts {
    fn with_texts<R>(&self, take: impl FnOnce(Result<&[&[u8]], Refusal>) -> R) -> R {
        let mut texts = Vec::with_capacity(16);
        let collected = self.collect(&mut texts, &mut false);
        take(match collected {
            Ok(()) if texts.is_empty() => Err(Refusal::None),
            Ok(()) => Ok(&texts),
            Err(refusal) => Err(refusal),
        })
    }
}

/// One argument: the bytes of a string, or the text of a number.
enum Argument<'a> {
    String(mlua::BorrowedBytes<'a>),
    Number(String),
}

impl AsRef<[u8]> for Argument<'_> {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::String(bytes) => bytes,
            Self::Number(text) => text.as_bytes(),
        }
    }
}

fn argument(value: &mlua::Value) -> Option<Argument<'_>> {
    match value {
        #[allow(clippy::cast_precision_loss, reason = "Lua 5.1 has floats only; this is one that was cast")]
        &mlua::Value::Integer(number) => Some(Argument::Number(number::write_float(number as f64))),
        &mlua::Value::Number(number) => Some(Argument::Number(number::write_float(number))),
        mlua::Value::String(text) => Some(Argument::String(text.as_bytes())),
        _ => None,
    }
}

/// Any number of arguments, each with a handle that has its type.
pub(super) type Values = MultiValue;

impl Arguments for Values {
    fn with_texts<R>(&self, take: impl FnOnce(Result<&[&[u8]], Refusal>) -> R) -> R {
        if self.is_empty() {
            return take(Err(Refusal::None));
        }
        let Some(arguments) = self.iter().map(argument).collect::<Option<Vec<_>>>() else {
            return take(Err(Refusal::Type));
        };
        let texts: Vec<&[u8]> = arguments.iter().map(AsRef::as_ref).collect();
        take(Ok(&texts))
    }
}
