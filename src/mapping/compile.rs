//! From the written form of a mapping to nodes.

use super::path::Path;
use super::{DEPTH_MAX, If, Mapping, MappingError, Node, Test};
use crate::segment::value::{Object, Value};

impl Mapping {
    /// Compiles a mapping of fields.
    pub fn compile(written: &Value) -> Result<Self, MappingError> {
        Compiler::default().node(written).map(Self)
    }
}

#[derive(Default)]
struct Compiler {
    /// Where it is, as the parts of a JSON pointer.
    place: Vec<String>,
}

impl Compiler {
    fn error(&self, problem: impl Into<String>) -> MappingError {
        let escape = |part: &String| format!("/{}", part.replace('~', "~0").replace('/', "~1"));
        MappingError { pointer: self.place.iter().map(escape).collect(), problem: problem.into() }
    }

    fn within<T>(
        &mut self,
        part: &str,
        compile: impl FnOnce(&mut Self) -> Result<T, MappingError>,
    ) -> Result<T, MappingError> {
        if self.place.len() >= DEPTH_MAX {
            return Err(self.error(format!("nested more than {DEPTH_MAX} levels deep")));
        }
        self.place.push(part.to_owned());
        let compiled = compile(self)?;
        self.place.pop();
        Ok(compiled)
    }

    fn node(&mut self, written: &Value) -> Result<Node, MappingError> {
        match written {
            Value::Object(object) if directive(object).is_some() => self.directive(object),
            Value::Object(object) => {
                let fields = object.iter().map(|(key, value)| {
                    let node = self.within(key, |compiler| compiler.node(value))?;
                    Ok((key.to_owned(), node))
                });
                Ok(Node::Object(fields.collect::<Result<_, _>>()?))
            }
            Value::Array(items) => {
                let nodes = items.iter().enumerate().map(|(place, item)| {
                    self.within(&place.to_string(), |compiler| compiler.node(item))
                });
                Ok(Node::Array(nodes.collect::<Result<_, _>>()?))
            }
            literal => Ok(Node::Literal(literal.clone())),
        }
    }

    fn directive(&mut self, object: &Object) -> Result<Node, MappingError> {
        if object.iter().filter(|(key, _)| *key != "_metadata").count() != 1 {
            return Err(self.error("a directive stands alone in its object (but for _metadata)"));
        }
        let Some((name, value)) = directive(object) else {
            return Err(self.error("a directive is missing"));
        };
        self.within(name, |compiler| match (name, value) {
            ("@path", Value::String(path)) => Ok(Node::Path(Path::parse(path))),
            ("@path", _) => Err(compiler.error("@path takes a text, such as \"$.traits.email\"")),
            ("@literal", value) => Ok(Node::Literal(value.clone())),
            ("@if", Value::Object(options)) => compiler.condition(options),
            ("@if", _) => {
                Err(compiler.error("@if takes an object with exists or blank, then and else"))
            }
            _ => Err(compiler.error(format!(
                "`{name}` is not read by this release: allowed are @path, @if, @literal"
            ))),
        })
    }

    fn condition(&mut self, options: &Object) -> Result<Node, MappingError> {
        // Segment wants one of them to be truthy as written, and looks at `exists` if it is there at all.
        let is_given = |key: &str| options.get(key).is_some_and(Value::is_truthy);
        if !is_given("exists") && !is_given("blank") {
            return Err(self.error("@if needs exists or blank"));
        }
        let (test, key) = if options.contains_key("exists") {
            (Test::Exists, "exists")
        } else {
            (Test::NotBlank, "blank")
        };
        let subject =
            self.within(key, |compiler| compiler.node(options.get(key).unwrap_or(&Value::Null)))?;
        let mut branch = |key: &str, counts: fn(&Value) -> bool| {
            let written = options.get(key).filter(|value| counts(value));
            written.map(|value| self.within(key, |compiler| compiler.node(value))).transpose()
        };
        let then = branch("then", |_| true)?;
        let otherwise = branch("else", Value::is_truthy)?;
        Ok(Node::If(Box::new(If { test, subject, then, otherwise })))
    }
}

fn directive(object: &Object) -> Option<(&str, &Value)> {
    object.iter().find(|(key, _)| key.starts_with('@'))
}
