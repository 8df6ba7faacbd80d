//! Text to tree: the lexer and parser of Go's text/template.

use std::collections::BTreeMap;

use serde_json::{Number, Value};

use super::{Error, funcs};

/// A parsed template and those it defines.
#[derive(Debug, Clone)]
pub(super) struct Tree {
    pub text: String,
    pub root: Vec<Node>,
    pub defined: BTreeMap<String, Vec<Node>>,
}

/// One piece of a template.
#[derive(Debug, Clone)]
pub(super) enum Node {
    Text(String),
    Action(Pipe),
    If { pipe: Pipe, then: Vec<Node>, other: Vec<Node> },
    With { pipe: Pipe, then: Vec<Node>, other: Vec<Node> },
    Range { pipe: Pipe, then: Vec<Node>, other: Vec<Node> },
    Template { at: usize, name: String, pipe: Option<Pipe>, shown: String },
    Break,
    Continue,
}

/// Commands joined by `|`, and the variables the last one's value goes to.
#[derive(Debug, Clone)]
pub(super) struct Pipe {
    pub at: usize,
    pub variables: Vec<String>,
    pub assign: bool,
    pub commands: Vec<Command>,
}

/// A function or method with its arguments, or one operand.
#[derive(Debug, Clone)]
pub(super) struct Command {
    pub at: usize,
    pub operands: Vec<Operand>,
}

/// One operand and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Operand {
    pub at: usize,
    pub term: Term,
}

