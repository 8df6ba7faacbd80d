//! The functions templates call: Go's and Docker's.

use serde_json::{Number, Value};

use super::exec::{Shape, Val, shape, show};

/// Every function.
pub(super) const NAMES: [&str; 27] = [
    "and", "or", "not", "eq", "ne", "lt", "le", "gt", "ge", "index", "slice", "len", "print", "printf",
    "println", "html", "js", "urlquery", "json", "split", "join", "title", "lower", "upper", "pad",
    "truncate", "call",
];

/// Why a call failed.
pub(super) enum Bad {
    /// An argument is of the wrong type.
    Argument {
        /// Its position.
        at: usize,
        /// Why.
        why: String,
    },
    /// The function itself says so.
    Call(String),
}

/// Docker's own functions, which leave column titles alone.
pub(super) fn is_dockers(name: &str) -> bool {
    matches!(name, "json" | "split" | "join" | "title" | "lower" | "upper" | "pad" | "truncate")
}

/// What `name` wants, when `count` arguments are not it.
pub(super) fn arity(name: &str, count: usize) -> Option<String> {
    let (least, most) = match name {
        "not" | "len" | "json" | "title" | "lower" | "upper" => (1, 1),
        "ne" | "lt" | "le" | "gt" | "ge" | "split" | "join" | "truncate" => (2, 2),
        "pad" => (3, 3),
        "print" | "println" | "html" | "js" | "urlquery" => (0, usize::MAX),
        _ => (1, usize::MAX),
    };
    if (least..=most).contains(&count) {
        None
    } else if most == usize::MAX {
        Some(format!("at least {least}"))
    } else {
        Some(least.to_string())
    }
}

/// A number as Go's `%v` prints it: integers plainly, floats in the shortest form with an exponent from 1e21 on.
pub(super) fn number(number: &Number) -> String {
    if let Some(value) = number.as_i64() {
        return value.to_string();
    }
    if let Some(value) = number.as_u64() {
        return value.to_string();
    }
    let value = number.as_f64().unwrap_or(0.0);
    let magnitude = value.abs();
    if magnitude != 0.0 && !(1e-4..1e21).contains(&magnitude) {
        let text = format!("{value:e}");
        let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let exponent: i32 = exponent.parse().unwrap_or(0);
        return format!("{mantissa}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs());
    }
    format!("{value}")
}

pub(super) fn type_name(val: &Val) -> &'static str {
    match val {
        Val::Missing | Val::Json(Value::Null, _) => "nil",
        Val::Json(Value::Bool(_), _) => "bool",
        Val::Json(Value::Number(number), _) => {
            if number.is_f64() {
                "float64"
            } else {
                "int"
            }
        }
        Val::Json(Value::String(_), _) => "string",
        Val::Json(Value::Array(_), _) => "[]interface {}",
        Val::Json(Value::Object(_), _) => "map[string]interface {}",
    }
}

fn text(arguments: &[Val], at: usize) -> Result<&str, Bad> {
    match &arguments[at] {
        Val::Json(Value::String(text), _) => Ok(text),
        other => Err(Bad::Argument {
            at,
            why: format!("wrong type for value; expected string; got {}", type_name(other)),
        }),
    }
}

fn whole(arguments: &[Val], at: usize) -> Result<i64, Bad> {
    match &arguments[at] {
        Val::Json(Value::Number(number), _) if number.as_i64().is_some() => Ok(number.as_i64().unwrap_or(0)),
        other => Err(Bad::Argument {
            at,
            why: format!("wrong type for value; expected int; got {}", type_name(other)),
        }),
    }
}

