//! From the written form of a mapping to nodes.

use super::check::{check, check_size, has_directive};
use super::liquid::Liquid;
use super::made::Made;
use super::node::{
    ArrayPath, Case, Flatten, If, Json, JsonMode, Letters, Mapping, Merge, Node, Replace, Test,
    Transform,
};
use super::path::Path;
use super::problem::{MappingErrors, Problem};
use super::replace::{How, Pair};
use super::resolve::{FLATTEN_SEPARATOR, UNKNOWN_CASE};
use super::template::Template;
use super::{PATH_PARTS_MAX, TEXT_BYTES_MAX};
use crate::js::{Object, Value, type_name};

/// Segment's own key for a directive that is resolved in place of the whole mapping.
const ROOT_DIRECTIVE: &str = "__segment_internal_directive";

impl Mapping {
    /// Checks and compiles a mapping of fields. All problems that Segment finds beforehand are
    /// reported together; those that it finds only when it evaluates them are kept as [`Mapping::latent_problems`].
    ///
    /// ```
    /// use segment_loops::js::decode::decode;
    /// use segment_loops::mapping::Mapping;
    ///
    /// let written = decode(br#"{"email": {"@pth": "$.traits.email"}, "name": {"@path": 7}}"#)?;
    /// let errors = Mapping::compile(&written).unwrap_err();
    /// let pointers: Vec<&str> = errors.problems.iter().map(|one| one.pointer.as_str()).collect();
    /// assert_eq!(pointers, ["/email", "/name/@path"]);
    /// // In the words of Segment's runtime, so that people recognize them.
    /// assert_eq!(errors.problems[0].segment_text(), "/email has an invalid directive: @pth.");
    /// # Ok::<(), segment_loops::js::decode::DecodeError>(())
    /// ```
    pub fn compile(written: &Value) -> Result<Self, MappingErrors> {
        let mut compiler = Compiler::default();
        let root = compiler.root(written).map_err(|problems| MappingErrors { problems })?;
        if !compiler.refused.is_empty() {
            return Err(MappingErrors { problems: compiler.refused });
        }
        Ok(Self { root, latent: compiler.latent })
    }

    /// Problems that fail the mapping only for the messages that reach them.
    ///
    /// ```
    /// use segment_loops::js::decode::decode;
    /// use segment_loops::mapping::Mapping;
    ///
    /// // Segment's validation does not look into arrays.
    /// let mapping = Mapping::compile(&decode(br#"{"tags": [{"@path": 7}]}"#)?)?;
    /// assert_eq!(mapping.latent_problems()[0].pointer, "/tags/0/@path");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn latent_problems(&self) -> &[Problem] {
        &self.latent
    }
}

#[derive(Default)]
struct Compiler {
    /// Where the compiler is: keys from the outside in.
    place: Vec<String>,
    latent: Vec<Problem>,
    /// Problems with our own bounds, which Segment does not have.
    refused: Vec<Problem>,
}

impl Compiler {
    /// Compiles a whole mapping, as Segment's `transform` takes it.
    fn root(&mut self, written: &Value) -> Result<Node, Vec<Problem>> {
        check_size(written)?;
        let object = spread(written);
        let Some(directive) = object.get(ROOT_DIRECTIVE) else {
            let written = Value::Object(object);
            check(&written, &mut Vec::new())?;
            return Ok(self.node(&written));
        };
        let root = self.root_directive(&object, directive)?;
        check(&root, &mut Vec::new())?;
        Ok(self.node(&root))
    }

    /// Returns the root directive, with the other fields as its `mapping`.
    fn root_directive(&self, object: &Object, directive: &Value) -> Result<Value, Vec<Problem>> {
        let refuse = |problem: &str| {
            let pointer = self.pointer();
            Err(vec![Problem::plain(pointer, problem)])
        };
        let mut root = spread(directive);
        if root.len() > 1 {
            return refuse("The root mapping must only have a single directive object");
        }
        let fields = object.iter().filter(|(key, _)| *key != ROOT_DIRECTIVE);
        let fields: Object = fields.map(|(key, value)| (key.to_owned(), value.clone())).collect();
        let name = root.keys().next().map(str::to_owned).unwrap_or_default();
        match root.get_mut(&name) {
            Some(Value::Object(options)) => options.insert("mapping", Value::Object(fields)),
            // In an array, only the items are looked at, never what is set beside them.
            Some(Value::Array(_)) => {}
            _ => return refuse("The root directive must be an object"),
        }
        Ok(Value::Object(root))
    }

