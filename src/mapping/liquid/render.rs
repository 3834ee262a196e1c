//! What the nodes of a template do when it is rendered. The crate runs them one after the other.

use std::io::{self, Write};

use liquid_core::runtime::{Interrupt, InterruptRegister};
use liquid_core::{Error, Renderable, Result, Runtime, Template};

use super::expression::{Chain, Operand, Scope};
use super::val::Val;
use super::{Fault, TOO_LARGE, VALUE_BYTES_MAX};

/// A node and its place, which is put behind each error.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) action: Action,
    pub(super) place: String,
}

/// What a node does. A closed enum.
#[derive(Debug)]
pub(super) enum Action {
    Text(String),
    Output(Chain),
    Assign(String, Chain),
    Capture(String, Template),
    If {
        branches: Vec<Branch>,
        otherwise: Option<Template>,
    },
    /// Adds to a number of the message, as far as this rendering sees it, and prints it in between.
    Count {
        name: String,
        input: usize,
        before: f64,
        after: f64,
    },
    Cycle {
        group: Option<Operand>,
        candidates: Vec<Operand>,
    },
    /// Ends the rendering: there is no loop to leave.
    Stop(Interrupt),
    Group(Template),
}

/// A branch of `if` or `unless`, taken if its test is as wanted.
#[derive(Debug)]
pub(super) struct Branch {
    pub(super) test: Chain,
    pub(super) wanted: bool,
    pub(super) body: Template,
}

impl Renderable for Node {
    fn render_to(&self, writer: &mut dyn Write, runtime: &dyn Runtime) -> Result<()> {
        match &self.action {
            Action::Text(text) => self.print(writer, runtime, text),
            Action::Output(chain) => {
                let value = self.in_scope(runtime, |scope| chain.value(scope))?;
                self.print(writer, runtime, &value.text())
            }
            Action::Assign(name, chain) => self.in_scope(runtime, |scope| {
                let value = chain.value(scope)?;
                scope.locals.insert(name.clone(), value);
                Ok(())
            }),
            Action::Capture(name, body) => {
                let mut captured = Bounded::default();
                body.render_to(&mut captured, runtime)?;
                let value = Val::from(captured.into_text());
                self.in_scope(runtime, |scope| {
                    scope.locals.insert(name.clone(), value);
                    Ok(())
                })
            }
            Action::If { branches, otherwise } => {
                for branch in branches {
                    let value = self.in_scope(runtime, |scope| branch.test.value(scope))?;
                    if value.is_truthy() == branch.wanted {
                        return branch.body.render_to(writer, runtime);
                    }
                }
                otherwise.as_ref().map_or(Ok(()), |body| body.render_to(writer, runtime))
            }
            Action::Count { name, input, before, after } => {
                let printed = self.in_scope(runtime, |scope| {
                    let message = scope.inputs.get(*input).map(Val::plain);
                    let known = message.and_then(|value| value.as_f64()).unwrap_or(0.0);
                    let count = scope.counters.entry(name.clone()).or_insert(known);
                    let printed = *count + before;
                    *count = printed + after;
                    Ok(printed)
                })?;
                self.print(writer, runtime, &Val::number(printed).text())
            }
            Action::Cycle { group, candidates } => {
                let value =
                    self.in_scope(runtime, |scope| cycle(scope, group.as_ref(), candidates))?;
                self.print(writer, runtime, &value)
            }
            Action::Stop(interrupt) => {
                runtime.registers().get_mut::<InterruptRegister>().set(*interrupt);
                Ok(())
            }
            Action::Group(body) => body.render_to(writer, runtime),
        }
    }
}

/// The turn of a cycle. LiquidJS tells cycles apart by their group and how many candidates they have;
/// and prints nothing for a candidate that JavaScript takes for false.
fn cycle(
    scope: &mut Scope,
    group: Option<&Operand>,
    candidates: &[Operand],
) -> std::result::Result<String, Fault> {
    let group = group.map_or(Ok(Val::Undefined), |group| group.value(scope))?;
    let turn = scope.cycles.entry(format!("{}:{}", candidates.len(), group.js_text())).or_insert(0);
    let candidate = candidates.get(*turn);
    *turn = (*turn + 1) % candidates.len().max(1);
    let value = candidate.map_or(Ok(Val::Undefined), |candidate| candidate.value(scope))?;
    Ok(if value.plain().is_truthy() { value.text() } else { String::new() })
}

impl Node {
    fn in_scope<T>(
        &self,
        runtime: &dyn Runtime,
        act: impl FnOnce(&mut Scope) -> std::result::Result<T, Fault>,
    ) -> Result<T> {
        let mut scope = runtime.registers().get_mut::<Scope>();
        act(&mut scope).map_err(|fault| {
            let error = match fault {
                Fault::Here(problem) => format!("{problem}{}", self.place),
                Fault::Placed(error) => error,
            };
            scope.error.get_or_insert(error);
            Error::with_msg("the template cannot be rendered")
        })
    }

    fn print(&self, writer: &mut dyn Write, runtime: &dyn Runtime, text: &str) -> Result<()> {
        let written = writer.write_all(text.as_bytes());
        self.in_scope(runtime, |_| written.map_err(|_| Fault::new(TOO_LARGE)))
    }
}

/// A text that cannot grow beyond the bound.
#[derive(Debug, Default)]
pub(super) struct Bounded(Vec<u8>);

impl Bounded {
    pub(super) fn into_text(self) -> String {
        // Whole texts are written, so that nothing is lost.
        String::from_utf8(self.0).unwrap_or_default()
    }
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > VALUE_BYTES_MAX {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
