//! Expressions: their compiled form, and their values for a message.

use std::cmp::Ordering;
use std::collections::HashMap;

use super::budget::{Budget, RenderError};
use super::lookup::{walk, walk_val};
use super::val::{Val, compare, contains, equals};
use crate::js::{Object, Value};

/// An expression with its filters.
#[derive(Debug)]
pub(super) struct Chain {
    /// In postfix order.
    pub(super) terms: Vec<Term>,
    pub(super) filters: Vec<Call>,
}

#[derive(Debug)]
pub(super) enum Term {
    Operand(Operand),
    Operator(Operator),
}

/// A filter. Its input is within the budget already; its output is charged afterwards.
pub(super) type Filter = fn(Val, &[Val], &mut Budget) -> Result<Val, RenderError>;

/// A filter and its arguments, each perhaps with a key.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) filter: Filter,
    pub(super) args: Vec<(Option<String>, Option<Operand>)>,
}

#[derive(Debug)]
pub(super) enum Operand {
    Literal(Val),
    Range(Box<(Operand, Operand)>),
    Path(Path),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operator {
    Equal,
    NotEqual,
    AtLeast,
    AtMost,
    More,
    Less,
    Contains,
    Not,
    And,
    Or,
}

impl Operator {
    /// All operators as they are written; one that another one starts with comes after it.
    pub(super) const ALL: [(&str, Operator); 10] = [
        ("==", Operator::Equal),
        ("!=", Operator::NotEqual),
        (">=", Operator::AtLeast),
        ("<=", Operator::AtMost),
        (">", Operator::More),
        ("<", Operator::Less),
        ("contains", Operator::Contains),
        ("not", Operator::Not),
        ("and", Operator::And),
        ("or", Operator::Or),
    ];

    pub(super) fn precedence(self) -> u8 {
        match self {
            Operator::Not => 1,
            Operator::And | Operator::Or => 0,
            _ => 2,
        }
    }

    fn holds(self, left: &Val, right: &Val) -> bool {
        let order = || compare(left, right);
        match self {
            Operator::Equal => equals(left, right),
            Operator::NotEqual => !equals(left, right),
            Operator::AtLeast => order().is_some_and(Ordering::is_ge),
            Operator::AtMost => order().is_some_and(Ordering::is_le),
            Operator::More => order().is_some_and(Ordering::is_gt),
            Operator::Less => order().is_some_and(Ordering::is_lt),
            Operator::Contains => contains(left, right),
            Operator::Not => !right.is_truthy(),
            Operator::And => left.is_truthy() && right.is_truthy(),
            Operator::Or => left.is_truthy() || right.is_truthy(),
        }
    }
}

/// A variable, or members of a literal.
#[derive(Debug)]
pub(super) struct Path {
    start: Option<Box<Operand>>,
    props: Vec<Operand>,
    /// The index of the message's value among the inputs, and how many props lead there.
    input: usize,
    taken: usize,
}

impl Path {
    pub(super) fn new(start: Option<Operand>, props: Vec<Operand>, inputs: &mut Inputs) -> Self {
        let literal = |prop: &Operand| match prop {
            Operand::Literal(literal) => Some(literal.clone()),
            _ => None,
        };
        let known: Vec<Val> = props.iter().map_while(literal).collect();
        let taken = known.len();
        let input = if start.is_none() { inputs.add(known) } else { 0 };
        Self { start: start.map(Box::new), props, input, taken }
    }