    fn node(&mut self, written: &Value) -> Node {
        match written {
            Value::Object(object) if is_directive(object) => self.directive(object),
            Value::Object(object) => {
                let fields = object.iter();
                let fields = fields.map(|(key, value)| {
                    (key.to_owned(), self.within(key, |this| this.node(value)))
                });
                object_of(fields.collect())
            }
            Value::Array(items) => {
                let nodes = items
                    .iter()
                    .enumerate()
                    .map(|(place, item)| self.within(&place.to_string(), |this| this.node(item)));
                array_of(nodes.collect())
            }
            literal => Node::Literal(literal.clone()),
        }
    }

    fn directive(&mut self, object: &Object) -> Node {
        let Some((name, value)) = object.iter().find(|(key, _)| key.starts_with('@')) else {
            return Node::Literal(Value::Object(object.clone()));
        };
        self.within(name, |this| match name {
            "@path" => match value {
                Value::String(text) => Node::Path(this.path(text)),
                value => Node::PathOf(Box::new(this.text_node(value, "@path"))),
            },
            "@template" => match value {
                Value::String(text) => Node::Template(this.template(text)),
                value => Node::TemplateOf(Box::new(this.text_node(value, "@template"))),
            },
            "@literal" => this.node(value),
            "@excludeWhenNull" => Node::ExcludeWhenNull(Box::new(this.node(value))),
            "@arrayPath" => this.array_path(value),
            "@liquid" => this.liquid(value),
            "@if" => this.with_options(value, "@if", "an \"exists\" key", Self::condition),
            "@case" => this.with_options(value, "@case", "a \"operator\" key", Self::case),
            "@replace" => this.with_options(value, "@replace", "a \"pattern\" key", Self::replace),
            "@json" => this.with_options(value, "@json", "a \"value\" key", Self::json),
            "@flatten" => {
                this.with_options(value, "@flatten", "a \"separator\" key", Self::flatten)
            }
            "@merge" => {
                let keys = "an \"objects\" key and a \"direction\" key";
                this.with_options(value, "@merge", keys, Self::merge)
            }
            "@transform" => {
                let keys = "an \"apply\" key and a \"mapping\" key";
                this.with_options(value, "@transform", keys, Self::transform)
            }
            _ => this.fails(format!("{name} is not a valid directive, got undefined")),
        })
    }

    /// Compiles what must resolve to a string: any other literal can only fail.
    fn text_node(&mut self, value: &Value, name: &str) -> Node {
        match self.node(value) {
            Node::Literal(literal) if literal.as_str().is_none() => {
                self.fails(format!("{name}: expected string, got {}", type_name(&literal)))
            }
            node => node,
        }
    }

    fn with_options(
        &mut self,
        value: &Value,
        name: &str,
        keys: &str,
        compile: fn(&mut Self, &Object) -> Node,
    ) -> Node {
        match value {
            Value::Object(options) => compile(self, options),
            _ => self.fails(format!("{name} requires an object with {keys}")),
        }
    }

    fn condition(&mut self, options: &Object) -> Node {
        // Segment requires one of them to be truthy as written, and uses `exists` if it is there at all.
        let is_given = |key: &str| options.get(key).is_some_and(Value::is_truthy);
        if !is_given("exists") && !is_given("blank") {
            return self.fails("@if requires an \"exists\" key or a \"blank\" key".to_owned());
        }
        let (test, key) = if options.contains_key("exists") {
            (Test::Exists, "exists")
        } else {
            (Test::NotBlank, "blank")
        };
        let subject = self.option(options, key);
        let then = options.contains_key("then").then(|| self.option(options, "then"));
        let otherwise = is_given("else").then(|| self.option(options, "else"));
        Node::If(Box::new(If { test, subject, then, otherwise }))
    }

    fn case(&mut self, options: &Object) -> Node {
        let Some(operator) = truthy(options, "operator") else {
            return self.fails("@case requires a \"operator\" key".to_owned());
        };
        let operator = match operator.as_str() {
            Some("lower") => Some(Letters::Lower),
            Some("upper") => Some(Letters::Upper),
            _ => {
                self.note(UNKNOWN_CASE.to_owned());
                None
            }
        };
        let value = truthy(options, "value").map(|_| self.option(options, "value"));
        Node::Case(Box::new(Case { operator, value }))
    }

