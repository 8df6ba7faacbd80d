//! Just enough JSON to read our own dashboards: xtask uses nothing but the standard library.

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `null`, `true`, `false`
    Word(String),
    /// A number.
    Number(f64),
    /// A string.
    Text(String),
    /// An array.
    List(Vec<Value>),
    /// An object, in its order.
    Object(Vec<(String, Value)>),
}

impl Value {
    /// The whole text as one value.
    pub fn parse(text: &str) -> Result<Self, String> {
        let chars: Vec<char> = text.chars().collect();
        let mut reader = Reader { chars, at: 0 };
        let value = reader.value()?;
        reader.blank();
        if reader.at == reader.chars.len() { Ok(value) } else { Err(format!("more at {}", reader.at)) }
    }

    /// A member of an object.
    pub fn get(&self, name: &str) -> Option<&Self> {
        match self {
            Self::Object(members) => members.iter().find(|(known, _)| known == name).map(|(_, value)| value),
            _ => None,
        }
    }

    /// A member that is a string.
    pub fn text(&self, name: &str) -> &str {
        match self.get(name) {
            Some(Self::Text(text)) => text,
            _ => "",
        }
    }

    /// A member that is a number.
    pub fn number(&self, name: &str) -> f64 {
        match self.get(name) {
            Some(Self::Number(number)) => *number,
            _ => 0.0,
        }
    }

    /// A member that is an array.
    pub fn list(&self, name: &str) -> &[Self] {
        match self.get(name) {
            Some(Self::List(list)) => list,
            _ => &[],
        }
    }
}

struct Reader {
    chars: Vec<char>,
    at: usize,
}

impl Reader {
    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn blank(&mut self) {
        while self.peek().is_some_and(char::is_whitespace) {
            self.at += 1;
        }
    }

    /// The next character that is not blank, if it is this one.
    fn take(&mut self, wanted: char) -> bool {
        self.blank();
        let found = self.peek() == Some(wanted);
        self.at += usize::from(found);
        found
    }

    fn want(&mut self, wanted: char) -> Result<(), String> {
        if self.take(wanted) { Ok(()) } else { Err(format!("no {wanted:?} at {}", self.at)) }
    }

    fn value(&mut self) -> Result<Value, String> {
        self.blank();
        match self.peek() {
            Some('"') => self.string().map(Value::Text),
            Some('[') => {
                self.at += 1;
                let mut list = Vec::new();
                if self.take(']') {
                    return Ok(Value::List(list));
                }
                loop {
                    list.push(self.value()?);
                    if !self.take(',') {
                        self.want(']')?;
                        return Ok(Value::List(list));
                    }
                }
            }
            Some('{') => {
                self.at += 1;
                let mut members = Vec::new();
                if self.take('}') {
                    return Ok(Value::Object(members));
                }
                loop {
                    self.blank();
                    let name = self.string()?;
                    self.want(':')?;
                    members.push((name, self.value()?));
                    if !self.take(',') {
                        self.want('}')?;
                        return Ok(Value::Object(members));
                    }
                }
            }
            _ => {
                let begin = self.at;
                while self.peek().is_some_and(|c| c.is_ascii_alphanumeric() || "+-.".contains(c)) {
                    self.at += 1;
                }
                let word: String = self.chars[begin..self.at].iter().collect();
                match (word.parse(), word.as_str()) {
                    (_, "null" | "true" | "false") => Ok(Value::Word(word)),
                    (Ok(number), _) => Ok(Value::Number(number)),
                    _ => Err(format!("no value at {begin}")),
                }
            }
        }
    }

    fn string(&mut self) -> Result<String, String> {
        self.want('"')?;
        let mut text = String::new();
        loop {
            let c = self.peek().ok_or("an open string")?;
            self.at += 1;
            match c {
                '"' => return Ok(text),
                '\\' => {
                    let c = self.peek().ok_or("an open string")?;
                    self.at += 1;
                    match c {
                        'n' => text.push('\n'),
                        't' => text.push('\t'),
                        '"' | '\\' | '/' => text.push(c),
                        // The rest is not in what is read here.
                        _ => return Err(format!("\\{c} at {}", self.at)),
                    }
                }
                c => text.push(c),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        let value = Value::parse(r#" {"a": [1, -2.5e1, "x\"\\y"], "b": {}, "c": null, "d": []} "#).unwrap();
        assert_eq!(value.list("a"), [Value::Number(1.0), Value::Number(-25.0), Value::Text("x\"\\y".into())]);
        assert_eq!(value.get("c"), Some(&Value::Word("null".into())));
        for wrong in ["", "{", "[1,]", "\"a", "{\"a\" 1}", "1 2", "\"\\q\"", "nul"] {
            assert!(Value::parse(wrong).is_err(), "{wrong}");
        }
    }
}
