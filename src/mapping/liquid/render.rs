//! The nodes of a template, and what they do when it is rendered.

use std::ops::ControlFlow;

use super::budget::{RenderError, VALUE_BYTES_MAX};
use super::expression::{Chain, Operand, Scope};
use super::val::Val;

/// A node and its position, which is put behind each error.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) action: Action,
    pub(super) place: String,
}

/// What a node does.
#[derive(Debug)]
pub(super) enum Action {
    Nothing,
    Text(String),
    Output(Chain),
    Assign(String, Chain),
    Capture(String, Vec<Node>),
    If {
        branches: Vec<Branch>,
        otherwise: Option<Vec<Node>>,
    },
    /// Prints a number of the message, as far as this rendering has changed it, adding to it before and after.
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
    /// Ends the rendering.
    Stop,
    Group(Vec<Node>),
}

/// A branch of `if` or `unless`, taken if its test is as wanted.
#[derive(Debug)]
pub(super) struct Branch {
    pub(super) test: Chain,
    pub(super) wanted: bool,
    pub(super) body: Vec<Node>,
}

/// Renders nodes one after the other. `Break` means that the rendering ends here, without an error.
pub(super) fn render(
    nodes: &[Node],
    scope: &mut Scope,
    out: &mut Output,
) -> Result<ControlFlow<()>, String> {
    for node in nodes {
        if node.render(scope, out)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

impl Node {
    fn render(&self, scope: &mut Scope, out: &mut Output) -> Result<ControlFlow<()>, String> {
        let placed = |error: RenderError| error.at(&self.place);
        match &self.action {
            Action::Nothing => {}
            Action::Text(text) => out.push(text).map_err(placed)?,
            Action::Output(chain) => {
                let value = chain.value(scope).map_err(placed)?;
                out.push(&value.text()).map_err(placed)?;
            }
            Action::Assign(name, chain) => {
                let value = chain.value(scope).map_err(placed)?;
                scope.locals.insert(name.clone(), value);
            }
            Action::Capture(name, body) => {
                let mut captured = Output::default();
                let flow = render(body, scope, &mut captured)?;
                scope.locals.insert(name.clone(), Val::from(captured.into_text()));
                return Ok(flow);
            }
            Action::If { branches, otherwise } => {
                for branch in branches {
                    let value = branch.test.value(scope).map_err(placed)?;
                    if value.is_truthy() == branch.wanted {
                        return render(&branch.body, scope, out);
                    }
                }
                if let Some(body) = otherwise {
                    return render(body, scope, out);
                }
            }
            Action::Count { name, input, before, after } => {
                let message = scope.inputs.get(*input).map(Val::plain);
                let known = message.and_then(|value| value.as_f64()).unwrap_or(0.0);
                let count = scope.counters.entry(name.clone()).or_insert(known);
                let printed = *count + before;
                *count = printed + after;
                out.push(&Val::number(printed).text()).map_err(placed)?;
            }
            Action::Cycle { group, candidates } => {
                let text = cycle(scope, group.as_ref(), candidates).map_err(placed)?;
                out.push(&text).map_err(placed)?;
            }
            Action::Stop => return Ok(ControlFlow::Break(())),
            Action::Group(body) => return render(body, scope, out),
        }
        Ok(ControlFlow::Continue(()))
    }
}

/// Returns what a cycle prints at its turn. As in LiquidJS, cycles are told apart by their group and their number of
/// candidates, and nothing is printed for a candidate that is falsy in JavaScript.
fn cycle(
    scope: &mut Scope,
    group: Option<&Operand>,
    candidates: &[Operand],
) -> Result<String, RenderError> {
    let group = group.map_or(Ok(Val::Undefined), |group| group.value(scope))?;
    let turn = scope.cycles.entry(format!("{}:{}", candidates.len(), group.js_text())).or_insert(0);
    let candidate = candidates.get(*turn);
    *turn = (*turn + 1) % candidates.len().max(1);
    let value = candidate.map_or(Ok(Val::Undefined), |candidate| candidate.value(scope))?;
    Ok(if value.plain().is_truthy() { value.text() } else { String::new() })
}

/// A string that cannot grow beyond its bound.
#[derive(Debug, Default)]
pub(super) struct Output(String);

impl Output {
    pub(super) fn into_text(self) -> String {
        self.0
    }

    fn push(&mut self, text: &str) -> Result<(), RenderError> {
        if self.0.len() + text.len() > VALUE_BYTES_MAX {
            return Err(RenderError::too_large());
        }
        self.0.push_str(text);
        Ok(())
    }
}