/// What an operand is.
#[derive(Debug, Clone)]
pub(super) enum Term {
    Dot,
    Nil,
    Literal(Value, String),
    Field(Vec<String>),
    Variable(String, Vec<String>),
    Function(&'static str),
    Pipe(Box<Pipe>),
    Chain(Box<Pipe>, Vec<String>),
}

fn fields(names: &[String]) -> String {
    names.iter().map(|name| format!(".{name}")).collect()
}

impl Operand {
    /// As Go shows it in an error.
    pub fn show(&self) -> String {
        match &self.term {
            Term::Dot => ".".to_owned(),
            Term::Nil => "nil".to_owned(),
            Term::Literal(_, text) => text.clone(),
            Term::Field(names) => fields(names),
            Term::Variable(name, names) => format!("{name}{}", fields(names)),
            Term::Function(name) => (*name).to_owned(),
            Term::Pipe(pipe) => format!("({})", pipe.show()),
            Term::Chain(pipe, names) => format!("({}){}", pipe.show(), fields(names)),
        }
    }
}

impl Command {
    pub fn show(&self) -> String {
        self.operands.iter().map(Operand::show).collect::<Vec<_>>().join(" ")
    }
}

impl Pipe {
    pub fn show(&self) -> String {
        let commands = self.commands.iter().map(Command::show).collect::<Vec<_>>().join(" | ");
        if self.variables.is_empty() {
            commands
        } else {
            format!("{} {} {commands}", self.variables.join(", "), if self.assign { "=" } else { ":=" })
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Text(String),
    Open,
    Close,
    Space,
    Word(String),
    Field(String),
    Variable(String),
    Dot,
    Literal(Value, String),
    Pipe,
    LeftParen,
    RightParen,
    Declare,
    Assign,
    Comma,
    End,
}

struct Lexer<'t> {
    text: &'t str,
    at: usize,
    tokens: Vec<(usize, Token)>,
    parens: usize,
}

fn line_of(text: &str, at: usize) -> usize {
    1 + text.as_bytes()[..at.min(text.len())].iter().filter(|byte| **byte == b'\n').count()
}

fn is_word(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

impl<'t> Lexer<'t> {
    fn fail<T>(&self, why: impl Into<String>) -> Result<T, Error> {
        Err(Error::Parse { line: line_of(self.text, self.at), why: why.into() })
    }

    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    fn push(&mut self, length: usize, token: Token) {
        self.tokens.push((self.at, token));
        self.at += length;
    }

    fn run(mut self) -> Result<Vec<(usize, Token)>, Error> {
        let mut trim = false;
        loop {
            let rest = self.rest();
            let open = rest.find("{{").unwrap_or(rest.len());
            let mut text = &rest[..open];
            if trim {
                text = text.trim_start_matches([' ', '\t', '\r', '\n']);
            }
            let after = &rest[open..];
            let marked =
                after.strip_prefix("{{-").is_some_and(|tail| tail.starts_with([' ', '\t', '\r', '\n']));
            if marked {
                text = text.trim_end_matches([' ', '\t', '\r', '\n']);
            }
            if !text.is_empty() {
                self.tokens.push((self.at, Token::Text(text.to_owned())));
            }
            self.at += open;
            if after.is_empty() {
                self.tokens.push((self.at, Token::End));
                return Ok(self.tokens);
            }
            let begin = self.at;
            let skip = if marked { 4 } else { 2 };
            if self.text[self.at + skip..].starts_with("/*") {
                self.at += skip;
                let Some(end) = self.rest().find("*/") else { return self.fail("unclosed comment") };
                self.at += end + 2;
                let tail = self.rest();
                let trimmed = tail.trim_start_matches([' ', '\t', '\r', '\n']);
                if tail.starts_with("}}") {
                    trim = false;
                    self.at += 2;
                } else if trimmed.len() < tail.len() && trimmed.starts_with("-}}") {
                    trim = true;
                    self.at += tail.len() - trimmed.len() + 3;
                } else {
                    return self.fail("comment ends before closing delimiter");
                }
                continue;
            }
            self.tokens.push((begin, Token::Open));
            self.at += skip;
            trim = self.action()?;
        }
    }

    /// Lexes up to and with `}}`; answers whether the text after it is trimmed.
    fn action(&mut self) -> Result<bool, Error> {
        self.parens = 0;
        loop {
            let rest = self.rest();
            let close = rest.starts_with("}}");
            let trims = rest.starts_with([' ', '\t', '\r', '\n']) && rest[1..].starts_with("-}}");
            if close || trims {
                if self.parens > 0 {
                    return self.fail("unclosed left paren");
                }
                self.push(if trims { 4 } else { 2 }, Token::Close);
                return Ok(trims);
            }
            let Some(c) = rest.chars().next() else { return self.fail("unclosed action") };
            match c {
                ' ' | '\t' | '\r' | '\n' => {
                    let trimmed = rest.trim_start_matches([' ', '\t', '\r', '\n']);
                    let mut length = rest.len() - trimmed.len();
                    if trimmed.starts_with("-}}") {
                        length -= 1;
                    }
                    self.push(length.max(1), Token::Space);
                }
                '"' => self.quoted()?,
                '`' => {
                    let Some(end) = rest[1..].find('`') else {
                        return self.fail("unterminated raw quoted string");
                    };
                    let whole = &rest[..end + 2];
                    let value = Value::String(rest[1..=end].to_owned());
                    self.push(whole.len(), Token::Literal(value, whole.to_owned()));
                }
                '\'' => self.character()?,
                '|' => self.push(1, Token::Pipe),
                ',' => self.push(1, Token::Comma),
                '=' => self.push(1, Token::Assign),
                ':' if rest.starts_with(":=") => self.push(2, Token::Declare),
                ':' => return self.fail("expected :="),
                '(' => {
                    self.parens += 1;
                    self.push(1, Token::LeftParen);
                }
                ')' => {
                    if self.parens == 0 {
                        return self.fail("unexpected right paren");
                    }
                    self.parens -= 1;
                    self.push(1, Token::RightParen);
                }
                '.' if !rest[1..].starts_with(|c: char| c.is_ascii_digit()) => {
                    let name: String = rest[1..].chars().take_while(|c| is_word(*c)).collect();
                    let token = if name.is_empty() { Token::Dot } else { Token::Field(name.clone()) };
                    self.push(1 + name.len(), token);
                }
                '$' => {
                    let name: String = rest[1..].chars().take_while(|c| is_word(*c)).collect();
                    self.push(1 + name.len(), Token::Variable(format!("${name}")));
                }
                '0'..='9' | '.' | '+' | '-' => self.number()?,
                c if is_word(c) => {
                    let word: String = rest.chars().take_while(|c| is_word(*c)).collect();
                    self.push(word.len(), Token::Word(word));
                }
                c => {
                    let code = c as u32;
                    return self.fail(format!("unrecognized character in action: U+{code:04X} '{c}'"));
                }
            }
        }
    }

    fn number(&mut self) -> Result<(), Error> {
        let text: String = {
            let mut previous = ' ';
            self.rest()
                .chars()
                .take_while(|c| {
                    let sign = (*c == '+' || *c == '-') && (matches!(previous, 'e' | 'E') || previous == ' ');
                    previous = *c;
                    sign || is_word(*c) || *c == '.'
                })
                .collect()
        };
        let plain = text.replace('_', "");
        let (negative, digits) = match plain.as_bytes().first() {
            Some(b'-') => (true, &plain[1..]),
            Some(b'+') => (false, &plain[1..]),
            _ => (false, plain.as_str()),
        };
        let radix = match digits.get(..2) {
            Some("0x" | "0X") => 16,
            Some("0o" | "0O") => 8,
            Some("0b" | "0B") => 2,
            _ => 10,
        };
        let whole = i64::from_str_radix(if radix == 10 { digits } else { &digits[2..] }, radix).ok();
        let number = if let Some(whole) = whole.filter(|_| !digits.starts_with(['+', '-'])) {
            Some(Value::from(if negative { -whole } else { whole }))
        } else if digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
            plain.parse::<f64>().ok().and_then(Number::from_f64).map(Value::Number)
        } else {
            None
        };
        match number {
            Some(value) => {
                self.push(text.len(), Token::Literal(value, text));
                Ok(())
            }
            None => self.fail(format!("bad number syntax: {text:?}")),
        }
    }

    fn quoted(&mut self) -> Result<(), Error> {
        let rest = self.rest();
        let mut value = String::new();
        let mut at = 1;
        loop {
            let Some(c) = rest[at..].chars().next() else { return self.fail("unterminated quoted string") };
            match c {
                '"' => break,
                '\n' => return self.fail("unterminated quoted string"),
                '\\' => {
                    let Some((c, length)) = escape(&rest[at..]) else {
                        return if rest[at + 1..].is_empty() {
                            self.fail("unterminated quoted string")
                        } else {
                            self.fail("invalid syntax")
                        };
                    };
                    value.push(c);
                    at += length;
                }
                c => {
                    value.push(c);
                    at += c.len_utf8();
                }
            }
        }
        let whole = rest[..=at].to_owned();
        self.push(whole.len(), Token::Literal(Value::String(value), whole));
        Ok(())
    }

    fn character(&mut self) -> Result<(), Error> {
        let rest = &self.rest()[1..];
        let parsed = if rest.starts_with('\\') {
            escape(rest)
        } else {
            rest.chars().next().map(|c| (c, c.len_utf8()))
        };
        let Some((c, length)) = parsed.filter(|(_, length)| rest[*length..].starts_with('\'')) else {
            return self.fail("unterminated character constant");
        };
        let whole = self.rest()[..length + 2].to_owned();
        self.push(length + 2, Token::Literal(Value::from(c as u32), whole));
        Ok(())
    }
}

/// One of Go's backslash escapes and its length in bytes.
fn escape(text: &str) -> Option<(char, usize)> {
    let c = text[1..].chars().next()?;
    let number = |from: usize, length: usize, radix: u32| {
        let code = u32::from_str_radix(text.get(from..from + length)?, radix).ok()?;
        Some((char::from_u32(code)?, from + length))
    };
    let simple = match c {
        'n' => '\n',
        't' => '\t',
        'r' => '\r',
        'a' => '\u{7}',
        'b' => '\u{8}',
        'f' => '\u{c}',
        'v' => '\u{b}',
        '\\' | '"' | '\'' => c,
        'x' => return number(2, 2, 16),
        'u' => return number(2, 4, 16),
        'U' => return number(2, 8, 16),
        '0'..='7' => return number(1, 3, 8),
        _ => return None,
    };
    Some((simple, 2))
}

struct Parser<'t> {
    text: &'t str,
    tokens: Vec<(usize, Token)>,
    next: usize,
    variables: Vec<String>,
    ranges: usize,
    depth: usize,
    defined: BTreeMap<String, Vec<Node>>,
}

/// How a list of nodes ended.
enum Ended {
    Text,
    End,
    Else,
}

/// Deep enough for anybody, shallow enough for the stack: a level takes up to 10 KiB of it where nothing is optimised.
const DEEPEST: usize = 100;

pub(super) fn parse(text: &str) -> Result<Tree, Error> {
    let tokens = Lexer { text, at: 0, tokens: Vec::new(), parens: 0 }.run()?;
    let mut parser = Parser {
        text,
        tokens,
        next: 0,
        variables: vec!["$".to_owned()],
        ranges: 0,
        depth: 0,
        defined: BTreeMap::new(),
    };
    let (root, ended) = parser.list()?;
    match ended {
        Ended::Text => Ok(Tree { text: text.to_owned(), root, defined: parser.defined }),
        Ended::End => parser.fail("unexpected {{end}}"),
        Ended::Else => parser.fail("unexpected {{else}}"),
    }
}

impl Parser<'_> {
    fn fail<T>(&self, why: impl Into<String>) -> Result<T, Error> {
        let at = self.tokens.get(self.next.saturating_sub(1)).map_or(0, |(at, _)| *at);
        Err(Error::Parse { line: line_of(self.text, at), why: why.into() })
    }