    fn replace(&mut self, options: &Object) -> Node {
        let Some(pattern) = truthy(options, "pattern") else {
            return self.fails("@replace requires a \"pattern\" key".to_owned());
        };
        let given = |key: &str| options.get(key).filter(|value| !value.is_null());
        let text = |key: &str| given(key).map_or(Some(""), Value::as_str).map(str::to_owned);
        let flag = |key: &str, unless: bool| given(key).map_or(Some(unless), Value::as_bool);
        let how = (|| {
            let pattern = pattern.as_str()?.to_owned();
            let first = Pair { pattern, replacement: text("replacement")? };
            let second = truthy(options, "pattern2").and_then(Value::as_str).and_then(|pattern| {
                Some(Pair { pattern: pattern.to_owned(), replacement: text("replacement2")? })
            });
            let (everywhere, ignores_case) = (flag("global", true)?, flag("ignorecase", false)?);
            Some(How { first, second, everywhere, ignores_case })
        })();
        let pairs = how.iter().flat_map(|how| [Some(&how.first), how.second.as_ref()]);
        for problem in pairs.flatten().filter_map(Pair::problem).collect::<Vec<_>>() {
            self.note(problem);
        }
        let value = truthy(options, "value").map(|_| self.option(options, "value"));
        Node::Replace(Box::new(Replace { value, how }))
    }

    fn array_path(&mut self, value: &Value) -> Node {
        let Value::Array(items) = value else {
            let kind = type_name(value);
            return self.fails(format!("@arrayPath expected array, got {kind}"));
        };
        let root = match items.first() {
            Some(Value::String(path)) => Node::Path(self.path(path)),
            Some(root) => self.within("0", |this| this.node(root)),
            // There is nothing to find, whatever the shape.
            None => return Node::If(Box::new(If::nothing())),
        };
        let is_shape = |shape: &&Value| shape.as_object().is_some_and(|shape| !shape.is_empty());
        let shape = items.get(1).filter(is_shape);
        let shape = shape.map(|shape| self.within("1", |this| this.node(shape)));
        Node::ArrayPath(Box::new(ArrayPath { root, shape }))
    }

    fn json(&mut self, options: &Object) -> Node {
        let Some(mode) = truthy(options, "mode") else {
            return self.fails("@json requires a \"mode\" key".to_owned());
        };
        if truthy(options, "value").is_none() {
            return self.fails("@json requires a \"value\" key".to_owned());
        }
        // The validation accepts any casing, the runtime does not: `ENCODE` yields nothing.
        let mode = match mode.as_str() {
            Some("encode") => Some(JsonMode::Encode),
            Some("decode") => Some(JsonMode::Decode),
            _ => None,
        };
        Node::Json(Box::new(Json { mode, value: self.option(options, "value") }))
    }

    fn flatten(&mut self, options: &Object) -> Node {
        if truthy(options, "separator").is_none() {
            return self.fails("@flatten requires a \"separator\" key".to_owned());
        }
        let separator = match self.option(options, "separator") {
            Node::Literal(literal) if literal.as_str().is_none() => {
                self.fails(FLATTEN_SEPARATOR.to_owned())
            }
            node => node,
        };
        let value = match options.get("value") {
            Some(_) => self.option(options, "value"),
            None => Node::If(Box::new(If::nothing())),
        };
        let omits_lists = truthy(options, "omitArrays").is_some();
        Node::Flatten(Box::new(Flatten { separator, value, omits_lists }))
    }

    fn merge(&mut self, options: &Object) -> Node {
        if truthy(options, "direction").is_none() {
            return self.fails("@merge requires a \"direction\" key".to_owned());
        }
        let objects = match truthy(options, "objects") {
            Some(Value::Array(objects)) => objects,
            None => return self.fails("@merge requires a \"objects\" key".to_owned()),
            Some(other) => {
                // JavaScript's `typeof`.
                let kind = if other.as_object().is_some() { "object" } else { type_name(other) };
                return self.fails(format!("@merge: expected opts.array, got {kind}"));
            }
        };
        let direction = self.option(options, "direction");
        let objects = self.within("objects", |this| {
            let nodes = objects.iter().enumerate();
            nodes
                .map(|(place, object)| this.within(&place.to_string(), |this| this.node(object)))
                .collect()
        });
        Node::Merge(Box::new(Merge { direction, objects }))
    }

    fn transform(&mut self, options: &Object) -> Node {
        if truthy(options, "mapping").is_none() {
            return self.fails("@transform requires a \"mapping\" key".to_owned());
        }
        let apply = match truthy(options, "apply") {
            None => return self.fails("@transform requires a \"apply\" key".to_owned()),
            Some(apply @ Value::Object(_)) => apply,
            Some(_) => {
                return self.fails("@transform \"apply\" key should be an object".to_owned());
            }
        };
        let apply = self.within("apply", |this| match this.root(apply) {
            Ok(node) => node,
            Err(problems) => this.fails(MappingErrors { problems }.segment_text()),
        });
        let mapping = self.option(options, "mapping");
        Node::Transform(Box::new(Transform { apply, mapping }))
    }

