//! The tree on data.

use serde_json::Value;

use super::Error;
use super::funcs;
use super::parse::{Command, Node, Operand, Pipe, Term, Tree};
use super::types;

/// What the data is, which decides what a missing field means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An object of `inspect`: a missing field is an error, a missing key of a map is `<no value>`.
    Inspect,
    /// A row of a list, of the named Go type; `.Label "x"` looks in its `_labels`.
    Row(&'static str),
    /// The titles of a list's columns: functions change nothing, what has no title is `<no value>`.
    Header,
}

/// What JSON does not say of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// A structure, a list or a scalar.
    Plain,
    /// A map.
    Map,
    /// Where null is Go's nil pointer.
    Pointer,
}

/// A value while a template runs.
#[derive(Debug, Clone)]
pub(super) enum Val {
    /// A key that a map does not have.
    Missing,
    /// Anything else.
    Json(Value, Shape),
}

impl Val {
    pub fn plain(value: impl Into<Value>) -> Self {
        Self::Json(value.into(), Shape::Plain)
    }

    /// Go's truth: not zero, not empty.
    pub fn truth(&self) -> bool {
        match self {
            Self::Missing => false,
            Self::Json(value, shape) => match value {
                Value::Null => false,
                Value::Bool(value) => *value,
                Value::Number(number) => number.as_f64() != Some(0.0),
                Value::String(text) => !text.is_empty(),
                Value::Array(items) => !items.is_empty(),
                Value::Object(fields) => *shape != Shape::Map || !fields.is_empty(),
            },
        }
    }
}

/// Keys whose objects are maps in Docker's types; all others are structures.
pub(super) fn is_map(parent: &str, key: &str) -> bool {
    matches!(
        key,
        "Labels"
            | "_labels"
            | "ExposedPorts"
            | "Volumes"
            | "PortBindings"
            | "Tmpfs"
            | "Sysctls"
            | "Ports"
            | "Networks"
            | "Data"
            | "Options"
            | "DriverOpts"
            | "Annotations"
            | "Attributes"
            | "StorageOpt"
            | "Runtimes"
            | "Containers"
    ) || (parent == "LogConfig" && key == "Config")
}

pub(super) fn shape(parent: &str, key: &str) -> Shape {
    if is_map(parent, key) {
        Shape::Map
    } else if matches!(
        key,
        "Health"
            | "Healthcheck"
            | "Init"
            | "OomKillDisable"
            | "PidsLimit"
            | "MemorySwappiness"
            | "StopTimeout"
            | "SizeRw"
            | "SizeRootFs"
            | "IPAMConfig"
            | "Platform"
    ) {
        Shape::Pointer
    } else {
        Shape::Plain
    }
}

/// Go's `%v`.
pub(super) fn show(val: &Val) -> String {
    match val {
        Val::Missing => "<no value>".to_owned(),
        Val::Json(value, shape) => {
            let mut out = String::new();
            write(value, *shape, "", &mut out);
            out
        }
    }
}

fn write(value: &Value, shape: Shape, key: &str, out: &mut String) {
    match value {
        Value::Null => out.push_str(match shape {
            Shape::Map => "map[]",
            Shape::Pointer => "<nil>",
            Shape::Plain => "[]",
        }),
        Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Value::Number(number) => out.push_str(&funcs::number(number)),
        Value::String(text) => out.push_str(text),
        Value::Array(items) => {
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    out.push(' ');
                }
                write(item, Shape::Plain, key, out);
            }
            out.push(']');
        }
        Value::Object(fields) if shape == Shape::Map => {
            out.push_str("map[");
            for (at, (name, value)) in sorted(fields).into_iter().enumerate() {
                if at > 0 {
                    out.push(' ');
                }
                out.push_str(name);
                out.push(':');
                write(value, Shape::Plain, "", out);
            }
            out.push(']');
        }
        Value::Object(fields) => {
            out.push('{');
            for (at, (name, value)) in fields.iter().filter(|(name, _)| !name.starts_with('_')).enumerate() {
                if at > 0 {
                    out.push(' ');
                }
                write(value, self::shape(key, name), name, out);
            }
            out.push('}');
        }
    }
}

fn sorted(fields: &serde_json::Map<String, Value>) -> Vec<(&String, &Value)> {
    let mut all: Vec<_> = fields.iter().collect();
    all.sort_by_key(|(name, _)| *name);
    all
}