/// Calls a function whose number of arguments is right.
pub(super) fn call(name: &str, arguments: &[Val]) -> Result<Val, Bad> {
    let all = || arguments.iter().map(show).collect::<Vec<_>>();
    Ok(match name {
        "not" => Val::plain(!arguments[0].truth()),
        "eq" => {
            if arguments.len() < 2 {
                return Err(Bad::Call("missing argument for comparison".to_owned()));
            }
            let mut equal = false;
            for other in &arguments[1..] {
                equal |= same(&arguments[0], other)?;
            }
            Val::plain(equal)
        }
        "ne" => Val::plain(!same(&arguments[0], &arguments[1])?),
        "lt" => Val::plain(order(arguments)?.is_lt()),
        "le" => Val::plain(order(arguments)?.is_le()),
        "gt" => Val::plain(order(arguments)?.is_gt()),
        "ge" => Val::plain(order(arguments)?.is_ge()),
        "len" => Val::plain(length(&arguments[0])?),
        "index" => index(arguments)?,
        "slice" => slice(arguments)?,
        "print" => Val::plain(print(arguments)),
        "println" => Val::plain(format!("{}\n", all().join(" "))),
        "printf" => Val::plain(printf(text(arguments, 0)?, &arguments[1..])),
        "html" => Val::plain(html(&print(arguments))),
        "js" => Val::plain(js(&print(arguments))),
        "urlquery" => Val::plain(urlquery(&print(arguments))),
        "json" => match &arguments[0] {
            Val::Missing => Val::plain("null"),
            Val::Json(value, of) => Val::plain(json(value, *of, "")),
        },
        "split" => {
            let separator = text(arguments, 1)?;
            let source = text(arguments, 0)?;
            let parts: Vec<Value> = if separator.is_empty() {
                source.chars().map(|c| Value::from(c.to_string())).collect()
            } else {
                source.split(separator).map(Value::from).collect()
            };
            Val::plain(parts)
        }
        "join" => match &arguments[0] {
            Val::Json(Value::Array(items), _) => {
                let words: Vec<String> = items.iter().map(|item| show(&Val::plain(item.clone()))).collect();
                Val::plain(words.join(text(arguments, 1)?))
            }
            Val::Json(Value::Null, _) => Val::plain(""),
            other => {
                let why = format!("wrong type for value; expected []string; got {}", type_name(other));
                return Err(Bad::Argument { at: 0, why });
            }
        },
        "title" => {
            let mut start = true;
            let title = text(arguments, 0)?.chars().map(|c| {
                let upper = if start { c.to_uppercase().next().unwrap_or(c) } else { c };
                start = !(c.is_alphanumeric() || c == '_' || c == '\'');
                upper
            });
            Val::plain(title.collect::<String>())
        }
        "lower" => Val::plain(text(arguments, 0)?.to_lowercase()),
        "upper" => Val::plain(text(arguments, 0)?.to_uppercase()),
        "pad" => {
            let source = text(arguments, 0)?;
            let pad = |at| whole(arguments, at).map(|n| " ".repeat(n.clamp(0, 4096) as usize));
            Val::plain(if source.is_empty() {
                String::new()
            } else {
                format!("{}{source}{}", pad(1)?, pad(2)?)
            })
        }
        "truncate" => {
            let most = whole(arguments, 1)?.max(0) as usize;
            Val::plain(text(arguments, 0)?.chars().take(most).collect::<String>())
        }
        _ => return Err(Bad::Call("not supported".to_owned())),
    })
}

/// Compact JSON, maps in the order of their keys, without the fields that only functions see.
fn json(value: &Value, of: Shape, key: &str) -> String {
    match value {
        Value::Object(fields) => {
            let mut all: Vec<_> = fields.iter().filter(|(name, _)| !name.starts_with('_')).collect();
            if of == Shape::Map {
                all.sort_by_key(|(name, _)| *name);
            }
            let all: Vec<String> = all
                .into_iter()
                .map(|(name, value)| {
                    let of = if of == Shape::Map { Shape::Plain } else { shape(key, name) };
                    format!("{}:{}", Value::from(name.as_str()), json(value, of, name))
                })
                .collect();
            format!("{{{}}}", all.join(","))
        }
        Value::Array(items) => {
            let all: Vec<String> = items.iter().map(|item| json(item, Shape::Plain, key)).collect();
            format!("[{}]", all.join(","))
        }
        other => other.to_string(),
    }
}

fn same(left: &Val, right: &Val) -> Result<bool, Bad> {
    let null = |val: &Val| matches!(val, Val::Missing | Val::Json(Value::Null, _));
    if null(left) || null(right) {
        return Ok(null(left) && null(right));
    }
    match (left, right) {
        (Val::Json(Value::Array(_) | Value::Object(_), _), _)
        | (_, Val::Json(Value::Array(_) | Value::Object(_), _)) => {
            Err(Bad::Call("non-comparable type".to_owned()))
        }
        _ if type_name(left) != type_name(right) => {
            Err(Bad::Call("incompatible types for comparison".to_owned()))
        }
        (Val::Json(left, _), Val::Json(right, _)) => Ok(left == right),
        _ => Ok(false),
    }
}

fn order(arguments: &[Val]) -> Result<std::cmp::Ordering, Bad> {
    let incompatible = || Bad::Call("incompatible types for comparison".to_owned());
    match (&arguments[0], &arguments[1]) {
        (left, right) if type_name(left) != type_name(right) => Err(incompatible()),
        (Val::Json(Value::String(left), _), Val::Json(Value::String(right), _)) => Ok(left.cmp(right)),
        (Val::Json(Value::Number(left), _), Val::Json(Value::Number(right), _)) => {
            match (left.as_i64(), right.as_i64()) {
                (Some(left), Some(right)) => Ok(left.cmp(&right)),
                _ => left.as_f64().partial_cmp(&right.as_f64()).ok_or_else(incompatible),
            }
        }
        _ => Err(Bad::Call("invalid type for comparison".to_owned())),
    }
}