    fn liquid(&mut self, value: &Value) -> Node {
        let Some(text) = value.as_str() else {
            return self.fails("liquid template value must be a string".to_owned());
        };
        match Liquid::compile(text) {
            Ok(liquid) => Node::Liquid(Box::new(liquid)),
            Err(problem) => self.fails(problem),
        }
    }

    fn option(&mut self, options: &Object, key: &str) -> Node {
        self.within(key, |this| this.node(options.get(key).unwrap_or(&Value::Null)))
    }

    fn path(&mut self, text: &str) -> Path {
        let path = if self.is_short(text) { Path::parse(text) } else { Path(Vec::new()) };
        self.bound_parts(&path);
        path
    }

    fn template(&mut self, text: &str) -> Template {
        let template = Template::parse(if self.is_short(text) { text } else { "" });
        template.paths().for_each(|path| self.bound_parts(path));
        template
    }

    fn is_short(&mut self, text: &str) -> bool {
        let is_short = text.len() <= TEXT_BYTES_MAX;
        if !is_short {
            let problem = format!(
                "the string has {} bytes; at most {TEXT_BYTES_MAX} are allowed",
                text.len()
            );
            self.refused.push(Problem::plain(self.pointer(), &problem));
        }
        is_short
    }

    fn bound_parts(&mut self, path: &Path) {
        let parts = path.0.len();
        if parts > PATH_PARTS_MAX {
            let problem =
                format!("the path has {parts} parts; at most {PATH_PARTS_MAX} are allowed");
            self.refused.push(Problem::plain(self.pointer(), &problem));
        }
    }

    /// Compiles to a node that fails when it is reached.
    fn fails(&mut self, problem: String) -> Node {
        self.note(problem.clone());
        Node::Fails(problem)
    }

    fn note(&mut self, problem: String) {
        self.latent.push(Problem::plain(self.pointer(), &problem));
    }

    fn within<T>(&mut self, part: &str, compile: impl FnOnce(&mut Self) -> T) -> T {
        self.place.push(part.to_owned());
        let compiled = compile(self);
        self.place.pop();
        compiled
    }

    fn pointer(&self) -> String {
        format!("/{}", self.place.join("/"))
    }
}

/// Returns an object of nodes, or one literal if all of them are literals.
fn object_of(fields: Vec<(String, Node)>) -> Node {
    if !fields.iter().all(|(_, node)| matches!(node, Node::Literal(_))) {
        return Node::Object(fields);
    }
    let values = fields.into_iter().filter_map(|(key, node)| match node {
        Node::Literal(value) => Some((key, value)),
        _ => None,
    });
    Node::Literal(Value::Object(values.collect()))
}

/// Returns an array of nodes, or one literal if all of them are literals.
fn array_of(nodes: Vec<Node>) -> Node {
    if !nodes.iter().all(|node| matches!(node, Node::Literal(_))) {
        return Node::Array(nodes);
    }
    let values = nodes.into_iter().filter_map(|node| match node {
        Node::Literal(value) => Some(value),
        _ => None,
    });
    Node::Literal(Value::Array(values.collect()))
}

impl Problem {
    fn plain(pointer: String, problem: &str) -> Self {
        Self { pointer, problem: problem.to_owned(), allowed: String::new(), names_place: false }
    }
}

impl If {
    /// A condition without branches, which never yields anything.
    fn nothing() -> Self {
        Self {
            test: Test::Exists,
            subject: Node::Literal(Value::Null),
            then: None,
            otherwise: None,
        }
    }
}

/// Returns JavaScript's `{...value}`: an array and a string become objects keyed by index.
fn spread(value: &Value) -> Object {
    Made::Borrowed(value)
        .into_entries()
        .into_iter()
        .map(|(key, value)| (key.into_owned(), value.as_value().cloned().unwrap_or_default()))
        .collect()
}

/// Whether an object consists of directives only. Where it is not validated, an object that mixes them with other keys
/// is a plain object.
fn is_directive(object: &Object) -> bool {
    has_directive(object) && object.keys().all(|key| key.starts_with('@') || key == "_metadata")
}

fn truthy<'a>(options: &'a Object, key: &str) -> Option<&'a Value> {
    options.get(key).filter(|value| value.is_truthy())
}