enum Flow {
    Next,
    Break,
    Continue,
}

/// A little above what the parser lets nest, times a few templates that call each other.
const DEEPEST: usize = 300;

struct Run<'t> {
    tree: &'t Tree,
    kind: Kind,
    template: String,
    variables: Vec<(String, Val)>,
    depth: usize,
    out: &'t mut String,
}

pub(super) fn execute(tree: &Tree, data: Value, kind: Kind, out: &mut String) -> Result<(), Error> {
    let root = Val::plain(data);
    // A list executes its template on each row, and a copy of the row for a variable that nobody names was half
    // of what that took.
    let named = tree.text.contains('$');
    let variables = if named { vec![("$".to_owned(), root.clone())] } else { Vec::new() };
    let mut run = Run { tree, kind, template: String::new(), variables, depth: 0, out };
    run.walk(&tree.root, &root).map(drop)
}

impl Run<'_> {
    fn fail<T>(&self, at: usize, node: &str, why: impl Into<String>) -> Result<T, Error> {
        let before = &self.tree.text[..at.min(self.tree.text.len())];
        let line = 1 + before.matches('\n').count();
        let column = before.rfind('\n').map_or(at, |newline| at - newline - 1);
        Err(Error::Execute {
            line,
            column,
            template: self.template.clone(),
            node: node.to_owned(),
            why: why.into(),
        })
    }

    fn walk(&mut self, nodes: &[Node], dot: &Val) -> Result<Flow, Error> {
        let scope = self.variables.len();
        self.depth += 1;
        for node in nodes {
            match self.node(node, dot)? {
                Flow::Next => {}
                flow => {
                    self.variables.truncate(scope);
                    self.depth -= 1;
                    return Ok(flow);
                }
            }
        }
        self.variables.truncate(scope);
        self.depth -= 1;
        Ok(Flow::Next)
    }

    fn node(&mut self, node: &Node, dot: &Val) -> Result<Flow, Error> {
        match node {
            Node::Text(text) => self.out.push_str(text),
            Node::Action(pipe) => {
                let value = self.pipeline(pipe, dot)?;
                if pipe.variables.is_empty() {
                    self.out.push_str(&show(&value));
                }
            }
            Node::Break => return Ok(Flow::Break),
            Node::Continue => return Ok(Flow::Continue),
            Node::If { pipe, then, other } | Node::With { pipe, then, other } => {
                let scope = self.variables.len();
                let value = self.pipeline(pipe, dot)?;
                let with = matches!(node, Node::With { .. });
                let flow = if value.truth() {
                    self.walk(then, if with { &value } else { dot })?
                } else {
                    self.walk(other, dot)?
                };
                self.variables.truncate(scope);
                return Ok(flow);
            }
            Node::Range { pipe, then, other } => return self.range(pipe, then, other, dot),
            Node::Template { at, name, pipe, shown } => {
                let data = match pipe {
                    Some(pipe) => self.pipeline(pipe, dot)?,
                    None => Val::Missing,
                };
                let tree = self.tree;
                let Some(nodes) = tree.defined.get(name) else {
                    return self.fail(*at, shown, format!("template {name:?} not defined"));
                };
                if self.depth > DEEPEST {
                    return self.fail(*at, shown, format!("exceeded maximum template depth ({DEEPEST})"));
                }
                let outer = std::mem::replace(&mut self.template, name.clone());
                let variables = std::mem::replace(&mut self.variables, vec![("$".to_owned(), data.clone())]);
                self.walk(nodes, &data)?;
                self.variables = variables;
                self.template = outer;
            }
        }
        Ok(Flow::Next)
    }

    fn range(&mut self, pipe: &Pipe, then: &[Node], other: &[Node], dot: &Val) -> Result<Flow, Error> {
        let scope = self.variables.len();
        // The pipeline's value goes to no variable: its elements do, one after the other.
        let value = self.value(pipe, dot)?;
        let pairs: Vec<(Val, Val)> = match value {
            Val::Missing | Val::Json(Value::Null, _) => Vec::new(),
            Val::Json(Value::Array(items), _) => {
                items.into_iter().enumerate().map(|(at, item)| (Val::plain(at), Val::plain(item))).collect()
            }
            Val::Json(Value::Object(fields), _) => sorted(&fields)
                .into_iter()
                .map(|(key, value)| (Val::plain(key.as_str()), Val::Json(value.clone(), shape("", key))))
                .collect(),
            Val::Json(Value::Number(ref number), _) if number.as_i64().is_some_and(|n| n <= 1_000_000) => {
                (0..number.as_i64().unwrap_or(0)).map(|at| (Val::plain(at), Val::plain(at))).collect()
            }
            ref other @ Val::Json(..) => {
                return self.fail(pipe.at, &pipe.show(), format!("range can't iterate over {}", show(other)));
            }
        };
        if pairs.is_empty() {
            let flow = self.walk(other, dot)?;
            self.variables.truncate(scope);
            return Ok(flow);
        }
        for (key, element) in pairs {
            match pipe.variables.as_slice() {
                [] => {}
                [one] => self.set(one, element.clone(), pipe.assign),
                [index, item, ..] => {
                    self.set(index, key, pipe.assign);
                    self.set(item, element.clone(), pipe.assign);
                }
            }
            let flow = self.walk(then, &element)?;
            self.variables.truncate(scope);
            if matches!(flow, Flow::Break) {
                break;
            }
        }
        Ok(Flow::Next)
    }

    fn set(&mut self, name: &str, value: Val, assign: bool) {
        if assign && let Some(slot) = self.variables.iter_mut().rev().find(|(known, _)| known == name) {
            slot.1 = value;
        } else {
            self.variables.push((name.to_owned(), value));
        }
    }

    fn pipeline(&mut self, pipe: &Pipe, dot: &Val) -> Result<Val, Error> {
        let value = self.value(pipe, dot)?;
        for name in &pipe.variables {
            self.set(name, value.clone(), pipe.assign);
        }
        Ok(value)
    }

    fn value(&mut self, pipe: &Pipe, dot: &Val) -> Result<Val, Error> {
        let mut last = None;
        for command in &pipe.commands {
            last = Some(self.command(command, dot, last)?);
        }
        Ok(last.unwrap_or(Val::Missing))
    }

    fn command(&mut self, command: &Command, dot: &Val, last: Option<Val>) -> Result<Val, Error> {
        let [first, rest @ ..] = command.operands.as_slice() else { return Ok(Val::Missing) };
        if let Term::Function(name) = first.term {
            return self.call(name, command, rest, dot, last);
        }
        if rest.is_empty() && last.is_none() {
            return self.operand(first, dot);
        }
        // Only a method takes arguments, and `.Label` is the only one.
        let (names, receiver) = match &first.term {
            Term::Field(names) => (names.as_slice(), dot.clone()),
            Term::Variable(name, names) => (names.as_slice(), self.variable(name)),
            Term::Chain(pipe, names) => (names.as_slice(), self.value(pipe, dot)?),
            _ => {
                return self.fail(
                    first.at,
                    &first.show(),
                    format!("can't give argument to non-function {}", first.show()),
                );
            }
        };
        let name = names.last().map_or("", String::as_str);
        if name == "Label" && names.len() == 1 && self.kind != Kind::Inspect {
            let mut arguments = Vec::new();
            for operand in rest {
                arguments.push(self.operand(operand, dot)?);
            }
            arguments.extend(last);
            if let [Val::Json(Value::String(key), _)] = arguments.as_slice() {
                return Ok(self.label(&receiver, key));
            }
            let got = arguments.len();
            return self.fail(
                command.at,
                &command.show(),
                format!("wrong number of args for Label: want 1 got {got}"),
            );
        }
        self.fail(first.at, &first.show(), format!("{name} has arguments but cannot be invoked as function"))
    }

    fn label(&self, receiver: &Val, key: &str) -> Val {
        if self.kind == Kind::Header {
            let last = key.rsplit('.').next().unwrap_or_default();
            return Val::plain(last.replace(['-', '_'], " "));
        }
        let value = match receiver {
            Val::Json(Value::Object(fields), _) => fields.get("_labels").and_then(|labels| labels.get(key)),
            _ => None,
        };
        Val::plain(value.and_then(Value::as_str).unwrap_or_default())
    }

    fn variable(&self, name: &str) -> Val {
        self.variables
            .iter()
            .rev()
            .find(|(known, _)| known == name)
            .map_or(Val::Missing, |(_, value)| value.clone())
    }

    fn operand(&mut self, operand: &Operand, dot: &Val) -> Result<Val, Error> {
        match &operand.term {
            Term::Dot => Ok(dot.clone()),
            Term::Nil => self.fail(operand.at, "nil", "nil is not a command"),
            Term::Literal(value, _) => Ok(Val::plain(value.clone())),
            Term::Field(names) => self.fields(operand, dot, names),
            Term::Variable(name, names) => {
                let value = self.variable(name);
                self.fields(operand, &value, names)
            }
            Term::Function(name) => {
                let command = Command { at: operand.at, operands: vec![operand.clone()] };
                self.call(name, &command, &[], dot, None)
            }
            Term::Pipe(pipe) => self.value(pipe, dot),
            Term::Chain(pipe, names) => {
                let value = self.value(pipe, dot)?;
                self.fields(operand, &value, names)
            }
        }
    }

    fn fields(&self, operand: &Operand, value: &Val, names: &[String]) -> Result<Val, Error> {
        let [first, rest @ ..] = names else { return Ok(value.clone()) };
        let mut value = self.field(operand, value, "", first)?;
        let mut parent = first;
        for name in rest {
            value = self.field(operand, &value, parent, name)?;
            parent = name;
        }
        Ok(value)
    }

    fn field(&self, operand: &Operand, receiver: &Val, parent: &str, name: &str) -> Result<Val, Error> {
        let fail = |why: String| self.fail(operand.at, &operand.show(), why);
        match receiver {
            Val::Json(Value::Object(fields), of) => match fields.get(name) {
                Some(value) => Ok(Val::Json(value.clone(), shape(parent, name))),
                None if *of == Shape::Map => Ok(Val::Missing),
                None => match self.kind {
                    Kind::Header => Ok(Val::Missing),
                    Kind::Row(of) => fail(format!("can't evaluate field {name} in type {of}")),
                    Kind::Inspect => match types::hidden(fields, name) {
                        Some((value, of)) => Ok(Val::Json(value, of)),
                        None => fail(format!("map has no entry for key {name:?}")),
                    },
                },
            },
            Val::Json(Value::Null, Shape::Map) => Ok(Val::Missing),
            Val::Missing if self.kind == Kind::Header => Ok(Val::Missing),
            Val::Missing | Val::Json(Value::Null, _) => {
                fail(format!("nil pointer evaluating interface {{}}.{name}"))
            }
            Val::Json(..) => fail(format!("can't evaluate field {name} in type interface {{}}")),
        }
    }

    fn call(
        &mut self,
        name: &'static str,
        command: &Command,
        operands: &[Operand],
        dot: &Val,
        last: Option<Val>,
    ) -> Result<Val, Error> {
        let count = operands.len() + usize::from(last.is_some());
        if let Some(want) = funcs::arity(name, count) {
            let why = format!("wrong number of args for {name}: want {want} got {count}");
            return self.fail(command.at, &command.show(), why);
        }
        // `and` and `or` stop at the first argument that decides.
        if matches!(name, "and" | "or") {
            let mut value = Val::Missing;
            for operand in operands {
                value = self.operand(operand, dot)?;
                if value.truth() == (name == "or") {
                    return Ok(value);
                }
            }
            return Ok(last.unwrap_or(value));
        }
        let mut arguments = Vec::with_capacity(count);
        for operand in operands {
            arguments.push(match operand.term {
                Term::Nil => Val::Json(Value::Null, Shape::Pointer),
                _ => self.operand(operand, dot)?,
            });
        }
        arguments.extend(last);
        if self.kind == Kind::Header && funcs::is_dockers(name) {
            return Ok(arguments.swap_remove(0));
        }
        if name == "call" {
            // No data of ours holds a function.
            let shown = operands.first().map_or_else(|| show(&arguments[0]), Operand::show);
            let why = match &arguments[0] {
                Val::Missing | Val::Json(Value::Null, _) => "call of nil".to_owned(),
                other @ Val::Json(..) => format!("non-function {shown} of type {}", funcs::type_name(other)),
            };
            return self.fail(command.at, &command.show(), format!("error calling call: {why}"));
        }
        match funcs::call(name, &arguments) {
            Ok(value) => Ok(value),
            Err(funcs::Bad::Argument { at, why }) => match operands.get(at) {
                Some(operand) => self.fail(operand.at, &operand.show(), why),
                None => self.fail(command.at, &command.show(), why),
            },
            Err(funcs::Bad::Call(why)) => {
                self.fail(command.at, &command.show(), format!("error calling {name}: {why}"))
            }
        }
    }
}