    fn peek(&self) -> &Token {
        &self.tokens[self.next.min(self.tokens.len() - 1)].1
    }

    fn at(&self) -> usize {
        self.tokens[self.next.min(self.tokens.len() - 1)].0
    }

    fn take(&mut self) -> Token {
        let token = self.peek().clone();
        self.next += 1;
        token
    }

    fn skip_space(&mut self) {
        while *self.peek() == Token::Space {
            self.next += 1;
        }
    }

    fn deeper(&mut self) -> Result<(), Error> {
        self.depth += 1;
        if self.depth > DEEPEST { self.fail("nested too deeply") } else { Ok(()) }
    }

    fn list(&mut self) -> Result<(Vec<Node>, Ended), Error> {
        let mut nodes = Vec::new();
        loop {
            match self.take() {
                Token::Text(text) => nodes.push(Node::Text(text)),
                Token::End => return Ok((nodes, Ended::Text)),
                Token::Open => {
                    self.skip_space();
                    let word = if let Token::Word(word) = self.peek() { word.clone() } else { String::new() };
                    match word.as_str() {
                        "end" => {
                            self.next += 1;
                            self.close("end")?;
                            return Ok((nodes, Ended::End));
                        }
                        // What follows `else` is read by the one that asked for this list.
                        "else" => {
                            self.next += 1;
                            return Ok((nodes, Ended::Else));
                        }
                        "define" => self.define()?,
                        _ => {
                            self.deeper()?;
                            nodes.push(self.action(&word)?);
                            self.depth -= 1;
                        }
                    }
                }
                other => return self.fail(format!("unexpected {other:?}")),
            }
        }
    }