fn length(val: &Val) -> Result<usize, Bad> {
    match val {
        Val::Json(Value::String(text), _) => Ok(text.len()),
        Val::Json(Value::Array(items), _) => Ok(items.len()),
        Val::Json(Value::Object(fields), _) => Ok(fields.len()),
        Val::Json(Value::Null, Shape::Plain | Shape::Map) => Ok(0),
        Val::Missing | Val::Json(Value::Null, _) => Err(Bad::Call("len of nil pointer".to_owned())),
        other @ Val::Json(..) => Err(Bad::Call(format!("len of type {}", type_name(other)))),
    }
}

fn position(at: &Val, length: usize) -> Result<usize, Bad> {
    let Val::Json(Value::Number(number), _) = at else {
        return Err(Bad::Call(format!("cannot index slice/array with type {}", type_name(at))));
    };
    let at = number.as_i64().unwrap_or(-1);
    usize::try_from(at)
        .ok()
        .filter(|at| *at < length)
        .ok_or_else(|| Bad::Call(format!("index out of range: {at}")))
}

fn index(arguments: &[Val]) -> Result<Val, Bad> {
    let mut value = arguments[0].clone();
    for at in &arguments[1..] {
        value = match &value {
            Val::Missing => return Err(Bad::Call("index of untyped nil".to_owned())),
            Val::Json(Value::Null, Shape::Map) => Val::plain(""),
            Val::Json(Value::Null, _) => {
                position(at, 0)?;
                Val::Missing
            }
            Val::Json(Value::Array(items), _) => Val::plain(items[position(at, items.len())?].clone()),
            Val::Json(Value::String(text), _) => {
                let byte = text.as_bytes().get(position(at, text.len())?).copied();
                Val::plain(byte.unwrap_or(0))
            }
            Val::Json(Value::Object(fields), _) => {
                let Val::Json(Value::String(key), _) = at else {
                    return Err(Bad::Call(format!("value has type {}; should be string", type_name(at))));
                };
                match fields.get(key) {
                    Some(value) => Val::plain(value.clone()),
                    // The zero value of what the map holds.
                    None if fields.values().any(|v| v.is_array() || v.is_object() || v.is_null()) => {
                        Val::plain(Value::Null)
                    }
                    None => Val::plain(""),
                }
            }
            other @ Val::Json(..) => {
                return Err(Bad::Call(format!("can't index item of type {}", type_name(other))));
            }
        };
    }
    Ok(value)
}

fn slice(arguments: &[Val]) -> Result<Val, Bad> {
    let length = match &arguments[0] {
        Val::Json(Value::String(_) | Value::Array(_), _) => length(&arguments[0])?,
        other => return Err(Bad::Call(format!("can't slice item of type {}", type_name(other)))),
    };
    if arguments.len() > 3 {
        return Err(Bad::Call(format!("too many slice indexes: {}", arguments.len() - 1)));
    }
    let bound = |at: usize, default: usize| match arguments.get(at) {
        None => Ok(default),
        Some(val) => position(val, length + 1),
    };
    let (from, to) = (bound(1, 0)?, bound(2, length)?);
    if from > to {
        return Err(Bad::Call(format!("invalid slice index: {from} > {to}")));
    }
    Ok(match &arguments[0] {
        Val::Json(Value::Array(items), _) => Val::plain(items[from..to].to_vec()),
        Val::Json(Value::String(text), _) => {
            Val::plain(String::from_utf8_lossy(&text.as_bytes()[from..to]).into_owned())
        }
        _ => Val::Missing,
    })
}

/// Go's `Sprint`: a space between two operands when neither is a string.
fn print(arguments: &[Val]) -> String {
    let mut out = String::new();
    let is_text = |val: &Val| matches!(val, Val::Json(Value::String(_), _));
    for (at, argument) in arguments.iter().enumerate() {
        if at > 0 && !is_text(&arguments[at - 1]) && !is_text(argument) {
            out.push(' ');
        }
        out.push_str(&show(argument));
    }
    out
}