    fn value(&self, scope: &mut Scope) -> Result<Val, RenderError> {
        scope.budget.spend(self.props.len())?;
        let keys = self.props.iter().map(|prop| prop.value(scope));
        let keys = keys.collect::<Result<Vec<Val>, RenderError>>()?;
        if let Some(start) = &self.start {
            return Ok(walk_val(&start.value(scope)?, &keys));
        }
        let Some((name, rest)) = keys.split_first() else {
            return Ok(Val::Undefined);
        };
        let name = name.js_text();
        if let Some(local) = scope.locals.get(&name) {
            return Ok(walk_val(local, rest));
        }
        if let Some(count) = scope.counters.get(&name) {
            return Ok(walk_val(&Val::number(*count), rest));
        }
        let input = scope.inputs.get(self.input).unwrap_or(&Val::Undefined);
        Ok(walk_val(input, keys.get(self.taken..).unwrap_or_default()))
    }
}

/// The paths of the message that a template reads, so that a rendering copies nothing else.
#[derive(Debug, Default, Clone)]
pub(super) struct Inputs(Vec<Vec<Val>>);

impl Inputs {
    /// Adds a path, if it is new, and returns its index.
    pub(super) fn add(&mut self, path: Vec<Val>) -> usize {
        self.0.iter().position(|known| *known == path).unwrap_or_else(|| {
            self.0.push(path);
            self.0.len() - 1
        })
    }

    /// Returns what `message` has at the paths.
    pub(super) fn of(&self, message: &Value) -> Vec<Val> {
        // What a message lacks is looked up in an empty object, as in LiquidJS: `{{ size }}` is 0.
        let nowhere = Value::Object(Object::new());
        let has = |path: &[Val]| {
            path.first().is_none_or(|name| message.member(&name.js_text()).is_some())
        };
        let root = |path: &[Val]| if has(path) { message } else { &nowhere };
        let found = self.0.iter().map(|path| walk(root(path), path));
        found.map(|found| found.map_or(Val::Undefined, |v| Val::Is(v.into_owned()))).collect()
    }
}

/// The state of a rendering.
#[derive(Debug, Default)]
pub(super) struct Scope {
    /// What the message has at the template's inputs.
    pub(super) inputs: Vec<Val>,
    /// Set by `assign` and `capture`.
    pub(super) locals: HashMap<String, Val>,
    /// Set by `increment` and `decrement`.
    pub(super) counters: HashMap<String, f64>,
    /// The turn of each `cycle`.
    pub(super) cycles: HashMap<String, usize>,
    pub(super) budget: Budget,
}

impl Operand {
    pub(super) fn value(&self, scope: &mut Scope) -> Result<Val, RenderError> {
        match self {
            Operand::Literal(literal) => Ok(literal.clone()),
            Operand::Path(path) => path.value(scope),
            Operand::Range(ends) => {
                let (low, high) =
                    (ends.0.value(scope)?.to_number(), ends.1.value(scope)?.to_number());
                let mut items = Vec::new();
                let mut item = low;
                while item < high + 1.0 {
                    scope.budget.spend_items(1)?;
                    items.push(Value::Number(item));
                    item += 1.0;
                }
                Ok(Val::list(items))
            }
        }
    }
}

impl Chain {
    pub(super) fn value(&self, scope: &mut Scope) -> Result<Val, RenderError> {
        let mut value = self.initial(scope)?;
        for call in &self.filters {
            let args = call.args.iter().map(|(key, operand)| {
                let value = operand.as_ref().map_or(Ok(Val::Undefined), |o| o.value(scope))?;
                // A filter gets an argument with a key as a pair, as in LiquidJS.
                Ok(match key {
                    Some(key) => Val::list(vec![key.as_str().into(), value.plain().into_owned()]),
                    None => value,
                })
            });
            let args = args.collect::<Result<Vec<Val>, RenderError>>()?;
            value = (call.filter)(value, &args, &mut scope.budget)?;
            scope.budget.spend_val(&value)?;
        }
        Ok(value)
    }

    /// Returns the value without its filters.
    fn initial(&self, scope: &mut Scope) -> Result<Val, RenderError> {
        let mut values: Vec<Val> = Vec::new();
        for term in &self.terms {
            let value = match term {
                Term::Operand(operand) => operand.value(scope)?,
                Term::Operator(operator) => {
                    let right = values.pop().unwrap_or_default();
                    let left = match operator {
                        Operator::Not => Val::Undefined,
                        _ => values.pop().unwrap_or_default(),
                    };
                    Val::bool(operator.holds(&left, &right))
                }
            };
            values.push(value);
        }
        // Of operands without an operator between them, the first one counts, as in LiquidJS.
        Ok(values.into_iter().next().unwrap_or_default())
    }
}