    fn close(&mut self, context: &str) -> Result<(), Error> {
        self.skip_space();
        match self.take() {
            Token::Close => Ok(()),
            other => self.fail(format!("unexpected {} in {context}", name(&other))),
        }
    }

    fn define(&mut self) -> Result<(), Error> {
        self.next += 1;
        let template = self.template_name("define clause")?;
        self.close("define clause")?;
        let variables = std::mem::replace(&mut self.variables, vec!["$".to_owned()]);
        let ranges = std::mem::take(&mut self.ranges);
        self.deeper()?;
        let (nodes, ended) = self.list()?;
        self.depth -= 1;
        self.variables = variables;
        self.ranges = ranges;
        match ended {
            Ended::End => {
                self.defined.insert(template, nodes);
                Ok(())
            }
            Ended::Else => self.fail("unexpected {{else}} in define clause"),
            Ended::Text => self.fail("unexpected EOF"),
        }
    }

    fn template_name(&mut self, context: &str) -> Result<String, Error> {
        self.skip_space();
        match self.take() {
            Token::Literal(Value::String(name), _) => Ok(name),
            other => self.fail(format!("unexpected {} in {context}", name(&other))),
        }
    }

    fn action(&mut self, word: &str) -> Result<Node, Error> {
        let scope = self.variables.len();
        let node = match word {
            "if" | "with" | "range" => {
                self.next += 1;
                let (pipe, then, other) = self.control(word)?;
                self.variables.truncate(scope);
                match word {
                    "if" => Node::If { pipe, then, other },
                    "with" => Node::With { pipe, then, other },
                    _ => Node::Range { pipe, then, other },
                }
            }
            "break" | "continue" => {
                self.next += 1;
                if self.ranges == 0 {
                    return self.fail(format!("{{{{{word}}}}} outside {{{{range}}}}"));
                }
                self.close(word)?;
                if word == "break" { Node::Break } else { Node::Continue }
            }
            "template" | "block" => {
                self.next += 1;
                self.skip_space();
                let at = self.at();
                let context = if word == "block" { "block clause" } else { "template clause" };
                let template = self.template_name(context)?;
                self.skip_space();
                let pipe = if *self.peek() == Token::Close && word == "template" {
                    self.next += 1;
                    None
                } else {
                    Some(self.pipeline(context, &Token::Close)?)
                };
                let data = pipe.as_ref().map(|pipe| format!(" {}", pipe.show())).unwrap_or_default();
                let shown = format!("{{{{template {template:?}{data}}}}}");
                if word == "block" {
                    let variables = std::mem::replace(&mut self.variables, vec!["$".to_owned()]);
                    let (nodes, ended) = self.list()?;
                    self.variables = variables;
                    if !matches!(ended, Ended::End) {
                        return self.fail("unexpected EOF");
                    }
                    self.defined.entry(template.clone()).or_insert(nodes);
                }
                Node::Template { at, name: template, pipe, shown }
            }
            _ => Node::Action(self.pipeline("command", &Token::Close)?),
        };
        Ok(node)
    }