fn printf(format: &str, arguments: &[Val]) -> String {
    let mut out = String::new();
    let mut next = 0;
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let (mut left, mut zero, mut plus, mut alternate) = (false, false, false, false);
        while let Some(flag) = chars.next_if(|c| "-0+# ".contains(*c)) {
            match flag {
                '-' => left = true,
                '0' => zero = true,
                '+' => plus = true,
                '#' => alternate = true,
                _ => {}
            }
        }
        let digits = |chars: &mut std::iter::Peekable<std::str::Chars<'_>>| {
            let mut text = String::new();
            while let Some(digit) = chars.next_if(char::is_ascii_digit) {
                text.push(digit);
            }
            text.parse::<usize>().ok().map(|n| n.min(4096))
        };
        let width = digits(&mut chars).unwrap_or(0);
        let precision = chars.next_if_eq(&'.').map(|_| digits(&mut chars).unwrap_or(0));
        let Some(verb) = chars.next() else {
            out.push_str("%!(NOVERB)");
            break;
        };
        if verb == '%' {
            out.push('%');
            continue;
        }
        let Some(argument) = arguments.get(next) else {
            out.push_str(&format!("%!{verb}(MISSING)"));
            continue;
        };
        next += 1;
        let text = one(verb, argument, precision, plus, alternate);
        let missing = width.saturating_sub(text.chars().count());
        if left {
            out.push_str(&text);
            out.push_str(&" ".repeat(missing));
        } else if zero && matches!(argument, Val::Json(Value::Number(_), _)) {
            let (sign, digits) = match text.as_bytes().first() {
                Some(b'-' | b'+') => text.split_at(1),
                _ => ("", text.as_str()),
            };
            out.push_str(sign);
            out.push_str(&"0".repeat(missing));
            out.push_str(digits);
        } else {
            out.push_str(&" ".repeat(missing));
            out.push_str(&text);
        }
    }
    if next < arguments.len() {
        let extra: Vec<String> =
            arguments[next..].iter().map(|val| format!("{}={}", type_name(val), show(val))).collect();
        out.push_str(&format!("%!(EXTRA {})", extra.join(", ")));
    }
    out
}

/// One verb of a format on one argument.
fn one(verb: char, argument: &Val, precision: Option<usize>, plus: bool, alternate: bool) -> String {
    let bad = || format!("%!{verb}({}={})", type_name(argument), show(argument));
    let sign = |text: String| if plus && !text.starts_with('-') { format!("+{text}") } else { text };
    match (verb, argument) {
        ('v', Val::Json(Value::Number(_), _)) => sign(show(argument)),
        ('T', _) => type_name(argument).to_owned(),
        ('v', _) => show(argument),
        ('s', Val::Json(Value::Number(_) | Value::Bool(_), _)) => bad(),
        ('s', _) => {
            let text = show(argument);
            precision.map_or_else(|| text.clone(), |most| text.chars().take(most).collect())
        }
        ('q', Val::Json(Value::String(text), _)) => format!("{text:?}"),
        ('q', Val::Json(Value::Array(items), _)) => {
            let quoted: Vec<String> =
                items.iter().map(|item| one('q', &Val::plain(item.clone()), None, false, false)).collect();
            format!("[{}]", quoted.join(" "))
        }
        ('t', Val::Json(Value::Bool(value), _)) => value.to_string(),
        ('x' | 'X', Val::Json(Value::String(text), _)) => {
            let hex: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
            if verb == 'X' { hex.to_uppercase() } else { hex }
        }
        (_, Val::Json(Value::Number(number), _)) => match (verb, number.as_i64(), number.as_f64()) {
            ('d', Some(value), _) => sign(value.to_string()),
            ('x', Some(value), _) => {
                format!(
                    "{}{}{:x}",
                    if value < 0 { "-" } else { "" },
                    if alternate { "0x" } else { "" },
                    value.unsigned_abs()
                )
            }
            ('X', Some(value), _) => {
                format!("{}{:X}", if value < 0 { "-" } else { "" }, value.unsigned_abs())
            }
            ('o', Some(value), _) => {
                format!("{}{:o}", if value < 0 { "-" } else { "" }, value.unsigned_abs())
            }
            ('b', Some(value), _) => {
                format!("{}{:b}", if value < 0 { "-" } else { "" }, value.unsigned_abs())
            }
            ('c', Some(value), _) => {
                u32::try_from(value).ok().and_then(char::from_u32).unwrap_or('\u{fffd}').to_string()
            }
            ('f' | 'F', _, Some(value)) if number.is_f64() => {
                sign(format!("{value:.*}", precision.unwrap_or(6)))
            }
            ('g' | 'G', _, Some(_)) if number.is_f64() => show(argument),
            ('e', _, Some(value)) if number.is_f64() => {
                let text = format!("{value:.*e}", precision.unwrap_or(6));
                let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
                let exponent: i32 = exponent.parse().unwrap_or(0);
                format!("{mantissa}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
            }
            _ => bad(),
        },
        _ => bad(),
    }
}

fn html(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\0' => out.push('\u{fffd}'),
            other => out.push(other),
        }
    }
    out
}

fn js(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\'' => out.push_str("\\'"),
            '"' => out.push_str("\\\""),
            '<' | '>' | '&' | '=' => out.push_str(&format!("\\u{:04X}", c as u32)),
            c if (c as u32) < 0x20 => out.push_str(&format!("\\u{:04X}", c as u32)),
            other => out.push(other),
        }
    }
    out
}

fn urlquery(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            b' ' => out.push('+'),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}
