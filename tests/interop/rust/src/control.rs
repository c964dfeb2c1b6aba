//! The control protocol that every interoperability peer speaks, whatever its language: one JSON object a line.
//!
//! Commands come in on stdin as {"id": n, "cmd": name, ...} and run concurrently; each is answered once on stdout with
//! {"id": n, "ok": true, ...} or {"id": n, "ok": false, "error": text}. Everything else on stdout is {"event": name, ...}.
//! The process ends when stdin does. Logs go to stderr.

use std::error::Error;
use std::io::Write;

use serde_json::{Map, Value, json};

pub type Failure = Box<dyn Error + Send + Sync>;
pub type Outcome = Result<Value, Failure>;

/// One line of stdin, its arguments read by name.
pub struct Command {
    pub id: Value,
    pub name: String,
    arguments: Map<String, Value>,
}

impl Command {
    pub fn parse(line: &str) -> Result<Self, Failure> {
        let arguments: Map<String, Value> = serde_json::from_str(line)?;
        let id = arguments.get("id").cloned().unwrap_or(Value::Null);
        let name = arguments.get("cmd").and_then(Value::as_str).ok_or("no \"cmd\"")?.to_owned();
        Ok(Self { id, name, arguments })
    }

    pub fn text(&self, name: &str) -> Result<&str, Failure> {
        self.arguments
            .get(name)
            .and_then(Value::as_str)
            .ok_or_else(|| format!("{} needs the text {name:?}", self.name).into())
    }

    pub fn number(&self, name: &str) -> u64 {
        self.arguments.get(name).and_then(Value::as_u64).unwrap_or(0)
    }

    pub fn seconds(&self, name: &str) -> Option<f64> {
        self.arguments.get(name).and_then(Value::as_f64)
    }
}

fn print_line(line: &Value) {
    let mut out = std::io::stdout().lock();
    // Nobody is left to tell when stdout is gone; stdin ends with it.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

pub fn emit(event: &str, fields: Value) {
    print_line(&merged(json!({ "event": event }), fields));
}

pub fn answer(id: &Value, outcome: Outcome) {
    print_line(&match outcome {
        Ok(fields) => merged(json!({ "id": id, "ok": true }), fields),
        Err(error) => json!({ "id": id, "ok": false, "error": describe(&*error) }),
    });
}

/// An error's text and those of its causes in one line.
pub fn describe(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(one) = cause {
        // Many of the library's errors print their cause already.
        let more = one.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = one.source();
    }
    text
}

fn merged(mut base: Value, fields: Value) -> Value {
    if let (Value::Object(base), Value::Object(fields)) = (&mut base, fields) {
        base.extend(fields);
    }
    base
}