    fn control(&mut self, word: &str) -> Result<(Pipe, Vec<Node>, Vec<Node>), Error> {
        let pipe = self.pipeline(word, &Token::Close)?;
        if word == "range" {
            self.ranges += 1;
        }
        let (then, ended) = self.list()?;
        if word == "range" {
            self.ranges -= 1;
        }
        let other = match ended {
            Ended::Text => return self.fail("unexpected EOF"),
            Ended::End => Vec::new(),
            Ended::Else => {
                self.skip_space();
                match self.peek().clone() {
                    Token::Word(next) if next == word && word != "range" => {
                        self.deeper()?;
                        let node = self.action(&next)?;
                        self.depth -= 1;
                        vec![node]
                    }
                    _ => {
                        self.close("else")?;
                        let (other, ended) = self.list()?;
                        match ended {
                            Ended::End => other,
                            Ended::Else => return self.fail("expected end; found {{else}}"),
                            Ended::Text => return self.fail("unexpected EOF"),
                        }
                    }
                }
            }
        };
        Ok((pipe, then, other))
    }

    /// Reads `[$x[, $y] :=|=] command [| command]…` up to and with `end`.
    fn pipeline(&mut self, context: &str, end: &Token) -> Result<Pipe, Error> {
        self.skip_space();
        let mut pipe = Pipe { at: self.at(), variables: Vec::new(), assign: false, commands: Vec::new() };
        self.declarations(&mut pipe, context)?;
        let mut piped = false;
        loop {
            self.skip_space();
            let token = self.peek().clone();
            if token == *end {
                self.next += 1;
                break;
            }
            match token {
                Token::Close
                | Token::RightParen
                | Token::Comma
                | Token::Declare
                | Token::Assign
                | Token::End => {
                    self.next += 1;
                    return self.fail(format!("unexpected {} in {context}", name(&token)));
                }
                _ => {
                    let (command, more) = self.command()?;
                    pipe.commands.push(command);
                    piped = more;
                }
            }
        }
        if pipe.commands.is_empty() || piped {
            let what = if piped { "command" } else { context };
            return self.fail(format!("missing value for {what}"));
        }
        for command in &pipe.commands[1..] {
            if !matches!(
                command.operands[0].term,
                Term::Function(_) | Term::Field(_) | Term::Variable(..) | Term::Chain(..)
            ) {
                return self.fail(format!(
                    "non executable command in pipeline stage {}",
                    1 + pipe.commands.iter().position(|c| c.at == command.at).unwrap_or(1)
                ));
            }
        }
        Ok(pipe)
    }

