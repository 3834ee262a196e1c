//! Compiles a template's tokens to its tree.
//!
//! The tree is built by recursive descent: a block reads the tokens after its opening tag up to its end, and the tags
//! among them in the same way. `tags` and `blocks` read each tag. The first error ends the compilation.
//!
//! The length of a template bounds the depth of the recursion: 142 opening tags fit if each is a tag of its own
//! (`{%if<%}`), and 247 as lines within `{% liquid %}` (`if<`).

use super::budget::TEMPLATE_UNITS_MAX;
use super::expression::Inputs;
use super::read::Reader;
use super::render::{Action, Node};
use super::scan::{Kind, Token};
use super::text::Text;

/// The tags that Segment disables.
const DISABLED: [&str; 6] = ["case", "for", "include", "layout", "render", "tablerow"];

/// Compiles a template to its tree and to what it reads of a message. The error is LiquidJS' own.
pub(super) fn compile(text: &str) -> Result<(Vec<Node>, Inputs), String> {
    let text = Text::new(text);
    if text.len() > TEMPLATE_UNITS_MAX {
        return Err(format!(
            "liquid template values are limited to {TEMPLATE_UNITS_MAX} characters"
        ));
    }
    let tokens = text.tokens()?;
    let mut compiler = Compiler { text: &text, inputs: Inputs::default(), disabled: None };
    let nodes = compiler.nodes(&tokens)?;
    compiler.disabled.map_or(Ok(()), Err)?;
    Ok((nodes, compiler.inputs))
}

/// The tokens that are still to be read.
pub(super) type Tokens<'a> = std::slice::Iter<'a, Token>;

/// A template while it is compiled.
pub(super) struct Compiler<'t> {
    pub(super) text: &'t Text,
    inputs: Inputs,
    /// The error of the first disabled filter. Errors of syntax go before it, since LiquidJS finds them first.
    disabled: Option<String>,
}

impl Compiler<'_> {
    /// Compiles a whole template, or the tags within `{% liquid %}`.
    pub(super) fn nodes(&mut self, tokens: &[Token]) -> Result<Vec<Node>, String> {
        let mut rest = tokens.iter();
        let mut nodes = Vec::new();
        while let Some(token) = rest.next() {
            nodes.push(self.node(token, &mut rest)?);
        }
        Ok(nodes)
    }

    /// Compiles a token; the tokens up to its end if it opens a block.
    pub(super) fn node(&mut self, token: &Token, rest: &mut Tokens<'_>) -> Result<Node, String> {
        let action = match &token.kind {
            Kind::Text(text) => Action::Text(text.clone()),
            Kind::Output => Action::Output(self.read(token, token, |reader| reader.chain())?),
            Kind::Tag(name) => self.tag(name, token, rest)?,
        };
        Ok(Node { action, place: self.text.place(token.begin) })
    }

    fn tag(&mut self, name: &str, token: &Token, rest: &mut Tokens<'_>) -> Result<Action, String> {
        match name {
            "if" | "unless" => self.condition(token, rest),
            "capture" => self.capture(token, rest),
            "comment" => self.verbatim(token, rest, "endcomment").map(|_| Action::Nothing),
            "raw" => self.verbatim(token, rest, "endraw").map(Action::Text),
            "block" => self.block(token, rest, "endblock").map(Action::Group),
            "liquid" => self.lines(token),
            "#" => self.remark(token),
            "assign" => self.assign(token),
            "echo" => self.echo(token),
            "increment" => self.increment(token),
            "decrement" => self.decrement(token),
            "cycle" => self.cycle(token),
            // There is no loop to leave.
            "break" | "continue" => Ok(Action::Stop),
            name if DISABLED.contains(&name) => {
                Err(self.error(&format!("tag \"{name}\" is disabled"), token))
            }
            name => Err(self.error(&format!("tag \"{name}\" not found"), token)),
        }
    }

    /// Returns an error at the position of a tag.
    pub(super) fn error(&self, problem: &str, tag: &Token) -> String {
        self.text.error(problem, tag.begin)
    }

    /// Reads from the arguments of `token`, which belong to the tag at `opening`.
    pub(super) fn read<T>(
        &mut self,
        token: &Token,
        opening: &Token,
        read: impl FnOnce(&mut Reader<'_>) -> Result<T, String>,
    ) -> Result<T, String> {
        let mut reader = Reader::new(self.text, token.args, &mut self.inputs);
        let value = read(&mut reader);
        let disabled = reader.disabled.take();
        if let Some(name) = disabled {
            let error = self.error(&format!("filter \"{name}\" is disabled"), opening);
            self.disabled.get_or_insert(error);
        }
        value
    }
}
