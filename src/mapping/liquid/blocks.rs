//! The tags that contain others up to their end: what they say and contain.

use super::compile::{Compiler, Tokens};
use super::render::{Action, Branch, Node};
use super::scan::Token;
use super::val::Val;
use crate::js::Value;

impl Compiler<'_> {
    /// Returns the next token of a block; an error if the template ends first.
    fn next<'a>(&self, opening: &Token, rest: &mut Tokens<'a>) -> Result<&'a Token, String> {
        rest.next().ok_or_else(|| {
            let tag = self.text.slice(opening.begin, opening.end);
            self.error(&format!("tag {tag} not closed"), opening)
        })
    }

    /// Returns the source between a block's tags.
    pub(super) fn verbatim(
        &self,
        opening: &Token,
        rest: &mut Tokens<'_>,
        end: &str,
    ) -> Result<String, String> {
        let mut text = String::new();
        loop {
            let token = self.next(opening, rest)?;
            if token.name() == end {
                return Ok(text);
            }
            text.push_str(&self.text.slice(token.begin, token.end));
        }
    }

    /// Compiles what is between a block's tags.
    pub(super) fn block(
        &mut self,
        opening: &Token,
        rest: &mut Tokens<'_>,
        end: &str,
    ) -> Result<Vec<Node>, String> {
        let mut nodes = Vec::new();
        loop {
            let token = self.next(opening, rest)?;
            if token.name() == end {
                return Ok(nodes);
            }
            nodes.push(self.node(token, rest)?);
        }
    }

    /// `{% capture name %}…{% endcapture %}`
    pub(super) fn capture(
        &mut self,
        opening: &Token,
        rest: &mut Tokens<'_>,
    ) -> Result<Action, String> {
        let name = self.read(opening, opening, |reader| {
            let name = reader.word();
            let name = if name.is_empty() { reader.quoted() } else { Some(Val::from(name)) };
            name.map_or_else(|| reader.error("invalid capture name"), Ok)
        })?;
        let body = self.block(opening, rest, "endcapture")?;
        Ok(Action::Capture(name.js_text(), body))
    }

    /// `if` and `unless`. An `if` has one `else` at most, as its last branch; `unless` ignores what comes after
    /// its first.
    pub(super) fn condition(
        &mut self,
        opening: &Token,
        rest: &mut Tokens<'_>,
    ) -> Result<Action, String> {
        let is_if = opening.name() == "if";
        let mut tests = vec![(self.read(opening, opening, |reader| reader.chain())?, is_if)];
        // One body for each test, then one for each `else`.
        let mut bodies: Vec<Vec<Node>> = vec![Vec::new()];
        loop {
            let token = self.next(opening, rest)?;
            let has_else = bodies.len() > tests.len();
            match token.name() {
                "elsif" if has_else && is_if => {
                    return Err(self.error("unexpected elsif after else", opening));
                }
                "elsif" if has_else => bodies.push(Vec::new()),
                "elsif" => {
                    tests.push((self.read(token, opening, |reader| reader.chain())?, true));
                    bodies.push(Vec::new());
                }
                "else" => {
                    self.without_arguments(token, opening)?;
                    if has_else && is_if {
                        return Err(self.error("duplicated else", opening));
                    }
                    bodies.push(Vec::new());
                }
                end if (end == "endif" && is_if) || (end == "endunless" && !is_if) => {
                    self.without_arguments(token, opening)?;
                    break;
                }
                _ => {
                    let node = self.node(token, rest)?;
                    if let Some(body) = bodies.last_mut() {
                        body.push(node);
                    }
                }
            }
        }
        let mut bodies = bodies.into_iter();
        let branches = tests.into_iter().zip(bodies.by_ref());
        let branches =
            branches.map(|((test, wanted), body)| Branch { test, wanted, body }).collect();
        Ok(Action::If { branches, otherwise: bodies.next() })
    }

    /// The `else` and the end of an `if` have no arguments; those of `unless` may.
    fn without_arguments(&self, token: &Token, opening: &Token) -> Result<(), String> {
        match self.text.slice(token.args.0, token.args.1) {
            args if args.is_empty() || opening.name() != "if" => Ok(()),
            args => {
                let args = Value::String(args).to_json();
                Err(self.error(&format!("unexpected {args}"), opening))
            }
        }
    }
}
