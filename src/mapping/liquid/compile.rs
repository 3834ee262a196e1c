//! How a template becomes a tree.
//!
//! The crate is given the template as one line of numbered tags (`{% if 0 %}{% text 1 %}…`), where
//! each number stands for a token of `scan`, and nests them; its plug-ins are those of `tags` and
//! `blocks`, which read what the token says. Errors are LiquidJS' and leave through the draft, since the crate would dress them up.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use liquid_core::parser::{self, TagBlock, TagTokenIter};
use liquid_core::{
    BlockReflection, Error, Language, ParseBlock, ParseTag, Renderable, Result, TagReflection,
    Template,
};

use super::blocks::{self, MARKS, ReadBlock};
use super::expression::Inputs;
use super::read::Reader;
use super::render::{Action, Node};
use super::scan::{Kind, Token};
use super::tags::{self, ReadTag, UNKNOWN};
use super::text::Text;

/// What Segment takes out of LiquidJS.
const DISABLED: [&str; 6] = ["case", "for", "include", "layout", "render", "tablerow"];

/// Compiles a template to its tree and to what it reads of a message.
pub(super) fn compile(text: &str) -> std::result::Result<(Template, Inputs), String> {
    let text = Text::new(text);
    let tokens = text.tokens()?;
    let draft = Draft { tokens, ..Draft::default() };
    let source = Arc::new(Source { text, draft: Mutex::new(draft) });
    let language = language(&source);
    let count = source.draft().tokens.len();
    let parsed = source.parse(0..count, &language);
    let mut draft = source.draft();
    match (parsed, draft.error.take()) {
        (Err(error), None) => Err(error.to_string()),
        (_, Some(error)) => Err(error),
        (Ok(elements), None) => {
            draft.disabled.take().map_or(Ok(()), Err)?;
            Ok((Template::new(elements), std::mem::take(&mut draft.inputs)))
        }
    }
}

/// A template while it is compiled.
pub(super) struct Source {
    pub(super) text: Text,
    draft: Mutex<Draft>,
}

#[derive(Default)]
struct Draft {
    tokens: Vec<Token>,
    inputs: Inputs,
    /// The first error, as LiquidJS words it.
    error: Option<String>,
    /// The first use of a disabled filter: an error unless there is one of syntax, which LiquidJS finds first.
    disabled: Option<String>,
}

impl Source {
    fn draft(&self) -> MutexGuard<'_, Draft> {
        self.draft.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the crate nest the tokens of `range`.
    fn parse(
        &self,
        range: std::ops::Range<usize>,
        language: &Language,
    ) -> Result<Vec<Box<dyn Renderable>>> {
        let mut names = String::new();
        for (place, token) in
            self.draft().tokens.iter().enumerate().take(range.end).skip(range.start)
        {
            let name = match &token.kind {
                Kind::Text(_) => "text",
                Kind::Output => "output",
                Kind::Tag(name) => plugin_name(name),
            };
            // Writing to a String cannot fail.
            let _ = write!(names, "{{% {name} {place} %}}");
        }
        parser::parse(&names, language)
    }

    /// Has the crate nest `tokens` as a template within the template.
    pub(super) fn parse_within(&self, tokens: Vec<Token>, language: &Language) -> Result<Template> {
        let mut draft = self.draft();
        let begin = draft.tokens.len();
        draft.tokens.extend(tokens);
        let range = begin..draft.tokens.len();
        drop(draft);
        self.parse(range, language).map(Template::new)
    }

    /// Keeps a LiquidJS error and stops the crate.
    pub(super) fn fail<T>(&self, error: String) -> Result<T> {
        self.draft().error.get_or_insert(error);
        Err(Error::with_msg("the template cannot be compiled"))
    }

    pub(super) fn fail_at<T>(&self, problem: &str, token: &Token) -> Result<T> {
        self.fail(self.text.error(problem, token.begin))
    }

    pub(super) fn token(&self, place: Option<&str>) -> Result<Token> {
        let place = place.and_then(|place| place.trim().parse::<usize>().ok());
        match place.and_then(|place| self.draft().tokens.get(place).cloned()) {
            Some(token) => Ok(token),
            None => Err(Error::with_msg("a tag has lost its token")),
        }
    }