    fn declarations(&mut self, pipe: &mut Pipe, context: &str) -> Result<(), Error> {
        let start = self.next;
        let mut names = Vec::new();
        while let Token::Variable(name) = self.peek().clone() {
            self.next += 1;
            names.push(name);
            self.skip_space();
            match self.peek() {
                Token::Comma if context == "range" && names.len() < 2 => {
                    self.next += 1;
                    self.skip_space();
                }
                Token::Declare | Token::Assign => {
                    pipe.assign = *self.peek() == Token::Assign;
                    self.next += 1;
                    for name in &names {
                        if pipe.assign && !self.variables.contains(name) {
                            return self.fail(format!("undefined variable {name:?}"));
                        }
                    }
                    if !pipe.assign {
                        // Go declares before it reads the value; a value that names it finds the new one.
                        self.variables.extend(names.iter().cloned());
                    }
                    pipe.variables = names;
                    return Ok(());
                }
                _ => break,
            }
        }
        self.next = start;
        Ok(())
    }

    /// Reads one command; answers whether a `|` followed it.
    fn command(&mut self) -> Result<(Command, bool), Error> {
        let mut command = Command { at: self.at(), operands: Vec::new() };
        loop {
            self.skip_space();
            match self.peek().clone() {
                Token::Close | Token::RightParen => return Ok((command, false)),
                Token::Pipe => {
                    if command.operands.is_empty() {
                        self.next += 1;
                        return self.fail("missing value for command");
                    }
                    self.next += 1;
                    return Ok((command, true));
                }
                _ => {
                    let operand = self.operand()?;
                    command.operands.push(operand);
                    // Operands stand apart.
                    match self.peek().clone() {
                        Token::Space | Token::Close | Token::RightParen | Token::Pipe => {}
                        other => {
                            self.next += 1;
                            return self.fail(format!("unexpected {} in operand", name(&other)));
                        }
                    }
                }
            }
        }
    }

    fn operand(&mut self) -> Result<Operand, Error> {
        let at = self.at();
        let term = match self.take() {
            Token::Dot => Term::Dot,
            Token::Field(name) => Term::Field(vec![name]),
            Token::Variable(name) => {
                if !self.variables.contains(&name) {
                    return self.fail(format!("undefined variable {name:?}"));
                }
                Term::Variable(name, Vec::new())
            }
            Token::Literal(value, text) => Term::Literal(value, text),
            Token::Word(word) => match word.as_str() {
                "true" => Term::Literal(Value::Bool(true), word),
                "false" => Term::Literal(Value::Bool(false), word),
                "nil" => Term::Nil,
                _ => match funcs::NAMES.iter().find(|known| **known == word) {
                    Some(known) => Term::Function(known),
                    None => return self.fail(format!("function {word:?} not defined")),
                },
            },
            Token::LeftParen => {
                self.deeper()?;
                let pipe = self.pipeline("parenthesized pipeline", &Token::RightParen)?;
                self.depth -= 1;
                Term::Pipe(Box::new(pipe))
            }
            other => return self.fail(format!("unexpected {} in operand", name(&other))),
        };
        // `.a.b`, `$x.a`, `(…).a`: Go puts such an operand where its second name stands.
        let second = self.at();
        let mut names = Vec::new();
        while let Token::Field(name) = self.peek().clone() {
            self.next += 1;
            names.push(name);
        }
        if names.is_empty() {
            return Ok(Operand { at, term });
        }
        let term = match term {
            Term::Field(mut own) => {
                own.extend(names);
                Term::Field(own)
            }
            Term::Variable(name, _) => Term::Variable(name, names),
            Term::Pipe(pipe) => Term::Chain(pipe, names),
            Term::Dot => Term::Field(names),
            _ => return self.fail(format!("unexpected . after term {:?}", Operand { at, term }.show())),
        };
        Ok(Operand { at: second, term })
    }
}

fn name(token: &Token) -> String {
    match token {
        Token::Open => "\"{{\"".to_owned(),
        Token::Close => "\"}}\"".to_owned(),
        Token::Space => "\" \"".to_owned(),
        Token::Word(word) => format!("<{word}>"),
        Token::Field(word) => format!("<.{word}>"),
        Token::Variable(word) => format!("{word:?}"),
        Token::Dot => "<.>".to_owned(),
        Token::Text(text) | Token::Literal(_, text) => format!("{text:?}"),
        Token::Pipe => "\"|\"".to_owned(),
        Token::LeftParen => "\"(\"".to_owned(),
        Token::RightParen => "\")\"".to_owned(),
        Token::Declare => "\":=\"".to_owned(),
        Token::Assign => "\"=\"".to_owned(),
        Token::Comma => "\",\"".to_owned(),
        Token::End => "EOF".to_owned(),
    }
}