    /// Reads from the arguments of `token` for a tag that begins at `place_of`.
    pub(super) fn read<T>(
        &self,
        token: &Token,
        place_of: &Token,
        read: impl FnOnce(&mut Reader<'_>) -> std::result::Result<T, String>,
    ) -> Result<T> {
        let mut inputs = std::mem::take(&mut self.draft().inputs);
        let mut reader = Reader::new(&self.text, token.args, &mut inputs);
        let value = read(&mut reader);
        let disabled = reader.disabled.take();
        let mut draft = self.draft();
        draft.inputs = inputs;
        if let Some(name) = disabled {
            let problem = format!("filter \"{name}\" is disabled");
            draft.disabled.get_or_insert(self.text.error(&problem, place_of.begin));
        }
        drop(draft);
        value.or_else(|error| self.fail(error))
    }

    fn node(&self, token: &Token, action: Action) -> Box<dyn Renderable> {
        Box::new(Node { action, place: self.text.place(token.begin) })
    }
}

/// The name that the crate knows a tag by.
fn plugin_name(name: &str) -> &'static str {
    let known =
        tags::ALL.iter().map(|(name, _)| *name).chain(blocks::ALL.iter().map(|(name, _)| *name));
    match name {
        "#" => "remark",
        "text" | "output" | "remark" | "disabled" => UNKNOWN,
        name if DISABLED.contains(&name) => "disabled",
        name => known.into_iter().chain(MARKS).find(|known| *known == name).unwrap_or(UNKNOWN),
    }
}

fn language(source: &Arc<Source>) -> Language {
    let mut language = Language::empty();
    for (name, read) in
        tags::ALL.into_iter().chain(MARKS.map(|mark| (mark, tags::not_found as ReadTag)))
    {
        let plugin = Plugin { name, read, source: Arc::clone(source) };
        language.tags.register(name.to_owned(), plugin.into());
    }
    for (name, read) in blocks::ALL {
        let plugin = Plugin { name, read, source: Arc::clone(source) };
        language.blocks.register(name.to_owned(), plugin.into());
    }
    language
}

/// One plug-in of the crate for each tag and block.
#[derive(Clone)]
struct Plugin<R> {
    name: &'static str,
    read: R,
    source: Arc<Source>,
}

impl<R: Clone> Plugin<R> {
    fn token(&self, mut arguments: TagTokenIter<'_>) -> Result<Token> {
        let place = arguments.next();
        self.source.token(place.as_ref().map(|place| place.as_str()))
    }
}

impl TagReflection for Plugin<ReadTag> {
    fn tag(&self) -> &str {
        self.name
    }

    fn description(&self) -> &str {
        ""
    }
}

impl ParseTag for Plugin<ReadTag> {
    fn parse(
        &self,
        arguments: TagTokenIter<'_>,
        language: &Language,
    ) -> Result<Box<dyn Renderable>> {
        let token = self.token(arguments)?;
        let action = (self.read)(&self.source, &token, language)?;
        Ok(self.source.node(&token, action))
    }

    fn reflection(&self) -> &dyn TagReflection {
        self
    }
}

impl BlockReflection for Plugin<ReadBlock> {
    fn start_tag(&self) -> &str {
        self.name
    }

    /// Never comes: the readers see the end themselves, since the crate allows it no number.
    fn end_tag(&self) -> &str {
        ""
    }

    fn description(&self) -> &str {
        ""
    }
}

impl ParseBlock for Plugin<ReadBlock> {
    fn parse(
        &self,
        arguments: TagTokenIter<'_>,
        mut block: TagBlock<'_, '_>,
        language: &Language,
    ) -> Result<Box<dyn Renderable>> {
        let token = self.token(arguments)?;
        let action = (self.read)(&self.source, &token, &mut block, language)?;
        Ok(self.source.node(&token, action))
    }

    fn reflection(&self) -> &dyn BlockReflection {
        self
    }
}
